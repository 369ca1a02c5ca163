//! Restores a base backup into a data directory.
//!
//! What differs from a plain copy: tablespaces go where the target says, so
//! `tablespace_map` is left out and links are made anew; a link that leads out of
//! the data directory is not made, because it would lead into the origin's
//! files; `pg_wal` is always a directory; `pg_control` waits among the restore's
//! notes until everything else is durable, so that a half-restored directory can
//! never be started.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use holdfast_plan::restore::RestorePlan;
use holdfast_proto::Sha256Digest;
use holdfast_proto::envelope::{Link, Record};
use holdfast_proto::finding::Finding;
use holdfast_proto::manifest::{BaseDetails, CatalogueLine, EntryType, IndexLine};
use holdfast_proto::record::BaseBody;
use holdfast_repository::FetchError;
use holdfast_repository::pack::{PackError, open_frame};
use holdfast_repository::signed::{self, Signed};

use super::access::Access;
use super::place::{self, PlaceError, Placed, Placing, Wanted};
use crate::base::rules::{PG_CONTROL, RESTORE_NOTES};
use crate::durable::{self, LocalFileError};

/// The most plaintext that a base's details may have.
const DETAILS: usize = 64 << 20;

/// Directories that PostgreSQL does not make itself.
const NEEDED: [&str; 16] = [
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_multixact/members",
    "pg_multixact/offsets",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal/archive_status",
];

/// A data directory that could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The commit object cannot be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The commit object's sealed details do not open.
    #[error("the details of base backup cannot be opened: {0}")]
    Details(#[from] PackError),
    /// The details are not what they should be.
    #[error(
        "the details of the base backup cannot be read ({0}): it was written by a newer or a broken version"
    )]
    Unreadable(String),
    /// Files could not be put in place.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A file could not be written.
    #[error(transparent)]
    Local(#[from] LocalFileError),
    /// The backup does not end with its control file.
    #[error("the base backup holds no {PG_CONTROL}: it is damaged, choose another with --base")]
    NoControlFile,
}

/// What a restore of a data directory did.
#[derive(Debug)]
pub struct RestoredData {
    /// What was written.
    pub placed: Placed,
    /// The sealed details of the base.
    pub details: BaseDetails,
    /// What was left out or changed, for a person.
    pub notes: Vec<String>,
}

/// Reads the signed object that a plan refers to: by its signature, and by the
/// digest in the plan.
pub async fn read_linked<B: Record>(
    access: &Access,
    link: &Link,
) -> Result<(Signed<B>, Vec<Finding>), FetchError> {
    let judge = |bytes: &Bytes| {
        if Sha256Digest::of(bytes) != link.sha256 {
            return Err("it is not the object that the plan names (SHA-256 differs)".to_owned());
        }
        signed::verify::<B>(bytes, &link.key, &access.trust).map_err(|e| e.to_string())
    };
    let found = access.repository.find(&link.key, judge).await?;
    Ok((found.value, found.findings))
}

/// Restores the plan's base into `data`; `notes` is the directory of the
/// restore's notes in it. Nothing is durable yet, and `pg_control` is not in its
/// place: see [`install_control_file`].
pub async fn restore_data(
    access: &Access,
    plan: &RestorePlan,
    data: &Path,
    notes: &Path,
    tablespaces: &BTreeMap<u32, PathBuf>,
    placing: &Placing,
) -> Result<RestoredData, DataError> {
    let (base, findings) = read_linked::<BaseBody>(access, &plan.base.link).await?;
    let details = open_details(access, &base)?;
    let mut restored = RestoredData {
        placed: Placed {
            findings,
            ..Placed::default()
        },
        details,
        notes: Vec::new(),
    };
    make_frame(data, tablespaces)?;

    let layout = Layout {
        data,
        notes,
        tablespaces,
    };
    let mut links: Vec<(PathBuf, PathBuf)> = Vec::new();
    for part in &base.body().parts {
        let (part, findings) = place::open_part(access, &plan.cluster, part).await?;
        restored.placed.findings.extend(findings);
        let mut files = Vec::new();
        for (index, line) in part.entries {
            layout.sort_in(index, &line, &mut files, &mut links, &mut restored.notes)?;
        }
        let placed = place::place(access, &plan.cluster, &part.packs, files, placing).await?;
        restored.placed.add(placed);
    }
    for (path, target) in links {
        make_link(&path, &target)?;
    }
    if !control_file(notes).exists() {
        return Err(DataError::NoControlFile);
    }
    Ok(restored)
}

fn open_details(access: &Access, base: &Signed<BaseBody>) -> Result<BaseDetails, DataError> {
    let sealed_to = base.header.payload.sealed_to;
    let sealed_to = sealed_to.ok_or_else(|| DataError::Unreadable("they are not sealed".to_owned()))?;
    let text = open_frame(&access.keyring, &sealed_to, &base.payload, DETAILS)?;
    serde_json::from_slice(&text).map_err(|e| DataError::Unreadable(e.to_string()))
}

