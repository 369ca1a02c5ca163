//! A whole installation in a temporary directory: two regions, keys, trust, a
//! coordinator on ports of its own, and agents that call it over mutual TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_coordinator::config::CoordinatorConfig;
use holdfast_coordinator::pki::Authority;
use holdfast_coordinator::{Coordinator, Evidence, LedgerReading, RunError};
use holdfast_plan::policy::Policy;
use holdfast_proto::Timestamp;
use holdfast_proto::envelope::Record;
use holdfast_proto::message::{ClusterFacts, Heartbeat, Orders, WalFacts};
use holdfast_proto::names::{ActorName, BackupId, ClusterId, Lineage, ObjectKey, Region};
use holdfast_proto::pg::{Lsn, SegmentNumber, SegmentSize, TimelineId};
use holdfast_proto::record::{BaseBody, ChangeDetection, FrontierBody, Totals, TrustRole, WalBody};
use holdfast_repository::layout::{self, WalName};
use holdfast_repository::signed::Draft;
use holdfast_repository::signing::SigningKey;
use holdfast_repository::trust::{Trust, append, enrolment, genesis};
use holdfast_repository::{ReplicaConfig, Repository, RepositoryConfig};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

pub const SEGMENT: u64 = 1 << 20;

pub fn cluster() -> ClusterId {
    "acme/erp".parse().unwrap()
}

pub fn lineage() -> Lineage {
    "7381234567890123456-1".parse().unwrap()
}

pub fn now() -> Timestamp {
    holdfast_repository::clock::now()
}

