//! One cluster while the agent is its writer.
//!
//! [`Session::begin`] settles what everything else rests on, in this order: whom to
//! trust, which server this is and which lineage it writes, the lease, the keys.
//! Then the session's parts run side by side: the WAL line, fences, jobs. When a
//! part fails for good the session ends and another is begun after a pause; when
//! the lease is lost it is not.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_proto::Timestamp;
use holdfast_proto::envelope::Link;
use holdfast_proto::finding::Severity;
use holdfast_proto::message::{BaseFacts, Work};
use holdfast_proto::names::{ActorName, Lineage};
use holdfast_proto::pg::TimelineId;
use holdfast_proto::record::{BaseBody, TrustRole};
use holdfast_repository::keyring::KeyError;
use holdfast_repository::layout::{self, Located};
use holdfast_repository::listing::ListError;
use holdfast_repository::publisher::Publisher;
use holdfast_repository::replica::explained;
use holdfast_repository::signed::ReadError;
use holdfast_repository::trust::{LoadError, SignerRefused, Trust};
use tokio_util::sync::CancellationToken;

use super::Agent;
use super::board::Board;
use super::directives::Numbers;
use super::keys::Keys;
use super::lease::{Claimant, LeaseError};
use super::lineage::{self, LineageError};
use super::made::{Made, Piece};
use super::nodes;
use super::schedule::NewestBase;
use crate::base::{self, BaseContext};
use crate::bundle::Bundling;
use crate::config::ClusterConfig;
use crate::durable::LocalFileError;
use crate::filestore::{Asked, Filestore, Writing};
use crate::findings::Findings;
use crate::postgres::{
    PgError, ReplicationConnection, SystemIdentity, followed_by_standby, identity_by_sql, sql_connect,
};
use crate::progress::Meter;
use crate::state::{ClusterState, StateError};
use crate::wal::push::Feed;
use crate::wal::{Examined, Following, FrontierPublisher, WalFrontier, frontier};

/// zstd's level for base backups.
const BASE_LEVEL: i32 = 1;
/// How long the WAL of a base backup may take to be safe.
const WAL_PATIENCE: Duration = Duration::from_secs(600);

