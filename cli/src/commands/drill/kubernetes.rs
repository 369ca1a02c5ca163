//! `holdfast drill run --kubernetes` and `holdfast drill sweep`: the words of the
//! command line for what `holdfast-kubernetes` does.

use std::time::Duration;

use clap::Args;
use holdfast_drills::answer::Answer;
use holdfast_drills::log::DrillLog;
use holdfast_drills::runner::DrillOutcome;
use holdfast_drills::scenario::Scenario;
use holdfast_kubernetes::cluster::{Cluster, KubernetesError};
use holdfast_kubernetes::dispatch::{self, DispatchError, Dispatched};
use holdfast_kubernetes::fate::End;
use holdfast_kubernetes::objects::Order;
use holdfast_kubernetes::parcel::{self, Belongings, Parcel};
use holdfast_kubernetes::settings::Settings;
use holdfast_kubernetes::sweep as swept;
use holdfast_proto::finding::Finding;
use holdfast_proto::names::DrillId;
use holdfast_proto::record::TrustRole;
use holdfast_repository::clock;
use serde_json::json;

use super::{RunArguments, initiator, print, runner_key, runner_section, summary};
use crate::commands::{restore, until_signalled};
use crate::exit::{Exit, Failure, OrExit};
use crate::operator::{Operator, OperatorArguments, RunnerSection};
use crate::screen;

#[derive(Debug, Args)]
pub struct SweepArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// Seconds to wait for the coordinator to seal an entry of the log.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    patience: u64,
}

fn settings(section: &RunnerSection) -> anyhow::Result<&Settings> {
    section.kubernetes.as_ref().ok_or_else(|| {
        Failure::usage(
            "the configuration has no [runner.kubernetes] section: image, memory, cpu, scratch and reach are needed",
        )
    })
}

fn of_kubernetes<T>(done: Result<T, KubernetesError>) -> anyhow::Result<T> {
    match done {
        Err(e @ (KubernetesError::Config(_) | KubernetesError::Forbidden { .. })) => Err(e).or_usage(),
        Err(e @ KubernetesError::Unreachable { .. }) => Err(e).or_unavailable(),
        done => done.or_no(),
    }
}

fn of_dispatch<T>(done: Result<T, DispatchError>) -> anyhow::Result<T> {
    match done {
        Ok(done) => Ok(done),
        Err(DispatchError::Kubernetes(e)) => of_kubernetes(Err(e)),
        Err(DispatchError::Log(e)) => Err(e).or_unavailable(),
    }
}

/// Sweeps what earlier dispatchers left.
pub async fn sweep(arguments: SweepArguments) -> anyhow::Result<Exit> {
    let operator = arguments.operator.load()?;
    let section = runner_section(&operator)?;
    let cluster = of_kubernetes(Cluster::connect(settings(section)?.kubeconfig.as_deref()).await)?;
    let repository = operator.open().await?;
    let trust = operator.trust(&repository).await?;
    let log = DrillLog::open(&repository, &trust).await.or_unavailable()?;
    let patience = Duration::from_secs(arguments.patience);
    sweep_with(&cluster, &log, section, patience, &|line| println!("{line}")).await?;
    Ok(Exit::Done)
}

async fn sweep_with(
    cluster: &Cluster,
    log: &DrillLog,
    section: &RunnerSection,
    patience: Duration,
    say: &(dyn Fn(&str) + Sync),
) -> anyhow::Result<()> {
    let key = runner_key(section)?;
    let found = swept::sweep(cluster, log, &key, &section.name, patience).await;
    for swept in of_dispatch(found)? {
        let came_to = match &swept.answer {
            Answer::Result(outcome) => format!("its result stands in the log: {}", verdict(outcome)),
            Answer::Abandoned { index, .. } => format!("ABANDONED, log entry {index}"),
            Answer::Unannounced => "it had not been announced yet".to_owned(),
        };
        say(&format!(
            "deleted the namespace {} of drill {}, whose dispatcher died; {came_to}",
            swept.left.namespace, swept.left.drill
        ));
    }
    Ok(())
}

fn verdict(outcome: &DrillOutcome) -> String {
    outcome.statement.predicate.results.verdict.to_string()
}

/// Runs a drill on the cluster.
pub async fn run(arguments: &RunArguments, operator: &Operator, scenario: &Scenario) -> anyhow::Result<Exit> {
    if !scenario.fits_a_pod() {
        return Err(Failure::usage(format!(
            "the scenario {} takes {} into its hands, which a cluster would keep in a Secret: run it on a machine",
            scenario.name,
            if scenario.attack {
                "the writer's credentials"
            } else {
                "the escrow identity"
            }
        )));
    }
    let section = runner_section(operator)?;
    let settings = settings(section)?;
    let key = runner_key(section)?;
    let identity = operator.identity_path()?;
    operator.root()?;
    let config = operator.repository_config();
    let own_scenario = scenario_file(&arguments.scenario);
    let parcel = Parcel::pack(&Belongings {
        runner: &section.name,
        signing_key: &section.signing_key,
        identity: &identity,
        repository: &config,
        policy: section.policy.as_deref(),
        witnesses: &section.witnesses,
        scenario: own_scenario.map(std::path::Path::new),
    })
    .or_usage()?;
    let repository = operator.open().await?;
    let trust = operator.trust(&repository).await?;
    trust
        .check(&key.fingerprint(), &[TrustRole::Runner], Some(&arguments.cluster))
        .or_usage()?;
    let log = DrillLog::open(&repository, &trust).await.or_unavailable()?;
    let cluster = of_kubernetes(Cluster::connect(settings.kubeconfig.as_deref()).await)?;
    let (patience, json) = (Duration::from_secs(arguments.patience), arguments.json);
    let say = move |text: &str| {
        if !json {
            println!("  {text}");
        }
    };
    sweep_with(&cluster, &log, section, patience, &say).await?;
    let initiator = initiator();
    let order = Order {
        drill: DrillId::from_parts(clock::now(), rand::random()),
        cluster: &arguments.cluster,
        runner: &section.name,
        log: log.origin(),
        initiator: initiator.as_deref(),
        arguments: in_pod(arguments, own_scenario.is_some()),
        limit: Duration::from_secs(arguments.limit * 60),
        settings,
    };
    let done = until_signalled(|stop| {
        let (cluster, log, key, order, say) = (&cluster, &log, &key, &order, &say);
        async move { dispatch::drill(cluster, log, key, order, parcel, patience, say, &stop).await }
    })
    .await;
    report(&order, &of_dispatch(done)?, json)
}

