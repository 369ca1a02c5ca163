//! What is known of a server that follows the cluster as a standby.
//!
//! A promoted standby may lack what the archive has of the timeline before. That has the
//! same form as a copy that was restored or rolled back and then promoted, and differs
//! in one thing: somebody saw the standby follow. What was seen is kept over restarts of
//! the agent; where nothing was seen, an operator may say which timeline is the
//! cluster's own.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use holdfast_proto::pg::{Lsn, TimelineId};

use crate::state::Record;

/// How often, at most, progress on the same timeline is written. An older position is the
/// more careful one: a promotion behind what was seen is refused.
const KEPT_EVERY: Duration = Duration::from_secs(10);

/// How far the server was seen to follow its primary, and what was said of it.
#[derive(Debug, Default)]
pub struct Following {
    kept: Option<Record>,
    said: Option<TimelineId>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    last: Option<(TimelineId, Lsn)>,
    written: Option<(TimelineId, Instant)>,
}

impl Following {
    /// Goes on with what is `kept`. `said` is the timeline of which an operator says that
    /// the cluster was promoted to it.
    pub fn kept(kept: Record, said: Option<TimelineId>) -> Self {
        let last = kept.load().unwrap_or_else(|error| {
            tracing::warn!(err = %error, "how far the standby had followed cannot be read");
            None
        });
        let seen = Seen { last, written: None };
        Self {
            kept: Some(kept),
            said,
            seen: Mutex::new(seen),
        }
    }

    /// Notes how far a standby is.
    pub fn note(&self, (timeline, lsn): (TimelineId, Lsn)) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.last == Some((timeline, lsn)) {
            return;
        }
        seen.last = Some((timeline, lsn));
        let recent = (seen.written).is_some_and(|(of, at)| of == timeline && at.elapsed() < KEPT_EVERY);
        if let Some(kept) = self.kept.as_ref().filter(|_| !recent) {
            match kept.save(&seen.last) {
                Ok(()) => seen.written = Some((timeline, Instant::now())),
                Err(error) => tracing::warn!(err = %error, "how far the standby follows is not kept"),
            }
        }
    }

    /// How far it was seen to follow.
    pub fn seen(&self) -> Option<(TimelineId, Lsn)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).last
    }

    /// Whether an operator says that the cluster was promoted to this timeline.
    pub fn is_said(&self, timeline: TimelineId) -> bool {
        self.said == Some(timeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_outlives_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::at(dir.path().join("followed.json"));
        let at = |timeline, lsn| (TimelineId::new(timeline).unwrap(), Lsn::new(lsn));
        let following = Following::kept(record.clone(), TimelineId::new(3));
        assert_eq!(following.seen(), None);
        following.note(at(1, 10));
        following.note(at(1, 20));
        assert_eq!(following.seen(), Some(at(1, 20)));
        // The first is kept at once; what follows within seconds may be lost.
        assert_eq!(Following::kept(record.clone(), None).seen(), Some(at(1, 10)));
        following.note(at(2, 30));
        let again = Following::kept(record, None);
        assert_eq!(again.seen(), Some(at(2, 30)));
        let third = TimelineId::new(3).unwrap();
        assert!(following.is_said(third) && !again.is_said(third));
    }
}
