//! Retention: how long backups are kept.
//!
//! Here are only the numbers and what they must not contradict. What is deleted
//! is computed elsewhere, from what has to be kept.

use std::fmt;

use crate::document::Section;
use crate::period::Period;

/// How long backups are kept: what any of the numbers keeps is kept. With none
/// of them, everything is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// The newest base backups, so many.
    pub backups: Option<u32>,
    /// Every moment of the time before now can be restored.
    pub window: Option<Period>,
    /// The newest backup of each of the last so many days, weeks, months, years.
    pub generations: Generations,
}

/// Grandfather, father, son: the newest backup of each bucket of time, for so
/// many buckets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Generations {
    /// Days of the cluster's time zone.
    pub daily: u32,
    /// Weeks, from Monday.
    pub weekly: u32,
    /// Months.
    pub monthly: u32,
    /// Years.
    pub yearly: u32,
}

impl Generations {
    /// Each bucket's name with its number.
    pub fn named(self) -> [(&'static str, u32); 4] {
        [
            ("daily", self.daily),
            ("weekly", self.weekly),
            ("monthly", self.monthly),
            ("yearly", self.yearly),
        ]
    }
}

impl Retention {
    /// Whether nothing is ever deleted.
    pub fn keeps_everything(&self) -> bool {
        *self == Retention::default()
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        parts.extend(self.backups.map(|n| format!("{n} backups")));
        parts.extend(self.window.map(|window| format!("every moment of {window}")));
        let generations = self.generations.named().into_iter().filter(|(_, n)| *n > 0);
        parts.extend(generations.map(|(name, n)| format!("{n} {name}")));
        if parts.is_empty() {
            f.write_str("everything")
        } else {
            f.write_str(&parts.join(", "))
        }
    }
}

/// The most of one kind of backup that a policy may ask for.
const MOST: u64 = 10_000;

/// Reads `retention`, on top of what a tier says.
pub(super) fn read(above: &mut Section<'_>, model: Retention) -> Retention {
    let Some(mut section) = above.section("retention") else {
        return model;
    };
    let count = |section: &mut Section<'_>, key, model: Option<u32>, least| {
        let read = section.optional_number(key, least..=MOST);
        read.and_then(|n| u32::try_from(n).ok()).or(model)
    };
    let g = model.generations;
    let retention = Retention {
        backups: count(&mut section, "backups", model.backups, 1),
        window: section.optional("window").or(model.window),
        generations: Generations {
            daily: count(&mut section, "daily", Some(g.daily), 0).unwrap_or(0),
            weekly: count(&mut section, "weekly", Some(g.weekly), 0).unwrap_or(0),
            monthly: count(&mut section, "monthly", Some(g.monthly), 0).unwrap_or(0),
            yearly: count(&mut section, "yearly", Some(g.yearly), 0).unwrap_or(0),
        },
    };
    if retention.keeps_everything() {
        section.problem(
            "keeps everything: leave it out, or write backups, window, daily, weekly, monthly or yearly",
        );
    } else if retention.backups.is_none() && retention.window.is_none() {
        // Buckets alone could leave a cluster without a backup of today.
        section.problem("keeps no newest backup for certain: add `backups = 2` or `window = \"14d\"`");
    }
    section.finish();
    retention
}
