//! What a copy of the latest restorable moment lacks of what was acknowledged.
//!
//! Counted by invoice, not by the highest number: a commit that is missing in
//! the middle is not a tail that was lost, and is counted apart.

use std::collections::{BTreeMap, BTreeSet};

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
    /// Acknowledged commits that are in the copy without their attachment.
    pub without_attachment: usize,
    /// The last commit up to which every acknowledged one is in the copy, with
    /// its attachment.
    pub last_joint: Option<Timestamp>,
    /// From there to the last acknowledged commit.
    pub joint_span_ms: u64,
}

impl Loss {
    /// Holds `copy` against the journal: the invoices in the copy by id, and
    /// whether the attachment is there too.
    pub fn of(journal: &Journal, copy: &BTreeMap<i32, bool>) -> Self {
        let mut loss = Self::default();
        let posted = || journal.all().filter_map(|(id, p)| Some((id, p.committed?)));
        loss.last_acknowledged = posted().map(|(_, at)| at).max();
        loss.last_restorable = posted()
            .filter(|(id, _)| copy.contains_key(id))
            .map(|(_, at)| at)
            .max();
        // The first commit that lacks anything; one of the start lacking
        // something comes before all.
        let mut incomplete: Option<Option<Timestamp>> = None;
        for (id, invoice) in journal.all() {
            // Deleted before the copy's last commit; a deletion that the copy
            // does not have is part of the lost tail.
            let gone = invoice.deleted.is_some_and(|at| Some(at) <= loss.last_restorable);
            let lacking = match copy.get(&id) {
                Some(true) => false,
                Some(false) | None => !gone,
            };
            if lacking {
                incomplete = Some(incomplete.map_or(invoice.committed, |c| c.min(invoice.committed)));
            }
            match (copy.get(&id), gone) {
                (Some(_), true) => loss.undead += 1,
                (None, false) => {
                    loss.commits += 1;
                    loss.first_lost = earliest(loss.first_lost, invoice.committed);
                    if invoice.committed <= loss.last_restorable {
                        loss.holes += 1;
                    }
                }
                (Some(false), false) => loss.without_attachment += 1,
                (Some(true), false) | (None, true) => {}
            }
        }
        loss.last_joint = posted()
            .map(|(_, at)| at)
            .filter(|at| incomplete.is_none_or(|first| Some(*at) < first))
            .max();
        let known: BTreeSet<i32> = journal.all().map(|(id, _)| id).collect();
        loss.unacknowledged = copy.keys().filter(|id| !known.contains(id)).count();
        // With no commit restorable, the first of all bounds the span.
        let first = posted().map(|(_, at)| at).min();
        let to_the_end = |from: Option<Timestamp>| match (from.or(first), loss.last_acknowledged) {
            (Some(from), Some(to)) => to.millis_since(from),
            _ => 0,
        };
        (loss.span_ms, loss.joint_span_ms) = (to_the_end(loss.last_restorable), to_the_end(loss.last_joint));
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

    /// A copy with these invoices, each with its attachment.
    fn copy(ids: impl IntoIterator<Item = i32>) -> BTreeMap<i32, bool> {
        ids.into_iter().map(|id| (id, true)).collect()
    }

    #[test]
    fn an_attachment_that_is_missing_ends_the_joint_moment_before_it() {
        let mut there = copy(1..=5);
        assert_eq!(Loss::of(&journal(), &there).joint_span_ms, 1000);
        there.insert(4, false);
        let loss = Loss::of(&journal(), &there);
        assert_eq!(
            (loss.commits, loss.span_ms, loss.without_attachment),
            (1, 1000, 1)
        );
        assert_eq!((loss.last_joint, loss.joint_span_ms), (Some(second(3)), 3000));
        // One of the start: no moment of the work is whole.
        there.insert(1, false);
        let loss = Loss::of(&journal(), &there);
        assert_eq!((loss.last_joint, loss.joint_span_ms), (None, 4000));
    }

    #[test]
    fn a_lost_tail_is_counted_and_timed_by_commits() {
        let loss = Loss::of(&journal(), &copy(1..=4));
        assert_eq!((loss.commits, loss.span_ms), (2, 2000));
        assert_eq!(loss.last_restorable, Some(second(4)));
        assert_eq!(loss.first_lost, Some(second(5)));
        assert_eq!(loss.last_acknowledged, Some(second(6)));
        assert_eq!((loss.holes, loss.undead, loss.unacknowledged), (0, 0, 0));
    }

    #[test]
    fn nothing_lost_is_nothing() {
        let loss = Loss::of(&journal(), &copy(1..=7));
        assert_eq!((loss.commits, loss.span_ms, loss.unacknowledged), (0, 0, 1));
    }

    #[test]
    fn a_hole_is_not_a_tail() {
        for hole in [1, 3] {
            let loss = Loss::of(&journal(), &copy((1..=6).filter(|id| *id != hole)));
            assert_eq!((loss.commits, loss.holes), (1, 1), "{hole}");
        }
    }

    #[test]
    fn deleted_invoices_are_not_lost_and_do_not_come_back() {
        let mut journal = journal();
        journal.deleted(2, second(3));
        assert_eq!(Loss::of(&journal, &copy([1, 3, 4, 5, 6])).commits, 0);
        assert_eq!(Loss::of(&journal, &copy(1..=6)).undead, 1);
        // The copy ends before the deletion: it is as it was then.
        let early = Loss::of(&journal, &copy([1, 2]));
        assert_eq!((early.undead, early.holes, early.commits), (0, 0, 4));
    }

    #[test]
    fn with_no_commit_restorable_the_whole_work_is_lost() {
        let loss = Loss::of(&journal(), &copy([1]));
        assert_eq!(
            (loss.commits, loss.span_ms, loss.last_restorable),
            (5, 4000, None)
        );
    }
}
