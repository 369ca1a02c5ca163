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
use std::fmt;

use futures::StreamExt;
use serde::Serialize;

use holdfast_plan::restore::{
    Attestation, BaseFact, BundleFact, Facts, FilestoreFacts, JournalFact, LineageFacts, Path, PointFact,
    ReplicaFact, Restorable, TimelineFacts, WalSpan, merge, restorable,
};
use holdfast_proto::Timestamp;
use holdfast_proto::envelope::Record;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::{ClusterId, FilestoreName, Lineage, ObjectKey, Region};
use holdfast_proto::pg::{Lsn, TimelineHistory, TimelineId};
use holdfast_proto::record::{BaseBody, BundleBody, FrontierBody, HistoryBody, JournalBody, PointBody};
use holdfast_repository::layout::{self, BundleKind, Located, WalName};
use holdfast_repository::signed::{self, Signed};
use holdfast_repository::trust::Trust;
use holdfast_repository::{Repository, StoreError, clock, listing};

/// Signed objects read at the same time.
const READERS: usize = 16;
/// Attestations read of each lineage, from the newest on.
const ATTESTATIONS: usize = 4;

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

/// What a listing found, before anything was read.
#[derive(Default)]
struct Listed {
    wal: BTreeMap<(Lineage, TimelineId), Vec<(WalObject, Vec<Region>)>>,
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

        let facts = Facts {
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
            points: self
                .facts
                .lineages
                .iter()
                .flat_map(|l| l.points.iter().cloned())
                .collect(),
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

/// The fewest objects that cover `from..until`. Each stretch is a timeline's
/// objects and the position at which its child begins; a child may hold bytes of
/// its parent, because its first segment repeats them.
pub(crate) fn cover<'a>(
    stretches: &[(TimelineId, Lsn, &'a [WalObject])],
    from: Lsn,
    until: Lsn,
) -> Vec<Piece<'a>> {
    let mut next = vec![0usize; stretches.len()];
    let mut best: Vec<Option<&WalObject>> = vec![None; stretches.len()];
    let mut pieces = Vec::new();
    let mut at = from;
    while at < until {
        let owner = stretches
            .iter()
            .position(|(_, end, _)| at < *end)
            .unwrap_or(stretches.len());
        let mut chosen = None;
        for (n, (_, end, objects)) in stretches.iter().enumerate().skip(owner) {
            while let Some(object) = objects.get(next[n]).filter(|o| o.name.start <= at) {
                if best[n].is_none_or(|b| b.name.end < object.name.end) {
                    best[n] = Some(object);
                }
                next[n] += 1;
            }
            if let Some(object) = best[n].filter(|b| b.name.end > at) {
                chosen = Some((object, (*end).min(object.name.end)));
                break;
            }
        }
        let Some((object, to)) = chosen else { break };
        let to = to.min(until);
        pieces.push(Piece { object, from: at, to });
        at = to;
    }
    pieces
}

/// The answer to `holdfast points`: serialisable, and printable for people.
#[derive(Debug, Clone, Serialize)]
pub struct PointsReport {
    /// The cluster.
    pub cluster: ClusterId,
    /// Every replica, and whether it answered.
    pub replicas: Vec<ReplicaFact>,
    /// The restorable intervals and what interrupts them.
    #[serde(flatten)]
    pub restorable: Restorable,
    /// Joint points of database and filestores.
    pub points: Vec<PointFact>,
    /// What each replica holds of the WAL by itself.
    pub holdings: Vec<Holding>,
    /// What departed from what should be.
    pub findings: Vec<Finding>,
}

impl fmt::Display for PointsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.cluster)?;
        if self.restorable.intervals.is_empty() {
            writeln!(f, "  nothing can be restored")?;
        }
        for interval in &self.restorable.intervals {
            let (from, to) = (&interval.from, &interval.to);
            let time = |t: Option<Timestamp>| t.map_or_else(|| "?".to_owned(), |t| t.to_string());
            writeln!(
                f,
                "  {} to {}  lineage {} timeline {}  LSN {} to {}  {} bases, {} joint points",
                time(from.time),
                time(to.time),
                to.lineage,
                to.timeline,
                from.lsn,
                to.lsn,
                interval.bases.len(),
                interval.points.len(),
            )?;
        }
        for gap in &self.restorable.gaps {
            let bound =
                |word: &str, t: Option<Timestamp>| t.map_or_else(String::new, |t| format!(" {word} {t}"));
            writeln!(
                f,
                "  GAP     lineage {} timeline {}  LSN {} to {}{}{}: {}",
                gap.lineage,
                gap.gap.timeline,
                gap.gap.from,
                gap.gap.to,
                bound("after", gap.gap.after),
                bound("before", gap.gap.before),
                gap.cause
            )?;
        }
        for broken in &self.restorable.broken {
            writeln!(
                f,
                "  UNUSABLE base {} of lineage {}: {}",
                broken.base, broken.lineage, broken.why
            )?;
        }
        for replica in self
            .replicas
            .iter()
            .filter_map(|r| r.unreachable.as_ref().map(|why| (r, why)))
        {
            writeln!(
                f,
                "  UNKNOWN replica {} did not answer: {}",
                replica.0.region, replica.1
            )?;
        }
        for finding in self.findings.iter().filter(|n| n.name != "replica-unreachable") {
            writeln!(
                f,
                "  FINDING {} {}: {}",
                finding.name, finding.subject, finding.detail
            )?;
        }
        Ok(())
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

struct Reader<'a> {
    repository: &'a Repository,
    trust: &'a Trust,
    findings: Vec<Finding>,
}

