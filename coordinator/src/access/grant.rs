//! Grants: to whom, which role, over what, until when.

use std::fmt;
use std::str::FromStr;

use holdfast_proto::Timestamp;
use holdfast_proto::names::ActorName;

use super::role::Role;
use super::scope::Scope;

/// To whom something is granted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Whoever has the token of that name.
    Token(ActorName),
    /// Whoever the OpenID provider says is in that group.
    Group(String),
    /// Whoever the OpenID provider calls that: the claim `sub`.
    Subject(String),
    /// The program that the OpenID provider knows as that client.
    Client(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Token(name) => write!(f, "token:{name}"),
            Subject::Group(name) => write!(f, "group:{name}"),
            Subject::Subject(name) => write!(f, "subject:{name}"),
            Subject::Client(name) => write!(f, "client:{name}"),
        }
    }
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "{text:?} says nobody: write \"token:NAME\", \"group:NAME\", \"subject:NAME\" or \"client:NAME\" ({why})"
            )
        };
        let (kind, name) = text
            .split_once(':')
            .ok_or_else(|| wrong("there is no colon in it"))?;
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(wrong("the name is empty or holds control characters"));
        }
        match kind {
            "token" => name
                .parse()
                .map(Subject::Token)
                .map_err(|e| wrong(&format!("{e}"))),
            "group" => Ok(Subject::Group(name.to_owned())),
            "subject" => Ok(Subject::Subject(name.to_owned())),
            "client" => Ok(Subject::Client(name.to_owned())),
            _ => Err(wrong("it begins otherwise")),
        }
    }
}

/// One grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// To whom.
    pub to: Subject,
    /// What for.
    pub role: Role,
    /// Over what; never empty.
    pub scope: Vec<Scope>,
    /// It holds before this moment, and not at it.
    pub until: Option<Timestamp>,
}

impl Grant {
    /// Whether it holds at a moment.
    pub fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_round_trip() {
        for text in [
            "token:grafana",
            "group:Platform Team",
            "subject:auth0|5f7c:8",
            "client:robot",
        ] {
            assert_eq!(text.parse::<Subject>().unwrap().to_string(), text);
        }
        for bad in [
            "grafana",
            "token:",
            "token:Not A Name",
            "role:admin",
            "group:",
            "group:a\nb",
            ":x",
        ] {
            assert!(bad.parse::<Subject>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_grant_ends_at_its_moment() {
        let until: Timestamp = "2026-12-31T00:00:00Z".parse().unwrap();
        let grant = Grant {
            to: "token:a".parse().unwrap(),
            role: Role::Auditor,
            scope: vec![Scope::All],
            until: Some(until),
        };
        assert!(grant.holds(until.plus_millis(-1)));
        assert!(!grant.holds(until) && !grant.holds(until.plus_millis(1)));
        assert!(Grant { until: None, ..grant }.holds(until));
    }
}
