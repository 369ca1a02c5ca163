//! Runs a drill: a disaster on purpose.
//!
//! Order: the draw; the plan; the intent into the log, sealed by a checkpoint; the
//! scratch space; the repository seen as the scenario says; checks of it; the damage
//! or the attack that the scenario plays; the production restore; the copy's recovery
//! in isolation; checks of the copy; the space destroyed; what was attacked put
//! right; the statement, linted, signed and logged. What goes wrong after the
//! intent ends as a result that says so. If this process dies, the kernel kills the
//! copy, the next run sweeps the space, and the coordinator answers the intent as
//! abandoned.
//!
//! The runner measures; it decides nothing. The verdict follows from the checks
//! by [`crate::evidence::verdict`].

mod choosing;
mod copy;
pub(crate) mod objectives;
mod provision;
pub(crate) mod report;
mod sight;
mod surroundings;
pub(crate) mod unknown;

pub use objectives::Governing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use holdfast_agent::restore::{Access, FetchBy, PlanError};
use holdfast_plan::drills::BaseKind;
use holdfast_plan::restore::Target;
use holdfast_proto::Sha256Digest;
use holdfast_proto::finding::Finding;
use holdfast_proto::names::{ActorName, ClusterId, DrillId, FilestoreName, Region};
use holdfast_repository::clock;
use holdfast_repository::config::RepositoryConfig;
use holdfast_repository::seal::Identities;
use holdfast_repository::signing::SigningKey;
use serde::{Deserialize, Serialize};

use crate::checks::{damage, integrity};
use crate::draw::DrawError;
use crate::evidence::entry::{IntendedRecovery, Intent};
use crate::evidence::lint::{LintFinding, lint_to_sign};
use crate::evidence::statement::recovery::Phase;
use crate::evidence::statement::{DrillKind, IntentReference, Level, ScenarioName, Statement};
use crate::evidence::tlog::NoteKey;
use crate::evidence::verdict;
use crate::log::{DrillLog, LogError};
use crate::place::Place;
use crate::scenario::{MomentKind, Played, Scenario, ScenarioError};
use crate::scratch::{Isolation, Limits, ScratchError, ScratchSpace};
use crate::{answer, attack, learnt};

use choosing::{Chosen, choose};
pub use report::Measured;
use sight::Sight;

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
    /// The scenario is about another kind of moment.
    #[error("the scenario {scenario} is about {}: {what}", kind_in_words(*.kind))]
    Moment {
        /// The scenario.
        scenario: ScenarioName,
        /// The kind that it wants.
        kind: MomentKind,
        /// What to do.
        what: &'static str,
    },
    /// No moment can be drawn from which a base backup of the kind is nearest.
    #[error(
        "{0} has no restorable moment to which a base backup of the wanted kind is nearest: see `holdfast points`"
    )]
    NoBase(ClusterId),
    /// A region that the repository does not have.
    #[error("the configuration has no replica in {0}: `holdfast config show` lists them")]
    NoRegion(Region),
    /// No joint recovery point can be drawn.
    #[error("{0} has no joint recovery point of database and filestores: see `holdfast points`")]
    NoFence(ClusterId),
    /// The attack needs the writer's credentials.
    #[error(
        "the scenario {0} turns the writer's credentials against the backup: name the agent's configuration with --writer          FILE"
    )]
    NoWriter(ScenarioName),
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
    /// The moment was not drawn.
    #[error(transparent)]
    Draw(#[from] DrawError),
    /// There is no place to work.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    /// The place was made for a drill that has begun already.
    #[error(
        "drill {0} was announced already: this is a second run in its place, which nobody asked for. What the first \
         came to is in the log"
    )]
    Repeated(DrillId),
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
    /// The place that somebody made for one drill, if it is not a machine's own.
    pub place: Option<Place>,
    /// What the copy may use of this machine.
    pub limits: Limits,
    /// Where this machine is, when its configuration says so.
    pub region: Option<Region>,
}

impl Runner {
    /// The regions of the repository, as configured.
    fn regions(&self) -> Vec<Region> {
        let replicas = self.fetch.repository.replicas.iter();
        replicas.map(|r| r.region.clone()).collect()
    }
}

