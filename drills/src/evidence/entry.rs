//! Entries of the log: what each says, and how its bytes are made.
//!
//! An entry is a DSSE envelope with exactly one signature, in its stored form;
//! those bytes are what the log hashes and what proofs are about. Later
//! signatures over the same payload (the coordinator's, a reviewer's) are
//! objects of their own and change no entry.
//!
//! A drill leaves two: the [`Intent`], logged before the work begins, and its
//! result, which is the statement itself and names the intent's place. An
//! intent whose deadline passes without a result is answered by an
//! [`Abandoned`]. Each cluster's intents form a chain by number and digest, so
//! that [`audit`] sees one that is missing, moved or answered twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use holdfast_proto::names::{BackupId, ClusterId, DrillId, PointId, TierName};
use holdfast_proto::{Fingerprint, Sha256Digest, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::dsse::{BadDsse, Envelope, IN_TOTO};
use super::keys::Signer;
use super::statement::recovery::RecoveryTarget;
use super::statement::{BadStatement, DrillKind, Level, ScenarioName, Statement};
use super::tlog::tiles::MAX_ENTRY;

/// A record that is logged as an entry of its own kind.
pub trait EntryBody: Serialize + DeserializeOwned {
    /// The payload type in its envelope.
    const PAYLOAD_TYPE: &'static str;
}

/// A drill is about to begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// The drill.
    pub drill: DrillId,
    /// The slot of the schedule that it fills.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub slot: Option<String>,
    /// The cluster.
    pub cluster: ClusterId,
    /// Its number among the cluster's intents, from 1.
    pub sequence: u64,
    /// SHA-256 of the entry with the cluster's intent before this one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub previous: Option<Sha256Digest>,
    /// Why it runs.
    pub kind: DrillKind,
    /// What it sets out to prove.
    pub level: Level,
    /// The scenario.
    pub scenario: ScenarioName,
    /// The recovery point chosen.
    pub recovery: IntendedRecovery,
    /// What the choice followed from, where it was drawn.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub seed: Option<Sha256Digest>,
    /// When it was signed, by the runner's clock.
    pub at: Timestamp,
    /// Without a result by then, the drill counts as failed.
    pub deadline: Timestamp,
}

/// The recovery point that a drill will restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntendedRecovery {
    /// What recovery will be told to reach.
    pub target: RecoveryTarget,
    /// The base backup, where it was chosen already.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub base: Option<BackupId>,
    /// The fence, where one was chosen.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub point: Option<PointId>,
}

impl EntryBody for Intent {
    const PAYLOAD_TYPE: &'static str = "application/vnd.holdfast.intent+json";
}

/// A drill came to no result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abandoned {
    /// The drill.
    pub drill: DrillId,
    /// The cluster.
    pub cluster: ClusterId,
    /// Its intent's place in the log.
    pub intent: u64,
    /// SHA-256 of the intent's entry.
    pub intent_digest: Sha256Digest,
    /// When that was found.
    pub at: Timestamp,
    /// What is known about why.
    pub reason: String,
}

impl EntryBody for Abandoned {
    const PAYLOAD_TYPE: &'static str = "application/vnd.holdfast.abandoned+json";
}

/// The log lives, although nothing happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// When.
    pub at: Timestamp,
}

impl EntryBody for Heartbeat {
    const PAYLOAD_TYPE: &'static str = "application/vnd.holdfast.heartbeat+json";
}

/// The clusters from which drills are drawn, logged before they are drawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Population {
    /// The tier that it is of; absent when it is of all.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tier: Option<TierName>,
    /// How many clusters.
    pub size: u64,
    /// SHA-256 of their names, one to a line, in order.
    pub digest: Sha256Digest,
    /// When it was counted.
    pub at: Timestamp,
}

impl EntryBody for Population {
    const PAYLOAD_TYPE: &'static str = "application/vnd.holdfast.population+json";
}

