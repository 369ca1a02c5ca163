//! What people and programs read: the fleet's page, its status, the metrics.
//!
//! Served in plain HTTP on this machine only, unless configured otherwise, and
//! read-only: nothing here changes anything. The page is made on the server,
//! needs no script, and reloads itself.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Query, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;

use super::agents::Refusal;
use super::evidence::{self, EvidenceShowing};
use crate::desk::{Desk, now};
use crate::fleet::{Fleet, PolicyStatus};
use crate::page::{FleetPage, Part};

/// The style sheet.
const STYLE: &str = include_str!("../../assets/style.css");

/// Nothing but our own style sheet, and nobody may frame it.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The router of the people's listener.
pub fn router(desk: Arc<Desk>, showing: Option<EvidenceShowing>) -> Router {
    let fixed = |name: HeaderName, value: &'static str| {
        SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
    };
    let evidence = showing.map_or_else(Router::new, |s| evidence::router(Arc::clone(&desk), s));
    Router::new()
        .route("/", get(page))
        .route("/style.css", get(style))
        .route("/v1/status", get(status))
        .route("/v1/policy", get(policy))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .fallback(|| async {
            Refusal::new(
                StatusCode::NOT_FOUND,
                "known are /, /evidence, /v1/status, /v1/policy, /metrics and /healthz",
            )
        })
        .with_state(desk)
        .merge(evidence)
        .layer(fixed(header::CONTENT_SECURITY_POLICY, POLICY))
        .layer(fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(fixed(header::REFERRER_POLICY, "no-referrer"))
        .layer(fixed(header::CACHE_CONTROL, "no-store"))
        .layer(RequestBodyLimitLayer::new(4096))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            Duration::from_secs(10),
        ))
        .layer(CatchPanicLayer::new())
}

async fn page(State(desk): State<Arc<Desk>>, Query(part): Query<Part>) -> Result<Response, Refusal> {
    let at = now();
    let fleet = Fleet::of(&desk, at);
    let page = FleetPage::of(&fleet, &desk.policy(), part).render();
    let page = page.map_err(|e| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    Ok(Html(page).into_response())
}

async fn style() -> Response {
    (
        [
            (header::CONTENT_TYPE, "text/css; charset=utf-8"),
            (header::CACHE_CONTROL, "no-cache"),
        ],
        STYLE,
    )
        .into_response()
}

async fn status(State(desk): State<Arc<Desk>>) -> Json<Fleet> {
    Json(Fleet::of(&desk, now()))
}

async fn policy(State(desk): State<Arc<Desk>>) -> Json<PolicyStatus> {
    Json(PolicyStatus::of(&desk))
}

async fn metrics(State(desk): State<Arc<Desk>>) -> Response {
    let text = desk.meters.render(&Fleet::of(&desk, now()));
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// Whether this process does its work: the trust chain was read, and no loop
/// has been failing for five minutes. How the fleet fares is another question.
async fn healthz(State(desk): State<Arc<Desk>>) -> Response {
    let at = now();
    let state = desk.state();
    let stuck = state.loops.iter().find(|(_, health)| {
        health
            .failing
            .as_ref()
            .is_some_and(|(_, since)| at.millis_since(*since) > 300_000)
    });
    match (state.trust.is_some(), stuck) {
        (true, None) => (StatusCode::OK, "ok\n".to_owned()).into_response(),
        (false, _) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the trust chain has not been read\n".to_owned(),
        )
            .into_response(),
        (true, Some((name, _))) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the {name} loop is failing\n"),
        )
            .into_response(),
    }
}
