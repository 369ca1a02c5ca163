//! The life of a WAL line: connect, check, decide where to take up, stream, and
//! again.
//!
//! Everything that matters is checked at every connection: the system
//! identifier, whether the server is a standby, the timeline and its history,
//! the slot, and that no other agent has taken the writer's lease. A server that
//! is not to be followed is a finding, and is looked at again later: the line
//! never gives up by itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use holdfast_proto::finding::Severity;
use holdfast_proto::pg::{Lsn, SegmentSize, TimelineId};
use holdfast_proto::record::{AfterGap, GapCause};
use holdfast_repository::clock::now;
use holdfast_repository::pack::PackError;
use holdfast_repository::replica::explained;
use holdfast_repository::seal::IndexKey;
use holdfast_repository::{Deadlines, Replica};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::backoff::Backoff;
use super::chunk::Cutter;
use super::histories::Histories;
use super::lease;
use super::proof::{Expected, Proof};
use super::seal::{Chain, Origin};
use super::sealer::Sealer;
use super::shared::{Followed, Shared};
use super::standing::{Standing, standing_at, until_stands_otherwise};
use super::start::{self, Place, Refusal, Server, Start};
use super::stream::{End, Flow, StreamError};
use super::trouble::{DIVERGED, NOT_COMPARED, SERVER_FINDINGS, Trouble};
use super::unheld::{forgets, keep, slot_lost};
use super::valve::Position;
use super::{WalContext, WalError};
use crate::postgres::{
    PgError, PgErrorClass, PgTarget, ReplicationConnection, SystemIdentity, followed_by_standby, sql_connect,
};

/// How long after its start the line waits for all replicas to be listed before
/// it begins without some.
const LISTING_PATIENCE: Duration = Duration::from_secs(5);

/// How long a stop waits for what was received to be stored.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// A stream's parts that outlive a connection.
struct Session {
    timeline: TimelineId,
    size: SegmentSize,
    cutter: Cutter,
    sealer: Sealer,
    streamed: bool,
    /// The last chunk that was stored before this stream; taken away once the server
    /// has shown it, or cannot.
    expected: Option<Expected>,
}

pub(super) struct Line {
    context: WalContext,
    directives: watch::Receiver<super::LineDirectives>,
    shared: Arc<Shared>,
    session: Option<Session>,
    /// Positions whose WAL the server does not have any more.
    removed: BTreeSet<Lsn>,
    histories: Histories,
    listing_until: Instant,
    /// With what chunks are made known again.
    index_key: Option<IndexKey>,
    /// As what it is connected.
    standing: Standing,
    /// Why the slot may have held nothing since the last stream.
    unheld: Option<GapCause>,
    /// Where the slot stood that the server had kept.
    slot_kept: Option<Lsn>,
}

impl Line {
    pub fn new(context: WalContext, shared: Arc<Shared>, index_key: Option<IndexKey>) -> Self {
        let directives = context.directives.clone();
        let histories = Histories::new(shared.clone());
        let unheld = context.unheld.load().unwrap_or_else(|error| {
            tracing::warn!(err = %error, "why the slot held nothing cannot be read");
            None
        });
        Self {
            context,
            directives,
            shared,
            session: None,
            removed: BTreeSet::new(),
            histories,
            listing_until: Instant::now() + LISTING_PATIENCE,
            index_key,
            standing: Standing::Standby,
            unheld,
            slot_kept: None,
        }
    }

