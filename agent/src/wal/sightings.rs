//! Until which moment all that was committed is safe, where WAL comes in whole
//! segments.
//!
//! Pure. The server is looked at again and again: where its log ends, and which
//! transactions are under way. What was committed at a sighting lies before the
//! position seen then, so once that is acknowledged, everything committed by then is
//! safe. A later sighting with the very same transactions says that nothing was
//! committed in between: an idle server, whose last segment is never filled, does not
//! look as if it lost more from minute to minute.

use std::collections::VecDeque;

use holdfast_proto::Timestamp;
use holdfast_proto::pg::Lsn;

/// Sightings that wait for their position to be acknowledged.
const CAPACITY: usize = 4096;

/// The server at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sighting {
    /// When, by the agent's clock; before the rest was asked for.
    pub at: Timestamp,
    /// Everything committed by then lies before this.
    pub position: Lsn,
    /// Transactions that were over, as `pg_current_snapshot` writes them.
    pub snapshot: String,
}

/// What was seen of one server.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    waiting: VecDeque<Sighting>,
    safe: Option<Sighting>,
    newest: Option<Sighting>,
}

impl Sightings {
    /// Notes one.
    pub fn note(&mut self, seen: Sighting) {
        self.newest = Some(seen.clone());
        self.waiting.push_back(seen);
        if self.waiting.len() > CAPACITY {
            // Every second one: what is left says less, and nothing wrong.
            let mut keep = true;
            self.waiting.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    /// Until when everything committed is safe, once `acknowledged` is.
    pub fn safe_until(&mut self, acknowledged: Lsn) -> Option<Timestamp> {
        while self
            .waiting
            .front()
            .is_some_and(|seen| seen.position <= acknowledged)
        {
            self.safe = self.waiting.pop_front();
        }
        let safe = self.safe.as_ref()?;
        let same = self
            .newest
            .as_ref()
            .filter(|newest| newest.snapshot == safe.snapshot);
        Some(same.unwrap_or(safe).at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(at: i64, position: u64, snapshot: &str) -> Sighting {
        Sighting {
            at: Timestamp::from_unix_micros(at),
            position: Lsn::new(position),
            snapshot: snapshot.to_owned(),
        }
    }

    #[test]
    fn what_was_committed_before_a_safe_position_is_safe() {
        let mut sightings = Sightings::default();
        let until = |s: &mut Sightings, lsn| s.safe_until(Lsn::new(lsn)).map(|t| t.unix_micros());
        assert_eq!(until(&mut sightings, 100), None);
        for n in 1..=5 {
            sightings.note(seen(n, 10 * n.unsigned_abs(), &format!("{n}:{n}:")));
        }
        assert_eq!(until(&mut sightings, 5), None);
        assert_eq!(until(&mut sightings, 39), Some(3));
        assert_eq!(until(&mut sightings, 40), Some(4));
        // Log without transactions.
        sightings.note(seen(60, 70, "4:4:"));
        assert_eq!(until(&mut sightings, 40), Some(60));
        sightings.note(seen(61, 80, "4:5:4"));
        assert_eq!(until(&mut sightings, 40), Some(4), "one more is under way");
    }

    #[test]
    fn memory_is_bounded_and_nothing_gets_safer() {
        let mut sightings = Sightings::default();
        for n in 0..20_000 {
            sightings.note(seen(n, n.unsigned_abs(), &format!("{n}:{n}:")));
            assert!(sightings.waiting.len() <= CAPACITY);
        }
        let until = sightings.safe_until(Lsn::new(12_345)).unwrap();
        assert!(until.unix_micros() <= 12_345 && until.unix_micros() > 11_000);
    }
}
