//! The WAL line: from a replication slot to the replicas, honest and harmless.
//!
//! ```text
//! slot → socket → [cutter] → chunks → [sealer] → objects → [couriers] → replicas
//!   ↑                                                            │
//!   └──────────── flush position: the k-th highest frontier ─────┘
//! ```
//!
//! [`run`] is one cluster's line. It receives physical WAL over a slot, cuts it
//! into chunks within segments ([`chunk`]), seals and signs them ([`seal`]), and
//! stores each replica's copies in order ([`courier`]), every replica for itself.
//! The small objects of finished segments are merged ([`merge`]).
//! What the server is told to be flushed is what k replicas hold without a hole
//! ([`ledger`]): the slot keeps everything else, so the line needs no disk.
//!
//! Without a stream WAL comes in whole segments by `archive_command` ([`archived`]);
//! what is handed over so is taken by [`push`], also beside a stream.
//!
//! It does not decide how many copies or how fast ([`LineDirectives`] come from
//! the tier), does not take the writer's lease, does not make keys, and never
//! deletes.
//!
//! What holds:
//! - WAL that the server was told to be flushed is on k replicas, contiguous
//!   from [`state::Reach`].
//! - Memory for WAL is bounded ([`MEMORY`]); a store that is down stops the
//!   reading, never the status messages.
//! - A shutdown of the primary waits for at most a second or so ([`stream`]).
//! - A server that is a copy of the past, or has another future, is refused
//!   ([`start`]).
//! - WAL that waits for the replicas does not fill the server's disk ([`valve`]).
//! - WAL that is gone from the server is a gap with a name, never passed over in
//!   silence.
//!
//! If the process dies at any instant, the frontier is found again from the
//! replicas' listings and the stream taken up there; objects may then overlap,
//! which is why names carry both positions.
//!
//! Where to read next: [`line`] for the order of things, [`stream`] for one
//! connection, [`ledger`] for the bookkeeping.

use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::message::Directives;
use holdfast_proto::names::Lineage;
use holdfast_repository::keyring::Wrapped;
use holdfast_repository::pack::PackError;
use holdfast_repository::publisher::Publisher;
use holdfast_repository::seal::{EpochKey, IndexKey};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::findings::Findings;
use crate::postgres::{PgTarget, SlotName};
use crate::state::Record;
use push::{Feed, Pushing};

pub mod archive;
mod archived;
mod attest;
mod backoff;
pub mod chunk;
mod courier;
mod examine;
mod following;
mod histories;
mod known;
mod lease;
pub mod ledger;
mod line;
mod merge;
mod proof;
pub mod push;
pub mod runs;
pub mod seal;
mod sealer;
mod shared;
mod sightings;
mod standing;
pub mod start;
pub mod state;
mod stream;
mod trouble;
mod unheld;
mod valve;

pub use courier::REPLICA_FAILS;
pub use examine::{Examined, Unexamined};
pub use following::Following;
pub use shared::MEMORY;
pub use state::{FrontierPublisher, NotAcknowledged, Reach, WalFrontier, WalState, frontier};
pub use trouble::NOT_COMPARED;
pub use valve::{Valve, ValveLimits, watch_alone};

/// What the tier asks of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineDirectives {
    /// The longest time that new WAL waits before it is uploaded.
    pub tip_interval: Duration,
    /// Replicas that must hold WAL before it counts.
    pub copies: usize,
    /// Time between attestations in the repository.
    pub attest_interval: Duration,
}

impl From<&Directives> for LineDirectives {
    fn from(directives: &Directives) -> Self {
        Self {
            tip_interval: Duration::from_millis(directives.tip_interval_ms),
            copies: usize::try_from(directives.copies).unwrap_or(usize::MAX),
            attest_interval: Duration::from_millis(directives.attest_interval_ms),
        }
    }
}

