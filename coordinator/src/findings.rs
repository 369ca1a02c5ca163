//! Findings about the fleet: every departure from what policy asks for.
//!
//! [`derive`] makes them from the facts and nothing else, so a finding ends when
//! what it is about ends, and comes back when the coordinator starts anew. Where
//! a fact says since when something is so, that is the finding's `since`; only
//! for the others the moment of the first sight is remembered ([`Standing`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use holdfast_plan::certificate::urgency;
use holdfast_plan::period::Period;
use holdfast_plan::policy::{Ambiguous, ClusterPolicy, OpenWindows, Policy};
use holdfast_plan::schedule::WORKS;
use holdfast_proto::Timestamp;
use holdfast_proto::finding::{Finding, Severity, catalogue};
use holdfast_proto::message::Work;
use holdfast_proto::names::ClusterId;
use holdfast_proto::residency::{Place, Use};

use crate::desk::{Desk, Report, State};
use crate::facts;
use crate::fleet::{RpoStatus, StandingWord, measure};
use crate::governing::WaitsFor;
use crate::lead::Trouble;
use crate::survey::{DrillSeen, Survey};

/// Under what a finding is the same one seen again.
type Key = (Option<ClusterId>, String, String);

/// A finding that stands, and what it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stands {
    /// The cluster; absent when it is about the whole.
    pub cluster: Option<ClusterId>,
    /// The finding.
    pub finding: Finding,
}

/// Findings that stand, and since when.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    findings: Vec<Stands>,
    /// Places in `findings` of those about each cluster, in order.
    about: BTreeMap<ClusterId, Vec<usize>>,
    seen: BTreeMap<Key, Timestamp>,
}

impl Standing {
    /// All, worst first.
    pub fn all(&self) -> &[Stands] {
        &self.findings
    }

    /// Those about a cluster, worst first.
    pub fn of(&self, cluster: &ClusterId) -> impl Iterator<Item = &Finding> {
        let places = self.about.get(cluster).into_iter().flatten();
        places.map(move |place| &self.findings[*place].finding)
    }

    /// Critical ones and warnings about a cluster.
    pub fn count(&self, cluster: &ClusterId) -> (u32, u32) {
        let of = |severity| {
            let count = self
                .of(cluster)
                .filter(|finding| finding.severity == severity)
                .count();
            u32::try_from(count).unwrap_or(u32::MAX)
        };
        (of(Severity::Critical), of(Severity::Warning))
    }

    /// When each was seen first, for remembering.
    pub fn seen(&self) -> &BTreeMap<Key, Timestamp> {
        &self.seen
    }

    /// Puts back what was remembered.
    pub fn remember(&mut self, key: Key, since: Timestamp) {
        self.seen.insert(key, since);
    }

    /// Puts in what was derived now. Returns what is new and what is over.
    pub fn replace(&mut self, derived: Vec<Derived>, now: Timestamp) -> (Vec<Stands>, Vec<Key>) {
        let before = std::mem::take(&mut self.seen);
        let known: BTreeSet<Key> = self.findings.iter().map(key_of).collect();
        self.findings.clear();
        for Derived {
            cluster,
            mut finding,
            since_known,
        } in derived
        {
            if !since_known {
                let key = (cluster.clone(), finding.name.clone(), finding.subject.clone());
                finding.since = before.get(&key).copied().unwrap_or(now);
                self.seen.insert(key, finding.since);
            }
            self.findings.push(Stands { cluster, finding });
        }
        self.findings.sort_by(|a, b| rank(a).cmp(&rank(b)));
        // Of two with one key the worse one stands.
        let mut stands = BTreeSet::new();
        self.findings.retain(|status| stands.insert(key_of(status)));
        let new = self
            .findings
            .iter()
            .filter(|status| !known.contains(&key_of(status)));
        let new = new.cloned().collect();
        self.about.clear();
        for (place, status) in self.findings.iter().enumerate() {
            if let Some(cluster) = &status.cluster {
                match self.about.get_mut(cluster) {
                    Some(places) => places.push(place),
                    None => drop(self.about.insert(cluster.clone(), vec![place])),
                }
            }
        }
        let over = known.into_iter().filter(|key| !stands.contains(key)).collect();
        (new, over)
    }
}

