//! Who holds which WAL, what is still in memory, and what each replica needs
//! next.
//!
//! Pure bookkeeping, no IO: the receiver adds finished chunks, one courier per
//! replica asks for its next [`Errand`] and reports what it has done. Losing the
//! ledger loses nothing; at the next start it is made again from the replicas'
//! listings and the slot's position.
//!
//! What holds:
//! - A replica's *frontier* is the first position that it lacks, counted without
//!   a hole from the anchor, and only when it lacks nothing of the timelines
//!   before and none of their histories.
//! - *Acknowledged* is the k-th highest frontier. It never goes back, except
//!   when k is raised or a new timeline begins.
//! - A chunk leaves memory only when it is acknowledged. Replicas that are not
//!   there yet get it from another replica.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use holdfast_proto::Timestamp;
use holdfast_proto::envelope::Link;
use holdfast_proto::names::{ObjectKey, Region};
use holdfast_proto::pg::{Lsn, SegmentSize, TimelineHistory, TimelineId};
use holdfast_proto::record::WalChunkId;

use super::runs::{Runs, acknowledged};

/// A chunk as it goes to the replicas: sealed, signed, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedChunk {
    /// Its object's key.
    pub key: ObjectKey,
    /// Its object's bytes.
    pub object: Bytes,
    /// The key object that opens it: a replica needs it first.
    pub needs: Link,
    /// The timeline.
    pub timeline: TimelineId,
    /// First byte of WAL in it.
    pub start: Lsn,
    /// First byte of WAL after it.
    pub end: Lsn,
    /// By what the WAL in it is known again.
    pub id: Option<WalChunkId>,
}

/// What one replica holds, from its listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    /// WAL, by timeline.
    pub wal: BTreeMap<TimelineId, Runs>,
    /// History files.
    pub histories: BTreeSet<TimelineId>,
    /// The latest time of a transaction's end that a name gives.
    pub latest_commit: Option<Timestamp>,
}

impl Holdings {
    fn runs(&self, timeline: TimelineId) -> Runs {
        self.wal.get(&timeline).cloned().unwrap_or_default()
    }
}

/// The next thing to do for one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Errand {
    /// Look what it holds.
    List,
    /// Copy a history from another replica (by place in the ledger).
    CopyHistory {
        /// Whose history.
        timeline: TimelineId,
        /// Replicas that have it.
        from: Vec<usize>,
    },
    /// Copy the objects that hold this WAL from another replica.
    Copy {
        /// The timeline.
        timeline: TimelineId,
        /// First byte it lacks.
        start: Lsn,
        /// First byte after what the others have.
        end: Lsn,
        /// Replicas that have the byte at `start`.
        from: Vec<usize>,
    },
    /// Store a chunk that is in memory.
    Upload(Arc<SealedChunk>),
    /// Nothing now.
    Rest,
}

#[derive(Debug)]
struct ReplicaLedger {
    region: Region,
    /// `None` until it was listed.
    held: Option<Holdings>,
}

/// A span of transactions' ends that are not all acknowledged.
#[derive(Debug, Clone, Copy)]
struct Unsafe {
    end: Lsn,
    earliest: Timestamp,
    latest: Timestamp,
}

/// The ledger of one lineage, on the timeline that is streamed now.
#[derive(Debug)]
pub struct Ledger {
    timeline: TimelineId,
    anchor: Lsn,
    copies: usize,
    /// Fewer copies at which WAL is let go of, while the valve is open.
    let_go_at: Option<usize>,
    replicas: Vec<ReplicaLedger>,
    pending: VecDeque<Arc<SealedChunk>>,
    commits: VecDeque<Unsafe>,
    last_commit: Option<Timestamp>,
}

impl Ledger {
    /// An empty ledger; no replica has been listed yet.
    pub fn new(regions: impl IntoIterator<Item = Region>, copies: usize) -> Self {
        Self {
            timeline: TimelineId::FIRST,
            anchor: Lsn::new(0),
            copies,
            let_go_at: None,
            replicas: regions
                .into_iter()
                .map(|region| ReplicaLedger { region, held: None })
                .collect(),
            pending: VecDeque::new(),
            commits: VecDeque::new(),
            last_commit: None,
        }
    }

    /// Begins (or begins again) a timeline: WAL counts from `anchor` on. Chunks
    /// in memory are forgotten; the caller has seen them acknowledged, or will
    /// receive them again.
    pub fn begin(&mut self, timeline: TimelineId, anchor: Lsn) {
        self.timeline = timeline;
        self.anchor = anchor;
        self.pending.clear();
        self.commits.clear();
    }

