//! Reads a batch of files with several threads and stores their content.
//!
//! Threads take the next file each, read it into their own packer, and hand
//! finished packs to the uploads, which run a few at a time and make the threads
//! wait when stores are slow. So the memory of a batch is bounded by the threads
//! and the uploads, not by the files.
//!
//! Dropping the future gives the batch up: the threads stop at their next file.
//! What was uploaded until then is unreferenced.

use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use holdfast_proto::{Blake3Digest, ContentId};
use holdfast_repository::pack::{KnownPack, SealedPack};
use holdfast_repository::seal::{EpochKey, IndexKey};
use tokio::sync::mpsc;

use super::cache::KnownContent;
use super::listing::{Kind, below, stat_of};
use super::packing::{Packer, PackingStopped, Shared};
use super::reading::{self, NotRead, Reading, Rules};
use super::record::{Place, Stat, Trouble};
use crate::config::AdapterKind;
use crate::progress::Meter;

/// Packs being uploaded at a time.
const UPLOADS: usize = 4;
/// Bytes that are worth a thread of their own.
const BYTES_PER_THREAD: u64 = 8 << 20;

/// A file whose content is wanted.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Path relative to the root.
    pub path: Vec<u8>,
    /// A file or a symbolic link.
    pub kind: Kind,
    /// As it was listed.
    pub stat: Stat,
}

/// What became of a candidate.
#[derive(Debug)]
pub enum Outcome {
    /// Its content is in packs.
    Stored {
        /// Its stat as read.
        stat: Stat,
        /// BLAKE3 of its content.
        b3: Blake3Digest,
        /// Keyed identity of its content.
        id: ContentId,
        /// Where it lies.
        extents: Vec<(Place, ContentId)>,
        /// Absent when the capture is proven.
        trouble: Option<Trouble>,
    },
    /// A link and its target.
    Link(Vec<u8>),
    /// It went away.
    Vanished,
    /// It cannot be read; in the system's words.
    Unreadable(String),
}

/// What a batch made.
#[derive(Debug)]
pub struct Stored {
    /// In the order of the candidates.
    pub outcomes: Vec<Outcome>,
    /// New packs, in the order of their numbers.
    pub packs: Vec<KnownPack>,
}

/// What all batches of a capture share.
#[derive(Clone)]
pub struct Job {
    /// The filestore's directory.
    pub root: PathBuf,
    /// What its names mean.
    pub adapter: AdapterKind,
    /// What its clock cannot tell apart, in nanoseconds.
    pub margin: i64,
    /// The key of content ids.
    pub index_key: Arc<IndexKey>,
    /// To whom packs are sealed.
    pub key: EpochKey,
    /// What is stored already.
    pub known: Arc<KnownContent>,
    /// Threads at most.
    pub threads: usize,
    /// Counts what was read.
    pub meter: Meter,
}

/// Reads and stores a batch. `upload` makes one pack durable; `first_pack` is the
/// number of the first new pack.
pub async fn store<F, U, E>(
    job: &Job,
    candidates: Vec<Candidate>,
    first_pack: u32,
    upload: F,
) -> Result<Stored, E>
where
    F: Fn(SealedPack) -> U,
    U: Future<Output = Result<(), E>>,
    E: From<PackingStopped> + From<tokio::task::JoinError>,
{
    let bytes: u64 = candidates.iter().map(|c| c.stat.size).sum();
    job.meter.expect(bytes);
    let (sender, mut receiver) = mpsc::channel(1);
    let threads = usize::try_from(1 + bytes / BYTES_PER_THREAD)
        .unwrap_or(usize::MAX)
        .min(job.threads);
    let work = {
        let job = job.clone();
        tokio::task::spawn_blocking(move || read_all(&job, &candidates, first_pack, sender, threads))
    };

    let mut packs: Vec<Option<KnownPack>> = Vec::new();
    let mut flying = FuturesUnordered::new();
    let mut open = true;
    while open || !flying.is_empty() {
        tokio::select! {
            // Both are safe to cancel: a message stays in the channel, an upload in the set.
            taken = receiver.recv(), if open && flying.len() < UPLOADS => match taken {
                Some((number, sealed)) => {
                    let known = sealed.known();
                    let uploaded = upload(sealed);
                    flying.push(async move { uploaded.await.map(|()| (number, known)) });
                }
                None => open = false,
            },
            Some(uploaded) = flying.next() => {
                let (number, known): (u32, KnownPack) = uploaded?;
                let at = (number - first_pack) as usize;
                packs.resize_with(packs.len().max(at + 1), || None);
                packs[at] = Some(known);
            }
        }
    }
    let outcomes = work.await??;
    let packs = packs
        .into_iter()
        .map(|p| p.expect("every number was given to a pack that was handed over"))
        .collect();
    Ok(Stored { outcomes, packs })
}

