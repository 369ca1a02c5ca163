//! What the tasks of one WAL line share: the book of the ledger and the stream.
//!
//! One mutex, held for bookkeeping only, never across an await. Every change
//! moves the revision on, on which the tasks wait, and publishes the state.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_proto::Timestamp;
use holdfast_proto::finding::Severity;
use holdfast_proto::pg::{Lsn, SegmentSize, TimelineHistory, TimelineId};
use holdfast_proto::record::{FilestoreFrontier, ReplicaFrontier, WalChunkId};
use holdfast_repository::Replica;
use holdfast_repository::clock::now;
use holdfast_repository::publisher::Publisher;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::archive::Archive;
use super::known::Known;
use super::ledger::{Errand, Holdings, Ledger, SealedChunk};
use super::merge::Finished;
use super::sightings::{Sighting, Sightings};
use super::start::Place;
use super::state::{FrontierPublisher, Reach, SILENCE, WalState};
use super::valve::Position;
use crate::findings::Findings;

/// The most bytes of WAL and of its objects that are held in memory.
pub const MEMORY: usize = 32 << 20;

/// Where the stream is.
#[derive(Debug)]
struct Stream {
    segment_size: SegmentSize,
    connected: bool,
    server_flush: Lsn,
    received: Lsn,
    caught_up: Timestamp,
    heard: Timestamp,
    earliest_open: Option<Timestamp>,
    /// Whether WAL is pushed, and not streamed.
    pushed: bool,
    /// Where it is pushed, whether the server's `archive_mode` is off, so that none comes.
    withheld: bool,
    /// How the timelines before lead to an anchor.
    before: Option<Before>,
    /// From here on the WAL was not compared with what lies before it.
    uncompared: Option<(TimelineId, Lsn)>,
    /// Where the server's log was seen to end.
    sightings: Sightings,
    /// Everything committed by then, by the server's clock, is acknowledged.
    complete_until: Option<Timestamp>,
}

/// How the timelines before lead to the stream.
#[derive(Debug)]
struct Before {
    /// The anchor that it is of.
    anchor: Lsn,
    unbroken: Arc<[(TimelineId, Lsn)]>,
    /// Whether all replicas had been listed.
    surely: bool,
}

/// The server that is followed: it passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Followed {
    /// Its timeline.
    pub timeline: TimelineId,
    /// The history of that.
    pub history: TimelineHistory,
    /// Bytes of a WAL segment.
    pub segment_size: SegmentSize,
    /// PostgreSQL's version.
    pub version_num: u32,
}

#[derive(Debug)]
struct Book {
    ledger: Ledger,
    /// `None` until the first stream begins.
    stream: Option<Stream>,
    /// Bytes received that are not sealed yet.
    raw: usize,
    /// Chunks closed that are not sealed yet.
    sealing: usize,
    /// Segments whose objects may be merged.
    finished: Finished,
    known: Known,
}

/// What the tasks share.
pub(super) struct Shared {
    pub publisher: Publisher,
    pub archive: Archive,
    pub findings: Findings,
    pub replicas: Vec<Replica>,
    frontier: FrontierPublisher,
    book: Mutex<Book>,
    revision: watch::Sender<u64>,
    valve: watch::Sender<Position>,
    server: watch::Sender<Option<Arc<Followed>>>,
}

impl Shared {
    pub fn new(
        publisher: Publisher,
        archive: Archive,
        findings: Findings,
        replicas: Vec<Replica>,
        copies: usize,
        frontier: FrontierPublisher,
    ) -> Arc<Self> {
        let ledger = Ledger::new(replicas.iter().map(|r| r.region().clone()), copies);
        Arc::new(Self {
            publisher,
            archive,
            findings,
            replicas,
            frontier,
            book: Mutex::new(Book {
                ledger,
                stream: None,
                raw: 0,
                sealing: 0,
                finished: Finished::default(),
                known: Known::default(),
            }),
            revision: watch::channel(0).0,
            valve: watch::channel(Position::Shut).0,
            server: watch::channel(None).0,
        })
    }

    /// Changes of the book.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// How far the filestores are captured.
    pub fn captured(&self) -> Vec<FilestoreFrontier> {
        self.frontier.captured.all()
    }

    /// Resolves when somebody waits for WAL that may be in the open chunk.
    pub async fn wanted(&self) {
        self.frontier.wanted.changed.notified().await;
    }

