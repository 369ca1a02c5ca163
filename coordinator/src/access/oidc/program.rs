//! A program that logs in at the OpenID provider for itself: client credentials
//! (RFC 6749 section 4.4). The command line's side of access tokens.
//!
//! ```toml
//! [coordinator_oidc]
//! issuer = "https://id.example.com"
//! client_id = "holdfast-cli"
//! client_secret_file = "cli.secret"            # or client_secret_env
//! audience = "https://holdfast.example.com"    # access.oidc.audience of the coordinator
//! ```

use std::path::{Path, PathBuf};

use holdfast_plan::document::Section;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::provider::{OidcError, answered, basic, client_for, discover};
use super::settings::{Issuer, SecretAt, read_secret};

/// Who the program is, and where it logs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramLogin {
    /// The provider.
    pub issuer: Issuer,
    /// What it calls the program.
    pub client_id: String,
    /// How the program proves that it is it.
    pub client_secret: SecretAt,
    /// Whom the token is to be for.
    pub audience: String,
    /// What is asked for, when the provider wants to hear of it.
    pub scope: Option<String>,
    /// The authority of the provider's certificate (PEM).
    pub ca: Option<PathBuf>,
}

impl ProgramLogin {
    /// Reads the section.
    pub fn read(section: &mut Section<'_>, directory: &Path) -> Option<Self> {
        let issuer = section.required::<Issuer>("issuer", "https://id.example.com");
        let client_id = section.required::<String>("client_id", "holdfast-cli");
        let secret = read_secret(section, directory);
        if secret.is_none() {
            section.problem("needs client_secret_file or client_secret_env");
        }
        let audience = section.required::<String>("audience", "https://holdfast.example.com");
        let scope = section.optional::<String>("scope");
        let ca = section.optional::<PathBuf>("ca").map(|path| directory.join(path));
        Some(Self {
            issuer: issuer?,
            client_id: client_id?,
            client_secret: secret?,
            audience: audience?,
            scope,
            ca,
        })
    }

    /// An access token.
    ///
    /// # Errors
    /// The provider cannot be asked, or refused.
    pub async fn token(&self) -> Result<Zeroizing<String>, OidcError> {
        #[derive(Deserialize)]
        struct Granted {
            access_token: String,
        }
        let client = client_for(&self.issuer, self.ca.as_deref()).map_err(OidcError::Unreachable)?;
        let secret = self.client_secret.read().map_err(OidcError::Unreachable)?;
        let metadata = discover(&client, &self.issuer).await?;
        let mut fields = vec![
            ("grant_type", "client_credentials"),
            // RFC 8707; the other name is what some providers call it.
            ("resource", self.audience.as_str()),
            ("audience", self.audience.as_str()),
        ];
        if let Some(scope) = &self.scope {
            fields.push(("scope", scope));
        }
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        let request = client
            .post(&metadata.token_endpoint)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("accept", "application/json")
            .header("authorization", basic(&self.client_id, &secret))
            .body(body);
        let granted: Granted = answered(request).await?;
        Ok(Zeroizing::new(granted.access_token))
    }
}
