//! Reading from one replica.
//!
//! What is returned is what the store returned, and all of it: fewer bytes than
//! announced or asked for are an error. Whether they are the right bytes, digests
//! and signatures say ([`crate::fetch`], [`crate::signed`]).

use std::ops::Range;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use holdfast_proto::names::ObjectKey;
use holdfast_proto::{Sha256Digest, Timestamp};
use object_store::{GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta, ObjectStoreExt};

use super::{Cause, Class, MAX_OBJECT, Operation, Replica, StoreError};
use crate::store::{Lock, Version};

impl Replica {
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
        self.shared.tally.count(key.as_str(), |asked| asked.reads += 1);
        match self.shared.back.store.head(&Self::path(key)).await {
            Ok(meta) => Ok(meta),
            Err(error) => Err(self.denied_or_absent(key, error).await),
        }
    }

    /// S3 says "denied" instead of "not there" to whoever may not list the whole
    /// bucket, which is how a policy confines an agent to its own prefix. The
    /// versions of the one key may be listed: when there is no current one, the
    /// object is absent. When they may not be listed either, it stays "denied".
    async fn denied_or_absent(&self, key: &ObjectKey, error: object_store::Error) -> Cause {
        if let (object_store::Error::PermissionDenied { .. }, Some(history)) =
            (&error, &self.shared.back.history)
            && let Ok(versions) = history.versions(&Self::path(key)).await
            && !versions.iter().any(|version| version.latest)
        {
            return Cause::Store(object_store::Error::NotFound {
                path: key.to_string(),
                source: Box::new(error),
            });
        }
        Cause::Store(error)
    }

    pub(super) async fn read_once(
        &self,
        key: &ObjectKey,
        options: GetOptions,
        expected: Option<u64>,
    ) -> Result<Bytes, Cause> {
        let named = options.version.is_some();
        self.shared.tally.count(key.as_str(), |asked| asked.reads += 1);
        let answer = match self.shared.back.store.get_opts(&Self::path(key), options).await {
            Ok(answer) => answer,
            // Whether one version may be read says nothing of the current one.
            Err(error) if named => return Err(error.into()),
            Err(error) => return Err(self.denied_or_absent(key, error).await),
        };
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
        self.shared
            .tally
            .count(key.as_str(), |asked| asked.received += announced);
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

    /// The objects below `prefix` that are not as they were created: each has
    /// more than one version, or was deleted. Sorted; empty where the store keeps
    /// no versions.
    pub async fn rewritten(&self, prefix: &str) -> Result<Vec<ObjectKey>, StoreError> {
        let Some(history) = &self.shared.back.history else {
            return Ok(Vec::new());
        };
        self.identified().await?;
        let mut attempts = self.attempts(Operation::Versions, prefix, 0);
        loop {
            let rewritten: Result<Vec<ObjectKey>, Cause> = history
                .rewritten(prefix)
                .map(|key| Ok(ObjectKey::from_layout(key?)))
                .try_collect()
                .await;
            match rewritten {
                Ok(keys) => return Ok(keys),
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

    /// What keeps the original of an object from being deleted; `None` where the store
    /// has no versions to lock, or no such object.
    ///
    /// # Errors
    /// The store does not say, or the credentials may not ask.
    pub async fn lock(&self, key: &ObjectKey) -> Result<Option<Lock>, StoreError> {
        let Some(history) = &self.shared.back.history else {
            return Ok(None);
        };
        let Some(original) = self.versions(key).await?.into_iter().next() else {
            return Ok(None);
        };
        let mut attempts = self.attempts(Operation::Lock, key.as_str(), 0);
        loop {
            let lock = async { Ok(history.lock(&Self::path(key), original.id.as_deref()).await?) };
            match attempts.once(lock).await {
                Ok(lock) => return Ok(Some(lock)),
                Err(cause) if cause.class() == Class::Retry => attempts.pause_reading(cause).await?,
                Err(cause) => return Err(attempts.failed(cause)),
            }
        }
    }

    /// Whether the store keeps versions that [`Replica::versions`] can list.
    pub fn keeps_versions(&self) -> bool {
        self.shared.back.history.is_some()
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
