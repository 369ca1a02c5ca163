//! Decides where to take up the stream.
//!
//! Pure: from what the replicas hold, what the server says of itself and where
//! the slot stands. The rules, in order:
//! 1. A server on an older timeline than the archive, or behind it on the same
//!    one, is a copy of the past: refused.
//! 2. A server whose history leaves the archive's newest timeline before the
//!    archive's end is another future: refused. It needs a new generation of the
//!    lineage. Unless this agent saw it follow the cluster as a standby up to the
//!    fork or less, or an operator says so: then it is the cluster's own future, and
//!    what the archive has beyond is a tail that the promotion left behind.
//! 3. An unfinished timeline is finished before the next one begins.
//! 4. A timeline begins at the start of the segment in which it forked, so that
//!    its first segment is whole without its parent.
//! 5. Within a timeline the earliest hole that the server can still fill comes
//!    first, and WAL that too few replicas hold is asked for again.

use holdfast_proto::pg::{Lsn, SegmentSize, TimelineHistory, TimelineId};

use super::ledger::Ledger;

/// What the server says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Server<'a> {
    /// Its timeline.
    pub timeline: TimelineId,
    /// Its flush position.
    pub flush: Lsn,
    /// The history of its timeline.
    pub history: &'a TimelineHistory,
    /// From where its slot keeps WAL.
    pub slot: Option<Lsn>,
    /// Bytes of a WAL segment.
    pub segment_size: SegmentSize,
    /// How far this agent saw it follow the cluster as a streaming standby, if it
    /// did.
    pub followed: Option<(TimelineId, Lsn)>,
    /// Whether an operator says that the cluster was promoted to its timeline.
    pub said: bool,
}

/// A place to take up the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// From where on WAL counts as contiguous.
    pub anchor: Lsn,
    /// The first byte to store.
    pub from: Lsn,
}

/// Where to take up the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// On which timeline.
    pub timeline: TimelineId,
    /// Places to try, best first. When the server has removed the WAL at all of
    /// them, there is a gap; when there are none, nothing was ever stored.
    pub places: Vec<Place>,
    /// WAL of the timeline before that the promotion left behind: it is archived,
    /// and the server never had it.
    pub left_behind: Option<(Lsn, Lsn)>,
}

/// Why not to follow a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The server is a copy of the past.
    #[error(
        "the server is at {server} on timeline {server_timeline}, the archive reaches {archive} on timeline \
         {archive_timeline}: the server was rolled back or is an old copy. Stop it, or give the cluster a new \
         lineage generation if its present state is the one to keep"
    )]
    Behind {
        /// The server's timeline.
        server_timeline: TimelineId,
        /// The server's flush position.
        server: Lsn,
        /// The archive's newest timeline.
        archive_timeline: TimelineId,
        /// How far it reaches.
        archive: Lsn,
    },
    /// The server has another future.
    #[error(
        "timeline {server_timeline} of the server does not contain timeline {archive_timeline} up to {archive}, \
         where the archive ends: it forked earlier, and was not seen to follow the cluster. If it is a standby of this \
         cluster that was promoted, write promoted_timeline = {server_timeline} in the cluster's section; if it is \
         a copy whose present state is to be kept, give the cluster a new lineage generation"
    )]
    Diverged {
        /// The server's timeline.
        server_timeline: TimelineId,
        /// The archive's newest timeline.
        archive_timeline: TimelineId,
        /// How far it reaches.
        archive: Lsn,
    },
    /// The server's WAL is not what was archived of it.
    #[error(
        "the server's WAL between {from} and {to} is not what is archived there: it was set back to an older copy, and \
         has gone on from that. Stop it, or give the cluster a new lineage generation if its present state is the one \
         to keep"
    )]
    Rewritten {
        /// The first byte that was compared.
        from: Lsn,
        /// The first byte after.
        to: Lsn,
    },
}

impl Refusal {
    /// The name of its finding.
    pub fn finding(&self) -> &'static str {
        match self {
            Refusal::Behind { .. } => "server-behind-archive",
            Refusal::Diverged { .. } | Refusal::Rewritten { .. } => "history-diverged",
        }
    }
}

