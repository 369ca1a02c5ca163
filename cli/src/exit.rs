//! Exit codes, and how an error reaches the person.
//!
//! A command says how its errors end ([`OrExit`]); what an error itself says of its
//! cause comes first, because one call fails for many reasons: a repository that
//! cannot be opened may be out of reach, or its address may be wrong.

use std::any::Any;
use std::fmt;

use holdfast_agent::restore::AccessError;
use holdfast_agent::run::AgentError;
use holdfast_coordinator::RunError;
use holdfast_coordinator::cache::CacheError;
use holdfast_repository::OpenError;
use holdfast_repository::probe::ProbeError;

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
    /// What a process that SIGPIPE ends has in a shell.
    const CLOSED_PIPE: u8 = 141;

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

    /// It may work later.
    pub fn try_again(message: impl Into<String>) -> anyhow::Error {
        Self {
            exit: Exit::TryAgain,
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
        exit: e.chain().find_map(told_by).unwrap_or(exit),
        message: sentence(&e),
    }
    .into()
}

/// How an error ends by what it is, when it says that.
fn told_by(e: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(e) = e.downcast_ref::<OpenError>() {
        return Some(of_open(e));
    }
    if let Some(AccessError::Open(e)) = e.downcast_ref::<AccessError>() {
        return Some(of_open(e));
    }
    if let Some(e) = e.downcast_ref::<RunError>() {
        return match e {
            RunError::Repository(e) => Some(of_open(e)),
            RunError::Probe(e) => of_probe(e),
            RunError::Cache(CacheError::Taken(_)) => Some(Exit::TryAgain),
            RunError::Key(_)
            | RunError::KeyKind { .. }
            | RunError::Residency(_)
            | RunError::Access(_)
            | RunError::Tls(_)
            | RunError::Issuing(_)
            | RunError::IssuingKey(_)
            | RunError::Cache(_)
            | RunError::Listen { .. } => Some(Exit::Usage),
            RunError::Ended(_) | RunError::Panicked(_) => Some(Exit::Bug),
        };
    }
    match e.downcast_ref::<AgentError>()? {
        AgentError::Open(e) => Some(of_open(e)),
        AgentError::Probe(e) => of_probe(e),
        AgentError::NoSuchCluster(_)
        | AgentError::Key(_)
        | AgentError::Refused { .. }
        | AgentError::State(_)
        | AgentError::Coordinator(_) => Some(Exit::Usage),
        AgentError::AlreadyRuns(_) | AgentError::Stopped => Some(Exit::TryAgain),
        AgentError::Local(_) | AgentError::Failed { .. } => None,
    }
}

fn of_open(e: &OpenError) -> Exit {
    match e {
        OpenError::NoneReachable(_) | OpenError::NoRepository(_) | OpenError::Unreachable(_) => {
            Exit::Unavailable
        }
        OpenError::Config(_)
        | OpenError::Different { .. }
        | OpenError::OtherRoot { .. }
        | OpenError::NotEmpty { .. }
        | OpenError::Lacking { .. }
        | OpenError::NotConfigured { .. }
        | OpenError::Directory { .. } => Exit::Usage,
        OpenError::Probe(e) => of_probe(e).unwrap_or(Exit::Unavailable),
    }
}

fn of_probe(e: &ProbeError) -> Option<Exit> {
    match e {
        ProbeError::NotEnforced { .. } => Some(Exit::Usage),
        ProbeError::Failed(_) => None,
    }
}

/// Says how a command ends that panicked: when nobody reads its output any more
/// it ends as other programs do, otherwise it is a bug.
pub fn of_panic(panic: &(dyn Any + Send)) -> std::process::ExitCode {
    if closed_pipe(panic) {
        std::process::ExitCode::from(Exit::CLOSED_PIPE)
    } else {
        Exit::Bug.code()
    }
}

/// Panics are told as ever, except for the one of a `println!` into a closed pipe.
pub fn be_quiet_about_closed_pipes() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !closed_pipe(panic.payload()) {
            told(panic);
        }
    }));
}

/// The standard library gives this panic no type: it is known by its words.
fn closed_pipe(panic: &(dyn Any + Send)) -> bool {
    panic
        .downcast_ref::<String>()
        .is_some_and(|said| said.starts_with("failed printing to std") && said.contains("Broken pipe"))
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
