//! The restorable moments of a cluster, and what interrupts them.
//!
//! An interval begins where a base backup becomes consistent and ends where the
//! WAL that follows it without a hole ends. A base whose own WAL is not there
//! restores nothing, and is named with the reason.

use std::fmt;

use serde::{Deserialize, Serialize};

use holdfast_proto::Timestamp;
use holdfast_proto::names::{BackupId, Lineage, PointId};
use holdfast_proto::pg::{Lsn, TimelineId};
use holdfast_proto::record::AfterGap;

use super::coverage::{Gap, Path, segment_start};
use super::facts::{Facts, GapNote, LineageFacts, WalSpan};

/// A place in a lineage, with the time it stands for where that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The lineage.
    pub lineage: Lineage,
    /// The timeline that leads there.
    pub timeline: TimelineId,
    /// The position.
    pub lsn: Lsn,
    /// The time.
    pub time: Option<Timestamp>,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.time {
            Some(t) => write!(f, "{t} (LSN {}, timeline {})", self.lsn, self.timeline),
            None => write!(f, "LSN {} on timeline {}", self.lsn, self.timeline),
        }
    }
}

/// Every moment from `from` to `to` can be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    /// The first moment.
    pub from: Moment,
    /// The last moment.
    pub to: Moment,
    /// An agent attested that nothing had been committed beyond `to.lsn` by
    /// `to.time`; otherwise `to.time` is that of the last transaction known.
    pub attested: bool,
    /// The bases in it, oldest first.
    pub bases: Vec<BackupId>,
    /// The joint points in it, oldest first.
    pub points: Vec<PointId>,
}

/// A base backup from which nothing can be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// The base.
    pub base: BackupId,
    /// Its lineage.
    pub lineage: Lineage,
    /// Why.
    pub why: String,
}

/// The answer to `holdfast points`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restorable {
    /// The restorable intervals, by lineage, timeline and position.
    pub intervals: Vec<Interval>,
    /// The holes in the WAL behind the first base of each lineage.
    pub gaps: Vec<LineageGap>,
    /// Bases from which nothing can be restored.
    pub broken: Vec<Broken>,
}

/// A hole, with its lineage and what is known of its cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineageGap {
    /// The lineage.
    pub lineage: Lineage,
    /// The hole.
    #[serde(flatten)]
    pub gap: Gap,
    /// What is known of the cause.
    pub cause: String,
    /// What the agent said that went on behind it, if it noticed it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub noted: Option<AfterGap>,
    /// The first moment behind it that can be restored, from a base that was taken there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub again: Option<Moment>,
}

/// The first moment behind a hole of `lineage` that can be restored: a base backup was
/// taken there, on the hole's timeline or on one that follows.
fn again_behind(intervals: &[Interval], lineage: Lineage, gap: &Gap) -> Option<Moment> {
    let behind =
        |i: &&Interval| i.to.lineage == lineage && i.from.lsn >= gap.to && i.to.timeline >= gap.timeline;
    let starts = intervals.iter().filter(behind).map(|i| i.from);
    starts.min_by_key(|from| (from.lsn, from.timeline))
}

/// Finds every restorable interval. An ancestor timeline is listed only for
/// what its descendants do not include.
pub fn restorable(facts: &Facts) -> Restorable {
    let mut all = Restorable::default();
    let away: Vec<_> = facts
        .unreachable()
        .map(|r| r.region.as_str().to_owned())
        .collect();
    let cause = |noted: Option<AfterGap>| {
        let stored = match (away.is_empty(), noted) {
            (true, Some(noted)) => return format!("{} (noticed {})", noted.cause.words(), noted.noticed),
            (true, None) => {
                return "no replica holds it, and no agent said why: objects may have been lost".to_owned();
            }
            (false, _) => "no replica that answered holds it",
        };
        let said = noted.map_or_else(String::new, |noted| format!("; {}", noted.cause.words()));
        format!("{stored}; {} did not answer{said}", away.join(", "))
    };
    for lineage in &facts.lineages {
        let mut seen_gaps: Vec<Gap> = Vec::new();
        let mut used: Vec<BackupId> = Vec::new();
        for timeline in lineage.timelines.iter().map(|t| t.timeline) {
            let Some(path) = Path::to(lineage, timeline) else {
                continue;
            };
            let own = intervals_of(lineage, &path);
            used.extend(own.iter().flat_map(|i| i.bases.iter().copied()));
            all.intervals
                .extend(own.into_iter().filter(|i| !continued(lineage, i)));
            let first = lineage.bases.iter().map(|b| b.start_lsn).min();
            for gap in path.gaps() {
                if first.is_some_and(|f| gap.to > f) && !seen_gaps.contains(&gap) {
                    seen_gaps.push(gap);
                }
            }
        }
        seen_gaps.sort_by_key(|g| (g.timeline, g.from));
        all.gaps.extend(seen_gaps.into_iter().map(|mut gap| {
            let noted = said_of(lineage, &gap);
            let again = again_behind(&all.intervals, lineage.lineage, &gap);
            // What is missing was written before it was missed, and before a base backup
            // that began behind it was complete.
            let later = [gap.before, noted.map(|n| n.noticed), again.and_then(|m| m.time)];
            gap.before = later.into_iter().flatten().min();
            LineageGap {
                lineage: lineage.lineage,
                gap,
                cause: cause(noted),
                noted,
                again,
            }
        }));
        for base in lineage.bases.iter().filter(|b| !used.contains(&b.id)) {
            let why = why_broken(lineage, base.timeline, base.start_lsn, base.stop_lsn);
            all.broken.push(Broken {
                base: base.id,
                lineage: lineage.lineage,
                why,
            });
        }
    }
    all
}

