//! Compares what the database references with the files that are there.
//!
//! The database is asked only after it answers; so this is a separate step. For
//! each distinct reference the file must be there with the size and, where the
//! reference proves its content, the SHA-1 that it names. Files that nothing
//! references are counted, and can be moved aside; Odoo's own `checklist` of files
//! to collect is no content and is passed over.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use serde::Serialize;

use crate::durable::{self, LocalFileError};

/// Odoo's directory of marks, beside the content.
const CHECKLIST: &str = "checklist";
/// Names of each kind that are reported; more are counted.
const NAMED: usize = 1_000;

/// One row's reference to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The file's name below the filestore (`store_fname`).
    pub name: String,
    /// SHA-1 of the content in hexadecimal (`checksum`), if the row has it.
    pub sha1: Option<String>,
    /// Bytes (`file_size`), if the row has it.
    pub size: Option<u64>,
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Closure {
    /// Distinct files referenced.
    pub referenced: u64,
    /// Of these, present with the right size and content.
    pub present: u64,
    /// Not there. Named up to a thousand.
    pub missing: Vec<String>,
    /// How many are not there.
    pub missing_count: u64,
    /// There with other content than the reference proves.
    pub mismatched: Vec<String>,
    /// How many have other content.
    pub mismatched_count: u64,
    /// There with another size.
    pub wrong_size: Vec<String>,
    /// How many have another size.
    pub wrong_size_count: u64,
    /// References that two rows contradict each other about, or that name no
    /// place in the filestore.
    pub contradictory: Vec<String>,
    /// Files that nothing references.
    pub extras_count: u64,
    /// Bytes compared.
    pub bytes: u64,
}

impl Closure {
    /// Whether the database finds everything that it references.
    pub fn is_complete(&self) -> bool {
        self.missing_count == 0
            && self.mismatched_count == 0
            && self.wrong_size_count == 0
            && self.contradictory.is_empty()
    }
}

enum Verdict {
    Present(u64),
    Missing,
    WrongSize,
    Mismatched,
}

/// Compares `references` with the files below `directory`. Blocks; uses
/// `threads` threads.
///
/// # Errors
/// A file or directory could not be read: then nothing is known, and nothing is
/// claimed.
pub fn compare(
    references: impl IntoIterator<Item = Reference>,
    directory: &Path,
    threads: usize,
) -> Result<Closure, LocalFileError> {
    let mut closure = Closure::default();
    let mut wanted: HashMap<String, (Option<String>, Option<u64>)> = HashMap::new();
    for reference in references {
        let plain = !reference.name.is_empty()
            && Path::new(&reference.name)
                .components()
                .all(|c| matches!(c, Component::Normal(_)));
        if !plain {
            closure.contradictory.push(reference.name);
            continue;
        }
        let known = wanted.entry(reference.name.clone()).or_insert((None, None));
        let other = |a: bool, b: bool| a && b;
        if other(
            known.0.is_some() && reference.sha1.is_some(),
            known.0 != reference.sha1,
        ) || other(
            known.1.is_some() && reference.size.is_some(),
            known.1 != reference.size,
        ) {
            closure.contradictory.push(reference.name);
            continue;
        }
        known.0 = known.0.take().or(reference.sha1);
        known.1 = known.1.or(reference.size);
    }
    closure.referenced = wanted.len() as u64;

    let all: Vec<_> = wanted.iter().collect();
    let share = all.len().div_ceil(threads.max(1)).max(1);
    let verdicts: Vec<Result<Vec<(String, Verdict)>, LocalFileError>> = std::thread::scope(|scope| {
        let workers: Vec<_> = all
            .chunks(share)
            .map(|some| {
                scope.spawn(move || {
                    some.iter()
                        .map(|(name, (sha1, size))| {
                            let verdict = examine(&directory.join(name), sha1.as_deref(), *size)?;
                            Ok(((*name).clone(), verdict))
                        })
                        .collect()
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|w| {
                w.join().unwrap_or_else(|_| {
                    Err(LocalFileError::new(
                        "compare",
                        directory,
                        io::Error::other("a worker died"),
                    ))
                })
            })
            .collect()
    });
    let mut by_name: BTreeMap<String, Verdict> = BTreeMap::new();
    for some in verdicts {
        by_name.extend(some?);
    }
    for (name, verdict) in by_name {
        match verdict {
            Verdict::Present(bytes) => {
                closure.present += 1;
                closure.bytes += bytes;
            }
            Verdict::Missing => note(&mut closure.missing, &mut closure.missing_count, name),
            Verdict::WrongSize => note(&mut closure.wrong_size, &mut closure.wrong_size_count, name),
            Verdict::Mismatched => note(&mut closure.mismatched, &mut closure.mismatched_count, name),
        }
    }
    for path in files_below(directory)? {
        let name = path.strip_prefix(directory).unwrap_or(&path);
        if name.to_str().is_none_or(|n| !wanted.contains_key(n)) {
            closure.extras_count += 1;
        }
    }
    Ok(closure)
}

fn note(names: &mut Vec<String>, count: &mut u64, name: String) {
    *count += 1;
    if names.len() < NAMED {
        names.push(name);
    }
}

fn examine(path: &Path, sha1: Option<&str>, size: Option<u64>) -> Result<Verdict, LocalFileError> {
    let failed = |e| LocalFileError::new("read", path, e);
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Verdict::Missing);
        }
        Err(e) => return Err(failed(e)),
    };
    if !meta.is_file() {
        return Ok(Verdict::Missing);
    }
    if size.is_some_and(|size| size != meta.len()) {
        return Ok(Verdict::WrongSize);
    }
    if let Some(expected) = sha1 {
        let mut file = File::open(path).map_err(failed)?;
        let mut hasher = sha1::Sha1::new();
        let mut buffer = vec![0u8; 1 << 16];
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
        if !hasher.digest().to_string().eq_ignore_ascii_case(expected.trim()) {
            return Ok(Verdict::Mismatched);
        }
    }
    Ok(Verdict::Present(meta.len()))
}

