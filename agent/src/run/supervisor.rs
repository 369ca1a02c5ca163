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
                        outcome = &mut task => outcome,
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

/// Ends the finding about a task that works again.
pub fn recovered(findings: &Findings, subject: &str, name: &str) {
    findings.clear("task-failing", &format!("{subject}:{name}"));
}
