//! The agent's configuration: one TOML file.
//!
//! Ten lines protect a simple cluster:
//!
//! ```toml
//! name = "agent-1"
//! signing_key = "/etc/holdfast/agent-1.key"
//! recipients.file = "/etc/holdfast/recipients.toml"
//! [repository]
//! trust_root = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
//! replicas = [{ url = "s3://backup-a", region = "eu-1" }, { url = "s3://backup-b", region = "eu-2" }]
//! [[cluster]]
//! cluster = "acme/erp"
//! tier = "platinum"
//! postgres = "host=/run/postgresql user=holdfast dbname=postgres"
//! ```
//!
//! Unknown keys are refused and everything that is wrong is reported at once,
//! each with its path, its line and what to do. Paths are absolute, durations
//! carry a unit, secrets are named by file or environment variable and never
//! stand in the file. There is no setting for an identity, nor for credentials
//! that delete: an agent that has them is refused rather than warned about.
//!
//! This module reads and checks the file alone. Whether the keys, the stores and
//! the server that it names exist is seen when the agent starts.

mod reader;
mod references;
mod value;

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use globset::Glob;
use holdfast_plan::policy::Tier;
use holdfast_plan::shape::Shape;
use holdfast_proto::Fingerprint;
use holdfast_proto::labels::{LabelText, Labels};
use holdfast_proto::names::{
    ActorName, ClusterId, FilestoreName, ProviderName, RecipientRole, Region, SystemId, TierName,
};
use holdfast_proto::pg::TimelineId;
use holdfast_proto::record::SealedTo;
use holdfast_proto::residency::{Place, Residency, Use};
use holdfast_repository::config::{ReplicaConfig, RepositoryConfig};

use crate::postgres::{PgTarget, SlotName};
use crate::reference::Reference;
use crate::wal::ValveLimits;
use crate::wal::push::Feed;

use reader::{Document, Gathered, Section};
pub use reader::{Problem, Setting, Source};

/// Everything that is wrong in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// Never empty; in the order of the lines.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// What an agent is told by its operator.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The agent's name in the trust chain and in its certificate.
    pub name: ActorName,
    /// Its directory for what makes a restart cheap, and for the index keys.
    pub state_dir: PathBuf,
    /// Where `holdfast wal push` finds the running agent.
    pub wal_socket: PathBuf,
    /// The key with which it signs (PEM, PKCS #8).
    pub signing_key: PathBuf,
    /// Where backups go. The trust root is present.
    pub repository: RepositoryConfig,
    /// To whom the keys of backups are sealed.
    pub recipients: Vec<SealedTo>,
    /// The coordinator, when there is one.
    pub coordinator: Option<CoordinatorConfig>,
    /// Threads that compress and seal.
    pub threads: NonZeroUsize,
    /// What it protects; at least one.
    pub clusters: Vec<ClusterConfig>,
    settings: Vec<Setting>,
}

/// How the agent reaches its coordinator.
#[derive(Debug, Clone)]
pub struct CoordinatorConfig {
    /// `https://host:port` of each coordinator: the one that is called first, then those
    /// that are called when it does not lead.
    pub urls: Vec<String>,
    /// Certificates that the coordinator's is checked against (PEM).
    pub ca: PathBuf,
    /// Where the agent's certificate is.
    pub certificate: CertificateSource,
}

/// Where the agent's certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateSource {
    /// In files that somebody else makes and renews.
    Files {
        /// The certificate (PEM).
        cert: PathBuf,
        /// Its key (PEM).
        key: PathBuf,
    },
    /// In the state directory: the agent gets it with a token and renews it.
    Kept {
        /// The file with the token.
        token_file: Option<PathBuf>,
    },
}

/// What a configuration says about the line of descent that a cluster writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AskedLineage {
    /// The server's system identifier, when it is to be another one than before.
    pub system: Option<SystemId>,
    /// The generation to begin, after a restore or a rollback.
    pub generation: Option<u32>,
}

