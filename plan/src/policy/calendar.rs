//! Calendars: payroll, month-end close, billing, a bid cycle.
//!
//! A calendar has windows. While one is open, policy says something else about
//! the clusters that the calendar covers: a tighter RPO, work that waits, one
//! more approver; and at its edges a recovery point may be pinned.
//!
//! A window begins when the clock of the calendar's zone shows it and lasts for
//! elapsed time, so that one of 36 hours is as long in the night in which clocks
//! change as in any other.
//!
//! What is not here: what a window changes for a cluster ([`super::in_force`]),
//! and the recurrence rule itself ([`super::recurrence`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use holdfast_proto::Timestamp;
use holdfast_proto::names::{CalendarName, ClusterId, TenantName, TierName};

use super::approvals::{Approvals, Guarded};
use super::cluster::{ClusterPolicy, Clusters};
use super::recurrence::{LocalDate, LocalTime, Recurrence};
use super::{Tenant, Tier};
use crate::cron::Zone;
use crate::document::Section;
use crate::period::Period;

/// A recurring span of time in which policy says something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calendar {
    /// Its name.
    pub name: CalendarName,
    /// When its windows begin.
    pub recurrence: Recurrence,
    /// How long each lasts, in elapsed time.
    pub duration: Period,
    /// Whom it concerns.
    pub covers: Covers,
    /// What its windows change.
    pub effects: Effects,
}

/// The clusters that a calendar concerns: those that any of the three names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Covers {
    /// By name.
    pub clusters: BTreeSet<ClusterId>,
    /// All of a tenant.
    pub tenants: BTreeSet<TenantName>,
    /// All of a tier.
    pub tiers: BTreeSet<TierName>,
}

/// What an open window changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// The most that may be lost, when that is less than the tier says.
    pub rpo: Option<Period>,
    /// A recovery point is pinned when a window begins.
    pub pin_start: bool,
    /// A recovery point is pinned when a window ends.
    pub pin_end: bool,
    /// What waits until the window is over.
    pub frozen: Frozen,
    /// How many more have to approve.
    pub more_approvers: u32,
}

/// Work that an open window keeps from a cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Frozen {
    /// No base backup is taken.
    pub base_backup: bool,
    /// No drill restores from it.
    pub drill: bool,
    /// Nothing of it is reclaimed.
    pub reclaim: bool,
    /// Its epoch key is not changed.
    pub key_rotation: bool,
}

impl Frozen {
    /// What either of the two freezes.
    pub fn and(self, other: Frozen) -> Frozen {
        Frozen {
            base_backup: self.base_backup || other.base_backup,
            drill: self.drill || other.drill,
            reclaim: self.reclaim || other.reclaim,
            key_rotation: self.key_rotation || other.key_rotation,
        }
    }

    /// What is frozen, by the words of the policy.
    pub fn names(self) -> Vec<&'static str> {
        [
            (self.base_backup, "base_backup"),
            (self.drill, "drill"),
            (self.reclaim, "reclaim"),
            (self.key_rotation, "key_rotation"),
        ]
        .into_iter()
        .filter_map(|(frozen, name)| frozen.then_some(name))
        .collect()
    }
}

/// One occurrence of a calendar: from its start to before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Window {
    /// The first moment in it.
    pub start: Timestamp,
    /// The first moment after it.
    pub end: Timestamp,
}

/// One of the two edges of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edge {
    /// Where it begins.
    Start,
    /// Where it ends.
    End,
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Edge::Start => "start",
            Edge::End => "end",
        })
    }
}

/// A moment at which a calendar wants a recovery point pinned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin {
    /// When.
    pub at: Timestamp,
    /// For which calendar.
    pub calendar: CalendarName,
    /// At which edge of its window.
    pub edge: Edge,
}

impl Calendar {
    /// The windows that have a moment in common with `from..until`, in order.
    pub fn windows(&self, from: Timestamp, until: Timestamp) -> Vec<Window> {
        let earliest = from.plus_millis(-self.duration.signed_millis());
        self.recurrence
            .starts(earliest, until)
            .into_iter()
            .map(|start| self.window(start))
            .filter(|window| window.end > from)
            .collect()
    }

