//! Manifests: which extents of which packs make up which file.
//!
//! Writing goes in three steps that may run on different threads:
//! 1. each worker feeds a [`Packer`](crate::packer::Packer) and gets sealed
//!    packs and entries; an entry's extents hold their pack by reference;
//! 2. packs are stored;
//! 3. one [`PartWriter`] takes the entries of all workers and cuts them into
//!    parts, giving packs their place in each part's own table.
//!
//! Memory is bounded by one part: a part closes at [`PART_ENTRIES`] entries,
//! or earlier when its extents or its table of blocks grow large. Parts know
//! nothing of each other; all that is needed to read one is in it.
//!
//! The clear index and the sealed catalogue have the same number of lines in
//! the same order. Readers check that, and every number in them, before they
//! hand out an entry; what they check against each other is written at
//! [`join`].

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use holdfast_proto::manifest::{
    CatalogueHead, CatalogueLine, EntryType, Extent, IndexHead, IndexLine, MAX_PACK, PART_ENTRIES, PackRef,
    Part, StoredObject,
};
use holdfast_proto::{Blake3Digest, ContentId, Fingerprint, Sha256Digest};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::keyring::Keyring;
use crate::pack::{FrameCompressor, KnownPack, MAX_BLOCK, PackError};
use crate::seal::{self, EpochKey};

mod fetching;

pub use fetching::ContentError;

/// Extents at which a part closes.
const PART_EXTENTS: usize = 100_000;
/// Blocks in a part's table of packs at which it closes.
const PART_BLOCKS: usize = 65_536;
/// The most plaintext that an index or a catalogue may have.
const MAX_LINES: usize = 256 << 20;
/// zstd's level for indexes and catalogues: text that compresses well.
const LEVEL: i32 = 3;

/// A manifest's part that could not be made or is not to be believed.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A part would be larger than a reader accepts.
    #[error(
        "a part of the manifest would have a {what} of {size} bytes, {limit} are the most: too many extents in one file"
    )]
    TooLarge {
        /// Index or catalogue.
        what: &'static str,
        /// Bytes.
        size: usize,
        /// The most.
        limit: usize,
    },
    /// Sealing, opening or compressing failed.
    #[error("the {what} of a part: {source}")]
    Pack {
        /// Index or catalogue.
        what: &'static str,
        /// What failed.
        source: PackError,
    },
    /// The bytes are not the ones that the commit object lists.
    #[error("the {what} of a part is not the one listed (SHA-256 or size differs): take another copy")]
    Digest {
        /// Index or catalogue.
        what: &'static str,
    },
    /// A line cannot be read.
    #[error(
        "line {line} of the {what} of a part cannot be read ({why}): the backup was written by a newer or a broken version"
    )]
    Line {
        /// Index or catalogue.
        what: &'static str,
        /// Number of the line, from 1.
        line: usize,
        /// Why.
        why: String,
    },
    /// Index, catalogue and commit object contradict each other.
    #[error("the parts of a manifest contradict each other: {0}; do not restore from it, and report it")]
    Contradiction(String),
}

/// A run of bytes in a block of a stored pack.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The pack; shared by all pieces in it.
    pub pack: Arc<KnownPack>,
    /// The block.
    pub block: u32,
    /// First byte in the block's plaintext.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
    /// Keyed identity of the bytes.
    pub id: ContentId,
}

/// An entry ready to be listed: all its packs are sealed.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Keyed identity of the path.
    pub path: ContentId,
    /// Keyed identity of the whole content, for filestores.
    pub content: Option<ContentId>,
    /// Its bytes, in order.
    pub pieces: Vec<Piece>,
    /// What is sealed.
    pub line: CatalogueLine,
}

/// Cuts entries into parts.
pub struct PartWriter {
    key: EpochKey,
    entries: Vec<(IndexLine, CatalogueLine)>,
    packs: Vec<Arc<KnownPack>>,
    places: HashMap<Sha256Digest, u32>,
    extents: usize,
    blocks: usize,
    bytes: u64,
}

