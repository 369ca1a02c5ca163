//! The time line of a cluster: what can be restored, what interrupts it, and what was
//! done and proven, drawn from left to right up to now.
//!
//! Pure. Positions are in percent of the drawing's width, so that it fits any screen;
//! the template lays rows.

use holdfast_plan::restore::{Facts, Interval, Restorable, extent};
use holdfast_proto::Timestamp;

use crate::survey::DrillSeen;

/// The drawing's width.
const WIDTH: f64 = 100.0;
/// The height of one row.
pub const ROW: u32 = 26;
/// Slices of the drawing that lead to the moment in their middle.
const SLICES: u32 = 50;
/// Lines of events that get a row of their own.
const LINES: usize = 6;
/// Marks in a row; more say nothing on a screen.
const MARKS: usize = 400;

/// How far back a drawing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// The least that shows all, five weeks at most.
    Fitting,
    /// This many milliseconds.
    Back(u64),
    /// As far as anything can be restored.
    All,
}

/// The windows that are offered: their names, and how far back they go.
pub const OFFERED: [(&str, &str, u64); 6] = [
    ("10m", "10 minutes", 600_000),
    ("1h", "hour", 3_600_000),
    ("1d", "day", 86_400_000),
    ("7d", "week", 7 * 86_400_000),
    ("35d", "5 weeks", 35 * 86_400_000),
    ("366d", "year", 366 * 86_400_000),
];

impl Window {
    /// What a link calls it; without a known name the one that fits.
    pub fn named(name: &str) -> Self {
        if name == "all" {
            return Self::All;
        }
        OFFERED
            .iter()
            .find(|(known, ..)| *known == name)
            .map_or(Self::Fitting, |(_, _, ms)| Self::Back(*ms))
    }

    /// Its name in a link; empty for the one that fits.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fitting => "",
            Self::All => "all",
            Self::Back(ms) => OFFERED
                .iter()
                .find(|(.., of)| *of == ms)
                .map_or("", |(name, ..)| name),
        }
    }

    fn length(self, first: Option<Timestamp>, now: Timestamp) -> u64 {
        let whole = first.map_or(0, |first| now.millis_since(first));
        let fitting = || {
            let five_weeks = OFFERED[4].2;
            let mut lengths = OFFERED[..4].iter().map(|(.., ms)| *ms);
            lengths.find(|ms| *ms >= whole).unwrap_or(five_weeks)
        };
        match self {
            Self::Back(ms) => ms,
            Self::Fitting => fitting(),
            // A little air at the left.
            Self::All => (whole + whole / 50).max(60_000),
        }
    }
}

/// A stretch of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Stretch {
    /// Left end.
    pub x: String,
    /// Width.
    pub width: String,
    /// `good`, or `hole`.
    pub class: &'static str,
    /// What it is.
    pub title: String,
}

/// A mark in a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// Its middle.
    pub x: String,
    /// `good`, `bad`, `warn` or `quiet`.
    pub class: &'static str,
    /// What it is.
    pub title: String,
    /// Where it leads.
    pub link: Option<String>,
}

/// A row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What it shows.
    pub label: String,
    /// Its upper edge.
    pub y: u32,
    /// Stretches.
    pub stretches: Vec<Stretch>,
    /// Marks.
    pub marks: Vec<Mark>,
}

/// A moment on the axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    /// Where.
    pub x: String,
    /// What it is called.
    pub label: String,
}

/// A part of the drawing that leads to the moment in its middle.
#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    /// Left end.
    pub x: String,
    /// Width.
    pub width: String,
    /// The moment, as a link takes it.
    pub moment: String,
    /// The moment, for people.
    pub title: String,
}

/// The drawing.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawing {
    /// Its rows, from above.
    pub rows: Vec<Row>,
    /// Its axis.
    pub ticks: Vec<Tick>,
    /// Where it leads.
    pub slices: Vec<Slice>,
    /// Height of the rows together.
    pub height: u32,
    /// Where the chosen moment is.
    pub chosen: Option<String>,
    /// What it shows, in words.
    pub words: String,
}

/// From moments to places.
struct Scale {
    from: Timestamp,
    length: u64,
}

impl Scale {
    fn x(&self, at: Timestamp) -> f64 {
        let micros = at.unix_micros() - self.from.unix_micros();
        let share = micros as f64 / (self.length.max(1) as f64 * 1000.0);
        share * WIDTH
    }

