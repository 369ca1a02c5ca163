//! What a drill has to say: an in-toto Statement v1 whose predicate is the
//! recovery drill's record.
//!
//! These types carry what was measured and nothing else. A value that nobody
//! measured is `None` and is left out of the JSON; there are no defaults, no
//! floating-point numbers, and no place for a query's rows or a person's name:
//! digests and opaque identifiers stand for them. Sizes are bytes, durations
//! milliseconds, moments RFC 3339 in UTC.
//!
//! A statement is serialised once, by [`Statement::to_bytes`]; those bytes are
//! signed, stored and logged, and nothing is signed from a parsed copy. Fields
//! that a reader does not know are ignored, so that later versions of the same
//! predicate may add some.
//!
//! - [`context`]: whose drill it was, by whose order, under which policy.
//! - [`recovery`]: what was restored, where to, and when.
//! - [`results`]: what came of it.
//! - [`unknown`]: what is left out, and why.

pub mod context;
pub mod recovery;
pub mod results;
pub mod unknown;

use std::fmt;
use std::str::FromStr;

use holdfast_proto::names::{DrillId, ObjectKey};
use holdfast_proto::{Sha256Digest, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::tlog::LogOrigin;
use context::{Actors, Policy, Sampling, Scope};
use recovery::{RecoveryPoint, Target, Timings};
use results::{Byproduct, Exception, Remediation, Results};
use unknown::Unknown;

/// The in-toto version that statements are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatementType {
    /// in-toto Statement v1.
    #[serde(rename = "https://in-toto.io/Statement/v1")]
    V1,
}

/// The predicate that statements carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PredicateType {
    /// A recovery drill, version 1.
    #[serde(rename = "https://holdfast.dev/recovery-drill/v1")]
    RecoveryDrillV1,
}

/// A drill's statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// Always in-toto Statement v1.
    #[serde(rename = "_type")]
    pub type_: StatementType,
    /// What the drill restored from, by digest.
    pub subject: Vec<Subject>,
    /// Always the recovery drill, version 1.
    #[serde(rename = "predicateType")]
    pub predicate_type: PredicateType,
    /// What happened.
    pub predicate: RecoveryDrill,
}

/// Bytes that are not a statement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no statement of a recovery drill ({0}): it may come from a newer holdfast, or was changed")]
pub struct BadStatement(String);

impl BadStatement {
    pub(super) fn new(why: &dyn fmt::Display) -> Self {
        Self(why.to_string())
    }
}

impl Statement {
    /// A statement about `subject`.
    pub fn new(subject: Vec<Subject>, predicate: RecoveryDrill) -> Self {
        Self {
            type_: StatementType::V1,
            subject,
            predicate_type: PredicateType::RecoveryDrillV1,
            predicate,
        }
    }

    /// The bytes to sign and to store.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a statement holds nothing that JSON cannot say")
    }

    /// Reads a statement's bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadStatement> {
        serde_json::from_slice(bytes).map_err(|e| BadStatement(e.to_string()))
    }
}

/// The kinds of things that a drill restores from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SubjectKind {
    /// The signed record of the recovery point.
    RecoveryPoint,
    /// The signed manifest of the base backup.
    BaseBackup,
    /// The listing of the WAL objects replayed.
    WalListing,
    /// A filestore's journal entry.
    FilestoreEntry,
    /// A configuration bundle.
    ConfigurationBundle,
}

/// One thing that a drill restored from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// What it is.
    pub name: SubjectKind,
    /// The object's key in the repository; a listing has none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uri: Option<ObjectKey>,
    /// Its digest.
    pub digest: SubjectDigest,
}

/// A digest by the name of its algorithm, as in-toto writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectDigest {
    /// SHA-256 of the object's bytes, or of the listing's text.
    pub sha256: Sha256Digest,
}

impl Subject {
    /// An object of the repository, by its key and the digest of its bytes.
    pub fn object(name: SubjectKind, key: ObjectKey, sha256: Sha256Digest) -> Self {
        Self {
            name,
            uri: Some(key),
            digest: SubjectDigest { sha256 },
        }
    }