/// Decides where to take up the stream.
///
/// # Errors
/// The server is not to be followed.
pub fn plan(ledger: &Ledger, server: Server<'_>) -> Result<Start, Refusal> {
    let Some(newest) = ledger.newest_timeline() else {
        return Ok(Start {
            timeline: server.timeline,
            places: Vec::new(),
            left_behind: None,
        });
    };
    let archive = ledger.union(newest).last().map_or(Lsn::new(0), |(_, end)| end);
    if newest > server.timeline || (newest == server.timeline && archive > server.flush) {
        return Err(Refusal::Behind {
            server_timeline: server.timeline,
            server: server.flush,
            archive_timeline: newest,
            archive,
        });
    }
    if newest == server.timeline {
        return Ok(Start {
            timeline: newest,
            places: places(ledger, newest, server),
            left_behind: None,
        });
    }
    let diverged = Refusal::Diverged {
        server_timeline: server.timeline,
        archive_timeline: newest,
        archive,
    };
    let ancestors = server.history.ancestors();
    let place = ancestors
        .iter()
        .position(|switch| switch.timeline == newest)
        .ok_or(diverged.clone())?;
    let fork = ancestors[place].end;
    let followed = |(timeline, lsn)| timeline == newest && lsn <= fork;
    if archive > fork && !server.said && !server.followed.is_some_and(followed) {
        return Err(diverged);
    }
    if archive < fork {
        return Ok(Start {
            timeline: newest,
            places: places(ledger, newest, server),
            left_behind: None,
        });
    }
    let next = ancestors
        .get(place + 1)
        .map_or(server.timeline, |switch| switch.timeline);
    Ok(Start {
        left_behind: (archive > fork).then_some((fork, archive)),
        ..begin(next, fork, server.segment_size)
    })
}

/// The start of a timeline that forked at `fork`.
pub fn begin(timeline: TimelineId, fork: Lsn, size: SegmentSize) -> Start {
    let anchor = size.start_of(size.segment_of(fork));
    Start {
        timeline,
        places: vec![Place { anchor, from: anchor }],
        left_behind: None,
    }
}

