//! Turns what was compared and read into records and lines.

use holdfast_proto::finding::Severity;
use holdfast_repository::manifest::{Entry as Line, PartWriter};

use super::{DIRECTORY_MARGIN, Look, Pending, Step, Walk, is_unproven};
use crate::filestore::CaptureError;
use crate::filestore::lines;
use crate::filestore::listing::{Listed, below, join};
use crate::filestore::record::{Content, Directory, Entry, Shard, Stat, Trouble, shard_of};
use crate::filestore::storing::Outcome;
use std::collections::BTreeMap;

impl Walk<'_> {
    /// Turns a compared directory into its new record and writes its lines.
    pub(super) async fn settle(
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
    pub(super) async fn unlisted(
        &mut self,
        shard: &mut Shard,
        path: Vec<u8>,
        why: &str,
    ) -> Result<bool, CaptureError> {
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
    pub(super) async fn forget(&mut self, paths: Vec<Vec<u8>>, whole: bool) -> Result<(), CaptureError> {
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

    pub(super) async fn gone(&mut self, directory: Directory, whole: bool) -> Result<(), CaptureError> {
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
    pub(in crate::filestore) async fn finish(&mut self) -> Result<(), CaptureError> {
        if let Some(part) = self.writer.take().map(PartWriter::finish).transpose()?.flatten() {
            self.tally.parts.push(self.publication.put_part(part).await?);
        }
        Ok(())
    }

    pub(super) fn subject(&self, path: &[u8]) -> String {
        below(&self.job.root, path).display().to_string()
    }
}