/// One cluster.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Its name.
    pub id: ClusterId,
    /// Its tier: what counts without a coordinator.
    pub tier: TierName,
    /// What a coordinator's policy may decide by, when it does not name the cluster.
    pub labels: Labels,
    /// Where its data may lie, whatever a coordinator says.
    pub residency: Option<Residency>,
    /// How to reach it.
    pub postgres: PgTarget,
    /// Its data directory, when the agent sees it under another path than the
    /// server does.
    pub data_directory: Option<PathBuf>,
    /// Where its WAL comes from.
    pub feed: Feed,
    /// Its replication slot.
    pub slot: SlotName,
    /// When the slot may no longer hold all WAL that is not stored.
    pub valve: ValveLimits,
    /// Which line of descent it writes.
    pub lineage: AskedLineage,
    /// The agent whose lease is taken over.
    pub take_over: Option<ActorName>,
    /// Agents beside the cluster's other nodes. The one whose server is promoted
    /// takes the lease over from them.
    pub peers: Vec<ActorName>,
    /// The timeline of which an operator says that the cluster was promoted to it, though
    /// its server was not seen to follow.
    pub promoted_timeline: Option<TimelineId>,
    /// Folders of files beside it.
    pub filestores: Vec<FilestoreConfig>,
    /// What goes into configuration bundles, beside what the server itself names.
    pub configuration: ConfigurationConfig,
    /// Values that are recorded at fences, for drills to compare with.
    pub references: Vec<Reference>,
    /// The least time between two fences at which they are recorded.
    pub reference_interval: Duration,
}

/// How a filestore's names prove its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdapterKind {
    /// Odoo's: files named by the SHA-1 of their content, written once.
    Odoo,
    /// A plain tree, changed in place.
    None,
}

impl AdapterKind {
    /// Its name in configuration and journal.
    pub fn as_str(self) -> &'static str {
        match self {
            AdapterKind::Odoo => "odoo",
            AdapterKind::None => "none",
        }
    }
}

/// One filestore.
#[derive(Debug, Clone)]
pub struct FilestoreConfig {
    /// Its name in the repository.
    pub name: FilestoreName,
    /// Its root.
    pub path: PathBuf,
    /// How its names prove content.
    pub adapter: AdapterKind,
    /// The database whose rows name its files, for adapters that have one.
    pub database: Option<String>,
    /// How long at least a file that nothing references any more is kept by the
    /// application's collector.
    pub collector_delay: Option<Duration>,
    /// How often every file's stat is compared, whatever the directories' times say.
    pub full_sweep: Duration,
}

/// What goes into configuration bundles.
#[derive(Debug, Clone, Default)]
pub struct ConfigurationConfig {
    /// Files and patterns that may be opened by a drill.
    pub files: Vec<Glob>,
    /// Files and patterns that only recovery and escrow may open.
    pub secret_files: Vec<Glob>,
}

impl AgentConfig {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError {
            problems: vec![Problem {
                file: path.to_owned(),
                line: 0,
                path: String::new(),
                what: format!("cannot be read ({e}): name an existing file with --config"),
            }],
        })?;
        Self::parse(path, &text)
    }

    /// Checks the text of a file. `path` is for messages; a recipients' file is
    /// read too.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut beside = Gathered::default();
        let (config, mut gathered) =
            Document::read(path.to_owned(), text, |top| read_agent(top, &mut beside));
        gathered.problems.append(&mut beside.problems);
        gathered.settings.append(&mut beside.settings);
        match config {
            Some(config) if gathered.problems.is_empty() => Ok(Self {
                settings: gathered.settings,
                ..config
            }),
            _ => Err(ConfigError {
                problems: gathered.problems,
            }),
        }
    }

    /// What the reader asks for in a file: every key that an agent knows, when the
    /// text has every section.
    pub fn shape(text: &str) -> Shape {
        let mut beside = Gathered::default();
        let path = PathBuf::from("agent.toml");
        let (_, gathered) = Document::read(path, text, |top| read_agent(top, &mut beside));
        gathered.shape
    }

    /// Every effective setting and where it comes from.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }
}

const NO_IDENTITY: &str = "an agent holds nothing that opens a backup: remove it, and give the identity to \
                           whoever restores (holdfast restore run --identity FILE)";
const NO_DELETE: &str = "an agent holds nothing that deletes a backup: remove it; only `holdfast repo reclaim`, \
                         run elsewhere, has such credentials";
const REFUSED: [(&str, &str); 6] = [
    ("identity", NO_IDENTITY),
    ("identities", NO_IDENTITY),
    ("identity_file", NO_IDENTITY),
    ("delete", NO_DELETE),
    ("delete_credentials", NO_DELETE),
    ("reclaim", NO_DELETE),
];

