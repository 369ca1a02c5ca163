//! What the coordinator knows, in one place, and the clock it goes by.
//!
//! The loops and the listeners share a [`Desk`]. What lies on it are facts
//! ([`State`]); none of it is the truth. The truth is in the repository and with
//! the agents, and everything here comes back from there when it is lost. Locks
//! are short and never held across a wait.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_plan::policy::Policy;
use holdfast_plan::rpo::Witness;
use holdfast_plan::schedule::{Book, Patience, Places};
use holdfast_proto::Timestamp;
use holdfast_proto::finding::Finding;
use holdfast_proto::message::ClusterFacts;
use holdfast_proto::names::{ActorName, BackupId, ClusterId, Region, RouteName};
use holdfast_repository::trust::Trust;
use holdfast_repository::{Repository, RepositoryConfig};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::alerts::Delivery;
use crate::approved::Approved;
use crate::config::CoordinatorConfig;
use crate::findings::Standing;
use crate::governing::Governing;
use crate::lead::Lead;
use crate::loops::stored::Stored;
use crate::meters::Meters;
use crate::server::served::ServedState;
use crate::survey::{Proven, Survey};

/// Most sightings that are kept of a cluster.
const WITNESSES: usize = 128;

/// Everything that loops and listeners share.
pub struct Desk {
    /// The configuration, with the policy of the start; the one in force is
    /// [`Desk::policy`].
    pub config: CoordinatorConfig,
    /// The policy in force.
    pub governing: Governing,
    /// What people approved.
    pub approvals: Approved,
    /// The repository, with deadlines for reading that is soon repeated.
    pub repository: Repository,
    /// Whether this coordinator acts.
    pub lead: Lead,
    /// Where the clusters' work falls: on the replicas.
    pub places: Places,
    /// How long things are waited for.
    pub patience: Patience,
    /// When this process began to listen.
    pub started: Timestamp,
    /// Wakes the loops.
    pub wake: Wake,
    /// Counters.
    pub meters: Meters,
    state: Mutex<State>,
}

/// What wakes which loop before its time.
#[derive(Debug, Default)]
pub struct Wake {
    /// Something was reported: work may be due, or done.
    pub schedule: Arc<Notify>,
    /// Something was stored: look at the repository again.
    pub survey: Arc<Notify>,
    /// Look at the evidence again.
    pub proven: Arc<Notify>,
    /// Facts changed that findings are made of.
    pub findings: Arc<Notify>,
    /// There may be something to say.
    pub alerts: Arc<Notify>,
    /// A replica was found behind.
    pub replicate: Arc<Notify>,
    /// Look at the leases at once.
    pub lead: Arc<Notify>,
    /// The policy's file may have changed.
    pub policy: Arc<Notify>,
    /// More clusters are to be counted.
    pub stored: Arc<Notify>,
    /// Something is worth remembering.
    pub remember: Arc<Notify>,
}

/// The facts.
#[derive(Debug, Default)]
pub struct State {
    /// The trust chain, once it was read.
    pub trust: Option<Arc<Trust>>,
    /// Why the trust chain cannot be read, and since when.
    pub trust_problem: Option<(String, Timestamp)>,
    /// What agents reported, by cluster.
    pub reports: BTreeMap<ClusterId, Report>,
    /// What the repository was seen to hold, by cluster.
    pub surveys: BTreeMap<ClusterId, Survey>,
    /// What lies in the stores, by cluster.
    pub stored: BTreeMap<ClusterId, Stored>,
    /// Clusters that the repository holds and the policy does not name.
    pub strangers: BTreeMap<ClusterId, Timestamp>,
    /// The leases of work.
    pub book: Book,
    /// The term in which they were given out.
    pub book_term: Option<u64>,
    /// Drills, from the evidence log.
    pub proven: Proven,
    /// Each replica's health.
    pub replicas: BTreeMap<Region, ReplicaHealth>,
    /// What replication could not do in its last run, by cluster.
    pub replication: BTreeMap<ClusterId, Vec<Finding>>,
    /// When each cluster was last replicated whole.
    pub replicated: BTreeMap<ClusterId, Timestamp>,
    /// What the keeper of the evidence log found.
    pub evidence: Vec<Finding>,
    /// What stands out now.
    pub standing: Standing,
    /// What each alert route has been told.
    pub alerts: BTreeMap<RouteName, Delivery>,
    /// The listeners' certificates, by listener.
    pub certificates: BTreeMap<&'static str, ServedState>,
    /// How the loops fare.
    pub loops: BTreeMap<&'static str, LoopHealth>,
}

