//! `holdfast evidence`: what was proven, for those who have to believe it.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use holdfast_drills::evidence::entry::{Entry, LoggedEntry};
use holdfast_drills::evidence::statement::Statement;
use holdfast_drills::evidence::tlog::NoteKey;
use holdfast_drills::evidence::tlog::tiles::LogFile;
use holdfast_drills::evidence::{export, verify};
use holdfast_drills::log::DrillLog;
use holdfast_drills::publish::{self, Audience};
use holdfast_proto::Fingerprint;
use holdfast_proto::names::DrillId;

use crate::exit::{Exit, Failure, OrExit};
use crate::operator::{OperatorArguments, OperatorFile};
use crate::residency::Destination;
use crate::screen;

mod coverage;
mod review;
mod witness;

/// Signed evidence.
#[derive(Debug, Subcommand)]
pub enum EvidenceCommand {
    /// Every drill in the log: intents, results, and what was abandoned.
    List(ListArguments),
    /// One drill's statement.
    Show(ShowArguments),
    /// Write a drill's evidence into a directory, or one zip, that verifies
    /// without Holdfast.
    Export(ExportArguments),
    /// Verify an export, offline. Exits with 0 only when all of it holds and
    /// the trust root is given.
    Verify(VerifyArguments),
    /// Sign a drill's statement as one who had no part in it.
    Review(review::ReviewArguments),
    /// Cosign the log for a third party, if it only grew.
    Witness(witness::WitnessArguments),
    /// Put a witness's cosignature beside the log.
    AddCosignature(witness::AddArguments),
    /// How much of a month's drills was done, by tier; missed ones are failures.
    Coverage(coverage::CoverageArguments),
}

#[derive(Debug, Args)]
pub struct ListArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct ShowArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The drill's id, from `evidence list`.
    drill: DrillId,
}

#[derive(Debug, Args)]
pub struct ExportArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The drill's id, from `evidence list`.
    drill: DrillId,
    /// A new or empty directory.
    #[arg(long, value_name = "DIR", required_unless_present = "zip")]
    directory: Option<PathBuf>,
    /// A new zip file.
    #[arg(long, value_name = "FILE", conflicts_with = "directory")]
    zip: Option<PathBuf>,
    /// Put every tenant's entries of the log into it, for a reader who may see them.
    /// Without, it has the entries of the drill's tenant and the hashes of all others.
    #[arg(long)]
    whole_log: bool,
    #[command(flatten)]
    destination: Destination,
}

