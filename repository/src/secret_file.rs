//! Files that hold secrets: signing keys, identities, index keys.
//!
//! Writes never replace an existing file, are readable by the owner alone from
//! the first byte on, and are on disk when they return. Reads refuse a file
//! that everybody may read, because a key that leaked is no key.
//!
//! If the process dies during a write, a file named `.<name>.part` is left
//! over that the next write replaces; the final name appears only complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// The most bytes a secret file may have.
const LIMIT: u64 = 1 << 20;

/// A secret that could not be read from or written to its file.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// The file system refused.
    #[error("cannot {action} {path}: check that it exists and who owns it")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Somebody has already put a file there.
    #[error("{0} exists: secrets are never overwritten, move it away first or choose another name")]
    Exists(PathBuf),
    /// Everybody on the machine may read it.
    #[error(
        "{path} has mode {mode:04o}, so every user may read it: chmod it to 0600 (in Kubernetes set defaultMode: 0400)"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Larger than any key.
    #[error("{0} is larger than 1 MiB: it is not a key file")]
    TooLarge(PathBuf),
    /// Not text.
    #[error("{0} is not text: it is not a key file")]
    NotText(PathBuf),
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SecretFileError {
    let path = path.to_owned();
    move |source| SecretFileError::Io { action, path, source }
}

/// Reads a secret file as text.
pub fn read(path: &Path) -> Result<Zeroizing<String>, SecretFileError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let meta = file.metadata().map_err(io_error("stat", path))?;
    let mode = meta.permissions().mode() & 0o7777;
    if meta.is_file() && mode & 0o007 != 0 {
        return Err(SecretFileError::Open {
            path: path.to_owned(),
            mode,
        });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    file.take(LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(io_error("read", path))?;
    if bytes.len() as u64 > LIMIT {
        return Err(SecretFileError::TooLarge(path.to_owned()));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| SecretFileError::NotText(path.to_owned()))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Writes a new secret file with mode 0600. Refuses to replace one.
pub fn write_new(path: &Path, text: &str) -> Result<(), SecretFileError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = path.with_file_name(format!(".{name}.part"));
    match fs::remove_file(&part) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error("replace", &part)(e)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&part)
        .map_err(io_error("create", &part))?;
    file.write_all(text.as_bytes())
        .map_err(io_error("write", &part))?;
    file.sync_all().map_err(io_error("sync", &part))?;
    // A hard link fails where the name exists; a rename would replace it.
    let linked = fs::hard_link(&part, path);
    fs::remove_file(&part).map_err(io_error("remove", &part))?;
    match linked {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            return Err(SecretFileError::Exists(path.to_owned()));
        }
        Err(e) => return Err(io_error("create", path)(e)),
    }
    let directory = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    File::open(directory)
        .and_then(|d| d.sync_all())
        .map_err(io_error("sync the directory of", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_once_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_new(&path, "secret\n").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(
            write_new(&path, "other\n"),
            Err(SecretFileError::Exists(_))
        ));
        assert_eq!(&*read(&path).unwrap(), "secret\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let refused = read(&path).unwrap_err();
        assert!(refused.to_string().contains("chmod"), "{refused}");
    }
}
