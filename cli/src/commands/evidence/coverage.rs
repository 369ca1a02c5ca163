//! `holdfast evidence coverage`: what of a month's drills was done.

use std::path::PathBuf;

use clap::Args;
use holdfast_drills::evidence::coverage::{self, Counted, Coverage, Month, SlotCounts};
use holdfast_drills::evidence::entry::{Entry, LoggedEntry};
use holdfast_drills::evidence::export;
use holdfast_drills::evidence::tlog::Tree;
use holdfast_drills::log::DrillLog;
use holdfast_drills::publish;
use holdfast_proto::names::TenantName;
use holdfast_proto::record::TrustRole;

use super::{open, write_out};
use crate::exit::{Exit, Failure, OrExit};
use crate::operator::OperatorArguments;
use crate::residency::Destination;
use crate::screen;

#[derive(Debug, Args)]
pub struct CoverageArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The month in UTC, as 2026-11.
    #[arg(long)]
    month: Month,
    /// Whose clusters; not needed while the log has one tenant.
    #[arg(long)]
    tenant: Option<TenantName>,
    /// Write the signed statement, the tenant's entries and the proofs into a new
    /// directory that verifies without Holdfast.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// The same into a new zip file.
    #[arg(long, value_name = "FILE", conflicts_with = "directory")]
    zip: Option<PathBuf>,
    #[command(flatten)]
    destination: Destination,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(arguments: CoverageArguments) -> anyhow::Result<Exit> {
    let (log, entries) = open(&arguments.operator).await?;
    let tenant = tenant(&arguments, &entries)?;
    let signed = signed(&log, &entries, &tenant, arguments.month)?;
    let wants_export = arguments.directory.is_some() || arguments.zip.is_some();
    let coverage = match &signed {
        Some((_, coverage)) => coverage.clone(),
        None if wants_export => {
            return Err(Failure::no(format!(
                "the coverage of {tenant} in {} is not signed yet: the coordinator signs a month when it is over and no \
                 drill of it is under way",
                arguments.month
            )));
        }
        None => preview(&log, &entries, &tenant, arguments.month),
    };
    if let (Some((index, _)), true) = (&signed, wants_export) {
        let operator = arguments.operator.load()?;
        operator.admit_export_of(&tenant, &arguments.destination)?;
        let input = publish::gather_coverage(&log, &entries, *index).await.or_no()?;
        let files = export::coverage_files(&input).or_no()?;
        return write_out(&files, arguments.directory.as_deref(), arguments.zip.as_deref());
    }
    if arguments.json {
        let value = serde_json::json!({ "signed": signed.is_some(), "coverage": coverage });
        println!("{}", serde_json::to_string_pretty(&value)?);
    } else {
        print(&coverage, signed.map(|(index, _)| index));
    }
    let mut slots = SlotCounts::default();
    coverage.tiers.iter().for_each(|t| slots.add(&t.slots));
    Ok(if slots.failures() == 0 {
        Exit::Done
    } else {
        Exit::No
    })
}

fn tenant(arguments: &CoverageArguments, entries: &[LoggedEntry]) -> anyhow::Result<TenantName> {
    let known = coverage::tenants(entries);
    let list = || {
        known
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    match &arguments.tenant {
        Some(tenant) if known.contains(tenant) => Ok(tenant.clone()),
        Some(tenant) => Err(Failure::usage(format!(
            "the log lists no clusters of {tenant}; it lists those of: {}",
            list()
        ))),
        None => match known.first().filter(|_| known.len() == 1) {
            Some(only) => Ok(only.clone()),
            None if known.is_empty() => Err(Failure::usage(
                "the log lists no clusters yet: the coordinator logs them from its policy",
            )),
            None => Err(Failure::usage(format!("say --tenant, one of: {}", list()))),
        },
    }
}

/// The statement that a believed coordinator has signed, with its place.
fn signed(
    log: &DrillLog,
    entries: &[LoggedEntry],
    tenant: &TenantName,
    month: Month,
) -> anyhow::Result<Option<(u64, Coverage)>> {
    for (index, entry) in (0u64..).zip(entries) {
        let Entry::Coverage(statement) = &entry.entry else {
            continue;
        };
        let coverage = &statement.predicate;
        if (&coverage.tenant, coverage.month) == (tenant, month) {
            let key = log
                .trust()
                .check(&entry.signer(), &[TrustRole::Coordinator], None)
                .or_no()?;
            entry.envelope.verify(&key.verifying).or_no()?;
            return Ok(Some((index, coverage.clone())));
        }
    }
    Ok(None)
}

fn preview(log: &DrillLog, entries: &[LoggedEntry], tenant: &TenantName, month: Month) -> Coverage {
    let tree = Tree::from_entries(entries.iter().map(LoggedEntry::bytes));
    let counted = Counted {
        log: log.origin().clone(),
        size: tree.len(),
        root: tree.root(),
    };
    coverage::derive((0..).zip(entries), &counted, tenant, month)
}

/// `7 d`, where it is whole days.
fn every(ms: u64) -> String {
    const DAY: u64 = 86_400_000;
    match ms % DAY {
        0 => format!("{} d", ms / DAY),
        _ => screen::span(ms),
    }
}

fn print(coverage: &Coverage, index: Option<u64>) {
    let head = [
        "tier",
        "cluster",
        "drill",
        "every",
        "expected",
        "executed",
        "passed",
        "exceptions",
        "failed",
        "missed",
    ];
    let numbers = |s: &SlotCounts| {
        [
            s.expected,
            s.executed,
            s.passed,
            s.passed_with_exceptions,
            s.failed,
            s.missed,
        ]
        .map(|n| n.to_string())
        .to_vec()
    };
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for tier in &coverage.tiers {
        let of = screen::count(tier.clusters, "cluster");
        let words = vec![tier.tier.to_string(), of, "all".into(), "".into()];
        rows.push([words, numbers(&tier.slots)].concat());
        for row in coverage.clusters.iter().filter(|c| c.tier == tier.tier) {
            let words = vec![
                "".into(),
                row.cluster.to_string(),
                format!("{} {}", row.scenario, row.level),
                every(row.every_ms),
            ];
            rows.push([words, numbers(&row.slots)].concat());
        }
    }
    println!("{} in {}", coverage.tenant, coverage.month);
    screen::print_table(&rows);
    let d = &coverage.drills;
    println!(
        "Begun in the month: {} drills, {} passed, {} with exceptions, {} failed; {} draws unused; {} real restores",
        d.begun, d.passed, d.passed_with_exceptions, d.failed, d.unused_draws, d.real_restores
    );
    for x in &coverage.exceptions {
        println!(
            "  exception: drill {} accepts {}, {} answers for it, due {}",
            x.drill,
            x.accepts,
            x.owner,
            screen::second(x.due)
        );
    }
    match index {
        Some(index) => println!("Signed by the coordinator: log entry {index}"),
        None => println!("NOT SIGNED: counted just now from {} entries", coverage.size),
    }
}
