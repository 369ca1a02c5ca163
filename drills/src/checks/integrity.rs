//! INTEGRITY checks (level L1): the repository itself, before anything is
//! restored. Signatures of what the plan rests on, presence of every pack, a
//! drawn share of ciphertexts read and hashed again, WAL without a hole, and
//! every live epoch's key opened.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_agent::ledger::{Ledger, Piece};
use holdfast_plan::restore::{Path as WalPath, RestorePlan};
use holdfast_proto::Sha256Digest;
use holdfast_proto::envelope::{Link, Record};
use holdfast_proto::finding::Finding;
use holdfast_proto::manifest::Part;
use holdfast_proto::names::{KeyKind, ObjectKey};
use holdfast_proto::record::{BaseBody, JournalBody, WalBody};
use holdfast_repository::keyring::Keyring;
use holdfast_repository::layout::{self, Located};
use holdfast_repository::trust::Trust;
use holdfast_repository::{Repository, manifest};

use crate::checks::Check;
use crate::draw::PackSample;
use crate::evidence::sampling;
use crate::evidence::statement::results::{CheckClass, CheckResult};

/// What the checks look at.
#[derive(Debug, Clone, Copy)]
pub struct Under<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// Whom to believe.
    pub trust: &'a Trust,
    /// What opens it.
    pub keyring: &'a Keyring,
    /// What it holds.
    pub ledger: &'a Ledger,
    /// What is to be restored.
    pub plan: &'a RestorePlan,
    /// From which the sample is drawn.
    pub seed: Sha256Digest,
    /// Hundredths of all packs that are drawn.
    pub sample_percent: u64,
    /// Keys that hold secrets must open, too: the escrow identity opens all.
    pub secrets_too: bool,
}

/// What came of the checks.
#[derive(Debug, Default)]
pub struct Found {
    /// The checks.
    pub checks: Vec<CheckResult>,
    /// Copies that were damaged or missing, by object.
    pub findings: Vec<Finding>,
    /// What the restore will read.
    pub objects: Objects,
    /// The packs that were drawn, and from which.
    pub sample: PackSample,
}

/// The objects that a restore reads.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    /// Commit objects: the base's manifest and the filestores' entries.
    pub commits: Vec<ObjectKey>,
    /// Indexes.
    pub indexes: Vec<ObjectKey>,
    /// Packs and catalogues.
    pub packs: Vec<ObjectKey>,
    /// WAL objects, with the digests of the bytes that were verified.
    pub wal: Vec<(ObjectKey, Sha256Digest)>,
}

/// Runs all of them.
pub async fn run(under: Under<'_>) -> Found {
    let mut found = Found::default();
    let (signatures, parts) = signatures(under, &mut found).await;
    found.checks.push(signatures);
    let wal = wal_signatures(under, &mut found).await;
    found.checks.push(wal);
    let (present, packs) = objects_present(under, &parts, &mut found).await;
    found.checks.push(present);
    found.sample = sample(under, &packs);
    let sampled = ciphertext_sample(under, &packs, &mut found).await;
    found.checks.push(sampled);
    found.checks.push(wal_continuous(under));
    found.checks.push(keys_unwrap(under));
    let cluster = &under.plan.cluster;
    found.objects.packs = packs.keys().map(|sha256| layout::pack(cluster, sha256)).collect();
    found
}

async fn signed_parts<B: Record + Send>(
    under: Under<'_>,
    link: &Link,
    parts: impl FnOnce(B) -> Vec<Part>,
    found: &mut Found,
) -> Result<Vec<Part>, String> {
    let (signed, findings) = under
        .repository
        .read_signed::<B>(&link.key, under.trust)
        .await
        .map_err(|e| e.to_string())?;
    found.findings.extend(findings);
    found.objects.commits.push(link.key.clone());
    if signed.sha256 != link.sha256 {
        return Err(format!("{} is not the object that the plan saw", link.key));
    }
    Ok(parts(signed.header.body))
}

/// The manifest and the filestores' entries verify. Also gives their parts.
async fn signatures(under: Under<'_>, found: &mut Found) -> (CheckResult, Vec<Part>) {
    let check = Check::mandatory("signatures", CheckClass::Integrity);
    let steps: Vec<&Link> = under
        .plan
        .filestores
        .iter()
        .flat_map(|f| f.entries.iter().map(|step| &step.link))
        .collect();
    let expected = 1 + steps.len();
    let (mut parts, mut verified) = (Vec::new(), 0);
    let base = signed_parts::<BaseBody>(under, &under.plan.base.link, |b| b.parts, found).await;
    let mut outcomes = vec![base];
    for step in steps {
        outcomes.push(signed_parts::<JournalBody>(under, step, |j| j.parts, found).await);
    }
    for outcome in outcomes {
        match outcome {
            Ok(these) => {
                verified += 1;
                parts.extend(these);
            }
            Err(why) => tracing::error!(err = %why, "a signed object does not verify"),
        }
    }
    (
        check.compared(
            verified == expected,
            format!("{expected} verified"),
            format!("{verified} verified"),
        ),
        parts,
    )
}

/// Every pack that the indexes name is listed. Also gives the packs' sizes.
async fn objects_present(
    under: Under<'_>,
    parts: &[Part],
    found: &mut Found,
) -> (CheckResult, BTreeMap<Sha256Digest, u64>) {
    let check = Check::mandatory("objects-present", CheckClass::Integrity);
    match wanted_and_listed(under, parts, found).await {
        Ok((wanted, listed)) => {
            let missing = wanted.keys().filter(|pack| !listed.contains(pack)).count();
            let actual = format!("{} of {} listed", wanted.len() - missing, wanted.len());
            let expected = format!("{} of {} listed", wanted.len(), wanted.len());
            (check.compared(missing == 0, expected, actual), wanted)
        }
        Err(e) => (check.could_not_run(&e), BTreeMap::new()),
    }
}

