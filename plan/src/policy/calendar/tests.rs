//! Windows of calendars, and what they change.

use proptest::prelude::*;

use super::super::{Policy, Problem};
use super::*;

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A policy with one platinum cluster and the calendar that `keys` describe.
fn policy(keys: &str) -> Policy {
    let text = format!(
        "time_zone = \"Europe/Vienna\"\n[[cluster]]\ncluster = \"acme/erp\"\ntier = \"platinum\"\n[[cluster]]\n\
         cluster = \"acme/lab\"\ntier = \"bronze\"\n[[calendar]]\nname = \"payroll\"\nclusters = [\"acme/erp\"]\n{keys}\n"
    );
    Policy::parse(&text, "p").unwrap_or_else(|problems| {
        panic!(
            "{:?}",
            problems.iter().map(Problem::to_string).collect::<Vec<_>>()
        )
    })
}

fn calendar(keys: &str) -> Calendar {
    policy(&format!("{keys}\nfreeze = [\"drill\"]"))
        .calendars()
        .next()
        .unwrap()
        .clone()
}

/// `start for length` of each window, on the calendar's own clock.
fn windows(keys: &str, from: &str, until: &str) -> Vec<String> {
    let calendar = calendar(keys);
    calendar
        .windows(time(from), time(until))
        .into_iter()
        .map(|w| {
            let length = Period::from_millis(w.end.millis_since(w.start)).unwrap();
            format!("{} for {length}", calendar.recurrence.zone().show(w.start))
        })
        .collect()
}

#[test]
fn the_days_that_books_close_can_be_said() {
    let last_working_day = "begins = \"2026-01-01T18:00\"\nduration = \"36h\"\n\
                            recurrence = \"FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1\"";
    // 31 January 2026 is a Saturday, 28 February too, 31 March a Tuesday.
    assert_eq!(
        windows(last_working_day, "2026-01-05T00:00:00Z", "2026-04-05T00:00:00Z"),
        [
            "2026-01-30 18:00 CET for 36h",
            "2026-02-27 18:00 CET for 36h",
            "2026-03-31 18:00 CEST for 36h"
        ]
    );
    let one_before = last_working_day.replace("BYSETPOS=-1", "BYSETPOS=-2");
    assert_eq!(
        windows(&one_before, "2026-01-05T00:00:00Z", "2026-03-05T00:00:00Z"),
        ["2026-01-29 18:00 CET for 36h", "2026-02-26 18:00 CET for 36h"]
    );
    let bids = "begins = \"2026-01-05T09:00\"\nduration = \"4h\"\nrecurrence = \"FREQ=WEEKLY;INTERVAL=2;BYDAY=MO\"\n\
                except = [\"2026-01-19\"]";
    assert_eq!(
        windows(bids, "2026-01-01T00:00:00Z", "2026-02-20T00:00:00Z"),
        [
            "2026-01-05 09:00 CET for 4h",
            "2026-02-02 09:00 CET for 4h",
            "2026-02-16 09:00 CET for 4h"
        ]
    );
    let quarter = "begins = \"2026-01-01T00:00\"\nduration = \"48h\"\ntime_zone = \"America/Chicago\"\n\
                   recurrence = \"RRULE:FREQ=YEARLY;BYMONTH=1,4,7,10;BYMONTHDAY=1;UNTIL=20260401\"";
    assert_eq!(
        windows(quarter, "2025-01-01T00:00:00Z", "2030-01-01T00:00:00Z"),
        ["2026-01-01 00:00 CST for 2d", "2026-04-01 00:00 CDT for 2d"]
    );
}

