//! The reconcile loops, one file each.
//!
//! A loop takes no input: it looks at the facts, decides what to do, does it and
//! notes what came of it. It is woken by its timer and by whoever knows that
//! something changed, and running it once more than needed changes nothing. One
//! that fails says so as a finding and is run again; one that is killed in the
//! middle has lost nothing that the next run does not do again.

mod alerts;
pub mod evidence;
mod findings;
mod policy;
mod proven;
mod remember;
mod replicate;
mod rpo;
pub(crate) mod schedule;
mod trust;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::alerts::Sender;
use crate::cache::Cache;
use crate::desk::{Desk, now};
use crate::meters::RunOutcome;
use crate::supervise::{Exit, Supervisor};

/// Starts all loops.
pub fn start(
    supervisor: &mut Supervisor,
    desk: &Arc<Desk>,
    cache: &Cache,
    keeper: Option<evidence::EvidenceKeeping>,
    stop: &CancellationToken,
) {
    let spawn = Spawner { desk, stop };
    let wake = &desk.wake;
    spawn.spawn(
        supervisor,
        "trust",
        Duration::from_secs(30),
        &Arc::default(),
        trust::run,
    );
    spawn.spawn(
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
    spawn.spawn(
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
    spawn.spawn(
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
        spawn.spawn(
            supervisor,
            "evidence",
            Duration::from_secs(1),
            &Arc::default(),
            move |desk| evidence::run(Arc::clone(&keeper), desk),
        );
    }
    let sender = Sender::new(desk.config.name.clone());
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
        let (desk, stop, wake) = (Arc::clone(self.desk), self.stop.clone(), Arc::clone(wake));
        supervisor.spawn(name, Exit::Restart, move || {
            turn(
                name,
                every,
                Arc::clone(&wake),
                stop.clone(),
                Arc::clone(&desk),
                run.clone(),
            )
        });
    }
}

/// Runs a loop until told to stop. A run that is under way then is dropped
/// where it waits.
async fn turn<F>(
    name: &'static str,
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
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = timer.tick() => {}
            () = wake.notified() => {}
        }
        let outcome = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            outcome = run(Arc::clone(&desk)) => outcome,
        };
        note(name, &desk, outcome);
    }
}

fn note(name: &'static str, desk: &Desk, outcome: Result<(), String>) {
    let at = now();
    let mut state = desk.state();
    let health = state.loops.entry(name).or_default();
    match outcome {
        Ok(()) => {
            health.succeeded = Some(at);
            if health.failing.take().is_some() {
                tracing::info!(name, "a loop works again");
            }
            desk.meters.ran(name, RunOutcome::Success);
        }
        Err(err) => {
            if health.failing.is_none() {
                tracing::warn!(name, err, "a loop failed and is tried again");
            }
            let since = health.failing.as_ref().map_or(at, |(_, since)| *since);
            health.failing = Some((err, since));
            desk.meters.ran(name, RunOutcome::Failure);
        }
    }
}
