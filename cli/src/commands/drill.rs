//! `holdfast drill`: a disaster on purpose.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use holdfast_drills::evidence::statement::DrillKind;
use holdfast_drills::runner::{self, DrillError, DrillOutcome, DrillRequest, Governing, Runner};
use holdfast_drills::scenario::Scenario;
use holdfast_plan::restore::Target;
use holdfast_proto::Timestamp;
use holdfast_proto::names::{ClusterId, FilestoreName, Region};
use holdfast_repository::signing::SigningKey;

use crate::commands::{config, restore};
use crate::exit::{Exit, Failure, OrExit};
use crate::operator::{Operator, OperatorArguments};
use crate::screen;

/// Restore drills.
#[derive(Debug, Subcommand)]
pub enum DrillCommand {
    /// Restore into a scratch namespace, check the copy, sign the result.
    Run(Box<RunArguments>),
    /// The scenarios there are, and their parameters.
    List(ListArguments),
}

#[derive(Debug, Args)]
pub struct ListArguments {
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct RunArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The cluster, as TENANT/CLUSTER.
    #[arg(long)]
    cluster: ClusterId,
    /// The scenario's name, from `holdfast drill list`.
    #[arg(long)]
    scenario: String,
    /// The moment to restore to; drawn from what is restorable without it.
    #[arg(long, value_name = "TIME")]
    to_time: Option<Timestamp>,
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
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl DrillCommand {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<Exit> {
        match self {
            DrillCommand::Run(arguments) => run(*arguments).await,
            DrillCommand::List(arguments) => list(&arguments),
        }
    }
}

fn list(arguments: &ListArguments) -> anyhow::Result<Exit> {
    let shipped = Scenario::shipped();
    if arguments.json {
        let rows: Vec<_> = shipped
            .iter()
            .map(|s| {
                serde_json::json!({
                    "name": s.name.to_string(), "level": s.level, "title": s.title, "parameters": s.parameters,
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(Exit::Done);
    }
    for scenario in shipped {
        screen::print(&format!(
            "{}  {}  {}",
            scenario.name, scenario.level, scenario.title
        ));
        for (name, meaning) in &scenario.parameters {
            screen::print(&format!("    --set {name}=…  {meaning}"));
        }
    }
    Ok(Exit::Done)
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

fn runner_of(operator: &Operator) -> anyhow::Result<Runner> {
    let section = operator.file.runner.as_ref().ok_or_else(|| {
        Failure::usage("the configuration has no [runner] section: name, signing_key and scratch are needed")
    })?;
    // The copy's server names its files by their real paths, and nothing outside of
    // the scratch space is handed to it: `..` and links would look like outside.
    let scratch = std::fs::create_dir_all(&section.scratch)
        .and_then(|()| section.scratch.canonicalize())
        .with_context(|| format!("the scratch space {}", section.scratch.display()))
        .or_usage()?;
    Ok(Runner {
        name: section.name.clone(),
        key: SigningKey::load(&section.signing_key)
            .context("the runner's key")
            .or_usage()?,
        scratch,
        fetch: restore::fetch_by(operator)?,
        witnesses: section.witnesses.clone(),
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

async fn run(arguments: RunArguments) -> anyhow::Result<Exit> {
    let operator = arguments.operator.load()?;
    let scenario = Scenario::named(&arguments.scenario).or_usage()?;
    let runner = runner_of(&operator)?;
    let databases = pairs(&arguments.database)?
        .into_iter()
        .map(|(name, database)| Ok((name.parse::<FilestoreName>().or_usage()?, database)))
        .collect::<anyhow::Result<BTreeMap<_, _>>>()?;
    let access = restore::open(&operator, &arguments.cluster).await?;
    let governing = governing(&operator, &arguments.cluster)?;
    let request = DrillRequest {
        cluster: arguments.cluster,
        scenario,
        parameters: pairs(&arguments.set)?,
        target: arguments.to_time.map(Target::Time),
        accept_unreachable: arguments.accept_unreachable.into_iter().collect(),
        governing,
        kind: if arguments.scheduled {
            DrillKind::Scheduled
        } else {
            DrillKind::OnDemand
        },
        initiator: std::env::var("USER").ok().filter(|u| !u.is_empty()),
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
        Err(e @ (DrillError::Scenario(_) | DrillError::Runner { .. })) => return Err(e).or_usage(),
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