#[test]
fn a_window_over_the_change_of_clocks_keeps_its_start_and_its_length() {
    let daily = |time: &str, zone: &str| {
        format!(
            "begins = \"2026-01-01T{time}\"\nduration = \"12h\"\ntime_zone = \"{zone}\"\nrecurrence = \"FREQ=DAILY\""
        )
    };
    // Clocks go forward in the night to 29 March, back in the night to 25 October.
    let spring = calendar(&daily("20:00", "Europe/Vienna"));
    let windows_of = |from: &str, until: &str| spring.windows(time(from), time(until));
    let night = windows_of("2026-03-28T19:00:00Z", "2026-03-28T19:00:01Z");
    assert_eq!(night.len(), 1);
    assert_eq!(night[0].start, time("2026-03-28T19:00:00Z"));
    assert_eq!(
        night[0].end,
        time("2026-03-29T07:00:00Z"),
        "09:00 CEST: 12 hours passed"
    );
    let next = windows_of("2026-03-29T12:00:00Z", "2026-03-29T20:00:00Z");
    assert_eq!(
        next[0].start,
        time("2026-03-29T18:00:00Z"),
        "20:00 on the clock again"
    );
    let autumn = windows_of("2026-10-24T18:00:00Z", "2026-10-24T18:00:01Z");
    assert_eq!(
        autumn[0].end,
        time("2026-10-25T06:00:00Z"),
        "07:00 CET: 12 hours passed"
    );
    // A start that clocks skip, and one that they show twice.
    let skipped = calendar(&daily("02:30", "Europe/Vienna"));
    assert_eq!(
        skipped.next_start(time("2026-03-28T12:00:00Z")),
        Some(time("2026-03-29T01:00:00Z")),
        "the first minute after the jump"
    );
    assert_eq!(
        skipped.next_start(time("2026-10-24T12:00:00Z")),
        Some(time("2026-10-25T00:30:00Z")),
        "the first of the two"
    );
    assert_eq!(
        skipped.next_start(time("2026-10-25T00:30:00Z")),
        Some(time("2026-10-26T01:30:00Z")),
        "and not again an hour later"
    );
    // Lord Howe moves by half an hour, at 02:00.
    let half = calendar(&daily("01:45", "Australia/Lord_Howe"));
    let found = half.windows(time("2026-04-04T00:00:00Z"), time("2026-04-06T00:00:00Z"));
    let starts: Vec<_> = found
        .iter()
        .map(|w| half.recurrence.zone().show(w.start))
        .collect();
    assert_eq!(starts.len(), 3, "{starts:?}");
    assert!(starts[1].starts_with("2026-04-05 01:45 +11"), "{starts:?}");
}

#[test]
fn an_open_window_changes_what_holds() {
    let policy = policy(
        "begins = \"2026-11-25T18:00\"\nduration = \"36h\"\nrecurrence = \"FREQ=MONTHLY;BYMONTHDAY=25\"\nrpo = \"5s\"\n\
         pin = [\"start\", \"end\"]\nfreeze = [\"base_backup\", \"drill\", \"reclaim\", \"key_rotation\"]\n\
         more_approvers = 1",
    );
    let erp: ClusterId = "acme/erp".parse().unwrap();
    let before = policy.in_force(&erp, time("2026-11-25T16:59:59Z")).unwrap();
    assert_eq!(
        (before.rpo.to_string(), before.frozen),
        ("15s".to_owned(), Frozen::default())
    );
    assert!(before.windows.is_empty() && before.more_approvers == 0);
    let start = time("2026-11-25T17:00:00Z");
    let inside = policy.in_force(&erp, start).unwrap();
    assert_eq!(inside.rpo.to_string(), "5s");
    assert_eq!(
        inside.tip_interval.to_string(),
        "1666ms",
        "a third of 5s, as the tier has a third of 15s"
    );
    assert_eq!(
        inside.frozen.names(),
        ["base_backup", "drill", "reclaim", "key_rotation"]
    );
    assert_eq!(inside.more_approvers, 1);
    assert_eq!(inside.windows[0].end, time("2026-11-27T05:00:00Z"));
    assert_eq!(policy.active(start).len(), 1);
    let orders = policy.directives(&erp, start).unwrap();
    assert_eq!(
        (orders.tip_interval_ms, orders.attest_interval_ms),
        (1_666, 3_333)
    );
    // The end is not in it, and nobody else is concerned.
    assert_eq!(policy.in_force(&erp, inside.windows[0].end).unwrap(), before);
    let lab = policy.in_force(&"acme/lab".parse().unwrap(), start).unwrap();
    assert!(lab.windows.is_empty());
    assert_eq!(policy.in_force(&"acme/other".parse().unwrap(), start), None);
    // Both edges are pinned, once each, however the time is cut.
    let all = policy.pins(&erp, time("2026-11-01T00:00:00Z"), time("2026-12-01T00:00:00Z"));
    let seen: Vec<_> = all.iter().map(|p| (p.at, p.edge)).collect();
    assert_eq!(seen, [(start, Edge::Start), (inside.windows[0].end, Edge::End)]);
    let end = inside.windows[0].end;
    assert_eq!(policy.pins(&erp, end, end.plus_millis(1)).len(), 1);
    assert!(
        policy
            .pins(&erp, end.plus_millis(1), end.plus_millis(5000))
            .is_empty()
    );
}

