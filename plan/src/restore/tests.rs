use std::collections::BTreeSet;

use proptest::prelude::*;

use holdfast_proto::envelope::Link;
use holdfast_proto::names::{BackupId, Lineage, ObjectKey, PointId, Region, RepositoryId};
use holdfast_proto::pg::{Lsn, SegmentSize, TimelineId, TimelineSwitch};
use holdfast_proto::record::{
    AfterGap, CommitMark, GapCause, JointClaim, JournalKind, PointFilestore, RestorePointMark, Totals,
};
use holdfast_proto::{Sha256Digest, Timestamp};

use super::*;

mod holes;
mod sketch;

const SEGMENT: u64 = 1 << 20;

/// Time and position in these tests are one number: second `n` is LSN `n` × 1000.
fn at(second: u64) -> Timestamp {
    Timestamp::from_unix_micros(1_700_000_000_000_000).plus_millis(i64::try_from(second).unwrap() * 1000)
}

fn lsn(second: u64) -> Lsn {
    Lsn::new(second * 1000)
}

fn link(text: &str) -> Link {
    Link {
        key: ObjectKey::from_layout(text.to_owned()),
        sha256: Sha256Digest::of(text.as_bytes()),
    }
}

fn timeline(n: u32) -> TimelineId {
    TimelineId::new(n).unwrap()
}

fn lineage(generation: u32) -> Lineage {
    format!("7000000000000000001-{generation}").parse().unwrap()
}

fn region(name: &str) -> Region {
    name.parse().unwrap()
}

fn base(id: u64, start: u64, stop: u64, on: u32) -> BaseFact {
    BaseFact {
        id: BackupId::from_parts(at(start), u128::from(id)),
        link: link(&format!("base {id}")),
        timeline: timeline(on),
        start_lsn: lsn(start),
        stop_lsn: lsn(stop),
        started: at(start),
        stopped: at(stop),
        version_num: 150_020,
        segment_size: SegmentSize::new(SEGMENT).unwrap(),
        kind: None,
        pages_bad: 0,
        tablespaces: Vec::new(),
        totals: Totals {
            entries: 10,
            bytes: 1 << 30,
            stored: 1 << 28,
            to_read: 1 << 28,
        },
        present_on: vec![region("north")],
    }
}

fn span(start: u64, end: u64) -> WalSpan {
    WalSpan {
        start: lsn(start),
        end: lsn(end),
        stored: (end - start) * 100,
        early_commit: Some(at(start + 1)),
        last_commit: Some(at(end - 1)),
    }
}

/// One lineage on one timeline: bases at 2000..2100 and 5000..5100, WAL from 0 to 9000.
fn facts() -> Facts {
    Facts {
        repository: RepositoryId::from_parts(at(0), 1),
        cluster: "acme/erp".parse().unwrap(),
        replicas: ["north", "south"]
            .map(|r| ReplicaFact {
                region: region(r),
                unreachable: None,
            })
            .into(),
        lineages: vec![LineageFacts {
            lineage: lineage(1),
            timelines: vec![TimelineFacts {
                timeline: timeline(1),
                ancestors: Some(Vec::new()),
                wal: vec![span(0, 9000)],
            }],
            bases: vec![base(1, 2000, 2100, 1), base(2, 5000, 5100, 1)],
            points: Vec::new(),
            attested: Vec::new(),
            gap_notes: Vec::new(),
        }],
        filestores: Vec::new(),
        bundles: Vec::new(),
        located: Vec::new(),
    }
}

