//! When a calendar's windows begin: a recurrence rule of RFC 5545 on the clock
//! face of a time zone.
//!
//! The `rrule` crate finds the dates. It is only ever asked about local time as
//! if that were UTC, and the zone is applied afterwards by the same rule as for
//! schedules ([`crate::cron`]): a time that the clocks jump over begins at the
//! first minute after the jump, one that comes twice begins the first time.
//!
//! What holds: whatever part of time is asked for, the same starts come out of
//! it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone};
use holdfast_proto::Timestamp;
use rrule::{Frequency, RRule, RRuleSet, Tz, Unvalidated};

use crate::cron::Zone;

/// A date and a time of day on the clock face of a zone that stands elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalTime(NaiveDateTime);

/// A text that is not a local time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a date with a time of day between 1970 and 2099: write it without a zone, for example \
     \"2026-01-01T18:00\""
)]
pub struct BadLocalTime(String);

impl FromStr for LocalTime {
    type Err = BadLocalTime;

    fn from_str(text: &str) -> Result<Self, BadLocalTime> {
        ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
            .iter()
            .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
            .filter(|face| (1970..2100).contains(&face.year()))
            .map(Self)
            .ok_or_else(|| BadLocalTime(text.chars().take(40).collect()))
    }
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.format("%Y-%m-%dT%H:%M:%S"))
    }
}

/// A day on the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalDate(NaiveDate);

/// A text that is not a date.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a date: write it as \"2026-12-24\"")]
pub struct BadLocalDate(String);

impl FromStr for LocalDate {
    type Err = BadLocalDate;

    fn from_str(text: &str) -> Result<Self, BadLocalDate> {
        NaiveDate::parse_from_str(text, "%Y-%m-%d")
            .map(Self)
            .map_err(|_| BadLocalDate(text.chars().take(40).collect()))
    }
}

impl fmt::Display for LocalDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Why a text is not a recurrence rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRecurrence {
    /// A part that no calendar has.
    #[error("{part:?} is not part of a calendar's recurrence rule: {why}")]
    Part {
        /// What was written.
        part: String,
        /// Why, and what to write.
        why: &'static str,
    },
    /// The rule contradicts RFC 5545.
    #[error("{text:?} is not a recurrence rule of RFC 5545: {why}")]
    Rule {
        /// What was written.
        text: String,
        /// What the reader said of it.
        why: String,
    },
    /// No day fits.
    #[error("{0:?} never happens: no day fits it, or `except` takes every one out")]
    NeverHappens(String),
}

/// The parts that are understood. What is missing would begin windows within a
/// day, or give them another time of day than `begins` says.
const PARTS: [&str; 11] = [
    "FREQ",
    "INTERVAL",
    "COUNT",
    "UNTIL",
    "WKST",
    "BYMONTH",
    "BYMONTHDAY",
    "BYDAY",
    "BYSETPOS",
    "BYYEARDAY",
    "BYWEEKNO",
];

/// When windows begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recurrence {
    text: String,
    zone: Zone,
    begins: LocalTime,
    except: BTreeSet<LocalDate>,
    rule: RRule,
}

impl Recurrence {
    /// Reads a rule such as `FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1`.
    /// Nothing begins before `begins`, whose time of day every start has, nor on
    /// a day of `except`.
    pub fn new(
        text: &str,
        zone: Zone,
        begins: LocalTime,
        except: BTreeSet<LocalDate>,
    ) -> Result<Self, BadRecurrence> {
        let text = text.trim();
        let shown: String = text.chars().take(120).collect();
        let wrong = |why: String| BadRecurrence::Rule {
            text: shown.clone(),
            why,
        };
        let parts: Vec<String> = text
            .strip_prefix("RRULE:")
            .unwrap_or(text)
            .split(';')
            .map(|part| normal(part, zone))
            .collect::<Result<_, _>>()?;
        let rule: RRule<Unvalidated> = parts
            .join(";")
            .parse()
            .map_err(|e: rrule::RRuleError| wrong(e.to_string()))?;
        let rule = rule
            .validate(as_if_utc(begins.0))
            .map_err(|e| wrong(e.to_string()))?;
        let recurrence = Self {
            text: text.to_owned(),
            zone,
            begins,
            except,
            rule,
        };
        if recurrence.faces(recurrence.begins.0).next().is_none() {
            return Err(BadRecurrence::NeverHappens(shown));
        }
        Ok(recurrence)
    }

    /// The rule as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The zone of the clock that it goes by.
    pub fn zone(&self) -> Zone {
        self.zone
    }

