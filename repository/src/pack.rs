//! Packs: sealed files of zstd blocks, at most 16 MiB each.
//!
//! A pack is one age file whose plaintext is zstd frames one after another and
//! nothing else, so `age -d | zstd -d` opens it. Each frame is a *block*: it
//! carries its content size and zstd's checksum, and its plaintext is known by
//! BLAKE3 in the sealed catalogue that lists the pack
//! ([`crate::manifest`]). The table of blocks is not in the pack but in the
//! clear index.
//!
//! A builder seals while it is fed: it holds the sealed bytes so far and one
//! compressed block. A reader holds one opened pack and no block is handed out
//! before its digest was checked. Everything here is CPU work without waiting;
//! callers run it on threads of their own.
//!
//! The small sealed payloads of signed objects and WAL chunks are one frame in
//! one age file: [`seal_frame`] and [`open_frame`].

use std::io;

use bytes::Bytes;
use holdfast_proto::manifest::{BLOCK, MAX_PACK, PackRef, StoredObject};
use holdfast_proto::{Blake3Digest, Fingerprint, Sha256Digest};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, compress_bound};

use crate::keyring::Keyring;
use crate::seal::{self, EpochKey, SealError, SealWriter, sealed_bound};

/// The most plaintext that a block may have.
pub const MAX_BLOCK: usize = 4 << 20;
/// The most zstd bytes that a pack may have, so that it stays within
/// [`MAX_PACK`] when sealed.
pub const PACK_ROOM: usize = MAX_PACK - (16 << 10);

const _: () = assert!(sealed_bound(PACK_ROOM) <= MAX_PACK);

/// A pack that could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The block does not fit any more.
    #[error("the pack is full: finish it and begin another")]
    Full,
    /// Larger than a block may be.
    #[error("a block of {0} bytes is larger than {MAX_BLOCK}: cut it into several")]
    BlockTooLarge(usize),
    /// Sealing or opening failed.
    #[error("the pack's seal: {0}")]
    Seal(#[from] SealError),
    /// zstd failed to compress.
    #[error("zstd could not compress")]
    Compress(#[source] io::Error),
    /// The keyring holds no identity for it.
    #[error(
        "no key opens what is sealed to {0}: the key object is missing or none of the identities given unwraps it"
    )]
    NoKey(Fingerprint),
    /// The sealed bytes are not the ones listed.
    #[error("pack {0} is not the one listed (SHA-256 differs): take another copy")]
    Digest(Sha256Digest),
    /// The opened pack does not fit its table of blocks.
    #[error("pack {sha256} does not fit its table of blocks: {why}")]
    Table {
        /// The pack.
        sha256: Sha256Digest,
        /// What does not fit.
        why: String,
    },
    /// A block does not open to what it should.
    #[error("block {block} of pack {sha256} is damaged: {why}")]
    Block {
        /// The pack.
        sha256: Sha256Digest,
        /// The block.
        block: u32,
        /// What is wrong.
        why: String,
    },
    /// A single frame does not open to what it should.
    #[error("the sealed payload is not one zstd frame of at most {limit} bytes: {why}")]
    Frame {
        /// The most bytes allowed.
        limit: usize,
        /// What is wrong.
        why: String,
    },
}

/// A compressed block.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The zstd frame.
    pub bytes: Vec<u8>,
    /// Bytes of plaintext.
    pub raw: u32,
    /// BLAKE3 of the plaintext.
    pub b3: Blake3Digest,
}

/// Makes frames; keeps zstd's working memory from one to the next.
pub struct FrameCompressor {
    zstd: Compressor<'static>,
    level: i32,
}

impl FrameCompressor {
    /// For `level` of zstd (1 is the default of the project; negative is faster).
    pub fn new(level: i32) -> Result<Self, PackError> {
        let mut zstd = Compressor::new(level).map_err(PackError::Compress)?;
        zstd.set_parameter(CParameter::ChecksumFlag(true))
            .map_err(PackError::Compress)?;
        Ok(Self { zstd, level })
    }

    /// Changes the level for the frames that follow.
    pub fn set_level(&mut self, level: i32) -> Result<(), PackError> {
        if level != self.level {
            self.zstd
                .set_compression_level(level)
                .map_err(PackError::Compress)?;
            self.level = level;
        }
        Ok(())
    }

