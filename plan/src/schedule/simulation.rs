//! A coordinator and its agents under a simulated clock.
//!
//! Planner and book are the real ones. Agents are small machines that begin
//! what they are told, take their time, fail, die and come back without memory,
//! and fall silent; the coordinator restarts with an empty book, and its
//! listing of the repository is late. Whatever happens, an agent must never be
//! asked for a second base backup while it makes one.

use std::collections::BTreeMap;

use holdfast_proto::Timestamp;
use holdfast_proto::message::{self, AssignmentResult, Progress, Work};
use holdfast_proto::names::{ActorName, ClusterId, WorkId};
use proptest::prelude::*;

use super::*;

const TICK: i64 = 5_000;

/// One step of five seconds: what goes wrong in it.
#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    /// The agent is killed and starts anew.
    Kill(usize),
    /// The agent is cut off for so many steps.
    Cut(usize, u8),
    /// The work under way fails.
    Fail(usize),
    /// The coordinator starts anew with an empty book.
    Forget,
    /// The repository cannot be listed for so many steps.
    Blind(u8),
    /// Hours pass in which everybody is stopped.
    Sleep(u8),
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        30 => Just(Fault::None),
        2 => (0..3usize).prop_map(Fault::Kill),
        2 => (0..3usize, 1..30u8).prop_map(|(a, n)| Fault::Cut(a, n)),
        2 => (0..3usize).prop_map(Fault::Fail),
        1 => Just(Fault::Forget),
        1 => (1..30u8).prop_map(Fault::Blind),
        1 => (1..48u8).prop_map(Fault::Sleep),
    ]
}

#[derive(Debug, Default)]
struct Agent {
    /// Base backup under way: lease, begun, steps left.
    busy: Option<(WorkId, Timestamp, u8)>,
    /// Results not answered yet.
    done: Vec<AssignmentResult>,
    cut: u8,
}

#[derive(Debug)]
struct World {
    now: Timestamp,
    policy: Policy,
    patience: Patience,
    agents: BTreeMap<ClusterId, Agent>,
    stored: BTreeMap<ClusterId, Vec<Timestamp>>,
    blind: u8,
    listed: Option<Timestamp>,
    listing: BTreeMap<ClusterId, Timestamp>,
    book: Book,
    heard: BTreeMap<ClusterId, (Timestamp, bool)>,
    ids: u128,
    trace: Vec<String>,
}

fn name(cluster: &ClusterId) -> ActorName {
    cluster.cluster.as_str().parse().unwrap()
}

impl World {
    fn new() -> Self {
        let clusters = ["acme/one", "acme/two", "beta/three"];
        let text: String = clusters
            .iter()
            .map(|c| {
                format!("[[cluster]]\ncluster = \"{c}\"\ntier = \"gold\"\ntime_zone = \"America/New_York\"\n")
            })
            .collect();
        Self {
            now: "2026-10-31T20:00:00Z".parse().unwrap(),
            policy: Policy::parse(&text, "p").unwrap(),
            patience: Patience::default(),
            agents: clusters
                .iter()
                .map(|c| (c.parse().unwrap(), Agent::default()))
                .collect(),
            stored: BTreeMap::new(),
            blind: 0,
            listed: None,
            listing: BTreeMap::new(),
            book: Book::default(),
            heard: BTreeMap::new(),
            ids: 0,
            trace: Vec::new(),
        }
    }

    fn apply(&mut self, fault: Fault) {
        let clusters: Vec<ClusterId> = self.agents.keys().cloned().collect();
        let failed = |id: WorkId, at| AssignmentResult {
            id,
            at,
            outcome: Err("simulated".to_owned()),
        };
        match fault {
            Fault::None => {}
            Fault::Kill(n) => *self.agents.get_mut(&clusters[n]).unwrap() = Agent::default(),
            Fault::Cut(n, steps) => self.agents.get_mut(&clusters[n]).unwrap().cut = steps,
            Fault::Fail(n) => {
                let agent = self.agents.get_mut(&clusters[n]).unwrap();
                if let Some((id, ..)) = agent.busy.take() {
                    agent.done.push(failed(id, self.now));
                }
            }
            Fault::Forget => {
                self.book = Book::default();
                self.heard.clear();
                self.listed = None;
            }
            Fault::Blind(steps) => self.blind = steps,
            Fault::Sleep(hours) => self.now = self.now.plus_millis(i64::from(hours) * 1_800_000),
        }
    }

    fn step(&mut self) {
        self.now = self.now.plus_millis(TICK);
        self.work();
        self.list();
        self.schedule();
        self.talk();
    }

