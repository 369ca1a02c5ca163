//! One drill on the cluster, from its namespace to what the log says of it.
//!
//! Order: the namespace; the lease; what bounds it; the network's policy, before
//! there is a pod that it could be late for; the Secret; the Job. The pod is looked
//! at, not watched: every look sees the whole, so nothing is missed when the API
//! server was away. Whatever happens from the first object on, the namespace is
//! deleted, and waited for.

use std::pin::pin;
use std::time::Duration;

use futures::{AsyncBufReadExt, StreamExt};
use holdfast_drills::answer::{self, Answer};
use holdfast_drills::log::{DrillLog, LogError};
use holdfast_drills::place::Place;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_repository::clock;
use holdfast_repository::signing::SigningKey;
use k8s_openapi::jiff;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, KubernetesError, LOOK};
use crate::fate::{End, Fate, Seen};
use crate::objects::{self, Order};
use crate::parcel::Parcel;

/// How long a lease lasts without being renewed.
pub const LEASE: Duration = Duration::from_secs(60);
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(10);
/// How long a namespace may take to go.
pub const GOING: Duration = Duration::from_secs(180);
/// How long the API server may be away while a drill runs.
const AWAY: Duration = Duration::from_secs(120);
/// How long the pod's last lines may take.
const LAST_LINES: Duration = Duration::from_secs(10);
/// Lines of the pod's log that are kept, and characters of each.
const KEPT: usize = 1000;
const LINE: usize = 2000;
/// Characters of a reason that go into the log.
const REASON: usize = 300;

/// A drill that could not be dispatched, or whose end could not be put on record.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// The cluster.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What came of a dispatched drill.
#[derive(Debug)]
pub struct Dispatched {
    /// What the log says; nothing while the namespace is not gone, because then a
    /// result may still come.
    pub answer: Option<Answer>,
    /// How the pod ended.
    pub end: End,
    /// The pod's log.
    pub lines: Vec<String>,
    /// What was met.
    pub findings: Vec<Finding>,
}

/// Says what happens, for a person.
pub type Say<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// Runs `order` and answers for it.
///
/// # Errors
/// The cluster cannot be used, or the log. What was made on the cluster is gone
/// again, or the log of this program says that it is not.
#[expect(
    clippy::too_many_arguments,
    reason = "everything that a dispatched drill is made of"
)]
pub async fn drill(
    cluster: &Cluster,
    log: &DrillLog,
    key: &SigningKey,
    order: &Order<'_>,
    parcel: Parcel,
    patience: Duration,
    say: Say<'_>,
    stop: &CancellationToken,
) -> Result<Dispatched, DispatchError> {
    let namespace = order.namespace();
    let mut lines = Vec::new();
    let ended = run(cluster, order, parcel, &mut lines, say, stop).await;
    say(&format!("deleting the namespace {namespace}"));
    let gone = cluster.remove(&namespace, None, GOING).await;
    let end = match (ended, &gone) {
        (Ok(end), _) => end,
        // Nothing runs there any more, and an intent that there may be is answered.
        (Err(e), Ok(())) => {
            answer::settle(log, order.drill, &reason(&e), clock::now(), key, patience).await?;
            return Err(e.into());
        }
        (Err(e), Err(remains)) => {
            tracing::error!(namespace, err = %remains, "a namespace was not deleted");
            return Err(e.into());
        }
    };
    let now = clock::now();
    let mut findings: Vec<Finding> = end.finding(&namespace, now).into_iter().collect();
    let about = |name: &str, severity, detail: String| Finding {
        name: name.to_owned(),
        subject: namespace.clone(),
        severity,
        detail,
        since: now,
    };
    if order.settings.closed.is_empty() {
        let detail = "nothing shows that the cluster enforces network policies: name addresses that a drill must not \
                      reach, the source's first, in `closed` of [runner.kubernetes]";
        findings.push(about(
            "pod-network-unprobed",
            Severity::Warning,
            detail.to_owned(),
        ));
    }
    let answer = match gone {
        Ok(()) => {
            say("the namespace is gone");
            Some(answer::settle(log, order.drill, &reason(&end), now, key, patience).await?)
        }
        Err(e) => {
            findings.push(about("namespace-remains", Severity::Critical, e.to_string()));
            None
        }
    };
    Ok(Dispatched {
        answer,
        end,
        lines,
        findings,
    })
}

