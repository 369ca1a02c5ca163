//! When a schedule fires: POSIX cron expressions in a time zone.
//!
//! The `cron` crate finds the matching times of a plain calendar. What it does
//! not do is done here: the five POSIX fields (it wants seconds and counts
//! Sunday as 1), the POSIX rule that day of month and day of week are
//! alternatives, and days on which the clocks change. Its schedules are only
//! ever evaluated on local time as if that were UTC, and the zone is applied
//! afterwards:
//!
//! - a time that the clocks jump over fires at the first minute after the jump,
//! - a time that happens twice fires the first time only,
//! - a schedule whose hour field begins with `*` means elapsed time instead: it
//!   fires in both passes of a repeated hour and not at all in a skipped one.
//!
//! What holds: [`Cron::next`] is later than its argument, and nothing that
//! fires lies between the two, across every change of clocks.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use chrono::offset::LocalResult;
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, Offset, TimeDelta, TimeZone, Timelike, Utc};
use chrono_tz::Tz;
use holdfast_proto::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A cron expression of five fields: minute, hour, day of month, month, day of
/// week. Lists, ranges, steps on `*` or a range, and English names of months
/// and days are understood.
#[derive(Clone)]
pub struct Cron {
    text: String,
    /// One schedule, or two of which either fires (day of month, day of week).
    calendars: Vec<cron::Schedule>,
    /// The hour field begins with `*`: elapsed time counts, not the clock face.
    elapsed: bool,
}

/// Why a text is not a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCron {
    /// Not five fields.
    #[error(
        "{text:?} has {found} fields: write minute, hour, day of month, month, day of week, for example \"30 1 * * *\""
    )]
    Fields {
        /// What was written.
        text: String,
        /// How many fields that is.
        found: usize,
    },
    /// A field that cannot be read.
    #[error("{part:?} cannot be the {field}: {rule}")]
    Field {
        /// Which field.
        field: &'static str,
        /// The part of it that is wrong.
        part: String,
        /// What would be right.
        rule: String,
    },
    /// Steps on `*` in one day field beside the other day field.
    #[error(
        "{0:?} combines a step in one day field with the other day field, which no two crons read alike: list the \
         days instead"
    )]
    AmbiguousDays(String),
    /// A day that no month has.
    #[error("{0:?} never fires: no month it names has such a day")]
    NeverFires(String),
}

struct Field {
    name: &'static str,
    least: u32,
    most: u32,
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] = [
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
];
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

const FIELDS: [Field; 5] = [
    Field {
        name: "minute",
        least: 0,
        most: 59,
        names: &[],
    },
    Field {
        name: "hour",
        least: 0,
        most: 23,
        names: &[],
    },
    Field {
        name: "day of month",
        least: 1,
        most: 31,
        names: &[],
    },
    Field {
        name: "month",
        least: 1,
        most: 12,
        names: &MONTHS,
    },
    Field {
        name: "day of week",
        least: 0,
        most: 7,
        names: &DAYS,
    },
];

impl Field {
    fn bad(&self, part: &str, rule: String) -> BadCron {
        BadCron::Field {
            field: self.name,
            part: part.chars().take(40).collect(),
            rule,
        }
    }

    fn number(&self, text: &str) -> Result<u32, BadCron> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let number = match named {
            Some(place) => u32::try_from(place).ok().map(|place| place + self.least),
            None if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
            None => None,
        };
        number
            .filter(|n| (self.least..=self.most).contains(n))
            .ok_or_else(|| {
                self.bad(
                    text,
                    format!("it is not between {} and {}", self.least, self.most),
                )
            })
    }

    /// The values a field stands for.
    fn expand(&self, text: &str) -> Result<BTreeSet<u32>, BadCron> {
        let mut values = BTreeSet::new();
        for part in text.split(',') {
            let (range, step) = match part.split_once('/') {
                Some((range, step)) => {
                    let step: u32 = step
                        .parse()
                        .ok()
                        .filter(|step| (1..=self.most).contains(step))
                        .ok_or_else(|| {
                            self.bad(part, format!("its step is not between 1 and {}", self.most))
                        })?;
                    (range, Some(step))
                }
                None => (part, None),
            };
            let (from, to) = if range == "*" {
                // 7 is Sunday again, so "*" for days of the week ends at 6.
                (self.least, if self.most == 7 { 6 } else { self.most })
            } else if let Some((from, to)) = range.split_once('-') {
                (self.number(from)?, self.number(to)?)
            } else if step.is_some() {
                return Err(self.bad(part, "a step needs a range or \"*\" before it".to_owned()));
            } else {
                let one = self.number(range)?;
                (one, one)
            };
            if from > to {
                return Err(self.bad(part, "its range runs backwards".to_owned()));
            }
            values.extend((from..=to).step_by(step.unwrap_or(1) as usize));
        }
        if self.most == 7 && values.remove(&7) {
            values.insert(0);
        }
        Ok(values)
    }
}

