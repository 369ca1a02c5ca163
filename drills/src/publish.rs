//! Gathers from the repository what an export of one drill needs.

use holdfast_proto::record::TrustRole;
use holdfast_repository::{Repository, layout};

use crate::evidence::dsse::Envelope;
use crate::evidence::entry::{Entry, LoggedEntry};
use crate::evidence::export::ExportInput;
use crate::evidence::tlog::{SignedCheckpoint, Tree};

use crate::log::{DrillLog, LogError};

/// Evidence that cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Something that belongs to it is not there.
    #[error("{0} is missing in the repository: the evidence is not complete")]
    Missing(String),
}

/// The input for an export of the result at `index` of `entries`.
///
/// # Errors
/// The log cannot be read, or lacks the intent or a checkpoint.
pub async fn gather(log: &DrillLog, entries: &[LoggedEntry], index: u64) -> Result<ExportInput, GatherError> {
    let missing = |what: &str| GatherError::Missing(what.to_owned());
    let at = |n: u64| usize::try_from(n).ok().and_then(|n| entries.get(n));
    let result = at(index).ok_or_else(|| missing("the result"))?.clone();
    let Entry::Result(statement) = &result.entry else {
        return Err(missing("the result"));
    };
    let intent = &statement.predicate.drill.intent;
    let held = intent
        .checkpoint_size
        .ok_or_else(|| missing("the checkpoint held before the work"))?;
    let checkpoint = log
        .checkpoint()
        .await?
        .ok_or_else(|| missing("the log's checkpoint"))?;
    let intent_checkpoint = log.store().checkpoint(held).await.map_err(LogError::from)?;
    let intent_checkpoint = intent_checkpoint
        .and_then(|bytes| SignedCheckpoint::parse(&bytes).ok())
        .ok_or_else(|| missing("the checkpoint held before the work"))?;
    let mut countersignatures = Vec::new();
    for role in [TrustRole::Coordinator, TrustRole::Reviewer] {
        let stored = log
            .store()
            .signature(&result.digest(), role)
            .await
            .map_err(LogError::from)?;
        if let Some(envelope) = stored.and_then(|bytes| Envelope::parse(&bytes).ok()) {
            countersignatures.extend(envelope.signatures);
        }
    }
    let size = usize::try_from(checkpoint.checkpoint().size)
        .unwrap_or(entries.len())
        .min(entries.len());
    Ok(ExportInput {
        result_index: index,
        countersignatures,
        intent: at(intent.index).ok_or_else(|| missing("the intent"))?.clone(),
        intent_checkpoint,
        tree: Tree::from_entries(entries[..size].iter().map(LoggedEntry::bytes)),
        entries: Some(entries[..size].iter().map(|e| e.bytes().to_vec()).collect()),
        earlier_checkpoints: Vec::new(),
        trust_records: trust_records(log.store().repository(), log.trust().length()).await,
        trust: log.trust().clone(),
        checkpoint,
        result,
    })
}

/// The trust chain as stored, from whichever replica has each record.
async fn trust_records(repository: &Repository, length: u64) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    for n in 0..length {
        for replica in repository.reading_order() {
            if let Ok(bytes) = replica.get(&layout::trust(n)).await {
                records.push(bytes.to_vec());
                break;
            }
        }
    }
    records
}
