//! The WAL line when it is stopped or killed, and when its server shuts down:
//! nothing is lost, and nobody waits.

use std::time::Duration;

use anyhow::Result;
use holdfast_agent::wal::{Valve, WalError};
use holdfast_proto::pg::TimelineId;
use holdfast_proto::record::LeaseBody;
use holdfast_repository::clock::now;
use holdfast_repository::layout;
use holdfast_repository::signed::Content;
use holdfast_tests::faulty::{Fault, FaultPlan};
use holdfast_tests::line::{
    Line, NEVER, QUICK, check_regions, lineage, names, position, stored, write_noise, write_rows,
};
use holdfast_tests::postgres::{Options, PATIENCE, StopMode, TestPostgres};
use holdfast_tests::vault::Vault;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_line_continues_exactly() -> Result<()> {
    let vault = Vault::new(2).await?;
    let options = Options::default()
        .initdb("--wal-segsize=1")
        .set("wal_keep_size", "1GB");
    let pg = TestPostgres::start(vault.dir(), options)?;
    // The process dies at different calls, before and after they happened.
    for (round, fault) in [
        Fault::HaltAfter,
        Fault::HaltBefore,
        Fault::LostAck,
        Fault::HaltAfter,
    ]
    .into_iter()
    .enumerate()
    {
        let line = Line::start(&vault, &pg, 2, QUICK).await?;
        line.until_safe(&pg).await?;
        let region = round % 2;
        let halts = ["-0000", "/wal/", "/wal/", "-000000"][round];
        vault
            .faults(region)
            .fail_matching(Some(holdfast_tests::faulty::Call::Put), halts, fault);
        write_rows(&pg, 3_000)?;
        let (_, lsn) = position(&pg)?;
        let mut line = line;
        let other = format!("region{}", 1 - region);
        line.until("the other region has it", |s| {
            s.replicas
                .iter()
                .any(|r| r.region.as_str() == other && r.durable >= Some(lsn))
        })
        .await?;
        line.kill().await;
        vault.faults(region).mend();
    }
    let line = Line::start(&vault, &pg, 2, QUICK).await?;
    write_rows(&pg, 1_000)?;
    let safe = line.until_safe(&pg).await?.acknowledged;
    check_regions(&vault, &pg, &[0, 1], safe).await?;
    assert!(!line.findings.snapshot().iter().any(|f| f.name == "wal-gap"));
    line.stop().await
}

/// The process dies at the n-th call of a store, for every n: what each region
/// holds has no hole, and the next one goes on.

#[tokio::test(flavor = "multi_thread")]
async fn a_death_at_any_call_leaves_no_hole() -> Result<()> {
    let vault = Vault::new(2).await?;
    let options = Options::default()
        .initdb("--wal-segsize=1")
        .set("wal_keep_size", "1GB");
    let pg = TestPostgres::start(vault.dir(), options)?;
    let lineage = lineage(&pg)?;
    for n in 1..=30 {
        let region = n % 2;
        let fault = if n % 4 < 2 {
            Fault::HaltBefore
        } else {
            Fault::HaltAfter
        };
        let plans: [FaultPlan; 2] = Default::default();
        let mut publisher = vault.publisher(2);
        publisher.repository = vault.opened_with(&plans).await?;
        let doomed = plans[region].clone();
        let opening = doomed.calls();
        let doomed = doomed.nth(opening + n as u64, fault);
        let line = Line::start_with(
            &vault,
            &pg,
            publisher,
            Duration::from_millis(10),
            lineage,
            Valve::default(),
        )
        .await?;
        let writing = async {
            loop {
                pg.psql("create table if not exists w (n int); insert into w values (1)")?;
                tokio::task::yield_now().await;
                if doomed.struck() {
                    return anyhow::Ok(());
                }
            }
        };
        tokio::time::timeout(PATIENCE, writing).await??;
        line.kill().await;
        for region in 0..2 {
            let repository = vault.only(region).await?;
            if !names(&repository, &vault, lineage).await?.is_empty() {
                stored(&repository, &vault, lineage, TimelineId::FIRST).await?;
            }
        }
    }
    let line = Line::start(&vault, &pg, 2, QUICK).await?;
    let safe = line.until_safe(&pg).await?.acknowledged;
    check_regions(&vault, &pg, &[0, 1], safe).await?;
    line.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_stores_what_was_received() -> Result<()> {
    let vault = Vault::new(1).await?;
    let pg = TestPostgres::start(vault.dir(), Options::default())?;
    let mut line = Line::start(&vault, &pg, 1, NEVER).await?;
    line.until("it streams", |state| state.connected).await?;
    pg.psql("create table t (n int)")?;
    let (_, lsn) = position(&pg)?;
    line.until("it has the tip", |state| state.received >= lsn)
        .await?;
    line.stop().await?;
    check_regions(&vault, &pg, &[0], lsn).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_shutdown_waits_for_nobody() -> Result<()> {
    let vault = Vault::new(2).await?;
    let mut pg = TestPostgres::start(vault.dir(), Options::default())?;
    let line = Line::start(&vault, &pg, 2, NEVER).await?;
    line.until_safe(&pg).await?;
    write_rows(&pg, 1000)?;
    pg.begin_stop(StopMode::Fast)?;
    pg.wait_stopped(Duration::from_secs(5))?;
    let asked = pg.log();
    assert!(
        !asked.contains("terminating walsender process due to replication timeout"),
        "{asked}"
    );

    // All of it is stored, the shutdown checkpoint included.
    pg.start_again()?;
    let safe = line.until_safe(&pg).await?.acknowledged;
    check_regions(&vault, &pg, &[0, 1], safe).await?;

    // With stores that never answer the server is let go all the same.
    for region in 0..2 {
        vault.faults(region).fail_matching(None, "", Fault::HaltBefore);
    }
    write_rows(&pg, 1000)?;
    pg.begin_stop(StopMode::Fast)?;
    pg.wait_stopped(Duration::from_secs(5))?;

    // Also when memory has been full for a while.
    pg.start_again()?;
    write_noise(&pg, 40)?;
    let mut line = line;
    line.until("memory is full", |state| !state.connected).await?;
    pg.begin_stop(StopMode::Fast)?;
    pg.wait_stopped(Duration::from_secs(5))?;
    for region in 0..2 {
        vault.faults(region).mend();
    }
    pg.start_again()?;
    let safe = line.until_safe(&pg).await?.acknowledged;
    check_regions(&vault, &pg, &[0, 1], safe).await?;
    line.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_lost_its_lease_stops() -> Result<()> {
    let vault = Vault::new(2).await?;
    let pg = TestPostgres::start(vault.dir(), Options::default())?;
    let publisher = vault.publisher(1);
    for n in [1, 2] {
        let body = LeaseBody {
            n,
            holder: "agent".parse()?,
            nonce: n.to_string(),
            taken: now(),
        };
        let key = layout::lease(&vault.cluster, n);
        let object = publisher.sign(&key, Content::default(), None, None, &body).bytes;
        vault.repository.replicas()[1].create(&key, object).await?;
    }
    let line = Line::start_as(&vault, &pg, 1, QUICK, Some(1), lineage(&pg)?).await?;
    let ended = tokio::time::timeout(PATIENCE, line.task).await??;
    assert!(
        matches!(ended, Err(WalError::Fenced { held: 1, found: 2 })),
        "{ended:?}"
    );
    let line = Line::start_as(&vault, &pg, 1, QUICK, Some(2), lineage(&pg)?).await?;
    line.until_safe(&pg).await?;
    line.stop().await
}
