//! What a repository holds of one cluster, read without any identity.
//!
//! The ledger lists every replica and reads the small signed objects: bases,
//! points, journals, histories, bundles and the newest attestations. WAL is
//! known by its names alone, which carry both positions and the time of the last
//! transaction that ended; headers are read when a target is looked for
//! ([`crate::restore`]), bytes when they are replayed.
//!
//! It decides nothing. Its facts go to [`holdfast_plan::restore`]; what could
//! not be read or was not believed is a finding and is left out of the facts. A
//! replica that could not be listed is named in them.
//!
//! Memory: about a hundred bytes for each WAL object, a few hundred for each
//! base, point and journal entry.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use holdfast_plan::restore::{
    Facts, LineageFacts, Path, ReplicaFact, TimelineFacts, WalSpan, latest_amounts, merge, restorable,
};
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::{ClusterId, Lineage, ObjectKey, Region};
use holdfast_proto::pg::{Lsn, TimelineHistory, TimelineId};
use holdfast_repository::layout::{self, BundleKind, Located, WalName};
use holdfast_repository::trust::Trust;
use holdfast_repository::{Repository, StoreError, clock, listing};

mod cover;
mod names;
mod reading;
mod report;

pub(crate) use cover::cover;
pub use names::NamedPoint;
pub(crate) use names::is_ours;
use reading::Reader;
pub use report::{Fork, PointsReport};

/// No replica could be listed.
#[derive(Debug, thiserror::Error)]
#[error("the repository's contents cannot be listed: {0}")]
pub struct LedgerError(#[from] listing::ListError);

/// One WAL object, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalObject {
    /// Its name.
    pub name: WalName,
    /// Its key.
    pub key: ObjectKey,
    /// Its size on the first replica that lists it.
    pub size: u64,
}

/// A part of a WAL object that a path reads.
#[derive(Debug, Clone)]
pub struct Piece<'a> {
    /// The object.
    pub object: &'a WalObject,
    /// First byte taken from it.
    pub from: Lsn,
    /// First byte not taken from it.
    pub to: Lsn,
}

/// How much of one timeline a replica holds by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holding {
    /// The replica.
    pub region: Region,
    /// The lineage.
    pub lineage: Lineage,
    /// The timeline.
    pub timeline: TimelineId,
    /// First and next-after-last position of each run without a hole.
    pub runs: Vec<(Lsn, Lsn)>,
}

/// The facts of one cluster.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// For the planner.
    pub facts: Facts,
    /// What each replica holds of the WAL.
    pub holdings: Vec<Holding>,
    /// What departed from what should be.
    pub findings: Vec<Finding>,
    wal: BTreeMap<(Lineage, TimelineId), Vec<WalObject>>,
}

/// A WAL object, and the replicas that list it.
type Standing = (WalObject, Vec<Region>);

/// What a listing found, before anything was read.
#[derive(Default)]
struct Listed {
    wal: BTreeMap<(Lineage, TimelineId), Vec<Standing>>,
    histories: Vec<(Lineage, TimelineId, ObjectKey)>,
    bases: Vec<(Lineage, ObjectKey, Vec<Region>)>,
    points: Vec<(Lineage, ObjectKey)>,
    frontiers: BTreeMap<Lineage, Vec<ObjectKey>>,
    journals: Vec<ObjectKey>,
    bundles: Vec<(BundleKind, ObjectKey)>,
    unlisted: BTreeMap<Region, StoreError>,
}

