//! Work that is asked for, done one of each kind at a time.
//!
//! It comes from the coordinator, from `holdfast agent backup`, and from the agent's
//! own schedule. Work of a kind that runs already is not begun twice: whoever asks
//! for it meanwhile gets its outcome.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_plan::policy::Tier;
use holdfast_proto::Timestamp;
use holdfast_proto::finding::Severity;
use holdfast_proto::message::Work;
use holdfast_proto::names::WorkId;
use holdfast_proto::pg::{Lsn, TimelineId};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::made::Made;
use super::schedule::{self, Facts};
use super::session::Session;
use super::supervisor::{Failure, Pause};
use crate::progress::Meter;
use crate::wal::NOT_COMPARED;

/// How often the schedule is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What came of a job: what was made, or why nothing was.
pub type Outcome = Result<Made, String>;

/// One piece of work that is asked for.
#[derive(Debug)]
pub struct Job {
    /// What.
    pub work: Work,
    /// Why, for a person.
    pub reason: String,
    /// Counts its progress.
    pub meter: Meter,
    /// Who is told.
    pub asker: Asker,
}

/// Who asked for a job.
#[derive(Debug)]
pub enum Asker {
    /// The agent itself.
    Schedule,
    /// Somebody who waits for the outcome. The identity, if there is one, is that of
    /// the coordinator's assignment.
    Waiting(Option<WorkId>, oneshot::Sender<Outcome>),
}

/// The jobs of one cluster.
pub struct Jobs {
    session: Arc<Session>,
    incoming: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Job>>>,
    /// Begin work by the schedule too.
    scheduled: bool,
    cancel: CancellationToken,
}

#[derive(Default)]
struct Running {
    tasks: JoinSet<(Work, Outcome)>,
    askers: BTreeMap<Work, Vec<oneshot::Sender<Outcome>>>,
    resting: BTreeMap<Work, (Instant, Pause)>,
    configured: Option<Timestamp>,
    checkpointed: Option<Timestamp>,
}

impl Jobs {
    /// Jobs come from `incoming`, and from the tier's schedule when `scheduled`.
    pub fn new(
        session: Arc<Session>,
        incoming: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Job>>>,
        scheduled: bool,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            session,
            incoming,
            scheduled,
            cancel,
        }
    }

    /// Works until cancelled. Jobs that run then end without an outcome: whoever
    /// waits sees that.
    pub async fn run(self) -> Result<(), Failure> {
        let mut incoming = self.incoming.lock().await;
        let mut running = Running {
            checkpointed: Some(now()),
            ..Running::default()
        };
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Every branch is safe to cancel: queue and set keep what is in them.
            tokio::select! {
                () = self.cancel.cancelled() => break,
                Some(job) = incoming.recv() => self.begin(job, &mut running),
                Some(ended) = running.tasks.join_next() => match ended {
                    Ok((work, outcome)) => self.ended(work, outcome, &mut running),
                    Err(error) => return Err(Failure::Again(format!("a job ended unexpectedly: {error}"))),
                },
                _ = look.tick(), if self.scheduled => self.by_schedule(&mut running),
            }
        }
        running.tasks.shutdown().await;
        Ok(())
    }

    fn by_schedule(&self, running: &mut Running) {
        let session = &self.session;
        let tier = session.numbers.tier();
        let filestores = !session.config.filestores.is_empty();
        let wal = session.frontier.current().filter(|state| state.flows);
        let facts = Facts {
            tier: Tier::shipped().get(&tier),
            coordinated: session.is_coordinated(),
            base: session.newest_base().map(|(base, _)| base),
            wal: wal.as_ref().map(|state| &state.reach),
            configuration: running.configured,
            checkpoint: running.checkpointed.filter(|_| filestores),
        };
        if facts.base.is_none() {
            session.findings.raise(
                Severity::Warning,
                "no-base-backup",
                session.subject(),
                "nothing can be restored before the first base backup is complete: it begins as soon as WAL flows",
            );
        }
        for (work, reason) in schedule::due(&facts, now()) {
            let rests = running
                .resting
                .get(&work)
                .is_some_and(|(until, _)| Instant::now() < *until);
            if !rests && !running.askers.contains_key(&work) {
                let job = Job {
                    work,
                    reason: reason.to_owned(),
                    meter: Meter::default(),
                    asker: Asker::Schedule,
                };
                self.begin(job, running);
            }
        }
    }

    fn begin(&self, job: Job, running: &mut Running) {
        let Job {
            work,
            reason,
            meter,
            asker,
        } = job;
        let (id, waiting) = match asker {
            Asker::Schedule => (None, None),
            Asker::Waiting(id, sender) => (id, Some(sender)),
        };
        let known = running.askers.contains_key(&work);
        running.askers.entry(work).or_default().extend(waiting);
        if known {
            if let Some(id) = id {
                self.session.board.adopt(work, id);
            }
            return;
        }
        tracing::info!(work = ?work, reason, "work begins");
        let begun = self.session.board.begin(id, work, now(), meter.clone());
        let (session, cancel) = (self.session.clone(), self.cancel.clone());
        running.tasks.spawn(async move {
            let outcome = session.perform(work, meter, cancel).await;
            drop(begun);
            (work, outcome)
        });
    }

    fn ended(&self, work: Work, outcome: Outcome, running: &mut Running) {
        let subject = self.session.subject();
        let name = match work {
            Work::BaseBackup => "base-backup-failed",
            Work::FilestoreCheckpoint => "filestore-capture-failed",
            Work::Configuration => "configuration-failed",
        };
        match &outcome {
            Ok(made) => {
                tracing::info!(work = ?work, made = made.text, "work is done");
                self.session.findings.clear(name, &subject);
                running.resting.remove(&work);
                match work {
                    Work::BaseBackup => self.is_covered(&subject),
                    Work::FilestoreCheckpoint => running.checkpointed = Some(now()),
                    Work::Configuration => running.configured = Some(now()),
                }
            }
            Err(why) => {
                let severity = if work == Work::Configuration {
                    Severity::Warning
                } else {
                    Severity::Critical
                };
                self.session.findings.raise(severity, name, subject, why.clone());
                let (until, pause) = running
                    .resting
                    .entry(work)
                    .or_insert_with(|| (Instant::now(), Pause::default()));
                *until = Instant::now() + pause.next();
            }
        }
        for waiting in running.askers.remove(&work).into_iter().flatten() {
            // Who asked may have gone.
            let _ = waiting.send(outcome.clone());
        }
    }

    /// A new base backup is there: what it makes good is over.
    fn is_covered(&self, subject: &str) {
        let findings = &self.session.findings;
        findings.clear("no-base-backup", subject);
        let base = self.session.newest_base();
        let wal = self.session.frontier.current();
        let Some(((base, _), wal)) = base.zip(wal) else {
            return;
        };
        if base.timeline == wal.timeline && wal.reach.leads_from(base.timeline, base.start) {
            findings.clear("wal-gap", subject);
            findings.clear("wal-slot-invalidated", subject);
        }
        if !wal.reach.crosses(base.timeline, base.start) {
            findings.clear(NOT_COMPARED, subject);
            if let Err(error) = self.session.state.uncompared().save(&None::<(TimelineId, Lsn)>) {
                tracing::warn!(err = %error, "that the WAL is covered again is not remembered");
            }
        }
    }
}

fn now() -> Timestamp {
    Timestamp::from_chrono(chrono::Utc::now())
}
