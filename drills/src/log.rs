//! The evidence log as a drill uses it: its intent before the work, its result
//! after, and the coordinator's checkpoint over both.
//!
//! The runner writes entries; it holds no key that could sign a checkpoint. Work
//! starts when a checkpoint that covers the intent is there: then neither the
//! runner nor whoever started it can pretend that the drill never was. If the
//! process dies after the intent, the intent stays, and is answered as abandoned
//! when its deadline has passed.

use std::time::Duration;

use bytes::Bytes;
use holdfast_proto::names::ClusterId;
use holdfast_proto::record::TrustRole;
use holdfast_proto::{Fingerprint, Sha256Digest};
use holdfast_repository::Repository;
use holdfast_repository::evidence::{EvidenceError, EvidenceStore};
use holdfast_repository::signing::SigningKey;
use holdfast_repository::trust::Trust;

use crate::evidence::entry::{BadEntry, Entry, Intent, LoggedEntry};
use crate::evidence::statement::{IntentReference, Statement, Witness};
use crate::evidence::tlog::{LogOrigin, SignedCheckpoint};

/// The log cannot be used for a drill.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] EvidenceError),
    /// An entry is none.
    #[error("entry {n} of the evidence log: {source}")]
    Entry {
        /// Which.
        n: u64,
        /// Why.
        source: BadEntry,
    },
    /// The runner's entry cannot be made.
    #[error(transparent)]
    Own(#[from] BadEntry),
    /// Nobody signed a checkpoint in time.
    #[error(
        "no checkpoint covers entry {n} after {seconds} s: is the coordinator running, and does it reach the \
         repository? A drill starts only when its intent is sealed into the log"
    )]
    NoCheckpoint {
        /// The entry.
        n: u64,
        /// How long was waited.
        seconds: u64,
    },
    /// A checkpoint that no coordinator's key signed.
    #[error("the checkpoint of {size} entries is signed by no coordinator that the trust chain knows")]
    Checkpoint {
        /// Its size.
        size: u64,
    },
}

/// A drill's view of the log.
#[derive(Debug, Clone)]
pub struct DrillLog {
    store: EvidenceStore,
    trust: Trust,
    origin: LogOrigin,
}

/// A place in the log.
#[derive(Debug, Clone)]
pub struct Place {
    /// The entry's number.
    pub index: u64,
    /// SHA-256 of its bytes.
    pub digest: Sha256Digest,
}

/// What a cluster's drills have left in the log so far.
#[derive(Debug, Clone, Default)]
pub struct Sequence {
    /// The number of the next intent, from 1.
    pub next: u64,
    /// Digest of the last intent.
    pub previous: Option<Sha256Digest>,
}

/// The name of a repository's log.
pub fn origin(repository: &Repository) -> LogOrigin {
    format!("holdfast.dev/log/{}", repository.id())
        .parse()
        .expect("an id has no blanks")
}

impl DrillLog {
    /// Opens the log of a repository.
    pub async fn open(repository: &Repository, trust: &Trust) -> Result<Self, LogError> {
        let store = EvidenceStore::open(repository, trust).await?;
        Ok(Self {
            store,
            trust: trust.clone(),
            origin: origin(repository),
        })
    }

    /// Where the entries lie.
    pub fn store(&self) -> &EvidenceStore {
        &self.store
    }

    /// Who is believed.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The log's name.
    pub fn origin(&self) -> &LogOrigin {
        &self.origin
    }

    /// All entries, in order.
    pub async fn entries(&self) -> Result<Vec<LoggedEntry>, LogError> {
        let size = self.store.size().await?;
        let bytes = self.store.entries(0, size).await?;
        bytes
            .iter()
            .zip(0..)
            .map(|(b, n)| LoggedEntry::parse(b).map_err(|source| LogError::Entry { n, source }))
            .collect()
    }

