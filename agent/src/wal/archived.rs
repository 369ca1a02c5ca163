//! A line without a stream: the server's WAL comes in whole segments, by its
//! `archive_command`, which is `holdfast wal push`.
//!
//! What is pushed is stored by [`super::push`]. This looks after the rest: that the
//! server is the one to follow, that its timelines' histories are stored first, how
//! far its log has come and until when all that was committed is safe
//! ([`super::sightings`]). Somebody who waits for WAL (a base backup, a fence) has the
//! segment ended by `pg_switch_wal`, so that PostgreSQL hands it over.
//!
//! No slot and no replication connection is used. PostgreSQL keeps every segment until
//! it was pushed; that also means that nothing keeps them from filling its disk when
//! that never works, which `wal-archiver-failing` says in time.
//!
//! If the process dies at any instant, what counts is found again in the replicas'
//! listings.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::Timestamp;
use holdfast_proto::finding::Severity;
use holdfast_proto::names::SystemId;
use holdfast_proto::pg::{Lsn, SegmentSize, TimelineId};
use holdfast_repository::clock::now;
use holdfast_repository::replica::explained;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, Row};

use super::backoff::Backoff;
use super::histories::Histories;
use super::lease;
use super::shared::{Followed, Shared};
use super::sightings::Sighting;
use super::start::{self, Place, Server};
use super::trouble::{SERVER_FINDINGS, Trouble};
use super::{WalContext, WalError};
use crate::postgres::{PgError, followed_by_standby, sql_connect};

/// Time between two looks at the server.
const EVERY: Duration = Duration::from_secs(1);

/// How long after its start the line waits for all replicas to be listed.
const LISTING_PATIENCE: Duration = Duration::from_secs(5);

/// The snapshot is taken before the position is asked for. What a standby cannot say
/// is not asked of one.
const LOOK: &str = "SELECT (SELECT system_identifier::text FROM pg_control_system()), pg_is_in_recovery(), \
     CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END, \
     CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn()::text END, \
     CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn()::text END, \
     pg_current_snapshot()::text, \
     (SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'), \
     current_setting('server_version_num'), \
     (SELECT setting FROM pg_settings WHERE name = 'data_directory'), \
     current_setting('archive_mode'), \
     (SELECT setting::int8 FROM pg_settings WHERE name = 'archive_timeout'), \
     (SELECT last_failed_wal FROM pg_stat_archiver \
      WHERE last_failed_time > coalesce(last_archived_time, '-infinity')), \
     EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1), now()";

/// What one look saw.
struct Seen {
    system: SystemId,
    timeline: TimelineId,
    flush: Lsn,
    insert: Lsn,
    clock: Timestamp,
    size: SegmentSize,
    version_num: u32,
    data_directory: Option<PathBuf>,
    snapshot: String,
    archives: bool,
    archive_timeout: i64,
    failing: Option<String>,
    slot: bool,
}

pub(super) struct Archived {
    context: WalContext,
    shared: Arc<Shared>,
    histories: Histories,
    client: Option<Client>,
    /// The timeline that was settled last.
    timeline: Option<TimelineId>,
    /// The position for which the segment was ended last.
    switched: Lsn,
    listing_until: Instant,
}

impl Archived {
    pub fn new(context: WalContext, shared: Arc<Shared>) -> Self {
        Self {
            histories: Histories::new(shared.clone()),
            context,
            shared,
            client: None,
            timeline: None,
            switched: Lsn::new(0),
            listing_until: Instant::now() + LISTING_PATIENCE,
        }
    }

