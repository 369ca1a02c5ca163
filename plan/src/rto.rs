//! How long a recovery would take, learnt from recoveries that were carried out.
//!
//! A recovery is a base backup fetched, files restored, WAL replayed, and the rest:
//! keys, starting, promoting. What each of these took, and how much it moved, stands in
//! the statements of drills and of real restores; a real restore has no replay and no rest
//! that it saw, and teaches what its steps took. From a cluster's own a line is fitted
//! for each (a fixed time and a rate), by medians of pairs (Theil–Sen), so that one
//! recovery on a bad day moves nothing. Where there is none the cautious rates of
//! [`Rates`] stand in.
//!
//! How far such forecasts were off is learnt as well: each recovery is forecast from
//! those before it, and the quotients of what it took and what was forecast give the two
//! numbers that people are shown: as often too high as too low (p50), and enough in nine
//! cases of ten (p90). Few quotients are filled up with a spread that is assumed.

use holdfast_proto::Timestamp;
use serde::{Deserialize, Serialize};

use crate::restore::Rates;

#[cfg(test)]
mod tests;

/// Recoveries that are looked at, the newest: machines and data change.
pub const REMEMBERED: usize = 20;

/// Quotients of a recovery nobody has tried yet: that of a slower machine than assumed
/// is more likely than that of a faster one.
const ASSUMED: [f64; 5] = [0.8, 0.9, 1.0, 1.25, 1.7];

/// Own quotients from which on nothing is assumed.
const ENOUGH: usize = 8;

/// Two amounts closer together say nothing about a rate.
const APART: f64 = 1.2;

/// What one step of a recovery took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Took {
    /// Milliseconds.
    pub ms: u64,
    /// Bytes that it moved.
    pub bytes: u64,
    /// Files that it made, for filestores.
    pub items: u64,
}

/// A recovery that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// When it ended.
    pub at: Timestamp,
    /// The base backup.
    pub base: Option<Took>,
    /// The filestores.
    pub files: Option<Took>,
    /// The WAL.
    pub replay: Option<Took>,
    /// From its begin until people could work again, in milliseconds. `None` for a real
    /// restore: it ends with the last file, and others start the server.
    pub total_ms: Option<u64>,
}

/// What a recovery has to move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// Bytes of the base backup, as they are written.
    pub base: u64,
    /// Bytes of files.
    pub file_bytes: u64,
    /// Files.
    pub files: u64,
    /// Bytes of WAL to be replayed.
    pub wal: u64,
}

/// How long it would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// As likely longer as shorter, in milliseconds.
    pub p50_ms: u64,
    /// Nine in ten are shorter, in milliseconds.
    pub p90_ms: u64,
    /// Of the first number: the base backup.
    pub base_ms: u64,
    /// The filestores.
    pub files_ms: u64,
    /// The replay.
    pub replay_ms: u64,
    /// From how many recoveries of the cluster it is learnt; 0: from none, by cautious rates.
    pub recoveries: u32,
}

/// A fixed time and one for each unit.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Line {
    fixed: f64,
    each: f64,
}

impl Line {
    fn at(self, amount: f64) -> f64 {
        self.fixed + self.each * amount
    }

    /// A line through `(amount, milliseconds)`. `None` without a point.
    fn through(points: &[(f64, f64)]) -> Option<Self> {
        let mut slopes = Vec::new();
        for (n, (x, y)) in points.iter().enumerate() {
            for (other_x, other_y) in &points[n + 1..] {
                let (low, high) = (x.min(*other_x), x.max(*other_x));
                if low > 0.0 && high / low >= APART {
                    slopes.push((y - other_y) / (x - other_x));
                }
            }
        }
        let positive: Vec<(f64, f64)> = points.iter().copied().filter(|(x, _)| *x > 0.0).collect();
        // Amounts that are all alike tell no fixed time from one for each.
        let each = match median(&slopes) {
            Some(slope) if slopes.len() >= 3 && slope > 0.0 => slope,
            _ => {
                let each: Vec<f64> = positive.iter().map(|(x, y)| y / x).collect();
                median(&each)?
            }
        };
        let rests: Vec<f64> = points.iter().map(|(x, y)| y - each * x).collect();
        let fixed = median(&rests)?.max(0.0);
        Some(Self { fixed, each })
    }
}

/// What was learnt of a cluster's recoveries.
#[derive(Debug, Clone, PartialEq)]
pub struct Learnt {
    base: Line,
    files: Files,
    replay: Line,
    /// What lies between the steps; below zero where they overlap.
    rest: f64,
    /// Quotients of what recoveries took and what was forecast.
    quotients: Vec<f64>,
    recoveries: usize,
}

/// What the time of a filestore goes by.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Files {
    /// Its bytes.
    Bytes(Line),
    /// Its files.
    Items(Line),
    /// Nobody knows: whichever takes longer.
    Either(Line, Line),
}

impl Files {
    fn at(self, amounts: &Amounts) -> f64 {
        let (bytes, items) = (amounts.file_bytes as f64, amounts.files as f64);
        match self {
            _ if amounts.file_bytes == 0 && amounts.files == 0 => 0.0,
            Files::Bytes(line) => line.at(bytes),
            Files::Items(line) => line.at(items),
            Files::Either(by_bytes, by_items) => by_bytes.at(bytes).max(by_items.at(items)),
        }
    }

