//! The DSSE envelope: a payload with its type and signatures over both.
//!
//! A signature covers the pre-authentication encoding of the payload's bytes as
//! they are stored; nothing is ever re-encoded to be verified. The envelope's
//! own JSON has exactly one accepted form (the one [`Envelope::to_bytes`]
//! writes), because its bytes become leaves of the log. `keyid` is the key's
//! [`Fingerprint`]; it tells which key to try and is not believed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use holdfast_proto::Fingerprint;
use serde::{Deserialize, Serialize};

use super::keys::{self, BadSignature, Signer};
use holdfast_repository::signing::VerifyingKey;

/// The payload type of in-toto statements.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";

/// Bytes that are not an envelope in its stored form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDsse {
    /// Not the JSON of an envelope.
    #[error("this is no DSSE envelope ({0}): fetch it again from the repository")]
    Json(String),
    /// JSON of an envelope, but not the bytes this program writes.
    #[error("the DSSE envelope is not in its stored form: its bytes were changed, fetch it again")]
    NotStoredForm,
}

/// A signature that an envelope lacks, or that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// The key has not signed.
    #[error("key {0} has not signed this envelope")]
    Missing(Fingerprint),
    /// The key's signature does not hold.
    #[error(transparent)]
    Bad(#[from] BadSignature),
}

/// One signature in an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvelopeSignature {
    /// The signing key's fingerprint.
    pub key: Fingerprint,
    /// The signature's bytes.
    pub sig: Vec<u8>,
}

/// A payload, its type, and who signed both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The media type of the payload.
    pub payload_type: String,
    /// The payload, exactly as signed.
    pub payload: Vec<u8>,
    /// The signatures, in the order in which they were added.
    pub signatures: Vec<EnvelopeSignature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<WireSignature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSignature {
    keyid: Fingerprint,
    sig: String,
}

/// The bytes that a DSSE signature covers:
/// `DSSEv1 <length of type> <type> <length of payload> <payload>`.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

impl Envelope {
    /// An envelope that nobody has signed yet.
    pub fn unsigned(payload_type: &str, payload: Vec<u8>) -> Self {
        Self {
            payload_type: payload_type.to_owned(),
            payload,
            signatures: Vec::new(),
        }
    }

    /// An envelope with one signature.
    pub fn signed(payload_type: &str, payload: Vec<u8>, signer: &dyn Signer) -> Self {
        let mut envelope = Self::unsigned(payload_type, payload);
        envelope.sign(signer);
        envelope
    }

    /// Adds a signature, in place of an earlier one by the same key.
    pub fn sign(&mut self, signer: &dyn Signer) {
        let signature = EnvelopeSignature {
            key: signer.fingerprint(),
            sig: signer.sign(&self.pae()),
        };
        self.add(signature);
    }

    /// Adds a signature that was made elsewhere, in place of an earlier one by
    /// the same key.
    pub fn add(&mut self, signature: EnvelopeSignature) {
        self.signatures.retain(|s| s.key != signature.key);
        self.signatures.push(signature);
    }

    /// The bytes that its signatures cover.
    pub fn pae(&self) -> Vec<u8> {
        pae(&self.payload_type, &self.payload)
    }

    /// The same payload with the signature of `key` alone, or `None` when that
    /// key has not signed.
    pub fn only(&self, key: Fingerprint) -> Option<Self> {
        let signature = self.signatures.iter().find(|s| s.key == key)?.clone();
        Some(Self {
            signatures: vec![signature],
            ..self.clone()
        })
    }

    /// Checks the signature of `key`.
    pub fn verify(&self, key: &VerifyingKey) -> Result<(), Unverified> {
        let id = key.fingerprint();
        let signature = self
            .signatures
            .iter()
            .find(|s| s.key == id)
            .ok_or(Unverified::Missing(id))?;
        Ok(keys::check(key, &self.pae(), &signature.sig)?)
    }

    /// The stored form: JSON without blanks, members in the order of their names.
    pub fn to_bytes(&self) -> Vec<u8> {
        let wire = Wire {
            payload: BASE64.encode(&self.payload),
            payload_type: self.payload_type.clone(),
            signatures: self
                .signatures
                .iter()
                .map(|s| WireSignature {
                    keyid: s.key,
                    sig: BASE64.encode(&s.sig),
                })
                .collect(),
        };
        serde_json::to_vec(&wire).expect("strings always serialise")
    }

    /// Reads the stored form, and no other.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadDsse> {
        let wire: Wire = serde_json::from_slice(bytes).map_err(|e| BadDsse::Json(e.to_string()))?;
        let decode = |text: &str| BASE64.decode(text).map_err(|e| BadDsse::Json(e.to_string()));
        let mut signatures = Vec::new();
        for signature in &wire.signatures {
            signatures.push(EnvelopeSignature {
                key: signature.keyid,
                sig: decode(&signature.sig)?,
            });
        }
        let envelope = Self {
            payload: decode(&wire.payload)?,
            payload_type: wire.payload_type,
            signatures,
        };
        if envelope.to_bytes() != bytes {
            return Err(BadDsse::NotStoredForm);
        }
        Ok(envelope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_repository::signing::SigningKey;

    /// The example in the DSSE protocol specification.
    #[test]
    fn encodes_as_the_specification_does() {
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
        assert_eq!(pae("", b""), b"DSSEv1 0  0 ");
    }

    #[test]
    fn carries_several_signatures() {
        let (runner, coordinator, stranger) = (
            SigningKey::generate_ed25519().unwrap(),
            SigningKey::generate_p256().unwrap(),
            SigningKey::generate_ed25519().unwrap(),
        );
        let mut envelope = Envelope::signed(IN_TOTO, b"{}".to_vec(), &runner);
        let leaf = envelope.to_bytes();
        envelope.sign(&coordinator);
        envelope.verify(runner.verifying()).unwrap();
        envelope.verify(coordinator.verifying()).unwrap();
        assert_eq!(
            envelope.verify(stranger.verifying()),
            Err(Unverified::Missing(stranger.fingerprint()))
        );
        assert_eq!(Envelope::parse(&envelope.to_bytes()).unwrap(), envelope);
        assert_eq!(envelope.only(runner.fingerprint()).unwrap().to_bytes(), leaf);

        let mut other = envelope.clone();
        other.payload = b"{ }".to_vec();
        assert!(matches!(
            other.verify(runner.verifying()),
            Err(Unverified::Bad(_))
        ));
        let mut retyped = envelope.clone();
        retyped.payload_type.push('x');
        assert!(matches!(
            retyped.verify(coordinator.verifying()),
            Err(Unverified::Bad(_))
        ));
    }

    /// No byte of the stored form can be changed without being noticed, be it
    /// a blank, a base64 bit that decodes to nothing, or a letter's case.
    #[test]
    fn every_changed_byte_is_refused() {
        let key = SigningKey::generate_ed25519().unwrap();
        let envelope = Envelope::signed(
            "application/vnd.holdfast.intent+json",
            b"{\"a\":1}".to_vec(),
            &key,
        );
        let bytes = envelope.to_bytes();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                let accepted = Envelope::parse(&changed).is_ok_and(|e| e.verify(key.verifying()).is_ok());
                assert!(!accepted, "byte {at} bit {bit} changed unnoticed");
            }
        }
        let spaced = String::from_utf8(bytes)
            .unwrap()
            .replace(",\"", ", \"")
            .into_bytes();
        assert_eq!(Envelope::parse(&spaced), Err(BadDsse::NotStoredForm));
    }
}
