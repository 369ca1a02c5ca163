//! How much would be lost now: the recovery point objective, measured.
//!
//! The agent says how old its oldest unsafe commit is. This module does not
//! take its word for what is safe: it computes from the listing of the
//! repository how far the WAL reaches without a hole on enough replicas, and
//! from the positions that the server was seen at, until which moment every
//! commit is below that. The age of that moment is the exposure. It is an upper
//! bound: nothing in it is estimated downwards.
//!
//! What holds: more or newer facts never make the exposure larger at the same
//! moment; without a fresh sign of life it is *unknown*, never small. An idle
//! database and a dead agent do not look alike, because an idle one is still
//! seen at its position.

use std::fmt;

use holdfast_proto::Timestamp;
use holdfast_proto::names::Region;
use holdfast_proto::pg::Lsn;

use crate::period::Period;

/// What one replica was seen to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaWal {
    /// The replica.
    pub region: Region,
    /// Where its WAL ends without a hole; `None` when it could not be listed.
    pub end: Option<Lsn>,
}

/// Somebody saw the server at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// When.
    pub at: Timestamp,
    /// Everything committed by then lies below this.
    pub server_flush: Lsn,
    /// If the repository reached `.0`, everything committed until `.1` was safe.
    pub safe: Option<(Lsn, Timestamp)>,
}

/// What is known of a cluster's WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whether there is a base backup from which the WAL can be replayed;
    /// `None` while the repository was not listed.
    pub base: Option<bool>,
    /// Each replica.
    pub replicas: Vec<ReplicaWal>,
    /// Replicas that must hold WAL for it to count.
    pub copies: u32,
    /// Sightings of the server, in any order.
    pub witnesses: Vec<Witness>,
    /// For WAL objects near the end: where each ends and the latest commit in it.
    pub commits: Vec<(Lsn, Timestamp)>,
    /// How old the newest sighting may be.
    pub fresh_for: Period,
}

/// The exposure of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rpo {
    /// At most this would be lost.
    Known {
        /// Milliseconds between `safe_until` and the moment of the measurement.
        ms: u64,
        /// Every commit until then is in the repository, as often as needed.
        safe_until: Timestamp,
        /// How far enough replicas hold the WAL.
        frontier: Lsn,
    },
    /// It cannot be said.
    Unknown(Why),
}

/// Why the exposure cannot be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The repository was not listed yet, or could not be.
    NotListed,
    /// Nothing to replay WAL onto.
    NoBase,
    /// Too few replicas could be listed.
    FewReplicas {
        /// Listed.
        listed: u32,
        /// Needed.
        needed: u32,
        /// Those that could not be.
        missing: Vec<Region>,
    },
    /// Nobody saw the server lately.
    Stale {
        /// The newest sighting.
        last: Option<Timestamp>,
        /// How old it may be.
        fresh_for: Period,
    },
    /// WAL is stored, but no sighting and no commit below its end.
    NothingSafe,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NotListed => f.write_str("the repository has not been listed"),
            Why::NoBase => f.write_str("there is no base backup to restore from yet"),
            Why::FewReplicas {
                listed,
                needed,
                missing,
            } => {
                write!(
                    f,
                    "{listed} of the {needed} replicas that must hold WAL could be listed"
                )?;
                if !missing.is_empty() {
                    let names: Vec<_> = missing.iter().map(Region::as_str).collect();
                    write!(f, " (out of reach: {})", names.join(", "))?;
                }
                Ok(())
            }
            Why::Stale {
                last: Some(last),
                fresh_for,
            } => {
                write!(
                    f,
                    "the server was last heard at {last}, longer ago than {fresh_for}: its agent is silent, or does not \
                     reach it"
                )
            }
            Why::Stale { last: None, .. } => f.write_str("nobody has heard of the server"),
            Why::NothingSafe => f.write_str("no commit is known to be in the repository"),
        }
    }
}

/// How an exposure stands against its objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Within the objective.
    Met,
    /// Beyond it.
    Missed,
    /// Unknown counts as an alarm, not as met.
    Unknown,
}

impl Rpo {
    /// Compares with the objective.
    pub fn standing(&self, objective: Period) -> Standing {
        match self {
            Rpo::Known { ms, .. } if *ms <= objective.millis() => Standing::Met,
            Rpo::Known { .. } => Standing::Missed,
            Rpo::Unknown(_) => Standing::Unknown,
        }
    }
}

