//! Lengths of time as people write them in configuration: `5s`, `15min`, `24h`.
//!
//! A [`Period`] always carries its unit in text, is never zero or negative, and
//! prints in the form that reads back to the same value.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time, longer than zero, to the millisecond.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(u64);

/// A text that is not a length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a length of time: write a whole number and a unit (ms, s, min, h or d), for example \"15min\""
)]
pub struct BadPeriod(String);

/// Units from the largest: text and milliseconds.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("min", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// The longest period that is accepted: a hundred years.
const LONGEST: u64 = 36_525 * 86_400_000;

impl Period {
    /// From milliseconds; `None` for zero and for more than a hundred years.
    pub const fn from_millis(millis: u64) -> Option<Self> {
        if millis == 0 || millis > LONGEST {
            None
        } else {
            Some(Self(millis))
        }
    }

    /// Milliseconds.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Milliseconds as a signed number, for moving a moment.
    pub const fn signed_millis(self) -> i64 {
        // At most a hundred years, which fits by five orders of magnitude.
        self.0 as i64
    }

    /// As the standard library's type.
    pub const fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, millis) in UNITS {
            // One day reads better as 24h, two weeks better as 14d.
            if self.0.is_multiple_of(millis) && (unit != "d" || self.0 / millis > 1) {
                return f.pad(&format!("{}{unit}", self.0 / millis));
            }
        }
        f.pad(&format!("{}ms", self.0))
    }
}

impl fmt::Debug for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Period {
    type Err = BadPeriod;

    fn from_str(text: &str) -> Result<Self, BadPeriod> {
        let bad = || BadPeriod(text.chars().take(40).collect());
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, unit) = text.split_at(unit_at);
        let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
        let number: u64 = number.parse().map_err(|_| bad())?;
        number
            .checked_mul(*millis)
            .and_then(Self::from_millis)
            .ok_or_else(bad)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
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
    fn reads_what_people_write() {
        for (text, millis) in [
            ("5s", 5_000),
            ("15min", 900_000),
            ("24h", 86_400_000),
            ("7d", 604_800_000),
            ("250ms", 250),
        ] {
            let period: Period = text.parse().unwrap();
            assert_eq!(period.millis(), millis);
            assert_eq!(period.to_string(), text);
        }
        for bad in [
            "",
            "5",
            "s",
            "0s",
            "-5s",
            "5 s",
            "1.5h",
            "5m",
            "5S",
            "99999999999d",
            "18446744073709551615h",
        ] {
            assert!(bad.parse::<Period>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn round_trips(millis in 1u64..LONGEST) {
            let period = Period::from_millis(millis).unwrap();
            prop_assert_eq!(period.to_string().parse::<Period>().unwrap(), period);
        }
    }
}