fn key_of(status: &Stands) -> Key {
    (
        status.cluster.clone(),
        status.finding.name.clone(),
        status.finding.subject.clone(),
    )
}

/// Worst first, then the oldest.
fn rank(
    status: &Stands,
) -> (
    std::cmp::Reverse<Severity>,
    Timestamp,
    Option<&ClusterId>,
    &str,
    &str,
) {
    let finding = &status.finding;
    let cluster = status.cluster.as_ref();
    (
        std::cmp::Reverse(finding.severity),
        finding.since,
        cluster,
        &finding.name,
        &finding.subject,
    )
}

/// A finding before its `since` is settled.
#[derive(Debug, Clone)]
pub struct Derived {
    cluster: Option<ClusterId>,
    finding: Finding,
    since_known: bool,
}

/// Collects findings.
struct Sheet {
    cluster: Option<ClusterId>,
    derived: Vec<Derived>,
    now: Timestamp,
}

impl Sheet {
    fn add(
        &mut self,
        name: &str,
        subject: &str,
        severity: Severity,
        since: Option<Timestamp>,
        detail: String,
    ) {
        debug_assert!(catalogue::known(name).is_some(), "{name} is in no catalogue");
        self.derived.push(Derived {
            cluster: self.cluster.clone(),
            finding: Finding {
                name: name.to_owned(),
                subject: subject.to_owned(),
                severity,
                detail,
                since: since.unwrap_or(self.now),
            },
            since_known: since.is_some(),
        });
    }

    fn pass_on(&mut self, finding: &Finding) {
        self.derived.push(Derived {
            cluster: self.cluster.clone(),
            finding: finding.clone(),
            since_known: true,
        });
    }
}

/// Makes all findings.
pub fn derive(state: &State, desk: &Desk, now: Timestamp) -> Vec<Derived> {
    let mut sheet = Sheet {
        cluster: None,
        derived: Vec::new(),
        now,
    };
    let asked = Asked::of(desk, now);
    whole(&mut sheet, state, desk);
    waiting(&mut sheet, desk);
    for cluster in facts::clusters(state, &asked.policy) {
        sheet.cluster = Some(cluster.clone());
        about(&mut sheet, &cluster, &asked, state, desk);
    }
    sheet.derived
}

/// What is asked for at the moment, the same for every cluster.
struct Asked {
    policy: Arc<Policy>,
    open: Arc<OpenWindows>,
    ambiguous: Vec<Ambiguous>,
    places: Vec<Place>,
}

impl Asked {
    fn of(desk: &Desk, now: Timestamp) -> Self {
        let (policy, open) = desk.governing.policy_at(now);
        Self {
            policy,
            open,
            ambiguous: desk.governing.ambiguous(),
            places: desk.config.repository.places(),
        }
    }
}

/// Makes the findings of one cluster.
#[cfg(test)]
pub fn derive_of(state: &State, desk: &Desk, cluster: &ClusterId, now: Timestamp) -> Vec<Finding> {
    let mut sheet = Sheet {
        cluster: Some(cluster.clone()),
        derived: Vec::new(),
        now,
    };
    about(&mut sheet, cluster, &Asked::of(desk, now), state, desk);
    sheet.derived.into_iter().map(|derived| derived.finding).collect()
}

fn about(sheet: &mut Sheet, cluster: &ClusterId, asked: &Asked, state: &State, desk: &Desk) {
    let now = sheet.now;
    let report = state.reports.get(cluster);
    let survey = state.surveys.get(cluster);
    residency(sheet, cluster, asked);
    if let Some(several) = asked.ambiguous.iter().find(|several| several.cluster == *cluster) {
        let detail = format!("Nothing is asked for it: {several}.");
        sheet.add(
            "policy-ambiguous",
            &cluster.to_string(),
            Severity::Critical,
            None,
            detail,
        );
        return;
    }
    let Some(policy) = &asked.policy.cluster_within(cluster, &asked.open) else {
        let since = state.strangers.get(cluster).copied();
        sheet.add(
            "cluster-without-policy",
            &cluster.to_string(),
            Severity::Warning,
            since,
            "The policy does not name it, so nothing is asked for it: name it with a tier, or retire it."
                .to_owned(),
        );
        return;
    };
    agent(sheet, policy, report, desk);
    exposure(sheet, policy, &measure(cluster, Some(policy), state, now), state);
    if let Some(survey) = survey {
        stored(sheet, policy, asked, survey, report);
    }
    recovery_time(sheet, cluster, policy, state);
    work(sheet, cluster, state);
    drills(sheet, cluster, policy, state);
    for finding in state.replication.get(cluster).into_iter().flatten() {
        sheet.pass_on(finding);
    }
}