fn list(values: &BTreeSet<u32>) -> String {
    values.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

impl FromStr for Cron {
    type Err = BadCron;

    fn from_str(text: &str) -> Result<Self, BadCron> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = words[..] else {
            return Err(BadCron::Fields {
                text: text.chars().take(80).collect(),
                found: words.len(),
            });
        };
        let expanded: Vec<BTreeSet<u32>> = FIELDS
            .iter()
            .zip([minute, hour, day, month, weekday])
            .map(|(f, t)| f.expand(t))
            .collect::<Result<_, _>>()?;
        let minutes = list(&expanded[0]);
        let hours = list(&expanded[1]);
        let months = list(&expanded[3]);
        let days = list(&expanded[2]);
        let weekdays = expanded[4]
            .iter()
            .map(|d| DAYS[*d as usize])
            .collect::<Vec<_>>()
            .join(",");
        let every_day = (day == "*", weekday == "*");
        if every_day == (false, false) && (day.starts_with('*') || weekday.starts_with('*')) {
            return Err(BadCron::AmbiguousDays(words.join(" ")));
        }
        let expressions = match every_day {
            (_, true) => vec![format!("0 {minutes} {hours} {days} {months} *")],
            (true, false) => vec![format!("0 {minutes} {hours} * {months} {weekdays}")],
            (false, false) => vec![
                format!("0 {minutes} {hours} {days} {months} *"),
                format!("0 {minutes} {hours} * {months} {weekdays}"),
            ],
        };
        let mut calendars = Vec::new();
        for expression in expressions {
            let calendar = cron::Schedule::from_str(&expression).map_err(|e| BadCron::Field {
                field: "expression",
                part: words.join(" "),
                rule: e.to_string(),
            })?;
            // Any year answers: the longest wait is eight years, for a 29 February.
            let start = NaiveDate::from_ymd_opt(2026, 1, 1)
                .and_then(|d| d.and_hms_opt(0, 0, 0))
                .expect("the first of January 2026 exists");
            if calendar.after(&start.and_utc()).next().is_some() {
                calendars.push(calendar);
            }
        }
        if calendars.is_empty() {
            return Err(BadCron::NeverFires(words.join(" ")));
        }
        Ok(Self {
            text: words.join(" "),
            calendars,
            elapsed: hour.starts_with('*'),
        })
    }
}

impl Cron {
    /// The first moment after `after` at which the schedule fires in `zone`.
    ///
    /// `None` beyond the year 2100, where the underlying calendar ends.
    pub fn next(&self, zone: Tz, after: Timestamp) -> Option<Timestamp> {
        let after = after.to_chrono();
        self.calendars
            .iter()
            .filter_map(|calendar| next_of(calendar, self.elapsed, zone, after))
            .min()
            .map(Timestamp::from_chrono)
    }

    /// The expression as it was written, blanks made single.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn next_of(
    calendar: &cron::Schedule,
    elapsed: bool,
    zone: Tz,
    after: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let offset = |t: DateTime<Utc>| {
        zone.offset_from_utc_datetime(&t.naive_utc())
            .fix()
            .local_minus_utc()
    };
    let local = after.with_timezone(&zone).naive_local();
    // When clocks go back soon, local times that already passed come again.
    let repeated = i64::from(offset(after) - offset(after + TimeDelta::days(1))).max(0);
    let from = if elapsed {
        local - TimeDelta::seconds(repeated)
    } else {
        local
    };
    let mut best: Option<DateTime<Utc>> = None;
    for face in calendar.after(&from.and_utc()) {
        let face = face.naive_utc();
        let (first, second) = match zone.from_local_datetime(&face) {
            LocalResult::Single(t) => (Some(t.to_utc()), None),
            LocalResult::Ambiguous(a, b) => (Some(a.to_utc()), Some(b.to_utc()).filter(|_| elapsed)),
            LocalResult::None if elapsed => (None, None),
            LocalResult::None => (after_gap(zone, face), None),
        };
        // The first passes come in order: nothing later can beat what is found.
        if let (Some(first), Some(best)) = (first, best)
            && first >= best
        {
            return Some(best);
        }
        for t in [first, second].into_iter().flatten() {
            if t > after && best.is_none_or(|best| t < best) {
                best = Some(t);
            }
        }
        if !elapsed && best.is_some() {
            return best;
        }
    }
    best
}

