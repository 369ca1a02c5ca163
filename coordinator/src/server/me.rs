//! Who the caller is, and what was decided about others.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::guard::Caller;
use super::pages::{People, visitor};
use super::problem::Refusal;
use super::routes::Route;
use crate::access::journal::Noted;
use crate::access::{Breadth, Need, Permission, decide};
use crate::desk::now;
use crate::page::{Moment, Visitor};

/// Who the caller is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Me {
    /// `token:NAME`, `subject:NAME`, or `local` while there are no rules.
    who: String,
    /// Over what each permission is granted now; what is absent is not.
    #[schema(value_type = BTreeMap<String, String>)]
    permissions: BTreeMap<&'static str, String>,
}

/// The newest decisions about access.
#[derive(Debug, Serialize, ToSchema)]
pub struct Decisions {
    /// Newest first. The same one again is counted, not repeated.
    decisions: Vec<Noted>,
}

/// Who the caller is, and what they may do.
#[utoipa::path(get, path = "/v1/me", responses((status = 200, body = Me, description = "The caller")))]
pub async fn me(State(people): State<People>, Extension(caller): Extension<Caller>) -> Json<Me> {
    let grants = people.access.rules().map_or(&[][..], |rules| &rules.grants);
    let at = now();
    let reach = |permission| {
        let need = Need::May(permission, Breadth::Scoped);
        decide(caller.who.as_ref(), need, grants, at).ok()
    };
    Json(Me {
        who: caller.who.as_ref().map(ToString::to_string).unwrap_or_default(),
        permissions: Permission::ALL
            .into_iter()
            .filter_map(|permission| Some((permission.as_str(), reach(permission)?.to_string())))
            .collect(),
    })
}

/// What was decided about access lately.
#[utoipa::path(
    get,
    path = "/v1/access",
    responses((status = 200, body = Decisions, description = "The newest decisions"))
)]
pub async fn decisions(State(people): State<People>) -> Json<Decisions> {
    Json(Decisions {
        decisions: people.access.decisions(),
    })
}

/// Which decisions are wanted.
#[derive(Debug, Default, Deserialize)]
pub struct Wanted {
    /// `refused` or `allowed`; all that is something else is both.
    #[serde(default)]
    decided: String,
}

/// The page of decisions.
#[derive(Template)]
#[template(path = "access.html")]
struct DecisionsPage {
    visitor: Visitor,
    coordinator: String,
    at: Moment,
    choices: [Choice; 3],
    rows: Vec<Row>,
}

/// A link to some of them.
struct Choice {
    words: &'static str,
    link: &'static str,
    on: bool,
}

/// A decision on it.
struct Row {
    last: Moment,
    who: String,
    client: String,
    route: String,
    permission: &'static str,
    allowed: bool,
    because: String,
    count: u64,
}

/// What was decided about access lately, for people.
pub async fn page(
    State(people): State<People>,
    Extension(caller): Extension<Caller>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Refusal> {
    let at = now();
    let only = match wanted.decided.as_str() {
        "refused" => Some(false),
        "allowed" => Some(true),
        _ => None,
    };
    let choice = |words, link, which| Choice {
        words,
        link,
        on: only == which,
    };
    let noted = people.access.decisions().into_iter();
    let page = DecisionsPage {
        visitor: visitor(&people, &caller, Route::DecisionsPage),
        coordinator: people.desk.config.name.to_string(),
        at: Moment::of(at, at),
        choices: [
            choice("all", "/access", None),
            choice("refused", "/access?decided=refused", Some(false)),
            choice("allowed", "/access?decided=allowed", Some(true)),
        ],
        rows: noted
            .filter(|noted| only.is_none_or(|allowed| noted.allowed == allowed))
            .map(|noted| Row {
                last: Moment::of(noted.last, at),
                who: noted.who.unwrap_or_else(|| "nobody known".to_owned()),
                client: noted.client.map(|client| client.to_string()).unwrap_or_default(),
                route: noted.route,
                permission: noted.permission.map_or("", Permission::as_str),
                allowed: noted.allowed,
                because: noted.because,
                count: noted.count,
            })
            .collect(),
    };
    let page = page
        .render()
        .map_err(|e| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    Ok(Html(page).into_response())
}
