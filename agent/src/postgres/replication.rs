//! The commands of a replication connection
//! (PostgreSQL documentation, "Streaming Replication Protocol").

use std::time::Duration;

use bytes::Bytes;
use fallible_iterator::FallibleIterator;
use holdfast_proto::names::SystemId;
use holdfast_proto::pg::{Lsn, PgMajor, SegmentSize, TimelineId};
use postgres_protocol::message::{backend, frontend};

use super::error::{PgError, ServerError};
use super::stream::WalStream;
use super::target::{PgTarget, SlotName};
use super::wire::{Message, Wire, malformed, within};
use super::{sql_connect, wire};

/// How long the server may take to answer a command.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// What IDENTIFY_SYSTEM says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The cluster.
    pub system: SystemId,
    /// The server's timeline.
    pub timeline: TimelineId,
    /// How far its WAL is flushed (a standby: received and replayed).
    pub flush: Lsn,
}

/// Whether a slot was made or was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotCreation {
    /// It was made now.
    Made,
    /// A slot of this name existed; [`ReplicationConnection::read_slot`] says
    /// whether it is one of ours.
    Existed,
}

/// From where a physical slot keeps WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotState {
    /// The oldest position that is kept; `None` when nothing is reserved.
    pub restart_lsn: Option<Lsn>,
    /// The timeline of that position, where the server says (from 15 on).
    pub restart_timeline: Option<TimelineId>,
}

/// A timeline's history file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryFile {
    /// Its name, `00000002.history`.
    pub name: String,
    /// Its content, byte for byte.
    pub content: Bytes,
}

/// A connection for physical replication that waits for a command.
#[derive(Debug)]
pub struct ReplicationConnection {
    wire: Wire,
    target: PgTarget,
}

type Row = Vec<Option<Bytes>>;

impl ReplicationConnection {
    /// Connects and authenticates.
    pub async fn connect(target: &PgTarget) -> Result<Self, PgError> {
        Ok(Self {
            wire: Wire::connect(target).await?,
            target: target.clone(),
        })
    }

    pub(super) fn from_parts(wire: Wire, target: PgTarget) -> Self {
        Self { wire, target }
    }

    /// The server's major version; `None` for one that is not supported.
    pub fn major(&self) -> Option<PgMajor> {
        let version = self.wire.parameter("server_version")?;
        let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
        PgMajor::new(digits.parse().ok()?)
    }

    /// Whether the server is a standby, as it said when the session began.
    pub fn in_recovery(&self) -> Option<bool> {
        self.wire.parameter("in_hot_standby").map(|value| value == "on")
    }

