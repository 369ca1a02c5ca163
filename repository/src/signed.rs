//! Signed objects: writing them, and believing them.
//!
//! An object is believed only when *all* of this holds: its envelope is whole,
//! it is of this repository, it carries the very key under which it was asked
//! for, its payload has the size and digest of its header, every signature on
//! it verifies, and each signer is in the trust chain, in the right role, for
//! this cluster, and not revoked (or the object is one that the revocation
//! still believes). Nothing is read from a header before its signature holds,
//! except what is needed to find the signer.
//!
//! What may sign what is decided by the key's place in the layout
//! ([`expected_signer`]), not by the reader's mood.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use holdfast_proto::envelope::{self, BadEnvelope, Header, Link, Payload, Record, Signature};
use holdfast_proto::names::{ClusterId, ObjectKey, RepositoryId};
use holdfast_proto::record::TrustRole;
use holdfast_proto::{Fingerprint, Sha256Digest, Sha256Hasher};

use crate::layout::{self, Located};
use crate::signing::{SigningError, SigningKey, VerifyingKey};
use crate::trust::{SignerRefused, Trust};

mod reading;

pub use reading::ReadError;

/// The most signatures that an object may carry.
const MAX_SIGNATURES: usize = 8;

/// An object that is not believed.
#[derive(Debug, thiserror::Error)]
pub enum SignedError {
    /// Its bytes are not a signed object of the expected kind.
    #[error("{key} is not a whole signed object ({source}): take another copy")]
    Envelope {
        /// The key asked for.
        key: ObjectKey,
        /// What is wrong.
        source: BadEnvelope,
    },
    /// It was signed for another repository.
    #[error(
        "{key} belongs to repository {found}, this is {expected}: somebody copied it here, do not use it"
    )]
    OtherRepository {
        /// The key asked for.
        key: ObjectKey,
        /// Whose it is.
        found: RepositoryId,
        /// The repository that is read.
        expected: RepositoryId,
    },
    /// It was signed under another key.
    #[error("what lies at {asked} was signed as {found}: it was put in another's place, do not use it")]
    OtherName {
        /// The key asked for.
        asked: ObjectKey,
        /// The key in its header.
        found: ObjectKey,
    },
    /// The payload is not the one that was signed.
    #[error("the payload of {key} is not what was signed (size or SHA-256 differ): take another copy")]
    Payload {
        /// The key asked for.
        key: ObjectKey,
    },
    /// No signature, or more than an object may carry.
    #[error("{key} carries {count} signatures, 1 to {MAX_SIGNATURES} are needed: do not use it")]
    Count {
        /// The key asked for.
        key: ObjectKey,
        /// How many.
        count: usize,
    },
    /// A signature is not one by its key over this header.
    #[error("a signature on {key} does not hold: {source}")]
    Signature {
        /// The key asked for.
        key: ObjectKey,
        /// What is wrong.
        source: SigningError,
    },
    /// The signer is not to be believed for this object.
    #[error("{key} is not believed: {source}")]
    Signer {
        /// The key asked for.
        key: ObjectKey,
        /// Why.
        source: SignerRefused,
    },
    /// Nothing that is signed belongs at this key.
    #[error("{0} is not a place of signed objects: this is a defect of the program, report it")]
    NotSigned(ObjectKey),
}

impl SignedError {
    /// Whether the bytes themselves are damaged or misplaced, so that another
    /// copy may be good. A signer that is not believed is not damage.
    pub fn is_damage(&self) -> bool {
        !matches!(self, SignedError::Signer { .. } | SignedError::NotSigned(_))
    }
}

/// An object that was verified.
#[derive(Debug, Clone)]
pub struct Signed<B> {
    /// Its header.
    pub header: Header<B>,
    /// Its payload; shares the object's buffer.
    pub payload: Bytes,
    /// Who signed it (the first signature's key).
    pub signer: Fingerprint,
    /// SHA-256 of the whole object.
    pub sha256: Sha256Digest,
}

impl<B> Signed<B> {
    /// The record.
    pub fn body(&self) -> &B {
        &self.header.body
    }

    /// How other objects refer to this one.
    pub fn link(&self) -> Link {
        Link {
            key: self.header.key.clone(),
            sha256: self.sha256,
        }
    }
}

