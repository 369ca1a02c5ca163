//! What counts as a weakening.

use proptest::prelude::*;

use super::*;
use crate::document::Problem;

fn now() -> Timestamp {
    "2026-11-25T12:00:00Z".parse().unwrap()
}

fn policy(text: &str) -> Policy {
    Policy::parse(text, "p").unwrap_or_else(|problems| {
        panic!(
            "{text}\n{:#?}",
            problems.iter().map(Problem::to_string).collect::<Vec<_>>()
        )
    })
}

fn said(old: &str, new: &str) -> Vec<String> {
    changes(&policy(old), &policy(new), now())
        .iter()
        .map(Change::to_string)
        .collect()
}

const ERP: &str = "[[cluster]]\ncluster = \"acme/erp\"\ntier = \"gold\"\n";

/// The sentence for one line put into gold, and the other way round.
fn check(line: &str, forth: &str, back: &str) {
    let changed = format!("[tiers.gold]\n{line}\n{ERP}");
    assert_eq!(said(ERP, &changed), [forth], "{line}");
    assert_eq!(said(&changed, ERP), [back], "{line}");
}

#[test]
fn numbers_that_ask_for_less_weaken() {
    check(
        "rpo = \"5min\"",
        "acme/erp: rpo from 1min to 5min (weakens)",
        "acme/erp: rpo from 5min to 1min (strengthens)",
    );
    check(
        "rto = \"30min\"",
        "acme/erp: rto from 1h to 30min (strengthens)",
        "acme/erp: rto from 30min to 1h (weakens)",
    );
    check(
        "copies = 1",
        "acme/erp: copies from 2 to 1 (weakens)",
        "acme/erp: copies from 1 to 2 (strengthens)",
    );
    check(
        "copies_before_ack = 2",
        "acme/erp: copies_before_ack from 1 to 2 (strengthens)",
        "acme/erp: copies_before_ack from 2 to 1 (weakens)",
    );
    check(
        "base_backup = \"30 2 * * SUN\"",
        "acme/erp: base_backup from 30 2 * * * to 30 2 * * SUN (weakens)",
        "acme/erp: base_backup from 30 2 * * SUN to 30 2 * * * (strengthens)",
    );
    check(
        "base_backup = \"30 4 * * *\"",
        "acme/erp: base_backup from 30 2 * * * to 30 4 * * *",
        "acme/erp: base_backup from 30 4 * * * to 30 2 * * *",
    );
    check(
        "filestore_checkpoint = \"0 4 * * MON\"",
        "acme/erp: filestore_checkpoint from 0 4 * * SUN to 0 4 * * MON",
        "acme/erp: filestore_checkpoint from 0 4 * * MON to 0 4 * * SUN",
    );
    check(
        "[tiers.gold.retention]\nwindow = \"14d\"",
        "acme/erp: retention.window from 35d to 14d (weakens)",
        "acme/erp: retention.window from 14d to 35d (strengthens)",
    );
    check(
        "[tiers.gold.retention]\nmonthly = 24",
        "acme/erp: retention.monthly from 12 to 24 (strengthens)",
        "acme/erp: retention.monthly from 24 to 12 (weakens)",
    );
    check(
        "[[tiers.gold.drill]]\nscenario = \"accidental-deletion\"\nlevel = \"L2\"\nevery = \"7d\"",
        "acme/erp: drills from accidental-deletion L3 every 7d to accidental-deletion L2 every 7d (weakens)",
        "acme/erp: drills from accidental-deletion L2 every 7d to accidental-deletion L3 every 7d (strengthens)",
    );
    check(
        "drill = []",
        "acme/erp: drills from accidental-deletion L3 every 7d to none (weakens)",
        "acme/erp: drills from none to accidental-deletion L3 every 7d (strengthens)",
    );
}

