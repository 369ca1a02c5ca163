//! Which work is due, and who is asked to do it.
//!
//! [`plan`] looks at what is known of every cluster and answers, for each kind
//! of work, what to do about it and why. It is level-triggered: it does not
//! react to events but compares what is with what should be, so running it
//! twice, or late, or after the caller forgot everything changes nothing but
//! the moment. [`Book`] keeps the leases of what was given out.
//!
//! What holds:
//! - at most one open assignment for a cluster and kind of work,
//! - nothing is given for a cluster whose agent is silent, already works on it,
//!   or whose backups could not be listed: an unknown is never "there is none",
//! - a missed schedule is caught up once, not once for each time it was missed,
//! - no base backup is given out inside a freeze, and no more work than the limits
//!   allow; what waits is owed since it was due, and comes first by that.
//!
//! If the process that holds the [`Book`] dies, the worst is one base backup
//! more than needed: agents say what they work on, and that holds it back.

mod admission;
mod book;

use std::collections::BTreeMap;
use std::fmt;

use holdfast_proto::Timestamp;
use holdfast_proto::message::Work;
use holdfast_proto::names::{ActorName, CalendarName, ClusterId, Lineage, WorkId};
use holdfast_proto::pg::Lsn;

use crate::cron::Zone;
use crate::period::Period;
use crate::policy::{ClusterPolicy, OpenWindows, Policy};

pub use admission::{Places, Resource};
pub use book::{Book, Failures, Line, Open};

/// Every kind of work, in the order in which it is decided.
pub const WORKS: [Work; 3] = [Work::BaseBackup, Work::FilestoreCheckpoint, Work::Configuration];

/// What is known of one kind of work of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkFacts {
    /// When the repository was listed for it; `None` when it never was.
    pub listed: Option<Timestamp>,
    /// When the newest complete one was committed, by that listing.
    pub newest: Option<Timestamp>,
    /// The agent says that it is at it.
    pub running: bool,
    /// The lease that is out.
    pub open: Option<Open>,
    /// When it was last heard that an assignment ended well, by our clock.
    pub succeeded: Option<Timestamp>,
    /// When that assignment was given, by our clock.
    pub answered: Option<Timestamp>,
    /// Failures since then.
    pub failures: Failures,
}

/// What is known of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterFacts {
    /// The cluster.
    pub cluster: ClusterId,
    /// Who reported it last, and when.
    pub reporter: Option<(ActorName, Timestamp)>,
    /// The lineage that is written.
    pub lineage: Option<Lineage>,
    /// WAL is missing after the newest base backup, from here on: nothing later
    /// can be restored until there is a new one.
    pub hole: Option<Lsn>,
    /// How long the replay of all WAL after the newest base backup would take, in
    /// milliseconds; `None` when that cannot be said.
    pub replay_ms: Option<u64>,
    /// Whether it has filestores.
    pub filestores: bool,
    /// Where its work falls.
    pub places: Places,
    /// Each kind of work.
    pub works: BTreeMap<Work, WorkFacts>,
}

/// How the planner waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// An agent that was not heard for so long gets no new work.
    pub silent_after: Period,
    /// How long a lease lasts without a word of the work.
    pub lease: Period,
    /// The wait after a first failure; it doubles with each further one.
    pub retry: Period,
    /// The longest wait after failures.
    pub retry_most: Period,
}

impl Default for Patience {
    fn default() -> Self {
        let period = |millis| Period::from_millis(millis).expect("a constant longer than zero");
        Self {
            silent_after: period(30_000),
            lease: period(60_000),
            retry: period(60_000),
            retry_most: period(3_600_000),
        }
    }
}

/// What to do about one kind of work of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The cluster.
    pub cluster: ClusterId,
    /// The kind of work.
    pub work: Work,
    /// What to do.
    pub act: Act,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Ask the agent, under a new lease. `lapsed` is the lease that ran out.
    Give {
        /// Whom.
        agent: ActorName,
        /// Why now.
        due: Due,
        /// The lease that this one replaces.
        lapsed: Option<WorkId>,
    },
    /// The lease ran out and the work is no longer due: forget it.
    Withdraw {
        /// The lease.
        lapsed: WorkId,
    },
    /// It is due, but not now.
    Hold {
        /// Why it is due.
        due: Option<Due>,
        /// What keeps it.
        held: Held,
    },
    /// Not due.
    Rest {
        /// When it will be.
        next: Option<Timestamp>,
    },
}