    /// The highest position that anybody waited for.
    pub fn highest_wanted(&self) -> Lsn {
        self.frontier.wanted.highest()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing below leaves the book half changed, and nothing panics in it.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Book) -> T) -> T {
        let mut book = self.book();
        let outcome = change(&mut book);
        book.settle();
        let state = book.stream.as_ref().map(|stream| state_of(&book.ledger, stream));
        drop(book);
        self.revision.send_modify(|n| *n = n.wrapping_add(1));
        self.frontier.state.send_if_modified(|published| {
            let changed = *published != state;
            *published = state;
            changed
        });
        outcome
    }

    /// Looks at the ledger.
    pub fn ledger<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.book().ledger)
    }

    /// The state as it is published.
    pub fn state(&self) -> Option<WalState> {
        self.frontier.state.borrow().clone()
    }

    pub fn set_copies(&self, copies: usize) {
        self.change(|book| book.ledger.set_copies(copies));
    }

    /// How far the disk valve is open.
    pub fn valve(&self) -> Position {
        *self.valve.borrow()
    }

    pub fn set_valve(&self, position: Position) {
        let fewer = (position != Position::Shut).then_some(1);
        self.change(|book| book.ledger.let_go_at(fewer));
        self.valve.send_replace(position);
    }

    /// Resolves when the slot is given up (`true`) or is not (`false`).
    pub async fn until_given_up(&self, given_up: bool) {
        let is = |position: &Position| (*position == Position::GivenUp) == given_up;
        // The sender lives as long as this.
        let _ = self.valve.subscribe().wait_for(is).await;
    }

    pub fn listed(&self, place: usize, holdings: Holdings) {
        let server = self.server.borrow().clone();
        self.change(|book| {
            book.ledger.listed(place, holdings);
            // What it holds may lead further back than what was known at the connect.
            if let Some(server) = &server {
                book.look_back(server);
            }
        });
    }

    pub fn stored(&self, place: usize, timeline: TimelineId, intervals: &[(Lsn, Lsn)]) {
        self.change(|book| {
            for (start, end) in intervals {
                book.ledger.stored(place, timeline, *start, *end);
            }
        });
    }

    pub fn stored_history(&self, place: usize, timeline: TimelineId) {
        self.change(|book| book.ledger.stored_history(place, timeline));
    }

    /// What the courier of the replica at `place` does next, and the segment
    /// size once it is known. Before the first stream begins replicas are
    /// listed and nothing else.
    pub fn errand(&self, place: usize) -> (Errand, Option<SegmentSize>) {
        let book = self.book();
        let size = book.stream.as_ref().map(|stream| stream.segment_size);
        match book.ledger.errand(place) {
            Errand::List => (Errand::List, size),
            _ if size.is_none() => (Errand::Rest, None),
            errand => (errand, size),
        }
    }

    /// The server that is followed, as it changes; `None` while none is.
    pub fn server(&self) -> watch::Receiver<Option<Arc<Followed>>> {
        self.server.subscribe()
    }

    /// Notes which server is followed.
    pub fn follow(&self, server: Option<Followed>) {
        let server = server.map(Arc::new);
        if let Some(server) = &server {
            self.change(|book| book.look_back(server));
        }
        self.server.send_if_modified(|known| {
            let changed = *known != server;
            *known = server;
            changed
        });
    }

    /// Says that a promotion left WAL behind that is archived.
    pub fn say_left_behind(&self, fork: Lsn, archive: Lsn) {
        let detail = format!(
            "the server was promoted at {fork}, and the archive has WAL of the timeline before up to {archive}, or \
             further if the old primary went on since: what was committed there is not in the database. `holdfast \
             points` shows how far it goes, `restore plan` with --timeline restores it"
        );
        let subject = self.publisher.cluster.to_string();
        self.findings
            .raise(Severity::Warning, "wal-left-behind", subject, detail);
    }

    /// Resolves when every replica was listed, or at `until`. `false` when none was.
    pub async fn until_listed(&self, until: Instant) -> bool {
        let mut revision = self.revisions();
        let all = async {
            while !self.ledger(|ledger| ledger.unlisted().is_empty()) {
                if revision.changed().await.is_err() {
                    break;
                }
            }
        };
        timeout_at(until, all).await.is_ok() || self.ledger(|l| l.unlisted().len() < self.replicas.len())
    }

    /// Begins to count the WAL of `timeline` that is pushed from `place` on.
    pub fn begin_pushed(&self, timeline: TimelineId, place: Place, size: SegmentSize, server_flush: Lsn) {
        self.begin(timeline, place, size, server_flush);
        self.change(|book| {
            // What was committed after the last commit that is stored may be lost.
            let caught_up = book.ledger.last_commit();
            if let Some(stream) = book.stream.as_mut().filter(|s| !s.pushed) {
                stream.pushed = true;
                stream.caught_up = caught_up.unwrap_or(stream.caught_up);
            }
        });
    }

    /// Notes a look at a server whose WAL is pushed.
    pub fn sighted(&self, server_flush: Lsn, seen: Sighting) {
        self.change(|book| {
            if let Some(stream) = &mut book.stream {
                stream.heard = seen.at;
                stream.server_flush = server_flush;
                stream.sightings.note(seen);
            }
        });
    }

    /// How far the stream came.
    pub fn received(&self) -> Option<Lsn> {
        self.book().stream.as_ref().map(|stream| stream.received)
    }

    /// Notes a look at the server of a stream, made beside it. It counts only while the
    /// stream itself is heard of, and of a server that has what had been `received` before
    /// the look: another one may answer at the same address.
    pub fn seen_beside(&self, seen: Sighting, received: Option<Lsn>) {
        self.change(|book| {
            let current = book.stream.as_mut().filter(|stream| {
                let heard = stream.connected && now().millis_since(stream.heard) <= SILENCE;
                heard && received.is_some_and(|received| seen.position >= received)
            });
            if let Some(stream) = current {
                stream.sightings.note(seen);
            }
        });
    }

    /// Remembers by what WAL is known again.
    pub fn remember(&self, timeline: TimelineId, start: Lsn, end: Lsn, id: WalChunkId) {
        self.book().known.remember(timeline, start, end, id);
    }

    /// The chunks of exactly this WAL, when this process has stored all of it.
    pub fn known(&self, timeline: TimelineId, start: Lsn, end: Lsn) -> Option<Vec<(Lsn, Lsn, WalChunkId)>> {
        self.book().known.between(timeline, start, end)
    }

    /// Notes a transaction's end in WAL that was pushed and is acknowledged.
    pub fn note_commit(&self, at: Timestamp) {
        self.change(|book| book.ledger.note_commit(at));
    }

    /// Begins a stream of `timeline` at `place`.
    pub fn begin(&self, timeline: TimelineId, place: Place, size: SegmentSize, server_flush: Lsn) {
        let now = now();
        self.change(|book| {
            book.ledger.begin(timeline, place.anchor);
            let before = book.stream.take();
            let caught_up = before.as_ref().map_or(now, |stream| stream.caught_up);
            book.stream = Some(Stream {
                segment_size: size,
                connected: false,
                server_flush: server_flush.max(place.from),
                received: place.from,
                caught_up,
                heard: now,
                earliest_open: None,
                pushed: before.as_ref().is_some_and(|stream| stream.pushed),
                withheld: before.as_ref().is_some_and(|stream| stream.withheld),
                before: None,
                uncompared: before.as_ref().and_then(|stream| stream.uncompared),
                // What was seen of a stream's server says nothing of where the next begins.
                sightings: before
                    .filter(|stream| stream.pushed)
                    .map(|stream| stream.sightings)
                    .unwrap_or_default(),
                complete_until: None,
            });
        });
    }

    /// Notes whether the stream runs.
    pub fn connected(&self, connected: bool) {
        self.change(|book| {
            if let Some(stream) = &mut book.stream {
                stream.connected = connected;
            }
        });
    }

    /// Notes from where on the WAL was not compared with what lies before it.
    pub fn uncompared(&self, from: Option<(TimelineId, Lsn)>) {
        self.change(|book| {
            if let Some(stream) = &mut book.stream {
                stream.uncompared = from;
            }
        });
    }

    /// Notes whether a server whose WAL is pushed hands none over.
    pub fn withheld(&self, withheld: bool) {
        self.change(|book| {
            if let Some(stream) = &mut book.stream {
                stream.withheld = withheld;
            }
        });
    }

    /// Notes what was heard: the server's position, ours, and the earliest
    /// transaction's end in the open chunk.
    pub fn heard(&self, server_flush: Lsn, received: Lsn, earliest_open: Option<Timestamp>) {
        let now = now();
        self.change(|book| {
            if let Some(stream) = &mut book.stream {
                stream.heard = now;
                stream.server_flush = stream.server_flush.max(server_flush);
                stream.received = stream.received.max(received);
                stream.earliest_open = earliest_open;
                if stream.received >= stream.server_flush {
                    stream.caught_up = now;
                }
            }
        });
    }

    /// Takes note of bytes that now are in memory.
    pub fn hold(&self, bytes: usize) {
        self.book().raw += bytes;
    }

    /// A chunk that ends at `end` was closed, with transactions of these times.
    pub fn closed(&self, end: Lsn, earliest: Option<Timestamp>, latest: Option<Timestamp>) {
        self.change(|book| {
            book.sealing += 1;
            if let Some((earliest, latest)) = earliest.zip(latest) {
                book.ledger.push_commits(end, earliest, latest);
            }
            if let Some(stream) = &mut book.stream {
                stream.earliest_open = None;
            }
        });
    }

    /// A chunk of `raw` bytes was sealed.
    pub fn sealed(&self, raw: usize, chunk: SealedChunk) {
        self.change(|book| {
            book.raw = book.raw.saturating_sub(raw);
            book.sealing = book.sealing.saturating_sub(1);
            if let Some(size) = book.stream.as_ref().map(|stream| stream.segment_size) {
                let segment = size.segment_of(chunk.start);
                book.finished.note(chunk.timeline, segment, size.end_of(segment));
            }
            if let Some(id) = chunk.id {
                book.known.remember(chunk.timeline, chunk.start, chunk.end, id);
            }
            book.ledger.push(chunk);
        });
    }

    /// A finished segment whose objects are to be merged: its timeline, and its last
    /// byte.
    pub fn finished(&self) -> Option<(TimelineId, Lsn)> {
        let mut book = self.book();
        let (timeline, acknowledged) = (book.ledger.timeline(), book.ledger.acknowledged()?);
        book.finished.next(timeline, acknowledged)
    }

    /// Bytes of a segment, once a stream has begun.
    pub fn segment_size(&self) -> Option<SegmentSize> {
        self.book().stream.as_ref().map(|stream| stream.segment_size)
    }

    /// Chunks that are on their way to the first replica.
    pub fn in_flight(&self) -> usize {
        let book = self.book();
        book.sealing + book.ledger.undelivered()
    }

    /// Whether there is room in memory for more; what is let go of makes way.
    pub fn has_room(&self) -> bool {
        let mut book = self.book();
        loop {
            if book.raw + book.ledger.pending_bytes() < MEMORY {
                return true;
            }
            if book.ledger.evict().is_none() {
                return false;
            }
        }
    }
}

