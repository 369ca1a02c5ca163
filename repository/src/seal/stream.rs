//! The body of an age file: 64 KiB chunks of ChaCha20-Poly1305, in place.
//!
//! The age crate makes and reads the header: recipients' stanzas, file key,
//! MAC. The body is made here, because packs are most of what this program
//! moves: in one buffer, without a copy, with the AEAD that the signatures'
//! library has anyway. It is the STREAM construction of the age v1
//! specification (c2sp.org/age): key = HKDF-SHA-256(file key, nonce,
//! "payload"); chunk nonce = 11 bytes of counter, one byte that is 1 for the
//! last chunk; the last chunk is empty only when the whole plaintext is. Tests
//! compare both directions with the age crate and the `age` command.

use std::cell::RefCell;
use std::collections::HashSet;

use age::secrecy::ExposeSecret;
use age_core::format::{FileKey, Stanza};
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

use super::{Recipient, SealError};

/// Plaintext of a chunk.
const CHUNK: usize = 64 << 10;
/// Its authentication tag.
const TAG: usize = 16;
/// The nonce between header and body.
const NONCE: usize = 16;
/// What begins the last line of the header.
const MAC_LINE: &[u8] = b"\n--- ";

type Secret = Zeroizing<[u8; 16]>;

/// Lets the file key be seen while a header is made or read.
struct Seen<'a, T: ?Sized> {
    inner: &'a T,
    file_key: &'a RefCell<Option<Secret>>,
}

impl<T: ?Sized> Seen<'_, T> {
    fn note(&self, key: &FileKey) {
        *self.file_key.borrow_mut() = Some(Zeroizing::new(*key.expose_secret()));
    }
}

impl age::Recipient for Seen<'_, age::x25519::Recipient> {
    fn wrap_file_key(&self, key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        self.note(key);
        self.inner.wrap_file_key(key)
    }
}

impl age::Identity for Seen<'_, dyn age::Identity + '_> {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, age::DecryptError>> {
        let unwrapped = self.inner.unwrap_stanza(stanza);
        if let Some(Ok(key)) = &unwrapped {
            self.note(key);
        }
        unwrapped
    }
}

fn body_key(file_key: &Secret, nonce: &[u8]) -> LessSafeKey {
    let okm = Salt::new(HKDF_SHA256, nonce).extract(&**file_key);
    let okm = okm
        .expand(&[b"payload"], &CHACHA20_POLY1305)
        .expect("32 bytes are within HKDF's bound");
    LessSafeKey::new(UnboundKey::from(okm))
}

fn chunk_nonce(counter: u64, last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce[3..11].copy_from_slice(&counter.to_be_bytes());
    nonce[11] = u8::from(last);
    Nonce::assume_unique_for_key(nonce)
}

/// An age file while it is written: what is pushed is sealed in memory.
pub struct SealWriter {
    out: Vec<u8>,
    key: LessSafeKey,
    /// Where the open chunk begins in `out`.
    chunk: usize,
    counter: u64,
}

impl SealWriter {
    /// Begins a file for `recipients`. `capacity` is the size expected, sealed.
    pub fn new(recipients: &[Recipient], capacity: usize) -> Result<Self, SealError> {
        let file_key = RefCell::new(None);
        let seen: Vec<_> = recipients
            .iter()
            .map(|r| Seen {
                inner: &r.key,
                file_key: &file_key,
            })
            .collect();
        let encryptor = age::Encryptor::with_recipients(seen.iter().map(|r| r as &dyn age::Recipient))
            .map_err(|_| SealError::NoRecipient)?;
        let mut out = Vec::with_capacity(capacity);
        encryptor.wrap_output(&mut out).expect("memory takes every byte");
        let file_key = file_key.take().ok_or(SealError::NoRecipient)?;
        let key = body_key(&file_key, &out[out.len() - NONCE..]);
        Ok(Self {
            chunk: out.len(),
            out,
            key,
            counter: 0,
        })
    }

    /// Appends plaintext.
    pub fn push(&mut self, mut plain: &[u8]) {
        while !plain.is_empty() {
            let mut room = CHUNK - (self.out.len() - self.chunk);
            if room == 0 {
                self.close(false);
                room = CHUNK;
            }
            let (now, later) = plain.split_at(room.min(plain.len()));
            self.out.extend_from_slice(now);
            plain = later;
        }
    }

    fn close(&mut self, last: bool) {
        let nonce = chunk_nonce(self.counter, last);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::empty(), &mut self.out[self.chunk..])
            .expect("a chunk of 64 KiB is within the cipher's bound");
        self.out.extend_from_slice(tag.as_ref());
        self.chunk = self.out.len();
        self.counter += 1;
    }

    /// Ends the file.
    pub fn finish(mut self) -> Vec<u8> {
        self.close(true);
        self.out
    }
}

