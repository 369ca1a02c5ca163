//! When each phase ran.

use holdfast_proto::Timestamp;

use super::super::Shown;
use super::super::words::{bytes, count, plain, span};

/// A phase as a bar: thousandths of the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) from: u64,
    pub(super) width: u64,
    pub(super) length: String,
    pub(super) note: String,
    pub(super) times: String,
}

pub(super) fn total(shown: &Shown<'_>) -> Option<(Timestamp, Timestamp)> {
    let phases = &shown.statement.predicate.timings.phases;
    Some((
        phases.iter().map(|t| t.start).min()?,
        phases.iter().map(|t| t.end).max()?,
    ))
}

pub(super) fn bars(shown: &Shown<'_>) -> Vec<Bar> {
    let Some((from, to)) = total(shown) else {
        return Vec::new();
    };
    let whole = to.millis_since(from).max(1);
    let part = |at: Timestamp| at.millis_since(from).saturating_mul(1000) / whole;
    let word = |phase| {
        let value = serde_json::to_value(phase).unwrap_or_default();
        plain(value.as_str().unwrap_or_default())
    };
    let clock = |at: Timestamp| at.to_chrono().format("%H:%M:%S%.3f").to_string();
    shown
        .statement
        .predicate
        .timings
        .phases
        .iter()
        .map(|t| Bar {
            name: word(t.phase),
            from: part(t.start).min(996),
            width: part(t.end).saturating_sub(part(t.start)).max(4),
            length: span(t.end.millis_since(t.start)),
            note: [t.bytes.map(bytes), t.items.map(items)]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(", "),
            times: format!("{} to {}", clock(t.start), clock(t.end)),
        })
        .collect()
}

fn items(n: u64) -> String {
    format!("{} item{}", count(n), if n == 1 { "" } else { "s" })
}