    /// A run of WAL objects, in order: the digest of one line for each, its
    /// SHA-256, two blanks and its key, as `sha256sum` prints them.
    pub fn wal_listing<'a>(objects: impl IntoIterator<Item = (&'a ObjectKey, Sha256Digest)>) -> Self {
        let listing: String = objects
            .into_iter()
            .map(|(key, sha256)| format!("{sha256}  {key}\n"))
            .collect();
        let sha256 = Sha256Digest::of(listing.as_bytes());
        Self {
            name: SubjectKind::WalListing,
            uri: None,
            digest: SubjectDigest { sha256 },
        }
    }
}

/// The predicate: a recovery drill from its intent to its verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryDrill {
    /// Which drill.
    pub drill: Drill,
    /// Whose data.
    pub scope: Scope,
    /// Who took part.
    pub actors: Actors,
    /// The policy that asked for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub policy: Option<Policy>,
    /// How moment and files were chosen.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sampling: Option<Sampling>,
    /// What was restored.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recovery_point: Option<RecoveryPoint>,
    /// Where to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<Target>,
    /// When.
    pub timings: Timings,
    /// What came of it.
    pub results: Results,
    /// What was found wanting and is accepted until a date.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub exceptions: Vec<Exception>,
    /// What is to be done, by whom, until when.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub remediation: Vec<Remediation>,
    /// Controls that this evidence serves, for example `ISO-27001:2022 A.8.13`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub controls: Vec<String>,
    /// How long it is kept.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retention: Option<Retention>,
    /// Files that the drill left behind, by digest.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub byproducts: Vec<Byproduct>,
    /// What is not said, and why; empty in statements of earlier versions.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub unknown: Vec<Unknown>,
}

/// Which drill it was, and its place among the cluster's drills.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drill {
    /// The drill.
    pub id: DrillId,
    /// Its number among the cluster's drills, from 1, as its intent says; 0 for
    /// a restore that was needed, which nobody announces.
    pub sequence: u64,
    /// SHA-256 of the log entry with the cluster's intent before this one;
    /// absent for the first.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub previous: Option<Sha256Digest>,
    /// Why it ran.
    pub kind: DrillKind,
    /// What it set out to prove.
    pub level: Level,
    /// The scenario played.
    pub scenario: ScenarioName,
    /// SHA-256 of the scenario's file: the name alone says little of one's own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scenario_digest: Option<Sha256Digest>,
    /// Why the plan of drills wanted it now; empty where somebody asked.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub why: Vec<String>,
    /// The intent that was logged before the work began; absent for a restore
    /// that was needed, and for nothing else.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub intent: Option<IntentReference>,
}

impl Drill {
    /// The place of its intent in the log.
    pub fn intent_index(&self) -> Option<u64> {
        self.intent.as_ref().map(|i| i.index)
    }
}

/// Where the intent stands in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntentReference {
    /// The log.
    pub log: LogOrigin,
    /// The intent's place in it.
    pub index: u64,
    /// SHA-256 of the intent's log entry.
    pub digest: Sha256Digest,
    /// Entries in the log when the runner held a proof of its intent, before
    /// it began.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub checkpoint_size: Option<u64>,
    /// Who outside the coordinator had cosigned that checkpoint.
    pub witness: Witness,
}

/// Who saw the log besides its owner: a witness's name, or `none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Witness {
    /// Nobody: the log's owner could have built the tree anew.
    None,
    /// The name under which the witness cosigned.
    Named(String),
}

impl Witness {
    /// The witness of that name, or none.
    pub fn of(name: Option<String>) -> Self {
        name.map_or(Witness::None, Witness::Named)
    }

    /// Its name.
    pub fn name(&self) -> Option<&str> {
        match self {
            Witness::None => None,
            Witness::Named(name) => Some(name),
        }
    }
}

impl Serialize for Witness {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name().unwrap_or("none"))
    }
}

impl<'de> Deserialize<'de> for Witness {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Ok(Witness::of(Some(text).filter(|t| t != "none")))
    }
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name().unwrap_or("none"))
    }
}

/// Why a drill ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DrillKind {
    /// Its slot in the schedule came.
    Scheduled,
    /// Something changed that voided the last proof.
    OnChange,
    /// Somebody asked.
    OnDemand,
    /// Not a drill: a restore that was needed.
    RealRestore,
}

