//! The agent's directory on its own disk.
//!
//! ```text
//! STATE/agent.lock                        held while an agent runs
//! STATE/done.json                         assignments that ended, newest last
//! STATE/certificate.pem                   key and certificate for the coordinator (0600)
//! STATE/certificate.next.pem              the next ones, see `certificate` (0600)
//! STATE/requests/                         work asked for by `holdfast agent backup`
//! STATE/clusters/TENANT/CLUSTER/
//!    index.key                            the key of identities (0600)
//!    lease.json lineage.json directives.json last-point.json followed.json bundles.json
//!    filestores/NAME/                     see `filestore::cache`
//! ```
//!
//! The directory and all below it are the agent's alone (0700). The index key is
//! worth keeping: without it everything is stored once more. The rest is looked up
//! or found out again. Nothing here opens a backup.
//!
//! Records are written through [`crate::durable`]; one that cannot be read is
//! treated as lost.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use holdfast_proto::names::{ClusterId, FilestoreName};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::durable::{self, LocalFileError};

/// The state directory of an agent.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
}

/// A state directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system refused.
    #[error(transparent)]
    Local(#[from] LocalFileError),
    /// Others may look into it.
    #[error("{} has mode {mode:04o}, so others may read the index key in it: chmod it to 0700", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// Held by the one process that runs an agent on a state directory.
#[derive(Debug)]
pub struct Running {
    _lock: File,
}

impl StateDir {
    /// Opens it, or makes it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        durable::create_directory(path)?;
        let meta = std::fs::metadata(path).map_err(|e| LocalFileError::new("look at", path, e))?;
        let mode = meta.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(StateError::Open {
                path: path.to_owned(),
                mode,
            });
        }
        durable::sweep(path)?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Claims it for a running agent; `None` when one runs already.
    pub fn claim(&self) -> Result<Option<Running>, StateError> {
        let path = self.path.join("agent.lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| LocalFileError::new("open", &path, e))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Running { _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(LocalFileError::new("lock", &path, e).into()),
        }
    }

    /// Where requests are left.
    pub fn requests(&self) -> Result<PathBuf, StateError> {
        let path = self.path.join("requests");
        durable::create_directory(&path)?;
        Ok(path)
    }

    /// The assignments that ended.
    pub fn done(&self) -> Record {
        Record(self.path.join("done.json"))
    }

    /// The key and the certificate for the coordinator.
    pub fn certificate(&self) -> PathBuf {
        self.path.join("certificate.pem")
    }

    /// The next ones.
    pub fn next_certificate(&self) -> PathBuf {
        self.path.join("certificate.next.pem")
    }

    /// The highest term of a coordinator that led.
    pub fn term(&self) -> Record {
        Record(self.path.join("term.json"))
    }

    /// One cluster's part.
    pub fn cluster(&self, cluster: &ClusterId) -> Result<ClusterState, StateError> {
        let path = self
            .path
            .join("clusters")
            .join(cluster.tenant.as_str())
            .join(cluster.cluster.as_str());
        durable::create_directory(&path)?;
        durable::sweep(&path)?;
        Ok(ClusterState { path })
    }
}

/// What the agent keeps of one cluster.
#[derive(Debug, Clone)]
pub struct ClusterState {
    path: PathBuf,
}

impl ClusterState {
    /// The file of the index key.
    pub fn index_key(&self) -> PathBuf {
        self.path.join("index.key")
    }

    /// The lease it holds.
    pub fn lease(&self) -> Record {
        Record(self.path.join("lease.json"))
    }

    /// The lineage it writes.
    pub fn lineage(&self) -> Record {
        Record(self.path.join("lineage.json"))
    }

    /// What the coordinator last asked for.
    pub fn directives(&self) -> Record {
        Record(self.path.join("directives.json"))
    }

    /// Why the slot may have held nothing since the last stream.
    pub fn unheld(&self) -> Record {
        Record(self.path.join("unheld.json"))
    }

    /// From where on the WAL was not compared with what is archived before it.
    pub fn uncompared(&self) -> Record {
        Record(self.path.join("uncompared.json"))
    }

    /// How far its server was seen to follow the cluster as a standby.
    pub fn followed(&self) -> Record {
        Record(self.path.join("followed.json"))
    }

    /// The last recovery point.
    pub fn last_point(&self) -> Record {
        Record(self.path.join("last-point.json"))
    }

    /// The newest configuration bundles.
    pub fn bundles(&self) -> PathBuf {
        self.path.join("bundles.json")
    }

    /// The memory of a filestore.
    pub fn filestore(&self, name: &FilestoreName) -> PathBuf {
        self.path.join("filestores").join(name.as_str())
    }
}

/// A small file that holds one value.
#[derive(Debug, Clone)]
pub struct Record(PathBuf);

impl Record {
    /// The one in this file.
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// The value; `None` when there is none that can be read.
    pub fn load<T: DeserializeOwned>(&self) -> Result<Option<T>, LocalFileError> {
        let Some(bytes) = durable::read(&self.0)? else {
            return Ok(None);
        };
        match serde_json::from_slice(&bytes) {
            // What is kept may be that there is nothing.
            Ok(value) => Ok(value),
            Err(error) => {
                tracing::info!(path = %self.0.display(), err = %error, "a state file cannot be read and is begun anew");
                Ok(None)
            }
        }
    }

    /// Keeps a value, durably.
    pub fn save<T: Serialize>(&self, value: &T) -> Result<(), LocalFileError> {
        let bytes = serde_json::to_vec_pretty(value).expect("records are plain values");
        durable::replace(&self.0, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn one_agent_at_a_time_and_nobody_looks_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let state = StateDir::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let running = state.claim().unwrap();
        assert!(running.is_some() && state.claim().unwrap().is_none());
        drop(running);
        assert!(state.claim().unwrap().is_some());

        let record = state.cluster(&"acme/erp".parse().unwrap()).unwrap().lease();
        assert_eq!(record.load::<u32>().unwrap(), None);
        record.save(&7u32).unwrap();
        assert_eq!(record.load::<u32>().unwrap(), Some(7));
        assert_eq!(record.load::<String>().unwrap(), None);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(
            StateDir::open(&path),
            Err(StateError::Open { mode: 0o755, .. })
        ));
    }
}
