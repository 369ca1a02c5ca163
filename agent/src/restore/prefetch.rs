//! Fetches segments ahead of PostgreSQL.
//!
//! The first `wal fetch` of a recovery starts one process of its own, which
//! keeps the next segments in `prefetch/` beside the pin. It holds a lock as long
//! as it lives, so there is never a second; it ends when nothing was asked for
//! during [`IDLE`], when the frontier is reached, or when the recovery is over.
//! It decides nothing: a segment that it cannot get, `wal fetch` tries itself
//! and reports.
//!
//! A prefetched segment is believed by the BLAKE3 that was noted when it was
//! assembled; the file itself is not synced, so after a crash of the machine the
//! digest tells, and the segment is fetched again.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use holdfast_proto::pg::SegmentName;
use rustix::fs::{FlockOperation, flock};

use super::access::Access;
use super::fetch::{self, FetchFailed};
use super::pin::{Decision, Pin};
use super::segment::{self, Workbench};
use crate::durable::{self, LocalFileError};

/// How long the process waits for PostgreSQL to ask again.
const IDLE: Duration = Duration::from_secs(30);
/// How often it looks whether PostgreSQL went on.
const TICK: Duration = Duration::from_millis(20);
/// How often a fetch looks whether a segment has come.
const LOOK: Duration = Duration::from_millis(2);
/// How long a fetch waits for a segment that is on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(60);
/// Segments fetched at the same time.
const AT_ONCE: usize = 3;
/// Bytes of segments held at the same time while they are assembled.
const MEMORY: u64 = 128 << 20;

/// The segments that were fetched ahead.
#[derive(Debug)]
pub(super) struct Ahead {
    dir: PathBuf,
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

