//! Holds: moments that stay restorable, whatever retention says.
//!
//! A hold is an object of its own, signed by an operator or an approver, and needs
//! nobody else: keeping more is never a danger. Its release is another object. Where
//! the trust chain asks for approval of `hold-release`, a release counts only with a
//! request that was granted for exactly this hold, and whoever reads it judges that
//! anew, as of the moment at which it was released.
//!
//! What does not hold: whoever can hide objects can hide a hold. What is on one
//! replica counts.

use holdfast_proto::Timestamp;
use holdfast_proto::approval::Guarded;
use holdfast_proto::envelope::Link;
use holdfast_proto::finding::Finding;
use holdfast_proto::hold::{HoldBody, ReleaseBody, ReleasePlan};
use holdfast_proto::names::{ActorName, ClusterId, HoldId, RequestId};
use holdfast_proto::record::TrustRole;
use serde::Serialize;

use crate::Repository;
use crate::approval::{self, ApprovalError, Found, Ignored, RequireError};
use crate::clock;
use crate::control::{self, copies, draft, holder, open, spread};
use crate::layout::{self, Located};
use crate::signed::Content;
use crate::signing::SigningKey;
use crate::trust::Trust;

/// Who may place a hold, and who may release one.
const HOLDERS: [TrustRole; 2] = [TrustRole::Operator, TrustRole::Approver];

/// A hold that was verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hold {
    /// What it says.
    #[serde(flatten)]
    pub body: HoldBody,
    /// The whole object.
    #[serde(skip)]
    pub link: Link,
    /// Who placed it.
    pub by: ActorName,
    /// Its end, when it was released.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub released: Option<Released>,
}

/// The end of a hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Released {
    /// Who released it.
    pub by: ActorName,
    /// When, by that person's clock.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

/// A hold that could not be placed or released.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The moments are the wrong way round.
    #[error("a hold from {from} to {to} holds nothing: --to must not be before --from")]
    Empty {
        /// The first moment.
        from: Timestamp,
        /// The last moment.
        to: Timestamp,
    },
    /// Nobody could say later what it was for.
    #[error("a hold needs a reason: who reads it in ten years knows nothing of today")]
    NoReason,
    /// There is none of this number.
    #[error("there is no hold {id} within reach{}: see `holdfast hold list`", unless(.away))]
    Unknown {
        /// The number.
        id: HoldId,
        /// The replicas that could not be listed, which may have it.
        away: Vec<String>,
    },
    /// It has ended.
    #[error("hold {id} was released by {by} at {at} already")]
    Released {
        /// The hold.
        id: HoldId,
        /// Who released it.
        by: ActorName,
        /// When.
        at: Timestamp,
    },
    /// Others must want it.
    #[error(transparent)]
    Require(#[from] RequireError),
    /// It cannot be read or stored.
    #[error(transparent)]
    Approval(#[from] ApprovalError),
}

fn unless(away: &[String]) -> String {
    if away.is_empty() {
        return String::new();
    }
    format!(" (not listed was {})", away.join(", "))
}

/// What an approver signs to release `hold`.
pub fn plan_of(hold: &Hold) -> ReleasePlan {
    ReleasePlan {
        release: hold.link.clone(),
        hold: hold.body.clone(),
    }
}

/// Stores a hold on every replica within reach. Returns where it could not be stored.
///
/// # Errors
/// It would hold nothing, the key may not, or no replica takes it.
pub async fn place(
    repository: &Repository,
    trust: &Trust,
    body: &HoldBody,
    signer: &SigningKey,
) -> Result<Vec<Finding>, HoldError> {
    if body.to < body.from {
        let (from, to) = (body.from, body.to);
        return Err(HoldError::Empty { from, to });
    }
    if body.reason.trim().is_empty() {
        return Err(HoldError::NoReason);
    }
    let of = std::slice::from_ref(&body.cluster);
    holder(trust, &signer.fingerprint(), &HOLDERS, of, "place a hold")?;
    let key = layout::hold(body.id);
    let object = draft(trust, &key, Content::default(), body).sign(signer);
    Ok(spread(repository, &key, &object.bytes, body.at).await?)
}

/// Releases a hold. Returns where that could not be stored.
///
/// # Errors
/// There is no such hold, it has ended, the key may not, approval is needed and is not
/// there, or no replica takes it.
pub async fn release(
    repository: &Repository,
    trust: &Trust,
    hold: &Hold,
    reason: String,
    request: Option<RequestId>,
    signer: &SigningKey,
    now: Timestamp,
) -> Result<Vec<Finding>, HoldError> {
    if let Some(Released { by, at, .. }) = hold.released.clone() {
        let id = hold.body.id;
        return Err(HoldError::Released { id, by, at });
    }
    let of = std::slice::from_ref(&hold.body.cluster);
    let fingerprint = signer.fingerprint();
    holder(trust, &fingerprint, &HOLDERS, of, "release a hold")?;
    let plan = plan_of(hold).bytes();
    approval::require(repository, trust, Guarded::HoldRelease, of, &plan, request, now).await?;
    let body = ReleaseBody {
        hold: hold.link.clone(),
        reason,
        request,
        at: now,
    };
    let key = layout::release(hold.body.id, &fingerprint);
    let object = draft(trust, &key, Content::default(), &body).sign(signer);
    Ok(spread(repository, &key, &object.bytes, now).await?)
}

/// The hold of a number.
///
/// # Errors
/// There is none within reach, or nothing can be listed.
pub async fn find(repository: &Repository, trust: &Trust, id: HoldId) -> Result<Hold, HoldError> {
    let Found { items, away, .. } = list(repository, trust, None).await?;
    let found = items.into_iter().find(|hold| hold.body.id == id);
    let away = || away.into_iter().map(|finding| finding.subject).collect();
    found.ok_or_else(|| HoldError::Unknown { id, away: away() })
}

/// The holds of `cluster`, or of all, oldest first, released ones included.
///
/// # Errors
/// No replica can be listed.
pub async fn list(
    repository: &Repository,
    trust: &Trust,
    cluster: Option<&ClusterId>,
) -> Result<Found<Hold>, ApprovalError> {
    let listed = repository.list(&layout::holds()).await?;
    let away = listed.findings(clock::now());
    let (mut items, mut ignored) = (Vec::new(), Vec::new());
    for key in listed.keys() {
        let Some(Located::Hold { id }) = layout::parse(key.as_str()) else {
            continue;
        };
        let mut why = "no copy can be read".to_owned();
        let mut found = None;
        'copies: for replica in repository.replicas() {
            for bytes in copies(replica, key).await {
                match open(&bytes, key, trust, &HOLDERS, |body: &HoldBody| {
                    vec![body.cluster.clone()]
                }) {
                    Ok(signed) if signed.header.body.id == id => {
                        found = Some(signed);
                        break 'copies;
                    }
                    Ok(_) => why = "it says another number".to_owned(),
                    Err(e) => why = e.to_string(),
                }
            }
        }
        let Some(signed) = found else {
            let what = key.to_string();
            ignored.push(Ignored { what, why });
            continue;
        };
        if cluster.is_some_and(|wanted| *wanted != signed.header.body.cluster) {
            continue;
        }
        let by = control::name_of(trust, &signed.signer);
        let mut hold = Hold {
            link: signed.link(),
            body: signed.header.body,
            by,
            released: None,
        };
        hold.released = ended(repository, trust, &hold, &mut ignored).await?;
        items.push(hold);
    }
    items.sort_by_key(|hold| hold.body.id);
    Ok(Found { items, ignored, away })
}

