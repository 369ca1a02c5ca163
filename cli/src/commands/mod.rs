//! One file per command.

mod agent;
mod approve;
pub mod config;
mod coordinator;
mod drill;
mod evidence;
mod hold;
mod keys;
mod points;
mod repo;
mod restore;
mod status;
mod trust;
mod verify;
pub mod wal;

use clap::Subcommand;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::demo::DemoArguments;
use crate::exit::Exit;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The whole story on this machine; ends with a verdict and where to look.
    Demo(DemoArguments),
    /// The daemon beside a cluster, and what it does, one at a time.
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// The daemon that enforces policy and serves status.
    #[command(subcommand)]
    Coordinator(coordinator::CoordinatorCommand),
    /// The fleet: tier, RPO now, last proven restore, findings.
    Status(status::StatusArguments),
    /// The restorable intervals of a cluster, with every gap and why.
    Points(points::PointsArguments),
    /// Plan a restore, and carry it out.
    #[command(subcommand)]
    Restore(Box<restore::RestoreCommand>),
    /// What PostgreSQL's restore_command and archive_command call.
    #[command(subcommand)]
    Wal(wal::WalCommand),
    /// The repository's integrity, with or without keys.
    Verify(verify::VerifyArguments),
    /// Restore drills.
    #[command(subcommand)]
    Drill(drill::DrillCommand),
    /// Signed evidence.
    #[command(subcommand)]
    Evidence(evidence::EvidenceCommand),
    /// Keys, off line.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Who is believed.
    #[command(subcommand)]
    Trust(trust::TrustCommand),
    /// Say yes or no to what needs more than one person.
    #[command(subcommand)]
    Approve(approve::ApproveCommand),
    /// Moments that stay restorable until the hold on them is released.
    #[command(subcommand)]
    Hold(hold::HoldCommand),
    /// The repository itself.
    #[command(subcommand)]
    Repo(repo::RepoCommand),
    /// Check and show configuration files.
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

impl Command {
    /// Runs it.
    pub async fn run(self) -> anyhow::Result<Exit> {
        match self {
            Command::Demo(c) => c.run().await,
            Command::Agent(c) => c.run().await,
            Command::Coordinator(c) => c.run().await,
            Command::Status(c) => c.run().await,
            Command::Points(c) => c.run().await,
            Command::Restore(c) => c.run().await,
            Command::Wal(c) => c.run().await,
            Command::Verify(c) => c.run().await,
            Command::Drill(c) => c.run().await,
            Command::Evidence(c) => c.run().await,
            Command::Keys(c) => c.run(),
            Command::Trust(c) => c.run().await,
            Command::Approve(c) => c.run().await,
            Command::Hold(c) => c.run().await,
            Command::Repo(c) => c.run().await,
            Command::Config(c) => c.run().await,
        }
    }
}

/// Runs `work` and asks it to stop on SIGTERM or SIGINT; a second signal ends
/// the process.
pub async fn until_signalled<F: Future>(work: impl FnOnce(CancellationToken) -> F) -> F::Output {
    let stop = CancellationToken::new();
    let asked = stop.clone();
    let listener = tokio::spawn(async move {
        let Ok(mut terminate) = signal(SignalKind::terminate()) else {
            return;
        };
        let Ok(mut interrupt) = signal(SignalKind::interrupt()) else {
            return;
        };
        for _ in 0..2 {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if asked.is_cancelled() {
                std::process::exit(130);
            }
            asked.cancel();
        }
    });
    let output = work(stop).await;
    listener.abort();
    output
}
