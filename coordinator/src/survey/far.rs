//! The far look: base backups, points, bundles, journals, attestations.
//!
//! Names are listed, only the newest records are read, and a record that was
//! read once is not read again: objects never change. Prefixes that grow with
//! every minute (attestations, points, journals) are listed whole at the first
//! look and from their end after that.

use std::collections::BTreeMap;

use holdfast_proto::Timestamp;
use holdfast_proto::envelope::Record;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::{ClusterId, FilestoreName, Lineage, ObjectKey, Region};
use holdfast_proto::record::{BaseBody, FrontierBody, JournalBody, PointBody, heard_at};
use holdfast_repository::layout::{self, BundleKind, Located};
use holdfast_repository::trust::Trust;
use holdfast_repository::{Presence, UnionListing};

use super::{Attestation, BaseSeen, PointSeen, Survey, believed};
use crate::desk::Desk;

/// How many records that do not verify are passed over.
const TRIES: usize = 4;

/// What was seen of one cluster, so that less is listed and read next time.
#[derive(Debug, Default)]
pub struct FarMemory {
    lineage: Option<Lineage>,
    bases: Stream<BaseBody>,
    points: Stream<PointBody>,
    frontiers: Stream<FrontierBody>,
    journals: BTreeMap<FilestoreName, Journal>,
}

/// A filestore's journal.
#[derive(Debug, Default)]
struct Journal {
    entries: Stream<JournalBody>,
    /// The checkpoint that counted at the last look, and when it was stored.
    checkpoint: Option<(ObjectKey, Timestamp)>,
}

/// One prefix: where to list from, and the records that were read.
#[derive(Debug)]
struct Stream<B> {
    after: Option<ObjectKey>,
    read: BTreeMap<ObjectKey, B>,
}

impl<B> Default for Stream<B> {
    fn default() -> Self {
        Self {
            after: None,
            read: BTreeMap::new(),
        }
    }
}

impl<B> Stream<B> {
    /// What is new below `prefix`, and the newest of what is not.
    async fn list(&mut self, desk: &Desk, prefix: &str) -> Result<UnionListing, String> {
        let listing = list_after(desk, prefix, self.after.as_ref()).await?;
        // A few are looked at again: the newest may not verify, and where it
        // stands may change.
        if let Some(key) = listing.objects.keys().rev().nth(TRIES) {
            self.after = Some(key.clone());
        }
        Ok(listing)
    }
}

/// Looks. What cannot be listed at all is an error and leaves the survey as it
/// was.
pub async fn look(
    memory: &mut FarMemory,
    cluster: &ClusterId,
    reported: Option<Lineage>,
    desk: &Desk,
    survey: &mut Survey,
) -> Result<(), String> {
    let trust = desk.trust().ok_or("the trust chain has not been read yet")?;
    let now = crate::desk::now();
    let mut findings = Vec::new();
    let bundles = list(desk, &layout::bundles(cluster, BundleKind::Config)).await?;
    let bundle = bundles.objects.values().filter_map(|on| stored(on)).max();
    let filestores = filestores(memory, cluster, desk, &trust, &mut findings).await?;
    let lineage = match reported {
        Some(lineage) => Some(lineage),
        None => newest_lineage(cluster, desk).await?,
    };
    let (mut bases, mut base, mut point, mut attestation) = (0, None, None, None);
    if memory.lineage != lineage {
        memory.lineage = lineage;
        memory.bases = Stream::default();
        memory.points = Stream::default();
        memory.frontiers = Stream::default();
    }
    if let Some(lineage) = lineage {
        let listed = list(desk, &layout::bases(cluster, lineage)).await?;
        bases = listed.objects.len() as u64;
        base = newest(&listed, &mut memory.bases.read, desk, &trust, &mut findings)
            .await
            .map(|(body, on)| BaseSeen {
                id: body.id,
                stopped: body.stopped,
                committed: stored(&on).unwrap_or(body.stopped),
                timeline: body.timeline,
                start: body.start_lsn,
                segment_size: body.segment_size,
                bytes: body.totals.bytes,
                regions: regions(&on),
            });
        let listed = memory
            .points
            .list(desk, &layout::points(cluster, lineage))
            .await?;
        point = newest(&listed, &mut memory.points.read, desk, &trust, &mut findings)
            .await
            .map(|(body, on)| PointSeen {
                id: body.id,
                at: body.at,
                regions: regions(&on),
            });
        let listed = memory
            .frontiers
            .list(desk, &layout::frontiers(cluster, lineage))
            .await?;
        attestation = newest(&listed, &mut memory.frontiers.read, desk, &trust, &mut findings)
            .await
            .map(|(body, on)| {
                let at = believed(body.at, stored(&on).unwrap_or(now));
                (at, body)
            })
            .map(|(at, body)| Attestation {
                at,
                heard: heard_at(at, body.heard_ms, body.rpo_ms),
                timeline: body.timeline,
                server_flush: body.server_flush,
                acknowledged: body.acknowledged,
                rpo_ms: body.rpo_ms,
            });
    }
    survey.listed = Some(now);
    survey.lineage = lineage;
    survey.bases = bases;
    survey.base = base;
    survey.point = point;
    survey.attestation = attestation;
    survey.bundle = bundle;
    survey.filestores = filestores;
    survey.findings = findings;
    Ok(())
}

