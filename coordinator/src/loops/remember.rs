//! Writes down what makes the next start warmer.

use std::sync::Arc;

use crate::cache::Cache;
use crate::desk::{Desk, now};
use crate::memory;

/// Makes the cache hold what is on the desk now.
pub async fn run(cache: Cache, desk: Arc<Desk>) -> Result<(), String> {
    let mut rows = memory::rows(&desk.state(), &desk.governing.written());
    memory::keep_nonce(&mut rows, desk.lead.nonce());
    tokio::task::spawn_blocking(move || cache.keep(rows, now()))
        .await
        .map_err(|panic| panic.to_string())?
        .map_err(|why| format!("the cache was set aside and begun anew: {why}"))
}
