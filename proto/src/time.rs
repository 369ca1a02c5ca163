//! Moments, to the microsecond, in UTC.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A moment in UTC with microsecond resolution (PostgreSQL's own).
///
/// Displays as RFC 3339 with six decimals and `Z`; [`Timestamp::compact`] is the
/// form used in object names, which sorts as text in time order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// A text that is not a moment in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a moment: write it as RFC 3339 with a time zone, for example 2026-11-21T14:32:07.25Z \
     or 2026-11-21 14:32:07+01:00"
)]
pub struct BadTimestamp(String);

/// Microseconds from the Unix epoch to PostgreSQL's epoch, 2000-01-01.
const PG_EPOCH_MICROS: i64 = 946_684_800_000_000;

impl Timestamp {
    /// From microseconds since 1970-01-01T00:00:00Z.
    pub const fn from_unix_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub const fn unix_micros(self) -> i64 {
        self.0
    }

    /// From PostgreSQL's `TimestampTz`: microseconds since 2000-01-01T00:00:00Z.
    pub const fn from_pg_micros(micros: i64) -> Self {
        Self(micros.saturating_add(PG_EPOCH_MICROS))
    }

    /// As PostgreSQL's `TimestampTz`.
    pub const fn pg_micros(self) -> i64 {
        self.0.saturating_sub(PG_EPOCH_MICROS)
    }

    /// Milliseconds from `earlier` to `self`; zero when `earlier` is later.
    pub fn millis_since(self, earlier: Timestamp) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0) / 1000).unwrap_or(0)
    }

    /// The moment `delta` later (earlier when negative), saturating.
    pub fn plus_millis(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis.saturating_mul(1000)))
    }

    /// As chrono's type, for calendars and time zones.
    pub fn to_chrono(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).unwrap_or(if self.0 < 0 {
            DateTime::<Utc>::MIN_UTC
        } else {
            DateTime::<Utc>::MAX_UTC
        })
    }

    /// From chrono's type, cut to microseconds.
    pub fn from_chrono(t: DateTime<Utc>) -> Self {
        Self(t.timestamp_micros())
    }

    /// `20261121T143207250000Z`: fixed width, sorts as text, fits object names.
    pub fn compact(self) -> String {
        self.to_chrono().format("%Y%m%dT%H%M%S%6fZ").to_string()
    }

    /// Parses [`Timestamp::compact`]'s form.
    pub fn parse_compact(text: &str) -> Result<Self, BadTimestamp> {
        let bad = || BadTimestamp(text.chars().take(60).collect());
        if text.len() != 22 || !text.ends_with('Z') || !text.is_ascii() {
            return Err(bad());
        }
        let (whole, micros) = (&text[..15], &text[15..21]);
        let t = NaiveDateTime::parse_from_str(whole, "%Y%m%dT%H%M%S")
            .map_err(|_| bad())?
            .and_utc();
        let micros: i64 = micros.parse().map_err(|_| bad())?;
        Ok(Self::from_chrono(t + TimeDelta::microseconds(micros)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_chrono().format("%Y-%m-%dT%H:%M:%S%.6fZ"))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = BadTimestamp;

    /// RFC 3339, or the same with a blank instead of `T`. A time zone is
    /// required: a moment without one means different things on two machines.
    fn from_str(text: &str) -> Result<Self, BadTimestamp> {
        let text = text.trim();
        let bad = || BadTimestamp(text.chars().take(60).collect());
        let mut candidate = text.replacen(' ', "T", 1).replace(' ', "");
        // PostgreSQL prints "+01"; RFC 3339 wants "+01:00".
        if let Some(at) = candidate.rfind(['+', '-'])
            && at > 10
            && candidate.len() - at == 3
        {
            candidate.push_str(":00");
        }
        let t = DateTime::parse_from_rfc3339(&candidate).map_err(|_| bad())?;
        Ok(Self::from_chrono(t.to_utc()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_people_and_postgres_write() {
        let t: Timestamp = "2026-11-21T14:32:07.25Z".parse().unwrap();
        assert_eq!(t.to_string(), "2026-11-21T14:32:07.250000Z");
        assert_eq!("2026-11-21 15:32:07.25+01".parse::<Timestamp>().unwrap(), t);
        assert_eq!("2026-11-21 15:32:07.25 +01:00".parse::<Timestamp>().unwrap(), t);
        assert!("2026-11-21 15:32:07".parse::<Timestamp>().is_err());
        assert!("yesterday".parse::<Timestamp>().is_err());
        assert_eq!(
            Timestamp::from_pg_micros(0).to_string(),
            "2000-01-01T00:00:00.000000Z"
        );
    }

    proptest! {
        #[test]
        fn round_trips(micros in 0i64..4_102_444_800_000_000) {
            let t = Timestamp::from_unix_micros(micros);
            prop_assert_eq!(t.to_string().parse::<Timestamp>().unwrap(), t);
            prop_assert_eq!(Timestamp::parse_compact(&t.compact()).unwrap(), t);
            prop_assert_eq!(Timestamp::from_pg_micros(t.pg_micros()), t);
        }
    }
}
