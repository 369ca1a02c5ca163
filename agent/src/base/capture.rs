//! Copies the files of a running data directory into packs, on several threads.
//!
//! Each worker takes the next job, reads, verifies pages, and feeds its own
//! packer; full packs go to the replicas while the worker goes on, as many at a
//! time as memory allows. Entries whose packs are sealed are put together from
//! their fragments and listed in parts.
//!
//! The sizes are those that the walk saw, or for files in one piece the size
//! when the file is opened: what is added later is in the WAL. A file that has
//! vanished by the time it is opened is no entry; one that cannot be read ends
//! the backup.
//!
//! Nothing here commits anything. If the process dies, packs stay that no
//! manifest lists.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_proto::ContentId;
use holdfast_proto::manifest::{BLOCK, CatalogueLine, EntryType, Part};
use holdfast_proto::pg::Lsn;
use holdfast_proto::record::Totals;
use holdfast_repository::keyring::Wrapped;
use holdfast_repository::manifest::{ManifestError, SealedPart};
use holdfast_repository::pack::PackError;
use holdfast_repository::packer::Packer;
use holdfast_repository::publication::{Publication, PublishError};
use holdfast_repository::seal::{EpochKey, IndexKey};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::collector::{Collector, Fragment};
use super::jobs::Job;
use super::known::Known;
use super::lines::{self, path_bytes};
use super::pages::{Pages, Verdicts, read_at};
use super::walk::FoundFile;
use crate::progress::Meter;

/// Packs that are on their way to the replicas at one time.
const PACKS_UNDER_WAY: usize = 3;

/// Why the copy stopped.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// A file cannot be read.
    #[error(
        "{path:?} cannot be read: {source}. The backup was given up: let the agent's user read it, or look at the disk"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A pack could not be made.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A part of the manifest could not be made.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The replicas do not take it.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The backup was called off.
    #[error("the backup was called off")]
    Cancelled,
}

/// What is copied, and how.
pub struct Plan {
    /// The data directory.
    pub directory: PathBuf,
    /// Its files.
    pub files: Vec<FoundFile>,
    /// Where the backup began.
    pub start: Lsn,
    /// Whether pages carry checksums.
    pub checksums: bool,
    /// Pages in each file of a relation's fork.
    pub pages_per_file: u32,
    /// What packs are sealed to.
    pub key: Wrapped<EpochKey>,
    /// What identities are made with.
    pub index_key: IndexKey,
    /// What an earlier base has stored already.
    pub known: Option<Known>,
    /// zstd's level.
    pub level: i32,
    /// How far it is.
    pub meter: Meter,
}

/// The state that the workers share.
pub struct Capture {
    plan: Plan,
    publication: Publication,
    runtime: Handle,
    jobs: Mutex<VecDeque<Job>>,
    collector: Mutex<Collector>,
    verdicts: Mutex<Verdicts>,
    room: Arc<Semaphore>,
    stopped: AtomicBool,
    failure: Mutex<Option<CaptureError>>,
}

/// What came of it.
#[derive(Debug)]
pub struct Captured {
    /// The manifest's parts.
    pub parts: Vec<Part>,
    /// Entries and bytes.
    pub totals: Totals,
    /// What was found about pages.
    pub verdicts: Verdicts,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A worker that panicked ends the whole backup, so nobody goes on with what
    // it may have left half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Capture {
    /// Prepares the copy of `plan.files` by `jobs`.
    pub fn new(plan: Plan, jobs: Vec<Job>, publication: Publication, runtime: Handle) -> Arc<Self> {
        let collector = Collector::new(plan.key.key.clone());
        Arc::new(Self {
            plan,
            publication,
            runtime,
            jobs: Mutex::new(jobs.into()),
            collector: Mutex::new(collector),
            verdicts: Mutex::default(),
            room: Arc::new(Semaphore::new(PACKS_UNDER_WAY)),
            stopped: AtomicBool::new(false),
            failure: Mutex::default(),
        })
    }

    /// Makes the workers stop at the next block; the first reason counts.
    pub fn stop(&self, reason: CaptureError) {
        lock(&self.failure).get_or_insert(reason);
        self.stopped.store(true, Ordering::Release);
    }

    /// Takes jobs until there are none. Blocks; run on as many threads as the
    /// copy may use.
    pub fn work(self: &Arc<Self>) {
        if let Err(error) = Worker::new(self).run() {
            self.stop(error);
        }
    }

    /// Adds entries that are at hand: directories and links before the files,
    /// the server's own texts and `pg_control` after them. Blocks.
    pub fn add(self: &Arc<Self>, entries: Vec<(CatalogueLine, Vec<u8>)>) -> Result<(), CaptureError> {
        let mut worker = Worker::new(self);
        for (line, content) in entries {
            let path = path_bytes(&line);
            worker.packer.push(&content)?;
            worker.end(&path, line, Fragment::Whole)?;
        }
        worker.finish()
    }

