//! Follows every commit point to what it needs, over all replicas together.
//!
//! Whether a replica lacks something is said when copies are compared; here it
//! is about what is on none of them, and is lost. Memory: some 40 bytes for each
//! pack and index, and the links of each record.

use std::collections::{BTreeMap, HashSet};

use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::{ClusterId, ObjectKey};
use holdfast_proto::{Fingerprint, Sha256Digest, Timestamp};

use crate::Repository;
use crate::layout::{self, Located};
use crate::needs::Needs;

/// Things that are missing which a finding names.
const NAMED: usize = 3;

/// What is there, and what is needed.
#[derive(Debug, Default)]
pub(super) struct Census {
    content: HashSet<Sha256Digest>,
    keys: HashSet<Fingerprint>,
    records: HashSet<ObjectKey>,
    needs: BTreeMap<ObjectKey, Needs>,
}

impl Census {
    /// Counts an object that is on some replica.
    pub fn count(&mut self, key: &ObjectKey, located: &Located) {
        match located {
            Located::Pack { sha256, .. } | Located::Index { sha256, .. } => {
                self.content.insert(*sha256);
            }
            Located::Key { fingerprint, .. } => {
                self.keys.insert(*fingerprint);
            }
            Located::Wal { .. } | Located::Frontier { .. } | Located::Lease { .. } => {}
            _ => {
                self.records.insert(key.clone());
            }
        }
    }

    /// Notes what a verified object needs.
    pub fn needs(&mut self, key: ObjectKey, needs: Needs) {
        if !(needs.keys.is_empty() && needs.objects.is_empty() && needs.parts.is_empty()) {
            self.needs.entry(key).or_insert(needs);
        }
    }

    /// What is needed and on no replica. `blind` says that a replica could not
    /// be listed, and may have it.
    pub async fn look(
        self,
        repository: &Repository,
        cluster: &ClusterId,
        blind: bool,
        now: Timestamp,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut referenced: HashSet<Sha256Digest> = HashSet::new();
        let mut unread = false;
        for (key, needs) in &self.needs {
            let mut missing: Vec<String> = Vec::new();
            let lost_keys = needs.keys.iter().filter(|k| !self.keys.contains(*k));
            missing.extend(lost_keys.map(|k| format!("key object {}", k.short())));
            let lost = needs.objects.iter().filter(|o| !self.records.contains(*o));
            missing.extend(lost.map(ToString::to_string));
            for part in &needs.parts {
                referenced.extend([part.index.sha256, part.catalogue.sha256]);
                if !self.content.contains(&part.catalogue.sha256) {
                    missing.push(layout::pack(cluster, &part.catalogue.sha256).to_string());
                }
                if !self.keys.contains(&part.sealed_to) {
                    missing.push(format!("key object {}", part.sealed_to.short()));
                }
                let index = layout::index(cluster, &part.index.sha256);
                if !self.content.contains(&part.index.sha256) {
                    missing.push(index.to_string());
                    unread = true;
                    continue;
                }
                match repository.fetch_index(cluster, part).await {
                    Err(e) => {
                        missing.push(format!("a readable {index} ({e})"));
                        unread = true;
                    }
                    Ok((clear, _)) => {
                        for pack in &clear.packs {
                            referenced.insert(pack.sha256);
                            if !self.content.contains(&pack.sha256) {
                                missing.push(layout::pack(cluster, &pack.sha256).to_string());
                            }
                        }
                    }
                }
            }
            if !missing.is_empty() {
                findings.push(lost_by(key, &missing, blind, now));
            }
        }
        let orphans = self.content.difference(&referenced).count();
        if orphans > 0 && !unread {
            findings.push(Finding {
                name: "content-unreferenced".into(),
                subject: cluster.to_string(),
                severity: Severity::Info,
                detail: format!(
                    "{orphans} packs and indexes belong to nothing that is committed: backups under way and interrupted \
                     ones leave such, and so does a commit object that was removed on every replica"
                ),
                since: now,
            });
        }
        findings
    }
}

fn lost_by(key: &ObjectKey, missing: &[String], blind: bool, now: Timestamp) -> Finding {
    let named = missing.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = match missing.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let (where_, then) = if blind {
        ("on none of the replicas that answered", "Bring the others back")
    } else {
        ("on no replica", "It cannot be restored whole: make a new one")
    };
    Finding {
        name: "object-lost".into(),
        subject: key.to_string(),
        severity: Severity::Critical,
        detail: format!("what it needs is {where_}: {named}{more}. {then}"),
        since: now,
    }
}
