//! What stands before every route: finds out who asks, has it decided, and hands
//! on what they may see.

use std::net::SocketAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::pages::People;
use super::problem::Refusal;
use super::routes::Route;
use crate::access::{self, Denied, Need, Principal, Reach};
use crate::desk::now;

/// The other end of a connection: a person's machine, or a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client(pub SocketAddr);

/// Whoever was let in, and what they may see.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who; absent where everyone is let in.
    pub who: Option<Principal>,
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
pub async fn guard(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    match admit(&gate, &request) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

fn admit(gate: &Gate, request: &Request) -> Result<Caller, Refusal> {
    let need = gate.route.need();
    if need == Need::Nothing {
        return Ok(Caller {
            who: None,
            reach: Reach::default(),
        });
    }
    let access = &gate.people.access;
    let who = identify(access, request.headers())?;
    let asked = access::journal::Request {
        route: gate.route.name(),
        client: request.extensions().get::<Client>().map(|c| c.0.ip()),
    };
    match access.decide(who.as_ref(), need, asked, now()) {
        Ok(reach) => Ok(Caller { who, reach }),
        Err(denied) => Err(refusal(&denied)),
    }
}

/// Who asks. A credential that is wrong is the same as none: the answer does not
/// say which part of it was.
fn identify(access: &access::Access, headers: &HeaderMap) -> Result<Option<Principal>, Refusal> {
    if access.rules().is_none() {
        local_name(headers)?;
        return Ok(Some(Principal::Local));
    }
    let presented = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    Ok(presented.and_then(|token| access.bearer(token)))
}

/// Without rules, whoever can connect reads. A page from elsewhere must not be able
/// to do so through a browser on this machine, by letting its own name point to the
/// loopback interface: such a request carries that name.
fn local_name(headers: &HeaderMap) -> Result<(), Refusal> {
    let host = headers
        .get(header::HOST)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("localhost");
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
