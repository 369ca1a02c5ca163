//! The agent's process: what runs beside each cluster, and who restarts it.
//!
//! ```text
//! agent ── heartbeat                       to the coordinator, if there is one
//!   │   ├─ certificate                     gets and renews the one for that
//!   │   ├─ requests                        from `holdfast agent backup`
//!   │   └─ pushing                         from `holdfast wal push`
//!   └── cluster (each) ── session          trust, lineage, lease, keys
//!                            ├─ wal        the WAL line
//!                            ├─ fences     filestores and recovery points
//!                            ├─ jobs       base backups, checkpoints, bundles
//!                            └─ keys       the month's epoch keys
//! ```
//!
//! [`run`] protects until it is told to stop; [`once`] does one piece of work: in
//! the running agent, when one runs on the same state directory, else by itself with
//! the same code. A cluster's trouble never touches another cluster's session.
//!
//! A stop ends everything within seconds and loses nothing that kill -9 would not:
//! what was acknowledged is in the repository, everything else is taken up again.

pub mod board;
pub mod directives;
mod fences;
pub mod jobs;
mod keys;
pub mod lease;
pub mod lineage;
pub mod made;
mod nodes;
mod protecting;
pub mod pushing;
pub mod requests;
pub mod schedule;
pub mod session;
mod supervisor;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use holdfast_proto::finding::Severity;
use holdfast_proto::message::{ClusterFacts, Work};
use holdfast_proto::names::ClusterId;
use holdfast_proto::residency::{Outside, Use};
use holdfast_proto::{Fingerprint, Timestamp};
use holdfast_repository::probe::ProbeError;
use holdfast_repository::replica::explained;
use holdfast_repository::signing::{SigningError, SigningKey};
use holdfast_repository::{OpenError, Repository};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::certificate;
use crate::config::{AgentConfig, ClusterConfig};
use crate::durable::LocalFileError;
use crate::findings::Findings;
use crate::heartbeat::{self, ALONE_AFTER, Assignments, CallError, Caller, Terms};
use crate::progress::Meter;
use crate::state::{StateDir, StateError};
use crate::wal::Following;
use board::Board;
use directives::Numbers;
use jobs::{Asker, Job};
use made::Made;
use protecting::{Ended, guard, protect, protect_once};
use session::now;
use supervisor::Pause;

