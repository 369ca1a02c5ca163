//! One moment of database and filestore, and restores over a change of timeline.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use holdfast_agent::restore::closure;
use holdfast_plan::restore::{Request, Target};
use holdfast_proto::record::JointClaim;
use holdfast_tests::postgres::{Options, StopMode};
use holdfast_tests::scene::{Scene, references};

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-wal");

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
    let compared = closure::compare(holdfast_tests::scene::references(&restored)?, &dir, 2)?;
    assert_eq!(
        (compared.present, compared.extras_count, compared.is_complete()),
        (203, 0, true)
    );
    Ok(())
}

/// Files that are written in place, changed and deleted while they are read: each
/// restored file is one that was there whole, or is named.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_change_and_vanish_while_they_are_read() -> Result<()> {
    let mut scene = Scene::start(PROGRAM, Options::default()).await?;
    scene.sql("create table ir_attachment (store_fname text, checksum text, file_size bigint)")?;
    scene.base().await?;
    let mut filestore = scene.filestore()?;
    for n in 0..300 {
        scene.add_file(&format!("quiet {n} ").repeat(2000).into_bytes())?;
    }
    let files = scene.files();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let restless = std::thread::spawn(move || -> Result<u32> {
        let mut rounds = 0;
        while stopped.try_recv().is_err() {
            for n in 0..16 {
                let whole = format!("restless {rounds} {n} ").repeat(4000).into_bytes();
                let sha1 = sha1::Sha1::from(&whole).digest().to_string();
                let path = files.join(&sha1[..2]).join(&sha1);
                fs::create_dir_all(path.parent().context("a directory")?)?;
                fs::write(&path, &whole[..whole.len() / 2])?;
                fs::write(&path, &whole)?;
                fs::write(&path, b"something else")?;
                fs::remove_file(path)?;
            }
            rounds += 1;
        }
        Ok(rounds)
    });
    let writing = scene.writing(&scene.vault.publisher(2)).await?;
    let asked = holdfast_agent::filestore::Asked {
        sweep: true,
        checkpoint: false,
    };
    let mut stored = 0;
    for _ in 0..3 {
        stored += filestore.capture(&writing, asked).await?.stored;
    }
    stop.send(())?;
    let rounds = restless.join().expect("the writer does not panic")?;
    assert!(rounds > 1 && stored > 0, "{rounds} rounds, {stored} bytes");

    // One that changes its content for good, and one that is gone for good.
    let kept = scene.attach(b"kept to the end")?;
    let gone = scene.add_file(b"gone before the fence")?;
    filestore.capture(&writing, asked).await?;
    fs::remove_file(scene.files().join(&gone))?;
    let point = scene.fence(&mut filestore, None).await?;
    scene.safe().await?;
    scene.lose_source().await?;
    let source = contents(&scene.files())?;
    assert!(source.len() == 301 && source.contains_key(&kept) && !source.contains_key(&gone));
    fs::remove_dir_all(scene.files())?;

    let named = Request::new(Target::Name(format!("holdfast-{}", point.id)));
    let outcome = scene.restore(&named, "rested").await?;
    // What vanished while it was listed stays named until the next checkpoint; all of
    // it was gone before the fence.
    let files = &outcome.filestores[0];
    assert_eq!(files.dirty_count, files.dirty.len() as u64, "{files:?}");
    for dirty in &files.dirty {
        let (name, why) = dirty.split_once(": ").context("a name and a reason")?;
        assert!(
            why == "vanished before it was read" && !source.contains_key(name),
            "{dirty}"
        );
    }
    assert!(contents(&files.directory)? == source);
    let restored = scene.open("rested")?;
    let compared = closure::compare(references(&restored)?, &outcome.filestores[0].directory, 2)?;
    assert!(compared.is_complete(), "{compared:?}");
    Ok(())
}

/// The files of a filestore: name and content.
fn contents(root: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut all = BTreeMap::new();
    for directory in fs::read_dir(root)? {
        let directory = directory?;
        for file in fs::read_dir(directory.path())? {
            let file = file?;
            let name = format!(
                "{}/{}",
                directory.file_name().to_string_lossy(),
                file.file_name().to_string_lossy()
            );
            all.insert(name, fs::read(file.path())?);
        }
    }
    Ok(all)
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
