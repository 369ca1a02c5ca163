//! What agents may ask: one thing, the heartbeat.
//!
//! An agent is let in for what the trust chain enrols its name for, and for
//! nothing else. A heartbeat that speaks for one cluster too many is refused
//! whole, so that a mistake is seen and half a truth is not acted on.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::map_response;
use axum::routing::post;
use axum::{Extension, Json, Router};
use holdfast_plan::rpo::Witness;
use holdfast_proto::Timestamp;
use holdfast_proto::message::{ClusterFacts, HEARTBEAT_PATH, Heartbeat, Orders};
use holdfast_proto::names::{ActorName, ClusterId};
use holdfast_proto::record::{TrustRole, heard_at};
use holdfast_repository::trust::Trust;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;

use super::accept::Peer;
use super::problem::{self, Refusal};
use crate::desk::{Desk, Report, now};
use crate::meters::Answer;

/// The longest heartbeat.
const BODY: usize = 2 << 20;

/// The most clusters that one agent may report.
const CLUSTERS: usize = 256;

/// The router of the agents' listener.
pub fn router(desk: Arc<Desk>) -> Router {
    Router::new()
        .route(HEARTBEAT_PATH, post(heartbeat))
        .fallback(|| async {
            Refusal::new(
                StatusCode::NOT_FOUND,
                "agents post to /v1/heartbeat and nowhere else",
            )
        })
        .with_state(desk)
        .layer(RequestBodyLimitLayer::new(BODY))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            Duration::from_secs(10),
        ))
        .layer(CatchPanicLayer::new())
        .layer(map_response(problem::detailed))
}

async fn heartbeat(
    State(desk): State<Arc<Desk>>,
    Extension(Peer(agent)): Extension<Peer>,
    Json(heartbeat): Json<Heartbeat>,
) -> Result<Json<Orders>, Refusal> {
    let answered = answer(&desk, &agent, heartbeat);
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
fn answer(desk: &Desk, agent: &ActorName, heartbeat: Heartbeat) -> Result<Orders, Refusal> {
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
    let trust = desk.trust().ok_or_else(|| {
        Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the trust chain has not been read yet: try again soon",
        )
    })?;
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
fn enrolled(trust: &Trust, agent: &ActorName, cluster: Option<&ClusterId>) -> bool {
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
