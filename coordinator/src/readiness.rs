//! Whether clusters are ready for what their calendars name: payroll, month end, a bid.
//!
//! Pure, from the fleet as it stands now and the policy. A cluster is ready for a window
//! when nothing critical stands against it, its exposure is within what the window asks for,
//! there is a base backup, and a restore was proven. What else stands out is named, and does
//! not decide. Of a window to come it says how things stand now, not how they will.

use holdfast_plan::policy::{Calendar, ClusterPolicy, Policy, Window};
use holdfast_proto::Timestamp;
use holdfast_proto::finding::Severity;
use holdfast_proto::names::{CalendarName, ClusterId};
use serde::Serialize;
use utoipa::ToSchema;

use crate::fleet::{ClusterStatus, Fleet, StandingWord};
use crate::page::length;

/// How far ahead is looked, in milliseconds: five weeks.
const AHEAD_MS: i64 = 35 * 86_400_000;
/// Windows of a calendar that are shown.
const WINDOWS: usize = 3;

/// What the calendars name, soonest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Readiness {
    /// The moment.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The windows that are open or begin within five weeks, three of each calendar at most.
    pub windows: Vec<WindowReadiness>,
}

/// A window, and how the clusters that it concerns stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct WindowReadiness {
    /// The calendar.
    #[schema(value_type = String)]
    pub calendar: CalendarName,
    /// Its first moment.
    #[schema(value_type = String, format = DateTime)]
    pub start: Timestamp,
    /// The first moment after it.
    #[schema(value_type = String, format = DateTime)]
    pub end: Timestamp,
    /// Whether it is open.
    pub open: bool,
    /// What waits until it is over, in the policy's words.
    pub freezes: Vec<String>,
    /// The most that may be lost in it, in milliseconds, where that is less than the tiers say.
    pub rpo_ms: Option<u64>,
    /// How many more have to approve while it is open.
    pub more_approvers: u32,
    /// The clusters, those that are not ready first.
    pub clusters: Vec<ClusterReadiness>,
}

/// How a cluster stands to a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ClusterReadiness {
    /// The cluster.
    #[schema(value_type = String)]
    pub cluster: ClusterId,
    /// Whether it is ready as things stand.
    pub ready: bool,
    /// Why it is not.
    pub because: Vec<String>,
    /// What else to look at.
    pub besides: Vec<String>,
}

impl WindowReadiness {
    /// How many clusters are ready.
    pub fn ready(&self) -> usize {
        self.clusters.iter().filter(|c| c.ready).count()
    }
}

/// How the clusters of a fleet stand to the calendars of a policy. A window of whose
/// clusters none is in the fleet is left out.
pub fn readiness(fleet: &Fleet, policy: &Policy) -> Readiness {
    let now = fleet.at;
    let clusters: Vec<(&ClusterStatus, ClusterPolicy)> = fleet
        .clusters
        .iter()
        .filter_map(|status| Some((status, policy.cluster_at(&status.cluster, now)?)))
        .collect();
    let mut windows: Vec<WindowReadiness> = policy
        .calendars()
        .flat_map(|calendar| {
            let windows = calendar.windows(now, now.plus_millis(AHEAD_MS));
            let concerned: Vec<&ClusterStatus> = (clusters.iter())
                .filter(|(_, policy)| calendar.covers(policy))
                .map(|(status, _)| *status)
                .collect();
            let wanted = if concerned.is_empty() { 0 } else { WINDOWS };
            (windows.into_iter().take(wanted))
                .map(|window| of_window(calendar, window, &concerned, now))
                .collect::<Vec<_>>()
        })
        .collect();
    windows.sort_by_key(|w| (w.start, w.calendar.clone()));
    Readiness { at: now, windows }
}

fn of_window(
    calendar: &Calendar,
    window: Window,
    concerned: &[&ClusterStatus],
    now: Timestamp,
) -> WindowReadiness {
    let effects = &calendar.effects;
    let rpo_ms = effects.rpo.map(|rpo| rpo.millis());
    let mut clusters: Vec<ClusterReadiness> = concerned.iter().map(|c| of_cluster(c, rpo_ms)).collect();
    clusters.sort_by_key(|c| (c.ready, c.besides.is_empty(), c.cluster.clone()));
    WindowReadiness {
        calendar: calendar.name.clone(),
        start: window.start,
        end: window.end,
        open: window.start <= now,
        freezes: effects.frozen.names().into_iter().map(str::to_owned).collect(),
        rpo_ms,
        more_approvers: effects.more_approvers,
        clusters,
    }
}