    /// Streams until cancelled or until another agent has taken over.
    pub async fn run(mut self) -> Result<(), WalError> {
        let cancel = self.context.cancel.clone();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            let began = Instant::now();
            // Dropping the attempt closes the connection; what was received is
            // in the session.
            let outcome = self.attempt().await;
            self.shared.connected(false);
            match outcome {
                Ok(End::Cancelled) => return self.stop().await,
                Ok(End::Timeline { next }) => {
                    tracing::info!(timeline = %next, "the server goes on with another timeline");
                    if !self.settle().await? {
                        return self.stop().await;
                    }
                    continue;
                }
                Ok(End::NotCompared) => continue,
                Ok(End::StandsOtherwise) => {
                    tracing::info!("what commits wait for has changed, the line connects anew");
                    continue;
                }
                Ok(End::Full) => {
                    tracing::info!("memory is full, the stream pauses");
                    self.until_room().await;
                }
                Ok(End::GivenUp) => {
                    tracing::warn!("the disk valve gives the slot up, the stream rests");
                    self.unheld = Some(GapCause::ValveGaveUp);
                }
                Ok(End::Released) => tracing::info!("the server shuts down and was released"),
                Err(Trouble::Fatal(error)) => return Err(error),
                Err(Trouble::Postgres(error)) if error.class() == PgErrorClass::Gap => {
                    if self.note_removed(&error).await? {
                        continue;
                    }
                }
                Err(trouble) => {
                    if trouble.is_about_who() {
                        self.shared.follow(None);
                    }
                    self.raise(&trouble);
                }
            }
            if cancel.is_cancelled() {
                return self.stop().await;
            }
            if began.elapsed() > Duration::from_secs(30) {
                backoff.reset();
            }
            tokio::select! {
                () = cancel.cancelled() => {}
                () = sleep(backoff.next()) => {}
            }
        }
    }

    fn subject(&self) -> String {
        self.context.publisher.cluster.to_string()
    }

    fn raise(&self, trouble: &Trouble) {
        let (name, severity) = trouble.finding();
        let detail = explained(trouble);
        self.shared.findings.raise(severity, name, self.subject(), detail);
    }

    /// One connection, from its checks to its end.
    async fn attempt(&mut self) -> Result<End, Trouble> {
        let cancel = self.context.cancel.clone();
        let shared = self.shared.clone();
        let prepared = tokio::select! {
            () = cancel.cancelled() => return Ok(End::Cancelled),
            prepared = async {
                if shared.valve() == Position::GivenUp {
                    self.unheld = Some(GapCause::ValveGaveUp);
                    shared.until_given_up(false).await;
                }
                self.prepare().await
            } => prepared?,
        };
        let (connection, slot) = prepared;
        let subject = self.subject();
        let session = self.session.as_mut().expect("prepare has made a session");
        // Until the chunk from before is shown, it is what counts; from then on the
        // bytes that were received last.
        let received = || {
            session
                .cutter
                .tail()
                .map(|(at, bytes)| Expected::Bytes(at, bytes.to_vec()))
        };
        let proof = session.expected.clone().or_else(received).map(Proof::new);
        let at = session.cutter.position();
        if proof.is_none() {
            // Nothing is archived that it could contradict.
            self.shared.findings.clear(DIVERGED, &subject);
        }
        let begins = proof.as_ref().map_or(at, |proof| proof.begins().min(at));
        let starting = connection.start_physical(Some(&self.context.slot), begins, session.timeline);
        let mut stream = starting.await?;
        self.shared.connected(true);
        let shown = AtomicBool::new(proof.is_none());
        let mut flow = Flow {
            shared: &self.shared,
            sealer: &session.sealer,
            cutter: &mut session.cutter,
            directives: &mut self.directives,
            cancel: &cancel,
            slot,
            proof,
            shown: &shown,
            standing: self.standing,
        };
        let (standing, timeline) = (self.standing, session.timeline);
        let end = tokio::select! {
            end = flow.run(&mut stream) => end,
            () = until_stands_otherwise(&shared, &self.context.target, timeline, standing, &shown) =>
                Ok(End::StandsOtherwise),
            never = forgets(&shared, &self.context.unheld, at, self.unheld) => match never {},
        };
        let proven = flow.proof.as_ref().is_some_and(Proof::is_done);
        if proven {
            session.expected = None;
        }
        if matches!(end, Err(StreamError::Differs(_))) && session.expected.is_some() {
            // What it read of another history is in it: the next look begins anew.
            // Nothing of it is in a chunk.
            self.session = None;
            return Ok(end?);
        }
        if let Err(StreamError::Postgres(error)) = &end
            && error.class() == PgErrorClass::Gap
            && begins < gone(at, session.size)
        {
            // It ends with a segment that the server has removed: all that can be
            // compared is its position.
            session.expected = None;
            session.cutter.forget_tail();
            let why = format!("the server has removed its WAL before {at}");
            self.not_compared(timeline, at, &why);
            return Ok(End::NotCompared);
        }
        if session.cutter.position() > at {
            session.streamed = true;
            self.unheld = None;
        }
        if session.streamed {
            self.removed.clear();
        }
        Ok(end?)
    }

    /// Connects, checks everything, and makes a session if there is none.
    /// Returns the connection and where the slot stands.
    async fn prepare(&mut self) -> Result<(ReplicationConnection, Option<Lsn>), Trouble> {
        lease::check(&self.context.publisher).await?;
        if !self.shared.until_listed(self.listing_until).await {
            return Err(Trouble::NoReplica);
        }
        let target = self.standing().await?;
        let mut connection = ReplicationConnection::connect(&target).await?;
        let identity = connection.identify_system().await?;
        if identity.system != self.context.lineage.system {
            return Err(Trouble::WrongSystem {
                found: identity.system.to_string(),
                expected: self.context.lineage.system.to_string(),
            });
        }
        if connection.in_recovery() == Some(true) {
            let directory = self.context.valve.data_directory.as_deref();
            if let Some(seen) = followed_by_standby(&self.context.target, directory).await? {
                self.context.following.note(seen);
            }
            return Err(Trouble::Standby);
        }
        let size = connection.show_segment_size().await?;
        let slot = self.reserve(&mut connection).await?;
        let said = Histories::of_server(&mut connection, identity.timeline).await?;
        let history = said.history.clone();
        let server = Server {
            timeline: identity.timeline,
            flush: identity.flush,
            history: &history,
            slot,
            segment_size: size,
            followed: self.context.following.seen(),
            said: self.context.following.is_said(identity.timeline),
        };
        let start = match &self.session {
            Some(session) => {
                check_still_ours(session, &server)?;
                None
            }
            None => Some(self.shared.ledger(|ledger| start::plan(ledger, server))?),
        };
        self.histories.store(said).await?;
        let version_num = self.version_num().await?;
        if let Some(start) = start {
            self.begin(&mut connection, &identity, server, start, version_num)
                .await?;
        }
        self.shared.follow(Some(Followed {
            timeline: identity.timeline,
            history,
            segment_size: size,
            version_num,
        }));
        for name in SERVER_FINDINGS {
            self.shared.findings.clear(name, &self.subject());
        }
        Ok((connection, slot))
    }

    /// How to connect: under the name that `synchronous_standby_names` may have,
    /// unless commits are to wait until a standby shows them (`remote_apply`). An
    /// archive shows nothing, and must not say that it does.
    async fn standing(&mut self) -> Result<PgTarget, PgError> {
        let (standing, refused) = standing_at(&self.context.target).await?;
        let mut target = self.context.target.clone();
        let subject = self.subject();
        self.standing = standing;
        if let Some(names) = refused {
            let instead = if self.standing == Standing::Hidden {
                "The name * is everybody's, so it confirms nothing: the slot keeps all WAL until this is put right"
            } else {
                "It streams under another name, so they wait for others"
            };
            let detail = format!(
                "synchronous_commit is remote_apply and synchronous_standby_names ({names}) names this agent: commits \
                 would wait until it shows them, and an archive shows nothing. {instead}. Set synchronous_commit to on, \
                 which means durable on the tier's replicas, and reload: within seconds it streams as before"
            );
            self.shared
                .findings
                .raise(Severity::Critical, "remote-apply-refused", subject, detail);
            target.application_name = format!("{}-no-standby", target.application_name);
        } else {
            self.shared.findings.clear("remote-apply-refused", &subject);
        }
        Ok(target)
    }

    /// Makes sure of the slot, and says from where it keeps WAL.
    async fn reserve(&mut self, connection: &mut ReplicationConnection) -> Result<Option<Lsn>, PgError> {
        let slot = &self.context.slot;
        self.slot_kept = None;
        let lost = match connection.read_slot(slot).await? {
            Some(state) => match slot_lost(&self.context.target, slot).await? {
                None if state.restart_lsn.is_some() => {
                    self.slot_kept = state.restart_lsn;
                    return Ok(state.restart_lsn);
                }
                // Made without a reservation: it never kept anything.
                None => GapCause::SlotMissing,
                Some(why) => {
                    let detail = format!(
                        "the server invalidated the replication slot ({why}): since then it kept no WAL for the archive. \
                         A new one is made; if WAL is missing by now, that is a gap and a base backup follows. Raise \
                         max_slot_wal_keep_size (or leave it at -1: the disk valve looks after the disk) and leave \
                         idle_replication_slot_timeout at 0"
                    );
                    let subject = self.subject();
                    self.shared
                        .findings
                        .raise(Severity::Critical, "wal-slot-invalidated", subject, detail);
                    GapCause::SlotInvalidated
                }
            },
            None => GapCause::SlotMissing,
        };
        // What WAL is still there is found out by asking for it.
        if self.unheld.is_none() || lost == GapCause::SlotInvalidated {
            self.unheld = Some(lost);
            keep(&self.context.unheld, Some(lost));
        }
        self.make_slot_anew(connection).await
    }

    async fn make_slot_anew(&self, connection: &mut ReplicationConnection) -> Result<Option<Lsn>, PgError> {
        let slot = &self.context.slot;
        if connection.read_slot(slot).await?.is_some() {
            connection.drop_slot(slot).await?;
        }
        connection.create_physical_slot(slot, true).await?;
        tracing::info!(%slot, "replication slot made");
        let made = connection.read_slot(slot).await?;
        Ok(made.and_then(|slot| slot.restart_lsn))
    }

    /// Decides where to take up, and makes the session.
    async fn begin(
        &mut self,
        connection: &mut ReplicationConnection,
        identity: &SystemIdentity,
        server: Server<'_>,
        start: Start,
        version_num: u32,
    ) -> Result<(), Trouble> {
        let size = server.segment_size;
        if let Some((fork, archive)) = start.left_behind {
            self.shared.say_left_behind(fork, archive);
        }
        let mut after_gap = None;
        let untried = start
            .places
            .iter()
            .find(|place| !self.removed.contains(&place.from));
        let (timeline, place) = match untried {
            Some(place) => (start.timeline, *place),
            None => {
                let (slot, timeline) = self.anew(connection, identity, &start, &server).await?;
                let from = size.start_of(size.segment_of(slot));
                after_gap = start.places.last().map(|place| AfterGap {
                    from: place.from,
                    cause: self.unheld.unwrap_or(GapCause::Removed),
                    noticed: now(),
                });
                (timeline, Place { anchor: from, from })
            }
        };
        let origin = Origin {
            publisher: self.context.publisher.clone(),
            lineage: self.context.lineage,
            version_num,
            segment_size: size,
            index_key: self.index_key.clone(),
        };
        let chain = Chain {
            after_gap,
            ..self.chain(timeline, size, place).await
        };
        let expected = self.expected(timeline, size, place).await;
        self.shared.begin(timeline, place, size, identity.flush);
        self.remember_uncompared();
        let expected = expected.unwrap_or_else(|why| {
            self.not_compared(timeline, place.from, &why);
            None
        });
        let keys = self.context.keys.clone();
        self.session = Some(Session {
            timeline,
            size,
            cutter: Cutter::new(timeline, size, self.context.lineage.system, place.from),
            sealer: Sealer::start(self.shared.clone(), origin, keys, chain),
            streamed: false,
            expected,
        });
        if self.shared.findings.holds(DIVERGED, &self.subject()) {
            // Another look at a server whose WAL is not the archive's.
            tracing::debug!(%timeline, lsn = %place.from, "the WAL line looks again");
        } else {
            tracing::info!(%timeline, lsn = %place.from, "the WAL line takes up");
        }
        Ok(())
    }

    /// The start of a stream that continues nothing: the first ever, or after a
    /// gap, which is a finding. Returns the slot's position.
    async fn anew(
        &mut self,
        connection: &mut ReplicationConnection,
        identity: &SystemIdentity,
        start: &Start,
        server: &Server<'_>,
    ) -> Result<(Lsn, TimelineId), Trouble> {
        let lost = start.places.last().map(|place| place.from);
        if let Some(at) = lost {
            let unlisted = self.shared.ledger(|ledger| ledger.unlisted());
            if !unlisted.is_empty() {
                self.removed.clear();
                let unlisted: Vec<String> = unlisted.iter().map(ToString::to_string).collect();
                return Err(Trouble::StartUnknown {
                    at,
                    unlisted: unlisted.join(", "),
                });
            }
        }
        let usable = server
            .slot
            .filter(|slot| !self.removed.contains(&gone(*slot, server.segment_size)));
        let slot = match usable {
            Some(slot) => slot,
            None => self.make_slot_anew(connection).await?.unwrap_or(identity.flush),
        };
        if let Some(lost) = lost {
            let cause = self.unheld.unwrap_or(GapCause::Removed).words();
            let size = server.segment_size;
            let taken_up = size.start_of(size.segment_of(slot));
            let detail = format!(
                "the server has removed the WAL between {lost} and {taken_up} before it was stored: {cause}. Moments in \
                 between and after cannot be restored until a new base backup is taken: it begins by itself as soon as \
                 WAL flows, unless only this agent's WAL line was started"
            );
            self.shared
                .findings
                .raise(Severity::Critical, "wal-gap", self.subject(), detail);
        }
        Ok((slot, identity.timeline))
    }

    /// The objects that the first new one continues.
    async fn chain(&self, timeline: TimelineId, size: SegmentSize, place: Place) -> Chain {
        let archive = &self.shared.archive;
        let short = self.quick_replicas();
        let chain = archive.chain_at(&short, timeline, size, place.from).await;
        if chain.previous.is_some() {
            return chain;
        }
        // A timeline's first object names the last one of the timeline before;
        // its WAL does not follow that one's.
        let before = self.shared.ledger(|ledger| {
            let newest = ledger.newest_timeline().filter(|newest| *newest < timeline)?;
            ledger.union(newest).last().map(|(_, end)| (newest, end))
        });
        match before {
            Some((older, end)) => Chain {
                follows: None,
                ..archive.chain_at(&short, older, size, end).await
            },
            None => Chain::default(),
        }
    }

    /// The last chunk that is stored before a place, which the server must show, if there
    /// is one; or why it cannot be told.
    async fn expected(
        &self,
        timeline: TimelineId,
        size: SegmentSize,
        place: Place,
    ) -> Result<Option<Expected>, String> {
        if place.from <= place.anchor {
            // Nothing of this timeline lies before it.
            return Ok(None);
        }
        let short = self.quick_replicas();
        let archive = &self.shared.archive;
        let chunk = archive.last_chunk(&short, timeline, size, place.from).await;
        let known = chunk.as_ref().and_then(|chunk| {
            let key = self.index_key.clone()?;
            let id = chunk.id.filter(|id| id.key == key.fingerprint())?.content;
            let (start, end) = (chunk.start, chunk.end);
            Some(Expected::Chunk { start, end, id, key })
        });
        let why = "no replica within reach has it with an identity that this agent's index key makes";
        known.map(Some).ok_or_else(|| why.to_owned())
    }

    /// What the archive ends with could not be compared with the WAL of the server that
    /// goes on behind it. Unless that server is known otherwise to be the one, a base
    /// backup is taken, from which what follows can be restored whatever came before.
    fn not_compared(&self, timeline: TimelineId, at: Lsn, why: &str) {
        // The slot stands where this archive confirmed: in an older copy of the server it
        // stands further back. And who followed the cluster has its history.
        let confirmed = self.slot_kept == Some(at);
        let seen = self.context.following.seen();
        let followed = seen.is_some_and(|(of, received)| of == timeline && received >= at);
        if confirmed || followed {
            tracing::info!(
                lsn = %at, confirmed, followed, why,
                "what the archive ends with is not compared: the server is known to continue it"
            );
            return;
        }
        if let Err(error) = self.context.uncompared.save(&Some((timeline, at))) {
            tracing::warn!(err = %error, "that WAL was not compared is not remembered");
        }
        self.say_not_compared((timeline, at), why);
    }

    fn say_not_compared(&self, from: (TimelineId, Lsn), why: &str) {
        self.shared.uncompared(Some(from));
        let detail = format!(
            "what is archived before {} could not be compared with the server's WAL: {why}. If the server was set back \
             to an older copy of its disk, what it wrote since cannot be restored by base backups from before: one is \
             taken now, and until then moments behind this position are not to be relied on",
            from.1
        );
        self.shared
            .findings
            .raise(Severity::Critical, NOT_COMPARED, self.subject(), detail);
    }

    /// Says again what an earlier process could not compare, while no base backup was
    /// taken since.
    fn remember_uncompared(&self) {
        match self.context.uncompared.load() {
            Ok(None) => {}
            Ok(Some(from)) => self.say_not_compared(from, "an earlier process could not"),
            Err(error) => tracing::warn!(err = %error, "whether WAL was not compared cannot be read"),
        }
    }

    /// The replicas, with little patience.
    fn quick_replicas(&self) -> Vec<Replica> {
        let replicas = self.shared.replicas.iter();
        replicas.map(|r| r.with_deadlines(Deadlines::short())).collect()
    }

    async fn version_num(&self) -> Result<u32, PgError> {
        let client = sql_connect(&self.context.target).await?;
        let row = client
            .query_one("select pg_catalog.current_setting('server_version_num')", &[])
            .await?;
        let text: String = row.get(0);
        text.parse()
            .map_err(|_| PgError::Protocol(format!("server_version_num is {text:?}")))
    }

    /// The server has no WAL at the session's position. Returns whether to look
    /// for another place at once.
    async fn note_removed(&mut self, error: &PgError) -> Result<bool, WalError> {
        let Some(session) = &self.session else {
            tracing::warn!(err = %error, "the slot is of no use");
            return Ok(false);
        };
        tracing::warn!(lsn = %session.cutter.position(), err = %error, "the server has removed WAL");
        self.removed.insert(session.cutter.received());
        self.removed.insert(gone(session.cutter.position(), session.size));
        self.settle().await
    }

    /// Ends the session: waits until all that was received is stored on enough
    /// replicas. `false` when the agent stops meanwhile.
    async fn settle(&mut self) -> Result<bool, WalError> {
        let Some(received) = self.close_session().await? else {
            return Ok(true);
        };
        let cancel = self.context.cancel.clone();
        tokio::select! {
            () = cancel.cancelled() => Ok(false),
            () = self.until_stored(received) => Ok(true),
        }
    }

    async fn close_session(&mut self) -> Result<Option<Lsn>, PackError> {
        let Some(mut session) = self.session.take() else {
            return Ok(None);
        };
        if let Some(chunk) = session.cutter.close() {
            self.shared
                .closed(chunk.end, chunk.facts.earliest_time, chunk.facts.latest_time);
            // A sealer that failed says why when it is finished.
            let _ = session.sealer.seal(chunk);
        }
        session.sealer.finish().await?;
        Ok(Some(session.cutter.received()))
    }

    async fn until_stored(&self, received: Lsn) {
        let mut revision = self.shared.revisions();
        while self
            .shared
            .ledger(|ledger| ledger.acknowledged())
            .is_none_or(|safe| safe < received)
        {
            if revision.changed().await.is_err() {
                return;
            }
        }
    }

    async fn until_room(&self) {
        let mut revision = self.shared.revisions();
        let cancel = self.context.cancel.clone();
        while !self.shared.has_room() && !cancel.is_cancelled() {
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = revision.changed() => if changed.is_err() { return },
            }
        }
    }

    /// A clean stop: what was received is stored if that is quick.
    async fn stop(&mut self) -> Result<(), WalError> {
        if let Some(received) = self.close_session().await?
            && timeout(STOP_PATIENCE, self.until_stored(received)).await.is_err()
        {
            tracing::info!(at = %now(), "stopped before all was stored: the slot keeps it");
        }
        Ok(())
    }
}

/// The name under which a segment counts as removed.
fn gone(at: Lsn, size: SegmentSize) -> Lsn {
    size.start_of(size.segment_of(at))
}

/// A reconnect continues the same stream only on a server that has what we have.
fn check_still_ours(session: &Session, server: &Server<'_>) -> Result<(), Refusal> {
    let received = session.cutter.received();
    if server.timeline < session.timeline || (server.timeline == session.timeline && server.flush < received)
    {
        return Err(Refusal::Behind {
            server_timeline: server.timeline,
            server: server.flush,
            archive_timeline: session.timeline,
            archive: received,
        });
    }
    if !server.history.contains(session.timeline, received) {
        return Err(Refusal::Diverged {
            server_timeline: server.timeline,
            archive_timeline: session.timeline,
            archive: received,
        });
    }
    Ok(())
}