    /// Waits for the packs under way, closes the last part, and returns what
    /// came of it. Blocks; no worker may run any more.
    pub fn finish(self: &Arc<Self>) -> Result<Captured, CaptureError> {
        self.drained()?;
        let (last, mut totals) = lock(&self.collector).close()?;
        if let Some(part) = last {
            self.ship_part(part)?;
        }
        self.drained()?;
        totals.stored = self.publication.stored();
        Ok(Captured {
            parts: std::mem::take(&mut lock(&self.collector).parts),
            totals,
            verdicts: std::mem::take(&mut *lock(&self.verdicts)),
        })
    }

    /// The reason for which the copy was stopped, if it was.
    pub fn outcome(&self) -> Result<(), CaptureError> {
        match lock(&self.failure).take() {
            Some(reason) => Err(reason),
            None if self.stopped.load(Ordering::Acquire) => Err(CaptureError::Cancelled),
            None => Ok(()),
        }
    }

    fn go_on(&self) -> Result<(), CaptureError> {
        if self.stopped.load(Ordering::Acquire) {
            Err(CaptureError::Cancelled)
        } else {
            Ok(())
        }
    }

    /// Waits until nothing is on its way any more.
    fn drained(&self) -> Result<(), CaptureError> {
        let all = u32::try_from(PACKS_UNDER_WAY).expect("a small number");
        let permits = self.runtime.block_on(self.room.acquire_many(all));
        drop(permits.expect("the semaphore is never closed"));
        self.outcome()
    }

    /// Sends something to the replicas as soon as there is room.
    fn ship<F>(self: &Arc<Self>, store: impl FnOnce(Publication) -> F) -> Result<(), CaptureError>
    where
        F: Future<Output = Result<(), PublishError>> + Send + 'static,
    {
        self.go_on()?;
        let permit = self.runtime.block_on(self.room.clone().acquire_owned());
        let permit = permit.expect("the semaphore is never closed");
        let (this, storing) = (self.clone(), store(self.publication.clone()));
        self.runtime.spawn(async move {
            if let Err(error) = storing.await {
                this.stop(error.into());
            }
            drop(permit);
        });
        Ok(())
    }

    fn ship_part(self: &Arc<Self>, sealed: SealedPart) -> Result<(), CaptureError> {
        self.ship(move |publication| async move { publication.put_part(sealed).await.map(drop) })
    }
}

struct Worker<'a> {
    capture: &'a Arc<Capture>,
    packer: Packer,
    owed: VecDeque<Fragment>,
    buffer: Vec<u8>,
    verdicts: Verdicts,
}

impl<'a> Worker<'a> {
    fn new(capture: &'a Arc<Capture>) -> Self {
        let plan = &capture.plan;
        Self {
            capture,
            packer: Packer::new(plan.key.key.clone(), plan.index_key.clone(), plan.level),
            owed: VecDeque::new(),
            buffer: vec![0; BLOCK],
            verdicts: Verdicts::default(),
        }
    }

    fn run(mut self) -> Result<(), CaptureError> {
        loop {
            let Some(job) = lock(&self.capture.jobs).pop_front() else {
                break;
            };
            match job {
                Job::Files(files) => {
                    for file in files {
                        self.whole(file)?;
                    }
                }
                Job::Part { file, part, bytes } => self.part(file, part, bytes.start, bytes.end)?,
            }
        }
        self.finish()
    }

    fn finish(mut self) -> Result<(), CaptureError> {
        self.packer.flush()?;
        self.drain()?;
        lock(&self.capture.verdicts).merge(self.verdicts);
        Ok(())
    }

    /// Copies a file in one go, with the size it has now.
    fn whole(&mut self, file: u32) -> Result<(), CaptureError> {
        let plan = &self.capture.plan;
        let (found, meter) = (&plan.files[file as usize], &plan.meter);
        let Some(open) = self.open(found)? else {
            meter.advance(found.size);
            return Ok(());
        };
        let metadata = open
            .metadata()
            .map_err(|source| unreadable(&found.path, source))?;
        // A relation that grew has its growth in the WAL; another file may have
        // been replaced, and half of it would be nothing.
        let size = match found.relation {
            Some(_) => metadata.len().min(found.size),
            None => metadata.len(),
        };
        let path = self.path_id(found);
        let mut at = 0;
        while at < size {
            let wanted = usize::try_from(size - at).unwrap_or(BLOCK).min(BLOCK);
            let read = self.block(found, &open, at, wanted)?;
            self.keep(path.as_ref(), at, read)?;
            at += read as u64;
            if read < wanted {
                break;
            }
        }
        meter.advance(found.size);
        let line = CatalogueLine {
            size: at,
            mode: metadata.mode() & 0o7777,
            mtime: Some(super::walk::modified(&metadata)),
            ..lines::line(&found.path, EntryType::File)
        };
        self.end(&path_bytes(&line), line, Fragment::Whole)
    }

