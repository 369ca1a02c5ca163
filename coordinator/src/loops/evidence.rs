//! Keeps the evidence log: checkpoints, countersignatures, abandoned intents.
//!
//! What evidence says is the business of whoever keeps it; the coordinator gives
//! the keeper its turn, its view of the repository and its clock, and shows what
//! it found. Without a keeper (no log key is configured) drills cannot be sealed,
//! and the loop does not exist.

use std::pin::Pin;
use std::sync::Arc;

use holdfast_plan::policy::Policy;
use holdfast_proto::Timestamp;
use holdfast_proto::finding::Finding;
use holdfast_repository::Repository;
use holdfast_repository::trust::Trust;

use crate::desk::{Desk, now};
use crate::governing::Taken;

/// One turn of a keeper: what departs from what should be, or why there was none.
pub type Turn = Pin<Box<dyn Future<Output = Result<Vec<Finding>, String>> + Send>>;

/// What a keeper gets to see in its turn.
#[derive(Debug, Clone)]
pub struct Given {
    /// The repository.
    pub repository: Repository,
    /// Who is believed.
    pub trust: Arc<Trust>,
    /// The policy in force.
    pub policy: Arc<Policy>,
    /// How it came into force, when that was in this process.
    pub taken: Option<Taken>,
    /// The moment, by the coordinator's clock.
    pub at: Timestamp,
}

/// Whoever keeps the evidence log in the coordinator's name.
pub type EvidenceKeeping = Arc<dyn Fn(Given) -> Turn + Send + Sync>;

/// Gives the keeper its turn.
pub async fn run(keeper: EvidenceKeeping, desk: Arc<Desk>) -> Result<(), String> {
    let Some(trust) = desk.trust() else { return Ok(()) };
    let given = Given {
        repository: desk.repository.clone(),
        trust,
        policy: desk.policy(),
        taken: desk.governing.taken(),
        at: now(),
    };
    let findings = keeper(given).await?;
    desk.state().evidence = findings;
    Ok(())
}
