//! The headers of WAL pages and segments (`src/include/access/xlog_internal.h`).
//!
//! Reads and checks the header that every 8 KiB page of WAL begins with, and
//! answers the one question a segment must pass before PostgreSQL is given it:
//! is this the segment that was asked for, of this cluster? What is inside the
//! pages is the matter of [`super::record`](super::WalReader).

use super::{Lsn, SegmentNumber, SegmentSize, TimelineId};
use crate::names::SystemId;

/// The size of a WAL page: `XLOG_BLCKSZ` of every build that is packaged.
pub const WAL_PAGE_SIZE: u64 = 8192;

/// Bytes of the header of a page that is not a segment's first.
pub(super) const SHORT_HEADER: usize = 24;

/// Bytes of the header of a segment's first page.
pub(super) const LONG_HEADER: usize = 40;

const FIRST_IS_CONTRECORD: u16 = 0x0001;
const IS_LONG: u16 = 0x0002;
const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;
const ALL_FLAGS: u16 = 0x000F;

/// A major version of PostgreSQL whose WAL can be read: 14 to 18.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgMajor(u8);

impl PgMajor {
    /// The magic number of each major's WAL pages.
    const MAGIC: [(u16, u8); 5] = [
        (0xD10D, 14),
        (0xD110, 15),
        (0xD113, 16),
        (0xD116, 17),
        (0xD118, 18),
    ];

    /// From the major version number; `None` when it is not one of 14 to 18.
    pub fn new(major: u32) -> Option<Self> {
        Self::MAGIC
            .iter()
            .find(|(_, known)| u32::from(*known) == major)
            .map(|(_, known)| Self(*known))
    }

    /// From `server_version_num`, for example 150020.
    pub fn from_version_num(version: u32) -> Option<Self> {
        Self::new(version / 10_000)
    }

    /// From the magic number of a WAL page.
    pub fn from_wal_magic(magic: u16) -> Option<Self> {
        Self::MAGIC
            .iter()
            .find(|(known, _)| *known == magic)
            .map(|(_, major)| Self(*major))
    }

    /// The magic number of this major's WAL pages.
    pub fn wal_magic(self) -> u16 {
        Self::MAGIC
            .iter()
            .find(|(_, major)| *major == self.0)
            .map_or(0, |(magic, _)| *magic)
    }

    /// The number, for example 15.
    pub const fn get(self) -> u32 {
        self.0 as u32
    }
}

impl std::fmt::Display for PgMajor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

impl std::fmt::Debug for PgMajor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

/// Why bytes are not the page that was expected at a position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPage {
    /// No supported major writes this magic number.
    #[error("magic number {0:04X} is not that of PostgreSQL 14 to 18")]
    Magic(u16),
    /// The major changes in the middle of the log.
    #[error("the page is PostgreSQL {found}'s, the one before it is PostgreSQL {before}'s")]
    Major {
        /// What this page says.
        found: PgMajor,
        /// What the pages before it said.
        before: PgMajor,
    },
    /// Flags that no supported major sets, or a segment without long header.
    #[error("flags {0:04X} cannot be on this page")]
    Flags(u16),
    /// The page belongs elsewhere: a recycled segment, a wrong file.
    #[error("the page says that its address is {0}")]
    Address(Lsn),
    /// Timeline zero.
    #[error("the page has no timeline")]
    NoTimeline,
    /// A page of a timeline that cannot be in this history.
    #[error("the page is of timeline {found}, not of {limit} or an ancestor")]
    Timeline {
        /// What the page says.
        found: TimelineId,
        /// The timeline that was asked for.
        limit: TimelineId,
    },
    /// An older timeline after a newer one.
    #[error("the page is of timeline {found}, older than timeline {before} of the page before it")]
    TimelineGoesBack {
        /// What this page says.
        found: TimelineId,
        /// What the page before it said.
        before: TimelineId,
    },
    /// Another cluster's WAL.
    #[error("the segment is of the cluster with system identifier {found}, not {expected}")]
    System {
        /// What the segment says.
        found: SystemId,
        /// The cluster it was expected of.
        expected: SystemId,
    },
    /// Another segment size.
    #[error("the segment's header says segment size {0}")]
    SegmentSize(u32),
    /// A PostgreSQL built with another WAL page size.
    #[error("the segment's header says page size {0}, only 8192 is supported")]
    PageSize(u32),
    /// The header is cut off.
    #[error("only {0} bytes, too few for a page header")]
    Short(usize),
}

