//! Where a restore goes, and whether it may go there.
//!
//! A target directory is taken only when it is empty or holds an unfinished
//! restore of the same plan. A lock in it keeps a second restore out. A
//! directory with a running server is refused whatever else it holds.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use holdfast_plan::restore::RestorePlan;
use holdfast_proto::Sha256Digest;
use holdfast_proto::names::FilestoreName;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::base::rules::RESTORE_NOTES;
use crate::durable::{self, LocalFileError};

/// Where everything goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The new data directory.
    pub data: PathBuf,
    /// Where tablespaces go, by object id.
    pub tablespaces: BTreeMap<u32, PathBuf>,
    /// Where tablespaces that are not named above go: into a directory here,
    /// named by object id.
    pub tablespaces_under: Option<PathBuf>,
    /// Where filestores go. Those of the plan that are not named are an error.
    pub filestores: BTreeMap<FilestoreName, PathBuf>,
    /// Where the configuration bundle is unpacked, if it is wanted.
    pub config: Option<PathBuf>,
    /// Where the secrets bundle is unpacked, if it is wanted.
    pub secrets: Option<PathBuf>,
}

/// A target that is refused, or cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A server uses it.
    #[error("{} belongs to a running PostgreSQL (process {pid}): stop it, or choose another directory", path.display())]
    Running {
        /// The directory.
        path: PathBuf,
        /// The postmaster.
        pid: String,
    },
    /// It holds something else.
    #[error("{} is not empty (it holds {found:?}): choose an empty or a new directory", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// Something in it.
        found: String,
    },
    /// It is not a directory.
    #[error("{} is not a directory: choose an empty or a new directory", .0.display())]
    NotDirectory(PathBuf),
    /// It holds an unfinished restore of another plan.
    #[error(
        "{} holds an unfinished restore by another plan (digest {found}): give the same command as for that one, and it \
         goes on; or remove the directory", path.display()
    )]
    OtherPlan {
        /// The directory.
        path: PathBuf,
        /// The digest of that plan.
        found: Sha256Digest,
    },
    /// It holds a restore that was carried out.
    #[error("{} holds a finished restore already: choose another directory", .0.display())]
    Finished(PathBuf),
    /// Another restore is at work in it.
    #[error("another restore is at work in {}: wait for it", .0.display())]
    Busy(PathBuf),
    /// Nobody said where a tablespace goes.
    #[error(
        "the backup has tablespaces ({}) and nobody said where they go: give --tablespace OID=DIRECTORY for each, or \
         --tablespaces-under DIRECTORY", list(.0)
    )]
    Tablespaces(Vec<u32>),
    /// Nobody said where a filestore goes.
    #[error(
        "nobody said where {} goes: give {}, or --no-filestores to leave them out", named(.0), options(.0)
    )]
    Filestores(Vec<FilestoreName>),
    /// Two things would go to one place.
    #[error("{} and {} lie within each other: choose separate directories", .0.display(), .1.display())]
    Overlap(PathBuf, PathBuf),
    /// The paths are relative.
    #[error("{} is not an absolute path: PostgreSQL needs one", .0.display())]
    Relative(PathBuf),
    /// Too little room.
    #[error(
        "{} has {available} bytes free, the restore writes about {needed}: make room, or choose another place",
        path.display()
    )]
    NoRoom {
        /// The directory.
        path: PathBuf,
        /// Bytes free.
        available: u64,
        /// Bytes to write.
        needed: u64,
    },
    /// The file system refuses.
    #[error(transparent)]
    Local(#[from] LocalFileError),
}

fn named(filestores: &[FilestoreName]) -> String {
    let names: Vec<String> = filestores
        .iter()
        .map(|name| format!("filestore {name}"))
        .collect();
    names.join(" or ")
}

fn options(filestores: &[FilestoreName]) -> String {
    let options: Vec<String> = filestores
        .iter()
        .map(|name| format!("--filestore {name}=DIRECTORY"))
        .collect();
    options.join(" ")
}

fn list(ids: &[u32]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// How far a restore is, in `state.json` of its notes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    plan: Sha256Digest,
    finished: bool,
}

