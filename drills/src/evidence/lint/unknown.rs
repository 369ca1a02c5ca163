//! What a statement leaves out: named, with a reason, and absent indeed.

use std::collections::BTreeSet;

use super::{Findings, LintFinding, lint};
use crate::evidence::statement::Statement;
use crate::evidence::statement::unknown::absent;

/// As [`lint`], before anybody signs: besides, what the statement leaves out is named
/// with a reason. Statements of earlier versions did not say that.
pub fn lint_to_sign(statement: &Statement) -> Result<(), Vec<LintFinding>> {
    let mut found = Findings(lint(statement).err().unwrap_or_default());
    let named: BTreeSet<&str> = statement
        .predicate
        .unknown
        .iter()
        .map(|u| u.field.as_str())
        .collect();
    for field in absent(&statement.predicate).filter(|field| !named.contains(field)) {
        found.add(
            "left-out-in-silence",
            format!("{field} is absent: say it, or say why it is not known"),
        );
    }
    if found.0.is_empty() { Ok(()) } else { Err(found.0) }
}

/// What is said not to be known is not said, and has a reason.
pub(super) fn named(statement: &Statement, found: &mut Findings) {
    let p = &statement.predicate;
    let absent: BTreeSet<&str> = absent(p).collect();
    let mut named = BTreeSet::new();
    for unknown in &p.unknown {
        let field = unknown.field.as_str();
        found.require(
            absent.contains(field) && named.insert(field),
            "known-and-unknown",
            format!("{field} is said not to be known, and is there, or no field, or named twice"),
        );
        found.require(
            !unknown.reason.trim().is_empty(),
            "unknown-without-reason",
            format!("{field}: say why it is not known"),
        );
    }
}
