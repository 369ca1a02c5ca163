//! INTEGRITY under damage: which objects are damaged, and whether whoever was
//! shown the damage noticed it and healed it.
//!
//! The draw is pure: the same seed and the same objects give the same damage.
//! Every kind of object that a restore reads has its turn.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_proto::Sha256Digest;
use holdfast_proto::finding::Finding;
use holdfast_proto::names::{ObjectKey, Region};
use holdfast_repository::Repository;

use crate::checks::Check;
use crate::checks::integrity::Objects;
use crate::evidence::sampling;
use crate::evidence::statement::results::{CheckClass, CheckResult};
use crate::scenario::DamageSpec;
use crate::view::{Copy, Damage, View};

/// Findings that say that a copy was not what it should be.
const NOTICED: [&str; 3] = ["object-damaged", "object-missing", "object-overwritten"];

/// Draws the objects to damage. What is gone is drawn from packs and indexes
/// alone: an object that commits something is brought back by replication, with
/// all that it needs, and not by a reader.
pub fn drawn(
    seed: Sha256Digest,
    objects: &Objects,
    spec: &DamageSpec,
    configured: &[Region],
) -> BTreeMap<Copy, Damage> {
    let wal: Vec<ObjectKey> = objects.wal.iter().map(|(key, _)| key.clone()).collect();
    let ranked = |keys: &[ObjectKey]| -> Vec<ObjectKey> {
        let keys: BTreeSet<&ObjectKey> = keys.iter().collect();
        let drawn = sampling::ranked(
            &seed,
            keys.iter().copied(),
            |key| key.as_str().as_bytes(),
            keys.len(),
        );
        drawn.into_iter().cloned().collect()
    };
    let (packs, indexes) = (ranked(&objects.packs), ranked(&objects.indexes));
    let (commits, wal) = (ranked(&objects.commits), ranked(&wal));
    let mut chosen: BTreeMap<ObjectKey, Damage> = BTreeMap::new();
    for (damage, count, from) in [
        (Damage::Gone, spec.gone, interleaved(&[&packs, &indexes])),
        (
            Damage::Flipped,
            spec.flipped,
            interleaved(&[&commits, &packs, &wal, &indexes]),
        ),
        (
            Damage::Truncated,
            spec.truncated,
            interleaved(&[&wal, &packs, &indexes, &commits]),
        ),
    ] {
        let free: Vec<ObjectKey> = from.into_iter().filter(|key| !chosen.contains_key(key)).collect();
        chosen.extend(free.into_iter().take(count).map(|key| (key, damage)));
    }
    let regions: BTreeSet<Region> = spec.regions.iter().flat_map(|r| r.of(configured)).collect();
    regions
        .iter()
        .flat_map(|region| chosen.iter().map(|(key, d)| ((region.clone(), key.clone()), *d)))
        .collect()
}

/// One of each in turn.
fn interleaved(kinds: &[&[ObjectKey]]) -> Vec<ObjectKey> {
    let longest = kinds.iter().map(|k| k.len()).max().unwrap_or(0);
    (0..longest)
        .flat_map(|n| kinds.iter().filter_map(move |kind| kind.get(n).cloned()))
        .collect()
}

/// The copies of `served` that no finding names.
fn unnoticed<'a>(served: impl Iterator<Item = &'a Copy>, findings: &[Finding]) -> Vec<&'a Copy> {
    let named: BTreeSet<&str> = findings
        .iter()
        .filter(|f| NOTICED.contains(&f.name.as_str()))
        .map(|f| f.subject.as_str())
        .collect();
    served
        .filter(|(region, key)| !named.contains(format!("{region}:{key}").as_str()))
        .collect()
}

