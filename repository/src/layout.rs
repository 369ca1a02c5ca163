//! Where every object of a repository lies.
//!
//! This is the only module that builds or takes apart an object key. A key is
//! the same on every replica, relative to the replica's own prefix. Every kind
//! of object has a variant of [`Located`]; [`Located::key`] and [`parse`] are
//! each other's inverse, and a text that is not exactly what `key` would have
//! written is not a key: no other spelling of a number, a digest or a name is
//! accepted, so that no object can be known by two names.
//!
//! Numbers of 16 decimal digits, LSNs of 16 hexadecimal digits and compact
//! timestamps sort as text in their own order: listing a prefix in order is
//! reading a stream in order.
//!
//! Nothing here performs IO, and nothing here can fail half way.

mod keys;
mod prefixes;

pub use keys::*;
pub use prefixes::*;

use holdfast_proto::names::{
    ActorName, BackupId, BundleId, ClusterId, DrillId, Epoch, FilestoreName, HoldId, KeyKind, Lineage,
    ObjectKey, PointId, RequestId, WorkId,
};
use holdfast_proto::pg::{Lsn, SegmentNumber, TimelineId};
use holdfast_proto::record::TrustRole;
use holdfast_proto::{Fingerprint, Sha256Digest, Timestamp};

/// The largest number that a numbered object can have: 16 decimal digits.
pub const MAX_NUMBER: u64 = 9_999_999_999_999_999;

/// Which of the two bundles of settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BundleKind {
    /// Facts and settings.
    Config,
    /// What only recovery and escrow may open.
    Secrets,
}

impl BundleKind {
    /// The directory of this kind of bundle, and the word in its record.
    pub const fn as_str(self) -> &'static str {
        match self {
            BundleKind::Config => "config",
            BundleKind::Secrets => "secrets",
        }
    }
}

/// The name of a WAL object: a run of bytes within one segment of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalName {
    /// The timeline.
    pub timeline: TimelineId,
    /// The segment that holds all of it.
    pub segment: SegmentNumber,
    /// First byte.
    pub start: Lsn,
    /// First byte after it; greater than `start`.
    pub end: Lsn,
    /// Time of the last commit or abort record in it; absent when there is none.
    pub latest_commit: Option<Timestamp>,
}

