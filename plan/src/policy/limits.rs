//! Limits: how much work may be under way at the same time, so that a fleet's
//! backups do not fall on one host, line or store together.

use super::Policy;
use crate::document::Section;

/// The most pieces of work at once; `None`: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of one agent's host.
    pub per_host: Option<u32>,
    /// Into one region.
    pub per_region: Option<u32>,
    /// Into one store.
    pub per_store: Option<u32>,
}

impl Policy {
    /// How much work may be under way at the same time.
    pub fn limits(&self) -> Limits {
        self.limits
    }
}

/// Reads `[limits]`.
pub(super) fn read_limits(root: &mut Section<'_>) -> Limits {
    let Some(mut section) = root.section("limits") else {
        return Limits::default();
    };
    let mut number = |key| {
        let read = section.optional_number(key, 1..=10_000);
        read.and_then(|n| u32::try_from(n).ok())
    };
    let limits = Limits {
        per_host: number("per_host"),
        per_region: number("per_region"),
        per_store: number("per_store"),
    };
    section.finish();
    limits
}
