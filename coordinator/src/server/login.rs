//! Logging in and out with a browser.

use askama::Template;
use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};

use super::cookies::Cookie;
use super::forms::{Fields, same};
use super::guard::Client;
use super::pages::People;
use super::problem::Refusal;
use crate::access::oidc::Provider;
use crate::access::{Principal, random};
use crate::desk::now;

/// The login page.
#[derive(Debug, Template)]
#[template(path = "login.html")]
struct LoginPage {
    problem: String,
    /// What the OpenID provider is called; empty when there is none.
    provider: String,
    /// Whether there are tokens to log in with.
    tokens: bool,
    csrf: String,
    next: String,
}

/// The page with the form.
pub async fn form(
    State(people): State<People>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    if people.access.rules().is_none() {
        return Ok(found("/"));
    }
    let next = Fields::parse(query.as_deref().unwrap_or_default()).get("next");
    shown(&people, &headers, &local_path(&next), "", StatusCode::OK)
}

/// Shows the form, tied to this browser.
pub fn shown(
    people: &People,
    headers: &HeaderMap,
    next: &str,
    problem: &str,
    status: StatusCode,
) -> Result<Response, Refusal> {
    let broken = |e: String| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e);
    let rules = people.access.rules();
    let secure = people.access.secure();
    // A second tab keeps the first one's form working.
    let held = Cookie::Form.read(headers, secure).filter(|v| v.len() == 43);
    let cookie = match held {
        Some(held) => held,
        None => random().map_err(broken)?,
    };
    let page = LoginPage {
        problem: problem.to_owned(),
        provider: people.access.provider().map(Provider::host).unwrap_or_default(),
        tokens: rules.is_some_and(|rules| !rules.tokens.is_empty()),
        csrf: people.access.form_mark(&cookie),
        next: next.to_owned(),
    };
    let page = page.render().map_err(|e| broken(e.to_string()))?;
    let mut response = (status, Html(page)).into_response();
    let set = Cookie::Form.set(&cookie, secure);
    response.headers_mut().append(header::SET_COOKIE, set);
    Ok(response)
}

/// Takes the form. The guard has seen that it comes from our own page.
pub async fn log_in(
    State(people): State<People>,
    client: Option<Extension<Client>>,
    headers: HeaderMap,
    body: String,
) -> Result<Response, Refusal> {
    let secure = people.access.secure();
    let fields = Fields::parse(&body);
    let next = local_path(&fields.get("next"));
    let mark = Cookie::Form
        .read(&headers, secure)
        .map(|cookie| people.access.form_mark(&cookie));
    if !mark.is_some_and(|mark| same(&mark, &fields.get("csrf"))) {
        let problem = "This form was too old, or cookies are refused: try again.";
        return shown(&people, &headers, &next, problem, StatusCode::FORBIDDEN);
    }
    let client = client.map(|Extension(client)| client);
    let Some(who) = people.access.bearer(fields.get("token").trim()) else {
        people
            .access
            .note_login(None, "POST /login", client.map(|c| c.0.ip()), now());
        return match people.access.wrong(client.map(|c| c.0.ip()), now()) {
            Ok(()) => {
                let problem = "Nobody has this token.";
                shown(&people, &headers, &next, problem, StatusCode::UNAUTHORIZED)
            }
            Err(too_often) => Err(too_often.into()),
        };
    };
    people
        .access
        .note_login(Some(&who), "POST /login", client.map(|c| c.0.ip()), now());
    begin(&people, &headers, who, &next)
}

/// Begins a session, never under a number that the browser came with, and goes on.
pub fn begin(people: &People, headers: &HeaderMap, who: Principal, next: &str) -> Result<Response, Refusal> {
    let broken = |e: String| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e);
    let secure = people.access.secure();
    let (cookie, csrf) = (random().map_err(broken)?, random().map_err(broken)?);
    {
        let mut sessions = people.access.sessions();
        if let Some(before) = Cookie::Session.read(headers, secure) {
            sessions.end(&before);
        }
        sessions.begin(&cookie, csrf, who, now());
    }
    let mut response = found(next);
    for cookie in [
        Cookie::Session.set(&cookie, secure),
        Cookie::Form.clear(secure),
        Cookie::Journey.clear(secure),
    ] {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// Ends the session. The guard has seen that the form was ours.
pub async fn log_out(State(people): State<People>, headers: HeaderMap) -> Response {
    let secure = people.access.secure();
    if let Some(cookie) = Cookie::Session.read(&headers, secure) {
        people.access.sessions().end(&cookie);
    }
    let mut response = found("/login");
    let clear = Cookie::Session.clear(secure);
    response.headers_mut().append(header::SET_COOKIE, clear);
    response
}

/// Sends the browser on, with a GET.
pub fn found(path: &str) -> Response {
    let location = HeaderValue::from_str(path).unwrap_or(HeaderValue::from_static("/"));
    (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response()
}

/// A path of ours to go on to after a login, or the page. Whoever makes a link to
/// the login may not choose another site: `//host` and `/\host` are such.
pub fn local_path(next: &str) -> String {
    let ours = next.starts_with('/')
        && !next.starts_with("//")
        && next.len() <= 500
        && next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    if ours { next.to_owned() } else { "/".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_paths_are_gone_on_to() {
        for ours in ["/", "/evidence?cluster=acme/erp", "/evidence/01M8//x"] {
            assert_eq!(local_path(ours), ours);
        }
        for other in [
            "",
            "evidence",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "/a\r\nset-cookie: x",
            "/ä",
            "javascript:alert(1)",
        ] {
            assert_eq!(local_path(other), "/", "{other}");
        }
    }
}
