//! Proof: drills that restore for real, and the evidence that they leave.
//!
//! A drill runs the agent's production restore into a scratch space, checks the
//! copy, and puts a signed statement into a log that nobody can drop it from.
//! Where to read next: [`runner`] for the order of a drill, [`evidence`] for what
//! is said and how it is believed, [`keeper`] for the coordinator's part.

pub mod answer;
pub mod attack;
pub mod checks;
pub mod draw;
pub mod evidence;
pub mod keeper;
pub mod learnt;
pub mod log;
pub mod pages;
pub mod place;
pub mod population;
pub mod publish;
pub mod restored;
pub mod runner;
pub mod scenario;
pub mod scratch;
pub mod view;
pub mod wanted;
pub mod witness;
