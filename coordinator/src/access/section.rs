//! The `[access]` section of the coordinator's configuration.
//!
//! ```toml
//! [access]
//! public_url = "https://holdfast.example.com"   # how browsers call it, when a proxy has TLS
//! open_metrics = false                   # whether /metrics is for everyone
//! session_idle = "1h"                    # sessions end so long after their last request
//! session_longest = "12h"                # and so long after the login in any case
//!
//! [access.oidc]                          # people log in there: `oidc::settings`
//! …
//!
//! [[access.token]]
//! name = "grafana"
//! hash = "sha256:9f86…"                  # printed by `holdfast coordinator token`
//!
//! [[access.grant]]
//! to = "token:grafana"
//! role = "monitor"
//! scope = ["*"]                          # or "acme/*", "acme/erp"
//! until = "2026-12-31T00:00:00Z"         # when it is meant to end
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use holdfast_plan::document::Section;
use holdfast_plan::period::Period;
use holdfast_proto::Timestamp;
use holdfast_proto::names::ActorName;

use super::grant::{Grant, Subject};
use super::oidc::OidcSettings;
use super::oidc::settings::read_oidc;
use super::role::Role;
use super::scope::Scope;
use super::session::Lasting;
use super::token::TokenHash;

/// Who may come in, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRules {
    /// Names of tokens by their hashes.
    pub tokens: BTreeMap<TokenHash, ActorName>,
    /// What is granted.
    pub grants: Vec<Grant>,
    /// Whether metrics are for everyone who can connect.
    pub open_metrics: bool,
    /// How browsers call the coordinator.
    pub public_url: Option<PublicUrl>,
    /// How long sessions last.
    pub lasting: Lasting,
    /// Where people log in.
    pub oidc: Option<OidcSettings>,
}

impl AccessRules {
    /// The OpenID provider, and our own origin, to which it sends people back.
    pub fn provider(&self) -> Option<(&OidcSettings, &str)> {
        self.oidc
            .as_ref()
            .zip(self.public_url.as_ref().map(PublicUrl::origin))
    }
}

/// An address without a path: `https://holdfast.example.com`, or plain HTTP on this
/// machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl(String);

impl PublicUrl {
    /// As browsers name it in `Origin`.
    pub fn origin(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PublicUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = reqwest::Url::parse(text).ok().filter(|url| {
            let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
            bare && url.username().is_empty() && url.password().is_none() && url.host().is_some()
        });
        let url = url.ok_or_else(|| {
            format!("{text:?} is not an address without a path: write it as \"https://holdfast.example.com\"")
        })?;
        let here = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        if url.scheme() != "https" && !(url.scheme() == "http" && here) {
            return Err(
                "must begin with https:// unless it is this machine: sessions would go over the network \
                        without encryption"
                    .to_owned(),
            );
        }
        Ok(Self(url.origin().ascii_serialization()))
    }
}

/// Reads the section.
pub fn read_access(section: &mut Section<'_>, directory: &Path) -> Option<AccessRules> {
    let open_metrics = section.optional_bool("open_metrics").unwrap_or(false);
    let has_url = section.has("public_url");
    let public_url = section.optional::<PublicUrl>("public_url");
    let lasting = read_lasting(section);
    let oidc = section.section("oidc").map(|mut oidc| {
        let read = read_oidc(&mut oidc, directory);
        oidc.finish();
        read
    });
    if oidc.is_some() && !has_url {
        section.problem("needs public_url: the OpenID provider sends people back to it");
    }
    let tokens = read_tokens(section);
    let names: BTreeSet<&ActorName> = tokens.values().collect();
    let mut grants = Vec::new();
    for mut entry in section.list("grant") {
        grants.extend(read_grant(&mut entry, &names));
        entry.finish();
    }
    if tokens.is_empty() && oidc.is_none() {
        section.problem(
            "lets nobody in: make a token with `holdfast coordinator token` and add its [[access.token]], or add \
             [access.oidc]",
        );
    }
    Some(AccessRules {
        tokens,
        grants,
        open_metrics,
        public_url,
        lasting,
        oidc: match oidc {
            Some(oidc) => Some(oidc?),
            None => None,
        },
    })
}

fn read_lasting(section: &mut Section<'_>) -> Lasting {
    let Lasting { idle, longest } = Lasting::default();
    let read_idle = section.optional_at::<Period>("session_idle");
    let longest = section.optional::<Period>("session_longest").unwrap_or(longest);
    if let Some((idle, at)) = &read_idle
        && idle.millis() > longest.millis()
    {
        section.problem_at(
            at,
            "is longer than session_longest, so that it would never end one",
        );
    }
    Lasting {
        idle: read_idle.map_or_else(|| idle.min(longest), |(idle, _)| idle),
        longest,
    }
}

fn read_tokens(section: &mut Section<'_>) -> BTreeMap<TokenHash, ActorName> {
    let mut tokens = BTreeMap::new();
    for mut entry in section.list("token") {
        let name = entry.required_at::<ActorName>("name", "grafana");
        let hash = entry.required::<TokenHash>("hash", "sha256:…");
        if let (Some((name, at)), Some(hash)) = (name, hash) {
            if tokens.values().any(|other| *other == name) {
                entry.problem_at(
                    &at,
                    format!("another token is called {name} too: grants could not tell them apart"),
                );
            }
            if let Some(other) = tokens.insert(hash, name) {
                entry.problem(format!("is the token {other} again: give each its own"));
            }
        }
        entry.finish();
    }
    tokens
}

