//! `holdfast drill plan` and `holdfast drill next`: which drills are wanted and why,
//! and the first of them run.

use clap::Args;
use holdfast_agent::ledger::Ledger;
use holdfast_drills::evidence::entry::LoggedEntry;
use holdfast_drills::log::DrillLog;
use holdfast_drills::runner::Aim;
use holdfast_drills::scenario::Scenario;
use holdfast_drills::wanted;
use holdfast_plan::drills::{self, Aspect, Wanted};
use holdfast_plan::policy::Policy;
use holdfast_proto::names::ClusterId;
use holdfast_repository::clock;

use super::{MomentArguments, PlannedDrill, RunArguments};
use crate::exit::{Exit, Failure, OrExit};
use crate::operator::{Operator, OperatorArguments};
use crate::screen;

#[derive(Debug, Args)]
pub struct PlanArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// Of this cluster alone, as TENANT/CLUSTER.
    #[arg(long)]
    cluster: Option<ClusterId>,
    /// What is not due yet, too.
    #[arg(long)]
    all: bool,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct NextArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// Of this cluster alone, as TENANT/CLUSTER.
    #[arg(long)]
    cluster: Option<ClusterId>,
    /// Of this scenario alone: the one that the parameters are for.
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// A parameter of the scenario, as NAME=VALUE; repeat for more.
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// The database that a filestore belongs to, as FILESTORE=DATABASE, where
    /// that is not evident.
    #[arg(long, value_name = "FILESTORE=DATABASE")]
    database: Vec<String>,
    /// The cluster's bootstrap superuser.
    #[arg(long, default_value = "postgres")]
    superuser: String,
    /// Minutes after which the drill counts as abandoned.
    #[arg(long, default_value_t = 240, value_name = "MINUTES")]
    limit: u64,
    /// Seconds to wait for the coordinator to seal an entry of the log.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    patience: u64,
    /// Run it in a pod of the Kubernetes cluster that [runner.kubernetes] describes. What
    /// takes an identity or credentials that no cluster may keep is left for a machine.
    #[arg(long)]
    kubernetes: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Prints what is wanted.
pub async fn plan(arguments: PlanArguments) -> anyhow::Result<Exit> {
    let operator = arguments.operator.load()?;
    let wanted = wanted_of(&operator, arguments.cluster.as_ref()).await?;
    let shown: Vec<&Wanted> = wanted.iter().filter(|w| arguments.all || w.is_due()).collect();
    if arguments.json {
        let rows: Vec<_> = shown.iter().map(|w| row_of_json(w)).collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(Exit::Done);
    }
    for (n, one) in shown.iter().enumerate() {
        screen::print(&format!(
            "{}. {}  {} at {}",
            n + 1,
            one.cluster,
            one.scenario,
            one.level
        ));
        if let Some(aim) = &one.aim {
            screen::print(&format!("     from {aim}"));
        }
        let kind = if one.on_change {
            ", because something changed"
        } else {
            ""
        };
        screen::print(&format!(
            "     {}{kind}; by {}",
            one.when,
            screen::second(one.deadline)
        ));
        for reason in &one.reasons {
            screen::print(&format!("     because {reason}"));
        }
    }
    if wanted.is_empty() {
        screen::print("The policy asks for no drill.");
    } else if !arguments.all
        && let Some(line) = wanted::left_out(&wanted)
    {
        screen::print(&line);
    }
    Ok(Exit::Done)
}