/// Looks for the target from each candidate as the agent does, in a log with a
/// commit at every tenth second.
fn locate(facts: &mut Facts, request: &Request) {
    for candidate in candidates(facts, request).unwrap_or_default() {
        let mark = |second: u64| CommitMark {
            lsn: lsn(second),
            time: at(second),
        };
        let until = candidate.until.get() / 1000;
        let end = Place::End {
            last_record: lsn(until - 1),
            last: Some(mark((until - 1) / 10 * 10)),
        };
        let place = match &request.target {
            Target::Time(t) => {
                let second = u64::try_from(t.unix_micros() - at(0).unix_micros()).unwrap() / 1_000_000;
                let next = (second / 10 + 1) * 10;
                let next = next.max((candidate.start_lsn.get() / 1000).div_ceil(10) * 10);
                if next < until {
                    Place::Before {
                        stop: mark(next),
                        last: Some(mark(next - 10)),
                    }
                } else {
                    end
                }
            }
            Target::Name(name) => match name.strip_prefix("at-").and_then(|n| n.parse::<u64>().ok()) {
                Some(n) => Place::Behind {
                    lsn: lsn(n),
                    end: lsn(n + 1),
                    time: at(n),
                    last: None,
                    next: Some(mark((n / 10 + 1) * 10)),
                },
                None if name == "twice" => {
                    let place = |n| RestorePointMark {
                        name: name.clone(),
                        lsn: lsn(n),
                        end: lsn(n + 1),
                        time: at(n),
                    };
                    Place::Several {
                        places: vec![place(6000), place(7000)],
                    }
                }
                None => Place::Nowhere { known: Vec::new() },
            },
            Target::Lsn(target) if target.get() / 1000 < until - 1 => {
                let second = target.get() / 1000;
                Place::Within {
                    last: Some(mark(second / 10 * 10)),
                    next: Some(mark((second / 10 + 1) * 10)).filter(|next| next.lsn < candidate.until),
                }
            }
            _ => end,
        };
        let usable = candidate.leads_to(&place);
        facts.located.push(Located {
            lineage: candidate.lineage,
            timeline: candidate.path.timeline,
            base: candidate.base,
            place,
        });
        if usable {
            return;
        }
    }
}

fn planned(mut facts: Facts, request: &Request) -> Result<RestorePlan, Impossible> {
    locate(&mut facts, request);
    plan(&facts, request, at(20_000))
}

fn to_time(second: u64) -> Request {
    Request::new(Target::Time(at(second)))
}

fn refused(result: Result<RestorePlan, Impossible>) -> Impossible {
    match result {
        Err(why) => why,
        Ok(plan) => panic!("expected a refusal, got\n{plan}"),
    }
}

/// A server that was never followed may have left the history of its timeline.
#[test]
fn a_history_alone_leads_nowhere() {
    let mut forked = facts();
    let fork = TimelineSwitch {
        timeline: timeline(1),
        end: lsn(6000),
    };
    forked.lineages[0].timelines.push(TimelineFacts {
        timeline: timeline(2),
        ancestors: Some(vec![fork]),
        wal: Vec::new(),
    });
    let plan = planned(forked.clone(), &Request::new(Target::Latest)).unwrap();
    assert_eq!(plan.replay.timeline, timeline(1));
    assert_eq!(plan.replay.target_lsn, lsn(8999));
    // With WAL of its own it is the cluster's present, and what the other
    // timeline has beyond the fork is said.
    forked.lineages[0].timelines[1].wal = vec![span(6000, 7000)];
    let plan = planned(forked, &Request::new(Target::Latest)).unwrap();
    assert_eq!(plan.replay.timeline, timeline(2));
    assert!(
        plan.warnings
            .iter()
            .any(|w| w.contains("--timeline 1 restores along it")),
        "{:?}",
        plan.warnings
    );
}

/// Every kind of target says what it leaves out.
#[test]
fn what_is_left_out_is_named() {
    for (target, left_out) in [
        (Target::Lsn(lsn(6005)), Some(at(6010))),
        (Target::Name("at-6005".into()), Some(at(6010))),
        (Target::Latest, None),
    ] {
        let plan = planned(facts(), &Request::new(target.clone())).unwrap();
        assert_eq!(plan.replay.first_left_out.map(|c| c.time), left_out, "{target}");
        let says = plan.to_string().contains("leaves    nothing that is known");
        assert_eq!(says, left_out.is_none(), "{plan}");
    }
}

