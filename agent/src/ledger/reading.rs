//! Reads and verifies the small signed objects.

use std::collections::BTreeMap;

use futures::StreamExt;
use holdfast_plan::drills::BaseKind;
use holdfast_plan::restore::{
    Attestation, BaseFact, BundleFact, Facts, FilestoreFacts, GapNote, JournalFact, LineageFacts, LineageGap,
    PointFact, restorable,
};
use holdfast_proto::envelope::Record;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::{FilestoreName, Lineage, ObjectKey};
use holdfast_proto::pg::{TimelineHistory, TimelineId};
use holdfast_proto::record::{
    BaseBody, BundleBody, ChangeDetection, FrontierBody, HistoryBody, JournalBody, PointBody, WalBody,
};
use holdfast_repository::layout::{self, Located};
use holdfast_repository::signed::{self, Signed};
use holdfast_repository::trust::Trust;
use holdfast_repository::{Repository, clock};

use super::{Listed, entry};

/// Signed objects read at the same time.
const READERS: usize = 16;
/// Attestations read of each lineage, from the newest on.
const ATTESTATIONS: usize = 4;
/// Holes whose cause is read, from the newest on.
const GAPS: usize = 64;

pub(super) struct Reader<'a> {
    pub(super) repository: &'a Repository,
    pub(super) trust: &'a Trust,
    pub(super) findings: Vec<Finding>,
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

    pub(super) async fn histories(
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

    /// Reads what was said about each hole by who stored the WAL behind it.
    pub(super) async fn gap_notes(&mut self, listed: &Listed, facts: &mut Facts) {
        let mut gaps = restorable(facts).gaps;
        gaps.drain(..gaps.len().saturating_sub(GAPS));
        for LineageGap { lineage, gap, .. } in gaps {
            let behind = listed.wal.range((lineage, gap.timeline)..);
            let keys = behind
                .take_while(|((of, _), _)| *of == lineage)
                .flat_map(|(_, objects)| objects)
                .filter(|(object, _)| object.name.start == gap.to)
                .map(|(object, _)| object.key.clone());
            let read = self.read::<WalBody>(keys.collect()).await;
            let Some(of) = facts.lineages.iter_mut().find(|l| l.lineage == lineage) else {
                continue;
            };
            for body in read.iter().map(|object| &object.header.body) {
                of.gap_notes.extend(body.after_gap.map(|said| GapNote {
                    timeline: body.timeline,
                    to: body.start,
                    said,
                }));
                // A name has the time of the last transaction in it, which for merged WAL is
                // long behind the hole.
                let spans = of.timelines.iter_mut().filter(|t| t.timeline == body.timeline);
                for span in spans
                    .flat_map(|t| &mut t.wal)
                    .filter(|span| span.start == body.start)
                {
                    span.early_commit = span
                        .early_commit
                        .into_iter()
                        .chain(body.first_commit.map(|c| c.time))
                        .min();
                }
            }
        }
    }

    /// Reads what was last attested in front of each hole: until then nothing more had
    /// been committed. Attestations are named by their time, and positions grow with it, so
    /// a dozen or two are read for a hole, however many there are.
    pub(super) async fn attestations_before_gaps(&mut self, listed: &Listed, facts: &mut Facts) {
        let mut gaps = restorable(facts).gaps;
        gaps.drain(..gaps.len().saturating_sub(GAPS));
        for LineageGap { lineage, gap, .. } in gaps {
            let Some(keys) = listed.frontiers.get(&lineage) else {
                continue;
            };
            let (mut low, mut high, mut last) = (0, keys.len(), None);
            while low < high {
                let middle = low + (high - low) / 2;
                let read = self.read::<FrontierBody>(vec![keys[middle].clone()]).await;
                let body = read.into_iter().next().map(|object| object.header.body);
                let before = |b: &FrontierBody| (b.timeline, b.acknowledged) <= (gap.timeline, gap.from);
                match body.filter(before) {
                    Some(body) => {
                        last = Some(body);
                        low = middle + 1;
                    }
                    None => high = middle,
                }
            }
            if let Some(of) = facts.lineages.iter_mut().find(|l| l.lineage == lineage) {
                let said = last.map(attestation);
                of.attested
                    .extend(said.filter(|said| !of.attested.contains(said)));
            }
        }
    }

    pub(super) async fn bases(&mut self, listed: &Listed, lineages: &mut BTreeMap<Lineage, LineageFacts>) {
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
                kind: Some(kind(body.detection)),
                pages_bad: body.pages_bad,
                tablespaces: body.tablespaces,
                totals: body.totals,
                present_on,
            });
        }
    }

    pub(super) async fn points(&mut self, listed: &Listed, lineages: &mut BTreeMap<Lineage, LineageFacts>) {
        let keys = listed.points.iter().map(|(_, key)| key.clone()).collect();
        for object in self.read::<PointBody>(keys).await {
            let link = object.link();
            let place = listed
                .points
                .iter()
                .find(|(_, key)| *key == link.key)
                .map(|(l, _)| *l);
            let referenced = !object.payload.is_empty();
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
                referenced,
            });
        }
    }

    pub(super) async fn attestations(
        &mut self,
        listed: &Listed,
        lineages: &mut BTreeMap<Lineage, LineageFacts>,
    ) {
        for (lineage, keys) in &listed.frontiers {
            let newest = keys.iter().rev().take(ATTESTATIONS).rev().cloned().collect();
            for object in self.read::<FrontierBody>(newest).await {
                let said = attestation(object.header.body);
                entry(lineages, *lineage).attested.push(said);
            }
        }
    }

    pub(super) async fn journals(&mut self, listed: &Listed) -> Vec<FilestoreFacts> {
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

    pub(super) async fn bundles(&mut self, listed: &Listed) -> Vec<BundleFact> {
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

fn attestation(body: FrontierBody) -> Attestation {
    Attestation {
        timeline: body.timeline,
        at: body.at,
        heard: body.heard(),
        server_flush: body.server_flush,
        acknowledged: body.acknowledged,
        complete_until: body.complete_until,
        filestores: body.filestores,
    }
}

/// How much of the data directory a backup stored anew.
fn kind(detection: ChangeDetection) -> BaseKind {
    match detection {
        ChangeDetection::Full => BaseKind::Full,
        ChangeDetection::CompareIds | ChangeDetection::WalReferences | ChangeDetection::WalSummaries => {
            BaseKind::Incremental
        }
    }
}
