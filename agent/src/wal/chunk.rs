//! Cuts the stream of WAL into chunks and notes what is in each.
//!
//! A chunk never spans a segment and never exceeds [`MAX_CHUNK`]; when else it
//! ends (the tip interval has passed, a reader waits, the server shuts down) is
//! decided by the receiver, which calls [`Cutter::close`].
//!
//! The stream is read from the beginning of a segment, so that the reader of
//! records is in step whatever the position at which the archive ended; what
//! lies before that position is read and not stored again.
//!
//! WAL that the reader cannot make sense of is stored all the same: bytes that
//! the server sent are worth more than our understanding of them. The chunk
//! then knows fewer facts, and the caller is told.

use bytes::BytesMut;
use holdfast_proto::Timestamp;
use holdfast_proto::names::SystemId;
use holdfast_proto::pg::{BadWal, Lsn, SegmentSize, TimelineId, WalEvent, WalReader};
use holdfast_proto::record::{CommitMark, RestorePointMark};

use super::proof::TAIL;

/// The most WAL that one chunk holds.
pub const MAX_CHUNK: usize = 4 << 20;

/// What ended in a chunk: a fact belongs to the chunk that holds the last byte
/// of its record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChunkFacts {
    /// The first transaction's end.
    pub first_commit: Option<CommitMark>,
    /// The last transaction's end.
    pub last_commit: Option<CommitMark>,
    /// The earliest time among them.
    pub earliest_time: Option<Timestamp>,
    /// The latest time among them.
    pub latest_time: Option<Timestamp>,
    /// How many transactions ended.
    pub commits: u64,
    /// Restore points.
    pub restore_points: Vec<RestorePointMark>,
    /// Start of the last record that is complete at the chunk's end.
    pub last_record: Option<Lsn>,
}

impl ChunkFacts {
    fn note(&mut self, event: WalEvent) {
        match event {
            WalEvent::Commit { time, start, .. } | WalEvent::Abort { time, start, .. } => {
                let mark = CommitMark { lsn: start, time };
                self.first_commit.get_or_insert(mark);
                self.last_commit = Some(mark);
                self.earliest_time = Some(self.earliest_time.map_or(time, |t| t.min(time)));
                self.latest_time = Some(self.latest_time.map_or(time, |t| t.max(time)));
                self.commits += 1;
            }
            WalEvent::RestorePoint {
                name,
                time,
                start,
                end,
            } => {
                self.restore_points.push(RestorePointMark {
                    name,
                    lsn: start,
                    end,
                    time,
                });
            }
        }
    }
}

/// A finished chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The timeline it was streamed on.
    pub timeline: TimelineId,
    /// First byte.
    pub start: Lsn,
    /// First byte after it.
    pub end: Lsn,
    /// The WAL.
    pub bytes: BytesMut,
    /// What ended in it.
    pub facts: ChunkFacts,
}

/// Cuts one timeline's stream.
#[derive(Debug)]
pub struct Cutter {
    timeline: TimelineId,
    size: SegmentSize,
    system: SystemId,
    reader: WalReader,
    /// The next byte of the stream.
    position: Lsn,
    /// The first byte to store.
    from: Lsn,
    open: BytesMut,
    /// Bytes of the chunk before: the next one is likely to need as much, and
    /// growing into it by steps would copy it several times.
    before: usize,
    facts: ChunkFacts,
    /// The last bytes that were taken, up to a page.
    tail: Vec<u8>,
}

impl Cutter {
    /// Begins to store at `from`; the stream must begin at
    /// [`Cutter::position`], the start of the segment that holds `from`.
    pub fn new(timeline: TimelineId, size: SegmentSize, system: SystemId, from: Lsn) -> Self {
        let position = size.start_of(size.segment_of(from));
        Self {
            timeline,
            size,
            system,
            reader: WalReader::new(size, timeline, position).of_system(system),
            position,
            from,
            open: BytesMut::new(),
            before: 0,
            facts: ChunkFacts::default(),
            tail: Vec::new(),
        }
    }

    /// The next byte of the stream that is wanted.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Where the open chunk begins: everything before is in finished chunks.
    pub fn open_from(&self) -> Lsn {
        Lsn::new(self.received().get() - self.open.len() as u64)
    }

    /// How far WAL has come: everything before it is in chunks, or was stored
    /// before this cutter began.
    pub fn received(&self) -> Lsn {
        self.position.max(self.from)
    }

    /// Bytes in the open chunk.
    pub fn open_bytes(&self) -> usize {
        self.open.len()
    }

    /// Whether there is anything in the open chunk.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The earliest time of a transaction's end in the open chunk.
    pub fn earliest_open(&self) -> Option<Timestamp> {
        self.facts.earliest_time
    }

    /// Takes the bytes that follow in the stream, and returns the chunks that
    /// they complete. The second value says why the bytes could not be
    /// understood, when they could not: they are in the chunks all the same.
    pub fn take(&mut self, bytes: &[u8]) -> (Vec<Chunk>, Option<BadWal>) {
        self.remember(bytes);
        let mut chunks = Vec::new();
        let mut trouble = None;
        let mut rest = bytes;
        while !rest.is_empty() {
            let take = rest.len().min(self.room());
            let (now, later) = rest.split_at(take);
            rest = later;
            trouble = self.read(now).or(trouble);
            let skip = self.from.bytes_since(self.position).unwrap_or(0).min(take as u64);
            let now = &now[skip as usize..];
            if self.open.is_empty() && self.open.capacity() < self.before {
                self.open.reserve(self.before.max(now.len()));
            }
            self.open.extend_from_slice(now);
            self.position = Lsn::new(self.position.get() + take as u64);
            if self.room() == 0 || self.size.offset_of(self.position) == 0 {
                chunks.extend(self.close());
            }
        }
        (chunks, trouble)
    }