impl PartWriter {
    /// Parts whose catalogues are sealed to `key`.
    pub fn new(key: EpochKey) -> Self {
        Self {
            key,
            entries: Vec::new(),
            packs: Vec::new(),
            places: HashMap::new(),
            extents: 0,
            blocks: 0,
            bytes: 0,
        }
    }

    /// Adds an entry after those before it; yields a part when one is full.
    pub fn add(&mut self, entry: Entry) -> Result<Option<SealedPart>, ManifestError> {
        let mut x = Vec::with_capacity(entry.pieces.len());
        for piece in &entry.pieces {
            let place = self.place(&piece.pack);
            x.push(Extent(place, piece.block, piece.offset, piece.length, piece.id));
            self.bytes += u64::from(piece.length);
        }
        self.extents += x.len();
        self.entries.push((
            IndexLine {
                e: entry.path,
                c: entry.content,
                x,
            },
            entry.line,
        ));
        if self.entries.len() >= PART_ENTRIES || self.extents >= PART_EXTENTS || self.blocks >= PART_BLOCKS {
            return self.close().map(Some);
        }
        Ok(None)
    }

    /// The last part, if anything is in it.
    pub fn finish(mut self) -> Result<Option<SealedPart>, ManifestError> {
        if self.entries.is_empty() {
            Ok(None)
        } else {
            self.close().map(Some)
        }
    }

    fn place(&mut self, pack: &Arc<KnownPack>) -> u32 {
        if let Some(place) = self.places.get(&pack.pack.sha256) {
            return *place;
        }
        let place = u32::try_from(self.packs.len()).expect("a part closes long before 2^32 packs");
        self.places.insert(pack.pack.sha256, place);
        self.blocks += pack.pack.blocks.len();
        self.packs.push(Arc::clone(pack));
        place
    }

    fn close(&mut self) -> Result<SealedPart, ManifestError> {
        let entries = std::mem::take(&mut self.entries);
        let packs = std::mem::take(&mut self.packs);
        self.places.clear();
        (self.extents, self.blocks) = (0, 0);
        let bytes = std::mem::take(&mut self.bytes);

        let index_head = IndexHead {
            packs: packs.iter().map(|p| p.pack.clone()).collect(),
        };
        let catalogue_head = CatalogueHead {
            blocks: packs.iter().map(|p| p.digests.clone()).collect(),
        };
        let index = Bytes::from(compress_lines(
            "index",
            &index_head,
            entries.iter().map(|e| &e.0),
        )?);
        let frame = compress_lines("catalogue", &catalogue_head, entries.iter().map(|e| &e.1))?;
        let catalogue = self.key.seal(&frame).map_err(|e| ManifestError::Pack {
            what: "catalogue",
            source: PackError::Seal(e),
        })?;
        if catalogue.len() > MAX_PACK {
            return Err(ManifestError::TooLarge {
                what: "catalogue",
                size: catalogue.len(),
                limit: MAX_PACK,
            });
        }
        let catalogue = Bytes::from(catalogue);
        let stored = |b: &Bytes| StoredObject {
            sha256: Sha256Digest::of(b),
            size: b.len() as u64,
        };
        let part = Part {
            index: stored(&index),
            catalogue: stored(&catalogue),
            sealed_to: self.key.fingerprint,
            entries: entries.len() as u64,
            bytes,
        };
        Ok(SealedPart {
            part,
            index,
            catalogue,
        })
    }
}

/// A part ready to be stored.
#[derive(Debug, Clone)]
pub struct SealedPart {
    /// What the commit object lists.
    pub part: Part,
    /// The clear index's bytes.
    pub index: Bytes,
    /// The sealed catalogue's bytes.
    pub catalogue: Bytes,
}

