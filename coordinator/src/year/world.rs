//! The fleet, its stores and its coordinator, under a virtual clock.
//!
//! What is real: the desk with its state, the book, the planner, the facts that it
//! plans from, the way a heartbeat is heard, and the findings. What is made up:
//! agents, that begin what they are told and take their time; the repository, as a
//! survey would see it; and everything that goes wrong.
//!
//! WAL never stops being written, so a position is a moment: the position at a moment
//! is that moment's number. What is lost at a moment is the time since the last one
//! that was stored.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use holdfast_plan::policy::ClusterPolicy;
use holdfast_plan::restore::Rates;
use holdfast_plan::rpo::ReplicaWal;
use holdfast_plan::schedule::{Act, Held};
use holdfast_proto::Timestamp;
use holdfast_proto::finding::Severity;
use holdfast_proto::message::{
    AssignmentResult, ClusterFacts, FilestoreFacts, Heartbeat, Progress, WalFacts, Work,
};
use holdfast_proto::names::{ActorName, BackupId, ClusterId, DrillId, Lineage, TierName, WorkId};
use holdfast_proto::pg::{Lsn, SegmentSize, TimelineId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::desk::{Desk, State};
use crate::facts;
use crate::findings;
use crate::loops::schedule;
use crate::memory;
use crate::server::agents;
use crate::survey::{Attestation, BaseSeen, DrillResult, DrillSeen};

pub const REGIONS: [&str; 2] = ["east", "west"];
pub const SECOND: i64 = 1_000;
pub const MINUTE: i64 = 60 * SECOND;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;

/// Between an agent's heartbeats.
const HEARTBEAT: i64 = 5 * SECOND;

/// How long after it was broken an objective must have been reported.
const ALERT: i64 = MINUTE;

/// A cluster with its agent.
pub struct Site {
    pub cluster: ClusterId,
    agent: ActorName,
    lineage: Lineage,
    filestores: bool,
    /// Since when the agent's process is dead.
    dead: Option<Timestamp>,
    tier: TierName,
    /// The coordinator hears it.
    heard: bool,
    /// How far the agent's clock is ahead.
    skew: i64,
    /// Work under way.
    busy: BTreeMap<Work, Busy>,
    done: Vec<AssignmentResult>,
    /// What fails next.
    fails_next: bool,
    /// When what is stored stopped growing; `None` while it grows.
    stuck: Option<Timestamp>,
    /// The newest base backup: its number, and when it was committed.
    base: Option<(u128, Timestamp)>,
    checkpoint: Option<Timestamp>,
    bundle: Option<Timestamp>,
    /// When the planner wants to look next.
    next: Option<Timestamp>,
    /// When something last went wrong for it.
    troubled: Timestamp,
}

/// Work under way.
#[derive(Debug, Clone, Copy)]
struct Busy {
    id: WorkId,
    since: Timestamp,
    ends: Timestamp,
}

/// Something that happens at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// Look at a site.
    Look(usize),
    /// Work of a site ends.
    Ends(usize, Work),
    /// An agent's process dies, with what it does and knows.
    Dies(usize),
    /// It starts anew.
    Rises(usize),
    /// The coordinator hears it no more.
    Cut(usize),
    /// It is heard again.
    Joined(usize),
    /// Its clock jumps.
    Jumps(usize, i64),
    /// The next work fails.
    Fails(usize),
    /// A store fails.
    StoreDown(usize),
    /// It answers again.
    StoreUp(usize),
    /// The coordinator is killed; whether what it remembers is lost too.
    Killed(bool),
    /// It starts anew.
    Started,
    /// An objective has been broken for a minute: it must have been reported.
    Due(usize, Timestamp),
    /// The runner of drills is away.
    RunnerAway,
    /// It works again.
    RunnerBack,
    /// A site's drill by this rule of its tier is to begin.
    Drill(usize, usize),
    /// It has its result.
    Drilled(usize, usize),
    /// By now a drill must have passed since then, or its absence be reported.
    Cadence(usize, usize, Timestamp),
}

