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

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use holdfast_proto::names::{ObjectKey, Region, RepositoryId};
use holdfast_proto::{Sha256Digest, Timestamp};
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta, ObjectStoreExt, PutMode, PutOptions,
    PutPayload,
};

use tokio::time::Instant;

use crate::config::{ConfigError, ReplicaConfig};
use crate::layout;
use crate::store::file::Stamp;
use crate::store::{BackEnd, Protection, Version};

mod attempts;
mod document;
mod error;

pub use attempts::Deadlines;
pub(crate) use document::{Document, FORMAT};
pub use error::{Cause, Class, Operation, StoreError, explained};

/// The most bytes that an object may have: packs are 16 MiB, the rest is
/// smaller; bundles of settings are what this leaves room for.
pub const MAX_OBJECT: u64 = 256 << 20;

/// How long a replica that failed is asked last and once only.
const AILING_FOR: Duration = Duration::from_secs(10);

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
    /// Until when the replica counts as ailing.
    ailing: Mutex<Option<Instant>>,
    /// The store does not refuse to overwrite: look before creating.
    looks_first: AtomicBool,
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

    /// Whether it failed within the last seconds.
    pub fn is_ailing(&self) -> bool {
        let ailing = self.shared.ailing.lock().unwrap_or_else(PoisonError::into_inner);
        ailing.is_some_and(|until| Instant::now() < until)
    }

    fn note_health(&self, well: bool) {
        let mut ailing = self.shared.ailing.lock().unwrap_or_else(PoisonError::into_inner);
        *ailing = (!well).then(|| Instant::now() + AILING_FOR);
    }

    /// Whether to look before each create, because the store would overwrite.
    pub(crate) fn look_first(&self, look: bool) {
        self.shared.looks_first.store(look, Ordering::Relaxed);
    }

    /// How long one attempt may take, without what its bytes earn. A replica
    /// that has just failed gets little: it may be gone without a word.
    fn patience(&self) -> Duration {
        if self.is_ailing() {
            self.deadlines.attempt.min(AILING_PATIENCE)
        } else {
            self.deadlines.attempt
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

    /// The whole object. Its bytes are as the store returned them: nothing is
    /// verified but their number.
    pub async fn get(&self, key: &ObjectKey) -> Result<Bytes, StoreError> {
        self.get_limited(key, None).await
    }

    /// The whole object if it has `size` bytes; [`Class::Corrupt`] without
    /// reading it when it has not.
    pub(crate) async fn get_limited(&self, key: &ObjectKey, size: Option<u64>) -> Result<Bytes, StoreError> {
        self.read(key, GetOptions::default(), size).await
    }

    /// The bytes of `range`, all of them.
    pub async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            ..GetOptions::default()
        };
        self.read(key, options, Some(range.end - range.start)).await
    }

    /// One version of the object.
    pub async fn get_version(&self, key: &ObjectKey, version: &Version) -> Result<Bytes, StoreError> {
        let options = GetOptions {
            version: version.id.clone(),
            ..GetOptions::default()
        };
        self.read(key, options, Some(version.size)).await
    }

    /// The object's size; `None` when it is not there.
    pub async fn head(&self, key: &ObjectKey) -> Result<Option<u64>, StoreError> {
        Ok(self.meta(key).await?.map(|meta| meta.size))
    }

    async fn meta(&self, key: &ObjectKey) -> Result<Option<ObjectMeta>, StoreError> {
        self.identified().await?;
        let mut attempts = self.attempts(Operation::Read, key.as_str(), 0);
        loop {
            match attempts.once(self.meta_once(key)).await {
                Ok(meta) => {
                    self.note_health(true);
                    return Ok(Some(meta));
                }
                Err(cause) => match cause.class() {
                    Class::NotFound => {
                        self.still_there().await?;
                        return Ok(None);
                    }
                    Class::Retry => attempts.pause_reading(cause).await?,
                    _ => return Err(attempts.failed(cause)),
                },
            }
        }
    }

    async fn read(
        &self,
        key: &ObjectKey,
        options: GetOptions,
        expected: Option<u64>,
    ) -> Result<Bytes, StoreError> {
        self.identified().await?;
        let mut attempts = self.attempts(Operation::Read, key.as_str(), expected.unwrap_or(0));
        loop {
            match attempts
                .once(self.read_once(key, options.clone(), expected))
                .await
            {
                Ok(bytes) => {
                    self.note_health(true);
                    return Ok(bytes);
                }
                Err(cause) => match cause.class() {
                    Class::NotFound => {
                        self.still_there().await?;
                        return Err(StoreError::NotFound {
                            region: self.region().clone(),
                            key: key.clone(),
                        });
                    }
                    Class::Retry => {
                        // Stores answer a range beyond the end as they please.
                        if let Some(GetRange::Bounded(range)) = &options.range
                            && let Ok(meta) = attempts.once(self.meta_once(key)).await
                            && meta.size < range.end
                        {
                            return Err(attempts.failed(Cause::Length {
                                expected: range.end,
                                found: meta.size,
                            }));
                        }
                        attempts.pause_reading(cause).await?;
                    }
                    // A body that ends early may be a connection that did.
                    Class::Corrupt if attempts.made < 2 => attempts.pause_reading(cause).await?,
                    _ => return Err(attempts.failed(cause)),
                },
            }
        }
    }

    async fn meta_once(&self, key: &ObjectKey) -> Result<ObjectMeta, Cause> {
        Ok(self.shared.back.store.head(&Self::path(key)).await?)
    }

    async fn read_once(
        &self,
        key: &ObjectKey,
        options: GetOptions,
        expected: Option<u64>,
    ) -> Result<Bytes, Cause> {
        let answer = self.shared.back.store.get_opts(&Self::path(key), options).await?;
        let announced = answer.range.end.saturating_sub(answer.range.start);
        let length = |expected, found| Cause::Length { expected, found };
        match expected {
            Some(expected) if expected != announced => return Err(length(expected, announced)),
            None if announced > MAX_OBJECT => return Err(length(MAX_OBJECT, announced)),
            _ => {}
        }
        let bytes = collect(answer, announced).await?;
        if bytes.len() as u64 != announced {
            return Err(length(announced, bytes.len() as u64));
        }
        Ok(bytes)
    }

    /// All versions of an object, oldest first: the first is the original. One,
    /// without a name, where the store keeps only one. Empty when there is none.
    pub async fn versions(&self, key: &ObjectKey) -> Result<Vec<Version>, StoreError> {
        let Some(history) = &self.shared.back.history else {
            let only = self.meta(key).await?.map(|meta| Version {
                id: None,
                modified: Timestamp::from_chrono(meta.last_modified),
                size: meta.size,
                latest: true,
            });
            return Ok(only.into_iter().collect());
        };
        self.identified().await?;
        let mut attempts = self.attempts(Operation::Versions, key.as_str(), 0);
        loop {
            let versions = async { Ok(history.versions(&Self::path(key)).await?) };
            match attempts.once(versions).await {
                Ok(versions) => return Ok(versions),
                Err(cause) if cause.class() == Class::Retry => attempts.pause_reading(cause).await?,
                Err(cause) => return Err(attempts.failed(cause)),
            }
        }
    }

    /// Whether the store keeps versions that [`Replica::versions`] can list.
    pub fn keeps_versions(&self) -> bool {
        self.shared.back.history.is_some()
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

    /// All objects below `prefix` (which ends in `/` or is empty), sorted.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.identified().await?;
        let mut attempts = self.attempts(Operation::List, prefix, 0);
        loop {
            let listed: Result<Vec<Listed>, Cause> = self.raw_list(prefix)?.try_collect().await;
            match listed {
                Ok(mut listed) => {
                    self.still_there().await?;
                    self.note_health(true);
                    listed.sort_by(|a, b| a.key.cmp(&b.key));
                    return Ok(listed);
                }
                Err(cause) => {
                    attempts.made += 1;
                    match cause.class() {
                        Class::Retry => attempts.pause_reading(cause).await?,
                        _ => return Err(attempts.failed(cause)),
                    }
                }
            }
        }
    }

    /// All objects below `prefix` in the order of their keys, without holding
    /// them all where the back end lists in order. A stream that failed has
    /// shown a part only. Ends after the first error.
    pub fn list_stream(&self, prefix: &str) -> BoxStream<'static, Result<Listed, StoreError>> {
        let (this, prefix) = (self.clone(), prefix.to_owned());
        let begin = async move {
            if !this.shared.back.ordered {
                let listed = this.list(&prefix).await?;
                return Ok(futures::stream::iter(listed).map(Ok).boxed());
            }
            this.identified().await?;
            let raw = this.raw_list(&prefix)?;
            Ok::<_, StoreError>(this.in_order(prefix, raw))
        };
        futures::stream::once(begin).try_flatten().boxed()
    }

    /// Checks the order of a listing, and at its end that the place is still
    /// what it was.
    fn in_order(
        self,
        prefix: String,
        raw: BoxStream<'static, Result<Listed, Cause>>,
    ) -> BoxStream<'static, Result<Listed, StoreError>> {
        struct State {
            replica: Replica,
            prefix: String,
            raw: BoxStream<'static, Result<Listed, Cause>>,
            last: Option<ObjectKey>,
            over: bool,
        }
        let state = State {
            replica: self,
            prefix,
            raw,
            last: None,
            over: false,
        };
        futures::stream::unfold(state, |mut s| async move {
            if s.over {
                return None;
            }
            let failed = |s: &State, cause| {
                let mut attempts = s.replica.attempts(Operation::List, &s.prefix, 0);
                attempts.made = 1;
                attempts.failed(cause)
            };
            match s.raw.next().await {
                Some(Ok(listed)) => {
                    if s.last.as_ref().is_some_and(|last| *last >= listed.key) {
                        s.over = true;
                        let error = failed(&s, Cause::OutOfOrder(listed.key.to_string()));
                        return Some((Err(error), s));
                    }
                    s.last = Some(listed.key.clone());
                    Some((Ok(listed), s))
                }
                Some(Err(cause)) => {
                    s.over = true;
                    let error = failed(&s, cause);
                    Some((Err(error), s))
                }
                None => {
                    s.over = true;
                    match s.replica.still_there().await {
                        Ok(()) => None,
                        Err(error) => Some((Err(error), s)),
                    }
                }
            }
        })
        .boxed()
    }

    /// The back end's listing; each step has the deadline of an attempt.
    fn raw_list(&self, prefix: &str) -> Result<BoxStream<'static, Result<Listed, Cause>>, StoreError> {
        if !(prefix.is_empty() || prefix.ends_with('/')) {
            return Err(StoreError::BadPrefix {
                prefix: prefix.to_owned(),
            });
        }
        let stream: BoxStream<'static, Result<Listed, Cause>> = match &self.shared.back.directory {
            Some(directory) => directory
                .walk(prefix)
                .map(|found| {
                    let found = found?;
                    Ok(Listed {
                        key: ObjectKey::from_layout(found.path),
                        size: found.size,
                        modified: found.modified,
                    })
                })
                .boxed(),
            None => {
                let path = (!prefix.is_empty()).then(|| Path::from(prefix));
                self.shared
                    .back
                    .store
                    .list(path.as_ref())
                    .map(|found| {
                        let found = found?;
                        Ok(Listed {
                            key: ObjectKey::from_layout(found.location.to_string()),
                            size: found.size,
                            modified: Timestamp::from_chrono(found.last_modified),
                        })
                    })
                    .boxed()
            }
        };
        let patience = self.patience();
        Ok(futures::stream::unfold(stream, move |mut stream| async move {
            match tokio::time::timeout(patience, stream.next()).await {
                Ok(next) => next.map(|item| (item, stream)),
                Err(_) => Some((Err(Cause::NoAnswer(patience)), futures::stream::empty().boxed())),
            }
        })
        .boxed())
    }

    /// The names directly below `prefix` that have objects below them, sorted:
    /// for finding tenants, clusters and lineages without listing all they hold.
    pub async fn children(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        if !(prefix.is_empty() || prefix.ends_with('/')) {
            return Err(StoreError::BadPrefix {
                prefix: prefix.to_owned(),
            });
        }
        self.identified().await?;
        let mut attempts = self.attempts(Operation::List, prefix, 0);
        loop {
            match attempts.once(self.children_once(prefix)).await {
                Ok(names) => {
                    self.still_there().await?;
                    return Ok(names);
                }
                Err(cause) if cause.class() == Class::Retry => attempts.pause_reading(cause).await?,
                Err(cause) => return Err(attempts.failed(cause)),
            }
        }
    }

    async fn children_once(&self, prefix: &str) -> Result<Vec<String>, Cause> {
        if let Some(directory) = &self.shared.back.directory {
            return Ok(directory.children(prefix).await?);
        }
        let path = (!prefix.is_empty()).then(|| Path::from(prefix));
        let listed = self.shared.back.store.list_with_delimiter(path.as_ref()).await?;
        let mut names: Vec<String> = listed
            .common_prefixes
            .iter()
            .filter_map(|p| p.filename().map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }

    /// SHA-256 of the stored bytes, read now.
    pub async fn digest(&self, key: &ObjectKey) -> Result<Sha256Digest, StoreError> {
        Ok(Sha256Digest::of(&self.get(key).await?))
    }
}

/// The whole body. object_store streams local files in pieces so small that
/// most of the time is spent switching threads: they are read in one go.
async fn collect(answer: GetResult, announced: u64) -> Result<Bytes, Cause> {
    let range = answer.range.clone();
    match answer.payload {
        GetResultPayload::File(mut file, _) => {
            let read = tokio::task::spawn_blocking(move || {
                use std::io::{Read, Seek, SeekFrom};
                file.seek(SeekFrom::Start(range.start))?;
                let mut bytes = Vec::with_capacity(usize::try_from(announced).unwrap_or(0));
                file.take(announced).read_to_end(&mut bytes)?;
                Ok::<_, std::io::Error>(Bytes::from(bytes))
            });
            Ok(read.await.map_err(std::io::Error::other)??)
        }
        GetResultPayload::Stream(mut stream) => {
            let mut pieces: Vec<Bytes> = Vec::new();
            let mut found = 0u64;
            while let Some(piece) = stream.try_next().await? {
                found += piece.len() as u64;
                if found > announced {
                    return Err(Cause::Length {
                        expected: announced,
                        found,
                    });
                }
                pieces.push(piece);
            }
            Ok(match pieces.as_slice() {
                [one] => one.clone(),
                many => many.concat().into(),
            })
        }
    }
}
