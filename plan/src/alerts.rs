//! Alerts: what is to be said to whom about findings, once.
//!
//! An [`Outbox`] is what one route has been told. [`Outbox::look`] takes in what stands
//! now, [`Outbox::due`] says what is to be told, [`Outbox::told`] notes that it was. A
//! receiver that is away loses nothing: what began and ended meanwhile is told as ended.
//! A finding that comes and goes is told once, as long as it is never gone for longer
//! than [`SETTLES`].

use std::collections::BTreeMap;

use holdfast_proto::Timestamp;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::ClusterId;
use serde::{Deserialize, Serialize};

use crate::policy::{Route, RouteKind};

/// How long a finding must be gone before it is told as over.
pub const SETTLES: i64 = 60_000;

/// How often a critical finding that stands is told again.
const REMINDS: u64 = 24 * 3_600_000;

/// How often Alertmanager is told again: it forgets what it does not hear.
const RENEWS: u64 = 60_000;

/// Under what a finding is the same one seen again.
pub type Key = (Option<ClusterId>, String, String);

/// What one route has been told, and what it has not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Entry>", into = "Vec<Entry>")]
pub struct Outbox(BTreeMap<Key, Entry>);

/// One finding on a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    cluster: Option<ClusterId>,
    finding: Finding,
    /// When it was told last, and how severe it was then.
    told: Option<(Timestamp, Severity)>,
    /// Since when it is gone.
    ended: Option<Timestamp>,
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The cluster; absent when it is about the whole.
    pub cluster: Option<ClusterId>,
    /// The finding, as it was seen last.
    pub finding: Finding,
    /// When it ended; absent while it stands.
    pub ended: Option<Timestamp>,
}

impl Notice {
    /// Under what it is the same one told again.
    pub fn key(&self) -> Key {
        key_of(self.cluster.as_ref(), &self.finding)
    }
}

fn key_of(cluster: Option<&ClusterId>, finding: &Finding) -> Key {
    (cluster.cloned(), finding.name.clone(), finding.subject.clone())
}

impl Outbox {
    /// Takes in everything that stands now, of which `route` takes its part.
    pub fn look<'a>(
        &mut self,
        standing: impl IntoIterator<Item = (Option<&'a ClusterId>, &'a Finding)>,
        route: &Route,
        now: Timestamp,
    ) {
        let mut gone: Vec<Key> = self.0.keys().cloned().collect();
        for (cluster, finding) in standing {
            if !route.takes(cluster.map(|c| &c.tenant), finding.severity) {
                continue;
            }
            let key = key_of(cluster, finding);
            gone.retain(|other| *other != key);
            let entry = self.0.entry(key).or_insert_with(|| Entry {
                cluster: cluster.cloned(),
                finding: finding.clone(),
                told: None,
                ended: None,
            });
            // One that was gone for a moment began when it first began.
            let since = entry.finding.since.min(finding.since);
            entry.finding = Finding {
                since,
                ..finding.clone()
            };
            entry.ended = None;
        }
        for key in gone {
            if let Some(entry) = self.0.get_mut(&key) {
                entry.ended.get_or_insert(now);
            }
        }
    }

    /// What is to be told now, worst first.
    pub fn due(&self, kind: RouteKind, now: Timestamp) -> Vec<Notice> {
        let mut due: Vec<Notice> = (self.0.values())
            .filter(|entry| entry.is_due(kind, now))
            .map(|entry| Notice {
                cluster: entry.cluster.clone(),
                finding: entry.finding.clone(),
                ended: entry.ended,
            })
            .collect();
        due.sort_by_key(|notice| std::cmp::Reverse(notice.finding.severity));
        due
    }

    /// Notes that the receiver has taken `notices` at `now`.
    pub fn told(&mut self, notices: &[Notice], now: Timestamp) {
        for notice in notices {
            let key = notice.key();
            if notice.ended.is_some() {
                // One that came back meanwhile is told anew.
                self.0
                    .retain(|other, entry| *other != key || entry.ended.is_none());
                if let Some(entry) = self.0.get_mut(&key) {
                    entry.told = None;
                }
            } else if let Some(entry) = self.0.get_mut(&key) {
                entry.told = Some((now, notice.finding.severity));
            }
        }
    }

    /// How many findings it knows.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Entry {
    fn is_due(&self, kind: RouteKind, now: Timestamp) -> bool {
        if let Some(ended) = self.ended {
            return ended.plus_millis(SETTLES) <= now;
        }
        let Some((at, severity)) = self.told else {
            return true;
        };
        let again = match kind {
            RouteKind::Alertmanager => Some(RENEWS),
            RouteKind::Generic | RouteKind::Slack => {
                (self.finding.severity == Severity::Critical).then_some(REMINDS)
            }
        };
        severity < self.finding.severity || again.is_some_and(|after| now.millis_since(at) >= after)
    }
}

