//! What dispatchers that died have left on the cluster.

use holdfast_drills::answer::{self, Answer};
use holdfast_drills::evidence::tlog::LogOrigin;
use holdfast_drills::log::DrillLog;
use holdfast_proto::Timestamp;
use holdfast_proto::names::{ActorName, DrillId};
use holdfast_repository::clock;
use holdfast_repository::signing::SigningKey;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;

use crate::cluster::Cluster;
use crate::dispatch::{DispatchError, GOING, LEASE};
use crate::objects::{DEADLINE, DRILL, LOG, RUNNER};

/// A namespace that nobody works in any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Its name.
    pub namespace: String,
    /// Its UID.
    pub uid: Option<String>,
    /// The drill that it was made for.
    pub drill: DrillId,
}

/// Whose namespaces are looked at: those of one runner, for one log.
#[derive(Debug, Clone, Copy)]
pub struct Own<'a> {
    /// The runner.
    pub runner: &'a ActorName,
    /// The log.
    pub log: &'a LogOrigin,
}

/// Whether a namespace was left: it is ours, and its dispatcher's lease is over or
/// its deadline is past. A dispatcher takes its lease right after it has made the
/// namespace: one without is left when that is a while ago. Pure.
pub fn left(namespace: &Namespace, lease: Option<&Lease>, own: Own<'_>, now: Timestamp) -> Option<Left> {
    let meta = &namespace.metadata;
    let annotation = |name: &str| meta.annotations.as_ref()?.get(name).map(String::as_str);
    let ours = annotation(RUNNER) == Some(own.runner.to_string().as_str())
        && annotation(LOG) == Some(own.log.to_string().as_str());
    let drill = annotation(DRILL)?.parse().ok().filter(|_| ours)?;
    let spec = lease.and_then(|l| l.spec.as_ref());
    let renewed = spec
        .and_then(|s| s.renew_time.as_ref())
        .map(|t| t.0.as_microsecond());
    let lasts = spec
        .and_then(|s| s.lease_duration_seconds)
        .map_or(LEASE.as_millis() as i64, |s| i64::from(s) * 1000);
    let made = meta.creation_timestamp.as_ref().map(|t| t.0.as_microsecond());
    let ends = renewed
        .or(made)
        .map(|t| Timestamp::from_unix_micros(t).plus_millis(lasts));
    let deadline: Option<Timestamp> = annotation(DEADLINE).and_then(|t| t.parse().ok());
    let over = ends.is_none_or(|t| t < now) || deadline.is_none_or(|t| t < now);
    over.then(|| Left {
        namespace: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone(),
        drill,
    })
}

/// What was swept, and what the log says of it.
#[derive(Debug, Clone)]
pub struct Swept {
    /// The namespace, gone now.
    pub left: Left,
    /// What its drill came to.
    pub answer: Answer,
}

/// Deletes what is [`left`], waits until it is gone, and answers for it.
///
/// # Errors
/// The cluster or the log cannot be used; what was swept before stays swept.
pub async fn sweep(
    cluster: &Cluster,
    log: &DrillLog,
    key: &SigningKey,
    runner: &ActorName,
    patience: std::time::Duration,
) -> Result<Vec<Swept>, DispatchError> {
    let own = Own {
        runner,
        log: log.origin(),
    };
    let mut swept = Vec::new();
    for namespace in cluster.scratch().await? {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let lease = cluster.lease(&name).await?;
        let Some(found) = left(&namespace, lease.as_ref(), own, clock::now()) else {
            continue;
        };
        cluster
            .remove(&found.namespace, found.uid.as_deref(), GOING)
            .await?;
        let reason = "the dispatcher died: its lease on the namespace ended";
        let answer = answer::settle(log, found.drill, reason, clock::now(), key, patience).await?;
        swept.push(Swept { left: found, answer });
    }
    Ok(swept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DRILL_ID: &str = "01JD5V1C3K8Q2M4N6P8R0S2T4V";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_unix_micros((1_790_000_000 + second) * 1_000_000)
    }

    fn namespace(runner: &str, log: &str) -> Namespace {
        serde_json::from_value(json!({"metadata": {
        "name": "holdfast-drill-1", "uid": "u", "creationTimestamp": at(0).to_string(),
        "annotations": {
            "holdfast.dev/drill": DRILL_ID, "holdfast.dev/runner": runner, "holdfast.dev/log": log,
            "holdfast.dev/deadline": at(1000).to_string(),
        }}}))
        .unwrap()
    }

    fn is_left(namespace: &Namespace, renewed: Option<i64>, now: i64) -> bool {
        let lease = renewed.map(|t| {
            serde_json::from_value(json!({"metadata": {}, "spec": {
                "renewTime": at(t).to_string(), "leaseDurationSeconds": 60 }}))
            .unwrap()
        });
        let (runner, log) = ("runner-1".parse().unwrap(), "holdfast.dev/log/1".parse().unwrap());
        let own = Own {
            runner: &runner,
            log: &log,
        };
        left(namespace, lease.as_ref(), own, at(now)).is_some()
    }

    #[test]
    fn who_renews_a_lease_lives() {
        let ours = namespace("runner-1", "holdfast.dev/log/1");
        assert!(!is_left(&ours, Some(100), 160));
        assert!(is_left(&ours, Some(100), 161));
        // Before the lease was taken.
        assert!(!is_left(&ours, None, 60));
        assert!(is_left(&ours, None, 61));
        // Whoever renews for ever does not stay for ever.
        assert!(is_left(&ours, Some(1000), 1001));
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        assert!(!is_left(&namespace("runner-2", "holdfast.dev/log/1"), None, 5000));
        assert!(!is_left(&namespace("runner-1", "holdfast.dev/log/2"), None, 5000));
        assert!(!is_left(&Namespace::default(), None, 5000));
    }
}