/// What became of the damage that was shown through `view`: each named by a
/// finding, each healed. `real` is the repository as it is.
pub async fn aftermath(real: &Repository, view: &View, findings: &[Finding]) -> Vec<CheckResult> {
    let noticed = Check::mandatory("damage-noticed", CheckClass::Integrity).data_proving();
    let healed = Check::mandatory("damage-healed", CheckClass::Integrity).data_proving();
    let served = view.served();
    if served.is_empty() {
        let why = "nothing that was damaged was read: let the scenario damage more objects";
        return vec![noticed.could_not_run(&why), healed.could_not_run(&why)];
    }
    let missed = unnoticed(served.keys(), findings);
    for (region, key) in &missed {
        tracing::error!(%region, %key, "a damaged object was read and not noticed");
    }
    let mut good = 0;
    for copy in served.keys() {
        match is_healed(real, view, copy).await {
            Ok(true) => good += 1,
            Ok(false) => tracing::error!(region = %copy.0, key = %copy.1, "a damaged object was not healed"),
            Err(why) => {
                tracing::error!(region = %copy.0, key = %copy.1, %why, "whether it was healed cannot be said")
            }
        }
    }
    let kinds = |of: Damage| served.values().filter(|d| **d == of).count();
    let all = served.len();
    let found = format!(
        "{} of {all} named: {} flipped, {} truncated, {} gone",
        all - missed.len(),
        kinds(Damage::Flipped),
        kinds(Damage::Truncated),
        kinds(Damage::Gone)
    );
    vec![
        noticed.compared(missed.is_empty(), format!("{all} of {all} named"), found),
        healed.compared(
            good == all,
            format!("{all} of {all} healed"),
            format!("{good} of {all} healed"),
        ),
    ]
}

/// Whether what stands over the damage is what is really stored.
async fn is_healed(real: &Repository, view: &View, copy: &Copy) -> Result<bool, String> {
    let Some(written) = view.written(copy) else {
        return Ok(false);
    };
    let replica = real
        .replica(&copy.0)
        .ok_or_else(|| format!("there is no replica in {}", copy.0))?;
    let stored = replica.get(&copy.1).await.map_err(|e| e.explained())?;
    Ok(stored == written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::RegionChoice;
    use holdfast_proto::Timestamp;
    use holdfast_proto::finding::Severity;

    fn keys(kind: &str, n: usize) -> Vec<ObjectKey> {
        (0..n)
            .map(|i| ObjectKey::from_layout(format!("{kind}/{i}")))
            .collect()
    }

    fn objects() -> Objects {
        Objects {
            commits: keys("commit", 3),
            indexes: keys("index", 2),
            packs: keys("pack", 20),
            wal: keys("wal", 9)
                .into_iter()
                .map(|k| (k, Sha256Digest::of(b"")))
                .collect(),
        }
    }

    fn spec(regions: Vec<RegionChoice>) -> DamageSpec {
        DamageSpec {
            regions,
            flipped: 6,
            truncated: 4,
            gone: 3,
        }
    }

    #[test]
    fn every_kind_of_object_is_damaged() {
        let regions: Vec<Region> = ["a", "b"].map(|r| r.parse().unwrap()).into();
        let seed = Sha256Digest::of(b"seed");
        let damage = drawn(seed, &objects(), &spec(vec![RegionChoice::First]), &regions);
        assert_eq!(damage.len(), 13);
        assert!(damage.keys().all(|(region, _)| *region == regions[0]));
        for kind in ["commit", "index", "pack", "wal"] {
            assert!(
                damage.keys().any(|(_, key)| key.as_str().starts_with(kind)),
                "{kind}"
            );
        }
        for ((_, key), of) in &damage {
            let content = key.as_str().starts_with("pack") || key.as_str().starts_with("index");
            assert!(content || *of != Damage::Gone, "{key}");
        }
        let again = drawn(seed, &objects(), &spec(vec![RegionChoice::First]), &regions);
        assert_eq!(damage, again);
        let other = drawn(
            Sha256Digest::of(b"x"),
            &objects(),
            &spec(vec![RegionChoice::First]),
            &regions,
        );
        assert_ne!(damage, other);
        let all = drawn(seed, &objects(), &spec(vec![RegionChoice::All]), &regions);
        assert_eq!(all.len(), 26);
    }

    #[test]
    fn damage_that_no_finding_names_was_not_noticed() {
        let copy = |region: &str, key: &str| -> Copy {
            (region.parse().unwrap(), ObjectKey::from_layout(key.into()))
        };
        let finding = |name: &str, subject: &str| Finding {
            name: name.into(),
            subject: subject.into(),
            severity: Severity::Warning,
            detail: String::new(),
            since: Timestamp::from_unix_micros(0),
        };
        let served = [copy("a", "pack/1"), copy("a", "wal/1"), copy("b", "pack/1")];
        let findings = [
            finding("object-damaged", "a:pack/1"),
            finding("healed", "a:wal/1"),
            finding("object-missing", "b:pack/1"),
        ];
        assert_eq!(unnoticed(served.iter(), &findings), [&served[1]]);
        assert_eq!(unnoticed(served.iter(), &[]).len(), 3);
        assert!(unnoticed(std::iter::empty(), &[]).is_empty());
    }
}
