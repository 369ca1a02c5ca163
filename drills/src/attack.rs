//! The writer's credentials, turned against the backup.
//!
//! In every region three objects that the restore needs (the base's manifest, a
//! pack, a WAL object) are overwritten and deleted with the credentials that the
//! agent has. Then the restore runs. What holds:
//!
//! - Nothing is tried whose success could not be undone: the object's verified
//!   bytes are in memory, and either the store keeps versions, or another region
//!   has the object and what is written over it are these very bytes. The only version whose deletion is
//!   asked for is one that the attack itself made.
//! - What was changed is put right at the end, by the same credentials
//!   ([`Aftermath::put_right`]), whatever the restore came to.
//!
//! **If the process dies in between**, a bucket with versions shows an object
//! that was overwritten or deleted, under which the original lies: restores use
//! that, and `holdfast verify` names it. A store without versions that let an
//! object be deleted has lost that copy; another replica has it.
//!
//! A directory refuses nothing to whoever may write into it: nothing is tried
//! there, and the check could not run.

use std::time::Duration;

use bytes::Bytes;
use holdfast_proto::Sha256Digest;
use holdfast_proto::names::{ObjectKey, Region};
use holdfast_repository::config::{ReplicaConfig, RepositoryConfig};
use holdfast_repository::store::{BackEnd, Version};
use holdfast_repository::{Replica, Repository};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode, PutOptions};

use crate::checks::Check;
use crate::checks::integrity::Objects;
use crate::evidence::sampling;
use crate::evidence::statement::results::{CheckClass, CheckResult};

/// What an intruder leaves in place of an object.
const JUNK: &[u8] = b"A drill wrote this with the agent's credentials; the original lies under it.\n";

/// How often a store is asked that does not answer, and how long in between.
const ASKED: usize = 4;
const PAUSE: Duration = Duration::from_secs(2);

/// An object under attack: its key and its verified bytes.
#[derive(Debug, Clone)]
struct Target {
    key: ObjectKey,
    bytes: Bytes,
}

/// What the attack came to in one region, counted over its objects.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    objects: usize,
    overwritten: usize,
    deleted: usize,
    versions_deleted: usize,
    originals: usize,
    keeps_versions: bool,
}

impl Tally {
    /// Whether the backup outlives whoever has the writer's credentials: the
    /// originals are read, and nothing that was done could have ended them.
    fn outlives(self) -> bool {
        let harmless = self.keeps_versions || (self.overwritten == 0 && self.deleted == 0);
        self.objects > 0 && self.originals == self.objects && self.versions_deleted == 0 && harmless
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} originals of {} read after the attack; {} overwritten, {} deleted, {} versions deleted, versions {}",
            self.originals,
            self.objects,
            self.overwritten,
            self.deleted,
            self.versions_deleted,
            if self.keeps_versions { "kept" } else { "not kept" }
        )
    }
}

/// What has to be put right.
#[derive(Debug, Default)]
pub struct Aftermath {
    changed: Vec<(Region, BackEnd, Target)>,
}

/// Attacks the backup with the credentials in `writer`, and says for each region
/// whether the backup outlives it. `real` is the repository as the drill reads it.
/// What has to be put right is in `aftermath` before it is tried: also when this
/// is dropped half way.
pub async fn strike(
    writer: &RepositoryConfig,
    real: &Repository,
    objects: &Objects,
    seed: Sha256Digest,
    aftermath: &mut Aftermath,
) -> Vec<CheckResult> {
    let mut results = Vec::new();
    for replica in real.replicas() {
        let region = replica.region();
        let check =
            Check::mandatory(format!("outlives-writer-{region}"), CheckClass::Integrity).data_proving();
        let Some(config) = writer.replicas.iter().find(|r| r.region == *region) else {
            let why = format!("the writer's configuration has no replica {region}");
            results.push(check.could_not_run(&why));
            continue;
        };
        results.push(
            match in_region(config, replica, real, objects, seed, aftermath).await {
                Ok(tally) => check.compared(
                    tally.outlives(),
                    "all originals read, nothing lost for good",
                    tally,
                ),
                Err(e) => check.could_not_run(&e),
            },
        );
    }
    results
}

