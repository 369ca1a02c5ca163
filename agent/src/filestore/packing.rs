//! Puts the content of files into packs.
//!
//! Small files share blocks of about 1 MiB, a larger file is cut into blocks of
//! its own. Content that is stored already is pointed to instead. Each packing
//! thread has one [`Packer`] with one open pack and one open block, so what it
//! holds is bounded by a pack and a block; finished packs go through a channel
//! that makes it wait while uploads lag.
//!
//! A small file's place is known only when its block is closed: its [`Extents`]
//! are a ticket until [`Packer::finish`] has put everything in its place.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use holdfast_proto::ContentId;
use holdfast_proto::manifest::BLOCK;
use holdfast_repository::pack::{FrameCompressor, PackBuilder, PackError, SealedPack};
use holdfast_repository::seal::EpochKey;
use tokio::sync::mpsc::Sender;

use super::cache::KnownContent;
use super::record::Place;

/// zstd's level for what compresses.
const LEVEL: i32 = 3;
/// zstd's level for what does not: quickly through.
const LEVEL_INCOMPRESSIBLE: i32 = -5;
/// Bytes at each probed spot of a block.
const PROBE: usize = 4096;

/// Packing ended before its time: the capture failed elsewhere or was given up.
#[derive(Debug, thiserror::Error)]
pub enum PackingStopped {
    /// Nobody takes packs any more.
    #[error("the capture was given up")]
    Closed,
    /// A pack could not be made.
    #[error(transparent)]
    Pack(#[from] PackError),
}

/// A finished pack with its number in the pack table.
pub type NumberedPack = (u32, SealedPack);

/// Where a file's content lies, in order.
#[derive(Debug, Clone, Default)]
pub struct Extents(Vec<Slot>);

#[derive(Debug, Clone, Copy)]
enum Slot {
    Placed(Place, ContentId),
    /// In the packer's block with this number, not closed yet.
    Open {
        block: usize,
        offset: u32,
        length: u32,
        id: ContentId,
    },
}

/// Content that all packers of a capture share.
pub struct Shared<'s> {
    /// To whom packs are sealed.
    pub key: &'s EpochKey,
    /// What is stored already.
    pub known: &'s KnownContent,
    /// The next number of a pack.
    pub next_pack: &'s AtomicU32,
    /// Where finished packs go.
    pub packs: Sender<NumberedPack>,
}

/// One thread's open pack and block.
pub struct Packer<'s> {
    shared: &'s Shared<'s>,
    pack: Option<(u32, PackBuilder)>,
    compressor: Option<FrameCompressor>,
    probe: FrameCompressor,
    block: Vec<u8>,
    in_block: HashMap<ContentId, (u32, u32)>,
    /// Where each closed block of small files went.
    closed: Vec<(u32, u32)>,
}

impl<'s> Packer<'s> {
    /// An empty one.
    pub fn new(shared: &'s Shared<'s>) -> Result<Self, PackError> {
        Ok(Self {
            shared,
            pack: None,
            compressor: None,
            probe: FrameCompressor::new(1)?,
            block: Vec::with_capacity(BLOCK),
            in_block: HashMap::new(),
            closed: Vec::new(),
        })
    }

    /// Adds a small file's content to the shared block.
    pub fn add_small(
        &mut self,
        bytes: &[u8],
        id: ContentId,
        extents: &mut Extents,
    ) -> Result<(), PackingStopped> {
        let length = length_of(bytes);
        if let Some(place) = self.shared.known.find(&id, length) {
            extents.0.push(Slot::Placed(place, id));
            return Ok(());
        }
        if let Some(&(offset, _)) = self.in_block.get(&id) {
            extents.0.push(Slot::Open {
                block: self.closed.len(),
                offset,
                length,
                id,
            });
            return Ok(());
        }
        if !self.block.is_empty() && self.block.len() + bytes.len() > BLOCK {
            self.close_block()?;
        }
        let offset = length_of(&self.block);
        self.block.extend_from_slice(bytes);
        self.in_block.insert(id, (offset, length));
        extents.0.push(Slot::Open {
            block: self.closed.len(),
            offset,
            length,
            id,
        });
        Ok(())
    }

