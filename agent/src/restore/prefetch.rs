//! Fetches segments ahead of PostgreSQL.
//!
//! The first `wal fetch` of a recovery starts a server of its own, which keeps the
//! next segments in `prefetch/` beside the pin and answers on a socket there. A
//! `wal fetch` asks it first: what is there is handed over by a rename, what is on
//! its way is waited for, anything else `wal fetch` gets by itself, as it does when
//! nobody answers. The server decides nothing: a segment that it cannot get,
//! `wal fetch` tries again and reports. It remembers no absence.
//!
//! The server holds a lock as long as it lives, so there is never a second. It ends
//! when the frontier is reached, when the recovery is over, when the pin is another one,
//! or when nothing was asked for during [`SLOW`] ([`IDLE`], where it cannot be told whether
//! the recovery is over).
//!
//! Segments are not synced. That the server which wrote a segment still lives says
//! that the machine did not crash since, and that the file was not touched since is
//! seen by its inode, size and time; what an earlier server left is removed.
//! PostgreSQL syncs the file before it gives it its own name.
//!
//! One file is made for a segment, and nothing else: file systems are slow to give
//! out inodes after many were freed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream as BlockingStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use holdfast_proto::pg::SegmentName;
use rustix::fs::{FlockOperation, flock};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::access::Access;
use super::fetch::{self, FetchFailed};
use super::pin::{Decision, Pin};
use super::segment::{self, Workbench};
use crate::durable::{self, LocalFileError};

/// How long the server waits for PostgreSQL to ask again where nothing shows whether the
/// recovery goes on.
const IDLE: Duration = Duration::from_secs(30);
/// How long it waits while the recovery goes on: a segment may take long to replay, and
/// what is here already is not to be asked of the network again.
const SLOW: Duration = Duration::from_secs(3600);
/// How often it looks whether the recovery is over.
const LOOK: Duration = Duration::from_secs(1);
/// How long nothing is fetched after a fetch has failed.
const REST: Duration = Duration::from_secs(1);
/// How long a fetch waits for a segment that is on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(60);
/// How long a request may take to arrive.
const ASKING: Duration = Duration::from_secs(5);
/// The longest request: a segment's name.
const MAX_LINE: u64 = 64;
/// Segments fetched at the same time.
const AT_ONCE: usize = 3;
/// Bytes of segments that are kept ahead.
const AHEAD: u64 = 128 << 20;
/// The answer to a request for a segment that is there.
const HERE: &str = "here\n";

/// Where segments that were fetched ahead are, and whom to ask for them.
#[derive(Debug)]
pub(super) struct Ahead {
    dir: PathBuf,
}

/// What tells a file from another, and from itself after it was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
}

impl Mark {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self {
            inode: (found.dev(), found.ino()),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
        })
    }
}

