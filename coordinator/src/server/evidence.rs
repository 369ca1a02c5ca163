//! The evidence, as whoever keeps it shows it.
//!
//! What a page says is not the coordinator's business, as with keeping
//! (`loops::evidence`): it passes the path on and serves what comes back.

use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use holdfast_proto::Timestamp;
use holdfast_repository::Repository;
use holdfast_repository::trust::Trust;

use super::agents::Refusal;
use crate::desk::{Desk, now};

/// A document to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceDocument {
    /// Its media type.
    pub content_type: &'static str,
    /// The name to save it under, when it is to be saved.
    pub file: Option<&'static str>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What is asked for: the path below `/evidence`, and the query string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceQuestion {
    /// Without the slash before it.
    pub path: String,
    /// Without the question mark.
    pub query: String,
    /// The moment.
    pub at: Timestamp,
}

/// The answer: a document, that there is none, or why it cannot be said.
pub type EvidenceAnswer = Pin<Box<dyn Future<Output = Result<Option<EvidenceDocument>, String>> + Send>>;

/// Whoever shows the evidence.
pub type EvidenceShowing =
    Arc<dyn Fn(Repository, Arc<Trust>, EvidenceQuestion) -> EvidenceAnswer + Send + Sync>;

#[derive(Clone)]
struct Shown {
    desk: Arc<Desk>,
    showing: EvidenceShowing,
}

/// Routes below `/evidence`.
pub fn router(desk: Arc<Desk>, showing: EvidenceShowing) -> Router {
    Router::new()
        .route("/evidence", get(list))
        .route("/evidence/{*path}", get(document))
        .with_state(Shown { desk, showing })
}

async fn list(state: State<Shown>, query: RawQuery) -> Result<Response, Refusal> {
    document(state, Path(String::new()), query).await
}

async fn document(
    State(Shown { desk, showing }): State<Shown>,
    Path(path): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let trust = desk.trust().ok_or_else(|| {
        Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the trust chain has not been read yet",
        )
    })?;
    let question = EvidenceQuestion {
        path,
        query: query.unwrap_or_default(),
        at: now(),
    };
    let answer = showing(desk.repository.clone(), trust, question).await;
    let found = answer.map_err(|why| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why))?;
    let document = found.ok_or_else(|| {
        Refusal::new(
            StatusCode::NOT_FOUND,
            "there is no such evidence: begin at /evidence",
        )
    })?;
    let mut response = ([(header::CONTENT_TYPE, document.content_type)], document.bytes).into_response();
    let save = document
        .file
        .map(|file| format!("attachment; filename=\"{file}\""));
    if let Some(value) = save.and_then(|text| HeaderValue::from_str(&text).ok()) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    }
    Ok(response)
}
