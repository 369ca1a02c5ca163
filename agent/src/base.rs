//! Base backups: a running data directory, file by file, into the repository.
//!
//! [`run`] takes one. It starts a backup on the server ([`session`]), looks
//! through the data directory ([`walk`], by the rules of [`rules`]), copies the
//! files on several threads while the server goes on ([`capture`]), verifies the
//! pages on the way ([`pages`]), reads `pg_control` last, ends the backup on the
//! server, waits until all WAL that it needs is safe, and commits one signed
//! object.
//!
//! It does not decide when, does not stream WAL (that is [`crate::wal`], which
//! must be running), and does not restore.
//!
//! What holds:
//! - The commit object is written last, to replicas that hold all it needs; a
//!   base that is listed can be restored and is consistent.
//! - What cannot be read fails the backup. What vanished was dropped by the
//!   server and is no loss.
//! - Pages that are damaged at the source are named; they do not fail the
//!   backup, because the rest of it is the best there is.
//! - Memory is bounded: a pack for each thread and three on their way.
//!
//! If the process dies at any instant, nothing is committed and the server
//! forgets the backup when the session breaks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use holdfast_proto::Timestamp;
use holdfast_proto::envelope::Link;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::manifest::{BadPage, BaseDetails};
use holdfast_proto::names::{BackupId, Lineage};
use holdfast_proto::pg::Lsn;
use holdfast_proto::record::{BaseBody, ChangeDetection};
use holdfast_repository::clock::now;
use holdfast_repository::keyring::Wrapped;
use holdfast_repository::layout;
use holdfast_repository::pack::{PackError, seal_frame};
use holdfast_repository::publication::{Committed, Publication, PublishError};
use holdfast_repository::publisher::Publisher;
use holdfast_repository::seal::{EpochKey, IndexKey};
use tokio::runtime::Handle;
use tokio::task::{JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::postgres::PgTarget;
use crate::progress::Meter;
use crate::wal::{NotAcknowledged, WalFrontier};

pub mod capture;
mod collector;
pub mod control;
pub mod jobs;
pub mod known;
mod lines;
pub mod pages;
pub mod rules;
pub mod session;
pub mod walk;

use capture::{Capture, CaptureError, Captured, Plan};
use control::ControlError;
use known::Known;
use session::{Session, SessionError, Stopped};
use walk::{Survey, WalkError};

/// The level that sealed details are compressed at.
const DETAILS_LEVEL: i32 = 3;

/// What a base backup works with.
pub struct BaseContext {
    /// In whose name, and where to.
    pub publisher: Publisher,
    /// What it is sealed to.
    pub key: Wrapped<EpochKey>,
    /// What identities of content are made with.
    pub index_key: Wrapped<IndexKey>,
    /// What else each replica must hold first: trust records.
    pub needs: Vec<Link>,
    /// The server.
    pub target: PgTarget,
    /// Its data directory, as this process sees it.
    pub data_dir: PathBuf,
    /// The line of descent.
    pub lineage: Lineage,
    /// The base before this one: the new one names it, and does not store again
    /// what it finds there.
    pub previous: Option<Link>,
    /// The WAL line, which must be running.
    pub frontier: WalFrontier,
    /// How long the WAL of the backup may take to be safe after the copy.
    pub wal_patience: Duration,
    /// Threads that read and compress.
    pub threads: usize,
    /// zstd's level.
    pub level: i32,
    /// Where progress is counted.
    pub meter: Meter,
    /// Calls it off.
    pub cancel: CancellationToken,
}

/// A base backup that is committed.
#[derive(Debug, Clone)]
pub struct BaseOutcome {
    /// The backup.
    pub id: BackupId,
    /// Its record.
    pub body: BaseBody,
    /// How others refer to it.
    pub link: Link,
    /// What was noticed: damaged pages, links, replicas that are behind.
    pub findings: Vec<Finding>,
}

/// Why there is no base backup.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The server's side.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The data directory.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// The copy.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The control file.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The replicas.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// Sealing.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The server's session broke while files were copied.
    #[error(
        "the server ended the backup's session: it was restarted, or the connection broke. Nothing was committed; start the backup again"
    )]
    SessionBroke,
    /// The WAL that makes it consistent is not safe.
    #[error("the base was copied, but its WAL is not safe: {0}. Nothing was committed")]
    Wal(#[from] NotAcknowledged),
    /// The WAL line begins too late.
    #[error(
        "the archive holds WAL without a hole from {contiguous_from} only, the backup began at {start}: nothing was \
         committed, start the backup again"
    )]
    WalGap {
        /// Where the backup began.
        start: Lsn,
        /// Where the WAL begins.
        contiguous_from: Lsn,
    },
}

