//! What was measured, and the statement that says it. Nothing here invents a
//! value: what was not measured is absent.

mod recovery;

use std::collections::BTreeMap;

use holdfast_agent::restore::{Access, Phase as Step, PhaseTiming as RestorePhase};
use holdfast_plan::restore::{RestorePlan, Target as PlanTarget};
use holdfast_plan::rto::Forecast;
use holdfast_proto::finding::Finding;
use holdfast_proto::names::{DrillId, ObjectKey};
use holdfast_proto::pg::Lsn;
use holdfast_proto::record::{BaseBody, CommitMark, TrustRole};
use holdfast_proto::{Sha256Digest, Timestamp};
use holdfast_repository::{clock, layout};

use super::surroundings::Surroundings;
use super::{Chosen, DrillRequest, Runner, Sight, objectives, unknown};
use crate::attack::Aftermath;
use crate::checks::Check;
use crate::draw::{Drawn, PackSample};
use crate::evidence::entry::Intent;
use crate::evidence::sampling::{FILE_POPULATION, POINT_POPULATION};
use crate::evidence::statement::context::{
    Actors, FileSample, KeyHolder, Runner as StatedRunner, SeparationOfDuties,
};
use crate::evidence::statement::recovery::{
    EgressProbe, Isolation, Phase, PhaseTiming, RecoveryTarget, Target, TargetKind, Timings,
};
use crate::evidence::statement::results::{
    Byproduct, CheckClass, CheckResult, DatabaseResult, FilestoreResult, Results, Rto, Verdict,
};
use crate::evidence::statement::{Drill, IntentReference, Level, RecoveryDrill, Retention, Statement};
use crate::evidence::verdict;
use crate::scratch::{EgressProbe as Probed, IsolationKind};
use recovery::seen_recovery_point;
pub(crate) use recovery::{recovery_point, subjects};

/// From what to what the recovery time is measured.
const RTO_DEFINITION: &str = "from the beginning of PROVISION to the later of PROMOTE's and FILESTORE_RESTORE's end: \
                              the copy takes connections and its files are in place";

/// What a drill has measured so far.
pub struct Measured {
    /// The drill.
    pub id: DrillId,
    sequence: u64,
    previous: Option<Sha256Digest>,
    /// The checks.
    pub checks: Vec<CheckResult>,
    /// What was met on the way.
    pub findings: Vec<Finding>,
    /// The database.
    pub database: DatabaseResult,
    /// The files.
    pub filestore: Option<FilestoreResult>,
    /// The WAL objects that the restore reads, with the digests they were verified by.
    pub wal: Vec<(ObjectKey, Sha256Digest)>,
    /// The manifests and indexes that it reads.
    pub commits: Vec<ObjectKey>,
    /// The packs to draw from and those drawn.
    pub packs: PackSample,
    /// What was measured around the drill.
    pub(super) surroundings: Surroundings,
    /// What the recovery was forecast to take.
    pub forecast: Option<Forecast>,
    /// Where recovery ended.
    pub reached: Option<Lsn>,
    /// The last transaction replayed, when PostgreSQL confirmed the plan's.
    pub last_commit: Option<CommitMark>,
    /// How the repository was seen; absent when it could not be.
    pub(super) sight: Option<Sight>,
    /// What the attack changed and is to be put right.
    pub(super) attacked: Aftermath,
    open: BTreeMap<Phase, Timestamp>,
    phases: Vec<PhaseTiming>,
    isolation: Option<IsolationKind>,
    probe: Option<EgressProbe>,
    destroyed: Option<Timestamp>,
}

impl Measured {
    /// Nothing yet.
    pub fn new(id: DrillId, intent: &Intent) -> Self {
        Self {
            id,
            sequence: intent.sequence,
            previous: intent.previous,
            checks: Vec::new(),
            findings: Vec::new(),
            database: DatabaseResult::default(),
            filestore: None,
            wal: Vec::new(),
            commits: Vec::new(),
            packs: PackSample::default(),
            surroundings: Surroundings::default(),
            forecast: None,
            reached: None,
            last_commit: None,
            sight: None,
            attacked: Aftermath::default(),
            open: BTreeMap::new(),
            phases: Vec::new(),
            isolation: None,
            probe: None,
            destroyed: None,
        }
    }

    /// A phase begins.
    pub fn begin(&mut self, phase: Phase) {
        self.open.insert(phase, clock::now());
    }

    /// It ends.
    pub fn end(&mut self, phase: Phase, bytes: Option<u64>, items: Option<u64>) {
        if let Some(start) = self.open.remove(&phase) {
            self.phases.push(PhaseTiming {
                phase,
                start,
                end: clock::now(),
                bytes,
                items,
            });
        }
    }

