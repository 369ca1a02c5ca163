//! Which moment is restored to, and the plan for it.
//!
//! The moment is given, or drawn ([`crate::draw`]): from the newest restorable
//! interval, or from the joint recovery points in it. A reader of the log draws the
//! same. A moment that was given is planned first, so that one that cannot be
//! restored leaves nothing in the log.

use holdfast_agent::ledger::Ledger;
use holdfast_agent::restore::{Access, PlanError, WalSource, plan_request};
use holdfast_plan::restore::{FilestoreChoice, PointFact, Request, RestorePlan, Target};
use holdfast_proto::Timestamp;
use holdfast_proto::names::{DrillId, Lineage, PointId};

use super::{DrillError, DrillRequest, Runner};
use crate::draw::{self, Drawn, Lot};
use crate::evidence::sampling::points::Candidate;
use crate::evidence::statement::Level;
use crate::log::DrillLog;
use crate::scenario::MomentKind;

/// The plan, and how its moment was chosen.
pub struct Chosen {
    /// What was asked of the planner.
    pub wanted: Request,
    /// The plan.
    pub plan: RestorePlan,
    /// What the repository held.
    pub ledger: Ledger,
    /// What was drawn: the moment unless it was given, and the seed of all else.
    pub drawn: Drawn,
    /// The joint recovery point restored to, when it is one.
    pub fence: Option<PointId>,
}

/// Chooses the moment and plans the restore to it, with the repository as it is.
pub async fn choose(
    runner: &Runner,
    access: &Access,
    request: &DrillRequest,
    log: &DrillLog,
    id: DrillId,
    now: Timestamp,
) -> Result<Chosen, DrillError> {
    refuse_other_moments(request)?;
    let share = request.scenario.sample_percent;
    let cast = async |lot: &Lot| {
        let (cluster, key) = (&request.cluster, &runner.key);
        draw::draw(log, id, cluster, lot, share, key, request.patience).await
    };
    let (target, drawn) = match &request.target {
        Some(target) => (target.clone(), None),
        None => {
            let ledger = Ledger::load(&access.repository, &access.trust, &request.cluster)
                .await
                .map_err(PlanError::from)?;
            let drawn = cast(&lot(&ledger, request)?).await?;
            let target = match (&drawn.point, drawn.selected) {
                (Some(name), _) => Target::Name(name.clone()),
                (None, Some(moment)) => Target::Time(moment),
                (None, None) => return Err(DrillError::NoWindow(request.cluster.clone())),
            };
            (target, Some(drawn))
        }
    };
    let mut wanted = Request::new(target);
    wanted.accept_unreachable = request.accept_unreachable.clone();
    if request.scenario.level < Level::L3 {
        wanted.filestores = FilestoreChoice::None;
    }
    wanted.lineage = lineage_of(access, request, &wanted.target).await?;
    let (plan, ledger) = match planned(access, request, &wanted, now).await {
        // Keys that open nothing are for the drill to find out, after its intent
        // is on record: where exactly the moment lies is planned again then.
        Err(PlanError::Locate(_)) if access.keyring.is_empty() => {
            let anywhere = Request {
                target: Target::Latest,
                ..wanted.clone()
            };
            planned(access, request, &anywhere, now).await?
        }
        other => other?,
    };
    let fence = match &wanted.target {
        Target::Name(name) => {
            let points = ledger.points().points;
            points.iter().find(|p| p.name == *name).map(|p| p.id)
        }
        _ => None,
    };
    let drawn = match drawn {
        Some(drawn) => drawn,
        None => cast(&Lot::Named).await?,
    };
    Ok(Chosen {
        wanted,
        plan,
        ledger,
        drawn,
        fence,
    })
}

async fn planned(
    access: &Access,
    request: &DrillRequest,
    wanted: &Request,
    now: Timestamp,
) -> Result<(RestorePlan, Ledger), PlanError> {
    let keyring = (!access.keyring.is_empty()).then_some(&access.keyring);
    let (repository, trust) = (&access.repository, &access.trust);
    plan_request(repository, trust, keyring, &request.cluster, wanted, now).await
}

