//! What the program protects as an agent: a server, a filestore, two regions that are
//! directories, and everybody's configuration.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_agent::postgres::role_sql;
use holdfast_proto::message::Directives;
use holdfast_proto::names::Lineage;
use holdfast_repository::seal::Identity;
use holdfast_tests::postgres::{Options, PATIENCE, TestPostgres, major};
use holdfast_tests::vault::Vault;

const HOLDFAST: &str = env!("CARGO_BIN_EXE_holdfast");

/// A server, its filestore, a repository, and everybody's configuration.
pub struct House {
    pub vault: Vault,
    pub pg: TestPostgres,
    files: PathBuf,
    recovery: Identity,
}

/// The agent as a process of its own.
pub struct Agent(pub Child);

impl Agent {
    /// A line of what the kernel knows of it, as `VmHWM`, in bytes.
    pub fn memory(&self, line: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let found = status
            .lines()
            .find_map(|l| l.strip_prefix(line)?.strip_prefix(':'));
        let kilobytes: u64 = found
            .and_then(|value| value.trim().strip_suffix(" kB"))
            .context("a line of the process' status")?
            .parse()?;
        Ok(kilobytes * 1024)
    }

    pub fn kill(&mut self) -> Result<()> {
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
    /// A server that has these settings, too, and nothing beside it yet.
    pub async fn new(options: Options) -> Result<Self> {
        let vault = Vault::new(2).await?;
        let dir = vault.dir().to_owned();
        let pg = TestPostgres::start(&dir.join("source"), options)?;
        pg.psql(&role_sql("holdfast", major()?))?;
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

        let house = Self {
            vault,
            pg,
            files,
            recovery,
        };
        house.configure()?;
        // Quick, so that little time passes until something is stored.
        house.direct(50, 500, 1000)?;
        Ok(house)
    }

    /// Gives the next agent the milliseconds that a coordinator would have sent: how long
    /// the tip of the WAL waits, between fences, and between attestations.
    pub fn direct(&self, tip: u64, fence: u64, attest: u64) -> Result<()> {
        let directives = Directives {
            cluster: self.vault.cluster.clone(),
            tier: "platinum".parse()?,
            tip_interval_ms: tip,
            copies: 2,
            fence_interval_ms: fence,
            attest_interval_ms: attest,
            residency: None,
            policy: "test".to_owned(),
        };
        let state = self.dir().join("state");
        let memory = state.join("clusters/acme/erp");
        fs::create_dir_all(&memory)?;
        fs::set_permissions(state, fs::Permissions::from_mode(0o700))?;
        Ok(fs::write(
            memory.join("directives.json"),
            serde_json::to_vec(&directives)?,
        )?)
    }

    pub fn dir(&self) -> &Path {
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

    pub fn agent(&self) -> Result<Agent> {
        self.agent_with(&[])
    }

    /// An agent whose environment has these, too.
    pub fn agent_with(&self, environment: &[(&str, &str)]) -> Result<Agent> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir().join("agent.log"))?;
        let child = Command::new(HOLDFAST)
            .args(["agent", "run", "--config"])
            .arg(self.dir().join("agent.toml"))
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Agent(child))
    }

    pub fn lineage(&self) -> Result<Lineage> {
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
    pub fn objects(&self, region: usize, prefix: &str) -> usize {
        files_below(&self.vault.place(region).join(prefix))
    }

    pub fn everywhere(&self, prefix: &str) -> usize {
        (0..2).map(|region| self.objects(region, prefix)).sum()
    }

    /// Waits until `condition` holds, while the agent must live.
    pub fn until(&self, what: &str, agent: &mut Agent, condition: impl Fn() -> Result<bool>) -> Result<()> {
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
    pub fn attach(&self, content: &[u8]) -> Result<()> {
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

    pub fn holdfast(&self, arguments: &[&str]) -> Result<Output> {
        let output = Command::new(HOLDFAST)
            .args(arguments)
            .arg("--config")
            .arg(self.dir().join("holdfast.toml"))
            .stdin(Stdio::null())
            .output()?;
        Ok(output)
    }

    /// `holdfast restore run --latest` with an identity, into a directory of this name.
    pub fn restore(&self, identity: &str, name: &str, more: &[&str]) -> Result<Output> {
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

/// Files below a directory, but for those that are not whole yet.
pub fn files_below(path: &Path) -> usize {
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

/// All that a program said.
pub fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
