//! Answers that refuse: problem details (RFC 9457).

use askama::Template;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use serde::Serialize;

use crate::access::limit::TooOften;

/// A request that is not answered with what it asks for.
#[derive(Debug)]
pub struct Refusal {
    pub(super) status: StatusCode,
    pub(super) detail: String,
    /// Seconds after which to ask again.
    pub(super) after: Option<u64>,
}

/// The same for people.
#[derive(Template)]
#[template(path = "refused.html")]
struct Page<'a> {
    title: &'a str,
    detail: &'a str,
}

#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    detail: &'a str,
}

impl Refusal {
    /// A refusal that says why and what to do.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            after: None,
        }
    }

    fn title(&self) -> &'static str {
        self.status.canonical_reason().unwrap_or("Refused")
    }

    /// The answer as a page.
    pub fn page(self) -> Response {
        let page = Page {
            title: self.title(),
            detail: &self.detail,
        };
        match page.render() {
            Ok(page) => self.with_headers(Html(page).into_response()),
            Err(_) => self.into_response(),
        }
    }

    fn with_headers(&self, mut response: Response) -> Response {
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            let how = HeaderValue::from_static("Bearer realm=\"holdfast\"");
            headers.insert(header::WWW_AUTHENTICATE, how);
        }
        if let Some(seconds) = self.after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<TooOften> for Refusal {
    fn from(TooOften { wait }: TooOften) -> Self {
        Self {
            after: Some(wait),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                format!("that was too often: ask again in {wait} s"),
            )
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let problem = Problem {
            title: self.title(),
            status: self.status.as_u16(),
            detail: &self.detail,
        };
        let body = serde_json::to_string(&problem).expect("text and numbers always serialise");
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        self.with_headers((kind, body).into_response())
    }
}
