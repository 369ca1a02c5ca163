//! The agent's process: what runs beside each cluster, and who restarts it.

use holdfast_proto::message::Work;
use holdfast_proto::names::ClusterId;
use tokio_util::sync::CancellationToken;

use crate::config::AgentConfig;
use crate::progress::Meter;

/// Why the agent, or one piece of its work, could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration protects no such cluster.
    #[error("{0} is not in the agent's configuration: name one of its [[cluster]] sections")]
    NoSuchCluster(ClusterId),
}

/// What a one-shot run made.
#[derive(Debug, Clone)]
pub struct Done {
    /// For which cluster.
    pub cluster: ClusterId,
    /// What it is, for a person: a backup's id, a journal entry.
    pub made: String,
}

/// Protects every cluster of the configuration until `shutdown`.
pub async fn run(_config: AgentConfig, shutdown: CancellationToken) -> Result<(), AgentError> {
    shutdown.cancelled().await;
    Ok(())
}

/// Does one piece of work now, for one cluster or all, and returns.
pub async fn once(
    config: &AgentConfig,
    cluster: Option<&ClusterId>,
    _work: Work,
    _meter: Meter,
    _shutdown: CancellationToken,
) -> Result<Vec<Done>, AgentError> {
    if let Some(wanted) = cluster
        && !config.clusters.iter().any(|c| &c.id == wanted)
    {
        return Err(AgentError::NoSuchCluster(wanted.clone()));
    }
    Ok(Vec::new())
}
