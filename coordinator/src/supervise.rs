//! Tasks by name, each with a rule for its end.
//!
//! A loop that panics is started again after a pause that doubles; a listener
//! that ends takes the process down, because a coordinator that nobody can
//! reach is worse than one that is restarted. When the token is cancelled every
//! task is given time to end, and is cut off after that: nothing here is made
//! less safe by being cut off.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What the end of a task means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It is started again.
    Restart,
    /// Everything ends.
    Fatal,
}

/// A task that must not end has ended.
#[derive(Debug, thiserror::Error)]
#[error("{task} ended: {why}")]
pub struct Ended {
    /// Which.
    pub task: &'static str,
    /// Why.
    pub why: String,
}

type Task = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Runs tasks until one that must not end has ended, or until told to stop.
pub struct Supervisor {
    stop: CancellationToken,
    tasks: JoinSet<Result<(), Ended>>,
    /// Before the first start anew.
    pause: Duration,
}

const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MOST: Duration = Duration::from_secs(60);

impl Supervisor {
    /// A supervisor whose tasks end when `stop` is cancelled.
    pub fn new(stop: CancellationToken) -> Self {
        Self {
            stop,
            tasks: JoinSet::new(),
            pause: PAUSE,
        }
    }

    /// Starts a task. `make` is called for every start.
    pub fn spawn<F>(&mut self, task: &'static str, exit: Exit, make: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let (stop, mut pause) = (self.stop.clone(), self.pause);
        self.tasks.spawn(async move {
            loop {
                let running: Task = Box::pin(make());
                let ended = match tokio::spawn(running).await {
                    _ if stop.is_cancelled() => return Ok(()),
                    Ok(Ok(())) => "without a reason".to_owned(),
                    Ok(Err(why)) => why,
                    Err(panic) => format!("by a defect of the program ({panic}): report it"),
                };
                if exit == Exit::Fatal {
                    return Err(Ended { task, why: ended });
                }
                tracing::error!(task, err = ended, "a task ended and is started again");
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSE_MOST);
            }
        });
    }

    /// Waits for the end: of a task that must not end, or of all after the stop.
    pub async fn run(mut self, patience: Duration) -> Result<(), Ended> {
        let mut outcome = Ok(());
        while !self.stop.is_cancelled() {
            tokio::select! {
                () = self.stop.cancelled() => {}
                ended = self.tasks.join_next() => match ended {
                    Some(Ok(Err(fatal))) => {
                        outcome = Err(fatal);
                        self.stop.cancel();
                    }
                    Some(_) => {}
                    None => return outcome,
                },
            }
        }
        let drained = tokio::time::timeout(patience, async {
            while self.tasks.join_next().await.is_some() {}
        });
        if drained.await.is_err() {
            tracing::warn!("tasks did not end in time and were cut off");
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn a_loop_that_panics_is_started_again() {
        let stop = CancellationToken::new();
        let mut supervisor = Supervisor::new(stop.clone());
        supervisor.pause = Duration::from_millis(1);
        let starts = Arc::new(AtomicU32::new(0));
        let (counted, stopped) = (Arc::clone(&starts), stop.clone());
        supervisor.spawn("shaky", Exit::Restart, move || {
            let (counted, stopped) = (Arc::clone(&counted), stopped.clone());
            async move {
                match counted.fetch_add(1, Ordering::SeqCst) {
                    0 => panic!("simulated"),
                    1 => Err("simulated".to_owned()),
                    _ => {
                        stopped.cancel();
                        Ok(())
                    }
                }
            }
        });
        supervisor.run(Duration::from_secs(5)).await.unwrap();
        assert_eq!(starts.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_listener_that_ends_ends_everything() {
        let stop = CancellationToken::new();
        let mut supervisor = Supervisor::new(stop.clone());
        supervisor.spawn("listener", Exit::Fatal, || async {
            Err("the port is gone".to_owned())
        });
        let waits = stop.clone();
        supervisor.spawn("loop", Exit::Restart, move || {
            let waits = waits.clone();
            async move {
                waits.cancelled().await;
                Ok(())
            }
        });
        let ended = supervisor.run(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(ended.to_string(), "listener ended: the port is gone");
        assert!(stop.is_cancelled());
    }
}
