//! The evidence log as a drill uses it: its intent before the work, its result
//! after, and the coordinator's checkpoint over both.
//!
//! The runner writes entries; it holds no key that could sign a checkpoint. Work
//! starts when a checkpoint that covers the intent is there: then neither the
//! runner nor whoever started it can pretend that the drill never was. Where the
//! runner knows witnesses by their keys, one of them must have cosigned it: then
//! the log's owner cannot pretend it either. If the
//! process dies after the intent, the intent stays, and is answered as abandoned
//! when its deadline has passed.

use std::time::Duration;

use bytes::Bytes;
use holdfast_proto::names::ClusterId;
use holdfast_proto::record::TrustRole;
use holdfast_proto::{Fingerprint, Sha256Digest, Timestamp};
use holdfast_repository::evidence::{EvidenceError, EvidenceStore};
use holdfast_repository::signing::SigningKey;
use holdfast_repository::trust::Trust;
use holdfast_repository::{Repository, clock};

use crate::evidence::entry::{BadEntry, Entry, Intent, LoggedEntry, Population};
use crate::evidence::statement::{IntentReference, Statement, Witness};
use crate::evidence::tlog::{LogOrigin, NoteKey, SignedCheckpoint};

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
    /// No witness cosigned in time.
    #[error(
        "no witness ({names}) cosigned a checkpoint that covers entry {n} within {seconds} s: is `holdfast evidence \
         witness` running? A drill starts only when somebody outside has seen its intent; without `witnesses` in \
         [runner] its statement says that nobody has"
    )]
    NoWitness {
        /// The entry.
        n: u64,
        /// The witnesses that were waited for.
        names: String,
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
    witnesses: Vec<NoteKey>,
}

/// A checkpoint that covers an entry, and who outside has cosigned it. It bears
/// the log's line and the witness's, and no other.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// The checkpoint.
    pub checkpoint: SignedCheckpoint,
    /// Whose line it bears besides the log's.
    pub witness: Witness,
}

/// A place in the log.
#[derive(Debug, Clone)]
pub struct Place {
    /// The entry's number.
    pub index: u64,
    /// SHA-256 of its bytes.
    pub digest: Sha256Digest,
}

