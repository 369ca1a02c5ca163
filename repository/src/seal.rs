//! Sealing: what only the holder of an identity can open again.
//!
//! Everything sealed is a standard age v1 file with X25519 recipients, so
//! `age -d -i IDENTITY` opens it without this program. age authenticates no
//! sender and binds a file to no name: that is the business of signatures
//! ([`crate::signed`]) and of digests in signed records.
//!
//! Secrets are wiped when dropped, never shown by `Debug`, and leave this
//! module as text only through functions whose names say so.
//!
//! The index key is kept here too, although it opens nothing: with it an agent
//! knows again what it has stored, without being able to read it.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use age::secrecy::ExposeSecret;
use holdfast_proto::names::{Epoch, KeyKind};
use holdfast_proto::{ContentId, Fingerprint, Sha256Digest};
use zeroize::Zeroizing;

use crate::secret_file::{self, SecretFileError};

mod stream;

pub use stream::SealWriter;

/// What sealing adds at most: header with up to a few recipients, nonce, and
/// room for age's random filler stanza. Per 64 KiB 16 more bytes are added.
const HEADER_ROOM: usize = 1024;

/// The most bytes that sealing `plain` bytes to one recipient yields.
pub const fn sealed_bound(plain: usize) -> usize {
    HEADER_ROOM + plain + (plain / (64 << 10) + 1) * 16
}

/// Something that could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Not an age recipient.
    #[error(
        "{0:?} is not an age X25519 recipient: it begins with age1 and is printed by `holdfast keys generate`"
    )]
    Recipient(String),
    /// Not an age identity file.
    #[error(
        "no age identity was found{at}: lines that begin with AGE-SECRET-KEY-1 are needed, comments begin with #"
    )]
    Identity {
        /// Where it was looked for.
        at: String,
    },
    /// Not an index key.
    #[error("this is not an index key: 64 hexadecimal digits are needed")]
    IndexKey,
    /// No recipient was given.
    #[error("nothing can be sealed to nobody: name at least one recipient")]
    NoRecipient,
    /// Sealed to others.
    #[error(
        "none of the identities given opens this: it is sealed to other keys, bring the identity of one of its recipients"
    )]
    WrongIdentity,
    /// Not an age file, or damaged, or truncated.
    #[error("the sealed bytes are damaged or truncated ({0}): take another copy")]
    Damaged(String),
    /// Larger than the reader allows.
    #[error("the sealed bytes open to more than {limit} bytes: they are not what belongs here")]
    TooLarge {
        /// The most that was allowed.
        limit: usize,
    },
    /// The key's file.
    #[error(transparent)]
    File(#[from] SecretFileError),
}

/// A public key to which something is sealed: `age1…`.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient {
    key: age::x25519::Recipient,
    text: String,
}

impl Recipient {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// SHA-256 over its text.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_recipient(&self.text)
    }
}

impl FromStr for Recipient {
    type Err = SealError;