impl Book {
    /// Notes how the timelines before lead to the stream, where it is of `server`.
    fn look_back(&mut self, server: &Followed) {
        let ledger = &self.ledger;
        let of_it = |_: &&mut Stream| ledger.timeline() == server.timeline;
        if let Some(stream) = self.stream.as_mut().filter(of_it) {
            let unbroken = ledger.unbroken(&server.history, server.segment_size);
            stream.before = Some(Before {
                anchor: ledger.anchor(),
                unbroken: unbroken.into(),
                surely: ledger.unlisted().is_empty(),
            });
        }
    }

    /// Where WAL is pushed nothing lies between what is received and what is safe.
    fn settle(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let Some(acknowledged) = self
            .ledger
            .acknowledged()
            .or(stream.pushed.then_some(self.ledger.anchor()))
        else {
            return;
        };
        let safe = stream.sightings.safe_at(acknowledged);
        stream.complete_until = stream.complete_until.max(safe.map(|safe| safe.clock));
        if stream.pushed {
            stream.received = acknowledged;
            stream.caught_up = stream
                .caught_up
                .max(safe.map_or(stream.caught_up, |safe| safe.at));
        }
    }
}

fn state_of(ledger: &Ledger, stream: &Stream) -> WalState {
    let replicas = ledger.frontiers();
    let before = stream
        .before
        .as_ref()
        .filter(|before| before.anchor == ledger.anchor());
    let (unbroken, surely) = match before {
        Some(before) => (before.unbroken.clone(), before.surely),
        None => ([(ledger.timeline(), ledger.anchor())].into(), false),
    };
    WalState {
        connected: stream.connected,
        flows: stream.connected && !stream.withheld,
        streams: !stream.pushed,
        timeline: ledger.timeline(),
        server_flush: stream.server_flush,
        received: stream.received,
        reach: Reach {
            unbroken,
            surely,
            uncompared: stream.uncompared,
        },
        acknowledged: ledger.acknowledged().unwrap_or(ledger.anchor()),
        copies: u32::try_from(ledger.copies()).unwrap_or(u32::MAX),
        replicas: replicas
            .into_iter()
            .map(|(region, durable)| ReplicaFrontier { region, durable })
            .collect(),
        oldest_unsafe: ledger
            .oldest_unsafe()
            .into_iter()
            .chain(stream.earliest_open)
            .min(),
        caught_up: stream.caught_up,
        heard: stream.heard,
        complete_until: stream.complete_until,
        last_commit: ledger.last_commit(),
    }
}