    /// The windows that are open at `now`.
    pub fn open(&self, now: Timestamp) -> Vec<Window> {
        self.windows(now, now.plus_millis(1))
            .into_iter()
            .filter(|window| window.start <= now)
            .collect()
    }

    /// When the next window begins after `now`; `None` when there is none.
    pub fn next_start(&self, now: Timestamp) -> Option<Timestamp> {
        self.recurrence.next(now)
    }

    /// Where recovery points are wanted from `from` to before `until`, in order.
    pub fn pins(&self, from: Timestamp, until: Timestamp) -> Vec<Pin> {
        let wanted = [
            (Edge::Start, self.effects.pin_start),
            (Edge::End, self.effects.pin_end),
        ];
        // A window that ends at `from` has no moment in common with what follows.
        let windows = self.windows(from.plus_millis(-1), until);
        let mut pins: Vec<Pin> = windows
            .into_iter()
            .flat_map(|window| wanted.map(|(edge, wanted)| (window, edge, wanted)))
            .filter(|(_, _, wanted)| *wanted)
            .map(|(window, edge, _)| Pin {
                at: match edge {
                    Edge::Start => window.start,
                    Edge::End => window.end,
                },
                calendar: self.name.clone(),
                edge,
            })
            .filter(|pin| from <= pin.at && pin.at < until)
            .collect();
        pins.sort();
        pins
    }

    /// Whether it concerns a cluster.
    pub fn covers(&self, cluster: &ClusterPolicy) -> bool {
        self.covers.clusters.contains(&cluster.cluster)
            || self.covers.tenants.contains(&cluster.cluster.tenant)
            || self.covers.tiers.contains(&cluster.tier.name)
    }

    fn window(&self, start: Timestamp) -> Window {
        Window {
            start,
            end: start.plus_millis(self.duration.signed_millis()),
        }
    }
}

/// A word of `freeze`.
enum Freezable {
    BaseBackup,
    Drill,
    Reclaim,
    KeyRotation,
}

impl FromStr for Freezable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "base_backup" => Ok(Self::BaseBackup),
            "drill" => Ok(Self::Drill),
            "reclaim" => Ok(Self::Reclaim),
            "key_rotation" => Ok(Self::KeyRotation),
            _ => Err(format!(
                "{text:?} cannot be frozen: write base_backup, drill, reclaim or key_rotation"
            )),
        }
    }
}

impl FromStr for Edge {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "start" => Ok(Self::Start),
            "end" => Ok(Self::End),
            _ => Err(format!("{text:?} is not an edge of a window: write start or end")),
        }
    }
}

/// What a calendar may name.
pub(super) struct Known<'a> {
    pub(super) tenants: &'a BTreeMap<TenantName, Tenant>,
    pub(super) tiers: &'a BTreeMap<TierName, Tier>,
    pub(super) clusters: &'a Clusters,
    pub(super) approvals: &'a Approvals,
}

/// Reads every `[[calendar]]`.
pub(super) fn read_calendars(root: &mut Section<'_>, zone: Zone, known: &Known<'_>) -> Vec<Calendar> {
    let mut calendars: Vec<Calendar> = Vec::new();
    for mut section in root.list("calendar") {
        if let Some(calendar) = read_calendar(&mut section, zone, known) {
            if calendars.iter().any(|other| other.name == calendar.name) {
                section.problem(format!(
                    "calendar {} is named twice: keep one of the two",
                    calendar.name
                ));
            }
            calendars.push(calendar);
        }
        section.finish();
    }
    calendars.sort_by(|a, b| a.name.cmp(&b.name));
    calendars
}

fn read_calendar(section: &mut Section<'_>, zone: Zone, known: &Known<'_>) -> Option<Calendar> {
    let name = section.required::<CalendarName>("name", "payroll");
    let zone = section.optional::<Zone>("time_zone").unwrap_or(zone);
    let begins = section.required::<LocalTime>("begins", "2026-01-01T18:00");
    let rule = section.required_at::<String>("recurrence", "FREQ=MONTHLY;BYMONTHDAY=25");
    let except = section.texts::<LocalDate>("except").unwrap_or_default();
    let recurrence = begins.zip(rule).and_then(|(begins, (rule, at))| {
        Recurrence::new(&rule, zone, begins, except.into_iter().collect())
            .map_err(|e| section.problem_at(&at, e.to_string()))
            .ok()
    });
    let duration = section.required::<Period>("duration", "36h");
    let covers = read_covers(section, known);
    let effects = read_effects(section);
    let calendar = Calendar {
        name: name?,
        recurrence: recurrence?,
        duration: duration?,
        covers,
        effects: effects?,
    };
    check(section, &calendar, known);
    Some(calendar)
}

