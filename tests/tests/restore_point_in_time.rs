//! Real servers restored to every kind of target, with the production code.

use std::fs;

use anyhow::Result;
use holdfast_agent::ledger::Ledger;
use holdfast_agent::restore::WalSource;
use holdfast_plan::restore::{Request, Target};
use holdfast_tests::postgres::Options;
use holdfast_tests::scene::Scene;

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-wal");

fn to(target: Target) -> Request {
    Request::new(target)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_target_is_reached_exactly() -> Result<()> {
    let mut scene = Scene::start(PROGRAM, Options::default()).await?;
    scene.sql("create table t (n int, filler text)")?;
    scene.sql("insert into t select n, repeat('x', 200) from generate_series(1, 2000) n")?;
    scene.base().await?;
    scene.sql("insert into t values (3001)")?;
    let first = scene.time()?;
    scene.sql("insert into t values (3002)")?;
    scene.sql("select pg_create_restore_point('before the upgrade')")?;
    scene.sql("insert into t select n, repeat('y', 200) from generate_series(4001, 14000) n")?;
    let xid: u32 = scene
        .sql("insert into t values (3003) returning pg_current_xact_id()")?
        .parse()?;
    let at: holdfast_proto::pg::Lsn = scene.sql("select pg_current_wal_insert_lsn()")?.parse()?;
    scene.sql("insert into t values (3004)")?;
    scene.safe().await?;
    scene.lose_source().await?;

    let cases = [
        ("time", Target::Time(first), "2001", "3001"),
        ("name", Target::Name("before the upgrade".into()), "2002", "3002"),
        ("xid", Target::Xid(xid), "12003", "3003"),
        ("latest", Target::Latest, "12004", "3004"),
    ];
    for (name, target, rows, newest) in cases {
        let plan = scene.plan(&to(target.clone())).await?;
        assert_eq!(plan.replay.first_left_out.is_none(), name == "latest", "{plan}");
        let outcome = scene.restore(&to(target), name).await?;
        assert_eq!(outcome.findings, [], "{name}");
        let restored = scene.open(name)?;
        let counted = restored.psql("select count(*) from t")?;
        let last = restored.psql("select max(n) from t where n between 3001 and 3999")?;
        assert_eq!((counted.as_str(), last.as_str()), (rows, newest), "{name}");
        restored.psql("insert into t values (9)")?;
        assert_eq!(restored.psql("show archive_mode")?, "off");
        // Nothing of the recovery is left for a standby to inherit.
        let settings = fs::read_to_string(scene.target(name).data.join("postgresql.auto.conf"))?;
        assert!(
            !settings.contains("recovery_target") && !settings.contains("hot_standby"),
            "{settings}"
        );
    }

    // What people named is listed, without opening any WAL.
    let access = scene.access().await?;
    let ledger = Ledger::load(&access.repository, &access.trust, &scene.vault.cluster).await?;
    let source = WalSource {
        repository: &access.repository,
        trust: &access.trust,
        keyring: None,
    };
    let (named, met) = ledger.named_points(source).await?;
    let names: Vec<&str> = named.iter().map(|point| point.name.as_str()).collect();
    assert_eq!((names.as_slice(), met.len()), (&["before the upgrade"][..], 0));

    let mut exclusive = to(Target::Lsn(at));
    exclusive.exclusive = true;
    let plan = scene.plan(&exclusive).await?;
    let (kept, left_out) = (plan.replay.last_commit, plan.replay.first_left_out);
    assert!(
        kept.is_some_and(|c| c.lsn < at) && left_out.is_some_and(|c| c.lsn >= at),
        "{plan}"
    );
    // Inclusive at the very start of a transaction's end, it is kept.
    let commit = left_out.map(|c| c.lsn).unwrap_or(at);
    let plan = scene.plan(&to(Target::Lsn(commit))).await?;
    assert_eq!(plan.replay.last_commit.map(|c| c.lsn), Some(commit), "{plan}");
    scene.restore(&exclusive, "lsn").await?;
    let restored = scene.open("lsn")?;
    assert_eq!(
        restored.psql("select max(n) from t where n between 3001 and 3999")?,
        "3003"
    );
    Ok(())
}

/// Whatever size of segments the cluster was made with: the line and the restore go
/// through whole segments, and end in the middle of one.
#[tokio::test(flavor = "multi_thread")]
async fn segments_of_every_size_are_stored_and_replayed() -> Result<()> {
    for megabytes in [1, 16, 64] {
        let mut scene = Scene::start_with_segments(PROGRAM, Options::default(), megabytes).await?;
        let shown = scene.sql("show wal_segment_size")?;
        assert_eq!(shown, format!("{megabytes}MB"));
        scene.sql("create table t (n int)")?;
        scene.base().await?;
        scene.sql("insert into t values (1)")?;
        scene.sql(&format!(
            "select count(pg_logical_emit_message(false, 'filler', repeat('x', 1048576))) \
             from generate_series(1, {})",
            megabytes + 1
        ))?;
        scene.sql("insert into t values (2)")?;
        let moment = scene.time()?;
        scene.sql("insert into t values (3)")?;
        scene.sql("select pg_switch_wal(); insert into t values (4)")?;
        scene.safe().await?;
        scene.lose_source().await?;
        for (name, target, expected) in [
            ("moment", Target::Time(moment), "1 2"),
            ("latest", Target::Latest, "1 2 3 4"),
        ] {
            scene.restore(&to(target), name).await?;
            let restored = scene.open(name)?;
            let rows = restored.psql("select string_agg(n::text, ' ' order by n) from t")?;
            assert_eq!(rows, expected, "{megabytes} MB, {name}");
            assert_eq!(restored.psql("show wal_segment_size")?, shown);
        }
    }
    Ok(())
}
