//! Where evidence lies: the log's entries, its checkpoints, signatures that were
//! added later, files that statements name, and statements that wait.
//!
//! Entries are numbered from zero without a gap; the authority replica decides
//! who has a number, the others copy. What an entry says is not this module's
//! business. If a process dies between the authority and the other replicas,
//! [`EvidenceStore::copy_missing`] completes it later.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use holdfast_proto::names::{DrillId, ObjectKey, Region};
use holdfast_proto::record::TrustRole;
use holdfast_proto::{Fingerprint, Sha256Digest};

use crate::authority::{Authority, AuthorityError};
use crate::layout::{self, Located};
use crate::replica::{Class, Created, StoreError};
use crate::trust::Trust;
use crate::{Replica, Repository};

/// The log could not be read or added to.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// Nobody decides.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A replica failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An entry is missing in the middle.
    #[error("entry {0} of the evidence log is missing while later ones are there: evidence was removed")]
    Hole(u64),
    /// Nothing can be read.
    #[error("the evidence log cannot be read from any replica: {0}")]
    Unreachable(String),
}

/// The evidence of a repository.
#[derive(Debug, Clone)]
pub struct EvidenceStore {
    repository: Repository,
    authority: Authority,
}

impl EvidenceStore {
    /// Finds out who decides.
    pub async fn open(repository: &Repository, trust: &Trust) -> Result<Self, EvidenceError> {
        let authority = Authority::load(repository, trust).await?;
        Ok(Self {
            repository: repository.clone(),
            authority,
        })
    }

    /// The repository that it lies in.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The region of the replica that decides who has a number.
    pub fn decides(&self) -> &Region {
        &self.authority.region
    }

    /// How many entries the authority has; numbers run from zero without a gap.
    pub async fn size(&self) -> Result<u64, EvidenceError> {
        let numbers = entry_numbers(self.decider()?).await?;
        match numbers.iter().zip(0..).find(|(n, expected)| **n != *expected) {
            Some((_, missing)) => Err(EvidenceError::Hole(missing)),
            None => Ok(numbers.len() as u64),
        }
    }

    /// Entries `from..to`, from any replica.
    pub async fn entries(&self, from: u64, to: u64) -> Result<Vec<Bytes>, EvidenceError> {
        let mut out = Vec::new();
        for n in from..to {
            out.push(
                self.read(&layout::evidence_entry(n))
                    .await?
                    .ok_or(EvidenceError::Hole(n))?,
            );
        }
        Ok(out)
    }

