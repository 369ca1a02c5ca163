//! A fleet of thousands of clusters, made up but for everything that a coordinator
//! checks: a repository with keys, a trust chain that enrols every agent, a signed base
//! backup and signed WAL of every cluster on two replicas, a policy that names them all,
//! and a certificate for each agent.

pub mod driving;
pub mod report;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bytes::Bytes;
use holdfast_coordinator::pki::Authority;
use holdfast_proto::envelope::Record;
use holdfast_proto::names::{ActorName, BackupId, BundleId, ClusterId, Lineage, ObjectKey, TierName};
use holdfast_proto::pg::{Lsn, SegmentNumber, SegmentSize, TimelineId};
use holdfast_proto::record::{BaseBody, ChangeDetection, Totals, TrustRole, WalBody};
use holdfast_proto::{Fingerprint, Timestamp};
use holdfast_repository::authority;
use holdfast_repository::layout::{self, BundleKind, WalName};
use holdfast_repository::signed::Draft;
use holdfast_repository::signing::SigningKey;
use holdfast_repository::trust::{Trust, append, enrolment, genesis};
use holdfast_repository::{ReplicaConfig, Repository, RepositoryConfig};

/// Where the server of every cluster is.
pub const END: u64 = 5 * SEGMENT + 500;
const SEGMENT: u64 = 16 << 20;

/// Records of the trust chain hold so many enrolments.
const ENROLMENTS: usize = 1_000;
const TENANTS: usize = 40;
const REGIONS: [&str; 2] = ["east", "west"];

/// Payroll, month-end close and bids: what a fleet of such tenants would have.
const CALENDARS: &str = r#"
[[calendar]]
name = "payroll"
begins = "2024-01-01T18:00"
recurrence = "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-2"
duration = "36h"
tiers = ["gold"]
freeze = ["base_backup"]

[[calendar]]
name = "close"
begins = "2024-01-01T06:00"
recurrence = "FREQ=MONTHLY;BYMONTHDAY=1"
duration = "72h"
tiers = ["platinum"]
rpo = "10s"

[[calendar]]
name = "bids"
begins = "2024-01-01T00:00"
recurrence = "FREQ=WEEKLY;INTERVAL=10;BYDAY=MO"
duration = "100h"
tenants = ["t0", "t7"]
freeze = ["base_backup"]
"#;

/// One agent with its one cluster.
#[derive(Debug, Clone)]
pub struct Member {
    /// The agent.
    pub agent: ActorName,
    /// The cluster.
    pub cluster: ClusterId,
    /// Its lineage.
    pub lineage: Lineage,
    /// Its tier.
    pub tier: TierName,
    /// Its certificate (PEM) and key (PEM).
    pub identity: (String, String),
}

/// The fleet on disk.
#[derive(Debug)]
pub struct Fleet {
    /// Where.
    pub directory: PathBuf,
    /// The coordinators' configurations, in the order of their ports.
    pub configs: Vec<PathBuf>,
    /// Everyone in it.
    pub members: Vec<Member>,
    /// The repository.
    pub repository: Repository,
    /// What signs for every agent.
    pub key: SigningKey,
    /// From where everything is believed.
    pub root: Fingerprint,
}

/// What a fleet is to be.
#[derive(Debug, Clone)]
pub struct Design {
    /// How many clusters, each with an agent.
    pub clusters: usize,
    /// The policy; `None` for one of a large fleet.
    pub policy: Option<String>,
    /// Where each coordinator listens: for agents, and for people.
    pub ports: Vec<(u16, u16)>,
    /// Every cluster has been backed up.
    pub stored: bool,
    /// Lines more for the coordinators' configuration.
    pub settings: String,
}

fn tier(n: usize) -> &'static str {
    match n % 20 {
        0 => "platinum",
        1..4 => "gold",
        4..12 => "silver",
        _ => "bronze",
    }
}

/// The policy: every cluster by name, most of them with a schedule of their own.
fn policy(clusters: usize) -> String {
    let mut text = String::from("time_zone = \"Europe/Vienna\"\n[limits]\nper_store = 64\n");
    for tenant in 0..TENANTS {
        writeln!(text, "[[tenant]]\nname = \"t{tenant}\"").expect("a string takes text");
    }
    text.push_str(CALENDARS);
    for n in 0..clusters {
        let zone = ["Europe/Vienna", "Europe/Oslo", "America/New_York", "Asia/Kolkata"][n % 4];
        writeln!(
            text,
            "[[cluster]]\ncluster = \"t{}/c{n}\"\ntier = \"{}\"\ntime_zone = \"{zone}\"\n[cluster.schedule]\n\
             base_backup = \"{} {} * * {}\"",
            n % TENANTS,
            tier(n),
            n % 60,
            n % 6,
            n % 7,
        )
        .expect("a string takes text");
    }
    text
}

