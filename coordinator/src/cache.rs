//! The cache on local disk: what makes a start warmer, and nothing else.
//!
//! It holds what agents last reported, the leases that are out and since when
//! findings stand. All of it comes back by itself when it is lost: the
//! repository is listed, agents call again. So whatever is wrong with it, it is
//! set aside and begun anew, and nobody is ever answered out of it before that
//! was checked.
//!
//! sled 0.34 keeps it, and is not believed: opening a damaged database panics,
//! or yields a part of it without an error. Therefore every row carries a
//! checksum over its key and value, one row (`meta`) carries the number of rows
//! and the sum of their checksums, and all of it is compared when the cache is
//! opened. A panic, an error or a mismatch sets the database aside as
//! `cache.quarantine-<time>`, and the next one gets a directory of its own:
//! threads of a database that panicked may still write where it was. One process owns the directory, by a lock on
//! `lock`. Killing the process at any instant loses at most the last writes.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_proto::Timestamp;
use holdfast_proto::names::RepositoryId;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// Version of what is in the rows.
const VERSION: u32 = 1;

/// Directories that were set aside and are kept for a look.
const QUARANTINES: usize = 3;

const META: &str = "meta";
const QUARANTINE: &str = "cache.quarantine-";

/// Rows by key.
pub type Rows = BTreeMap<String, Vec<u8>>;

/// A cache that cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The state directory cannot be made or written.
    #[error("the state directory {} cannot be used: {source}; make it writable for this user", directory.display())]
    Directory {
        /// Which.
        directory: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process has it.
    #[error(
        "another coordinator works with the state directory {}: stop it, or give this one a directory of its own",
        .0.display()
    )]
    Taken(PathBuf),
    /// The database refuses even an empty directory.
    #[error("the cache cannot be begun anew in {}: {why}", directory.display())]
    Unusable {
        /// Where.
        directory: PathBuf,
        /// Why.
        why: String,
    },
}

/// What makes a set of rows this set and no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    version: u32,
    repository: RepositoryId,
    /// One more with every write.
    generation: u64,
    rows: u64,
    sum: u64,
}

/// The open cache.
#[derive(Debug, Clone)]
pub struct Cache {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    state_dir: PathBuf,
    /// The database's own.
    directory: PathBuf,
    /// Held for as long as the process lives.
    _lock: File,
    db: Option<sled::Db>,
    meta: Meta,
    /// What is in the database.
    rows: Rows,
}

/// What was found at the start.
#[derive(Debug)]
pub struct Opened {
    /// The cache.
    pub cache: Cache,
    /// Its rows.
    pub rows: Rows,
    /// Why an earlier one was set aside.
    pub set_aside: Option<String>,
}

impl Cache {
    /// Opens the cache in `state_dir`, or begins it anew. Blocks: call it where
    /// blocking is allowed.
    pub fn open(state_dir: &Path, repository: RepositoryId, now: Timestamp) -> Result<Opened, CacheError> {
        let bad = |source| CacheError::Directory {
            directory: state_dir.to_owned(),
            source,
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .map_err(bad)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(state_dir.join("lock"))
            .map_err(bad)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| CacheError::Taken(state_dir.to_owned()))?;
        let root = state_dir.join("cache");
        std::fs::create_dir_all(&root).map_err(bad)?;
        let mut directory = match newest_database(&root).map_err(bad)? {
            Some(directory) => directory,
            None => fresh_directory(&root, now),
        };
        let (opened, set_aside) = match guarded(|| open_and_check(&directory, repository)) {
            Ok(opened) => (opened, None),
            Err(why) => {
                set_aside(&directory, state_dir, now).map_err(bad)?;
                directory = fresh_directory(&root, now);
                let anew = guarded(|| open_and_check(&directory, repository)).map_err(|why| {
                    CacheError::Unusable {
                        directory: directory.clone(),
                        why,
                    }
                })?;
                (anew, Some(why))
            }
        };
        let (db, meta, rows) = opened;
        let inner = Inner {
            state_dir: state_dir.to_owned(),
            directory,
            _lock: lock,
            db: Some(db),
            meta,
            rows: rows.clone(),
        };
        Ok(Opened {
            cache: Cache {
                inner: Arc::new(Mutex::new(inner)),
            },
            rows,
            set_aside,
        })
    }

    /// Makes the cache hold exactly `rows`. Only what differs is written. A
    /// failure sets the cache aside and begins it anew with these rows; it is
    /// returned as text, and is no reason to stop. Blocks.
    pub fn keep(&self, rows: Rows, now: Timestamp) -> Result<(), String> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.db.is_some() && inner.rows == rows {
            return Ok(());
        }
        let written = inner.write(&rows);
        if let Err(why) = written {
            inner.begin_anew(now)?;
            inner.write(&rows)?;
            return Err(why);
        }
        Ok(())
    }
}

