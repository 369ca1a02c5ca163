//! Runs a drill: a disaster on purpose.
//!
//! Order: the plan; the intent into the log, sealed by a checkpoint; the scratch
//! space; checks of the repository; the production restore; the copy's recovery
//! in isolation; checks of the copy; the space destroyed; the statement, linted,
//! signed and logged. What goes wrong after the intent ends as a result that
//! says so. If this process dies, the kernel kills the copy, the next run sweeps
//! the space, and the coordinator answers the intent as abandoned.
//!
//! The runner measures; it decides nothing. The verdict follows from the checks
//! by [`crate::evidence::verdict`].

mod copy;
pub(crate) mod objectives;
pub(crate) mod report;

pub use objectives::Governing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use holdfast_agent::restore::{Access, FetchBy, PlanError, plan_request};
use holdfast_plan::restore::{Request, RestorePlan, Target};
use holdfast_proto::finding::Finding;
use holdfast_proto::names::{ActorName, ClusterId, DrillId, FilestoreName, Region};
use holdfast_proto::{Sha256Digest, Timestamp};
use holdfast_repository::clock;
use holdfast_repository::signing::SigningKey;

use crate::checks::{Check, integrity};
use crate::draw::{self, Drawn};
use crate::evidence::entry::{IntendedRecovery, Intent};
use crate::evidence::lint::{LintFinding, lint};
use crate::evidence::statement::recovery::{EgressProbe as StatedProbe, Phase};
use crate::evidence::statement::results::CheckClass;
use crate::evidence::statement::{DrillKind, IntentReference, Level, Statement};
use crate::evidence::tlog::NoteKey;
use crate::evidence::verdict;
use crate::log::{DrillLog, LogError};
use crate::scenario::{QueryCheck, Scenario, ScenarioError};
use crate::scratch::{EgressProbe, Isolation, ScratchError, ScratchSpace};

pub use report::Measured;

/// A drill that could not begin, or could not be put on record.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The scenario does not fit.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// There is nothing to restore to.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No moment can be drawn.
    #[error("{0} has no restorable interval to draw a moment from: see `holdfast points`")]
    NoWindow(ClusterId),
    /// The runner's key is not believed.
    #[error("the runner's key is not enrolled for {cluster}: {why}")]
    Runner {
        /// The cluster.
        cluster: ClusterId,
        /// Why.
        why: String,
    },
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// There is no place to work.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    /// The statement claims more than its checks show.
    #[error("the statement is not signed: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Lint(Vec<LintFinding>),
}

