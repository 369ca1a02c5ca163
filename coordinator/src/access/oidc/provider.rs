//! Asking the provider: its addresses, its keys, and what a code is worth.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use holdfast_proto::{Sha256Digest, Timestamp};
use jsonwebtoken::jwk::{JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use reqwest::Certificate;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::claims::{Claims, NotForUs};
use super::settings::{Issuer, OidcSettings};
use crate::access::decide::Principal;

/// How long one answer is waited for: people wait with it, and three come one after
/// another within the time that a request has.
const PATIENCE: Duration = Duration::from_secs(3);

/// The longest answer, in bytes.
const LONGEST: usize = 1 << 20;

/// What was learnt is believed so long, in milliseconds.
const KEPT: u64 = 3_600_000;

/// An unknown key is asked for at most so often, in milliseconds.
const ASKED_AGAIN: u64 = 30_000;

/// Signatures that are taken: by keys that the provider alone has. Never one by a
/// shared secret.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// Why a provider says nothing of use.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// It cannot be reached, or does not say what it must. Others may be right.
    #[error("the OpenID provider cannot be asked: {0}")]
    Unreachable(String),
    /// It refused.
    #[error("the OpenID provider refused: {0}")]
    Refused(String),
    /// A token by no key of its own.
    #[error("the token is not signed by the OpenID provider: {0}")]
    Unsigned(String),
    /// A token for others.
    #[error("the token is not taken: {0}")]
    NotForUs(#[from] NotForUs),
}

/// The provider's addresses (OpenID Connect Discovery 1.0).
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Metadata {
    issuer: String,
    authorization_endpoint: String,
    pub(super) token_endpoint: String,
    jwks_uri: String,
}

/// What was learnt, and when.
#[derive(Debug, Clone)]
struct Learnt {
    metadata: Metadata,
    keys: JwkSet,
    at: Timestamp,
}

/// What a code was worth.
#[derive(Deserialize)]
struct Answer {
    id_token: String,
}

/// Why it was worth nothing (RFC 6749 section 5.2).
#[derive(Deserialize)]
struct Refused {
    error: String,
    #[serde(default)]
    error_description: String,
}

/// The provider.
pub struct Provider {
    settings: OidcSettings,
    secret: Option<Zeroizing<String>>,
    client: reqwest::Client,
    redirect: String,
    learnt: Mutex<Option<Learnt>>,
}

impl Provider {
    /// Gets ready to ask. `origin` is how browsers call us.
    ///
    /// # Errors
    /// A secret or a certificate cannot be read, in words.
    pub fn new(settings: OidcSettings, origin: &str) -> Result<Self, String> {
        let secret = settings
            .client_secret
            .as_ref()
            .map(|at| at.read().map_err(|e| format!("access.oidc's client secret: {e}")))
            .transpose()?;
        Ok(Self {
            client: client_for(&settings.issuer, settings.ca.as_deref())?,
            redirect: format!("{origin}{CALLBACK}"),
            settings,
            secret,
            learnt: Mutex::default(),
        })
    }

    /// What to call it on a page.
    pub fn host(&self) -> String {
        self.settings.issuer.host()
    }

    /// Whether access tokens of programs are taken.
    pub fn takes_bearers(&self) -> bool {
        self.settings.audience.is_some()
    }

    /// What it calls itself.
    pub fn issuer(&self) -> &str {
        self.settings.issuer.as_str()
    }

    /// Where a browser goes to log in.
    ///
    /// # Errors
    /// The provider cannot be asked.
    pub async fn authorize(
        &self,
        state: &str,
        nonce: &str,
        verifier: &str,
        now: Timestamp,
    ) -> Result<String, OidcError> {
        let metadata = self.learn(now, |_| true).await?.metadata;
        let challenge = URL_SAFE_NO_PAD.encode(Sha256Digest::of(verifier.as_bytes()).as_bytes());
        let mut url = reqwest::Url::parse(&metadata.authorization_endpoint)
            .map_err(|e| OidcError::Unreachable(format!("its authorization_endpoint: {e}")))?;
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.settings.client_id)
            .append_pair("redirect_uri", &self.redirect)
            .append_pair("scope", &self.settings.scopes.join(" "))
            .append_pair("state", state)
            .append_pair("nonce", nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        Ok(url.into())
    }

    /// Whom a code names.
    ///
    /// # Errors
    /// [`OidcError`].
    pub async fn person(
        &self,
        code: &str,
        nonce: &str,
        verifier: &str,
        now: Timestamp,
    ) -> Result<Principal, OidcError> {
        let metadata = self.learn(now, |_| true).await?.metadata;
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", self.redirect.as_str()),
            ("code_verifier", verifier),
        ];
        if self.secret.is_none() {
            fields.push(("client_id", self.settings.client_id.as_str()));
        }
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        let mut request = self
            .client
            .post(&metadata.token_endpoint)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("accept", "application/json")
            .body(body);
        if let Some(secret) = &self.secret {
            request = request.header("authorization", basic(&self.settings.client_id, secret));
        }
        let answer: Answer = answered(request).await?;
        let claims = self.signed(&answer.id_token, now).await?;
        let OidcSettings {
            issuer,
            client_id,
            groups_claim,
            ..
        } = &self.settings;
        Ok(claims.of_person(issuer.as_str(), client_id, nonce, groups_claim, now)?)
    }

    /// Whom an access token names.
    ///
    /// # Errors
    /// [`OidcError`].
    pub async fn bearer(&self, token: &str, now: Timestamp) -> Result<Principal, OidcError> {
        let Some(audience) = &self.settings.audience else {
            return Err(NotForUs::Audience.into());
        };
        let claims = self.signed(token, now).await?;
        let issuer = self.settings.issuer.as_str();
        Ok(claims.of_bearer(issuer, audience, &self.settings.groups_claim, now)?)
    }

    /// What a token says, once a key of the provider was found to have signed it. Times
    /// and names are judged afterwards, by our clock.
    async fn signed(&self, token: &str, now: Timestamp) -> Result<Claims, OidcError> {
        let unsigned = |e: &dyn std::fmt::Display| OidcError::Unsigned(e.to_string());
        let header = decode_header(token).map_err(|e| unsigned(&e))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(unsigned(&"its algorithm is not one that is taken"));
        }
        let kid = header.kid.clone();
        let knows = |keys: &JwkSet| match &kid {
            Some(kid) => keys.find(kid).is_some(),
            None => !keys.keys.is_empty(),
        };
        let learnt = self.learn(now, knows).await?;
        let candidates = learnt.keys.keys.iter().filter(|key| {
            let common = &key.common;
            let signs = !matches!(common.public_key_use, Some(PublicKeyUse::Encryption));
            let algorithm = common.key_algorithm.map(|of| of.to_string());
            let fits = algorithm.is_none_or(|of| of == format!("{:?}", header.alg));
            signs && fits && (kid.is_none() || common.key_id == kid)
        });
        let mut validation = Validation::new(header.alg);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let mut why = unsigned(&"it has no key for it");
        for key in candidates {
            let decoded =
                DecodingKey::from_jwk(key).and_then(|key| decode::<Claims>(token, &key, &validation));
            match decoded {
                Ok(decoded) => return Ok(decoded.claims),
                Err(e) => why = unsigned(&e),
            }
        }
        Err(why)
    }

    /// Its addresses and keys: as they were learnt, unless that is long ago, or `enough`
    /// says that they lack something.
    async fn learn(&self, now: Timestamp, enough: impl Fn(&JwkSet) -> bool) -> Result<Learnt, OidcError> {
        // Held while it is asked: others wait for the same answer.
        let mut held = self.learnt.lock().await;
        if let Some(learnt) = &*held {
            let age = now.millis_since(learnt.at);
            if age < ASKED_AGAIN || (age < KEPT && enough(&learnt.keys)) {
                return Ok(learnt.clone());
            }
        }
        let asked = self.ask(now).await;
        match (asked, &*held) {
            (Ok(learnt), _) => {
                *held = Some(learnt.clone());
                Ok(learnt)
            }
            // It is away. What it said a while ago still holds for keys that it had.
            (Err(_), Some(learnt)) if now.millis_since(learnt.at) < 24 * KEPT && enough(&learnt.keys) => {
                Ok(learnt.clone())
            }
            (Err(why), _) => Err(why),
        }
    }

    async fn ask(&self, now: Timestamp) -> Result<Learnt, OidcError> {
        let metadata = discover(&self.client, &self.settings.issuer).await?;
        let keys = answered(self.client.get(&metadata.jwks_uri)).await?;
        Ok(Learnt {
            metadata,
            keys,
            at: now,
        })
    }
}

