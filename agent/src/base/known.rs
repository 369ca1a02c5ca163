//! What an earlier base has stored already.
//!
//! Read from the clear indexes of its manifest, which an agent may read: keyed
//! identities of paths and of pieces, and where the pieces lie. A piece that has
//! not changed is referenced instead of stored again; the new base restores on
//! its own all the same, there is no chain.
//!
//! Only pieces that are at least half of their block are offered: referencing a
//! crumb would keep a whole block alive and make restores read it. Memory is
//! about 32 bytes for each mebibyte of the earlier base.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_proto::envelope::{self, BadEnvelope, Header, Link};
use holdfast_proto::manifest::Extent;
use holdfast_proto::record::BaseBody;
use holdfast_proto::{ContentId, Sha256Digest};
use holdfast_repository::FetchError;
use holdfast_repository::layout;
use holdfast_repository::manifest::{ClearPart, ManifestError, Piece, read_index};
use holdfast_repository::pack::KnownPack;
use holdfast_repository::publisher::Publisher;
use tokio::task::spawn_blocking;

/// Why an earlier base cannot be built on. It costs space, never data.
#[derive(Debug, thiserror::Error)]
pub enum KnownError {
    /// An object cannot be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The base's record cannot be read.
    #[error(transparent)]
    Envelope(#[from] BadEnvelope),
    /// An index is not what it should be.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// The pieces of an earlier base.
#[derive(Debug, Default)]
pub struct Known {
    packs: Vec<Arc<KnownPack>>,
    files: HashMap<ContentId, Vec<Extent>>,
}

impl Known {
    /// Reads the indexes of the base that `link` names. Its digest makes it the
    /// one that was meant; who signed it is the reader's concern.
    pub async fn read(publisher: &Publisher, link: &Link) -> Result<Self, KnownError> {
        let repository = &publisher.repository;
        let same = |bytes: &Bytes| match Sha256Digest::of(bytes) {
            found if found == link.sha256 => Ok(()),
            found => Err(format!("its SHA-256 is {found}")),
        };
        let object = repository.find(&link.key, same).await?;
        let header: Header<BaseBody> = envelope::split(&object.bytes)?.header()?;
        let mut known = Known::default();
        for part in &header.body.parts {
            let key = layout::index(&publisher.cluster, &part.index.sha256);
            let index = publisher
                .repository
                .fetch(&key, &part.index.sha256, part.index.size)
                .await?;
            let part = part.clone();
            let reading = spawn_blocking(move || read_index(&index.bytes, &part));
            match reading.await {
                Ok(clear) => known.take(clear?),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        Ok(known)
    }

    fn take(&mut self, clear: ClearPart) {
        let base = u32::try_from(self.packs.len()).unwrap_or(u32::MAX);
        for line in clear.lines.into_iter().filter(|line| !line.x.is_empty()) {
            let moved = line
                .x
                .iter()
                .map(|x| Extent(base.saturating_add(x.0), x.1, x.2, x.3, x.4));
            self.files.insert(line.e, moved.collect());
        }
        let packs = clear.packs.into_iter();
        // Digests of blocks are in the sealed half; readers go by the pack's own.
        self.packs.extend(packs.map(|pack| {
            Arc::new(KnownPack {
                pack,
                digests: Vec::new(),
            })
        }));
    }

    /// The stored piece that is block `n` of the file at `path`, if its content
    /// is `id` and it is worth a reference.
    pub fn piece(&self, path: &ContentId, n: usize, length: usize, id: &ContentId) -> Option<Piece> {
        let Extent(pack, block, offset, stored, known) = *self.files.get(path)?.get(n)?;
        if known != *id || stored as usize != length {
            return None;
        }
        let pack = self.packs.get(pack as usize)?;
        let (_, raw) = pack.pack.blocks.get(block as usize)?;
        let worth = u64::from(stored) * 2 >= u64::from(*raw);
        worth.then(|| Piece {
            pack: pack.clone(),
            block,
            offset,
            length: stored,
            id: known,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_proto::Fingerprint;
    use holdfast_proto::manifest::{IndexLine, PackRef};

    fn id(n: u8) -> ContentId {
        ContentId::new([n; 16])
    }

    #[test]
    fn only_the_same_and_not_crumbs() {
        let pack = |n| PackRef {
            sha256: Sha256Digest::new([n; 32]),
            size: 9,
            sealed_to: Fingerprint::new([0; 32]),
            blocks: vec![(5, 100), (4, 100)],
        };
        let part = |n, path| ClearPart {
            packs: vec![pack(n)],
            lines: vec![IndexLine {
                e: id(path),
                c: None,
                x: vec![
                    Extent(0, 0, 0, 100, id(1)),
                    Extent(0, 1, 10, 49, id(2)),
                    Extent(0, 1, 50, 50, id(3)),
                ],
            }],
        };
        let mut known = Known::default();
        known.take(part(1, 10));
        known.take(part(2, 20));
        let found = known.piece(&id(20), 0, 100, &id(1)).unwrap();
        assert_eq!(found.pack.pack.sha256, Sha256Digest::new([2; 32]));
        assert!(known.piece(&id(20), 0, 100, &id(9)).is_none(), "changed");
        assert!(known.piece(&id(20), 0, 99, &id(1)).is_none(), "another length");
        assert!(known.piece(&id(20), 1, 49, &id(2)).is_none(), "a crumb");
        assert!(known.piece(&id(20), 2, 50, &id(3)).is_some());
        assert!(
            known.piece(&id(20), 3, 50, &id(3)).is_none() && known.piece(&id(30), 0, 100, &id(1)).is_none()
        );
    }
}
