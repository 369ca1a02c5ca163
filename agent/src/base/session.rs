//! The server's side of a base backup: one SQL session from start to stop.
//!
//! PostgreSQL ends a backup whose session breaks, so a restart, a crash or a
//! lost network in between is an error here and leaves nothing behind on the
//! server. The session also proves that the data directory that is read is the
//! one of the server that is spoken to.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_proto::names::SystemId;
use holdfast_proto::pg::{BackupLabel, BadBackupLabel, ControlFile, Lsn, TimelineId};
use tokio_postgres::Client;

use super::control::{self, ControlError};
use crate::postgres::{PgError, PgTarget, sql_connect_with};

/// How far apart the server's start may lie in `postmaster.pid` and in its own
/// words: the first is noted before memory is set up, the second after.
const START_TOLERANCE: i64 = 300;

/// Settings that a restored server must have at least, or must know.
const SETTINGS: [&str; 8] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "wal_level",
    "shared_preload_libraries",
    "server_encoding",
];

/// Where configuration lies.
const FILES: [&str; 4] = ["data_directory", "config_file", "hba_file", "ident_file"];

/// What can go wrong on the server's side.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The session could not be opened, or it broke.
    #[error(
        "the backup's session with the server failed or broke: nothing was committed, start the backup again"
    )]
    Postgres(#[from] PgError),
    /// A standby.
    #[error("the server is a standby: base backups are taken from the primary")]
    Standby,
    /// Another cluster.
    #[error(
        "the server's system identifier is {found}, the lineage is of {expected}: connect the agent to its own cluster"
    )]
    WrongSystem {
        /// What the server says.
        found: SystemId,
        /// What the lineage is of.
        expected: SystemId,
    },
    /// The directory is not the server's.
    #[error(
        "{directory:?} is not the data directory of the server that answers ({why}): run the agent as a user that may \
         read it, or correct data_directory in the configuration"
    )]
    WrongDirectory {
        /// The directory.
        directory: PathBuf,
        /// How that is known.
        why: String,
    },
    /// The timeline changed.
    #[error("the server went from timeline {before} to {after} during the backup: start the backup again")]
    TimelineChanged {
        /// At the start.
        before: TimelineId,
        /// At the end.
        after: TimelineId,
    },
    /// The label is not one.
    #[error(transparent)]
    Label(#[from] BadBackupLabel),
    /// `pg_control` cannot be read.
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl From<tokio_postgres::Error> for SessionError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error.into())
    }
}

/// What the server said when the backup began.
#[derive(Debug, Clone)]
pub struct Facts {
    /// `server_version_num`.
    pub version_num: u32,
    /// `version()`.
    pub version: String,
    /// The settings that matter to a restore.
    pub settings: BTreeMap<String, String>,
    /// Where configuration files lie.
    pub configuration_files: BTreeMap<String, String>,
    /// Where the backup began.
    pub start_lsn: Lsn,
    /// The control file after the starting checkpoint.
    pub control: ControlFile,
}

/// What `pg_backup_stop` returned.
#[derive(Debug, Clone)]
pub struct Stopped {
    /// From where on the backup is consistent.
    pub stop_lsn: Lsn,
    /// The text of `backup_label`.
    pub label_text: String,
    /// The same, read.
    pub label: BackupLabel,
    /// The text of `tablespace_map`, empty when there are no tablespaces.
    pub tablespace_map: String,
}

/// A backup that the server knows of.
pub struct Session {
    client: Client,
    major: u32,
    facts: Facts,
}

impl Session {
    /// Connects, checks that server and directory belong together, and starts
    /// the backup with an immediate checkpoint.
    pub async fn start(
        target: &PgTarget,
        directory: &Path,
        system: SystemId,
        label: &str,
    ) -> Result<Self, SessionError> {
        let client = sql_connect_with(target, Duration::ZERO).await?;
        let about = "select current_setting('server_version_num'), version(), pg_is_in_recovery(), \
                     extract(epoch from pg_postmaster_start_time())::bigint, current_setting('port'), \
                     (select system_identifier::text from pg_control_system())";
        let row = client.query_one(about, &[]).await?;
        if row.get::<_, bool>(2) {
            return Err(SessionError::Standby);
        }
        let unreadable = |what| PgError::Protocol(format!("{what} of the server is unreadable"));
        let version_num: u32 = row
            .get::<_, String>(0)
            .parse()
            .map_err(|_| unreadable("server_version_num"))?;
        let found = row
            .get::<_, String>(5)
            .parse::<i64>()
            .map_err(|_| unreadable("system_identifier"))?;
        let found = SystemId::new(found.cast_unsigned());
        if found != system {
            return Err(SessionError::WrongSystem {
                found,
                expected: system,
            });
        }
        let settings = settings_of(&client, &SETTINGS).await?;
        let configuration_files = settings_of(&client, &FILES).await?;
        let server = Postmaster {
            directory: configuration_files
                .get("data_directory")
                .cloned()
                .unwrap_or_default(),
            started: row.get(3),
            port: row.get(4),
        };
        server.check(directory)?;

        let major = version_num / 10_000;
        let start = if major >= 15 {
            "select pg_backup_start($1, true)::text"
        } else {
            "select pg_start_backup($1, true, false)::text"
        };
        let started: String = client.query_one(start, &[&label]).await?.get(0);
        let start_lsn: Lsn = started.parse().map_err(|_| unreadable("the start position"))?;

        // The starting checkpoint is in the control file of the server's own
        // directory, and in that of no copy of it.
        let (control, _) = control::read(directory)?;
        if control.system != system || control.checkpoint_redo < start_lsn {
            return Err(SessionError::WrongDirectory {
                directory: directory.to_owned(),
                why: format!(
                    "its pg_control is of system {} with a checkpoint from {}, the server has begun at {start_lsn}",
                    control.system, control.checkpoint_redo
                ),
            });
        }
        let version = row.get(1);
        let facts = Facts {
            version_num,
            version,
            settings,
            configuration_files,
            start_lsn,
            control,
        };
        Ok(Self { client, major, facts })
    }