#[test]
fn what_holds_is_compared_not_how_it_is_written() {
    let tier = format!("[tiers.own]\nlike = \"gold\"\n{}", ERP.replace("gold", "own"));
    assert_eq!(said(ERP, &tier), ["acme/erp: tier from gold to own"]);
    assert_eq!(said(ERP, &format!("# a remark\n{ERP}")), Vec::<String>::new());
    assert_eq!(
        said(ERP, ""),
        ["acme/erp: the cluster from kept as gold to not kept (weakens)"]
    );
    assert_eq!(
        said("", ERP),
        ["acme/erp: the cluster from not kept to kept as gold (strengthens)"]
    );
    let zone = format!("time_zone = \"Europe/Vienna\"\n{ERP}");
    assert_eq!(
        said(ERP, &zone),
        ["acme/erp: time zone from UTC to Europe/Vienna"]
    );
}

#[test]
fn a_wider_place_weakens() {
    let zone = |regions: &str, rest: &str| {
        format!(
            "[[residency]]\nname = \"eu\"\nregions = [{regions}]\n{rest}[[tenant]]\nname = \"acme\"\nresidency = \
             \"eu\"\n{ERP}"
        )
    };
    let open = format!("[[tenant]]\nname = \"acme\"\n{ERP}");
    let (one, two) = (zone("\"a\"", ""), zone("\"a\", \"b\"", ""));
    assert_eq!(
        said(&one, &open),
        ["acme/erp: residency from eu to anywhere (weakens)"]
    );
    assert_eq!(
        said(&one, &two),
        ["acme/erp: residency's regions from a to a, b (weakens)"]
    );
    assert_eq!(
        said(&two, &one),
        ["acme/erp: residency's regions from a, b to a (strengthens)"]
    );
    let local = zone("\"a\"", "providers = [\"local\"]\n");
    assert_eq!(
        said(&local, &one),
        ["acme/erp: residency's providers from local to any (weakens)"]
    );
}

const CALENDAR: &str = "[[calendar]]\nname = \"payroll\"\nbegins = \"2026-01-01T18:00\"\nduration = \"36h\"\n\
    recurrence = \"FREQ=MONTHLY;BYMONTHDAY=25\"\nclusters = [\"acme/erp\"]\nfreeze = [\"reclaim\", \"drill\"]\n\
    pin = [\"start\", \"end\"]\nmore_approvers = 1\n";

#[test]
fn a_window_that_is_lost_weakens() {
    let with = |calendar: &str| format!("{ERP}{calendar}");
    let all = with(CALENDAR);
    assert!(said(&all, ERP)[0].ends_with("to none (weakens)"));
    assert!(said(ERP, &all)[0].ends_with("(strengthens)"));
    let one = |from: &str, to: &str| said(&all, &with(&CALENDAR.replace(from, to)));
    assert!(
        one("36h", "24h")[0].contains("the window of 2026-11-25 18:00 UTC is no longer in one) (weakens)")
    );
    assert!(one("36h", "48h")[0].ends_with("for 2d (strengthens)"));
    assert!(one("=25", "=24,25")[0].ends_with("(strengthens)"));
    assert_eq!(
        one("\"start\", ", ""),
        ["calendar payroll: pins from start, end to end (weakens)"]
    );
    assert_eq!(
        one("\"reclaim\", ", ""),
        ["calendar payroll: freezes from drill, reclaim to drill (weakens)"]
    );
    assert_eq!(
        one("approvers = 1", "approvers = 2"),
        ["calendar payroll: more_approvers from 1 to 2 (strengthens)"]
    );
    // Drills every seven days, and a window that leaves no room for them.
    let long = one("36h", "20d");
    assert!(
        long.contains(&"acme/erp: longest freeze of drills from 36h to 20d (weakens)".to_owned()),
        "{long:?}"
    );
}

