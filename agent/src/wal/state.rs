//! What the WAL line says of itself, and how others wait for it.
//!
//! The line publishes a [`WalState`] whenever it changes. Whoever needs WAL to
//! be safe (a base backup before it commits, a fence) holds a [`WalFrontier`]
//! and waits on it; waiting asks for the tip to be uploaded at once instead of
//! at the next interval.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_proto::Timestamp;
use holdfast_proto::message::WalFacts;
use holdfast_proto::names::FilestoreName;
use holdfast_proto::pg::{Lsn, TimelineId};
use holdfast_proto::record::{FilestoreFrontier, FrontierBody, ReplicaFrontier};
use tokio::sync::{Notify, watch};

/// In milliseconds. After this long without a word from the server, commits that we do not know
/// of must be assumed.
pub(super) const SILENCE: u64 = 5_000;

/// The WAL line at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalState {
    /// Whether the stream runs; where WAL is pushed, whether the server answers.
    pub connected: bool,
    /// Whether WAL comes: it is connected, and `archive_mode` is on where WAL is pushed.
    pub flows: bool,
    /// Whether WAL comes from a stream, and not from `archive_command`.
    pub streams: bool,
    /// The timeline streamed.
    pub timeline: TimelineId,
    /// The server's position, last heard.
    pub server_flush: Lsn,
    /// Received.
    pub received: Lsn,
    /// The k-th highest frontier over the replicas.
    pub acknowledged: Lsn,
    /// k.
    pub copies: u32,
    /// Each replica's frontier.
    pub replicas: Vec<ReplicaFrontier>,
    /// The earliest time of a transaction's end that was received and is not
    /// acknowledged.
    pub oldest_unsafe: Option<Timestamp>,
    /// When we last had all that the server had, by the agent's clock.
    pub caught_up: Timestamp,
    /// When we last heard from the server, by the agent's clock.
    pub heard: Timestamp,
    /// Everything committed by then, by the server's clock, is acknowledged. `None` while
    /// that was not seen.
    pub complete_until: Option<Timestamp>,
    /// The newest transaction's end that is acknowledged.
    pub last_commit: Option<Timestamp>,
    /// From where the present can be reached.
    pub reach: Reach,
}

/// From where WAL leads to the present without a hole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Each timeline of the history, the present one first, and from where on. A base
    /// backup that started before it, or on another one, cannot be replayed to the present.
    pub unbroken: Arc<[(TimelineId, Lsn)]>,
    /// Whether more than the present timeline was looked at, on every replica.
    pub surely: bool,
    /// From here on the WAL was not compared with what lies before it.
    pub uncompared: Option<(TimelineId, Lsn)>,
}

impl Reach {
    /// From where on the present timeline's WAL is whole.
    pub fn contiguous_from(&self) -> Lsn {
        self.unbroken.first().map_or(Lsn::new(0), |(_, from)| *from)
    }

    /// Whether WAL leads from `start` on a timeline to the present. Of another timeline
    /// than the present one that is believed until all replicas were looked at.
    pub fn leads_from(&self, timeline: TimelineId, start: Lsn) -> bool {
        let found = self.unbroken.iter().find(|(of, _)| *of == timeline);
        let present = self.unbroken.first().is_some_and(|(of, _)| *of == timeline);
        match found {
            Some((_, from)) => start >= *from,
            None => !present && !self.surely,
        }
    }

    /// Whether the way from `start` on a timeline crosses a place at which the WAL was
    /// not compared.
    pub fn crosses(&self, timeline: TimelineId, start: Lsn) -> bool {
        self.uncompared
            .is_some_and(|(of, from)| timeline < of || (timeline == of && start < from))
    }
}

impl WalState {
    /// The age of the oldest commit that is not acknowledged, as far as it can
    /// be known: when the server has more than we received, or was not heard, it
    /// is counted from the last moment at which we had everything.
    pub fn rpo_ms(&self, now: Timestamp) -> u64 {
        let known = self.oldest_unsafe.map_or(0, |oldest| now.millis_since(oldest));
        let behind = self.received < self.server_flush;
        let silent = !self.connected || now.millis_since(self.heard) > SILENCE;
        let assumed = if behind || silent {
            now.millis_since(self.caught_up)
        } else {
            0
        };
        known.max(assumed)
    }

    /// Bytes of WAL that the slot holds back on the server; `None` without one.
    pub fn retained(&self) -> Option<u64> {
        let held = self.server_flush.bytes_since(self.acknowledged).unwrap_or(0);
        self.streams.then_some(held)
    }

    /// Whether all that was committed when the server was heard last is known here.
    pub fn sees_all(&self) -> bool {
        self.streams || self.caught_up >= self.heard
    }