fn places(ledger: &Ledger, timeline: TimelineId, server: Server<'_>) -> Vec<Place> {
    let size = server.segment_size;
    let union = ledger.union(timeline);
    let kept = server.slot.map(|slot| size.start_of(size.segment_of(slot)));
    let available = |at: Lsn| kept.is_none_or(|kept| at >= kept);
    let mut places = Vec::new();
    for (anchor, end) in union.as_slice().iter().copied() {
        let safe = ledger.acknowledged_from(timeline, anchor);
        let is_last = union.last() == Some((anchor, end));
        for from in [safe, Some(end)].into_iter().flatten() {
            let place = Place { anchor, from };
            if (available(from) || (is_last && from == end)) && !places.contains(&place) {
                places.push(place);
            }
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::ledger::Holdings;

    const MIB: u64 = 1 << 20;

    fn tli(n: u32) -> TimelineId {
        TimelineId::new(n).unwrap()
    }

    fn ledger(replicas: &[&[(u32, u64, u64)]], copies: usize) -> Ledger {
        let regions = (0..replicas.len()).map(|n| format!("r{n}").parse().unwrap());
        let mut ledger = Ledger::new(regions, copies);
        for (place, held) in replicas.iter().enumerate() {
            let mut holdings = Holdings::default();
            for (timeline, start, end) in *held {
                holdings
                    .wal
                    .entry(tli(*timeline))
                    .or_default()
                    .add(Lsn::new(*start), Lsn::new(*end));
            }
            ledger.listed(place, holdings);
        }
        ledger
    }

    fn decide(
        ledger: &Ledger,
        timeline: u32,
        flush: u64,
        history: &str,
        slot: u64,
    ) -> Result<Start, Refusal> {
        let history = TimelineHistory::parse(tli(timeline), history).unwrap();
        let server = Server {
            timeline: tli(timeline),
            flush: Lsn::new(flush),
            history: &history,
            slot: Some(Lsn::new(slot)),
            segment_size: SegmentSize::new(MIB).unwrap(),
            followed: None,
            said: false,
        };
        plan(ledger, server)
    }

    fn at(timeline: u32, places: &[(u64, u64)]) -> Result<Start, Refusal> {
        let place = |(anchor, from): &(u64, u64)| Place {
            anchor: Lsn::new(*anchor),
            from: Lsn::new(*from),
        };
        Ok(Start {
            timeline: tli(timeline),
            places: places.iter().map(place).collect(),
            left_behind: None,
        })
    }

    /// A standby that was seen to follow may lack the end when it is promoted.
    #[test]
    fn a_promoted_standby_leaves_a_tail_behind() {
        let archive = ledger(&[&[(1, 0, 3 * MIB + 77)]], 1);
        let history = format!("1 0/{:X} promoted", 2 * MIB + 5);
        let history = TimelineHistory::parse(tli(2), &history).unwrap();
        let decide = |followed: Option<(u32, u64)>, said: bool| {
            let server = Server {
                timeline: tli(2),
                flush: Lsn::new(9 * MIB),
                history: &history,
                slot: None,
                segment_size: SegmentSize::new(MIB).unwrap(),
                followed: followed.map(|(timeline, lsn)| (tli(timeline), Lsn::new(lsn))),
                said,
            };
            plan(&archive, server)
        };
        let start = decide(Some((1, 2 * MIB)), false).unwrap();
        assert_eq!(start.timeline, tli(2));
        assert_eq!(
            start.left_behind,
            Some((Lsn::new(2 * MIB + 5), Lsn::new(3 * MIB + 77)))
        );
        // Never seen, on another timeline, or seen to have more than it has now.
        for other in [None, Some((2, 2 * MIB)), Some((1, 3 * MIB))] {
            assert!(
                matches!(decide(other, false), Err(Refusal::Diverged { .. })),
                "{other:?}"
            );
            assert_eq!(decide(other, true), Ok(start.clone()));
        }
    }

    #[test]
    fn takes_up_where_enough_replicas_end() {
        let both = ledger(&[&[(1, 0, 5 * MIB)], &[(1, 0, 4 * MIB)]], 2);
        assert_eq!(
            decide(&both, 1, 9 * MIB, "", 4 * MIB + 9),
            at(1, &[(0, 4 * MIB), (0, 5 * MIB)])
        );
        // The slot was moved on: only what the leader lacks can be asked for.
        assert_eq!(decide(&both, 1, 9 * MIB, "", 5 * MIB), at(1, &[(0, 5 * MIB)]));
        // The slot is past everything: it is tried all the same.
        assert_eq!(decide(&both, 1, 9 * MIB, "", 8 * MIB), at(1, &[(0, 5 * MIB)]));
        assert_eq!(decide(&ledger(&[&[], &[]], 1), 1, 9, "", 0), at(1, &[]));
    }

    #[test]
    fn fills_the_hole_that_can_be_filled() {
        let holes = ledger(&[&[(1, 0, MIB), (1, 3 * MIB, 4 * MIB), (1, 6 * MIB, 7 * MIB)]], 1);
        let places = [(3 * MIB, 4 * MIB), (6 * MIB, 7 * MIB)];
        assert_eq!(decide(&holes, 1, 9 * MIB, "", 4 * MIB), at(1, &places));
    }

    #[test]
    fn follows_a_promotion() {
        let archive = ledger(&[&[(1, 0, 3 * MIB + 77)]], 1);
        let finished = format!("1 0/{:X} promoted", 3 * MIB + 77);
        assert_eq!(
            decide(&archive, 2, 9 * MIB, &finished, 0),
            at(2, &[(3 * MIB, 3 * MIB)])
        );
        let unfinished = format!("1 0/{:X} promoted", 4 * MIB);
        assert_eq!(
            decide(&archive, 2, 9 * MIB, &unfinished, 0),
            at(1, &[(0, 3 * MIB + 77)])
        );
        let twice = format!("1 0/{:X} a\n2 0/{:X} b", 3 * MIB + 77, 5 * MIB);
        assert_eq!(
            decide(&archive, 3, 9 * MIB, &twice, 0),
            at(2, &[(3 * MIB, 3 * MIB)])
        );
    }

    #[test]
    fn refuses_the_past_and_other_futures() {
        let archive = ledger(&[&[(2, 0, 3 * MIB)]], 1);
        assert!(matches!(
            decide(&archive, 1, 9 * MIB, "", 0),
            Err(Refusal::Behind { .. })
        ));
        let history = "1 0/1 x";
        assert!(matches!(
            decide(&archive, 2, MIB, history, 0),
            Err(Refusal::Behind { .. })
        ));
        let early = format!("1 0/1 x\n2 0/{MIB:X} y");
        assert!(matches!(
            decide(&archive, 3, 9 * MIB, &early, 0),
            Err(Refusal::Diverged { .. })
        ));
        assert!(matches!(
            decide(&archive, 3, 9 * MIB, history, 0),
            Err(Refusal::Diverged { .. })
        ));
    }
}