fn read_agent(top: Section<'_, '_>, beside: &mut Gathered) -> Option<AgentConfig> {
    let name = top.required(
        "name",
        "name this agent as the trust chain does, for example name = \"agent-1\"",
    );
    let state_dir = top.or("state_dir", PathBuf::from("/var/lib/holdfast"));
    let wal_socket = top.or("wal_socket", state_dir.join("wal.sock"));
    let signing_key = top.required(
        "signing_key",
        "name the file of the agent's signing key, for example signing_key = \"/etc/holdfast/agent.key\"",
    );
    let threads = top.or(
        "threads",
        std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
    );
    let repository = match top.section("repository") {
        Some(section) => read_repository(section),
        None => {
            top.complain(
                "repository",
                "is missing: add [repository] with trust_root and replicas",
            );
            None
        }
    };
    let recipients = match top.section("recipients") {
        Some(section) => read_recipients(section, beside),
        None => {
            top.complain(
                "recipients",
                "is missing: add [recipients] with the lists that `holdfast keys generate` printed, or with file = \"…\"",
            );
            None
        }
    };
    let coordinator = top.section("coordinator").map(read_coordinator);
    let coordinated = coordinator.is_some();
    let places = repository
        .as_ref()
        .map(RepositoryConfig::places)
        .unwrap_or_default();
    let sections = top.sections("cluster");
    if sections.is_empty() {
        top.complain(
            "cluster",
            "is missing: add a [[cluster]] with cluster, tier and postgres",
        );
    }
    let clusters: Vec<Option<ClusterConfig>> = sections
        .into_iter()
        .map(|section| read_cluster(section, coordinated, &places))
        .collect();
    let mut seen = BTreeSet::new();
    for cluster in clusters.iter().flatten() {
        if !seen.insert(&cluster.id) {
            top.complain(
                "cluster",
                format!("{} stands there twice: remove one", cluster.id),
            );
        }
    }
    top.finish(&REFUSED);
    Some(AgentConfig {
        name: name?,
        state_dir,
        wal_socket,
        signing_key: signing_key?,
        repository: repository?,
        recipients: recipients?,
        coordinator: match coordinator {
            Some(coordinator) => Some(coordinator?),
            None => None,
        },
        threads,
        clusters: clusters.into_iter().collect::<Option<_>>()?,
        settings: Vec::new(),
    })
}

fn read_repository(section: Section<'_, '_>) -> Option<RepositoryConfig> {
    let trust_root = section.required::<Fingerprint>(
        "trust_root",
        "write the fingerprint that `holdfast keys generate` printed for the root key",
    );
    let replicas: Vec<Option<ReplicaConfig>> = section
        .sections("replicas")
        .into_iter()
        .map(read_replica)
        .collect();
    let config = (replicas.into_iter().collect::<Option<Vec<_>>>())
        .map(|replicas| RepositoryConfig { replicas, trust_root });
    for problem in config.iter().flat_map(RepositoryConfig::problems) {
        section.complain("replicas", problem.to_string());
    }
    section.finish(&REFUSED);
    trust_root.and(config)
}

fn read_replica(section: Section<'_, '_>) -> Option<ReplicaConfig> {
    let url = section.required::<String>(
        "url",
        "write file:///directory, s3://bucket, gs://bucket or az://container",
    );
    let region = section.required::<Region>("region", "name the region, for example \"eu-1\"");
    let accept_without_conditional_create = section.or("accept_without_conditional_create", false);
    let provider = section.optional::<ProviderName>("provider");
    let options = section.section("options").map(|options| {
        let pairs = options.free_texts::<String>();
        options.finish(&[]);
        pairs.into_iter().collect()
    });
    section.finish(&REFUSED);
    Some(ReplicaConfig {
        url: url?,
        region: region?,
        options: options.unwrap_or_default(),
        accept_without_conditional_create,
        provider,
    })
}

const RECIPIENT_ROLES: [(&str, RecipientRole); 3] = [
    ("drill", RecipientRole::Drill),
    ("recovery", RecipientRole::Recovery),
    ("escrow", RecipientRole::Escrow),
];

fn read_recipients(section: Section<'_, '_>, beside: &mut Gathered) -> Option<Vec<SealedTo>> {
    let Some(file) = section.optional::<PathBuf>("file") else {
        return read_recipient_lists(section);
    };
    section.finish(&[
        ("drill", "stands beside `file`: keep one of the two"),
        ("recovery", "stands beside `file`: keep one of the two"),
        ("escrow", "stands beside `file`: keep one of the two"),
    ]);
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) => {
            beside.problems.push(Problem {
                file,
                line: 0,
                path: String::new(),
                what: format!(
                    "cannot be read ({error}): name the recipients' file that `holdfast keys generate` wrote"
                ),
            });
            return None;
        }
    };
    let (recipients, gathered) = Document::read(file, &text, read_recipient_lists);
    beside.problems.extend(gathered.problems);
    beside.settings.extend(gathered.settings);
    recipients
}

