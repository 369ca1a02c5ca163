//! What was decided: into the log, and the newest kept for who may see them.
//!
//! A page that reloads itself every few seconds asks the same again and again;
//! here it is one entry with a count, so that it drives nothing else out. The log
//! has a line for each.

use std::collections::VecDeque;
use std::net::IpAddr;

use holdfast_proto::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::decide::{Denied, Need, Principal};
use super::role::Permission;
use super::scope::Reach;

/// How many entries are kept.
const KEPT: usize = 1000;

/// How far back the same decision is looked for.
const LOOKED_BACK: usize = 64;

/// What was asked, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method and the route's path, not the address that was asked for.
    pub route: String,
    /// Who connected: a proxy, when there is one.
    pub client: Option<IpAddr>,
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Decision)]
pub struct Noted {
    /// When it was first made.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// When it was last made.
    #[schema(value_type = String, format = DateTime)]
    pub last: Timestamp,
    /// How often.
    pub count: u64,
    /// Who asked, `token:NAME` or `subject:NAME`; absent when nobody knows.
    pub who: Option<String>,
    /// Who connected.
    #[schema(value_type = Option<String>)]
    pub client: Option<IpAddr>,
    /// The route.
    pub route: String,
    /// What it takes, when it takes a permission.
    pub permission: Option<Permission>,
    /// Whether it was allowed.
    pub allowed: bool,
    /// Over what it was allowed; or why it was not.
    pub because: String,
}

impl Noted {
    /// A decision that was just made.
    pub fn new(
        who: Option<&Principal>,
        need: Need,
        request: Request,
        decided: &Result<Reach, Denied>,
        now: Timestamp,
    ) -> Self {
        Self {
            at: now,
            last: now,
            count: 1,
            who: who.map(ToString::to_string),
            client: request.client,
            route: request.route,
            permission: match need {
                Need::May(permission, _) => Some(permission),
                Need::Nothing | Need::Known => None,
            },
            allowed: decided.is_ok(),
            because: match decided {
                Ok(reach) => reach.to_string(),
                Err(denied) => denied.to_string(),
            },
        }
    }

    /// Into the log.
    pub fn log(&self) {
        tracing::info!(
            who = self.who.as_deref().unwrap_or("nobody"),
            client = self.client.map(tracing::field::display),
            route = self.route,
            permission = self.permission.map(Permission::as_str),
            allowed = self.allowed,
            because = self.because,
            "access decided"
        );
    }

    fn same(&self, other: &Self) -> bool {
        let what = |n: &Self| {
            (
                n.who.clone(),
                n.client,
                n.route.clone(),
                n.allowed,
                n.because.clone(),
            )
        };
        what(self) == what(other)
    }
}

/// The newest decisions.
#[derive(Debug, Default)]
pub struct Journal {
    entries: VecDeque<Noted>,
}

impl Journal {
    /// Adds one.
    pub fn note(&mut self, noted: Noted) {
        let found = self
            .entries
            .iter()
            .rev()
            .take(LOOKED_BACK)
            .position(|before| before.same(&noted));
        let again = found.and_then(|back| self.entries.remove(self.entries.len() - 1 - back));
        self.entries.push_back(match again {
            Some(before) => Noted {
                last: noted.last,
                count: before.count + 1,
                ..before
            },
            None => noted,
        });
        if self.entries.len() > KEPT {
            self.entries.pop_front();
        }
    }

    /// All that is kept, newest first.
    pub fn newest_first(&self) -> Vec<Noted> {
        self.entries.iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(route: &str, seconds: i64) -> Noted {
        let at: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        Noted::new(
            Some(&Principal::Local),
            Need::Known,
            Request {
                route: route.to_owned(),
                client: None,
            },
            &Ok(Reach::whole()),
            at.plus_millis(seconds * 1000),
        )
    }

    #[test]
    fn what_repeats_is_counted_and_the_oldest_go() {
        let mut journal = Journal::default();
        for (route, at) in [("GET /", 0), ("GET /v1/status", 1), ("GET /", 2)] {
            journal.note(noted(route, at));
        }
        let kept = journal.newest_first();
        assert_eq!(kept.len(), 2);
        assert_eq!((kept[0].route.as_str(), kept[0].count), ("GET /", 2));
        assert_eq!(kept[0].last.millis_since(kept[0].at), 2000);
        for n in 0..2 * KEPT {
            journal.note(noted(&format!("GET /{n}"), 3));
        }
        let kept = journal.newest_first();
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0].route, format!("GET /{}", 2 * KEPT - 1));
    }
}