    /// Sets k.
    pub fn set_copies(&mut self, copies: usize) {
        self.copies = copies;
    }

    /// Lets go of WAL that fewer replicas hold than k; `None` ends that. What is
    /// acknowledged does not change.
    pub fn let_go_at(&mut self, copies: Option<usize>) {
        self.let_go_at = copies;
    }

    /// k.
    pub fn copies(&self) -> usize {
        self.copies
    }

    /// The timeline that is streamed.
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// Notes what the replica at `place` holds.
    pub fn listed(&mut self, place: usize, holdings: Holdings) {
        self.last_commit = self.last_commit.max(holdings.latest_commit);
        self.replicas[place].held = Some(holdings);
        self.settle();
    }

    /// From where on each timeline leads to the present without a hole, the newest first:
    /// the stream's from its anchor on, an ancestor's as far as its WAL is whole up to the
    /// segment in which the next one began (which holds what was before, too).
    pub fn unbroken(&self, history: &TimelineHistory, size: SegmentSize) -> Vec<(TimelineId, Lsn)> {
        let first = |lsn: Lsn| size.start_of(size.segment_of(lsn));
        let mut all = vec![(self.timeline, self.anchor)];
        let mut begins = self.anchor;
        let ancestors = history.ancestors();
        for (n, switch) in ancestors.iter().enumerate().rev() {
            let needed = first(switch.end);
            if begins > needed {
                break;
            }
            let before = n.checked_sub(1).map(|n| first(ancestors[n].end));
            if before.is_some_and(|before| needed <= before) {
                // It ended in the segment in which it began.
                begins = needed;
            } else {
                let runs = self.union(switch.timeline);
                let whole = runs
                    .as_slice()
                    .iter()
                    .find(|(start, end)| *start < switch.end && *end >= needed);
                let Some((start, _)) = whole else { break };
                begins = *start;
            }
            all.push((switch.timeline, begins));
        }
        all
    }

    /// Whether the replica at `place` was listed.
    pub fn is_listed(&self, place: usize) -> bool {
        self.replicas[place].held.is_some()
    }

    /// Regions of replicas that were not listed yet.
    pub fn unlisted(&self) -> Vec<Region> {
        let unlisted = self.replicas.iter().filter(|r| r.held.is_none());
        unlisted.map(|r| r.region.clone()).collect()
    }

    /// Notes that the replica at `place` holds WAL.
    pub fn stored(&mut self, place: usize, timeline: TimelineId, start: Lsn, end: Lsn) {
        if let Some(held) = &mut self.replicas[place].held {
            held.wal.entry(timeline).or_default().add(start, end);
        }
        self.settle();
        self.drop_delivered();
    }

    /// Chunks that are everywhere are of no more use.
    fn drop_delivered(&mut self) {
        let frontiers = (0..self.replicas.len()).map(|place| self.frontier(place));
        let Some(everywhere) = frontiers
            .collect::<Option<Vec<Lsn>>>()
            .and_then(|f| f.into_iter().min())
        else {
            return;
        };
        while self.pending.front().is_some_and(|chunk| chunk.end <= everywhere) {
            self.pending.pop_front();
        }
    }

    /// Notes that the replica at `place` holds a history.
    pub fn stored_history(&mut self, place: usize, timeline: TimelineId) {
        if let Some(held) = &mut self.replicas[place].held {
            held.histories.insert(timeline);
        }
        self.settle();
    }

    /// Adds a chunk that follows the last one.
    pub fn push(&mut self, chunk: SealedChunk) {
        self.pending.push_back(Arc::new(chunk));
    }

    /// Notes that transactions ended before `end`, at these times.
    pub fn push_commits(&mut self, end: Lsn, earliest: Timestamp, latest: Timestamp) {
        self.commits.push_back(Unsafe {
            end,
            earliest,
            latest,
        });
    }

    /// Bytes of the objects in memory.
    pub fn pending_bytes(&self) -> usize {
        self.pending.iter().map(|chunk| chunk.object.len()).sum()
    }

    /// Chunks that no replica has yet.
    pub fn undelivered(&self) -> usize {
        let leader = self.leader();
        self.pending
            .iter()
            .rev()
            .take_while(|chunk| chunk.end > leader)
            .count()
    }

