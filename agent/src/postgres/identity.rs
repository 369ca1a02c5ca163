//! Which cluster a server is, asked in an ordinary session: for servers that are not
//! streamed from.

use holdfast_proto::names::SystemId;
use holdfast_proto::pg::TimelineId;

use super::{PgError, PgTarget, SystemIdentity, sql_connect};

/// What a server says of itself; `None` from a standby.
///
/// # Errors
/// The server cannot be asked.
pub async fn identity_by_sql(target: &PgTarget) -> Result<Option<SystemIdentity>, PgError> {
    let client = sql_connect(target).await?;
    let row = client
        .query_one(
            "SELECT (SELECT system_identifier FROM pg_control_system()), \
             CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END, \
             CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn()::text END",
            &[],
        )
        .await?;
    let system: i64 = row.try_get(0)?;
    let (timeline, flush): (Option<String>, Option<String>) = (row.try_get(1)?, row.try_get(2)?);
    let Some((timeline, flush)) = timeline.zip(flush) else {
        return Ok(None);
    };
    let unreadable = |what| PgError::protocol(format!("{what} of the server is unreadable"));
    Ok(Some(SystemIdentity {
        system: SystemId::new(system.cast_unsigned()),
        timeline: TimelineId::parse_fixed(&timeline).ok_or_else(|| unreadable("the timeline"))?,
        flush: flush.parse().map_err(|_| unreadable("the position"))?,
    }))
}
