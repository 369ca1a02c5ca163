//! Agents beside the nodes of one cluster.
//!
//! Each has its own server and names the others as its `peers`. The agent whose
//! server is the primary writes; the others wait beside their standbys. When a
//! standby is promoted its timeline is newer than all that is archived, and that
//! alone lets its agent take the lease over from a peer: an old primary that was cut
//! off has the old timeline, and its agent waits. Whoever lost the lease begins anew,
//! and finds a standby, or a server to be stopped.

use holdfast_proto::names::Lineage;
use holdfast_proto::pg::TimelineId;
use holdfast_repository::layout;
use holdfast_repository::listing::ListError;
use holdfast_repository::publisher::Publisher;

/// Whether a server on `timeline` was promoted after everything that is archived.
///
/// # Errors
/// No replica can be listed.
pub async fn is_promoted(
    publisher: &Publisher,
    lineage: Lineage,
    timeline: TimelineId,
) -> Result<bool, ListError> {
    let archived = publisher
        .repository
        .children(&layout::wal_of(&publisher.cluster, lineage))
        .await?;
    let newest = (archived.names.iter())
        .filter_map(|name| TimelineId::new(u32::from_str_radix(name, 16).ok()?))
        .max();
    Ok(newest.is_none_or(|newest| timeline > newest))
}