/// Why work is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// There is none.
    Never,
    /// WAL is missing after the newest base backup.
    Hole {
        /// From here.
        from: Lsn,
    },
    /// A restore would replay WAL for too long.
    Replay {
        /// For so long.
        ms: u64,
        /// The recovery time objective, in milliseconds.
        rto_ms: u64,
    },
    /// The schedule fired since the newest one.
    Fired {
        /// When it fired.
        at: Timestamp,
        /// The newest one.
        last: Timestamp,
        /// For the reader.
        zone: Zone,
    },
}

impl fmt::Display for Due {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Due::Never => f.write_str("there is none yet"),
            Due::Hole { from } => write!(f, "WAL is missing from {from} on, after the newest base backup"),
            Due::Replay { ms, rto_ms } => write!(
                f,
                "a restore would replay WAL for {} s of the {} s that it may take",
                ms / 1000,
                rto_ms / 1000
            ),
            Due::Fired { at, last, zone } => {
                write!(
                    f,
                    "scheduled for {}, the newest is of {}",
                    zone.show(*at),
                    zone.show(*last)
                )
            }
        }
    }
}

/// What keeps due work from being given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// The policy does not name the cluster.
    NoPolicy,
    /// Its agent is silent.
    AgentSilent {
        /// When it was heard last.
        last: Option<Timestamp>,
    },
    /// The agent does not say yet which lineage it writes.
    NoLineage,
    /// The repository was not listed since the last one could have ended.
    NotListed,
    /// The agent is at it.
    Running,
    /// A calendar's window keeps it from the cluster.
    Frozen {
        /// Of which calendar.
        calendar: CalendarName,
        /// When no window that is open now keeps it any more.
        until: Timestamp,
    },
    /// As much is under way as may be.
    Full {
        /// Where.
        resource: Resource,
        /// How much that is.
        most: u32,
    },
    /// It was given out and the lease still runs.
    Leased {
        /// To whom.
        agent: ActorName,
        /// Until when.
        until: Timestamp,
    },
    /// It failed and is tried again later.
    Failed {
        /// How often in a row.
        times: u32,
        /// When it is tried again.
        until: Timestamp,
    },
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Held::NoPolicy => f.write_str("the policy does not name the cluster: add it, or stop its agent"),
            Held::AgentSilent { last: Some(last) } => write!(f, "its agent was last heard at {last}"),
            Held::AgentSilent { last: None } => f.write_str("its agent was not heard yet"),
            Held::NoLineage => f.write_str("its agent does not stream from PostgreSQL yet"),
            Held::NotListed => f.write_str("the repository has not been listed since"),
            Held::Running => f.write_str("the agent is at it"),
            Held::Frozen { calendar, until } => write!(f, "the calendar {calendar} freezes it until {until}"),
            Held::Full { resource, most } => {
                write!(f, "{most} are under way on {resource}, which is the most")
            }
            Held::Leased { agent, until } => write!(f, "{agent} has the lease until {until}"),
            Held::Failed { times, until } => write!(f, "it failed {times} times, tried again at {until}"),
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Act::Give {
                agent,
                due,
                lapsed: None,
            } => write!(f, "give to {agent}: {due}"),
            Act::Give {
                agent,
                due,
                lapsed: Some(lapsed),
            } => {
                write!(f, "give to {agent} again, the lease {lapsed} ran out: {due}")
            }
            Act::Withdraw { lapsed } => write!(f, "forget the lease {lapsed}: it ran out and nothing is due"),
            Act::Hold { due: Some(due), held } => write!(f, "due ({due}) but held: {held}"),
            Act::Hold { due: None, held } => write!(f, "held: {held}"),
            Act::Rest { next: Some(next) } => write!(f, "not due before {next}"),
            Act::Rest { next: None } => f.write_str("not due"),
        }
    }
}

/// Decides about every cluster and kind of work, in order of names. `facts` must hold
/// every cluster for which anything may be under way: limits count over them.
pub fn plan(facts: &[ClusterFacts], policy: &Policy, patience: &Patience, now: Timestamp) -> Vec<Decision> {
    let mut decisions = Vec::new();
    let nothing = WorkFacts::default();
    let asked = Asked {
        policy,
        open: policy.open_windows(now),
    };
    for cluster in facts {
        for work in WORKS {
            let state = cluster.works.get(&work).unwrap_or(&nothing);
            let act = decide(cluster, work, state, &asked, patience, now);
            decisions.push(Decision {
                cluster: cluster.cluster.clone(),
                work,
                act,
            });
        }
    }
    admission::admit(facts, &mut decisions, &policy.limits(), now);
    decisions.sort_by(|a, b| (&a.cluster, a.work).cmp(&(&b.cluster, b.work)));
    decisions
}