impl Fleet {
    /// Makes a fleet in an empty directory.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub async fn furnish(directory: &Path, design: &Design) -> Result<Self> {
        let now = holdfast_repository::clock::now();
        let root = SigningKey::generate_ed25519()?;
        let replica = |region: &str| -> Result<ReplicaConfig> {
            let place = directory.join(region);
            std::fs::create_dir_all(&place)?;
            Ok(ReplicaConfig::directory(region.parse()?, &place))
        };
        let config = RepositoryConfig {
            replicas: REGIONS.into_iter().map(replica).collect::<Result<_>>()?,
            trust_root: Some(root.fingerprint()),
        };
        let repository = Repository::init(&config, root.fingerprint(), now).await?;
        let authority = Authority::generate()?;
        let key = SigningKey::generate_ed25519()?;
        let members = (0..design.clusters)
            .map(|n| member(n, &authority))
            .collect::<Result<Vec<_>>>()?;
        let names = (1..=design.ports.len()).map(|n| format!("coordinator-{n}"));
        let coordinators = names.map(|name| Ok((name.parse()?, SigningKey::generate_p256()?)));
        let coordinators = coordinators.collect::<Result<Vec<(ActorName, SigningKey)>>>()?;
        let trust = enrol(&repository, &root, &key, &coordinators, &members, now).await?;
        let (at, bytes) = authority::record(&trust, None, &REGIONS[0].parse()?, &root);
        for replica in repository.replicas() {
            replica.create(&at, bytes.clone()).await?;
        }
        for member in members.iter().filter(|_| design.stored) {
            furnish_cluster(directory, &repository, member, &key, now)?;
        }
        std::fs::write(directory.join("ca.crt"), authority.certificate_pem())?;
        let policy = design.policy.clone().unwrap_or_else(|| policy(design.clusters));
        std::fs::write(directory.join("policy.toml"), policy)?;
        let mut configs = Vec::new();
        for ((name, key), ports) in coordinators.iter().zip(&design.ports) {
            let server = authority.issue_server(name, &["localhost".to_owned()])?;
            let file = |ending: &str| directory.join(format!("{name}.{ending}"));
            std::fs::write(file("crt"), &server.certificate_pem)?;
            std::fs::write(file("tls.key"), server.key_pem.as_bytes())?;
            key.save(&file("key"))?;
            let text = configuration(directory, name, *ports, &root.fingerprint().to_string());
            std::fs::write(file("toml"), format!("{}{text}", design.settings))?;
            configs.push(file("toml"));
        }
        Ok(Self {
            directory: directory.to_owned(),
            configs,
            members,
            repository,
            key,
            root: root.fingerprint(),
        })
    }
}

fn configuration(directory: &Path, name: &ActorName, (agents, people): (u16, u16), root: &str) -> String {
    let replicas = REGIONS.map(|region| {
        let url = format!("file://{}/{region}", directory.display());
        format!("{{ region = \"{region}\", url = \"{url}\" }}")
    });
    format!(
        "name = \"{name}\"\nlisten_agents = \"127.0.0.1:{agents}\"\nlisten_http = \"127.0.0.1:{people}\"\n\
         state_dir = \"state-{name}\"\npolicy = \"policy.toml\"\nsigning_key = \"{name}.key\"\n\
         [tls]\ncert = \"{name}.crt\"\nkey = \"{name}.tls.key\"\nclient_ca = \"ca.crt\"\n\
         [repository]\ntrust_root = \"{root}\"\nreplicas = [{}]\n",
        replicas.join(", ")
    )
}

fn member(n: usize, authority: &Authority) -> Result<Member> {
    let agent: ActorName = format!("agent-{n}").parse()?;
    let issued = authority.issue_agent(&agent)?;
    Ok(Member {
        cluster: format!("t{}/c{n}", n % TENANTS).parse()?,
        lineage: format!("{}-1", 7_000_000_000_000_000_000 + n as u64).parse()?,
        tier: tier(n).parse()?,
        identity: (issued.certificate_pem, issued.key_pem.to_string()),
        agent,
    })
}

