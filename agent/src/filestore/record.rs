//! What the agent remembers of a filestore's entries, and its bytes.
//!
//! A [`Shard`] holds the directories whose path falls into one of
//! [`SHARDS`] classes, with all that is directly in them. It is what is read and
//! written at once, so that a filestore of any size is walked with the memory of
//! a few shards.
//!
//! The bytes: magic, then for each directory its stat and entries, lengths and
//! numbers as LEB128, digests raw, and at the end the BLAKE3 of all before it.
//! They never leave this machine; what cannot be read is forgotten, not
//! repaired.

use holdfast_proto::{Blake3Digest, ContentId};

/// Classes of directories.
pub const SHARDS: usize = 256;

const MAGIC: &[u8; 8] = b"HFSHARD1";

/// What tells whether a file may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Bytes.
    pub size: u64,
    /// Modification time in nanoseconds since 1970.
    pub mtime: i64,
    /// Change time in nanoseconds since 1970.
    pub ctime: i64,
    /// Inode number.
    pub inode: u64,
    /// Type and permission bits.
    pub mode: u32,
}

impl Stat {
    /// Of something that could not be looked at: no real stat is equal to it.
    pub const UNKNOWN: Stat = Stat {
        size: 0,
        mtime: 0,
        ctime: 0,
        inode: 0,
        mode: 0,
    };

    /// The permission bits.
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }
}

/// A run of bytes in a pack of the agent's pack table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Number in the pack table.
    pub pack: u32,
    /// Block in the pack.
    pub block: u32,
    /// First byte in the block.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
}

/// What an entry is, and where its content lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file that was captured.
    File {
        /// BLAKE3 of the content.
        b3: Blake3Digest,
        /// Keyed identity of the content.
        id: ContentId,
        /// Its extents, each with its keyed identity.
        extents: Vec<(Place, ContentId)>,
    },
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A file without content in the repository.
    Absent,
}

/// Why an entry is not proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Stable, but its name says other content than it has: torn at the source.
    Torn,
    /// It changed while it was read, or too shortly before.
    Changing,
    /// It could not be read.
    Unreadable,
}

impl Trouble {
    /// What the journal says about it.
    pub fn note(self) -> &'static str {
        match self {
            Trouble::Torn => "torn at the source: the content does not match the name",
            Trouble::Changing => "changed while it was read",
            Trouble::Unreadable => "could not be read",
        }
    }
}

/// One entry of a directory that is not a directory itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Vec<u8>,
    /// As it was when captured.
    pub stat: Stat,
    /// What it is.
    pub content: Content,
    /// Absent when its capture is proven.
    pub trouble: Option<Trouble>,
}

/// One directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Path relative to the filestore's root, without slashes at its ends; empty for
    /// the root itself.
    pub path: Vec<u8>,
    /// As it was just before it was last listed.
    pub stat: Stat,
    /// When that was, in nanoseconds since 1970.
    pub listed: i64,
    /// Its entries by name.
    pub entries: Vec<Entry>,
}

impl Directory {
    /// Whether an entry needs another look even if nothing seems to change.
    pub fn is_troubled(&self) -> bool {
        self.entries.iter().any(|e| e.trouble.is_some())
    }
}

/// Directories that are kept in one file, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shard {
    /// The directories, sorted by path.
    pub directories: Vec<Directory>,
}

/// The class of a directory's path.
pub fn shard_of(directory: &[u8]) -> usize {
    usize::from(blake3::hash(directory).as_bytes()[0]) % SHARDS
}

impl Shard {
    /// The directory at `path`.
    pub fn directory(&self, path: &[u8]) -> Option<&Directory> {
        let at = self
            .directories
            .binary_search_by(|d| d.path.as_slice().cmp(path))
            .ok()?;
        Some(&self.directories[at])
    }

    /// Puts a directory in place of the one with its path.
    pub fn put(&mut self, directory: Directory) {
        match self.directories.binary_search_by(|d| d.path.cmp(&directory.path)) {
            Ok(at) => self.directories[at] = directory,
            Err(at) => self.directories.insert(at, directory),
        }
    }

    /// Takes a directory out.
    pub fn take(&mut self, path: &[u8]) -> Option<Directory> {
        let at = self
            .directories
            .binary_search_by(|d| d.path.as_slice().cmp(path))
            .ok()?;
        Some(self.directories.remove(at))
    }

    /// The bytes to keep.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        put_number(&mut out, self.directories.len() as u64);
        for directory in &self.directories {
            put_bytes(&mut out, &directory.path);
            put_stat(&mut out, &directory.stat);
            put_number(&mut out, directory.listed as u64);
            put_number(&mut out, directory.entries.len() as u64);
            for entry in &directory.entries {
                put_entry(&mut out, entry);
            }
        }
        let digest = blake3::hash(&out);
        out.extend_from_slice(digest.as_bytes());
        out
    }

    /// Reads [`Shard::encode`]'s bytes; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, digest) = bytes.split_last_chunk::<32>()?;
        if blake3::hash(body).as_bytes() != digest {
            return None;
        }
        let mut input = Input(body.strip_prefix(MAGIC)?);
        let mut directories = Vec::new();
        for _ in 0..input.number()? {
            let path = input.bytes()?.to_vec();
            let stat = input.stat()?;
            let listed = input.number()? as i64;
            let mut entries = Vec::new();
            for _ in 0..input.number()? {
                entries.push(input.entry()?);
            }
            directories.push(Directory {
                path,
                stat,
                listed,
                entries,
            });
        }
        input.0.is_empty().then_some(Self { directories })
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_stat(out: &mut Vec<u8>, stat: &Stat) {
    put_number(out, stat.size);
    put_number(out, stat.mtime as u64);
    // Most files never change after they were written.
    put_number(out, stat.ctime.wrapping_sub(stat.mtime) as u64);
    put_number(out, stat.inode);
    put_number(out, u64::from(stat.mode));
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    put_bytes(out, &entry.name);
    put_stat(out, &entry.stat);
    out.push(match entry.trouble {
        None => 0,
        Some(Trouble::Torn) => 1,
        Some(Trouble::Changing) => 2,
        Some(Trouble::Unreadable) => 3,
    });
    match &entry.content {
        Content::File { b3, id, extents } => {
            out.push(0);
            out.extend_from_slice(b3.as_bytes());
            out.extend_from_slice(id.as_bytes());
            put_number(out, extents.len() as u64);
            for (place, extent_id) in extents {
                for number in [place.pack, place.block, place.offset, place.length] {
                    put_number(out, u64::from(number));
                }
                // The only extent of a file has the file's own identity.
                if extents.len() > 1 {
                    out.extend_from_slice(extent_id.as_bytes());
                }
            }
        }
        Content::Symlink(target) => {
            out.push(1);
            put_bytes(out, target);
        }
        Content::Absent => out.push(2),
    }
}

