//! A PostgreSQL on a private socket.

use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

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
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
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
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            if let Some(group) = i32::try_from(child.id())
                .ok()
                .and_then(rustix::process::Pid::from_raw)
            {
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The isolation that it runs in.
    pub const fn isolation(&self) -> Isolation {
        self.isolation
    }

    fn postmaster_pid(&self, child: &Child) -> Option<rustix::process::Pid> {
        let own = i32::try_from(child.id()).ok()?;
        let first_child = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children"))
            .ok()
            .and_then(|c| c.split_whitespace().next().and_then(|p| p.parse::<i32>().ok()));
        let pid = match self.isolation.kind() {
            super::IsolationKind::Namespaces => first_child?,
            super::IsolationKind::PrivateDirectory => own,
        };
        rustix::process::Pid::from_raw(pid)
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
        let mut server = PrivateServer::start(options, Isolation::detect()).unwrap();
        server.wait_ready(true, Duration::from_secs(30)).await.unwrap();
        let client = server.connect("postgres").await.unwrap();
        let one: i32 = client.query_one("SELECT 1", &[]).await.unwrap().get(0);
        assert_eq!(one, 1);
        drop(client);
        server.stop(Duration::from_secs(20)).await.unwrap();
    }
}
