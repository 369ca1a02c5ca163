//! What keeps a line from streaming, and the finding that it is.

use std::path::PathBuf;

use holdfast_proto::finding::Severity;
use holdfast_proto::pg::{Lsn, TimelineId};

use super::WalError;
use super::archive::ArchiveError;
use super::proof::Differs;
use super::start::Refusal;
use super::stream::StreamError;
use crate::postgres::{PgError, PgErrorClass};

/// The finding that a server's WAL could not be compared with what is archived.
pub const NOT_COMPARED: &str = "wal-not-compared";

/// The finding about a server that ends when its WAL was found to be the archive's.
pub(super) const DIVERGED: &str = "history-diverged";

/// Findings about the server that end when it can be followed.
pub(super) const SERVER_FINDINGS: [&str; 8] = [
    "server-unreachable",
    "wal-slot-in-use",
    "server-in-recovery",
    "server-behind-archive",
    "wrong-system",
    "wal-start-unknown",
    "replicas-unlisted",
    "wal-history-unreadable",
];

/// Why an attempt to stream ended with trouble.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Postgres(#[from] PgError),
    #[error(transparent)]
    Stream(StreamError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(
        "the server's system identifier is {found}, the lineage is of {expected}: connect the agent to its own cluster"
    )]
    WrongSystem { found: String, expected: String },
    #[error("the server is a standby: connect the agent to the primary")]
    Standby,
    #[error("no replica of the repository could be listed: WAL stays on the server until one can")]
    NoReplica,
    #[error(
        "the server does not have the WAL after {at} any more, and replicas {unlisted} were not listed: they may hold \
         it. Bring them back, or take them out of the configuration to accept the gap"
    )]
    StartUnknown { at: Lsn, unlisted: String },
    #[error("the history of timeline {timeline} could not be stored on any replica: {why}")]
    HistoryNotStored { timeline: TimelineId, why: String },
    #[error(
        "the server is on timeline {timeline}, whose history {} cannot be read ({why}): let the agent see the data \
         directory (data_directory in its configuration)", path.display()
    )]
    NoHistory {
        timeline: TimelineId,
        path: PathBuf,
        why: String,
    },
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Fatal(#[from] WalError),
}

impl From<StreamError> for Trouble {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Postgres(error) => Trouble::Postgres(error),
            StreamError::Differs(Differs { from, to }) => Trouble::Refused(Refusal::Rewritten { from, to }),
            other => Trouble::Stream(other),
        }
    }
}

impl Trouble {
    /// Whether this server is not the one to follow.
    pub fn is_about_who(&self) -> bool {
        matches!(
            self,
            Trouble::Refused(_) | Trouble::WrongSystem { .. } | Trouble::Standby
        )
    }

    /// The finding's name and how much it matters.
    pub fn finding(&self) -> (&'static str, Severity) {
        match self {
            Trouble::Refused(refusal) => (refusal.finding(), Severity::Critical),
            Trouble::WrongSystem { .. } => ("wrong-system", Severity::Critical),
            Trouble::Standby => ("server-in-recovery", Severity::Warning),
            Trouble::NoReplica | Trouble::HistoryNotStored { .. } => {
                ("replicas-unlisted", Severity::Critical)
            }
            Trouble::NoHistory { .. } => ("wal-history-unreadable", Severity::Critical),
            Trouble::StartUnknown { .. } => ("wal-start-unknown", Severity::Critical),
            Trouble::Postgres(error) => match error.class() {
                PgErrorClass::Busy => ("wal-slot-in-use", Severity::Warning),
                PgErrorClass::Retry | PgErrorClass::Server => ("server-unreachable", Severity::Warning),
                _ => ("server-unreachable", Severity::Critical),
            },
            _ => ("server-unreachable", Severity::Warning),
        }
    }
}