#[test]
fn windows_add_up_to_the_strictest() {
    let text = "[[cluster]]\ncluster = \"acme/erp\"\ntier = \"gold\"\n\
        [[calendar]]\nname = \"a\"\nbegins = \"2026-01-01T00:00\"\nrecurrence = \"FREQ=DAILY\"\nduration = \"36h\"\n\
        tenants = [\"acme\"]\nrpo = \"30s\"\nfreeze = [\"drill\"]\nmore_approvers = 2\n\
        [[calendar]]\nname = \"b\"\nbegins = \"2026-01-01T00:00\"\nrecurrence = \"FREQ=DAILY\"\nduration = \"1h\"\n\
        tiers = [\"gold\"]\nrpo = \"20s\"\nfreeze = [\"reclaim\"]\nmore_approvers = 1\n";
    let policy = Policy::parse(text, "p").unwrap();
    let now = policy
        .in_force(&"acme/erp".parse().unwrap(), time("2026-02-02T00:30:00Z"))
        .unwrap();
    assert_eq!(now.rpo.to_string(), "20s");
    assert_eq!(now.frozen.names(), ["drill", "reclaim"]);
    assert_eq!(now.more_approvers, 2);
    // 36 hours begun each day overlap: yesterday's, today's, and b's.
    let open: Vec<_> = now.windows.iter().map(|w| w.calendar.as_str()).collect();
    assert_eq!(open, ["a", "a", "b"]);
}

