//! `GET /approvals` and `GET /v1/approvals`: what waits for more than one person.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use axum::{Extension, Json};
use holdfast_proto::Timestamp;
use holdfast_proto::finding::Finding;
use holdfast_proto::names::{ActorName, ClusterId, GroupName, RequestId};
use holdfast_repository::approval::{self, Request, Standing, State as Stands};
use serde::Serialize;
use utoipa::ToSchema;

use super::guard::Caller;
use super::openapi::FindingSchema;
use super::pages::{People, visitor};
use super::problem::Refusal;
use super::routes::Route;
use crate::access::Reach;
use crate::desk::now;
use crate::docket::Docket;
use crate::page::{Moment, Visitor};

/// What waits for people, and what they said.
#[derive(Debug, Serialize, ToSchema)]
pub struct ApprovalsStatus {
    /// When the repository was read.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Requests, newest first.
    requests: Vec<RequestStatus>,
    /// Older ones that are not among them.
    older: usize,
    /// What lies among the requests and is to be believed by nobody.
    ignored: Vec<IgnoredStatus>,
    /// Replicas that could not be listed: a request that is only there is missing here.
    #[schema(value_type = Vec<FindingSchema>)]
    findings: Vec<Finding>,
}

/// A request and where it stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct RequestStatus {
    /// The request.
    #[schema(value_type = String)]
    request: RequestId,
    /// What is to be done.
    action: &'static str,
    /// To which clusters; none means the whole repository.
    #[schema(value_type = Vec<String>)]
    clusters: Vec<ClusterId>,
    /// The plan in a line, in the initiator's words. What counts is the plan.
    summary: String,
    /// Why, in the initiator's words.
    reason: String,
    /// Who asked.
    #[schema(value_type = String)]
    initiator: ActorName,
    /// When, by their clock.
    #[schema(value_type = String, format = DateTime)]
    asked: Timestamp,
    /// `open`, `granted`, `rejected`, `expired` or `early`.
    state: String,
    /// The same in a sentence.
    explanation: String,
    /// When it expires.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires: Option<Timestamp>,
    /// People that it takes; absent when it needs no approval.
    approvals: Option<u32>,
    /// Groups that they must come from.
    groups: Option<u32>,
    /// Who granted it.
    granted: Vec<GrantStatus>,
    /// Who rejected it.
    #[schema(value_type = Vec<String>)]
    rejected: Vec<ActorName>,
    /// Answers that do not count, and why.
    ignored: Vec<IgnoredStatus>,
    /// SHA-256 of the plan: what approvers sign.
    plan_sha256: String,
    /// The plan that is asked for; a string where it is not JSON.
    #[schema(value_type = Object)]
    plan: serde_json::Value,
}

/// One person's yes.
#[derive(Debug, Serialize, ToSchema)]
pub struct GrantStatus {
    /// Who.
    #[schema(value_type = String)]
    name: ActorName,
    /// Their group.
    #[schema(value_type = Option<String>)]
    group: Option<GroupName>,
    /// When, by their clock.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
}

/// What does not count.
#[derive(Debug, Serialize, ToSchema)]
pub struct IgnoredStatus {
    /// Where it lies, or whose it is.
    what: String,
    /// Why it does not count.
    why: String,
}

/// Whether somebody with that reach sees the request: what is about the whole
/// repository, or about a cluster out of reach, is not theirs.
fn seen(request: &Request, reach: &Reach) -> bool {
    let clusters = &request.body.clusters;
    reach.is_whole() || (!clusters.is_empty() && clusters.iter().all(|c| reach.sees(c)))
}

impl ApprovalsStatus {
    fn of(docket: &Docket, reach: &Reach) -> Self {
        let requests = docket.requests.iter().filter(|(r, _)| seen(r, reach));
        let whole = reach.is_whole();
        Self {
            at: docket.at,
            requests: requests.map(|(r, s)| RequestStatus::of(r, s)).collect(),
            older: if whole { docket.older } else { 0 },
            ignored: ignored(docket.ignored.iter().filter(|_| whole)),
            findings: docket.away.iter().filter(|_| whole).cloned().collect(),
        }
    }
}

fn ignored<'a>(of: impl Iterator<Item = &'a approval::Ignored>) -> Vec<IgnoredStatus> {
    of.map(|ignored| IgnoredStatus {
        what: ignored.what.clone(),
        why: ignored.why.clone(),
    })
    .collect()
}

