//! `holdfast restore`: plan, and carry out.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use holdfast_agent::restore::{
    self, Access, AuthoriseError, FetchBy, Options, Order, Outcome, Phase, PlanError, Purpose, RestoreError,
    Target, plan_request,
};
use holdfast_drills::learnt;
use holdfast_drills::log::{DrillLog, LogError};
use holdfast_drills::restored::{self, Restorer};
use holdfast_plan::restore::{FilestoreChoice, Request, RestorePlan, Target as Moment, TimelineChoice};
use holdfast_plan::rto::{Amounts, Forecast};
use holdfast_proto::Timestamp;
use holdfast_proto::approval::Guarded;
use holdfast_proto::finding::Finding;
use holdfast_proto::names::{BackupId, ClusterId, FilestoreName, Lineage, Region, RequestId};
use holdfast_proto::pg::{Lsn, TimelineId};
use holdfast_repository::approval::{self, RequireError};
use holdfast_repository::signing::SigningKey;
use holdfast_repository::trust::Trust;
use holdfast_repository::{Repository, clock};

use crate::exit::{Exit, Failure, OrExit};
use crate::operator::{Operator, OperatorArguments};
use crate::screen;

/// Segments that recovery fetches ahead.
const PREFETCH: u32 = 8;

/// Plan a restore, and carry it out.
#[derive(Debug, Subcommand)]
pub enum RestoreCommand {
    /// What a restore would do, how long it would take, or why it cannot be done.
    Plan(PlanArguments),
    /// Carry a restore out. Run again after it was interrupted, it goes on.
    Run(RunArguments),
    /// Ask other people to approve a restore. They sign exactly this plan.
    Request(AskArguments),
    /// Carry out a restore that was approved, as it was approved.
    Approved(ApprovedArguments),
}

/// The target of a restore.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct MomentArguments {
    /// A moment with its time zone: everything committed by then.
    #[arg(long, value_name = "TIME")]
    to_time: Option<Timestamp>,
    /// A position in the WAL.
    #[arg(long, value_name = "LSN")]
    to_lsn: Option<Lsn>,
    /// A restore point made with pg_create_restore_point.
    #[arg(long, value_name = "NAME")]
    to_name: Option<String>,
    /// A transaction.
    #[arg(long, value_name = "XID", value_parser = xid, allow_negative_numbers = true)]
    to_xid: Option<u32>,
    /// The end of what is archived.
    #[arg(long)]
    latest: bool,
}

/// A transaction as the WAL has it; `pg_current_xact_id` counts its epochs too.
fn xid(text: &str) -> Result<u32, String> {
    let full: u64 = text.parse().map_err(|_| {
        "a transaction's number is expected, as pg_current_xact_id or pg_waldump show it".to_owned()
    })?;
    match u32::try_from(full & u64::from(u32::MAX)) {
        Ok(xid @ 3..) => Ok(xid),
        _ => Err("no transaction has this number: they begin with 3".to_owned()),
    }
}

impl MomentArguments {
    fn moment(&self) -> Moment {
        match self {
            Self { to_time: Some(t), .. } => Moment::Time(*t),
            Self { to_lsn: Some(l), .. } => Moment::Lsn(*l),
            Self { to_name: Some(n), .. } => Moment::Name(n.clone()),
            Self { to_xid: Some(x), .. } => Moment::Xid(*x),
            _ => Moment::Latest,
        }
    }
}

/// What to restore, and what is accepted.
#[derive(Debug, Args)]
pub struct RequestArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The cluster, as TENANT/CLUSTER.
    #[arg(long)]
    cluster: ClusterId,
    #[command(flatten)]
    moment: MomentArguments,
    /// Stop just before the target instead of just after it.
    #[arg(long)]
    exclusive: bool,
    /// The timeline to recover along; the latest without it.
    #[arg(long, value_name = "N")]
    timeline: Option<u32>,
    /// The line of descent, as SYSTEM-GENERATION; the newest without it.
    #[arg(long)]
    lineage: Option<Lineage>,
    /// The base backup to begin from; chosen without it.
    #[arg(long, value_name = "ID")]
    base: Option<BackupId>,
    /// Leave the filestores out.
    #[arg(long)]
    no_filestores: bool,
    /// Accept that a replica is out of reach, and with it what it alone may
    /// hold; repeat for more.
    #[arg(long, value_name = "REGION")]
    accept_unreachable: Vec<Region>,
    /// Stop in front of a hole in the WAL, giving up what lies behind it.
    #[arg(long)]
    allow_gap: bool,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct PlanArguments {
    #[command(flatten)]
    request: RequestArguments,
}

