//! What flows in CopyData messages of a physical replication stream ("Streaming
//! Replication Protocol" in PostgreSQL's manual): WAL and keepalives one way,
//! the standby's status the other.

use super::Lsn;
use crate::time::Timestamp;

const WAL_DATA: u8 = b'w';
const KEEPALIVE: u8 = b'k';
const STATUS_UPDATE: u8 = b'r';

/// Bytes before the WAL in a message that carries some.
pub const WAL_DATA_HEADER: usize = 25;

/// A message of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamMessage<'a> {
    /// WAL: the bytes from `start` on, which end before the end of the log.
    Wal {
        /// The position of the first byte.
        start: Lsn,
        /// How far the server's own WAL was flushed.
        end_of_wal: Lsn,
        /// When it was sent, by the server's clock.
        sent_at: Timestamp,
        /// The bytes.
        data: &'a [u8],
    },
    /// A sign of life.
    Keepalive {
        /// How far the server's own WAL was flushed (at most sent, on a standby).
        end: Lsn,
        /// When it was sent, by the server's clock.
        sent_at: Timestamp,
        /// The server wants a status at once.
        reply_requested: bool,
    },
}

/// Bytes that are no message of a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadStreamMessage {
    /// It ends too early, or goes on after its end.
    #[error("a message of the WAL stream has {0} bytes, which do not make one")]
    Length(usize),
    /// A kind that this program does not know.
    #[error("an unknown message {0:#04x} in the WAL stream")]
    Kind(u8),
    /// Positions beyond 2^64.
    #[error("WAL from {0} on reaches beyond the end of the log")]
    TooFar(Lsn),
}

impl<'a> StreamMessage<'a> {
    /// Reads the content of a CopyData message.
    ///
    /// # Errors
    /// It is not a message that a walsender sends.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, BadStreamMessage> {
        let short = BadStreamMessage::Length(bytes.len());
        let (kind, rest) = bytes.split_first().ok_or(short.clone())?;
        match *kind {
            WAL_DATA => {
                let (start, rest) = take_u64(rest).ok_or(short.clone())?;
                let (end_of_wal, rest) = take_u64(rest).ok_or(short.clone())?;
                let (sent_at, data) = take_u64(rest).ok_or(short)?;
                let start = Lsn::new(start);
                start
                    .checked_add(data.len() as u64)
                    .ok_or(BadStreamMessage::TooFar(start))?;
                Ok(Self::Wal {
                    start,
                    end_of_wal: Lsn::new(end_of_wal),
                    sent_at: Timestamp::from_pg_micros(sent_at.cast_signed()),
                    data,
                })
            }
            KEEPALIVE => {
                let (end, rest) = take_u64(rest).ok_or(short.clone())?;
                let (sent_at, rest) = take_u64(rest).ok_or(short.clone())?;
                let [reply] = rest else { return Err(short) };
                Ok(Self::Keepalive {
                    end: Lsn::new(end),
                    sent_at: Timestamp::from_pg_micros(sent_at.cast_signed()),
                    reply_requested: *reply != 0,
                })
            }
            other => Err(BadStreamMessage::Kind(other)),
        }
    }

    /// The content of a CopyData message, as a server writes it.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Wal {
                start,
                end_of_wal,
                sent_at,
                data,
            } => {
                let mut out = Vec::with_capacity(WAL_DATA_HEADER + data.len());
                out.push(WAL_DATA);
                out.extend(start.get().to_be_bytes());
                out.extend(end_of_wal.get().to_be_bytes());
                out.extend(sent_at.pg_micros().to_be_bytes());
                out.extend_from_slice(data);
                out
            }
            Self::Keepalive {
                end,
                sent_at,
                reply_requested,
            } => {
                let mut out = vec![KEEPALIVE];
                out.extend(end.get().to_be_bytes());
                out.extend(sent_at.pg_micros().to_be_bytes());
                out.push(u8::from(*reply_requested));
                out
            }
        }
    }
}

