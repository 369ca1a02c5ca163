//! A restore as it is put before other people: the plan, where everything goes, and
//! what is accepted. Its bytes are what they sign; it is carried out as it stands.

use serde::{Deserialize, Serialize};

use holdfast_plan::restore::RestorePlan;
use holdfast_proto::approval::Guarded;
use holdfast_proto::names::{ActorName, RequestId};
use holdfast_proto::{Sha256Digest, Timestamp};
use holdfast_repository::approval::{self, Granted, RequireError};

use super::access::Access;
use super::execute::Options;
use super::target::Target;

/// Version of the order's form.
const VERSION: u32 = 1;

/// What a restore is for. It decides whether it needs approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// To stand in for what was lost: needs approval where the trust chain says so.
    Production {
        /// The request that was granted.
        approved: Option<RequestId>,
    },
    /// A copy to look at: the server takes connections on its own machine only.
    Copy,
    /// A copy that whoever asked for it keeps without a network, and destroys.
    Drill,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Version of this form: 1.
    pub version: u32,
    /// What is restored.
    pub plan: RestorePlan,
    /// Where to.
    pub target: Target,
    /// Archiving stays as it was configured at the source.
    pub keep_archiving: bool,
    /// Files whose content is on no replica are left out.
    pub accept_lost_files: bool,
}

/// An order that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// A path that JSON cannot say.
    #[error("the restore cannot be written down: {0}. Paths must be UTF-8")]
    Unwritable(#[source] serde_json::Error),
    /// Another form.
    #[error("the approved plan cannot be read: {0}. It was asked for by another version of this program")]
    Unreadable(#[source] serde_json::Error),
    /// Another version.
    #[error("the approved plan has version {0}, which this program does not know: ask again")]
    Version(u32),
}

impl Order {
    /// The order that [`super::execute`] with these arguments carries out.
    pub fn of(plan: &RestorePlan, target: &Target, keep_archiving: bool, accept_lost_files: bool) -> Self {
        Self {
            version: VERSION,
            plan: plan.clone(),
            target: target.clone(),
            keep_archiving,
            accept_lost_files,
        }
    }

    /// The bytes that people sign. Equal orders have equal bytes.
    ///
    /// # Errors
    /// A path is not UTF-8.
    pub fn to_bytes(&self) -> Result<Vec<u8>, OrderError> {
        serde_json::to_vec_pretty(self).map_err(OrderError::Unwritable)
    }

    /// Reads an order.
    ///
    /// # Errors
    /// It is of another form or version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, OrderError> {
        let order: Self = serde_json::from_slice(bytes).map_err(OrderError::Unreadable)?;
        match order.version {
            VERSION => Ok(order),
            other => Err(OrderError::Version(other)),
        }
    }
}

/// Who let a restore be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApprovedBy {
    /// The request.
    pub request: RequestId,
    /// Who asked.
    pub initiator: ActorName,
    /// Digest of the order.
    pub order: Sha256Digest,
    /// Who granted it, and when.
    pub approvers: Vec<(ActorName, Timestamp)>,
}

impl From<Granted> for ApprovedBy {
    fn from(granted: Granted) -> Self {
        Self {
            request: granted.request.body.id,
            initiator: granted.request.initiator,
            order: granted.request.digest,
            approvers: granted
                .standing
                .granted
                .into_iter()
                .map(|(name, grant)| (name, grant.at))
                .collect(),
        }
    }
}

/// Whether this restore may be carried out; who approved it, when somebody did.
pub(super) async fn authorise(
    plan: &RestorePlan,
    access: &Access,
    target: &Target,
    options: &Options,
    now: Timestamp,
) -> Result<Option<ApprovedBy>, AuthoriseError> {
    let Purpose::Production { approved } = options.purpose else {
        return Ok(None);
    };
    let order = Order::of(plan, target, options.keep_archiving, options.accept_lost_files).to_bytes()?;
    let granted = approval::require(
        &access.repository,
        &access.trust,
        Guarded::ProductionRestore,
        std::slice::from_ref(&plan.cluster),
        &order,
        approved,
        now,
    )
    .await?;
    Ok(granted.map(ApprovedBy::from))
}

/// A restore that nobody may carry out.
#[derive(Debug, thiserror::Error)]
pub enum AuthoriseError {
    /// It cannot be written down.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// It needs approval.
    #[error(transparent)]
    Required(#[from] RequireError),
}
