//! Three coordinators over one repository, killed and stopped in turn while agents call:
//! every piece of work that is due is done, and done once; no two lead; and what is owed
//! stays owed. What a former leader said or wrote before it was stopped, and that comes late,
//! counts for nothing. `HOLDFAST_TEST_ROUNDS` says how often the leader is taken away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use holdfast_agent::config::{CertificateSource, CoordinatorConfig};
use holdfast_agent::heartbeat::{Caller, Terms};
use holdfast_agent::state::Record;
use holdfast_proto::message::{AssignmentResult, ClusterFacts, Heartbeat, Orders, Progress, WalFacts, Work};
use holdfast_proto::names::WorkId;
use holdfast_proto::pg::{Lsn, TimelineId};
use holdfast_proto::record::LeaderBody;
use holdfast_repository::clock::now;
use holdfast_repository::lead::{self, Claim};
use holdfast_repository::signing::SigningKey;
use holdfast_repository::trust::Trust;
use holdfast_repository::{layout, signed};
use holdfast_tests::fleet::{Design, END, Fleet, Member, base_of, bundle_of};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-coordinate");
/// Clusters that appear in each round.
const EACH: usize = 5;
const LEASE: &str = "lease = \"2s\"\n";
/// Between heartbeats, and how many of them work takes.
const BEAT: Duration = Duration::from_millis(150);
const BEATS: u32 = 4;

fn rounds() -> usize {
    let asked = std::env::var("HOLDFAST_TEST_ROUNDS").ok();
    asked.and_then(|rounds| rounds.parse().ok()).unwrap_or(8)
}

/// Every cluster by name; what is owed comes of there being nothing yet, and one cluster
/// is owed for ever: its calendar is never closed.
fn policy(clusters: usize) -> String {
    let mut text = String::from(
        "[[calendar]]\nname = \"always\"\nbegins = \"2024-01-01T00:00\"\nrecurrence = \"FREQ=DAILY\"\n\
         duration = \"48h\"\nclusters = [\"t0/c0\"]\nfreeze = [\"base_backup\"]\n",
    );
    for n in 0..clusters {
        text.push_str(&format!(
            "[[cluster]]\ncluster = \"t{}/c{n}\"\ntier = \"platinum\"\n[cluster.schedule]\nbase_backup = \"0 3 29 2 *\"\n\
             configuration = \"0 3 29 2 *\"\n",
            n % 40
        ));
    }
    text
}

/// A coordinator's process, or the place of one.
struct Coordinator {
    config: std::path::PathBuf,
    people: u16,
    child: Option<Child>,
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Coordinator {
    fn start(&mut self) -> Result<()> {
        let child = Command::new(PROGRAM)
            .arg(&self.config)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("it runs")?;
        let pid = Pid::from_raw(i32::try_from(child.id())?).context("a process has a number")?;
        Ok(kill_process(pid, signal)?)
    }

    async fn status(&self) -> Result<Value> {
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", self.people)).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
        tokio::spawn(connection);
        let request = hyper::Request::get("/v1/status")
            .header("host", "localhost")
            .body(Full::<Bytes>::default())?;
        let response = sender.send_request(request).await?;
        Ok(serde_json::from_slice(
            &response.into_body().collect().await?.to_bytes(),
        )?)
    }
}

/// Who says that it leads. A process that is stopped says nothing.
async fn leaders(coordinators: &[Coordinator]) -> Vec<(usize, u64)> {
    let asked = coordinators
        .iter()
        .enumerate()
        .map(|(at, coordinator)| async move {
            let status = tokio::time::timeout(Duration::from_secs(1), coordinator.status()).await;
            let status = status.ok()?.ok()?;
            let term = status["leading"]["term"].as_u64()?;
            (status["leading"]["here"] == true).then_some((at, term))
        });
    futures::future::join_all(asked)
        .await
        .into_iter()
        .flatten()
        .collect()
}

async fn until<T, F>(what: &str, mut check: impl FnMut() -> F) -> Result<T>
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
    let found = tokio::time::timeout(Duration::from_secs(60), polled).await;
    found.with_context(|| format!("waited in vain for {what}"))
}