/// What precedes an envelope, in the buffer that the whole object will fill, and
/// hashed once: the digest of the object goes on from the payload's.
#[derive(Debug, Clone, Default)]
pub struct Content {
    bytes: Vec<u8>,
    hasher: Sha256Hasher,
}

impl Content {
    /// SHA-256 of it.
    pub fn sha256(&self) -> Sha256Digest {
        self.hasher.digest()
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        let mut hasher = Sha256Hasher::new();
        hasher.update(&bytes);
        Self { bytes, hasher }
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        bytes.to_vec().into()
    }
}

/// An object that was signed.
#[derive(Debug, Clone)]
pub struct SignedObject {
    /// Its bytes.
    pub bytes: Bytes,
    /// SHA-256 of them.
    pub sha256: Sha256Digest,
}

/// An object before it is signed.
#[derive(Debug, Clone)]
pub struct Draft<'a, B> {
    /// The repository it is for.
    pub repository: RepositoryId,
    /// Where it will lie.
    pub key: ObjectKey,
    /// What precedes the envelope, as stored (sealed, or in clear).
    pub payload: Content,
    /// The epoch key that the payload is sealed to.
    pub sealed_to: Option<Fingerprint>,
    /// The writer's lease.
    pub lease: Option<u64>,
    /// The object before it in its stream.
    pub previous: Option<Link>,
    /// The record.
    pub body: &'a B,
}

impl<B: Record + Clone> Draft<'_, B> {
    /// Signs it.
    pub fn sign(self, signer: &SigningKey) -> SignedObject {
        let Content {
            mut bytes,
            mut hasher,
        } = self.payload;
        let header = Header {
            v: envelope::VERSION,
            repository: self.repository,
            key: self.key,
            kind: B::KIND.to_owned(),
            lease: self.lease,
            previous: self.previous,
            payload: Payload {
                size: bytes.len() as u64,
                sha256: hasher.digest(),
                sealed_to: self.sealed_to,
            },
            body: self.body.clone(),
        };
        let line = serde_json::to_vec(&header).expect("records are plain values that always encode");
        let signature = Signature {
            key: signer.fingerprint(),
            sig: STANDARD.encode(signer.sign(&envelope::signing_input(&line))),
        };
        let envelope_at = bytes.len();
        envelope::append(&mut bytes, &line, &[signature]);
        SignedObject {
            sha256: hasher.update(&bytes[envelope_at..]).digest(),
            bytes: bytes.into(),
        }
    }
}

/// Who may sign the object at `key`, and for which cluster. `None` for objects
/// that are not signed in this form.
pub fn expected_signer(key: &ObjectKey) -> Option<(TrustRole, Option<ClusterId>)> {
    let located = layout::parse(key.as_str())?;
    let role = match &located {
        Located::Trust { .. } | Located::Authority { .. } => TrustRole::Root,
        Located::Key { .. }
        | Located::Lease { .. }
        | Located::Inflight { .. }
        | Located::Journal { .. }
        | Located::Bundle { .. }
        | Located::Wal { .. }
        | Located::History { .. }
        | Located::Frontier { .. }
        | Located::Base { .. }
        | Located::Point { .. } => TrustRole::Agent,
        Located::CoordinatorLease { .. } | Located::Invitation { .. } | Located::Redemption { .. } => {
            TrustRole::Coordinator
        }
        _ => return None,
    };
    Some((role, located.cluster().cloned()))
}

/// Verifies the object `bytes` that lies at `key`, by everything that the
/// module's head lists, and takes it apart.
pub fn verify<B: Record>(bytes: &Bytes, key: &ObjectKey, trust: &Trust) -> Result<Signed<B>, SignedError> {
    let (role, cluster) = expected_signer(key).ok_or_else(|| SignedError::NotSigned(key.clone()))?;
    open_object(bytes, key, trust.repository(), |_, signer, sha256| {
        trust
            .check_object(signer, &[role], cluster.as_ref(), sha256)
            .map(|k| k.verifying.clone())
    })
}