/// What a line works with.
pub struct WalContext {
    /// In whose name, and where to. Its lease is watched.
    pub publisher: Publisher,
    /// The epoch key to seal to; a new one is taken up with the next chunk.
    pub keys: watch::Receiver<Wrapped<EpochKey>>,
    /// The server.
    pub target: PgTarget,
    /// The slot; it is made when it is missing.
    pub slot: SlotName,
    /// What keeps the slot from filling the server's disk.
    pub valve: Valve,
    /// With what chunks are made known again: to compare a server's WAL with what is
    /// stored of it.
    pub index_key: IndexKey,
    /// How WAL is pushed; without it none is.
    pub pushing: Option<Pushing>,
    /// The line of descent that is written.
    pub lineage: Lineage,
    /// How far the server was seen to follow the cluster before it was promoted.
    pub following: Arc<Following>,
    /// Where it is kept why the slot may have held nothing, for whoever goes on.
    pub unheld: Record,
    /// From where on the WAL was not compared with what is archived before it.
    pub uncompared: Record,
    /// The tier's numbers, as they change.
    pub directives: watch::Receiver<LineDirectives>,
    /// Where the line says how far it is.
    pub frontier: FrontierPublisher,
    /// Where it says what is wrong.
    pub findings: Findings,
    /// Ends the line.
    pub cancel: CancellationToken,
}

/// Why a line ended.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// Another agent is the writer.
    #[error("another agent has taken the writer's lease ({found}, ours was {held}): this one stops writing")]
    Fenced {
        /// Ours.
        held: u64,
        /// The highest.
        found: u64,
    },
    /// Sealing failed.
    #[error("WAL could not be sealed: this is a defect, please report it")]
    Seal(#[from] PackError),
}

/// Runs a line until it is cancelled or another agent has taken over. Trouble
/// with the server or the replicas is a finding and is waited out.
///
/// # Errors
/// The lease is lost, or sealing failed.
pub async fn run(mut context: WalContext) -> Result<(), WalError> {
    let copies = context.directives.borrow().copies;
    let archive = archive::Archive {
        repository: context.publisher.repository.id(),
        cluster: context.publisher.cluster.clone(),
        lineage: context.lineage,
    };
    let replicas = context.publisher.repository.replicas().to_vec();
    let count = replicas.len();
    let frontier = context.frontier.clone();
    let publisher = context.publisher.clone();
    let shared = shared::Shared::new(
        publisher,
        archive,
        context.findings.clone(),
        replicas,
        copies,
        frontier,
    );

    let feed = context
        .pushing
        .as_ref()
        .map_or(Feed::Stream, |pushing| pushing.feed);
    let index_key = Some(context.index_key.clone());
    // The tasks end when the set is dropped.
    let mut tasks = JoinSet::new();
    for place in 0..count {
        tasks.spawn(courier::serve(shared.clone(), place));
    }
    tasks.spawn(attest::attest(shared.clone(), context.directives.clone()));
    tasks.spawn(merge::serve(shared.clone()));
    tasks.spawn(follow_copies(shared.clone(), context.directives.clone()));
    if feed == Feed::Stream {
        tasks.spawn(valve::watch(
            shared.clone(),
            context.target.clone(),
            context.slot.clone(),
            context.valve.clone(),
            context.unheld.clone(),
        ));
    }
    if let Some(pushing) = context.pushing.take() {
        let keys = context.keys.clone();
        tasks.spawn(push::serve(shared.clone(), pushing, keys, context.lineage));
    }
    let publisher = context.publisher.clone();
    let line = async move {
        match feed {
            Feed::Stream => line::Line::new(context, shared, index_key).run().await,
            Feed::Archive => archived::Archived::new(context, shared).run().await,
        }
    };
    tokio::select! {
        outcome = line => outcome,
        lost = lease::watch(&publisher) => Err(lost),
        Some(Err(panicked)) = tasks.join_next() => std::panic::resume_unwind(panicked.into_panic()),
    }
}

async fn follow_copies(
    shared: std::sync::Arc<shared::Shared>,
    mut directives: watch::Receiver<LineDirectives>,
) {
    while directives.changed().await.is_ok() {
        let copies = directives.borrow_and_update().copies;
        shared.set_copies(copies);
    }
}
