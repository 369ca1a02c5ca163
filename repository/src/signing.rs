//! Signing keys and the keys that verify them: Ed25519 and ECDSA P-256.
//!
//! Keys are kept the way OpenSSL keeps them: private keys as PKCS#8 in PEM,
//! public keys as SubjectPublicKeyInfo in DER or PEM. What is signed here is
//! verified by `openssl pkeyutl -verify -rawin` (Ed25519) or
//! `openssl dgst -sha256 -verify` (P-256), and the other way round.
//!
//! A key is known by its fingerprint, SHA-256 over its DER
//! SubjectPublicKeyInfo. That form is accepted in one spelling only (for P-256
//! the uncompressed point), so that a key has one fingerprint.
//!
//! This module knows nothing of who is trusted: see [`crate::trust`].

use std::fmt;
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    ParsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_proto::Fingerprint;
use holdfast_proto::record::KeyAlgorithm;
use zeroize::Zeroizing;

use crate::secret_file::{self, SecretFileError};

/// DER up to the raw key: SEQUENCE, AlgorithmIdentifier 1.3.101.112, BIT STRING (RFC 8410).
const ED25519_SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
/// DER up to the point: id-ecPublicKey with prime256v1 (RFC 5480).
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A key that cannot be used, or a signature that does not hold.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// Not a PEM text of the wanted kind.
    #[error("this is not a PEM {wanted}: {why}")]
    Pem {
        /// What was wanted.
        wanted: &'static str,
        /// What is wrong and what to do.
        why: String,
    },
    /// A private key that is neither Ed25519 nor P-256.
    #[error(
        "the private key is neither Ed25519 nor ECDSA P-256 in PKCS#8: make one with `holdfast keys generate` or `openssl genpkey -algorithm ed25519`"
    )]
    PrivateKey,
    /// A public key that is neither Ed25519 nor P-256.
    #[error(
        "the public key is not a DER SubjectPublicKeyInfo of Ed25519 or of ECDSA P-256 (uncompressed): export it with `openssl pkey -pubout`"
    )]
    PublicKey,
    /// The random generator failed.
    #[error("the operating system gave no randomness to make a key: try again, then look at the machine")]
    Randomness,
    /// The signature is not one by this key over these bytes.
    #[error(
        "the signature does not verify with key {0}: the bytes or the signature were changed, do not use them"
    )]
    BadSignature(Fingerprint),
    /// The key's file.
    #[error(transparent)]
    File(#[from] SecretFileError),
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    EcdsaP256(EcdsaKeyPair),
}

/// A private signing key. Shows only its fingerprint.
pub struct SigningKey {
    pair: Pair,
    verifying: VerifyingKey,
}

impl SigningKey {
    /// Makes a new Ed25519 key.
    pub fn generate_ed25519() -> Result<Self, SigningError> {
        Ok(Self::from_pair(Pair::Ed25519(
            Ed25519KeyPair::generate().map_err(|_| SigningError::Randomness)?,
        )))
    }

    /// Makes a new ECDSA P-256 key.
    pub fn generate_p256() -> Result<Self, SigningError> {
        Ok(Self::from_pair(Pair::EcdsaP256(
            EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| SigningError::Randomness)?,
        )))
    }

    fn from_pair(pair: Pair) -> Self {
        let (algorithm, spki) = match &pair {
            Pair::Ed25519(k) => (
                KeyAlgorithm::Ed25519,
                [&ED25519_SPKI, k.public_key().as_ref()].concat(),
            ),
            Pair::EcdsaP256(k) => (
                KeyAlgorithm::EcdsaP256,
                [&P256_SPKI, k.public_key().as_ref()].concat(),
            ),
        };
        let verifying = VerifyingKey {
            algorithm,
            fingerprint: Fingerprint::of_spki(&spki),
            spki,
        };
        Self { pair, verifying }
    }

    /// Reads a PKCS#8 private key from PEM, as OpenSSL writes it.
    pub fn from_pem(pem: &str) -> Result<Self, SigningError> {
        if pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
            return Err(SigningError::Pem {
                wanted: "private key",
                why: "it is protected by a passphrase: remove it with `openssl pkcs8 -in KEY -out PLAIN`"
                    .to_owned(),
            });
        }
        let der = Zeroizing::new(pem_decode(pem, "PRIVATE KEY", "private key")?);
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der) {
            return Ok(Self::from_pair(Pair::Ed25519(pair)));
        }
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der)
            .map(|pair| Self::from_pair(Pair::EcdsaP256(pair)))
            .map_err(|_| SigningError::PrivateKey)
    }

    /// The private key as PKCS#8 (version 1, which OpenSSL reads) in PEM.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let der = match &self.pair {
            Pair::Ed25519(k) => k.to_pkcs8v1(),
            Pair::EcdsaP256(k) => k.to_pkcs8v1(),
        }
        .expect("a key pair in memory always encodes");
        Zeroizing::new(pem_encode("PRIVATE KEY", der.as_ref()))
    }

    /// Reads a key from a file that others may not read.
    pub fn load(path: &Path) -> Result<Self, SigningError> {
        Self::from_pem(&secret_file::read(path)?)
    }

    /// Writes the key to a new file, 0600. Refuses to replace one.
    pub fn save(&self, path: &Path) -> Result<(), SigningError> {
        Ok(secret_file::write_new(path, &self.to_pem())?)
    }

    /// The fingerprint of its public half.
    pub fn fingerprint(&self) -> Fingerprint {
        self.verifying.fingerprint
    }

    /// The scheme.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.verifying.algorithm
    }

    /// The public half.
    pub fn verifying(&self) -> &VerifyingKey {
        &self.verifying
    }

    /// Signs `message`: 64 bytes for Ed25519, ASN.1 DER for P-256 (over SHA-256).
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.pair {
            Pair::Ed25519(k) => k.sign(message).as_ref().to_vec(),
            Pair::EcdsaP256(k) => k
                .sign(&SystemRandom::new(), message)
                .expect("signing with a valid P-256 key fails only without randomness, which the key's making proved")
                .as_ref()
                .to_vec(),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.fingerprint())
    }
}

