//! Carries a restore plan out.
//!
//! Order: the base's files, the filestores, bundles; everything synced; recovery
//! configuration and pin; `pg_control` last. Dying at any moment leaves a
//! directory that PostgreSQL does not start and that the same plan, run again,
//! completes: files that are whole are kept. Nothing is decided here; a surprise
//! is an error, and a new plan answers it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use holdfast_plan::restore::RestorePlan;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::FilestoreName;
use holdfast_proto::{Fingerprint, Sha256Digest, Timestamp};
use holdfast_repository::{RepositoryConfig, clock};
use serde::Serialize;

use super::access::Access;
use super::bundles::{self, UnpackError};
use super::data_directory::{self, DataError};
use super::filestore_files::{self, FilesError};
use super::order::{self, ApprovedBy, AuthoriseError, Purpose};
use super::pin::{PIN_FILE, Pin};
use super::place::{self, PlaceError, Placing};
use super::recovery::{self, RecoverySettings, shell_word};
use super::target::{Target, TargetError};
use crate::durable::{self, LocalFileError};
use crate::progress::Meter;

/// Threads beyond which memory would pass its bound.
const MOST_THREADS: usize = 5;

/// A restore that stopped.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The plan is for another repository.
    #[error(
        "the plan is for another repository than the one that is open: open the repository it was planned on"
    )]
    OtherRepository,
    /// The plan's form is not known.
    #[error("the plan has version {0}, which this program does not know: plan again")]
    Version(u32),
    /// It needs approval and has none.
    #[error(transparent)]
    Authorise(#[from] AuthoriseError),
    /// The target is refused.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The data directory could not be restored.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A filestore could not be restored.
    #[error("filestore {filestore}: {source}")]
    Files {
        /// Which.
        filestore: FilestoreName,
        /// Why.
        source: FilesError,
    },
    /// A bundle could not be unpacked.
    #[error(transparent)]
    Bundle(#[from] UnpackError),
    /// Syncing failed.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A local file could not be written.
    #[error(transparent)]
    Local(#[from] LocalFileError),
}

/// A step of a restore, as it is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Phase {
    /// The base's files are fetched and written.
    BaseFetch,
    /// The filestores' files are fetched and written.
    FilestoreRestore,
    /// All is synced, and recovery is configured.
    Configure,
}

/// How long a step took and what it moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PhaseTiming {
    /// The step.
    pub phase: Phase,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Bytes written.
    pub bytes: u64,
    /// Bytes of packs read.
    pub read: u64,
    /// Files written.
    pub items: u64,
}

/// What recovery needs to fetch WAL by itself.
#[derive(Debug, Clone)]
pub struct FetchBy {
    /// Where the repository is.
    pub repository: RepositoryConfig,
    /// Fingerprint of the trust root.
    pub trust_root: Fingerprint,
    /// Files of identities that open the WAL.
    pub identities: Vec<PathBuf>,
    /// The holdfast program, by its absolute path.
    pub program: PathBuf,
    /// Segments to fetch ahead.
    pub prefetch: u32,
    /// Another `restore_command` than our own, with PostgreSQL's `%f` and `%p`:
    /// for a server that does not see the repository, see [`super::relay`].
    pub restore_command: Option<String>,
}

/// How a restore is done.
#[derive(Clone)]
pub struct Options {
    /// What it is for.
    pub purpose: Purpose,
    /// Packs worked on at the same time.
    pub threads: usize,
    /// How recovery gets its WAL.
    pub fetch: FetchBy,
    /// Leave archiving as it was configured at the source.
    pub keep_archiving: bool,
    /// Restore a filestore without the files whose packs are on no replica, and
    /// name them.
    pub accept_lost_files: bool,
    /// Refuse a target that has too little room before anything is written.
    pub check_room: bool,
    /// What planning met: damaged and overwritten objects. Part of the outcome.
    pub met: Vec<Finding>,
    /// Counts plaintext bytes.
    pub meter: Meter,
    /// Is told when a step begins.
    pub watch: Arc<dyn Fn(Phase) + Send + Sync>,
}

