//! The tree as static files, in the layout of C2SP `tlog-tiles`.
//!
//! A tile is a run of up to 256 hashes of one level; level *l* holds the roots
//! of full runs of 256^*l* entries. A tile with fewer is partial and carries its
//! width in its name. Entry bundles hold the entries themselves, each behind a
//! two-byte length. Files are produced here, never written.

use holdfast_proto::Sha256Digest;

use super::merkle::{Tree, root};

/// Hashes in a full tile: two to the tile height, which is eight.
pub const TILE_WIDTH: usize = 256;

/// The longest entry that a bundle can carry.
pub const MAX_ENTRY: usize = u16::MAX as usize;

/// An entry that no bundle can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "entry {index} has {bytes} bytes and a log entry holds at most {MAX_ENTRY}: shorten what the statement \
     says (fewer checks, shorter texts)"
)]
pub struct EntryTooLong {
    /// Where in the log it stands.
    pub index: u64,
    /// Its length.
    pub bytes: usize,
}

/// A file of the log: its path below the log's prefix, and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// For example `tile/0/x001/067.p/12`.
    pub path: String,
    /// The bytes to store there.
    pub bytes: Vec<u8>,
}

/// The path of hash tile `n` at `level`, `width` hashes wide.
pub fn tile_path(level: u8, n: u64, width: usize) -> String {
    format!("tile/{level}/{}", index_path(n, width))
}

/// The path of entry bundle `n` with `width` entries.
pub fn bundle_path(n: u64, width: usize) -> String {
    format!("tile/entries/{}", index_path(n, width))
}

/// `1234067` becomes `x001/x234/067`, so that no directory grows without bound.
fn index_path(n: u64, width: usize) -> String {
    let mut text = format!("{:03}", n % 1000);
    let mut rest = n / 1000;
    while rest > 0 {
        text = format!("x{:03}/{text}", rest % 1000);
        rest /= 1000;
    }
    if width < TILE_WIDTH {
        format!("{text}.p/{width}")
    } else {
        text
    }
}

/// Every hash tile that a tree of this size needs, full and partial.
pub fn hash_tiles(tree: &Tree) -> Vec<LogFile> {
    let mut files = Vec::new();
    let mut row: Vec<Sha256Digest> = tree.leaves().to_vec();
    let mut level = 0;
    while !row.is_empty() {
        for (n, tile) in row.chunks(TILE_WIDTH).enumerate() {
            let bytes = tile.iter().flat_map(|h| h.as_bytes()).copied().collect();
            files.push(LogFile {
                path: tile_path(level, n as u64, tile.len()),
                bytes,
            });
        }
        row = row.chunks_exact(TILE_WIDTH).map(root).collect();
        level += 1;
    }
    files
}

/// The paths of the bottom row's tiles for a tree of `size` entries, in order.
pub fn leaf_tile_paths(size: u64) -> Vec<String> {
    paths(size, |n, width| tile_path(0, n, width))
}

/// The paths of the entry bundles for a log of `size` entries, in order.
pub fn bundle_paths(size: u64) -> Vec<String> {
    paths(size, bundle_path)
}

fn paths(size: u64, name: impl Fn(u64, usize) -> String) -> Vec<String> {
    let width = TILE_WIDTH as u64;
    (0..size.div_ceil(width))
        .map(|n| name(n, (size - n * width).min(width) as usize))
        .collect()
}

/// The hashes of a tile; `None` when its length is not a whole number of them.
pub fn read_tile(bytes: &[u8]) -> Option<Vec<Sha256Digest>> {
    let whole = bytes.chunks_exact(32);
    if !whole.remainder().is_empty() {
        return None;
    }
    Some(
        whole
            .map(|h| Sha256Digest::new(h.try_into().expect("chunks of 32 bytes")))
            .collect(),
    )
}

