//! What the keeper logs of its own accord.
//!
//! Each duty follows from the log and the clock: what is in the log already is
//! not done again, so dying in between loses nothing.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::{DrillId, TenantName};
use holdfast_proto::{Sha256Digest, Timestamp};
use holdfast_repository::evidence::EvidenceStore;
use holdfast_repository::trust::Trust;

use super::{EvidenceKeeper, EvidenceKeys, EvidencePassError};
use crate::evidence::coverage::{self, Counted, CoverageStatement, Month};
use crate::evidence::entry::{
    BadEntry, Entry, EntryBody, Heartbeat, LoggedEntry, Member, PolicyTaken, Population, Received,
};
use crate::evidence::statement::{DrillKind, Statement};

/// The policy in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// SHA-256 of its text.
    pub digest: Sha256Digest,
    /// What it changed when it came into force, a sentence each; empty when that
    /// was before this process began.
    pub changes: Vec<String>,
}

/// Bytes of sentences that one entry takes; the log's entries are not longer than
/// 64 KiB, and base64 makes three bytes four.
const SENTENCES: usize = 32 * 1024;

/// What is to be logged, and what was.
#[derive(Debug, Default)]
pub(super) struct Duties {
    wanted: BTreeMap<TenantName, Vec<Member>>,
    /// The newest population of each tenant, and when its first one was logged.
    populations: BTreeMap<TenantName, (Sha256Digest, Timestamp)>,
    /// The policy that asks for it, and the one that the log named last.
    in_force: Option<InForce>,
    named: Option<Sha256Digest>,
    beat: Option<Timestamp>,
    covered: BTreeSet<(TenantName, Month)>,
    /// Restores that were logged, and nothing says yet how long they had waited.
    unreceived: BTreeMap<u64, (Sha256Digest, Box<Statement>)>,
    /// Every statement in the log.
    logged: BTreeSet<DrillId>,
    /// Waiting statements that were refused.
    refused: BTreeSet<(DrillId, Sha256Digest)>,
}

impl Duties {
    pub(super) fn of(wanted: BTreeMap<TenantName, Vec<Member>>) -> Self {
        Self {
            wanted,
            ..Self::default()
        }
    }

    pub(super) fn ask(&mut self, wanted: BTreeMap<TenantName, Vec<Member>>, policy: InForce) {
        self.wanted = wanted;
        self.in_force = Some(policy);
    }

    /// The policy in force, when the log names another one.
    fn policy_due(&self, now: Timestamp) -> Option<PolicyTaken> {
        let policy = self.in_force.as_ref()?;
        if self.named == Some(policy.digest) {
            return None;
        }
        let mut bytes = 0;
        let fits = policy.changes.iter().take_while(|change| {
            bytes += change.len() + 4;
            bytes <= SENTENCES
        });
        let mut changes: Vec<String> = fits.cloned().collect();
        if changes.len() < policy.changes.len() {
            changes.push(format!("and {} more", policy.changes.len() - changes.len()));
        }
        Some(PolicyTaken {
            from: self.named,
            to: policy.digest,
            changes,
            at: now,
        })
    }

    /// An entry was read.
    pub(super) fn note(&mut self, n: u64, entry: &LoggedEntry) {
        match &entry.entry {
            Entry::Heartbeat(beat) => self.beat = self.beat.max(Some(beat.at)),
            Entry::Population(p) => {
                if let Some(tenant) = &p.tenant {
                    let first = self.populations.get(tenant).map_or(p.at, |(_, first)| *first);
                    self.populations.insert(tenant.clone(), (p.digest, first));
                }
            }
            Entry::Policy(taken) => self.named = Some(taken.to),
            Entry::Received(received) => {
                self.unreceived.remove(&received.entry);
            }
            Entry::Coverage(statement) => {
                let coverage = &statement.predicate;
                self.covered.insert((coverage.tenant.clone(), coverage.month));
            }
            Entry::Result(statement) => {
                self.logged.insert(statement.predicate.drill.id);
                if statement.predicate.drill.kind == DrillKind::RealRestore {
                    self.unreceived.insert(n, (entry.digest(), statement.clone()));
                }
            }
            Entry::Intent(_) | Entry::Abandoned(_) | Entry::Other => {}
        }
    }

