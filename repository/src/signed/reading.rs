//! Reading signed objects over all replicas.

use std::sync::{Mutex, PoisonError};

use holdfast_proto::envelope::{self, Record};
use holdfast_proto::finding::Finding;
use holdfast_proto::names::ObjectKey;

use super::{Signed, SignedError, SignedHeader, verify, verify_header};
use crate::Repository;
use crate::fetch::FetchError;
use crate::replica::Class;
use crate::trust::Trust;

/// Bytes that are read from an object's end at first: most envelopes fit.
const END: u64 = 16 << 10;

/// A signed object that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No replica gave a copy that could be looked at, or none has it.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Copies were there, and none is believed. The reason is that of the last
    /// copy that was looked at.
    #[error("no copy is believed: {0}")]
    Refused(#[source] SignedError),
}

impl ReadError {
    /// What a caller does about it.
    pub fn class(&self) -> Class {
        match self {
            ReadError::Fetch(e) => e.class(),
            ReadError::Refused(_) => Class::Corrupt,
        }
    }
}

impl Repository {
    /// The signed object at `key`, from the first copy that verifies. Falls over
    /// to other replicas and to older versions, and heals what it passed over
    /// when the repository was opened for that; the findings say what it met.
    pub async fn read_signed<B: Record + Send>(
        &self,
        key: &ObjectKey,
        trust: &Trust,
    ) -> Result<(Signed<B>, Vec<Finding>), ReadError> {
        let refused = Mutex::new(None);
        let found = self
            .find(key, |bytes| {
                verify::<B>(bytes, key, trust).map_err(|e| {
                    let why = e.to_string();
                    *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                    why
                })
            })
            .await;
        match found {
            Ok(found) => Ok((found.value, found.findings)),
            Err(error) => Err(because(refused, error)),
        }
    }

    /// The header of the signed object at `key` without its payload, where that
    /// is enough: for WAL and manifests whose bytes come later or not at all.
    /// Falls back to the whole object for a revoked signer.
    pub async fn read_header<B: Record + Send>(
        &self,
        key: &ObjectKey,
        trust: &Trust,
    ) -> Result<(SignedHeader<B>, Vec<Finding>), ReadError> {
        for replica in self.reading_order() {
            let Ok(Some(size)) = replica.head(key).await else {
                continue;
            };
            let Ok(mut end) = replica.get_range(key, size.saturating_sub(END)..size).await else {
                continue;
            };
            let tail = &end[end.len().saturating_sub(envelope::TAIL)..];
            let Ok(length) = envelope::envelope_length(tail) else {
                continue;
            };
            let needed = length + envelope::TAIL as u64;
            if needed > size {
                continue;
            }
            if needed > end.len() as u64 {
                let Ok(more) = replica.get_range(key, size - needed..size).await else {
                    continue;
                };
                end = more;
            }
            if let Ok(header) = verify_header::<B>(&end, size, key, trust) {
                return Ok((header, Vec::new()));
            }
        }
        // Something is wrong with every copy or with the way to it: the whole
        // reading tells what, and heals.
        let (signed, findings) = self.read_signed::<B>(key, trust).await?;
        Ok((
            SignedHeader {
                header: signed.header,
                signer: signed.signer,
            },
            findings,
        ))
    }
}

/// A refusal counts more than an absence elsewhere; a replica that did not
/// answer counts more than both, because it may have a good copy.
fn because(refused: Mutex<Option<SignedError>>, error: FetchError) -> ReadError {
    match refused.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(refused) if error.class() == Class::Corrupt => ReadError::Refused(refused),
        _ => ReadError::Fetch(error),
    }
}