/// A policy in the file that is not in force.
fn waiting(sheet: &mut Sheet, desk: &Desk) {
    let Some(waiting) = desk.governing.waiting() else {
        return;
    };
    let running = desk.governing.written().digest();
    let (name, detail) = match &waiting.why {
        WaitsFor::Repair(problems) => {
            let detail = format!(
                "The policy {running} stays in force. Correct the file: {}",
                problems.join("; ")
            );
            ("policy-invalid", detail)
        }
        WaitsFor::Approval {
            plan,
            rule,
            weakenings,
        } => {
            let detail = format!(
                "The policy {running} stays in force, all of it, because the one in the file asks for less. It needs \
                 the approval of {rule}, over the digest {plan}: {}",
                weakenings.join("; ")
            );
            ("policy-weakening-waits", detail)
        }
    };
    let subject = desk.config.policy_file.display().to_string();
    sheet.add(name, &subject, Severity::Warning, Some(waiting.since), detail);
}

/// Replicas in which a cluster's data may not be.
fn residency(sheet: &mut Sheet, cluster: &ClusterId, asked: &Asked) {
    for place in &asked.places {
        if let Err(refused) = asked.policy.admit(cluster, Use::Replicate, place) {
            let detail = format!("Nothing of it is copied: {}.", refused.outside);
            sheet.add(
                "residency-refused",
                &place.to_string(),
                Severity::Critical,
                None,
                detail,
            );
        }
    }
}

fn whole(sheet: &mut Sheet, state: &State, desk: &Desk) {
    for finding in &state.evidence {
        sheet.pass_on(finding);
    }
    let lasts = desk.config.lease.millis();
    if let Some(Trouble { why, since }) = desk.lead.leading().trouble
        && sheet.now.millis_since(since) > lasts
    {
        let detail = format!(
            "It can neither lead nor see who does, so nothing is given out here: {why}. Agents go on by the numbers last \
             heard."
        );
        let subject = desk.config.name.as_str();
        sheet.add("no-leader", subject, Severity::Critical, Some(since), detail);
    }
    let replicas = desk.repository.replicas().len();
    for tier in desk.policy().clusters().map(|c| &c.tier) {
        if tier.copies as usize > replicas {
            let detail = format!(
                "Tier {} asks for {} copies and the repository has {replicas} replicas: add replicas or lower copies.",
                tier.name, tier.copies
            );
            sheet.add(
                "too-few-replicas",
                tier.name.as_str(),
                Severity::Critical,
                Some(desk.started),
                detail,
            );
        }
    }
    for (region, health) in &state.replicas {
        if let Some((why, since)) = &health.failing {
            let detail = format!("It does not answer: {why}");
            sheet.add(
                "replica-unreachable",
                region.as_str(),
                Severity::Critical,
                Some(*since),
                detail,
            );
        }
    }
    if let Some((why, since)) = &state.trust_problem {
        let detail = format!("No agent is let in and nothing is believed until it can be read again: {why}");
        sheet.add(
            "trust-unreadable",
            "trust",
            Severity::Critical,
            Some(*since),
            detail,
        );
    }
    for finding in state.trust.iter().flat_map(|trust| trust.findings()) {
        if finding.name != "replica-unreachable" {
            sheet.pass_on(finding);
        }
    }
    for finding in &state.proven.findings {
        sheet.pass_on(finding);
    }
    for (route, delivery) in &state.alerts {
        if let Some((why, since)) = delivery.trouble(sheet.now) {
            let detail = format!("Alerts wait, and are sent when they are taken: {why}");
            sheet.add(
                "alert-route-failing",
                route.as_str(),
                Severity::Critical,
                Some(since),
                detail,
            );
        }
    }
    for (listener, certificate) in &state.certificates {
        let since = |moment: &Timestamp| sheet.now.millis_since(*moment) > 30_000;
        if let Some((why, since)) = certificate.trouble.as_ref().filter(|(_, at)| since(at)) {
            let detail = format!("The certificate before stays in use: {why}");
            sheet.add(
                "certificate-not-taken-up",
                listener,
                Severity::Warning,
                Some(*since),
                detail,
            );
        }
        if let Some(severity) = urgency(certificate.begins, certificate.ends, sheet.now) {
            let detail = format!(
                "The certificate of {listener} ends at {}: replace its files, they are read anew.",
                certificate.ends
            );
            sheet.add("certificate-expiring", listener, severity, None, detail);
        }
    }
    for (name, health) in &state.loops {
        if let Some((why, since)) = health
            .failing
            .as_ref()
            .filter(|(_, since)| sheet.now.millis_since(*since) > 30_000)
        {
            sheet.add(
                "loop-failing",
                name,
                Severity::Warning,
                Some(*since),
                format!("It is tried again: {why}"),
            );
        }
    }
}

