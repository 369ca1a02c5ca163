//! The decision: who, what for, by which grants, at which moment.

use std::collections::BTreeSet;
use std::fmt;

use holdfast_proto::Timestamp;
use holdfast_proto::names::ActorName;

use super::grant::{Grant, Subject};
use super::role::Permission;
use super::scope::{Reach, Scope};

/// Somebody who is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// Whoever can connect to this machine, while there are no rules.
    Local,
    /// A token of the configuration.
    Token {
        /// Its name.
        name: ActorName,
    },
    /// Somebody for whom the OpenID provider speaks.
    Person {
        /// The claim `sub`: what the provider calls them for good.
        subject: String,
        /// What to call them on a page; decides nothing.
        shown: String,
        /// The groups that the provider names.
        groups: BTreeSet<String>,
    },
    /// A program for which the OpenID provider speaks.
    Client {
        /// Its name there.
        id: String,
        /// The groups that the provider names.
        groups: BTreeSet<String>,
    },
}

impl Principal {
    /// What to call them on their own page.
    pub fn shown(&self) -> &str {
        match self {
            Principal::Local => "",
            Principal::Token { name } => name.as_str(),
            Principal::Person { shown, .. } => shown,
            Principal::Client { id, .. } => id,
        }
    }

    fn is(&self, subject: &Subject) -> bool {
        match (self, subject) {
            (Principal::Token { name }, Subject::Token(granted)) => name == granted,
            (
                Principal::Person { groups, .. } | Principal::Client { groups, .. },
                Subject::Group(granted),
            ) => groups.contains(granted),
            (Principal::Client { id, .. }, Subject::Client(granted)) => id == granted,
            (Principal::Person { subject, .. }, Subject::Subject(granted)) => subject == granted,
            _ => false,
        }
    }
}

impl fmt::Display for Principal {
    /// What stands in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::Local => f.write_str("local"),
            Principal::Token { name } => write!(f, "token:{name}"),
            Principal::Person { subject, .. } => write!(f, "subject:{subject}"),
            Principal::Client { id, .. } => write!(f, "client:{id}"),
        }
    }
}

/// Whether a permission over a part is enough for a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breadth {
    /// The answer shows what the reader's scope covers.
    Scoped,
    /// The answer cannot be cut: it takes the scope `*`.
    Whole,
}

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: it says nothing about the fleet.
    Nothing,
    /// To be somebody who is known.
    Known,
    /// A permission.
    May(Permission, Breadth),
}

/// Why somebody is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// Nobody knows who it is.
    Unknown,
    /// No grant of theirs has ever given it.
    NotGranted(Permission),
    /// A grant gave it, and has ended.
    Ended(Permission, Timestamp),
    /// It takes the whole, and the grants are for a part.
    Part(Permission, Reach),
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Denied::Unknown => f.write_str("who asks is not known: come with a token, or log in"),
            Denied::NotGranted(permission) => {
                write!(
                    f,
                    "no grant gives {permission}: who runs the coordinator adds an [[access.grant]]"
                )
            }
            Denied::Ended(permission, at) => write!(f, "the grant of {permission} ended at {at}"),
            Denied::Part(permission, reach) => {
                write!(f, "{permission} takes the scope *, the grants are for {reach}")
            }
        }
    }
}

