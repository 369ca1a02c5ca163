//! Deadlines, attempts, and the pauses between them.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use super::{Cause, Class, Operation, Replica, StoreError};

/// How long a call may take. Bytes that are moved earn time on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// The whole call with all its attempts.
    pub call: Duration,
    /// One attempt, or one step of a listing.
    pub attempt: Duration,
    /// The slowest rate, in bytes per second, that is waited for.
    pub slowest: u64,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            call: Duration::from_secs(60),
            attempt: Duration::from_secs(20),
            slowest: 256 << 10,
        }
    }
}

impl Deadlines {
    /// For work that is repeated soon anyway, like shipping the tip of the WAL:
    /// one or two attempts.
    pub fn short() -> Self {
        Self {
            call: Duration::from_secs(10),
            attempt: Duration::from_secs(5),
            ..Self::default()
        }
    }

    /// No longer than `other`.
    pub fn within(self, other: Self) -> Self {
        Self {
            call: self.call.min(other.call),
            attempt: self.attempt.min(other.attempt),
            slowest: self.slowest.max(other.slowest),
        }
    }

    fn allowance(&self, bytes: u64) -> Duration {
        Duration::from_millis(bytes.saturating_mul(1000) / self.slowest.max(1))
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// One call's attempts.
pub(super) struct Attempts<'a> {
    replica: &'a Replica,
    operation: Operation,
    subject: &'a str,
    until: Instant,
    each: Duration,
    patient: bool,
    /// Attempts made.
    pub made: u32,
    /// A write may have happened although no attempt said so.
    pub uncertain: bool,
}

impl Replica {
    pub(super) fn attempts<'a>(&'a self, operation: Operation, subject: &'a str, bytes: u64) -> Attempts<'a> {
        let allowance = self.deadlines.allowance(bytes);
        Attempts {
            replica: self,
            operation,
            subject,
            until: Instant::now() + self.deadlines.call + allowance,
            each: self.patience() + allowance,
            patient: !self.has_failed(),
            made: 0,
            uncertain: false,
        }
    }
}

impl Replica {
    /// The error of a replica that was given up on while it was still asked.
    pub(crate) fn silent(&self, waited: Duration) -> StoreError {
        let mut attempts = self.attempts(Operation::Read, "repository.json", 0);
        attempts.made = 1;
        attempts.failed(Cause::NoAnswer(waited))
    }
}

impl Attempts<'_> {
    /// One attempt, within its deadline and the call's.
    pub async fn once<T>(&mut self, attempt: impl Future<Output = Result<T, Cause>>) -> Result<T, Cause> {
        self.made += 1;
        // Even past the deadline there is time to ask once whether it happened.
        let left = self
            .until
            .saturating_duration_since(Instant::now())
            .max(self.each / 4);
        let patience = left.min(self.each);
        match tokio::time::timeout(patience, attempt).await {
            Ok(result) => result,
            Err(_) => Err(Cause::NoAnswer(patience)),
        }
    }

    /// Waits before the next attempt; the error when there is none.
    pub async fn pause(&mut self, cause: Cause) -> Result<(), StoreError> {
        let exponent = self.made.saturating_sub(1).min(10);
        let ceiling = LONGEST_PAUSE.min(FIRST_PAUSE * 2u32.pow(exponent));
        let pause = rand::rng().random_range(ceiling / 2..=ceiling);
        if Instant::now() + pause >= self.until {
            return Err(self.failed(cause));
        }
        tracing::debug!(
            region = %self.replica.region(),
            operation = %self.operation,
            subject = self.subject,
            attempt = self.made,
            err = %cause,
            "attempt failed, trying again"
        );
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// As [`Attempts::pause`], but gives up at once on a replica whose last call
    /// failed: there may be another one to read from.
    pub async fn pause_reading(&mut self, cause: Cause) -> Result<(), StoreError> {
        if self.patient {
            self.pause(cause).await
        } else {
            Err(self.failed(cause))
        }
    }

    /// The error of the whole call.
    pub fn failed(&self, cause: Cause) -> StoreError {
        let class = cause.class();
        let (region, location) = (self.replica.region().clone(), self.replica.location().to_owned());
        let (operation, subject) = (self.operation, self.subject.to_owned());
        let source = Arc::new(cause);
        match class {
            Class::Denied => StoreError::Denied {
                region,
                operation,
                subject,
                location,
                source,
            },
            Class::Corrupt => StoreError::Corrupt {
                region,
                subject,
                source,
            },
            Class::Invalid => StoreError::Invalid {
                region,
                operation,
                subject,
                source,
            },
            Class::Retry | Class::NotFound | Class::Conflict => {
                self.replica.note_health(false);
                StoreError::Unavailable {
                    region,
                    operation,
                    subject,
                    location,
                    attempts: self.made.max(1),
                    uncertain: self.uncertain,
                    source,
                }
            }
        }
    }
}
