//! Keeps a cluster's session going, and its parts within it.

use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use holdfast_proto::finding::Severity;
use holdfast_repository::replica::explained;
use holdfast_repository::trust::LoadError;
use tokio_util::sync::CancellationToken;

use super::jobs::Jobs;
use super::session::{Session, SessionError, unprotected};
use super::supervisor::{Failure, Group, Pause};
use super::{Agent, fences, lease};
use crate::config::ClusterConfig;
use crate::findings::Findings;
use crate::state::StateDir;
use crate::wal::push::{Feed, Pushing};
use crate::wal::{self, Valve, WalContext, WalError};

/// Keeps one cluster's session going.
pub async fn protect(agent: Arc<Agent>, at: usize, scheduled: bool, shutdown: CancellationToken) {
    let cluster = &agent.clusters[at];
    let subject = cluster.config.id.to_string();
    let mut pause = Pause::default();
    while !shutdown.is_cancelled() {
        let ended = session_of(&agent, at, scheduled, shutdown.child_token()).await;
        let why = match ended {
            Ok(()) => return,
            Err(Ended::Waiting(why)) => {
                let findings = &cluster.findings;
                findings.clear("cluster-not-protected", &subject);
                findings.clear("lease-lost", &subject);
                findings.raise(Severity::Info, "server-in-recovery", subject.clone(), why);
                pause = Pause::default();
                tokio::select! {
                    () = tokio::time::sleep(STANDBY_EVERY) => continue,
                    () = shutdown.cancelled() => return,
                }
            }
            // Among several nodes the lease goes to and fro.
            Err(Ended::Fenced(why)) if !cluster.config.peers.is_empty() => {
                format!("{why}. A peer does so when its server was promoted")
            }
            Err(Ended::Fenced(why)) => {
                let why = format!(
                    "{why}. Stop one of the two for good; this one writes again when it is restarted and may take the lease"
                );
                cluster
                    .findings
                    .raise(Severity::Critical, "lease-lost", subject, why);
                shutdown.cancelled().await;
                return;
            }
            Err(Ended::Refused(why)) => why,
            Err(Ended::Failed { why, began }) => {
                if began {
                    pause = Pause::default();
                }
                why
            }
        };
        unprotected(&cluster.findings, &subject, &why);
        tokio::select! {
            () = tokio::time::sleep(pause.next()) => {}
            () = shutdown.cancelled() => {}
            never = guard(&cluster.config, &agent.state, &cluster.findings) => match never {},
        }
    }
}

/// Keeps a cluster's slot from filling the server's disk while no WAL line does.
pub(super) async fn guard(config: &ClusterConfig, state: &StateDir, findings: &Findings) -> Infallible {
    if config.feed == Feed::Stream
        && let Ok(state) = state.cluster(&config.id)
    {
        let valve = Valve {
            limits: config.valve,
            data_directory: config.data_directory.clone(),
        };
        let said = wal::watch_alone(&config.postgres, &config.slot, &valve, &state.unheld()).await;
        tracing::error!(cluster = %config.id, detail = said, "replication slot given up");
        findings.raise(
            Severity::Critical,
            "wal-slot-given-up",
            config.id.to_string(),
            said,
        );
    }
    pending().await
}

/// Ends a session whose repository lies where its cluster's data may no longer be.
async fn residency(agent: Arc<Agent>, at: usize, cancel: CancellationToken) -> Result<(), Failure> {
    let mut numbers = agent.clusters[at].numbers.watch();
    loop {
        agent
            .admitted(at)
            .map_err(|outside| Failure::Final(outside.to_string()))?;
        tokio::select! {
            changed = numbers.changed() => if changed.is_err() { return Ok(()) },
            () = cancel.cancelled() => return Ok(()),
        }
    }
}

/// How often an agent looks whether its standby was promoted.
const STANDBY_EVERY: Duration = Duration::from_secs(1);

/// One session without retries.
pub async fn protect_once(agent: Arc<Agent>, at: usize, stop: CancellationToken) -> Result<(), Ended> {
    session_of(&agent, at, false, stop).await
}

/// How a session ended before it was told to; why is for a person.
#[derive(Debug)]
pub enum Ended {
    /// Another agent is the writer.
    Fenced(String),
    /// Its server is a standby, and another node's agent writes.
    Waiting(String),
    /// The agent is not enrolled for the cluster, or the trust root is another.
    Refused(String),
    /// It may be begun again.
    Failed {
        /// Why.
        why: String,
        /// Whether it had begun at all.
        began: bool,
    },
}