    /// Copies one range of a large file. What was cut off meanwhile is filled
    /// with zeros: other ranges may have been read before, and the WAL cuts it
    /// off again.
    fn part(&mut self, file: u32, part: u32, start: u64, end: u64) -> Result<(), CaptureError> {
        let plan = &self.capture.plan;
        let found = &plan.files[file as usize];
        let Some(open) = self.open(found)? else {
            lock(&self.capture.collector).vanished(file);
            plan.meter.advance(end - start);
            return Ok(());
        };
        let path = self.path_id(found);
        let mut at = start;
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(BLOCK).min(BLOCK);
            let read = self.block(found, &open, at, wanted)?;
            self.buffer[read..wanted].fill(0);
            self.keep(path.as_ref(), at, wanted)?;
            at += wanted as u64;
            plan.meter.advance(wanted as u64);
        }
        let line = CatalogueLine {
            size: found.size,
            mode: found.mode,
            mtime: Some(found.mtime),
            ..lines::line(&found.path, EntryType::File)
        };
        self.end(&path_bytes(&line), line, Fragment::Part { file, part })
    }

    fn open(&self, found: &FoundFile) -> Result<Option<File>, CaptureError> {
        match File::open(self.capture.plan.directory.join(&found.path)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(unreadable(&found.path, source)),
        }
    }

    /// Reads at most a block, and verifies its pages.
    fn block(
        &mut self,
        found: &FoundFile,
        open: &File,
        at: u64,
        wanted: usize,
    ) -> Result<usize, CaptureError> {
        self.capture.go_on()?;
        let plan = &self.capture.plan;
        let buffer = &mut self.buffer[..wanted];
        let failed = |source| unreadable(&found.path, source);
        let read = read_at(open, buffer, at).map_err(failed)?;
        if let Some(relation) = found.relation.filter(|_| plan.checksums) {
            let pages = Pages {
                file: open,
                path: &found.path.to_string_lossy(),
                relation,
                per_file: plan.pages_per_file,
                start: plan.start,
            };
            pages
                .verify(at, &mut buffer[..read], &mut self.verdicts)
                .map_err(failed)?;
        }
        Ok(read)
    }

    /// The path's identity, when an earlier base may know it.
    fn path_id(&self, found: &FoundFile) -> Option<ContentId> {
        let plan = &self.capture.plan;
        let bytes = found.path.as_os_str().as_encoded_bytes();
        plan.known.as_ref().map(|_| plan.index_key.path_id(bytes))
    }

    /// References the block in the buffer when it is stored already, and packs
    /// it otherwise.
    fn keep(&mut self, path: Option<&ContentId>, at: u64, length: usize) -> Result<(), CaptureError> {
        let plan = &self.capture.plan;
        let bytes = &self.buffer[..length];
        if let Some((known, path)) = plan.known.as_ref().zip(path) {
            let n = usize::try_from(at / BLOCK as u64).unwrap_or(usize::MAX);
            let id = plan.index_key.content_id(bytes);
            if let Some(piece) = known.piece(path, n, length, &id) {
                self.packer.reuse(piece);
                return Ok(());
            }
        }
        Ok(self.packer.push(bytes)?)
    }

    fn end(&mut self, path: &[u8], line: CatalogueLine, fragment: Fragment) -> Result<(), CaptureError> {
        self.packer.end(path, None, line)?;
        self.owed.push_back(fragment);
        self.drain()
    }

    /// Sends packs on their way, then lists what was waiting for them.
    fn drain(&mut self) -> Result<(), CaptureError> {
        while let Some(pack) = self.packer.take_pack() {
            self.capture
                .ship(move |publication| async move { publication.put_pack(&pack).await.map(drop) })?;
        }
        while let Some(entry) = self.packer.take_entry() {
            let fragment = self
                .owed
                .pop_front()
                .expect("each entry was owed when it was ended");
            let part = lock(&self.capture.collector).take(entry, fragment)?;
            if let Some(part) = part {
                self.capture.ship_part(part)?;
            }
        }
        Ok(())
    }
}

fn unreadable(path: &Path, source: io::Error) -> CaptureError {
    CaptureError::Unreadable {
        path: path.to_owned(),
        source,
    }
}
