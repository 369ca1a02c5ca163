//! Checks: what is looked at in a restored copy, and what came of it.
//!
//! Each check yields a [`CheckResult`]. A check that could not run says
//! COULD_NOT_RUN with its reason in the log: it is never a pass. Checks look at
//! counts and digests; rows stay in the copy.

pub mod damage;
pub mod foreign_keys;
pub mod integrity;
pub mod programs;
pub mod queries;
pub mod reconciliation;
pub mod references;
pub mod structure;

use std::time::Instant;

use holdfast_proto::Sha256Digest;

use crate::evidence::statement::results::{CheckClass, CheckOutcome, CheckResult};

/// A check that is about to run.
#[derive(Debug)]
pub struct Check {
    result: CheckResult,
    began: Instant,
}

impl Check {
    /// A mandatory check.
    pub fn mandatory(id: impl Into<String>, class: CheckClass) -> Self {
        let result = CheckResult {
            id: id.into(),
            class,
            result: CheckOutcome::CouldNotRun,
            expected: None,
            actual: None,
            query_digest: None,
            data_proving: false,
            mandatory: true,
            duration_ms: None,
        };
        Self {
            result,
            began: Instant::now(),
        }
    }

    /// Makes it one that a verdict can do without.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.result.mandatory = false;
        self
    }

    /// It reads restored data: it could not pass on an empty copy.
    #[must_use]
    pub fn data_proving(mut self) -> Self {
        self.result.data_proving = true;
        self
    }

    /// What is run, by digest.
    #[must_use]
    pub fn query(self, text: &str) -> Self {
        self.digest(Sha256Digest::of(text.as_bytes()))
    }

    /// The digest of what is run.
    #[must_use]
    pub fn digest(mut self, digest: Sha256Digest) -> Self {
        self.result.query_digest = Some(digest);
        self
    }

    /// It ran: `actual` against `expected`.
    pub fn compared(mut self, holds: bool, expected: impl ToString, actual: impl ToString) -> CheckResult {
        self.result.result = if holds {
            CheckOutcome::Pass
        } else {
            CheckOutcome::Fail
        };
        self.result.expected = Some(expected.to_string());
        self.result.actual = Some(actual.to_string());
        self.result.duration_ms = Some(self.began.elapsed().as_millis() as u64);
        self.result
    }

    /// It was to run and could not: without a duration, as the statement demands.
    /// The reason goes to the log alone, it may quote data.
    pub fn could_not_run(self, why: &dyn std::fmt::Display) -> CheckResult {
        let why = format!("{why:#}");
        tracing::warn!(check = %self.result.id, %why, "a check could not run");
        self.result
    }
}
