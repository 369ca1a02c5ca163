//! The `[access]` section of the coordinator's configuration.
//!
//! ```toml
//! [access]
//! open_metrics = false                   # whether /metrics is for everyone
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

use holdfast_plan::document::Section;
use holdfast_proto::Timestamp;
use holdfast_proto::names::ActorName;

use super::grant::{Grant, Subject};
use super::role::Role;
use super::scope::Scope;
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
}

/// Reads the section.
pub fn read_access(section: &mut Section<'_>) -> Option<AccessRules> {
    let open_metrics = section.optional_bool("open_metrics").unwrap_or(false);
    let tokens = read_tokens(section);
    let names: BTreeSet<&ActorName> = tokens.values().collect();
    let mut grants = Vec::new();
    for mut entry in section.list("grant") {
        grants.extend(read_grant(&mut entry, &names));
        entry.finish();
    }
    if tokens.is_empty() {
        section.problem(
            "lets nobody in: make a token with `holdfast coordinator token` and add its [[access.token]]",
        );
    }
    Some(AccessRules {
        tokens,
        grants,
        open_metrics,
    })
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
            let rules = read_access(&mut root);
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
        let text = token("grafana", "a")
            + "[[grant]]\nto = \"token:grafana\"\nrole = \"key-custodian\"\nscope = [\"acme/*\", \"b/c\"]\n\
               until = \"2026-12-31T00:00:00Z\"\n";
        let rules = read(&text).unwrap();
        assert!(!rules.open_metrics);
        assert_eq!(rules.tokens[&TokenHash::of("a")].as_str(), "grafana");
        let grant = &rules.grants[0];
        assert_eq!(grant.role, Role::KeyCustodian);
        assert_eq!(grant.scope.len(), 2);
        assert_eq!(grant.until, Some("2026-12-31T00:00:00Z".parse().unwrap()));
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let text = token("a", "x")
            + &token("a", "y")
            + &token("c", "x")
            + "[[token]]\nname = \"d\"\nhash = \"hft_x\"\n\
               [[grant]]\nto = \"token:nobody\"\nrole = \"king\"\nscope = [\"acme\"]\n\
               [[grant]]\nto = \"token:a\"\nrole = \"viewer\"\nscope = []\nuntil = \"soon\"\n\
               [[grant]]\nto = \"token:a\"\nrole = \"viewer\"\n";
        let found = read(&text).unwrap_err();
        for expect in [
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
    }
}
