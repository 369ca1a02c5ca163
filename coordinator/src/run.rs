//! Starting and stopping.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_plan::lead::Candidate;
use holdfast_plan::policy::ResidencyRefused;
use holdfast_proto::finding::Severity;
use holdfast_proto::record::KeyAlgorithm;
use holdfast_proto::residency::Use;
use holdfast_repository::probe::ProbeError;
use holdfast_repository::secret_file::{self, SecretFileError};
use holdfast_repository::signing::{SigningError, SigningKey};
use holdfast_repository::{Deadlines, OpenError, Repository};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::cache::{Cache, CacheError};
use crate::config::{CoordinatorConfig, EnrolmentConfig};
use crate::desk::{Desk, State, now};
use crate::docket::Dockets;
use crate::governing::Governing;
use crate::lead::Lead;
use crate::loops::evidence::EvidenceKeeping;
use crate::loops::lead::Campaign;
use crate::pki::PkiError;
use crate::pki::issuing::AgentAuthority;
use crate::server::accept::Door;
use crate::server::agents::Issuing;
use crate::server::evidence::EvidenceShowing;
use crate::server::ledger::{LedgerReading, Ledgers};
use crate::server::served::Served;
use crate::server::tls::TlsError;
use crate::server::{accept, agents, pages, tls};
use crate::supervise::{Ended, Exit, Supervisor};
use crate::{loops, memory};

/// How long tasks may take to end.
const PATIENCE: Duration = Duration::from_secs(8);

