//! A month's coverage: signed by a coordinator, and counted again from the
//! tenant's entries.
//!
//! The entries are in `entries/<n>`, each under the log's own hash. That none is
//! left out follows for drills from each cluster's sequence and from the highest
//! number, which the coordinator signed; who has the whole log sees it directly.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_proto::{Sha256Digest, Timestamp};

use super::archive::{Found, say};
use super::report::{CoverageSummary, VerifyReport};
use super::{Export, Signers, derived, entries};
use crate::evidence::audit::audit_some;
use crate::evidence::coverage::{Counted, CoverageStatement, SlotCounts, derive};
use crate::evidence::dsse::Envelope;
use crate::evidence::entry::{Entry, LoggedEntry};
use crate::evidence::export::Loose;

pub(super) fn walk(
    export: &Export<'_>,
    statement: &CoverageStatement,
    report: &mut VerifyReport,
) -> Option<()> {
    report.step("statement", same_bytes(export))?;
    let signers = Signers {
        trust: export.trust,
        log: export.log,
        cluster: None,
    };
    report.step("coordinator's signature", signers.entry(export.result))?;
    let entries = report.step("entries", read_entries(export, statement))?;
    report.step("coverage", counted_again(export, statement, &entries))?;
    let loose = Loose {
        statement: &export.result.entry.envelope,
        before: Vec::new(),
        checkpoint: &export.log.head,
        trust_records: export.trust_records,
        trust: export.trust,
    };
    derived::openssl(export, &loose, report)?;
    derived::coverage_page(export, statement, report)?;
    let coverage = &statement.predicate;
    let mut slots = SlotCounts::default();
    coverage.tiers.iter().for_each(|t| slots.add(&t.slots));
    report.coverage = Some(CoverageSummary {
        tenant: coverage.tenant.clone(),
        month: coverage.month,
        slots,
    });
    Some(())
}

fn same_bytes(export: &Export<'_>) -> Found<()> {
    let payload = export.dir.read("statement.json")?;
    let envelope = Envelope::parse(&export.dir.read("envelope.json")?).map_err(say)?;
    if envelope != export.result.entry.envelope || payload != envelope.payload {
        return Err("statement.json or envelope.json is not what was signed and logged".into());
    }
    Ok(((), format!("SHA-256 {}", Sha256Digest::of(&payload))))
}

fn read_entries(export: &Export<'_>, statement: &CoverageStatement) -> Found<BTreeMap<u64, LoggedEntry>> {
    let entries = entries::read(export, &statement.predicate.tenant)?;
    if let Some(n) = unanswered(&entries, statement.predicate.until) {
        return Err(format!(
            "nothing answers entry {n}, although the month was counted: an entry is missing"
        ));
    }
    entries::sound(audit_some(&entries.iter().map(|(n, e)| (*n, e)).collect(), None))?;
    let detail = format!("{} of the tenant, no drill missing", entries.len());
    Ok((entries, detail))
}

/// A month is counted when nothing begun in it is open: an intent that nothing
/// answers shows that its answer was left out.
pub(super) fn unanswered(entries: &BTreeMap<u64, LoggedEntry>, until: Timestamp) -> Option<u64> {
    let answered: BTreeSet<u64> = entries
        .values()
        .filter_map(|e| match &e.entry {
            Entry::Result(s) => s.predicate.drill.intent_index(),
            Entry::Abandoned(a) => Some(a.intent),
            _ => None,
        })
        .collect();
    entries
        .iter()
        .filter(|(_, e)| matches!(&e.entry, Entry::Intent(i) if i.at < until))
        .map(|(n, _)| *n)
        .find(|n| !answered.contains(n))
}

fn counted_again(
    export: &Export<'_>,
    statement: &CoverageStatement,
    entries: &BTreeMap<u64, LoggedEntry>,
) -> Found<()> {
    let coverage = &statement.predicate;
    let root = export.log.tree.root_at(coverage.size).map_err(say)?;
    if (&coverage.log, coverage.root) != (&export.log.head.checkpoint().origin, root)
        || coverage.size > export.result.proof.index
    {
        return Err("it was counted from another log than this one".into());
    }
    let counted = Counted {
        log: coverage.log.clone(),
        size: coverage.size,
        root,
    };
    let again = derive(
        entries.iter().map(|(n, e)| (*n, e)),
        &counted,
        &coverage.tenant,
        coverage.month,
    );
    if CoverageStatement::new(again) == *statement {
        Ok(((), "counting the entries again comes to the same".to_owned()))
    } else {
        Err("counting the entries again comes to something else".into())
    }
}
