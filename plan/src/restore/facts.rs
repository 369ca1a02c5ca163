//! What a planner is told: the contents of a repository as plain values.
//!
//! Everything here is gathered by the agent's ledger from listings and signed
//! headers. Nothing was decrypted for it except [`Located`], which says where
//! in the log a target lies as seen from one base backup.

use serde::{Deserialize, Serialize};

use holdfast_proto::Timestamp;
use holdfast_proto::envelope::Link;
use holdfast_proto::names::{BackupId, ClusterId, FilestoreName, Lineage, PointId, Region, RepositoryId};
use holdfast_proto::pg::{Lsn, SegmentSize, TimelineId, TimelineSwitch};
use holdfast_proto::record::{
    AfterGap, CommitMark, FilestoreFrontier, JournalKind, PointFilestore, RestorePointMark, Totals,
};

use crate::drills::BaseKind;

/// One cluster as its repository shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The repository.
    pub repository: RepositoryId,
    /// The cluster.
    pub cluster: ClusterId,
    /// Every replica, reachable or not.
    pub replicas: Vec<ReplicaFact>,
    /// The lines of descent.
    pub lineages: Vec<LineageFacts>,
    /// The filestores' journals.
    pub filestores: Vec<FilestoreFacts>,
    /// Configuration and secrets bundles, oldest first.
    pub bundles: Vec<BundleFact>,
    /// Where the target lies, for the bases that were looked at.
    pub located: Vec<Located>,
}

/// One replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaFact {
    /// Its region.
    pub region: Region,
    /// Why it could not be listed; absent when it could.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unreachable: Option<String>,
}

/// One line of descent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineageFacts {
    /// Which.
    pub lineage: Lineage,
    /// Its timelines, ascending.
    pub timelines: Vec<TimelineFacts>,
    /// Base backups whose commit object verified.
    pub bases: Vec<BaseFact>,
    /// Points whose commit object verified.
    pub points: Vec<PointFact>,
    /// The newest attestations, oldest first.
    pub attested: Vec<Attestation>,
    /// What agents said about holes in the WAL.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub gap_notes: Vec<GapNote>,
}

/// What the agent that stored the WAL behind a hole said about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapNote {
    /// The timeline of that WAL.
    pub timeline: TimelineId,
    /// Its first byte.
    pub to: Lsn,
    /// What it said.
    pub said: AfterGap,
}

/// One timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineFacts {
    /// Which.
    pub timeline: TimelineId,
    /// Its ancestors, oldest first; absent when its history file is missing,
    /// so that nothing can be planned along it. Timeline 1 has none.
    pub ancestors: Option<Vec<TimelineSwitch>>,
    /// Its WAL: disjoint, ascending, adjacent pieces merged.
    pub wal: Vec<WalSpan>,
}

/// WAL without a hole, on one timeline, over all replicas together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalSpan {
    /// First byte.
    pub start: Lsn,
    /// First byte after it.
    pub end: Lsn,
    /// Stored bytes.
    pub stored: u64,
    /// Time of an early transaction's end in it, if one is known.
    pub early_commit: Option<Timestamp>,
    /// Time of the last transaction's end in it, if there is one.
    pub last_commit: Option<Timestamp>,
}

/// A base backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseFact {
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
    /// When the copy began, by the agent's clock.
    pub started: Timestamp,
    /// When the copy was complete.
    pub stopped: Timestamp,
    /// `server_version_num`.
    pub version_num: u32,
    /// Bytes of a WAL segment.
    pub segment_size: SegmentSize,
    /// How much was read for it; not known of plans that earlier versions wrote.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kind: Option<BaseKind>,
    /// Pages that were damaged at the source already.
    pub pages_bad: u64,
    /// Tablespaces by object id.
    pub tablespaces: Vec<u32>,
    /// Totals.
    pub totals: Totals,
    /// Replicas on which its commit object was listed.
    pub present_on: Vec<Region>,
}

/// A joint recovery point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointFact {
    /// Which.
    pub id: PointId,
    /// Its commit object.
    pub link: Link,
    /// Name of its restore point in the WAL.
    pub name: String,
    /// The timeline.
    pub timeline: TimelineId,
    /// End of the restore point's record.
    pub lsn: Lsn,
    /// The primary's clock.
    pub at: Timestamp,
    /// The filestores.
    pub filestores: Vec<PointFilestore>,
    /// The newest configuration bundle when it was made.
    pub config: Option<Link>,
    /// What the source's databases said at this moment is in it.
    #[serde(default)]
    pub referenced: bool,
}

