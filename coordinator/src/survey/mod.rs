//! What the repository holds, as the coordinator sees it.
//!
//! Everything in a [`Survey`] comes from listings and from signed records that
//! were verified; nothing from what agents say. The near look lists the end of
//! the WAL, replica by replica; the far look lists base backups, points,
//! bundles, journals and attestations and reads the newest records. Both can be
//! repeated at any time and keep only what makes the next look cheaper.
//!
//! A record that does not verify is a finding and does not count. A replica
//! that cannot be listed is unknown, not empty.

mod far;
mod proven;
mod wal;

use std::collections::{BTreeMap, BTreeSet};

use holdfast_plan::rpo::{self, ReplicaWal, Witness};
use holdfast_proto::Timestamp;
use holdfast_proto::finding::Finding;
use holdfast_proto::names::{BackupId, ClusterId, Lineage, PointId, Region};
use holdfast_proto::pg::{Lsn, SegmentSize, TimelineId};

use crate::desk::Desk;

#[cfg(test)]
pub use proven::DrillResult;
pub use proven::{DrillSeen, Proven, ProvenReader};
use wal::WalTail;

/// A base backup that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseSeen {
    /// The backup.
    pub id: BackupId,
    /// When its copy was complete, by the agent's clock.
    pub stopped: Timestamp,
    /// When it was committed, by the store's clock.
    pub committed: Timestamp,
    /// The timeline at its start.
    pub timeline: TimelineId,
    /// Where replay begins.
    pub start: Lsn,
    /// Bytes of a WAL segment.
    pub segment_size: SegmentSize,
    /// Bytes of the database, as a restore writes them.
    pub bytes: u64,
    /// Replicas that hold its commit point.
    pub regions: Vec<Region>,
}

/// A recovery point that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointSeen {
    /// The point.
    pub id: PointId,
    /// Its moment, by the primary's clock.
    pub at: Timestamp,
    /// Replicas that hold its commit point.
    pub regions: Vec<Region>,
}

/// An agent's signed statement of how far it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// When, by the agent's clock, and no later than it was stored.
    pub at: Timestamp,
    /// The timeline.
    pub timeline: TimelineId,
    /// When the server was last heard, by the same clock.
    pub heard: Timestamp,
    /// The server's flush position then.
    pub server_flush: Lsn,
    /// What the agent had acknowledged.
    pub acknowledged: Lsn,
    /// What the agent said of its exposure.
    pub rpo_ms: u64,
}

/// What the repository holds of one cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// When the far look was last complete.
    pub listed: Option<Timestamp>,
    /// The lineage that was looked at.
    pub lineage: Option<Lineage>,
    /// How many base backups of the lineage are listed.
    pub bases: u64,
    /// The newest base backup that verifies.
    pub base: Option<BaseSeen>,
    /// The newest point that verifies.
    pub point: Option<PointSeen>,
    /// The newest attestation that verifies.
    pub attestation: Option<Attestation>,
    /// When the newest bundle of settings was stored.
    pub bundle: Option<Timestamp>,
    /// Each filestore: when its newest checkpoint was stored.
    pub filestores: BTreeMap<String, Option<Timestamp>>,
    /// Each replica's WAL.
    pub wal: Vec<ReplicaWal>,
    /// When the near look was last made.
    pub near: Option<Timestamp>,
    /// Near the end: where WAL objects end, and the latest commit in each.
    pub commits: Vec<(Lsn, Timestamp)>,
    /// WAL is missing from here on although later WAL is there, since when.
    pub hole: Option<(Lsn, Timestamp)>,
    /// Since when some listed replica lacks what another has.
    pub behind: Option<Timestamp>,
    /// Records that did not verify, and the like.
    pub findings: Vec<Finding>,
}

/// How far stores' clocks may be behind, their resolution included. S3 counts in seconds.
const STORES_CLOCKS_MS: i64 = 5_000;

/// A moment that somebody claims in an object, as far as the store bears it out. An
/// agent whose clock is ahead would outlive itself, and a primary's would make what it
/// lost look newer: what is stored was said by then.
fn believed(claimed: Timestamp, stored: Timestamp) -> Timestamp {
    if claimed > stored.plus_millis(STORES_CLOCKS_MS) {
        stored
    } else {
        claimed
    }
}

/// How long a hole must be seen before it counts: chunks are uploaded side by
/// side, and a later one may be there first.
const HOLE_AFTER_MS: u64 = 60_000;

impl Survey {
    /// The hole in the WAL, once it has been there long enough to be one.
    pub fn lasting_hole(&self, now: Timestamp) -> Option<Lsn> {
        self.hole
            .filter(|(_, since)| now.millis_since(*since) >= HOLE_AFTER_MS)
            .map(|(from, _)| from)
    }

    /// Where the WAL ends on the best replica.
    pub fn best_end(&self) -> Option<Lsn> {
        self.wal.iter().filter_map(|r| r.end).max()
    }

    /// The attestation as a sighting of the server.
    pub fn witness(&self) -> Option<Witness> {
        self.attestation.as_ref().map(|a| Witness {
            at: a.heard,
            server_flush: a.server_flush,
            safe: Some((
                a.acknowledged,
                a.at.plus_millis(-i64::try_from(a.rpo_ms).unwrap_or(i64::MAX)),
            )),
        })
    }
}