    fn shows(&self, at: Timestamp) -> bool {
        (0.0..=WIDTH).contains(&self.x(at))
    }

    /// A stretch, cut at the edges; at least as wide as can be seen.
    fn stretch(&self, from: Timestamp, to: Timestamp, class: &'static str, title: String) -> Option<Stretch> {
        let (left, right) = (self.x(from).max(0.0), self.x(to).min(WIDTH));
        if self.x(to) < 0.0 || self.x(from) > WIDTH {
            return None;
        }
        let width = (right - left).max(0.3);
        let left = left.min(WIDTH - width);
        Some(Stretch {
            x: format!("{left:.2}"),
            width: format!("{width:.2}"),
            class,
            title,
        })
    }

    fn mark(&self, at: Timestamp, class: &'static str, title: String, link: Option<String>) -> Option<Mark> {
        self.shows(at).then(|| Mark {
            x: format!("{:.2}", self.x(at).clamp(0.3, WIDTH - 0.3)),
            class,
            title,
            link,
        })
    }
}

fn exact(at: Timestamp) -> String {
    at.to_chrono().format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// What a drawing is made from.
pub struct Subject<'s> {
    /// What the repository holds.
    pub facts: &'s Facts,
    /// What can be restored of it.
    pub restorable: &'s Restorable,
    /// The cluster's drills.
    pub drills: &'s [DrillSeen],
    /// The moment that was chosen.
    pub chosen: Option<Timestamp>,
}

impl Drawing {
    /// Draws it up to `now`.
    pub fn of(subject: &Subject<'_>, window: Window, now: Timestamp) -> Self {
        let (facts, restorable) = (subject.facts, subject.restorable);
        let first = restorable
            .intervals
            .iter()
            .filter_map(|i| extent(facts, i))
            .map(|(from, _)| from)
            .min();
        let length = window.length(first, now);
        let scale = Scale {
            from: now.plus_millis(-i64::try_from(length).unwrap_or(i64::MAX)),
            length,
        };
        let mut rows = Vec::new();
        for line in lines(restorable) {
            rows.push(restorable_row(&scale, facts, restorable, &line));
        }
        rows.push(bases(&scale, facts));
        rows.push(points(&scale, facts));
        rows.push(drills(&scale, subject.drills));
        for (row, n) in rows.iter_mut().zip(0..) {
            row.y = n * ROW;
        }
        let height = u32::try_from(rows.len()).unwrap_or(u32::MAX) * ROW;
        Self {
            words: words(&rows, length),
            rows,
            ticks: ticks(&scale),
            slices: slices(&scale),
            height,
            chosen: subject
                .chosen
                .filter(|at| scale.shows(*at))
                .map(|at| format!("{:.2}", scale.x(at))),
        }
    }
}

/// What somebody hears who does not see it.
fn words(rows: &[Row], length: u64) -> String {
    let counts: Vec<String> = rows
        .iter()
        .map(|row| {
            let holes = row.stretches.iter().filter(|s| s.class == "hole").count();
            match (row.stretches.len() - holes, holes, row.marks.len()) {
                (0, 0, marks) => format!("{}: {marks}", row.label),
                (good, 0, _) => format!("{}: {good} without a gap", row.label),
                (good, holes, _) => format!("{}: {good}, with {holes} gaps", row.label),
            }
        })
        .collect();
    format!("The last {}. {}", crate::page::length(length), counts.join("; "))
}

/// The lines of events, the newest first: intervals that share a row.
fn lines(restorable: &Restorable) -> Vec<Vec<&Interval>> {
    let mut lines: Vec<Vec<&Interval>> = Vec::new();
    for interval in restorable.intervals.iter().rev() {
        let same = |line: &&mut Vec<&Interval>| {
            line.first().is_some_and(|first| {
                (first.to.lineage, first.to.timeline) == (interval.to.lineage, interval.to.timeline)
            })
        };
        match lines.iter_mut().find(same) {
            Some(line) => line.push(interval),
            None => lines.push(vec![interval]),
        }
    }
    lines.truncate(LINES);
    lines
}