impl Inner {
    fn write(&mut self, rows: &Rows) -> Result<(), String> {
        let Some(db) = &self.db else {
            return Err("the cache is closed".to_owned());
        };
        let mut batch = sled::Batch::default();
        for key in self.rows.keys().filter(|key| !rows.contains_key(*key)) {
            batch.remove(key.as_bytes());
        }
        for (key, value) in rows
            .iter()
            .filter(|(key, value)| self.rows.get(*key) != Some(*value))
        {
            batch.insert(key.as_bytes(), sealed(key, value));
        }
        let meta = Meta {
            generation: self.meta.generation + 1,
            rows: rows.len() as u64,
            sum: sum(rows),
            ..self.meta
        };
        let line = serde_json::to_vec(&meta).expect("numbers always serialise");
        batch.insert(META.as_bytes(), sealed(META, &line));
        guarded(|| {
            db.apply_batch(batch).map_err(|e| e.to_string())?;
            db.flush().map_err(|e| e.to_string()).map(drop)
        })?;
        self.meta = meta;
        self.rows = rows.clone();
        Ok(())
    }

    fn begin_anew(&mut self, now: Timestamp) -> Result<(), String> {
        let db = self.db.take();
        // Closing a database that is broken may panic too.
        drop(guarded(|| {
            drop(db);
            Ok(())
        }));
        set_aside(&self.directory, &self.state_dir, now).map_err(|e| e.to_string())?;
        self.directory = fresh_directory(&self.state_dir.join("cache"), now);
        let (db, meta, rows) = guarded(|| open_and_check(&self.directory, self.meta.repository))?;
        (self.db, self.meta, self.rows) = (Some(db), meta, rows);
        Ok(())
    }
}

/// Runs what may panic.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<String>().cloned();
        let why = why.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(format!(
            "the database panicked: {}",
            why.unwrap_or_default().chars().take(200).collect::<String>()
        ))
    })
}

fn checksum(key: &str, value: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_be_bytes());
    hasher.update(key.as_bytes());
    hasher.update(value);
    let hash = hasher.finalize();
    u64::from_be_bytes(
        hash.as_bytes()[..8]
            .try_into()
            .expect("a hash has more than eight bytes"),
    )
}

/// The sum over all rows: whichever is missing or too many, it differs.
fn sum(rows: &Rows) -> u64 {
    rows.iter()
        .fold(0, |sum, (key, value)| sum.wrapping_add(checksum(key, value)))
}

fn sealed(key: &str, value: &[u8]) -> Vec<u8> {
    [&checksum(key, value).to_be_bytes(), value].concat()
}

fn unsealed(key: &str, stored: &[u8]) -> Result<Vec<u8>, String> {
    let (sum, value) = stored
        .split_first_chunk::<8>()
        .ok_or_else(|| format!("row {key:?} is too short"))?;
    if u64::from_be_bytes(*sum) == checksum(key, value) {
        Ok(value.to_vec())
    } else {
        Err(format!("row {key:?} fails its checksum"))
    }
}

fn open_and_check(directory: &Path, repository: RepositoryId) -> Result<(sled::Db, Meta, Rows), String> {
    let begun = !directory.exists();
    let config = sled::Config::new()
        .path(directory)
        .flush_every_ms(Some(1000))
        .cache_capacity(16 << 20);
    let db = open_unlocked(&config)?;
    let mut rows = Rows::new();
    for row in db.iter() {
        let (key, value) = row.map_err(|e| e.to_string())?;
        let key = String::from_utf8(key.to_vec()).map_err(|_| "a row's key is not text".to_owned())?;
        let value = unsealed(&key, &value)?;
        rows.insert(key, value);
    }
    let meta = match rows.remove(META) {
        None if begun => Meta {
            version: VERSION,
            repository,
            generation: 0,
            rows: 0,
            sum: 0,
        },
        // A database that lost its end opens as if it were empty, and would
        // lose what is written next.
        None => return Err("its meta row is missing".to_owned()),
        Some(line) => {
            serde_json::from_slice::<Meta>(&line).map_err(|e| format!("its meta row cannot be read ({e})"))?
        }
    };
    if meta.version != VERSION {
        return Err(format!(
            "it has version {}, this program keeps version {VERSION}",
            meta.version
        ));
    }
    if meta.repository != repository {
        return Err(format!("it belongs to repository {}", meta.repository));
    }
    if meta.rows != rows.len() as u64 || meta.sum != sum(&rows) {
        return Err(format!(
            "it holds {} rows where {} were written",
            rows.len(),
            meta.rows
        ));
    }
    Ok((db, meta, rows))
}

/// Opens a database. Our own lock says that nobody else has it, but the threads
/// of one that was closed a moment ago may take their time to let go of theirs.
fn open_unlocked(config: &sled::Config) -> Result<sled::Db, String> {
    let mut patience = 100;
    loop {
        match config.open() {
            Ok(db) => return Ok(db),
            Err(e) if patience > 0 && e.to_string().contains("could not acquire lock") => {
                patience -= 1;
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            Err(e) => return Err(e.to_string()),
        }
    }
}

/// The database in `root` that was begun last.
fn newest_database(root: &Path) -> std::io::Result<Option<PathBuf>> {
    let mut newest = None;
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("db-") {
            newest = newest.max(Some(entry.path()));
        }
    }
    Ok(newest)
}