#[test]
fn everything_wrong_with_a_calendar_is_said() {
    let text = r#"[[cluster]]
cluster = "acme/erp"
tier = "gold"
[[calendar]]
name = "a"
begins = "2026-01-01"
recurrence = "FREQ=HOURLY"
duration = "1 day"
freeze = ["wal"]
pin = ["middle"]
[[calendar]]
name = "b"
begins = "2026-01-01T00:00"
recurrence = "FREQ=HOURLY"
duration = "1h"
clusters = ["acme/crm"]
tenants = ["nobody"]
tiers = ["gold", "steel"]
rpo = "2min"
[[calendar]]
name = "c"
begins = "2026-01-01T00:00"
recurrence = "FREQ=MONTHLY;BYMONTH=2;BYMONTHDAY=30"
duration = "1h"
clusters = ["acme/erp"]
[[calendar]]
name = "d"
begins = "2026-01-01T00:00"
recurrence = "FREQ=DAILY;BYHOUR=3"
duration = "1h"
clusters = ["acme/erp"]
more_approvers = 1
[[calendar]]
name = "e"
begins = "2026-01-01T00:00"
recurrence = "FREQ=DAILY"
duration = "1h"
clusters = ["acme/erp"]
rpo = "2min"
[[calendar]]
name = "e"
begins = "2026-01-01T00:00"
recurrence = "FREQ=DAILY;UNTIL=soon"
duration = "1h"
clusters = ["acme/erp"]
rpo = "2s"
"#;
    let found: Vec<String> = Policy::parse(text, "p")
        .unwrap_err()
        .iter()
        .map(Problem::to_string)
        .collect();
    for expect in [
        "p:4:1: calendar[0]: concerns nobody",
        "p:6:10: calendar[0].begins: \"2026-01-01\" is not a date with a time",
        "p:8:12: calendar[0].duration: \"1 day\" is not a length",
        "p:9:11: calendar[0].freeze[0]: \"wal\" cannot be frozen",
        "p:10:8: calendar[0].pin[0]: \"middle\" is not an edge",
        "p:11:1: calendar[1]: clusters names acme/crm",
        "p:11:1: calendar[1]: tenants names nobody",
        "p:11:1: calendar[1]: tiers names steel",
        "p:14:14: calendar[1].recurrence: \"FREQ=HOURLY\" is not part",
        "p:20:1: calendar[2]: changes nothing",
        "p:23:14: calendar[2].recurrence: \"FREQ=MONTHLY;BYMONTH=2;BYMONTHDAY=30\" never happens",
        "p:29:14: calendar[3].recurrence: \"BYHOUR=3\" is not part",
        "p:33:1: calendar[4]: rpo of 2min is not tighter than what the tier says for acme/erp (45s)",
        "p:43:14: calendar[5].recurrence: \"UNTIL=soon\" is not part",
    ] {
        let expect = expect.replace("(45s)", "(1min)");
        assert!(
            found.iter().any(|f| f.starts_with(&expect)),
            "{expect}\n  is not in {found:#?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever part of time is asked for, the same windows come out of it, and
    /// years that have passed may be left out.
    #[test]
    fn windows_do_not_depend_on_the_question(
        rule in prop::sample::select(vec![
            "FREQ=DAILY", "FREQ=DAILY;BYDAY=SA", "FREQ=WEEKLY", "FREQ=WEEKLY;BYDAY=MO,FR", "FREQ=MONTHLY",
            "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1", "FREQ=MONTHLY;BYDAY=-1FR", "FREQ=MONTHLY;BYMONTHDAY=-1",
            "FREQ=YEARLY", "FREQ=YEARLY;BYMONTH=3,10;BYDAY=-1SU", "FREQ=WEEKLY;INTERVAL=3", "FREQ=MONTHLY;COUNT=30",
        ]),
        zone in prop::sample::select(vec!["UTC", "Europe/Vienna", "America/New_York", "Australia/Lord_Howe"]),
        begins in prop::sample::select(vec!["2020-02-28T02:30", "2020-12-31T23:59", "2021-06-15T01:00"]),
        days in 0i64..2500,
        length in 1i64..90,
        hours in 1u64..80,
    ) {
        let calendar = calendar(&format!(
            "begins = \"{begins}\"\nduration = \"{hours}h\"\ntime_zone = \"{zone}\"\nrecurrence = \"{rule}\""
        ));
        let beginning = time("2020-01-01T00:00:00Z");
        let from = beginning.plus_millis(days * 86_400_000);
        let until = from.plus_millis(length * 86_400_000);
        let part = calendar.windows(from, until);
        let whole: Vec<_> = calendar
            .windows(beginning, until)
            .into_iter()
            .filter(|window| window.end > from)
            .collect();
        prop_assert_eq!(&part, &whole);
        for window in &part {
            prop_assert_eq!(window.end.millis_since(window.start), hours * 3_600_000);
            prop_assert!(calendar.open(window.start).contains(window));
            prop_assert!(!calendar.open(window.end).contains(window));
        }
        let next = calendar.next_start(from);
        let first = calendar.windows(from, until).into_iter().map(|w| w.start).find(|start| *start > from);
        prop_assert_eq!(next.filter(|next| *next < until), first);
    }
}
