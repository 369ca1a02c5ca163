//! Prefixes to list. Each ends in `/`.

use holdfast_proto::Sha256Digest;
use holdfast_proto::names::{ClusterId, FilestoreName, HoldId, KeyKind, Lineage, RequestId};
use holdfast_proto::pg::{SegmentNumber, TimelineId};

use super::{
    AUTHORITIES, BundleKind, COORDINATOR_LEASES, EVIDENCE_CHECKPOINTS, EVIDENCE_ENTRIES, EVIDENCE_PENDING,
    EVIDENCE_STATEMENTS, HOLDS, REQUESTS, TRUSTS,
};

/// All clusters of all tenants.
pub fn clusters() -> String {
    "tenants/".to_owned()
}

/// All clusters of a tenant.
pub fn clusters_of(tenant: &holdfast_proto::names::TenantName) -> String {
    format!("{}{tenant}/clusters/", clusters())
}

/// All that belongs to a cluster.
pub fn cluster(cluster: &ClusterId) -> String {
    format!("tenants/{}/clusters/{}/", cluster.tenant, cluster.cluster)
}

/// All lines of descent of a cluster.
pub fn lineages(c: &ClusterId) -> String {
    format!("{}lineages/", cluster(c))
}

/// All that belongs to a line of descent.
pub fn lineage(c: &ClusterId, lineage: Lineage) -> String {
    format!("{}{lineage}/", lineages(c))
}

/// WAL and histories of a line of descent.
pub fn wal_of(c: &ClusterId, l: Lineage) -> String {
    format!("{}wal/", lineage(c, l))
}

/// WAL of one timeline (its history file lies beside, in [`wal_of`]).
pub fn wal_timeline(c: &ClusterId, l: Lineage, timeline: TimelineId) -> String {
    format!("{}{}/", wal_of(c, l), timeline.fixed())
}

/// WAL of one segment.
pub fn wal_segment(c: &ClusterId, l: Lineage, timeline: TimelineId, segment: SegmentNumber) -> String {
    format!("{}{}/", wal_timeline(c, l, timeline), segment.fixed())
}

/// Base backups of a line of descent.
pub fn bases(c: &ClusterId, l: Lineage) -> String {
    format!("{}base/", lineage(c, l))
}

/// Recovery points of a line of descent.
pub fn points(c: &ClusterId, l: Lineage) -> String {
    format!("{}points/", lineage(c, l))
}

/// Frontier attestations of a line of descent.
pub fn frontiers(c: &ClusterId, l: Lineage) -> String {
    format!("{}frontier/", lineage(c, l))
}

/// Journals of all filestores of a cluster.
pub fn filestores(c: &ClusterId) -> String {
    format!("{}filestores/", cluster(c))
}

/// The journal of one filestore.
pub fn journals(c: &ClusterId, filestore: &FilestoreName) -> String {
    format!("{}{filestore}/", filestores(c))
}

/// Packs of a cluster.
pub fn packs(c: &ClusterId) -> String {
    format!("{}packs/", cluster(c))
}

/// Indexes of a cluster.
pub fn indexes(c: &ClusterId) -> String {
    format!("{}indexes/", cluster(c))
}

/// Keys of one kind.
pub fn keys(c: &ClusterId, kind: KeyKind) -> String {
    format!("{}keys/{kind}/", cluster(c))
}

/// Leases of a cluster's writers.
pub fn leases(c: &ClusterId) -> String {
    format!("{}leases/", cluster(c))
}

/// Work under way in a cluster.
pub fn inflights(c: &ClusterId) -> String {
    format!("{}inflight/", cluster(c))
}

/// Bundles of one kind.
pub fn bundles(c: &ClusterId, kind: BundleKind) -> String {
    format!("{}{}/", cluster(c), kind.as_str())
}

/// The trust chain.
pub fn trusts() -> String {
    TRUSTS.to_owned()
}

/// The records of who decides.
pub fn authorities() -> String {
    AUTHORITIES.to_owned()
}

/// Leases of the coordinators.
pub fn coordinator_leases() -> String {
    COORDINATOR_LEASES.to_owned()
}

/// Requests for approval.
pub fn requests() -> String {
    REQUESTS.to_owned()
}

/// What people say to a request.
pub fn approvals(request: RequestId) -> String {
    format!("control/approvals/{request}/")
}

/// The holds.
pub fn holds() -> String {
    HOLDS.to_owned()
}

/// What people say to end a hold.
pub fn releases(hold: HoldId) -> String {
    format!("control/releases/{hold}/")
}

/// All evidence.
pub fn evidence_all() -> String {
    "evidence/".to_owned()
}

/// Entries of the evidence log.
pub fn evidence_entries() -> String {
    EVIDENCE_ENTRIES.to_owned()
}

/// Checkpoints of the evidence log.
pub fn evidence_checkpoints() -> String {
    EVIDENCE_CHECKPOINTS.to_owned()
}

/// Witnesses' signatures over the checkpoint of `size` entries.
pub fn evidence_cosignatures(size: u64) -> String {
    format!("evidence/log/cosignatures/{size:016}/")
}

/// Statements.
pub fn evidence_statements() -> String {
    EVIDENCE_STATEMENTS.to_owned()
}

/// Signatures over one log entry.
pub fn evidence_signatures(leaf: &Sha256Digest) -> String {
    format!("evidence/signatures/{leaf}/")
}

/// Statements that wait to be logged.
pub fn evidence_pendings() -> String {
    EVIDENCE_PENDING.to_owned()
}

/// The cluster that a key or a prefix lies below; absent for what belongs to none.
pub fn cluster_of(key: &str) -> Option<ClusterId> {
    let mut parts = key.strip_prefix("tenants/")?.split('/');
    let tenant = parts.next()?.parse().ok()?;
    let cluster = parts
        .next()
        .filter(|word| *word == "clusters")
        .and(parts.next())?;
    Some(ClusterId {
        tenant,
        cluster: cluster.parse().ok()?,
    })
}
