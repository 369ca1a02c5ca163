//! Reference values: what the source's own databases said around a fence.
//!
//! The agent asks the same queries just before and just after the fence's restore
//! point, and seals the answers into the payload of the signed point. A drill
//! that restores to this point asks the copy, and compares.
//!
//! The answers are **exact** when no transaction can have ended between the two
//! readings but the fence's own: then both are what the copy must say. Otherwise
//! they are **bounds**, and the copy must lie between. Sequences are always bounds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the form.
pub const REFERENCE_FORMAT: u32 = 1;

/// The most bytes that the values of one point may have as JSON.
pub const MAX_REFERENCE: usize = 4 << 20;

/// The values of one point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceValues {
    /// [`REFERENCE_FORMAT`].
    pub format: u32,
    /// Whether nothing but the fence itself ended between the two readings.
    pub exact: bool,
    /// Each query's answers.
    pub values: Vec<ReferenceValue>,
}

/// One query's answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceValue {
    /// Its name in the agent's configuration.
    pub name: String,
    /// The database that it was asked in.
    pub database: String,
    /// The query: one column, the value; or two, a key and the value.
    pub query: String,
    /// The sequence whose last value it is. A copy may be ahead of its source: the
    /// log has sequences further on than they are (`SEQ_LOG_VALS` in PostgreSQL's
    /// `sequence.c`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sequence: Option<String>,
    /// The answers before the restore point, by key; the key is empty for a query
    /// of one column.
    pub before: BTreeMap<String, String>,
    /// The answers after it.
    pub after: BTreeMap<String, String>,
}

/// `pg_current_snapshot()`: which transactions are visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// The lowest transaction that is still running.
    pub lowest_running: u64,
    /// The first that has not ended yet, beyond which nothing is visible.
    pub next: u64,
    /// How many of those in between are running.
    pub running: usize,
}

impl Snapshot {
    /// Reads PostgreSQL's form, `xmin:xmax:xip,xip` (`pg_snapshot` in its manual).
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let lowest_running = parts.next()?.parse().ok()?;
        let next = parts.next()?.parse().ok()?;
        let running = parts.next()?.split(',').filter(|x| !x.is_empty()).count();
        parts.next().is_none().then_some(Self {
            lowest_running,
            next,
            running,
        })
    }

    /// Whether nothing was running when it was taken.
    fn is_quiet(self) -> bool {
        self.running == 0 && self.lowest_running == self.next
    }
}

/// Whether exactly one transaction ended between two readings: the fence's own.
/// Every snapshot of the first reading, every one of the second, and whether
/// nobody else had a transaction at the end: one that has written its commit and
/// waits for a standby is in no snapshot, and the copy may have it.
pub fn is_exact(before: &[Snapshot], after: &[Snapshot], alone: bool) -> bool {
    let (Some(first), Some(second)) = (before.first(), after.first()) else {
        return false;
    };
    alone
        && before.iter().all(|s| s == first && s.is_quiet())
        && after.iter().all(|s| s == second && s.is_quiet())
        && second.next == first.next + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        Snapshot::parse(text).unwrap()
    }

    #[test]
    fn reads_snapshots() {
        assert_eq!(snapshot("10:10:").running, 0);
        assert_eq!(snapshot("10:20:10,14").running, 2);
        for bad in ["", "10", "10:20", "x:1:", "1:2:3:4"] {
            assert_eq!(Snapshot::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn values_are_exact_only_when_the_fence_alone_ended() {
        let exact = |before: &[&str], after: &[&str], alone| {
            let all = |texts: &[&str]| texts.iter().map(|t| snapshot(t)).collect::<Vec<_>>();
            is_exact(&all(before), &all(after), alone)
        };
        assert!(exact(&["10:10:"], &["11:11:"], true));
        assert!(exact(&["10:10:", "10:10:"], &["11:11:", "11:11:"], true));
        assert!(
            !exact(&["10:10:"], &["11:11:"], false),
            "somebody is about to be seen"
        );
        assert!(!exact(&["10:10:"], &["12:12:"], true), "another one ended");
        assert!(!exact(&["9:10:9"], &["11:11:"], true), "one that ran has ended");
        assert!(!exact(&["9:10:9"], &["9:11:9"], true));
        assert!(!exact(&["10:10:", "11:11:"], &["12:12:"], true));
        assert!(!exact(&[], &[], true));
    }
}
