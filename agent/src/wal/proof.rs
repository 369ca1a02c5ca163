//! Makes sure that a server's WAL continues what is archived, before a byte of it is
//! stored.
//!
//! A server that was set back to an older copy of its disk has the same system
//! identifier and the same timeline, and once it has written past the end of the
//! archive, its position looks right as well. Only its WAL differs. So the stream
//! begins before that end, and what is known there is compared: after a reconnect the
//! last bytes that were received, after a restart the last chunk that was stored, by
//! the identity that its object carries.
//!
//! Pure.

use blake3::Hasher;
use holdfast_proto::ContentId;
use holdfast_proto::pg::Lsn;
use holdfast_repository::seal::IndexKey;

/// Bytes at the end of a stream that are remembered: a page, where every record has a
/// checksum and names the one before.
pub(super) const TAIL: usize = 8192;

/// The WAL from `from` to `to` is not what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Differs {
    pub from: Lsn,
    pub to: Lsn,
}

/// What a server has to show.
#[derive(Clone)]
pub(super) enum Expected {
    /// These bytes, from here on.
    Bytes(Lsn, Vec<u8>),
    /// WAL of this identity.
    Chunk {
        start: Lsn,
        end: Lsn,
        id: ContentId,
        key: IndexKey,
    },
}

impl Expected {
    /// Where it begins: the stream has to begin there or before.
    pub fn start(&self) -> Lsn {
        match self {
            Expected::Bytes(start, _) | Expected::Chunk { start, .. } => *start,
        }
    }

    fn end(&self) -> Lsn {
        match self {
            Expected::Bytes(start, bytes) => Lsn::new(start.get() + bytes.len() as u64),
            Expected::Chunk { end, .. } => *end,
        }
    }
}

/// Compares a stream with what is expected of it.
pub(super) struct Proof {
    expected: Expected,
    at: Lsn,
    hasher: Option<Hasher>,
    differs: bool,
}

impl Proof {
    pub fn new(expected: Expected) -> Self {
        let hasher = match &expected {
            Expected::Bytes(..) => None,
            Expected::Chunk { key, .. } => Some(key.hasher()),
        };
        Self {
            at: expected.start(),
            expected,
            hasher,
            differs: false,
        }
    }

    /// Where the stream has to begin, or before.
    pub fn begins(&self) -> Lsn {
        self.expected.start()
    }

    /// Whether everything was compared and found equal.
    pub fn is_done(&self) -> bool {
        !self.differs && self.at >= self.expected.end()
    }

    /// Takes the bytes that follow in the stream, which begin at `start`; those that
    /// are not expected are passed over.
    ///
    /// # Errors
    /// They are others than expected.
    pub fn take(&mut self, start: Lsn, bytes: &[u8]) -> Result<(), Differs> {
        let skip = self.at.bytes_since(start).unwrap_or(0).min(bytes.len() as u64);
        let left = self.expected.end().bytes_since(self.at).unwrap_or(0);
        let bytes = &bytes[skip as usize..];
        let bytes = &bytes[..bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        if bytes.is_empty() {
            return Ok(());
        }
        let differs = Differs {
            from: self.expected.start(),
            to: self.expected.end(),
        };
        let offset = self.at.bytes_since(self.expected.start()).unwrap_or(0) as usize;
        self.at = Lsn::new(self.at.get() + bytes.len() as u64);
        let complete = self.at >= self.expected.end();
        self.differs |= match (&self.expected, &mut self.hasher) {
            (Expected::Bytes(_, wanted), _) => wanted[offset..offset + bytes.len()] != *bytes,
            (Expected::Chunk { id, .. }, Some(hasher)) => {
                hasher.update(bytes);
                complete && IndexKey::finish(hasher) != *id
            }
            (Expected::Chunk { .. }, None) => true,
        };
        if self.differs { Err(differs) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wal(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n * 7 % 251) as u8).collect()
    }

    /// Feeds what lies from `begin` on in pieces; what is said.
    fn feed(proof: &mut Proof, begin: u64, bytes: &[u8], pieces: &[usize]) -> Result<(), Differs> {
        let (mut at, mut rest) = (begin, bytes);
        for piece in pieces.iter().chain(std::iter::repeat(&17)) {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*piece).clamp(1, rest.len()));
            proof.take(Lsn::new(at), now)?;
            (at, rest) = (at + now.len() as u64, later);
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn the_same_wal_passes_and_any_other_byte_does_not(
            start in 0usize..200, length in 1usize..200, more in 0usize..100,
            pieces in proptest::collection::vec(1usize..90, 0..9), wrong in 0usize..200, as_chunk: bool,
        ) {
            let bytes = wal(start + length + more);
            let known = bytes[start..start + length].to_vec();
            let key = IndexKey::generate();
            let expected = if as_chunk {
                Expected::Chunk {
                    start: Lsn::new(start as u64),
                    end: Lsn::new((start + length) as u64),
                    id: key.content_id(&known),
                    key,
                }
            } else {
                Expected::Bytes(Lsn::new(start as u64), known)
            };
            let mut proof = Proof::new(expected.clone());
            prop_assert_eq!(feed(&mut proof, 0, &bytes, &pieces), Ok(()));
            prop_assert!(proof.is_done());

            let mut other = bytes.clone();
            other[start + wrong % length] ^= 1;
            let mut proof = Proof::new(expected.clone());
            prop_assert!(feed(&mut proof, 0, &other, &pieces).is_err());
            prop_assert!(!proof.is_done(), "other WAL is no proof, however far it goes");

            // What ends too early proves nothing.
            let mut proof = Proof::new(expected);
            prop_assert_eq!(feed(&mut proof, 0, &bytes[..start + length - 1], &pieces), Ok(()));
            prop_assert!(!proof.is_done());
        }
    }
}
