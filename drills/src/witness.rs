//! A witness at work: reads a log, decides, remembers, cosigns.
//!
//! The log is either the repository's, or the hashes in an export's `tile/`: a
//! witness that is given exports needs no access to anything. Its state is on
//! disk before the cosignature is made; if the process dies in between, the next
//! run cosigns the same or a later checkpoint. One process holds a state file at
//! a time.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use holdfast_agent::durable::{self, LocalFileError};
use holdfast_proto::Timestamp;
use holdfast_repository::signing::SigningKey;

use crate::evidence::tlog::note::SignatureKind;
use crate::evidence::tlog::{CheckpointError, NoteKey, SignedCheckpoint, SignedNote, Tree};
use crate::evidence::witness::{Refusal, Seen, consider};
use crate::log::{DrillLog, LogError};

/// Why a witness did not cosign.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// The log is not what it was.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Nothing to cosign.
    #[error("the log has no checkpoint yet: is the coordinator running?")]
    Empty,
    /// There is no memory.
    #[error(
        "there is no state in {0}: a witness that has lost its memory would vouch for anything. If this is its first \
         look at this log, say --first"
    )]
    NoState(PathBuf),
    /// There is memory already.
    #[error("{0} exists: this witness has looked at a log before, leave --first away")]
    NotFirst(PathBuf),
    /// The memory cannot be read.
    #[error("{path} is not a witness's state ({why}): take it from a copy, it must not be made anew")]
    BadState {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Another process holds it.
    #[error("another process is using {0}: one witness runs at a time")]
    Busy(PathBuf),
    /// The lock's file cannot be made.
    #[error("cannot lock {path}")]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The memory cannot be kept.
    #[error(transparent)]
    Local(#[from] LocalFileError),
    /// The checkpoint cannot be cosigned.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// A witness: a name, a key, and what it has seen.
#[derive(Debug)]
pub struct Witness {
    name: String,
    key: SigningKey,
    state: PathBuf,
    seen: Option<Seen>,
    // Held until the witness ends.
    _lock: File,
}

/// A checkpoint that was cosigned.
#[derive(Debug, Clone)]
pub struct Cosigned {
    /// What is remembered now.
    pub seen: Seen,
    /// The checkpoint's text with the witness's line.
    pub note: SignedNote,
    /// Entries under the one cosigned before.
    pub before: Option<u64>,
}

impl Witness {
    /// Reads the state, or begins without one when this is the `first` look.
    pub fn open(name: &str, key: SigningKey, state: &Path, first: bool) -> Result<Self, WitnessError> {
        NoteKey::new(name, SignatureKind::Cosignature, key.verifying()).map_err(CheckpointError::from)?;
        let mut lock_path = state.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let failed = |source| WitnessError::Lock {
            path: lock_path.clone(),
            source,
        };
        let lock = File::create(&lock_path).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(WitnessError::Busy(state.to_owned())),
            Err(std::fs::TryLockError::Error(source)) => return Err(failed(source)),
        }
        let bad = |why: String| WitnessError::BadState {
            path: state.to_owned(),
            why,
        };
        let seen = match std::fs::read(state) {
            Ok(_) if first => return Err(WitnessError::NotFirst(state.to_owned())),
            Ok(bytes) => Some(serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?),
            Err(e) if e.kind() == io::ErrorKind::NotFound && first => None,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(WitnessError::NoState(state.to_owned()));
            }
            Err(e) => return Err(bad(e.to_string())),
        };
        Ok(Self {
            name: name.to_owned(),
            key,
            state: state.to_owned(),
            seen,
            _lock: lock,
        })
    }

    /// The key that readers check its cosignatures with.
    pub fn note_key(&self) -> Result<NoteKey, WitnessError> {
        let key = NoteKey::new(&self.name, SignatureKind::Cosignature, self.key.verifying());
        Ok(key.map_err(CheckpointError::from)?)
    }

    /// Cosigns `head`, whose signature was verified, if the log only grew.
    pub fn cosign(
        &mut self,
        head: &SignedCheckpoint,
        tree: &Tree,
        now: Timestamp,
    ) -> Result<Cosigned, WitnessError> {
        let before = self.seen.as_ref().map(|s| s.size);
        let seen = consider(self.seen.as_ref(), head.checkpoint(), tree, now)?;
        // Remembered before it is said: a witness that forgets what it cosigned
        // could cosign its opposite.
        let mut bytes = serde_json::to_vec_pretty(&seen).expect("a state holds nothing that JSON cannot say");
        bytes.push(b'\n');
        durable::replace(&self.state, &bytes)?;
        self.seen = Some(seen.clone());
        let mut cosigned = head.clone();
        cosigned.cosign(&self.name, now, &self.key)?;
        let note = cosigned
            .cosignature_of(&self.note_key()?)
            .ok_or(WitnessError::Empty)?;
        Ok(Cosigned { seen, note, before })
    }

    /// Looks at the repository's log, cosigns its newest checkpoint, and leaves
    /// the cosignature beside it. `None` when that one was cosigned already.
    pub async fn look(&mut self, log: &DrillLog, now: Timestamp) -> Result<Option<Cosigned>, WitnessError> {
        let head = log.checkpoint().await?.ok_or(WitnessError::Empty)?;
        let size = head.checkpoint().size;
        let entries = log.store().entries(0, size).await.map_err(LogError::from)?;
        let tree = Tree::from_entries(&entries);
        let fingerprint = self.key.fingerprint();
        let there = log.store().cosignatures(size).await.map_err(LogError::from)?;
        let known = self
            .seen
            .as_ref()
            .is_some_and(|s| (s.size, s.root) == (size, head.checkpoint().root));
        if known && there.contains_key(&fingerprint) && tree.root() == head.checkpoint().root {
            return Ok(None);
        }
        let cosigned = self.cosign(&head, &tree, now)?;
        let note = Bytes::from(cosigned.note.to_string().into_bytes());
        log.store()
            .put_cosignature(size, &fingerprint, note)
            .await
            .map_err(LogError::from)?;
        Ok(Some(cosigned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::tlog::Checkpoint;

    fn head(key: &SigningKey, entries: &[&str]) -> (SignedCheckpoint, Tree) {
        let tree = Tree::from_entries(entries);
        let head = Checkpoint::new("example.com/log".parse().unwrap(), tree.len(), tree.root());
        (SignedCheckpoint::sign(head, key).unwrap(), tree)
    }

    #[test]
    fn remembers_over_a_restart_and_refuses_a_fork() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("witness.json");
        let log = SigningKey::generate_ed25519().unwrap();
        let path = dir.path().join("key");
        SigningKey::generate_ed25519().unwrap().save(&path).unwrap();
        let key = || SigningKey::load(&path).unwrap();
        let now = "2026-11-21T14:00:00Z".parse().unwrap();

        let lost = Witness::open("auditor.example", key(), &state, false);
        assert!(matches!(lost, Err(WitnessError::NoState(_))));
        let mut witness = Witness::open("auditor.example", key(), &state, true).unwrap();
        let busy = Witness::open("auditor.example", key(), &state, true);
        assert!(matches!(busy, Err(WitnessError::Busy(_))));
        let (first, tree) = head(&log, &["a", "b", "c"]);
        let cosigned = witness.cosign(&first, &tree, now).unwrap();
        let mut received = first.clone();
        received
            .add_cosignature(cosigned.note.to_string().as_bytes(), &witness.note_key().unwrap())
            .unwrap();
        assert_eq!(received.cosigners().collect::<Vec<_>>(), ["auditor.example"]);
        drop(witness);

        let again = Witness::open("auditor.example", key(), &state, true);
        assert!(matches!(again, Err(WitnessError::NotFirst(_))));
        let mut witness = Witness::open("auditor.example", key(), &state, false).unwrap();
        let remembered = std::fs::read(&state).unwrap();
        for entries in [&["a", "b"][..], &["a", "x", "c", "d"], &["a", "b", "x"]] {
            let (forked, tree) = head(&log, entries);
            let refused = witness.cosign(&forked, &tree, now);
            assert!(matches!(refused, Err(WitnessError::Refused(_))), "{entries:?}");
        }
        assert_eq!(std::fs::read(&state).unwrap(), remembered);
        let (grown, tree) = head(&log, &["a", "b", "c", "d"]);
        assert_eq!(witness.cosign(&grown, &tree, now).unwrap().before, Some(3));
    }
}
