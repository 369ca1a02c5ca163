//! Takes what is pushed, one file after the other.

use std::collections::BTreeMap;
use std::future::pending;
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use holdfast_proto::finding::Severity;
use holdfast_proto::names::Lineage;
use holdfast_proto::pg::{BadPage, Lsn, SegmentName, SegmentSize, TimelineHistory, TimelineId};
use holdfast_repository::keyring::Wrapped;
use holdfast_repository::seal::EpochKey;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, interval, timeout_at};

use super::compare::{self, Span};
use super::segment::{Expected, NotThat, SegmentFile};
use super::store::{Standing, Storing, Tail};
use super::{Feed, Push, PushError, Pushing, Taken, WalFile};
use crate::wal::histories::Histories;
use crate::wal::seal::Origin;
use crate::wal::shared::{Followed, Shared};
use crate::wal::start::Place;

/// How long a push waits for what is not there yet before PostgreSQL has to ask again.
const PATIENCE: Duration = Duration::from_secs(40);

/// How long after a promotion the agent has seen it, while it streams or looks.
const PROMOTION_SEEN: Duration = Duration::from_secs(5);

/// How long a refusal is a finding after it was last given. PostgreSQL asks again at
/// least once a minute.
const REMEMBERED: Duration = Duration::from_secs(600);

/// A history is a few lines; more is none.
const MAX_HISTORY: u64 = 1 << 20;

const CONFLICT: &str = "wal-push-conflict";
const REFUSED: &str = "wal-push-refused";
/// Findings about a server that is not the cluster's.
const NOT_FOLLOWED: [&str; 3] = ["server-behind-archive", "history-diverged", "wrong-system"];
const FOREIGN: &str = "wal-push-foreign";

struct Desk {
    shared: Arc<Shared>,
    pushing: Pushing,
    keys: watch::Receiver<Wrapped<EpochKey>>,
    lineage: Lineage,
    histories: Histories,
    tail: Option<Tail>,
    standings: Mutex<Vec<Standing>>,
    refused: BTreeMap<String, Instant>,
}

/// Takes what comes, for ever.
pub(in crate::wal) async fn serve(
    shared: Arc<Shared>,
    pushing: Pushing,
    keys: watch::Receiver<Wrapped<EpochKey>>,
    lineage: Lineage,
) {
    let mut desk = Desk {
        histories: Histories::new(shared.clone()),
        shared,
        pushing,
        keys,
        lineage,
        tail: None,
        standings: Mutex::default(),
        refused: BTreeMap::new(),
    };
    let mut looks = interval(Duration::from_secs(10));
    loop {
        // A push that came is taken to its end: only the whole desk is dropped.
        let push = tokio::select! {
            push = desk.pushing.incoming.recv() => push,
            _ = looks.tick() => {
                desk.forget();
                continue;
            }
        };
        let Some(push) = push else { return pending().await };
        desk.serve(push).await;
    }
}

impl Desk {
    async fn serve(&mut self, push: Push) {
        let Push {
            name,
            kind,
            file,
            system,
            answer,
        } = push;
        let taken = if system.is_some_and(|system| system != self.lineage.system) {
            Err(PushError::Foreign(format!(
                "it comes from the data directory of another cluster: the lineage is of system identifier {}",
                self.lineage.system
            )))
        } else {
            match kind {
                WalFile::Label => Ok(Taken::NotNeeded),
                WalFile::History(timeline) if system.is_some() => self.history(timeline, file).await,
                WalFile::History(_) => Err(PushError::Refused(
                    "a history does not say of which cluster it is: run the command in the data directory, as \
                     PostgreSQL does"
                        .to_owned(),
                )),
                WalFile::Segment(segment) => self.segment(segment, false, file).await,
                WalFile::Partial(segment) => self.segment(segment, true, file).await,
            }
        };
        self.say(&name, &taken);
        // Who asked may have gone: PostgreSQL asks again.
        let _ = answer.send(taken);
    }

