//! A restore plan: a value that explains itself and can be carried out by
//! someone who knows nothing but it, the repository and an identity.

use std::fmt;

use serde::{Deserialize, Serialize};

use holdfast_proto::Timestamp;
use holdfast_proto::envelope::Link;
use holdfast_proto::names::{BackupId, ClusterId, FilestoreName, Lineage, PointId, Region, RepositoryId};
use holdfast_proto::pg::{Lsn, SegmentSize, TimelineId};
use holdfast_proto::record::{CommitMark, JointClaim};

use super::coverage::{Gap, Stretch};
use super::facts::ReplicaFact;
use super::request::Target;
use crate::rto::{Amounts, Forecast};

/// Version of the plan's form.
pub const PLAN_VERSION: u32 = 1;

/// What will be done, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestorePlan {
    /// [`PLAN_VERSION`].
    pub version: u32,
    /// The repository.
    pub repository: RepositoryId,
    /// The cluster.
    pub cluster: ClusterId,
    /// The line of descent.
    pub lineage: Lineage,
    /// When it was planned.
    pub made: Timestamp,
    /// What was asked for.
    pub target: Target,
    /// The base backup.
    pub base: BaseChoice,
    /// The WAL.
    pub replay: Replay,
    /// The filestores.
    pub filestores: Vec<FilestorePlan>,
    /// The configuration bundle nearest before the target.
    pub config: Option<Link>,
    /// The secrets bundle nearest before the target.
    pub secrets: Option<Link>,
    /// Every replica, and whether it answered.
    pub replicas: Vec<ReplicaFact>,
    /// Replicas whose possible surplus was given up.
    pub accepted_unreachable: Vec<Region>,
    /// A hole in front of which the restore stops, by the operator's leave.
    pub accepted_gap: Option<Gap>,
    /// Bytes to read from the repository.
    pub download: u64,
    /// Bytes to write.
    pub write: u64,
    /// How long it should take.
    pub predicted: Prediction,
    /// How long by what earlier recoveries of the cluster took, where somebody asked the
    /// evidence log; nothing that is carried out depends on it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub learnt: Option<Forecast>,
    /// Every decision with its reason.
    pub reasons: Vec<String>,
    /// What the operator should know before saying yes.
    pub warnings: Vec<String>,
}

/// The base backup to begin with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseChoice {
    /// Which.
    pub id: BackupId,
    /// Its commit object.
    pub link: Link,
    /// The timeline at its start.
    pub timeline: TimelineId,
    /// Where replay begins.
    pub start_lsn: Lsn,
    /// Where it becomes consistent.
    pub stop_lsn: Lsn,
    /// When its copy was complete.
    pub stopped: Timestamp,
    /// `server_version_num`.
    pub version_num: u32,
    /// Bytes of a WAL segment.
    pub segment_size: SegmentSize,
    /// Tablespaces by object id.
    pub tablespaces: Vec<u32>,
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes to write.
    pub bytes: u64,
    /// Bytes to read.
    pub to_read: u64,
}

/// The WAL to replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    /// `recovery_target_timeline`.
    pub timeline: TimelineId,
    /// `recovery_target_lsn`.
    pub target_lsn: Lsn,
    /// `recovery_target_inclusive`.
    pub inclusive: bool,
    /// First byte that recovery reads: the beginning of a segment.
    pub from: Lsn,
    /// First byte that is known not to be there: beyond it, absent is an answer.
    pub frontier: Lsn,
    /// What each timeline owns on the way, oldest first.
    pub stretches: Vec<Stretch>,
    /// Every timeline of the lineage: a history file of any other is absent.
    pub known_timelines: Vec<TimelineId>,
    /// Bytes of WAL from `from` to the target.
    pub bytes: u64,
    /// Stored bytes of them.
    pub stored: u64,
    /// The last transaction's end that is kept, where known.
    pub last_commit: Option<CommitMark>,
    /// The first transaction's end that is left out; absent when nothing known is.
    pub first_left_out: Option<CommitMark>,
}

