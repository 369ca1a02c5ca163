//! A throwaway PostgreSQL for tests: the real server, a private directory.
//!
//! Each [`TestPostgres`] owns one postmaster that listens on a unix socket in a
//! directory of its own (short, because a socket path holds 107 bytes) and on
//! loopback TCP only when asked to. Nothing else on the machine can be confused
//! with it, so any number of them runs at the same time.
//!
//! PostgreSQL refuses to run as root. A test that runs as root starts every
//! PostgreSQL program inside a user namespace in which it is uid 1000; the files
//! stay owned by the test. A test that does not run as root starts them plainly.
//!
//! What belongs to the cluster is written to its `postgresql.conf` and travels
//! with a backup; what belongs to this instance (socket directory, addresses,
//! port) is given on the command line and wins over the file. So a restored
//! data directory can be opened beside its origin.
//!
//! All calls block. An async test calls them from a multi-threaded runtime.
//! Dropping the value ends the server without a checkpoint; if the whole test
//! process is killed, the test runner kills its process group, which the
//! postmaster stays in.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use holdfast_proto::pg::PgMajor;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

/// How long a server may take to start, to stop or to reach a condition.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The port of a server that has no TCP address; it only names the socket file.
const SOCKET_ONLY_PORT: u16 = 5432;

/// How the postmaster is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Waits for clients to leave.
    Smart,
    /// Disconnects clients, waits for walsenders, writes a checkpoint.
    Fast,
    /// No checkpoint: the next start recovers.
    Immediate,
}

impl StopMode {
    fn signal(self) -> Signal {
        match self {
            StopMode::Smart => Signal::TERM,
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        }
    }
}

/// What a test wants of its server. `Options::default()` serves most.
#[derive(Debug, Clone, Default)]
pub struct Options {
    settings: Vec<(String, String)>,
    hba: Vec<String>,
    initdb: Vec<String>,
    tcp: bool,
}

impl Options {
    /// Adds a line to `postgresql.conf`; a later one wins over an earlier.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Also listens on 127.0.0.1, at a port the system had free.
    #[must_use]
    pub fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// Adds a line to `pg_hba.conf`, before the default that trusts everybody
    /// who reaches the private socket.
    #[must_use]
    pub fn hba(mut self, line: &str) -> Self {
        self.hba.push(line.to_owned());
        self
    }

    /// Adds an argument for initdb, for example `--wal-segsize=1`.
    #[must_use]
    pub fn initdb(mut self, argument: &str) -> Self {
        self.initdb.push(argument.to_owned());
        self
    }

    /// Serves TLS with this certificate and key; implies [`Options::tcp`].
    #[must_use]
    pub fn tls(self, certificate: &Path, key: &Path) -> Self {
        self.tcp()
            .set("ssl", "on")
            .set("ssl_cert_file", &certificate.display().to_string())
            .set("ssl_key_file", &key.display().to_string())
    }
}

/// One running (or stopped) server and its directories.
#[derive(Debug)]
pub struct TestPostgres {
    data: PathBuf,
    log: PathBuf,
    socket: TempDir,
    port: u16,
    tcp: bool,
    postmaster: Option<Child>,
}

impl TestPostgres {
    /// Makes a cluster with data checksums in `dir/data` and starts it. The
    /// superuser is `postgres`; the private socket asks for no password.
    pub fn start(dir: &Path, options: Options) -> Result<Self> {
        let data = dir.join("data");
        let mut initdb = program("initdb");
        initdb.args([
            "-k",
            "--no-sync",
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "-D",
        ]);
        initdb.arg(&data).args(&options.initdb);
        finished(&mut initdb)?;

        let mut conf = OpenOptions::new()
            .append(true)
            .open(data.join("postgresql.conf"))?;
        for (name, value) in DEFAULTS {
            writeln!(conf, "{name} = '{value}'")?;
        }
        for (name, value) in &options.settings {
            writeln!(conf, "{name} = '{}'", value.replace('\'', "''"))?;
        }
        drop(conf);
        let mut hba = options.hba.join("\n");
        hba.push_str("\nlocal all all trust\nlocal replication all trust\n");
        fs::write(data.join("pg_hba.conf"), hba)?;

        Self::open(&data, options.tcp)
    }

