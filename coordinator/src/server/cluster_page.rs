//! `GET /clusters/TENANT/CLUSTER`: one cluster's page.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use serde::Deserialize;

use super::guard::Caller;
use super::pages::{People, cluster_of, visitor};
use super::problem::Refusal;
use super::routes::Route;
use crate::cluster::{ClusterPage, Known, Window};
use crate::desk::now;
use crate::survey::DrillSeen;

/// What of it is wanted.
#[derive(Debug, Default, Deserialize)]
pub struct Wanted {
    /// How far back the drawing goes.
    #[serde(default)]
    window: String,
    /// The moment that is asked about.
    #[serde(default)]
    moment: String,
}

/// The page.
pub async fn page(
    State(people): State<People>,
    Extension(caller): Extension<Caller>,
    Path((tenant, cluster)): Path<(String, String)>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Refusal> {
    let status = cluster_of(&people, &caller, &tenant, &cluster)?;
    let desk = &people.desk;
    let trust = desk.trust();
    let read = people
        .ledgers
        .of(&desk.repository, trust.clone(), &status.cluster)
        .await;
    let (drills, policy): (Vec<DrillSeen>, _) = {
        let state = desk.state();
        (state.proven.of(&status.cluster).cloned().collect(), desk.policy())
    };
    let known = Known {
        at: now(),
        coordinator: &desk.config.name,
        policy: &policy,
        runbooks: desk.config.runbooks.as_ref(),
        status: &status,
        drills: &drills,
        read: read.as_ref(),
        trust: trust.as_deref(),
    };
    let page = ClusterPage::of(
        &known,
        Window::named(&wanted.window),
        &wanted.moment,
        visitor(&people, &caller, Route::ClusterPage),
    );
    let page = page
        .render()
        .map_err(|e| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    Ok(Html(page).into_response())
}
