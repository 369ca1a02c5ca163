//! The fleet as people and programs see it: one value, made from the facts.
//!
//! `GET /v1/status` is this as JSON, the page and the metrics are made from it.
//! It is computed anew for every reader, so an exposure is never older than the
//! request. Unknown stays unknown: what was not measured is absent, not zero.

use holdfast_plan::policy::ClusterPolicy;
use holdfast_plan::rpo::{self, Rpo, Standing};
use holdfast_plan::rto::Forecast;
use holdfast_plan::schedule::{self, Act, Decision};
use holdfast_proto::message::Work;
use holdfast_proto::names::{ActorName, BackupId, ClusterId, DrillId, Lineage, PointId, Region, TierName};
use holdfast_proto::pg::{Lsn, TimelineId};
use holdfast_proto::{Sha256Digest, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::desk::{Desk, State};
use crate::facts;
use crate::governing::Waiting;
use crate::lead::Leading;
use crate::runbooks::Explained;
use crate::server::openapi::{FindingSchema, WorkSchema};
use crate::survey::DrillSeen;

/// The whole fleet at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Fleet {
    /// The moment.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Which coordinator says so.
    #[schema(value_type = String)]
    pub coordinator: ActorName,
    /// Who leads the coordinators. What agents say is known to that one.
    #[serde(default)]
    pub leading: Leading,
    /// Its program's version.
    pub version: String,
    /// SHA-256 of the policy in force.
    pub policy: String,
    /// Records of the trust chain; absent while it cannot be read.
    pub trust_records: Option<u64>,
    /// The clusters, worst first.
    pub clusters: Vec<ClusterStatus>,
    /// The replicas of the repository.
    pub replicas: Vec<ReplicaStatus>,
    /// All findings, worst first.
    pub findings: Vec<FindingStatus>,
}

/// One cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClusterStatus {
    /// The cluster.
    #[schema(value_type = String)]
    pub cluster: ClusterId,
    /// Its tier; absent when the policy does not name the cluster.
    #[schema(value_type = Option<String>)]
    pub tier: Option<TierName>,
    /// The exposure, measured on the repository.
    pub rpo: RpoStatus,
    /// The recovery time objective, in milliseconds.
    pub rto_target_ms: Option<u64>,
    /// How long a recovery to the last commit would take; absent while no base backup is
    /// known.
    #[serde(default)]
    pub rto: Option<RtoStatus>,
    /// The agent.
    pub agent: Option<AgentStatus>,
    /// The lineage written.
    #[schema(value_type = Option<String>)]
    pub lineage: Option<Lineage>,
    /// The timeline streamed.
    #[schema(value_type = Option<u32>)]
    pub timeline: Option<TimelineId>,
    /// The newest base backup in the repository.
    pub last_base: Option<BaseStatus>,
    /// When the next base backup is due by the calendar.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_base: Option<Timestamp>,
    /// The newest joint recovery point in the repository.
    pub last_point: Option<PointStatus>,
    /// The newest drill that restored something (L2 and above) and passed.
    pub last_proven: Option<DrillStatus>,
    /// The newest drill, however it ended.
    pub last_drill: Option<DrillStatus>,
    /// What is done about each kind of work, in words.
    pub work: Vec<WorkStatus>,
    /// Critical findings about it.
    pub critical: u32,
    /// Warnings about it.
    pub warnings: u32,
    /// All findings about it, worst first.
    #[schema(value_type = Vec<FindingSchema>)]
    pub findings: Vec<Explained>,
}

/// The exposure of a cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RpoStatus {
    /// `met`, `missed` or `unknown`.
    pub standing: StandingWord,
    /// The objective, in milliseconds.
    pub target_ms: Option<u64>,
    /// At most this would be lost now, in milliseconds.
    pub now_ms: Option<u64>,
    /// Every commit until then is in the repository.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub safe_until: Option<Timestamp>,
    /// How far enough replicas hold the WAL.
    #[schema(value_type = Option<String>)]
    pub frontier: Option<Lsn>,
    /// Why it is unknown.
    pub unknown: Option<String>,
    /// What the agent says of its exposure, in milliseconds.
    pub agent_says_ms: Option<u64>,
}