    /// Drops the oldest chunk from memory if it is let go of, and returns the
    /// bytes that it had.
    pub fn evict(&mut self) -> Option<usize> {
        let let_go = self.let_go()?;
        let oldest = self.pending.front()?;
        if oldest.end > let_go {
            return None;
        }
        self.pending.pop_front().map(|chunk| chunk.object.len())
    }

    /// All WAL of a timeline that any listed replica holds.
    pub fn union(&self, timeline: TimelineId) -> Runs {
        let mut union = Runs::default();
        for held in self.replicas.iter().filter_map(|r| r.held.as_ref()) {
            union.add_all(&held.runs(timeline));
        }
        union
    }

    /// The newest timeline of which any listed replica holds WAL.
    pub fn newest_timeline(&self) -> Option<TimelineId> {
        let held = self.replicas.iter().filter_map(|r| r.held.as_ref());
        held.filter_map(|h| h.wal.keys().next_back()).max().copied()
    }

    /// How far the WAL from the anchor reaches on the replica that has most.
    pub fn leader(&self) -> Lsn {
        self.union(self.timeline)
            .reach(self.anchor)
            .unwrap_or(self.anchor)
    }

    /// The frontier of the replica at `place`; `None` while it is unknown or
    /// while it lacks something of earlier timelines.
    pub fn frontier(&self, place: usize) -> Option<Lsn> {
        let held = self.replicas[place].held.as_ref()?;
        if self.missing_history(place).is_some() || self.missing_before(place).is_some() {
            return None;
        }
        Some(held.runs(self.timeline).reach(self.anchor).unwrap_or(self.anchor))
    }

    /// Every replica's region and frontier.
    pub fn frontiers(&self) -> Vec<(Region, Option<Lsn>)> {
        let places = self.replicas.iter().enumerate();
        places
            .map(|(place, replica)| (replica.region.clone(), self.frontier(place)))
            .collect()
    }

    /// What at least k of the replicas hold of `timeline` from `anchor` on; those
    /// that were not listed do not count.
    pub fn acknowledged_from(&self, timeline: TimelineId, anchor: Lsn) -> Option<Lsn> {
        let held = self.replicas.iter().map(|replica| replica.held.as_ref());
        let reach = |held: &Holdings| held.runs(timeline).reach(anchor).unwrap_or(anchor);
        acknowledged(held.map(|held| held.map(reach)), self.copies)
    }

    /// Which replicas hold the WAL from `start` to `end` without a hole; those that
    /// were not listed do not.
    pub fn holders_of(&self, timeline: TimelineId, start: Lsn, end: Lsn) -> Vec<bool> {
        let held = self.replicas.iter().map(|replica| replica.held.as_ref());
        held.map(|held| held.is_some_and(|h| h.runs(timeline).reach(start) >= Some(end)))
            .collect()
    }

    /// Whether the replica at `place` is known to hold the history of a timeline.
    pub fn holds_history(&self, place: usize, timeline: TimelineId) -> bool {
        let held = self.replicas[place].held.as_ref();
        held.is_some_and(|held| held.histories.contains(&timeline))
    }

    /// Notes a transaction's end that is acknowledged.
    pub fn note_commit(&mut self, at: Timestamp) {
        self.last_commit = self.last_commit.max(Some(at));
    }

    /// Whether any listed replica has the history of a timeline.
    pub fn has_history(&self, timeline: TimelineId) -> bool {
        self.replicas
            .iter()
            .filter_map(|r| r.held.as_ref())
            .any(|h| h.histories.contains(&timeline))
    }

    /// From where on WAL counts as contiguous.
    pub fn anchor(&self) -> Lsn {
        self.anchor
    }

    /// The k-th highest frontier.
    pub fn acknowledged(&self) -> Option<Lsn> {
        self.held_by(self.copies)
    }

    /// How far WAL is let go of: what is acknowledged, and more while the valve
    /// is open.
    pub fn let_go(&self) -> Option<Lsn> {
        self.held_by(self.let_go_at.map_or(self.copies, |fewer| fewer.min(self.copies)))
    }

    /// What so many replicas hold.
    pub fn held_by(&self, copies: usize) -> Option<Lsn> {
        acknowledged((0..self.replicas.len()).map(|place| self.frontier(place)), copies)
    }

    /// The earliest time of a transaction's end that is not acknowledged, among
    /// those in finished chunks.
    pub fn oldest_unsafe(&self) -> Option<Timestamp> {
        self.commits.iter().map(|c| c.earliest).min()
    }

    /// The latest time of a transaction's end that is acknowledged.
    pub fn last_commit(&self) -> Option<Timestamp> {
        self.last_commit
    }

