//! Logins that are under way at the provider.
//!
//! A browser goes there with a `state` and comes back with it once, within ten
//! minutes, and with the cookie that it was given: a link that somebody else began
//! leads nowhere.

use std::collections::BTreeMap;
use std::fmt;

use holdfast_proto::{Sha256Digest, Timestamp};

/// Logins at once; the oldest go.
const MOST: usize = 1024;

const LONGEST_MS: u64 = 600_000;

/// A login that was begun.
#[derive(Clone, PartialEq, Eq)]
pub struct Journey {
    /// What the ID token must repeat.
    pub nonce: String,
    /// The secret whose hash the provider was shown (RFC 7636).
    pub verifier: String,
    /// Where to go on to.
    pub next: String,
    /// The cookie of the browser, as a hash.
    pub browser: Sha256Digest,
    /// When it began.
    pub began: Timestamp,
}

impl fmt::Debug for Journey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journey")
            .field("began", &self.began)
            .finish_non_exhaustive()
    }
}

/// All of them, by hashes of their states.
#[derive(Debug, Default)]
pub struct Journeys(BTreeMap<Sha256Digest, Journey>);

impl Journeys {
    /// One begins.
    pub fn begin(&mut self, state: &str, journey: Journey) {
        let now = journey.began;
        self.0.retain(|_, other| lasts(other, now));
        if self.0.len() >= MOST
            && let Some(oldest) = self.0.iter().min_by_key(|(_, j)| j.began).map(|(key, _)| *key)
        {
            self.0.remove(&oldest);
        }
        self.0.insert(Sha256Digest::of(state.as_bytes()), journey);
    }

    /// One comes back, with the cookie of its browser. It does not come twice.
    pub fn end(&mut self, state: &str, cookie: &str, now: Timestamp) -> Option<Journey> {
        let key = Sha256Digest::of(state.as_bytes());
        let found = self.0.get(&key)?;
        if found.browser != Sha256Digest::of(cookie.as_bytes()) {
            // Whoever has seen a state cannot end its login for its browser.
            return None;
        }
        self.0.remove(&key).filter(|journey| lasts(journey, now))
    }
}

fn lasts(journey: &Journey, now: Timestamp) -> bool {
    now.millis_since(journey.began) < LONGEST_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journey(cookie: &str, ms: i64) -> Journey {
        let start: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        Journey {
            nonce: "n".to_owned(),
            verifier: "v".to_owned(),
            next: "/".to_owned(),
            browser: Sha256Digest::of(cookie.as_bytes()),
            began: start.plus_millis(ms),
        }
    }

    #[test]
    fn once_with_its_cookie_and_in_time() {
        let mut all = Journeys::default();
        let begun = journey("c", 0);
        let at = |ms| begun.began.plus_millis(ms);
        all.begin("s", begun.clone());
        assert_eq!(all.end("t", "c", at(1)), None);
        assert_eq!(all.end("s", "d", at(1)), None, "another browser");
        assert_eq!(all.end("s", "c", at(1)), Some(begun.clone()));
        assert_eq!(all.end("s", "c", at(1)), None, "once");
        all.begin("s", begun.clone());
        assert_eq!(all.end("s", "c", at(600_000)), None, "too late");
        for n in 0..3000 {
            all.begin(&n.to_string(), journey("c", n));
        }
        assert_eq!(all.0.len(), MOST);
        assert!(all.end("2999", "c", at(3000)).is_some());
        assert_eq!(all.end("0", "c", at(3000)), None, "the oldest went");
    }
}
