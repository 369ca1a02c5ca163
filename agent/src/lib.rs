//! The hands of Holdfast: what runs beside PostgreSQL and a filestore.
//!
//! An agent captures (base backups, WAL, filestores, configuration), seals,
//! signs and ships; the same crate restores, on a machine that holds an
//! identity. An agent itself can open, change or delete nothing of what it
//! wrote.
//!
//! Where to read next:
//! - [`base`]: base backups of a data directory.
//! - [`certificate`]: how the agent comes to its certificate, and to the next.
//! - [`config`]: what an operator tells an agent.
//! - [`bundle`]: configuration files and catalogue facts.
//! - [`durable`]: the one way to write local files.
//! - [`fence`]: moments at which database and filestores belong together.
//! - [`filestore`]: how a folder of files is captured.
//! - [`findings`]: what departs from what should be, now.
//! - [`heartbeat`]: the conversation with the coordinator.
//! - [`ledger`]: what a repository holds of a cluster.
//! - [`page`]: the checksum of data pages.
//! - [`postgres`]: SQL and replication connections.
//! - [`restore`]: plans carried out, WAL handed to PostgreSQL.
//! - [`run`]: the process: sessions, tasks, one-shot work.
//! - [`state`]: the agent's own directory.
//! - [`wal`]: the WAL line, from the replication slot to the replicas.

pub mod base;
pub mod bundle;
pub mod certificate;
pub mod config;
pub mod durable;
pub mod fence;
pub mod filestore;
pub mod findings;
pub mod heartbeat;
pub mod ledger;
pub mod page;
pub mod postgres;
pub mod progress;
pub mod reference;
pub mod restore;
pub mod run;
pub mod state;
pub mod wal;

pub use run::{AgentError, Done, once, run};
