//! Reads the write-ahead log as it streams by, record by record.
//!
//! A [`WalReader`] is fed consecutive bytes of WAL, in pieces of any size, and
//! answers with what recovery can be aimed at: commits, aborts and restore
//! points with their time and position. On the way it verifies everything that
//! PostgreSQL's own reader (`xlogreader.c`) verifies: page headers, addresses
//! and timelines, the chain of previous-record pointers, lengths, the CRC of
//! each record. It performs no IO and keeps no more of a record than its facts
//! need: a few kilobytes, or up to [`PREPARED_CAP`] for the end of a prepared
//! transaction.
//!
//! It does not replay, does not know which blocks a record touches, and does not
//! guess: WAL that PostgreSQL would not replay is an error, and the reader stays
//! at that error. Two things are no errors. Zeros where a page or a record would
//! begin, after at least one record, are the end of the log
//! ([`WalReader::end_of_wal`]): the padding of a segment that was not finished. And the unfinished record of
//! a crash is dropped when the server says that another took its place.
//!
//! A reader may start at the beginning of a page or at the boundary of a record.
//! At a page that begins with the end of a record, that end is passed over
//! unverified. Anything else is a position inside a record, from which nothing
//! can be made out before the next page: [`WalReader::seeking`].
//! [`WalReader::first_record_start`] says from where on the answers are complete.

use super::crc32c::Crc32c;
use super::decode::{self, Fact, Interest, RECORD_HEADER, RecordHeader};
use super::event::{BadWal, WalEvent};
use super::page::{BadPage, LONG_HEADER, PageHeader, PgMajor, SHORT_HEADER, WAL_PAGE_SIZE};
use super::{Lsn, SegmentSize, TimelineId};
use crate::names::SystemId;

/// Bytes kept of the record of a prepared transaction's end: room for four
/// million subtransactions before its transaction number stays unknown.
pub const PREPARED_CAP: usize = 16 << 20;

/// Bytes kept of other interesting records: their headers and first facts.
const HEAD_CAP: usize = 1 << 10;

/// No record is longer (`XLogRecordMaxSize` is a little less).
const RECORD_CAP: u32 = 1 << 30;

#[derive(Debug)]
enum State {
    /// Inside a record of which nothing is known, or before the first page.
    Seeking,
    /// A record may begin here, or at the next alignment, or after a page header.
    Boundary,
    /// In the rest of a record whose beginning was not seen.
    Tail(u32),
    /// In a record.
    Record(Box<Partial>),
    /// Behind the record that ends its segment.
    Padding,
    /// Behind the end of the log: only zeros may follow.
    Ended,
    /// At an error, for good.
    Failed(BadWal),
}

/// The record under way.
#[derive(Debug)]
struct Partial {
    start: Lsn,
    head: [u8; RECORD_HEADER],
    have: u32,
    total: u32,
    parsed: Option<RecordHeader>,
    crc: Crc32c,
    cap: usize,
    kept: Vec<u8>,
}

/// Reads consecutive WAL; see the module's text.
#[derive(Debug)]
pub struct WalReader {
    size: SegmentSize,
    timeline: TimelineId,
    system: Option<SystemId>,
    at: u64,
    header: [u8; LONG_HEADER],
    header_have: usize,
    in_header: bool,
    state: State,
    major: Option<PgMajor>,
    page_timeline: Option<TimelineId>,
    first: Option<Lsn>,
    last: Option<(Lsn, Lsn)>,
    ended: Option<Lsn>,
    overwritten: Option<Lsn>,
}

impl WalReader {
    /// A reader whose first byte will be that at `start`: the beginning of a
    /// page, or a record boundary such as [`WalReader::last_record_end`] of
    /// another reader. Any other position is treated as by
    /// [`WalReader::seeking`] when it is not aligned, and is found to be damage
    /// when it is. Pages may belong to `timeline` or its ancestors.
    pub fn new(size: SegmentSize, timeline: TimelineId, start: Lsn) -> Self {
        let header = if size.offset_of(start) < WAL_PAGE_SIZE {
            LONG_HEADER
        } else {
            SHORT_HEADER
        };
        let behind_header = start.get() % WAL_PAGE_SIZE >= header as u64;
        let mut reader = Self::seeking(size, timeline, start);
        if behind_header && start.get().is_multiple_of(8) {
            reader.state = State::Boundary;
        }
        reader
    }

    /// A reader that may start anywhere, also inside a record: unless `start` is
    /// the beginning of a page, everything before the next one is passed over.
    pub fn seeking(size: SegmentSize, timeline: TimelineId, start: Lsn) -> Self {
        Self {
            size,
            timeline,
            system: None,
            at: start.get(),
            header: [0; LONG_HEADER],
            header_have: 0,
            in_header: start.get().is_multiple_of(WAL_PAGE_SIZE),
            state: State::Seeking,
            major: None,
            page_timeline: None,
            first: None,
            last: None,
            ended: None,
            overwritten: None,
        }
    }

