//! What was restored, as a statement says it.

use std::collections::BTreeSet;

use holdfast_agent::restore::Access;
use holdfast_plan::restore::RestorePlan;
use holdfast_proto::names::{KeyKind, ObjectKey};
use holdfast_proto::pg::Lsn;
use holdfast_proto::record::CommitMark;
use holdfast_proto::{Fingerprint, Sha256Digest};

use super::{Measured, stated_target};
use crate::evidence::statement::recovery::{Base, Encryption, RecoveryPoint, RecoveryPointKind, ReplicaLock};
use crate::evidence::statement::{Subject, SubjectKind};
use crate::runner::{Chosen, Sight, objectives};

/// The recovery point as the drill saw it.
pub(super) fn seen_recovery_point(sight: &Sight, chosen: &Chosen, measured: &Measured) -> RecoveryPoint {
    let Sight {
        access, ledger, plan, ..
    } = sight;
    let kind = match chosen.fence {
        Some(_) => RecoveryPointKind::Fence,
        None => RecoveryPointKind::Pitr,
    };
    let whole = recovery_point(access, plan, measured.reached, measured.last_commit);
    let bases = ledger.facts.lineages.iter().flat_map(|l| &l.bases);
    let base = bases.into_iter().find(|b| b.id == plan.base.id);
    RecoveryPoint {
        kind,
        base: Base {
            kind: base.and_then(|b| b.kind),
            ..whole.base
        },
        point: chosen.fence,
        filestore_watermark: objectives::watermark(ledger, plan),
        replicas: plan
            .replicas
            .iter()
            .filter(|r| r.unreachable.is_none())
            .map(|r| measured.surroundings.lock(&r.region))
            .collect(),
        ..whole
    }
}

/// The recovery point restored, and where recovery ended if it ran.
pub(crate) fn recovery_point(
    access: &Access,
    plan: &RestorePlan,
    reached: Option<Lsn>,
    last_commit: Option<CommitMark>,
) -> RecoveryPoint {
    RecoveryPoint {
        kind: RecoveryPointKind::Pitr,
        point: None,
        system_identifier: plan.lineage.system,
        version_num: plan.base.version_num,
        timeline: plan.replay.timeline,
        target: stated_target(&plan.target, plan),
        base: Base {
            id: plan.base.id,
            start: plan.base.start_lsn,
            stop: plan.base.stop_lsn,
            bytes: Some(plan.base.bytes),
            kind: None,
        },
        wal_bytes_replayed: reached.and_then(|end| end.bytes_since(plan.base.start_lsn)),
        reached,
        last_replayed_commit: last_commit,
        filestore_watermark: None,
        replicas: plan
            .replicas
            .iter()
            .filter(|r| r.unreachable.is_none())
            .map(|r| ReplicaLock::unknown(r.region.clone()))
            .collect(),
        encryption: encryption(access),
    }
}

fn encryption(access: &Access) -> Option<Encryption> {
    let (mut recipients, mut epochs) = (BTreeSet::new(), BTreeSet::new());
    for opened in access.keyring.opened().filter(|o| o.kind == KeyKind::Data) {
        recipients.extend(
            opened
                .sealed_to
                .iter()
                .map(|s| Fingerprint::of_recipient(&s.recipient)),
        );
        epochs.insert(opened.epoch);
    }
    (!recipients.is_empty()).then(|| Encryption {
        recipients: recipients.into_iter().collect(),
        epochs: epochs.into_iter().collect(),
    })
}

/// What it was restored from, by digest.
pub(crate) fn subjects(plan: &RestorePlan, wal: &[(ObjectKey, Sha256Digest)]) -> Vec<Subject> {
    let mut subjects = vec![Subject::object(
        SubjectKind::BaseBackup,
        plan.base.link.key.clone(),
        plan.base.link.sha256,
    )];
    for step in plan.filestores.iter().flat_map(|f| f.entries.last()) {
        subjects.push(Subject::object(
            SubjectKind::FilestoreEntry,
            step.link.key.clone(),
            step.link.sha256,
        ));
    }
    if let Some(config) = &plan.config {
        subjects.push(Subject::object(
            SubjectKind::ConfigurationBundle,
            config.key.clone(),
            config.sha256,
        ));
    }
    if !wal.is_empty() {
        subjects.push(Subject::wal_listing(
            wal.iter().map(|(key, sha256)| (key, *sha256)),
        ));
    }
    subjects
}