async fn in_region(
    config: &ReplicaConfig,
    replica: &Replica,
    real: &Repository,
    objects: &Objects,
    seed: Sha256Digest,
    aftermath: &mut Aftermath,
) -> anyhow::Result<Tally> {
    let back = BackEnd::open(config)?;
    anyhow::ensure!(
        back.directory.is_none(),
        "{} is a directory, which refuses nothing to whoever may write into it: take a bucket with a policy",
        back.location
    );
    let mut tally = Tally {
        keeps_versions: keeps_versions(&back).await?,
        ..Tally::default()
    };
    for key in chosen(objects, seed) {
        let bytes = replica.get(&key).await?;
        let target = Target { key, bytes };
        // The reader's bytes are the original: it was verified on the way here.
        let verified = real.find(&target.key, |b| same(b, &target.bytes)).await;
        anyhow::ensure!(verified.is_ok(), "{} is damaged before the attack", target.key);
        let spared = tally.keeps_versions || stands_elsewhere(real, replica, &target).await;
        anyhow::ensure!(
            spared,
            "{} keeps no versions and holds the only good copy of {}: nothing is tried",
            back.location,
            target.key
        );
        attack(&back, replica, &target, &mut tally, aftermath).await?;
        if reads_original(replica, &target).await {
            tally.originals += 1;
        }
        tally.objects += 1;
    }
    Ok(tally)
}

/// Whether another region has the object, should this one lose it for good.
async fn stands_elsewhere(real: &Repository, replica: &Replica, target: &Target) -> bool {
    for other in real.replicas().iter().filter(|r| r.region() != replica.region()) {
        if reads_original(other, target).await {
            return true;
        }
    }
    false
}

/// Whether whoever reads from this replica alone finds the original, as restores
/// do: under what was written over it, too.
async fn reads_original(replica: &Replica, target: &Target) -> bool {
    match Repository::open_replicas(vec![replica.clone()], Vec::new()).await {
        Ok(alone) => alone
            .find(&target.key, |found| same(found, &target.bytes))
            .await
            .is_ok(),
        Err(e) => {
            tracing::warn!(region = %replica.region(), err = %e, "a replica does not open by itself");
            false
        }
    }
}

fn same(found: &Bytes, original: &Bytes) -> Result<(), String> {
    (found == original)
        .then_some(())
        .ok_or_else(|| "it is not the original".to_owned())
}

async fn keeps_versions(back: &BackEnd) -> anyhow::Result<bool> {
    match &back.history {
        Some(history) => Ok(patiently(|| history.protection()).await?.versioning == Some(true)),
        None => Ok(false),
    }
}

/// A question that is asked again when the store did not answer: a store that is
/// busy for a moment leaves no check open.
async fn patiently<T, F>(ask: impl Fn() -> F) -> object_store::Result<T>
where
    F: Future<Output = object_store::Result<T>>,
{
    for _ in 1..ASKED {
        match ask().await {
            Err(object_store::Error::Generic { .. }) => tokio::time::sleep(PAUSE).await,
            answer => return answer,
        }
    }
    ask().await
}

/// The base's manifest, a pack and a WAL object.
fn chosen(objects: &Objects, seed: Sha256Digest) -> Vec<ObjectKey> {
    let wal: Vec<ObjectKey> = objects.wal.iter().map(|(key, _)| key.clone()).collect();
    let one = |keys: &[ObjectKey]| {
        sampling::ranked(&seed, keys.iter(), |key| key.as_str().as_bytes(), 1)
            .into_iter()
            .next()
            .cloned()
    };
    objects
        .commits
        .first()
        .cloned()
        .into_iter()
        .chain(one(&objects.packs))
        .chain(one(&wal))
        .collect()
}

