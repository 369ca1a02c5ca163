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

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use holdfast_proto::finding::Severity;
use holdfast_proto::manifest::Part;
use holdfast_proto::record::Totals;
use holdfast_repository::manifest::{Entry as Line, PartWriter};
use holdfast_repository::pack::SealedPack;
use holdfast_repository::publication::Publication;

use super::CaptureError;
use super::cache::Cache;
use super::lines;
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

    /// Turns a compared directory into its new record and writes its lines.
    async fn settle(
        &mut self,
        pending: Pending,
        outcomes: &mut [Option<Outcome>],
        whole: bool,
        look: Look,
    ) -> Result<Directory, CaptureError> {
        let Pending {
            path,
            stat,
            at,
            old,
            steps,
            gone,
        } = pending;
        let before = old
            .as_ref()
            .map(|d| (d.stat.permissions(), d.stat == Stat::UNKNOWN));
        if !path.is_empty() && (whole || !matches!(before, Some((mode, false)) if mode == stat.permissions()))
        {
            self.line(lines::directory(&self.job.index_key, &path, &stat))
                .await?;
        }
        for entry in gone {
            self.remove(&join(&path, &entry.name), whole).await?;
        }
        let mut entries = Vec::with_capacity(steps.len());
        for step in steps {
            let (listed, old, outcome) = match step {
                Step::Keep(entry) => {
                    let name = join(&path, &entry.name);
                    if whole || self.owed.remove(&name) {
                        self.captured(&name, &entry).await?;
                    }
                    entries.push(entry);
                    continue;
                }
                Step::Read {
                    candidate,
                    listed,
                    old,
                } => (
                    listed,
                    old,
                    outcomes[candidate]
                        .take()
                        .expect("each candidate has one outcome"),
                ),
            };
            let name = join(&path, &listed.name);
            if look != Look::Last && is_unproven(&outcome) {
                self.unproven.insert(path.clone());
                if whole {
                    self.owed.insert(name);
                }
                entries.extend(old);
                continue;
            }
            let Some(entry) = self.entry(&name, listed, old.as_ref(), outcome).await? else {
                if old.is_some() {
                    self.remove(&name, whole).await?;
                }
                continue;
            };
            let told = old
                .as_ref()
                .is_some_and(|old| lines::same_to_readers(old, &entry));
            if whole || self.owed.remove(&name) || !told {
                self.captured(&name, &entry).await?;
            }
            entries.push(entry);
        }
        // With the same names and times as before, the earlier look still counts.
        let listed = match old {
            Some(old) if old.stat == stat && old.listed - DIRECTORY_MARGIN > stat.mtime.max(stat.ctime) => {
                old.listed
            }
            _ => at,
        };
        Ok(Directory {
            path,
            stat,
            listed,
            entries,
        })
    }

    /// The new record of a file that was looked at; `None` when it went away.
    async fn entry(
        &mut self,
        path: &[u8],
        listed: Listed,
        old: Option<&Entry>,
        outcome: Outcome,
    ) -> Result<Option<Entry>, CaptureError> {
        let (stat, content, trouble) = match outcome {
            Outcome::Stored {
                stat,
                b3,
                id,
                extents,
                trouble,
            } => (stat, Content::File { b3, id, extents }, trouble),
            Outcome::Link(target) => (listed.stat, Content::Symlink(target), None),
            Outcome::Vanished if old.is_some() => return Ok(None),
            Outcome::Vanished => {
                self.tally.vanished.push(listed.stat.mtime);
                let line = lines::dirty(
                    &self.job.index_key,
                    path,
                    Some(&listed.stat),
                    "vanished before it was read",
                );
                self.line(line).await?;
                return Ok(None);
            }
            Outcome::Unreadable(why) => {
                self.findings.raise(
                    Severity::Critical,
                    "filestore-unreadable",
                    self.subject(path),
                    format!(
                        "it cannot be read, so it is not in the backup ({why}): let the agent's user read it"
                    ),
                );
                let content = old.map_or(Content::Absent, |old| old.content.clone());
                (listed.stat, content, Some(Trouble::Unreadable))
            }
        };
        match trouble {
            Some(Trouble::Torn) => self.findings.raise(
                Severity::Warning,
                "filestore-torn-at-source",
                self.subject(path),
                "its content does not match its name and has not changed for a while: the application lost part                  of it; it is captured as it is",
            ),
            Some(Trouble::Unreadable) => {}
            _ => {
                self.findings.clear("filestore-torn-at-source", &self.subject(path));
                self.findings.clear("filestore-unreadable", &self.subject(path));
            }
        }
        Ok(Some(Entry {
            name: listed.name,
            stat,
            content,
            trouble,
        }))
    }

    /// Remembers a directory that cannot be listed, so that it is tried again.
    /// Returns whether that is new.
    async fn unlisted(&mut self, shard: &mut Shard, path: Vec<u8>, why: &str) -> Result<bool, CaptureError> {
        self.tally.unlisted += 1;
        self.findings.raise(
            Severity::Critical,
            "filestore-unreadable",
            self.subject(&path),
            format!("the directory cannot be listed, so what is in it is not in the backup ({why}): let the agent's user read it"),
        );
        let old = shard.directory(&path);
        if old.is_some_and(|d| d.stat == Stat::UNKNOWN) {
            return Ok(false);
        }
        let entries = old.map_or_else(Vec::new, |d| d.entries.clone());
        let line = lines::dirty(
            &self.job.index_key,
            &path,
            None,
            "the directory could not be listed",
        );
        self.line(line).await?;
        shard.put(Directory {
            path,
            stat: Stat::UNKNOWN,
            listed: 0,
            entries,
        });
        Ok(true)
    }

    /// Forgets directories that are no longer there.
    async fn forget(&mut self, paths: Vec<Vec<u8>>, whole: bool) -> Result<(), CaptureError> {
        let mut by_shard: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
        for path in paths {
            by_shard.entry(shard_of(&path)).or_default().push(path);
        }
        for (number, paths) in by_shard {
            let mut shard = self.cache.shard(number)?;
            for path in paths {
                if let Some(directory) = shard.take(&path) {
                    self.gone(directory, whole).await?;
                }
            }
            self.cache.stage(number, &shard)?;
        }
        Ok(())
    }

    async fn gone(&mut self, directory: Directory, whole: bool) -> Result<(), CaptureError> {
        for entry in &directory.entries {
            self.remove(&join(&directory.path, &entry.name), whole).await?;
        }
        // A file may have taken its name since.
        let (parent, name) = match directory.path.iter().rposition(|b| *b == b'/') {
            Some(slash) => (&directory.path[..slash], &directory.path[slash + 1..]),
            None => (&b""[..], &directory.path[..]),
        };
        let taken = (self.cache.shard(shard_of(parent))?.directory(parent))
            .is_some_and(|d| d.entries.iter().any(|e| e.name == name));
        if !taken && !whole {
            self.line(lines::removed(&self.job.index_key, &directory.path))
                .await?;
        }
        Ok(())
    }

    /// Writes the lines of an entry that has content, is not proven, or both.
    async fn captured(&mut self, path: &[u8], entry: &Entry) -> Result<(), CaptureError> {
        if let Content::File { extents, .. } = &entry.content {
            for (place, _) in extents {
                if self.tally.packs_read.insert(place.pack) {
                    self.tally.totals.to_read += self.cache.pack(place.pack).map_or(0, |p| p.pack.size);
                }
            }
        }
        if entry.content != Content::Absent {
            let line = lines::captured(&self.job.index_key, path, entry, |n| self.cache.pack(n));
            self.tally.totals.bytes += entry.stat.size;
            self.line(line.ok_or(CaptureError::Memory)?).await?;
        }
        if let Some(trouble) = entry.trouble {
            let line = lines::dirty(&self.job.index_key, path, Some(&entry.stat), trouble.note());
            self.line(line).await?;
        }
        Ok(())
    }

    async fn remove(&mut self, path: &[u8], whole: bool) -> Result<(), CaptureError> {
        self.findings
            .clear("filestore-torn-at-source", &self.subject(path));
        self.findings.clear("filestore-unreadable", &self.subject(path));
        // A checkpoint begins from nothing: what was never in it is not removed.
        if whole || self.owed.remove(path) {
            return Ok(());
        }
        self.tally.removed += 1;
        self.line(lines::removed(&self.job.index_key, path)).await
    }

    async fn line(&mut self, line: Line) -> Result<(), CaptureError> {
        self.tally.totals.entries += 1;
        let writer = self
            .writer
            .as_mut()
            .expect("the writer is taken at the end alone");
        if let Some(part) = writer.add(line)? {
            self.tally.parts.push(self.publication.put_part(part).await?);
        }
        Ok(())
    }

    /// Stores the last part.
    pub(super) async fn finish(&mut self) -> Result<(), CaptureError> {
        if let Some(part) = self.writer.take().map(PartWriter::finish).transpose()?.flatten() {
            self.tally.parts.push(self.publication.put_part(part).await?);
        }
        Ok(())
    }

    fn subject(&self, path: &[u8]) -> String {
        super::listing::below(&self.job.root, path).display().to_string()
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
