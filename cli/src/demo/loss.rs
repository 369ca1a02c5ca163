//! What a copy of the latest restorable moment lacks of what was acknowledged.
//!
//! Counted by invoice, not by the highest number: a commit that is missing in
//! the middle is not a tail that was lost, and is counted apart.

use std::collections::BTreeSet;

use holdfast_proto::Timestamp;
use serde::Serialize;

use super::writer::Journal;

/// The end of the timeline, as the writer knows it and as the copy shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// Acknowledged commits that are not in the copy.
    pub commits: usize,
    /// From the last commit that is in the copy to the last one acknowledged.
    pub span_ms: u64,
    /// The last acknowledged commit that is in the copy.
    pub last_restorable: Option<Timestamp>,
    /// The first acknowledged commit that is not.
    pub first_lost: Option<Timestamp>,
    /// The last acknowledged commit.
    pub last_acknowledged: Option<Timestamp>,
    /// Commits that are missing although a later one is there.
    pub holes: usize,
    /// Invoices in the copy that were deleted before its last commit.
    pub undead: usize,
    /// Invoices in the copy whose commit was never acknowledged: at work when
    /// the server died.
    pub unacknowledged: usize,
}

impl Loss {
    /// Holds `copy`, the ids of the invoices in the copy, against the journal.
    pub fn of(journal: &Journal, copy: &BTreeSet<i32>) -> Self {
        let mut loss = Self::default();
        let posted = || journal.all().filter_map(|(id, p)| Some((id, p.committed?)));
        loss.last_acknowledged = posted().map(|(_, at)| at).max();
        loss.last_restorable = posted()
            .filter(|(id, _)| copy.contains(id))
            .map(|(_, at)| at)
            .max();
        for (id, invoice) in journal.all() {
            // Deleted before the copy's last commit; a deletion that the copy
            // does not have is part of the lost tail.
            let gone = invoice.deleted.is_some_and(|at| Some(at) <= loss.last_restorable);
            match (copy.contains(&id), gone) {
                (true, true) => loss.undead += 1,
                (false, false) => {
                    loss.commits += 1;
                    loss.first_lost = earliest(loss.first_lost, invoice.committed);
                    if invoice.committed <= loss.last_restorable {
                        loss.holes += 1;
                    }
                }
                (true, false) | (false, true) => {}
            }
        }
        let known: BTreeSet<i32> = journal.all().map(|(id, _)| id).collect();
        loss.unacknowledged = copy.difference(&known).count();
        // With none of the posted commits restorable, the first of them bounds it.
        let from = loss.last_restorable.or(loss.first_lost);
        loss.span_ms = match (from, loss.last_acknowledged) {
            (Some(from), Some(to)) => to.millis_since(from),
            _ => 0,
        };
        loss
    }
}

fn earliest(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::books::Attachment;
    use super::*;

    fn second(n: i64) -> Timestamp {
        Timestamp::from_unix_micros(n * 1_000_000)
    }

    /// One invoice from the start, and five posted, one each second.
    fn journal() -> Journal {
        let attachment = Attachment {
            store_fname: "aa/aa".into(),
            checksum: "aa".into(),
            size: 1,
        };
        let now = Instant::now();
        let mut journal = Journal::opened(vec![attachment.clone()], now);
        for id in 2..=6 {
            journal.acknowledged(id, attachment.clone(), second(i64::from(id)), now);
        }
        journal
    }

    #[test]
    fn a_lost_tail_is_counted_and_timed_by_commits() {
        let loss = Loss::of(&journal(), &(1..=4).collect());
        assert_eq!((loss.commits, loss.span_ms), (2, 2000));
        assert_eq!(loss.last_restorable, Some(second(4)));
        assert_eq!(loss.first_lost, Some(second(5)));
        assert_eq!(loss.last_acknowledged, Some(second(6)));
        assert_eq!((loss.holes, loss.undead, loss.unacknowledged), (0, 0, 0));
    }

    #[test]
    fn nothing_lost_is_nothing() {
        let loss = Loss::of(&journal(), &(1..=7).collect());
        assert_eq!((loss.commits, loss.span_ms, loss.unacknowledged), (0, 0, 1));
    }

    #[test]
    fn a_hole_is_not_a_tail() {
        for hole in [1, 3] {
            let copy = (1..=6).filter(|id| *id != hole).collect();
            let loss = Loss::of(&journal(), &copy);
            assert_eq!((loss.commits, loss.holes), (1, 1), "{hole}");
        }
    }

    #[test]
    fn deleted_invoices_are_not_lost_and_do_not_come_back() {
        let mut journal = journal();
        journal.deleted(2, second(3));
        assert_eq!(Loss::of(&journal, &[1, 3, 4, 5, 6].into()).commits, 0);
        assert_eq!(Loss::of(&journal, &(1..=6).collect()).undead, 1);
        // The copy ends before the deletion: it is as it was then.
        let early = Loss::of(&journal, &[1, 2].into());
        assert_eq!((early.undead, early.holes, early.commits), (0, 0, 4));
    }

    #[test]
    fn with_no_commit_restorable_the_whole_work_is_lost() {
        let loss = Loss::of(&journal(), &[1].into());
        assert_eq!(
            (loss.commits, loss.span_ms, loss.last_restorable),
            (5, 4000, None)
        );
    }
}
