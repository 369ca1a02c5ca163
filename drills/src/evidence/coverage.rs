//! How much of a month's drills was done: derived from the log, per tenant.
//!
//! What was expected stands in the log too: the coordinator logs each tenant's
//! clusters, with the drills that policy asks for, whenever they change. A drill
//! asked for every *d* milliseconds divides time into slots of that length,
//! counted from 1970-01-01T00:00:00Z. A slot is expected in the month in which it
//! ends, when the population that was in force at its beginning asks for it. A
//! drill belongs to the slot in which its intent was signed and answers it when
//! it played that scenario at that level or above. A slot without a drill is
//! MISSED, and that counts as a failure; one with several is what the last of
//! them came to. An intent without a result, and one that was abandoned, failed.
//!
//! [`derive`] is pure and looks at entries alone, so whoever has a tenant's
//! entries counts the same. It does not verify signatures.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use chrono::{NaiveDate, NaiveTime};
use holdfast_proto::names::{ClusterId, DrillId, TenantName, TierName};
use holdfast_proto::{Sha256Digest, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::entry::{Due, Entry, LoggedEntry, Member, Population};
use super::statement::results::Verdict;
use super::statement::{BadStatement, Level, ScenarioName, StatementType};
use super::tlog::LogOrigin;

mod derive;

pub use derive::derive;

/// A calendar month in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Month(NaiveDate);

/// A text that is no month.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a month: write it as 2026-11")]
pub struct BadMonth(String);

impl Month {
    /// The month in which a moment lies.
    pub fn of(at: Timestamp) -> Option<Self> {
        use chrono::Datelike;
        let date = at.to_chrono().date_naive();
        NaiveDate::from_ymd_opt(date.year(), date.month(), 1).map(Self)
    }

    /// The month before.
    pub fn previous(self) -> Option<Self> {
        self.0.checked_sub_months(chrono::Months::new(1)).map(Self)
    }

    /// Its first moment.
    pub fn from(self) -> Timestamp {
        Timestamp::from_chrono(self.0.and_time(NaiveTime::MIN).and_utc())
    }

    /// The first moment after it.
    pub fn until(self) -> Timestamp {
        let next = self.0.checked_add_months(chrono::Months::new(1));
        Timestamp::from_chrono(next.unwrap_or(NaiveDate::MAX).and_time(NaiveTime::MIN).and_utc())
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.format("%Y-%m").to_string())
    }
}

impl FromStr for Month {
    type Err = BadMonth;

    fn from_str(text: &str) -> Result<Self, BadMonth> {
        let bad = || BadMonth(text.chars().take(20).collect());
        let read = NaiveDate::parse_from_str(&format!("{text}-01"), "%Y-%m-%d").map_err(|_| bad())?;
        let month = Self(read);
        (month.to_string() == text).then_some(month).ok_or_else(bad)
    }
}

impl Serialize for Month {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Month {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// The predicate that coverage statements carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CoverageType {
    /// Coverage by recovery drills, version 1.
    #[serde(rename = "https://holdfast.dev/recovery-coverage/v1")]
    RecoveryCoverageV1,
}

/// A month's coverage as an in-toto statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoverageStatement {
    /// Always in-toto Statement v1.
    #[serde(rename = "_type")]
    pub type_: StatementType,
    /// The log that it is derived from, by its root.
    pub subject: Vec<LogSubject>,
    /// Always recovery coverage, version 1.
    #[serde(rename = "predicateType")]
    pub predicate_type: CoverageType,
    /// What was counted.
    pub predicate: Coverage,
}

/// A log at a size, by its root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSubject {
    /// The log.
    pub name: LogOrigin,
    /// Its root.
    pub digest: super::statement::SubjectDigest,
}

impl CoverageStatement {
    /// The statement of what was counted.
    pub fn new(coverage: Coverage) -> Self {
        Self {
            type_: StatementType::V1,
            subject: vec![LogSubject {
                name: coverage.log.clone(),
                digest: super::statement::SubjectDigest {
                    sha256: coverage.root,
                },
            }],
            predicate_type: CoverageType::RecoveryCoverageV1,
            predicate: coverage,
        }
    }

    /// The bytes to sign and to store.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a statement holds nothing that JSON cannot say")
    }

    /// Reads a statement's bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadStatement> {
        serde_json::from_slice(bytes).map_err(|e| BadStatement::new(&e))
    }
}

/// Whether an in-toto payload says that it is a month's coverage.
pub fn is_coverage(payload: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Kind {
        #[serde(rename = "predicateType")]
        predicate_type: String,
    }
    serde_json::from_slice::<Kind>(payload).is_ok_and(|k| {
        k.predicate_type
            .starts_with("https://holdfast.dev/recovery-coverage/")
    })
}

