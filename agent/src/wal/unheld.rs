//! Why the slot may hold nothing: remembered until WAL is stored behind it, so that a
//! gap can be told with its cause, by a later process too.

use std::convert::Infallible;
use std::future::pending;

use holdfast_proto::pg::Lsn;
use holdfast_proto::record::GapCause;

use super::shared::Shared;
use crate::postgres::{PgError, PgTarget, SlotName, sql_connect};
use crate::state::Record;

/// Keeps why the slot held nothing, for a process that goes on where this one ends.
pub(super) fn keep(record: &Record, unheld: Option<GapCause>) {
    if let Err(error) = record.save(&unheld) {
        tracing::warn!(err = %error, "why the slot held nothing is not remembered");
    }
}

/// Forgets it once something behind `at` is stored: from there on the slot holds what
/// is not.
pub(super) async fn forgets(
    shared: &Shared,
    record: &Record,
    at: Lsn,
    unheld: Option<GapCause>,
) -> Infallible {
    let mut revision = shared.revisions();
    let is_stored = || {
        shared
            .ledger(|ledger| ledger.acknowledged())
            .is_some_and(|safe| safe > at)
    };
    while unheld.is_some() {
        if is_stored() {
            keep(record, None);
            break;
        }
        if revision.changed().await.is_err() {
            break;
        }
    }
    pending().await
}

/// Why the server no longer keeps WAL for a slot; `None` while it does.
pub(super) async fn slot_lost(target: &PgTarget, slot: &SlotName) -> Result<Option<String>, PgError> {
    let client = sql_connect(target).await?;
    // Which columns there are depends on the major: `invalidation_reason` came with 17.
    let query = "SELECT wal_status, pg_catalog.to_jsonb(s) ->> 'invalidation_reason' \
                 FROM pg_catalog.pg_replication_slots s WHERE slot_name OPERATOR(pg_catalog.=) $1::text";
    let Some(row) = client.query_opt(query, &[&slot.as_str()]).await? else {
        return Ok(None);
    };
    let (status, reason): (Option<String>, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
    Ok(match (status.as_deref(), reason) {
        (_, Some(reason)) => Some(format!("invalidation_reason {reason}")),
        (Some("lost"), None) => Some("wal_status lost".to_owned()),
        _ => None,
    })
}
