//! What more than one person must want.
//!
//! A *request* is an object that carries the exact plan and is signed by whoever
//! wants it carried out. An *approval* is an object beside it, signed by one
//! approver, that names the digest of the whole request. How many of them an
//! action needs stands in the trust chain. Whoever carries a plan out asks
//! [`require`] itself: nothing is taken from a coordinator's word, and a plan that
//! differs in one byte has another digest, which nobody granted.
//!
//! What counts as an approval: believed today, of a key enrolled as approver for
//! every cluster of the request, granted, of a person who is not the initiator.
//! One rejection ends a request; so does its age. Two keys of one name are one
//! person.
//!
//! What does not hold: whoever can hide objects can hide a rejection. It takes the
//! full number of approvals all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use holdfast_proto::approval::{ApprovalBody, Decision, Guarded, Quorum, RequestBody};
use holdfast_proto::envelope::Link;
use holdfast_proto::finding::Finding;
use holdfast_proto::names::{ActorName, ClusterId, GroupName, ObjectKey, RequestId};
use holdfast_proto::record::TrustRole;
use holdfast_proto::{Fingerprint, Sha256Digest, Timestamp};

use crate::Repository;
use crate::clock;
use crate::control::{copies, draft, holder, name_of, open, spread};
use crate::layout::{self, Located};
use crate::listing::ListError;
use crate::replica::StoreError;
use crate::signed::{Content, Signed, SignedError};
use crate::signing::SigningKey;
use crate::trust::{SignerRefused, Trust};

/// How far the clocks of people's machines may be ahead of the executor's.
const CLOCKS_MS: u64 = 300_000;

/// Who may ask.
const INITIATORS: [TrustRole; 3] = [TrustRole::Operator, TrustRole::Approver, TrustRole::Coordinator];

/// A request that was verified.
#[derive(Debug, Clone)]
pub struct Request {
    /// What it says.
    pub body: RequestBody,
    /// The plan, byte for byte.
    pub plan: Bytes,
    /// SHA-256 of the plan.
    pub digest: Sha256Digest,
    /// The whole object: what approvals are of.
    pub link: Link,
    /// Who asked.
    pub initiator: ActorName,
    /// Their key.
    pub key: Fingerprint,
}

/// An approval that was verified.
#[derive(Debug, Clone)]
pub struct Approval {
    /// What it says.
    pub body: ApprovalBody,
    /// Who said it.
    pub by: ActorName,
    /// Their key.
    pub key: Fingerprint,
    /// Their group.
    pub group: Option<GroupName>,
}

/// Why something in the place of an approval is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// Where it lies, or whose it is.
    pub what: String,
    /// Why it does not count.
    pub why: String,
}

/// What was found of what people signed.
#[derive(Debug, Clone)]
pub struct Found<T> {
    /// What is to be believed.
    pub items: Vec<T>,
    /// What lies there and does not count.
    pub ignored: Vec<Ignored>,
    /// The replicas that could not be listed: what is on them alone is missing here.
    pub away: Vec<Finding>,
}

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// More approvals are needed.
    Open,
    /// Enough people want it.
    Granted,
    /// Somebody does not.
    Rejected,
    /// Too old.
    Expired,
    /// Its time is in the future: a clock is wrong, or somebody wants it to last.
    Early,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Open => "open",
            State::Granted => "granted",
            State::Rejected => "rejected",
            State::Expired => "expired",
            State::Early => "early",
        })
    }
}

/// What a request came to, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Where it stands.
    pub state: State,
    /// What it needs; `None` when nothing needs approval.
    pub needs: Option<Quorum>,
    /// Who granted it.
    pub granted: BTreeMap<ActorName, Grant>,
    /// Who rejected it.
    pub rejected: BTreeSet<ActorName>,
    /// What does not count.
    pub ignored: Vec<Ignored>,
    /// When it expires.
    pub expires: Option<Timestamp>,
}

