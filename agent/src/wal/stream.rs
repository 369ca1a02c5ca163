//! One connection's stream: from the socket into chunks, and back the news of
//! what is safe.
//!
//! The loop waits for whichever comes first: bytes, the next status, the tip's
//! deadline, somebody who waits for WAL, room in memory. Cancelling it at any
//! await loses nothing: bytes are in the cutter as soon as they were read, and
//! the cutter outlives the connection.
//!
//! The primary is never made to wait for us:
//! - Status goes out at least every second, also while nothing is read.
//! - A server that shuts down asks for replies until all is confirmed. Then the
//!   tip is closed at once, replies are paced, and after [`RELEASE`] the
//!   connection is given up: what was received is still stored.
//! - When memory is full for longer than [`PATIENCE`], the connection is given
//!   up as well, because a server that shuts down meanwhile could not say so.

use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_proto::pg::{Lsn, TimelineId};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::LineDirectives;
use super::chunk::{Chunk, Cutter};
use super::proof::{Differs, Proof};
use super::sealer::Sealer;
use super::shared::Shared;
use super::standing::Standing;
use super::trouble::DIVERGED;
use crate::postgres::{PgError, StreamEvent, WalStream};
use holdfast_proto::finding::Severity;

/// How long a server that shuts down is held: it is to be down within a second.
const RELEASE: Duration = Duration::from_millis(300);

/// How long a server whose WAL finds no room is held.
const PATIENCE: Duration = Duration::from_secs(1);

/// A server that shuts down asks again sooner than this.
const ASKS_WITHIN: Duration = Duration::from_millis(500);

/// The longest pause between two status messages.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// The shortest pause between two replies to a server that keeps asking.
const REPLY_PACE: Duration = Duration::from_millis(20);

/// How long WAL that a commit waits for is gathered.
const AT_ONCE: Duration = Duration::from_millis(1);

/// Chunks on their way to the first replica before the tip waits.
const IN_FLIGHT: usize = 2;

/// A server that says nothing for so long, although it was asked, is gone.
const SILENCE: Duration = Duration::from_secs(30);

/// Why a stream ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The agent stops.
    Cancelled,
    /// The server goes on with another timeline.
    Timeline {
        /// Which.
        next: TimelineId,
    },
    /// The server shuts down and was released.
    Released,
    /// There is no room for more WAL until a replica takes some.
    Full,
    /// The disk valve gives the slot up.
    GivenUp,
    /// The server has nothing any more of what it has to show.
    NotCompared,
    /// Commits are to wait, or to wait no longer, for this agent.
    StandsOtherwise,
}

/// Why a stream ended with an error.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error(transparent)]
    Postgres(#[from] PgError),
    #[error("the server has not answered for {} s: check its load and the network", SILENCE.as_secs())]
    Silent,
    #[error("WAL could not be sealed")]
    Sealer,
    #[error("WAL from {} to {} is another than is archived", .0.from, .0.to)]
    Differs(Differs),
}

/// What outlives a connection.
pub(super) struct Flow<'a> {
    pub shared: &'a Shared,
    pub sealer: &'a Sealer,
    pub cutter: &'a mut Cutter,
    pub directives: &'a mut watch::Receiver<LineDirectives>,
    pub cancel: &'a CancellationToken,
    /// The slot is not moved back behind this position.
    pub slot: Option<Lsn>,
    /// What the server has to show first.
    pub proof: Option<Proof>,
    /// Whether it has, for those who look at the server beside the stream.
    pub shown: &'a AtomicBool,
    /// As what it is connected. While commits wait for it, nothing waits for the tip's
    /// interval; and where none may wait for what it shows, it says nothing that a
    /// synchronous standby would.
    pub standing: Standing,
}

/// What belongs to one connection.
struct Pace {
    heard: Instant,
    last_status: Instant,
    last_flush: Option<Lsn>,
    reply_due: Option<Instant>,
    tip_since: Option<Instant>,
    /// First and last time that the server asked in a row.
    asking: Option<(Instant, Instant)>,
    full_since: Option<Instant>,
}

