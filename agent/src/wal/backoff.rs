//! Pauses between attempts: longer each time, with jitter, bounded.

use std::time::Duration;

use rand::Rng;

/// The pauses of one thing that is tried again and again.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Pauses from about `first` up to `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    /// After a success the next pause is short again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after one more failure.
    pub fn next(&mut self) -> Duration {
        let ceiling = self
            .longest
            .min(self.first.saturating_mul(2u32.saturating_pow(self.failures)));
        self.failures = self.failures.saturating_add(1);
        rand::rng().random_range(ceiling / 2..=ceiling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut backoff = Backoff::new(first, longest);
        assert!(backoff.next() <= first);
        for _ in 0..40 {
            assert!(backoff.next() <= longest);
        }
        assert!(backoff.next() >= longest / 2);
        backoff.reset();
        assert!(backoff.next() <= first);
    }
}
