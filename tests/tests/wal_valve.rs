//! The disk valve against a real server: WAL that waits for replicas does not
//! fill the server's disk, and what that costs is said.

use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_agent::state::Record;
use holdfast_agent::wal::{Valve, ValveLimits, WalState, watch_alone};
use holdfast_proto::pg::Lsn;
use holdfast_proto::record::GapCause;
use holdfast_tests::line::{
    Line, QUICK, check_regions, gaps_said, lineage, position, target, write_noise, write_rows,
};
use holdfast_tests::postgres::{Options, PATIENCE, TestPostgres, wait_until};
use holdfast_tests::vault::Vault;

async fn line(vault: &Vault, pg: &TestPostgres, one_copy_at: u32, give_up_at: u32) -> Result<Line> {
    let valve = Valve {
        limits: ValveLimits {
            one_copy_at,
            give_up_at,
            every: Duration::from_millis(200),
            heavy: 16 << 20,
        },
        data_directory: None,
    };
    Line::start_with(vault, pg, vault.publisher(2), QUICK, lineage(pg)?, valve).await
}

async fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    let reached = async {
        while !holds()? {
            looks.tick().await;
        }
        Ok(())
    };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    reached.with_context(|| format!("waited in vain until {what}"))?
}

fn everywhere(state: &WalState, lsn: Lsn) -> bool {
    state.replicas.iter().all(|r| r.durable >= Some(lsn))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_is_enough_while_the_disk_fills() -> Result<()> {
    let vault = Vault::new(2).await?;
    // The limit of the slot is the measure: a hundredth of it is 10 MB.
    let options = Options::default()
        .set("wal_keep_size", "1GB")
        .set("max_slot_wal_keep_size", "1GB");
    let pg = TestPostgres::start(vault.dir(), options)?;
    let mut line = line(&vault, &pg, 1, 100).await?;
    line.until_safe(&pg).await?;
    vault.faults(1).partition(true);
    // More than memory holds.
    write_noise(&pg, 60)?;
    let (_, lsn) = position(&pg)?;
    let said = line.until_finding("wal-copies-reduced").await?;
    assert!(said.contains("fewer than the tier's copies"), "{said}");
    until("the slot lets go", || {
        let restart: Lsn = pg.psql("select restart_lsn from pg_replication_slots")?.parse()?;
        Ok(restart >= lsn)
    })
    .await?;
    // What counts as acknowledged is what the tier asks for, as before.
    let state = line.frontier.current().context("it streams")?;
    assert!(state.acknowledged < lsn, "{state:?}");

    vault.faults(1).mend();
    let state = line
        .until("both regions have all", |state| everywhere(state, lsn))
        .await?;
    assert!(state.acknowledged >= lsn);
    until("the valve shuts", || Ok(line.findings.snapshot().is_empty())).await?;
    write_rows(&pg, 100)?;
    let state = line.until_safe(&pg).await?;
    check_regions(&vault, &pg, &[0, 1], state.acknowledged).await?;
    line.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_is_given_up_before_the_disk_is_full_and_the_gap_has_a_name() -> Result<()> {
    let vault = Vault::new(2).await?;
    let options = Options::default()
        .set("max_wal_size", "64MB")
        .set("min_wal_size", "32MB");
    let pg = TestPostgres::start(vault.dir(), options)?;
    let mut line = line(&vault, &pg, 0, 0).await?;
    let before = line.until_safe(&pg).await?;
    for region in [0, 1] {
        vault.faults(region).partition(true);
    }
    write_noise(&pg, 100)?;
    let said = line.until_finding("wal-slot-given-up").await?;
    assert!(said.contains("no replica takes WAL"), "{said}");
    let slots = || pg.psql("select count(*) from pg_replication_slots");
    until("the slot is gone", || Ok(slots()? == "0")).await?;
    // The server has its room again.
    write_noise(&pg, 20)?;
    pg.psql("checkpoint")?;
    let kept: u64 = pg.psql("select sum(size) from pg_ls_waldir()")?.parse()?;
    assert!(kept < 100 << 20, "{kept} bytes of WAL are still there");
    // The line rests: nothing makes a slot while no replica takes WAL.
    assert_eq!(slots()?, "0");

    for region in [0, 1] {
        vault.faults(region).mend();
    }
    let said = line.until_finding("wal-gap").await?;
    assert!(said.contains("a new base backup"), "{said}");
    let after = line.until_safe(&pg).await?;
    assert!(after.reach.contiguous_from() > before.acknowledged, "{after:?}");
    assert_eq!(slots()?, "1");
    until("the valve shuts", || {
        Ok(!line.findings.holds("wal-slot-given-up", "acme/erp"))
    })
    .await?;
    let (_, lsn) = position(&pg)?;
    line.until("both regions go on", |state| everywhere(state, lsn))
        .await?;
    line.stop().await?;
    let said = gaps_said(&vault, lineage(&pg)?).await?;
    let causes: Vec<_> = said.iter().map(|(to, gap)| (*to, gap.cause)).collect();
    assert_eq!(causes, [(after.reach.contiguous_from(), GapCause::ValveGaveUp)]);
    Ok(())
}

/// The valve opens, the process dies, and another one goes on when the stores are back:
/// the hole has its true cause.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_goes_on_knows_why_the_slot_was_given_up() -> Result<()> {
    let vault = Vault::new(2).await?;
    let options = Options::default()
        .set("max_wal_size", "64MB")
        .set("min_wal_size", "32MB");
    let pg = TestPostgres::start(vault.dir(), options)?;
    let first = line(&vault, &pg, 0, 0).await?;
    first.until_safe(&pg).await?;
    for region in [0, 1] {
        vault.faults(region).partition(true);
    }
    write_noise(&pg, 60)?;
    first.until_finding("wal-slot-given-up").await?;
    first.kill().await;
    write_noise(&pg, 60)?;
    pg.psql("checkpoint; select pg_switch_wal(); checkpoint")?;
    for region in [0, 1] {
        vault.faults(region).mend();
    }
    let second = line(&vault, &pg, 90, 95).await?;
    let said = second.until_finding("wal-gap").await?;
    assert!(said.contains("the disk valve gave the slot up"), "{said}");
    write_rows(&pg, 100)?;
    second.until_safe(&pg).await?;
    wait_until("the slot holds what is not stored from here on", || {
        let kept = std::fs::read_to_string(vault.dir().join("unheld.json"))?;
        Ok(kept.trim() == "null")
    })?;
    second.stop().await?;
    let said = gaps_said(&vault, lineage(&pg)?).await?;
    let causes: Vec<_> = said.iter().map(|(_, gap)| gap.cause).collect();
    assert_eq!(causes, [GapCause::ValveGaveUp]);
    Ok(())
}

/// No line runs, because no store answers since the agent started: the slot does not
/// fill the disk all the same.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_line_the_slot_is_given_up_too() -> Result<()> {
    let vault = Vault::new(2).await?;
    let pg = TestPostgres::start(vault.dir(), Options::default())?;
    let first = line(&vault, &pg, 90, 95).await?;
    first.until_safe(&pg).await?;
    first.stop().await?;
    write_noise(&pg, 40)?;
    let record = Record::at(vault.dir().join("unheld.json"));
    let valve = |give_up_at| Valve {
        limits: ValveLimits {
            one_copy_at: 0,
            give_up_at,
            every: Duration::from_millis(100),
            heavy: 16 << 20,
        },
        data_directory: None,
    };
    let slot = "holdfast".parse()?;
    let target = target(&pg)?;
    // With room on the volume nothing happens.
    let roomy = valve(100);
    let watching = watch_alone(&target, &slot, &roomy, &record);
    let patience = Duration::from_secs(1);
    assert!(tokio::time::timeout(patience, watching).await.is_err());
    assert_eq!(pg.psql("select count(*) from pg_replication_slots")?, "1");
    let said = tokio::time::timeout(PATIENCE, watch_alone(&target, &slot, &valve(0), &record)).await?;
    assert!(said.contains("the slot was dropped"), "{said}");
    assert_eq!(pg.psql("select count(*) from pg_replication_slots")?, "0");
    assert_eq!(record.load::<GapCause>()?, Some(GapCause::ValveGaveUp));
    Ok(())
}
