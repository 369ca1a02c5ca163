//! The restore points that people made: `pg_create_restore_point`.
//!
//! Each WAL object's header lists those whose record it completes, so no byte of
//! WAL is opened; but every header is read, with one ranged request each. So this
//! is asked for by itself, not at every look at the ledger.

use futures::{StreamExt, TryStreamExt};
use holdfast_proto::Timestamp;
use holdfast_proto::finding::Finding;
use holdfast_proto::names::Lineage;
use holdfast_proto::pg::{Lsn, TimelineId};
use serde::Serialize;

use super::Ledger;
use crate::restore::{WalReadError, WalSource};

/// Headers read at the same time.
const AT_ONCE: usize = 32;
/// What the agent's own points begin with.
const OURS: &str = "holdfast-";

/// Whether a restore point is one of an agent's own, which are shown as joint points.
pub(crate) fn is_ours(name: &str) -> bool {
    name.starts_with(OURS)
}

/// A named restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NamedPoint {
    /// Its name: what `--to-name` takes.
    pub name: String,
    /// The server's clock when it was made.
    pub time: Timestamp,
    /// The lineage.
    pub lineage: Lineage,
    /// The timeline.
    pub timeline: TimelineId,
    /// Start of its record.
    pub lsn: Lsn,
}

impl Ledger {
    /// Every restore point that somebody named, by its time.
    ///
    /// # Errors
    /// A header cannot be read on any replica.
    pub async fn named_points(
        &self,
        source: WalSource<'_>,
    ) -> Result<(Vec<NamedPoint>, Vec<Finding>), WalReadError> {
        let objects = self.wal.iter().flat_map(|((lineage, timeline), objects)| {
            objects.iter().map(|object| (*lineage, *timeline, object))
        });
        let mut headers = futures::stream::iter(objects)
            .map(|(lineage, timeline, object)| async move {
                let (body, findings) = source.header(object).await?;
                Ok::<_, WalReadError>((lineage, timeline, body, findings))
            })
            .buffered(AT_ONCE);
        let (mut points, mut met) = (Vec::new(), Vec::new());
        while let Some((lineage, timeline, body, findings)) = headers.try_next().await? {
            met.extend(findings);
            let theirs = body
                .restore_points
                .into_iter()
                .filter(|mark| !is_ours(&mark.name));
            points.extend(theirs.map(|mark| NamedPoint {
                name: mark.name,
                time: mark.time,
                lineage,
                timeline,
                lsn: mark.lsn,
            }));
        }
        drop(headers);
        // WAL that was taken up again lies in several objects.
        points.sort_by(|a, b| (a.time, a.lsn, &a.name).cmp(&(b.time, b.lsn, &b.name)));
        points.dedup();
        Ok((points, met))
    }
}