    fn subject(&self, name: &str) -> String {
        format!("{}:{name}", self.shared.publisher.cluster)
    }

    fn say(&mut self, name: &str, taken: &Result<Taken, PushError>) {
        let subject = self.subject(name);
        let finding = match taken {
            Err(PushError::Conflict(_)) => CONFLICT,
            Err(PushError::Refused(_)) => REFUSED,
            Err(PushError::Foreign(_)) => FOREIGN,
            Err(PushError::Later(why)) => {
                tracing::debug!(name, why, "a push has to come again");
                return;
            }
            Ok(_) => {
                if self.refused.remove(name).is_some() {
                    self.clear(&subject);
                }
                return;
            }
        };
        if let Err(why) = taken {
            let detail = format!("{name} was handed over and not taken: {why}");
            let findings = &self.shared.findings;
            findings.raise(Severity::Critical, finding, subject, detail);
            self.refused.insert(name.to_owned(), Instant::now());
        }
    }

    fn clear(&self, subject: &str) {
        for finding in [CONFLICT, REFUSED, FOREIGN] {
            self.shared.findings.clear(finding, subject);
        }
    }

    /// Ends findings about what nobody hands over any more.
    fn forget(&mut self) {
        let over: Vec<String> = (self.refused.iter())
            .filter(|(_, at)| at.elapsed() > REMEMBERED)
            .map(|(name, _)| name.clone())
            .collect();
        for name in over {
            self.clear(&self.subject(&name));
            self.refused.remove(&name);
        }
    }