/// Findings that are about what was copied. A complete base backup says anew which of
/// them there are.
pub const ABOUT_THE_COPY: [&str; 5] = [
    "file-unreadable",
    "link-not-followed",
    "no-page-checksums",
    "page-damaged",
    "previous-base-unreadable",
];

impl BaseError {
    /// The finding that a failed backup is.
    pub fn finding(&self, cluster: &str) -> Finding {
        let (name, subject) = match self {
            BaseError::Walk(WalkError::Unreadable { path, .. })
            | BaseError::Capture(CaptureError::Unreadable { path, .. }) => {
                ("file-unreadable", path.display().to_string())
            }
            _ => ("base-backup-failed", cluster.to_owned()),
        };
        Finding {
            name: name.to_owned(),
            subject,
            severity: Severity::Critical,
            detail: holdfast_repository::replica::explained(self),
            since: now(),
        }
    }
}

/// Takes a base backup and commits it.
///
/// # Errors
/// Nothing is committed then, unless the error is
/// [`PublishError::PartlyCommitted`].
pub async fn run(context: &BaseContext) -> Result<BaseOutcome, BaseError> {
    let started = now();
    let id = BackupId::from_parts(started, rand::random());
    let mut needs = vec![context.key.object.clone(), context.index_key.object.clone()];
    needs.extend(context.needs.iter().cloned());
    let (known, unread) = stored_before(context).await;
    if known.is_some() {
        needs.extend(context.previous.clone());
    }
    let detection = if known.is_some() {
        ChangeDetection::CompareIds
    } else {
        ChangeDetection::Full
    };
    let publication = Publication::begin(&context.publisher, &needs).await?;

    let label = format!("holdfast-{id}");
    let starting = Session::start(&context.target, &context.data_dir, context.lineage.system, &label);
    // A checkpoint may take long. Dropping the session makes the server forget it.
    let session = tokio::select! {
        started = starting => started?,
        () = context.cancel.cancelled() => return Err(CaptureError::Cancelled.into()),
    };
    let mut survey = {
        let (directory, major) = (context.data_dir.clone(), session.facts().version_num / 10_000);
        blocking(move || walk::walk(&directory, major)).await?
    };
    context.meter.expect(survey.bytes());
    let capture = begin(context, &session, &mut survey, known, publication.clone());
    copy(context, &session, &capture, &survey).await?;

    let (_, control) = {
        let directory = context.data_dir.clone();
        blocking(move || control::read(&directory)).await?
    };
    let facts = session.facts().clone();
    let stopped = session.stop().await?;
    let at = now();
    let mut captured = {
        let last = last_entries(&stopped, control, at);
        let capture = capture.clone();
        blocking(move || capture.add(last).and_then(|()| capture.finish())).await?
    };
    captured.verdicts.settle(stopped.stop_lsn);
    until_wal_is_safe(context, &stopped).await?;

    let body = BaseBody {
        id,
        cluster: context.publisher.cluster.clone(),
        lineage: context.lineage,
        version_num: facts.version_num,
        segment_size: facts.control.segment_size,
        timeline: stopped.label.start_timeline,
        start_lsn: stopped.label.start,
        stop_lsn: stopped.stop_lsn,
        started,
        stopped: at,
        detection,
        page_checksums: facts.control.checksum_version.is_some(),
        pages_verified: captured.verdicts.verified,
        pages_bad: captured.verdicts.bad,
        tablespaces: survey.tablespaces.keys().copied().collect(),
        totals: captured.totals,
        parts: captured.parts.clone(),
        complete_on: publication.complete_on(),
    };
    let details = BaseDetails {
        tablespaces: survey
            .tablespaces
            .iter()
            .map(|(oid, place)| (*oid, place.to_string_lossy().into_owned()))
            .collect(),
        bad_pages: captured.verdicts.named.clone(),
        version: facts.version,
        settings: facts.settings,
        configuration_files: facts.configuration_files,
    };
    let committed = commit(context, &publication, &body, &details).await?;
    let mut findings = findings(&survey, &captured, body.page_checksums, committed.findings);
    findings.extend(unread);
    Ok(BaseOutcome {
        id,
        body,
        link: committed.link,
        findings,
    })
}

