//! `holdfast drill`: a disaster on purpose.

mod kubernetes;
mod scenarios;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use holdfast_agent::config::AgentConfig;
use holdfast_agent::restore::{Access, AccessError};
use holdfast_drills::evidence::statement::DrillKind;
use holdfast_drills::place::Place;
use holdfast_drills::runner::{self, Aim, DrillError, DrillOutcome, DrillRequest, Governing, Runner};
use holdfast_drills::scenario::Scenario;
use holdfast_drills::scratch::confine;
use holdfast_plan::restore::Target;
use holdfast_proto::Timestamp;
use holdfast_proto::names::{ClusterId, FilestoreName, Region};
use holdfast_proto::pg::Lsn;
use holdfast_repository::RepositoryConfig;
use holdfast_repository::keyring::Keyring;
use holdfast_repository::seal::Identities;
use holdfast_repository::signing::SigningKey;
use serde::{Deserialize, Serialize};

use crate::commands::{config, restore};
use crate::exit::{Exit, Failure, OrExit};
use crate::operator::{Operator, OperatorArguments, RunnerSection};
use crate::screen;

/// Restore drills.
#[derive(Debug, Subcommand)]
pub enum DrillCommand {
    /// Restore into a scratch namespace, check the copy, sign the result.
    Run(Box<RunArguments>),
    /// The drills that are wanted, in order, and why: by policy, by what was proven,
    /// and by what has changed since.
    Plan(wanted::PlanArguments),
    /// Run the first drill that `drill plan` says is due.
    Next(Box<wanted::NextArguments>),
    /// The scenarios there are, and their parameters.
    #[command(alias = "list")]
    Scenarios(scenarios::ListArguments),
    /// Report everything that is wrong with a scenario of your own.
    Check(scenarios::CheckArguments),
    /// Delete what dispatchers that died have left on the Kubernetes cluster, and
    /// answer for it in the log.
    Sweep(kubernetes::SweepArguments),
    /// Renounce the network for good and become another program.
    #[command(hide = true)]
    Confined(ConfinedArguments),
}

#[derive(Debug, Args)]
pub struct ConfinedArguments {
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    line: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct RunArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The cluster, as TENANT/CLUSTER.
    #[arg(long)]
    cluster: ClusterId,
    /// The scenario's name, from `holdfast drill scenarios`; or the path of a file of
    /// your own.
    #[arg(long, value_name = "NAME|FILE")]
    scenario: String,
    #[command(flatten)]
    moment: MomentArguments,
    /// The agent's configuration, for a scenario that turns the agent's credentials
    /// against the backup.
    #[arg(long, value_name = "FILE")]
    writer: Option<PathBuf>,
    /// A parameter of the scenario, as NAME=VALUE; repeat for more.
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// The database that a filestore belongs to, as FILESTORE=DATABASE, where
    /// that is not evident.
    #[arg(long, value_name = "FILESTORE=DATABASE")]
    database: Vec<String>,
    /// Accept that a replica is out of reach; repeat for more.
    #[arg(long, value_name = "REGION")]
    accept_unreachable: Vec<Region>,
    /// The cluster's bootstrap superuser.
    #[arg(long, default_value = "postgres")]
    superuser: String,
    /// Minutes after which the drill counts as abandoned.
    #[arg(long, default_value_t = 240, value_name = "MINUTES")]
    limit: u64,
    /// Seconds to wait for the coordinator to seal an entry of the log.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    patience: u64,
    /// Say in the evidence that a schedule began this drill, not a person.
    #[arg(long)]
    scheduled: bool,
    /// Restore from the replica of this region alone: all others are cut off, so that
    /// the drill proves this one.
    #[arg(long, value_name = "REGION")]
    only_region: Option<Region>,
    /// Run it in a pod of the Kubernetes cluster that [runner.kubernetes] describes.
    #[arg(long, conflicts_with = "writer")]
    kubernetes: bool,
    /// The place that a dispatcher made for this drill.
    #[arg(long, hide = true, value_name = "FILE", conflicts_with = "kubernetes")]
    placed: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// What the plan of drills wants, as a dispatcher says it.
    #[arg(
        long,
        hide = true,
        value_name = "JSON",
        requires = "placed",
        conflicts_with = "only_region"
    )]
    planned: Option<PlannedDrill>,
}

/// What the plan of drills wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedDrill {
    /// Whether because of a change.
    on_change: bool,
    /// Restored from what, and why.
    aim: Aim,
}

impl FromStr for PlannedDrill {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        serde_json::from_str(text)
    }
}

/// The moment to restore to; drawn from what is restorable without one.
#[derive(Debug, Default, Args)]
#[group(multiple = false)]
pub struct MomentArguments {
    /// A moment with its time zone.
    #[arg(long, value_name = "TIME")]
    to_time: Option<Timestamp>,
    /// A position in the WAL.
    #[arg(long, value_name = "LSN")]
    to_lsn: Option<Lsn>,
    /// A restore point made with pg_create_restore_point.
    #[arg(long, value_name = "NAME")]
    to_name: Option<String>,
    /// The end of what is archived.
    #[arg(long)]
    latest: bool,
}

