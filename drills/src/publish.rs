//! Gathers from the repository what an export of one drill needs.

use holdfast_proto::names::TenantName;
use holdfast_proto::record::TrustRole;
use holdfast_repository::{Repository, layout};

use crate::evidence::coverage::{concerns, of_tenant};
use crate::evidence::dsse::Envelope;
use crate::evidence::entry::{Entry, LoggedEntry};
use crate::evidence::export::{Announced, CoverageInput, ExportInput, ShownEntries};
use crate::evidence::statement::Statement;
use crate::evidence::tlog::Tree;

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

/// For whom an export is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Who may see the drill's tenant: of other tenants it holds hashes.
    Tenant,
    /// Who may see every tenant: it holds the whole log.
    Operator,
}

/// The input for an export of the result at `index` of `entries`, for `audience`.
///
/// # Errors
/// The log cannot be read, or lacks the intent or a checkpoint.
pub async fn gather(
    log: &DrillLog,
    entries: &[LoggedEntry],
    index: u64,
    audience: Audience,
) -> Result<ExportInput, GatherError> {
    let missing = |what: &str| GatherError::Missing(what.to_owned());
    let at = |n: u64| usize::try_from(n).ok().and_then(|n| entries.get(n));
    let result = at(index).ok_or_else(|| missing("the result"))?.clone();
    let Entry::Result(statement) = &result.entry else {
        return Err(missing("the result"));
    };
    let checkpoint = log
        .checkpoint()
        .await?
        .ok_or_else(|| missing("the log's checkpoint"))?;
    let announced = match &statement.predicate.drill.intent {
        Some(intent) => {
            let held = intent
                .checkpoint_size
                .ok_or_else(|| missing("the checkpoint held before the work"))?;
            Some(Announced {
                entry: at(intent.index).ok_or_else(|| missing("the intent"))?.clone(),
                checkpoint: log
                    .held(held, &intent.witness)
                    .await?
                    .ok_or_else(|| missing("the checkpoint held before the work"))?,
            })
        }
        None => None,
    };
    let population = population(log, statement, &at).await?;
    let mut byproducts = Vec::new();
    for byproduct in &statement.predicate.byproducts {
        let stored = log.store().byproduct(&byproduct.digest).await;
        let bytes = stored
            .map_err(LogError::from)?
            .ok_or_else(|| missing(&byproduct.name))?;
        byproducts.push(bytes.to_vec());
    }
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
        intent: announced,
        population,
        byproducts,
        delay_ms: delay(entries, index),
        tree: Tree::from_entries(entries[..size].iter().map(LoggedEntry::bytes)),
        entries: match audience {
            Audience::Operator => {
                ShownEntries::Whole(entries[..size].iter().map(|e| e.bytes().to_vec()).collect())
            }
            Audience::Tenant => tenants_own(log, &entries[..size], &statement.predicate.scope.tenant),
        },
        earlier_checkpoints: Vec::new(),
        trust_records: trust_records(log.store().repository(), log.trust().length()).await,
        trust: log.trust().clone(),
        checkpoint,
        result,
    })
}

/// What the tenant may see. What nobody signed who might is not about anybody,
/// whatever it says; whether a key that was revoked is believed is for the reader.
fn tenants_own(log: &DrillLog, entries: &[LoggedEntry], tenant: &TenantName) -> ShownEntries {
    let signed = |e: &LoggedEntry| {
        let key = log.trust().key(&e.signer());
        key.is_some_and(|k| e.signers().contains(&k.role) && e.envelope.verify(&k.verifying).is_ok())
    };
    let own = (0u64..)
        .zip(entries)
        .filter(|(_, e)| of_tenant(e, tenant) && signed(e))
        .map(|(n, e)| (n, e.bytes().to_vec()));
    ShownEntries::Tenant(own.collect())
}

/// How long the restore whose statement stands at `index` had waited.
pub fn delay(entries: &[LoggedEntry], index: u64) -> Option<u64> {
    entries.iter().find_map(|e| match &e.entry {
        Entry::Received(r) if r.entry == index => Some(r.delay_ms),
        _ => None,
    })
}

/// The input for an export of the month's coverage at `index` of `entries`.
///
/// # Errors
/// The log cannot be read, or that entry is no coverage.
pub async fn gather_coverage(
    log: &DrillLog,
    entries: &[LoggedEntry],
    index: u64,
) -> Result<CoverageInput, GatherError> {
    let missing = |what: &str| GatherError::Missing(what.to_owned());
    let entry = usize::try_from(index)
        .ok()
        .and_then(|n| entries.get(n))
        .ok_or_else(|| missing("the coverage"))?;
    let Entry::Coverage(statement) = &entry.entry else {
        return Err(missing("the coverage"));
    };
    let checkpoint = log
        .checkpoint()
        .await?
        .ok_or_else(|| missing("the log's checkpoint"))?;
    let size = usize::try_from(checkpoint.checkpoint().size)
        .unwrap_or(entries.len())
        .min(entries.len());
    let tenant = &statement.predicate.tenant;
    let counted = (0u64..)
        .zip(entries)
        .filter(|(n, e)| *n < statement.predicate.size && concerns(e, tenant));
    Ok(CoverageInput {
        entry: entry.clone(),
        index,
        entries: counted.map(|(n, e)| (n, e.clone())).collect(),
        tree: Tree::from_entries(entries[..size].iter().map(LoggedEntry::bytes)),
        trust_records: trust_records(log.store().repository(), log.trust().length()).await,
        trust: log.trust().clone(),
        checkpoint,
    })
}

/// What the sample was drawn from, and the checkpoint that its seed follows from.
async fn population<'a>(
    log: &DrillLog,
    statement: &Statement,
    at: &impl Fn(u64) -> Option<&'a LoggedEntry>,
) -> Result<Option<Announced>, GatherError> {
    let missing = |what: &str| GatherError::Missing(what.to_owned());
    let p = &statement.predicate;
    let (Some(sampling), Some(intent)) = (&p.sampling, &p.drill.intent) else {
        return Ok(None);
    };
    let (Some(index), Some(size)) = (sampling.population_index, sampling.checkpoint_size) else {
        return Ok(None);
    };
    let what = "the checkpoint that the seed follows from";
    Ok(Some(Announced {
        entry: at(index).ok_or_else(|| missing("the population"))?.clone(),
        checkpoint: log
            .held(size, &intent.witness)
            .await?
            .ok_or_else(|| missing(what))?,
    }))
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
