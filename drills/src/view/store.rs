//! One replica's store as the view shows it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use holdfast_proto::Timestamp;
use holdfast_proto::names::{ObjectKey, Region};
use holdfast_repository::store::{BackEnd, Lock, Protection, Version, VersionHistory};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::{Copy, Damage, View};

/// A store behind a view.
#[derive(Debug, Clone)]
pub struct ViewedStore {
    view: View,
    region: Region,
    below: Arc<dyn ObjectStore>,
    history: Option<Arc<dyn VersionHistory>>,
}

/// What is seen at a path.
enum Seen {
    /// Bytes that were written through the view.
    Written(Bytes),
    /// A damaged copy.
    Damaged(Damage),
    /// What is stored.
    Stored,
}

#[derive(Debug, thiserror::Error)]
#[error("the drill has cut this region off")]
struct CutOff;

#[derive(Debug, thiserror::Error)]
#[error("the drill shows this object as gone")]
struct ShownGone;

fn gone(path: &Path) -> Error {
    Error::NotFound {
        path: path.to_string(),
        source: Box::new(ShownGone),
    }
}

impl ViewedStore {
    /// The replica in `region` through `view`.
    pub fn new(view: View, region: Region, back: &BackEnd) -> Self {
        Self {
            view,
            region,
            below: Arc::clone(&back.store),
            history: back.history.clone(),
        }
    }

    /// An error when the region is cut off.
    fn reach(&self) -> Result<()> {
        if !self.view.cut.contains(&self.region) {
            return Ok(());
        }
        self.view.state().refused += 1;
        Err(Error::Generic {
            store: "View",
            source: Box::new(CutOff),
        })
    }

    fn copy(&self, path: &Path) -> Copy {
        (self.region.clone(), ObjectKey::from_layout(path.to_string()))
    }

    /// What is seen at `path`. Damage counts as served when `bytes` are asked for:
    /// nobody can tell a damaged object by its size alone.
    fn see(&self, path: &Path, bytes: bool) -> Seen {
        let copy = self.copy(path);
        let mut state = self.view.state();
        if let Some(bytes) = state.written.get(&copy) {
            return Seen::Written(bytes.clone());
        }
        match state.damaged.get(&copy).copied() {
            Some(damage) => {
                if bytes {
                    state.served.insert(copy);
                }
                Seen::Damaged(damage)
            }
            None => Seen::Stored,
        }
    }

    fn is_gone(&self, path: &Path) -> bool {
        let copy = self.copy(path);
        let state = self.view.state();
        !state.written.contains_key(&copy) && state.damaged.get(&copy) == Some(&Damage::Gone)
    }

    fn shown(&self, meta: ObjectMeta) -> Option<ObjectMeta> {
        let copy = self.copy(&meta.location);
        let state = self.view.state();
        if let Some(bytes) = state.written.get(&copy) {
            return Some(ObjectMeta {
                size: bytes.len() as u64,
                ..meta
            });
        }
        match state.damaged.get(&copy) {
            Some(Damage::Gone) => None,
            Some(Damage::Truncated) => Some(ObjectMeta {
                size: meta.size / 2,
                ..meta
            }),
            Some(Damage::Flipped) | None => Some(meta),
        }
    }

    fn listed(
        &self,
        below: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        if let Err(e) = self.reach() {
            return futures::stream::once(async { Err(e) }).boxed();
        }
        let this = self.clone();
        below
            .try_filter_map(move |meta| futures::future::ready(Ok(this.shown(meta))))
            .boxed()
    }

    /// The whole of what is stored, damaged by `damage`.
    async fn damaged(&self, location: &Path, options: GetOptions, damage: Damage) -> Result<GetResult> {
        if damage == Damage::Gone {
            return Err(gone(location));
        }
        let whole = GetOptions {
            range: None,
            head: false,
            ..options.clone()
        };
        let answer = self.below.get_opts(location, whole).await?;
        let meta = answer.meta.clone();
        let mut bytes = answer.bytes().await?.to_vec();
        if damage == Damage::Truncated {
            bytes.truncate(bytes.len() / 2);
        }
        let mut served = cut_out(meta, bytes.into(), &options)?;
        if damage == Damage::Flipped && !options.head {
            let mut bytes = std::mem::take(&mut served.1).to_vec();
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 1;
            }
            served.1 = bytes.into();
        }
        Ok(answered(served))
    }
}

type Part = (ObjectMeta, Bytes, Range<u64>);

