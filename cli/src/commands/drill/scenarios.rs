//! `holdfast drill scenarios` and `holdfast drill check`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use holdfast_drills::scenario::{MomentKind, Scenario};

use crate::exit::{Exit, OrExit};
use crate::screen;

#[derive(Debug, Args)]
pub struct CheckArguments {
    /// The scenario's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Args)]
pub struct ListArguments {
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// Prints the shipped scenarios.
pub fn list(arguments: &ListArguments) -> anyhow::Result<Exit> {
    let shipped = Scenario::shipped();
    if arguments.json {
        let rows: Vec<_> = shipped
            .iter()
            .map(|s| {
                serde_json::json!({
                    "name": s.name.to_string(), "level": s.level, "title": s.title, "parameters": s.parameters,
                    "moment": s.moment.to_string(), "attack": s.attack, "only_escrow": s.only_escrow,
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
        for need in needs(&scenario) {
            screen::print(&format!("    {need}"));
        }
    }
    Ok(Exit::Done)
}

/// What the command line of a scenario has to say.
fn needs(scenario: &Scenario) -> Vec<String> {
    let moment = match scenario.moment {
        MomentKind::Any | MomentKind::Fence => None,
        MomentKind::Time => Some("--to-time TIME  just before it happened"),
        MomentKind::Name => Some("--to-name NAME  the restore point that was named before it"),
    };
    let escrow = "--identity FILE  the escrow identity, brought by its custodian";
    let writer = "--writer FILE  the agent's configuration, whose credentials are turned against the backup";
    let parts = [
        moment,
        scenario.only_escrow.then_some(escrow),
        scenario.attack.then_some(writer),
    ];
    let set = scenario.parameters.iter();
    parts
        .into_iter()
        .flatten()
        .map(str::to_owned)
        .chain(set.map(|(name, meaning)| format!("--set {name}=…  {meaning}")))
        .collect()
}

/// Says what is wrong with a scenario of one's own.
pub fn check(arguments: &CheckArguments) -> anyhow::Result<Exit> {
    let file = &arguments.file;
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .with_context(|| name.clone())
        .or_usage()?;
    let scenario = Scenario::parse(&name, &text).or_usage()?;
    println!("{name} is sound: {} at {}", scenario.name, scenario.level);
    for need in needs(&scenario) {
        screen::print(&format!("    {need}"));
    }
    Ok(Exit::Done)
}
