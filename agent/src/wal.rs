//! The WAL line.

pub mod archive;
pub mod backoff;
pub mod chunk;
pub mod ledger;
pub mod runs;
pub mod seal;
pub mod start;
pub mod state;