#[test]
fn fewer_eyes_weaken() {
    let rules = "[[group]]\nname = \"dba\"\nmembers = [\"anna\", \"bo\"]\n[[group]]\nname = \"all\"\nmembers = \
                 [\"anna\", \"bo\", \"carl\"]\n[[approval]]\nacts = [\"deletion\"]\napprovers = 2\ngroups = [\"dba\"]\n\
                 [[route]]\nname = \"ops\"\nkind = \"slack\"\nurl_env = \"HOLDFAST_OPS\"\n";
    let one = |from: &str, to: &str| said(rules, &rules.replace(from, to));
    assert_eq!(
        one("approvers = 2", "approvers = 1"),
        ["approval of deletion: approvers from 2 to 1 (weakens)"]
    );
    assert_eq!(
        one("[\"dba\"]", "[\"all\"]"),
        ["approval of deletion: who may approve from anna, bo to anna, bo, carl (weakens)"]
    );
    assert_eq!(
        one("kind = \"slack\"", "kind = \"slack\"\nseverity = \"critical\""),
        ["route ops: severity from warning to critical (weakens)"]
    );
    let without = rules.split("[[route]]").next().unwrap();
    assert_eq!(
        said(rules, without),
        ["route ops: the route from slack to removed (weakens)"]
    );
}

fn any_policy() -> impl Strategy<Value = String> {
    (
        prop::sample::select(vec!["platinum", "gold", "silver"]),
        prop::sample::select(vec!["30min", "1h", "2h"]),
        1u32..4,
        prop::sample::select(vec!["0 1 * * *", "0 1 * * SUN", "0 1 1 * *", "0 */6 * * *"]),
        1u32..40,
        0u32..3,
        prop::sample::select(vec!["", CALENDAR]),
    )
        .prop_map(|(tier, rpo, copies, base, days, monthly, calendar)| {
            format!(
                "[tiers.own]\nlike = \"{tier}\"\nrpo = \"{rpo}\"\ncopies = {copies}\ncopies_before_ack = 1\nbase_backup = \
                 \"{base}\"\n[tiers.own.retention]\nwindow = \"{days}d\"\nmonthly = {monthly}\n[[cluster]]\ncluster = \
                 \"acme/erp\"\ntier = \"own\"\n{calendar}"
            )
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn nothing_changes_between_a_policy_and_itself(text in any_policy()) {
        prop_assert_eq!(changes(&policy(&text), &policy(&format!("{text}\n# x")), now()), vec![]);
    }

    /// Every ordered property that differs is weaker in one of the two directions
    /// and stronger in the other.
    #[test]
    fn back_is_the_opposite_of_forth(a in any_policy(), b in any_policy()) {
        let (a, b) = (policy(&a), policy(&b));
        let (forth, back) = (changes(&a, &b, now()), changes(&b, &a, now()));
        prop_assert_eq!(forth.len(), back.len());
        for (there, again) in forth.iter().zip(&back) {
            prop_assert_eq!((&there.subject, &there.what), (&again.subject, &again.what));
            prop_assert_eq!((&there.from, &there.to), (&again.to, &again.from));
            let opposite = match there.direction {
                Direction::Weakens => Direction::Strengthens,
                Direction::Strengthens => Direction::Weakens,
                Direction::Neutral => Direction::Neutral,
            };
            prop_assert_eq!(again.direction, opposite, "{}", there);
        }
        let ordered = forth.iter().any(|change| change.direction != Direction::Neutral);
        prop_assert_eq!(ordered, weakenings(&forth).len() + weakenings(&back).len() > 0);
    }

    /// A weakening cannot be hidden by doing it in two steps.
    #[test]
    fn two_steps_weaken_what_one_does(a in any_policy(), b in any_policy(), c in any_policy()) {
        let (a, b, c) = (policy(&a), policy(&b), policy(&c));
        let (first, second) = (changes(&a, &b, now()), changes(&b, &c, now()));
        let steps: Vec<&str> = weakenings(&first)
            .into_iter()
            .chain(weakenings(&second))
            .map(|change| change.what.as_str())
            .collect();
        for weak in weakenings(&changes(&a, &c, now())) {
            prop_assert!(steps.contains(&weak.what.as_str()), "{weak} in none of {steps:?}");
        }
    }
}