/// How far a standby is, as it tells the server. 0 says nothing of a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandbyStatus {
    /// Received up to here.
    pub write: Lsn,
    /// Durable up to here: the slot moves on, a synchronous commit returns.
    pub flush: Lsn,
    /// Applied up to here.
    pub apply: Lsn,
    /// By the standby's clock.
    pub sent_at: Timestamp,
    /// The standby wants a keepalive at once.
    pub reply_requested: bool,
}

impl StandbyStatus {
    /// The content of a CopyData message.
    pub fn encode(&self) -> [u8; 34] {
        let mut out = [0; 34];
        out[0] = STATUS_UPDATE;
        out[1..9].copy_from_slice(&self.write.get().to_be_bytes());
        out[9..17].copy_from_slice(&self.flush.get().to_be_bytes());
        out[17..25].copy_from_slice(&self.apply.get().to_be_bytes());
        out[25..33].copy_from_slice(&self.sent_at.pg_micros().to_be_bytes());
        out[33] = u8::from(self.reply_requested);
        out
    }

    /// Reads one, as a server does.
    ///
    /// # Errors
    /// It is not a standby's status.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadStreamMessage> {
        let short = BadStreamMessage::Length(bytes.len());
        let (kind, rest) = bytes.split_first().ok_or(short.clone())?;
        if *kind != STATUS_UPDATE {
            return Err(BadStreamMessage::Kind(*kind));
        }
        let (write, rest) = take_u64(rest).ok_or(short.clone())?;
        let (flush, rest) = take_u64(rest).ok_or(short.clone())?;
        let (apply, rest) = take_u64(rest).ok_or(short.clone())?;
        let (sent_at, rest) = take_u64(rest).ok_or(short.clone())?;
        let [reply] = rest else { return Err(short) };
        Ok(Self {
            write: Lsn::new(write),
            flush: Lsn::new(flush),
            apply: Lsn::new(apply),
            sent_at: Timestamp::from_pg_micros(sent_at.cast_signed()),
            reply_requested: *reply != 0,
        })
    }
}

fn take_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_is_cut_off_or_goes_on() {
        let keepalive = StreamMessage::Keepalive {
            end: Lsn::new(7),
            sent_at: Timestamp::from_pg_micros(8),
            reply_requested: true,
        }
        .encode();
        assert_eq!(keepalive.len(), 18);
        for length in 0..keepalive.len() {
            assert!(StreamMessage::decode(&keepalive[..length]).is_err(), "{length}");
        }
        let longer = [&keepalive[..], b"x"].concat();
        assert_eq!(StreamMessage::decode(&longer), Err(BadStreamMessage::Length(19)));
        let beyond = StreamMessage::Wal {
            start: Lsn::new(u64::MAX - 1),
            end_of_wal: Lsn::new(0),
            sent_at: Timestamp::from_pg_micros(0),
            data: b"four",
        };
        assert!(matches!(
            StreamMessage::decode(&beyond.encode()),
            Err(BadStreamMessage::TooFar(_))
        ));
        assert_eq!(StreamMessage::decode(b"x"), Err(BadStreamMessage::Kind(b'x')));
    }

    proptest! {
        #[test]
        fn round_trips(
            a in any::<u32>(), b in any::<u64>(), c in any::<u64>(), micros in -1i64 << 50..1 << 50, ask in any::<bool>(),
            data in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let (start, end, sent_at) = (Lsn::new(a.into()), Lsn::new(b), Timestamp::from_pg_micros(micros));
            for message in [
                StreamMessage::Wal { start, end_of_wal: end, sent_at, data: &data },
                StreamMessage::Keepalive { end, sent_at, reply_requested: ask },
            ] {
                let encoded = message.encode();
                prop_assert_eq!(StreamMessage::decode(&encoded), Ok(message));
            }
            let status = StandbyStatus { write: start, flush: end, apply: Lsn::new(c), sent_at, reply_requested: ask };
            prop_assert_eq!(StandbyStatus::decode(&status.encode()), Ok(status));
        }
    }
}
