//! One rule of the planner at a time.

use super::*;
use holdfast_proto::message::{AssignmentResult, Progress};
use proptest::prelude::*;

const POLICY: &str = r#"
    [[cluster]]
    cluster = "acme/erp"
    tier = "platinum"
    time_zone = "Europe/Berlin"
"#;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn policy() -> Policy {
    Policy::parse(POLICY, "policy.toml").unwrap()
}

fn erp() -> ClusterId {
    "acme/erp".parse().unwrap()
}

fn agent() -> ActorName {
    "erp-1".parse().unwrap()
}

/// A healthy cluster at `now` whose newest base backup is of `newest`.
fn facts(newest: Option<&str>, now: &str) -> ClusterFacts {
    let listed = WorkFacts {
        listed: Some(at(now)),
        newest: newest.map(at),
        ..WorkFacts::default()
    };
    let done = WorkFacts {
        newest: Some(at(now)),
        ..listed.clone()
    };
    ClusterFacts {
        cluster: erp(),
        reporter: Some((agent(), at(now))),
        lineage: Some("7381234567890123456-1".parse().unwrap()),
        hole: None,
        replay_ms: None,
        filestores: true,
        places: Places::default(),
        works: [
            (Work::BaseBackup, listed),
            (Work::FilestoreCheckpoint, done.clone()),
            (Work::Configuration, done),
        ]
        .into(),
    }
}

fn base(facts: &ClusterFacts, now: &str) -> Act {
    let decisions = plan(
        std::slice::from_ref(facts),
        &policy(),
        &Patience::default(),
        at(now),
    );
    assert_eq!(
        decisions.len(),
        WORKS.len(),
        "every kind of work is decided about"
    );
    decisions
        .into_iter()
        .find(|d| d.work == Work::BaseBackup)
        .unwrap()
        .act
}

fn base_of(facts: &mut ClusterFacts) -> &mut WorkFacts {
    facts.works.get_mut(&Work::BaseBackup).unwrap()
}

fn id(n: u128) -> WorkId {
    WorkId::from_parts(at("2026-11-21T00:00:00Z"), n)
}

#[test]
fn a_first_base_backup_is_due_at_once() {
    let now = "2026-11-21T12:00:00Z";
    let act = base(&facts(None, now), now);
    assert_eq!(
        act,
        Act::Give {
            agent: agent(),
            due: Due::Never,
            lapsed: None
        }
    );
    assert_eq!(act.to_string(), "give to erp-1: there is none yet");
}

#[test]
fn the_schedule_is_read_in_the_clusters_zone_and_answered_once() {
    // 01:30 in Berlin is 00:30 UTC in November.
    let newest = Some("2026-11-21T00:41:00Z");
    let before = "2026-11-22T00:29:59Z";
    let next = Some(at("2026-11-22T00:30:00Z"));
    assert_eq!(base(&facts(newest, before), before), Act::Rest { next });
    let after = "2026-11-22T00:30:01Z";
    let act = base(&facts(newest, after), after);
    assert!(
        act.to_string()
            .contains("scheduled for 2026-11-22 01:30 CET, the newest is of 2026-11-21 01:41 CET"),
        "{act}"
    );
    // Three missed firings are one base backup.
    let late = "2026-11-24T09:00:00Z";
    assert!(matches!(base(&facts(newest, late), late), Act::Give { .. }));
    assert!(matches!(
        base(
            &facts(Some("2026-11-24T09:10:00Z"), "2026-11-24T09:11:00Z"),
            "2026-11-24T09:11:00Z"
        ),
        Act::Rest { .. }
    ));
}

#[test]
fn a_hole_in_the_wal_is_answered_by_a_base_backup() {
    let now = "2026-11-21T12:00:00Z";
    let mut facts = facts(Some("2026-11-21T00:41:00Z"), now);
    facts.hole = Some("0/5000000".parse().unwrap());
    assert!(
        base(&facts, now)
            .to_string()
            .contains("WAL is missing from 0/5000000 on")
    );
}

