//! What was checked, and what was counted.

use super::super::Shown;
use super::super::words::{count, plain, span};
use super::{Fact, fact};
use crate::evidence::statement::results::CheckOutcome;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CheckRow {
    pub(super) id: String,
    pub(super) class: String,
    pub(super) word: String,
    pub(super) badge: &'static str,
    pub(super) expected: String,
    pub(super) actual: String,
    pub(super) kind: &'static str,
    pub(super) length: String,
}

pub(super) fn checks(shown: &Shown<'_>) -> Vec<CheckRow> {
    shown
        .statement
        .predicate
        .results
        .checks
        .iter()
        .map(|c| {
            let (word, badge) = match c.result {
                CheckOutcome::Pass => ("pass", "good"),
                CheckOutcome::Fail => ("fail", "bad"),
                CheckOutcome::Skipped => ("skipped", "warn"),
                CheckOutcome::CouldNotRun => ("could not run", "bad"),
            };
            CheckRow {
                id: c.id.clone(),
                class: plain(&c.class.to_string()),
                word: word.to_owned(),
                badge,
                expected: c.expected.clone().unwrap_or_default(),
                actual: c.actual.clone().unwrap_or_default(),
                kind: match (c.data_proving, c.mandatory) {
                    (true, true) => "proves data, mandatory",
                    (true, false) => "proves data",
                    (false, true) => "mandatory",
                    (false, false) => "",
                },
                length: c.duration_ms.map(span).unwrap_or_default(),
            }
        })
        .collect()
}

pub(super) fn counts(shown: &Shown<'_>) -> Vec<Fact> {
    let results = &shown.statement.predicate.results;
    let mut out = Vec::new();
    if let Some(f) = &results.filestore {
        out.extend([
            fact("Files that rows refer to", count(f.referenced)),
            fact("restored and equal", count(f.present)),
            fact("missing in the backup", count(f.missing_in_backup)),
            fact("missing at the source already", count(f.missing_at_source)),
            fact(
                "of another digest or size",
                count(f.digest_mismatch.saturating_add(f.size_mismatch)),
            ),
            fact("left out, nothing refers to them", count(f.extras_left_out)),
        ]);
    }
    if let Some(d) = &results.database {
        let known = [
            ("Tables", d.tables),
            ("pages with a wrong checksum", d.checksum_failures),
            ("errors by amcheck", d.amcheck_errors),
        ];
        out.extend(
            known
                .iter()
                .filter_map(|(name, n)| Some(fact(name, count((*n)?)))),
        );
        for value in &d.reconciliation {
            let word = if value.agrees { "agrees" } else { "DIFFERS" };
            let words = format!(
                "{word}: {} at the source, {} in the copy",
                value.expected, value.actual
            );
            out.push(fact(&value.id, words));
        }
    }
    out
}