    /// Also refuses the segments of any other cluster.
    #[must_use]
    pub fn of_system(mut self, system: SystemId) -> Self {
        self.system = Some(system);
        self
    }

    /// Also refuses the pages of any other major. A reader that starts in the
    /// middle of a page does not know the major of its records before the next
    /// page; some prepared transactions then end without a number.
    #[must_use]
    pub fn of_major(mut self, major: PgMajor) -> Self {
        self.major = Some(major);
        self
    }

    /// The position of the byte to be fed next.
    pub const fn position(&self) -> Lsn {
        Lsn::new(self.at)
    }

    /// Where the first record begins that was read from its beginning.
    pub const fn first_record_start(&self) -> Option<Lsn> {
        self.first
    }

    /// Where the last complete record begins.
    pub fn last_record_start(&self) -> Option<Lsn> {
        self.last.map(|(start, _)| start)
    }

    /// Where the last complete record ends, aligned as PostgreSQL reports it;
    /// the end of the segment for the record that closes one.
    pub fn last_record_end(&self) -> Option<Lsn> {
        self.last.map(|(_, end)| end)
    }

    /// Where zeros were found in the place of a record, if they were.
    pub const fn end_of_wal(&self) -> Option<Lsn> {
        self.ended
    }

    /// The last record that a crash left unfinished and another replaced.
    pub const fn overwritten_record(&self) -> Option<Lsn> {
        self.overwritten
    }

    /// Whose format the pages are.
    pub const fn major(&self) -> Option<PgMajor> {
        self.major
    }

    /// The timeline that the last page was written on.
    pub const fn page_timeline(&self) -> Option<TimelineId> {
        self.page_timeline
    }

    /// Reads the next bytes, the first of which is at `at`, and appends what they
    /// complete to `events`.
    ///
    /// # Errors
    /// The bytes do not follow the last ones, or are not valid WAL. An error of
    /// the second kind is final and repeated from then on; what was appended
    /// before it is true.
    pub fn feed(&mut self, at: Lsn, bytes: &[u8], events: &mut Vec<WalEvent>) -> Result<(), BadWal> {
        if let State::Failed(error) = &self.state {
            return Err(error.clone());
        }
        if at != self.position() {
            return Err(BadWal::NotContiguous {
                expected: self.position(),
                got: at,
            });
        }
        if self.at.checked_add(bytes.len() as u64).is_none() {
            return Err(self.record_error(self.at, "the log cannot reach this far"));
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self.step(rest, events).inspect_err(|error| {
                self.state = State::Failed(error.clone());
            })?;
            self.at += taken as u64;
            rest = &rest[taken..];
        }
        Ok(())
    }

    /// Takes at least one byte and at most the rest of the page.
    fn step(&mut self, bytes: &[u8], events: &mut Vec<WalEvent>) -> Result<usize, BadWal> {
        let to_page_end = (WAL_PAGE_SIZE - self.at % WAL_PAGE_SIZE) as usize;
        let bytes = &bytes[..bytes.len().min(to_page_end)];
        match self.state {
            State::Ended => {
                if let Some(n) = bytes.iter().position(|b| *b != 0) {
                    let at = self.at + n as u64;
                    return Err(self.record_error(at, "bytes follow the end of the log"));
                }
                return Ok(bytes.len());
            }
            State::Padding => {
                let to_segment_end = self.size.get() - self.at % self.size.get();
                if to_segment_end == bytes.len() as u64 {
                    self.state = State::Boundary;
                    self.in_header = true;
                }
                return Ok(bytes.len());
            }
            _ => {}
        }
        if self.in_header {
            return self.take_header(bytes);
        }
        let taken = match &mut self.state {
            State::Seeking => bytes.len(),
            State::Tail(remaining) => {
                let taken = bytes.len().min(*remaining as usize);
                *remaining -= taken as u32;
                if *remaining == 0 {
                    self.state = State::Boundary;
                }
                taken
            }
            State::Boundary => match self.at % 8 {
                0 => {
                    self.state = State::Record(Box::new(Partial::at(Lsn::new(self.at))));
                    return self.take_record(bytes, events);
                }
                past => bytes.len().min(8 - past as usize),
            },
            _ => return self.take_record(bytes, events),
        };
        self.at_page_end(taken, to_page_end);
        Ok(taken)
    }