/// How long a recovery would take, from what recoveries took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RtoStatus {
    /// As likely longer as shorter, in milliseconds.
    pub p50_ms: u64,
    /// Nine in ten are shorter, in milliseconds.
    pub p90_ms: u64,
    /// What of it is replay of WAL, in milliseconds.
    pub replay_ms: u64,
    /// From how many recoveries of the cluster, drills and real ones, that is learnt. 0:
    /// from none, by cautious rates.
    pub recoveries: u32,
}

impl From<Forecast> for RtoStatus {
    fn from(forecast: Forecast) -> Self {
        Self {
            p50_ms: forecast.p50_ms,
            p90_ms: forecast.p90_ms,
            replay_ms: forecast.replay_ms,
            recoveries: forecast.recoveries,
        }
    }
}

/// How the exposure stands to the objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StandingWord {
    /// Within it.
    Met,
    /// Beyond it.
    Missed,
    /// Cannot be said, which is an alarm.
    Unknown,
}

/// An agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AgentStatus {
    /// Its name.
    #[schema(value_type = String)]
    pub name: ActorName,
    /// Its program's version.
    pub version: String,
    /// When it was heard last.
    #[schema(value_type = String, format = DateTime)]
    pub heard: Timestamp,
    /// Whether that is too long ago.
    pub silent: bool,
}

/// A base backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BaseStatus {
    /// The backup.
    #[schema(value_type = String)]
    pub id: BackupId,
    /// When its copy was complete, by the agent's clock.
    #[schema(value_type = String, format = DateTime)]
    pub stopped: Timestamp,
    /// When it was committed, by the store's clock.
    #[schema(value_type = String, format = DateTime)]
    pub committed: Timestamp,
    /// Replicas that hold it.
    #[schema(value_type = Vec<String>)]
    pub regions: Vec<Region>,
}

/// A recovery point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PointStatus {
    /// The point.
    #[schema(value_type = String)]
    pub id: PointId,
    /// Its moment.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Replicas that hold it.
    #[schema(value_type = Vec<String>)]
    pub regions: Vec<Region>,
}

/// A drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DrillStatus {
    /// The drill.
    #[schema(value_type = String)]
    pub id: DrillId,
    /// When it ended, or began while it has not.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The scenario.
    pub scenario: String,
    /// What it set out to prove.
    pub level: String,
    /// The verdict; absent while it runs.
    pub verdict: Option<String>,
    /// Measured recovery time, in milliseconds.
    pub rto_ms: Option<u64>,
}

/// A kind of work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkStatus {
    /// Which.
    #[schema(value_type = WorkSchema)]
    pub work: Work,
    /// What is done about it and why.
    pub state: String,
    /// Plaintext bytes done and in all, while it runs.
    #[schema(value_type = Option<Vec<u64>>, min_items = 2, max_items = 2)]
    pub progress: Option<(u64, u64)>,
}

/// A replica of the repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaStatus {
    /// Its region.
    #[schema(value_type = String)]
    pub region: Region,
    /// Where it lies.
    pub location: String,
    /// When it last answered.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub answered: Option<Timestamp>,
    /// Why it does not, and since when.
    #[schema(value_type = Option<Vec<String>>, min_items = 2, max_items = 2)]
    pub failing: Option<(String, Timestamp)>,
}

/// A finding and what it belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FindingStatus {
    /// The cluster; absent when it is about the whole.
    #[schema(value_type = Option<String>)]
    pub cluster: Option<ClusterId>,
    /// The finding, with what clears it and its runbook.
    #[serde(flatten)]
    #[schema(value_type = FindingSchema)]
    pub explained: Explained,
}

