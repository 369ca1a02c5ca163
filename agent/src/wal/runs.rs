//! Which WAL a replica holds: intervals joined into runs.
//!
//! Pure arithmetic over half-open intervals of one timeline. Intervals may
//! overlap, because an upload whose answer was lost is repeated with other
//! borders; WAL at the same position of the same timeline is the same bytes, so
//! an overlap says nothing new.

use holdfast_proto::pg::Lsn;

/// Disjoint, ascending, non-empty intervals `[start, end)` that do not touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runs(Vec<(Lsn, Lsn)>);

impl Runs {
    /// Adds an interval and joins it with what it overlaps or touches. An empty
    /// one changes nothing.
    pub fn add(&mut self, start: Lsn, end: Lsn) {
        if start >= end {
            return;
        }
        let first = self.0.partition_point(|run| run.1 < start);
        let last = self.0.partition_point(|run| run.0 <= end);
        let (mut start, mut end) = (start, end);
        if first < last {
            start = start.min(self.0[first].0);
            end = end.max(self.0[last - 1].1);
        }
        self.0.splice(first..last, [(start, end)]);
    }

    /// Adds all of `other`.
    pub fn add_all(&mut self, other: &Runs) {
        for (start, end) in &other.0 {
            self.add(*start, *end);
        }
    }

    /// The runs, ascending.
    pub fn as_slice(&self) -> &[(Lsn, Lsn)] {
        &self.0
    }

    /// The run that reaches furthest.
    pub fn last(&self) -> Option<(Lsn, Lsn)> {
        self.0.last().copied()
    }

    /// How far the WAL reaches from `anchor` without a hole; `None` when the
    /// byte at `anchor` is missing.
    pub fn reach(&self, anchor: Lsn) -> Option<Lsn> {
        let at = self.0.partition_point(|run| run.0 <= anchor).checked_sub(1)?;
        let (_, end) = self.0[at];
        (anchor < end).then_some(end)
    }

    /// What `self` has and `other` lacks.
    pub fn without(&self, other: &Runs) -> Runs {
        let mut missing = Vec::new();
        for (start, end) in &self.0 {
            let mut at = *start;
            let from = other.0.partition_point(|run| run.1 <= at);
            for (have_start, have_end) in &other.0[from..] {
                if have_start >= end {
                    break;
                }
                if at < *have_start {
                    missing.push((at, *have_start));
                }
                at = at.max(*have_end);
            }
            if at < *end {
                missing.push((at, *end));
            }
        }
        Runs(missing)
    }
}

impl FromIterator<(Lsn, Lsn)> for Runs {
    fn from_iter<I: IntoIterator<Item = (Lsn, Lsn)>>(intervals: I) -> Self {
        let mut runs = Runs::default();
        for (start, end) in intervals {
            runs.add(start, end);
        }
        runs
    }
}

/// The k-th highest of the replicas' frontiers: what at least `copies` of them
/// hold. `None` when fewer than `copies` hold anything, and for `copies` zero.
pub fn acknowledged(frontiers: impl IntoIterator<Item = Option<Lsn>>, copies: usize) -> Option<Lsn> {
    let mut known: Vec<Lsn> = frontiers.into_iter().flatten().collect();
    known.sort_unstable_by(|a, b| b.cmp(a));
    known.get(copies.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn runs(intervals: &[(u64, u64)]) -> Runs {
        intervals
            .iter()
            .map(|(a, b)| (Lsn::new(*a), Lsn::new(*b)))
            .collect()
    }

    #[test]
    fn the_frontier_stops_at_a_hole() {
        let held = runs(&[(10, 20), (20, 25), (24, 30), (40, 50)]);
        assert_eq!(held.reach(Lsn::new(10)), Some(Lsn::new(30)));
        assert_eq!(held.reach(Lsn::new(29)), Some(Lsn::new(30)));
        assert_eq!(held.reach(Lsn::new(30)), None);
        assert_eq!(held.reach(Lsn::new(5)), None);
        assert_eq!(held.last(), Some((Lsn::new(40), Lsn::new(50))));
        assert_eq!(held.without(&runs(&[(15, 45)])), runs(&[(10, 15), (45, 50)]));
    }

    #[test]
    fn acknowledged_is_what_enough_replicas_hold() {
        let at = |lsn| Some(Lsn::new(lsn));
        assert_eq!(acknowledged([at(5), at(9), None], 1), at(9));
        assert_eq!(acknowledged([at(5), at(9), None], 2), at(5));
        assert_eq!(acknowledged([at(5), at(9), None], 3), None);
        assert_eq!(acknowledged([at(5)], 0), None);
    }

    proptest! {
        #[test]
        fn agrees_with_sets_of_bytes(
            a in proptest::collection::vec((0u64..60, 0u64..12), 0..12),
            b in proptest::collection::vec((0u64..60, 0u64..12), 0..12),
            anchor in 0u64..70,
        ) {
            let bytes = |v: &[(u64, u64)]| -> BTreeSet<u64> { v.iter().flat_map(|(s, l)| *s..s + l).collect() };
            let make = |v: &[(u64, u64)]| -> Runs { v.iter().map(|(s, l)| (Lsn::new(*s), Lsn::new(s + l))).collect() };
            let flat = |r: &Runs| -> BTreeSet<u64> { r.0.iter().flat_map(|(s, e)| s.get()..e.get()).collect() };
            let (left, right) = (make(&a), make(&b));
            prop_assert_eq!(flat(&left), bytes(&a));
            prop_assert!(left.0.windows(2).all(|w| w[0].1 < w[1].0));
            prop_assert_eq!(flat(&left.without(&right)), bytes(&a).difference(&bytes(&b)).copied().collect::<BTreeSet<_>>());
            let mut both = left.clone();
            both.add_all(&right);
            prop_assert_eq!(flat(&both), bytes(&a).union(&bytes(&b)).copied().collect::<BTreeSet<_>>());
            let reach = (anchor..).find(|at| !bytes(&a).contains(at)).filter(|at| *at > anchor);
            prop_assert_eq!(left.reach(Lsn::new(anchor)), reach.map(Lsn::new));
        }
    }
}