/// The path of a scenario of one's own.
fn scenario_file(name: &str) -> Option<&str> {
    (name.contains('/') || name.ends_with(".toml")).then_some(name)
}

/// What the program in the pod is called with: as here, with the files that it has.
fn in_pod(arguments: &RunArguments, own_scenario: bool) -> Vec<String> {
    let file = |name: &str| format!("{}/{name}", parcel::HOME);
    let scenario = if own_scenario {
        file(parcel::SCENARIO)
    } else {
        arguments.scenario.clone()
    };
    let mut words = vec!["drill".to_owned(), "run".to_owned()];
    let mut add = |option: &str, value: String| words.extend([format!("--{option}"), value]);
    add("placed", file(parcel::PLACE));
    add("cluster", arguments.cluster.to_string());
    add("scenario", scenario);
    let moment = &arguments.moment;
    moment.to_time.iter().for_each(|t| add("to-time", t.to_string()));
    moment.to_lsn.iter().for_each(|l| add("to-lsn", l.to_string()));
    moment.to_name.iter().for_each(|n| add("to-name", n.clone()));
    arguments.set.iter().for_each(|s| add("set", s.clone()));
    arguments.database.iter().for_each(|d| add("database", d.clone()));
    arguments
        .accept_unreachable
        .iter()
        .for_each(|r| add("accept-unreachable", r.to_string()));
    match &arguments.planned {
        Some(planned) => add(
            "planned",
            serde_json::to_string(planned).expect("it is plain values"),
        ),
        None => (arguments.only_region.iter()).for_each(|region| add("only-region", region.to_string())),
    }
    add("superuser", arguments.superuser.clone());
    add("limit", arguments.limit.to_string());
    add("patience", arguments.patience.to_string());
    for (given, option) in [(moment.latest, "--latest"), (arguments.scheduled, "--scheduled")] {
        if given {
            words.push(option.to_owned());
        }
    }
    words
}

/// Says what came of it. What the log does not say to be a pass is none.
fn report(order: &Order<'_>, done: &Dispatched, json: bool) -> anyhow::Result<Exit> {
    let (verdict, reasons, entry) = match &done.answer {
        Some(Answer::Result(outcome)) => return report_result(order, outcome, done, json),
        Some(Answer::Abandoned { index, reason }) => ("ABANDONED", reason.clone(), Some(*index)),
        Some(Answer::Unannounced) => match done.end {
            End::Exited(64) => return Err(Failure::usage(last_words(done))),
            End::Exited(69) => return Err(Failure::unavailable(last_words(done))),
            End::Exited(75) => return Err(Failure::try_again(last_words(done))),
            _ => (
                "FAIL",
                format!("{}; the drill had not been announced", done.end),
                None,
            ),
        },
        None => (
            "FAIL",
            format!("{}; its namespace is still there", done.end),
            None,
        ),
    };
    if json {
        let said = json!({
            "id": order.drill, "verdict": verdict, "reasons": [reasons], "entry": entry,
            "findings": done.findings, "kubernetes": kubernetes(order, done),
        });
        println!("{}", serde_json::to_string_pretty(&said)?);
        return Ok(Exit::No);
    }
    print_findings(&done.findings);
    println!("  because {reasons}");
    let place = entry.map_or_else(|| "not in the log".to_owned(), |n| format!("log entry {n}"));
    println!("{verdict}  drill {}  {place}", order.drill);
    Ok(Exit::No)
}

fn report_result(
    order: &Order<'_>,
    outcome: &DrillOutcome,
    done: &Dispatched,
    json: bool,
) -> anyhow::Result<Exit> {
    let mut outcome = outcome.clone();
    outcome.findings.extend(done.findings.iter().cloned());
    if json {
        let mut said = summary(&outcome);
        said["kubernetes"] = kubernetes(order, done);
        println!("{}", serde_json::to_string_pretty(&said)?);
    } else {
        print(&outcome);
    }
    Ok(if outcome.statement.predicate.results.verdict.is_pass() {
        Exit::Done
    } else {
        Exit::No
    })
}

fn kubernetes(order: &Order<'_>, done: &Dispatched) -> serde_json::Value {
    json!({ "namespace": order.namespace(), "end": done.end.to_string(), "log": done.lines })
}

fn print_findings(findings: &[Finding]) {
    for finding in findings {
        screen::print(&restore::finding_line(finding));
    }
}

/// What the runner in the pod said last.
fn last_words(done: &Dispatched) -> String {
    let said = done
        .lines
        .iter()
        .rev()
        .find_map(|line| line.strip_prefix("error: "));
    format!("the runner in the pod: {}", said.unwrap_or("it did not say why"))
}