/// What all agents did.
#[derive(Debug, Default)]
struct Ledger {
    /// How often each piece of work was begun.
    begun: BTreeMap<(usize, Work), u32>,
    done: BTreeSet<(usize, Work)>,
    /// The terms whose orders were obeyed, by each agent, in order.
    terms: BTreeMap<usize, Vec<u64>>,
}

/// An agent: it does what it is told, as a real one: work of a kind that is under way takes
/// on a second identity.
struct Agent {
    n: usize,
    member: Member,
    fleet: Arc<Fleet>,
    caller: Caller,
    terms: Terms,
    ledger: Arc<Mutex<Ledger>>,
    working: BTreeMap<Work, (BTreeSet<WorkId>, u32)>,
    done: BTreeMap<WorkId, AssignmentResult>,
    /// Everything that was ever done.
    known: BTreeSet<WorkId>,
}

impl Agent {
    fn new(n: usize, fleet: &Arc<Fleet>, agents: &[u16], ledger: &Arc<Mutex<Ledger>>) -> Result<Self> {
        let member = fleet.members[n].clone();
        let file = |ending: &str| fleet.directory.join(format!("agent-{n}.{ending}"));
        std::fs::write(file("crt"), &member.identity.0)?;
        std::fs::write(file("key"), &member.identity.1)?;
        let config = CoordinatorConfig {
            urls: agents
                .iter()
                .map(|port| format!("https://localhost:{port}"))
                .collect(),
            ca: fleet.directory.join("ca.crt"),
            certificate: CertificateSource::Files {
                cert: file("crt"),
                key: file("key"),
            },
        };
        Ok(Self {
            n,
            member,
            fleet: Arc::clone(fleet),
            caller: Caller::new(&config)?,
            terms: Terms::load(Record::at(file("term")))?,
            ledger: Arc::clone(ledger),
            working: BTreeMap::new(),
            done: BTreeMap::new(),
            known: BTreeSet::new(),
        })
    }

    async fn run(mut self, stop: CancellationToken) -> Result<()> {
        while !stop.is_cancelled() {
            let heartbeat = self.heartbeat();
            // While nobody leads there are no orders: it calls again.
            if let Ok(orders) = self.caller.call(&heartbeat, &self.terms).await {
                self.obey(orders);
            }
            self.work().await?;
            tokio::time::sleep(BEAT).await;
        }
        Ok(())
    }

    fn heartbeat(&self) -> Heartbeat {
        let end = Lsn::new(END);
        let wal = WalFacts {
            timeline: TimelineId::FIRST,
            server_flush: end,
            received: end,
            acknowledged: end,
            heard_ms: Some(0),
            replicas: vec![],
            rpo_ms: 0,
            last_commit: None,
            slot_retained: None,
        };
        let working = self.working.iter().map(|(work, (ids, beats))| Progress {
            id: ids.last().copied(),
            work: *work,
            done: u64::from(*beats),
            total: u64::from(BEATS),
            since: now(),
        });
        let facts = ClusterFacts {
            cluster: self.member.cluster.clone(),
            tier: self.member.tier.clone(),
            labels: Default::default(),
            lineage: Some(self.member.lineage),
            wal: Some(wal),
            filestores: vec![],
            last_base: None,
            last_point: None,
            working: working.collect(),
            findings: vec![],
            requests: Vec::new(),
        };
        Heartbeat {
            agent: self.member.agent.clone(),
            version: "0.1.0".to_owned(),
            at: now(),
            clusters: vec![facts],
            done: self.done.values().cloned().collect(),
        }
    }

    fn obey(&mut self, orders: Orders) {
        let mut ledger = self.ledger.lock().unwrap();
        ledger.terms.entry(self.n).or_default().push(orders.term);
        for heard in orders.heard {
            self.done.remove(&heard);
        }
        for assignment in orders.assignments {
            let (id, work) = (assignment.id, assignment.work);
            if self.known.contains(&id) {
                continue;
            }
            match self.working.get_mut(&work) {
                Some((ids, _)) => {
                    ids.insert(id);
                }
                None => {
                    self.working.insert(work, (BTreeSet::from([id]), 0));
                    *ledger.begun.entry((self.n, work)).or_default() += 1;
                }
            }
        }
    }

