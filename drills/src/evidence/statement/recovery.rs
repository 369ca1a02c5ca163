//! What was restored, where to, and when each phase ran.

use holdfast_plan::drills::BaseKind;
use holdfast_proto::names::{BackupId, Epoch, PointId, Region, SystemId};
use holdfast_proto::pg::{Lsn, TimelineId};
use holdfast_proto::record::CommitMark;
use holdfast_proto::{Fingerprint, Timestamp};
use serde::{Deserialize, Serialize};

/// The state that was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPoint {
    /// Whether database and files share a moment.
    pub kind: RecoveryPointKind,
    /// The fence, when it is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub point: Option<PointId>,
    /// PostgreSQL's system identifier.
    pub system_identifier: SystemId,
    /// PostgreSQL's version, as `server_version_num`.
    pub version_num: u32,
    /// The timeline recovered along.
    pub timeline: TimelineId,
    /// What recovery was told to reach.
    pub target: RecoveryTarget,
    /// The base backup that replay began from.
    pub base: Base,
    /// WAL replayed on top of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub wal_bytes_replayed: Option<u64>,
    /// Where replay ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reached: Option<Lsn>,
    /// The last transaction replayed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_replayed_commit: Option<CommitMark>,
    /// When the scan behind the filestore's state began.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub filestore_watermark: Option<Timestamp>,
    /// Replicas that the restore could read from.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub replicas: Vec<ReplicaLock>,
    /// To whom it was sealed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub encryption: Option<Encryption>,
}

/// Whether database and files share a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RecoveryPointKind {
    /// A fence: both were captured for one moment.
    Fence,
    /// A moment between fences.
    Pitr,
}

/// What recovery was told to reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "value", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RecoveryTarget {
    /// A moment.
    Time(Timestamp),
    /// A position in the WAL.
    Lsn(Lsn),
    /// A named restore point.
    Name(String),
    /// The end of the WAL that is archived.
    Latest,
}

/// The base backup that replay began from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The backup.
    pub id: BackupId,
    /// Where its replay begins.
    pub start: Lsn,
    /// Where it becomes consistent.
    pub stop: Lsn,
    /// Bytes restored from it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes: Option<u64>,
    /// How much was stored for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kind: Option<BaseKind>,
}

/// A replica and how long it cannot delete what was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaLock {
    /// The replica.
    pub region: Region,
    /// When the earliest lock ends; absent where anything looked at has none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub locked_until: Option<Timestamp>,
    /// Objects of the restore that were asked for their locks: manifests, indexes,
    /// and the files drawn.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub looked_at: Option<u64>,
    /// Of those, objects without a lock, or whose lock an administrator may lift.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unlocked: Option<u64>,
}

impl ReplicaLock {
    /// A replica that was not asked.
    pub fn unknown(region: Region) -> Self {
        Self {
            region,
            locked_until: None,
            looked_at: None,
            unlocked: None,
        }
    }
}

/// To whom the restored state was sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    /// Fingerprints of the recipients.
    pub recipients: Vec<Fingerprint>,
    /// The epochs whose keys were unwrapped.
    pub epochs: Vec<Epoch>,
}

/// Where it was restored to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// What kind of place.
    pub kind: TargetKind,
    /// How it was kept apart.
    pub isolation: Isolation,
    /// The place's own identity: a namespace's UID, or an inode of a Linux
    /// namespace.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub namespace: Option<String>,
    /// The machine of a Kubernetes cluster that it was on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<String>,
    /// Where it was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub region: Option<Region>,
    /// What an attempt to leave it came to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub egress_probe: Option<EgressProbe>,
    /// The source could not be reached from it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub segregated_from_source: Option<bool>,
    /// Jobs, subscriptions and outgoing mail were stopped before it started.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub neutralised: Option<bool>,
    /// When it was gone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub destroyed_at: Option<Timestamp>,
}

/// What kind of place a drill ran in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetKind {
    /// A namespace of a Kubernetes cluster.
    Kubernetes,
    /// A machine.
    Local,
}

/// How a drill was kept apart from everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// A Kubernetes network policy that denies by default.
    NetworkPolicy,
    /// Linux namespaces of its own, without a network.
    LinuxNamespaces,
    /// A filter of system calls under which no network socket can be made.
    SocketFilter,
    /// A private directory and a private socket; the network was not closed.
    PrivateDirectory,
}

/// What an attempt to leave the place came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EgressProbe {
    /// It failed, as it must.
    Blocked,
    /// It succeeded.
    Open,
}

/// When each phase ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// The runner's clock minus that of the replica that decides, when the intent was
    /// stored.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub clock_offset_ms: Option<i64>,
    /// The most by which that may be off: the store's resolution, and how long storing
    /// took.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub clock_error_ms: Option<u64>,
    /// The phases, in the order in which they began.
    pub phases: Vec<PhaseTiming>,
}

/// One phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseTiming {
    /// Which.
    pub phase: Phase,
    /// Its beginning.
    pub start: Timestamp,
    /// Its end.
    pub end: Timestamp,
    /// Bytes moved in it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes: Option<u64>,
    /// Things handled in it: files, segments, checks.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub items: Option<u64>,
}

/// The phases of a drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Phase {
    /// The place is made.
    Provision,
    /// Epoch keys are unwrapped.
    KeyUnwrap,
    /// The base backup is fetched.
    BaseFetch,
    /// WAL is replayed to the target.
    WalReplay,
    /// The database opens for writing.
    Promote,
    /// Files are restored.
    FilestoreRestore,
    /// The application starts.
    AppStart,
    /// Checks run.
    Checks,
    /// The place is destroyed.
    Teardown,
}
