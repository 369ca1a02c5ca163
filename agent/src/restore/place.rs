//! Puts the files of one part of a manifest in their places.
//!
//! Each pack that the part needs is fetched once and whole, opened on a thread
//! for such work, and its extents are written where they belong; no byte is
//! written before its block's digest was checked, and a file's own digest is
//! checked by whoever writes its last extent. Memory: `threads` packs being opened,
//! at about 20 MiB each, and [`AHEAD`] more that are fetched meanwhile.
//!
//! Nothing is synced here, but the kernel is asked to begin writing what a pack
//! brought, so that little is left at the end: whoever restores syncs the file
//! system when all is written, and only then makes the result usable. What an earlier run wrote is
//! known by the file's digest or by the keyed identity of each extent, and is left
//! as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt, TryStreamExt};
use holdfast_proto::finding::Finding;
use holdfast_proto::manifest::{CatalogueLine, Extent, Part};
use holdfast_proto::names::ClusterId;
use holdfast_proto::{Blake3Digest, Timestamp};
use holdfast_repository::FetchError;
use holdfast_repository::layout;
use holdfast_repository::manifest::{ManifestError, OpenPart, read_part};
use holdfast_repository::pack::{KnownPack, PackError, PackReader};
use holdfast_repository::seal::IndexKey;

use rustix::fs::Advice;
use tokio::sync::Semaphore;

use super::access::Access;
use crate::durable::LocalFileError;
use crate::progress::Meter;

mod in_place;

use in_place::{is_whole, without_finished};

/// Packs that are fetched while others are opened.
const AHEAD: usize = 3;
/// Bytes of one file from which it is worth asking that they be written now.
const HAND_ON: u64 = 256 << 10;

/// Files that could not be put in their places.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// No replica returned a good copy.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A pack that no replica has, and files that are in it.
    #[error("{source}. {}; --accept-lost-files restores the rest of a filestore and names what is missing", Lost(.files))]
    Lost {
        /// The pack.
        source: FetchError,
        /// The files.
        files: Vec<PathBuf>,
    },
    /// A part of the manifest cannot be believed.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A pack does not open, or not to what it should.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The catalogue names a path that leads out of the target.
    #[error("the backup names the path {0:?}, which does not stay within the target: do not restore from it")]
    Path(String),
    /// A file's content is not what the catalogue says, although its blocks are.
    #[error("{} is not what the backup's catalogue says (BLAKE3 differs): report it", .0.display())]
    Content(PathBuf),
    /// The file system refuses; a full disk is told apart.
    #[error(transparent)]
    Local(#[from] LocalFileError),
    /// The target's file system is full.
    #[error(
        "the file system of {} is full: make room and run the same restore again, it goes on where it stopped",
        .0.display()
    )]
    DiskFull(PathBuf),
    /// A worker died.
    #[error("a restore worker died: this is a defect, please report it")]
    Worker,
}

/// Files, for a sentence.
struct Lost<'a>(&'a [PathBuf]);

impl std::fmt::Display for Lost<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            [] => f.write_str("No file needs it"),
            [one] => write!(f, "{} is in it", one.display()),
            [first, rest @ ..] => write!(f, "{} and {} more files are in it", first.display(), rest.len()),
        }
    }
}

fn local(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PlaceError {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => PlaceError::DiskFull(path.to_owned()),
        _ => PlaceError::Local(LocalFileError::new(action, path, source)),
    }
}

/// A regular file to make.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Modification time, when it is to be kept.
    pub mtime: Option<Timestamp>,
    /// BLAKE3 of the content.
    pub b3: Option<Blake3Digest>,
    /// Its bytes, as extents of the part's packs.
    pub extents: Vec<Extent>,
}

impl Wanted {
    /// Each extent, and where its first byte goes.
    fn places(&self) -> impl Iterator<Item = (u64, &Extent)> {
        let mut next = 0u64;
        self.extents.iter().map(move |extent| {
            let to = next;
            next += u64::from(extent.3);
            (to, extent)
        })
    }
}

/// A file of which an earlier run may have written something.
#[derive(Debug)]
struct Begun {
    wanted: Wanted,
    /// Which of its extents are in place already; empty when none are.
    done: Vec<bool>,
    /// Extents that are still to be written.
    left: AtomicU32,
}

impl Begun {
    fn new(wanted: Wanted, done: Vec<bool>) -> Self {
        let in_place = done.iter().filter(|d| **d).count();
        let left =
            u32::try_from(wanted.extents.len() - in_place).expect("a file has fewer extents than 2^32");
        Self {
            wanted,
            done,
            left: AtomicU32::new(left),
        }
    }

