//! Stores a segment's file: chunk by chunk, each chunk on all replicas that lack it.
//!
//! The chunks of a segment are on their way at the same time, a few at once, so that
//! memory is bounded whatever the size of a segment. A replica that fails is left out
//! for the rest of the segment, and for a while where enough others remain; its courier
//! gives it what it lacks.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use holdfast_proto::Timestamp;
use holdfast_proto::envelope::Link;
use holdfast_proto::finding::Severity;
use holdfast_proto::pg::{Lsn, TimelineId};
use holdfast_proto::record::{AfterGap, GapCause, WalBody};
use holdfast_repository::clock::now;
use holdfast_repository::pack::PackError;
use holdfast_repository::seal::EpochKey;
use holdfast_repository::trust::Trust;
use holdfast_repository::{Deadlines, Replica, StoreError, keyring::Wrapped, signed};
use tokio::task::spawn_blocking;

use super::PushError;
use super::compare::{Held, Span};
use super::segment::SegmentFile;
use crate::wal::archive::ArchiveError;
use crate::wal::chunk::{Chunk, ChunkFacts, Cutter, MAX_CHUNK};
use crate::wal::courier::{REPLICA_FAILS, explain};
use crate::wal::ledger::SealedChunk;
use crate::wal::seal::{Chain, ChunkSealer, Origin};
use crate::wal::shared::Shared;

/// How long a replica that failed is left out where enough others remain.
const REST: Duration = Duration::from_secs(30);

const RESTS: &str = "it failed a moment ago; its courier brings it what it lacks";

/// Chunks that are on their way at the same time.
const AT_ONCE: usize = 4;

/// Where the last segment that was stored ended: the next one goes on there.
#[derive(Debug)]
pub(super) struct Tail {
    timeline: TimelineId,
    end: Lsn,
    cutter: Cutter,
    chain: Chain,
}

/// With what a segment is stored.
pub(super) struct Storing<'a> {
    pub shared: &'a Arc<Shared>,
    pub trust: &'a Trust,
    pub origin: Origin,
    pub key: Wrapped<EpochKey>,
    /// What is known of each replica.
    pub standings: &'a Mutex<Vec<Standing>>,
    /// Where the WAL before it ends, when there is a hole between.
    pub apart: Option<Lsn>,
}

/// What pushes have learned of one replica.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    /// The key object that it was seen to hold.
    prepared: Option<Link>,
    /// When it failed last.
    failed: Option<Instant>,
}

/// What came of it.
pub(super) struct Outcome {
    /// Replicas that hold all of it now.
    pub copies: usize,
    /// Why others do not.
    pub failures: Vec<String>,
    /// The newest transaction's end in it.
    pub latest: Option<Timestamp>,
    /// For the segment after it.
    pub tail: Option<Tail>,
}

