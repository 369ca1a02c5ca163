//! What `holdfast points` prints.

use std::fmt;

use holdfast_plan::restore::{LineageFacts, PointFact, ReplicaFact, Restorable};
use holdfast_plan::rto::{Amounts, Forecast};
use holdfast_proto::Timestamp;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::{ClusterId, Lineage};
use holdfast_proto::pg::{Lsn, TimelineId};
use holdfast_repository::hold::Hold;
use serde::Serialize;

use super::{Holding, NamedPoint};

/// The answer to `holdfast points`: serialisable, and printable for people.
#[derive(Debug, Clone, Serialize)]
pub struct PointsReport {
    /// The cluster.
    pub cluster: ClusterId,
    /// Every replica, and whether it answered.
    pub replicas: Vec<ReplicaFact>,
    /// The restorable intervals and what interrupts them.
    #[serde(flatten)]
    pub restorable: Restorable,
    /// Where histories part, when there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forks: Vec<Fork>,
    /// Joint points of database and filestores.
    pub points: Vec<PointFact>,
    /// Restore points that people named, when they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub named: Option<Vec<NamedPoint>>,
    /// How many objects the WAL is in: each has a header to be read for those names.
    pub wal_objects: usize,
    /// What must stay restorable, whatever retention says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<Held>,
    /// What a restore to the last moment has to move.
    pub amounts: Option<Amounts>,
    /// How long that would take by what recoveries of the cluster took so far, where the
    /// evidence log was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forecast: Option<Forecast>,
    /// What each replica holds of the WAL by itself.
    pub holdings: Vec<Holding>,
    /// What departed from what should be.
    pub findings: Vec<Finding>,
}

/// A stretch of time that is held.
#[derive(Debug, Clone, Serialize)]
pub struct Held {
    /// What is held, by whom and why.
    #[serde(flatten)]
    pub hold: Hold,
    /// What of it cannot be restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lacking: Option<String>,
}

/// A timeline that another one was left for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fork {
    /// The lineage.
    pub lineage: Lineage,
    /// The timeline that began.
    pub timeline: TimelineId,
    /// The one before it.
    pub parent: TimelineId,
    /// Where.
    pub at: Lsn,
    /// Whether it is the newest of its lineage: what a restore follows unasked.
    pub newest: bool,
}

impl Fork {
    /// Those of a lineage.
    pub fn of(lineage: &LineageFacts) -> Vec<Self> {
        let newest = lineage.latest_timeline();
        let forks = lineage.timelines.iter().filter_map(|begun| {
            let from = begun.ancestors.as_ref()?.last()?;
            Some(Self {
                lineage: lineage.lineage,
                timeline: begun.timeline,
                parent: from.timeline,
                at: from.end,
                newest: newest == Some(begun.timeline),
            })
        });
        forks.collect()
    }
}

impl PointsReport {
    /// What keeps moments from being restored, as findings: holes in the WAL, bases
    /// that are of no use, and that there is nothing at all.
    pub fn departures(&self, now: Timestamp) -> Vec<Finding> {
        let critical = |name: &str, subject: String, detail: String| Finding {
            name: name.to_owned(),
            subject,
            severity: Severity::Critical,
            detail,
            since: now,
        };
        let holes = self.restorable.gaps.iter().map(|hole| {
            let covered = hole.again.is_some();
            let then = if covered {
                "What was committed in between is lost; moments behind it are restored by a base backup that was taken since"
            } else {
                "Moments behind it need a base backup that is taken behind it, and there is none"
            };
            let finding = critical(
                "wal-gap",
                format!("{} {} timeline {}", self.cluster, hole.lineage, hole.gap.timeline),
                format!(
                    "WAL from {} to {} is missing: {}. {then}",
                    hole.gap.from, hole.gap.to, hole.cause
                ),
            );
            // What is past was said when it happened.
            let severity = if covered { Severity::Info } else { finding.severity };
            Finding { severity, ..finding }
        });
        let broken = self.restorable.broken.iter().map(|broken| {
            critical(
                "base-unusable",
                format!("{} {} base {}", self.cluster, broken.lineage, broken.base),
                format!("nothing can be restored from it: {}", broken.why),
            )
        });
        let mut all: Vec<Finding> = holes.chain(broken).collect();
        if self.restorable.intervals.is_empty() {
            all.push(critical(
                "nothing-restorable",
                self.cluster.to_string(),
                "no base backup with its WAL is in the repository".to_owned(),
            ));
        }
        all
    }
}

impl PointsReport {
    /// Takes in what is held, and says what of it cannot be restored.
    pub fn hold(&mut self, holds: impl IntoIterator<Item = Hold>) {
        let held = |hold: Hold| Held {
            lacking: self.lacking(hold.body.from, hold.body.to),
            hold,
        };
        self.holds = holds.into_iter().map(held).collect();
    }