    /// One heartbeat for each day, in UTC.
    fn beat_due(&self, now: Timestamp) -> bool {
        let day = |t: Timestamp| t.to_chrono().date_naive();
        self.beat.is_none_or(|beat| day(beat) < day(now))
    }

    fn populations_due(&self, now: Timestamp) -> Vec<Population> {
        let gone = self
            .populations
            .keys()
            .filter(|tenant| !self.wanted.contains_key(*tenant));
        // Without a policy nothing is known, which is not the same as nothing wanted.
        let gone = gone.filter(|_| !self.wanted.is_empty());
        self.wanted
            .iter()
            .map(|(tenant, members)| (tenant, members.clone()))
            .chain(gone.map(|tenant| (tenant, Vec::new())))
            .map(|(tenant, members)| Population::of_tenant(tenant.clone(), members, now))
            .filter(|p| {
                let last = p.tenant.as_ref().and_then(|t| self.populations.get(t));
                last.is_none_or(|(digest, _)| *digest != p.digest)
            })
            .collect()
    }

    fn received_due(&self, now: Timestamp) -> Vec<Received> {
        self.unreceived
            .iter()
            .map(|(n, (digest, statement))| {
                let p = &statement.predicate;
                let ended = p.timings.phases.iter().map(|t| t.end).max().unwrap_or(now);
                Received {
                    drill: p.drill.id,
                    cluster: p.scope.id(),
                    entry: *n,
                    digest: *digest,
                    ended,
                    at: now,
                    delay_ms: now.millis_since(ended),
                }
            })
            .collect()
    }

    /// Months that are over and not counted yet, from each tenant's first
    /// population on: a coordinator that was down for long catches up.
    fn coverage_due(&self, now: Timestamp) -> Vec<(TenantName, Month)> {
        let mut due = Vec::new();
        for (tenant, (_, first)) in &self.populations {
            let mut month = Month::of(now).and_then(Month::previous);
            while let Some(over) = month.filter(|m| *first < m.until()) {
                let pair = (tenant.clone(), over);
                if !self.covered.contains(&pair) {
                    due.push(pair);
                }
                month = over.previous();
            }
        }
        due.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        due
    }
}

impl EvidenceKeeper {
    /// Logs restores whose statements wait. Returns how many.
    pub(super) async fn take_pending(
        &mut self,
        store: &EvidenceStore,
        trust: &Trust,
        now: Timestamp,
    ) -> Result<u64, EvidencePassError> {
        let mut taken = 0;
        for (drill, bytes) in store.pending().await? {
            let seen = (drill, Sha256Digest::of(&bytes));
            if self.duties.logged.contains(&drill) || self.duties.refused.contains(&seen) {
                continue;
            }
            match self.fit_to_log(drill, &bytes, trust) {
                Ok(()) => {
                    store.append(bytes).await?;
                    self.duties.logged.insert(drill);
                    taken += 1;
                }
                Err(why) => {
                    tracing::error!(%drill, err = %why, "a waiting statement is refused");
                    self.findings.push(Finding {
                        name: "evidence-pending-refused".to_owned(),
                        subject: drill.to_string(),
                        severity: Severity::Critical,
                        detail: why,
                        since: now,
                    });
                    self.duties.refused.insert(seen);
                }
            }
        }
        if taken > 0 {
            self.catch_up(store, now).await?;
        }
        Ok(taken)
    }