/// One line for the log.
pub(crate) fn reason(why: &dyn std::fmt::Display) -> String {
    let text = why.to_string();
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(REASON).collect()
}

/// Makes the place, and stays until the pod has ended.
async fn run(
    cluster: &Cluster,
    order: &Order<'_>,
    mut parcel: Parcel,
    lines: &mut Vec<String>,
    say: Say<'_>,
    stop: &CancellationToken,
) -> Result<End, KubernetesError> {
    let name = order.namespace();
    say(&format!("making the namespace {name}"));
    let uid = cluster.make(&objects::namespace(order, clock::now())).await?;
    let holder = format!("holdfast-{}", std::process::id());
    let lease = objects::lease(order, &holder, LEASE, jiff::Timestamp::now());
    cluster.create(&name, &lease).await?;
    cluster.create(&name, &objects::quota(order)).await?;
    cluster.create(&name, &objects::limits(order)).await?;
    cluster.create(&name, &objects::network(order)).await?;
    cluster.create(&name, &objects::account(order)).await?;
    parcel.place(&Place {
        drill: order.drill,
        namespace: uid,
        node: None,
        image_digest: order.settings.image.digest().map(str::to_owned),
        closed: order.settings.closed.clone(),
    });
    cluster.create(&name, &objects::secret(order, &parcel)).await?;
    drop(parcel);
    cluster.create(&name, &objects::job(order)).await?;
    Watch::new(cluster, order, name)
        .until_ended(lines, say, stop)
        .await
}

/// A drill that is being looked at.
struct Watch<'a> {
    cluster: &'a Cluster,
    order: &'a Order<'a>,
    namespace: String,
    began: Instant,
    renewed: Instant,
    answered: Instant,
    seen: Seen,
    log: Log,
}

/// The pod's log. Whoever carries it may break off in the middle, and an API server
/// that lost the node ends it as if that were all: it is read on while the pod runs,
/// and once more when it has ended.
#[derive(Debug, Default)]
struct Log {
    /// Lines to come, or why there are none.
    reader: Option<mpsc::Receiver<Result<String, String>>>,
    /// How many came.
    read: usize,
    /// That it is out of reach was said.
    told: bool,
}

impl<'a> Watch<'a> {
    fn new(cluster: &'a Cluster, order: &'a Order<'a>, namespace: String) -> Self {
        let now = Instant::now();
        Self {
            cluster,
            order,
            namespace,
            began: now,
            renewed: now,
            answered: now,
            seen: Seen::default(),
            log: Log::default(),
        }
    }