    /// Which cluster this is, on which timeline, and how far.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, PgError> {
        let row = self.one_row("IDENTIFY_SYSTEM", "to identify itself").await?;
        Ok(SystemIdentity {
            system: field(&row, 0)?,
            timeline: timeline(field(&row, 1)?)?,
            flush: field(&row, 2)?,
        })
    }

    /// The size of WAL segments.
    pub async fn show_segment_size(&mut self) -> Result<SegmentSize, PgError> {
        let row = self
            .one_row("SHOW wal_segment_size", "to show wal_segment_size")
            .await?;
        let shown: String = field(&row, 0)?;
        let unit = |suffix, bytes: u64| {
            Some(
                shown
                    .strip_suffix(suffix)?
                    .parse::<u64>()
                    .ok()?
                    .saturating_mul(bytes),
            )
        };
        unit("GB", 1 << 30)
            .or_else(|| unit("MB", 1 << 20))
            .or_else(|| unit("kB", 1 << 10))
            .and_then(|bytes| SegmentSize::new(bytes).ok())
            .ok_or_else(|| PgError::protocol(format!("{shown:?} is not a size of WAL segments")))
    }

    /// Makes a physical slot that, with `reserve_wal`, keeps WAL from now on.
    /// A slot of that name that exists is left as it is.
    pub async fn create_physical_slot(
        &mut self,
        name: &SlotName,
        reserve_wal: bool,
    ) -> Result<SlotCreation, PgError> {
        let reserve = if reserve_wal { " RESERVE_WAL" } else { "" };
        let command = format!("CREATE_REPLICATION_SLOT \"{name}\" PHYSICAL{reserve}");
        match self.command(&command).await? {
            Ok(_) => Ok(SlotCreation::Made),
            Err(error) if error.sqlstate == "42710" => Ok(SlotCreation::Existed),
            Err(error) => Err(error.while_doing("to create the replication slot")),
        }
    }

    /// Drops a slot, waiting until no one uses it. Returns whether it existed.
    pub async fn drop_slot(&mut self, name: &SlotName) -> Result<bool, PgError> {
        match self
            .command(&format!("DROP_REPLICATION_SLOT \"{name}\" WAIT"))
            .await?
        {
            Ok(_) => Ok(true),
            Err(error) if error.sqlstate == "42704" => Ok(false),
            Err(error) => Err(error.while_doing("to drop the replication slot")),
        }
    }

    /// From where a slot keeps WAL; `None` when there is no such physical slot.
    pub async fn read_slot(&mut self, name: &SlotName) -> Result<Option<SlotState>, PgError> {
        if self.major().is_some_and(|major| major.get() < 15) {
            return self.read_slot_by_sql(name).await;
        }
        let row = match self.command(&format!("READ_REPLICATION_SLOT \"{name}\"")).await? {
            Ok(rows) => only(rows)?,
            Err(error) => return Err(error.while_doing("to read the replication slot")),
        };
        if optional::<String>(&row, 0)?.is_none() {
            return Ok(None);
        }
        Ok(Some(SlotState {
            restart_lsn: optional(&row, 1)?,
            restart_timeline: optional::<u32>(&row, 2)?.and_then(TimelineId::new),
        }))
    }

    /// PostgreSQL 14 has no command for it.
    async fn read_slot_by_sql(&self, name: &SlotName) -> Result<Option<SlotState>, PgError> {
        let client = sql_connect(&self.target).await?;
        let query = "select restart_lsn::text from pg_catalog.pg_replication_slots \
                     where slot_name operator(pg_catalog.=) $1::text and slot_type operator(pg_catalog.=) 'physical'";
        let Some(row) = client.query_opt(query, &[&name.as_str()]).await? else {
            return Ok(None);
        };
        let restart_lsn = match row.get::<_, Option<String>>(0) {
            Some(text) => Some(
                text.parse()
                    .map_err(|_| PgError::protocol("restart_lsn is no LSN"))?,
            ),
            None => None,
        };
        Ok(Some(SlotState {
            restart_lsn,
            restart_timeline: None,
        }))
    }

    /// The history file of a timeline; `None` when the server has none, as for
    /// timeline 1.
    pub async fn timeline_history(&mut self, timeline: TimelineId) -> Result<Option<HistoryFile>, PgError> {
        let row = match self.command(&format!("TIMELINE_HISTORY {timeline}")).await? {
            Ok(rows) => only(rows)?,
            Err(error) if error.sqlstate == "58P01" => return Ok(None),
            Err(error) => return Err(error.while_doing("to send a timeline's history")),
        };
        let name: String = field(&row, 0)?;
        if name != timeline.history_file() {
            return Err(PgError::protocol(format!(
                "{name:?} was sent as the history of timeline {timeline}"
            )));
        }
        let content = row
            .get(1)
            .cloned()
            .flatten()
            .ok_or_else(|| PgError::protocol("the history has no content"))?;
        Ok(Some(HistoryFile { name, content }))
    }

    /// Starts the WAL stream of `timeline` at exactly `from`. With a slot, what
    /// [`WalStream::status`] reports as flushed is no longer kept by it.
    ///
    /// # Errors
    /// [`PgError::SlotMissing`], [`PgError::ObjectInUse`]; that WAL was removed
    /// is mostly said by the stream's first [`WalStream::next`].
    pub async fn start_physical(
        mut self,
        slot: Option<&SlotName>,
        from: Lsn,
        timeline: TimelineId,
    ) -> Result<WalStream, PgError> {
        let slot = slot.map(|name| format!("SLOT \"{name}\" ")).unwrap_or_default();
        self.send(&format!(
            "START_REPLICATION {slot}PHYSICAL {from} TIMELINE {timeline}"
        ))?;
        let at = self.wire.at().to_owned();
        let first = within(&at, COMMAND_LIMIT, "starting the WAL stream", async {
            self.wire.flush().await?;
            loop {
                match self.wire.receive().await? {
                    Message::Other(backend::Message::NoticeResponse(_)) => {}
                    message => return Ok(message),
                }
            }
        });
        match first.await? {
            Message::CopyBoth => Ok(WalStream::flowing(self.wire, self.target, from)),
            // The timeline ended exactly at `from`: the server says at once which
            // one comes next.
            Message::Other(backend::Message::RowDescription(_)) => {
                Ok(WalStream::ending(self.wire, self.target, from))
            }
            Message::Other(backend::Message::ErrorResponse(body)) => {
                Err(ServerError::read(&body).while_streaming())
            }
            _ => Err(PgError::protocol("an unexpected answer to START_REPLICATION")),
        }
    }

    fn send(&mut self, command: &str) -> Result<(), PgError> {
        frontend::query(command, self.wire.outgoing()).map_err(malformed)
    }

    /// Runs a command that answers with rows; the inner error is the server's.
    async fn command(&mut self, command: &str) -> Result<Result<Vec<Row>, ServerError>, PgError> {
        self.send(command)?;
        let at = self.wire.at().to_owned();
        within(
            &at,
            COMMAND_LIMIT,
            "waiting for an answer",
            rows_until_ready(&mut self.wire),
        )
        .await
    }

    async fn one_row(&mut self, command: &str, doing: &'static str) -> Result<Row, PgError> {
        only(
            self.command(command)
                .await?
                .map_err(|error| error.while_doing(doing))?,
        )
    }
}

