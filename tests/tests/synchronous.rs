//! The agent as a synchronous standby: what a client was told is committed is in
//! the restore, whenever the server and a region die. `HOLDFAST_TEST_ROUNDS` says
//! how often that is tried.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_agent::restore::execute;
use holdfast_plan::restore::{Request, Target};
use holdfast_repository::clock::now;
use holdfast_tests::line::{Line, NEVER, QUICK, position};
use holdfast_tests::postgres::{Options, PATIENCE, TestPostgres, wait_until};
use holdfast_tests::scene::Scene;
use holdfast_tests::vault::Vault;

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-wal");
const CLIENTS: i32 = 4;

/// What clients were told is committed.
type Told = Arc<Mutex<BTreeSet<(i32, i32)>>>;

/// Commits one row after another until the server is gone.
async fn client(conninfo: String, client: i32, first: i32, told: Told) {
    let Ok((session, connection)) = tokio_postgres::connect(&conninfo, tokio_postgres::NoTls).await else {
        return;
    };
    let connection = tokio::spawn(connection);
    for n in first.. {
        let inserted = session
            .execute("insert into told values ($1, $2)", &[&client, &n])
            .await;
        if inserted.is_err() {
            break;
        }
        told.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((client, n));
    }
    connection.abort();
}

fn rounds() -> i32 {
    let asked = std::env::var("HOLDFAST_TEST_ROUNDS").ok();
    asked.and_then(|rounds| rounds.parse().ok()).unwrap_or(4)
}

/// Moves a region out of reach, or back.
fn lose(region: &Path, lost: bool) -> Result<()> {
    let away = region.with_extension("lost");
    let (from, to) = if lost { (region, &*away) } else { (&*away, region) };
    Ok(fs::rename(from, to)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_to_be_committed_survives_everything_but_one_region() -> Result<()> {
    let options = Options::default().set("synchronous_standby_names", "holdfast");
    let mut scene = Scene::start(PROGRAM, options).await?;
    scene.sql("create table told (client int, n int)")?;
    scene.base().await?;
    let told = Told::default();
    let mut most = 0;
    for round in 0..rounds() {
        let writers: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let conninfo = scene.pg.conninfo("postgres");
                tokio::spawn(client(conninfo, n, round * 1_000_000, told.clone()))
            })
            .collect();
        // At a moment that nobody chose.
        let moment = 150 + now().unix_micros() % 600;
        tokio::time::sleep(Duration::from_millis(u64::try_from(moment)?)).await;
        scene.lose_source().await?;
        for writer in writers {
            writer.await?;
        }
        let lost = usize::try_from(round % 2)?;
        lose(scene.vault.place(lost), true)?;

        let name = format!("round{round}");
        let mut request = Request::new(Target::Latest);
        request.accept_unreachable = [format!("region{lost}").parse()?].into();
        let plan = scene.plan(&request).await?;
        let target = scene.target(&name);
        execute(&plan, &scene.access().await?, &target, &scene.options().await?).await?;
        let restored = scene.open(&name)?;
        let rows = restored.psql("select string_agg(client || ' ' || n, ',') from told")?;
        let rows: BTreeSet<(i32, i32)> = rows
            .split(',')
            .filter_map(|row| row.split_once(' '))
            .map(|(client, n)| Ok((client.parse()?, n.parse()?)))
            .collect::<Result<_>>()?;
        let told_now = told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let missing: Vec<_> = told_now.difference(&rows).collect();
        assert!(
            missing.is_empty(),
            "round {round}, {moment} ms: {missing:?} of {}",
            told_now.len()
        );
        most = told_now.len();
        drop(restored);
        fs::remove_dir_all(target.data)?;

        lose(scene.vault.place(lost), false)?;
        scene.pg.start_again()?;
        scene.protect().await?;
    }
    println!("{most} commits over {} rounds, none missing", rounds());
    assert!(
        most >= usize::try_from(rounds() * CLIENTS)?,
        "only {most} commits"
    );
    Ok(())
}

/// What a commit waits for is sent at once, however long the tier lets WAL wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_does_not_wait_for_the_tips_interval() -> Result<()> {
    let vault = Vault::new(2).await?;
    let pg = TestPostgres::start(vault.dir(), Options::default())?;
    let mut line = Line::start(&vault, &pg, 2, NEVER).await?;
    line.until("it streams", |state| state.connected).await?;
    pg.psql("create table t (n int)")?;
    let (_, lsn) = position(&pg)?;
    // The name is given while it streams.
    pg.psql("alter system set synchronous_standby_names = 'holdfast'")?;
    pg.psql("select pg_reload_conf()")?;
    let conninfo = pg.conninfo("postgres");
    let commit = async move {
        let (client, connection) = tokio_postgres::connect(&conninfo, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute("insert into t values (1)").await
    };
    tokio::time::timeout(PATIENCE, commit)
        .await
        .context("the commit waits")??;
    let safe = line.frontier.current().context("a state")?.acknowledged;
    assert!(safe > lsn, "{safe} {lsn}");
    line.stop().await
}

/// With `remote_apply` a commit means that a standby shows it. An archive shows
/// nothing, so it does not stand in for one; WAL is stored all the same.
#[tokio::test(flavor = "multi_thread")]
async fn remote_apply_is_refused_with_an_explanation() -> Result<()> {
    let vault = Vault::new(2).await?;
    let options = Options::default()
        .set("synchronous_standby_names", "ANY 1 (holdfast, other)")
        .set("synchronous_commit", "remote_apply");
    let pg = TestPostgres::start(vault.dir(), options)?;
    let mut line = Line::start(&vault, &pg, 2, QUICK).await?;
    line.until("it streams", |state| state.connected).await?;
    let said = line.until_finding("remote-apply-refused").await?;
    assert!(said.contains("synchronous_commit"), "{said}");
    let standing =
        "select count(*) from pg_stat_replication where sync_state in ('sync', 'quorum', 'potential')";
    assert_eq!(pg.psql(standing)?, "0");
    pg.psql("set synchronous_commit = local; create table t (n int)")
        .context("a commit that waits for nobody")?;
    line.until_safe(&pg).await?;

    // Put right, it stands in again by itself, and commits end.
    let set = |to: &str| {
        pg.psql(&format!("alter system set synchronous_commit = '{to}'"))?;
        pg.psql("select pg_reload_conf()")
    };
    set("on")?;
    wait_until("it stands in", || Ok(pg.psql(standing)? == "1"))?;
    pg.psql("insert into t values (1)")
        .context("a commit that waits for it")?;
    assert!(!line.findings.holds("remote-apply-refused", "acme/erp"));
    // Changed again while it streams, it steps back by itself.
    set("remote_apply")?;
    wait_until("it stands back", || Ok(pg.psql(standing)? == "0"))?;
    line.until_finding("remote-apply-refused").await?;

    // A name of its own does not help where every name is waited for.
    pg.psql("alter system set synchronous_standby_names = '*'")?;
    pg.psql("select pg_reload_conf()")?;
    wait_until("it says so", || {
        let said = line.findings.snapshot();
        Ok(said.iter().any(|f| f.detail.contains("confirms nothing")))
    })?;
    wait_until("it streams", || {
        Ok(pg.psql("select count(*) from pg_stat_replication")? == "1")
    })?;
    assert_eq!(pg.psql(standing)?, "0");
    pg.psql("set synchronous_commit = local; insert into t values (2)")?;
    let (_, lsn) = position(&pg)?;
    line.until("it is stored all the same", |state| state.acknowledged >= lsn)
        .await?;
    assert_eq!(pg.psql(standing)?, "0");
    line.stop().await
}
