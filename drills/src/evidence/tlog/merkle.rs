//! The Merkle tree of RFC 6962 §2.1, with SHA-256.
//!
//! Building follows the recursive definition of the RFC; verifying follows the
//! iterative algorithms of RFC 9162 §2.1.3.2 and §2.1.4.2, so that a mistake
//! in the one is not repeated in the other. A [`Tree`] keeps leaf hashes only:
//! 32 bytes for an entry.

use aws_lc_rs::digest::{Context, SHA256};
use holdfast_proto::Sha256Digest;

/// Why a proof was refused, or could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The entry lies beyond the tree.
    #[error("entry {index} is not in a tree of {size} entries: ask for a proof in a later checkpoint")]
    OutOfRange {
        /// The entry asked for.
        index: u64,
        /// Entries in the tree.
        size: u64,
    },
    /// The older tree is larger than the newer one.
    #[error("a tree of {first} entries cannot have grown into one of {second}: the log was cut back")]
    Shrunk {
        /// Entries in the older tree.
        first: u64,
        /// Entries in the newer tree.
        second: u64,
    },
    /// The proof has more or fewer hashes than its tree needs.
    #[error("the proof has {given} hashes, which does not fit its place in the tree: fetch the proof again")]
    Length {
        /// Hashes in the proof.
        given: usize,
    },
    /// The proof leads to another root.
    #[error("the proof leads to another root than the checkpoint's: entry, proof or checkpoint was changed")]
    WrongRoot,
}

/// The hash of a leaf: SHA-256(0x00 ‖ entry).
pub fn leaf_hash(entry: &[u8]) -> Sha256Digest {
    hash(&[&[0], entry])
}

/// The hash of an inner node: SHA-256(0x01 ‖ left ‖ right).
pub fn node_hash(left: &Sha256Digest, right: &Sha256Digest) -> Sha256Digest {
    hash(&[&[1], left.as_bytes(), right.as_bytes()])
}

fn hash(parts: &[&[u8]]) -> Sha256Digest {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    Sha256Digest::new(context.finish().as_ref().try_into().expect("SHA-256 is 32 bytes"))
}

/// The root over a run of leaf hashes; of none, the hash of the empty string.
pub fn root(leaves: &[Sha256Digest]) -> Sha256Digest {
    match leaves {
        [] => hash(&[]),
        [only] => *only,
        _ => {
            let (left, right) = leaves.split_at(split_point(leaves.len()));
            node_hash(&root(left), &root(right))
        }
    }
}

/// The largest power of two smaller than `n`, for `n` of at least two.
fn split_point(n: usize) -> usize {
    1 << (usize::BITS - 1 - (n - 1).leading_zeros())
}

/// A log's leaf hashes, in order: what roots, proofs and tiles are computed from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    leaves: Vec<Sha256Digest>,
}

impl Tree {
    /// A tree over leaf hashes that were computed before.
    pub fn from_leaf_hashes(leaves: Vec<Sha256Digest>) -> Self {
        Self { leaves }
    }

    /// A tree over entries.
    pub fn from_entries<T: AsRef<[u8]>>(entries: impl IntoIterator<Item = T>) -> Self {
        Self {
            leaves: entries.into_iter().map(|e| leaf_hash(e.as_ref())).collect(),
        }
    }

    /// Appends an entry and returns its index.
    pub fn append(&mut self, entry: &[u8]) -> u64 {
        self.leaves.push(leaf_hash(entry));
        self.len() - 1
    }

    /// Entries in the tree.
    pub fn len(&self) -> u64 {
        self.leaves.len() as u64
    }

