//! `holdfast approve`: what waits for more than one person, and saying yes or no.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use holdfast_agent::restore::Order;
use holdfast_proto::approval::{Decision, Guarded};
use holdfast_proto::finding::Finding;
use holdfast_proto::names::{ClusterId, RequestId};
use holdfast_repository::approval::{self, ApprovalError, Found, Ignored, Request, Standing, State};
use holdfast_repository::signing::SigningKey;
use holdfast_repository::trust::Trust;
use holdfast_repository::{Repository, clock};
use serde_json::json;

use crate::exit::{Exit, Failure, OrExit};
use crate::operator::OperatorArguments;
use crate::screen;

/// Say yes or no to what needs more than one person.
#[derive(Debug, Subcommand)]
pub enum ApproveCommand {
    /// Requests, newest first, and where each stands.
    List(ListArguments),
    /// One request: its plan, who answered, what is missing.
    Show(ShowArguments),
    /// Say yes to exactly the plan of a request.
    Grant(AnswerArguments),
    /// Say no. One no ends a request.
    Reject(AnswerArguments),
}

#[derive(Debug, Args)]
pub struct ListArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// Those that are granted, rejected or expired as well.
    #[arg(long)]
    all: bool,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct ShowArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The request, from `approve list`.
    request: RequestId,
    /// Print as JSON, the plan included.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct AnswerArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The request, from `approve list`.
    request: RequestId,
    /// Your key: a person's, enrolled as approver.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Why.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// The plan's SHA-256 as you were told it some other way: another plan is refused.
    #[arg(long, value_name = "SHA256")]
    plan: Option<String>,
}

impl ApproveCommand {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<Exit> {
        match self {
            ApproveCommand::List(arguments) => list(arguments).await,
            ApproveCommand::Show(arguments) => show(arguments).await,
            ApproveCommand::Grant(arguments) => answer(arguments, Decision::Grant).await,
            ApproveCommand::Reject(arguments) => answer(arguments, Decision::Reject).await,
        }
    }
}

/// The repository and whom it believes.
pub struct House {
    /// The repository.
    pub repository: Repository,
    /// The trust chain.
    pub trust: Trust,
}

impl House {
    /// Opens both.
    pub async fn open(operator: &OperatorArguments) -> anyhow::Result<Self> {
        let operator = operator.load()?;
        let repository = operator.open().await?;
        let trust = operator.trust(&repository).await?;
        Ok(Self { repository, trust })
    }

    /// A request, and where it stands.
    pub async fn request(&self, id: RequestId) -> anyhow::Result<(Request, Standing)> {
        let request = approval::load(&self.repository, &self.trust, id).await.or_no()?;
        let standing = self.standing(&request).await?;
        Ok((request, standing))
    }

    async fn standing(&self, request: &Request) -> anyhow::Result<Standing> {
        approval::standing(&self.repository, &self.trust, request, 0, clock::now())
            .await
            .or_unavailable()
    }
}

fn clusters(request: &Request) -> String {
    match request.body.clusters.as_slice() {
        [] => "all".to_owned(),
        some => some
            .iter()
            .map(ClusterId::to_string)
            .collect::<Vec<_>>()
            .join(" "),
    }
}

fn as_json(request: &Request, standing: &Standing) -> serde_json::Value {
    json!({
        "request": request.body.id, "action": request.body.action, "clusters": request.body.clusters,
        "summary": request.body.summary, "reason": request.body.reason, "initiator": request.initiator,
        "at": request.body.at, "plan_sha256": request.digest, "state": standing.state.to_string(),
        "explanation": approval::explain(standing), "expires": standing.expires,
        "granted": standing.granted.iter().map(|(name, grant)| json!({
            "name": name, "group": grant.group, "at": grant.at,
        })).collect::<Vec<_>>(),
        "rejected": standing.rejected,
        "ignored": standing.ignored.iter().map(|i| json!({"what": i.what, "why": i.why})).collect::<Vec<_>>(),
    })
}

/// What is amiss, beside what was asked for.
pub fn print_findings(findings: &[Finding]) {
    for finding in findings {
        eprintln!("{}", super::restore::finding_line(finding));
    }
}

pub fn print_ignored(ignored: &[Ignored]) {
    for Ignored { what, why } in ignored {
        screen::print(&format!("  does not count: {what}: {why}"));
    }
}

async fn list(arguments: ListArguments) -> anyhow::Result<Exit> {
    let house = House::open(&arguments.operator).await?;
    let Found { items, ignored, away } = approval::list(&house.repository, &house.trust)
        .await
        .or_unavailable()?;
    print_findings(&away);
    let mut shown = Vec::new();
    for request in items {
        let standing = house.standing(&request).await?;
        if arguments.all || matches!(standing.state, State::Open | State::Granted) {
            shown.push((request, standing));
        }
    }
    if arguments.json {
        let rows: Vec<_> = shown.iter().map(|(r, s)| as_json(r, s)).collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(Exit::Done);
    }
    if shown.is_empty() {
        println!(
            "Nothing waits{}{}",
            if away.is_empty() { "" } else { " within reach" },
            if arguments.all {
                ""
            } else {
                "; --all shows what is over"
            }
        );
    } else {
        let mut rows = vec![
            ["request", "state", "action", "clusters", "by", "what", "stands"]
                .map(str::to_owned)
                .to_vec(),
        ];
        rows.extend(shown.iter().map(|(request, standing)| {
            vec![
                request.body.id.to_string(),
                standing.state.to_string(),
                request.body.action.to_string(),
                clusters(request),
                request.initiator.to_string(),
                request.body.summary.clone(),
                approval::explain(standing),
            ]
        }));
        screen::print_table(&rows);
    }
    print_ignored(&ignored);
    Ok(Exit::Done)
}

