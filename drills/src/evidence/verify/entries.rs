//! The entries of the log that an export shows: all of them, or those of one tenant.
//!
//! Whoever may see one tenant's drills gets the hashes of all other entries: the
//! tree still leads to its checkpoint, and nobody's name is given away. What an
//! exporter could leave out so is the end of a cluster's chain of drills: each of the
//! tenant's coverage statements says how far it went, and is held against it.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_proto::Timestamp;
use holdfast_proto::names::{ClusterId, TenantName};

use super::archive::{Archive, Found, Log, LogEntries};
use super::coverage::unanswered;
use super::report::VerifyReport;
use super::{Export, Placed, signed_entry};
use crate::evidence::audit::{AuditFinding, audit_some, unused_draws};
use crate::evidence::coverage::of_tenant;
use crate::evidence::entry::{Entry, LoggedEntry};
use crate::evidence::tlog::leaf_hash;

/// Looks at what a drill's export shows of the log beside the drill itself. `own` are
/// the drill's entries.
pub(super) fn shown(
    export: &Export<'_>,
    tenant: &TenantName,
    own: &[&Placed],
    now: Option<Timestamp>,
    report: &mut VerifyReport,
) -> Option<()> {
    let entries = match &export.log.entries {
        LogEntries::Whole(_) => report.step("whole log", whole(export, now))?,
        LogEntries::Some => report.step("tenant's entries", of_one_tenant(export, tenant, own, now))?,
        LogEntries::Hashes => {
            report.note("log", "no entries of other drills are in this export");
            return Some(());
        }
    };
    let unused = unused_draws(entries.iter().map(|(n, e)| (*n, e)));
    if !unused.is_empty() {
        report.note("draws", format!("drawn and not used: entries {unused:?}"));
    }
    Some(())
}

/// Every entry is signed by whom it may be, and no drill is missing.
fn whole(export: &Export<'_>, now: Option<Timestamp>) -> Found<BTreeMap<u64, LoggedEntry>> {
    let LogEntries::Whole(all) = &export.log.entries else {
        return Err("the export does not hold the whole log".into());
    };
    let mut entries = BTreeMap::new();
    for (index, bytes) in (0u64..).zip(all) {
        entries.insert(index, signed_entry(export.log, export.trust, index, bytes)?);
    }
    sound(audit_some(&by_place(&entries), now))?;
    let detail = format!("{} entries, no drill missing", entries.len());
    Ok((entries, detail))
}

fn of_one_tenant(
    export: &Export<'_>,
    tenant: &TenantName,
    own: &[&Placed],
    now: Option<Timestamp>,
) -> Found<BTreeMap<u64, LoggedEntry>> {
    let entries = read(export, tenant)?;
    for placed in own {
        if entries.get(&placed.proof.index) != Some(&placed.entry) {
            return Err(format!(
                "entries/ lacks entry {}, which is this drill's own",
                placed.proof.index
            ));
        }
    }
    // Later entries show that a deadline is past. An answer that is not here may be
    // in the log, among the hashes: that is not for the reader to believe.
    sound(audit_some(&by_place(&entries), latest(&entries).max(now)))?;
    if let Some(why) = withheld(&entries) {
        return Err(why);
    }
    let detail = format!(
        "{} of {tenant}, none missing between its drills; {} entries are here by their hashes alone",
        entries.len(),
        export.log.tree.len().saturating_sub(entries.len() as u64)
    );
    Ok((entries, detail))
}

/// The entries in `entries/<n>`, each under the log's own hash, signed by whom it may
/// be, and the tenant's.
pub(super) fn read(export: &Export<'_>, tenant: &TenantName) -> Result<BTreeMap<u64, LoggedEntry>, String> {
    let (dir, log): (&Archive, &Log) = (export.dir, export.log);
    let mut entries = BTreeMap::new();
    for name in dir.names("entries")? {
        let bytes = dir.read(&format!("entries/{name}"))?;
        let index: u64 = name
            .parse()
            .ok()
            .filter(|n| format!("{n:016}") == name)
            .ok_or_else(|| format!("entries/{name} is not named by a place in the log"))?;
        let leaf = usize::try_from(index).ok().and_then(|n| log.tree.leaves().get(n));
        if leaf != Some(&leaf_hash(&bytes)) {
            return Err(format!("entries/{name} is not what the log holds there"));
        }
        let entry = signed_entry(log, export.trust, index, &bytes)?;
        if !of_tenant(&entry, tenant) {
            return Err(format!("entries/{name} is not about {tenant}"));
        }
        entries.insert(index, entry);
    }
    Ok(entries)
}

/// The last moment of which the entries say something.
fn latest(entries: &BTreeMap<u64, LoggedEntry>) -> Option<Timestamp> {
    let moment = |e: &LoggedEntry| match &e.entry {
        Entry::Intent(i) => Some(i.at),
        Entry::Result(s) => s.predicate.timings.phases.iter().map(|t| t.end).max(),
        Entry::Abandoned(a) => Some(a.at),
        Entry::Population(p) => Some(p.at),
        Entry::Received(r) => Some(r.at),
        Entry::Heartbeat(_) | Entry::Policy(_) | Entry::Coverage(_) | Entry::Other => None,
    };
    entries.values().filter_map(moment).max()
}

/// A drill that a coverage statement among `entries` counted and that is not there.
fn withheld(entries: &BTreeMap<u64, LoggedEntry>) -> Option<String> {
    let highest = |cluster: &ClusterId, size: u64| {
        let numbers = entries.range(..size).filter_map(|(_, e)| match &e.entry {
            Entry::Intent(i) if i.cluster == *cluster => Some(i.sequence),
            _ => None,
        });
        numbers.max().unwrap_or(0)
    };
    entries.iter().find_map(|(n, e)| {
        let Entry::Coverage(c) = &e.entry else {
            return None;
        };
        let (counted, size) = (&c.predicate.drills.sequences, c.predicate.size);
        let before = entries.range(..size).map(|(n, e)| (*n, e.clone())).collect();
        if let Some(open) = unanswered(&before, c.predicate.until) {
            return Some(format!(
                "nothing answers entry {open}, although its month was counted in entry {n}: an entry is missing"
            ));
        }
        let short = counted.iter().find(|(cluster, number)| highest(cluster, size) != **number);
        short.map(|(cluster, number)| {
            format!("{cluster} had {number} drills when entry {n} was counted, and not all are here: a drill is missing")
        })
    })
}

fn by_place(entries: &BTreeMap<u64, LoggedEntry>) -> BTreeMap<u64, &LoggedEntry> {
    entries.iter().map(|(n, e)| (*n, e)).collect()
}

/// What is wrong with the log, as one reason.
pub(super) fn sound(found: Vec<AuditFinding>) -> Result<(), String> {
    let reasons: BTreeSet<String> = found.iter().map(ToString::to_string).collect();
    match reasons.is_empty() {
        true => Ok(()),
        false => Err(reasons.into_iter().collect::<Vec<_>>().join("; ")),
    }
}
