//! WAL that PostgreSQL hands over by `archive_command`: alone, beside a stream, and
//! what must not be taken.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_agent::AgentError;
use holdfast_agent::ledger::Ledger;
use holdfast_agent::postgres::role_sql;
use holdfast_agent::restore::{Access, FetchBy, Options as RestoreOptions, Target, execute, plan_request};
use holdfast_agent::wal::push::{Feed, PushError, Taken};
use holdfast_plan::restore::{Request, RestorePlan, Target as Moment};
use holdfast_proto::Timestamp;
use holdfast_proto::names::Lineage;
use holdfast_proto::pg::Lsn;
use holdfast_proto::record::{FrontierBody, GapCause, WalBody};
use holdfast_repository::clock::now;
use holdfast_repository::seal::Identities;
use holdfast_repository::{ReplicaConfig, Repository, RepositoryConfig, layout};
use holdfast_tests::agent;
use holdfast_tests::line::{Line, check_regions, gaps_said, lineage, names, write_noise, write_rows};
use holdfast_tests::postgres::{Options, PATIENCE, StopMode, TestPostgres, major, wait_until};
use holdfast_tests::scene::promoted;
use holdfast_tests::vault::Vault;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-wal");

/// A server that archives by nothing: its segments stay where they are.
fn unarchived(vault: &Vault, name: &str) -> Result<TestPostgres> {
    let options = Options::default()
        .initdb("--wal-segsize=1")
        .set("wal_keep_size", "1GB")
        .set("archive_mode", "on")
        .set("archive_command", "false");
    TestPostgres::start(&vault.dir().join(name), options)
}

/// Ends the segment that is written, and returns its file.
fn ended(pg: &TestPostgres) -> Result<PathBuf> {
    pg.psql("create table if not exists ended (n int); insert into ended values (1)")?;
    let name = pg.psql("select pg_walfile_name(pg_switch_wal())")?;
    Ok(pg.data_dir().join("pg_wal").join(name))
}

