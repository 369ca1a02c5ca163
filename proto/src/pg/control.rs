//! `global/pg_control` (`src/include/catalog/pg_control.h`).
//!
//! Reads the facts a backup and a restore depend on from the control file of
//! PostgreSQL 14 to 18 on little-endian 64-bit machines, after verifying its
//! checksum. A file that the server was writing at the moment it was read fails
//! the checksum and is to be read again.

use super::crc32c::crc32c;
use super::page::{u32_at, u64_at};
use super::{Lsn, SegmentSize, TimelineId};
use crate::names::SystemId;
use crate::time::Timestamp;

/// Bytes of the file on disk; the facts are in the first few hundred.
pub const CONTROL_FILE_SIZE: usize = 8192;

/// Written by 14 to 16.
const VERSION_14: u32 = 1300;
/// Written by 17: a value more in what was padding.
const VERSION_17: u32 = 1700;
/// Written by 18: one more flag before the nonce.
const VERSION_18: u32 = 1800;

const CRC_AT_14: usize = 288;
const CRC_AT_18: usize = 292;

/// What the server last noted about its own life (`DBState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    /// Starting up.
    Startup,
    /// Shut down cleanly.
    ShutDown,
    /// A standby, shut down cleanly.
    ShutDownInRecovery,
    /// Shutting down.
    ShuttingDown,
    /// Recovering from a crash.
    InCrashRecovery,
    /// Recovering from an archive, or following a primary.
    InArchiveRecovery,
    /// Running as a primary, or crashed as one.
    InProduction,
}

impl ClusterState {
    fn from_number(state: u32) -> Option<Self> {
        Some(match state {
            0 => Self::Startup,
            1 => Self::ShutDown,
            2 => Self::ShutDownInRecovery,
            3 => Self::ShuttingDown,
            4 => Self::InCrashRecovery,
            5 => Self::InArchiveRecovery,
            6 => Self::InProduction,
            _ => return None,
        })
    }
}

impl std::fmt::Display for ClusterState {
    /// As `pg_controldata` prints it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Startup => "starting up",
            Self::ShutDown => "shut down",
            Self::ShutDownInRecovery => "shut down in recovery",
            Self::ShuttingDown => "shutting down",
            Self::InCrashRecovery => "in crash recovery",
            Self::InArchiveRecovery => "in archive recovery",
            Self::InProduction => "in production",
        })
    }
}

/// Bytes that are no valid control file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadControlFile {
    /// Too short.
    #[error("pg_control has {0} bytes: the copy is cut off, read it again")]
    Short(usize),
    /// The checksum is wrong.
    #[error("pg_control's checksum is wrong: it was being written or is damaged, read it again")]
    Checksum,
    /// Another format.
    #[error(
        "pg_control has format {0}; PostgreSQL 14 to 18 (1300, 1700, 1800) on a little-endian machine are supported"
    )]
    Version(u32),
    /// A value that no server writes.
    #[error("pg_control says {0}, which no server writes: the file is damaged")]
    Value(&'static str),
}

/// The facts of a control file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// The cluster.
    pub system: SystemId,
    /// The format: 1300, 1700 or 1800.
    pub version: u32,
    /// The catalogue's version, which tells majors apart.
    pub catalog_version: u32,
    /// What the server last noted about its life.
    pub state: ClusterState,
    /// When the file was last written (whole seconds).
    pub modified: Timestamp,
    /// Where the last checkpoint's record is.
    pub checkpoint: Lsn,
    /// Where replay from the last checkpoint begins.
    pub checkpoint_redo: Lsn,
    /// The timeline of the last checkpoint.
    pub checkpoint_timeline: TimelineId,
    /// How far a recovering server must replay before it is consistent.
    pub min_recovery: Option<(Lsn, TimelineId)>,
    /// Where the base backup under recovery was started.
    pub backup_start: Option<Lsn>,
    /// Where the base backup under recovery ends, when that is known.
    pub backup_end: Option<Lsn>,
    /// Whether recovery must meet the record of a backup's end.
    pub backup_end_required: bool,
    /// `wal_level`: 0 minimal, 1 replica, 2 logical.
    pub wal_level: u32,
    /// `max_connections` that a standby needs at least.
    pub max_connections: u32,
    /// `max_worker_processes` that a standby needs at least.
    pub max_worker_processes: u32,
    /// `max_wal_senders` that a standby needs at least.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions` that a standby needs at least.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction` that a standby needs at least.
    pub max_locks_per_transaction: u32,
    /// Bytes of a data page.
    pub page_size: u32,
    /// Pages of a data file's segment.
    pub pages_per_file: u32,
    /// Bytes of a WAL segment.
    pub segment_size: SegmentSize,
    /// The version of data page checksums; `None` without them.
    pub checksum_version: Option<u32>,
}