/// What `who` may see of a route that needs `need`.
///
/// # Errors
/// Why it is nothing. Whoever has no grant gets the same answer whatever there is.
pub fn decide(
    who: Option<&Principal>,
    need: Need,
    grants: &[Grant],
    now: Timestamp,
) -> Result<Reach, Denied> {
    if need == Need::Nothing {
        return Ok(Reach::default());
    }
    let who = who.ok_or(Denied::Unknown)?;
    let Need::May(permission, breadth) = need else {
        return Ok(Reach::default());
    };
    if *who == Principal::Local {
        return Ok(Reach::whole());
    }
    let theirs = || {
        grants
            .iter()
            .filter(|grant| who.is(&grant.to) && grant.role.may(permission))
    };
    let held = theirs().filter(|grant| grant.holds(now));
    let scopes: Vec<&Scope> = held.flat_map(|grant| &grant.scope).collect();
    let reach: Reach = scopes.into_iter().cloned().collect();
    if reach.is_nothing() {
        let ended = theirs().filter_map(|grant| grant.until).max();
        return Err(match ended {
            Some(at) => Denied::Ended(permission, at),
            None => Denied::NotGranted(permission),
        });
    }
    if breadth == Breadth::Whole && !reach.is_whole() {
        return Err(Denied::Part(permission, reach));
    }
    Ok(reach)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::role::Role;
    use super::*;

    fn moment() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn grant(to: &str, role: Role, scope: &[&str], until: Option<i64>) -> Grant {
        Grant {
            to: to.parse().unwrap(),
            role,
            scope: scope.iter().map(|s| s.parse().unwrap()).collect(),
            until: until.map(|ms| moment().plus_millis(ms)),
        }
    }

    fn token(name: &str) -> Principal {
        Principal::Token {
            name: name.parse().unwrap(),
        }
    }

    fn person(subject: &str, groups: &[&str]) -> Principal {
        Principal::Person {
            subject: subject.to_owned(),
            shown: "whatever they like: token:root".to_owned(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        }
    }

    const FLEET: Need = Need::May(Permission::Fleet, Breadth::Scoped);
    const POLICY: Need = Need::May(Permission::Policy, Breadth::Whole);

    #[test]
    fn nothing_is_granted_by_default() {
        let grants = [grant("token:a", Role::Viewer, &["*"], None)];
        let asked = |who: Option<&Principal>, need| decide(who, need, &grants, moment());
        assert_eq!(asked(None, Need::Nothing), Ok(Reach::default()));
        assert_eq!(asked(None, Need::Known), Err(Denied::Unknown));
        assert_eq!(asked(None, FLEET), Err(Denied::Unknown));
        assert_eq!(asked(Some(&token("b")), Need::Known), Ok(Reach::default()));
        let nothing = Err(Denied::NotGranted(Permission::Fleet));
        assert_eq!(asked(Some(&token("b")), FLEET), nothing);
        // A person is not a token, whatever they are called.
        assert_eq!(asked(Some(&person("a", &["a", "token:a"])), FLEET), nothing);
        assert_eq!(asked(Some(&token("a")), FLEET), Ok(Reach::whole()));
        assert_eq!(
            asked(Some(&token("a")), POLICY),
            Err(Denied::NotGranted(Permission::Policy))
        );
        assert_eq!(asked(Some(&Principal::Local), POLICY), Ok(Reach::whole()));
    }

    #[test]
    fn grants_add_up_end_and_are_not_stretched() {
        let grants = [
            grant("group:it", Role::Viewer, &["acme/*"], None),
            grant("subject:u1", Role::Auditor, &["other/lab"], Some(1)),
            grant("subject:u1", Role::Auditor, &["third/erp"], Some(0)),
        ];
        let u1 = person("u1", &["it", "staff"]);
        let reach = decide(Some(&u1), FLEET, &grants, moment()).unwrap();
        assert_eq!(reach.to_string(), "acme/*, other/lab");
        let later = moment().plus_millis(1);
        let reach = decide(Some(&u1), FLEET, &grants, later).unwrap();
        assert_eq!(reach.to_string(), "acme/*");
        let evidence = Need::May(Permission::Evidence, Breadth::Scoped);
        assert_eq!(
            decide(Some(&u1), evidence, &grants, later),
            Err(Denied::Ended(Permission::Evidence, later))
        );
        // The viewer's scope does not widen the auditor's permission.
        let part = decide(Some(&u1), POLICY, &grants, moment()).unwrap_err();
        assert!(
            part.to_string().contains("the grants are for other/lab"),
            "{part}"
        );
    }

    fn any_grant() -> impl Strategy<Value = Grant> {
        let scopes = prop::sample::subsequence(vec!["*", "acme/*", "acme/erp", "other/lab"], 1..3);
        let until = prop::option::of(-2i64..3);
        (0..3usize, 0..Role::ALL.len(), scopes, until).prop_map(|(who, role, scope, until)| {
            grant(
                ["token:a", "token:b", "group:a"][who],
                Role::ALL[role],
                &scope,
                until,
            )
        })
    }

    proptest! {
        #[test]
        fn a_grant_less_never_gives_more(grants in prop::collection::vec(any_grant(), 0..6), gone in 0..6usize) {
            let needs = Permission::ALL.map(|p| Need::May(p, Breadth::Scoped));
            let mut fewer = grants.clone();
            if gone < fewer.len() {
                fewer.remove(gone);
            }
            for need in needs {
                if let Ok(reach) = decide(Some(&token("a")), need, &fewer, moment()) {
                    let all = decide(Some(&token("a")), need, &grants, moment());
                    let all = all.expect("what fewer grants give, more give");
                    for name in ["acme/erp", "acme/x", "other/lab", "third/x"] {
                        let cluster = name.parse().unwrap();
                        prop_assert!(!reach.sees(&cluster) || all.sees(&cluster));
                    }
                    // Every part of it is in a grant that is theirs, gives it, and holds.
                    let given = fewer.iter().filter(|g| g.to.to_string() == "token:a" && g.holds(moment()));
                    let given: Vec<_> = given.collect();
                    prop_assert!(!given.is_empty());
                }
            }
        }
    }
}
