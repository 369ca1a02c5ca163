//! A restore that was needed leaves the same statement as a drill, of its own kind.
//!
//! On that day there may be no coordinator to seal anything: the statement is
//! signed by the runner's key that the operator has, and left in the repository
//! to be logged later. It claims what was seen while files were written: nothing
//! is checked here, so its verdict is that this cannot be said.

use std::collections::BTreeMap;

use holdfast_agent::ledger::Ledger;
use holdfast_agent::restore::{Access, ApprovedBy, Outcome};
use holdfast_plan::restore::RestorePlan;
use holdfast_proto::names::{ActorName, DrillId};
use holdfast_repository::clock;
use holdfast_repository::evidence::{EvidenceError, EvidenceStore};
use holdfast_repository::signing::SigningKey;

use crate::checks::Check;
use crate::evidence::entry::{BadEntry, LoggedEntry};
use crate::evidence::lint::{LintFinding, lint_to_sign};
use crate::evidence::statement::context::{Actors, Approval, Decision, Runner, SeparationOfDuties};
use crate::evidence::statement::recovery::Timings;
use crate::evidence::statement::results::{CheckClass, Results, Rpo, Verdict};
use crate::evidence::statement::{Drill, DrillKind, Level, RecoveryDrill, Statement};
use crate::evidence::verdict;
use crate::runner::{Governing, objectives, report, unknown};

/// A statement that was not left behind.
#[derive(Debug, thiserror::Error)]
pub enum RestoredError {
    /// It claims more than it may.
    #[error("the restore's statement is not signed: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Lint(Vec<LintFinding>),
    /// It does not fit into the log.
    #[error(transparent)]
    Entry(#[from] BadEntry),
    /// No replica took it.
    #[error("no replica took the restore's statement: {0}")]
    Store(#[from] EvidenceError),
}

/// Who restored.
#[derive(Debug)]
pub struct Restorer<'a> {
    /// The name under which the key is enrolled as runner.
    pub name: ActorName,
    /// The key.
    pub key: &'a SigningKey,
    /// Who started it.
    pub initiator: Option<String>,
    /// The policy that the cluster is kept by, when it is known.
    pub governing: Option<Governing>,
}

/// Signs what a restore did and leaves it to be logged. Returns its id and how
/// many replicas have it.
pub async fn leave(
    restorer: &Restorer<'_>,
    access: &Access,
    plan: &RestorePlan,
    outcome: &Outcome,
) -> Result<(DrillId, usize), RestoredError> {
    let id = DrillId::from_parts(clock::now(), rand::random());
    let mut statement = statement(restorer, access, plan, outcome, id).await;
    verdict::settle(&mut statement.predicate);
    lint_to_sign(&statement).map_err(RestoredError::Lint)?;
    let entry = LoggedEntry::sign_result(&statement, restorer.key)?;
    let bytes = bytes::Bytes::copy_from_slice(entry.bytes());
    let copies = EvidenceStore::put_pending(&access.repository, id, bytes).await?;
    Ok((id, copies))
}

/// How far the repository was behind its source; absent when it cannot be read
/// again, which fails no restore.
async fn lags(access: &Access, plan: &RestorePlan) -> Option<Rpo> {
    let ledger = Ledger::load(&access.repository, &access.trust, &plan.cluster).await;
    objectives::lags(&ledger.ok()?, plan)
}

/// Who let the restore be carried out, as a statement says it.
fn stated_approvals(approved: &ApprovedBy) -> Vec<Approval> {
    let stated = |(name, at): &(ActorName, holdfast_proto::Timestamp)| Approval {
        subject: name.to_string(),
        issuer: "trust".to_owned(),
        role: "approver".to_owned(),
        decision: Decision::Approved,
        at: *at,
        plan_digest: approved.order,
    };
    approved.approvers.iter().map(stated).collect()
}

async fn statement(
    restorer: &Restorer<'_>,
    access: &Access,
    plan: &RestorePlan,
    outcome: &Outcome,
    id: DrillId,
) -> Statement {
    let writer = report::backup_writer(access, plan).await;
    let governing = restorer.governing.as_ref();
    let lost: usize = outcome.filestores.iter().map(|f| f.lost.len()).sum();
    let mut checks = vec![
        Check::mandatory("restore", CheckClass::Integrity)
            .data_proving()
            .compared(outcome.files > 0, "files", outcome.files),
    ];
    if !outcome.filestores.is_empty() {
        checks.push(Check::mandatory("files-lost", CheckClass::Integrity).compared(lost == 0, 0, lost));
    }
    let level = if outcome.filestores.is_empty() {
        Level::L2
    } else {
        Level::L3
    };
    let mut phases: BTreeMap<_, _> = BTreeMap::new();
    for phase in outcome.phases.iter().filter_map(report::stated_phase) {
        // An interrupted restore that went on has a phase twice: from the first to the last.
        phases
            .entry(phase.phase)
            .and_modify(|held: &mut crate::evidence::statement::recovery::PhaseTiming| {
                held.end = held.end.max(phase.end);
            })
            .or_insert(phase);
    }
    let mut phases: Vec<_> = phases.into_values().collect();
    phases.sort_by_key(|p| (p.start, p.phase));
    let approvals: Vec<_> = outcome.approved.iter().flat_map(stated_approvals).collect();
    let initiator = match &outcome.approved {
        Some(approved) => Some(approved.initiator.to_string()),
        None => restorer.initiator.clone(),
    };
    let approver_is_not_initiator = initiator
        .as_ref()
        .filter(|_| !approvals.is_empty())
        .map(|who| approvals.iter().all(|a: &Approval| a.subject != *who));
    let predicate = RecoveryDrill {
        drill: Drill {
            id,
            sequence: 0,
            previous: None,
            kind: DrillKind::RealRestore,
            level,
            scenario: "restore".parse().expect("a word of letters"),
            scenario_digest: None,
            why: Vec::new(),
            intent: None,
        },
        scope: objectives::scope(&plan.cluster, governing),
        actors: Actors {
            initiator,
            approvals,
            runner: Runner {
                identity: restorer.name.clone(),
                key: restorer.key.fingerprint(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                image_digest: None,
            },
            separation_of_duties: writer.as_ref().map(|w| SeparationOfDuties {
                runner_is_not_writer: w.key != restorer.key.fingerprint(),
                approver_is_not_initiator,
            }),
            backup_writer: writer,
            reviewer: None,
        },
        policy: governing.map(|g| g.policy.clone()),
        sampling: None,
        recovery_point: Some(report::recovery_point(access, plan, None, None)),
        target: None,
        timings: Timings {
            clock_offset_ms: None,
            clock_error_ms: None,
            phases,
        },
        results: Results {
            verdict: Verdict::CouldNotVerify,
            reasons: Vec::new(),
            rto: None,
            rpo: lags(access, plan).await,
            checks,
            filestore: None,
            database: None,
        },
        exceptions: Vec::new(),
        remediation: Vec::new(),
        controls: report::controls(level),
        retention: None,
        byproducts: Vec::new(),
        unknown: Vec::new(),
    };
    let mut statement = Statement::new(report::subjects(plan, &[]), predicate);
    unknown::state_of_restore(&mut statement, restorer.governing.is_some());
    statement
}
