//! The WAL line against a real server: what is in the repository is the server's
//! WAL, whatever happens on the way.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use holdfast_agent::findings::Findings;
use holdfast_agent::postgres::{PgTarget, SlotName};
use holdfast_agent::wal::{self, LineDirectives, WalContext, WalError, WalFrontier, WalState};
use holdfast_proto::finding::Severity;
use holdfast_proto::names::Lineage;
use holdfast_proto::pg::{Lsn, SegmentName, SegmentSize, TimelineId};
use holdfast_proto::record::{FrontierBody, HistoryBody, LeaseBody, WalBody};
use holdfast_repository::Repository;
use holdfast_repository::clock::now;
use holdfast_repository::layout::{self, Located, WalName};
use holdfast_repository::pack::open_frame;
use holdfast_repository::publisher::Publisher;
use holdfast_tests::faulty::{Fault, FaultPlan};
use holdfast_tests::postgres::{Options, PATIENCE, StopMode, TestPostgres};
use holdfast_tests::vault::Vault;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// One running line and what it is told and says.
struct Line {
    frontier: WalFrontier,
    findings: Findings,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), WalError>>,
    _directives: watch::Sender<LineDirectives>,
}

const QUICK: Duration = Duration::from_millis(100);

/// A tip interval that never passes: only those who wait get the tip.
const NEVER: Duration = Duration::from_secs(3600);

fn lineage(pg: &TestPostgres) -> Result<Lineage> {
    let system = pg
        .psql("select system_identifier from pg_control_system()")?
        .parse()?;
    Ok(Lineage {
        system,
        generation: 1,
    })
}

fn target(pg: &TestPostgres) -> Result<PgTarget> {
    Ok(format!(
        "host={} port={} user=postgres dbname=postgres",
        pg.socket_dir().display(),
        pg.port()
    )
    .parse()?)
}

impl Line {
    async fn start(vault: &Vault, pg: &TestPostgres, copies: usize, tip_interval: Duration) -> Result<Self> {
        Self::start_as(vault, pg, copies, tip_interval, None, lineage(pg)?).await
    }

    async fn start_as(
        vault: &Vault,
        pg: &TestPostgres,
        copies: usize,
        tip_interval: Duration,
        lease: Option<u64>,
        lineage: Lineage,
    ) -> Result<Self> {
        let mut publisher = vault.publisher(copies);
        publisher.lease = lease;
        Self::start_with(vault, pg, publisher, tip_interval, lineage).await
    }

    async fn start_with(
        vault: &Vault,
        pg: &TestPostgres,
        publisher: Publisher,
        tip_interval: Duration,
        lineage: Lineage,
    ) -> Result<Self> {
        let directives = LineDirectives {
            tip_interval,
            copies: publisher.copies,
            attest_interval: QUICK * 2,
        };
        let (directives, told) = watch::channel(directives);
        let (_, keys) = watch::channel(vault.data_key().await?);
        let (says, frontier) = wal::frontier();
        let (findings, cancel) = (Findings::default(), CancellationToken::new());
        let context = WalContext {
            publisher,
            keys,
            target: target(pg)?,
            slot: "holdfast".parse::<SlotName>()?,
            lineage,
            directives: told,
            frontier: says,
            findings: findings.clone(),
            cancel: cancel.clone(),
        };
        let task = tokio::spawn(wal::run(context));
        Ok(Self {
            frontier,
            findings,
            cancel,
            task,
            _directives: directives,
        })
    }

    /// Waits until the state is as `condition` wants it.
    async fn until(&mut self, what: &str, condition: impl Fn(&WalState) -> bool) -> Result<WalState> {
        let reached = async {
            loop {
                if let Some(state) = self.frontier.current().filter(&condition) {
                    return Ok::<_, anyhow::Error>(state);
                }
                self.frontier.changed().await?;
            }
        };
        match tokio::time::timeout(PATIENCE, reached).await {
            Ok(state) => state,
            Err(_) => bail!(
                "waited in vain until {what}: {:?}, {:?}",
                self.frontier.current(),
                self.findings.snapshot()
            ),
        }
    }