/// What an agent reported of one cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Which agent.
    pub agent: ActorName,
    /// Its program's version.
    pub version: String,
    /// When it was heard, by our clock.
    pub heard: Timestamp,
    /// How far its clock was ahead of ours, in milliseconds.
    pub clock_ahead_ms: i64,
    /// Another agent that reported the same cluster, and when.
    #[serde(default)]
    pub rival: Option<(ActorName, Timestamp)>,
    /// The term in which we led when it was heard last, and when it was first heard in it:
    /// what it did for another leader before is in the repository by then, or it says so.
    #[serde(skip)]
    pub reign: Option<(u64, Timestamp)>,
    /// The newest base backup that it speaks of, and when it first did: a listing from
    /// before may not have it.
    #[serde(skip)]
    pub claimed: Option<(BackupId, Timestamp)>,
    /// What it said.
    pub facts: ClusterFacts,
    /// Where it saw the server, oldest first.
    #[serde(skip)]
    pub witnesses: VecDeque<Witness>,
}

impl Report {
    /// Adds a sighting. One that saw the server where the last one saw it takes
    /// that one's place: it proves the same, and more. Older ones are thinned out,
    /// not dropped: a slow tier needs a long memory, a fast one a fine one.
    pub fn witness(&mut self, witness: Witness) {
        let replaces =
            |last: &Witness| last.server_flush == witness.server_flush && last.safe <= witness.safe;
        if self.witnesses.back().is_some_and(replaces) {
            self.witnesses.pop_back();
        }
        self.witnesses.push_back(witness);
        if self.witnesses.len() > WITNESSES {
            let mut place = 0;
            self.witnesses.retain(|_| {
                place += 1;
                place > WITNESSES / 2 || place % 2 == 0
            });
        }
    }
}

/// How a replica answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplicaHealth {
    /// When it last answered.
    pub answered: Option<Timestamp>,
    /// What it said instead, and since when it fails.
    pub failing: Option<(String, Timestamp)>,
}

/// How a loop fares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoopHealth {
    /// When it last came to its end without an error.
    pub succeeded: Option<Timestamp>,
    /// What went wrong since, and when first.
    pub failing: Option<(String, Timestamp)>,
}

impl Desk {
    /// A desk with what is remembered on it.
    pub fn new(
        config: CoordinatorConfig,
        governing: Governing,
        repository: Repository,
        lead: Lead,
        state: State,
        started: Timestamp,
    ) -> Self {
        Self {
            patience: config.patience,
            places: places(&config.repository),
            config,
            governing,
            approvals: Approved::default(),
            repository,
            lead,
            started,
            wake: Wake::default(),
            meters: Meters::default(),
            state: Mutex::new(state),
        }
    }

    /// The policy in force. One decision is made by one of them.
    pub fn policy(&self) -> Arc<Policy> {
        self.governing.policy()
    }

    /// The facts. Held for moments only.
    pub fn state(&self) -> MutexGuard<'_, State> {
        // The facts of a thread that panicked are as good as any: each is
        // replaced whole by the next look.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The trust chain, once it was read.
    pub fn trust(&self) -> Option<Arc<Trust>> {
        self.state().trust.clone()
    }

    /// Notes how a replica answered.
    pub fn note_replica(&self, region: &Region, answer: Result<(), String>) {
        let now = now();
        let mut state = self.state();
        let health = state.replicas.entry(region.clone()).or_default();
        match answer {
            Ok(()) => {
                *health = ReplicaHealth {
                    answered: Some(now),
                    failing: None,
                }
            }
            Err(why) => {
                let since = health.failing.as_ref().map_or(now, |(_, since)| *since);
                health.failing = Some((why, since));
            }
        }
    }
}

/// Every cluster of a repository writes to every replica. A store is the machine or
/// service in its address; directories are all on this one.
fn places(repository: &RepositoryConfig) -> Places {
    let store = |url: &str| match url.split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.split('/').next().unwrap_or_default();
            format!("{scheme}://{host}")
        }
        None => url.to_owned(),
    };
    let replicas = || repository.replicas.iter();
    Places {
        regions: replicas().map(|replica| replica.region.clone()).collect(),
        stores: replicas().map(|replica| store(&replica.url)).collect(),
    }
}

/// The moment by this machine's clock.
pub fn now() -> Timestamp {
    holdfast_repository::clock::now()
}
