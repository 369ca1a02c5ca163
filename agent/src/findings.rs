//! The findings that hold at this moment.
//!
//! Every part of the agent raises what departs from what should be and clears it
//! when it is over; whoever reports (the heartbeat, the status page) takes a
//! snapshot. A finding raised again keeps the moment at which it was first seen; it is
//! logged again when it says something else, other numbers in the same words apart.
//! Nothing is stored: a finding that still holds after a restart is found again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_proto::Timestamp;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::Region;

/// A shared register of findings. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Findings(Arc<Mutex<BTreeMap<(String, String), Finding>>>);

impl Findings {
    /// Notes that `name` holds for `subject`.
    pub fn raise(
        &self,
        severity: Severity,
        name: &str,
        subject: impl Into<String>,
        detail: impl Into<String>,
    ) {
        self.note(Finding {
            name: name.to_owned(),
            subject: subject.into(),
            severity,
            detail: detail.into(),
            since: Timestamp::from_chrono(chrono::Utc::now()),
        });
    }

    /// Notes a finding that somebody else has made.
    pub fn note(&self, finding: Finding) {
        let mut held = self.held();
        let key = (finding.name.clone(), finding.subject.clone());
        let known = held.get(&key);
        let same = |known: &Finding| {
            known.severity == finding.severity && words(&known.detail).eq(words(&finding.detail))
        };
        if !known.is_some_and(same) {
            match finding.severity {
                Severity::Info => {
                    tracing::info!(
                        name = finding.name,
                        subject = finding.subject,
                        detail = finding.detail,
                        "finding"
                    );
                }
                Severity::Warning => {
                    tracing::warn!(
                        name = finding.name,
                        subject = finding.subject,
                        detail = finding.detail,
                        "finding"
                    );
                }
                Severity::Critical => {
                    tracing::error!(
                        name = finding.name,
                        subject = finding.subject,
                        detail = finding.detail,
                        "finding"
                    );
                }
            }
        }
        let since = known.map_or(finding.since, |known| known.since.min(finding.since));
        held.insert(key, Finding { since, ..finding });
    }

    /// Notes that `name` no longer holds for `subject`.
    pub fn clear(&self, name: &str, subject: &str) {
        let gone = self.held().remove(&(name.to_owned(), subject.to_owned()));
        if gone.is_some() {
            tracing::info!(name, subject, "finding is over");
        }
    }

    /// Notes what a piece of work found, whose findings have these `names`: what an
    /// earlier run of it found and this one did not is over.
    pub fn renew(&self, names: &[&str], found: Vec<Finding>) {
        let again = |(name, subject): &(String, String)| {
            found
                .iter()
                .any(|finding| finding.name == *name && finding.subject == *subject)
        };
        let over: Vec<(String, String)> = self
            .held()
            .keys()
            .filter(|key| names.contains(&key.0.as_str()) && !again(key))
            .cloned()
            .collect();
        for (name, subject) in over {
            self.clear(&name, &subject);
        }
        found.into_iter().for_each(|finding| self.note(finding));
    }

    /// Notes what a commit said: replicas that are behind, and those that no longer
    /// are.
    pub fn committed(&self, findings: Vec<Finding>, complete_on: &[Region]) {
        for region in complete_on {
            self.clear("replica-behind", region.as_str());
        }
        findings.into_iter().for_each(|finding| self.note(finding));
    }

    /// Whether `name` holds for `subject`.
    pub fn holds(&self, name: &str, subject: &str) -> bool {
        self.held().contains_key(&(name.to_owned(), subject.to_owned()))
    }

    /// All of them, by name and subject.
    pub fn snapshot(&self) -> Vec<Finding> {
        self.held().values().cloned().collect()
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<(String, String), Finding>> {
        // The map is whole after every statement above, so a panic elsewhere
        // while it was locked left nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The words of a text without positions, sizes and times, which change from look to look.
fn words(detail: &str) -> impl Iterator<Item = &str> {
    detail
        .split_whitespace()
        .filter(|word| !word.contains(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_alone_say_nothing_new() {
        let same = |a, b| words(a).eq(words(b));
        assert!(same(
            "the slot holds 12.5 MiB since 0/3A",
            "the slot holds 13 MiB since 0/4F"
        ));
        assert!(!same("agent a writes", "the archive has WAL up to 0/3A"));
    }

    #[test]
    fn a_finding_is_raised_once_and_cleared() {
        let findings = Findings::default();
        findings.raise(Severity::Warning, "replica-unreachable", "eu", "first");
        let since = findings.snapshot()[0].since;
        findings.raise(Severity::Critical, "replica-unreachable", "eu", "second");
        let all = findings.snapshot();
        assert_eq!(all.len(), 1);
        assert_eq!(
            (all[0].since, all[0].severity, all[0].detail.as_str()),
            (since, Severity::Critical, "second")
        );
        assert!(findings.holds("replica-unreachable", "eu"));
        findings.clear("replica-unreachable", "eu");
        assert!(findings.snapshot().is_empty());
    }

    #[test]
    fn what_the_next_run_does_not_find_is_over() {
        let findings = Findings::default();
        findings.raise(Severity::Warning, "replica-behind", "eu", "it lacks a base");
        findings.raise(Severity::Critical, "file-unreadable", "base/1/2", "no permission");
        findings.raise(Severity::Critical, "page-damaged", "base/1/3", "block 7");
        let again = findings.snapshot().into_iter().find(|f| f.name == "page-damaged");
        let since = again.as_ref().map(|f| f.since);
        findings.renew(&["file-unreadable", "page-damaged"], again.into_iter().collect());
        let names: Vec<String> = findings.snapshot().into_iter().map(|f| f.name).collect();
        assert_eq!(names, ["page-damaged", "replica-behind"]);
        assert_eq!(Some(findings.snapshot()[0].since), since);
    }
}
