//! Which journal entries bring a filestore to the moment of the database.
//!
//! Between two points F1 ≤ target ≤ F2 the files that the database can
//! reference are those present at F1 and those added up to F2: a file is
//! written before the transaction that references it commits, and deleted only
//! after the last reference is gone. So removals count up to F1, additions up
//! to F2. What is too much is left over when the database's own references are
//! compared; what is too little would be missing, so it is never guessed away.

use holdfast_proto::names::FilestoreName;
use holdfast_proto::pg::Lsn;
use holdfast_proto::record::{JointClaim, JournalKind, PointFilestore};

use super::coverage::Path;
use super::facts::{Facts, FilestoreFacts, JournalFact, LineageFacts, PointFact};
use super::impossible::Reason;
use super::request::{FilestoreChoice, Request};
use super::restore_plan::{FilestorePlan, JournalStep};

/// Plans every filestore that the request wants.
///
/// `reach` is the position up to which the log is replayed, `everything`
/// whether that is all there is.
pub(super) fn plan_filestores(
    facts: &Facts,
    lineage: &LineageFacts,
    path: &Path,
    reach: Lsn,
    everything: bool,
    request: &Request,
) -> Result<Vec<FilestorePlan>, Reason> {
    let known = || {
        facts
            .filestores
            .iter()
            .map(|f| f.filestore.clone())
            .collect::<Vec<_>>()
    };
    if let FilestoreChoice::Only(names) = &request.filestores
        && let Some(unknown) = names
            .iter()
            .find(|n| !facts.filestores.iter().any(|f| &f.filestore == *n))
    {
        return Err(Reason::NoSuchFilestore {
            filestore: unknown.clone(),
            known: known(),
        });
    }
    let wanted = |name: &FilestoreName| match &request.filestores {
        FilestoreChoice::All => true,
        FilestoreChoice::Only(names) => names.contains(name),
        FilestoreChoice::None => false,
    };
    let mut plans = Vec::new();
    for filestore in facts
        .filestores
        .iter()
        .filter(|f| wanted(&f.filestore) && !f.entries.is_empty())
    {
        plans.push(plan_one(filestore, lineage, path, reach, everything)?);
    }
    plans.sort_by(|a, b| a.filestore.cmp(&b.filestore));
    Ok(plans)
}

fn plan_one(
    filestore: &FilestoreFacts,
    lineage: &LineageFacts,
    path: &Path,
    reach: Lsn,
    everything: bool,
) -> Result<FilestorePlan, Reason> {
    let mut points: Vec<(&PointFact, &PointFilestore)> = lineage
        .points
        .iter()
        .filter(|p| path.contains(p.timeline, p.lsn))
        .filter_map(|p| {
            p.filestores
                .iter()
                .find(|f| f.filestore == filestore.filestore)
                .map(|f| (p, f))
        })
        .collect();
    points.sort_by_key(|(p, _)| (p.lsn, p.id));
    let before = points.iter().rev().find(|(p, _)| p.lsn <= reach).copied();
    let after = points.iter().find(|(p, _)| p.lsn >= reach).copied();
    let newest = filestore.entries.iter().map(|e| e.n).max().unwrap_or(0);

    let (state_at, until, claim, because) = match (before, after) {
        (Some((p, f)), _) if p.lsn == reach => (
            Some(f.n),
            f.n,
            Some(f.claim),
            format!("the target is point {} itself: {}", p.id, f.because),
        ),
        (Some((p1, f1)), Some((p2, f2))) => {
            let claim = (f2.claim != JointClaim::PointOnly).then_some(f2.claim);
            let because = match f2.claim {
                JointClaim::SincePrevious => {
                    format!("complete at every moment between points {} and {}: {}", p1.id, p2.id, f2.because)
                }
                JointClaim::PointOnly => format!(
                    "between points {} and {} only these two are claimed ({}): a file that was written and deleted \
                     between them may be missing",
                    p1.id, p2.id, f2.because
                ),
                JointClaim::PerFile => {
                    format!("captured file by file, without a common moment with the database: {}", f2.because)
                }
            };
            (Some(f1.n), f2.n.max(f1.n), claim, because)
        }
        (None, Some((p2, f2))) => (
            None,
            f2.n,
            (f2.claim == JointClaim::PerFile).then_some(JointClaim::PerFile),
            format!(
                "point {} is the first with this filestore and lies behind the target: files that were deleted \
                 before it may be missing",
                p2.id
            ),
        ),
        (Some((p1, f1)), None) => {
            let tail = if everything {
                "and what was captured since; files of the last moments may be missing"
            } else {
                "and what was captured since; no point behind the target proves that this is all"
            };
            let claim = (f1.claim == JointClaim::PerFile).then_some(JointClaim::PerFile);
            (Some(f1.n), newest.max(f1.n), claim, format!("point {} of {}, {tail}", p1.id, p1.at))
        }
        (None, None) => (
            None,
            newest,
            None,
            "no point ties this filestore to the database: all that was captured is restored, nothing is claimed"
                .to_owned(),
        ),
    };

    let entries = chain(filestore, state_at, until)?;
    let last = entries.last().copied();
    let checkpoint_of = |e: &JournalFact| e.entry == JournalKind::Checkpoint;
    let to_read = entries
        .iter()
        .map(|e| {
            if checkpoint_of(e) {
                e.totals.to_read
            } else {
                e.totals.to_read.max(e.totals.stored)
            }
        })
        .fold(0u64, u64::saturating_add);
    Ok(FilestorePlan {
        filestore: filestore.filestore.clone(),
        adapter: last.map(|e| e.adapter.clone()).unwrap_or_default(),
        state_at,
        additions_until: until,
        entries: entries
            .iter()
            .map(|e| JournalStep {
                n: e.n,
                link: e.link.clone(),
            })
            .collect(),
        points: before
            .into_iter()
            .chain(after)
            .map(|(p, _)| p.id)
            .fold(Vec::new(), |mut ids, id| {
                if !ids.contains(&id) {
                    ids.push(id);
                }
                ids
            }),
        claim,
        because,
        files: last.map_or(0, |e| e.files),
        bytes: last.map_or(0, |e| e.bytes),
        to_read,
    })
}

/// The entries that make the state at `state_at` and everything added from
/// there to `until`.
fn chain(filestore: &FilestoreFacts, state_at: Option<u64>, until: u64) -> Result<Vec<&JournalFact>, Reason> {
    let find = |n: u64| {
        filestore
            .entries
            .iter()
            .find(|e| e.n == n)
            .ok_or_else(|| Reason::NoJournalEntry {
                filestore: filestore.filestore.clone(),
                n,
            })
    };
    let from = find(state_at.unwrap_or(until))?.checkpoint;
    (from..=until).map(find).collect()
}
