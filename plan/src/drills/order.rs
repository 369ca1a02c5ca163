//! In which order drills are run.
//!
//! Every drill takes one of the places that capacity gives: so many a day. Let all that
//! is wanted stand in the order of its deadlines. If the one at place *i* (from 0) has
//! no more than *i* + 1 places left before its deadline, then it and all before it have
//! to be run in just that order, or something is late: these are *pressing*. Whatever
//! else is run while nothing presses costs one place and no deadline. So the rest may
//! go by risk, and a set of deadlines that can be kept at all is kept.

use holdfast_proto::Timestamp;

use super::{Wanted, When};
use crate::policy::Policy;

const DAY_MS: u64 = 86_400_000;

/// Sorts `wanted`, and marks what is pressing.
pub(super) fn sort(wanted: &mut [Wanted], policy: &Policy, now: Timestamp) {
    // One order that depends on nothing but the facts.
    let name = |w: &Wanted| (w.cluster.clone(), w.scenario.to_string(), w.level, w.aim.clone());
    wanted.sort_by_cached_key(|w| (is_kept(w), w.deadline, name(w)));
    let able = wanted.iter().take_while(|w| !is_kept(w)).count();
    let per_day = u64::from(policy.coverage().per_day);
    let tight = |(i, w): &(usize, &Wanted)| places(w.deadline, per_day, now) <= *i as u64 + 1;
    let pressing = wanted[..able]
        .iter()
        .enumerate()
        .filter(tight)
        .map(|(i, _)| i + 1)
        .max()
        .unwrap_or(0);
    for one in &mut wanted[..pressing] {
        one.when = When::Pressing;
    }
    // Among what is late already no order keeps a deadline: the riskiest first.
    let late = wanted[..pressing]
        .iter()
        .take_while(|w| w.deadline <= now)
        .count();
    let by_risk = |w: &Wanted| (std::cmp::Reverse(w.risk()), w.deadline, name(w));
    wanted[..late].sort_by_cached_key(by_risk);
    wanted[pressing..able].sort_by_cached_key(|w| (!w.is_due(), by_risk(w)));
    let from = |w: &Wanted| match w.when {
        When::From(at) => Some(at),
        _ => None,
    };
    let due = wanted[pressing..able].iter().take_while(|w| w.is_due()).count();
    wanted[pressing + due..able].sort_by_cached_key(|w| (from(w), by_risk(w)));
}

/// Whether something keeps it that the planner cannot change.
fn is_kept(w: &Wanted) -> bool {
    matches!(w.when, When::Held(_))
}

/// The drills that can be begun before a deadline.
fn places(deadline: Timestamp, per_day: u64, now: Timestamp) -> u64 {
    if deadline <= now {
        return 0;
    }
    let left = u128::from(deadline.millis_since(now));
    let places = left * u128::from(per_day) / u128::from(DAY_MS);
    u64::try_from(places).unwrap_or(u64::MAX)
}