/// Where the provider sends browsers back to.
pub const CALLBACK: &str = "/login/oidc/callback";

/// Somebody who asks a provider.
pub(super) fn client_for(issuer: &Issuer, ca: Option<&Path>) -> Result<reqwest::Client, String> {
    let mut builder = reqwest::Client::builder()
        .timeout(PATIENCE)
        // A code can be shown once: not on a connection that is just being closed.
        .pool_max_idle_per_host(0)
        // The addresses are those that it published.
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")));
    if let Some(ca) = ca {
        let unusable = |e: &dyn std::fmt::Display| {
            format!("the OpenID provider's ca: {} cannot be used: {e}", ca.display())
        };
        let pem = std::fs::read(ca).map_err(|e| unusable(&e))?;
        builder = builder.tls_certs_only(Certificate::from_pem_bundle(&pem).map_err(|e| unusable(&e))?);
    } else if issuer.as_str().starts_with("http://") {
        builder = builder.tls_certs_only([]);
    }
    builder
        .build()
        .map_err(|e| format!("the OpenID provider cannot be asked: {}", explained(&e)))
}

/// The provider's addresses.
pub(super) async fn discover(client: &reqwest::Client, issuer: &Issuer) -> Result<Metadata, OidcError> {
    let place = format!(
        "{}/.well-known/openid-configuration",
        issuer.as_str().trim_end_matches('/')
    );
    let metadata: Metadata = answered(client.get(&place)).await?;
    sound(&metadata, issuer)?;
    Ok(metadata)
}