fn restorable_row(scale: &Scale, facts: &Facts, restorable: &Restorable, line: &[&Interval]) -> Row {
    let mut stretches: Vec<Stretch> = line
        .iter()
        .filter_map(|interval| {
            let (from, to) = extent(facts, interval)?;
            let said = if interval.attested {
                ", attested: nothing was committed beyond it by then"
            } else {
                ""
            };
            let title = format!("restorable from {} to {}{said}", exact(from), exact(to));
            scale.stretch(from, to, "good", title)
        })
        .collect();
    let lineage = line.first().map(|i| (i.to.lineage, i.to.timeline));
    stretches.extend(restorable.gaps.iter().filter_map(|hole| {
        lineage.filter(|(of, _)| *of == hole.lineage)?;
        let from = hole.gap.after?;
        let to = hole.gap.before.unwrap_or(from);
        let title = format!(
            "WAL from {} to {} is missing, {} to {}: {}",
            hole.gap.from,
            hole.gap.to,
            exact(from),
            exact(to),
            hole.cause
        );
        scale.stretch(from, to, "hole", title)
    }));
    let label = match lineage {
        Some((lineage, timeline)) => format!("generation {}, timeline {timeline}", lineage.generation),
        None => String::new(),
    };
    Row {
        label,
        y: 0,
        stretches,
        marks: Vec::new(),
    }
}

fn bases(scale: &Scale, facts: &Facts) -> Row {
    let marks = facts
        .lineages
        .iter()
        .flat_map(|l| &l.bases)
        .rev()
        .filter_map(|base| {
            let (class, note) = match base.pages_bad {
                0 => ("good", String::new()),
                n => ("bad", format!(", {n} damaged pages at the source")),
            };
            let title = format!("base backup {}, complete {}{note}", base.id, exact(base.stopped));
            scale.mark(base.stopped, class, title, None)
        });
    Row {
        label: "base backups".to_owned(),
        y: 0,
        stretches: Vec::new(),
        marks: marks.take(MARKS).collect(),
    }
}

fn points(scale: &Scale, facts: &Facts) -> Row {
    let points = facts.lineages.iter().flat_map(|l| &l.points).rev();
    let marks = points.filter_map(|point| {
        let title = format!("recovery point {}: {}", point.name, exact(point.at));
        scale.mark(point.at, "quiet", title, None)
    });
    Row {
        label: "recovery points".to_owned(),
        y: 0,
        stretches: Vec::new(),
        marks: marks.take(MARKS).collect(),
    }
}

/// How a drill's end is shown.
pub fn verdict(drill: &DrillSeen) -> (&'static str, &str) {
    match drill.result.as_ref().map(|r| r.verdict.as_str()) {
        Some(verdict @ "PASS") => ("good", verdict),
        Some(verdict @ "PASS_WITH_EXCEPTIONS") => ("warn", verdict),
        Some(verdict) => ("bad", verdict),
        None => ("quiet", "no result"),
    }
}

/// Where its page is.
pub fn evidence(drill: &DrillSeen) -> Option<String> {
    let shown = drill.result.as_ref().is_some_and(|r| r.verdict != "ABANDONED");
    shown.then(|| format!("/evidence/{}", drill.id))
}

fn drills(scale: &Scale, drills: &[DrillSeen]) -> Row {
    let marks = drills.iter().rev().filter_map(|drill| {
        let (class, verdict) = verdict(drill);
        let at = drill.result.as_ref().map_or(drill.began, |r| r.at);
        let title = format!(
            "drill {} {}: {verdict}, {}",
            drill.level,
            drill.scenario,
            exact(at)
        );
        scale.mark(at, class, title, evidence(drill))
    });
    Row {
        label: "drills".to_owned(),
        y: 0,
        stretches: Vec::new(),
        marks: marks.take(MARKS).collect(),
    }
}

/// Steps of an axis, in milliseconds.
const STEPS: [u64; 19] = [
    10_000,
    30_000,
    60_000,
    120_000,
    300_000,
    600_000,
    1_800_000,
    3_600_000,
    3 * 3_600_000,
    6 * 3_600_000,
    12 * 3_600_000,
    86_400_000,
    2 * 86_400_000,
    7 * 86_400_000,
    14 * 86_400_000,
    30 * 86_400_000,
    91 * 86_400_000,
    183 * 86_400_000,
    366 * 86_400_000,
];