/// Why the coordinator does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The repository cannot be opened.
    #[error(transparent)]
    Repository(#[from] OpenError),
    /// A store does not do what a repository needs.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// A key cannot be used.
    #[error(transparent)]
    Key(#[from] SigningError),
    /// A key of the wrong kind.
    #[error("the {what} must be {wanted}: generate it with `holdfast keys generate --coordinator NAME`")]
    KeyKind {
        /// Which.
        what: &'static str,
        /// What it must be.
        wanted: &'static str,
    },
    /// Data may not be in every region of the repository.
    #[error("{}", lines(.0))]
    Residency(Vec<ResidencyRefused>),
    /// The rules of access name something that cannot be read.
    #[error("{0}")]
    Access(String),
    /// Certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The authority over agents cannot be used.
    #[error(transparent)]
    Issuing(#[from] PkiError),
    /// Its key cannot be read.
    #[error("the authority over agents: {0}; `holdfast coordinator issuer` makes one")]
    IssuingKey(#[from] SecretFileError),
    /// The state directory cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// An address cannot be listened on.
    #[error("{address} cannot be listened on for {what}: {source}; is another coordinator running?")]
    Listen {
        /// For whom.
        what: &'static str,
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A task that must not end has ended.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// A defect.
    #[error("the cache could not be opened: {0}")]
    Panicked(String),
}

fn lines(refused: &[ResidencyRefused]) -> String {
    let lines: Vec<String> = refused.iter().map(ToString::to_string).collect();
    format!(
        "the repository cannot be bound, because of where its replicas are: correct the replicas, or the policy's \
         [[residency]]\n{}",
        lines.join("\n")
    )
}

/// The coordinator's process.
pub struct Coordinator {
    desk: Arc<Desk>,
    campaign: Campaign,
    cache: Cache,
    tls: TlsAcceptor,
    peoples_door: Door,
    served: Arc<[Arc<Served>]>,
    issuing: Option<Arc<Issuing>>,
    agents: Arc<TcpListener>,
    people: Arc<TcpListener>,
    access: Arc<Access>,
    evidence: Evidence,
    reading: Option<LedgerReading>,
}

/// Whoever keeps and shows the evidence; without them drills cannot be sealed,
/// and there are no pages of them.
#[derive(Clone, Default)]
pub struct Evidence {
    /// Keeps the log.
    pub keeping: Option<EvidenceKeeping>,
    /// Shows it.
    pub showing: Option<EvidenceShowing>,
}

impl Coordinator {
    /// With somebody who keeps and shows the evidence.
    pub fn with_evidence(self, evidence: Evidence) -> Self {
        Self { evidence, ..self }
    }

    /// With somebody who reads what the repository holds of a cluster; without, its page
    /// shows the newest alone.
    pub fn with_ledger(self, reading: LedgerReading) -> Self {
        Self {
            reading: Some(reading),
            ..self
        }
    }

    /// Opens the repository, the cache and both listeners. Nothing is answered
    /// yet.
    pub async fn start(config: CoordinatorConfig) -> Result<Self, RunError> {
        let signer = key(
            &config.signing_key,
            "signing key",
            KeyAlgorithm::EcdsaP256,
            "an ECDSA P-256 key",
        )?;
        if let Some(log_key) = &config.log_key {
            key(log_key, "log key", KeyAlgorithm::Ed25519, "an Ed25519 key")?;
        }
        let access = Access::new(config.access.clone(), config.http_tls.is_some());
        let access = Arc::new(access.map_err(RunError::Access)?);
        let issuing = match &config.enrolment {
            Some(enrolment) => Some(Arc::new(issuing(&config.signing_key, enrolment)?)),
            None => None,
        };
        let issuer = issuing.as_deref().map(Issuing::certificate_pem);
        let own = Served::read("listen_agents", &config.tls.cert, &config.tls.key)?;
        let tls = TlsAcceptor::from(tls::for_agents(Arc::clone(&own), &config.tls.client_ca, issuer)?);
        let mut served = vec![own];
        let peoples_door = match &config.http_tls {
            None => Door::Open,
            Some(files) => {
                let own = Served::read("listen_http", &files.cert, &files.key)?;
                served.push(Arc::clone(&own));
                Door::Tls(TlsAcceptor::from(tls::for_people(own)?))
            }
        };
        accept::allow_connections();
        let repository = Repository::open(&config.repository)
            .await?
            .with_deadlines(Deadlines::short());
        for finding in repository
            .probe(&config.name)
            .await?
            .iter()
            .flat_map(|p| p.findings(now()))
            .filter(|finding| finding.severity != Severity::Info)
        {
            // Agents report the same as findings of their clusters; this is for the log.
            tracing::warn!(
                name = finding.name,
                subject = finding.subject,
                detail = finding.detail,
                "finding"
            );
        }
        let (state_dir, id) = (config.state_dir.clone(), repository.id());
        let opened = tokio::task::spawn_blocking(move || Cache::open(&state_dir, id, now()))
            .await
            .map_err(|panic| RunError::Panicked(panic.to_string()))??;
        if let Some(why) = &opened.set_aside {
            tracing::warn!(why, "the cache was set aside and is begun anew");
        }
        let mut state = State::default();
        memory::restore(&opened.rows, &mut state);
        // The file may say another policy by now: the loop decides about it.
        let policy = memory::policy(&opened.rows).unwrap_or_else(|| config.policy.clone());
        let refused = policy.refusals(Use::Bind, &config.repository.places());
        if !refused.is_empty() {
            return Err(RunError::Residency(refused));
        }
        let governing = Governing::of(policy);
        let agents = listen("agents", config.listen_agents).await?;
        let people = listen("page, status and metrics", config.listen_http).await?;
        tracing::info!(
            coordinator = %config.name, repository = %repository.id(), policy = %governing.written().digest(),
            clusters = governing.policy().clusters().count(), agents = %config.listen_agents, http = %config.listen_http,
            "coordinator started"
        );
        if config.access.is_none() {
            tracing::info!(
                http = %config.listen_http,
                "there is no [access] section: whoever can connect from this machine may read everything"
            );
        }
        let lasts = Duration::from_millis(config.lease.millis());
        let lead = Lead::new(Candidate::new(lasts, 0), memory::nonce(&opened.rows));
        let desk = Arc::new(Desk::new(config, governing, repository, lead, state, now()));
        Ok(Self {
            desk,
            campaign: Campaign::new(signer),
            cache: opened.cache,
            tls,
            peoples_door,
            served: served.into(),
            issuing,
            agents,
            people,
            access,
            evidence: Evidence::default(),
            reading: None,
        })
    }

    /// Where agents call in: of use when the configuration asked for any port.
    pub fn agents_address(&self) -> std::io::Result<std::net::SocketAddr> {
        self.agents.local_addr()
    }

    /// Where page, status and metrics are served.
    pub fn http_address(&self) -> std::io::Result<std::net::SocketAddr> {
        self.people.local_addr()
    }

    /// Serves until `stop` is cancelled.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), RunError> {
        let Self {
            desk,
            campaign,
            cache,
            tls,
            peoples_door,
            served,
            issuing,
            agents,
            people,
            access,
            evidence,
            reading,
        } = self;
        // Ends what this call started, whoever asks for it.
        let stop = stop.child_token();
        let mut supervisor = Supervisor::new(stop.clone());
        let agents_share = agents::Agents {
            desk: Arc::clone(&desk),
            access: Arc::clone(&access),
            issuing,
        };
        let strangers = agents_share.issuing.is_some();
        let door = Door::Agents {
            tls,
            strangers: strangers.then(|| agents::strangers(agents_share.clone())),
        };
        let (router, token) = (agents::router(agents_share), stop.clone());
        supervisor.spawn("agents", Exit::Fatal, move || {
            accept::serve(Arc::clone(&agents), door.clone(), router.clone(), token.clone())
        });
        let people_share = pages::People {
            desk: Arc::clone(&desk),
            access,
            showing: evidence.showing,
            ledgers: Ledgers::new(reading),
            dockets: Dockets::default(),
        };
        let (router, token) = (pages::router(people_share), stop.clone());
        supervisor.spawn("pages", Exit::Fatal, move || {
            accept::serve(
                Arc::clone(&people),
                peoples_door.clone(),
                router.clone(),
                token.clone(),
            )
        });
        loops::start(
            &mut supervisor,
            &desk,
            &cache,
            campaign.clone(),
            evidence.keeping,
            served,
            &stop,
        );
        let ended = supervisor.run(PATIENCE).await;
        loops::lead::resign(campaign, Arc::clone(&desk)).await;
        if let Err(err) = loops::remember_last(cache, desk).await {
            tracing::warn!(err, "the last facts were not remembered");
        }
        tracing::info!("coordinator stopped");
        Ok(ended?)
    }
}

/// With what this coordinator issues certificates.
fn issuing(signing_key: &Path, config: &EnrolmentConfig) -> Result<Issuing, RunError> {
    let certificate = std::fs::read_to_string(&config.cert)
        .map_err(|e| PkiError::AgentAuthority(format!("{} cannot be read ({e})", config.cert.display())))?;
    let key = secret_file::read(&config.key)?;
    let authority = AgentAuthority::from_pem(&certificate, &key)?;
    Ok(Issuing::new(
        authority,
        config.lifetime,
        SigningKey::load(signing_key)?,
    ))
}

fn key(
    file: &std::path::Path,
    what: &'static str,
    algorithm: KeyAlgorithm,
    wanted: &'static str,
) -> Result<SigningKey, RunError> {
    let key = SigningKey::load(file)?;
    if key.algorithm() == algorithm {
        Ok(key)
    } else {
        Err(RunError::KeyKind { what, wanted })
    }
}

async fn listen(what: &'static str, address: std::net::SocketAddr) -> Result<Arc<TcpListener>, RunError> {
    TcpListener::bind(address)
        .await
        .map(Arc::new)
        .map_err(|source| RunError::Listen {
            what,
            address,
            source,
        })
}
