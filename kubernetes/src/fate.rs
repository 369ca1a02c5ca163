//! What became of a drill's pod, from what the API server shows. Pure.
//!
//! A Job whose pod was taken away may start another. The first pod is the drill;
//! whatever comes after it is a sign that it is gone.

use std::fmt;

use holdfast_proto::Timestamp;
use holdfast_proto::finding::{Finding, Severity};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, Pod};

/// What is seen of a drill at one moment.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The Job, while there is one.
    pub job: Option<Job>,
    /// The Job's pods.
    pub pods: Vec<Pod>,
    /// The UID of the first pod that was seen.
    pub first: Option<String>,
}

/// What is known of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// There is no pod that runs yet, and why, as far as it is said.
    Waiting(Option<String>),
    /// It runs.
    Running,
    /// It is being taken away; by whom shows when it is gone.
    Ending,
    /// It is over.
    Ended(End),
}

/// How a pod ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The program ended by itself with this status.
    Exited(i32),
    /// It, or a process that it had started, wanted more memory than it may have.
    OutOfMemory {
        /// The program's status.
        status: i32,
    },
    /// The node threw it out: memory or disk ran short there, or it filled its own room.
    Evicted(String),
    /// It ran longer than it may.
    DeadlineExceeded,
    /// A signal ended it.
    Killed {
        /// Which.
        signal: i32,
    },
    /// Somebody deleted it, or the node is lost.
    Deleted,
    /// It never ran.
    NotStarted(String),
    /// We were asked to stop.
    Stopped,
}

impl End {
    /// The name of the finding that says it; none for a program that ended by itself.
    pub const fn name(&self) -> Option<&'static str> {
        match self {
            End::Exited(_) => None,
            End::OutOfMemory { .. } => Some("drill-out-of-memory"),
            End::Evicted(_) => Some("drill-evicted"),
            End::DeadlineExceeded => Some("drill-deadline-exceeded"),
            End::Killed { .. } => Some("drill-killed"),
            End::Deleted => Some("drill-pod-deleted"),
            End::NotStarted(_) => Some("drill-not-started"),
            End::Stopped => Some("drill-stopped"),
        }
    }

    /// As a finding about `namespace`.
    pub fn finding(&self, namespace: &str, since: Timestamp) -> Option<Finding> {
        Some(Finding {
            name: self.name()?.to_owned(),
            subject: namespace.to_owned(),
            severity: Severity::Critical,
            detail: self.to_string(),
            since,
        })
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Exited(status) => write!(f, "the runner ended with exit status {status}"),
            End::OutOfMemory { status } => write!(
                f,
                "OOMKilled: the pod wanted more memory than [runner.kubernetes] gives it (the runner's exit status was \
                 {status})"
            ),
            End::Evicted(why) => write!(f, "Evicted: {why}"),
            End::DeadlineExceeded => {
                f.write_str("DeadlineExceeded: the pod ran longer than its limit and its grace")
            }
            End::Killed { signal } => write!(f, "the runner was killed by signal {signal}"),
            End::Deleted => f.write_str("the pod was deleted, or its node is lost"),
            End::NotStarted(why) => write!(f, "the pod did not start: {why}"),
            End::Stopped => f.write_str("the dispatcher was asked to stop"),
        }
    }
}

impl Seen {
    /// The first pod, while it is there.
    pub fn pod(&self) -> Option<&Pod> {
        match &self.first {
            Some(first) => self.pods.iter().find(|p| p.metadata.uid.as_ref() == Some(first)),
            None => self.pods.first(),
        }
    }

    /// What it comes to.
    pub fn fate(&self) -> Fate {
        if let Some(end) = self.pod().and_then(ended) {
            return Fate::Ended(end);
        }
        if self.past_deadline() {
            return Fate::Ended(End::DeadlineExceeded);
        }
        match self.pod() {
            Some(pod) if pod.metadata.deletion_timestamp.is_some() => Fate::Ending,
            Some(pod) if phase(pod) == Some("Running") => Fate::Running,
            Some(pod) => Fate::Waiting(waits_for(pod)),
            None if self.first.is_some() => Fate::Ended(End::Deleted),
            None if self.job.is_none() => Fate::Ended(End::Deleted),
            None => Fate::Waiting(None),
        }
    }

    fn past_deadline(&self) -> bool {
        let conditions = self
            .job
            .as_ref()
            .and_then(|j| j.status.as_ref()?.conditions.as_ref());
        conditions.into_iter().flatten().any(|c| {
            c.type_ == "Failed" && c.status == "True" && c.reason.as_deref() == Some("DeadlineExceeded")
        })
    }
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

fn state(pod: &Pod) -> Option<&ContainerState> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.first()?.state.as_ref()
}

fn ended(pod: &Pod) -> Option<End> {
    let status = pod.status.as_ref()?;
    let over = matches!(phase(pod), Some("Failed" | "Succeeded"));
    match (over, status.reason.as_deref()) {
        (true, Some("Evicted")) => {
            let why = status.message.clone();
            return Some(End::Evicted(
                why.unwrap_or_else(|| "the node does not say why".to_owned()),
            ));
        }
        (true, Some("DeadlineExceeded")) => return Some(End::DeadlineExceeded),
        _ => {}
    }
    // A pod that is taken away ends by the signal that takes it: that is not its story.
    let asked = pod.metadata.deletion_timestamp.is_some();
    match state(pod).and_then(|s| s.terminated.as_ref()) {
        Some(terminated) => how(terminated).filter(|end| !asked || matches!(end, End::OutOfMemory { .. })),
        None if over && !asked => Some(End::Deleted),
        None => None,
    }
}

