//! Inviting an agent: a token for its certificate, made where the coordinator's key is.
//!
//! Whoever can read the coordinator's key and its authority over agents can issue
//! certificates without any invitation, so making one takes nothing more than that; nobody
//! can make one over the network.

use holdfast_plan::period::Period;
use holdfast_proto::Timestamp;
use holdfast_proto::names::{ActorName, ClusterId};
use holdfast_proto::record::{InvitationBody, TrustRole};
use holdfast_repository::Repository;
use holdfast_repository::invitation::{InvitationError, Invitations};
use holdfast_repository::signing::SigningKey;
use holdfast_repository::trust::{SignerRefused, Trust};

use crate::access::Token;
use crate::access::token::invited;

/// How long an invitation may be good, in milliseconds: a minute to a week. A token lies
/// about until it is used.
pub const VALID: std::ops::RangeInclusive<u64> = 60_000..=7 * 86_400_000;

/// An agent that could not be invited.
#[derive(Debug, thiserror::Error)]
pub enum InviteError {
    /// It would be good for too short or too long.
    #[error("an invitation is good for 1min to 7d, not for {0}")]
    Valid(Period),
    /// For nothing.
    #[error("an invitation names the clusters that the agent may speak for: write them as TENANT/CLUSTER")]
    NoCluster,
    /// The coordinator's key is not to be believed.
    #[error("the coordinator's signing key cannot sign an invitation: {0}")]
    Key(#[from] SignerRefused),
    /// Every key of the agent was revoked.
    #[error(
        "agent {0} was revoked in the trust chain: give the new one another name, or enrol another key for it first"
    )]
    Revoked(ActorName),
    /// The system.
    #[error("{0}")]
    Randomness(String),
    /// It could not be stored.
    #[error(transparent)]
    Invitation(#[from] InvitationError),
}

/// An invitation that was made.
#[derive(Debug)]
pub struct Invited {
    /// The token, shown once.
    pub token: Token,
    /// What it is good for.
    pub body: InvitationBody,
    /// The clusters for which the trust chain does not enrol the agent yet.
    pub not_enrolled: Vec<ClusterId>,
}

/// Makes an invitation for one certificate of `agent`, bound to `clusters`, and stores it.
///
/// # Errors
/// What is asked for makes no sense, the key may not, or the authority does not take it.
pub async fn invite(
    repository: &Repository,
    trust: &Trust,
    signer: &SigningKey,
    agent: &ActorName,
    clusters: &[ClusterId],
    valid: Period,
    now: Timestamp,
) -> Result<Invited, InviteError> {
    if !VALID.contains(&valid.millis()) {
        return Err(InviteError::Valid(valid));
    }
    if clusters.is_empty() {
        return Err(InviteError::NoCluster);
    }
    trust.check(&signer.fingerprint(), &[TrustRole::Coordinator], None)?;
    if revoked(trust, agent) {
        return Err(InviteError::Revoked(agent.clone()));
    }
    let invitations = Invitations::of(repository, trust).await?;
    let token = Token::invitation().map_err(InviteError::Randomness)?;
    let hash = invited(token.reveal()).expect("a token that was just made is one");
    let mut clusters = clusters.to_vec();
    clusters.sort();
    clusters.dedup();
    let body = InvitationBody {
        agent: agent.clone(),
        clusters,
        authority: invitations.authority(),
        made: now,
        ends: now.plus_millis(valid.signed_millis()),
    };
    invitations.make(&hash, &body, signer).await?;
    let not_enrolled = body.clusters.iter().filter(|cluster| {
        !trust
            .keys_of(agent)
            .any(|key| key.role == TrustRole::Agent && key.revoked.is_none() && key.covers(Some(cluster)))
    });
    Ok(Invited {
        not_enrolled: not_enrolled.cloned().collect(),
        token,
        body,
    })
}

/// Whether all keys of that name that the trust chain has had as an agent's are revoked. A
/// name that it does not have yet is none of those: its certificate lets it do nothing.
pub(crate) fn revoked(trust: &Trust, agent: &ActorName) -> bool {
    let mut keys = trust
        .keys_of(agent)
        .filter(|key| key.role == TrustRole::Agent)
        .peekable();
    keys.peek().is_some() && keys.all(|key| key.revoked.is_some())
}