/// A target that was taken: nobody else restores into it while this lives.
#[derive(Debug)]
pub struct Taken {
    notes: PathBuf,
    plan: Sha256Digest,
    resumed: bool,
    _lock: File,
}

/// The digest of a plan: SHA-256 of its JSON.
pub fn plan_digest(plan: &RestorePlan) -> Sha256Digest {
    Sha256Digest::of(&serde_json::to_vec(plan).expect("a plan is plain values"))
}

/// The plan of a restore that was begun in `data` and is not finished. A plan
/// made anew could choose differently; an interrupted restore goes on by its own.
///
/// # Errors
/// The notes cannot be read.
pub fn begun(data: &Path) -> Result<Option<RestorePlan>, LocalFileError> {
    let notes = data.join(RESTORE_NOTES);
    let state = durable::read(&notes.join("state.json"))?
        .and_then(|bytes| serde_json::from_slice::<State>(&bytes).ok());
    let Some(state) = state.filter(|s| !s.finished) else {
        return Ok(None);
    };
    let plan = durable::read(&notes.join("plan.json"))?
        .and_then(|bytes| serde_json::from_slice::<RestorePlan>(&bytes).ok());
    Ok(plan.filter(|p| plan_digest(p) == state.plan))
}

impl Target {
    /// Where each of the plan's tablespaces goes.
    pub fn tablespaces_for(&self, plan: &RestorePlan) -> Result<BTreeMap<u32, PathBuf>, TargetError> {
        let mut map = BTreeMap::new();
        let mut missing = Vec::new();
        for oid in &plan.base.tablespaces {
            let named = self.tablespaces.get(oid).cloned();
            match named.or_else(|| {
                self.tablespaces_under
                    .as_ref()
                    .map(|dir| dir.join(oid.to_string()))
            }) {
                Some(path) => drop(map.insert(*oid, path)),
                None => missing.push(*oid),
            }
        }
        if missing.is_empty() {
            Ok(map)
        } else {
            Err(TargetError::Tablespaces(missing))
        }
    }

    fn directories(&self, plan: &RestorePlan) -> Result<Vec<PathBuf>, TargetError> {
        let mut all = vec![self.data.clone()];
        all.extend(self.tablespaces_for(plan)?.into_values());
        let names = || plan.filestores.iter().map(|files| &files.filestore);
        let unsaid: Vec<FilestoreName> = names()
            .filter(|name| !self.filestores.contains_key(*name))
            .cloned()
            .collect();
        if !unsaid.is_empty() {
            return Err(TargetError::Filestores(unsaid));
        }
        all.extend(names().filter_map(|name| self.filestores.get(name)).cloned());
        all.extend(self.config.iter().chain(&self.secrets).cloned());
        for (n, a) in all.iter().enumerate() {
            if !a.is_absolute() {
                return Err(TargetError::Relative(a.clone()));
            }
            if let Some(b) = all
                .iter()
                .skip(n + 1)
                .find(|b| a.starts_with(b) || b.starts_with(a))
            {
                return Err(TargetError::Overlap(a.clone(), b.to_path_buf()));
            }
        }
        Ok(all)
    }