/// Begins a session and runs its parts until it is cancelled or one fails for good.
async fn session_of(
    agent: &Arc<Agent>,
    at: usize,
    scheduled: bool,
    cancel: CancellationToken,
) -> Result<(), Ended> {
    let cluster = &agent.clusters[at];
    if let Err(outside) = agent.admitted(at) {
        return Err(Ended::Refused(outside.to_string()));
    }
    let beginning = Session::begin(
        agent.clone(),
        cluster.config.clone(),
        cluster.numbers.clone(),
        cluster.board.clone(),
        cluster.findings.clone(),
        &cluster.following,
    );
    let begun = tokio::select! {
        begun = beginning => begun,
        () = cancel.cancelled() => return Ok(()),
        never = guard(&cluster.config, &agent.state, &cluster.findings) => match never {},
    };
    let (session, publishing) = begun.map_err(|error| {
        let why = explained(&error);
        match error {
            SessionError::Signer(_) | SessionError::Trust(LoadError::Chain(_)) => Ended::Refused(why),
            SessionError::Standby => Ended::Waiting(why),
            _ => Ended::Failed { why, began: false },
        }
    })?;
    cluster
        .findings
        .clear("server-in-recovery", &cluster.config.id.to_string());
    let subject = session.subject();
    cluster.findings.clear("cluster-not-protected", &subject);
    tracing::info!(cluster = %subject, lineage = %session.lineage, "session begins");

    let mut group = Group::new(cluster.findings.clone(), subject.clone(), cancel.clone());
    let fenced = Arc::new(OnceLock::new());
    {
        let (session, cancel, fenced) = (session.clone(), cancel.clone(), fenced.clone());
        let (door, following) = (cluster.pushes.clone(), cluster.following.clone());
        group.keep("wal", move || {
            let context = WalContext {
                publisher: session.publisher(),
                keys: session.keys.watch_data(),
                target: session.config.postgres.clone(),
                slot: session.config.slot.clone(),
                valve: Valve {
                    limits: session.config.valve,
                    data_directory: session.config.data_directory.clone(),
                },
                lineage: session.lineage,
                following: following.clone(),
                unheld: session.state.unheld(),
                uncompared: session.state.uncompared(),
                index_key: session.keys.index.key.clone(),
                pushing: Some(Pushing {
                    feed: session.config.feed,
                    index_key: session.keys.index.key.clone(),
                    trust: session.trust.clone(),
                    incoming: door.open(session.lineage.system),
                }),
                directives: session.numbers.line(),
                frontier: publishing.clone(),
                findings: session.findings.clone(),
                cancel: cancel.clone(),
            };
            let (fenced, memory) = (fenced.clone(), session.state.clone());
            async move {
                wal::run(context).await.map_err(|error| match error {
                    WalError::Fenced { found, .. } => {
                        lease::beaten(&memory, found);
                        let why = explained(&error);
                        // The first reason is the one that counts.
                        let _ = fenced.set(why.clone());
                        Failure::Final(why)
                    }
                    other => Failure::again(&other),
                })
            }
        });
    }
    if scheduled {
        let (session, cancel) = (session.clone(), cancel.clone());
        group.keep("fences", move || fences::run(session.clone(), cancel.clone()));
    }
    {
        let (session, cancel, queue) = (session.clone(), cancel.clone(), cluster.queue.clone());
        group.keep("jobs", move || {
            Jobs::new(session.clone(), queue.clone(), scheduled, cancel.clone()).run()
        });
    }
    {
        let (session, cancel) = (session.clone(), cancel.clone());
        group.keep("keys", move || {
            let (keys, cancel) = (session.keys.clone(), cancel.clone());
            async move { keys.renew(cancel).await.map_err(|e| Failure::again(&e)) }
        });
    }
    {
        let (session, cancel) = (session.clone(), cancel.clone());
        group.keep("lease copies", move || {
            let (publisher, trust, cancel) = (session.publisher(), session.trust.clone(), cancel.clone());
            async move {
                // A session ends when all its parts have: this one has nothing to finish.
                tokio::select! {
                    never = lease::keep_copies(publisher, trust) => match never {},
                    () = cancel.cancelled() => Ok(()),
                }
            }
        });
    }
    {
        let (agent, cancel) = (agent.clone(), cancel.clone());
        group.keep("residency", move || residency(agent.clone(), at, cancel.clone()));
    }
    let ended = group.join().await;
    match (ended, fenced.get()) {
        (_, Some(why)) => Err(Ended::Fenced(why.clone())),
        (Ok(()), None) => Ok(()),
        (Err(why), None) => Err(Ended::Failed { why, began: true }),
    }
}
