//! The stage of the demo: its directories, its configuration files, and the
//! processes that play in it. Everything lies under one directory and every
//! process ends with the demo.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use holdfast_drills::scratch::{Isolation, PrivateServer, ServerOptions, newest_programs, tethered};
use holdfast_proto::pg::PgMajor;
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use tokio::process::{Child, Command};

use super::writer::COLLECTOR_DELAY;
use crate::screen;

/// The protected cluster.
pub const CLUSTER: &str = "acme/erp";
/// The filestore's name.
pub const FILESTORE: &str = "attachments";
/// Columns before what a moment's line says, and before what it shows.
const INDENT: usize = 11;

/// Where everything lies.
#[derive(Debug)]
pub struct Stage {
    root: PathBuf,
    program: PathBuf,
    postgres: PgMajor,
    began: Instant,
    http_port: u16,
    /// Locked while this demo has the directory.
    _mark: fs::File,
}

/// A daemon of the stage; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Stage {
    /// Clears what an earlier demo left in `root` and makes it anew. Refuses a
    /// directory that holds anything else, or where a demo is running.
    pub fn clear(root: &Path) -> anyhow::Result<Self> {
        const MARK: &str = ".holdfast-demo";
        let (postgres, _) = newest_programs()?;
        let root = std::path::absolute(root)?;
        let making = || {
            format!(
                "making the directory {}: name another with --directory",
                root.display()
            )
        };
        fs::create_dir_all(&root).with_context(making)?;
        let mark = root.join(MARK);
        let strange = fs::read_dir(&root).with_context(making)?.next().is_some() && !mark.exists();
        if strange {
            bail!(
                "{} is not empty and not a demo's directory: name another with --directory",
                root.display()
            );
        }
        let held = fs::File::options()
            .create(true)
            .append(true)
            .open(&mark)
            .with_context(making)?;
        if flock(&held, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!(
                "a demo is running in {}: wait for its end, or name another with --directory",
                root.display()
            );
        }
        for entry in fs::read_dir(&root)? {
            let path = entry?.path();
            if path == mark {
                continue;
            }
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.with_context(|| format!("clearing {}", path.display()))?;
        }
        Ok(Self {
            root,
            program: std::env::current_exe()?,
            postgres,
            began: Instant::now(),
            http_port: free_port()?,
            _mark: held,
        })
    }

    /// A path on the stage.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The stage's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Milliseconds since the curtain rose.
    pub fn elapsed_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// PostgreSQL's major version.
    pub fn postgres(&self) -> PgMajor {
        self.postgres
    }

    /// Says what happens now.
    pub fn say(&self, text: impl AsRef<str>) {
        let line = format!("[{:6.1} s] {}", self.began.elapsed().as_secs_f64(), text.as_ref());
        println!("{}", screen::fold(&line, screen::width(), INDENT, ""));
        let _ = std::io::stdout().flush();
    }

    /// Shows what a command printed.
    pub fn quote(&self, text: &str) {
        for line in text.lines() {
            let line = format!("{:INDENT$}{line}", "");
            println!("{}", screen::fold(&line, screen::width(), INDENT + 4, ""));
        }
        let _ = std::io::stdout().flush();
    }

    /// Shows a line as it would be typed in the stage's directory.
    pub fn show(&self, words: &[&str], end: &str) {
        let root = format!("{}/", self.root.display());
        let mut line = format!("{:INDENT$}$", "");
        for word in words {
            let word = word.replace(&root, "");
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
            if word.chars().all(plain) {
                line.push_str(&format!(" {word}"));
            } else {
                line.push_str(&format!(" \"{word}\""));
            }
        }
        line.push_str(end);
        println!("{}", screen::fold(&line, screen::width(), INDENT + 4, " \\"));
        let _ = std::io::stdout().flush();
    }

    /// The coordinator's page.
    pub fn page(&self) -> String {
        format!("http://127.0.0.1:{}/", self.http_port)
    }

    /// Runs a command of this program as an operator would, shows the line, and
    /// gives back what it printed.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let (status, out) = self.attempt(arguments).await?;
        if !status.success() {
            bail!("`holdfast {}` ended with {status}", arguments.join(" "));
        }
        Ok(out)
    }

    /// As [`Stage::run`], whatever the exit status.
    pub async fn attempt(&self, arguments: &[&str]) -> anyhow::Result<(std::process::ExitStatus, String)> {
        let words: Vec<&str> = std::iter::once("holdfast")
            .chain(arguments.iter().copied())
            .collect();
        self.show(&words, "");
        self.ask(arguments).await
    }

    /// As [`Stage::attempt`], without showing the line.
    pub async fn ask(&self, arguments: &[&str]) -> anyhow::Result<(std::process::ExitStatus, String)> {
        let output = self
            .command(&self.program)
            .args(arguments)
            .output()
            .await
            .with_context(|| format!("running holdfast {}", arguments.join(" ")))?;
        Ok((
            output.status,
            String::from_utf8_lossy(&output.stdout).into_owned(),
        ))
    }

    /// A program in the stage's directory; it ends when the demo does.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::from(tethered(program));
        command
            .current_dir(&self.root)
            .env("HOLDFAST_CONFIG", self.path("holdfast.toml"))
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        command
    }

    /// As [`Stage::run`] with `--json`, parsed.
    pub async fn run_json<T: DeserializeOwned>(&self, arguments: &[&str]) -> anyhow::Result<T> {
        let mut with_json = arguments.to_vec();
        with_json.push("--json");
        let out = self.run(&with_json).await?;
        serde_json::from_str(&out).with_context(|| format!("the JSON of holdfast {}", arguments.join(" ")))
    }

    /// Starts a daemon of this program, logging into `logs/<name>.log`. It has a
    /// process group of its own: Ctrl-C reaches the demo alone, which stops it.
    pub fn daemon(&self, name: &'static str, arguments: &[&str]) -> anyhow::Result<Daemon> {
        let words: Vec<&str> = std::iter::once("holdfast")
            .chain(arguments.iter().copied())
            .collect();
        self.show(&words, " &");
        fs::create_dir_all(self.path("logs"))?;
        let log = self.path(&format!("logs/{name}.log"));
        let file = fs::File::create(&log)?;
        let child = self
            .command(&self.program)
            .args(["--log", "info"])
            .args(arguments)
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Daemon { name, child, log })
    }

    /// The primary's options.
    pub fn primary(&self) -> ServerOptions {
        let settings = [
            ("track_commit_timestamp", "on"),
            ("wal_level", "replica"),
            ("max_wal_senders", "5"),
            ("max_replication_slots", "5"),
            ("shared_buffers", "64MB"),
            ("max_wal_size", "256MB"),
        ];
        self.server("primary/data", "primary/run", &settings)
    }

    /// Options of a server over a restored copy.
    pub fn copy(&self, name: &str) -> ServerOptions {
        self.server(
            &format!("{name}/data"),
            &format!("{name}/run"),
            &[("archive_mode", "off")],
        )
    }

    fn server(&self, data: &str, run: &str, settings: &[(&str, &str)]) -> ServerOptions {
        ServerOptions {
            data: self.path(data),
            run: self.path(run),
            major: self.postgres.get(),
            superuser: "postgres".into(),
            settings: settings
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect(),
        }
    }

    /// Writes the four configuration files, as an operator would have written them.
    pub fn write_configuration(&self, trust_root: &str, agents_port: u16) -> anyhow::Result<()> {
        let root = self.root.display();
        let replicas = format!(
            "[\n  {{ url = \"file://{root}/region-a\", region = \"region-a\" }},\n  {{ url = \"file://{root}/region-b\", region = \"region-b\" }},\n]"
        );
        fs::write(
            self.path("holdfast.toml"),
            format!(
                "# The operator's view: where backups are, whom to trust, what opens them.\n\
                 identity = \"keys/recovery.agekey\"\ncoordinator = \"http://127.0.0.1:{}\"\n\n\
                 [repository]\ntrust_root = \"{trust_root}\"\nreplicas = {replicas}\n\n\
                 [runner]\nname = \"runner-1\"\nsigning_key = \"keys/runner-1.key\"\nscratch = \"drills\"\npolicy = \"policy.toml\"\n",
                self.http_port
            ),
        )?;
        fs::write(
            self.path("agent.toml"),
            format!(
                "name = \"agent-1\"\nstate_dir = \"{root}/agent-state\"\nsigning_key = \"{root}/keys/agent-1.key\"\n\
                 recipients.file = \"{root}/keys/recipients.toml\"\n\n\
                 [repository]\ntrust_root = \"{trust_root}\"\nreplicas = {replicas}\n\n\
                 [coordinator]\nurl = \"https://localhost:{agents_port}\"\nca = \"{root}/keys/ca.crt\"\n\
                 cert = \"{root}/keys/agent-1.crt\"\nkey = \"{root}/keys/agent-1.tls.key\"\n\n\
                 [[cluster]]\ncluster = \"{CLUSTER}\"\ntier = \"platinum\"\n\
                 postgres = \"host={root}/primary/run port=5432 user=holdfast dbname=postgres\"\n\n\
                 [[cluster.filestore]]\nname = \"{FILESTORE}\"\npath = \"{root}/primary/filestore\"\nadapter = \"odoo\"\n\
                 database = \"{}\"\ncollector_delay = \"{}s\"\n",
                super::books::DATABASE,
                COLLECTOR_DELAY.as_secs()
            ),
        )?;
        fs::write(
            self.path("policy.toml"),
            format!(
                "[[cluster]]\ncluster = \"{CLUSTER}\"\ntier = \"platinum\"\ntime_zone = \"Europe/Vienna\"\n"
            ),
        )?;
        fs::write(
            self.path("coordinator.toml"),
            format!(
                "name = \"coordinator-1\"\nlisten_agents = \"127.0.0.1:{agents_port}\"\nlisten_http = \"127.0.0.1:{}\"\n\
                 state_dir = \"{root}/coordinator-state\"\npolicy = \"{root}/policy.toml\"\n\
                 signing_key = \"{root}/keys/coordinator-1.key\"\nlog_key = \"{root}/keys/coordinator-1-log.key\"\n\n\
                 [tls]\ncert = \"{root}/keys/coordinator-1.crt\"\nkey = \"{root}/keys/coordinator-1.tls.key\"\n\
                 client_ca = \"{root}/keys/ca.crt\"\n\n\
                 [repository]\ntrust_root = \"{trust_root}\"\nreplicas = {replicas}\n",
                self.http_port
            ),
        )?;
        Ok(())
    }

    /// Starts a server and waits until it serves (and has left recovery).
    pub async fn start_server(&self, options: ServerOptions) -> anyhow::Result<PrivateServer> {
        let mut server = PrivateServer::start(options, Isolation::plain())?;
        server.wait_ready(true, Duration::from_secs(120)).await?;
        Ok(server)
    }
}

/// A port of the loopback interface that nothing listens on.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Daemon {
    /// Fails when the daemon has ended, with the end of its log.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => Err(self.ended(status)),
            None => Ok(()),
        }
    }

    fn ended(&self, status: std::process::ExitStatus) -> anyhow::Error {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(15)..];
        anyhow::anyhow!(
            "the {} ended with {status}; the end of {}:\n{}",
            self.name,
            self.log.display(),
            tail.join("\n")
        )
    }

    /// SIGKILL, as when the machine is lost.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await?;
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = self
            .child
            .id()
            .and_then(|p| i32::try_from(p).ok())
            .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        match tokio::time::timeout(Duration::from_secs(15), self.child.wait()).await {
            Ok(status) => {
                status?;
                Ok(())
            }
            Err(_) => {
                self.child.kill().await?;
                bail!(
                    "the {} did not stop within 15 s of being asked and was killed",
                    self.name
                )
            }
        }
    }

    /// Waits for an end that nobody asked for.
    pub async fn lost(&mut self) -> anyhow::Error {
        match self.child.wait().await {
            Ok(status) => self.ended(status),
            Err(e) => e.into(),
        }
    }
}