/// An object by what it is: the parsed form of its key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Located {
    /// `repository.json`.
    Repository,
    /// Record `n` of who decides.
    Authority {
        /// Number of the record, from 0.
        n: u64,
    },
    /// Record `n` of who is trusted.
    Trust {
        /// Number of the record, from 0.
        n: u64,
    },
    /// What a writer left behind to find out what the store enforces.
    Probe {
        /// The writer.
        writer: ActorName,
    },
    /// Lease `n` of the coordinators.
    CoordinatorLease {
        /// Number of the lease, from 1.
        n: u64,
    },
    /// An invitation of an agent.
    Invitation {
        /// SHA-256 of the token.
        token: Sha256Digest,
    },
    /// The use of an invitation.
    Redemption {
        /// SHA-256 of the token.
        token: Sha256Digest,
    },
    /// A request for approval.
    Request {
        /// The request.
        id: RequestId,
    },
    /// What one person says to a request.
    Approval {
        /// The request.
        request: RequestId,
        /// The person's key.
        by: Fingerprint,
    },
    /// What must be kept.
    Hold {
        /// The hold.
        id: HoldId,
    },
    /// The end of a hold, as one person says it.
    Release {
        /// The hold.
        hold: HoldId,
        /// The person's key.
        by: Fingerprint,
    },
    /// An epoch key (or the index key), sealed to its recipients.
    Key {
        /// The cluster.
        cluster: ClusterId,
        /// What it opens.
        kind: KeyKind,
        /// The month for which it seals.
        epoch: Epoch,
        /// Its fingerprint.
        fingerprint: Fingerprint,
        /// Generation of the wrapping, from 1.
        generation: u32,
    },
    /// Lease `n` of a cluster's writer.
    Lease {
        /// The cluster.
        cluster: ClusterId,
        /// Number of the lease, from 1.
        n: u64,
    },
    /// Work under way.
    Inflight {
        /// The cluster.
        cluster: ClusterId,
        /// The work.
        id: WorkId,
    },
    /// Entry `n` of a filestore's journal.
    Journal {
        /// The cluster.
        cluster: ClusterId,
        /// The filestore.
        filestore: FilestoreName,
        /// Number of the entry, from 1.
        n: u64,
    },
    /// A sealed pack.
    Pack {
        /// The cluster.
        cluster: ClusterId,
        /// SHA-256 of its bytes.
        sha256: Sha256Digest,
    },
    /// The clear index of a part of a manifest.
    Index {
        /// The cluster.
        cluster: ClusterId,
        /// SHA-256 of its bytes.
        sha256: Sha256Digest,
    },
    /// A bundle of settings.
    Bundle {
        /// The cluster.
        cluster: ClusterId,
        /// Which of the two.
        kind: BundleKind,
        /// The bundle.
        id: BundleId,
    },
    /// A run of WAL.
    Wal {
        /// The cluster.
        cluster: ClusterId,
        /// The line of descent.
        lineage: Lineage,
        /// Which run.
        name: WalName,
    },
    /// A timeline's history file.
    History {
        /// The cluster.
        cluster: ClusterId,
        /// The line of descent.
        lineage: Lineage,
        /// The timeline.
        timeline: TimelineId,
    },
    /// An attestation of how far the WAL is safe.
    Frontier {
        /// The cluster.
        cluster: ClusterId,
        /// The line of descent.
        lineage: Lineage,
        /// When, by the agent's clock.
        at: Timestamp,
    },
    /// The commit point of a base backup.
    Base {
        /// The cluster.
        cluster: ClusterId,
        /// The line of descent.
        lineage: Lineage,
        /// The backup.
        id: BackupId,
    },
    /// A recovery point.
    Point {
        /// The cluster.
        cluster: ClusterId,
        /// The line of descent.
        lineage: Lineage,
        /// The point.
        id: PointId,
    },
    /// Entry `n` of the evidence log.
    EvidenceEntry {
        /// Place in the log, from 0.
        n: u64,
    },
    /// A checkpoint of the evidence log.
    EvidenceCheckpoint {
        /// How many entries it covers.
        size: u64,
    },
    /// A statement, by digest.
    EvidenceStatement {
        /// SHA-256 of its bytes.
        sha256: Sha256Digest,
    },
    /// A signature over a log entry.
    EvidenceSignature {
        /// The entry's leaf hash.
        leaf: Sha256Digest,
        /// In which role it was signed.
        role: TrustRole,
    },
    /// A witness's signature over a checkpoint of the evidence log.
    EvidenceCosignature {
        /// How many entries the checkpoint covers.
        size: u64,
        /// The witness's key.
        witness: Fingerprint,
    },
    /// A file that a statement names by digest.
    EvidenceByproduct {
        /// SHA-256 of its bytes.
        sha256: Sha256Digest,
    },
    /// A statement that waits to be logged.
    EvidencePending {
        /// The drill.
        drill: DrillId,
    },
}

