//! A transparency log: an append-only list of entries under an RFC 6962 tree.
//!
//! Pure functions over bytes and hashes. Nothing here stores, fetches or waits:
//! whoever keeps the log hands in the leaf hashes it has read and receives
//! roots, proofs and tiles.
//!
//! What holds: a proof that one of the `verify` functions accepts was made from
//! a tree whose root is the one given; the root is believed only after
//! [`SignedCheckpoint::verify`] has accepted the log's own signature on it.
//! There is no state, so a process that dies here leaves nothing behind.
//!
//! - [`merkle`]: leaf hashes, roots, inclusion and consistency proofs.
//! - [`note`]: the C2SP signed note, which checkpoints are written in.
//! - [`checkpoint`]: a tree head with its signatures and cosignatures.
//! - [`tiles`]: the tree as static files, as `tlog-tiles` lays them out.
//! - [`proof`]: the `.tlog-proof` file that travels beside a statement.

pub mod checkpoint;
pub mod merkle;
pub mod note;
pub mod proof;
pub mod tiles;

pub use checkpoint::{Checkpoint, CheckpointError, LogOrigin, SignedCheckpoint};
pub use merkle::{ProofError, Tree, leaf_hash, verify_consistency, verify_inclusion};
pub use note::{NoteKey, SignedNote};
pub use proof::TlogProof;