fn read_recipient_lists(section: Section<'_, '_>) -> Option<Vec<SealedTo>> {
    let mut recipients = Vec::new();
    let mut sound = true;
    for (key, role) in RECIPIENT_ROLES {
        let listed: Vec<String> = section.list(key);
        for recipient in listed {
            if let Err(why) = recipient.parse::<age::x25519::Recipient>() {
                section.complain(
                    key,
                    format!("{recipient:?} is not an age recipient ({why}): it begins with age1"),
                );
                sound = false;
            }
            recipients.push(SealedTo { role, recipient });
        }
    }
    // A drill alone could never open what is sealed as a secret.
    if !recipients.iter().any(|r| r.role == RecipientRole::Recovery) {
        section.complain(
            "recovery",
            "is empty: without a recovery recipient nobody could restore secrets",
        );
        sound = false;
    }
    section.finish(&REFUSED);
    sound.then_some(recipients)
}

fn read_coordinator(section: Section<'_, '_>) -> Option<CoordinatorConfig> {
    let url = section.required::<String>("url", "write it as https://host:port");
    let standbys = section.list::<String>("standbys");
    let named = url
        .iter()
        .map(|url| ("url", url))
        .chain(standbys.iter().map(|url| ("standbys", url)));
    for (key, url) in named.filter(|(_, url)| !url.starts_with("https://")) {
        section.complain(
            key,
            format!("{url:?} is not an https address: write it as https://host:port"),
        );
    }
    let ca = section.required("ca", "name the file of the certificate authority");
    let cert = section.optional::<PathBuf>("cert");
    let key = section.optional::<PathBuf>("key");
    let token_file = section.optional::<PathBuf>("enrolment_token_file");
    let certificate = match (cert, key) {
        (None, None) => Some(CertificateSource::Kept { token_file }),
        (Some(cert), Some(key)) => {
            if token_file.is_some() {
                section.complain(
                    "enrolment_token_file",
                    "stands beside cert and key: keep it, or keep the two",
                );
            }
            Some(CertificateSource::Files { cert, key })
        }
        (cert, _) => {
            let (has, lacks) = if cert.is_some() {
                ("cert", "key")
            } else {
                ("key", "cert")
            };
            section.complain(
                lacks,
                format!(
                    "is missing beside {has}: name both files, or none, and the agent enrols with a token"
                ),
            );
            None
        }
    };
    section.finish(&REFUSED);
    Some(CoordinatorConfig {
        urls: std::iter::once(url?).chain(standbys).collect(),
        ca: ca?,
        certificate: certificate?,
    })
}

fn read_cluster(section: Section<'_, '_>, coordinated: bool, places: &[Place]) -> Option<ClusterConfig> {
    let id = section.required::<ClusterId>("cluster", "write it as TENANT/CLUSTER, for example \"acme/erp\"");
    let tier = section.required::<TierName>("tier", "name the tier, for example \"gold\"");
    // A coordinator's policy may have tiers of its own; alone, the agent knows
    // the shipped ones.
    if let Some(tier) = tier.as_ref().filter(|tier| !Tier::shipped().contains_key(*tier))
        && !coordinated
    {
        let known: Vec<&str> = Tier::shipped().keys().map(TierName::as_str).collect();
        section.complain(
            "tier",
            format!(
                "{:?} is none of the shipped tiers ({}): correct it, or add the [coordinator] whose policy has it",
                tier.as_str(),
                known.join(", ")
            ),
        );
    }
    let postgres = section.required::<PgTarget>(
        "postgres",
        "write how to connect, for example \"host=/run/postgresql user=holdfast dbname=postgres\"",
    );
    let labels = section.section("labels").map(read_labels);
    let residency = read_residency(&section, places);
    let data_directory = section.optional("data_directory");
    let feed = match section.or("wal", "stream".to_owned()).as_str() {
        "stream" => Some(Feed::Stream),
        "archive" => Some(Feed::Archive),
        other => {
            section.complain(
                "wal",
                format!("{other:?} is not where WAL comes from: write \"stream\" (a slot) or \"archive\" (archive_command)"),
            );
            None
        }
    };
    let slot = section.or("slot", "holdfast".parse().expect("it is a slot's name"));
    let valve = match section.section("wal_valve") {
        Some(valve) => read_valve(valve),
        None => {
            let shipped = ValveLimits::default();
            section.show_default("wal_valve.one_copy_at", &shipped.one_copy_at);
            section.show_default("wal_valve.give_up_at", &shipped.give_up_at);
            Some(shipped)
        }
    };
    let lineage = AskedLineage {
        system: section.optional("system_identifier"),
        generation: section.optional("generation"),
    };
    let take_over = section.optional("take_over");
    let peers = section.list("peers");
    let promoted_timeline = section.optional("promoted_timeline").and_then(TimelineId::new);
    let filestores: Vec<Option<FilestoreConfig>> = section
        .sections("filestore")
        .into_iter()
        .map(read_filestore)
        .collect();
    let mut seen = BTreeSet::new();
    for filestore in filestores.iter().flatten() {
        if !seen.insert(&filestore.name) {
            section.complain(
                "filestore",
                format!("{} stands there twice: remove one", filestore.name),
            );
        }
    }
    let references = references::read_all(&section);
    let reference_interval = section.or("reference_interval", Duration::from_secs(3600));
    let configuration = section.section("configuration").map(|section| {
        let files = section.list("files");
        let secret_files = section.list("secret_files");
        section.finish(&[]);
        ConfigurationConfig { files, secret_files }
    });
    section.finish(&[
        (
            "password",
            "a password never stands here: write it to a file and name that as password_file=… in `postgres`",
        ),
        ("identity", NO_IDENTITY),
    ]);
    Some(ClusterConfig {
        id: id?,
        tier: tier?,
        labels: labels.unwrap_or_default(),
        residency,
        postgres: postgres?,
        data_directory,
        feed: feed?,
        slot,
        valve: valve?,
        lineage,
        take_over,
        peers,
        promoted_timeline,
        filestores: filestores.into_iter().collect::<Option<_>>()?,
        configuration: configuration.unwrap_or_default(),
        references: references?,
        reference_interval,
    })
}

