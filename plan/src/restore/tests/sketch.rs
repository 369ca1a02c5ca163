//! What can be said of a moment without opening any WAL.

use super::holes::with_gap;
use super::*;

#[test]
fn a_moment_within_an_interval_has_its_base() {
    let facts = facts();
    let found = restorable(&facts);
    let way = |second| match sketch(&facts, &found, at(second)) {
        Sketch::Restorable(way) => (way.base.start_lsn, way.replayed_ms),
        other => panic!("{other:?}"),
    };
    assert_eq!(way(4000), (lsn(2000), 2_000_000));
    // A base that was not complete by then does not lead there.
    assert_eq!(way(5050), (lsn(2000), 3_050_000));
    assert_eq!(way(5100), (lsn(5000), 100_000));
}

#[test]
fn what_cannot_be_restored_has_its_neighbours_and_the_hole() {
    let mut facts = with_gap();
    facts.lineages[0].bases.push(base(9, 8400, 8500, 1));
    let found = restorable(&facts);
    let not = |second| match sketch(&facts, &found, at(second)) {
        Sketch::Not { before, after, gap } => (before, after, gap.map(|hole| hole.gap.from)),
        other => panic!("{other:?}"),
    };
    let (before, after, hole) = not(7300);
    assert_eq!((before, hole), (Some(at(6999)), Some(lsn(7000))));
    assert!(after.is_some_and(|after| after >= at(8500)), "{after:?}");
    assert_eq!(not(1000).0, None, "nothing before the first base");
    assert_eq!(not(20_000).1, None);
}

/// The same as the plan's own, which knows where the last record is.
#[test]
fn what_a_restore_would_move_is_told_without_opening_wal() {
    let plan = planned(facts(), &Request::new(Target::Latest)).unwrap();
    assert_eq!(latest_amounts(&facts()), Some(plan.amounts()));
    let mut none = facts();
    none.lineages[0].bases.clear();
    assert_eq!(latest_amounts(&none), None);
}
