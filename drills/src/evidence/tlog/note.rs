//! The signed note of C2SP: a text, a blank line, and signature lines.
//!
//! Signatures by unknown keys are ignored, as the specification demands; one
//! by a known key that does not hold refuses the whole note. Two Ed25519
//! signature types are known: the plain one, with which a log signs, and the
//! timestamped cosignature of a witness.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use holdfast_proto::{Fingerprint, Sha256Digest, Timestamp};

use crate::evidence::keys::{Signer, check, ed25519_from_raw, ed25519_raw};
use holdfast_repository::signing::VerifyingKey;

/// The most signature lines that are read.
const MAX_SIGNATURES: usize = 64;

/// Why a note was refused, or could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Not a note.
    #[error("this is no signed note: {0}")]
    Malformed(&'static str),
    /// A key's name that notes cannot carry.
    #[error("{0:?} cannot name a key: leave out blanks, '+' and control characters")]
    BadName(String),
    /// A verifier key that cannot be read.
    #[error("{0:?} is no verifier key: write it as NAME+HASH+KEY, as the log or the witness publishes it")]
    BadKey(String),
    /// The key cannot sign notes.
    #[error(
        "notes are signed with Ed25519 and this key is of another kind: enrol an Ed25519 key for the log"
    )]
    NotEd25519,
    /// No known key has signed.
    #[error("the note is not signed by {0}")]
    Unsigned(String),
    /// A known key's signature does not hold.
    #[error("the signature of {0} does not hold: the note was changed")]
    BadSignature(String),
}

/// What a key's signature in a note means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignatureKind {
    /// The signer made the text (type 0x01).
    Signature,
    /// The signer saw the text at a time, and a tree that grew into it (type 0x04).
    Cosignature,
}

impl SignatureKind {
    fn code(self) -> u8 {
        match self {
            SignatureKind::Signature => 0x01,
            SignatureKind::Cosignature => 0x04,
        }
    }
}

/// A key that is known to sign notes: `NAME+HASH+KEY` in text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteKey {
    name: String,
    kind: SignatureKind,
    key: VerifyingKey,
    raw: Vec<u8>,
}

impl NoteKey {
    /// A key under the name it signs with.
    pub fn new(name: &str, kind: SignatureKind, key: &VerifyingKey) -> Result<Self, NoteError> {
        let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
        if name.is_empty() || name.contains(bad) {
            return Err(NoteError::BadName(name.to_owned()));
        }
        let raw = ed25519_raw(key).ok_or(NoteError::NotEd25519)?.to_vec();
        Ok(Self {
            name: name.to_owned(),
            kind,
            key: key.clone(),
            raw,
        })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The fingerprint of the public key.
    pub fn fingerprint(&self) -> Fingerprint {
        self.key.fingerprint()
    }

    /// What its signatures mean.
    pub fn kind(&self) -> SignatureKind {
        self.kind
    }

    /// The first four bytes of SHA-256(name ‖ newline ‖ type ‖ key).
    pub fn id(&self) -> [u8; 4] {
        let input = [self.name.as_bytes(), b"\n", &[self.kind.code()], &self.raw].concat();
        let digest = Sha256Digest::of(&input);
        digest.as_bytes()[..4].try_into().expect("four of 32 bytes")
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), NoteError> {
        check(&self.key, message, signature).map_err(|_| NoteError::BadSignature(self.name.clone()))
    }
}

impl fmt::Display for NoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = BASE64.encode([&[self.kind.code()][..], &self.raw].concat());
        write!(f, "{}+{}+{key}", self.name, hex::encode(self.id()))
    }
}

impl FromStr for NoteKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let bad = || NoteError::BadKey(text.chars().take(200).collect());
        let mut parts = text.splitn(3, '+');
        let (name, id, key) = match (parts.next(), parts.next(), parts.next()) {
            (Some(name), Some(id), Some(key)) => (name, id, key),
            _ => return Err(bad()),
        };
        let bytes = BASE64.decode(key).map_err(|_| bad())?;
        let (code, raw) = bytes.split_first().ok_or_else(bad)?;
        let kind = match code {
            0x01 => SignatureKind::Signature,
            0x04 => SignatureKind::Cosignature,
            _ => return Err(bad()),
        };
        let key = Self::new(name, kind, &ed25519_from_raw(raw).ok_or_else(bad)?)?;
        if hex::encode(key.id()) != id {
            return Err(bad());
        }
        Ok(key)
    }
}

