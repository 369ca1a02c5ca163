//! Why a statement does not say what it does not say.

use std::collections::BTreeMap;

use super::DrillRequest;
use crate::evidence::statement::{Level, Statement, unknown};

/// What holds for drills and restores alike.
fn always(field: &str, policy: bool) -> Option<&'static str> {
    Some(match field {
        "scope.legal_entity"
        | "scope.environment"
        | "scope.tier"
        | "scope.residency_zone"
        | "scope.business_services" => match policy {
            true => "the policy does not say",
            false => "the runner's configuration names no policy",
        },
        "policy" => "the runner's configuration names no policy",
        "actors.initiator" => "nobody was named by the system that began it",
        "actors.runner.image_digest" => "it ran from no image, or whoever started it did not say from which",
        "actors.backup_writer" => "the manifest's signer could not be read again",
        "actors.reviewer" => "reviews are signatures of their own, beside the statement",
        "target.region" => "the runner's configuration does not say where its machine is",
        "recovery_point.encryption" => "no key opened",
        "recovery_point.filestore_watermark" => "no filestore was restored, or its scan is not on record",
        _ => return None,
    })
}

/// Names what a drill's statement leaves out. `measured` are reasons that were met on
/// the way.
pub(super) fn state(
    statement: &mut Statement,
    request: &DrillRequest,
    measured: &BTreeMap<&'static str, String>,
) {
    let (level, policy) = (request.scenario.level, request.governing.is_some());
    let here = |field: &str| match field {
        "actors.approvals" => Some("no rule asks for an approval of a drill"),
        "recovery_point" => Some("the repository could not be opened as the scenario says"),
        "target" | "results.rto" | "results.database" if level == Level::L1 => {
            Some("at L1 nothing is restored")
        }
        "target" => Some("there was no place to restore to"),
        "results.rto" => Some("the copy never took connections"),
        "results.rpo" => Some("no agent signed how far the source was"),
        "results.filestore" if level < Level::L3 => Some("files are restored from L3 on"),
        "results.filestore" => Some("there is no filestore, or its files were not compared"),
        "results.database" => Some("the copy was not looked at"),
        _ => always(field, policy),
    };
    unknown::state(&mut statement.predicate, |field| {
        measured
            .get(field)
            .cloned()
            .or_else(|| here(field).map(str::to_owned))
    });
}

/// Names what a restore's statement leaves out: it was needed, and nothing is measured
/// beside it.
pub(crate) fn state_of_restore(statement: &mut Statement, policy: bool) {
    let here = |field: &str| match field {
        "actors.approvals" => Some("nobody had to approve it"),
        "sampling" => Some("the moment was asked for, not drawn"),
        "results.rto" => Some("the restore ends with the last file, and the server is started by others"),
        "target" | "results.filestore" | "results.database" => {
            Some("nothing is looked at while files are written")
        }
        "results.rpo" => {
            Some("the repository could not be read again, or no agent signed how far the source was")
        }
        "recovery_point.replicas.locked_until" | "timings.clock_offset_ms" | "retention" => {
            Some("a restore that is needed does not wait for it")
        }
        _ => always(field, policy),
    };
    unknown::state(&mut statement.predicate, |field| here(field).map(str::to_owned));
}