impl From<Vec<Entry>> for Outbox {
    fn from(entries: Vec<Entry>) -> Self {
        let keyed = entries
            .into_iter()
            .map(|e| (key_of(e.cluster.as_ref(), &e.finding), e));
        Self(keyed.collect())
    }
}

impl From<Outbox> for Vec<Entry> {
    fn from(outbox: Outbox) -> Self {
        outbox.0.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_micros(1_800_000_000_000_000).plus_millis(seconds * 1000)
    }

    fn route(kind: RouteKind, severity: Severity) -> Route {
        Route {
            name: "ops".parse().unwrap(),
            kind,
            url_env: "OPS".parse().unwrap(),
            severity,
            tenants: BTreeSet::new(),
        }
    }

    fn finding(subject: &str, severity: Severity, since: i64) -> Finding {
        Finding {
            name: "rpo-missed".to_owned(),
            subject: subject.to_owned(),
            severity,
            detail: "see there".to_owned(),
            since: at(since),
        }
    }

    fn look(outbox: &mut Outbox, standing: &[Finding], severity: Severity, now: i64) {
        let all = standing.iter().map(|finding| (None, finding));
        outbox.look(all, &route(RouteKind::Generic, severity), at(now));
    }

    /// Whose begin and whose end is due, by subject.
    fn due(outbox: &Outbox, kind: RouteKind, now: i64) -> Vec<(String, bool)> {
        let of = |n: Notice| (n.finding.subject, n.ended.is_some());
        outbox.due(kind, at(now)).into_iter().map(of).collect()
    }

    #[test]
    fn a_finding_is_told_once_and_its_end_once() {
        let mut outbox = Outbox::default();
        let east = [finding("east", Severity::Warning, 0)];
        look(&mut outbox, &east, Severity::Warning, 0);
        assert_eq!(due(&outbox, RouteKind::Slack, 0), [("east".to_owned(), false)]);
        let told = outbox.due(RouteKind::Slack, at(0));
        outbox.told(&told, at(0));
        for second in (1_000..100_000).step_by(1_000) {
            look(&mut outbox, &east, Severity::Warning, second);
            assert_eq!(due(&outbox, RouteKind::Slack, second), []);
        }
        look(&mut outbox, &[], Severity::Warning, 100_000);
        assert_eq!(due(&outbox, RouteKind::Slack, 100_059), [], "it may come back");
        assert_eq!(
            due(&outbox, RouteKind::Slack, 100_060),
            [("east".to_owned(), true)]
        );
        let told = outbox.due(RouteKind::Slack, at(100_060));
        outbox.told(&told, at(100_060));
        assert!(outbox.is_empty());
    }