fn of_cluster(status: &ClusterStatus, rpo_ms: Option<u64>) -> ClusterReadiness {
    let (mut because, mut besides) = (Vec::new(), Vec::new());
    if status.last_base.is_none() {
        because.push("there is no base backup".to_owned());
    }
    if status.last_proven.is_none() {
        because.push("no restore of it was ever proven".to_owned());
    }
    match (status.rpo.standing, status.rpo.now_ms, rpo_ms) {
        (StandingWord::Unknown, ..) => because.push(match &status.rpo.unknown {
            Some(why) => format!("what would be lost now is not known: {why}"),
            None => "what would be lost now is not known".to_owned(),
        }),
        (_, Some(now), Some(most)) if now > most => because.push(format!(
            "{} would be lost now, and the window allows {}",
            length(now),
            length(most)
        )),
        _ => {}
    }
    // That the exposure is not known was said with its reason.
    let findings = status.findings.iter().map(|explained| &explained.finding);
    for finding in findings.filter(|f| f.name != "rpo-unknown") {
        let line = format!("{}: {}", finding.name, finding.detail);
        match finding.severity {
            Severity::Critical => because.push(line),
            Severity::Warning => besides.push(line),
            Severity::Info => {}
        }
    }
    ClusterReadiness {
        cluster: status.cluster.clone(),
        ready: because.is_empty(),
        because,
        besides,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn drill() -> Value {
        json!({
            "id": "01M8GC2C03APWWCZ781AF0W5GQ", "at": "2026-11-20T00:00:00Z", "scenario": "accidental-deletion",
            "level": "L3", "verdict": "PASS", "rto_ms": 7_000,
        })
    }

    /// A cluster that lacks nothing, changed.
    fn cluster(change: impl FnOnce(&mut Value)) -> ClusterStatus {
        let mut status = json!({
            "cluster": "acme/erp", "tier": "platinum",
            "rpo": {
                "standing": "met", "target_ms": 15_000, "now_ms": 4_000, "safe_until": null, "frontier": null,
                "unknown": null, "agent_says_ms": null,
            },
            "rto_target_ms": null, "agent": null, "lineage": null, "timeline": null,
            "last_base": {
                "id": "01M8GC2C03APWWCZ781AF0W5GQ", "stopped": "2026-11-20T00:00:00Z",
                "committed": "2026-11-20T00:00:00Z", "regions": ["north"],
            },
            "next_base": null, "last_point": null, "last_proven": drill(), "last_drill": drill(), "work": [],
            "critical": 0, "warnings": 0, "findings": [],
        });
        change(&mut status);
        serde_json::from_value(status).unwrap()
    }

    fn finding(name: &str, severity: &str) -> Value {
        json!({
            "name": name, "subject": "acme/erp", "severity": severity, "detail": "so it is",
            "since": "2026-11-20T00:00:00Z",
        })
    }

    #[test]
    fn ready_is_who_lacks_nothing_that_the_window_asks_for() {
        let ready = |status: &ClusterStatus, rpo| {
            let found = of_cluster(status, rpo);
            assert_eq!(found.ready, found.because.is_empty());
            found.because
        };
        let whole = cluster(|_| {});
        assert_eq!(ready(&whole, None), [""; 0]);
        assert_eq!(ready(&whole, Some(4_000)), [""; 0]);
        assert_eq!(
            ready(&whole, Some(3_999)),
            ["4.0 s would be lost now, and the window allows 3.9 s"]
        );
        let lacks = cluster(|c| {
            c["last_base"] = Value::Null;
            c["last_proven"] = Value::Null;
            c["rpo"]["standing"] = "unknown".into();
        });
        assert_eq!(ready(&lacks, None).len(), 3);
        let warned =
            cluster(|c| c["findings"] = json!([finding("drill-overdue", "warning"), finding("x", "info")]));
        assert_eq!(ready(&warned, None), [""; 0]);
        assert_eq!(of_cluster(&warned, None).besides, ["drill-overdue: so it is"]);
        let critical = cluster(|c| c["findings"] = json!([finding("wal-gap", "critical")]));
        assert_eq!(ready(&critical, None), ["wal-gap: so it is"]);
    }
}