/// The first minute after the jump of clocks that swallowed `face`.
fn after_gap(zone: Tz, face: NaiveDateTime) -> Option<DateTime<Utc>> {
    let mut minute = face.with_second(0)?.with_nanosecond(0)?;
    // The longest jump so far is a day (Samoa crossed the date line in 2011).
    for _ in 0..=25 * 60 {
        minute += TimeDelta::minutes(1);
        if let Some(t) = zone.from_local_datetime(&minute).earliest() {
            return Some(t.to_utc());
        }
    }
    None
}

/// A time zone of the IANA database, by name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Zone(Tz);

/// A text that names no time zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a time zone: use a name of the IANA database, for example \"Europe/Berlin\" or \"UTC\""
)]
pub struct BadZone(String);

impl Zone {
    /// Coordinated universal time.
    pub const UTC: Zone = Zone(Tz::UTC);

    /// chrono's type.
    pub const fn tz(self) -> Tz {
        self.0
    }

    /// The moment at which clocks in the zone show `face`: the first of two when
    /// they show it twice, the first minute after the jump when they skip it.
    pub(crate) fn at(self, face: NaiveDateTime) -> Option<Timestamp> {
        match self.0.from_local_datetime(&face).earliest() {
            Some(t) => Some(t.to_utc()),
            None => after_gap(self.0, face),
        }
        .map(Timestamp::from_chrono)
    }

    /// What clocks in the zone show at a moment.
    pub(crate) fn face(self, at: Timestamp) -> NaiveDateTime {
        at.to_chrono().with_timezone(&self.0).naive_local()
    }

    /// `2026-11-22 01:30 CET`: a moment as people in the zone write it.
    pub fn show(self, at: Timestamp) -> String {
        let t = at.to_chrono().with_timezone(&self.0);
        if t.year() > 9999 {
            at.to_string()
        } else {
            t.format("%Y-%m-%d %H:%M %Z").to_string()
        }
    }
}

impl FromStr for Zone {
    type Err = BadZone;

    fn from_str(text: &str) -> Result<Self, BadZone> {
        text.parse()
            .map(Self)
            .map_err(|_| BadZone(text.chars().take(60).collect()))
    }
}

