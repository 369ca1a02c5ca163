//! Whole agents beside the two nodes of one cluster, through promotions: whose
//! server is the primary writes, the archive has no hole, and a moment of any
//! timeline is restored. `HOLDFAST_TEST_ROUNDS` says how many promotions.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_agent::AgentError;
use holdfast_agent::config::AgentConfig;
use holdfast_agent::ledger::Ledger;
use holdfast_agent::postgres::role_sql;
use holdfast_agent::progress::Meter;
use holdfast_agent::restore::{Access, FetchBy, Options as RestoreOptions, Target, execute, plan_request};
use holdfast_plan::restore::{Request, RestorePlan, Target as Moment, TimelineChoice};
use holdfast_proto::Timestamp;
use holdfast_proto::message::Work;
use holdfast_proto::pg::{Lsn, TimelineId};
use holdfast_proto::record::LeaseBody;
use holdfast_repository::authority::Authority;
use holdfast_repository::clock::now;
use holdfast_repository::seal::Identities;
use holdfast_repository::{ReplicaConfig, Repository, RepositoryConfig, layout};
use holdfast_tests::agent;
use holdfast_tests::postgres::{Options, PATIENCE, StopMode, TestPostgres, major};
use holdfast_tests::scene::promoted;
use holdfast_tests::vault::Vault;
use rand::seq::IndexedRandom;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-wal");
const NAMES: [&str; 2] = ["agent-a", "agent-b"];
/// An agent looks once a second whether its standby streams, or was promoted.
const LOOKED: Duration = Duration::from_secs(4);

/// A server and the agent beside it.
struct Node {
    name: &'static str,
    pg: TestPostgres,
    stop: CancellationToken,
    agent: JoinHandle<Result<(), AgentError>>,
}

impl Node {
    fn start(vault: &Vault, name: &'static str, pg: TestPostgres) -> Result<Self> {
        let stop = CancellationToken::new();
        let agent = tokio::spawn(holdfast_agent::run(config(vault, name, &pg)?, stop.clone()));
        Ok(Self {
            name,
            pg,
            stop,
            agent,
        })
    }

    /// Ends the agent, and removes its server.
    async fn end(self) -> Result<&'static str> {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.agent)
            .await
            .context("the agent does not stop")???;
        let data = self.pg.data_dir().to_owned();
        drop(self.pg);
        fs::remove_dir_all(data)?;
        Ok(self.name)
    }
}

/// An agent that knows the other as its peer.
fn config(vault: &Vault, name: &str, pg: &TestPostgres) -> Result<AgentConfig> {
    let peer = NAMES.iter().find(|other| **other != name).context("a peer")?;
    agent::config(vault, name, pg, &format!("peers = [\"{peer}\"]"))
}

fn rounds() -> usize {
    let asked = std::env::var("HOLDFAST_TEST_ROUNDS").ok();
    asked.and_then(|rounds| rounds.parse().ok()).unwrap_or(2)
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    let reached = async {
        while !holds().await? {
            looks.tick().await;
        }
        Ok(())
    };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    reached.with_context(|| format!("waited in vain until {what}"))?
}

async fn ledger(vault: &Vault) -> Result<Ledger> {
    Ok(Ledger::load(&vault.repository, &vault.trust().await?, &vault.cluster).await?)
}

/// Waits until the archive has all that the server has flushed, on its timeline.
async fn archived(vault: &Vault, pg: &TestPostgres) -> Result<TimelineId> {
    let lsn: Lsn = pg.psql("select pg_current_wal_flush_lsn()")?.parse()?;
    let file = pg.psql("select pg_walfile_name(pg_current_wal_lsn())")?;
    let timeline = TimelineId::new(u32::from_str_radix(&file[..8], 16)?).context("timeline 0")?;
    until(
        &format!("timeline {timeline} is archived up to {lsn}"),
        async || {
            let facts = ledger(vault).await?.facts;
            let known = facts.lineages.iter().flat_map(|l| &l.timelines);
            let spans = known.filter(|t| t.timeline == timeline).flat_map(|t| &t.wal);
            Ok(spans.into_iter().any(|span| span.end >= lsn))
        },
    )
    .await?;
    Ok(timeline)
}

fn time(pg: &TestPostgres) -> Result<Timestamp> {
    let micros = pg.psql("select (extract(epoch from clock_timestamp()) * 1000000)::bigint")?;
    Ok(Timestamp::from_unix_micros(micros.parse()?))
}

