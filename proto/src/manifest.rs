//! How a backup maps files to extents in packs.
//!
//! A manifest is a list of [`Part`]s. Each part is two objects of matching
//! lines: the *index* in clear (opaque ids, extents, packs, sizes: what an
//! agent needs to know again what is stored, and what a coordinator needs to
//! plan) and the *catalogue*, sealed (names, modes, digests of plaintext).
//!
//! - index: a zstd file of JSON lines. Line 1 is [`IndexHead`], then one
//!   [`IndexLine`] for each entry. Stored in clear under its SHA-256.
//! - catalogue: a pack (age of zstd) of JSON lines. Line 1 is
//!   [`CatalogueHead`], then one [`CatalogueLine`] for each entry, in the same
//!   order. Stored as a pack under its SHA-256.
//!
//! An extent is (pack, block, offset, length): `length` bytes at `offset` of
//! the plaintext of block `block` of pack `pack`, where `pack` counts in the
//! part's own table. The bytes of an entry are its extents one after another.
//! Packs may have been stored by an earlier backup: every part says all that is
//! needed to read its entries, there is no chain.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Blake3Digest, ContentId, Fingerprint, Sha256Digest, Timestamp};

/// The most bytes a pack may have.
pub const MAX_PACK: usize = 16 << 20;
/// Bytes of plaintext that a block aims at.
pub const BLOCK: usize = 1 << 20;
/// The most entries that a part should hold, so that memory stays bounded.
pub const PART_ENTRIES: usize = 20_000;

/// A stored object by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredObject {
    /// SHA-256 of its bytes, which is its name.
    pub sha256: Sha256Digest,
    /// Bytes.
    pub size: u64,
}

/// One part of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The clear index (`indexes/<xx>/<sha256>`).
    pub index: StoredObject,
    /// The sealed catalogue (`packs/<xx>/<sha256>`).
    pub catalogue: StoredObject,
    /// Fingerprint of the epoch key that the catalogue is sealed to.
    pub sealed_to: Fingerprint,
    /// Entries in it.
    pub entries: u64,
    /// Plaintext bytes of its entries.
    pub bytes: u64,
}

/// A pack as an index describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackRef {
    /// SHA-256 of the pack, which is its name.
    pub sha256: Sha256Digest,
    /// Bytes.
    pub size: u64,
    /// Fingerprint of the epoch key that it is sealed to.
    pub sealed_to: Fingerprint,
    /// Its blocks: bytes of the zstd frame, bytes of plaintext. Frames follow
    /// each other from the start of what `age -d` yields.
    pub blocks: Vec<(u32, u32)>,
}

/// First line of an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexHead {
    /// The packs that the part's extents count in.
    pub packs: Vec<PackRef>,
}

/// A run of bytes in a block. Written as `[pack, block, offset, length, id]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent(
    /// Place of the pack in [`IndexHead::packs`].
    pub u32,
    /// Place of the block in the pack.
    pub u32,
    /// First byte within the block's plaintext.
    pub u32,
    /// Bytes.
    pub u32,
    /// Keyed identity of these bytes.
    pub ContentId,
);

/// One entry in clear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexLine {
    /// Keyed identity of the entry's path.
    pub e: ContentId,
    /// Keyed identity of the entry's whole content, for filestores.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub c: Option<ContentId>,
    /// Its bytes.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub x: Vec<Extent>,
}

/// First line of a catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueHead {
    /// BLAKE3 of each block's plaintext: a list for each pack of the index, in
    /// its order.
    pub blocks: Vec<Vec<Blake3Digest>>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A file that went away (filestore deltas).
    Removed,
    /// A file that could not be captured whole (filestores): a finding, not content.
    Dirty,
}

/// One entry, sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueLine {
    /// Path relative to the root of the capture, `/` between names. A base
    /// backup's tablespaces lie under `pg_tblspc/<oid>/`. A name that is not
    /// UTF-8 is given in `path_bytes` and shown lossily here.
    pub path: String,
    /// Base64 of the path's bytes when they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path_bytes: Option<String>,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: EntryType,
    /// Permission bits (octal 07777 as a number).
    #[serde(default)]
    pub mode: u32,
    /// Bytes of a file.
    #[serde(default)]
    pub size: u64,
    /// Modification time.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mtime: Option<Timestamp>,
    /// BLAKE3 of the whole content of a file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub b3: Option<Blake3Digest>,
    /// Target of a symbolic link; reason of a dirty file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub note: Option<String>,
}

/// The sealed payload of a base backup's commit object: JSON in zstd in age.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseDetails {
    /// Tablespace locations at the source, by object id.
    pub tablespaces: BTreeMap<u32, String>,
    /// Pages whose checksum failed and that WAL does not repair.
    pub bad_pages: Vec<BadPage>,
    /// The version text, as `version()` says.
    pub version: String,
    /// Settings that a restored server must have at least (`max_connections` …).
    pub settings: BTreeMap<String, String>,
    /// Where configuration files lie, as the server says (`config_file` …).
    pub configuration_files: BTreeMap<String, String>,
}

/// A damaged page at the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BadPage {
    /// Path of the relation's file in the data directory.
    pub path: String,
    /// Block number within the relation fork.
    pub block: u32,
    /// Checksum in the page.
    pub found: u16,
    /// Checksum of the page.
    pub expected: u16,
}
