//! Which drills are wanted, in which order, and why.
//!
//! Two things are owed. Policy asks each tier for drills by scenario, one in each slot
//! of time. And within the policy's window everything that a cluster may one day be
//! restored from has been restored from: each replica, the keys of each live epoch,
//! each kind of base backup. What changed since the last proof (a new major version, a
//! new key epoch, a new replica, another policy, another program) voids it: a drill is
//! wanted at once, whatever the schedule says.
//!
//! [`plan`] is pure, and level-triggered as all planners here: it compares what was
//! proven with what should be, so running it late, twice or on another machine changes
//! nothing. What holds:
//!
//! - as long as capacity allows at all, nothing is late: what would be late otherwise is
//!   put first, in the order of deadlines (see [`order`]); everything else goes by risk,
//! - a drill that did not pass proves nothing, and makes the next one more urgent,
//! - a cluster about which something is unknown is wanted, never passed over,
//! - the same facts in another order give the same plan.
//!
//! What it does not do: run anything, or know whether a drill's programs are installed.

mod order;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use holdfast_proto::names::{CalendarName, ClusterId, Epoch, Region};
use holdfast_proto::{Sha256Digest, Timestamp};
use serde::{Deserialize, Serialize};

use crate::period::Period;
use crate::policy::{self, ClusterPolicy, OpenWindows, Policy};

/// Something that a cluster may be restored from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aspect {
    /// The replica in a region.
    Replica(Region),
    /// The keys of an epoch.
    Epoch(Epoch),
    /// A kind of base backup.
    Base(BaseKind),
}

/// Kinds of base backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BaseKind {
    /// Every file was read.
    Full,
    /// What had not changed was taken from earlier backups.
    Incremental,
}

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Aspect::Replica(region) => write!(f, "the replica in {region}"),
            Aspect::Epoch(epoch) => write!(f, "the keys of {epoch}"),
            Aspect::Base(BaseKind::Full) => f.write_str("a full base backup"),
            Aspect::Base(BaseKind::Incremental) => f.write_str("an incremental base backup"),
        }
    }
}

/// What a proof was of, besides the data: what changes it voids it. `None`: not known,
/// which voids nothing by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// PostgreSQL's major version.
    pub major: Option<u32>,
    /// The policy in force.
    pub policy: Option<Sha256Digest>,
    /// The version of the program that restores.
    pub program: Option<String>,
}

/// A drill that passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// When it began.
    pub at: Timestamp,
    /// The scenario.
    pub scenario: policy::ScenarioName,
    /// What it proved.
    pub level: policy::Level,
    /// What it restored from.
    pub aspects: BTreeSet<Aspect>,
    /// Under which circumstances.
    pub circumstances: Circumstances,
}

/// What is known of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterFacts {
    /// The cluster.
    pub cluster: ClusterId,
    /// Since when there is something to restore; `None` while there is not, or where
    /// that could not be found out.
    pub restorable_since: Option<Timestamp>,
    /// What it could be restored from, and since when.
    pub aspects: BTreeMap<Aspect, Timestamp>,
    /// The circumstances of today.
    pub circumstances: Circumstances,
    /// Every drill that passed.
    pub proofs: Vec<Proof>,
    /// When the newest drill began that did not pass, where none of its level or above has
    /// passed since.
    pub failed: Option<Timestamp>,
    /// When a drill began that has no result yet.
    pub under_way: Option<Timestamp>,
    /// Findings about the cluster's backups that call for somebody.
    pub findings: u32,
}

/// A drill that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Of which cluster.
    pub cluster: ClusterId,
    /// Which scenario.
    pub scenario: policy::ScenarioName,
    /// At which level, at least.
    pub level: policy::Level,
    /// What it has to restore from; nothing in particular when empty.
    pub aim: Option<Aspect>,
    /// Whether a change asks for it, and not the schedule.
    pub on_change: bool,
    /// By when it has to have passed.
    pub deadline: Timestamp,
    /// When it is time.
    pub when: When,
    /// Why, the weightiest first.
    pub reasons: Vec<Reason>,
}

/// When it is time for a drill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// Now, or something will be late.
    Pressing,
    /// Now.
    Now,
    /// Not before this moment.
    From(Timestamp),
    /// It is time, and something keeps it.
    Held(Held),
}

/// What keeps a drill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// A calendar's window freezes drills of the cluster.
    Frozen {
        /// Of which calendar.
        calendar: CalendarName,
        /// When no window that is open now keeps it any more.
        until: Timestamp,
    },
    /// Another drill of the cluster is under way.
    UnderWay {
        /// When it began.
        since: Timestamp,
    },
    /// There is nothing to restore yet, or that could not be found out.
    NothingToRestore,
}

