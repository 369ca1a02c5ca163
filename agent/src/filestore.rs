//! How a folder of files is captured: scanned, stored, journalled.
//!
//! A filestore's journal in the repository is a chain of numbered entries: a
//! *checkpoint* names every file, a *delta* what was added, changed and removed
//! since the entry before. [`Filestore::capture`] writes the next one, or none
//! when nothing changed. Content goes into packs once and is pointed to from then
//! on; a checkpoint points to the packs of earlier entries and stores nothing
//! again.
//!
//! | file | what |
//! |---|---|
//! | [`cache`] | what the agent remembers on its own disk |
//! | [`record`] | the bytes of that memory |
//! | [`listing`] | directories and stats, read in parallel |
//! | `adapter` | what names mean: Odoo's, or nothing |
//! | `walk` | comparing, deciding, writing lines |
//! | `storing`, `reading`, `packing` | content into packs |
//! | `lines` | remembered entries as manifest lines |
//!
//! # What an entry means
//!
//! Lines of an entry apply in their order, entries in the order of their numbers
//! from the checkpoint on. `file`, `symlink` and `directory` lines set what is at a
//! path; a `removed` line takes it away; a `dirty` line sets nothing and says that
//! the path is not proven: it vanished, could not be read, changed while it was
//! read, or contradicts its name. What was read of it stands in a line of its own
//! before. A later `file` line without a `dirty` one after it ends that.
//!
//! # Which files belong to a moment
//!
//! A fence ([`crate::fence`]) ties an entry to a position in the log: the entry
//! holds everything that was there at that position. For a moment T after the
//! fence F1 and not after the fence F2 the files that the database can reference
//! are: all present at F1's entry, and all that any entry after it, up to and with
//! F2's, adds. Removals after F1's entry do not count for T: the file may have been
//! referenced at T and collected between T and F2. So a restore reads from F1's
//! checkpoint up to F2's entry, applies removals up to F1's entry only, and ignores
//! later ones; when a checkpoint stands between, its files are added to those of
//! F1. What is too much is sorted out by the database's own references. Whether
//! the claim holds that nothing was added *and* collected between the fences is
//! what the point says ([`JointClaim`](holdfast_proto::record::JointClaim)).
//!
//! # When the process dies
//!
//! Before the entry is signed and stored nothing of it is visible; its packs are
//! unreferenced. After it, the local memory is older than the journal, which is
//! noticed (see [`cache`]) and answered with a checkpoint.

mod adapter;
pub mod cache;
mod journal;
mod lines;
pub mod listing;
mod packing;
mod reading;
pub mod record;
mod storing;
mod walk;

use std::path::PathBuf;
use std::sync::Arc;

use holdfast_proto::Timestamp;
use holdfast_proto::envelope::Link;
use holdfast_proto::message::FilestoreFacts;
use holdfast_proto::names::Region;
use holdfast_proto::record::{JournalBody, JournalKind};
use holdfast_repository::layout;
use holdfast_repository::listing::ListError;
use holdfast_repository::manifest::ManifestError;
use holdfast_repository::publication::{Publication, PublishError};
use holdfast_repository::publisher::Publisher;
use holdfast_repository::seal::{EpochKey, IndexKey};
use holdfast_repository::signed::ReadError;
use holdfast_repository::trust::Trust;

use crate::config::FilestoreConfig;
use crate::durable::LocalFileError;
use crate::findings::Findings;
use crate::progress::Meter;
use cache::{Cache, JournalHead, Owner};
use packing::PackingStopped;
use record::{Entry, Trouble};
use storing::Job;
use walk::Walk;

/// A checkpoint is written at least this often, in milliseconds.
const CHECKPOINT_EVERY: u64 = 24 * 3_600_000;
/// Deltas after which a checkpoint is due, beside one for each thousand files.
const CHECKPOINT_DELTAS: u64 = 100;

