//! Keeps tasks going: names them, starts them again, says when they fail.
//!
//! A task that fails is started again after a pause that doubles up to a minute,
//! with jitter, and is the finding `task-failing` until it has run for longer than
//! that. A failure that starting again cannot mend ends the group: the caller
//! decides what then. Cancelling ends every task; they have [`GRACE`] to put their
//! things in order before they are dropped, which kill -9 would do as well.

use std::fmt;
use std::time::Duration;

use holdfast_proto::finding::Severity;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::findings::Findings;

/// What tasks have at the end.
const GRACE: Duration = Duration::from_secs(20);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How a task failed.
#[derive(Debug)]
pub enum Failure {
    /// Starting it again may help.
    Again(String),
    /// It will not.
    Final(String),
}

impl Failure {
    /// From an error that may pass.
    pub fn again(error: &(dyn std::error::Error + 'static)) -> Self {
        Failure::Again(holdfast_repository::replica::explained(error))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Again(why) | Failure::Final(why) => f.write_str(why),
        }
    }
}

/// A pause that doubles, with jitter.
#[derive(Debug, Clone)]
pub struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(FIRST_PAUSE)
    }
}

impl Pause {
    /// The next pause: from half to the whole of a doubling time.
    pub fn next(&mut self) -> Duration {
        let pause = self.0.mul_f64(rand::random_range(0.5..1.0));
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
        pause
    }
}

/// A group of tasks that live and end together.
pub struct Group {
    tasks: JoinSet<(&'static str, Result<(), String>)>,
    findings: Findings,
    subject: String,
    cancel: CancellationToken,
}

impl Group {
    /// `subject` is what findings about its tasks are about.
    pub fn new(findings: Findings, subject: String, cancel: CancellationToken) -> Self {
        Self {
            tasks: JoinSet::new(),
            findings,
            subject,
            cancel,
        }
    }

    /// Starts a task and keeps it going.
    pub fn keep<F, T>(&mut self, name: &'static str, mut make: F)
    where
        F: FnMut() -> T + Send + 'static,
        T: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let (findings, cancel) = (self.findings.clone(), self.cancel.clone());
        let subject = format!("{}:{name}", self.subject);
        self.tasks.spawn(async move {
            let mut pause = Pause::default();
            loop {
                let began = Instant::now();
                let outcome = {
                    let task = make();
                    tokio::pin!(task);
                    tokio::select! {
                        outcome = works_again(&mut task, &findings, &subject) => outcome,
                        // The task sees the cancellation too and ends by itself.
                        () = cancel.cancelled() => match tokio::time::timeout(GRACE, task).await {
                            Ok(_) => return (name, Ok(())),
                            Err(_) => {
                                tracing::info!(task = name, "dropped at the end of its grace");
                                return (name, Ok(()));
                            }
                        },
                    }
                };
                let why = match outcome {
                    Ok(()) => return (name, Ok(())),
                    Err(Failure::Final(why)) => return (name, Err(why)),
                    Err(Failure::Again(why)) => why,
                };
                if began.elapsed() > LONGEST_PAUSE {
                    pause = Pause::default();
                }
                findings.raise(
                    Severity::Warning,
                    "task-failing",
                    subject.clone(),
                    format!("{why}; it is started again"),
                );
                tokio::select! {
                    () = tokio::time::sleep(pause.next()) => {}
                    () = cancel.cancelled() => return (name, Ok(())),
                }
            }
        });
    }

    /// Waits until a task fails for good or the group is cancelled, and ends all.
    /// The error names the task and why.
    pub async fn join(mut self) -> Result<(), String> {
        let mut outcome = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let failed = match ended {
                Ok((_, Ok(()))) => continue,
                Ok((name, Err(why))) => format!("{name}: {why}"),
                Err(panic) if panic.is_panic() => {
                    "a task panicked: this is a bug, report it with the log".to_owned()
                }
                Err(_) => continue,
            };
            if outcome.is_ok() {
                outcome = Err(failed);
            }
            self.cancel.cancel();
        }
        outcome
    }
}

/// Runs a task, and ends the finding about it when it has run for a while.
async fn works_again<T: Future>(
    task: &mut std::pin::Pin<&mut T>,
    findings: &Findings,
    subject: &str,
) -> T::Output {
    // Dropping the timer, or this whole wait, does nothing to the task.
    tokio::select! {
        outcome = task.as_mut() => return outcome,
        () = tokio::time::sleep(LONGEST_PAUSE) => findings.clear("task-failing", subject),
    }
    task.as_mut().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn a_failing_task_is_named_and_started_again() {
        let (findings, cancel) = (Findings::default(), CancellationToken::new());
        let mut group = Group::new(findings.clone(), "acme/erp".to_owned(), cancel.clone());
        let starts = Arc::new(AtomicU32::new(0));
        let (counted, stop) = (starts.clone(), cancel.clone());
        group.keep("wal", move || {
            let (counted, stop) = (counted.clone(), stop.clone());
            async move {
                if counted.fetch_add(1, Ordering::Relaxed) == 0 {
                    return Err(Failure::Again("the server is down".to_owned()));
                }
                stop.cancelled().await;
                Ok(())
            }
        });
        let watching = async {
            let mut tick = tokio::time::interval(Duration::from_millis(20));
            while starts.load(Ordering::Relaxed) < 2 {
                tick.tick().await;
            }
            assert!(findings.holds("task-failing", "acme/erp:wal"));
            cancel.cancel();
        };
        let (ended, ()) = tokio::join!(group.join(), watching);
        assert_eq!(ended, Ok(()));
    }

    #[tokio::test]
    async fn what_fails_for_good_ends_the_group() {
        let (findings, cancel) = (Findings::default(), CancellationToken::new());
        let mut group = Group::new(findings, "acme/erp".to_owned(), cancel.clone());
        group.keep("wal", || async {
            Err(Failure::Final("another agent is the writer".to_owned()))
        });
        let stop = cancel.clone();
        group.keep("jobs", move || {
            let stop = stop.clone();
            async move {
                stop.cancelled().await;
                Ok(())
            }
        });
        assert_eq!(
            group.join().await,
            Err("wal: another agent is the writer".to_owned())
        );
    }
}