    fn has(&self, extent: usize) -> bool {
        self.done.get(extent).copied().unwrap_or(false)
    }

    /// Notes that one more extent is in place; whether it was the last.
    fn one_less(&self) -> bool {
        self.left.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// What was done.
#[derive(Debug, Default)]
pub struct Placed {
    /// Files written.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that an earlier run had finished.
    pub kept: u64,
    /// Bytes of packs read.
    pub read: u64,
    /// What was wrong with copies, and was healed.
    pub findings: Vec<Finding>,
    /// Files that were left out because a pack of theirs is on no replica.
    pub lost: Vec<PathBuf>,
}

impl Placed {
    /// Adds up.
    pub fn add(&mut self, other: Placed) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.kept += other.kept;
        self.read += other.read;
        self.findings.extend(other.findings);
        self.lost.extend(other.lost);
    }
}

/// Fetches, verifies and opens one part of a manifest.
pub async fn open_part(
    access: &Access,
    cluster: &ClusterId,
    part: &Part,
) -> Result<(OpenPart, Vec<Finding>), PlaceError> {
    let repository = &access.repository;
    let index_key = layout::index(cluster, &part.index.sha256);
    let catalogue_key = layout::pack(cluster, &part.catalogue.sha256);
    let (index, catalogue) = futures::try_join!(
        repository.fetch(&index_key, &part.index.sha256, part.index.size),
        repository.fetch(&catalogue_key, &part.catalogue.sha256, part.catalogue.size)
    )?;
    let mut findings = index.findings;
    findings.extend(catalogue.findings);
    let (part, keyring) = (part.clone(), access.keyring.clone());
    let opened =
        tokio::task::spawn_blocking(move || read_part(&index.bytes, &catalogue.bytes, &part, &keyring)).await;
    Ok((opened.map_err(|_| PlaceError::Worker)??, findings))
}

/// The path of an entry, which stays below whatever it is joined to.
pub fn relative_path(line: &CatalogueLine) -> Result<PathBuf, PlaceError> {
    let bad = || PlaceError::Path(line.path.clone());
    let path = match &line.path_bytes {
        Some(encoded) => PathBuf::from(OsString::from_vec(STANDARD.decode(encoded).map_err(|_| bad())?)),
        None => PathBuf::from(&line.path),
    };
    let stays = path.components().all(|c| matches!(c, Component::Normal(_)));
    if stays && !path.as_os_str().is_empty() {
        Ok(path)
    } else {
        Err(bad())
    }
}

/// Makes a directory and what is missing above it. One that is there keeps its
/// mode.
pub fn make_directory(path: &Path, mode: u32) -> Result<(), PlaceError> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let meta = fs::symlink_metadata(path).map_err(local("examine", path))?;
            // A link here would lead what follows out of the target.
            if meta.is_dir() {
                Ok(())
            } else {
                Err(local("create", path)(e))
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let parent = path
                .parent()
                .ok_or_else(|| PlaceError::Path(path.display().to_string()))?;
            make_directory(parent, 0o700)?;
            make_directory(path, mode)
        }
        Err(e) => Err(local("create", path)(e)),
    }
}

/// How a part is put in place.
#[derive(Debug, Clone)]
pub struct Placing {
    /// Packs worked on at the same time.
    pub threads: usize,
    /// Look first for files that an earlier run finished.
    pub resumed: bool,
    /// Leave out files whose packs are lost, instead of stopping.
    pub accept_lost: bool,
    /// Bytes written are noted here.
    pub meter: Meter,
}

/// One extent's way: from a block to a place in a file.
#[derive(Debug, Clone, Copy)]
struct Move {
    block: u32,
    from: u32,
    length: u32,
    file: usize,
    to: u64,
}

/// What came of a pack.
enum Brought {
    /// It was opened, and what it holds is in place.
    Pack {
        /// Its bytes.
        read: u64,
        /// What was wrong with other copies.
        findings: Vec<Finding>,
    },
    /// No replica has it.
    Lost {
        /// Why.
        source: FetchError,
        /// The files that need it.
        files: BTreeSet<usize>,
    },
}

