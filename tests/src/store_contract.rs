//! What every back end must do, whatever it is.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::TryStreamExt;
use holdfast_proto::Sha256Digest;
use holdfast_proto::names::ClusterId;
use holdfast_repository::{Class, Created, Listed, Replica, layout};

/// The whole contract. Uses keys of `cluster` only, so that it can run in a
/// store that holds other things.
pub async fn contract(replica: Replica, cluster: &ClusterId) -> Result<()> {
    creates_once(&replica, cluster).await.context("creates once")?;
    reads_what_was_written(&replica, cluster).await.context("reads")?;
    lists_in_order(&replica, cluster).await.context("lists")?;
    has_one_winner(&replica, cluster).await.context("one winner")?;
    replaces_for_healing(&replica, cluster)
        .await
        .context("replaces")?;
    Ok(())
}

async fn creates_once(replica: &Replica, cluster: &ClusterId) -> Result<()> {
    let key = layout::lease(cluster, 1);
    let (ours, theirs) = (Bytes::from_static(b"ours"), Bytes::from_static(b"others"));
    ensure!(replica.create(&key, ours.clone()).await? == Created::New);
    ensure!(replica.create(&key, ours.clone()).await? == Created::Already);
    let error = replica.create(&key, theirs).await.expect_err("the key is taken");
    ensure!(error.class() == Class::Conflict, "{error}");
    ensure!(error.to_string().contains(replica.region().as_str()), "{error}");
    ensure!(error.to_string().contains(key.as_str()), "{error}");
    ensure!(replica.get(&key).await? == ours, "the first stands");
    ensure!(replica.create(&layout::lease(cluster, 2), Bytes::new()).await? == Created::New);
    ensure!(replica.get(&layout::lease(cluster, 2)).await?.is_empty());
    Ok(())
}

async fn reads_what_was_written(replica: &Replica, cluster: &ClusterId) -> Result<()> {
    let bytes: Bytes = (0..9_000_000u32).map(|i| (i % 251) as u8).collect();
    let key = layout::pack(cluster, &Sha256Digest::of(&bytes));
    ensure!(replica.head(&key).await?.is_none());
    let error = replica.get(&key).await.expect_err("nothing is there");
    ensure!(error.class() == Class::NotFound, "{error}");
    ensure!(replica.versions(&key).await?.is_empty());
    replica.create(&key, bytes.clone()).await?;
    ensure!(replica.head(&key).await? == Some(bytes.len() as u64));
    ensure!(replica.get(&key).await? == bytes);
    ensure!(replica.get_range(&key, 0..10).await? == bytes.slice(0..10));
    ensure!(replica.get_range(&key, 5_000_001..9_000_000).await? == bytes.slice(5_000_001..));
    ensure!(replica.get_range(&key, 7..7).await?.is_empty());
    // Short data is never passed on as if it were all.
    for beyond in [8_999_999..9_000_001, 9_000_000..9_000_001, 20_000_000..20_000_001] {
        let error = replica.get_range(&key, beyond).await.expect_err("beyond the end");
        ensure!(error.class() == Class::Corrupt, "{error}");
    }
    let missing = layout::pack(cluster, &Sha256Digest::of(b"missing"));
    let error = replica
        .get_range(&missing, 0..1)
        .await
        .expect_err("nothing is there");
    ensure!(error.class() == Class::NotFound, "{error}");
    let versions = replica.versions(&key).await?;
    ensure!(versions.len() == 1 && versions[0].latest && versions[0].size == bytes.len() as u64);
    ensure!(replica.get_version(&key, &versions[0]).await? == bytes);
    Ok(())
}

async fn lists_in_order(replica: &Replica, cluster: &ClusterId) -> Result<()> {
    let filestore = "files".parse()?;
    let other = "files-2".parse()?;
    let mut made = BTreeSet::new();
    for n in [3, 1, 2, 1_000_000] {
        for journal in [
            layout::journal(cluster, &filestore, n),
            layout::journal(cluster, &other, n),
        ] {
            replica.create(&journal, Bytes::from(n.to_string())).await?;
            made.insert(journal);
        }
    }
    let listed = replica.list(&layout::filestores(cluster)).await?;
    ensure!(listed.iter().map(|l| &l.key).eq(made.iter()), "{listed:?}");
    let streamed: Vec<Listed> = replica
        .list_stream(&layout::filestores(cluster))
        .try_collect()
        .await?;
    ensure!(streamed == listed, "a stream shows the same, in order");
    // A prefix ends at a name's end: files-2 is not below files/.
    let one = replica.list(&layout::journals(cluster, &filestore)).await?;
    ensure!(one.len() == 4, "{one:?}");
    ensure!(one[3].size == 7);
    ensure!(
        replica
            .list(&layout::journals(cluster, &"none".parse()?))
            .await?
            .is_empty()
    );
    ensure!(replica.children(&layout::filestores(cluster)).await? == ["files", "files-2"]);
    ensure!(
        replica
            .children(&layout::journals(cluster, &"none".parse()?))
            .await?
            .is_empty()
    );
    ensure!(replica.list("tenants").await.is_err(), "a prefix ends in a slash");
    Ok(())
}

async fn has_one_winner(replica: &Replica, cluster: &ClusterId) -> Result<()> {
    let key = layout::lease(cluster, 77);
    let mut racers = tokio::task::JoinSet::new();
    for racer in 0..20 {
        let (replica, key) = (replica.clone(), key.clone());
        racers.spawn(async move { replica.create(&key, Bytes::from(format!("racer {racer}"))).await });
    }
    let mut winners = 0;
    while let Some(outcome) = racers.join_next().await {
        match outcome? {
            Ok(created) => {
                ensure!(created == Created::New);
                winners += 1;
            }
            Err(error) => ensure!(error.class() == Class::Conflict, "{error}"),
        }
    }
    ensure!(winners == 1, "{winners} won");
    Ok(())
}

async fn replaces_for_healing(replica: &Replica, cluster: &ClusterId) -> Result<()> {
    let key = layout::lease(cluster, 1);
    replica.replace(&key, Bytes::from_static(b"healed")).await?;
    ensure!(replica.get(&key).await? == "healed");
    let versions = replica.versions(&key).await?;
    if versions.len() > 1 {
        ensure!(replica.get_version(&key, &versions[0]).await? == "ours");
    }
    Ok(())
}
