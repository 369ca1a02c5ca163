//! What every back end must do, whatever it is: one suite, run for each.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use holdfast_proto::names::{ActorName, ClusterId};
use holdfast_proto::{Fingerprint, Timestamp};
use holdfast_repository::probe::ConditionalCreate;
use holdfast_repository::store::BackEnd;
use holdfast_repository::{
    Class, Deadlines, Replica, ReplicaConfig, Repository, RepositoryConfig, StoreError, layout,
};
use holdfast_tests::faulty::{FaultPlan, FaultyStore};
use holdfast_tests::store_contract::contract;
use holdfast_tests::versioned::VersionedStore;
use object_store::memory::InMemory;

fn quick(replica: Replica) -> Replica {
    replica.with_deadlines(Deadlines {
        call: Duration::from_secs(20),
        attempt: Duration::from_secs(10),
        ..Deadlines::default()
    })
}

fn cluster() -> ClusterId {
    "contract/suite".parse().expect("a name")
}

#[tokio::test]
async fn a_directory_keeps_the_contract() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let config = ReplicaConfig::directory("disk".parse()?, &dir.path().join("replica with spaces"));
    let replica = quick(Replica::open(&config)?);
    std::fs::create_dir(dir.path().join("replica with spaces"))?;
    contract(replica, &cluster()).await
}

#[tokio::test]
async fn memory_keeps_the_contract() -> Result<()> {
    let back = BackEnd::from_store(Arc::new(InMemory::new()));
    contract(quick(Replica::new("memory".parse()?, back)), &cluster()).await
}

#[tokio::test]
async fn a_faulty_store_without_faults_keeps_the_contract() -> Result<()> {
    let store = FaultyStore::new(Arc::new(InMemory::new()), FaultPlan::default());
    let back = BackEnd::from_store(Arc::new(store));
    contract(quick(Replica::new("faulty".parse()?, back)), &cluster()).await
}

#[tokio::test]
async fn a_store_with_versions_keeps_the_contract() -> Result<()> {
    let back = VersionedStore::default().back_end();
    contract(quick(Replica::new("versioned".parse()?, back)), &cluster()).await
}

fn config(dir: &std::path::Path, regions: &[&str]) -> RepositoryConfig {
    RepositoryConfig {
        replicas: regions
            .iter()
            .map(|r| ReplicaConfig::directory(r.parse().expect("a name"), &dir.join(r)))
            .collect(),
        trust_root: None,
    }
}

fn root() -> Fingerprint {
    Fingerprint::new([7; 32])
}

fn now() -> Timestamp {
    Timestamp::from_unix_micros(1_790_000_000_000_000)
}

#[tokio::test]
async fn a_repository_is_made_once_and_opened_often() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let both = config(dir.path(), &["a", "b"]);
    let made = Repository::init(&both, root(), now()).await?;
    ensure!(
        Repository::init(&both, root(), now()).await?.id() == made.id(),
        "init can be repeated"
    );
    ensure!(Repository::open(&both).await?.id() == made.id());
    let documents: BTreeSet<Vec<u8>> = ["a", "b"]
        .iter()
        .map(|r| std::fs::read(dir.path().join(r).join("repository.json")))
        .collect::<Result<_, _>>()?;
    ensure!(documents.len() == 1, "the same bytes on every replica");
    // Until the trust chain has begun, init may have died half way.
    let three = config(dir.path(), &["a", "b", "c"]);
    ensure!(Repository::init(&three, root(), now()).await?.id() == made.id());
    // Afterwards a replica without the marker may be one that is not mounted.
    let four = config(dir.path(), &["a", "b", "c", "d"]);
    made.replicas()[0]
        .create(&layout::trust(0), Bytes::from_static(b"x"))
        .await?;
    let error = Repository::init(&four, root(), now())
        .await
        .expect_err("no marker");
    ensure!(error.to_string().contains("--add-replica d"), "{error}");
    ensure!(!dir.path().join("d").exists(), "nothing was made");
    let added = Repository::init_adding(&four, &["d".parse()?], root(), now()).await?;
    ensure!(added.id() == made.id() && dir.path().join("d/repository.json").exists());
    ensure!(Repository::init(&four, root(), now()).await?.id() == made.id());
    let error = Repository::init_adding(&four, &["e".parse()?], root(), now())
        .await
        .expect_err("not configured");
    ensure!(error.to_string().contains("not among the configured"), "{error}");
    // Another root is another repository.
    let error = Repository::init(&both, Fingerprint::new([8; 32]), now())
        .await
        .expect_err("another root");
    ensure!(error.to_string().contains("trust root"), "{error}");
    Ok(())
}