/// A directory that no database was ever in.
fn fresh_directory(root: &Path, now: Timestamp) -> PathBuf {
    root.join(format!("db-{}-{:08x}", now.compact(), rand::random::<u32>()))
}

/// Moves a database out of the way; the oldest of those moved earlier go.
fn set_aside(directory: &Path, state_dir: &Path, now: Timestamp) -> std::io::Result<()> {
    let name = format!("{QUARANTINE}{}-{:08x}", now.compact(), rand::random::<u32>());
    match std::fs::rename(directory, state_dir.join(name)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut old = Vec::new();
    for entry in std::fs::read_dir(state_dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(QUARANTINE) {
            old.push(entry.path());
        }
    }
    old.sort();
    for gone in old.iter().take(old.len().saturating_sub(QUARANTINES)) {
        std::fs::remove_dir_all(gone)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn id(n: u128) -> RepositoryId {
        RepositoryId::from_parts(now(), n)
    }

    fn rows(n: usize) -> Rows {
        (0..n)
            .map(|i| (format!("report/{i:05}"), vec![(i % 251) as u8; 200]))
            .collect()
    }

    fn quarantines(directory: &Path) -> usize {
        let names = std::fs::read_dir(directory).unwrap().filter_map(Result::ok);
        names
            .filter(|e| e.file_name().to_string_lossy().starts_with(QUARANTINE))
            .count()
    }

    #[test]
    fn rows_come_back_and_only_those() {
        let directory = tempfile::tempdir().unwrap();
        let opened = Cache::open(directory.path(), id(1), now()).unwrap();
        assert!(opened.rows.is_empty() && opened.set_aside.is_none());
        opened.cache.keep(rows(100), now()).unwrap();
        opened.cache.keep(rows(60), now()).unwrap();
        drop(opened);
        let opened = Cache::open(directory.path(), id(1), now()).unwrap();
        assert_eq!(opened.rows, rows(60));
        assert_eq!(opened.set_aside, None);
    }

    #[test]
    fn one_process_owns_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let _first = Cache::open(directory.path(), id(1), now()).unwrap();
        assert!(matches!(
            Cache::open(directory.path(), id(1), now()),
            Err(CacheError::Taken(_))
        ));
    }

    #[test]
    fn the_cache_of_another_repository_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let opened = Cache::open(directory.path(), id(1), now()).unwrap();
        opened.cache.keep(rows(3), now()).unwrap();
        drop(opened);
        let opened = Cache::open(directory.path(), id(2), now()).unwrap();
        assert!(opened.rows.is_empty());
        assert!(opened.set_aside.unwrap().contains("belongs to repository"));
        assert_eq!(quarantines(directory.path()), 1);
    }

    /// Damages the files in every way that was seen to go unnoticed. What comes
    /// back is everything or nothing, never a part, and it works again.
    #[test]
    fn damage_is_never_believed() {
        let (mut whole, mut anew) = (0, 0);
        for round in 0..24usize {
            let directory = tempfile::tempdir().unwrap();
            let opened = Cache::open(directory.path(), id(1), now()).unwrap();
            opened.cache.keep(rows(3000), now()).unwrap();
            drop(opened);
            let database = newest_database(&directory.path().join("cache")).unwrap().unwrap();
            let db = database.join("db");
            let mut bytes = std::fs::read(&db).unwrap();
            let place = bytes.len() / 25 * (round + 1);
            match round % 4 {
                0 => bytes[place] ^= 0x5a,
                1 => bytes[place..].iter_mut().take(4096).for_each(|b| *b = 0),
                2 => bytes.truncate(place),
                _ => std::fs::remove_file(database.join("conf")).unwrap(),
            }
            std::fs::write(&db, &bytes).unwrap();
            let opened = Cache::open(directory.path(), id(1), now()).unwrap();
            let believed = opened.rows == rows(3000);
            if believed {
                whole += 1;
            } else {
                assert!(opened.rows.is_empty(), "a part was believed in round {round}");
                anew += 1;
            }
            opened.cache.keep(rows(10), now()).unwrap();
            drop(opened);
            // A database that seemed whole may still lose what is added to it.
            let again = Cache::open(directory.path(), id(1), now()).unwrap();
            assert!(
                again.rows == rows(10) || believed && again.rows.is_empty(),
                "round {round}: {:?}",
                again.set_aside
            );
        }
        assert!(
            whole >= 1 && anew >= 10,
            "{whole} rounds kept all, {anew} began anew"
        );
    }

    #[test]
    fn old_quarantines_go() {
        let directory = tempfile::tempdir().unwrap();
        for n in 0..6 {
            std::fs::create_dir(directory.path().join("db-1")).unwrap();
            set_aside(
                &directory.path().join("db-1"),
                directory.path(),
                now().plus_millis(n * 1000),
            )
            .unwrap();
        }
        assert_eq!(quarantines(directory.path()), QUARANTINES);
    }
}