    /// What of a stretch of time cannot be restored.
    fn lacking(&self, from: Timestamp, to: Timestamp) -> Option<String> {
        let overlaps = |first: Option<Timestamp>, last: Option<Timestamp>| {
            first.is_none_or(|first| first <= to) && last.is_none_or(|last| last >= from)
        };
        let some = (self.restorable.intervals.iter()).any(|i| overlaps(i.from.time, i.to.time));
        if !some {
            return Some("nothing in it can be restored".to_owned());
        }
        let gaps = (self.restorable.gaps.iter())
            .filter(|hole| overlaps(hole.gap.after, hole.again.and_then(|again| again.time)))
            .count();
        (gaps > 0).then(|| format!("not all of it can be restored: {} in it", counted(gaps, "gap")))
    }
}

/// What somebody else chose as a text, on one line and without what a terminal obeys.
fn plain(text: &str) -> String {
    if text.is_empty() {
        return "\"\"".to_owned();
    }
    text.chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect()
            } else {
                vec![c]
            }
        })
        .collect()
}

/// A number and what it counts.
fn counted(n: usize, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

impl fmt::Display for PointsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.cluster)?;
        if self.restorable.intervals.is_empty() {
            writeln!(f, "  nothing can be restored")?;
        }
        for interval in &self.restorable.intervals {
            let (from, to) = (&interval.from, &interval.to);
            // Without a commit in it an interval is the end of its base alone.
            let time = |t: Option<Timestamp>| {
                t.map_or_else(
                    || "the end of the base, no commit since".to_owned(),
                    |t| t.to_string(),
                )
            };
            writeln!(
                f,
                "  {} to {}  lineage {} timeline {}  LSN {} to {}  {}, {}",
                time(from.time),
                time(to.time),
                to.lineage,
                to.timeline,
                from.lsn,
                to.lsn,
                counted(interval.bases.len(), "base"),
                counted(interval.points.len(), "joint point"),
            )?;
        }
        for fork in &self.forks {
            writeln!(
                f,
                "  FORK    lineage {}  timeline {} began at LSN {} of timeline {}{}",
                fork.lineage,
                fork.timeline,
                fork.at,
                fork.parent,
                if fork.newest { "; it is the newest" } else { "" }
            )?;
        }
        for named in self.named.iter().flatten() {
            writeln!(
                f,
                "  NAME    {}  {}  lineage {} timeline {}  LSN {}",
                named.time,
                plain(&named.name),
                named.lineage,
                named.timeline,
                named.lsn
            )?;
        }
        if self.named.is_none() {
            writeln!(
                f,
                "  NAMES   not looked for in {} objects of WAL: --names reads their headers",
                self.wal_objects
            )?;
        }
        for Held {
            hold: Hold { body, by, .. },
            lacking,
        } in &self.holds
        {
            writeln!(
                f,
                "  HOLD    {} to {}  {}  by {by}  {}{}",
                body.from,
                body.to,
                plain(&body.reason),
                body.id,
                lacking
                    .as_ref()
                    .map_or_else(String::new, |lacking| format!("  {}", lacking.to_uppercase()))
            )?;
        }
        for gap in &self.restorable.gaps {
            let bound =
                |word: &str, t: Option<Timestamp>| t.map_or_else(String::new, |t| format!(" {word} {t}"));
            writeln!(
                f,
                "  GAP     lineage {} timeline {}  LSN {} to {}{}{}: {}; {}",
                gap.lineage,
                gap.gap.timeline,
                gap.gap.from,
                gap.gap.to,
                bound("after", gap.gap.after),
                bound("before", gap.gap.before),
                gap.cause,
                gap.again.map_or_else(
                    || "nothing behind it can be restored until a base backup is taken there".to_owned(),
                    |again| format!("restorable again from {again}")
                )
            )?;
        }
        for broken in &self.restorable.broken {
            writeln!(
                f,
                "  UNUSABLE base {} of lineage {}: {}",
                broken.base, broken.lineage, broken.why
            )?;
        }
        for replica in self
            .replicas
            .iter()
            .filter_map(|r| r.unreachable.as_ref().map(|why| (r, why)))
        {
            writeln!(
                f,
                "  UNKNOWN replica {} did not answer: {}",
                replica.0.region, replica.1
            )?;
        }
        for finding in self.findings.iter().filter(|n| n.name != "replica-unreachable") {
            writeln!(
                f,
                "  FINDING {} {}: {}",
                finding.name, finding.subject, finding.detail
            )?;
        }
        Ok(())
    }
}
