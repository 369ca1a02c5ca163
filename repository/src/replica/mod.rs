//! One replica: a prefix in one object store.
//!
//! A [`Replica`] creates, reads and lists; it never deletes. Every call has a
//! deadline and a bounded number of attempts with jitter between them; an error
//! names replica and object and says by its [`Class`] what to do.
//!
//! **Create.** [`Replica::create`] succeeds only when the object is on the
//! replica with exactly these bytes, durably. Creating is not idempotent on the
//! wire: an answer may be lost after the object was stored, and some stores
//! answer "exists" to a write that merely collided. So after every outcome that
//! is not a plain success the object is read back: the same bytes mean done,
//! other bytes mean a conflict, none mean try again.
//!
//! A store that was found not to refuse a second create (see [`crate::probe`]) is
//! looked at before each create; where it keeps versions, the oldest decides
//! which of two writers was first.
//!
//! **What is this place?** A replica that belongs to a repository is asked for
//! its `repository.json` before it is first used, and again when things are
//! missing: an unmounted volume or an emptied bucket is an error
//! ([`StoreError::Gone`]), never "no such object", and another repository in the
//! same place is refused.
//!
//! **If the process dies** during a create, the object is there whole or not at
//! all; the same create can be repeated. A dropped future is the same case.
//!
//! Where to read next: [`error`] for what can go wrong, [`crate::store`] for the
//! back ends, [`crate::fetch`] for reading over all replicas.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use holdfast_proto::Timestamp;
use holdfast_proto::message::RequestFacts;
use holdfast_proto::names::{ClusterId, ObjectKey, Region, RepositoryId};
use object_store::path::Path;
use object_store::{GetOptions, PutMode, PutOptions, PutPayload};

use tokio::time::Instant;

use crate::config::{ConfigError, ReplicaConfig};
use crate::layout;
use crate::store::file::Stamp;
use crate::store::{BackEnd, Protection};
use crate::tally::Tally;

mod attempts;
mod document;
mod error;
mod listings;
mod reading;

pub use attempts::Deadlines;
pub(crate) use document::{Document, FORMAT};
pub use error::{Cause, Class, Operation, StoreError, explained};

/// The most bytes that an object may have: packs are 16 MiB, the rest is
/// smaller; bundles of settings are what this leaves room for.
pub const MAX_OBJECT: u64 = 256 << 20;

/// How long a replica that failed is asked last.
const AILING_FOR: Duration = Duration::from_secs(10);

/// How long one that goes on failing is asked last: the time doubles with each
/// failure after it was up, to this.
const AILING_AT_MOST: Duration = Duration::from_secs(300);

/// How long one attempt on such a replica may take.
const AILING_PATIENCE: Duration = Duration::from_secs(3);

/// How long the sight of `repository.json` is good for when objects are missing.
const SIGHT_FOR: Duration = Duration::from_secs(10);

/// How a create ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// By this call.
    New,
    /// The same bytes were there: from an earlier call, or from an attempt of
    /// this one whose answer was lost.
    Already,
}

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key. It may be one that [`layout::parse`] does not know.
    pub key: ObjectKey,
    /// Bytes.
    pub size: u64,
    /// When it was stored, by the store's clock.
    pub modified: Timestamp,
}

/// A prefix in one object store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Replica {
    shared: Arc<Shared>,
    deadlines: Deadlines,
}

#[derive(Debug)]
struct Shared {
    region: Region,
    back: BackEnd,
    /// The repository that must lie here; unset while a replica stands alone.
    expected: OnceLock<RepositoryId>,
    sight: Mutex<Option<Sight>>,
    /// The failure of the last call; absent when it succeeded.
    ailing: Mutex<Option<Ailing>>,
    /// The store does not refuse to overwrite: look before creating.
    looks_first: AtomicBool,
    /// What was asked of it.
    tally: Tally,
}

/// A replica whose last call failed.
#[derive(Debug, Clone, Copy)]
struct Ailing {
    failed: Instant,
    /// It is asked last for this long.
    span: Duration,
}

