//! Restoring: the other half of the hands.
//!
//! [`plan_request`] reads the repository and plans; [`execute`] carries a plan
//! out; [`fetch`] is what PostgreSQL calls for each WAL segment while it replays;
//! [`closure`] compares the database's references with the files once it
//! answers. Nothing here needs a coordinator, or anything but a repository, the
//! fingerprint of the trust root and one identity.

mod access;
mod bundles;
pub mod closure;
mod data_directory;
mod execute;
pub mod fetch;
mod filestore_files;
mod locate;
mod order;
mod pin;
mod place;
pub mod prefetch;
mod recovery;
pub mod relay;
mod segment;
mod target;
mod wal_source;

use holdfast_plan::restore::{Impossible, Request, RestorePlan, plan};
use holdfast_proto::Timestamp;
use holdfast_proto::names::ClusterId;
use holdfast_repository::Repository;
use holdfast_repository::keyring::Keyring;
use holdfast_repository::trust::Trust;

pub use access::{Access, AccessError, Opening};
pub use bundles::{UnpackError, Unpacked, unpack};
pub use data_directory::{DataError, read_linked};
pub use execute::{FetchBy, FilestoreOutcome, Options, Outcome, Phase, PhaseTiming, RestoreError, execute};
pub use filestore_files::FilesError;
pub use locate::{LocateError, locate};
pub use order::{ApprovedBy, AuthoriseError, Order, OrderError, Purpose};
pub use pin::{Decision, PIN_FILE, Pin};
pub use place::PlaceError;
pub use recovery::conclude;
pub use segment::SegmentError;
pub use target::{Target, TargetError, begun, plan_digest};
pub use wal_source::{OpenWal, WalReadError, WalSource};

use crate::ledger::{Ledger, LedgerError};

/// A request that led to no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The repository cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The target cannot be looked for.
    #[error(transparent)]
    Locate(#[from] LocateError),
    /// The target cannot be reached: the answer is no.
    #[error(transparent)]
    Impossible(#[from] Impossible),
}

/// Reads what the repository holds of `cluster` and plans `request`. Without a
/// keyring only targets that headers tell can be planned.
///
/// # Errors
/// The repository cannot be read, or the target cannot be reached.
pub async fn plan_request(
    repository: &Repository,
    trust: &Trust,
    keyring: Option<&Keyring>,
    cluster: &ClusterId,
    request: &Request,
    now: Timestamp,
) -> Result<(RestorePlan, Ledger), PlanError> {
    let mut ledger = Ledger::load(repository, trust, cluster).await?;
    let source = WalSource {
        repository,
        trust,
        keyring,
    };
    let (facts, findings) = locate(&ledger, source, request).await?;
    ledger.findings.extend(findings);
    Ok((plan(&facts, request, now)?, ledger))
}
