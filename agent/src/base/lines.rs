//! Catalogue lines of what a base backup lists.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_proto::Timestamp;
use holdfast_proto::manifest::{CatalogueLine, EntryType};

use super::walk::{FoundDirectory, FoundLink};

/// A line for `path` that says nothing more yet.
pub fn line(path: &Path, kind: EntryType) -> CatalogueLine {
    let bytes = path.as_os_str().as_bytes();
    CatalogueLine {
        path: path.to_string_lossy().into_owned(),
        path_bytes: std::str::from_utf8(bytes)
            .is_err()
            .then(|| STANDARD.encode(bytes)),
        kind,
        mode: 0,
        size: 0,
        mtime: None,
        b3: None,
        note: None,
    }
}

/// The path's bytes.
pub fn path_bytes(line: &CatalogueLine) -> Vec<u8> {
    let encoded = line
        .path_bytes
        .as_ref()
        .and_then(|text| STANDARD.decode(text).ok());
    encoded.unwrap_or_else(|| line.path.clone().into_bytes())
}

/// A directory.
pub fn directory(found: &FoundDirectory) -> CatalogueLine {
    CatalogueLine {
        mode: found.mode,
        ..line(&found.path, EntryType::Directory)
    }
}

/// A link.
pub fn link(found: &FoundLink) -> CatalogueLine {
    CatalogueLine {
        note: Some(found.target.to_string_lossy().into_owned()),
        ..line(&found.path, EntryType::Symlink)
    }
}

/// A file whose content is at hand.
pub fn text(path: &str, size: usize, at: Timestamp) -> CatalogueLine {
    CatalogueLine {
        mode: 0o600,
        size: size as u64,
        mtime: Some(at),
        ..line(Path::new(path), EntryType::File)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn names_that_are_no_text_survive() {
        let odd = Path::new(OsStr::from_bytes(b"log/\xFFname"));
        let line = line(odd, EntryType::File);
        assert_eq!(path_bytes(&line), b"log/\xFFname");
        let plain = super::line(Path::new("log/name"), EntryType::File);
        assert_eq!(
            (plain.path_bytes.clone(), path_bytes(&plain)),
            (None, b"log/name".to_vec())
        );
    }
}
