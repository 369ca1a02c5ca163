//! Makes WAL objects of chunks: compressed, sealed, signed, chained.
//!
//! CPU work only. The sealer carries the chain from one object to the next, so
//! it is used by one task, in the order of the log; a chunk that was sealed is
//! stored, or the chain would name an object that does not exist.

use holdfast_proto::Sha256Digest;
use holdfast_proto::envelope::Link;
use holdfast_proto::names::Lineage;
use holdfast_proto::pg::SegmentSize;
use holdfast_proto::record::{AfterGap, WalBody, WalChunk, WalChunkId};
use holdfast_repository::keyring::Wrapped;
use holdfast_repository::layout::{self, WalName};
use holdfast_repository::pack::{FrameSealer, PackError};
use holdfast_repository::publisher::Publisher;
use holdfast_repository::seal::{EpochKey, IndexKey};
use holdfast_repository::signed::Content;

use super::chunk::Chunk;
use super::ledger::SealedChunk;

/// zstd's level for WAL: what keeps up with a busy server on a fraction of a core.
const LEVEL: i32 = 1;

/// Where the chain of WAL objects stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// The object before.
    pub previous: Option<Link>,
    /// The digest of the ciphertext of the chunk that ends where the next one
    /// begins.
    pub follows: Option<Sha256Digest>,
    /// What is missing before the next one.
    pub after_gap: Option<AfterGap>,
}

/// What every object of a stream has in common.
#[derive(Debug, Clone)]
pub struct Origin {
    /// In whose name, and where to.
    pub publisher: Publisher,
    /// The line of descent.
    pub lineage: Lineage,
    /// PostgreSQL's version.
    pub version_num: u32,
    /// Bytes of a segment.
    pub segment_size: SegmentSize,
    /// With what chunks are made known again; without it they are not.
    pub index_key: Option<IndexKey>,
}

/// By what WAL is known again to a holder of `key`.
pub fn chunk_id(key: &IndexKey, wal: &[u8]) -> WalChunkId {
    WalChunkId {
        key: key.fingerprint(),
        content: key.content_id(wal),
    }
}

/// Seals chunk after chunk: what is worked in, and where the chain stands.
pub struct ChunkSealer {
    origin: Origin,
    chain: Chain,
    frames: FrameSealer,
}

impl ChunkSealer {
    /// Goes on with `chain`.
    ///
    /// # Errors
    /// There is no memory for the compressor.
    pub fn new(origin: Origin, chain: Chain) -> Result<Self, PackError> {
        Ok(Self {
            origin,
            chain,
            frames: FrameSealer::new(LEVEL)?,
        })
    }

    /// Seals `chunk` to `key`, signs it, and moves the chain on.
    ///
    /// # Errors
    /// Compressing or sealing failed, which no WAL can cause.
    pub fn seal(&mut self, key: &Wrapped<EpochKey>, chunk: Chunk) -> Result<SealedChunk, PackError> {
        seal_chunk(&self.origin, key, &mut self.chain, &mut self.frames, chunk)
    }

    /// The next chunk follows `chain`: what lies between is stored already.
    pub fn go_on_with(&mut self, chain: Chain) {
        self.chain = chain;
    }

    /// Where the chain stands.
    pub fn into_chain(self) -> Chain {
        self.chain
    }
}

fn seal_chunk(
    origin: &Origin,
    key: &Wrapped<EpochKey>,
    chain: &mut Chain,
    frames: &mut FrameSealer,
    chunk: Chunk,
) -> Result<SealedChunk, PackError> {
    let Chunk {
        timeline,
        start,
        end,
        bytes,
        facts,
    } = chunk;
    let sealed = frames.seal(&key.key, &bytes)?;
    let size = sealed.len() as u64;
    let content = Content::from(sealed);
    let sha256 = content.sha256();
    let sealed_to = key.key.fingerprint;
    let id = origin.index_key.as_ref().map(|key| chunk_id(key, &bytes));
    // The object is signed in the room of what it came from.
    drop(bytes);
    let name = WalName {
        timeline,
        segment: origin.segment_size.segment_of(start),
        start,
        end,
        latest_commit: facts.last_commit.map(|mark| mark.time),
    };
    let object_key = layout::wal(&origin.publisher.cluster, origin.lineage, &name);
    let body = WalBody {
        system: origin.lineage.system,
        version_num: origin.version_num,
        timeline,
        segment_size: origin.segment_size,
        start,
        end,
        chunks: vec![WalChunk {
            start,
            end,
            size,
            sha256,
            sealed_to,
            id,
        }],
        follows: chain.follows,
        last_commit: facts.last_commit,
        first_commit: facts.first_commit,
        latest_time: facts.latest_time,
        commits: facts.commits,
        last_record: facts.last_record,
        restore_points: facts.restore_points,
        after_gap: chain.after_gap,
    };
    let previous = chain.previous.clone();
    let object = origin
        .publisher
        .sign(&object_key, content, Some(sealed_to), previous, &body);
    *chain = Chain {
        previous: Some(Link {
            key: object_key.clone(),
            sha256: object.sha256,
        }),
        follows: Some(sha256),
        after_gap: None,
    };
    Ok(SealedChunk {
        key: object_key,
        object: object.bytes,
        needs: key.object.clone(),
        timeline,
        start,
        end,
        id,
    })
}
