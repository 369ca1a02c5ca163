//! Verifies the pages of relation files while they are copied.
//!
//! A page whose checksum fails may have been read while the server wrote it, so
//! it is read again before it is believed. A page that was changed after the
//! backup began is repaired by WAL, whatever the copy looks like; whether the
//! position in a damaged page can be believed is known at the end of the backup
//! ([`Verdicts::settle`]).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread::sleep;
use std::time::Duration;

use holdfast_proto::manifest::BadPage;
use holdfast_proto::pg::Lsn;

use super::rules::RelationFile;
use crate::page::{self, PAGE, PageCheck};

/// How often a page that fails is read again, and the pause before.
const REREADS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(2);

/// How many bad pages are named; all are counted.
pub const NAMED: usize = 10_000;

/// What was found about pages.
#[derive(Debug, Default)]
pub struct Verdicts {
    /// Pages looked at.
    pub verified: u64,
    /// Pages that no WAL repairs, as far as known.
    pub bad: u64,
    /// The first of them, by name.
    pub named: Vec<BadPage>,
    /// Pages that fail and say that they were changed after the backup began.
    suspects: Vec<(Lsn, BadPage)>,
}

impl Verdicts {
    /// Takes in what another thread found.
    pub fn merge(&mut self, other: Verdicts) {
        self.verified += other.verified;
        self.bad += other.bad;
        self.named.extend(other.named);
        self.named.truncate(NAMED);
        self.suspects.extend(other.suspects);
    }

    fn condemn(&mut self, page: BadPage) {
        self.bad += 1;
        if self.named.len() < NAMED {
            self.named.push(page);
        }
    }

    /// Decides about the suspects: a position beyond the backup's end was never
    /// written by the server, so no WAL repairs that page.
    pub fn settle(&mut self, stop: Lsn) {
        for (lsn, page) in std::mem::take(&mut self.suspects) {
            if lsn > stop {
                self.condemn(page);
            }
        }
        self.named
            .sort_by(|a, b| (&a.path, a.block).cmp(&(&b.path, b.block)));
    }
}

/// The relation file that is copied.
#[derive(Debug, Clone, Copy)]
pub struct Pages<'a> {
    /// The open file.
    pub file: &'a File,
    /// Its path, for the report.
    pub path: &'a str,
    /// Which part of which fork it is.
    pub relation: RelationFile,
    /// Pages in each file of a fork.
    pub per_file: u32,
    /// Where the backup began.
    pub start: Lsn,
}

impl Pages<'_> {
    /// Verifies the whole pages in `bytes`, which were read at `offset`; a page
    /// that holds on a later look replaces the one that was read first.
    ///
    /// # Errors
    /// The file cannot be read again.
    pub fn verify(&self, offset: u64, bytes: &mut [u8], verdicts: &mut Verdicts) -> std::io::Result<()> {
        let first = offset / PAGE as u64;
        let (pages, _) = bytes.as_chunks_mut::<PAGE>();
        for (n, page) in (first..).zip(pages) {
            verdicts.verified += 1;
            let block = self
                .relation
                .segment
                .wrapping_mul(self.per_file)
                .wrapping_add(n as u32);
            let mut check = page::check(page, block);
            for _ in 0..REREADS {
                if !matches!(check, PageCheck::Bad { .. }) {
                    break;
                }
                sleep(PAUSE);
                let mut again = [0; PAGE];
                let read = read_at(self.file, &mut again, n * PAGE as u64)?;
                if read < PAGE {
                    // Cut off meanwhile, which is in the WAL.
                    check = PageCheck::New;
                    break;
                }
                check = page::check(&again, block);
                *page = again;
            }
            if let PageCheck::Bad { found, expected, lsn } = check {
                let bad = BadPage {
                    path: self.path.to_owned(),
                    block,
                    found,
                    expected,
                };
                match lsn {
                    Some(lsn) if lsn >= self.start => verdicts.suspects.push((lsn, bad)),
                    _ => verdicts.condemn(bad),
                }
            }
        }
        Ok(())
    }
}

/// Reads until `bytes` is full or the file ends; returns how many came.
pub fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut have = 0;
    while have < bytes.len() {
        match file.read_at(&mut bytes[have..], offset + have as u64) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rules::Fork;

    fn page(block: u32, lsn: u64, fill: u8) -> [u8; PAGE] {
        let mut page = [fill; PAGE];
        page[..4].copy_from_slice(&((lsn >> 32) as u32).to_le_bytes());
        page[4..8].copy_from_slice(&(lsn as u32).to_le_bytes());
        page[14..16].copy_from_slice(&100u16.to_le_bytes());
        let sum = page::checksum(&page, block);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    #[test]
    fn bad_pages_are_named_and_torn_ones_read_again() {
        let per_file = 131_072;
        let relation = RelationFile {
            relation: 5,
            fork: Fork::Main,
            segment: 2,
        };
        let block = |n: u32| 2 * per_file + n;
        let mut bytes = Vec::new();
        bytes.extend(page(block(0), 50, 1));
        bytes.extend(page(block(1), 50, 2));
        bytes.extend(page(block(2), 150, 3));
        bytes.extend(page(block(3), 950, 4));
        let torn = bytes.clone();
        for n in 1..4 {
            bytes[n * PAGE + 4000] ^= 0xFF;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("5.2");
        std::fs::write(&path, &bytes).unwrap();
        let file = File::open(&path).unwrap();
        let pages = Pages {
            file: &file,
            path: "base/1/5.2",
            relation,
            per_file,
            start: Lsn::new(100),
        };
        let mut verdicts = Verdicts::default();
        pages.verify(0, &mut bytes.clone(), &mut verdicts).unwrap();
        assert_eq!(
            (verdicts.verified, verdicts.bad),
            (4, 1),
            "changed pages wait for the end"
        );
        verdicts.settle(Lsn::new(200));
        let named: Vec<u32> = verdicts.named.iter().map(|p| p.block).collect();
        assert_eq!(
            named,
            [block(1), block(3)],
            "a position beyond the end is not believed"
        );

        // The file is whole by now, only the copy was torn.
        std::fs::write(&path, &torn).unwrap();
        let mut copy = bytes;
        let mut verdicts = Verdicts::default();
        pages.verify(0, &mut copy, &mut verdicts).unwrap();
        verdicts.settle(Lsn::new(200));
        assert_eq!((verdicts.bad, copy == torn), (0, true));
    }
}