/// The part of `bytes` that is asked for.
fn cut_out(meta: ObjectMeta, bytes: Bytes, options: &GetOptions) -> Result<Part> {
    let size = bytes.len() as u64;
    let beyond = || Error::Generic {
        store: "View",
        source: "the range lies beyond the end of the object".into(),
    };
    let range = match &options.range {
        None => 0..size,
        Some(GetRange::Bounded(range)) if range.start < size => range.start..range.end.min(size),
        Some(GetRange::Offset(from)) if *from < size => *from..size,
        Some(GetRange::Suffix(length)) => size.saturating_sub(*length)..size,
        Some(_) => return Err(beyond()),
    };
    let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let part = bytes.slice(at(range.start)..at(range.end));
    let body = if options.head { Bytes::new() } else { part };
    Ok((ObjectMeta { size, ..meta }, body, range))
}

fn answered((meta, body, range): Part) -> GetResult {
    GetResult {
        payload: GetResultPayload::Stream(futures::stream::once(async { Ok(body) }).boxed()),
        meta,
        range,
        attributes: Default::default(),
        extensions: Default::default(),
    }
}

impl fmt::Display for ViewedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View({})", self.below)
    }
}

/// What a view does not let through: nothing that changes the store.
fn refused<T>(operation: &'static str) -> Result<T> {
    Err(Error::NotImplemented {
        operation: operation.to_owned(),
        implementer: "View".to_owned(),
    })
}