/// One signature line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    /// The key's name.
    pub name: String,
    /// The key's id.
    pub id: [u8; 4],
    /// The signature's bytes; for a cosignature, eight bytes of time come first.
    pub bytes: Vec<u8>,
}

/// A text with its signatures; nothing is verified by reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedNote {
    text: String,
    signatures: Vec<NoteSignature>,
}

impl SignedNote {
    /// A note that nobody has signed yet. `text` must end in a newline.
    pub fn new(text: String) -> Result<Self, NoteError> {
        if !text.ends_with('\n') || text.chars().any(|c| c.is_ascii_control() && c != '\n') {
            return Err(NoteError::Malformed(
                "its text must end in a newline and hold no control characters",
            ));
        }
        Ok(Self {
            text,
            signatures: Vec::new(),
        })
    }

    /// The text, with its last newline.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signature lines.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// Signs the text under `name`.
    pub fn sign(&mut self, name: &str, signer: &dyn Signer) -> Result<(), NoteError> {
        let key = NoteKey::new(name, SignatureKind::Signature, signer.verifying())?;
        self.push(&key, signer.sign(self.text.as_bytes()));
        Ok(())
    }

    /// Cosigns the text as a witness that saw it at `at` (cut to seconds).
    pub fn cosign(&mut self, name: &str, at: Timestamp, signer: &dyn Signer) -> Result<(), NoteError> {
        let key = NoteKey::new(name, SignatureKind::Cosignature, signer.verifying())?;
        let seconds = u64::try_from(at.unix_micros() / 1_000_000).unwrap_or(0);
        let signature = signer.sign(&cosigned_message(seconds, &self.text));
        self.push(&key, [&seconds.to_be_bytes()[..], &signature].concat());
        Ok(())
    }

    fn push(&mut self, key: &NoteKey, bytes: Vec<u8>) {
        self.signatures
            .retain(|s| (s.name.as_str(), s.id) != (key.name(), key.id()));
        self.signatures.push(NoteSignature {
            name: key.name.clone(),
            id: key.id(),
            bytes,
        });
    }

    /// The text with the line of `key` alone; `None` when there is none.
    pub fn only(&self, key: &NoteKey) -> Option<Self> {
        let mine = |s: &&NoteSignature| s.name == key.name && s.id == key.id();
        let line = self.signatures.iter().find(mine)?.clone();
        Some(Self {
            text: self.text.clone(),
            signatures: vec![line],
        })
    }

    /// Takes over the line of `key` from `other`, in place of an earlier one.
    pub(super) fn take_line(&mut self, other: &Self, key: &NoteKey) {
        if let Some(taken) = other.only(key) {
            self.signatures
                .retain(|s| (&s.name, s.id) != (&key.name, key.id()));
            self.signatures.extend(taken.signatures);
        }
    }

    /// Takes over the first line by `name` from `other`; whether there is one.
    pub(super) fn take_line_of(&mut self, other: &Self, name: &str) -> bool {
        let line = other.signatures.iter().find(|s| s.name == name).cloned();
        let found = line.is_some();
        self.signatures.extend(line);
        found
    }

    /// Checks that `key` has signed. Returns when it saw the text, if it is a
    /// witness's.
    pub fn verify(&self, key: &NoteKey) -> Result<Option<Timestamp>, NoteError> {
        let id = key.id();
        let mut seen = None;
        let mut found = false;
        for signature in self
            .signatures
            .iter()
            .filter(|s| s.name == key.name && s.id == id)
        {
            found = true;
            match key.kind {
                SignatureKind::Signature => key.verify(self.text.as_bytes(), &signature.bytes)?,
                SignatureKind::Cosignature => {
                    let bad = || NoteError::BadSignature(key.name.clone());
                    let (time, sig) = signature.bytes.split_first_chunk::<8>().ok_or_else(bad)?;
                    let seconds = u64::from_be_bytes(*time);
                    key.verify(&cosigned_message(seconds, &self.text), sig)?;
                    let micros = i64::try_from(seconds).ok().and_then(|s| s.checked_mul(1_000_000));
                    seen = Some(Timestamp::from_unix_micros(micros.ok_or_else(bad)?));
                }
            }
        }
        if found {
            Ok(seen)
        } else {
            Err(NoteError::Unsigned(key.name.clone()))
        }
    }