    /// Starts a server on a data directory that exists: a restored one, a copy.
    /// Returns as soon as it accepts connections, be it as a standby.
    pub fn open(data: &Path, tcp: bool) -> Result<Self> {
        let mut server = Self::closed(data, tcp)?;
        server.start_again()?;
        Ok(server)
    }

    /// As [`TestPostgres::open`], without starting it.
    pub fn closed(data: &Path, tcp: bool) -> Result<Self> {
        let data = fs::canonicalize(data).with_context(|| format!("no data directory {}", data.display()))?;
        let log = data.with_extension("log");
        let socket = tempfile::Builder::new().prefix("hfpg").tempdir_in("/tmp")?;
        Ok(Self {
            data,
            log,
            socket,
            port: SOCKET_ONLY_PORT,
            tcp,
            postmaster: None,
        })
    }

    /// A streaming standby of this server in `dir/data`, already started.
    pub fn standby(&self, dir: &Path) -> Result<Self> {
        let data = dir.join("data");
        self.pg_basebackup(&data, &["-R", "-X", "stream", "-c", "fast"])?;
        // A newer pg_basebackup writes what an older server does not know; the last
        // line counts.
        self.lead(&data)?;
        Self::open(&data, false)
    }

    /// Starts the stopped server as a standby of `primary`.
    pub fn follow(&mut self, primary: &TestPostgres) -> Result<()> {
        primary.lead(&self.data)?;
        std::fs::write(self.data.join("standby.signal"), "")?;
        self.start_again()
    }

    /// Makes this server the primary of whatever starts in `data`.
    fn lead(&self, data: &Path) -> Result<()> {
        let mut conf = OpenOptions::new()
            .append(true)
            .open(data.join("postgresql.auto.conf"))?;
        let (host, port) = (self.socket.path().display(), self.port);
        writeln!(conf, "primary_conninfo = 'host={host} port={port} user=postgres'")?;
        Ok(())
    }

    /// Copies this server's cluster with pg_basebackup.
    pub fn pg_basebackup(&self, target: &Path, arguments: &[&str]) -> Result<()> {
        let mut copy = program("pg_basebackup");
        copy.arg("-d")
            .arg(self.conninfo("postgres"))
            .arg("-D")
            .arg(target)
            .arg("--no-sync")
            .args(arguments);
        finished(&mut copy).map(drop)
    }