    /// A phase that was timed elsewhere.
    pub fn phase(&mut self, phase: Phase, start: Timestamp, end: Timestamp, bytes: Option<u64>) {
        self.phases.push(PhaseTiming {
            phase,
            start,
            end,
            bytes,
            items: None,
        });
    }

    /// A step of the production restore.
    pub fn restored(&mut self, step: &RestorePhase) {
        self.phases.extend(stated_phase(step));
    }

    /// How the copy is kept apart.
    pub fn isolated(&mut self, kind: IsolationKind, probe: Option<EgressProbe>) {
        self.isolation = Some(kind);
        self.probe = probe;
    }

    /// The scratch space is gone.
    pub fn destroyed(&mut self, at: Timestamp) {
        self.destroyed = Some(at);
    }

    /// Something without which the drill proves nothing could not be done.
    pub fn note_broken(&mut self, id: &str, why: &dyn std::fmt::Display) {
        self.checks
            .push(Check::mandatory(id, CheckClass::Recovery).could_not_run(why));
    }

    /// Manifests, indexes and drawn packs that the drill read, as it saw them.
    pub fn read(&self) -> Vec<ObjectKey> {
        let cluster = self.sight.as_ref().map(|s| &s.plan.cluster);
        let packs = self.packs.drawn.iter().zip(cluster.into_iter().cycle());
        let packs = packs.map(|(sha256, cluster)| layout::pack(cluster, sha256));
        self.commits.iter().cloned().chain(packs).collect()
    }

    fn sampled(&self) -> Option<FileSample> {
        (!self.packs.population.is_empty()).then(|| self.packs.stated())
    }

    fn rto_ms(&self) -> Option<u64> {
        let start = self.phases.iter().find(|p| p.phase == Phase::Provision)?.start;
        let end_of = |phase| self.phases.iter().find(|p| p.phase == phase).map(|p| p.end);
        let up = end_of(Phase::Promote)?;
        Some(
            end_of(Phase::FilestoreRestore)
                .map_or(up, |files| files.max(up))
                .millis_since(start),
        )
    }
}

/// A step of the production restore as a statement says it.
pub(crate) fn stated_phase(step: &RestorePhase) -> Option<PhaseTiming> {
    let phase = match step.phase {
        Step::BaseFetch => Phase::BaseFetch,
        Step::FilestoreRestore => Phase::FilestoreRestore,
        // Syncing and configuring belong to the fetch for whoever waits.
        Step::Configure => return None,
    };
    Some(PhaseTiming {
        phase,
        start: step.started,
        end: step.ended,
        bytes: Some(step.bytes),
        items: Some(step.items),
    })
}

/// Controls that a pass at `level` serves.
pub(crate) fn controls(level: Level) -> Vec<String> {
    [
        "ISO-27001:2022 A.8.13",
        "SOC-2 A1.2",
        "SOC-2 A1.3",
        "NIST-800-53 CP-4",
        "NIST-800-53 CP-9(1)",
        "NIST-800-53 CP-9(2)",
        "DORA Art. 11",
        "DORA Art. 12",
        "NIS2 2024/2690 4.2",
    ]
    .into_iter()
    .filter(|control| verdict::serves(level, control))
    .map(str::to_owned)
    .collect()
}

/// The word for a probe's answer.
pub fn word(probe: Probed) -> &'static str {
    match probe {
        Probed::Blocked => "blocked",
        Probed::Open => "open",
        Probed::NotProbed => "not probed",
    }
}

/// A target as a statement says it.
pub fn stated_target(target: &PlanTarget, plan: &RestorePlan) -> RecoveryTarget {
    match target {
        PlanTarget::Time(t) => RecoveryTarget::Time(*t),
        PlanTarget::Lsn(l) => RecoveryTarget::Lsn(*l),
        PlanTarget::Name(n) => RecoveryTarget::Name(n.clone()),
        PlanTarget::Latest => RecoveryTarget::Latest,
        // A transaction is carried out as its position.
        PlanTarget::Xid(_) => RecoveryTarget::Lsn(plan.replay.target_lsn),
    }
}

