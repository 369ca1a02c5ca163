//! A protected server and its repository: what tests of restoring begin with.
//!
//! The server is real, its WAL goes through the agent's own line into a
//! [`Vault`], restores go through the production code, and a restored directory
//! is opened by a real server whose `restore_command` is our `wal fetch`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_agent::base::{self, BaseContext};
use holdfast_agent::findings::Findings;
use holdfast_agent::postgres::{PgTarget, SlotName};
use holdfast_agent::progress::Meter;
use holdfast_agent::restore::{
    Access, FetchBy, Options as RestoreOptions, Outcome, Target, execute, plan_request,
};
use holdfast_agent::state::Record;
use holdfast_agent::wal::{self, LineDirectives, Valve, WalContext, WalError, WalFrontier, WalState};
use holdfast_plan::restore::{Request, RestorePlan};
use holdfast_proto::Timestamp;
use holdfast_proto::names::{BackupId, Lineage};
use holdfast_proto::pg::{Lsn, TimelineId};
use holdfast_repository::clock::now;
use holdfast_repository::publisher::Publisher;
use holdfast_repository::seal::Identities;
use holdfast_repository::{ReplicaConfig, RepositoryConfig};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::postgres::{Options, PATIENCE, StopMode, TestPostgres, wait_until};
use crate::vault::Vault;

mod job;
mod joint;

pub use job::RestoreJob;
pub use joint::references;

/// The tip goes out this often.
const TIP: Duration = Duration::from_millis(50);

/// A protected server and its repository.
pub struct Scene {
    /// The repository and its keys.
    pub vault: Vault,
    /// The server.
    pub pg: TestPostgres,
    /// The program that recovery calls.
    program: PathBuf,
    line: Option<Line>,
    lineage: Lineage,
}

struct Line {
    frontier: WalFrontier,
    findings: Findings,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), WalError>>,
    _directives: watch::Sender<LineDirectives>,
}

impl Scene {
    /// A server with segments of 1 MiB whose WAL goes to two regions. `program`
    /// is the test's `holdfast-wal`.
    pub async fn start(program: &str, options: Options) -> Result<Self> {
        Self::start_with_segments(program, options, 1).await
    }

    /// As [`Scene::start`], with segments of so many megabytes.
    pub async fn start_with_segments(program: &str, options: Options, megabytes: u32) -> Result<Self> {
        let vault = Vault::new(2).await?;
        let options = options.initdb(&format!("--wal-segsize={megabytes}"));
        let pg = TestPostgres::start(&vault.dir().join("source"), options)?;
        let system = pg
            .psql("select system_identifier from pg_control_system()")?
            .parse()?;
        let lineage = Lineage {
            system,
            generation: 1,
        };
        let mut scene = Self {
            vault,
            pg,
            program: program.into(),
            line: None,
            lineage,
        };
        scene.protect().await?;
        Ok(scene)
    }

    /// Starts the WAL line anew.
    pub async fn protect(&mut self) -> Result<()> {
        self.protect_by(self.vault.publisher(2)).await
    }

    /// Starts the WAL line anew, and waits until it streams.
    pub async fn protect_by(&mut self, publisher: Publisher) -> Result<()> {
        self.begin_line(publisher).await?;
        let line = self.line.as_mut().context("the line has begun")?;
        let connected = async {
            while !line.frontier.current().is_some_and(|s| s.connected) {
                line.frontier.changed().await?;
            }
            anyhow::Ok(())
        };
        let connected = tokio::time::timeout(PATIENCE, connected).await;
        connected.with_context(|| format!("the line does not stream: {:?}", line.findings.snapshot()))?
    }

