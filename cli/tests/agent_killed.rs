//! The real program, killed with SIGKILL while it protects a server: at the n-th
//! object that reaches a region, for every n up to a complete base backup, and then
//! at the n-th WAL object. Whatever was acknowledged comes back.
//!
//! A region here is a directory, so what stands in it says how far the agent is.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_agent::postgres::role_sql;
use holdfast_agent::restore::closure;
use holdfast_proto::message::Directives;
use holdfast_proto::names::Lineage;
use holdfast_proto::pg::{Lsn, PgMajor};
use holdfast_repository::layout::{self, BundleKind};
use holdfast_repository::seal::Identity;
use holdfast_tests::postgres::{Options, PATIENCE, TestPostgres, finished, program};
use holdfast_tests::scene::{promoted, references};
use holdfast_tests::vault::Vault;

const HOLDFAST: &str = env!("CARGO_BIN_EXE_holdfast");

/// A server, its filestore, a repository, and everybody's configuration.
struct House {
    vault: Vault,
    pg: TestPostgres,
    files: PathBuf,
    recovery: Identity,
}

/// The agent as a process of its own.
struct Agent(Child);

impl Agent {
    fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

impl House {
    async fn new() -> Result<Self> {
        let vault = Vault::new(2).await?;
        let dir = vault.dir().to_owned();
        let pg = TestPostgres::start(
            &dir.join("source"),
            Options::default()
                .initdb("--wal-segsize=1")
                .set("wal_keep_size", "1GB"),
        )?;
        pg.psql(&role_sql(
            "holdfast",
            PgMajor::new(15).context("15 is supported")?,
        ))?;
        pg.psql(
            "create table t (n int); \
             create table ir_attachment (store_fname text, checksum text, file_size bigint)",
        )?;
        let files = dir.join("filestore");
        fs::create_dir(&files)?;
        fs::write(dir.join("odoo.conf"), "[options]\nadmin_passwd = hunter2\n")?;
        vault.signer().save(&dir.join("agent.key"))?;
        vault.drill().save(&dir.join("drill.key"))?;
        let recovery = Identity::generate();
        recovery.save(&dir.join("recovery.key"))?;
        Identity::generate().save(&dir.join("stranger.key"))?;

        // The numbers that a coordinator would have sent: quick ones.
        let directives = Directives {
            cluster: vault.cluster.clone(),
            tier: "platinum".parse()?,
            tip_interval_ms: 50,
            copies: 2,
            fence_interval_ms: 500,
            attest_interval_ms: 1000,
            residency: None,
            policy: "test".to_owned(),
        };
        let memory = dir.join("state/clusters/acme/erp");
        fs::create_dir_all(&memory)?;
        fs::set_permissions(dir.join("state"), fs::Permissions::from_mode(0o700))?;
        fs::write(memory.join("directives.json"), serde_json::to_vec(&directives)?)?;
        let house = Self {
            vault,
            pg,
            files,
            recovery,
        };
        house.configure()?;
        Ok(house)
    }

    fn dir(&self) -> &Path {
        self.vault.dir()
    }

    fn configure(&self) -> Result<()> {
        let dir = self.dir().display();
        let repository = format!(
            r#"
            [repository]
            trust_root = "{root}"
            replicas = [
              {{ url = "file://{a}", region = "region0" }},
              {{ url = "file://{b}", region = "region1" }},
            ]
            "#,
            root = self.vault.root(),
            a = self.vault.place(0).display(),
            b = self.vault.place(1).display(),
        );
        let agent = format!(
            r#"
            name = "agent"
            state_dir = "{dir}/state"
            signing_key = "{dir}/agent.key"
            threads = 2
            recipients = {{ drill = ["{drill}"], recovery = ["{recovery}"] }}
            {repository}
            [[cluster]]
            cluster = "acme/erp"
            tier = "platinum"
            postgres = "host={socket} port={port} user=holdfast dbname=postgres"
            [cluster.configuration]
            files = ["{dir}/odoo.conf"]
            [[cluster.filestore]]
            name = "attachments"
            path = "{files}"
            adapter = "odoo"
            database = "postgres"
            collector_delay = "1h"
            "#,
            drill = self.vault.drill().recipient(),
            recovery = self.recovery.recipient(),
            socket = self.pg.socket_dir().display(),
            port = self.pg.port(),
            files = self.files.display(),
        );
        fs::write(self.dir().join("agent.toml"), agent)?;
        fs::write(self.dir().join("holdfast.toml"), repository)?;
        Ok(())
    }