/// A capture that made no entry.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The directory is not there.
    #[error("the filestore {} is not there: mount it, or correct `path`", .0.display())]
    RootMissing(PathBuf),
    /// The directory cannot be listed.
    #[error("the filestore {} cannot be listed: let the agent's user read it", root.display())]
    RootUnreadable {
        /// The filestore.
        root: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The directory is empty and was not before: more likely unmounted than emptied.
    #[error(
        "the filestore {} is empty and held {files} files before: mount it; if it was emptied on purpose, put any file \
         into it",
        root.display()
    )]
    RootEmpty {
        /// The filestore.
        root: PathBuf,
        /// Files remembered.
        files: u64,
    },
    /// The agent's memory is damaged in a way it did not notice before.
    #[error(
        "the agent's memory of the filestore contradicts itself: remove the filestore's directory below state_dir"
    )]
    Memory,
    /// The agent's memory cannot be kept.
    #[error(transparent)]
    Local(#[from] LocalFileError),
    /// Content could not be packed.
    #[error(transparent)]
    Packing(#[from] PackingStopped),
    /// The manifest could not be written.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The repository did not take it.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The journal's newest entry is unknown.
    #[error(
        "the newest entry of the journal is unknown while {} cannot be listed: it is tried again; bring the replica back",
        regions(.0)
    )]
    JournalUnknown(Vec<Region>),
    /// The journal cannot be listed.
    #[error(transparent)]
    List(#[from] ListError),
    /// The journal's newest entry cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A thread of the capture panicked.
    #[error("a thread of the capture ended unexpectedly: this is a bug, report it with the log")]
    Thread(#[from] tokio::task::JoinError),
}

fn regions(regions: &[Region]) -> String {
    regions.iter().map(Region::as_str).collect::<Vec<_>>().join(", ")
}

/// With what a capture writes.
#[derive(Clone)]
pub struct Writing {
    /// Where to, in whose name.
    pub publisher: Publisher,
    /// Whom the writer believes, to read its own journal back.
    pub trust: Arc<Trust>,
    /// To whom content is sealed.
    pub key: EpochKey,
    /// The key of identities.
    pub index_key: Arc<IndexKey>,
    /// Key objects and trust records that must be on a replica first.
    pub needs: Vec<Link>,
}

/// What is asked of a capture.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    /// Compare every file's stat, whatever the directories' times say.
    pub sweep: bool,
    /// Write a checkpoint.
    pub checkpoint: bool,
}

/// What a capture found.
#[derive(Debug, Clone)]
pub struct Captured {
    /// The journal's newest entry now.
    pub journal: JournalHead,
    /// Whether this capture wrote it.
    pub written: bool,
    /// When the scan began, by the agent's clock.
    pub scanned_from: Timestamp,
    /// When it ended.
    pub scanned_until: Timestamp,
    /// Replicas that hold the entry, when this capture wrote it.
    pub complete_on: Option<Vec<Region>>,
    /// What could not be proven.
    pub unproven: Unproven,
    /// Files after it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of new packs.
    pub stored: u64,
}

/// Files whose capture is not proven, by when they were last written.
#[derive(Debug, Clone, Default)]
pub struct Unproven {
    /// Changing, unreadable or vanished: modification times in nanoseconds.
    modified: Vec<i64>,
    /// Directories that cannot be listed.
    unlisted: u64,
    /// Files that cannot be read.
    unreadable: u64,
    count: u64,
}

impl Unproven {
    fn of(troubles: &[Entry], vanished: Vec<i64>, unlisted: u64) -> Self {
        // What is torn at the source was captured as it is.
        let open = troubles.iter().filter(|e| e.trouble != Some(Trouble::Torn));
        Self {
            count: troubles.len() as u64 + vanished.len() as u64 + unlisted,
            modified: open.map(|e| e.stat.mtime).chain(vanished).collect(),
            unlisted,
            unreadable: troubles
                .iter()
                .filter(|e| e.trouble == Some(Trouble::Unreadable))
                .count() as u64,
        }
    }

