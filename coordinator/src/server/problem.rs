//! Answers that refuse: problem details (RFC 9457).

use askama::Template;
use axum::body::to_bytes;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

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

/// Problem details. Their type is `about:blank`: the status says it all, the title
/// is its phrase.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// The status in words.
    title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong, and what to do.
    detail: String,
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
            title: self.title().to_owned(),
            status: self.status.as_u16(),
            detail: self.detail.clone(),
        };
        let body = serde_json::to_string(&problem).expect("text and numbers always serialise");
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        self.with_headers((kind, body).into_response())
    }
}

/// The longest text of another layer that becomes a detail, in bytes.
const SAID: usize = 2048;

/// Makes problem details of an error that another layer answered: a method that is not
/// taken, a body that is too long or not what it must be, a deadline, a panic.
pub async fn detailed(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let ours = kind.starts_with("application/problem+json") || kind.starts_with("text/html");
    if ours || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let said = to_bytes(body, SAID).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    let detail = match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            "another method is taken here: the header Allow says which".to_owned()
        }
        StatusCode::REQUEST_TIMEOUT => "it took too long: try again".to_owned(),
        StatusCode::INTERNAL_SERVER_ERROR => "a defect: the coordinator's log says more".to_owned(),
        _ if said.is_empty() => "the request is not one that is taken here".to_owned(),
        _ => said,
    };
    let problem = Refusal::new(status, detail).into_response();
    let (own, body) = problem.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.extend(own.headers);
    Response::from_parts(parts, body)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;

    use super::*;

    async fn shown(response: Response) -> (HeaderMap, serde_json::Value) {
        let (parts, body) = detailed(response).await.into_parts();
        let bytes = to_bytes(body, 10_000).await.unwrap();
        (parts.headers, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    #[tokio::test]
    async fn every_error_is_problem_details_and_keeps_its_headers() {
        let bare = (StatusCode::METHOD_NOT_ALLOWED, [("allow", "GET,HEAD")]).into_response();
        let (headers, problem) = shown(bare).await;
        assert_eq!(headers["allow"], "GET,HEAD");
        assert_eq!(headers["content-type"], "application/problem+json");
        assert_eq!(
            (&problem["status"], &problem["title"]),
            (&405.into(), &"Method Not Allowed".into())
        );
        let said = (
            StatusCode::UNPROCESSABLE_ENTITY,
            "missing field `agent` at line 1",
        )
            .into_response();
        let (headers, problem) = shown(said).await;
        assert_eq!(problem["detail"], "missing field `agent` at line 1");
        assert_eq!(headers["content-type"], "application/problem+json");
        let (_, problem) = shown((StatusCode::INTERNAL_SERVER_ERROR, "secret").into_response()).await;
        assert!(!problem.to_string().contains("secret"), "{problem}");
        let (headers, _) = shown((StatusCode::OK, "fine").into_response()).await;
        assert!(
            headers["content-type"]
                .to_str()
                .unwrap()
                .starts_with("text/plain")
        );
    }
}
