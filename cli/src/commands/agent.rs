//! `holdfast agent`: the daemon beside a cluster.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use holdfast_agent::certificate::{self, CertificateError};
use holdfast_agent::config::AgentConfig;
use holdfast_agent::heartbeat::CallError;
use holdfast_agent::postgres::role_sql;
use holdfast_agent::progress::Meter;
use holdfast_agent::run;
use holdfast_proto::message::Work;
use holdfast_proto::names::ClusterId;
use holdfast_proto::pg::PgMajor;

use crate::commands::until_signalled;
use crate::exit::{Exit, Failure, OrExit};
use crate::screen;

/// The daemon beside a cluster, and what it does, one at a time.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Protect the clusters of the configuration until stopped.
    Run(RunArguments),
    /// One piece of its work now. When an agent runs on the same state directory
    /// it does the work, by the configuration that it was started with.
    Backup(BackupArguments),
    /// Get the agent's certificate for its coordinator, for a one-time token. A running
    /// agent takes it up by itself.
    Enrol(EnrolArguments),
    /// Print the statements that make the agent's role in PostgreSQL.
    Sql(SqlArguments),
}

#[derive(Debug, Args)]
pub struct RunArguments {
    /// The agent's configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/holdfast/agent.toml")]
    config: PathBuf,
}

/// What to back up.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// A base backup of the cluster.
    Base,
    /// Every file of the filestores.
    Filestore,
    /// Configuration files and catalogue facts.
    Config,
}

#[derive(Debug, Args)]
pub struct BackupArguments {
    what: What,
    /// The agent's configuration. Of a running agent only state_dir and the names
    /// of the clusters are taken from it.
    #[arg(long, value_name = "FILE", default_value = "/etc/holdfast/agent.toml")]
    config: PathBuf,
    /// One of its clusters; all of them without it.
    #[arg(long)]
    cluster: Option<ClusterId>,
    /// Print what was made as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct EnrolArguments {
    /// The agent's configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/holdfast/agent.toml")]
    config: PathBuf,
    /// The file with the token that `holdfast coordinator invite` made; without it the one
    /// that enrolment_token_file names.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct SqlArguments {
    /// The role's name.
    #[arg(long, default_value = "holdfast")]
    role: String,
    /// PostgreSQL's major version.
    #[arg(long, default_value_t = 15)]
    major: u32,
    /// The agent's configuration: also print what its reference values need, by
    /// database.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl AgentCommand {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<Exit> {
        match self {
            AgentCommand::Run(arguments) => {
                let config = AgentConfig::load(&arguments.config).or_usage()?;
                until_signalled(|stop| run::run(config, stop))
                    .await
                    .or_unavailable()?;
                Ok(Exit::Done)
            }
            AgentCommand::Backup(arguments) => backup(arguments).await,
            AgentCommand::Enrol(arguments) => enrol(&arguments).await,
            AgentCommand::Sql(arguments) => {
                let major = PgMajor::new(arguments.major).ok_or_else(|| {
                    Failure::usage(format!(
                        "PostgreSQL {} is not supported: 14 to 18 are",
                        arguments.major
                    ))
                })?;
                print!("{}", role_sql(&arguments.role, major));
                if let Some(file) = &arguments.config {
                    print!("{}", reference_grants(&AgentConfig::load(file).or_usage()?));
                }
                Ok(Exit::Done)
            }
        }
    }
}

/// What the roles of the clusters need to read their reference values, as psql
/// runs it.
fn reference_grants(config: &AgentConfig) -> String {
    let mut sql = String::new();
    for cluster in config.clusters.iter().filter(|c| !c.references.is_empty()) {
        sql.push_str(&format!("-- Reference values of {}:\n", cluster.id));
        for reference in &cluster.references {
            let database = reference.database.replace('"', "\"\"");
            sql.push_str(&format!(
                "\\connect \"{database}\"\n{}\n",
                reference.grant(&cluster.postgres.user)
            ));
        }
    }
    sql
}

async fn enrol(arguments: &EnrolArguments) -> anyhow::Result<Exit> {
    let config = AgentConfig::load(&arguments.config).or_usage()?;
    let got = match certificate::enrol(&config, arguments.token_file.as_deref()).await {
        Err(why @ CertificateError::Has { .. }) => Err(why).or_no()?,
        // It was asked, and said no; or it may answer later.
        Err(
            why @ CertificateError::Call(CallError::Refused {
                status: 400..=428, ..
            }),
        ) => Err(why).or_no()?,
        Err(why @ CertificateError::Call(_)) => Err(why).or_unavailable()?,
        got => got.or_usage()?,
    };
    println!("Agent {} has its certificate, until {}.", config.name, got.ends);
    println!("The agent renews it by itself. The token is used up: remove its file.");
    Ok(Exit::Done)
}

async fn backup(arguments: BackupArguments) -> anyhow::Result<Exit> {
    let config = AgentConfig::load(&arguments.config).or_usage()?;
    let work = match arguments.what {
        What::Base => Work::BaseBackup,
        What::Filestore => Work::FilestoreCheckpoint,
        What::Config => Work::Configuration,
    };
    let meter = Meter::default();
    let watching = screen::watch_meter(meter.clone(), "backup");
    let done =
        until_signalled(|stop| run::once(&config, arguments.cluster.as_ref(), work, meter, stop)).await;
    watching.finish().await;
    let mut exit = Exit::Done;
    for done in done.or_unavailable()? {
        let unread = done.made.unread();
        if unread > 0 {
            exit = Exit::No;
        }
        if arguments.json {
            let report = serde_json::json!({
                "cluster": done.cluster,
                "made": done.made.text,
                "pieces": done.made.pieces,
                "whole": unread == 0,
                "by_running_agent": done.by_running_agent,
            });
            println!("{report}");
            continue;
        }
        println!("{}  {}", done.cluster, done.made.text);
        if unread > 0 {
            println!(
                "  captured, but not whole: {} could not be read; the agent's findings name them",
                screen::count(unread, "file")
            );
        }
        if done.by_running_agent {
            println!("  done by the running agent, with its configuration");
        }
    }
    Ok(exit)
}