    fn digest_file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.b3"))
    }

    /// Says that a segment is being fetched.
    fn coming_file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.coming"))
    }

    fn cursor_file(&self) -> PathBuf {
        self.dir.join("cursor")
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

    /// Hands over `name` at `path` if it was fetched ahead, or is on its way. Blocks.
    pub(super) fn take(&self, name: &str, path: &Path) -> bool {
        if !self.dir.is_dir() {
            return false;
        }
        let deadline = Instant::now() + ON_ITS_WAY;
        loop {
            if self.file(name).exists() {
                return self.hand_over(name, path);
            }
            let coming = self.coming_file(name).exists();
            // Whoever gets the lock knows that nobody is fetching.
            if !coming || Instant::now() > deadline || self.lock().is_some() {
                return self.file(name).exists() && self.hand_over(name, path);
            }
            std::thread::sleep(LOOK);
        }
    }

    fn hand_over(&self, name: &str, path: &Path) -> bool {
        let moved = || -> Option<()> {
            let mut file = File::open(self.file(name)).ok()?;
            let noted = fs::read_to_string(self.digest_file(name)).ok()?;
            // Piece by piece: the pages of a whole segment cost more than its digest.
            let mut hasher = blake3::Hasher::new();
            let mut buffer = vec![0; 256 << 10];
            loop {
                match file.read(&mut buffer).ok()? {
                    0 => break,
                    n => drop(hasher.update(&buffer[..n])),
                }
            }
            if hasher.finalize().to_hex().as_str() != noted.trim() {
                return None;
            }
            if fs::rename(self.file(name), path).is_err() {
                // On another file system.
                durable::replace_without_sync(path, &fs::read(self.file(name)).ok()?).ok()?;
            }
            Some(())
        };
        let done = moved().is_some();
        for left in [self.file(name), self.digest_file(name)] {
            // A segment that stays behind is never taken for another.
            let _ = fs::remove_file(left);
        }
        done
    }

    /// Notes that `name` was handed over, and sees to it that somebody fetches
    /// what follows. Best effort: without prefetching a recovery is slower, and
    /// no less right.
    pub(super) fn follow(&self, name: &str, pin: &Pin, pin_path: &Path) {
        if pin.prefetch == 0 || durable::create_directory(&self.dir).is_err() {
            return;
        }
        let _ = durable::replace_without_sync(&self.cursor_file(), name.as_bytes());
        if pin.following(name, 1).is_empty() {
            return;
        }
        match self.lock() {
            None => return,
            // Freed again before the process starts and takes it.
            Some(lock) => drop(lock),
        }
        let started = Command::new(&pin.program)
            .args(["wal", "prefetch", "--pin"])
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

/// Fetches ahead until there is nothing more to do. What `wal prefetch` runs.
///
/// # Errors
/// The repository cannot be read.
pub async fn run(pin_path: &Path) -> Result<(), FetchFailed> {
    let pin = Pin::load(pin_path).map_err(FetchFailed::Pin)?;
    let notes = pin_path.parent().unwrap_or(Path::new(".")).to_owned();
    let ahead = Ahead::at(&notes);
    durable::create_directory(&ahead.dir)?;
    let Some(_lock) = ahead.lock() else { return Ok(()) };
    ahead.clear_markers()?;
    let access = fetch::access(&pin).await?;
    let window = u32::try_from(MEMORY / pin.segment_size.get())
        .unwrap_or(u32::MAX)
        .clamp(1, pin.prefetch.max(1));
    // The data directory is above the notes.
    let signal = notes.parent().map(|data| data.join("recovery.signal"));
    let mut tick = tokio::time::interval(TICK);
    let mut seen = String::new();
    let mut since = Instant::now();
    let bench = Workbench::default();
    let mut under_way = FuturesUnordered::new();
    let mut coming: BTreeSet<SegmentName> = BTreeSet::new();
    loop {
        let cursor = fs::read_to_string(ahead.cursor_file()).unwrap_or_default();
        if cursor != seen {
            (seen, since) = (cursor, Instant::now());
            ahead.drop_before(&seen);
        }
        let wanted: Vec<SegmentName> = pin
            .following(&seen, window)
            .into_iter()
            .filter(|n| !coming.contains(n) && !ahead.file(&n.to_string()).exists())
            .take(AT_ONCE.saturating_sub(under_way.len()))
            .collect();
        for name in wanted {
            let marker = ahead.coming_file(&name.to_string());
            fs::write(&marker, b"").map_err(|e| LocalFileError::new("write", &marker, e))?;
            coming.insert(name);
            let (ahead, access, pin, notes, bench) = (&ahead, &access, &pin, &notes, &bench);
            under_way.push(async move { (name, ahead.bring(access, pin, notes, bench, name).await) });
        }
        if under_way.is_empty() {
            let over = pin.following(&seen, 1).is_empty() || signal.as_ref().is_some_and(|s| !s.exists());
            if over || since.elapsed() > IDLE {
                return Ok(());
            }
        }
        tokio::select! {
            Some((name, brought)) = under_way.next() => {
                if !brought {
                    // `wal fetch` will meet the same trouble, and say so.
                    return Ok(());
                }
                coming.remove(&name);
            }
            _ = tick.tick() => {}
        }
    }
}

impl Ahead {
    async fn bring(
        &self,
        access: &Access,
        pin: &Pin,
        notes: &Path,
        bench: &Workbench,
        name: SegmentName,
    ) -> bool {
        let name = name.to_string();
        let brought = async {
            let Decision::Segment {
                timeline,
                segment,
                until,
            } = pin.decide(&name)
            else {
                return false;
            };
            let Ok(whole) = segment::segment(access, pin, timeline, segment, until, bench).await else {
                return false;
            };
            fetch::note_all(notes, whole.findings.iter());
            let (file, digest_file) = (self.file(&name), self.digest_file(&name));
            // Beside the other segments, which go on meanwhile.
            let kept = tokio::task::spawn_blocking(move || {
                let digest = blake3::hash(&whole.bytes).to_hex();
                durable::replace_without_sync(&digest_file, digest.as_bytes())
                    .and_then(|()| durable::replace_without_sync(&file, &whole.bytes))
                    .map(|()| whole.bytes)
            });
            match kept.await {
                Ok(Ok(buffer)) => {
                    bench.give_back(buffer);
                    true
                }
                _ => false,
            }
        }
        .await;
        let _ = fs::remove_file(self.coming_file(&name));
        brought
    }

    /// Removes the marks of a process that died.
    fn clear_markers(&self) -> Result<(), LocalFileError> {
        let entries = fs::read_dir(&self.dir).map_err(|e| LocalFileError::new("list", &self.dir, e))?;
        for entry in entries.flatten() {
            if entry.path().extension().is_some_and(|e| e == "coming") {
                durable::remove(&entry.path())?;
            }
        }
        durable::sweep(&self.dir)
    }

    /// Removes segments that PostgreSQL is past: it asked for another timeline's
    /// file of the same segment, or was quicker.
    fn drop_before(&self, cursor: &str) {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let segment = name.strip_suffix(".b3").unwrap_or(name);
            let past = segment.len() == 24 && cursor.len() == 24 && segment.get(8..) <= cursor.get(8..);
            if past {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}
