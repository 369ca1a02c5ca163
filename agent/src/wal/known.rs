//! Which WAL this process has stored itself, by its identity.
//!
//! What the stream and pushes have stored lately is compared with what
//! `archive_command` hands over without asking a store. Losing it costs a look into
//! the repository, whose objects carry the same identities.

use std::collections::{BTreeMap, VecDeque};

use holdfast_proto::pg::{Lsn, TimelineId};
use holdfast_proto::record::WalChunkId;

/// Chunks that are remembered: some megabytes at most.
const CAPACITY: usize = 1 << 16;

type Place = (TimelineId, Lsn);

/// Chunks by where they begin; of those that begin at one place the longest.
#[derive(Debug, Default)]
pub(super) struct Known {
    chunks: BTreeMap<Place, (Lsn, WalChunkId)>,
    order: VecDeque<Place>,
}

impl Known {
    /// Remembers a chunk.
    pub fn remember(&mut self, timeline: TimelineId, start: Lsn, end: Lsn, id: WalChunkId) {
        let place = (timeline, start);
        match self.chunks.get(&place) {
            Some((known, _)) if *known >= end => return,
            Some(_) => {}
            None => self.order.push_back(place),
        }
        self.chunks.insert(place, (end, id));
        while self.order.len() > CAPACITY {
            if let Some(oldest) = self.order.pop_front() {
                self.chunks.remove(&oldest);
            }
        }
    }

    /// Chunks that follow each other from `start` to exactly `end`; `None` when not
    /// all are known.
    pub fn between(&self, timeline: TimelineId, start: Lsn, end: Lsn) -> Option<Vec<(Lsn, Lsn, WalChunkId)>> {
        let mut found = Vec::new();
        let mut at = start;
        while at < end {
            let (to, id) = self.chunks.get(&(timeline, at))?;
            found.push((at, *to, *id));
            at = *to;
        }
        (at == end).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_proto::{ContentId, Fingerprint};

    #[test]
    fn only_a_whole_chain_is_known() {
        let id = WalChunkId {
            key: Fingerprint::new([0; 32]),
            content: ContentId::new([0; 16]),
        };
        let mut known = Known::default();
        let t = TimelineId::FIRST;
        for (start, end) in [(0, 10), (10, 15), (10, 20), (20, 30)] {
            known.remember(t, Lsn::new(start), Lsn::new(end), id);
        }
        let spans = |from, to| {
            let found = known.between(t, Lsn::new(from), Lsn::new(to));
            found.map(|all| all.iter().map(|c| c.0.get()).collect::<Vec<_>>())
        };
        assert_eq!(spans(0, 30), Some(vec![0, 10, 20]));
        assert_eq!(spans(0, 25), None, "a chunk goes beyond");
        assert_eq!(spans(0, 40), None, "the end is unknown");
        assert_eq!(spans(5, 20), None, "the beginning is unknown");
    }
}
