//! Restores a filestore from its journal.
//!
//! The entries up to the plan's `state_at` make a state: a checkpoint lists all
//! files, a delta adds and removes. What later entries added is taken as well,
//! what they removed is kept (see `files` in the planner for why). Where both
//! have a file, the earlier content stands, unless the later one had been
//! written by the target's moment.
//!
//! Two passes over the catalogues, one part in memory at a time: the first finds
//! out which line of which part each path comes from (a few dozen bytes a file),
//! the second writes them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use holdfast_plan::restore::{FilestorePlan, RestorePlan};
use holdfast_proto::manifest::{CatalogueLine, EntryType, IndexLine, Part};
use holdfast_proto::record::{JournalBody, JournalKind};
use holdfast_proto::{ContentId, Timestamp};
use holdfast_repository::FetchError;

use super::access::Access;
use super::data_directory::read_linked;
use super::place::{self, PlaceError, Placed, Placing, Wanted};

/// Names of dirty files that are reported; more are counted.
pub(super) const NAMED: usize = 100;

/// A filestore that could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A journal entry cannot be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Files could not be put in place.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// An entry is not the one that the plan means.
    #[error("entry {0} of the journal says that it is another one: do not restore from it, and report it")]
    Contradiction(u64),
}

/// What a restore of a filestore did.
#[derive(Debug, Default)]
pub struct RestoredFiles {
    /// What was written.
    pub placed: Placed,
    /// Files that were not captured whole at the source, and why.
    pub dirty: Vec<String>,
    /// How many.
    pub dirty_count: u64,
    /// What was left out, for a person.
    pub notes: Vec<String>,
}

/// Where a path's content comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Origin {
    entry: u32,
    part: u32,
    line: u32,
}

/// Decides, line by line in the order of the journal, where each path's content
/// comes from.
struct Union {
    state_at: Option<u64>,
    moment: Option<Timestamp>,
    origins: HashMap<ContentId, Origin>,
    dirty: HashMap<ContentId, String>,
}

impl Union {
    fn begin_entry(&mut self, n: u64, kind: JournalKind) {
        if kind == JournalKind::Checkpoint && self.in_state(n) {
            self.origins.clear();
            self.dirty.clear();
        }
    }

    fn in_state(&self, n: u64) -> bool {
        self.state_at.is_some_and(|state| n <= state)
    }

    fn take(&mut self, n: u64, at: Origin, index: &IndexLine, line: &CatalogueLine) {
        match line.kind {
            EntryType::Removed => {
                if self.in_state(n) {
                    self.origins.remove(&index.e);
                    self.dirty.remove(&index.e);
                }
            }
            EntryType::Dirty => {
                let why = line.note.as_deref().unwrap_or("not captured whole");
                self.dirty.insert(index.e, format!("{}: {why}", line.path));
            }
            EntryType::File | EntryType::Directory | EntryType::Symlink => {
                let known = self.origins.contains_key(&index.e);
                let by_then = line
                    .mtime
                    .is_some_and(|m| self.moment.is_some_and(|moment| m <= moment));
                if self.in_state(n) || !known || by_then {
                    self.origins.insert(index.e, at);
                    self.dirty.remove(&index.e);
                }
            }
        }
    }
}

/// Restores a filestore of `plan` into `directory`. Nothing is durable yet.
pub async fn restore_files(
    access: &Access,
    plan: &RestorePlan,
    files: &FilestorePlan,
    directory: &Path,
    placing: &Placing,
) -> Result<RestoredFiles, FilesError> {
    let mut restored = RestoredFiles::default();
    let mut entries: Vec<(u64, Vec<Part>)> = Vec::new();
    let mut union = Union {
        state_at: files.state_at,
        moment: plan.replay.last_commit.map(|c| c.time),
        origins: HashMap::new(),
        dirty: HashMap::new(),
    };
    for (entry, step) in (0u32..).zip(&files.entries) {
        let (signed, findings) = read_linked::<JournalBody>(access, &step.link).await?;
        restored.placed.findings.extend(findings);
        let body = signed.header.body;
        if body.n != step.n || body.filestore != files.filestore {
            return Err(FilesError::Contradiction(step.n));
        }
        union.begin_entry(body.n, body.entry);
        for (number, part) in (0u32..).zip(&body.parts) {
            let (open, findings) = place::open_part(access, &plan.cluster, part).await?;
            restored.placed.findings.extend(findings);
            for (line, (index, catalogue)) in (0u32..).zip(&open.entries) {
                union.take(
                    body.n,
                    Origin {
                        entry,
                        part: number,
                        line,
                    },
                    index,
                    catalogue,
                );
            }
        }
        entries.push((body.n, body.parts));
    }
    restored.dirty_count = union.dirty.len() as u64;
    restored.dirty = union.dirty.into_values().collect();
    restored.dirty.sort();
    restored.dirty.truncate(NAMED);

    let origins = union.origins;
    let mut links: Vec<(PathBuf, PathBuf)> = Vec::new();
    for (entry, (_, parts)) in (0u32..).zip(&entries) {
        for (number, part) in (0u32..).zip(parts) {
            if !origins.values().any(|o| o.entry == entry && o.part == number) {
                continue;
            }
            let (open, _) = place::open_part(access, &plan.cluster, part).await?;
            let mut wanted = Vec::new();
            for (line, (index, catalogue)) in (0u32..).zip(open.entries) {
                if origins.get(&index.e)
                    == Some(&Origin {
                        entry,
                        part: number,
                        line,
                    })
                {
                    sort_in(
                        directory,
                        index,
                        &catalogue,
                        &mut wanted,
                        &mut links,
                        &mut restored.notes,
                    )?;
                }
            }
            let placed = place::place(access, &plan.cluster, &open.packs, wanted, placing).await?;
            restored.placed.add(placed);
        }
    }
    for (path, target) in links {
        if let Err(error) = std::os::unix::fs::symlink(&target, &path)
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            restored
                .notes
                .push(format!("the link {} could not be made: {error}", path.display()));
        }
    }
    Ok(restored)
}

