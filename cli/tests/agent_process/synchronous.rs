//! The agent as the synchronous standby: what a client was told is committed is in the
//! restore, whenever the server, the agent and a region die together.
//! `HOLDFAST_TEST_ROUNDS` says how often that is tried.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_repository::layout;
use holdfast_tests::postgres::{Options, TestPostgres};
use holdfast_tests::scene::promoted;

use crate::house::{House, said};

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
        let row = "insert into told values ($1, $2)";
        if session.execute(row, &[&client, &n]).await.is_err() {
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
    asked.and_then(|rounds| rounds.parse().ok()).unwrap_or(3)
}

/// Moves a region out of reach, or back.
fn lose(region: &Path, lost: bool) -> Result<()> {
    let away = region.with_extension("lost");
    let (from, to) = if lost { (region, &*away) } else { (&*away, region) };
    Ok(fs::rename(from, to)?)
}

/// Milliseconds that nobody chose.
fn some(least: u64, more: u32) -> Duration {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let chance = now.map_or(0, |now| now.subsec_micros() % more);
    Duration::from_millis(least + u64::from(chance))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_to_be_committed_survives_everything_but_one_region() -> Result<()> {
    let mut house = House::new(Options::default()).await?;
    house.pg.psql("create table told (client int, n int)")?;
    let bases = layout::bases(&house.vault.cluster, house.lineage()?);
    let mut agent = house.agent()?;
    house.until("each region has a base backup", &mut agent, || {
        Ok((0..2).all(|region| house.objects(region, &bases) > 0))
    })?;
    house
        .pg
        .psql("alter system set synchronous_standby_names = 'holdfast'")?;
    house.pg.psql("select pg_reload_conf()")?;

    let told = Told::default();
    for round in 0..rounds() {
        house.until("commits wait for the agent", &mut agent, || {
            let standing = "select count(*) from pg_stat_replication where sync_state = 'sync'";
            Ok(house.pg.psql(standing)? == "1")
        })?;
        let before = told.lock().unwrap_or_else(PoisonError::into_inner).len();
        let writers: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let conninfo = house.pg.conninfo("postgres");
                tokio::spawn(client(conninfo, n, round * 1_000_000, told.clone()))
            })
            .collect();
        tokio::time::sleep(some(200, 1300)).await;
        // Both die; who dies first is chance, too.
        if some(0, 2).is_zero() {
            agent.kill()?;
            house.pg.kill9()?;
        } else {
            house.pg.kill9()?;
            agent.kill()?;
        }
        for writer in writers {
            writer.await?;
        }
        let lost = usize::try_from(round % 2)?;
        lose(house.vault.place(lost), true)?;
        let told_now = told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ensure!(told_now.len() > before, "round {round}: nothing was committed");

        let name = format!("round{round}");
        let region = format!("region{lost}");
        let restored = house.restore("recovery.key", &name, &["--accept-unreachable", &region])?;
        ensure!(restored.status.success(), "{}", said(&restored));
        let rows = rows(&house.dir().join(&name))?;
        let missing: Vec<_> = told_now.difference(&rows).collect();
        assert!(
            missing.is_empty(),
            "round {round}: {missing:?} of {}",
            told_now.len()
        );
        fs::remove_dir_all(house.dir().join(&name))?;

        lose(house.vault.place(lost), false)?;
        house.pg.start_again()?;
        agent = house.agent()?;
    }
    let told = told.lock().unwrap_or_else(PoisonError::into_inner).len();
    println!("{told} commits over {} rounds, none missing", rounds());
    Ok(())
}

/// What a restored data directory has.
fn rows(data: &Path) -> Result<BTreeSet<(i32, i32)>> {
    let server = TestPostgres::open(data, false)?;
    promoted(&server)?;
    let rows = server.psql("select string_agg(client || ' ' || n, ',') from told")?;
    rows.split(',')
        .filter_map(|row| row.split_once(' '))
        .map(|(client, n)| Ok((client.parse()?, n.parse()?)))
        .collect()
}