#[derive(Debug, Args)]
pub struct RunArguments {
    #[command(flatten)]
    order: OrderArguments,
    /// Restore a copy to look at, which takes connections on its own machine only:
    /// it needs no approval.
    #[arg(long)]
    copy: bool,
}

#[derive(Debug, Args)]
pub struct AskArguments {
    #[command(flatten)]
    order: OrderArguments,
    /// Your key: a person's, enrolled as operator or approver.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Why it is needed.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(Debug, Args)]
pub struct ApprovedArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The request, from `approve list`.
    request: RequestId,
    /// Packs worked on at the same time.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// What to restore, where to, and what is left as it is.
#[derive(Debug, Args)]
pub struct OrderArguments {
    #[command(flatten)]
    request: RequestArguments,
    /// The new data directory: empty, or one that this restore began.
    #[arg(long, value_name = "DIR")]
    target: PathBuf,
    /// Where a filestore goes, as NAME=DIR; repeat for more.
    #[arg(long, value_name = "NAME=DIR", value_parser = assignment::<FilestoreName>)]
    filestore: Vec<(FilestoreName, PathBuf)>,
    /// Where a tablespace goes, as OID=DIR; repeat for more.
    #[arg(long, value_name = "OID=DIR", value_parser = assignment::<u32>)]
    tablespace: Vec<(u32, PathBuf)>,
    /// Where the settings bundle is unpacked.
    #[arg(long, value_name = "DIR")]
    settings: Option<PathBuf>,
    /// Where the secrets bundle is unpacked (needs the recovery or escrow identity).
    #[arg(long, value_name = "DIR")]
    secrets: Option<PathBuf>,
    /// Packs worked on at the same time.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Where tablespaces that are not named go: into a directory here for each,
    /// named by its OID.
    #[arg(long, value_name = "DIR")]
    tablespaces_under: Option<PathBuf>,
    /// Restore a filestore without the files whose content is on no replica, and
    /// name them.
    #[arg(long)]
    accept_lost_files: bool,
    /// Leave archiving as it was configured at the source.
    #[arg(long)]
    keep_archiving: bool,
}

fn assignment<K: std::str::FromStr>(text: &str) -> Result<(K, PathBuf), String>
where
    K::Err: std::fmt::Display,
{
    let (name, directory) = text.split_once('=').ok_or("write NAME=DIRECTORY")?;
    let directory = std::path::absolute(directory).map_err(|e| e.to_string())?;
    Ok((name.parse().map_err(|e: K::Err| e.to_string())?, directory))
}

impl RequestArguments {
    fn request(&self) -> anyhow::Result<Request> {
        let mut request = Request::new(self.moment.moment());
        if self.exclusive && request.target == Moment::Latest {
            return Err(Failure::usage(
                "--exclusive stops just before a target, and --latest has none: name one with --to-time, --to-lsn, --to-name \
                 or --to-xid",
            ));
        }
        request.exclusive = self.exclusive;
        request.lineage = self.lineage;
        request.base = self.base;
        request.allow_gap = self.allow_gap;
        request.accept_unreachable = self.accept_unreachable.iter().cloned().collect::<BTreeSet<_>>();
        if let Some(n) = self.timeline {
            let timeline = TimelineId::new(n).ok_or_else(|| Failure::usage("timelines count from 1"))?;
            request.timeline = TimelineChoice::Id(timeline);
        }
        if self.no_filestores {
            request.filestores = FilestoreChoice::None;
        }
        Ok(request)
    }