/// Where WAL that starts at or before `from` ends without a hole. `spans` are
/// half-open, in any order.
pub fn contiguous_end(from: Lsn, spans: impl IntoIterator<Item = (Lsn, Lsn)>) -> Option<Lsn> {
    let mut spans: Vec<(Lsn, Lsn)> = spans.into_iter().filter(|(_, end)| *end > from).collect();
    spans.sort_unstable();
    let mut reached = None;
    for (start, end) in spans {
        if start > reached.unwrap_or(from) {
            break;
        }
        reached = reached.max(Some(end));
    }
    reached
}

/// Measures the exposure at `now`.
pub fn measure(facts: &Facts, now: Timestamp) -> Rpo {
    match facts.base {
        None => return Rpo::Unknown(Why::NotListed),
        Some(false) => return Rpo::Unknown(Why::NoBase),
        Some(true) => {}
    }
    let mut ends: Vec<Lsn> = facts.replicas.iter().filter_map(|r| r.end).collect();
    ends.sort_unstable_by(|a, b| b.cmp(a));
    let Some(frontier) = (facts.copies as usize)
        .checked_sub(1)
        .and_then(|k| ends.get(k))
        .copied()
    else {
        let missing = facts
            .replicas
            .iter()
            .filter(|r| r.end.is_none())
            .map(|r| r.region.clone())
            .collect();
        let listed = u32::try_from(ends.len()).unwrap_or(u32::MAX);
        return Rpo::Unknown(Why::FewReplicas {
            listed,
            needed: facts.copies,
            missing,
        });
    };
    // A clock that is ahead must not make anything look safer than it is.
    let past = |at: Timestamp| at.min(now);
    let last = facts.witnesses.iter().map(|w| past(w.at)).max();
    if last.is_none_or(|last| now.millis_since(last) > facts.fresh_for.millis()) {
        return Rpo::Unknown(Why::Stale {
            last,
            fresh_for: facts.fresh_for,
        });
    }
    let seen = facts
        .witnesses
        .iter()
        .filter(|w| w.server_flush <= frontier)
        .map(|w| past(w.at));
    let said = facts
        .witnesses
        .iter()
        .filter_map(|w| w.safe)
        .filter(|(lsn, _)| *lsn <= frontier)
        .map(|(_, at)| past(at));
    let committed = facts
        .commits
        .iter()
        .filter(|(end, at)| *end <= frontier && *at <= now)
        .map(|(_, at)| *at);
    match seen.chain(said).chain(committed).max() {
        Some(safe_until) => Rpo::Known {
            ms: now.millis_since(safe_until),
            safe_until,
            frontier,
        },
        None => Rpo::Unknown(Why::NothingSafe),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_micros(1_800_000_000_000_000).plus_millis(seconds * 1000)
    }

    fn replica(name: &str, end: Option<u64>) -> ReplicaWal {
        ReplicaWal {
            region: name.parse().unwrap(),
            end: end.map(Lsn::new),
        }
    }

    fn seen(seconds: i64, flush: u64) -> Witness {
        Witness {
            at: at(seconds),
            server_flush: Lsn::new(flush),
            safe: None,
        }
    }

    fn facts() -> Facts {
        Facts {
            base: Some(true),
            replicas: vec![replica("east", Some(900)), replica("west", Some(700))],
            copies: 2,
            witnesses: vec![seen(0, 600), seen(10, 800), seen(20, 1000)],
            commits: vec![],
            fresh_for: "30s".parse().unwrap(),
        }
    }

    fn ms(facts: &Facts, now: i64) -> u64 {
        match measure(facts, at(now)) {
            Rpo::Known { ms, .. } => ms,
            Rpo::Unknown(why) => panic!("{why}"),
        }
    }

    #[test]
    fn the_oldest_moment_that_enough_replicas_cover_counts() {
        // Two copies: west ends at 700, which the server had passed by 10 s.
        assert_eq!(ms(&facts(), 21), 21_000);
        // One copy: east ends at 900.
        assert_eq!(ms(&Facts { copies: 1, ..facts() }, 21), 11_000);
        // A commit time in the WAL itself is newer.
        let commits = vec![(Lsn::new(690), at(7)), (Lsn::new(710), at(11))];
        assert_eq!(ms(&Facts { commits, ..facts() }, 21), 14_000);
        // What the agent said of what it had acknowledged.
        let mut said = facts();
        said.witnesses[2].safe = Some((Lsn::new(700), at(18)));
        assert_eq!(ms(&said, 21), 3_000);
        said.witnesses[2].safe = Some((Lsn::new(701), at(18)));
        assert_eq!(ms(&said, 21), 21_000, "the repository does not bear it out");
    }

    #[test]
    fn an_idle_database_is_safe_and_a_dead_agent_is_unknown() {
        let idle = Facts {
            witnesses: (0..20).map(|n| seen(n * 5, 700)).collect(),
            ..facts()
        };
        assert_eq!(ms(&idle, 97), 2_000);
        let dead = measure(&idle, at(126));
        assert!(
            matches!(dead, Rpo::Unknown(Why::Stale { last: Some(_), .. })),
            "{dead:?}"
        );
        assert_eq!(dead.standing("24h".parse().unwrap()), Standing::Unknown);
    }

    #[test]
    fn unknown_is_never_zero() {
        let check = |facts: Facts, why: &str| match measure(&facts, at(21)) {
            Rpo::Unknown(found) => assert!(found.to_string().contains(why), "{found}"),
            known => panic!("{known:?}"),
        };
        check(
            Facts {
                base: None,
                ..facts()
            },
            "has not been listed",
        );
        check(
            Facts {
                base: Some(false),
                ..facts()
            },
            "no base backup",
        );
        check(
            Facts {
                replicas: vec![],
                ..facts()
            },
            "0 of the 2 replicas",
        );
        check(
            Facts {
                replicas: vec![replica("east", Some(900)), replica("west", None)],
                ..facts()
            },
            "west",
        );
        check(
            Facts {
                witnesses: vec![],
                ..facts()
            },
            "nobody has heard of the server",
        );
        check(
            Facts {
                witnesses: vec![seen(20, 1000)],
                ..facts()
            },
            "no commit is known",
        );
        check(Facts { copies: 0, ..facts() }, "replicas");
    }

    #[test]
    fn clocks_that_are_ahead_do_not_help() {
        let ahead = Facts {
            witnesses: vec![seen(3600, 700)],
            ..facts()
        };
        assert_eq!(ms(&ahead, 21), 0, "the sighting was made, at the latest, now");
        let commits = vec![(Lsn::new(700), at(3600))];
        let behind = Facts { commits, ..facts() };
        assert_eq!(ms(&behind, 21), 21_000, "a commit from the future proves nothing");
    }

    #[test]
    fn a_hole_ends_the_wal() {
        let l = Lsn::new;
        let check = |from: u64, spans: &[(u64, u64)], expect: Option<u64>| {
            let spans = spans.iter().map(|(a, b)| (l(*a), l(*b)));
            assert_eq!(contiguous_end(l(from), spans), expect.map(l));
        };
        check(10, &[(0, 20), (20, 30), (30, 35)], Some(35));
        check(10, &[(30, 35), (0, 20), (20, 30)], Some(35));
        check(10, &[(0, 20), (21, 30)], Some(20));
        check(10, &[(0, 20), (15, 30)], Some(30));
        check(10, &[(11, 20)], None);
        check(10, &[(0, 10)], None);
        check(10, &[], None);
    }

    proptest! {
        #[test]
        fn more_wal_on_a_replica_never_exposes_more(
            ends in prop::collection::vec(prop::option::of(0u64..2000), 1..4),
            more in 0u64..500,
            which in 0usize..4,
            copies in 1u32..4,
            flushes in prop::collection::vec((0i64..100, 0u64..2000), 0..6),
        ) {
            let before = Facts {
                replicas: ends.iter().enumerate().map(|(n, e)| replica(&format!("r{n}"), *e)).collect(),
                copies,
                witnesses: flushes.iter().map(|(s, f)| seen(*s, *f)).collect(),
                ..facts()
            };
            let mut after = before.clone();
            let place = which % ends.len();
            after.replicas[place].end = after.replicas[place].end.map(|e| Lsn::new(e.get() + more));
            let now = at(100);
            if let Rpo::Known { ms: was, .. } = measure(&before, now) {
                match measure(&after, now) {
                    Rpo::Known { ms, .. } => prop_assert!(ms <= was),
                    Rpo::Unknown(why) => prop_assert!(false, "became unknown: {}", why),
                }
            }
        }

        #[test]
        fn the_order_of_facts_does_not_matter(
            flushes in prop::collection::vec((0i64..100, 0u64..2000), 0..6),
        ) {
            let forward = Facts { witnesses: flushes.iter().map(|(s, f)| seen(*s, *f)).collect(), ..facts() };
            let mut backward = forward.clone();
            backward.witnesses.reverse();
            backward.replicas.reverse();
            prop_assert_eq!(measure(&forward, at(100)), measure(&backward, at(100)));
        }
    }
}
