//! What a policy would change against another one: `config check --against` and
//! `--running`.

use std::path::Path;

use anyhow::Context;
use holdfast_coordinator::fleet::PolicyStatus;
use holdfast_plan::policy::Policy;
use holdfast_plan::policy::change::{Change, changes, weakenings};
use holdfast_repository::clock;

use crate::asking::Asking;
use crate::exit::OrExit;
use crate::operator::OperatorFile;
use crate::screen;

/// The policy that a running coordinator enforces.
pub async fn running(config: &Path) -> anyhow::Result<Policy> {
    let asking = Asking::of(&OperatorFile::read(config)?, None)?;
    let body = asking.get("/v1/policy").await?;
    let status: PolicyStatus = serde_json::from_str(&body).context("the coordinator's answer")?;
    Policy::parse(&status.text, "the running policy")
        .map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            anyhow::anyhow!(
                "the coordinator runs another version of Holdfast: {}",
                lines.join("\n")
            )
        })
        .or_unavailable()
}

/// Says what `new` would change.
pub fn print(file: &Path, old: &Policy, new: &Policy, json: bool) -> anyhow::Result<()> {
    let changes = changes(old, new, clock::now());
    let weaker = weakenings(&changes).len();
    if json {
        let report = serde_json::json!({
            "from": old.digest(), "to": new.digest(), "needs_approval": weaker > 0, "changes": changes,
        });
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!("{} is sound", file.display());
    if changes.is_empty() {
        println!("It would change nothing.");
        return Ok(());
    }
    println!("It would change:");
    for change in &changes {
        screen::print(&format!("  {}", Change::to_string(change)));
    }
    if weaker > 0 {
        let rule = old
            .approvals()
            .rule(holdfast_plan::policy::Guarded::PolicyWeakening);
        println!(
            "{} for less: the coordinator will not take it up without the approval of {rule}.",
            match weaker {
                1 => "One change asks".to_owned(),
                more => format!("{more} changes ask"),
            }
        );
    }
    Ok(())
}