    /// Waits until all that the server has flushed now is acknowledged.
    async fn until_safe(&self, pg: &TestPostgres) -> Result<WalState> {
        let (timeline, lsn) = position(pg)?;
        let state = self.frontier.until_acknowledged(timeline, lsn, PATIENCE).await;
        state.with_context(|| format!("{:?}", self.findings.snapshot()))
    }

    async fn until_finding(&self, name: &str) -> Result<String> {
        let found = async {
            let mut looks = tokio::time::interval(Duration::from_millis(10));
            loop {
                looks.tick().await;
                if let Some(finding) = self.findings.snapshot().into_iter().find(|f| f.name == name) {
                    return finding.detail;
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.with_context(|| format!("no finding {name}, but {:?}", self.findings.snapshot()))
    }

    async fn stop(self) -> Result<()> {
        self.cancel.cancel();
        Ok(tokio::time::timeout(PATIENCE, self.task).await???)
    }

    /// As kill -9: the tasks are gone at their next await.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

fn position(pg: &TestPostgres) -> Result<(TimelineId, Lsn)> {
    let line = pg.psql("select timeline_id, pg_current_wal_flush_lsn() from pg_control_checkpoint()")?;
    let (timeline, lsn) = line.split_once('|').context("two columns")?;
    Ok((
        TimelineId::new(timeline.parse()?).context("timeline 0")?,
        lsn.parse()?,
    ))
}

fn segment_size(pg: &TestPostgres) -> Result<SegmentSize> {
    let bytes: u64 = pg
        .psql("select setting from pg_settings where name = 'wal_segment_size'")?
        .parse()?;
    Ok(SegmentSize::new(bytes)?)
}

fn write_rows(pg: &TestPostgres, rows: u32) -> Result<()> {
    pg.psql("create table if not exists t (n int, filler text)")?;
    pg.psql(&format!(
        "insert into t select n, repeat(md5(n::text), 8) from generate_series(1, {rows}) n"
    ))?;
    Ok(())
}

/// Writes so much that does not compress.
fn write_noise(pg: &TestPostgres, megabytes: u32) -> Result<()> {
    pg.psql("create table if not exists noise (b bytea); alter table noise alter b set storage plain")?;
    pg.psql(&format!(
        "insert into noise select decode(string_agg(md5((n * 64 + m)::text), ''), 'hex') \
         from generate_series(1, {megabytes} * 1000) n, generate_series(1, 64) m group by n"
    ))?;
    Ok(())
}

/// The WAL of one timeline as the repository holds it: bytes from `start`.
struct Stored {
    start: Lsn,
    bytes: Vec<u8>,
    names: Vec<WalName>,
}

async fn names(repository: &Repository, vault: &Vault, lineage: Lineage) -> Result<Vec<WalName>> {
    let listing = repository.list(&layout::wal_of(&vault.cluster, lineage)).await?;
    let names = listing
        .objects
        .keys()
        .filter_map(|key| match layout::parse(key.as_str())? {
            Located::Wal { name, .. } => Some(name),
            _ => None,
        });
    Ok(names.collect())
}

/// Opens every object of a timeline and lays the WAL out; holes and
/// contradictions are errors.
async fn stored(
    repository: &Repository,
    vault: &Vault,
    lineage: Lineage,
    timeline: TimelineId,
) -> Result<Stored> {
    let (trust, keyring) = (vault.trust().await?, vault.keyring().await?);
    let mut names = names(repository, vault, lineage).await?;
    names.retain(|name| name.timeline == timeline);
    names.sort_by_key(|name| name.start);
    let start = names.first().context("no WAL is stored")?.start;
    let mut bytes: Vec<u8> = Vec::new();
    for name in &names {
        let key = layout::wal(&vault.cluster, lineage, name);
        let (signed, _) = repository.read_signed::<WalBody>(&key, &trust).await?;
        let body = signed.body();
        ensure!(
            (body.start, body.end) == (name.start, name.end),
            "{key} says otherwise"
        );
        ensure!(
            body.last_commit.map(|c| c.time) == name.latest_commit,
            "{key} has another commit"
        );
        let raw = open_frame(&keyring, &body.chunks[0].sealed_to, &signed.payload, 64 << 20)?;
        ensure!(
            name.end.bytes_since(name.start) == Some(raw.len() as u64),
            "{key} has {} bytes",
            raw.len()
        );
        let at = usize::try_from(name.start.bytes_since(start).context("sorted")?)?;
        ensure!(at <= bytes.len(), "a hole before {}", name.start);
        let overlap = (bytes.len() - at).min(raw.len());
        ensure!(
            bytes[at..at + overlap] == raw[..overlap],
            "{key} overlaps with other bytes"
        );
        bytes.extend_from_slice(&raw[overlap..]);
    }
    Ok(Stored { start, bytes, names })
}

/// Compares what is stored with the files in `pg_wal` that still are there.
fn compare(stored: &Stored, timeline: TimelineId, size: SegmentSize, pg_wal: &Path) -> Result<u64> {
    let end = Lsn::new(stored.start.get() + stored.bytes.len() as u64);
    let mut compared = 0;
    let mut segment = size.segment_of(stored.start);
    while size.start_of(segment) < end {
        let name = SegmentName::new(timeline, segment, size).to_string();
        if let Ok(file) = std::fs::read(pg_wal.join(&name)) {
            let from = size.start_of(segment).max(stored.start);
            let to = size.end_of(segment).min(end);
            let here = &stored.bytes[(from.get() - stored.start.get()) as usize..]
                [..(to.get() - from.get()) as usize];
            let there = &file[size.offset_of(from) as usize..][..here.len()];
            ensure!(here == there, "segment {name} differs");
            compared += here.len() as u64;
        }
        segment = segment.next();
    }
    Ok(compared)
}

/// Every region holds the server's WAL up to `end` at least.
async fn check_regions(vault: &Vault, pg: &TestPostgres, regions: &[usize], end: Lsn) -> Result<()> {
    let (timeline, _) = position(pg)?;
    let (size, lineage) = (segment_size(pg)?, lineage(pg)?);
    for region in regions {
        let stored = stored(&vault.only(*region).await?, vault, lineage, timeline).await?;
        let reach = stored.start.get() + stored.bytes.len() as u64;
        ensure!(reach >= end.get(), "region {region} reaches {reach:X} of {end}");
        let compared = compare(&stored, timeline, size, &pg.data_dir().join("pg_wal"))?;
        ensure!(compared > 0, "nothing was left to compare");
    }
    Ok(())
}

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
        let line = Line::start_with(&vault, &pg, publisher, Duration::from_millis(10), lineage).await?;
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
async fn a_failover_is_followed_with_its_history() -> Result<()> {
    let vault = Vault::new(2).await?;
    let (a, b) = (vault.dir().join("a"), vault.dir().join("b"));
    let options = || {
        Options::default()
            .initdb("--wal-segsize=1")
            .set("wal_keep_size", "1GB")
    };
    let mut primary = TestPostgres::start(&a, options())?;
    let line = Line::start(&vault, &primary, 2, QUICK).await?;
    line.until_safe(&primary).await?;
    let standby = primary.standby(&b)?;
    write_rows(&primary, 5_000)?;
    line.until_safe(&primary).await?;
    primary.stop(StopMode::Fast)?;
    line.stop().await?;

    let line = Line::start_as(&vault, &standby, 2, QUICK, None, lineage(&standby)?).await?;
    line.until_finding("server-in-recovery").await?;
    standby.promote()?;
    write_rows(&standby, 5_000)?;
    standby.psql("checkpoint")?;
    let mut line = line;
    line.until("it follows timeline 2", |state| state.timeline.get() == 2)
        .await?;
    let safe = line.until_safe(&standby).await?.acknowledged;
    check_regions(&vault, &standby, &[0, 1], safe).await?;
    let lineage = lineage(&standby)?;
    let second = TimelineId::new(2).context("two")?;
    let history = vault
        .signed::<HistoryBody>(&layout::history(&vault.cluster, lineage, second))
        .await?;
    let file = std::fs::read(standby.data_dir().join("pg_wal/00000002.history"))?;
    assert_eq!(&history.payload[..], &file[..]);

    // Timeline 1 is whole up to the fork; timeline 2 begins with its segment.
    let size = segment_size(&standby)?;
    let text = String::from_utf8(file)?;
    let fork: Lsn = text.split_whitespace().nth(1).context("the fork")?.parse()?;
    let first = stored(&vault.repository, &vault, lineage, TimelineId::FIRST).await?;
    assert!(first.start.get() + first.bytes.len() as u64 >= fork.get());
    let newer = stored(&vault.repository, &vault, lineage, second).await?;
    assert_eq!(newer.start, size.start_of(size.segment_of(fork)));
    let named = newer.names.first().context("no object")?;
    let signed = vault
        .signed::<WalBody>(&layout::wal(&vault.cluster, lineage, named))
        .await?;
    assert!(
        signed.header.previous.is_some(),
        "the chain goes on over the fork"
    );
    assert_eq!(line.findings.snapshot(), []);
    line.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_past_is_refused() -> Result<()> {
    let vault = Vault::new(2).await?;
    let mut pg = TestPostgres::start(&vault.dir().join("a"), Options::default())?;
    let old = vault.dir().join("old");
    pg.pg_basebackup(&old, &["-X", "stream", "-c", "fast"])?;
    let line = Line::start(&vault, &pg, 1, QUICK).await?;
    write_rows(&pg, 5_000)?;
    line.until_safe(&pg).await?;
    line.stop().await?;
    let lineage = lineage(&pg)?;
    pg.stop(StopMode::Fast)?;

    let copy = TestPostgres::open(&old, false)?;
    let line = Line::start(&vault, &copy, 1, QUICK).await?;
    let detail = line.until_finding("server-behind-archive").await?;
    assert!(detail.contains("rolled back"), "{detail}");
    let before = names(&vault.repository, &vault, lineage).await?.len();
    line.stop().await?;
    assert_eq!(names(&vault.repository, &vault, lineage).await?.len(), before);

    let line = Line::start_as(
        &vault,
        &copy,
        1,
        QUICK,
        None,
        Lineage {
            system: "77".parse()?,
            generation: 1,
        },
    )
    .await?;
    line.until_finding("wrong-system").await?;
    line.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_that_is_gone_is_a_gap_with_a_name() -> Result<()> {
    let vault = Vault::new(2).await?;
    let options = Options::default()
        .initdb("--wal-segsize=1")
        .set("max_wal_size", "2MB")
        .set("min_wal_size", "2MB")
        .set("wal_recycle", "off");
    let pg = TestPostgres::start(vault.dir(), options)?;
    let line = Line::start(&vault, &pg, 2, QUICK).await?;
    write_rows(&pg, 1_000)?;
    let state = line.until_safe(&pg).await?;
    let first = state.contiguous_from;
    line.stop().await?;

    // Somebody drops the slot, and the server goes on.
    pg.psql("select pg_drop_replication_slot('holdfast')")?;
    write_rows(&pg, 20_000)?;
    pg.psql("checkpoint; select pg_switch_wal(); checkpoint")?;
    let line = Line::start(&vault, &pg, 2, QUICK).await?;
    let detail = line.until_finding("wal-gap").await?;
    assert!(detail.contains("base backup"), "{detail}");
    write_rows(&pg, 1_000)?;
    let after = line.until_safe(&pg).await?;
    assert!(after.contiguous_from > first);
    let gap = line
        .findings
        .snapshot()
        .into_iter()
        .find(|f| f.name == "wal-gap")
        .context("the finding stays")?;
    assert_eq!(gap.severity, Severity::Critical);
    line.stop().await?;

    let (timeline, _) = position(&pg)?;
    let refused = stored(&vault.repository, &vault, lineage(&pg)?, timeline)
        .await
        .err()
        .context("the hole was not seen")?;
    assert!(refused.to_string().contains("a hole"), "{refused}");

    // After a restart the line goes on behind the gap.
    let line = Line::start(&vault, &pg, 2, QUICK).await?;
    write_rows(&pg, 1_000)?;
    let again = line.until_safe(&pg).await?;
    assert_eq!(again.contiguous_from, after.contiguous_from);
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
        let object = publisher.sign(&key, &[], None, None, &body);
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
