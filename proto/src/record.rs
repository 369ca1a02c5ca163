//! What signed objects say: one type for each kind of record.
//!
//! Each is the `body` of a [`Header`](crate::envelope::Header). Everything here
//! is in clear; what names files or tells content is in sealed payloads
//! ([`crate::manifest`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::approval::{Guarded, Quorum};
use crate::envelope::{Link, Record};
use crate::manifest::Part;
use crate::names::{
    ActorName, BackupId, BundleId, ClusterId, Epoch, FilestoreName, GroupName, KeyKind, Lineage, PointId,
    RecipientRole, Region, RepositoryId, SystemId, WorkId,
};
use crate::pg::{Lsn, SegmentSize, TimelineId};
use crate::{ContentId, Fingerprint, Sha256Digest, Timestamp};

macro_rules! record {
    ($name:ident, $kind:literal) => {
        impl Record for $name {
            const KIND: &'static str = $kind;
        }
    };
}

/// `repository.json`: plain JSON, the same bytes on every replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositoryDocument {
    /// Version of the repository's format: 1.
    pub format: u32,
    /// The repository.
    pub id: RepositoryId,
    /// When it was made.
    pub created: Timestamp,
    /// Fingerprint of the root key, as a hint: what counts is the fingerprint
    /// that a reader was given out of band.
    pub root: Fingerprint,
}

/// Which replica decides what must have one winner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityBody {
    /// Number of this record, from 0.
    pub n: u64,
    /// The deciding replica's region.
    pub region: Region,
}
record!(AuthorityBody, "authority");

/// What a key in the trust chain may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrustRole {
    /// Trust records, alone. Off line.
    Root,
    /// Backups of the clusters in its scope.
    Agent,
    /// Drills' intents and results.
    Runner,
    /// Checkpoints, countersignatures, coordinator's leases.
    Coordinator,
    /// Approvals of plans.
    Approver,
    /// Reviews of evidence.
    Reviewer,
    /// Requests for approval.
    Operator,
}

impl TrustRole {
    /// Every role.
    pub const ALL: [TrustRole; 7] = [
        TrustRole::Root,
        TrustRole::Agent,
        TrustRole::Runner,
        TrustRole::Coordinator,
        TrustRole::Approver,
        TrustRole::Reviewer,
        TrustRole::Operator,
    ];

    /// Its word in records, keys of objects and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            TrustRole::Root => "root",
            TrustRole::Agent => "agent",
            TrustRole::Runner => "runner",
            TrustRole::Coordinator => "coordinator",
            TrustRole::Approver => "approver",
            TrustRole::Reviewer => "reviewer",
            TrustRole::Operator => "operator",
        }
    }
}

/// The signature scheme of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum KeyAlgorithm {
    /// Ed25519 (RFC 8032).
    #[serde(rename = "ed25519")]
    Ed25519,
    /// ECDSA on P-256 with SHA-256, ASN.1 DER signatures.
    #[serde(rename = "ecdsa-p256-sha256")]
    EcdsaP256,
}

/// One act of trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "lowercase", deny_unknown_fields)]
pub enum TrustAct {
    /// A key is believed from here on, in a role and a scope.
    Enrol {
        /// Who holds it.
        name: ActorName,
        /// What it may sign.
        role: TrustRole,
        /// The scheme.
        algorithm: KeyAlgorithm,
        /// Fingerprint of `public`.
        key: Fingerprint,
        /// DER SubjectPublicKeyInfo in base64.
        public: String,
        /// Clusters it may sign for; empty means the whole repository.
        clusters: Vec<ClusterId>,
        /// The group of people that an approver belongs to.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        group: Option<GroupName>,
    },
    /// A key is believed no longer, except for what is chained to `believed`.
    Revoke {
        /// The key.
        key: Fingerprint,
        /// The last objects that are still believed, one for each stream: an
        /// object signed by the key counts only when it is one of these or is
        /// reached from one of these through `previous`.
        believed: Vec<Link>,
        /// Why, in words.
        reason: String,
    },
    /// How many approvals an action needs from here on. It replaces an earlier
    /// rule of the same action and scope; where rules of several scopes apply,
    /// the strictest of each number counts.
    Require {
        /// The action.
        action: Guarded,
        /// The clusters; empty means the whole repository.
        clusters: Vec<ClusterId>,
        /// How many.
        quorum: Quorum,
    },
}

