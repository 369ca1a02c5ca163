//! Lists directories and the stat of what is in them.
//!
//! A directory's own stat is taken *before* its names are read: a change that
//! happens meanwhile leaves a stat that no longer matches at the next look.
//! A directory that vanishes is an answer, one that cannot be read is another;
//! neither is passed over.

use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::record::Stat;
use crate::config::AdapterKind;

/// What a name in a directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A socket, a pipe, a device.
    Special,
}

/// One name.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The name.
    pub name: Vec<u8>,
    /// What it stands for.
    pub kind: Kind,
    /// As it is now.
    pub stat: Stat,
}

/// One directory as it was found.
#[derive(Debug)]
pub struct Listing {
    /// Its path relative to the root.
    pub path: Vec<u8>,
    /// When its stat was taken, in nanoseconds since 1970.
    pub at: i64,
    /// What was found.
    pub found: Found,
}

/// Whether a directory could be listed.
#[derive(Debug)]
pub enum Found {
    /// Its stat, and what is in it by name.
    Directory(Stat, Vec<Listed>),
    /// It is not there (or no directory any more).
    Gone,
    /// It is there and cannot be read.
    Unreadable(io::Error),
}

/// The stat of a file system's answer.
pub fn stat_of(meta: &fs::Metadata) -> Stat {
    let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
    Stat {
        size: meta.size(),
        mtime: nanos(meta.mtime(), meta.mtime_nsec()),
        ctime: nanos(meta.ctime(), meta.ctime_nsec()),
        inode: meta.ino(),
        mode: meta.mode(),
    }
}

/// Now, in nanoseconds since 1970, by the clock that stamps files.
pub fn clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The place of a path below the root.
pub fn below(root: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() {
        root.to_owned()
    } else {
        root.join(std::ffi::OsStr::from_bytes(path))
    }
}

/// `directory/name`, or the name alone below the root.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        name.to_vec()
    } else {
        [directory, b"/", name].concat()
    }
}

/// Lists one directory.
pub fn list(root: &Path, adapter: AdapterKind, path: Vec<u8>) -> Listing {
    let at = clock();
    let found = match read(&below(root, &path), adapter, &path) {
        Ok((stat, entries)) => Found::Directory(stat, entries),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Found::Gone,
        Err(e) => Found::Unreadable(e),
    };
    Listing { path, at, found }
}

fn read(directory: &Path, adapter: AdapterKind, path: &[u8]) -> io::Result<(Stat, Vec<Listed>)> {
    // Only the root may be reached through a symbolic link.
    let meta = if path.is_empty() {
        fs::metadata(directory)?
    } else {
        fs::symlink_metadata(directory)?
    };
    if !meta.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().into_vec();
        if adapter.ignores(&join(path, &name)) {
            continue;
        }
        let meta = match entry.metadata() {
            Ok(meta) => meta,
            // Gone between its name and its stat: as if it was never seen.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let kind = match meta.file_type() {
            t if t.is_file() => Kind::File,
            t if t.is_dir() => Kind::Directory,
            t if t.is_symlink() => Kind::Symlink,
            _ => Kind::Special,
        };
        entries.push(Listed {
            name,
            kind,
            stat: stat_of(&meta),
        });
    }
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok((stat_of(&meta), entries))
}

/// Lists several directories with as many threads. The answers come in the
/// order of the question.
pub fn list_all(root: &Path, adapter: AdapterKind, paths: &[Vec<u8>], threads: usize) -> Vec<Listing> {
    let next = AtomicUsize::new(0);
    let answers: Mutex<Vec<(usize, Listing)>> = Mutex::new(Vec::with_capacity(paths.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads.min(paths.len()) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(path) = paths.get(i) else { break };
                    let listing = list(root, adapter, path.clone());
                    answers
                        .lock()
                        .expect("no thread panics while it holds the answers")
                        .push((i, listing));
                }
            });
        }
    });
    let mut answers = answers
        .into_inner()
        .expect("no thread panics while it holds the answers");
    answers.sort_unstable_by_key(|(i, _)| *i);
    answers.into_iter().map(|(_, listing)| listing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_by_name_and_answers_for_what_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("b/checklist")).unwrap();
        fs::create_dir_all(dir.path().join("checklist/aa")).unwrap();
        fs::write(dir.path().join("a"), "1").unwrap();
        std::os::unix::fs::symlink("/nowhere", dir.path().join("c")).unwrap();
        let paths = [vec![], b"b".to_vec(), b"a".to_vec(), b"missing".to_vec()];
        let listings = list_all(dir.path(), AdapterKind::Odoo, &paths, 3);
        let Found::Directory(_, entries) = &listings[0].found else {
            panic!("{:?}", listings[0])
        };
        let names: Vec<_> = entries.iter().map(|e| (e.name.as_slice(), e.kind)).collect();
        assert_eq!(
            names,
            [
                (&b"a"[..], Kind::File),
                (b"b", Kind::Directory),
                (b"c", Kind::Symlink)
            ]
        );
        assert!(matches!(&listings[1].found, Found::Directory(_, e) if e.len() == 1));
        assert!(matches!(listings[2].found, Found::Gone));
        assert!(matches!(listings[3].found, Found::Gone));
    }
}
