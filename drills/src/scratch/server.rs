//! A PostgreSQL on a private socket.

use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use holdfast_proto::pg::PgMajor;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio_postgres::{Client, NoTls};

use super::Isolation;

/// The longest path of a Unix socket that Linux takes, less the socket's own name.
const MAX_SOCKET_DIRECTORY: usize = 107 - "/.s.PGSQL.5432".len();
const PORT: u16 = 5432;

/// A server could not be started, spoken with or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No PostgreSQL programs of this version.
    #[error(
        "the PostgreSQL {major} programs are not in {}: install the package postgresql-{major} or name their \
         directory with HOLDFAST_PG_BIN", directory.display()
    )]
    NoPrograms {
        /// The major version.
        major: u32,
        /// Where they were looked for.
        directory: PathBuf,
    },
    /// No PostgreSQL programs of any supported version.
    #[error(
        "{directory} holds no PostgreSQL of 14 to 18: install the package postgresql or name the directory of its \
         programs with HOLDFAST_PG_BIN"
    )]
    NoSupported {
        /// Where they were looked for.
        directory: String,
    },
    /// The socket's path is too long for the kernel.
    #[error("the directory {} is too long for a Unix socket: choose a shorter path", .0.display())]
    SocketPath(PathBuf),
    /// A program could not be started or waited for.
    #[error("{program}: {source}")]
    Program {
        /// Which.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The server ended instead of serving.
    #[error("PostgreSQL ended with {status} while it was expected to run; its log ends:\n{log}")]
    Ended {
        /// Its exit status.
        status: ExitStatus,
        /// The log's last lines.
        log: String,
    },
    /// The server did not reach the state in time.
    #[error("PostgreSQL did not {what} within {seconds} s; its log ends:\n{log}")]
    Late {
        /// What was waited for.
        what: &'static str,
        /// How long.
        seconds: u64,
        /// The log's last lines.
        log: String,
    },
    /// A statement failed.
    #[error("a statement failed on the private server: {0}")]
    Sql(#[from] tokio_postgres::Error),
}

/// How a server is started.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The data directory.
    pub data: PathBuf,
    /// Where its socket and its log go; private to the server.
    pub run: PathBuf,
    /// PostgreSQL's major version.
    pub major: u32,
    /// The bootstrap superuser's name.
    pub superuser: String,
    /// Settings on the command line, which override every file.
    pub settings: Vec<(String, String)>,
}

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct PrivateServer {
    options: ServerOptions,
    isolation: Isolation,
    child: Option<Child>,
}

/// Where the programs of a major version are: Debian's place, or
/// `HOLDFAST_PG_BIN`.
pub fn programs(major: u32) -> Result<PathBuf, ServerError> {
    let directory = std::env::var_os("HOLDFAST_PG_BIN").map_or_else(
        || PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")),
        PathBuf::from,
    );
    if directory.join("postgres").exists() {
        Ok(directory)
    } else {
        Err(ServerError::NoPrograms { major, directory })
    }
}

/// The newest PostgreSQL of this machine that is supported, and where its
/// programs are: what `HOLDFAST_PG_BIN` names, else the highest of Debian's places.
pub fn newest_programs() -> Result<(PgMajor, PathBuf), ServerError> {
    if let Some(directory) = std::env::var_os("HOLDFAST_PG_BIN").map(PathBuf::from) {
        let version = Command::new(directory.join("postgres"))
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .ok()
            .and_then(|output| major_of(&String::from_utf8_lossy(&output.stdout)));
        return match version {
            Some(major) => Ok((major, directory)),
            None => Err(ServerError::NoSupported {
                directory: directory.display().to_string(),
            }),
        };
    }
    (14..=18)
        .rev()
        .filter_map(PgMajor::new)
        .find_map(|major| Some((major, programs(major.get()).ok()?)))
        .ok_or_else(|| ServerError::NoSupported {
            directory: "/usr/lib/postgresql/*/bin".into(),
        })
}

/// The major version in what `postgres --version` prints.
fn major_of(version: &str) -> Option<PgMajor> {
    let number = version.strip_prefix("postgres (PostgreSQL) ")?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    PgMajor::new(digits.parse().ok()?)
}

