//! What one piece of work made.

use holdfast_proto::names::{BackupId, BundleId, FilestoreName};
use serde::{Deserialize, Serialize};

/// What came of work that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// For a person.
    pub text: String,
    /// The same, piece by piece.
    pub pieces: Vec<Piece>,
}

/// One thing that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Piece {
    /// A base backup.
    BaseBackup {
        /// Its identity.
        id: BackupId,
    },
    /// A filestore, captured whole or nearly.
    Filestore {
        /// Which.
        filestore: FilestoreName,
        /// The newest entry of its journal.
        entry: u64,
        /// Files in it.
        files: u64,
        /// Their bytes.
        bytes: u64,
        /// Files and directories that could not be read.
        unread: u64,
    },
    /// A bundle of settings or secrets.
    Bundle {
        /// Its identity.
        id: BundleId,
        /// Whether this work wrote it; otherwise it was current already.
        written: bool,
    },
}

impl Made {
    /// Files and directories that could not be read, so that the backup is not
    /// whole.
    pub fn unread(&self) -> u64 {
        self.pieces
            .iter()
            .map(|piece| match piece {
                Piece::Filestore { unread, .. } => *unread,
                Piece::BaseBackup { .. } | Piece::Bundle { .. } => 0,
            })
            .sum()
    }
}