fn sort_in(
    directory: &Path,
    index: IndexLine,
    line: &CatalogueLine,
    wanted: &mut Vec<Wanted>,
    links: &mut Vec<(PathBuf, PathBuf)>,
    notes: &mut Vec<String>,
) -> Result<(), PlaceError> {
    let relative = place::relative_path(line)?;
    let path = directory.join(&relative);
    match line.kind {
        EntryType::Directory => place::make_directory(&path, line.mode & 0o777 | 0o700)?,
        EntryType::File => {
            if let Some(parent) = path.parent() {
                place::make_directory(parent, 0o700)?;
            }
            wanted.push(Wanted {
                path,
                size: line.size,
                mode: line.mode & 0o777 | 0o600,
                mtime: line.mtime,
                b3: line.b3,
                extents: index.x,
            });
        }
        EntryType::Symlink => {
            let target = PathBuf::from(line.note.clone().unwrap_or_default());
            let inside = target.is_relative()
                && target
                    .components()
                    .all(|c| matches!(c, std::path::Component::Normal(_)));
            if inside {
                if let Some(parent) = path.parent() {
                    place::make_directory(parent, 0o700)?;
                }
                links.push((path, target));
            } else {
                notes.push(format!(
                    "the link {} to {} was left out: it leads out of the filestore",
                    relative.display(),
                    target.display()
                ));
            }
        }
        EntryType::Removed | EntryType::Dirty => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn id(path: u8) -> ContentId {
        ContentId::new([path; 16])
    }

    fn line(kind: EntryType, mtime: Option<i64>) -> CatalogueLine {
        CatalogueLine {
            path: "x".into(),
            path_bytes: None,
            kind,
            mode: 0,
            size: 0,
            mtime: mtime.map(Timestamp::from_unix_micros),
            b3: None,
            note: None,
        }
    }

    /// An entry's number, what it is, and its lines.
    type Written = (u64, JournalKind, Vec<(u8, EntryType)>);

    fn run(state_at: Option<u64>, entries: &[Written]) -> BTreeMap<u8, u32> {
        let mut union = Union {
            state_at,
            moment: None,
            origins: HashMap::new(),
            dirty: HashMap::new(),
        };
        for (entry, (n, kind, lines)) in (0u32..).zip(entries) {
            union.begin_entry(*n, *kind);
            for (at, (path, kind)) in (0u32..).zip(lines) {
                let index = IndexLine {
                    e: id(*path),
                    c: None,
                    x: Vec::new(),
                };
                union.take(
                    *n,
                    Origin {
                        entry,
                        part: 0,
                        line: at,
                    },
                    &index,
                    &line(*kind, None),
                );
            }
        }
        union
            .origins
            .into_iter()
            .map(|(id, origin)| (id.as_bytes()[0], origin.entry))
            .collect()
    }

    #[test]
    fn removals_count_up_to_the_state_and_additions_beyond() {
        use EntryType::{File, Removed};
        use JournalKind::{Checkpoint, Delta};
        let entries = [
            (1, Checkpoint, vec![(1, File), (2, File), (3, File)]),
            (2, Delta, vec![(1, Removed), (4, File)]),
            (3, Delta, vec![(2, Removed), (5, File), (3, File)]),
            (4, Checkpoint, vec![(3, File), (5, File), (6, File)]),
        ];
        assert_eq!(
            run(Some(2), &entries),
            BTreeMap::from([(2, 0), (3, 0), (4, 1), (5, 2), (6, 3)])
        );
        assert_eq!(run(Some(4), &entries), BTreeMap::from([(3, 3), (5, 3), (6, 3)]));
        assert_eq!(
            run(None, &entries).keys().copied().collect::<Vec<_>>(),
            [1, 2, 3, 4, 5, 6]
        );
    }

    proptest! {
        /// A file that was there at the state, or came later, is never lost.
        #[test]
        fn nothing_that_may_be_referenced_is_left_out(
            deltas in proptest::collection::vec(proptest::collection::vec((0u8..12, any::<bool>()), 0..6), 1..8),
            state in 1u64..8,
        ) {
            let mut live: BTreeSet<u8> = BTreeSet::new();
            let mut needed: BTreeSet<u8> = BTreeSet::new();
            let mut entries = Vec::new();
            for (n, changes) in (1u64..).zip(&deltas) {
                let mut lines = Vec::new();
                for (path, there) in changes {
                    if *there {
                        live.insert(*path);
                        lines.push((*path, EntryType::File));
                    } else if live.remove(path) {
                        lines.push((*path, EntryType::Removed));
                    }
                    if n > state && *there {
                        needed.insert(*path);
                    }
                }
                if n == state.min(deltas.len() as u64) {
                    needed.extend(live.iter().copied());
                }
                let kind = if n == 1 { JournalKind::Checkpoint } else { JournalKind::Delta };
                entries.push((n, kind, lines));
            }
            let kept: BTreeSet<u8> = run(Some(state), &entries).into_keys().collect();
            prop_assert!(needed.is_subset(&kept), "{:?} of {:?}", needed, kept);
        }
    }
}