    fn from_str(text: &str) -> Result<Self, SealError> {
        let bad = || SealError::Recipient(text.chars().take(80).collect());
        let key: age::x25519::Recipient = text.parse().map_err(|_| bad())?;
        // One spelling, one fingerprint.
        if key.to_string() != text {
            return Err(bad());
        }
        Ok(Self {
            key,
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({})", self.text)
    }
}

/// A secret key that opens what is sealed to its recipient.
#[derive(Clone)]
pub struct Identity {
    key: age::x25519::Identity,
    recipient: Recipient,
}

impl Identity {
    /// Makes a new one.
    pub fn generate() -> Self {
        Self::from_age(age::x25519::Identity::generate())
    }

    fn from_age(key: age::x25519::Identity) -> Self {
        let public = key.to_public();
        let recipient = Recipient {
            text: public.to_string(),
            key: public,
        };
        Self { key, recipient }
    }

    /// Its public half.
    pub fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    /// The secret as text, `AGE-SECRET-KEY-1…`, to be sealed or written to its
    /// owner's file.
    pub fn secret_text(&self) -> Zeroizing<String> {
        Zeroizing::new(self.key.to_string().expose_secret().to_owned())
    }

    /// Writes an identity file as `age-keygen` does: a comment with the public
    /// half, then the secret. 0600, never replaces one.
    pub fn save(&self, path: &Path) -> Result<(), SealError> {
        let text = Zeroizing::new(format!(
            "# public key: {}\n{}\n",
            self.recipient,
            &*self.secret_text()
        ));
        Ok(secret_file::write_new(path, &text)?)
    }
}

impl FromStr for Identity {
    type Err = SealError;

    fn from_str(text: &str) -> Result<Self, SealError> {
        text.trim()
            .parse()
            .map(Self::from_age)
            .map_err(|_| SealError::Identity { at: String::new() })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity(of {})", self.recipient)
    }
}

/// One or more identities, as a person or a drill holds them.
#[derive(Debug, Clone, Default)]
pub struct Identities(Vec<Identity>);

impl Identities {
    /// Reads an identity file: a line each, blank lines and `#` comments between.
    pub fn load(path: &Path) -> Result<Self, SealError> {
        Self::parse(&secret_file::read(path)?).map_err(|e| match e {
            SealError::Identity { .. } => SealError::Identity {
                at: format!(" in {}", path.display()),
            },
            other => other,
        })
    }

    /// Parses the text of an identity file.
    pub fn parse(text: &str) -> Result<Self, SealError> {
        let found = text
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
            .map(str::parse)
            .collect::<Result<Vec<Identity>, _>>()?;
        if found.is_empty() {
            return Err(SealError::Identity { at: String::new() });
        }
        Ok(Self(found))
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: Identities) {
        self.0.extend(other.0);
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Identity> {
        self.0.iter()
    }
}

impl From<Identity> for Identities {
    fn from(one: Identity) -> Self {
        Self(vec![one])
    }
}

impl<'a> IntoIterator for &'a Identities {
    type Item = &'a Identity;
    type IntoIter = std::slice::Iter<'a, Identity>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// Seals `plain` to every one of `recipients`.
pub fn seal(recipients: &[Recipient], plain: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut out = SealWriter::new(recipients, sealed_bound(plain.len()))?;
    out.push(plain);
    Ok(out.finish())
}

/// Opens a sealed file with whichever of `identities` fits. Yields at most
/// `limit` bytes, more is an error before anything is opened.
pub fn open<'a>(
    identities: impl IntoIterator<Item = &'a Identity>,
    sealed: &[u8],
    limit: usize,
) -> Result<Vec<u8>, SealError> {
    let mut plain = Vec::new();
    open_into(identities, sealed, limit, &mut plain)?;
    Ok(plain)
}

/// As [`open`], into a buffer that is used again: what it held is replaced. It
/// holds nothing that is of use after an error.
pub fn open_into<'a>(
    identities: impl IntoIterator<Item = &'a Identity>,
    sealed: &[u8],
    limit: usize,
    plain: &mut Vec<u8>,
) -> Result<(), SealError> {
    stream::open(
        identities.into_iter().map(|i| &i.key as &dyn age::Identity),
        sealed,
        limit,
        plain,
    )
}

/// The key of an epoch on the writer's side: it seals, and opens nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochKey {
    /// To whom packs and payloads are sealed.
    pub recipient: Recipient,
    /// Its fingerprint, by which key objects and sealed things name it.
    pub fingerprint: Fingerprint,
    /// The month.
    pub epoch: Epoch,
    /// What it opens.
    pub kind: KeyKind,
}

impl EpochKey {
    /// The public half of an epoch's identity.
    pub fn new(recipient: Recipient, epoch: Epoch, kind: KeyKind) -> Self {
        Self {
            fingerprint: recipient.fingerprint(),
            recipient,
            epoch,
            kind,
        }
    }

    /// Seals `plain` to this key.
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        seal(std::slice::from_ref(&self.recipient), plain)
    }
}

/// The text whose keyed digest gives the index key its fingerprint.
const INDEX_KEY_TEXT: &[u8] = b"holdfast-index-key";
/// The context that derives the key for paths, so that a path and a content of
/// the same bytes have different ids.
const PATH_CONTEXT: &str = "holdfast v1 path id";

/// The key under which identities of content and paths are made.
#[derive(Clone)]
pub struct IndexKey(Zeroizing<[u8; 32]>);

impl IndexKey {
    /// Makes a new one.
    pub fn generate() -> Self {
        Self(Zeroizing::new(rand::random()))
    }

    /// The identity of a piece of content: keyed BLAKE3, its first 16 bytes.
    pub fn content_id(&self, content: &[u8]) -> ContentId {
        cut(blake3::keyed_hash(&self.0, content))
    }

    /// The identity of a path (or of any name).
    pub fn path_id(&self, path: &[u8]) -> ContentId {
        let key = Zeroizing::new(blake3::derive_key(PATH_CONTEXT, &*self.0));
        cut(blake3::keyed_hash(&key, path))
    }

    /// For content that comes in pieces; ends with [`IndexKey::finish`].
    pub fn hasher(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(&self.0)
    }

    /// The identity of what `hasher` was fed.
    pub fn finish(hasher: &blake3::Hasher) -> ContentId {
        cut(hasher.finalize())
    }

    /// SHA-256 of the keyed BLAKE3 of `holdfast-index-key`.
    pub fn fingerprint(&self) -> Fingerprint {
        let keyed = blake3::keyed_hash(&self.0, INDEX_KEY_TEXT);
        Fingerprint::new(*Sha256Digest::of(keyed.as_bytes()).as_bytes())
    }

    /// The secret as 64 hexadecimal digits, to be sealed.
    pub fn secret_text(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(*self.0))
    }

    /// Reads it from the agent's state directory.
    pub fn load(path: &Path) -> Result<Self, SealError> {
        secret_file::read(path)?.parse()
    }

    /// Writes it to a new file, 0600.
    pub fn save(&self, path: &Path) -> Result<(), SealError> {
        let line = Zeroizing::new(format!("{}\n", &*self.secret_text()));
        Ok(secret_file::write_new(path, &line)?)
    }
}

