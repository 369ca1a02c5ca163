//! Is this the repository? A replica's `repository.json`, checked.

use std::io;
use std::sync::PoisonError;

use bytes::Bytes;
use holdfast_proto::names::RepositoryId;
use holdfast_proto::record::RepositoryDocument;
use object_store::GetOptions;
use tokio::time::Instant;

use super::{Class, Operation, Replica, SIGHT_FOR, Sight, StoreError};
use crate::layout;

/// The version of the repository's format that this program reads and writes.
pub const FORMAT: u32 = 1;

/// More than any `repository.json` has.
const MAX_DOCUMENT: u64 = 64 << 10;

/// A `repository.json` that was read.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    /// What it says.
    pub content: RepositoryDocument,
    /// Its bytes.
    pub bytes: Bytes,
    sight: Sight,
}

/// Reads a `repository.json`; the reason when it is none.
fn parse_document(bytes: &[u8]) -> Result<RepositoryDocument, String> {
    #[derive(serde::Deserialize)]
    struct Version {
        format: u32,
    }
    // The version first: a later format may have other fields.
    let version: Version = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if version.format != FORMAT {
        return Err(format!(
            "it has format {}, this program knows format {FORMAT}: use a newer holdfast",
            version.format
        ));
    }
    serde_json::from_slice(bytes).map_err(|e| e.to_string())
}

impl Replica {
    /// Reads `repository.json` as it is.
    pub(crate) async fn document(&self) -> Result<Document, StoreError> {
        // The stamp first: a file exchanged in between is looked at again.
        let stamp = match self.directory() {
            None => None,
            Some(directory) => match directory.marker().await {
                Ok(stamp) => Some(stamp),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(self.gone()),
                Err(e) => {
                    return Err(self
                        .attempts(Operation::Read, "repository.json", 0)
                        .failed(e.into()));
                }
            },
        };
        let key = layout::repository_document();
        let mut attempts = self.attempts(Operation::Read, key.as_str(), 0);
        let bytes = loop {
            match attempts
                .once(self.read_once(&key, GetOptions::default(), None))
                .await
            {
                Ok(bytes) => break bytes,
                Err(cause) => match cause.class() {
                    Class::NotFound => return Err(self.gone()),
                    Class::Retry => attempts.pause_reading(cause).await?,
                    _ => return Err(attempts.failed(cause)),
                },
            }
        };
        let bad = |why| StoreError::BadDocument {
            region: self.region().clone(),
            location: self.location().to_owned(),
            why,
        };
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(bad(format!("{} bytes are too many", bytes.len())));
        }
        let content = parse_document(&bytes).map_err(bad)?;
        self.note_health(true);
        Ok(Document {
            content,
            bytes,
            sight: Sight {
                at: Instant::now(),
                stamp,
            },
        })
    }

    /// From now on only repository `id` is accepted here.
    pub(crate) fn expect(&self, id: RepositoryId) {
        // A replica belongs to one repository for as long as it lives.
        let _ = self.shared.expected.set(id);
    }

    /// Whether the right `repository.json` has been seen here.
    pub fn is_identified(&self) -> bool {
        self.sight().is_some()
    }

    /// Whether the replica answers and belongs to its repository.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.identified().await
    }

    fn sight(&self) -> Option<Sight> {
        *self.shared.sight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before a call: the right repository has been seen here; in a directory,
    /// its marker is still the file that was seen.
    pub(super) async fn identified(&self) -> Result<(), StoreError> {
        if self.shared.expected.get().is_none() {
            return Ok(());
        }
        match (self.sight(), self.directory()) {
            (Some(sight), Some(directory)) => match directory.marker().await {
                Ok(stamp) if Some(stamp) == sight.stamp => Ok(()),
                Ok(_) => self.look().await,
                Err(e) if e.kind() == io::ErrorKind::NotFound => Err(self.gone()),
                Err(e) => Err(self
                    .attempts(Operation::Read, "repository.json", 0)
                    .failed(e.into())),
            },
            (Some(_), None) => Ok(()),
            (None, _) => self.look().await,
        }
    }

    /// After something was missing: the place is still there.
    pub(super) async fn still_there(&self) -> Result<(), StoreError> {
        if self.shared.expected.get().is_none() {
            return Ok(());
        }
        if self.directory().is_none() && self.sight().is_some_and(|sight| sight.at.elapsed() < SIGHT_FOR) {
            return Ok(());
        }
        match self.directory() {
            Some(_) => self.identified().await,
            None => self.look().await,
        }
    }

    async fn look(&self) -> Result<(), StoreError> {
        let Some(expected) = self.shared.expected.get() else {
            return Ok(());
        };
        let document = self.document().await?;
        if document.content.id != *expected {
            return Err(StoreError::Another {
                region: self.region().clone(),
                location: self.location().to_owned(),
                expected: *expected,
                found: document.content.id,
            });
        }
        self.saw(&document);
        Ok(())
    }

    /// Notes that the right `repository.json` was seen.
    pub(crate) fn saw(&self, document: &Document) {
        *self.shared.sight.lock().unwrap_or_else(PoisonError::into_inner) = Some(document.sight);
    }

    fn gone(&self) -> StoreError {
        *self.shared.sight.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.note_health(false);
        StoreError::Gone {
            region: self.region().clone(),
            location: self.location().to_owned(),
        }
    }
}
