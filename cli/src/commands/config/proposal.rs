//! `holdfast config propose`: asks other people to approve a policy that asks for
//! less, once the coordinator has found that it does.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use holdfast_coordinator::fleet::PolicyStatus;
use holdfast_coordinator::governing::{WaitsFor, plan_text};
use holdfast_proto::Sha256Digest;
use holdfast_proto::approval::Guarded;
use holdfast_proto::names::RequestId;
use holdfast_repository::signing::SigningKey;
use holdfast_repository::{approval, clock};

use crate::asking::Asking;
use crate::commands::approve::{House, print_asked};
use crate::exit::{Exit, Failure, OrExit};
use crate::operator::OperatorArguments;

#[derive(Debug, Args)]
pub struct ProposeArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The policy, as it stands in the coordinator's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Your key: a person's, enrolled as operator or approver.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Why less is enough.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Runs the command.
pub async fn run(arguments: ProposeArguments) -> anyhow::Result<Exit> {
    let key = SigningKey::load(&arguments.key).context("your key").or_usage()?;
    let text = std::fs::read(&arguments.file)
        .with_context(|| format!("the policy {}", arguments.file.display()))
        .or_usage()?;
    let asking = Asking::of(&arguments.operator.load()?.file, None)?;
    let body = asking.get("/v1/policy").await?;
    let running: PolicyStatus = serde_json::from_str(&body).context("the coordinator's answer")?;
    let digest = Sha256Digest::of(&text);
    let Some(waiting) = running.waiting.filter(|waiting| waiting.digest == Some(digest)) else {
        return Err(Failure::usage(format!(
            "this policy ({digest}) does not wait for approval: the coordinator has {} in force. Put the file into its \
             place, and look at `holdfast status`",
            running.digest
        )));
    };
    let WaitsFor::Approval { plan, weakenings, .. } = waiting.why else {
        return Err(Failure::usage(
            "this policy waits for repair, not for approval: `holdfast config check` says what is wrong",
        ));
    };
    let text = plan_text(&running.digest, &digest, &weakenings);
    if Sha256Digest::of(text.as_bytes()) != plan {
        return Err(Failure::usage(
            "the coordinator makes another plan of this policy: it runs another version of Holdfast",
        ));
    }
    let house = House::open(&arguments.operator).await?;
    let (request, findings) = approval::ask(
        &house.repository,
        &house.trust,
        RequestId::from_parts(clock::now(), rand::random()),
        approval::Draw {
            action: Guarded::PolicyWeakening,
            clusters: Vec::new(),
            summary: format!("a policy that asks for less: {}", weakenings.join("; ")),
            reason: arguments.reason,
            plan: text.into_bytes(),
        },
        &key,
        clock::now(),
    )
    .await
    .or_no()?;
    findings
        .iter()
        .for_each(|f| eprintln!("{}", crate::commands::restore::finding_line(f)));
    print_asked(&house, &request, "the coordinator takes it up by itself").await?;
    Ok(Exit::Done)
}
