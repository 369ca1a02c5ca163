//! The bytes of a signed object.
//!
//! ```text
//! payload | header line \n | signatures line \n | length of the two lines (u64, big endian) | "HFSIGNED"
//! ```
//!
//! The payload comes first so that `head -c N object | age -d | zstd -d` opens
//! it. The header is one line of JSON; signatures are made over
//! [`signing_input`] of exactly those bytes, so nothing is ever re-encoded to
//! be verified. The header carries the object's own key, the repository's id
//! and the payload's size and digest: an object served under another name, in
//! another repository, or with another payload does not verify.
//!
//! This module lays bytes out and takes them apart; keys and signatures are
//! the repository's business.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::names::{ObjectKey, RepositoryId};
use crate::{Fingerprint, Sha256Digest};

/// The last eight bytes of every signed object.
pub const MAGIC: &[u8; 8] = b"HFSIGNED";
/// Bytes of the tail: length and magic.
pub const TAIL: usize = 16;
/// Version of the layout described here.
pub const VERSION: u32 = 1;
/// The longest envelope that is accepted (16 MiB): what is larger belongs into packs.
pub const MAX_ENVELOPE: u64 = 16 << 20;
/// What precedes the header line in the bytes that are signed.
pub const CONTEXT: &[u8] = b"holdfast-signed-object-v1\n";

/// Where an object stands in a chain: the object before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Its key.
    pub key: ObjectKey,
    /// SHA-256 of its whole bytes.
    pub sha256: Sha256Digest,
}

/// The payload that precedes the envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payload {
    /// Bytes.
    pub size: u64,
    /// SHA-256 of those bytes.
    pub sha256: Sha256Digest,
    /// Fingerprint of the epoch key that it is sealed to; absent when it is in
    /// clear or empty.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sealed_to: Option<Fingerprint>,
}

/// The signed header of an object whose kind-specific part is `B`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header<B> {
    /// [`VERSION`].
    pub v: u32,
    /// The repository that the object belongs to.
    pub repository: RepositoryId,
    /// The object's own key.
    pub key: ObjectKey,
    /// What the body is: the record's name.
    pub kind: String,
    /// Number of the writer's lease, for objects written under one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lease: Option<u64>,
    /// The object before this one in the same stream by the same rules.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub previous: Option<Link>,
    /// The payload.
    pub payload: Payload,
    /// The record in clear.
    pub body: B,
}

/// One signature over [`signing_input`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// The signing key's fingerprint.
    pub key: Fingerprint,
    /// The signature, in base64 (Ed25519: 64 bytes; ECDSA P-256: ASN.1 DER).
    pub sig: String,
}

/// A signed object taken apart, nothing verified yet.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The payload's bytes.
    pub payload: &'a [u8],
    /// The header line without its newline.
    pub header: &'a [u8],
    /// The signatures line without its newline.
    pub signatures: &'a [u8],
}

/// Bytes that are not a signed object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEnvelope {
    /// The tail is missing: truncated, or another kind of object.
    #[error("the object does not end in a signed object's tail: it is truncated or not a signed object")]
    NoTail,
    /// The length in the tail does not fit the object.
    #[error("the envelope's length of {0} bytes does not fit the object")]
    Length(u64),
    /// The envelope is not two lines.
    #[error("the envelope is not a header line and a signatures line")]
    Lines,
    /// The header or the signatures are not the JSON they should be.
    #[error("the envelope's {part} cannot be read: {why}")]
    Json {
        /// Which line.
        part: &'static str,
        /// The parser's words.
        why: String,
    },
    /// A format version this program does not know.
    #[error("the object has format version {0}, this program reads version {VERSION}: use a newer holdfast")]
    Version(u32),
    /// The kind is not the one expected at this key.
    #[error("the object is a {found:?} where a {expected:?} belongs")]
    Kind {
        /// What stands there.
        found: String,
        /// What belongs there.
        expected: &'static str,
    },
}

/// The bytes that a signature covers: [`CONTEXT`] and the header line.
pub fn signing_input(header: &[u8]) -> Vec<u8> {
    [CONTEXT, header].concat()
}

/// Puts an object together. `header` is the JSON line without newline.
pub fn assemble(payload: &[u8], header: &[u8], signatures: &[Signature]) -> Vec<u8> {
    let mut object = payload.to_vec();
    append(&mut object, header, signatures);
    object
}