#[derive(Debug, Args)]
pub struct VerifyArguments {
    /// The export.
    directory: PathBuf,
    /// The fingerprint of the trust root, from outside the export.
    #[arg(long, value_name = "FINGERPRINT")]
    root: Option<Fingerprint>,
    /// A witness's key, as it publishes it, that must have cosigned; repeat for more.
    #[arg(long, value_name = "NAME+HASH+KEY")]
    witness: Vec<NoteKey>,
    /// An operator's configuration to take the trust root from.
    #[arg(long, env = "HOLDFAST_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

impl EvidenceCommand {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<Exit> {
        match self {
            EvidenceCommand::List(arguments) => list(arguments).await,
            EvidenceCommand::Show(arguments) => show(arguments).await,
            EvidenceCommand::Export(arguments) => export_drill(arguments).await,
            EvidenceCommand::Verify(arguments) => verify_export(&arguments),
            EvidenceCommand::Review(arguments) => review::run(arguments).await,
            EvidenceCommand::Witness(arguments) => witness::run(arguments).await,
            EvidenceCommand::AddCosignature(arguments) => witness::add(arguments).await,
            EvidenceCommand::Coverage(arguments) => coverage::run(arguments).await,
        }
    }
}

async fn log(operator: &OperatorArguments) -> anyhow::Result<DrillLog> {
    let operator = operator.load()?;
    let repository = operator.open().await?;
    let trust = operator.trust(&repository).await?;
    DrillLog::open(&repository, &trust).await.or_unavailable()
}

async fn open(operator: &OperatorArguments) -> anyhow::Result<(DrillLog, Vec<LoggedEntry>)> {
    let log = log(operator).await?;
    let entries = log.entries().await.or_unavailable()?;
    Ok((log, entries))
}

async fn list(arguments: ListArguments) -> anyhow::Result<Exit> {
    let (log, entries) = open(&arguments.operator).await?;
    let mut rows = vec![
        ["entry", "drill", "cluster", "scenario", "level", "what"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for (n, entry) in entries.iter().enumerate() {
        let row = match &entry.entry {
            // Whoever can write to the repository can write here: only what a key
            // that is believed has signed says anything.
            _ if log.believe(entry).is_err() => vec![
                "".into(),
                entry.cluster().map(|c| c.to_string()).unwrap_or_default(),
                "".into(),
                "".into(),
                format!("NOT BELIEVED: {}", log.believe(entry).err().unwrap_or_default()),
            ],
            Entry::Intent(i) => vec![
                i.drill.to_string(),
                i.cluster.to_string(),
                i.scenario.to_string(),
                i.level.to_string(),
                format!("intent, by {}", screen::second(i.deadline)),
            ],
            Entry::Result(s) => {
                let p = &s.predicate;
                vec![
                    p.drill.id.to_string(),
                    format!("{}/{}", p.scope.tenant, p.scope.cluster),
                    p.drill.scenario.to_string(),
                    p.drill.level.to_string(),
                    p.results.verdict.to_string(),
                ]
            }
            Entry::Abandoned(a) => {
                vec![
                    a.drill.to_string(),
                    a.cluster.to_string(),
                    "".into(),
                    "".into(),
                    "ABANDONED".into(),
                ]
            }
            Entry::Received(r) => vec![
                r.drill.to_string(),
                r.cluster.to_string(),
                "".into(),
                "".into(),
                format!(
                    "entry {} was logged {} after the restore",
                    r.entry,
                    screen::span(r.delay_ms)
                ),
            ],
            Entry::Coverage(c) => vec![
                "".into(),
                c.predicate.tenant.to_string(),
                "".into(),
                "".into(),
                format!("coverage of {}", c.predicate.month),
            ],
            Entry::Heartbeat(_) | Entry::Population(_) | Entry::Policy(_) | Entry::Other => continue,
        };
        rows.push([vec![n.to_string()], row].concat());
    }
    if arguments.json {
        let heading = rows.remove(0);
        let objects: Vec<_> = rows
            .into_iter()
            .map(|r| {
                heading
                    .iter()
                    .cloned()
                    .zip(r)
                    .collect::<std::collections::BTreeMap<_, _>>()
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&objects)?);
    } else {
        screen::print_table(&rows);
    }
    Ok(Exit::Done)
}

fn find(entries: &[LoggedEntry], drill: DrillId) -> anyhow::Result<(u64, &LoggedEntry, &Statement)> {
    entries
        .iter()
        .zip(0u64..)
        .find_map(|(entry, n)| match &entry.entry {
            Entry::Result(s) if s.predicate.drill.id == drill => Some((n, entry, s.as_ref())),
            _ => None,
        })
        .ok_or_else(|| {
            Failure::no(format!(
                "the log has no result of drill {drill}: see `holdfast evidence list`"
            ))
        })
}

async fn show(arguments: ShowArguments) -> anyhow::Result<Exit> {
    let (_, entries) = open(&arguments.operator).await?;
    let (_, _, statement) = find(&entries, arguments.drill)?;
    println!("{}", serde_json::to_string_pretty(statement)?);
    Ok(Exit::Done)
}

async fn export_drill(arguments: ExportArguments) -> anyhow::Result<Exit> {
    let (log, entries) = open(&arguments.operator).await?;
    let (index, _, _) = find(&entries, arguments.drill)?;
    if let Some(cluster) = entries[usize::try_from(index)?].cluster() {
        let operator = arguments.operator.load()?;
        operator.admit_export(&cluster, &arguments.destination)?;
    }
    let audience = match arguments.whole_log {
        true => Audience::Operator,
        false => Audience::Tenant,
    };
    let input = publish::gather(&log, &entries, index, audience).await.or_no()?;
    let files = export::files(&input).or_no()?;
    write_out(&files, arguments.directory.as_deref(), arguments.zip.as_deref())
}

/// Writes an export's files into a directory or a zip.
fn write_out(files: &[LogFile], directory: Option<&Path>, zip: Option<&Path>) -> anyhow::Result<Exit> {
    if let Some(directory) = directory {
        export::write(directory, files).or_usage()?;
        println!(
            "{} files in {}; begin with VERIFY.md",
            files.len(),
            directory.display()
        );
    }
    if let Some(zip) = zip {
        export::write_zip(zip, files).or_usage()?;
        println!(
            "{} files in {}; unpack it and begin with VERIFY.md",
            files.len(),
            zip.display()
        );
    }
    Ok(Exit::Done)
}

fn verify_export(arguments: &VerifyArguments) -> anyhow::Result<Exit> {
    let root = match (&arguments.root, &arguments.config) {
        (Some(root), _) => Some(*root),
        (None, Some(config)) => OperatorFile::read(config)?.repository.trust_root,
        (None, None) => None,
    };
    if arguments.directory.is_file() {
        return Err(Failure::usage(format!(
            "{} is a file: unpack it, and name the directory that comes out",
            arguments.directory.display()
        )));
    }
    if !arguments.directory.is_dir() {
        return Err(Failure::usage(format!(
            "there is no directory {}: name one that `holdfast evidence export` wrote",
            arguments.directory.display()
        )));
    }
    let options = verify::VerifyOptions {
        root,
        witnesses: arguments.witness.clone(),
        now: None,
    };
    let report = verify::verify_with(&arguments.directory, &options);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        screen::print(&report.to_string());
    }
    Ok(if report.accepted() { Exit::Done } else { Exit::No })
}
