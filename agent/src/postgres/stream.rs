//! WAL as it flows from the server.
//!
//! [`WalStream::next`] waits for what the server sends; [`WalStream::status`]
//! tells it how far we are. Both are meant for one task that selects between
//! the stream and its own clock. Dropping their futures loses nothing: what was
//! received stays in the connection's buffer, what was not sent goes out with
//! the next call.
//!
//! Dropping the stream closes the connection; the server then keeps the slot
//! where the last flushed position put it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use holdfast_proto::Timestamp;
use holdfast_proto::pg::{Lsn, StandbyStatus, StreamMessage, TimelineId, WAL_DATA_HEADER};
use postgres_protocol::message::{backend, frontend};

use super::error::{PgError, ServerError};
use super::replication::{ReplicationConnection, field, row, timeline};
use super::target::PgTarget;
use super::wire::{Message, Wire, malformed, within};

/// How long the server may take to end a stream.
const FINISH_LIMIT: Duration = Duration::from_secs(30);

/// What the server sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEvent {
    /// WAL: the bytes from `start` on.
    Wal {
        /// The position of the first byte: always that after the last one.
        start: Lsn,
        /// How far the server's own WAL was flushed.
        end_of_wal: Lsn,
        /// When it was sent, by the server's clock.
        sent_at: Timestamp,
        /// The bytes, at most 128 KiB.
        data: Bytes,
    },
    /// A sign of life.
    Keepalive {
        /// How far the server's own WAL was flushed (at most sent, on a standby).
        end: Lsn,
        /// The server wants a [`WalStream::status`] at once. At its shutdown it
        /// repeats this until everything is confirmed as flushed.
        reply_requested: bool,
    },
    /// All WAL of this timeline was sent; the server goes on with another. The
    /// stream is over: [`WalStream::finish`] gives the connection back.
    TimelineEnd {
        /// The next timeline.
        next_timeline: TimelineId,
        /// Where it begins.
        next_start: Lsn,
    },
}

#[derive(Debug)]
enum Stage {
    Flowing,
    /// The server ended the timeline; its answer with the next one is under way.
    Ending(Option<(TimelineId, Lsn)>),
    Ended(Option<(TimelineId, Lsn)>),
}

/// A connection on which WAL flows.
#[derive(Debug)]
pub struct WalStream {
    wire: Wire,
    target: PgTarget,
    position: Lsn,
    stage: Stage,
}

impl WalStream {
    pub(super) fn flowing(mut wire: Wire, target: PgTarget, from: Lsn) -> Self {
        wire.set_streaming(true);
        Self {
            wire,
            target,
            position: from,
            stage: Stage::Flowing,
        }
    }

    pub(super) fn ending(wire: Wire, target: PgTarget, from: Lsn) -> Self {
        Self {
            wire,
            target,
            position: from,
            stage: Stage::Ending(None),
        }
    }

    /// The position of the next byte.
    pub const fn position(&self) -> Lsn {
        self.position
    }

    /// What the server sends next. Safe to drop at any time.
    ///
    /// # Errors
    /// [`PgError::WalRemoved`] and [`PgError::ShuttingDown`] are the server's
    /// own words; [`PgError::Protocol`] when bytes are missing or doubled. After
    /// an error the stream is of no more use.
    pub async fn next(&mut self) -> Result<StreamEvent, PgError> {
        loop {
            match &self.stage {
                Stage::Flowing => {
                    if let Some(event) = self.next_flowing().await? {
                        return Ok(event);
                    }
                }
                Stage::Ending(_) => self.step_ending().await?,
                Stage::Ended(Some((next_timeline, next_start))) => {
                    return Ok(StreamEvent::TimelineEnd {
                        next_timeline: *next_timeline,
                        next_start: *next_start,
                    });
                }
                Stage::Ended(None) => {
                    return Err(PgError::protocol(
                        "the server ended the WAL without naming the next timeline",
                    ));
                }
            }
        }
    }

