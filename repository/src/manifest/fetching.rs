//! Reading parts and packs out of a repository.
//!
//! Digests are checked where the bytes arrive, everything else where they are
//! taken apart; that part is CPU work and runs on tokio's blocking threads.

use std::sync::Arc;

use holdfast_proto::finding::Finding;
use holdfast_proto::manifest::Part;
use holdfast_proto::names::ClusterId;

use super::{ClearPart, ManifestError, OpenPart, read_index, read_part};
use crate::fetch::FetchError;
use crate::keyring::Keyring;
use crate::pack::{KnownPack, PackError, PackReader};
use crate::{Repository, layout};

/// A part or a pack that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// No good copy.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// What was fetched does not hold together.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A pack does not open.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The program is shutting down.
    #[error("the work was abandoned because the program ends")]
    Ended,
}

/// Runs CPU work beside the tasks that wait.
async fn beside<T: Send + 'static, E: Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, ContentError>
where
    ContentError: From<E>,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(stopped) if stopped.is_panic() => std::panic::resume_unwind(stopped.into_panic()),
        Err(_) => Err(ContentError::Ended),
    }
}

impl Repository {
    /// The clear half of a part.
    pub async fn fetch_index(
        &self,
        cluster: &ClusterId,
        part: &Part,
    ) -> Result<(ClearPart, Vec<Finding>), ContentError> {
        let key = layout::index(cluster, &part.index.sha256);
        let index = self.fetch(&key, &part.index.sha256, part.index.size).await?;
        let part = part.clone();
        let clear = beside(move || read_index(&index.bytes, &part)).await?;
        Ok((clear, index.findings))
    }

    /// Both halves of a part.
    pub async fn fetch_part(
        &self,
        cluster: &ClusterId,
        part: &Part,
        keyring: &Arc<Keyring>,
    ) -> Result<(OpenPart, Vec<Finding>), ContentError> {
        let (index_key, catalogue_key) = (
            layout::index(cluster, &part.index.sha256),
            layout::pack(cluster, &part.catalogue.sha256),
        );
        let (index, catalogue) = tokio::try_join!(
            self.fetch(&index_key, &part.index.sha256, part.index.size),
            self.fetch(&catalogue_key, &part.catalogue.sha256, part.catalogue.size),
        )?;
        let (part, keyring) = (part.clone(), Arc::clone(keyring));
        let open = beside(move || read_part(&index.bytes, &catalogue.bytes, &part, &keyring)).await?;
        Ok((open, [index.findings, catalogue.findings].concat()))
    }

    /// A pack, opened.
    pub async fn fetch_pack(
        &self,
        cluster: &ClusterId,
        known: &Arc<KnownPack>,
        keyring: &Arc<Keyring>,
    ) -> Result<(PackReader, Vec<Finding>), ContentError> {
        let pack = &known.pack;
        let fetched = self
            .fetch(&layout::pack(cluster, &pack.sha256), &pack.sha256, pack.size)
            .await?;
        let (known, keyring) = (Arc::clone(known), Arc::clone(keyring));
        let reader = beside(move || PackReader::open_verified(&fetched.bytes, &keyring, &known)).await?;
        Ok((reader, fetched.findings))
    }
}
