//! The agent's memory of a filestore, on its own disk.
//!
//! ```text
//! head.json        what the rest amounts to, and the journal entry it is an image of
//! intent           the number of the last journal entry that was tried
//! packs.jsonl      the packs that entries point into, by number
//! shards/XX        directories and their entries (see `record`)
//! shards/XX.next   the same, of a capture that is not committed yet
//! lock             held while a process works with all this
//! ```
//!
//! It is a cache: without it the next capture reads everything and writes a
//! checkpoint. Two separate things are believed of it.
//! - *Content*: an entry whose stat is unchanged has the content recorded, and
//!   that content lies in packs that were stored. Every shard that passes its own
//!   digest is believed that far.
//! - *Image*: all shards together are exactly what the journal says up to the
//!   entry in the head. Only when every shard has the digest in the head, and the
//!   head names the journal's newest entry, a delta may be written.
//!
//! Order of writes: packs.jsonl and intent (synced) → journal entry in the
//! repository → shards renamed into place → head (synced). A death before the
//! journal entry leaves `.next` files that are thrown away; a death after it
//! leaves a head that names an older entry than the intent, so that the journal is
//! looked up and its next entry is a checkpoint. As long as head and intent agree
//! no lookup is needed, and an unreachable replica does not matter: nobody but
//! the holder of the lease writes this journal.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_proto::envelope::Link;
use holdfast_proto::manifest::PackRef;
use holdfast_proto::names::RepositoryId;
use holdfast_proto::{Blake3Digest, ContentId, Fingerprint, Timestamp};
use holdfast_repository::pack::KnownPack;
use serde::{Deserialize, Serialize};

use super::record::{Content, Directory, Entry, Place, SHARDS, Shard, Stat, shard_of};
use crate::durable::{self, LocalFileError};

/// Where the journal stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalHead {
    /// Number of the newest entry.
    pub n: u64,
    /// That entry.
    pub link: Link,
    /// Number of the checkpoint it builds on.
    pub checkpoint: u64,
    /// When that checkpoint's scan began.
    pub checkpoint_at: Timestamp,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    repository: RepositoryId,
    index_key: Fingerprint,
    root: PathBuf,
    journal: JournalHead,
    swept: i64,
    packs: usize,
    shards: BTreeMap<usize, Blake3Digest>,
}

/// What is remembered of a directory without reading its shard.
#[derive(Debug, Clone, Copy)]
pub struct Note {
    /// As it was when listed.
    pub stat: Stat,
    /// When that was, in nanoseconds since 1970.
    pub listed: i64,
    /// Entries in it.
    pub entries: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Entries whose capture is not proven.
    pub troubled: usize,
}

impl Note {
    fn of(directory: &Directory) -> Self {
        Self {
            stat: directory.stat,
            listed: directory.listed,
            entries: directory.entries.len(),
            bytes: directory.entries.iter().map(|e| e.stat.size).sum(),
            troubled: directory.entries.iter().filter(|e| e.trouble.is_some()).count(),
        }
    }
}

/// Where content lies that is stored already, by its keyed identity. Shared by
/// the threads that pack: about 50 bytes for each distinct piece.
#[derive(Debug, Default)]
pub struct KnownContent(Mutex<HashMap<ContentId, Place>>);

impl KnownContent {
    /// Where `length` bytes with this identity lie.
    pub fn find(&self, id: &ContentId, length: u32) -> Option<Place> {
        self.held()
            .get(id)
            .copied()
            .filter(|place| place.length == length)
    }

    /// Remembers places.
    pub fn learn(&self, places: impl IntoIterator<Item = (ContentId, Place)>) {
        self.held().extend(places);
    }

    fn held(&self) -> MutexGuard<'_, HashMap<ContentId, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// To whom a cache belongs: with another repository, key or root it is another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The repository that holds the packs.
    pub repository: RepositoryId,
    /// The key of the content ids.
    pub index_key: Fingerprint,
    /// The filestore's directory.
    pub root: PathBuf,
}