    /// Resolves while the server is one that is not to be followed: what it hands over would
    /// be waited for in vain.
    async fn refused(&self) {
        let subject = self.shared.publisher.cluster.to_string();
        let named = |name: &str| self.shared.findings.holds(name, &subject);
        while !NOT_FOLLOWED.iter().any(|name| named(name)) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The server that is followed, once it is on `timeline` or a later one.
    async fn server(&self, timeline: TimelineId, until: Instant) -> Result<Arc<Followed>, PushError> {
        let mut server = self.shared.server();
        // The sender lives as long as `shared`.
        let some = async {
            let followed = timeout_at(until, server.wait_for(Option::is_some));
            tokio::select! {
                _ = followed => {}
                () = self.refused() => {}
            }
        };
        some.await;
        let soon = until.min(Instant::now() + PROMOTION_SEEN);
        let knows = |server: &Option<Arc<Followed>>| server.as_ref().is_some_and(|s| s.timeline >= timeline);
        let _ = timeout_at(soon, server.wait_for(knows)).await;
        let known = server.borrow().clone();
        match known {
            Some(server) if server.timeline >= timeline => Ok(server),
            Some(server) => Err(PushError::Later(format!(
                "it is of timeline {timeline}, and the server was seen on timeline {}",
                server.timeline
            ))),
            None => Err(PushError::Later(
                "the agent follows no server of this cluster at this moment: look at its findings".to_owned(),
            )),
        }
    }

    async fn history(&mut self, timeline: TimelineId, file: std::fs::File) -> Result<Taken, PushError> {
        let server = self.server(timeline, Instant::now() + PATIENCE).await?;
        let ancestors = server.history.ancestors();
        if timeline != server.timeline && !ancestors.iter().any(|s| s.timeline == timeline) {
            return Err(PushError::Refused(format!(
                "timeline {timeline} is not in the history of timeline {}, which the server is on",
                server.timeline
            )));
        }
        let read = spawn_blocking(move || {
            let mut content = Vec::new();
            if !file.metadata()?.is_file() {
                return Err(std::io::ErrorKind::InvalidInput.into());
            }
            (&file).take(MAX_HISTORY).read_to_end(&mut content)?;
            Ok::<_, std::io::Error>(content)
        });
        let content = match read.await {
            Ok(Ok(content)) => content,
            Ok(Err(error)) => return Err(PushError::Later(format!("it cannot be read: {error}"))),
            Err(_) => return Err(PushError::Later("reading it failed".to_owned())),
        };
        let history = TimelineHistory::parse(timeline, &String::from_utf8_lossy(&content))
            .map_err(|e| PushError::Refused(e.to_string()))?;
        // It compares with what is there, replica by replica.
        let said = Histories::one(history, Bytes::from(content));
        match self.histories.store(said).await {
            Ok(()) => Ok(Taken::Stored),
            Err(error) if error.is_about_who() => Err(PushError::Conflict(format!(
                "another history is stored under its name: {error}"
            ))),
            Err(error) => Err(PushError::Later(error.to_string())),
        }
    }

    async fn segment(
        &mut self,
        name: SegmentName,
        partial: bool,
        file: std::fs::File,
    ) -> Result<Taken, PushError> {
        let until = Instant::now() + PATIENCE;
        let server = self.server(name.timeline(), until).await?;
        let expected = self.expected(&server, name, partial)?;
        let span = Span {
            timeline: expected.timeline,
            size: expected.size,
            start: expected.start(),
            end: expected.until,
        };
        let file = SegmentFile::new(file, span.start);
        let damage = match file.check(expected).await {
            Ok(damage) => damage,
            Err(error @ (NotThat::Io(_) | NotThat::Broken)) => {
                return Err(PushError::Later(error.to_string()));
            }
            Err(error @ NotThat::Header(BadPage::System { .. })) => {
                return Err(PushError::Foreign(error.to_string()));
            }
            Err(error) => return Err(PushError::Refused(error.to_string())),
        };
        if self.pushing.feed == Feed::Stream {
            self.until_streamed(span, until).await?;
        }
        let held = compare::held(
            &self.shared,
            &self.pushing.trust,
            &self.pushing.index_key,
            span,
            &file,
        )
        .await?;
        let wanted = self.shared.ledger(|ledger| ledger.copies());
        if held.copies(span.start, span.end) >= wanted {
            return Ok(Taken::Already);
        }
        let apart = self.reached(span);
        let lacked = self.parent_lacks(&server, span);
        let storing = Storing {
            shared: &self.shared,
            trust: &self.pushing.trust,
            origin: Origin {
                publisher: self.shared.publisher.clone(),
                lineage: self.lineage,
                version_num: server.version_num,
                segment_size: span.size,
                index_key: Some(self.pushing.index_key.clone()),
            },
            key: self.keys.borrow().clone(),
            standings: &self.standings,
            apart: apart.or(lacked.map(|(from, _)| from)),
        };
        let stored = storing.store(&file, span, &held, self.tail.take()).await?;
        self.tail = stored.tail;
        if stored.copies < wanted {
            return Err(PushError::Later(format!(
                "it is on {} of the {wanted} replicas that the tier asks for ({})",
                stored.copies,
                stored.failures.join("; ")
            )));
        }
        if let Some(damage) = damage {
            let detail = format!("{damage}. It is stored as it came");
            let subject = span.start.to_string();
            let findings = &self.shared.findings;
            findings.raise(Severity::Critical, "wal-not-understood", subject, detail);
        }
        if let Some(apart) = apart {
            self.begin_again(&server, span, apart);
        } else if let Some((from, to)) = lacked {
            self.say_gap(from, to);
        }
        if let Some(latest) = stored.latest {
            self.shared.note_commit(latest);
        }
        Ok(Taken::Stored)
    }

    /// What the file must be, by its name and the server's past.
    fn expected(&self, server: &Followed, name: SegmentName, partial: bool) -> Result<Expected, PushError> {
        let (size, timeline) = (server.segment_size, name.timeline());
        let refused = |why: String| Err(PushError::Refused(why));
        let Some(segment) = name.segment(size) else {
            return refused(format!("its name cannot exist with segments of {size} bytes"));
        };
        let (start, end) = (size.start_of(segment), size.end_of(segment));
        let left = if timeline == server.timeline {
            None
        } else {
            let ancestors = server.history.ancestors();
            let Some(switch) = ancestors.iter().find(|s| s.timeline == timeline) else {
                return refused(format!(
                    "timeline {timeline} is not in the history of timeline {}, which the server is on",
                    server.timeline
                ));
            };
            Some(switch.end)
        };
        let until = match left {
            Some(left) if left <= start => {
                return refused(format!("timeline {timeline} ended at {left}, before it"));
            }
            Some(left) if partial => left.min(end),
            None if partial => {
                return refused(format!(
                    "timeline {timeline} is the one that the server is on, so its segments are not left unfinished"
                ));
            }
            _ => end,
        };
        Ok(Expected {
            system: self.lineage.system,
            timeline,
            segment,
            size,
            until,
            history: server.history.clone(),
        })
    }

    /// Waits until the stream has brought what it is about to bring.
    async fn until_streamed(&self, span: Span, until: Instant) -> Result<(), PushError> {
        let mut revision = self.shared.revisions();
        loop {
            revision.borrow_and_update();
            let Some(state) = self.shared.state() else {
                return Err(PushError::Later("the stream has not begun yet".to_owned()));
            };
            let brings = match state.timeline.cmp(&span.timeline) {
                std::cmp::Ordering::Less => true,
                std::cmp::Ordering::Equal => {
                    state.reach.contiguous_from() < span.end && state.acknowledged < span.end
                }
                std::cmp::Ordering::Greater => false,
            };
            if !brings {
                return Ok(());
            }
            if !matches!(timeout_at(until, revision.changed()).await, Ok(Ok(()))) {
                return Err(PushError::Later(format!(
                    "the stream is acknowledged up to {} and has not brought it yet: look at the agent's findings",
                    state.acknowledged
                )));
            }
        }
    }

    /// Where the WAL before `span` ends, when there is a hole between.
    fn reached(&self, span: Span) -> Option<Lsn> {
        let state = self.shared.state()?;
        if self.pushing.feed == Feed::Stream || state.timeline != span.timeline {
            return None;
        }
        let anchor = state.reach.contiguous_from();
        let reach = self.shared.ledger(|l| l.union(span.timeline).reach(anchor));
        let reached = reach.unwrap_or(anchor);
        (reached < span.start).then_some(reached)
    }

    /// What the archive lacks of the timeline before, now that the next one has begun: a
    /// standby does not hand over what it received before it was promoted.
    fn parent_lacks(&self, server: &Followed, span: Span) -> Option<(Lsn, Lsn)> {
        let parent = server.history.ancestors().last()?;
        let begins = span.timeline == server.timeline && span.start <= parent.end && parent.end < span.end;
        let held = self.shared.ledger(|l| l.union(parent.timeline).last())?;
        (self.pushing.feed == Feed::Archive && begins && held.1 < parent.end).then_some((held.1, parent.end))
    }

    fn say_gap(&self, from: Lsn, to: Lsn) {
        self.shared.findings.raise(
            Severity::Critical,
            "wal-gap",
            self.shared.publisher.cluster.to_string(),
            format!(
                "the WAL between {from} and {to} was never handed over: moments in between and after cannot be restored \
                 until a new base backup is taken, which the agent does by itself. Look for a failover, or for a time at which \
                 archive_mode was off or archive_command was another one"
            ),
        );
    }

    /// WAL is missing before what was just stored: what counts begins there.
    fn begin_again(&self, server: &Followed, span: Span, reached: Lsn) {
        let place = Place {
            anchor: span.start,
            from: span.start,
        };
        let flush = self.shared.state().map_or(span.end, |state| state.server_flush);
        let size: SegmentSize = server.segment_size;
        self.shared.begin_pushed(span.timeline, place, size, flush);
        self.shared.connected(true);
        self.say_gap(reached, span.start);
    }
}
