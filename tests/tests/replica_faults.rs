//! Replicas that fail: what a writer may believe, and what a reader gets.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::{ClusterId, ObjectKey};
use holdfast_proto::{Fingerprint, Sha256Digest, Timestamp};
use holdfast_repository::store::BackEnd;
use holdfast_repository::{
    Class, Created, Deadlines, OpenError, Replica, ReplicaConfig, Repository, RepositoryConfig, StoreError,
    layout,
};
use holdfast_tests::faulty::{Call, Fault, FaultPlan, FaultyStore};
use holdfast_tests::versioned::VersionedStore;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;

fn impatient() -> Deadlines {
    Deadlines {
        call: Duration::from_millis(1500),
        attempt: Duration::from_millis(200),
        ..Deadlines::default()
    }
}

fn cluster() -> ClusterId {
    "acme/erp".parse().expect("a name")
}

fn root() -> Fingerprint {
    Fingerprint::new([7; 32])
}

fn now() -> Timestamp {
    Timestamp::from_unix_micros(1_790_000_000_000_000)
}

/// Two replicas in memory, each with its plan.
struct Two {
    repository: Repository,
    stores: [Arc<InMemory>; 2],
    plans: [FaultPlan; 2],
}

impl Two {
    async fn new() -> Result<Self> {
        let stores = [Arc::new(InMemory::new()), Arc::new(InMemory::new())];
        let plans = [FaultPlan::seeded(1), FaultPlan::seeded(2)];
        let repository =
            Repository::init_replicas(Self::replicas(&stores, &plans), vec![], root(), now()).await?;
        Ok(Self {
            repository,
            stores,
            plans,
        })
    }

    fn replicas(stores: &[Arc<InMemory>; 2], plans: &[FaultPlan; 2]) -> Vec<Replica> {
        ["east", "west"]
            .iter()
            .zip(stores.iter().zip(plans))
            .map(|(region, (store, plan))| {
                let faulty = FaultyStore::new(store.clone(), plan.clone());
                let back = BackEnd::from_store(Arc::new(faulty));
                Replica::new(region.parse().expect("a name"), back).with_deadlines(impatient())
            })
            .collect()
    }

    async fn reopen(&self) -> Result<Repository, OpenError> {
        Repository::open_replicas(Self::replicas(&self.stores, &self.plans), vec![]).await
    }

    /// A pack on both replicas.
    async fn pack(&self, text: &str) -> Result<(ObjectKey, Sha256Digest, Bytes)> {
        let bytes = Bytes::from(text.repeat(1000));
        let sha256 = Sha256Digest::of(&bytes);
        let key = layout::pack(&cluster(), &sha256);
        for replica in self.repository.replicas() {
            replica.create(&key, bytes.clone()).await?;
        }
        Ok((key, sha256, bytes))
    }

    async fn overwrite(&self, which: usize, key: &ObjectKey, bytes: &[u8]) -> Result<()> {
        self.stores[which]
            .put(&Path::from(key.as_str()), bytes.to_vec().into())
            .await?;
        Ok(())
    }

    async fn raw(&self, which: usize, key: &ObjectKey) -> Result<Bytes> {
        Ok(self.stores[which]
            .get(&Path::from(key.as_str()))
            .await?
            .bytes()
            .await?)
    }
}

fn names(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|f| f.name.as_str()).collect()
}

async fn alone(plan: &FaultPlan) -> Result<(Replica, Arc<InMemory>)> {
    let store = Arc::new(InMemory::new());
    let faulty = FaultyStore::new(store.clone(), plan.clone());
    let back = BackEnd::from_store(Arc::new(faulty));
    Ok((
        Replica::new("east".parse()?, back).with_deadlines(impatient()),
        store,
    ))
}

#[tokio::test]
async fn a_lost_acknowledgement_is_read_back() -> Result<()> {
    let plan = FaultPlan::default().nth(1, Fault::LostAck);
    let (replica, store) = alone(&plan).await?;
    let key = layout::trust(0);
    ensure!(replica.create(&key, Bytes::from_static(b"mine")).await? == Created::Already);
    ensure!(plan.count(Call::Put) == 1, "stored once: {:?}", plan.seen());
    ensure!(store.get(&Path::from(key.as_str())).await?.bytes().await? == "mine");
    Ok(())
}

