//! What is inside one WAL record (`src/include/access/xlogrecord.h`, `xact.h`).
//!
//! Finds a record's main data behind its block headers, and in it the few facts
//! that recovery targets are made of: when a transaction ended and which, and
//! the name of a restore point. Works on a record's bytes after its checksum was
//! verified, and still believes no length it finds in them.

use std::num::NonZeroU32;

use super::page::{PgMajor, u16_at, u32_at, u64_at};
use crate::time::Timestamp;

/// Bytes of the fixed header of a record.
pub(super) const RECORD_HEADER: usize = 24;

/// `RM_XLOG_ID` and `RM_XACT_ID` of `rmgrlist.h`.
const RM_XLOG: u8 = 0;
const RM_XACT: u8 = 1;

const XLOG_SWITCH: u8 = 0x40;
const XLOG_RESTORE_POINT: u8 = 0x70;

const XACT_COMMIT: u8 = 0x00;
const XACT_ABORT: u8 = 0x20;
const XACT_COMMIT_PREPARED: u8 = 0x30;
const XACT_ABORT_PREPARED: u8 = 0x40;
const XACT_OPERATION: u8 = 0x70;
const XACT_HAS_INFO: u8 = 0x80;

const XINFO_DBINFO: u32 = 1 << 0;
const XINFO_SUBXACTS: u32 = 1 << 1;
const XINFO_RELFILES: u32 = 1 << 2;
const XINFO_INVALS: u32 = 1 << 3;
const XINFO_TWOPHASE: u32 = 1 << 4;
const XINFO_DROPPED_STATS: u32 = 1 << 8;

const MAX_BLOCK_ID: u8 = 32;
const ID_TOPLEVEL_XID: u8 = 252;
const ID_ORIGIN: u8 = 253;
const ID_DATA_LONG: u8 = 254;
const ID_DATA_SHORT: u8 = 255;

const BLOCK_HAS_IMAGE: u8 = 0x10;
const BLOCK_SAME_REL: u8 = 0x80;
const IMAGE_HAS_HOLE: u8 = 0x01;

/// A transaction's number (`TransactionId`). Never zero: that is PostgreSQL's
/// way to say "none".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(NonZeroU32);

impl TransactionId {
    /// `None` for zero.
    pub const fn new(id: u32) -> Option<Self> {
        match NonZeroU32::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl std::fmt::Display for TransactionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

impl std::fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

/// How much of a record has to be kept until its checksum is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    /// Only that it is there.
    None,
    /// It ends the segment.
    Switch,
    /// The beginning holds the facts.
    Head,
    /// The facts lie behind lists of any length.
    Whole,
}

/// The fixed header of a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecordHeader {
    pub total: u32,
    pub xid: u32,
    pub prev: u64,
    pub info: u8,
    pub manager: u8,
    pub crc: u32,
}

impl RecordHeader {
    pub fn parse(b: &[u8; RECORD_HEADER]) -> Self {
        Self {
            total: u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            xid: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
            prev: u64::from_le_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
            info: b[16],
            manager: b[17],
            crc: u32::from_le_bytes([b[20], b[21], b[22], b[23]]),
        }
    }

    pub fn interest(&self) -> Interest {
        match (self.manager, self.info & 0xF0) {
            (RM_XLOG, XLOG_SWITCH) => Interest::Switch,
            (RM_XLOG, XLOG_RESTORE_POINT) => Interest::Head,
            (RM_XACT, _) => match self.info & XACT_OPERATION {
                XACT_COMMIT | XACT_ABORT => Interest::Head,
                XACT_COMMIT_PREPARED | XACT_ABORT_PREPARED => Interest::Whole,
                _ => Interest::None,
            },
            _ => Interest::None,
        }
    }
}

/// A fact found in a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fact {
    Commit {
        xid: Option<TransactionId>,
        time: Timestamp,
    },
    Abort {
        xid: Option<TransactionId>,
        time: Timestamp,
    },
    RestorePoint {
        name: String,
        time: Timestamp,
    },
}