/// One person's yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// When, by their clock.
    pub at: Timestamp,
    /// Their group.
    pub group: Option<GroupName>,
}

impl Standing {
    /// How many people and groups are missing still.
    pub fn missing(&self) -> (u32, u32) {
        let needs = self.needs.unwrap_or(Quorum {
            approvals: 0,
            groups: 0,
            valid_ms: 0,
        });
        let people = u32::try_from(self.granted.len()).unwrap_or(u32::MAX);
        let groups: BTreeSet<&GroupName> = self.granted.values().filter_map(|g| g.group.as_ref()).collect();
        let groups = u32::try_from(groups.len()).unwrap_or(u32::MAX);
        (
            needs.approvals.saturating_sub(people),
            needs.groups.saturating_sub(groups),
        )
    }
}

/// Judges a request by what people said. Pure. `more` are approvals beyond what
/// the trust chain asks for, for example inside a calendar's window.
pub fn judge(
    request: &Request,
    approvals: &[Approval],
    needs: Option<Quorum>,
    more: u32,
    now: Timestamp,
) -> Standing {
    let needs = needs.map(|q| Quorum {
        approvals: q.approvals.saturating_add(more),
        ..q
    });
    let mut standing = Standing {
        state: State::Open,
        needs,
        granted: BTreeMap::new(),
        rejected: BTreeSet::new(),
        ignored: Vec::new(),
        expires: needs.and_then(|q| {
            let valid = i64::try_from(q.valid_ms).unwrap_or(i64::MAX);
            let micros = request
                .body
                .at
                .unix_micros()
                .checked_add(valid.checked_mul(1000)?)?;
            Some(Timestamp::from_unix_micros(micros))
        }),
    };
    for approval in approvals {
        let ignored = |why: &str| Ignored {
            what: approval.by.to_string(),
            why: why.to_owned(),
        };
        if approval.body.request != request.link || approval.body.plan != request.digest {
            standing.ignored.push(ignored("it is of another request or plan"));
        } else if approval.body.at.millis_since(now) > CLOCKS_MS {
            standing.ignored.push(ignored("it is dated in the future"));
        } else if approval.body.decision == Decision::Reject {
            standing.rejected.insert(approval.by.clone());
        } else if approval.by == request.initiator || approval.key == request.key {
            standing.ignored.push(ignored("whoever asks cannot approve"));
        } else {
            let grant = Grant {
                at: approval.body.at,
                group: approval.group.clone(),
            };
            standing.granted.entry(approval.by.clone()).or_insert(grant);
        }
    }
    standing.state = if request.body.at.millis_since(now) > CLOCKS_MS {
        State::Early
    } else if !standing.rejected.is_empty() {
        State::Rejected
    } else if needs.is_some() && standing.expires.is_none_or(|at| at <= now) {
        State::Expired
    } else if standing.missing() == (0, 0) {
        State::Granted
    } else {
        State::Open
    };
    standing
}