/// Bytes that are no entry, or cannot become one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// Not an envelope.
    #[error(transparent)]
    Envelope(#[from] BadDsse),
    /// An entry has one signature.
    #[error(
        "a log entry has exactly one signature and this has {0}: sign results with the runner's key alone"
    )]
    Signatures(usize),
    /// The payload is not of its kind.
    #[error("an entry of type {kind} cannot be read ({why}): it may come from a newer holdfast")]
    Body {
        /// The payload type.
        kind: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The payload is no statement.
    #[error(transparent)]
    Statement(#[from] BadStatement),
    /// Longer than an entry may be.
    #[error("the entry has {0} bytes and the log takes at most {MAX_ENTRY}: shorten what the statement says")]
    TooLong(usize),
}

/// An entry's content, by its payload type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A drill is about to begin.
    Intent(Intent),
    /// A drill's statement.
    Result(Box<Statement>),
    /// A drill came to no result.
    Abandoned(Abandoned),
    /// The log lives.
    Heartbeat(Heartbeat),
    /// Clusters to draw from.
    Population(Population),
    /// A kind that this program does not know.
    Other,
}

/// An entry as logged: content, envelope, and the bytes that were hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedEntry {
    /// What it says.
    pub entry: Entry,
    /// The envelope with its one signature.
    pub envelope: Envelope,
    bytes: Vec<u8>,
}

impl LoggedEntry {
    /// Signs a record as an entry.
    pub fn sign<B: EntryBody>(body: &B, signer: &dyn Signer) -> Result<Self, BadEntry> {
        let payload = serde_json::to_vec(body).expect("records hold nothing that JSON cannot say");
        Self::from_envelope(Envelope::signed(B::PAYLOAD_TYPE, payload, signer))
    }

    /// Signs a statement as the result of its drill. Lint it first.
    pub fn sign_result(statement: &Statement, runner: &dyn Signer) -> Result<Self, BadEntry> {
        Self::from_envelope(Envelope::signed(IN_TOTO, statement.to_bytes(), runner))
    }

    /// An entry from an envelope with one signature.
    pub fn from_envelope(envelope: Envelope) -> Result<Self, BadEntry> {
        Self::parse(&envelope.to_bytes())
    }

    /// Reads an entry's bytes. Nothing is verified.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadEntry> {
        if bytes.len() > MAX_ENTRY {
            return Err(BadEntry::TooLong(bytes.len()));
        }
        let envelope = Envelope::parse(bytes)?;
        if envelope.signatures.len() != 1 {
            return Err(BadEntry::Signatures(envelope.signatures.len()));
        }
        let entry = match envelope.payload_type.as_str() {
            IN_TOTO => Entry::Result(Box::new(Statement::parse(&envelope.payload)?)),
            Intent::PAYLOAD_TYPE => Entry::Intent(body(&envelope)?),
            Abandoned::PAYLOAD_TYPE => Entry::Abandoned(body(&envelope)?),
            Heartbeat::PAYLOAD_TYPE => Entry::Heartbeat(body(&envelope)?),
            Population::PAYLOAD_TYPE => Entry::Population(body(&envelope)?),
            _ => Entry::Other,
        };
        Ok(Self {
            entry,
            envelope,
            bytes: bytes.to_vec(),
        })
    }

    /// The bytes to log.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SHA-256 of the bytes: how other entries refer to this one.
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&self.bytes)
    }

    /// The key that the entry says it is signed by.
    pub fn signer(&self) -> Fingerprint {
        self.envelope.signatures[0].key
    }
}

fn body<B: EntryBody>(envelope: &Envelope) -> Result<B, BadEntry> {
    serde_json::from_slice(&envelope.payload).map_err(|e| BadEntry::Body {
        kind: B::PAYLOAD_TYPE,
        why: e.to_string(),
    })
}