/// Where `pg_control` waits.
fn control_file(notes: &Path) -> PathBuf {
    notes.join("pg_control")
}

/// Makes the restored directory one that PostgreSQL starts: the last step,
/// after everything else is durable.
pub fn install_control_file(data: &Path, notes: &Path) -> Result<(), DataError> {
    let waiting = control_file(notes);
    let place = data.join(PG_CONTROL);
    let failed = |action, source| LocalFileError::new(action, &place, source);
    fs::File::open(&waiting)
        .and_then(|f| f.sync_all())
        .map_err(|e| failed("sync", e))?;
    fs::rename(&waiting, &place).map_err(|e| failed("replace", e))?;
    durable::sync_directory(&data.join("global"))?;
    durable::sync_directory(notes)?;
    Ok(())
}

fn make_frame(data: &Path, tablespaces: &BTreeMap<u32, PathBuf>) -> Result<(), DataError> {
    for directory in NEEDED {
        place::make_directory(&data.join(directory), 0o700)?;
    }
    for (oid, directory) in tablespaces {
        place::make_directory(directory, 0o700)?;
        make_link(&data.join("pg_tblspc").join(oid.to_string()), directory)?;
    }
    Ok(())
}

fn make_link(path: &Path, target: &Path) -> Result<(), LocalFileError> {
    match std::os::unix::fs::symlink(target, path) {
        Err(e)
            if e.kind() == io::ErrorKind::AlreadyExists && fs::read_link(path).is_ok_and(|t| t == target) =>
        {
            Ok(())
        }
        Err(e) => Err(LocalFileError::new("create", path, e)),
        Ok(()) => Ok(()),
    }
}

struct Layout<'a> {
    data: &'a Path,
    notes: &'a Path,
    tablespaces: &'a BTreeMap<u32, PathBuf>,
}

impl Layout<'_> {
    fn sort_in(
        &self,
        index: IndexLine,
        line: &CatalogueLine,
        files: &mut Vec<Wanted>,
        links: &mut Vec<(PathBuf, PathBuf)>,
        notes: &mut Vec<String>,
    ) -> Result<(), DataError> {
        let relative = place::relative_path(line)?;
        if relative.starts_with(RESTORE_NOTES) {
            return Err(PlaceError::Path(line.path.clone()).into());
        }
        // Links of tablespaces are our own; the map would bring back the origin's.
        let own_link = relative.parent() == Some(Path::new("pg_tblspc")) && line.kind != EntryType::Directory;
        if relative == Path::new("tablespace_map") || own_link {
            return Ok(());
        }
        let path = self.place_of(&relative, line)?;
        match line.kind {
            EntryType::Directory => place::make_directory(&path, line.mode & 0o750 | 0o700)?,
            EntryType::File => {
                if let Some(parent) = path.parent() {
                    place::make_directory(parent, 0o700)?;
                }
                let path = if relative == Path::new(PG_CONTROL) {
                    control_file(self.notes)
                } else {
                    path
                };
                files.push(Wanted {
                    path,
                    size: line.size,
                    mode: line.mode & 0o640 | 0o600,
                    mtime: None,
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
                if relative == Path::new("pg_wal") {
                    notes.push(format!(
                        "pg_wal was a link to {}; it is a directory now",
                        target.display()
                    ));
                } else if inside {
                    links.push((path, target));
                } else {
                    notes.push(format!(
                        "the link {} to {} was left out: it leads out of the data directory",
                        relative.display(),
                        target.display()
                    ));
                }
            }
            EntryType::Removed | EntryType::Dirty => {
                return Err(DataError::Unreadable(format!(
                    "{:?} is no entry of a base backup",
                    line.path
                )));
            }
        }
        Ok(())
    }

    /// Where an entry goes: below the data directory, or into its tablespace.
    fn place_of(&self, relative: &Path, line: &CatalogueLine) -> Result<PathBuf, DataError> {
        let Ok(inner) = relative.strip_prefix("pg_tblspc") else {
            return Ok(self.data.join(relative));
        };
        let mut components = inner.components();
        let Some(oid) = components.next() else {
            return Ok(self.data.join(relative));
        };
        let oid: Option<u32> = oid.as_os_str().to_str().and_then(|o| o.parse().ok());
        let directory = oid.and_then(|oid| self.tablespaces.get(&oid));
        let directory = directory.ok_or_else(|| PlaceError::Path(line.path.clone()))?;
        let rest = components.as_path();
        Ok(if rest.as_os_str().is_empty() {
            directory.clone()
        } else {
            directory.join(rest)
        })
    }
}