    fn work(&mut self) {
        for (cluster, agent) in &mut self.agents {
            if let Some((id, _, left)) = &mut agent.busy {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    agent.done.push(AssignmentResult {
                        id: *id,
                        at: self.now,
                        outcome: Ok("made".to_owned()),
                    });
                    agent.busy = None;
                    self.stored.entry(cluster.clone()).or_default().push(self.now);
                }
            }
        }
    }

    fn list(&mut self) {
        self.blind = self.blind.saturating_sub(1);
        if self.blind == 0 {
            self.listed = Some(self.now);
            self.listing = self
                .stored
                .iter()
                .map(|(c, all)| (c.clone(), *all.last().unwrap()))
                .collect();
        }
    }

    fn facts(&self) -> Vec<ClusterFacts> {
        let facts = |cluster: &ClusterId| {
            let line = self
                .book
                .line(cluster, Work::BaseBackup)
                .cloned()
                .unwrap_or_default();
            let heard = self.heard.get(cluster);
            let base = WorkFacts {
                listed: self.listed,
                newest: self.listing.get(cluster).copied(),
                running: heard.is_some_and(|(_, running)| *running),
                open: line.open,
                succeeded: line.succeeded,
                answered: line.answered,
                failures: line.failures,
            };
            ClusterFacts {
                cluster: cluster.clone(),
                reporter: heard.map(|(at, _)| (name(cluster), *at)),
                lineage: Some("1-1".parse().unwrap()),
                hole: None,
                replay_ms: None,
                filestores: false,
                places: Places::default(),
                works: [(Work::BaseBackup, base)].into(),
            }
        };
        self.agents.keys().map(facts).collect()
    }

    fn schedule(&mut self) {
        for decision in plan(&self.facts(), &self.policy, &self.patience, self.now) {
            match decision.act {
                Act::Give { agent, due, .. } => {
                    self.ids += 1;
                    let id = WorkId::from_parts(self.now, self.ids);
                    self.trace
                        .push(format!("{} {} {due}", self.now, decision.cluster));
                    self.book.give(
                        (&decision.cluster, decision.work),
                        &agent,
                        id,
                        &due,
                        &self.patience,
                        self.now,
                    );
                }
                Act::Withdraw { lapsed } => self.book.withdraw(&decision.cluster, decision.work, lapsed),
                Act::Hold { .. } | Act::Rest { .. } => {}
            }
        }
    }

    fn talk(&mut self) {
        for (cluster, agent) in &mut self.agents {
            if agent.cut > 0 {
                agent.cut -= 1;
                continue;
            }
            let working = agent.busy.iter().map(|(id, since, _)| Progress {
                id: Some(*id),
                work: Work::BaseBackup,
                done: 0,
                total: 1,
                since: *since,
            });
            let said = message::ClusterFacts {
                cluster: cluster.clone(),
                tier: "gold".parse().unwrap(),
                labels: Default::default(),
                lineage: None,
                wal: None,
                filestores: vec![],
                last_base: None,
                last_point: None,
                working: working.collect(),
                findings: vec![],
                requests: Vec::new(),
            };
            self.book.ended(&name(cluster), &agent.done, self.now);
            self.book.hear(&name(cluster), &said, &self.patience, self.now);
            self.heard
                .insert(cluster.clone(), (self.now, agent.busy.is_some()));
            agent.done.clear();
            for order in self.book.orders(&name(cluster), self.now) {
                match &agent.busy {
                    Some((id, ..)) => assert_eq!(*id, order.id, "a second base backup was asked for"),
                    None => agent.busy = Some((order.id, self.now, 1 + (self.ids % 30) as u8)),
                }
            }
        }
    }

    fn run(faults: &[Fault]) -> World {
        let mut world = World::new();
        for fault in faults {
            world.apply(*fault);
            world.step();
        }
        world
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn never_two_base_backups_at_once_and_always_one_in_the_end(
        faults in prop::collection::vec(fault(), 1..400),
    ) {
        let mut world = World::run(&faults);
        // When the faults stop, an hour and a half (the longest wait after
        // failures, and a lease) is enough for everybody to be up to date.
        for _ in 0..1100 {
            world.step();
        }
        let trace = world.trace.len();
        for (cluster, agent) in &world.agents {
            let last = world.stored.get(cluster).and_then(|all| all.last()).copied();
            prop_assert!(last.is_some(), "{} has no base backup", cluster);
            let (schedule, zone) = {
                let policy = world.policy.cluster(cluster).unwrap();
                (policy.schedule(Work::BaseBackup).clone(), policy.zone.tz())
            };
            let missed = schedule.next(zone, last.unwrap()).filter(|fire| fire.plus_millis(5_500_000) < world.now);
            prop_assert_eq!(missed, None, "{} missed a schedule: {:?}", cluster, agent);
        }
        // Without a firing in between, nothing more is given out.
        let before = world.now;
        let fires = |world: &World| world.policy.clusters().any(|c| {
            c.schedule(Work::BaseBackup).next(c.zone.tz(), before.plus_millis(-5_500_000)).is_some_and(|f| f <= world.now)
        });
        for _ in 0..200 {
            world.step();
        }
        if !fires(&world) {
            prop_assert_eq!(world.trace.len(), trace);
        }
    }

    #[test]
    fn the_same_faults_give_the_same_trace(faults in prop::collection::vec(fault(), 1..200)) {
        prop_assert_eq!(World::run(&faults).trace, World::run(&faults).trace);
    }
}

#[test]
fn without_faults_every_firing_is_answered_by_exactly_one() {
    let mut world = World::new();
    let start = world.now;
    while world.now.millis_since(start) < 5 * 86_400_000 {
        world.step();
    }
    for (cluster, stored) in &world.stored {
        let policy = world.policy.cluster(cluster).unwrap();
        let mut fires = 0;
        let mut at = start;
        while let Some(fire) = policy
            .schedule(Work::BaseBackup)
            .next(policy.zone.tz(), at)
            .filter(|f| *f < world.now)
        {
            fires += 1;
            at = fire;
        }
        assert_eq!(stored.len(), 1 + fires, "{}", cluster);
    }
}
