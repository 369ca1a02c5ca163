//! The coordinator: policy, fleet, schedule, and what is shown of it.
//!
//! Agents call in over mutual TLS with facts and take work; the coordinator
//! never connects to an agent. It lists and verifies what the repository holds,
//! measures exposures from that, gives out work that is due, brings replicas
//! that lag behind up to the others, and shows the fleet. It holds no identity
//! that opens a backup and no credential that deletes one.
//!
//! What holds: everything that it knows comes from the repository and the
//! agents, and comes back from there. Kill it at any instant, delete its state
//! directory, start it: the answers are the same.
//!
//! Where to read next:
//! - [`config`]: its configuration. [`pki`]: certificates for it and its agents.
//! - [`inviting`]: tokens with which agents come to certificates.
//! - [`server`]: the two listeners. [`access`]: who may read what. [`fleet`]: what `/v1/status` says.
//! - `loops`: what it does by itself, one file for each.
//! - `survey`: what it sees in the repository. `findings`: what stands out.
//! - [`runbooks`]: what is said beside a finding, and where it links to.
//! - `governing`: the policy in force, and one that waits to be.
//! - `lead`: whether this coordinator acts, or another one does.
//! - `desk`: what lies between them. `cache`, `memory`: what is remembered.

pub mod access;
mod alerts;
mod approved;
pub mod cache;
mod cluster;
pub mod config;
mod desk;
mod docket;
mod facts;
mod findings;
pub mod fleet;
pub mod governing;
pub mod inviting;
mod lead;
mod loops;
mod memory;
mod meters;
mod page;
pub mod pki;
mod readiness;
pub mod repository_section;
mod run;
pub mod runbooks;
pub mod server;
mod supervise;
mod survey;
#[cfg(test)]
mod year;

pub use lead::Leading;
pub use loops::evidence::{EvidenceKeeping, Given, Turn};
pub use run::{Coordinator, Evidence, RunError};
pub use server::evidence::{EvidenceAnswer, EvidenceDocument, EvidenceQuestion, EvidenceShowing};
pub use server::ledger::{ClusterLedger, LedgerAnswer, LedgerReading};
