//! Exit codes, and how an error reaches the person.

use std::fmt;

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// Done, and the answer is "no": a drill failed, a verification failed.
    No,
    /// Usage or configuration.
    Usage,
    /// A service it needs is unreachable.
    Unavailable,
    /// A bug.
    Bug,
    /// Try again.
    TryAgain,
}

impl Exit {
    /// The process exit code.
    pub fn code(self) -> std::process::ExitCode {
        std::process::ExitCode::from(match self {
            Exit::Done => 0,
            Exit::No => 1,
            Exit::Usage => 64,
            Exit::Unavailable => 69,
            Exit::Bug => 70,
            Exit::TryAgain => 75,
        })
    }
}

/// An error that knows how the process ends.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    /// Wrong usage or configuration.
    pub fn usage(message: impl Into<String>) -> anyhow::Error {
        Self {
            exit: Exit::Usage,
            message: message.into(),
        }
        .into()
    }

    /// The answer is "no".
    pub fn no(message: impl Into<String>) -> anyhow::Error {
        Self {
            exit: Exit::No,
            message: message.into(),
        }
        .into()
    }

    /// A service is unreachable.
    pub fn unavailable(message: impl Into<String>) -> anyhow::Error {
        Self {
            exit: Exit::Unavailable,
            message: message.into(),
        }
        .into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Gives an error a way to end, unless something beneath it has one already.
pub trait OrExit<T> {
    /// Ends as usage or configuration.
    fn or_usage(self) -> anyhow::Result<T>;
    /// Ends as "unreachable".
    fn or_unavailable(self) -> anyhow::Result<T>;
    /// Ends as "no".
    fn or_no(self) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_usage(self) -> anyhow::Result<T> {
        self.map_err(|e| with_exit(e.into(), Exit::Usage))
    }
    fn or_unavailable(self) -> anyhow::Result<T> {
        self.map_err(|e| with_exit(e.into(), Exit::Unavailable))
    }
    fn or_no(self) -> anyhow::Result<T> {
        self.map_err(|e| with_exit(e.into(), Exit::No))
    }
}

fn with_exit(e: anyhow::Error, exit: Exit) -> anyhow::Error {
    if e.downcast_ref::<Failure>().is_some() {
        return e;
    }
    Failure {
        exit,
        message: sentence(&e),
    }
    .into()
}

/// The chain of causes in one line each, without repeating what a message
/// already contains of its source.
fn sentence(e: &anyhow::Error) -> String {
    let mut out = String::new();
    for cause in e.chain() {
        let text = cause.to_string();
        if out.is_empty() {
            out = text;
        } else if !out.contains(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
    }
    out
}

/// Prints the error and says how to end. What nobody classified is a bug.
pub fn report(e: &anyhow::Error) -> std::process::ExitCode {
    eprintln!("error: {}", sentence(e));
    e.downcast_ref::<Failure>().map_or(Exit::Bug, |f| f.exit).code()
}
