//! What somebody asks to have restored.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use holdfast_proto::Timestamp;
use holdfast_proto::names::{BackupId, FilestoreName, Lineage, Region};
use holdfast_proto::pg::{Lsn, TimelineId};

/// The moment that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// All that had ended by this moment, by PostgreSQL's own rule: in log
    /// order, up to the first transaction whose end carries a later time.
    Time(Timestamp),
    /// Up to this position.
    Lsn(Lsn),
    /// Up to the restore point of this name.
    Name(String),
    /// Up to the end of this transaction.
    Xid(u32),
    /// As far as the WAL goes.
    Latest,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Time(t) => write!(f, "time {t}"),
            Target::Lsn(l) => write!(f, "LSN {l}"),
            Target::Name(n) => write!(f, "restore point {n:?}"),
            Target::Xid(x) => write!(f, "transaction {x}"),
            Target::Latest => f.write_str("the latest moment"),
        }
    }
}

/// Along which history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimelineChoice {
    /// Towards the newest timeline.
    #[default]
    Latest,
    /// Towards this one.
    Id(TimelineId),
}

/// Which filestores.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilestoreChoice {
    /// All that the repository knows.
    #[default]
    All,
    /// These.
    Only(BTreeSet<FilestoreName>),
    /// The database alone.
    None,
}

/// What somebody asks to have restored, and what they accept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The moment.
    pub target: Target,
    /// Leave out the record at the target instead of taking it in; with a time, what ended
    /// at that very moment.
    #[serde(default)]
    pub exclusive: bool,
    /// Which line of descent; otherwise the newest that began before the target.
    #[serde(default)]
    pub lineage: Option<Lineage>,
    /// Which timeline.
    #[serde(default)]
    pub timeline: TimelineChoice,
    /// Start from this base and no other.
    #[serde(default)]
    pub base: Option<BackupId>,
    /// Which filestores.
    #[serde(default)]
    pub filestores: FilestoreChoice,
    /// Replicas that are out of reach, and whose possible surplus is given up.
    #[serde(default)]
    pub accept_unreachable: BTreeSet<Region>,
    /// Stop in front of a hole in the WAL, giving up what lies behind it.
    #[serde(default)]
    pub allow_gap: bool,
    /// How fast things go here.
    #[serde(default)]
    pub rates: Rates,
}

impl Request {
    /// A request with nothing special about it.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            exclusive: false,
            lineage: None,
            timeline: TimelineChoice::Latest,
            base: None,
            filestores: FilestoreChoice::All,
            accept_unreachable: BTreeSet::new(),
            allow_gap: false,
            rates: Rates::default(),
        }
    }
}

/// Speeds, by which a duration is predicted. The defaults are cautious numbers
/// for two cores and local storage; drills measure better ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// Bytes of packs read, opened and verified in a second.
    pub read: u64,
    /// Bytes written durably in a second.
    pub write: u64,
    /// Small files written durably in a second.
    pub files: u64,
    /// Bytes of WAL fetched and replayed in a second.
    pub replay: u64,
    /// Milliseconds for PostgreSQL to start and to be promoted.
    pub start_ms: u64,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            read: 60 << 20,
            write: 120 << 20,
            files: 2_000,
            replay: 24 << 20,
            start_ms: 3_000,
        }
    }
}