#[async_trait]
impl ObjectStore for ViewedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.reach()?;
        let copy = self.copy(location);
        let stands = {
            let state = self.view.state();
            state.written.contains_key(&copy) || state.damaged.get(&copy).is_some_and(|d| *d != Damage::Gone)
        };
        if options.mode == PutMode::Create {
            let stands = stands || (!self.is_gone(location) && self.below.head_of(location).await?);
            if stands {
                return Err(Error::AlreadyExists {
                    path: location.to_string(),
                    source: "the key is taken".into(),
                });
            }
        }
        self.view.state().written.insert(copy, payload.into());
        Ok(PutResult {
            e_tag: None,
            version: None,
            extensions: Default::default(),
        })
    }

    async fn put_multipart_opts(
        &self,
        _location: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        refused("put_multipart")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.reach()?;
        match self.see(location, !options.head) {
            Seen::Stored => self.below.get_opts(location, options).await,
            Seen::Damaged(damage) => self.damaged(location, options, damage).await,
            Seen::Written(bytes) => {
                let meta = ObjectMeta {
                    location: location.clone(),
                    last_modified: chrono::Utc::now(),
                    size: bytes.len() as u64,
                    e_tag: None,
                    version: None,
                };
                Ok(answered(cut_out(meta, bytes, &options)?))
            }
        }
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        futures::stream::once(async { refused("delete") }).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(self.below.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(self.below.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.reach()?;
        let mut result = self.below.list_with_delimiter(prefix).await?;
        result.objects = result.objects.into_iter().filter_map(|m| self.shown(m)).collect();
        Ok(result)
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        refused("copy")
    }
}

/// Whether something is stored at a path.
#[async_trait]
trait HeadOf {
    async fn head_of(&self, path: &Path) -> Result<bool>;
}

#[async_trait]
impl HeadOf for Arc<dyn ObjectStore> {
    async fn head_of(&self, path: &Path) -> Result<bool> {
        let head = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        match self.get_opts(path, head).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

#[async_trait]
impl VersionHistory for ViewedStore {
    /// A damaged copy has no good version, and one that was repaired has its
    /// own alone.
    async fn versions(&self, path: &Path) -> Result<Vec<Version>> {
        self.reach()?;
        let only = |size: u64| Version {
            id: None,
            modified: Timestamp::from_chrono(chrono::Utc::now()),
            size,
            latest: true,
        };
        match self.see(path, false) {
            Seen::Written(bytes) => Ok(vec![only(bytes.len() as u64)]),
            Seen::Damaged(Damage::Gone) => Ok(Vec::new()),
            Seen::Damaged(_) => Ok(vec![only(0)]),
            Seen::Stored => match &self.history {
                Some(history) => history.versions(path).await,
                None => Ok(Vec::new()),
            },
        }
    }

    fn rewritten(&self, prefix: &str) -> BoxStream<'_, Result<String>> {
        if let Err(e) = self.reach() {
            return futures::stream::once(async { Err(e) }).boxed();
        }
        match &self.history {
            Some(history) => history.rewritten(prefix),
            None => futures::stream::empty().boxed(),
        }
    }

    async fn lock(&self, path: &Path, version: Option<&str>) -> Result<Lock> {
        self.reach()?;
        match &self.history {
            Some(history) => history.lock(path, version).await,
            None => Ok(Lock::None),
        }
    }

    async fn protection(&self) -> Result<Protection> {
        self.reach()?;
        match &self.history {
            Some(history) => history.protection().await,
            None => Ok(Protection::default()),
        }
    }

    async fn delete_version(&self, _path: &Path, _version: &str) -> Result<()> {
        refused("delete_version")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;
    use std::collections::{BTreeMap, BTreeSet};

    fn region(name: &str) -> Region {
        name.parse().unwrap()
    }

    async fn viewed(view: &View, name: &str) -> (Arc<InMemory>, ViewedStore) {
        let below = Arc::new(InMemory::new());
        let bytes = Bytes::from((0u8..100).collect::<Vec<_>>());
        for key in ["whole", "flipped", "truncated", "gone"] {
            below.put(&Path::from(key), bytes.clone().into()).await.unwrap();
        }
        let back = BackEnd::from_store(below.clone());
        (below, ViewedStore::new(view.clone(), region(name), &back))
    }

    fn damage(view: &View, name: &str) {
        let damaged = [
            ("flipped", Damage::Flipped),
            ("truncated", Damage::Truncated),
            ("gone", Damage::Gone),
        ];
        view.damage(
            damaged
                .map(|(key, d)| ((region(name), ObjectKey::from_layout(key.into())), d))
                .into(),
        );
    }

    async fn bytes(store: &dyn ObjectStore, key: &str) -> Result<Bytes> {
        store.get(&Path::from(key)).await?.bytes().await
    }

    async fn keys(store: &dyn ObjectStore) -> Vec<(String, u64)> {
        let mut all: Vec<ObjectMeta> = store.list(None).try_collect().await.unwrap();
        all.sort_by(|a, b| a.location.cmp(&b.location));
        all.into_iter()
            .map(|m| (m.location.to_string(), m.size))
            .collect()
    }

    #[tokio::test]
    async fn shows_damage_and_notes_what_was_shown() {
        let view = View::default();
        let (_, store) = viewed(&view, "a").await;
        damage(&view, "a");
        assert!(view.served().is_empty());
        let whole = bytes(&store, "whole").await.unwrap();
        let flipped = bytes(&store, "flipped").await.unwrap();
        let differing = whole.iter().zip(&flipped).filter(|(a, b)| a != b).count();
        assert_eq!((differing, flipped.len()), (1, 100));
        // Whatever part is read, it is damaged.
        let part = store.get_range(&Path::from("flipped"), 10..13).await.unwrap();
        assert_ne!(part, whole.slice(10..13));
        assert_eq!(bytes(&store, "truncated").await.unwrap().len(), 50);
        assert!(matches!(bytes(&store, "gone").await, Err(Error::NotFound { .. })));
        assert_eq!(
            keys(&store).await,
            [
                ("flipped".into(), 100),
                ("truncated".into(), 50),
                ("whole".into(), 100)
            ]
        );
        let served: Vec<Damage> = view.served().into_values().collect();
        assert_eq!(served, [Damage::Flipped, Damage::Gone, Damage::Truncated]);
    }

    #[tokio::test]
    async fn what_is_written_lies_over_the_store_and_never_in_it() {
        let view = View::default();
        let (below, store) = viewed(&view, "a").await;
        damage(&view, "a");
        let before = keys(below.as_ref()).await;
        let good = bytes(below.as_ref(), "whole").await.unwrap();
        let put = |key: &'static str, mode: PutMode| {
            let (store, good) = (&store, good.clone());
            async move {
                store
                    .put_opts(&Path::from(key), good.into(), PutOptions::from(mode))
                    .await
            }
        };
        put("gone", PutMode::Create).await.unwrap();
        put("flipped", PutMode::Overwrite).await.unwrap();
        assert!(put("truncated", PutMode::Create).await.is_err());
        assert!(put("whole", PutMode::Create).await.is_err());
        for key in ["gone", "flipped"] {
            assert_eq!(bytes(&store, key).await.unwrap(), good);
        }
        assert!(store.delete(&Path::from("whole")).await.is_err());
        assert_eq!(keys(below.as_ref()).await, before);
        assert_eq!(bytes(below.as_ref(), "flipped").await.unwrap(), good);
        // Another replica is seen as it is.
        let (_, other) = viewed(&view, "b").await;
        assert_eq!(bytes(&other, "gone").await.unwrap(), good);
    }

    #[tokio::test]
    async fn a_region_that_is_cut_off_answers_nothing() {
        let view = View::cutting(BTreeSet::from([region("a")]));
        let (_, store) = viewed(&view, "a").await;
        view.damage(BTreeMap::new());
        assert!(bytes(&store, "whole").await.is_err());
        assert!(store.list(None).try_collect::<Vec<_>>().await.is_err());
        assert!(store.list_with_delimiter(None).await.is_err());
        assert!(store.put(&Path::from("x"), "x".into()).await.is_err());
        assert!(view.refused() >= 4);
    }
}
