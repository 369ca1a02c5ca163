//! Replication: bringing to one replica what another one has.
//!
//! Works from listings alone, needs no key, and can be stopped and repeated at
//! any time. Everything is verified before it is copied: packs and indexes by
//! the digest in their name, all else by signature. Order, on each replica:
//!
//! 1. trust records and key objects;
//! 2. packs and indexes;
//! 3. timelines' histories and WAL, in order; bundles, leases, attestations;
//! 4. commit points (journal entries, base backups, points), each only when all
//!    that it needs was seen on that replica.
//!
//! So a commit point that stands on a replica can be restored from that replica
//! alone, also while this runs and after it was killed. What cannot be copied
//! is a finding and keeps back the commit points that need it, nothing else.
//!
//! Memory: a few objects under way, and 32 bytes for each pack of the cluster
//! and replica.
//!
//! It does not compare copies that are on both sides (that is scrubbing), does
//! not delete, and does not copy objects whose keys it does not know.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::manifest::Part;
use holdfast_proto::names::{ClusterId, KeyKind, Lineage, ObjectKey, Region};
use holdfast_proto::{Fingerprint, Sha256Digest};

use crate::layout::{self, BundleKind, Located};
use crate::listing::{ListError, Presence};
use crate::manifest::read_index;
use crate::needs::{self, Needs};
use crate::replica::{Replica, explained};
use crate::trust::Trust;
use crate::{Repository, clock};

/// Objects under way at once.
const AT_ONCE: usize = 4;

/// What was copied to one replica.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Objects.
    pub objects: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What a run of replication did.
#[derive(Debug, Clone, Default)]
pub struct Replicated {
    /// What each replica got.
    pub copied: BTreeMap<Region, Copied>,
    /// What could not be done, or was wrong with a copy.
    pub findings: Vec<Finding>,
}

impl Replicated {
    /// Whether every listed replica now has what any of them has.
    pub fn is_complete(&self) -> bool {
        self.findings.is_empty()
    }

    /// Objects copied to all replicas together.
    pub fn objects(&self) -> u64 {
        self.copied.values().map(|c| c.objects).sum()
    }
}

/// Copies what one replica of `cluster` lacks from another.
pub async fn replicate_cluster(
    repository: &Repository,
    cluster: &ClusterId,
    trust: &Trust,
) -> Result<Replicated, ListError> {
    let run = Run {
        repository,
        cluster,
        trust,
        state: Mutex::default(),
    };
    run.below(&layout::trusts()).await;
    run.below(&layout::authorities()).await;
    for kind in [KeyKind::Data, KeyKind::Secrets, KeyKind::Index] {
        run.below(&layout::keys(cluster, kind)).await;
    }
    run.below(&layout::packs(cluster)).await;
    run.below(&layout::indexes(cluster)).await;
    run.below(&layout::leases(cluster)).await;
    run.below(&layout::inflights(cluster)).await;
    for kind in [BundleKind::Config, BundleKind::Secrets] {
        run.below(&layout::bundles(cluster, kind)).await;
    }
    let lineages = repository.children(&layout::lineages(cluster)).await?;
    let lineages: Vec<Lineage> = lineages
        .names
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect();
    for lineage in &lineages {
        run.below(&layout::wal_of(cluster, *lineage)).await;
        run.below(&layout::frontiers(cluster, *lineage)).await;
    }
    run.below(&layout::filestores(cluster)).await;
    for lineage in &lineages {
        run.below(&layout::bases(cluster, *lineage)).await;
    }
    for lineage in &lineages {
        run.below(&layout::points(cluster, *lineage)).await;
    }
    Ok(run
        .state
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .report)
}

#[derive(Debug, Default)]
struct State {
    report: Replicated,
    /// SHA-256 of packs and indexes that were seen on, or copied to, a replica.
    content: HashMap<Region, HashSet<Sha256Digest>>,
    /// Fingerprints of keys whose key object was.
    keys: HashMap<Region, HashSet<Fingerprint>>,
}

struct Run<'a> {
    repository: &'a Repository,
    cluster: &'a ClusterId,
    trust: &'a Trust,
    state: Mutex<State>,
}

