//! `holdfast points`: what can be restored.

use clap::Args;
use holdfast_agent::ledger::Ledger;
use holdfast_proto::names::ClusterId;

use crate::exit::{Exit, OrExit};
use crate::operator::OperatorArguments;

/// The restorable intervals, with every gap and why. Needs no identity.
#[derive(Debug, Args)]
pub struct PointsArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The cluster, as TENANT/CLUSTER.
    #[arg(long)]
    cluster: ClusterId,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

impl PointsArguments {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<Exit> {
        let operator = self.operator.load()?;
        let repository = operator.open().await?;
        let trust = operator.trust(&repository).await?;
        let ledger = Ledger::load(&repository, &trust, &self.cluster)
            .await
            .or_unavailable()?;
        let report = ledger.points();
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            print!("{report}");
        }
        Ok(Exit::Done)
    }
}
