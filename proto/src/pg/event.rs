//! What [`super::WalReader`] answers: events, or why bytes are not WAL.

use super::page::BadPage;
use super::{Lsn, TransactionId};
use crate::time::Timestamp;

/// What recovery can be aimed at.
///
/// `start` is the position of the record, which is what `recovery_target_lsn`
/// compares; `end` is the position after it, which is what the server reports as
/// flushed once the record is safe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalEvent {
    /// A transaction was committed (or a prepared one was).
    Commit {
        /// Which; `None` when the record does not say.
        xid: Option<TransactionId>,
        /// When, by the server's clock: not monotone along the log.
        time: Timestamp,
        /// Where the record begins.
        start: Lsn,
        /// Where it ends.
        end: Lsn,
    },
    /// A transaction was rolled back (or a prepared one was). Its time counts
    /// for `recovery_target_time` as a commit's does.
    Abort {
        /// Which; `None` when the record does not say.
        xid: Option<TransactionId>,
        /// When, by the server's clock.
        time: Timestamp,
        /// Where the record begins.
        start: Lsn,
        /// Where it ends.
        end: Lsn,
    },
    /// `pg_create_restore_point` was called.
    RestorePoint {
        /// The name that was given; names may repeat.
        name: String,
        /// When, by the server's clock.
        time: Timestamp,
        /// Where the record begins.
        start: Lsn,
        /// Where it ends.
        end: Lsn,
    },
}

impl WalEvent {
    /// When it happened, by the server's clock.
    pub const fn time(&self) -> Timestamp {
        match self {
            Self::Commit { time, .. } | Self::Abort { time, .. } | Self::RestorePoint { time, .. } => *time,
        }
    }

    /// Where its record begins.
    pub const fn start(&self) -> Lsn {
        match self {
            Self::Commit { start, .. } | Self::Abort { start, .. } | Self::RestorePoint { start, .. } => {
                *start
            }
        }
    }

    /// Where its record ends.
    pub const fn end(&self) -> Lsn {
        match self {
            Self::Commit { end, .. } | Self::Abort { end, .. } | Self::RestorePoint { end, .. } => *end,
        }
    }
}

/// Bytes that are not the WAL they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadWal {
    /// A piece does not follow the one before it.
    #[error("WAL from {got} was given where {expected} comes next: start a new reader there")]
    NotContiguous {
        /// The position after the last byte read.
        expected: Lsn,
        /// The position of the piece.
        got: Lsn,
    },
    /// A page is not the one expected.
    #[error("the WAL page at {at} is damaged or not of this log: {why}. Fetch it again from another copy")]
    Page {
        /// The page.
        at: Lsn,
        /// What is wrong with it.
        why: BadPage,
    },
    /// A record is not valid.
    #[error("the WAL record at {at} is damaged: {why}. Fetch it again from another copy")]
    Record {
        /// The record.
        at: Lsn,
        /// What is wrong with it.
        why: &'static str,
    },
}
