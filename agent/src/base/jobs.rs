//! Cuts the copying of a data directory into pieces of work for several threads.
//!
//! Pure. Small files are batched, so that they share blocks; large files are cut
//! into ranges, so that one of them does not keep one thread busy while the
//! others are done. The largest pieces come first, for the same reason.

use std::ops::Range;

use holdfast_proto::manifest::BLOCK;

use super::walk::FoundFile;

/// Bytes of a large file that one job copies; a whole number of blocks, so that
/// the borders of blocks within a file are the same in every backup.
pub const RANGE: u64 = 32 << 20;

const _: () = assert!(RANGE.is_multiple_of(BLOCK as u64));

/// One piece of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Whole files, by place in the survey.
    Files(Vec<u32>),
    /// A range of a large file.
    Part {
        /// The file's place in the survey.
        file: u32,
        /// Which of its ranges, from 0.
        part: u32,
        /// Its bytes.
        bytes: Range<u64>,
    },
}

/// How many ranges a file of `size` bytes is cut into.
pub fn parts_of(size: u64) -> u32 {
    u32::try_from(size.div_ceil(RANGE).max(1)).unwrap_or(u32::MAX)
}

/// The jobs that copy `files`, in the order in which they are to be begun.
pub fn jobs(files: &[FoundFile]) -> Vec<Job> {
    let mut large = Vec::new();
    let mut middle = Vec::new();
    let mut batches = Vec::new();
    let (mut batch, mut batched) = (Vec::new(), 0u64);
    for (file, found) in (0u32..).zip(files) {
        if found.size > RANGE {
            large.push((file, found.size));
        } else if found.size >= BLOCK as u64 {
            middle.push((file, found.size));
        } else {
            batch.push(file);
            batched += found.size;
            if batched >= BLOCK as u64 || batch.len() >= 256 {
                batches.push(Job::Files(std::mem::take(&mut batch)));
                batched = 0;
            }
        }
    }
    if !batch.is_empty() {
        batches.push(Job::Files(batch));
    }
    let largest_first = |(file, size): &(u32, u64)| (std::cmp::Reverse(*size), *file);
    large.sort_by_key(largest_first);
    middle.sort_by_key(largest_first);
    let ranges = large.into_iter().flat_map(|(file, size)| {
        (0..parts_of(size)).map(move |part| {
            let start = u64::from(part) * RANGE;
            Job::Part {
                file,
                part,
                bytes: start..size.min(start + RANGE),
            }
        })
    });
    let whole = middle.into_iter().map(|(file, _)| Job::Files(vec![file]));
    ranges.chain(whole).chain(batches).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_proto::Timestamp;
    use proptest::prelude::*;

    fn file(size: u64) -> FoundFile {
        FoundFile {
            path: "x".into(),
            size,
            mode: 0o600,
            mtime: Timestamp::from_unix_micros(0),
            relation: None,
        }
    }

    proptest! {
        #[test]
        fn every_byte_is_copied_once(sizes in proptest::collection::vec(0u64..100 << 20, 0..60)) {
            let files: Vec<FoundFile> = sizes.iter().map(|size| file(*size)).collect();
            let mut seen = vec![0u64; files.len()];
            let mut times = vec![0u32; files.len()];
            for job in jobs(&files) {
                match job {
                    Job::Files(batch) => {
                        for n in batch {
                            seen[n as usize] += files[n as usize].size;
                            times[n as usize] += 1;
                        }
                    }
                    Job::Part { file, part, bytes } => {
                        prop_assert_eq!(bytes.start, u64::from(part) * RANGE);
                        prop_assert!(bytes.start < bytes.end);
                        seen[file as usize] += bytes.end - bytes.start;
                        times[file as usize] += 1;
                    }
                }
            }
            prop_assert_eq!(seen, sizes.clone());
            for (n, size) in sizes.iter().enumerate() {
                let expected = if *size > RANGE { parts_of(*size) } else { 1 };
                prop_assert_eq!(times[n], expected);
            }
        }
    }
}
