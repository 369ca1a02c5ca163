//! `holdfast hold`: moments that stay restorable, whatever retention says.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use holdfast_proto::Timestamp;
use holdfast_proto::approval::Guarded;
use holdfast_proto::hold::HoldBody;
use holdfast_proto::names::{ClusterId, HoldId, RequestId};
use holdfast_repository::approval::{ApprovalError, Draw, Found};
use holdfast_repository::hold::{self, Hold, HoldError};
use holdfast_repository::signing::SigningKey;
use holdfast_repository::{approval, clock};

use crate::commands::approve::{House, print_asked, print_findings};
use crate::exit::{Exit, OrExit};
use crate::operator::OperatorArguments;
use crate::screen;

/// Moments that stay restorable until the hold on them is released.
#[derive(Debug, Subcommand)]
pub enum HoldCommand {
    /// Hold the moments of a cluster between two times. Needs nobody else.
    Place(PlaceArguments),
    /// The holds, oldest first.
    List(ListArguments),
    /// Ask other people to approve the end of a hold.
    Request(EndArguments),
    /// End a hold.
    Release(ReleaseArguments),
}

#[derive(Debug, Args)]
pub struct PlaceArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The cluster, as TENANT/CLUSTER.
    #[arg(long)]
    cluster: ClusterId,
    /// The first moment, as 2027-03-31T22:00:00Z.
    #[arg(long, value_name = "TIME")]
    from: Timestamp,
    /// The last moment; the first one alone without it.
    #[arg(long, value_name = "TIME")]
    to: Option<Timestamp>,
    /// Why: who reads it in ten years knows nothing of today.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Your key: a person's, enrolled as operator or approver.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

#[derive(Debug, Args)]
pub struct ListArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// Of this cluster alone.
    #[arg(long)]
    cluster: Option<ClusterId>,
    /// Those that were released as well.
    #[arg(long)]
    all: bool,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct EndArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The hold, from `hold list`.
    hold: HoldId,
    /// Why it is needed no longer.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Your key: a person's, enrolled as operator or approver.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

#[derive(Debug, Args)]
pub struct ReleaseArguments {
    #[command(flatten)]
    end: EndArguments,
    /// The request that was granted, where the trust chain asks for approval.
    #[arg(long, value_name = "REQUEST")]
    request: Option<RequestId>,
}

impl HoldCommand {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<Exit> {
        match self {
            HoldCommand::Place(arguments) => place(arguments).await,
            HoldCommand::List(arguments) => list(arguments).await,
            HoldCommand::Request(arguments) => request(arguments).await,
            HoldCommand::Release(arguments) => release(arguments).await,
        }
    }
}

fn own_key(path: &std::path::Path) -> anyhow::Result<SigningKey> {
    SigningKey::load(path).context("your key").or_usage()
}

fn or_why<T>(answer: Result<T, HoldError>) -> anyhow::Result<T> {
    match answer {
        Err(e @ HoldError::Approval(ApprovalError::Store(_) | ApprovalError::List(_))) => {
            Err(e).or_unavailable()
        }
        other => other.or_no(),
    }
}

async fn place(arguments: PlaceArguments) -> anyhow::Result<Exit> {
    let key = own_key(&arguments.key)?;
    let house = House::open(&arguments.operator).await?;
    super::points::refuse_unknown(&house.repository, &house.trust, &arguments.cluster).await?;
    let now = clock::now();
    let body = HoldBody {
        id: HoldId::from_parts(now, rand::random()),
        cluster: arguments.cluster,
        from: arguments.from,
        to: arguments.to.unwrap_or(arguments.from),
        reason: arguments.reason,
        at: now,
    };
    let placed = hold::place(&house.repository, &house.trust, &body, &key).await;
    print_findings(&or_why(placed)?);
    println!(
        "Hold {}: what can be restored of {} from {} to {} is kept until the hold is released (see holdfast points)",
        body.id, body.cluster, body.from, body.to
    );
    Ok(Exit::Done)
}

async fn list(arguments: ListArguments) -> anyhow::Result<Exit> {
    let house = House::open(&arguments.operator).await?;
    let listed = hold::list(&house.repository, &house.trust, arguments.cluster.as_ref()).await;
    let Found {
        items: mut holds,
        ignored,
        away,
    } = listed.or_unavailable()?;
    holds.retain(|hold| arguments.all || hold.released.is_none());
    print_findings(&away);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&holds)?);
        return Ok(Exit::Done);
    }
    if holds.is_empty() {
        println!(
            "Nothing is held{}{}",
            if away.is_empty() { "" } else { " within reach" },
            if arguments.all {
                ""
            } else {
                "; --all shows what was"
            }
        );
    } else {
        let head = ["hold", "cluster", "from", "to", "by", "reason", "stands"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(holds.iter().map(|hold| {
            let Hold {
                body, by, released, ..
            } = hold;
            let stands = match released {
                None => "held".to_owned(),
                Some(end) => format!("released by {} at {}: {}", end.by, end.at, end.reason),
            };
            let (from, to) = (body.from.to_string(), body.to.to_string());
            let (id, cluster) = (body.id.to_string(), body.cluster.to_string());
            vec![id, cluster, from, to, by.to_string(), body.reason.clone(), stands]
        }));
        screen::print_table(&rows);
    }
    super::approve::print_ignored(&ignored);
    Ok(Exit::Done)
}

async fn request(arguments: EndArguments) -> anyhow::Result<Exit> {
    let key = own_key(&arguments.key)?;
    let house = House::open(&arguments.operator).await?;
    let found = or_why(hold::find(&house.repository, &house.trust, arguments.hold).await)?;
    let now = clock::now();
    let draw = Draw {
        action: Guarded::HoldRelease,
        clusters: vec![found.body.cluster.clone()],
        summary: format!(
            "the end of hold {} on {} to {}: {}",
            found.body.id, found.body.from, found.body.to, found.body.reason
        ),
        reason: arguments.reason,
        plan: hold::plan_of(&found).bytes(),
    };
    let id = RequestId::from_parts(now, rand::random());
    let (request, findings) = approval::ask(&house.repository, &house.trust, id, draw, &key, now)
        .await
        .or_no()?;
    print_findings(&findings);
    let go_on = format!(
        "holdfast hold release {} --request {id} --reason TEXT --key FILE",
        found.body.id
    );
    print_asked(&house, &request, &go_on).await?;
    Ok(Exit::Done)
}

async fn release(arguments: ReleaseArguments) -> anyhow::Result<Exit> {
    let ReleaseArguments { end, request } = arguments;
    let key = own_key(&end.key)?;
    let house = House::open(&end.operator).await?;
    let (repository, trust) = (&house.repository, &house.trust);
    let found = or_why(hold::find(repository, trust, end.hold).await)?;
    let released = hold::release(repository, trust, &found, end.reason, request, &key, clock::now()).await;
    print_findings(&or_why(released)?);
    println!(
        "Hold {} is released: retention decides about {} again",
        found.body.id, found.body.cluster
    );
    Ok(Exit::Done)
}