/// `trust/<n>`: record n of the chain. Record 0 is signed by the root key and
/// enrols it. `previous` in the header links each to the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustBody {
    /// Number of this record, from 0.
    pub n: u64,
    /// When it was signed, by the signer's clock.
    pub at: Timestamp,
    /// What it does.
    pub acts: Vec<TrustAct>,
}
record!(TrustBody, "trust");

/// `keys/<kind>/<epoch>/<fingerprint>/<gen>`: an epoch key (or the index key),
/// sealed to its recipients. The payload is an age file of the identity's text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyBody {
    /// What it opens.
    pub kind: KeyKind,
    /// The month for which it seals.
    pub epoch: Epoch,
    /// The public half, `age1…`; for the index key, empty.
    pub recipient: String,
    /// Fingerprint of `recipient`. The index key has no public half: its
    /// fingerprint is SHA-256 of the keyed BLAKE3 of the text `holdfast-index-key`.
    pub fingerprint: Fingerprint,
    /// Generation of the wrapping, from 1.
    pub generation: u32,
    /// To whom the identity is sealed, and in which role.
    pub sealed_to: Vec<SealedTo>,
}
record!(KeyBody, "key");

/// One recipient of an epoch key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedTo {
    /// The role.
    pub role: RecipientRole,
    /// `age1…`.
    pub recipient: String,
}

/// `leases/<n>`: the writer of a cluster. The highest number is the writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseBody {
    /// Number of the lease, from 1.
    pub n: u64,
    /// The agent that holds it.
    pub holder: ActorName,
    /// A random text by which the holder knows its own lease again.
    pub nonce: String,
    /// When it was taken, by the holder's clock.
    pub taken: Timestamp,
}
record!(LeaseBody, "lease");

/// `control/leases/<n>`: who leads the coordinators. The highest number counts, for as long
/// as it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaderBody {
    /// Number of the lease.
    pub n: u64,
    /// The coordinator that holds it.
    pub holder: ActorName,
    /// A random text by which the holder knows its own lease again.
    pub nonce: String,
    /// Number of the lease with which the holder's unbroken reign began; `n` itself in the
    /// first.
    pub term: u64,
    /// How long it is good for, in milliseconds.
    pub lasts_ms: u64,
    /// SHA-256 of the text of the policy in force, which is a by-product of evidence:
    /// whoever leads next goes on with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Sha256Digest>,
    /// The holder gives it back: whoever wants it may take the next at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub released: bool,
    /// When it was taken, by the holder's clock; for people.
    pub taken: Timestamp,
}
record!(LeaderBody, "leader");

/// `control/invitations/<sha256>`: whoever shows the token of that SHA-256 may have one
/// certificate of this identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvitationBody {
    /// The agent's name in the certificate.
    pub agent: ActorName,
    /// The clusters in the certificate; never empty.
    pub clusters: Vec<ClusterId>,
    /// Number of the record of the authority under which it was made: it is good under that
    /// one alone, because only there it is known whether the token was used.
    pub authority: u64,
    /// When it was made, by the coordinator's clock.
    pub made: Timestamp,
    /// From this moment on it is good for nothing.
    pub ends: Timestamp,
}
record!(InvitationBody, "invitation");

/// `control/redemptions/<sha256>`: the token of that SHA-256 was used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedemptionBody {
    /// The invitation.
    pub invitation: Link,
    /// SHA-256 of the agent's public key (DER SubjectPublicKeyInfo): for this key alone.
    pub public: Fingerprint,
    /// The certificate that was issued (DER in base64): whoever asks again with the same key
    /// gets the same.
    pub certificate: String,
    /// When, by the coordinator's clock.
    pub at: Timestamp,
}
record!(RedemptionBody, "redemption");

/// `inflight/<id>`: work under way, so that nothing it builds on is reclaimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InflightBody {
    /// The work.
    pub id: WorkId,
    /// What it makes: `base`, `filestore` or `config`.
    pub work: String,
    /// Commit objects whose packs it may reference.
    pub builds_on: Vec<Link>,
    /// After this moment it does not commit.
    pub deadline: Timestamp,
}
record!(InflightBody, "inflight");

