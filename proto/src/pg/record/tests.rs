//! The reader against WAL that is composed here, byte by byte; the comparison
//! with PostgreSQL's own is in the suites.

use proptest::prelude::*;

use super::super::crc32c::crc32c;
use super::*;
use crate::pg::TransactionId;
use crate::time::Timestamp;

const SIZE: u64 = 1 << 20;
const SYSTEM: u64 = 77;

/// Writes records as the server does.
struct Composer {
    start: u64,
    bytes: Vec<u8>,
    prev: u64,
    timeline: u32,
    events: Vec<WalEvent>,
}

impl Composer {
    fn new(start: u64) -> Self {
        Self {
            start,
            bytes: Vec::new(),
            prev: 0,
            timeline: 3,
            events: Vec::new(),
        }
    }

    fn at(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn page(&mut self, flags: u16, remaining: u32) {
        let at = self.at();
        let first = at.is_multiple_of(SIZE);
        self.bytes.extend(0xD110u16.to_le_bytes());
        self.bytes
            .extend((flags | if first { 2 } else { 0 }).to_le_bytes());
        self.bytes.extend(self.timeline.to_le_bytes());
        self.bytes.extend(at.to_le_bytes());
        self.bytes.extend(u64::from(remaining).to_le_bytes());
        if first {
            self.bytes.extend(SYSTEM.to_le_bytes());
            self.bytes.extend((SIZE as u32).to_le_bytes());
            self.bytes.extend(8192u32.to_le_bytes());
        }
    }

    /// A record; returns its start and aligned end.
    fn record(&mut self, manager: u8, info: u8, xid: u32, body: &[u8]) -> (u64, u64) {
        if self.at().is_multiple_of(WAL_PAGE_SIZE) {
            self.page(0, 0);
        }
        let start = self.at();
        let mut record = (24 + body.len() as u32).to_le_bytes().to_vec();
        record.extend(xid.to_le_bytes());
        record.extend(self.prev.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        let crc = crc32c(&[body, &record].concat());
        record.extend(crc.to_le_bytes());
        record.extend(body);
        let mut rest = &record[..];
        while !rest.is_empty() {
            if self.at().is_multiple_of(WAL_PAGE_SIZE) {
                self.page(1, rest.len() as u32);
            }
            let room = (WAL_PAGE_SIZE - self.at() % WAL_PAGE_SIZE) as usize;
            let (now, later) = rest.split_at(rest.len().min(room));
            self.bytes.extend(now);
            rest = later;
        }
        while !self.at().is_multiple_of(8) {
            self.bytes.push(0);
        }
        self.prev = start;
        (start, self.at())
    }

    fn with_data(data: &[u8]) -> Vec<u8> {
        let mut body = match u8::try_from(data.len()) {
            Ok(short) => vec![255, short],
            Err(_) => [&[254][..], &(data.len() as u32).to_le_bytes()].concat(),
        };
        body.extend(data);
        body
    }

    fn commit(&mut self, xid: u32, micros: i64, more: usize) {
        let data = [&micros.to_le_bytes()[..], &vec![0xAB; more]].concat();
        let (start, end) = self.record(1, 0, xid, &Self::with_data(&data));
        self.events.push(WalEvent::Commit {
            xid: TransactionId::new(xid),
            time: Timestamp::from_pg_micros(micros),
            start: Lsn::new(start),
            end: Lsn::new(end),
        });
    }

    fn restore_point(&mut self, name: &str, micros: i64) {
        let mut data = micros.to_le_bytes().to_vec();
        data.extend(name.as_bytes());
        data.resize(72, 0);
        let (start, end) = self.record(0, 0x70, 0, &Self::with_data(&data));
        self.events.push(WalEvent::RestorePoint {
            name: name.into(),
            time: Timestamp::from_pg_micros(micros),
            start: Lsn::new(start),
            end: Lsn::new(end),
        });
    }

    fn filler(&mut self, bytes: usize) {
        self.record(10, 0, 9, &vec![0xCD; bytes]);
    }

    fn switch(&mut self) {
        self.record(0, 0x40, 0, &[]);
        let end = self.at().next_multiple_of(SIZE);
        self.bytes.resize((end - self.start) as usize, 0);
    }

    fn reader(&self) -> WalReader {
        reader_at(self.start)
    }
}

fn reader_at(start: u64) -> WalReader {
    let timeline = TimelineId::new(3).unwrap();
    WalReader::new(SegmentSize::new(SIZE).unwrap(), timeline, Lsn::new(start))
        .of_system(SystemId::new(SYSTEM))
}

fn read(reader: &mut WalReader, start: u64, bytes: &[u8]) -> Result<Vec<WalEvent>, BadWal> {
    let mut events = Vec::new();
    reader.feed(Lsn::new(start), bytes, &mut events).map(|()| events)
}

/// A log with everything in it, over two segments.
fn sample() -> Composer {
    let mut log = Composer::new(4 << 20);
    log.commit(5, 1_000, 0);
    log.filler(3);
    log.filler(8192 * 3 + 77);
    log.commit(6, 900, 20_000);
    log.restore_point("before the mistake", 1_100);
    // Records that end exactly at, and begin in the last eight bytes of, a page.
    for _ in 0..700 {
        log.filler(0);
    }
    let room = WAL_PAGE_SIZE - log.at() % WAL_PAGE_SIZE;
    log.filler(room as usize - 24);
    log.commit(7, 1_200, 1);
    log.switch();
    log.commit(8, 1_300, 300);
    log.record(1, 0x20, 9, &Composer::with_data(&1_400i64.to_le_bytes()));
    log
}

#[test]
fn finds_every_event_and_position() {
    let log = sample();
    let mut reader = log.reader();
    let events = read(&mut reader, log.start, &log.bytes).unwrap();
    assert_eq!(events[..events.len() - 1], log.events);
    let last = events.last().unwrap();
    assert!(matches!(last, WalEvent::Abort { xid, .. } if *xid == TransactionId::new(9)));
    assert_eq!(reader.last_record_start(), Some(last.start()));
    assert_eq!(reader.last_record_end(), Some(Lsn::new(log.at())));
    assert_eq!(reader.first_record_start(), Some(Lsn::new(log.start + 40)));
    assert_eq!(reader.major(), PgMajor::new(15));
    assert_eq!(reader.end_of_wal(), None);
}

#[test]
fn a_switch_record_reaches_to_the_end_of_its_segment() {
    let mut log = Composer::new(4 << 20);
    log.commit(5, 1, 0);
    log.switch();
    let mut reader = log.reader();
    read(&mut reader, log.start, &log.bytes).unwrap();
    assert_eq!(reader.last_record_end(), Some(Lsn::new(5 << 20)));
    assert_eq!(reader.position(), Lsn::new(5 << 20));
    assert_eq!(reader.end_of_wal(), None);
}

#[test]
fn starts_at_any_page_and_any_record_boundary() {
    let log = sample();
    let all = read(&mut log.reader(), log.start, &log.bytes).unwrap();
    let from = |at: u64, mut reader: WalReader| {
        let events = read(&mut reader, at, &log.bytes[(at - log.start) as usize..]).unwrap();
        let first = reader.first_record_start();
        let expected: Vec<_> = all
            .iter()
            .filter(|e| first.is_some_and(|f| e.start() >= f))
            .cloned()
            .collect();
        assert_eq!(events, expected, "from {at:X}");
        first
    };
    for at in (log.start..log.at()).step_by(8192) {
        from(at, reader_at(at));
        if at + 20 < log.at() {
            from(at + 20, reader_at(at + 20));
        }
    }
    for event in &all {
        assert_eq!(
            from(event.start().get(), reader_at(event.start().get())),
            Some(event.start())
        );
    }
    // Inside a record nothing can be made out before the next page.
    let inside = all[1].start().get() + 512;
    let size = SegmentSize::new(SIZE).unwrap();
    let first = from(
        inside,
        WalReader::seeking(size, TimelineId::new(3).unwrap(), Lsn::new(inside)),
    );
    assert_eq!(first, Some(all[2].start()));
}

#[test]
fn zeros_are_the_end_of_the_log_and_nothing_may_follow_them() {
    let log = sample();
    for cut in [log.bytes.len(), log.bytes.len() - 14] {
        let mut bytes = log.bytes[..cut].to_vec();
        let page_end = bytes.len().next_multiple_of(8192);
        if cut < log.bytes.len() {
            // Cut inside the last record: it cannot be told from damage.
            bytes.resize(page_end, 0);
            assert!(read(&mut log.reader(), log.start, &bytes).is_err());
            continue;
        }
        bytes.resize(page_end + 3 * 8192, 0);
        let mut reader = log.reader();
        read(&mut reader, log.start, &bytes).unwrap();
        assert_eq!(reader.end_of_wal(), Some(Lsn::new(log.at())));
        let at = reader.position().get();
        assert!(read(&mut reader, at, &[0, 0, 1]).is_err());
    }
    // Cut at a page inside a record: the log ends where the record begins.
    let mut log = Composer::new(4 << 20);
    log.commit(5, 1, 0);
    let begins = log.at();
    log.filler(20_000);
    log.bytes.truncate(8192);
    log.bytes.resize(SIZE as usize, 0);
    let mut reader = log.reader();
    assert_eq!(read(&mut reader, log.start, &log.bytes).unwrap().len(), 1);
    assert_eq!(reader.end_of_wal(), Some(Lsn::new(begins)));
}

#[test]
fn an_unfinished_record_may_be_replaced() {
    let mut log = Composer::new(4 << 20);
    log.commit(5, 1, 0);
    let lost = log.at();
    let prev = log.prev;
    log.filler(20_000);
    log.bytes.truncate(8192);
    log.prev = prev;
    log.page(8, 0);
    log.record(0, 0xD0, 0, &Composer::with_data(&[0; 16]));
    log.commit(6, 2, 0);
    let mut reader = log.reader();
    assert_eq!(read(&mut reader, log.start, &log.bytes).unwrap(), log.events);
    assert_eq!(reader.overwritten_record(), Some(Lsn::new(lost)));
}

#[test]
fn pages_of_other_logs_are_refused() {
    let log = sample();
    let refused = |reader: WalReader, bytes: &[u8]| {
        let mut reader = reader;
        let at = reader.position().get();
        let error = read(&mut reader, at, bytes).unwrap_err();
        assert_eq!(
            read(&mut reader, at, bytes).unwrap_err(),
            error,
            "an error is final"
        );
        error.to_string()
    };
    let size = SegmentSize::new(SIZE).unwrap();
    let young = WalReader::new(size, TimelineId::FIRST, Lsn::new(log.start));
    assert!(refused(young, &log.bytes).contains("timeline 3, not of 1"));
    let other = log.reader().of_system(SystemId::new(1));
    assert!(refused(other, &log.bytes).contains("system identifier 77"));
    assert!(refused(reader_at(5 << 20), &log.bytes).contains("address is 0/400000"));
    let mut back = log.bytes.clone();
    back[8192 + 4] = 2;
    assert!(refused(log.reader(), &back).contains("older than timeline 3"));
    let mut flags = log.bytes.clone();
    flags[8192 + 2] ^= 1;
    refused(log.reader(), &flags);

    let mut reader = log.reader();
    read(&mut reader, log.start, &log.bytes[..100]).unwrap();
    let error = read(&mut reader, log.start + 101, &log.bytes[101..]).unwrap_err();
    assert!(matches!(error, BadWal::NotContiguous { .. }));
    assert!(
        read(&mut reader, log.start + 100, &log.bytes[100..]).is_ok(),
        "the reader goes on where it was"
    );
}

#[test]
fn the_longest_commit_needs_no_more_memory_than_the_shortest() {
    let mut log = Composer::new(4 << 20);
    log.commit(5, 1, 3 << 20);
    let mut reader = log.reader();
    let mut events = Vec::new();
    for (n, piece) in log.bytes.chunks(8192).enumerate() {
        reader
            .feed(Lsn::new(log.start + n as u64 * 8192), piece, &mut events)
            .unwrap();
        if let State::Record(partial) = &reader.state {
            assert!(partial.kept.len() <= HEAD_CAP);
        }
    }
    assert_eq!(events, log.events);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pieces_of_any_size_say_the_same(cuts in proptest::collection::vec(1usize..9000, 1..40)) {
        let log = sample();
        let whole = read(&mut log.reader(), log.start, &log.bytes).unwrap();
        let mut reader = log.reader();
        let mut events = Vec::new();
        let mut done = 0;
        for cut in cuts.iter().cycle() {
            let piece = &log.bytes[done..(done + cut).min(log.bytes.len())];
            if piece.is_empty() {
                break;
            }
            reader.feed(Lsn::new(log.start + done as u64), piece, &mut events).unwrap();
            done += piece.len();
        }
        prop_assert_eq!(events, whole);
        prop_assert_eq!(reader.last_record_end(), Some(Lsn::new(log.at())));
    }

    /// Whatever byte of a record or page header is changed, nothing false is
    /// said: an error, or (in padding) the same events.
    #[test]
    fn damage_is_noticed(at in 0usize..60_000, flip in 1u8..) {
        let log = sample();
        let whole = read(&mut log.reader(), log.start, &log.bytes).unwrap();
        let mut bytes = log.bytes.clone();
        bytes[at] ^= flip;
        let mut reader = log.reader();
        let mut events = Vec::new();
        let result = reader.feed(Lsn::new(log.start), &bytes, &mut events);
        prop_assert!(whole.starts_with(&events));
        prop_assert!(result.is_err() || events == whole || reader.end_of_wal().is_some());
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        start in prop_oneof![Just(4u64 << 20), Just((4 << 20) + 8192), Just((4 << 20) + 4096), any::<u64>()],
        good in 0usize..40_000,
        bytes in proptest::collection::vec(any::<u8>(), 0..20_000),
    ) {
        let log = sample();
        let mut reader = log.reader();
        let _ = read(&mut reader, log.start, &log.bytes[..good]);
        let at = reader.position().get();
        let _ = read(&mut reader, at, &bytes);
        let _ = read(&mut reader_at(start), start, &bytes);
    }
}