    /// Compresses `raw` into one frame with content size and checksum.
    pub fn compress(&mut self, raw: &[u8]) -> Result<Vec<u8>, PackError> {
        self.zstd.compress(raw).map_err(PackError::Compress)
    }

    /// Compresses a block of at most [`MAX_BLOCK`] bytes.
    pub fn frame(&mut self, raw: &[u8]) -> Result<Frame, PackError> {
        if raw.len() > MAX_BLOCK {
            return Err(PackError::BlockTooLarge(raw.len()));
        }
        Ok(Frame {
            bytes: self.compress(raw)?,
            raw: u32::try_from(raw.len()).expect("a block is at most 4 MiB"),
            b3: Blake3Digest::new(*blake3::hash(raw).as_bytes()),
        })
    }
}

/// Where a block went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockPlace {
    /// Its place in the pack, from 0.
    pub block: u32,
}

/// A pack while it is made.
pub struct PackBuilder {
    sealed_to: Fingerprint,
    out: SealWriter,
    zstd: FrameCompressor,
    used: usize,
    blocks: Vec<(u32, u32)>,
    digests: Vec<Blake3Digest>,
}

impl PackBuilder {
    /// An empty pack sealed to `key`.
    pub fn new(key: &EpochKey, level: i32) -> Result<Self, PackError> {
        Self::with_compressor(key, FrameCompressor::new(level)?)
    }

    /// As [`PackBuilder::new`], with a compressor that was used before.
    pub fn with_compressor(key: &EpochKey, zstd: FrameCompressor) -> Result<Self, PackError> {
        Ok(Self {
            sealed_to: key.fingerprint,
            out: SealWriter::new(std::slice::from_ref(&key.recipient), MAX_PACK)?,
            zstd,
            used: 0,
            blocks: Vec::new(),
            digests: Vec::new(),
        })
    }

    /// Whether a block of `raw` bytes fits, whatever zstd makes of it.
    pub fn has_room_for(&self, raw: usize) -> bool {
        self.used + compress_bound(raw) <= PACK_ROOM
    }

    /// Whether a block of the usual size may not fit any more.
    pub fn is_full(&self) -> bool {
        !self.has_room_for(BLOCK)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Compresses and adds a block of at most [`MAX_BLOCK`] bytes.
    pub fn push_block(&mut self, raw: &[u8]) -> Result<BlockPlace, PackError> {
        let frame = self.zstd.frame(raw)?;
        self.push_frame(&frame)
    }

    /// Changes zstd's level for the blocks that follow.
    pub fn set_level(&mut self, level: i32) -> Result<(), PackError> {
        self.zstd.set_level(level)
    }

    /// Adds a block that was compressed elsewhere.
    pub fn push_frame(&mut self, frame: &Frame) -> Result<BlockPlace, PackError> {
        if self.used + frame.bytes.len() > PACK_ROOM {
            return Err(PackError::Full);
        }
        let block = u32::try_from(self.blocks.len()).expect("a pack of 16 MiB has few blocks");
        self.out.push(&frame.bytes);
        self.used += frame.bytes.len();
        self.blocks
            .push((u32::try_from(frame.bytes.len()).expect("below 16 MiB"), frame.raw));
        self.digests.push(frame.b3);
        Ok(BlockPlace { block })
    }

    /// Ends the seal and hashes. The compressor is given back for the next pack.
    pub fn finish(self) -> Result<(SealedPack, FrameCompressor), PackError> {
        let bytes = self.out.finish();
        let pack = SealedPack {
            sha256: Sha256Digest::of(&bytes),
            bytes: bytes.into(),
            sealed_to: self.sealed_to,
            blocks: self.blocks,
            digests: self.digests,
        };
        Ok((pack, self.zstd))
    }
}

/// A pack ready to be stored.
#[derive(Debug, Clone)]
pub struct SealedPack {
    /// Its bytes.
    pub bytes: Bytes,
    /// Their SHA-256: its name.
    pub sha256: Sha256Digest,
    /// Fingerprint of the epoch key it is sealed to.
    pub sealed_to: Fingerprint,
    /// Bytes of frame and of plaintext of each block.
    pub blocks: Vec<(u32, u32)>,
    /// BLAKE3 of each block's plaintext.
    pub digests: Vec<Blake3Digest>,
}

impl SealedPack {
    /// What manifests need to know of it.
    pub fn known(&self) -> KnownPack {
        KnownPack {
            pack: PackRef {
                sha256: self.sha256,
                size: self.bytes.len() as u64,
                sealed_to: self.sealed_to,
                blocks: self.blocks.clone(),
            },
            digests: self.digests.clone(),
        }
    }