fn agent(sheet: &mut Sheet, policy: &ClusterPolicy, report: Option<&Report>, desk: &Desk) {
    let subject = policy.cluster.to_string();
    // Agents call the leader: who does not lead, or not for long, misses nobody yet.
    let now = sheet.now;
    let listens = desk.lead.since().map(|since| since.max(desk.started));
    let silent = |heard: Timestamp| {
        let since = listens.map(|listens| listens.max(heard));
        since.is_some_and(|since| now.millis_since(since) > desk.patience.silent_after.millis())
    };
    let Some(report) = report else {
        if silent(desk.started) {
            let detail = "The policy names it and no agent reports it: start its agent, or look whether its certificate and enrolment cover the cluster.";
            sheet.add(
                "cluster-unreported",
                &subject,
                Severity::Critical,
                None,
                detail.to_owned(),
            );
        }
        return;
    };
    if silent(report.heard) {
        let detail = format!(
            "Agent {} was last heard at {}: look at it and at the network.",
            report.agent, report.heard
        );
        sheet.add(
            "agent-silent",
            report.agent.as_str(),
            Severity::Critical,
            Some(report.heard),
            detail,
        );
    }
    if report.clock_ahead_ms.unsigned_abs() > 5_000 {
        let detail = format!(
            "The clock of {} is {} ms away from the coordinator's: set both by NTP.",
            report.agent, report.clock_ahead_ms
        );
        sheet.add(
            "clock-skew",
            report.agent.as_str(),
            Severity::Warning,
            None,
            detail,
        );
    }
    if report.facts.tier != policy.tier.name {
        let detail = format!(
            "Its agent is configured for tier {} and the policy says {}: the policy's numbers are sent to it; correct its configuration.",
            report.facts.tier, policy.tier.name
        );
        sheet.add("tier-differs", &subject, Severity::Info, None, detail);
    }
    if let Some((rival, at)) = report
        .rival
        .as_ref()
        .filter(|(_, at)| sheet.now.millis_since(*at) < 60_000)
    {
        let detail = format!(
            "Agents {} and {rival} both report it: only one may write, stop the other.",
            report.agent
        );
        sheet.add("two-agents", &subject, Severity::Critical, Some(*at), detail);
    }
    for finding in &report.facts.findings {
        sheet.pass_on(finding);
    }
}

