//! Looks through a data directory and says what a base backup has to copy.
//!
//! Reads directories and nothing else: no file is opened here. The walk must
//! begin after the backup was started on the server, because whatever appears
//! or grows later is in the WAL. A directory or file that vanishes meanwhile is
//! no error, for the same reason; one that cannot be read is, and names itself.
//!
//! Entries come out in the order of their paths, directories before what is in
//! them, so that the same directory gives the same list.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use holdfast_proto::Timestamp;

use super::rules::{self, Fork, RelationFile};

/// A regular file to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFile {
    /// Path relative to the data directory. A tablespace's files lie under
    /// `pg_tblspc/<oid>/`.
    pub path: PathBuf,
    /// Bytes, as the walk saw it.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Set when the file holds the pages of a relation.
    pub relation: Option<RelationFile>,
}

/// A directory to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundDirectory {
    /// Path relative to the data directory.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
}

/// A symbolic link that is kept as a link; what it leads to is not copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundLink {
    /// Path relative to the data directory.
    pub path: PathBuf,
    /// Where it leads, as written in the link.
    pub target: PathBuf,
}

/// What a walk found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Directories, each after its parent.
    pub directories: Vec<FoundDirectory>,
    /// Files, without `global/pg_control`.
    pub files: Vec<FoundFile>,
    /// Links other than tablespaces.
    pub links: Vec<FoundLink>,
    /// Tablespaces by object id, with their place.
    pub tablespaces: BTreeMap<u32, PathBuf>,
}

impl Survey {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// Why a data directory cannot be looked through.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// A directory, file or link cannot be read.
    #[error("{path:?} cannot be read: {source}. Let the agent's user read the data directory and all in it")]
    Unreadable {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A link that would hide data.
    #[error(
        "{path:?} is a symbolic link where PostgreSQL keeps data: only pg_wal and tablespaces may be links. \
         Replace it by a bind mount or by a tablespace"
    )]
    HidingLink {
        /// The link.
        path: PathBuf,
    },
    /// A link in `pg_tblspc` that is not a tablespace.
    #[error(
        "pg_tblspc holds {name:?}, which is not named by a tablespace's object id: look who put it there"
    )]
    StrangeTablespace {
        /// The name.
        name: OsString,
    },
}

/// Looks through `data`, the data directory of a server of major `major`.
///
/// # Errors
/// Anything in it that cannot be read or that cannot be backed up as it is.
pub fn walk(data: &Path, major: u32) -> Result<Survey, WalkError> {
    let mut walker = Walker {
        data,
        version_prefix: format!("PG_{major}_"),
        inside: BTreeSet::new(),
        survey: Survey::default(),
    };
    let links = walker.tablespace_links()?;
    walker.inside = links
        .values()
        .filter_map(|place| place_inside(data, place))
        .collect();
    walker.survey.tablespaces = links;
    walker.directory(Path::new(""))?;
    Ok(walker.survey)
}

/// The path of `place` relative to the data directory, if it lies in it.
fn place_inside(data: &Path, place: &Path) -> Option<PathBuf> {
    let data = fs::canonicalize(data).ok()?;
    let place = fs::canonicalize(place).ok()?;
    place.strip_prefix(data).ok().map(Path::to_owned)
}

struct Walker<'a> {
    data: &'a Path,
    version_prefix: String,
    /// Tablespaces' places within the data directory, relative to it.
    inside: BTreeSet<PathBuf>,
    survey: Survey,
}