    async fn plan(&self) -> anyhow::Result<Planned> {
        let operator = self.operator.load()?;
        let access = open(&operator, &self.cluster).await?;
        let request = self.request()?;
        let keyring = Some(&access.keyring);
        let planned = plan_request(
            &access.repository,
            &access.trust,
            keyring,
            &self.cluster,
            &request,
            clock::now(),
        )
        .await;
        let (plan, ledger) = match planned {
            Ok(planned) => planned,
            Err(e @ PlanError::Impossible(_)) => return Err(e).or_no(),
            Err(e) => return Err(e).or_unavailable(),
        };
        let mut met: Vec<Finding> = access.findings().cloned().collect();
        met.extend(ledger.findings);
        // Every step that meets a replica that is away says so; the plan has it.
        let said = |region: &str| {
            let mut away = plan.replicas.iter().filter(|r| r.unreachable.is_some());
            away.any(|r| r.region.as_str() == region)
        };
        met.retain(|f| f.name != "replica-unreachable" || !said(&f.subject));
        let mut seen = BTreeSet::new();
        met.retain(|f| seen.insert((f.name.clone(), f.subject.clone())));
        Ok(Planned {
            operator,
            access,
            plan,
            met,
        })
    }
}

/// A plan, and what it rests on.
struct Planned {
    operator: Operator,
    access: Access,
    plan: RestorePlan,
    /// What planning met: damaged and overwritten objects.
    met: Vec<Finding>,
}

/// How long moving these amounts would take, by what recoveries of the cluster took so far.
pub async fn ask_the_log(
    repository: &Repository,
    trust: &Trust,
    cluster: &ClusterId,
    amounts: &Amounts,
) -> Result<Forecast, LogError> {
    let log = DrillLog::open(repository, trust).await?;
    Ok(learnt::learnt(&log, cluster).await?.forecast(amounts))
}

/// That, in a line.
fn learnt_line(asked: Result<Forecast, LogError>) -> String {
    let forecast = match asked {
        Ok(forecast) => forecast,
        Err(error) => return format!("  learnt    nothing, the evidence log cannot be read: {error}"),
    };
    match forecast.recoveries {
        0 => "  learnt    nothing yet: no drill of this cluster was measured, nor a restore where the configuration \
              has a [runner]; what stands beside `takes` goes by cautious rates"
            .to_owned(),
        n => format!(
            "  learnt    {} half of the time, {} or less in nine of ten: from {n} measured {} of this cluster; \
             go by this: what stands beside `takes` knows cautious rates alone",
            screen::span(forecast.p50_ms),
            screen::span(forecast.p90_ms),
            if n == 1 { "recovery" } else { "recoveries" }
        ),
    }
}

/// A finding as a person reads it.
pub fn finding_line(finding: &Finding) -> String {
    format!(
        "  {:?} {} {}: {}",
        finding.severity, finding.name, finding.subject, finding.detail
    )
}

/// Opens the repository with the operator's identity.
pub async fn open(operator: &Operator, cluster: &ClusterId) -> anyhow::Result<Access> {
    let repository = operator.open().await?;
    Access::of(repository, &operator.root()?, cluster, &operator.identities()?)
        .await
        .or_no()
}

/// How a restored server fetches its WAL.
pub fn fetch_by(operator: &Operator) -> anyhow::Result<FetchBy> {
    Ok(FetchBy {
        repository: operator.repository_config(),
        trust_root: operator.root()?,
        identities: vec![operator.identity_path()?],
        program: std::env::current_exe().context("the path of this program")?,
        prefetch: PREFETCH,
        restore_command: None,
    })
}

impl RestoreCommand {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<Exit> {
        match self {
            RestoreCommand::Plan(arguments) => {
                let Planned {
                    mut plan,
                    met,
                    access,
                    ..
                } = arguments.request.plan().await?;
                let amounts = plan.amounts();
                let learnt = ask_the_log(&access.repository, &access.trust, &plan.cluster, &amounts).await;
                if arguments.request.json {
                    // Without a recovery behind it, it is what `predicted` says.
                    plan.learnt = learnt.ok().filter(|forecast| forecast.recoveries > 0);
                    // The plan alone goes to standard output: it can be carried out.
                    println!("{}", serde_json::to_string_pretty(&plan)?);
                    met.iter()
                        .for_each(|finding| eprintln!("{}", finding_line(finding)));
                } else {
                    screen::print(&plan.to_string());
                    screen::print(&learnt_line(learnt));
                    met.iter()
                        .for_each(|finding| screen::print(&finding_line(finding)));
                }
                Ok(Exit::Done)
            }
            RestoreCommand::Run(arguments) => run(arguments).await,
            RestoreCommand::Request(arguments) => ask(arguments).await,
            RestoreCommand::Approved(arguments) => approved(arguments).await,
        }
    }
}

impl OrderArguments {
    fn target(&self) -> anyhow::Result<Target> {
        let absolute = |path: &PathBuf| std::path::absolute(path).context("an absolute path");
        Ok(Target {
            data: absolute(&self.target)?,
            tablespaces: self.tablespace.iter().cloned().collect::<BTreeMap<_, _>>(),
            tablespaces_under: self.tablespaces_under.as_ref().map(absolute).transpose()?,
            filestores: self.filestore.iter().cloned().collect(),
            config: self.settings.as_ref().map(absolute).transpose()?,
            secrets: self.secrets.as_ref().map(absolute).transpose()?,
        })
    }
}

async fn run(arguments: RunArguments) -> anyhow::Result<Exit> {
    let order = &arguments.order;
    let planned = planned_or_resumed(order).await?;
    let json = order.request.json;
    if !json {
        screen::print(&planned.plan.to_string());
    }
    let mut options = Options::new(fetch_by(&planned.operator)?);
    if arguments.copy {
        options.purpose = Purpose::Copy;
    }
    options.keep_archiving = order.keep_archiving;
    options.accept_lost_files = order.accept_lost_files;
    if let Some(threads) = order.threads {
        options.threads = threads;
    }
    carry_out(planned, &order.target()?, options, json).await
}

/// Asks for approval of what `restore run` would do.
async fn ask(arguments: AskArguments) -> anyhow::Result<Exit> {
    let key = SigningKey::load(&arguments.key).context("your key").or_usage()?;
    let order = &arguments.order;
    let Planned {
        operator,
        access,
        plan,
        met,
    } = order.request.plan().await?;
    if access
        .trust
        .required(Guarded::ProductionRestore, std::slice::from_ref(&plan.cluster))
        .is_none()
    {
        return Err(Failure::usage(format!(
            "nothing says that a restore of {} needs approval: `holdfast restore run` carries it out, and `holdfast trust \
             require` makes a rule",
            plan.cluster
        )));
    }
    let target = order.target()?;
    let asked = Order::of(&plan, &target, order.keep_archiving, order.accept_lost_files);
    let (request, findings) = approval::ask(
        &access.repository,
        &access.trust,
        RequestId::from_parts(clock::now(), rand::random()),
        approval::Draw {
            action: Guarded::ProductionRestore,
            clusters: vec![plan.cluster.clone()],
            summary: format!(
                "restore {} to {} into {}",
                plan.cluster,
                plan.target,
                target.data.display()
            ),
            reason: arguments.reason,
            plan: asked.to_bytes().or_usage()?,
        },
        &key,
        clock::now(),
    )
    .await
    .or_no()?;
    if order.request.json {
        let shown =
            serde_json::json!({"request": request.body.id, "plan_sha256": request.digest, "order": asked});
        println!("{}", serde_json::to_string_pretty(&shown)?);
        return Ok(Exit::Done);
    }
    screen::print(&plan.to_string());
    met.iter()
        .chain(&findings)
        .for_each(|finding| screen::print(&finding_line(finding)));
    println!();
    let house = super::approve::House {
        trust: operator.trust(&access.repository).await?,
        repository: access.repository,
    };
    let go_on = format!("holdfast restore approved {}", request.body.id);
    super::approve::print_asked(&house, &request, &go_on).await?;
    Ok(Exit::Done)
}

/// Carries out what people signed, byte for byte.
async fn approved(arguments: ApprovedArguments) -> anyhow::Result<Exit> {
    let operator = arguments.operator.load()?;
    let repository = operator.open().await?;
    let trust = operator.trust(&repository).await?;
    let request = approval::load(&repository, &trust, arguments.request)
        .await
        .or_no()?;
    let order = Order::from_bytes(&request.plan).or_no()?;
    let access = open(&operator, &order.plan.cluster).await?;
    let mut options = Options::new(fetch_by(&operator)?);
    options.purpose = Purpose::Production {
        approved: Some(request.body.id),
    };
    options.keep_archiving = order.keep_archiving;
    options.accept_lost_files = order.accept_lost_files;
    if let Some(threads) = arguments.threads {
        options.threads = threads;
    }
    if !arguments.json {
        screen::print(&order.plan.to_string());
    }
    let planned = Planned {
        operator,
        access,
        plan: order.plan,
        met: Vec::new(),
    };
    carry_out(planned, &order.target, options, arguments.json).await
}

/// Carries a plan out and says what happened.
async fn carry_out(
    planned: Planned,
    target: &Target,
    mut options: Options,
    json: bool,
) -> anyhow::Result<Exit> {
    let Planned {
        operator,
        access,
        plan,
        met,
    } = planned;
    options.met = met;
    let watching = screen::watch_meter(options.meter.clone(), "restore");
    let outcome = restore::execute(&plan, &access, target, &options).await;
    watching.finish().await;
    let outcome = match outcome {
        Err(RestoreError::Authorise(AuthoriseError::Required(e @ RequireError::Needed { .. }))) => {
            return Err(Failure::no(format!(
                "{e}:\n  holdfast restore request   with the same options, --key FILE and --reason TEXT\n  holdfast restore \
                 run --copy  restores a copy to look at, which needs no approval"
            )));
        }
        other => other.or_no()?,
    };
    leave_statement(&operator, &access, &plan, &outcome).await;
    if json {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
        return Ok(Exit::Done);
    }
    if let Some(approved) = &outcome.approved {
        let names: Vec<String> = approved
            .approvers
            .iter()
            .map(|(name, _)| name.to_string())
            .collect();
        println!(
            "Request {} of {} was granted by {}",
            approved.request,
            approved.initiator,
            names.join(", ")
        );
    }
    println!(
        "Restored {} files, {}{}",
        outcome.files,
        screen::bytes(outcome.bytes),
        if outcome.resumed {
            format!("; {} kept from before", outcome.kept)
        } else {
            String::new()
        }
    );
    for phase in &outcome.phases {
        let name = match phase.phase {
            Phase::BaseFetch => "base fetch",
            Phase::FilestoreRestore => "filestore restore",
            Phase::Configure => "configure",
        };
        println!(
            "  {name:<18} {:>10}  {}",
            screen::span(phase.ended.millis_since(phase.started)),
            screen::bytes(phase.bytes)
        );
    }
    for files in &outcome.filestores {
        println!(
            "  {}: {} files in {}",
            files.filestore,
            files.files,
            files.directory.display()
        );
        if files.dirty_count > 0 {
            println!(
                "  {} of them were not captured whole at the source:",
                files.dirty_count
            );
            files.dirty.iter().for_each(|file| println!("    {file}"));
        }
        files.lost.iter().for_each(|file| println!("    LOST {file}"));
    }
    for finding in &outcome.findings {
        screen::print(&finding_line(finding));
    }
    for note in &outcome.notes {
        screen::print(&format!("  {note}"));
    }
    println!(
        "Start PostgreSQL on {}: it replays to the target and promotes.",
        target.data.display()
    );
    if std::io::stdout().is_terminal() {
        println!("It takes connections when it has been promoted: until then recovery is still replaying.");
    }
    Ok(Exit::Done)
}

/// Leaves a signed statement of the restore, where the operator has a key for it. It
/// is evidence, not part of the restore: that it cannot be left is said, and fails
/// nothing.
async fn leave_statement(operator: &Operator, access: &Access, plan: &RestorePlan, outcome: &Outcome) {
    let Some(section) = &operator.file.runner else {
        eprintln!(
            "No statement of this restore is left: the configuration has no [runner] with a key to sign it"
        );
        return;
    };
    let left = async {
        let key = SigningKey::load(&section.signing_key).context("the runner's key")?;
        let restorer = Restorer {
            name: section.name.clone(),
            key: &key,
            initiator: std::env::var("USER").ok().filter(|u| !u.is_empty()),
            governing: super::drill::governing(operator, &plan.cluster)?,
        };
        anyhow::Ok(restored::leave(&restorer, access, plan, outcome).await?)
    };
    match left.await {
        Ok((id, copies)) => eprintln!(
            "A signed statement of this restore, {id}, waits on {} to be logged",
            screen::count(copies as u64, "replica")
        ),
        Err(e) => eprintln!("No statement of this restore is left: {e:#}"),
    }
}

/// An interrupted restore goes on by the plan that it began with: planning anew
/// could choose differently.
async fn planned_or_resumed(arguments: &OrderArguments) -> anyhow::Result<Planned> {
    let request = &arguments.request;
    let Some(begun) = restore::begun(&arguments.target).or_usage()? else {
        return request.plan().await;
    };
    if begun.cluster != request.cluster || begun.target != request.moment.moment() {
        return Err(Failure::usage(format!(
            "{} holds an unfinished restore of {} to {}: go on with that, or choose another directory",
            arguments.target.display(),
            begun.cluster,
            begun.target
        )));
    }
    let operator = request.operator.load()?;
    let access = open(&operator, &request.cluster).await?;
    eprintln!(
        "Going on with the restore that was begun in {}",
        arguments.target.display()
    );
    Ok(Planned {
        operator,
        access,
        plan: begun,
        met: Vec::new(),
    })
}
