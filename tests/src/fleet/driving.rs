//! Agents that do nothing but call: each over a connection of its own, mutual TLS with
//! its own certificate, kept open as an agent keeps it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use holdfast_proto::message::{ClusterFacts, HEARTBEAT_PATH, Heartbeat, Orders, WalFacts};
use holdfast_proto::pg::{Lsn, TimelineId};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{END, Fleet, Member};

/// Where the coordinator listens for agents.
pub const PORT: u16 = 7543;
/// The longest that a call may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// One agent that calls.
pub struct Calling {
    member: Member,
    tls: TlsConnector,
    sender: Option<SendRequest<Full<Bytes>>>,
    done: Vec<holdfast_proto::message::AssignmentResult>,
}

/// How many connections were made.
pub static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

/// Every agent of the fleet, not connected yet.
///
/// # Errors
/// A certificate cannot be used.
pub fn agents(fleet: &Fleet) -> Result<Vec<Calling>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(fleet.directory.join("ca.crt"))?)?;
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    fleet
        .members
        .iter()
        .map(|member| {
            let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()?
                .with_root_certificates(Arc::clone(&roots))
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(member.identity.0.as_bytes())?],
                    PrivateKeyDer::from_pem_slice(member.identity.1.as_bytes())?,
                )?;
            Ok(Calling {
                member: member.clone(),
                tls: TlsConnector::from(Arc::new(config)),
                sender: None,
                done: Vec::new(),
            })
        })
        .collect()
}

impl Calling {
    async fn connect(&mut self) -> Result<&mut SendRequest<Full<Bytes>>> {
        if self.sender.as_ref().is_none_or(SendRequest::is_closed) {
            let tcp = TcpStream::connect(("127.0.0.1", PORT)).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from("localhost")?;
            let tls = self.tls.connect(name, tcp).await?;
            let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
            tokio::spawn(connection);
            CONNECTIONS.fetch_add(1, Ordering::Relaxed);
            self.sender = Some(sender);
        }
        self.sender.as_mut().context("just connected")
    }

    /// One heartbeat, and how long its answer took. What it is asked to do it has done by
    /// the next one.
    ///
    /// # Errors
    /// It was not answered with orders.
    pub async fn call(&mut self) -> Result<Duration> {
        let body = serde_json::to_vec(&self.heartbeat())?;
        let begun = Instant::now();
        let answered = tokio::time::timeout(PATIENCE, self.post(body)).await;
        let orders = match answered.context("no answer in time").flatten() {
            Ok(orders) => orders,
            Err(error) => {
                self.sender = None;
                return Err(error);
            }
        };
        let took = begun.elapsed();
        self.done.retain(|done| !orders.heard.contains(&done.id));
        let at = orders.at;
        self.done.extend(orders.assignments.into_iter().map(|assignment| {
            holdfast_proto::message::AssignmentResult {
                id: assignment.id,
                at,
                outcome: Ok("made up".to_owned()),
            }
        }));
        Ok(took)
    }

    async fn post(&mut self, body: Vec<u8>) -> Result<Orders> {
        let sender = self.connect().await?;
        sender.ready().await?;
        let request = hyper::Request::post(HEARTBEAT_PATH)
            .header(hyper::header::HOST, "localhost")
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(
            status.is_success(),
            "{status}: {}",
            String::from_utf8_lossy(&body)
        );
        Ok(serde_json::from_slice(&body)?)
    }

    fn heartbeat(&self) -> Heartbeat {
        let end = Lsn::new(END);
        let wal = WalFacts {
            timeline: TimelineId::FIRST,
            server_flush: end,
            received: end,
            acknowledged: end,
            replicas: vec![],
            rpo_ms: 0,
            heard_ms: Some(0),
            last_commit: None,
            slot_retained: Some(0),
        };
        let facts = ClusterFacts {
            cluster: self.member.cluster.clone(),
            tier: self.member.tier.clone(),
            labels: Default::default(),
            lineage: Some(self.member.lineage),
            wal: Some(wal),
            filestores: vec![],
            last_base: None,
            last_point: None,
            working: vec![],
            findings: vec![],
            requests: Vec::new(),
        };
        Heartbeat {
            agent: self.member.agent.clone(),
            version: "0.1.0".to_owned(),
            at: holdfast_repository::clock::now(),
            clusters: vec![facts],
            done: self.done.clone(),
        }
    }
}