    /// Starts the WAL line anew and waits for nothing.
    pub async fn begin_line(&mut self, publisher: Publisher) -> Result<()> {
        let target: PgTarget = self.pg.conninfo("postgres").parse()?;
        let directives = LineDirectives {
            tip_interval: TIP,
            copies: publisher.copies,
            attest_interval: TIP * 2,
        };
        let (directives, told) = watch::channel(directives);
        let (_, keys) = watch::channel(self.vault.data_key().await?);
        let (says, frontier) = wal::frontier();
        let (findings, cancel) = (Findings::default(), CancellationToken::new());
        let context = WalContext {
            publisher,
            keys,
            target,
            slot: "holdfast".parse::<SlotName>()?,
            valve: Valve::default(),
            lineage: self.lineage,
            following: Arc::default(),
            unheld: Record::at(self.vault.dir().join("unheld.json")),
            uncompared: Record::at(self.vault.dir().join("uncompared.json")),
            index_key: self.vault.index_key().await?.key,
            pushing: None,
            directives: told,
            frontier: says,
            findings: findings.clone(),
            cancel: cancel.clone(),
        };
        let task = tokio::spawn(wal::run(context));
        self.line = Some(Line {
            frontier,
            findings,
            cancel,
            task,
            _directives: directives,
        });
        Ok(())
    }

    /// Ends the WAL line as kill -9 does: its tasks are gone at their next await.
    pub async fn kill_line(&mut self) {
        if let Some(line) = self.line.take() {
            line.task.abort();
            let _ = line.task.await;
        }
    }

    /// Stops the WAL line.
    pub async fn unprotect(&mut self) -> Result<()> {
        if let Some(line) = self.line.take() {
            line.cancel.cancel();
            tokio::time::timeout(PATIENCE, line.task).await???;
        }
        Ok(())
    }

    /// What a base backup of this server works with, and its progress.
    pub async fn base_context(&self) -> Result<BaseContext> {
        let line = self.line.as_ref().context("the server is not protected")?;
        Ok(BaseContext {
            publisher: self.vault.publisher(2),
            key: self.vault.data_key().await?,
            index_key: self.vault.index_key().await?,
            needs: self.vault.trust().await?.records().to_vec(),
            target: self.pg.conninfo("postgres").parse()?,
            data_dir: self.pg.data_dir().to_owned(),
            lineage: self.lineage,
            previous: None,
            frontier: line.frontier.clone(),
            wal_patience: PATIENCE,
            threads: 2,
            level: 1,
            meter: Meter::default(),
            cancel: CancellationToken::new(),
        })
    }

    /// The lineage that is written.
    pub fn lineage(&self) -> Lineage {
        self.lineage
    }

    /// Runs SQL on the server.
    pub fn sql(&self, sql: &str) -> Result<String> {
        self.pg.psql(sql)
    }

    /// The server's clock.
    pub fn time(&self) -> Result<Timestamp> {
        let micros: i64 = self
            .sql("select (extract(epoch from clock_timestamp()) * 1000000)::bigint")?
            .parse()?;
        Ok(Timestamp::from_unix_micros(micros))
    }

    /// Waits until all that the server has flushed now is on both regions.
    pub async fn safe(&self) -> Result<Lsn> {
        let line = self.line.as_ref().context("the server is not protected")?;
        let row = self.sql("select timeline_id, pg_current_wal_flush_lsn() from pg_control_checkpoint()")?;
        let (timeline, lsn) = row.split_once('|').context("two columns")?;
        let timeline = TimelineId::new(timeline.parse()?).context("timeline 0")?;
        let lsn: Lsn = lsn.parse()?;
        let state = line.frontier.until_acknowledged(timeline, lsn, PATIENCE).await;
        state.with_context(|| format!("{:?}", line.findings.snapshot()))?;
        Ok(lsn)
    }

    /// Waits until every region holds all that the server has flushed now.
    pub async fn safe_everywhere(&mut self) -> Result<Lsn> {
        let lsn: Lsn = self.sql("select pg_current_wal_flush_lsn()")?.parse()?;
        let line = self.line.as_mut().context("the server is not protected")?;
        let everywhere = async {
            let has_all = |state: &WalState| state.replicas.iter().all(|r| r.durable >= Some(lsn));
            while !line.frontier.current().is_some_and(|state| has_all(&state)) {
                line.frontier.changed().await?;
            }
            anyhow::Ok(())
        };
        let everywhere = tokio::time::timeout(PATIENCE, everywhere).await;
        everywhere.with_context(|| format!("{:?}", line.findings.snapshot()))??;
        Ok(lsn)
    }