    /// As the heartbeat reports it.
    pub fn facts(&self, now: Timestamp) -> WalFacts {
        WalFacts {
            timeline: self.timeline,
            server_flush: self.server_flush,
            received: self.received,
            acknowledged: self.acknowledged,
            replicas: self.replicas.clone(),
            rpo_ms: self.rpo_ms(now),
            heard_ms: Some(now.millis_since(self.heard)),
            last_commit: self.last_commit,
            slot_retained: self.retained(),
        }
    }

    /// As the repository's attestation says it, together with how far the
    /// filestores are captured.
    pub fn attestation(&self, now: Timestamp, filestores: Vec<FilestoreFrontier>) -> FrontierBody {
        FrontierBody {
            timeline: self.timeline,
            server_flush: self.server_flush,
            acknowledged: self.acknowledged,
            copies: self.copies,
            replicas: self.replicas.clone(),
            rpo_ms: self.rpo_ms(now),
            heard_ms: Some(now.millis_since(self.heard)),
            complete_until: self.complete_until,
            filestores,
            at: now,
        }
    }
}

/// Why a wait for WAL ended without it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAcknowledged {
    /// It took too long.
    #[error(
        "WAL up to {wanted} was not acknowledged within {seconds} s (it is at {at:?}): look at the findings of the \
         WAL line and of the replicas"
    )]
    Deadline {
        /// The position waited for.
        wanted: Lsn,
        /// How long.
        seconds: u64,
        /// The position reached; `None` when the line never ran.
        at: Option<Lsn>,
    },
    /// The server is on another timeline by now.
    #[error(
        "the WAL line follows timeline {found}, not {wanted}: the server was switched over meanwhile, start again"
    )]
    Timeline {
        /// The timeline waited for.
        wanted: TimelineId,
        /// The timeline streamed.
        found: TimelineId,
    },
    /// The line has ended.
    #[error("the WAL line has ended: look at the findings for the reason")]
    Ended,
}

/// Positions that somebody waits for: the line ends its open chunk as soon as it
/// holds the highest of them.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    highest: AtomicU64,
    pub(super) changed: Notify,
}

impl Wanted {
    fn want(&self, lsn: Lsn) {
        self.highest.fetch_max(lsn.get(), Ordering::AcqRel);
        self.changed.notify_one();
    }

    /// The highest position that anybody ever waited for.
    pub(super) fn highest(&self) -> Lsn {
        Lsn::new(self.highest.load(Ordering::Acquire))
    }
}

/// The reading end of the WAL line's state. Clones share it.
#[derive(Debug, Clone)]
pub struct WalFrontier {
    state: watch::Receiver<Option<WalState>>,
    wanted: Arc<Wanted>,
    captured: Arc<Captured>,
}

/// The writing end, for the line.
#[derive(Debug, Clone)]
pub struct FrontierPublisher {
    pub(super) state: watch::Sender<Option<WalState>>,
    pub(super) wanted: Arc<Wanted>,
    pub(super) captured: Arc<Captured>,
}

/// How far the cluster's filestores are captured, for the attestation.
#[derive(Debug, Default)]
pub(super) struct Captured(Mutex<BTreeMap<FilestoreName, Timestamp>>);

impl Captured {
    fn held(&self) -> MutexGuard<'_, BTreeMap<FilestoreName, Timestamp>> {
        // A map of plain values is whole after every change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each filestore, in order of names.
    pub fn all(&self) -> Vec<FilestoreFrontier> {
        let held = self.held();
        held.iter()
            .map(|(filestore, captured_until)| FilestoreFrontier {
                filestore: filestore.clone(),
                captured_until: *captured_until,
            })
            .collect()
    }
}

/// Makes the two ends. The state is `None` until the line has streamed once.
pub fn frontier() -> (FrontierPublisher, WalFrontier) {
    let (sender, receiver) = watch::channel(None);
    let (wanted, captured) = (Arc::new(Wanted::default()), Arc::new(Captured::default()));
    let publisher = FrontierPublisher {
        state: sender,
        wanted: wanted.clone(),
        captured: captured.clone(),
    };
    (
        publisher,
        WalFrontier {
            state: receiver,
            wanted,
            captured,
        },
    )
}

impl WalFrontier {
    /// Every file of `filestore` that was complete by `until` is safe: the next
    /// attestation says so.
    pub fn note_captured(&self, filestore: &FilestoreName, until: Timestamp) {
        self.captured.held().insert(filestore.clone(), until);
    }

    /// The state now; `None` when the line has not streamed yet.
    pub fn current(&self) -> Option<WalState> {
        self.state.borrow().clone()
    }

