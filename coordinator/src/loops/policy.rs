//! Looks at the policy's file and takes up what may be taken up.
//!
//! Woken every few seconds and by SIGHUP. What is decided is in
//! [`crate::governing`]; here it is read, put in force, and said.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_proto::Sha256Digest;
use holdfast_proto::labels::Labels;
use holdfast_proto::names::ClusterId;

use crate::desk::{Desk, now};
use crate::governing::{Circumstances, Verdict, WaitsFor, consider};

/// Looks once.
pub async fn run(desk: Arc<Desk>) -> Result<(), String> {
    let governing = &desk.governing;
    governing.see(labels(&desk));
    let file = desk.config.policy_file.clone();
    let name = file.display().to_string();
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(file)).await;
    let at = now();
    let (digest, verdict) = match read.map_err(|panic| panic.to_string())? {
        Err(error) => {
            let why = format!("{name} cannot be read: {error}");
            (None, Verdict::Wait(WaitsFor::Repair(vec![why])))
        }
        Ok(text) => {
            // Only a text that waits can have been approved.
            if governing.waiting().is_some()
                && let Some(trust) = desk.trust()
            {
                let looked = desk.approvals.look(&desk.repository, &trust, at).await;
                looked.map_err(|e| format!("approvals cannot be read, so none counts: {e}"))?;
            }
            let known = Circumstances {
                labels: &governing.labels(),
                places: &desk.config.repository.places(),
                approvals: &desk.approvals,
                now: at,
            };
            let verdict = consider(&governing.written(), &text, &name, &known);
            (Some(Sha256Digest::of(text.as_bytes())), verdict)
        }
    };
    match verdict {
        Verdict::Same => governing.settled(),
        Verdict::Take(policy, changes) => {
            let (from, to) = (governing.written().digest(), policy.digest());
            tracing::info!(%from, %to, changes = changes.len(), "policy taken up");
            for change in &changes {
                tracing::info!(%change, "policy change");
            }
            governing.take(*policy, changes, at);
            desk.wake.schedule.notify_one();
            desk.wake.remember.notify_one();
        }
        Verdict::Wait(why) => {
            if governing.wait(digest, why, at) {
                let digest = digest.map(|digest| digest.to_string());
                tracing::info!(digest, "the policy in the file is not taken up");
            }
        }
    }
    desk.wake.findings.notify_one();
    Ok(())
}

fn labels(desk: &Desk) -> BTreeMap<ClusterId, Labels> {
    let state = desk.state();
    let reports = state.reports.iter();
    reports
        .map(|(cluster, report)| (cluster.clone(), report.facts.labels.clone()))
        .collect()
}