    /// Reads a note, in the one form that [`SignedNote`]'s `Display` writes.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        let whole = std::str::from_utf8(bytes).map_err(|_| NoteError::Malformed("it is not UTF-8"))?;
        let at = whole
            .rfind("\n\n")
            .ok_or(NoteError::Malformed("no blank line before the signatures"))?;
        let mut note = Self::new(whole[..=at].to_owned())?;
        let lines = whole[at + 2..]
            .strip_suffix('\n')
            .ok_or(NoteError::Malformed("it does not end in a newline"))?;
        for line in lines.split('\n') {
            note.signatures.push(signature_line(line)?);
        }
        if note.signatures.len() > MAX_SIGNATURES {
            return Err(NoteError::Malformed("it has too many signatures"));
        }
        Ok(note)
    }
}

fn signature_line(line: &str) -> Result<NoteSignature, NoteError> {
    let bad = NoteError::Malformed("a signature line is not '— NAME SIGNATURE'");
    let (name, sig) = line
        .strip_prefix("— ")
        .and_then(|l| l.split_once(' '))
        .ok_or(bad.clone())?;
    let bytes = BASE64.decode(sig).map_err(|_| bad.clone())?;
    let named = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+');
    match bytes.split_first_chunk::<4>() {
        Some((id, rest)) if named && !rest.is_empty() => Ok(NoteSignature {
            name: name.to_owned(),
            id: *id,
            bytes: rest.to_vec(),
        }),
        _ => Err(bad),
    }
}

/// What a witness signs: the time, then the text.
fn cosigned_message(seconds: u64, text: &str) -> Vec<u8> {
    format!("cosignature/v1\ntime {seconds}\n{text}").into_bytes()
}

impl fmt::Display for SignedNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        for s in &self.signatures {
            writeln!(
                f,
                "— {} {}",
                s.name,
                BASE64.encode([&s.id[..], &s.bytes].concat())
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_repository::signing::SigningKey;

    /// The key and the note in the documentation of Go's `sumdb/note`.
    #[test]
    fn verifies_a_note_made_by_another_implementation() {
        let key: NoteKey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
            .parse()
            .unwrap();
        let text = "If you think cryptography is the answer to your problem,\n\
                    then you don't know what your problem is.\n\n\
                    — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        let note = SignedNote::parse(text.as_bytes()).unwrap();
        assert_eq!(note.verify(&key).unwrap(), None);
        assert_eq!(note.to_string(), text);
        assert_eq!(key.to_string().parse::<NoteKey>().unwrap(), key);
        let changed = text.replace("answer", "Answer");
        assert!(matches!(
            SignedNote::parse(changed.as_bytes()).unwrap().verify(&key),
            Err(NoteError::BadSignature(_))
        ));
    }

    #[test]
    fn knows_a_log_from_its_witness() {
        let (log, witness) = (
            SigningKey::generate_ed25519().unwrap(),
            SigningKey::generate_ed25519().unwrap(),
        );
        let mut note = SignedNote::new("example.com/log\n7\nx\n".into()).unwrap();
        let at: Timestamp = "2026-11-21T14:00:00.5Z".parse().unwrap();
        note.sign("example.com/log", &log).unwrap();
        note.cosign("auditor.example", at, &witness).unwrap();
        let read = SignedNote::parse(note.to_string().as_bytes()).unwrap();
        assert_eq!(read, note);
        let key = |name, kind, key: &SigningKey| NoteKey::new(name, kind, key.verifying()).unwrap();
        use SignatureKind::{Cosignature, Signature};
        assert_eq!(
            read.verify(&key("example.com/log", Signature, &log)).unwrap(),
            None
        );
        let seen = read
            .verify(&key("auditor.example", Cosignature, &witness))
            .unwrap()
            .unwrap();
        assert_eq!(seen.to_string(), "2026-11-21T14:00:00.000000Z");
        for stranger in [
            key("example.com/log", Signature, &witness),
            key("example.com/log", Cosignature, &log),
            key("example.com/other", Signature, &log),
        ] {
            assert!(
                matches!(read.verify(&stranger), Err(NoteError::Unsigned(_))),
                "{stranger}"
            );
        }
        assert!(NoteKey::new("a b", Signature, log.verifying()).is_err());
        assert_eq!(
            NoteKey::new("a", Signature, SigningKey::generate_p256().unwrap().verifying()),
            Err(NoteError::NotEd25519)
        );
    }

    #[test]
    fn refuses_what_is_no_note() {
        for text in [
            "",
            "a\n",
            "a\n\n",
            "a\n\n— b\n",
            "a\n\n— b AAAA\n",
            "a\n\n— b AAAAAAAA",
            "a\tb\n\n— b AAAAAAAA\n",
        ] {
            assert!(SignedNote::parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(SignedNote::parse("a\n\n— b AAAAAAAA\n".as_bytes()).is_ok());
    }
}
