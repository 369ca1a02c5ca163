//! What a verification found, step by step, and what follows from it.

use std::fmt;

use holdfast_proto::Fingerprint;
use holdfast_proto::names::{ClusterId, DrillId, TenantName};
use serde::Serialize;

use crate::evidence::coverage::{Month, SlotCounts};
use crate::evidence::statement::Level;
use crate::evidence::statement::results::Verdict;

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Outcome {
    /// It holds.
    Ok,
    /// It does not hold, or could not be done.
    Failed,
    /// Worth knowing; decides nothing.
    Note,
}

/// One step of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What it came to.
    pub outcome: Outcome,
    /// What was looked at.
    pub what: &'static str,
    /// What was seen.
    pub detail: String,
}

/// What the statement says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The drill.
    pub drill: DrillId,
    /// The cluster.
    pub cluster: ClusterId,
    /// What it set out to prove.
    pub level: Level,
    /// The scenario.
    pub scenario: String,
    /// What came of it.
    pub verdict: Verdict,
    /// Why.
    pub reasons: Vec<String>,
}

/// What a month's coverage says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CoverageSummary {
    /// Whose clusters.
    pub tenant: TenantName,
    /// Which month.
    pub month: Month,
    /// All slots.
    pub slots: SlotCounts,
}

/// The outcome of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// The root that everything was traced to, if the reader gave it.
    pub root: Option<Fingerprint>,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// What the statement says; to be believed only when accepted.
    pub summary: Option<Summary>,
    /// The same, where it is of a month and not of a drill.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coverage: Option<CoverageSummary>,
    /// Files of the export that nothing signed vouches for, as far as it was verified.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_covered: Vec<String>,
}

/// So many names of files that are not covered are printed.
const NAMED: usize = 20;

impl VerifyReport {
    /// Whether the evidence is authentic: the reader gave a root, and every
    /// step held.
    pub fn accepted(&self) -> bool {
        self.root.is_some() && self.sound()
    }

    /// Whether every step held, under whichever root.
    pub fn sound(&self) -> bool {
        (self.summary.is_some() || self.coverage.is_some())
            && self.steps.iter().all(|s| s.outcome != Outcome::Failed)
    }

    pub(super) fn step<T, E: fmt::Display>(
        &mut self,
        what: &'static str,
        result: Result<(T, String), E>,
    ) -> Option<T> {
        let (outcome, detail, value) = match result {
            Ok((value, detail)) => (Outcome::Ok, detail, Some(value)),
            Err(e) => (Outcome::Failed, e.to_string(), None),
        };
        self.steps.push(Step {
            outcome,
            what,
            detail,
        });
        value
    }

    pub(super) fn note(&mut self, what: &'static str, detail: impl Into<String>) {
        self.steps.push(Step {
            outcome: Outcome::Note,
            what,
            detail: detail.into(),
        });
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            let word = match step.outcome {
                Outcome::Ok => "ok    ",
                Outcome::Failed => "FAILED",
                Outcome::Note => "note  ",
            };
            writeln!(f, "{word}  {}: {}", step.what, step.detail)?;
        }
        if let Some(s) = &self.summary {
            writeln!(
                f,
                "drill {} of {}, level {}, {}",
                s.drill, s.cluster, s.level, s.scenario
            )?;
        }
        if !self.not_covered.is_empty() {
            let (all, more) = (&self.not_covered, self.not_covered.len().saturating_sub(NAMED));
            let named = all[..all.len() - more].join(", ");
            write!(
                f,
                "NOT COVERED: nothing signed vouches for {} files, and they may say anything: {named}",
                all.len()
            )?;
            match more {
                0 => f.write_str("\n")?,
                more => writeln!(f, " and {more} more")?,
            }
        }
        if let Some(c) = self.coverage.as_ref().filter(|_| self.accepted()) {
            return write!(
                f,
                "VERIFIED: the evidence is authentic; {} in {}: {} drills expected, {} passed, {} with exceptions, \
                 {} failed, {} missed",
                c.tenant,
                c.month,
                c.slots.expected,
                c.slots.passed,
                c.slots.passed_with_exceptions,
                c.slots.failed,
                c.slots.missed
            );
        }
        match (&self.summary, self.accepted(), self.sound()) {
            (Some(s), true, _) => {
                write!(f, "VERIFIED: the evidence is authentic; its verdict is {}", s.verdict)?;
                s.reasons.iter().try_for_each(|r| write!(f, "\n  - {r}"))
            }
            (_, _, true) => f.write_str(
                "UNTRUSTED: consistent in itself, but no root fingerprint was given: pass the one printed by `holdfast keys generate`",
            ),
            _ => f.write_str("REFUSED: do not rely on this export"),
        }
    }
}
