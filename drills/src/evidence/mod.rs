//! Evidence that a recovery was tried and what came of it.
//!
//! Pure functions over bytes. What is said stands in a [`statement`]; [`lint`]
//! refuses to have it signed when it claims more than its checks show; [`dsse`]
//! carries it with its signatures; [`tlog`] is the log that nobody can drop it
//! from, [`audit`] reads that log as a whole, and a [`witness`] vouches that it
//! only grew; [`sampling`] draws what a drill restores; [`coverage`] counts a
//! month's drills; [`review`] says who may review. [`export`] writes it all out
//! for an auditor and [`verify`] reads it back with nothing but the export and
//! the root key's fingerprint.
//!
//! Not here: keeping any of it. The repository stores entries, checkpoints and
//! signatures; the drill's runner measures. What holds: nothing here invents a
//! value, and no private key is read. A process that dies here loses nothing,
//! except that an export may lie half written in its directory: it is written
//! into an empty directory only, and verification refuses what is incomplete.

pub mod audit;
pub mod coverage;
pub mod dsse;
pub mod entry;
pub mod export;
#[cfg(test)]
pub(crate) mod fixture;
pub mod keys;
pub mod lint;
pub mod review;
pub mod sampling;
pub mod statement;
pub mod tlog;
pub mod verdict;
pub mod verify;
pub mod view;
pub mod witness;