/// What was expected and what was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// The log.
    pub log: LogOrigin,
    /// Entries that were looked at, from the first.
    pub size: u64,
    /// The root over them.
    pub root: Sha256Digest,
    /// Whose clusters.
    pub tenant: TenantName,
    /// Which month, in UTC.
    pub month: Month,
    /// Its first moment.
    pub from: Timestamp,
    /// The first moment after it.
    pub until: Timestamp,
    /// The populations by which it was expected.
    pub populations: Vec<PopulationReference>,
    /// Sums, by tier.
    pub tiers: Vec<TierCounts>,
    /// Each cluster's, in order of names.
    pub clusters: Vec<ClusterCounts>,
    /// Drills begun in the month, whether or not a slot asked for them.
    pub drills: DrillCounts,
    /// What was found wanting and accepted.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub exceptions: Vec<CoveredException>,
}

/// A population entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PopulationReference {
    /// Its place in the log.
    pub index: u64,
    /// SHA-256 of its listing.
    pub digest: Sha256Digest,
    /// Clusters in it.
    pub size: u64,
    /// Since when it was in force.
    pub at: Timestamp,
}

/// Slots: expected = passed + passed_with_exceptions + failed + missed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotCounts {
    /// Slots that asked for a drill.
    pub expected: u64,
    /// Of those, slots in which one was begun.
    pub executed: u64,
    /// Of those, slots whose last drill passed.
    pub passed: u64,
    /// Of those, slots whose last drill passed with exceptions.
    pub passed_with_exceptions: u64,
    /// Of those, slots whose last drill did not pass.
    pub failed: u64,
    /// Slots without a drill. They count as failures.
    pub missed: u64,
}

impl SlotCounts {
    /// Adds another sum to this one.
    pub fn add(&mut self, other: &SlotCounts) {
        self.expected += other.expected;
        self.executed += other.executed;
        self.passed += other.passed;
        self.passed_with_exceptions += other.passed_with_exceptions;
        self.failed += other.failed;
        self.missed += other.missed;
    }

    /// Failed and missed.
    pub fn failures(&self) -> u64 {
        self.failed + self.missed
    }
}

/// A tier's sums.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierCounts {
    /// The tier.
    pub tier: TierName,
    /// Clusters that were in it.
    pub clusters: u64,
    /// Their slots.
    #[serde(flatten)]
    pub slots: SlotCounts,
}

/// A cluster's slots for one drill of its tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterCounts {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its tier.
    pub tier: TierName,
    /// The scenario asked for.
    pub scenario: ScenarioName,
    /// The least level.
    pub level: Level,
    /// Length of a slot, in milliseconds.
    pub every_ms: u64,
    /// Its slots.
    #[serde(flatten)]
    pub slots: SlotCounts,
}

/// Drills begun in the month.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillCounts {
    /// Intents.
    pub begun: u64,
    /// PASS.
    pub passed: u64,
    /// PASS_WITH_EXCEPTIONS.
    pub passed_with_exceptions: u64,
    /// Anything else, no result among it.
    pub failed: u64,
    /// Samples that were drawn and not used.
    pub unused_draws: u64,
    /// Restores that were needed: not drills, and in no other number.
    pub real_restores: u64,
    /// The highest intent of each cluster, by which a missing one shows.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub sequences: BTreeMap<ClusterId, u64>,
}

/// An exception of a drill in the month.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoveredException {
    /// The drill.
    pub drill: DrillId,
    /// What is accepted.
    pub accepts: String,
    /// Who answers for it.
    pub owner: String,
    /// Until when it must be gone.
    pub due: Timestamp,
}

/// The log that is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// Its name.
    pub log: LogOrigin,
    /// Entries in it.
    pub size: u64,
    /// The root over them.
    pub root: Sha256Digest,
}

/// Tenants that a population entry of the log lists.
pub fn tenants<'a>(entries: impl IntoIterator<Item = &'a LoggedEntry>) -> BTreeSet<TenantName> {
    entries
        .into_iter()
        .filter_map(|e| match &e.entry {
            Entry::Population(p) => p.tenant.clone(),
            _ => None,
        })
        .collect()
}

/// Whether an entry says something about a tenant's coverage: its population, and
/// all that its clusters left.
pub fn concerns(entry: &LoggedEntry, tenant: &TenantName) -> bool {
    match &entry.entry {
        Entry::Population(p) if p.draw.is_none() => p.tenant.as_ref() == Some(tenant),
        _ => entry.cluster().is_some_and(|c| c.tenant == *tenant),
    }
}

/// Whether an entry is the tenant's to see: what says something about its coverage,
/// and its coverage itself. Entries about nobody, and those that name several tenants
/// as a change of policy does, are the operator's.
pub fn of_tenant(entry: &LoggedEntry, tenant: &TenantName) -> bool {
    match &entry.entry {
        Entry::Coverage(c) => c.predicate.tenant == *tenant,
        _ => concerns(entry, tenant),
    }
}