fn cut(digest: blake3::Hash) -> ContentId {
    let mut id = [0; 16];
    id.copy_from_slice(&digest.as_bytes()[..16]);
    ContentId::new(id)
}

impl FromStr for IndexKey {
    type Err = SealError;

    fn from_str(text: &str) -> Result<Self, SealError> {
        let mut key = Zeroizing::new([0u8; 32]);
        hex::decode_to_slice(text.trim(), &mut *key).map_err(|_| SealError::IndexKey)?;
        Ok(Self(key))
    }
}

impl fmt::Debug for IndexKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IndexKey(fingerprint {})", self.fingerprint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn opens_what_it_sealed_and_nothing_else() {
        let (mine, other) = (Identity::generate(), Identity::generate());
        for size in [0usize, 1, 65_535, 65_536, 65_537, 300_000] {
            let plain: Vec<u8> = (0..size).map(|i| (i * 7) as u8).collect();
            let sealed = seal(&[mine.recipient().clone()], &plain).unwrap();
            assert!(sealed.len() <= sealed_bound(size));
            assert_eq!(open([&mine], &sealed, size).unwrap(), plain);
            assert!(matches!(
                open([&other], &sealed, size),
                Err(SealError::WrongIdentity)
            ));
            assert_eq!(open([&other, &mine], &sealed, size).unwrap(), plain);
            if size > 0 {
                assert!(matches!(
                    open([&mine], &sealed, size - 1),
                    Err(SealError::TooLarge { .. })
                ));
            }
            for cut in [1, 16, 17] {
                assert!(open([&mine], &sealed[..sealed.len() - cut], size).is_err());
            }
            let mut flipped = sealed.clone();
            *flipped.last_mut().unwrap() ^= 1;
            assert!(matches!(
                open([&mine], &flipped, size),
                Err(SealError::Damaged(_))
            ));
        }
        assert!(matches!(seal(&[], b"x"), Err(SealError::NoRecipient)));
        assert!(matches!(open([&mine], b"", 9), Err(SealError::Damaged(_))));
    }

    #[test]
    fn several_recipients_each_open() {
        let (a, b) = (Identity::generate(), Identity::generate());
        let sealed = seal(&[a.recipient().clone(), b.recipient().clone()], b"both").unwrap();
        assert_eq!(open([&a], &sealed, 10).unwrap(), b"both");
        assert_eq!(open([&b], &sealed, 10).unwrap(), b"both");
    }

    #[test]
    fn the_age_command_opens_ours_and_we_open_its() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::generate();
        identity.save(&dir.path().join("id")).unwrap();
        let plain: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(
            dir.path().join("ours"),
            seal(&[identity.recipient().clone()], &plain).unwrap(),
        )
        .unwrap();
        let run = |args: &[&str]| {
            let out = Command::new("age")
                .args(args)
                .current_dir(dir.path())
                .output()
                .expect("age is installed");
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            out.stdout
        };
        assert_eq!(run(&["-d", "-i", "id", "ours"]), plain);

        std::fs::write(dir.path().join("plain"), &plain).unwrap();
        let theirs = run(&["-r", identity.recipient().as_str(), "plain"]);
        let held = Identities::load(&dir.path().join("id")).unwrap();
        assert_eq!(open(&held, &theirs, plain.len()).unwrap(), plain);
    }

    #[test]
    fn secrets_round_trip_and_do_not_show() {
        let identity = Identity::generate();
        let text = identity.secret_text();
        assert_eq!(
            text.parse::<Identity>().unwrap().recipient(),
            identity.recipient()
        );
        assert!(!format!("{identity:?}").contains("SECRET"));
        assert!(Identities::parse("# nothing\n\n").is_err());
        let refused = Identities::parse(&format!("{}x\n", &*text))
            .unwrap_err()
            .to_string();
        assert!(
            !refused.contains(&text[20..40]),
            "an error must not show the secret: {refused}"
        );

        let key = IndexKey::generate();
        let again: IndexKey = key.secret_text().parse().unwrap();
        assert_eq!(again.content_id(b"a"), key.content_id(b"a"));
        assert_ne!(key.content_id(b"a"), key.path_id(b"a"));
        assert_ne!(key.content_id(b"a"), IndexKey::generate().content_id(b"a"));
        let mut hasher = key.hasher();
        hasher.update(b"ab").update(b"c");
        assert_eq!(IndexKey::finish(&hasher), key.content_id(b"abc"));
        assert!(!format!("{key:?}").contains(&*key.secret_text()));
        assert!("abc".parse::<IndexKey>().is_err());
        assert!(
            identity
                .recipient()
                .as_str()
                .to_uppercase()
                .parse::<Recipient>()
                .is_err()
        );
    }
}