/// Who runs drills, and where.
#[derive(Debug)]
pub struct Runner {
    /// The name under which the key is enrolled.
    pub name: ActorName,
    /// Its key.
    pub key: SigningKey,
    /// Where scratch spaces are made.
    pub scratch: PathBuf,
    /// How recovery fetches WAL.
    pub fetch: FetchBy,
    /// Whoever outside must have seen an intent before work starts.
    pub witnesses: Vec<NoteKey>,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct DrillRequest {
    /// Whose data.
    pub cluster: ClusterId,
    /// What is to be proven.
    pub scenario: Scenario,
    /// The scenario's parameters.
    pub parameters: BTreeMap<String, String>,
    /// Where to; drawn from the newest restorable interval when absent.
    pub target: Option<Target>,
    /// Replicas whose absence is accepted, by name.
    pub accept_unreachable: BTreeSet<Region>,
    /// The policy that it is judged by, when there is one.
    pub governing: Option<Governing>,
    /// Why it runs.
    pub kind: DrillKind,
    /// Who started it.
    pub initiator: Option<String>,
    /// Databases that filestores belong to, where that is not evident.
    pub databases: BTreeMap<FilestoreName, String>,
    /// The bootstrap superuser of the cluster.
    pub superuser: String,
    /// How long the drill may take before it counts as abandoned.
    pub limit: Duration,
    /// How long to wait for the coordinator to seal an entry.
    pub patience: Duration,
}

/// What came of a drill.
#[derive(Debug, Clone)]
pub struct DrillOutcome {
    /// The statement as signed.
    pub statement: Statement,
    /// Its place in the log.
    pub index: u64,
    /// SHA-256 of its entry.
    pub leaf: Sha256Digest,
    /// Whether the coordinator countersigned.
    pub countersigned: bool,
    /// Damaged copies, healed ones, replicas out of reach.
    pub findings: Vec<Finding>,
}

/// Says what happens, for a person.
pub type Say<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// Runs a drill from intent to result.
///
/// # Errors
/// It could not begin, or its result could not be put on record. A copy that
/// does not come back is no error: it is a result.
pub async fn run(
    runner: &Runner,
    access: &Access,
    request: &DrillRequest,
    say: Say<'_>,
) -> Result<DrillOutcome, DrillError> {
    let began = clock::now();
    let queries = request.scenario.checks(&request.parameters)?;
    access
        .trust
        .check(
            &runner.key.fingerprint(),
            &[holdfast_proto::record::TrustRole::Runner],
            Some(&request.cluster),
        )
        .map_err(|e| DrillError::Runner {
            cluster: request.cluster.clone(),
            why: e.to_string(),
        })?;
    let log = DrillLog::open(&access.repository, &access.trust)
        .await?
        .witnessed_by(&runner.witnesses);
    let id = DrillId::from_parts(began, rand::random());

    let chosen = choose(runner, access, request, &log, id, began).await?;
    say(&format!(
        "logging the intent to restore to {}",
        chosen.plan.target
    ));
    let sequence = log.sequence(&request.cluster).await?;
    let intent = Intent {
        drill: id,
        slot: Some(chosen.drawn.slot.clone()),
        cluster: request.cluster.clone(),
        sequence: sequence.next,
        previous: sequence.previous,
        kind: request.kind,
        level: request.scenario.level,
        scenario: request.scenario.name.clone(),
        recovery: IntendedRecovery {
            target: report::stated_target(&chosen.plan),
            base: Some(chosen.plan.base.id),
            point: None,
        },
        seed: Some(chosen.drawn.seed),
        at: began,
        deadline: began.plus_millis(request.limit.as_millis() as i64),
    };
    let reference = log.log_intent(&intent, &runner.key, request.patience).await?;

    let mut measured = Measured::new(id, &intent);
    let work = carry_out(runner, access, request, &chosen, &queries, &mut measured, say);
    if tokio::time::timeout(request.limit, work).await.is_err() {
        measured.note_broken(
            "drill-in-time",
            &format!("the drill took longer than {} s", request.limit.as_secs()),
        );
    }
    conclude(runner, access, request, &chosen, &log, reference, measured, say).await
}

/// The plan, and how its moment was chosen.
struct Chosen {
    plan: RestorePlan,
    ledger: holdfast_agent::ledger::Ledger,
    drawn: Drawn,
}

/// Chooses the moment and plans. A moment that was named is planned first, so
/// that one that cannot be restored leaves nothing in the log.
async fn choose(
    runner: &Runner,
    access: &Access,
    request: &DrillRequest,
    log: &DrillLog,
    id: DrillId,
    now: Timestamp,
) -> Result<Chosen, DrillError> {
    let draw = |window| draw::draw(log, id, &request.cluster, window, &runner.key, request.patience);
    let (target, drawn) = match &request.target {
        Some(target) => (target.clone(), None),
        None => {
            let ledger =
                holdfast_agent::ledger::Ledger::load(&access.repository, &access.trust, &request.cluster)
                    .await
                    .map_err(PlanError::from)?;
            let no_window = || DrillError::NoWindow(request.cluster.clone());
            let window = draw::window(&ledger.points()).ok_or_else(no_window)?;
            let drawn = draw(Some(window)).await?;
            let selected = drawn.selected.ok_or_else(no_window)?;
            (Target::Time(selected), Some(drawn))
        }
    };
    let mut wanted = Request::new(target);
    wanted.accept_unreachable = request.accept_unreachable.clone();
    if request.scenario.level < Level::L3 {
        wanted.filestores = holdfast_plan::restore::FilestoreChoice::None;
    }
    let (plan, ledger) = plan_request(
        &access.repository,
        &access.trust,
        Some(&access.keyring),
        &request.cluster,
        &wanted,
        now,
    )
    .await?;
    let drawn = match drawn {
        Some(drawn) => drawn,
        None => draw(None).await?,
    };
    Ok(Chosen { plan, ledger, drawn })
}

async fn carry_out(
    runner: &Runner,
    access: &Access,
    request: &DrillRequest,
    chosen: &Chosen,
    queries: &[QueryCheck],
    measured: &mut Measured,
    say: Say<'_>,
) {
    measured.begin(Phase::Provision);
    let isolation = Isolation::detect();
    let space = match provision(runner, measured.id) {
        Ok(space) => space,
        Err(e) => return measured.note_broken("scratch-space", &e),
    };
    let probe = isolation.probe_egress();
    measured.isolated(
        isolation.kind(),
        match probe {
            EgressProbe::Blocked => Some(StatedProbe::Blocked),
            EgressProbe::Open => Some(StatedProbe::Open),
            EgressProbe::NotProbed => None,
        },
    );
    if probe != EgressProbe::NotProbed {
        let check = Check::mandatory("egress-closed", CheckClass::Isolation);
        measured
            .checks
            .push(check.compared(probe == EgressProbe::Blocked, "blocked", report::word(probe)));
    }
    measured.end(Phase::Provision, None, None);

    say("checking the repository: signatures, presence, a drawn sample, continuity, keys");
    measured.begin(Phase::KeyUnwrap);
    measured.end(Phase::KeyUnwrap, None, Some(access.keyring.len() as u64));
    let under = integrity::Under {
        repository: &access.repository,
        trust: &access.trust,
        keyring: &access.keyring,
        ledger: &chosen.ledger,
        plan: &chosen.plan,
        seed: chosen.drawn.seed,
    };
    let (found, wal, packs) = integrity::run(under).await;
    measured.checks.extend(found);
    measured.wal = wal;
    measured.packs = packs;

    if request.scenario.level > Level::L1 {
        let copy = copy::Copy {
            runner,
            access,
            request,
            plan: &chosen.plan,
            isolation,
            queries,
        };
        copy.prove(space.path(), measured, say).await;
    }

    say("destroying the scratch space");
    measured.begin(Phase::Teardown);
    match space.destroy() {
        Ok(()) => measured.destroyed(clock::now()),
        Err(e) => measured.note_broken("scratch-destroyed", &e),
    }
    measured.end(Phase::Teardown, None, None);
}

fn provision(runner: &Runner, id: DrillId) -> Result<ScratchSpace, ScratchError> {
    for left in ScratchSpace::sweep(&runner.scratch)? {
        tracing::warn!(path = %left.display(), "an earlier drill died here; its scratch space was removed");
    }
    ScratchSpace::create(&runner.scratch, id)
}

#[expect(
    clippy::too_many_arguments,
    reason = "the one place where everything measured meets"
)]
async fn conclude(
    runner: &Runner,
    access: &Access,
    request: &DrillRequest,
    chosen: &Chosen,
    log: &DrillLog,
    intent: IntentReference,
    measured: Measured,
    say: Say<'_>,
) -> Result<DrillOutcome, DrillError> {
    let findings = measured.findings.clone();
    let listing = measured.packs.listing();
    let mut statement = report::statement(runner, access, request, chosen, intent, measured).await;
    verdict::settle(&mut statement.predicate);
    lint(&statement).map_err(DrillError::Lint)?;
    say(&format!(
        "logging the result: {}",
        statement.predicate.results.verdict
    ));
    log.store()
        .put_byproduct(listing.into())
        .await
        .map_err(LogError::from)?;
    let place = log.log_result(&statement, &runner.key, request.patience).await?;
    let countersigned = log
        .wait_countersigned(&place.digest, request.patience)
        .await?
        .is_some();
    Ok(DrillOutcome {
        statement,
        index: place.index,
        leaf: place.digest,
        countersigned,
        findings,
    })
}
