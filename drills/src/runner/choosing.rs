//! Which moment is restored to, and the plan for it.
//!
//! The moment is given, or drawn: from the newest restorable interval, or from
//! the joint recovery points in it. A reader of the log draws the same.

use holdfast_agent::ledger::{Ledger, PointsReport};
use holdfast_agent::restore::{Access, PlanError, WalSource, plan_request};
use holdfast_plan::restore::{FilestoreChoice, PointFact, Request, RestorePlan, Target};
use holdfast_proto::names::{ClusterId, DrillId, Lineage, PointId};
use holdfast_proto::{Sha256Digest, Timestamp};

use super::{DrillError, DrillRequest};
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
    /// How the moment was drawn; absent when it was given.
    pub drawn: Option<Drawn>,
    /// The joint recovery point restored to, when it is one.
    pub fence: Option<PointId>,
}

/// A moment that was drawn.
#[derive(Debug, Clone)]
pub struct Drawn {
    /// How.
    pub method: &'static str,
    /// From what.
    pub seed: Sha256Digest,
    /// The first moment that could have been drawn.
    pub from: Timestamp,
    /// The last.
    pub until: Timestamp,
    /// How many there were to draw from, where they can be counted.
    pub population: Option<u64>,
    /// What was drawn.
    pub selected: Timestamp,
}

impl Chosen {
    /// From which everything else is drawn.
    pub fn seed(&self, id: DrillId) -> Sha256Digest {
        let by_id = || Sha256Digest::of(id.to_string().as_bytes());
        self.drawn.as_ref().map_or_else(by_id, |d| d.seed)
    }
}

/// Chooses the moment and plans the restore to it, with the repository as it is.
pub async fn choose(
    access: &Access,
    request: &DrillRequest,
    log: &DrillLog,
    id: DrillId,
    now: Timestamp,
) -> Result<Chosen, DrillError> {
    refuse_other_moments(request)?;
    let (target, drawn) = match &request.target {
        Some(target) => (target.clone(), None),
        None => {
            let ledger = Ledger::load(&access.repository, &access.trust, &request.cluster)
                .await
                .map_err(PlanError::from)?;
            let lot = Lot::cast(log, id).await?;
            let points = ledger.points();
            let (target, drawn) = match request.scenario.moment {
                MomentKind::Fence => draw_fence(&points, &lot, &request.cluster)?,
                _ => draw_moment(&points, &lot, &request.cluster)?,
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

/// What decides a draw: SHA-256 of the last checkpoint before the drill, the
/// drill's id, and what there is to draw from, so that a reader of the log draws
/// the same.
struct Lot {
    checkpoint: Vec<u8>,
    id: DrillId,
}

impl Lot {
    async fn cast(log: &DrillLog, id: DrillId) -> Result<Self, DrillError> {
        let checkpoint = log.checkpoint().await?.map(|c| c.to_bytes()).unwrap_or_default();
        Ok(Self { checkpoint, id })
    }

    fn seed(&self, population: &str) -> Sha256Digest {
        let population = Sha256Digest::of(population.as_bytes());
        let id = self.id.to_string();
        let parts = [self.checkpoint.as_slice(), id.as_bytes(), population.as_bytes()];
        Sha256Digest::of(&parts.concat())
    }
}

/// The first eight bytes of `seed`, as a number.
fn number(seed: Sha256Digest) -> u64 {
    let bytes = seed.as_bytes().first_chunk::<8>();
    bytes.map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Draws a moment from the newest restorable interval.
fn draw_moment(points: &PointsReport, lot: &Lot, cluster: &ClusterId) -> Result<(Target, Drawn), DrillError> {
    let window = points
        .restorable
        .intervals
        .iter()
        .filter_map(|i| Some((i.from.time?, i.to.time?)))
        .max_by_key(|(_, until)| *until)
        .filter(|(from, until)| from < until);
    let (from, until) = window.ok_or_else(|| DrillError::NoWindow(cluster.clone()))?;
    let seed = lot.seed(&format!("{from} {until}"));
    let span = until.unix_micros().abs_diff(from.unix_micros());
    let selected = Timestamp::from_unix_micros(from.unix_micros() + (number(seed) % span) as i64);
    let drawn = Drawn {
        method: "moment from the newest restorable interval: first eight bytes of the seed, modulo its length in \
                 microseconds",
        seed,
        from,
        until,
        population: None,
        selected,
    };
    Ok((Target::Time(selected), drawn))
}

/// Draws a joint recovery point from those in the newest restorable interval; from
/// those alone at which the source's databases were asked, where there are any.
fn draw_fence(points: &PointsReport, lot: &Lot, cluster: &ClusterId) -> Result<(Target, Drawn), DrillError> {
    let newest = points.restorable.intervals.iter().max_by_key(|i| i.to.time);
    let mut within: Vec<&PointFact> = points
        .points
        .iter()
        .filter(|p| newest.is_some_and(|i| i.from.time <= Some(p.at) && Some(p.at) <= i.to.time))
        .collect();
    if within.iter().any(|p| p.referenced) {
        within.retain(|p| p.referenced);
    }
    let none = || DrillError::NoFence(cluster.clone());
    let (first, last) = (within.first().ok_or_else(none)?, within.last().ok_or_else(none)?);
    let names: Vec<&str> = within.iter().map(|p| p.name.as_str()).collect();
    let seed = lot.seed(&names.join(" "));
    let at = usize::try_from(number(seed) % within.len() as u64).unwrap_or(0);
    let point = within.get(at).ok_or_else(none)?;
    let drawn = Drawn {
        method: "joint recovery point of the newest restorable interval: first eight bytes of the seed, modulo their \
                 number, in the order of the ledger",
        seed,
        from: first.at,
        until: last.at,
        population: Some(within.len() as u64),
        selected: point.at,
    };
    Ok((Target::Name(point.name.clone()), drawn))
}