fn sound(metadata: &Metadata, issuer: &Issuer) -> Result<(), OidcError> {
    if metadata.issuer != issuer.as_str() {
        return Err(OidcError::Unreachable(format!(
            "it calls itself {}, access.oidc.issuer calls it {issuer}: write it letter by letter",
            metadata.issuer
        )));
    }
    let Metadata {
        authorization_endpoint,
        token_endpoint,
        jwks_uri,
        ..
    } = metadata;
    match [authorization_endpoint, token_endpoint, jwks_uri]
        .into_iter()
        .find(|address| !issuer.allows(address))
    {
        Some(address) => Err(OidcError::Unreachable(format!(
            "{address} is not an address with TLS"
        ))),
        None => Ok(()),
    }
}

/// RFC 6749 section 2.3.1: both are form-encoded first.
pub(super) fn basic(client_id: &str, secret: &str) -> String {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = Zeroizing::new(format!("{}:{}", encoded(client_id), encoded(secret)));
    format!("Basic {}", STANDARD.encode(pair.as_bytes()))
}

/// Sends a request and reads what is answered.
pub(super) async fn answered<T: DeserializeOwned>(request: reqwest::RequestBuilder) -> Result<T, OidcError> {
    let unreachable = |e: reqwest::Error| OidcError::Unreachable(explained(&e.without_url()));
    let mut response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        body.extend_from_slice(&chunk);
        if body.len() > LONGEST {
            return Err(OidcError::Unreachable(format!(
                "it answers more than {LONGEST} bytes"
            )));
        }
    }
    if !status.is_success() {
        return Err(match serde_json::from_slice::<Refused>(&body) {
            Ok(refused) => {
                let text = format!("{} {}", refused.error, refused.error_description);
                OidcError::Refused(text.chars().filter(|c| !c.is_control()).take(200).collect())
            }
            Err(_) => OidcError::Unreachable(format!("it answers {status}")),
        });
    }
    serde_json::from_slice(&body)
        .map_err(|e| OidcError::Unreachable(format!("its answer is not as it must be: {e}")))
}

/// An error with its causes.
fn explained(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_secrets_are_encoded_before_they_are_joined() {
        let header = basic("a:b", "c d+é");
        let pair = STANDARD.decode(header.strip_prefix("Basic ").unwrap()).unwrap();
        assert_eq!(String::from_utf8(pair).unwrap(), "a%3Ab:c+d%2B%C3%A9");
    }

    #[test]
    fn a_provider_that_calls_itself_otherwise_is_another() {
        let issuer: Issuer = "https://id.example.com".parse().unwrap();
        let metadata = |issuer: &str, jwks: &str| Metadata {
            issuer: issuer.to_owned(),
            authorization_endpoint: "https://id.example.com/auth".to_owned(),
            token_endpoint: "https://id.example.com/token".to_owned(),
            jwks_uri: jwks.to_owned(),
        };
        assert!(
            sound(
                &metadata("https://id.example.com", "https://keys.example.com"),
                &issuer
            )
            .is_ok()
        );
        let slash = sound(
            &metadata("https://id.example.com/", "https://keys.example.com"),
            &issuer,
        );
        assert!(slash.unwrap_err().to_string().contains("letter by letter"));
        let plain = sound(
            &metadata("https://id.example.com", "http://id.example.com/keys"),
            &issuer,
        );
        assert!(plain.unwrap_err().to_string().contains("not an address with TLS"));
    }
}
