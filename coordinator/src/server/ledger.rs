//! What the repository holds of a cluster in all its length, as whoever reads it says.
//!
//! The survey looks at the end of the WAL, often; the whole is read only when somebody
//! wants to see it. It takes a listing of every object of the cluster, so it is read
//! once for all who ask within a while, and a few clusters at a time. A reader who
//! asks first waits for a moment; whoever still waits then gets what was known
//! before, or is told to come again: the reading itself goes on.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use axum::{Extension, Json, extract::Path, extract::State};
use holdfast_plan::restore::{BaseFact, Facts, PointFact, Restorable, restorable};
use holdfast_proto::Timestamp;
use holdfast_proto::finding::Finding;
use holdfast_proto::names::ClusterId;
use holdfast_repository::Repository;
use holdfast_repository::hold::Hold;
use holdfast_repository::trust::Trust;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use utoipa::ToSchema;

use super::guard::Caller;
use super::openapi::FindingSchema;
use super::pages::{People, cluster_of};
use super::problem::Refusal;
use crate::desk::now;
use crate::runbooks::Explained;

/// A cluster as the repository shows it.
#[derive(Debug, Clone)]
pub struct ClusterLedger {
    /// Bases, WAL, points, filestores.
    pub facts: Facts,
    /// What must stay restorable.
    pub holds: Vec<Hold>,
    /// What could not be read, or was not believed.
    pub findings: Vec<Finding>,
}

/// The reading of one cluster, or why there is none.
pub type LedgerAnswer = Pin<Box<dyn Future<Output = Result<ClusterLedger, String>> + Send>>;

/// Whoever reads the ledger.
pub type LedgerReading = Arc<dyn Fn(Repository, Arc<Trust>, ClusterId) -> LedgerAnswer + Send + Sync>;

/// A reading and its moment.
#[derive(Debug)]
pub struct Read {
    /// When it began.
    pub at: Timestamp,
    /// What was read.
    pub ledger: ClusterLedger,
}

/// A reading to show.
#[derive(Debug, Clone)]
pub struct Shown {
    /// What was read last.
    pub read: Arc<Read>,
    /// Why it could not be read again since.
    pub trouble: Option<String>,
}

/// How long a reading is shown.
const FRESH_MS: u64 = 15_000;

/// How long a reader waits.
const PATIENCE: Duration = Duration::from_secs(7);

/// How long a reading may take.
const DEADLINE: Duration = Duration::from_secs(600);

/// Clusters whose reading is kept.
const KEPT: usize = 32;

/// Clusters read at the same time.
const AT_ONCE: usize = 2;

/// What became of the last reading.
type Last = Option<Result<Arc<Read>, String>>;

/// One cluster's readings.
struct Entry {
    asked: Timestamp,
    running: bool,
    good: Option<Arc<Read>>,
    last: watch::Sender<Last>,
}

/// The readings of all clusters.
#[derive(Clone)]
pub struct Ledgers {
    reading: Option<LedgerReading>,
    entries: Arc<Mutex<BTreeMap<ClusterId, Entry>>>,
    turns: Arc<Semaphore>,
}