    #[test]
    fn one_that_comes_and_goes_is_told_once_and_one_that_grows_again() {
        let mut outbox = Outbox::default();
        let warning = [finding("east", Severity::Warning, 0)];
        look(&mut outbox, &warning, Severity::Info, 0);
        let told = outbox.due(RouteKind::Generic, at(0));
        outbox.told(&told, at(0));
        for second in 1..200 {
            let standing = if second % 2 == 0 { &warning[..] } else { &[] };
            look(&mut outbox, standing, Severity::Info, second);
            assert_eq!(due(&outbox, RouteKind::Generic, second), []);
        }
        let critical = [finding("east", Severity::Critical, 150)];
        look(&mut outbox, &critical, Severity::Info, 200);
        let again = outbox.due(RouteKind::Generic, at(200));
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].finding.since, at(0), "it began when it first began");
        outbox.told(&again, at(200));
        assert_eq!(due(&outbox, RouteKind::Generic, 200 + 86_399), []);
        assert_eq!(
            due(&outbox, RouteKind::Generic, 200 + 86_400).len(),
            1,
            "still critical"
        );
        // Alertmanager forgets what it does not hear.
        assert_eq!(due(&outbox, RouteKind::Alertmanager, 260).len(), 1);
    }

    #[test]
    fn what_ended_while_the_receiver_was_away_is_told_as_ended() {
        let mut outbox = Outbox::default();
        look(
            &mut outbox,
            &[finding("east", Severity::Critical, 0)],
            Severity::Warning,
            0,
        );
        look(&mut outbox, &[], Severity::Warning, 10);
        let late = outbox.due(RouteKind::Slack, at(300));
        assert_eq!((late.len(), late[0].ended), (1, Some(at(10))));
        // It comes back before the receiver took that: its beginning is told then.
        look(
            &mut outbox,
            &[finding("east", Severity::Critical, 301)],
            Severity::Warning,
            301,
        );
        outbox.told(&late, at(302));
        assert_eq!(due(&outbox, RouteKind::Slack, 302), [("east".to_owned(), false)]);
        let kept: Outbox = serde_json::from_str(&serde_json::to_string(&outbox).unwrap()).unwrap();
        assert_eq!(kept, outbox);
    }

    #[test]
    fn less_severe_than_the_route_asks_for_is_over_for_it() {
        let mut outbox = Outbox::default();
        look(
            &mut outbox,
            &[finding("east", Severity::Critical, 0)],
            Severity::Critical,
            0,
        );
        let told = outbox.due(RouteKind::Slack, at(0));
        outbox.told(&told, at(0));
        look(
            &mut outbox,
            &[finding("east", Severity::Warning, 0)],
            Severity::Critical,
            10,
        );
        assert_eq!(due(&outbox, RouteKind::Slack, 70), [("east".to_owned(), true)]);
    }

    proptest! {
        /// Whatever comes, goes and fails to be delivered: the receiver's picture is the
        /// true one once things have settled and it answers.
        #[test]
        fn the_receiver_ends_up_with_what_stands(
            steps in proptest::collection::vec((proptest::collection::vec(any::<bool>(), 3), any::<bool>()), 1..60),
        ) {
            let mut outbox = Outbox::default();
            let mut picture: BTreeMap<String, bool> = BTreeMap::new();
            let mut last = vec![];
            let mut deliver = |outbox: &mut Outbox, now: i64| {
                let notices = outbox.due(RouteKind::Generic, at(now));
                for notice in &notices {
                    picture.insert(notice.finding.subject.clone(), notice.ended.is_none());
                }
                outbox.told(&notices, at(now));
            };
            let mut now = 0;
            for (stand, answers) in &steps {
                now += 40;
                last = stand.clone();
                let standing: Vec<Finding> = (0..3)
                    .filter(|n| stand[*n])
                    .map(|n| finding(&n.to_string(), Severity::Warning, now))
                    .collect();
                look(&mut outbox, &standing, Severity::Warning, now);
                if *answers {
                    deliver(&mut outbox, now);
                }
            }
            deliver(&mut outbox, now + 61);
            for (n, stands) in last.iter().enumerate() {
                prop_assert_eq!(picture.get(&n.to_string()).copied().unwrap_or(false), *stands);
            }
        }
    }
}
