//! Signs, at the tier's rate, how far the WAL is safe.
//!
//! The attestation is what tells an idle database from a dead agent when nobody
//! hears the agent itself. It goes to every replica that answers; one that does
//! not is the courier's finding. Without a stream there is nothing to attest.

use std::sync::Arc;

use futures::future::join_all;
use holdfast_repository::Deadlines;
use holdfast_repository::clock::now;
use holdfast_repository::layout;
use holdfast_repository::signed::Content;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::LineDirectives;
use super::shared::Shared;

/// Attests for ever.
pub(super) async fn attest(shared: Arc<Shared>, mut directives: watch::Receiver<LineDirectives>) {
    let mut last: Option<Instant> = None;
    let mut revision = shared.revisions();
    loop {
        if shared.state().is_none() {
            if revision.changed().await.is_err() {
                return;
            }
            continue;
        }
        if let Some(last) = last {
            let due = last + directives.borrow_and_update().attest_interval;
            tokio::select! {
                () = sleep_until(due) => {}
                // Another interval counts from the same attestation.
                changed = directives.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => sleep_until(due).await,
                },
            }
        }
        last = Some(Instant::now());
        publish(&shared).await;
    }
}

async fn publish(shared: &Shared) {
    let Some(state) = shared.state() else { return };
    let body = state.attestation(now(), shared.captured());
    let key = layout::frontier(&shared.archive.cluster, shared.archive.lineage, body.at);
    let object = shared
        .publisher
        .sign(&key, Content::default(), None, None, &body)
        .bytes;
    let storing = shared.replicas.iter().map(|replica| {
        let (replica, key, object) = (replica.with_deadlines(Deadlines::short()), &key, object.clone());
        async move {
            if let Err(error) = replica.create(key, object).await {
                tracing::debug!(region = %replica.region(), err = %error, "attestation not stored");
            }
        }
    });
    join_all(storing).await;
}
