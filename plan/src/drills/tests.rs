use proptest::prelude::*;

use super::*;

const DAY: i64 = 86_400_000;

/// A whole number of slots of thirty days after 1970.
fn day(n: i64) -> Timestamp {
    Timestamp::from_unix_micros(30 * 700 * DAY * 1000).plus_millis(n * DAY)
}

fn policy(clusters: &[&str], more: &str) -> Policy {
    let mut text = format!(
        "[drills]\nwindow = \"30d\"\nper_day = 1\n\n[tiers.lab]\nlike = \"bronze\"\n\n[[tiers.lab.drill]]\n\
         scenario = \"accidental-deletion\"\nlevel = \"L3\"\nevery = \"30d\"\n{more}"
    );
    for cluster in clusters {
        text.push_str(&format!(
            "\n[[cluster]]\ncluster = \"{cluster}\"\ntier = \"lab\"\n"
        ));
    }
    Policy::parse(&text, "p").unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn replica(name: &str) -> Aspect {
    Aspect::Replica(name.parse().unwrap())
}

fn facts(cluster: &str, aspects: &[Aspect]) -> ClusterFacts {
    ClusterFacts {
        restorable_since: Some(day(0)),
        aspects: aspects.iter().map(|a| (a.clone(), day(0))).collect(),
        circumstances: now_runs(17, "0.2.0"),
        ..ClusterFacts::nothing(cluster.parse().unwrap())
    }
}

fn now_runs(major: u32, program: &str) -> Circumstances {
    Circumstances {
        major: Some(major),
        policy: None,
        program: Some(program.to_owned()),
    }
}

fn proof(at: Timestamp, aspects: &[Aspect]) -> Proof {
    Proof {
        at,
        scenario: "accidental-deletion".parse().unwrap(),
        level: "L3".parse().unwrap(),
        aspects: aspects.iter().cloned().collect(),
        circumstances: now_runs(17, "0.2.0"),
    }
}

fn words(wanted: &Wanted) -> String {
    let reasons: Vec<String> = wanted.reasons.iter().map(Reason::to_string).collect();
    reasons.join("; ")
}

#[test]
fn what_was_never_proven_is_wanted_now() {
    let (policy, a) = (policy(&["acme/erp"], ""), replica("west"));
    let plan = plan(&[facts("acme/erp", std::slice::from_ref(&a))], &policy, day(1));
    assert_eq!(plan.len(), 2);
    assert!(plan.iter().all(Wanted::is_due), "{plan:#?}");
    let aimed = plan.iter().find(|w| w.aim == Some(a.clone())).unwrap();
    assert!(aimed.on_change && words(aimed).contains("the replica in west was never restored from"));
    let slot = plan.iter().find(|w| w.aim.is_none()).unwrap();
    assert!(
        !slot.on_change && words(slot).contains("never proven"),
        "{slot:#?}"
    );
}

#[test]
fn what_was_proven_waits_for_its_time() {
    let (policy, a) = (policy(&["acme/erp"], ""), replica("west"));
    let mut known = facts("acme/erp", std::slice::from_ref(&a));
    known.proofs.push(proof(day(1), std::slice::from_ref(&a)));
    let early = plan(&[known.clone()], &policy, day(3));
    assert!(early.iter().all(|w| !w.is_due() && !w.on_change), "{early:#?}");
    let of = |plan: &[Wanted], aim: Option<Aspect>| plan.iter().find(|w| w.aim == aim).unwrap().clone();
    assert_eq!(of(&early, None).when, When::From(day(30)));
    assert_eq!(of(&early, None).deadline, day(60));
    assert_eq!(of(&early, Some(a.clone())).when, When::From(day(16)));
    assert_eq!(of(&early, Some(a.clone())).deadline, day(31));
    assert!(of(&plan(&[known.clone()], &policy, day(17)), Some(a.clone())).is_due());
    // One drill a day, two deadlines: the day before the earlier one presses.
    assert_eq!(
        of(&plan(&[known], &policy, day(30)), Some(a)).when,
        When::Pressing
    );
}

/// Each change voids what was proven, and says so.
#[test]
fn a_tier_whose_drills_restore_nothing_asks_for_no_restore() {
    let text = "[tiers.lab]\nlike = \"bronze\"\n\n[[tiers.lab.drill]]\nscenario = \"verify-backup\"\n\
                level = \"L1\"\nevery = \"30d\"\n\n[[cluster]]\ncluster = \"acme/erp\"\ntier = \"lab\"\n";
    let policy = Policy::parse(text, "p").unwrap_or_else(|problems| panic!("{problems:?}"));
    let wanted = plan(&[facts("acme/erp", &[replica("west")])], &policy, day(1));
    assert_eq!(wanted.len(), 1);
    assert_eq!((&wanted[0].aim, wanted[0].level), (&None, "L1".parse().unwrap()));
}

#[test]
fn a_change_asks_for_a_drill_at_once() {
    let policy = policy(&["acme/erp"], "");
    let aspects = [replica("west"), Aspect::Base(BaseKind::Full)];
    let mut known = facts("acme/erp", &aspects);
    known.proofs.push(proof(day(1), &aspects));
    let changed = |change: &dyn Fn(&mut ClusterFacts)| {
        let mut facts = known.clone();
        change(&mut facts);
        plan(&[facts], &policy, day(2))
    };
    assert!(changed(&|_| {}).iter().all(|w| !w.is_due()));
    type Change<'a> = (&'a str, &'a dyn Fn(&mut ClusterFacts));
    let changes: [Change<'_>; 5] = [
        ("PostgreSQL 18 runs, and 17 was proven", &|f| {
            f.circumstances.major = Some(18)
        }),
        ("holdfast 0.3.0 restores", &|f| {
            f.circumstances.program = Some("0.3.0".into())
        }),
        ("the policy has changed", &|f| {
            f.circumstances.policy = Some(Sha256Digest::of(b"new"));
            f.proofs[0].circumstances.policy = Some(Sha256Digest::of(b"old"));
        }),
        ("the keys of 2026-11 was never restored from", &|f| {
            f.aspects
                .insert(Aspect::Epoch("2026-11".parse().unwrap()), day(2));
        }),
        ("the replica in east was never restored from", &|f| {
            f.aspects.insert(replica("east"), day(2));
        }),
    ];
    for (because, change) in changes {
        let plan = changed(change);
        assert!(plan[0].is_due() && plan[0].on_change, "{because}: {plan:#?}");
        assert!(
            words(&plan[0]).contains(because),
            "{because}: {}",
            words(&plan[0])
        );
    }
    // What is not known voids nothing.
    assert!(
        changed(&|f| f.circumstances = Circumstances::default())
            .iter()
            .all(|w| !w.is_due())
    );
}

#[test]
fn the_riskiest_is_first_where_nothing_presses() {
    let names = ["acme/calm", "acme/failed", "acme/new", "acme/noticed"];
    let policy = policy(&names, "");
    let mut known: Vec<ClusterFacts> = names.iter().map(|n| facts(n, &[])).collect();
    for f in known.iter_mut().filter(|f| f.cluster.cluster.as_str() != "new") {
        f.proofs.push(proof(day(-40), &[]));
    }
    known[1].failed = Some(day(-10));
    known[3].findings = 2;
    let order: Vec<String> = plan(&known, &policy, day(1))
        .iter()
        .map(|w| w.cluster.cluster.to_string())
        .collect();
    assert_eq!(order, ["failed", "new", "noticed", "calm"]);
}

#[test]
fn what_cannot_be_run_is_held_with_its_reason() {
    let frozen = "\n[[calendar]]\nname = \"payroll\"\nbegins = \"2020-01-01T00:00\"\nrecurrence = \"FREQ=DAILY\"\n\
                  duration = \"24h\"\nclusters = [\"acme/erp\"]\nfreeze = [\"drill\"]\n";
    let clusters = ["acme/erp", "acme/busy", "acme/empty", "acme/silent"];
    let policy = policy(&clusters, frozen);
    let mut busy = facts("acme/busy", &[]);
    busy.under_way = Some(day(1));
    let mut empty = facts("acme/empty", &[]);
    empty.restorable_since = None;
    let plan = plan(&[facts("acme/erp", &[]), busy, empty], &policy, day(1));
    let when = |name: &str| {
        let one = plan.iter().find(|w| w.cluster.cluster.as_str() == name);
        one.unwrap().when.to_string()
    };
    assert!(
        when("erp").contains("the calendar payroll freezes drills until"),
        "{}",
        when("erp")
    );
    assert!(when("busy").contains("one is under way"));
    assert!(when("empty").contains("nothing can be restored"));
    assert!(
        when("silent").contains("could not be found out"),
        "a cluster without facts is wanted"
    );
    assert!(plan.iter().all(|w| !w.is_due()));
}

#[test]
fn nothing_is_wanted_of_no_cluster() {
    assert_eq!(plan(&[], &policy(&[], ""), day(0)), []);
    let unnamed = plan(&[facts("acme/other", &[])], &policy(&["acme/erp"], ""), day(0));
    assert!(unnamed.iter().all(|w| w.cluster.cluster.as_str() == "erp"));
}

fn aspects(mask: u8) -> Vec<Aspect> {
    let all = [
        replica("west"),
        replica("east"),
        Aspect::Epoch("2026-10".parse().unwrap()),
        Aspect::Epoch("2026-11".parse().unwrap()),
        Aspect::Base(BaseKind::Full),
        Aspect::Base(BaseKind::Incremental),
    ];
    let chosen = all.into_iter().enumerate().filter(|(i, _)| mask & 1 << i != 0);
    chosen.map(|(_, a)| a).collect()
}

proptest! {
    /// With one drill a day and less to do than days in the window, everything that
    /// a cluster may be restored from has been restored from within the window, for as
    /// long as it goes on; a drill may fail now and then if there is room for it.
    #[test]
    fn all_is_covered_within_the_window_where_capacity_allows(
        masks in prop::collection::vec(0u8..64, 1..6),
        findings in prop::collection::vec(0u32..3, 6),
    ) {
        let names: Vec<String> = (0..masks.len()).map(|n| format!("acme/c{n}")).collect();
        let policy = policy(&names.iter().map(String::as_str).collect::<Vec<_>>(), "");
        let mut known: Vec<ClusterFacts> = names
            .iter()
            .zip(&masks)
            .zip(&findings)
            .map(|((name, mask), n)| ClusterFacts { findings: *n, ..facts(name, &aspects(*mask)) })
            .collect();
        let items: usize = masks.iter().map(|m| m.count_ones() as usize + 1).sum();
        prop_assume!(items < 30);
        for n in 0..95 {
            let now = day(n);
            let plan = plan(&known, &policy, now);
            prop_assert_eq!(plan.len(), items);
            let late: Vec<&Wanted> = plan.iter().filter(|w| w.deadline <= now).collect();
            prop_assert!(late.is_empty(), "day {}: {:#?}", n, late);
            let Some(first) = plan.first().filter(|w| w.is_due()) else { continue };
            let of = known.iter_mut().find(|f| f.cluster == first.cluster).unwrap();
            let aim: Vec<Aspect> = first.aim.iter().cloned().collect();
            of.proofs.push(proof(now, &aim));
        }
    }

    /// The plan is the facts' and not their order's, and names everything once.
    #[test]
    fn the_order_of_facts_changes_nothing(
        parts in prop::collection::vec((0u8..64, 0i64..60, 0u32..3, any::<bool>()), 1..6),
        now in 0i64..90,
    ) {
        let names: Vec<String> = (0..parts.len()).map(|n| format!("acme/c{n}")).collect();
        let policy = policy(&names.iter().map(String::as_str).collect::<Vec<_>>(), "");
        let make = |name: &str, (mask, proven, findings, failed): (u8, i64, u32, bool)| {
            let mut f = facts(name, &aspects(mask));
            f.proofs.push(proof(day(proven), &aspects(mask / 2)));
            (f.findings, f.failed) = (findings, failed.then(|| day(proven + 1)));
            f
        };
        let known: Vec<ClusterFacts> = names.iter().zip(&parts).map(|(n, p)| make(n, *p)).collect();
        let first = plan(&known, &policy, day(now));
        let mut turned = known.clone();
        turned.reverse();
        prop_assert_eq!(&plan(&turned, &policy, day(now)), &first);
        let mut names: Vec<_> = first.iter().map(|w| (w.cluster.clone(), w.aim.clone())).collect();
        names.sort();
        names.dedup();
        prop_assert_eq!(names.len(), first.len());
        // Whoever proves everything today has nothing due, but what failed since.
        let mut proven = known;
        for f in &mut proven {
            let all: Vec<Aspect> = f.aspects.keys().cloned().collect();
            f.proofs.push(proof(day(now), &all));
        }
        let rest = plan(&proven, &policy, day(now));
        prop_assert!(rest.iter().all(|w| !w.on_change), "{:#?}", rest);
    }
}
