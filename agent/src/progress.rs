//! How far a piece of work is, in bytes, for heartbeats and terminals.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts plaintext bytes. Clones share the count; readers see it while workers
/// add to it.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    done: AtomicU64,
    total: AtomicU64,
}

impl Meter {
    /// Announces more work.
    pub fn expect(&self, bytes: u64) {
        self.0.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes work as done.
    pub fn advance(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes done, and bytes in all as far as known (at least those done).
    pub fn read(&self) -> (u64, u64) {
        let done = self.0.done.load(Ordering::Relaxed);
        (done, self.0.total.load(Ordering::Relaxed).max(done))
    }
}
