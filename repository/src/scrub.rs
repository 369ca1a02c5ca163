//! Scrubbing: looks at every copy of every object of a cluster.
//!
//! Without depth it lists, knows every key, checks that each object is on every
//! replica with the same size, and verifies the signatures of all records but
//! WAL. With depth it also reads WAL, packs and indexes and compares them with
//! their names and signatures. It needs no identity and changes nothing: what
//! it finds is a finding with a name.

use futures::StreamExt;
use futures::stream;
use holdfast_proto::Timestamp;
use holdfast_proto::envelope::Record;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::{ClusterId, ObjectKey};
use holdfast_proto::record::{
    BaseBody, BundleBody, FrontierBody, HistoryBody, InflightBody, JournalBody, KeyBody, LeaseBody,
    PointBody, WalBody,
};
use serde::Serialize;

use crate::layout::{self, Located};
use crate::listing::Presence;
use crate::signed;
use crate::trust::Trust;
use crate::{Replica, Repository};

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
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
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
    loop {
        let next = listing.next().await;
        let over = next.is_none();
        if let Some((key, copies)) = next {
            report.objects += 1;
            report.bytes += copies.iter().map(|c| c.size).sum::<u64>();
            compare_copies(repository, &key, &copies, now, &mut report.findings);
            match layout::parse(key.as_str()) {
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
            verify_batch(repository, trust, std::mem::take(&mut work), now, &mut report).await;
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
    report
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
    now: Timestamp,
    findings: &mut Vec<Finding>,
) {
    let lacking: Vec<String> = repository
        .replicas()
        .iter()
        .filter(|r| !copies.iter().any(|c| c.region == *r.region()))
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
            Ok(()) => report.copies_verified += 1,
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
) -> (ObjectKey, String, Result<(), String>) {
    let result = match located {
        Located::Pack { sha256, .. } | Located::Index { sha256, .. } => match replica.digest(key).await {
            Ok(found) if found == *sha256 => Ok(()),
            Ok(found) => Err(format!("its bytes have the SHA-256 {found}")),
            Err(e) => Err(e.explained()),
        },
        Located::Key { .. } => signed_copy::<KeyBody>(replica, trust, key).await,
        Located::Lease { .. } => signed_copy::<LeaseBody>(replica, trust, key).await,
        Located::Inflight { .. } => signed_copy::<InflightBody>(replica, trust, key).await,
        Located::Journal { .. } => signed_copy::<JournalBody>(replica, trust, key).await,
        Located::Bundle { .. } => signed_copy::<BundleBody>(replica, trust, key).await,
        Located::Wal { .. } => signed_copy::<WalBody>(replica, trust, key).await,
        Located::History { .. } => signed_copy::<HistoryBody>(replica, trust, key).await,
        Located::Frontier { .. } => signed_copy::<FrontierBody>(replica, trust, key).await,
        Located::Base { .. } => signed_copy::<BaseBody>(replica, trust, key).await,
        Located::Point { .. } => signed_copy::<PointBody>(replica, trust, key).await,
        _ => Ok(()),
    };
    (key.clone(), replica.region().to_string(), result)
}

async fn signed_copy<B: Record>(replica: &Replica, trust: &Trust, key: &ObjectKey) -> Result<(), String> {
    let bytes = replica.get(key).await.map_err(|e| e.explained())?;
    signed::verify::<B>(&bytes, key, trust)
        .map(drop)
        .map_err(|e| e.to_string())
}