/// Reads the fact of an interesting record. `body` is what follows the fixed
/// header, cut after some length for the longest of records. `major` may still
/// be unknown.
///
/// # Errors
/// What contradicts the record's own lengths.
pub(super) fn fact(
    header: &RecordHeader,
    body: &[u8],
    major: Option<PgMajor>,
) -> Result<Option<Fact>, &'static str> {
    let data = main_data(header, body, major)?;
    let time = |at| {
        u64_at(data, at)
            .map(|micros| Timestamp::from_pg_micros(micros.cast_signed()))
            .ok_or("the record is too short for its time")
    };
    if header.manager == RM_XLOG {
        let time = time(0)?;
        let name = data.get(8..).unwrap_or_default();
        let end = name
            .iter()
            .position(|b| *b == 0)
            .ok_or("the restore point's name does not end")?;
        let name = String::from_utf8_lossy(&name[..end]).into_owned();
        return Ok(Some(Fact::RestorePoint { name, time }));
    }
    let plain = TransactionId::new(header.xid);
    Ok(match header.info & XACT_OPERATION {
        XACT_COMMIT => Some(Fact::Commit {
            xid: plain,
            time: time(0)?,
        }),
        XACT_ABORT => Some(Fact::Abort {
            xid: plain,
            time: time(0)?,
        }),
        XACT_COMMIT_PREPARED => Some(Fact::Commit {
            xid: prepared_xid(header, data, major).or(plain),
            time: time(0)?,
        }),
        XACT_ABORT_PREPARED => Some(Fact::Abort {
            xid: prepared_xid(header, data, major).or(plain),
            time: time(0)?,
        }),
        _ => None,
    })
}

/// Walks over the block headers (`DecodeXLogRecord`) to the main data, which by
/// convention comes last.
fn main_data<'a>(
    header: &RecordHeader,
    body: &'a [u8],
    major: Option<PgMajor>,
) -> Result<&'a [u8], &'static str> {
    const SHORT: &str = "the record is shorter than its headers say";
    let mut at = 0usize;
    let mut next = |bytes: usize| {
        let from = at;
        at += bytes;
        body.get(from..at).ok_or(SHORT)
    };
    let mut payload = 0u64;
    let length = loop {
        match next(1)?[0] {
            ID_DATA_SHORT => break u64::from(next(1)?[0]),
            ID_DATA_LONG => break u64::from(u32_at(next(4)?, 0).ok_or(SHORT)?),
            ID_ORIGIN => drop(next(2)?),
            ID_TOPLEVEL_XID => drop(next(4)?),
            id if id <= MAX_BLOCK_ID => {
                let block = next(3)?;
                payload += u64::from(u16_at(block, 1).ok_or(SHORT)?);
                let flags = block[0];
                if flags & BLOCK_HAS_IMAGE != 0 {
                    let image = next(5)?;
                    payload += u64::from(u16_at(image, 0).ok_or(SHORT)?);
                    if image[4] & IMAGE_HAS_HOLE != 0 && image[4] & compressed(major) != 0 {
                        next(2)?;
                    }
                }
                if flags & BLOCK_SAME_REL == 0 {
                    next(12)?;
                }
                next(4)?;
            }
            _ => return Err("the record holds a fragment of an unknown kind"),
        }
    };
    let whole = u64::from(header.total) - RECORD_HEADER as u64;
    let headers = at as u64;
    if headers + payload + length != whole {
        return Err("the lengths of the record's fragments do not add up to its own");
    }
    let from = usize::try_from(headers + payload).map_err(|_| SHORT)?;
    let to = usize::try_from(whole).map_err(|_| SHORT)?.min(body.len());
    body.get(from..to).ok_or(SHORT)
}

/// The bits of `bimg_info` that say "compressed": one up to 14, one per method
/// since.
fn compressed(major: Option<PgMajor>) -> u8 {
    if major.is_none_or(|m| m.get() >= 15) {
        0x04 | 0x08 | 0x10
    } else {
        0x02
    }
}