/// One complete sealed chunk of WAL within a WAL object's payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalChunk {
    /// First byte of WAL in it.
    pub start: Lsn,
    /// First byte of WAL after it.
    pub end: Lsn,
    /// Bytes of ciphertext.
    pub size: u64,
    /// SHA-256 of the ciphertext.
    pub sha256: Sha256Digest,
    /// Fingerprint of the epoch key that it is sealed to.
    pub sealed_to: Fingerprint,
    /// By what the writer knows the WAL in it again; absent in objects of older
    /// writers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<WalChunkId>,
}

/// The identity of a chunk's WAL, which a holder of the index key can compare
/// with a file's without opening anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalChunkId {
    /// Fingerprint of the index key.
    pub key: Fingerprint,
    /// The content id of the raw WAL.
    pub content: ContentId,
}

/// A transaction's end: where its record lies and what time it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitMark {
    /// Start of the commit or abort record.
    pub lsn: Lsn,
    /// Its time, by the primary's clock.
    pub time: Timestamp,
}

/// A restore point that somebody named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestorePointMark {
    /// Its name.
    pub name: String,
    /// Start of its record.
    pub lsn: Lsn,
    /// End of its record.
    pub end: Lsn,
    /// Its time, by the primary's clock.
    pub time: Timestamp,
}

/// `wal/<timeline>/<segment>/<start>-<end>-<last commit>`: WAL from `start` to
/// `end`, within one segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalBody {
    /// The cluster's system identifier.
    pub system: SystemId,
    /// PostgreSQL's version, as `server_version_num`.
    pub version_num: u32,
    /// The timeline.
    pub timeline: TimelineId,
    /// Bytes of a segment.
    pub segment_size: SegmentSize,
    /// First byte of WAL.
    pub start: Lsn,
    /// First byte of WAL after it.
    pub end: Lsn,
    /// The chunks, in order, without a gap.
    pub chunks: Vec<WalChunk>,
    /// SHA-256 of the ciphertext of the chunk that ends at `start` on this
    /// timeline (or its parent); absent for the first of a stream.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub follows: Option<Sha256Digest>,
    /// The last transaction's end recorded in it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_commit: Option<CommitMark>,
    /// The first transaction's end recorded in it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_commit: Option<CommitMark>,
    /// The latest time among them: commit times are not monotone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub latest_time: Option<Timestamp>,
    /// How many transactions ended in it.
    pub commits: u64,
    /// Start of the last record that is complete at `end`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_record: Option<Lsn>,
    /// Restore points in it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub restore_points: Vec<RestorePointMark>,
    /// What is missing before `start`, when that was noticed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub after_gap: Option<AfterGap>,
}
record!(WalBody, "wal");

/// What is missing before a WAL object, as the agent that stored it saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AfterGap {
    /// First byte that is missing; the object's start is the first that is there again.
    pub from: Lsn,
    /// Why.
    pub cause: GapCause,
    /// When it was noticed, by the agent's clock.
    pub noticed: Timestamp,
}

/// Why WAL never reached the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GapCause {
    /// The disk valve gave the slot up, so that the server did not stop.
    ValveGaveUp,
    /// The server invalidated the slot, which then held nothing any more.
    SlotInvalidated,
    /// There was no slot: nothing held the WAL.
    SlotMissing,
    /// There was a slot, and the server had removed what it should have held.
    Removed,
    /// `archive_command` was never given it.
    NotHandedOver,
}

impl GapCause {
    /// The cause in words, with where to look.
    pub fn words(self) -> &'static str {
        match self {
            Self::ValveGaveUp => {
                "no replica took WAL and the disk valve gave the slot up, so that the server did not stop"
            }
            Self::SlotInvalidated => {
                "the server invalidated the replication slot (max_slot_wal_keep_size or \
                 idle_replication_slot_timeout) and removed the WAL"
            }
            Self::SlotMissing => {
                "there was no replication slot that held the WAL: it was dropped, or never made on this server"
            }
            Self::Removed => "the server had removed the WAL although the replication slot was there",
            Self::NotHandedOver => {
                "it was never handed over: a failover, or archive_mode was off or archive_command another one"
            }
        }
    }
}

