//! Log sequence numbers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A position in the write-ahead log, in bytes (`XLogRecPtr`).
///
/// Displays as PostgreSQL prints it (`0/3000148`). Zero is PostgreSQL's
/// invalid pointer: an absent position is `Option<Lsn>`, never `Lsn` zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

/// A text that is not an LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an LSN: write it as PostgreSQL prints it, for example 0/3000148")]
pub struct BadLsn(String);

impl Lsn {
    /// From the raw 64-bit position.
    pub const fn new(position: u64) -> Self {
        Self(position)
    }

    /// The raw 64-bit position.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position `bytes` further on, or `None` past the end of the log.
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(p) => Some(Self(p)),
            None => None,
        }
    }

    /// Bytes from `earlier` to `self`, or `None` when `earlier` is later.
    pub const fn bytes_since(self, earlier: Lsn) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }

    /// Sixteen hexadecimal digits: the form used in object names, which sorts
    /// as text in log order.
    pub fn fixed(self) -> String {
        format!("{:016X}", self.0)
    }

    /// Parses [`Lsn::fixed`]'s form.
    pub fn parse_fixed(text: &str) -> Result<Self, BadLsn> {
        let bad = || BadLsn(text.chars().take(40).collect());
        if text.len() != 16 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F')) {
            return Err(bad());
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| bad())
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Lsn {
    type Err = BadLsn;

    fn from_str(text: &str) -> Result<Self, BadLsn> {
        let bad = || BadLsn(text.chars().take(40).collect());
        let half = |part: &str| {
            if part.is_empty() || part.len() > 8 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            u64::from_str_radix(part, 16).map_err(|_| bad())
        };
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        Ok(Self((half(high)? << 32) | half(low)?))
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
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
    fn refuses_what_is_not_an_lsn() {
        for bad in [
            "",
            "/",
            "0/",
            "/1",
            "1",
            "0/123456789",
            "x/1",
            "0/-1",
            "0/+1",
            "0/1/2",
        ] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
        assert_eq!("16/B374D848".parse::<Lsn>().unwrap().get(), 0x16_B374_D848);
    }

    proptest! {
        #[test]
        fn round_trips(raw in any::<u64>()) {
            let lsn = Lsn::new(raw);
            prop_assert_eq!(lsn.to_string().parse::<Lsn>().unwrap(), lsn);
            prop_assert_eq!(Lsn::parse_fixed(&lsn.fixed()).unwrap(), lsn);
        }

        #[test]
        fn fixed_sorts_in_log_order(a in any::<u64>(), b in any::<u64>()) {
            prop_assert_eq!(Lsn::new(a).fixed().cmp(&Lsn::new(b).fixed()), a.cmp(&b));
        }
    }
}
