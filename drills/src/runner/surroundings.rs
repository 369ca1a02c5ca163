//! What stands around a drill and is measured beside it: what keeps its backup from
//! being deleted, and how far the runner's clock is from the store's.
//!
//! Nothing here decides a verdict, and nothing fails a drill: what cannot be found out
//! is said not to be known.

use std::collections::BTreeMap;

use holdfast_proto::Timestamp;
use holdfast_proto::names::{ObjectKey, Region};
use holdfast_repository::store::Lock;
use holdfast_repository::{Replica, Repository, layout};

use crate::evidence::statement::recovery::ReplicaLock;
use crate::log::Stored;

/// The most objects of a restore that are asked for their locks, in each replica.
const MOST: usize = 64;

/// The runner's clock against the store's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockOffset {
    /// The runner's minus the store's, in milliseconds.
    pub offset_ms: i64,
    /// The most by which that may be off.
    pub error_ms: u64,
}

/// What was measured, and why the rest was not.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// The clocks.
    pub clock: Option<ClockOffset>,
    /// Each replica's locks.
    pub locks: BTreeMap<Region, ReplicaLock>,
    /// Until when the log's entries are locked, in every replica.
    pub retained: Option<Timestamp>,
    /// Reasons for what is not known, by the statement's field.
    pub reasons: BTreeMap<&'static str, String>,
}

impl Surroundings {
    /// What is known of a replica's locks.
    pub fn lock(&self, region: &Region) -> ReplicaLock {
        let known = self.locks.get(region).cloned();
        known.unwrap_or_else(|| ReplicaLock::unknown(region.clone()))
    }
}

/// The statement's fields that are measured here.
pub const CLOCK: &str = "timings.clock_offset_ms";
/// As before.
pub const LOCKS: &str = "recovery_point.replicas.locked_until";
/// As before.
pub const RETENTION: &str = "retention";

/// Looks at the intent's entry, which was just stored, and at `objects`, which the
/// restore read.
pub async fn measure(
    repository: &Repository,
    decider: &Region,
    intent: &Stored,
    objects: &[ObjectKey],
) -> Surroundings {
    let mut found = Surroundings::default();
    let entry = layout::evidence_entry(intent.index);
    match clock_offset(repository.replica(decider), intent, &entry).await {
        Ok(offset) => found.clock = Some(offset),
        Err(why) => drop(found.reasons.insert(CLOCK, why)),
    }
    let (mut open, mut kept) = (Vec::new(), Vec::new());
    for replica in repository.replicas() {
        let region = replica.region().clone();
        let (lock, why) = locks(replica, &objects[..objects.len().min(MOST)]).await;
        open.extend(why.map(|why| format!("{region}: {why}")));
        found.locks.insert(region, lock);
        let until = match replica.lock(&entry).await {
            Ok(Some(Lock::Until(until))) => Some(until),
            _ => None,
        };
        kept.push(until);
    }
    if !open.is_empty() {
        found.reasons.insert(LOCKS, shortened(&open.join("; ")));
    }
    found.retained = kept
        .into_iter()
        .collect::<Option<Vec<_>>>()
        .and_then(|all| all.into_iter().min());
    if found.retained.is_none() {
        let why = "the log's entries have no lock that binds everybody, in one region at least";
        found.reasons.insert(RETENTION, why.to_owned());
    }
    found
}

/// A text that a statement may carry.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(390) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// The locks of `objects` in a replica, and why the earliest end of them is not known.
async fn locks(replica: &Replica, objects: &[ObjectKey]) -> (ReplicaLock, Option<String>) {
    let mut lock = ReplicaLock::unknown(replica.region().clone());
    if !replica.keeps_versions() {
        return (
            lock,
            Some("the store keeps no versions that could be locked".to_owned()),
        );
    }
    let (mut looked_at, mut unlocked, mut earliest) = (0, 0, None::<Timestamp>);
    for key in objects {
        match replica.lock(key).await {
            // What is not in this replica has no lock in it; whether it ought to be is
            // for other checks.
            Ok(None) => continue,
            Ok(Some(Lock::Until(until))) => earliest = Some(earliest.map_or(until, |e| e.min(until))),
            Ok(Some(Lock::None | Lock::Liftable(_))) => unlocked += 1,
            Err(e) => {
                tracing::info!(region = %replica.region(), err = %e, "a lock cannot be asked for");
                return (
                    lock,
                    Some("the store does not say, or the credentials may not ask".to_owned()),
                );
            }
        }
        looked_at += 1;
    }
    (lock.looked_at, lock.unlocked) = (Some(looked_at), Some(unlocked));
    match (looked_at, unlocked) {
        (0, _) => (
            lock,
            Some("it has none of the objects that were looked at".to_owned()),
        ),
        (_, 0) => {
            lock.locked_until = earliest;
            (lock, None)
        }
        (all, none) => {
            let why = format!("{none} of the {all} objects looked at have no lock that binds everybody");
            (lock, Some(why))
        }
    }
}

async fn clock_offset(
    replica: Option<&Replica>,
    intent: &Stored,
    entry: &ObjectKey,
) -> Result<ClockOffset, String> {
    let replica = replica.ok_or("the replica that decides is out of reach")?;
    let asked = replica.versions(entry).await.map_err(|e| {
        tracing::info!(err = %e, "the store does not say when the intent was stored");
        "the store does not say when the intent was stored".to_owned()
    })?;
    let stored = asked
        .first()
        .ok_or("the intent's entry is not where it was stored")?;
    Ok(offset(intent.began, intent.ended, stored.modified))
}

/// The offset, from when storing began and ended by the runner's clock, and when it
/// happened by the store's. A store that counts whole seconds may have meant any
/// moment of that second.
fn offset(began: Timestamp, ended: Timestamp, stored: Timestamp) -> ClockOffset {
    let whole = stored.unix_micros().rem_euclid(1_000_000) == 0;
    let late = if whole { 999_999 } else { 0 };
    let least = began.unix_micros() - (stored.unix_micros() + late);
    let most = ended.unix_micros() - stored.unix_micros();
    ClockOffset {
        offset_ms: (least + (most - least) / 2).div_euclid(1000),
        error_ms: u64::try_from((most - least).max(0)).unwrap_or(0).div_ceil(2000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: i64) -> Timestamp {
        Timestamp::from_unix_micros(1_790_000_000_000_000 + ms * 1000)
    }

    #[test]
    fn an_offset_is_as_exact_as_the_store() {
        let exact = offset(ms(10_000), ms(10_040), ms(7_020));
        assert_eq!((exact.offset_ms, exact.error_ms), (3_000, 20));
        let behind = offset(ms(10_000), ms(10_040), ms(12_020));
        assert_eq!((behind.offset_ms, behind.error_ms), (-2_000, 20));
        // Whole seconds: the store's clock may have been anywhere in that second.
        let coarse = offset(ms(10_700), ms(10_740), ms(10_000));
        assert!((-1000..=1000).contains(&coarse.offset_ms), "{coarse:?}");
        assert!(
            coarse.error_ms >= 500 && coarse.offset_ms.unsigned_abs() <= coarse.error_ms,
            "{coarse:?}"
        );
    }

    #[test]
    fn a_long_reason_fits_into_a_statement() {
        assert_eq!(shortened("short"), "short");
        assert!(shortened(&"é".repeat(900)).chars().count() <= 400);
    }
}
