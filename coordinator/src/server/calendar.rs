//! `GET /calendar` and `GET /v1/calendar`: whether clusters are ready for what comes.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use axum::{Extension, Json};

use super::guard::Caller;
use super::pages::{People, fleet, visitor};
use super::problem::Refusal;
use super::routes::Route;
use crate::page::{Moment, Visitor, length};
use crate::readiness::{ClusterReadiness, Readiness, WindowReadiness, readiness};

/// The page.
#[derive(Template)]
#[template(path = "calendar.html")]
struct CalendarPage {
    visitor: Visitor,
    coordinator: String,
    at: Moment,
    windows: Vec<Row>,
}

/// A window.
struct Row {
    name: String,
    begins: Moment,
    ends: Moment,
    lasts: String,
    open: bool,
    ready: usize,
    all: usize,
    effects: String,
    clusters: Vec<ClusterReadiness>,
}

impl Row {
    fn of(window: WindowReadiness, readiness: &Readiness) -> Self {
        let mut effects = Vec::new();
        effects.extend(
            window
                .rpo_ms
                .map(|ms| format!("at most {} may be lost", length(ms))),
        );
        if !window.freezes.is_empty() {
            let words: Vec<String> = window.freezes.iter().map(|word| word.replace('_', " ")).collect();
            effects.push(format!("frozen: {}", words.join(", ")));
        }
        if window.more_approvers > 0 {
            effects.push(format!("{} more to approve", window.more_approvers));
        }
        Self {
            name: window.calendar.to_string(),
            begins: Moment::of(window.start, readiness.at),
            ends: Moment::of(window.end, readiness.at),
            lasts: length(window.end.millis_since(window.start)),
            open: window.open,
            ready: window.ready(),
            all: window.clusters.len(),
            effects: effects.join(" · "),
            clusters: window.clusters,
        }
    }
}

/// The page.
pub async fn page(
    State(people): State<People>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refusal> {
    let fleet = fleet(&people, &caller);
    let mut ready = readiness(&fleet, &people.desk.policy());
    let windows = std::mem::take(&mut ready.windows);
    let page = CalendarPage {
        visitor: visitor(&people, &caller, Route::CalendarPage),
        coordinator: fleet.coordinator.to_string(),
        at: Moment::of(ready.at, ready.at),
        windows: windows.into_iter().map(|w| Row::of(w, &ready)).collect(),
    };
    let page = page
        .render()
        .map_err(|e| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    Ok(Html(page).into_response())
}

/// How the clusters that the caller may see stand to the windows of their calendars.
#[utoipa::path(get, path = "/v1/calendar", responses((status = 200, body = Readiness, description = "The windows, soonest first")))]
pub async fn status(State(people): State<People>, Extension(caller): Extension<Caller>) -> Json<Readiness> {
    Json(readiness(&fleet(&people, &caller), &people.desk.policy()))
}
