//! WAL coverage: which parts of the log are there, along one timeline's history.
//!
//! Intervals are half open. A [`Path`] is what recovery towards a timeline
//! reads: each ancestor up to where its child begins, then the timeline itself.

use serde::{Deserialize, Serialize};

use holdfast_proto::Timestamp;
use holdfast_proto::pg::{Lsn, SegmentSize, TimelineId};

use super::facts::{LineageFacts, WalSpan};

/// The part of a path that one timeline owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// The timeline.
    pub timeline: TimelineId,
    /// First position that is its own; absent for the first timeline.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub begin: Option<Lsn>,
    /// First position that is its child's; absent for the last timeline.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub end: Option<Lsn>,
}

/// What recovery towards a timeline reads, and how much of it there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// The timeline that it leads to.
    pub timeline: TimelineId,
    /// Its stretches, oldest first.
    pub stretches: Vec<Stretch>,
    /// The WAL along it: disjoint, ascending, adjacent pieces merged.
    pub wal: Vec<WalSpan>,
}

/// A hole in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The timeline that owns its first byte.
    pub timeline: TimelineId,
    /// First byte that is missing.
    pub from: Lsn,
    /// First byte that is there again.
    pub to: Lsn,
    /// Time of the last transaction's end known before it.
    pub after: Option<Timestamp>,
    /// Time of a transaction's end known behind it.
    pub before: Option<Timestamp>,
}

/// Puts pieces in order and joins those that touch or overlap.
///
/// The stored bytes of overlapping pieces add up: they are what lies there, and
/// no less than what has to be read.
pub fn merge(mut pieces: Vec<WalSpan>) -> Vec<WalSpan> {
    pieces.retain(|p| p.start < p.end);
    pieces.sort_by_key(|p| (p.start, p.end));
    let mut merged: Vec<WalSpan> = Vec::new();
    for piece in pieces {
        match merged.last_mut() {
            Some(last) if piece.start <= last.end => {
                if piece.end >= last.end {
                    last.last_commit = piece.last_commit.or(last.last_commit);
                }
                last.end = last.end.max(piece.end);
                last.stored = last.stored.saturating_add(piece.stored);
                last.early_commit = last.early_commit.or(piece.early_commit);
            }
            _ => merged.push(piece),
        }
    }
    merged
}

impl Path {
    /// The path to `timeline`; `None` when the timeline or its history, or an
    /// ancestor's place in it, is not known.
    pub fn to(lineage: &LineageFacts, timeline: TimelineId) -> Option<Self> {
        let ancestors = lineage.timeline(timeline)?.ancestors.as_ref()?;
        let mut stretches = Vec::with_capacity(ancestors.len() + 1);
        let mut begin = None;
        for switch in ancestors {
            stretches.push(Stretch {
                timeline: switch.timeline,
                begin,
                end: Some(switch.end),
            });
            begin = Some(switch.end);
        }
        stretches.push(Stretch {
            timeline,
            begin,
            end: None,
        });
        let size = lineage.segment_size();
        let mut pieces = Vec::new();
        for stretch in &stretches {
            let Some(facts) = lineage.timeline(stretch.timeline) else {
                continue;
            };
            // A child's first segment repeats the parent's bytes before the switch.
            let floor = stretch
                .begin
                .map(|b| size.map_or(b, |s| s.start_of(s.segment_of(b))));
            for span in &facts.wal {
                let start = floor.map_or(span.start, |f| f.max(span.start));
                let end = stretch.end.map_or(span.end, |e| e.min(span.end));
                if start < end {
                    let cut = end < span.end;
                    pieces.push(WalSpan {
                        start,
                        end,
                        stored: share(span, start, end),
                        early_commit: span.early_commit.filter(|_| start == span.start),
                        last_commit: if cut { None } else { span.last_commit },
                    });
                }
            }
        }
        Some(Self {
            timeline,
            stretches,
            wal: merge(pieces),
        })
    }

    /// The piece without a hole that holds the byte at `lsn`.
    pub fn covering(&self, lsn: Lsn) -> Option<&WalSpan> {
        self.wal.iter().find(|s| s.start <= lsn && lsn < s.end)
    }

    /// The timeline that owns the byte at `lsn`.
    pub fn owner(&self, lsn: Lsn) -> TimelineId {
        self.stretches
            .iter()
            .find(|s| s.end.is_none_or(|e| lsn < e))
            .map_or(self.timeline, |s| s.timeline)
    }

    /// Whether a backup that stopped at `lsn` on `timeline` lies on this path.
    pub fn contains(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        self.stretches.iter().any(|s| {
            s.timeline == timeline && s.begin.is_none_or(|b| lsn >= b) && s.end.is_none_or(|e| lsn <= e)
        })
    }

    /// Every hole between the first and the last byte known.
    pub fn gaps(&self) -> Vec<Gap> {
        self.wal
            .windows(2)
            .map(|pair| Gap {
                timeline: self.owner(pair[0].end),
                from: pair[0].end,
                to: pair[1].start,
                after: pair[0].last_commit,
                before: pair[1].early_commit.or(pair[1].last_commit),
            })
            .collect()
    }

    /// The first hole at or behind `lsn`.
    pub fn gap_after(&self, lsn: Lsn) -> Option<Gap> {
        self.gaps().into_iter().find(|g| g.from >= lsn)
    }

    /// Stored bytes between two positions, as far as they are there.
    pub fn stored_between(&self, from: Lsn, to: Lsn) -> u64 {
        self.wal
            .iter()
            .map(|s| {
                let (start, end) = (s.start.max(from), s.end.min(to));
                if start < end { share(s, start, end) } else { 0 }
            })
            .sum()
    }
}

/// The stored bytes of a part of `span`, in proportion to its length.
fn share(span: &WalSpan, start: Lsn, end: Lsn) -> u64 {
    let whole = u128::from(span.end.get().saturating_sub(span.start.get()).max(1));
    let part = u128::from(end.get().saturating_sub(start.get()));
    u64::try_from((u128::from(span.stored) * part).div_ceil(whole)).unwrap_or(u64::MAX)
}

/// The first position of the segment that holds `lsn`: recovery opens whole
/// segments, and checks the header of their first page.
pub fn segment_start(size: SegmentSize, lsn: Lsn) -> Lsn {
    size.start_of(size.segment_of(lsn))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span(start: u64, end: u64) -> WalSpan {
        WalSpan {
            start: Lsn::new(start),
            end: Lsn::new(end),
            stored: end.saturating_sub(start),
            early_commit: None,
            last_commit: None,
        }
    }

    proptest! {
        #[test]
        fn merging_keeps_exactly_the_covered_bytes(
            pieces in proptest::collection::vec((0u64..60, 0u64..12), 0..20),
            at in 0u64..80,
        ) {
            let pieces: Vec<_> = pieces.iter().map(|(s, l)| span(*s, s + l)).collect();
            let merged = merge(pieces.clone());
            let covered = |spans: &[WalSpan]| spans.iter().any(|s| s.start.get() <= at && at < s.end.get());
            prop_assert_eq!(covered(&pieces), covered(&merged));
            for pair in merged.windows(2) {
                prop_assert!(pair[0].end < pair[1].start, "apart, or they would be one");
            }
            let mut reversed = pieces;
            reversed.reverse();
            let bounds = |m: &[WalSpan]| m.iter().map(|s| (s.start, s.end)).collect::<Vec<_>>();
            prop_assert_eq!(bounds(&merge(reversed)), bounds(&merged));
        }
    }
}