#[test]
fn a_moment_becomes_a_position() {
    let plan = planned(facts(), &to_time(6005)).unwrap();
    assert_eq!(plan.base.stop_lsn, lsn(5100));
    assert_eq!(
        (plan.replay.target_lsn, plan.replay.inclusive),
        (lsn(6010), false)
    );
    assert_eq!(plan.replay.last_commit.unwrap().time, at(6000));
    assert_eq!(plan.replay.first_left_out.unwrap().time, at(6010));
    assert_eq!(
        plan.replay.from.get() % SEGMENT,
        0,
        "recovery opens whole segments"
    );
    let text = plan.to_string();
    assert!(text.contains("in front of the record at"), "{text}");
    assert!(text.contains("least WAL to replay"), "{text}");
    // Between start and stop of the second base, only the first one serves.
    assert_eq!(planned(facts(), &to_time(5050)).unwrap().base.stop_lsn, lsn(2100));
}

#[test]
fn the_other_targets() {
    let latest = planned(facts(), &Request::new(Target::Latest)).unwrap();
    assert_eq!(
        (latest.replay.target_lsn, latest.replay.inclusive),
        (lsn(8999), true)
    );
    let by_lsn = planned(facts(), &Request::new(Target::Lsn(lsn(7000)))).unwrap();
    assert_eq!(
        (by_lsn.replay.target_lsn, by_lsn.replay.inclusive),
        (lsn(7000), true)
    );
    let mut exclusive = Request::new(Target::Lsn(lsn(7000)));
    exclusive.exclusive = true;
    assert!(!planned(facts(), &exclusive).unwrap().replay.inclusive);
    let named = planned(facts(), &Request::new(Target::Name("at-3000".into()))).unwrap();
    assert_eq!(
        (named.base.stop_lsn, named.replay.target_lsn),
        (lsn(2100), lsn(3000))
    );
    let several = refused(planned(facts(), &Request::new(Target::Name("twice".into()))));
    assert!(several.to_string().contains("occurs 2 times"), "{several}");
    let nowhere = refused(planned(facts(), &Request::new(Target::Name("never".into()))));
    assert!(matches!(*nowhere.reason, Reason::Nowhere { .. }), "{nowhere}");
    let early = refused(planned(facts(), &Request::new(Target::Name("at-1000".into()))));
    assert!(matches!(*early.reason, Reason::BeforeBases { .. }), "{early}");
    assert_eq!(early.nearest_after.unwrap().lsn, lsn(2100));
}

#[test]
fn before_the_first_and_behind_the_last() {
    let early = refused(planned(facts(), &to_time(2050)));
    assert!(matches!(*early.reason, Reason::BeforeFirst { .. }), "{early}");
    assert_eq!(early.nearest_after.unwrap().time, Some(at(2100)));
    let late = refused(planned(facts(), &to_time(9500)));
    assert!(matches!(*late.reason, Reason::AfterLast { .. }), "{late}");
    assert_eq!(late.nearest_before.unwrap().time, Some(at(8999)));
    assert!(matches!(
        *refused(planned(facts(), &to_time(20_001))).reason,
        Reason::InFuture { .. }
    ));
    assert!(matches!(
        *refused(planned(facts(), &Request::new(Target::Lsn(lsn(9001))))).reason,
        Reason::BeyondEnd { .. }
    ));

    // An idle server is as restorable as a busy one when its agent says so.
    let mut idle = facts();
    idle.lineages[0].attested = vec![Attestation {
        timeline: timeline(1),
        at: at(9900),
        heard: at(9600),
        complete_until: Some(at(9600)),
        server_flush: lsn(9000),
        acknowledged: lsn(9000),
        filestores: vec![],
    }];
    let plan = planned(idle.clone(), &to_time(9500)).unwrap();
    assert_eq!(plan.replay.target_lsn, lsn(8999));
    assert!(plan.reasons.iter().any(|r| r.contains("attested")), "{plan}");
    assert!(
        planned(idle.clone(), &to_time(9700)).is_err(),
        "an agent that did not reach its server since knows nothing of it"
    );
    idle.lineages[0].attested[0].acknowledged = lsn(9500);
    assert!(
        planned(idle.clone(), &to_time(9500)).is_err(),
        "what it lies before is not there"
    );
    idle.lineages[0].attested[0].acknowledged = lsn(9000);
    idle.lineages[0].attested[0].complete_until = None;
    assert!(planned(idle, &to_time(9500)).is_err(), "nothing was seen");
}