async fn show(arguments: ShowArguments) -> anyhow::Result<Exit> {
    let house = House::open(&arguments.operator).await?;
    let (request, standing) = house.request(arguments.request).await?;
    if arguments.json {
        let mut value = as_json(&request, &standing);
        value["plan"] = match serde_json::from_slice(&request.plan) {
            Ok(plan) => plan,
            Err(_) => String::from_utf8_lossy(&request.plan).into(),
        };
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(Exit::Done);
    }
    print_request(&request);
    println!();
    print_standing(&standing);
    Ok(Exit::Done)
}

/// What a person has to read before saying yes: the plan itself, not its title.
fn print_request(request: &Request) {
    let body = &request.body;
    println!(
        "Request {}: {} of {}, asked for by {} at {}",
        body.id,
        body.action,
        clusters(request),
        request.initiator,
        body.at
    );
    screen::print(&format!("  {}", body.summary));
    screen::print(&format!("  reason: {}", body.reason));
    println!("  plan    {}", request.digest);
    println!();
    screen::print(&plan_in_words(request));
}

fn plan_in_words(request: &Request) -> String {
    let verbatim = || String::from_utf8_lossy(&request.plan).into_owned();
    if request.body.action != Guarded::ProductionRestore {
        return verbatim();
    }
    let Ok(order) = Order::from_bytes(&request.plan) else {
        return verbatim();
    };
    let mut text = format!("{}\nInto {}\n", order.plan, order.target.data.display());
    for (name, directory) in &order.target.filestores {
        text.push_str(&format!("  filestore {name} into {}\n", directory.display()));
    }
    for (oid, directory) in &order.target.tablespaces {
        text.push_str(&format!("  tablespace {oid} into {}\n", directory.display()));
    }
    let places = [
        ("tablespaces under", &order.target.tablespaces_under),
        ("settings into", &order.target.config),
        ("secrets into", &order.target.secrets),
    ];
    for (what, directory) in places {
        if let Some(directory) = directory {
            text.push_str(&format!("  {what} {}\n", directory.display()));
        }
    }
    for (said, what) in [
        (
            order.keep_archiving,
            "archiving stays as it was configured at the source",
        ),
        (
            order.accept_lost_files,
            "files whose content is on no replica are left out",
        ),
    ] {
        if said {
            text.push_str(&format!("  {what}\n"));
        }
    }
    text
}

fn print_standing(standing: &Standing) {
    println!("{}: {}", standing.state, approval::explain(standing));
    for (name, grant) in &standing.granted {
        let group = grant
            .group
            .as_ref()
            .map_or_else(|| "no group".to_owned(), ToString::to_string);
        println!("  granted   {name} ({group}) at {}", grant.at);
    }
    for name in &standing.rejected {
        println!("  rejected  {name}");
    }
    print_ignored(&standing.ignored);
    if let Some(expires) = standing.expires {
        println!("  expires   {expires}");
    }
}

async fn answer(arguments: AnswerArguments, decision: Decision) -> anyhow::Result<Exit> {
    let key = SigningKey::load(&arguments.key)
        .context("the approver's key")
        .or_usage()?;
    let house = House::open(&arguments.operator).await?;
    let (request, standing) = house.request(arguments.request).await?;
    if let Some(told) = &arguments.plan
        && *told != request.digest.to_string()
    {
        return Err(Failure::no(format!(
            "the plan of request {} is {}, not the one that you were told: do not approve it, and ask whoever told you",
            request.body.id, request.digest
        )));
    }
    if matches!(standing.state, State::Rejected | State::Expired | State::Early) {
        return Err(Failure::no(format!(
            "request {} is {}: {}",
            request.body.id,
            standing.state,
            approval::explain(&standing)
        )));
    }
    print_request(&request);
    let stored = approval::answer(
        &house.repository,
        &house.trust,
        &request,
        decision,
        arguments.reason,
        &key,
        clock::now(),
    )
    .await;
    let findings = match stored {
        Err(e @ ApprovalError::Store(_)) => return Err(e).or_unavailable(),
        other => other.or_no()?,
    };
    print_findings(&findings);
    println!();
    print_standing(&house.standing(&request).await?);
    Ok(Exit::Done)
}

/// What to tell whoever asked: the request, and how it goes on.
pub async fn print_asked(house: &House, request: &Request, go_on: &str) -> anyhow::Result<()> {
    let standing = house.standing(request).await?;
    println!(
        "Request {} is {}: {}",
        request.body.id,
        standing.state,
        approval::explain(&standing)
    );
    println!("  plan    {}", request.digest);
    if let Some(expires) = standing.expires {
        println!("  expires {expires}");
    }
    println!(
        "Each approver reads it and signs:  holdfast approve grant {} --key FILE",
        request.body.id
    );
    println!("Then:  {go_on}");
    Ok(())
}