impl Ahead {
    pub(super) fn at(notes: &Path) -> Self {
        Self {
            dir: notes.join("prefetch"),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn lock(&self) -> Option<File> {
        let path = self.dir.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .ok()?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        Some(file)
    }

    /// Does `work` with a name of the socket that is short enough whatever the
    /// directory's is: 108 bytes are all that an address has.
    fn with_socket<T>(&self, work: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        let dir = File::open(&self.dir)?;
        work(Path::new(&format!("/proc/self/fd/{}/socket", dir.as_raw_fd())))
    }

    /// Hands over `name` at `path` if it was fetched ahead, or is on its way. Blocks.
    pub(super) fn take(&self, name: &str, path: &Path) -> bool {
        self.ask(name).unwrap_or(false) && self.hand_over(name, path).is_ok()
    }

    fn ask(&self, name: &str) -> io::Result<bool> {
        let mut stream = self.with_socket(|socket| BlockingStream::connect(socket))?;
        stream.set_read_timeout(Some(ON_ITS_WAY))?;
        stream.set_write_timeout(Some(ASKING))?;
        stream.write_all(format!("{name}\n").as_bytes())?;
        let mut answer = String::new();
        BufReader::new(stream.take(MAX_LINE)).read_line(&mut answer)?;
        Ok(answer == HERE)
    }

    fn hand_over(&self, name: &str, path: &Path) -> Result<(), LocalFileError> {
        let file = self.file(name);
        if fs::rename(&file, path).is_ok() {
            return Ok(());
        }
        // On another file system.
        let bytes = fs::read(&file).map_err(|e| LocalFileError::new("read", &file, e))?;
        durable::replace_without_sync(path, &bytes)?;
        durable::remove(&file)
    }

    /// Sees to it that somebody fetches what follows `name`, which was handed over
    /// by the caller itself. Best effort: without a server a recovery is slower, and
    /// no less right.
    pub(super) fn follow(&self, name: &str, pin: &Pin, pin_path: &Path) {
        if pin.prefetch == 0 || durable::create_directory(&self.dir).is_err() {
            return;
        }
        // pg_rewind asks backwards, in a directory that does not recover.
        if pin.following(name, 1).is_empty() || !signal_of(pin_path).is_some_and(|signal| signal.exists()) {
            return;
        }
        match self.lock() {
            None => return,
            // Freed again before the process starts and takes it.
            Some(lock) => drop(lock),
        }
        let started = Command::new(&pin.program)
            .args(["wal", "prefetch", name, "--pin"])
            .arg(pin_path)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // PostgreSQL signals the process group of its restore_command.
            .process_group(0)
            .spawn();
        if let Err(error) = started {
            eprintln!(
                "holdfast: nothing is fetched ahead: {} cannot be started: {error}",
                pin.program.display()
            );
        }
    }
}

/// What says that the data directory, which is above the notes, recovers.
fn signal_of(pin_path: &Path) -> Option<PathBuf> {
    Some(pin_path.parent()?.parent()?.join("recovery.signal"))
}

/// Fetches what follows `name` until there is nothing more to do, and answers those
/// who ask. What `wal prefetch` runs.
///
/// # Errors
/// The repository cannot be read, or the directory cannot be used.
pub async fn run(name: &str, pin_path: &Path) -> Result<(), FetchFailed> {
    let mark = Mark::of(pin_path).map_err(|e| LocalFileError::new("read", pin_path, e))?;
    let pin = Pin::load(pin_path).map_err(FetchFailed::Pin)?;
    let notes = pin_path.parent().unwrap_or(Path::new(".")).to_owned();
    let ahead = Ahead::at(&notes);
    durable::create_directory(&ahead.dir)?;
    let Some(_lock) = ahead.lock() else { return Ok(()) };
    ahead.clear()?;
    let access = fetch::access(&pin).await?;
    let listener = ahead
        .with_socket(|socket| UnixListener::bind(socket))
        .map_err(|e| LocalFileError::new("listen in", &ahead.dir, e))?;
    let server = Server {
        ahead: &ahead,
        access: &access,
        pin: &pin,
        pin_path,
        mark,
        signal: signal_of(pin_path),
        notes: &notes,
        bench: Workbench::default(),
    };
    server.serve(listener, name.to_owned()).await;
    // Nobody is to wait for an answer that does not come.
    ahead.clear()?;
    Ok(())
}

struct Server<'a> {
    ahead: &'a Ahead,
    access: &'a Access,
    pin: &'a Pin,
    pin_path: &'a Path,
    /// The pin's file when it was read.
    mark: Mark,
    signal: Option<PathBuf>,
    notes: &'a Path,
    bench: Workbench,
}

/// What the server knows of the segments behind the cursor.
#[derive(Default)]
struct Segments {
    /// Fetched, and as they were then.
    ready: BTreeMap<SegmentName, Mark>,
    coming: BTreeSet<SegmentName>,
}

impl Server<'_> {
    async fn serve(&self, listener: UnixListener, mut cursor: String) {
        let window = u32::try_from(AHEAD / self.pin.segment_size.get())
            .unwrap_or(u32::MAX)
            .clamp(1, self.pin.prefetch.max(1));
        let mut segments = Segments::default();
        let mut since = Instant::now();
        let patience = if self.signal.is_some() { SLOW } else { IDLE };
        let mut looks = tokio::time::interval(LOOK);
        let (mut asking, mut fetching) = (FuturesUnordered::new(), FuturesUnordered::new());
        let mut waiting: Vec<(SegmentName, UnixStream)> = Vec::new();
        let mut failed: Option<Instant> = None;
        loop {
            let rests = failed.is_some_and(|at| at.elapsed() < REST);
            let wanted: Vec<SegmentName> = self
                .pin
                .following(&cursor, if rests { 0 } else { window })
                .into_iter()
                .filter(|name| !segments.coming.contains(name) && !segments.ready.contains_key(name))
                .take(AT_ONCE.saturating_sub(segments.coming.len()))
                .collect();
            for name in wanted {
                segments.coming.insert(name);
                fetching.push(async move { (name, self.bring(name).await) });
            }
            if fetching.is_empty() && waiting.is_empty() {
                let gone = |signal: &PathBuf| !signal.exists();
                let at_the_end = segments.ready.is_empty() && self.pin.following(&cursor, 1).is_empty();
                if at_the_end || self.signal.as_ref().is_some_and(gone) || since.elapsed() > patience {
                    return;
                }
            }
            tokio::select! {
                Ok((stream, _)) = listener.accept() => asking.push(read_request(stream)),
                Some(request) = asking.next() => {
                    let Some((name, stream)) = request else { continue };
                    if Mark::of(self.pin_path).ok() != Some(self.mark) {
                        return;
                    }
                    (cursor, since) = (name.to_string(), Instant::now());
                    if segments.coming.contains(&name) {
                        waiting.push((name, stream));
                    } else {
                        self.answer(&mut segments, name, stream).await;
                    }
                    self.drop_passed(&mut segments, name);
                }
                Some((name, brought)) = fetching.next() => {
                    segments.coming.remove(&name);
                    let Some(mark) = brought else {
                        // Who waits for it will meet the same trouble, and say so. What
                        // is there already needs no store any more.
                        waiting.retain(|(wanted, _)| *wanted != name);
                        failed = Some(Instant::now());
                        continue;
                    };
                    failed = None;
                    segments.ready.insert(name, mark);
                    if let Some(place) = waiting.iter().position(|(wanted, _)| *wanted == name) {
                        let (name, stream) = waiting.swap_remove(place);
                        self.answer(&mut segments, name, stream).await;
                    }
                    if let Ok(cursor) = cursor.parse() {
                        self.drop_passed(&mut segments, cursor);
                    }
                }
                _ = looks.tick() => {}
            }
        }
    }