/// Opens a whole file into `plain`, in place of what it held.
pub(super) fn open<'a>(
    identities: impl Iterator<Item = &'a dyn age::Identity>,
    sealed: &[u8],
    limit: usize,
    plain: &mut Vec<u8>,
) -> Result<(), SealError> {
    let damaged = |why: &str| SealError::Damaged(why.to_owned());
    let file_key = RefCell::new(None);
    let seen: Vec<_> = identities
        .map(|inner| Seen {
            inner,
            file_key: &file_key,
        })
        .collect();
    // Unwraps the file key and checks the header's MAC with it.
    age::Decryptor::new_buffered(sealed)
        .and_then(|d| d.decrypt(seen.iter().map(|i| i as &dyn age::Identity)))
        .map_err(|e| match e {
            age::DecryptError::NoMatchingKeys => SealError::WrongIdentity,
            other => SealError::Damaged(other.to_string()),
        })?;
    let file_key = file_key.take().ok_or(SealError::WrongIdentity)?;
    let body = body_of(sealed).ok_or_else(|| damaged("its header has no end"))?;
    let (nonce, body) = body
        .split_at_checked(NONCE)
        .ok_or_else(|| damaged("it ends within its header"))?;

    let chunks = body.len().div_ceil(CHUNK + TAG);
    let last = body.len() - chunks.saturating_sub(1) * (CHUNK + TAG);
    if last < TAG {
        return Err(damaged("it ends within a chunk"));
    }
    let size = body.len() - chunks * TAG;
    if size > limit {
        return Err(SealError::TooLarge { limit });
    }
    let key = body_key(&file_key, nonce);
    plain.resize(size, 0);
    let mut rest = &mut plain[..];
    for (n, chunk) in body.chunks(CHUNK + TAG).enumerate() {
        let last = n + 1 == chunks;
        let (text, tag) = chunk
            .split_last_chunk::<TAG>()
            .ok_or_else(|| damaged("it ends within a chunk"))?;
        if last && n > 0 && text.is_empty() {
            return Err(damaged("its last chunk is empty"));
        }
        let (into, after) = rest.split_at_mut(text.len());
        key.open_separate_gather(chunk_nonce(n as u64, last), Aad::empty(), text, tag, into)
            .map_err(|_| {
                damaged(if last {
                    "its last chunk does not authenticate"
                } else {
                    "a chunk does not authenticate"
                })
            })?;
        rest = after;
    }
    Ok(())
}

/// What follows the header: the header's last line begins with `---`, which no
/// line before it can.
fn body_of(sealed: &[u8]) -> Option<&[u8]> {
    let mac = sealed.windows(MAC_LINE.len()).position(|w| w == MAC_LINE)? + MAC_LINE.len();
    let end = sealed[mac..].iter().position(|b| *b == b'\n')?;
    Some(&sealed[mac + end + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::{Identity, open, seal};
    use proptest::prelude::*;
    use std::io::{Read, Write};

    fn sizes() -> impl Strategy<Value = usize> {
        prop_oneof![
            0usize..200,
            (1usize..4, -2isize..3).prop_map(|(n, d)| (n * CHUNK).saturating_add_signed(d)),
            0usize..400_000,
        ]
    }

    fn text(size: usize) -> Vec<u8> {
        let mut out = vec![0; size];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn the_age_crate_opens_ours(size in sizes(), piece in 1usize..200_000) {
            let identity = Identity::generate();
            let plain = text(size);
            let mut writer = SealWriter::new(std::slice::from_ref(identity.recipient()), 0).unwrap();
            plain.chunks(piece).for_each(|p| writer.push(p));
            let sealed = writer.finish();
            let mut back = Vec::new();
            age::Decryptor::new_buffered(&sealed[..])
                .unwrap()
                .decrypt(std::iter::once(&identity.key as &dyn age::Identity))
                .unwrap()
                .read_to_end(&mut back)
                .unwrap();
            prop_assert!(back == plain);
            prop_assert!(open([&identity], &sealed, size).unwrap() == plain);
        }

        #[test]
        fn we_open_what_the_age_crate_seals(size in sizes()) {
            let identity = Identity::generate();
            let plain = text(size);
            let mut sealed = Vec::new();
            let recipients = std::iter::once(&identity.recipient().key as &dyn age::Recipient);
            let mut writer = age::Encryptor::with_recipients(recipients).unwrap().wrap_output(&mut sealed).unwrap();
            writer.write_all(&plain).unwrap();
            writer.finish().unwrap();
            prop_assert!(open([&identity], &sealed, size).unwrap() == plain);
        }

        #[test]
        fn damage_is_noticed_wherever_it_is(size in sizes(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let identity = Identity::generate();
            let sealed = seal(std::slice::from_ref(identity.recipient()), &text(size)).unwrap();
            let at = at.index(sealed.len());
            let mut flipped = sealed.clone();
            flipped[at] ^= 1 << bit;
            prop_assert!(open([&identity], &flipped, size).is_err());
            prop_assert!(open([&identity], &sealed[..at], size).is_err());
            let longer = [&sealed[..], &[0]].concat();
            prop_assert!(open([&identity], &longer, size + 100).is_err());
        }
    }

    #[test]
    fn chunks_cannot_be_dropped_or_swapped() {
        let identity = Identity::generate();
        let sealed = seal(std::slice::from_ref(identity.recipient()), &text(4 * CHUNK)).unwrap();
        let begin = sealed.len() - body_of(&sealed).unwrap().len() + NONCE;
        let at = |n: usize| begin + n * (CHUNK + TAG);
        let without_last = &sealed[..at(3)];
        let without_second = [&sealed[..at(1)], &sealed[at(2)..]].concat();
        let swapped = [
            &sealed[..at(1)],
            &sealed[at(2)..at(3)],
            &sealed[at(1)..at(2)],
            &sealed[at(3)..],
        ]
        .concat();
        for bad in [
            without_last,
            &without_second,
            &swapped,
            &sealed[..begin],
            &sealed[..begin - 3],
        ] {
            assert!(matches!(
                open([&identity], bad, 4 * CHUNK),
                Err(SealError::Damaged(_))
            ));
        }
    }
}