impl Reader<'_> {
    /// Reads and verifies the objects at `keys`, in their order; one that
    /// cannot be believed is a finding and is left out.
    async fn read<B: Record>(&mut self, keys: Vec<ObjectKey>) -> Vec<Signed<B>> {
        let (repository, trust) = (self.repository, self.trust);
        let mut answers = futures::stream::iter(keys)
            .map(|key| async move {
                let found = repository
                    .find(&key, |bytes| {
                        signed::verify::<B>(bytes, &key, trust).map_err(|e| e.to_string())
                    })
                    .await;
                (key, found)
            })
            .buffered(READERS);
        let mut believed = Vec::new();
        let mut findings = Vec::new();
        while let Some((key, answer)) = answers.next().await {
            match answer {
                Ok(found) => {
                    findings.extend(found.findings);
                    believed.push(found.value);
                }
                Err(error) => findings.push(Finding {
                    name: "object-not-believed".to_owned(),
                    subject: key.to_string(),
                    severity: Severity::Critical,
                    detail: format!("{error}. It is left out of what can be restored."),
                    since: clock::now(),
                }),
            }
        }
        drop(answers);
        for finding in findings {
            let known = self
                .findings
                .iter()
                .any(|f| f.name == finding.name && f.subject == finding.subject);
            if !known {
                self.findings.push(finding);
            }
        }
        believed
    }

    async fn histories(
        &mut self,
        listed: &Listed,
        into: &mut BTreeMap<(Lineage, TimelineId), TimelineHistory>,
    ) {
        let keys = listed.histories.iter().map(|(_, _, key)| key.clone()).collect();
        for object in self.read::<HistoryBody>(keys).await {
            let Some(Located::History {
                lineage, timeline, ..
            }) = layout::parse(object.header.key.as_str())
            else {
                continue;
            };
            let text = String::from_utf8_lossy(&object.payload);
            match TimelineHistory::parse(timeline, &text) {
                Ok(history) => drop(into.insert((lineage, timeline), history)),
                Err(error) => self.findings.push(Finding {
                    name: "history-damaged".to_owned(),
                    subject: object.header.key.to_string(),
                    severity: Severity::Critical,
                    detail: error.to_string(),
                    since: clock::now(),
                }),
            }
        }
    }

    async fn bases(&mut self, listed: &Listed, lineages: &mut BTreeMap<Lineage, LineageFacts>) {
        let keys = listed.bases.iter().map(|(_, key, _)| key.clone()).collect();
        for object in self.read::<BaseBody>(keys).await {
            let link = object.link();
            let present = listed.bases.iter().find(|(_, key, _)| *key == link.key);
            let Some((lineage, _, present_on)) = present.cloned() else {
                continue;
            };
            let body = object.header.body;
            if body.lineage != lineage {
                continue;
            }
            entry(lineages, lineage).bases.push(BaseFact {
                id: body.id,
                link,
                timeline: body.timeline,
                start_lsn: body.start_lsn,
                stop_lsn: body.stop_lsn,
                started: body.started,
                stopped: body.stopped,
                version_num: body.version_num,
                segment_size: body.segment_size,
                pages_bad: body.pages_bad,
                tablespaces: body.tablespaces,
                totals: body.totals,
                present_on,
            });
        }
    }

    async fn points(&mut self, listed: &Listed, lineages: &mut BTreeMap<Lineage, LineageFacts>) {
        let keys = listed.points.iter().map(|(_, key)| key.clone()).collect();
        for object in self.read::<PointBody>(keys).await {
            let link = object.link();
            let place = listed
                .points
                .iter()
                .find(|(_, key)| *key == link.key)
                .map(|(l, _)| *l);
            let (Some(lineage), body) = (place, object.header.body) else {
                continue;
            };
            entry(lineages, lineage).points.push(PointFact {
                id: body.id,
                link,
                name: body.name,
                timeline: body.timeline,
                lsn: body.lsn,
                at: body.at,
                filestores: body.filestores,
                config: body.config,
            });
        }
    }

    async fn attestations(&mut self, listed: &Listed, lineages: &mut BTreeMap<Lineage, LineageFacts>) {
        for (lineage, keys) in &listed.frontiers {
            let newest = keys.iter().rev().take(ATTESTATIONS).rev().cloned().collect();
            for object in self.read::<FrontierBody>(newest).await {
                let body = object.header.body;
                entry(lineages, *lineage).attested.push(Attestation {
                    timeline: body.timeline,
                    at: body.at,
                    server_flush: body.server_flush,
                    acknowledged: body.acknowledged,
                });
            }
        }
    }

    async fn journals(&mut self, listed: &Listed) -> Vec<FilestoreFacts> {
        let mut stores: BTreeMap<FilestoreName, Vec<JournalFact>> = BTreeMap::new();
        for object in self.read::<JournalBody>(listed.journals.clone()).await {
            let link = object.link();
            let body = object.header.body;
            stores.entry(body.filestore).or_default().push(JournalFact {
                n: body.n,
                link,
                entry: body.entry,
                checkpoint: body.checkpoint,
                adapter: body.adapter,
                scanned_from: body.scanned_from,
                scanned_until: body.scanned_until,
                files: body.files,
                bytes: body.bytes,
                dirty: body.dirty,
                totals: body.totals,
            });
        }
        stores
            .into_iter()
            .map(|(filestore, mut entries)| {
                entries.sort_by_key(|e| e.n);
                FilestoreFacts { filestore, entries }
            })
            .collect()
    }

    async fn bundles(&mut self, listed: &Listed) -> Vec<BundleFact> {
        let keys = listed.bundles.iter().map(|(_, key)| key.clone()).collect();
        let mut bundles: Vec<_> = self
            .read::<BundleBody>(keys)
            .await
            .into_iter()
            .map(|object| {
                let link = object.link();
                BundleFact {
                    bundle: object.header.body.bundle,
                    at: object.header.body.at,
                    link,
                }
            })
            .collect();
        bundles.sort_by(|a, b| (a.at, &a.link.key).cmp(&(b.at, &b.link.key)));
        bundles
    }
}

