//! What would change for each cluster, and for each pattern of labels.

use std::fmt;

use holdfast_proto::Timestamp;
use holdfast_proto::residency::Residency;

use super::{Direction, Found, calendars, list, side_by_side};
use crate::cron::{Cron, Zone};
use crate::policy::{ClusterPolicy, Drill, Pattern, Policy, Retention, Tier};

/// How long schedules are watched to compare how often they fire.
const YEAR_MS: i64 = 364 * 86_400_000;

pub(super) fn compare(old: &Policy, new: &Policy, now: Timestamp, found: &mut Found) {
    let by_name = |policy: &ClusterPolicy| policy.cluster.clone();
    let both = side_by_side(
        old.clusters().map(|c| (by_name(c), c)),
        new.clusters().map(|c| (by_name(c), c)),
    );
    for (cluster, sides) in both {
        match sides {
            (Some(from), Some(to)) => {
                tiers(&cluster, &from.tier, &to.tier, found);
                found.differs(&cluster, "time zone", from.zone, to.zone);
                let residencies = (old.residency(&cluster), new.residency(&cluster));
                residency(&cluster, residencies, found);
                calendars::freezes(&cluster, (old, from), (new, to), now, found);
            }
            (Some(from), None) => {
                let change = (format!("kept as {}", from.tier.name), "not kept");
                found.add(&cluster, "the cluster", change, Direction::Weakens);
            }
            (None, Some(to)) => {
                let change = ("not kept", format!("kept as {}", to.tier.name));
                found.add(&cluster, "the cluster", change, Direction::Strengthens);
            }
            (None, None) => {}
        }
    }
    let patterns = side_by_side(
        old.patterns().map(|p| (p.labels.clone(), p)),
        new.patterns().map(|p| (p.labels.clone(), p)),
    );
    for (labels, sides) in patterns {
        pattern(&format!("clusters with {labels}"), sides, (old, new), found);
    }
}

fn pattern(
    subject: &str,
    sides: (Option<&Pattern>, Option<&Pattern>),
    (old, new): (&Policy, &Policy),
    found: &mut Found,
) {
    let zone = |policy: &'_ Policy, pattern: &Pattern| {
        let name = pattern.residency.as_ref()?;
        policy.residencies().find(|zone| zone.name == *name).cloned()
    };
    match sides {
        (Some(from), Some(to)) => {
            tiers(&subject, &from.tier, &to.tier, found);
            found.differs(&subject, "time zone", from.zone, to.zone);
            let residencies = (zone(old, from), zone(new, to));
            residency(&subject, (residencies.0.as_ref(), residencies.1.as_ref()), found);
        }
        (Some(from), None) => {
            let change = (format!("kept as {}", from.tier.name), "not kept");
            found.add(&subject, "the pattern", change, Direction::Weakens);
        }
        (None, Some(to)) => {
            let change = ("not kept", format!("kept as {}", to.tier.name));
            found.add(&subject, "the pattern", change, Direction::Strengthens);
        }
        (None, None) => {}
    }
}

/// As a share that grows when less is asked for; 0 asks for nothing, as 101 does.
fn replay_share(tier: &Tier) -> u32 {
    match tier.replay_share {
        0 => 101,
        share => share,
    }
}

fn tiers(subject: &impl fmt::Display, from: &Tier, to: &Tier, found: &mut Found) {
    found.differs(subject, "tier", &from.name, &to.name);
    for (what, from, to) in [
        ("rpo", from.rpo, to.rpo),
        ("rto", from.rto, to.rto),
        ("tip_interval", from.tip_interval, to.tip_interval),
        ("fence_interval", from.fence_interval, to.fence_interval),
        ("attest_interval", from.attest_interval, to.attest_interval),
    ] {
        found.more_weakens(subject, what, from, to);
    }
    found.less_weakens(subject, "copies", from.copies, to.copies);
    let acknowledged = (from.copies_before_ack, to.copies_before_ack);
    found.less_weakens(subject, "copies_before_ack", acknowledged.0, acknowledged.1);
    // Never is the most.
    let (before, after) = (replay_share(from), replay_share(to));
    found.more_weakens(subject, "replay_share", before, after);
    for (what, from, to) in [
        ("base_backup", &from.base_backup, &to.base_backup),
        (
            "filestore_checkpoint",
            &from.filestore_checkpoint,
            &to.filestore_checkpoint,
        ),
        ("configuration", &from.configuration, &to.configuration),
    ] {
        schedule(subject, what, from, to, found);
    }
    retention(subject, &from.retention, &to.retention, found);
    drills(subject, &from.drills, &to.drills, found);
}

