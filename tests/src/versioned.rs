//! A store in memory that keeps versions, as a bucket with versioning does:
//! overwriting and deleting hide what was there, and lose nothing.
//!
//! It takes overwrites (as the credentials of a thief may), refuses a second
//! conditional create, and lists versions as [`VersionHistory`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use holdfast_proto::Timestamp;
use holdfast_repository::store::{BackEnd, Lock, Protection, Version, VersionHistory};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

#[derive(Debug, Clone)]
struct Kept {
    id: String,
    modified: chrono::DateTime<chrono::Utc>,
    /// Absent for a delete marker.
    bytes: Option<Bytes>,
}

/// The store.
#[derive(Debug, Clone, Default)]
pub struct VersionedStore {
    objects: Arc<Mutex<BTreeMap<Path, Vec<Kept>>>>,
    /// Ignores the condition on create, as some stores do.
    careless: bool,
    /// What keeps every version.
    lock: Option<Lock>,
}

impl VersionedStore {
    /// A store whose every version is locked so.
    pub fn locked(lock: Lock) -> Self {
        Self {
            lock: Some(lock),
            ..Self::default()
        }
    }

    /// A store that overwrites in spite of a conditional create.
    pub fn careless() -> Self {
        Self {
            careless: true,
            ..Self::default()
        }
    }

    /// The back end of a replica on this store.
    pub fn back_end(&self) -> BackEnd {
        BackEnd {
            history: Some(Arc::new(self.clone())),
            ..BackEnd::from_store(Arc::new(self.clone()))
        }
    }

    /// Hides an object behind a delete marker.
    pub fn delete(&self, key: &str) {
        self.keep(&Path::from(key), None);
    }

    fn keep(&self, path: &Path, bytes: Option<Bytes>) -> String {
        let mut objects = self.objects.lock().expect("no holder panics");
        let versions = objects.entry(path.clone()).or_default();
        let id = format!("v{}", versions.len());
        versions.push(Kept {
            id: id.clone(),
            modified: chrono::Utc::now(),
            bytes,
        });
        id
    }

    fn current(&self, path: &Path) -> Option<Kept> {
        let objects = self.objects.lock().expect("no holder panics");
        objects
            .get(path)?
            .last()
            .filter(|kept| kept.bytes.is_some())
            .cloned()
    }

    fn metas(&self, prefix: Option<&Path>) -> Vec<ObjectMeta> {
        let objects = self.objects.lock().expect("no holder panics");
        objects
            .iter()
            .filter(|(path, _)| prefix.is_none_or(|prefix| path.prefix_matches(prefix) && *path != prefix))
            .filter_map(|(path, versions)| {
                Some(meta(path, versions.last().filter(|kept| kept.bytes.is_some())?))
            })
            .collect()
    }
}

fn meta(path: &Path, kept: &Kept) -> ObjectMeta {
    ObjectMeta {
        location: path.clone(),
        last_modified: kept.modified,
        size: kept.bytes.as_ref().map_or(0, |b| b.len() as u64),
        e_tag: None,
        version: Some(kept.id.clone()),
    }
}

impl fmt::Display for VersionedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Versioned")
    }
}

fn not_implemented(operation: &str) -> Error {
    Error::NotImplemented {
        operation: operation.to_owned(),
        implementer: "VersionedStore".to_owned(),
    }
}

#[async_trait]
impl VersionHistory for VersionedStore {
    async fn versions(&self, path: &Path) -> Result<Vec<Version>> {
        let objects = self.objects.lock().expect("no holder panics");
        let versions = objects.get(path).map_or(&[][..], Vec::as_slice);
        let last = versions.len().saturating_sub(1);
        Ok(versions
            .iter()
            .enumerate()
            .filter_map(|(i, kept)| {
                Some(Version {
                    id: Some(kept.id.clone()),
                    modified: Timestamp::from_chrono(kept.modified),
                    size: kept.bytes.as_ref()?.len() as u64,
                    latest: i == last,
                })
            })
            .collect())
    }

    fn rewritten(&self, prefix: &str) -> BoxStream<'_, Result<String>> {
        let objects = self.objects.lock().expect("no holder panics");
        let keys: Vec<Result<String>> = objects
            .iter()
            .filter(|(path, kept)| {
                path.as_ref().starts_with(prefix)
                    && (kept.len() > 1 || kept.iter().any(|k| k.bytes.is_none()))
            })
            .map(|(path, _)| Ok(path.to_string()))
            .collect();
        futures::stream::iter(keys).boxed()
    }

    async fn lock(&self, _path: &Path, _version: Option<&str>) -> Result<Lock> {
        Ok(self.lock.unwrap_or(Lock::None))
    }

    async fn protection(&self) -> Result<Protection> {
        Ok(Protection {
            versioning: Some(true),
            object_lock: Some(false),
        })
    }

    async fn delete_version(&self, path: &Path, version: &str) -> Result<()> {
        let mut objects = self.objects.lock().expect("no holder panics");
        if let Some(versions) = objects.get_mut(path) {
            versions.retain(|kept| kept.id != version);
        }
        Ok(())
    }
}

#[async_trait]
impl ObjectStore for VersionedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        // Between looking and storing there is time for others.
        tokio::task::yield_now().await;
        if options.mode == PutMode::Create && !self.careless && self.current(location).is_some() {
            return Err(Error::AlreadyExists {
                path: location.to_string(),
                source: "the key is taken".into(),
            });
        }
        Ok(PutResult {
            e_tag: None,
            version: Some(self.keep(location, Some(payload.into()))),
            extensions: Default::default(),
        })
    }

    async fn put_multipart_opts(
        &self,
        _location: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(not_implemented("put_multipart_opts"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let kept = match &options.version {
            None => self.current(location),
            Some(id) => {
                let objects = self.objects.lock().expect("no holder panics");
                let versions = objects.get(location);
                versions.and_then(|v| v.iter().find(|kept| kept.id == *id).cloned())
            }
        };
        let Some((kept, bytes)) = kept.and_then(|kept| kept.bytes.clone().map(|bytes| (kept, bytes))) else {
            return Err(Error::NotFound {
                path: location.to_string(),
                source: "there is no such version".into(),
            });
        };
        let meta = meta(location, &kept);
        let range = match &options.range {
            None => 0..meta.size,
            Some(range) => range.as_range(meta.size).map_err(|e| Error::Generic {
                store: "Versioned",
                source: Box::new(e),
            })?,
        };
        let body = bytes.slice(range.start as usize..range.end as usize);
        Ok(GetResult {
            payload: GetResultPayload::Stream(futures::stream::once(async { Ok(body) }).boxed()),
            meta,
            range,
            attributes: Default::default(),
            extensions: Default::default(),
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        locations
            .map_ok(move |location| {
                this.keep(&location, None);
                location
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        futures::stream::iter(self.metas(prefix)).map(Ok).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let root = prefix.cloned().unwrap_or_default();
        let mut objects = Vec::new();
        let mut prefixes = std::collections::BTreeSet::new();
        for meta in self.metas(prefix) {
            let parts: Vec<String> = meta
                .location
                .prefix_match(&root)
                .into_iter()
                .flatten()
                .map(|part| part.as_ref().to_owned())
                .collect();
            match parts.as_slice() {
                [_] => objects.push(meta),
                [first, ..] => {
                    prefixes.insert(root.clone().join(first.as_str()));
                }
                [] => {}
            }
        }
        Ok(ListResult {
            common_prefixes: prefixes.into_iter().collect(),
            objects,
            extensions: Default::default(),
        })
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        Err(not_implemented("copy_opts"))
    }
}