/// Puts `files` in their places. Their directories exist.
pub async fn place(
    access: &Access,
    cluster: &ClusterId,
    packs: &[Arc<KnownPack>],
    files: Vec<Wanted>,
    placing: &Placing,
) -> Result<Placed, PlaceError> {
    let mut placed = Placed::default();
    let files: Vec<Begun> = if placing.resumed {
        let meter = placing.meter.clone();
        let keys: Vec<IndexKey> = access.keyring.index_keys().map(|(_, key)| key.clone()).collect();
        let looked = tokio::task::spawn_blocking(move || without_finished(files, &keys, &meter)).await;
        let (left, kept) = looked.map_err(|_| PlaceError::Worker)??;
        placed.kept = kept;
        left
    } else {
        files
            .into_iter()
            .map(|wanted| Begun::new(wanted, Vec::new()))
            .collect()
    };
    let files = Arc::new(files);
    let mut by_pack: BTreeMap<u32, Vec<Move>> = BTreeMap::new();
    for (file, begun) in files.iter().enumerate() {
        for (n, (to, Extent(pack, block, from, length, _))) in begun.wanted.places().enumerate() {
            if begun.has(n) {
                continue;
            }
            let one = Move {
                block: *block,
                from: *from,
                length: *length,
                file,
                to,
            };
            by_pack.entry(*pack).or_default().push(one);
            placed.bytes += u64::from(*length);
        }
        placed.files += 1;
    }
    prepare(&files).await?;

    let threads = placing.threads.max(1);
    let turns = Arc::new(Semaphore::new(threads));
    let mut done = futures::stream::iter(by_pack)
        .map(|(pack, moves)| {
            let turns = Arc::clone(&turns);
            let known = packs.get(pack as usize).cloned();
            let files = Arc::clone(&files);
            let meter = placing.meter.clone();
            async move {
                let known = known.ok_or_else(|| {
                    ManifestError::Contradiction("an extent names a pack that is not listed".to_owned())
                })?;
                let pack = &known.pack;
                let key = layout::pack(cluster, &pack.sha256);
                let fetched = match access.repository.fetch(&key, &pack.sha256, pack.size).await {
                    Ok(fetched) => fetched,
                    Err(source) if source.is_lost() => {
                        let files: BTreeSet<usize> = moves.iter().map(|step| step.file).collect();
                        return Ok(Brought::Lost { source, files });
                    }
                    Err(error) => return Err(error.into()),
                };
                let read = pack.size;
                let keyring = access.keyring.clone();
                let _turn = turns.acquire().await.map_err(|_| PlaceError::Worker)?;
                let worked = tokio::task::spawn_blocking(move || {
                    let mut reader = PackReader::open(&fetched.bytes, &keyring, &known)?;
                    drop(fetched.bytes);
                    carry_out(&mut reader, moves, &files, &meter)
                });
                worked.await.map_err(|_| PlaceError::Worker)??;
                Ok::<_, PlaceError>(Brought::Pack {
                    read,
                    findings: fetched.findings,
                })
            }
        })
        .buffer_unordered(threads + AHEAD);
    let mut lost: BTreeSet<usize> = BTreeSet::new();
    while let Some(brought) = done.try_next().await? {
        match brought {
            Brought::Pack { read, findings } => {
                placed.read += read;
                placed.findings.extend(findings);
            }
            Brought::Lost { files, .. } if placing.accept_lost => lost.extend(files),
            Brought::Lost {
                source,
                files: numbers,
            } => {
                let paths = numbers.into_iter().map(|n| files[n].wanted.path.clone());
                return Err(PlaceError::Lost {
                    source,
                    files: paths.collect(),
                });
            }
        }
    }
    drop(done);
    for number in lost {
        // What its other packs brought of it is no file.
        let wanted = &files[number].wanted;
        match fs::remove_file(&wanted.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(local("remove", &wanted.path)(e)),
            _ => {}
        }
        placed.files -= 1;
        placed.bytes = placed.bytes.saturating_sub(wanted.size);
        placed.lost.push(wanted.path.clone());
    }
    Ok(placed)
}

/// Whether a file is written at once, by one worker.
fn is_one_extent(wanted: &Wanted) -> bool {
    wanted.extents.len() == 1
}

/// Makes the files that are written in several steps, and the empty ones.
async fn prepare(files: &Arc<Vec<Begun>>) -> Result<(), PlaceError> {
    let files = Arc::clone(files);
    let made = tokio::task::spawn_blocking(move || {
        for begun in files.iter().filter(|b| !is_one_extent(&b.wanted)) {
            let wanted = &begun.wanted;
            let file = create(wanted, begun.done.is_empty())?;
            file.set_len(wanted.size).map_err(local("write", &wanted.path))?;
            if wanted.extents.is_empty() {
                finish(wanted)?;
            }
        }
        Ok(())
    });
    made.await.map_err(|_| PlaceError::Worker)?
}

fn create(wanted: &Wanted, empty: bool) -> Result<File, PlaceError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(empty)
        .mode(wanted.mode & 0o777)
        .custom_flags(no_follow())
        .open(&wanted.path)
        .map_err(local("create", &wanted.path))
}

fn no_follow() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0)
}

