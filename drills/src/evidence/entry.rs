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
//! that [`super::audit`] sees one that is missing, moved or answered twice.
//!
//! A restore that was needed has no intent. Its statement waits in the
//! repository until the coordinator logs it and says in a [`Received`] how long
//! it waited.

use holdfast_proto::names::{BackupId, ClusterId, DrillId, PointId, TenantName, TierName};
use holdfast_proto::record::TrustRole;
use holdfast_proto::{Fingerprint, Sha256Digest, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::coverage::{self, CoverageStatement};
use super::dsse::{BadDsse, Envelope, IN_TOTO};
use super::keys::Signer;
use super::sampling::Draw;
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

/// What is to be drilled or drawn from, logged before it is.
///
/// Either the moments that one drill's is drawn from (`draw`, signed by the
/// runner), or the clusters of a tenant with the drills that policy asks for
/// (`tenant` and `members`, signed by the coordinator).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Population {
    /// The tier that it is of; absent when it is of all.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tier: Option<TierName>,
    /// How many there are.
    pub size: u64,
    /// SHA-256 of their listing.
    pub digest: Sha256Digest,
    /// When it was counted.
    pub at: Timestamp,
    /// Moments to draw one drill's from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub draw: Option<Draw>,
    /// Whose clusters it lists.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tenant: Option<TenantName>,
    /// The clusters.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub members: Vec<Member>,
}

/// A cluster and the drills that policy asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its tier.
    pub tier: TierName,
    /// One to be proven in each span of so many milliseconds.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub drills: Vec<Due>,
}

/// How often which drill must pass.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Due {
    /// The scenario.
    pub scenario: ScenarioName,
    /// The least level.
    pub level: Level,
    /// Length of a slot, in milliseconds.
    pub every_ms: u64,
}

impl Population {
    /// The clusters of a tenant. `members` are put in order of names.
    pub fn of_tenant(tenant: TenantName, mut members: Vec<Member>, at: Timestamp) -> Self {
        members.sort_by(|a, b| a.cluster.cmp(&b.cluster));
        members.iter_mut().for_each(|m| m.drills.sort());
        Self {
            tier: None,
            size: members.len() as u64,
            digest: Sha256Digest::of(Self::listing(&members).as_bytes()),
            at,
            draw: None,
            tenant: Some(tenant),
            members,
        }
    }

    /// One line for each cluster: its name, its tier and its drills as
    /// `scenario:level:milliseconds`, with single blanks between them.
    pub fn listing(members: &[Member]) -> String {
        let line = |m: &Member| {
            let drills: String = m
                .drills
                .iter()
                .map(|d| format!(" {}:{}:{}", d.scenario, d.level, d.every_ms))
                .collect();
            format!("{} {}{drills}\n", m.cluster, m.tier)
        };
        members.iter().map(line).collect()
    }

    /// Whether size and digest are those of what it lists.
    pub fn is_consistent(&self) -> bool {
        match &self.draw {
            Some(draw) => (self.size, self.digest) == (draw.size(), draw.digest()),
            None if self.tenant.is_some() => {
                let digest = Sha256Digest::of(Self::listing(&self.members).as_bytes());
                (self.size, self.digest) == (self.members.len() as u64, digest)
            }
            None => self.members.is_empty(),
        }
    }
}

impl EntryBody for Population {
    const PAYLOAD_TYPE: &'static str = "application/vnd.holdfast.population+json";
}

/// A restore's statement was logged, later than it was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Received {
    /// The restore.
    pub drill: DrillId,
    /// The cluster.
    pub cluster: ClusterId,
    /// The statement's place in the log.
    pub entry: u64,
    /// SHA-256 of that entry.
    pub digest: Sha256Digest,
    /// When the restore ended, by its own clock.
    pub ended: Timestamp,
    /// When it was logged, by the coordinator's.
    pub at: Timestamp,
    /// The milliseconds between the two; 0 when the clocks say it was earlier.
    pub delay_ms: u64,
}

impl EntryBody for Received {
    const PAYLOAD_TYPE: &'static str = "application/vnd.holdfast.received+json";
}