    /// Where `cluster`'s next intent belongs.
    pub async fn sequence(&self, cluster: &ClusterId) -> Result<Sequence, LogError> {
        let mut sequence = Sequence {
            next: 1,
            previous: None,
        };
        for entry in self.entries().await? {
            if let Entry::Intent(intent) = &entry.entry
                && intent.cluster == *cluster
            {
                sequence = Sequence {
                    next: intent.sequence + 1,
                    previous: Some(entry.digest()),
                };
            }
        }
        Ok(sequence)
    }

    /// Logs an intent and waits until a checkpoint covers it.
    pub async fn log_intent(
        &self,
        intent: &Intent,
        runner: &SigningKey,
        patience: Duration,
    ) -> Result<IntentReference, LogError> {
        let place = self.append(LoggedEntry::sign(intent, runner)?).await?;
        let checkpoint = self.wait_checkpoint(place.index, patience).await?;
        let witness = checkpoint
            .cosigners()
            .next()
            .map_or(Witness::None, |name| Witness::Named(name.to_owned()));
        Ok(IntentReference {
            log: self.origin.clone(),
            index: place.index,
            digest: place.digest,
            checkpoint_size: Some(checkpoint.checkpoint().size),
            witness,
        })
    }

    /// Logs a result and waits until a checkpoint covers it.
    pub async fn log_result(
        &self,
        statement: &Statement,
        runner: &SigningKey,
        patience: Duration,
    ) -> Result<Place, LogError> {
        let place = self.append(LoggedEntry::sign_result(statement, runner)?).await?;
        self.wait_checkpoint(place.index, patience).await?;
        Ok(place)
    }

    /// Waits for the coordinator's signature over a result.
    pub async fn wait_countersigned(
        &self,
        leaf: &Sha256Digest,
        patience: Duration,
    ) -> Result<Option<Bytes>, LogError> {
        let wait = async {
            let mut tick = tokio::time::interval(Duration::from_millis(250));
            loop {
                tick.tick().await;
                if let Some(signature) = self.store.signature(leaf, TrustRole::Coordinator).await? {
                    return Ok(signature);
                }
            }
        };
        match tokio::time::timeout(patience, wait).await {
            Ok(result) => result.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// The largest checkpoint, verified.
    pub async fn checkpoint(&self) -> Result<Option<SignedCheckpoint>, LogError> {
        let Some((size, bytes)) = self.store.latest_checkpoint().await? else {
            return Ok(None);
        };
        let refused = LogError::Checkpoint { size };
        let Ok(checkpoint) = SignedCheckpoint::parse(&bytes) else {
            return Err(refused);
        };
        if checkpoint.checkpoint().size == size && self.log_key(&checkpoint).is_some() {
            Ok(Some(checkpoint))
        } else {
            Err(refused)
        }
    }

    /// The coordinator's key that signed a checkpoint.
    pub fn log_key(&self, checkpoint: &SignedCheckpoint) -> Option<Fingerprint> {
        self.trust
            .keys()
            .filter(|(_, key)| key.role == TrustRole::Coordinator && key.revoked.is_none())
            .find(|(_, key)| checkpoint.verify(&key.verifying).is_ok())
            .map(|(fingerprint, _)| *fingerprint)
    }

    async fn append(&self, entry: LoggedEntry) -> Result<Place, LogError> {
        let digest = entry.digest();
        let index = self.store.append(Bytes::copy_from_slice(entry.bytes())).await?;
        Ok(Place { index, digest })
    }

    async fn wait_checkpoint(&self, index: u64, patience: Duration) -> Result<SignedCheckpoint, LogError> {
        let wait = async {
            let mut tick = tokio::time::interval(Duration::from_millis(250));
            loop {
                tick.tick().await;
                if let Some(checkpoint) = self.checkpoint().await?
                    && checkpoint.checkpoint().size > index
                {
                    return Ok(checkpoint);
                }
            }
        };
        match tokio::time::timeout(patience, wait).await {
            Ok(result) => result,
            Err(_) => Err(LogError::NoCheckpoint {
                n: index,
                seconds: patience.as_secs(),
            }),
        }
    }
}
