//! Keeps the trust chain up to date: who may call in, whose records count.

use std::sync::Arc;

use holdfast_repository::trust::Trust;

use crate::desk::{Desk, now};

/// Reads the chain anew. While it cannot be read, the one read before goes on
/// to count: records are only ever added, and the finding says that revocations
/// may be missed.
pub async fn run(desk: Arc<Desk>) -> Result<(), String> {
    let read = Trust::load(&desk.repository, &desk.config.trust_root).await;
    let mut state = desk.state();
    match read {
        Ok(trust) => {
            // A replica that hides its newest records must not undo a revocation.
            let newer = state
                .trust
                .as_ref()
                .is_none_or(|known| known.length() <= trust.length());
            if newer {
                if state.trust.as_ref().map(|known| known.length()) != Some(trust.length()) {
                    tracing::info!(records = trust.length(), "trust chain read");
                    desk.wake.survey.notify_one();
                    desk.wake.proven.notify_one();
                }
                state.trust = Some(Arc::new(trust));
                state.trust_problem = None;
                return Ok(());
            }
            let why = "the replicas within reach hold an older chain than was read before".to_owned();
            problem(&mut state, why.clone());
            Err(why)
        }
        Err(error) => {
            problem(&mut state, error.to_string());
            Err(error.to_string())
        }
    }
}

fn problem(state: &mut crate::desk::State, why: String) {
    let since = state.trust_problem.as_ref().map_or_else(now, |(_, since)| *since);
    state.trust_problem = Some((why, since));
}