fn row_of_json(w: &Wanted) -> serde_json::Value {
    serde_json::json!({
        "cluster": w.cluster,
        "scenario": w.scenario.to_string(),
        "level": w.level.to_string(),
        "from": w.aim.as_ref().map(Aspect::to_string),
        "due": w.is_due(),
        "when": w.when.to_string(),
        "by": w.deadline,
        "on_change": w.on_change,
        "risk": w.risk(),
        "because": w.reasons.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// Runs the first drill that is due.
pub async fn next(arguments: NextArguments) -> anyhow::Result<Exit> {
    let operator = arguments.operator.load()?;
    let wanted = wanted_of(&operator, arguments.cluster.as_ref()).await?;
    let wants = |w: &&Wanted| {
        let scenario = arguments.scenario.as_ref();
        w.is_due() && scenario.is_none_or(|name| *name == w.scenario.to_string())
    };
    let (mut first, mut for_a_machine) = (None, 0);
    for one in wanted.iter().filter(wants) {
        if arguments.kubernetes
            && !Scenario::named(&one.scenario.to_string())
                .or_usage()?
                .fits_a_pod()
        {
            for_a_machine += 1;
        } else {
            first = Some(one);
            break;
        }
    }
    let Some(first) = first else {
        match (arguments.json, for_a_machine) {
            (true, _) => println!("null"),
            (false, 0) => screen::print("Nothing is due: see `holdfast drill plan --all`."),
            (false, n) => screen::print(&format!(
                "Nothing is due that may run in a pod; {n} due for a machine: `holdfast drill next` without --kubernetes."
            )),
        }
        return Ok(Exit::Done);
    };
    let why: Vec<String> = first.reasons.iter().map(ToString::to_string).collect();
    if !arguments.json {
        screen::print(&format!(
            "{}  {} at {}",
            first.cluster, first.scenario, first.level
        ));
        why.iter()
            .for_each(|reason| screen::print(&format!("  because {reason}")));
    }
    let mut aim = Aim {
        why,
        ..Aim::default()
    };
    match &first.aim {
        Some(Aspect::Replica(region)) => aim.only_region = Some(region.clone()),
        Some(Aspect::Base(kind)) => aim.base = Some(*kind),
        // Every drill opens every epoch's key.
        Some(Aspect::Epoch(_)) | None => {}
    }
    let run = RunArguments {
        operator: arguments.operator,
        cluster: first.cluster.clone(),
        scenario: first.scenario.to_string(),
        moment: MomentArguments::default(),
        writer: None,
        set: arguments.set,
        database: arguments.database,
        accept_unreachable: Vec::new(),
        superuser: arguments.superuser,
        limit: arguments.limit,
        patience: arguments.patience,
        scheduled: true,
        only_region: None,
        kubernetes: arguments.kubernetes,
        placed: None,
        json: arguments.json,
        planned: Some(PlannedDrill {
            on_change: first.on_change,
            aim,
        }),
    };
    super::run(run).await
}

/// Everything that is wanted, of one cluster or of all that the policy names.
async fn wanted_of(operator: &Operator, only: Option<&ClusterId>) -> anyhow::Result<Vec<Wanted>> {
    let policy: Policy = operator.file.policy()?.ok_or_else(|| {
        Failure::usage(
            "the configuration names no policy: drills are planned by it (policy = \"policy.toml\")",
        )
    })?;
    if let Some(cluster) = only.filter(|c| policy.cluster(c).is_none()) {
        return Err(Failure::usage(format!("the policy does not name {cluster}")));
    }
    let repository = operator.open().await?;
    let trust = operator.trust(&repository).await?;
    let log = DrillLog::open(&repository, &trust).await.or_unavailable()?;
    let mut entries: Vec<LoggedEntry> = log.entries().await.or_unavailable()?;
    for entry in &mut entries {
        if log.believe(entry).is_err() {
            // It keeps its place, and says nothing.
            entry.entry = holdfast_drills::evidence::entry::Entry::Other;
        }
    }
    let now = clock::now();
    let mut facts = Vec::new();
    for cluster in policy.clusters().map(|c| &c.cluster) {
        let ledger = match Ledger::load(&repository, &trust, cluster).await {
            Ok(ledger) => Some(ledger),
            Err(e) => {
                eprintln!("warning: {cluster}: {e}");
                None
            }
        };
        let epochs = wanted::epochs(&repository, cluster).await;
        let program = env!("CARGO_PKG_VERSION");
        facts.push(wanted::facts(
            cluster,
            &entries,
            ledger.as_ref(),
            &epochs,
            &policy,
            program,
            now,
        ));
    }
    // The order is that of the whole fleet, whoever asks for a part of it.
    let mut plan = drills::plan(&facts, &policy, now);
    plan.retain(|w| only.is_none_or(|cluster| w.cluster == *cluster));
    Ok(plan)
}