async fn rows_until_ready(wire: &mut wire::Wire) -> Result<Result<Vec<Row>, ServerError>, PgError> {
    wire.flush().await?;
    let mut rows = Vec::new();
    let mut refused = None;
    loop {
        match wire.receive().await? {
            Message::Other(backend::Message::DataRow(body)) => rows.push(row(&body)?),
            Message::Other(backend::Message::ErrorResponse(body)) => {
                let error = ServerError::read(&body);
                // A server that ends the session does not become ready again.
                if error.sqlstate.starts_with("57P") {
                    return Err(error.while_doing("the command"));
                }
                refused = Some(error);
            }
            Message::Other(backend::Message::ReadyForQuery(_)) => return Ok(refused.map_or(Ok(rows), Err)),
            Message::Other(
                backend::Message::RowDescription(_)
                | backend::Message::CommandComplete(_)
                | backend::Message::NoticeResponse(_)
                | backend::Message::EmptyQueryResponse,
            ) => {}
            _ => {
                return Err(PgError::protocol(
                    "an unexpected message in the answer to a command",
                ));
            }
        }
    }
}

pub(super) fn row(body: &backend::DataRowBody) -> Result<Row, PgError> {
    let buffer = body.buffer_bytes();
    body.ranges()
        .map(|range| Ok(range.map(|r| buffer.slice(r))))
        .collect()
        .map_err(malformed)
}

fn only(mut rows: Vec<Row>) -> Result<Row, PgError> {
    match (rows.pop(), rows.is_empty()) {
        (Some(row), true) => Ok(row),
        _ => Err(PgError::protocol(
            "not exactly one row in the answer to a command",
        )),
    }
}

pub(super) fn optional<T: std::str::FromStr>(row: &Row, column: usize) -> Result<Option<T>, PgError> {
    let Some(value) = row.get(column).and_then(Option::as_ref) else {
        return Ok(None);
    };
    let parsed = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    parsed
        .map(Some)
        .ok_or_else(|| PgError::protocol(format!("column {column} of an answer is unreadable")))
}

pub(super) fn field<T: std::str::FromStr>(row: &Row, column: usize) -> Result<T, PgError> {
    optional(row, column)?
        .ok_or_else(|| PgError::protocol(format!("column {column} of an answer is missing")))
}

pub(super) fn timeline(id: u32) -> Result<TimelineId, PgError> {
    TimelineId::new(id).ok_or_else(|| PgError::protocol("the server says timeline 0"))
}
