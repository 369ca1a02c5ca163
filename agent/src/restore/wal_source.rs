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
use holdfast_repository::pack::{FrameOpener, PackError};
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

    /// The object, believed and still sealed.
    pub(super) async fn fetch(&self, object: &WalObject) -> Result<SealedWal, WalReadError> {
        if self.keyring.is_none() {
            return Err(WalReadError::NoIdentity(object.key.clone()));
        }
        let (signed, findings) = self.whole(&object.key).await?;
        let sealed = SealedWal {
            key: object.key.clone(),
            body: signed.header.body,
            payload: signed.payload,
            findings,
        };
        if !fits(object, &sealed.body) {
            return Err(sealed.wrong("its header names other positions than its key"));
        }
        Ok(sealed)
    }

    /// The WAL in `object`.
    pub async fn open(&self, object: &WalObject) -> Result<OpenWal, WalReadError> {
        let mut sealed = self.fetch(object).await?;
        let findings = std::mem::take(&mut sealed.findings);
        let keyring = self.keyring.cloned().unwrap_or_default();
        let (start, end) = (sealed.body.start, sealed.body.end);
        let unopened = sealed.wrong("opening it failed");
        let opened = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; sealed.length()?];
            let mut opener = FrameOpener::new().map_err(|source| sealed.unopened(source))?;
            sealed.open_into(&keyring, &mut opener, (start, end), &mut bytes)?;
            Ok::<_, WalReadError>(bytes)
        })
        .await;
        let bytes = opened.map_err(|_| unopened)??;
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

/// An object whose signature and digest are good, and whose chunks are sealed.
#[derive(Debug)]
pub(super) struct SealedWal {
    key: ObjectKey,
    body: WalBody,
    payload: Bytes,
    /// What was wrong with other copies.
    pub findings: Vec<Finding>,
}

impl SealedWal {
    fn wrong(&self, why: &str) -> WalReadError {
        WalReadError::Contradiction {
            key: self.key.clone(),
            why: why.to_owned(),
        }
    }

    /// It was to give bytes that lie outside of its segment.
    pub fn outside(&self) -> WalReadError {
        self.wrong("it does not lie within the segment")
    }

    fn unopened(&self, source: PackError) -> WalReadError {
        WalReadError::Open {
            key: self.key.clone(),
            source,
        }
    }

    /// Bytes of WAL in it.
    fn length(&self) -> Result<usize, WalReadError> {
        let whole = self.body.end.bytes_since(self.body.start);
        whole
            .filter(|n| *n <= self.body.segment_size.get())
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| self.wrong("it is longer than a segment"))
    }

    /// Opens the WAL in `range` into `target`, which has its length. CPU work.
    /// Chunks must follow each other without a gap and be all of the payload.
    pub fn open_into(
        &self,
        keyring: &Keyring,
        opener: &mut FrameOpener,
        range: (Lsn, Lsn),
        target: &mut [u8],
    ) -> Result<(), WalReadError> {
        self.length()?;
        let (from, to) = range;
        if from < self.body.start || to > self.body.end || to.bytes_since(from) != Some(target.len() as u64) {
            return Err(self.wrong("it does not hold the bytes that its name says"));
        }
        let mut rest = &self.payload[..];
        let mut at = self.body.start;
        for chunk in &self.body.chunks {
            let size = usize::try_from(chunk.size).ok().filter(|n| *n <= rest.len());
            let size = size.ok_or_else(|| self.wrong("a chunk is longer than the payload"))?;
            let (sealed, later) = rest.split_at(size);
            rest = later;
            let length = chunk
                .end
                .bytes_since(chunk.start)
                .and_then(|n| usize::try_from(n).ok())
                .filter(|_| chunk.start == at && chunk.end <= self.body.end)
                .ok_or_else(|| self.wrong("its chunks do not join up"))?;
            at = chunk.end;
            let (first, last) = (chunk.start.max(from), chunk.end.min(to));
            if first >= last {
                continue;
            }
            let into = &mut target[distance(from, first)..distance(from, last)];
            let opened = if into.len() == length {
                opener.open_into(keyring, &chunk.sealed_to, sealed, into)
            } else {
                let mut whole = vec![0; length];
                opener
                    .open_into(keyring, &chunk.sealed_to, sealed, &mut whole)
                    .map(|()| into.copy_from_slice(&whole[distance(chunk.start, first)..][..into.len()]))
            };
            opened.map_err(|source| self.unopened(source))?;
        }
        if at != self.body.end || !rest.is_empty() {
            return Err(self.wrong("its chunks are not all of its payload"));
        }
        Ok(())
    }
}

/// Bytes from one position to a later one, within a segment.
fn distance(from: Lsn, to: Lsn) -> usize {
    usize::try_from(to.get().saturating_sub(from.get())).unwrap_or(usize::MAX)
}
