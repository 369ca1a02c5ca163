//! What PostgreSQL believes of its `restore_command`, and what a restore makes of
//! it: whatever the command does, recovery ends at the target or not at all.
//!
//! Facts about PostgreSQL, to be looked at again with each major: it takes an exit
//! code up to 125, an absent file and a file of zeros for the end of the log; and it
//! stops at 126 and above, at a signal, and at a file of another size. With a target
//! that is a position it refuses to end before it, so neither kind ends in less.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use holdfast_agent::restore::execute;
use holdfast_plan::restore::{Request, Target};
use holdfast_proto::pg::Lsn;
use holdfast_tests::postgres::{Options, TestPostgres, bin_dir, finished, wait_until};
use holdfast_tests::scene::{Scene, promoted};

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-wal");

/// What the command does instead, from a segment on; and what PostgreSQL says then.
const LIES: [(&str, &str); 13] = [
    ("exit 1", ENDED),
    ("exit 74", ENDED),
    ("exit 125", ENDED),
    ("exit 0", ENDED),
    ("head -c 1048576 /dev/zero > \"$path\"; exit 0", ENDED),
    ("exit 126", STOPPED),
    ("exit 127", STOPPED),
    ("exit 255", STOPPED),
    ("kill -ABRT $$", STOPPED),
    ("kill -KILL $$", STOPPED),
    ("head -c 1000 /dev/zero > \"$path\"; exit 0", "has wrong size"),
    (": > \"$path\"; exit 0", "has wrong size"),
    // The segment before, under this one's name.
    ("cp \"$before\" \"$path\"; exit 0", ENDED),
];

const ENDED: &str = "recovery ended before configured recovery target was reached";
const STOPPED: &str = "could not restore file";

/// Starts a server that must end by itself, and returns what it logged.
fn stops(data: &Path) -> Result<String> {
    let log = data.with_extension("log");
    let before = fs::metadata(&log).map_or(0, |meta| meta.len());
    match TestPostgres::open(data, false) {
        Ok(server) => wait_until("recovery gives up", || {
            Ok(server.log()[usize::try_from(before)?..].contains("database system is shut down"))
        })?,
        Err(error) => ensure!(
            format!("{error:#}").contains("did not start"),
            "it neither ran nor ended: {error:#}"
        ),
    }
    Ok(fs::read_to_string(&log)?[usize::try_from(before)?..].to_owned())
}

fn state(data: &Path) -> Result<String> {
    let told = finished(std::process::Command::new(bin_dir().join("pg_controldata")).arg(data))?;
    let line = told.lines().find(|l| l.starts_with("Database cluster state"));
    Ok(line.context("a state")?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_of_the_command_ends_recovery_early() -> Result<()> {
    let mut scene = Scene::start(PROGRAM, Options::default()).await?;
    scene.sql("create table t (n int)")?;
    scene.base().await?;
    scene.sql("insert into t values (1); insert into t values (2)")?;
    scene.sql("select pg_switch_wal()")?;
    scene.sql("insert into t values (3); insert into t values (4)")?;
    let false_from = scene.sql("select pg_walfile_name(pg_switch_wal())")?;
    scene.sql("insert into t values (5)")?;
    scene.sql("select pg_switch_wal()")?;
    scene.sql("insert into t values (6)")?;
    scene.safe().await?;
    scene.lose_source().await?;

    // Honest before a segment; from it on it does what the file says.
    let (command, lie) = (scene.vault.dir().join("command"), scene.vault.dir().join("lie"));
    let target = scene.target("told");
    let pin = target.data.join("holdfast_restore/pin.json");
    fs::write(
        &command,
        format!(
            "name=$1 path=$2 before={before}\n\
             case $name in *.history) ;; *)\n\
             if [ \"$name\" '<' {false_from} ]; then\n\
             '{PROGRAM}' wal fetch \"$name\" \"$path\" --pin '{pin}' && cp \"$path\" \"$before\"\n\
             exit\n\
             fi;;\n\
             esac\n\
             [ \"${{name%.history}}\" = \"$name\" ] && . '{lie}'\n\
             exec '{PROGRAM}' wal fetch \"$name\" \"$path\" --pin '{pin}'\n",
            before = scene.vault.dir().join("before").display(),
            pin = pin.display(),
            lie = lie.display(),
        ),
    )?;
    let mut options = scene.options().await?;
    options.fetch.prefetch = 0;
    options.fetch.restore_command = Some(format!("sh '{}' %f \"%p\"", command.display()));
    let plan = scene.plan(&Request::new(Target::Latest)).await?;
    execute(&plan, &scene.access().await?, &target, &options).await?;

    for (does, says) in LIES {
        fs::write(&lie, format!("{does}\n"))?;
        let log = stops(&target.data)?;
        assert!(log.contains(says), "{does}: {log}");
        for promoted in ["archive recovery complete", "selected new timeline"] {
            assert!(!log.contains(promoted), "{does}: {log}");
        }
        assert!(state(&target.data)?.contains("in archive recovery"), "{does}");
    }
    // Told the truth, the same directory recovers whole.
    fs::write(&lie, "")?;
    fs::remove_file(target.data.with_extension("log"))?;
    let restored = scene.open("told")?;
    assert_eq!(
        restored.psql("select string_agg(n::text, ' ' order by n) from t")?,
        "1 2 3 4 5 6"
    );
    let reached: Lsn = restored.psql("select pg_current_wal_lsn()")?.parse()?;
    assert!(reached >= plan.replay.target_lsn);
    Ok(())
}

/// What the source's configuration holds about an older recovery, and what it was
/// raised to after the base was taken, does not keep a restore from its end.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_sources_settings_say_does_not_stop_recovery() -> Result<()> {
    let options = Options::default()
        .set("recovery_target_name", "left over in postgresql.conf")
        .set("restore_command", "false")
        .set("archive_cleanup_command", "false");
    let mut scene = Scene::start(PROGRAM, options).await?;
    scene.sql("create table t as select 1 as n")?;
    for left_over in [
        "recovery_target_action = 'shutdown'",
        "recovery_target_timeline = '1'",
        "primary_conninfo = 'host=/nowhere'",
        "synchronous_standby_names = ''",
    ] {
        scene.sql(&format!("alter system set {left_over}"))?;
    }
    // As an older program wrote it: ALTER SYSTEM refuses two targets by itself.
    let auto_conf = scene.pg.data_dir().join("postgresql.auto.conf");
    let text = fs::read_to_string(&auto_conf)?;
    fs::write(
        &auto_conf,
        format!("{text}recovery_target_xid = '7'\nRecovery_Target_Time '2020-01-01 00:00:00'\n"),
    )?;
    scene.base().await?;
    fs::write(&auto_conf, text)?;
    scene.sql("insert into t values (2)")?;

    // More of everything than the base knows.
    for raised in [
        "max_connections = 77",
        "max_worker_processes = 19",
        "max_wal_senders = 17",
    ] {
        scene.sql(&format!("alter system set {raised}"))?;
    }
    scene.pg.restart(holdfast_tests::postgres::StopMode::Fast)?;
    scene.sql("insert into t values (3)")?;
    scene.safe().await?;
    scene.lose_source().await?;

    scene.restore(&Request::new(Target::Latest), "raised").await?;
    let restored = TestPostgres::open(&scene.target("raised").data, false)?;
    promoted(&restored)?;
    assert_eq!(
        restored.psql("select string_agg(n::text, ' ' order by n) from t")?,
        "1 2 3"
    );
    restored.psql("insert into t values (4)")?;
    Ok(())
}
