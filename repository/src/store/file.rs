//! A directory as a replica.
//!
//! object_store's local store writes beside the destination under a staged name
//! (`name#1`), fsyncs, links, and fsyncs the directory: with `with_fsync(true)`
//! a create that returned is on disk. What it leaves open is closed here:
//!
//! - A directory that another task has just made may not be on disk yet when
//!   our file in it is. [`Directory::prepare`] makes and fsyncs the directories
//!   first, once each.
//! - An object found to exist already may be one whose writer died before its
//!   fsync. [`Directory::settle`] fsyncs it before it counts as stored.
//! - A writer that is killed leaves its staged file, which no listing shows.
//!   [`Directory::sweep`] removes those older than a day; only names that are an
//!   object's key with `#` and digits appended are ever touched.
//! - Listings come unordered. [`Directory::walk`] goes in the order of keys, with
//!   memory for one directory per level.
//!
//! A directory that is not there (a volume that is not mounted) is never made by
//! a write: only [`Directory::make`], at `repo init`, makes it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::stream::BoxStream;
use holdfast_proto::Timestamp;
use holdfast_proto::names::ObjectKey;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use tokio::sync::mpsc;

use crate::layout;

/// How old a staged file must be before it is taken for abandoned.
pub const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Directories remembered as durable; beyond this the memory starts anew.
const REMEMBERED: usize = 16_384;

/// Entries of a walk that may wait for the reader.
const WALK_AHEAD: usize = 1024;

/// A file as a walk found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Path relative to the root, `/` between names.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Modification time.
    pub modified: Timestamp,
}

/// By which a file is known to be the same as before without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    mtime: (i64, i64),
}

/// The directory of a replica.
#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
    durable: Arc<Mutex<HashSet<PathBuf>>>,
}