/// Polls until `check` gives something, for at most 30 seconds.
pub async fn wait_until<T, F>(what: &str, mut check: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let polled = async {
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        loop {
            tick.tick().await;
            if let Some(found) = check().await {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), polled)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// The installation.
pub struct House {
    _directory: tempfile::TempDir,
    pub root: PathBuf,
    pub repository: Repository,
    pub authority: Authority,
    pub agent_key: SigningKey,
    pub runner_key: SigningKey,
    /// Olga asks; Anna and Cem approve.
    pub people: [SigningKey; 3],
    pub config: CoordinatorConfig,
}

impl House {
    /// Agent `erp-1` is enrolled for acme/erp, `lab-1` for acme/lab, `gone-1`
    /// was enrolled and revoked, and runner `runner-1` is enrolled for all.
    pub async fn build(policy: &str) -> House {
        Self::build_with(policy, "").await
    }

    /// With more in the coordinator's configuration.
    pub async fn build_with(policy: &str, more: &str) -> House {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        let region = |name: &str| {
            std::fs::create_dir(root.join(name)).unwrap();
            ReplicaConfig::directory(name.parse().unwrap(), &root.join(name))
        };
        let root_key = SigningKey::generate_ed25519().unwrap();
        let repository_config = RepositoryConfig {
            replicas: vec![region("east"), region("west")],
            trust_root: Some(root_key.fingerprint()),
        };
        let repository = Repository::init(&repository_config, root_key.fingerprint(), now())
            .await
            .unwrap();
        let (agent_key, runner_key) = (
            SigningKey::generate_ed25519().unwrap(),
            SigningKey::generate_ed25519().unwrap(),
        );
        let people = [(); 3].map(|()| SigningKey::generate_ed25519().unwrap());
        let lab_key = SigningKey::generate_ed25519().unwrap();
        let gone_key = SigningKey::generate_ed25519().unwrap();
        let put = async |(key, bytes): (ObjectKey, Vec<u8>)| {
            for replica in repository.replicas() {
                replica.create(&key, bytes.clone().into()).await.unwrap();
            }
            Trust::load(&repository, &root_key.fingerprint()).await.unwrap()
        };
        let name = |name: &str| name.parse::<ActorName>().unwrap();
        let trust = put(genesis(&root_key, &name("root"), repository.id(), now()).unwrap()).await;
        let enrol = |key: &SigningKey, who: &str, role, clusters: &[ClusterId]| {
            enrolment(key.verifying(), &name(who), role, clusters)
        };
        let coordinator_key = SigningKey::generate_p256().unwrap();
        let acts = vec![
            enrol(&coordinator_key, "coordinator-1", TrustRole::Coordinator, &[]),
            enrol(&agent_key, "erp-1", TrustRole::Agent, &[cluster()]),
            enrol(
                &lab_key,
                "lab-1",
                TrustRole::Agent,
                &["acme/lab".parse().unwrap()],
            ),
            enrol(&gone_key, "gone-1", TrustRole::Agent, &[cluster()]),
            enrol(&runner_key, "runner-1", TrustRole::Runner, &[]),
            enrol(&people[0], "olga", TrustRole::Operator, &[]),
            enrol(&people[1], "anna", TrustRole::Approver, &[]),
            enrol(&people[2], "cem", TrustRole::Approver, &[]),
        ];
        let trust = put(append(&trust, acts, &root_key, now()).unwrap()).await;
        let revoke = holdfast_proto::record::TrustAct::Revoke {
            key: gone_key.fingerprint(),
            believed: vec![],
            reason: "lost".to_owned(),
        };
        let trust = put(append(&trust, vec![revoke], &root_key, now()).unwrap()).await;
        let (key, bytes) =
            holdfast_repository::authority::record(&trust, None, &"east".parse().unwrap(), &root_key);
        put((key, bytes.to_vec())).await;

        let authority = Authority::generate().unwrap();
        let server = authority
            .issue_server(&name("coordinator-1"), &["localhost".to_owned()])
            .unwrap();
        std::fs::write(root.join("c.crt"), &server.certificate_pem).unwrap();
        std::fs::write(root.join("c.tls.key"), server.key_pem.as_bytes()).unwrap();
        std::fs::write(root.join("ca.crt"), authority.certificate_pem()).unwrap();
        coordinator_key.save(&root.join("c.key")).unwrap();
        std::fs::write(root.join("policy.toml"), policy).unwrap();
        let text = format!(
            "name = \"coordinator-1\"\nlisten_agents = \"127.0.0.1:0\"\nlisten_http = \"127.0.0.1:0\"\n\
             state_dir = \"state\"\npolicy = \"policy.toml\"\nsigning_key = \"c.key\"\nreplicate_after = \"1s\"\n\
             [tls]\ncert = \"c.crt\"\nkey = \"c.tls.key\"\nclient_ca = \"ca.crt\"\n\
             [repository]\ntrust_root = \"{}\"\nreplicas = [{{ region = \"east\", url = \"file://{root}/east\" }}, \
             {{ region = \"west\", url = \"file://{root}/west\" }}]\n{more}",
            root_key.fingerprint(),
            root = root.display(),
        );
        std::fs::write(root.join("coordinator.toml"), text).unwrap();
        let config = CoordinatorConfig::load(&root.join("coordinator.toml")).unwrap();
        assert_eq!(config.policy, Policy::parse(policy, "p").unwrap());
        House {
            _directory: directory,
            root,
            repository,
            authority,
            agent_key,
            runner_key,
            people,
            config,
        }
    }

    /// Starts the coordinator.
    pub async fn open(&self) -> Running {
        self.open_with(Evidence::default()).await
    }

    /// With somebody who shows the evidence.
    pub async fn open_with(&self, evidence: Evidence) -> Running {
        let coordinator = Coordinator::start(self.config.clone()).await.unwrap();
        self.opened(coordinator.with_evidence(evidence)).await
    }

    /// With somebody who reads what the repository holds.
    pub async fn open_reading(&self, reading: LedgerReading) -> Running {
        let coordinator = Coordinator::start(self.config.clone()).await.unwrap();
        self.opened(coordinator.with_ledger(reading)).await
    }

    /// Whose people's listener has TLS: whoever asks finds out when it is ready.
    pub async fn open_over_tls(&self) -> Running {
        Running::of(Coordinator::start(self.config.clone()).await.unwrap())
    }

    async fn opened(&self, coordinator: Coordinator) -> Running {
        let running = Running::of(coordinator);
        wait_until("the coordinator to be ready", || async {
            (running.get("/healthz").await.0 == 200).then_some(())
        })
        .await;
        wait_until("the coordinator to lead", || async {
            let (status, body) = running.get("/v1/status").await;
            let body: Value = serde_json::from_str(&body).unwrap();
            // Where access is granted, not everyone may ask who leads.
            (status != 200 || body["leading"]["here"] == true).then_some(())
        })
        .await;
        running
    }

    /// An agent that can call.
    pub fn caller(&self, name: &str) -> Caller {
        let issued = self.authority.issue_agent(&name.parse().unwrap()).unwrap();
        Caller::new(name, &self.root, Some((&issued.certificate_pem, &issued.key_pem)))
    }

    async fn put<B: Record + Clone>(&self, key: ObjectKey, body: &B, payload: &[u8], regions: &[&str]) {
        let bytes = Draft {
            repository: self.repository.id(),
            key: key.clone(),
            payload: payload.into(),
            sealed_to: None,
            lease: None,
            previous: None,
            body,
        }
        .sign(&self.agent_key)
        .bytes;
        for region in regions {
            let replica = self
                .repository
                .replica(&region.parse::<Region>().unwrap())
                .unwrap();
            replica.create(&key, bytes.clone()).await.unwrap();
        }
    }

    /// A base backup that begins at `start`.
    pub async fn put_base(&self, n: u128, start: u64, regions: &[&str]) -> BackupId {
        let id = BackupId::from_parts(now(), n);
        let body = BaseBody {
            id,
            cluster: cluster(),
            lineage: lineage(),
            version_num: 150_020,
            segment_size: SegmentSize::new(SEGMENT).unwrap(),
            timeline: TimelineId::FIRST,
            start_lsn: Lsn::new(start),
            stop_lsn: Lsn::new(start + 100),
            started: now(),
            stopped: now(),
            detection: ChangeDetection::Full,
            page_checksums: true,
            pages_verified: 1,
            pages_bad: 0,
            tablespaces: vec![],
            totals: Totals::default(),
            parts: vec![],
            complete_on: regions.iter().map(|r| r.parse().unwrap()).collect(),
        };
        self.put(layout::base(&cluster(), lineage(), id), &body, b"", regions)
            .await;
        id
    }

    /// The agent's statement that the server was at `flush` and all of it is safe.
    pub async fn put_frontier(&self, at: Timestamp, flush: u64, regions: &[&str]) {
        let body = FrontierBody {
            timeline: TimelineId::FIRST,
            server_flush: Lsn::new(flush),
            acknowledged: Lsn::new(flush),
            copies: 2,
            replicas: vec![],
            rpo_ms: 0,
            heard_ms: Some(0),
            complete_until: Some(at),
            filestores: vec![],
            at,
        };
        self.put(layout::frontier(&cluster(), lineage(), at), &body, b"", regions)
            .await;
    }

    /// WAL from `start` to `end`.
    pub async fn put_wal(&self, start: u64, end: u64, regions: &[&str]) {
        let name = WalName {
            timeline: TimelineId::FIRST,
            segment: SegmentNumber::new(start / SEGMENT),
            start: Lsn::new(start),
            end: Lsn::new(end),
            latest_commit: None,
        };
        let body = WalBody {
            system: lineage().system,
            version_num: 150_020,
            timeline: TimelineId::FIRST,
            segment_size: SegmentSize::new(SEGMENT).unwrap(),
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
        self.put(layout::wal(&cluster(), lineage(), &name), &body, b"wal", regions)
            .await;
    }

    /// An entry of the evidence log: a DSSE envelope by the runner.
    pub async fn put_evidence(&self, n: u64, payload_type: &str, payload: Value) {
        use base64::Engine;
        let b64 = base64::engine::general_purpose::STANDARD;
        let payload = serde_json::to_vec(&payload).unwrap();
        let mut signed =
            format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
        signed.extend_from_slice(&payload);
        let envelope = serde_json::json!({
            "payload": b64.encode(&payload),
            "payloadType": payload_type,
            "signatures": [{
                "keyid": self.runner_key.fingerprint(),
                "sig": b64.encode(self.runner_key.sign(&signed)),
            }],
        });
        let bytes = serde_json::to_vec(&envelope).unwrap();
        for replica in self.repository.replicas() {
            replica
                .create(&layout::evidence_entry(n), bytes.clone().into())
                .await
                .unwrap();
        }
    }
}

/// A coordinator that runs.
pub struct Running {
    pub agents: std::net::SocketAddr,
    pub http: std::net::SocketAddr,
    pub stop: CancellationToken,
    pub task: tokio::task::JoinHandle<Result<(), RunError>>,
}

impl Running {
    /// Lets it serve, and does not wait.
    pub fn of(coordinator: Coordinator) -> Self {
        let stop = CancellationToken::new();
        Self {
            agents: coordinator.agents_address().unwrap(),
            http: coordinator.http_address().unwrap(),
            stop: stop.clone(),
            task: tokio::spawn(coordinator.serve(stop)),
        }
    }

    /// What a path answers: status, headers, body.
    pub async fn get_full(&self, path: &str) -> (u16, hyper::HeaderMap, String) {
        let request = hyper::Request::get(path).header("host", "localhost");
        self.send(request.body(Full::default()).unwrap()).await
    }

    /// What a request is answered with: status, headers, body.
    pub async fn send(&self, request: hyper::Request<Full<Bytes>>) -> (u16, hyper::HeaderMap, String) {
        let tcp = TcpStream::connect(self.http).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp))
            .await
            .unwrap();
        tokio::spawn(connection);
        let response = sender.send_request(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, headers, String::from_utf8(body.to_vec()).unwrap())
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        let (status, _, body) = self.get_full(path).await;
        (status, body)
    }

    pub async fn status(&self) -> Value {
        serde_json::from_str(&self.get("/v1/status").await.1).unwrap()
    }

    /// The one cluster of the tests.
    pub async fn erp(&self) -> Value {
        let status = self.status().await;
        let all = status["clusters"].as_array().unwrap();
        all.iter()
            .find(|c| c["cluster"] == "acme/erp")
            .cloned()
            .unwrap_or_else(|| panic!("{status:#}"))
    }

    pub async fn close(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

/// An agent's side of the conversation.
pub struct Caller {
    pub name: ActorName,
    tls: Result<Arc<rustls::ClientConfig>, String>,
}

impl Caller {
    /// Calls with a certificate, or without one.
    pub fn new(name: &str, root: &Path, certificate: Option<(&str, &str)>) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(root.join("ca.crt")).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self {
            name: name.parse().unwrap(),
            tls: Ok(Arc::new(config)),
        }
    }

    /// Posts a heartbeat: orders, or status and detail, or why there was no talk.
    pub async fn call(&self, running: &Running, heartbeat: &Heartbeat) -> Result<Orders, String> {
        let tls = self.tls.clone()?;
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let tcp = TcpStream::connect(running.agents).await.map_err(|e| text(&e))?;
        let stream = tokio_rustls::TlsConnector::from(tls)
            .connect(ServerName::try_from("localhost").unwrap(), tcp)
            .await
            .map_err(|e| text(&e))?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|e| text(&e))?;
        tokio::spawn(connection);
        let request = hyper::Request::post("https://localhost/v1/heartbeat")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(serde_json::to_vec(heartbeat).unwrap())))
            .unwrap();
        let response = sender.send_request(request).await.map_err(|e| text(&e))?;
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|e| text(&e))?
            .to_bytes();
        if status != 200 {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body)));
        }
        serde_json::from_slice(&body).map_err(|e| text(&e))
    }

    /// Calls with the facts of a cluster that streams and has nothing to say.
    pub async fn beat(
        &self,
        running: &Running,
        change: impl FnOnce(&mut Heartbeat),
    ) -> Result<Orders, String> {
        let mut heartbeat = Heartbeat {
            agent: self.name.clone(),
            version: "0.1.0".to_owned(),
            at: now(),
            clusters: vec![facts()],
            done: vec![],
        };
        change(&mut heartbeat);
        self.call(running, &heartbeat).await
    }
}

/// A cluster that streams.
pub fn facts() -> ClusterFacts {
    ClusterFacts {
        cluster: cluster(),
        tier: "platinum".parse().unwrap(),
        labels: Default::default(),
        lineage: Some(lineage()),
        wal: Some(WalFacts {
            timeline: TimelineId::FIRST,
            server_flush: Lsn::new(5 * SEGMENT + 500),
            received: Lsn::new(5 * SEGMENT + 500),
            acknowledged: Lsn::new(5 * SEGMENT + 500),
            replicas: vec![],
            rpo_ms: 0,
            heard_ms: Some(0),
            last_commit: None,
            slot_retained: None,
        }),
        filestores: vec![],
        last_base: None,
        last_point: None,
        working: vec![],
        findings: vec![],
        requests: Vec::new(),
    }
}
