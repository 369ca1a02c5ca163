//! Without a store for hours: the slot is the buffer, memory stays bounded, and when the
//! stores are back nothing is missing. The hours pass in seconds for the agent alone
//! (`libfaketime`): its retries, deadlines and silences are what they are in hours.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use holdfast_proto::pg::Lsn;
use holdfast_repository::layout;
use holdfast_tests::postgres::{Options, TestPostgres};
use holdfast_tests::scene::promoted;

use crate::house::{House, said};

/// How much faster time passes for the agent: an hour in twelve seconds.
const HASTE: u32 = 300;
/// Hours without a store.
const HOURS: u64 = 2;
/// What the WAL path may take, whatever happens to it.
const BOUND: u64 = 64 << 20;

/// Where Debian has the library.
fn library() -> Result<PathBuf> {
    let found = fs::read_dir("/usr/lib")?
        .filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketimeMT.so.1")))
        .find(|path| path.exists());
    found.context("libfaketimeMT.so.1 is not installed: Debian's package is faketime")
}

/// Puts a region out of reach, or back. What stands in its place cannot hold anything.
fn away(region: &Path, away: bool) -> Result<()> {
    let kept = region.with_extension("kept");
    if away {
        fs::rename(region, kept)?;
        fs::write(region, b"")?;
    } else {
        fs::remove_file(region)?;
        fs::rename(kept, region)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hours_without_a_store_lose_nothing_and_take_no_memory() -> Result<()> {
    let mut house = House::new(Options::default()).await?;
    house.pg.psql("create table kept (n int)")?;
    let bases = layout::bases(&house.vault.cluster, house.lineage()?);
    let mut agent = house.agent()?;
    house.until("each region has a base backup", &mut agent, || {
        Ok((0..2).all(|region| house.objects(region, &bases) > 0))
    })?;
    agent.kill()?;

    // What platinum has.
    house.direct(5_000, 900_000, 10_000)?;
    let library = library()?;
    let haste = format!("+0 x{HASTE}");
    let mut agent = house.agent_with(&[("LD_PRELOAD", &library.to_string_lossy()), ("FAKETIME", &haste)])?;
    let streams = "select count(*) from pg_stat_replication where state = 'streaming'";
    house.until("it streams", &mut agent, || Ok(house.pg.psql(streams)? == "1"))?;
    let before = agent.memory("VmRSS")?;
    let kept = || -> Result<Lsn> {
        Ok(house
            .pg
            .psql("select restart_lsn from pg_replication_slots")?
            .parse()?)
    };
    let written = || -> Result<Lsn> { Ok(house.pg.psql("select pg_current_wal_insert_lsn()")?.parse()?) };

    for region in 0..2 {
        away(house.vault.place(region), true)?;
    }
    let began = kept()?;
    let mut rows = 0;
    let end = std::time::Instant::now() + std::time::Duration::from_secs(HOURS * 3600 / u64::from(HASTE));
    while std::time::Instant::now() < end {
        rows += 1;
        house.pg.psql(&format!("insert into kept values ({rows})"))?;
        // In all far more than memory may hold.
        house.pg.psql(
            "select pg_logical_emit_message(false, 'noise', repeat(md5(random()::text), 32768)) \
             from generate_series(1, 3)",
        )?;
        ensure!(agent.0.try_wait()?.is_none(), "the agent ended");
    }
    let (slot, tip) = (kept()?, written()?);
    ensure!(
        tip.get() - began.get() > 100 << 20,
        "only {} bytes of WAL",
        tip.get() - began.get()
    );
    assert!(
        slot.get() - began.get() <= 16 << 20,
        "the slot keeps what no region has: {began}, then {slot}"
    );

    for region in 0..2 {
        away(house.vault.place(region), false)?;
    }
    house.until("all is stored", &mut agent, || Ok(kept()? >= tip))?;
    let most = agent.memory("VmHWM")?;
    println!(
        "{rows} rows, {} MB of WAL, {before} to {most} bytes",
        (tip.get() - began.get()) >> 20
    );
    assert!(most < 256 << 20, "{most} bytes");
    assert!(most - before < BOUND, "{before} bytes before, {most} at most");
    agent.kill()?;
    house.pg.kill9()?;

    let restored = house.restore("recovery.key", "restored", &[])?;
    ensure!(restored.status.success(), "{}", said(&restored));
    let server = TestPostgres::open(&house.dir().join("restored"), false)?;
    promoted(&server)?;
    assert_eq!(
        server.psql("select count(*), count(distinct n), max(n) from kept")?,
        format!("{rows}|{rows}|{rows}")
    );
    Ok(())
}