    /// Takes the target for `plan`: makes its directories, or finds what an
    /// earlier run of the same plan left.
    ///
    /// # Errors
    /// It may not be used, with the reason. Nothing was changed then, but for
    /// directories that did not exist.
    pub fn take(&self, plan: &RestorePlan, check_room: bool) -> Result<Taken, TargetError> {
        let directories = self.directories(plan)?;
        if let Some(pid) = running(&self.data)? {
            return Err(TargetError::Running {
                path: self.data.clone(),
                pid,
            });
        }
        let digest = plan_digest(plan);
        let notes = self.data.join(RESTORE_NOTES);
        let state = durable::read(&notes.join("state.json"))?
            .and_then(|bytes| serde_json::from_slice::<State>(&bytes).ok());
        match &state {
            Some(state) if state.finished => return Err(TargetError::Finished(self.data.clone())),
            Some(state) if state.plan != digest => {
                return Err(TargetError::OtherPlan {
                    path: self.data.clone(),
                    found: state.plan,
                });
            }
            Some(_) => {}
            None => {
                for directory in &directories {
                    must_be_empty(directory, *directory == self.data)?;
                }
            }
        }
        for directory in &directories {
            durable::create_directory(directory)?;
        }
        if check_room && state.is_none() {
            self.check_room(plan)?;
        }
        durable::create_directory(&notes)?;
        let lock = notes.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .map_err(|e| LocalFileError::new("open", &lock, e))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| TargetError::Busy(self.data.clone()))?;
        let taken = Taken {
            notes,
            plan: digest,
            resumed: state.is_some(),
            _lock: file,
        };
        let text = serde_json::to_vec_pretty(plan).expect("a plan is plain values");
        durable::replace(&taken.notes.join("plan.json"), &text)?;
        taken.note(false)?;
        Ok(taken)
    }

    fn check_room(&self, plan: &RestorePlan) -> Result<(), TargetError> {
        let mut needs: BTreeMap<u64, (PathBuf, u64)> = BTreeMap::new();
        let mut need = |path: &Path, bytes: u64| -> Result<(), TargetError> {
            let stat = rustix::fs::stat(path).map_err(|e| LocalFileError::new("examine", path, e.into()))?;
            let entry = needs.entry(stat.st_dev).or_insert_with(|| (path.to_owned(), 0));
            entry.1 = entry.1.saturating_add(bytes);
            Ok(())
        };
        // With tablespaces elsewhere the data directory needs less than all.
        if plan.base.tablespaces.is_empty() {
            need(&self.data, plan.base.bytes)?;
        }
        for filestore in &plan.filestores {
            if let Some(path) = self.filestores.get(&filestore.filestore) {
                need(path, filestore.bytes)?;
            }
        }
        for (path, needed) in needs.into_values() {
            let vfs =
                rustix::fs::statvfs(&path).map_err(|e| LocalFileError::new("examine", &path, e.into()))?;
            let available = vfs.f_bavail.saturating_mul(vfs.f_frsize);
            if available < needed {
                return Err(TargetError::NoRoom {
                    path,
                    available,
                    needed,
                });
            }
        }
        Ok(())
    }
}

impl Taken {
    /// The directory of the restore's notes.
    pub fn notes(&self) -> &Path {
        &self.notes
    }

    /// Whether an earlier run left something.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// Digest of the plan.
    pub fn plan(&self) -> Sha256Digest {
        self.plan
    }

    /// Notes that the plan was carried out.
    pub fn finish(self) -> Result<(), LocalFileError> {
        self.note(true)
    }

    fn note(&self, finished: bool) -> Result<(), LocalFileError> {
        let state = State {
            plan: self.plan,
            finished,
        };
        let text = serde_json::to_vec(&state).expect("a state is plain values");
        durable::replace(&self.notes.join("state.json"), &text)
    }
}

/// The process that a data directory's `postmaster.pid` names, if it lives.
/// When that cannot be told, it lives.
fn running(data: &Path) -> Result<Option<String>, TargetError> {
    let Some(text) = durable::read(&data.join("postmaster.pid"))? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&text);
    let pid = text
        .lines()
        .next()
        .unwrap_or("")
        .trim()
        .trim_start_matches('-')
        .to_owned();
    if pid.parse::<u32>().is_ok()
        && !Path::new("/proc").join(&pid).exists()
        && Path::new("/proc/self").exists()
    {
        return Ok(None);
    }
    Ok(Some(pid))
}

fn must_be_empty(directory: &Path, is_data: bool) -> Result<(), TargetError> {
    let entries = match fs::read_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            return Err(TargetError::NotDirectory(directory.to_owned()));
        }
        Err(e) => return Err(LocalFileError::new("list", directory, e).into()),
        Ok(entries) => entries,
    };
    for entry in entries {
        let entry = entry.map_err(|e| LocalFileError::new("list", directory, e))?;
        let name = entry.file_name();
        // A run that died before its first note leaves an empty directory of notes;
        // a file system of its own begins with lost+found.
        let notes = is_data && name == RESTORE_NOTES && !entry.path().join("state.json").exists();
        let mount = name == "lost+found" && fs::read_dir(entry.path()).is_ok_and(|mut d| d.next().is_none());
        if !notes && !mount {
            return Err(TargetError::NotEmpty {
                path: directory.to_owned(),
                found: name.to_string_lossy().into_owned(),
            });
        }
    }
    Ok(())
}
