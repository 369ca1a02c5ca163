//! A whole agent beside a real server: its configuration goes in, and what lies in
//! the repository afterwards is read with a reader's keys.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use holdfast_agent::AgentError;
use holdfast_agent::config::AgentConfig;
use holdfast_agent::postgres::role_sql;
use holdfast_agent::progress::Meter;
use holdfast_proto::message::Work;
use holdfast_proto::names::{Lineage, ObjectKey};
use holdfast_proto::pg::PgMajor;
use holdfast_proto::record::{BaseBody, BundleBody, JointClaim, JournalBody, LeaseBody, PointBody};
use holdfast_repository::layout::{self, BundleKind};
use holdfast_repository::pack::open_frame;
use holdfast_tests::agent;
use holdfast_tests::postgres::{Options, PATIENCE, StopMode, TestPostgres};
use holdfast_tests::vault::Vault;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Stage {
    vault: Vault,
    pg: TestPostgres,
    files: PathBuf,
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), AgentError>>,
}

impl Running {
    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .context("the agent does not stop")???;
        Ok(())
    }
}

impl Stage {
    async fn new() -> Result<Self> {
        let vault = Vault::new(2).await?;
        let pg = TestPostgres::start(
            &vault.dir().join("source"),
            Options::default().initdb("--wal-segsize=1"),
        )?;
        let major = PgMajor::new(15).context("15 is supported")?;
        pg.psql(&role_sql("holdfast", major))?;
        pg.psql("CREATE TABLE ir_attachment (id serial PRIMARY KEY, store_fname text)")?;
        let files = vault.dir().join("filestore");
        fs::create_dir(&files)?;
        let stage = Self { vault, pg, files };
        let second = Duration::from_secs(1);
        agent::hurry(&stage.vault, "agent", second / 10, second)?;
        Ok(stage)
    }

    fn config(&self, name: &str, extra: &str) -> Result<AgentConfig> {
        self.config_of(&self.pg, name, extra)
    }

    fn config_of(&self, pg: &TestPostgres, name: &str, extra: &str) -> Result<AgentConfig> {
        let dir = self.vault.dir().display();
        let rest = format!(
            r#"
            {extra}
            [cluster.configuration]
            files = ["{dir}/odoo.conf", "{dir}/app.d/*.conf"]
            [[cluster.filestore]]
            name = "attachments"
            path = "{files}"
            adapter = "odoo"
            database = "postgres"
            collector_delay = "1h"
            "#,
            files = self.files.display(),
        );
        agent::config(&self.vault, name, pg, &rest)
    }

    fn run(&self) -> Result<Running> {
        let stop = CancellationToken::new();
        let task = tokio::spawn(holdfast_agent::run(self.config("agent", "")?, stop.clone()));
        Ok(Running { stop, task })
    }

    async fn once(&self, work: Work) -> Result<String> {
        let config = self.config("agent", "")?;
        let done =
            holdfast_agent::once(&config, None, work, Meter::default(), CancellationToken::new()).await?;
        Ok(done.into_iter().map(|d| d.made.text).collect())
    }

    fn lineage(&self) -> Result<Lineage> {
        let system = self
            .pg
            .psql("select system_identifier from pg_control_system()")?
            .parse()?;
        Ok(Lineage {
            system,
            generation: 1,
        })
    }

    fn attach(&self, content: &[u8]) -> Result<()> {
        let mut sha1 = sha1::Sha1::new();
        sha1.update(content);
        let sha1 = sha1.hexdigest();
        let name = format!("{}/{sha1}", &sha1[..2]);
        let path = self.files.join(&name);
        fs::create_dir_all(path.parent().context("below the filestore")?)?;
        fs::write(path, content)?;
        self.pg.psql(&format!(
            "INSERT INTO ir_attachment (store_fname) VALUES ('{name}')"
        ))?;
        Ok(())
    }

    async fn keys(&self, prefix: String) -> Result<Vec<ObjectKey>> {
        Ok(self
            .vault
            .repository
            .list(&prefix)
            .await?
            .keys()
            .cloned()
            .collect())
    }

    async fn points(&self) -> Result<Vec<PointBody>> {
        let mut points = Vec::new();
        for key in self
            .keys(layout::points(&self.vault.cluster, self.lineage()?))
            .await?
        {
            points.push(self.vault.signed::<PointBody>(&key).await?.header.body);
        }
        Ok(points)
    }

    async fn bases(&self) -> Result<Vec<ObjectKey>> {
        self.keys(layout::bases(&self.vault.cluster, self.lineage()?))
            .await
    }
}

