//! Keys, kind by kind.

use holdfast_proto::names::{
    ActorName, BackupId, BundleId, ClusterId, DrillId, Epoch, FilestoreName, HoldId, KeyKind, Lineage,
    ObjectKey, PointId, RequestId, WorkId,
};
use holdfast_proto::pg::TimelineId;
use holdfast_proto::record::TrustRole;
use holdfast_proto::{Fingerprint, Sha256Digest, Timestamp};

use super::{BundleKind, Located, WalName};

/// `repository.json`: what marks a prefix as a replica of a repository.
pub fn repository_document() -> ObjectKey {
    Located::Repository.key()
}

/// Record `n` of who decides.
pub fn authority(n: u64) -> ObjectKey {
    Located::Authority { n }.key()
}

/// Record `n` of who is trusted.
pub fn trust(n: u64) -> ObjectKey {
    Located::Trust { n }.key()
}

/// What `writer` uses to find out what a store enforces.
pub fn probe(writer: &ActorName) -> ObjectKey {
    Located::Probe {
        writer: writer.clone(),
    }
    .key()
}

/// An invitation of an agent, by the SHA-256 of its token.
pub fn invitation(token: &Sha256Digest) -> ObjectKey {
    Located::Invitation { token: *token }.key()
}

/// The use of an invitation.
pub fn redemption(token: &Sha256Digest) -> ObjectKey {
    Located::Redemption { token: *token }.key()
}

/// Lease `n` of the coordinators.
pub fn coordinator_lease(n: u64) -> ObjectKey {
    Located::CoordinatorLease { n }.key()
}

/// A request for approval.
pub fn request(id: RequestId) -> ObjectKey {
    Located::Request { id }.key()
}

/// What the holder of the key `by` says to a request.
pub fn approval(request: RequestId, by: &Fingerprint) -> ObjectKey {
    Located::Approval { request, by: *by }.key()
}

/// A hold.
pub fn hold(id: HoldId) -> ObjectKey {
    Located::Hold { id }.key()
}

/// What the holder of the key `by` says to end a hold.
pub fn release(hold: HoldId, by: &Fingerprint) -> ObjectKey {
    Located::Release { hold, by: *by }.key()
}

/// Generation `generation` of the wrapping of an epoch key.
pub fn key_object(
    cluster: &ClusterId,
    kind: KeyKind,
    epoch: Epoch,
    fingerprint: &Fingerprint,
    generation: u32,
) -> ObjectKey {
    Located::Key {
        cluster: cluster.clone(),
        kind,
        epoch,
        fingerprint: *fingerprint,
        generation,
    }
    .key()
}

/// Lease `n` of a cluster's writer.
pub fn lease(cluster: &ClusterId, n: u64) -> ObjectKey {
    Located::Lease {
        cluster: cluster.clone(),
        n,
    }
    .key()
}

/// Work under way.
pub fn inflight(cluster: &ClusterId, id: WorkId) -> ObjectKey {
    Located::Inflight {
        cluster: cluster.clone(),
        id,
    }
    .key()
}

/// Entry `n` of a filestore's journal.
pub fn journal(cluster: &ClusterId, filestore: &FilestoreName, n: u64) -> ObjectKey {
    Located::Journal {
        cluster: cluster.clone(),
        filestore: filestore.clone(),
        n,
    }
    .key()
}

/// A sealed pack.
pub fn pack(cluster: &ClusterId, sha256: &Sha256Digest) -> ObjectKey {
    Located::Pack {
        cluster: cluster.clone(),
        sha256: *sha256,
    }
    .key()
}

/// The clear index of a part of a manifest.
pub fn index(cluster: &ClusterId, sha256: &Sha256Digest) -> ObjectKey {
    Located::Index {
        cluster: cluster.clone(),
        sha256: *sha256,
    }
    .key()
}

/// A bundle of settings.
pub fn bundle(cluster: &ClusterId, kind: BundleKind, id: BundleId) -> ObjectKey {
    Located::Bundle {
        cluster: cluster.clone(),
        kind,
        id,
    }
    .key()
}

/// A run of WAL.
pub fn wal(cluster: &ClusterId, lineage: Lineage, name: &WalName) -> ObjectKey {
    Located::Wal {
        cluster: cluster.clone(),
        lineage,
        name: *name,
    }
    .key()
}

/// A timeline's history file.
pub fn history(cluster: &ClusterId, lineage: Lineage, timeline: TimelineId) -> ObjectKey {
    Located::History {
        cluster: cluster.clone(),
        lineage,
        timeline,
    }
    .key()
}

/// An attestation of how far the WAL is safe.
pub fn frontier(cluster: &ClusterId, lineage: Lineage, at: Timestamp) -> ObjectKey {
    Located::Frontier {
        cluster: cluster.clone(),
        lineage,
        at,
    }
    .key()
}

/// The commit point of a base backup.
pub fn base(cluster: &ClusterId, lineage: Lineage, id: BackupId) -> ObjectKey {
    Located::Base {
        cluster: cluster.clone(),
        lineage,
        id,
    }
    .key()
}

/// A recovery point.
pub fn point(cluster: &ClusterId, lineage: Lineage, id: PointId) -> ObjectKey {
    Located::Point {
        cluster: cluster.clone(),
        lineage,
        id,
    }
    .key()
}

/// Entry `n` of the evidence log.
pub fn evidence_entry(n: u64) -> ObjectKey {
    Located::EvidenceEntry { n }.key()
}

/// The checkpoint of the evidence log at `size` entries.
pub fn evidence_checkpoint(size: u64) -> ObjectKey {
    Located::EvidenceCheckpoint { size }.key()
}

/// A statement, by digest.
pub fn evidence_statement(sha256: &Sha256Digest) -> ObjectKey {
    Located::EvidenceStatement { sha256: *sha256 }.key()
}

/// A signature over the log entry with leaf hash `leaf`.
pub fn evidence_signature(leaf: &Sha256Digest, role: TrustRole) -> ObjectKey {
    Located::EvidenceSignature { leaf: *leaf, role }.key()
}

/// The signature of `witness` over the checkpoint of `size` entries.
pub fn evidence_cosignature(size: u64, witness: &Fingerprint) -> ObjectKey {
    Located::EvidenceCosignature {
        size,
        witness: *witness,
    }
    .key()
}

/// A file that a statement names by digest.
pub fn evidence_byproduct(sha256: &Sha256Digest) -> ObjectKey {
    Located::EvidenceByproduct { sha256: *sha256 }.key()
}

/// A statement that waits to be logged.
pub fn evidence_pending(drill: DrillId) -> ObjectKey {
    Located::EvidencePending { drill }.key()
}