impl Directory {
    /// The directory at `root`, which need not exist.
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            durable: Arc::default(),
        }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The store in it. Does not touch the disk.
    pub fn store(&self) -> object_store::Result<PrefixStore<LocalFileSystem>> {
        let prefix = object_store::path::Path::from_absolute_path(&self.root)?;
        Ok(PrefixStore::new(LocalFileSystem::new().with_fsync(true), prefix))
    }

    /// Makes the directory itself, durably.
    pub async fn make(&self) -> io::Result<()> {
        let this = self.clone();
        blocking(move || {
            fs::create_dir_all(&this.root)?;
            let mut at = Some(this.root.as_path());
            while let Some(dir) = at {
                // A directory above that we may not open was not made by us.
                match File::open(dir).and_then(|d| d.sync_all()) {
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::PermissionDenied => break,
                    Err(e) => return Err(e),
                }
                at = dir.parent();
            }
            Ok(())
        })
        .await
    }

    /// The stamp of the file that marks the directory as a replica.
    pub async fn marker(&self) -> io::Result<Stamp> {
        let path = self.root.join(layout::repository_document().as_str());
        blocking(move || {
            let meta = fs::metadata(path)?;
            Ok(Stamp {
                device: meta.dev(),
                inode: meta.ino(),
                mtime: (meta.mtime(), meta.mtime_nsec()),
            })
        })
        .await
    }

    /// Makes the directories above `key` and fsyncs them, each once.
    pub async fn prepare(&self, key: &ObjectKey) -> io::Result<()> {
        let missing: Vec<PathBuf> = {
            let durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
            self.above(key)
                .into_iter()
                .filter(|dir| !durable.contains(dir))
                .collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        let made = blocking(move || {
            for dir in &missing {
                match fs::create_dir(dir) {
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(e) => return Err(e),
                }
                sync_parent(dir)?;
            }
            Ok(missing)
        })
        .await?;
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if durable.len() + made.len() > REMEMBERED {
            durable.clear();
        }
        durable.extend(made);
        Ok(())
    }

    /// Directories between the root and `key`, outermost first, without the root.
    fn above(&self, key: &ObjectKey) -> Vec<PathBuf> {
        let mut dir = self.root.clone();
        let mut names: Vec<&str> = key.as_str().split('/').collect();
        names.pop();
        names
            .into_iter()
            .map(|name| {
                dir.push(name);
                dir.clone()
            })
            .collect()
    }

    /// Fsyncs an object that somebody else stored, and the directories above it.
    pub async fn settle(&self, key: &ObjectKey) -> io::Result<()> {
        let file = self.root.join(key.as_str());
        let above = self.above(key);
        blocking(move || {
            File::open(&file)?.sync_all()?;
            sync_parent(&file)?;
            above.iter().try_for_each(|dir| sync_parent(dir))
        })
        .await
    }

    /// Removes staged files that were last written before `now` minus
    /// [`ABANDONED_AFTER`]. Returns how many.
    pub async fn sweep(&self, now: SystemTime) -> io::Result<u64> {
        let root = self.root.clone();
        blocking(move || {
            let mut removed = 0;
            for entry in Walk::new(root, String::new(), Select::Staged) {
                let entry = entry?;
                let written = entry.meta.modified()?;
                if now
                    .duration_since(written)
                    .is_ok_and(|age| age >= ABANDONED_AFTER)
                {
                    match fs::remove_file(&entry.path) {
                        Ok(()) => removed += 1,
                        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                        Err(e) => return Err(e),
                    }
                }
            }
            Ok(removed)
        })
        .await
    }

    /// All objects below `prefix` (empty, or ending in `/`), in the order of
    /// their keys. Ends after the first error.
    pub fn walk(&self, prefix: &str) -> BoxStream<'static, io::Result<Found>> {
        let (sender, receiver) = mpsc::channel(WALK_AHEAD);
        let (root, prefix) = (self.root.clone(), prefix.to_owned());
        // Ends by itself when the reader goes away: the channel closes.
        let walker = tokio::task::spawn_blocking(move || {
            for entry in Walk::new(root, prefix, Select::Objects) {
                let found = entry.and_then(|entry| {
                    Ok(Found {
                        modified: Timestamp::from_chrono(entry.meta.modified()?.into()),
                        size: entry.meta.len(),
                        path: entry.key,
                    })
                });
                let failed = found.is_err();
                if sender.blocking_send(found).is_err() || failed {
                    return;
                }
            }
        });
        futures::stream::unfold((receiver, Some(walker)), |(mut receiver, walker)| async move {
            if let Some(found) = receiver.recv().await {
                return Some((found, (receiver, walker)));
            }
            // A walker that panicked must not look like the end.
            match walker?.await {
                Ok(()) => None,
                Err(e) => Some((Err(io::Error::other(e)), (receiver, None))),
            }
        })
        .boxed()
    }

    /// Names of the directories directly below `prefix`, sorted.
    pub async fn children(&self, prefix: &str) -> io::Result<Vec<String>> {
        let dir = self.root.join(prefix);
        blocking(move || {
            let mut names = Vec::new();
            for entry in read_dir(&dir)? {
                let entry = entry?;
                if entry.file_type()?.is_dir()
                    && let Ok(name) = entry.file_name().into_string()
                {
                    names.push(name);
                }
            }
            names.sort();
            Ok(names)
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// The entries of a directory; none when it does not exist.
fn read_dir(dir: &Path) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>>> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(Some(entries).into_iter().flatten()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        Err(e) => Err(e),
    }
}

/// Whether `name` is a staged name, and of what.
fn staged_for(key: &str) -> Option<&str> {
    let (object, number) = key.rsplit_once('#')?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some(object)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Select {
    /// What readers may see.
    Objects,
    /// Staged files of objects of the layout.
    Staged,
}

struct Entry {
    key: String,
    path: PathBuf,
    meta: fs::Metadata,
}

/// A depth-first walk in the order of keys as bytes: a directory sorts as its
/// name with `/` appended, which is how its contents' keys go on.
struct Walk {
    root: PathBuf,
    select: Select,
    /// Sorted names of each open directory, last first; each directory's key
    /// ends in `/` or is empty.
    open: Vec<(String, Vec<String>)>,
    start: Option<String>,
}

impl Walk {
    fn new(root: PathBuf, prefix: String, select: Select) -> Self {
        Self {
            root,
            select,
            open: Vec::new(),
            start: Some(prefix),
        }
    }

    fn enter(&mut self, key: String) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in read_dir(&self.root.join(&key))? {
            let entry = entry?;
            // A name that is not UTF-8 is nobody's key.
            let Ok(mut name) = entry.file_name().into_string() else {
                continue;
            };
            let kind = entry.file_type()?;
            // Symbolic links are not ours: an object is never one.
            if kind.is_dir() {
                name.push('/');
            } else if !kind.is_file() || staged_for(&name).is_some() != (self.select == Select::Staged) {
                continue;
            }
            names.push(name);
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        self.open.push((key, names));
        Ok(())
    }

    fn step(&mut self) -> io::Result<Option<Entry>> {
        if let Some(prefix) = self.start.take() {
            self.enter(prefix)?;
        }
        loop {
            let Some((directory, names)) = self.open.last_mut() else {
                return Ok(None);
            };
            let Some(name) = names.pop() else {
                self.open.pop();
                continue;
            };
            let key = format!("{directory}{name}");
            if key.ends_with('/') {
                self.enter(key)?;
                continue;
            }
            if self.select == Select::Staged
                && staged_for(&key).is_none_or(|object| layout::parse(object).is_none())
            {
                continue;
            }
            let path = self.root.join(&key);
            match fs::symlink_metadata(&path) {
                Ok(meta) => return Ok(Some(Entry { key, path, meta })),
                // Gone since its directory was read.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl Iterator for Walk {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;

    fn touch(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"x").unwrap();
    }

    #[tokio::test]
    async fn walks_in_the_order_of_keys() {
        let dir = tempfile::tempdir().unwrap();
        let mut keys = [
            "a-b", "a/x", "a/b/c", "a.c", "b/1-2", "b/1/2", "c#d", "trust/2", "trust/1",
        ];
        for key in keys {
            touch(&dir.path().join(key));
        }
        touch(&dir.path().join("a/x#12"));
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("a/link")).unwrap();
        keys.sort_unstable();
        let directory = Directory::new(dir.path().to_owned());
        let found: Vec<Found> = directory.walk("").try_collect().await.unwrap();
        assert_eq!(found.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), keys);
        let below: Vec<Found> = directory.walk("a/").try_collect().await.unwrap();
        assert_eq!(
            below.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(),
            ["a/b/c", "a/x"]
        );
        assert_eq!(directory.walk("none/").try_collect::<Vec<_>>().await.unwrap(), []);
        assert_eq!(directory.children("").await.unwrap(), ["a", "b", "trust"]);
    }

    #[tokio::test]
    async fn sweeps_only_old_staged_files_of_objects() {
        let dir = tempfile::tempdir().unwrap();
        let trust = layout::trust(1);
        let staged = format!("{trust}#1");
        for key in [trust.as_str(), &staged, "notes#1", "trust/readme#2"] {
            touch(&dir.path().join(key));
        }
        let directory = Directory::new(dir.path().to_owned());
        assert_eq!(
            directory.sweep(SystemTime::now()).await.unwrap(),
            0,
            "all are fresh"
        );
        let later = SystemTime::now() + ABANDONED_AFTER + Duration::from_secs(60);
        assert_eq!(directory.sweep(later).await.unwrap(), 1);
        assert!(!dir.path().join(&staged).exists());
        for kept in [trust.as_str(), "notes#1", "trust/readme#2"] {
            assert!(dir.path().join(kept).exists(), "{kept}");
        }
    }

    #[tokio::test]
    async fn a_missing_root_is_not_made_by_a_write() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path().join("unmounted"));
        assert!(directory.prepare(&layout::trust(1)).await.is_err());
        assert!(!directory.root().exists());
        directory.make().await.unwrap();
        directory.prepare(&layout::trust(1)).await.unwrap();
        assert!(directory.root().join("trust").is_dir());
    }
}