/// The processes that a process has started and that live.
fn children(of: u32) -> Vec<Pid> {
    std::fs::read_to_string(format!("/proc/{of}/task/{of}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| Pid::from_raw(pid.parse().ok()?))
        .collect()
}

impl PrivateServer {
    /// Makes a new cluster with page checksums in `options.data`.
    pub fn initdb(options: &ServerOptions) -> Result<(), ServerError> {
        let fail = |source| ServerError::Program {
            program: "initdb",
            source,
        };
        let output = Isolation::plain()
            .tool(programs(options.major)?.join("initdb"))
            .arg("--pgdata")
            .arg(&options.data)
            .args([
                "--data-checksums",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-instructions",
            ])
            .args(["--username", &options.superuser])
            .stdin(Stdio::null())
            .output()
            .map_err(fail)?;
        if output.status.success() {
            Ok(())
        } else {
            Err(fail(io::Error::other(
                String::from_utf8_lossy(&output.stderr).into_owned(),
            )))
        }
    }

    /// Starts the server; does not wait for it. The HBA file is not the
    /// cluster's own: only the private socket is let in.
    pub fn start(options: ServerOptions, isolation: Isolation) -> Result<Self, ServerError> {
        let fail = |source| ServerError::Program {
            program: "postgres",
            source,
        };
        std::fs::create_dir_all(&options.run).map_err(fail)?;
        if options.run.as_os_str().len() > MAX_SOCKET_DIRECTORY {
            return Err(ServerError::SocketPath(options.run));
        }
        let hba = options.run.join("pg_hba.conf");
        std::fs::write(&hba, "local all all trust\nlocal replication all trust\n").map_err(fail)?;
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(options.run.join("postgres.log"))
            .map_err(fail)?;
        let mut command = isolation.command(programs(options.major)?.join("postgres"));
        command
            .arg("-D")
            .arg(&options.data)
            .args(["-p", &PORT.to_string()]);
        let fixed = [
            ("listen_addresses", String::new()),
            ("unix_socket_directories", options.run.display().to_string()),
            ("unix_socket_permissions", "0700".into()),
            ("hba_file", hba.display().to_string()),
            ("logging_collector", "off".into()),
            ("log_destination", "stderr".into()),
        ];
        let given = options
            .settings
            .iter()
            .map(|(name, value)| (name.as_str(), value));
        for (name, value) in fixed.iter().map(|(name, value)| (*name, value)).chain(given) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(fail)?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(fail)?;
        Ok(Self {
            options,
            isolation,
            child: Some(child),
        })
    }

    /// The directory of the socket, as `host` of a connection.
    pub fn socket_directory(&self) -> &Path {
        &self.options.run
    }

    /// Its port, which is a part of the socket's name.
    pub const fn port() -> u16 {
        PORT
    }

    /// The server's log.
    pub fn log_path(&self) -> PathBuf {
        self.options.run.join("postgres.log")
    }

    /// A connection string for `database` as the superuser.
    pub fn conninfo(&self, database: &str) -> String {
        format!(
            "host='{}' port={PORT} user='{}' dbname='{}'",
            self.options.run.display(),
            self.options.superuser,
            database
        )
    }

    /// Connects as the superuser.
    pub async fn connect(&self, database: &str) -> Result<Client, ServerError> {
        let (client, connection) = tokio_postgres::connect(&self.conninfo(database), NoTls).await?;
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(err = %e, "a connection to a private server ended");
            }
        });
        Ok(client)
    }

    /// Waits until the server takes connections and, when `promoted`, until it
    /// has left recovery: an open port says nothing about replay.
    pub async fn wait_ready(&mut self, promoted: bool, limit: Duration) -> Result<(), ServerError> {
        let deadline = Instant::now() + limit;
        let what = if promoted {
            "finish recovery"
        } else {
            "take connections"
        };
        let mut tick = tokio::time::interval(Duration::from_millis(40));
        loop {
            tick.tick().await;
            self.check_alive()?;
            if let Ok(client) = self.connect("postgres").await {
                let recovering: bool = client
                    .query_one("SELECT pg_catalog.pg_is_in_recovery()", &[])
                    .await?
                    .get(0);
                if !(promoted && recovering) {
                    return Ok(());
                }
            }
            if Instant::now() > deadline {
                return Err(ServerError::Late {
                    what,
                    seconds: limit.as_secs(),
                    log: self.log_tail(),
                });
            }
        }
    }

    /// Fails when the server has ended.
    pub fn check_alive(&mut self) -> Result<(), ServerError> {
        if let Some(child) = &mut self.child
            && let Some(status) = child.try_wait().map_err(|source| ServerError::Program {
                program: "postgres",
                source,
            })?
        {
            self.child = None;
            return Err(ServerError::Ended {
                status,
                log: self.log_tail(),
            });
        }
        Ok(())
    }

    /// The end of the log.
    pub fn log_tail(&self) -> String {
        let read = || -> io::Result<String> {
            let mut file = std::fs::File::open(self.log_path())?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(3000)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_else(|e| format!("(the log cannot be read: {e})"))
    }

    /// Stops the server as `pg_ctl -m fast` does and waits for its end.
    pub async fn stop(mut self, limit: Duration) -> Result<(), ServerError> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let fail = |source| ServerError::Program {
            program: "pg_ctl",
            source,
        };
        // The server may be in a pid namespace, where its own pid file means
        // nothing to us: the kernel's list of children tells.
        let target = self.postmaster_pid(&child);
        if let Some(pid) = target {
            let _ = kill_process(pid, Signal::INT);
        }
        let deadline = Instant::now() + limit;
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        loop {
            tick.tick().await;
            if child.try_wait().map_err(fail)?.is_some() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let log = self.log_tail();
                self.child = Some(child);
                return Err(ServerError::Late {
                    what: "stop",
                    seconds: limit.as_secs(),
                    log,
                });
            }
        }
    }

    /// Kills the server as a power cut would: SIGKILL to all of its processes.
    /// Every one of them leads a session of its own, so that killing the
    /// postmaster's group alone would leave it to the others to notice.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                // Stopped, it starts no more of them.
                let _ = kill_process_group(group, Signal::STOP);
                let backends = children(child.id());
                let _ = kill_process_group(group, Signal::KILL);
                for backend in backends {
                    let _ = kill_process_group(backend, Signal::KILL);
                    let _ = kill_process(backend, Signal::KILL);
                }
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The isolation that it runs in.
    pub const fn isolation(&self) -> &Isolation {
        &self.isolation
    }

    fn postmaster_pid(&self, child: &Child) -> Option<Pid> {
        match self.isolation.kind() {
            super::IsolationKind::Namespaces => children(child.id()).first().copied(),
            super::IsolationKind::SocketFilter | super::IsolationKind::PrivateDirectory => {
                Pid::from_raw(i32::try_from(child.id()).ok()?)
            }
        }
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_is_read_from_the_version() {
        let major = |text| major_of(text).map(PgMajor::get);
        assert_eq!(
            major("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(major("postgres (PostgreSQL) 18beta2\n"), Some(18));
        assert_eq!(major("postgres (PostgreSQL) 9.6.24\n"), None);
        assert_eq!(major("psql (PostgreSQL) 15.14\n"), None);
    }

    /// No process of a killed server lives on, whatever it is at.
    #[tokio::test]
    async fn killed_is_killed_whole() {
        let root = tempfile::tempdir().unwrap();
        let (major, _) = newest_programs().unwrap();
        let options = ServerOptions {
            data: root.path().join("data"),
            run: root.path().join("run"),
            major: major.get(),
            superuser: "postgres".into(),
            settings: vec![("fsync".into(), "off".into())],
        };
        PrivateServer::initdb(&options).unwrap();
        let mut server = PrivateServer::start(options, Isolation::plain()).unwrap();
        server.wait_ready(true, Duration::from_secs(30)).await.unwrap();
        let client = server.connect("postgres").await.unwrap();
        let backend: i32 = client
            .query_one("SELECT pg_backend_pid()", &[])
            .await
            .unwrap()
            .get(0);
        // A backend that is at work does not look whether its postmaster lives.
        let busy = tokio::spawn(async move {
            client
                .query_one("SELECT count(*) FROM generate_series(1, 1e12::bigint)", &[])
                .await
                .map(|_| ())
        });
        let watcher = server.connect("postgres").await.unwrap();
        let active = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND query LIKE '%1e12%'";
        while watcher
            .query_one(active, &[&backend])
            .await
            .unwrap()
            .get::<_, i64>(0)
            == 0
        {
            tokio::task::yield_now().await;
        }
        server.kill();
        assert!(busy.await.unwrap().is_err());
        // Its sockets are closed before the kernel is done with it.
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let state = std::fs::read_to_string(format!("/proc/{backend}/stat")).unwrap_or_default();
            if state.is_empty() || state.contains(") Z ") {
                break;
            }
            assert!(Instant::now() < deadline, "{state}");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn serves_inside_namespaces_and_stops() {
        let root = tempfile::tempdir().unwrap();
        let options = ServerOptions {
            data: root.path().join("data"),
            run: root.path().join("run"),
            major: 15,
            superuser: "postgres".into(),
            settings: vec![("fsync".into(), "off".into())],
        };
        PrivateServer::initdb(&options).unwrap();
        let mut server = PrivateServer::start(options, Isolation::detect(None)).unwrap();
        server.wait_ready(true, Duration::from_secs(30)).await.unwrap();
        let client = server.connect("postgres").await.unwrap();
        let one: i32 = client.query_one("SELECT 1", &[]).await.unwrap().get(0);
        assert_eq!(one, 1);
        drop(client);
        server.stop(Duration::from_secs(20)).await.unwrap();
    }
}