    fn at_page_end(&mut self, taken: usize, to_page_end: usize) {
        if taken == to_page_end && !matches!(self.state, State::Padding | State::Ended) {
            self.in_header = true;
        }
    }

    fn record_error(&self, at: u64, why: &'static str) -> BadWal {
        BadWal::Record {
            at: Lsn::new(at),
            why,
        }
    }

    /// Collects a page's header and, when it is complete, follows it.
    fn take_header(&mut self, bytes: &[u8]) -> Result<usize, BadWal> {
        let mut taken = 0;
        let mut wanted = SHORT_HEADER;
        for byte in bytes {
            if self.header_have >= SHORT_HEADER {
                wanted = PageHeader::size_of(&self.header);
            }
            if self.header_have == wanted {
                break;
            }
            self.header[self.header_have] = *byte;
            self.header_have += 1;
            taken += 1;
        }
        if self.header_have >= SHORT_HEADER {
            wanted = PageHeader::size_of(&self.header);
        }
        if self.header_have < wanted {
            return Ok(taken);
        }
        let have = std::mem::take(&mut self.header_have);
        self.in_header = false;
        let page = self.at - self.at % WAL_PAGE_SIZE;
        let header = self.header;
        self.enter_page(Lsn::new(page), &header[..have])?;
        Ok(taken)
    }

    fn enter_page(&mut self, page: Lsn, header: &[u8]) -> Result<(), BadWal> {
        if header.iter().all(|b| *b == 0) {
            match &self.state {
                State::Record(partial) => self.end_at(partial.start),
                _ => self.zeros_at(page),
            }
            return Ok(());
        }
        let bad = |why| BadWal::Page { at: page, why };
        let header = PageHeader::parse(header, page, self.size).map_err(bad)?;
        self.check_page(&header).map_err(bad)?;
        let begins_with = |why| BadWal::Record { at: page, why };
        self.state = match std::mem::replace(&mut self.state, State::Boundary) {
            State::Seeking if header.remaining > 0 => State::Tail(header.remaining),
            State::Seeking => State::Boundary,
            State::Boundary if header.remaining == 0 => State::Boundary,
            State::Boundary => return Err(begins_with("the page continues a record that had ended")),
            State::Tail(_) | State::Record(_) if header.overwrites && header.remaining != 0 => {
                return Err(begins_with("the page both continues and replaces a record"));
            }
            State::Tail(_) if header.overwrites => State::Boundary,
            State::Record(partial) if header.overwrites => {
                self.overwritten = Some(partial.start);
                State::Boundary
            }
            State::Tail(remaining) if remaining == header.remaining => State::Tail(remaining),
            State::Record(partial) if partial.remaining() == header.remaining => State::Record(partial),
            _ => return Err(begins_with("the page does not continue the record before it")),
        };
        Ok(())
    }

    /// Zeros stand where a page or a record would begin. After a record they are
    /// the end of the log. Before the first one they may as well be what follows
    /// the record that closed the segment: the next page tells.
    fn zeros_at(&mut self, at: Lsn) {
        if self.first.is_some() {
            self.end_at(at);
        } else {
            self.state = State::Seeking;
        }
    }

    fn end_at(&mut self, at: Lsn) {
        self.ended = Some(at);
        self.state = State::Ended;
    }

    /// What ties a page to the pages before it.
    fn check_page(&mut self, header: &PageHeader) -> Result<(), BadPage> {
        if let Some(before) = self.major
            && before != header.major
        {
            return Err(BadPage::Major {
                found: header.major,
                before,
            });
        }
        if header.timeline > self.timeline {
            return Err(BadPage::Timeline {
                found: header.timeline,
                limit: self.timeline,
            });
        }
        if let Some(before) = self.page_timeline
            && header.timeline < before
        {
            return Err(BadPage::TimelineGoesBack {
                found: header.timeline,
                before,
            });
        }
        if let (Some(expected), Some(segment)) = (self.system, header.segment)
            && segment.system != expected
        {
            return Err(BadPage::System {
                found: segment.system,
                expected,
            });
        }
        self.major = Some(header.major);
        self.page_timeline = Some(header.timeline);
        Ok(())
    }

