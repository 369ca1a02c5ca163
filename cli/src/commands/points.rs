//! `holdfast points`: what can be restored.

use std::collections::BTreeSet;

use clap::Args;
use holdfast_agent::ledger::Ledger;
use holdfast_agent::restore::WalSource;
use holdfast_plan::rto::Forecast;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::ClusterId;
use holdfast_repository::approval::{Found, Ignored};
use holdfast_repository::trust::Trust;
use holdfast_repository::{Repository, clock, hold, layout};

use crate::commands::restore::ask_the_log;
use crate::exit::{Exit, Failure, OrExit};
use crate::operator::OperatorArguments;
use crate::screen;

/// So many WAL objects are read for names unasked: a second or two on object storage.
const FEW: usize = 1000;

/// The restorable intervals, with every gap and why. Needs no identity.
#[derive(Debug, Args)]
pub struct PointsArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The cluster, as TENANT/CLUSTER.
    #[arg(long)]
    cluster: ClusterId,
    /// The restore points that people named, too, however many WAL objects there are.
    /// The header of each is read; up to a thousand are read unasked.
    #[arg(long)]
    names: bool,
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
        refuse_unknown(&repository, &trust, &self.cluster).await?;
        let ledger = Ledger::load(&repository, &trust, &self.cluster)
            .await
            .or_unavailable()?;
        let mut report = ledger.points();
        let holds = hold::list(&repository, &trust, Some(&self.cluster))
            .await
            .or_unavailable()?;
        let Found { items, ignored, away } = holds;
        report.hold(items.into_iter().filter(|hold| hold.released.is_none()));
        let known: BTreeSet<String> = report.findings.iter().map(|f| f.subject.clone()).collect();
        report
            .findings
            .extend(away.into_iter().filter(|f| !known.contains(&f.subject)));
        report.findings.extend(ignored.into_iter().map(hold_not_believed));
        if self.names || report.wal_objects <= FEW {
            let source = WalSource {
                repository: &repository,
                trust: &trust,
                keyring: None,
            };
            let (named, met) = ledger.named_points(source).await.or_unavailable()?;
            report.named = Some(named);
            report.findings.extend(met);
        }
        let mut unknown = None;
        if let Some(amounts) = report.amounts {
            match ask_the_log(&repository, &trust, &self.cluster, &amounts).await {
                Ok(forecast) => report.forecast = Some(forecast),
                Err(error) => unknown = Some(error),
            }
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            screen::print(&report.to_string());
            if let Some(forecast) = &report.forecast {
                screen::print(&recovery_line(forecast));
            } else if let Some(error) = unknown {
                screen::print(&format!(
                    "  RTO     unknown, the evidence log cannot be read: {error}"
                ));
            }
        }
        Ok(Exit::Done)
    }
}

/// How long a restore to the last moment would take.
fn recovery_line(forecast: &Forecast) -> String {
    let took = format!(
        "  RTO     to the last moment: {} half of the time, {} or less in nine of ten",
        screen::span(forecast.p50_ms),
        screen::span(forecast.p90_ms)
    );
    match forecast.recoveries {
        0 => format!("{took}; by cautious rates, no recovery of this cluster was measured"),
        1 => format!("{took}; from one measured recovery"),
        n => format!("{took}; from {n} measured recoveries"),
    }
}

/// A hold that lies there and does not count.
pub fn hold_not_believed(ignored: Ignored) -> Finding {
    Finding {
        name: "hold-not-believed".to_owned(),
        subject: ignored.what,
        severity: Severity::Critical,
        detail: ignored.why,
        since: clock::now(),
    }
}

/// Refuses a cluster of which no replica holds anything and that no agent is enrolled
/// for. A name mistyped must not look like a cluster without backups.
pub async fn refuse_unknown(
    repository: &Repository,
    trust: &Trust,
    cluster: &ClusterId,
) -> anyhow::Result<()> {
    let enrolled = trust.keys().flat_map(|(_, key)| &key.clusters);
    let mut known: BTreeSet<ClusterId> = enrolled.cloned().collect();
    let tenants = repository.children(&layout::clusters()).await.or_unavailable()?;
    let mut whole = tenants.unlisted.is_empty();
    for tenant in tenants.names.iter().filter_map(|name| name.parse().ok()) {
        let found = repository
            .children(&layout::clusters_of(&tenant))
            .await
            .or_unavailable()?;
        whole &= found.unlisted.is_empty();
        for cluster in found.names.iter().filter_map(|name| name.parse().ok()) {
            let tenant = tenant.clone();
            known.insert(ClusterId { tenant, cluster });
        }
    }
    // A replica out of reach may be the one that knows it: the report says so.
    if known.contains(cluster) || !whole {
        return Ok(());
    }
    Err(Failure::no(format!(
        "the repository knows no cluster {cluster}: {}",
        if known.is_empty() {
            "it knows none yet".to_owned()
        } else {
            let names: Vec<String> = known.iter().map(ToString::to_string).collect();
            format!("it knows {}", names.join(", "))
        }
    )))
}