/// Looks until there is what is looked for.
async fn until<T>(
    what: &str,
    running: &Running,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    loop {
        tick.tick().await;
        if let Some(found) = look().await? {
            return Ok(found);
        }
        ensure!(
            !running.task.is_finished(),
            "the agent ended while waiting until {what}"
        );
        ensure!(
            tokio::time::Instant::now() < deadline,
            "waited in vain until {what}"
        );
    }
}

/// Another database answers where the cluster's did: nothing of it is stored, until
/// somebody says that it has replaced the old one.
#[tokio::test(flavor = "multi_thread")]
async fn another_database_at_the_address_is_refused() -> Result<()> {
    let stage = Stage::new().await?;
    stage.once(Work::BaseBackup).await?;
    let other = TestPostgres::start(&stage.vault.dir().join("other"), Options::default())?;
    other.psql(&role_sql(
        "holdfast",
        PgMajor::new(15).context("15 is supported")?,
    ))?;
    other.psql("CREATE TABLE ir_attachment (id serial PRIMARY KEY, store_fname text)")?;
    let system = other.psql("select system_identifier from pg_control_system()")?;
    let once = async |extra: &str| {
        let config = stage.config_of(&other, "agent", extra)?;
        let stop = CancellationToken::new();
        let done = holdfast_agent::once(&config, None, Work::BaseBackup, Meter::default(), stop).await;
        anyhow::Ok(
            done.map(|_| ())
                .map_err(|e| holdfast_repository::replica::explained(&e)),
        )
    };
    let lineages = async || {
        let prefix = layout::lineages(&stage.vault.cluster);
        anyhow::Ok(stage.vault.repository.children(&prefix).await?.names)
    };
    let before = stage.keys(layout::lineages(&stage.vault.cluster)).await?;
    let refused = once("").await?.err().context("it is taken for the cluster")?;
    assert!(
        refused.contains(&format!("system_identifier = \"{system}\"")),
        "{refused}"
    );
    assert_eq!(stage.keys(layout::lineages(&stage.vault.cluster)).await?, before);
    once(&format!("system_identifier = \"{system}\""))
        .await?
        .map_err(anyhow::Error::msg)?;
    assert_eq!(lineages().await?.len(), 2);
    // From then on the old one is the wrong one, whatever the configuration leaves out.
    let back = stage
        .once(Work::BaseBackup)
        .await
        .err()
        .context("the old one is back")?;
    assert!(format!("{back:#}").contains("another database"), "{back:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_protects_a_cluster_by_itself() -> Result<()> {
    let mut stage = Stage::new().await?;
    fs::write(
        stage.vault.dir().join("odoo.conf"),
        "[options]\nadmin_passwd = hunter2\n",
    )?;
    fs::create_dir(stage.vault.dir().join("app.d"))?;
    fs::write(stage.vault.dir().join("app.d/workers.conf"), "workers = 4\n")?;
    for i in 0..20 {
        stage.attach(format!("attachment {i}").as_bytes())?;
    }
    let running = stage.run()?;
    let base = until("a base backup is there", &running, async || {
        Ok(stage.bases().await?.pop())
    })
    .await?;
    let base = stage.vault.signed::<BaseBody>(&base).await?;
    assert_eq!(base.body().complete_on.len(), 2);
    assert_eq!(base.header.lease, Some(1));

    until("a point is there", &running, async || {
        Ok(stage.points().await?.pop())
    })
    .await?;
    stage.attach(b"one more")?;
    let point = until("the new file is in a point", &running, async || {
        let point = stage.points().await?.pop();
        let Some(point) = point.filter(|p| p.filestores[0].claim == JointClaim::SincePrevious) else {
            return Ok(None);
        };
        let entry = layout::journal(
            &stage.vault.cluster,
            &"attachments".parse()?,
            point.filestores[0].n,
        );
        let files = stage.vault.signed::<JournalBody>(&entry).await?.header.body.files;
        Ok((files == 21).then_some(point))
    })
    .await?;
    assert_eq!(point.complete_on.len(), 2);
    assert_eq!(point.name, format!("holdfast-{}", point.id));

    // Settings for drills, secrets apart from them.
    let keyring = stage.vault.keyring().await?;
    let mut names = Vec::new();
    for kind in [BundleKind::Config, BundleKind::Secrets] {
        let key = stage
            .keys(layout::bundles(&stage.vault.cluster, kind))
            .await?
            .pop()
            .context("a bundle")?;
        let bundle = stage.vault.signed::<BundleBody>(&key).await?;
        let sealed_to = bundle.header.payload.sealed_to.context("bundles are sealed")?;
        let tar = open_frame(&keyring, &sealed_to, &bundle.payload, 64 << 20)?;
        let mut tar = tar::Archive::new(tar.as_slice());
        for file in tar.entries()? {
            let path = file?.path()?.display().to_string();
            names.push(format!(
                "{} {}",
                kind.as_str(),
                path.rsplit('/').next().unwrap_or_default()
            ));
        }
    }
    names.sort();
    assert_eq!(
        names,
        [
            "config catalogue.json",
            "config pg_hba.conf",
            "config pg_ident.conf",
            "config postgresql.auto.conf",
            "config postgresql.conf",
            "config workers.conf",
            "secrets odoo.conf",
        ]
    );

    // The server goes away and comes back; so do the points.
    let before = stage.points().await?.len();
    stage.pg.restart(StopMode::Immediate)?;
    stage.attach(b"after the restart")?;
    until("a point follows the restart", &running, async || {
        Ok((stage.points().await?.len() > before).then_some(()))
    })
    .await?;
    running.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_cluster_writes_no_points() -> Result<()> {
    let stage = Stage::new().await?;
    stage.attach(b"the only one")?;
    let running = stage.run()?;
    until("the first point is there", &running, async || {
        Ok(stage.points().await?.pop())
    })
    .await?;
    // Attestations go on every second: five of them see three intervals of fences.
    let attested = async || -> Result<usize> {
        Ok(stage
            .keys(layout::frontiers(&stage.vault.cluster, stage.lineage()?))
            .await?
            .len())
    };
    until("the base backup is there", &running, async || {
        Ok(stage.bases().await?.pop())
    })
    .await?;
    let (settled, points) = (attested().await? + 3, stage.points().await?.len());
    until("time has passed", &running, async || {
        Ok((attested().await? > settled).then_some(()))
    })
    .await?;
    let points_then = stage.points().await?.len();
    let later = attested().await? + 5;
    until("more time has passed", &running, async || {
        Ok((attested().await? > later).then_some(()))
    })
    .await?;
    assert_eq!(stage.points().await?.len(), points_then, "from {points} on");
    running.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_piece_of_work_with_and_without_a_running_agent() -> Result<()> {
    let stage = Stage::new().await?;
    stage.attach(b"content")?;
    let made = stage.once(Work::BaseBackup).await?;
    assert!(made.starts_with("base backup "), "{made}");
    assert_eq!(stage.bases().await?.len(), 1);
    assert_eq!(
        stage.once(Work::FilestoreCheckpoint).await?,
        "attachments entry 1"
    );

    let running = stage.run()?;
    until("a point is there", &running, async || {
        Ok(stage.points().await?.pop())
    })
    .await?;
    assert!(
        stage
            .once(Work::FilestoreCheckpoint)
            .await?
            .starts_with("attachments entry ")
    );
    assert!(stage.once(Work::Configuration).await?.starts_with("bundle"));
    let leases = stage.keys(layout::leases(&stage.vault.cluster)).await?;
    assert_eq!(leases.len(), 1, "one agent, one lease");

    // A second process on the same directory is not a second agent.
    let second = holdfast_agent::run(stage.config("agent", "")?, CancellationToken::new()).await;
    assert!(matches!(second, Err(AgentError::AlreadyRuns(_))), "{second:?}");
    running.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_is_told_who_the_writer_is_and_may_take_over_by_name() -> Result<()> {
    let stage = Stage::new().await?;
    stage.once(Work::Configuration).await?;
    let stop = CancellationToken::new();
    let other = stage.config("agent-2", "")?;
    let refused =
        holdfast_agent::once(&other, None, Work::Configuration, Meter::default(), stop.clone()).await;
    let Err(AgentError::Failed { why, .. }) = refused else {
        bail!("{refused:?}")
    };
    assert!(
        why.contains("agent agent is the writer") && why.contains("take_over = \"agent\""),
        "{why}"
    );

    let heir = stage.config("agent-2", "take_over = \"agent\"")?;
    holdfast_agent::once(&heir, None, Work::Configuration, Meter::default(), stop).await?;
    let leases = stage.keys(layout::leases(&stage.vault.cluster)).await?;
    let newest = stage
        .vault
        .signed::<LeaseBody>(leases.last().context("two leases")?)
        .await?;
    assert_eq!((newest.body().n, newest.body().holder.as_str()), (2, "agent-2"));
    Ok(())
}