fn read_all(
    job: &Job,
    candidates: &[Candidate],
    first_pack: u32,
    sender: mpsc::Sender<(u32, SealedPack)>,
    threads: usize,
) -> Result<Vec<Outcome>, PackingStopped> {
    let next_pack = AtomicU32::new(first_pack);
    let next = AtomicUsize::new(0);
    let shared = Shared {
        key: &job.key,
        known: &job.known,
        next_pack: &next_pack,
        packs: sender,
    };
    let mut outcomes: Vec<(usize, Outcome)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1))
            .map(|_| scope.spawn(|| read_some(job, candidates, &next, &shared)))
            .collect();
        let mut all = Vec::with_capacity(candidates.len());
        for worker in workers {
            match worker.join() {
                Ok(some) => all.extend(some?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok::<_, PackingStopped>(all)
    })?;
    outcomes.sort_unstable_by_key(|(i, _)| *i);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

fn read_some(
    job: &Job,
    candidates: &[Candidate],
    next: &AtomicUsize,
    shared: &Shared<'_>,
) -> Result<Vec<(usize, Outcome)>, PackingStopped> {
    let mut packer = Packer::new(shared)?;
    let mut read: Vec<(usize, Reading)> = Vec::new();
    let mut outcomes = Vec::new();
    loop {
        let i = next.fetch_add(1, Ordering::Relaxed);
        let Some(candidate) = candidates.get(i) else { break };
        if !packer.is_wanted() {
            return Err(PackingStopped::Closed);
        }
        match look(job, candidate, &mut packer) {
            Ok(Ok(reading)) => read.push((i, reading)),
            Ok(Err(outcome)) => outcomes.push((i, outcome)),
            Err(stopped) => return Err(stopped),
        }
        job.meter.advance(candidate.stat.size);
    }
    packer.finish()?;
    outcomes.extend(read.into_iter().map(|(i, reading)| {
        let outcome = Outcome::Stored {
            stat: reading.stat,
            b3: reading.b3,
            id: reading.id,
            extents: packer.place(&reading.extents),
            trouble: reading.trouble,
        };
        (i, outcome)
    }));
    Ok(outcomes)
}

/// Reads one candidate: a reading whose place is still open, or what else became
/// of it.
fn look(
    job: &Job,
    candidate: &Candidate,
    packer: &mut Packer<'_>,
) -> Result<Result<Reading, Outcome>, PackingStopped> {
    let path = below(&job.root, &candidate.path);
    if candidate.kind == Kind::Symlink {
        return Ok(Err(link(&path)));
    }
    let rules = Rules {
        index_key: &job.index_key,
        margin: job.margin,
    };
    Ok(Err(
        match reading::read(&path, job.adapter.promised_sha1(&candidate.path), rules, packer) {
            Ok(reading) => return Ok(Ok(reading)),
            Err(NotRead::Vanished) => Outcome::Vanished,
            // It has become a link, a directory or a pipe since it was listed.
            Err(NotRead::Refused(error)) => match std::fs::symlink_metadata(&path) {
                Ok(meta) if !meta.is_file() || stat_of(&meta).inode != candidate.stat.inode => {
                    Outcome::Vanished
                }
                _ => Outcome::Unreadable(error.to_string()),
            },
            Err(NotRead::Stopped(why)) => return Err(why),
        },
    ))
}

fn link(path: &Path) -> Outcome {
    match std::fs::read_link(path) {
        Ok(target) => Outcome::Link(target.into_os_string().into_vec()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Outcome::Vanished,
        Err(e) => Outcome::Unreadable(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_proto::names::{Epoch, KeyKind};
    use holdfast_repository::seal::Identity;

    fn job(root: &Path, adapter: AdapterKind) -> Job {
        let epoch: Epoch = "2026-11".parse().unwrap();
        Job {
            root: root.to_owned(),
            adapter,
            margin: 0,
            index_key: Arc::new(IndexKey::generate()),
            key: EpochKey::new(Identity::generate().recipient().clone(), epoch, KeyKind::Data),
            known: Arc::default(),
            threads: 2,
            meter: Meter::default(),
        }
    }

    fn candidate(root: &Path, path: &str) -> Candidate {
        let listed = std::fs::symlink_metadata(root.join(path)).map(|m| stat_of(&m));
        Candidate {
            path: path.as_bytes().to_vec(),
            kind: Kind::File,
            stat: listed.unwrap_or(Stat::UNKNOWN),
        }
    }

    async fn outcomes(job: &Job, paths: &[&str]) -> Stored {
        let upload = |_| async { Ok::<(), super::super::CaptureError>(()) };
        store(
            job,
            paths.iter().map(|p| candidate(&job.root, p)).collect(),
            7,
            upload,
        )
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_said_and_the_rest_is_stored() {
        // A file of the kernel that can be opened and refuses to be read.
        let stored = outcomes(
            &job("/proc/self".as_ref(), AdapterKind::None),
            &["mem", "no such file", "comm"],
        )
        .await;
        assert!(
            matches!(&stored.outcomes[0], Outcome::Unreadable(_)),
            "{:?}",
            stored.outcomes[0]
        );
        assert!(matches!(stored.outcomes[1], Outcome::Vanished));
        assert!(matches!(&stored.outcomes[2], Outcome::Stored { .. }));
        assert_eq!(stored.packs.len(), 1);
    }

    #[tokio::test]
    async fn a_pipe_or_a_link_in_a_files_place_does_not_hold_the_capture_up() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let stored = outcomes(&job(dir.path(), AdapterKind::None), &["link", "pipe"]).await;
        // Neither is the file that was listed, and neither is waited for or followed.
        for outcome in &stored.outcomes {
            assert!(matches!(outcome, Outcome::Vanished), "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn a_batch_that_cannot_be_uploaded_ends() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<String> = (0..40).map(|i| format!("file {i}")).collect();
        for (i, path) in paths.iter().enumerate() {
            std::fs::write(dir.path().join(path), vec![i as u8; 1 << 20]).unwrap();
        }
        let job = job(dir.path(), AdapterKind::None);
        let refuse = |_| async { Err(super::super::CaptureError::Memory) };
        let candidates = paths.iter().map(|p| candidate(&job.root, p)).collect();
        assert!(matches!(
            store(&job, candidates, 0, refuse).await,
            Err(super::super::CaptureError::Memory)
        ));
    }
}
