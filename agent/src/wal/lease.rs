//! Sees whether another agent has become the writer of the cluster.
//!
//! The highest numbered lease on any replica names the writer. Taking a lease is
//! the agent's business at its start; the line only stops when a higher number
//! than its own appears.

use std::time::Duration;

use futures::future::join_all;
use holdfast_repository::layout::{self, Located};
use holdfast_repository::publisher::Publisher;
use holdfast_repository::{Deadlines, Replica, StoreError};

use super::WalError;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(10);

/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Looks once. A replica that cannot be listed is no proof of anything.
pub(super) async fn check(publisher: &Publisher) -> Result<(), WalError> {
    let Some(held) = publisher.lease else {
        return Ok(());
    };
    let looks = publisher
        .repository
        .replicas()
        .iter()
        .map(|replica| highest(publisher, replica));
    let found = join_all(looks).await.into_iter().filter_map(|look| match look {
        Ok(found) => found,
        Err(error) => {
            tracing::debug!(err = %error, "leases could not be listed");
            None
        }
    });
    match found.max() {
        Some(found) if found > held => Err(WalError::Fenced { held, found }),
        _ => Ok(()),
    }
}

async fn highest(publisher: &Publisher, replica: &Replica) -> Result<Option<u64>, StoreError> {
    let listed = replica
        .with_deadlines(Deadlines {
            call: PATIENCE,
            attempt: PATIENCE,
            ..Deadlines::short()
        })
        .list(&layout::leases(&publisher.cluster))
        .await?;
    let numbers = listed
        .iter()
        .filter_map(|listed| match layout::parse(listed.key.as_str())? {
            Located::Lease { n, .. } => Some(n),
            _ => None,
        });
    Ok(numbers.max())
}

/// Looks again and again; returns when the lease is lost.
pub(super) async fn watch(publisher: &Publisher) -> WalError {
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(lost) = check(publisher).await {
            return lost;
        }
    }
}