/// Why a session did not begin.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The trust chain.
    #[error(transparent)]
    Trust(#[from] LoadError),
    /// The agent's own key.
    #[error("the agent may not write for this cluster: {0}")]
    Signer(#[from] SignerRefused),
    /// The server.
    #[error(transparent)]
    Server(#[from] PgError),
    /// The lineage.
    #[error(transparent)]
    Lineage(#[from] LineageError),
    /// The lease.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The server is a standby, and another node's agent writes.
    #[error("the server is a standby: this agent writes when it is promoted")]
    Standby,
    /// Another node's agent writes, and this server is no newer.
    #[error(
        "agent {holder} writes for this cluster, and this server's timeline {timeline} is not newer than what is \
         archived. Either it is a primary that was left behind: stop it, or make it a standby. Or `postgres` names the very \
         server that {holder} protects: look there before anything is stopped, and name this node's own server. If \
         this is the primary and {holder} does not write, take_over = \"{holder}\" below [[cluster]] takes its lease"
    )]
    PeerWrites {
        /// Who.
        holder: ActorName,
        /// The server's timeline.
        timeline: TimelineId,
    },
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The bases that are there.
    #[error(transparent)]
    List(#[from] ListError),
    /// The newest base.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The agent's memory.
    #[error(transparent)]
    Local(#[from] LocalFileError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
}

/// One cluster while the agent is its writer.
pub struct Session {
    /// The agent.
    pub agent: Arc<Agent>,
    /// The cluster's configuration.
    pub config: ClusterConfig,
    /// Its local memory.
    pub state: ClusterState,
    /// The line of descent written.
    pub lineage: Lineage,
    /// The keys sealed to.
    pub keys: Keys,
    /// The tier's numbers.
    pub numbers: Numbers,
    /// How far the WAL is safe.
    pub frontier: WalFrontier,
    /// Facts for heartbeats.
    pub board: Board,
    /// What is wrong.
    pub findings: Findings,
    /// The filestores; whoever captures holds them.
    pub filestores: tokio::sync::Mutex<Vec<Filestore>>,
    publisher: Publisher,
    /// Whom to believe.
    pub trust: Arc<Trust>,
    trust_needs: Vec<Link>,
    base: Mutex<Option<(NewestBase, Link)>>,
    config_bundle: Mutex<Option<Link>>,
}

impl Session {
    /// Says on the board and in the next attestation what is known of a filestore.
    pub fn note_filestore(&self, filestore: &Filestore) {
        let facts = filestore.facts().clone();
        if let Some(until) = filestore.whole_until() {
            self.frontier.note_captured(&facts.filestore, until);
        }
        self.board.set_filestore(facts);
    }

    /// Settles what a session rests on.
    pub async fn begin(
        agent: Arc<Agent>,
        config: ClusterConfig,
        numbers: Numbers,
        board: Board,
        findings: Findings,
        following: &Following,
    ) -> Result<(Arc<Self>, FrontierPublisher), SessionError> {
        let state = agent.state.cluster(&config.id)?;
        let root = agent.trust_root();
        let trust = Trust::load(&agent.repository, &root).await?;
        trust.check(&agent.signer.fingerprint(), &[TrustRole::Agent], Some(&config.id))?;
        for finding in trust.findings() {
            findings.note(finding.clone());
        }
        let identity = identify(&config, following).await?;
        let mut publisher = Publisher {
            repository: agent.repository.clone(),
            cluster: config.id.clone(),
            signer: agent.signer.clone(),
            lease: None,
            copies: numbers.copies(),
        };
        enough_replicas(&publisher, &findings);
        let lineage = lineage::settle(&publisher, identity.system, config.lineage, &state).await;
        let lineage = lineage.inspect_err(|error| {
            if matches!(error, LineageError::WrongSystem { .. }) {
                let detail = error.to_string();
                findings.raise(Severity::Critical, "wrong-system", config.id.to_string(), detail);
            }
        })?;
        let promoted =
            !config.peers.is_empty() && nodes::is_promoted(&publisher, lineage, identity.timeline).await?;
        let may_replace = |holder: &ActorName| {
            config.take_over.as_ref() == Some(holder) || (promoted && config.peers.contains(holder))
        };
        let claimant = Claimant {
            publisher: &publisher,
            trust: &trust,
            name: &agent.config.name,
            state: &state,
            timeline: identity.timeline,
        };
        let examined = Examined {
            publisher: &publisher,
            lineage,
            target: &config.postgres,
            feed: config.feed,
            data_directory: config.data_directory.as_deref(),
            following,
        };
        let taken = claimant
            .take(may_replace, async || examined.examine().await)
            .await;
        let n = taken.map_err(|error| match error {
            LeaseError::Held { holder, .. } if config.peers.contains(&holder) => SessionError::PeerWrites {
                holder,
                timeline: identity.timeline,
            },
            other => other.into(),
        })?;
        publisher.lease = Some(n);
        let trust_needs = trust_needs(&publisher, &trust).await;
        let keys = Keys::ensure(&publisher, &agent.config.recipients, &state, &findings).await?;
        let base = newest_base(&publisher, &trust, lineage).await?;
        board.set_base(base.as_ref().map(|(facts, ..)| facts.clone()));

        let (publishing, frontier) = frontier();
        board.set_line(lineage, frontier.clone());
        let filestores = (config.filestores.iter())
            .map(|f| {
                let memory = state.filestore(&f.name);
                Filestore::new(
                    f.clone(),
                    memory,
                    agent.config.threads.get(),
                    findings.clone(),
                    Meter::default(),
                )
            })
            .collect();
        let session = Self {
            agent,
            config,
            state,
            lineage,
            keys,
            numbers,
            frontier,
            board,
            findings,
            filestores: tokio::sync::Mutex::new(filestores),
            publisher,
            trust: Arc::new(trust),
            trust_needs,
            base: Mutex::new(base.map(|(_, newest, link)| (newest, link))),
            config_bundle: Mutex::new(None),
        };
        Ok((Arc::new(session), publishing))
    }

    /// What findings about the cluster as a whole are about.
    pub fn subject(&self) -> String {
        self.config.id.to_string()
    }

    /// Whether a coordinator decides when work is due.
    pub fn is_coordinated(&self) -> bool {
        self.agent.is_coordinated()
    }

    /// The publisher, with the copies that the tier in force asks for.
    pub fn publisher(&self) -> Publisher {
        Publisher {
            copies: self.numbers.copies(),
            ..self.publisher.clone()
        }
    }

    /// The newest base backup of the lineage.
    pub fn newest_base(&self) -> Option<(NewestBase, Link)> {
        self.base.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The newest configuration bundle, once it was captured.
    pub fn config_bundle(&self) -> Option<Link> {
        self.config_bundle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// With what filestores are written now.
    pub fn writing(&self) -> Writing {
        let mut needs = self.trust_needs.clone();
        needs.extend(self.keys.needs());
        Writing {
            publisher: self.publisher(),
            trust: self.trust.clone(),
            key: self.keys.data().key,
            index_key: Arc::new(self.keys.index.key.clone()),
            needs,
        }
    }

    /// Does one piece of work.
    pub async fn perform(&self, work: Work, meter: Meter, cancel: CancellationToken) -> Result<Made, String> {
        let done = match work {
            Work::BaseBackup => self.base_backup(meter, cancel).await,
            Work::FilestoreCheckpoint => self.checkpoint(meter, cancel).await,
            Work::Configuration => self.configuration(cancel).await,
        };
        done.map_err(|error| explained(error.as_ref()))
    }

    async fn base_backup(&self, meter: Meter, cancel: CancellationToken) -> Result<Made, Failed> {
        self.until_wal_flows(&cancel).await?;
        let context = BaseContext {
            publisher: self.publisher(),
            key: self.keys.data(),
            index_key: self.keys.index.clone(),
            needs: self.trust_needs.clone(),
            target: self.config.postgres.clone(),
            data_dir: self.data_directory().await?,
            lineage: self.lineage,
            previous: self.newest_base().map(|(_, link)| link),
            frontier: self.frontier.clone(),
            wal_patience: WAL_PATIENCE,
            threads: self.agent.config.threads.get(),
            level: BASE_LEVEL,
            meter,
            cancel,
        };
        let made = match base::run(&context).await {
            Ok(made) => made,
            Err(error) => {
                self.findings.note(error.finding(&self.subject()));
                return Err(error.into());
            }
        };
        self.findings.clear("base-backup-failed", &self.subject());
        self.findings.renew(&base::ABOUT_THE_COPY, made.findings);
        let (facts, newest) = facts_of(&made.body);
        self.board.set_base(Some(facts));
        *self.base.lock().unwrap_or_else(PoisonError::into_inner) = Some((newest, made.link));
        Ok(Made {
            text: format!("base backup {}", made.id),
            pieces: vec![Piece::BaseBackup { id: made.id }],
        })
    }

    /// Waits until WAL comes: before that a base could not become consistent.
    async fn until_wal_flows(&self, cancel: &CancellationToken) -> Result<(), Failed> {
        let mut frontier = self.frontier.clone();
        let flowing = async {
            while !frontier.current().is_some_and(|state| state.flows) {
                frontier.changed().await?;
            }
            Ok::<_, Failed>(())
        };
        tokio::select! {
            done = tokio::time::timeout(Duration::from_secs(120), flowing) => {
                done.map_err(|_| "no WAL has come for two minutes, so a base backup could not become consistent: look at the findings about WAL")?
            }
            () = cancel.cancelled() => Err("the agent is stopping".into()),
        }
    }

    async fn data_directory(&self) -> Result<PathBuf, Failed> {
        if let Some(directory) = &self.config.data_directory {
            return Ok(directory.clone());
        }
        let client = sql_connect(&self.config.postgres).await?;
        let row = client
            .query_one(
                "SELECT setting FROM pg_settings WHERE name = 'data_directory'",
                &[],
            )
            .await?;
        Ok(PathBuf::from(row.try_get::<_, String>(0)?))
    }

    async fn checkpoint(&self, meter: Meter, cancel: CancellationToken) -> Result<Made, Failed> {
        let asked = Asked {
            sweep: true,
            checkpoint: true,
        };
        let mut filestores = tokio::select! {
            filestores = self.filestores.lock() => filestores,
            () = cancel.cancelled() => return Err("the agent is stopping".into()),
        };
        if filestores.is_empty() {
            return Err("the cluster has no filestore in the agent's configuration".into());
        }
        let writing = self.writing();
        let mut pieces = Vec::new();
        let mut said = Vec::new();
        for filestore in filestores.iter_mut() {
            filestore.count_with(meter.clone());
            let captured = tokio::select! {
                captured = filestore.capture(&writing, asked) => captured?,
                () = cancel.cancelled() => return Err("the agent is stopping".into()),
            };
            self.note_filestore(filestore);
            let name = filestore.config().name.clone();
            said.push(format!("{name} entry {}", captured.journal.n));
            pieces.push(Piece::Filestore {
                filestore: name,
                entry: captured.journal.n,
                files: captured.files,
                bytes: captured.bytes,
                unread: captured.unproven.unread(),
            });
        }
        Ok(Made {
            text: said.join(", "),
            pieces,
        })
    }

    async fn configuration(&self, cancel: CancellationToken) -> Result<Made, Failed> {
        let (publisher, data_key, secrets_key) = (self.publisher(), self.keys.data(), self.keys.secrets());
        let bundling = Bundling {
            publisher: &publisher,
            trust: &self.trust,
            data_key: &data_key,
            secrets_key: &secrets_key,
            needs: &self.trust_needs,
            index_key: Arc::new(self.keys.index.key.clone()),
            target: &self.config.postgres,
            data_directory: self.config.data_directory.as_deref(),
            configuration: &self.config.configuration,
            findings: &self.findings,
            memory: self.state.bundles(),
        };
        let bundled = tokio::select! {
            bundled = bundling.capture() => bundled?,
            () = cancel.cancelled() => return Err("the agent is stopping".into()),
        };
        *self.config_bundle.lock().unwrap_or_else(PoisonError::into_inner) = Some(bundled.config.link);
        let text = match bundled.written.as_slice() {
            [] => format!("bundle {} is still current", bundled.config.id),
            written => format!(
                "{} {}",
                if written.len() == 1 { "bundle" } else { "bundles" },
                written
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        };
        let secrets = bundled.secrets.as_ref().map(|newest| newest.id);
        let pieces = std::iter::once(bundled.config.id)
            .chain(secrets)
            .map(|id| Piece::Bundle {
                id,
                written: bundled.written.contains(&id),
            })
            .collect();
        Ok(Made { text, pieces })
    }
}

/// An error of work, for a person.
type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Which server this is. Beside peers, and where nothing streams, it is no standby.
async fn identify(config: &ClusterConfig, following: &Following) -> Result<SystemIdentity, SessionError> {
    let identity = match config.feed {
        Feed::Archive => identity_by_sql(&config.postgres).await?,
        Feed::Stream => {
            let mut connection = ReplicationConnection::connect(&config.postgres).await?;
            let identity = connection.identify_system().await?;
            let waits = !config.peers.is_empty() && connection.in_recovery() == Some(true);
            (!waits).then_some(identity)
        }
    };
    if let Some(identity) = identity {
        return Ok(identity);
    }
    if let Some(seen) = followed_by_standby(&config.postgres, config.data_directory.as_deref()).await? {
        following.note(seen);
    }
    Err(SessionError::Standby)
}

/// Says so when the tier wants more copies than there are replicas: then nothing is
/// ever acknowledged.
fn enough_replicas(publisher: &Publisher, findings: &Findings) {
    let (replicas, subject) = (
        publisher.repository.replicas().len(),
        publisher.cluster.to_string(),
    );
    if publisher.copies > replicas {
        findings.raise(
            Severity::Critical,
            "too-few-replicas",
            subject,
            format!(
                "the tier wants {} copies and the repository has {replicas} replicas, so nothing is ever acknowledged: \
                 add a replica, or choose another tier",
                publisher.copies
            ),
        );
    } else {
        findings.clear("too-few-replicas", &subject);
    }
}

/// Brings the trust records to every replica. What is there already needs no
/// further look; otherwise every publication looks.
async fn trust_needs(publisher: &Publisher, trust: &Trust) -> Vec<Link> {
    let records = trust.records();
    let prepared = publisher
        .repository
        .replicas()
        .iter()
        .map(|replica| publisher.prepare(replica, records));
    if futures::future::join_all(prepared)
        .await
        .iter()
        .all(Result::is_ok)
    {
        Vec::new()
    } else {
        records.to_vec()
    }
}

async fn newest_base(
    publisher: &Publisher,
    trust: &Trust,
    lineage: Lineage,
) -> Result<Option<(BaseFacts, NewestBase, Link)>, SessionError> {
    let repository = &publisher.repository;
    let listing = repository
        .list(&layout::bases(&publisher.cluster, lineage))
        .await?;
    let newest = (listing.keys())
        .filter_map(|key| match layout::parse(key.as_str()) {
            Some(Located::Base { id, .. }) => Some((id, key)),
            _ => None,
        })
        .max();
    let Some((_, key)) = newest else { return Ok(None) };
    let (signed, _) = repository.read_signed::<BaseBody>(key, trust).await?;
    let (facts, newest) = facts_of(signed.body());
    Ok(Some((facts, newest, signed.link())))
}

fn facts_of(body: &BaseBody) -> (BaseFacts, NewestBase) {
    let facts = BaseFacts {
        id: body.id,
        stopped: body.stopped,
    };
    let newest = NewestBase {
        stopped: body.stopped,
        start: body.start_lsn,
        timeline: body.timeline,
    };
    (facts, newest)
}

/// Raises the finding that a cluster is not protected at this moment.
pub fn unprotected(findings: &Findings, subject: &str, why: &str) {
    findings.raise(
        Severity::Critical,
        "cluster-not-protected",
        subject,
        format!("{why}. The agent tries again"),
    );
}

/// The moment, by the agent's clock.
pub fn now() -> Timestamp {
    Timestamp::from_chrono(chrono::Utc::now())
}