    async fn until_ended(
        &mut self,
        lines: &mut Vec<String>,
        say: Say<'_>,
        stop: &CancellationToken,
    ) -> Result<End, KubernetesError> {
        let mut tick = tokio::time::interval(LOOK);
        let end = loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(End::Stopped),
                Some(said) = self.log.next() => self.log.keep(said, lines, say),
                _ = tick.tick() => match self.step().await {
                    Ok(Fate::Ended(end)) => break end,
                    Ok(_) => self.answered = Instant::now(),
                    // Away for a moment: what it has to say, it says at the next look.
                    Err(e @ KubernetesError::Unreachable { .. }) if self.answered.elapsed() < AWAY => {
                        tracing::warn!(err = %e, "the API server does not answer");
                    }
                    Err(e) => return Err(e),
                },
            }
        };
        if matches!(end, End::NotStarted(_)) {
            return Ok(end);
        }
        // What is being read was begun before the end, and may be cut off by it.
        let mut last = self.log.reader.is_none();
        let rest = async {
            loop {
                self.listen();
                let mut broken = false;
                while let Some(said) = self.log.next().await {
                    broken = said.is_err();
                    self.log.keep(said, lines, say);
                }
                if broken {
                    tokio::time::sleep(LOOK).await;
                } else if std::mem::replace(&mut last, true) {
                    return;
                }
            }
        };
        if tokio::time::timeout(LAST_LINES, rest).await.is_err() {
            tracing::warn!("the pod's log did not end: its last lines may be missing");
        }
        Ok(end)
    }

    /// One look at everything.
    async fn step(&mut self) -> Result<Fate, KubernetesError> {
        if self.renewed.elapsed() >= RENEW {
            self.cluster
                .renew(&self.namespace, jiff::Timestamp::now())
                .await?;
            self.renewed = Instant::now();
        }
        let first = self.seen.first.take();
        self.seen = match self.cluster.look(&self.namespace, first.clone()).await {
            Ok(seen) => seen,
            Err(e) => {
                self.seen.first = first;
                return Err(e);
            }
        };
        let fate = self.seen.fate();
        match &fate {
            Fate::Running => self.listen(),
            Fate::Waiting(why) if self.began.elapsed() > self.order.settings.start => {
                let why = match why {
                    Some(why) => why.clone(),
                    None => self
                        .cluster
                        .warnings(&self.namespace)
                        .await?
                        .pop()
                        .unwrap_or_default(),
                };
                return Ok(Fate::Ended(End::NotStarted(why)));
            }
            // By our own clock, should the cluster not see to it.
            _ if self.began.elapsed() > self.order.settings.start + self.order.pod_limit() + LEASE => {
                return Ok(Fate::Ended(End::DeadlineExceeded));
            }
            _ => {}
        }
        Ok(fate)
    }

    /// Reads the pod's log on, if nobody does.
    fn listen(&mut self) {
        let name = self.seen.pod().and_then(|p| p.metadata.name.clone());
        let (None, Some(pod)) = (&self.log.reader, name) else {
            return;
        };
        let (sender, receiver) = mpsc::channel(64);
        self.log.reader = Some(receiver);
        let (cluster, namespace, read) = (self.cluster.clone(), self.namespace.clone(), self.log.read);
        tokio::spawn(async move {
            match cluster.follow(&namespace, &pod).await {
                Ok(None) => {}
                Ok(Some(stream)) => {
                    let mut lines = pin!(stream.lines().skip(read));
                    while let Some(line) = lines.next().await {
                        let line = line.map_err(|e| e.to_string());
                        let broken = line.is_err();
                        if sender.send(line).await.is_err() || broken {
                            return;
                        }
                    }
                }
                Err(e) => {
                    let _ = sender.send(Err(e.to_string())).await;
                }
            }
        });
    }
}

impl Log {
    /// What comes next; nothing when the log has ended or is not being read.
    async fn next(&mut self) -> Option<Result<String, String>> {
        let said = self.reader.as_mut()?.recv().await;
        if said.is_none() {
            self.reader = None;
        }
        said
    }

    fn keep(&mut self, said: Result<String, String>, lines: &mut Vec<String>, say: Say<'_>) {
        match said {
            Ok(line) => {
                (self.read, self.told) = (self.read + 1, false);
                keep(lines, line, say);
            }
            Err(why) if !std::mem::replace(&mut self.told, true) => {
                let line = format!("(the pod's log is out of reach, and tried again: {why})");
                keep(lines, line, say);
            }
            Err(_) => {}
        }
    }
}

fn keep(lines: &mut Vec<String>, line: String, say: Say<'_>) {
    let line: String = line.chars().take(LINE).collect();
    say(&line);
    if lines.len() == KEPT {
        lines.remove(0);
    }
    lines.push(line);
}
