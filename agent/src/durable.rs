//! Local files that must survive a crash: the one way to write them.
//!
//! A file is written under a temporary name in its own directory, synced, renamed
//! over the old one, and the directory is synced. If the process dies on the way
//! the old content is still there, complete, and a file named
//! `.<name>.<process>.part` may be left over; [`sweep`] removes those of
//! processes that are gone. A write that fails removes its own.
//!
//! Secrets that are written once and never replaced have their own module,
//! [`holdfast_repository::secret_file`].

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A local file that could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: check the disk's space, the directory's owner and its mode", path.display())]
pub struct LocalFileError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl LocalFileError {
    /// Wraps a refusal of the file system.
    pub fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LocalFileError {
    move |source| LocalFileError::new(action, path, source)
}

/// Replaces `path` with `bytes`, mode 0600. On return it is on disk.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), LocalFileError> {
    by_way_of_part(path, |part| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(part)
            .map_err(failed("create", part))?;
        file.write_all(bytes).map_err(failed("write", part))?;
        file.sync_all().map_err(failed("sync", part))
    })?;
    sync_directory(directory_of(path))
}

/// Writes a file whose loss is allowed as long as it is noticed: as [`replace`]
/// without waiting for the disk. The content needs a digest kept elsewhere.
pub fn replace_without_sync(path: &Path, bytes: &[u8]) -> Result<(), LocalFileError> {
    by_way_of_part(path, |part| fs::write(part, bytes).map_err(failed("write", part)))
}

/// Lets `write` make a file under a temporary name and gives it its own. When either
/// fails the temporary file goes: a full disk must not keep the half of it.
fn by_way_of_part(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), LocalFileError>,
) -> Result<(), LocalFileError> {
    let part = part_of(path);
    let done = write(&part).and_then(|()| fs::rename(&part, path).map_err(failed("replace", path)));
    if done.is_err() {
        // One that cannot be removed is left for `sweep`.
        let _ = fs::remove_file(&part);
    }
    done
}

/// Makes a directory and what is missing above it, mode 0700, durably.
pub fn create_directory(path: &Path) -> Result<(), LocalFileError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        create_directory(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed("create", path)(e)),
        _ => {}
    }
    sync_directory(directory_of(path))
}

/// Reads a whole file; `None` when there is none.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, LocalFileError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", path)(e)),
    }
}

/// Removes a file if it is there.
pub fn remove(path: &Path) -> Result<(), LocalFileError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Makes the names in a directory durable.
pub fn sync_directory(path: &Path) -> Result<(), LocalFileError> {
    File::open(path)
        .and_then(|d| d.sync_all())
        .map_err(failed("sync", path))
}

/// Removes what writers that died left behind in a directory.
pub fn sweep(directory: &Path) -> Result<(), LocalFileError> {
    for entry in fs::read_dir(directory).map_err(failed("list", directory))? {
        let entry = entry.map_err(failed("list", directory))?;
        let name = entry.file_name();
        let writer = name
            .to_str()
            .and_then(|n| n.strip_prefix('.')?.strip_suffix(".part")?.rsplit_once('.'));
        if let Some((_, process)) = writer
            && !Path::new("/proc").join(process).exists()
        {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn part_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.part", std::process::id()))
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn replaces_whole_and_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        create_directory(&deep).unwrap();
        create_directory(&deep).unwrap();
        assert_eq!(fs::metadata(&deep).unwrap().permissions().mode() & 0o777, 0o700);
        let file = deep.join("state");
        assert_eq!(read(&file).unwrap(), None);
        replace(&file, b"one").unwrap();
        replace(&file, b"two").unwrap();
        assert_eq!(read(&file).unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

        // What does not get its name leaves nothing behind.
        assert!(replace(&deep, b"a directory stands here").is_err());
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 1);

        fs::write(deep.join(".state.4294967295.part"), b"left over").unwrap();
        sweep(&deep).unwrap();
        assert_eq!(fs::read_dir(&deep).unwrap().count(), 1);
        remove(&file).unwrap();
        remove(&file).unwrap();
    }
}
