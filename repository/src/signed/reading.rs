//! Reading signed objects over all replicas.

use std::sync::{Mutex, PoisonError};

use holdfast_proto::envelope::{self, Record};
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::ObjectKey;

use super::{Signed, SignedError, SignedHeader, verify, verify_header};
use crate::fetch::FetchError;
use crate::listing::unreachable;
use crate::replica::{Class, Replica, StoreError};
use crate::trust::Trust;
use crate::{Repository, clock};

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
    /// Copies that it passes over are findings; nothing is healed. When no copy's
    /// end is believed, the whole object is read, which tells why, and which a
    /// revoked signer's object needs.
    pub async fn read_header<B: Record + Send>(
        &self,
        key: &ObjectKey,
        trust: &Trust,
    ) -> Result<(SignedHeader<B>, Vec<Finding>), ReadError> {
        let mut findings = Vec::new();
        for replica in self.reading_order() {
            let seen = |name: &str, detail: String| Finding {
                name: name.to_owned(),
                subject: format!("{}:{key}", replica.region()),
                severity: Severity::Warning,
                detail,
                since: clock::now(),
            };
            match header_on::<B>(&replica, key, trust).await {
                Ok(Some(header)) => return Ok((header, findings)),
                Ok(None) => findings.push(seen(
                    "object-missing",
                    format!("Replica {} does not hold the object.", replica.region()),
                )),
                Err(Passed::Bad(why)) => findings.push(seen(
                    "object-damaged",
                    format!("The copy on replica {} is bad ({why}).", replica.region()),
                )),
                Err(Passed::Unknown(error)) => {
                    findings.push(unreachable(replica.region(), &error, clock::now()));
                }
            }
        }
        let (signed, findings) = self.read_signed::<B>(key, trust).await?;
        let header = SignedHeader {
            header: signed.header,
            signer: signed.signer,
        };
        Ok((header, findings))
    }
}

/// Why a replica's copy was passed over.
enum Passed {
    Bad(String),
    Unknown(StoreError),
}

impl From<StoreError> for Passed {
    fn from(error: StoreError) -> Self {
        match error.class() {
            Class::Corrupt => Passed::Bad(error.explained()),
            _ => Passed::Unknown(error),
        }
    }
}

/// The header on one replica; `None` when it has no such object.
async fn header_on<B: Record>(
    replica: &Replica,
    key: &ObjectKey,
    trust: &Trust,
) -> Result<Option<SignedHeader<B>>, Passed> {
    let Some(size) = replica.head(key).await? else {
        return Ok(None);
    };
    let bad = |e: envelope::BadEnvelope| Passed::Bad(e.to_string());
    let mut end = replica.get_range(key, size.saturating_sub(END)..size).await?;
    let tail = &end[end.len().saturating_sub(envelope::TAIL)..];
    let needed = envelope::envelope_length(tail).map_err(bad)? + envelope::TAIL as u64;
    if needed > size {
        return Err(bad(envelope::BadEnvelope::Length(needed)));
    }
    if needed > end.len() as u64 {
        end = replica.get_range(key, size - needed..size).await?;
    }
    verify_header::<B>(&end, size, key, trust)
        .map(Some)
        .map_err(|e| Passed::Bad(e.to_string()))
}

/// A refusal counts more than an absence elsewhere; a replica that did not
/// answer counts more than both, because it may have a good copy.
fn because(refused: Mutex<Option<SignedError>>, error: FetchError) -> ReadError {
    match refused.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(refused) if error.class() == Class::Corrupt => ReadError::Refused(refused),
        _ => ReadError::Fetch(error),
    }
}