    /// How many there are, those torn at the source among them.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many files and directories could not be read: unlike what is changing or
    /// gone, nothing of them is in the entry, and trying again does not help.
    pub fn unread(&self) -> u64 {
        self.unreadable + self.unlisted
    }

    /// How many could belong to a moment. What was last written after it was not
    /// complete then, so nothing committed at that moment can reference it.
    pub fn before(&self, moment: Timestamp) -> u64 {
        let nanos = moment.unix_micros().saturating_mul(1000);
        self.unlisted + self.modified.iter().filter(|m| **m < nanos).count() as u64
    }
}

/// One filestore of one cluster.
pub struct Filestore {
    config: FilestoreConfig,
    state: PathBuf,
    threads: usize,
    findings: Findings,
    meter: Meter,
    facts: FilestoreFacts,
    whole_until: Option<Timestamp>,
    cache: Option<Cache>,
}

impl Filestore {
    /// `state` is a directory of its own for the agent's memory of it.
    pub fn new(
        config: FilestoreConfig,
        state: PathBuf,
        threads: usize,
        findings: Findings,
        meter: Meter,
    ) -> Self {
        let facts = FilestoreFacts {
            filestore: config.name.clone(),
            entry: None,
            files: 0,
            bytes: 0,
            scanned: None,
        };
        Self {
            config,
            state,
            threads,
            findings,
            meter,
            facts,
            whole_until: None,
            cache: None,
        }
    }

    /// Its configuration.
    pub fn config(&self) -> &FilestoreConfig {
        &self.config
    }

    /// Counts progress with another meter from now on.
    pub fn count_with(&mut self, meter: Meter) {
        self.meter = meter;
    }

    /// Every file that was complete by then is captured; `None` until that was
    /// seen once.
    pub fn whole_until(&self) -> Option<Timestamp> {
        self.whole_until
    }

    /// What is known of it.
    pub fn facts(&self) -> &FilestoreFacts {
        &self.facts
    }

    /// Captures what changed and writes the next journal entry, if anything did.
    ///
    /// Everything that is in the filestore when this is called, and stays, is in
    /// the entry that it returns or named as unproven. Dropping the future
    /// leaves nothing behind but unreferenced packs.
    pub async fn capture(&mut self, writing: &Writing, asked: Asked) -> Result<Captured, CaptureError> {
        let owner = Owner {
            repository: writing.publisher.repository.id(),
            index_key: writing.index_key.fingerprint(),
            root: self.config.path.clone(),
        };
        let (state, resting) = (self.state.clone(), self.cache.take());
        let mut cache =
            tokio::task::spawn_blocking(move || match resting.map(Cache::resume).transpose()?.flatten() {
                Some(cache) => Ok(cache),
                None => Cache::open(&state, owner),
            })
            .await??;
        let captured = self.capture_with(&mut cache, writing, asked).await?;
        // After an error or a cancellation the cache is dropped and read anew.
        cache.rest()?;
        self.cache = Some(cache);
        self.facts = FilestoreFacts {
            filestore: self.config.name.clone(),
            entry: Some(captured.journal.n),
            files: captured.files,
            bytes: captured.bytes,
            scanned: Some(captured.scanned_from),
        };
        if captured.unproven.before(captured.scanned_from) == 0 {
            self.whole_until = Some(captured.scanned_from);
        }
        Ok(captured)
    }