/// One filestore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilestorePlan {
    /// Which.
    pub filestore: FilestoreName,
    /// The adapter that captured it.
    pub adapter: String,
    /// Removals count up to this entry; absent when there is none before the
    /// target, and then none counts.
    pub state_at: Option<u64>,
    /// Additions count up to this entry.
    pub additions_until: u64,
    /// The entries to read, ascending.
    pub entries: Vec<JournalStep>,
    /// The points on either side of the target.
    pub points: Vec<PointId>,
    /// What can be claimed of the files and the database together; absent when
    /// nothing can.
    pub claim: Option<JointClaim>,
    /// The complete truth about that claim.
    pub because: String,
    /// Files, about.
    pub files: u64,
    /// Their bytes, about.
    pub bytes: u64,
    /// Bytes to read, at most.
    pub to_read: u64,
}

/// One journal entry to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournalStep {
    /// Number.
    pub n: u64,
    /// Its commit object.
    pub link: Link,
}

/// Predicted milliseconds by phase. Base and filestore go side by side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prediction {
    /// Base backup.
    pub base_ms: u64,
    /// Filestores.
    pub filestore_ms: u64,
    /// Start, replay, promotion.
    pub replay_ms: u64,
    /// In all.
    pub total_ms: u64,
}

impl RestorePlan {
    /// What carrying it out has to move.
    pub fn amounts(&self) -> Amounts {
        let sum = |of: fn(&FilestorePlan) -> u64| self.filestores.iter().map(of).fold(0, u64::saturating_add);
        Amounts {
            base: self.base.bytes,
            file_bytes: sum(|filestore| filestore.bytes),
            files: sum(|filestore| filestore.files),
            wal: self.replay.bytes,
        }
    }
}

impl fmt::Display for RestorePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let replay = &self.replay;
        writeln!(
            f,
            "Restore {} (lineage {}) to {}",
            self.cluster, self.lineage, self.target
        )?;
        writeln!(
            f,
            "  base      {}  complete {}  LSN {} to {}  {} in {} entries, {} to read",
            self.base.id,
            self.base.stopped,
            self.base.start_lsn,
            self.base.stop_lsn,
            Bytes(self.base.bytes),
            self.base.entries,
            Bytes(self.base.to_read)
        )?;
        writeln!(
            f,
            "  WAL       {} to {} on timeline {}  {} to replay, {} to read",
            replay.from,
            Stop(replay),
            replay.timeline,
            Bytes(replay.bytes),
            Bytes(replay.stored)
        )?;
        match &replay.last_commit {
            Some(c) => writeln!(
                f,
                "  keeps     everything up to the transaction that ended at {} (LSN {})",
                c.time, c.lsn
            )?,
            None => writeln!(f, "  keeps     everything in the base backup")?,
        }
        match &replay.first_left_out {
            Some(c) => writeln!(
                f,
                "  leaves    everything from the transaction that ended at {} (LSN {})",
                c.time, c.lsn
            )?,
            None if self.accepted_gap.is_some() => {
                writeln!(f, "  leaves    what lies behind the hole in the WAL")?
            }
            None => writeln!(f, "  leaves    nothing that is known")?,
        }
        for files in &self.filestores {
            writeln!(
                f,
                "  files     {}: {} files, {}, {} to read at most; {}",
                files.filestore,
                files.files,
                Bytes(files.bytes),
                Bytes(files.to_read),
                files.because
            )?;
        }
        writeln!(
            f,
            "  takes     about {} (base {}, files {}, replay {}); reads {}, writes {}",
            Seconds(self.predicted.total_ms),
            Seconds(self.predicted.base_ms),
            Seconds(self.predicted.filestore_ms),
            Seconds(self.predicted.replay_ms),
            Bytes(self.download),
            Bytes(self.write)
        )?;
        for reason in &self.reasons {
            writeln!(f, "  because   {reason}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "  WARNING   {warning}")?;
        }
        Ok(())
    }
}

struct Stop<'a>(&'a Replay);

impl fmt::Display for Stop<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.0.inclusive {
            "behind the record at"
        } else {
            "in front of the record at"
        };
        write!(f, "{word} {}", self.0.target_lsn)
    }
}

/// Bytes as a person reads them.
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut tenths = u128::from(self.0) * 10 / 1024;
        let mut unit = 0;
        while tenths >= 10_240 && unit + 1 < UNITS.len() {
            tenths /= 1024;
            unit += 1;
        }
        write!(f, "{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// Milliseconds as a person reads them.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.0.div_ceil(1000);
        match (s / 3600, s / 60 % 60, s % 60) {
            (0, 0, s) => write!(f, "{s} s"),
            (0, m, s) => write!(f, "{m} min {s} s"),
            (h, m, _) => write!(f, "{h} h {m} min"),
        }
    }
}