const ROWS: &str = "select coalesce(string_agg(n::text, ' ' order by n), '') from t";

fn write(pg: &TestPostgres, from: usize, rows: usize) -> Result<()> {
    for n in from..from + rows {
        pg.psql(&format!("insert into t values ({n})"))?;
    }
    Ok(())
}

/// Restores a request beside the nodes and returns what `query` says there, and the plan.
async fn restored(
    vault: &Vault,
    request: &Request,
    name: &str,
    query: &str,
) -> Result<(String, RestorePlan)> {
    let config = RepositoryConfig {
        replicas: (0..2)
            .map(|n| {
                Ok(ReplicaConfig::directory(
                    format!("region{n}").parse()?,
                    vault.place(n),
                ))
            })
            .collect::<Result<_>>()?,
        trust_root: None,
    };
    let identity = vault.dir().join("drill.key");
    if !identity.exists() {
        vault.drill().save(&identity)?;
    }
    let root = *vault.trust().await?.root();
    let identities = Identities::parse(&vault.drill().secret_text())?;
    let repository = Repository::open(&config).await?;
    let access = Access::of(repository, &root, &vault.cluster, &identities).await?;
    let (plan, _) = plan_request(
        &access.repository,
        &access.trust,
        Some(&access.keyring),
        &vault.cluster,
        request,
        now(),
    )
    .await?;
    let target = Target {
        data: vault.dir().join(name),
        ..Target::default()
    };
    let options = RestoreOptions::new(FetchBy {
        repository: config,
        trust_root: root,
        identities: vec![identity],
        program: PROGRAM.into(),
        prefetch: 3,
        restore_command: None,
    });
    execute(&plan, &access, &target, &options).await?;
    let copy = TestPostgres::open(&target.data, false)?;
    promoted(&copy)?;
    let rows = copy.psql(query)?;
    drop(copy);
    fs::remove_dir_all(&target.data)?;
    Ok((rows, plan))
}

fn node_dir(vault: &Vault, n: usize) -> std::path::PathBuf {
    vault.dir().join(format!("node{n}"))
}