impl Storing<'_> {
    /// Stores what `held` lacks of `span`.
    ///
    /// # Errors
    /// The file cannot be read, or other bytes stand where a chunk belongs.
    pub async fn store(
        &self,
        file: &SegmentFile,
        span: Span,
        held: &Held,
        before: Option<Tail>,
    ) -> Result<Outcome, PushError> {
        let follows = before.filter(|t| t.timeline == span.timeline && t.end == span.start);
        let (mut cutter, chain) = match follows {
            Some(tail) => (tail.cutter, tail.chain),
            None => {
                let system = self.origin.lineage.system;
                let cutter = Cutter::new(span.timeline, span.size, system, span.start);
                let mut chain = self.chain_at(span, span.start).await;
                chain.after_gap = self.apart.map(|from| AfterGap {
                    from,
                    cause: GapCause::NotHandedOver,
                    noticed: now(),
                });
                (cutter, chain)
            }
        };
        let resting = self.resting();
        let rests = |rests: &bool| rests.then(|| ArchiveError::Unprepared(RESTS.to_owned()));
        let failed: Mutex<Vec<Option<ArchiveError>>> = Mutex::new(resting.iter().map(rests).collect());
        let mut sealer = ChunkSealer::new(self.origin.clone(), chain).map_err(unsealed)?;
        let mut latest = None;
        let mut flying = FuturesUnordered::new();
        let mut cut: VecDeque<Chunk> = VecDeque::new();
        let mut at = span.start;
        loop {
            while cut.is_empty() && at < span.end {
                let to = Lsn::new(at.get().saturating_add(MAX_CHUNK as u64)).min(span.end);
                let reading = file.clone();
                let bytes = spawn_blocking(move || reading.read(at, to)).await;
                let bytes = match bytes {
                    Ok(Ok(bytes)) => bytes,
                    Ok(Err(e)) => return Err(PushError::Later(format!("the file cannot be read: {e}"))),
                    Err(_) => return Err(PushError::Later("reading the file failed".to_owned())),
                };
                // A damaged record was said when the file was checked.
                cut.extend(cutter.take(&bytes).0);
                at = to;
                if at == span.end {
                    cut.extend(cutter.close());
                }
            }
            let Some(chunk) = cut.pop_front() else { break };
            latest = latest.max(chunk.facts.latest_time);
            let lacking = self.lacking(&chunk, held, &failed);
            if lacking.is_empty() {
                sealer.go_on_with(self.chain_at(span, chunk.end).await);
                continue;
            }
            let facts = chunk.facts.clone();
            let (sealed, moved) = self.seal(sealer, chunk).await?;
            sealer = moved;
            flying.push(self.upload(Arc::new(sealed), facts, lacking, &failed));
            while flying.len() >= AT_ONCE {
                flying.next().await.transpose()?;
            }
            if self.is_hopeless(&failed) {
                break;
            }
        }
        while let Some(done) = flying.next().await {
            done?;
        }
        drop(flying);
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.say(&failed, &resting);
        let copies = failed.iter().filter(|failure| failure.is_none()).count();
        let complete = at == span.end && cut.is_empty();
        Ok(Outcome {
            copies: if complete { copies } else { 0 },
            failures: (self.shared.replicas.iter().zip(&failed))
                .filter_map(|(replica, failure)| {
                    failure
                        .as_ref()
                        .map(|why| format!("{}: {}", replica.region(), explain(why).1))
                })
                .collect(),
            latest,
            tail: (complete && copies > 0).then_some(Tail {
                timeline: span.timeline,
                end: span.end,
                cutter,
                chain: sealer.into_chain(),
            }),
        })
    }

    /// The replicas that failed a moment ago, unless they are needed.
    fn resting(&self) -> Vec<bool> {
        let mut standings = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
        standings.resize(self.shared.replicas.len(), Standing::default());
        let rests: Vec<bool> = (standings.iter())
            .map(|standing| standing.failed.is_some_and(|at| at.elapsed() < REST))
            .collect();
        let left = rests.iter().filter(|rests| !**rests).count();
        if left < self.shared.ledger(|ledger| ledger.copies()) {
            return vec![false; rests.len()];
        }
        rests
    }

    async fn chain_at(&self, span: Span, end: Lsn) -> Chain {
        let short: Vec<_> = (self.shared.replicas.iter())
            .map(|r| r.with_deadlines(Deadlines::short()))
            .collect();
        let archive = &self.shared.archive;
        archive.chain_at(&short, span.timeline, span.size, end).await
    }

    /// The replicas that a chunk goes to.
    fn lacking(&self, chunk: &Chunk, held: &Held, failed: &Mutex<Vec<Option<ArchiveError>>>) -> Vec<usize> {
        let failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
        (0..failed.len())
            .filter(|place| failed[*place].is_none() && !held.has(*place, chunk.start, chunk.end))
            .collect()
    }

    fn is_hopeless(&self, failed: &Mutex<Vec<Option<ArchiveError>>>) -> bool {
        let failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
        let left = failed.iter().filter(|failure| failure.is_none()).count();
        left < self.shared.ledger(|ledger| ledger.copies())
    }

    async fn seal(
        &self,
        mut sealer: ChunkSealer,
        chunk: Chunk,
    ) -> Result<(SealedChunk, ChunkSealer), PushError> {
        let key = self.key.clone();
        let sealed = spawn_blocking(move || sealer.seal(&key, chunk).map(|sealed| (sealed, sealer)));
        match sealed.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(unsealed(error)),
            Err(_) => Err(PushError::Later("WAL could not be sealed".to_owned())),
        }
    }

    /// Creates a chunk on the replicas at `places`; a conflict alone is an error.
    async fn upload(
        &self,
        chunk: Arc<SealedChunk>,
        facts: ChunkFacts,
        places: Vec<usize>,
        failed: &Mutex<Vec<Option<ArchiveError>>>,
    ) -> Result<(), PushError> {
        let creating = places.iter().map(|place| self.create(*place, &chunk, &facts));
        let mut conflict = None;
        for (place, created) in places.iter().zip(join_all(creating).await) {
            match created {
                Ok(()) => {
                    if let Some(id) = chunk.id {
                        self.shared.remember(chunk.timeline, chunk.start, chunk.end, id);
                    }
                    let held = [(chunk.start, chunk.end)];
                    self.shared.stored(*place, chunk.timeline, &held);
                }
                Err(ArchiveError::Store(StoreError::Conflict { .. })) => {
                    conflict = Some(PushError::Conflict(format!(
                        "replica {} has another object for its WAL from {} on, which holds other bytes or is not \
                         believed: `holdfast verify` says which",
                        self.shared.replicas[*place].region(),
                        chunk.start
                    )));
                }
                Err(error) => {
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    failed[*place].get_or_insert(error);
                }
            }
        }
        conflict.map_or(Ok(()), Err)
    }

    async fn create(
        &self,
        place: usize,
        chunk: &SealedChunk,
        facts: &ChunkFacts,
    ) -> Result<(), ArchiveError> {
        let replica = self.shared.replicas[place].with_deadlines(Deadlines::short());
        let timeline = chunk.timeline;
        if timeline != TimelineId::FIRST && !self.shared.ledger(|l| l.holds_history(place, timeline)) {
            return Err(ArchiveError::Unprepared(format!(
                "it lacks the history of timeline {timeline}, which its courier brings"
            )));
        }
        self.prepare(place, &replica, &chunk.needs).await?;
        match replica.create(&chunk.key, chunk.object.clone()).await {
            Ok(_) => Ok(()),
            Err(conflict @ StoreError::Conflict { .. }) => {
                let there = replica.get(&chunk.key).await?;
                let same = signed::verify::<WalBody>(&there, &chunk.key, self.trust)
                    .is_ok_and(|signed| self.is_same(signed.body(), chunk, facts));
                if same { Ok(()) } else { Err(conflict.into()) }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The same WAL: by its digest, or, where another index key or an older agent was
    /// at work, by all that the header says of it.
    fn is_same(&self, there: &WalBody, chunk: &SealedChunk, facts: &ChunkFacts) -> bool {
        let ours = chunk.id.map(|id| id.key);
        match there.chunks.as_slice() {
            [one] if one.id.is_some() && one.id.map(|id| id.key) == ours => one.id == chunk.id,
            _ => {
                (there.start, there.end) == (chunk.start, chunk.end)
                    && there.commits == facts.commits
                    && there.last_commit == facts.last_commit
                    && there.restore_points == facts.restore_points
            }
        }
    }

    async fn prepare(&self, place: usize, replica: &Replica, needs: &Link) -> Result<(), ArchiveError> {
        let standings = || self.standings.lock().unwrap_or_else(PoisonError::into_inner);
        if standings().get(place).and_then(|s| s.prepared.as_ref()) == Some(needs) {
            return Ok(());
        }
        let wanted = std::slice::from_ref(needs);
        let prepared = self.shared.publisher.prepare(replica, wanted).await;
        prepared.map_err(ArchiveError::Unprepared)?;
        if let Some(standing) = standings().get_mut(place) {
            standing.prepared = Some(needs.clone());
        }
        Ok(())
    }

    fn say(&self, failed: &[Option<ArchiveError>], resting: &[bool]) {
        let mut standings = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, replica) in self.shared.replicas.iter().enumerate() {
            let subject = replica.region().as_str();
            match &failed[place] {
                None => {
                    standings[place].failed = None;
                    self.shared.findings.clear(REPLICA_FAILS, subject);
                }
                Some(_) if resting[place] => {}
                Some(error) => {
                    standings[place].failed = Some(Instant::now());
                    let (severity, why): (Severity, String) = explain(error);
                    self.shared.findings.raise(severity, REPLICA_FAILS, subject, why);
                }
            }
        }
    }
}

fn unsealed(error: PackError) -> PushError {
    PushError::Later(format!("WAL could not be sealed: {error}"))
}
