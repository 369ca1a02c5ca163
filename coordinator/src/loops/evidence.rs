//! Keeps the evidence log: checkpoints, countersignatures, abandoned intents.
//!
//! What evidence says is the business of whoever keeps it; the coordinator gives
//! the keeper its turn, its view of the repository and its clock, and shows what
//! it found. Without a keeper (no log key is configured) drills cannot be sealed,
//! and the loop does not exist.

use std::pin::Pin;
use std::sync::Arc;

use holdfast_proto::Timestamp;
use holdfast_proto::finding::Finding;
use holdfast_repository::Repository;
use holdfast_repository::trust::Trust;

use crate::desk::{Desk, now};

/// One turn of a keeper: what departs from what should be, or why there was none.
pub type Turn = Pin<Box<dyn Future<Output = Result<Vec<Finding>, String>> + Send>>;

/// Whoever keeps the evidence log in the coordinator's name.
pub type EvidenceKeeping = Arc<dyn Fn(Repository, Arc<Trust>, Timestamp) -> Turn + Send + Sync>;

/// Gives the keeper its turn.
pub async fn run(keeper: EvidenceKeeping, desk: Arc<Desk>) -> Result<(), String> {
    let Some(trust) = desk.trust() else { return Ok(()) };
    let findings = keeper(desk.repository.clone(), trust, now()).await?;
    desk.state().evidence = findings;
    Ok(())
}
