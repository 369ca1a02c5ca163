//! What the line looks at beside its stream: what commits wait for, and where the log
//! ends.
//!
//! A stream tells what arrived, not what was committed meanwhile: a message may have
//! been under way for long, and one that does not come says nothing. So the server is
//! asked, every few seconds, by its own clock: what had been committed by then lies
//! before the position that it names.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_proto::Timestamp;
use holdfast_proto::pg::TimelineId;
use holdfast_repository::clock::now;
use tokio::time::sleep;

use super::shared::Shared;
use super::sightings::Sighting;
use crate::postgres::{PgError, PgTarget, sql_connect};

/// How the agent appears among those that commits may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Under the name that `synchronous_standby_names` may have, and does not.
    Standby,
    /// It has the name: commits wait until what they wrote is stored.
    Waited,
    /// Under another one: commits would wait for what it cannot give.
    Aside,
    /// Every name is waited for, so it confirms nothing.
    Hidden,
}

impl Standing {
    /// By what the server says.
    fn of(look: &Look) -> Self {
        match &look.refused {
            None if look.waited => Self::Waited,
            None => Self::Standby,
            Some(names) if names_everybody(names) => Self::Hidden,
            Some(_) => Self::Aside,
        }
    }
}

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(3);

/// The snapshot is taken before the position is asked for, and the clock is read before
/// both. What a standby cannot say is not asked of one.
const LOOK: &str = "SELECT pg_catalog.current_setting('synchronous_commit'), \
     pg_catalog.current_setting('synchronous_standby_names'), pg_catalog.now(), \
     pg_catalog.pg_current_snapshot()::pg_catalog.text, \
     CASE WHEN NOT pg_catalog.pg_is_in_recovery() \
     THEN pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8) END, \
     CASE WHEN NOT pg_catalog.pg_is_in_recovery() \
     THEN pg_catalog.pg_current_wal_insert_lsn()::pg_catalog.text END";

/// The server, asked beside the stream.
struct Look {
    /// `synchronous_standby_names`, when it names the agent and commits wait until that
    /// standby shows them.
    refused: Option<String>,
    /// Whether it names the agent.
    waited: bool,
    /// Of a primary: its timeline, and where its log ends.
    sighting: Option<(TimelineId, Sighting)>,
}

impl Look {
    async fn at(target: &PgTarget) -> Result<Self, PgError> {
        let client = sql_connect(target).await?;
        let at = now();
        let row = client.query_one(LOOK, &[]).await?;
        let (commit, names): (&str, String) = (row.try_get(0)?, row.try_get(1)?);
        let waited = names_standby(&names, &target.application_name);
        let refused = commit == "remote_apply" && waited;
        let clock: chrono::DateTime<chrono::Utc> = row.try_get(2)?;
        let (snapshot, timeline, position): (String, Option<&str>, Option<&str>) =
            (row.try_get(3)?, row.try_get(4)?, row.try_get(5)?);
        let place = timeline
            .and_then(TimelineId::parse_fixed)
            .zip(position.and_then(|lsn| lsn.parse().ok()));
        Ok(Self {
            refused: refused.then_some(names),
            waited,
            sighting: place.map(|(timeline, insert)| {
                let sighting = Sighting {
                    at,
                    clock: Timestamp::from_chrono(clock),
                    position: Sighting::end_of_log(insert),
                    snapshot,
                };
                (timeline, sighting)
            }),
        })
    }
}

/// As what the agent is to appear, and `synchronous_standby_names` when it is not to
/// appear by its name.
pub(super) async fn standing_at(target: &PgTarget) -> Result<(Standing, Option<String>), PgError> {
    let look = Look::at(target).await?;
    Ok((Standing::of(&look), look.refused))
}

/// Notes where the log of the server of this stream ends, again and again, once it has
/// `shown` the WAL that is archived: until then it may be another server, set back.
/// Returns when its settings ask for another standing than the stream's: both can be
/// changed while it runs. A server that does not answer says nothing new.
pub(super) async fn until_stands_otherwise(
    shared: &Shared,
    target: &PgTarget,
    timeline: TimelineId,
    standing: Standing,
    shown: &AtomicBool,
) {
    loop {
        sleep(EVERY).await;
        let received = shared.received().filter(|_| shown.load(Ordering::Acquire));
        let Ok(look) = Look::at(target).await else {
            continue;
        };
        if Standing::of(&look) != standing {
            return;
        }
        if let Some((_, seen)) = look.sighting.filter(|(found, _)| *found == timeline) {
            shared.seen_beside(seen, received);
        }
    }
}

/// The words of `synchronous_standby_names`, in whatever form.
fn words_of(names: &str) -> impl Iterator<Item = &str> {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '*' | '.');
    names.split(move |c| !is_word(c))
}

/// Whether `synchronous_standby_names` names a standby.
fn names_standby(names: &str, name: &str) -> bool {
    names_everybody(names) || words_of(names).any(|word| word.eq_ignore_ascii_case(name))
}

/// Whether it names every standby.
fn names_everybody(names: &str) -> bool {
    words_of(names).any(|word| word == "*")
}
