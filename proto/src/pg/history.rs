//! Timeline history files (`src/backend/access/transam/timeline.c`).
//!
//! Each line names an ancestor timeline, the position at which it was left, and
//! a reason. A timeline without a history file is timeline 1.

use serde::{Deserialize, Serialize};

use super::{Lsn, TimelineId};

/// One ancestor: the timeline and the position at which its child begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineSwitch {
    /// The ancestor.
    pub timeline: TimelineId,
    /// The first position that belongs to the next timeline.
    pub end: Lsn,
}

/// The ancestry of one timeline, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    timeline: TimelineId,
    ancestors: Vec<TimelineSwitch>,
}

/// A history file that PostgreSQL would refuse as well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the history of timeline {timeline} is damaged at line {line}: {why}")]
pub struct BadHistory {
    timeline: TimelineId,
    line: usize,
    why: &'static str,
}

impl TimelineHistory {
    /// The history of a timeline that has no ancestors.
    pub fn root(timeline: TimelineId) -> Self {
        Self {
            timeline,
            ancestors: Vec::new(),
        }
    }

    /// Parses the content of `timeline`'s history file.
    ///
    /// # Errors
    /// A line that has no timeline and position, or timelines that do not
    /// ascend to below `timeline`, or positions that go back.
    pub fn parse(timeline: TimelineId, text: &str) -> Result<Self, BadHistory> {
        let mut ancestors: Vec<TimelineSwitch> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let bad = |why| BadHistory {
                timeline,
                line: at + 1,
                why,
            };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_whitespace();
            let id = words
                .next()
                .and_then(|w| w.parse().ok())
                .and_then(TimelineId::new)
                .ok_or_else(|| bad("the line does not begin with a timeline"))?;
            let end = words
                .next()
                .and_then(|w| w.parse().ok())
                .ok_or_else(|| bad("the timeline is not followed by an LSN"))?;
            if let Some(last) = ancestors.last() {
                if last.timeline >= id {
                    return Err(bad("timelines do not ascend"));
                }
                if last.end > end {
                    return Err(bad("positions go back"));
                }
            }
            if id >= timeline {
                return Err(bad("an ancestor is not older than the timeline itself"));
            }
            ancestors.push(TimelineSwitch { timeline: id, end });
        }
        Ok(Self { timeline, ancestors })
    }

    /// The timeline this is the history of.
    pub const fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// Its ancestors, oldest first.
    pub fn ancestors(&self) -> &[TimelineSwitch] {
        &self.ancestors
    }

    /// Where this timeline begins: the end of its parent, or `None` for a root.
    pub fn begin(&self) -> Option<Lsn> {
        self.ancestors.last().map(|s| s.end)
    }

    /// The timeline that owns the byte at `lsn` in this ancestry.
    pub fn owner_of(&self, lsn: Lsn) -> TimelineId {
        self.ancestors
            .iter()
            .find(|s| lsn < s.end)
            .map_or(self.timeline, |s| s.timeline)
    }

    /// Whether a backup that stopped at `lsn` on `timeline` can be replayed
    /// along this ancestry.
    pub fn contains(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        if timeline == self.timeline {
            return self.begin().is_none_or(|b| lsn >= b);
        }
        self.ancestors
            .iter()
            .any(|s| s.timeline == timeline && lsn <= s.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(id: u32) -> TimelineId {
        TimelineId::new(id).unwrap()
    }

    #[test]
    fn follows_ancestors() {
        let h = TimelineHistory::parse(
            t(4),
            "1\t0/3000000\tno recovery target specified\n\n3\t0/5000100\treason\n",
        )
        .unwrap();
        assert_eq!(h.owner_of(Lsn::new(0x2FF_FFFF)), t(1));
        assert_eq!(h.owner_of(Lsn::new(0x300_0000)), t(3));
        assert_eq!(h.owner_of(Lsn::new(0x500_0100)), t(4));
        assert!(h.contains(t(1), Lsn::new(0x300_0000)));
        assert!(!h.contains(t(1), Lsn::new(0x300_0001)));
        assert!(!h.contains(t(2), Lsn::new(1)));
    }

    #[test]
    fn refuses_damage() {
        for bad in ["x 0/1", "1", "1 0", "3 0/1\n1 0/2", "1 0/9\n2 0/1", "4 0/1"] {
            assert!(TimelineHistory::parse(t(4), bad).is_err(), "{bad}");
        }
    }
}