/// Runs what blocks away from the tasks that must not wait.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: Send + 'static,
{
    match spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// What the previous base has stored; a finding when that cannot be read.
async fn stored_before(context: &BaseContext) -> (Option<Known>, Option<Finding>) {
    let Some(link) = &context.previous else {
        return (None, None);
    };
    // A replica that missed the base before would miss this one too: a whole one
    // makes it complete again.
    let replicas = context.publisher.repository.replicas();
    let there = join_all(replicas.iter().map(|replica| replica.head(&link.key))).await;
    if there.iter().any(|there| matches!(there, Ok(None))) {
        return (None, None);
    }
    match Known::read(&context.publisher, link).await {
        Ok(known) => (Some(known), None),
        Err(error) => {
            let why = holdfast_repository::replica::explained(&error);
            let finding = Finding {
                name: "previous-base-unreadable".to_owned(),
                subject: link.key.to_string(),
                severity: Severity::Warning,
                detail: format!(
                    "everything was stored anew, because the manifest of the base before cannot be read: {why}"
                ),
                since: now(),
            };
            (None, Some(finding))
        }
    }
}

fn begin(
    context: &BaseContext,
    session: &Session,
    survey: &mut Survey,
    known: Option<Known>,
    publication: Publication,
) -> Arc<Capture> {
    let control = &session.facts().control;
    let plan = Plan {
        directory: context.data_dir.clone(),
        files: std::mem::take(&mut survey.files),
        start: session.facts().start_lsn,
        checksums: control.checksum_version.is_some(),
        pages_per_file: control.pages_per_file,
        key: context.key.clone(),
        index_key: context.index_key.key.clone(),
        known,
        level: context.level,
        meter: context.meter.clone(),
    };
    let jobs = jobs::jobs(&plan.files);
    Capture::new(plan, jobs, publication, Handle::current())
}

/// Copies all files; ends early when the session breaks or the backup is called
/// off. Dropping this future stops the workers at their next block.
async fn copy(
    context: &BaseContext,
    session: &Session,
    capture: &Arc<Capture>,
    survey: &Survey,
) -> Result<(), BaseError> {
    let mut guard = StopOnDrop(Some(capture.clone()));
    let first: Vec<_> = survey
        .directories
        .iter()
        .map(lines::directory)
        .chain(survey.links.iter().map(lines::link))
        .map(|line| (line, Vec::new()))
        .collect();
    let adding = capture.clone();
    blocking(move || adding.add(first)).await?;

    let mut workers = JoinSet::new();
    for _ in 0..context.threads.max(1) {
        let capture = capture.clone();
        workers.spawn_blocking(move || capture.work());
    }
    let mut looks = tokio::time::interval(Duration::from_millis(200));
    let mut broke = false;
    loop {
        tokio::select! {
            joined = workers.join_next() => match joined {
                None => break,
                Some(Ok(())) => {}
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            },
            () = context.cancel.cancelled() => {
                capture.stop(CaptureError::Cancelled);
                while workers.join_next().await.is_some() {}
                break;
            }
            _ = looks.tick() => if session.is_broken() {
                broke = true;
                capture.stop(CaptureError::Cancelled);
                while workers.join_next().await.is_some() {}
                break;
            },
        }
    }
    guard.0 = None;
    match capture.outcome() {
        Err(CaptureError::Cancelled) if broke => Err(BaseError::SessionBroke),
        outcome => Ok(outcome?),
    }
}

/// Ends the workers of a copy that nobody waits for any more.
struct StopOnDrop(Option<Arc<Capture>>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(capture) = &self.0 {
            capture.stop(CaptureError::Cancelled);
        }
    }
}