impl RequestStatus {
    fn of(request: &Request, standing: &Standing) -> Self {
        let body = &request.body;
        Self {
            request: body.id,
            action: body.action.as_str(),
            clusters: body.clusters.clone(),
            summary: body.summary.clone(),
            reason: body.reason.clone(),
            initiator: request.initiator.clone(),
            asked: body.at,
            state: standing.state.to_string(),
            explanation: approval::explain(standing),
            expires: standing.expires,
            approvals: standing.needs.map(|needs| needs.approvals),
            groups: standing.needs.map(|needs| needs.groups),
            granted: standing
                .granted
                .iter()
                .map(|(name, grant)| GrantStatus {
                    name: name.clone(),
                    group: grant.group.clone(),
                    at: grant.at,
                })
                .collect(),
            rejected: standing.rejected.iter().cloned().collect(),
            ignored: ignored(standing.ignored.iter()),
            plan_sha256: request.digest.to_string(),
            plan: serde_json::from_slice(&request.plan)
                .unwrap_or_else(|_| String::from_utf8_lossy(&request.plan).into()),
        }
    }
}

/// The page.
#[derive(Template)]
#[template(path = "approvals.html")]
struct ApprovalsPage {
    visitor: Visitor,
    coordinator: String,
    at: Moment,
    trouble: Option<String>,
    waiting: Vec<Row>,
    past: Vec<Row>,
    older: usize,
    ignored: Vec<IgnoredStatus>,
    away: Vec<Finding>,
}

/// A request on it.
struct Row {
    status: RequestStatus,
    class: &'static str,
    action: String,
    over: String,
    asked: Moment,
    expires: Option<Moment>,
    plan: String,
}

impl Row {
    fn of(request: &Request, standing: &Standing, at: Timestamp) -> Self {
        let status = RequestStatus::of(request, standing);
        let clusters: Vec<String> = status.clusters.iter().map(ToString::to_string).collect();
        Self {
            class: match standing.state {
                Stands::Open | Stands::Early => "warn",
                Stands::Granted => "good",
                Stands::Rejected => "bad",
                Stands::Expired => "quiet",
            },
            action: status.action.replace('-', " "),
            over: match clusters.as_slice() {
                [] => "the whole repository".to_owned(),
                some => some.join(", "),
            },
            asked: Moment::of(status.asked, at),
            expires: status.expires.map(|expires| Moment::of(expires, at)),
            plan: match &status.plan {
                serde_json::Value::String(text) => text.clone(),
                json => format!("{json:#}"),
            },
            status,
        }
    }

    /// Whether somebody has to do something: answer, or carry it out.
    fn waits(&self) -> bool {
        matches!(self.status.state.as_str(), "open" | "early" | "granted") && self.status.approvals.is_some()
    }
}

/// The page.
pub async fn page(
    State(people): State<People>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refusal> {
    let desk = &people.desk;
    let at = now();
    let read = people.dockets.read(&desk.repository, desk.trust()).await;
    let (mut waiting, mut past) = (Vec::new(), Vec::new());
    if let Ok(docket) = &read {
        let rows = docket.requests.iter().filter(|(r, _)| seen(r, &caller.reach));
        (waiting, past) = rows.map(|(r, s)| Row::of(r, s, at)).partition(Row::waits);
    }
    let docket = read.as_ref().ok();
    let whole = docket.filter(|_| caller.reach.is_whole());
    let page = ApprovalsPage {
        visitor: visitor(&people, &caller, Route::ApprovalsPage),
        coordinator: desk.config.name.to_string(),
        at: Moment::of(docket.map_or(at, |docket| docket.at), at),
        waiting,
        past,
        older: whole.map_or(0, |docket| docket.older),
        ignored: ignored(whole.iter().flat_map(|docket| &docket.ignored)),
        away: whole.map_or_else(Vec::new, |docket| docket.away.clone()),
        trouble: read.err(),
    };
    let page = page
        .render()
        .map_err(|e| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    Ok(Html(page).into_response())
}

/// What waits for more than one person, and where it stands: requests about clusters that
/// the caller may see.
#[utoipa::path(
    get,
    path = "/v1/approvals",
    responses((status = 200, body = ApprovalsStatus, description = "The requests, newest first"))
)]
pub async fn status(
    State(people): State<People>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<ApprovalsStatus>, Refusal> {
    let desk = &people.desk;
    let read = people.dockets.read(&desk.repository, desk.trust()).await;
    let docket = read.map_err(|why| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why))?;
    Ok(Json(ApprovalsStatus::of(&docket, &caller.reach)))
}
