//! Captures filestores all the time, and takes fences at the tier's interval.
//!
//! Files are captured also while the server or the WAL line is down: they are safe
//! then, and the point that ties them to the database follows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_proto::finding::Severity;
use holdfast_proto::message::Work;
use holdfast_repository::replica::explained;
use tokio_util::sync::CancellationToken;

use super::session::{Session, now};
use super::supervisor::Failure;
use crate::fence::{FenceError, Fenced, Fencing, LastPoint};
use crate::filestore::Asked;
use crate::postgres::sql_connect;
use crate::progress::Meter;

/// How soon a fence is tried again that could not be taken; twice as long after each
/// failure, up to the interval.
const AGAIN: Duration = Duration::from_secs(2);

/// Works until cancelled.
pub async fn run(session: Arc<Session>, cancel: CancellationToken) -> Result<(), Failure> {
    // Without filestores a point ties nothing together: it is there for what the
    // databases said at it.
    if session.config.filestores.is_empty() && session.config.references.is_empty() {
        return Ok(());
    }
    let mut recorded: Option<Instant> = None;
    let mut last: Option<LastPoint> = session
        .state
        .last_point()
        .load()
        .map_err(|e| Failure::again(&e))?;
    last = last.filter(|l| l.lineage == session.lineage);
    if let Some(last) = &last {
        session.board.set_point(last.facts());
    }
    let mut pause = Duration::ZERO;
    let mut again = AGAIN;
    let mut first = true;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = cancel.cancelled() => return Ok(()),
        }
        let due = |at: Instant| at.elapsed() >= session.config.reference_interval;
        let record = !session.config.references.is_empty() && recorded.is_none_or(due);
        // Dropping a capture or a fence loses nothing that counted.
        let taken = tokio::select! {
            taken = one(&session, last.as_ref(), first, record) => taken,
            () = cancel.cancelled() => return Ok(()),
        };
        let interval = session.numbers.fence_interval();
        let subject = session.subject();
        if matches!(taken, Ok(Some(Fenced::Point(_) | Fenced::Idle))) {
            again = AGAIN;
        } else {
            again = (again * 2).min(interval.max(AGAIN));
        }
        pause = match taken {
            Ok(Some(Fenced::Point(point))) => {
                session.findings.clear("fence-failed", &subject);
                session
                    .state
                    .last_point()
                    .save(&*point)
                    .map_err(|e| Failure::again(&e))?;
                session.board.set_point(point.facts());
                if record {
                    recorded = Some(Instant::now());
                }
                last = Some(*point);
                interval
            }
            Ok(Some(Fenced::Idle)) => {
                session.findings.clear("fence-failed", &subject);
                interval
            }
            Ok(Some(Fenced::Unproven(_))) | Ok(None) => again.min(interval),
            Err(error) => {
                session.findings.raise(
                    Severity::Warning,
                    "fence-failed",
                    subject,
                    format!("no recovery point was signed: {}", explained(&error)),
                );
                again.min(interval)
            }
        };
        first = false;
    }
}

/// One round: a fence where one can be taken, a capture alone where not (`None`).
/// With `record` the fence records reference values.
async fn one(
    session: &Session,
    last: Option<&LastPoint>,
    first: bool,
    record: bool,
) -> Result<Option<Fenced>, FenceError> {
    let mut filestores = session.filestores.lock().await;
    let writing = session.writing();
    if first {
        // The first capture may take hours: the fence after it is short.
        let meter = Meter::default();
        let _begun = session
            .board
            .begin(None, Work::FilestoreCheckpoint, now(), meter.clone());
        for filestore in filestores.iter_mut() {
            filestore.count_with(meter.clone());
            let captured = filestore.capture(&writing, Asked::default()).await;
            captured.map_err(|source| FenceError::Capture {
                filestore: filestore.config().name.clone(),
                source,
            })?;
            filestore.count_with(Meter::default());
            session.note_filestore(filestore);
        }
    }
    let streaming = session.frontier.current().is_some_and(|state| state.connected);
    let client = if streaming {
        sql_connect(&session.config.postgres).await.ok()
    } else {
        None
    };
    let Some(client) = client else {
        for filestore in filestores.iter_mut() {
            let captured = filestore.capture(&writing, Asked::default()).await;
            captured.map_err(|source| FenceError::Capture {
                filestore: filestore.config().name.clone(),
                source,
            })?;
            session.note_filestore(filestore);
        }
        return Ok(None);
    };
    let fencing = Fencing {
        writing: &writing,
        lineage: session.lineage,
        client: &client,
        frontier: &session.frontier,
        findings: &session.findings,
        config: session.config_bundle(),
        references: record.then_some((&session.config.postgres, session.config.references.as_slice())),
    };
    let taken = fencing.take(&mut filestores, last, Asked::default()).await;
    for filestore in filestores.iter() {
        session.note_filestore(filestore);
    }
    taken.map(Some)
}
