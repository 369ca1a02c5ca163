//! Timelines and WAL segments.
//!
//! Segment arithmetic follows `src/include/access/xlog_internal.h`: a segment
//! file is named by timeline, "log" and "segment" number, each an unsigned
//! 32-bit number in eight hexadecimal digits, where one log holds
//! 2^32 / segment-size segments.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Lsn;

/// A timeline: 1 at initdb, one more at each promotion. Never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimelineId(NonZeroU32);

impl TimelineId {
    /// The timeline that initdb starts.
    pub const FIRST: TimelineId = TimelineId(NonZeroU32::MIN);

    /// `None` for zero, which PostgreSQL uses for "no timeline".
    pub const fn new(id: u32) -> Option<Self> {
        match NonZeroU32::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// Eight hexadecimal digits, as in segment names.
    pub fn fixed(self) -> String {
        format!("{:08X}", self.0)
    }

    /// Parses [`TimelineId::fixed`]'s form.
    pub fn parse_fixed(text: &str) -> Option<Self> {
        hex8(text).and_then(Self::new)
    }

    /// The name of this timeline's history file, `0000000A.history`.
    pub fn history_file(self) -> String {
        format!("{:08X}.history", self.0)
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

fn hex8(text: &str) -> Option<u32> {
    if text.len() != 8 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F')) {
        return None;
    }
    u32::from_str_radix(text, 16).ok()
}

/// The size of a WAL segment in bytes: a power of two from 1 MiB to 1 GiB,
/// chosen at initdb.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct SegmentSize(u32);

/// A number that cannot be a WAL segment size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a WAL segment size: a power of two from 1048576 to 1073741824 is needed")]
pub struct BadSegmentSize(u64);

impl SegmentSize {
    /// Checks and wraps a size in bytes.
    pub fn new(bytes: u64) -> Result<Self, BadSegmentSize> {
        if bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes) {
            Ok(Self(bytes as u32))
        } else {
            Err(BadSegmentSize(bytes))
        }
    }

    /// Bytes.
    pub const fn get(self) -> u64 {
        self.0 as u64
    }

    /// The segment that holds the byte at `lsn`.
    pub const fn segment_of(self, lsn: Lsn) -> SegmentNumber {
        SegmentNumber(lsn.get() / self.get())
    }

    /// The offset of `lsn` within its segment.
    pub const fn offset_of(self, lsn: Lsn) -> u64 {
        lsn.get() % self.get()
    }

    /// The first position of `segment`.
    pub const fn start_of(self, segment: SegmentNumber) -> Lsn {
        Lsn::new(segment.0.saturating_mul(self.get()))
    }

    /// The first position after `segment`.
    pub const fn end_of(self, segment: SegmentNumber) -> Lsn {
        Lsn::new(segment.0.saturating_add(1).saturating_mul(self.get()))
    }

    const fn per_log(self) -> u64 {
        0x1_0000_0000 / self.get()
    }
}

impl<'de> Deserialize<'de> for SegmentSize {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(u64::deserialize(d)?).map_err(de::Error::custom)
    }
}

impl fmt::Debug for SegmentSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for SegmentSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A segment counted from the start of the log (`XLogSegNo`): position divided
/// by segment size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNumber(u64);

impl SegmentNumber {
    /// From the raw count.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The raw count.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The next segment.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Sixteen hexadecimal digits, for object names.
    pub fn fixed(self) -> String {
        format!("{:016X}", self.0)
    }
}

impl fmt::Debug for SegmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}", self.0)
    }
}

/// The name of a WAL segment file, `000000010000000000000003`.
///
/// What segment it is depends on the segment size, so the name keeps its two
/// raw halves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    timeline: TimelineId,
    log: u32,
    seg: u32,
}

/// A text that is not the name of a WAL segment file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not the name of a WAL segment: 24 hexadecimal digits are needed, for example 000000010000000000000003"
)]
pub struct BadSegmentName(String);

impl SegmentName {
    /// The file name of `segment` on `timeline`.
    pub fn new(timeline: TimelineId, segment: SegmentNumber, size: SegmentSize) -> Self {
        Self {
            timeline,
            log: (segment.0 / size.per_log()) as u32,
            seg: (segment.0 % size.per_log()) as u32,
        }
    }

    /// The timeline in the name.
    pub const fn timeline(self) -> TimelineId {
        self.timeline
    }

    /// The segment number, or `None` when the name cannot exist with this
    /// segment size.
    pub fn segment(self, size: SegmentSize) -> Option<SegmentNumber> {
        let seg = u64::from(self.seg);
        (seg < size.per_log()).then(|| SegmentNumber(u64::from(self.log) * size.per_log() + seg))
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.get(), self.log, self.seg)
    }
}

impl fmt::Debug for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SegmentName {
    type Err = BadSegmentName;

    fn from_str(text: &str) -> Result<Self, BadSegmentName> {
        let bad = || BadSegmentName(text.chars().take(60).collect());
        if text.len() != 24 || !text.is_ascii() {
            return Err(bad());
        }
        Ok(Self {
            timeline: TimelineId::parse_fixed(&text[..8]).ok_or_else(bad)?,
            log: hex8(&text[8..16]).ok_or_else(bad)?,
            seg: hex8(&text[16..]).ok_or_else(bad)?,
        })
    }
}

impl Serialize for SegmentName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_follow_the_segment_size() {
        let lsn: Lsn = "1/2345678".parse().unwrap();
        for (mb, name) in [
            (1, "000000020000000100000023"),
            (16, "000000020000000100000002"),
            (64, "000000020000000100000000"),
        ] {
            let size = SegmentSize::new(mb << 20).unwrap();
            let made = SegmentName::new(TimelineId::new(2).unwrap(), size.segment_of(lsn), size);
            assert_eq!(made.to_string(), name);
        }
        assert!(SegmentSize::new(3 << 20).is_err());
        assert!(SegmentSize::new(1 << 31).is_err());
    }

    proptest! {
        #[test]
        fn round_trips(tli in 1u32.., raw in 0u64..1 << 62, shift in 20u32..=30) {
            let size = SegmentSize::new(1 << shift).unwrap();
            let number = size.segment_of(Lsn::new(raw));
            let name = SegmentName::new(TimelineId::new(tli).unwrap(), number, size);
            prop_assert_eq!(name.to_string().parse::<SegmentName>().unwrap(), name);
            prop_assert_eq!(name.segment(size), Some(number));
            prop_assert!(size.start_of(number).get() <= raw && raw < size.end_of(number).get());
        }
    }
}