/// Why a drill is wanted, and how much that weighs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The last drill of the cluster did not pass.
    Failed {
        /// When it began.
        at: Timestamp,
    },
    /// Nothing of the kind was ever proven.
    NeverProven,
    /// The last proof was of another major version.
    Major {
        /// Then.
        from: u32,
        /// Now.
        to: u32,
    },
    /// It was restored from this never before.
    New(Aspect),
    /// Another policy came into force since.
    Policy,
    /// Another version of the program restores.
    Program {
        /// Then.
        from: String,
        /// Now.
        to: String,
    },
    /// Somebody is called for because of the cluster's backups.
    Findings(u32),
    /// So much of the time in which it has to be proven again is over, in hundredths.
    Elapsed {
        /// When it was proven last.
        last: Timestamp,
        /// Hundredths, at most 999.
        percent: u32,
    },
    /// The tier wants one in each slot.
    Slot {
        /// The length of a slot.
        every: Period,
    },
}

impl Reason {
    /// How much it weighs. A failure outweighs what is merely unknown, and that what
    /// merely gets old.
    fn weight(&self) -> u32 {
        match self {
            Reason::Failed { .. } => 500,
            Reason::NeverProven => 400,
            Reason::Major { .. } => 300,
            Reason::New(_) => 250,
            Reason::Findings(n) => 150 + (*n).min(50),
            Reason::Program { .. } => 100,
            Reason::Policy => 80,
            Reason::Elapsed { percent, .. } => (*percent).min(100),
            Reason::Slot { .. } => 10,
        }
    }

    fn is_change(&self) -> bool {
        matches!(
            self,
            Reason::Major { .. } | Reason::New(_) | Reason::Policy | Reason::Program { .. }
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Failed { at } => write!(f, "the drill of {at} did not pass"),
            Reason::NeverProven => f.write_str("it was never proven"),
            Reason::Major { from, to } => write!(f, "PostgreSQL {to} runs, and {from} was proven"),
            Reason::New(aspect) => write!(f, "{aspect} was never restored from"),
            Reason::Policy => f.write_str("the policy has changed since it was proven"),
            Reason::Program { from, to } => write!(f, "holdfast {to} restores, and {from} was proven"),
            Reason::Findings(n) => write!(f, "{n} findings about its backups"),
            Reason::Elapsed { last, percent } => {
                write!(f, "{percent} % of its time are over since {last}")
            }
            Reason::Slot { every } => write!(f, "its tier wants one every {every}"),
        }
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            When::Pressing => f.write_str("now, or something will be late"),
            When::Now => f.write_str("now"),
            When::From(at) => write!(f, "from {at}"),
            When::Held(Held::Frozen { calendar, until }) => {
                write!(f, "held: the calendar {calendar} freezes drills until {until}")
            }
            When::Held(Held::UnderWay { since }) => write!(f, "held: one is under way since {since}"),
            When::Held(Held::NothingToRestore) => {
                f.write_str("held: nothing can be restored, or that could not be found out")
            }
        }
    }
}

impl Wanted {
    /// How much speaks for it.
    pub fn risk(&self) -> u32 {
        self.reasons.iter().map(Reason::weight).sum()
    }

    /// Whether it is to be run now.
    pub fn is_due(&self) -> bool {
        matches!(self.when, When::Pressing | When::Now)
    }
}

/// Everything that is wanted of the policy's clusters, in the order in which it is to be
/// run. Clusters that the policy names and `facts` do not are wanted, too.
pub fn plan(facts: &[ClusterFacts], policy: &Policy, now: Timestamp) -> Vec<Wanted> {
    let open = policy.open_windows(now);
    let known: BTreeMap<&ClusterId, &ClusterFacts> = facts.iter().map(|f| (&f.cluster, f)).collect();
    let mut wanted = Vec::new();
    for cluster in policy.clusters() {
        let nothing = ClusterFacts::nothing(cluster.cluster.clone());
        let facts = known.get(&cluster.cluster).copied().unwrap_or(&nothing);
        let held = held(facts, cluster, policy, &open);
        let mut of_cluster = scheduled(facts, cluster, now);
        of_cluster.extend(covering(facts, cluster, policy.coverage().window, now));
        for one in &mut of_cluster {
            one.reasons.extend(common(facts, cluster));
            one.reasons.sort_by_key(|r| std::cmp::Reverse(r.weight()));
            if one.reasons.iter().any(Reason::is_change) {
                (one.on_change, one.when) = (true, When::Now);
            }
            if let Some(held) = &held {
                one.when = When::Held(held.clone());
            }
        }
        wanted.extend(of_cluster);
    }
    order::sort(&mut wanted, policy, now);
    wanted
}

impl ClusterFacts {
    /// A cluster of which nothing is known.
    pub fn nothing(cluster: ClusterId) -> Self {
        Self {
            cluster,
            restorable_since: None,
            aspects: BTreeMap::new(),
            circumstances: Circumstances::default(),
            proofs: Vec::new(),
            failed: None,
            under_way: None,
            findings: 0,
        }
    }

    fn last(&self, of: impl Fn(&Proof) -> bool) -> Option<&Proof> {
        self.proofs.iter().filter(|p| of(p)).max_by_key(|p| p.at)
    }
}