    fn settle(&mut self) {
        let Some(acknowledged) = self.acknowledged() else {
            return;
        };
        while let Some(commits) = self.commits.front().filter(|c| c.end <= acknowledged) {
            self.last_commit = self.last_commit.max(Some(commits.latest));
            self.commits.pop_front();
        }
    }

    fn missing_history(&self, place: usize) -> Option<TimelineId> {
        let held = self.replicas[place].held.as_ref()?;
        let others = self.replicas.iter().filter_map(|r| r.held.as_ref());
        others
            .flat_map(|h| &h.histories)
            .find(|t| !held.histories.contains(t))
            .copied()
    }

    fn missing_before(&self, place: usize) -> Option<(TimelineId, Lsn, Lsn)> {
        let held = self.replicas[place].held.as_ref()?;
        let others = self.replicas.iter().filter_map(|r| r.held.as_ref());
        let older: BTreeSet<TimelineId> = others
            .flat_map(|h| h.wal.keys().copied())
            .filter(|t| *t < self.timeline)
            .collect();
        older.into_iter().find_map(|timeline| {
            let missing = self.union(timeline).without(&held.runs(timeline));
            missing
                .as_slice()
                .first()
                .map(|(start, end)| (timeline, *start, *end))
        })
    }

    fn holders(&self, place: usize, mut holds: impl FnMut(&Holdings) -> bool) -> Vec<usize> {
        let others = self
            .replicas
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != place);
        others
            .filter(|(_, replica)| replica.held.as_ref().is_some_and(&mut holds))
            .map(|(other, _)| other)
            .collect()
    }

    /// What to do next for the replica at `place`. Doing it and reporting it
    /// makes the next errand another one.
    pub fn errand(&self, place: usize) -> Errand {
        let Some(held) = &self.replicas[place].held else {
            return Errand::List;
        };
        if let Some(timeline) = self.missing_history(place) {
            let from = self.holders(place, |h| h.histories.contains(&timeline));
            return Errand::CopyHistory { timeline, from };
        }
        if let Some((timeline, start, end)) = self.missing_before(place) {
            let from = self.holders(place, |h| h.runs(timeline).reach(start).is_some());
            return Errand::Copy {
                timeline,
                start,
                end,
                from,
            };
        }
        let runs = held.runs(self.timeline);
        let frontier = runs.reach(self.anchor).unwrap_or(self.anchor);
        if let Some(chunk) = self
            .pending
            .iter()
            .find(|c| c.start <= frontier && frontier < c.end)
        {
            return Errand::Upload(chunk.clone());
        }
        let from = self.holders(place, |h| h.runs(self.timeline).reach(frontier).is_some());
        let missing = self.union(self.timeline).without(&runs);
        match missing.as_slice().iter().find(|(start, _)| *start == frontier) {
            Some((start, end)) if !from.is_empty() => Errand::Copy {
                timeline: self.timeline,
                start: *start,
                end: *end,
                from,
            },
            _ => Errand::Rest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tli(n: u32) -> TimelineId {
        TimelineId::new(n).unwrap()
    }

    fn lsn(n: u64) -> Lsn {
        Lsn::new(n)
    }

    fn ledger(replicas: usize, copies: usize) -> Ledger {
        Ledger::new((0..replicas).map(|n| format!("r{n}").parse().unwrap()), copies)
    }

    fn chunk(start: u64, end: u64) -> SealedChunk {
        SealedChunk {
            key: ObjectKey::from_layout(format!("{start}-{end}")),
            object: Bytes::from(vec![0; (end - start) as usize]),
            needs: Link {
                key: ObjectKey::from_layout("key".to_owned()),
                sha256: holdfast_proto::Sha256Digest::new([0; 32]),
            },
            timeline: tli(1),
            start: lsn(start),
            end: lsn(end),
            id: None,
        }
    }

    fn holding(timeline: u32, start: u64, end: u64) -> Holdings {
        let runs = [(lsn(start), lsn(end))].into_iter().collect();
        Holdings {
            wal: [(tli(timeline), runs)].into(),
            ..Holdings::default()
        }
    }

    #[test]
    fn a_late_replica_copies_what_left_memory() {
        let mut ledger = ledger(2, 1);
        assert_eq!(ledger.errand(0), Errand::List);
        ledger.listed(0, Holdings::default());
        ledger.begin(tli(1), lsn(100));
        assert_eq!(ledger.acknowledged(), Some(lsn(100)));
        ledger.push(chunk(100, 150));
        ledger.push(chunk(150, 200));
        assert!(ledger.evict().is_none());
        let Errand::Upload(first) = ledger.errand(0) else {
            panic!("nothing to upload")
        };
        ledger.stored(0, first.timeline, first.start, first.end);
        assert_eq!(ledger.acknowledged(), Some(lsn(150)));
        assert_eq!(ledger.evict(), Some(50));
        assert!(ledger.evict().is_none());

        assert_eq!(ledger.errand(1), Errand::List);
        ledger.listed(1, Holdings::default());
        let copy = Errand::Copy {
            timeline: tli(1),
            start: lsn(100),
            end: lsn(150),
            from: vec![0],
        };
        assert_eq!(ledger.errand(1), copy);
        ledger.stored(1, tli(1), lsn(100), lsn(150));
        assert!(matches!(ledger.errand(1), Errand::Upload(c) if c.start == lsn(150)));
        ledger.set_copies(2);
        assert_eq!(ledger.acknowledged(), Some(lsn(150)));
    }

    #[test]
    fn earlier_timelines_and_histories_come_first() {
        let mut ledger = ledger(2, 1);
        let mut full = holding(1, 0, 90);
        full.wal
            .insert(tli(2), [(lsn(80), lsn(120))].into_iter().collect());
        full.histories.insert(tli(2));
        ledger.listed(0, full);
        ledger.listed(1, holding(2, 80, 120));
        ledger.begin(tli(2), lsn(80));
        assert_eq!(ledger.frontier(0), Some(lsn(120)));
        assert_eq!(ledger.frontier(1), None, "its past is missing");
        assert_eq!(
            ledger.errand(1),
            Errand::CopyHistory {
                timeline: tli(2),
                from: vec![0]
            }
        );
        ledger.stored_history(1, tli(2));
        assert!(matches!(ledger.errand(1), Errand::Copy { timeline, .. } if timeline == tli(1)));
        ledger.stored(1, tli(1), lsn(0), lsn(90));
        assert_eq!(ledger.frontier(1), Some(lsn(120)));
        assert_eq!(ledger.errand(1), Errand::Rest);
        assert_eq!(ledger.newest_timeline(), Some(tli(2)));
    }

    #[test]
    fn commits_are_unsafe_until_acknowledged() {
        let at = Timestamp::from_unix_micros;
        let mut ledger = ledger(1, 1);
        ledger.listed(0, Holdings::default());
        ledger.begin(tli(1), lsn(0));
        ledger.push_commits(lsn(10), at(7), at(8));
        ledger.push_commits(lsn(20), at(5), at(9));
        assert_eq!(
            ledger.oldest_unsafe(),
            Some(at(5)),
            "commit times are not monotone"
        );
        ledger.stored(0, tli(1), lsn(0), lsn(20));
        assert_eq!(
            (ledger.oldest_unsafe(), ledger.last_commit()),
            (None, Some(at(9)))
        );
    }

    proptest! {
        /// Whatever is down for how long, in the end every replica holds all.
        #[test]
        fn every_replica_gets_everything(
            steps in proptest::collection::vec((0usize..3, 0u8..4), 0..200),
            copies in 1usize..=3,
        ) {
            let mut ledger = ledger(3, copies);
            for place in 0..3 { ledger.listed(place, Holdings::default()); }
            ledger.begin(tli(1), lsn(0));
            let mut end = 0;
            let mut acknowledged = lsn(0);
            let run = |ledger: &mut Ledger, place: usize| -> bool {
                match ledger.errand(place) {
                    Errand::Upload(c) => { ledger.stored(place, c.timeline, c.start, c.end); true }
                    Errand::Copy { timeline, start, end, from } => {
                        assert!(!from.is_empty() && start < end);
                        ledger.stored(place, timeline, start, end);
                        true
                    }
                    Errand::Rest => false,
                    other => panic!("{other:?}"),
                }
            };
            for (place, what) in steps {
                match what {
                    0 => { ledger.push(chunk(end, end + 3)); end += 3; }
                    1 => { while ledger.evict().is_some() {} }
                    _ => { run(&mut ledger, place); }
                }
                let now = ledger.acknowledged().unwrap();
                prop_assert!(now >= acknowledged);
                acknowledged = now;
            }
            while (0..3).any(|place| run(&mut ledger, place)) {}
            prop_assert_eq!(ledger.acknowledged(), Some(lsn(end)));
            prop_assert!((0..3).all(|place| ledger.frontier(place) == Some(lsn(end))));
        }
    }
}
