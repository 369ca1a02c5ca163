//! Whether this coordinator leads, and who does when it does not.
//!
//! Several coordinators may run over one repository. One leads: it gives orders, replicates,
//! takes up policies, keeps the evidence log and sends alerts. The others watch, show what
//! they see, and take over when its lease has run out ([`holdfast_plan::lead`]).
//!
//! Who acts asks [`Lead::term`] right before, and does nothing without one. The answer is
//! made from the clock at that moment, not from a flag that somebody has to take down: a
//! process that was stopped and goes on finds its lease over.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use holdfast_plan::lead::{Candidate, Moment};
use holdfast_proto::Timestamp;
use holdfast_proto::names::ActorName;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::desk::now;

/// What one process knows of who leads.
#[derive(Debug)]
pub struct Lead {
    /// From where its moments are counted.
    origin: Instant,
    /// By this its leases are known: a new one for each process.
    nonce: String,
    held: Mutex<Held>,
    /// Wakes whoever waits for a change.
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Held {
    candidate: Candidate,
    /// The nonce of the process before this one, in the same state directory.
    before: Option<String>,
    /// Whose the highest lease is, as far as it could be read.
    holder: Option<(ActorName, u64)>,
    /// When our reign began, by our wall clock.
    since: Option<Timestamp>,
    /// Why it cannot be said who leads.
    trouble: Option<Trouble>,
}

/// Who leads, as `/v1/status` says it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Leading {
    /// This coordinator does.
    pub here: bool,
    /// Who holds the highest lease that is known.
    #[schema(value_type = Option<String>)]
    pub coordinator: Option<ActorName>,
    /// In which term.
    pub term: Option<u64>,
    /// Since when, where this one does.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Why the leases cannot be read or taken.
    pub trouble: Option<Trouble>,
}

/// Why it cannot be said who leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Trouble {
    /// What went wrong.
    pub why: String,
    /// Since when it goes wrong.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

impl Lead {
    /// Nobody leads yet, as far as is known. `before` is the nonce of the process that
    /// had our state directory before.
    pub fn new(candidate: Candidate, before: Option<String>) -> Self {
        Self {
            origin: Instant::now(),
            nonce: format!("{:032x}", rand::random::<u128>()),
            held: Mutex::new(Held {
                candidate,
                before,
                holder: None,
                since: None,
                trouble: None,
            }),
            changed: watch::Sender::new(()),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The moment by a clock that only goes forward.
    pub fn moment(&self) -> Moment {
        self.origin.elapsed()
    }

    /// The nonce of this process's leases.
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// Whether a lease with this nonce is this process's, or its predecessor's.
    pub fn is_ours(&self, nonce: &str) -> bool {
        nonce == self.nonce || self.held().before.as_deref() == Some(nonce)
    }

    /// The term in which this coordinator leads at this moment; `None` when it does not.
    pub fn term(&self) -> Option<u64> {
        self.held().candidate.leads(self.moment()).map(|(term, _)| term)
    }

    /// When this coordinator's reign began; `None` while it does not lead.
    pub fn since(&self) -> Option<Timestamp> {
        let held = self.held();
        held.candidate.leads(self.moment())?;
        held.since
    }

    /// The candidacy as it is.
    pub fn candidate(&self) -> Candidate {
        self.held().candidate.clone()
    }

    /// Changes the candidacy. Returns the terms in which we led before and lead now.
    pub fn change(&self, change: impl FnOnce(&mut Candidate, Moment)) -> (Option<u64>, Option<u64>) {
        let mut held = self.held();
        let at = self.moment();
        let before = held.candidate.leads(at).map(|(term, _)| term);
        change(&mut held.candidate, at);
        let after = held.candidate.leads(self.moment()).map(|(term, _)| term);
        if after.is_none() {
            held.since = None;
        } else if held.since.is_none() || before != after {
            held.since = Some(now());
        }
        drop(held);
        self.changed.send_replace(());
        (before, after)
    }

    /// Notes whose the highest lease is, and its term.
    pub fn note_holder(&self, holder: Option<(ActorName, u64)>) {
        self.held().holder = holder;
    }

    /// Notes that leases cannot be read or taken, or that they can. Says whether that is news.
    pub fn note_trouble(&self, trouble: Option<String>) -> bool {
        let mut held = self.held();
        let news = held.trouble.is_some() != trouble.is_some();
        let since = held.trouble.as_ref().map_or_else(now, |trouble| trouble.since);
        held.trouble = trouble.map(|why| Trouble { why, since });
        news
    }

    /// Whether this coordinator, whose name is `own`, sends alerts: it leads, or nobody can
    /// tell who does and it was the last one that it knows of. That the replica is lost that
    /// decides is the last thing of which nobody must hear; hearing of it twice does no harm.
    pub fn speaks(&self, own: &ActorName) -> bool {
        let leads = self.term().is_some();
        let held = self.held();
        let last = held.holder.as_ref().is_none_or(|(holder, _)| holder == own);
        leads || (held.trouble.is_some() && last)
    }

    /// Comes back when this coordinator leads no more in `term`.
    pub async fn ended(&self, term: u64) {
        let mut changes = self.changed.subscribe();
        loop {
            let leads = self.held().candidate.leads(self.moment());
            let Some((_, until)) = leads.filter(|(now, _)| *now == term) else {
                return;
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(until.saturating_sub(self.moment())) => {}
            }
        }
    }

    /// Who leads, for people.
    pub fn leading(&self) -> Leading {
        let held = self.held();
        let here = held.candidate.leads(self.moment()).is_some();
        Leading {
            here,
            coordinator: held.holder.as_ref().map(|(name, _)| name.clone()),
            term: held.holder.as_ref().map(|(_, term)| *term),
            since: held.since.filter(|_| here),
            trouble: held.trouble.clone(),
        }
    }
}