fn kind_in_words(kind: MomentKind) -> &'static str {
    match kind {
        MomentKind::Any => "any moment",
        MomentKind::Time => "a moment at which something happened",
        MomentKind::Name => "a restore point that somebody named",
        MomentKind::Fence => "a joint recovery point",
    }
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
    /// What opens the backup, where the scenario withholds the usual keys.
    pub identities: Identities,
    /// The repository as the agent reaches it, where the scenario turns the
    /// agent's credentials against the backup.
    pub writer: Option<RepositoryConfig>,
    /// Replicas whose absence is accepted, by name.
    pub accept_unreachable: BTreeSet<Region>,
    /// The policy that it is judged by, when there is one.
    pub governing: Option<Governing>,
    /// Why it runs.
    pub kind: DrillKind,
    /// What it has to restore from.
    pub aim: Aim,
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

/// What a drill has to restore from, so that it proves just that.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aim {
    /// The replica of this region alone: all others are cut off.
    #[serde(default)]
    pub only_region: Option<Region>,
    /// A base backup of this kind: the moment is drawn from those that such a one is
    /// nearest to.
    #[serde(default)]
    pub base: Option<BaseKind>,
    /// Why the plan of drills wants it.
    #[serde(default)]
    pub why: Vec<String>,
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
    let played = request.scenario.play(&request.parameters)?;
    if let Some(region) = &request.aim.only_region
        && !runner.regions().contains(region)
    {
        return Err(DrillError::NoRegion(region.clone()));
    }
    if request.scenario.attack && request.writer.is_none() {
        return Err(DrillError::NoWriter(request.scenario.name.clone()));
    }
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
    let id = match &runner.place {
        // A Job may start its pod anew after the first was taken away.
        Some(place) if answer::find(&log, place.drill).await?.is_some() => {
            return Err(DrillError::Repeated(place.drill));
        }
        Some(place) => place.drill,
        None => DrillId::from_parts(began, rand::random()),
    };

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
            target: report::stated_target(&chosen.wanted.target, &chosen.plan),
            base: Some(chosen.plan.base.id),
            point: chosen.fence,
        },
        seed: Some(chosen.drawn.seed),
        at: began,
        deadline: began.plus_millis(request.limit.as_millis() as i64),
    };
    let (reference, stored) = log.log_intent(&intent, &runner.key, request.patience).await?;

    let mut measured = Measured::new(id, &intent);
    // Before anything is measured: what came is compared with it.
    measured.forecast = match learnt::learnt(&log, &request.cluster).await {
        Ok(learnt) => Some(learnt.forecast(&chosen.plan.amounts())),
        Err(error) => {
            say(&format!(
                "no recovery is learnt from, and none is forecast: {error}"
            ));
            None
        }
    };
    let work = carry_out(runner, access, request, &chosen, &played, &mut measured, say);
    if tokio::time::timeout(request.limit, work).await.is_err() {
        measured.note_broken(
            "drill-in-time",
            &format!("the drill took longer than {} s", request.limit.as_secs()),
        );
    }
    put_right(&mut measured, say).await;
    let (decides, read) = (log.store().decides(), measured.read());
    measured.surroundings = surroundings::measure(&access.repository, decides, &stored, &read).await;
    conclude(runner, access, request, &chosen, &log, reference, measured, say).await
}

async fn carry_out(
    runner: &Runner,
    access: &Access,
    request: &DrillRequest,
    chosen: &Chosen,
    played: &Played,
    measured: &mut Measured,
    say: Say<'_>,
) {
    // Before the clock of the recovery time runs: waiting for silence takes a while.
    if let Some(place) = &runner.place {
        measured.checks.extend(place.probe().await);
    }
    measured.begin(Phase::Provision);
    let (space, isolation, cage) = match provision::make(runner, measured) {
        Ok(made) => made,
        Err(e) => return measured.note_broken("scratch-space", &e),
    };
    measured.end(Phase::Provision, None, None);

    measured.begin(Phase::KeyUnwrap);
    let sight = sight::open(runner, access, request, chosen, measured).await;
    let keys = sight.as_ref().map(|s| s.access.keyring.len() as u64);
    measured.end(Phase::KeyUnwrap, None, keys);
    if let Some(sight) = sight {
        prove(
            runner, access, request, chosen, played, &isolation, &sight, &space, measured, say,
        )
        .await;
        measured.sight = Some(sight);
    }

    provision::note_killed(cage.as_deref(), measured);
    say("destroying the scratch space");
    measured.begin(Phase::Teardown);
    match space.destroy() {
        Ok(()) => measured.destroyed(clock::now()),
        Err(e) => measured.note_broken("scratch-destroyed", &e),
    }
    measured.end(Phase::Teardown, None, None);
}

