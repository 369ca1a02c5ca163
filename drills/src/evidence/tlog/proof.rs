//! The `.tlog-proof` file: an entry's place in the log, its audit path, and the
//! checkpoint that it leads to.
//!
//! The format is C2SP `tlog-proof`, without its `extra` line, which nothing
//! authenticates.

use std::fmt;

use holdfast_proto::Sha256Digest;

use super::checkpoint::{Checkpoint, CheckpointError, SignedCheckpoint, decode_hash, encode_hash};
use super::merkle::{ProofError, Tree, leaf_hash, verify_inclusion};
use holdfast_repository::signing::VerifyingKey;

const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// Why a proof file was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadProof {
    /// Not a proof file.
    #[error("this is no {HEADER} file: {0}; export the evidence again")]
    Malformed(&'static str),
    /// The checkpoint in it is at fault.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The audit path is at fault.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

/// A proof that an entry is in a log, complete in itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlogProof {
    /// The entry's place in the log, from 0.
    pub index: u64,
    /// The audit path, leaf's sibling first.
    pub hashes: Vec<Sha256Digest>,
    /// The tree head that it leads to.
    pub checkpoint: SignedCheckpoint,
}

impl TlogProof {
    /// The proof of entry `index`, from the log's leaf hashes.
    pub fn make(tree: &Tree, index: u64, checkpoint: SignedCheckpoint) -> Result<Self, ProofError> {
        let head = checkpoint.checkpoint();
        if tree.root_at(head.size)? != head.root {
            return Err(ProofError::WrongRoot);
        }
        Ok(Self {
            index,
            hashes: tree.inclusion_proof(index, head.size)?,
            checkpoint,
        })
    }

    /// Checks that `entry` stands at [`TlogProof::index`] of a log whose head
    /// the key `log` has signed, and returns that head.
    pub fn verify(&self, entry: &[u8], log: &VerifyingKey) -> Result<&Checkpoint, BadProof> {
        self.checkpoint.verify(log)?;
        let head = self.checkpoint.checkpoint();
        verify_inclusion(&leaf_hash(entry), self.index, head.size, &self.hashes, &head.root)?;
        Ok(head)
    }

    /// Reads a proof file, in the one form that `Display` writes.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadProof> {
        let malformed = BadProof::Malformed;
        let text = std::str::from_utf8(bytes).map_err(|_| malformed("it is not UTF-8"))?;
        let (head, checkpoint) = text
            .split_once("\n\n")
            .ok_or(malformed("no blank line before the checkpoint"))?;
        let mut lines = head.split('\n');
        if lines.next() != Some(HEADER) {
            return Err(malformed("its first line is another"));
        }
        let number = lines
            .next()
            .and_then(|l| l.strip_prefix("index "))
            .ok_or(malformed("the index is missing"))?;
        let index: u64 = number
            .parse()
            .map_err(|_| malformed("the index is not a number"))?;
        if index.to_string() != number {
            return Err(malformed("the index is not in plain decimal"));
        }
        let hashes = lines
            .map(|l| decode_hash(l).ok_or(malformed("a hash is not 32 bytes in base64")))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            index,
            hashes,
            checkpoint: SignedCheckpoint::parse(checkpoint.as_bytes())?,
        })
    }

    /// The bytes to store.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}\nindex {}", self.index)?;
        for hash in &self.hashes {
            writeln!(f, "{}", encode_hash(hash))?;
        }
        write!(f, "\n{}", String::from_utf8_lossy(&self.checkpoint.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::merkle::Tree;
    use super::*;
    use holdfast_repository::signing::SigningKey;

    fn proof(index: u64) -> (TlogProof, Vec<Vec<u8>>, SigningKey) {
        let entries: Vec<Vec<u8>> = (0u8..21).map(|n| vec![n; 3]).collect();
        let tree = Tree::from_entries(&entries);
        let log = SigningKey::generate_ed25519().unwrap();
        let head = Checkpoint::new("example.com/log".parse().unwrap(), tree.len(), tree.root());
        let signed = SignedCheckpoint::sign(head, &log).unwrap();
        (TlogProof::make(&tree, index, signed).unwrap(), entries, log)
    }

    #[test]
    fn proves_an_entry_and_no_other() {
        for index in 0..21 {
            let (proof, entries, log) = proof(index);
            let read = TlogProof::parse(&proof.to_bytes()).unwrap();
            assert_eq!(read, proof);
            assert_eq!(
                read.verify(&entries[index as usize], log.verifying())
                    .unwrap()
                    .size,
                21
            );
            assert!(
                read.verify(&entries[(index as usize + 1) % 21], log.verifying())
                    .is_err()
            );
        }
    }

    #[test]
    fn every_changed_byte_is_refused() {
        let (proof, entries, log) = proof(7);
        let bytes = proof.to_bytes();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                let accepted =
                    TlogProof::parse(&changed).is_ok_and(|p| p.verify(&entries[7], log.verifying()).is_ok());
                assert!(!accepted, "byte {at} bit {bit} changed unnoticed");
            }
        }
    }

    #[test]
    fn is_not_made_for_a_head_of_another_tree() {
        let (proof, mut entries, _) = proof(7);
        entries[20] = b"other".to_vec();
        let tree = Tree::from_entries(&entries);
        assert_eq!(
            TlogProof::make(&tree, 7, proof.checkpoint),
            Err(ProofError::WrongRoot)
        );
    }
}