fn exposure(sheet: &mut Sheet, policy: &ClusterPolicy, rpo: &RpoStatus, state: &State) {
    let subject = policy.cluster.to_string();
    match (rpo.standing, rpo.now_ms, &rpo.unknown) {
        (StandingWord::Missed, Some(ms), _) => {
            let crossed = rpo
                .safe_until
                .map(|at| at.plus_millis(policy.tier.rpo.signed_millis()));
            let detail = format!(
                "{:.1} s would be lost now, the objective is {}: look at the agent, the network and the replicas.",
                ms as f64 / 1000.0,
                policy.tier.rpo
            );
            sheet.add("rpo-missed", &subject, Severity::Critical, crossed, detail);
        }
        (StandingWord::Unknown, _, Some(why)) => {
            // Before the first look, not known is not yet wrong; without a base
            // backup, that is the finding.
            let looked = state.surveys.get(&policy.cluster).filter(|s| s.listed.is_some());
            if looked.is_some_and(|survey| survey.base.is_some()) {
                let detail = format!("How much would be lost cannot be said: {why}.");
                sheet.add("rpo-unknown", &subject, Severity::Critical, None, detail);
            }
        }
        _ => {}
    }
}

/// A base backup is not overdue before so long has passed.
const LEAST_GRACE: Period = Period::from_millis(30 * 60_000).expect("half an hour is a period");

fn stored(
    sheet: &mut Sheet,
    policy: &ClusterPolicy,
    asked: &Asked,
    survey: &Survey,
    report: Option<&Report>,
) {
    let subject = policy.cluster.to_string();
    let now = sheet.now;
    for finding in &survey.findings {
        sheet.pass_on(finding);
    }
    if survey.listed.is_some() && survey.base.is_none() {
        let detail =
            "There is no base backup, nothing can be restored: one is made as soon as its agent streams.";
        sheet.add(
            "base-missing",
            &subject,
            Severity::Critical,
            None,
            detail.to_owned(),
        );
    }
    if let Some(base) = &survey.base {
        let due = policy
            .schedule(Work::BaseBackup)
            .next(policy.zone.tz(), base.committed);
        // A recovery time objective is time enough to make one.
        let grace = policy.tier.rto.max(LEAST_GRACE);
        let late = |since: &Timestamp| since.plus_millis(grace.signed_millis()) < now;
        // What a calendar keeps from the cluster is not overdue.
        let free = due
            .filter(late)
            .map(|due| (due, asked.policy.base_backup_free(policy, due, grace, now)));
        if let Some((due, since)) = free.filter(|(_, since)| late(since)) {
            let frozen = match since > due {
                true => format!(", a calendar's freeze ended at {}", policy.zone.show(since)),
                false => String::new(),
            };
            let detail = format!(
                "It was due at {}{frozen}, the newest is of {}.",
                policy.zone.show(due),
                policy.zone.show(base.committed)
            );
            sheet.add("base-overdue", &subject, Severity::Warning, Some(since), detail);
        }
        let copies = policy.tier.copies as usize;
        if base.regions.len() < copies && now.millis_since(base.committed) > 600_000 {
            let detail = format!(
                "Base backup {} is on {} of {copies} replicas: it is being replicated.",
                base.id,
                base.regions.len()
            );
            sheet.add(
                "copies-missing",
                &subject,
                Severity::Warning,
                Some(base.committed),
                detail,
            );
        }
    }
    if let Some(from) = survey.lasting_hole(now) {
        let detail = format!(
            "WAL is missing from {from} on, on every replica within reach: nothing later can be restored until the next base backup."
        );
        sheet.add(
            "wal-hole",
            &subject,
            Severity::Critical,
            survey.hole.map(|(_, since)| since),
            detail,
        );
    }
    let has_files = report.is_some_and(|r| !r.facts.filestores.is_empty()) || !survey.filestores.is_empty();
    let patience = 3 * policy.tier.fence_interval.signed_millis() + 60_000;
    if let Some(point) = survey.point.as_ref().filter(|_| has_files)
        && point.at.plus_millis(patience) < now
    {
        let detail = format!(
            "The newest joint point of database and filestore is of {}, one is due every {}.",
            point.at, policy.tier.fence_interval
        );
        sheet.add(
            "point-overdue",
            &subject,
            Severity::Warning,
            Some(point.at.plus_millis(patience)),
            detail,
        );
    }
}