#[test]
fn what_only_an_unreachable_replica_may_hold_is_given_up_by_name() {
    let mut facts = facts();
    facts.replicas[1].unreachable = Some("connection refused".into());
    let mut latest = Request::new(Target::Latest);
    let why = refused(planned(facts.clone(), &latest));
    assert!(why.to_string().contains("--accept-unreachable south"), "{why}");
    latest.accept_unreachable = BTreeSet::from([region("south"), region("north")]);
    let plan = planned(facts.clone(), &latest).unwrap();
    assert_eq!(plan.accepted_unreachable, [region("south")]);
    assert!(
        planned(facts, &to_time(6000)).is_ok(),
        "a moment that is known needs no leave"
    );
}

#[test]
fn timelines_and_lineages() {
    let mut facts = facts();
    facts.lineages[0].timelines.push(TimelineFacts {
        timeline: timeline(2),
        ancestors: Some(vec![TimelineSwitch {
            timeline: timeline(1),
            end: lsn(6000),
        }]),
        wal: vec![span(6000, 12_000)],
    });
    let newest = planned(facts.clone(), &to_time(11_000)).unwrap();
    assert_eq!(
        (newest.replay.timeline, newest.base.stop_lsn),
        (timeline(2), lsn(5100))
    );
    assert_eq!(newest.replay.stretches[0].end, Some(lsn(6000)));
    let mut old = to_time(8000);
    old.timeline = TimelineChoice::Id(timeline(1));
    assert_eq!(planned(facts.clone(), &old).unwrap().replay.timeline, timeline(1));
    old.timeline = TimelineChoice::Id(timeline(3));
    assert!(matches!(
        *refused(planned(facts.clone(), &old)).reason,
        Reason::NoSuchTimeline { .. }
    ));

    // Up to where they part both have the same; behind it the other's own is named.
    facts.lineages[0].timelines[0].wal = vec![span(0, 9000)];
    let other = |to| {
        let plan = planned(facts.clone(), &to_time(to)).unwrap();
        plan.warnings.iter().any(|w| w.contains("--timeline 1"))
    };
    assert!(other(11_000) && !other(5500));

    // A base behind the switch on the old timeline is no base for the new one.
    facts.lineages[0].bases.push(base(3, 7000, 7100, 1));
    assert_eq!(
        planned(facts.clone(), &to_time(11_000)).unwrap().base.stop_lsn,
        lsn(5100)
    );
    facts.lineages[0].timelines[1].ancestors = None;
    assert!(matches!(
        *refused(planned(facts.clone(), &to_time(11_000))).reason,
        Reason::NoHistory { .. }
    ));

    let mut second = facts.lineages[0].clone();
    second.lineage = lineage(2);
    second.timelines.truncate(1);
    second.bases = vec![base(9, 8000, 8050, 1)];
    facts.lineages.push(second);
    assert_eq!(
        planned(facts.clone(), &to_time(8500)).unwrap().lineage,
        lineage(2)
    );
    let mut before = to_time(6500);
    before.timeline = TimelineChoice::Id(timeline(1));
    assert_eq!(planned(facts.clone(), &before).unwrap().lineage, lineage(1));
    before.lineage = Some(lineage(3));
    assert!(matches!(
        *refused(planned(facts, &before)).reason,
        Reason::NoSuchLineage { .. }
    ));
}

#[test]
fn a_base_without_its_wal_is_passed_over_and_named() {
    let mut facts = facts();
    facts.lineages[0].timelines[0].wal = vec![span(0, 5050), span(5080, 9000)];
    let shown = restorable(&facts);
    assert_eq!(shown.intervals.len(), 1);
    assert_eq!((shown.broken.len(), shown.gaps.len()), (1, 1));
    assert!(shown.broken[0].why.contains("before it") || shown.broken[0].why.contains("consistent"));
    assert!(planned(facts.clone(), &to_time(3000)).is_ok());
    let mut one = to_time(8000);
    one.base = Some(facts.lineages[0].bases[1].id);
    let why = refused(planned(facts, &one));
    assert!(matches!(*why.reason, Reason::BadBase { .. }), "{why}");
}