#[tokio::test]
async fn an_error_over_anothers_object_is_a_conflict() -> Result<()> {
    let plan = FaultPlan::default().nth(1, Fault::Error);
    let (replica, store) = alone(&plan).await?;
    let key = layout::trust(0);
    store.put(&Path::from(key.as_str()), "theirs".into()).await?;
    let error = replica
        .create(&key, Bytes::from_static(b"mine"))
        .await
        .expect_err("another was first");
    ensure!(error.class() == Class::Conflict, "{error}");
    ensure!(store.get(&Path::from(key.as_str())).await?.bytes().await? == "theirs");
    Ok(())
}

#[tokio::test]
async fn passing_errors_are_tried_again() -> Result<()> {
    for fault in [
        Fault::Error,
        Fault::LostAck,
        Fault::Slow(Duration::from_millis(300)),
    ] {
        for n in 1..=4 {
            let plan = FaultPlan::default().nth(n, fault);
            let (replica, store) = alone(&plan).await?;
            let key = layout::trust(0);
            replica.create(&key, Bytes::from_static(b"mine")).await?;
            ensure!(store.get(&Path::from(key.as_str())).await?.bytes().await? == "mine");
            ensure!(replica.get(&key).await? == "mine", "{fault:?} at {n}");
            ensure!(replica.list("trust/").await?.len() == 1);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_create_without_an_answer_says_that_it_may_have_happened() -> Result<()> {
    let plan = FaultPlan::default().from_nth(1, Fault::HaltAfter);
    let (replica, _) = alone(&plan).await?;
    let error = replica
        .create(&layout::trust(0), Bytes::from_static(b"mine"))
        .await
        .expect_err("nothing answers");
    ensure!(
        error.class() == Class::Retry && error.may_have_happened(),
        "{error}"
    );
    let text = error.explained();
    ensure!(
        text.contains("may have happened") && text.contains("no answer within"),
        "{text}"
    );
    Ok(())
}

#[tokio::test]
async fn refused_credentials_are_not_tried_again() -> Result<()> {
    let plan = FaultPlan::default().from_nth(1, Fault::Denied);
    let (replica, _) = alone(&plan).await?;
    let error = replica
        .create(&layout::trust(0), Bytes::from_static(b"mine"))
        .await
        .expect_err("refused");
    ensure!(error.class() == Class::Denied, "{error}");
    ensure!(plan.calls() == 1);
    Ok(())
}

#[tokio::test]
async fn a_truncated_answer_is_not_believed() -> Result<()> {
    let plan = FaultPlan::default();
    let (replica, _) = alone(&plan).await?;
    let key = layout::trust(0);
    replica.create(&key, Bytes::from_static(b"0123456789")).await?;
    plan.fail_matching(Some(Call::Get), "trust", Fault::Truncate);
    for error in [
        replica.get(&key).await.expect_err("half"),
        replica.get_range(&key, 2..8).await.expect_err("half"),
    ] {
        ensure!(error.class() == Class::Corrupt, "{error}");
    }
    plan.mend();
    // Once may be the connection's fault.
    let next = plan.count(Call::Get) as u64 + 1;
    let plan = plan.nth_of(Call::Get, next, Fault::Truncate);
    ensure!(replica.get(&key).await? == "0123456789");
    ensure!(plan.count(Call::Get) as u64 == next + 1, "read twice");
    Ok(())
}

#[tokio::test]
async fn a_listing_that_breaks_off_is_not_a_listing() -> Result<()> {
    let plan = FaultPlan::default();
    let (replica, _) = alone(&plan).await?;
    for n in 0..10 {
        replica
            .create(&layout::trust(n), Bytes::from(n.to_string()))
            .await?;
    }
    plan.fail_matching(Some(Call::List), "trust", Fault::Truncate);
    let error = replica.list("trust/").await.expect_err("only half was shown");
    ensure!(error.class() == Class::Retry, "{error}");
    Ok(())
}

#[tokio::test]
async fn one_replica_down_opens_and_says_so() -> Result<()> {
    let two = Two::new().await?;
    let (key, sha256, bytes) = two.pack("x").await?;
    two.plans[0].partition(true);
    let repository = two.reopen().await?;
    ensure!(repository.unreachable() == ["east".parse()?]);
    let fetched = repository.fetch(&key, &sha256, bytes.len() as u64).await?;
    ensure!(fetched.bytes == bytes);
    // East is known to be down: it is asked last, so not at all.
    ensure!(fetched.findings.is_empty(), "{:?}", fetched.findings);
    let listing = repository.list("tenants/").await?;
    ensure!(!listing.is_complete() && listing.unlisted[0].0 == "east".parse()?);
    ensure!(names(&listing.findings(now())) == ["replica-unreachable"]);
    ensure!(listing.objects[&key].len() == 1);
    // It comes back by itself.
    two.plans[0].partition(false);
    repository.replicas()[0]
        .create(&layout::trust(0), Bytes::from_static(b"t"))
        .await?;
    ensure!(repository.unreachable().is_empty());
    Ok(())
}

#[tokio::test]
async fn all_replicas_down_are_named() -> Result<()> {
    let two = Two::new().await?;
    let (key, sha256, bytes) = two.pack("x").await?;
    for plan in &two.plans {
        plan.partition(true);
    }
    let error = two.reopen().await.expect_err("nothing answers");
    ensure!(matches!(error, OpenError::NoneReachable(_)), "{error}");
    let text = error.to_string();
    ensure!(text.contains("east") && text.contains("west"), "{text}");

    let error = two
        .repository
        .fetch(&key, &sha256, bytes.len() as u64)
        .await
        .expect_err("nothing answers");
    ensure!(error.class() == Class::Retry, "unknown is not absent: {error}");
    let text = error.to_string();
    ensure!(text.contains("east") && text.contains("west"), "{text}");
    let error = two
        .repository
        .list("tenants/")
        .await
        .expect_err("nothing answers");
    ensure!(error.to_string().contains("east"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_replica_that_dies_while_reading_costs_one_deadline() -> Result<()> {
    let two = Two::new().await?;
    let mut packs = Vec::new();
    for text in ["a", "b", "c", "d"] {
        packs.push(two.pack(text).await?);
    }
    two.plans[0].partition(true);
    let before = two.plans[0].calls();
    let mut found = Vec::new();
    for (key, sha256, bytes) in &packs {
        let fetched = two.repository.fetch(key, sha256, bytes.len() as u64).await?;
        ensure!(fetched.bytes == *bytes);
        found.extend(fetched.findings);
    }
    ensure!(names(&found) == ["replica-unreachable"], "{found:?}");
    let first = two.plans[0].calls() - before;
    let again = two
        .repository
        .fetch(&packs[0].0, &packs[0].1, packs[0].2.len() as u64)
        .await?;
    ensure!(again.findings.is_empty() && two.plans[0].calls() - before == first);
    Ok(())
}

#[tokio::test]
async fn absent_means_that_every_replica_said_so() -> Result<()> {
    let two = Two::new().await?;
    let sha256 = Sha256Digest::of(b"never stored");
    let key = layout::pack(&cluster(), &sha256);
    let error = two.repository.fetch(&key, &sha256, 12).await.expect_err("absent");
    ensure!(error.class() == Class::NotFound, "{error}");
    two.plans[1].partition(true);
    let error = two
        .repository
        .fetch(&key, &sha256, 12)
        .await
        .expect_err("unknown");
    ensure!(error.class() == Class::Retry, "{error}");
    Ok(())
}

#[tokio::test]
async fn a_damaged_copy_is_found_and_healed() -> Result<()> {
    let two = Two::new().await?;
    for (what, damaged) in [
        ("flipped", vec![b'y'; 1000]),
        ("short", vec![b'x'; 999]),
        ("empty", vec![]),
    ] {
        let (key, sha256, bytes) = two.pack("x").await?;
        two.overwrite(0, &key, &damaged).await?;
        let size = bytes.len() as u64;
        let fetched = two.repository.fetch(&key, &sha256, size).await?;
        ensure!(
            fetched.bytes == bytes && names(&fetched.findings) == ["object-damaged"],
            "{what}"
        );
        ensure!(fetched.findings[0].subject == format!("east:{key}"));
        ensure!(
            two.raw(0, &key).await? == damaged,
            "nothing is written without being told to"
        );
        let healing = two.repository.clone().healing(true);
        let fetched = healing.fetch(&key, &sha256, size).await?;
        ensure!(names(&fetched.findings) == ["object-damaged", "healed"], "{what}");
        ensure!(two.raw(0, &key).await? == bytes);
        ensure!(
            two.repository
                .fetch(&key, &sha256, size)
                .await?
                .findings
                .is_empty()
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_missing_pack_is_healed_and_a_missing_commit_point_is_left_to_replication() -> Result<()> {
    let two = Two::new().await?;
    let healing = two.repository.clone().healing(true);
    let (key, sha256, bytes) = two.pack("x").await?;
    two.stores[0].delete(&Path::from(key.as_str())).await?;
    let fetched = healing.fetch(&key, &sha256, bytes.len() as u64).await?;
    ensure!(names(&fetched.findings) == ["object-missing", "healed"]);
    ensure!(two.raw(0, &key).await? == bytes);

    let commit = layout::journal(&cluster(), &"files".parse()?, 1);
    two.repository.replicas()[1]
        .create(&commit, Bytes::from_static(b"signed"))
        .await?;
    let found = healing
        .find(&commit, |bytes| Ok::<_, String>(bytes.len()))
        .await?;
    ensure!(found.value == 6 && names(&found.findings) == ["object-missing"]);
    ensure!(two.raw(0, &commit).await.is_err(), "its packs may not be there");
    Ok(())
}

#[tokio::test]
async fn healing_that_fails_is_said() -> Result<()> {
    let two = Two::new().await?;
    let (key, sha256, bytes) = two.pack("x").await?;
    two.overwrite(0, &key, b"bad").await?;
    two.plans[0].fail_matching(Some(Call::Put), "packs", Fault::Denied);
    let healing = two.repository.clone().healing(true);
    let fetched = healing.fetch(&key, &sha256, bytes.len() as u64).await?;
    ensure!(fetched.bytes == bytes && names(&fetched.findings) == ["object-damaged", "heal-failed"]);
    Ok(())
}

#[tokio::test]
async fn one_object_served_as_another_is_refused() -> Result<()> {
    let two = Two::new().await?;
    let (key, sha256, bytes) = two.pack("x").await?;
    let (other, ..) = two.pack("y").await?;
    two.plans[0].serve_as(key.as_str(), other.as_str());
    let fetched = two.repository.fetch(&key, &sha256, bytes.len() as u64).await?;
    ensure!(fetched.bytes == bytes && names(&fetched.findings) == ["object-damaged"]);
    two.plans[1].serve_as(key.as_str(), other.as_str());
    let error = two
        .repository
        .fetch(&key, &sha256, bytes.len() as u64)
        .await
        .expect_err("no good copy");
    ensure!(error.class() == Class::Corrupt, "{error}");
    Ok(())
}

#[tokio::test]
async fn preferred_regions_are_read_first() -> Result<()> {
    let two = Two::new().await?;
    let (key, sha256, bytes) = two.pack("x").await?;
    let size = bytes.len() as u64;
    let gets = || [two.plans[0].count(Call::Get), two.plans[1].count(Call::Get)];
    let before = gets();
    two.repository.fetch(&key, &sha256, size).await?;
    ensure!(gets() == [before[0] + 1, before[1]]);
    let west = two.repository.clone().preferring(&["west".parse()?]);
    west.fetch(&key, &sha256, size).await?;
    ensure!(gets() == [before[0] + 1, before[1] + 1]);
    let ranged = west.fetch_range(&key, 10..20, &[]).await?;
    ensure!(ranged.bytes == bytes.slice(10..20) && ranged.region == "west".parse()?);
    let ranged = west.fetch_range(&key, 10..20, &["west".parse()?]).await?;
    ensure!(ranged.region == "east".parse()?);
    Ok(())
}

#[tokio::test]
async fn an_overwritten_object_is_read_in_its_original_version() -> Result<()> {
    let store = VersionedStore::default();
    let replica = Replica::new("cloud".parse()?, store.back_end());
    let repository = Repository::init_replicas(vec![replica.clone()], vec![], root(), now()).await?;
    let key = layout::journal(&cluster(), &"files".parse()?, 1);
    replica.create(&key, Bytes::from_static(b"original")).await?;
    let any = |bytes: &Bytes| Ok::<_, String>(bytes.clone());
    ensure!(repository.find(&key, any).await?.findings.is_empty());

    // A thief with all of the writer's keys: the judge would accept it.
    store.put(&Path::from(key.as_str()), "forged".into()).await?;
    let found = repository.find(&key, any).await?;
    ensure!(found.bytes == "original", "{found:?}");
    ensure!(names(&found.findings) == ["object-overwritten", "object-damaged"]);
    ensure!(found.findings[0].severity == Severity::Critical);

    // A deletion hides it, and hides nothing.
    store.delete(key.as_str());
    let found = repository.find(&key, any).await?;
    ensure!(found.bytes == "original");
    ensure!(names(&found.findings) == ["object-overwritten", "object-missing"]);

    // Put right again, it is quiet.
    store.put(&Path::from(key.as_str()), "forged".into()).await?;
    let healing = repository.clone().healing(true);
    ensure!(names(&healing.find(&key, any).await?.findings).contains(&"healed"));
    ensure!(repository.find(&key, any).await?.findings.is_empty());

    // By digest too.
    let bytes = Bytes::from_static(b"pack");
    let sha256 = Sha256Digest::of(&bytes);
    let pack = layout::pack(&cluster(), &sha256);
    replica.create(&pack, bytes.clone()).await?;
    store.put(&Path::from(pack.as_str()), "bad".into()).await?;
    let fetched = repository.fetch(&pack, &sha256, 4).await?;
    ensure!(fetched.bytes == bytes && names(&fetched.findings)[0] == "object-overwritten");
    Ok(())
}

#[tokio::test]
async fn a_directory_that_went_away_is_not_empty_but_gone() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let config = RepositoryConfig {
        replicas: ["a", "b"]
            .iter()
            .map(|r| Ok(ReplicaConfig::directory(r.parse()?, &dir.path().join(r))))
            .collect::<Result<_>>()?,
        trust_root: None,
    };
    let repository = Repository::init(&config, root(), now()).await?;
    let bytes = Bytes::from_static(b"pack");
    let sha256 = Sha256Digest::of(&bytes);
    let key = layout::pack(&cluster(), &sha256);
    for replica in repository.replicas() {
        replica.create(&key, bytes.clone()).await?;
    }
    std::fs::rename(dir.path().join("a"), dir.path().join("unmounted"))?;
    let a = &repository.replicas()[0];
    for error in [
        a.get(&key).await.expect_err("gone"),
        a.head(&key).await.expect_err("gone"),
        a.list("tenants/").await.expect_err("gone"),
        a.children("tenants/").await.expect_err("gone"),
        a.create(&layout::trust(0), bytes.clone())
            .await
            .expect_err("gone"),
        a.replace(&key, bytes.clone()).await.expect_err("gone"),
    ] {
        ensure!(
            matches!(error, StoreError::Gone { .. }) && error.class() == Class::Retry,
            "{error}"
        );
    }
    ensure!(
        !dir.path().join("a").exists(),
        "nothing was written into the mount point"
    );
    let listing = repository.list("tenants/").await?;
    ensure!(listing.unlisted.len() == 1 && listing.objects[&key].len() == 1);
    ensure!(repository.fetch(&key, &sha256, 4).await?.bytes == bytes);
    // Opening with the directory away, and its return.
    let reopened = Repository::open(&config).await?;
    ensure!(reopened.unreachable() == ["a".parse()?]);
    std::fs::rename(dir.path().join("unmounted"), dir.path().join("a"))?;
    for replica in [a, &reopened.replicas()[0]] {
        ensure!(replica.get(&key).await? == bytes);
    }
    ensure!(reopened.unreachable().is_empty());
    Ok(())
}

#[tokio::test]
async fn listings_of_all_replicas_are_merged_in_order() -> Result<()> {
    let two = Two::new().await?;
    let [east, west] = [&two.repository.replicas()[0], &two.repository.replicas()[1]];
    for n in 0..20u64 {
        let bytes = Bytes::from(n.to_string());
        if n % 2 == 0 || n == 5 {
            east.create(&layout::trust(n), bytes.clone()).await?;
        }
        if n % 3 == 0 {
            west.create(&layout::trust(n), bytes).await?;
        }
    }
    let union = two.repository.list("trust/").await?;
    let mut stream = two.repository.list_stream("trust/");
    let mut streamed = Vec::new();
    while let Some(object) = stream.next().await {
        streamed.push(object);
    }
    ensure!(stream.unlisted().is_empty());
    ensure!(streamed == union.objects.clone().into_iter().collect::<Vec<_>>());
    ensure!(union.objects[&layout::trust(6)].len() == 2 && union.objects[&layout::trust(5)].len() == 1);
    ensure!(!union.objects.contains_key(&layout::trust(1)));
    two.plans[1].fail_matching(Some(Call::List), "trust", Fault::Truncate);
    let mut stream = two.repository.list_stream("trust/");
    while stream.next().await.is_some() {}
    ensure!(
        stream.unlisted().len() == 1,
        "half a listing is not taken for a whole one"
    );
    Ok(())
}

#[tokio::test]
async fn a_killed_create_is_there_whole_or_not_at_all() -> Result<()> {
    for (fault, stands) in [(Fault::HaltBefore, false), (Fault::HaltAfter, true)] {
        let plan = FaultPlan::default().nth_of(Call::Put, 1, fault);
        let (replica, store) = alone(&plan).await?;
        let replica = replica.with_deadlines(Deadlines::default());
        let key = layout::trust(0);
        let work = {
            let (replica, key) = (replica.clone(), key.clone());
            tokio::spawn(async move { replica.create(&key, Bytes::from_static(b"mine")).await })
        };
        plan.halted().await;
        work.abort();
        ensure!(store.head(&Path::from(key.as_str())).await.is_ok() == stands);
        // The next run repeats it.
        let outcome = replica.create(&key, Bytes::from_static(b"mine")).await?;
        ensure!(outcome == if stands { Created::Already } else { Created::New });
    }
    Ok(())
}

#[tokio::test]
async fn whatever_fails_at_most_one_writer_believes_that_it_won() -> Result<()> {
    let (mut struck, mut won, mut gave_up) = (0, 0, 0);
    for seed in 0..6 {
        let plan = FaultPlan::seeded(seed)
            .per_mille(100, Fault::Error)
            .per_mille(200, Fault::LostAck)
            .per_mille(50, Fault::HaltAfter)
            .per_mille(50, Fault::FlipBit)
            .per_mille(50, Fault::Truncate);
        let (replica, store) = alone(&plan).await?;
        let writers = ["left", "right"].map(|writer| {
            let replica = &replica;
            futures::future::join_all((0..20).map(move |n| async move {
                let bytes = Bytes::from(format!("{writer} {n}"));
                (bytes.clone(), replica.create(&layout::trust(n), bytes).await)
            }))
        });
        let [left, right] = futures::future::join_all(writers)
            .await
            .try_into()
            .expect("two writers");
        struck += plan.seen().iter().filter(|s| s.fault.is_some()).count();
        for (n, pair) in left.into_iter().zip(right).enumerate() {
            let key = layout::trust(n as u64);
            let stands = store.get(&Path::from(key.as_str())).await.ok();
            let stands = match stands {
                Some(there) => Some(there.bytes().await?),
                None => None,
            };
            let mut winners = 0;
            for (bytes, outcome) in [pair.0, pair.1] {
                match outcome {
                    Ok(_) => {
                        winners += 1;
                        ensure!(
                            stands.as_ref() == Some(&bytes),
                            "seed {seed}, {key}: believed, not there"
                        );
                    }
                    Err(e) if e.class() == Class::Conflict => {}
                    Err(e) => {
                        ensure!(
                            e.class() == Class::Retry && e.may_have_happened(),
                            "seed {seed}: {e}"
                        );
                        gave_up += 1;
                    }
                }
            }
            ensure!(winners <= 1, "seed {seed}, {key}");
            won += winners;
        }
    }
    ensure!(
        struck > 100 && won > 100,
        "{struck} faults, {won} won, {gave_up} gave up"
    );
    Ok(())
}

#[tokio::test]
async fn a_store_that_overwrites_is_looked_at_first_even_without_a_probe() -> Result<()> {
    let store = VersionedStore::careless();
    let lenient = vec!["loose".parse()?];
    let replica = || Ok::<_, anyhow::Error>(Replica::new("loose".parse()?, store.back_end()));
    Repository::init_replicas(vec![replica()?], lenient.clone(), root(), now()).await?;
    let repository = Repository::open_replicas(vec![replica()?], lenient).await?;
    let key = layout::trust(0);
    repository.replicas()[0]
        .create(&key, Bytes::from_static(b"first"))
        .await?;
    let error = repository.replicas()[0]
        .create(&key, Bytes::from_static(b"second"))
        .await
        .expect_err("taken");
    ensure!(error.class() == Class::Conflict, "{error}");
    Ok(())
}
