//! From what lies on the desk to what the planners want to know.

use std::collections::BTreeSet;

use holdfast_plan::period::Period;
use holdfast_plan::policy::{ClusterPolicy, Policy};
use holdfast_plan::rpo;
use holdfast_plan::rto::{Amounts, Forecast, Learnt};
use holdfast_plan::schedule::{ClusterFacts, Places, WORKS, WorkFacts};
use holdfast_proto::Timestamp;
use holdfast_proto::message::Work;
use holdfast_proto::names::ClusterId;

use crate::desk::{Report, State};
use crate::survey::{self, Survey};

/// Every cluster that anybody knows of, in order of names.
pub fn clusters(state: &State, policy: &Policy) -> BTreeSet<ClusterId> {
    policy
        .clusters()
        .map(|c| &c.cluster)
        .chain(state.reports.keys())
        .chain(state.strangers.keys())
        .cloned()
        .collect()
}

/// How old the newest sign of life may be for an exposure to be known.
pub fn fresh_for(policy: &ClusterPolicy) -> Period {
    let tier = &policy.tier;
    let millis = (3 * tier.attest_interval.millis())
        .max(tier.rpo.millis())
        .max(15_000);
    Period::from_millis(millis).unwrap_or(tier.rpo)
}

/// What the exposure of a cluster is measured from.
pub fn rpo(cluster: &ClusterId, policy: &ClusterPolicy, state: &State) -> rpo::Facts {
    let heard = state
        .reports
        .get(cluster)
        .into_iter()
        .flat_map(|report| report.witnesses.iter().cloned());
    survey::rpo_facts(
        state.surveys.get(cluster),
        heard,
        policy.tier.copies_before_ack,
        fresh_for(policy),
    )
}

/// What a recovery of a cluster to its last commit would have to move; `None` while no
/// base backup of it is known.
pub fn amounts(cluster: &ClusterId, state: &State) -> Option<Amounts> {
    let survey = state.surveys.get(cluster)?;
    let base = survey.base.as_ref()?;
    let facts = state.reports.get(cluster).map(|report| &report.facts);
    // Of another lineage than the base's the agent's position says nothing.
    let said = facts
        .filter(|facts| facts.lineage == survey.lineage)
        .and_then(|facts| Some(facts.wal.as_ref()?.acknowledged));
    let end = said.into_iter().chain(survey.best_end()).max();
    let filestores = facts.into_iter().flat_map(|facts| &facts.filestores);
    let (files, file_bytes) = filestores.fold((0u64, 0u64), |(files, bytes), filestore| {
        (
            files.saturating_add(filestore.files),
            bytes.saturating_add(filestore.bytes),
        )
    });
    Some(Amounts {
        base: base.bytes,
        file_bytes,
        files,
        wal: end.map_or(0, |end| end.get().saturating_sub(base.start.get())),
    })
}

/// How long a recovery of a cluster to its last commit would take.
pub fn forecast(cluster: &ClusterId, state: &State) -> Option<Forecast> {
    let amounts = amounts(cluster, state)?;
    Some(match state.proven.learnt(cluster) {
        Some(learnt) => learnt.forecast(&amounts),
        None => Learnt::from(&[]).forecast(&amounts),
    })
}

/// What the schedule is planned from: all clusters that an agent has reported.
pub fn schedule(state: &State, places: &Places, now: Timestamp) -> Vec<ClusterFacts> {
    schedule_of(state, places, state.reports.keys(), now)
}