impl MomentArguments {
    fn target(&self) -> Option<Target> {
        match self {
            Self { to_time: Some(t), .. } => Some(Target::Time(*t)),
            Self { to_lsn: Some(l), .. } => Some(Target::Lsn(*l)),
            Self { to_name: Some(n), .. } => Some(Target::Name(n.clone())),
            Self { latest: true, .. } => Some(Target::Latest),
            _ => None,
        }
    }
}

impl DrillCommand {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<Exit> {
        match self {
            DrillCommand::Run(arguments) => run(*arguments).await,
            DrillCommand::Plan(arguments) => wanted::plan(arguments).await,
            DrillCommand::Next(arguments) => wanted::next(*arguments).await,
            DrillCommand::Scenarios(arguments) => scenarios::list(&arguments),
            DrillCommand::Check(arguments) => scenarios::check(&arguments),
            DrillCommand::Sweep(arguments) => kubernetes::sweep(arguments).await,
            DrillCommand::Confined(ConfinedArguments { line }) => {
                Err(confine::become_program(&line[0], &line[1..])).or_usage()
            }
        }
    }
}

fn pairs(texts: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    texts
        .iter()
        .map(|text| {
            let (name, value) = text
                .split_once('=')
                .ok_or_else(|| Failure::usage(format!("{text:?}: write NAME=VALUE")))?;
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

fn runner_section(operator: &Operator) -> anyhow::Result<&RunnerSection> {
    operator.file.runner.as_ref().ok_or_else(|| {
        Failure::usage("the configuration has no [runner] section: name, signing_key and scratch are needed")
    })
}

fn runner_key(section: &RunnerSection) -> anyhow::Result<SigningKey> {
    SigningKey::load(&section.signing_key)
        .context("the runner's key")
        .or_usage()
}

fn runner_of(operator: &Operator, place: Option<Place>) -> anyhow::Result<Runner> {
    let section = runner_section(operator)?;
    // The copy's server names its files by their real paths, and nothing outside of
    // the scratch space is handed to it: `..` and links would look like outside.
    let scratch = std::fs::create_dir_all(&section.scratch)
        .and_then(|()| section.scratch.canonicalize())
        .with_context(|| format!("the scratch space {}", section.scratch.display()))
        .or_usage()?;
    Ok(Runner {
        name: section.name.clone(),
        key: runner_key(section)?,
        scratch,
        fetch: restore::fetch_by(operator)?,
        witnesses: section.witnesses.clone(),
        place,
        limits: section.limits,
        region: operator.file.region.clone(),
    })
}

/// The place that a dispatcher made, with the node that this pod is on.
fn place_of(file: &Path) -> anyhow::Result<Place> {
    let text = std::fs::read_to_string(file)
        .with_context(|| file.display().to_string())
        .or_usage()?;
    let place: Place = serde_json::from_str(&text)
        .with_context(|| file.display().to_string())
        .or_usage()?;
    Ok(Place {
        node: std::env::var("HOLDFAST_NODE").ok().or(place.node),
        ..place
    })
}

/// The policy that the drill is judged by: the one that `[runner]` names.
pub fn governing(operator: &Operator, cluster: &ClusterId) -> anyhow::Result<Option<Governing>> {
    let Some(path) = operator.file.runner.as_ref().and_then(|r| r.policy.as_ref()) else {
        return Ok(None);
    };
    let policy = config::policy(path)?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let governing = Governing::of(&policy, &name, cluster).ok_or_else(|| {
        Failure::usage(format!(
            "{} does not name {cluster}: add a [[cluster]] section for it",
            path.display()
        ))
    })?;
    Ok(Some(governing))
}

/// The repository as the agent reaches it: its replicas, with the agent's
/// credentials.
fn writer_of(file: &Path) -> anyhow::Result<RepositoryConfig> {
    Ok(AgentConfig::load(file).or_usage()?.repository)
}

/// Opens the repository with the operator's identity. For a scenario in which the
/// escrow identity is all that is left, with that one alone: it has to be named on
/// the command line, and what it does not open is for the drill to find out.
async fn open(
    arguments: &RunArguments,
    operator: &Operator,
    scenario: &Scenario,
) -> anyhow::Result<(Access, Identities)> {
    if !scenario.only_escrow {
        let access = restore::open(operator, &arguments.cluster).await?;
        return Ok((access, Identities::default()));
    }
    if arguments.operator.identity.is_none() {
        return Err(Failure::usage(format!(
            "the scenario {} restores with the escrow identity alone: its custodian brings it, and names it with \
             --identity FILE. One that stands in the configuration is not taken",
            scenario.name
        )));
    }
    if arguments.scheduled {
        return Err(Failure::usage(format!(
            "the scenario {} is attended: a custodian brings the escrow identity, so no schedule can begin it",
            scenario.name
        )));
    }
    let identities = operator.identities()?;
    let repository = operator.open().await?;
    let root = operator.root()?;
    let opened = Access::of(repository.clone(), &root, &arguments.cluster, &identities).await;
    let access = match opened {
        Ok(access) => access,
        Err(AccessError::WrongIdentity { .. }) => Access {
            trust: operator.trust(&repository).await?,
            repository,
            keyring: Keyring::default(),
        },
        Err(e) => return Err(e).or_no(),
    };
    Ok((access, identities))
}

async fn run(arguments: RunArguments) -> anyhow::Result<Exit> {
    let operator = arguments.operator.load()?;
    operator.admit_drill(&arguments.cluster)?;
    let scenario = Scenario::named(&arguments.scenario).or_usage()?;
    if arguments.writer.is_some() && !scenario.attack {
        return Err(Failure::usage(format!(
            "the scenario {} attacks nothing: leave --writer out",
            scenario.name
        )));
    }
    if arguments.kubernetes {
        return kubernetes::run(&arguments, &operator, &scenario).await;
    }
    let place = arguments.placed.as_deref().map(place_of).transpose()?;
    let runner = runner_of(&operator, place)?;
    let databases = pairs(&arguments.database)?
        .into_iter()
        .map(|(name, database)| Ok((name.parse::<FilestoreName>().or_usage()?, database)))
        .collect::<anyhow::Result<BTreeMap<_, _>>>()?;
    let (access, identities) = open(&arguments, &operator, &scenario).await?;
    let governing = governing(&operator, &arguments.cluster)?;
    let writer = arguments.writer.as_deref().map(writer_of).transpose()?;
    let request = DrillRequest {
        cluster: arguments.cluster,
        scenario,
        parameters: pairs(&arguments.set)?,
        target: arguments.moment.target(),
        identities,
        writer,
        accept_unreachable: arguments.accept_unreachable.into_iter().collect::<BTreeSet<_>>(),
        governing,
        kind: match (&arguments.planned, arguments.scheduled) {
            (Some(planned), _) if planned.on_change => DrillKind::OnChange,
            (_, true) => DrillKind::Scheduled,
            (_, false) => DrillKind::OnDemand,
        },
        aim: match arguments.planned {
            Some(planned) => planned.aim,
            None => Aim {
                only_region: arguments.only_region,
                ..Aim::default()
            },
        },
        initiator: initiator(),
        databases,
        superuser: arguments.superuser,
        limit: Duration::from_secs(arguments.limit * 60),
        patience: Duration::from_secs(arguments.patience),
    };
    let json = arguments.json;
    let say = move |text: &str| {
        if !json {
            println!("  {text}");
        }
    };
    let outcome = match runner::run(&runner, &access, &request, &say).await {
        Ok(outcome) => outcome,
        Err(
            e @ (DrillError::Scenario(_)
            | DrillError::Runner { .. }
            | DrillError::Moment { .. }
            | DrillError::NoWriter(_)
            | DrillError::NoRegion(_)
            | DrillError::Repeated(_)),
        ) => return Err(e).or_usage(),
        Err(e @ DrillError::Log(_)) => return Err(e).or_unavailable(),
        Err(e) => return Err(e).or_no(),
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&summary(&outcome))?);
    } else {
        print(&outcome);
    }
    Ok(if outcome.statement.predicate.results.verdict.is_pass() {
        Exit::Done
    } else {
        Exit::No
    })
}

fn initiator() -> Option<String> {
    std::env::var("USER").ok().filter(|u| !u.is_empty())
}

fn summary(outcome: &DrillOutcome) -> serde_json::Value {
    let predicate = &outcome.statement.predicate;
    serde_json::json!({
        "id": predicate.drill.id,
        "verdict": predicate.results.verdict,
        "reasons": predicate.results.reasons,
        "level": predicate.drill.level,
        "scenario": predicate.drill.scenario,
        "entry": outcome.index,
        "leaf": outcome.leaf,
        "countersigned": outcome.countersigned,
        "rto": predicate.results.rto,
        "checks": predicate.results.checks,
        "filestore": predicate.results.filestore,
        "database": predicate.results.database,
        "phases": predicate.timings.phases,
        "target": predicate.target,
        "findings": outcome.findings,
    })
}

fn print(outcome: &DrillOutcome) {
    let predicate = &outcome.statement.predicate;
    let mut rows = vec![["check", "class", "result", "found"].map(str::to_owned).to_vec()];
    for check in &predicate.results.checks {
        rows.push(vec![
            check.id.clone(),
            check.class.to_string(),
            format!("{:?}", check.result),
            check.actual.clone().unwrap_or_default(),
        ]);
    }
    screen::print_table(&rows);
    for finding in &outcome.findings {
        screen::print(&restore::finding_line(finding));
    }
    for phase in &predicate.timings.phases {
        println!(
            "  {:<20} {}",
            format!("{:?}", phase.phase),
            screen::span(phase.end.millis_since(phase.start))
        );
    }
    for reason in &predicate.results.reasons {
        println!("  because {reason}");
    }
    println!(
        "{}  drill {}  log entry {}  {}",
        predicate.results.verdict,
        predicate.drill.id,
        outcome.index,
        if outcome.countersigned {
            "countersigned"
        } else {
            "NOT countersigned yet"
        }
    );
}
