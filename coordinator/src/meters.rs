//! Metrics in OpenMetrics text.
//!
//! Gauges are made from the [`Fleet`] at each scrape, so a cluster that is gone
//! leaves no series behind; an exposure that is unknown has no value and shows
//! as `holdfast_rpo_known 0`. Only counters are kept.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use holdfast_proto::Timestamp;
use holdfast_proto::finding::Severity;
use holdfast_proto::names::RouteName;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::fleet::{Fleet, StandingWord};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Text(String);

impl EncodeLabelValue for Text {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.0, encoder)
    }
}

/// How a heartbeat was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// With orders.
    Accepted,
    /// Another coordinator leads.
    Standby,
    /// It was not let in.
    Refused,
    /// The trust chain is not readable.
    Unready,
}

impl EncodeLabelValue for Answer {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let text = match self {
            Answer::Accepted => "accepted",
            Answer::Standby => "standby",
            Answer::Refused => "refused",
            Answer::Unready => "unready",
        };
        EncodeLabelValue::encode(&text, encoder)
    }
}

/// How a run of a loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunOutcome {
    /// Without an error.
    Success,
    /// With one.
    Failure,
}

impl EncodeLabelValue for RunOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let text = match self {
            RunOutcome::Success => "success",
            RunOutcome::Failure => "failure",
        };
        EncodeLabelValue::encode(&text, encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabel {
    answer: Answer,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoopLabel {
    name: &'static str,
    outcome: RunOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameLabel {
    name: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabel {
    route: Text,
    outcome: RunOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterLabel {
    tenant: Text,
    cluster: Text,
    tier: Text,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RegionLabel {
    region: Text,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FindingLabel {
    cluster: Text,
    name: Text,
    severity: Text,
}

/// Counters of this process.
#[derive(Debug)]
pub struct Meters {
    registry: Mutex<Registry>,
    heartbeats: Family<AnswerLabel, Counter>,
    runs: Family<LoopLabel, Counter>,
    lasted: Gauges<NameLabel>,
    posts: Family<RouteLabel, Counter>,
    assignments: Counter,
    replicated: Counter,
}

impl Default for Meters {
    fn default() -> Self {
        let mut registry = Registry::default();
        let heartbeats = Family::<AnswerLabel, Counter>::default();
        let runs = Family::<LoopLabel, Counter>::default();
        let lasted = gauge(
            &mut registry,
            "holdfast_loop_last_seconds",
            "How long the last run of a reconcile loop took",
        );
        let posts = Family::<RouteLabel, Counter>::default();
        let (assignments, replicated) = (Counter::default(), Counter::default());
        registry.register(
            "holdfast_heartbeats",
            "Heartbeats of agents, by answer",
            heartbeats.clone(),
        );
        registry.register(
            "holdfast_loop_runs",
            "Runs of reconcile loops, by outcome",
            runs.clone(),
        );
        registry.register(
            "holdfast_alert_posts",
            "Messages along alert routes, by outcome",
            posts.clone(),
        );
        registry.register(
            "holdfast_assignments",
            "Assignments given out",
            assignments.clone(),
        );
        registry.register(
            "holdfast_replicated_objects",
            "Objects copied between replicas",
            replicated.clone(),
        );
        Self {
            registry: Mutex::new(registry),
            heartbeats,
            runs,
            lasted,
            posts,
            assignments,
            replicated,
        }
    }
}

impl Meters {
    /// A heartbeat was answered.
    pub fn heartbeat(&self, answer: Answer) {
        self.heartbeats.get_or_create(&AnswerLabel { answer }).inc();
    }

    /// A loop ran, for so long.
    pub fn ran(&self, name: &'static str, outcome: RunOutcome, lasted: Duration) {
        self.runs.get_or_create(&LoopLabel { name, outcome }).inc();
        let last = self.lasted.get_or_create(&NameLabel { name });
        last.set(lasted.as_secs_f64());
    }

    /// A message was taken along a route, or was not.
    pub fn posted(&self, route: &RouteName, taken: bool) {
        let outcome = if taken {
            RunOutcome::Success
        } else {
            RunOutcome::Failure
        };
        let route = Text(route.to_string());
        self.posts.get_or_create(&RouteLabel { route, outcome }).inc();
    }

    /// An assignment was given out.
    pub fn assigned(&self) {
        self.assignments.inc();
    }

    /// Objects were copied.
    pub fn replicated(&self, objects: u64) {
        self.replicated.inc_by(objects);
    }

    /// The text of a scrape.
    pub fn render(&self, fleet: &Fleet) -> String {
        let mut counters = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        encode(&mut counters, &registry).expect("a string takes every text");
        let mut gauges = String::new();
        encode(&mut gauges, &gauges_of(fleet)).expect("a string takes every text");
        // One exposition, one end.
        let counters = counters.strip_suffix("# EOF\n").unwrap_or(&counters);
        format!("{counters}{gauges}")
    }
}

type Gauges<L> = Family<L, Gauge<f64, std::sync::atomic::AtomicU64>>;

fn gauge<L>(registry: &mut Registry, name: &str, help: &str) -> Gauges<L>
where
    L: EncodeLabelSet + std::hash::Hash + Eq + Clone + Send + Sync + std::fmt::Debug + 'static,
{
    let family = Gauges::<L>::default();
    registry.register(name, help, family.clone());
    family
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

fn unix(at: Timestamp) -> f64 {
    at.unix_micros() as f64 / 1e6
}

fn gauges_of(fleet: &Fleet) -> Registry {
    let mut r = Registry::default();
    let rpo = gauge(
        &mut r,
        "holdfast_rpo_seconds",
        "At most this would be lost now, measured on the repository",
    );
    let known = gauge(
        &mut r,
        "holdfast_rpo_known",
        "1 when the exposure is known, 0 when it is not",
    );
    let said = gauge(
        &mut r,
        "holdfast_rpo_agent_seconds",
        "What the agent says of its exposure",
    );
    let target = gauge(
        &mut r,
        "holdfast_rpo_target_seconds",
        "The tier's recovery point objective",
    );
    let met = gauge(
        &mut r,
        "holdfast_rpo_met",
        "1 when the exposure is known and within the objective",
    );
    let heard = gauge(
        &mut r,
        "holdfast_agent_heard_timestamp_seconds",
        "When the agent was heard last",
    );
    let base = gauge(
        &mut r,
        "holdfast_last_base_timestamp_seconds",
        "When the newest base backup was committed",
    );
    let point = gauge(
        &mut r,
        "holdfast_last_point_timestamp_seconds",
        "Moment of the newest joint recovery point",
    );
    let proven = gauge(
        &mut r,
        "holdfast_last_proven_timestamp_seconds",
        "When a restore was last proven",
    );
    let rto = gauge(
        &mut r,
        "holdfast_last_proven_rto_seconds",
        "Recovery time that was measured then",
    );
    let rto_target = gauge(
        &mut r,
        "holdfast_rto_target_seconds",
        "The tier's recovery time objective",
    );
    for c in &fleet.clusters {
        let label = ClusterLabel {
            tenant: Text(c.cluster.tenant.to_string()),
            cluster: Text(c.cluster.to_string()),
            tier: Text(c.tier.as_ref().map(ToString::to_string).unwrap_or_default()),
        };
        let set = |family: &Gauges<ClusterLabel>, value: Option<f64>| {
            if let Some(value) = value {
                family.get_or_create(&label).set(value);
            }
        };
        set(&rpo, c.rpo.now_ms.map(seconds));
        set(&known, Some(f64::from(u8::from(c.rpo.now_ms.is_some()))));
        set(
            &met,
            Some(f64::from(u8::from(c.rpo.standing == StandingWord::Met))),
        );
        set(&said, c.rpo.agent_says_ms.map(seconds));
        set(&target, c.rpo.target_ms.map(seconds));
        set(&rto_target, c.rto_target_ms.map(seconds));
        set(&heard, c.agent.as_ref().map(|a| unix(a.heard)));
        set(&base, c.last_base.as_ref().map(|b| unix(b.committed)));
        set(&point, c.last_point.as_ref().map(|p| unix(p.at)));
        set(&proven, c.last_proven.as_ref().map(|p| unix(p.at)));
        set(&rto, c.last_proven.as_ref().and_then(|p| p.rto_ms).map(seconds));
    }
    let up = gauge(
        &mut r,
        "holdfast_replica_up",
        "1 when the replica answered when it was last asked",
    );
    for replica in &fleet.replicas {
        let label = RegionLabel {
            region: Text(replica.region.to_string()),
        };
        up.get_or_create(&label)
            .set(f64::from(u8::from(replica.failing.is_none())));
    }
    let findings = gauge(&mut r, "holdfast_findings", "Findings that stand");
    for f in &fleet.findings {
        let severity = match f.explained.finding.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        };
        let label = FindingLabel {
            cluster: Text(f.cluster.as_ref().map(ToString::to_string).unwrap_or_default()),
            name: Text(f.explained.finding.name.clone()),
            severity: Text(severity.to_owned()),
        };
        let family: &Gauges<FindingLabel> = &findings;
        let series = family.get_or_create(&label);
        series.set(series.get() + 1.0);
    }
    r
}

#[cfg(test)]
mod tests;