    fn agent(&self) -> Result<Agent> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir().join("agent.log"))?;
        let child = Command::new(HOLDFAST)
            .args(["agent", "run", "--config"])
            .arg(self.dir().join("agent.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Agent(child))
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

    /// Objects of a region below a prefix.
    fn objects(&self, region: usize, prefix: &str) -> usize {
        files_below(&self.vault.place(region).join(prefix))
    }

    fn everywhere(&self, prefix: &str) -> usize {
        (0..2).map(|region| self.objects(region, prefix)).sum()
    }

    /// Waits until `condition` holds, while the agent must live.
    fn until(&self, what: &str, agent: &mut Agent, condition: impl Fn() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if condition()? {
                return Ok(());
            }
            let log = || fs::read_to_string(self.dir().join("agent.log")).unwrap_or_default();
            ensure!(
                agent.0.try_wait()?.is_none(),
                "the agent ended while waiting until {what}:\n{}",
                log()
            );
            ensure!(
                Instant::now() < deadline,
                "waited in vain until {what}:\n{}",
                log()
            );
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// Adds a file to the filestore, and then the row that references it.
    fn attach(&self, content: &[u8]) -> Result<()> {
        let sha1 = sha1::Sha1::from(content).digest().to_string();
        let name = format!("{}/{sha1}", &sha1[..2]);
        let path = self.files.join(&name);
        fs::create_dir_all(path.parent().context("below the filestore")?)?;
        fs::write(path, content)?;
        self.pg.psql(&format!(
            "insert into ir_attachment values ('{name}', '{sha1}', {})",
            content.len()
        ))?;
        Ok(())
    }

    fn holdfast(&self, arguments: &[&str]) -> Result<Output> {
        let output = Command::new(HOLDFAST)
            .args(arguments)
            .arg("--config")
            .arg(self.dir().join("holdfast.toml"))
            .stdin(Stdio::null())
            .output()?;
        Ok(output)
    }

    /// `holdfast restore run --latest` with an identity, into a directory of this name.
    fn restore(&self, identity: &str, name: &str, more: &[&str]) -> Result<Output> {
        let path = |name: &str| self.dir().join(name).display().to_string();
        let (identity, target) = (path(identity), path(name));
        let files = format!("attachments={target}.files");
        let mut arguments = vec![
            "restore",
            "run",
            "--latest",
            "--cluster",
            "acme/erp",
            "--identity",
            &identity,
            "--target",
            &target,
            "--filestore",
            &files,
        ];
        arguments.extend(more);
        self.holdfast(&arguments)
    }
}

fn files_below(path: &Path) -> usize {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path()),
            // A name with '#' is an object that is not whole yet.
            Ok(_) if !entry.file_name().to_string_lossy().contains('#') => 1,
            _ => 0,
        })
        .sum()
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Somebody who writes rows 1, 2, … one transaction each, until told to stop, and
/// remembers where each had been committed.
struct Writer {
    stop: Sender<()>,
    thread: JoinHandle<Result<Vec<Lsn>>>,
}

impl Writer {
    fn begin(conninfo: String) -> Self {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || write(&conninfo, &stopped));
        Self { stop, thread }
    }

    /// Where row 1, row 2, … had been committed by.
    fn end(self) -> Result<Vec<Lsn>> {
        self.stop.send(())?;
        self.thread.join().expect("the writer does not panic")
    }
}

