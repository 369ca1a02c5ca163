//! Keeps the evidence log, in the coordinator's name: signs the log's checkpoints, countersigns results, and answers
//! intents that nobody came back to. Once a day it logs that the log lives; what policy asks for, whenever that
//! changes; restores that were made while nobody could log them; and, when a month is over, how much of it was drilled.
//!
//! Each pass reads what the log has gained. The coordinator signs a checkpoint
//! only over a tree that contains the one it signed before; a log that was
//! rewritten is a finding, and nothing is signed any more. It countersigns a
//! result only when the runner's key is believed for that cluster, the result
//! departs in nothing from its intent, and it claims no more than its checks
//! show. If the process dies in the middle, the next pass does what is missing.

use std::collections::BTreeMap;

use crate::evidence::entry::{Abandoned, BadEntry, Entry, LoggedEntry, Member, departs_from_intent};
use crate::evidence::lint::lint;
use crate::evidence::tlog::{Checkpoint, SignedCheckpoint, Tree};
use bytes::Bytes;
use holdfast_proto::Timestamp;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::{ClusterId, TenantName};
use holdfast_proto::record::TrustRole;
use holdfast_repository::Repository;
use holdfast_repository::evidence::{EvidenceError, EvidenceStore};
use holdfast_repository::signing::SigningKey;
use holdfast_repository::trust::Trust;

mod duties;

use duties::Duties;
pub use duties::InForce;

/// The keys that the coordinator signs evidence with.
#[derive(Debug)]
pub struct EvidenceKeys {
    /// ECDSA P-256: countersignatures and abandoned intents.
    pub coordinator: SigningKey,
    /// Ed25519: the log's checkpoints.
    pub log: SigningKey,
}

/// A pass could not be completed.
#[derive(Debug, thiserror::Error)]
pub enum EvidencePassError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] EvidenceError),
    /// The tree that was signed is not in the log any more.
    #[error(
        "the evidence log was rewritten: its first {0} entries are not those that a signed checkpoint covers. \
         Nothing is signed until a person has looked"
    )]
    Rewritten(u64),
    /// An entry cannot be made.
    #[error(transparent)]
    Entry(BadEntry),
    /// A checkpoint cannot be made.
    #[error("a checkpoint cannot be made: {0}")]
    Checkpoint(String),
}

/// What a pass did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EvidencePass {
    /// Entries in the log.
    pub entries: u64,
    /// A checkpoint was signed.
    pub checkpointed: bool,
    /// Results countersigned.
    pub countersigned: u64,
    /// Intents answered as abandoned.
    pub abandoned: u64,
    /// Restores that had waited and were logged.
    pub received: u64,
    /// What departs from what should be.
    pub findings: Vec<Finding>,
}

/// An intent that has no result yet.
#[derive(Debug, Clone)]
struct Open {
    entry: LoggedEntry,
    deadline: Timestamp,
    cluster: ClusterId,
}

/// The log as the coordinator knows it: every entry is read once.
#[derive(Debug, Default)]
pub struct EvidenceKeeper {
    tree: Tree,
    open: BTreeMap<u64, Open>,
    intents: BTreeMap<u64, LoggedEntry>,
    uncounted: Vec<(u64, LoggedEntry)>,
    duties: Duties,
    findings: Vec<Finding>,
}

impl EvidenceKeeper {
    /// A keeper that also logs what policy asks for.
    pub fn of(population: BTreeMap<TenantName, Vec<Member>>) -> Self {
        Self {
            duties: Duties::of(population),
            ..Self::default()
        }
    }

    /// Takes note of what the policy in force asks for, and of that policy.
    pub fn asks(&mut self, population: BTreeMap<TenantName, Vec<Member>>, policy: InForce) {
        self.duties.ask(population, policy);
    }

    /// One pass.
    ///
    /// # Errors
    /// The log cannot be read or added to, or was rewritten.
    pub async fn pass(
        &mut self,
        repository: &Repository,
        trust: &Trust,
        keys: &EvidenceKeys,
        now: Timestamp,
    ) -> Result<EvidencePass, EvidencePassError> {
        let store = EvidenceStore::open(repository, trust).await?;
        self.catch_up(&store, now).await?;
        let mut done = EvidencePass {
            abandoned: self.answer_abandoned(&store, keys, now).await?,
            ..EvidencePass::default()
        };
        if done.abandoned > 0 {
            self.catch_up(&store, now).await?;
        }
        done.received = self.take_pending(&store, trust, now).await?;
        if self.keep_up(&store, keys, now).await? || done.received > 0 {
            self.catch_up(&store, now).await?;
        }
        done.entries = self.tree.len();
        done.checkpointed = self.checkpoint(&store, trust, keys, repository).await?;
        done.countersigned = self.countersign(&store, trust, keys, now).await?;
        store.copy_missing().await?;
        done.findings = self.findings.clone();
        Ok(done)
    }

    async fn catch_up(&mut self, store: &EvidenceStore, now: Timestamp) -> Result<(), EvidencePassError> {
        let size = store.size().await?;
        let from = self.tree.len();
        if size < from {
            return Err(EvidencePassError::Rewritten(from));
        }
        for (n, bytes) in (from..).zip(store.entries(from, size).await?) {
            self.tree.append(&bytes);
            match LoggedEntry::parse(&bytes) {
                Ok(entry) => self.note(n, entry),
                Err(e) => self.found("evidence-entry-unreadable", n, &e.to_string(), now),
            }
        }
        Ok(())
    }

