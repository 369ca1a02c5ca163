//! A worker's way from file contents to sealed packs and entries.
//!
//! Contents are appended to blocks of about 1 MiB, many small files to a block
//! and a large file over many; blocks go into one open pack. An extent never
//! spans blocks. Which pack an extent lies in has a name only when that pack is
//! sealed, so entries wait here until all of theirs are: whoever takes an entry
//! out can list it, whoever takes a pack out must store it, and nothing may be
//! committed before both happened.
//!
//! One packer belongs to one thread. It holds one sealed pack in the making,
//! one block, and the entries of the open pack. If the process dies, nothing
//! was promised: packs that no manifest lists are reclaimed later.

use std::collections::VecDeque;
use std::sync::Arc;

use holdfast_proto::ContentId;
use holdfast_proto::manifest::{BLOCK, CatalogueLine, PART_ENTRIES};

use crate::manifest::{Entry, Piece};
use crate::pack::{FrameCompressor, KnownPack, PackBuilder, PackError, SealedPack};
use crate::seal::{EpochKey, IndexKey};

/// A piece whose pack may still be open.
enum Placed {
    Stored(Piece),
    Open {
        block: u32,
        offset: u32,
        length: u32,
        id: ContentId,
    },
}

struct Waiting {
    path: ContentId,
    content: Option<ContentId>,
    pieces: Vec<Placed>,
    line: CatalogueLine,
}

/// Makes packs and entries out of contents.
pub struct Packer {
    key: EpochKey,
    index_key: IndexKey,
    level: i32,
    pack: Option<PackBuilder>,
    spare: Option<FrameCompressor>,
    /// Number of blocks that the open pack has.
    blocks: u32,
    block: Vec<u8>,
    entry: Vec<Placed>,
    waiting: VecDeque<Waiting>,
    sealed: VecDeque<SealedPack>,
    ready: VecDeque<Entry>,
}

impl Packer {
    /// Packs are sealed to `key`; ids are made with `index_key`; blocks are
    /// compressed at zstd's `level`.
    pub fn new(key: EpochKey, index_key: IndexKey, level: i32) -> Self {
        Self {
            key,
            index_key,
            level,
            pack: None,
            spare: None,
            blocks: 0,
            block: Vec::with_capacity(BLOCK),
            entry: Vec::new(),
            waiting: VecDeque::new(),
            sealed: VecDeque::new(),
            ready: VecDeque::new(),
        }
    }

    /// Appends to the content of the entry under way.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), PackError> {
        while !bytes.is_empty() {
            // A run that fits into a block is not torn over two.
            if !self.block.is_empty() && self.block.len() + bytes.len().min(BLOCK) > BLOCK {
                self.close_block()?;
            }
            if self.block.is_empty() {
                self.open_block()?;
            }
            let (run, rest) = bytes.split_at(bytes.len().min(BLOCK));
            self.entry.push(Placed::Open {
                block: self.blocks,
                offset: u32::try_from(self.block.len()).expect("a block is at most 1 MiB"),
                length: u32::try_from(run.len()).expect("a run is at most 1 MiB"),
                id: self.index_key.content_id(run),
            });
            self.block.extend_from_slice(run);
            bytes = rest;
        }
        Ok(())
    }

    /// Appends bytes that are stored already to the content of the entry under way.
    pub fn reuse(&mut self, piece: Piece) {
        self.entry.push(Placed::Stored(piece));
    }

    /// Ends the entry under way and lists it.
    pub fn end(
        &mut self,
        path: &[u8],
        content: Option<ContentId>,
        line: CatalogueLine,
    ) -> Result<(), PackError> {
        let pieces = std::mem::take(&mut self.entry);
        let path = self.index_key.path_id(path);
        self.waiting.push_back(Waiting {
            path,
            content,
            pieces,
            line,
        });
        if self.waiting.len() >= PART_ENTRIES {
            self.flush()
        } else {
            self.settle(None);
            Ok(())
        }
    }

    /// Forgets the entry under way: its file vanished or changed. What was
    /// packed of it stays in the pack, unlisted.
    pub fn discard(&mut self) {
        self.entry.clear();
    }

    /// Changes zstd's level from the next block on.
    pub fn set_level(&mut self, level: i32) {
        self.level = level;
    }

    /// Seals the open pack, so that every ended entry becomes ready. To be
    /// called at the end. An entry under way keeps its pieces.
    pub fn flush(&mut self) -> Result<(), PackError> {
        self.close_block()?;
        let Some(pack) = self.pack.take() else {
            self.settle(None);
            return Ok(());
        };
        self.blocks = 0;
        let (sealed, spare) = pack.finish()?;
        self.spare = Some(spare);
        let known = Arc::new(sealed.known());
        self.sealed.push_back(sealed);
        store(&mut self.entry, &known);
        self.settle(Some(known));
        Ok(())
    }

    /// A sealed pack, to be stored.
    pub fn take_pack(&mut self) -> Option<SealedPack> {
        self.sealed.pop_front()
    }

    /// An entry all of whose packs were given out by [`Packer::take_pack`] or
    /// wait there.
    pub fn take_entry(&mut self) -> Option<Entry> {
        self.ready.pop_front()
    }

    fn open_block(&mut self) -> Result<(), PackError> {
        if self.pack.as_ref().is_some_and(PackBuilder::is_full) {
            self.flush()?;
        }
        if self.pack.is_none() {
            let zstd = match self.spare.take() {
                Some(zstd) => zstd,
                None => FrameCompressor::new(self.level)?,
            };
            self.pack = Some(PackBuilder::with_compressor(&self.key, zstd)?);
        }
        Ok(())
    }

    fn close_block(&mut self) -> Result<(), PackError> {
        if let Some(pack) = &mut self.pack
            && !self.block.is_empty()
        {
            pack.set_level(self.level)?;
            pack.push_block(&self.block)?;
            self.block.clear();
            self.blocks += 1;
        }
        Ok(())
    }

    /// Moves entries that wait for no open pack to the ready ones, in order.
    fn settle(&mut self, closed: Option<Arc<KnownPack>>) {
        if let Some(known) = &closed {
            for waiting in &mut self.waiting {
                store(&mut waiting.pieces, known);
            }
        }
        while let Some(first) = self.waiting.pop_front() {
            if first.pieces.iter().any(|p| matches!(p, Placed::Open { .. })) {
                self.waiting.push_front(first);
                break;
            }
            let pieces = first
                .pieces
                .into_iter()
                .filter_map(|p| match p {
                    Placed::Stored(piece) => Some(piece),
                    Placed::Open { .. } => None,
                })
                .collect();
            self.ready.push_back(Entry {
                path: first.path,
                content: first.content,
                pieces,
                line: first.line,
            });
        }
    }
}

/// Names the pack of every open piece.
fn store(pieces: &mut [Placed], known: &Arc<KnownPack>) {
    for placed in pieces {
        if let Placed::Open {
            block,
            offset,
            length,
            id,
        } = *placed
        {
            *placed = Placed::Stored(Piece {
                pack: Arc::clone(known),
                block,
                offset,
                length,
                id,
            });
        }
    }
}