    /// Waits until the state is another one than at the last call of this
    /// method on this handle.
    ///
    /// # Errors
    /// The line has ended.
    pub async fn changed(&mut self) -> Result<(), NotAcknowledged> {
        self.state.changed().await.map_err(|_| NotAcknowledged::Ended)
    }

    /// Waits until WAL up to `lsn` of `timeline` is acknowledged, and has the tip
    /// uploaded for it.
    ///
    /// # Errors
    /// It did not happen within `patience`, or cannot happen any more.
    pub async fn until_acknowledged(
        &self,
        timeline: TimelineId,
        lsn: Lsn,
        patience: Duration,
    ) -> Result<WalState, NotAcknowledged> {
        self.wanted.want(lsn);
        let mut state = self.state.clone();
        let reached = async {
            loop {
                if let Some(now) = state.borrow_and_update().clone() {
                    if now.timeline > timeline {
                        return Err(NotAcknowledged::Timeline {
                            wanted: timeline,
                            found: now.timeline,
                        });
                    }
                    if now.timeline == timeline && now.acknowledged >= lsn {
                        return Ok(now);
                    }
                }
                state.changed().await.map_err(|_| NotAcknowledged::Ended)?;
            }
        };
        // Cancel-safe: the wait has no effect of its own.
        match tokio::time::timeout(patience, reached).await {
            Ok(outcome) => outcome,
            Err(_) => Err(NotAcknowledged::Deadline {
                wanted: lsn,
                seconds: patience.as_secs(),
                at: self.current().map(|s| s.acknowledged),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(acknowledged: u64) -> WalState {
        let at = Timestamp::from_unix_micros(1_000_000_000);
        WalState {
            connected: true,
            flows: true,
            streams: true,
            timeline: TimelineId::FIRST,
            server_flush: Lsn::new(100),
            received: Lsn::new(100),
            acknowledged: Lsn::new(acknowledged),
            copies: 2,
            replicas: Vec::new(),
            oldest_unsafe: None,
            caught_up: at,
            complete_until: None,
            heard: at,
            last_commit: None,
            reach: Reach {
                unbroken: [(TimelineId::FIRST, Lsn::new(0))].into(),
                surely: true,
                uncompared: None,
            },
        }
    }

    #[test]
    fn idle_and_dead_do_not_look_alike() {
        let idle = state(100);
        let now = idle.heard.plus_millis(1_000);
        assert_eq!(idle.rpo_ms(now), 0);
        assert_eq!(idle.rpo_ms(idle.heard.plus_millis(60_000)), 60_000, "silent");
        let dead = WalState {
            connected: false,
            ..idle.clone()
        };
        assert_eq!(dead.rpo_ms(now), 1_000);
        let behind = WalState {
            server_flush: Lsn::new(101),
            ..idle.clone()
        };
        assert_eq!(behind.rpo_ms(now), 1_000);
        let unsafe_since = Some(now.plus_millis(-7_000));
        assert_eq!(
            WalState {
                oldest_unsafe: unsafe_since,
                ..idle
            }
            .rpo_ms(now),
            7_000
        );
    }

    #[tokio::test]
    async fn waiting_asks_for_the_tip() {
        let (publisher, frontier) = frontier();
        let waiter = tokio::spawn(async move {
            frontier
                .until_acknowledged(TimelineId::FIRST, Lsn::new(90), Duration::from_secs(10))
                .await
        });
        publisher.wanted.changed.notified().await;
        assert_eq!(publisher.wanted.highest(), Lsn::new(90));
        publisher.state.send_replace(Some(state(80)));
        publisher.state.send_replace(Some(state(95)));
        assert_eq!(waiter.await.unwrap().unwrap().acknowledged, Lsn::new(95));
    }

    #[tokio::test]
    async fn waiting_ends() {
        let (publisher, frontier) = frontier();
        let patience = Duration::from_millis(20);
        let wait = frontier.until_acknowledged(TimelineId::FIRST, Lsn::new(90), patience);
        assert!(matches!(
            wait.await,
            Err(NotAcknowledged::Deadline { at: None, .. })
        ));
        let later = TimelineId::new(2).unwrap();
        publisher.state.send_replace(Some(WalState {
            timeline: later,
            ..state(95)
        }));
        let wait = frontier.until_acknowledged(TimelineId::FIRST, Lsn::new(90), patience);
        assert!(matches!(wait.await, Err(NotAcknowledged::Timeline { .. })));
        drop(publisher);
        let wait = frontier.until_acknowledged(later, Lsn::new(99), patience);
        assert_eq!(wait.await, Err(NotAcknowledged::Ended));
    }
}