    /// A step of everything that is under way; what is complete is stored, and then told.
    async fn work(&mut self) -> Result<()> {
        let mut complete = Vec::new();
        for (work, (_, beats)) in &mut self.working {
            *beats += 1;
            if *beats >= BEATS {
                complete.push(*work);
            }
        }
        for work in complete {
            let (key, bytes) = match work {
                Work::BaseBackup => base_of(&self.fleet.repository, &self.member, &self.fleet.key, now())?,
                _ => (bundle_of(&self.member, now()), Bytes::from_static(b"bundle")),
            };
            for replica in self.fleet.repository.replicas() {
                replica.create(&key, bytes.clone()).await?;
            }
            let (ids, _) = self.working.remove(&work).context("it was under way")?;
            self.ledger.lock().unwrap().done.insert((self.n, work));
            for id in ids {
                let outcome = Ok("made".to_owned());
                self.known.insert(id);
                self.done.insert(
                    id,
                    AssignmentResult {
                        id,
                        at: now(),
                        outcome,
                    },
                );
            }
        }
        Ok(())
    }
}

/// Every lease in the repository: numbers without a gap, one holder to each term, terms that
/// only grow.
async fn leases(fleet: &Fleet) -> Result<BTreeMap<u64, String>> {
    let trust = Trust::load(&fleet.repository, &fleet.root).await?;
    let replica = &fleet.repository.replicas()[0];
    let mut holders: BTreeMap<u64, String> = BTreeMap::new();
    let (mut expected, mut term) = (1, 0);
    for listed in replica.list(&layout::coordinator_leases()).await? {
        let bytes = replica.get(&listed.key).await?;
        let lease = signed::verify::<LeaderBody>(&bytes, &listed.key, &trust)?
            .header
            .body;
        ensure!(lease.n == expected, "lease {expected} is missing");
        ensure!(lease.term >= term, "lease {} is of an earlier term", lease.n);
        let holder = lease.holder.to_string();
        let known = holders.entry(lease.term).or_insert_with(|| holder.clone());
        ensure!(
            *known == holder,
            "{known} and {holder} both led in term {}",
            lease.term
        );
        (expected, term) = (expected + 1, lease.term);
    }
    Ok(holders)
}

/// What the cluster that is never served is owed, in words.
fn debt(status: &Value) -> Option<String> {
    let clusters = status["clusters"].as_array()?;
    let cluster = clusters.iter().find(|c| c["cluster"] == "t0/c0")?;
    let works = cluster["work"].as_array()?;
    let base = works.iter().find(|w| w["work"] == "base-backup")?;
    let (words, _) = base["state"].as_str()?.split_once(" until ")?;
    Some(words.to_owned())
}

/// What is said of the clusters that are served, once all is done that is due.
fn answers(status: &Value) -> Option<BTreeMap<String, Value>> {
    let clusters = status["clusters"].as_array()?.iter().map(|c| {
        let name = c["cluster"].as_str()?;
        let done = c["last_base"].is_object() || name == "t0/c0";
        let mut work = c["work"].as_array()?.iter();
        let idle = work
            .all(|w| w["progress"].is_null() && !w["state"].as_str().is_some_and(|s| s.contains("listed")));
        let said =
            ["tier", "lineage", "timeline", "last_base", "next_base", "work"].map(|key| c[key].clone());
        (done && idle && c["agent"].is_object()).then(|| {
            (
                name.to_owned(),
                json!([said, c["agent"]["name"], c["rpo"]["standing"], status["policy"]]),
            )
        })
    });
    clusters.collect()
}

/// Two ports for each coordinator that nobody has.
fn ports(count: usize) -> Result<Vec<(u16, u16)>> {
    let taken: Vec<TcpListener> = (0..2 * count)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)))
        .collect::<Result<_, _>>()?;
    let numbers = taken.iter().map(|listener| Ok(listener.local_addr()?.port()));
    let numbers = numbers.collect::<Result<Vec<u16>>>()?;
    Ok(numbers.chunks(2).map(|pair| (pair[0], pair[1])).collect())
}

