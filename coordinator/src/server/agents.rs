//! What agents may ask: the heartbeat, and the certificates that it takes.
//!
//! An agent is let in for what the trust chain enrols its name for and its certificate is
//! bound to, and for nothing else. A heartbeat that speaks for one cluster too many is refused
//! whole, so that a mistake is seen and half a truth is not acted on. A certificate that has
//! ended, also one that ended while a connection was open, is good for nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use holdfast_plan::rpo::Witness;
use holdfast_proto::Timestamp;
use holdfast_proto::message::{
    ClusterFacts, ENROL_PATH, HEARTBEAT_PATH, Heartbeat, Orders, RENEW_PATH, SEEN_PATH,
};
use holdfast_proto::names::{ActorName, ClusterId};
use holdfast_proto::record::{TrustRole, heard_at};
use holdfast_repository::trust::Trust;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;

use super::accept::Peer;
use super::enrolment;
pub use super::enrolment::Issuing;
use super::problem::{self, Refusal};
use crate::access::Access;
use crate::desk::{Desk, Report, now};
use crate::meters::Answer;
use crate::pki::AgentIdentity;

/// The longest heartbeat.
const BODY: usize = 2 << 20;

/// The most clusters that one agent may report.
const CLUSTERS: usize = 256;

/// The longest question of a client without a certificate.
const STRANGERS_BODY: usize = 16 << 10;

/// What the handlers of this listener share.
#[derive(Clone)]
pub struct Agents {
    /// What is known.
    pub desk: Arc<Desk>,
    /// Where it is noted who got a certificate.
    pub access: Arc<Access>,
    /// With what certificates are issued, when they are.
    pub issuing: Option<Arc<Issuing>>,
}

impl Agents {
    pub(super) fn issuing(&self) -> Result<&Issuing, Refusal> {
        self.issuing.as_deref().ok_or_else(|| {
            Refusal::new(
                StatusCode::NOT_FOUND,
                "this coordinator issues no certificates: its configuration has no [enrolment]",
            )
        })
    }

    pub(super) fn trust(&self) -> Result<Arc<Trust>, Refusal> {
        self.desk.trust().ok_or_else(|| {
            Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the trust chain has not been read yet: try again soon",
            )
        })
    }
}

/// The router of the agents' listener.
pub fn router(agents: Agents) -> Router {
    let router = Router::new()
        .route(HEARTBEAT_PATH, post(heartbeat))
        .route(RENEW_PATH, post(enrolment::renew))
        .route(SEEN_PATH, get(enrolment::seen))
        .fallback(|| async {
            Refusal::new(
                StatusCode::NOT_FOUND,
                "agents post to /v1/heartbeat and /v1/renew and nowhere else",
            )
        })
        .layer(from_fn_with_state(agents.clone(), in_force))
        .with_state(agents);
    bounded(router, BODY)
}

/// The router for those who come to that listener without a certificate.
pub fn strangers(agents: Agents) -> Router {
    let router = Router::new()
        .route(ENROL_PATH, post(enrolment::enrol))
        .fallback(|| async {
            Refusal::new(
                StatusCode::UNAUTHORIZED,
                "this takes an agent's certificate: the agent gets one with a token of `holdfast coordinator invite`",
            )
        })
        .with_state(agents);
    bounded(router, STRANGERS_BODY)
}

fn bounded(router: Router, body: usize) -> Router {
    router
        .layer(RequestBodyLimitLayer::new(body))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            Duration::from_secs(10),
        ))
        .layer(CatchPanicLayer::new())
        .layer(map_response(problem::detailed))
}

/// Lets those through whose certificate counts at this moment.
async fn in_force(
    State(agents): State<Agents>,
    Extension(Peer(peer)): Extension<Peer>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let ended = agents.desk.config.tls.ended.iter();
    let ended = ended
        .filter(|ended| ended.agent == peer.agent && peer.from < ended.before)
        .map(|ended| ended.before)
        .max();
    let detail = match ended {
        Some(before) => format!(
            "certificates of agent {} from before {before} were ended: it gets another one with a token of `holdfast \
             coordinator invite`",
            peer.agent
        ),
        None if now() > peer.until => format!(
            "the certificate of agent {} ended at {}: it gets another one with a token of `holdfast coordinator invite`",
            peer.agent, peer.until
        ),
        None => return Ok(next.run(request).await),
    };
    Err(Refusal::new(StatusCode::FORBIDDEN, detail))
}