/// Another policy came into force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyTaken {
    /// SHA-256 of the policy that the log named before; absent for the first.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<Sha256Digest>,
    /// SHA-256 of the policy in force since.
    pub to: Sha256Digest,
    /// What that changed, a sentence each, as far as the coordinator that took it
    /// up knows and an entry holds.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub changes: Vec<String>,
    /// When it was logged.
    pub at: Timestamp,
}

impl EntryBody for PolicyTaken {
    const PAYLOAD_TYPE: &'static str = "application/vnd.holdfast.policy+json";
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
    /// What is to be drilled or drawn from.
    Population(Population),
    /// A restore's statement was logged later than it was signed.
    Received(Received),
    /// Another policy came into force.
    Policy(PolicyTaken),
    /// How much of a month's drills was done.
    Coverage(Box<CoverageStatement>),
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

    /// Signs a month's coverage.
    pub fn sign_coverage(statement: &CoverageStatement, coordinator: &dyn Signer) -> Result<Self, BadEntry> {
        Self::from_envelope(Envelope::signed(IN_TOTO, statement.to_bytes(), coordinator))
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
            IN_TOTO if coverage::is_coverage(&envelope.payload) => {
                Entry::Coverage(Box::new(CoverageStatement::parse(&envelope.payload)?))
            }
            IN_TOTO => Entry::Result(Box::new(Statement::parse(&envelope.payload)?)),
            Intent::PAYLOAD_TYPE => Entry::Intent(body(&envelope)?),
            Abandoned::PAYLOAD_TYPE => Entry::Abandoned(body(&envelope)?),
            Heartbeat::PAYLOAD_TYPE => Entry::Heartbeat(body(&envelope)?),
            Population::PAYLOAD_TYPE => Entry::Population(body(&envelope)?),
            Received::PAYLOAD_TYPE => Entry::Received(body(&envelope)?),
            PolicyTaken::PAYLOAD_TYPE => Entry::Policy(body(&envelope)?),
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

    /// The cluster that it is about, when it is about one.
    pub fn cluster(&self) -> Option<ClusterId> {
        match &self.entry {
            Entry::Intent(i) => Some(i.cluster.clone()),
            Entry::Abandoned(a) => Some(a.cluster.clone()),
            Entry::Received(r) => Some(r.cluster.clone()),
            Entry::Result(s) => Some(s.predicate.scope.id()),
            Entry::Population(p) => p.draw.as_ref().map(|d| d.cluster.clone()),
            Entry::Heartbeat(_) | Entry::Policy(_) | Entry::Coverage(_) | Entry::Other => None,
        }
    }

    /// Roles in which such an entry may be signed.
    pub fn signers(&self) -> &'static [TrustRole] {
        match &self.entry {
            Entry::Intent(_) | Entry::Result(_) => &[TrustRole::Runner],
            Entry::Abandoned(_) => &[TrustRole::Runner, TrustRole::Coordinator],
            Entry::Population(p) if p.draw.is_some() => &[TrustRole::Runner],
            Entry::Heartbeat(_) => &[TrustRole::Coordinator, TrustRole::Runner],
            Entry::Population(_) | Entry::Received(_) | Entry::Policy(_) | Entry::Coverage(_) => {
                &[TrustRole::Coordinator]
            }
            Entry::Other => &TrustRole::ALL,
        }
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
    let (Entry::Intent(i), Some(named)) = (&intent.entry, &p.drill.intent) else {
        return vec!["what it names as its intent is none"];
    };
    let mut found = Vec::new();
    for (same, what) in [
        (named.index == index, "the intent stands elsewhere in the log"),
        (named.digest == intent.digest(), "the intent has another digest"),
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
            p.sampling.as_ref().map_or(i.seed.is_none(), |s| {
                s.seed == i.seed && (s.slot.is_none() || s.slot == i.slot)
            }),
            "the sampling's seed or slot is not the intent's",
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

#[cfg(test)]
mod tests {
    use super::super::audit::tests::log;
    use super::super::fixture::at;
    use super::*;
    use holdfast_repository::signing::SigningKey;

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
            |s| s.predicate.drill.intent.as_mut().unwrap().index = 4,
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
