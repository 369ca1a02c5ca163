//! Finds where a filestore's journal stands, in the repository itself.

use holdfast_proto::names::FilestoreName;
use holdfast_proto::record::JournalBody;
use holdfast_repository::layout::{self, Located};

use super::cache::JournalHead;
use super::{CaptureError, Writing};

/// The newest entry of a journal; `None` when there is none yet. Every replica
/// has to be listed: an entry that only an unreachable one holds would get a
/// rival with its own number.
pub async fn newest(
    writing: &Writing,
    filestore: &FilestoreName,
) -> Result<Option<JournalHead>, CaptureError> {
    let publisher = &writing.publisher;
    let listing = publisher
        .repository
        .list(&layout::journals(&publisher.cluster, filestore))
        .await?;
    if !listing.is_complete() {
        return Err(CaptureError::JournalUnknown(
            listing.unlisted.into_iter().map(|(region, _)| region).collect(),
        ));
    }
    let numbers = listing
        .keys()
        .filter_map(|key| match layout::parse(key.as_str()) {
            Some(Located::Journal { n, .. }) => Some(n),
            _ => None,
        });
    let Some(n) = numbers.max() else { return Ok(None) };
    let key = layout::journal(&publisher.cluster, filestore, n);
    let (signed, _) = publisher
        .repository
        .read_signed::<JournalBody>(&key, &writing.trust)
        .await?;
    let body = signed.body();
    Ok(Some(JournalHead {
        n,
        link: signed.link(),
        checkpoint: body.checkpoint,
        checkpoint_at: body.scanned_from,
    }))
}
