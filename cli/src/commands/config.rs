//! `holdfast config`: configuration files, before they are used.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use holdfast_agent::config::AgentConfig;

use crate::exit::{Exit, OrExit};

/// Check and show configuration files.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Report everything that is wrong with a file, each with its line.
    Check(FileArguments),
    /// Show the values in force and where each comes from.
    Show(FileArguments),
}

/// What a file configures.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// An agent.
    Agent,
    /// A coordinator.
    Coordinator,
    /// The policy.
    Policy,
}

#[derive(Debug, Args)]
pub struct FileArguments {
    /// The file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What it configures; without it, told by its name (agent.toml, coordinator.toml, policy.toml).
    #[arg(long)]
    kind: Option<Kind>,
}

impl FileArguments {
    fn kind(&self) -> anyhow::Result<Kind> {
        if let Some(kind) = self.kind {
            return Ok(kind);
        }
        let name = self
            .file
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        [
            ("agent", Kind::Agent),
            ("coordinator", Kind::Coordinator),
            ("policy", Kind::Policy),
        ]
        .into_iter()
        .find(|(word, _)| name.contains(word))
        .map(|(_, kind)| kind)
        .context("what does this file configure? Pass --kind agent, coordinator or policy")
        .or_usage()
    }
}

impl ConfigCommand {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<Exit> {
        match self {
            ConfigCommand::Check(arguments) => {
                match arguments.kind()? {
                    Kind::Agent => drop(AgentConfig::load(&arguments.file).or_usage()?),
                    Kind::Coordinator => drop(coordinator(&arguments.file)?),
                    Kind::Policy => drop(policy(&arguments.file)?),
                }
                println!("{} is sound", arguments.file.display());
            }
            ConfigCommand::Show(arguments) => match arguments.kind()? {
                Kind::Agent => {
                    for setting in AgentConfig::load(&arguments.file).or_usage()?.settings() {
                        println!("{setting}");
                    }
                }
                Kind::Coordinator => println!("{:#?}", coordinator(&arguments.file)?),
                Kind::Policy => println!("{:#?}", policy(&arguments.file)?),
            },
        }
        Ok(Exit::Done)
    }
}

fn coordinator(file: &Path) -> anyhow::Result<holdfast_coordinator::config::CoordinatorConfig> {
    holdfast_coordinator::config::CoordinatorConfig::load(file).or_usage()
}

/// Reads a policy file.
pub fn policy(file: &Path) -> anyhow::Result<holdfast_plan::policy::Policy> {
    let text = std::fs::read_to_string(file)
        .with_context(|| file.display().to_string())
        .or_usage()?;
    holdfast_plan::policy::Policy::parse(&text, &file.display().to_string())
        .map_err(|problems| {
            anyhow::anyhow!(
                problems
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("\n")
            )
        })
        .or_usage()
}
