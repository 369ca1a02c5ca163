//! Scrubbing: looks at every copy of every object of a cluster.
//!
//! Without depth it lists, knows every key, checks that each object is on every
//! replica with the same size, verifies the signatures of all records but WAL, and
//! follows them: everything that a base, a journal entry or a point needs must be
//! on some replica, down to the last pack. With depth it also reads WAL, packs and indexes and compares them with
//! their names and signatures. Where a store keeps versions it asks, at any
//! depth, which objects were overwritten or deleted, and says whether their
//! original is still there. It needs no identity and changes nothing: what it
//! finds is a finding with a name.

use futures::StreamExt;
use futures::stream;
use holdfast_proto::Timestamp;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::{ClusterId, ObjectKey, Region};
use serde::Serialize;

use crate::layout::{self, Located};
use crate::listing::Presence;
use crate::needs::{self, Needs};
use crate::store::Version;
use crate::trust::Trust;
use crate::{Class, Replica, Repository, StoreError};

mod census;

use census::Census;

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// Listings and small signed records.
    Records,
    /// Every byte.
    Bytes,
}

/// What was looked at and what was found.
#[derive(Debug, Clone, Serialize)]
pub struct ScrubReport {
    /// How much was read.
    pub depth: Depth,
    /// Objects, each counted once.
    pub objects: u64,
    /// Copies that were read and verified.
    pub copies_verified: u64,
    /// Bytes of all copies listed.
    pub bytes: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl ScrubReport {
    /// Whether nothing is wrong; what is only told is not.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|f| f.severity == Severity::Info)
    }
}

/// Copies that are read at the same time; each holds one object in memory.
const PARALLEL: usize = 4;

/// Looks at every copy of every object of `cluster`.
pub async fn scrub(
    repository: &Repository,
    trust: &Trust,
    cluster: &ClusterId,
    depth: Depth,
    now: Timestamp,
) -> ScrubReport {
    let mut report = ScrubReport {
        depth,
        objects: 0,
        copies_verified: 0,
        bytes: 0,
        findings: Vec::new(),
    };
    let mut listing = repository.list_stream(&layout::cluster(cluster));
    let mut work = Vec::new();
    let mut census = Census::default();
    loop {
        let next = listing.next().await;
        let over = next.is_none();
        if let Some((key, copies)) = next {
            report.objects += 1;
            report.bytes += copies.iter().map(|c| c.size).sum::<u64>();
            compare_copies(
                repository,
                &key,
                &copies,
                listing.unlisted(),
                now,
                &mut report.findings,
            );
            let located = layout::parse(key.as_str());
            if let Some(located) = &located {
                census.count(&key, located);
            }
            match located {
                Some(located) if wants_reading(&located, depth) => work.push((key, located, copies)),
                Some(_) => {}
                None => report
                    .findings
                    .push(finding("object-unknown", &key, Severity::Warning, now, || {
                        "nothing of Holdfast's has this key: find out who writes into the repository"
                            .to_owned()
                    })),
            }
        }
        if work.len() >= 64 || over {
            let batch = std::mem::take(&mut work);
            verify_batch(repository, trust, batch, now, &mut report, &mut census).await;
        }
        if over {
            break;
        }
    }
    for (region, error) in listing.unlisted() {
        report.findings.push(Finding {
            name: "replica-unreachable".into(),
            subject: region.to_string(),
            severity: Severity::Critical,
            detail: error.explained(),
            since: now,
        });
    }
    if report.objects == 0 && listing.unlisted().is_empty() {
        report.findings.push(Finding {
            name: "nothing-stored".into(),
            subject: cluster.to_string(),
            severity: Severity::Critical,
            detail: "the repository holds nothing of this cluster: check its name".to_owned(),
            since: now,
        });
    }
    let blind = !listing.unlisted().is_empty();
    report
        .findings
        .extend(census.look(repository, cluster, blind, now).await);
    for replica in repository.replicas() {
        look_for_rewritten(replica, trust, cluster, now, &mut report.findings).await;
    }
    report
}

/// Names the objects of `cluster` on `replica` whose plain reading is not what
/// was written first.
async fn look_for_rewritten(
    replica: &Replica,
    trust: &Trust,
    cluster: &ClusterId,
    now: Timestamp,
    findings: &mut Vec<Finding>,
) {
    let region = replica.region();
    let keys = match replica.rewritten(&layout::cluster(cluster)).await {
        Ok(keys) => keys,
        // A store without version listings keeps none that could be asked for.
        Err(e) if e.class() == Class::Invalid => return,
        // That it is out of reach was said already.
        Err(e) if e.class() == Class::Retry => return,
        Err(e) => {
            findings.push(Finding {
                name: "versions-unknown".into(),
                subject: region.to_string(),
                severity: Severity::Warning,
                detail: format!(
                    "It cannot be said whether objects were overwritten or deleted: {}. Allow these credentials to \
                     list versions.",
                    e.explained()
                ),
                since: now,
            });
            return;
        }
    };
    for key in keys {
        let Some(located) = layout::parse(key.as_str()) else {
            continue;
        };
        let standing = standing_versions(replica, trust, &key, &located).await;
        let detail = match standing {
            Ok(Standing::Original) => continue,
            Ok(Standing::Overwritten { version, versions }) => format!(
                "The current one of its {versions} versions is not what was written first. Version {version} is the \
                 original, and restores use it: look into the bucket's log and replace the credentials."
            ),
            Ok(Standing::Deleted { version }) => format!(
                "It was deleted; its version {version} is the original, and is still there: look into the bucket's \
                 log and replace the credentials."
            ),
            Ok(Standing::Lost { versions }) => format!(
                "It was overwritten or deleted, and none of its {versions} readable versions verifies: run `holdfast \
                 repo replicate`, and look into the bucket's log."
            ),
            Err(e) => format!("It has several versions, which cannot be read: {}", e.explained()),
        };
        findings.push(Finding {
            name: "object-overwritten".into(),
            subject: format!("{region}:{key}"),
            severity: Severity::Critical,
            detail,
            since: now,
        });
    }
}

