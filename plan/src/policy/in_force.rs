//! What policy says of a cluster at a moment: its tier, and what the windows
//! that are open change.
//!
//! Windows add up: the tightest RPO holds, what any window freezes is frozen,
//! and the most additional approvers are asked for.

use holdfast_proto::Timestamp;
use holdfast_proto::message::Directives;
use holdfast_proto::names::{CalendarName, ClusterId};

use super::calendar::{Calendar, Frozen, Pin, Window};
use super::{ClusterPolicy, Policy};
use crate::period::Period;

/// A window that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveWindow {
    /// Of which calendar.
    pub calendar: CalendarName,
    /// When it began.
    pub start: Timestamp,
    /// When it will be over.
    pub end: Timestamp,
}

/// What holds for a cluster at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// The most that may be lost.
    pub rpo: Period,
    /// The longest that new WAL waits before it is uploaded.
    pub tip_interval: Period,
    /// Between an agent's signed statements of how far it is.
    pub attest_interval: Period,
    /// Work that has to wait.
    pub frozen: Frozen,
    /// How many more than the rules say have to approve.
    pub more_approvers: u32,
    /// The windows that are open, by name of calendar and start.
    pub windows: Vec<ActiveWindow>,
}

impl InForce {
    fn outside(policy: &ClusterPolicy) -> Self {
        Self {
            rpo: policy.tier.rpo,
            tip_interval: policy.tier.tip_interval,
            attest_interval: policy.tier.attest_interval,
            frozen: Frozen::default(),
            more_approvers: 0,
            windows: Vec::new(),
        }
    }

    fn enter(&mut self, calendar: &Calendar, window: Window, policy: &ClusterPolicy) {
        let effects = &calendar.effects;
        if let Some(rpo) = effects.rpo.filter(|rpo| *rpo < self.rpo) {
            self.rpo = rpo;
            // A tier's intervals are what makes its RPO hold: they shrink with it.
            self.tip_interval = shrink(policy.tier.tip_interval, rpo, policy.tier.rpo);
            self.attest_interval = shrink(policy.tier.attest_interval, rpo, policy.tier.rpo);
        }
        self.frozen = self.frozen.and(effects.frozen);
        self.more_approvers = self.more_approvers.max(effects.more_approvers);
        self.windows.push(ActiveWindow {
            calendar: calendar.name.clone(),
            start: window.start,
            end: window.end,
        });
    }
}

/// `interval` in the proportion of `to` to `from`, and at least a tenth of a
/// second.
fn shrink(interval: Period, to: Period, from: Period) -> Period {
    let scaled = u128::from(interval.millis()) * u128::from(to.millis()) / u128::from(from.millis());
    let scaled = u64::try_from(scaled).unwrap_or(u64::MAX).max(100);
    Period::from_millis(scaled).unwrap_or(interval).min(interval)
}

/// The windows of all calendars that are open at a moment. Until one closes or another
/// opens they are the same: who asks for many clusters, or often, looks once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenWindows {
    /// The place of the calendar in the policy, and a window of it that is open.
    open: Vec<(usize, Window)>,
    from: Timestamp,
    /// When the first of them closes, or another one opens.
    until: Option<Timestamp>,
}

impl OpenWindows {
    /// Whether the same windows are open at `now`.
    pub fn holds_at(&self, now: Timestamp) -> bool {
        self.from <= now && self.until.is_none_or(|until| now < until)
    }
}

impl Policy {
    /// The windows that are open at `now`.
    pub fn open_windows(&self, now: Timestamp) -> OpenWindows {
        let open: Vec<(usize, Window)> = self
            .calendars()
            .enumerate()
            .flat_map(|(place, calendar)| calendar.open(now).into_iter().map(move |w| (place, w)))
            .collect();
        let opens = self.calendars().filter_map(|calendar| calendar.next_start(now));
        let closes = open.iter().map(|(_, window)| window.end);
        OpenWindows {
            until: opens.chain(closes).min(),
            open,
            from: now,
        }
    }