/// Cuts a standby off from its primary.
fn cut_off(standby: &TestPostgres) -> Result<()> {
    standby.psql("alter system set primary_conninfo = ''")?;
    standby.psql("select pg_reload_conf()")?;
    holdfast_tests::postgres::wait_until("the standby receives nothing", || {
        Ok(standby.psql("select count(*) from pg_stat_wal_receiver")? == "0")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_of_the_promoted_node_goes_on() -> Result<()> {
    let vault = Vault::new(2).await?;
    for name in NAMES {
        agent::hurry(&vault, name, Duration::from_millis(50), Duration::from_secs(3600))?;
    }
    let options = Options::default()
        .initdb("--wal-segsize=1")
        .set("wal_keep_size", "256MB");
    let first = TestPostgres::start(&node_dir(&vault, 0), options)?;
    first.psql(&role_sql("holdfast", major()?))?;
    first.psql("create table t (n int)")?;
    let second = first.standby(&node_dir(&vault, 1))?;
    let mut primary = Node::start(&vault, NAMES[0], first)?;
    let mut standby = Node::start(&vault, NAMES[1], second)?;
    until("a base backup is there", async || {
        Ok(!ledger(&vault).await?.points().restorable.intervals.is_empty())
    })
    .await?;

    let mut moments: Vec<(Timestamp, String)> = Vec::new();
    let mut left_behind = None;
    for round in 1..=rounds() {
        write(&primary.pg, round * 1000, 10)?;
        let lsn = primary.pg.psql("select pg_current_wal_flush_lsn()")?;
        until("the standby has all", async || {
            Ok(standby
                .pg
                .psql(&format!("select pg_last_wal_replay_lsn() >= '{lsn}'"))?
                == "t")
        })
        .await?;
        moments.push((time(&primary.pg)?, primary.pg.psql(ROWS)?));
        tokio::time::sleep(LOOKED).await;
        // Every second time the standby lacks what was committed last, and archived.
        if round % 2 == 0 {
            cut_off(&standby.pg)?;
            write(&primary.pg, round * 1000 + 500, 3)?;
            let timeline = archived(&vault, &primary.pg).await?;
            left_behind = Some((timeline, primary.pg.psql(ROWS)?));
        }
        primary.pg.kill9()?;
        standby.pg.promote()?;
        write(&standby.pg, round * 1000 + 900, 2)?;
        archived(&vault, &standby.pg).await?;

        let leases = vault.repository.list(&layout::leases(&vault.cluster)).await?;
        let newest = leases.objects.keys().next_back().context("no lease")?.clone();
        let lease = vault.signed::<LeaseBody>(&newest).await?;
        ensure!(
            lease.body().holder.as_str() == standby.name,
            "round {round}: {:?}",
            lease.body()
        );

        let name = primary.end().await?;
        primary = standby;
        let rebuilt = primary.pg.standby(&node_dir(&vault, round + 1))?;
        standby = Node::start(&vault, name, rebuilt)?;
    }

    let points = ledger(&vault).await?.points();
    assert_eq!(points.restorable.gaps, [], "{points}");
    let (rows, plan) = restored(&vault, &Request::new(Moment::Latest), "latest", ROWS).await?;
    assert_eq!(rows, primary.pg.psql(ROWS)?);
    assert_eq!(plan.replay.timeline.get() as usize, rounds() + 1);
    // The first, the last, and some in between.
    for (n, (at, expected)) in moments.iter().enumerate().step_by(moments.len().div_ceil(6)) {
        let request = Request::new(Moment::Time(*at));
        let (rows, _) = restored(&vault, &request, &format!("moment{n}"), ROWS).await?;
        assert_eq!(rows, *expected, "moment {n}, {at}");
    }
    if let Some((timeline, expected)) = left_behind {
        let mut request = Request::new(Moment::Latest);
        request.timeline = TimelineChoice::Id(timeline);
        let (rows, _) = restored(&vault, &request, "tail", ROWS).await?;
        assert_eq!(rows, expected, "the tail of timeline {timeline}");
    }
    standby.end().await?;
    primary.end().await?;
    Ok(())
}

/// A commit that the server acknowledged, and what was in the table then.
#[derive(Debug, Clone)]
struct Commit {
    timeline: TimelineId,
    /// The end of the log just after it.
    lsn: Lsn,
    at: Timestamp,
    content: String,
}

const CONTENT: &str = "select count(*) || ' ' || coalesce(sum(n), 0) from t";

/// Where the primary is: the directory of its socket.
type Primary = watch::Receiver<PathBuf>;

async fn connect(socket: &Path) -> Result<Client> {
    let mut config = tokio_postgres::Config::new();
    config.host_path(socket).user("postgres").dbname("postgres");
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn commit(client: &Client, n: i32) -> Result<Commit> {
    client.execute("insert into t values ($1)", &[&n]).await?;
    let asked = format!(
        "select (extract(epoch from pg_xact_commit_timestamp(xmin)) * 1000000)::bigint, \
         pg_current_wal_insert_lsn()::text, substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8), ({CONTENT}) \
         from t where n = $1"
    );
    let row = client.query_one(&asked, &[&n]).await?;
    Ok(Commit {
        at: Timestamp::from_unix_micros(row.try_get(0)?),
        lsn: row.try_get::<_, String>(1)?.parse()?,
        timeline: TimelineId::parse_fixed(&row.try_get::<_, String>(2)?).context("a timeline")?,
        content: row.try_get(3)?,
    })
}

/// Commits without a pause, on whichever server takes it, until told to stop.
async fn write_on(primary: Primary, stop: CancellationToken) -> Vec<Commit> {
    let mut commits = Vec::new();
    let mut n = 0;
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    while !stop.is_cancelled() {
        pace.tick().await;
        let place = primary.borrow().clone();
        let Ok(client) = connect(&place).await else {
            continue;
        };
        while !stop.is_cancelled() && *primary.borrow() == place {
            pace.tick().await;
            n += 1;
            match commit(&client, n).await {
                Ok(commit) => commits.push(commit),
                // It may have happened: what the table holds later says so.
                Err(_) => break,
            }
        }
    }
    commits
}

/// Nobody waits for anybody: the primary dies while it commits, the standby is promoted
/// wherever it is, and every moment that was archived comes back on its own timeline.
/// Every second time the roles are changed as an operator does it: the primary ends
/// cleanly and follows the other, and both agents stay.
#[tokio::test(flavor = "multi_thread")]
async fn promotions_under_load_lose_nothing_that_was_archived() -> Result<()> {
    let vault = Vault::new(2).await?;
    for name in NAMES {
        agent::hurry(&vault, name, Duration::from_millis(50), Duration::from_secs(3600))?;
    }
    let options = Options::default()
        .initdb("--wal-segsize=1")
        .set("track_commit_timestamp", "on")
        .set("wal_keep_size", "256MB");
    let first = TestPostgres::start(&node_dir(&vault, 0), options)?;
    first.psql(&role_sql("holdfast", major()?))?;
    first.psql("create table t (n int primary key)")?;
    let second = first.standby(&node_dir(&vault, 1))?;
    let mut primary = Node::start(&vault, NAMES[0], first)?;
    let mut standby = Node::start(&vault, NAMES[1], second)?;
    until("a base backup is there", async || {
        Ok(!ledger(&vault).await?.points().restorable.intervals.is_empty())
    })
    .await?;
    let (place, follows) = watch::channel(primary.pg.socket_dir().to_owned());
    let stop = CancellationToken::new();
    let writer = tokio::spawn(write_on(follows, stop.clone()));

    for round in 1..=rounds() {
        tokio::time::sleep(LOOKED).await;
        if round % 2 == 0 {
            primary.pg.stop(StopMode::Fast)?;
            place.send_replace(standby.pg.socket_dir().to_owned());
            standby.pg.promote()?;
            primary.pg.follow(&standby.pg)?;
            archived(&vault, &standby.pg).await?;
            std::mem::swap(&mut primary, &mut standby);
            continue;
        }
        primary.pg.kill9()?;
        place.send_replace(standby.pg.socket_dir().to_owned());
        standby.pg.promote()?;
        archived(&vault, &standby.pg).await?;
        let name = primary.end().await?;
        primary = standby;
        let rebuilt = primary.pg.standby(&node_dir(&vault, round + 1))?;
        standby = Node::start(&vault, name, rebuilt)?;
    }
    tokio::time::sleep(LOOKED).await;
    stop.cancel();
    let commits = writer.await?;
    archived(&vault, &primary.pg).await?;

    let ledger = ledger(&vault).await?;
    let points = ledger.points();
    assert_eq!(points.restorable.gaps, [], "{points}");
    let (content, plan) = restored(&vault, &Request::new(Moment::Latest), "latest", CONTENT).await?;
    assert_eq!(content, primary.pg.psql(CONTENT)?);
    assert_eq!(plan.replay.timeline.get() as usize, rounds() + 1);

    let mut chance = rand::rng();
    let timelines: Vec<_> = ledger.facts.lineages.iter().flat_map(|l| &l.timelines).collect();
    for n in 0..rounds().clamp(3, 8) {
        let chosen = timelines.choose(&mut chance).context("a timeline")?;
        let end = chosen.wal.last().context("WAL")?.end;
        // Not the last one: a moment is told apart by the commit that follows it.
        let mut on_it: Vec<&Commit> = commits
            .iter()
            .filter(|c| c.timeline == chosen.timeline && c.lsn <= end)
            .collect();
        on_it.pop();
        let commit = on_it
            .choose(&mut chance)
            .with_context(|| format!("nothing was committed on timeline {}", chosen.timeline))?;
        let mut request = Request::new(Moment::Time(commit.at));
        request.timeline = TimelineChoice::Id(chosen.timeline);
        let (content, plan) = restored(&vault, &request, &format!("moment{n}"), CONTENT).await?;
        assert_eq!(
            content,
            commit.content,
            "{commit:?} of {} on it, {plan}",
            on_it.len()
        );
    }
    standby.end().await?;
    primary.end().await?;
    Ok(())
}

/// A primary that was left behind has the old timeline, and that is how its agent
/// knows that the lease is not its own to take back.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_primary_does_not_take_the_lease_back() -> Result<()> {
    let vault = Vault::new(2).await?;
    for name in NAMES {
        agent::hurry(&vault, name, Duration::from_millis(50), Duration::from_secs(3600))?;
    }
    let options = Options::default().initdb("--wal-segsize=1");
    let old = TestPostgres::start(&node_dir(&vault, 0), options)?;
    old.psql(&role_sql("holdfast", major()?))?;
    let new = old.standby(&node_dir(&vault, 1))?;
    let once = async |name: &str, pg: &TestPostgres, work: Work| -> Result<(), AgentError> {
        let config = config(&vault, name, pg).expect("the configuration is sound");
        let done = holdfast_agent::once(&config, None, work, Meter::default(), CancellationToken::new());
        done.await.map(drop)
    };
    once(NAMES[0], &old, Work::BaseBackup).await?;
    // A standby's agent waits, and so does nothing else.
    let waits = once(NAMES[1], &new, Work::Configuration).await;
    assert!(
        format!("{waits:?}").contains("the server is a standby"),
        "{waits:?}"
    );
    new.promote()?;
    once(NAMES[1], &new, Work::Configuration).await?;
    let refused = once(NAMES[0], &old, Work::Configuration).await;
    let said = format!("{refused:?}");
    assert!(
        said.contains("agent-b writes") && said.contains("left behind"),
        "{said}"
    );
    let leases = vault.repository.list(&layout::leases(&vault.cluster)).await?;
    assert_eq!(leases.objects.len(), 2);
    Ok(())
}

/// A primary with an agent that has its lease, and a standby beside which none runs yet.
async fn pair(vault: &Vault) -> Result<(TestPostgres, TestPostgres)> {
    for name in NAMES {
        agent::hurry(vault, name, Duration::from_millis(50), Duration::from_secs(3600))?;
    }
    let old = TestPostgres::start(&node_dir(vault, 0), Options::default().initdb("--wal-segsize=1"))?;
    old.psql(&role_sql("holdfast", major()?))?;
    let new = old.standby(&node_dir(vault, 1))?;
    Ok((old, new))
}

async fn once(vault: &Vault, name: &str, pg: &TestPostgres, work: Work) -> Result<(), AgentError> {
    let config = config(vault, name, pg).expect("the configuration is sound");
    let done = holdfast_agent::once(&config, None, work, Meter::default(), CancellationToken::new());
    done.await.map(drop)
}

/// The highest lease that a region has.
async fn lease(vault: &Vault, region: usize) -> Result<Option<LeaseBody>> {
    let only = vault.only(region).await?;
    let leases = only.list(&layout::leases(&vault.cluster)).await?;
    let Some(key) = leases.objects.keys().next_back() else {
        return Ok(None);
    };
    let (lease, _) = only.read_signed::<LeaseBody>(key, &vault.trust().await?).await?;
    Ok(Some(lease.body().clone()))
}

/// One region decides who writes; the other is given a copy when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_does_not_wait_for_a_region_that_is_given_copies() -> Result<()> {
    let vault = Vault::new(2).await?;
    let (old, new) = pair(&vault).await?;
    old.psql("create table t (n int)")?;
    let mut first = Node::start(&vault, NAMES[0], old)?;
    until("a base backup is there", async || {
        Ok(!ledger(&vault).await?.points().restorable.intervals.is_empty())
    })
    .await?;
    let away = vault.dir().join("away");
    fs::rename(vault.place(1), &away)?;
    first.pg.kill9()?;
    new.promote()?;
    write(&new, 0, 10)?;
    let second = Node::start(&vault, NAMES[1], new)?;
    until("the promoted node's agent has the lease", async || {
        Ok(lease(&vault, 0)
            .await?
            .is_some_and(|lease| lease.holder.as_str() == NAMES[1]))
    })
    .await?;
    // What it reads is stored where that is possible, and kept by the server until it is
    // on both.
    let timeline = archived(&vault, &second.pg).await?;
    assert_eq!(timeline.get(), 2);
    let slot = "select restart_lsn < pg_current_wal_flush_lsn() from pg_replication_slots where slot_name = 'holdfast'";
    assert_eq!(second.pg.psql(slot)?, "t");

    fs::rename(&away, vault.place(1))?;
    let expected = second.pg.psql(ROWS)?;
    let end: Lsn = second.pg.psql("select pg_current_wal_flush_lsn()")?.parse()?;
    until("the slot is let go of", async || {
        let slot = "select restart_lsn from pg_replication_slots where slot_name = 'holdfast'";
        Ok(second.pg.psql(slot)?.parse::<Lsn>()? >= end)
    })
    .await?;
    second.end().await?;
    first.end().await?;
    let (rows, _) = restored(&vault, &Request::new(Moment::Latest), "latest", ROWS).await?;
    assert_eq!(rows, expected);
    Ok(())
}

/// While the region that decides is away nobody takes a lease over; a person may let
/// another one decide, and what the first one shows when it is back counts no more.
#[tokio::test(flavor = "multi_thread")]
async fn who_decides_is_waited_for_or_replaced_by_a_person() -> Result<()> {
    let vault = Vault::new(2).await?;
    let (old, new) = pair(&vault).await?;
    once(&vault, NAMES[0], &old, Work::BaseBackup).await?;
    new.promote()?;
    let away = vault.dir().join("away");
    fs::rename(vault.place(0), &away)?;
    let refused = once(&vault, NAMES[1], &new, Work::Configuration).await;
    let said = format!("{refused:?}");
    assert!(
        said.contains("region region0 decides who writes") && said.contains("repo authority --region"),
        "{said}"
    );
    assert_eq!(lease(&vault, 1).await?.context("the first lease")?.n, 1);

    vault.let_decide(1).await?;
    // Two copies are more than there are regions, which is another matter.
    let outcome = once(&vault, NAMES[1], &new, Work::Configuration).await;
    let said = format!("{outcome:?}");
    assert!(!said.contains("decides"), "{said}");
    let taken = lease(&vault, 1).await?.context("a lease")?;
    assert_eq!(taken.holder.as_str(), NAMES[1]);
    assert!(taken.n > 1_000_000, "{taken:?}");

    fs::rename(&away, vault.place(0))?;
    let refused = once(&vault, NAMES[0], &old, Work::Configuration).await;
    let said = format!("{refused:?}");
    assert!(said.contains("agent-b writes"), "{said}");
    // The region that was away learns that it decides no more.
    let stop = CancellationToken::new();
    let agent = tokio::spawn(holdfast_agent::run(config(&vault, NAMES[1], &new)?, stop.clone()));
    until("the first region has the record", async || {
        let only = vault.only(0).await?;
        let decides = Authority::load(&only, &vault.trust().await?).await?;
        Ok(decides.n == 1)
    })
    .await?;
    stop.cancel();
    agent.await??;
    Ok(())
}

/// A standby that was fed by its `restore_command` is seen to follow, and that is
/// remembered; one that nobody saw takes an operator's word.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_never_streamed_is_the_clusters_all_the_same() -> Result<()> {
    let vault = Vault::new(2).await?;
    let (old, mut new) = pair(&vault).await?;
    old.psql("create table t (n int)")?;
    let mut first = Node::start(&vault, NAMES[0], old)?;
    until("a base backup is there", async || {
        Ok(!ledger(&vault).await?.points().restorable.intervals.is_empty())
    })
    .await?;
    cut_off(&new)?;
    // No receiver from its start on: what it replays comes from its own directory.
    new.stop(StopMode::Fast)?;
    new.start_again()?;
    write(&first.pg, 0, 10)?;
    archived(&vault, &first.pg).await?;
    let expected = first.pg.psql(ROWS)?;
    first.pg.kill9()?;
    let peer = "data_directory = \"/nowhere\"";
    let unseen = agent::config(
        &vault,
        NAMES[1],
        &new,
        &format!("peers = [\"{}\"]\n{peer}", NAMES[0]),
    )?;
    let run = |config: AgentConfig| {
        let stop = CancellationToken::new();
        (stop.clone(), tokio::spawn(holdfast_agent::run(config, stop)))
    };
    let seen = config(&vault, NAMES[1], &new)?;
    let (stop, agent) = run(seen.clone());
    let memory = vault.dir().join(NAMES[1]).join("clusters/acme/erp/followed.json");
    until("the standby is seen to follow", async || Ok(memory.exists())).await?;
    stop.cancel();
    agent.await??;
    new.promote()?;
    write(&new, 1000, 3)?;

    // As if it had not been seen: nothing is stored of its timeline, and the lease is left.
    let kept = fs::read(&memory)?;
    fs::remove_file(&memory)?;
    let told = holdfast_agent::once(
        &unseen,
        None,
        Work::Configuration,
        Meter::default(),
        CancellationToken::new(),
    );
    let told = format!("{:?}", told.await);
    assert!(
        told.contains("was not seen to follow") && told.contains("promoted_timeline = 2"),
        "{told}"
    );
    assert_eq!(
        lease(&vault, 0).await?.context("a lease")?.holder.as_str(),
        NAMES[0]
    );

    // It was seen.
    fs::write(&memory, kept)?;
    let (stop, agent) = run(seen);
    assert_eq!(archived(&vault, &new).await?.get(), 2);
    stop.cancel();
    agent.await??;
    let mut request = Request::new(Moment::Latest);
    request.timeline = TimelineChoice::Id(TimelineId::FIRST);
    let (rows, _) = restored(&vault, &request, "tail", ROWS).await?;
    assert_eq!(rows, expected);
    first.end().await?;
    Ok(())
}

/// What was told once stays true while the region that shows it is away.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_was_lost_does_not_come_back_to_life() -> Result<()> {
    let vault = Vault::new(2).await?;
    let (old, new) = pair(&vault).await?;
    once(&vault, NAMES[0], &old, Work::BaseBackup).await?;
    new.promote()?;
    // The other lease is on the deciding region alone.
    let away = vault.dir().join("away");
    fs::rename(vault.place(1), &away)?;
    let _ = once(&vault, NAMES[1], &new, Work::Configuration).await;
    assert_eq!(
        lease(&vault, 0).await?.context("a lease")?.holder.as_str(),
        NAMES[1]
    );
    let told = format!("{:?}", once(&vault, NAMES[0], &old, Work::Configuration).await);
    assert!(told.contains("agent-b writes"), "{told}");
    fs::rename(&away, vault.place(1))?;
    fs::rename(vault.place(0), &away)?;
    assert_eq!(
        lease(&vault, 1).await?.context("a lease")?.holder.as_str(),
        NAMES[0]
    );
    let told = format!("{:?}", once(&vault, NAMES[0], &old, Work::Configuration).await);
    assert!(told.contains("region0 decides who writes"), "{told}");
    fs::rename(&away, vault.place(0))?;

    // The writer brings its lease to the region that was away.
    let stop = CancellationToken::new();
    let agent = tokio::spawn(holdfast_agent::run(config(&vault, NAMES[1], &new)?, stop.clone()));
    until("both regions have the lease", async || {
        Ok(lease(&vault, 1)
            .await?
            .is_some_and(|lease| lease.holder.as_str() == NAMES[1]))
    })
    .await?;
    stop.cancel();
    agent.await??;
    Ok(())
}

