//! Reads WAL objects: a header from an object's end, or the WAL itself.
//!
//! A header is read by range and believed by its signature. WAL is handed out
//! only after the whole object's signature and digest, the seal of each chunk
//! and its length were found good. A bad copy is passed over for another
//! replica's, and that is a finding.

use std::ops::Range;

use bytes::Bytes;
use holdfast_proto::envelope::{TAIL, envelope_length};
use holdfast_proto::finding::Finding;
use holdfast_proto::names::ObjectKey;
use holdfast_proto::pg::Lsn;
use holdfast_proto::record::WalBody;
use holdfast_repository::keyring::Keyring;
use holdfast_repository::pack::{PackError, open_frame};
use holdfast_repository::signed;
use holdfast_repository::trust::Trust;
use holdfast_repository::{FetchError, Repository};

use crate::ledger::WalObject;

/// How much of an object's end is read at first: most envelopes are shorter.
const FIRST_READ: u64 = 4 << 10;

/// WAL that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum WalReadError {
    /// No replica returned a good copy.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It is sealed, and no identity was given.
    #[error("{0} is sealed, and finding the target needs to look into it: give an identity with --identity")]
    NoIdentity(ObjectKey),
    /// A chunk does not open.
    #[error("{key} cannot be opened: {source}")]
    Open {
        /// The object.
        key: ObjectKey,
        /// Why.
        source: PackError,
    },
    /// What the object says of itself does not fit its name or its payload.
    #[error("{key} contradicts itself ({why}): do not use it, and report it")]
    Contradiction {
        /// The object.
        key: ObjectKey,
        /// In what.
        why: String,
    },
}

/// Where WAL is read from, and with which keys.
#[derive(Debug, Clone, Copy)]
pub struct WalSource<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// Who is believed.
    pub trust: &'a Trust,
    /// What opens the chunks.
    pub keyring: Option<&'a Keyring>,
}

/// WAL of one object.
#[derive(Debug)]
pub struct OpenWal {
    /// Position of the first byte.
    pub start: Lsn,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What was wrong with other copies.
    pub findings: Vec<Finding>,
}

impl WalSource<'_> {
    /// The record in the header of `object`, and what was wrong with copies that
    /// were passed over.
    pub async fn header(&self, object: &WalObject) -> Result<(WalBody, Vec<Finding>), WalReadError> {
        if let Some(body) = self.header_by_range(object).await {
            return Ok((body, Vec::new()));
        }
        // Damaged, of another size than listed, or signed by a key that was
        // revoked since: the whole object decides.
        let (signed, findings) = self.whole(&object.key).await?;
        Ok((signed.header.body, findings))
    }

    async fn header_by_range(&self, object: &WalObject) -> Option<WalBody> {
        let read = async |length: u64| -> Option<Bytes> {
            let range: Range<u64> = object.size.checked_sub(length)?..object.size;
            let ranged = self.repository.fetch_range(&object.key, range, &[]).await.ok()?;
            (ranged.bytes.len() as u64 == length).then_some(ranged.bytes)
        };
        let mut end = read(FIRST_READ.min(object.size)).await?;
        let tail = end.len().checked_sub(TAIL)?;
        let needed = envelope_length(&end[tail..]).ok()?.checked_add(TAIL as u64)?;
        if needed > end.len() as u64 {
            end = read(needed).await?;
        }
        let header = signed::verify_header::<WalBody>(&end, object.size, &object.key, self.trust).ok()?;
        fits(object, &header.header.body).then_some(header.header.body)
    }

    async fn whole(&self, key: &ObjectKey) -> Result<(signed::Signed<WalBody>, Vec<Finding>), FetchError> {
        let judge =
            |bytes: &Bytes| signed::verify::<WalBody>(bytes, key, self.trust).map_err(|e| e.to_string());
        let found = self.repository.find(key, judge).await?;
        Ok((found.value, found.findings))
    }

    /// The WAL in `object`.
    pub async fn open(&self, object: &WalObject) -> Result<OpenWal, WalReadError> {
        let keyring = self
            .keyring
            .ok_or_else(|| WalReadError::NoIdentity(object.key.clone()))?;
        let (signed, findings) = self.whole(&object.key).await?;
        let wrong = |why: &str| WalReadError::Contradiction {
            key: object.key.clone(),
            why: why.to_owned(),
        };
        let body = signed.header.body;
        if !fits(object, &body) {
            return Err(wrong("its header names other positions than its key"));
        }
        let (payload, keyring) = (signed.payload, keyring.clone());
        let key = object.key.clone();
        let start = body.start;
        let opened = tokio::task::spawn_blocking(move || open_chunks(&key, &body, &payload, &keyring)).await;
        let bytes = opened.map_err(|_| wrong("opening it failed"))??;
        Ok(OpenWal {
            start,
            bytes,
            findings,
        })
    }
}

fn fits(object: &WalObject, body: &WalBody) -> bool {
    let name = &object.name;
    body.start == name.start && body.end == name.end && body.timeline == name.timeline
}

/// Opens the chunks of a payload, which must follow each other without a gap.
fn open_chunks(
    key: &ObjectKey,
    body: &WalBody,
    payload: &[u8],
    keyring: &Keyring,
) -> Result<Vec<u8>, WalReadError> {
    let wrong = |why: &str| WalReadError::Contradiction {
        key: key.clone(),
        why: why.to_owned(),
    };
    let whole = body
        .end
        .bytes_since(body.start)
        .filter(|n| *n <= body.segment_size.get());
    let whole = whole.ok_or_else(|| wrong("it is longer than a segment"))?;
    let mut bytes = Vec::with_capacity(usize::try_from(whole).unwrap_or(0));
    let mut rest = payload;
    let mut at = body.start;
    for chunk in &body.chunks {
        let size = usize::try_from(chunk.size).ok().filter(|n| *n <= rest.len());
        let (sealed, later) = rest.split_at(size.ok_or_else(|| wrong("a chunk is longer than the payload"))?);
        rest = later;
        let length = chunk
            .end
            .bytes_since(chunk.start)
            .and_then(|n| usize::try_from(n).ok());
        let length = length
            .filter(|_| chunk.start == at)
            .ok_or_else(|| wrong("its chunks do not join up"))?;
        let raw =
            open_frame(keyring, &chunk.sealed_to, sealed, length).map_err(|source| WalReadError::Open {
                key: key.clone(),
                source,
            })?;
        if raw.len() != length {
            return Err(wrong("a chunk has another length than its positions"));
        }
        bytes.extend_from_slice(&raw);
        at = chunk.end;
    }
    if at != body.end || !rest.is_empty() {
        return Err(wrong("its chunks are not all of its payload"));
    }
    Ok(bytes)
}
