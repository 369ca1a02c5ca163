//! `holdfast coordinator`: the daemon that enforces policy.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Subcommand};
use holdfast_coordinator::config::CoordinatorConfig;
use holdfast_coordinator::{Coordinator, EvidenceKeeping};
use holdfast_drills::keeper::{EvidenceKeeper, EvidenceKeys};
use holdfast_repository::signing::SigningKey;
use tokio::sync::Mutex;

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
        let keeper = keeper(&config)?;
        until_signalled(|stop| Coordinator::run(config, keeper, stop))
            .await
            .or_unavailable()?;
        Ok(Exit::Done)
    }
}

/// The keeper of the evidence log, when a log key is configured.
fn keeper(config: &CoordinatorConfig) -> anyhow::Result<Option<EvidenceKeeping>> {
    let Some(log_key) = &config.log_key else {
        return Ok(None);
    };
    let keys = Arc::new(EvidenceKeys {
        coordinator: SigningKey::load(&config.signing_key)
            .context("the signing key")
            .or_usage()?,
        log: SigningKey::load(log_key).context("the log key").or_usage()?,
    });
    let keeper = Arc::new(Mutex::new(EvidenceKeeper::default()));
    Ok(Some(Arc::new(move |repository, trust, now| {
        let (keys, keeper) = (Arc::clone(&keys), Arc::clone(&keeper));
        Box::pin(async move {
            let mut keeper = keeper.lock().await;
            let done = keeper
                .pass(&repository, &trust, &keys, now)
                .await
                .map_err(|e| e.to_string())?;
            Ok(done.findings)
        })
    })))
}
