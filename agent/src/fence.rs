//! Fences: moments at which database and filestores belong together.
//!
//! A fence is taken in this order, and every step waits for the one before:
//! 1. On the primary a restore point `holdfast-<point>` is written, which ends at
//!    L0, and a tiny transaction commits after it so that the log is flushed.
//! 2. Every filestore is captured. An application that writes a file before the
//!    transaction that names it has written, by now, every file that a transaction
//!    before L0 names.
//! 3. WAL up to L0 is acknowledged: on as many replicas as the tier wants.
//! 4. The point is signed and stored on each replica that holds the journal
//!    entries *and* the WAL up to L0.
//!
//! No point is signed for a filestore of which anything written before the fence
//! could not be proven ([`Fenced::Unproven`]): the entry stays in the journal, the
//! finding `filestore-dirty` names the filestore, and the next fence tries again.
//! A point never says less than its kind promises. Files that are torn at the
//! source do not hinder it: they were captured as they are.
//!
//! Where the configuration names reference values, they are read before step 1 and
//! after it, and go sealed into the point ([`crate::reference`]).
//!
//! What a point claims of the moments since the one before is decided by
//! [`claim`]. When nothing was committed and no file changed since the last point,
//! no fence is taken and nothing is written: a fence's own transaction does not
//! count.
//!
//! If the process dies on the way there is a restore point without a signed point,
//! which is a name in the log and nothing else.

use std::time::Duration;

use holdfast_proto::Timestamp;
use holdfast_proto::envelope::Link;
use holdfast_proto::finding::Severity;
use holdfast_proto::message::PointFacts;
use holdfast_proto::names::{FilestoreName, Lineage, PointId, Region};
use holdfast_proto::pg::{BadLsn, Lsn, TimelineId};
use holdfast_proto::record::{JointClaim, PointBody, PointFilestore};
use holdfast_repository::layout;
use holdfast_repository::publication::PublishError;
use holdfast_repository::replica::explained;
use holdfast_repository::signed::SignedObject;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::config::AdapterKind;
use crate::filestore::{Asked, CaptureError, Captured, Filestore, Writing};
use crate::findings::Findings;
use crate::postgres::PgTarget;
use crate::reference::{self, Reading, Reference, ReferenceError};
use crate::wal::{NotAcknowledged, WalFrontier};

/// How long WAL up to L0 may take to be acknowledged.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long replicas beyond those that count may take to catch up with L0.
const STRAGGLERS: Duration = Duration::from_secs(3);

/// A fence that was not taken.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// The server did not do what a fence needs.
    #[error(
        "the server refused the fence's restore point: look at its log, and at the role's rights (holdfast agent sql)"
    )]
    Server(#[from] tokio_postgres::Error),
    /// The server's answer is not an LSN or a timeline.
    #[error("the server answered {0:?} where a position in the log was expected: this is a bug, report it")]
    Answer(String),
    /// Only a primary writes restore points.
    #[error("the server is a standby, so no fence can be taken: point the agent to the primary")]
    Standby,
    /// A filestore was not captured.
    #[error("filestore {filestore} was not captured: {}", explained(source))]
    Capture {
        /// Which.
        filestore: FilestoreName,
        /// Why.
        source: CaptureError,
    },
    /// The WAL did not become safe.
    #[error(transparent)]
    Wal(#[from] NotAcknowledged),
    /// The point reached too few replicas.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl From<BadLsn> for FenceError {
    fn from(bad: BadLsn) -> Self {
        FenceError::Answer(bad.to_string())
    }
}

/// The last point of a lineage, kept in the agent's state directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastPoint {
    /// It.
    pub id: PointId,
    /// The signed object.
    pub link: Link,
    /// The lineage it belongs to.
    pub lineage: Lineage,
    /// Its timeline.
    pub timeline: TimelineId,
    /// Just before its restore point was written, by the agent's clock.
    pub began: Timestamp,
    /// The primary's clock at L0.
    pub at: Timestamp,
    /// The journal entry of each filestore.
    pub entries: Vec<(FilestoreName, u64)>,
    /// The primary's clock just after the fence's own transaction. One that ends in
    /// the instant between is taken for part of it, until the next one ends.
    pub settled: Timestamp,
}

impl LastPoint {
    /// As the heartbeat reports it.
    pub fn facts(&self) -> PointFacts {
        PointFacts {
            id: self.id,
            at: self.at,
        }
    }
}