pub struct World {
    pub now: Timestamp,
    pub desk: Desk,
    pub sites: Vec<Site>,
    rng: StdRng,
    agenda: BinaryHeap<Reverse<(Timestamp, u64, Event)>>,
    serial: u64,
    coordinator: bool,
    stores: [bool; 2],
    runner: bool,
    /// When each rule of each site's tier was last proven.
    proven: BTreeMap<(usize, usize), DrillSeen>,
    /// When the coordinator or a store last changed between well and not.
    troubled: Timestamp,
    /// Sites with work under way, and sites that wait for room.
    working: BTreeSet<usize>,
    queued: BTreeSet<usize>,
    by_name: BTreeMap<ClusterId, usize>,
    pub seen: Seen,
    hasher: blake3::Hasher,
}

/// What was counted.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Seen {
    pub events: u64,
    pub given: BTreeMap<&'static str, u64>,
    pub bases: u64,
    /// Of those, out of turn: replay would have taken too long.
    pub relieved: u64,
    pub failed: u64,
    pub held_frozen: u64,
    pub held_full: u64,
    pub broken: u64,
    pub alarmed: u64,
    /// How often a site that was well was looked at for alarms.
    pub quiet: u64,
    pub drills: u64,
    pub cadence_broken: u64,
    pub most_under_way: usize,
    /// Everything that must not be.
    pub wrong: Vec<String>,
}

