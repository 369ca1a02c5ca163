//! The leases of work that was given out.
//!
//! A lease begins when work is given and is prolonged by every heartbeat that
//! shows the work going on. One that runs out means that nobody is at it: the
//! planner gives the work again under a new identity. The book is a value
//! without a clock; whoever keeps it may write it down, and may lose it.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_proto::Timestamp;
use holdfast_proto::message::{Assignment, AssignmentResult, ClusterFacts, Work};
use holdfast_proto::names::{ActorName, ClusterId, WorkId};
use serde::{Deserialize, Serialize};

use super::{Due, Patience};

/// A lease that is out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// The work's identity.
    pub id: WorkId,
    /// Who has it.
    pub agent: ActorName,
    /// When it was given.
    pub given: Timestamp,
    /// When it runs out.
    pub lease_until: Timestamp,
    /// Why it was given.
    pub reason: String,
}

/// Failures in a row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failures {
    /// How many.
    pub times: u32,
    /// The last: when, and the agent's words.
    pub last: Option<(Timestamp, String)>,
}

impl Failures {
    /// When the work may be tried again; `None` when nothing failed.
    pub fn retry_at(&self, patience: &Patience) -> Option<Timestamp> {
        let (at, _) = self.last.as_ref()?;
        let doublings = self.times.saturating_sub(1).min(20);
        let wait = patience
            .retry
            .millis()
            .saturating_mul(1 << doublings)
            .min(patience.retry_most.millis());
        Some(at.plus_millis(i64::try_from(wait).unwrap_or(i64::MAX)))
    }
}

/// One line of the book: a kind of work of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The lease that is out.
    pub open: Option<Open>,
    /// Leases that ran out: a result under one of them still counts.
    pub lapsed: Vec<Open>,
    /// When it was last heard that an assignment ended well.
    pub succeeded: Option<Timestamp>,
    /// When that assignment was given: schedules that fired by then are answered.
    pub answered: Option<Timestamp>,
    /// Failures since then.
    pub failures: Failures,
}

impl Line {
    /// The lease that is out is out no longer; its identity is remembered for a
    /// while.
    fn retire(&mut self) {
        if let Some(open) = self.open.take() {
            self.lapsed.push(open);
            let spare = self.lapsed.len().saturating_sub(8);
            self.lapsed.drain(..spare);
        }
    }
}

/// All leases, and how the last of each kind ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Book {
    lines: BTreeMap<(ClusterId, Work), Line>,
    /// The lines in which each agent has a lease, out or run out: an agent that calls
    /// is answered from its own lines alone.
    of: BTreeMap<ActorName, BTreeSet<(ClusterId, Work)>>,
}

/// A line, to be changed. The index of agents follows.
struct Changing<'b> {
    place: (ClusterId, Work),
    line: &'b mut Line,
    of: &'b mut BTreeMap<ActorName, BTreeSet<(ClusterId, Work)>>,
}

impl Line {
    fn leases(&self) -> impl Iterator<Item = &Open> {
        self.open.iter().chain(&self.lapsed)
    }
}

impl<'b> Changing<'b> {
    fn change<T>(self, change: impl FnOnce(&mut Line) -> T) -> T {
        let Self { place, line, of } = self;
        let before: Vec<ActorName> = line.leases().map(|lease| lease.agent.clone()).collect();
        let done = change(line);
        for agent in before {
            if line.leases().any(|lease| lease.agent == agent) {
                continue;
            }
            if let Some(places) = of.get_mut(&agent) {
                places.remove(&place);
                if places.is_empty() {
                    of.remove(&agent);
                }
            }
        }
        for lease in line.leases() {
            match of.get_mut(&lease.agent) {
                Some(places) if places.contains(&place) => {}
                Some(places) => {
                    places.insert(place.clone());
                }
                None => drop(of.insert(lease.agent.clone(), BTreeSet::from([place.clone()]))),
            }
        }
        done
    }
}

impl Book {
    /// The line of a kind of work.
    pub fn line(&self, cluster: &ClusterId, work: Work) -> Option<&Line> {
        self.lines.get(&(cluster.clone(), work))
    }

    /// Every line, for writing the book down.
    pub fn lines(&self) -> impl Iterator<Item = (&(ClusterId, Work), &Line)> {
        self.lines.iter()
    }