#[test]
fn replay_that_would_take_too_long_is_cut_short_by_a_base_backup() {
    let now = "2026-11-21T12:00:00Z";
    let mut facts = facts(Some("2026-11-21T00:41:00Z"), now);
    // Platinum may take 30 minutes, and half of that for replay.
    facts.replay_ms = Some(900_000);
    assert!(matches!(base(&facts, now), Act::Rest { .. }));
    facts.replay_ms = Some(900_001);
    assert!(
        base(&facts, now)
            .to_string()
            .contains("a restore would replay WAL for 900 s of the 1800 s that it may take")
    );
    // Where WAL comes faster than it is replayed, one an hour is enough.
    base_of(&mut facts).newest = Some(at("2026-11-21T11:00:01Z"));
    assert!(matches!(base(&facts, now), Act::Rest { .. }));
    // A hole is no less urgent for it.
    facts.hole = Some("0/5000000".parse().unwrap());
    assert!(base(&facts, now).to_string().contains("WAL is missing"));
}

#[test]
fn what_is_not_known_holds_the_work_back() {
    let now = "2026-11-21T12:00:00Z";
    let check = |change: fn(&mut ClusterFacts), why: &str| {
        let mut facts = facts(None, now);
        change(&mut facts);
        let act = base(&facts, now);
        assert!(matches!(act, Act::Hold { .. }), "{act}");
        assert!(act.to_string().contains(why), "{act}");
    };
    check(|f| f.reporter = None, "not heard yet");
    check(
        |f| f.reporter = Some((agent(), at("2026-11-21T11:59:29Z"))),
        "last heard at",
    );
    check(|f| f.lineage = None, "does not stream");
    check(|f| base_of(f).listed = None, "not been listed");
    check(|f| f.works = BTreeMap::new(), "not been listed");
    check(
        |f| base_of(f).succeeded = Some(at("2026-11-21T12:00:00Z")),
        "not been listed since",
    );
    check(|f| base_of(f).running = true, "at it");
    check(
        |f| f.cluster = "acme/other".parse().unwrap(),
        "policy does not name",
    );
    assert_eq!(plan(&[], &policy(), &Patience::default(), at(now)), []);
}

#[test]
fn a_lease_holds_until_it_runs_out_and_is_given_again() {
    let now = "2026-11-21T12:00:00Z";
    let mut facts = facts(None, now);
    let mut book = Book::default();
    book.give(
        (&erp(), Work::BaseBackup),
        &agent(),
        id(1),
        &Due::Never,
        &Patience::default(),
        at(now),
    );
    let orders = book.orders(&agent(), at(now));
    assert_eq!(orders.len(), 1);
    assert_eq!(
        (orders[0].id, orders[0].work, orders[0].reason.as_str()),
        (id(1), Work::BaseBackup, "there is none yet")
    );
    assert_eq!(orders[0].lease_until, at("2026-11-21T12:01:00Z"));
    assert!(book.orders(&"other".parse().unwrap(), at(now)).is_empty());

    base_of(&mut facts).open = book.line(&erp(), Work::BaseBackup).unwrap().open.clone();
    let act = base(&facts, "2026-11-21T12:00:20Z");
    assert!(act.to_string().contains("has the lease until"), "{act}");
    facts.reporter = Some((agent(), at("2026-11-21T12:01:00Z")));
    let act = base(&facts, "2026-11-21T12:01:00Z");
    assert_eq!(
        act,
        Act::Give {
            agent: agent(),
            due: Due::Never,
            lapsed: Some(id(1))
        }
    );
    // Not due any more: forgotten.
    base_of(&mut facts).newest = Some(at("2026-11-21T12:00:59Z"));
    assert_eq!(
        base(&facts, "2026-11-21T12:01:00Z"),
        Act::Withdraw { lapsed: id(1) }
    );
    book.withdraw(&erp(), Work::BaseBackup, id(1));
    assert!(book.orders(&agent(), at(now)).is_empty());
}

fn working(id: Option<WorkId>) -> holdfast_proto::message::ClusterFacts {
    holdfast_proto::message::ClusterFacts {
        cluster: erp(),
        tier: "platinum".parse().unwrap(),
        labels: Default::default(),
        lineage: None,
        wal: None,
        filestores: vec![],
        last_base: None,
        last_point: None,
        working: vec![Progress {
            id,
            work: Work::BaseBackup,
            done: 1,
            total: 2,
            since: at("2026-11-21T12:00:05Z"),
        }],
        findings: vec![],
        requests: Vec::new(),
    }
}

fn result(id: WorkId, outcome: Result<&str, &str>) -> AssignmentResult {
    AssignmentResult {
        id,
        at: at("2026-11-21T12:05:00Z"),
        outcome: outcome.map(str::to_owned).map_err(str::to_owned),
    }
}

