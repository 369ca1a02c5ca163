//! Reads the evidence log, so that the fleet shows what was proven.

use std::sync::Arc;

use tokio::sync::Mutex;

use crate::desk::Desk;
use crate::survey::ProvenReader;

/// The reader, with what it has read. One run has it at a time.
#[derive(Debug, Clone, Default)]
pub struct Reader(Arc<Mutex<ProvenReader>>);

/// Reads what is new in the log.
pub async fn run(reader: Reader, desk: Arc<Desk>) -> Result<(), String> {
    if desk.trust().is_none() {
        return Ok(());
    }
    let proven = reader.0.lock().await.look(&desk).await?;
    desk.state().proven = proven;
    Ok(())
}
