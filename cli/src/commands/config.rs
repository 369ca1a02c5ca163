//! `holdfast config`: configuration files, before they are used.

mod comparison;
mod proposal;
mod schema;
mod shown;
mod words;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use holdfast_agent::config::AgentConfig;
use holdfast_coordinator::config::CoordinatorConfig;
use holdfast_plan::policy::Policy;

use crate::exit::{Exit, Failure, OrExit};
use crate::operator::OperatorFile;
use shown::{Lines, Origin, Shown};

/// Check and show configuration files.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Report everything that is wrong with a file, each with its line.
    Check(CheckArguments),
    /// Ask for approval of a policy that asks for less.
    Propose(proposal::ProposeArguments),
    /// Show the values in force and where each comes from.
    Show(ShowArguments),
    /// Print the JSON Schema of a kind of file, for editors.
    Schema(SchemaArguments),
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
    /// Whoever restores, drills and looks: holdfast.toml.
    Operator,
}

#[derive(Debug, Args)]
pub struct SchemaArguments {
    /// The kind of file.
    kind: schema::SchemaKind,
}

#[derive(Debug, Args)]
pub struct FileArguments {
    /// The file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What it configures; without it, told by its name (agent.toml, coordinator.toml, policy.toml, holdfast.toml).
    #[arg(long)]
    kind: Option<Kind>,
}

#[derive(Debug, Args)]
pub struct CheckArguments {
    #[command(flatten)]
    file: FileArguments,
    /// The file is for another machine: do not look for the keys and directories
    /// that it names.
    #[arg(long)]
    elsewhere: bool,
    /// Also say what the policy would change against the one in this file.
    #[arg(long, value_name = "FILE", conflicts_with = "running")]
    against: Option<PathBuf>,
    /// Also say what the policy would change against the one that the coordinator
    /// enforces.
    #[arg(long)]
    running: bool,
    /// Print what would change as JSON.
    #[arg(long)]
    json: bool,
    /// The operator's configuration, which names the coordinator.
    #[arg(
        long,
        env = "HOLDFAST_CONFIG",
        default_value = "holdfast.toml",
        value_name = "FILE"
    )]
    config: PathBuf,
}

#[derive(Debug, Args)]
pub struct ShowArguments {
    #[command(flatten)]
    file: FileArguments,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

impl CheckArguments {
    fn compares(&self) -> bool {
        self.running || self.against.is_some()
    }
}

/// What a file configures, by what only such a file says.
fn by_content(text: &str) -> Option<Kind> {
    let file: toml::Table = text.parse().ok()?;
    let has = |key: &str| file.contains_key(key);
    let clusters = file.get("cluster").and_then(toml::Value::as_array);
    let of_clusters = |key: &str| clusters.is_some_and(|all| all.iter().any(|c| c.get(key).is_some()));
    if has("listen_agents") || has("listen_http") {
        Some(Kind::Coordinator)
    } else if has("recipients") || of_clusters("postgres") {
        Some(Kind::Agent)
    } else if clusters.is_some() || ["tenant", "tiers", "calendar", "residency"].into_iter().any(has) {
        Some(Kind::Policy)
    } else if has("repository") || has("replicas") || has("runner") {
        Some(Kind::Operator)
    } else {
        None
    }
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
            ("operator", Kind::Operator),
            ("holdfast", Kind::Operator),
        ]
        .into_iter()
        .find(|(word, _)| name.contains(word))
        .map(|(_, kind)| kind)
        .or_else(|| by_content(&std::fs::read_to_string(&self.file).ok()?))
        .context("what does this file configure? Pass --kind agent, coordinator, policy or operator")
        .or_usage()
    }

    /// Reads the file; its values in force.
    fn read(&self) -> anyhow::Result<Read> {
        let kind = self.kind()?;
        let path = std::path::absolute(&self.file).unwrap_or_else(|_| self.file.clone());
        if let Kind::Agent = kind {
            let config = AgentConfig::load(&self.file).or_usage()?;
            return Ok(Read {
                shown: config.settings().iter().map(Shown::of_setting).collect(),
                named: shown::named_by_agent,
            });
        }
        let lines = Lines::of(&path, &self.file).or_usage()?;
        Ok(match kind {
            Kind::Coordinator => Read {
                shown: shown::coordinator(&CoordinatorConfig::load(&self.file).or_usage()?, &lines),
                named: shown::named_by_coordinator,
            },
            Kind::Policy => Read {
                shown: shown::policy(&policy(&self.file)?, &lines),
                named: |_| false,
            },
            Kind::Agent | Kind::Operator => Read {
                shown: shown::operator(&OperatorFile::read(&self.file)?, &lines),
                named: shown::named_by_operator,
            },
        })
    }
}

