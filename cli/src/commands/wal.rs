//! `holdfast wal`: what PostgreSQL calls, while it recovers and while it archives.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use holdfast_agent::config::AgentConfig;
use holdfast_agent::restore::{fetch, relay};
use holdfast_agent::run::pushing::{HandOverError, hand_over};
use holdfast_proto::names::ClusterId;

use crate::commands::Command;
use crate::exit::{Exit, Failure, OrExit};

/// The exit code for everything but a served file and a proven absence.
pub const FETCH_FAILED: u8 = fetch::FAILED;

/// What PostgreSQL's restore_command and archive_command call.
#[derive(Debug, Subcommand)]
pub enum WalCommand {
    /// Hand over one file: restore_command = 'holdfast wal fetch %f "%p" --pin FILE'.
    /// Exits with 0 when it is there, 1 when it is proven not to exist, 126 otherwise.
    Fetch(FetchArguments),
    /// Hand one file to the running agent, and wait until it is on as many replicas as
    /// the tier asks for: archive_command = 'holdfast wal push %p'. Ends with 0 when it
    /// is; with 1 when it is refused, and with 64, 69, 70 or 75 otherwise. PostgreSQL
    /// keeps the file after any of them and asks again.
    Push(PushArguments),
    /// Take what served recovery alone out of the settings: PostgreSQL's
    /// recovery_end_command, in the data directory.
    #[command(hide = true)]
    Conclude,
    /// Fetch ahead of what is asked for; started by `wal fetch`.
    #[command(hide = true)]
    Prefetch(PrefetchArguments),
}

#[derive(Debug, Args)]
pub struct FetchArguments {
    /// The file's name (%f).
    name: String,
    /// Where to put it (%p).
    path: PathBuf,
    /// What the restore saw of the repository, written by `restore run`.
    #[arg(long, value_name = "FILE")]
    pin: PathBuf,
    /// Ask a relay at this socket instead of the repository: for a copy that
    /// has no network.
    #[arg(long, value_name = "SOCKET")]
    through: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct PushArguments {
    /// The file (%p).
    path: PathBuf,
    /// The agent's configuration, which says where its socket is.
    #[arg(long, value_name = "FILE", default_value = "/etc/holdfast/agent.toml")]
    config: PathBuf,
    /// The agent's socket; the configuration is not read then.
    #[arg(long, value_name = "SOCKET")]
    socket: Option<PathBuf>,
    /// Of which cluster the file is, where one agent protects several and the file does
    /// not say.
    #[arg(long)]
    cluster: Option<ClusterId>,
}

#[derive(Debug, Args)]
pub struct PrefetchArguments {
    /// The segment that was handed over last.
    name: String,
    /// What the restore saw of the repository.
    #[arg(long, value_name = "FILE")]
    pin: PathBuf,
}

/// Whether the command line asks for `wal fetch`, before it is parsed.
pub fn is_fetch(arguments: impl Iterator<Item = OsString>) -> bool {
    let words: Vec<OsString> = arguments
        .skip(1)
        .filter(|a| !a.to_string_lossy().starts_with('-'))
        .take(2)
        .collect();
    words == ["wal", "fetch"]
}

/// Runs `wal fetch` outside of any runtime; never ends in 1 by accident.
pub fn fetch_guarded(command: Command) -> ExitCode {
    let Command::Wal(WalCommand::Fetch(arguments)) = command else {
        return FETCH_FAILED.into();
    };
    let FetchArguments {
        name,
        path,
        pin,
        through,
    } = arguments;
    through
        .map_or_else(
            || fetch::run(&name, &path, &pin),
            |socket| relay::ask(&socket, &name, &path),
        )
        .into()
}

impl WalCommand {
    /// Runs the commands that are not `wal fetch`.
    pub async fn run(self) -> anyhow::Result<Exit> {
        match self {
            WalCommand::Fetch(_) => anyhow::bail!("wal fetch does not run here"),
            WalCommand::Push(arguments) => push(arguments).await,
            WalCommand::Conclude => {
                holdfast_agent::restore::conclude(Path::new("."))?;
                Ok(Exit::Done)
            }
            WalCommand::Prefetch(arguments) => {
                holdfast_agent::restore::prefetch::run(&arguments.name, &arguments.pin).await?;
                Ok(Exit::Done)
            }
        }
    }
}

/// PostgreSQL takes a code above 125 and a signal for the end of its archiver, and
/// anything else that is not 0 for "not now".
async fn push(arguments: PushArguments) -> anyhow::Result<Exit> {
    let socket = match arguments.socket {
        Some(socket) => socket,
        None => AgentConfig::load(&arguments.config).or_usage()?.wal_socket,
    };
    let (path, cluster) = (arguments.path, arguments.cluster);
    let handing = tokio::task::spawn_blocking(move || hand_over(&socket, &path, cluster.as_ref()));
    match handing.await? {
        Ok(taken) => {
            tracing::debug!(?taken, "handed over");
            Ok(Exit::Done)
        }
        Err(error) => Err(match error {
            HandOverError::File { .. } => Failure::usage(error.to_string()),
            HandOverError::NotOurs { .. } => Failure::usage(error.to_string()),
            HandOverError::NoAgent { .. } => Failure::unavailable(error.to_string()),
            HandOverError::Refused { .. } => Failure::no(error.to_string()),
            HandOverError::Later { .. } => Failure::try_again(error.to_string()),
        }),
    }
}