/// Every entry bundle of a log.
pub fn entry_bundles<T: AsRef<[u8]>>(entries: &[T]) -> Result<Vec<LogFile>, EntryTooLong> {
    let mut files = Vec::new();
    for (n, run) in entries.chunks(TILE_WIDTH).enumerate() {
        let mut bytes = Vec::new();
        for (at, entry) in run.iter().map(AsRef::as_ref).enumerate() {
            let length = u16::try_from(entry.len()).map_err(|_| EntryTooLong {
                index: (n * TILE_WIDTH + at) as u64,
                bytes: entry.len(),
            })?;
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(entry);
        }
        files.push(LogFile {
            path: bundle_path(n as u64, run.len()),
            bytes,
        });
    }
    Ok(files)
}

/// The entries of a bundle; `None` when it ends inside one.
pub fn read_bundle(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (entry, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        entries.push(entry.to_vec());
        bytes = rest;
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_tiles_as_the_specification_does() {
        assert_eq!(tile_path(0, 1_234_067, 256), "tile/0/x001/x234/067");
        assert_eq!(tile_path(1, 0, 17), "tile/1/000.p/17");
        assert_eq!(bundle_path(1000, 1), "tile/entries/x001/000.p/1");
    }

    /// The example of the specification: 70,000 entries.
    #[test]
    fn makes_the_tiles_that_the_specification_counts() {
        let tree = Tree::from_entries((0u32..70_000).map(|n| n.to_be_bytes()));
        let files = hash_tiles(&tree);
        let at = |level: &str| {
            files
                .iter()
                .filter(|f| f.path.starts_with(level))
                .collect::<Vec<_>>()
        };
        let full = |files: &[&LogFile]| files.iter().filter(|f| f.bytes.len() == 8192).count();
        assert_eq!((at("tile/0/").len(), full(&at("tile/0/"))), (274, 273));
        assert_eq!(at("tile/0/").last().unwrap().path, "tile/0/273.p/112");
        assert_eq!((at("tile/1/").len(), full(&at("tile/1/"))), (2, 1));
        assert_eq!(at("tile/1/")[1].path, "tile/1/001.p/17");
        assert_eq!(at("tile/2/")[0].path, "tile/2/000.p/1");
        assert_eq!(files.len(), 277);
        assert_eq!(
            leaf_tile_paths(70_000),
            at("tile/0/").iter().map(|f| f.path.clone()).collect::<Vec<_>>()
        );
        let leaves: Vec<_> = at("tile/0/")
            .iter()
            .flat_map(|f| read_tile(&f.bytes).unwrap())
            .collect();
        assert_eq!(Tree::from_leaf_hashes(leaves), tree);

        let exact = hash_tiles(&Tree::from_entries((0u32..256).map(|n| n.to_be_bytes())));
        let names: Vec<_> = exact.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(names, ["tile/0/000", "tile/1/000.p/1"]);
        assert!(hash_tiles(&Tree::default()).is_empty());
    }

    #[test]
    fn refuses_an_entry_that_no_bundle_holds() {
        let entries = [vec![0u8; MAX_ENTRY], vec![0u8; MAX_ENTRY + 1]];
        assert_eq!(
            entry_bundles(&entries[..1]).unwrap()[0].bytes.len(),
            MAX_ENTRY + 2
        );
        assert_eq!(
            entry_bundles(&entries).unwrap_err(),
            EntryTooLong {
                index: 1,
                bytes: MAX_ENTRY + 1
            }
        );
    }

    proptest! {
        #[test]
        fn bundles_round_trip(entries in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..600)) {
            let files = entry_bundles(&entries).unwrap();
            prop_assert_eq!(
                files.iter().map(|f| f.path.clone()).collect::<Vec<_>>(),
                bundle_paths(entries.len() as u64)
            );
            let back: Vec<_> = files.iter().flat_map(|f| read_bundle(&f.bytes).unwrap()).collect();
            prop_assert_eq!(back, entries);
        }

        #[test]
        fn foreign_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(entries) = read_bundle(&bytes) {
                prop_assert_eq!(&entry_bundles(&entries).unwrap().first().map_or(vec![], |f| f.bytes.clone()), &bytes);
            }
            prop_assert_eq!(read_tile(&bytes).is_some(), bytes.len() % 32 == 0);
        }
    }
}