/// How an object with several versions stands.
enum Standing {
    /// What a plain read returns is the original.
    Original,
    /// A plain read returns something else.
    Overwritten { version: String, versions: usize },
    /// A plain read returns nothing.
    Deleted { version: String },
    /// No version is one to believe.
    Lost { versions: usize },
}

async fn standing_versions(
    replica: &Replica,
    trust: &Trust,
    key: &ObjectKey,
    located: &Located,
) -> Result<Standing, StoreError> {
    let versions = replica.versions(key).await?;
    let name = |version: &Version| version.id.clone().unwrap_or_default();
    let mut original = None;
    for version in &versions {
        let bytes = replica.get_version(key, version).await?;
        if needs::verified(trust, key, located, &bytes).is_ok() {
            original = Some((version, bytes));
            break;
        }
    }
    let Some((oldest, bytes)) = original else {
        return Ok(Standing::Lost {
            versions: versions.len(),
        });
    };
    let Some(current) = versions.iter().find(|v| v.latest) else {
        return Ok(Standing::Deleted {
            version: name(oldest),
        });
    };
    let same = current.id == oldest.id
        || (current.size == oldest.size && replica.get_version(key, current).await? == bytes);
    Ok(if same {
        Standing::Original
    } else {
        Standing::Overwritten {
            version: name(oldest),
            versions: versions.len(),
        }
    })
}

fn wants_reading(located: &Located, depth: Depth) -> bool {
    let large = matches!(
        located,
        Located::Wal { .. } | Located::Pack { .. } | Located::Index { .. }
    );
    !large || depth == Depth::Bytes
}

fn finding(
    name: &str,
    key: &ObjectKey,
    severity: Severity,
    since: Timestamp,
    detail: impl FnOnce() -> String,
) -> Finding {
    Finding {
        name: name.into(),
        subject: key.to_string(),
        severity,
        detail: detail(),
        since,
    }
}

fn compare_copies(
    repository: &Repository,
    key: &ObjectKey,
    copies: &[Presence],
    unlisted: &[(Region, StoreError)],
    now: Timestamp,
    findings: &mut Vec<Finding>,
) {
    let lacking: Vec<String> = repository
        .replicas()
        .iter()
        .filter(|r| !copies.iter().any(|c| c.region == *r.region()))
        // Of a replica that could not be listed nothing is known.
        .filter(|r| !unlisted.iter().any(|(region, _)| region == r.region()))
        .map(|r| r.region().to_string())
        .collect();
    if !lacking.is_empty() {
        findings.push(finding("object-missing", key, Severity::Warning, now, || {
            format!("not in {}: run `holdfast repo replicate`", lacking.join(", "))
        }));
    }
    if copies.windows(2).any(|pair| pair[0].size != pair[1].size) {
        findings.push(finding("object-damaged", key, Severity::Critical, now, || {
            "its copies have different sizes: restores use the one that verifies".to_owned()
        }));
    }
}

async fn verify_batch(
    repository: &Repository,
    trust: &Trust,
    work: Vec<(ObjectKey, Located, Vec<Presence>)>,
    now: Timestamp,
    report: &mut ScrubReport,
    census: &mut Census,
) {
    let copies = work.iter().flat_map(|(key, located, copies)| {
        copies
            .iter()
            .filter_map(|c| repository.replica(&c.region))
            .map(move |replica| verify_copy(replica, trust, key, located))
    });
    let mut results = stream::iter(copies).buffer_unordered(PARALLEL);
    while let Some((key, region, result)) = results.next().await {
        match result {
            Ok(needs) => {
                report.copies_verified += 1;
                census.needs(key, needs);
            }
            Err(why) => {
                report
                    .findings
                    .push(finding("object-damaged", &key, Severity::Critical, now, || {
                        format!("the copy in {region} does not verify: {why}")
                    }))
            }
        }
    }
}

async fn verify_copy<'a>(
    replica: &'a Replica,
    trust: &'a Trust,
    key: &'a ObjectKey,
    located: &'a Located,
) -> (ObjectKey, String, Result<Needs, String>) {
    let result = match replica.get(key).await {
        Ok(bytes) => needs::verified(trust, key, located, &bytes),
        Err(e) => Err(e.explained()),
    };
    (key.clone(), replica.region().to_string(), result)
}