impl Ledger {
    /// Reads the facts of `cluster`.
    ///
    /// # Errors
    /// No replica can be listed at all.
    pub async fn load(
        repository: &Repository,
        trust: &Trust,
        cluster: &ClusterId,
    ) -> Result<Self, LedgerError> {
        let listed = Listed::of(repository, cluster).await?;
        let mut reader = Reader {
            repository,
            trust,
            findings: Vec::new(),
        };
        for (region, error) in &listed.unlisted {
            reader.findings.push(Finding {
                name: "replica-unreachable".to_owned(),
                subject: region.to_string(),
                severity: Severity::Warning,
                detail: error.explained(),
                since: clock::now(),
            });
        }

        let mut lineages: BTreeMap<Lineage, LineageFacts> = BTreeMap::new();
        let mut histories: BTreeMap<(Lineage, TimelineId), TimelineHistory> = BTreeMap::new();
        reader.histories(&listed, &mut histories).await;
        reader.bases(&listed, &mut lineages).await;
        reader.points(&listed, &mut lineages).await;
        reader.attestations(&listed, &mut lineages).await;
        let filestores = reader.journals(&listed).await;
        let bundles = reader.bundles(&listed).await;

        let timelines = timelines_of(&listed, &histories, &lineages);
        for (lineage, timeline) in timelines {
            let wal = listed
                .wal
                .get(&(lineage, timeline))
                .map(|objects| spans(objects.iter().map(|(o, _)| o)));
            let ancestors = match histories.get(&(lineage, timeline)) {
                Some(history) => Some(history.ancestors().to_vec()),
                None if timeline == TimelineId::FIRST => Some(Vec::new()),
                None => {
                    reader.findings.push(Finding {
                        name: "history-missing".to_owned(),
                        subject: format!("{cluster} {lineage} timeline {timeline}"),
                        severity: Severity::Critical,
                        detail: "The timeline's history file is on no replica that answered: nothing can be restored \
                                 along it. The agent stores it when it connects to the server."
                            .to_owned(),
                        since: clock::now(),
                    });
                    None
                }
            };
            let facts = entry(&mut lineages, lineage);
            facts.timelines.push(TimelineFacts {
                timeline,
                ancestors,
                wal: wal.unwrap_or_default(),
            });
        }

        let mut facts = Facts {
            repository: repository.id(),
            cluster: cluster.clone(),
            replicas: repository
                .replicas()
                .iter()
                .map(|r| ReplicaFact {
                    region: r.region().clone(),
                    unreachable: listed.unlisted.get(r.region()).map(StoreError::explained),
                })
                .collect(),
            lineages: lineages.into_values().collect(),
            filestores,
            bundles,
            located: Vec::new(),
        };
        reader.gap_notes(&listed, &mut facts).await;
        reader.attestations_before_gaps(&listed, &mut facts).await;
        Ok(Self {
            facts,
            holdings: holdings(repository, &listed),
            findings: reader.findings,
            wal: listed
                .wal
                .into_iter()
                .map(|(place, objects)| (place, objects.into_iter().map(|(o, _)| o).collect()))
                .collect(),
        })
    }

    /// What `holdfast points` answers.
    pub fn points(&self) -> PointsReport {
        PointsReport {
            cluster: self.facts.cluster.clone(),
            replicas: self.facts.replicas.clone(),
            restorable: restorable(&self.facts),
            forks: self.facts.lineages.iter().flat_map(Fork::of).collect(),
            points: self
                .facts
                .lineages
                .iter()
                .flat_map(|l| l.points.iter().cloned())
                .collect(),
            named: None,
            wal_objects: self.wal.values().map(Vec::len).sum(),
            holds: Vec::new(),
            amounts: latest_amounts(&self.facts),
            forecast: None,
            holdings: self.holdings.clone(),
            findings: self.findings.clone(),
        }
    }

    /// The WAL objects of one timeline, in order.
    pub fn wal(&self, lineage: Lineage, timeline: TimelineId) -> &[WalObject] {
        self.wal.get(&(lineage, timeline)).map_or(&[], Vec::as_slice)
    }

    /// The fewest objects that cover `path` from `from` to `until`, in order;
    /// they end early where there is a hole.
    pub fn cover(&self, lineage: Lineage, path: &Path, from: Lsn, until: Lsn) -> Vec<Piece<'_>> {
        let stretches: Vec<_> = path
            .stretches
            .iter()
            .map(|s| (s.timeline, s.end.unwrap_or(until), self.wal(lineage, s.timeline)))
            .collect();
        cover(&stretches, from, until)
    }
}