impl World {
    pub fn new(desk: Desk, seed: u64, start: Timestamp) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let policy = desk.policy();
        let sites: Vec<Site> = policy
            .clusters()
            .enumerate()
            .map(|(n, policy)| Site {
                cluster: policy.cluster.clone(),
                // Two clusters to a host.
                agent: format!("host-{}", n / 2).parse().expect("a name"),
                lineage: format!("{}-1", 7_000_000_000_000_000_000 + n as u64)
                    .parse()
                    .expect("a lineage"),
                filestores: rng.random_bool(0.5),
                dead: None,
                tier: policy.tier.name.clone(),
                heard: true,
                skew: 0,
                busy: BTreeMap::new(),
                done: Vec::new(),
                fails_next: false,
                stuck: None,
                base: None,
                checkpoint: None,
                bundle: None,
                next: None,
                troubled: start,
            })
            .collect();
        let by_name = sites
            .iter()
            .enumerate()
            .map(|(n, s)| (s.cluster.clone(), n))
            .collect();
        let mut world = Self {
            now: start,
            desk,
            rng,
            agenda: BinaryHeap::new(),
            serial: 0,
            coordinator: true,
            stores: [true; 2],
            runner: true,
            proven: BTreeMap::new(),
            troubled: start,
            working: BTreeSet::new(),
            queued: BTreeSet::new(),
            by_name,
            seen: Seen::default(),
            hasher: blake3::Hasher::new(),
            sites,
        };
        for n in 0..world.sites.len() {
            let soon = world.rng.random_range(0..HOUR);
            world.at(soon, Event::Look(n));
            for rule in 0..world.policy_of(n).tier.drills.len() {
                let first = world.rng.random_range(DAY..5 * DAY);
                world.at(first, Event::Drill(n, rule));
            }
        }
        world
    }

    /// Puts an event on the agenda, so many milliseconds from now.
    pub fn at(&mut self, after: i64, event: Event) {
        self.serial += 1;
        let when = self.now.plus_millis(after);
        self.agenda.push(Reverse((when, self.serial, event)));
    }

    fn trace(&mut self, words: std::fmt::Arguments<'_>) {
        self.hasher.update(format!("{} {words}\n", self.now).as_bytes());
    }

    /// A digest of everything that happened.
    pub fn digest(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }

    fn wrong(&mut self, what: String) {
        if self.seen.wrong.len() < 20 {
            self.seen.wrong.push(format!("{}: {what}", self.now));
        }
    }

    pub fn run(&mut self, until: Timestamp) {
        while let Some(Reverse((when, _, event))) = self.agenda.pop() {
            if when > until {
                break;
            }
            self.now = when;
            self.seen.events += 1;
            self.happen(event);
        }
    }

    fn policy_of(&self, n: usize) -> ClusterPolicy {
        let policy = self.desk.policy();
        policy
            .cluster_at(&self.sites[n].cluster, self.now)
            .expect("the policy names every site")
    }

    fn happen(&mut self, event: Event) {
        let now = self.now;
        if let Event::Dies(n)
        | Event::Rises(n)
        | Event::Cut(n)
        | Event::Joined(n)
        | Event::Jumps(n, _)
        | Event::Fails(n) = event
        {
            self.sites[n].troubled = now;
        }
        if let Event::StoreDown(_) | Event::StoreUp(_) | Event::Killed(_) | Event::Started = event {
            self.troubled = now;
        }
        match event {
            Event::Look(n) => self.look(n),
            Event::Ends(n, work) => self.ends(n, work),
            Event::Dies(n) => {
                self.trace(format_args!("dies {n}"));
                let site = &mut self.sites[n];
                site.dead.get_or_insert(now);
                site.busy.clear();
                site.done.clear();
                self.working.remove(&n);
                self.flow(n);
            }
            Event::Rises(n) => {
                self.trace(format_args!("rises {n}"));
                self.sites[n].dead = None;
                self.flow(n);
                self.at(HEARTBEAT, Event::Look(n));
            }
            Event::Cut(n) => self.sites[n].heard = false,
            Event::Joined(n) => {
                self.sites[n].heard = true;
                self.at(HEARTBEAT, Event::Look(n));
            }
            Event::Jumps(n, by) => self.sites[n].skew += by,
            Event::Fails(n) => self.sites[n].fails_next = true,
            Event::StoreDown(region) => {
                self.trace(format_args!("store {region} down"));
                self.stores[region] = false;
                (0..self.sites.len()).for_each(|n| self.flow(n));
            }
            Event::StoreUp(region) => {
                self.trace(format_args!("store {region} up"));
                self.stores[region] = true;
                (0..self.sites.len()).for_each(|n| self.flow(n));
            }
            Event::Killed(forgets) => {
                self.trace(format_args!("coordinator killed, forgets {forgets}"));
                self.coordinator = false;
                self.kill(forgets);
                self.at(20 * SECOND, Event::Started);
            }
            Event::Started => {
                self.coordinator = true;
                self.queued.clear();
                for n in 0..self.sites.len() {
                    let after = self.rng.random_range(SECOND..2 * HEARTBEAT);
                    self.at(after, Event::Look(n));
                }
            }
            Event::Due(n, since) => self.must_be_reported(n, since),
            Event::RunnerAway => self.runner = false,
            Event::RunnerBack => self.runner = true,
            Event::Drill(n, rule) => self.drill(n, rule),
            Event::Drilled(n, rule) => self.drilled(n, rule),
            Event::Cadence(n, rule, passed) => self.cadence(n, rule, passed),
        }
    }

    /// The process dies: its memory goes, and what it wrote down goes too when it is told to.
    fn kill(&mut self, forgets: bool) {
        let kept = memory::rows(&self.desk.state(), &self.desk.governing.written());
        let mut state = State {
            book_term: self.desk.lead.term(),
            ..State::default()
        };
        if !forgets {
            memory::restore(&kept, &mut state);
        }
        *self.desk.state() = state;
        self.desk.started = self.now.plus_millis(20 * SECOND);
    }

    /// Whether WAL of the site reaches as many replicas as its tier asks for.
    fn flows(&self, n: usize) -> bool {
        let up = self.stores.iter().filter(|up| **up).count();
        self.sites[n].dead.is_none() && up >= self.policy_of(n).tier.copies_before_ack as usize
    }

    /// Begins or ends a stop of the WAL, and notes when that breaks the objective.
    fn flow(&mut self, n: usize) {
        match (self.flows(n), self.sites[n].stuck) {
            (false, None) => {
                self.sites[n].stuck = Some(self.now);
                let rpo = self.policy_of(n).tier.rpo.signed_millis();
                let since = self.now;
                self.at(rpo + ALERT, Event::Due(n, since));
            }
            (true, Some(_)) => self.sites[n].stuck = None,
            _ => {}
        }
    }

    /// The objective of a site has been broken for a minute.
    fn must_be_reported(&mut self, n: usize, since: Timestamp) {
        if self.sites[n].stuck != Some(since) {
            return;
        }
        if !self.coordinator {
            return self.at(20 * SECOND + ALERT, Event::Due(n, since));
        }
        self.seen.broken += 1;
        self.observe(n);
        let critical = self.alarms(n, Severity::Critical);
        if critical
            .iter()
            .any(|name| ["rpo-missed", "rpo-unknown", "base-missing"].contains(&name.as_str()))
        {
            self.seen.alarmed += 1;
        } else {
            let cluster = &self.sites[n].cluster;
            let text = format!(
                "{cluster} loses more than its objective since {since}, and only {critical:?} is said"
            );
            self.wrong(text);
        }
    }

    /// The runner begins a drill, unless it is away, nothing can be restored, or a
    /// calendar keeps drills from the cluster.
    fn drill(&mut self, n: usize, rule: usize) {
        let frozen = self
            .desk
            .policy()
            .in_force(&self.sites[n].cluster, self.now)
            .is_some_and(|in_force| in_force.frozen.drill);
        let after = if !self.runner || frozen || self.sites[n].base.is_none() {
            return self.at(HOUR, Event::Drill(n, rule));
        } else {
            self.rng.random_range(10 * MINUTE..50 * MINUTE)
        };
        self.at(after, Event::Drilled(n, rule));
    }

    fn drilled(&mut self, n: usize, rule: usize) {
        if !self.runner || self.rng.random_bool(0.02) {
            // It came to no result: the next one is tomorrow's.
            return self.at(DAY, Event::Drill(n, rule));
        }
        self.seen.drills += 1;
        let wanted = self.policy_of(n).tier.drills[rule].clone();
        let seen = DrillSeen {
            recovery: None,
            id: DrillId::from_parts(self.now, self.rng.random()),
            cluster: self.sites[n].cluster.clone(),
            scenario: wanted.scenario.to_string(),
            level: wanted.level.to_string(),
            began: self.now,
            deadline: None,
            result: Some(DrillResult {
                verdict: "PASS".to_owned(),
                at: self.now,
                rto_ms: None,
                reasons: Vec::new(),
            }),
        };
        self.trace(format_args!("drilled {n} {rule}"));
        self.proven.insert((n, rule), seen);
        let every = wanted.every.signed_millis();
        self.at(every - every / 5, Event::Drill(n, rule));
        let passed = self.now;
        self.at(every + ALERT, Event::Cadence(n, rule, passed));
    }

    fn cadence(&mut self, n: usize, rule: usize, passed: Timestamp) {
        let last = self
            .proven
            .get(&(n, rule))
            .and_then(|drill| drill.result.as_ref());
        if last.is_none_or(|result| result.at != passed) {
            return;
        }
        if !self.coordinator {
            return self.at(20 * SECOND + ALERT, Event::Cadence(n, rule, passed));
        }
        self.seen.cadence_broken += 1;
        self.show_drills();
        let said = self.alarms(n, Severity::Warning);
        if !said.iter().any(|name| name == "drill-overdue") {
            let cluster = &self.sites[n].cluster;
            let text =
                format!("{cluster} was last proven at {passed}, too long ago, and only {said:?} is said");
            self.wrong(text);
        }
    }

    /// The coordinator reads the evidence log.
    fn show_drills(&mut self) {
        let mut state = self.desk.state();
        state.proven.listed = Some(self.now);
        state.proven.show(self.proven.values().cloned());
    }

    /// Where nothing has gone wrong for hours, nothing is reported: an alarm that cries
    /// for nothing is one that nobody hears. Looked at now and then.
    fn must_be_quiet(&mut self, n: usize) {
        let site = &self.sites[n];
        let calm = |since: Timestamp| self.now.millis_since(since) > 6 * 3_600_000;
        let well =
            self.stores.iter().all(|up| *up) && site.dead.is_none() && site.heard && site.base.is_some();
        if !well || !calm(site.troubled) || !calm(self.troubled) || !self.rng.random_bool(0.02) {
            return;
        }
        self.seen.quiet += 1;
        let said = self.alarms(n, Severity::Critical);
        if !said.is_empty() {
            let text = format!("{} is well, and {said:?} is said", self.sites[n].cluster);
            self.wrong(text);
        }
    }

    /// Names of the findings of a site.
    pub fn alarms(&self, n: usize, least: Severity) -> Vec<String> {
        let state = self.desk.state();
        findings::derive_of(&state, &self.desk, &self.sites[n].cluster, self.now)
            .into_iter()
            .filter(|finding| finding.severity >= least)
            .map(|finding| finding.name)
            .collect()
    }

    /// Where the log of every server is: a byte in two microseconds, 43 gigabytes a day.
    /// A day of that is more than a platinum cluster may replay.
    fn position(at: Timestamp) -> Lsn {
        Lsn::new(u64::try_from(at.unix_micros()).expect("moments after 1970") / 2)
    }

    /// Whether what was written from `from` to `to` takes longer to replay than the policy
    /// bears, by the rates of a cluster of which no restore was measured.
    fn burdens(&self, n: usize, from: Timestamp, to: Timestamp) -> bool {
        let tier = &self.policy_of(n).tier;
        let bytes = Self::position(to).get() - Self::position(from).get();
        let seconds = bytes as f64 / Rates::default().replay as f64;
        to.millis_since(from) >= HOUR as u64
            && seconds * 1000.0 > tier.rto.millis() as f64 * f64::from(tier.replay_share) / 100.0
    }

    /// The coordinator sees what is true: it lists the stores, and hears the agent.
    fn observe(&mut self, n: usize) {
        let now = self.now;
        let site = &self.sites[n];
        // What is written reaches a store within three seconds while the agent lives.
        let written = site.dead.unwrap_or(now).plus_millis(-3 * SECOND);
        let acknowledged = site.stuck.unwrap_or(now).plus_millis(-3 * SECOND);
        let mut state = self.desk.state();
        let survey = state.surveys.entry(site.cluster.clone()).or_default();
        survey.wal = (0..2)
            .map(|region| ReplicaWal {
                region: REGIONS[region].parse().expect("a region"),
                end: self.stores[region].then(|| Self::position(written)),
            })
            .collect();
        survey.near = Some(now);
        if self.stores.iter().any(|up| *up) {
            survey.listed = Some(now);
            survey.lineage = Some(site.lineage);
            survey.bundle = site.bundle;
            survey.filestores = BTreeMap::from([("files".to_owned(), site.checkpoint)]);
            survey.bases = u64::from(site.base.is_some());
            survey.base = site.base.map(|(id, committed)| BaseSeen {
                id: BackupId::from_parts(committed, id),
                stopped: committed,
                committed,
                timeline: TimelineId::new(1).expect("one"),
                start: Self::position(committed),
                segment_size: SegmentSize::new(16 << 20).expect("16 MiB"),
                bytes: 1 << 30,
                regions: REGIONS.map(|r| r.parse().expect("a region")).to_vec(),
            });
            let said = site.dead.unwrap_or(now);
            survey.attestation = Some(Attestation {
                // Stored by then, by the store's clock.
                at: said.plus_millis(site.skew.min(0)),
                heard: said.plus_millis(site.skew.min(0)),
                timeline: TimelineId::new(1).expect("one"),
                server_flush: Self::position(said),
                acknowledged: Self::position(acknowledged),
                rpo_ms: said.millis_since(acknowledged),
            });
        }
        drop(state);
        if site.dead.is_none() && site.heard {
            self.hear(n, acknowledged);
        }
    }

    /// The agent's heartbeat, and what it begins by the answer.
    fn hear(&mut self, n: usize, acknowledged: Timestamp) {
        let now = self.now;
        let site = &mut self.sites[n];
        let working = site.busy.iter().map(|(work, busy)| Progress {
            id: Some(busy.id),
            work: *work,
            since: busy.since,
            done: 0,
            total: 0,
        });
        let files = FilestoreFacts {
            filestore: "files".parse().expect("a name"),
            entry: None,
            files: 0,
            bytes: 0,
            scanned: Some(now),
        };
        let facts = ClusterFacts {
            cluster: site.cluster.clone(),
            tier: site.tier.clone(),
            labels: Default::default(),
            lineage: Some(site.lineage),
            wal: Some(WalFacts {
                timeline: TimelineId::new(1).expect("one"),
                server_flush: Self::position(now),
                received: Self::position(now),
                acknowledged: Self::position(acknowledged),
                replicas: Vec::new(),
                rpo_ms: now.millis_since(acknowledged),
                heard_ms: Some(0),
                last_commit: Some(acknowledged),
                slot_retained: None,
            }),
            filestores: site.filestores.then_some(files).into_iter().collect(),
            last_base: None,
            last_point: None,
            working: working.collect(),
            findings: Vec::new(),
            requests: Vec::new(),
        };
        let heartbeat = Heartbeat {
            agent: site.agent.clone(),
            version: "simulated".to_owned(),
            at: now.plus_millis(site.skew),
            clusters: vec![facts],
            done: std::mem::take(&mut site.done),
        };
        let agent = site.agent.clone();
        let orders = agents::hear(&self.desk, &agent, heartbeat, super::TERM, now);
        for order in orders.assignments {
            if order.cluster == self.sites[n].cluster {
                self.begin(n, order.work, order.id);
            }
        }
    }

    fn begin(&mut self, n: usize, work: Work, id: WorkId) {
        let now = self.now;
        match self.sites[n].busy.get(&work) {
            Some(busy) if busy.id == id => return,
            Some(busy) => {
                let text = format!(
                    "{} is to make a second {work:?} ({id}) while it makes {}",
                    self.sites[n].cluster, busy.id
                );
                return self.wrong(text);
            }
            None => {}
        }
        if work == Work::BaseBackup {
            let policy = self.desk.policy();
            // It was given by the heartbeat before.
            let asked = now.plus_millis(-2 * HEARTBEAT);
            let frozen = |at| {
                policy
                    .in_force(&self.sites[n].cluster, at)
                    .is_some_and(|f| f.frozen.base_backup)
            };
            if frozen(now) && frozen(asked) {
                let text = format!("{} begins a base backup inside a freeze", self.sites[n].cluster);
                self.wrong(text);
            }
        }
        let length = match work {
            Work::BaseBackup if self.rng.random_bool(0.03) => self.rng.random_range(HOUR..4 * HOUR),
            Work::BaseBackup => self.rng.random_range(4 * MINUTE..40 * MINUTE),
            Work::FilestoreCheckpoint => self.rng.random_range(2 * MINUTE..20 * MINUTE),
            Work::Configuration => self.rng.random_range(2 * SECOND..20 * SECOND),
        };
        self.trace(format_args!("begins {n} {work:?} {id}"));
        let ends = now.plus_millis(length);
        self.sites[n].busy.insert(work, Busy { id, since: now, ends });
        self.working.insert(n);
        self.seen.most_under_way = self.seen.most_under_way.max(self.working.len());
        self.at(length, Event::Ends(n, work));
    }

    fn ends(&mut self, n: usize, work: Work) {
        let now = self.now;
        let ours = self.sites[n]
            .busy
            .get(&work)
            .filter(|busy| busy.ends == now)
            .copied();
        let Some(busy) = ours else { return };
        let flows = self.flows(n);
        let site = &mut self.sites[n];
        site.busy.remove(&work);
        let failed = std::mem::take(&mut site.fails_next) || !flows;
        self.trace(format_args!("ends {n} {work:?} {} {failed}", busy.id));
        if failed {
            self.seen.failed += 1;
            self.sites[n].troubled = now;
        } else if work == Work::BaseBackup {
            self.stored_base(n, busy);
        } else if work == Work::FilestoreCheckpoint {
            self.sites[n].checkpoint = Some(now);
        } else {
            self.sites[n].bundle = Some(now);
        }
        let site = &mut self.sites[n];
        site.done.push(AssignmentResult {
            id: busy.id,
            at: now.plus_millis(site.skew),
            outcome: if failed {
                Err("simulated".to_owned())
            } else {
                Ok(String::new())
            },
        });
        self.at(HEARTBEAT, Event::Look(n));
    }

    /// A base backup is complete. Was it asked for?
    fn stored_base(&mut self, n: usize, busy: Busy) {
        self.seen.bases += 1;
        let policy = self.policy_of(n);
        if let Some((_, before)) = self.sites[n].base {
            let fired = policy.schedule(Work::BaseBackup).next(policy.zone.tz(), before);
            let fired = fired.is_some_and(|fired| fired <= busy.since);
            // Out of turn, because a restore would replay for too long.
            self.seen.relieved += u64::from(!fired);
            if !fired && !self.burdens(n, before, busy.since) {
                let text = format!(
                    "{} made a base backup at {} that nobody needed: the one before is of {before}",
                    self.sites[n].cluster, busy.since
                );
                self.wrong(text);
            }
        }
        let id = self.rng.random();
        self.sites[n].base = Some((id, self.now));
    }

    /// The coordinator plans, for a site, and for all that take or wait for room.
    fn look(&mut self, n: usize) {
        if self.sites[n].next == Some(self.now) {
            self.sites[n].next = None;
        }
        if !self.coordinator {
            return;
        }
        let mut awake = &self.working | &self.queued;
        awake.insert(n);
        for site in &awake {
            self.observe(*site);
        }
        let names = awake.iter().map(|site| &self.sites[*site].cluster);
        let decisions = {
            let mut state = self.desk.state();
            let facts = facts::schedule_of(&state, &self.desk.places, names, self.now);
            let rng = &mut self.rng;
            schedule::decide(&mut state, &self.desk, &facts, self.now, &mut || rng.random()).0
        };
        self.must_be_quiet(n);
        let mut next: Option<Timestamp> = None;
        let mut waits = BTreeSet::new();
        for decision in decisions {
            let site = self.by_name[&decision.cluster];
            match decision.act {
                Act::Give { agent, .. } => {
                    self.trace(format_args!("gives {site} {:?} to {agent}", decision.work));
                    *self.seen.given.entry(word(decision.work)).or_default() += 1;
                    self.working.insert(site);
                    self.at(HEARTBEAT, Event::Look(site));
                }
                Act::Hold {
                    held: Held::Full { .. },
                    ..
                } => {
                    self.seen.held_full += 1;
                    waits.insert(site);
                }
                Act::Hold { held, .. } if site == n => {
                    let until = match held {
                        Held::Frozen { until, .. } => {
                            self.seen.held_frozen += 1;
                            Some(until)
                        }
                        Held::Failed { until, .. } | Held::Leased { until, .. } => {
                            Some(until.plus_millis(SECOND))
                        }
                        Held::NotListed => Some(self.now.plus_millis(MINUTE)),
                        _ => None,
                    };
                    next = next.into_iter().chain(until).min();
                }
                Act::Rest { next: at } if site == n => next = next.into_iter().chain(at).min(),
                _ => {}
            }
        }
        for site in &awake {
            if !waits.contains(site) {
                self.queued.remove(site);
            }
        }
        self.queued.extend(waits);
        let idle: Vec<usize> = awake
            .into_iter()
            .filter(|site| self.sites[*site].busy.is_empty() && !self.leased(*site))
            .collect();
        for site in idle {
            self.working.remove(&site);
        }
        if let Some(at) = next
            && at > self.now
            && self.sites[n].next.is_none_or(|planned| planned > at)
        {
            self.sites[n].next = Some(at);
            self.serial += 1;
            self.agenda.push(Reverse((at, self.serial, Event::Look(n))));
        }
    }

    fn leased(&self, n: usize) -> bool {
        let state = self.desk.state();
        holdfast_plan::schedule::WORKS.into_iter().any(|work| {
            let line = state.book.line(&self.sites[n].cluster, work);
            line.is_some_and(|line| line.open.as_ref().is_some_and(|open| open.lease_until > self.now))
        })
    }
}

fn word(work: Work) -> &'static str {
    match work {
        Work::BaseBackup => "base",
        Work::FilestoreCheckpoint => "checkpoint",
        Work::Configuration => "configuration",
    }
}