fn write(conninfo: &str, stopped: &Receiver<()>) -> Result<Vec<Lsn>> {
    let mut committed = Vec::new();
    while stopped.try_recv().is_err() {
        let n = committed.len() + 1;
        // Some WAL beside the row, so that segments end.
        let row = format!("insert into t values ({n})");
        let noise =
            "select length(pg_logical_emit_message(false, 'noise', repeat(md5(random()::text), 2000))::text)";
        let lsn = finished(program("psql").args([
            "-XAtq",
            "-d",
            conninfo,
            "-c",
            noise,
            "-c",
            &row,
            "-c",
            "select pg_current_wal_insert_lsn()",
        ]))?;
        committed.push(lsn.lines().last().context("a position")?.parse()?);
    }
    Ok(committed)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_object_it_loses_nothing_that_was_acknowledged() -> Result<()> {
    let mut house = House::new().await?;
    let lineage = house.lineage()?;
    let cluster = house.vault.cluster.clone();
    let (bases, wal) = (
        layout::bases(&cluster, lineage),
        layout::wal_of(&cluster, lineage),
    );

    // At the n-th object of each run, until a base backup is complete.
    let mut n = 0;
    while house.everywhere(&bases) == 0 {
        n += 1;
        let region = n % 2;
        house.attach(format!("attachment {n}").as_bytes())?;
        let before = house.objects(region, "");
        let mut agent = house.agent()?;
        house.until("the n-th object is stored", &mut agent, || {
            Ok(house.objects(region, "") >= before + n || house.everywhere(&bases) > 0)
        })?;
        agent.kill()?;
    }
    ensure!(n > 5, "a base backup was complete after {n} objects");

    // At the n-th object of WAL, while somebody writes.
    let writer = Writer::begin(house.pg.conninfo("postgres"));
    for n in 1..=6 {
        let region = n % 2;
        let mut agent = house.agent()?;
        let before = house.objects(region, &wal);
        house.until("the n-th WAL object is stored", &mut agent, || {
            Ok(house.objects(region, &wal) >= before + n)
        })?;
        agent.kill()?;
    }

    // Two fences after the last file, a bundle of secrets; then the end of everything,
    // in the middle of the work.
    house.attach(b"the last attachment")?;
    let points = layout::points(&cluster, lineage);
    let secrets = layout::bundles(&cluster, BundleKind::Secrets);
    let fenced = house.objects(0, &points) + 2;
    let mut agent = house.agent()?;
    house.until("two fences were taken", &mut agent, || {
        Ok(house.objects(0, &points) >= fenced && house.everywhere(&secrets) > 0)
    })?;
    let acknowledged: Lsn = house
        .pg
        .psql("select restart_lsn from pg_replication_slots")?
        .parse()?;
    agent.kill()?;
    let committed = writer.end()?;
    house.pg.kill9()?;
    let safe = committed.iter().filter(|lsn| **lsn <= acknowledged).count();
    ensure!(safe > 10, "only {safe} of {} rows were safe", committed.len());

    let restored = house.restore("recovery.key", "restored", &[])?;
    ensure!(restored.status.success(), "{}", said(&restored));
    let server = TestPostgres::open(&house.dir().join("restored"), false)?;
    promoted(&server)?;
    let rows = server.psql("select count(*), max(n), count(distinct n) from t")?;
    let count: usize = rows.split('|').next().context("a count")?.parse()?;
    assert_eq!(
        rows,
        format!("{count}|{count}|{count}"),
        "no row is missing in between"
    );
    assert!(
        count >= safe && count <= committed.len(),
        "{count} rows came back; {safe} were acknowledged, {} committed",
        committed.len()
    );

    let references = references(&server)?;
    let names: BTreeSet<_> = references.iter().map(|r| r.name.clone()).collect();
    assert_eq!(names.len(), n + 1);
    let compared = closure::compare(references, &house.dir().join("restored.files"), 2)?;
    assert!(compared.is_complete(), "{compared:?}");

    identities_open_what_is_theirs(&house)
}

/// What each key opens, told by exit code and text.
fn identities_open_what_is_theirs(house: &House) -> Result<()> {
    let secrets = house.dir().join("secrets").display().to_string();
    let opened = house.restore("recovery.key", "with-secrets", &["--secrets", &secrets])?;
    ensure!(opened.status.success(), "{}", said(&opened));
    let found = files_below(Path::new(&secrets));
    assert_eq!(found, 1, "the secrets were unpacked");

    let refused = |identity: &str, more: &[&str], code: i32, text: &str| -> Result<()> {
        let target = format!("refused-{identity}");
        let output = house.restore(identity, &target, more)?;
        let told = said(&output);
        assert_eq!(output.status.code(), Some(code), "{identity}: {told}");
        assert!(told.contains(text), "{identity}: {told}");
        assert!(
            !house.dir().join(target).join("global/pg_control").exists(),
            "{identity}: no server can be started"
        );
        Ok(())
    };
    let theirs = house.dir().join("theirs").display().to_string();
    refused("drill.key", &["--secrets", &theirs], 1, "secrets")?;
    assert_eq!(files_below(Path::new(&theirs)), 0);
    refused(
        "stranger.key",
        &[],
        1,
        "none of the identities given opens a key of acme/erp",
    )?;
    refused("agent.key", &[], 64, "agent.key")?;
    refused("nowhere.key", &[], 64, "nowhere.key")
}