    /// Looks after the line until cancelled or until another agent has taken over.
    pub async fn run(mut self) -> Result<(), WalError> {
        let cancel = self.context.cancel.clone();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            // Dropping a turn loses nothing: what it settles it settles again.
            let turn = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                turn = self.turn() => turn,
            };
            let pause = match turn {
                Ok(()) => {
                    backoff.reset();
                    EVERY
                }
                Err(Trouble::Fatal(error)) => return Err(error),
                Err(trouble) => {
                    self.client = None;
                    self.shared.connected(false);
                    if trouble.is_about_who() {
                        self.timeline = None;
                        self.shared.follow(None);
                    }
                    let (name, severity) = trouble.finding();
                    let detail = explained(&trouble);
                    self.shared.findings.raise(severity, name, self.subject(), detail);
                    backoff.next()
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = sleep(pause) => {}
                () = self.shared.wanted() => {}
            }
        }
    }

    fn subject(&self) -> String {
        self.context.publisher.cluster.to_string()
    }

    async fn turn(&mut self) -> Result<(), Trouble> {
        let at = now();
        let seen = self.look().await?;
        if seen.system != self.context.lineage.system {
            return Err(Trouble::WrongSystem {
                found: seen.system.to_string(),
                expected: self.context.lineage.system.to_string(),
            });
        }
        if self.timeline != Some(seen.timeline) {
            self.settle(&seen).await?;
            self.timeline = Some(seen.timeline);
        }
        let sighting = Sighting {
            at,
            clock: seen.clock,
            position: Sighting::end_of_log(seen.insert),
            snapshot: seen.snapshot.clone(),
        };
        self.shared.sighted(seen.flush, sighting);
        self.shared.connected(true);
        self.shared.withheld(!seen.archives);
        for name in SERVER_FINDINGS {
            self.shared.findings.clear(name, &self.subject());
        }
        self.say(&seen);
        self.end_segment(&seen).await
    }

    async fn look(&mut self) -> Result<Seen, Trouble> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            self.client = Some(sql_connect(&self.context.target).await?);
        }
        let client = self
            .client
            .as_ref()
            .ok_or_else(|| PgError::Protocol("no session".to_owned()))?;
        let row = client
            .query_one(LOOK, &[&self.context.slot.as_str()])
            .await
            .map_err(PgError::from)?;
        if row.try_get::<_, bool>(1).map_err(PgError::from)? {
            let directory = self.context.valve.data_directory.as_deref();
            if let Some(seen) = followed_by_standby(&self.context.target, directory).await? {
                self.context.following.note(seen);
            }
            return Err(Trouble::Standby);
        }
        Ok(Seen::read(&row)?)
    }

    /// Checks that the server's timeline is to be followed, and begins to count there.
    async fn settle(&mut self, seen: &Seen) -> Result<(), Trouble> {
        lease::check(&self.context.publisher).await?;
        if !self.shared.until_listed(self.listing_until).await {
            return Err(Trouble::NoReplica);
        }
        let directory = self.context.valve.data_directory.clone();
        let directory = directory
            .or_else(|| seen.data_directory.clone())
            .unwrap_or_default();
        let said = Histories::of_directory(&directory.join("pg_wal"), seen.timeline)?;
        let history = said.history.clone();
        let server = Server {
            timeline: seen.timeline,
            flush: seen.flush,
            history: &history,
            slot: None,
            segment_size: seen.size,
            followed: self.context.following.seen(),
            said: self.context.following.is_said(seen.timeline),
        };
        let start = self.shared.ledger(|ledger| start::plan(ledger, server))?;
        self.histories.store(said).await?;
        if let Some((fork, archive)) = start.left_behind {
            self.shared.say_left_behind(fork, archive);
        }
        let size = seen.size;
        let begin = |lsn| size.start_of(size.segment_of(lsn));
        let place = self.shared.ledger(|ledger| match ledger.newest_timeline() {
            Some(newest) if newest == seen.timeline => {
                let run = ledger.union(newest).last();
                run.map(|(anchor, from)| Place { anchor, from })
            }
            Some(_) => history.begin().map(|fork| Place {
                anchor: begin(fork),
                from: begin(fork),
            }),
            None => None,
        });
        let place = place.unwrap_or(Place {
            anchor: begin(seen.flush),
            from: begin(seen.flush),
        });
        self.shared.begin_pushed(seen.timeline, place, size, seen.flush);
        self.shared.follow(Some(Followed {
            timeline: seen.timeline,
            history,
            segment_size: size,
            version_num: seen.version_num,
        }));
        tracing::info!(timeline = %seen.timeline, lsn = %place.from, "WAL is expected by archive_command");
        Ok(())
    }

    /// Says what keeps PostgreSQL from handing WAL over.
    fn say(&self, seen: &Seen) {
        let (findings, subject) = (&self.shared.findings, self.subject());
        if seen.archives {
            findings.clear("wal-archive-off", &subject);
        } else {
            findings.raise(
                Severity::Critical,
                "wal-archive-off",
                subject.clone(),
                "the configuration says wal = \"archive\", and the server's archive_mode is off: no WAL is stored. Set \
                 archive_mode = on and archive_command = 'holdfast wal push %p', and restart the server",
            );
        }
        if seen.archive_timeout > 0 {
            findings.clear("wal-archive-unbounded", &subject);
        } else {
            findings.raise(
                Severity::Warning,
                "wal-archive-unbounded",
                subject.clone(),
                "archive_timeout is 0: what is committed waits until its segment is full, however long that takes. Set \
                 it to what may be lost",
            );
        }
        if seen.slot {
            findings.raise(
                Severity::Critical,
                "wal-slot-unused",
                subject.clone(),
                format!(
                    "the server has the slot {slot}, which nothing reads where wal = \"archive\": it keeps WAL until the \
                     disk is full. Run SELECT pg_drop_replication_slot('{slot}')",
                    slot = self.context.slot
                ),
            );
        } else {
            findings.clear("wal-slot-unused", &subject);
        }
        match &seen.failing {
            None => findings.clear("wal-archiver-failing", &subject),
            Some(wal) => findings.raise(
                Severity::Warning,
                "wal-archiver-failing",
                subject,
                format!(
                    "the server could not hand {wal} over and keeps it, with all that follows: look at the findings \
                     here and at the server's log, before its disk is full"
                ),
            ),
        }
    }

    /// Ends the segment that somebody waits for.
    async fn end_segment(&mut self, seen: &Seen) -> Result<(), Trouble> {
        let wanted = self.shared.highest_wanted();
        let open = seen.size.start_of(seen.size.segment_of(seen.insert));
        if wanted <= open || wanted > seen.insert || wanted <= self.switched {
            return Ok(());
        }
        if let Some(client) = &self.client {
            let switch = "SELECT pg_switch_wal()::text";
            client.query_one(switch, &[]).await.map_err(PgError::from)?;
            self.switched = wanted;
        }
        Ok(())
    }
}

