//! What a restore refuses, and how it goes on after it was stopped.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use holdfast_agent::restore::{AccessError, RestoreError, TargetError, execute};
use holdfast_plan::restore::{Impossible, Reason, Request, Target};
use holdfast_repository::seal::{Identities, Identity};
use holdfast_tests::postgres::{Options, wait_until};
use holdfast_tests::scene::Scene;

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-wal");

fn latest() -> Request {
    Request::new(Target::Latest)
}

/// A protected server with a table of `rows` rows and a base backup.
async fn filled(rows: u32) -> Result<Scene> {
    let scene = Scene::start(PROGRAM, Options::default()).await?;
    // Incompressible, so that the packs are as large as the table.
    scene.sql(&format!(
        "create table t as select n, x from generate_series(1, {rows}) n, \
         lateral (select string_agg(md5(random()::text || n || i), '') x from generate_series(1, 8) i) s"
    ))?;
    scene.base().await?;
    scene.sql("insert into t values (0, 'last')")?;
    scene.safe().await?;
    Ok(scene)
}

fn refusal(error: &anyhow::Error) -> &Impossible {
    match error.downcast_ref::<holdfast_agent::restore::PlanError>() {
        Some(holdfast_agent::restore::PlanError::Impossible(why)) => why,
        _ => panic!("not a refusal: {error:#}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_in_use_are_refused() -> Result<()> {
    let mut scene = filled(100).await?;
    let (access, options) = (scene.access().await?, scene.options().await?);
    let plan = scene.plan(&latest()).await?;

    let mut running = scene.target("x");
    running.data = scene.pg.data_dir().to_owned();
    let error = execute(&plan, &access, &running, &options).await.unwrap_err();
    assert!(
        matches!(error, RestoreError::Target(TargetError::Running { .. })),
        "{error}"
    );
    scene.lose_source().await?;
    let error = execute(&plan, &access, &running, &options).await.unwrap_err();
    assert!(
        matches!(error, RestoreError::Target(TargetError::NotEmpty { .. })),
        "{error}"
    );

    let target = scene.target("done");
    execute(&plan, &access, &target, &options).await?;
    let mode = std::fs::metadata(&target.data)?.permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let error = execute(&plan, &access, &target, &options).await.unwrap_err();
    assert!(
        matches!(error, RestoreError::Target(TargetError::Finished(_))),
        "{error}"
    );
    let other = scene.plan(&latest()).await?;
    let error = execute(&other, &access, &target, &options).await.unwrap_err();
    assert!(
        matches!(error, RestoreError::Target(TargetError::Finished(_))),
        "{error}"
    );

    let mut relative = scene.target("y");
    relative.data = "data".into();
    let error = execute(&plan, &access, &relative, &options).await.unwrap_err();
    assert!(
        matches!(error, RestoreError::Target(TargetError::Relative(_))),
        "{error}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn moments_out_of_reach_name_the_nearest() -> Result<()> {
    let early_scene_began = holdfast_repository::clock::now();
    let mut scene = filled(100).await?;
    let access = scene.access().await?;
    let stranger = Identities::from(Identity::generate());
    let error = scene.access_with(&stranger).await.unwrap_err();
    assert!(
        matches!(error.downcast_ref(), Some(AccessError::WrongIdentity { .. })),
        "{error:#}"
    );
    drop(access);

    let early = scene
        .plan(&Request::new(Target::Time(early_scene_began)))
        .await
        .unwrap_err();
    let why = refusal(&early);
    assert!(matches!(*why.reason, Reason::BeforeFirst { .. }), "{why}");
    let first = why.nearest_after.context("there is a first moment")?;
    let time = first.time.context("it has a time")?;

    // Just behind the base nothing had been committed yet; an agent's attestation
    // reaches further than the last transaction.
    let plan = scene.plan(&Request::new(Target::Time(time))).await?;
    assert!(plan.replay.first_left_out.is_some());

    scene.lose_source().await?;
    let late = scene
        .plan(&Request::new(Target::Time(holdfast_repository::clock::now())))
        .await
        .unwrap_err();
    let why = refusal(&late);
    assert!(matches!(*why.reason, Reason::AfterLast { .. }), "{why}");
    let last = why
        .nearest_before
        .context("there is a last moment")?
        .time
        .context("it has a time")?;
    let plan = scene.plan(&Request::new(Target::Time(last))).await?;
    assert_eq!(plan.replay.first_left_out, None);

    let unknown = scene
        .plan(&Request::new(Target::Name("never".into())))
        .await
        .unwrap_err();
    assert!(matches!(*refusal(&unknown).reason, Reason::Nowhere { .. }));
    Ok(())
}

/// The last base would find the last of them, and restore to it without a word.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_given_twice_is_refused_whatever_lies_between() -> Result<()> {
    let mut scene = filled(100).await?;
    let place = |scene: &Scene, name: &str| scene.sql(&format!("select pg_create_restore_point('{name}')"));
    let first = place(&scene, "before the upgrade")?;
    scene.base().await?;
    place(&scene, "once")?;
    place(&scene, "before the upgrade")?;
    scene.sql("insert into t select 1")?;
    scene.safe().await?;
    scene.lose_source().await?;

    let twice = Request::new(Target::Name("before the upgrade".into()));
    let error = scene.plan(&twice).await.unwrap_err();
    let Reason::Several { places, .. } = &*refusal(&error).reason else {
        panic!("{error:#}")
    };
    assert_eq!(places.len(), 2);
    // The function answers with the end of the record.
    assert_eq!(places[0].end, first.parse()?);
    let mut chosen = Request::new(Target::Lsn(places[0].lsn));
    chosen.exclusive = false;
    assert_eq!(scene.plan(&chosen).await?.replay.target_lsn, places[0].lsn);
    scene.plan(&Request::new(Target::Name("once".into()))).await?;

    let unknown = Request::new(Target::Name("before the upgrad".into()));
    let said = refusal(&scene.plan(&unknown).await.unwrap_err()).to_string();
    assert!(
        said.contains("\"before the upgrade\"") && said.contains("\"once\""),
        "{said}"
    );
    assert!(!said.contains("holdfast-"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_restore_goes_on_where_it_stopped() -> Result<()> {
    let mut scene = filled(60_000).await?;
    scene.lose_source().await?;
    let plan = scene.plan(&latest()).await?;
    let data = scene.target("killed").data;
    let base = data.join("base");

    let mut kills = 0;
    for wanted in [5u64, 200, 700] {
        let (_, mut command) = scene.job(plan.clone(), "killed", true).await?;
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        wait_until("the restore has written some files", || {
            Ok(child.try_wait()?.is_some() || files_below(&base) >= wanted)
        })?;
        if child.try_wait()?.is_none() {
            child.kill()?;
            kills += 1;
        }
        child.wait()?;
        assert!(
            !data.join("global/pg_control").exists(),
            "an unfinished restore cannot be started"
        );
    }
    assert!(kills > 0, "the restore was faster than the test");
    let (_, mut command) = scene.job(plan, "killed", true).await?;
    let output = command.output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(outcome["resumed"], true);
    assert!(outcome["kept"].as_u64() > Some(0), "{outcome}");

    let restored = scene.open("killed")?;
    assert_eq!(
        restored.psql("select count(*), max(x) filter (where n = 0) from t")?,
        "60001|last"
    );
    Ok(())
}

fn files_below(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|e| {
            if e.path().is_dir() {
                files_below(&e.path())
            } else {
                1
            }
        })
        .sum()
}

/// A file system of 12 MiB, made full by the restore, then made larger.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_the_restore_goes_on_when_there_is_room() -> Result<()> {
    let mut scene = filled(20_000).await?;
    scene.lose_source().await?;
    let plan = scene.plan(&latest()).await?;
    let place = scene.vault.dir().join("small");
    std::fs::create_dir(&place)?;
    let mut target = scene.target("small");
    target.data = place.join("data");

    // The check before the first byte.
    let (_, first) = scene
        .job_to(plan.clone(), target.clone(), "small-checked", true)
        .await?;
    let (_, unchecked) = scene.job_to(plan, target, "small", false).await?;
    let script = format!(
        "mount -t tmpfs -o size=12m tmpfs {0} || exit 90
         {1} && exit 91
         {2} && exit 92
         mount -o remount,size=400m {0} || exit 93
         {2} || exit 94
         test -f {0}/data/global/pg_control || exit 95",
        place.display(),
        shell(&first),
        shell(&unchecked),
    );
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .output()
        .context("unshare is needed")?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    assert!(said.contains("bytes free, the restore writes about"), "{said}");
    assert!(
        said.contains("is full: make room and run the same restore again"),
        "{said}"
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"resumed\":true"));
    Ok(())
}

fn shell(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|w| format!("'{}'", w.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}