async fn installed(directory: &Path, rounds: usize) -> Result<(Arc<Fleet>, Vec<Coordinator>)> {
    let clusters = EACH * (rounds + 1);
    let design = Design {
        clusters,
        policy: Some(policy(clusters)),
        ports: ports(3)?,
        stored: false,
        settings: LEASE.to_owned(),
    };
    let fleet = Fleet::furnish(directory, &design).await?;
    let configs = fleet.configs.iter().zip(&design.ports);
    let coordinators = configs.map(|(config, (_, people))| Coordinator {
        config: config.clone(),
        people: *people,
        child: None,
    });
    let coordinators = coordinators.collect();
    Ok((Arc::new(fleet), coordinators))
}

fn agents_port(config: &Path) -> Result<u16> {
    let text = std::fs::read_to_string(config)?;
    let value: toml::Table = text.parse()?;
    let listen = value["listen_agents"].as_str().context("an address")?;
    Ok(listen.rsplit_once(':').context("a port")?.1.parse()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_that_are_killed_and_stopped_lose_no_order_and_double_no_work() -> Result<()> {
    let rounds = rounds();
    let directory = tempfile::tempdir()?;
    let (fleet, mut coordinators) = installed(directory.path(), rounds).await?;
    for coordinator in &mut coordinators {
        coordinator.start()?;
    }
    let ports: Vec<u16> = fleet
        .configs
        .iter()
        .map(|config| agents_port(config))
        .collect::<Result<_>>()?;
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let stop = CancellationToken::new();
    let mut agents = tokio::task::JoinSet::new();
    let mut appear = |round: usize| -> Result<()> {
        for n in round * EACH..(round + 1) * EACH {
            agents.spawn(Agent::new(n, &fleet, &ports, &ledger)?.run(stop.clone()));
        }
        Ok(())
    };
    let all_done = |until: usize| {
        let ledger = ledger.lock().unwrap();
        // The first cluster's base backup is owed for ever.
        let due = (0..until * EACH).flat_map(|n| [(n, Work::BaseBackup), (n, Work::Configuration)]);
        let missing = due.filter(|due| *due != (0, Work::BaseBackup) && !ledger.done.contains(due));
        missing.count() == 0
    };

    appear(0)?;
    let mut owed = None;
    for round in 0..rounds {
        let (at, term) = until("a leader", || async {
            leaders(&coordinators).await.first().copied()
        })
        .await?;
        let words = until("the debt to be shown", || async {
            debt(&coordinators[at].status().await.ok()?).filter(|words| words.contains("freezes it"))
        })
        .await?;
        ensure!(
            owed.as_ref().is_none_or(|before| *before == words),
            "{owed:?} became {words}"
        );
        owed = Some(words);
        // Work is under way, and more falls due, while the leader goes.
        appear(round + 1)?;
        if round % 2 == 0 {
            coordinators[at].kill();
        } else {
            coordinators[at].signal(Signal::STOP)?;
        }
        let (next, later) = until("another leader", || async {
            let others = leaders(&coordinators).await.into_iter();
            others.into_iter().find(|(other, _)| *other != at)
        })
        .await?;
        ensure!(
            later > term,
            "term {later} of coordinator {next} does not follow {term}"
        );
        if round % 2 == 0 {
            coordinators[at].start()?;
        } else {
            coordinators[at].signal(Signal::CONT)?;
            // Its first word is that it leads no more: nothing has to be told to it before.
            let status = until("the one that was stopped to answer", || async {
                coordinators[at].status().await.ok()
            })
            .await?;
            ensure!(
                status["leading"]["here"] == false,
                "it was stopped, and says that it leads: {status:#}"
            );
        }
        until("all that is due to be done", || async {
            all_done(round + 2).then_some(())
        })
        .await?;
    }
    stop.cancel();
    while let Some(ended) = agents.join_next().await {
        ended??;
    }

    let holders = leases(&fleet).await?;
    let ledger = ledger.lock().unwrap();
    let expected = 2 * EACH * (rounds + 1) - 1;
    ensure!(
        ledger.begun.len() == expected,
        "{} kinds of work were begun, {expected} were due",
        ledger.begun.len()
    );
    let doubled: Vec<_> = ledger.begun.iter().filter(|(_, times)| **times != 1).collect();
    ensure!(doubled.is_empty(), "done more than once: {doubled:?}");
    ensure!(
        holders.len() > rounds,
        "{rounds} leaders were taken away, there were only {holders:?}"
    );
    for (agent, terms) in &ledger.terms {
        ensure!(
            terms.is_sorted(),
            "agent {agent} obeyed an earlier term: {terms:?}"
        );
        if let Some(term) = terms.iter().find(|term| !holders.contains_key(term)) {
            bail!("agent {agent} obeyed term {term}, in which nobody led: {holders:?}");
        }
    }
    Ok(())
}

/// Stands between an agent and a coordinator, and keeps the answers while it is told to.
struct Relay {
    port: u16,
    held: watch::Sender<bool>,
    /// Bytes of answers that are kept.
    waiting: watch::Receiver<usize>,
}

impl Relay {
    async fn to(coordinator: u16) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (held, holding) = watch::channel(false);
        let (count, waiting) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((agent, _)) = listener.accept().await {
                let (holding, count) = (holding.clone(), count.clone());
                tokio::spawn(async move {
                    let leader = tokio::net::TcpStream::connect(("127.0.0.1", coordinator)).await?;
                    let (mut from_agent, to_agent) = agent.into_split();
                    let (from_leader, mut to_leader) = leader.into_split();
                    tokio::try_join!(
                        tokio::io::copy(&mut from_agent, &mut to_leader),
                        pass_on(from_leader, to_agent, holding, count),
                    )
                });
            }
        });
        Ok(Self { port, held, waiting })
    }
}