impl Seen {
    fn read(row: &Row) -> Result<Self, PgError> {
        let text = |at: usize| -> Result<String, PgError> {
            let text: Option<String> = row.try_get(at)?;
            text.ok_or_else(|| PgError::Protocol(format!("column {at} of the server's answer is missing")))
        };
        let bad = |at: usize| PgError::Protocol(format!("column {at} of the server's answer is unreadable"));
        let system: i64 = text(0)?.parse().map_err(|_| bad(0))?;
        Ok(Self {
            system: SystemId::new(system.cast_unsigned()),
            timeline: TimelineId::parse_fixed(&text(2)?).ok_or_else(|| bad(2))?,
            flush: text(3)?.parse().map_err(|_| bad(3))?,
            insert: text(4)?.parse().map_err(|_| bad(4))?,
            snapshot: text(5)?,
            size: text(6)?
                .parse()
                .ok()
                .and_then(|bytes| SegmentSize::new(bytes).ok())
                .ok_or_else(|| bad(6))?,
            version_num: text(7)?.parse().map_err(|_| bad(7))?,
            data_directory: row.try_get::<_, Option<String>>(8)?.map(PathBuf::from),
            archives: text(9)? != "off",
            archive_timeout: row.try_get::<_, Option<i64>>(10)?.unwrap_or(0),
            failing: row.try_get(11)?,
            slot: row.try_get(12)?,
            clock: Timestamp::from_chrono(row.try_get(13)?),
        })
    }
}