async fn wanted_and_listed(
    under: Under<'_>,
    parts: &[Part],
    found: &mut Found,
) -> anyhow::Result<(BTreeMap<Sha256Digest, u64>, BTreeSet<Sha256Digest>)> {
    let cluster = &under.plan.cluster;
    let mut wanted = BTreeMap::new();
    for part in parts {
        let key = layout::index(cluster, &part.index.sha256);
        let fetched = under
            .repository
            .fetch(&key, &part.index.sha256, part.index.size)
            .await?;
        found.findings.extend(fetched.findings);
        found.objects.indexes.push(key);
        for pack in manifest::read_index(&fetched.bytes, part)?.packs {
            wanted.insert(pack.sha256, pack.size);
        }
        wanted.insert(part.catalogue.sha256, part.catalogue.size);
    }
    let mut listed = BTreeSet::new();
    let mut stream = under.repository.list_stream(&layout::packs(cluster));
    while let Some((key, _)) = stream.next().await {
        if let Some(Located::Pack { sha256, .. }) = layout::parse(key.as_str()) {
            listed.insert(sha256);
        }
    }
    Ok((wanted, listed))
}

/// Draws the scenario's share of the packs, as it was announced.
fn sample(under: Under<'_>, packs: &BTreeMap<Sha256Digest, u64>) -> PackSample {
    let population: Vec<Sha256Digest> = packs.keys().copied().collect();
    let share = sampling::share(population.len() as u64, under.sample_percent);
    let drawn = usize::try_from(share).unwrap_or(population.len());
    PackSample {
        drawn: sampling::files(&under.seed, &population, drawn),
        population,
    }
}

/// The packs drawn are read whole and hashed.
async fn ciphertext_sample(
    under: Under<'_>,
    packs: &BTreeMap<Sha256Digest, u64>,
    found: &mut Found,
) -> CheckResult {
    let check = Check::mandatory("ciphertext-sample", CheckClass::Integrity).data_proving();
    let drawn = found.sample.drawn.clone();
    let mut equal = 0;
    for sha256 in &drawn {
        let key = layout::pack(&under.plan.cluster, sha256);
        let Some(size) = packs.get(sha256) else { continue };
        match under.repository.fetch(&key, sha256, *size).await {
            Ok(fetched) => {
                equal += 1;
                found.findings.extend(fetched.findings);
            }
            Err(e) => tracing::error!(%key, err = %e, "a drawn pack cannot be read"),
        }
    }
    let all = format!("{} of {} equal", drawn.len(), drawn.len());
    let actual = format!("{equal} of {} equal, drawn from {}", drawn.len(), packs.len());
    check.compared(equal == drawn.len() && !drawn.is_empty(), all, actual)
}

/// The fewest WAL objects that the replay needs, in order.
fn wal_pieces(under: Under<'_>) -> Vec<Piece<'_>> {
    let replay = &under.plan.replay;
    let path = WalPath {
        timeline: replay.timeline,
        stretches: replay.stretches.clone(),
        wal: Vec::new(),
    };
    under
        .ledger
        .cover(under.plan.lineage, &path, replay.from, replay.frontier)
}

/// Every WAL object that the replay needs is read whole and verifies.
async fn wal_signatures(under: Under<'_>, found: &mut Found) -> CheckResult {
    let check = Check::mandatory("wal-signatures", CheckClass::Integrity);
    let pieces = wal_pieces(under);
    for piece in &pieces {
        match under
            .repository
            .read_signed::<WalBody>(&piece.object.key, under.trust)
            .await
        {
            Ok((signed, findings)) => {
                found.objects.wal.push((piece.object.key.clone(), signed.sha256));
                found.findings.extend(findings);
            }
            Err(e) => tracing::error!(key = %piece.object.key, err = %e, "a WAL object does not verify"),
        }
    }
    let (expected, actual) = (pieces.len(), found.objects.wal.len());
    check.compared(
        expected == actual,
        format!("{expected} verified"),
        format!("{actual} verified"),
    )
}

/// From where replay begins to where it ends there is no hole.
fn wal_continuous(under: Under<'_>) -> CheckResult {
    let check = Check::mandatory("wal-continuous", CheckClass::Integrity);
    let replay = &under.plan.replay;
    let pieces = wal_pieces(under);
    let mut at = replay.from;
    for piece in &pieces {
        if piece.from == at {
            at = piece.to;
        }
    }
    let expected = format!("{} to {}", replay.from, replay.frontier);
    check.compared(
        at == replay.frontier,
        expected,
        format!("{} to {at}", replay.from),
    )
}

/// Every epoch key of the cluster that this identity is meant for opens.
fn keys_unwrap(under: Under<'_>) -> CheckResult {
    let check = Check::mandatory("keys-unwrap", CheckClass::Integrity);
    let closed = under
        .keyring
        .closed()
        .filter(|(_, key)| key.kind == KeyKind::Data || under.secrets_too)
        .count();
    let open = under.keyring.len();
    let actual = format!("{open} open, {closed} closed");
    check.compared(
        closed == 0 && open > 0,
        format!("{} open, 0 closed", open + closed),
        actual,
    )
}
