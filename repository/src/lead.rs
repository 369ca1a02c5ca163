//! Who leads the coordinators: numbered leases on the authority.
//!
//! A lease is a small signed object at `control/leases/<n>` that the first to create it
//! wins; numbers follow each other without a gap, and the highest counts. It is good for
//! the time that it says. To go on, its holder claims the next number; to take over,
//! somebody else claims the same next number. So renewing and taking over are decided by
//! one create, and at most one of them happens.
//!
//! Nobody's clock is compared with another's. The holder counts from before it asked for
//! its lease, whoever waits counts from when it first saw the lease, which is later, and
//! each by a clock that only goes forward. What has to hold is that such clocks go equally
//! fast, within [`MARGIN`].
//!
//! The *term* is the number of the lease with which an unbroken reign began. It goes into
//! what the leader orders, so that whoever has obeyed a later one can refuse an earlier.
//!
//! Each record of the authority has a range of numbers of its own ([`first_of`]): when the
//! authority is moved, leases go on above all earlier ones without any of them being read.
//!
//! What does not hold: a leader that is cut off from the authority stops when its lease
//! ends, and until the authority is reached again, or moved, nobody leads.

use std::time::Duration;

use bytes::Bytes;
use holdfast_proto::Timestamp;
use holdfast_proto::names::{ActorName, ObjectKey};
use holdfast_proto::record::LeaderBody;

use crate::control::{copies, draft};
use crate::layout;
use crate::replica::{Class, Replica, StoreError};
use crate::signed::{self, Content};
use crate::signing::SigningKey;
use crate::trust::Trust;

/// Numbers that the leases under one record of the authority have.
const RANGE: u64 = 1_000_000_000_000;

/// The part of a lease's time by which clocks may differ while it runs: one in so many.
const MARGIN: u32 = 10;

/// The longest that a lease may say it is good for; also how long one that cannot be
/// believed is waited for.
pub const LONGEST: Duration = Duration::from_secs(300);

/// The number that stands for no lease under the record `authority` of the authority: the
/// first lease has the next one.
pub fn first_of(authority: u64) -> u64 {
    authority.saturating_mul(RANGE)
}

/// A lease as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its number.
    pub n: u64,
    /// What it says; `None` when no copy is to be believed. Then its holder is not known,
    /// and it is waited for as long as any lease may last.
    pub body: Option<LeaderBody>,
}

impl Lease {
    /// How long after it was first seen its holder may still act.
    pub fn waited_for(&self) -> Duration {
        match &self.body {
            Some(body) if body.released => Duration::ZERO,
            Some(body) => {
                let lasts = Duration::from_millis(body.lasts_ms).min(LONGEST);
                lasts + lasts / MARGIN
            }
            None => LONGEST + LONGEST / MARGIN,
        }
    }
}

/// A lease that is asked for. It is kept until it is known whether it was won: asking again
/// with the same bytes is asking once.
#[derive(Debug, Clone)]
pub struct Claim {
    /// What it says.
    pub body: LeaderBody,
    key: ObjectKey,
    bytes: Bytes,
}

impl Claim {
    /// Signs the claim to a lease.
    pub fn new(trust: &Trust, body: LeaderBody, signer: &SigningKey) -> Self {
        let key = layout::coordinator_lease(body.n);
        let bytes = draft(trust, &key, Content::default(), &body).sign(signer).bytes;
        Self { body, key, bytes }
    }

    /// Asks for it. `false` when somebody else has that number.
    ///
    /// # Errors
    /// The authority does not answer: it may have been won all the same.
    pub async fn ask(&self, authority: &Replica) -> Result<bool, StoreError> {
        match authority.create(&self.key, self.bytes.clone()).await {
            Ok(_) => Ok(true),
            Err(error) if error.class() == Class::Conflict => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What a new lease says.
pub fn body(
    n: u64,
    holder: &ActorName,
    nonce: &str,
    term: u64,
    lasts: Duration,
    taken: Timestamp,
) -> LeaderBody {
    LeaderBody {
        n,
        holder: holder.clone(),
        nonce: nonce.to_owned(),
        term,
        lasts_ms: u64::try_from(lasts.min(LONGEST).as_millis()).unwrap_or(u64::MAX),
        policy: None,
        released: false,
        taken,
    }
}

/// The highest lease above `known`, which is one that was there; `None` when there is none.
/// Asks about a few dozen objects at most, however many there are.
///
/// # Errors
/// The authority does not answer.
pub async fn highest(authority: &Replica, known: u64) -> Result<Option<u64>, StoreError> {
    let there = async |n: u64| Ok(authority.head(&layout::coordinator_lease(n)).await?.is_some());
    if !there(known + 1).await? {
        return Ok(None);
    }
    // They follow each other without a gap: the end lies between one that is there and
    // one that is not.
    let (mut low, mut step) = (known + 1, 1);
    while there(low + step).await? {
        low += step;
        step *= 2;
    }
    let mut high = low + step;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if there(middle).await? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(Some(low))
}

/// Reads a lease that is there.
///
/// # Errors
/// The authority does not answer.
pub async fn read(authority: &Replica, trust: &Trust, n: u64) -> Result<Lease, StoreError> {
    let key = layout::coordinator_lease(n);
    let found = copies(authority, &key).await;
    if found.is_empty() {
        // It was there a moment ago.
        authority.get(&key).await?;
    }
    // The oldest that is to be believed: later ones were made by somebody who could overwrite.
    let body = found.iter().find_map(|bytes| {
        let lease = signed::verify::<LeaderBody>(bytes, &key, trust).ok()?;
        Some(lease.header.body).filter(|body| body.n == n)
    });
    Ok(Lease { n, body })
}

#[cfg(test)]
mod tests;