/// Why the agent, or one piece of its work, could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration protects no such cluster.
    #[error("{0} is not in the agent's configuration: name one of its [[cluster]] sections")]
    NoSuchCluster(ClusterId),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// A file in it.
    #[error(transparent)]
    Local(#[from] LocalFileError),
    /// Another agent runs on it.
    #[error("another agent runs on the state directory {0}: stop it, or give this one its own state_dir")]
    AlreadyRuns(String),
    /// The signing key.
    #[error("the agent's signing key cannot be used: {0}")]
    Key(#[from] SigningError),
    /// The repository.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A store.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The coordinator's section.
    #[error(transparent)]
    Coordinator(#[from] CallError),
    /// The trust chain does not let this agent write for the cluster.
    #[error("{cluster}: {why}")]
    Refused {
        /// For which cluster.
        cluster: ClusterId,
        /// Why.
        why: String,
    },
    /// The work was not done.
    #[error("{cluster}: {why}")]
    Failed {
        /// For which cluster.
        cluster: ClusterId,
        /// Why.
        why: String,
    },
    /// It was told to stop first.
    #[error("stopped before the work was done")]
    Stopped,
}

/// What a one-shot run made.
#[derive(Debug, Clone)]
pub struct Done {
    /// For which cluster.
    pub cluster: ClusterId,
    /// What it is: a backup, a journal entry.
    pub made: Made,
    /// Whether the running agent did it, by its own configuration.
    pub by_running_agent: bool,
}

/// What all clusters of an agent share.
pub struct Agent {
    /// What the operator said.
    pub config: AgentConfig,
    /// Its directory.
    pub state: StateDir,
    /// Where backups go.
    pub repository: Repository,
    /// In whose name.
    pub signer: Arc<SigningKey>,
    clusters: Vec<Cluster>,
    /// When the coordinator was last heard (or the agent began), in microseconds.
    heard: AtomicI64,
}

/// One cluster as the rest of the agent sees it.
pub struct Cluster {
    config: ClusterConfig,
    /// The tier's numbers.
    pub numbers: Numbers,
    board: Board,
    findings: Findings,
    jobs: mpsc::UnboundedSender<Job>,
    queue: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Job>>>,
    following: Arc<Following>,
    pushes: pushing::Door,
}

impl Cluster {
    /// Hands work to the cluster's session.
    pub fn ask(&self, job: Job) {
        // The other end lives as long as this does.
        let _ = self.jobs.send(job);
    }
}

impl Agent {
    /// Opens what all clusters need. Waits for a repository that cannot be reached
    /// when `patient`.
    async fn open(
        config: AgentConfig,
        state: StateDir,
        patient: bool,
        stop: &CancellationToken,
    ) -> Result<Arc<Self>, AgentError> {
        let signer = Arc::new(SigningKey::load(&config.signing_key)?);
        let mut pause = Pause::default();
        let repository = loop {
            let error = match Repository::open(&config.repository).await {
                Ok(repository) => break repository,
                Err(error) => error,
            };
            // Directories that are not mounted hold no repository: who has protected a
            // cluster knows better.
            let away = match error {
                OpenError::NoneReachable(_) => true,
                OpenError::NoRepository(_) => has_protected(&config, &state),
                _ => false,
            };
            if !patient || !away {
                return Err(error.into());
            }
            tracing::error!(err = %explained(&error), "the repository cannot be reached: nothing is protected");
            let findings = Findings::default();
            let guards = config.clusters.iter().map(|c| guard(c, &state, &findings));
            tokio::select! {
                () = tokio::time::sleep(pause.next()) => {}
                () = stop.cancelled() => return Err(AgentError::Stopped),
                _ = futures::future::join_all(guards) => {}
            }
        };
        let probed = repository.probe(&config.name).await?;
        let mut clusters = Vec::new();
        for cluster in &config.clusters {
            let memory = state.cluster(&cluster.id)?;
            let numbers = Numbers::load(&cluster.id, &cluster.tier, repository.replicas().len(), &memory)?;
            let findings = Findings::default();
            probed
                .iter()
                .flat_map(|p| p.findings(now()))
                .for_each(|finding| findings.note(finding));
            let (sender, receiver) = mpsc::unbounded_channel();
            clusters.push(Cluster {
                config: cluster.clone(),
                numbers,
                board: Board::default(),
                findings,
                jobs: sender,
                queue: Arc::new(tokio::sync::Mutex::new(receiver)),
                following: Arc::new(Following::kept(memory.followed(), cluster.promoted_timeline)),
                pushes: pushing::Door::default(),
            });
        }
        Ok(Arc::new(Self {
            config,
            state,
            repository,
            signer,
            clusters,
            heard: AtomicI64::new(now().unix_micros()),
        }))
    }

    /// The fingerprint of the trust root.
    pub fn trust_root(&self) -> Fingerprint {
        self.config
            .repository
            .trust_root
            .expect("the configuration requires it")
    }

    /// One of its clusters.
    pub fn cluster(&self, id: &ClusterId) -> Option<&Cluster> {
        self.clusters.iter().find(|c| c.config.id == *id)
    }

    /// Whether a cluster's data may lie in every replica of the repository: by the
    /// agent's own configuration, and by what the coordinator says of the policy.
    pub fn admitted(&self, at: usize) -> Result<(), Outside> {
        let cluster = &self.clusters[at];
        let zones = [cluster.config.residency.clone(), cluster.numbers.residency()];
        for place in self.config.repository.places() {
            for zone in zones.iter().flatten() {
                zone.admits(Use::Bind, &place)?;
            }
        }
        Ok(())
    }

    /// What it knows of all clusters.
    pub fn facts(&self, now: Timestamp) -> Vec<ClusterFacts> {
        self.clusters
            .iter()
            .map(|c| {
                let (id, labels) = (&c.config.id, &c.config.labels);
                let asked = self.repository.replicas().iter();
                ClusterFacts {
                    requests: asked.map(|replica| replica.requests(id)).collect(),
                    ..c.board.facts(id, &c.numbers.tier(), labels, &c.findings, now)
                }
            })
            .collect()
    }

    /// Notes that the coordinator was heard.
    pub fn heard(&self) {
        self.heard.store(now().unix_micros(), Ordering::Relaxed);
    }

    /// Whether a coordinator decides when work is due.
    pub fn is_coordinated(&self) -> bool {
        let heard = Timestamp::from_unix_micros(self.heard.load(Ordering::Relaxed));
        self.config.coordinator.is_some() && u128::from(now().millis_since(heard)) < ALONE_AFTER.as_millis()
    }

    /// Raises a finding for every cluster.
    pub fn raise_everywhere(&self, severity: Severity, name: &str, subject: &str, detail: &str) {
        self.clusters
            .iter()
            .for_each(|c| c.findings.raise(severity, name, subject, detail));
    }

    /// Clears a finding of every cluster.
    pub fn clear_everywhere(&self, name: &str, subject: &str) {
        self.clusters.iter().for_each(|c| c.findings.clear(name, subject));
    }
}

/// Whether any cluster has had a session here.
fn has_protected(config: &AgentConfig, state: &StateDir) -> bool {
    config.clusters.iter().any(|cluster| {
        let lineage = state.cluster(&cluster.id).map(|state| state.lineage());
        lineage.is_ok_and(|record| matches!(record.load::<serde_json::Value>(), Ok(Some(_))))
    })
}

/// Protects every cluster of the configuration until `shutdown`.
pub async fn run(config: AgentConfig, shutdown: CancellationToken) -> Result<(), AgentError> {
    let state = StateDir::open(&config.state_dir)?;
    let Some(_running) = state.claim()? else {
        return Err(AgentError::AlreadyRuns(config.state_dir.display().to_string()));
    };
    let requests = state.requests()?;
    requests::clear(&requests)?;
    let caller = config.coordinator.as_ref().map(Caller::new).transpose()?;
    let assignments = Assignments::load(state.done())?;
    let terms = Terms::load(state.term())?;
    let agent = Agent::open(config, state, true, &shutdown).await?;
    tracing::info!(agent = %agent.config.name, repository = %agent.repository.id(), clusters = agent.clusters.len(), "agent runs");

    let mut tasks = JoinSet::new();
    if let (Some(caller), Some(coordinator)) = (caller, agent.config.coordinator.clone()) {
        tasks.spawn(certificate::run(
            agent.clone(),
            caller.clone(),
            coordinator,
            shutdown.clone(),
        ));
        tasks.spawn(heartbeat::run(
            agent.clone(),
            caller,
            assignments,
            terms,
            shutdown.clone(),
        ));
    }
    for at in 0..agent.clusters.len() {
        tasks.spawn(protect(agent.clone(), at, true, shutdown.clone()));
    }
    {
        let (agent, shutdown) = (agent.clone(), shutdown.clone());
        tasks.spawn(async move { requests::serve(&agent, &requests, &shutdown).await });
    }
    {
        let (agent, shutdown) = (agent.clone(), shutdown.clone());
        tasks.spawn(async move { pushing::serve(&agent, &agent.config.wal_socket, &shutdown).await });
    }
    // A panic in any of them is a bug that a restart of the process heals best.
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }
    tracing::info!("agent stopped");
    Ok(())
}

/// Does one piece of work now, for one cluster or all, and returns. A running agent
/// on the same state directory is asked to do it.
pub async fn once(
    config: &AgentConfig,
    cluster: Option<&ClusterId>,
    work: Work,
    meter: Meter,
    shutdown: CancellationToken,
) -> Result<Vec<Done>, AgentError> {
    let chosen: Vec<ClusterId> = config
        .clusters
        .iter()
        .map(|c| c.id.clone())
        .filter(|id| cluster.is_none_or(|c| c == id))
        .collect();
    if let (Some(wanted), true) = (cluster, chosen.is_empty()) {
        return Err(AgentError::NoSuchCluster(wanted.clone()));
    }
    let state = StateDir::open(&config.state_dir)?;
    let mut made = Vec::new();
    let running = state.claim()?;
    let agent = match &running {
        None => None,
        Some(_) => Some(Agent::open(config.clone(), state.clone(), false, &shutdown).await?),
    };
    for id in chosen {
        let outcome = match &agent {
            None => requests::ask(&state.requests()?, &id, work, &meter, &shutdown).await?,
            Some(agent) => alone(agent, &id, work, meter.clone(), &shutdown).await?,
        };
        match outcome {
            None => return Err(AgentError::Stopped),
            Some(Ok(text)) => made.push(Done {
                cluster: id,
                made: text,
                by_running_agent: agent.is_none(),
            }),
            Some(Err(why)) => return Err(AgentError::Failed { cluster: id, why }),
        }
    }
    Ok(made)
}

/// Runs a session for one job alone.
async fn alone(
    agent: &Arc<Agent>,
    id: &ClusterId,
    work: Work,
    meter: Meter,
    shutdown: &CancellationToken,
) -> Result<Option<jobs::Outcome>, AgentError> {
    let Some(at) = agent.clusters.iter().position(|c| c.config.id == *id) else {
        return Ok(None);
    };
    let (sender, outcome) = oneshot::channel();
    agent.clusters[at].ask(Job {
        work,
        reason: "asked for".to_owned(),
        meter,
        asker: Asker::Waiting(None, sender),
    });
    let stop = shutdown.child_token();
    // Without a stream a base backup needs what the server pushes meanwhile.
    let pushing = {
        let (agent, stop) = (agent.clone(), stop.clone());
        tokio::spawn(async move { pushing::serve(&agent, &agent.config.wal_socket, &stop).await })
    };
    let mut session = tokio::spawn(protect_once(agent.clone(), at, stop.clone()));
    let outcome = tokio::select! {
        outcome = outcome => outcome.ok(),
        ended = &mut session => return match ended {
            Ok(Err(Ended::Refused(why))) => Err(AgentError::Refused { cluster: id.clone(), why }),
            Ok(Err(Ended::Fenced(why) | Ended::Waiting(why) | Ended::Failed { why, .. })) => Ok(Some(Err(why))),
            _ => Ok(None),
        },
        () = shutdown.cancelled() => None,
    };
    stop.cancel();
    // Their ends have no outcome of their own any more.
    let _ = session.await;
    let _ = pushing.await;
    Ok(outcome)
}