/// A request or an approval that could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum ApprovalError {
    /// No replica holds it.
    #[error("there is no request {0} within reach: see `holdfast approve list`")]
    Unknown(RequestId),
    /// It is there, and nobody vouches for it.
    #[error("request {id} is not to be believed: {source}")]
    Refused {
        /// The request.
        id: RequestId,
        /// Why.
        source: Box<SignedError>,
    },
    /// The request's plan is another one than the one at hand.
    #[error(
        "the plan at hand is not the one of request {id}: approved was {approved}, this is {found}. Ask for approval of \
         this one"
    )]
    OtherPlan {
        /// The request.
        id: RequestId,
        /// Digest of the plan that people signed.
        approved: Sha256Digest,
        /// Digest of the plan at hand.
        found: Sha256Digest,
    },
    /// The request is for another action or other clusters.
    #[error("request {id} is for {what}, not for this")]
    OtherAction {
        /// The request.
        id: RequestId,
        /// What it is for.
        what: String,
    },
    /// Not enough people want it.
    #[error("request {id} is {state}: {why}")]
    NotGranted {
        /// The request.
        id: RequestId,
        /// Where it stands.
        state: State,
        /// In words.
        why: String,
    },
    /// The key may not do this.
    #[error("this key may not {what}: {source}")]
    Key {
        /// What it was used for.
        what: &'static str,
        /// Why not.
        source: SignerRefused,
    },
    /// The person has said something already.
    #[error("{0} has answered this request already: an answer stands")]
    Answered(ActorName),
    /// Whoever asks cannot approve.
    #[error("{0} made this request: somebody else must approve it")]
    Initiator(ActorName),
    /// It cannot be listed.
    #[error(transparent)]
    List(#[from] ListError),
    /// No replica took it.
    #[error("no replica took it: {0}")]
    Store(#[source] StoreError),
}

/// Verifies the request at `key`.
fn open_request(bytes: &Bytes, key: &ObjectKey, trust: &Trust) -> Result<Signed<RequestBody>, SignedError> {
    open(bytes, key, trust, &INITIATORS, |body: &RequestBody| {
        body.clusters.clone()
    })
}

/// Verifies the approval at `key` as one for `clusters`.
fn open_approval(
    bytes: &Bytes,
    key: &ObjectKey,
    trust: &Trust,
    clusters: &[ClusterId],
) -> Result<Signed<ApprovalBody>, SignedError> {
    open(bytes, key, trust, &[TrustRole::Approver], |_| clusters.to_vec())
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Draw {
    /// The action.
    pub action: Guarded,
    /// The clusters that it concerns.
    pub clusters: Vec<ClusterId>,
    /// The plan in a line.
    pub summary: String,
    /// Why.
    pub reason: String,
    /// The plan, byte for byte.
    pub plan: Vec<u8>,
}

/// Stores a request on every replica within reach. Returns it, and where it could
/// not be stored.
pub async fn ask(
    repository: &Repository,
    trust: &Trust,
    id: RequestId,
    draw: Draw,
    signer: &SigningKey,
    now: Timestamp,
) -> Result<(Request, Vec<Finding>), ApprovalError> {
    let fingerprint = signer.fingerprint();
    let initiator = holder(
        trust,
        &fingerprint,
        &INITIATORS,
        &draw.clusters,
        "ask for approval",
    )?;
    let key = layout::request(id);
    let body = RequestBody {
        id,
        action: draw.action,
        clusters: draw.clusters,
        summary: draw.summary,
        reason: draw.reason,
        at: now,
    };
    let plan = Bytes::from(draw.plan.clone());
    let object = draft(trust, &key, draw.plan.into(), &body).sign(signer);
    let findings = spread(repository, &key, &object.bytes, now).await?;
    let request = Request {
        digest: Sha256Digest::of(&plan),
        plan,
        link: Link {
            key,
            sha256: object.sha256,
        },
        body,
        initiator,
        key: fingerprint,
    };
    Ok((request, findings))
}

/// Stores one person's answer on every replica within reach. Returns where it
/// could not be stored.
pub async fn answer(
    repository: &Repository,
    trust: &Trust,
    request: &Request,
    decision: Decision,
    reason: Option<String>,
    signer: &SigningKey,
    now: Timestamp,
) -> Result<Vec<Finding>, ApprovalError> {
    let fingerprint = signer.fingerprint();
    let clusters = &request.body.clusters;
    let by = holder(
        trust,
        &fingerprint,
        &[TrustRole::Approver],
        clusters,
        "answer this request",
    )?;
    if decision == Decision::Grant && by == request.initiator {
        return Err(ApprovalError::Initiator(by));
    }
    let key = layout::approval(request.body.id, &fingerprint);
    let (said, _) = answers(repository, trust, request).await?;
    if let Some(earlier) = said.iter().find(|a| a.key == fingerprint) {
        return Err(ApprovalError::Answered(earlier.by.clone()));
    }
    let body = ApprovalBody {
        request: request.link.clone(),
        plan: request.digest,
        decision,
        reason,
        at: now,
    };
    let object = draft(trust, &key, Content::default(), &body).sign(signer);
    spread(repository, &key, &object.bytes, now).await
}

/// The request `id`, from the first copy that is to be believed.
pub async fn load(repository: &Repository, trust: &Trust, id: RequestId) -> Result<Request, ApprovalError> {
    let key = layout::request(id);
    let mut refused = None;
    let mut met = false;
    for replica in repository.replicas() {
        for bytes in copies(replica, &key).await {
            met = true;
            match open_request(&bytes, &key, trust) {
                Ok(signed) if signed.header.body.id == id => return Ok(request_of(signed, trust)),
                Ok(_) => {}
                Err(e) => refused = Some(e),
            }
        }
    }
    match refused {
        Some(source) => Err(ApprovalError::Refused {
            id,
            source: Box::new(source),
        }),
        None if met => Err(ApprovalError::OtherAction {
            id,
            what: "another number".to_owned(),
        }),
        None => Err(ApprovalError::Unknown(id)),
    }
}

fn request_of(signed: Signed<RequestBody>, trust: &Trust) -> Request {
    let link = signed.link();
    let initiator = name_of(trust, &signed.signer);
    Request {
        digest: signed.header.payload.sha256,
        plan: signed.payload,
        link,
        body: signed.header.body,
        initiator,
        key: signed.signer,
    }
}

/// What people said to a request, and what lies there and does not count.
pub async fn answers(
    repository: &Repository,
    trust: &Trust,
    request: &Request,
) -> Result<(Vec<Approval>, Vec<Ignored>), ApprovalError> {
    let listed = repository.list(&layout::approvals(request.body.id)).await?;
    let (mut said, mut ignored) = (Vec::new(), Vec::new());
    for key in listed.keys() {
        let Some(Located::Approval { by, .. }) = layout::parse(key.as_str()) else {
            continue;
        };
        let mut why = "no copy can be read".to_owned();
        let mut found = None;
        'copies: for replica in repository.replicas() {
            for bytes in copies(replica, key).await {
                match open_approval(&bytes, key, trust, &request.body.clusters) {
                    Ok(signed) if signed.signer == by => {
                        found = Some(signed);
                        break 'copies;
                    }
                    Ok(_) => why = "it lies in another person's place".to_owned(),
                    Err(e) => why = e.to_string(),
                }
            }
        }
        match found.and_then(|signed| trust.key(&by).map(|held| (signed, held))) {
            Some((signed, held)) => said.push(Approval {
                body: signed.header.body,
                by: held.name.clone(),
                key: by,
                group: held.group.clone(),
            }),
            None => ignored.push(Ignored {
                what: key.to_string(),
                why,
            }),
        }
    }
    Ok((said, ignored))
}

/// Where a request stands now.
pub async fn standing(
    repository: &Repository,
    trust: &Trust,
    request: &Request,
    more: u32,
    now: Timestamp,
) -> Result<Standing, ApprovalError> {
    let (said, ignored) = answers(repository, trust, request).await?;
    let needs = trust.required(request.body.action, &request.body.clusters);
    let mut standing = judge(request, &said, needs, more, now);
    standing.ignored.extend(ignored);
    Ok(standing)
}

/// Every request within reach, newest first.
///
/// # Errors
/// No replica can be listed.
pub async fn list(repository: &Repository, trust: &Trust) -> Result<Found<Request>, ApprovalError> {
    let listed = repository.list(&layout::requests()).await?;
    let away = listed.findings(clock::now());
    let (mut items, mut ignored) = (Vec::new(), Vec::new());
    for key in listed.keys() {
        let Some(Located::Request { id }) = layout::parse(key.as_str()) else {
            continue;
        };
        match load(repository, trust, id).await {
            Ok(request) => items.push(request),
            Err(e) => ignored.push(Ignored {
                what: key.to_string(),
                why: e.to_string(),
            }),
        }
    }
    items.sort_by_key(|r| std::cmp::Reverse(r.body.id));
    Ok(Found { items, ignored, away })
}

/// Answers an executor: may it carry out `plan`, byte for byte, on `clusters`?
///
/// `Ok(None)` when nothing says that it needs approval and none was named. A named
/// request must hold whether it is needed or not.
///
/// # Errors
/// It needs approval and has none, or the one that was named is not for exactly this.
pub async fn require(
    repository: &Repository,
    trust: &Trust,
    action: Guarded,
    clusters: &[ClusterId],
    plan: &[u8],
    named: Option<RequestId>,
    now: Timestamp,
) -> Result<Option<Granted>, RequireError> {
    let Some(id) = named else {
        return match trust.required(action, clusters) {
            None => Ok(None),
            Some(needs) => Err(RequireError::Needed { action, needs }),
        };
    };
    let request = load(repository, trust, id).await?;
    let mut wanted = clusters.to_vec();
    let mut asked = request.body.clusters.clone();
    wanted.sort();
    asked.sort();
    if request.body.action != action || wanted != asked {
        let of: Vec<String> = asked.iter().map(ToString::to_string).collect();
        let what = format!("{} of {}", request.body.action, of.join(", "));
        return Err(ApprovalError::OtherAction { id, what }.into());
    }
    let found = Sha256Digest::of(plan);
    if found != request.digest {
        let approved = request.digest;
        return Err(ApprovalError::OtherPlan { id, approved, found }.into());
    }
    let standing = standing(repository, trust, &request, 0, now).await?;
    if standing.state != State::Granted {
        let why = explain(&standing);
        let state = standing.state;
        return Err(ApprovalError::NotGranted { id, state, why }.into());
    }
    Ok(Some(Granted { request, standing }))
}

/// Leave to carry a plan out.
#[derive(Debug, Clone)]
pub struct Granted {
    /// The request.
    pub request: Request,
    /// Who granted it.
    pub standing: Standing,
}

/// Why a plan is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum RequireError {
    /// Nobody was asked.
    #[error(
        "{action} needs the approval of {} here: ask for it, and carry out what was approved",
        people(needs)
    )]
    Needed {
        /// The action.
        action: Guarded,
        /// How many.
        needs: Quorum,
    },
    /// What was named does not hold.
    #[error(transparent)]
    Approval(#[from] ApprovalError),
}

