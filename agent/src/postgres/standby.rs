//! What a standby says of itself.

use holdfast_proto::pg::{Lsn, TimelineId};

use super::{PgError, PgTarget, sql_connect};

/// How far a standby has received its primary's stream, and of which timeline;
/// `None` while it receives none.
///
/// # Errors
/// The server cannot be asked.
pub async fn received_by_standby(target: &PgTarget) -> Result<Option<(TimelineId, Lsn)>, PgError> {
    let client = sql_connect(target).await?;
    let row = client
        .query_opt(
            "SELECT received_tli, flushed_lsn::pg_catalog.text FROM pg_catalog.pg_stat_wal_receiver \
             WHERE status = 'streaming'",
            &[],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let (timeline, lsn): (Option<i32>, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
    let timeline = timeline.and_then(|t| TimelineId::new(u32::try_from(t).ok()?));
    Ok(timeline.zip(lsn.and_then(|lsn| lsn.parse().ok())))
}
