//! Planning a restore: facts and a request in, a plan or the exact reason why
//! not out.
//!
//! Holds: no IO, no clock, no randomness; the same facts and request make the
//! same plan. A base is picked by where it becomes *consistent*, never after
//! the target. Nothing is replayed over a hole. What only an unreachable replica
//! may hold is given up by name or not at all. Every decision has its reason in
//! the plan, and every refusal says what can be reached instead.
//!
//! Every target is carried out as a position in the log: a moment is translated
//! to the first transaction's end in log order that carries a later time (commit
//! times are not monotone; this is PostgreSQL's own rule, `recoveryStopsBefore`
//! in `xlogrecovery.c`), a name or a transaction to its record. PostgreSQL then
//! fails by itself when the WAL ends before it.
//!
//! The base decides from where the log is read, so it can decide where a moment
//! lies: whoever gathers facts asks [`candidates`] which bases to look from,
//! finds the target from each in turn, and stops at the first that
//! [`Candidate::leads_to`] it. [`plan`] walks the same list.
//!
//! Where to read next: [`Facts`] for what is known, [`restorable`] for the
//! intervals that `holdfast points` prints, `files` for the filestores, [`sketch()`] for
//! what can be said of a moment without opening any WAL.

mod candidates;
mod coverage;
mod facts;
mod files;
mod impossible;
mod intervals;
mod planner;
mod request;
mod restore_plan;
mod sketch;
#[cfg(test)]
mod tests;

pub use candidates::{Candidate, candidates};
pub use coverage::{Gap, Path, Stretch, merge, segment_start};
pub use facts::{
    Attestation, BaseFact, BundleFact, Facts, FilestoreFacts, GapNote, JournalFact, LineageFacts, Located,
    Place, PointFact, ReplicaFact, TimelineFacts, WalSpan,
};
pub use impossible::{Impossible, Reason};
pub use intervals::{Broken, Interval, LineageGap, Moment, Restorable, restorable};
pub use planner::plan;
pub use request::{FilestoreChoice, Rates, Request, Target, TimelineChoice};
pub use restore_plan::{
    BaseChoice, Bytes, FilestorePlan, JournalStep, PLAN_VERSION, Prediction, Replay, RestorePlan,
};
pub use sketch::{Sketch, Way, extent, latest_amounts, sketch};