    fn remember(&mut self, bytes: &[u8]) {
        let new = &bytes[bytes.len().saturating_sub(TAIL)..];
        let spare = (self.tail.len() + new.len()).saturating_sub(TAIL);
        self.tail.drain(..spare);
        self.tail.extend_from_slice(new);
    }

    /// The last bytes that were taken, and where they begin; `None` before the first.
    pub fn tail(&self) -> Option<(Lsn, &[u8])> {
        let start = self.position.get() - self.tail.len() as u64;
        (!self.tail.is_empty()).then(|| (Lsn::new(start), &self.tail[..]))
    }

    /// Forgets the last bytes: there is nothing to compare them with.
    pub fn forget_tail(&mut self) {
        self.tail.clear();
    }

    /// How much more the open chunk takes. Never zero between two calls.
    fn room(&self) -> usize {
        let to_segment_end = self.size.get() - self.size.offset_of(self.position);
        (MAX_CHUNK - self.open.len()).min(usize::try_from(to_segment_end).unwrap_or(MAX_CHUNK))
    }

    fn read(&mut self, bytes: &[u8]) -> Option<BadWal> {
        let mut events = Vec::new();
        let outcome = self.reader.feed(self.position, bytes, &mut events);
        for event in events.into_iter().filter(|event| event.end() > self.from) {
            self.facts.note(event);
        }
        let trouble = outcome.err()?;
        // Into step again at the next page.
        let next = Lsn::new(self.position.get() + bytes.len() as u64);
        self.reader = WalReader::seeking(self.size, self.timeline, next).of_system(self.system);
        Some(trouble)
    }

    /// Ends the open chunk here; `None` when there is nothing in it.
    pub fn close(&mut self) -> Option<Chunk> {
        if self.open.is_empty() {
            return None;
        }
        let start = self.open_from();
        self.before = self.open.len();
        let mut facts = std::mem::take(&mut self.facts);
        facts.last_record = self
            .reader
            .last_record_start()
            .filter(|_| self.reader.last_record_end() > Some(start));
        Some(Chunk {
            timeline: self.timeline,
            start,
            end: self.position,
            bytes: self.open.split(),
            facts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cutter(from: u64) -> Cutter {
        let size = SegmentSize::new(1 << 20).unwrap();
        Cutter::new(TimelineId::FIRST, size, SystemId::new(7), Lsn::new(from))
    }

    #[test]
    fn stores_from_where_the_archive_ends() {
        let mut cutter = cutter(0x10_0000 + 100);
        assert_eq!(cutter.position(), Lsn::new(0x10_0000));
        assert_eq!(cutter.open_from(), Lsn::new(0x10_0000 + 100));
        let (chunks, _) = cutter.take(&[1; 60]);
        assert!(chunks.is_empty() && cutter.is_empty() && cutter.close().is_none());
        let (chunks, _) = cutter.take(&[2; 60]);
        assert!(chunks.is_empty());
        let chunk = cutter.close().unwrap();
        assert_eq!(
            (chunk.start, chunk.end),
            (Lsn::new(0x10_0000 + 100), Lsn::new(0x10_0000 + 120))
        );
        assert_eq!(&chunk.bytes[..], [2; 20]);
    }

    #[test]
    fn bytes_that_are_no_wal_are_stored_and_reported() {
        let mut cutter = cutter(0);
        let (_, trouble) = cutter.take(&[0xFF; 8192]);
        assert!(trouble.is_some());
        let chunk = cutter.close().unwrap();
        assert_eq!((chunk.bytes.len(), chunk.facts.last_record), (8192, None));
    }

    proptest! {
        #[test]
        fn chunks_join_up_and_stay_within_segments(
            from in 0u64..3 << 20,
            pieces in proptest::collection::vec((1usize..400_000, any::<bool>()), 1..12),
        ) {
            let mut cutter = cutter(from);
            let size = SegmentSize::new(1 << 20).unwrap();
            let begin = cutter.position();
            let mut stream = Vec::new();
            let mut stored = Vec::new();
            let mut next = Lsn::new(from);
            for (length, close) in pieces {
                let piece: Vec<u8> = (0..length).map(|n| ((stream.len() + n) % 251) as u8).collect();
                stream.extend_from_slice(&piece);
                let (mut chunks, _) = cutter.take(&piece);
                if close {
                    chunks.extend(cutter.close());
                }
                for chunk in chunks {
                    prop_assert_eq!(chunk.start, next);
                    prop_assert_eq!(chunk.end.bytes_since(chunk.start), Some(chunk.bytes.len() as u64));
                    prop_assert!(chunk.bytes.len() <= MAX_CHUNK);
                    prop_assert_eq!(size.segment_of(chunk.start), size.segment_of(Lsn::new(chunk.end.get() - 1)));
                    next = chunk.end;
                    stored.extend_from_slice(&chunk.bytes);
                }
            }
            stored.extend(cutter.close().into_iter().flat_map(|c| c.bytes));
            let skip = (from - begin.get()) as usize;
            prop_assert_eq!(stored, stream.get(skip..).unwrap_or(&[]));
        }
    }
}