/// `wal/<timeline>.history`: the payload is the history file as PostgreSQL
/// wrote it, in clear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryBody {
    /// The cluster's system identifier.
    pub system: SystemId,
    /// Whose history it is.
    pub timeline: TimelineId,
}
record!(HistoryBody, "history");

/// How far one replica holds the WAL without a hole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaFrontier {
    /// The replica.
    pub region: Region,
    /// First position that is not on it; absent while unknown.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub durable: Option<Lsn>,
}

/// `frontier/<time>`: the agent's attestation of how far the WAL is safe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrontierBody {
    /// The timeline streamed.
    pub timeline: TimelineId,
    /// The server's flush position, last heard.
    pub server_flush: Lsn,
    /// Acknowledged: the k-th highest contiguous frontier over the replicas.
    pub acknowledged: Lsn,
    /// k.
    pub copies: u32,
    /// Each replica.
    pub replicas: Vec<ReplicaFrontier>,
    /// Age in milliseconds of the oldest commit beyond `acknowledged`; zero when
    /// there is none.
    pub rpo_ms: u64,
    /// Milliseconds since the server was heard last. Absent where nobody counted: then
    /// the position is of an unknown age.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub heard_ms: Option<u64>,
    /// Everything committed by then, by the server's clock, lies before `acknowledged`.
    /// Absent while that was not seen: an agent that does not reach its server does not
    /// know what is committed there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub complete_until: Option<Timestamp>,
    /// How far each filestore is captured.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub filestores: Vec<FilestoreFrontier>,
    /// The agent's clock.
    pub at: Timestamp,
}
record!(FrontierBody, "frontier");

impl FrontierBody {
    /// When the server was last heard, by the agent's clock; long ago where that is not
    /// known.
    pub fn heard(&self) -> Timestamp {
        heard_at(self.at, self.heard_ms, self.rpo_ms)
    }
}

/// What an agent that does not say when it heard its server may be assumed to have let
/// pass, in milliseconds.
const UNHEARD_MS: u64 = 60_000;

/// When an agent that spoke at `at` had last heard its server.
pub fn heard_at(at: Timestamp, heard_ms: Option<u64>, rpo_ms: u64) -> Timestamp {
    let ago = heard_ms.unwrap_or_else(|| rpo_ms.saturating_add(UNHEARD_MS));
    at.plus_millis(-i64::try_from(ago).unwrap_or(i64::MAX))
}

/// How far a filestore is captured: the journal says nothing when nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilestoreFrontier {
    /// Which.
    pub filestore: FilestoreName,
    /// Every file that was complete by then is in the journal, on the replicas
    /// that the tier asks for.
    pub captured_until: Timestamp,
}

/// How a base backup found out what to store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeDetection {
    /// Everything was read and stored.
    Full,
    /// Everything was read; keyed ids told what is stored already.
    CompareIds,
    /// The block references in the WAL that the agent streamed.
    WalReferences,
    /// PostgreSQL's WAL summaries.
    WalSummaries,
}

/// Totals of a base backup or of a filestore entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Files, directories and links.
    pub entries: u64,
    /// Plaintext bytes.
    pub bytes: u64,
    /// Bytes of packs that this capture stored.
    pub stored: u64,
    /// Bytes of packs that a restore has to read.
    pub to_read: u64,
}

