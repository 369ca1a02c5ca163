//! The stage: one directory with keys, configuration files, servers and copies,
//! and the program's processes, run as an operator runs them.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use holdfast_tests::postgres::{Options, TestPostgres, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::books::{DATABASE, Office};
use super::place::Place;

/// The protected cluster.
pub const CLUSTER: &str = "acme/erp";
/// Its filestore.
pub const FILESTORE: &str = "attachments";
/// How long the collector leaves a marked file alone.
pub const COLLECTOR_DELAY: Duration = Duration::from_secs(8);

/// Where everything lies.
#[derive(Debug)]
pub struct Stage {
    dir: TempDir,
    /// Where the repository lies.
    pub place: Place,
}

/// A process of the program that goes on; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

/// The coordinator and the agent of a protected office.
#[derive(Debug)]
pub struct Protection {
    /// The coordinator.
    pub coordinator: Daemon,
    /// The agent.
    pub agent: Daemon,
}

impl Stage {
    /// A stage with keys and configuration files; nothing of it exists in the
    /// repository yet.
    pub fn set(place: Place) -> Result<Self> {
        let stage = Self {
            dir: tempfile::Builder::new().prefix("holdfast-e2e").tempdir()?,
            place,
        };
        let keys = stage.text("keys");
        let line = ["keys", "generate", "--directory", &keys, "--agent", "agent-1"];
        let actors = ["--runner", "runner-1", "--coordinator", "coordinator-1"];
        let made = stage.json("operator", &[&line[..], &actors].concat())?;
        let root = made["trust_root"]
            .as_str()
            .context("keys generate names no trust root")?;
        stage.write_configuration(root)?;
        Ok(stage)
    }

    /// A path on the stage.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A path on the stage, as an argument.
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Takes the first region away.
    pub fn lose_the_first_region(&mut self) -> Result<()> {
        let root = self.dir.path().to_owned();
        self.place.lose_the_first(&root)
    }

    fn write_configuration(&self, trust_root: &str) -> Result<()> {
        let root = self.dir.path().display().to_string();
        let (http, agents) = (free_port()?, free_port()?);
        let repository = |who: &str| -> Result<String> {
            let replicas = self.place.replicas(self.dir.path(), who)?;
            Ok(format!(
                "[repository]\ntrust_root = \"{trust_root}\"\nreplicas = {replicas}\n"
            ))
        };
        // Whoever replicates by hand may create everywhere, as the coordinator may.
        for (who, user) in [
            ("operator", "operator"),
            ("restorer", "restorer"),
            ("replicator", "coordinator"),
        ] {
            fs::write(
                self.path(&format!("{who}.toml")),
                format!(
                    "identity = \"keys/recovery.agekey\"\ncoordinator = \"http://127.0.0.1:{http}\"\n{}\n[runner]\n\
                     name = \"runner-1\"\nsigning_key = \"keys/runner-1.key\"\nscratch = \"drills\"\n",
                    repository(user)?
                ),
            )?;
        }
        fs::write(
            self.path("agent.toml"),
            format!(
                "name = \"agent-1\"\nstate_dir = \"{root}/agent-state\"\nsigning_key = \"{root}/keys/agent-1.key\"\n\
                 recipients.file = \"{root}/keys/recipients.toml\"\n{}\n\
                 [coordinator]\nurl = \"https://localhost:{agents}\"\nca = \"{root}/keys/ca.crt\"\n\
                 cert = \"{root}/keys/agent-1.crt\"\nkey = \"{root}/keys/agent-1.tls.key\"\n\n\
                 [[cluster]]\ncluster = \"{CLUSTER}\"\ntier = \"platinum\"\n\
                 postgres = \"host={root}/socket port=5432 user=holdfast dbname=postgres\"\n\n\
                 [[cluster.filestore]]\nname = \"{FILESTORE}\"\npath = \"{root}/filestore\"\nadapter = \"odoo\"\n\
                 database = \"{DATABASE}\"\ncollector_delay = \"{}s\"\n",
                repository("agent")?,
                COLLECTOR_DELAY.as_secs()
            ),
        )?;
        fs::write(
            self.path("policy.toml"),
            format!(
                "[tiers.platinum]\ntip_interval = \"1s\"\nfence_interval = \"2s\"\nattest_interval = \"2s\"\n\n\
                 [[cluster]]\ncluster = \"{CLUSTER}\"\ntier = \"platinum\"\n"
            ),
        )?;
        fs::write(
            self.path("coordinator.toml"),
            format!(
                "name = \"coordinator-1\"\nlisten_agents = \"127.0.0.1:{agents}\"\nlisten_http = \"127.0.0.1:{http}\"\n\
                 state_dir = \"{root}/coordinator-state\"\npolicy = \"{root}/policy.toml\"\nreplicate_after = \"1s\"\n\
                 signing_key = \"{root}/keys/coordinator-1.key\"\nlog_key = \"{root}/keys/coordinator-1-log.key\"\n\n\
                 [tls]\ncert = \"{root}/keys/coordinator-1.crt\"\nkey = \"{root}/keys/coordinator-1.tls.key\"\n\
                 client_ca = \"{root}/keys/ca.crt\"\n\n{}",
                repository("coordinator")?
            ),
        )?;
        Ok(())
    }

