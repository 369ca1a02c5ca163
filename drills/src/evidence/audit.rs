//! A log as a whole: what a reader sees who has every entry.
//!
//! Pure. Signatures are not looked at here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use holdfast_proto::names::{ClusterId, DrillId};
use holdfast_proto::{Sha256Digest, Timestamp};

use super::entry::{Entry, Intent, LoggedEntry, departs_from_intent};

/// Something wrong with a log as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditFinding {
    /// The entry that it is about.
    pub index: u64,
    /// What is wrong.
    pub detail: String,
}

impl fmt::Display for AuditFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {}: {}", self.index, self.detail)
    }
}

/// Walks a whole log: every cluster's intents must be numbered without a hole
/// and chained by digest, every result and abandonment must answer an earlier
/// intent, each intent at most once, and, with `now` given, every intent whose
/// deadline is past must be answered.
pub fn audit(entries: &[LoggedEntry], now: Option<Timestamp>) -> Vec<AuditFinding> {
    audit_some(&(0..).zip(entries).collect(), now)
}

/// As [`audit`], over all that some clusters left in the log, by place.
pub fn audit_some(entries: &BTreeMap<u64, &LoggedEntry>, now: Option<Timestamp>) -> Vec<AuditFinding> {
    let mut walk = Walk::default();
    for (index, logged) in entries {
        walk.step(*index, logged, entries);
    }
    if let Some(now) = now {
        walk.unanswered(entries, now);
    }
    walk.found
}

/// What was met so far.
#[derive(Default)]
struct Walk {
    found: Vec<AuditFinding>,
    last: BTreeMap<ClusterId, (u64, Sha256Digest)>,
    answered: BTreeMap<u64, u64>,
    drills: BTreeSet<DrillId>,
}

impl Walk {
    fn add(&mut self, index: u64, detail: impl Into<String>) {
        let detail = detail.into();
        self.found.push(AuditFinding { index, detail });
    }

    fn step(&mut self, index: u64, logged: &LoggedEntry, entries: &BTreeMap<u64, &LoggedEntry>) {
        let earlier = |place: u64| entries.get(&place).copied().filter(|_| place < index);
        match &logged.entry {
            Entry::Intent(i) => self.intent(index, i, logged),
            Entry::Result(s) => match s.predicate.drill.intent_index() {
                Some(place) => {
                    let departures = earlier(place)
                        .map_or(vec!["it names no earlier entry as its intent"], |i| {
                            departs_from_intent(s, i, place)
                        });
                    self.answer(index, place, departures);
                }
                None if !self.drills.insert(s.predicate.drill.id) => {
                    self.add(
                        index,
                        format!("restore {} was logged already", s.predicate.drill.id),
                    );
                }
                None => {}
            },
            Entry::Abandoned(a) => {
                let fits = earlier(a.intent).is_some_and(|i| {
                    i.digest() == a.intent_digest
                        && matches!(&i.entry, Entry::Intent(i) if i.drill == a.drill && i.cluster == a.cluster)
                });
                let departures = (!fits).then_some("it abandons no intent of its drill");
                self.answer(index, a.intent, departures.into_iter().collect());
            }
            Entry::Population(p) if !p.is_consistent() => {
                self.add(
                    index,
                    "size and digest of the population are not those of what it lists",
                );
            }
            Entry::Received(r) => {
                let restore = |e: &LoggedEntry| match &e.entry {
                    Entry::Result(s) => s.predicate.drill.id == r.drill && s.predicate.drill.intent.is_none(),
                    _ => false,
                };
                if !earlier(r.entry).is_some_and(|e| e.digest() == r.digest && restore(e)) {
                    self.add(index, "it names no earlier restore");
                }
            }
            Entry::Heartbeat(_)
            | Entry::Population(_)
            | Entry::Policy(_)
            | Entry::Coverage(_)
            | Entry::Other => {}
        }
    }

    fn intent(&mut self, index: u64, intent: &Intent, logged: &LoggedEntry) {
        if !self.drills.insert(intent.drill) {
            self.add(index, format!("drill {} has two intents", intent.drill));
        }
        let expected = self
            .last
            .get(&intent.cluster)
            .map_or((1, None), |(n, digest)| (n + 1, Some(*digest)));
        if (intent.sequence, intent.previous) != expected {
            let detail = format!(
                "{}: intent {} does not follow the one before it (number {} was due)",
                intent.cluster, intent.sequence, expected.0
            );
            self.add(index, detail);
        }
        self.last
            .insert(intent.cluster.clone(), (intent.sequence, logged.digest()));
    }

    fn answer(&mut self, index: u64, intent: u64, departures: Vec<&'static str>) {
        departures.into_iter().for_each(|d| self.add(index, d));
        if let Some(first) = self.answered.insert(intent, index) {
            self.add(
                index,
                format!("intent {intent} was answered by entry {first} already"),
            );
        }
    }

    fn unanswered(&mut self, entries: &BTreeMap<u64, &LoggedEntry>, now: Timestamp) {
        for (index, logged) in entries {
            if let Entry::Intent(i) = &logged.entry
                && i.deadline < now
                && !self.answered.contains_key(index)
            {
                let detail = format!(
                    "drill {} of {} has no result and its deadline is past",
                    i.drill, i.cluster
                );
                self.add(*index, detail);
            }
        }
    }
}

