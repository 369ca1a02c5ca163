//! `holdfast verify`: the repository's integrity, and whether what it should hold
//! is there.

use clap::Args;
use holdfast_agent::ledger::Ledger;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::ClusterId;
use holdfast_repository::clock;
use holdfast_repository::scrub::{Depth, scrub};

use crate::exit::Exit;
use crate::operator::OperatorArguments;
use crate::screen;

/// The repository's integrity: every copy of every object, everything that a
/// backup needs, and the WAL without a hole. Needs no identity.
#[derive(Debug, Args)]
pub struct VerifyArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The cluster, as TENANT/CLUSTER.
    #[arg(long)]
    cluster: ClusterId,
    /// Read every byte, not only listings and signed records.
    #[arg(long)]
    deep: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

impl VerifyArguments {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<Exit> {
        let operator = self.operator.load()?;
        let repository = operator.open().await?.healing(false);
        let trust = operator.trust(&repository).await?;
        let depth = if self.deep { Depth::Bytes } else { Depth::Records };
        let mut report = scrub(&repository, &trust, &self.cluster, depth, clock::now()).await;
        if report.objects > 0 {
            match Ledger::load(&repository, &trust, &self.cluster).await {
                // What the ledger could not read was found above already.
                Ok(ledger) => report.findings.extend(ledger.points().departures(clock::now())),
                Err(error) => report.findings.push(Finding {
                    name: "wal-unknown".to_owned(),
                    subject: self.cluster.to_string(),
                    severity: Severity::Critical,
                    detail: format!("Whether WAL and bases are whole cannot be said: {error}"),
                    since: clock::now(),
                }),
            }
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            println!(
                "{}, {} of copies; {} copies read and verified",
                screen::count(report.objects, "object"),
                screen::bytes(report.bytes),
                report.copies_verified
            );
            for finding in &report.findings {
                screen::print(&format!(
                    "{:?}  {}  {}: {}",
                    finding.severity, finding.name, finding.subject, finding.detail
                ));
            }
            println!("{}", if report.is_sound() { "sound" } else { "NOT sound" });
        }
        Ok(if report.is_sound() { Exit::Done } else { Exit::No })
    }
}
