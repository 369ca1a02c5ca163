//! The end of the WAL, replica by replica, from names alone.
//!
//! The first look lists every timeline from the base backup's on. After that
//! only the segments from where a replica's WAL ends are listed: one or two
//! requests for each replica and look, however much WAL there is. Every ten
//! minutes everything is listed again, so that copies that came late or went
//! away are seen.
//!
//! Timelines are put end to end: what a timeline holds beyond the first byte
//! that its successor holds belongs to a branch that was left.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use holdfast_plan::rpo::{ReplicaWal, contiguous_end};
use holdfast_proto::Timestamp;
use holdfast_proto::names::{ClusterId, Lineage, Region};
use holdfast_proto::pg::{Lsn, TimelineId};
use holdfast_repository::layout::{self, Located, WalName};
use holdfast_repository::{Replica, StoreError};

use super::{BaseSeen, believed};
use crate::desk::Desk;

/// Between complete listings.
const WHOLE_EVERY_MS: u64 = 600_000;

/// Names of commits that are kept near the end.
const COMMITS: usize = 64;

/// What was seen of the WAL.
#[derive(Debug)]
pub struct WalSeen {
    /// Each replica.
    pub replicas: Vec<ReplicaWal>,
    /// Near the end: where objects end, and the latest commit in each.
    pub commits: Vec<(Lsn, Timestamp)>,
    /// Taken all replicas together, WAL is missing from here although later WAL
    /// is there.
    pub hole: Option<Lsn>,
}

/// Runs of WAL of one timeline, merged and in order.
type Runs = Vec<(Lsn, Lsn)>;

/// What is remembered of one replica.
#[derive(Debug, Clone, Default)]
struct Holding {
    runs: BTreeMap<TimelineId, Runs>,
    commits: BTreeMap<Lsn, Timestamp>,
}

/// Remembers what was listed.
#[derive(Debug, Default)]
pub struct WalTail {
    /// For which base backup and timeline.
    of: Option<(Lineage, Lsn, TimelineId)>,
    holdings: BTreeMap<Region, Holding>,
    whole: Option<Timestamp>,
}

impl Holding {
    fn add(&mut self, name: &WalName) {
        let runs = self.runs.entry(name.timeline).or_default();
        let (mut start, mut end) = (name.start, name.end);
        runs.retain(|run| {
            let apart = run.1 < start || run.0 > end;
            if !apart {
                start = start.min(run.0);
                end = end.max(run.1);
            }
            apart
        });
        let place = runs.partition_point(|run| run.0 < start);
        runs.insert(place, (start, end));
        if let Some(at) = name.latest_commit {
            self.commits.insert(name.end, at);
            while self.commits.len() > COMMITS {
                self.commits.pop_first();
            }
        }
    }

    /// The runs of all timelines, each cut where the next begins.
    fn spans(&self) -> Runs {
        let mut spans = Vec::new();
        let mut cut: Option<Lsn> = None;
        for runs in self.runs.values().rev() {
            spans.extend(runs.iter().filter_map(|(start, end)| {
                let end = cut.map_or(*end, |cut| (*end).min(cut));
                (*start < end).then_some((*start, end))
            }));
            cut = runs.first().map(|run| run.0).or(cut);
        }
        spans.sort_unstable();
        spans
    }

    fn end(&self, from: Lsn) -> Lsn {
        contiguous_end(from, self.spans()).unwrap_or(from)
    }
}

impl WalTail {
    /// Looks at every replica.
    pub async fn look(
        &mut self,
        cluster: &ClusterId,
        lineage: Lineage,
        base: &BaseSeen,
        current: TimelineId,
        desk: &Desk,
    ) -> WalSeen {
        let now = crate::desk::now();
        let of = (lineage, base.start, current);
        if self.of != Some(of) || self.whole.is_none_or(|at| now.millis_since(at) >= WHOLE_EVERY_MS) {
            self.of = Some(of);
            self.holdings.clear();
            self.whole = Some(now);
        }
        let looks = desk.repository.replicas().iter().map(|replica| {
            let known = self.holdings.get(replica.region()).cloned();
            async move {
                let seen = match known {
                    Some(known) => follow(replica, cluster, lineage, base, current, known).await,
                    None => whole(replica, cluster, lineage, base).await,
                };
                (replica.region().clone(), seen)
            }
        });
        let mut replicas = Vec::new();
        for (region, seen) in join_all(looks).await {
            let end = match seen {
                Ok(holding) => {
                    let end = holding.end(base.start);
                    self.holdings.insert(region.clone(), holding);
                    desk.note_replica(&region, Ok(()));
                    Some(end)
                }
                Err(error) => {
                    // What it holds when it is back must be looked at anew.
                    self.holdings.remove(&region);
                    desk.note_replica(&region, Err(error.explained()));
                    None
                }
            };
            replicas.push(ReplicaWal { region, end });
        }
        let mut union = Holding::default();
        for holding in self.holdings.values() {
            for (timeline, runs) in &holding.runs {
                union.runs.entry(*timeline).or_default().extend(runs);
            }
            union.commits.extend(&holding.commits);
        }
        let spans: Runs = union
            .runs
            .values_mut()
            .flat_map(|runs| {
                runs.sort_unstable();
                std::mem::take(runs)
            })
            .collect();
        let reached = contiguous_end(base.start, spans.iter().copied()).unwrap_or(base.start);
        let hole = spans.iter().any(|(start, _)| *start > reached).then_some(reached);
        WalSeen {
            replicas,
            commits: union.commits.into_iter().collect(),
            hole,
        }
    }
}