impl Located {
    /// The object's key.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::from_layout(match self {
            Located::Repository => "repository.json".to_owned(),
            Located::Authority { n } => format!("{AUTHORITIES}{n:016}"),
            Located::Trust { n } => format!("{TRUSTS}{n:016}"),
            Located::Probe { writer } => format!("control/probe/{writer}"),
            Located::CoordinatorLease { n } => format!("{COORDINATOR_LEASES}{n:016}"),
            Located::Invitation { token } => format!("{INVITATIONS}{token}"),
            Located::Redemption { token } => format!("{REDEMPTIONS}{token}"),
            Located::Request { id } => format!("{REQUESTS}{id}"),
            Located::Approval { request, by } => format!("{}{by}", approvals(*request)),
            Located::Hold { id } => format!("{HOLDS}{id}"),
            Located::Release { hold, by } => format!("{}{by}", releases(*hold)),
            Located::Key {
                cluster: c,
                kind,
                epoch,
                fingerprint,
                generation,
            } => {
                format!("{}{epoch}/{fingerprint}/{generation:04}", keys(c, *kind))
            }
            Located::Lease { cluster: c, n } => format!("{}{n:016}", leases(c)),
            Located::Inflight { cluster: c, id } => format!("{}{id}", inflights(c)),
            Located::Journal {
                cluster: c,
                filestore,
                n,
            } => format!("{}{n:016}", journals(c, filestore)),
            Located::Pack { cluster: c, sha256 } => by_digest(&packs(c), sha256),
            Located::Index { cluster: c, sha256 } => by_digest(&indexes(c), sha256),
            Located::Bundle { cluster: c, kind, id } => format!("{}{id}", bundles(c, *kind)),
            Located::Wal {
                cluster: c,
                lineage: l,
                name,
            } => {
                let latest = name
                    .latest_commit
                    .map_or_else(|| NO_COMMIT.to_owned(), Timestamp::compact);
                format!(
                    "{}{}-{}-{latest}",
                    wal_segment(c, *l, name.timeline, name.segment),
                    name.start.fixed(),
                    name.end.fixed()
                )
            }
            Located::History {
                cluster: c,
                lineage: l,
                timeline,
            } => format!("{}{}", wal_of(c, *l), timeline.history_file()),
            Located::Frontier {
                cluster: c,
                lineage: l,
                at,
            } => format!("{}{}", frontiers(c, *l), at.compact()),
            Located::Base {
                cluster: c,
                lineage: l,
                id,
            } => format!("{}{id}", bases(c, *l)),
            Located::Point {
                cluster: c,
                lineage: l,
                id,
            } => format!("{}{id}", points(c, *l)),
            Located::EvidenceEntry { n } => format!("{EVIDENCE_ENTRIES}{n:016}"),
            Located::EvidenceCheckpoint { size } => format!("{EVIDENCE_CHECKPOINTS}{size:016}"),
            Located::EvidenceStatement { sha256 } => format!("{EVIDENCE_STATEMENTS}{sha256}"),
            Located::EvidenceSignature { leaf, role } => {
                format!("{}{}", evidence_signatures(leaf), role.as_str())
            }
            Located::EvidenceCosignature { size, witness } => {
                format!("{}{witness}", evidence_cosignatures(*size))
            }
            Located::EvidenceByproduct { sha256 } => format!("{EVIDENCE_BYPRODUCTS}{sha256}"),
            Located::EvidencePending { drill } => format!("{EVIDENCE_PENDING}{drill}"),
        })
    }

    /// The cluster that the object belongs to; absent for what belongs to the
    /// whole repository.
    pub fn cluster(&self) -> Option<&ClusterId> {
        match self {
            Located::Key { cluster, .. }
            | Located::Lease { cluster, .. }
            | Located::Inflight { cluster, .. }
            | Located::Journal { cluster, .. }
            | Located::Pack { cluster, .. }
            | Located::Index { cluster, .. }
            | Located::Bundle { cluster, .. }
            | Located::Wal { cluster, .. }
            | Located::History { cluster, .. }
            | Located::Frontier { cluster, .. }
            | Located::Base { cluster, .. }
            | Located::Point { cluster, .. } => Some(cluster),
            Located::Repository
            | Located::Authority { .. }
            | Located::Trust { .. }
            | Located::Probe { .. }
            | Located::CoordinatorLease { .. }
            | Located::Invitation { .. }
            | Located::Redemption { .. }
            | Located::Request { .. }
            | Located::Approval { .. }
            | Located::Hold { .. }
            | Located::Release { .. }
            | Located::EvidenceEntry { .. }
            | Located::EvidenceCheckpoint { .. }
            | Located::EvidenceStatement { .. }
            | Located::EvidenceSignature { .. }
            | Located::EvidenceCosignature { .. }
            | Located::EvidenceByproduct { .. }
            | Located::EvidencePending { .. } => None,
        }
    }
}