fn read_covers(section: &mut Section<'_>, known: &Known<'_>) -> Covers {
    let clusters = section.texts::<ClusterId>("clusters").unwrap_or_default();
    let tenants = section.texts::<TenantName>("tenants").unwrap_or_default();
    let tiers = section.texts::<TierName>("tiers").unwrap_or_default();
    if clusters.is_empty() && tenants.is_empty() && tiers.is_empty() {
        section.problem("concerns nobody: write clusters, tenants or tiers, each a list of names");
    }
    // A pattern may match anything that agents report.
    let named = &known.clusters.named;
    let closed = known.clusters.patterns.is_empty();
    for cluster in clusters.iter().filter(|c| closed && !named.contains_key(c)) {
        section.problem(format!(
            "clusters names {cluster}, which has no [[cluster]] entry: correct it or add one"
        ));
    }
    let of_cluster = |tenant: &TenantName| !closed || named.keys().any(|c| c.tenant == *tenant);
    for tenant in &tenants {
        if !known.tenants.contains_key(tenant) && !of_cluster(tenant) {
            section.problem(format!(
                "tenants names {tenant}, of which there is nothing: correct it or add it"
            ));
        }
    }
    for tier in tiers.iter().filter(|tier| !known.tiers.contains_key(tier)) {
        section.problem(format!("tiers names {tier}, and there is no such tier"));
    }
    Covers {
        clusters: clusters.into_iter().collect(),
        tenants: tenants.into_iter().collect(),
        tiers: tiers.into_iter().collect(),
    }
}

fn read_effects(section: &mut Section<'_>) -> Option<Effects> {
    let rpo = section.optional::<Period>("rpo");
    let pins = section.texts::<Edge>("pin").unwrap_or_default();
    let mut frozen = Frozen::default();
    for freeze in section.texts::<Freezable>("freeze").unwrap_or_default() {
        match freeze {
            Freezable::BaseBackup => frozen.base_backup = true,
            Freezable::Drill => frozen.drill = true,
            Freezable::Reclaim => frozen.reclaim = true,
            Freezable::KeyRotation => frozen.key_rotation = true,
        }
    }
    let more_approvers = section.optional_number("more_approvers", 0..=9).unwrap_or(0);
    let effects = Effects {
        rpo,
        pin_start: pins.contains(&Edge::Start),
        pin_end: pins.contains(&Edge::End),
        frozen,
        more_approvers: u32::try_from(more_approvers).ok()?,
    };
    if effects == Effects::default() {
        section.problem("changes nothing: write rpo, pin, freeze or more_approvers");
    }
    Some(effects)
}

/// What could never be met, or tightens nothing, is a mistake in one of two places.
fn check(section: &Section<'_>, calendar: &Calendar, known: &Known<'_>) {
    let more = u64::from(calendar.effects.more_approvers);
    for act in Guarded::ALL.into_iter().filter(|_| more > 0) {
        let rule = known.approvals.rule(act);
        if let Some(members) = known.approvals.members(&rule)
            && (members.len() as u64) < u64::from(rule.approvers) + more
        {
            section.problem(format!(
                "more_approvers of {more} makes {act} need {} approvers, and its groups have {} members: it could \
                 never be met",
                u64::from(rule.approvers) + more,
                members.len()
            ));
        }
    }
    let Some(rpo) = calendar.effects.rpo else { return };
    let named = known.clusters.named.values();
    let loose: Vec<String> = named
        .filter(|cluster| calendar.covers(cluster) && rpo >= cluster.tier.rpo)
        .map(|cluster| format!("{} ({})", cluster.cluster, cluster.tier.rpo))
        .collect();
    if !loose.is_empty() {
        section.problem(format!(
            "rpo of {rpo} is not tighter than what the tier says for {}: lower it",
            loose.join(", ")
        ));
    }
}

#[cfg(test)]
mod tests;
