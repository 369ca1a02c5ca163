//! What `verify` rests on: what is lost on every replica is said, whatever it is.

use std::fs;

use anyhow::{Context, Result};
use holdfast_agent::ledger::Ledger;
use holdfast_repository::clock::now;
use holdfast_repository::scrub::{Depth, scrub};
use holdfast_tests::postgres::Options;
use holdfast_tests::scene::Scene;

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-wal");

/// Names of what is wrong with the scene's repository.
async fn found(scene: &Scene) -> Result<Vec<String>> {
    let (repository, trust) = (scene.vault.repository.clone(), scene.vault.trust().await?);
    let cluster = &scene.vault.cluster;
    let report = scrub(&repository, &trust, cluster, Depth::Records, now()).await;
    let ledger = Ledger::load(&repository, &trust, cluster).await?;
    let departures = ledger.points().departures(now());
    let sound = report.is_sound() && departures.is_empty();
    let findings: Vec<_> = report.findings.into_iter().chain(departures).collect();
    assert_eq!(sound, findings.is_empty(), "{findings:?}");
    Ok(findings.into_iter().map(|f| f.name).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_everywhere_is_said() -> Result<()> {
    let mut scene = Scene::start(PROGRAM, Options::default()).await?;
    scene.sql("create table ir_attachment (store_fname text, checksum text, file_size bigint)")?;
    let mut filestore = scene.filestore()?;
    scene.base().await?;
    for n in 0..3 {
        scene.sql("select pg_switch_wal()")?;
        scene.sql(&format!("create table t{n} (n int)"))?;
        scene.safe().await?;
    }
    scene.attach(b"a drawing")?;
    scene.fence(&mut filestore, None).await?;
    scene.safe().await?;
    scene.lose_source().await?;
    assert_eq!(found(&scene).await?, [""; 0]);

    let listing = scene.vault.repository.list("tenants/").await?;
    let keys: Vec<String> = listing.objects.keys().map(ToString::to_string).collect();
    let some = |part: &str, n: usize| {
        let mut of_kind = keys.iter().filter(|key| key.contains(part));
        of_kind
            .nth(n)
            .cloned()
            .with_context(|| format!("no object {n} of {part}"))
    };
    let cases = [
        (some("/packs/", 0)?, "object-lost"),
        (some("/indexes/", 0)?, "object-lost"),
        (some("/keys/data/", 0)?, "object-lost"),
        (some("/filestores/", 0)?, "object-lost"),
        (some("/wal/00000001/", 2)?, "wal-gap"),
        (some("/base/", 0)?, "nothing-restorable"),
    ];
    for (key, expected) in cases {
        let copies = [0, 1].map(|region| scene.vault.place(region).join(&key));
        let bytes = fs::read(&copies[0])?;
        // One copy is enough for a restore, and the other is missed.
        fs::remove_file(&copies[0])?;
        assert_eq!(found(&scene).await?, ["object-missing"], "{key}");
        fs::remove_file(&copies[1])?;
        let names = found(&scene).await?;
        assert!(names.iter().any(|name| name == expected), "{key}: {names:?}");
        for copy in &copies {
            fs::write(copy, &bytes)?;
        }
    }
    assert_eq!(found(&scene).await?, [""; 0]);
    Ok(())
}
