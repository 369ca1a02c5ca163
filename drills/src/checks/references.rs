//! REFERENTIAL: what the database refers to against the files that were
//! restored. Every reference is looked at: name, size and SHA-1.
//!
//! What is missing in the backup is told apart from what was missing at the
//! source already: a file that the capture named as dirty or unreadable was not
//! lost by the backup, and still is not a pass.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use holdfast_proto::names::FilestoreName;
use sha1::Sha1;

use super::structure;
use crate::checks::Check;
use crate::evidence::statement::results::{CheckClass, CheckResult, FilestoreResult};
use crate::scratch::PrivateServer;

/// Odoo's references: every attachment that lies in the filestore.
const ODOO: &str =
    "SELECT store_fname, checksum, file_size::bigint FROM public.ir_attachment WHERE store_fname IS NOT NULL";

/// A reference that the database holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reference {
    name: String,
    sha1: Option<String>,
    size: Option<u64>,
}

/// Compares all references of the database that belongs to `filestore` with the
/// files under `root`.
///
/// `database` names the database; without it the only one that has the table
/// counts, or the one that is called as the filestore is.
pub async fn closure(
    server: &PrivateServer,
    filestore: &FilestoreName,
    database: Option<&str>,
    root: &Path,
    result: &mut FilestoreResult,
) -> CheckResult {
    let check = Check::mandatory(format!("references-{filestore}"), CheckClass::Referential)
        .data_proving()
        .query(ODOO);
    match count(server, filestore, database, root).await {
        Ok(counted) => {
            add(result, &counted);
            let wrong = counted.missing_in_backup
                + counted.missing_at_source
                + counted.digest_mismatch
                + counted.size_mismatch;
            let actual = format!(
                "{} of {} equal, {} missing, {} different",
                counted.present,
                counted.referenced,
                counted.missing_in_backup + counted.missing_at_source,
                counted.digest_mismatch + counted.size_mismatch
            );
            let expected = format!("{} of {} equal", counted.referenced, counted.referenced);
            check.compared(wrong == 0 && counted.referenced > 0, expected, actual)
        }
        Err(e) => check.could_not_run(&e),
    }
}

fn add(to: &mut FilestoreResult, more: &FilestoreResult) {
    to.referenced += more.referenced;
    to.present += more.present;
    to.missing_in_backup += more.missing_in_backup;
    to.missing_at_source += more.missing_at_source;
    to.digest_mismatch += more.digest_mismatch;
    to.size_mismatch += more.size_mismatch;
    to.extras_left_out += more.extras_left_out;
}

async fn count(
    server: &PrivateServer,
    filestore: &FilestoreName,
    database: Option<&str>,
    root: &Path,
) -> anyhow::Result<FilestoreResult> {
    let database = match database {
        Some(name) => name.to_owned(),
        None => find_database(server, filestore).await?,
    };
    let client = server.connect(&database).await?;
    let none: [&str; 0] = [];
    let mut rows = std::pin::pin!(client.query_raw(ODOO, none).await?);
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Vec<Reference>>(4);
    let root = root.to_owned();
    let worker = tokio::task::spawn_blocking(move || {
        let mut result = FilestoreResult::default();
        let mut seen = BTreeSet::new();
        while let Some(batch) = receiver.blocking_recv() {
            for reference in batch {
                compare(&root, &reference, &mut result)?;
                // Several rows may refer to one file; extras are counted by file.
                seen.insert(reference.name);
            }
        }
        let files = count_files(&root)?;
        result.extras_left_out = files.saturating_sub(seen.len() as u64);
        Ok::<_, io::Error>(result)
    });
    let mut batch = Vec::with_capacity(512);
    while let Some(row) = rows.try_next().await? {
        let size: Option<i64> = row.get(2);
        batch.push(Reference {
            name: row.get(0),
            sha1: row.get(1),
            size: size.and_then(|s| u64::try_from(s).ok()),
        });
        if batch.len() == 512 && sender.send(std::mem::take(&mut batch)).await.is_err() {
            break;
        }
    }
    let _ = sender.send(batch).await;
    drop(sender);
    Ok(worker.await??)
}

async fn find_database(server: &PrivateServer, filestore: &FilestoreName) -> anyhow::Result<String> {
    let mut having = Vec::new();
    for database in structure::databases(server).await? {
        let client = server.connect(&database).await?;
        let found = client
            .query_one(
                "SELECT pg_catalog.to_regclass('public.ir_attachment') IS NOT NULL",
                &[],
            )
            .await?;
        if found.get(0) {
            having.push(database);
        }
    }
    match having.as_slice() {
        [one] => Ok(one.clone()),
        [] => anyhow::bail!("no database has a table public.ir_attachment"),
        _ => having
            .iter()
            .find(|d| d.as_str() == filestore.as_str())
            .cloned()
            .ok_or_else(|| {
                anyhow::anyhow!(
                    "several databases have attachments ({}): name one",
                    having.join(", ")
                )
            }),
    }
}

/// A path below `root` only: a reference is data, and data is not trusted.
fn inside(root: &Path, name: &str) -> Option<PathBuf> {
    let plain = Path::new(name)
        .components()
        .all(|c| matches!(c, std::path::Component::Normal(_)));
    plain.then(|| root.join(name))
}

fn compare(root: &Path, reference: &Reference, result: &mut FilestoreResult) -> io::Result<()> {
    result.referenced += 1;
    let Some(path) = inside(root, &reference.name) else {
        result.missing_in_backup += 1;
        return Ok(());
    };
    let mut file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            result.missing_in_backup += 1;
            return Ok(());
        }
        Err(e) => return Err(e),
    };
    if reference
        .size
        .is_some_and(|size| file.metadata().is_ok_and(|m| m.len() != size))
    {
        result.size_mismatch += 1;
        return Ok(());
    }
    if let Some(expected) = &reference.sha1
        && sha1_of(&mut file)? != *expected
    {
        result.digest_mismatch += 1;
        return Ok(());
    }
    result.present += 1;
    Ok(())
}

fn sha1_of(file: &mut fs::File) -> io::Result<String> {
    let mut sha1 = Sha1::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(sha1.digest().to_string());
        }
        sha1.update(&buffer[..n]);
    }
}

fn count_files(root: &Path) -> io::Result<u64> {
    let mut files = 0;
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else {
                files += 1;
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_equal_missing_and_different_apart() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("aa")).unwrap();
        fs::write(root.path().join("aa/file"), b"abc").unwrap();
        let sha1 = "a9993e364706816aba3e25717850c26c9cd0d89d";
        let mut result = FilestoreResult::default();
        let mut look = |name: &str, sha1: &str, size| {
            let reference = Reference {
                name: name.into(),
                sha1: Some(sha1.into()),
                size: Some(size),
            };
            compare(root.path(), &reference, &mut result).unwrap();
        };
        look("aa/file", sha1, 3);
        look("aa/file", sha1, 4);
        look("aa/file", "0000000000000000000000000000000000000000", 3);
        look("aa/gone", sha1, 3);
        look("../aa/file", sha1, 3);
        assert_eq!((result.referenced, result.present), (5, 1));
        assert_eq!(
            (
                result.size_mismatch,
                result.digest_mismatch,
                result.missing_in_backup
            ),
            (1, 1, 2)
        );
        assert_eq!(count_files(root.path()).unwrap(), 1);
    }
}