impl Options {
    /// The usual ones.
    pub fn new(fetch: FetchBy) -> Self {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            purpose: Purpose::Production { approved: None },
            threads: threads.clamp(2, MOST_THREADS),
            fetch,
            keep_archiving: false,
            accept_lost_files: false,
            check_room: true,
            met: Vec::new(),
            meter: Meter::default(),
            watch: Arc::new(|_| {}),
        }
    }
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Digest of the plan.
    pub plan: Sha256Digest,
    /// Who let it be carried out, where that needed approval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approved: Option<ApprovedBy>,
    /// Whether it went on from an earlier run.
    pub resumed: bool,
    /// Each step.
    pub phases: Vec<PhaseTiming>,
    /// Files written.
    pub files: u64,
    /// Files kept from an earlier run.
    pub kept: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Each filestore: files and bytes.
    pub filestores: Vec<FilestoreOutcome>,
    /// Damaged, missing and healed objects.
    pub findings: Vec<Finding>,
    /// What was left out or changed, for a person.
    pub notes: Vec<String>,
    /// The pin that recovery uses.
    pub pin: PathBuf,
}

/// What was restored of a filestore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FilestoreOutcome {
    /// Which.
    pub filestore: FilestoreName,
    /// Where.
    pub directory: PathBuf,
    /// Files, those kept from an earlier run included.
    pub files: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Files that were not whole at the source: named up to a hundred.
    pub dirty: Vec<String>,
    /// How many were not whole at the source.
    pub dirty_count: u64,
    /// Files that were left out because their packs are on no replica: named up to
    /// a hundred.
    pub lost: Vec<String>,
    /// How many were left out.
    pub lost_count: u64,
}

struct Clocked {
    phase: Phase,
    started: Timestamp,
}

impl Clocked {
    fn begin(options: &Options, phase: Phase) -> Self {
        (options.watch)(phase);
        Self {
            phase,
            started: clock::now(),
        }
    }

    fn end(self, bytes: u64, read: u64, items: u64) -> PhaseTiming {
        PhaseTiming {
            phase: self.phase,
            started: self.started,
            ended: clock::now(),
            bytes,
            read,
            items,
        }
    }
}

/// Carries `plan` out into `target`. On success the data directory is ready for
/// PostgreSQL to be started on it; recovery then replays to the plan's target and
/// promotes.
///
/// # Errors
/// The restore stopped. The same call goes on where it stopped, unless the
/// target was refused.
pub async fn execute(
    plan: &RestorePlan,
    access: &Access,
    target: &Target,
    options: &Options,
) -> Result<Outcome, RestoreError> {
    if plan.version != holdfast_plan::restore::PLAN_VERSION {
        return Err(RestoreError::Version(plan.version));
    }
    if plan.repository != access.repository.id() {
        return Err(RestoreError::OtherRepository);
    }
    let approved = order::authorise(plan, access, target, options, clock::now()).await?;
    let tablespaces = target.tablespaces_for(plan)?;
    let taken = target.take(plan, options.check_room)?;
    let placing = Placing {
        threads: options.threads.clamp(1, MOST_THREADS),
        resumed: taken.resumed(),
        // A database without one of its files is no database.
        accept_lost: false,
        meter: options.meter.clone(),
    };
    options.meter.expect(plan.write);
    let mut outcome = Outcome {
        plan: taken.plan(),
        approved,
        resumed: taken.resumed(),
        phases: Vec::new(),
        files: 0,
        kept: 0,
        bytes: 0,
        filestores: Vec::new(),
        findings: access.findings().chain(&options.met).cloned().collect(),
        notes: Vec::new(),
        pin: taken.notes().join(PIN_FILE),
    };

    let timing = Clocked::begin(options, Phase::BaseFetch);
    let data =
        data_directory::restore_data(access, plan, &target.data, taken.notes(), &tablespaces, &placing)
            .await?;
    outcome
        .phases
        .push(timing.end(data.placed.bytes, data.placed.read, data.placed.files));
    outcome.files += data.placed.files;
    outcome.kept += data.placed.kept;
    outcome.bytes += data.placed.bytes;
    outcome.notes.extend(data.notes);
    outcome.findings.extend(data.placed.findings);

    if !plan.filestores.is_empty() {
        let timing = Clocked::begin(options, Phase::FilestoreRestore);
        let before = (outcome.bytes, outcome.files);
        let placing = Placing {
            accept_lost: options.accept_lost_files,
            ..placing.clone()
        };
        let read = restore_filestores(plan, access, target, &placing, &mut outcome).await?;
        outcome
            .phases
            .push(timing.end(outcome.bytes - before.0, read, outcome.files - before.1));
    }

    restore_bundles(plan, access, target, &mut outcome).await?;

    let timing = Clocked::begin(options, Phase::Configure);
    let filestores = plan
        .filestores
        .iter()
        .filter_map(|f| target.filestores.get(&f.filestore));
    let synced: BTreeSet<&PathBuf> = std::iter::once(&target.data)
        .chain(tablespaces.values())
        .chain(filestores)
        .collect();
    for directory in synced {
        place::sync_file_system(directory).await?;
    }
    let pin = Pin::of(
        plan,
        options.fetch.repository.clone(),
        options.fetch.trust_root,
        options.fetch.identities.clone(),
        options.fetch.program.clone(),
        options.fetch.prefetch,
    );
    pin.save(&outcome.pin)?;
    let settings = RecoverySettings {
        replay: &plan.replay,
        restore_command: restore_command(&options.fetch, &outcome.pin),
        recovery_end_command: format!(
            "{} wal conclude",
            shell_word(&options.fetch.program.display().to_string())
        ),
        source: &data.details.settings,
        keep_archiving: options.keep_archiving,
        reachable: options.purpose != Purpose::Copy,
    };
    outcome
        .notes
        .extend(recovery::configure(&target.data, &settings)?);
    data_directory::install_control_file(&target.data, taken.notes())?;
    outcome.phases.push(timing.end(0, 0, 0));
    outcome.findings = once_each(outcome.findings);
    let report = serde_json::to_vec_pretty(&outcome).expect("an outcome is plain values");
    durable::replace(&taken.notes().join("outcome.json"), &report)?;
    taken.finish()?;
    Ok(outcome)
}