/// When an entry was stored, by the clock of whoever did.
#[derive(Debug, Clone, Copy)]
pub struct Stored {
    /// The entry's number.
    pub index: u64,
    /// Just before.
    pub began: Timestamp,
    /// When every replica within reach had it.
    pub ended: Timestamp,
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
            witnesses: Vec::new(),
        })
    }

    /// Waits for one of `witnesses` before anything begins.
    #[must_use]
    pub fn witnessed_by(mut self, witnesses: &[NoteKey]) -> Self {
        self.witnesses = witnesses.to_vec();
        self
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

    /// Whether whoever signed an entry may: its role, its clusters, its signature.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn believe(&self, entry: &LoggedEntry) -> Result<(), String> {
        let cluster = entry.cluster();
        let known = self.trust.check_object(
            &entry.signer(),
            entry.signers(),
            cluster.as_ref(),
            &entry.digest(),
        );
        let key = known.map_err(|e| e.to_string())?;
        entry.envelope.verify(&key.verifying).map_err(|e| e.to_string())
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

    /// Logs an intent and waits until a checkpoint covers it. Says besides when it was
    /// stored.
    pub async fn log_intent(
        &self,
        intent: &Intent,
        runner: &SigningKey,
        patience: Duration,
    ) -> Result<(IntentReference, Stored), LogError> {
        let began = clock::now();
        let place = self.append(LoggedEntry::sign(intent, runner)?).await?;
        let stored = Stored {
            index: place.index,
            began,
            ended: clock::now(),
        };
        let sealed = self.wait_sealed(place.index, patience).await?;
        let reference = IntentReference {
            log: self.origin.clone(),
            index: place.index,
            digest: place.digest,
            checkpoint_size: Some(sealed.checkpoint.checkpoint().size),
            witness: sealed.witness,
        };
        Ok((reference, stored))
    }

    /// Logs what a drill will be drawn from and waits until a checkpoint covers
    /// it, cosigned where there are witnesses.
    pub async fn log_population(
        &self,
        population: &Population,
        runner: &SigningKey,
        patience: Duration,
    ) -> Result<(Place, Sealed), LogError> {
        let place = self.append(LoggedEntry::sign(population, runner)?).await?;
        let sealed = self.wait_sealed(place.index, patience).await?;
        Ok((place, sealed))
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
        match self.store.latest_checkpoint().await? {
            Some((size, bytes)) => self.read_checkpoint(size, &bytes).map(Some),
            None => Ok(None),
        }
    }

    fn read_checkpoint(&self, size: u64, bytes: &[u8]) -> Result<SignedCheckpoint, LogError> {
        let refused = LogError::Checkpoint { size };
        let Ok(checkpoint) = SignedCheckpoint::parse(bytes) else {
            return Err(refused);
        };
        if checkpoint.checkpoint().size == size && self.log_key(&checkpoint).is_some() {
            Ok(checkpoint)
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

    /// Adds an entry; nobody has sealed it yet.
    pub(crate) async fn append(&self, entry: LoggedEntry) -> Result<Place, LogError> {
        let digest = entry.digest();
        let index = self.store.append(Bytes::copy_from_slice(entry.bytes())).await?;
        Ok(Place { index, digest })
    }

    /// Waits until a checkpoint covers entry `index`.
    pub(crate) async fn wait_checkpoint(&self, index: u64, patience: Duration) -> Result<(), LogError> {
        let wait = async {
            let mut tick = tokio::time::interval(Duration::from_millis(250));
            loop {
                tick.tick().await;
                if let Some(checkpoint) = self.checkpoint().await?
                    && checkpoint.checkpoint().size > index
                {
                    return Ok(());
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

    /// Waits for the smallest checkpoint that covers entry `index` and, where
    /// witnesses are named, that one of them cosigned.
    async fn wait_sealed(&self, index: u64, patience: Duration) -> Result<Sealed, LogError> {
        let began = tokio::time::Instant::now();
        self.wait_checkpoint(index, patience).await?;
        let wait = async {
            let mut tick = tokio::time::interval(Duration::from_millis(250));
            loop {
                tick.tick().await;
                if let Some(sealed) = self.sealed(index).await? {
                    return Ok(sealed);
                }
            }
        };
        match tokio::time::timeout_at(began + patience, wait).await {
            Ok(result) => result,
            Err(_) => Err(LogError::NoWitness {
                n: index,
                names: self
                    .witnesses
                    .iter()
                    .map(NoteKey::name)
                    .collect::<Vec<_>>()
                    .join(", "),
                seconds: patience.as_secs(),
            }),
        }
    }

    async fn sealed(&self, index: u64) -> Result<Option<Sealed>, LogError> {
        for size in self.store.checkpoint_sizes().await?.range(index + 1..) {
            let Some(bytes) = self.store.checkpoint(*size).await? else {
                continue;
            };
            let mut checkpoint = self.read_checkpoint(*size, &bytes)?;
            if self.witnesses.is_empty() {
                let witness = Witness::None;
                return Ok(Some(Sealed { checkpoint, witness }));
            }
            let cosignatures = self.store.cosignatures(*size).await?;
            for witness in &self.witnesses {
                let theirs = cosignatures.get(&witness.fingerprint());
                if theirs.is_some_and(|note| checkpoint.add_cosignature(note, witness).is_ok()) {
                    let witness = Witness::Named(witness.name().to_owned());
                    return Ok(Some(Sealed { checkpoint, witness }));
                }
            }
        }
        Ok(None)
    }

    /// The checkpoint of `size` entries with the line of `witness`, as whoever
    /// waited for it held it. The line is not verified here.
    pub async fn held(&self, size: u64, witness: &Witness) -> Result<Option<SignedCheckpoint>, LogError> {
        let Some(bytes) = self.store.checkpoint(size).await? else {
            return Ok(None);
        };
        let mut checkpoint = self.read_checkpoint(size, &bytes)?;
        let Some(name) = witness.name() else {
            return Ok(Some(checkpoint));
        };
        let notes = self.store.cosignatures(size).await?;
        let taken = notes.values().any(|note| checkpoint.take_line_of(note, name));
        Ok(taken.then_some(checkpoint))
    }
}
