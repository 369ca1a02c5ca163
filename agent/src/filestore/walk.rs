//! Walks a filestore and turns what changed into lines of a journal entry.
//!
//! Directories are taken in groups: listed, compared with what is remembered,
//! their new files read and stored, their lines written, their shards staged.
//! Memory holds one group, the notes on directories and the open part.
//!
//! A file that is not proven in the first look gets others a little later, and
//! its line is written only when it is: so within one entry a path has one line
//! (two when it stays unproven: what was read, and why it is not proven; and
//! where a directory took a file's place or the reverse, the removal first).

mod settling;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use holdfast_proto::finding::Severity;
use holdfast_proto::manifest::Part;
use holdfast_proto::record::Totals;
use holdfast_repository::manifest::PartWriter;
use holdfast_repository::pack::SealedPack;
use holdfast_repository::publication::Publication;

use super::CaptureError;
use super::cache::Cache;
use super::listing::{Found, Kind, Listed, Listing, join, list_all, stat_of};
use super::record::{Content, Directory, Entry, Shard, Stat, Trouble, shard_of};
use super::storing::{Candidate, Job, Outcome, Stored, store};
use crate::findings::Findings;

/// Directories in a group.
const GROUP_DIRECTORIES: usize = 64;
/// Remembered entries at which a group is large enough.
const GROUP_ENTRIES: usize = 20_000;
/// When files that were not proven are looked at again.
const LOOKS: [Duration; 3] = [
    Duration::from_millis(120),
    Duration::from_millis(500),
    Duration::from_millis(1500),
];
/// A directory that changed so shortly before it was listed may have changed once
/// more without its time telling.
const DIRECTORY_MARGIN: i64 = 2_000_000_000;

/// One capture under way.
pub(super) struct Walk<'w> {
    pub(super) job: Job,
    pub(super) cache: &'w mut Cache,
    pub(super) publication: &'w Publication,
    pub(super) findings: &'w Findings,
    /// Whether every entry gets a line, or only changes.
    pub(super) whole: bool,
    pub(super) writer: Option<PartWriter>,
    pub(super) tally: Tally,
    owed: HashSet<Vec<u8>>,
    unproven: BTreeSet<Vec<u8>>,
}

/// What a capture has amounted to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) parts: Vec<Part>,
    pub(super) totals: Totals,
    pub(super) removed: u64,
    /// New files that went away before they were read, with when they were written.
    pub(super) vanished: Vec<i64>,
    /// Directories that cannot be listed.
    pub(super) unlisted: u64,
    packs_read: HashSet<u32>,
}

/// What is to be done about a listed name.
enum Step {
    Keep(Entry),
    Read {
        candidate: usize,
        listed: Listed,
        old: Option<Entry>,
    },
}

/// A directory between its listing and its new record.
struct Pending {
    path: Vec<u8>,
    stat: Stat,
    at: i64,
    old: Option<Directory>,
    steps: Vec<Step>,
    gone: Vec<Entry>,
}

impl<'w> Walk<'w> {
    pub(super) fn new(
        job: Job,
        cache: &'w mut Cache,
        publication: &'w Publication,
        findings: &'w Findings,
        whole: bool,
    ) -> Self {
        Self {
            writer: Some(PartWriter::new(job.key.clone())),
            job,
            cache,
            publication,
            findings,
            whole,
            tally: Tally::default(),
            owed: HashSet::new(),
            unproven: BTreeSet::new(),
        }
    }

    /// Looks at every directory and every file's stat.
    pub(super) async fn sweep(&mut self) -> Result<(), CaptureError> {
        let mut visited = HashSet::new();
        visited.insert(Vec::new());
        self.follow(VecDeque::from([Vec::new()]), Some(&mut visited), self.whole)
            .await?;
        let gone: Vec<Vec<u8>> = (self.cache.directories())
            .map(|(path, _)| path)
            .filter(|p| !visited.contains(*p))
            .cloned()
            .collect();
        self.forget(gone, self.whole).await?;
        self.look_again().await
    }