async fn objects(vault: &Vault, pg: &TestPostgres) -> Result<usize> {
    Ok(names(&vault.repository, vault, lineage(pg)?).await?.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_is_taken_once_and_other_bytes_never() -> Result<()> {
    let vault = Vault::new(2).await?;
    let pg = unarchived(&vault, "source")?;
    let (mut line, pushes) = Line::start_pushed(&vault, &pg, 2, Feed::Archive).await?;
    line.until("the server answers", |state| state.connected).await?;
    let first = ended(&pg)?;
    assert_eq!(pushes.push(&first).await?, Ok(Taken::Stored));
    let stored = objects(&vault, &pg).await?;
    assert_eq!(pushes.push(&first).await?, Ok(Taken::Already));
    assert_eq!(objects(&vault, &pg).await?, stored);
    write_rows(&pg, 20_000)?;
    let mut last = first.clone();
    for file in segments(&pg, &first, &ended(&pg)?)? {
        assert_eq!(pushes.push(&file).await?, Ok(Taken::Stored), "{file:?}");
        last = file;
    }
    let state = line.frontier.current().context("a state")?;
    check_regions(&vault, &pg, &[0, 1], state.acknowledged).await?;
    assert_eq!(state.retained(), None, "there is no slot");
    assert_eq!(pg.psql("select count(*) from pg_replication_slots")?, "0");

    // One bit of a row, in a file that has every header right.
    let other = vault.dir().join("other");
    fs::create_dir(&other)?;
    let changed = other.join(first.file_name().context("a name")?);
    let mut bytes = fs::read(&first)?;
    bytes[100_000] ^= 1;
    fs::write(&changed, &bytes)?;
    // By what this process remembers.
    let taken = pushes.push(&changed).await?;
    assert!(matches!(taken, Err(PushError::Conflict(_))), "{taken:?}");
    line.until_finding("wal-push-conflict").await?;
    line.stop().await?;
    // And by what the repository says.
    let (mut line, pushes) = Line::start_pushed(&vault, &pg, 2, Feed::Archive).await?;
    line.until("the server answers", |state| state.connected).await?;
    assert_eq!(pushes.push(&last).await?, Ok(Taken::Already));
    let taken = pushes.push(&changed).await?;
    assert!(matches!(taken, Err(PushError::Conflict(_))), "{taken:?}");
    line.until_finding("wal-push-conflict").await?;
    assert_eq!(pushes.push(&first).await?, Ok(Taken::Already));
    let findings = line.findings.snapshot();
    assert!(
        !findings.iter().any(|f| f.name == "wal-push-conflict"),
        "{findings:?}"
    );
    line.stop().await
}

/// The segments after `from` up to `to`, in order.
fn segments(pg: &TestPostgres, from: &Path, to: &Path) -> Result<Vec<PathBuf>> {
    let mut all: Vec<PathBuf> = fs::read_dir(pg.data_dir().join("pg_wal"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    all.retain(|path| path.as_path() > from && path.as_path() <= to);
    all.sort();
    Ok(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_this_clusters_wal_is_refused() -> Result<()> {
    let vault = Vault::new(2).await?;
    let pg = unarchived(&vault, "source")?;
    let foreign = unarchived(&vault, "foreign")?;
    let (mut line, pushes) = Line::start_pushed(&vault, &pg, 2, Feed::Archive).await?;
    line.until("the server answers", |state| state.connected).await?;
    let (own, theirs) = (ended(&pg)?, ended(&foreign)?);
    let bytes = fs::read(&own)?;
    let place = vault.dir().join("pushed");
    fs::create_dir(&place)?;
    let named = |name: &str, bytes: &[u8]| -> Result<PathBuf> {
        let path = place.join(name);
        fs::write(&path, bytes)?;
        Ok(path)
    };
    let name = own.file_name().context("a name")?.to_string_lossy().into_owned();
    let next = ended(&pg)?
        .file_name()
        .context("a name")?
        .to_string_lossy()
        .into_owned();
    let mut holed = bytes.clone();
    holed[8192 * 3..8192 * 4].fill(0);
    let mut strayed = bytes.clone();
    write_rows(&pg, 20_000)?;
    let full = segments(&pg, &own, &ended(&pg)?)?.remove(2);
    let mut recycled = fs::read(&full)?;
    // A page that an older use of the file has left.
    recycled[8192 * 2 + 8..8192 * 2 + 16].copy_from_slice(&0x0100_4000_u64.to_le_bytes());
    strayed.truncate(bytes.len() - 8192);
    let cases = [
        ("another cluster", theirs.clone(), "system identifier"),
        ("another position", named(&next, &bytes)?, "address"),
        ("another size", named(&name, &strayed)?, "a segment has"),
        (
            "a page of the past",
            named(&full.file_name().context("a name")?.to_string_lossy(), &recycled)?,
            "address",
        ),
        (
            "a timeline that never was",
            named(&format!("00000001{}.partial", &name[8..]), &bytes)?,
            "left unfinished",
        ),
    ];
    for (what, path, says) in cases {
        match pushes.push(&path).await? {
            Err(PushError::Foreign(why)) if what == "another cluster" => {
                ensure!(why.contains(says), "{what}: {why}");
            }
            Err(PushError::Refused(why)) if what != "another cluster" => {
                ensure!(why.contains(says), "{what}: {why}")
            }
            taken => anyhow::bail!("{what}: {taken:?}"),
        }
    }
    ensure!(objects(&vault, &pg).await? == 0, "something was stored");
    let detail = line.until_finding("wal-push-refused").await?;
    ensure!(detail.contains("was handed over and not taken"), "{detail}");
    let detail = line.until_finding("wal-push-foreign").await?;
    ensure!(detail.contains("system identifier"), "{detail}");
    // From another data directory, whatever the file says.
    let system = lineage(&foreign)?.system;
    let taken = pushes.push_of(&own, Some(system)).await?;
    ensure!(matches!(taken, Err(PushError::Foreign(_))), "{taken:?}");
    // A timeline that the server is not on: it may be about to be.
    let later = named(&format!("00000002{}", &name[8..]), &bytes)?;
    let taken = pushes.push(&later).await?;
    ensure!(matches!(taken, Err(PushError::Later(_))), "{taken:?}");
    // A history needs a cluster, and labels nothing.
    let history = named("00000002.history", b"1\t0/3000000\tno\n")?;
    let taken = pushes.push_of(&history, None).await?;
    ensure!(matches!(taken, Err(PushError::Refused(_))), "{taken:?}");
    let label = named(&format!("{name}.00000028.backup"), b"START WAL LOCATION")?;
    ensure!(pushes.push(&label).await? == Ok(Taken::NotNeeded));
    assert_eq!(pushes.push(&own).await?, Ok(Taken::Stored));
    line.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_stream_a_segment_is_compared() -> Result<()> {
    let vault = Vault::new(2).await?;
    let pg = unarchived(&vault, "source")?;
    let before = ended(&pg)?;
    // A new slot keeps WAL from the last checkpoint on.
    pg.psql("checkpoint")?;
    let (mut line, pushes) = Line::start_pushed(&vault, &pg, 2, Feed::Stream).await?;
    line.until("it streams", |state| state.connected).await?;
    let first = ended(&pg)?;
    write_rows(&pg, 5000)?;
    let last = ended(&pg)?;
    for file in segments(&pg, &before, &last)? {
        assert_eq!(pushes.push(&file).await?, Ok(Taken::Already), "{file:?}");
    }
    // From before the stream began: nothing else will bring it.
    assert_eq!(pushes.push(&before).await?, Ok(Taken::Stored));
    assert_eq!(pushes.push(&before).await?, Ok(Taken::Already));

    let other = vault.dir().join("other");
    fs::create_dir(&other)?;
    let changed = other.join(first.file_name().context("a name")?);
    let mut bytes = fs::read(&first)?;
    bytes[100] ^= 1;
    fs::write(&changed, bytes)?;
    let taken = pushes.push(&changed).await?;
    assert!(matches!(taken, Err(PushError::Conflict(_))), "{taken:?}");
    line.until_finding("wal-push-conflict").await?;

    // Another process knows it by the repository alone.
    line.stop().await?;
    let (mut line, pushes) = Line::start_pushed(&vault, &pg, 2, Feed::Stream).await?;
    line.until("it streams", |state| state.connected).await?;
    assert_eq!(pushes.push(&first).await?, Ok(Taken::Already));
    let taken = pushes.push(&changed).await?;
    assert!(matches!(taken, Err(PushError::Conflict(_))), "{taken:?}");
    let state = line.until_safe(&pg).await?;
    check_regions(&vault, &pg, &[0, 1], state.acknowledged).await?;
    line.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_safe_on_as_many_replicas_as_the_tier_asks_for() -> Result<()> {
    let vault = Vault::new(2).await?;
    let pg = unarchived(&vault, "source")?;
    let (mut line, pushes) = Line::start_pushed(&vault, &pg, 2, Feed::Archive).await?;
    line.until("the server answers", |state| state.connected).await?;
    let first = ended(&pg)?;
    assert_eq!(pushes.push(&first).await?, Ok(Taken::Stored));
    vault.faults(1).partition(true);
    let second = ended(&pg)?;
    let taken = pushes.push(&second).await?;
    assert!(matches!(taken, Err(PushError::Later(_))), "{taken:?}");
    line.until_finding(holdfast_agent::wal::REPLICA_FAILS).await?;
    vault.faults(1).partition(false);
    // Stored now, or brought there by the courier meanwhile.
    assert!(pushes.push(&second).await?.is_ok());
    let state = line.frontier.current().context("a state")?;
    check_regions(&vault, &pg, &[0, 1], state.acknowledged).await?;

    // A segment that never came is a gap, and what counts begins behind it.
    let missing = ended(&pg)?;
    let third = ended(&pg)?;
    assert_eq!(pushes.push(&third).await?, Ok(Taken::Stored));
    let gap = line.until_finding("wal-gap").await?;
    let began = line
        .frontier
        .current()
        .context("a state")?
        .reach
        .contiguous_from();
    assert!(
        gap.contains(&began.to_string()) && began > state.acknowledged,
        "{gap}"
    );
    assert_eq!(
        pushes.push(&missing).await?,
        Ok(Taken::Stored),
        "late is better than never"
    );
    line.stop().await?;
    let said = gaps_said(&vault, lineage(&pg)?).await?;
    let said: Vec<_> = said.iter().map(|(to, gap)| (*to, gap.cause)).collect();
    assert_eq!(said, [(began, GapCause::NotHandedOver)]);
    Ok(())
}

/// A segment of many chunks: some of them are stored when the agent is killed, and one
/// region lacks them all.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_segment_is_taken_up_again() -> Result<()> {
    let vault = Vault::new(2).await?;
    let options = Options::default()
        .initdb("--wal-segsize=16")
        .set("wal_keep_size", "1GB")
        .set("archive_mode", "on")
        .set("archive_command", "false");
    let pg = TestPostgres::start(&vault.dir().join("source"), options)?;
    let (mut line, pushes) = Line::start_pushed(&vault, &pg, 2, Feed::Archive).await?;
    line.until("the server answers", |state| state.connected).await?;
    write_noise(&pg, 12)?;
    let first = ended(&pg)?;
    vault.faults(1).partition(true);
    {
        let pushing = pushes.push(&first);
        tokio::pin!(pushing);
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        while objects(&vault, &pg).await? < 1 {
            tokio::select! {
                taken = &mut pushing => anyhow::bail!("it was too quick: {taken:?}"),
                _ = looks.tick() => {}
            }
        }
        line.kill().await;
    }
    let (mut line, pushes) = Line::start_pushed(&vault, &pg, 2, Feed::Archive).await?;
    line.until("the server answers", |state| state.connected).await?;
    let taken = pushes.push(&first).await?;
    assert!(matches!(taken, Err(PushError::Later(_))), "{taken:?}");
    vault.faults(1).partition(false);
    assert!(pushes.push(&first).await?.is_ok());
    assert_eq!(pushes.push(&first).await?, Ok(Taken::Already));
    let state = line.frontier.current().context("a state")?;
    check_regions(&vault, &pg, &[0, 1], state.acknowledged).await?;
    let all = names(&vault.repository, &vault, lineage(&pg)?).await?;
    assert_eq!(all.len(), 4, "4 MiB each, none twice: {all:?}");
    line.stop().await
}

/// A promotion: the history comes first, the unfinished segment of the old timeline is
/// kept up to where it ended, and the archive has no hole.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hands_nothing_over_gets_no_base() -> Result<()> {
    let vault = Vault::new(1).await?;
    let mut pg = TestPostgres::start(&vault.dir().join("source"), Options::default())?;
    let (mut line, _pushes) = Line::start_pushed(&vault, &pg, 1, Feed::Archive).await?;
    let detail = line.until_finding("wal-archive-off").await?;
    assert!(detail.contains("archive_mode = on"), "{detail}");
    let state = line.until("the server answers", |state| state.connected).await?;
    assert!(
        !state.flows,
        "a base backup would begin, and wait for WAL that never comes"
    );
    pg.psql("alter system set archive_mode = on")?;
    pg.restart(StopMode::Fast)?;
    line.until("WAL is handed over", |state| state.flows).await?;
    line.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_leaves_no_hole() -> Result<()> {
    let vault = Vault::new(2).await?;
    let mut pg = unarchived(&vault, "source")?;
    let (mut line, pushes) = Line::start_pushed(&vault, &pg, 2, Feed::Archive).await?;
    line.until("the server answers", |state| state.connected).await?;
    assert_eq!(pushes.push(&ended(&pg)?).await?, Ok(Taken::Stored));
    pg.psql("create table t as select 1 as n")?;
    let ready = promoted_again(&mut pg)?;
    ensure!(
        ready[0] == "00000002.history" && ready.iter().any(|n| n.ends_with(".partial")),
        "{ready:?}"
    );
    let lineage: Lineage = lineage(&pg)?;
    for name in &ready {
        let taken = pushes.push(&pg.data_dir().join("pg_wal").join(name)).await?;
        assert!(taken.is_ok(), "{name}: {taken:?}");
    }
    let ledger = Ledger::load(&vault.repository, &vault.trust().await?, &vault.cluster).await?;
    let facts = ledger
        .facts
        .lineages
        .iter()
        .find(|l| l.lineage == lineage)
        .context("a lineage")?;
    let fork = facts.timelines[1].ancestors.as_ref().context("a history")?[0].end;
    let old = &facts.timelines[0].wal;
    assert_eq!(
        (old.len(), old[0].end),
        (1, fork),
        "timeline 1 ends where 2 begins"
    );
    let restart = pushes
        .push(&pg.data_dir().join("pg_wal/00000002.history"))
        .await?;
    assert!(restart.is_ok(), "{restart:?}");
    let other = vault.dir().join("00000002.history");
    fs::write(&other, "1\t0/2000000\tanother future\n")?;
    let taken = pushes.push(&other).await?;
    assert!(matches!(taken, Err(PushError::Conflict(_))), "{taken:?}");
    let findings = line.findings.snapshot();
    assert!(!findings.iter().any(|f| f.name == "wal-gap"), "{findings:?}");

    // Again, and nobody hands over how the old timeline ended.
    for name in promoted_again(&mut pg)?
        .iter()
        .filter(|n| n.starts_with("00000003"))
    {
        let taken = pushes.push(&pg.data_dir().join("pg_wal").join(name)).await?;
        assert_eq!(taken, Ok(Taken::Stored), "{name}");
    }
    line.until_finding("wal-gap").await?;
    line.stop().await
}

/// Promotes the server where it stands, ends a segment of the new timeline, and says what
/// it would hand over, in the order of PostgreSQL: histories first, then by name.
fn promoted_again(pg: &mut TestPostgres) -> Result<Vec<String>> {
    pg.stop(StopMode::Fast)?;
    fs::write(pg.data_dir().join("standby.signal"), "")?;
    pg.start_again()?;
    pg.promote()?;
    pg.psql("insert into t values (2)")?;
    ended(pg)?;
    let status = pg.data_dir().join("pg_wal/archive_status");
    let mut ready: Vec<String> = fs::read_dir(status)?
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            name.strip_suffix(".ready").map(str::to_owned)
        })
        .collect();
    ready.sort_by_key(|name| (!name.ends_with(".history"), name.clone()));
    Ok(ready)
}

/// A whole agent beside a server that hands WAL over by the real command.
struct House {
    vault: Vault,
    pg: TestPostgres,
    feed: &'static str,
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), AgentError>>,
}

impl Running {
    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        Ok(tokio::time::timeout(PATIENCE, self.task).await???)
    }
}

impl House {
    async fn new(feed: &'static str, megabytes: u32) -> Result<Self> {
        let vault = Vault::new(2).await?;
        let socket = vault.dir().join("agent/wal.sock");
        let command = format!("'{PROGRAM}' wal push %p --socket '{}'", socket.display());
        let options = Options::default()
            .initdb(&format!("--wal-segsize={megabytes}"))
            .set("archive_mode", "on")
            .set("archive_timeout", "1h")
            .set("archive_command", &command);
        let pg = TestPostgres::start(&vault.dir().join("source"), options)?;
        pg.psql(&role_sql("holdfast", major()?))?;
        pg.psql("create table t (n int)")?;
        agent::hurry(
            &vault,
            "agent",
            Duration::from_millis(50),
            Duration::from_secs(3600),
        )?;
        Ok(Self { vault, pg, feed })
    }

    fn run(&self) -> Result<Running> {
        let stop = CancellationToken::new();
        let config = agent::config(
            &self.vault,
            "agent",
            &self.pg,
            &format!("wal = \"{}\"", self.feed),
        )?;
        let task = tokio::spawn(holdfast_agent::run(config, stop.clone()));
        Ok(Running { stop, task })
    }

    async fn ledger(&self) -> Result<Ledger> {
        Ok(Ledger::load(
            &self.vault.repository,
            &self.vault.trust().await?,
            &self.vault.cluster,
        )
        .await?)
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
        let mut looks = tokio::time::interval(Duration::from_millis(50));
        let reached = async {
            while !holds().await? {
                looks.tick().await;
            }
            Ok(())
        };
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        reached.with_context(|| format!("waited in vain until {what}: {}", self.pg.log()))?
    }

    async fn until_restorable(&self) -> Result<()> {
        self.until("a base backup is there", async || {
            Ok(!self.ledger().await?.points().restorable.intervals.is_empty())
        })
        .await
    }

    /// Ends the segment, and waits until the archive reaches it. A try now and then wakes
    /// PostgreSQL's archiver, which rests a minute after three failures.
    async fn until_archived(&self) -> Result<Lsn> {
        let lsn: Lsn = self.pg.psql("select pg_current_wal_insert_lsn()")?.parse()?;
        let lineage = lineage(&self.pg)?;
        let mut looks = 0;
        self.until("the WAL is archived", async || {
            if looks % 20 == 0 {
                self.pg
                    .psql("insert into t values (-1); select pg_switch_wal()")?;
            }
            looks += 1;
            let names = names(&self.vault.repository, &self.vault, lineage).await?;
            Ok(names.iter().any(|name| name.end >= lsn))
        })
        .await?;
        Ok(lsn)
    }

    async fn attestation(&self) -> Result<FrontierBody> {
        let prefix = layout::frontiers(&self.vault.cluster, lineage(&self.pg)?);
        let listing = self.vault.repository.list(&prefix).await?;
        let newest = listing
            .objects
            .keys()
            .next_back()
            .context("no attestation")?
            .clone();
        Ok(self.vault.signed::<FrontierBody>(&newest).await?.header.body)
    }

    fn time(&self) -> Result<Timestamp> {
        let micros = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";
        Ok(Timestamp::from_unix_micros(self.pg.psql(micros)?.parse()?))
    }

    /// Restores beside the server and returns the rows, and the plan.
    async fn restored(&self, moment: Moment, name: &str) -> Result<(String, RestorePlan)> {
        let vault = &self.vault;
        let replica = |n: usize| {
            Ok(ReplicaConfig::directory(
                format!("region{n}").parse()?,
                vault.place(n),
            ))
        };
        let config = RepositoryConfig {
            replicas: (0..2).map(replica).collect::<Result<_>>()?,
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
            &Request::new(moment),
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
        Ok((rows(&copy)?, plan))
    }
}

fn rows(pg: &TestPostgres) -> Result<String> {
    pg.psql("select coalesce(string_agg(n::text, ' ' order by n), '') from t where n > 0")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_only_pushes_is_restored_to_a_moment() -> Result<()> {
    let mut house = House::new("archive", 16).await?;
    let running = house.run()?;
    house.until_restorable().await?;
    assert_eq!(house.pg.psql("select count(*) from pg_replication_slots")?, "0");
    assert_eq!(house.pg.psql("select count(*) from pg_stat_replication")?, "0");

    house
        .pg
        .psql("insert into t values (1); insert into t values (2)")?;
    let moment = house.time()?;
    house.pg.psql("insert into t values (3)")?;
    house.until_archived().await?;
    // What is committed and not handed over is said to be lost, and how old it is.
    house
        .until("an idle server loses nothing", async || {
            let seen = house.attestation().await?;
            Ok(seen.rpo_ms == 0 && seen.acknowledged >= seen.server_flush)
        })
        .await?;
    house.pg.psql("insert into t values (4)")?;
    let open: Lsn = house.pg.psql("select pg_current_wal_flush_lsn()")?.parse()?;
    house
        .until("the open segment is exposed", async || {
            let seen = house.attestation().await?;
            Ok(seen.server_flush >= open && seen.acknowledged < open && seen.rpo_ms > 1000)
        })
        .await?;
    let points = house.ledger().await?.points();
    assert_eq!(points.restorable.gaps, [], "{points}");
    house.pg.kill9()?;
    running.stop().await?;

    let (at_moment, plan) = house.restored(Moment::Time(moment), "moment").await?;
    assert_eq!(at_moment, "1 2", "{plan}");
    let (latest, _) = house.restored(Moment::Latest, "latest").await?;
    assert_eq!(
        latest, "1 2 3",
        "what was never handed over is lost, and nothing else"
    );
    Ok(())
}

/// While the agent is away PostgreSQL keeps every segment, and hands all over later;
/// what a killed agent had stored of one is found again.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_the_agent_is_away() -> Result<()> {
    let house = House::new("archive", 1).await?;
    let running = house.run()?;
    house.until_restorable().await?;
    running.stop().await?;
    let failed = || house.pg.psql("select failed_count from pg_stat_archiver");
    let before = failed()?;
    for n in 1..=3 {
        house
            .pg
            .psql(&format!("insert into t values ({n}); select pg_switch_wal()"))?;
    }
    wait_until("PostgreSQL was refused", || Ok(failed()? != before))?;
    let running = house.run()?;
    house.until_archived().await?;

    // In the middle of what it is given.
    house
        .pg
        .psql("insert into t select -n from generate_series(1, 50000) n")?;
    running.task.abort();
    ensure!(
        running.task.await.is_err_and(|e| e.is_cancelled()),
        "it was killed"
    );
    for n in 11..=13 {
        house
            .pg
            .psql(&format!("insert into t values ({n}); select pg_switch_wal()"))?;
    }
    let running = house.run()?;
    house.until_archived().await?;
    let points = house.ledger().await?.points();
    assert_eq!(points.restorable.gaps, [], "{points}");
    running.stop().await?;
    let (latest, _) = house.restored(Moment::Latest, "latest").await?;
    assert_eq!(latest, "1 2 3 11 12 13");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_stream_the_command_succeeds_and_stores_nothing_twice() -> Result<()> {
    let house = House::new("stream", 1).await?;
    let running = house.run()?;
    house.until_restorable().await?;
    for n in 1..=5 {
        house
            .pg
            .psql(&format!("insert into t values ({n}); select pg_switch_wal()"))?;
    }
    let last = house
        .pg
        .psql("insert into t values (6); select pg_walfile_name(pg_switch_wal())")?;
    house
        .until("PostgreSQL has handed all over", async || {
            let archived = house
                .pg
                .psql("select coalesce(last_archived_wal, '') from pg_stat_archiver")?;
            Ok(archived >= last)
        })
        .await?;
    let lineage = lineage(&house.pg)?;
    let names = names(&house.vault.repository, &house.vault, lineage).await?;
    for pair in names.windows(2) {
        assert!(pair[0].end <= pair[1].start, "{pair:?}");
    }
    for name in &names {
        let key = layout::wal(&house.vault.cluster, lineage, name);
        let body = house.vault.signed::<WalBody>(&key).await?.header.body;
        assert!(body.chunks.iter().all(|chunk| chunk.id.is_some()));
    }
    running.stop().await
}