/// The transaction that a COMMIT PREPARED or ROLLBACK PREPARED ends
/// (`ParseCommitRecord`); the record's own number is that of the session that
/// gave the command, mostly none.
fn prepared_xid(header: &RecordHeader, data: &[u8], major: Option<PgMajor>) -> Option<TransactionId> {
    if header.info & XACT_HAS_INFO == 0 {
        return None;
    }
    let flags = u32_at(data, 8)?;
    let mut at = 12usize;
    if flags & XINFO_DBINFO != 0 {
        at += 8;
    }
    let dropped_stats = match major.map(PgMajor::get) {
        Some(18..) => Some(16),
        Some(_) => Some(12),
        None => None,
    };
    let lists = [
        (XINFO_SUBXACTS, Some(4)),
        (XINFO_RELFILES, Some(12)),
        (XINFO_DROPPED_STATS, dropped_stats),
        (XINFO_INVALS, Some(16)),
    ];
    for (flag, item) in lists {
        if flags & flag != 0 {
            let count = usize::try_from(u32_at(data, at)?).ok()?;
            at = at.checked_add(4)?.checked_add(count.checked_mul(item?)?)?;
        }
    }
    if flags & XINFO_TWOPHASE == 0 {
        return None;
    }
    TransactionId::new(u32_at(data, at)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(manager: u8, info: u8, body: usize) -> RecordHeader {
        let total = u32::try_from(RECORD_HEADER + body).unwrap();
        RecordHeader {
            total,
            xid: 7,
            prev: 0,
            info,
            manager,
            crc: 0,
        }
    }

    fn major(number: u32) -> Option<PgMajor> {
        Some(PgMajor::new(number).unwrap())
    }

    #[test]
    fn main_data_lies_behind_blocks_of_every_shape() {
        for (number, compressed_bit) in [(14, 0x02), (15, 0x04), (16, 0x08), (18, 0x10)] {
            let mut body = vec![0, BLOCK_HAS_IMAGE, 0, 0];
            body.extend([3, 0, 9, 0, IMAGE_HAS_HOLE | compressed_bit, 5, 0]); // image of 3 bytes, hole
            body.extend([0; 16]);
            body.extend([1, BLOCK_HAS_IMAGE | 0x20 | BLOCK_SAME_REL, 2, 0]); // two bytes of data
            body.extend([4, 0, 9, 0, IMAGE_HAS_HOLE]); // image of 4 bytes, plain
            body.extend([0; 4]);
            body.extend([ID_ORIGIN, 0, 0, ID_TOPLEVEL_XID, 0, 0, 0, 0, ID_DATA_SHORT, 2]);
            body.extend([9; 3 + 2 + 4]);
            body.extend(b"ok");
            let header = header(RM_XACT, 0, body.len());
            assert_eq!(main_data(&header, &body, major(number)), Ok(&b"ok"[..]));
            body.push(0);
            assert!(main_data(&self::header(RM_XACT, 0, body.len()), &body, major(number)).is_err());
        }
    }

    #[test]
    fn a_prepared_transaction_is_found_behind_the_lists() {
        for (number, stats) in [(14, 0), (15, 12), (17, 12), (18, 16)] {
            let flags = XINFO_DBINFO | XINFO_SUBXACTS | XINFO_RELFILES | XINFO_INVALS | XINFO_TWOPHASE;
            let flags = if stats > 0 {
                flags | XINFO_DROPPED_STATS
            } else {
                flags
            };
            let mut data = 1_000_000i64.to_le_bytes().to_vec();
            data.extend(flags.to_le_bytes());
            data.extend([0; 8]);
            let items = [(4, true), (12, true), (stats, stats > 0), (16, true)];
            for (item, _) in items.iter().filter(|(_, there)| *there) {
                data.extend(3u32.to_le_bytes());
                data.extend(vec![0xEE; item * 3]);
            }
            data.extend(4711u32.to_le_bytes());
            data.extend(b"gid\0");
            let mut body = vec![ID_DATA_LONG];
            body.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
            body.extend(&data);
            let header = header(RM_XACT, XACT_COMMIT_PREPARED | XACT_HAS_INFO, body.len());
            let time = Timestamp::from_pg_micros(1_000_000);
            let xid = TransactionId::new(4711);
            assert_eq!(
                fact(&header, &body, major(number)),
                Ok(Some(Fact::Commit { xid, time }))
            );
        }
    }

    proptest! {
        #[test]
        fn never_panics(
            manager in 0u8..2,
            info in any::<u8>(),
            body in proptest::collection::vec(any::<u8>(), 0..120),
            number in 14u32..=18,
        ) {
            let _ = fact(&header(manager, info, body.len()), &body, major(number));
        }
    }
}