    async fn next_flowing(&mut self) -> Result<Option<StreamEvent>, PgError> {
        self.wire.flush().await?;
        match self.wire.receive().await? {
            Message::Other(backend::Message::CopyData(body)) => self.copied(body.into_bytes()).map(Some),
            Message::Other(backend::Message::CopyDone) => {
                frontend::copy_done(self.wire.outgoing());
                self.stage = Stage::Ending(None);
                Ok(None)
            }
            // A walsender says this, and nothing more, when its server stops
            // after everything was confirmed.
            Message::Other(backend::Message::CommandComplete(_)) => Err(PgError::ShuttingDown {
                message: "the server ended the WAL stream".into(),
            }),
            Message::Other(backend::Message::ErrorResponse(body)) => {
                Err(ServerError::read(&body).while_streaming())
            }
            Message::Other(backend::Message::NoticeResponse(_)) => Ok(None),
            _ => Err(PgError::protocol("an unexpected message in the WAL stream")),
        }
    }

    fn copied(&mut self, body: Bytes) -> Result<StreamEvent, PgError> {
        let message = StreamMessage::decode(&body).map_err(|e| PgError::protocol(e.to_string()))?;
        match message {
            StreamMessage::Wal {
                start,
                end_of_wal,
                sent_at,
                data,
            } => {
                if start != self.position {
                    return Err(PgError::protocol(format!(
                        "WAL from {start} was sent where {} comes next",
                        self.position
                    )));
                }
                // Its end was checked when it was decoded.
                self.position = Lsn::new(start.get() + data.len() as u64);
                Ok(StreamEvent::Wal {
                    start,
                    end_of_wal,
                    sent_at,
                    data: body.slice(WAL_DATA_HEADER..),
                })
            }
            StreamMessage::Keepalive {
                end, reply_requested, ..
            } => Ok(StreamEvent::Keepalive { end, reply_requested }),
        }
    }

    /// One message further to the end of the command.
    async fn step_ending(&mut self) -> Result<(), PgError> {
        self.wire.flush().await?;
        let message = self.wire.receive().await?;
        let Stage::Ending(next) = &mut self.stage else {
            return Ok(());
        };
        match message {
            Message::Other(backend::Message::DataRow(body)) => {
                let row = row(&body)?;
                *next = Some((timeline(field(&row, 0)?)?, field(&row, 1)?));
            }
            Message::Other(backend::Message::ReadyForQuery(_)) => {
                let next = *next;
                self.wire.set_streaming(false);
                self.stage = Stage::Ended(next);
            }
            Message::Other(backend::Message::ErrorResponse(body)) => {
                return Err(ServerError::read(&body).while_streaming());
            }
            Message::Other(
                backend::Message::RowDescription(_)
                | backend::Message::CommandComplete(_)
                | backend::Message::CopyData(_)
                | backend::Message::CopyDone
                | backend::Message::NoticeResponse(_),
            ) => {}
            _ => {
                return Err(PgError::protocol(
                    "an unexpected message at the end of the WAL stream",
                ));
            }
        }
        Ok(())
    }

    /// Tells the server how far WAL was received (`write`), is safe (`flush`)
    /// and is applied; `None` says nothing about it. Nothing is reported as
    /// applied that is not reported as flushed. Safe to drop: what was not sent
    /// goes out with the next call.
    pub async fn status(
        &mut self,
        write: Lsn,
        flush: Option<Lsn>,
        apply: Option<Lsn>,
        reply_requested: bool,
    ) -> Result<(), PgError> {
        if !matches!(self.stage, Stage::Flowing) {
            return Ok(());
        }
        let flush = flush.map_or(0, Lsn::get).min(write.get());
        let apply = apply.map_or(0, Lsn::get).min(flush);
        let update = StandbyStatus {
            write,
            flush: Lsn::new(flush),
            apply: Lsn::new(apply),
            sent_at: now(),
            reply_requested,
        };
        frontend::CopyData::new(&update.encode()[..])
            .map_err(malformed)?
            .write(self.wire.outgoing());
        self.wire.flush().await
    }

    /// Ends the stream and gives the connection back for another command. WAL
    /// that arrives meanwhile is dropped: it comes again with the next stream.
    pub async fn finish(mut self) -> Result<ReplicationConnection, PgError> {
        if matches!(self.stage, Stage::Flowing) {
            frontend::copy_done(self.wire.outgoing());
            self.stage = Stage::Ending(None);
        }
        let at = self.wire.at().to_owned();
        within(&at, FINISH_LIMIT, "ending the WAL stream", async {
            while matches!(self.stage, Stage::Ending(_)) {
                self.step_ending().await?;
            }
            Ok(())
        })
        .await?;
        Ok(ReplicationConnection::from_parts(self.wire, self.target))
    }
}

fn now() -> Timestamp {
    let micros = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_micros());
    Timestamp::from_unix_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}