/// Where a result departs from the intent that it answers.
pub fn departs_from_intent(statement: &Statement, intent: &LoggedEntry, index: u64) -> Vec<&'static str> {
    let p = &statement.predicate;
    let Entry::Intent(i) = &intent.entry else {
        return vec!["what it names as its intent is none"];
    };
    let mut found = Vec::new();
    for (same, what) in [
        (
            p.drill.intent.index == index,
            "the intent stands elsewhere in the log",
        ),
        (
            p.drill.intent.digest == intent.digest(),
            "the intent has another digest",
        ),
        (p.drill.id == i.drill, "the intent is for another drill"),
        (
            (&p.scope.tenant, &p.scope.cluster) == (&i.cluster.tenant, &i.cluster.cluster),
            "the intent is for another cluster",
        ),
        (
            (p.drill.sequence, p.drill.previous) == (i.sequence, i.previous),
            "the intent has another place in the cluster's sequence",
        ),
        (
            (p.drill.kind, p.drill.level) == (i.kind, i.level),
            "the intent is of another kind or level",
        ),
        (
            p.drill.scenario == i.scenario,
            "the intent is for another scenario",
        ),
        (
            p.recovery_point.as_ref().is_none_or(|r| {
                r.target == i.recovery.target
                    && i.recovery.base.is_none_or(|b| b == r.base.id)
                    && (i.recovery.point.is_none() || i.recovery.point == r.point)
            }),
            "another recovery point was restored than the intent chose",
        ),
        (
            p.sampling
                .as_ref()
                .is_none_or(|s| s.seed.is_none() || s.seed == i.seed),
            "the sampling's seed is not the intent's",
        ),
        (
            p.timings.phases.iter().all(|t| t.start >= i.at),
            "work began before the intent was signed",
        ),
    ] {
        if !same {
            found.push(what);
        }
    }
    found
}

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
/// deadline is past must be answered. Signatures are not looked at.
pub fn audit(entries: &[LoggedEntry], now: Option<Timestamp>) -> Vec<AuditFinding> {
    let mut found = Vec::new();
    let mut last: BTreeMap<&ClusterId, (u64, Sha256Digest)> = BTreeMap::new();
    let mut answered: BTreeMap<u64, u64> = BTreeMap::new();
    let mut drills = BTreeSet::new();
    for (index, logged) in entries.iter().enumerate() {
        let index = index as u64;
        let mut add = |detail: String| found.push(AuditFinding { index, detail });
        let (intent, departures) = match &logged.entry {
            Entry::Intent(i) => {
                if !drills.insert(i.drill) {
                    add(format!("drill {} has two intents", i.drill));
                }
                let expected = last
                    .get(&i.cluster)
                    .map_or((1, None), |(n, digest)| (n + 1, Some(*digest)));
                if (i.sequence, i.previous) != expected {
                    add(format!(
                        "{}: intent {} does not follow the one before it (number {} was due)",
                        i.cluster, i.sequence, expected.0
                    ));
                }
                last.insert(&i.cluster, (i.sequence, logged.digest()));
                continue;
            }
            Entry::Result(s) => {
                let place = s.predicate.drill.intent.index;
                let departures = earlier(entries, place, index)
                    .map_or(vec!["it names no earlier entry as its intent"], |i| {
                        departs_from_intent(s, i, place)
                    });
                (place, departures)
            }
            Entry::Abandoned(a) => {
                let fits = earlier(entries, a.intent, index).is_some_and(|i| {
                    i.digest() == a.intent_digest
                        && matches!(&i.entry, Entry::Intent(i) if i.drill == a.drill && i.cluster == a.cluster)
                });
                (
                    a.intent,
                    if fits {
                        vec![]
                    } else {
                        vec!["it abandons no intent of its drill"]
                    },
                )
            }
            Entry::Heartbeat(_) | Entry::Population(_) | Entry::Other => continue,
        };
        departures.into_iter().for_each(|d| add(d.to_owned()));
        if let Some(first) = answered.insert(intent, index) {
            add(format!("intent {intent} was answered by entry {first} already"));
        }
    }
    if let Some(now) = now {
        for (index, logged) in entries.iter().enumerate() {
            if let Entry::Intent(i) = &logged.entry
                && i.deadline < now
                && !answered.contains_key(&(index as u64))
            {
                let detail = format!(
                    "drill {} of {} has no result and its deadline is past",
                    i.drill, i.cluster
                );
                found.push(AuditFinding {
                    index: index as u64,
                    detail,
                });
            }
        }
    }
    found
}