impl Flow<'_> {
    /// Receives until something ends it. The open chunk stays in the cutter.
    pub async fn run(&mut self, stream: &mut WalStream) -> Result<End, StreamError> {
        let now = Instant::now();
        let mut pace = Pace {
            heard: now,
            last_status: now,
            last_flush: None,
            reply_due: None,
            tip_since: (!self.cutter.is_empty()).then_some(now),
            asking: None,
            full_since: None,
        };
        let mut ticks = interval(STATUS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut revision = self.shared.revisions();
        self.status(stream, &mut pace, true).await?;
        loop {
            let room = self.shared.has_room();
            pace.note_room(room);
            if let Some(end) = pace.given_up(self.let_go(), self.received()) {
                return Ok(end);
            }
            // While chunks wait for the first replica that takes them, the open one
            // grows: many small objects would only make it slower.
            let interval = match self.standing {
                Standing::Waited => AT_ONCE,
                _ => Duration::MAX,
            };
            let due = |since| since + interval.min(self.directives.borrow().tip_interval);
            let tip = pace
                .tip_since
                .filter(|_| self.shared.in_flight() < IN_FLIGHT)
                .map(due);
            tokio::select! {
                () = self.cancel.cancelled() => return Ok(End::Cancelled),
                () = self.shared.until_given_up(true) => return Ok(End::GivenUp),
                _ = ticks.tick() => {
                    let quiet = pace.heard.elapsed() >= STATUS_EVERY;
                    if room && pace.heard.elapsed() > SILENCE {
                        return Err(StreamError::Silent);
                    }
                    self.status(stream, &mut pace, quiet).await?;
                }
                () = at(pace.reply_due) => self.status(stream, &mut pace, false).await?,
                () = at(tip) => self.close_tip(&mut pace)?,
                () = at(pace.deadline()) => {}
                () = self.shared.wanted() => self.close_wanted(&mut pace)?,
                changed = revision.changed() => {
                    if changed.is_err() {
                        return Ok(End::Cancelled);
                    }
                    if self.let_go() != pace.last_flush {
                        self.status(stream, &mut pace, false).await?;
                    }
                }
                event = stream.next(), if room => {
                    pace.heard = Instant::now();
                    if let Some(end) = self.take(event?, &mut pace)? {
                        return Ok(end);
                    }
                }
            }
        }
    }

    fn take(&mut self, event: StreamEvent, pace: &mut Pace) -> Result<Option<End>, StreamError> {
        match event {
            StreamEvent::Wal {
                start,
                end_of_wal,
                data,
                ..
            } => {
                // Nothing is taken of a message before what is in it was compared.
                if let Some(proof) = &mut self.proof {
                    let before = proof.is_done();
                    proof.take(start, &data).map_err(StreamError::Differs)?;
                    if proof.is_done() && !before {
                        self.shown.store(true, Ordering::Release);
                        let subject = self.shared.publisher.cluster.to_string();
                        self.shared.findings.clear(DIVERGED, &subject);
                    }
                }
                let known = self.cutter.position().bytes_since(start).unwrap_or(0);
                let data = data.slice(usize::try_from(known).unwrap_or(usize::MAX).min(data.len())..);
                if data.is_empty() {
                    return Ok(None);
                }
                let before = self.cutter.open_bytes();
                let (chunks, trouble) = self.cutter.take(&data);
                let closed: usize = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
                self.shared.hold(closed + self.cutter.open_bytes() - before);
                if let Some(trouble) = trouble {
                    let subject = self.cutter.position().to_string();
                    let detail = format!("{trouble}. It is stored as it came");
                    self.shared
                        .findings
                        .raise(Severity::Critical, "wal-not-understood", subject, detail);
                }
                if self.cutter.is_empty() {
                    pace.tip_since = None;
                } else if closed > 0 || pace.tip_since.is_none() {
                    pace.tip_since = Some(Instant::now());
                }
                for chunk in chunks {
                    self.hand_over(chunk)?;
                }
                self.note(end_of_wal);
                self.close_wanted(pace)?;
                Ok(None)
            }
            StreamEvent::Keepalive { end, reply_requested } => {
                self.note(end);
                if reply_requested {
                    // Only a server that shuts down asks although it hears from
                    // us every second.
                    if self.let_go().is_none_or(|safe| safe < end) {
                        self.close_tip(pace)?;
                        pace.asks(Instant::now());
                    }
                    pace.reply_due = Some(pace.last_status + REPLY_PACE);
                }
                Ok(None)
            }
            StreamEvent::TimelineEnd { next_timeline, .. } => Ok(Some(End::Timeline { next: next_timeline })),
        }
    }

    fn note(&self, server: Lsn) {
        self.shared
            .heard(server, self.received(), self.cutter.earliest_open());
    }

    fn received(&self) -> Lsn {
        self.cutter.received()
    }

    /// How far the server need not keep WAL for us.
    fn let_go(&self) -> Option<Lsn> {
        self.shared.ledger(|ledger| ledger.let_go())
    }

    fn close_wanted(&mut self, pace: &mut Pace) -> Result<(), StreamError> {
        let wanted = self.shared.highest_wanted();
        if self.received() >= wanted && self.cutter.open_from() < wanted {
            self.close_tip(pace)?;
        }
        Ok(())
    }

    fn close_tip(&mut self, pace: &mut Pace) -> Result<(), StreamError> {
        pace.tip_since = None;
        match self.cutter.close() {
            Some(chunk) => self.hand_over(chunk),
            None => Ok(()),
        }
    }

    fn hand_over(&self, chunk: Chunk) -> Result<(), StreamError> {
        self.shared
            .closed(chunk.end, chunk.facts.earliest_time, chunk.facts.latest_time);
        if self.sealer.seal(chunk) {
            Ok(())
        } else {
            Err(StreamError::Sealer)
        }
    }

    /// Tells the server how far we are.
    async fn status(
        &mut self,
        stream: &mut WalStream,
        pace: &mut Pace,
        ask: bool,
    ) -> Result<(), StreamError> {
        let safe = self.let_go();
        // A slot would follow back to where the server keeps nothing any more:
        // the valve has shut, and the copies are not all there yet.
        let flush = safe
            .filter(|safe| self.standing != Standing::Hidden && self.slot.is_none_or(|slot| *safe >= slot));
        self.slot = self.slot.max(flush);
        pace.last_flush = safe;
        pace.last_status = Instant::now();
        pace.reply_due = None;
        // A server that does not read must not hold up the rest.
        let sending = stream.status(self.received(), flush, flush, ask);
        match timeout_at(Instant::now() + STATUS_EVERY, sending).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Ok(()),
        }
    }
}

impl Pace {
    fn note_room(&mut self, room: bool) {
        self.full_since = if room {
            None
        } else {
            self.full_since.or_else(|| Some(Instant::now()))
        };
    }

    fn asks(&mut self, now: Instant) {
        let since = match self.asking {
            Some((since, last)) if now - last < ASKS_WITHIN => since,
            _ => now,
        };
        self.asking = Some((since, now));
    }

    /// When the patience with a shutdown or with full memory ends.
    fn deadline(&self) -> Option<Instant> {
        let release = self.asking.map(|(since, _)| since + RELEASE);
        let full = self.full_since.map(|since| since + PATIENCE);
        release.into_iter().chain(full).min()
    }

    fn given_up(&mut self, safe: Option<Lsn>, received: Lsn) -> Option<End> {
        if let Some((since, last)) = self.asking {
            if safe.is_some_and(|safe| safe >= received) {
                self.asking = None;
            } else if since.elapsed() >= RELEASE {
                if last.elapsed() < ASKS_WITHIN {
                    return Some(End::Released);
                }
                self.asking = None;
            }
        }
        self.full_since
            .is_some_and(|since| since.elapsed() >= PATIENCE)
            .then_some(End::Full)
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}
