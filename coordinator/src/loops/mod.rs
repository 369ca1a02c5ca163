//! The reconcile loops, one file each.
//!
//! A loop takes no input: it looks at the facts, decides what to do, does it and
//! notes what came of it. It is woken by its timer and by whoever knows that
//! something changed, and running it once more than needed changes nothing. One
//! that fails says so as a finding and is run again; one that is killed in the
//! middle has lost nothing that the next run does not do again.

mod alerts;
mod certificates;
pub mod evidence;
mod findings;
pub(crate) mod lead;
mod policy;
mod proven;
mod remember;
mod replicate;
mod rpo;
pub(crate) mod schedule;
pub mod stored;
mod trust;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::alerts::Sender;
use crate::cache::Cache;
use crate::desk::{Desk, now};
use crate::meters::RunOutcome;
use crate::server::served::Served;
use crate::supervise::{Exit, Supervisor};

/// Starts all loops.
pub fn start(
    supervisor: &mut Supervisor,
    desk: &Arc<Desk>,
    cache: &Cache,
    campaign: lead::Campaign,
    keeper: Option<evidence::EvidenceKeeping>,
    served: Arc<[Arc<Served>]>,
    stop: &CancellationToken,
) {
    let spawn = Spawner { desk, stop };
    let wake = &desk.wake;
    let reader = trust::Reader::default();
    spawn.spawn(
        supervisor,
        "trust",
        Duration::from_secs(30),
        &Arc::default(),
        move |desk| trust::run(reader.clone(), desk),
    );
    spawn.spawn(
        supervisor,
        "certificates",
        Duration::from_secs(2),
        &Arc::default(),
        move |desk| certificates::run(Arc::clone(&served), desk),
    );
    let lasts = Duration::from_millis(desk.config.lease.millis());
    spawn.spawn(supervisor, "lead", lead::every(lasts), &wake.lead, move |desk| {
        lead::run(campaign.clone(), desk)
    });
    spawn.acting(
        supervisor,
        "policy",
        Duration::from_secs(3),
        &wake.policy,
        policy::run,
    );
    let (wake_policy, until) = (Arc::clone(&wake.policy), stop.clone());
    supervisor.spawn("hangup", Exit::Restart, move || {
        hangup(Arc::clone(&wake_policy), until.clone())
    });
    spawn.acting(
        supervisor,
        "schedule",
        Duration::from_secs(5),
        &wake.schedule,
        schedule::run,
    );
    spawn.spawn(
        supervisor,
        "findings",
        Duration::from_secs(2),
        &wake.findings,
        findings::run,
    );
    spawn.acting(
        supervisor,
        "replicate",
        Duration::from_secs(30),
        &wake.replicate,
        replicate::run,
    );
    let surveyors = rpo::Surveyors::default();
    spawn.spawn(
        supervisor,
        "rpo",
        Duration::from_secs(1),
        &wake.survey,
        move |desk| rpo::run(surveyors.clone(), desk),
    );
    let reader = proven::Reader::default();
    spawn.spawn(
        supervisor,
        "proven",
        Duration::from_secs(5),
        &wake.proven,
        move |desk| proven::run(reader.clone(), desk),
    );
    if let Some(keeper) = keeper {
        spawn.acting(
            supervisor,
            "evidence",
            Duration::from_secs(1),
            &Arc::default(),
            move |desk| evidence::run(Arc::clone(&keeper), desk),
        );
    }
    spawn.spawn(
        supervisor,
        "stored",
        Duration::from_secs(5),
        &wake.stored,
        stored::run,
    );
    let sender = Sender::new(desk.config.name.clone(), desk.config.runbooks.clone());
    spawn.spawn(
        supervisor,
        "alerts",
        Duration::from_secs(2),
        &wake.alerts,
        move |desk| alerts::run(sender.clone(), desk),
    );
    let cache = cache.clone();
    spawn.spawn(
        supervisor,
        "remember",
        Duration::from_secs(5),
        &wake.remember,
        move |desk| remember::run(cache.clone(), desk),
    );
}

/// Looks at the policy's file at once when the process is told to (SIGHUP).
async fn hangup(wake: Arc<Notify>, stop: CancellationToken) -> Result<(), String> {
    let mut hangups = signal(SignalKind::hangup()).map_err(|e| e.to_string())?;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            told = hangups.recv() => match told {
                Some(()) => wake.notify_one(),
                None => return Err("no signal can be received any more".to_owned()),
            },
        }
    }
}