    /// Says whether `name` is there, as it was written. From then on the file is the
    /// asker's; if it dies before it takes it, the next one gets the segment itself.
    async fn answer(&self, segments: &mut Segments, name: SegmentName, mut stream: UnixStream) {
        let file = self.ahead.file(&name.to_string());
        let here = segments
            .ready
            .remove(&name)
            .is_some_and(|written| Mark::of(&file).is_ok_and(|found| found == written));
        if here {
            let _ = stream.write_all(HERE.as_bytes()).await;
        } else {
            // Best effort: it is never handed over.
            let _ = fs::remove_file(&file);
        }
    }

    /// Removes segments that PostgreSQL is past: it asked for another timeline's
    /// file of the same segment, or was quicker.
    fn drop_passed(&self, segments: &mut Segments, cursor: SegmentName) {
        let size = self.pin.segment_size;
        let passed: Vec<SegmentName> = segments
            .ready
            .keys()
            .filter(|name| name.segment(size) <= cursor.segment(size))
            .copied()
            .collect();
        for name in passed {
            segments.ready.remove(&name);
            let _ = fs::remove_file(self.ahead.file(&name.to_string()));
        }
    }

    async fn bring(&self, name: SegmentName) -> Option<Mark> {
        let Decision::Segment {
            timeline,
            segment,
            until,
        } = self.pin.decide(&name.to_string())
        else {
            return None;
        };
        let whole = segment::segment(self.access, self.pin, timeline, segment, until, &self.bench);
        let whole = whole.await.ok()?;
        fetch::note_all(self.notes, whole.findings.iter());
        let file = self.ahead.file(&name.to_string());
        // Beside the other segments, which go on meanwhile.
        let kept = tokio::task::spawn_blocking(move || {
            durable::replace_without_sync(&file, &whole.bytes).ok()?;
            Some((Mark::of(&file).ok()?, whole.bytes))
        });
        let (mark, buffer) = kept.await.ok()??;
        self.bench.give_back(buffer);
        Some(mark)
    }
}

async fn read_request(stream: UnixStream) -> Option<(SegmentName, UnixStream)> {
    let reading = async {
        let mut line = String::new();
        let mut reader = tokio::io::BufReader::new(stream);
        (&mut reader).take(MAX_LINE).read_line(&mut line).await.ok()?;
        Some((line.trim_end().parse().ok()?, reader.into_inner()))
    };
    tokio::time::timeout(ASKING, reading).await.ok().flatten()
}

impl Ahead {
    /// Removes the socket and the segments that a server leaves behind.
    fn clear(&self) -> Result<(), LocalFileError> {
        let entries = fs::read_dir(&self.dir).map_err(|e| LocalFileError::new("list", &self.dir, e))?;
        for entry in entries.flatten() {
            if entry.file_name() != "lock" {
                durable::remove(&entry.path())?;
            }
        }
        Ok(())
    }
}
