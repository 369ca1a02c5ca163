//! `holdfast config check` on a policy, as a pipeline runs it: what is wrong, and
//! what would change.

use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;

const OLD: &str = "[[cluster]]\ncluster = \"acme/erp\"\ntier = \"gold\"\n[[route]]\nname = \"ops\"\nkind = \"slack\"\nurl_env \
                   = \"OPS\"\n";

struct Place(tempfile::TempDir);

impl Place {
    fn new(files: &[(&str, &str)]) -> Result<Self> {
        let place = tempfile::tempdir()?;
        for (name, text) in files {
            std::fs::write(place.path().join(name), text)?;
        }
        Ok(Self(place))
    }

    /// `holdfast config …`: it must end with `code`; what it said.
    fn config(&self, line: &[&str], code: i32) -> Result<String> {
        let done = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .arg("config")
            .args(line)
            .current_dir(self.0.path())
            .env_remove("HOLDFAST_CONFIG")
            .output()?;
        let said = [done.stdout, done.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        ensure!(
            done.status.code() == Some(code),
            "{line:?} ended with {:?}:\n{said}",
            done.status.code()
        );
        Ok(said)
    }
}

#[test]
fn what_would_change_is_said_and_whether_it_asks_for_less() -> Result<()> {
    let new = "[tiers.gold]\nrpo = \"5min\"\nrto = \"30min\"\n[[cluster]]\ncluster = \"acme/erp\"\ntier = \"gold\"\n";
    let place = Place::new(&[("policy.toml", new), ("old.toml", OLD)])?;
    let said = place.config(&["check", "policy.toml", "--against", "old.toml"], 0)?;
    for expect in [
        "policy.toml is sound",
        "acme/erp: rpo from 1min to 5min (weakens)",
        "acme/erp: rto from 1h to 30min (strengthens)",
        "route ops: the route from slack to removed (weakens)",
        "2 changes ask for less: the coordinator will not take it up without the approval of 1 of all approvers",
    ] {
        ensure!(said.contains(expect), "{expect}\n  is not in\n{said}");
    }
    let json = place.config(&["check", "policy.toml", "--against", "old.toml", "--json"], 0)?;
    let report: Value = serde_json::from_str(&json)?;
    ensure!(
        report["needs_approval"] == true && report["changes"].as_array().map(Vec::len) == Some(3),
        "{report:#}"
    );
    ensure!(report["changes"][0]["direction"] == "weakens", "{report:#}");
    let said = place.config(
        &["check", "old.toml", "--kind", "policy", "--against", "old.toml"],
        0,
    )?;
    ensure!(said.contains("It would change nothing."), "{said}");
    let said = place.config(&["check", "policy.toml", "--running"], 64)?;
    ensure!(said.contains("holdfast.toml"), "{said}");
    Ok(())
}

#[test]
fn everything_wrong_is_said_even_when_it_is_compared() -> Result<()> {
    let wrong = "[tiers.gold]\nrpo = \"5 min\"\n[[calendar]]\nname = \"a\"\n";
    let place = Place::new(&[("policy.toml", wrong), ("old.toml", OLD)])?;
    for line in [
        &["check", "policy.toml"][..],
        &["check", "policy.toml", "--against", "old.toml"],
    ] {
        let said = place.config(line, 64)?;
        for expect in [
            "policy.toml:2:7: tiers.gold.rpo:",
            "policy.toml:3:1: calendar[0].begins: is missing",
        ] {
            ensure!(said.contains(expect), "{expect}\n  is not in\n{said}");
        }
    }
    Ok(())
}

#[test]
fn the_values_in_force_are_shown_with_all_that_is_written() -> Result<()> {
    let example = include_str!("../../config/policy.toml");
    let place = Place::new(&[("policy.toml", example)])?;
    let said = place.config(&["show", "policy.toml"], 0)?;
    for expect in [
        "cluster[1].retention.yearly = 10  (policy.toml:",
        "cluster[1].retention.window = 35d  (from tiers.gold.retention.window)",
        "tiers.archive.retention.backups = 2  (from tiers.bronze.retention.backups)",
        "cluster[3].match.environment = test  (policy.toml:",
        "calendar[0].recurrence = FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-2  (policy.toml:",
        "limits.per_host = 1  (policy.toml:",
    ] {
        ensure!(said.contains(expect), "{expect}\n  is not in\n{said}");
    }
    let schema: Value = serde_json::from_str(&place.config(&["schema", "policy"], 0)?)?;
    ensure!(schema["properties"]["calendar"]["type"] == "array", "{schema:#}");
    Ok(())
}