/// A server that was promoted since waits for the region that decides; one that is as it
/// was goes on.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_deciding_region_only_the_same_server_goes_on() -> Result<()> {
    let vault = Vault::new(2).await?;
    let (old, new) = pair(&vault).await?;
    once(&vault, NAMES[0], &old, Work::BaseBackup).await?;
    let away = vault.dir().join("away");
    fs::rename(vault.place(0), &away)?;
    let same = format!("{:?}", once(&vault, NAMES[0], &old, Work::Configuration).await);
    assert!(!same.contains("decides"), "{same}");
    new.promote()?;
    let promoted = format!("{:?}", once(&vault, NAMES[0], &new, Work::Configuration).await);
    assert!(promoted.contains("region0 decides who writes"), "{promoted}");
    fs::rename(&away, vault.place(0))?;
    once(&vault, NAMES[0], &new, Work::Configuration).await?;
    Ok(())
}

/// A copy that is not followed leaves the lease to whoever writes.
#[tokio::test(flavor = "multi_thread")]
async fn a_stray_copy_does_not_disarm_the_writer() -> Result<()> {
    let vault = Vault::new(2).await?;
    let (old, copy) = pair(&vault).await?;
    old.psql("create table t (n int)")?;
    let writer = Node::start(&vault, NAMES[0], old)?;
    until("a base backup is there", async || {
        Ok(!ledger(&vault).await?.points().restorable.intervals.is_empty())
    })
    .await?;
    cut_off(&copy)?;
    write(&writer.pg, 0, 10)?;
    archived(&vault, &writer.pg).await?;
    copy.promote()?;
    write(&copy, 1000, 10)?;
    for more in ["", "take_over = \"agent-a\""] {
        let peers = format!("peers = [\"{}\"]\n{more}", NAMES[0]);
        let config = agent::config(&vault, NAMES[1], &copy, &peers)?;
        let stop = CancellationToken::new();
        let refused = holdfast_agent::once(&config, None, Work::Configuration, Meter::default(), stop).await;
        let told = format!("{refused:?}");
        assert!(
            told.contains("left to whoever has it") && told.contains("forked earlier"),
            "{told}"
        );
        assert_eq!(
            lease(&vault, 0).await?.context("a lease")?.holder.as_str(),
            NAMES[0]
        );
    }
    write(&writer.pg, 2000, 10)?;
    archived(&vault, &writer.pg).await?;
    writer.end().await?;
    Ok(())
}