/// The header of one WAL page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// Whose format it is.
    pub major: PgMajor,
    /// The timeline of the first record on the page.
    pub timeline: TimelineId,
    /// The page's own position.
    pub address: Lsn,
    /// Bytes left of a record that began on an earlier page; zero when the page
    /// begins with a new record.
    pub remaining: u32,
    /// The page begins with a record that takes the place of one whose end was
    /// never written.
    pub overwrites: bool,
    /// What only a segment's first page says.
    pub segment: Option<SegmentIdentity>,
}

/// What the first page of a segment says about its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentIdentity {
    /// The cluster's system identifier.
    pub system: SystemId,
    /// Bytes per segment.
    pub segment_size: u32,
    /// Bytes per WAL page.
    pub page_size: u32,
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}

impl PageHeader {
    /// How many bytes the header has whose first bytes are these: 24 or 40.
    pub(super) fn size_of(start: &[u8]) -> usize {
        match u16_at(start, 2) {
            Some(flags) if flags & IS_LONG != 0 => LONG_HEADER,
            _ => SHORT_HEADER,
        }
    }

    /// Bytes of this header.
    pub const fn size(&self) -> usize {
        if self.segment.is_some() {
            LONG_HEADER
        } else {
            SHORT_HEADER
        }
    }

    /// Reads the header of the page at `at`.
    ///
    /// # Errors
    /// Anything for which PostgreSQL's `XLogReaderValidatePageHeader` refuses a
    /// page, apart from the comparison with the page before it.
    pub fn parse(bytes: &[u8], at: Lsn, size: SegmentSize) -> Result<Self, BadPage> {
        let short = || BadPage::Short(bytes.len());
        let magic = u16_at(bytes, 0).ok_or_else(short)?;
        let flags = u16_at(bytes, 2).ok_or_else(short)?;
        let timeline = u32_at(bytes, 4).ok_or_else(short)?;
        let address = u64_at(bytes, 8).ok_or_else(short)?;
        let remaining = u32_at(bytes, 16).ok_or_else(short)?;

        let major = PgMajor::from_wal_magic(magic).ok_or(BadPage::Magic(magic))?;
        let first = size.offset_of(at) == 0;
        if flags & !ALL_FLAGS != 0 || first != (flags & IS_LONG != 0) {
            return Err(BadPage::Flags(flags));
        }
        let continues = flags & FIRST_IS_CONTRECORD != 0;
        if continues != (remaining != 0) {
            return Err(BadPage::Flags(flags));
        }
        let segment = if first {
            let segment = SegmentIdentity {
                system: SystemId::new(u64_at(bytes, 24).ok_or_else(short)?),
                segment_size: u32_at(bytes, 32).ok_or_else(short)?,
                page_size: u32_at(bytes, 36).ok_or_else(short)?,
            };
            if u64::from(segment.segment_size) != size.get() {
                return Err(BadPage::SegmentSize(segment.segment_size));
            }
            if u64::from(segment.page_size) != WAL_PAGE_SIZE {
                return Err(BadPage::PageSize(segment.page_size));
            }
            Some(segment)
        } else {
            None
        };
        if address != at.get() {
            return Err(BadPage::Address(Lsn::new(address)));
        }
        Ok(Self {
            major,
            timeline: TimelineId::new(timeline).ok_or(BadPage::NoTimeline)?,
            address: at,
            remaining,
            overwrites: flags & FIRST_IS_OVERWRITE_CONTRECORD != 0,
            segment,
        })
    }
}

