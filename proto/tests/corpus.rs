//! Every file of the fuzz corpora, and what becomes of it when it is damaged.
//!
//! `make fuzz` searches for new ones; whatever it finds is committed, and is then
//! part of every run of the tests.

mod fuzzing;

use std::path::Path;

/// Damaged copies of each file.
const DAMAGED: u64 = 200;

/// A sequence of numbers that is the same in every run (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn damage(bytes: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut damaged = bytes.to_vec();
    for _ in 0..=numbers.below(3) {
        let at = numbers.below(damaged.len());
        match numbers.below(5) {
            0 => damaged.truncate(at),
            1 => damaged.insert(at, numbers.next() as u8),
            2 => {
                let end = at + numbers.below(damaged.len() - at);
                damaged.drain(at..end);
            }
            3 => {
                let end = (at + 8).min(damaged.len());
                damaged[at..end].fill(if numbers.below(2) == 0 { 0 } else { 0xFF });
            }
            _ => {
                if let Some(byte) = damaged.get_mut(at) {
                    *byte ^= 1 << numbers.below(8);
                }
            }
        }
    }
    damaged
}

#[test]
fn corpora_hold_intact_and_damaged() {
    for (name, target) in fuzzing::TARGETS {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(name);
        let mut files: Vec<_> = std::fs::read_dir(&corpus)
            .unwrap_or_else(|e| panic!("{}: {e}", corpus.display()))
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        assert!(files.len() >= 5, "{name} has {} files", files.len());
        for (n, file) in files.iter().enumerate() {
            let bytes = std::fs::read(file).unwrap();
            target(&bytes);
            let mut numbers = Numbers(n as u64);
            for _ in 0..DAMAGED {
                target(&damage(&bytes, &mut numbers));
            }
        }
        target(b"");
    }
}

/// The corpus has real WAL that the reader understands, or it would search in the
/// dark.
#[test]
fn the_corpus_has_commits_and_restore_points() {
    use holdfast_proto::pg::{Lsn, SegmentSize, TimelineId, WalEvent, WalReader};
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/wal");
    let mut events = Vec::new();
    for entry in std::fs::read_dir(corpus).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let (choice, rest) = bytes.split_at(2);
        let (start, wal) = rest.split_first_chunk::<8>().unwrap();
        let start = Lsn::new(u64::from_be_bytes(*start));
        let size = SegmentSize::new(1 << (20 + (choice[0] & 0x1F) % 11)).unwrap();
        let _ = WalReader::seeking(size, TimelineId::FIRST, start).feed(start, wal, &mut events);
    }
    let count = |wanted: fn(&WalEvent) -> bool| events.iter().filter(|e| wanted(e)).count();
    assert!(count(|e| matches!(e, WalEvent::Commit { .. })) > 5);
    assert!(count(|e| matches!(e, WalEvent::Abort { .. })) > 0);
    assert!(count(|e| matches!(e, WalEvent::RestorePoint { .. })) > 0);
}
