//! Which lineage, which history, and from which bases to look for the target.

use holdfast_proto::names::{BackupId, Lineage, Region};
use holdfast_proto::pg::{Lsn, TimelineId};

use super::coverage::{Path, segment_start};
use super::facts::{BaseFact, Facts, LineageFacts, Place};
use super::impossible::{Impossible, Reason};
use super::intervals::run_of;
use super::planner::refuse;
use super::request::{Request, Target, TimelineChoice};

/// A base from which the target may be reachable. Whoever gathers facts looks
/// for the target from each in turn, until [`Candidate::leads_to`] says yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The lineage.
    pub lineage: Lineage,
    /// The history to follow.
    pub path: Path,
    /// The base.
    pub base: BackupId,
    /// Where its replay begins.
    pub start_lsn: Lsn,
    /// Where it becomes consistent.
    pub stop_lsn: Lsn,
    /// First byte of the WAL that it needs.
    pub from: Lsn,
    /// First byte that is missing behind it.
    pub until: Lsn,
}

impl Candidate {
    /// Whether a target at `place` is reached from this base: it must not lie
    /// before the base is consistent.
    pub fn leads_to(&self, place: &Place) -> bool {
        match place {
            Place::Before { stop, .. } => stop.lsn >= self.stop_lsn && stop.lsn < self.until,
            Place::Behind { lsn, end, .. } => *lsn >= self.stop_lsn && *end <= self.until,
            Place::End { .. } | Place::Within { .. } => self.until >= self.stop_lsn,
            Place::Several { .. } | Place::Nowhere { .. } => false,
        }
    }
}

/// The bases to look from, the most promising first.
///
/// # Errors
/// Nothing can be looked from at all, with the reason.
pub fn candidates(facts: &Facts, request: &Request) -> Result<Vec<Candidate>, Impossible> {
    let lineage = choose_lineage(facts, request).map_err(|r| refuse(facts, request, r))?;
    let path = choose_path(lineage, request).map_err(|r| refuse(facts, request, r))?;
    Ok(bases_on(lineage, &path, request)
        .into_iter()
        .filter_map(|b| candidate(lineage, &path, b))
        .collect())
}

pub(super) fn choose_lineage<'a>(facts: &'a Facts, request: &Request) -> Result<&'a LineageFacts, Reason> {
    let with_base: Vec<_> = facts
        .newest_first()
        .into_iter()
        .filter(|l| !l.bases.is_empty())
        .collect();
    if let Some(wanted) = request.lineage {
        return with_base
            .iter()
            .find(|l| l.lineage == wanted)
            .copied()
            .ok_or_else(|| Reason::NoSuchLineage {
                lineage: wanted,
                known: with_base.iter().map(|l| l.lineage).collect(),
            });
    }
    let began_before = |l: &&&LineageFacts| match &request.target {
        Target::Time(t) => l.bases.iter().any(|b| b.started <= *t),
        _ => true,
    };
    with_base
        .iter()
        .find(began_before)
        .or(with_base.last())
        .copied()
        .ok_or_else(|| no_base(facts))
}

pub(super) fn choose_path(lineage: &LineageFacts, request: &Request) -> Result<Path, Reason> {
    let known = || lineage.timelines.iter().map(|t| t.timeline).collect::<Vec<_>>();
    let timeline = match request.timeline {
        TimelineChoice::Latest => lineage.latest_timeline().unwrap_or(TimelineId::FIRST),
        TimelineChoice::Id(id) => id,
    };
    if lineage.timeline(timeline).is_none() {
        return Err(Reason::NoSuchTimeline {
            timeline,
            known: known(),
        });
    }
    Path::to(lineage, timeline).ok_or(Reason::NoHistory { timeline })
}

/// The bases on the path that are complete before the target, latest first.
pub(super) fn bases_on<'a>(lineage: &'a LineageFacts, path: &Path, request: &Request) -> Vec<&'a BaseFact> {
    let mut bases: Vec<_> = lineage
        .bases
        .iter()
        .filter(|b| path.contains(b.timeline, b.stop_lsn))
        .filter(|b| request.base.is_none_or(|id| id == b.id))
        .filter(|b| match &request.target {
            Target::Time(t) => b.stopped <= *t,
            Target::Lsn(lsn) => b.stop_lsn <= *lsn,
            Target::Name(_) | Target::Xid(_) | Target::Latest => true,
        })
        .collect();
    bases.sort_by_key(|b| std::cmp::Reverse((b.stop_lsn, b.id)));
    bases
}

pub(super) fn candidate(lineage: &LineageFacts, path: &Path, base: &BaseFact) -> Option<Candidate> {
    let run = run_of(path, lineage, base.id)?;
    Some(Candidate {
        lineage: lineage.lineage,
        path: path.clone(),
        base: base.id,
        start_lsn: base.start_lsn,
        stop_lsn: base.stop_lsn,
        from: segment_start(base.segment_size, base.start_lsn),
        until: run.end,
    })
}

pub(super) fn no_base(facts: &Facts) -> Reason {
    Reason::NoBase {
        cluster: facts.cluster.clone(),
        unreachable: unreachable(facts),
    }
}

pub(super) fn unreachable(facts: &Facts) -> Vec<Region> {
    facts.unreachable().map(|r| r.region.clone()).collect()
}
