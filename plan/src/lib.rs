//! Decisions: facts, policy and a moment in, a plan with reasons out.
//!
//! Nothing in this crate performs IO, reads a clock or draws a random number.
//! The same inputs give the same plan, and printing a plan explains it.
//!
//! Where to read next:
//! - [`policy`]: tiers and clusters as they are written in TOML.
//! - [`schedule`]: which work is due, and who is asked to do it.
//! - [`rpo`]: how much would be lost now, from what the repository holds.
//! - [`lead`]: which of several coordinators acts.
//! - [`alerts`]: what is to be said to whom about findings, once.
//! - [`certificate`]: when somebody has to hear that one ends.
//! - [`cron`]: when a schedule fires, across changes of clocks.
//! - [`document`]: TOML with every problem at its line.
//! - [`schema`]: what readers of documents know, for editors.

pub mod alerts;
pub mod certificate;
pub mod cron;
pub mod document;
pub mod drills;
pub mod lead;
pub mod period;
pub mod policy;
pub mod rpo;
pub mod rto;
pub mod schedule;
pub mod schema;
pub mod shape;

pub mod restore;