    /// Looks at the directories whose times changed, and where something was not
    /// proven.
    pub(super) async fn changes(&mut self) -> Result<(), CaptureError> {
        let notes: Vec<(Vec<u8>, Stat, i64, bool)> = (self.cache.directories())
            .map(|(path, note)| (path.clone(), note.stat, note.listed, note.troubled > 0))
            .collect();
        let root = self.job.root.clone();
        let changed = tokio::task::spawn_blocking(move || {
            (notes.into_iter())
                .filter(|(path, stat, listed, troubled)| {
                    let fresh = *listed - DIRECTORY_MARGIN;
                    let now =
                        std::fs::symlink_metadata(super::listing::below(&root, path)).map(|m| stat_of(&m));
                    let same = now.is_ok_and(|n| {
                        (n.mtime, n.ctime, n.inode, n.mode) == (stat.mtime, stat.ctime, stat.inode, stat.mode)
                    });
                    // The root may be reached through a link: it is always listed.
                    path.is_empty() || !same || stat.mtime >= fresh || stat.ctime >= fresh || *troubled
                })
                .map(|(path, ..)| path)
                .collect::<VecDeque<_>>()
        })
        .await?;
        self.follow(changed, None, false).await?;
        self.look_again().await
    }

    /// Works through directories and those found in them: all of them when
    /// `visited` collects them, else those that are new.
    async fn follow(
        &mut self,
        mut worklist: VecDeque<Vec<u8>>,
        mut visited: Option<&mut HashSet<Vec<u8>>>,
        whole: bool,
    ) -> Result<(), CaptureError> {
        while !worklist.is_empty() {
            // Directories of one shard together, so that it is written once.
            worklist.make_contiguous().sort_by_key(|path| shard_of(path));
            let mut group = Vec::new();
            let mut entries = 0;
            while group.len() < GROUP_DIRECTORIES && entries < GROUP_ENTRIES {
                let Some(path) = worklist.pop_front() else { break };
                entries += self.cache.note(&path).map_or(0, |note| note.entries);
                group.push(path);
            }
            for path in self.group(group, whole, Look::First).await? {
                let wanted = match &mut visited {
                    Some(visited) => visited.insert(path.clone()),
                    None => self.cache.note(&path).is_none(),
                };
                if wanted {
                    worklist.push_back(path);
                }
            }
        }
        Ok(())
    }

    /// Gives files that were not proven time, and looks again.
    async fn look_again(&mut self) -> Result<(), CaptureError> {
        for (i, pause) in LOOKS.iter().enumerate() {
            if self.unproven.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(*pause).await;
            let look = if i + 1 == LOOKS.len() {
                Look::Last
            } else {
                Look::Again
            };
            let again: Vec<Vec<u8>> = std::mem::take(&mut self.unproven).into_iter().collect();
            let mut found = VecDeque::new();
            for group in again.chunks(GROUP_DIRECTORIES) {
                found.extend(self.group(group.to_vec(), false, look).await?);
            }
            found.retain(|path| self.cache.note(path).is_none());
            // What appears now is taken as it is: this has to end.
            while let Some(path) = found.pop_front() {
                let more = self.group(vec![path], false, look).await?;
                found.extend(more.into_iter().filter(|path| self.cache.note(path).is_none()));
            }
        }
        Ok(())
    }

