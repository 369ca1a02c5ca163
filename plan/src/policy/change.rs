//! What a new policy would change, against the one in force.
//!
//! Every difference is a sentence with from and to, and says whether it asks for
//! less. Where an order cannot be told, the change counts as a weakening: a
//! person then looks at it.
//!
//! What is compared is what holds for clusters, not how the files say it: a
//! number that moved from a tier to a cluster is no change.

mod calendars;
mod clusters;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use holdfast_proto::Timestamp;
use serde::Serialize;

use super::Policy;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Of what: a cluster, a calendar, a route.
    pub subject: String,
    /// Which of its properties.
    pub what: String,
    /// As it is.
    pub from: String,
    /// As it would be.
    pub to: String,
    /// Whether it asks for less.
    pub direction: Direction,
}

/// Whether a change asks for less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// For less: it needs an approval.
    Weakens,
    /// For more.
    Strengthens,
    /// For something else.
    Neutral,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Change {
            subject,
            what,
            from,
            to,
            direction,
        } = self;
        write!(f, "{subject}: {what} from {from} to {to}")?;
        match direction {
            Direction::Weakens => f.write_str(" (weakens)"),
            Direction::Strengthens => f.write_str(" (strengthens)"),
            Direction::Neutral => Ok(()),
        }
    }
}

/// Everything that `new` would change, in order of subjects. `now` is where the
/// windows of calendars are looked at from, for two years.
pub fn changes(old: &Policy, new: &Policy, now: Timestamp) -> Vec<Change> {
    let mut found = Found::default();
    clusters::compare(old, new, now, &mut found);
    calendars::compare(old, new, now, &mut found);
    rules::compare(old, new, &mut found);
    found.changes
}

/// The changes that ask for less.
pub fn weakenings(changes: &[Change]) -> Vec<&Change> {
    changes
        .iter()
        .filter(|change| change.direction == Direction::Weakens)
        .collect()
}

/// Collects differences.
#[derive(Default)]
struct Found {
    changes: Vec<Change>,
}

impl Found {
    fn add(
        &mut self,
        subject: &impl fmt::Display,
        what: impl Into<String>,
        (from, to): (impl fmt::Display, impl fmt::Display),
        direction: Direction,
    ) {
        self.changes.push(Change {
            subject: subject.to_string(),
            what: what.into(),
            from: from.to_string(),
            to: to.to_string(),
            direction,
        });
    }

    /// A value of which less is weaker.
    fn less_weakens<T: Ord + fmt::Display>(
        &mut self,
        subject: &impl fmt::Display,
        what: &str,
        from: T,
        to: T,
    ) {
        let direction = match to.cmp(&from) {
            std::cmp::Ordering::Less => Direction::Weakens,
            std::cmp::Ordering::Equal => return,
            std::cmp::Ordering::Greater => Direction::Strengthens,
        };
        self.add(subject, what, (from, to), direction);
    }

    /// A value of which more is weaker.
    fn more_weakens<T: Ord + fmt::Display>(
        &mut self,
        subject: &impl fmt::Display,
        what: &str,
        from: T,
        to: T,
    ) {
        let direction = match to.cmp(&from) {
            std::cmp::Ordering::Less => Direction::Strengthens,
            std::cmp::Ordering::Equal => return,
            std::cmp::Ordering::Greater => Direction::Weakens,
        };
        self.add(subject, what, (from, to), direction);
    }

    /// A value that has no order.
    fn differs<T: PartialEq + fmt::Display>(
        &mut self,
        subject: &impl fmt::Display,
        what: &str,
        from: T,
        to: T,
    ) {
        if from != to {
            self.add(subject, what, (from, to), Direction::Neutral);
        }
    }

    /// A set, of which losing something is weaker, and winning something is not.
    fn loss_weakens<T: Ord + fmt::Display>(
        &mut self,
        subject: &impl fmt::Display,
        what: &str,
        from: &[T],
        to: &[T],
    ) {
        let lost = from.iter().any(|item| !to.contains(item));
        let won = to.iter().any(|item| !from.contains(item));
        let direction = match (lost, won) {
            (true, _) => Direction::Weakens,
            (false, true) => Direction::Strengthens,
            (false, false) => return,
        };
        self.add(subject, what, (list(from), list(to)), direction);
    }

    /// A set, of which winning something is weaker, and losing something is not.
    fn gain_weakens<T: Ord + fmt::Display>(
        &mut self,
        subject: &impl fmt::Display,
        what: &str,
        from: &[T],
        to: &[T],
    ) {
        let lost = from.iter().any(|item| !to.contains(item));
        let won = to.iter().any(|item| !from.contains(item));
        let direction = match (won, lost) {
            (true, _) => Direction::Weakens,
            (false, true) => Direction::Strengthens,
            (false, false) => return,
        };
        self.add(subject, what, (list(from), list(to)), direction);
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// What is in either of two maps, side by side.
fn side_by_side<'a, K: Ord, V>(
    old: impl IntoIterator<Item = (K, &'a V)>,
    new: impl IntoIterator<Item = (K, &'a V)>,
) -> BTreeMap<K, (Option<&'a V>, Option<&'a V>)> {
    let mut both: BTreeMap<K, (Option<&V>, Option<&V>)> = BTreeMap::new();
    for (key, value) in old {
        both.entry(key).or_default().0 = Some(value);
    }
    for (key, value) in new {
        both.entry(key).or_default().1 = Some(value);
    }
    both
}
