//! The `[access.oidc]` section.
//!
//! ```toml
//! [access.oidc]
//! issuer = "https://id.example.com/realms/acme"
//! client_id = "holdfast"
//! client_secret_env = "HOLDFAST_OIDC_SECRET"   # or client_secret_file; none for a public client
//! audience = "https://holdfast.example.com"    # of programs' access tokens; without it none are taken
//! groups_claim = "groups"
//! scopes = ["openid", "profile", "email"]
//! ca = "id-ca.crt"                             # when the provider's certificate is from an authority of your own
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use holdfast_plan::document::Section;
use holdfast_repository::secret_file;
use zeroize::Zeroizing;

/// An OpenID provider, and who we are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcSettings {
    /// What it calls itself, letter by letter.
    pub issuer: Issuer,
    /// What it calls us.
    pub client_id: String,
    /// How we prove that it is us.
    pub client_secret: Option<SecretAt>,
    /// Whom programs' access tokens must be for.
    pub audience: Option<String>,
    /// The claim with a person's groups.
    pub groups_claim: String,
    /// What is asked for.
    pub scopes: Vec<String>,
    /// The authority of its certificate (PEM), when it is not one that this machine
    /// knows.
    pub ca: Option<PathBuf>,
}

/// The address of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer(String);

impl Issuer {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether an address that it gave may be asked: over TLS, as it is.
    pub fn allows(&self, address: &str) -> bool {
        address.starts_with("https://") || (self.0.starts_with("http://") && address.starts_with("http://"))
    }

    /// What to call it on a button.
    pub fn host(&self) -> String {
        let url = reqwest::Url::parse(&self.0).ok();
        url.and_then(|url| url.host_str().map(str::to_owned))
            .unwrap_or_else(|| self.0.clone())
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Issuer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an issuer: write its address as \"https://id.example.com\"");
        let url = reqwest::Url::parse(text).map_err(|_| wrong())?;
        let here = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong());
        }
        if url.scheme() != "https" && !(url.scheme() == "http" && here) {
            return Err(
                "must begin with https:// unless it is this machine: whoever is between could be anyone"
                    .to_owned(),
            );
        }
        Ok(Self(text.to_owned()))
    }
}

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretAt {
    /// In a file that its owner alone may read.
    File(PathBuf),
    /// In an environment variable.
    Environment(String),
}

impl SecretAt {
    /// The secret.
    ///
    /// # Errors
    /// It is not there, in words.
    pub fn read(&self) -> Result<Zeroizing<String>, String> {
        let secret = match self {
            SecretAt::File(file) => secret_file::read(file).map_err(|e| e.to_string())?,
            SecretAt::Environment(variable) => {
                Zeroizing::new(std::env::var(variable).map_err(|_| format!("{variable} is not set"))?)
            }
        };
        Ok(Zeroizing::new(secret.trim().to_owned()))
    }
}

/// Where the client's secret is.
pub(super) fn read_secret(section: &mut Section<'_>, directory: &Path) -> Option<SecretAt> {
    let file = section.optional::<PathBuf>("client_secret_file");
    let variable = section.optional::<String>("client_secret_env");
    if file.is_some() && variable.is_some() {
        section.problem("has client_secret_file and client_secret_env: keep one");
    }
    match (file, variable) {
        (Some(file), _) => Some(SecretAt::File(directory.join(file))),
        (None, Some(variable)) => Some(SecretAt::Environment(variable)),
        (None, None) => None,
    }
}

/// Reads the section.
pub fn read_oidc(section: &mut Section<'_>, directory: &Path) -> Option<OidcSettings> {
    let issuer = section.required::<Issuer>("issuer", "https://id.example.com");
    let client_id = section.required::<String>("client_id", "holdfast");
    let client_secret = read_secret(section, directory);
    let audience = section.optional_at::<String>("audience");
    if let (Some((audience, at)), Some(client_id)) = (&audience, &client_id)
        && audience == client_id
    {
        section.problem_at(
            at,
            "must not be client_id: what the provider says to us of people is for client_id, and whoever got hold of \
             it could come with it as with a token",
        );
    }
    let groups_claim = section.optional::<String>("groups_claim");
    let mut scopes = section
        .texts::<String>("scopes")
        .unwrap_or_else(|| ["openid", "profile", "email"].map(str::to_owned).to_vec());
    if !scopes.iter().any(|scope| scope == "openid") {
        scopes.insert(0, "openid".to_owned());
    }
    let ca = section.optional::<PathBuf>("ca").map(|path| directory.join(path));
    Some(OidcSettings {
        issuer: issuer?,
        client_id: client_id?,
        client_secret,
        audience: audience.map(|(audience, _)| audience),
        groups_claim: groups_claim.unwrap_or_else(|| "groups".to_owned()),
        scopes,
        ca,
    })
}

#[cfg(test)]
mod tests {
    use holdfast_plan::document::{self, Problem};

    use super::*;

    fn read(text: &str) -> Result<OidcSettings, Vec<String>> {
        let read = document::read(text, "c.toml", |mut root| {
            let settings = read_oidc(&mut root, Path::new("/etc/holdfast"));
            root.finish();
            settings
        });
        read.map_err(|problems| problems.iter().map(Problem::to_string).collect())
    }

    #[test]
    fn a_sound_section() {
        let text = "issuer = \"https://id.example.com/realms/acme/\"\nclient_id = \"holdfast\"\n";
        let settings = read(text).unwrap();
        assert_eq!(settings.issuer.as_str(), "https://id.example.com/realms/acme/");
        assert_eq!(settings.issuer.host(), "id.example.com");
        assert_eq!(
            (settings.groups_claim.as_str(), settings.client_secret),
            ("groups", None)
        );
        let more = format!("{text}client_secret_file = \"s\"\nca = \"/x/ca.crt\"\nscopes = [\"groups\"]\n");
        let settings = read(&more).unwrap();
        assert_eq!(
            settings.client_secret,
            Some(SecretAt::File("/etc/holdfast/s".into()))
        );
        assert_eq!(settings.scopes, ["openid", "groups"]);
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let found = read(
            "issuer = \"http://id.example.com\"\nclient_id = \"x\"\naudience = \"x\"\nclient_secret_file = \"a\"\n\
             client_secret_env = \"B\"\n",
        )
        .unwrap_err();
        for expect in [
            "issuer: must begin with https://",
            "audience: must not be client_id",
            "keep one",
        ] {
            assert!(
                found.iter().any(|f| f.contains(expect)),
                "{expect}\n  is not in {found:#?}"
            );
        }
        assert!(read("issuer = \"id.example.com\"\n").unwrap_err().len() == 2);
    }

    #[test]
    fn a_provider_over_tls_is_not_left_for_one_without() {
        let far: Issuer = "https://id.example.com".parse().unwrap();
        assert!(far.allows("https://login.example.com/token") && !far.allows("http://id.example.com/token"));
        let here: Issuer = "http://localhost:9000".parse().unwrap();
        assert!(here.allows("http://localhost:9000/token") && !here.allows("file:///etc/passwd"));
    }
}