/// What a phase of calling came to.
#[derive(Debug, Default)]
pub struct Answers {
    /// How long each answer took, in order of length.
    pub took: Vec<Duration>,
    /// Calls that were not answered with orders, and the first reason.
    pub failed: (u64, Option<String>),
    /// How long the phase lasted.
    pub lasted: Duration,
}

impl Answers {
    fn of(all: Vec<Answers>, lasted: Duration) -> Self {
        let mut sum = Answers {
            lasted,
            ..Answers::default()
        };
        for one in all {
            sum.took.extend(one.took);
            sum.failed.0 += one.failed.0;
            sum.failed.1 = sum.failed.1.or(one.failed.1);
        }
        sum.took.sort_unstable();
        sum
    }

    fn note(&mut self, called: Result<Duration>, waited: Duration) {
        match called {
            Ok(took) => self.took.push(took + waited),
            Err(error) => {
                self.failed.0 += 1;
                self.failed.1.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }

    /// The length that so large a part of the answers did not exceed.
    pub fn quantile(&self, part: f64) -> Duration {
        let last = self.took.len().saturating_sub(1);
        let place = (part * last as f64).ceil() as usize;
        self.took.get(place.min(last)).copied().unwrap_or_default()
    }

    /// Answers in a second.
    pub fn rate(&self) -> f64 {
        self.took.len() as f64 / self.lasted.as_secs_f64()
    }
}

/// Lets every agent call once, so many connections a second, so that they are connected.
pub async fn connect(agents: Vec<Calling>, each_second: u32) -> (Vec<Calling>, Answers) {
    let begun = Instant::now();
    let pause = Duration::from_secs(1) / each_second.max(1);
    let calls = agents.into_iter().zip(0_u32..).map(|(mut agent, n)| {
        tokio::spawn(async move {
            tokio::time::sleep(pause * n).await;
            let mut answers = Answers::default();
            answers.note(agent.call().await, Duration::ZERO);
            (agent, answers)
        })
    });
    finish(calls.collect(), begun).await
}

/// Lets every agent call at an even rhythm for so long. A call that begins late, because the
/// one before it had no answer, took from the moment at which it should have begun.
pub async fn beat(agents: Vec<Calling>, every: Duration, lasts: Duration) -> (Vec<Calling>, Answers) {
    let begun = Instant::now();
    let count = u32::try_from(agents.len()).unwrap_or(u32::MAX).max(1);
    let calls = agents.into_iter().zip(0_u32..).map(|(mut agent, n)| {
        tokio::spawn(async move {
            let mut answers = Answers::default();
            let mut due = begun + every * n / count;
            while due < begun + lasts {
                tokio::time::sleep_until(due.into()).await;
                // Timers fire once in a millisecond: that is not the coordinator's.
                let late = due.elapsed();
                let waited = if late > Duration::from_millis(5) {
                    late
                } else {
                    Duration::ZERO
                };
                answers.note(agent.call().await, waited);
                due += every;
            }
            (agent, answers)
        })
    });
    finish(calls.collect(), begun).await
}

/// Lets so many of the agents call as fast as they are answered.
pub async fn rush(mut agents: Vec<Calling>, at_once: usize, lasts: Duration) -> (Vec<Calling>, Answers) {
    let resting = agents.split_off(at_once.min(agents.len()));
    let begun = Instant::now();
    let calls = agents.into_iter().map(|mut agent| {
        tokio::spawn(async move {
            let mut answers = Answers::default();
            while begun.elapsed() < lasts {
                answers.note(agent.call().await, Duration::ZERO);
            }
            (agent, answers)
        })
    });
    let (mut agents, answers) = finish(calls.collect(), begun).await;
    agents.extend(resting);
    (agents, answers)
}

async fn finish(
    calls: Vec<tokio::task::JoinHandle<(Calling, Answers)>>,
    begun: Instant,
) -> (Vec<Calling>, Answers) {
    let mut agents = Vec::with_capacity(calls.len());
    let mut all = Vec::with_capacity(calls.len());
    for call in calls {
        let (agent, answers) = call.await.expect("a caller does not panic");
        agents.push(agent);
        all.push(answers);
    }
    (agents, Answers::of(all, begun.elapsed()))
}