/// The policy in force, as `/v1/policy` says it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PolicyStatus {
    /// SHA-256 of its text.
    #[schema(value_type = String)]
    pub digest: Sha256Digest,
    /// The text. There is no secret in a policy.
    pub text: String,
    /// What stands in the policy's file and is not in force.
    pub waiting: Option<Waiting>,
}

impl PolicyStatus {
    /// Looks at the desk.
    pub(crate) fn of(desk: &Desk) -> Self {
        let policy = desk.governing.written();
        Self {
            digest: policy.digest(),
            text: policy.text().to_owned(),
            waiting: desk.governing.waiting(),
        }
    }
}

impl Fleet {
    /// Looks at the desk.
    pub fn of(desk: &Desk, now: Timestamp) -> Fleet {
        let state = desk.state();
        let (policy, open) = desk.governing.policy_at(now);
        let decisions = schedule::plan(
            &facts::schedule(&state, &desk.places, now),
            &policy,
            &desk.patience,
            now,
        );
        let names = facts::clusters(&state, &policy);
        // Both are in order of names.
        let mut rest = decisions.as_slice();
        let mut clusters: Vec<ClusterStatus> = names
            .iter()
            .map(|cluster| {
                let policy = policy.cluster_within(cluster, &open);
                let before = rest.partition_point(|decision| decision.cluster < *cluster);
                let about = rest[before..].partition_point(|decision| decision.cluster == *cluster);
                let decisions = &rest[before..before + about];
                rest = &rest[before + about..];
                status_of(cluster, policy.as_ref(), &state, desk, decisions, now)
            })
            .collect();
        let rank = |c: &ClusterStatus| {
            let standing = match c.rpo.standing {
                StandingWord::Missed => 0,
                StandingWord::Unknown => 1,
                StandingWord::Met => 2,
            };
            (standing, u32::MAX - c.critical, u32::MAX - c.warnings)
        };
        clusters.sort_by_key(rank);
        let replicas = desk.repository.replicas().iter().map(|replica| {
            let health = state.replicas.get(replica.region()).cloned().unwrap_or_default();
            ReplicaStatus {
                region: replica.region().clone(),
                location: replica.location().to_owned(),
                answered: health.answered,
                failing: health.failing,
            }
        });
        Fleet {
            at: now,
            coordinator: desk.config.name.clone(),
            leading: desk.lead.leading(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            policy: policy.digest().to_string(),
            trust_records: state.trust.as_ref().map(|trust| trust.length()),
            clusters,
            replicas: replicas.collect(),
            findings: (state.standing.all().iter())
                .map(|stands| FindingStatus {
                    cluster: stands.cluster.clone(),
                    explained: Explained::of(stands.finding.clone(), desk.config.runbooks.as_ref()),
                })
                .collect(),
        }
    }
}

/// The exposure of a cluster now.
pub fn measure(
    cluster: &ClusterId,
    policy: Option<&ClusterPolicy>,
    state: &State,
    now: Timestamp,
) -> RpoStatus {
    let report = state.reports.get(cluster);
    let agent_says_ms = report.and_then(|r| Some(r.facts.wal.as_ref()?.rpo_ms));
    let Some(policy) = policy else {
        return RpoStatus {
            standing: StandingWord::Unknown,
            target_ms: None,
            now_ms: None,
            safe_until: None,
            frontier: None,
            unknown: Some("the policy does not name the cluster".to_owned()),
            agent_says_ms,
        };
    };
    let measured = rpo::measure(&facts::rpo(cluster, policy, state), now);
    let standing = match measured.standing(policy.tier.rpo) {
        Standing::Met => StandingWord::Met,
        Standing::Missed => StandingWord::Missed,
        Standing::Unknown => StandingWord::Unknown,
    };
    let target_ms = Some(policy.tier.rpo.millis());
    match measured {
        Rpo::Known {
            ms,
            safe_until,
            frontier,
        } => RpoStatus {
            standing,
            target_ms,
            now_ms: Some(ms),
            safe_until: Some(safe_until),
            frontier: Some(frontier),
            unknown: None,
            agent_says_ms,
        },
        Rpo::Unknown(why) => RpoStatus {
            standing,
            target_ms,
            now_ms: None,
            safe_until: None,
            frontier: None,
            unknown: Some(why.to_string()),
            agent_says_ms,
        },
    }
}

fn status_of(
    cluster: &ClusterId,
    policy: Option<&ClusterPolicy>,
    state: &State,
    desk: &Desk,
    decisions: &[Decision],
    now: Timestamp,
) -> ClusterStatus {
    let report = state.reports.get(cluster);
    let survey = state.surveys.get(cluster);
    let (critical, warnings) = state.standing.count(cluster);
    let base = survey.and_then(|s| s.base.as_ref());
    let next_base = policy.and_then(|policy| {
        policy
            .schedule(Work::BaseBackup)
            .next(policy.zone.tz(), base.map_or(now, |base| base.committed.max(now)))
    });
    ClusterStatus {
        cluster: cluster.clone(),
        tier: policy.map(|policy| policy.tier.name.clone()),
        rpo: measure(cluster, policy, state, now),
        rto_target_ms: policy.map(|policy| policy.tier.rto.millis()),
        rto: facts::forecast(cluster, state).map(RtoStatus::from),
        agent: report.map(|report| AgentStatus {
            name: report.agent.clone(),
            version: report.version.clone(),
            heard: report.heard,
            silent: now.millis_since(report.heard) > desk.patience.silent_after.millis(),
        }),
        lineage: report
            .and_then(|r| r.facts.lineage)
            .or(survey.and_then(|s| s.lineage)),
        timeline: report
            .and_then(|r| Some(r.facts.wal.as_ref()?.timeline))
            .or(survey.and_then(|s| Some(s.attestation.as_ref()?.timeline))),
        last_base: base.map(|base| BaseStatus {
            id: base.id,
            stopped: base.stopped,
            committed: base.committed,
            regions: base.regions.clone(),
        }),
        next_base,
        last_point: survey.and_then(|s| s.point.as_ref()).map(|point| PointStatus {
            id: point.id,
            at: point.at,
            regions: point.regions.clone(),
        }),
        last_proven: state
            .proven
            .last_pass(cluster)
            .map(|(drill, _)| drill_status(drill)),
        last_drill: state.proven.of(cluster).next_back().map(drill_status),
        work: match desk.lead.term() {
            Some(_) => decisions.iter().map(|d| work_status(d, state)).collect(),
            // Another one decides.
            None => Vec::new(),
        },
        critical,
        warnings,
        findings: (state.standing.of(cluster))
            .map(|finding| Explained::of(finding.clone(), desk.config.runbooks.as_ref()))
            .collect(),
    }
}

fn drill_status(drill: &DrillSeen) -> DrillStatus {
    DrillStatus {
        id: drill.id,
        at: drill.result.as_ref().map_or(drill.began, |result| result.at),
        scenario: drill.scenario.clone(),
        level: drill.level.clone(),
        verdict: drill.result.as_ref().map(|result| result.verdict.clone()),
        rto_ms: drill.result.as_ref().and_then(|result| result.rto_ms),
    }
}

fn work_status(decision: &Decision, state: &State) -> WorkStatus {
    let working = state.reports.get(&decision.cluster).and_then(|report| {
        report
            .facts
            .working
            .iter()
            .find(|progress| progress.work == decision.work)
    });
    let words = match (&decision.act, working) {
        (Act::Hold { .. }, Some(progress)) => format!("running since {}", progress.since),
        (act, _) => act.to_string(),
    };
    WorkStatus {
        work: decision.work,
        state: words,
        progress: working.map(|p| (p.done, p.total)),
    }
}