    /// Lists, compares, stores, writes lines and stages one group. Returns the
    /// directories found in it.
    async fn group(
        &mut self,
        paths: Vec<Vec<u8>>,
        whole: bool,
        look: Look,
    ) -> Result<Vec<Vec<u8>>, CaptureError> {
        let (root, adapter, threads) = (self.job.root.clone(), self.job.adapter, self.job.threads);
        let listings = tokio::task::spawn_blocking(move || list_all(&root, adapter, &paths, threads)).await?;

        let mut shards: BTreeMap<usize, Shard> = BTreeMap::new();
        let mut changed: BTreeSet<usize> = BTreeSet::new();
        let mut candidates = Vec::new();
        let mut pending = Vec::new();
        let mut found = Vec::new();
        for listing in listings {
            let number = shard_of(&listing.path);
            let shard = match shards.entry(number) {
                std::collections::btree_map::Entry::Occupied(shard) => shard.into_mut(),
                std::collections::btree_map::Entry::Vacant(place) => place.insert(self.cache.shard(number)?),
            };
            let Listing {
                path,
                at,
                found: what,
            } = listing;
            let (stat, names) = match what {
                Found::Directory(stat, names) => (stat, names),
                Found::Gone if path.is_empty() => {
                    return Err(CaptureError::RootMissing(self.job.root.clone()));
                }
                Found::Gone => {
                    if let Some(directory) = shard.take(&path) {
                        changed.insert(number);
                        self.gone(directory, whole).await?;
                    }
                    continue;
                }
                Found::Unreadable(source) if path.is_empty() => {
                    return Err(CaptureError::RootUnreadable {
                        root: self.job.root.clone(),
                        source,
                    });
                }
                Found::Unreadable(error) => {
                    if self.unlisted(shard, path, &error.to_string()).await? {
                        changed.insert(number);
                    }
                    continue;
                }
            };
            self.findings.clear("filestore-unreadable", &self.subject(&path));
            if path.is_empty() && names.is_empty() && self.cache.totals().0 > 0 {
                return Err(CaptureError::RootEmpty {
                    root: self.job.root.clone(),
                    files: self.cache.totals().0,
                });
            }
            let old = shard.take(&path);
            found.extend(
                (names.iter())
                    .filter(|l| l.kind == Kind::Directory)
                    .map(|l| join(&path, &l.name)),
            );
            pending.push(self.compare(path, stat, at, old, names, &mut candidates));
        }

        let Stored { outcomes, packs } = self.store(candidates).await?;
        self.tally.totals.stored += packs.iter().map(|p| p.pack.size).sum::<u64>();
        self.cache.add_packs(packs);
        let mut outcomes: Vec<Option<Outcome>> = outcomes.into_iter().map(Some).collect();
        for one in pending {
            let number = shard_of(&one.path);
            let before = one.old.clone();
            let directory = self.settle(one, &mut outcomes, whole, look).await?;
            if before.as_ref() != Some(&directory) {
                changed.insert(number);
            }
            shards.entry(number).or_default().put(directory);
        }
        for (number, shard) in shards {
            if changed.contains(&number) {
                self.cache.stage(number, &shard)?;
            }
        }
        Ok(found)
    }

    async fn store(&mut self, candidates: Vec<Candidate>) -> Result<Stored, CaptureError> {
        let publication = self.publication;
        let upload = |pack: SealedPack| async move {
            publication
                .put_pack(&pack)
                .await
                .map(drop)
                .map_err(CaptureError::from)
        };
        store(&self.job, candidates, self.cache.next_pack(), upload).await
    }

    /// What is to be done about each name of a directory.
    fn compare(
        &self,
        path: Vec<u8>,
        stat: Stat,
        at: i64,
        old: Option<Directory>,
        names: Vec<Listed>,
        candidates: &mut Vec<Candidate>,
    ) -> Pending {
        let mut remembered: HashMap<Vec<u8>, Entry> = (old.iter().flat_map(|d| &d.entries))
            .map(|e| (e.name.clone(), e.clone()))
            .collect();
        let mut steps = Vec::with_capacity(names.len());
        for listed in names {
            match listed.kind {
                Kind::Directory => continue,
                Kind::Special => {
                    self.findings.raise(
                        Severity::Warning,
                        "filestore-special-file",
                        self.subject(&join(&path, &listed.name)),
                        "sockets, pipes and devices are not captured: remove it, or move it out of the filestore",
                    );
                    continue;
                }
                Kind::File | Kind::Symlink => {}
            }
            let old = remembered.remove(&listed.name);
            match old {
                Some(old) if is_unchanged(&old, &listed) => steps.push(Step::Keep(old)),
                old => {
                    steps.push(Step::Read {
                        candidate: candidates.len(),
                        old,
                        listed: listed.clone(),
                    });
                    candidates.push(Candidate {
                        path: join(&path, &listed.name),
                        kind: listed.kind,
                        stat: listed.stat,
                    });
                }
            }
        }
        let mut gone: Vec<Entry> = remembered.into_values().collect();
        gone.sort_by(|a, b| a.name.cmp(&b.name));
        Pending {
            path,
            stat,
            at,
            old,
            steps,
            gone,
        }
    }
}

/// Whether a name still stands for what is remembered.
fn is_unchanged(old: &Entry, listed: &Listed) -> bool {
    let kind = match old.content {
        Content::File { .. } => listed.kind == Kind::File,
        Content::Symlink(_) => listed.kind == Kind::Symlink,
        Content::Absent => false,
    };
    kind && old.stat == listed.stat && matches!(old.trouble, None | Some(Trouble::Torn))
}

/// Whether another look may prove more.
fn is_unproven(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Stored { trouble, .. } => *trouble == Some(Trouble::Changing),
        Outcome::Unreadable(_) => true,
        Outcome::Link(_) | Outcome::Vanished => false,
    }
}

/// Which look at a file this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    First,
    Again,
    /// What is not proven now is written down as unproven.
    Last,
}