    /// Nothing begins earlier; the time of day of every start.
    pub fn begins(&self) -> LocalTime {
        self.begins
    }

    /// Days on which nothing begins.
    pub fn except(&self) -> impl Iterator<Item = LocalDate> {
        self.except.iter().copied()
    }

    /// The starts at or after `from` and before `until`, in order.
    pub fn starts(&self, from: Timestamp, until: Timestamp) -> Vec<Timestamp> {
        self.starting(from).take_while(|start| *start < until).collect()
    }

    /// The first start after `after`; `None` when the rule has ended.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.starting(after).find(|start| *start > after)
    }

    /// The starts at or after `from`, in order.
    fn starting(&self, from: Timestamp) -> impl Iterator<Item = Timestamp> {
        // Two days are more than any change of clocks.
        let near = self.zone.face(from) - TimeDelta::days(2);
        self.faces(near)
            .filter_map(|face| self.zone.at(face))
            .filter(move |start| *start >= from)
    }

    /// The starts as clocks show them: all at or after `near`, and possibly some
    /// before it.
    fn faces(&self, near: NaiveDateTime) -> impl Iterator<Item = NaiveDateTime> {
        let set = RRuleSet::new(as_if_utc(self.walk_from(near))).rrule(self.rule.clone());
        // Limited: a rule that has come to its last possible day ends.
        let set = &set.limit();
        set.into_iter()
            .map(|start| start.naive_utc())
            .filter(|face| !self.except.contains(&LocalDate(face.date())))
    }

    /// Where to begin to look for starts from `near` on: a rule that counts
    /// nothing gives the same days from any place, so that years that have
    /// passed need not be walked through.
    fn walk_from(&self, near: NaiveDateTime) -> NaiveDateTime {
        let begins = self.begins.0;
        if self.rule.get_interval() != 1 || self.rule.get_count().is_some() {
            return begins;
        }
        let day = near.date();
        let day = match self.rule.get_freq() {
            Frequency::Yearly => NaiveDate::from_ymd_opt(day.year() - 1, 1, 1),
            Frequency::Monthly => (day - TimeDelta::days(31)).with_day(1),
            Frequency::Weekly => Some(day - TimeDelta::days(15)),
            _ => Some(day),
        };
        day.map_or(begins, |day| begins.max(day.and_time(begins.time())))
    }
}

/// rrule's own clock, which stands for any other.
fn as_if_utc(face: NaiveDateTime) -> DateTime<Tz> {
    Tz::UTC.from_utc_datetime(&face)
}

/// A part of a rule as it is given to the reader: known, and an end as the
/// clocks of `zone` show it.
fn normal(part: &str, zone: Zone) -> Result<String, BadRecurrence> {
    let refuse = |why| {
        Err(BadRecurrence::Part {
            part: part.chars().take(60).collect(),
            why,
        })
    };
    let upper = part.trim().to_ascii_uppercase();
    let Some((key, value)) = upper.split_once('=') else {
        return refuse("write KEY=VALUE parts with `;` between them");
    };
    match key {
        "BYHOUR" | "BYMINUTE" | "BYSECOND" => return refuse("the time of day is that of `begins`"),
        "FREQ" if !matches!(value, "DAILY" | "WEEKLY" | "MONTHLY" | "YEARLY") => {
            return refuse("write FREQ=DAILY, WEEKLY, MONTHLY or YEARLY");
        }
        key if !PARTS.contains(&key) => {
            return refuse(
                "known are FREQ, INTERVAL, COUNT, UNTIL, WKST, BYMONTH, BYMONTHDAY, BYDAY, BYSETPOS, BYYEARDAY, BYWEEKNO",
            );
        }
        "UNTIL" => {
            let face = if let Some(moment) = value.strip_suffix('Z') {
                NaiveDateTime::parse_from_str(moment, "%Y%m%dT%H%M%S")
                    .map(|utc| zone.face(Timestamp::from_chrono(utc.and_utc())))
            } else {
                NaiveDateTime::parse_from_str(value, "%Y%m%dT%H%M%S").or_else(|_| {
                    let last = NaiveTime::from_hms_opt(23, 59, 59).unwrap_or(NaiveTime::MIN);
                    NaiveDate::parse_from_str(value, "%Y%m%d").map(|day| day.and_time(last))
                })
            };
            return match face {
                Ok(face) => Ok(format!("UNTIL={}", face.format("%Y%m%dT%H%M%SZ"))),
                Err(_) => refuse("write UNTIL=20271231, a last day on the calendar's own clock"),
            };
        }
        _ => {}
    }
    Ok(upper)
}