/// An open cache. It holds the lock until dropped, or while it rests.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
    owner: Owner,
    journal: Option<JournalHead>,
    basis: Option<Link>,
    swept: i64,
    packs: Vec<Arc<KnownPack>>,
    packs_stored: usize,
    shards: BTreeMap<usize, Blake3Digest>,
    staged: BTreeMap<usize, Blake3Digest>,
    notes: Vec<BTreeMap<Vec<u8>, Note>>,
    known: Arc<KnownContent>,
    lock: File,
    /// `head.json` as this process last saw it.
    seen: Option<Vec<u8>>,
}

impl Cache {
    /// Opens (or begins) the cache in a directory. Waits while another process of
    /// this agent has it open.
    pub fn open(directory: &Path, owner: Owner) -> Result<Self, LocalFileError> {
        let shards = directory.join("shards");
        durable::create_directory(&shards)?;
        let lock_path = directory.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|e| LocalFileError::new("open", &lock_path, e))?;
        lock.lock()
            .map_err(|e| LocalFileError::new("lock", &lock_path, e))?;
        durable::sweep(directory)?;
        durable::sweep(&shards)?;
        let mut cache = Self {
            directory: directory.to_owned(),
            owner,
            journal: None,
            basis: None,
            swept: 0,
            packs: Vec::new(),
            packs_stored: 0,
            shards: BTreeMap::new(),
            staged: BTreeMap::new(),
            notes: vec![BTreeMap::new(); SHARDS],
            known: Arc::default(),
            lock,
            seen: None,
        };
        for shard in 0..SHARDS {
            durable::remove(&cache.next_path(shard))?;
        }
        cache.seen = durable::read(&directory.join("head.json"))?;
        let head = (cache.seen.as_deref())
            .and_then(|bytes| serde_json::from_slice::<Head>(bytes).ok())
            .filter(|head| {
                head.repository == cache.owner.repository
                    && head.index_key == cache.owner.index_key
                    && head.root == cache.owner.root
            });
        match head {
            Some(head) => cache.load(head)?,
            None => cache.forget()?,
        }
        Ok(cache)
    }

    fn load(&mut self, head: Head) -> Result<(), LocalFileError> {
        self.load_packs(head.packs)?;
        let mut image = self.packs.len() >= head.packs;
        for shard in 0..SHARDS {
            let path = self.shard_path(shard);
            let bytes = durable::read(&path)?;
            let digest = bytes.as_deref().map(digest_of);
            image &= digest == head.shards.get(&shard).copied();
            let decoded = bytes.as_deref().and_then(Shard::decode).filter(|s| self.fits(s));
            match (decoded, digest) {
                (Some(decoded), Some(digest)) => {
                    self.shards.insert(shard, digest);
                    for directory in &decoded.directories {
                        self.notes[shard].insert(directory.path.clone(), Note::of(directory));
                        self.learn(directory);
                    }
                }
                _ => durable::remove(&path)?,
            }
        }
        let intent = durable::read(&self.directory.join("intent"))?;
        image &= intent == Some(head.journal.n.to_string().into_bytes());
        self.basis = Some(head.journal.link.clone());
        self.journal = image.then_some(head.journal);
        self.swept = if image { head.swept } else { 0 };
        Ok(())
    }

    /// Reads the pack table. A line that cannot be read ends it: what points
    /// beyond is forgotten.
    fn load_packs(&mut self, wanted: usize) -> Result<(), LocalFileError> {
        let path = self.directory.join("packs.jsonl");
        let bytes = durable::read(&path)?.unwrap_or_default();
        let mut length = 0;
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            match serde_json::from_slice::<(PackRef, Vec<Blake3Digest>)>(line) {
                Ok((pack, digests)) if line.ends_with(b"\n") => {
                    self.packs.push(Arc::new(KnownPack { pack, digests }))
                }
                _ => break,
            }
            length += line.len();
            if self.packs.len() == wanted {
                break;
            }
        }
        self.packs_stored = self.packs.len();
        if length < bytes.len() {
            OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|f| f.set_len(length as u64).and_then(|()| f.sync_all()))
                .map_err(|e| LocalFileError::new("cut", &path, e))?;
        }
        Ok(())
    }

    fn fits(&self, shard: &Shard) -> bool {
        let places = (shard.directories.iter().flat_map(|d| &d.entries)).flat_map(|e| match &e.content {
            Content::File { extents, .. } => extents.as_slice(),
            _ => &[],
        });
        places.into_iter().all(|(place, _)| {
            (self.packs.get(place.pack as usize))
                .and_then(|p| p.pack.blocks.get(place.block as usize))
                .is_some_and(|(_, raw)| {
                    place
                        .offset
                        .checked_add(place.length)
                        .is_some_and(|end| end <= *raw)
                })
        })
    }

    fn learn(&mut self, directory: &Directory) {
        for entry in &directory.entries {
            if let Content::File { extents, .. } = &entry.content {
                self.known.learn(extents.iter().map(|(place, id)| (*id, *place)));
            }
        }
    }

    /// Begins from nothing.
    fn forget(&mut self) -> Result<(), LocalFileError> {
        durable::remove(&self.directory.join("head.json"))?;
        self.seen = None;
        for shard in 0..SHARDS {
            durable::remove(&self.shard_path(shard))?;
        }
        durable::remove(&self.directory.join("packs.jsonl"))
    }

    /// The journal entry that this is an exact image of, and that is the newest.
    pub fn journal(&self) -> Option<&JournalHead> {
        self.journal.as_ref()
    }

    /// The journal entry up to which packs that are remembered were committed: a
    /// replica that holds it holds all of them.
    pub fn basis(&self) -> Option<&Link> {
        self.basis.as_ref()
    }

    /// When the last full sweep began, in nanoseconds since 1970; 0 when never.
    pub fn swept(&self) -> i64 {
        self.swept
    }

    /// The directories that are remembered.
    pub fn directories(&self) -> impl Iterator<Item = (&Vec<u8>, &Note)> {
        self.notes.iter().flatten()
    }

    /// What is remembered of one directory.
    pub fn note(&self, path: &[u8]) -> Option<&Note> {
        self.notes[shard_of(path)].get(path)
    }

    /// The pack with a number, as [`Cache::add_packs`] numbered them.
    pub fn pack(&self, number: u32) -> Option<&Arc<KnownPack>> {
        self.packs.get(number as usize)
    }

    /// The number that the next pack will have.
    pub fn next_pack(&self) -> u32 {
        u32::try_from(self.packs.len()).expect("2^32 packs are 64 PiB")
    }

    /// Places of content that is stored.
    pub fn known(&self) -> Arc<KnownContent> {
        self.known.clone()
    }

    /// Appends packs to the table, numbered from [`Cache::next_pack`] on.
    pub fn add_packs(&mut self, packs: Vec<KnownPack>) {
        self.packs.extend(packs.into_iter().map(Arc::new));
    }

    /// A shard as the running capture sees it.
    pub fn shard(&self, shard: usize) -> Result<Shard, LocalFileError> {
        let path = if self.staged.contains_key(&shard) {
            self.next_path(shard)
        } else {
            self.shard_path(shard)
        };
        let bytes = durable::read(&path)?;
        match bytes {
            None => Ok(Shard::default()),
            Some(bytes) => Shard::decode(&bytes).ok_or_else(|| {
                LocalFileError::new("understand", &path, std::io::ErrorKind::InvalidData.into())
            }),
        }
    }

    /// Keeps a shard for the commit.
    pub fn stage(&mut self, number: usize, shard: &Shard) -> Result<(), LocalFileError> {
        let bytes = shard.encode();
        durable::replace_without_sync(&self.next_path(number), &bytes)?;
        self.staged.insert(number, digest_of(&bytes));
        self.notes[number].clear();
        for directory in &shard.directories {
            self.notes[number].insert(directory.path.clone(), Note::of(directory));
            self.learn(directory);
        }
        Ok(())
    }

    /// Whether a capture has changed anything.
    pub fn is_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Puts the pack table on disk: before anything in the repository counts on it.
    pub fn store_packs(&mut self) -> Result<(), LocalFileError> {
        if self.packs_stored == self.packs.len() {
            return Ok(());
        }
        let path = self.directory.join("packs.jsonl");
        let mut lines = Vec::new();
        for pack in &self.packs[self.packs_stored..] {
            serde_json::to_writer(&mut lines, &(&pack.pack, &pack.digests)).expect("packs are plain values");
            lines.push(b'\n');
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut f| f.write_all(&lines).and_then(|()| f.sync_all()))
            .map_err(|e| LocalFileError::new("append to", &path, e))?;
        durable::sync_directory(&self.directory)?;
        self.packs_stored = self.packs.len();
        Ok(())
    }

    /// Notes, durably, that a journal entry is about to be written.
    pub fn intend(&mut self, n: u64) -> Result<(), LocalFileError> {
        self.store_packs()?;
        durable::replace(&self.directory.join("intent"), n.to_string().as_bytes())
    }

    /// Makes what was staged the image of a journal entry that is committed.
    pub fn commit(&mut self, journal: JournalHead, swept: Option<i64>) -> Result<(), LocalFileError> {
        self.store_packs()?;
        for (shard, digest) in std::mem::take(&mut self.staged) {
            let path = self.shard_path(shard);
            std::fs::rename(self.next_path(shard), &path)
                .map_err(|e| LocalFileError::new("replace", &path, e))?;
            self.shards.insert(shard, digest);
        }
        self.swept = swept.unwrap_or(self.swept);
        let head = Head {
            repository: self.owner.repository,
            index_key: self.owner.index_key,
            root: self.owner.root.clone(),
            journal: journal.clone(),
            swept: self.swept,
            packs: self.packs.len(),
            shards: self.shards.clone(),
        };
        self.basis = Some(journal.link.clone());
        self.journal = Some(journal);
        let bytes = serde_json::to_vec_pretty(&head).expect("a head is plain values");
        durable::replace(&self.directory.join("head.json"), &bytes)?;
        self.seen = Some(bytes);
        Ok(())
    }

    /// Lets another process of this agent have the cache until [`Cache::resume`].
    pub fn rest(&self) -> Result<(), LocalFileError> {
        self.lock
            .unlock()
            .map_err(|e| LocalFileError::new("unlock", &self.directory, e))
    }

    /// Takes the cache again; `None` when another process has changed it or an
    /// entry was tried meanwhile, so that it has to be opened anew.
    pub fn resume(self) -> Result<Option<Self>, LocalFileError> {
        self.lock
            .lock()
            .map_err(|e| LocalFileError::new("lock", &self.directory, e))?;
        let head = durable::read(&self.directory.join("head.json"))?;
        let intent = durable::read(&self.directory.join("intent"))?;
        let expected = self.journal.as_ref().map(|head| head.n.to_string().into_bytes());
        Ok((head == self.seen && intent == expected && self.staged.is_empty()).then_some(self))
    }

    /// The entries whose capture is not proven.
    pub fn troubles(&self) -> Result<Vec<Entry>, LocalFileError> {
        let mut troubles = Vec::new();
        for shard in self.shards_in_use() {
            if self.notes[shard].values().any(|note| note.troubled > 0) {
                let entries = self.shard(shard)?.directories.into_iter().flat_map(|d| d.entries);
                troubles.extend(entries.filter(|e| e.trouble.is_some()));
            }
        }
        Ok(troubles)
    }

    /// Files and bytes remembered.
    pub fn totals(&self) -> (u64, u64) {
        self.directories().fold((0, 0), |(n, b), (_, note)| {
            (n + note.entries as u64, b + note.bytes)
        })
    }

    /// Numbers of the shards that hold any directory.
    fn shards_in_use(&self) -> BTreeSet<usize> {
        (0..SHARDS)
            .filter(|shard| !self.notes[*shard].is_empty())
            .collect()
    }

    fn shard_path(&self, shard: usize) -> PathBuf {
        self.directory.join(format!("shards/{shard:02x}"))
    }

    fn next_path(&self, shard: usize) -> PathBuf {
        self.directory.join(format!("shards/{shard:02x}.next"))
    }
}

fn digest_of(bytes: &[u8]) -> Blake3Digest {
    Blake3Digest::new(*blake3::hash(bytes).as_bytes())
}