    /// Whether the tree has no entry.
    pub fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }

    /// The leaf hashes, in order.
    pub fn leaves(&self) -> &[Sha256Digest] {
        &self.leaves
    }

    /// The root over all entries.
    pub fn root(&self) -> Sha256Digest {
        root(&self.leaves)
    }

    /// The root as it was when the log had `size` entries.
    pub fn root_at(&self, size: u64) -> Result<Sha256Digest, ProofError> {
        Ok(root(self.first(size)?))
    }

    /// The audit path of entry `index` in the tree of the first `size` entries,
    /// from the leaf's sibling upwards (RFC 6962 §2.1.1).
    pub fn inclusion_proof(&self, index: u64, size: u64) -> Result<Vec<Sha256Digest>, ProofError> {
        let leaves = self.first(size)?;
        if index >= size {
            return Err(ProofError::OutOfRange { index, size });
        }
        let mut path = Vec::new();
        audit_path(leaves, index as usize, &mut path);
        Ok(path)
    }

    /// The proof that the first `second` entries begin with the first `first`
    /// (RFC 6962 §2.1.2). Empty when they are equal or `first` is zero.
    pub fn consistency_proof(&self, first: u64, second: u64) -> Result<Vec<Sha256Digest>, ProofError> {
        let leaves = self.first(second)?;
        if first > second {
            return Err(ProofError::Shrunk { first, second });
        }
        let mut path = Vec::new();
        if first > 0 && first < second {
            subproof(leaves, first as usize, true, &mut path);
        }
        Ok(path)
    }

    fn first(&self, size: u64) -> Result<&[Sha256Digest], ProofError> {
        usize::try_from(size)
            .ok()
            .and_then(|n| self.leaves.get(..n))
            .ok_or(ProofError::OutOfRange {
                index: size.saturating_sub(1),
                size: self.len(),
            })
    }
}

fn audit_path(leaves: &[Sha256Digest], index: usize, path: &mut Vec<Sha256Digest>) {
    if leaves.len() < 2 {
        return;
    }
    let k = split_point(leaves.len());
    let (left, right) = leaves.split_at(k);
    if index < k {
        audit_path(left, index, path);
        path.push(root(right));
    } else {
        audit_path(right, index - k, path);
        path.push(root(left));
    }
}

fn subproof(leaves: &[Sha256Digest], first: usize, whole: bool, path: &mut Vec<Sha256Digest>) {
    if first == leaves.len() {
        if !whole {
            path.push(root(leaves));
        }
        return;
    }
    let k = split_point(leaves.len());
    let (left, right) = leaves.split_at(k);
    if first <= k {
        subproof(left, first, whole, path);
        path.push(root(right));
    } else {
        subproof(right, first - k, false, path);
        path.push(root(left));
    }
}

/// Checks that `leaf` is entry `index` of the tree of `size` entries whose root
/// is `root` (RFC 9162 §2.1.3.2).
pub fn verify_inclusion(
    leaf: &Sha256Digest,
    index: u64,
    size: u64,
    proof: &[Sha256Digest],
    root: &Sha256Digest,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::OutOfRange { index, size });
    }
    let wrong_length = ProofError::Length { given: proof.len() };
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for step in proof {
        if last == 0 {
            return Err(wrong_length);
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(step, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, step);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(wrong_length);
    }
    if hash == *root {
        Ok(())
    } else {
        Err(ProofError::WrongRoot)
    }
}

