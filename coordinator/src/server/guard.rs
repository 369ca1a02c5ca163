//! What stands before every route: finds out who asks, has it decided, and hands
//! on what they may see.
//!
//! In this order: a request that changes something must not come from another
//! site's page; who asks is known by a bearer token, else by a session; with a
//! session, what changes something carries the session's own mark as well; nobody
//! asks too often; then the grants decide.

use std::net::SocketAddr;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::cookies::Cookie;
use super::forms::{Fields, from_our_page, same};
use super::login;
use super::pages::People;
use super::problem::Refusal;
use super::routes::Route;
use crate::access::oidc::OidcError;
use crate::access::session::Session;
use crate::access::{Access, Denied, Need, Principal, Reach, journal};
use crate::desk::now;

/// The longest body that any of these routes takes.
pub const BODY: usize = 4096;

/// The header that carries a session's mark where there is no form.
const MARK: &str = "x-csrf-token";

/// The other end of a connection: a person's machine, or a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client(pub SocketAddr);

/// Whoever was let in, and what they may see.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// Who; absent where everyone is let in.
    pub who: Option<Principal>,
    /// The session that they came with.
    pub session: Option<Session>,
    /// What the answer may show.
    pub reach: Reach,
}

/// The guard of one route.
#[derive(Clone)]
pub struct Gate {
    /// Which.
    pub route: Route,
    /// Whom to ask.
    pub people: People,
}

/// Lets a request through to its handler, with its [`Caller`], or answers why not.
pub async fn guard(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let person = wants_html(request.headers());
    let path = request.uri().path_and_query().map(ToString::to_string);
    let refusal = match admit(&gate, request).await {
        Ok(request) => return next.run(request).await,
        Err(refusal) => refusal,
    };
    tracing::info!(
        route = gate.route.name(),
        status = refusal.status.as_u16(),
        why = refusal.detail,
        "request refused"
    );
    match refusal.status {
        StatusCode::UNAUTHORIZED if person && gate.route.method() == Method::GET => {
            let next = path.unwrap_or_default();
            let next: String = form_urlencoded::byte_serialize(next.as_bytes()).collect();
            login::found(&format!("/login?next={next}"))
        }
        _ if person => refusal.page(),
        _ => refusal.into_response(),
    }
}

/// Whether a browser shows the answer to a person.
pub fn wants_html(headers: &HeaderMap) -> bool {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accepts.is_some_and(|accepts| accepts.contains("text/html"))
}

async fn admit(gate: &Gate, mut request: Request) -> Result<Request, Refusal> {
    let (route, access) = (gate.route, &gate.people.access);
    if access.rules().is_none() && route.need() != Need::Nothing {
        local_name(&request)?;
    }
    if route.changes() && !from_our_page(request.headers(), access.origin()) {
        let detail = "this comes from another site's page: if it is ours, access.public_url does not name it as \
                      browsers do";
        return Err(Refusal::new(StatusCode::FORBIDDEN, detail));
    }
    let mut caller = Caller::default();
    if route.need() != Need::Nothing {
        let client = request.extensions().get::<Client>().map(|c| c.0.ip());
        let by_person = request.uri().query() != Some("reload");
        let shown = identify(access, request.headers(), by_person).await?;
        let (who, session) = match shown {
            Shown::Nothing => (None, None),
            Shown::Wrong => {
                access.wrong(client, now())?;
                (None, None)
            }
            Shown::Known(who, session) => (Some(who), session),
        };
        if let Some(session) = session.as_ref().filter(|_| route.changes()) {
            request = marked(request, session).await?;
        }
        if let Some(who) = &who {
            access.call(who, now())?;
        }
        let asked = journal::Request {
            route: route.name(),
            client,
        };
        let reach = access.decide(who.as_ref(), route.need(), asked, now());
        caller = Caller {
            reach: reach.map_err(|denied| refusal(&denied))?,
            who,
            session,
        };
    }
    request.extensions_mut().insert(caller);
    Ok(request)
}

/// What a request shows of its sender.
enum Shown {
    /// Nothing, or a session that has ended.
    Nothing,
    /// A token that nobody has.
    Wrong,
    /// Somebody.
    Known(Principal, Option<Session>),
}