/// The regular files below `directory`, without Odoo's checklist.
fn files_below(directory: &Path) -> Result<Vec<PathBuf>, LocalFileError> {
    let mut files = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(current) = open.pop() {
        let failed = |e| LocalFileError::new("list", &current, e);
        for entry in fs::read_dir(&current).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                if current != directory || entry.file_name() != CHECKLIST {
                    open.push(entry.path());
                }
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

/// Moves the files that nothing references from `directory` to `aside`, on the
/// same file system. Returns how many. Nothing is deleted.
///
/// # Errors
/// A file could not be moved; those before it were.
pub fn leave_out(
    references: impl IntoIterator<Item = String>,
    directory: &Path,
    aside: &Path,
) -> Result<u64, LocalFileError> {
    let wanted: std::collections::HashSet<String> = references.into_iter().collect();
    let mut moved = 0;
    for path in files_below(directory)? {
        let name = path.strip_prefix(directory).unwrap_or(&path).to_owned();
        if name.to_str().is_some_and(|n| wanted.contains(n)) {
            continue;
        }
        let to = aside.join(&name);
        if let Some(parent) = to.parent() {
            durable::create_directory(parent)?;
        }
        fs::rename(&path, &to).map_err(|e| LocalFileError::new("move", &path, e))?;
        moved += 1;
    }
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_difference_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("ab")).unwrap();
        fs::create_dir_all(root.join("checklist/ab")).unwrap();
        fs::write(root.join("checklist/ab/mark"), b"").unwrap();
        let sha1 = |bytes: &[u8]| sha1::Sha1::from(bytes).digest().to_string();
        for (name, bytes) in [
            ("good", "one"),
            ("torn", "two"),
            ("long", "three"),
            ("extra", "four"),
            ("none", "five"),
        ] {
            fs::write(root.join("ab").join(name), bytes).unwrap();
        }
        let reference = |name: &str, content: &[u8]| Reference {
            name: name.to_owned(),
            sha1: Some(sha1(content)),
            size: Some(content.len() as u64),
        };
        let references = [
            reference("ab/good", b"one"),
            reference("ab/good", b"one"),
            reference("ab/torn", b"TWO"),
            reference("ab/long", b"four"),
            reference("ab/gone", b"x"),
            Reference {
                name: "ab/none".into(),
                sha1: None,
                size: None,
            },
            Reference {
                name: "../secret".into(),
                sha1: None,
                size: None,
            },
        ];
        for threads in [1, 3] {
            let closure = compare(references.clone(), root, threads).unwrap();
            assert_eq!((closure.referenced, closure.present), (5, 2));
            assert_eq!(closure.missing, ["ab/gone"]);
            assert_eq!(closure.mismatched, ["ab/torn"]);
            assert_eq!(closure.wrong_size, ["ab/long"]);
            assert_eq!(closure.contradictory, ["../secret"]);
            assert_eq!(closure.extras_count, 1);
            assert!(!closure.is_complete());
        }
        let aside = dir.path().with_extension("aside");
        let names = ["ab/good", "ab/torn", "ab/long", "ab/none"].map(str::to_owned);
        assert_eq!(leave_out(names, root, &aside).unwrap(), 1);
        assert_eq!(fs::read(aside.join("ab/extra")).unwrap(), b"four");
        fs::remove_dir_all(aside).unwrap();
    }
}
