//! The task that turns chunks into objects, in the order of the log.
//!
//! One chunk at a time, on a thread for CPU work: each object names the one
//! before it. If the process dies here, the chunk is received again.

use std::sync::Arc;

use holdfast_repository::keyring::Wrapped;
use holdfast_repository::pack::PackError;
use holdfast_repository::seal::EpochKey;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::chunk::Chunk;
use super::seal::{Chain, ChunkSealer, Origin};
use super::shared::Shared;

/// A running sealer. Dropping it lets the task end after the chunks it has.
#[derive(Debug)]
pub(super) struct Sealer {
    chunks: mpsc::UnboundedSender<Chunk>,
    task: JoinHandle<Result<(), PackError>>,
}

impl Sealer {
    /// Starts the task. The queue is bounded by [`Shared::has_room`], which the
    /// receiver asks before it reads more.
    pub fn start(
        shared: Arc<Shared>,
        origin: Origin,
        keys: watch::Receiver<Wrapped<EpochKey>>,
        chain: Chain,
    ) -> Self {
        let (chunks, queue) = mpsc::unbounded_channel();
        let task = tokio::spawn(work(shared, origin, keys, chain, queue));
        Self { chunks, task }
    }

    /// Hands a chunk over. `false` when the task has failed.
    #[must_use]
    pub fn seal(&self, chunk: Chunk) -> bool {
        self.chunks.send(chunk).is_ok()
    }

    /// Waits until every chunk is sealed.
    pub async fn finish(self) -> Result<(), PackError> {
        drop(self.chunks);
        match self.task.await {
            Ok(outcome) => outcome,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

async fn work(
    shared: Arc<Shared>,
    origin: Origin,
    keys: watch::Receiver<Wrapped<EpochKey>>,
    chain: Chain,
    mut queue: mpsc::UnboundedReceiver<Chunk>,
) -> Result<(), PackError> {
    let mut sealer = ChunkSealer::new(origin, chain)?;
    while let Some(chunk) = queue.recv().await {
        let raw = chunk.bytes.len();
        let key = keys.borrow().clone();
        let sealing = tokio::task::spawn_blocking(move || {
            let sealed = sealer.seal(&key, chunk);
            (sealed, sealer)
        });
        let (sealed, back) = match sealing.await {
            Ok(outcome) => outcome,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        sealer = back;
        shared.sealed(raw, sealed?);
    }
    Ok(())
}
