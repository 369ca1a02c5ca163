//! What people and programs read: the fleet's page, its status, the metrics.
//!
//! Read-only: nothing here changes anything that is kept. The page is made on the
//! server, needs no script, and reloads itself. Who may see what of it is decided
//! before a handler is called (`guard`); a handler shows what its caller's reach
//! covers.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Json, Router};
use serde::Serialize;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;
use utoipa::ToSchema;

use super::approvals;
use super::calendar;
use super::cluster_page;
use super::cost;
use super::evidence::{self, EvidenceShowing};
use super::guard::{BODY, Caller, wants_html};
use super::ledger::{self, Ledgers};
use super::login;
use super::me;
use super::oidc;
use super::openapi;
use super::problem::{self, Refusal};
use super::routes::{self, Route};
use super::sight::seen;
use crate::access::{Access, Need, decide};
use crate::desk::{Desk, now};
use crate::docket::Dockets;
use crate::fleet::{ClusterStatus, Fleet, PolicyStatus};
use crate::page::{FleetPage, Part, Section, Visitor};

/// The style sheet.
const STYLE: &str = include_str!("../../assets/style.css");

/// Nothing but our own style sheet, and nobody may frame it.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Two years of TLS, for those who come over it.
const STRICT: HeaderValue = HeaderValue::from_static("max-age=63072000");

/// What the handlers of this listener share.
#[derive(Clone)]
pub struct People {
    /// What is known.
    pub(crate) desk: Arc<Desk>,
    /// Who may see it.
    pub(crate) access: Arc<Access>,
    /// Whoever shows the evidence.
    pub(crate) showing: Option<EvidenceShowing>,
    /// The clusters in all their length.
    pub(crate) ledgers: Ledgers,
    /// What waits for people.
    pub(crate) dockets: Dockets,
}

/// The router of the people's listener.
pub fn router(people: People) -> Router {
    let fixed = |name: HeaderName, value: &'static str| {
        SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
    };
    let secure = people.access.secure();
    routes::mount(&people, handler)
        .fallback(|| async { Refusal::new(StatusCode::NOT_FOUND, "begin at / or at /v1/me") })
        .with_state(people)
        .layer(RequestBodyLimitLayer::new(BODY))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            Duration::from_secs(10),
        ))
        .layer(CatchPanicLayer::new())
        .layer(map_response(problem::detailed))
        .layer(fixed(header::CONTENT_SECURITY_POLICY, POLICY))
        .layer(fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(fixed(header::X_FRAME_OPTIONS, "DENY"))
        // With `no-referrer` browsers would call the sender of our own forms `null`.
        .layer(fixed(header::REFERRER_POLICY, "same-origin"))
        .layer(fixed(
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ))
        .layer(fixed(
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ))
        .layer(fixed(
            HeaderName::from_static("permissions-policy"),
            "camera=(), geolocation=(), microphone=()",
        ))
        .layer(SetResponseHeaderLayer::if_not_present(
            header::STRICT_TRANSPORT_SECURITY,
            move |_: &Response| secure.then_some(STRICT),
        ))
        .layer(fixed(header::CACHE_CONTROL, "no-store"))
}

/// What answers a route.
fn handler(route: Route) -> MethodRouter<People> {
    match route {
        Route::Page => get(page),
        Route::Style => get(style),
        Route::Healthz => get(healthz),
        Route::Login => get(login::form),
        Route::LogIn => post(login::log_in),
        Route::ToProvider => get(oidc::to_provider),
        Route::FromProvider => get(oidc::from_provider),
        Route::LogOut => post(login::log_out),
        Route::Refresh => post(refresh),
        Route::Status => get(status),
        Route::Cluster => get(cluster),
        Route::Calendar => get(calendar::status),
        Route::CalendarPage => get(calendar::page),
        Route::Approvals => get(approvals::status),
        Route::ApprovalsPage => get(approvals::page),
        Route::Cost => get(cost::status),
        Route::CostPage => get(cost::page),
        Route::Points => get(ledger::points),
        Route::ClusterPage => get(cluster_page::page),
        Route::Policy => get(policy),
        Route::Me => get(me::me),
        Route::Decisions => get(me::decisions),
        Route::DecisionsPage => get(me::page),
        Route::OpenApi => get(openapi::document),
        Route::Metrics => get(metrics),
        Route::EvidenceList => get(evidence::list),
        Route::EvidenceDocument => get(evidence::document),
    }
}

/// What a caller sees of the fleet now.
pub(crate) fn fleet(people: &People, caller: &Caller) -> Fleet {
    seen(Fleet::of(&people.desk, now()), &caller.reach)
}