    /// Adds a piece of a large file as a block of its own.
    pub fn add_block(
        &mut self,
        bytes: &[u8],
        id: ContentId,
        extents: &mut Extents,
    ) -> Result<(), PackingStopped> {
        let length = length_of(bytes);
        if let Some(place) = self.shared.known.find(&id, length) {
            extents.0.push(Slot::Placed(place, id));
            return Ok(());
        }
        let (pack, block) = self.push(bytes)?;
        let place = Place {
            pack,
            block,
            offset: 0,
            length,
        };
        self.shared.known.learn([(id, place)]);
        extents.0.push(Slot::Placed(place, id));
        Ok(())
    }

    /// Closes and hands over what is open. Afterwards [`Packer::place`] knows every
    /// extent.
    pub fn finish(&mut self) -> Result<(), PackingStopped> {
        self.close_block()?;
        self.hand_over()
    }

    /// The places of a file's content.
    pub fn place(&self, extents: &Extents) -> Vec<(Place, ContentId)> {
        (extents.0.iter())
            .map(|slot| match *slot {
                Slot::Placed(place, id) => (place, id),
                Slot::Open {
                    block,
                    offset,
                    length,
                    id,
                } => {
                    let (pack, block) = self.closed[block];
                    let place = Place {
                        pack,
                        block,
                        offset,
                        length,
                    };
                    (place, id)
                }
            })
            .collect()
    }

    fn close_block(&mut self) -> Result<(), PackingStopped> {
        if self.block.is_empty() {
            return Ok(());
        }
        let raw = std::mem::take(&mut self.block);
        let (pack, block) = self.push(&raw)?;
        self.closed.push((pack, block));
        self.shared
            .known
            .learn(self.in_block.drain().map(|(id, (offset, length))| {
                let place = Place {
                    pack,
                    block,
                    offset,
                    length,
                };
                (id, place)
            }));
        self.block = raw;
        self.block.clear();
        Ok(())
    }

    fn push(&mut self, raw: &[u8]) -> Result<(u32, u32), PackingStopped> {
        if self
            .pack
            .as_ref()
            .is_some_and(|(_, pack)| !pack.has_room_for(raw.len()))
        {
            self.hand_over()?;
        }
        let level = self.level_for(raw)?;
        let (number, mut pack) = match self.pack.take() {
            Some(open) => open,
            None => {
                let compressor = match self.compressor.take() {
                    Some(compressor) => compressor,
                    None => FrameCompressor::new(LEVEL)?,
                };
                let number = self.shared.next_pack.fetch_add(1, Ordering::Relaxed);
                (number, PackBuilder::with_compressor(self.shared.key, compressor)?)
            }
        };
        pack.set_level(level)?;
        let place = pack.push_block(raw)?;
        self.pack = Some((number, pack));
        Ok((number, place.block))
    }

    /// Compresses a few spots to see whether the block is worth the effort.
    fn level_for(&mut self, raw: &[u8]) -> Result<i32, PackError> {
        let spots: Vec<u8> = if raw.len() <= 4 * PROBE {
            raw.to_vec()
        } else {
            (0..4)
                .flat_map(|i| &raw[i * (raw.len() - PROBE) / 3..][..PROBE])
                .copied()
                .collect()
        };
        let squeezed = self.probe.compress(&spots)?.len();
        Ok(if squeezed * 100 >= spots.len() * 97 {
            LEVEL_INCOMPRESSIBLE
        } else {
            LEVEL
        })
    }

    fn hand_over(&mut self) -> Result<(), PackingStopped> {
        if let Some((number, pack)) = self.pack.take() {
            let (sealed, compressor) = pack.finish()?;
            self.compressor = Some(compressor);
            let taken = self.shared.packs.blocking_send((number, sealed));
            taken.map_err(|_| PackingStopped::Closed)?;
        }
        Ok(())
    }

    /// Whether anybody still waits for packs.
    pub fn is_wanted(&self) -> bool {
        !self.shared.packs.is_closed()
    }
}

fn length_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a piece is at most a block")
}
