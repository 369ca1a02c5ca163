//! Signatures taken out of the formats that hold them, ready for a command line.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use holdfast_proto::record::{KeyAlgorithm, TrustRole};
use holdfast_proto::{Fingerprint, envelope};
use holdfast_repository::signing::VerifyingKey;
use holdfast_repository::trust::Trust;

use super::ExportError;
use crate::evidence::dsse::Envelope;
use crate::evidence::tlog::SignedCheckpoint;
use crate::evidence::tlog::tiles::LogFile;

/// What the `openssl/` files are taken from.
pub(in crate::evidence) struct Loose<'a> {
    /// The statement with every signature.
    pub(in crate::evidence) statement: &'a Envelope,
    /// What was logged before it, by name.
    pub(in crate::evidence) before: Vec<(&'static str, &'a Envelope)>,
    pub(in crate::evidence) checkpoint: &'a SignedCheckpoint,
    pub(in crate::evidence) trust_records: &'a [Vec<u8>],
    pub(in crate::evidence) trust: &'a Trust,
}

/// A signature, what it covers and the key, ready for a command line.
pub(in crate::evidence) struct LooseSignature {
    what: String,
    by: String,
    key: VerifyingKey,
    message: Vec<u8>,
    signature: Vec<u8>,
}

impl LooseSignature {
    fn message_path(&self) -> String {
        format!("openssl/{}.signed", self.what)
    }

    fn signature_path(&self) -> String {
        format!("openssl/{}.{}.sig", self.what, self.by)
    }

    fn key_path(&self) -> String {
        format!("openssl/{}.pem", self.by)
    }

    pub(super) fn command(&self) -> String {
        let (key, sig, message) = (self.key_path(), self.signature_path(), self.message_path());
        match self.key.algorithm() {
            KeyAlgorithm::Ed25519 => {
                format!("openssl pkeyutl -verify -pubin -inkey {key} -rawin -in {message} -sigfile {sig}")
            }
            KeyAlgorithm::EcdsaP256 => {
                format!("openssl dgst -sha256 -verify {key} -signature {sig} {message}")
            }
        }
    }

    fn into_files(self) -> [(String, Vec<u8>); 3] {
        [
            (self.key_path(), self.key.to_pem().into_bytes()),
            (self.signature_path(), self.signature.clone()),
            (self.message_path(), self.message),
        ]
    }
}

/// The files of several signatures; what they share is there once.
pub(in crate::evidence) fn distinct(signatures: Vec<LooseSignature>) -> Vec<LogFile> {
    let files: BTreeMap<String, Vec<u8>> = signatures
        .into_iter()
        .flat_map(LooseSignature::into_files)
        .collect();
    files
        .into_iter()
        .map(|(path, bytes)| LogFile { path, bytes })
        .collect()
}

/// Every signature of an export, taken out of the formats that hold it.
pub(in crate::evidence) fn loose_files(from: &Loose<'_>) -> Result<Vec<LooseSignature>, ExportError> {
    let mut out = Vec::new();
    let known = |what: &'static str, key: Fingerprint| {
        let held = from.trust.key(&key).ok_or(ExportError::Stranger { what, key })?;
        let by = format!("{}-{}", held.role.as_str(), key.short());
        Ok::<_, ExportError>((by, held.verifying.clone()))
    };
    for (n, record) in from.trust_records.iter().enumerate() {
        let parts = envelope::split(record).map_err(|_| ExportError::TrustRecord(n))?;
        for signature in parts.signatures().map_err(|_| ExportError::TrustRecord(n))? {
            let (by, key) = known("a trust record", signature.key)?;
            out.push(LooseSignature {
                what: format!("trust-{n}"),
                by,
                key,
                message: envelope::signing_input(parts.header),
                signature: BASE64
                    .decode(&signature.sig)
                    .map_err(|_| ExportError::TrustRecord(n))?,
            });
        }
    }
    for (name, envelope) in from.before.iter().copied().chain([("statement", from.statement)]) {
        for signature in &envelope.signatures {
            let (by, key) = known(name, signature.key)?;
            out.push(LooseSignature {
                what: name.to_owned(),
                by,
                key,
                message: envelope.pae(),
                signature: signature.sig.clone(),
            });
        }
    }
    let log = log_key(from.trust, from.checkpoint);
    if let Some((fingerprint, key, signature)) = log {
        out.push(LooseSignature {
            what: "checkpoint".to_owned(),
            by: format!("coordinator-{}", fingerprint.short()),
            key,
            message: from.checkpoint.checkpoint().to_string().into_bytes(),
            signature,
        });
    }
    Ok(out)
}

/// The coordinator's key that signed a checkpoint, with its signature.
fn log_key(trust: &Trust, checkpoint: &SignedCheckpoint) -> Option<(Fingerprint, VerifyingKey, Vec<u8>)> {
    trust
        .keys()
        .filter(|(_, k)| k.role == TrustRole::Coordinator && k.algorithm == KeyAlgorithm::Ed25519)
        .find_map(|(fingerprint, k)| {
            let signature = checkpoint.signature_by(&k.verifying)?;
            Some((*fingerprint, k.verifying.clone(), signature))
        })
}