    /// Its name and size.
    pub fn stored(&self) -> StoredObject {
        StoredObject {
            sha256: self.sha256,
            size: self.bytes.len() as u64,
        }
    }
}

/// A stored pack as manifests describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPack {
    /// In the clear index.
    pub pack: PackRef,
    /// In the sealed catalogue: BLAKE3 of each block. Empty when the writer no
    /// longer knows them; readers then go by the pack's SHA-256.
    pub digests: Vec<Blake3Digest>,
}

/// An opened pack.
pub struct PackReader {
    sha256: Sha256Digest,
    frames: Vec<u8>,
    starts: Vec<usize>,
    blocks: Vec<(u32, u32)>,
    digests: Vec<Blake3Digest>,
    zstd: Decompressor<'static>,
}

impl PackReader {
    /// Opens `sealed`, whose digest is checked here too, with the key that
    /// `known` names. Digests of blocks may be missing, but not some of them.
    pub fn open(sealed: &[u8], keyring: &Keyring, known: &KnownPack) -> Result<Self, PackError> {
        if Sha256Digest::of(sealed) != known.pack.sha256 {
            return Err(PackError::Digest(known.pack.sha256));
        }
        Self::open_verified(sealed, keyring, known)
    }

    /// As [`PackReader::open`], of bytes whose SHA-256 was checked on arrival.
    pub(crate) fn open_verified(
        sealed: &[u8],
        keyring: &Keyring,
        known: &KnownPack,
    ) -> Result<Self, PackError> {
        let pack = &known.pack;
        let sha256 = pack.sha256;
        let table = |why: String| PackError::Table { sha256, why };
        if !known.digests.is_empty() && known.digests.len() != pack.blocks.len() {
            return Err(table(format!(
                "{} digests for {} blocks",
                known.digests.len(),
                pack.blocks.len()
            )));
        }
        let identity = keyring
            .identity_for(&pack.sealed_to)
            .ok_or(PackError::NoKey(pack.sealed_to))?;
        let frames = seal::open([identity], sealed, MAX_PACK)?;
        let mut starts = Vec::with_capacity(pack.blocks.len());
        let mut at = 0usize;
        for (stored, raw) in &pack.blocks {
            if *raw as usize > MAX_BLOCK {
                return Err(PackError::BlockTooLarge(*raw as usize));
            }
            starts.push(at);
            at = at.saturating_add(*stored as usize);
        }
        if at != frames.len() {
            return Err(table(format!(
                "{at} bytes of frames are listed, {} are in it",
                frames.len()
            )));
        }
        Ok(Self {
            sha256,
            frames,
            starts,
            blocks: pack.blocks.clone(),
            digests: known.digests.clone(),
            zstd: Decompressor::new().map_err(PackError::Compress)?,
        })
    }

