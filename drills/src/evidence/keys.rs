//! What a signer of evidence must offer.
//!
//! The keys themselves are the repository's
//! ([`holdfast_repository::signing`]). The seam is here because a
//! coordinator's key may live in a key management service, which signs but
//! never hands the key out. Nothing here makes, stores or reads a private key.

use holdfast_proto::Fingerprint;
use holdfast_proto::record::KeyAlgorithm;
use holdfast_repository::signing::{SigningKey, VerifyingKey};

/// Holds a private key, or the way to one, and signs with it.
pub trait Signer {
    /// The public half.
    fn verifying(&self) -> &VerifyingKey;

    /// Signs `message`. Ed25519 yields 64 bytes, ECDSA an ASN.1 DER structure.
    fn sign(&self, message: &[u8]) -> Vec<u8>;

    /// The fingerprint under which the trust chain knows the key.
    fn fingerprint(&self) -> Fingerprint {
        self.verifying().fingerprint()
    }
}

impl Signer for SigningKey {
    fn verifying(&self) -> &VerifyingKey {
        SigningKey::verifying(self)
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        SigningKey::sign(self, message)
    }
}

/// A signature that does not belong to these bytes and this key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature by key {key} does not verify: the signed bytes or the signature were changed")]
pub struct BadSignature {
    /// The key it claims.
    pub key: Fingerprint,
}

/// Checks `signature` over `message` by `key`.
pub fn check(key: &VerifyingKey, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
    key.verify(message, signature).map_err(|_| BadSignature {
        key: key.fingerprint(),
    })
}

/// DER that precedes the 32 bytes of an Ed25519 key (RFC 8410).
const ED25519_SPKI: &[u8] = &[
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// The 32 bytes of an Ed25519 key; `None` for another scheme.
pub fn ed25519_raw(key: &VerifyingKey) -> Option<&[u8]> {
    match key.algorithm() {
        KeyAlgorithm::Ed25519 => key.spki_der().strip_prefix(ED25519_SPKI),
        KeyAlgorithm::EcdsaP256 => None,
    }
}

/// The Ed25519 key of 32 bytes, as signed notes carry it.
pub fn ed25519_from_raw(raw: &[u8]) -> Option<VerifyingKey> {
    VerifyingKey::from_spki_der(&[ED25519_SPKI, raw].concat()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_keys_come_back() {
        let key = SigningKey::generate_ed25519().unwrap();
        let raw = ed25519_raw(key.verifying()).unwrap();
        assert_eq!(raw.len(), 32);
        assert_eq!(ed25519_from_raw(raw).unwrap(), *key.verifying());
        assert!(ed25519_raw(SigningKey::generate_p256().unwrap().verifying()).is_none());
        assert!(ed25519_from_raw(&raw[1..]).is_none());
    }
}