/// Enrols every agent for its own cluster. Their objects are all signed by one key, which
/// is enrolled for the whole repository: what is measured is the coordinator's reading.
async fn enrol(
    repository: &Repository,
    root: &SigningKey,
    key: &SigningKey,
    coordinators: &[(ActorName, SigningKey)],
    members: &[Member],
    now: Timestamp,
) -> Result<Trust> {
    let put = async |(at, bytes): (ObjectKey, Vec<u8>)| -> Result<Trust> {
        for replica in repository.replicas() {
            replica.create(&at, bytes.clone().into()).await?;
        }
        Ok(Trust::load(repository, &root.fingerprint()).await?)
    };
    let mut trust = put(genesis(root, &"root".parse()?, repository.id(), now)?).await?;
    let mut acts = vec![enrolment(
        key.verifying(),
        &"writer".parse()?,
        TrustRole::Agent,
        &[],
    )];
    let role = TrustRole::Coordinator;
    acts.extend(
        coordinators
            .iter()
            .map(|(name, key)| enrolment(key.verifying(), name, role, &[])),
    );
    trust = put(append(&trust, acts, root, now)?).await?;
    for some in members.chunks(ENROLMENTS) {
        let acts = some.iter().map(|member| {
            let own = SigningKey::generate_ed25519()?;
            let cluster = std::slice::from_ref(&member.cluster);
            Ok(enrolment(
                own.verifying(),
                &member.agent,
                TrustRole::Agent,
                cluster,
            ))
        });
        let acts = acts.collect::<Result<Vec<_>>>()?;
        trust = put(append(&trust, acts, root, now)?).await?;
    }
    Ok(trust)
}

/// What the repository holds of a cluster. Written past the store, which would sync each
/// of tens of thousands of files.
fn furnish_cluster(
    directory: &Path,
    repository: &Repository,
    member: &Member,
    key: &SigningKey,
    now: Timestamp,
) -> Result<()> {
    let put = |at: ObjectKey, bytes: &[u8]| -> Result<()> {
        for region in REGIONS {
            let file = directory.join(region).join(at.as_str());
            std::fs::create_dir_all(file.parent().context("a key has a directory")?)?;
            std::fs::write(file, bytes)?;
        }
        Ok(())
    };
    let (at, bytes) = base_of(repository, member, key, now)?;
    put(at, &bytes)?;
    let (at, bytes) = wal_of(repository, member, key)?;
    put(at, &bytes)?;
    // Of a bundle only the moment counts at which it was stored.
    put(bundle_of(member, now), b"bundle")
}

/// The key of a bundle of settings.
pub fn bundle_of(member: &Member, now: Timestamp) -> ObjectKey {
    let bundle = BundleId::from_parts(now, rand::random());
    layout::bundle(&member.cluster, BundleKind::Config, bundle)
}

/// A base backup of a cluster: its commit point.
///
/// # Errors
/// None that depends on anything.
pub fn base_of(
    repository: &Repository,
    member: &Member,
    key: &SigningKey,
    now: Timestamp,
) -> Result<(ObjectKey, Bytes)> {
    let (cluster, lineage) = (&member.cluster, member.lineage);
    let start = 5 * SEGMENT + 40;
    let id = BackupId::from_parts(now, rand::random());
    let base = BaseBody {
        id,
        cluster: cluster.clone(),
        lineage,
        version_num: 150_020,
        segment_size: SegmentSize::new(SEGMENT).context("a segment's size")?,
        timeline: TimelineId::FIRST,
        start_lsn: Lsn::new(start),
        stop_lsn: Lsn::new(start + 100),
        started: now,
        stopped: now,
        detection: ChangeDetection::Full,
        page_checksums: true,
        pages_verified: 1,
        pages_bad: 0,
        tablespaces: vec![],
        totals: Totals::default(),
        parts: vec![],
        complete_on: REGIONS.iter().filter_map(|region| region.parse().ok()).collect(),
    };
    let at = layout::base(cluster, lineage, id);
    let bytes = signed(repository, &at, &base, b"", key);
    Ok((at, bytes))
}

/// The WAL of a cluster, up to where its server is.
///
/// # Errors
/// None that depends on anything.
pub fn wal_of(repository: &Repository, member: &Member, key: &SigningKey) -> Result<(ObjectKey, Bytes)> {
    let (cluster, lineage) = (&member.cluster, member.lineage);
    let name = WalName {
        timeline: TimelineId::FIRST,
        segment: SegmentNumber::new(5),
        start: Lsn::new(5 * SEGMENT),
        end: Lsn::new(END),
        latest_commit: None,
    };
    let wal = WalBody {
        system: lineage.system,
        version_num: 150_020,
        timeline: TimelineId::FIRST,
        segment_size: SegmentSize::new(SEGMENT).context("a segment's size")?,
        start: name.start,
        end: name.end,
        chunks: vec![],
        follows: None,
        last_commit: None,
        first_commit: None,
        latest_time: None,
        commits: 0,
        last_record: None,
        restore_points: vec![],
        after_gap: None,
    };
    let at = layout::wal(cluster, lineage, &name);
    let bytes = signed(repository, &at, &wal, b"wal", key);
    Ok((at, bytes))
}

fn signed<B: Record + Clone>(
    repository: &Repository,
    at: &ObjectKey,
    body: &B,
    payload: &[u8],
    key: &SigningKey,
) -> Bytes {
    Draft {
        repository: repository.id(),
        key: at.clone(),
        payload: payload.into(),
        sealed_to: None,
        lease: None,
        previous: None,
        body,
    }
    .sign(key)
    .bytes
}
