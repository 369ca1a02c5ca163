//! Keeps the trust chain up to date: who may call in, whose records count.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_proto::Timestamp;
use holdfast_proto::names::ObjectKey;
use holdfast_repository::layout;
use holdfast_repository::listing::Presence;
use holdfast_repository::trust::Trust;
use tokio::sync::Mutex;

use crate::desk::{Desk, now};

/// A chain that looks as it did is read again after so long all the same: a copy of a
/// record may have rotted.
const AGAIN_AFTER_MS: u64 = 600_000;

/// The chain as it was listed when it was last read well, and when that was.
#[derive(Debug, Clone, Default)]
pub struct Reader(Arc<Mutex<Option<Listed>>>);

#[derive(Debug)]
struct Listed {
    at: Timestamp,
    records: BTreeMap<ObjectKey, Vec<Presence>>,
}

/// Reads the chain anew. While it cannot be read, the one read before goes on
/// to count: records are only ever added, and the finding says that revocations
/// may be missed.
pub async fn run(reader: Reader, desk: Arc<Desk>) -> Result<(), String> {
    let mut known = reader.0.lock().await;
    let listed = desk.repository.list(&layout::trusts()).await.ok();
    let records = listed
        .filter(|listed| listed.is_complete())
        .map(|listed| listed.objects);
    let fresh = |known: &Listed| now().millis_since(known.at) < AGAIN_AFTER_MS;
    if let (Some(known), Some(records)) = (known.as_ref().filter(|known| fresh(known)), &records)
        && known.records == *records
    {
        return Ok(());
    }
    *known = None;
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
                    desk.wake.lead.notify_one();
                    desk.wake.survey.notify_one();
                    desk.wake.proven.notify_one();
                }
                state.trust = Some(Arc::new(trust));
                state.trust_problem = None;
                *known = records.map(|records| Listed { at: now(), records });
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