/// Draws that no intent used, by their places: a runner that draws until a
/// sample pleases leaves them behind, and so does one that died in between.
pub fn unused_draws<'a>(entries: impl Iterator<Item = (u64, &'a LoggedEntry)> + Clone) -> Vec<u64> {
    let used: BTreeSet<(&ClusterId, &str)> = entries
        .clone()
        .filter_map(|(_, e)| match &e.entry {
            Entry::Intent(i) => Some((&i.cluster, i.slot.as_deref()?)),
            _ => None,
        })
        .collect();
    let mut seen = BTreeSet::new();
    entries
        .filter_map(|(index, e)| match &e.entry {
            Entry::Population(p) => Some((index, p.draw.as_ref()?)),
            _ => None,
        })
        .filter(|(_, draw)| {
            let slot = (&draw.cluster, draw.slot.as_str());
            // A second draw for the same slot is one too many, used or not.
            !used.contains(&slot) || !seen.insert(slot)
        })
        .map(|(index, _)| index)
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::entry::{Abandoned, Heartbeat, IntendedRecovery};
    use super::super::fixture::{self, at};
    use super::super::statement::RecoveryDrill;
    use super::*;
    use holdfast_repository::signing::SigningKey;

    fn intent(cluster: &str, n: u64, previous: Option<&LoggedEntry>) -> Intent {
        let s = fixture::statement().predicate;
        Intent {
            drill: DrillId::from_parts(at("14:00:00"), u128::from(n) << 32 | cluster.len() as u128),
            slot: s.sampling.as_ref().unwrap().slot.clone(),
            cluster: cluster.parse().unwrap(),
            sequence: n,
            previous: previous.map(LoggedEntry::digest),
            kind: s.drill.kind,
            level: s.drill.level,
            scenario: s.drill.scenario,
            recovery: IntendedRecovery {
                target: s.recovery_point.unwrap().target,
                base: None,
                point: None,
            },
            seed: s.sampling.unwrap().seed,
            at: at("13:59:59"),
            deadline: at("15:00:00"),
        }
    }

    fn result(
        intent: &LoggedEntry,
        index: u64,
        key: &SigningKey,
        change: &impl Fn(&mut RecoveryDrill),
    ) -> LoggedEntry {
        let Entry::Intent(i) = &intent.entry else {
            panic!("not an intent")
        };
        let mut s = fixture::statement();
        s.predicate.scope.cluster = i.cluster.cluster.clone();
        let drill = &mut s.predicate.drill;
        (drill.id, drill.sequence, drill.previous) = (i.drill, i.sequence, i.previous);
        let named = drill.intent.as_mut().unwrap();
        (named.index, named.digest) = (index, intent.digest());
        change(&mut s.predicate);
        LoggedEntry::sign_result(&s, key).unwrap()
    }

    /// Two clusters, two drills each, the last one abandoned.
    pub(crate) fn log(key: &SigningKey) -> Vec<LoggedEntry> {
        log_of(key, |_| {})
    }

    /// The same, with results changed before they are signed.
    pub(crate) fn log_of(key: &SigningKey, change: impl Fn(&mut RecoveryDrill)) -> Vec<LoggedEntry> {
        let sign = |i: &Intent| LoggedEntry::sign(i, key).unwrap();
        let a1 = sign(&intent("acme/erp", 1, None));
        let r1 = result(&a1, 0, key, &change);
        let b1 = sign(&intent("acme/crm2", 1, None));
        let a2 = sign(&intent("acme/erp", 2, Some(&a1)));
        let r2 = result(&a2, 3, key, &change);
        let beat = LoggedEntry::sign(&Heartbeat { at: at("14:30:00") }, key).unwrap();
        let rb = result(&b1, 2, key, &change);
        let b2 = sign(&intent("acme/crm2", 2, Some(&b1)));
        let Entry::Intent(i) = &b2.entry else {
            panic!("an intent")
        };
        let gone = Abandoned {
            drill: i.drill,
            cluster: i.cluster.clone(),
            intent: 7,
            intent_digest: b2.digest(),
            at: at("15:00:01"),
            reason: "the runner's lease ended".into(),
        };
        let gone = LoggedEntry::sign(&gone, key).unwrap();
        vec![a1, r1, b1, a2, r2, beat, rb, b2, gone]
    }

    #[test]
    fn a_whole_log_is_sound() {
        let key = SigningKey::generate_ed25519().unwrap();
        assert_eq!(audit(&log(&key), Some(at("16:00:00"))), []);
        assert_eq!(audit(&[], None), []);
    }

    #[test]
    fn every_dropped_drill_entry_is_noticed() {
        let key = SigningKey::generate_ed25519().unwrap();
        let whole = log(&key);
        for drop in (0..whole.len()).filter(|n| !matches!(whole[*n].entry, Entry::Heartbeat(_))) {
            let mut cut = whole.clone();
            cut.remove(drop);
            assert_ne!(
                audit(&cut, Some(at("16:00:00"))),
                [],
                "entry {drop} dropped unnoticed"
            );
        }
    }

    #[test]
    fn every_swap_that_changes_the_story_is_noticed() {
        let key = SigningKey::generate_ed25519().unwrap();
        let whole = log(&key);
        for (a, b) in [(0, 1), (0, 3), (3, 4), (2, 6), (7, 8), (1, 4), (0, 2)] {
            let mut swapped = whole.clone();
            swapped.swap(a, b);
            assert_ne!(
                audit(&swapped, Some(at("16:00:00"))),
                [],
                "{a} and {b} swapped unnoticed"
            );
        }
    }

    #[test]
    fn a_second_answer_is_noticed() {
        let key = SigningKey::generate_ed25519().unwrap();
        let mut twice = log(&key);
        twice.push(result(&twice[0].clone(), 0, &key, &|_| {}));
        assert_eq!(
            audit(&twice, None)[0].detail,
            "intent 0 was answered by entry 1 already"
        );
    }
}
