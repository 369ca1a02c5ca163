//! A segment's file: reads it in pieces, and says whether it is what its name says.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use holdfast_proto::names::SystemId;
use holdfast_proto::pg::{
    BadPage, BadWal, Lsn, PageHeader, SegmentNumber, SegmentSize, TimelineHistory, TimelineId, WAL_PAGE_SIZE,
    WalReader, validate_segment_header,
};
use tokio::task::spawn_blocking;

/// A file that ought to be one segment.
#[derive(Debug, Clone)]
pub(super) struct SegmentFile {
    file: Arc<File>,
    start: Lsn,
}

/// What a segment must be.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    /// The cluster.
    pub system: SystemId,
    /// The timeline in its name.
    pub timeline: TimelineId,
    /// Which.
    pub segment: SegmentNumber,
    /// Bytes of a segment.
    pub size: SegmentSize,
    /// The first byte that does not belong to the timeline any more: the segment's end,
    /// or where the timeline ended.
    pub until: Lsn,
    /// The past of the server's timeline.
    pub history: TimelineHistory,
}

/// Why a file is not the segment that its name says.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotThat {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it has {found} bytes, and a segment has {size}")]
    Size { found: u64, size: u64 },
    #[error("its first page is not the one that belongs there: {0}")]
    Header(BadPage),
    #[error("{0}")]
    Page(BadWal),
    #[error("it holds no WAL from {0} on: the segment was never finished")]
    Unfinished(Lsn),
    #[error("its pages are of timeline {found}, and its name is of timeline {named}")]
    Timeline { found: TimelineId, named: TimelineId },
    #[error("reading it failed: this is a defect, please report it")]
    Broken,
}

impl Expected {
    /// First byte of the segment.
    pub fn start(&self) -> Lsn {
        self.size.start_of(self.segment)
    }

    /// Whether the timeline began in this segment: its first pages are its parent's.
    fn begins_here(&self) -> bool {
        let begin = if self.timeline == self.history.timeline() {
            self.history.begin()
        } else {
            let ancestors = self.history.ancestors();
            let place = ancestors.iter().position(|s| s.timeline == self.timeline);
            place.and_then(|at| Some(ancestors.get(at.checked_sub(1)?)?.end))
        };
        begin.is_some_and(|begin| begin > self.start() && begin < self.size.end_of(self.segment))
    }
}

impl SegmentFile {
    /// `file` holds, or ought to hold, the segment that begins at `start`.
    pub fn new(file: File, start: Lsn) -> Self {
        Self {
            file: Arc::new(file),
            start,
        }
    }

    /// The bytes from `from` to `to`. Blocks.
    pub fn read(&self, from: Lsn, to: Lsn) -> io::Result<Vec<u8>> {
        let outside = || io::Error::from(io::ErrorKind::InvalidInput);
        let length = to.bytes_since(from).and_then(|n| usize::try_from(n).ok());
        let mut bytes = vec![0; length.ok_or_else(outside)?];
        let offset = from.bytes_since(self.start).ok_or_else(outside)?;
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Checks every page. What is returned says that a record in it is damaged, which is
    /// no reason to refuse the only copy there is.
    pub async fn check(&self, expected: Expected) -> Result<Option<BadWal>, NotThat> {
        let file = self.clone();
        let checked = spawn_blocking(move || file.check_now(&expected)).await;
        checked.unwrap_or(Err(NotThat::Broken))
    }

    fn check_now(&self, expected: &Expected) -> Result<Option<BadWal>, NotThat> {
        let (size, timeline) = (expected.size, expected.timeline);
        let found = self.file.metadata()?.len();
        if found != size.get() {
            return Err(NotThat::Size {
                found,
                size: size.get(),
            });
        }
        let first = self.read(self.start, Lsn::new(self.start.get() + WAL_PAGE_SIZE))?;
        let first = validate_segment_header(&first, timeline, expected.segment, expected.system, size)
            .map_err(NotThat::Header)?;
        let mut reader = WalReader::new(size, timeline, self.start).of_system(expected.system);
        let (mut damage, mut at) = (None, self.start);
        let mut events = Vec::new();
        while at < expected.until {
            let to = Lsn::new(at.get() + WAL_PAGE_SIZE).min(expected.until);
            let page = self.read(at, to)?;
            events.clear();
            match reader.feed(at, &page, &mut events) {
                Ok(()) => {}
                Err(error @ BadWal::Page { .. }) => return Err(NotThat::Page(error)),
                Err(error) => {
                    damage.get_or_insert(error);
                    reader = WalReader::seeking(size, timeline, to).of_system(expected.system);
                }
            }
            if let Some(end) = reader.end_of_wal() {
                return Err(NotThat::Unfinished(end));
            }
            at = to;
        }
        let last = reader.page_timeline().unwrap_or(first.timeline);
        for found in [first.timeline, last] {
            if found != timeline && !expected.begins_here() {
                return Err(NotThat::Timeline {
                    found,
                    named: timeline,
                });
            }
        }
        Ok(damage)
    }
}

/// The cluster that a segment's first page names; `None` when it is no segment's.
pub fn system_of(file: &File) -> Option<SystemId> {
    let mut page = [0; 40];
    file.read_exact_at(&mut page, 0).ok()?;
    let number = |at: usize| page[at..].first_chunk().map(|b| u64::from_le_bytes(*b));
    let size = u32::from_le_bytes(*page[32..].first_chunk()?);
    let size = SegmentSize::new(u64::from(size)).ok()?;
    let header = PageHeader::parse(&page, Lsn::new(number(8)?), size).ok()?;
    header.segment.map(|segment| segment.system)
}