/// A file that is written now.
struct Writing<'a> {
    number: usize,
    begun: &'a Begun,
    file: File,
    /// What was written of it, from the first byte to the last.
    span: Range<u64>,
}

impl<'a> Writing<'a> {
    fn open(number: usize, begun: &'a Begun) -> Result<Self, PlaceError> {
        let wanted = &begun.wanted;
        let file = if is_one_extent(wanted) {
            create(wanted, true)?
        } else {
            OpenOptions::new()
                .write(true)
                .custom_flags(no_follow())
                .open(&wanted.path)
                .map_err(local("open", &wanted.path))?
        };
        Ok(Self {
            number,
            begun,
            file,
            span: Range {
                start: u64::MAX,
                end: 0,
            },
        })
    }

    fn write(&mut self, bytes: &[u8], to: u64) -> Result<(), PlaceError> {
        let path = &self.begun.wanted.path;
        self.file.write_all_at(bytes, to).map_err(local("write", path))?;
        self.span.start = self.span.start.min(to);
        self.span.end = self.span.end.max(to + bytes.len() as u64);
        Ok(())
    }

    /// Asks the kernel to begin writing: it would otherwise wait until a good
    /// part of memory is dirty, and the sync at the end for the whole disk. That
    /// pages which are clean already may leave the cache is no loss.
    fn hand_on(self) {
        if let Some(length) = NonZeroU64::new(self.span.end.saturating_sub(self.span.start))
            && length.get() >= HAND_ON
        {
            // An advice: a file system that does not take it writes later.
            let _ = rustix::fs::fadvise(&self.file, self.span.start, Some(length), Advice::DontNeed);
        }
    }
}

/// Writes the extents that one pack holds.
fn carry_out(
    reader: &mut PackReader,
    mut moves: Vec<Move>,
    files: &[Begun],
    meter: &Meter,
) -> Result<(), PlaceError> {
    // Blocks are opened once each, files one after another.
    moves.sort_by_key(|m| (m.block, m.file, m.to));
    let mut block: Vec<u8> = Vec::new();
    let mut at_block = None;
    let mut open: Option<Writing> = None;
    for step in moves {
        if at_block != Some(step.block) {
            reader.block_into(step.block, &mut block)?;
            at_block = Some(step.block);
        }
        let begun = &files[step.file];
        let wanted = &begun.wanted;
        let (from, length) = (step.from as usize, step.length as usize);
        let bytes = block.get(from..from + length).ok_or_else(|| {
            ManifestError::Contradiction(format!(
                "an extent of {} lies outside of its block",
                wanted.path.display()
            ))
        })?;
        let mut writing = match open.take() {
            Some(same) if same.number == step.file => same,
            other => {
                if let Some(other) = other {
                    other.hand_on();
                }
                Writing::open(step.file, begun)?
            }
        };
        writing.write(bytes, step.to)?;
        if is_one_extent(wanted) {
            let differs = |b3: Blake3Digest| blake3::hash(bytes).as_bytes() != b3.as_bytes();
            if wanted.b3.is_some_and(differs) {
                return Err(PlaceError::Content(wanted.path.clone()));
            }
            set_time(&writing.file, wanted)?;
        } else if begun.one_less() {
            finish(wanted)?;
        }
        open = Some(writing);
        meter.advance(u64::from(step.length));
    }
    if let Some(last) = open {
        last.hand_on();
    }
    Ok(())
}

/// Checks a file of several extents, or of none, as a whole and gives it its
/// time.
fn finish(wanted: &Wanted) -> Result<(), PlaceError> {
    if !is_whole(wanted)? {
        return Err(PlaceError::Content(wanted.path.clone()));
    }
    if wanted.mtime.is_some() {
        let file = File::open(&wanted.path).map_err(local("open", &wanted.path))?;
        set_time(&file, wanted)?;
    }
    Ok(())
}

fn set_time(file: &File, wanted: &Wanted) -> Result<(), PlaceError> {
    let Some(mtime) = wanted.mtime else { return Ok(()) };
    let micros = u64::try_from(mtime.unix_micros()).unwrap_or(0);
    let time = SystemTime::UNIX_EPOCH + Duration::from_micros(micros);
    file.set_modified(time)
        .map_err(local("set the time of", &wanted.path))
}

/// Makes everything that was written to the file system of `path` durable.
pub async fn sync_file_system(path: &Path) -> Result<(), PlaceError> {
    let path = path.to_owned();
    let synced = tokio::task::spawn_blocking(move || {
        let directory = File::open(&path).map_err(local("open", &path))?;
        rustix::fs::syncfs(&directory).map_err(|e| local("sync", &path)(e.into()))
    });
    synced.await.map_err(|_| PlaceError::Worker)?
}
