//! The WAL line against a real server: what is in the repository is the server's
//! WAL, on every replica in order.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_agent::postgres::sql_connect;
use holdfast_agent::wal;
use holdfast_proto::Timestamp;
use holdfast_proto::names::Lineage;
use holdfast_proto::pg::Lsn;
use holdfast_proto::record::{FrontierBody, WalBody};
use holdfast_repository::clock::now;
use holdfast_repository::layout;
use holdfast_tests::line::{
    Line, NEVER, QUICK, check_regions, lineage, names, position, segment_size, target, write_noise,
    write_rows,
};
use holdfast_tests::postgres::{Options, PATIENCE, TestPostgres};
use holdfast_tests::vault::Vault;

#[tokio::test(flavor = "multi_thread")]
async fn the_repository_holds_the_servers_wal() -> Result<()> {
    let vault = Vault::new(2).await?;
    let pg = TestPostgres::start(
        vault.dir(),
        Options::default()
            .initdb("--wal-segsize=1")
            .set("wal_keep_size", "1GB"),
    )?;
    let mut line = Line::start(&vault, &pg, 2, NEVER).await?;
    line.until("it streams", |state| state.connected).await?;
    write_rows(&pg, 20_000)?;
    pg.psql("select pg_switch_wal()")?;
    let before: f64 = pg.psql("select extract(epoch from now())")?.parse()?;
    pg.psql("select pg_create_restore_point('here'); create table u (n int)")?;
    let state = line.until_safe(&pg).await?;
    assert_eq!(state.rpo_ms(now()), 0);
    assert!(
        state
            .last_commit
            .is_some_and(|t| t.unix_micros() as f64 / 1e6 >= before - 0.001)
    );

    check_regions(&vault, &pg, &[0, 1], state.acknowledged).await?;
    let (lineage, size) = (lineage(&pg)?, segment_size(&pg)?);
    let mut points = Vec::new();
    let (mut commits, mut previous) = (0, None);
    for name in names(&vault.repository, &vault, lineage).await? {
        assert_eq!(
            size.segment_of(name.start),
            size.segment_of(Lsn::new(name.end.get() - 1))
        );
        let signed = vault
            .signed::<WalBody>(&layout::wal(&vault.cluster, lineage, &name))
            .await?;
        assert_eq!(signed.header.previous, previous, "the chain is whole");
        previous = Some(signed.link());
        points.extend(signed.body().restore_points.clone());
        commits += signed.body().commits;
    }
    assert_eq!(points.len(), 1);
    assert_eq!(points[0].name, "here");
    assert!(commits >= 3, "{commits}");
    let restart: Lsn = pg.psql("select restart_lsn from pg_replication_slots")?.parse()?;
    assert!(restart >= points[0].end, "the slot was moved on");
    assert_eq!(line.findings.snapshot(), []);
    line.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tip_arrives_by_itself_and_idleness_makes_no_objects() -> Result<()> {
    let vault = Vault::new(2).await?;
    let pg = TestPostgres::start(vault.dir(), Options::default())?;
    let mut line = Line::start(&vault, &pg, 2, QUICK).await?;
    pg.psql("create table t (n int)")?;
    let (_, lsn) = position(&pg)?;
    line.until("the tip is safe", |state| state.acknowledged >= lsn)
        .await?;

    let lineage = lineage(&pg)?;
    let before = names(&vault.repository, &vault, lineage).await?;
    let (_, idle) = position(&pg)?;
    let attested = async || -> Result<usize> {
        let listing = vault
            .repository
            .list(&layout::frontiers(&vault.cluster, lineage))
            .await?;
        Ok(listing.objects.len())
    };
    let seen = attested().await?;
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    while attested().await? < seen + 3 {
        looks.tick().await;
    }
    if position(&pg)?.1 == idle {
        let after = names(&vault.repository, &vault, lineage).await?;
        let grown = after.iter().filter(|name| name.start >= idle).count();
        assert_eq!(
            grown,
            0,
            "no new WAL, no object: {} and {}",
            before.len(),
            after.len()
        );
    }
    let listing = vault
        .repository
        .list(&layout::frontiers(&vault.cluster, lineage))
        .await?;
    let newest = listing.objects.keys().next_back().context("no attestation")?;
    let attestation = vault.signed::<FrontierBody>(newest).await?;
    assert!(attestation.body().acknowledged >= lsn);
    assert_eq!(attestation.body().replicas.len(), 2);
    line.stop().await
}

/// Waits for an attestation of which `is` is true.
async fn attestation(
    vault: &Vault,
    lineage: Lineage,
    what: &str,
    is: impl Fn(&FrontierBody) -> bool,
) -> Result<FrontierBody> {
    let found = async {
        let mut looks = tokio::time::interval(Duration::from_millis(50));
        loop {
            looks.tick().await;
            let frontiers = layout::frontiers(&vault.cluster, lineage);
            let listing = vault.repository.list(&frontiers).await?;
            if let Some(newest) = listing.objects.keys().next_back() {
                let body = vault.signed::<FrontierBody>(newest).await?.body().clone();
                if is(&body) {
                    return anyhow::Ok(body);
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, found)
        .await
        .context(what.to_owned())?
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_does_not_reach_its_server_vouches_for_nothing() -> Result<()> {
    let vault = Vault::new(2).await?;
    let pg = TestPostgres::start(vault.dir(), Options::default())?;
    let mut line = Line::start(&vault, &pg, 2, QUICK).await?;
    let lineage = lineage(&pg)?;
    let client = sql_connect(&target(&pg)?).await?;
    let clock = async || -> Result<Timestamp> {
        let row = client.query_one("select clock_timestamp()", &[]).await?;
        Ok(Timestamp::from_chrono(row.try_get(0)?))
    };
    client.batch_execute("create table public.t (n int)").await?;
    let before = clock().await?;
    let seen = attestation(&vault, lineage, "all until now is safe", |said| {
        said.complete_until.is_some_and(|until| until >= before)
    })
    .await?;
    assert!(seen.heard() >= before);

    // Nobody new finds the server; what is connected already goes on working in it.
    let socket = pg.socket_dir().join(format!(".s.PGSQL.{}", pg.port()));
    let hidden = vault.dir().join("hidden");
    std::fs::rename(&socket, &hidden)?;
    client
        .batch_execute("select pg_terminate_backend(pid) from pg_stat_replication")
        .await?;
    line.until("it is cut off", |state| !state.connected).await?;
    client.batch_execute("insert into public.t values (1)").await?;
    let meanwhile = clock().await?;
    let said = attestation(&vault, lineage, "it goes on signing", |said| said.at > meanwhile).await?;
    assert!(
        said.complete_until.is_some_and(|until| until < meanwhile),
        "{said:?}"
    );
    assert!(said.heard() < meanwhile, "{said:?}");

    std::fs::rename(&hidden, &socket)?;
    attestation(&vault, lineage, "it is back", |said| {
        said.complete_until.is_some_and(|until| until >= meanwhile)
    })
    .await?;
    line.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_away_catches_up() -> Result<()> {
    let vault = Vault::new(2).await?;
    let pg = TestPostgres::start(vault.dir(), Options::default().set("wal_keep_size", "1GB"))?;
    let line = Line::start(&vault, &pg, 1, QUICK).await?;
    line.until_safe(&pg).await?;
    vault.faults(1).partition(true);
    // More than memory holds, so that the other replica has to give it back.
    write_noise(&pg, 40)?;
    let state = line.until_safe(&pg).await?;
    line.until_finding(wal::REPLICA_FAILS).await?;
    let away = state
        .replicas
        .iter()
        .find(|r| r.region.as_str() == "region1")
        .context("region1")?;
    assert!(away.durable < Some(state.acknowledged));
    vault.faults(1).partition(false);
    let (_, lsn) = position(&pg)?;
    let mut line = line;
    line.until("region1 has all", |state| {
        state.replicas.iter().all(|r| r.durable >= Some(lsn))
    })
    .await?;
    check_regions(&vault, &pg, &[0, 1], lsn).await?;
    assert!(!line.findings.holds(wal::REPLICA_FAILS, "region1"));
    line.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_on_enough_replicas_stays_in_the_slot() -> Result<()> {
    let vault = Vault::new(2).await?;
    let pg = TestPostgres::start(vault.dir(), Options::default())?;
    let mut line = Line::start(&vault, &pg, 2, QUICK).await?;
    let safe = line.until_safe(&pg).await?.acknowledged;
    vault.faults(1).partition(true);
    write_noise(&pg, 40)?;
    let (_, lsn) = position(&pg)?;
    line.until("region0 has some", |s| {
        s.replicas.iter().any(|r| r.durable > Some(safe))
    })
    .await?;
    line.until("memory is full", |s| !s.connected).await?;
    let state = line.frontier.current().context("no state")?;
    assert!(state.acknowledged < lsn && state.rpo_ms(now()) > 0);
    let restart: Lsn = pg.psql("select restart_lsn from pg_replication_slots")?.parse()?;
    assert!(restart <= state.acknowledged, "{restart} {}", state.acknowledged);
    vault.faults(1).partition(false);
    let safe = line.until_safe(&pg).await?.acknowledged;
    check_regions(&vault, &pg, &[0, 1], safe).await?;
    line.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_new_gets_the_past() -> Result<()> {
    let vault = Vault::new(2).await?;
    let options = Options::default()
        .initdb("--wal-segsize=1")
        .set("wal_keep_size", "1GB");
    let pg = TestPostgres::start(vault.dir(), options)?;
    vault.faults(1).partition(true);
    let line = Line::start(&vault, &pg, 1, QUICK).await?;
    write_rows(&pg, 10_000)?;
    line.until_safe(&pg).await?;
    line.kill().await;
    vault.faults(1).partition(false);
    let line = Line::start(&vault, &pg, 2, QUICK).await?;
    write_rows(&pg, 100)?;
    let safe = line.until_safe(&pg).await?.acknowledged;
    check_regions(&vault, &pg, &[0, 1], safe).await?;
    let mut keys = BTreeMap::new();
    for region in 0..2 {
        let listing = vault
            .only(region)
            .await?
            .list(&layout::keys(
                &vault.cluster,
                holdfast_proto::names::KeyKind::Data,
            ))
            .await?;
        keys.insert(region, listing.objects.into_keys().collect::<Vec<_>>());
    }
    assert_eq!(keys[&0], keys[&1], "what opens the WAL is beside it");
    line.stop().await
}