    /// Takes a base backup.
    pub async fn base(&self) -> Result<BackupId> {
        Ok(base::run(&self.base_context().await?).await?.id)
    }

    /// The repository as a restore's configuration names it.
    pub fn config(&self) -> RepositoryConfig {
        let replicas = (0..2).map(|n| {
            let region = format!("region{n}").parse().expect("a constant that is a name");
            ReplicaConfig::directory(region, self.vault.place(n))
        });
        RepositoryConfig {
            replicas: replicas.collect(),
            trust_root: None,
        }
    }

    /// The repository opened for reading, as an operator with the drill's identity.
    pub async fn access(&self) -> Result<Access> {
        let identities = Identities::parse(&self.vault.drill().secret_text())?;
        self.access_with(&identities).await
    }

    /// The repository opened for reading with other identities.
    pub async fn access_with(&self, identities: &Identities) -> Result<Access> {
        let root = *self.vault.trust().await?.root();
        let repository = holdfast_repository::Repository::open(&self.config())
            .await?
            .healing(true);
        Ok(Access::of(repository, &root, &self.vault.cluster, identities).await?)
    }

    /// Plans a request.
    pub async fn plan(&self, request: &Request) -> Result<RestorePlan> {
        let access = self.access().await?;
        let cluster = &self.vault.cluster;
        let (plan, _) = plan_request(
            &access.repository,
            &access.trust,
            Some(&access.keyring),
            cluster,
            request,
            now(),
        )
        .await?;
        Ok(plan)
    }

    /// How restores are done here.
    pub async fn options(&self) -> Result<RestoreOptions> {
        let identity = self.vault.dir().join("drill.key");
        if !identity.exists() {
            self.vault.drill().save(&identity)?;
        }
        Ok(RestoreOptions::new(FetchBy {
            repository: self.config(),
            trust_root: *self.vault.trust().await?.root(),
            identities: vec![identity],
            program: self.program.clone(),
            prefetch: 3,
            restore_command: None,
        }))
    }

    /// A target for a restore of this name.
    pub fn target(&self, name: &str) -> Target {
        let place = self.vault.dir().join(name);
        Target {
            data: place.join("data"),
            tablespaces_under: Some(place.join("tablespaces")),
            filestores: BTreeMap::from([(
                "files".parse().expect("a constant that is a name"),
                place.join("files"),
            )]),
            ..Target::default()
        }
    }

    /// Plans and restores.
    pub async fn restore(&self, request: &Request, name: &str) -> Result<Outcome> {
        let plan = self.plan(request).await?;
        let access = self.access().await?;
        Ok(execute(&plan, &access, &self.target(name), &self.options().await?).await?)
    }

    /// Starts a server on a restored directory and waits until it is promoted.
    pub fn open(&self, name: &str) -> Result<TestPostgres> {
        let restored = TestPostgres::open(&self.target(name).data, false)?;
        promoted(&restored)?;
        Ok(restored)
    }

    /// Ends the source as a disaster does.
    pub async fn lose_source(&mut self) -> Result<()> {
        self.kill_line().await;
        self.pg.kill9()
    }

    /// Stops the source in order.
    pub fn stop_source(&mut self) -> Result<()> {
        self.pg.stop(StopMode::Fast)
    }
}

/// Waits until a server that recovers is promoted.
pub fn promoted(pg: &TestPostgres) -> Result<()> {
    let outcome = wait_until("recovery ends and the server is promoted", || {
        let log = pg.log();
        ensure!(!log.lines().any(is_failure), "recovery failed:\n{log}");
        Ok(pg
            .psql("select pg_is_in_recovery()")
            .is_ok_and(|answer| answer == "f"))
    });
    outcome.with_context(|| pg.log())
}

/// Whether a line of a server's log says that it failed; that it turns somebody away
/// until recovery is over is none.
fn is_failure(line: &str) -> bool {
    line.contains("FATAL") && !line.contains("the database system is not accepting connections")
}