/// What comes after all files: the server's own texts, and `pg_control` last.
fn last_entries(
    stopped: &Stopped,
    control: Vec<u8>,
    at: Timestamp,
) -> Vec<(holdfast_proto::manifest::CatalogueLine, Vec<u8>)> {
    let mut last = Vec::new();
    let mut push = |path: &str, content: Vec<u8>| last.push((lines::text(path, content.len(), at), content));
    push("backup_label", stopped.label_text.clone().into_bytes());
    if !stopped.tablespace_map.is_empty() {
        push("tablespace_map", stopped.tablespace_map.clone().into_bytes());
    }
    push(rules::PG_CONTROL, control);
    last
}

async fn until_wal_is_safe(context: &BaseContext, stopped: &Stopped) -> Result<(), BaseError> {
    let timeline = stopped.label.start_timeline;
    let waiting = context
        .frontier
        .until_acknowledged(timeline, stopped.stop_lsn, context.wal_patience);
    let state = tokio::select! {
        state = waiting => state?,
        () = context.cancel.cancelled() => return Err(CaptureError::Cancelled.into()),
    };
    if state.reach.contiguous_from() > stopped.label.start {
        return Err(BaseError::WalGap {
            start: stopped.label.start,
            contiguous_from: state.reach.contiguous_from(),
        });
    }
    Ok(())
}

async fn commit(
    context: &BaseContext,
    publication: &Publication,
    body: &BaseBody,
    details: &BaseDetails,
) -> Result<Committed, BaseError> {
    let text = serde_json::to_vec(details).expect("plain values always encode");
    let payload = seal_frame(&context.key.key, &text, DETAILS_LEVEL)?;
    let key = layout::base(&body.cluster, body.lineage, body.id);
    let sealed_to = Some(context.key.key.fingerprint);
    let previous = context.previous.clone();
    Ok(publication
        .commit(&key, &payload, sealed_to, previous, body)
        .await?)
}

fn findings(survey: &Survey, captured: &Captured, checksums: bool, mut all: Vec<Finding>) -> Vec<Finding> {
    let since = now();
    let mut note = |name: &str, subject: String, severity, detail: String| {
        all.push(Finding {
            name: name.to_owned(),
            subject,
            severity,
            detail,
            since,
        });
    };
    for pages in captured.verdicts.named.chunk_by(|a, b| a.path == b.path) {
        note(
            "page-damaged",
            pages[0].path.clone(),
            Severity::Critical,
            damage(pages),
        );
    }
    for link in &survey.links {
        let detail = format!(
            "it leads to {}, which is not part of base backups: name it in the agent's configuration bundle if a \
             restore needs it",
            link.target.display()
        );
        note(
            "link-not-followed",
            link.path.display().to_string(),
            Severity::Info,
            detail,
        );
    }
    if !checksums {
        let detail = "the cluster has no data page checksums, so damage to its pages cannot be seen: enable them with \
                      pg_checksums while it is stopped";
        note(
            "no-page-checksums",
            "cluster".to_owned(),
            Severity::Info,
            detail.to_owned(),
        );
    }
    all
}

fn damage(pages: &[BadPage]) -> String {
    let blocks: Vec<String> = pages.iter().take(20).map(|page| page.block.to_string()).collect();
    let more = if pages.len() > 20 {
        format!(" and {} more", pages.len() - 20)
    } else {
        String::new()
    };
    format!(
        "{} page(s) of it are damaged on the server itself: block(s) {}{more}. They are in the backup as they were \
         read. Find the relation with pg_filenode_relation, and restore it from a base from before the damage",
        pages.len(),
        blocks.join(", ")
    )
}