async fn heartbeat(
    State(agents): State<Agents>,
    Extension(Peer(peer)): Extension<Peer>,
    Json(heartbeat): Json<Heartbeat>,
) -> Result<Json<Orders>, Refusal> {
    let (desk, agent) = (&agents.desk, &peer.agent);
    let answered = answer(&agents, &peer, heartbeat);
    desk.meters.heartbeat(match &answered {
        Ok(_) => Answer::Accepted,
        Err(refusal) if refusal.status == StatusCode::SERVICE_UNAVAILABLE => Answer::Unready,
        Err(refusal) if refusal.status == StatusCode::MISDIRECTED_REQUEST => Answer::Standby,
        Err(refusal) => {
            tracing::warn!(%agent, why = refusal.detail, "a heartbeat was refused");
            Answer::Refused
        }
    });
    answered.map(Json)
}

/// Checks, hears and answers a heartbeat.
fn answer(agents: &Agents, peer: &AgentIdentity, heartbeat: Heartbeat) -> Result<Orders, Refusal> {
    let (desk, agent) = (&*agents.desk, &peer.agent);
    if heartbeat.agent != *agent {
        let detail = format!(
            "the certificate is that of agent {agent}, the heartbeat speaks for {}: give each agent its own certificate",
            heartbeat.agent
        );
        return Err(Refusal::new(StatusCode::FORBIDDEN, detail));
    }
    if heartbeat.clusters.len() > CLUSTERS {
        let detail = format!("an agent reports at most {CLUSTERS} clusters: use more agents");
        return Err(Refusal::new(StatusCode::FORBIDDEN, detail));
    }
    let trust = agents.trust()?;
    if !enrolled(&trust, agent, None) {
        let detail = format!("agent {agent} is not enrolled: a root signs `holdfast trust enrol` for it");
        return Err(Refusal::new(StatusCode::FORBIDDEN, detail));
    }
    if let Some(other) = heartbeat
        .clusters
        .iter()
        .find(|f| !enrolled(&trust, agent, Some(&f.cluster)))
    {
        let detail = format!(
            "agent {agent} is not enrolled for {}: a root signs `holdfast trust enrol` for it, if it should be",
            other.cluster
        );
        return Err(Refusal::new(StatusCode::FORBIDDEN, detail));
    }
    let bound = |cluster: &ClusterId| peer.clusters.is_empty() || peer.clusters.contains(cluster);
    if let Some(other) = heartbeat.clusters.iter().find(|f| !bound(&f.cluster)) {
        let detail = format!(
            "the certificate of agent {agent} is not for {}: it gets another one with a token of `holdfast coordinator \
             invite` that names the cluster",
            other.cluster
        );
        return Err(Refusal::new(StatusCode::FORBIDDEN, detail));
    }
    let Some(term) = desk.lead.term() else {
        overhear(desk, agent, heartbeat, now());
        return Err(not_the_leader(desk));
    };
    let orders = hear(desk, agent, heartbeat, term, now());
    // They may have taken long: what was decided counts while its term does.
    match desk.lead.term() {
        Some(still) if still == term => Ok(orders),
        _ => Err(not_the_leader(desk)),
    }
}

fn not_the_leader(desk: &Desk) -> Refusal {
    let leading = desk.lead.leading();
    let detail = match (leading.trouble, leading.coordinator) {
        (Some(trouble), _) => format!("{} does not lead: {}", desk.config.name, trouble.why),
        (None, Some(name)) if name != desk.config.name => {
            format!("{} does not lead, {name} does: call that one", desk.config.name)
        }
        _ => format!(
            "{} does not lead: call another coordinator, or again soon",
            desk.config.name
        ),
    };
    Refusal::new(StatusCode::MISDIRECTED_REQUEST, detail)
}

/// Whether the trust chain lets an agent of that name speak for the cluster, or
/// at all.
pub(super) fn enrolled(trust: &Trust, agent: &ActorName, cluster: Option<&ClusterId>) -> bool {
    trust.keys_of(agent).any(|key| {
        key.role == TrustRole::Agent
            && key.revoked.is_none()
            && cluster.is_none_or(|cluster| key.covers(Some(cluster)))
    })
}