fn entry(n: u64, checkpoint: u64) -> JournalFact {
    JournalFact {
        n,
        link: link(&format!("journal {n}")),
        entry: if n == checkpoint {
            JournalKind::Checkpoint
        } else {
            JournalKind::Delta
        },
        checkpoint,
        adapter: "odoo".into(),
        scanned_from: at(n * 100),
        scanned_until: at(n * 100 + 5),
        files: 100 + n,
        bytes: 1000 * n,
        dirty: 0,
        totals: Totals {
            entries: 5,
            bytes: 50,
            stored: 40,
            to_read: 60,
        },
    }
}

fn point(n: u64, second: u64, claim: JointClaim) -> PointFact {
    PointFact {
        id: PointId::from_parts(at(second), u128::from(n)),
        link: link(&format!("point {n}")),
        name: format!("holdfast-{n}"),
        timeline: timeline(1),
        lsn: lsn(second),
        at: at(second),
        filestores: vec![PointFilestore {
            filestore: "files".parse().unwrap(),
            n,
            entry: link(&format!("journal {n}")),
            claim,
            because: "no collection ran".into(),
        }],
        config: None,
        referenced: false,
    }
}

#[test]
fn files_come_from_the_points_on_either_side() {
    let mut facts = facts();
    facts.filestores = vec![FilestoreFacts {
        filestore: "files".parse().unwrap(),
        entries: [(1, 1), (2, 1), (3, 1), (4, 4), (5, 4)]
            .map(|(n, c)| entry(n, c))
            .into(),
    }];
    facts.lineages[0].points = vec![
        point(2, 6000, JointClaim::SincePrevious),
        point(3, 7000, JointClaim::SincePrevious),
        point(5, 8000, JointClaim::PointOnly),
    ];
    let files = |request: &Request| planned(facts.clone(), request).map(|mut p| p.filestores.remove(0));
    let numbers = |f: &FilestorePlan| f.entries.iter().map(|e| e.n).collect::<Vec<_>>();

    let between = files(&to_time(6505)).unwrap();
    assert_eq!((between.state_at, between.additions_until), (Some(2), 3));
    assert_eq!(between.claim, Some(JointClaim::SincePrevious));
    assert_eq!(numbers(&between), [1, 2, 3]);

    let unproven = files(&to_time(7505)).unwrap();
    assert_eq!(
        (unproven.state_at, unproven.additions_until, unproven.claim),
        (Some(3), 5, None)
    );
    assert_eq!(numbers(&unproven), [1, 2, 3, 4, 5]);

    let exact = files(&Request::new(Target::Name("at-6999".into()))).unwrap();
    assert_eq!(
        (exact.state_at, exact.additions_until),
        (Some(3), 3),
        "the record ends at the point"
    );
    assert_eq!(exact.claim, Some(JointClaim::SincePrevious));

    let first = files(&to_time(5505)).unwrap();
    assert_eq!(
        (first.state_at, first.additions_until, first.claim),
        (None, 2, None)
    );
    let latest = files(&Request::new(Target::Latest)).unwrap();
    assert_eq!((latest.state_at, latest.additions_until), (Some(5), 5));
    assert_eq!(numbers(&latest), [4, 5]);

    let mut without = to_time(6505);
    without.filestores = FilestoreChoice::None;
    assert!(planned(facts.clone(), &without).unwrap().filestores.is_empty());
    without.filestores = FilestoreChoice::Only(BTreeSet::from(["others".parse().unwrap()]));
    assert!(matches!(
        *refused(planned(facts.clone(), &without)).reason,
        Reason::NoSuchFilestore { .. }
    ));
    facts.filestores[0].entries.remove(1);
    assert!(matches!(
        *refused(planned(facts, &to_time(6505))).reason,
        Reason::NoJournalEntry { n: 2, .. }
    ));
}