fn ticks(scale: &Scale) -> Vec<Tick> {
    let step = STEPS
        .iter()
        .copied()
        .find(|step| scale.length / step <= 7)
        .unwrap_or(STEPS[STEPS.len() - 1]);
    let form = match step {
        0..60_000 => "%H:%M:%S",
        60_000..43_200_000 => "%H:%M",
        43_200_000..86_400_000 => "%d %b %H:%M",
        86_400_000..7_862_400_000 => "%d %b",
        _ => "%b %Y",
    };
    let start = scale.from.unix_micros() / 1000;
    let step = i64::try_from(step).unwrap_or(i64::MAX);
    let mut at = start.div_euclid(step) * step;
    let mut ticks = Vec::new();
    while ticks.len() < 12 {
        at = at.saturating_add(step);
        let moment = Timestamp::from_unix_micros(at.saturating_mul(1000));
        let x = scale.x(moment);
        if x > WIDTH - 3.0 {
            break;
        }
        // One at the very edge would be cut.
        if x >= 3.0 {
            ticks.push(Tick {
                x: format!("{x:.2}"),
                label: moment.to_chrono().format(form).to_string(),
            });
        }
    }
    ticks
}

fn slices(scale: &Scale) -> Vec<Slice> {
    let part = scale.length / u64::from(SLICES);
    (0..SLICES)
        .map(|n| {
            let middle = u64::from(n) * part + part / 2;
            let at = scale.from.plus_millis(i64::try_from(middle).unwrap_or(i64::MAX));
            // Whole seconds are what people ask for.
            let at = Timestamp::from_unix_micros(at.unix_micros().div_euclid(1_000_000) * 1_000_000);
            let width = WIDTH / f64::from(SLICES);
            Slice {
                x: format!("{:.2}", f64::from(n) * width),
                width: format!("{width:.2}"),
                moment: at.to_chrono().format("%Y-%m-%dT%H:%M:%SZ").to_string(),
                title: format!("what a restore to {} takes", exact(at)),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_window_is_the_least_that_shows_all() {
        let now = at("2026-11-21T12:00:00Z");
        let back = |ms: i64| Some(now.plus_millis(-ms));
        let fitting = |first| Window::Fitting.length(first, now);
        assert_eq!(fitting(None), 600_000);
        assert_eq!(fitting(back(3_600_001)), 86_400_000);
        assert_eq!(
            fitting(back(400 * 86_400_000)),
            35 * 86_400_000,
            "five weeks at most"
        );
        assert_eq!(Window::All.length(back(100_000), now), 102_000);
        for (name, ..) in OFFERED {
            assert_eq!(Window::named(name).name(), name);
        }
        assert_eq!(Window::named("nonsense"), Window::Fitting);
    }

    #[test]
    fn an_axis_has_few_ticks_at_round_moments() {
        for (.., length) in OFFERED {
            let now = at("2026-11-21T12:34:56.789Z");
            let scale = Scale {
                from: now.plus_millis(-i64::try_from(length).unwrap()),
                length,
            };
            let ticks = ticks(&scale);
            assert!((2..=8).contains(&ticks.len()), "{length}: {ticks:?}");
        }
        let day = Scale {
            from: at("2026-11-20T12:34:56Z"),
            length: 86_400_000,
        };
        let labels: Vec<String> = ticks(&day).into_iter().map(|t| t.label).collect();
        assert_eq!(labels, ["18:00", "00:00", "06:00"]);
    }

    #[test]
    fn a_slice_leads_to_a_moment_within_it() {
        let scale = Scale {
            from: at("2026-11-21T12:00:00Z"),
            length: 3_600_000,
        };
        let slices = slices(&scale);
        assert_eq!(slices.len(), 50);
        assert_eq!(slices[0].moment, "2026-11-21T12:00:36Z");
        assert_eq!(slices[49].moment, "2026-11-21T12:59:24Z");
    }

    #[test]
    fn what_is_brief_can_still_be_seen_and_stays_within() {
        let scale = Scale {
            from: at("2026-11-21T12:00:00Z"),
            length: 3_600_000,
        };
        let stretch = |from: &str, to: &str| scale.stretch(at(from), at(to), "good", String::new());
        let brief = stretch("2026-11-21T13:00:00Z", "2026-11-21T13:00:00Z").unwrap();
        assert_eq!((brief.x.as_str(), brief.width.as_str()), ("99.70", "0.30"));
        let cut = stretch("2026-11-20T00:00:00Z", "2026-11-21T12:30:00Z").unwrap();
        assert_eq!((cut.x.as_str(), cut.width.as_str()), ("0.00", "50.00"));
        assert_eq!(stretch("2026-11-20T00:00:00Z", "2026-11-20T12:30:00Z"), None);
    }
}
