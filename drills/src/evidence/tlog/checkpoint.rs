//! A checkpoint: the log's name, its size and its root, as a signed note.
//!
//! The log signs every checkpoint it publishes; a witness cosigns one after it
//! has seen that the tree only grew. A checkpoint read from bytes says nothing
//! until [`SignedCheckpoint::verify`] has accepted it.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use holdfast_proto::{Sha256Digest, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::note::{NoteError, NoteKey, SignatureKind, SignedNote};
use crate::evidence::keys::Signer;
use holdfast_repository::signing::VerifyingKey;

/// Why a checkpoint was refused, or could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not the text of a checkpoint.
    #[error("this is no checkpoint: {0}; fetch it again from the log")]
    Malformed(&'static str),
    /// A name that no log may have.
    #[error("{0:?} cannot name a log: use a path like example.com/log, without blanks or '+'")]
    BadOrigin(String),
    /// The note around it is at fault.
    #[error(transparent)]
    Note(#[from] NoteError),
}

/// The name of a log: the first line of its checkpoints, and its key's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LogOrigin(String);

impl LogOrigin {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key under which the log signs its checkpoints.
    pub fn key(&self, public: &VerifyingKey) -> Result<NoteKey, NoteError> {
        NoteKey::new(&self.0, SignatureKind::Signature, public)
    }
}

impl fmt::Display for LogOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for LogOrigin {
    type Err = CheckpointError;

    fn from_str(text: &str) -> Result<Self, CheckpointError> {
        let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
        if text.is_empty() || text.len() > 255 || text.contains(bad) {
            return Err(CheckpointError::BadOrigin(text.chars().take(100).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Serialize for LogOrigin {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for LogOrigin {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// A tree head in words: origin, size, root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: LogOrigin,
    /// Entries in it.
    pub size: u64,
    /// The root over them.
    pub root: Sha256Digest,
    /// Further lines, opaque.
    pub extensions: Vec<String>,
}

impl Checkpoint {
    /// A tree head without extension lines.
    pub fn new(origin: LogOrigin, size: u64, root: Sha256Digest) -> Self {
        Self {
            origin,
            size,
            root,
            extensions: Vec::new(),
        }
    }

    fn parse(text: &str) -> Result<Self, CheckpointError> {
        let malformed = CheckpointError::Malformed;
        let mut lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
        let origin = lines.next().unwrap_or_default().parse()?;
        let size_line = lines.next().ok_or(malformed("the size is missing"))?;
        let size: u64 = size_line
            .parse()
            .map_err(|_| malformed("the size is not a number"))?;
        if size.to_string() != size_line {
            return Err(malformed("the size is not in plain decimal"));
        }
        let root = lines.next().ok_or(malformed("the root is missing"))?;
        let root = decode_hash(root).ok_or(malformed("the root is not 32 bytes in base64"))?;
        let extensions: Vec<String> = lines.map(str::to_owned).collect();
        if extensions.iter().any(String::is_empty) {
            return Err(malformed("an extension line is empty"));
        }
        Ok(Self {
            origin,
            size,
            root,
            extensions,
        })
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, encode_hash(&self.root))?;
        self.extensions.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// A hash in the base64 that checkpoints and proofs are written in.
pub(super) fn encode_hash(hash: &Sha256Digest) -> String {
    BASE64.encode(hash.as_bytes())
}

pub(super) fn decode_hash(text: &str) -> Option<Sha256Digest> {
    Some(Sha256Digest::new(BASE64.decode(text).ok()?.try_into().ok()?))
}

/// A checkpoint with its signature lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    note: SignedNote,
}

impl SignedCheckpoint {
    /// Signs a tree head as the log itself.
    pub fn sign(checkpoint: Checkpoint, signer: &dyn Signer) -> Result<Self, CheckpointError> {
        let mut note = SignedNote::new(checkpoint.to_string())?;
        note.sign(checkpoint.origin.as_str(), signer)?;
        Ok(Self { checkpoint, note })
    }

    /// Adds a witness's cosignature, made under `name` at `at`.
    pub fn cosign(&mut self, name: &str, at: Timestamp, signer: &dyn Signer) -> Result<(), CheckpointError> {
        Ok(self.note.cosign(name, at, signer)?)
    }

    /// The tree head. Believe it only after [`SignedCheckpoint::verify`].
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Names on the signature lines other than the log's own; nothing is
    /// verified about them.
    pub fn cosigners(&self) -> impl Iterator<Item = &str> {
        let own = self.checkpoint.origin.as_str();
        self.note
            .signatures()
            .iter()
            .map(|s| s.name.as_str())
            .filter(move |name| *name != own)
    }

    /// How many signature lines bear the log's name.
    pub fn own_lines(&self) -> usize {
        self.note.signatures().len() - self.cosigners().count()
    }

    /// The text with the line of `witness` alone: what a witness hands out.
    pub fn cosignature_of(&self, witness: &NoteKey) -> Option<SignedNote> {
        self.note.only(witness)
    }

    /// Takes over the line of `witness` out of a note on the same text.
    ///
    /// # Errors
    /// The note is on another text, or the witness has not signed it.
    pub fn add_cosignature(&mut self, note: &[u8], witness: &NoteKey) -> Result<Timestamp, CheckpointError> {
        let other = SignedNote::parse(note)?;
        if other.text() != self.note.text() {
            return Err(CheckpointError::Malformed("the cosignature is on another one"));
        }
        let seen = other
            .verify(witness)?
            .ok_or_else(|| NoteError::Unsigned(witness.name().to_owned()))?;
        self.note.take_line(&other, witness);
        Ok(seen)
    }

    /// Takes over the line by `name` out of a note on the same text, unverified.
    /// Returns whether there is one.
    pub fn take_line_of(&mut self, note: &[u8], name: &str) -> bool {
        SignedNote::parse(note)
            .is_ok_and(|other| other.text() == self.note.text() && self.note.take_line_of(&other, name))
    }

    /// Checks the log's signature, by the key that is known to be the log's.
    pub fn verify(&self, log: &VerifyingKey) -> Result<(), CheckpointError> {
        self.note.verify(&self.checkpoint.origin.key(log)?)?;
        Ok(())
    }

    /// The log's signature, if `log` has made it: its bytes without the key id.
    pub fn signature_by(&self, log: &VerifyingKey) -> Option<Vec<u8>> {
        let key = self.checkpoint.origin.key(log).ok()?;
        self.note.verify(&key).ok()?;
        let made = |s: &&super::note::NoteSignature| s.name == key.name() && s.id == key.id();
        self.note.signatures().iter().find(made).map(|s| s.bytes.clone())
    }

    /// Checks a witness's cosignature and returns when it saw the log like this.
    pub fn witnessed(&self, witness: &NoteKey) -> Result<Timestamp, CheckpointError> {
        let seen = self.note.verify(witness)?;
        Ok(seen.ok_or_else(|| NoteError::Unsigned(witness.name().to_owned()))?)
    }

    /// Reads a checkpoint.
    pub fn parse(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let note = SignedNote::parse(bytes)?;
        Ok(Self {
            checkpoint: Checkpoint::parse(note.text())?,
            note,
        })
    }

    /// The bytes to store.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.note.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_repository::signing::SigningKey;

    fn head() -> Checkpoint {
        Checkpoint::new("example.com/log".parse().unwrap(), 12, Sha256Digest::of(b"root"))
    }

    #[test]
    fn signs_reads_and_verifies() {
        let (log, witness, other) = (
            SigningKey::generate_ed25519().unwrap(),
            SigningKey::generate_ed25519().unwrap(),
            SigningKey::generate_ed25519().unwrap(),
        );
        let mut signed = SignedCheckpoint::sign(head(), &log).unwrap();
        signed
            .cosign(
                "auditor.example",
                "2026-11-21T14:00:00Z".parse().unwrap(),
                &witness,
            )
            .unwrap();
        let read = SignedCheckpoint::parse(&signed.to_bytes()).unwrap();
        assert_eq!((&read, read.checkpoint()), (&signed, &head()));
        read.verify(log.verifying()).unwrap();
        assert!(read.verify(other.verifying()).is_err());
        assert_eq!(read.cosigners().collect::<Vec<_>>(), ["auditor.example"]);
        let key = NoteKey::new("auditor.example", SignatureKind::Cosignature, witness.verifying()).unwrap();
        assert_eq!(
            read.witnessed(&key).unwrap(),
            "2026-11-21T14:00:00Z".parse().unwrap()
        );
        assert!(SignedCheckpoint::sign(head(), &SigningKey::generate_p256().unwrap()).is_err());
    }

    #[test]
    fn every_changed_byte_is_refused() {
        let log = SigningKey::generate_ed25519().unwrap();
        let bytes = SignedCheckpoint::sign(head(), &log).unwrap().to_bytes();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                let accepted =
                    SignedCheckpoint::parse(&changed).is_ok_and(|c| c.verify(log.verifying()).is_ok());
                assert!(!accepted, "byte {at} bit {bit} changed unnoticed");
            }
        }
    }

    #[test]
    fn refuses_what_is_no_checkpoint() {
        let root = encode_hash(&Sha256Digest::of(b""));
        for text in [
            "log\n".to_owned(),
            "log\n01\n".to_owned() + &root + "\n",
            "log\n1\nAAAA\n".to_owned(),
            format!("a log\n1\n{root}\n"),
            format!("log\n-1\n{root}\n"),
            format!("log\n1\n{root}\n\nx\n"),
        ] {
            assert!(Checkpoint::parse(&text).is_err(), "{text:?}");
        }
        assert!(Checkpoint::parse(&format!("log\n1\n{root}\nextension\n")).is_ok());
    }
}
