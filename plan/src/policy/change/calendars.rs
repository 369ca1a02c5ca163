//! What would change in the calendars.
//!
//! A window protects: what it pins, tightens and keeps from being deleted is lost
//! with it. It also keeps drills and base backups waiting, and that is a weakening
//! of its own when it lasts longer than the time between two of them.

use std::fmt;

use holdfast_proto::Timestamp;

use super::{Direction, Found, side_by_side};
use crate::period::Period;
use crate::policy::{Calendar, ClusterPolicy, Edge, Frozen, Policy, Window};

/// How far ahead windows are looked at.
const AHEAD_MS: i64 = 2 * 366 * 86_400_000;

pub(super) fn compare(old: &Policy, new: &Policy, now: Timestamp, found: &mut Found) {
    let both = side_by_side(
        old.calendars().map(|c| (c.name.clone(), c)),
        new.calendars().map(|c| (c.name.clone(), c)),
    );
    for (name, sides) in both {
        let subject = format!("calendar {name}");
        match sides {
            (Some(from), Some(to)) => one(&subject, from, to, now, found),
            (Some(from), None) => found.add(&subject, "windows", (when(from), "none"), Direction::Weakens),
            (None, Some(to)) => found.add(&subject, "windows", ("none", when(to)), Direction::Strengthens),
            (None, None) => {}
        }
    }
}

fn one(subject: &str, from: &Calendar, to: &Calendar, now: Timestamp, found: &mut Found) {
    windows(subject, from, to, now, found);
    let covered = |calendar: &Calendar| {
        let covers = &calendar.covers;
        let clusters = covers.clusters.iter().map(|c| format!("cluster {c}"));
        let tenants = covers.tenants.iter().map(|t| format!("tenant {t}"));
        let tiers = covers.tiers.iter().map(|t| format!("tier {t}"));
        clusters.chain(tenants).chain(tiers).collect::<Vec<_>>()
    };
    found.loss_weakens(&subject, "covers", &covered(from), &covered(to));
    if from.effects.rpo != to.effects.rpo {
        let shown = |rpo: Option<Period>| rpo.map_or("the tier's".to_owned(), |rpo| rpo.to_string());
        // Without one of its own the tier's holds, which is longer.
        let longest = |rpo: Option<Period>| rpo.map_or(u64::MAX, Period::millis);
        let direction = match longest(to.effects.rpo) > longest(from.effects.rpo) {
            true => Direction::Weakens,
            false => Direction::Strengthens,
        };
        let change = (shown(from.effects.rpo), shown(to.effects.rpo));
        found.add(&subject, "rpo", change, direction);
    }
    let pins = |c: &Calendar| {
        let edges = [(c.effects.pin_start, Edge::Start), (c.effects.pin_end, Edge::End)];
        let pinned = edges
            .into_iter()
            .filter_map(|(pinned, edge)| pinned.then_some(edge));
        pinned.collect::<Vec<_>>()
    };
    found.loss_weakens(&subject, "pins", &pins(from), &pins(to));
    let kept = |c: &Calendar| c.effects.frozen.names();
    found.loss_weakens(&subject, "freezes", &kept(from), &kept(to));
    let approvers = |c: &Calendar| c.effects.more_approvers;
    found.less_weakens(&subject, "more_approvers", approvers(from), approvers(to));
}

fn when(calendar: &Calendar) -> String {
    format!(
        "{} from {} in {} for {}",
        calendar.recurrence.as_str(),
        calendar.recurrence.begins(),
        calendar.recurrence.zone(),
        calendar.duration
    )
}

fn windows(subject: &str, from: &Calendar, to: &Calendar, now: Timestamp, found: &mut Found) {
    if from.recurrence == to.recurrence && from.duration == to.duration {
        return;
    }
    let until = now.plus_millis(AHEAD_MS);
    let (before, after) = (from.windows(now, until), to.windows(now, until));
    let inside = |window: &Window, others: &[Window]| {
        others
            .iter()
            .any(|other| other.start <= window.start && window.end <= other.end)
    };
    let lost = before.iter().find(|window| !inside(window, &after));
    let won = after.iter().any(|window| !inside(window, &before));
    let direction = match (lost, won) {
        (Some(_), _) => Direction::Weakens,
        (None, true) => Direction::Strengthens,
        (None, false) => Direction::Neutral,
    };
    let first = lost.map(|window| {
        let at = from.recurrence.zone().show(window.start);
        format!(" (the window of {at} is no longer in one)")
    });
    let to = format!("{}{}", when(to), first.unwrap_or_default());
    found.add(&subject, "windows", (when(from), to), direction);
}

/// Whether drills or base backups of a cluster would have to wait longer than
/// the time between two of them.
pub(super) fn freezes(
    cluster: &impl fmt::Display,
    (old, from): (&Policy, &ClusterPolicy),
    (new, to): (&Policy, &ClusterPolicy),
    now: Timestamp,
    found: &mut Found,
) {
    let between = |policy: &ClusterPolicy| policy.tier.drills.iter().map(|drill| drill.every).min();
    let shown = |millis: u64| Period::from_millis(millis).map_or("never".to_owned(), |p| p.to_string());
    let stretch = |policy, of, freezes: fn(Frozen) -> bool| longest(policy, of, freezes, now);
    let drills = |policy, of| stretch(policy, of, |frozen| frozen.drill);
    let (before, after) = (drills(old, from), drills(new, to));
    if after > before && between(to).is_some_and(|every| after > every.millis()) {
        let change = (shown(before), shown(after));
        found.add(cluster, "longest freeze of drills", change, Direction::Weakens);
    }
    let bases = |policy, of| stretch(policy, of, |frozen| frozen.base_backup);
    let (before, after) = (bases(old, from), bases(new, to));
    if after > before && after > 7 * 86_400_000 {
        let change = (shown(before), shown(after));
        found.add(
            cluster,
            "longest freeze of base backups",
            change,
            Direction::Weakens,
        );
    }
}

/// The longest time, in milliseconds, that something is frozen without a break.
fn longest(policy: &Policy, of: &ClusterPolicy, freezes: fn(Frozen) -> bool, now: Timestamp) -> u64 {
    let freezing = policy
        .calendars()
        .filter(|calendar| freezes(calendar.effects.frozen) && calendar.covers(of));
    let mut windows: Vec<Window> = freezing
        .flat_map(|calendar| calendar.windows(now, now.plus_millis(AHEAD_MS)))
        .collect();
    windows.sort();
    let mut longest = 0;
    let mut open: Option<Window> = None;
    for window in windows {
        let joined = match open {
            Some(open) if window.start <= open.end => Window {
                start: open.start,
                end: open.end.max(window.end),
            },
            _ => window,
        };
        longest = longest.max(joined.end.millis_since(joined.start));
        open = Some(joined);
    }
    longest
}
