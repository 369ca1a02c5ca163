//! The store contract on a real S3 service, and what versions save there.
//!
//! Runs against the service at `HOLDFAST_TEST_S3` (an endpoint's URL), with the
//! credentials in `HOLDFAST_TEST_S3_KEY` and `HOLDFAST_TEST_S3_SECRET`, which
//! must be allowed to make buckets; `make test` starts one and sets them.
//! Without it there is nothing to run against, and the suite says so.

use anyhow::{Result, ensure};
use bytes::Bytes;
use holdfast_proto::names::ClusterId;
use holdfast_proto::{Fingerprint, Sha256Digest, Timestamp};
use holdfast_repository::probe::ConditionalCreate;
use holdfast_repository::{Class, Created, Replica, ReplicaConfig, Repository, RepositoryConfig, layout};
use holdfast_tests::s3::Service;
use holdfast_tests::store_contract::contract;

fn replica_of(
    service: &Service,
    region: &str,
    bucket: &str,
    secret: &std::path::Path,
) -> Result<ReplicaConfig> {
    let owner = service.owner();
    std::fs::write(secret, format!("{}\n", owner.secret))?;
    let options = [
        ("aws_endpoint", service.endpoint.as_str()),
        ("aws_allow_http", "true"),
        ("aws_region", "us-east-1"),
        ("aws_access_key_id", &owner.key),
        ("aws_secret_access_key_file", &secret.display().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    Ok(ReplicaConfig {
        url: format!("s3://{bucket}/some/prefix"),
        region: region.parse()?,
        options: options.into(),
        accept_without_conditional_create: false,
        provider: None,
    })
}

fn cluster() -> ClusterId {
    "contract/suite".parse().expect("a name")
}

fn root() -> Fingerprint {
    Fingerprint::new([7; 32])
}

fn now() -> Timestamp {
    Timestamp::from_unix_micros(1_790_000_000_000_000)
}

#[tokio::test]
async fn an_s3_service_keeps_the_contract() -> Result<()> {
    let Some(service) = Service::from_env() else {
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    for locked in [false, true] {
        let bucket = service.bucket(locked)?;
        let mut replica = replica_of(&service, "s3", &bucket, &dir.path().join("secret"))?;
        // radosgw 16 enforces create-if-absent in plain buckets only.
        replica.accept_without_conditional_create = locked;
        let config = RepositoryConfig {
            replicas: vec![replica],
            trust_root: None,
        };
        let repository = Repository::init(&config, root(), now()).await?;
        let probed = repository.probe(&"agent-1".parse()?).await?;
        ensure!(
            locked || probed[0].conditional_create == Some(ConditionalCreate::Enforced),
            "{probed:?}"
        );
        contract(repository.replicas()[0].clone(), &cluster()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn overwritten_and_deleted_objects_are_read_in_their_original_version() -> Result<()> {
    let Some(service) = Service::from_env() else {
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let bucket = service.bucket(true)?;
    let mut config = RepositoryConfig {
        replicas: vec![replica_of(&service, "s3", &bucket, &dir.path().join("secret"))?],
        trust_root: None,
    };
    config.replicas[0].accept_without_conditional_create = true;
    let repository = Repository::init(&config, root(), now()).await?;
    ensure!(Repository::open(&config).await?.id() == repository.id());
    let probed = repository.probe(&"agent-1".parse()?).await?;
    ensure!(
        probed[0].versioning == Some(true) && probed[0].object_lock == Some(true),
        "{probed:?}"
    );

    let replica = &repository.replicas()[0];
    let bytes = Bytes::from_static(b"what was captured");
    let sha256 = Sha256Digest::of(&bytes);
    let pack = layout::pack(&cluster(), &sha256);
    let commit = layout::journal(&cluster(), &"files".parse()?, 1);
    // A key that begins with another must not lend it its versions.
    let longer = layout::journal(&cluster(), &"files-2".parse()?, 1);
    for key in [&pack, &commit, &longer] {
        ensure!(replica.create(key, bytes.clone()).await? == Created::New);
        ensure!(replica.versions(key).await?.len() == 1);
    }
    for key in [&pack, &commit] {
        replica.replace(key, Bytes::from_static(b"forged")).await?;
        replica.replace(key, Bytes::from_static(b"forged again")).await?;
        let versions = replica.versions(key).await?;
        ensure!(
            versions.iter().map(|v| v.latest).eq([false, false, true]),
            "{versions:?}"
        );
        ensure!(replica.get_version(key, &versions[0]).await? == bytes);
        ensure!(replica.get(key).await? == "forged again");
    }
    let mut rewritten = vec![pack.clone(), commit.clone()];
    rewritten.sort();
    ensure!(replica.rewritten(&layout::cluster(&cluster())).await? == rewritten);
    let fetched = repository.fetch(&pack, &sha256, bytes.len() as u64).await?;
    ensure!(fetched.bytes == bytes && fetched.findings[0].name == "object-overwritten");
    let found = repository.find(&commit, |b| Ok::<_, String>(b.len())).await?;
    ensure!(found.bytes == bytes && found.findings[0].name == "object-overwritten");
    let found = repository.find(&longer, |b| Ok::<_, String>(b.len())).await?;
    ensure!(found.findings.is_empty(), "{:?}", found.findings);
    Ok(())
}

#[tokio::test]
async fn wrong_credentials_are_refused_at_once() -> Result<()> {
    let Some(service) = Service::from_env() else {
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let bucket = service.bucket(false)?;
    let mut config = replica_of(&service, "s3", &bucket, &dir.path().join("secret"))?;
    std::fs::write(dir.path().join("secret"), "wrong")?;
    let replica = Replica::open(&config)?;
    let error = replica
        .create(&layout::trust(0), Bytes::from_static(b"x"))
        .await
        .expect_err("the secret is wrong");
    ensure!(error.class() == Class::Denied, "{}", error.explained());
    ensure!(!error.explained().contains("wrong"), "the secret is not repeated");
    let error = replica
        .versions(&layout::trust(0))
        .await
        .expect_err("the secret is wrong");
    ensure!(error.class() == Class::Denied, "{}", error.explained());
    // A bucket that is not there is not an empty repository.
    std::fs::write(dir.path().join("secret"), service.owner().secret)?;
    config.url = "s3://holdfast-no-such-bucket/p".to_owned();
    let error = Repository::open(&RepositoryConfig {
        replicas: vec![config],
        trust_root: None,
    })
    .await
    .expect_err("no bucket");
    ensure!(
        error.to_string().contains("s3://holdfast-no-such-bucket/p"),
        "{error}"
    );
    Ok(())
}