fn how(terminated: &ContainerStateTerminated) -> Option<End> {
    let status = terminated.exit_code;
    Some(match terminated.reason.as_deref() {
        Some("OOMKilled") => End::OutOfMemory { status },
        Some("ContainerCannotRun" | "StartError") => {
            End::NotStarted(terminated.message.clone().unwrap_or_default())
        }
        _ if status > 128 && status < 160 => End::Killed { signal: status - 128 },
        _ => End::Exited(status),
    })
}

/// Why a pod does not run yet.
fn waits_for(pod: &Pod) -> Option<String> {
    if let Some(waiting) = state(pod).and_then(|s| s.waiting.as_ref()) {
        let parts = [waiting.reason.as_deref(), waiting.message.as_deref()];
        let said: Vec<&str> = parts.into_iter().flatten().collect();
        return (!said.is_empty()).then(|| said.join(": "));
    }
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let unmet = conditions
        .iter()
        .find(|c| c.status == "False" && c.message.is_some())?;
    unmet.message.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn seen(job: Value, pods: Vec<Value>, first: Option<&str>) -> Fate {
        let read = |v| serde_json::from_value(v).unwrap();
        Seen {
            job: (!job.is_null()).then(|| serde_json::from_value(job).unwrap()),
            pods: pods.into_iter().map(read).collect(),
            first: first.map(str::to_owned),
        }
        .fate()
    }

    fn pod(uid: &str, status: Value) -> Value {
        json!({"metadata": {"uid": uid}, "status": status})
    }

    fn terminated(phase: &str, code: i32, reason: &str) -> Value {
        let state = json!({"terminated": {"exitCode": code, "reason": reason}});
        let container = json!({"name": "runner", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        json!({"phase": phase, "containerStatuses": [container]})
    }

    fn leaving(mut pod: Value) -> Value {
        pod["metadata"]["deletionTimestamp"] = json!("2026-11-27T12:00:00Z");
        pod
    }

    #[test]
    fn a_program_that_ends_by_itself_says_how() {
        for (phase, code) in [("Succeeded", 0), ("Failed", 1), ("Failed", 64)] {
            let fate = seen(
                json!({}),
                vec![pod("a", terminated(phase, code, "Error"))],
                Some("a"),
            );
            assert_eq!(fate, Fate::Ended(End::Exited(code)));
        }
    }

    #[test]
    fn what_ends_a_pod_has_a_name() {
        let failed = json!({"status": {"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]}});
        let evicted = json!({"phase": "Failed", "reason": "Evicted", "message": "scratch is full"});
        let cases = [
            (
                json!({}),
                vec![pod("a", terminated("Failed", 137, "OOMKilled"))],
                "drill-out-of-memory",
            ),
            (
                json!({}),
                vec![pod("a", terminated("Failed", 1, "OOMKilled"))],
                "drill-out-of-memory",
            ),
            (
                json!({}),
                vec![pod("a", terminated("Failed", 137, "Error"))],
                "drill-killed",
            ),
            (json!({}), vec![pod("a", evicted)], "drill-evicted"),
            (failed.clone(), vec![], "drill-deadline-exceeded"),
            (
                failed,
                vec![leaving(pod("a", terminated("Running", 143, "Error")))],
                "drill-deadline-exceeded",
            ),
            (json!({}), vec![], "drill-pod-deleted"),
            (Value::Null, vec![], "drill-pod-deleted"),
            (
                json!({}),
                vec![pod("b", json!({"phase": "Running"}))],
                "drill-pod-deleted",
            ),
            (
                json!({}),
                vec![pod("a", terminated("Failed", 128, "StartError"))],
                "drill-not-started",
            ),
        ];
        for (job, pods, name) in cases {
            let Fate::Ended(end) = seen(job, pods.clone(), Some("a")) else {
                panic!("{name}: {pods:?}")
            };
            assert_eq!(end.name(), Some(name), "{pods:?}");
            assert!(end.finding("n", Timestamp::from_unix_micros(0)).is_some());
        }
    }

    #[test]
    fn who_takes_a_pod_away_shows_when_it_is_gone() {
        let running = json!({"phase": "Running"});
        assert_eq!(
            seen(json!({}), vec![leaving(pod("a", running.clone()))], Some("a")),
            Fate::Ending
        );
        let dying = leaving(pod("a", terminated("Running", 137, "Error")));
        assert_eq!(seen(json!({}), vec![dying], Some("a")), Fate::Ending);
        assert_eq!(seen(json!({}), vec![pod("a", running)], Some("a")), Fate::Running);
    }

    #[test]
    fn a_pod_that_waits_says_what_for() {
        assert_eq!(seen(json!({}), vec![], None), Fate::Waiting(None));
        let state = json!({"waiting": {"reason": "ErrImageNeverPull", "message": "not present"}});
        let container = json!({"name": "runner", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let status = json!({"phase": "Pending", "containerStatuses": [container]});
        let fate = seen(json!({}), vec![pod("a", status)], None);
        assert_eq!(fate, Fate::Waiting(Some("ErrImageNeverPull: not present".into())));
        let condition =
            json!({"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"});
        let status = json!({"phase": "Pending", "conditions": [condition]});
        let fate = seen(json!({}), vec![pod("a", status)], None);
        assert_eq!(fate, Fate::Waiting(Some("0/1 nodes are available".into())));
    }
}