/// Puts an object together in the buffer that holds its payload.
pub fn append(payload: &mut Vec<u8>, header: &[u8], signatures: &[Signature]) {
    let signatures = serde_json::to_vec(signatures).expect("signatures are plain strings");
    let length = header.len() + signatures.len() + 2;
    payload.reserve_exact(length + TAIL);
    payload.extend_from_slice(header);
    payload.push(b'\n');
    payload.extend_from_slice(&signatures);
    payload.push(b'\n');
    payload.extend_from_slice(&(length as u64).to_be_bytes());
    payload.extend_from_slice(MAGIC);
}

/// The length of the envelope that a tail announces, for reading an object from
/// its end. `tail` is the object's last [`TAIL`] bytes.
pub fn envelope_length(tail: &[u8]) -> Result<u64, BadEnvelope> {
    let tail: &[u8; TAIL] = tail.try_into().map_err(|_| BadEnvelope::NoTail)?;
    if &tail[8..] != MAGIC {
        return Err(BadEnvelope::NoTail);
    }
    let length = u64::from_be_bytes(tail[..8].try_into().expect("eight bytes"));
    if !(4..=MAX_ENVELOPE).contains(&length) {
        return Err(BadEnvelope::Length(length));
    }
    Ok(length)
}

/// Takes an object apart.
pub fn split(object: &[u8]) -> Result<Parts<'_>, BadEnvelope> {
    let tail_at = object.len().checked_sub(TAIL).ok_or(BadEnvelope::NoTail)?;
    let length = envelope_length(&object[tail_at..])?;
    let start = usize::try_from(length)
        .ok()
        .and_then(|l| tail_at.checked_sub(l))
        .ok_or(BadEnvelope::Length(length))?;
    let envelope = object[start..tail_at]
        .strip_suffix(b"\n")
        .ok_or(BadEnvelope::Lines)?;
    let newline = envelope
        .iter()
        .position(|b| *b == b'\n')
        .ok_or(BadEnvelope::Lines)?;
    let (header, signatures) = (&envelope[..newline], &envelope[newline + 1..]);
    if signatures.contains(&b'\n') {
        return Err(BadEnvelope::Lines);
    }
    Ok(Parts {
        payload: &object[..start],
        header,
        signatures,
    })
}

impl Parts<'_> {
    /// The signatures, parsed.
    pub fn signatures(&self) -> Result<Vec<Signature>, BadEnvelope> {
        serde_json::from_slice(self.signatures).map_err(|e| BadEnvelope::Json {
            part: "signatures",
            why: e.to_string(),
        })
    }

    /// The header, parsed as a record of type `B`.
    pub fn header<B: Record>(&self) -> Result<Header<B>, BadEnvelope> {
        #[derive(Deserialize)]
        struct Probe {
            v: u32,
            kind: String,
        }
        let json = |e: serde_json::Error| BadEnvelope::Json {
            part: "header",
            why: e.to_string(),
        };
        let probe: Probe = serde_json::from_slice(self.header).map_err(json)?;
        if probe.v != VERSION {
            return Err(BadEnvelope::Version(probe.v));
        }
        if probe.kind != B::KIND {
            return Err(BadEnvelope::Kind {
                found: probe.kind,
                expected: B::KIND,
            });
        }
        serde_json::from_slice(self.header).map_err(json)
    }
}

/// A body that signed objects carry.
pub trait Record: Serialize + DeserializeOwned {
    /// The value of the header's `kind`.
    const KIND: &'static str;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn splits_what_it_assembled(payload in proptest::collection::vec(any::<u8>(), 0..400)) {
            let object = assemble(&payload, br#"{"v":1}"#, &[]);
            let parts = split(&object).unwrap();
            prop_assert_eq!(parts.payload, &payload[..]);
            prop_assert_eq!(parts.header, br#"{"v":1}"#);
            prop_assert!(parts.signatures().unwrap().is_empty());
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), length in any::<u64>()) {
            let _ = split(&bytes);
            let mut with_tail = bytes.clone();
            with_tail.extend_from_slice(&length.to_be_bytes());
            with_tail.extend_from_slice(MAGIC);
            let _ = split(&with_tail);
        }
    }
}
