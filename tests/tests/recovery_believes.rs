//! What PostgreSQL believes of its `restore_command`, and what a restore makes of
//! it: whatever the command does, recovery ends at the target or not at all.
//!
//! Facts about PostgreSQL, to be looked at again with each major: it takes an exit
//! code up to 125, an absent file and a file of zeros for the end of the log; and it
//! stops at 126 and above, at a signal, and at a file of another size. With a target
//! that is a position it refuses to end before it, so neither kind ends in less.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use holdfast_agent::restore::execute;
use holdfast_plan::restore::{Request, Target};
use holdfast_proto::pg::Lsn;
use holdfast_tests::postgres::{Options, StopMode, TestPostgres, bin_dir, finished, wait_until};
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

/// What PostgreSQL makes of a command when it is given no target, which is why a restore
/// always gives it one: six rows are committed, two of them before the segment from
/// which the command lies.
#[test]
fn without_a_target_postgresql_believes_what_it_is_told() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let archive = dir.path().join("archive");
    fs::create_dir(&archive)?;
    let options = Options::default()
        .initdb("--wal-segsize=1")
        .set("archive_mode", "on")
        .set("archive_command", &format!("cp %p '{}/%f'", archive.display()));
    let mut pg = TestPostgres::start(&dir.path().join("source"), options)?;
    pg.psql("create table t (n int)")?;
    pg.stop(StopMode::Fast)?;
    let copied = |name: &str| -> Result<PathBuf> {
        let place = dir.path().join(name);
        finished(
            std::process::Command::new("cp")
                .arg("-a")
                .arg(pg_data(dir.path()))
                .arg(&place),
        )?;
        Ok(place)
    };
    let base = copied("base")?;
    pg.start_again()?;
    let mut false_from = String::new();
    for n in [1, 3, 5] {
        pg.psql(&format!(
            "insert into t values ({n}); insert into t values ({})",
            n + 1
        ))?;
        let ended = pg.psql("select pg_walfile_name(pg_switch_wal())")?;
        if n == 3 {
            false_from = ended;
        }
    }
    // At the beginning of a segment majors name different files: something is in it.
    let last = pg.psql("create table u (n int); select pg_walfile_name(pg_switch_wal())")?;
    wait_until("all is archived", || Ok(archive.join(&last).exists()))?;
    pg.stop(StopMode::Fast)?;

    let command = dir.path().join("command");
    let told = |does: &str, signal: &str, name: &str| -> Result<PathBuf> {
        let place = dir.path().join(name);
        finished(std::process::Command::new("cp").arg("-a").arg(&base).arg(&place))?;
        let said = format!(
            "name=$1 path=$2\n\
             case $name in *.history) exit 1;; esac\n\
             [ \"$name\" '<' {false_from} ] && exec cp {archive}/$name \"$path\"\n\
             before={archive}/{first}\n{does}\n",
            archive = archive.display(),
            first = fs::read_dir(&archive)?
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .min()
                .context("an archived segment")?,
        );
        fs::write(&command, said)?;
        let restore = format!(
            "restore_command = 'sh ''{}'' %f \"%p\"'\narchive_mode = off\n",
            command.display()
        );
        let settings = place.join("postgresql.auto.conf");
        fs::write(&settings, restore)?;
        fs::write(place.join(signal), "")?;
        Ok(place)
    };
    for (n, (does, with_target)) in LIES.into_iter().enumerate() {
        let place = told(does, "recovery.signal", &format!("told{n}"))?;
        if with_target == ENDED {
            let restored = TestPostgres::open(&place, false)?;
            promoted(&restored)?;
            assert_eq!(restored.psql("select count(*) from t")?, "2", "{does}");
        } else {
            let log = stops(&place)?;
            assert!(log.contains(with_target), "{does}: {log}");
            assert!(!log.contains("archive recovery complete"), "{does}: {log}");
        }
        fs::remove_dir_all(&place)?;
    }
    // As a standby it stays up, serves what it has, and looks healthy.
    let standby = TestPostgres::open(&told("exit 1", "standby.signal", "standby")?, false)?;
    wait_until("the standby has what the command gives", || {
        Ok(standby.psql("select count(*) from t")? == "2")
    })?;
    assert_eq!(standby.psql("select pg_is_in_recovery()")?, "t");
    Ok(())
}

fn pg_data(dir: &Path) -> PathBuf {
    dir.join("source/data")
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
    scene.pg.restart(StopMode::Fast)?;
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