#[test]
fn work_that_goes_on_keeps_its_lease() {
    let (patience, agent) = (Patience::default(), agent());
    let mut book = Book::default();
    book.give(
        (&erp(), Work::BaseBackup),
        &agent,
        id(1),
        &Due::Never,
        &patience,
        at("2026-11-21T12:00:00Z"),
    );
    book.hear(
        &agent,
        &working(Some(id(1))),
        &patience,
        at("2026-11-21T12:00:50Z"),
    );
    assert_eq!(book.orders(&agent, at("2026-11-21T12:01:30Z")).len(), 1);
    book.hear(&agent, &working(None), &patience, at("2026-11-21T12:01:40Z"));
    assert_eq!(
        book.orders(&agent, at("2026-11-21T12:01:50Z")).len(),
        0,
        "its own work is not this work"
    );
    // A book that was lost learns of the work from the agent.
    let mut lost = Book::default();
    lost.hear(
        &agent,
        &working(Some(id(1))),
        &patience,
        at("2026-11-21T12:01:00Z"),
    );
    assert_eq!(lost.orders(&agent, at("2026-11-21T12:01:30Z"))[0].id, id(1));
    assert_eq!(
        lost.ended(&agent, &[result(id(1), Ok("made"))], at("2026-11-21T12:02:00Z"))
            .len(),
        1
    );
}

