//! What a standby says of itself.

use std::path::{Path, PathBuf};

use holdfast_proto::pg::{Lsn, TimelineId};

use super::{PgError, PgTarget, sql_connect};

/// What the server says in recovery: the stream that it receives, and how far it has
/// replayed. In the control file lies the timeline of what was replayed, with some delay.
const ASK: &str = "SELECT received_tli, flushed_lsn::pg_catalog.text, \
     (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()), \
     pg_catalog.pg_last_wal_replay_lsn()::pg_catalog.text, \
     (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'data_directory') \
     FROM (SELECT 1) one LEFT JOIN pg_catalog.pg_stat_wal_receiver ON status = 'streaming'";

/// How far a standby has followed its primary, and on which timeline; `None` while that
/// cannot be told.
///
/// A server that streams is a standby. One that is fed by its `restore_command` counts
/// when `standby.signal` lies in its data directory, here as `data_directory` or where the
/// server says: a restore to a moment recovers too, and follows nobody.
///
/// # Errors
/// The server cannot be asked.
pub async fn followed_by_standby(
    target: &PgTarget,
    data_directory: Option<&Path>,
) -> Result<Option<(TimelineId, Lsn)>, PgError> {
    let client = sql_connect(target).await?;
    let row = client.query_one(ASK, &[]).await?;
    let position = |timeline: Option<i32>, lsn: Option<String>| {
        let timeline = timeline.and_then(|t| TimelineId::new(u32::try_from(t).ok()?));
        timeline.zip(lsn.and_then(|lsn| lsn.parse().ok()))
    };
    if let Some(received) = position(row.try_get(0)?, row.try_get(1)?) {
        return Ok(Some(received));
    }
    let said: Option<String> = row.try_get(4)?;
    let directory = data_directory.map(Path::to_owned).or(said.map(PathBuf::from));
    let Some(directory) = directory else {
        return Ok(None);
    };
    let stands_by = tokio::fs::try_exists(directory.join("standby.signal")).await;
    if !stands_by.unwrap_or(false) {
        return Ok(None);
    }
    Ok(position(row.try_get(2)?, row.try_get(3)?))
}