async fn page(
    State(people): State<People>,
    Extension(caller): Extension<Caller>,
    Query(part): Query<Part>,
) -> Result<Response, Refusal> {
    let fleet = fleet(&people, &caller);
    let visitor = visitor(&people, &caller, Route::Page);
    let page = FleetPage::of(&fleet, &people.desk.policy(), visitor, part).render();
    let page = page.map_err(|e| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    Ok(Html(page).into_response())
}

/// The pages that lead to each other.
const SECTIONS: [(Route, &str); 6] = [
    (Route::Page, "Fleet"),
    (Route::CalendarPage, "Calendar"),
    (Route::ApprovalsPage, "Approvals"),
    (Route::EvidenceList, "Evidence"),
    (Route::CostPage, "Cost"),
    (Route::DecisionsPage, "Access"),
];

/// What a page offers to whoever looks at it; `here` is the page.
pub(crate) fn visitor(people: &People, caller: &Caller, here: Route) -> Visitor {
    let grants = people.access.rules().map_or(&[][..], |rules| &rules.grants);
    let at = now();
    let may = |need: Need| decide(caller.who.as_ref(), need, grants, at).is_ok();
    let session = caller.session.as_ref();
    let sections = SECTIONS.into_iter().filter(|(route, _)| may(route.need()));
    Visitor {
        who: session
            .map(|session| session.who.shown().to_owned())
            .unwrap_or_default(),
        csrf: session.map(|session| session.csrf.clone()).unwrap_or_default(),
        refreshes: may(Route::Refresh.need()),
        sections: sections
            .map(|(route, name)| Section {
                path: route.path(),
                name,
                here: route == here,
            })
            .collect(),
    }
}

/// What is looked at because somebody asked.
#[derive(Debug, Serialize, ToSchema)]
pub struct Looking {
    /// At what.
    #[schema(value_type = Vec<String>)]
    looking: [&'static str; 3],
}

/// Has the policy's file, the repository and the evidence looked at now.
#[utoipa::path(
    post,
    path = "/v1/refresh",
    responses(
        (status = 202, body = Looking, description = "They are looked at"),
        (status = 303, description = "As 202, for a browser's form: back to the page"),
    )
)]
pub async fn refresh(State(people): State<People>, headers: HeaderMap) -> Result<Response, Refusal> {
    people.access.refresh(now())?;
    let wake = &people.desk.wake;
    for what in [&wake.policy, &wake.survey, &wake.proven] {
        what.notify_one();
    }
    if wants_html(&headers) {
        return Ok(login::found("/"));
    }
    let looking = ["policy", "repository", "evidence"];
    Ok((StatusCode::ACCEPTED, Json(Looking { looking })).into_response())
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

/// The fleet as the caller may see it, worst first.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Fleet, description = "The fleet")))]
pub async fn status(State(people): State<People>, Extension(caller): Extension<Caller>) -> Json<Fleet> {
    Json(fleet(&people, &caller))
}

/// One cluster.
#[utoipa::path(
    get,
    path = "/v1/clusters/{tenant}/{cluster}",
    params(
        ("tenant" = String, Path, description = "Its tenant", pattern = "^[a-z0-9][a-z0-9_-]{0,62}$"),
        ("cluster" = String, Path, description = "Its name within the tenant", pattern = "^[a-z0-9][a-z0-9_-]{0,62}$"),
    ),
    responses((status = 200, body = ClusterStatus, description = "The cluster"))
)]
pub async fn cluster(
    State(people): State<People>,
    Extension(caller): Extension<Caller>,
    Path((tenant, cluster)): Path<(String, String)>,
) -> Result<Json<ClusterStatus>, Refusal> {
    cluster_of(&people, &caller, &tenant, &cluster).map(Json)
}

/// A cluster that the caller may see.
pub(crate) fn cluster_of(
    people: &People,
    caller: &Caller,
    tenant: &str,
    cluster: &str,
) -> Result<ClusterStatus, Refusal> {
    let wanted = format!("{tenant}/{cluster}");
    let all = fleet(people, caller).clusters;
    let found = all.into_iter().find(|c| c.cluster.to_string() == wanted);
    // Whoever may not see a cluster hears the same as if there were none.
    found.ok_or_else(|| {
        Refusal::new(
            StatusCode::NOT_FOUND,
            "there is no such cluster, or it is out of the grants' scope: /v1/status lists what there is",
        )
    })
}

/// The policy in force, and the one that waits.
#[utoipa::path(get, path = "/v1/policy", responses((status = 200, body = PolicyStatus, description = "The policy")))]
pub async fn policy(State(people): State<People>) -> Json<PolicyStatus> {
    Json(PolicyStatus::of(&people.desk))
}

async fn metrics(State(people): State<People>, Extension(caller): Extension<Caller>) -> Response {
    let text = people.desk.meters.render(&fleet(&people, &caller));
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// Whether this process does its work: the trust chain was read, and no loop
/// has been failing for five minutes. How the fleet fares is another question.
async fn healthz(State(people): State<People>) -> Response {
    let at = now();
    let state = people.desk.state();
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
