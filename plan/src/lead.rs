//! When a coordinator may lead, when it must stop, and when it may take over.
//!
//! Leases are numbered and each number is won by one (`holdfast_repository::lead`). A
//! [`Candidate`] is told what became of them and says what to do next. Its moments are
//! those of a clock that only goes forward, counted from anywhere; no two candidates
//! compare theirs.
//!
//! What holds, however late anything is done or told: at no moment do two candidates lead,
//! as long as their clocks go equally fast within the margin of the lease. The holder's
//! time runs from before it asked, a challenger's from when it first saw what the holder
//! got, which is later; and of renewing and taking over, which are claims to the same
//! number, one is lost.

use std::time::Duration;

/// A moment: so long after one that nobody has to know.
pub type Moment = Duration;

/// How many renewals are tried in the time of a lease.
const TRIES: u32 = 2;

/// The highest lease that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    n: u64,
    term: u64,
    /// It may be taken over then.
    over: Moment,
    /// We hold it, or held it when we were killed.
    ours: bool,
}

/// A reign that is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reign {
    term: u64,
    /// When it is to be renewed.
    renew: Moment,
    /// It ends then.
    until: Moment,
}

/// What somebody found out about a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its number.
    pub n: u64,
    /// Its term, when it is to be believed.
    pub term: Option<u64>,
    /// How long after it was seen its holder may still act.
    pub waited_for: Duration,
    /// It carries our nonce.
    pub ours: bool,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Claim this number under this term.
    Claim {
        /// The number.
        n: u64,
        /// The term.
        term: u64,
    },
    /// Look for a later lease.
    Look,
}

/// One who leads, or would.
#[derive(Debug, Clone)]
pub struct Candidate {
    lasts: Duration,
    /// There is no lease up to here, or it does not matter any more.
    base: u64,
    seen: Option<Seen>,
    reign: Option<Reign>,
}

impl Candidate {
    /// One whose leases are good for `lasts`, and who knows of none above `base`.
    pub fn new(lasts: Duration, base: u64) -> Self {
        Self {
            lasts,
            base,
            seen: None,
            reign: None,
        }
    }

    /// The highest number that is known to be taken.
    pub fn highest(&self) -> u64 {
        self.seen.map_or(self.base, |seen| seen.n)
    }

    /// The number below which nothing counts has changed: the authority was moved.
    pub fn rebase(&mut self, base: u64) {
        if base != self.base {
            *self = Self::new(self.lasts, base);
        }
    }

    /// The term in which we lead at `now`, and until when.
    pub fn leads(&self, now: Moment) -> Option<(u64, Moment)> {
        let reign = self.reign.filter(|reign| now < reign.until)?;
        Some((reign.term, reign.until))
    }

    /// What to do at `now`.
    pub fn next(&self, now: Moment) -> Next {
        let Some(seen) = self.seen else {
            let n = self.base + 1;
            return Next::Claim { n, term: n };
        };
        let n = seen.n + 1;
        match self.reign {
            Some(reign) if now < reign.until => match reign.renew <= now {
                true => Next::Claim { n, term: reign.term },
                false => Next::Look,
            },
            // Nobody else has led since: the number after ours is free, and so we still lead.
            _ if seen.ours => Next::Claim { n, term: seen.term },
            _ if seen.over <= now => Next::Claim { n, term: n },
            _ => Next::Look,
        }
    }

    /// When [`Candidate::next`] may say something else, if nothing is found until then.
    pub fn wakes(&self) -> Option<Moment> {
        match (self.reign, self.seen) {
            (Some(reign), _) => Some(reign.renew),
            (None, seen) => seen.map(|seen| seen.over),
        }
    }

    /// A lease was found at `now`.
    pub fn found(&mut self, found: Found, now: Moment) {
        if found.n <= self.highest() {
            return;
        }
        self.seen = Some(Seen {
            n: found.n,
            term: found.term.unwrap_or(found.n),
            over: now + found.waited_for,
            ours: found.ours,
        });
        // Somebody else has what we would have had to win.
        self.reign = None;
    }

    /// The claim to `n`, first made at `asked`, was won.
    pub fn won(&mut self, n: u64, term: u64, asked: Moment) {
        if n <= self.highest() {
            return;
        }
        let until = asked + self.lasts;
        self.seen = Some(Seen {
            n,
            term,
            over: until,
            ours: true,
        });
        self.reign = Some(Reign {
            term,
            renew: asked + self.lasts / TRIES,
            until,
        });
    }

    /// We lead no more, by our own will.
    pub fn resign(&mut self) {
        self.reign = None;
        if let Some(seen) = &mut self.seen {
            seen.ours = false;
        }
    }
}

#[cfg(test)]
mod tests;