impl Ailing {
    /// A failure at `failed`, after what was known of an earlier one.
    fn since(failed: Instant, before: Option<Self>) -> Self {
        let span = match before {
            None => AILING_FOR,
            Some(before) if before.is_asked_last(failed) => before.span,
            // It had its turn again, and failed again.
            Some(before) => AILING_AT_MOST.min(before.span * 2),
        };
        Self { failed, span }
    }

    fn is_asked_last(&self, now: Instant) -> bool {
        now < self.failed + self.span
    }

    fn has_just_failed(&self, now: Instant) -> bool {
        now < self.failed + AILING_FOR
    }
}

/// The last time that `repository.json` was seen to be the right one.
#[derive(Debug, Clone, Copy)]
struct Sight {
    at: Instant,
    stamp: Option<Stamp>,
}

impl Replica {
    /// The replica that `config` names. Contacts nothing.
    pub fn open(config: &ReplicaConfig) -> Result<Self, ConfigError> {
        Ok(Self::new(config.region.clone(), BackEnd::open(config)?))
    }

    /// A replica over an opened back end.
    pub fn new(region: Region, back: BackEnd) -> Self {
        Self {
            shared: Arc::new(Shared {
                region,
                back,
                expected: OnceLock::new(),
                sight: Mutex::new(None),
                ailing: Mutex::new(None),
                looks_first: AtomicBool::new(false),
                tally: Tally::default(),
            }),
            deadlines: Deadlines::default(),
        }
    }