/// Overwrites the object, deletes the version that this made, deletes the object.
async fn attack(
    back: &BackEnd,
    replica: &Replica,
    target: &Target,
    tally: &mut Tally,
    aftermath: &mut Aftermath,
) -> anyhow::Result<()> {
    let path = Path::from(target.key.as_str());
    // Noted before anything is tried: whatever comes of it is put right.
    let region = replica.region().clone();
    aftermath.changed.push((region, back.clone(), target.clone()));
    let before = versions(back, &path, tally.keeps_versions).await?;
    let payload = match tally.keeps_versions {
        true => Bytes::from_static(JUNK),
        false => target.bytes.clone(),
    };
    let put = back
        .store
        .put_opts(&path, payload.into(), PutOptions::from(PutMode::Overwrite))
        .await;
    if put.is_ok() {
        tally.overwritten += 1;
    }
    let after = versions(back, &path, tally.keeps_versions).await?;
    let made = after.iter().find(|v| before.iter().all(|b| b.id != v.id));
    if let (Some(history), Some(id)) = (&back.history, made.and_then(|v| v.id.as_deref())) {
        // Only a version that is not the original: which the store would delete
        // as readily as any other.
        let _ = history.delete_version(&path, id).await;
        let left = versions(back, &path, true).await?;
        if !left.iter().any(|v| v.id.as_deref() == Some(id)) {
            tally.versions_deleted += 1;
        }
    }
    // A refusal comes in many forms; whether it is there says what happened.
    let _ = back.store.delete(&path).await;
    if replica.head(&target.key).await?.is_none() {
        tally.deleted += 1;
    }
    Ok(())
}

async fn versions(back: &BackEnd, path: &Path, kept: bool) -> anyhow::Result<Vec<Version>> {
    match &back.history {
        Some(history) if kept => Ok(patiently(|| history.versions(path)).await?),
        _ => Ok(Vec::new()),
    }
}

impl Aftermath {
    /// Whether there is nothing to put right.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty()
    }

    /// Puts the originals on top again where they are not, and says whether a
    /// plain read finds each.
    pub async fn put_right(self) -> CheckResult {
        let check = Check::mandatory("attack-put-right", CheckClass::Isolation);
        let all = self.changed.len();
        let mut right = 0;
        for (region, back, target) in self.changed {
            let path = Path::from(target.key.as_str());
            if !stands(&back, &path, &target.bytes).await {
                let bytes = target.bytes.clone();
                let overwrite = PutOptions::from(PutMode::Overwrite);
                if let Err(e) = back.store.put_opts(&path, bytes.into(), overwrite).await {
                    tracing::error!(%region, key = %target.key, err = %e, "the original cannot be put back");
                }
            }
            if stands(&back, &path, &target.bytes).await {
                right += 1;
            } else {
                tracing::error!(
                    %region, key = %target.key,
                    "after the attack a plain read does not find the original: run `holdfast repo replicate`"
                );
            }
        }
        check.compared(
            right == all,
            format!("{all} of {all} objects as before"),
            format!("{right} of {all} objects as before"),
        )
    }
}

async fn stands(back: &BackEnd, path: &Path, bytes: &Bytes) -> bool {
    let read = async { back.store.get(path).await?.bytes().await };
    read.await.is_ok_and(|found| found == *bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_outlives_what_cannot_be_undone_never() {
        let good = Tally {
            objects: 3,
            originals: 3,
            ..Tally::default()
        };
        assert!(good.outlives(), "everything was refused");
        let with = |change: fn(&mut Tally)| {
            let mut tally = good;
            change(&mut tally);
            tally.outlives()
        };
        assert!(!with(|t| t.overwritten = 1), "no version lies under it");
        assert!(!with(|t| t.deleted = 1));
        assert!(with(|t| {
            t.keeps_versions = true;
            t.overwritten = 3;
        }));
        assert!(!with(|t| {
            t.keeps_versions = true;
            t.versions_deleted = 1;
        }));
        assert!(!with(|t| t.originals = 2));
        assert!(!Tally::default().outlives(), "nothing was tried");
    }
}
