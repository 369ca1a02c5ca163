//! WAL that PostgreSQL hands over: the receiving end of `archive_command`.
//!
//! `holdfast wal push` gives the running agent an open file and its name. What is
//! acknowledged here is on as many replicas as the tier wants, because PostgreSQL then
//! recycles the segment.
//!
//! | name | what happens |
//! |---|---|
//! | a segment | stored, or found stored with the same bytes |
//! | `….partial` | the same, up to where the timeline ended: a promotion leaves it |
//! | `….history` | stored, or found stored with the same text |
//! | `….backup` | accepted and not stored: a base backup's manifest has its label |
//!
//! Where the line streams, the stream is the only writer of what it will bring: a push
//! waits for it, and then compares. What it will not bring (WAL from before it began,
//! or of a timeline that it has left) and everything where nothing streams is stored
//! from the file.
//!
//! What holds:
//! - A file is refused, and nothing of it is stored, unless it has a segment's size and
//!   every page of it is of this cluster, this timeline and this position.
//! - A name with other bytes than those that are stored is refused, and is a finding.
//!   Bytes are compared by keyed digests ([`holdfast_proto::record::WalChunkId`]): the
//!   agent opens nothing. WAL that was stored by an agent with another index key cannot
//!   be compared, and is stored a second time.
//! - "Later" loses nothing: PostgreSQL keeps the segment and asks again.
//!
//! If the process dies at any instant, some chunks of a segment may be stored. They
//! are found and compared when PostgreSQL hands the segment over again.

use std::fs::File;
use std::str::FromStr;
use std::sync::Arc;

use holdfast_proto::names::SystemId;
use holdfast_proto::pg::{SegmentName, TimelineId};
use holdfast_repository::seal::IndexKey;
use holdfast_repository::trust::Trust;
use tokio::sync::{mpsc, oneshot};

mod compare;
mod desk;
mod segment;
mod store;

pub(super) use desk::serve;
pub use segment::system_of;

/// Where a cluster's WAL comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Feed {
    /// From a replication slot.
    #[default]
    Stream,
    /// From `archive_command` alone.
    Archive,
}

/// What a line needs to take what is pushed.
pub struct Pushing {
    /// Where else WAL comes from.
    pub feed: Feed,
    /// With what WAL is known again.
    pub index_key: IndexKey,
    /// Whom to believe.
    pub trust: Arc<Trust>,
    /// What is pushed.
    pub incoming: mpsc::Receiver<Push>,
}

/// A file that PostgreSQL archives, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalFile {
    /// A whole segment.
    Segment(SegmentName),
    /// The last segment of a timeline, which a promotion left unfinished.
    Partial(SegmentName),
    /// A timeline's history.
    History(TimelineId),
    /// The label of a base backup.
    Label,
}

/// A name that PostgreSQL does not archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a file that PostgreSQL archives: write archive_command = 'holdfast wal push %p'")]
pub struct BadWalFile(String);

impl FromStr for WalFile {
    type Err = BadWalFile;

    fn from_str(name: &str) -> Result<Self, BadWalFile> {
        let bad = || BadWalFile(name.chars().take(80).collect());
        if let Some(timeline) = name.strip_suffix(".history") {
            return TimelineId::parse_fixed(timeline)
                .map(Self::History)
                .ok_or_else(bad);
        }
        if let Some(segment) = name.strip_suffix(".partial") {
            return segment.parse().map(Self::Partial).map_err(|_| bad());
        }
        if let Some(label) = name.strip_suffix(".backup") {
            let (segment, offset) = label.split_once('.').ok_or_else(bad)?;
            let hexadecimal = offset.len() == 8 && offset.bytes().all(|b| b.is_ascii_hexdigit());
            return match segment.parse::<SegmentName>() {
                Ok(_) if hexadecimal => Ok(Self::Label),
                _ => Err(bad()),
            };
        }
        name.parse().map(Self::Segment).map_err(|_| bad())
    }
}

/// One file that is handed over.
#[derive(Debug)]
pub struct Push {
    /// Its name, as PostgreSQL has it.
    pub name: String,
    /// What it is.
    pub kind: WalFile,
    /// It, open for reading.
    pub file: File,
    /// Whose data directory it came from, where that was seen.
    pub system: Option<SystemId>,
    /// Who waits.
    pub answer: oneshot::Sender<Result<Taken, PushError>>,
}

/// What was done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It was stored.
    Stored,
    /// The same bytes were stored before.
    Already,
    /// It need not be stored.
    NotNeeded,
}

/// Why a file was not taken; for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// Its name is taken by other bytes.
    #[error("{0}")]
    Conflict(String),
    /// It is not what belongs here, however often it is handed over.
    #[error("{0}")]
    Refused(String),
    /// It is another cluster's.
    #[error("{0}")]
    Foreign(String),
    /// It cannot be stored now.
    #[error("{0}. The server keeps it and hands it over again")]
    Later(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_postgresql_archives_and_nothing_else() {
        let kind = |name: &str| name.parse::<WalFile>();
        let segment: SegmentName = "0000000100000000000000AB".parse().unwrap();
        assert_eq!(kind("0000000100000000000000AB"), Ok(WalFile::Segment(segment)));
        assert_eq!(
            kind("0000000100000000000000AB.partial"),
            Ok(WalFile::Partial(segment))
        );
        assert_eq!(
            kind("00000002.history"),
            Ok(WalFile::History(TimelineId::new(2).unwrap()))
        );
        assert_eq!(
            kind("0000000100000000000000AB.00000028.backup"),
            Ok(WalFile::Label)
        );
        for bad in [
            "",
            "pg_wal",
            "0000000100000000000000ab",
            "0000000100000000000000AB.gz",
            "0000000100000000000000AB.backup",
            "x.00000028.backup",
            "0.history",
            "0000000100000000000000AB.partial.partial",
        ] {
            assert!(kind(bad).is_err(), "{bad}");
        }
    }
}
