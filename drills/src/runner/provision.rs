//! The place of a drill: its scratch space, the copy's wall and its bounds, and what
//! they are worth.

use std::sync::Arc;

use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::DrillId;
use holdfast_repository::clock;

use super::{Measured, Runner, report};
use crate::checks::Check;
use crate::evidence::statement::recovery::EgressProbe as StatedProbe;
use crate::evidence::statement::results::CheckClass;
use crate::scratch::{Cage, EgressProbe, Isolation, ScratchError, ScratchSpace};

/// Makes the scratch space, finds the strongest wall and tries it.
pub(super) fn make(
    runner: &Runner,
    measured: &mut Measured,
) -> Result<(ScratchSpace, Isolation, Option<Arc<Cage>>), ScratchError> {
    let space = space(runner, measured.id)?;
    let cage = bounded(runner, measured);
    let isolation = Isolation::detect(Some(&runner.fetch.program)).within(cage.clone());
    note_isolation(&isolation, runner.place.is_some(), measured);
    Ok((space, isolation, cage))
}

/// Notes that processes of the copy were killed for want of memory.
pub(super) fn note_killed(cage: Option<&Cage>, measured: &mut Measured) {
    if cage.is_some_and(|cage| cage.killed() > 0) {
        let detail = "the copy wanted more memory than [runner] gives it, and processes of it were killed";
        note_limits(measured, "copy-out-of-memory", detail.to_owned());
    }
}

fn space(runner: &Runner, id: DrillId) -> Result<ScratchSpace, ScratchError> {
    for left in ScratchSpace::sweep(&runner.scratch)? {
        tracing::warn!(path = %left.display(), "an earlier drill died here; its scratch space was removed");
        let name = left.file_name().unwrap_or_default().to_string_lossy();
        Cage::clear(&cage_name(&name));
    }
    ScratchSpace::create(&runner.scratch, id)
}

/// The control group of a drill, by the name of its scratch space.
fn cage_name(space: &str) -> String {
    format!("holdfast-{space}")
}

/// The control group of the copy, where limits are set. Without one the drill goes on,
/// and says so.
fn bounded(runner: &Runner, measured: &mut Measured) -> Option<Arc<Cage>> {
    match Cage::make(&cage_name(&format!("drill-{}", measured.id)), &runner.limits) {
        Ok(cage) => cage.map(Arc::new),
        Err(e) => {
            note_limits(measured, "limits-not-enforced", e.to_string());
            None
        }
    }
}

fn note_limits(measured: &mut Measured, name: &str, detail: String) {
    tracing::warn!(finding = name, err = %detail, "the copy's limits");
    measured.findings.push(Finding {
        name: name.to_owned(),
        subject: "scratch".to_owned(),
        severity: Severity::Warning,
        detail,
        since: clock::now(),
    });
}

/// A copy in a pod needs a wall of its own: the pod reaches the repository, and
/// with it whatever runs in it.
fn note_isolation(isolation: &Isolation, in_pod: bool, measured: &mut Measured) {
    let probe = isolation.probe_egress();
    measured.isolated(
        isolation.kind(),
        match probe {
            EgressProbe::Blocked => Some(StatedProbe::Blocked),
            EgressProbe::Open => Some(StatedProbe::Open),
            EgressProbe::NotProbed => None,
        },
    );
    let check = Check::mandatory("egress-closed", CheckClass::Isolation);
    if let Some((words, script)) = isolation.probe() {
        let blocked = probe == EgressProbe::Blocked;
        let expected = format!("blocked: {words}");
        measured.checks.push(
            check
                .query(script)
                .compared(blocked, expected, report::word(probe)),
        );
    } else if in_pod {
        let why = "the pod gives neither namespaces nor a filter of system calls to the copy";
        measured.checks.push(check.could_not_run(&why));
    }
}