macro_rules! as_text {
    ($name:ident, $text:expr) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text: fn(&Self) -> &str = $text;
                f.pad(text(self))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

as_text!(Cron, |cron| &cron.text);
as_text!(Zone, |zone| zone.0.name());

impl PartialEq for Cron {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Cron {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The next `n` moments, in local time.
    fn fires(text: &str, zone: &str, from: &str, n: usize) -> Vec<String> {
        let (cron, zone): (Cron, Zone) = (text.parse().unwrap(), zone.parse().unwrap());
        let mut at: Timestamp = from.parse().unwrap();
        (0..n)
            .map(|_| {
                at = cron.next(zone.tz(), at).unwrap();
                at.to_chrono()
                    .with_timezone(&zone.tz())
                    .format("%m-%d %H:%M %Z")
                    .to_string()
            })
            .collect()
    }

    #[test]
    fn posix_fields_are_read() {
        let check = |text, expect: [&str; 3]| {
            assert_eq!(fires(text, "UTC", "2026-06-01T00:00:00Z", 3), expect, "{text}");
        };
        // 1 June 2026 is a Monday.
        check(
            "30 1 * * *",
            ["06-01 01:30 UTC", "06-02 01:30 UTC", "06-03 01:30 UTC"],
        );
        check(
            "0 2 * * 0",
            ["06-07 02:00 UTC", "06-14 02:00 UTC", "06-21 02:00 UTC"],
        );
        check(
            "0 2 * * 7",
            ["06-07 02:00 UTC", "06-14 02:00 UTC", "06-21 02:00 UTC"],
        );
        check(
            "0 2 * * 5-7",
            ["06-05 02:00 UTC", "06-06 02:00 UTC", "06-07 02:00 UTC"],
        );
        check(
            "0 2 * * mon,Thu",
            ["06-01 02:00 UTC", "06-04 02:00 UTC", "06-08 02:00 UTC"],
        );
        check(
            "*/20 3 * * *",
            ["06-01 03:00 UTC", "06-01 03:20 UTC", "06-01 03:40 UTC"],
        );
        check(
            "5 0-12/6 1 JUL *",
            ["07-01 00:05 UTC", "07-01 06:05 UTC", "07-01 12:05 UTC"],
        );
        // POSIX: when both days are given, either is enough.
        check(
            "0 2 13 * 5",
            ["06-05 02:00 UTC", "06-12 02:00 UTC", "06-13 02:00 UTC"],
        );
        check(
            "0 0 29 2 *",
            ["02-29 00:00 UTC", "02-29 00:00 UTC", "02-29 00:00 UTC"],
        );
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for (bad, why) in [
            ("@daily", "has 1 fields"),
            ("0 30 1 * * *", "has 6 fields"),
            ("60 1 * * *", "minute"),
            ("0 24 * * *", "hour"),
            ("0 1 0 * *", "day of month"),
            ("0 1 * 13 *", "month"),
            ("0 1 * * 8", "day of week"),
            ("0 1 * * FRI-MON", "backwards"),
            ("5/15 * * * *", "step"),
            ("*/0 * * * *", "step"),
            ("0 1 */2 * MON", "list the days"),
            ("0 1 31 2 *", "never fires"),
            ("0 1 ? * *", "day of month"),
            ("0 1 L * *", "day of month"),
            ("-1 1 * * *", "minute"),
        ] {
            let error = bad.parse::<Cron>().expect_err(bad).to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn a_skipped_time_fires_after_the_jump_and_a_repeated_one_once() {
        assert_eq!(
            fires("30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", 2),
            ["03-08 03:00 EDT", "03-09 02:30 EDT"]
        );
        assert_eq!(
            fires("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", 2),
            ["11-01 01:30 EDT", "11-02 01:30 EST"]
        );
        // Several times inside the jump are one.
        assert_eq!(
            fires("*/15 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2),
            ["03-29 03:00 CEST", "03-30 02:00 CEST"]
        );
        // A whole day that did not happen.
        assert_eq!(
            fires("0 12 * * *", "Pacific/Apia", "2011-12-29T23:00:00Z", 2),
            ["12-31 00:00 +14", "12-31 12:00 +14"]
        );
    }

    #[test]
    fn an_hourly_schedule_means_elapsed_time() {
        assert_eq!(
            fires("*/30 * * * *", "America/New_York", "2026-11-01T04:45:00Z", 6),
            [
                "11-01 01:00 EDT",
                "11-01 01:30 EDT",
                "11-01 01:00 EST",
                "11-01 01:30 EST",
                "11-01 02:00 EST",
                "11-01 02:30 EST"
            ]
        );
        assert_eq!(
            fires("0 * * * *", "America/New_York", "2026-03-08T05:30:00Z", 3),
            ["03-08 01:00 EST", "03-08 03:00 EDT", "03-08 04:00 EDT"]
        );
    }

    /// What the module promises, by walking minute by minute.
    fn walk(cron: &Cron, zone: Tz, after: DateTime<Utc>, minutes: i64) -> Option<DateTime<Utc>> {
        let matches = |face: NaiveDateTime| cron.calendars.iter().any(|c| c.includes(face.and_utc()));
        let start = after.with_second(0).unwrap().with_nanosecond(0).unwrap();
        (1..=minutes).map(|m| start + TimeDelta::minutes(m)).find(|t| {
            let face = t.with_timezone(&zone).naive_local();
            let before = (*t - TimeDelta::minutes(1)).with_timezone(&zone).naive_local();
            let first_pass = zone
                .from_local_datetime(&face)
                .earliest()
                .is_none_or(|first| first.to_utc() == *t);
            let due = matches(face) && (cron.elapsed || first_pass);
            let skipped = (1..(face - before).num_minutes()).any(|m| matches(before + TimeDelta::minutes(m)));
            due || (skipped && !cron.elapsed)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn next_is_the_first_match_after_its_argument(
            expression in prop::sample::select(vec![
                "30 2 * * *", "0 3 * * *", "30 1 * * *", "*/30 * * * *", "0 * * * *", "0 */2 * * *", "*/17 1-3 * * *",
                "0 0 * * 0", "15 2 1,29 * SUN", "* * * * *",
            ]),
            (zone, near) in prop::sample::select(vec![
                ("America/New_York", "2026-03-08T07:00:00Z"), ("America/New_York", "2026-11-01T06:00:00Z"),
                ("Europe/Berlin", "2026-03-29T01:00:00Z"), ("Europe/Berlin", "2026-10-25T01:00:00Z"),
                ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"), ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
                ("Africa/Casablanca", "2026-02-15T02:00:00Z"), ("Asia/Kolkata", "2026-07-01T00:00:00Z"),
                ("America/Santiago", "2026-04-05T03:00:00Z"), ("UTC", "2026-12-31T23:00:00Z"),
            ]),
            seconds in -200_000i64..200_000,
        ) {
            let cron: Cron = expression.parse().unwrap();
            let zone = zone.parse::<Zone>().unwrap().tz();
            let near: Timestamp = near.parse().unwrap();
            let mut at = near.plus_millis(seconds * 1000);
            for _ in 0..4 {
                let next = cron.next(zone, at).unwrap();
                prop_assert!(next > at);
                let last = at.to_chrono().with_second(0).unwrap() + TimeDelta::minutes(2 * 1440);
                let expect = Some(next.to_chrono()).filter(|next| *next <= last);
                prop_assert_eq!(expect, walk(&cron, zone, at.to_chrono(), 2 * 1440));
                at = next;
            }
        }
    }
}
