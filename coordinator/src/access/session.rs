//! Sessions of browsers: kept here and nowhere else.
//!
//! A browser holds a random number in a cookie; here stands, under the hash of it,
//! who it is. What they may do is decided anew at every request, so a grant that
//! ends also ends for a session. Sessions end by themselves after a while without a
//! person, and in any case after a longer one; all end with the process, and
//! whoever had one logs in again.

use std::collections::BTreeMap;
use std::fmt;

use holdfast_plan::period::Period;
use holdfast_proto::{Sha256Digest, Timestamp};

use super::decide::Principal;

/// Sessions at once.
const MOST: usize = 4096;

/// Sessions at once of one principal.
const EACH: usize = 32;

/// How long sessions last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lasting {
    /// After the last request of a person.
    pub idle: Period,
    /// After the login, whatever happens.
    pub longest: Period,
}

impl Default for Lasting {
    fn default() -> Self {
        let hours = |n: u64| Period::from_millis(n * 3_600_000).expect("hours are a period");
        Self {
            idle: hours(1),
            longest: hours(12),
        }
    }
}

/// A session.
#[derive(Clone, PartialEq, Eq)]
pub struct Session {
    /// Whose.
    pub who: Principal,
    /// What its forms carry, so that no other site can send them.
    pub csrf: String,
    began: Timestamp,
    used: Timestamp,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("who", &self.who)
            .finish_non_exhaustive()
    }
}

/// All sessions.
#[derive(Debug)]
pub struct Sessions {
    lasting: Lasting,
    held: BTreeMap<Sha256Digest, Session>,
}

fn key(cookie: &str) -> Sha256Digest {
    Sha256Digest::of(cookie.as_bytes())
}

impl Sessions {
    /// None yet.
    pub fn new(lasting: Lasting) -> Self {
        Self {
            lasting,
            held: BTreeMap::new(),
        }
    }

    /// Begins one. `cookie` and `csrf` are random and were never used.
    pub fn begin(&mut self, cookie: &str, csrf: String, who: Principal, now: Timestamp) {
        let lasting = self.lasting;
        self.held.retain(|_, session| lives(session, lasting, now));
        let oldest = |held: &BTreeMap<Sha256Digest, Session>, of: Option<&Principal>| {
            let theirs = held.iter().filter(|(_, s)| of.is_none_or(|who| s.who == *who));
            theirs.min_by_key(|(_, s)| s.used).map(|(key, _)| *key)
        };
        let own = self.held.values().filter(|s| s.who == who).count();
        let gone = match (own >= EACH, self.held.len() >= MOST) {
            (true, _) => oldest(&self.held, Some(&who)),
            (false, true) => oldest(&self.held, None),
            (false, false) => None,
        };
        if let Some(gone) = gone {
            self.held.remove(&gone);
        }
        let session = Session {
            who,
            csrf,
            began: now,
            used: now,
        };
        self.held.insert(key(cookie), session);
    }

    /// The session of a cookie. A request `by_person` keeps it alive; a page that
    /// reloads itself does not.
    pub fn find(&mut self, cookie: &str, by_person: bool, now: Timestamp) -> Option<Session> {
        let key = key(cookie);
        let session = self.held.get_mut(&key)?;
        if !lives(session, self.lasting, now) {
            self.held.remove(&key);
            return None;
        }
        if by_person {
            session.used = now;
        }
        Some(session.clone())
    }

    /// Ends one.
    pub fn end(&mut self, cookie: &str) {
        self.held.remove(&key(cookie));
    }
}

fn lives(session: &Session, lasting: Lasting, now: Timestamp) -> bool {
    now.millis_since(session.used) < lasting.idle.millis()
        && now.millis_since(session.began) < lasting.longest.millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> Timestamp {
        let start: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        start.plus_millis(minutes * 60_000)
    }

    fn who(name: &str) -> Principal {
        Principal::Token {
            name: name.parse().unwrap(),
        }
    }

    fn sessions() -> Sessions {
        Sessions::new(Lasting {
            idle: "30min".parse().unwrap(),
            longest: "2h".parse().unwrap(),
        })
    }

    #[test]
    fn a_session_ends_idle_late_or_when_told() {
        let mut all = sessions();
        all.begin("one", "x".to_owned(), who("a"), at(0));
        assert_eq!(all.find("two", true, at(0)), None);
        assert_eq!(all.find("one", true, at(29)).unwrap().who, who("a"));
        assert!(all.find("one", true, at(58)).is_some(), "a person was there");
        assert_eq!(all.find("one", true, at(88)), None, "idle");
        assert_eq!(all.find("one", true, at(58)), None, "and it stays ended");

        all.begin("one", "x".to_owned(), who("a"), at(0));
        for minutes in (0..120).step_by(20) {
            assert!(all.find("one", true, at(minutes)).is_some(), "{minutes}");
        }
        assert_eq!(all.find("one", true, at(120)), None, "the longest");

        all.begin("one", "x".to_owned(), who("a"), at(0));
        assert!(all.find("one", false, at(29)).is_some());
        assert_eq!(
            all.find("one", false, at(31)),
            None,
            "a page that reloads itself is nobody"
        );

        all.begin("one", "x".to_owned(), who("a"), at(0));
        all.end("one");
        assert_eq!(all.find("one", true, at(0)), None);
    }

    #[test]
    fn there_are_only_so_many() {
        let mut all = sessions();
        for n in 0..=EACH {
            all.begin(
                &format!("a{n}"),
                String::new(),
                who("a"),
                at(0).plus_millis(n as i64),
            );
        }
        assert_eq!(all.find("a0", true, at(1)), None, "the oldest of the same");
        assert!(all.find("a1", true, at(1)).is_some());
        for n in 0..2 * MOST {
            let other = who(&format!("b{}", n / 8));
            all.begin(&format!("b{n}"), String::new(), other, at(2));
        }
        assert!(all.held.len() <= MOST);
    }
}