fn names(listed: Vec<holdfast_repository::Listed>) -> impl Iterator<Item = WalName> {
    listed
        .into_iter()
        .filter_map(|object| match layout::parse(object.key.as_str()) {
            Some(Located::Wal { name, .. }) => Some(WalName {
                latest_commit: name.latest_commit.map(|at| believed(at, object.modified)),
                ..name
            }),
            _ => None,
        })
}

/// Lists every timeline that the base backup can be replayed along.
async fn whole(
    replica: &Replica,
    cluster: &ClusterId,
    lineage: Lineage,
    base: &BaseSeen,
) -> Result<Holding, StoreError> {
    let mut holding = Holding::default();
    for timeline in replica.children(&layout::wal_of(cluster, lineage)).await? {
        let Some(timeline) = TimelineId::parse_fixed(&timeline).filter(|t| *t >= base.timeline) else {
            continue;
        };
        let listed = replica
            .list(&layout::wal_timeline(cluster, lineage, timeline))
            .await?;
        for name in names(listed).filter(|name| name.end > base.start) {
            holding.add(&name);
        }
    }
    Ok(holding)
}

/// Lists the segments from the end of what is known.
async fn follow(
    replica: &Replica,
    cluster: &ClusterId,
    lineage: Lineage,
    base: &BaseSeen,
    current: TimelineId,
    mut holding: Holding,
) -> Result<Holding, StoreError> {
    let size = base.segment_size;
    let ends = |holding: &Holding| {
        let end = holding.end(base.start);
        // Beyond a hole there may be more.
        let last = holding
            .runs
            .get(&current)
            .and_then(|runs| runs.last())
            .map_or(end, |run| run.1);
        (size.segment_of(end), size.segment_of(last))
    };
    loop {
        let before = ends(&holding);
        for segment in BTreeSet::from([before.0, before.1]) {
            let prefix = layout::wal_segment(cluster, lineage, current, segment);
            for name in names(replica.list(&prefix).await?).filter(|name| name.end > base.start) {
                holding.add(&name);
            }
        }
        // A segment that is full now is followed by another one.
        if ends(&holding) == before {
            return Ok(holding);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(timeline: u32, start: u64, end: u64) -> WalName {
        WalName {
            timeline: TimelineId::new(timeline).unwrap(),
            segment: holdfast_proto::pg::SegmentNumber::new(start >> 20),
            start: Lsn::new(start),
            end: Lsn::new(end),
            latest_commit: None,
        }
    }

    fn end(names: &[(u32, u64, u64)], from: u64) -> u64 {
        let mut holding = Holding::default();
        for (timeline, start, end) in names {
            holding.add(&name(*timeline, *start, *end));
        }
        holding.end(Lsn::new(from)).get()
    }

    #[test]
    fn runs_are_merged_in_any_order() {
        assert_eq!(end(&[(1, 0, 10), (1, 10, 20), (1, 20, 25)], 5), 25);
        assert_eq!(end(&[(1, 20, 25), (1, 0, 10), (1, 10, 20)], 5), 25);
        assert_eq!(end(&[(1, 0, 10), (1, 11, 20)], 5), 10);
        assert_eq!(end(&[], 5), 5);
        assert_eq!(end(&[(1, 6, 10)], 5), 5);
    }

    #[test]
    fn a_branch_that_was_left_does_not_count() {
        // Timeline 1 went on to 40 after timeline 2 had branched off at 20.
        assert_eq!(end(&[(1, 0, 40), (2, 20, 30)], 5), 30);
        assert_eq!(end(&[(1, 0, 40), (2, 20, 25), (2, 26, 30)], 5), 25);
        assert_eq!(end(&[(1, 0, 15), (2, 20, 30)], 5), 15);
    }
}