fn read_grant(entry: &mut Section<'_>, tokens: &BTreeSet<&ActorName>) -> Option<Grant> {
    let to = entry.required_at::<Subject>("to", "token:grafana");
    if let Some((Subject::Token(name), at)) = &to
        && !tokens.contains(name)
    {
        entry.problem_at(at, format!("there is no [[access.token]] of the name {name}"));
    }
    let role = entry.required::<Role>("role", "viewer");
    let scoped = entry.has("scope");
    let scope = entry.texts::<Scope>("scope");
    let named = scope.as_ref().is_some_and(|scope| !scope.is_empty());
    if !named && (!scoped || scope.is_some()) {
        entry.problem("needs a scope: write for example `scope = [\"acme/*\"]`, or [\"*\"] for everything");
    }
    let until = entry.optional::<Timestamp>("until");
    Some(Grant {
        to: to?.0,
        role: role?,
        scope: scope.filter(|scope| !scope.is_empty())?,
        until,
    })
}

#[cfg(test)]
mod tests {
    use holdfast_plan::document::{self, Problem};

    use super::*;

    fn read(text: &str) -> Result<AccessRules, Vec<String>> {
        let read = document::read(text, "c.toml", |mut root| {
            let rules = read_access(&mut root, Path::new("/etc/holdfast"));
            root.finish();
            rules
        });
        read.map_err(|problems| problems.iter().map(Problem::to_string).collect())
    }

    fn token(name: &str, of: &str) -> String {
        format!("[[token]]\nname = \"{name}\"\nhash = \"{}\"\n", TokenHash::of(of))
    }

    #[test]
    fn a_sound_section() {
        let text = "public_url = \"HTTPS://H.example:443/\"\nsession_idle = \"10min\"\n".to_owned()
            + &token("grafana", "a")
            + "[[grant]]\nto = \"token:grafana\"\nrole = \"key-custodian\"\nscope = [\"acme/*\", \"b/c\"]\n\
               until = \"2026-12-31T00:00:00Z\"\n";
        let rules = read(&text).unwrap();
        assert!(!rules.open_metrics);
        assert_eq!(rules.public_url.unwrap().origin(), "https://h.example");
        assert_eq!(rules.lasting.idle.to_string(), "10min");
        assert_eq!(rules.lasting.longest.to_string(), "12h");
        assert_eq!(rules.tokens[&TokenHash::of("a")].as_str(), "grafana");
        let grant = &rules.grants[0];
        assert_eq!(grant.role, Role::KeyCustodian);
        assert_eq!(grant.scope.len(), 2);
        assert_eq!(grant.until, Some("2026-12-31T00:00:00Z".parse().unwrap()));
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let text = "public_url = \"http://h.example\"\nsession_idle = \"2h\"\nsession_longest = \"1h\"\n"
            .to_owned()
            + &token("a", "x")
            + &token("a", "y")
            + &token("c", "x")
            + "[[token]]\nname = \"d\"\nhash = \"hft_x\"\n\
               [[grant]]\nto = \"token:nobody\"\nrole = \"king\"\nscope = [\"acme\"]\n\
               [[grant]]\nto = \"token:a\"\nrole = \"viewer\"\nscope = []\nuntil = \"soon\"\n\
               [[grant]]\nto = \"token:a\"\nrole = \"viewer\"\n";
        let found = read(&text).unwrap_err();
        for expect in [
            "public_url: must begin with https://",
            "session_idle: is longer than session_longest",
            "token[1].name: another token is called a too",
            "token[2]: is the token a again",
            "token[3].hash: this is a token, not its hash",
            "grant[0].to: there is no [[access.token]] of the name nobody",
            "grant[0].role: \"king\" is not a role",
            "grant[0].scope[0]: \"acme\" is not a scope",
            "grant[1]: needs a scope",
            "grant[1].until: ",
            "grant[2]: needs a scope",
        ] {
            assert!(
                found.iter().any(|f| f.contains(expect)),
                "{expect}\n  is not in {found:#?}"
            );
        }
        assert!(read("").unwrap_err()[0].contains("lets nobody in"));
        let oidc = "[oidc]\nissuer = \"https://id.example\"\nclient_id = \"holdfast\"\n";
        assert!(read(oidc).unwrap_err()[0].contains("needs public_url"));
        assert!(
            read(&format!("public_url = \"https://h.example\"\n{oidc}"))
                .unwrap()
                .provider()
                .is_some()
        );
        for bad in [
            "",
            "h.example",
            "https://h.example/x",
            "https://u@h.example",
            "https://h.example?x",
            "ftp://h",
        ] {
            assert!(bad.parse::<PublicUrl>().is_err(), "{bad}");
        }
        assert!("http://localhost:7480".parse::<PublicUrl>().is_ok());
    }
}
