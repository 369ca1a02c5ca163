//! The evidence, as whoever keeps it shows it.
//!
//! What a page says is not the coordinator's business, as with keeping
//! (`loops::evidence`): it passes the path on and serves what comes back.

use std::pin::Pin;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use holdfast_proto::Timestamp;
use holdfast_repository::Repository;
use holdfast_repository::trust::Trust;

use super::guard::Caller;
use super::pages::People;
use super::problem::Refusal;
use crate::access::Reach;
use crate::desk::now;

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
    /// What the reader may see.
    pub reach: Reach,
    /// The moment.
    pub at: Timestamp,
}

/// The answer: a document, that there is none, or why it cannot be said.
pub type EvidenceAnswer = Pin<Box<dyn Future<Output = Result<Option<EvidenceDocument>, String>> + Send>>;

/// Whoever shows the evidence.
pub type EvidenceShowing =
    Arc<dyn Fn(Repository, Arc<Trust>, EvidenceQuestion) -> EvidenceAnswer + Send + Sync>;

/// The list of drills.
pub async fn list(
    state: State<People>,
    caller: Extension<Caller>,
    query: RawQuery,
) -> Result<Response, Refusal> {
    document(state, caller, Path(String::new()), query).await
}

/// A drill's page, and what can be saved of it.
pub async fn document(
    State(People { desk, showing, .. }): State<People>,
    Extension(Caller { reach, .. }): Extension<Caller>,
    Path(path): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let none = || {
        Refusal::new(
            StatusCode::NOT_FOUND,
            "there is no such evidence: begin at /evidence",
        )
    };
    let showing = showing.ok_or_else(none)?;
    if path.ends_with(".zip") && !reach.is_whole() {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            format!(
                "an export holds the whole log, of every tenant: it takes the scope *, the grants are for {reach}"
            ),
        ));
    }
    let trust = desk.trust().ok_or_else(|| {
        Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the trust chain has not been read yet",
        )
    })?;
    let question = EvidenceQuestion {
        path,
        query: query.unwrap_or_default(),
        reach,
        at: now(),
    };
    let answer = showing(desk.repository.clone(), trust, question).await;
    let found = answer.map_err(|why| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why))?;
    let document = found.ok_or_else(none)?;
    let mut response = ([(header::CONTENT_TYPE, document.content_type)], document.bytes).into_response();
    let save = document
        .file
        .map(|file| format!("attachment; filename=\"{file}\""));
    if let Some(value) = save.and_then(|text| HeaderValue::from_str(&text).ok()) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    }
    Ok(response)
}