    /// Adds an entry at the end; its number. Idempotent for the same bytes
    /// offered again right away.
    pub async fn append(&self, entry: Bytes) -> Result<u64, EvidenceError> {
        let decider = self.decider()?;
        loop {
            let n = self.size().await?;
            let key = layout::evidence_entry(n);
            match decider.create(&key, entry.clone()).await {
                Ok(Created::New | Created::Already) => {
                    self.spread(&key, &entry).await;
                    return Ok(n);
                }
                // Somebody else took the number: the next one, then.
                Err(e) if e.class() == Class::Conflict => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The largest checkpoint: its size and bytes.
    pub async fn latest_checkpoint(&self) -> Result<Option<(u64, Bytes)>, EvidenceError> {
        match self.checkpoint_sizes().await?.last() {
            Some(size) => {
                let bytes = self.read(&layout::evidence_checkpoint(*size)).await?;
                Ok(bytes.map(|b| (*size, b)))
            }
            None => Ok(None),
        }
    }

    /// The sizes of all checkpoints, on any replica within reach.
    pub async fn checkpoint_sizes(&self) -> Result<BTreeSet<u64>, EvidenceError> {
        let mut sizes = BTreeSet::new();
        let mut failed = None;
        for replica in self.repository.replicas() {
            match replica.list(&layout::evidence_checkpoints()).await {
                Ok(listed) => {
                    sizes.extend(listed.iter().filter_map(|l| match layout::parse(l.key.as_str()) {
                        Some(Located::EvidenceCheckpoint { size }) => Some(size),
                        _ => None,
                    }))
                }
                Err(e) => failed = Some(e),
            }
        }
        match failed {
            Some(e) if sizes.is_empty() && self.repository.replicas().len() == 1 => Err(e.into()),
            _ => Ok(sizes),
        }
    }

    /// The checkpoint of `size` entries.
    pub async fn checkpoint(&self, size: u64) -> Result<Option<Bytes>, EvidenceError> {
        self.read(&layout::evidence_checkpoint(size)).await
    }

    /// Stores the checkpoint of `size` entries. The first one stored counts.
    pub async fn put_checkpoint(&self, size: u64, checkpoint: Bytes) -> Result<(), EvidenceError> {
        self.put_first(&layout::evidence_checkpoint(size), &checkpoint)
            .await
    }

    /// A signature that `role` added to the entry with this digest.
    pub async fn signature(
        &self,
        leaf: &Sha256Digest,
        role: TrustRole,
    ) -> Result<Option<Bytes>, EvidenceError> {
        self.read(&layout::evidence_signature(leaf, role)).await
    }

    /// Adds a signature to the entry with this digest. The first one counts.
    pub async fn put_signature(
        &self,
        leaf: &Sha256Digest,
        role: TrustRole,
        signature: Bytes,
    ) -> Result<(), EvidenceError> {
        self.put_first(&layout::evidence_signature(leaf, role), &signature)
            .await
    }

    /// Witnesses' signatures over the checkpoint of `size` entries, by their keys.
    pub async fn cosignatures(&self, size: u64) -> Result<BTreeMap<Fingerprint, Bytes>, EvidenceError> {
        let mut found = BTreeMap::new();
        for listed in self.decider()?.list(&layout::evidence_cosignatures(size)).await? {
            if let Some(Located::EvidenceCosignature { witness, .. }) = layout::parse(listed.key.as_str())
                && let Some(bytes) = self.read(&listed.key).await?
            {
                found.insert(witness, bytes);
            }
        }
        Ok(found)
    }

    /// Adds a witness's signature over the checkpoint of `size` entries. The
    /// first one of each key counts.
    pub async fn put_cosignature(
        &self,
        size: u64,
        witness: &Fingerprint,
        note: Bytes,
    ) -> Result<(), EvidenceError> {
        self.put_first(&layout::evidence_cosignature(size, witness), &note)
            .await
    }

    /// A file that a statement names, whole and of that digest, or `None`.
    pub async fn byproduct(&self, sha256: &Sha256Digest) -> Result<Option<Bytes>, EvidenceError> {
        let found = self.read(&layout::evidence_byproduct(sha256)).await?;
        Ok(found.filter(|bytes| Sha256Digest::of(bytes) == *sha256))
    }

    /// Stores a file that a statement will name; its digest.
    pub async fn put_byproduct(&self, bytes: Bytes) -> Result<Sha256Digest, EvidenceError> {
        let sha256 = Sha256Digest::of(&bytes);
        self.put_first(&layout::evidence_byproduct(&sha256), &bytes)
            .await?;
        Ok(sha256)
    }

    /// Leaves a statement to be logged later, on every replica within reach:
    /// whoever decides may be the region that was lost. Returns how many have it.
    pub async fn put_pending(
        repository: &Repository,
        drill: DrillId,
        envelope: Bytes,
    ) -> Result<usize, EvidenceError> {
        let key = layout::evidence_pending(drill);
        let (mut stored, mut failed) = (0, None);
        for replica in repository.replicas() {
            match replica.create(&key, envelope.clone()).await {
                Ok(_) => stored += 1,
                Err(e) => failed = Some(e),
            }
        }
        match failed {
            Some(e) if stored == 0 => Err(e.into()),
            _ => Ok(stored),
        }
    }

    /// Statements that wait, or waited, to be logged, from every replica within
    /// reach. The same drill may be there with different bytes.
    pub async fn pending(&self) -> Result<Vec<(DrillId, Bytes)>, EvidenceError> {
        let mut found = BTreeSet::new();
        for replica in self.repository.replicas() {
            let Ok(listed) = replica.list(&layout::evidence_pendings()).await else {
                continue;
            };
            for object in listed {
                if let Some(Located::EvidencePending { drill }) = layout::parse(object.key.as_str())
                    && let Ok(bytes) = replica.get(&object.key).await
                {
                    found.insert((drill, bytes));
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    async fn put_first(&self, key: &ObjectKey, bytes: &Bytes) -> Result<(), EvidenceError> {
        match self.decider()?.create(key, bytes.clone()).await {
            Ok(_) => self.spread(key, bytes).await,
            Err(e) if e.class() == Class::Conflict => {}
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    /// Copies entries, checkpoints and signatures that a replica lacks. Returns
    /// how many were copied.
    pub async fn copy_missing(&self) -> Result<u64, EvidenceError> {
        let decider = self.decider()?;
        let all: BTreeSet<ObjectKey> = decider
            .list(&layout::evidence_all())
            .await?
            .into_iter()
            .map(|l| l.key)
            .collect();
        let mut copied = 0;
        for replica in self.others() {
            let Ok(listed) = replica.list(&layout::evidence_all()).await else {
                continue;
            };
            let has: BTreeSet<ObjectKey> = listed.into_iter().map(|l| l.key).collect();
            for key in all.difference(&has) {
                let bytes = decider.get(key).await?;
                replica.create(key, bytes).await?;
                copied += 1;
            }
        }
        Ok(copied)
    }

    fn decider(&self) -> Result<&Replica, EvidenceError> {
        Ok(self.authority.replica(&self.repository)?)
    }

    fn others(&self) -> impl Iterator<Item = &Replica> {
        self.repository
            .replicas()
            .iter()
            .filter(|r| *r.region() != self.authority.region)
    }

    async fn spread(&self, key: &ObjectKey, bytes: &Bytes) {
        for replica in self.others() {
            if let Err(e) = replica.create(key, bytes.clone()).await {
                tracing::warn!(%key, region = %replica.region(), err = %e, "evidence is not on every replica yet");
            }
        }
    }

    /// What the authority says counts; others are asked only when it is silent,
    /// and then absence proves nothing.
    async fn read(&self, key: &ObjectKey) -> Result<Option<Bytes>, EvidenceError> {
        let mut silent = match self.decider()?.get(key).await {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(e) if e.class() == Class::NotFound => return Ok(None),
            Err(e) => e,
        };
        for replica in self.others() {
            match replica.get(key).await {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(e) => silent = e,
            }
        }
        Err(EvidenceError::Unreachable(silent.to_string()))
    }
}

async fn entry_numbers(replica: &Replica) -> Result<BTreeSet<u64>, EvidenceError> {
    let listed = replica.list(&layout::evidence_entries()).await?;
    Ok(listed
        .iter()
        .filter_map(|l| match layout::parse(l.key.as_str()) {
            Some(Located::EvidenceEntry { n }) => Some(n),
            _ => None,
        })
        .collect())
}