/// Takes a key apart. `None` when it is not exactly a key of this layout.
pub fn parse(key: &str) -> Option<Located> {
    let located = read(key)?;
    // Parsers of numbers and dates forgive what the layout does not.
    (located.key().as_str() == key).then_some(located)
}

/// Whether `key` names its content by digest: every writer of it writes the
/// same bytes, and having it commits nothing.
pub fn is_content(key: &ObjectKey) -> bool {
    matches!(
        parse(key.as_str()),
        Some(
            Located::Pack { .. }
                | Located::Index { .. }
                | Located::EvidenceStatement { .. }
                | Located::EvidenceByproduct { .. }
        )
    )
}

fn read(key: &str) -> Option<Located> {
    let parts: Vec<&str> = key.split('/').collect();
    match parts.as_slice() {
        ["repository.json"] => Some(Located::Repository),
        ["authority", n] => Some(Located::Authority { n: number(n)? }),
        ["trust", n] => Some(Located::Trust { n: number(n)? }),
        ["control", "probe", writer] => Some(Located::Probe {
            writer: writer.parse().ok()?,
        }),
        ["control", "leases", n] => Some(Located::CoordinatorLease { n: number(n)? }),
        ["control", "invitations", token] => Some(Located::Invitation {
            token: token.parse().ok()?,
        }),
        ["control", "redemptions", token] => Some(Located::Redemption {
            token: token.parse().ok()?,
        }),
        ["control", "requests", id] => Some(Located::Request { id: id.parse().ok()? }),
        ["control", "holds", id] => Some(Located::Hold { id: id.parse().ok()? }),
        ["control", "releases", hold, by] => Some(Located::Release {
            hold: hold.parse().ok()?,
            by: by.parse().ok()?,
        }),
        ["control", "approvals", request, by] => Some(Located::Approval {
            request: request.parse().ok()?,
            by: by.parse().ok()?,
        }),
        ["evidence", rest @ ..] => read_evidence(rest),
        ["tenants", tenant, "clusters", cluster, rest @ ..] => {
            let cluster = ClusterId {
                tenant: tenant.parse().ok()?,
                cluster: cluster.parse().ok()?,
            };
            read_cluster(cluster, rest)
        }
        _ => None,
    }
}

fn read_evidence(parts: &[&str]) -> Option<Located> {
    match parts {
        ["log", "entries", n] => Some(Located::EvidenceEntry { n: number(n)? }),
        ["log", "checkpoints", size] => Some(Located::EvidenceCheckpoint { size: number(size)? }),
        ["statements", sha256] => Some(Located::EvidenceStatement {
            sha256: sha256.parse().ok()?,
        }),
        ["signatures", leaf, role] => Some(Located::EvidenceSignature {
            leaf: leaf.parse().ok()?,
            role: role_of(role)?,
        }),
        ["log", "cosignatures", size, witness] => Some(Located::EvidenceCosignature {
            size: number(size)?,
            witness: witness.parse().ok()?,
        }),
        ["byproducts", sha256] => Some(Located::EvidenceByproduct {
            sha256: sha256.parse().ok()?,
        }),
        ["pending", drill] => Some(Located::EvidencePending {
            drill: drill.parse().ok()?,
        }),
        _ => None,
    }
}