/// Looks at one cluster, again and again.
#[derive(Debug)]
pub struct Surveyor {
    cluster: ClusterId,
    far: far::FarMemory,
    tail: WalTail,
    survey: Survey,
    looked_far: Option<Timestamp>,
    /// What the best replica had, and when; all others are measured by it.
    mark: Option<(Lsn, Timestamp)>,
    /// A base backup that some replica lacks, and since when that was seen.
    lacking: Option<(BackupId, Timestamp)>,
}

/// Between far looks.
const FAR_EVERY_MS: u64 = 15_000;

/// Between far looks when something new is expected.
const FAR_SOON_MS: u64 = 2_000;

impl Surveyor {
    /// A surveyor that has seen nothing yet.
    pub fn new(cluster: ClusterId) -> Self {
        Self {
            cluster,
            far: far::FarMemory::default(),
            tail: WalTail::default(),
            survey: Survey::default(),
            looked_far: None,
            mark: None,
            lacking: None,
        }
    }

    /// Looks, far when it is time or asked for. An error only when nothing at
    /// all could be listed; what was known stays.
    pub async fn look(&mut self, desk: &Desk, far: bool) -> Result<Survey, String> {
        let now = crate::desk::now();
        let soon = far || self.expects_more(desk);
        let pace = if soon { FAR_SOON_MS } else { FAR_EVERY_MS };
        if self.looked_far.is_none_or(|at| now.millis_since(at) >= pace) {
            let reported = desk
                .state()
                .reports
                .get(&self.cluster)
                .and_then(|r| r.facts.lineage);
            far::look(&mut self.far, &self.cluster, reported, desk, &mut self.survey).await?;
            self.looked_far = Some(now);
        }
        let reported = desk
            .state()
            .reports
            .get(&self.cluster)
            .and_then(|r| Some(r.facts.wal.as_ref()?.timeline));
        let attested = self.survey.attestation.as_ref().map(|a| a.timeline);
        if let (Some(lineage), Some(base)) = (self.survey.lineage, &self.survey.base) {
            let current = reported
                .max(attested)
                .max(Some(base.timeline))
                .unwrap_or(base.timeline);
            let seen = self.tail.look(&self.cluster, lineage, base, current, desk).await;
            self.survey.wal = seen.replicas;
            self.survey.commits = seen.commits;
            self.survey.hole = match (seen.hole, self.survey.hole) {
                (Some(from), Some((before, since))) if from == before => Some((from, since)),
                (Some(from), _) => Some((from, now)),
                (None, _) => None,
            };
        } else {
            self.survey.wal = Vec::new();
            self.survey.commits = Vec::new();
            self.survey.hole = None;
        }
        self.survey.near = Some(now);
        self.note_behind(now);
        Ok(self.survey.clone())
    }

    /// Whether there is reason to believe that something new is there: nothing
    /// was found yet, or the agent speaks of something that was not seen.
    fn expects_more(&self, desk: &Desk) -> bool {
        let state = desk.state();
        let Some(facts) = state.reports.get(&self.cluster).map(|report| &report.facts) else {
            return false;
        };
        let base = facts
            .last_base
            .as_ref()
            .is_some_and(|b| self.survey.base.as_ref().is_none_or(|s| s.id < b.id));
        let point = facts
            .last_point
            .as_ref()
            .is_some_and(|p| self.survey.point.as_ref().is_none_or(|s| s.id < p.id));
        self.survey.base.is_none() || self.survey.lineage != facts.lineage || base || point
    }

    /// Notes since when a replica that answers lacks what another has. What is
    /// compared is what the best one had a while ago: replicas that are written
    /// to side by side are never quite equal.
    fn note_behind(&mut self, now: Timestamp) {
        let survey = &mut self.survey;
        let ends = || survey.wal.iter().filter_map(|r| r.end);
        let best = ends().max();
        self.mark = match self.mark {
            Some((mark, since)) if ends().any(|end| end < mark) => Some((mark, since)),
            _ => best.map(|best| (best, now)),
        };
        let lagging = self
            .mark
            .filter(|(mark, _)| ends().any(|end| end < *mark))
            .map(|(_, since)| since);
        let listed: BTreeSet<&Region> = survey
            .wal
            .iter()
            .filter(|r| r.end.is_some())
            .map(|r| &r.region)
            .collect();
        let lacking = survey
            .base
            .as_ref()
            .filter(|base| listed.iter().any(|r| !base.regions.contains(r)));
        self.lacking = match (lacking.map(|base| base.id), self.lacking) {
            (Some(id), Some((before, since))) if id == before => Some((id, since)),
            (Some(id), _) => Some((id, now)),
            (None, _) => None,
        };
        survey.behind = lagging
            .into_iter()
            .chain(self.lacking.map(|(_, since)| since))
            .min();
    }
}

/// The facts from which the exposure of a cluster is measured.
pub fn rpo_facts(
    survey: Option<&Survey>,
    heard: impl IntoIterator<Item = Witness>,
    copies: u32,
    fresh_for: holdfast_plan::period::Period,
) -> rpo::Facts {
    let mut witnesses: Vec<Witness> = heard.into_iter().collect();
    let Some(survey) = survey else {
        return rpo::Facts {
            base: None,
            replicas: vec![],
            copies,
            witnesses,
            commits: vec![],
            fresh_for,
        };
    };
    witnesses.extend(survey.witness());
    rpo::Facts {
        base: survey.listed.map(|_| survey.base.is_some()),
        replicas: survey.wal.clone(),
        copies,
        witnesses,
        commits: survey.commits.clone(),
        fresh_for,
    }
}