/// What is asked for at the moment of planning.
struct Asked<'a> {
    policy: &'a Policy,
    open: OpenWindows,
}

fn decide(
    cluster: &ClusterFacts,
    work: Work,
    state: &WorkFacts,
    asked: &Asked<'_>,
    patience: &Patience,
    now: Timestamp,
) -> Act {
    let hold = |due, held| Act::Hold { due, held };
    let Some(policy) = asked.policy.cluster(&cluster.cluster) else {
        return hold(None, Held::NoPolicy);
    };
    // Work that is under way is left alone, whatever else is known.
    if state.running {
        return hold(None, Held::Running);
    }
    if let Some(open) = &state.open
        && now < open.lease_until
    {
        return hold(
            None,
            Held::Leased {
                agent: open.agent.clone(),
                until: open.lease_until,
            },
        );
    }
    let lapsed = state.open.as_ref().map(|open| open.id);
    let due = match due(cluster, work, state, policy, now) {
        Ok(due) => due,
        Err(Undue::Unknown) => return hold(None, Held::NotListed),
        Err(Undue::Next(next)) => {
            return match lapsed {
                Some(lapsed) => Act::Withdraw { lapsed },
                None => Act::Rest { next },
            };
        }
    };
    if work == Work::BaseBackup
        && let Some((calendar, until)) = asked.policy.base_backups_frozen(policy, &asked.open)
    {
        return hold(Some(due), Held::Frozen { calendar, until });
    }
    let Some((agent, _)) = cluster
        .reporter
        .as_ref()
        .filter(|(_, heard)| now.millis_since(*heard) <= patience.silent_after.millis())
    else {
        let last = cluster.reporter.as_ref().map(|(_, heard)| *heard);
        return hold(Some(due), Held::AgentSilent { last });
    };
    if cluster.lineage.is_none() {
        return hold(Some(due), Held::NoLineage);
    }
    if let Some(until) = state.failures.retry_at(patience)
        && now < until
    {
        return hold(
            Some(due),
            Held::Failed {
                times: state.failures.times,
                until,
            },
        );
    }
    Act::Give {
        agent: agent.clone(),
        due,
        lapsed,
    }
}

/// So soon after a base backup none is taken because replay takes long: where WAL comes
/// faster than it can be replayed, another base backup is no help.
const REPLAY_RESTS_MS: u64 = 3_600_000;

/// Why work is not due.
enum Undue {
    /// It cannot be said.
    Unknown,
    /// Until then.
    Next(Option<Timestamp>),
}

fn due(
    cluster: &ClusterFacts,
    work: Work,
    state: &WorkFacts,
    policy: &ClusterPolicy,
    now: Timestamp,
) -> Result<Due, Undue> {
    if work == Work::FilestoreCheckpoint && !cluster.filestores {
        return Err(Undue::Next(None));
    }
    // What ended well after the listing is not in the listing.
    let fresh = state
        .listed
        .is_some_and(|listed| state.succeeded.is_none_or(|done| listed > done));
    if !fresh {
        return Err(Undue::Unknown);
    }
    let Some(newest) = state.newest else {
        return Ok(Due::Never);
    };
    if work == Work::BaseBackup
        && let Some(from) = cluster.hole
    {
        return Ok(Due::Hole { from });
    }
    // The store's clock and ours may differ. What we gave out after a firing
    // answers it, whatever the store's clock says of its commit.
    let last = newest.max(state.answered.unwrap_or(newest));
    let rto_ms = policy.tier.rto.millis();
    let bearable = rto_ms / 100 * u64::from(policy.tier.replay_share);
    if work == Work::BaseBackup
        && bearable > 0
        && now.millis_since(last) >= REPLAY_RESTS_MS
        && let Some(ms) = cluster.replay_ms.filter(|ms| *ms > bearable)
    {
        return Ok(Due::Replay { ms, rto_ms });
    }
    match policy.schedule(work).next(policy.zone.tz(), last) {
        Some(at) if at <= now => Ok(Due::Fired {
            at,
            last,
            zone: policy.zone,
        }),
        next => Err(Undue::Next(next)),
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