/// Checks that the tree of `second` entries with root `second_root` begins with
/// the tree of `first` entries with root `first_root` (RFC 9162 §2.1.4.2).
pub fn verify_consistency(
    first: u64,
    second: u64,
    first_root: &Sha256Digest,
    second_root: &Sha256Digest,
    proof: &[Sha256Digest],
) -> Result<(), ProofError> {
    if first > second {
        return Err(ProofError::Shrunk { first, second });
    }
    let wrong_length = ProofError::Length { given: proof.len() };
    if first == 0 || first == second {
        let same = if first == 0 {
            *first_root == root(&[])
        } else {
            first_root == second_root
        };
        return match (same, proof.is_empty()) {
            (true, true) => Ok(()),
            (_, false) => Err(wrong_length),
            (false, true) => Err(ProofError::WrongRoot),
        };
    }
    // A first tree of a power of two is a whole subtree: its root starts the path.
    let mut path = proof.iter();
    let start = if first.is_power_of_two() {
        *first_root
    } else {
        *path.next().ok_or(wrong_length)?
    };
    let (mut node, mut last) = (first - 1, second - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let (mut old, mut new) = (start, start);
    for step in path {
        if last == 0 {
            return Err(wrong_length);
        }
        if node & 1 == 1 || node == last {
            old = node_hash(step, &old);
            new = node_hash(step, &new);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new = node_hash(&new, step);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(wrong_length);
    }
    if old == *first_root && new == *second_root {
        Ok(())
    } else {
        Err(ProofError::WrongRoot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The leaves that Certificate Transparency's implementations test with,
    /// and the root after each.
    const CT: [(&str, &str); 8] = [
        (
            "",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        ),
        (
            "00",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        ),
        (
            "10",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        ),
        (
            "2021",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ),
        (
            "3031",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        ),
        (
            "40414243",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        ),
        (
            "5051525354555657",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        ),
        (
            "606162636465666768696a6b6c6d6e6f",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ),
    ];

    fn ct() -> Tree {
        Tree::from_entries(CT.iter().map(|(leaf, _)| hex::decode(leaf).unwrap()))
    }

    fn hashes(hex: &[&str]) -> Vec<Sha256Digest> {
        hex.iter().map(|h| h.parse().unwrap()).collect()
    }

    #[test]
    fn roots_are_those_of_certificate_transparency() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Tree::default().root().to_string(), empty);
        for (n, (_, expected)) in CT.iter().enumerate() {
            assert_eq!(
                ct().root_at(n as u64 + 1).unwrap().to_string(),
                *expected,
                "size {}",
                n + 1
            );
        }
    }

    #[test]
    fn proofs_are_those_of_certificate_transparency() {
        assert_eq!(
            ct().inclusion_proof(5, 8).unwrap(),
            hashes(&[
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ])
        );
        assert_eq!(
            ct().inclusion_proof(1, 5).unwrap(),
            hashes(&[
                "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ])
        );
        assert_eq!(
            ct().consistency_proof(6, 8).unwrap(),
            hashes(&[
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ])
        );
    }

    /// Every (index, size) and every (first, second) up to a size that has seen
    /// full subtrees, ragged right edges and several levels.
    #[test]
    fn every_small_proof_verifies_and_only_for_its_place() {
        let tree = Tree::from_entries((0u32..40).map(|n| n.to_be_bytes()));
        for size in 1..=tree.len() {
            let root = tree.root_at(size).unwrap();
            for index in 0..size {
                let proof = tree.inclusion_proof(index, size).unwrap();
                let leaf = &tree.leaves()[index as usize];
                verify_inclusion(leaf, index, size, &proof, &root).unwrap();
                for other in (0..size).filter(|o| *o != index) {
                    verify_inclusion(leaf, other, size, &proof, &root).unwrap_err();
                }
            }
            for first in 0..=size {
                let proof = tree.consistency_proof(first, size).unwrap();
                let old = tree.root_at(first).unwrap();
                verify_consistency(first, size, &old, &root, &proof).unwrap();
                if first > 0 && first < size {
                    verify_consistency(first, size, &root, &root, &proof).unwrap_err();
                    verify_consistency(first, size, &old, &old, &proof).unwrap_err();
                }
            }
        }
        assert_eq!(
            tree.root_at(41),
            Err(ProofError::OutOfRange { index: 40, size: 40 })
        );
        assert_eq!(
            tree.consistency_proof(4, 3),
            Err(ProofError::Shrunk { first: 4, second: 3 })
        );
        assert_eq!(
            tree.inclusion_proof(3, 3),
            Err(ProofError::OutOfRange { index: 3, size: 3 })
        );
    }

    proptest! {
        #[test]
        fn a_changed_proof_is_refused(
            size in 2u64..600,
            at in any::<prop::sample::Index>(),
            old in any::<prop::sample::Index>(),
            place in any::<prop::sample::Index>(),
            bit in 0usize..256,
        ) {
            let tree = Tree::from_entries((0..size).map(|n| n.to_be_bytes()));
            let (index, root) = (at.index(size as usize) as u64, tree.root());
            let flip = |proof: &mut Vec<Sha256Digest>| {
                let n = place.index(proof.len());
                let mut bytes = *proof[n].as_bytes();
                bytes[bit / 8] ^= 1 << (bit % 8);
                proof[n] = Sha256Digest::new(bytes);
            };
            let leaf = leaf_hash(&index.to_be_bytes());
            let mut proof = tree.inclusion_proof(index, size).unwrap();
            verify_inclusion(&leaf, index, size, &proof, &root).unwrap();
            let mut shorter = proof.clone();
            shorter.pop();
            prop_assert!(verify_inclusion(&leaf, index, size, &shorter, &root).is_err());
            let mut longer = proof.clone();
            longer.push(leaf);
            prop_assert!(verify_inclusion(&leaf, index, size, &longer, &root).is_err());
            flip(&mut proof);
            prop_assert_eq!(verify_inclusion(&leaf, index, size, &proof, &root), Err(ProofError::WrongRoot));

            let first = 1 + old.index(size as usize - 1) as u64;
            let mut proof = tree.consistency_proof(first, size).unwrap();
            let first_root = tree.root_at(first).unwrap();
            verify_consistency(first, size, &first_root, &root, &proof).unwrap();
            flip(&mut proof);
            prop_assert!(verify_consistency(first, size, &first_root, &root, &proof).is_err());
        }
    }
}