struct Input<'b>(&'b [u8]);

impl<'b> Input<'b> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn small(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn bytes(&mut self) -> Option<&'b [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (first, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(first)
    }

    fn stat(&mut self) -> Option<Stat> {
        let size = self.number()?;
        let mtime = self.number()? as i64;
        let ctime = mtime.wrapping_add(self.number()? as i64);
        Some(Stat {
            size,
            mtime,
            ctime,
            inode: self.number()?,
            mode: self.small()?,
        })
    }

    fn entry(&mut self) -> Option<Entry> {
        let name = self.bytes()?.to_vec();
        let stat = self.stat()?;
        let trouble = match self.byte()? {
            0 => None,
            1 => Some(Trouble::Torn),
            2 => Some(Trouble::Changing),
            3 => Some(Trouble::Unreadable),
            _ => return None,
        };
        let content = match self.byte()? {
            0 => self.file()?,
            1 => Content::Symlink(self.bytes()?.to_vec()),
            2 => Content::Absent,
            _ => return None,
        };
        Some(Entry {
            name,
            stat,
            content,
            trouble,
        })
    }

    fn file(&mut self) -> Option<Content> {
        let b3 = Blake3Digest::new(self.take()?);
        let id = ContentId::new(self.take()?);
        let count = self.number()?;
        let mut extents = Vec::new();
        for _ in 0..count {
            let place = Place {
                pack: self.small()?,
                block: self.small()?,
                offset: self.small()?,
                length: self.small()?,
            };
            let extent_id = if count > 1 {
                ContentId::new(self.take()?)
            } else {
                id
            };
            extents.push((place, extent_id));
        }
        Some(Content::File { b3, id, extents })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stat() -> impl Strategy<Value = Stat> {
        (
            any::<u64>(),
            any::<i64>(),
            any::<i64>(),
            any::<u64>(),
            any::<u32>(),
        )
            .prop_map(|(size, mtime, ctime, inode, mode)| Stat {
                size,
                mtime,
                ctime,
                inode,
                mode,
            })
    }

    fn content() -> impl Strategy<Value = Content> {
        let extents = proptest::collection::vec((any::<[u32; 4]>(), any::<[u8; 16]>()), 0..4);
        prop_oneof![
            (any::<[u8; 32]>(), any::<[u8; 16]>(), extents).prop_map(|(b3, id, extents)| {
                let single = extents.len() == 1;
                Content::File {
                    b3: Blake3Digest::new(b3),
                    id: ContentId::new(id),
                    extents: (extents.into_iter())
                        .map(|([pack, block, offset, length], e)| {
                            let place = Place {
                                pack,
                                block,
                                offset,
                                length,
                            };
                            (place, ContentId::new(if single { id } else { e }))
                        })
                        .collect(),
                }
            }),
            proptest::collection::vec(any::<u8>(), 0..9).prop_map(Content::Symlink),
            Just(Content::Absent),
        ]
    }

    fn shard() -> impl Strategy<Value = Shard> {
        let trouble = prop_oneof![
            Just(None),
            Just(Some(Trouble::Torn)),
            Just(Some(Trouble::Changing)),
            Just(Some(Trouble::Unreadable)),
        ];
        let entry = (
            proptest::collection::vec(any::<u8>(), 0..9),
            stat(),
            content(),
            trouble,
        )
            .prop_map(|(name, stat, content, trouble)| Entry {
                name,
                stat,
                content,
                trouble,
            });
        let directory = (
            proptest::collection::vec(any::<u8>(), 0..9),
            stat(),
            any::<i64>(),
            proptest::collection::vec(entry, 0..4),
        )
            .prop_map(|(path, stat, listed, entries)| Directory {
                path,
                stat,
                listed,
                entries,
            });
        proptest::collection::vec(directory, 0..4).prop_map(|directories| Shard { directories })
    }

    proptest! {
        #[test]
        fn round_trips(shard in shard()) {
            prop_assert_eq!(Shard::decode(&shard.encode()), Some(shard));
        }

        #[test]
        fn damage_is_noticed(shard in shard(), at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>()) {
            let bytes = shard.encode();
            let mut flipped = bytes.clone();
            flipped[at.index(bytes.len())] ^= 1 << bit;
            prop_assert_eq!(Shard::decode(&flipped), None);
            prop_assert_eq!(Shard::decode(&bytes[..cut.index(bytes.len())]), None);
        }
    }
}