/// A scenario that is about something which happened has no use for any moment.
fn refuse_other_moments(request: &DrillRequest) -> Result<(), DrillError> {
    let scenario = &request.scenario;
    let what = match (scenario.moment, &request.target) {
        (MomentKind::Any, _) => return Ok(()),
        (MomentKind::Time, Some(Target::Time(_) | Target::Lsn(_))) => return Ok(()),
        (MomentKind::Name, Some(Target::Name(_))) => return Ok(()),
        (MomentKind::Fence, None | Some(Target::Name(_))) => return Ok(()),
        (MomentKind::Time, _) => "pass --to-time, just before it",
        (MomentKind::Name, _) => "pass --to-name; `holdfast points --names` lists the names there are",
        (MomentKind::Fence, _) => "leave the moment out, or pass --to-name with the point's name",
    };
    Err(DrillError::Moment {
        scenario: scenario.name.clone(),
        kind: scenario.moment,
        what,
    })
}

/// The lineage that a name lies in, when there are several: after an upgrade the
/// newest lineage is the new server's, and the point was made on the old one.
async fn lineage_of(
    access: &Access,
    request: &DrillRequest,
    target: &Target,
) -> Result<Option<Lineage>, DrillError> {
    let Target::Name(name) = target else {
        return Ok(None);
    };
    let ledger = Ledger::load(&access.repository, &access.trust, &request.cluster)
        .await
        .map_err(PlanError::from)?;
    if ledger.facts.lineages.len() < 2 {
        return Ok(None);
    }
    let fences = ledger.facts.lineages.iter();
    let ours = fences
        .filter(|l| l.points.iter().any(|p| p.name == *name))
        .map(|l| l.lineage);
    let mut found: Vec<Lineage> = ours.collect();
    if found.is_empty() {
        let source = WalSource {
            repository: &access.repository,
            trust: &access.trust,
            keyring: None,
        };
        let named = ledger.named_points(source).await;
        let (points, _) = named.map_err(|e| PlanError::Locate(e.into()))?;
        found.extend(points.iter().filter(|p| p.name == *name).map(|p| p.lineage));
        found.dedup();
    }
    // A name in several lineages is for the planner to refuse.
    Ok(match found.as_slice() {
        [one] => Some(*one),
        _ => None,
    })
}

/// What the moment is drawn from: the newest restorable interval, or the joint
/// recovery points in it. From those alone at which the source's databases were
/// asked, where there are any.
fn lot(ledger: &Ledger, request: &DrillRequest) -> Result<Lot, DrillError> {
    let points = &ledger.points();
    if request.scenario.moment != MomentKind::Fence {
        let window = draw::window(points);
        if let (Some(kind), Some(window)) = (request.aim.base, window) {
            let bases = ledger.facts.lineages.iter().flat_map(|l| &l.bases);
            let bases = bases.map(|b| (b.stopped, b.kind));
            let nearest = draw::nearest(window, bases, kind).map(Lot::Moments);
            return nearest.ok_or_else(|| DrillError::NoBase(request.cluster.clone()));
        }
        return window
            .map(Lot::Moments)
            .ok_or_else(|| DrillError::NoWindow(request.cluster.clone()));
    }
    let newest = points.restorable.intervals.iter().max_by_key(|i| i.to.time);
    let mut within: Vec<&PointFact> = points
        .points
        .iter()
        .filter(|p| newest.is_some_and(|i| i.from.time <= Some(p.at) && Some(p.at) <= i.to.time))
        .collect();
    if within.is_empty() {
        return Err(DrillError::NoFence(request.cluster.clone()));
    }
    if within.iter().any(|p| p.referenced) {
        within.retain(|p| p.referenced);
    }
    let candidates = within.iter().map(|p| Candidate {
        at: p.at,
        name: p.name.clone(),
    });
    Ok(Lot::Points(candidates.collect()))
}