impl Listed {
    async fn of(repository: &Repository, cluster: &ClusterId) -> Result<Self, LedgerError> {
        let mut listed = Self::default();
        let prefixes = [
            layout::lineages(cluster),
            layout::filestores(cluster),
            layout::bundles(cluster, BundleKind::Config),
            layout::bundles(cluster, BundleKind::Secrets),
        ];
        for prefix in prefixes {
            let union = repository.list(&prefix).await?;
            listed.unlisted.extend(union.unlisted);
            for (key, presences) in union.objects {
                let regions: Vec<Region> = presences.iter().map(|p| p.region.clone()).collect();
                let size = presences.first().map_or(0, |p| p.size);
                listed.sort_in(key, size, regions);
            }
        }
        for objects in listed.wal.values_mut() {
            objects.sort_by_key(|(o, _)| (o.name.start, o.name.end));
        }
        Ok(listed)
    }

    fn sort_in(&mut self, key: ObjectKey, size: u64, regions: Vec<Region>) {
        match layout::parse(key.as_str()) {
            Some(Located::Wal { lineage, name, .. }) => {
                let objects = self.wal.entry((lineage, name.timeline)).or_default();
                objects.push((WalObject { name, key, size }, regions));
            }
            Some(Located::History {
                lineage, timeline, ..
            }) => self.histories.push((lineage, timeline, key)),
            Some(Located::Base { lineage, .. }) => self.bases.push((lineage, key, regions)),
            Some(Located::Point { lineage, .. }) => self.points.push((lineage, key)),
            Some(Located::Frontier { lineage, .. }) => self.frontiers.entry(lineage).or_default().push(key),
            Some(Located::Journal { .. }) => self.journals.push(key),
            Some(Located::Bundle { kind, .. }) => self.bundles.push((kind, key)),
            // Not ours to know: a newer version's objects, or somebody else's.
            _ => {}
        }
    }
}

fn entry(lineages: &mut BTreeMap<Lineage, LineageFacts>, lineage: Lineage) -> &mut LineageFacts {
    lineages.entry(lineage).or_insert_with(|| LineageFacts {
        lineage,
        timelines: Vec::new(),
        bases: Vec::new(),
        points: Vec::new(),
        attested: Vec::new(),
        gap_notes: Vec::new(),
    })
}

/// Every timeline that anything belongs to, ancestors included.
fn timelines_of(
    listed: &Listed,
    histories: &BTreeMap<(Lineage, TimelineId), TimelineHistory>,
    lineages: &BTreeMap<Lineage, LineageFacts>,
) -> BTreeSet<(Lineage, TimelineId)> {
    let mut all: BTreeSet<_> = listed.wal.keys().copied().collect();
    all.extend(
        listed
            .histories
            .iter()
            .map(|(lineage, timeline, _)| (*lineage, *timeline)),
    );
    for ((lineage, _), history) in histories {
        all.extend(history.ancestors().iter().map(|s| (*lineage, s.timeline)));
    }
    for (lineage, facts) in lineages {
        all.extend(facts.bases.iter().map(|b| (*lineage, b.timeline)));
    }
    all
}

fn spans<'a>(objects: impl Iterator<Item = &'a WalObject>) -> Vec<WalSpan> {
    merge(
        objects
            .map(|o| WalSpan {
                start: o.name.start,
                end: o.name.end,
                stored: o.size,
                early_commit: o.name.latest_commit,
                last_commit: o.name.latest_commit,
            })
            .collect(),
    )
}

fn holdings(repository: &Repository, listed: &Listed) -> Vec<Holding> {
    let mut holdings = Vec::new();
    for ((lineage, timeline), objects) in &listed.wal {
        for replica in repository.replicas() {
            let region = replica.region();
            if listed.unlisted.contains_key(region) {
                continue;
            }
            let own = objects
                .iter()
                .filter(|(_, regions)| regions.contains(region))
                .map(|(o, _)| o);
            holdings.push(Holding {
                region: region.clone(),
                lineage: *lineage,
                timeline: *timeline,
                runs: spans(own).into_iter().map(|s| (s.start, s.end)).collect(),
            });
        }
    }
    holdings
}