fn compress_lines<'a, H: Serialize, L: Serialize + 'a>(
    what: &'static str,
    head: &H,
    lines: impl Iterator<Item = &'a L>,
) -> Result<Vec<u8>, ManifestError> {
    let mut text = Vec::new();
    let mut push = |line: Vec<u8>| {
        text.write_all(&line)
            .and_then(|()| text.write_all(b"\n"))
            .expect("memory takes every byte");
        if text.len() > MAX_LINES {
            Err(ManifestError::TooLarge {
                what,
                size: text.len(),
                limit: MAX_LINES,
            })
        } else {
            Ok(())
        }
    };
    push(serde_json::to_vec(head).expect("plain values always encode"))?;
    for line in lines {
        push(serde_json::to_vec(line).expect("plain values always encode"))?;
    }
    FrameCompressor::new(LEVEL)
        .and_then(|mut z| z.compress(&text))
        .map_err(|source| ManifestError::Pack { what, source })
}

fn check_stored(what: &'static str, bytes: &[u8], listed: &StoredObject) -> Result<(), ManifestError> {
    if bytes.len() as u64 != listed.size || Sha256Digest::of(bytes) != listed.sha256 {
        return Err(ManifestError::Digest { what });
    }
    Ok(())
}

/// Expands zstd to at most [`MAX_LINES`] and parses the head and the lines.
fn parse_lines<H: DeserializeOwned, L: DeserializeOwned>(
    what: &'static str,
    zstd: &[u8],
) -> Result<(H, Vec<L>), ManifestError> {
    let damaged = |why: String| ManifestError::Pack {
        what,
        source: PackError::Frame {
            limit: MAX_LINES,
            why,
        },
    };
    let mut text = Vec::new();
    zstd::Decoder::new(zstd)
        .and_then(|d| d.take(MAX_LINES as u64 + 1).read_to_end(&mut text))
        .map_err(|e| damaged(e.to_string()))?;
    if text.len() > MAX_LINES {
        return Err(damaged("it opens to more".to_owned()));
    }
    let text = text
        .strip_suffix(b"\n")
        .ok_or_else(|| damaged("it does not end in a newline".to_owned()))?;
    let mut lines = text.split(|b| *b == b'\n').enumerate();
    let unreadable = |line: usize, e: serde_json::Error| ManifestError::Line {
        what,
        line: line + 1,
        why: e.to_string(),
    };
    let head = lines
        .next()
        .map(|(n, l)| serde_json::from_slice(l).map_err(|e| unreadable(n, e)))
        .expect("splitting yields at least one line")?;
    let lines = lines
        .map(|(n, l)| serde_json::from_slice(l).map_err(|e| unreadable(n, e)))
        .collect::<Result<Vec<L>, _>>()?;
    Ok((head, lines))
}

/// The clear half of a part: what a writer or a coordinator may know.
#[derive(Debug, Clone)]
pub struct ClearPart {
    /// Its packs.
    pub packs: Vec<PackRef>,
    /// Its entries.
    pub lines: Vec<IndexLine>,
}

/// Takes the index of `part` apart. `bytes` are checked against the listing.
pub fn read_index(bytes: &[u8], part: &Part) -> Result<ClearPart, ManifestError> {
    check_stored("index", bytes, &part.index)?;
    let (head, lines): (IndexHead, Vec<IndexLine>) = parse_lines("index", bytes)?;
    let clear = ClearPart {
        packs: head.packs,
        lines,
    };
    check_index(&clear, part)?;
    Ok(clear)
}

