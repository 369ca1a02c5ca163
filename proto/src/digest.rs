//! Digests and the identities made of them.
//!
//! Ciphertext is named by SHA-256 because stores, `sha256sum` and plain Python
//! know it. Plaintext carries BLAKE3. Identities used for deduplication are
//! BLAKE3 keyed with a cluster's index key, so that they tell nothing to anyone
//! who does not hold it.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{self, SHA256};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A string that is not the hexadecimal form of the digest it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: {expected} hexadecimal digits, lower case, are needed")]
pub struct BadDigest {
    what: &'static str,
    expected: usize,
    text: String,
}

macro_rules! digest {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Wraps the raw bytes of the digest.
            pub const fn new(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Eight hexadecimal digits: enough for a person to recognise it.
            pub fn short(&self) -> String {
                hex::encode(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = BadDigest;

            fn from_str(text: &str) -> Result<Self, BadDigest> {
                let bad = || BadDigest { what: $what, expected: $len * 2, text: text.chars().take(100).collect() };
                if text.bytes().any(|b| b.is_ascii_uppercase()) {
                    return Err(bad());
                }
                let mut bytes = [0u8; $len];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| bad())?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

digest!(
    /// SHA-256 of stored bytes (ciphertext, or a whole object).
    Sha256Digest, 32, "SHA-256 digest"
);
digest!(
    /// BLAKE3 of plaintext (a block, a file).
    Blake3Digest, 32, "BLAKE3 digest"
);
digest!(
    /// Keyed BLAKE3, cut to 128 bits, of a piece of content or of a path: the
    /// opaque identity that deduplication compares. The key is the cluster's
    /// index key.
    ContentId, 16, "content id"
);
digest!(
    /// A key's fingerprint: SHA-256 over the DER SubjectPublicKeyInfo of a
    /// signing key, or over the text of an age recipient (`age1…`).
    Fingerprint, 32, "key fingerprint"
);

impl Sha256Digest {
    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from(aws_lc_rs::digest::digest(&SHA256, bytes))
    }
}

impl From<digest::Digest> for Sha256Digest {
    fn from(digest: digest::Digest) -> Self {
        Self(digest.as_ref().try_into().expect("SHA-256 is 32 bytes"))
    }
}

/// SHA-256 of bytes that come in pieces. It tells the digest of what came so far
/// and goes on, so that an object's payload is not hashed a second time for the
/// digest of the whole.
#[derive(Clone)]
pub struct Sha256Hasher(digest::Context);

impl Sha256Hasher {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self(digest::Context::new(&SHA256))
    }

    /// Takes the bytes that follow.
    pub fn update(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes);
        self
    }

    /// The digest of all that came so far.
    pub fn digest(&self) -> Sha256Digest {
        self.0.clone().finish().into()
    }
}

impl Default for Sha256Hasher {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Sha256Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256Hasher({})", self.digest())
    }
}

impl Fingerprint {
    /// The fingerprint of a DER SubjectPublicKeyInfo.
    pub fn of_spki(der: &[u8]) -> Self {
        Self(*Sha256Digest::of(der).as_bytes())
    }

    /// The fingerprint of an age recipient, from its text form `age1…`.
    pub fn of_recipient(recipient: &str) -> Self {
        Self(*Sha256Digest::of(recipient.as_bytes()).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_refuses() {
        let d = Sha256Digest::of(b"abc");
        assert_eq!(
            d.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(d.to_string().parse::<Sha256Digest>().unwrap(), d);
        let mut hasher = Sha256Hasher::new();
        assert_eq!(hasher.digest(), Sha256Digest::of(b""));
        assert_eq!(hasher.update(b"a").digest(), Sha256Digest::of(b"a"));
        assert_eq!(hasher.update(b"bc").digest(), d);
        assert!("BA".parse::<ContentId>().is_err());
        assert!("zz7816bf8f01cfea414140de5dae2223".parse::<ContentId>().is_err());
        assert!(d.to_string().to_uppercase().parse::<Sha256Digest>().is_err());
    }
}