    /// Starts the stopped server.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.postmaster.is_none(), "the server is running already");
        // Another process may take the free port between our look and the bind.
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.spawn_and_wait() {
                Ok(()) => return Ok(()),
                Err(error) if self.tcp && attempts < 5 && format!("{error:#}").contains("could not bind") => {
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn spawn_and_wait(&mut self) -> Result<()> {
        if self.tcp {
            self.port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let since = log.metadata()?.len();
        let mut command = program("postgres");
        command
            .arg("-D")
            .arg(&self.data)
            .arg("-c")
            .arg(format!(
                "unix_socket_directories={}",
                self.socket.path().display()
            ))
            .arg("-c")
            .arg(format!(
                "listen_addresses={}",
                if self.tcp { "127.0.0.1" } else { "" }
            ))
            .arg("-c")
            .arg(format!("port={}", self.port))
            .args([
                "-c",
                "unix_socket_permissions=0700",
                "-c",
                "logging_collector=off",
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command
            .spawn()
            .context("cannot start postgres; is postgresql-15 installed?")?;
        self.postmaster = Some(child);

        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(child) = self.postmaster.as_mut()
                && let Some(status) = child.try_wait()?
            {
                self.postmaster = None;
                bail!("postgres did not start ({status}):\n{}", self.log_since(since));
            }
            if self.accepts() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let log = self.log_since(since);
                self.kill9()?;
                bail!("postgres accepted no connection within {PATIENCE:?}:\n{log}");
            }
            tick();
        }
    }

    /// Whether the postmaster says, in the eighth line of `postmaster.pid`, that
    /// it accepts connections: what pg_ctl looks at.
    fn accepts(&self) -> bool {
        let Some(child) = &self.postmaster else {
            return false;
        };
        let Ok(text) = fs::read_to_string(self.data.join("postmaster.pid")) else {
            return false;
        };
        let mut lines = text.lines();
        lines.next() == Some(child.id().to_string().as_str())
            && matches!(lines.nth(6).map(str::trim), Some("ready" | "standby"))
    }

    /// Tells the postmaster to stop and waits until it is gone.
    pub fn stop(&mut self, mode: StopMode) -> Result<()> {
        self.begin_stop(mode)?;
        self.wait_stopped(PATIENCE)
    }

    /// Tells the postmaster to stop, and does not wait.
    pub fn begin_stop(&self, mode: StopMode) -> Result<()> {
        let child = self.postmaster.as_ref().context("the server is not running")?;
        kill_process(Pid::from_child(child), mode.signal()).context("cannot signal the postmaster")
    }

    /// Waits until the postmaster is gone.
    pub fn wait_stopped(&mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while let Some(child) = self.postmaster.as_mut() {
            if child.try_wait()?.is_some() {
                self.postmaster = None;
            } else if Instant::now() > deadline {
                bail!(
                    "postgres did not stop within {patience:?}:\n{}",
                    self.log_since(0)
                );
            } else {
                tick();
            }
        }
        Ok(())
    }

    /// SIGKILL to the postmaster and to every process it made, as a crash of the
    /// machine would do. Returns when all of them are gone.
    pub fn kill9(&mut self) -> Result<()> {
        let Some(mut child) = self.postmaster.take() else {
            return Ok(());
        };
        let postmaster = Pid::from_child(&child);
        let children = children_of(child.id());
        let _ = kill_process(postmaster, Signal::KILL);
        child.wait()?;
        for pid in &children {
            if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        wait_until("the server's processes are gone", || {
            Ok(children.iter().all(|pid| !is_server_process(*pid)))
        })
    }

    /// Stops with `mode` and starts again.
    pub fn restart(&mut self, mode: StopMode) -> Result<()> {
        self.stop(mode)?;
        self.start_again()
    }

    /// Promotes a standby and waits until it accepts writes.
    pub fn promote(&self) -> Result<()> {
        self.psql("select pg_promote(true, 60)")?;
        wait_until("the promoted server leaves recovery", || {
            Ok(self.psql("select pg_is_in_recovery()")? == "f")
        })
    }

    /// Runs SQL as the superuser in database `postgres` and returns what psql
    /// prints: unaligned, tuples only, without the last newline.
    pub fn psql(&self, sql: &str) -> Result<String> {
        self.psql_in("postgres", sql)
    }

    /// As [`TestPostgres::psql`], in another database.
    pub fn psql_in(&self, database: &str, sql: &str) -> Result<String> {
        let mut psql = program("psql");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-", "-d"])
            .arg(self.conninfo(database));
        psql.stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = psql.spawn().context("cannot start psql")?;
        let mut stdin = child.stdin.take().context("psql has no stdin")?;
        let sql = sql.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(sql.as_bytes()));
        let output = child.wait_with_output()?;
        let _ = writer.join();
        text_of("psql", output)
    }

    /// A libpq connection string for the superuser over the private socket.
    pub fn conninfo(&self, database: &str) -> String {
        format!(
            "host={} port={} user=postgres dbname={database}",
            self.socket.path().display(),
            self.port
        )
    }

    /// The directory that holds the private socket.
    pub fn socket_dir(&self) -> &Path {
        self.socket.path()
    }

    /// The TCP port when asked for TCP; otherwise the number in the socket's name.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// The postmaster's process id, when it runs.
    pub fn pid(&self) -> Option<u32> {
        self.postmaster.as_ref().map(Child::id)
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        self.log_since(0)
    }

    fn log_since(&self, offset: u64) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let from = usize::try_from(offset).unwrap_or(0).min(text.len());
        String::from_utf8_lossy(&text[from..]).into_owned()
    }
}

impl Drop for TestPostgres {
    fn drop(&mut self) {
        let _ = self.kill9();
    }
}

/// For speed: a test survives the death of processes, not of the kernel.
const DEFAULTS: [(&str, &str); 10] = [
    ("wal_level", "replica"),
    ("max_wal_senders", "10"),
    ("max_replication_slots", "10"),
    ("fsync", "off"),
    ("shared_buffers", "32MB"),
    ("max_connections", "40"),
    ("log_line_prefix", "%m [%p] %a "),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("checkpoint_timeout", "30min"),
];

/// The directory of PostgreSQL's programs: `HOLDFAST_PG_BIN`, or the newest
/// major that Debian's packages installed.
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("HOLDFAST_PG_BIN") {
        return dir.into();
    }
    let majors: BTreeSet<u32> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|major| Path::new(&format!("/usr/lib/postgresql/{major}/bin/postgres")).exists())
        .collect();
    let major = majors.last().copied().unwrap_or(15);
    format!("/usr/lib/postgresql/{major}/bin").into()
}

