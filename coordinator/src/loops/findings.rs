//! Keeps the list of findings, and says in the log when one comes or goes.

use std::sync::Arc;

use holdfast_proto::finding::Severity;

use crate::desk::{Desk, now};
use crate::findings::derive;

/// Derives all findings anew.
pub async fn run(desk: Arc<Desk>) -> Result<(), String> {
    let at = now();
    let mut state = desk.state();
    let derived = derive(&state, &desk, at);
    let (new, over) = state.standing.replace(derived, at);
    drop(state);
    for status in &new {
        let cluster = status.cluster.as_ref().map(ToString::to_string);
        let finding = &status.finding;
        match finding.severity {
            Severity::Critical => {
                tracing::error!(
                    cluster,
                    name = finding.name,
                    subject = finding.subject,
                    detail = finding.detail,
                    "finding"
                );
            }
            Severity::Warning => {
                tracing::warn!(
                    cluster,
                    name = finding.name,
                    subject = finding.subject,
                    detail = finding.detail,
                    "finding"
                );
            }
            Severity::Info => {
                tracing::info!(
                    cluster,
                    name = finding.name,
                    subject = finding.subject,
                    detail = finding.detail,
                    "finding"
                );
            }
        }
    }
    for (cluster, name, subject) in &over {
        let cluster = cluster.as_ref().map(ToString::to_string);
        tracing::info!(cluster, name, subject, "finding over");
    }
    if !new.is_empty() || !over.is_empty() {
        desk.wake.remember.notify_one();
        desk.wake.alerts.notify_one();
    }
    Ok(())
}
