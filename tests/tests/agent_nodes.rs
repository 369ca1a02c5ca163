//! Whole agents beside the two nodes of one cluster, through promotions: whose
//! server is the primary writes, the archive has no hole, and a moment of any
//! timeline is restored. `HOLDFAST_TEST_ROUNDS` says how many promotions.

use std::fs;
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
use holdfast_proto::pg::{Lsn, PgMajor, TimelineId};
use holdfast_proto::record::LeaseBody;
use holdfast_repository::clock::now;
use holdfast_repository::seal::Identities;
use holdfast_repository::{ReplicaConfig, Repository, RepositoryConfig, layout};
use holdfast_tests::agent;
use holdfast_tests::postgres::{Options, PATIENCE, TestPostgres};
use holdfast_tests::scene::promoted;
use holdfast_tests::vault::Vault;
use tokio::task::JoinHandle;
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

/// Restores a request beside the nodes and returns the rows, and the plan.
async fn restored(vault: &Vault, request: &Request, name: &str) -> Result<(String, RestorePlan)> {
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
    let rows = copy.psql(ROWS)?;
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
    first.psql(&role_sql(
        "holdfast",
        PgMajor::new(15).context("15 is supported")?,
    ))?;
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
    let (rows, plan) = restored(&vault, &Request::new(Moment::Latest), "latest").await?;
    assert_eq!(rows, primary.pg.psql(ROWS)?);
    assert_eq!(plan.replay.timeline.get() as usize, rounds() + 1);
    // The first, the last, and some in between.
    for (n, (at, expected)) in moments.iter().enumerate().step_by(moments.len().div_ceil(6)) {
        let (rows, _) = restored(&vault, &Request::new(Moment::Time(*at)), &format!("moment{n}")).await?;
        assert_eq!(rows, *expected, "moment {n}, {at}");
    }
    if let Some((timeline, expected)) = left_behind {
        let mut request = Request::new(Moment::Latest);
        request.timeline = TimelineChoice::Id(timeline);
        let (rows, _) = restored(&vault, &request, "tail").await?;
        assert_eq!(rows, expected, "the tail of timeline {timeline}");
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
    old.psql(&role_sql(
        "holdfast",
        PgMajor::new(15).context("15 is supported")?,
    ))?;
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
