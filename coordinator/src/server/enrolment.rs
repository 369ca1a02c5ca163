//! Certificates for agents: the first one for a token, the next ones for the one before.
//!
//! What a certificate says comes from the invitation or from the certificate that is shown,
//! never from the request; whether its holder may do anything is still the trust chain's
//! business. Each answer stands in the journal of access.
//!
//! An invitation's token is used in the repository, not here
//! ([`holdfast_repository::invitation`]): any coordinator may be asked, whether or not it
//! leads.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use holdfast_plan::period::Period;
use holdfast_proto::Timestamp;
use holdfast_proto::message::{ENROL_PATH, Enrolment, Issued, RENEW_PATH, Renewal, Seen};
use holdfast_proto::names::{ActorName, ClusterId};
use holdfast_repository::invitation::{InvitationError, Invitations};
use holdfast_repository::signing::SigningKey;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::accept::Peer;
use super::agents::{Agents, enrolled};
use super::guard::Client;
use super::problem::Refusal;
use crate::access::limit::{Buckets, Network, Rate, TooOften};
use crate::access::token::invited;
use crate::desk::now;
use crate::inviting::revoked;
use crate::pki::issuing::{AgentAuthority, ProvenKey};

/// Tokens that are shown, right or wrong, from one network: each is looked for in the
/// repository.
const ATTEMPTS: Rate = Rate {
    burst: 20,
    per_minute: 10,
};

/// Renewals of one agent.
const RENEWALS: Rate = Rate {
    burst: 20,
    per_minute: 10,
};

/// What a coordinator issues with.
pub struct Issuing {
    authority: AgentAuthority,
    lifetime: Period,
    signer: SigningKey,
    attempts: Mutex<Buckets<Option<Network>>>,
    renewals: Mutex<Buckets<ActorName>>,
}

impl Issuing {
    /// Issues certificates that are valid for `lifetime`. `signer` is the coordinator's key,
    /// which says in the repository that a token was used.
    pub fn new(authority: AgentAuthority, lifetime: Period, signer: SigningKey) -> Self {
        Self {
            authority,
            lifetime,
            signer,
            attempts: Mutex::new(Buckets::new(ATTEMPTS, 10_000)),
            renewals: Mutex::new(Buckets::new(RENEWALS, 10_000)),
        }
    }

    /// The certificate (PEM) that agents' certificates are checked against.
    pub fn certificate_pem(&self) -> &str {
        self.authority.certificate_pem()
    }

    fn attempt(&self, client: IpAddr, now: Timestamp) -> Result<(), TooOften> {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.take(&Some(Network::from(client)), now)
    }

    fn renewal(&self, agent: &ActorName, now: Timestamp) -> Result<(), TooOften> {
        let mut renewals = self.renewals.lock().unwrap_or_else(PoisonError::into_inner);
        renewals.take(agent, now)
    }

    fn issue(
        &self,
        agent: &ActorName,
        clusters: &[ClusterId],
        key: &ProvenKey,
        at: Timestamp,
    ) -> Result<CertificateDer<'static>, Refusal> {
        let until = at.plus_millis(self.lifetime.signed_millis());
        let issued = self.authority.issue(agent, clusters, key, at, until);
        issued.map_err(|e| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
    }
}

fn forbidden(detail: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, detail)
}

fn refused(error: &InvitationError) -> Refusal {
    let status = match error {
        InvitationError::Authority(_) | InvitationError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        InvitationError::Unknown
        | InvitationError::Ended(_)
        | InvitationError::Used(_)
        | InvitationError::Moved
        | InvitationError::Disbelieved(_) => StatusCode::FORBIDDEN,
    };
    Refusal::new(status, error.to_string())
}

/// A certificate in words, for the journal.
fn words(certificate: &CertificateDer<'_>) -> String {
    match X509Certificate::from_der(certificate) {
        Ok((_, read)) => format!(
            "certificate {}, until {}",
            read.raw_serial_as_string(),
            read.validity().not_after
        ),
        Err(_) => "certificate".to_owned(),
    }
}

fn answer(certificate: &CertificateDer<'_>) -> Json<Issued> {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let lines: Vec<&str> = (0..text.len())
        .step_by(64)
        .map(|at| &text[at..text.len().min(at + 64)])
        .collect();
    Json(Issued {
        certificate: format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            lines.join("\n")
        ),
    })
}