/// What the schedule is planned from, for these clusters.
pub fn schedule_of<'a>(
    state: &State,
    places: &Places,
    clusters: impl Iterator<Item = &'a ClusterId>,
    now: Timestamp,
) -> Vec<ClusterFacts> {
    clusters
        .filter_map(|cluster| Some((cluster, state.reports.get(cluster)?)))
        .map(|(cluster, report)| {
            let survey = state.surveys.get(cluster);
            let heard = heard_since(state, report).map(|_| (report.agent.clone(), report.heard));
            ClusterFacts {
                cluster: cluster.clone(),
                reporter: heard,
                lineage: report.facts.lineage,
                hole: survey.and_then(|survey| survey.lasting_hole(now)),
                replay_ms: forecast(cluster, state).map(|forecast| forecast.replay_ms),
                filestores: !report.facts.filestores.is_empty(),
                places: places.clone(),
                works: WORKS
                    .into_iter()
                    .map(|work| (work, work_facts(cluster, work, state, survey)))
                    .collect(),
            }
        })
        .collect()
}

/// Clusters of which nothing is given out before they are listed again: work ended, or
/// their agents were first heard in this term, or first spoke of a base backup that is not
/// seen, after the last listing.
pub fn to_be_listed(state: &State) -> BTreeSet<ClusterId> {
    let listed = |cluster: &ClusterId| state.surveys.get(cluster).and_then(|survey| survey.listed);
    let ended = state.book.lines().filter(|((cluster, _), line)| {
        let listed = listed(cluster);
        line.succeeded
            .is_some_and(|done| listed.is_none_or(|listed| listed <= done))
    });
    let heard = state.reports.iter().filter(|(cluster, report)| {
        let listed = listed(cluster);
        let first = heard_since(state, report);
        let late = |since: Timestamp| listed.is_none_or(|listed| listed < since);
        first.is_some_and(late) || unseen_base(report, state.surveys.get(*cluster)).is_some_and(late)
    });
    let ended = ended.map(|((cluster, _), _)| cluster.clone());
    ended.chain(heard.map(|(cluster, _)| cluster.clone())).collect()
}

/// Since when an agent has spoken of a base backup that no listing has shown.
fn unseen_base(report: &Report, survey: Option<&Survey>) -> Option<Timestamp> {
    let (id, since) = report.claimed?;
    let seen = survey.and_then(|survey| survey.base.as_ref()).map(|base| base.id);
    seen.is_none_or(|seen| seen < id).then_some(since)
}

/// Since when an agent has been heard in the present term; `None` when it was not yet.
fn heard_since(state: &State, report: &Report) -> Option<Timestamp> {
    let (term, since) = report.reign?;
    (state.book_term == Some(term)).then_some(since)
}

fn work_facts(cluster: &ClusterId, work: Work, state: &State, survey: Option<&Survey>) -> WorkFacts {
    let report = state.reports.get(cluster);
    let line = state.book.line(cluster, work).cloned().unwrap_or_default();
    // A survey of another lineage says nothing about this one.
    let lineage = report.and_then(|r| r.facts.lineage);
    let survey = survey.filter(|survey| survey.lineage == lineage);
    let newest = survey.and_then(|survey| match work {
        Work::BaseBackup => survey.base.as_ref().map(|base| base.committed),
        Work::Configuration => survey.bundle,
        // The oldest checkpoint counts, and a filestore without one is without.
        Work::FilestoreCheckpoint => report
            .into_iter()
            .flat_map(|report| &report.facts.filestores)
            .map(|f| survey.filestores.get(f.filestore.as_str()).copied().flatten())
            .min()
            .flatten(),
    });
    WorkFacts {
        // What was made for another leader may be missing in a listing of its time.
        listed: survey.and_then(|survey| survey.listed).filter(|listed| {
            let since = report.and_then(|report| heard_since(state, report));
            let base = report
                .filter(|_| work == Work::BaseBackup)
                .and_then(|report| unseen_base(report, survey));
            since.is_some_and(|since| *listed >= since) && base.is_none_or(|since| *listed >= since)
        }),
        newest,
        running: report.is_some_and(|r| r.facts.working.iter().any(|progress| progress.work == work)),
        open: line.open,
        succeeded: line.succeeded,
        answered: line.answered,
        failures: line.failures,
    }
}