/// What keeps all drills of a cluster.
fn held(facts: &ClusterFacts, cluster: &ClusterPolicy, policy: &Policy, open: &OpenWindows) -> Option<Held> {
    if facts.restorable_since.is_none() {
        return Some(Held::NothingToRestore);
    }
    if let Some(since) = facts.under_way {
        return Some(Held::UnderWay { since });
    }
    let (calendar, until) = policy.drills_frozen(cluster, open)?;
    Some(Held::Frozen { calendar, until })
}

/// What the tier asks for: one drill of each kind in each slot.
fn scheduled(facts: &ClusterFacts, cluster: &ClusterPolicy, now: Timestamp) -> Vec<Wanted> {
    let rules = cluster.tier.drills.iter().map(|rule| {
        let (start, end) = slot(rule.every, now);
        let proves = |p: &Proof| p.scenario == rule.scenario && p.level >= rule.level;
        let last = facts.last(proves).map(|p| p.at);
        let mut reasons = vec![Reason::Slot { every: rule.every }];
        reasons.push(since(last, rule.every, now));
        let answered = last.is_some_and(|at| start <= at);
        Wanted {
            cluster: facts.cluster.clone(),
            scenario: rule.scenario.clone(),
            level: rule.level,
            aim: None,
            on_change: false,
            deadline: if answered { plus(end, rule.every) } else { end },
            when: if answered { When::From(end) } else { When::Now },
            reasons,
        }
    });
    rules.collect()
}

/// What it could be restored from and was not for too long, each with the drill of its
/// tier that proves most. A tier without a drill that restores asks for none of it.
fn covering(facts: &ClusterFacts, cluster: &ClusterPolicy, window: Period, now: Timestamp) -> Vec<Wanted> {
    let rules = cluster.tier.drills.iter().filter(|rule| rule.level.restores());
    let Some(carrier) = rules.max_by_key(|rule| (rule.level, std::cmp::Reverse(rule.every))) else {
        return Vec::new();
    };
    let aspects = facts.aspects.iter().map(|(aspect, first)| {
        let last = facts.last(|p| p.aspects.contains(aspect)).map(|p| p.at);
        let begun = last.unwrap_or(*first);
        // Half of the window is left for what comes in between.
        let from = plus(begun, half(window));
        let reasons = match last {
            Some(_) => vec![since(last, window, now)],
            None => vec![Reason::New(aspect.clone())],
        };
        Wanted {
            cluster: facts.cluster.clone(),
            scenario: carrier.scenario.clone(),
            level: carrier.level,
            aim: Some(aspect.clone()),
            on_change: false,
            deadline: plus(begun, window),
            when: match from <= now {
                true => When::Now,
                false => When::From(from),
            },
            reasons,
        }
    });
    aspects.collect()
}

/// How old a proof is.
fn since(last: Option<Timestamp>, within: Period, now: Timestamp) -> Reason {
    let Some(last) = last else {
        return Reason::NeverProven;
    };
    let age = u128::from(now.millis_since(last));
    let percent = (age * 100 / u128::from(within.millis().max(1))).min(999);
    Reason::Elapsed {
        last,
        percent: u32::try_from(percent).unwrap_or(999),
    }
}

/// What speaks for any drill of a cluster.
fn common(facts: &ClusterFacts, cluster: &ClusterPolicy) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if let Some(at) = facts.failed {
        reasons.push(Reason::Failed { at });
    }
    if facts.findings > 0 {
        reasons.push(Reason::Findings(facts.findings));
    }
    // A proof of the backup alone says nothing about servers and programs.
    let restored = facts.last(|p| p.level.restores());
    let asks = cluster.tier.drills.iter().any(|rule| rule.level.restores());
    if let Some(proof) = restored.filter(|_| asks) {
        let (then, now) = (&proof.circumstances, &facts.circumstances);
        if let (Some(from), Some(to)) = (then.major, now.major)
            && from != to
        {
            reasons.push(Reason::Major { from, to });
        }
        if let (Some(from), Some(to)) = (&then.program, &now.program)
            && from != to
        {
            let (from, to) = (from.clone(), to.clone());
            reasons.push(Reason::Program { from, to });
        }
        if then.policy.zip(now.policy).is_some_and(|(then, now)| then != now) {
            reasons.push(Reason::Policy);
        }
    }
    reasons
}

/// The slot of a length in which a moment lies; slots count from 1970, as coverage
/// counts them.
fn slot(every: Period, now: Timestamp) -> (Timestamp, Timestamp) {
    let length = i64::try_from(every.millis())
        .unwrap_or(i64::MAX)
        .saturating_mul(1000)
        .max(1);
    let start = now.unix_micros().div_euclid(length).saturating_mul(length);
    let end = start.saturating_add(length);
    (
        Timestamp::from_unix_micros(start),
        Timestamp::from_unix_micros(end),
    )
}

fn plus(at: Timestamp, period: Period) -> Timestamp {
    at.plus_millis(i64::try_from(period.millis()).unwrap_or(i64::MAX / 2000))
}

fn half(period: Period) -> Period {
    Period::from_millis(period.millis() / 2).unwrap_or(period)
}

#[cfg(test)]
mod tests;