    /// The open windows that concern a cluster, each with its calendar.
    fn windows_of<'a>(
        &'a self,
        policy: &'a ClusterPolicy,
        open: &'a OpenWindows,
    ) -> impl Iterator<Item = (&'a Calendar, Window)> {
        open.open.iter().filter_map(move |(place, window)| {
            let calendar = self.calendars.get(*place)?;
            calendar.covers(policy).then_some((calendar, *window))
        })
    }

    /// Every calendar, in order of names.
    pub fn calendars(&self) -> impl Iterator<Item = &Calendar> {
        self.calendars.iter()
    }

    /// The calendars of which a window is open at `now`.
    pub fn active(&self, now: Timestamp) -> Vec<&Calendar> {
        self.calendars().filter(|c| !c.open(now).is_empty()).collect()
    }

    /// What holds for a cluster at `now`; `None` when the policy does not name it.
    pub fn in_force(&self, cluster: &ClusterId, now: Timestamp) -> Option<InForce> {
        self.in_force_within(cluster, &self.open_windows(now))
    }

    /// What holds for a cluster while these windows are open; `None` when the policy
    /// does not name it.
    pub fn in_force_within(&self, cluster: &ClusterId, open: &OpenWindows) -> Option<InForce> {
        let policy = self.cluster(cluster)?;
        let mut in_force = InForce::outside(policy);
        for (calendar, window) in self.windows_of(policy, open) {
            in_force.enter(calendar, window, policy);
        }
        Some(in_force)
    }

    /// Of the windows that are open, the one that keeps base backups from a cluster the
    /// longest, and until when.
    pub(crate) fn base_backups_frozen(
        &self,
        policy: &ClusterPolicy,
        open: &OpenWindows,
    ) -> Option<(CalendarName, Timestamp)> {
        self.frozen(policy, open, |frozen| frozen.base_backup)
    }

    /// The same for drills.
    pub(crate) fn drills_frozen(
        &self,
        policy: &ClusterPolicy,
        open: &OpenWindows,
    ) -> Option<(CalendarName, Timestamp)> {
        self.frozen(policy, open, |frozen| frozen.drill)
    }

    fn frozen(
        &self,
        policy: &ClusterPolicy,
        open: &OpenWindows,
        what: impl Fn(Frozen) -> bool,
    ) -> Option<(CalendarName, Timestamp)> {
        self.windows_of(policy, open)
            .filter(|(calendar, _)| what(calendar.effects.frozen))
            .map(|(calendar, window)| (calendar.name.clone(), window.end))
            .max_by_key(|(_, end)| *end)
    }

    /// From when on a base backup that was due at `due` may be taken without a window in
    /// the way, as far as windows began before `now`. One that opens within `grace` of that
    /// moment still keeps it: until then nothing was missed.
    pub fn base_backup_free(
        &self,
        policy: &ClusterPolicy,
        due: Timestamp,
        grace: Period,
        now: Timestamp,
    ) -> Timestamp {
        let mut windows: Vec<Window> = self
            .calendars()
            .filter(|calendar| calendar.effects.frozen.base_backup && calendar.covers(policy))
            .flat_map(|calendar| calendar.windows(due, now))
            .collect();
        windows.sort();
        windows.into_iter().fold(due, |free, window| {
            match window.start <= free.plus_millis(grace.signed_millis()) {
                true => free.max(window.end),
                false => free,
            }
        })
    }

    /// What policy asks for a cluster, with the numbers that hold at `now` put into
    /// its tier.
    pub fn cluster_at(&self, cluster: &ClusterId, now: Timestamp) -> Option<ClusterPolicy> {
        self.cluster_within(cluster, &self.open_windows(now))
    }

    /// As [`Policy::cluster_at`], while these windows are open.
    pub fn cluster_within(&self, cluster: &ClusterId, open: &OpenWindows) -> Option<ClusterPolicy> {
        let mut policy = self.cluster(cluster)?.clone();
        let in_force = self.in_force_within(cluster, open)?;
        policy.tier.rpo = in_force.rpo;
        policy.tier.tip_interval = in_force.tip_interval;
        policy.tier.attest_interval = in_force.attest_interval;
        Some(policy)
    }

    /// Where the calendars want recovery points of a cluster pinned, from `from`
    /// to before `until`, in order. Empty for a cluster that is not named.
    pub fn pins(&self, cluster: &ClusterId, from: Timestamp, until: Timestamp) -> Vec<Pin> {
        let Some(policy) = self.cluster(cluster) else {
            return Vec::new();
        };
        let mut pins: Vec<Pin> = self
            .calendars()
            .filter(|calendar| calendar.covers(policy))
            .flat_map(|calendar| calendar.pins(from, until))
            .collect();
        pins.sort();
        pins
    }

    /// The numbers that a cluster's agent works by at `now`.
    pub fn directives(&self, cluster: &ClusterId, now: Timestamp) -> Option<Directives> {
        self.directives_within(cluster, &self.open_windows(now))
    }

    /// As [`Policy::directives`], while these windows are open.
    pub fn directives_within(&self, cluster: &ClusterId, open: &OpenWindows) -> Option<Directives> {
        let tier = &self.cluster(cluster)?.tier;
        let in_force = self.in_force_within(cluster, open)?;
        Some(Directives {
            cluster: cluster.clone(),
            tier: tier.name.clone(),
            tip_interval_ms: in_force.tip_interval.millis(),
            copies: tier.copies_before_ack,
            fence_interval_ms: tier.fence_interval.millis(),
            attest_interval_ms: in_force.attest_interval.millis(),
            residency: self.residency(cluster).cloned(),
            policy: self.digest.to_string(),
        })
    }
}
