//! Moments out of reach, asked for on the command line: the exit code is 1, nothing
//! is written, and the text names the nearest moments that can be had.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use holdfast_agent::restore::PlanError;
use holdfast_plan::restore::{Impossible, Request, Target};
use holdfast_repository::clock::now;
use holdfast_tests::postgres::Options;
use holdfast_tests::scene::Scene;

const HOLDFAST: &str = env!("CARGO_BIN_EXE_holdfast");

/// `holdfast restore VERB` with the drill's identity.
async fn restore(scene: &Scene, verb: &str, arguments: &[&str]) -> Result<Output> {
    let options = scene.options().await?;
    let config = scene.vault.dir().join("holdfast.toml");
    let places = (0..2).map(|n| {
        let place = scene.vault.place(n).display();
        format!("{{ url = \"file://{place}\", region = \"region{n}\" }}")
    });
    let text = format!(
        "[repository]\ntrust_root = \"{}\"\nreplicas = [{}]\n",
        options.fetch.trust_root,
        places.collect::<Vec<_>>().join(", ")
    );
    std::fs::write(&config, text)?;
    let output = Command::new(HOLDFAST)
        .args(["restore", verb, "--cluster", "acme/erp", "--config"])
        .arg(config)
        .arg("--identity")
        .arg(&options.fetch.identities[0])
        .args(arguments)
        .output()?;
    Ok(output)
}

/// Both verbs refuse with exit code 1, say all of this, and write nothing.
async fn refused(scene: &Scene, arguments: &[&str], says: &[&str]) -> Result<()> {
    let target = scene.vault.dir().join("refused");
    let place = target.display().to_string();
    let planned = restore(scene, "plan", arguments).await?;
    let run = restore(scene, "run", &[arguments, &["--target", &place]].concat()).await?;
    for output in [planned, run] {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        let told = String::from_utf8(output.stderr)?;
        for text in says {
            assert!(told.contains(text), "{text}: {told}");
        }
    }
    ensure!(!target.exists(), "a refused restore writes nothing");
    Ok(())
}

/// Why the planner refuses.
async fn impossible(scene: &Scene, target: Target) -> Result<Impossible> {
    let error = scene.plan(&Request::new(target)).await.err().context("planned")?;
    match error.downcast()? {
        PlanError::Impossible(why) => Ok(why),
        other => Err(other.into()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nearest_moments_are_told_and_reached() -> Result<()> {
    let before_all = now();
    let mut scene = Scene::start(HOLDFAST, Options::default()).await?;
    scene.sql("create table t as select generate_series(1, 100) n")?;
    scene.base().await?;
    scene.sql("insert into t values (101)")?;
    scene.safe().await?;
    scene.lose_source().await?;
    let after_all = now();

    let first = impossible(&scene, Target::Time(before_all)).await?.nearest_after;
    let first = first.context("there is a first moment")?;
    let nearest = format!("The nearest reachable moment is {first}");
    refused(
        &scene,
        &["--to-time", &before_all.to_string()],
        &["lies before the first restorable moment", &nearest],
    )
    .await?;

    let last = impossible(&scene, Target::Time(after_all)).await?.nearest_before;
    let last = last.context("there is a last moment")?;
    let nearest = format!("The nearest reachable moment is {last}");
    refused(
        &scene,
        &["--to-time", &after_all.to_string()],
        &["lies behind the last known moment", "restore --latest", &nearest],
    )
    .await?;
    for (option, value, says) in [
        ("--to-time", "2200-01-01 00:00:00Z", "is in the future"),
        ("--to-name", "never", "does not occur in the WAL"),
        ("--to-lsn", "0/1", "before the first restorable moment"),
    ] {
        refused(&scene, &[option, value], &[says]).await?;
    }

    // Usage is another matter than "no".
    let output = restore(&scene, "plan", &["--to-time", "yesterday"]).await?;
    assert_eq!(output.status.code(), Some(64), "{output:?}");

    // The last moment that was named is reached.
    let time = last.time.context("it has a time")?.to_string();
    let target = scene.target("last").data;
    let place = target.display().to_string();
    let output = restore(&scene, "run", &["--to-time", &time, "--target", &place]).await?;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(scene.open("last")?.psql("select count(*) from t")?, "101");
    Ok(())
}