/// The first release of a hold that counts.
async fn ended(
    repository: &Repository,
    trust: &Trust,
    hold: &Hold,
    ignored: &mut Vec<Ignored>,
) -> Result<Option<Released>, ApprovalError> {
    let of = std::slice::from_ref(&hold.body.cluster);
    let listed = repository.list(&layout::releases(hold.body.id)).await?;
    let mut counted: Option<Released> = None;
    for key in listed.keys() {
        let Some(Located::Release { by, .. }) = layout::parse(key.as_str()) else {
            continue;
        };
        let mut why = "no copy can be read".to_owned();
        for replica in repository.replicas() {
            for bytes in copies(replica, key).await {
                let said = match open(&bytes, key, trust, &HOLDERS, |_: &ReleaseBody| of.to_vec()) {
                    Ok(signed) if signed.signer == by && signed.header.body.hold == hold.link => signed,
                    Ok(_) => {
                        why = "it is of another hold, or in another person's place".to_owned();
                        continue;
                    }
                    Err(e) => {
                        why = e.to_string();
                        continue;
                    }
                };
                let body = said.header.body;
                let plan = plan_of(hold).bytes();
                let leave = approval::require(
                    repository,
                    trust,
                    Guarded::HoldRelease,
                    of,
                    &plan,
                    body.request,
                    body.at,
                );
                match leave.await {
                    Ok(_) => {
                        why.clear();
                        if counted.as_ref().is_none_or(|earlier| body.at < earlier.at) {
                            counted = Some(Released {
                                by: control::name_of(trust, &by),
                                at: body.at,
                                reason: body.reason,
                            });
                        }
                    }
                    Err(e) => why = e.to_string(),
                }
            }
        }
        if !why.is_empty() {
            let what = key.to_string();
            ignored.push(Ignored { what, why });
        }
    }
    Ok(counted)
}
