//! What holes in the WAL leave, and what is said of them.

use super::*;

pub(super) fn with_gap() -> Facts {
    let mut facts = facts();
    facts.lineages[0].timelines[0].wal = vec![span(0, 7000), span(7500, 9000)];
    facts
}

#[test]
fn a_hole_is_covered_by_a_base_that_was_taken_behind_it() {
    let mut facts = with_gap();
    let again = |facts: &Facts| restorable(facts).gaps[0].again.map(|moment| moment.lsn);
    assert_eq!(again(&facts), None);
    facts.lineages[0].bases.push(base(9, 8400, 8500, 1));
    facts.lineages[0].bases.push(base(10, 8600, 8700, 1));
    assert_eq!(
        again(&facts),
        Some(lsn(8500)),
        "where the first one is consistent"
    );
    facts.lineages[0].bases.truncate(2);
    facts.lineages[0].bases.push(base(9, 7600, 7700, 1));
    assert_eq!(again(&facts), None, "the segment in which it begins is not whole");
}

#[test]
fn a_hole_has_the_cause_that_its_agent_saw() {
    let mut facts = with_gap();
    let cause = |facts: &Facts| restorable(facts).gaps[0].cause.clone();
    assert!(cause(&facts).contains("no agent said why"), "{}", cause(&facts));
    let note = |from, to| GapNote {
        timeline: timeline(1),
        to: lsn(to),
        said: AfterGap {
            from: lsn(from),
            cause: GapCause::SlotInvalidated,
            noticed: at(7600),
        },
    };
    // Of a larger hole, part of which turned up, it still holds; of another it does not.
    facts.lineages[0].gap_notes = vec![note(7000, 8000), note(7100, 7500)];
    assert!(cause(&facts).contains("no agent said why"), "{}", cause(&facts));
    facts.lineages[0].gap_notes.push(note(6900, 7500));
    assert!(
        cause(&facts).contains("invalidated the replication slot"),
        "{}",
        cause(&facts)
    );
    assert!(cause(&facts).contains(&at(7600).to_string()));
    facts.replicas[0].unreachable = Some("no route".into());
    let away = cause(&facts);
    assert!(
        away.contains("did not answer") && away.contains("invalidated"),
        "{away}"
    );
}

#[test]
fn a_hole_is_never_passed_over() {
    assert_eq!(
        planned(with_gap(), &to_time(6900)).unwrap().replay.target_lsn,
        lsn(6910)
    );
    let mut latest = Request::new(Target::Latest);
    let why = refused(planned(with_gap(), &latest));
    let text = why.to_string();
    assert!(
        text.contains(&format!("missing from {} to {}", lsn(7000), lsn(7500))),
        "{text}"
    );
    assert!(text.contains("1.4 MiB of WAL"), "{text}");
    assert_eq!(why.nearest_before.unwrap().time, Some(at(6999)));
    for target in [
        Target::Time(at(7200)),
        Target::Time(at(8000)),
        Target::Lsn(lsn(8000)),
    ] {
        let why = refused(planned(with_gap(), &Request::new(target)));
        assert!(matches!(*why.reason, Reason::Gap { .. }), "{why}");
    }
    latest.allow_gap = true;
    let plan = planned(with_gap(), &latest).unwrap();
    assert_eq!(plan.replay.target_lsn, lsn(6999));
    assert_eq!(plan.accepted_gap.unwrap().from, lsn(7000));
    assert!(plan.warnings.iter().any(|w| w.contains("given up")), "{plan}");

    let mut after = with_gap();
    after.lineages[0].bases.push(base(3, 8600, 8700, 1));
    let plan = planned(after.clone(), &Request::new(Target::Latest)).unwrap();
    assert_eq!(
        plan.base.stop_lsn,
        lsn(8700),
        "a base behind the hole needs nothing before it"
    );
    let why = refused(planned(after, &to_time(7200)));
    assert_eq!(why.nearest_after.unwrap().time, Some(at(8700)));
}

/// What an agent said before the hole stands: until then nothing more was committed.
#[test]
fn the_quiet_time_in_front_of_a_hole_can_be_restored() {
    let mut facts = with_gap();
    let said = |on, acknowledged, until| Attestation {
        timeline: timeline(on),
        at: at(until + 5),
        heard: at(until),
        complete_until: Some(at(until)),
        server_flush: lsn(acknowledged),
        acknowledged: lsn(acknowledged),
        filestores: vec![],
    };
    facts.lineages[0].attested = vec![said(1, 7000, 7300), said(1, 9000, 9400)];
    let plan = planned(facts.clone(), &to_time(7200)).unwrap();
    assert_eq!(plan.replay.target_lsn, lsn(6999));
    assert_eq!(plan.accepted_gap, None);
    let late = refused(planned(facts.clone(), &to_time(7350)));
    assert!(matches!(*late.reason, Reason::Gap { .. }), "{late}");
    let shown = restorable(&facts);
    assert_eq!(
        (shown.intervals[0].to.time, shown.intervals[0].attested),
        (Some(at(7300)), true)
    );

    // The hole may lie in the history of a later timeline.
    facts.lineages[0].timelines.push(TimelineFacts {
        timeline: timeline(2),
        ancestors: Some(vec![TimelineSwitch {
            timeline: timeline(1),
            end: lsn(8000),
        }]),
        wal: vec![span(8000, 12_000)],
    });
    assert!(planned(facts.clone(), &to_time(7200)).is_ok());
    // An old primary to which nobody writes says nothing of its successor.
    facts.lineages[0].timelines[1].wal = vec![span(7400, 8300)];
    facts.lineages[0].attested = vec![said(1, 7900, 9900)];
    facts.lineages[0].timelines[0].wal = vec![span(0, 9000)];
    assert!(planned(facts, &to_time(9500)).is_err());
}

/// What is offered instead lies on the way that was asked for.
#[test]
fn an_abandoned_branch_is_not_offered_as_the_nearest() {
    let mut facts = facts();
    facts.lineages[0].timelines.push(TimelineFacts {
        timeline: timeline(2),
        ancestors: Some(vec![TimelineSwitch {
            timeline: timeline(1),
            end: lsn(6000),
        }]),
        wal: vec![span(6000, 7500)],
    });
    let late = refused(planned(facts.clone(), &to_time(9500)));
    let nearest = late.nearest_before.unwrap();
    assert_eq!((nearest.timeline, nearest.lsn), (timeline(2), lsn(7500)));
    let mut old = to_time(9500);
    old.timeline = TimelineChoice::Id(timeline(1));
    let late = refused(planned(facts, &old));
    assert_eq!(late.nearest_before.unwrap().lsn, lsn(9000));
}