#[tokio::test]
async fn different_repositories_are_told_apart() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let a = config(dir.path(), &["a"]);
    let b = config(dir.path(), &["b"]);
    Repository::init(&a, root(), now()).await?;
    Repository::init(&b, root(), now()).await?;
    let error = Repository::open(&config(dir.path(), &["a", "b"]))
        .await
        .expect_err("two repositories");
    let text = error.to_string();
    ensure!(
        text.contains("different repositories") && text.contains('a') && text.contains('b'),
        "{text}"
    );
    // Exchanged while it is open: the next use sees it.
    let open = Repository::open(&a).await?;
    std::fs::rename(dir.path().join("a"), dir.path().join("away"))?;
    std::fs::rename(dir.path().join("b"), dir.path().join("a"))?;
    let error = open.replicas()[0]
        .create(&layout::trust(0), Bytes::from_static(b"x"))
        .await
        .expect_err("another repository lies there now");
    ensure!(matches!(error, StoreError::Another { .. }), "{error}");
    Ok(())
}

#[tokio::test]
async fn what_is_not_a_repository_is_refused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let one = config(dir.path(), &["a"]);
    let error = Repository::open(&one).await.expect_err("nothing is there");
    ensure!(error.to_string().contains("holdfast repo init"), "{error}");
    ensure!(!dir.path().join("a").exists(), "opening makes nothing");
    std::fs::create_dir(dir.path().join("a"))?;
    std::fs::write(dir.path().join("a/notes.txt"), "mine")?;
    let error = Repository::init(&one, root(), now())
        .await
        .expect_err("not empty");
    ensure!(error.to_string().contains("notes.txt"), "{error}");
    std::fs::remove_file(dir.path().join("a/notes.txt"))?;
    std::fs::write(dir.path().join("a/repository.json"), r#"{"format":2,"new":1}"#)?;
    let error = Repository::open(&one).await.expect_err("a later format");
    ensure!(error.to_string().contains("newer holdfast"), "{error}");
    Ok(())
}

#[tokio::test]
async fn the_probe_finds_out_what_a_store_enforces() -> Result<()> {
    let writer: ActorName = "agent-1".parse()?;
    let dir = tempfile::tempdir()?;
    let repository = Repository::init(&config(dir.path(), &["a", "b"]), root(), now()).await?;
    for _ in 0..2 {
        let probed = repository.probe(&writer).await?;
        ensure!(
            probed
                .iter()
                .all(|p| p.conditional_create == Some(ConditionalCreate::Enforced)
                    && p.versioning == Some(false)),
            "{probed:?}"
        );
    }
    let left = repository.replicas()[0].list("control/").await?;
    ensure!(left.len() == 2, "one for init, one for the agent: {left:?}");

    let careless = Replica::new("loose".parse()?, VersionedStore::careless().back_end());
    let error = Repository::init_replicas(vec![careless.clone()], vec![], root(), now())
        .await
        .expect_err("it does not enforce");
    let text = error.to_string();
    ensure!(
        text.contains("loose") && text.contains("accept_without_conditional_create"),
        "{text}"
    );

    let accepted =
        Repository::init_replicas(vec![careless.clone()], vec!["loose".parse()?], root(), now()).await?;
    let probed = accepted.probe(&writer).await?;
    ensure!(probed[0].conditional_create == Some(ConditionalCreate::NotEnforced));
    let names: Vec<String> = probed[0].findings(now()).into_iter().map(|f| f.name).collect();
    ensure!(names == ["create-not-enforced", "object-lock-off"], "{names:?}");
    // Our own writers still see each other, and versions decide between them.
    contract(accepted.replicas()[0].clone(), &cluster()).await?;
    let key = layout::trust(0);
    accepted.replicas()[0]
        .create(&key, Bytes::from_static(b"1"))
        .await?;
    let error = accepted.replicas()[0]
        .create(&key, Bytes::from_static(b"2"))
        .await
        .expect_err("looked first");
    ensure!(error.class() == Class::Conflict, "{error}");
    Ok(())
}