    /// What the server said.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Whether the session is known to be broken.
    pub fn is_broken(&self) -> bool {
        self.client.is_closed()
    }

    /// Ends the backup on the server.
    pub async fn stop(self) -> Result<Stopped, SessionError> {
        let stop = if self.major >= 15 {
            "select lsn::text, labelfile, spcmapfile from pg_backup_stop(false)"
        } else {
            "select lsn::text, labelfile, spcmapfile from pg_stop_backup(false, false)"
        };
        let row = self.client.query_one(stop, &[]).await?;
        let stopped: String = row.get(0);
        let label_text: String = row.get(1);
        let tablespace_map: Option<String> = row.get(2);
        let label = BackupLabel::parse(&label_text)?;
        let stop_lsn: Lsn = stopped
            .parse()
            .map_err(|_| PgError::Protocol("the stop position is unreadable".to_owned()))?;
        let name: String = self
            .client
            .query_one("select pg_walfile_name(pg_current_wal_lsn())", &[])
            .await?
            .get(0);
        let after = name
            .get(..8)
            .and_then(TimelineId::parse_fixed)
            .unwrap_or(label.start_timeline);
        if after != label.start_timeline {
            return Err(SessionError::TimelineChanged {
                before: label.start_timeline,
                after,
            });
        }
        Ok(Stopped {
            stop_lsn,
            label_text,
            label,
            tablespace_map: tablespace_map.unwrap_or_default(),
        })
    }
}

async fn settings_of(client: &Client, names: &[&str]) -> Result<BTreeMap<String, String>, SessionError> {
    let rows = client
        .query(
            "select name, setting from pg_settings where name = any($1) and setting is not null",
            &[&names],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// What the server says of its own start.
struct Postmaster {
    directory: String,
    started: i64,
    port: String,
}

impl Postmaster {
    /// Compares with `postmaster.pid`, which the server writes into its data
    /// directory: the paths in it are as the server sees them, so this works
    /// across containers too.
    fn check(&self, directory: &Path) -> Result<(), SessionError> {
        let wrong = |why: String| SessionError::WrongDirectory {
            directory: directory.to_owned(),
            why,
        };
        let text = fs::read_to_string(directory.join("postmaster.pid"))
            .map_err(|e| wrong(format!("its postmaster.pid cannot be read: {e}")))?;
        let mut lines = text.lines().skip(1);
        let (data, started, port) = (lines.next(), lines.next(), lines.next());
        if data != Some(self.directory.as_str()) {
            return Err(wrong(format!(
                "its server runs in {data:?}, the one that answers in {:?}",
                self.directory
            )));
        }
        if port != Some(self.port.as_str()) {
            return Err(wrong(format!(
                "its server has port {port:?}, the one that answers {}",
                self.port
            )));
        }
        let started: Option<i64> = started.and_then(|s| s.trim().parse().ok());
        if started.is_none_or(|started| (started - self.started).abs() > START_TOLERANCE) {
            return Err(wrong("its server was started at another time".to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_servers_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let server = Postmaster {
            directory: "/data".to_owned(),
            started: 1_000_000,
            port: "5432".to_owned(),
        };
        let check = |text: &str| {
            fs::write(dir.path().join("postmaster.pid"), text).unwrap();
            server.check(dir.path()).map_err(|e| e.to_string())
        };
        assert!(check("77\n/data\n1000001\n5432\n/run\n\n  1 2\nready\n").is_ok());
        assert!(
            check("77\n/other\n1000001\n5432\n")
                .unwrap_err()
                .contains("/other")
        );
        assert!(check("77\n/data\n1000001\n5433\n").unwrap_err().contains("5433"));
        assert!(
            check("77\n/data\n1\n5432\n")
                .unwrap_err()
                .contains("another time")
        );
        assert!(check("77\n").is_err());
        let absent = server.check(&dir.path().join("absent"));
        assert!(matches!(absent, Err(SessionError::WrongDirectory { .. })));
    }
}
