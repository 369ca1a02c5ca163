//! `holdfast coordinator`: the daemon that enforces policy.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use holdfast_coordinator::Coordinator;
use holdfast_coordinator::config::CoordinatorConfig;

use crate::commands::until_signalled;
use crate::exit::{Exit, OrExit};

/// The daemon that enforces policy and serves status.
#[derive(Debug, Subcommand)]
pub enum CoordinatorCommand {
    /// Enforce the policy and serve status until stopped.
    Run(RunArguments),
}

#[derive(Debug, Args)]
pub struct RunArguments {
    /// The coordinator's configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/holdfast/coordinator.toml")]
    config: PathBuf,
}

impl CoordinatorCommand {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<Exit> {
        let CoordinatorCommand::Run(arguments) = self;
        let config = CoordinatorConfig::load(&arguments.config).or_usage()?;
        until_signalled(|stop| Coordinator::run(config, stop))
            .await
            .or_unavailable()?;
        Ok(Exit::Done)
    }
}