async fn list(desk: &Desk, prefix: &str) -> Result<UnionListing, String> {
    list_after(desk, prefix, None).await
}

async fn list_after(desk: &Desk, prefix: &str, after: Option<&ObjectKey>) -> Result<UnionListing, String> {
    let listing = desk
        .repository
        .list_after(prefix, after)
        .await
        .map_err(|e| e.to_string())?;
    for (region, error) in &listing.unlisted {
        desk.note_replica(region, Err(error.explained()));
    }
    Ok(listing)
}

/// When the first copy was stored.
fn stored(on: &[Presence]) -> Option<Timestamp> {
    on.iter().map(|p| p.modified).min()
}

fn regions(on: &[Presence]) -> Vec<Region> {
    on.iter().map(|p| p.region.clone()).collect()
}

/// The newest record of a listing that verifies, with where it stands. Keys of
/// one prefix sort in the order of time.
async fn newest<B: Record + Clone + Send + Sync>(
    listing: &UnionListing,
    read: &mut BTreeMap<ObjectKey, B>,
    desk: &Desk,
    trust: &Trust,
    findings: &mut Vec<Finding>,
) -> Option<(B, Vec<Presence>)> {
    read.retain(|key, _| listing.objects.contains_key(key));
    for (key, on) in listing.objects.iter().rev().take(TRIES) {
        if let Some(body) = read.get(key) {
            return Some((body.clone(), on.clone()));
        }
        match desk.repository.read_header::<B>(key, trust).await {
            Ok((signed, met)) => {
                findings.extend(met);
                // Only the newest is asked for: older ones need not be kept.
                read.clear();
                read.insert(key.clone(), signed.header.body.clone());
                return Some((signed.header.body, on.clone()));
            }
            Err(error) => findings.push(Finding {
                name: "record-not-believed".to_owned(),
                subject: key.to_string(),
                severity: Severity::Critical,
                detail: format!("{error}. It does not count, the one before it does: find out who wrote it."),
                since: stored(on).unwrap_or_else(crate::desk::now),
            }),
        }
    }
    None
}

/// Each filestore and when its newest checkpoint was stored.
async fn filestores(
    memory: &mut FarMemory,
    cluster: &ClusterId,
    desk: &Desk,
    trust: &Trust,
    findings: &mut Vec<Finding>,
) -> Result<BTreeMap<String, Option<Timestamp>>, String> {
    let mut out = BTreeMap::new();
    let children = desk
        .repository
        .children(&layout::filestores(cluster))
        .await
        .map_err(|e| e.to_string())?;
    for name in children.names {
        let Ok(filestore) = name.parse::<FilestoreName>() else {
            continue;
        };
        let journal = memory.journals.entry(filestore.clone()).or_default();
        let prefix = layout::journals(cluster, &filestore);
        let listed = journal.entries.list(desk, &prefix).await?;
        let entry = newest(&listed, &mut journal.entries.read, desk, trust, findings).await;
        if let Some((body, _)) = entry {
            let key = layout::journal(cluster, &filestore, body.checkpoint);
            if journal.checkpoint.as_ref().is_none_or(|(known, _)| *known != key) {
                let at = listed.objects.get(&key).and_then(|on| stored(on));
                journal.checkpoint = at.map(|at| (key, at));
            }
        }
        let checkpoint = journal.checkpoint.as_ref().map(|(_, at)| *at);
        out.insert(name, checkpoint);
    }
    Ok(out)
}

/// The lineage that was written last, for a cluster whose agent is silent.
async fn newest_lineage(cluster: &ClusterId, desk: &Desk) -> Result<Option<Lineage>, String> {
    let children = desk
        .repository
        .children(&layout::lineages(cluster))
        .await
        .map_err(|e| e.to_string())?;
    let lineages: Vec<Lineage> = children
        .names
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect();
    if let [only] = lineages[..] {
        return Ok(Some(only));
    }
    let mut best: Option<(Timestamp, Lineage)> = None;
    for lineage in lineages {
        let frontiers = list(desk, &layout::frontiers(cluster, lineage)).await?;
        let bases = list(desk, &layout::bases(cluster, lineage)).await?;
        let last = frontiers.keys().chain(bases.keys()).filter_map(written).max();
        best = best.max(last.map(|at| (at, lineage)));
    }
    Ok(best.map(|(_, lineage)| lineage))
}

/// The moment in an object's name.
fn written(key: &ObjectKey) -> Option<Timestamp> {
    match layout::parse(key.as_str())? {
        Located::Frontier { at, .. } => Some(at),
        Located::Base { id, .. } => Some(id.made_at()),
        _ => None,
    }
}