/// How a fence ended.
#[derive(Debug, Clone)]
pub enum Fenced {
    /// A point was signed.
    Point(Box<LastPoint>),
    /// Nothing happened since the last one.
    Idle,
    /// Something in these filestores could not be proven; no point was signed.
    Unproven(Vec<(FilestoreName, u64)>),
}

/// With what fences are taken.
pub struct Fencing<'f> {
    /// What captures and points are written with.
    pub writing: &'f Writing,
    /// The line of descent.
    pub lineage: Lineage,
    /// A session on the primary.
    pub client: &'f Client,
    /// How far the WAL is safe.
    pub frontier: &'f WalFrontier,
    /// Where to say what is wrong.
    pub findings: &'f Findings,
    /// The newest configuration bundle.
    pub config: Option<Link>,
    /// Values to be recorded in the point, and where they are asked.
    pub references: Option<(&'f PgTarget, &'f [Reference])>,
}

/// The restore point of a fence.
struct Mark {
    id: PointId,
    name: String,
    began: Timestamp,
    timeline: TimelineId,
    lsn: Lsn,
    flushed: Lsn,
    at: Timestamp,
    settled: Timestamp,
}

impl Fencing<'_> {
    /// Takes a fence over all filestores, unless nothing happened since `last`.
    pub async fn take(
        &self,
        filestores: &mut [Filestore],
        last: Option<&LastPoint>,
        asked: Asked,
    ) -> Result<Fenced, FenceError> {
        if let Some(last) = last
            && !asked.checkpoint
            && last.lineage == self.lineage
            && self.is_quiet_since(last)
            && !self
                .capture_all(filestores, asked)
                .await?
                .iter()
                .any(|c| c.written)
        {
            return Ok(Fenced::Idle);
        }
        let before = self.read_references().await;
        let mark = self.mark().await?;
        let payload = self.reference_values(before).await;
        let captures = self.capture_all(filestores, asked).await?;

        let mut unproven = Vec::new();
        for (filestore, captured) in filestores.iter().zip(&captures) {
            let name = &filestore.config().name;
            let count = captured.unproven.before(mark.began);
            let joint = filestore.config().adapter != AdapterKind::None;
            if count > 0 && joint {
                self.findings.raise(
                    Severity::Warning,
                    "filestore-dirty",
                    name.to_string(),
                    format!(
                        "{count} files written before the fence could not be proven whole, so no recovery point was \
                         signed: look at them if this does not end by itself"
                    ),
                );
                unproven.push((name.clone(), count));
            } else {
                self.findings.clear("filestore-dirty", name.as_str());
            }
        }
        if !unproven.is_empty() {
            return Ok(Fenced::Unproven(unproven));
        }

        self.frontier
            .until_acknowledged(mark.timeline, mark.flushed, PATIENCE)
            .await?;
        let regions = self.regions_with(&mark).await;
        let entries: Vec<PointFilestore> = (filestores.iter().zip(&captures))
            .map(|(filestore, captured)| {
                let (claim, because) = claim(
                    filestore.config(),
                    &mark,
                    captured,
                    last.filter(|l| self.follows(l, &mark)),
                );
                PointFilestore {
                    filestore: filestore.config().name.clone(),
                    n: captured.journal.n,
                    entry: captured.journal.link.clone(),
                    claim,
                    because,
                }
            })
            .collect();
        let numbers = entries.iter().map(|e| (e.filestore.clone(), e.n)).collect();
        let link = self.sign(&mark, entries, regions, last, &payload).await?;
        tracing::info!(point = %mark.id, lsn = %mark.lsn, "recovery point signed");
        Ok(Fenced::Point(Box::new(LastPoint {
            id: mark.id,
            link,
            lineage: self.lineage,
            timeline: mark.timeline,
            began: mark.began,
            at: mark.at,
            entries: numbers,
            settled: mark.settled,
        })))
    }

    /// Asks for the reference values. What cannot be asked is a finding and hinders
    /// no fence.
    async fn read_references(&self) -> Option<Reading> {
        let (target, references) = self.references?;
        self.note_references(reference::read(target, references).await)
    }

    /// The payload of the point: the values before the restore point, and now.
    async fn reference_values(&self, before: Option<Reading>) -> Vec<u8> {
        let (Some(before), Some((target, references))) = (before, self.references) else {
            return Vec::new();
        };
        let read = async {
            let after = reference::read(target, references).await?;
            let alone = reference::is_alone(self.client).await?;
            let values = reference::values(references, before, after, alone);
            reference::sealed(&self.writing.key, &values)
        };
        self.note_references(read.await).unwrap_or_default()
    }

    fn note_references<T>(&self, read: Result<T, ReferenceError>) -> Option<T> {
        let subject = self.writing.publisher.cluster.to_string();
        match read {
            Ok(read) => {
                self.findings.clear("reference-unread", &subject);
                Some(read)
            }
            Err(error) => {
                let why = format!(
                    "the values that drills compare with were not recorded: {}",
                    explained(&error)
                );
                self.findings
                    .raise(Severity::Warning, "reference-unread", subject, why);
                None
            }
        }
    }

    /// Whether no transaction ended since the last point, as far as is known. One
    /// that is not acknowledged yet is seen at the next fence.
    fn is_quiet_since(&self, last: &LastPoint) -> bool {
        self.frontier.current().is_some_and(|state| {
            state.timeline == last.timeline
                && state.sees_all()
                && state.last_commit.is_none_or(|at| at <= last.settled)
        })
    }

    fn follows(&self, last: &LastPoint, mark: &Mark) -> bool {
        last.lineage == self.lineage && last.timeline == mark.timeline
    }

    async fn capture_all(
        &self,
        filestores: &mut [Filestore],
        asked: Asked,
    ) -> Result<Vec<Captured>, FenceError> {
        let mut captures = Vec::with_capacity(filestores.len());
        for filestore in filestores {
            let captured = filestore.capture(self.writing, asked).await;
            captures.push(captured.map_err(|source| FenceError::Capture {
                filestore: filestore.config().name.clone(),
                source,
            })?);
        }
        Ok(captures)
    }

    /// Writes the restore point and a transaction after it.
    async fn mark(&self) -> Result<Mark, FenceError> {
        let standby: bool = self
            .client
            .query_one("SELECT pg_is_in_recovery()", &[])
            .await?
            .try_get(0)?;
        if standby {
            return Err(FenceError::Standby);
        }
        let began = now();
        let id = PointId::from_parts(began, rand::random());
        let name = format!("holdfast-{id}");
        let row = self
            .client
            .query_one(
                "SELECT l::text, substr(pg_walfile_name(l), 1, 8), clock_timestamp() \
                 FROM pg_create_restore_point($1) AS l",
                &[&name],
            )
            .await?;
        let (lsn, timeline): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        let at: chrono::DateTime<chrono::Utc> = row.try_get(2)?;
        let timeline =
            TimelineId::parse_fixed(timeline).ok_or_else(|| FenceError::Answer(timeline.to_owned()))?;
        // Flushed here is enough: that replicas hold it is waited for below.
        self.client
            .batch_execute("SET synchronous_commit = local")
            .await?;
        self.client
            .query_one(
                "SELECT pg_logical_emit_message(true, 'holdfast', $1)::text",
                &[&name],
            )
            .await?;
        let settling = "SELECT pg_current_wal_flush_lsn()::text, clock_timestamp()";
        let settling = self.client.query_one(settling, &[]).await?;
        let flushed: &str = settling.try_get(0)?;
        let settled: chrono::DateTime<chrono::Utc> = settling.try_get(1)?;
        let lsn: Lsn = lsn.parse()?;
        Ok(Mark {
            id,
            name,
            began,
            timeline,
            lsn,
            flushed: flushed.parse::<Lsn>()?.max(lsn),
            at: Timestamp::from_chrono(at),
            settled: Timestamp::from_chrono(settled),
        })
    }

    /// The replicas that hold the WAL up to L0. Those that are a little behind are
    /// given a moment.
    async fn regions_with(&self, mark: &Mark) -> Vec<Region> {
        let mut frontier = self.frontier.clone();
        let mut reached = Vec::new();
        let all = async {
            loop {
                let Some(state) = frontier.current() else { return };
                reached = (state.replicas.iter())
                    .filter(|r| r.durable.is_some_and(|durable| durable >= mark.lsn))
                    .map(|r| r.region.clone())
                    .collect();
                if reached.len() >= state.replicas.len() || frontier.changed().await.is_err() {
                    return;
                }
            }
        };
        // Cancel-safe: it only looks.
        let _ = tokio::time::timeout(STRAGGLERS, all).await;
        reached
    }

    /// Signs the point and stores it where all that it needs is.
    async fn sign(
        &self,
        mark: &Mark,
        filestores: Vec<PointFilestore>,
        regions: Vec<Region>,
        last: Option<&LastPoint>,
        payload: &[u8],
    ) -> Result<Link, FenceError> {
        let publisher = &self.writing.publisher;
        let mut needs = self.writing.needs.clone();
        needs.extend(filestores.iter().map(|f| f.entry.clone()));
        needs.extend(self.config.clone());
        let mut ready = Vec::new();
        let mut behind: Vec<(Region, String)> = Vec::new();
        for replica in publisher.repository.replicas() {
            let region = replica.region().clone();
            if !regions.contains(&region) {
                behind.push((region, "it lacks WAL up to the point".to_owned()));
                continue;
            }
            match publisher.prepare(replica, &needs).await {
                Ok(()) => ready.push(replica),
                Err(why) => behind.push((region, why)),
            }
        }
        let body = PointBody {
            id: mark.id,
            name: mark.name.clone(),
            timeline: mark.timeline,
            lsn: mark.lsn,
            at: mark.at,
            filestores,
            config: self.config.clone(),
            complete_on: ready.iter().map(|r| r.region().clone()).collect(),
        };
        let key = layout::point(&publisher.cluster, self.lineage, mark.id);
        let previous = last.filter(|l| l.lineage == self.lineage).map(|l| l.link.clone());
        let sealed_to = (!payload.is_empty()).then_some(self.writing.key.fingerprint);
        let SignedObject { bytes, sha256 } = publisher.sign(&key, payload, sealed_to, previous, &body);
        let link = Link {
            key: key.clone(),
            sha256,
        };
        let stored = futures::future::join_all(ready.iter().map(|r| r.create(&key, bytes.clone()))).await;
        let mut landed = Vec::new();
        for (replica, outcome) in ready.iter().zip(stored) {
            match outcome {
                Ok(_) => landed.push(replica.region().clone()),
                Err(error) => behind.push((replica.region().clone(), explained(&error))),
            }
        }
        let copies = publisher.copies;
        if landed.len() >= copies.max(1) {
            return Ok(link);
        }
        Err(FenceError::Publish(if landed.is_empty() {
            PublishError::TooFew {
                complete: 0,
                copies,
                behind,
            }
        } else {
            PublishError::PartlyCommitted {
                key,
                landed,
                copies,
                behind,
            }
        }))
    }
}