async fn restore_filestores(
    plan: &RestorePlan,
    access: &Access,
    target: &Target,
    placing: &Placing,
    outcome: &mut Outcome,
) -> Result<u64, RestoreError> {
    let mut read = 0;
    for files in &plan.filestores {
        let filestore = files.filestore.clone();
        let directory = target.filestores.get(&filestore);
        let directory = directory.ok_or_else(|| TargetError::Filestores(vec![filestore.clone()]))?;
        let restored = filestore_files::restore_files(access, plan, files, directory, placing)
            .await
            .map_err(|source| RestoreError::Files {
                filestore: filestore.clone(),
                source,
            })?;
        read += restored.placed.read;
        let lost = restored.placed.lost;
        if let Some(first) = lost.first() {
            outcome.findings.push(Finding {
                name: "files-lost".to_owned(),
                subject: filestore.to_string(),
                severity: Severity::Critical,
                detail: format!(
                    "{} files are not in the restored filestore, because no replica has their content: {} is the first",
                    lost.len(),
                    first.display()
                ),
                since: clock::now(),
            });
        }
        outcome.files += restored.placed.files;
        outcome.kept += restored.placed.kept;
        outcome.bytes += restored.placed.bytes;
        outcome.notes.extend(restored.notes);
        outcome.findings.extend(restored.placed.findings);
        outcome.filestores.push(FilestoreOutcome {
            filestore,
            directory: directory.clone(),
            files: restored.placed.files + restored.placed.kept,
            bytes: restored.placed.bytes,
            dirty: restored.dirty,
            dirty_count: restored.dirty_count,
            lost: lost
                .iter()
                .take(filestore_files::NAMED)
                .map(|p| p.display().to_string())
                .collect(),
            lost_count: lost.len() as u64,
        });
    }
    Ok(read)
}

async fn restore_bundles(
    plan: &RestorePlan,
    access: &Access,
    target: &Target,
    outcome: &mut Outcome,
) -> Result<(), RestoreError> {
    let wanted = [
        ("config", &target.config, &plan.config),
        ("secrets", &target.secrets, &plan.secrets),
    ];
    for (name, directory, link) in wanted {
        match (directory, link) {
            (Some(directory), Some(link)) => {
                let unpacked = bundles::unpack(access, link, directory).await?;
                outcome.files += unpacked.files;
                outcome.bytes += unpacked.bytes;
                outcome.findings.extend(unpacked.findings);
            }
            (Some(_), None) => outcome
                .notes
                .push(format!("there is no {name} bundle in the repository")),
            (None, _) => {}
        }
    }
    Ok(())
}

fn restore_command(fetch: &FetchBy, pin: &std::path::Path) -> String {
    if let Some(other) = &fetch.restore_command {
        return other.clone();
    }
    format!(
        "{} wal fetch %f \"%p\" --pin {}",
        shell_word(&fetch.program.display().to_string()),
        shell_word(&pin.display().to_string())
    )
}

/// The same finding seen twice is one.
fn once_each(findings: Vec<Finding>) -> Vec<Finding> {
    let mut seen = BTreeSet::new();
    findings
        .into_iter()
        .filter(|f| seen.insert((f.name.clone(), f.subject.clone())))
        .collect()
}