/// Where a cluster's data may lie; a replica that lies elsewhere is a problem.
fn read_residency(cluster: &Section<'_, '_>, places: &[Place]) -> Option<Residency> {
    let section = cluster.section("residency")?;
    let name = section.or("zone", "configured".parse().expect("it is a zone's name"));
    let residency = Residency {
        name,
        regions: section.list::<Region>("regions").into_iter().collect(),
        providers: section.list::<ProviderName>("providers").into_iter().collect(),
    };
    if residency.regions.is_empty() {
        section.complain("regions", "allows no region: write regions = [\"eu-west\"]");
    }
    section.finish(&[]);
    for outside in places
        .iter()
        .filter_map(|place| residency.admits(Use::Bind, place).err())
    {
        cluster.complain("residency", outside.to_string());
    }
    Some(residency)
}

fn read_labels(section: Section<'_, '_>) -> Labels {
    let mut labels = Vec::new();
    for (key, value) in section.free_texts::<LabelText>() {
        match key.parse::<LabelText>() {
            Ok(name) => labels.push((name, value)),
            Err(why) => section.complain(&key, why.to_string()),
        }
    }
    section.finish(&[]);
    labels.into_iter().collect()
}

fn read_valve(section: Section<'_, '_>) -> Option<ValveLimits> {
    let shipped = ValveLimits::default();
    let one_copy_at = section.or("one_copy_at", shipped.one_copy_at);
    let give_up_at = section.or("give_up_at", shipped.give_up_at);
    let sound = (1..=99).contains(&one_copy_at) && (one_copy_at..=100).contains(&give_up_at);
    if !sound {
        section.complain(
            "give_up_at",
            format!(
                "one_copy_at = {one_copy_at} and give_up_at = {give_up_at} are percents of the volume of pg_wal in use: \
                 write 1 to 99, and at least as much for give_up_at (100 is never)"
            ),
        );
    }
    section.finish(&[]);
    sound.then_some(ValveLimits {
        one_copy_at,
        give_up_at,
        ..shipped
    })
}

fn read_filestore(section: Section<'_, '_>) -> Option<FilestoreConfig> {
    let name = section.required("name", "name the filestore, for example \"attachments\"");
    let path = section.required("path", "name its directory");
    let adapter = match section.required::<String>("adapter", "write \"odoo\", or \"none\" for a plain tree")
    {
        Some(text) if text == "odoo" => Some(AdapterKind::Odoo),
        Some(text) if text == "none" => Some(AdapterKind::None),
        Some(text) => {
            section.complain(
                "adapter",
                format!("{text:?} is not an adapter: write \"odoo\" or \"none\""),
            );
            None
        }
        None => None,
    };
    let database = section.optional("database");
    if adapter == Some(AdapterKind::Odoo) && database.is_none() {
        section.complain(
            "database",
            "is missing: name the database whose ir_attachment names the files",
        );
    }
    let collector_delay = section.optional("collector_delay");
    let full_sweep = section.or("full_sweep", Duration::from_secs(3600));
    section.finish(&[]);
    Some(FilestoreConfig {
        name: name?,
        path: path?,
        adapter: adapter?,
        database,
        collector_delay,
        full_sweep,
    })
}

#[cfg(test)]
mod tests;
