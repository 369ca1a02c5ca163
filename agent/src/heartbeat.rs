//! The agent's conversation with its coordinator.
//!
//! The agent calls, every few seconds, over mutual TLS: it tells its facts and the
//! outcomes of assignments, and hears orders ([`holdfast_proto::message`]). A
//! coordinator that is dead, slow or absurd changes nothing about what the agent
//! protects: it is a finding, the numbers last heard go on, and after
//! [`ALONE_AFTER`] the agent decides by the tier's own schedule when work is due.
//!
//! Outcomes are kept on disk until the coordinator has heard them. If the process
//! dies during an assignment there is no outcome, and the coordinator gives the
//! assignment out again when its lease ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use holdfast_proto::Timestamp;
use holdfast_proto::finding::Severity;
use holdfast_proto::message::{
    AssignmentResult, ENROL_PATH, Enrolment, HEARTBEAT_PATH, Heartbeat, Issued, Orders, RENEW_PATH, Renewal,
    SEEN_PATH, Seen,
};
use holdfast_proto::names::{ActorName, WorkId};
use holdfast_repository::replica::explained;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::client::WantsClientCert;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::certificate::{self, Credential};
use crate::config::{CertificateSource, CoordinatorConfig};
use crate::progress::Meter;
use crate::run::Agent;
use crate::run::jobs::{Asker, Job};
use crate::state::Record;

/// After this silence the agent decides alone when work is due.
pub const ALONE_AFTER: Duration = Duration::from_secs(15 * 60);
/// The longest that one call may take.
const DEADLINE: Duration = Duration::from_secs(15);
/// Between calls until the coordinator says otherwise.
const INTERVAL: Duration = Duration::from_secs(5);
/// The most bytes of orders.
const MAX_ORDERS: usize = 4 << 20;
/// Outcomes that are kept.
const MAX_DONE: usize = 200;

/// A call that brought no orders.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// A certificate or key cannot be read.
    #[error("{what} {path} cannot be read ({why}): correct [coordinator]")]
    Pem {
        /// Which.
        what: &'static str,
        /// Its file.
        path: String,
        /// Why.
        why: String,
    },
    /// The certificates do not fit.
    #[error("the certificate and key in [coordinator] cannot be used together: make them anew")]
    Tls(#[from] rustls::Error),
    /// There is none yet.
    #[error("the agent has no certificate for its coordinator yet: the finding not-enrolled says why")]
    NoCertificate,
    /// Another agent's.
    #[error(
        "the certificate is that of agent {found}, this agent is {wanted}: enrol it with a token of its own"
    )]
    Another {
        /// Whose it is.
        found: ActorName,
        /// Who this is.
        wanted: ActorName,
    },
    /// The address.
    #[error("{0:?} is not the address of a coordinator: write it as https://host:port")]
    Url(String),
    /// The network.
    #[error("the coordinator cannot be reached at {at}: check that it runs, and the network")]
    Connect {
        /// Its address.
        at: String,
        /// Why.
        source: std::io::Error,
    },
    /// The conversation broke.
    #[error("the conversation with the coordinator broke: it is tried again")]
    Http(#[from] hyper::Error),
    /// It took too long.
    #[error("the coordinator did not answer within {} s: it is tried again", DEADLINE.as_secs())]
    Late,
    /// It leads no more, and does not know it.
    #[error(
        "the coordinator at {at} gives orders of term {term}, and those of term {highest} were obeyed already: they \
         are not done; look whether it was stopped for a while"
    )]
    FormerLeader {
        /// Its address.
        at: String,
        /// The term that it speaks of.
        term: u64,
        /// The highest that was obeyed.
        highest: u64,
    },
    /// None of several gave orders.
    #[error("no coordinator gives orders: {}", each(.0))]
    Nobody(Vec<(String, CallError)>),
    /// It refused.
    #[error("the coordinator answered {status}: {text}")]
    Refused {
        /// HTTP's status.
        status: u16,
        /// What it said.
        text: String,
    },
    /// It said something else.
    #[error("the coordinator's answer cannot be understood ({0}): use the same version on both sides")]
    Answer(String),
}