/// A public key that verifies signatures.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    algorithm: KeyAlgorithm,
    fingerprint: Fingerprint,
    spki: Vec<u8>,
}

impl VerifyingKey {
    /// From a DER SubjectPublicKeyInfo.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, SigningError> {
        let algorithm = if der.starts_with(&ED25519_SPKI) && der.len() == ED25519_SPKI.len() + 32 {
            KeyAlgorithm::Ed25519
        } else if der.starts_with(&P256_SPKI) && der.len() == P256_SPKI.len() + 65 {
            KeyAlgorithm::EcdsaP256
        } else {
            return Err(SigningError::PublicKey);
        };
        let key = Self {
            algorithm,
            fingerprint: Fingerprint::of_spki(der),
            spki: der.to_vec(),
        };
        key.parsed()?;
        Ok(key)
    }

    /// From a DER SubjectPublicKeyInfo in base64 (as in a trust record).
    pub fn from_base64(text: &str) -> Result<Self, SigningError> {
        Self::from_spki_der(&STANDARD.decode(text).map_err(|_| SigningError::PublicKey)?)
    }

    /// From a PEM `PUBLIC KEY`.
    pub fn from_pem(pem: &str) -> Result<Self, SigningError> {
        Self::from_spki_der(&pem_decode(pem, "PUBLIC KEY", "public key")?)
    }

    fn parsed(&self) -> Result<ParsedPublicKey, SigningError> {
        match self.algorithm {
            KeyAlgorithm::Ed25519 => ParsedPublicKey::new(&ED25519, &self.spki),
            KeyAlgorithm::EcdsaP256 => ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.spki),
        }
        .map_err(|_| SigningError::PublicKey)
    }

    /// The scheme.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// SHA-256 over the DER SubjectPublicKeyInfo.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The DER SubjectPublicKeyInfo.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// The DER SubjectPublicKeyInfo in base64.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(&self.spki)
    }

    /// PEM `PUBLIC KEY`.
    pub fn to_pem(&self) -> String {
        pem_encode("PUBLIC KEY", &self.spki)
    }

    /// Checks that `signature` is this key's over `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SigningError> {
        self.parsed()?
            .verify_sig(message, signature)
            .map_err(|_| SigningError::BadSignature(self.fingerprint))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", self.fingerprint)
    }
}

fn pem_encode(label: &str, der: &[u8]) -> String {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut out = String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40);
    out.push_str("-----BEGIN ");
    out.push_str(label);
    out.push_str("-----\n");
    for line in body.as_bytes().chunks(64) {
        out.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        out.push('\n');
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
    out
}