fn entry(lineages: &mut BTreeMap<Lineage, LineageFacts>, lineage: Lineage) -> &mut LineageFacts {
    lineages.entry(lineage).or_insert_with(|| LineageFacts {
        lineage,
        timelines: Vec::new(),
        bases: Vec::new(),
        points: Vec::new(),
        attested: Vec::new(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn object(start: u64, end: u64) -> WalObject {
        let name = WalName {
            timeline: TimelineId::FIRST,
            segment: holdfast_proto::pg::SegmentNumber::new(0),
            start: Lsn::new(start),
            end: Lsn::new(end),
            latest_commit: None,
        };
        WalObject {
            name,
            key: ObjectKey::from_layout(format!("{start}-{end}")),
            size: end - start,
        }
    }

    #[test]
    fn a_childs_copy_stands_in_for_its_parents_bytes() {
        let parent = [object(0, 50), object(50, 80)];
        let child = [object(40, 60), object(60, 100)];
        let second = TimelineId::new(2).unwrap();
        let all = [
            (TimelineId::FIRST, Lsn::new(60), &parent[..]),
            (second, Lsn::new(100), &child[..]),
        ];
        let bounds = |pieces: Vec<Piece<'_>>| {
            pieces
                .iter()
                .map(|p| (p.object.name.start.get(), p.from.get(), p.to.get()))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            bounds(cover(&all, Lsn::new(0), Lsn::new(100))),
            [(0, 0, 50), (50, 50, 60), (60, 60, 100)]
        );
        let lost = [
            (TimelineId::FIRST, Lsn::new(60), &parent[..1]),
            (second, Lsn::new(100), &child[..]),
        ];
        assert_eq!(
            bounds(cover(&lost, Lsn::new(0), Lsn::new(90))),
            [(0, 0, 50), (40, 50, 60), (60, 60, 90)]
        );
    }

    proptest! {
        #[test]
        fn pieces_join_up_and_end_at_the_first_hole(
            objects in proptest::collection::vec((0u64..60, 1u64..15), 0..15),
            from in 0u64..40,
        ) {
            let mut objects: Vec<_> = objects.iter().map(|(s, l)| object(*s, s + l)).collect();
            objects.sort_by_key(|o| (o.name.start, o.name.end));
            let pieces = cover(&[(TimelineId::FIRST, Lsn::new(70), &objects)], Lsn::new(from), Lsn::new(70));
            let mut at = from;
            for piece in &pieces {
                prop_assert_eq!(piece.from.get(), at);
                prop_assert!(piece.object.name.start <= piece.from && piece.to <= piece.object.name.end);
                prop_assert!(piece.from < piece.to);
                at = piece.to.get();
            }
            let covered = |at: u64| objects.iter().any(|o| o.name.start.get() <= at && at < o.name.end.get());
            prop_assert!((from..at).all(covered));
            prop_assert!(at >= 70 || !covered(at), "it goes as far as it can");
        }
    }
}