/// Checks that `bytes` begin as segment `segment` of cluster `system` does, on
/// `timeline` or one of its ancestors, and returns the header.
///
/// The first page of a segment may carry an older timeline than the segment's
/// name: a promotion copies the part of the segment that was written before it.
///
/// # Errors
/// The bytes are another segment, of another cluster, or no WAL at all.
pub fn validate_segment_header(
    bytes: &[u8],
    timeline: TimelineId,
    segment: SegmentNumber,
    system: SystemId,
    size: SegmentSize,
) -> Result<PageHeader, BadPage> {
    let header = PageHeader::parse(bytes, size.start_of(segment), size)?;
    if let Some(identity) = header.segment
        && identity.system != system
    {
        return Err(BadPage::System {
            found: identity.system,
            expected: system,
        });
    }
    if header.timeline > timeline {
        return Err(BadPage::Timeline {
            found: header.timeline,
            limit: timeline,
        });
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn first_page(magic: u16, timeline: u32, address: u64, system: u64, size: u32) -> Vec<u8> {
        let mut page = Vec::new();
        page.extend(magic.to_le_bytes());
        page.extend(IS_LONG.to_le_bytes());
        page.extend(timeline.to_le_bytes());
        page.extend(address.to_le_bytes());
        page.extend(0u64.to_le_bytes());
        page.extend(system.to_le_bytes());
        page.extend(size.to_le_bytes());
        page.extend(8192u32.to_le_bytes());
        page
    }

    #[test]
    fn a_segment_is_the_one_asked_for_or_refused() {
        let size = SegmentSize::new(1 << 20).unwrap();
        let check = |page: &[u8]| {
            let timeline = TimelineId::new(3).unwrap();
            validate_segment_header(page, timeline, SegmentNumber::new(5), SystemId::new(77), size)
        };
        for magic in [0xD10D, 0xD110, 0xD113, 0xD116, 0xD118] {
            assert!(check(&first_page(magic, 3, 5 << 20, 77, 1 << 20)).is_ok());
        }
        let older = check(&first_page(0xD110, 1, 5 << 20, 77, 1 << 20)).unwrap();
        assert_eq!((older.timeline, older.major.get()), (TimelineId::FIRST, 15));

        let bad = |page: Vec<u8>| check(&page).unwrap_err().to_string();
        assert_eq!(
            bad(vec![0; 8192]),
            "magic number 0000 is not that of PostgreSQL 14 to 18"
        );
        assert!(bad(first_page(0xD110, 4, 5 << 20, 77, 1 << 20)).contains("timeline 4, not of 3"));
        assert!(bad(first_page(0xD110, 0, 5 << 20, 77, 1 << 20)).contains("no timeline"));
        assert!(bad(first_page(0xD110, 3, 6 << 20, 77, 1 << 20)).contains("address is 0/600000"));
        assert!(bad(first_page(0xD110, 3, 5 << 20, 78, 1 << 20)).contains("identifier 78, not 77"));
        assert!(bad(first_page(0xD110, 3, 5 << 20, 77, 1 << 24)).contains("segment size 16777216"));
        assert!(bad(first_page(0xD110, 3, 5 << 20, 77, 1 << 20)[..39].to_vec()).contains("39 bytes"));
        let mut short = first_page(0xD110, 3, 5 << 20, 77, 1 << 20);
        short[2] = 0;
        assert!(bad(short).contains("flags 0000"));
    }

    #[test]
    fn majors_and_their_magic_agree() {
        for major in 14..=18 {
            let major = PgMajor::new(major).unwrap();
            assert_eq!(PgMajor::from_wal_magic(major.wal_magic()), Some(major));
            assert_eq!(PgMajor::from_version_num(major.get() * 10_000 + 7), Some(major));
        }
        assert_eq!((PgMajor::new(13), PgMajor::new(19)), (None, None));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..48), at in any::<u64>()) {
            let _ = PageHeader::parse(&bytes, Lsn::new(at), SegmentSize::new(1 << 20).unwrap());
        }
    }
}