/// A quorum in words.
pub fn people(needs: &Quorum) -> String {
    let people = match needs.approvals {
        1 => "1 person".to_owned(),
        n => format!("{n} people"),
    };
    match needs.groups {
        0 | 1 => people,
        n => format!("{people} of {n} groups"),
    }
}

/// A standing in words.
pub fn explain(standing: &Standing) -> String {
    let names = |of: &mut dyn Iterator<Item = String>| of.collect::<Vec<_>>().join(", ");
    match standing.state {
        State::Granted => match &standing.needs {
            None => "it needs no approval".to_owned(),
            Some(_) => format!(
                "granted by {}",
                names(&mut standing.granted.keys().map(ToString::to_string))
            ),
        },
        State::Rejected => format!(
            "rejected by {}",
            names(&mut standing.rejected.iter().map(ToString::to_string))
        ),
        State::Expired => match standing.expires {
            Some(at) => format!("it ended at {at}: ask again"),
            None => "its time cannot be told: ask again".to_owned(),
        },
        State::Early => "it is dated in the future: compare the clocks, and ask again".to_owned(),
        State::Open => {
            let (people, groups) = standing.missing();
            let mut missing = Vec::new();
            if people > 0 {
                missing.push(format!("{people} more"));
            }
            if groups > 0 {
                missing.push(format!(
                    "somebody of {groups} more {}",
                    if groups == 1 { "group" } else { "groups" }
                ));
            }
            format!("it needs {}", missing.join(", and "))
        }
    }
}

#[cfg(test)]
mod tests;