fn read_cluster(cluster: ClusterId, parts: &[&str]) -> Option<Located> {
    match parts {
        ["keys", kind, epoch, fingerprint, generation] => Some(Located::Key {
            cluster,
            kind: kind.parse().ok()?,
            epoch: epoch.parse().ok()?,
            fingerprint: fingerprint.parse().ok()?,
            generation: generation.parse().ok()?,
        }),
        ["leases", n] => Some(Located::Lease {
            cluster,
            n: number(n)?,
        }),
        ["inflight", id] => Some(Located::Inflight {
            cluster,
            id: id.parse().ok()?,
        }),
        ["filestores", filestore, n] => Some(Located::Journal {
            cluster,
            filestore: filestore.parse().ok()?,
            n: number(n)?,
        }),
        ["packs", _, sha256] => Some(Located::Pack {
            cluster,
            sha256: sha256.parse().ok()?,
        }),
        ["indexes", _, sha256] => Some(Located::Index {
            cluster,
            sha256: sha256.parse().ok()?,
        }),
        ["config", id] => Some(Located::Bundle {
            cluster,
            kind: BundleKind::Config,
            id: id.parse().ok()?,
        }),
        ["secrets", id] => Some(Located::Bundle {
            cluster,
            kind: BundleKind::Secrets,
            id: id.parse().ok()?,
        }),
        ["lineages", lineage, rest @ ..] => read_lineage(cluster, lineage.parse().ok()?, rest),
        _ => None,
    }
}

fn read_lineage(cluster: ClusterId, lineage: Lineage, parts: &[&str]) -> Option<Located> {
    match parts {
        ["wal", history] => Some(Located::History {
            cluster,
            lineage,
            timeline: TimelineId::parse_fixed(history.strip_suffix(".history")?)?,
        }),
        ["wal", timeline, segment, run] => {
            let mut fields = run.split('-');
            let (start, end, latest) = (fields.next()?, fields.next()?, fields.next()?);
            let name = WalName {
                timeline: TimelineId::parse_fixed(timeline)?,
                segment: SegmentNumber::new(Lsn::parse_fixed(segment).ok()?.get()),
                start: Lsn::parse_fixed(start).ok()?,
                end: Lsn::parse_fixed(end).ok()?,
                latest_commit: match latest {
                    NO_COMMIT => None,
                    time => Some(Timestamp::parse_compact(time).ok()?),
                },
            };
            (name.start < name.end).then_some(Located::Wal {
                cluster,
                lineage,
                name,
            })
        }
        ["frontier", at] => Some(Located::Frontier {
            cluster,
            lineage,
            at: Timestamp::parse_compact(at).ok()?,
        }),
        ["base", id] => Some(Located::Base {
            cluster,
            lineage,
            id: id.parse().ok()?,
        }),
        ["points", id] => Some(Located::Point {
            cluster,
            lineage,
            id: id.parse().ok()?,
        }),
        _ => None,
    }
}

/// Instead of a time in the name of a WAL object without a transaction's end.
const NO_COMMIT: &str = "none";
const AUTHORITIES: &str = "authority/";
const TRUSTS: &str = "trust/";
const COORDINATOR_LEASES: &str = "control/leases/";
const INVITATIONS: &str = "control/invitations/";
const REDEMPTIONS: &str = "control/redemptions/";
const REQUESTS: &str = "control/requests/";
const HOLDS: &str = "control/holds/";
const EVIDENCE_ENTRIES: &str = "evidence/log/entries/";
const EVIDENCE_CHECKPOINTS: &str = "evidence/log/checkpoints/";
const EVIDENCE_STATEMENTS: &str = "evidence/statements/";
const EVIDENCE_BYPRODUCTS: &str = "evidence/byproducts/";
const EVIDENCE_PENDING: &str = "evidence/pending/";

fn number(text: &str) -> Option<u64> {
    (text.len() == 16).then(|| text.parse().ok()).flatten()
}

fn by_digest(prefix: &str, sha256: &Sha256Digest) -> String {
    let digest = sha256.to_string();
    format!("{prefix}{}/{digest}", &digest[..2])
}

fn role_of(word: &str) -> Option<TrustRole> {
    TrustRole::ALL.into_iter().find(|role| role.as_str() == word)
}

#[cfg(test)]
mod tests;