fn work(sheet: &mut Sheet, cluster: &ClusterId, state: &State) {
    for work in WORKS {
        let Some(line) = state.book.line(cluster, work) else {
            continue;
        };
        if let Some((at, why)) = &line.failures.last {
            let (name, severity) = match work {
                Work::BaseBackup => ("base-failed", Severity::Critical),
                Work::FilestoreCheckpoint => ("checkpoint-failed", Severity::Warning),
                Work::Configuration => ("configuration-failed", Severity::Warning),
            };
            let detail = format!(
                "It failed {} times in a row, last with: {why}. It is tried again.",
                line.failures.times
            );
            sheet.add(name, &cluster.to_string(), severity, Some(*at), detail);
        }
    }
}

/// A recovery that would take longer than it may.
fn recovery_time(sheet: &mut Sheet, cluster: &ClusterId, policy: &ClusterPolicy, state: &State) {
    let Some(forecast) = facts::forecast(cluster, state) else {
        return;
    };
    let target = policy.tier.rto;
    if forecast.p90_ms <= target.millis() {
        return;
    }
    let seconds = |ms: u64| ms / 1000;
    let learnt = match forecast.recoveries {
        0 => "no restore of it has been measured, so cautious rates stand in: run a drill".to_owned(),
        1 => "as the one restore that was measured says".to_owned(),
        n => format!("as the {n} restores that were measured say"),
    };
    let detail = format!(
        "A restore would take {} s, and in one case of ten more than {} s, of the {target} that it may: {learnt}. Of that, \
         base backup {} s, files {} s, replay of WAL {} s.",
        seconds(forecast.p50_ms),
        seconds(forecast.p90_ms),
        seconds(forecast.base_ms),
        seconds(forecast.files_ms),
        seconds(forecast.replay_ms),
    );
    // What nobody measured is no reason to wake anybody.
    let severity = match forecast.recoveries > 0 && forecast.p50_ms > target.millis() {
        true => Severity::Critical,
        false => Severity::Warning,
    };
    sheet.add("rto-at-risk", &cluster.to_string(), severity, None, detail);
}

fn drills(sheet: &mut Sheet, cluster: &ClusterId, policy: &ClusterPolicy, state: &State) {
    let Some(_) = state.proven.listed else { return };
    for rule in &policy.tier.drills {
        let wanted = rule.level.to_string();
        let passed = state
            .proven
            .of(cluster)
            .filter(|drill| drill.level >= wanted)
            .filter_map(|drill| drill.result.as_ref().filter(|result| result.passed()))
            .map(|result| result.at)
            .max();
        let subject = format!("{} {wanted}", rule.scenario);
        match passed {
            Some(at) if at.plus_millis(rule.every.signed_millis()) >= sheet.now => {}
            Some(at) => {
                let detail = format!(
                    "A restore at {wanted} or above is to be proven every {}; the last was at {at}.",
                    rule.every
                );
                let since = at.plus_millis(rule.every.signed_millis());
                sheet.add("drill-overdue", &subject, Severity::Warning, Some(since), detail);
            }
            None => {
                let detail = format!(
                    "No restore at {wanted} or above was ever proven; one is to be every {}.",
                    rule.every
                );
                sheet.add("never-proven", &subject, Severity::Warning, None, detail);
            }
        }
    }
    // One that runs takes nothing back of what the one before it showed.
    let over = |drill: &&DrillSeen| {
        drill.result.is_some() || drill.deadline.is_some_and(|deadline| deadline < sheet.now)
    };
    if let Some(drill) = state.proven.of(cluster).rev().find(over) {
        let subject = drill.id.to_string();
        match &drill.result {
            Some(result) if !result.passed() => {
                let reasons = result.reasons.join("; ");
                let detail = format!(
                    "The last drill ({}, {}) ended {}: {reasons}",
                    drill.scenario, drill.level, result.verdict
                );
                sheet.add(
                    "drill-failed",
                    &subject,
                    Severity::Critical,
                    Some(result.at),
                    detail,
                );
            }
            None if drill.deadline.is_some_and(|deadline| deadline < sheet.now) => {
                let detail =
                    "It was announced and came to no result by its deadline: it counts as failed.".to_owned();
                sheet.add(
                    "drill-abandoned",
                    &subject,
                    Severity::Critical,
                    drill.deadline,
                    detail,
                );
            }
            _ => {}
        }
    }
}