impl ControlFile {
    /// Reads a control file.
    ///
    /// # Errors
    /// The checksum is wrong or the format is not a supported one.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadControlFile> {
        let short = || BadControlFile::Short(bytes.len());
        let number = |at| u32_at(bytes, at).ok_or_else(short);
        let long = |at| u64_at(bytes, at).ok_or_else(short);
        let lsn = |at| long(at).map(Lsn::new);
        let position = |at| long(at).map(|p| (p != 0).then(|| Lsn::new(p)));
        let timeline = |at| number(at).map(TimelineId::new);

        let version = number(8)?;
        let crc_at = match version {
            VERSION_14 | VERSION_17 => CRC_AT_14,
            VERSION_18 => CRC_AT_18,
            other => return Err(BadControlFile::Version(other)),
        };
        let summed = bytes.get(..crc_at).ok_or_else(short)?;
        if number(crc_at)? != crc32c(summed) {
            return Err(BadControlFile::Checksum);
        }
        let state =
            ClusterState::from_number(number(16)?).ok_or(BadControlFile::Value("an unknown state"))?;
        Ok(Self {
            system: SystemId::new(long(0)?),
            version,
            catalog_version: number(12)?,
            state,
            modified: Timestamp::from_unix_micros(long(24)?.cast_signed().saturating_mul(1_000_000)),
            checkpoint: lsn(32)?,
            checkpoint_redo: lsn(40)?,
            checkpoint_timeline: timeline(48)?.ok_or(BadControlFile::Value("timeline 0"))?,
            min_recovery: position(136)?.zip(timeline(144)?),
            backup_start: position(152)?,
            backup_end: position(160)?,
            backup_end_required: bytes.get(168).is_some_and(|b| *b != 0),
            wal_level: number(172)?,
            max_connections: number(180)?,
            max_worker_processes: number(184)?,
            max_wal_senders: number(188)?,
            max_prepared_transactions: number(192)?,
            max_locks_per_transaction: number(196)?,
            page_size: number(216)?,
            pages_per_file: number(220)?,
            segment_size: SegmentSize::new(u64::from(number(228)?))
                .map_err(|_| BadControlFile::Value("an impossible WAL segment size"))?,
            checksum_version: Some(number(252)?).filter(|v| *v != 0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(version: u32) -> Vec<u8> {
        let mut file = vec![0; CONTROL_FILE_SIZE];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &77u64.to_le_bytes());
        put(8, &version.to_le_bytes());
        put(16, &6u32.to_le_bytes());
        put(48, &3u32.to_le_bytes());
        put(228, &(16u32 << 20).to_le_bytes());
        put(252, &1u32.to_le_bytes());
        let crc_at = if version == VERSION_18 {
            CRC_AT_18
        } else {
            CRC_AT_14
        };
        let crc = crc32c(&file[..crc_at]);
        file[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        file
    }

    #[test]
    fn reads_every_format() {
        for version in [VERSION_14, VERSION_17, VERSION_18] {
            let control = ControlFile::parse(&sample(version)).unwrap();
            assert_eq!(control.system, SystemId::new(77));
            assert_eq!(control.state.to_string(), "in production");
            assert_eq!(control.checkpoint_timeline.get(), 3);
            assert_eq!(control.checksum_version, Some(1));
            assert_eq!((control.min_recovery, control.backup_start), (None, None));
        }
    }

    #[test]
    fn refuses_every_flipped_bit() {
        let good = sample(VERSION_14);
        for bit in 0..(CRC_AT_14 + 4) * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(ControlFile::parse(&bad).is_err(), "bit {bit}");
        }
        assert_eq!(ControlFile::parse(&good[..100]), Err(BadControlFile::Short(100)));
        assert_eq!(
            ControlFile::parse(&sample(1100)),
            Err(BadControlFile::Version(1100))
        );
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = ControlFile::parse(&bytes);
        }
    }
}