/// Looks at the repository, plays the scenario's damage or attack, and restores.
#[expect(clippy::too_many_arguments, reason = "everything that a drill is made of")]
async fn prove(
    runner: &Runner,
    access: &Access,
    request: &DrillRequest,
    chosen: &Chosen,
    played: &Played,
    isolation: &Isolation,
    sight: &Sight,
    space: &ScratchSpace,
    measured: &mut Measured,
    say: Say<'_>,
) {
    let scenario = &request.scenario;
    say("checking the repository: signatures, presence, a drawn sample, continuity, keys");
    if scenario.level == Level::L1 {
        measured.begin(Phase::Checks);
    }
    let seed = chosen.drawn.seed;
    let under = integrity::Under {
        repository: &sight.access.repository,
        trust: &sight.access.trust,
        keyring: &sight.access.keyring,
        ledger: &sight.ledger,
        plan: &sight.plan,
        seed,
        sample_percent: scenario.sample_percent,
        secrets_too: scenario.only_escrow,
    };
    let found = integrity::run(under).await;
    measured.checks.extend(found.checks);
    measured.findings.extend(found.findings);
    measured.wal.clone_from(&found.objects.wal);
    measured.commits = [found.objects.commits.clone(), found.objects.indexes.clone()].concat();
    measured.packs = found.sample;
    if scenario.level == Level::L1 {
        measured.end(Phase::Checks, None, Some(measured.checks.len() as u64));
        return;
    }

    if let (Some(view), Some(spec)) = (&sight.view, &scenario.view.damage) {
        let damaged = damage::drawn(seed, &found.objects, spec, &runner.regions());
        say(&format!(
            "looking at the repository with {} copies damaged",
            damaged.len()
        ));
        view.damage(damaged);
    }
    if let (true, Some(writer)) = (scenario.attack, &request.writer) {
        say("turning the writer's credentials against the backup");
        let (real, attacked) = (&access.repository, &mut measured.attacked);
        let checks = attack::strike(writer, real, &found.objects, seed, attacked).await;
        measured.checks.extend(checks);
    }
    let copy = copy::Copy {
        runner,
        request,
        sight,
        isolation,
        played,
        fence: chosen.fence,
    };
    copy.prove(space.path(), measured, say).await;
    if let Some(view) = &sight.view {
        measured.checks.extend(sight::cut_off(view));
        if scenario.view.damage.is_some() {
            let checks = damage::aftermath(&access.repository, view, &measured.findings).await;
            measured.checks.extend(checks);
        }
    }
}

/// What the attack changed is put right, whatever became of the drill.
async fn put_right(measured: &mut Measured, say: Say<'_>) {
    let attacked = std::mem::take(&mut measured.attacked);
    if !attacked.is_empty() {
        say("putting right what was attacked");
        measured.checks.push(attacked.put_right().await);
    }
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
    let mut findings = measured.findings.clone();
    let mut seen = BTreeSet::new();
    findings.retain(|f| seen.insert((f.name.clone(), f.subject.clone())));
    let listing = measured.packs.listing();
    let mut statement = report::statement(runner, access, request, chosen, intent, measured).await;
    verdict::settle(&mut statement.predicate);
    lint_to_sign(&statement).map_err(DrillError::Lint)?;
    say(&format!(
        "logging the result: {}",
        statement.predicate.results.verdict
    ));
    if !listing.is_empty() {
        let stored = log.store().put_byproduct(listing.into()).await;
        stored.map_err(LogError::from)?;
    }
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