    fn note(&mut self, n: u64, entry: LoggedEntry) {
        match &entry.entry {
            Entry::Intent(intent) => {
                let open = Open {
                    entry: entry.clone(),
                    deadline: intent.deadline,
                    cluster: intent.cluster.clone(),
                };
                self.open.insert(n, open);
                self.intents.insert(n, entry);
            }
            Entry::Result(statement) => {
                if let Some(intent) = statement.predicate.drill.intent_index() {
                    self.open.remove(&intent);
                }
                self.duties.note(n, &entry);
                self.uncounted.push((n, entry));
            }
            Entry::Abandoned(abandoned) => {
                self.open.remove(&abandoned.intent);
            }
            Entry::Heartbeat(_)
            | Entry::Population(_)
            | Entry::Received(_)
            | Entry::Policy(_)
            | Entry::Coverage(_)
            | Entry::Other => self.duties.note(n, &entry),
        }
    }

    fn found(&mut self, name: &str, n: u64, detail: &str, since: Timestamp) {
        tracing::error!(
            entry = n,
            finding = name,
            err = detail,
            "an entry of the evidence log is at fault"
        );
        self.findings.push(Finding {
            name: name.to_owned(),
            subject: format!("entry {n}"),
            severity: Severity::Critical,
            detail: detail.to_owned(),
            since,
        });
    }

    async fn answer_abandoned(
        &mut self,
        store: &EvidenceStore,
        keys: &EvidenceKeys,
        now: Timestamp,
    ) -> Result<u64, EvidencePassError> {
        let late: Vec<(u64, Open)> = self
            .open
            .iter()
            .filter(|(_, o)| o.deadline < now)
            .map(|(n, o)| (*n, o.clone()))
            .collect();
        for (n, open) in &late {
            let Entry::Intent(intent) = &open.entry.entry else {
                continue;
            };
            let body = Abandoned {
                drill: intent.drill,
                cluster: open.cluster.clone(),
                intent: *n,
                intent_digest: open.entry.digest(),
                at: now,
                reason: "no result was logged before the deadline".to_owned(),
            };
            let entry = LoggedEntry::sign(&body, &keys.coordinator).map_err(EvidencePassError::Entry)?;
            store.append(Bytes::copy_from_slice(entry.bytes())).await?;
            self.open.remove(n);
        }
        Ok(late.len() as u64)
    }

    async fn checkpoint(
        &self,
        store: &EvidenceStore,
        trust: &Trust,
        keys: &EvidenceKeys,
        repository: &Repository,
    ) -> Result<bool, EvidencePassError> {
        let size = self.tree.len();
        if let Some((signed, bytes)) = store.latest_checkpoint().await? {
            let rewritten = EvidencePassError::Rewritten(signed);
            let Ok(latest) = SignedCheckpoint::parse(&bytes) else {
                return Err(rewritten);
            };
            let believed = trust.keys().any(|(_, key)| {
                key.role == TrustRole::Coordinator
                    && key.revoked.is_none()
                    && latest.verify(&key.verifying).is_ok()
            });
            let same = self
                .tree
                .root_at(signed)
                .is_ok_and(|root| root == latest.checkpoint().root);
            if !believed || !same || signed > size {
                return Err(rewritten);
            }
            if signed == size {
                return Ok(false);
            }
        }
        if size == 0 {
            return Ok(false);
        }
        let failed = |e: String| EvidencePassError::Checkpoint(e);
        let origin = crate::log::origin(repository);
        let checkpoint = SignedCheckpoint::sign(Checkpoint::new(origin, size, self.tree.root()), &keys.log)
            .map_err(|e| failed(e.to_string()))?;
        store.put_checkpoint(size, checkpoint.to_bytes().into()).await?;
        Ok(true)
    }

    async fn countersign(
        &mut self,
        store: &EvidenceStore,
        trust: &Trust,
        keys: &EvidenceKeys,
        now: Timestamp,
    ) -> Result<u64, EvidencePassError> {
        let mut signed = 0;
        for (n, entry) in std::mem::take(&mut self.uncounted) {
            let leaf = entry.digest();
            match store.signature(&leaf, TrustRole::Coordinator).await {
                Ok(Some(_)) => continue,
                Ok(None) => {}
                Err(e) => {
                    self.uncounted.push((n, entry));
                    return Err(e.into());
                }
            }
            match self.acceptable(&entry, trust) {
                Ok(()) => {
                    let mut envelope = entry.envelope.clone();
                    envelope.sign(&keys.coordinator);
                    let own = envelope.only(keys.coordinator.fingerprint()).unwrap_or(envelope);
                    store
                        .put_signature(&leaf, TrustRole::Coordinator, own.to_bytes().into())
                        .await?;
                    signed += 1;
                }
                Err(why) => self.found("evidence-result-refused", n, &why, now),
            }
        }
        Ok(signed)
    }

    /// What must hold of a result before the coordinator puts its name to it.
    fn acceptable(&self, entry: &LoggedEntry, trust: &Trust) -> Result<(), String> {
        let Entry::Result(statement) = &entry.entry else {
            return Err("it is no result".to_owned());
        };
        let key = trust
            .check(
                &entry.signer(),
                &[TrustRole::Runner],
                Some(&statement.predicate.scope.id()),
            )
            .map_err(|e| e.to_string())?;
        entry.envelope.verify(&key.verifying).map_err(|e| e.to_string())?;
        // A restore that was needed was announced by nobody; lint sees to it that
        // nothing else comes without an intent.
        if let Some(index) = statement.predicate.drill.intent_index() {
            let intent = self
                .intents
                .get(&index)
                .ok_or_else(|| format!("entry {index} is no intent"))?;
            let departures = departs_from_intent(statement, intent, index);
            if !departures.is_empty() {
                return Err(departures.join("; "));
            }
        }
        lint(statement).map_err(|found| {
            found
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; ")
        })
    }
}