/// The first block labelled `label`; text around it is ignored (RFC 7468).
fn pem_decode(pem: &str, label: &str, wanted: &'static str) -> Result<Vec<u8>, SigningError> {
    let bad = |why: String| SigningError::Pem { wanted, why };
    let (begin, end) = (
        format!("-----BEGIN {label}-----"),
        format!("-----END {label}-----"),
    );
    let after = pem
        .split_once(&begin)
        .ok_or_else(|| {
            bad(format!(
                "a line {begin:?} is missing; convert it with `openssl pkey`"
            ))
        })?
        .1;
    let body = after
        .split_once(&end)
        .ok_or_else(|| bad(format!("a line {end:?} is missing")))?
        .0;
    let compact: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
    STANDARD
        .decode(compact.as_bytes())
        .map_err(|_| bad("its base64 is damaged".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn openssl(args: &[&str], dir: &Path) -> bool {
        let out = Command::new("openssl")
            .args(args)
            .current_dir(dir)
            .output()
            .expect("openssl is installed");
        if !out.status.success() {
            eprintln!("openssl {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        }
        out.status.success()
    }

    #[test]
    fn openssl_verifies_what_we_sign() {
        let dir = tempfile::tempdir().unwrap();
        let at = |n: &str| dir.path().join(n);
        for key in [
            SigningKey::generate_ed25519().unwrap(),
            SigningKey::generate_p256().unwrap(),
        ] {
            std::fs::write(at("msg"), b"a message").unwrap();
            std::fs::write(at("sig"), key.sign(b"a message")).unwrap();
            std::fs::write(at("pub.pem"), key.verifying().to_pem()).unwrap();
            std::fs::write(at("key.pem"), key.to_pem().as_bytes()).unwrap();
            assert!(openssl(
                &["pkey", "-in", "key.pem", "-pubout", "-out", "again.pem"],
                dir.path()
            ));
            assert_eq!(
                std::fs::read_to_string(at("again.pem")).unwrap(),
                key.verifying().to_pem()
            );
            let verify: &[&str] = match key.algorithm() {
                KeyAlgorithm::Ed25519 => &[
                    "pkeyutl", "-verify", "-pubin", "-inkey", "pub.pem", "-rawin", "-in", "msg", "-sigfile",
                    "sig",
                ],
                KeyAlgorithm::EcdsaP256 => &[
                    "dgst",
                    "-sha256",
                    "-verify",
                    "pub.pem",
                    "-signature",
                    "sig",
                    "msg",
                ],
            };
            assert!(openssl(verify, dir.path()));
            std::fs::write(at("msg"), b"A message").unwrap();
            assert!(!openssl(verify, dir.path()));
        }
    }

    #[test]
    fn we_verify_what_openssl_signs() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("msg"), b"a message").unwrap();
        for (make, sign) in [
            (
                vec!["genpkey", "-algorithm", "ed25519", "-out", "key.pem"],
                vec![
                    "pkeyutl", "-sign", "-inkey", "key.pem", "-rawin", "-in", "msg", "-out", "sig",
                ],
            ),
            (
                vec![
                    "genpkey",
                    "-algorithm",
                    "EC",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-out",
                    "key.pem",
                ],
                vec!["dgst", "-sha256", "-sign", "key.pem", "-out", "sig", "msg"],
            ),
        ] {
            assert!(openssl(&make, dir.path()));
            assert!(openssl(&sign, dir.path()));
            let key =
                SigningKey::from_pem(&std::fs::read_to_string(dir.path().join("key.pem")).unwrap()).unwrap();
            let sig = std::fs::read(dir.path().join("sig")).unwrap();
            key.verifying().verify(b"a message", &sig).unwrap();
            assert!(key.verifying().verify(b"a messagE", &sig).is_err());
        }
    }

    #[test]
    fn keys_round_trip_and_others_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (n, key) in [
            SigningKey::generate_ed25519().unwrap(),
            SigningKey::generate_p256().unwrap(),
        ]
        .into_iter()
        .enumerate()
        {
            let path = dir.path().join(format!("key{n}"));
            key.save(&path).unwrap();
            let again = SigningKey::load(&path).unwrap();
            assert_eq!(again.fingerprint(), key.fingerprint());
            let public = VerifyingKey::from_base64(&key.verifying().to_base64()).unwrap();
            assert_eq!(&public, again.verifying());
            assert_eq!(VerifyingKey::from_pem(&public.to_pem()).unwrap(), public);
            public.verify(b"m", &again.sign(b"m")).unwrap();
            let mut flipped = again.sign(b"m");
            flipped[10] ^= 1;
            assert!(matches!(
                public.verify(b"m", &flipped),
                Err(SigningError::BadSignature(_))
            ));
            assert!(!format!("{key:?}").contains("PRIVATE"));
            // A trailing byte or another spelling of the key is another fingerprint: refused.
            let longer = [public.spki_der(), &[0]].concat();
            assert!(VerifyingKey::from_spki_der(&longer).is_err());
        }
        assert!(SigningKey::from_pem("hello").is_err());
        assert!(
            SigningKey::from_pem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").is_err()
        );
        assert!(VerifyingKey::from_spki_der(&[0; 44]).is_err());
    }
}
