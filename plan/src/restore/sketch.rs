//! What a restore to a moment would take, from names and signed headers alone.
//!
//! A plan ([`super::plan`]) says where in the log recovery stops, and for that the WAL
//! is opened. A sketch is for those who hold no identity: whether the moment can be
//! restored at all, from which base backup, and what lies nearest when it cannot.

use std::cmp::Reverse;

use holdfast_proto::Timestamp;
use holdfast_proto::names::BackupId;

use super::candidates::{bases_on, candidate, choose_lineage, choose_path};
use super::facts::{BaseFact, Facts, PointFact};
use super::files::plan_filestores;
use super::intervals::{Interval, LineageGap, Restorable};
use super::request::{Request, Target};
use super::restore_plan::FilestorePlan;
use crate::rto::Amounts;

/// What can be said about a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sketch<'f> {
    /// It can be restored.
    Restorable(Way<'f>),
    /// It cannot.
    Not {
        /// The last restorable moment before it.
        before: Option<Timestamp>,
        /// The first one after it.
        after: Option<Timestamp>,
        /// The hole in which it lies.
        gap: Option<&'f LineageGap>,
    },
}

/// How a moment can be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way<'f> {
    /// The interval that it lies in.
    pub interval: &'f Interval,
    /// The newest base backup of it that was complete by then.
    pub base: &'f BaseFact,
    /// How much of the primary's life is replayed, in milliseconds.
    pub replayed_ms: u64,
    /// The newest joint point of database and filestores by then.
    pub point: Option<&'f PointFact>,
    /// Other lines of events in which the moment can be restored as well.
    pub others: Vec<&'f Interval>,
}

/// What a restore to the last moment, before a hole if there is one, has to move; `None`
/// while nothing can be restored. A filestore whose state cannot be told is left out.
pub fn latest_amounts(facts: &Facts) -> Option<Amounts> {
    let request = Request::new(Target::Latest);
    let lineage = choose_lineage(facts, &request).ok()?;
    let path = choose_path(lineage, &request).ok()?;
    let bases = bases_on(lineage, &path, &request).into_iter();
    let (base, chosen) = bases
        .filter_map(|base| Some((base, candidate(lineage, &path, base)?)))
        .next()?;
    let files = plan_filestores(facts, lineage, &path, chosen.until, true, &request).unwrap_or_default();
    let sum = |of: fn(&FilestorePlan) -> u64| files.iter().map(of).fold(0, u64::saturating_add);
    Some(Amounts {
        base: base.totals.bytes,
        file_bytes: sum(|filestore| filestore.bytes),
        files: sum(|filestore| filestore.files),
        wal: chosen.until.get().saturating_sub(chosen.from.get()),
    })
}

/// The first and the last moment of an interval. A base without a later commit is
/// known by when its copy was complete.
pub fn extent(facts: &Facts, interval: &Interval) -> Option<(Timestamp, Timestamp)> {
    let base = interval.bases.first().and_then(|id| base_of(facts, *id));
    let from = interval.from.time.or(base.map(|b| b.stopped))?;
    Some((from, interval.to.time.unwrap_or(from).max(from)))
}

fn base_of(facts: &Facts, id: BackupId) -> Option<&BaseFact> {
    facts.lineages.iter().flat_map(|l| &l.bases).find(|b| b.id == id)
}

/// Sketches a restore to `moment`; of several lines of events the newest is meant, as
/// when a plan is made.
pub fn sketch<'f>(facts: &'f Facts, restorable: &'f Restorable, moment: Timestamp) -> Sketch<'f> {
    let extents: Vec<(&Interval, Timestamp, Timestamp)> = restorable
        .intervals
        .iter()
        .filter_map(|i| extent(facts, i).map(|(from, to)| (i, from, to)))
        .collect();
    let mut ways: Vec<Way<'f>> = extents
        .iter()
        .filter(|(_, from, to)| (*from..=*to).contains(&moment))
        .filter_map(|(interval, ..)| way(facts, interval, moment))
        .collect();
    let newest_first = facts.newest_first();
    let age = |way: &Way<'_>| {
        let of = way.interval.to.lineage;
        newest_first.iter().position(|lineage| lineage.lineage == of)
    };
    ways.sort_by_key(|way| (Reverse(age(way)), way.interval.to.timeline));
    if let Some(mut best) = ways.pop() {
        best.others = ways.into_iter().map(|way| way.interval).collect();
        return Sketch::Restorable(best);
    }
    Sketch::Not {
        before: extents
            .iter()
            .map(|(_, _, to)| *to)
            .filter(|to| *to < moment)
            .max(),
        after: extents
            .iter()
            .map(|(_, from, _)| *from)
            .filter(|from| *from > moment)
            .min(),
        gap: restorable.gaps.iter().find(|hole| {
            let (after, before) = (hole.gap.after, hole.gap.before);
            after.is_some_and(|t| t < moment) && before.is_none_or(|t| moment < t)
        }),
    }
}

fn way<'f>(facts: &'f Facts, interval: &'f Interval, moment: Timestamp) -> Option<Way<'f>> {
    let base = interval
        .bases
        .iter()
        .filter_map(|id| base_of(facts, *id))
        .filter(|base| base.stopped <= moment)
        .max_by_key(|base| base.stopped)
        // The first commit behind the first base may carry an earlier time than its end.
        .or_else(|| interval.bases.first().and_then(|id| base_of(facts, *id)))?;
    let point = facts
        .lineage(interval.to.lineage)
        .into_iter()
        .flat_map(|lineage| &lineage.points)
        .filter(|point| interval.points.contains(&point.id) && point.at <= moment)
        .max_by_key(|point| point.at);
    Some(Way {
        interval,
        base,
        replayed_ms: moment.millis_since(base.started),
        point,
        others: Vec::new(),
    })
}