/// Writes down, at the end, what is worth remembering.
pub async fn remember_last(cache: Cache, desk: Arc<Desk>) -> Result<(), String> {
    remember::run(cache, desk).await
}

struct Spawner<'a> {
    desk: &'a Arc<Desk>,
    stop: &'a CancellationToken,
}

/// Who runs a loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Runs {
    /// Every coordinator: it looks, and changes nothing but what this process knows.
    Everywhere,
    /// The one that leads: it acts. A run is dropped where it waits when the lease ends.
    Leader,
}

impl Spawner<'_> {
    fn spawn<F>(
        &self,
        supervisor: &mut Supervisor,
        name: &'static str,
        every: Duration,
        wake: &Arc<Notify>,
        run: impl Fn(Arc<Desk>) -> F + Clone + Send + Sync + 'static,
    ) where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.start(supervisor, (name, Runs::Everywhere), every, wake, run);
    }

    /// As `spawn`, for a loop that acts.
    fn acting<F>(
        &self,
        supervisor: &mut Supervisor,
        name: &'static str,
        every: Duration,
        wake: &Arc<Notify>,
        run: impl Fn(Arc<Desk>) -> F + Clone + Send + Sync + 'static,
    ) where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.start(supervisor, (name, Runs::Leader), every, wake, run);
    }

    fn start<F>(
        &self,
        supervisor: &mut Supervisor,
        named: (&'static str, Runs),
        every: Duration,
        wake: &Arc<Notify>,
        run: impl Fn(Arc<Desk>) -> F + Clone + Send + Sync + 'static,
    ) where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let (desk, stop, wake) = (Arc::clone(self.desk), self.stop.clone(), Arc::clone(wake));
        supervisor.spawn(named.0, Exit::Restart, move || {
            turn(
                named,
                every,
                Arc::clone(&wake),
                stop.clone(),
                Arc::clone(&desk),
                run.clone(),
            )
        });
    }
}

/// A loop that is woken all the time, by the heartbeats of a large fleet, rests so many
/// times as long as its last run took, and at most until its timer: what calls it finds a
/// processor that has time.
const RESTS: u32 = 4;

/// Runs a loop until told to stop. A run that is under way then is dropped
/// where it waits.
async fn turn<F>(
    (name, runs): (&'static str, Runs),
    every: Duration,
    wake: Arc<Notify>,
    stop: CancellationToken,
    desk: Arc<Desk>,
    run: impl Fn(Arc<Desk>) -> F,
) -> Result<(), String>
where
    F: Future<Output = Result<(), String>>,
{
    let mut timer = tokio::time::interval(every);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rested = tokio::time::Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = timer.tick() => {}
            () = wake.notified() => {}
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep_until(rested) => {}
        }
        let term = match runs {
            Runs::Everywhere => None,
            Runs::Leader => match desk.lead.term() {
                Some(term) => Some(term),
                None => {
                    rests(name, &desk);
                    continue;
                }
            },
        };
        let begun = Instant::now();
        let outcome = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = over(&desk, term) => continue,
            outcome = run(Arc::clone(&desk)) => outcome,
        };
        let lasted = begun.elapsed();
        note(name, &desk, outcome, lasted);
        rested = tokio::time::Instant::now() + (lasted * RESTS).min(every);
    }
}

/// Comes back when the term is over, where a loop depends on it.
async fn over(desk: &Desk, term: Option<u64>) {
    match term {
        Some(term) => desk.lead.ended(term).await,
        None => std::future::pending().await,
    }
}

/// A loop has nothing to do here: what it found before, and that it failed, is over.
fn rests(name: &'static str, desk: &Desk) {
    let mut state = desk.state();
    state.loops.remove(name);
    match name {
        "evidence" => state.evidence.clear(),
        "replicate" => state.replication.clear(),
        _ => {}
    }
}

fn note(name: &'static str, desk: &Desk, outcome: Result<(), String>, lasted: Duration) {
    let at = now();
    let mut state = desk.state();
    let health = state.loops.entry(name).or_default();
    match outcome {
        Ok(()) => {
            health.succeeded = Some(at);
            if health.failing.take().is_some() {
                tracing::info!(name, "a loop works again");
            }
            desk.meters.ran(name, RunOutcome::Success, lasted);
        }
        Err(err) => {
            if health.failing.is_none() {
                tracing::warn!(name, err, "a loop failed and is tried again");
            }
            let since = health.failing.as_ref().map_or(at, |(_, since)| *since);
            health.failing = Some((err, since));
            desk.meters.ran(name, RunOutcome::Failure, lasted);
        }
    }
}