/// What a point claims for one filestore, and why.
///
/// Between two points every moment is complete when no file can have been added
/// and collected between the two captures: a file that is collected was
/// unreferenced for at least the collector's delay, so one that was referenced
/// after the point before is still there when this capture ends within that delay.
fn claim(
    config: &crate::config::FilestoreConfig,
    mark: &Mark,
    captured: &Captured,
    last: Option<&LastPoint>,
) -> (JointClaim, String) {
    if config.adapter == AdapterKind::None {
        let unproven = captured.unproven.before(mark.began);
        return (
            JointClaim::PerFile,
            format!("files are changed in place and captured one by one; {unproven} were changing"),
        );
    }
    let Some(delay) = config.collector_delay else {
        return (
            JointClaim::PointOnly,
            "the collector's delay is not configured".to_owned(),
        );
    };
    let Some(last) = last.filter(|l| l.entries.iter().any(|(name, _)| *name == config.name)) else {
        return (
            JointClaim::PointOnly,
            "there is no point before it on this timeline".to_owned(),
        );
    };
    let lag = captured.scanned_until.millis_since(last.began);
    if u128::from(lag) < delay.as_millis() {
        let because = format!(
            "the capture ended {lag} ms after the point {} and the collector waits {} ms",
            last.id,
            delay.as_millis()
        );
        (JointClaim::SincePrevious, because)
    } else {
        let because = format!(
            "the capture ended {lag} ms after the point before, which is not within the collector's delay of {} ms",
            delay.as_millis()
        );
        (JointClaim::PointOnly, because)
    }
}

fn now() -> Timestamp {
    Timestamp::from_chrono(chrono::Utc::now())
}
