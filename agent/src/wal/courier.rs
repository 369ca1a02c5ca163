//! Brings WAL to one replica, in order, as long as it takes.
//!
//! A courier has no state of its own: it asks the ledger what its replica needs
//! next, does it, reports, and asks again. A replica that fails is a finding and
//! is tried again with growing pauses; the others do not wait for it.
//!
//! If the process dies here, an object may be stored that the ledger does not
//! know of: the next listing shows it.

use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::envelope::Link;
use holdfast_proto::finding::Severity;
use holdfast_proto::pg::SegmentSize;
use holdfast_proto::record::WalBody;
use holdfast_repository::{Class, Deadlines, Replica, StoreError};

use super::archive::ArchiveError;
use super::backoff::Backoff;
use super::ledger::{Errand, SealedChunk};
use super::shared::Shared;

/// The finding of a replica that does not take WAL.
pub const REPLICA_FAILS: &str = "wal-replica-failing";

/// The finding of a replica that did not answer when the agent began.
const UNREACHABLE: &str = "replica-unreachable";

/// Serves the replica at `place` for ever.
pub(super) async fn serve(shared: Arc<Shared>, place: usize) {
    let replica = shared.replicas[place].with_deadlines(Deadlines::short());
    let subject = replica.region().to_string();
    let mut revision = shared.revisions();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let mut prepared = None;
    loop {
        revision.borrow_and_update();
        let outcome = match shared.errand(place) {
            (Errand::Rest, _) => {
                if revision.changed().await.is_err() {
                    return;
                }
                continue;
            }
            (errand, size) => run(&shared, place, &replica, errand, size, &mut prepared).await,
        };
        match outcome {
            Ok(()) => {
                backoff.reset();
                shared.findings.clear(REPLICA_FAILS, &subject);
                // What the probe said when the agent began is over, too.
                shared.findings.clear(UNREACHABLE, &subject);
            }
            Err(error) => {
                let (severity, text) = explain(&error);
                shared
                    .findings
                    .raise(severity, REPLICA_FAILS, subject.as_str(), text);
                tokio::time::sleep(backoff.next()).await;
            }
        }
    }
}

pub(super) fn explain(error: &ArchiveError) -> (Severity, String) {
    match error {
        ArchiveError::Store(store) if matches!(store.class(), Class::Retry) => {
            (Severity::Warning, store.explained())
        }
        ArchiveError::Store(store) => (Severity::Critical, store.explained()),
        ArchiveError::Missing { .. } | ArchiveError::NoSource | ArchiveError::Unprepared(_) => {
            (Severity::Warning, error.to_string())
        }
        ArchiveError::Damaged { .. } => (Severity::Critical, error.to_string()),
    }
}

async fn run(
    shared: &Shared,
    place: usize,
    replica: &Replica,
    errand: Errand,
    size: Option<SegmentSize>,
    prepared: &mut Option<Link>,
) -> Result<(), ArchiveError> {
    match errand {
        Errand::Rest => {}
        Errand::List => {
            let holdings = shared.archive.holdings(replica).await?;
            shared.listed(place, holdings);
        }
        Errand::CopyHistory { timeline, from } => {
            let copy = |source| shared.archive.copy_history(source, replica, timeline);
            first_that_works(shared, &from, copy).await?;
            shared.stored_history(place, timeline);
        }
        Errand::Copy {
            timeline,
            start,
            end,
            from,
        } => {
            let Some(size) = size else { return Ok(()) };
            let copy = |source| shared.archive.copy(source, replica, timeline, size, start, end);
            let copied = first_that_works(shared, &from, copy).await?;
            shared.stored(place, timeline, &copied);
        }
        Errand::Upload(chunk) => {
            if prepared.as_ref() != Some(&chunk.needs) {
                let needs = std::slice::from_ref(&chunk.needs);
                shared
                    .publisher
                    .prepare(replica, needs)
                    .await
                    .map_err(ArchiveError::Unprepared)?;
                *prepared = Some(chunk.needs.clone());
            }
            upload(shared, replica, &chunk).await?;
            shared.stored(place, chunk.timeline, &[(chunk.start, chunk.end)]);
        }
    }
    Ok(())
}

/// Tries the replicas that have something, one after the other.
async fn first_that_works<'a, T, F: Future<Output = Result<T, ArchiveError>>>(
    shared: &'a Shared,
    from: &[usize],
    mut copy: impl FnMut(&'a Replica) -> F,
) -> Result<T, ArchiveError> {
    let mut last = None;
    for source in from.iter().map(|place| &shared.replicas[*place]) {
        match copy(source).await {
            Ok(done) => return Ok(done),
            Err(error) => last = Some(error),
        }
    }
    // A ledger that names no source has changed meanwhile: ask it again.
    Err(last.unwrap_or(ArchiveError::NoSource))
}

async fn upload(shared: &Shared, replica: &Replica, chunk: &SealedChunk) -> Result<(), ArchiveError> {
    match replica.create(&chunk.key, chunk.object.clone()).await {
        Ok(_) => Ok(()),
        Err(conflict @ StoreError::Conflict { .. }) => {
            // An upload of this agent's earlier life may have arrived late: the
            // same WAL, sealed another time.
            let there = replica.get(&chunk.key).await?;
            let header = shared.archive.inspect::<WalBody>(&chunk.key, &there)?;
            let ours = shared.archive.is_signed_by(&shared.publisher.signer, &there);
            if ours && (header.body.start, header.body.end) == (chunk.start, chunk.end) {
                Ok(())
            } else {
                Err(conflict.into())
            }
        }
        Err(error) => Err(error.into()),
    }
}