async fn pass_on(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut holding: watch::Receiver<bool>,
    count: watch::Sender<usize>,
) -> std::io::Result<u64> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(0);
        }
        if *holding.borrow() {
            count.send_modify(|count| *count += read);
        }
        let released = holding.wait_for(|held| !held).await;
        released.map_err(std::io::Error::other)?;
        to.write_all(&buffer[..read]).await?;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_former_leader_said_and_wrote_counts_for_nothing_when_it_comes_late() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (fleet, mut coordinators) = installed(directory.path(), 0).await?;
    coordinators[0].start()?;
    let (_, term) = until("a first leader", || async {
        leaders(&coordinators).await.first().copied()
    })
    .await?;
    coordinators[1].start()?;
    until("a standby", || async {
        let status = coordinators[1].status().await.ok()?;
        (status["leading"]["coordinator"] == "coordinator-1").then_some(())
    })
    .await?;

    // One agent on two lines: its calls to the first coordinator go through the relay.
    let mut relay = Relay::to(agents_port(&fleet.configs[0])?).await?;
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let agent = Agent::new(1, &fleet, &[relay.port], &ledger)?;
    let other = Agent::new(1, &fleet, &[agents_port(&fleet.configs[1])?], &ledger)?;
    let heartbeat = agent.heartbeat();
    let first = until("work to be given", || async {
        let orders = agent.caller.call(&heartbeat, &agent.terms).await.ok()?;
        (!orders.assignments.is_empty()).then_some(orders)
    })
    .await?;
    ensure!(first.term == term, "{first:?}");

    // The leader gives the same orders once more. They are kept on the way, and it is stopped.
    relay.held.send_replace(true);
    let late = async {
        let late = agent.caller.call(&heartbeat, &agent.terms).await;
        late.map_or_else(|error| error.to_string(), |orders| format!("{orders:?}"))
    };
    let meanwhile = async {
        relay.waiting.wait_for(|bytes| *bytes > 0).await?;
        coordinators[0].signal(Signal::STOP)?;
        let orders = until("orders of another leader", || async {
            other.caller.call(&heartbeat, &agent.terms).await.ok()
        })
        .await?;
        relay.held.send_replace(false);
        anyhow::Ok(orders.term)
    };
    let (late, later) = tokio::join!(late, meanwhile);
    let later = later?;
    ensure!(later > term, "term {later} does not follow {term}");
    ensure!(
        late.contains(&format!(
            "gives orders of term {term}, and those of term {later} were obeyed"
        )),
        "orders that came late were not refused: {late}"
    );

    // Nor can it renew: that write, on its way since before it was stopped, comes too late.
    let trust = Trust::load(&fleet.repository, &fleet.root).await?;
    let authority = &fleet.repository.replicas()[0];
    let own = SigningKey::load(&fleet.directory.join("coordinator-1.key"))?;
    let renewal = lead::body(
        later,
        &"coordinator-1".parse()?,
        "its own",
        term,
        Duration::from_secs(2),
        now(),
    );
    ensure!(
        !Claim::new(&trust, renewal, &own).ask(authority).await?,
        "it renewed its lease with the number that the other one has"
    );

    coordinators[0].signal(Signal::CONT)?;
    let status = until("the one that was stopped to answer", || async {
        coordinators[0].status().await.ok()
    })
    .await?;
    ensure!(status["leading"]["here"] == false, "{:#}", status["leading"]);
    let refused = agent.caller.call(&heartbeat, &agent.terms).await;
    let refused = refused.map_or_else(|error| error.to_string(), |orders| format!("{orders:?}"));
    ensure!(refused.contains("421"), "it gives orders: {refused}");
    leases(&fleet).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_ends_in_order_hands_over_and_its_state_is_not_missed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (fleet, mut coordinators) = installed(directory.path(), 0).await?;
    coordinators[0].start()?;
    until("a first leader", || async {
        leaders(&coordinators).await.first().copied()
    })
    .await?;
    let ports = [agents_port(&fleet.configs[0])?, agents_port(&fleet.configs[1])?];
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let stop = CancellationToken::new();
    let mut agents = tokio::task::JoinSet::new();
    for n in 0..EACH {
        agents.spawn(Agent::new(n, &fleet, &ports, &ledger)?.run(stop.clone()));
    }
    let settled = async |coordinator: &Coordinator| {
        until("all to be done and shown", || async {
            let status = coordinator.status().await.ok()?;
            answers(&status).filter(|answers| status["leading"]["here"] == true && answers.len() == EACH)
        })
        .await
    };
    let before = settled(&coordinators[0]).await?;
    coordinators[1].start()?;
    let standby = until("a standby", || async {
        let status = coordinators[1].status().await.ok()?;
        (status["leading"]["coordinator"] == "coordinator-1").then_some(status)
    })
    .await?;
    ensure!(standby["leading"]["here"] == false, "{standby:#}");

    // It is handed over at once: the lease is given back.
    coordinators[0].signal(Signal::TERM)?;
    let (at, term) = until("a second leader", || async {
        leaders(&coordinators[1..]).await.first().copied()
    })
    .await?;
    ensure!(at == 0, "the only other one leads");
    if let Some(mut child) = coordinators[0].child.take() {
        child.wait()?;
    }
    // What the first one kept is gone; as a standby, and as the leader again, it answers the same.
    std::fs::remove_dir_all(directory.path().join("state-coordinator-1"))?;
    coordinators[0].start()?;
    until("the first to be a standby", || async {
        let status = coordinators[0].status().await.ok()?;
        (status["leading"]["coordinator"] == "coordinator-2").then_some(())
    })
    .await?;
    coordinators[1].kill();
    let (_, later) = until("the first to lead again", || async {
        leaders(&coordinators[..1]).await.first().copied()
    })
    .await?;
    ensure!(later > term, "term {later} does not follow {term}");
    let after = settled(&coordinators[0]).await?;
    ensure!(before == after, "{before:#?} became {after:#?}");
    stop.cancel();
    while let Some(ended) = agents.join_next().await {
        ended??;
    }
    let begun = ledger.lock().unwrap().begun.clone();
    ensure!(
        begun.len() == 2 * EACH - 1 && begun.values().all(|times| *times == 1),
        "{begun:?}"
    );
    let holders = leases(&fleet).await?;
    let holders: Vec<&str> = holders.values().map(String::as_str).collect();
    ensure!(
        holders == ["coordinator-1", "coordinator-2", "coordinator-1"],
        "{holders:?}"
    );
    Ok(())
}
