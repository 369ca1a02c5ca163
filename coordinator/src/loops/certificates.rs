//! Looks at the files of the listeners' certificates and takes up what changed.

use std::sync::Arc;

use crate::desk::{Desk, now};
use crate::server::served::Served;

/// Looks once.
pub async fn run(served: Arc<[Arc<Served>]>, desk: Arc<Desk>) -> Result<(), String> {
    let at = now();
    let looked = tokio::task::spawn_blocking(move || {
        let looked = served.iter().map(|served| (served.listener, served.look(at)));
        looked.collect()
    });
    let states = looked.await.map_err(|panic| panic.to_string())?;
    let mut state = desk.state();
    if state.certificates != states {
        state.certificates = states;
        desk.wake.findings.notify_one();
    }
    Ok(())
}
