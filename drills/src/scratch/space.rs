//! The directory that a drill works in.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use holdfast_proto::names::DrillId;
use rustix::fs::{FlockOperation, flock};

/// A scratch directory could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("the scratch directory {path}: {source}; check that it is writable and has room")]
pub struct ScratchError {
    path: PathBuf,
    source: io::Error,
}

/// A private directory (0700), removed when dropped.
#[derive(Debug)]
pub struct ScratchSpace {
    path: PathBuf,
    keep: bool,
    _held: fs::File,
}

/// Names that [`ScratchSpace`] makes begin so.
const PREFIX: &str = "drill-";

impl ScratchSpace {
    /// Makes `root/drill-<id>`.
    pub fn create(root: &Path, id: DrillId) -> Result<Self, ScratchError> {
        let path = root.join(format!("{PREFIX}{id}"));
        let fail = |source| ScratchError {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(root).map_err(fail)?;
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(fail)?;
        // Held while we live: a sweep by another drill leaves it alone.
        let held = fs::File::open(&path).map_err(fail)?;
        flock(&held, FlockOperation::NonBlockingLockExclusive).map_err(|e| fail(e.into()))?;
        Ok(Self {
            path: path.clone(),
            keep: false,
            _held: held,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it in place when dropped, for a person who wants to look.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Removes it and proves that it is gone.
    pub fn destroy(mut self) -> Result<(), ScratchError> {
        self.keep = true;
        let fail = |source| ScratchError {
            path: self.path.clone(),
            source,
        };
        fs::remove_dir_all(&self.path).map_err(fail)?;
        match fs::symlink_metadata(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(fail(e)),
            Ok(_) => Err(fail(io::Error::other("still there after it was removed"))),
        }
    }

    /// Removes what drills that died have left under `root`; those that run hold
    /// a lock. Returns what was removed.
    pub fn sweep(root: &Path) -> Result<Vec<PathBuf>, ScratchError> {
        let fail = |path: &Path, source| ScratchError {
            path: path.to_owned(),
            source,
        };
        let entries = match fs::read_dir(root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(fail(root, e)),
        };
        let mut removed = Vec::new();
        for entry in entries {
            let path = entry.map_err(|e| fail(root, e))?.path();
            let ours = path
                .file_name()
                .and_then(|n| n.to_str())
                .and_then(|n| n.strip_prefix(PREFIX))
                .is_some_and(|n| n.parse::<DrillId>().is_ok());
            if !ours {
                continue;
            }
            let directory = fs::File::open(&path).map_err(|e| fail(&path, e))?;
            if flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok() {
                fs::remove_dir_all(&path).map_err(|e| fail(&path, e))?;
                removed.push(path);
            }
        }
        Ok(removed)
    }
}

impl Drop for ScratchSpace {
    fn drop(&mut self) {
        if !self.keep
            && let Err(e) = fs::remove_dir_all(&self.path)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), err = %e, "a scratch directory could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_proto::Timestamp;

    #[test]
    fn is_private_and_gone_afterwards() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let id = |n| DrillId::from_parts(Timestamp::from_unix_micros(1_790_000_000_000_000), n);
        let space = ScratchSpace::create(root.path(), id(1)).unwrap();
        let path = space.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        space.destroy().unwrap();
        assert!(!path.exists());

        let mut left = ScratchSpace::create(root.path(), id(2)).unwrap();
        left.keep();
        drop(left);
        fs::create_dir(root.path().join("not-ours")).unwrap();
        let live = ScratchSpace::create(root.path(), id(3)).unwrap();
        let removed = ScratchSpace::sweep(root.path()).unwrap();
        assert_eq!(removed.len(), 1);
        assert!(live.path().exists() && root.path().join("not-ours").exists());
    }
}