    /// How many blocks it has.
    pub fn len(&self) -> u32 {
        u32::try_from(self.blocks.len()).expect("a table of blocks is shorter than 2^32")
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The plaintext of a block, checked.
    pub fn block(&mut self, block: u32) -> Result<Vec<u8>, PackError> {
        let mut raw = Vec::new();
        self.block_into(block, &mut raw)?;
        Ok(raw)
    }

    /// As [`PackReader::block`], into a buffer that is used again.
    pub fn block_into(&mut self, block: u32, raw: &mut Vec<u8>) -> Result<(), PackError> {
        let sha256 = self.sha256;
        let bad = |why: String| PackError::Block { sha256, block, why };
        let place = block as usize;
        let (stored, length) = *self
            .blocks
            .get(place)
            .ok_or_else(|| bad("the pack has no such block".to_owned()))?;
        let start = self.starts[place];
        let frame = &self.frames[start..start + stored as usize];
        raw.clear();
        raw.reserve_exact(length as usize);
        self.zstd
            .decompress_to_buffer(frame, raw)
            .map_err(|e| bad(e.to_string()))?;
        if raw.len() != length as usize {
            return Err(bad(format!(
                "it opens to {} bytes, {length} are listed",
                raw.len()
            )));
        }
        match self.digests.get(place) {
            Some(digest) if blake3::hash(raw).as_bytes() != digest.as_bytes() => {
                Err(bad("its BLAKE3 is not the one listed".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

/// Seals `raw` as one zstd frame in one age file: WAL chunks, and the payloads
/// of signed objects.
pub fn seal_frame(key: &EpochKey, raw: &[u8], level: i32) -> Result<Vec<u8>, PackError> {
    FrameSealer::new(level)?.seal(key, raw)
}

/// Room behind what is sealed, so that an envelope fits without a move.
const ENVELOPE_ROOM: usize = 4 << 10;

/// As [`seal_frame`], for many: keeps zstd's memory and the frame's.
pub struct FrameSealer {
    zstd: FrameCompressor,
    frame: Vec<u8>,
}

impl FrameSealer {
    /// For `level` of zstd.
    pub fn new(level: i32) -> Result<Self, PackError> {
        Ok(Self {
            zstd: FrameCompressor::new(level)?,
            frame: Vec::new(),
        })
    }

    /// Seals `raw`.
    pub fn seal(&mut self, key: &EpochKey, raw: &[u8]) -> Result<Vec<u8>, PackError> {
        self.frame.clear();
        self.frame.reserve(compress_bound(raw.len()));
        self.zstd
            .zstd
            .compress_to_buffer(raw, &mut self.frame)
            .map_err(PackError::Compress)?;
        let capacity = sealed_bound(self.frame.len()) + ENVELOPE_ROOM;
        let mut out = SealWriter::new(std::slice::from_ref(&key.recipient), capacity)?;
        out.push(&self.frame);
        Ok(out.finish())
    }
}

/// Opens what [`seal_frame`] sealed: exactly one frame of at most `limit` bytes.
pub fn open_frame(
    keyring: &Keyring,
    sealed_to: &Fingerprint,
    sealed: &[u8],
    limit: usize,
) -> Result<Vec<u8>, PackError> {
    let mut opener = FrameOpener::new()?;
    let size = opener.decrypt(keyring, sealed_to, sealed, limit)?;
    let mut raw = vec![0; size];
    opener.decompress(&mut raw)?;
    Ok(raw)
}

/// Opens frames that [`seal_frame`] sealed to where they belong; keeps zstd's
/// memory and the frame's from one to the next.
pub struct FrameOpener {
    zstd: Decompressor<'static>,
    frame: Vec<u8>,
}

impl FrameOpener {
    /// With nothing opened yet.
    pub fn new() -> Result<Self, PackError> {
        Ok(Self {
            zstd: Decompressor::new().map_err(PackError::Compress)?,
            frame: Vec::new(),
        })
    }

    /// Opens exactly one frame of `raw.len()` bytes into `raw`.
    pub fn open_into(
        &mut self,
        keyring: &Keyring,
        sealed_to: &Fingerprint,
        sealed: &[u8],
        raw: &mut [u8],
    ) -> Result<(), PackError> {
        let size = self.decrypt(keyring, sealed_to, sealed, raw.len())?;
        if size != raw.len() {
            let limit = raw.len();
            let why = format!("it opens to {size} bytes");
            return Err(PackError::Frame { limit, why });
        }
        self.decompress(raw)
    }

    /// Decrypts a frame of at most `limit` bytes, and says how many they are.
    fn decrypt(
        &mut self,
        keyring: &Keyring,
        sealed_to: &Fingerprint,
        sealed: &[u8],
        limit: usize,
    ) -> Result<usize, PackError> {
        let identity = keyring
            .identity_for(sealed_to)
            .ok_or(PackError::NoKey(*sealed_to))?;
        seal::open_into([identity], sealed, compress_bound(limit), &mut self.frame)?;
        let bad = |why: String| PackError::Frame { limit, why };
        let size = zstd::zstd_safe::get_frame_content_size(&self.frame)
            .ok()
            .flatten()
            .and_then(|s| usize::try_from(s).ok())
            .ok_or_else(|| bad("its header gives no content size".to_owned()))?;
        if size > limit {
            return Err(bad(format!("it opens to {size} bytes")));
        }
        Ok(size)
    }

    fn decompress(&mut self, raw: &mut [u8]) -> Result<(), PackError> {
        let limit = raw.len();
        let bad = |why: String| PackError::Frame { limit, why };
        let size = self
            .zstd
            .decompress_to_buffer(&self.frame, raw)
            .map_err(|e| bad(e.to_string()))?;
        if size != limit {
            return Err(bad(format!("it opens to {size} bytes, {limit} are announced")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
