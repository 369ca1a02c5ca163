//! `holdfast status`: the fleet, as the coordinator sees it.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use holdfast_proto::Timestamp;
use serde_json::Value;

use crate::asking::Asking;
use crate::exit::Exit;
use crate::operator::OperatorArguments;
use crate::screen;

/// The fleet: tier, RPO now against its target, last proven restore, findings.
#[derive(Debug, Args)]
pub struct StatusArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The file with the token that the coordinator is asked with; overrides the
    /// configuration's coordinator_token_file.
    #[arg(long, env = "HOLDFAST_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print the coordinator's answer as JSON.
    #[arg(long)]
    json: bool,
}

impl StatusArguments {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<Exit> {
        let operator = self.operator.load()?;
        let body = Asking::of(&operator.file, self.token_file)?
            .get("/v1/status")
            .await?;
        if self.json {
            println!("{body}");
            return Ok(Exit::Done);
        }
        let status: Value = serde_json::from_str(&body).context("the coordinator's answer")?;
        if let Some(line) = standby(&status) {
            screen::print(&line);
        }
        screen::print_table(&fleet(&status));
        let findings = findings(&status);
        if !findings.is_empty() {
            println!();
        }
        for line in findings {
            screen::print(&line);
        }
        Ok(Exit::Done)
    }
}

/// A coordinator that does not lead knows less: what agents say is told to the leader.
fn standby(status: &Value) -> Option<String> {
    let leading = &status["leading"];
    if leading["here"] != false {
        return None;
    }
    let name = status["coordinator"].as_str().unwrap_or("it");
    Some(
        match leading["coordinator"].as_str().filter(|leader| *leader != name) {
            Some(leader) => format!("{name} is a standby: {leader} leads, and knows what agents say."),
            None => format!("{name} does not lead, and knows of nobody who does."),
        },
    )
}

fn fleet(status: &Value) -> Vec<Vec<String>> {
    let heading = [
        "cluster",
        "tier",
        "RPO now",
        "target",
        "RTO p50",
        "p90",
        "target",
        "last base",
        "last point",
        "last proven",
        "findings",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    for cluster in status["clusters"].as_array().into_iter().flatten() {
        let millis = |value: &Value| value.as_u64().map_or_else(|| "UNKNOWN".into(), screen::span);
        rows.push(vec![
            text(&cluster["cluster"]),
            text(&cluster["tier"]),
            millis(&cluster["rpo"]["now_ms"]),
            millis(&cluster["rpo"]["target_ms"]),
            millis(&cluster["rto"]["p50_ms"]),
            millis(&cluster["rto"]["p90_ms"]),
            millis(&cluster["rto_target_ms"]),
            second(&cluster["last_base"]["stopped"]),
            second(&cluster["last_point"]["at"]),
            second(&cluster["last_proven"]["at"]),
            cluster["findings"].as_array().map_or(0, Vec::len).to_string(),
        ]);
    }
    rows
}

/// A moment of the answer, to the second.
fn second(value: &Value) -> String {
    let text = value.as_str().unwrap_or("-");
    text.parse()
        .map_or_else(|_| text.to_owned(), |t: Timestamp| screen::second(t))
}

/// Every finding: of a cluster, or of the whole, each with what clears it on a line below.
fn findings(status: &Value) -> Vec<String> {
    let all = status["findings"].as_array().into_iter().flatten();
    all.flat_map(|finding| {
        let text = |key: &str| finding[key].as_str().unwrap_or("-").to_owned();
        let cluster = finding["cluster"].as_str().map(|c| format!("{c}: "));
        let line = format!(
            "{}  {}  {}{}  since {}: {}",
            text("severity"),
            text("name"),
            cluster.unwrap_or_default(),
            text("subject"),
            second(&finding["since"]),
            text("detail")
        );
        let clears = finding["clears"].as_str().map(|clears| format!("    {clears}"));
        [Some(line), clears].into_iter().flatten()
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_short_and_findings_are_named() {
        let status = serde_json::json!({
            "clusters": [{
                "cluster": "acme/erp", "tier": "gold", "rpo": { "now_ms": 1500, "target_ms": null },
                "rto": { "p50_ms": 60_000, "p90_ms": 90_000 }, "rto_target_ms": 3_600_000,
                "last_base": { "stopped": "2026-11-27T10:58:04.123456Z" }, "findings": ["x"],
            }],
            "findings": [{
                "cluster": "acme/erp", "name": "replica-behind", "subject": "eu-2", "severity": "warning",
                "detail": "it lacks WAL", "since": "2026-11-27T10:58:04.123456Z",
                "clears": "Ends when it has it.",
            }, {
                "cluster": null, "name": "of-another-version", "subject": "eu-2", "severity": "info",
                "detail": "it is", "since": "2026-11-27T10:58:04Z", "clears": null,
            }],
        });
        assert_eq!(
            fleet(&status)[1],
            [
                "acme/erp",
                "gold",
                "1.5 s",
                "UNKNOWN",
                "1 min 00 s",
                "1 min 30 s",
                "1 h 00 min",
                "2026-11-27 10:58:04Z",
                "-",
                "-",
                "1"
            ]
        );
        assert_eq!(
            findings(&status),
            [
                "warning  replica-behind  acme/erp: eu-2  since 2026-11-27 10:58:04Z: it lacks WAL",
                "    Ends when it has it.",
                "info  of-another-version  eu-2  since 2026-11-27 10:58:04Z: it is",
            ]
        );
    }
}