/// An agent's word, signed, on how far the WAL was safe at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attestation {
    /// The timeline.
    pub timeline: TimelineId,
    /// The agent's clock.
    pub at: Timestamp,
    /// When the server was last heard, by the agent's clock.
    pub heard: Timestamp,
    /// What the server had flushed then.
    pub server_flush: Lsn,
    /// What was acknowledged.
    pub acknowledged: Lsn,
    /// Everything committed by then, by the server's clock, lies before `acknowledged`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub complete_until: Option<Timestamp>,
    /// How far each filestore was captured.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub filestores: Vec<FilestoreFrontier>,
}

/// A filestore's journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilestoreFacts {
    /// Which.
    pub filestore: FilestoreName,
    /// Its entries, ascending.
    pub entries: Vec<JournalFact>,
}

/// One entry of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalFact {
    /// Number.
    pub n: u64,
    /// Its commit object.
    pub link: Link,
    /// Whether it stands alone.
    pub entry: JournalKind,
    /// The checkpoint that replay of it begins with.
    pub checkpoint: u64,
    /// Which adapter captured it.
    pub adapter: String,
    /// When the scan began.
    pub scanned_from: Timestamp,
    /// When it ended.
    pub scanned_until: Timestamp,
    /// Files after it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that could not be captured whole.
    pub dirty: u64,
    /// Totals of the entry.
    pub totals: Totals,
}

/// A bundle of configuration or secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleFact {
    /// `config` or `secrets`.
    pub bundle: String,
    /// Its object.
    pub link: Link,
    /// When it was captured.
    pub at: Timestamp,
}

/// Where a target lies in the log, seen from one base along one timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Located {
    /// The lineage.
    pub lineage: Lineage,
    /// The timeline whose history was followed.
    pub timeline: TimelineId,
    /// The base from whose start the log was read.
    pub base: BackupId,
    /// Where.
    pub place: Place,
}

/// The answer to "where does recovery stop?".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// In front of this transaction's end: the first in log order, from the
    /// base's start on, whose time is later than the target's.
    Before {
        /// The first transaction's end that is left out.
        stop: CommitMark,
        /// The last one that is kept, where known.
        last: Option<CommitMark>,
    },
    /// Behind this record, which the target names.
    Behind {
        /// Start of the record.
        lsn: Lsn,
        /// End of the record.
        end: Lsn,
        /// Its time.
        time: Timestamp,
        /// The last transaction's end in front of it, where known.
        last: Option<CommitMark>,
        /// The first transaction's end behind it, where one is known.
        next: Option<CommitMark>,
    },
    /// At the position that the target names: the WAL goes on behind it.
    Within {
        /// The last transaction's end that is kept, where known.
        last: Option<CommitMark>,
        /// The first one that is left out, where one is known.
        next: Option<CommitMark>,
    },
    /// Nothing stops it: the WAL without a hole ends first.
    End {
        /// Start of the last complete record.
        last_record: Lsn,
        /// The last transaction's end, where known.
        last: Option<CommitMark>,
    },
    /// The name stands in the WAL more than once.
    Several {
        /// Each place.
        places: Vec<RestorePointMark>,
    },
    /// The name or transaction does not occur.
    Nowhere {
        /// The restore points that do, where a name was looked for; oldest first.
        known: Vec<RestorePointMark>,
    },
}

impl Facts {
    /// The replicas that could not be listed.
    pub fn unreachable(&self) -> impl Iterator<Item = &ReplicaFact> {
        self.replicas.iter().filter(|r| r.unreachable.is_some())
    }

    /// A lineage by name.
    pub fn lineage(&self, lineage: Lineage) -> Option<&LineageFacts> {
        self.lineages.iter().find(|l| l.lineage == lineage)
    }

    /// The lineages, the one with the newest base first.
    pub fn newest_first(&self) -> Vec<&LineageFacts> {
        let mut all: Vec<_> = self.lineages.iter().collect();
        all.sort_by_key(|l| {
            (
                l.bases.iter().map(|b| b.stopped).max(),
                l.lineage.generation,
                l.lineage,
            )
        });
        all.reverse();
        all
    }
}

impl LineageFacts {
    /// A timeline by number.
    pub fn timeline(&self, timeline: TimelineId) -> Option<&TimelineFacts> {
        self.timelines.iter().find(|t| t.timeline == timeline)
    }

    /// The timeline with the highest number of which there is WAL, or a base: one
    /// that is known by its history alone leads nowhere that its parent does not.
    pub fn latest_timeline(&self) -> Option<TimelineId> {
        let has =
            |t: &&TimelineFacts| !t.wal.is_empty() || self.bases.iter().any(|b| b.timeline == t.timeline);
        let written = self.timelines.iter().filter(has).map(|t| t.timeline).max();
        written.or(self.timelines.iter().map(|t| t.timeline).max())
    }

    /// The segment size that its bases state.
    pub fn segment_size(&self) -> Option<SegmentSize> {
        self.bases.first().map(|b| b.segment_size)
    }
}