    /// Makes the repository and says who is believed.
    pub fn found(&self) -> Result<()> {
        let root_key = self.text("keys/root.key");
        self.run("operator", &["repo", "init", "--root-key", &root_key])?;
        for (name, role) in [
            ("agent-1", "agent"),
            ("runner-1", "runner"),
            ("coordinator-1", "coordinator"),
            ("coordinator-1-log", "coordinator"),
        ] {
            let public = self.text(&format!("keys/{name}.pub"));
            let mut line = vec![
                "trust",
                "enrol",
                "--root-key",
                &root_key,
                "--name",
                name,
                "--role",
                role,
            ];
            line.extend(["--public", &public]);
            if role == "agent" {
                line.extend(["--cluster", CLUSTER]);
            }
            self.run("operator", &line)?;
        }
        Ok(())
    }

    /// A server with the books, and a filestore, neither protected yet.
    pub fn open_office(&self) -> Result<Office> {
        let primary = self.path("primary");
        fs::create_dir_all(&primary)?;
        let server = TestPostgres::start(&primary, Options::default().set("track_commit_timestamp", "on"))?;
        std::os::unix::fs::symlink(server.socket_dir(), self.path("socket"))?;
        server.psql(&self.run("operator", &["agent", "sql"])?)?;
        let office = Office::open(server, self.path("filestore"))?;
        office
            .server
            .psql(&format!("GRANT CONNECT ON DATABASE {DATABASE} TO holdfast"))?;
        Ok(office)
    }

    /// Starts coordinator and agent.
    pub fn protect(&self) -> Result<Protection> {
        let (coordinator, agent) = (self.text("coordinator.toml"), self.text("agent.toml"));
        Ok(Protection {
            coordinator: self.daemon("coordinator", &["coordinator", "run", "--config", &coordinator])?,
            agent: self.daemon("agent", &["agent", "run", "--config", &agent])?,
        })
    }

    /// Runs a command as `who` and gives back how it ended.
    pub fn attempt(&self, who: &str, arguments: &[&str]) -> Result<Output> {
        Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(arguments)
            .env("HOLDFAST_CONFIG", self.path(&format!("{who}.toml")))
            .stdin(Stdio::null())
            .output()
            .context("cannot start holdfast")
    }

