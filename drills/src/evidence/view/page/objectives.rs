//! Objectives against what was measured.

use super::super::Shown;
use super::super::words::span;

/// An objective and what was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Objective {
    pub(super) name: &'static str,
    pub(super) actual: String,
    pub(super) limit: String,
    pub(super) class: &'static str,
    pub(super) word: &'static str,
    /// Hundredths of the bar; the objective is at 75.
    pub(super) bar: String,
}

pub(super) fn objectives(shown: &Shown<'_>) -> Vec<Objective> {
    let p = &shown.statement.predicate;
    let limits = p.policy.as_ref().map(|policy| policy.objectives);
    let make = |name, actual: Option<u64>, limit: Option<u64>| Objective {
        name,
        actual: actual.map_or_else(|| "not measured".to_owned(), span),
        limit: limit.map(span).unwrap_or_default(),
        class: match (actual, limit) {
            (Some(a), Some(l)) if a <= l => "good",
            (Some(_), None) => "quiet",
            _ => "bad",
        },
        word: match (actual, limit) {
            (Some(a), Some(l)) if a <= l => "met",
            (Some(_), Some(_)) => "missed",
            (None, Some(_)) => "not measured",
            _ => "no objective",
        },
        bar: match (actual, limit) {
            (Some(a), Some(l)) => {
                let part = a.saturating_mul(750).checked_div(l.max(1)).unwrap_or(1000);
                let part = part.clamp(10, 1000);
                format!("{}.{}", part / 10, part % 10)
            }
            _ => "0".to_owned(),
        },
    };
    let mut out = Vec::new();
    let (rto, limit) = (p.results.rto.as_ref(), limits.and_then(|l| l.rto_ms));
    if rto.is_some() || limit.is_some() {
        out.push(make("Recovery time", rto.map(|r| r.actual_ms), limit));
    }
    let (rpo, limit) = (p.results.rpo.as_ref(), limits.and_then(|l| l.rpo_ms));
    if rpo.is_some() || limit.is_some() {
        out.push(make(
            "Data loss, database",
            rpo.and_then(|r| r.database_lag_ms),
            limit,
        ));
        if p.results.filestore.is_some() {
            out.push(make(
                "Data loss, files",
                rpo.and_then(|r| r.filestore_lag_ms),
                limit,
            ));
        }
    }
    out
}