/// The first certificate of an agent, for a token.
pub(super) async fn enrol(
    State(agents): State<Agents>,
    Extension(Client(client)): Extension<Client>,
    Json(asked): Json<Enrolment>,
) -> Result<Json<Issued>, Refusal> {
    let (mut agent, client) = (None, client.ip());
    let outcome = redeemed(&agents, client, &asked, &mut agent).await;
    note(&agents, agent.as_ref(), ENROL_PATH, client, outcome)
}

async fn redeemed(
    agents: &Agents,
    client: IpAddr,
    asked: &Enrolment,
    agent: &mut Option<ActorName>,
) -> Result<CertificateDer<'static>, Refusal> {
    let (issuing, at) = (agents.issuing()?, now());
    issuing.attempt(client, at)?;
    let trust = agents.trust()?;
    let key = ProvenKey::of_request(&asked.request)
        .map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, e.to_string()))?;
    let token = invited(&asked.token).ok_or_else(|| refused(&InvitationError::Unknown))?;
    let invitations = Invitations::of(&agents.desk.repository, &trust)
        .await
        .map_err(|e| refused(&e))?;
    let invitation = invitations.find(&token).await.map_err(|e| refused(&e))?;
    let body = &invitation.body;
    *agent = Some(body.agent.clone());
    if asked.agent != body.agent {
        return Err(forbidden(format!(
            "the token is for agent {}, not for {}: use it there, or correct the agent's name",
            body.agent, asked.agent
        )));
    }
    let public = key.fingerprint();
    if let Some(before) = invitations
        .used(&invitation, &public)
        .await
        .map_err(|e| refused(&e))?
    {
        return Ok(before.into());
    }
    invitations.good(&invitation, at).map_err(|e| refused(&e))?;
    if revoked(&trust, &body.agent) {
        return Err(forbidden(format!(
            "agent {} was revoked in the trust chain: enrol another key for it first, if it should come back \
             (`holdfast trust enrol`)",
            body.agent
        )));
    }
    let certificate = issuing.issue(&body.agent, &body.clusters, &key, at)?;
    let counts = invitations.redeem(&invitation, &public, &certificate, &issuing.signer, at);
    Ok(counts.await.map_err(|e| refused(&e))?.into())
}

/// The next certificate of an agent, of the same identity as the one that it shows.
pub(super) async fn renew(
    State(agents): State<Agents>,
    Extension(Client(client)): Extension<Client>,
    Extension(Peer(peer)): Extension<Peer>,
    Json(asked): Json<Renewal>,
) -> Result<Json<Issued>, Refusal> {
    let renewed = || {
        let (issuing, at) = (agents.issuing()?, now());
        issuing.renewal(&peer.agent, at)?;
        let trust = agents.trust()?;
        if !enrolled(&trust, &peer.agent, None) {
            return Err(forbidden(format!(
                "agent {} is not in the trust chain, or was revoked there: its certificate is not renewed",
                peer.agent
            )));
        }
        let key = ProvenKey::of_request(&asked.request)
            .map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, e.to_string()))?;
        let clusters: Vec<ClusterId> = peer.clusters.iter().cloned().collect();
        issuing.issue(&peer.agent, &clusters, &key, at)
    };
    let outcome = renewed();
    note(&agents, Some(&peer.agent), RENEW_PATH, client.ip(), outcome)
}

fn note(
    agents: &Agents,
    agent: Option<&ActorName>,
    path: &str,
    client: IpAddr,
    outcome: Result<CertificateDer<'static>, Refusal>,
) -> Result<Json<Issued>, Refusal> {
    let said = outcome.as_ref().map(words);
    let said = match &said {
        Ok(words) => Ok(words.as_str()),
        Err(refusal) => Err(refusal.detail.as_str()),
    };
    let route = format!("POST {path}");
    agents
        .access
        .note_certificate(agent, &route, Some(client), said, now());
    outcome.map(|certificate| answer(&certificate))
}

/// As whom an agent is seen: it finds out so that a new certificate is taken, before it
/// gives up the old one.
pub(super) async fn seen(Extension(Peer(peer)): Extension<Peer>) -> Json<Seen> {
    Json(Seen {
        agent: peer.agent,
        clusters: peer.clusters.into_iter().collect(),
    })
}