impl Ledgers {
    /// Nothing read so far.
    pub fn new(reading: Option<LedgerReading>) -> Self {
        Self {
            reading,
            entries: Arc::default(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// The cluster as it was read lately.
    ///
    /// # Errors
    /// It cannot be read, or not yet.
    pub async fn of(
        &self,
        repository: &Repository,
        trust: Option<Arc<Trust>>,
        cluster: &ClusterId,
    ) -> Result<Shown, String> {
        let fine = |read: Arc<Read>| Shown { read, trouble: None };
        let reading = self.reading.clone().ok_or("this coordinator reads no ledger")?;
        let trust = trust.ok_or("the trust chain has not been read yet")?;
        let mut news = {
            let at = now();
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = entries.entry(cluster.clone()).or_insert_with(|| Entry {
                asked: at,
                running: false,
                good: None,
                last: watch::Sender::new(None),
            });
            entry.asked = at;
            if let Some(good) = &entry.good
                && at.millis_since(good.at) < FRESH_MS
            {
                return Ok(fine(Arc::clone(good)));
            }
            let news = entry.last.subscribe();
            if !entry.running {
                entry.running = true;
                let (share, cluster) = (self.clone(), cluster.clone());
                let answer = reading(repository.clone(), trust, cluster.clone());
                tokio::spawn(async move { share.read(cluster, answer).await });
            }
            forget_oldest(&mut entries);
            news
        };
        let _ = tokio::time::timeout(PATIENCE, news.changed()).await;
        let said = news.borrow_and_update().clone();
        let known = || {
            let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.get(cluster).and_then(|entry| entry.good.clone())
        };
        match said {
            Some(Ok(read)) => Ok(fine(read)),
            Some(Err(why)) => match known() {
                Some(read) => Ok(Shown {
                    read,
                    trouble: Some(why),
                }),
                None => Err(why),
            },
            None => Err("the repository is still being read: ask again in a moment".to_owned()),
        }
    }

    async fn read(self, cluster: ClusterId, answer: LedgerAnswer) {
        let turn = self.turns.acquire().await;
        let at = now();
        // On its own, so that one that panics is over, too.
        let read = match tokio::spawn(tokio::time::timeout(DEADLINE, answer)).await {
            Ok(Ok(read)) => read.map(|ledger| Arc::new(Read { at, ledger })),
            Ok(Err(_)) => Err(format!("it was not read within {} s", DEADLINE.as_secs())),
            Err(error) => Err(format!("reading it ended unexpectedly: {error}")),
        };
        drop(turn);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(&cluster) {
            entry.running = false;
            if let Ok(good) = &read {
                entry.good = Some(Arc::clone(good));
            }
            entry.last.send_replace(Some(read));
        }
    }
}

/// Keeps what was asked for lately, and what is being read.
fn forget_oldest(entries: &mut BTreeMap<ClusterId, Entry>) {
    while entries.len() > KEPT {
        let resting = entries.iter().filter(|(_, entry)| !entry.running);
        let Some(oldest) = resting
            .min_by_key(|(_, entry)| entry.asked)
            .map(|(cluster, _)| cluster.clone())
        else {
            return;
        };
        entries.remove(&oldest);
    }
}

/// What can be restored of a cluster, as `holdfast points` says it.
#[derive(Debug, Serialize, ToSchema)]
pub struct PointsStatus {
    /// When the repository was read.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Why it could not be read again since.
    trouble: Option<String>,
    /// The cluster.
    #[schema(value_type = String)]
    cluster: ClusterId,
    /// The restorable intervals, what interrupts them, and bases of no use.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    restorable: Restorable,
    /// Base backups, oldest first within a lineage.
    #[schema(value_type = Vec<Object>)]
    bases: Vec<BaseFact>,
    /// Joint points of database and filestores.
    #[schema(value_type = Vec<Object>)]
    points: Vec<PointFact>,
    /// What must stay restorable.
    #[schema(value_type = Vec<Object>)]
    holds: Vec<Hold>,
    /// What could not be read, or was not believed.
    #[schema(value_type = Vec<FindingSchema>)]
    findings: Vec<Explained>,
}

/// What can be restored of a cluster: intervals, gaps with their causes, base backups,
/// points and holds.
#[utoipa::path(
    get,
    path = "/v1/clusters/{tenant}/{cluster}/points",
    params(
        ("tenant" = String, Path, description = "Its tenant", pattern = "^[a-z0-9][a-z0-9_-]{0,62}$"),
        ("cluster" = String, Path, description = "Its name within the tenant", pattern = "^[a-z0-9][a-z0-9_-]{0,62}$"),
    ),
    responses((status = 200, body = PointsStatus, description = "What can be restored"))
)]
pub async fn points(
    State(people): State<People>,
    Extension(caller): Extension<Caller>,
    Path((tenant, cluster)): Path<(String, String)>,
) -> Result<Json<PointsStatus>, Refusal> {
    let status = cluster_of(&people, &caller, &tenant, &cluster)?;
    let desk = &people.desk;
    let read = people.ledgers.of(&desk.repository, desk.trust(), &status.cluster);
    let Shown { read, trouble } = read
        .await
        .map_err(|why| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why))?;
    let ClusterLedger {
        facts,
        holds,
        findings,
    } = &read.ledger;
    let of_all = |of: fn(&holdfast_plan::restore::LineageFacts) -> usize| facts.lineages.iter().map(of).sum();
    let mut bases = Vec::with_capacity(of_all(|l| l.bases.len()));
    let mut points = Vec::with_capacity(of_all(|l| l.points.len()));
    for lineage in &facts.lineages {
        bases.extend(lineage.bases.iter().cloned());
        points.extend(lineage.points.iter().cloned());
    }
    Ok(Json(PointsStatus {
        at: read.at,
        trouble,
        cluster: status.cluster,
        restorable: restorable(facts),
        bases,
        points,
        holds: holds.clone(),
        findings: findings
            .iter()
            .map(|finding| Explained::of(finding.clone(), desk.config.runbooks.as_ref()))
            .collect(),
    }))
}
