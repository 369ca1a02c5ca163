//! Puts the fragments of large files together and cuts entries into parts.

use std::collections::{HashMap, HashSet};

use holdfast_proto::Sha256Digest;
use holdfast_proto::manifest::Part;
use holdfast_proto::record::Totals;
use holdfast_repository::manifest::{Entry, ManifestError, PartWriter, Piece, SealedPart};
use holdfast_repository::seal::EpochKey;

use super::jobs::parts_of;

/// Which piece of a file an entry of a packer is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fragment {
    Whole,
    Part { file: u32, part: u32 },
}

/// Puts the fragments of large files together and lists entries.
pub(super) struct Collector {
    writer: Option<PartWriter>,
    key: EpochKey,
    /// Parts that are sealed.
    pub parts: Vec<Part>,
    /// Fragments of files that are not complete.
    open: HashMap<u32, Vec<Option<Vec<Piece>>>>,
    vanished: HashSet<u32>,
    totals: Totals,
    packs: HashSet<Sha256Digest>,
}

impl Collector {
    pub fn new(key: EpochKey) -> Self {
        Self {
            writer: None,
            key,
            parts: Vec::new(),
            open: HashMap::new(),
            vanished: HashSet::new(),
            totals: Totals::default(),
            packs: HashSet::new(),
        }
    }

    pub fn vanished(&mut self, file: u32) {
        self.vanished.insert(file);
        self.open.remove(&file);
    }

    pub fn take(
        &mut self,
        mut entry: Entry,
        fragment: Fragment,
    ) -> Result<Option<SealedPart>, ManifestError> {
        if let Fragment::Part { file, part } = fragment {
            if self.vanished.contains(&file) {
                return Ok(None);
            }
            let parts = parts_of(entry.line.size) as usize;
            let fragments = self.open.entry(file).or_insert_with(|| vec![None; parts]);
            fragments[part as usize] = Some(std::mem::take(&mut entry.pieces));
            if fragments.iter().any(Option::is_none) {
                return Ok(None);
            }
            let fragments = self.open.remove(&file).unwrap_or_default();
            entry.pieces = fragments.into_iter().flatten().flatten().collect();
        }
        self.totals.entries += 1;
        self.totals.bytes += entry.line.size;
        for piece in &entry.pieces {
            if self.packs.insert(piece.pack.pack.sha256) {
                self.totals.to_read += piece.pack.pack.size;
            }
        }
        let key = &self.key;
        let writer = self.writer.get_or_insert_with(|| PartWriter::new(key.clone()));
        let sealed = writer.add(entry)?;
        self.parts.extend(sealed.iter().map(|sealed| sealed.part.clone()));
        Ok(sealed)
    }

    pub fn close(&mut self) -> Result<(Option<SealedPart>, Totals), ManifestError> {
        let sealed = match self.writer.take() {
            Some(writer) => writer.finish()?,
            None => None,
        };
        self.parts.extend(sealed.iter().map(|sealed| sealed.part.clone()));
        Ok((sealed, self.totals))
    }
}