/// Takes in what an agent says to a coordinator that does not lead: it is shown, and the
/// exposure is measured with it.
fn overhear(desk: &Desk, agent: &ActorName, heartbeat: Heartbeat, at: Timestamp) {
    let skew = (heartbeat.at.unix_micros() - at.unix_micros()) / 1000;
    let mut state = desk.state();
    for facts in heartbeat.clusters {
        let before = state.reports.remove(&facts.cluster);
        let cluster = facts.cluster.clone();
        let report = report(agent, &heartbeat.version, at, skew, facts, before);
        state.reports.insert(cluster, report);
    }
    drop(state);
    desk.wake.findings.notify_one();
}

/// Takes in what an agent says at a moment, and answers with what it is to do in this term.
pub(crate) fn hear(desk: &Desk, agent: &ActorName, heartbeat: Heartbeat, term: u64, at: Timestamp) -> Orders {
    let mut state = desk.state();
    let ended = state.book.ended(agent, &heartbeat.done, at);
    for (cluster, work) in &ended {
        tracing::info!(%cluster, ?work, %agent, "assigned work ended");
    }
    for result in &heartbeat.done {
        if let Err(err) = &result.outcome {
            tracing::warn!(%agent, id = %result.id, err, "assigned work failed");
        }
    }
    let skew = (heartbeat.at.unix_micros() - at.unix_micros()) / 1000;
    for facts in heartbeat.clusters.iter().cloned() {
        state.book.hear(agent, &facts, &desk.patience, at);
        let before = state.reports.remove(&facts.cluster);
        let cluster = facts.cluster.clone();
        let mut report = report(agent, &heartbeat.version, at, skew, facts, before);
        if report.reign.is_none_or(|(heard_in, _)| heard_in != term) {
            report.reign = Some((term, at));
        }
        state.reports.insert(cluster, report);
    }
    let (policy, open) = desk.governing.policy_at(at);
    let clusters = || heartbeat.clusters.iter().map(|facts| &facts.cluster);
    let directives: Vec<_> = clusters()
        .filter_map(|cluster| policy.directives_within(cluster, &open))
        .collect();
    let rhythm = clusters()
        .filter_map(|cluster| Some(policy.in_force_within(cluster, &open)?.rpo.millis() / 5))
        .min();
    let orders = Orders {
        at,
        term,
        assignments: state.book.orders(agent, at),
        directives,
        heard: heartbeat.done.iter().map(|result| result.id).collect(),
        heartbeat_ms: rhythm.unwrap_or(10_000).clamp(1_000, 10_000),
    };
    drop(state);
    desk.wake.schedule.notify_one();
    desk.wake.findings.notify_one();
    if !ended.is_empty() {
        desk.wake.survey.notify_one();
        desk.wake.remember.notify_one();
    }
    orders
}

fn report(
    agent: &ActorName,
    version: &str,
    at: Timestamp,
    skew: i64,
    facts: ClusterFacts,
    before: Option<Report>,
) -> Report {
    let rival = match &before {
        Some(before) if before.agent != *agent && at.millis_since(before.heard) < 60_000 => {
            Some((before.agent.clone(), before.heard))
        }
        Some(before) => before.rival.clone(),
        None => None,
    };
    let claimed = facts.last_base.as_ref().map(|base| base.id);
    let claimed = claimed.map(|id| {
        let known = before.as_ref().and_then(|before| before.claimed);
        known.filter(|(known, _)| *known == id).unwrap_or((id, at))
    });
    let mut report = Report {
        agent: agent.clone(),
        version: version.chars().take(60).collect(),
        heard: at,
        clock_ahead_ms: skew,
        rival,
        claimed,
        reign: before.as_ref().and_then(|before| before.reign),
        witnesses: before.map(|before| before.witnesses).unwrap_or_default(),
        facts,
    };
    if let Some(wal) = &report.facts.wal {
        // Our clock counts: what the agent saw, it saw before it said so.
        let safe_until = at.plus_millis(-i64::try_from(wal.rpo_ms).unwrap_or(i64::MAX));
        let witness = Witness {
            at: heard_at(at, wal.heard_ms, wal.rpo_ms),
            server_flush: wal.server_flush,
            safe: Some((wal.acknowledged, safe_until)),
        };
        report.witness(witness);
    }
    report
}