/// A sound file.
struct Read {
    shown: Vec<Shown>,
    /// Whether the setting of a path names something that must exist before the
    /// program starts.
    named: fn(&str) -> bool,
}

impl ConfigCommand {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<Exit> {
        match self {
            ConfigCommand::Check(arguments) if arguments.compares() => {
                let new = policy(&arguments.file.file)?;
                let old = match &arguments.against {
                    Some(file) => policy(file)?,
                    None => comparison::running(&arguments.config).await?,
                };
                comparison::print(&arguments.file.file, &old, &new, arguments.json)?;
            }
            ConfigCommand::Propose(arguments) => return proposal::run(arguments).await,
            ConfigCommand::Schema(arguments) => print!("{}", arguments.kind.schema()),
            ConfigCommand::Check(arguments) => {
                let read = arguments.file.read()?;
                if !arguments.elsewhere {
                    refuse_missing(&read)?;
                }
                println!("{} is sound", arguments.file.file.display());
            }
            ConfigCommand::Show(arguments) => {
                let shown = arguments.file.read()?.shown;
                if arguments.json {
                    println!("{}", serde_json::to_string_pretty(&shown)?);
                } else {
                    shown.iter().for_each(|setting| println!("{setting}"));
                }
            }
        }
        Ok(Exit::Done)
    }
}

/// What is named and not there is a problem like others: a file is checked where it
/// is used, most of all just before a daemon is started with it.
fn refuse_missing(read: &Read) -> anyhow::Result<()> {
    let problems: Vec<String> = read
        .shown
        .iter()
        .filter(|setting| (read.named)(&setting.path))
        .filter_map(|setting| {
            let why = match std::fs::metadata(&setting.value) {
                Ok(_) => return None,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => "is not there".to_owned(),
                Err(e) => format!("cannot be looked at ({e})"),
            };
            let Origin::Line { file, line } = &setting.origin else {
                return None;
            };
            Some(format!(
                "{file}:{line}: {}: {} {why}: correct it, or pass --elsewhere when the file is for another machine or user",
                setting.path, setting.value
            ))
        })
        .collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure::usage(problems.join("\n")))
}

/// Reads a policy file.
pub fn policy(file: &Path) -> anyhow::Result<Policy> {
    let text = std::fs::read_to_string(file)
        .with_context(|| file.display().to_string())
        .or_usage()?;
    Policy::parse(&text, &file.display().to_string())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_is_known_by_what_it_says() {
        let example = |name: &str| {
            let path = format!("{}/../config/{name}.toml", env!("CARGO_MANIFEST_DIR"));
            by_content(&std::fs::read_to_string(path).unwrap())
        };
        assert!(matches!(example("agent"), Some(Kind::Agent)));
        assert!(matches!(example("coordinator"), Some(Kind::Coordinator)));
        assert!(matches!(example("policy"), Some(Kind::Policy)));
        assert!(matches!(example("holdfast"), Some(Kind::Operator)));
        assert!(by_content("nonsense = 1").is_none());
    }
}
