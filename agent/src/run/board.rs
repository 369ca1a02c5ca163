//! What the agent knows of a cluster at this moment, for heartbeats and status.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_proto::Timestamp;
use holdfast_proto::labels::Labels;
use holdfast_proto::message::{BaseFacts, ClusterFacts, FilestoreFacts, PointFacts, Progress, Work};
use holdfast_proto::names::{ClusterId, Lineage, TierName, WorkId};

use crate::findings::Findings;
use crate::progress::Meter;
use crate::wal::WalFrontier;

/// Shared facts of one cluster. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    lineage: Option<Lineage>,
    wal: Option<WalFrontier>,
    filestores: Vec<FilestoreFacts>,
    last_base: Option<BaseFacts>,
    last_point: Option<PointFacts>,
    working: Vec<Working>,
}

#[derive(Debug)]
struct Working {
    id: Option<WorkId>,
    work: Work,
    since: Timestamp,
    meter: Meter,
}

impl Board {
    /// Notes the lineage and its WAL line.
    pub fn set_line(&self, lineage: Lineage, wal: WalFrontier) {
        let mut known = self.held();
        known.lineage = Some(lineage);
        known.wal = Some(wal);
    }

    /// Notes a filestore's facts.
    pub fn set_filestore(&self, facts: FilestoreFacts) {
        let mut known = self.held();
        match known
            .filestores
            .iter_mut()
            .find(|f| f.filestore == facts.filestore)
        {
            Some(before) => *before = facts,
            None => known.filestores.push(facts),
        }
    }

    /// Notes the newest base backup.
    pub fn set_base(&self, base: Option<BaseFacts>) {
        self.held().last_base = base;
    }

    /// Notes the newest point.
    pub fn set_point(&self, point: PointFacts) {
        self.held().last_point = Some(point);
    }

    /// Notes that work begins; it ends when the guard is dropped.
    pub fn begin(&self, id: Option<WorkId>, work: Work, since: Timestamp, meter: Meter) -> Begun {
        self.held().working.push(Working {
            id,
            work,
            since,
            meter,
        });
        Begun {
            board: self.clone(),
            work,
        }
    }

    /// The running work of this kind takes on an assignment's identity. `false` when
    /// none runs.
    pub fn adopt(&self, work: Work, id: WorkId) -> bool {
        match self.held().working.iter_mut().find(|w| w.work == work) {
            Some(running) => {
                running.id = Some(id);
                true
            }
            None => false,
        }
    }

    /// The identity of the running work of this kind.
    pub fn identity(&self, work: Work) -> Option<WorkId> {
        self.held().working.iter().find(|w| w.work == work)?.id
    }

    /// Everything, as a heartbeat says it.
    pub fn facts(
        &self,
        cluster: &ClusterId,
        tier: &TierName,
        labels: &Labels,
        findings: &Findings,
        now: Timestamp,
    ) -> ClusterFacts {
        let known = self.held();
        ClusterFacts {
            cluster: cluster.clone(),
            tier: tier.clone(),
            labels: labels.clone(),
            lineage: known.lineage,
            wal: known.wal.as_ref().and_then(|wal| Some(wal.current()?.facts(now))),
            filestores: known.filestores.clone(),
            last_base: known.last_base.clone(),
            last_point: known.last_point.clone(),
            working: (known.working.iter())
                .map(|w| {
                    let (done, total) = w.meter.read();
                    Progress {
                        id: w.id,
                        work: w.work,
                        done,
                        total,
                        since: w.since,
                    }
                })
                .collect(),
            requests: Vec::new(),
            findings: findings.snapshot(),
        }
    }

    fn held(&self) -> MutexGuard<'_, Known> {
        // Each method leaves the facts whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Work under way.
#[derive(Debug)]
pub struct Begun {
    board: Board,
    work: Work,
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut known = self.board.held();
        if let Some(at) = known.working.iter().position(|w| w.work == self.work) {
            known.working.remove(at);
        }
    }
}
