//! How often somebody may ask: token buckets, one for each, in bounded memory.
//!
//! A bucket holds at most a burst and fills at a rate. Whoever finds it empty is
//! told how long to wait. Pure: the moment is given.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use holdfast_proto::Timestamp;

/// What one bucket takes, in thousandths, so that slow rates fill evenly.
const ONE: u64 = 1000;

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// At once, after a rest.
    pub burst: u32,
    /// In the long run, by the minute; at least one.
    pub per_minute: u32,
}

/// Whoever asks too often, and how many seconds to wait; at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooOften {
    /// Seconds.
    pub wait: u64,
}

/// Where a request comes from, as far as it tells attackers apart: an IPv4 address,
/// or the /64 of an IPv6 address, within which anyone has as many as they like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network(IpAddr);

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    holds: u64,
    at: Timestamp,
}

/// Buckets by whom.
#[derive(Debug)]
pub struct Buckets<K> {
    rate: Rate,
    most: usize,
    held: BTreeMap<K, Bucket>,
}

impl<K: Ord + Clone> Buckets<K> {
    /// Buckets for at most `most` at a time.
    pub fn new(rate: Rate, most: usize) -> Self {
        Self {
            rate,
            most,
            held: BTreeMap::new(),
        }
    }

    fn full(&self) -> u64 {
        u64::from(self.rate.burst) * ONE
    }

    fn filled(&self, bucket: &Bucket, now: Timestamp) -> u64 {
        let gained = now
            .millis_since(bucket.at)
            .saturating_mul(u64::from(self.rate.per_minute))
            / 60;
        bucket.holds.saturating_add(gained).min(self.full())
    }

    /// Takes one.
    ///
    /// # Errors
    /// There is none left.
    pub fn take(&mut self, key: &K, now: Timestamp) -> Result<(), TooOften> {
        let holds = self.held.get(key).map_or(self.full(), |b| self.filled(b, now));
        if holds < ONE {
            let missing = (ONE - holds) * 60 / u64::from(self.rate.per_minute.max(1));
            return Err(TooOften {
                wait: missing.div_ceil(1000).max(1),
            });
        }
        self.make_room(key, now);
        let bucket = Bucket {
            holds: holds - ONE,
            at: now,
        };
        self.held.insert(key.clone(), bucket);
        Ok(())
    }

    /// A full bucket is as good as none. When all others are in use, the one that
    /// was used longest ago goes: whoever has very many addresses gets more, never
    /// more memory.
    fn make_room(&mut self, key: &K, now: Timestamp) {
        if self.held.len() < self.most || self.held.contains_key(key) {
            return;
        }
        let full = self.full();
        let mut held = std::mem::take(&mut self.held);
        held.retain(|_, bucket| self.filled(bucket, now) < full);
        self.held = held;
        if self.held.len() >= self.most
            && let Some(oldest) = self.held.iter().min_by_key(|(_, b)| b.at).map(|(k, _)| k.clone())
        {
            self.held.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        let start: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        start.plus_millis(ms)
    }

    #[test]
    fn a_burst_then_the_rate() {
        let rate = Rate {
            burst: 3,
            per_minute: 6,
        };
        let mut buckets = Buckets::new(rate, 10);
        for _ in 0..3 {
            assert_eq!(buckets.take(&"a", at(0)), Ok(()));
        }
        assert_eq!(buckets.take(&"a", at(0)), Err(TooOften { wait: 10 }));
        assert_eq!(buckets.take(&"b", at(0)), Ok(()), "others are not held back");
        assert_eq!(buckets.take(&"a", at(9_999)), Err(TooOften { wait: 1 }));
        assert_eq!(buckets.take(&"a", at(10_000)), Ok(()));
        assert_eq!(buckets.take(&"a", at(10_000)), Err(TooOften { wait: 10 }));
        // A clock that is set back gives nothing and takes nothing.
        assert_eq!(buckets.take(&"a", at(0)), Err(TooOften { wait: 10 }));
        // A long rest gives a burst, not more.
        let later = at(10_000_000);
        assert_eq!((0..9).filter(|_| buckets.take(&"a", later).is_ok()).count(), 3);
    }

    #[test]
    fn memory_is_bounded_and_those_at_rest_go_first() {
        let rate = Rate {
            burst: 2,
            per_minute: 60,
        };
        let mut buckets = Buckets::new(rate, 3);
        for n in 0..1000 {
            assert_eq!(buckets.take(&n, at(n)), Ok(()));
            assert!(buckets.held.len() <= 3);
        }
        // One that is in use stays while there are others at rest.
        let mut buckets = Buckets::new(rate, 2);
        buckets.take(&0, at(0)).unwrap();
        for _ in 0..2 {
            buckets.take(&1, at(2000)).unwrap();
        }
        buckets.take(&2, at(2000)).unwrap();
        assert!(buckets.take(&1, at(2000)).is_err());
    }

    #[test]
    fn networks_are_told_apart() {
        let network = |text: &str| Network::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:2:ffff::9"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_ne!(network("10.0.0.1"), network("10.0.0.2"));
        assert_eq!(network("10.0.0.1"), network("::ffff:10.0.0.1"));
    }
}
