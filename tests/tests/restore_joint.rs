//! One moment of database and filestore, and restores over a change of timeline.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};
use holdfast_agent::restore::closure::{self, Reference};
use holdfast_plan::restore::{Request, Target};
use holdfast_proto::record::JointClaim;
use holdfast_tests::postgres::{Options, StopMode, TestPostgres};
use holdfast_tests::scene::Scene;

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-wal");

fn references(pg: &TestPostgres) -> Result<Vec<Reference>> {
    let rows = pg.psql("select store_fname, checksum, file_size from ir_attachment")?;
    rows.lines()
        .map(|row| {
            let mut columns = row.split('|');
            let mut next = || columns.next().map(str::to_owned).context("a column");
            Ok(Reference {
                name: next()?,
                sha1: Some(next()?),
                size: Some(next()?.parse()?),
            })
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn database_and_files_come_back_to_one_moment() -> Result<()> {
    let mut scene = Scene::start(PROGRAM, Options::default()).await?;
    scene.sql("create table ir_attachment (store_fname text, checksum text, file_size bigint)")?;
    let mut filestore = scene.filestore()?;
    for n in 0..200 {
        scene.attach(format!("invoice {n}").as_bytes())?;
    }
    scene.attach(&vec![7; 3 << 20])?;
    scene.base().await?;
    let first = scene.fence(&mut filestore, None).await?;
    let kept = scene.attach(b"drawing, before the mistake")?;
    let doomed = scene.attach(b"drawing, deleted and collected before the next fence")?;
    let second = scene.fence(&mut filestore, Some(&first)).await?;
    let between = scene.attach(b"drawing, between the fences")?;
    let before_the_mistake = scene.time()?;
    scene.sql(&format!(
        "delete from ir_attachment where store_fname in ('{doomed}', '{kept}')"
    ))?;
    fs::remove_file(scene.files().join(&doomed))?;
    let after = scene.attach(b"drawing, after the mistake")?;
    let third = scene.fence(&mut filestore, Some(&second)).await?;
    scene.safe().await?;
    scene.lose_source().await?;
    fs::remove_dir_all(scene.files())?;

    let request = Request::new(Target::Time(before_the_mistake));
    let plan = scene.plan(&request).await?;
    let files = &plan.filestores[0];
    assert_eq!(files.points, [second.id, third.id]);
    assert_eq!(files.claim, Some(JointClaim::SincePrevious), "{}", files.because);
    let outcome = scene.restore(&request, "joint").await?;
    assert_eq!(outcome.filestores[0].dirty_count, 0);
    let restored = scene.open("joint")?;
    let dir = scene
        .target("joint")
        .filestores
        .into_values()
        .next()
        .context("a filestore")?;
    let references = references(&restored)?;
    let names: BTreeSet<_> = references.iter().map(|r| r.name.clone()).collect();
    assert!([&kept, &doomed, &between].iter().all(|n| names.contains(*n)) && !names.contains(&after));
    let compared = closure::compare(references.clone(), &dir, 2)?;
    assert!(compared.is_complete(), "{compared:?}");
    assert_eq!(
        (compared.referenced, compared.present, compared.extras_count),
        (204, 204, 1)
    );
    let aside = dir.with_extension("aside");
    assert_eq!(closure::leave_out(names, &dir, &aside)?, 1);
    assert_eq!(closure::compare(references, &dir, 2)?.extras_count, 0);

    // At the point itself, by its name.
    let named = Request::new(Target::Name(format!("holdfast-{}", second.id)));
    let plan = scene.plan(&named).await?;
    assert_eq!(plan.filestores[0].points, [second.id]);
    scene.restore(&named, "point").await?;
    let restored = scene.open("point")?;
    let dir = scene
        .target("point")
        .filestores
        .into_values()
        .next()
        .context("a filestore")?;
    let compared = closure::compare(self::references(&restored)?, &dir, 2)?;
    assert_eq!(
        (compared.present, compared.extras_count, compared.is_complete()),
        (203, 0, true)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_is_followed_to_the_new_timeline() -> Result<()> {
    let mut scene = Scene::start(PROGRAM, Options::default().set("wal_keep_size", "64MB")).await?;
    scene.sql("create table t as select generate_series(1, 1000) n")?;
    scene.base().await?;
    scene.sql("insert into t values (2001)")?;
    let before = scene.time()?;
    scene.sql("insert into t values (2002)")?;
    let standby = scene.pg.standby(&scene.vault.dir().join("standby"))?;
    scene.safe().await?;
    scene.unprotect().await?;
    scene.pg.stop(StopMode::Fast)?;
    standby.promote()?;
    standby.psql("checkpoint")?;
    scene.pg = standby;
    scene.protect().await?;
    scene.sql("insert into t values (2003)")?;
    scene.sql("select pg_switch_wal(); insert into t values (2004)")?;
    scene.safe().await?;
    scene.lose_source().await?;

    let latest = Request::new(Target::Latest);
    let plan = scene.plan(&latest).await?;
    assert_eq!((plan.replay.timeline.get(), plan.base.timeline.get()), (2, 1));
    scene.restore(&latest, "two").await?;
    let restored = scene.open("two")?;
    assert_eq!(
        restored.psql("select string_agg(n::text, ' ' order by n) from t where n > 2000")?,
        "2001 2002 2003 2004"
    );
    let timeline = restored.psql("checkpoint; select timeline_id from pg_control_checkpoint()")?;
    assert_eq!(timeline, "3", "the timeline that was known is not used again");

    scene.restore(&Request::new(Target::Time(before)), "one").await?;
    assert_eq!(scene.open("one")?.psql("select max(n) from t")?, "2001");
    Ok(())
}