#[test]
fn empty_facts_are_a_refusal() {
    let mut facts = facts();
    facts.lineages.clear();
    for target in [
        Target::Latest,
        Target::Time(at(5)),
        Target::Lsn(lsn(5)),
        Target::Xid(9),
    ] {
        let why = refused(planned(facts.clone(), &Request::new(target)));
        assert!(matches!(*why.reason, Reason::NoBase { .. }), "{why}");
    }
    assert_eq!(restorable(&facts), Restorable::default());
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let bases = proptest::collection::vec((0u64..8000, 1u64..500, 1u32..3), 0..5);
    let wal = proptest::collection::vec((0u64..9000, 10u64..4000), 0..6);
    let second = proptest::option::of((
        1000u64..8000,
        proptest::collection::vec((1000u64..9000, 10u64..4000), 0..3),
    ));
    (bases, wal, second, any::<bool>()).prop_map(|(bases, wal, second, away)| {
        let mut facts = facts();
        if away {
            facts.replicas[0].unreachable = Some("away".into());
        }
        let l = &mut facts.lineages[0];
        let spans = |wal: Vec<(u64, u64)>| merge(wal.into_iter().map(|(s, n)| span(s, s + n)).collect());
        l.timelines[0].wal = spans(wal);
        if let Some((switch, wal)) = second {
            l.timelines.push(TimelineFacts {
                timeline: timeline(2),
                ancestors: Some(vec![TimelineSwitch {
                    timeline: timeline(1),
                    end: lsn(switch),
                }]),
                wal: spans(wal),
            });
        }
        l.bases = (1u64..)
            .zip(bases)
            .map(|(id, (start, length, on))| base(id, start, start + length, on))
            .collect();
        facts
    })
}

fn any_request() -> impl Strategy<Value = Request> {
    let target = prop_oneof![
        (0u64..12_000).prop_map(|s| Target::Time(at(s))),
        (0u64..12_000).prop_map(|s| Target::Lsn(lsn(s))),
        (0u64..12_000).prop_map(|s| Target::Name(format!("at-{s}"))),
        Just(Target::Latest),
    ];
    (target, any::<bool>(), any::<bool>()).prop_map(|(target, gap, away)| {
        let mut request = Request::new(target);
        request.allow_gap = gap;
        if away {
            request.accept_unreachable.insert(region("north"));
        }
        request
    })
}

proptest! {
    #[test]
    fn plans_are_sound(facts in any_facts(), request in any_request()) {
        let result = planned(facts.clone(), &request);
        prop_assert_eq!(&result, &planned(facts.clone(), &request), "deterministic");
        let Ok(plan) = result else { return Ok(()) };
        let reach = match request.target {
            Target::Time(t) => {
                prop_assert!(plan.base.stopped <= t);
                plan.replay.frontier
            }
            _ if plan.replay.inclusive => plan.replay.frontier,
            _ => plan.replay.target_lsn,
        };
        prop_assert!(plan.base.stop_lsn <= reach);
        if let Some(left_out) = plan.replay.first_left_out {
            prop_assert!(plan.base.stop_lsn <= left_out.lsn);
        }
        // No byte between the beginning and the target is missing.
        let lineage = facts.lineage(plan.lineage).unwrap();
        let path = Path::to(lineage, plan.replay.timeline).unwrap();
        let run = path.covering(plan.replay.from).unwrap();
        prop_assert!(run.end >= plan.replay.target_lsn && run.end == plan.replay.frontier);
        prop_assert!(path.contains(plan.base.timeline, plan.base.stop_lsn));
        prop_assert!(plan.accepted_gap.is_none() || request.allow_gap);
        let away = facts.unreachable().count() > 0;
        if request.target == Target::Latest && away {
            prop_assert!(!plan.accepted_unreachable.is_empty());
        }
        prop_assert_eq!(&toml::from_str::<Wrapped>(&toml::to_string(&Wrapped { plan: plan.clone() }).unwrap()).unwrap().plan, &plan);
    }

    #[test]
    fn the_order_of_facts_does_not_matter(facts in any_facts(), request in any_request()) {
        let mut turned = facts.clone();
        for lineage in &mut turned.lineages {
            lineage.bases.reverse();
            lineage.points.reverse();
        }
        prop_assert_eq!(planned(facts, &request), planned(turned, &request));
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Wrapped {
    plan: RestorePlan,
}
