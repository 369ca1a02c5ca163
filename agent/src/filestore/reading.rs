//! Reads one file and says whether what was read can be believed.
//!
//! Size, times and inode are taken from the open file before and after the read.
//! What else is needed depends on the adapter: where the name promises the
//! content's SHA-1, that is the proof; elsewhere the file must have been left
//! alone for longer than the clock that stamps it can resolve, or a write in the
//! same tick could go unnoticed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use holdfast_proto::manifest::BLOCK;
use holdfast_proto::{Blake3Digest, ContentId};
use holdfast_repository::seal::IndexKey;
use rustix::fs::OFlags;

use super::listing::{clock, stat_of};
use super::packing::{Extents, Packer, PackingStopped};
use super::record::{Stat, Trouble};

/// How long a file whose content contradicts its name must have been left alone
/// to be called torn rather than still being written.
const TORN_AFTER: i64 = 10_000_000_000;

/// A file as it was read.
#[derive(Debug)]
pub struct Reading {
    /// Its stat after the read.
    pub stat: Stat,
    /// BLAKE3 of what was read.
    pub b3: Blake3Digest,
    /// Keyed identity of what was read.
    pub id: ContentId,
    /// Where it lies.
    pub extents: Extents,
    /// Absent when the capture is proven.
    pub trouble: Option<Trouble>,
}

/// Why a file was not read to its end.
#[derive(Debug)]
pub enum NotRead {
    /// It is not there any more, or something else than a file has its name.
    Vanished,
    /// It cannot be read.
    Refused(io::Error),
    /// The capture has ended meanwhile.
    Stopped(PackingStopped),
}

impl From<PackingStopped> for NotRead {
    fn from(why: PackingStopped) -> Self {
        NotRead::Stopped(why)
    }
}

impl From<io::Error> for NotRead {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => NotRead::Vanished,
            _ => NotRead::Refused(error),
        }
    }
}

/// What a reader needs to know beside the file.
#[derive(Clone, Copy)]
pub struct Rules<'r> {
    /// The key of content ids.
    pub index_key: &'r IndexKey,
    /// What the clock that stamps files cannot tell apart, in nanoseconds.
    pub margin: i64,
}

/// Reads a file into a packer.
pub fn read(
    path: &Path,
    promised: Option<[u8; 20]>,
    rules: Rules<'_>,
    packer: &mut Packer<'_>,
) -> Result<Reading, NotRead> {
    // Not blocking: the name may have become a pipe since it was listed.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let started = clock();
    let opened = file.metadata()?;
    if !opened.is_file() {
        // A pipe or a directory has taken its name since it was listed.
        return Err(NotRead::Vanished);
    }
    let before = stat_of(&opened);

    let mut buffer = vec![0; buffer_size(before.size)];
    let mut plain = blake3::Hasher::new();
    let mut keyed = None;
    let mut id = rules.index_key.content_id(&[]);
    let mut sha1 = promised.map(|_| sha1::Sha1::new());
    let mut extents = Extents::default();
    let mut size = 0u64;
    loop {
        let length = fill(&mut file, &mut buffer)?;
        let bytes = &buffer[..length];
        plain.update(bytes);
        if let Some(sha1) = &mut sha1 {
            sha1.update(bytes);
        }
        let whole = size == 0 && length < buffer.len();
        size += length as u64;
        if length > 0 {
            let piece = rules.index_key.content_id(bytes);
            if whole && length <= BLOCK / 2 {
                packer.add_small(bytes, piece, &mut extents)?;
            } else {
                packer.add_block(bytes, piece, &mut extents)?;
            }
            if whole {
                // The only piece of a file has the file's own identity.
                id = piece;
            } else {
                keyed
                    .get_or_insert_with(|| rules.index_key.hasher())
                    .update(bytes);
            }
        }
        if length < buffer.len() {
            break;
        }
    }

    let after = stat_of(&file.metadata()?);
    let quiet = before == after && size == after.size;
    let trouble = match (promised, sha1) {
        (Some(promised), Some(sha1)) if sha1.digest().bytes() == promised => None,
        (Some(_), _) if quiet && after.ctime < started - TORN_AFTER => Some(Trouble::Torn),
        (Some(_), _) => Some(Trouble::Changing),
        (None, _) if quiet && after.ctime < started - rules.margin => None,
        (None, _) => Some(Trouble::Changing),
    };
    Ok(Reading {
        // The size is that of the bytes, whatever the file has become since.
        stat: Stat { size, ..after },
        b3: Blake3Digest::new(*plain.finalize().as_bytes()),
        id: keyed.as_ref().map_or(id, IndexKey::finish),
        extents,
        trouble,
    })
}

/// One byte more than a small file has, so that its end is seen in one read.
fn buffer_size(size: u64) -> usize {
    usize::try_from(size).map_or(BLOCK, |s| s.saturating_add(1).min(BLOCK))
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// What the clock of the file system that holds `root` cannot tell apart: a few
/// ticks of a local kernel, several seconds of a network's caches.
pub fn clock_margin(root: &Path) -> i64 {
    const NETWORK: [u32; 6] = [
        0x6969,      // NFS
        0xFF53_4D42, // CIFS
        0xFE53_4D42, // SMB2
        0x6573_5546, // FUSE
        0x00C3_6400, // Ceph
        0x0BD0_0BD0, // Lustre
    ];
    match rustix::fs::statfs(root) {
        Ok(fs) if !NETWORK.contains(&(fs.f_type as u32)) => 50_000_000,
        _ => 5_000_000_000,
    }
}