impl Run<'_> {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finding(&self, name: &str, region: &Region, key: &ObjectKey, detail: String) {
        self.state().report.findings.push(Finding {
            name: name.to_owned(),
            subject: format!("{region}:{key}"),
            severity: Severity::Warning,
            detail,
            since: clock::now(),
        });
    }

    /// Copies everything below `prefix` that some replica lacks. Commit points
    /// go one after another in the order of their keys, the rest in parallel.
    async fn below(&self, prefix: &str) {
        let mut listing = self.repository.list_stream(prefix);
        let mut under_way = FuturesUnordered::new();
        while let Some((key, on)) = listing.next().await {
            let Some(located) = layout::parse(key.as_str()) else {
                if let Some(presence) = on.first() {
                    let detail =
                        "The object's key is none that this version knows: it was not copied.".to_owned();
                    self.finding("unknown-object", &presence.region, &key, detail);
                }
                continue;
            };
            for presence in &on {
                self.seen(&presence.region, &located);
            }
            let unknown: Vec<&Region> = listing.unlisted().iter().map(|(region, _)| region).collect();
            let lacking: Vec<Replica> = self
                .repository
                .replicas()
                .iter()
                .filter(|r| !unknown.contains(&r.region()) && on.iter().all(|p| p.region != *r.region()))
                .cloned()
                .collect();
            if lacking.is_empty() {
                continue;
            }
            let most = if in_order(&located) { 1 } else { AT_ONCE };
            while under_way.len() >= most {
                under_way.next().await;
            }
            under_way.push(self.copy(key, located, on, lacking));
        }
        while under_way.next().await.is_some() {}
        for (region, error) in listing.unlisted() {
            let finding = crate::listing::unreachable(region, error, clock::now());
            let findings = &mut self.state().report.findings;
            if !findings
                .iter()
                .any(|f| f.name == finding.name && f.subject == finding.subject)
            {
                findings.push(finding);
            }
        }
    }

    fn seen(&self, region: &Region, located: &Located) {
        let mut state = self.state();
        match located {
            Located::Pack { sha256, .. } | Located::Index { sha256, .. } => {
                state.content.entry(region.clone()).or_default().insert(*sha256);
            }
            Located::Key { fingerprint, .. } => {
                state.keys.entry(region.clone()).or_default().insert(*fingerprint);
            }
            _ => {}
        }
    }

    async fn copy(&self, key: ObjectKey, located: Located, on: Vec<Presence>, lacking: Vec<Replica>) {
        let Some((bytes, needs)) = self.good_copy(&key, &located, &on).await else {
            return;
        };
        for target in lacking {
            if let Some(missing) = self.missing(&target, &needs).await {
                let detail = format!("It was not copied to {}, which lacks {missing}.", target.region());
                self.finding("replica-behind", target.region(), &key, detail);
                continue;
            }
            match target.create(&key, bytes.clone()).await {
                Ok(_) => {
                    self.seen(target.region(), &located);
                    let mut state = self.state();
                    let copied = state.report.copied.entry(target.region().clone()).or_default();
                    copied.objects += 1;
                    copied.bytes += bytes.len() as u64;
                }
                Err(error) => {
                    let detail = format!("It could not be copied: {}", explained(&error));
                    self.finding("replica-behind", target.region(), &key, detail);
                }
            }
        }
    }

    /// The first copy that verifies, and what it needs.
    async fn good_copy(&self, key: &ObjectKey, located: &Located, on: &[Presence]) -> Option<(Bytes, Needs)> {
        for presence in on {
            let Some(replica) = self.repository.replica(&presence.region) else {
                continue;
            };
            let refused = match replica.get(key).await {
                Ok(bytes) => match needs::verified(self.trust, key, located, &bytes) {
                    Ok(needs) => return Some((bytes, needs)),
                    Err(why) => why,
                },
                Err(error) => explained(&error),
            };
            let detail = format!("The copy was not used for replication: {refused}.");
            self.finding("object-damaged", &presence.region, key, detail);
        }
        // Perhaps an older version is good.
        let found = self
            .repository
            .find(key, |bytes| needs::verified(self.trust, key, located, bytes))
            .await
            .ok()?;
        Some((found.bytes, found.value))
    }

    /// Something that `needs` names and `target` lacks.
    async fn missing(&self, target: &Replica, needs: &Needs) -> Option<String> {
        let region = target.region();
        if let Some(key) = needs.keys.iter().find(|k| !self.has_key(region, k)) {
            return Some(format!("key object {}", key.short()));
        }
        for key in &needs.objects {
            match target.head(key).await {
                Ok(Some(_)) => {}
                Ok(None) => return Some(key.to_string()),
                Err(error) => return Some(format!("{key} perhaps ({})", explained(&error))),
            }
        }
        for part in &needs.parts {
            if let Some(missing) = self.missing_of_part(region, part).await {
                return Some(missing);
            }
        }
        None
    }

    async fn missing_of_part(&self, region: &Region, part: &Part) -> Option<String> {
        let (index, catalogue) = (&part.index, &part.catalogue);
        for (what, sha256) in [("index", index.sha256), ("catalogue", catalogue.sha256)] {
            if !self.has_content(region, &sha256) {
                return Some(format!("{what} {}", sha256.short()));
            }
        }
        if !self.has_key(region, &part.sealed_to) {
            return Some(format!("key object {}", part.sealed_to.short()));
        }
        let key = layout::index(self.cluster, &index.sha256);
        let clear = match self.repository.fetch(&key, &index.sha256, index.size).await {
            Ok(fetched) => read_index(&fetched.bytes, part).map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match clear {
            Err(why) => Some(format!("a readable index {} ({why})", index.sha256.short())),
            Ok(clear) => clear.packs.iter().find_map(|pack| {
                if !self.has_content(region, &pack.sha256) {
                    Some(format!("pack {}", pack.sha256.short()))
                } else if !self.has_key(region, &pack.sealed_to) {
                    Some(format!("key object {}", pack.sealed_to.short()))
                } else {
                    None
                }
            }),
        }
    }

    fn has_key(&self, region: &Region, fingerprint: &Fingerprint) -> bool {
        self.state()
            .keys
            .get(region)
            .is_some_and(|keys| keys.contains(fingerprint))
    }

    fn has_content(&self, region: &Region, sha256: &Sha256Digest) -> bool {
        self.state()
            .content
            .get(region)
            .is_some_and(|content| content.contains(sha256))
    }
}

/// Whether an object may go to a replica only after the one before it.
fn in_order(located: &Located) -> bool {
    matches!(
        located,
        Located::Trust { .. }
            | Located::Authority { .. }
            | Located::Journal { .. }
            | Located::Base { .. }
            | Located::Point { .. }
            | Located::History { .. }
    )
}