    /// The line of that kind of work, begun when there is none.
    fn at(&mut self, cluster: &ClusterId, work: Work) -> Changing<'_> {
        let place = (cluster.clone(), work);
        Changing {
            line: self.lines.entry(place.clone()).or_default(),
            place,
            of: &mut self.of,
        }
    }

    /// Puts a line back that was written down.
    pub fn restore(&mut self, cluster: ClusterId, work: Work, line: Line) {
        self.at(&cluster, work).change(|known| *known = line);
    }

    /// Gives work out.
    pub fn give(
        &mut self,
        (cluster, work): (&ClusterId, Work),
        agent: &ActorName,
        id: WorkId,
        due: &Due,
        patience: &Patience,
        now: Timestamp,
    ) {
        self.at(cluster, work).change(|line| {
            line.retire();
            line.open = Some(Open {
                id,
                agent: agent.clone(),
                given: now,
                lease_until: now.plus_millis(patience.lease.signed_millis()),
                reason: due.to_string(),
            });
        });
    }

    /// Forgets a lease, if it is still that one.
    pub fn withdraw(&mut self, cluster: &ClusterId, work: Work, lapsed: WorkId) {
        let known = self.line(cluster, work).and_then(|line| line.open.as_ref());
        if known.is_some_and(|open| open.id == lapsed) {
            self.at(cluster, work).change(Line::retire);
        }
    }

    /// Hears what an agent says of one of its clusters: work that goes on keeps
    /// its lease. Work under an identity that the book does not have (it was
    /// lost, or the work was given again meanwhile) is taken over as it is.
    pub fn hear(&mut self, agent: &ActorName, facts: &ClusterFacts, patience: &Patience, now: Timestamp) {
        let lease_until = now.plus_millis(patience.lease.signed_millis());
        for progress in &facts.working {
            let Some(id) = progress.id else { continue };
            self.at(&facts.cluster, progress.work)
                .change(|line| match &mut line.open {
                    Some(open) if open.id == id && open.agent == *agent => open.lease_until = lease_until,
                    _ => {
                        line.retire();
                        line.open = Some(Open {
                            id,
                            agent: agent.clone(),
                            given: progress.since.min(now),
                            lease_until,
                            reason: "given before this coordinator started".to_owned(),
                        });
                    }
                });
        }
    }

    /// Hears how assignments ended. Returns the kinds of work that the book had
    /// leased to this agent under these identities.
    pub fn ended(
        &mut self,
        agent: &ActorName,
        results: &[AssignmentResult],
        now: Timestamp,
    ) -> Vec<(ClusterId, Work)> {
        let mut closed = Vec::new();
        if results.is_empty() {
            return closed;
        }
        for (cluster, work) in self.of.get(agent).cloned().unwrap_or_default() {
            let ended = self.line(&cluster, work).and_then(|line| {
                line.leases()
                    .filter(|lease| lease.agent == *agent)
                    .find_map(|lease| Some((lease.given, results.iter().find(|r| r.id == lease.id)?)))
            });
            let Some((given, result)) = ended else { continue };
            self.at(&cluster, work).change(|line| {
                match &result.outcome {
                    Ok(_) => {
                        line.succeeded = Some(now);
                        line.answered = Some(given.min(now));
                        line.failures = Failures::default();
                    }
                    Err(why) => {
                        line.failures.times = line.failures.times.saturating_add(1);
                        line.failures.last = Some((now, why.clone()));
                    }
                }
                line.open = None;
                line.lapsed.clear();
            });
            closed.push((cluster, work));
        }
        closed
    }

    /// What an agent is asked to do now. Leases that ran out are not in it.
    pub fn orders(&self, agent: &ActorName, now: Timestamp) -> Vec<Assignment> {
        self.of
            .get(agent)
            .into_iter()
            .flatten()
            .filter_map(|place| {
                let ((cluster, work), line) = self.lines.get_key_value(place)?;
                let open = line
                    .open
                    .as_ref()
                    .filter(|open| open.agent == *agent && now < open.lease_until)?;
                Some(Assignment {
                    id: open.id,
                    cluster: cluster.clone(),
                    work: *work,
                    reason: open.reason.clone(),
                    lease_until: open.lease_until,
                })
            })
            .collect()
    }
}
