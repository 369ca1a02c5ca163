//! Until which moment all that was committed is safe.
//!
//! Pure. A stream, or the segments that `archive_command` hands over, say what came, not
//! what was committed since. So the server is looked at again and again: where its log ends, and which
//! transactions are under way. What was committed at a sighting lies before the
//! position seen then, so once that is acknowledged, everything committed by then is
//! safe. A later sighting with the very same transactions says that nothing was
//! committed in between: an idle server, whose last segment is never filled, does not
//! look as if it lost more from minute to minute.

use std::collections::VecDeque;

use holdfast_proto::Timestamp;
use holdfast_proto::pg::{Lsn, WAL_PAGE_SIZE};

/// Sightings that wait for their position to be acknowledged.
const CAPACITY: usize = 4096;

/// The server at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sighting {
    /// When, by the agent's clock; before the rest was asked for.
    pub at: Timestamp,
    /// When, by the server's clock, which is that of commits; before the rest was read.
    pub clock: Timestamp,
    /// Everything committed by then lies before this.
    pub position: Lsn,
    /// Transactions that were over, as `pg_current_snapshot` writes them.
    pub snapshot: String,
}

/// A page header at the beginning of a page, which is not WAL that anybody waits for; the
/// longer one of a segment's first page.
const HEADER: u64 = 40;

impl Sighting {
    /// Where the log ends for a reader when the next record goes to `insert`: the server
    /// counts the header of a page that has nothing in it yet.
    pub fn end_of_log(insert: Lsn) -> Lsn {
        match insert.get() % WAL_PAGE_SIZE {
            within @ 0..=HEADER => Lsn::new(insert.get() - within),
            _ => insert,
        }
    }
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

    /// The last one by which everything committed is safe, once `acknowledged` is.
    pub fn safe_at(&mut self, acknowledged: Lsn) -> Option<&Sighting> {
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
        Some(same.unwrap_or(safe))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(at: i64, position: u64, snapshot: &str) -> Sighting {
        Sighting {
            at: Timestamp::from_unix_micros(at),
            clock: Timestamp::from_unix_micros(at),
            position: Lsn::new(position),
            snapshot: snapshot.to_owned(),
        }
    }

    #[test]
    fn what_was_committed_before_a_safe_position_is_safe() {
        let mut sightings = Sightings::default();
        let until = |s: &mut Sightings, lsn| s.safe_at(Lsn::new(lsn)).map(|seen| seen.clock.unix_micros());
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
    fn the_header_of_an_empty_page_is_no_wal() {
        let end = |insert| Sighting::end_of_log(Lsn::new(insert)).get();
        assert_eq!(end(0x3000), 0x3000 - 0x3000 % WAL_PAGE_SIZE + 0x1000);
        assert_eq!((end(0x2018), end(0x0100_0028)), (0x2000, 0x0100_0000));
        assert_eq!(end(0x2040), 0x2040, "a record is in it");
    }

    #[test]
    fn memory_is_bounded_and_nothing_gets_safer() {
        let mut sightings = Sightings::default();
        for n in 0..20_000 {
            sightings.note(seen(n, n.unsigned_abs(), &format!("{n}:{n}:")));
            assert!(sightings.waiting.len() <= CAPACITY);
        }
        let until = sightings.safe_at(Lsn::new(12_345)).unwrap().at;
        assert!(until.unix_micros() <= 12_345 && until.unix_micros() > 11_000);
    }
}