    /// Only restores that were needed may come late: a drill is announced first.
    fn fit_to_log(&self, drill: DrillId, bytes: &Bytes, trust: &Trust) -> Result<(), String> {
        let entry = LoggedEntry::parse(bytes).map_err(|e| e.to_string())?;
        match &entry.entry {
            Entry::Result(s) if s.predicate.drill.id != drill => {
                Err(format!("it is the statement of {}", s.predicate.drill.id))
            }
            Entry::Result(s) if s.predicate.drill.kind != DrillKind::RealRestore => {
                Err("it is a drill's: drills are logged by their runner".to_owned())
            }
            _ => self.acceptable(&entry, trust),
        }
    }

    /// Logs what is due. Returns whether anything was.
    pub(super) async fn keep_up(
        &mut self,
        store: &EvidenceStore,
        keys: &EvidenceKeys,
        now: Timestamp,
    ) -> Result<bool, EvidencePassError> {
        let mut entries = Vec::new();
        if self.duties.beat_due(now) {
            entries.push(signed(&Heartbeat { at: now }, keys)?);
        }
        for population in self.duties.populations_due(now) {
            match signed(&population, keys) {
                Ok(entry) => entries.push(entry),
                Err(e) => self.note_once("evidence-population-too-long", &population.tenant, &e, now),
            }
        }
        if let Some(policy) = self.duties.policy_due(now) {
            entries.push(signed(&policy, keys)?);
        }
        for received in self.duties.received_due(now) {
            entries.push(signed(&received, keys)?);
        }
        let mut logged = !entries.is_empty();
        for entry in entries {
            store.append(Bytes::copy_from_slice(entry.bytes())).await?;
        }
        for (tenant, month) in self.duties.coverage_due(now) {
            logged |= self.cover(store, keys, tenant, month, now).await?;
        }
        Ok(logged)
    }

    /// Counts a month once nothing of it is open any more.
    async fn cover(
        &mut self,
        store: &EvidenceStore,
        keys: &EvidenceKeys,
        tenant: TenantName,
        month: Month,
        now: Timestamp,
    ) -> Result<bool, EvidencePassError> {
        let open = self.open.values().any(|o| {
            o.cluster.tenant == tenant && matches!(&o.entry.entry, Entry::Intent(i) if i.at < month.until())
        });
        if open {
            return Ok(false);
        }
        let size = self.tree.len();
        let stored = store.entries(0, size).await?;
        let entries: Vec<(u64, LoggedEntry)> = (0..)
            .zip(&stored)
            .filter_map(|(n, bytes)| Some((n, LoggedEntry::parse(bytes).ok()?)))
            .collect();
        let counted = Counted {
            log: crate::log::origin(store.repository()),
            size,
            root: self.tree.root(),
        };
        let coverage = coverage::derive(entries.iter().map(|(n, e)| (*n, e)), &counted, &tenant, month);
        self.duties.covered.insert((tenant.clone(), month));
        match LoggedEntry::sign_coverage(&CoverageStatement::new(coverage), &keys.coordinator) {
            Ok(entry) => {
                store.append(Bytes::copy_from_slice(entry.bytes())).await?;
                Ok(true)
            }
            Err(e) => {
                self.note_once("evidence-coverage-too-long", &Some(tenant), &e.into(), now);
                Ok(false)
            }
        }
    }

    fn note_once(
        &mut self,
        name: &str,
        tenant: &Option<TenantName>,
        why: &EvidencePassError,
        now: Timestamp,
    ) {
        let subject = tenant.as_ref().map(ToString::to_string).unwrap_or_default();
        if self
            .findings
            .iter()
            .any(|f| f.name == name && f.subject == subject)
        {
            return;
        }
        self.findings.push(Finding {
            name: name.to_owned(),
            subject,
            severity: Severity::Critical,
            detail: why.to_string(),
            since: now,
        });
    }
}

impl From<BadEntry> for EvidencePassError {
    fn from(e: BadEntry) -> Self {
        EvidencePassError::Entry(e)
    }
}

fn signed<B: EntryBody>(body: &B, keys: &EvidenceKeys) -> Result<LoggedEntry, EvidencePassError> {
    Ok(LoggedEntry::sign(body, &keys.coordinator)?)
}