    /// Takes what belongs to the record under way.
    fn take_record(&mut self, bytes: &[u8], events: &mut Vec<WalEvent>) -> Result<usize, BadWal> {
        let to_page_end = (WAL_PAGE_SIZE - self.at % WAL_PAGE_SIZE) as usize;
        let State::Record(partial) = &mut self.state else {
            return Ok(bytes.len());
        };
        let start = partial.start;
        let bad = |why| BadWal::Record { at: start, why };

        if partial.parsed.is_none() {
            let taken = partial.take_head(bytes);
            if partial.have >= 4 && partial.total == 0 {
                match partial.length() {
                    // What follows must be zeros too, and is looked at as such.
                    0 => {
                        let beyond = partial.have - 4;
                        self.zeros_at(start);
                        return Ok(taken - beyond as usize);
                    }
                    length if (RECORD_HEADER as u32..=RECORD_CAP).contains(&length) => partial.total = length,
                    _ => return Err(bad("its length is impossible")),
                }
            }
            if partial.have as usize == RECORD_HEADER {
                let header = RecordHeader::parse(&partial.head);
                match self.last {
                    Some((last, _)) if header.prev != last.get() => {
                        return Err(bad("it does not point back to the record before it"));
                    }
                    None if header.prev >= start.get() => {
                        return Err(bad("it points back to a record after it"));
                    }
                    _ => {}
                }
                partial.cap = match header.interest() {
                    Interest::None | Interest::Switch => 0,
                    Interest::Head => HEAD_CAP,
                    Interest::Whole => PREPARED_CAP,
                };
                partial.parsed = Some(header);
                self.first.get_or_insert(start);
                if partial.remaining() == 0 {
                    self.complete(self.at + taken as u64, events)?;
                }
            }
            self.at_page_end(taken, to_page_end);
            return Ok(taken);
        }

        let taken = bytes.len().min(partial.remaining() as usize);
        partial.take_body(&bytes[..taken]);
        if partial.remaining() == 0 {
            self.complete(self.at + taken as u64, events)?;
        }
        self.at_page_end(taken, to_page_end);
        Ok(taken)
    }

    /// Verifies the complete record, which ends before `end`, and reads its fact.
    fn complete(&mut self, end: u64, events: &mut Vec<WalEvent>) -> Result<(), BadWal> {
        let State::Record(partial) = std::mem::replace(&mut self.state, State::Boundary) else {
            return Ok(());
        };
        let start = partial.start;
        let bad = |why| BadWal::Record { at: start, why };
        let header = partial.verified().map_err(bad)?;
        let mut end = Lsn::new(
            end.checked_next_multiple_of(8)
                .ok_or_else(|| bad("the log ends here"))?,
        );
        let interest = header.interest();
        if interest == Interest::Switch {
            let past = self.size.offset_of(end);
            if past != 0 {
                self.state = State::Padding;
                end = end
                    .checked_add(self.size.get() - past)
                    .ok_or_else(|| bad("the log ends here"))?;
            }
        }
        self.last = Some((start, end));
        if matches!(interest, Interest::None | Interest::Switch) {
            return Ok(());
        }
        events.extend(
            decode::fact(&header, &partial.kept, self.major)
                .map_err(bad)?
                .map(|fact| match fact {
                    Fact::Commit { xid, time } => WalEvent::Commit {
                        xid,
                        time,
                        start,
                        end,
                    },
                    Fact::Abort { xid, time } => WalEvent::Abort {
                        xid,
                        time,
                        start,
                        end,
                    },
                    Fact::RestorePoint { name, time } => WalEvent::RestorePoint {
                        name,
                        time,
                        start,
                        end,
                    },
                }),
        );
        Ok(())
    }
}

impl Partial {
    fn at(start: Lsn) -> Self {
        Self {
            start,
            head: [0; RECORD_HEADER],
            have: 0,
            total: 0,
            parsed: None,
            crc: Crc32c::new(),
            cap: 0,
            kept: Vec::new(),
        }
    }

    /// `xl_tot_len`, once its four bytes are there.
    const fn length(&self) -> u32 {
        u32::from_le_bytes([self.head[0], self.head[1], self.head[2], self.head[3]])
    }

    const fn remaining(&self) -> u32 {
        self.total.saturating_sub(self.have)
    }

    fn take_head(&mut self, bytes: &[u8]) -> usize {
        let have = self.have as usize;
        let taken = bytes.len().min(RECORD_HEADER - have);
        self.head[have..have + taken].copy_from_slice(&bytes[..taken]);
        self.have += taken as u32;
        taken
    }

    fn take_body(&mut self, bytes: &[u8]) {
        self.have += bytes.len() as u32;
        self.crc.update(bytes);
        let room = self.cap - self.kept.len().min(self.cap);
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// The record's header, once its checksum (over the body first, then the
    /// header without the checksum itself) was found right.
    fn verified(&self) -> Result<RecordHeader, &'static str> {
        let header = self.parsed.ok_or("its header is missing")?;
        let mut crc = self.crc;
        crc.update(&self.head[..RECORD_HEADER - 4]);
        if crc.finish() == header.crc {
            Ok(header)
        } else {
            Err("its checksum is wrong")
        }
    }
}

#[cfg(test)]
mod tests;
