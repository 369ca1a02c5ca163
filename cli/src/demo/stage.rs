//! The stage of the demo: its directories, its configuration files, and the
//! processes that play in it. Everything lies under one directory and every
//! process ends with the demo.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use holdfast_drills::scratch::{Isolation, PrivateServer, ServerOptions};
use serde::de::DeserializeOwned;
use tokio::process::{Child, Command};

use super::writer::COLLECTOR_DELAY;

/// The protected cluster.
pub const CLUSTER: &str = "acme/erp";
/// The filestore's name.
pub const FILESTORE: &str = "attachments";
/// PostgreSQL's major version on the stage.
const MAJOR: u32 = 15;

/// Where everything lies.
#[derive(Debug, Clone)]
pub struct Stage {
    root: PathBuf,
    program: PathBuf,
    began: Instant,
    http_port: u16,
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
    /// directory that holds anything else.
    pub fn clear(root: &Path) -> anyhow::Result<Self> {
        const MARK: &str = ".holdfast-demo";
        let root = std::path::absolute(root)?;
        if root.exists() && fs::read_dir(&root)?.next().is_some() {
            if !root.join(MARK).exists() {
                bail!(
                    "{} is not empty and not a demo's directory: choose another",
                    root.display()
                );
            }
            fs::remove_dir_all(&root).with_context(|| format!("clearing {}", root.display()))?;
        }
        fs::create_dir_all(&root)?;
        fs::write(root.join(MARK), "")?;
        let http_port = free_port()?;
        Ok(Self {
            root,
            program: std::env::current_exe()?,
            began: Instant::now(),
            http_port,
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

    /// Says what happens now.
    pub fn say(&self, text: impl AsRef<str>) {
        println!("[{:6.1} s] {}", self.began.elapsed().as_secs_f64(), text.as_ref());
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
        let shown = arguments
            .join(" ")
            .replace(&format!("{}/", self.root.display()), "");
        println!("           $ holdfast {shown}");
        let output = Command::new(&self.program)
            .args(arguments)
            .env("HOLDFAST_CONFIG", self.path("holdfast.toml"))
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("running holdfast {shown}"))?;
        Ok((
            output.status,
            String::from_utf8_lossy(&output.stdout).into_owned(),
        ))
    }

    /// As [`Stage::run`] with `--json`, parsed.
    pub async fn run_json<T: DeserializeOwned>(&self, arguments: &[&str]) -> anyhow::Result<T> {
        let mut with_json = arguments.to_vec();
        with_json.push("--json");
        let out = self.run(&with_json).await?;
        serde_json::from_str(&out).with_context(|| format!("the JSON of holdfast {}", arguments.join(" ")))
    }

    /// Starts a daemon of this program, logging into `logs/<name>.log`.
    pub fn daemon(&self, name: &'static str, arguments: &[&str]) -> anyhow::Result<Daemon> {
        let shown = arguments
            .join(" ")
            .replace(&format!("{}/", self.root.display()), "");
        println!("           $ holdfast {shown} &");
        fs::create_dir_all(self.path("logs"))?;
        let log = self.path(&format!("logs/{name}.log"));
        let file = fs::File::create(&log)?;
        let child = Command::new(&self.program)
            .args(["--log", "info"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
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
            major: MAJOR,
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
                 [runner]\nname = \"runner-1\"\nsigning_key = \"keys/runner-1.key\"\nscratch = \"drills\"\n",
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
        if let Some(status) = self.child.try_wait()? {
            let text = fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(15).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            bail!("the {} ended with {status}:\n{}", self.name, tail.join("\n"));
        }
        Ok(())
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

    /// Waits until somebody stops it.
    pub async fn wait(mut self) -> anyhow::Result<()> {
        self.child.wait().await?;
        Ok(())
    }
}