    async fn capture_with(
        &self,
        cache: &mut Cache,
        writing: &Writing,
        asked: Asked,
    ) -> Result<Captured, CaptureError> {
        let name = &self.config.name;
        let scanned_from = now();
        let newest = match cache.journal() {
            Some(head) => Some(head.clone()),
            None => journal::newest(writing, name).await?,
        };
        let kind = match cache.journal() {
            Some(head) if !asked.checkpoint && !is_checkpoint_due(head, cache.totals().0, scanned_from) => {
                JournalKind::Delta
            }
            _ => JournalKind::Checkpoint,
        };
        let began = listing::clock();
        let sweep_due =
            began - cache.swept() >= i64::try_from(self.config.full_sweep.as_nanos()).unwrap_or(i64::MAX);
        let sweep = asked.sweep
            || kind == JournalKind::Checkpoint
            || sweep_due
            || self.config.adapter.changes_in_place();

        let mut needs = writing.needs.clone();
        // Not the newest entry: when that reached only some replicas before we died,
        // a checkpoint that does not build on it goes to all.
        needs.extend(cache.basis().cloned());
        let publication = Publication::begin(&writing.publisher, &needs).await?;
        let root = self.config.path.clone();
        let margin = tokio::task::spawn_blocking(move || reading::clock_margin(&root)).await?;
        let job = Job {
            root: self.config.path.clone(),
            adapter: self.config.adapter,
            margin,
            index_key: writing.index_key.clone(),
            key: writing.key.clone(),
            known: cache.known(),
            threads: self.threads,
            meter: self.meter.clone(),
        };
        let mut walk = Walk::new(
            job,
            cache,
            &publication,
            &self.findings,
            kind == JournalKind::Checkpoint,
        );
        if sweep {
            walk.sweep().await?;
        } else {
            walk.changes().await?;
        }
        walk.finish().await?;
        let tally = walk.tally;
        let scanned_until = now();

        let unproven = Unproven::of(&cache.troubles()?, tally.vanished, tally.unlisted);
        let (files, bytes) = cache.totals();
        let stored = tally.totals.stored;
        let dirty = unproven.count();
        let captured = |journal, complete_on: Option<Vec<Region>>| Captured {
            journal,
            written: complete_on.is_some(),
            scanned_from,
            scanned_until,
            complete_on,
            unproven,
            files,
            bytes,
            stored,
        };
        let swept = sweep.then_some(began);
        if let (JournalKind::Delta, true, Some(head)) = (kind, tally.parts.is_empty(), &newest) {
            if cache.is_staged() || sweep {
                cache.commit(head.clone(), swept)?;
            }
            return Ok(captured(head.clone(), None));
        }

        let n = newest.as_ref().map_or(1, |head| head.n + 1);
        let (checkpoint, checkpoint_at) = match (&newest, kind) {
            (Some(head), JournalKind::Delta) => (head.checkpoint, head.checkpoint_at),
            _ => (n, scanned_from),
        };
        let body = JournalBody {
            filestore: name.clone(),
            n,
            entry: kind,
            checkpoint,
            adapter: self.config.adapter.as_str().to_owned(),
            scanned_from,
            scanned_until,
            parts: tally.parts,
            removed: tally.removed,
            dirty,
            files,
            bytes,
            totals: tally.totals,
        };
        cache.intend(n)?;
        let key = layout::journal(&writing.publisher.cluster, name, n);
        let committed = publication
            .commit(&key, &[], None, newest.map(|head| head.link), &body)
            .await?;
        self.findings
            .committed(committed.findings, &committed.complete_on);
        let journal = JournalHead {
            n,
            link: committed.link,
            checkpoint,
            checkpoint_at,
        };
        cache.commit(journal.clone(), swept)?;
        tracing::info!(filestore = %name, entry = n, kind = ?kind, files, bytes, stored, removed = body.removed, dirty, "filestore captured");
        Ok(captured(journal, Some(committed.complete_on)))
    }
}

fn now() -> Timestamp {
    Timestamp::from_chrono(chrono::Utc::now())
}

fn is_checkpoint_due(head: &JournalHead, files: u64, now: Timestamp) -> bool {
    now.millis_since(head.checkpoint_at) >= CHECKPOINT_EVERY
        || head.n - head.checkpoint >= CHECKPOINT_DELTAS + files / 1000
}