    /// Runs a command as `who`, which must succeed; what it printed.
    pub fn run(&self, who: &str, arguments: &[&str]) -> Result<String> {
        let output = self.attempt(who, arguments)?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!(
                "`holdfast {}` ended with {}: {}\n{printed}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(printed)
    }

    /// As [`Stage::run`] with `--json`, parsed.
    pub fn json(&self, who: &str, arguments: &[&str]) -> Result<Value> {
        let printed = self.run(who, &[arguments, &["--json"]].concat())?;
        serde_json::from_str(&printed)
            .with_context(|| format!("the JSON of holdfast {}", arguments.join(" ")))
    }

    /// What can be restored.
    pub fn points(&self) -> Result<Value> {
        self.json("restorer", &["points", "--cluster", CLUSTER])
    }

    /// The protected cluster, as the coordinator sees it; null until it does.
    pub fn status(&self) -> Result<Value> {
        let output = self.attempt("restorer", &["status", "--json"])?;
        if !output.status.success() {
            return Ok(Value::Null);
        }
        let status: Value = serde_json::from_slice(&output.stdout)?;
        let clusters = status["clusters"].as_array();
        let found = clusters.and_then(|all| all.iter().find(|c| c["cluster"] == CLUSTER));
        Ok(found.cloned().unwrap_or(Value::Null))
    }

    /// Brings the regions up to each other, as `verify` advises, and waits until
    /// every byte of every copy verifies.
    pub fn wait_sound(&self) -> Result<()> {
        let mut report = String::new();
        let waited = wait_until("both regions hold the same, down to the last byte", || {
            let replicated = self.attempt("replicator", &["repo", "replicate", "--cluster", CLUSTER])?;
            let verified = self.attempt("restorer", &["verify", "--cluster", CLUSTER, "--deep"])?;
            report = [replicated.stdout, replicated.stderr, verified.stdout]
                .map(|text| String::from_utf8_lossy(&text).into_owned())
                .concat();
            Ok(replicated.status.success() && verified.status.success())
        });
        waited.with_context(|| report)
    }

    /// Starts a daemon of the program.
    fn daemon(&self, name: &str, arguments: &[&str]) -> Result<Daemon> {
        let log = self.path(&format!("{name}.log"));
        let file = File::create(&log)?;
        let child = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(["--log", "info"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Daemon { child, log })
    }

    /// Carries a restore to `moment` out into `name`, with more arguments, and
    /// says what it printed.
    pub fn restore(&self, moment: &[&str], name: &str, more: &[&str]) -> Result<String> {
        let target = self.text(&format!("{name}/data"));
        let filestore = format!("{FILESTORE}={}", self.text(&format!("{name}/filestore")));
        let line = [
            "restore",
            "run",
            "--cluster",
            CLUSTER,
            "--target",
            &target,
            "--filestore",
            &filestore,
        ];
        self.run("restorer", &[&line[..], moment, more].concat())
    }

    /// Starts PostgreSQL on a restored copy and waits until it was promoted.
    pub fn start_copy(&self, name: &str) -> Result<TestPostgres> {
        let copy = TestPostgres::open(&self.path(&format!("{name}/data")), false)?;
        wait_until("the copy has left recovery", || {
            Ok(copy.psql("SELECT pg_is_in_recovery()")? == "f")
        })
        .with_context(|| copy.log())?;
        Ok(copy)
    }
}

impl Protection {
    /// Both processes are there.
    pub fn check(&mut self) -> Result<()> {
        self.coordinator.check().context("the coordinator")?;
        self.agent.check().context("the agent")
    }

    /// Waits until `condition` holds; fails when a process has ended before.
    pub fn until(&mut self, what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
        let waited = wait_until(what, || {
            self.check()?;
            condition()
        });
        waited.with_context(|| format!("the agent's log ends with\n{}", self.agent.log_end()))
    }
}

impl Daemon {
    /// Fails when the process has ended.
    fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("ended with {status}:\n{}", self.log_end()),
            None => Ok(()),
        }
    }

    fn log_end(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// SIGKILL, as when the machine is lost.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and it must end well.
    pub fn stop(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        wait_until("a process that was asked to stop has ended", || {
            Ok(self.child.try_wait()?.is_some())
        })?;
        let status = self.child.wait()?;
        ensure!(status.success(), "ended with {status}:\n{}", self.log_end());
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of the loopback interface that nothing listens on.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The members of an array, none when it is not there.
pub fn each(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The subjects of the findings called `name`.
pub fn subjects<'a>(findings: &'a Value, name: &str) -> Vec<&'a str> {
    each(findings)
        .iter()
        .filter(|finding| finding["name"] == name)
        .filter_map(|finding| finding["subject"].as_str())
        .collect()
}