/// Who asks. A bearer token goes first, and when it is wrong nothing else counts.
async fn identify(access: &Access, headers: &HeaderMap, by_person: bool) -> Result<Shown, Refusal> {
    if access.rules().is_none() {
        return Ok(Shown::Known(Principal::Local, None));
    }
    // Another scheme is between a browser and a proxy before us.
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    if let Some((_, token)) = bearer {
        let who = by_bearer(access, token.trim()).await?;
        return Ok(who.map_or(Shown::Wrong, |who| Shown::Known(who, None)));
    }
    let session = Cookie::Session
        .read(headers, access.secure())
        .and_then(|cookie| access.sessions().find(&cookie, by_person, now()));
    Ok(session.map_or(Shown::Nothing, |session| {
        Shown::Known(session.who.clone(), Some(session))
    }))
}

/// Whose a bearer token is: one of the configuration, or one that the OpenID provider
/// has signed.
async fn by_bearer(access: &Access, token: &str) -> Result<Option<Principal>, Refusal> {
    if let Some(who) = access.bearer(token) {
        return Ok(Some(who));
    }
    let signed = token.bytes().filter(|b| *b == b'.').count() == 2;
    let Some(provider) = access.provider().filter(|p| signed && p.takes_bearers()) else {
        return Ok(None);
    };
    match provider.bearer(token, now()).await {
        Ok(who) => Ok(Some(who)),
        Err(why @ OidcError::Unreachable(_)) => {
            tracing::warn!(%why, "a token cannot be checked");
            let detail = "the OpenID provider cannot be asked, and its keys are not known: try again soon";
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, detail))
        }
        Err(why) => {
            tracing::info!(%why, "a token was not taken");
            Ok(None)
        }
    }
}

/// A request that carries its session's mark, in a header or in a form. A browser
/// sends a cookie along with whatever another site makes it send; the mark it does
/// not.
async fn marked(request: Request, session: &Session) -> Result<Request, Refusal> {
    let (parts, body) = request.into_parts();
    let bytes: Bytes = to_bytes(body, BODY).await.map_err(|_| {
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("at most {BODY} bytes are taken"),
        )
    })?;
    let in_header = parts.headers.get(MARK).and_then(|value| value.to_str().ok());
    let mark = match in_header {
        Some(mark) => mark.to_owned(),
        None => Fields::parse(&String::from_utf8_lossy(&bytes)).get("csrf"),
    };
    if !same(&mark, &session.csrf) {
        let detail = "the form is not one of this session: load its page again";
        return Err(Refusal::new(StatusCode::FORBIDDEN, detail));
    }
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

/// Without rules, whoever can connect reads. A page from elsewhere must not be able
/// to do so through a browser on this machine, by letting its own name point to the
/// loopback interface: such a request carries that name.
fn local_name(request: &Request) -> Result<(), Refusal> {
    let header = request.headers().get(header::HOST);
    let host = match header {
        Some(value) => value.to_str().unwrap_or_default(),
        // HTTP/2 has it elsewhere; HTTP/1.0 may have none, and no browser speaks it.
        None => request.uri().authority().map_or("localhost", |a| a.as_str()),
    };
    if is_local_name(host) {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::MISDIRECTED_REQUEST,
        format!(
            "{host} is not this machine's own name, and there is no [access] section: add one (`holdfast \
             coordinator token` begins it), or let the proxy send Host: localhost"
        ),
    ))
}

fn is_local_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    };
    let literal = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || literal.parse::<std::net::IpAddr>().is_ok()
}

fn refusal(denied: &Denied) -> Refusal {
    let status = match denied {
        Denied::Unknown => StatusCode::UNAUTHORIZED,
        Denied::NotGranted(_) | Denied::Ended(..) | Denied::Part(..) => StatusCode::FORBIDDEN,
    };
    Refusal::new(status, denied.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machines_names_are_local() {
        for host in [
            "localhost",
            "LOCALHOST:7480",
            "127.0.0.1:7480",
            "[::1]:7480",
            "[::1]",
            "10.0.0.7",
        ] {
            assert!(is_local_name(host), "{host}");
        }
        for host in [
            "attacker.example:7480",
            "localhost.attacker.example",
            "127.0.0.1.attacker.example",
            "",
            ":80",
            "localhost:x",
        ] {
            assert!(!is_local_name(host), "{host}");
        }
    }
}
