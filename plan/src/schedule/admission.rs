//! Which of the work that is due may begin now: limits, and who comes first.
//!
//! Base backups and checkpoints of a fleet fall due together, at night. Limits keep
//! them from falling on one host, region or store together. What cannot begin is
//! held with its debt: it is due since then, and the longer that is, the earlier it
//! comes. Tenants take turns, so that one with many clusters does not keep out one
//! with few. What leaves a cluster without a way back comes before everything.
//!
//! Pure: what is under way is counted from the facts, so that whoever forgot
//! everything counts the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use holdfast_proto::Timestamp;
use holdfast_proto::message::Work;
use holdfast_proto::names::{ActorName, Region, TenantName};

use super::{Act, ClusterFacts, Decision, Due, Held};
use crate::policy::Limits;

/// Where the work of a cluster falls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Regions that it writes into.
    pub regions: BTreeSet<Region>,
    /// Stores behind them: two regions may be one service.
    pub stores: BTreeSet<String>,
}

/// Something of which only so much may be under way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// An agent's host.
    Host(ActorName),
    /// A region.
    Region(Region),
    /// A store.
    Store(String),
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Resource::Host(agent) => write!(f, "the host of {agent}"),
            Resource::Region(region) => write!(f, "region {region}"),
            Resource::Store(store) => write!(f, "store {store}"),
        }
    }
}

/// Whether a kind of work counts: a bundle of settings is a few kilobytes.
fn counts(work: Work) -> bool {
    work != Work::Configuration
}

/// How urgent work is; the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// Nothing, or nothing later, can be restored until it is done.
    Unprotected,
    /// Its schedule asks for it.
    Scheduled,
}

/// Since when it is owed, for the order among equals.
fn owed(due: &Due) -> (Urgency, Timestamp) {
    match due {
        Due::Never | Due::Hole { .. } => (Urgency::Unprotected, Timestamp::from_unix_micros(i64::MIN)),
        Due::Fired { at, .. } => (Urgency::Scheduled, *at),
        // Nothing was promised for a moment: after what was.
        Due::Replay { .. } => (Urgency::Scheduled, Timestamp::from_unix_micros(i64::MAX)),
    }
}

/// How much is under way where.
#[derive(Debug, Default)]
struct Load<'a> {
    on: BTreeMap<Resource, u32>,
    of: BTreeMap<&'a TenantName, u32>,
}

impl<'a> Load<'a> {
    fn add(&mut self, tenant: &'a TenantName, resources: Vec<Resource>) {
        *self.of.entry(tenant).or_default() += 1;
        for resource in resources {
            *self.on.entry(resource).or_default() += 1;
        }
    }

    /// The first resource that has no room, and how much it holds at most.
    fn full(&self, resources: &[Resource], limits: &Limits) -> Option<(Resource, u32)> {
        resources.iter().find_map(|resource| {
            let most = match resource {
                Resource::Host(_) => limits.per_host,
                Resource::Region(_) => limits.per_region,
                Resource::Store(_) => limits.per_store,
            }?;
            let taken = self.on.get(resource).copied().unwrap_or(0);
            (taken >= most).then(|| (resource.clone(), most))
        })
    }
}

fn resources(facts: &ClusterFacts, agent: Option<&ActorName>) -> Vec<Resource> {
    let host = agent.map(|agent| Resource::Host(agent.clone()));
    let regions = facts.places.regions.iter().cloned().map(Resource::Region);
    let stores = facts.places.stores.iter().cloned().map(Resource::Store);
    host.into_iter().chain(regions).chain(stores).collect()
}

/// Holds what has no room. `decisions` are of the clusters in `facts`, which must be
/// all that anything may be under way for.
pub(super) fn admit(facts: &[ClusterFacts], decisions: &mut [Decision], limits: &Limits, now: Timestamp) {
    let by_name: BTreeMap<_, _> = facts.iter().map(|f| (&f.cluster, f)).collect();
    let mut load = Load::default();
    for cluster in facts {
        for (work, state) in cluster.works.iter().filter(|(work, _)| counts(**work)) {
            let leased = state.open.as_ref().filter(|open| now < open.lease_until);
            if state.running || leased.is_some() {
                let agent = leased
                    .map(|open| &open.agent)
                    .or(cluster.reporter.as_ref().map(|(agent, _)| agent));
                let _ = work;
                load.add(&cluster.cluster.tenant, resources(cluster, agent));
            }
        }
    }
    let mut queues: BTreeMap<&TenantName, Vec<(Urgency, Timestamp, usize)>> = BTreeMap::new();
    for (place, decision) in decisions.iter().enumerate() {
        if let Act::Give { due, .. } = &decision.act
            && counts(decision.work)
            && let Some(known) = by_name.get(&decision.cluster)
        {
            let (urgency, since) = owed(due);
            let queue = queues.entry(&known.cluster.tenant).or_default();
            queue.push((urgency, since, place));
        }
    }
    let mut queues: BTreeMap<&TenantName, VecDeque<_>> = queues
        .into_iter()
        .map(|(tenant, mut queue)| {
            queue.sort_unstable();
            (tenant, VecDeque::from(queue))
        })
        .collect();
    // Whose turn it is: the most urgent, then who has least under way, then the oldest debt.
    let turn = |tenant: &TenantName, queue: &VecDeque<(Urgency, Timestamp, usize)>, load: &Load<'_>| {
        let (urgency, since, _) = *queue.front()?;
        let taken = load.of.get(tenant).copied().unwrap_or(0);
        Some((urgency, taken, since))
    };
    let mut turns: BTreeSet<_> = queues
        .iter()
        .filter_map(|(tenant, queue)| Some((turn(tenant, queue, &load)?, *tenant)))
        .collect();
    while let Some((_, tenant)) = turns.pop_first() {
        let queue = queues.get_mut(tenant).expect("a tenant in turn has a queue");
        let (_, _, place) = queue.pop_front().expect("a tenant in turn has work");
        let decision = &mut decisions[place];
        let known = by_name[&decision.cluster];
        if let Act::Give { agent, due, .. } = &decision.act {
            let wanted = resources(known, Some(agent));
            match load.full(&wanted, limits) {
                None => load.add(tenant, wanted),
                Some((resource, most)) => {
                    decision.act = Act::Hold {
                        due: Some(due.clone()),
                        held: Held::Full { resource, most },
                    }
                }
            }
        }
        if let Some(next) = turn(tenant, queue, &load) {
            turns.insert((next, tenant));
        }
    }
}