/// How often a schedule fires: the longest time between two, and how many there
/// are in a year.
fn rhythm(cron: &Cron) -> (u64, u64) {
    // Any year will do; UTC, so that the change of clocks makes no difference.
    let start = Timestamp::from_unix_micros(1_798_761_600_000_000);
    let end = start.plus_millis(YEAR_MS);
    let (mut last, mut longest, mut times) = (start, 0, 0);
    let zone = Zone::UTC.tz();
    // A schedule of every few minutes is known after a few thousand.
    while let Some(next) = cron.next(zone, last).filter(|next| *next < end && times < 4_000) {
        if times > 0 {
            longest = longest.max(next.millis_since(last));
        }
        (last, times) = (next, times + 1);
    }
    if times < 4_000 {
        // Rarer than once a year: there is no second one to measure by.
        longest = longest.max(end.millis_since(last) / 2);
    } else {
        times = times * YEAR_MS.unsigned_abs() / last.millis_since(start).max(1);
    }
    (longest, times)
}

fn schedule(subject: &impl fmt::Display, what: &str, from: &Cron, to: &Cron, found: &mut Found) {
    if from == to {
        return;
    }
    let ((gap_before, before), (gap_after, after)) = (rhythm(from), rhythm(to));
    // The edges of the year may count one more or less.
    let direction = if gap_after > gap_before || after + 1 < before {
        Direction::Weakens
    } else if gap_after < gap_before || after > before + 1 {
        Direction::Strengthens
    } else {
        Direction::Neutral
    };
    found.add(subject, what, (from, to), direction);
}

fn retention(subject: &impl fmt::Display, from: &Retention, to: &Retention, found: &mut Found) {
    let direction = match (from.keeps_everything(), to.keeps_everything()) {
        (true, true) => return,
        (true, false) => Some(Direction::Weakens),
        (false, true) => Some(Direction::Strengthens),
        (false, false) => None,
    };
    if let Some(direction) = direction {
        return found.add(subject, "retention", (from, to), direction);
    }
    let count = |n: Option<u32>| n.unwrap_or(0);
    found.less_weakens(
        subject,
        "retention.backups",
        count(from.backups),
        count(to.backups),
    );
    if from.window != to.window {
        let shown = |r: &Retention| r.window.map_or("none".to_owned(), |window| window.to_string());
        let direction = match from.window > to.window {
            true => Direction::Weakens,
            false => Direction::Strengthens,
        };
        found.add(subject, "retention.window", (shown(from), shown(to)), direction);
    }
    for ((name, from), (_, to)) in from.generations.named().into_iter().zip(to.generations.named()) {
        found.less_weakens(subject, &format!("retention.{name}"), from, to);
    }
}

/// Whether a drill proves all that another one proves, as often.
fn proves(drill: &Drill, other: &Drill) -> bool {
    drill.scenario == other.scenario && drill.level >= other.level && drill.every <= other.every
}

fn drills(subject: &impl fmt::Display, from: &[Drill], to: &[Drill], found: &mut Found) {
    let missing = |drills: &[Drill], among: &[Drill]| {
        drills
            .iter()
            .any(|drill| !among.iter().any(|other| proves(other, drill)))
    };
    let direction = match (missing(from, to), missing(to, from)) {
        (true, _) => Direction::Weakens,
        (false, true) => Direction::Strengthens,
        (false, false) => return,
    };
    let shown = |drills: &[Drill]| {
        let drills: Vec<String> = drills
            .iter()
            .map(|d| format!("{} {} every {}", d.scenario, d.level, d.every))
            .collect();
        list(&drills)
    };
    found.add(subject, "drills", (shown(from), shown(to)), direction);
}

fn residency(
    subject: &impl fmt::Display,
    (from, to): (Option<&Residency>, Option<&Residency>),
    found: &mut Found,
) {
    let (from, to) = match (from, to) {
        (None, None) => return,
        (Some(from), None) => {
            return found.add(subject, "residency", (&from.name, "anywhere"), Direction::Weakens);
        }
        (None, Some(to)) => {
            return found.add(
                subject,
                "residency",
                ("anywhere", &to.name),
                Direction::Strengthens,
            );
        }
        (Some(from), Some(to)) => (from, to),
    };
    let regions = |r: &Residency| r.regions.iter().cloned().collect::<Vec<_>>();
    found.gain_weakens(subject, "residency's regions", &regions(from), &regions(to));
    let providers = |r: &Residency| r.providers.iter().cloned().collect::<Vec<_>>();
    let (before, after) = (providers(from), providers(to));
    match (before.is_empty(), after.is_empty()) {
        (true, true) => {}
        (false, true) => found.add(
            subject,
            "residency's providers",
            (list(&before), "any"),
            Direction::Weakens,
        ),
        (true, false) => found.add(
            subject,
            "residency's providers",
            ("any", list(&after)),
            Direction::Strengthens,
        ),
        (false, false) => found.gain_weakens(subject, "residency's providers", &before, &after),
    }
}