    /// The same replica with other deadlines.
    pub fn with_deadlines(&self, deadlines: Deadlines) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            deadlines,
        }
    }

    /// The deadlines of this handle.
    pub fn deadlines(&self) -> Deadlines {
        self.deadlines
    }

    /// Its region.
    pub fn region(&self) -> &Region {
        &self.shared.region
    }

    /// Its URL.
    pub fn location(&self) -> &str {
        &self.shared.back.location
    }

    /// Its directory, when it is one.
    pub(crate) fn directory(&self) -> Option<&crate::store::file::Directory> {
        self.shared.back.directory.as_ref()
    }

    /// What this process asked of it for a cluster.
    pub fn requests(&self, cluster: &ClusterId) -> RequestFacts {
        RequestFacts {
            region: self.region().clone(),
            since: self.shared.tally.since(),
            requests: self.shared.tally.of(cluster),
        }
    }

    fn ailing(&self) -> Option<Ailing> {
        *self.shared.ailing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is asked last: it failed a short while ago, or goes on failing.
    pub fn is_ailing(&self) -> bool {
        self.ailing()
            .is_some_and(|ailing| ailing.is_asked_last(Instant::now()))
    }

    /// Whether its last call failed, however long ago. Reading does not wait for
    /// such a replica to come back: there may be another.
    fn has_failed(&self) -> bool {
        self.ailing().is_some()
    }

    fn note_health(&self, well: bool) {
        let mut ailing = self.shared.ailing.lock().unwrap_or_else(PoisonError::into_inner);
        *ailing = (!well).then(|| Ailing::since(Instant::now(), *ailing));
    }

    /// Whether to look before each create, because the store would overwrite.
    pub(crate) fn look_first(&self, look: bool) {
        self.shared.looks_first.store(look, Ordering::Relaxed);
    }

    /// How long one attempt may take, without what its bytes earn. A replica
    /// that has just failed gets little: it may be gone without a word.
    fn patience(&self) -> Duration {
        match self.ailing() {
            Some(ailing) if ailing.has_just_failed(Instant::now()) => {
                self.deadlines.attempt.min(AILING_PATIENCE)
            }
            _ => self.deadlines.attempt,
        }
    }

    fn path(key: &ObjectKey) -> Path {
        Path::from(key.as_str())
    }

    /// Creates the object if no other bytes stand at its key. When it returns
    /// `Ok`, the object is stored durably with exactly these bytes.
    pub async fn create(&self, key: &ObjectKey, bytes: Bytes) -> Result<Created, StoreError> {
        let size = bytes.len() as u64;
        if size > MAX_OBJECT {
            return Err(StoreError::TooLarge {
                key: key.clone(),
                size,
                limit: MAX_OBJECT,
            });
        }
        if *key != layout::repository_document() {
            self.identified().await?;
        }
        if self.shared.looks_first.load(Ordering::Relaxed) {
            match self.get_limited(key, Some(size)).await {
                Ok(there) if there == bytes => return self.settled(key).await,
                Ok(_) => return Err(self.conflict(key)),
                Err(e) if e.class() == Class::NotFound => {}
                Err(StoreError::Corrupt { .. }) => return Err(self.conflict(key)),
                Err(e) => return Err(e),
            }
        }
        let mut attempts = self.attempts(Operation::Create, key.as_str(), size);
        loop {
            let mut cause = match attempts.once(self.put(key, &bytes, PutMode::Create)).await {
                Ok(version) => {
                    self.note_health(true);
                    return self.won(key, &bytes, version).await;
                }
                Err(cause) => cause,
            };
            match cause.class() {
                Class::Conflict => {}
                Class::Retry => attempts.uncertain = true,
                _ => return Err(attempts.failed(cause)),
            }
            // It may stand there: as ours, as another's, or not at all.
            match attempts.once(self.stands(key, &bytes)).await {
                Ok(Some(true)) => return self.settled(key).await,
                Ok(Some(false)) => return Err(self.conflict(key)),
                Ok(None) => {}
                // Not known. Trying again is safe, giving up is honest.
                Err(unread) => {
                    attempts.uncertain = true;
                    match (unread.class(), cause.class()) {
                        (Class::Retry, Class::Conflict) => cause = unread,
                        (Class::Retry, _) => {}
                        _ => return Err(attempts.failed(unread)),
                    }
                }
            }
            attempts.pause(cause).await?;
        }
    }

    /// Stores `bytes` in place of a damaged copy. For healing alone: whoever
    /// calls it has verified `bytes`. Agents' credentials are refused this where
    /// the store can tell a create from an overwrite.
    pub async fn replace(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), StoreError> {
        self.identified().await?;
        let mut attempts = self.attempts(Operation::Replace, key.as_str(), bytes.len() as u64);
        loop {
            match attempts.once(self.put(key, &bytes, PutMode::Overwrite)).await {
                Ok(_) => return Ok(()),
                Err(cause) if cause.class() == Class::Retry => {
                    attempts.uncertain = true;
                    attempts.pause(cause).await?;
                }
                Err(cause) => return Err(attempts.failed(cause)),
            }
        }
    }

    /// Whether a create that the store took was the first. A store that refuses
    /// nothing but keeps versions has taken both of two creates at once: the
    /// oldest version is the winner, and the other writer puts it on top again,
    /// so that a plain read sees the winner too.
    async fn won(
        &self,
        key: &ObjectKey,
        bytes: &Bytes,
        stored: Option<String>,
    ) -> Result<Created, StoreError> {
        let open = self.shared.looks_first.load(Ordering::Relaxed) && !layout::is_content(key);
        if !(open && self.keeps_versions()) {
            return Ok(Created::New);
        }
        let versions = match self.versions(key).await {
            Ok(versions) => versions,
            // Who may not list versions cannot know better.
            Err(e) if e.class() == Class::Denied => return Ok(Created::New),
            Err(e) => return Err(e),
        };
        match versions.first() {
            Some(oldest) if oldest.id != stored && !oldest.latest => {
                let winner = self.get_version(key, oldest).await?;
                if winner == *bytes {
                    return Ok(Created::Already);
                }
                self.replace(key, winner).await?;
                Err(self.conflict(key))
            }
            _ => Ok(Created::New),
        }
    }

    /// One put; the store's name for the version it made, where it has one.
    async fn put(&self, key: &ObjectKey, bytes: &Bytes, mode: PutMode) -> Result<Option<String>, Cause> {
        if let Some(directory) = &self.shared.back.directory {
            directory.prepare(key).await?;
        }
        self.shared.tally.count(key.as_str(), |asked| {
            asked.writes += 1;
            asked.sent += bytes.len() as u64;
        });
        let options = PutOptions::from(mode);
        let put = self
            .shared
            .back
            .store
            .put_opts(&Self::path(key), PutPayload::from_bytes(bytes.clone()), options)
            .await?;
        Ok(put.version)
    }

    /// Whether exactly these bytes stand at `key`; `None` when nothing does.
    async fn stands(&self, key: &ObjectKey, bytes: &Bytes) -> Result<Option<bool>, Cause> {
        match self
            .read_once(key, GetOptions::default(), Some(bytes.len() as u64))
            .await
        {
            Ok(there) => Ok(Some(there == *bytes)),
            Err(Cause::Store(object_store::Error::NotFound { .. })) => Ok(None),
            Err(Cause::Length { .. }) => Ok(Some(false)),
            Err(cause) => Err(cause),
        }
    }

    /// An object that this call did not store counts as stored once it is
    /// durable.
    async fn settled(&self, key: &ObjectKey) -> Result<Created, StoreError> {
        self.note_health(true);
        if let Some(directory) = &self.shared.back.directory
            && let Err(e) = directory.settle(key).await
        {
            let attempts = self.attempts(Operation::Create, key.as_str(), 0);
            return Err(attempts.failed(e.into()));
        }
        Ok(Created::Already)
    }

    fn conflict(&self, key: &ObjectKey) -> StoreError {
        StoreError::Conflict {
            region: self.region().clone(),
            key: key.clone(),
        }
    }

    /// What the store does against overwriting and deleting.
    pub(crate) async fn protection(&self) -> Result<Protection, StoreError> {
        let Some(history) = &self.shared.back.history else {
            return Ok(Protection {
                versioning: self.directory().map(|_| false),
                object_lock: self.directory().map(|_| false),
            });
        };
        let mut attempts = self.attempts(Operation::Probe, "the bucket", 0);
        loop {
            let asked = async { Ok(history.protection().await?) };
            match attempts.once(asked).await {
                Ok(protection) => return Ok(protection),
                Err(cause) if cause.class() == Class::Retry => attempts.pause(cause).await?,
                Err(cause) => return Err(attempts.failed(cause)),
            }
        }
    }

    /// One plain create of `bytes` at `key`, without reading back: `true` when
    /// the store took it, `false` when it refused because the key is taken.
    pub(crate) async fn try_create(&self, key: &ObjectKey, bytes: Bytes) -> Result<bool, StoreError> {
        let mut attempts = self.attempts(Operation::Probe, key.as_str(), 0);
        loop {
            match attempts.once(self.put(key, &bytes, PutMode::Create)).await {
                Ok(_) => return Ok(true),
                Err(cause) => match cause.class() {
                    Class::Conflict => return Ok(false),
                    Class::Retry => attempts.pause(cause).await?,
                    _ => return Err(attempts.failed(cause)),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_replica_is_asked_less_and_less_often() {
        let mut now = Instant::now();
        let mut ailing = Ailing::since(now, None);
        let mut spans = Vec::new();
        for _ in 0..7 {
            assert!(ailing.is_asked_last(now + ailing.span - Duration::from_millis(1)));
            assert!(!ailing.is_asked_last(now + ailing.span));
            spans.push(ailing.span.as_secs());
            now += ailing.span;
            ailing = Ailing::since(now, Some(ailing));
        }
        assert_eq!(spans, [10, 20, 40, 80, 160, 300, 300]);
        // A failure while it is asked last anyway says nothing new.
        let again = Ailing::since(now + Duration::from_secs(1), Some(ailing));
        assert_eq!(again.span, ailing.span);
        // A single attempt is kept short only just after a failure.
        assert!(ailing.has_just_failed(now + Duration::from_secs(9)));
        assert!(!ailing.has_just_failed(now + AILING_FOR));
    }
}