impl Walker<'_> {
    fn tablespace_links(&self) -> Result<BTreeMap<u32, PathBuf>, WalkError> {
        let mut links = BTreeMap::new();
        for name in self.names(Path::new("pg_tblspc"))? {
            let path = Path::new("pg_tblspc").join(&name);
            let Some(metadata) = self.metadata(&path)? else {
                continue;
            };
            if rules::is_left_out("pg_tblspc", &name.to_string_lossy()) {
                continue;
            }
            let oid = name.to_str().and_then(|n| n.parse().ok());
            let Some(oid) = oid else {
                return Err(WalkError::StrangeTablespace { name });
            };
            if metadata.is_symlink() {
                links.insert(oid, self.link_target(&path)?);
            }
        }
        Ok(links)
    }

    /// Walks the directory at `path`; what it is itself has been noted already.
    fn directory(&mut self, path: &Path) -> Result<(), WalkError> {
        let shown = path.to_string_lossy().into_owned();
        let names = self.names(path)?;
        let holds_relations = rules::holds_relations(&shown);
        let unlogged: BTreeSet<u32> = if holds_relations {
            names
                .iter()
                .filter_map(|name| RelationFile::parse(name.to_str()?))
                .filter(|file| file.fork == Fork::Init)
                .map(|file| file.relation)
                .collect()
        } else {
            BTreeSet::new()
        };
        for name in names {
            let text = name.to_string_lossy();
            if rules::is_left_out(&shown, &text) {
                continue;
            }
            let relation = if holds_relations {
                RelationFile::parse(&text)
            } else {
                None
            };
            if relation.is_some_and(|file| file.fork != Fork::Init && unlogged.contains(&file.relation)) {
                continue;
            }
            self.entry(path.join(&name), relation)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: PathBuf, relation: Option<RelationFile>) -> Result<(), WalkError> {
        let Some(metadata) = self.metadata(&path)? else {
            return Ok(());
        };
        let kind = metadata.file_type();
        if kind.is_symlink() {
            self.link(path)
        } else if kind.is_dir() {
            self.enter(path, &metadata)
        } else if kind.is_file() {
            if path != Path::new(rules::PG_CONTROL) {
                self.survey.files.push(FoundFile {
                    size: metadata.len(),
                    mode: metadata.mode() & 0o7777,
                    mtime: modified(&metadata),
                    relation,
                    path,
                });
            }
            Ok(())
        } else {
            // Sockets, pipes and devices are no data.
            Ok(())
        }
    }

    fn enter(&mut self, path: PathBuf, metadata: &Metadata) -> Result<(), WalkError> {
        self.survey.directories.push(FoundDirectory {
            path: path.clone(),
            mode: metadata.mode() & 0o7777,
        });
        let shown = path.to_string_lossy();
        if shown == "pg_wal" {
            self.survey.directories.push(FoundDirectory {
                path: path.join("archive_status"),
                mode: 0o700,
            });
        }
        if rules::is_emptied(&shown) || self.inside.contains(&path) {
            return Ok(());
        }
        self.directory(&path)
    }

    fn link(&mut self, path: PathBuf) -> Result<(), WalkError> {
        let shown = path.to_string_lossy();
        if path.parent() == Some(Path::new("pg_tblspc")) {
            return self.tablespace(&path);
        }
        if rules::is_emptied(&shown) {
            // What it leads to is emptied anyway; a restore makes a directory.
            let Some(metadata) = absent_is_none(&path, fs::metadata(self.data.join(&path)))? else {
                return Err(WalkError::HidingLink { path });
            };
            return self.enter(path, &metadata);
        }
        if rules::must_not_be_link(&shown) {
            return Err(WalkError::HidingLink { path });
        }
        let target = self.link_target(&path)?;
        self.survey.links.push(FoundLink { path, target });
        Ok(())
    }

    /// Of a tablespace's place only the directory of this major belongs to the
    /// cluster.
    fn tablespace(&mut self, path: &Path) -> Result<(), WalkError> {
        let metadata = match fs::metadata(self.data.join(path)) {
            Ok(metadata) => metadata,
            // Dropped meanwhile, with its link: fine. A link into nothing is not.
            Err(_) if self.metadata(path)?.is_none() => return Ok(()),
            Err(source) => return Err(unreadable(path, source)),
        };
        self.survey.directories.push(FoundDirectory {
            path: path.to_owned(),
            mode: metadata.mode() & 0o7777,
        });
        for name in self.names(path)? {
            if name.to_string_lossy().starts_with(&self.version_prefix) {
                self.entry(path.join(name), None)?;
            }
        }
        Ok(())
    }

    /// The names in a directory, sorted; none when it has vanished.
    fn names(&self, path: &Path) -> Result<Vec<OsString>, WalkError> {
        let Some(entries) = absent_is_none(path, fs::read_dir(self.data.join(path)))? else {
            if path.as_os_str().is_empty() {
                return Err(WalkError::Unreadable {
                    path: self.data.to_owned(),
                    source: io::ErrorKind::NotFound.into(),
                });
            }
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(|source| unreadable(path, source))?.file_name());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, WalkError> {
        absent_is_none(path, fs::symlink_metadata(self.data.join(path)))
    }

    fn link_target(&self, path: &Path) -> Result<PathBuf, WalkError> {
        fs::read_link(self.data.join(path)).map_err(|source| unreadable(path, source))
    }
}

fn unreadable(path: &Path, source: io::Error) -> WalkError {
    WalkError::Unreadable {
        path: path.to_owned(),
        source,
    }
}

fn absent_is_none<T>(path: &Path, result: io::Result<T>) -> Result<Option<T>, WalkError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(unreadable(path, source)),
    }
}

