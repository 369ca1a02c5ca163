//! How much drills have to cover, and how many there may be.

use super::Policy;
use crate::document::Section;
use crate::period::Period;

/// What drills have to cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coverage {
    /// Within this time each cluster is restored from each replica, with the keys of
    /// each live epoch, and from each kind of base backup.
    pub window: Period,
    /// Drills that the runners can carry out in a day, all together.
    pub per_day: u32,
}

impl Default for Coverage {
    fn default() -> Self {
        Self {
            window: Period::from_millis(92 * 86_400_000).expect("a constant longer than zero"),
            per_day: 4,
        }
    }
}

impl Policy {
    /// What drills have to cover.
    pub fn coverage(&self) -> Coverage {
        self.coverage
    }
}

/// Reads `[drills]`.
pub(super) fn read_coverage(root: &mut Section<'_>) -> Coverage {
    let usual = Coverage::default();
    let Some(mut section) = root.section("drills") else {
        return usual;
    };
    let per_day = section.optional_number("per_day", 1..=10_000);
    let coverage = Coverage {
        window: section.optional("window").unwrap_or(usual.window),
        per_day: per_day
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(usual.per_day),
    };
    section.finish();
    coverage
}
