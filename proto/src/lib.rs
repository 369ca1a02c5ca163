//! The words of Holdfast: what outlives a process.
//!
//! Names, positions, records and messages: every noun that is written to a
//! repository, sent between an agent and a coordinator, or read from
//! PostgreSQL's own formats has its type here. Nothing in this crate performs
//! IO, waits, or reads a clock; everything is a value or a pure function.
//!
//! Where to read next:
//! - [`pg`]: PostgreSQL's nouns (LSN, timeline, segment, history, WAL records).
//! - [`names`]: tenants, clusters, lineages, identifiers.
//! - [`envelope`]: how a signed object is laid out in bytes.
//! - [`record`]: what signed objects say.
//! - [`reference`]: what the source's databases said at a fence.
//! - [`manifest`]: how a backup maps files to extents in packs.
//! - [`message`]: what an agent and the coordinator say to each other.
//! - [`residency`]: where data may lie.
//! - [`finding`]: how a departure from what should be is reported.
//!
//! The byte-level specification is `docs/FORMAT.md`.

pub mod approval;
pub mod digest;
pub mod envelope;
pub mod finding;
pub mod hold;
pub mod labels;
pub mod manifest;
pub mod message;
pub mod names;
pub mod pg;
pub mod record;
pub mod reference;
pub mod residency;
pub mod time;

pub use digest::{Blake3Digest, ContentId, Fingerprint, Sha256Digest, Sha256Hasher};
pub use time::Timestamp;