#[test]
fn failures_are_tried_again_ever_later() {
    let (patience, agent) = (Patience::default(), agent());
    let mut book = Book::default();
    let mut now = at("2026-11-21T12:00:00Z");
    let mut waits = Vec::new();
    for n in 0..9 {
        book.give(
            (&erp(), Work::BaseBackup),
            &agent,
            id(n),
            &Due::Never,
            &patience,
            now,
        );
        book.ended(&agent, &[result(id(n), Err("disk on fire"))], now);
        let line = book.line(&erp(), Work::BaseBackup).unwrap();
        assert_eq!(line.open, None);
        let retry = line.failures.retry_at(&patience).unwrap();
        waits.push(retry.millis_since(now) / 60_000);
        let mut facts = facts(None, "2026-11-21T12:00:00Z");
        facts.reporter = Some((agent.clone(), now));
        base_of(&mut facts).failures = line.failures.clone();
        assert!(
            base(&facts, &now.to_string())
                .to_string()
                .contains("tried again at")
        );
        now = retry;
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    book.give(
        (&erp(), Work::BaseBackup),
        &agent,
        id(99),
        &Due::Never,
        &patience,
        now,
    );
    book.ended(&agent, &[result(id(99), Ok("01J"))], now);
    let line = book.line(&erp(), Work::BaseBackup).unwrap();
    assert_eq!((line.succeeded, line.failures.times), (Some(now), 0));
}

#[test]
fn a_result_under_a_lapsed_lease_still_counts() {
    let (patience, agent) = (Patience::default(), agent());
    let now = at("2026-11-21T12:00:00Z");
    let mut book = Book::default();
    book.give(
        (&erp(), Work::BaseBackup),
        &agent,
        id(1),
        &Due::Never,
        &patience,
        now,
    );
    book.give(
        (&erp(), Work::BaseBackup),
        &agent,
        id(2),
        &Due::Never,
        &patience,
        now.plus_millis(60_000),
    );
    let closed = book.ended(&agent, &[result(id(1), Ok("01J"))], now.plus_millis(61_000));
    assert_eq!(closed, [(erp(), Work::BaseBackup)]);
    assert!(
        book.orders(&agent, now.plus_millis(61_000)).is_empty(),
        "it is not done twice"
    );
}

proptest! {
    #[test]
    fn the_same_facts_in_any_order_give_the_same_plan(seed in any::<u64>()) {
        let now = "2026-11-21T12:00:00Z";
        let mut all: Vec<ClusterFacts> = (0..8u64)
            .map(|n| {
                let newest = ["2026-11-20T00:00:00Z", "2026-11-21T11:00:00Z"][(seed >> n & 1) as usize];
                let mut facts = facts(Some(newest), now);
                facts.cluster = format!("acme/erp{n}").parse().unwrap();
                facts
            })
            .collect();
        let text: String = (0..8).map(|n| format!("[[cluster]]\ncluster = \"acme/erp{n}\"\ntier = \"gold\"\n")).collect();
        let policy = Policy::parse(&text, "p").unwrap();
        let forward = plan(&all, &policy, &Patience::default(), at(now));
        all.rotate_left((seed % 8) as usize);
        all.reverse();
        prop_assert_eq!(forward, plan(&all, &policy, &Patience::default(), at(now)));
    }
}

/// A cluster of a tenant whose base backup was due at so many minutes past one.
fn owing(name: &str, minute: u32, host: &str) -> ClusterFacts {
    let now = "2026-11-22T06:00:00Z";
    ClusterFacts {
        cluster: name.parse().unwrap(),
        reporter: Some((host.parse().unwrap(), at(now))),
        places: Places {
            regions: ["eu-1".parse().unwrap()].into(),
            stores: ["s3://store".to_owned()].into(),
        },
        ..facts(Some(&format!("2026-11-21T00:{minute:02}:00Z")), now)
    }
}

fn owing_policy(fleet: &[ClusterFacts], limits: &str) -> Policy {
    let mut text = format!("[limits]\n{limits}\n");
    for (n, cluster) in fleet.iter().enumerate() {
        let minute = 20 + n;
        text.push_str(&format!(
            "[[cluster]]\ncluster = \"{}\"\ntier = \"platinum\"\n[cluster.schedule]\nbase_backup = \"{minute} 1 * * *\"\n",
            cluster.cluster
        ));
    }
    Policy::parse(&text, "p").unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// The base backups that are given out, by name.
fn given(fleet: &[ClusterFacts], limits: &str) -> Vec<String> {
    let decisions = plan(
        fleet,
        &owing_policy(fleet, limits),
        &Patience::default(),
        at("2026-11-22T06:00:00Z"),
    );
    decisions
        .into_iter()
        .filter(|d| d.work == Work::BaseBackup && matches!(d.act, Act::Give { .. }))
        .map(|d| d.cluster.to_string())
        .collect()
}

#[test]
fn no_more_begins_than_the_limits_allow_and_tenants_take_turns() {
    let fleet = [
        owing("big/a", 1, "h1"),
        owing("big/b", 2, "h1"),
        owing("big/c", 3, "h2"),
        owing("big/d", 4, "h3"),
        owing("tiny/z", 5, "h4"),
    ];
    assert_eq!(given(&fleet, "").len(), 5, "without limits all begin");
    // The oldest debt of each tenant in turn, although the small one's is the newest.
    assert_eq!(given(&fleet, "per_store = 2"), ["big/a", "tiny/z"]);
    assert_eq!(given(&fleet, "per_region = 3"), ["big/a", "big/b", "tiny/z"]);
    // What has no room on its host does not hold up the others.
    assert_eq!(
        given(&fleet, "per_host = 1\nper_store = 3"),
        ["big/a", "big/c", "tiny/z"]
    );

    // What is under way counts, whoever remembers having given it.
    let mut busy = fleet.clone();
    base_of(&mut busy[3]).running = true;
    assert_eq!(given(&busy, "per_store = 2"), ["tiny/z"]);
    base_of(&mut busy[4]).open = Some(Open {
        id: id(1),
        agent: "h4".parse().unwrap(),
        given: at("2026-11-22T05:59:00Z"),
        lease_until: at("2026-11-22T06:01:00Z"),
        reason: String::new(),
    });
    assert_eq!(given(&busy, "per_store = 2"), [""; 0]);
    assert_eq!(given(&busy, "per_store = 3"), ["big/a"]);

    // Whoever has no way back at all comes before every schedule.
    let mut bare = fleet.clone();
    base_of(&mut bare[3]).newest = None;
    assert_eq!(given(&bare, "per_store = 1"), ["big/d"]);
}

#[test]
fn a_freeze_holds_a_base_backup_with_its_debt() {
    let frozen = format!(
        "{POLICY}[[calendar]]\nname = \"payroll\"\nbegins = \"2026-11-21T23:00\"\nrecurrence = \"FREQ=DAILY;COUNT=1\"\n\
         duration = \"36h\"\nclusters = [\"acme/erp\"]\nfreeze = [\"base_backup\"]\n"
    );
    let policy = Policy::parse(&frozen, "p").unwrap_or_else(|problems| panic!("{problems:#?}"));
    let act = |now: &str, newest: Option<&str>| {
        let facts = facts(newest, now);
        plan(
            std::slice::from_ref(&facts),
            &policy,
            &Patience::default(),
            at(now),
        )
        .into_iter()
        .find(|d| d.work == Work::BaseBackup)
        .unwrap()
        .act
    };
    let newest = Some("2026-11-21T00:41:00Z");
    for (now, newest) in [("2026-11-22T12:00:00Z", newest), ("2026-11-22T12:00:00Z", None)] {
        let held = act(now, newest);
        let Act::Hold {
            due: Some(_),
            held: Held::Frozen { calendar, until },
        } = held
        else {
            panic!("{held}");
        };
        assert_eq!(calendar.as_str(), "payroll");
        assert!(
            matches!(act(&until.to_string(), newest), Act::Give { .. }),
            "then it is given"
        );
    }
}

#[test]
fn what_a_freeze_keeps_was_not_missed() {
    let calendar = |name: &str, begins: &str, duration: &str| {
        format!(
            "[[calendar]]\nname = \"{name}\"\nbegins = \"{begins}\"\nrecurrence = \"FREQ=DAILY;COUNT=1\"\n\
             duration = \"{duration}\"\nclusters = [\"acme/erp\"]\nfreeze = [\"base_backup\"]\n"
        )
    };
    let windows = [
        calendar("payroll", "2026-11-21T23:00", "6h"),
        // Ten minutes are too short for a base backup.
        calendar("close", "2026-11-22T05:10", "2h"),
        calendar("late", "2026-11-22T12:00", "2h"),
    ];
    let text = format!("{POLICY}{}", windows.concat());
    let policy = Policy::parse(&text, "p").unwrap_or_else(|problems| panic!("{problems:#?}"));
    let cluster = policy.cluster(&"acme/erp".parse().unwrap()).unwrap();
    let grace = Period::from_millis(30 * 60_000).unwrap();
    let free = |due: &str, now: &str| policy.base_backup_free(cluster, at(due), grace, at(now));
    let (due, now) = ("2026-11-22T00:40:00Z", "2026-11-22T13:00:00Z");
    assert_eq!(free(due, now), at("2026-11-22T07:10:00Z"), "two windows in a row");
    assert_eq!(
        free(due, "2026-11-22T02:00:00Z"),
        at("2026-11-22T05:00:00Z"),
        "while one is open"
    );
    let due = "2026-11-22T08:00:00Z";
    assert_eq!(
        free(due, now),
        at(due),
        "it was missed long before the last one opened"
    );
}

proptest! {
    /// Whatever is owed by whom: no resource has more under way than its limit, and as
    /// long as there is room somewhere, nothing that fits is held.
    #[test]
    fn limits_hold_and_no_room_is_left(
        sizes in proptest::collection::vec((0..4usize, 0..3usize, any::<bool>()), 1..12),
        store in 1u32..6, host in 1u32..3,
    ) {
        let tenants = ["a", "b", "c", "d"];
        let fleet: Vec<ClusterFacts> = sizes
            .iter()
            .enumerate()
            .map(|(n, (tenant, host, running))| {
                let mut cluster = owing(&format!("{}/c{n}", tenants[*tenant]), n as u32, &format!("h{host}"));
                base_of(&mut cluster).running = *running;
                cluster
            })
            .collect();
        let given = given(&fleet, &format!("per_store = {store}\nper_host = {host}"));
        let of = |name: &str| fleet.iter().find(|f| f.cluster.to_string() == name).unwrap();
        let host_of = |f: &ClusterFacts| f.reporter.as_ref().unwrap().0.clone();
        let running: Vec<_> = fleet.iter().filter(|f| f.works[&Work::BaseBackup].running).collect();
        let begun: Vec<_> = given.iter().map(|name| of(name)).collect();
        let on = |wanted: &ActorName| {
            running.iter().chain(&begun).filter(|f| host_of(f) == *wanted).count()
        };
        let all = running.len() + begun.len();
        for f in &begun {
            prop_assert!(all <= store as usize, "{} of {}", all, store);
            prop_assert!(on(&host_of(f)) <= host as usize);
        }
        for f in fleet.iter().filter(|f| !f.works[&Work::BaseBackup].running && !given.contains(&f.cluster.to_string())) {
            prop_assert!(all >= store as usize || on(&host_of(f)) >= host as usize, "{} was held", f.cluster);
        }
    }
}