/// The major version of the server in [`bin_dir`].
pub fn major() -> Result<PgMajor> {
    // postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)
    let said = finished(program("postgres").arg("--version"))?;
    let version = said.split_whitespace().nth(2).context("a version")?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    PgMajor::new(digits.parse()?).with_context(|| format!("{said} is not supported"))
}

/// A command for one of PostgreSQL's programs, by name, that also works for root.
pub fn program(name: &str) -> Command {
    let path = bin_dir().join(name);
    let mut command = if geteuid().is_root() {
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--user", "--map-user=1000", "--map-group=1000"])
            .arg(path);
        unshare
    } else {
        Command::new(path)
    };
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|n| n.starts_with("PG")) {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    command
}

/// Runs a command to its end and returns its standard output as text.
pub fn finished(command: &mut Command) -> Result<String> {
    let shown = format!("{:?}", command.get_args().next().unwrap_or(command.get_program()));
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {shown}"))?;
    let name = format!("{command:?}");
    text_of(&name, output)
}

fn text_of(name: &str, output: Output) -> Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout)
        .trim_end_matches('\n')
        .to_owned();
    if !output.status.success() {
        bail!(
            "{name} failed ({}): {}\n{stdout}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(stdout)
}

/// Asks until the answer is yes; an error when that takes longer than
/// [`PATIENCE`].
pub fn wait_until(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if condition()? {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} in vain until {what}"
        );
        tick();
    }
}

fn tick() {
    std::thread::sleep(Duration::from_millis(10));
}

/// The processes whose parent is `parent`, from `/proc`.
fn children_of(parent: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| stat_of(*pid).is_some_and(|(_, ppid, _)| ppid == parent))
        .collect()
}

/// Whether `pid` still is a live (not zombie) process of PostgreSQL.
fn is_server_process(pid: u32) -> bool {
    stat_of(pid).is_some_and(|(name, _, state)| name.starts_with("postgres") && state != 'Z')
}

/// Name, parent and state of a process.
fn stat_of(pid: u32) -> Option<(String, u32, char)> {
    let mut text = String::new();
    std::io::Read::read_to_string(&mut File::open(format!("/proc/{pid}/stat")).ok()?, &mut text).ok()?;
    let (head, tail) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let mut words = tail.split_whitespace();
    let state = words.next()?.chars().next()?;
    Some((name, words.next()?.parse().ok()?, state))
}