/// What was said by the agent that stored the WAL behind a hole. What it missed may
/// have turned up in part: what is said of a larger hole holds for what is left.
fn said_of(lineage: &LineageFacts, gap: &Gap) -> Option<AfterGap> {
    let about = |n: &&GapNote| n.timeline >= gap.timeline && n.to == gap.to && n.said.from <= gap.from;
    lineage.gap_notes.iter().find(about).map(|note| note.said)
}

/// The run of WAL that a base needs, when it is there: from the beginning of
/// the segment in which replay begins to at least where the base is consistent.
pub(super) fn run_of<'a>(path: &'a Path, lineage: &LineageFacts, base: BackupId) -> Option<&'a WalSpan> {
    let base = lineage.bases.iter().find(|b| b.id == base)?;
    let run = path.covering(segment_start(base.segment_size, base.start_lsn))?;
    (run.end >= base.stop_lsn).then_some(run)
}

pub(super) fn intervals_of(lineage: &LineageFacts, path: &Path) -> Vec<Interval> {
    let mut found: Vec<Interval> = Vec::new();
    let mut bases: Vec<_> = lineage
        .bases
        .iter()
        .filter(|b| path.contains(b.timeline, b.stop_lsn))
        .collect();
    bases.sort_by_key(|b| (b.stop_lsn, b.id));
    for base in bases {
        let Some(run) = run_of(path, lineage, base.id) else {
            continue;
        };
        if let Some(interval) = found.iter_mut().find(|i| i.to.lsn == run.end) {
            interval.bases.push(base.id);
            continue;
        }
        let attested = attested_until(lineage, path, run);
        let moment = |lsn, time| Moment {
            lineage: lineage.lineage,
            timeline: path.timeline,
            lsn,
            time,
        };
        let mut points: Vec<_> = lineage
            .points
            .iter()
            .filter(|p| path.contains(p.timeline, p.lsn) && p.lsn >= base.stop_lsn && p.lsn <= run.end)
            .collect();
        points.sort_by_key(|p| (p.lsn, p.id));
        found.push(Interval {
            from: moment(base.stop_lsn, Some(base.stopped)),
            // Nothing is known to have happened since the base was complete.
            to: moment(
                run.end,
                attested.max(run.last_commit).filter(|to| *to >= base.stopped),
            ),
            attested: attested >= run.last_commit && attested.is_some(),
            bases: vec![base.id],
            points: points.into_iter().map(|p| p.id).collect(),
        });
    }
    found
}

/// The latest moment of which an agent attested that everything committed by then was
/// acknowledged, and lies within `run`.
///
/// Where the run ends in a hole, what counts was said on the timeline that it ends on.
/// Otherwise it is the path's own: an old primary that nobody writes to any more says
/// nothing of what its successor commits.
pub(super) fn attested_until(lineage: &LineageFacts, path: &Path, run: &WalSpan) -> Option<Timestamp> {
    let last_run = path.wal.last().is_some_and(|last| last.end == run.end);
    let timeline = if last_run {
        path.timeline
    } else {
        path.owner(Lsn::new(run.end.get().saturating_sub(1)))
    };
    lineage
        .attested
        .iter()
        .filter(|a| a.timeline == timeline && a.acknowledged <= run.end && a.acknowledged >= run.start)
        .filter_map(|a| a.complete_until)
        .max()
}

/// Whether a descendant's interval tells all of this one.
fn continued(lineage: &LineageFacts, interval: &Interval) -> bool {
    lineage.timelines.iter().any(|t| {
        t.timeline > interval.to.timeline
            && t.ancestors.as_ref().is_some_and(|ancestors| {
                ancestors
                    .iter()
                    .any(|s| s.timeline == interval.to.timeline && interval.to.lsn <= s.end)
            })
    })
}

fn why_broken(lineage: &LineageFacts, timeline: TimelineId, start: Lsn, stop: Lsn) -> String {
    let Some(path) = Path::to(lineage, timeline) else {
        return format!("the history of timeline {timeline} is missing");
    };
    let begin = lineage
        .segment_size()
        .map_or(start, |size| segment_start(size, start));
    match path.covering(begin) {
        None => format!("the WAL from {begin} on, in which its replay begins, is missing"),
        Some(run) => format!(
            "its WAL ends at {}, before {stop}, where it becomes consistent",
            run.end
        ),
    }
}