    /// The better of the two lines by how far it is off; cautious where there is none.
    fn learnt(recoveries: &[Recovery], rates: &Rates) -> Self {
        let took: Vec<Took> = recoveries.iter().filter_map(|r| r.files).collect();
        let line = |amount: fn(&Took) -> u64| {
            let points: Vec<(f64, f64)> = took.iter().map(|t| (amount(t) as f64, t.ms as f64)).collect();
            let line = Line::through(&points)?;
            let off: Vec<f64> = points.iter().map(|(x, y)| (line.at(*x) - y).abs()).collect();
            Some((line, median(&off)?))
        };
        match (line(|t| t.bytes), line(|t| t.items)) {
            (Some((bytes, off)), Some((_, worse))) if off <= worse => Files::Bytes(bytes),
            (_, Some((items, _))) => Files::Items(items),
            (Some((bytes, _)), None) => Files::Bytes(bytes),
            (None, None) => Files::Either(by_rate(rates.write), by_rate(rates.files)),
        }
    }
}

/// A line through the origin, of so many units in a second.
fn by_rate(per_second: u64) -> Line {
    Line {
        fixed: 0.0,
        each: 1000.0 / per_second.max(1) as f64,
    }
}

impl Learnt {
    /// Learns from `recoveries`, in any order.
    pub fn from(recoveries: &[Recovery]) -> Self {
        let mut known: Vec<Recovery> = recoveries.to_vec();
        known.sort_by_key(|recovery| recovery.at);
        let known = &known[known.len().saturating_sub(REMEMBERED)..];
        // The first is forecast by nothing of its own, which says nothing of the rest.
        let quotients = (1..known.len())
            .filter_map(|n| {
                let total = known[n].total_ms?;
                let forecast = Self::fitted(&known[..n]).likely(&known[n].amounts());
                Some(total as f64 / forecast.max(1.0))
            })
            .collect();
        Self {
            quotients,
            ..Self::fitted(known)
        }
    }

    fn fitted(recoveries: &[Recovery]) -> Self {
        let rates = Rates::default();
        let line = |of: fn(&Recovery) -> Option<Took>| {
            let took = recoveries.iter().filter_map(of);
            let points: Vec<(f64, f64)> = took.map(|t| (t.bytes as f64, t.ms as f64)).collect();
            Line::through(&points)
        };
        let rests: Vec<f64> = recoveries
            .iter()
            .filter_map(|recovery| {
                let steps = [recovery.base, recovery.files, recovery.replay];
                let sum: f64 = steps.into_iter().flatten().map(|took| took.ms as f64).sum();
                Some(recovery.total_ms? as f64 - sum)
            })
            .collect();
        Self {
            base: line(|r| r.base).unwrap_or(by_rate(rates.read)),
            files: Files::learnt(recoveries, &rates),
            replay: line(|r| r.replay).unwrap_or(by_rate(rates.replay)),
            rest: median(&rests).unwrap_or(rates.start_ms as f64),
            quotients: Vec::new(),
            recoveries: recoveries.len(),
        }
    }

    /// The sum of the steps, in milliseconds.
    fn likely(&self, amounts: &Amounts) -> f64 {
        let steps = [
            self.base.at(amounts.base as f64),
            self.files.at(amounts),
            self.replay.at(amounts.wal as f64),
        ];
        let longest = steps.into_iter().fold(0.0, f64::max);
        // Steps that overlap take no less than the longest of them.
        (steps.iter().sum::<f64>() + self.rest).max(longest)
    }

    /// How long a recovery of `amounts` would take.
    pub fn forecast(&self, amounts: &Amounts) -> Forecast {
        let likely = self.likely(amounts);
        let assumed = ENOUGH.saturating_sub(self.quotients.len()) as f64 / ENOUGH as f64;
        let own = self.quotients.iter().map(|quotient| (*quotient, 1.0));
        let others = ASSUMED.iter().map(|quotient| (*quotient, assumed));
        let mut weighed: Vec<(f64, f64)> = own.chain(others).filter(|(_, weight)| *weight > 0.0).collect();
        weighed.sort_by(|a, b| a.0.total_cmp(&b.0));
        let p50 = (likely * quantile(&weighed, 0.5)).max(0.0);
        let p90 = (likely * quantile(&weighed, 0.9)).max(p50);
        let whole = |ms: f64| ms.round().clamp(0.0, u64::MAX as f64) as u64;
        Forecast {
            p50_ms: whole(p50),
            p90_ms: whole(p90),
            base_ms: whole(self.base.at(amounts.base as f64)),
            files_ms: whole(self.files.at(amounts)),
            replay_ms: whole(self.replay.at(amounts.wal as f64)),
            recoveries: u32::try_from(self.recoveries).unwrap_or(u32::MAX),
        }
    }
}

impl Recovery {
    /// What it moved.
    pub fn amounts(&self) -> Amounts {
        let bytes = |took: Option<Took>| took.map_or(0, |took| took.bytes);
        Amounts {
            base: bytes(self.base),
            file_bytes: bytes(self.files),
            files: self.files.map_or(0, |took| took.items),
            wal: bytes(self.replay),
        }
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The value below which `share` of the weight lies. `weighed` is sorted and not empty.
fn quantile(weighed: &[(f64, f64)], share: f64) -> f64 {
    let whole: f64 = weighed.iter().map(|(_, weight)| weight).sum();
    let mut below = 0.0;
    for (value, weight) in weighed {
        below += weight;
        if below >= share * whole {
            return *value;
        }
    }
    weighed.last().map_or(1.0, |(value, _)| *value)
}