fn each(errors: &[(String, CallError)]) -> String {
    let each = errors
        .iter()
        .map(|(at, error)| format!("{at}: {}", explained(error)));
    each.collect::<Vec<_>>().join("; ")
}

/// Where a coordinator is.
#[derive(Debug, Clone)]
struct Address {
    host: String,
    port: u16,
}

impl Address {
    fn of(url: &str) -> Result<Self, CallError> {
        let bad = || CallError::Url(url.to_owned());
        let rest = url
            .strip_prefix("https://")
            .ok_or_else(bad)?
            .trim_end_matches('/');
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(']') || port.parse::<u16>().is_ok() => {
                (host, port.parse().map_err(|_| bad())?)
            }
            _ => (rest, 443),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || host.contains('/') {
            return Err(bad());
        }
        Ok(Self { host, port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The connection that is kept between heartbeats.
#[derive(Default)]
struct Line {
    /// Which of the addresses answered last.
    at: usize,
    open: Option<SendRequest<Full<Bytes>>>,
    /// With which certificate it was opened.
    worn: u64,
}

/// The certificate in use, and which one it is.
#[derive(Clone, Default)]
struct Worn {
    n: u64,
    tls: Option<TlsConnector>,
}

/// How coordinators are called: one after the other until one gives orders, and then
/// that one, over the same connection.
#[derive(Clone)]
pub struct Caller {
    addresses: Arc<[Address]>,
    roots: Arc<RootCertStore>,
    worn: Arc<Mutex<Worn>>,
    line: Arc<tokio::sync::Mutex<Line>>,
}

impl Caller {
    /// Reads the certificates. Where the agent's own is not in files, it has none until
    /// [`Caller::wear`].
    ///
    /// # Errors
    /// An address or a file that cannot be used.
    pub fn new(config: &CoordinatorConfig) -> Result<Self, CallError> {
        let addresses = config.urls.iter().map(|url| Address::of(url));
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates("the authority", &config.ca)? {
            roots.add(certificate)?;
        }
        let caller = Self {
            addresses: addresses.into(),
            roots: Arc::new(roots),
            worn: Arc::default(),
            line: Arc::default(),
        };
        if let CertificateSource::Files { cert, key } = &config.certificate {
            caller.wear(&certificate::of_files(cert, key)?)?;
        }
        Ok(caller)
    }

    /// How connections are made with a credential.
    ///
    /// # Errors
    /// Its key is not that of its certificate.
    pub(crate) fn connector(&self, credential: &Credential) -> Result<TlsConnector, CallError> {
        let tls = self
            .client()?
            .with_client_auth_cert(credential.chain(), credential.key())?;
        Ok(TlsConnector::from(Arc::new(tls)))
    }

    fn client(&self) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, CallError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Ok(ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(Arc::clone(&self.roots)))
    }

    /// Uses a credential from the next call on, which opens a connection of its own.
    ///
    /// # Errors
    /// Its key is not that of its certificate.
    pub fn wear(&self, credential: &Credential) -> Result<(), CallError> {
        let tls = self.connector(credential)?;
        let mut worn = self.worn.lock().unwrap_or_else(PoisonError::into_inner);
        *worn = Worn {
            n: worn.n + 1,
            tls: Some(tls),
        };
        Ok(())
    }

    fn worn(&self) -> Worn {
        self.worn.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks for a first certificate, without one.
    ///
    /// # Errors
    /// No coordinator gave one: what each of them said.
    pub(crate) async fn enrol(&self, asked: &Enrolment) -> Result<Issued, CallError> {
        let tls = TlsConnector::from(Arc::new(self.client()?.with_no_client_auth()));
        let body = serde_json::to_vec(asked).expect("texts always encode");
        self.ask(&tls, ENROL_PATH, Some(body.into())).await
    }

    /// Asks for the next certificate, with the one in use.
    ///
    /// # Errors
    /// No coordinator gave one: what each of them said.
    pub(crate) async fn renew(&self, asked: &Renewal) -> Result<Issued, CallError> {
        let tls = self.worn().tls.ok_or(CallError::NoCertificate)?;
        let body = serde_json::to_vec(asked).expect("texts always encode");
        self.ask(&tls, RENEW_PATH, Some(body.into())).await
    }

    /// Whether a coordinator takes a credential for this agent's.
    ///
    /// # Errors
    /// None does, or it is another agent's.
    pub(crate) async fn prove(&self, credential: &Credential, agent: &ActorName) -> Result<(), CallError> {
        let tls = self.connector(credential)?;
        let seen: Seen = self.ask(&tls, SEEN_PATH, None).await?;
        if seen.agent != *agent {
            return Err(CallError::Another {
                found: seen.agent,
                wanted: agent.clone(),
            });
        }
        Ok(())
    }

    /// One question over connections of its own, to one coordinator after the other until one
    /// answers it. Without a body something is got.
    async fn ask<T: DeserializeOwned>(
        &self,
        tls: &TlsConnector,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<T, CallError> {
        let mut errors = Vec::new();
        for address in &*self.addresses {
            let asked = async {
                let mut sender = connect(tls, address).await?;
                let (status, answer) = exchange(&mut sender, address, path, body.clone()).await?;
                understood(status, &answer)
            };
            match tokio::time::timeout(DEADLINE, asked)
                .await
                .unwrap_or(Err(CallError::Late))
            {
                Ok(answer) => return Ok(answer),
                Err(error) => errors.push((address.to_string(), error)),
            }
        }
        Err(alone(errors))
    }

    /// Tells the facts and hears the orders of the coordinator that leads: of one whose
    /// term is not over, as far as `terms` knows.
    ///
    /// # Errors
    /// No coordinator gave orders: what each of them said.
    pub async fn call(&self, heartbeat: &Heartbeat, terms: &Terms) -> Result<Orders, CallError> {
        let body = Bytes::from(serde_json::to_vec(heartbeat).expect("facts are plain values"));
        let mut line = self.line.lock().await;
        let mut errors = Vec::new();
        for _ in 0..self.addresses.len() {
            let at = line.at;
            let answered = tokio::time::timeout(DEADLINE, self.post(&mut line, body.clone())).await;
            let admitted = answered.unwrap_or(Err(CallError::Late)).and_then(|orders| {
                terms.hear(orders.term, &self.addresses[at])?;
                Ok(orders)
            });
            match admitted {
                Ok(orders) => return Ok(orders),
                Err(error) => {
                    line.open = None;
                    line.at = (at + 1) % self.addresses.len();
                    errors.push((self.addresses[at].to_string(), error));
                }
            }
        }
        Err(alone(errors))
    }

    async fn post(&self, line: &mut Line, body: Bytes) -> Result<Orders, CallError> {
        let address = &self.addresses[line.at];
        let worn = self.worn();
        let tls = worn.tls.ok_or(CallError::NoCertificate)?;
        if line.worn != worn.n {
            (line.open, line.worn) = (None, worn.n);
        }
        // A connection that was closed meanwhile is no answer: the same is said again.
        let kept = line.open.take().filter(|sender| !sender.is_closed());
        if let Some(mut sender) = kept
            && let Ok(answer) = exchange(&mut sender, address, HEARTBEAT_PATH, Some(body.clone())).await
        {
            line.open = Some(sender);
            return understood(answer.0, &answer.1);
        }
        let mut sender = connect(&tls, address).await?;
        let answer = exchange(&mut sender, address, HEARTBEAT_PATH, Some(body)).await?;
        line.open = Some(sender);
        understood(answer.0, &answer.1)
    }
}

/// The error of one coordinator, or those of all.
fn alone(mut errors: Vec<(String, CallError)>) -> CallError {
    match errors.len() {
        1 => errors.remove(0).1,
        _ => CallError::Nobody(errors),
    }
}

async fn connect(tls: &TlsConnector, address: &Address) -> Result<SendRequest<Full<Bytes>>, CallError> {
    let unreachable = |source| CallError::Connect {
        at: address.to_string(),
        source,
    };
    let name =
        ServerName::try_from(address.host.clone()).map_err(|_| CallError::Url(address.host.clone()))?;
    let tcp = TcpStream::connect((address.host.as_str(), address.port))
        .await
        .map_err(unreachable)?;
    let tls = tls.connect(name, tcp).await.map_err(unreachable)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
    // Ends with its sender.
    tokio::spawn(connection);
    Ok(sender)
}

/// One request and its answer. Without a body something is got.
async fn exchange(
    sender: &mut SendRequest<Full<Bytes>>,
    address: &Address,
    path: &str,
    body: Option<Bytes>,
) -> Result<(StatusCode, Bytes), CallError> {
    sender.ready().await?;
    let method = if body.is_some() { Method::POST } else { Method::GET };
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header(hyper::header::HOST, address.to_string())
        .header(hyper::header::CONTENT_TYPE, "application/json")
        .body(Full::new(body.unwrap_or_default()))
        .expect("the parts of the request are sound");
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ORDERS).collect().await;
    let body = body.map_err(|e| CallError::Answer(e.to_string()))?.to_bytes();
    Ok((status, body))
}

fn understood<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T, CallError> {
    if !status.is_success() {
        return Err(CallError::Refused {
            status: status.as_u16(),
            text: detail(body),
        });
    }
    serde_json::from_slice(body).map_err(|e| CallError::Answer(e.to_string()))
}

/// What a refusal says: the detail of its problem, or the beginning of whatever it is.
fn detail(body: &[u8]) -> String {
    let problem: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let said = problem.as_ref().and_then(|problem| problem["detail"].as_str());
    let said = said.map_or_else(|| String::from_utf8_lossy(body), Into::into);
    said.chars().take(1000).collect()
}

/// The highest term of a leader that was obeyed, over restarts too. A leader that was
/// stopped for a while and does not know yet that another one took over speaks of an
/// earlier term: what it orders is not done.
pub struct Terms {
    record: Record,
    known: Mutex<KnownTerms>,
}

#[derive(Default)]
struct KnownTerms {
    highest: u64,
    refused: Option<String>,
}

impl Terms {
    /// Reads what was heard before this process began.
    pub fn load(record: Record) -> Result<Self, crate::durable::LocalFileError> {
        let known = KnownTerms {
            highest: record.load()?.unwrap_or_default(),
            refused: None,
        };
        Ok(Self {
            record,
            known: Mutex::new(known),
        })
    }

    fn hear(&self, term: u64, at: &Address) -> Result<(), CallError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let highest = known.highest;
        if term < highest {
            let refused = CallError::FormerLeader {
                at: at.to_string(),
                term,
                highest,
            };
            tracing::error!(%at, term, highest, "orders of a former leader were refused");
            known.refused = Some(refused.to_string());
            return Err(refused);
        }
        if term > highest {
            known.highest = term;
            if let Err(error) = self.record.save(&term) {
                tracing::warn!(err = %error, "the leader's term could not be kept");
            }
        }
        Ok(())
    }

    /// What was refused since this was last asked.
    fn refused(&self) -> Option<String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.refused.take()
    }
}

fn pem(what: &'static str, path: &Path, why: &dyn std::error::Error) -> CallError {
    CallError::Pem {
        what,
        path: path.display().to_string(),
        why: why.to_string(),
    }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, CallError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|e| pem(what, path, &e))?
        .collect();
    all.map_err(|e| pem(what, path, &e))
}

/// Assignments, from hearing of them until the coordinator heard of their end.
#[derive(Clone)]
pub struct Assignments {
    record: Record,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    under_way: BTreeSet<WorkId>,
    done: BTreeMap<WorkId, AssignmentResult>,
    heard: BTreeSet<WorkId>,
}

impl Assignments {
    /// Reads what ended before this process began.
    pub fn load(record: Record) -> Result<Self, crate::durable::LocalFileError> {
        let done: Vec<AssignmentResult> = record.load()?.unwrap_or_default();
        let known = Known {
            done: done.into_iter().map(|r| (r.id, r)).collect(),
            ..Known::default()
        };
        Ok(Self {
            record,
            known: Arc::new(Mutex::new(known)),
        })
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an assignment is new; it is under way from now on.
    fn is_new(&self, id: WorkId) -> bool {
        let mut known = self.held();
        !known.done.contains_key(&id) && known.under_way.insert(id)
    }

    /// Outcomes that the coordinator has not heard yet.
    fn untold(&self) -> Vec<AssignmentResult> {
        let known = self.held();
        known
            .done
            .values()
            .filter(|r| !known.heard.contains(&r.id))
            .cloned()
            .collect()
    }

    fn hear(&self, heard: &[WorkId]) {
        self.held().heard.extend(heard);
    }

    /// Notes how an assignment ended; `None` gives it back.
    fn end(&self, id: WorkId, outcome: Option<Result<String, String>>) {
        let all: Vec<AssignmentResult> = {
            let mut known = self.held();
            known.under_way.remove(&id);
            let Some(outcome) = outcome else { return };
            let at = now();
            known.done.insert(id, AssignmentResult { id, at, outcome });
            // Identities begin with their time: the first are the oldest.
            while known.done.len() > MAX_DONE {
                known.done.pop_first();
            }
            known.done.values().cloned().collect()
        };
        if let Err(error) = self.record.save(&all) {
            tracing::info!(err = %error, "outcomes of assignments could not be kept");
        }
    }
}

/// Calls until cancelled.
pub async fn run(
    agent: Arc<Agent>,
    caller: Caller,
    assignments: Assignments,
    terms: Terms,
    cancel: CancellationToken,
) {
    loop {
        let heartbeat = Heartbeat {
            agent: agent.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: now(),
            clusters: agent.facts(now()),
            done: assignments.untold(),
        };
        // Dropping a call loses nothing: what was said is said again.
        let called = tokio::select! {
            called = caller.call(&heartbeat, &terms) => called,
            () = cancel.cancelled() => return,
        };
        match terms.refused() {
            Some(why) => agent.raise_everywhere(Severity::Warning, "former-leader", "coordinator", &why),
            None => agent.clear_everywhere("former-leader", "coordinator"),
        }
        let interval = match called {
            Ok(orders) => {
                agent.heard();
                agent.clear_everywhere("coordinator-unreachable", "coordinator");
                let interval = Duration::from_millis(orders.heartbeat_ms.clamp(200, 60_000));
                obey(&agent, &assignments, orders);
                interval
            }
            Err(error) => {
                agent.raise_everywhere(
                    Severity::Warning,
                    "coordinator-unreachable",
                    "coordinator",
                    &format!(
                        "{}; protection goes on by the numbers last heard",
                        explained(&error)
                    ),
                );
                INTERVAL
            }
        };
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = cancel.cancelled() => return,
        }
    }
}

fn obey(agent: &Arc<Agent>, assignments: &Assignments, orders: Orders) {
    assignments.hear(&orders.heard);
    for directives in orders.directives {
        if let Some(cluster) = agent.cluster(&directives.cluster)
            && let Err(error) = cluster.numbers.hear(directives)
        {
            tracing::info!(err = %error, "directives could not be kept");
        }
    }
    for assignment in orders.assignments {
        let Some(cluster) = agent.cluster(&assignment.cluster) else {
            let why = format!(
                "agent {} does not protect {}",
                agent.config.name, assignment.cluster
            );
            assignments.end(assignment.id, Some(Err(why)));
            continue;
        };
        if !assignments.is_new(assignment.id) {
            continue;
        }
        let (sender, outcome) = oneshot::channel();
        cluster.ask(Job {
            work: assignment.work,
            reason: assignment.reason,
            meter: Meter::default(),
            asker: Asker::Waiting(Some(assignment.id), sender),
        });
        let assignments = assignments.clone();
        // Ends with the job, or when its queue is dropped at shutdown.
        tokio::spawn(async move {
            let outcome = outcome.await.ok();
            let told = outcome.map(|outcome| outcome.map(|made| made.text));
            assignments.end(assignment.id, told);
        });
    }
}

fn now() -> Timestamp {
    Timestamp::from_chrono(chrono::Utc::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_done_once_and_told_until_it_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let record = || {
            crate::state::StateDir::open(&dir.path().join("state"))
                .unwrap()
                .done()
        };
        let ids: Vec<WorkId> = (1..=3).map(|i| WorkId::from_parts(now(), i)).collect();
        let assignments = Assignments::load(record()).unwrap();
        assert!(ids.iter().all(|id| assignments.is_new(*id)));
        assert!(!assignments.is_new(ids[0]), "heard of twice, done once");
        assignments.end(ids[0], Some(Ok("base backup".to_owned())));
        assignments.end(ids[1], Some(Err("the disk is full".to_owned())));
        // Given back: the agent was stopped.
        assignments.end(ids[2], None);
        assert_eq!(assignments.untold().len(), 2);
        assignments.hear(&ids[..1]);
        assert_eq!(
            assignments.untold().iter().map(|r| r.id).collect::<Vec<_>>(),
            [ids[1]]
        );

        let after = Assignments::load(record()).unwrap();
        assert!(!after.is_new(ids[0]) && !after.is_new(ids[1]) && after.is_new(ids[2]));
        assert_eq!(
            after.untold().len(),
            2,
            "what was heard is said once more, which harms nobody"
        );
    }

    #[test]
    fn orders_of_an_earlier_term_are_refused_over_a_restart_too() {
        let dir = tempfile::tempdir().unwrap();
        let terms = || Terms::load(Record::at(dir.path().join("term.json"))).unwrap();
        let at = Address::of("https://a:7443").unwrap();
        let before = terms();
        // Coordinators that know no terms are obeyed until one does.
        before.hear(0, &at).unwrap();
        before.hear(7, &at).unwrap();
        before.hear(7, &at).unwrap();
        assert_eq!(before.refused(), None);
        let after = terms();
        let refused = after.hear(6, &at).unwrap_err();
        assert!(
            matches!(
                refused,
                CallError::FormerLeader {
                    term: 6,
                    highest: 7,
                    ..
                }
            ),
            "{refused}"
        );
        assert!(after.refused().unwrap().contains("a:7443") && after.refused().is_none());
        after.hear(8, &at).unwrap();
        assert!(after.hear(7, &at).is_err());
    }

    #[test]
    fn what_is_wrong_with_the_coordinators_section_is_named() {
        let config = |url: &str| CoordinatorConfig {
            urls: vec![url.to_owned()],
            ca: "/nowhere/ca.pem".into(),
            certificate: CertificateSource::Kept { token_file: None },
        };
        for bad in ["http://a:1", "https://", "https://a:port", "https://a/b"] {
            assert!(
                matches!(Caller::new(&config(bad)), Err(CallError::Url(_))),
                "{bad}"
            );
        }
        for good in ["https://a", "https://a:7443/", "https://[::1]:7443"] {
            assert!(
                matches!(
                    Caller::new(&config(good)),
                    Err(CallError::Pem {
                        what: "the authority",
                        ..
                    })
                ),
                "{good}"
            );
        }
    }
}
