//! Brings replicas that lag behind up to the others.
//!
//! Agents write to every replica that they reach; what they could not write is
//! copied from the other replicas here. A cluster is worked on when a replica
//! that answers has lacked something for a while, so that an agent in the
//! middle of a backup is not overtaken, and now and then in any case, because
//! the survey looks at the newest objects only. Copying verifies every object
//! and needs no key; it can be cut off anywhere and is repeated. A cluster whose
//! data may not be in every region of the repository is not copied at all.

use std::sync::Arc;

use holdfast_proto::Timestamp;
use holdfast_proto::names::ClusterId;
use holdfast_proto::residency::Use;
use holdfast_repository::replicate::replicate_cluster;

use crate::desk::{Desk, now};

/// Between runs for a cluster that does not look as if it needed one.
const EVERY_MS: u64 = 3_600_000;

/// Copies for the clusters that need it, one after another.
pub async fn run(desk: Arc<Desk>) -> Result<(), String> {
    let Some(trust) = desk.trust() else { return Ok(()) };
    if desk.repository.replicas().len() < 2 {
        return Ok(());
    }
    let behind: Vec<ClusterId> = {
        let at = now();
        let state = desk.state();
        let late = |since: Timestamp| at.millis_since(since) >= desk.config.replicate_after.millis();
        let wanted = state.surveys.iter().filter(|(cluster, survey)| {
            let last = state.replicated.get(*cluster).copied().unwrap_or(desk.started);
            survey.behind.is_some_and(late) || at.millis_since(last) >= EVERY_MS
        });
        wanted.map(|(cluster, _)| cluster.clone()).collect()
    };
    let mut problems = Vec::new();
    let (policy, places) = (desk.policy(), desk.config.repository.places());
    for cluster in behind {
        // Said by a finding of the cluster.
        if places
            .iter()
            .any(|place| policy.admit(&cluster, Use::Replicate, place).is_err())
        {
            continue;
        }
        match replicate_cluster(&desk.repository, &cluster, &trust).await {
            Ok(done) => {
                let objects = done.objects();
                if objects > 0 {
                    tracing::info!(%cluster, objects, "replicas brought up to each other");
                    desk.meters.replicated(objects);
                }
                let mut findings = done.findings;
                // Replicas out of reach are the survey's to report.
                findings.retain(|finding| finding.name != "replica-unreachable");
                let mut state = desk.state();
                state.replicated.insert(cluster.clone(), now());
                state.replication.insert(cluster, findings);
                drop(state);
                desk.wake.survey.notify_one();
            }
            Err(error) => problems.push(format!("{cluster}: {error}")),
        }
    }
    let mut state = desk.state();
    let caught_up: Vec<ClusterId> = state
        .replication
        .keys()
        .filter(|cluster| {
            state
                .surveys
                .get(cluster)
                .is_some_and(|survey| survey.behind.is_none())
        })
        .cloned()
        .collect();
    for cluster in caught_up {
        state.replication.remove(&cluster);
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems.join("; "))
    }
}