/// `base/<id>`: the commit point of a base backup. The payload is the sealed
/// [`BaseDetails`](crate::manifest::BaseDetails).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseBody {
    /// The backup.
    pub id: BackupId,
    /// The cluster.
    pub cluster: ClusterId,
    /// The line of descent.
    pub lineage: Lineage,
    /// PostgreSQL's version, as `server_version_num`.
    pub version_num: u32,
    /// Bytes of a WAL segment.
    pub segment_size: SegmentSize,
    /// The timeline at the start.
    pub timeline: TimelineId,
    /// Where replay begins (`START WAL LOCATION`).
    pub start_lsn: Lsn,
    /// Where the backup becomes consistent (`pg_backup_stop`).
    pub stop_lsn: Lsn,
    /// When it began, by the agent's clock.
    pub started: Timestamp,
    /// When the copy was complete.
    pub stopped: Timestamp,
    /// How it was found out what to store.
    pub detection: ChangeDetection,
    /// Whether the cluster has data page checksums; if not, pages were not verified.
    pub page_checksums: bool,
    /// Pages verified.
    pub pages_verified: u64,
    /// Pages whose checksum failed and that WAL does not repair. They are named
    /// in the sealed details.
    pub pages_bad: u64,
    /// Tablespaces by object id; their locations are in the sealed details.
    pub tablespaces: Vec<u32>,
    /// Totals.
    pub totals: Totals,
    /// The parts of the manifest, in restore order; `pg_control` is the last
    /// entry of the last part.
    pub parts: Vec<Part>,
    /// Replicas that held all of it when this was signed.
    pub complete_on: Vec<Region>,
}
record!(BaseBody, "base");

/// Whether a journal entry stands alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JournalKind {
    /// All files.
    Checkpoint,
    /// What was added and removed since the entry before.
    Delta,
}

/// `filestores/<name>/<n>`: an entry of a filestore's journal. `previous` in
/// the header links each to the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournalBody {
    /// The filestore.
    pub filestore: FilestoreName,
    /// Number of the entry, from 1.
    pub n: u64,
    /// Whether it stands alone.
    pub entry: JournalKind,
    /// Number of the checkpoint that replay begins with; `n` itself for a checkpoint.
    pub checkpoint: u64,
    /// The adapter that knows how names prove content: `odoo` or `none`.
    pub adapter: String,
    /// When the scan began, by the agent's clock.
    pub scanned_from: Timestamp,
    /// When the scan ended.
    pub scanned_until: Timestamp,
    /// What was captured: added or changed files (for a checkpoint, all files).
    pub parts: Vec<Part>,
    /// How many files went away since the entry before; they are named in the
    /// catalogues as removals.
    pub removed: u64,
    /// Files whose capture is not proven stable: changed while read, vanished,
    /// unreadable. Named in the catalogues.
    pub dirty: u64,
    /// Files in the filestore after this entry.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Totals of this entry.
    pub totals: Totals,
}
record!(JournalBody, "journal");

/// What a point claims about the moments before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JointClaim {
    /// Every moment since the point before it is complete.
    SincePrevious,
    /// Only the point itself is.
    PointOnly,
    /// Files are captured one by one, without a common moment with the database.
    PerFile,
}

/// A filestore's part in a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointFilestore {
    /// The filestore.
    pub filestore: FilestoreName,
    /// Number of the journal entry that holds it.
    pub n: u64,
    /// That entry.
    pub entry: Link,
    /// What is claimed.
    pub claim: JointClaim,
    /// Why that can be claimed.
    pub because: String,
}

/// `points/<id>`: a moment to which database and filestores can go together. The
/// payload, where there is one, is sealed zstd of JSON:
/// [`crate::reference::ReferenceValues`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointBody {
    /// The point.
    pub id: PointId,
    /// The name of its restore point in the WAL: `holdfast-<id>`.
    pub name: String,
    /// The timeline.
    pub timeline: TimelineId,
    /// L0: the end of the restore point's record.
    pub lsn: Lsn,
    /// The primary's clock at L0.
    pub at: Timestamp,
    /// The filestores.
    pub filestores: Vec<PointFilestore>,
    /// The newest configuration bundle.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub config: Option<Link>,
    /// Replicas that held all of it when this was signed.
    pub complete_on: Vec<Region>,
}
record!(PointBody, "point");

/// `config/<id>` and `secrets/<id>`: the payload is a sealed tar of zstd: named
/// files under `files/`, and `catalogue.json` with roles, extensions and
/// collations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleBody {
    /// The bundle.
    pub id: BundleId,
    /// `config` or `secrets`.
    pub bundle: String,
    /// When it was captured.
    pub at: Timestamp,
    /// How many files it holds.
    pub files: u64,
    /// Counts of catalogue facts by kind (roles, extensions, collations).
    pub facts: BTreeMap<String, u64>,
    /// Keyed digest of the content: equal content makes equal bundles.
    pub content: ContentId,
}
record!(BundleBody, "bundle");