/// Puts everything together. The verdict is not settled yet.
pub(super) async fn statement(
    runner: &Runner,
    access: &Access,
    request: &DrillRequest,
    chosen: &Chosen,
    intent: IntentReference,
    measured: Measured,
) -> Statement {
    let governing = request.governing.as_ref();
    let sight = measured.sight.as_ref();
    // What could not be seen was not restored from: then the plan of the intent is
    // all there is to name.
    let plan = sight.map_or(&chosen.plan, |s| &s.plan);
    let ledger = sight.map_or(&chosen.ledger, |s| &s.ledger);
    let recovery_point = sight.map(|s| seen_recovery_point(s, chosen, &measured));
    let rpo = objectives::lags(ledger, plan);
    let subjects = subjects(plan, &measured.wal);
    let sampled = measured.sampled();
    let byproducts = byproducts(&chosen.drawn, sampled.as_ref());
    let writer = backup_writer(access, plan).await;
    let separation = writer.as_ref().map(|w| SeparationOfDuties {
        runner_is_not_writer: w.key != runner.key.fingerprint(),
        approver_is_not_initiator: None,
    });
    let reasons = measured.surroundings.reasons.clone();
    let predicate = RecoveryDrill {
        drill: Drill {
            id: measured.id,
            sequence: measured.sequence,
            previous: measured.previous,
            kind: request.kind,
            level: request.scenario.level,
            scenario: request.scenario.name.clone(),
            scenario_digest: Some(request.scenario.digest),
            why: request.aim.why.clone(),
            intent: Some(intent),
        },
        scope: objectives::scope(&request.cluster, governing),
        actors: Actors {
            initiator: request.initiator.clone(),
            approvals: Vec::new(),
            runner: StatedRunner {
                identity: runner.name.clone(),
                key: runner.key.fingerprint(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                image_digest: runner.place.as_ref().and_then(|p| p.image_digest.clone()),
            },
            backup_writer: writer,
            separation_of_duties: separation,
            reviewer: None,
        },
        policy: governing.map(|g| g.judging(request.scenario.level)),
        sampling: Some(chosen.drawn.stated(sampled)),
        recovery_point,
        target: measured.isolation.map(|kind| Target {
            kind: match &runner.place {
                Some(_) => TargetKind::Kubernetes,
                None => TargetKind::Local,
            },
            isolation: match kind {
                IsolationKind::Namespaces => Isolation::LinuxNamespaces,
                IsolationKind::SocketFilter => Isolation::SocketFilter,
                IsolationKind::PrivateDirectory => Isolation::PrivateDirectory,
            },
            namespace: runner.place.as_ref().map(|p| p.namespace.clone()),
            node: runner.place.as_ref().and_then(|p| p.node.clone()),
            region: runner.region.clone(),
            egress_probe: measured.probe,
            segregated_from_source: measured.probe.map(|p| p == EgressProbe::Blocked),
            neutralised: measured.reached.map(|_| true),
            destroyed_at: measured.destroyed,
        }),
        timings: timings(&measured),
        results: Results {
            // Settled from what follows before anything is signed.
            verdict: Verdict::CouldNotVerify,
            reasons: Vec::new(),
            rto: measured.rto_ms().map(|actual_ms| Rto {
                actual_ms,
                definition: RTO_DEFINITION.to_owned(),
                met: None,
                predicted_ms: Some(
                    measured
                        .forecast
                        .map_or(plan.predicted.total_ms, |forecast| forecast.p50_ms),
                ),
                predicted_p90_ms: measured.forecast.map(|forecast| forecast.p90_ms),
            }),
            rpo,
            filestore: measured.filestore,
            database: (measured.database != DatabaseResult::default()).then_some(measured.database),
            checks: measured.checks,
        },
        exceptions: Vec::new(),
        remediation: Vec::new(),
        controls: controls(request.scenario.level),
        retention: measured.surroundings.retained.map(|until| Retention { until }),
        byproducts,
        unknown: Vec::new(),
    };
    let mut statement = Statement::new(subjects, predicate);
    unknown::state(&mut statement, request, &reasons);
    statement
}

fn timings(measured: &Measured) -> Timings {
    let mut phases = measured.phases.clone();
    phases.sort_by_key(|p| (p.start, p.phase));
    Timings {
        clock_offset_ms: measured.surroundings.clock.map(|c| c.offset_ms),
        clock_error_ms: measured.surroundings.clock.map(|c| c.error_ms),
        phases,
    }
}

pub(crate) async fn backup_writer(access: &Access, plan: &RestorePlan) -> Option<KeyHolder> {
    let (signed, _) = access
        .repository
        .read_signed::<BaseBody>(&plan.base.link.key, &access.trust)
        .await
        .ok()?;
    let key = access
        .trust
        .key(&signed.signer)
        .filter(|k| k.role == TrustRole::Agent)?;
    Some(KeyHolder {
        identity: key.name.clone(),
        key: signed.signer,
    })
}

/// The files that the statement names: what packs and moment were drawn from.
fn byproducts(drawn: &Drawn, files: Option<&FileSample>) -> Vec<Byproduct> {
    let named = |name: &str, digest| Byproduct {
        name: name.to_owned(),
        digest,
    };
    let files = files.and_then(|s| s.population_digest);
    let points = drawn.points().map(|p| p.digest);
    files
        .map(|digest| named(FILE_POPULATION, digest))
        .into_iter()
        .chain(points.map(|digest| named(POINT_POPULATION, digest)))
        .collect()
}