fn earlier(entries: &[LoggedEntry], place: u64, before: u64) -> Option<&LoggedEntry> {
    if place < before {
        entries.get(usize::try_from(place).ok()?)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, at};
    use super::*;
    use holdfast_repository::signing::SigningKey;

    fn intent(cluster: &str, n: u64, previous: Option<&LoggedEntry>) -> Intent {
        let s = fixture::statement().predicate;
        Intent {
            drill: DrillId::from_parts(at("14:00:00"), u128::from(n) << 32 | cluster.len() as u128),
            slot: None,
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

    fn result(intent: &LoggedEntry, index: u64, key: &SigningKey) -> LoggedEntry {
        let Entry::Intent(i) = &intent.entry else {
            panic!("not an intent")
        };
        let mut s = fixture::statement();
        s.predicate.scope.cluster = i.cluster.cluster.clone();
        let drill = &mut s.predicate.drill;
        (drill.id, drill.sequence, drill.previous) = (i.drill, i.sequence, i.previous);
        (drill.intent.index, drill.intent.digest) = (index, intent.digest());
        LoggedEntry::sign_result(&s, key).unwrap()
    }

    /// Two clusters, two drills each, the last one abandoned.
    fn log(key: &SigningKey) -> Vec<LoggedEntry> {
        let sign = |i: &Intent| LoggedEntry::sign(i, key).unwrap();
        let a1 = sign(&intent("acme/erp", 1, None));
        let r1 = result(&a1, 0, key);
        let b1 = sign(&intent("acme/crm2", 1, None));
        let a2 = sign(&intent("acme/erp", 2, Some(&a1)));
        let r2 = result(&a2, 3, key);
        let beat = LoggedEntry::sign(&Heartbeat { at: at("14:30:00") }, key).unwrap();
        let rb = result(&b1, 2, key);
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
    fn entries_round_trip() {
        let key = SigningKey::generate_ed25519().unwrap();
        for entry in log(&key) {
            let read = LoggedEntry::parse(entry.bytes()).unwrap();
            assert_eq!((&read, read.signer()), (&entry, key.fingerprint()));
            read.envelope.verify(key.verifying()).unwrap();
        }
        let other = Envelope::signed("application/vnd.holdfast.approval+json", b"{}".to_vec(), &key);
        assert_eq!(LoggedEntry::from_envelope(other).unwrap().entry, Entry::Other);
    }

    #[test]
    fn an_entry_has_one_signature_and_fits() {
        let (one, two) = (
            SigningKey::generate_ed25519().unwrap(),
            SigningKey::generate_p256().unwrap(),
        );
        let mut envelope = log(&one)[0].envelope.clone();
        envelope.sign(&two);
        assert_eq!(LoggedEntry::from_envelope(envelope), Err(BadEntry::Signatures(2)));
        let none = Envelope::unsigned(IN_TOTO, b"{}".to_vec());
        assert_eq!(LoggedEntry::from_envelope(none), Err(BadEntry::Signatures(0)));
        let long = Envelope::signed("x", vec![0; MAX_ENTRY], &one);
        assert!(matches!(
            LoggedEntry::from_envelope(long),
            Err(BadEntry::TooLong(_))
        ));
        let odd = Envelope::signed(Intent::PAYLOAD_TYPE, b"{}".to_vec(), &one);
        assert!(matches!(
            LoggedEntry::from_envelope(odd),
            Err(BadEntry::Body { .. })
        ));
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
        twice.push(result(&twice[0].clone(), 0, &key));
        assert_eq!(
            audit(&twice, None)[0].detail,
            "intent 0 was answered by entry 1 already"
        );
    }

    #[test]
    fn a_result_keeps_to_its_intent() {
        let key = SigningKey::generate_ed25519().unwrap();
        let whole = log(&key);
        let Entry::Result(sound) = &whole[4].entry else {
            panic!("a result")
        };
        assert_eq!(departs_from_intent(sound, &whole[3], 3), [""; 0]);
        let changes: [fn(&mut Statement); 9] = [
            |s| s.predicate.scope.cluster = "crm2".parse().unwrap(),
            |s| s.predicate.drill.sequence = 3,
            |s| s.predicate.drill.previous = None,
            |s| s.predicate.drill.intent.index = 4,
            |s| s.predicate.drill.level = Level::L2,
            |s| s.predicate.drill.id = DrillId::from_parts(at("14:00:00"), 99),
            |s| s.predicate.recovery_point.as_mut().unwrap().target = RecoveryTarget::Latest,
            |s| s.predicate.sampling.as_mut().unwrap().seed = Some(Sha256Digest::of(b"other")),
            |s| s.predicate.timings.phases[0].start = at("13:00:00"),
        ];
        for (n, change) in changes.iter().enumerate() {
            let mut s = (**sound).clone();
            change(&mut s);
            assert_ne!(departs_from_intent(&s, &whole[3], 3), [""; 0], "change {n}");
        }
    }
}