/// A file's modification time, cut to microseconds.
pub(super) fn modified(metadata: &Metadata) -> Timestamp {
    Timestamp::from_unix_micros(
        metadata
            .mtime()
            .saturating_mul(1_000_000)
            .saturating_add(metadata.mtime_nsec() / 1000),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    fn tree(dirs: &[&str], files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for dir in dirs {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        for file in files {
            fs::write(root.path().join(file), file).unwrap();
        }
        root
    }

    fn paths(survey: &Survey) -> Vec<String> {
        survey
            .files
            .iter()
            .map(|f| f.path.display().to_string())
            .collect()
    }

    #[test]
    fn copies_what_belongs_and_nothing_else() {
        let root = tree(
            &[
                "base/5",
                "base/pgsql_tmp",
                "global",
                "pg_wal/archive_status",
                "pg_replslot/s",
                "pg_tblspc",
                "holdfast_restore",
            ],
            &[
                "PG_VERSION",
                "postmaster.pid",
                "backup_label",
                "base/5/16384",
                "base/5/16384_vm",
                "base/5/16390",
                "base/5/16390_fsm",
                "base/5/16390_init",
                "base/5/t3_16400",
                "base/5/pg_internal.init",
                "base/pgsql_tmp/x",
                "global/pg_control",
                "global/1262",
                "pg_wal/000000010000000000000001",
                "pg_replslot/s/state",
                "holdfast_restore/pin.json",
            ],
        );
        let _socket = UnixListener::bind(root.path().join(".s.PGSQL.5432")).unwrap();
        symlink(
            "/etc/postgresql/postgresql.conf",
            root.path().join("postgresql.conf"),
        )
        .unwrap();
        let survey = walk(root.path(), 15).unwrap();
        assert_eq!(
            paths(&survey),
            [
                "PG_VERSION",
                "base/5/16384",
                "base/5/16384_vm",
                "base/5/16390_init",
                "global/1262"
            ]
        );
        let directories: Vec<_> = survey
            .directories
            .iter()
            .map(|d| d.path.display().to_string())
            .collect();
        assert_eq!(
            directories,
            [
                "base",
                "base/5",
                "global",
                "pg_replslot",
                "pg_tblspc",
                "pg_wal",
                "pg_wal/archive_status"
            ]
        );
        assert_eq!(
            survey.links[0].target,
            Path::new("/etc/postgresql/postgresql.conf")
        );
        assert!(survey.files[1].relation.is_some() && survey.files[0].relation.is_none());
    }

    #[test]
    fn tablespaces_are_followed_once() {
        let outside = tree(
            &["PG_15_1/5", "PG_14_1/5"],
            &["PG_15_1/5/20000", "PG_14_1/5/1", "stray"],
        );
        let root = tree(&["pg_tblspc", "inner/PG_15_1/5"], &["inner/PG_15_1/5/30000"]);
        symlink(outside.path(), root.path().join("pg_tblspc/16385")).unwrap();
        symlink(root.path().join("inner"), root.path().join("pg_tblspc/16386")).unwrap();
        let survey = walk(root.path(), 15).unwrap();
        assert_eq!(
            paths(&survey),
            [
                "pg_tblspc/16385/PG_15_1/5/20000",
                "pg_tblspc/16386/PG_15_1/5/30000"
            ]
        );
        assert!(survey.files.iter().all(|f| f.relation.is_some()));
        assert_eq!(survey.tablespaces[&16385], outside.path());
        assert_eq!(survey.tablespaces[&16386], root.path().join("inner"));
    }

    #[test]
    fn a_linked_pg_wal_becomes_a_directory() {
        let elsewhere = tree(&[], &["000000010000000000000001"]);
        let root = tree(&["pg_tblspc"], &[]);
        symlink(elsewhere.path(), root.path().join("pg_wal")).unwrap();
        let survey = walk(root.path(), 15).unwrap();
        assert!(survey.files.is_empty() && survey.links.is_empty());
        assert!(survey.directories.iter().any(|d| d.path == Path::new("pg_wal")));
    }

    #[test]
    fn data_behind_a_link_is_refused() {
        let elsewhere = tree(&[], &[]);
        let root = tree(&["base", "pg_tblspc"], &[]);
        symlink(elsewhere.path(), root.path().join("base/5")).unwrap();
        assert!(matches!(walk(root.path(), 15), Err(WalkError::HidingLink { .. })));
        let absent = root.path().join("absent");
        assert!(matches!(walk(&absent, 15), Err(WalkError::Unreadable { .. })));
        let root = tree(&["pg_tblspc"], &[]);
        symlink(&absent, root.path().join("pg_tblspc/16385")).unwrap();
        assert!(matches!(walk(root.path(), 15), Err(WalkError::Unreadable { .. })));
        let root = tree(&["pg_tblspc/x"], &[]);
        assert!(matches!(
            walk(root.path(), 15),
            Err(WalkError::StrangeTablespace { .. })
        ));
    }
}