/// As [`verify`], with the keys that count chosen by `believe`, which sees the
/// header that nobody vouches for yet, the signer that it names, and the digest
/// of the whole object.
pub(crate) fn open_object<B: Record>(
    bytes: &Bytes,
    key: &ObjectKey,
    repository: RepositoryId,
    believe: impl Fn(&Header<B>, &Fingerprint, &Sha256Digest) -> Result<VerifyingKey, SignerRefused>,
) -> Result<Signed<B>, SignedError> {
    let bad = |source| SignedError::Envelope {
        key: key.clone(),
        source,
    };
    let parts = envelope::split(bytes).map_err(bad)?;
    let mut hasher = Sha256Hasher::new();
    let payload_sha256 = hasher.update(parts.payload).digest();
    let sha256 = hasher.update(&bytes[parts.payload.len()..]).digest();
    let believe = |header: &Header<B>, signer: &Fingerprint| believe(header, signer, &sha256);
    let (header, signer) = check_envelope(&parts, key, repository, believe)?;
    let payload = bytes.slice(..parts.payload.len());
    if header.payload.size != payload.len() as u64 || header.payload.sha256 != payload_sha256 {
        return Err(SignedError::Payload { key: key.clone() });
    }
    Ok(Signed {
        header,
        payload,
        signer,
        sha256,
    })
}

/// Checks everything but the payload.
fn check_envelope<B: Record>(
    parts: &envelope::Parts<'_>,
    key: &ObjectKey,
    repository: RepositoryId,
    believe: impl Fn(&Header<B>, &Fingerprint) -> Result<VerifyingKey, SignerRefused>,
) -> Result<(Header<B>, Fingerprint), SignedError> {
    let bad = |source| SignedError::Envelope {
        key: key.clone(),
        source,
    };
    let header: Header<B> = parts.header().map_err(bad)?;
    if header.repository != repository {
        return Err(SignedError::OtherRepository {
            key: key.clone(),
            found: header.repository,
            expected: repository,
        });
    }
    if header.key != *key {
        return Err(SignedError::OtherName {
            asked: key.clone(),
            found: header.key,
        });
    }
    let signatures = parts.signatures().map_err(bad)?;
    if signatures.is_empty() || signatures.len() > MAX_SIGNATURES {
        return Err(SignedError::Count {
            key: key.clone(),
            count: signatures.len(),
        });
    }
    let input = envelope::signing_input(parts.header);
    for signature in &signatures {
        let by = believe(&header, &signature.key).map_err(|source| SignedError::Signer {
            key: key.clone(),
            source,
        })?;
        let bytes = STANDARD
            .decode(&signature.sig)
            .map_err(|_| SigningError::BadSignature(signature.key));
        bytes
            .and_then(|sig| by.verify(&input, &sig))
            .map_err(|source| SignedError::Signature {
                key: key.clone(),
                source,
            })?;
    }
    Ok((header, signatures[0].key))
}

/// The header of an object whose payload was not read.
#[derive(Debug, Clone)]
pub struct SignedHeader<B> {
    /// The header.
    pub header: Header<B>,
    /// Who signed it.
    pub signer: Fingerprint,
}

/// Verifies the envelope that `end`, the last bytes of an object of `size`
/// bytes, holds. Says nothing about the payload's bytes. A revoked signer is
/// refused here even for objects that are still believed: that needs the whole
/// object ([`verify`]).
pub fn verify_header<B: Record>(
    end: &[u8],
    size: u64,
    key: &ObjectKey,
    trust: &Trust,
) -> Result<SignedHeader<B>, SignedError> {
    let (role, cluster) = expected_signer(key).ok_or_else(|| SignedError::NotSigned(key.clone()))?;
    let parts = envelope::split(end).map_err(|source| SignedError::Envelope {
        key: key.clone(),
        source,
    })?;
    let (header, signer) = check_envelope(&parts, key, trust.repository(), |_, signer| {
        trust
            .check(signer, &[role], cluster.as_ref())
            .map(|k| k.verifying.clone())
    })?;
    let envelope = (end.len() - parts.payload.len()) as u64;
    if size.checked_sub(envelope) != Some(header.payload.size) {
        return Err(SignedError::Payload { key: key.clone() });
    }
    Ok(SignedHeader { header, signer })
}

#[cfg(test)]
mod tests;