impl fmt::Display for DrillKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            DrillKind::Scheduled => "SCHEDULED",
            DrillKind::OnChange => "ON_CHANGE",
            DrillKind::OnDemand => "ON_DEMAND",
            DrillKind::RealRestore => "REAL_RESTORE",
        })
    }
}

/// What a drill proves, each level all that the ones below it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Level {
    /// The backup is whole: signatures, presence, digests, continuity, keys.
    L1,
    /// The database comes back at the chosen moment and is sound.
    L2,
    /// The files that the database refers to come back with it.
    L3,
    /// The application starts on it and its books agree.
    L4,
    /// From the second region, escrow keys and the configuration bundle alone.
    L5,
}

impl Level {
    /// Whether something is restored at it: without that nothing is proven of a restore.
    pub fn restores(self) -> bool {
        self > Level::L1
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A level that is not one of L1 to L5.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a level: write L1, L2, L3, L4 or L5")]
pub struct BadLevel(String);

impl FromStr for Level {
    type Err = BadLevel;

    fn from_str(text: &str) -> Result<Self, BadLevel> {
        [Level::L1, Level::L2, Level::L3, Level::L4, Level::L5]
            .into_iter()
            .find(|l| l.to_string() == text)
            .ok_or_else(|| BadLevel(text.chars().take(20).collect()))
    }
}

/// The name of a scenario, as in `scenarios/<name>.toml`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScenarioName(String);

/// A text that cannot name a scenario.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a scenario's name: use a-z, 0-9 and '-', as in accidental-deletion")]
pub struct BadScenario(String);

impl ScenarioName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ScenarioName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for ScenarioName {
    type Err = BadScenario;

    fn from_str(text: &str) -> Result<Self, BadScenario> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if text.is_empty() || text.len() > 63 || !text.bytes().all(plain) {
            return Err(BadScenario(text.chars().take(100).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Serialize for ScenarioName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ScenarioName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// How long a statement is kept: as its intent's entry of the log, which lies beside
/// the result's, on every replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Not deleted before this moment.
    pub until: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn is_an_in_toto_statement() {
        let bytes = fixture::statement().to_bytes();
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["_type"], "https://in-toto.io/Statement/v1");
        assert_eq!(json["predicateType"], "https://holdfast.dev/recovery-drill/v1");
        assert_eq!(json["subject"][0]["name"], "base-backup");
        assert!(json["subject"][0]["digest"]["sha256"].is_string());
        assert_eq!(json["predicate"]["drill"]["kind"], "SCHEDULED");
        assert_eq!(json["predicate"]["drill"]["intent"]["witness"], "none");
        assert_eq!(json["predicate"]["results"]["verdict"], "PASS");
        assert_eq!(Statement::parse(&bytes).unwrap(), fixture::statement());
    }

    #[test]
    fn leaves_out_what_nobody_measured() {
        let mut statement = fixture::statement();
        let p = &mut statement.predicate;
        (p.policy, p.sampling, p.recovery_point, p.target, p.results.rto) = (None, None, None, None, None);
        let text = String::from_utf8(statement.to_bytes()).unwrap();
        for word in [
            "policy",
            "sampling",
            "recovery_point",
            "\"target\"",
            "rto",
            "null",
            "exceptions",
        ] {
            assert!(!text.contains(word), "{word} in {text}");
        }
        assert_eq!(Statement::parse(text.as_bytes()).unwrap(), statement);
    }

    #[test]
    fn refuses_another_predicate() {
        let text = String::from_utf8(fixture::statement().to_bytes()).unwrap();
        Statement::parse(text.replace("recovery-drill/v1", "recovery-drill/v2").as_bytes()).unwrap_err();
        Statement::parse(text.replace("Statement/v1", "Statement/v0.1").as_bytes()).unwrap_err();
        let later = text.replacen("\"drill\":{", "\"drill\":{\"unheard_of\":1,", 1);
        Statement::parse(later.as_bytes()).unwrap();
    }

    #[test]
    fn a_listing_is_what_sha256sum_prints() {
        let key = ObjectKey::from_layout("wal/1".into());
        let listed = Subject::wal_listing([(&key, Sha256Digest::of(b"x"))]);
        let line = format!("{}  wal/1\n", Sha256Digest::of(b"x"));
        assert_eq!(listed.digest.sha256, Sha256Digest::of(line.as_bytes()));
    }
}
