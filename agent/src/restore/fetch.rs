//! `wal fetch`: what `restore_command` calls.
//!
//! PostgreSQL believes the exit code. 0: the file is there, whole. 1: it does
//! not exist, and recovery may end here; said only for what the pin proves. 126
//! and above: PostgreSQL stops. There is no other code: every error, a panic
//! and a misuse of the command included, is [`FAILED`].
//!
//! A file is handed over by renaming it into place when it is whole, so
//! PostgreSQL never sees half of one. It is not synced here: PostgreSQL does so
//! itself before it gives the file its own name (`KeepFileRestoredFromArchive`).
//! Dying here at any moment leaves at most a temporary file, and the exit status of
//! a signal, which stops PostgreSQL.
//!
//! Findings (damaged copies, healed ones, replicas out of reach) are appended to
//! `findings.jsonl` beside the pin.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use holdfast_proto::finding::Finding;

use super::access::{Access, AccessError, Opening};
use super::pin::{Decision, Pin};
use super::prefetch;
use super::segment::{self, SegmentError, Whole, Workbench};
use crate::durable::LocalFileError;

/// The file was handed over.
pub const SERVED: u8 = 0;
/// The file does not exist, which is proven.
pub const ABSENT: u8 = 1;
/// Anything else.
pub const FAILED: u8 = 126;

/// Name of the file of findings.
pub const FINDINGS_FILE: &str = "findings.jsonl";

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The file was handed over.
    Served,
    /// It does not exist, with the proof.
    Absent(String),
}

/// A file that could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum FetchFailed {
    /// The pin cannot be used.
    #[error("the restore's pin cannot be used: {0}")]
    Pin(String),
    /// The pin does not know the file.
    #[error("{0}")]
    Refused(String),
    /// The repository cannot be read.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The segment cannot be had.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The file cannot be written.
    #[error(transparent)]
    Local(#[from] LocalFileError),
}

/// Hands over `name` at `path` and returns the exit code. Prints to standard
/// error, which PostgreSQL puts into its log. Blocks; must not be called from
/// within an async runtime.
pub fn run(name: &str, path: &Path, pin: &Path) -> u8 {
    let outcome = std::panic::catch_unwind(|| {
        if from_ahead(name, path, pin) {
            return SERVED;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("holdfast: {name}: {error}");
                return FAILED;
            }
        };
        match runtime.block_on(fetch(name, path, pin)) {
            Ok(Answer::Served) => SERVED,
            Ok(Answer::Absent(why)) => {
                eprintln!("holdfast: {name} does not exist: {why}");
                ABSENT
            }
            Err(error) => {
                eprintln!("holdfast: {name} cannot be handed over: {error}");
                FAILED
            }
        }
    });
    outcome.unwrap_or(FAILED)
}

/// Hands over what was fetched ahead, which is most of a recovery, without a
/// runtime and without a look at the repository.
fn from_ahead(name: &str, path: &Path, pin_path: &Path) -> bool {
    prefetch::Ahead::at(&notes_of(pin_path)).take(name, path)
}

fn notes_of(pin_path: &Path) -> PathBuf {
    pin_path
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// Hands over `name` at `path`, as [`run`] does.
///
/// # Errors
/// PostgreSQL must stop.
pub async fn fetch(name: &str, path: &Path, pin_path: &Path) -> Result<Answer, FetchFailed> {
    fetch_by(name, path, pin_path, &Opening::default()).await
}

/// As [`fetch`], with the repository opened in a way of the caller's.
pub(super) async fn fetch_by(
    name: &str,
    path: &Path,
    pin_path: &Path,
    opening: &Opening,
) -> Result<Answer, FetchFailed> {
    let pin = Pin::load(pin_path).map_err(FetchFailed::Pin)?;
    let notes = notes_of(pin_path);
    match pin.decide(name) {
        Decision::Absent(why) => Ok(Answer::Absent(why)),
        Decision::Refuse(why) => Err(FetchFailed::Refused(why)),
        Decision::History(timeline) => {
            let access = access_by(&pin, opening).await?;
            let whole = segment::history(&access, &pin, timeline).await?;
            note_all(&notes, access.findings().chain(&whole.findings));
            hand_over(path, &whole)?;
            Ok(Answer::Served)
        }
        Decision::Segment {
            timeline,
            segment,
            until,
        } => {
            let ahead = prefetch::Ahead::at(&notes);
            let taking = {
                let (name, path) = (name.to_owned(), path.to_owned());
                let ahead = prefetch::Ahead::at(&notes);
                tokio::task::spawn_blocking(move || ahead.take(&name, &path))
            };
            if !taking.await.unwrap_or(false) {
                let access = access_by(&pin, opening).await?;
                let whole =
                    segment::segment(&access, &pin, timeline, segment, until, &Workbench::default()).await?;
                note_all(&notes, access.findings().chain(&whole.findings));
                hand_over(path, &whole)?;
                ahead.follow(name, &pin, pin_path);
            }
            Ok(Answer::Served)
        }
    }
}

/// Opens the repository that the pin names.
pub(super) async fn access(pin: &Pin) -> Result<Access, AccessError> {
    access_by(pin, &Opening::default()).await
}

async fn access_by(pin: &Pin, opening: &Opening) -> Result<Access, AccessError> {
    let (root, cluster) = (&pin.trust_root, &pin.cluster);
    let mut access = opening
        .open(&pin.repository, root, cluster, &pin.identities)
        .await?;
    let found = access.repository.id();
    if found != pin.repository_id {
        return Err(AccessError::Other {
            found,
            expected: pin.repository_id,
        });
    }
    access.repository = access.repository.preferring(&pin.prefer);
    Ok(access)
}

/// Writes the file whole, then gives it its name.
fn hand_over(path: &Path, whole: &Whole) -> Result<(), LocalFileError> {
    crate::durable::replace_without_sync(path, &whole.bytes)
}

/// Appends findings that are not there yet. Best effort: a note that cannot be
/// written must not stop a recovery; the log has it too.
pub(super) fn note_all<'a>(notes: &Path, findings: impl Iterator<Item = &'a Finding>) {
    let path = notes.join(FINDINGS_FILE);
    let mut known: Vec<(String, String)> = read_findings(notes)
        .into_iter()
        .map(|f| (f.name, f.subject))
        .collect();
    let mut file: Option<File> = None;
    for finding in findings {
        let place = (finding.name.clone(), finding.subject.clone());
        if known.contains(&place) {
            continue;
        }
        known.push(place);
        eprintln!(
            "holdfast: finding {} {}: {}",
            finding.name, finding.subject, finding.detail
        );
        if file.is_none() {
            file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&path)
                .ok();
        }
        if let (Some(file), Ok(mut line)) = (&mut file, serde_json::to_vec(finding)) {
            line.push(b'\n');
            if let Err(error) = file.write_all(&line) {
                eprintln!(
                    "holdfast: the finding cannot be noted in {}: {error}",
                    path.display()
                );
            }
        }
    }
}

/// The findings noted beside a pin.
pub fn read_findings(notes: &Path) -> Vec<Finding> {
    let bytes = std::fs::read(notes.join(FINDINGS_FILE)).unwrap_or_default();
    bytes
        .split(|b| *b == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect()
}
