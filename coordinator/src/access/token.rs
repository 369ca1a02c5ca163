//! Static tokens: random, shown once, kept as a hash.
//!
//! A token is 256 bits from the system's generator, so that nobody guesses one
//! and its SHA-256 is as good a hash as a slow one: slow hashes protect secrets
//! that people choose, and nobody chooses these. A hash in the configuration lets
//! nobody in.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_proto::Sha256Digest;
use rand::TryRngCore;
use zeroize::Zeroizing;

/// What every token begins with, so that scanners for secrets find one that
/// leaked.
const PREFIX: &str = "hft_";

/// What the tokens of invitations begin with: they let nobody read anything.
const INVITATION: &str = "hfi_";

/// 256 bits that nobody guesses, as 43 letters, digits, `-` and `_`.
///
/// # Errors
/// The system gives no randomness, in words.
pub fn random() -> Result<String, String> {
    let mut bytes = Zeroizing::new([0u8; 32]);
    rand::rngs::OsRng
        .try_fill_bytes(&mut bytes[..])
        .map_err(|e| format!("the system gives no randomness: {e}"))?;
    Ok(URL_SAFE_NO_PAD.encode(&bytes[..]))
}

/// A token that was just made.
pub struct Token(Zeroizing<String>);

impl Token {
    /// A new one.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn generate() -> Result<Self, String> {
        Self::beginning(PREFIX)
    }

    /// A new one with which an agent comes to its certificate.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn invitation() -> Result<Self, String> {
        Self::beginning(INVITATION)
    }

    fn beginning(prefix: &str) -> Result<Self, String> {
        let random = Zeroizing::new(random()?);
        Ok(Self(Zeroizing::new(format!("{prefix}{}", random.as_str()))))
    }

    /// The token itself. Show it once.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What the configuration keeps of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The SHA-256 of an invitation's token, under which it is looked for; `None` when the
/// text is no such token, so that nothing is asked of the repository for it. As with
/// [`TokenHash::of`], what the time that it takes says is about the hash alone.
pub fn invited(presented: &str) -> Option<Sha256Digest> {
    let random = presented.strip_prefix(INVITATION)?;
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(random).ok()?);
    (bytes.len() == 32).then(|| Sha256Digest::of(presented.as_bytes()))
}

/// The hash of a token: `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenHash(Sha256Digest);

impl TokenHash {
    /// Of what somebody presented. Found by its hash, a token cannot be felt for
    /// byte by byte: what an attacker learns from timing is of a hash that they
    /// cannot steer.
    pub fn of(token: &str) -> Self {
        Self(Sha256Digest::of(token.as_bytes()))
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TokenHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with(PREFIX) {
            // Not repeated: the message goes into logs.
            return Err(
                "this is a token, not its hash: it is to be replaced by a new one, because it was \
                        written down. `holdfast coordinator token` makes one and prints the hash"
                    .to_owned(),
            );
        }
        let digest = text.strip_prefix("sha256:").and_then(|hex| hex.parse().ok());
        digest.map(Self).ok_or_else(|| {
            "must be \"sha256:\" and 64 hexadecimal digits: `holdfast coordinator token` prints it".to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_are_not_shown() {
        let (one, two) = (Token::generate().unwrap(), Token::generate().unwrap());
        assert_ne!(one.reveal(), two.reveal());
        assert!(
            one.reveal().starts_with("hft_") && one.reveal().len() == 4 + 43,
            "{}",
            one.reveal()
        );
        assert!(!format!("{one:?}").contains(&one.reveal()[4..]));
        assert_eq!(one.hash(), TokenHash::of(one.reveal()));
        assert_ne!(one.hash(), two.hash());
    }

    #[test]
    fn an_invitations_token_is_told_from_others() {
        let token = Token::invitation().unwrap();
        let text = token.reveal();
        assert_eq!(invited(text), Some(Sha256Digest::of(text.as_bytes())));
        let reader = Token::generate().unwrap();
        for bad in [
            "",
            "hfi_",
            &text[..46],
            &format!("{text}A"),
            reader.reveal(),
            &text[4..],
        ] {
            assert_eq!(invited(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_hash_is_that_of_sha256sum() {
        let hash = TokenHash::of("abc").to_string();
        assert_eq!(
            hash,
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(hash.parse(), Ok(TokenHash::of("abc")));
        for bad in [
            "",
            "abc",
            "sha256:",
            "sha256:12",
            "md5:ba7816bf8f01cfea414140de5dae2223",
        ] {
            assert!(bad.parse::<TokenHash>().is_err(), "{bad}");
        }
        let token = Token::generate().unwrap();
        let said = token.reveal().parse::<TokenHash>().unwrap_err();
        assert!(
            said.contains("not its hash") && !said.contains(token.reveal()),
            "{said}"
        );
    }
}