/// Every extent lies within a listed block, and the totals are those listed.
fn check_index(clear: &ClearPart, part: &Part) -> Result<(), ManifestError> {
    let contradiction = |why: String| Err(ManifestError::Contradiction(why));
    if clear.lines.len() as u64 != part.entries {
        return contradiction(format!(
            "{} entries are announced, the index has {}",
            part.entries,
            clear.lines.len()
        ));
    }
    for pack in &clear.packs {
        if pack.size > MAX_PACK as u64 || pack.blocks.iter().any(|b| b.1 as usize > MAX_BLOCK) {
            return contradiction(format!(
                "pack {} is larger than packs or blocks may be",
                pack.sha256
            ));
        }
    }
    let mut bytes = 0u64;
    for (n, line) in clear.lines.iter().enumerate() {
        for Extent(pack, block, offset, length, _) in &line.x {
            let raw = clear
                .packs
                .get(*pack as usize)
                .and_then(|p| p.blocks.get(*block as usize))
                .map(|b| b.1);
            let end = offset.checked_add(*length);
            if raw.is_none() || end.is_none() || end > raw {
                return contradiction(format!("an extent of entry {} lies outside of its block", n + 1));
            }
            bytes += u64::from(*length);
        }
    }
    if bytes != part.bytes {
        return contradiction(format!(
            "{} bytes are announced, the extents have {bytes}",
            part.bytes
        ));
    }
    Ok(())
}

/// A part with all that a restore needs.
#[derive(Debug, Clone)]
pub struct OpenPart {
    /// Its packs, with the digests of their blocks.
    pub packs: Vec<Arc<KnownPack>>,
    /// Its entries; extents count in `packs`.
    pub entries: Vec<(IndexLine, CatalogueLine)>,
}

/// Takes both halves of a part apart. `index` and `catalogue` are checked
/// against the listing.
pub fn read_part(
    index: &[u8],
    catalogue: &[u8],
    part: &Part,
    keyring: &Keyring,
) -> Result<OpenPart, ManifestError> {
    let clear = read_index(index, part)?;
    check_stored("catalogue", catalogue, &part.catalogue)?;
    let sealed = |source| ManifestError::Pack {
        what: "catalogue",
        source,
    };
    let identity = keyring
        .identity_for(&part.sealed_to)
        .ok_or_else(|| sealed(PackError::NoKey(part.sealed_to)))?;
    let zstd = seal::open([identity], catalogue, MAX_PACK).map_err(|e| sealed(PackError::Seal(e)))?;
    let (head, lines): (CatalogueHead, Vec<CatalogueLine>) = parse_lines("catalogue", &zstd)?;
    join(clear, head.blocks, lines)
}

/// Joins the two halves: as many catalogue lines as index lines; for each pack
/// either a digest for every block or none at all; the extents of a file are as
/// long as the file; nothing but a file has extents.
pub fn join(
    clear: ClearPart,
    digests: Vec<Vec<Blake3Digest>>,
    lines: Vec<CatalogueLine>,
) -> Result<OpenPart, ManifestError> {
    let contradiction = |why: String| Err(ManifestError::Contradiction(why));
    if digests.len() != clear.packs.len() || lines.len() != clear.lines.len() {
        return contradiction("index and catalogue have different numbers of packs or entries".to_owned());
    }
    let mut packs = Vec::with_capacity(digests.len());
    for (pack, digests) in clear.packs.into_iter().zip(digests) {
        if !digests.is_empty() && digests.len() != pack.blocks.len() {
            return contradiction(format!(
                "pack {} has digests for some of its blocks only",
                pack.sha256
            ));
        }
        packs.push(Arc::new(KnownPack { pack, digests }));
    }
    for (index, line) in clear.lines.iter().zip(&lines) {
        let bytes: u64 = index.x.iter().map(|x| u64::from(x.3)).sum();
        let expected = if line.kind == EntryType::File {
            line.size
        } else {
            0
        };
        if bytes != expected {
            return contradiction(format!(
                "{:?} has {expected} bytes and extents of {bytes}",
                line.path
            ));
        }
    }
    Ok(OpenPart {
        packs,
        entries: clear.lines.into_iter().zip(lines).collect(),
    })
}

/// The fingerprints of the epoch keys that are needed to read `packs`.
pub fn keys_needed<'a>(
    packs: impl IntoIterator<Item = &'a PackRef>,
) -> std::collections::BTreeSet<Fingerprint> {
    packs.into_iter().map(|p| p.sealed_to).collect()
}

#[cfg(test)]
mod tests;
