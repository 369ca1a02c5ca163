//! To the OpenID provider and back.

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use holdfast_proto::Sha256Digest;

use super::cookies::Cookie;
use super::forms::Fields;
use super::guard::Client;
use super::login::{self, local_path};
use super::pages::People;
use super::problem::Refusal;
use crate::access::oidc::journey::Journey;
use crate::access::oidc::provider::CALLBACK;
use crate::access::oidc::{OidcError, Provider};
use crate::access::random;
use crate::desk::now;

fn provider(people: &People) -> Result<&Provider, Refusal> {
    people.access.provider().ok_or_else(|| {
        Refusal::new(
            StatusCode::NOT_FOUND,
            "there is no OpenID provider: the configuration has no [access.oidc]",
        )
    })
}

/// Sends a browser to the provider.
pub async fn to_provider(
    State(people): State<People>,
    client: Option<Extension<Client>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let provider = provider(&people)?;
    people
        .access
        .start(client.map(|Extension(client)| client.0.ip()), now())?;
    let next = local_path(&Fields::parse(query.as_deref().unwrap_or_default()).get("next"));
    let broken = |e: String| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e);
    let fresh = || random().map_err(broken);
    let (state, nonce, verifier, cookie) = (fresh()?, fresh()?, fresh()?, fresh()?);
    let place = match provider.authorize(&state, &nonce, &verifier, now()).await {
        Ok(place) => place,
        Err(why) => return said(&people, &headers, &next, &why),
    };
    let journey = Journey {
        nonce,
        verifier,
        next,
        browser: Sha256Digest::of(cookie.as_bytes()),
        began: now(),
    };
    people.access.journeys().begin(&state, journey);
    let mut response = login::found(&place);
    let set = Cookie::Journey.set(&cookie, people.access.secure());
    response.headers_mut().append(header::SET_COOKIE, set);
    Ok(response)
}

/// Takes a browser back that the provider has sent.
pub async fn from_provider(
    State(people): State<People>,
    client: Option<Extension<Client>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let provider = provider(&people)?;
    let fields = Fields::parse(query.as_deref().unwrap_or_default());
    let refused = |next: &str, problem: &str| {
        let client = client.as_ref().map(|Extension(client)| client.0.ip());
        people
            .access
            .note_login(None, &format!("GET {CALLBACK}"), client, now());
        login::shown(&people, &headers, next, problem, StatusCode::FORBIDDEN)
    };
    let journey = Cookie::Journey
        .read(&headers, people.access.secure())
        .and_then(|cookie| people.access.journeys().end(&fields.get("state"), &cookie, now()));
    let Some(journey) = journey else {
        return refused("/", "This login was begun elsewhere, or too long ago: try again.");
    };
    // RFC 9207: the answer of another provider is not for this one.
    let issuer = fields.get("iss");
    if !issuer.is_empty() && issuer != provider.issuer() {
        return refused(&journey.next, "Another provider has answered: try again.");
    }
    if !fields.get("error").is_empty() {
        return refused(&journey.next, "The OpenID provider did not log you in.");
    }
    let code = fields.get("code");
    match provider
        .person(&code, &journey.nonce, &journey.verifier, now())
        .await
    {
        Ok(who) => {
            let client = client.map(|Extension(client)| client.0.ip());
            let route = format!("GET {CALLBACK}");
            people.access.note_login(Some(&who), &route, client, now());
            login::begin(&people, &headers, who, &journey.next)
        }
        Err(why) => said(&people, &headers, &journey.next, &why),
    }
}

/// Says on the login page that the provider is of no use. The details are for the log:
/// who cannot log in need not know how we talk to it.
fn said(people: &People, headers: &HeaderMap, next: &str, why: &OidcError) -> Result<Response, Refusal> {
    tracing::warn!(%why, "a login at the OpenID provider failed");
    let (problem, status) = match why {
        OidcError::Unreachable(_) => (
            "The OpenID provider cannot be asked now. A token still lets you in.",
            StatusCode::SERVICE_UNAVAILABLE,
        ),
        OidcError::Refused(_) | OidcError::Unsigned(_) | OidcError::NotForUs(_) => (
            "What the OpenID provider said was not taken: the coordinator's log says why.",
            StatusCode::FORBIDDEN,
        ),
    };
    login::shown(people, headers, next, problem, status)
}

#[cfg(test)]
mod tests {
    use super::super::routes::Route;
    use super::*;

    #[test]
    fn people_are_sent_back_to_where_they_are_taken() {
        assert_eq!(Route::FromProvider.path(), CALLBACK);
    }
}
