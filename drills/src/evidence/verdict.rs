//! The verdict that a drill's own findings allow.
//!
//! Pure: the same record gives the same verdict and the same reasons, in the
//! same order. In order of precedence:
//!
//! 1. **FAIL** when anything came out wrong that no exception accepts: a check,
//!    a missed objective, a file missing in the backup or different from its
//!    reference, a page that fails its checksum, an amcheck error, a value that
//!    does not agree with the source's.
//! 2. **COULD_NOT_VERIFY** when a mandatory check was skipped or could not run,
//!    when an objective was set and not measured, or when no data-proving check
//!    passed in a class that the level needs.
//! 3. **PASS_WITH_EXCEPTIONS** when something came out wrong and is accepted.
//! 4. **PASS** otherwise.
//!
//! The classes needed are STRUCTURE and REFERENTIAL from L2, and APPLICATION from
//! L4: without them a copy that is empty would pass. At L1 there is no copy: it is
//! INTEGRITY of the backup itself.

use super::statement::results::{CheckClass, CheckOutcome, Verdict};
use super::statement::{Level, RecoveryDrill};

/// A verdict and what led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The best verdict that may be given.
    pub verdict: Verdict,
    /// Why; empty only for a plain PASS.
    pub reasons: Vec<String>,
    /// Whether the recovery time objective was met; `None` without an
    /// objective or a measurement.
    pub rto_met: Option<bool>,
    /// Whether the recovery point objective was met; `None` likewise.
    pub rpo_met: Option<bool>,
}

/// The classes in which a data-proving check must have passed.
pub fn classes_needed(level: Level) -> &'static [CheckClass] {
    if level == Level::L1 {
        &[CheckClass::Integrity]
    } else if level >= Level::L4 {
        &[
            CheckClass::Structure,
            CheckClass::Referential,
            CheckClass::Application,
        ]
    } else {
        &[CheckClass::Structure, CheckClass::Referential]
    }
}

/// Controls about the integrity of backups alone: what a drill serves that restores nothing.
const OF_INTEGRITY: [&str; 1] = ["NIST-800-53 CP-9(1)"];

/// Whether a drill of `level` can show anything of a control. All others are about tests of
/// a recovery.
pub fn serves(level: Level, control: &str) -> bool {
    level.restores() || OF_INTEGRITY.contains(&control)
}

/// Weighs a drill's findings. The verdict that it carries is not looked at.
pub fn judge(drill: &RecoveryDrill) -> Judgement {
    let accepted = |what: &str| drill.exceptions.iter().any(|e| e.accepts == what);
    let (rto_met, rpo_met) = objectives_met(drill);
    let (mut wrong, mut excused) = (Vec::new(), Vec::new());
    for (subject, reason) in wrongs(drill, rto_met, rpo_met) {
        if accepted(&subject) {
            excused.push(format!("accepted: {reason}"));
        } else {
            wrong.push(reason);
        }
    }
    let unknown = unknowns(drill, rto_met, rpo_met);
    let (verdict, reasons) = if !wrong.is_empty() {
        (Verdict::Fail, [wrong, unknown, excused].concat())
    } else if !unknown.is_empty() {
        (Verdict::CouldNotVerify, [unknown, excused].concat())
    } else if !excused.is_empty() {
        (Verdict::PassWithExceptions, excused)
    } else {
        (Verdict::Pass, Vec::new())
    };
    Judgement {
        verdict,
        reasons,
        rto_met,
        rpo_met,
    }
}

/// Writes the judgement into the record: verdict, reasons, and whether the
/// objectives were met.
pub fn settle(drill: &mut RecoveryDrill) {
    let judgement = judge(drill);
    let results = &mut drill.results;
    results.verdict = judgement.verdict;
    results.reasons = judgement.reasons;
    if let Some(rto) = &mut results.rto {
        rto.met = judgement.rto_met;
    }
    if let Some(rpo) = &mut results.rpo {
        rpo.met = judgement.rpo_met;
    }
}

fn objectives_met(drill: &RecoveryDrill) -> (Option<bool>, Option<bool>) {
    let Some(policy) = &drill.policy else {
        return (None, None);
    };
    let (objectives, results) = (policy.objectives, &drill.results);
    let rto = results.rto.as_ref().map(|r| r.actual_ms);
    let rto_met = objectives.rto_ms.and_then(|limit| Some(rto? <= limit));
    let rpo_met = objectives.rpo_ms.and_then(|limit| {
        let rpo = results.rpo.as_ref()?;
        let missed = |lag: Option<u64>| lag.is_some_and(|l| l > limit);
        if missed(rpo.database_lag_ms) || missed(rpo.filestore_lag_ms) {
            return Some(false);
        }
        // With files in the drill, both lags have to be known.
        let measured =
            rpo.database_lag_ms.is_some() && (results.filestore.is_none() || rpo.filestore_lag_ms.is_some());
        measured.then_some(true)
    });
    (rto_met, rpo_met)
}

/// What came out wrong, each with the word by which an exception accepts it.
fn wrongs(drill: &RecoveryDrill, rto_met: Option<bool>, rpo_met: Option<bool>) -> Vec<(String, String)> {
    let mut wrong: Vec<(String, String)> = Vec::new();
    let mut add = |subject: &str, reason: String| wrong.push((subject.to_owned(), reason));
    let results = &drill.results;
    for check in results.checks.iter().filter(|c| c.result == CheckOutcome::Fail) {
        add(&check.id, format!("check {} ({}) failed", check.id, check.class));
    }
    if let Some(f) = &results.filestore {
        for (count, what) in [
            (f.missing_in_backup, "missing in the backup"),
            (f.digest_mismatch, "of another digest than their reference"),
            (f.size_mismatch, "of another size than their reference"),
        ] {
            if count > 0 {
                add("filestore", format!("{count} referenced files are {what}"));
            }
        }
    }
    if let Some(d) = &results.database {
        for (count, what) in [
            (d.checksum_failures, "pages fail their checksum"),
            (d.amcheck_errors, "errors by amcheck"),
        ] {
            if let Some(count) = count.filter(|c| *c > 0) {
                add("database", format!("{count} {what}"));
            }
        }
        for value in d.reconciliation.iter().filter(|v| !v.agrees) {
            add("database", format!("{} does not agree with the source", value.id));
        }
    }
    if rto_met == Some(false) {
        add("rto", "recovery took longer than the objective".to_owned());
    }
    if rpo_met == Some(false) {
        add(
            "rpo",
            "more would have been lost than the objective allows".to_owned(),
        );
    }
    wrong
}

/// What cannot be said.
fn unknowns(drill: &RecoveryDrill, rto_met: Option<bool>, rpo_met: Option<bool>) -> Vec<String> {
    let mut unknown = Vec::new();
    for check in drill.results.checks.iter().filter(|c| c.mandatory) {
        match check.result {
            CheckOutcome::Skipped => unknown.push(format!("mandatory check {} was skipped", check.id)),
            CheckOutcome::CouldNotRun => unknown.push(format!("mandatory check {} could not run", check.id)),
            CheckOutcome::Pass | CheckOutcome::Fail => {}
        }
    }
    for class in classes_needed(drill.drill.level) {
        let proven = drill
            .results
            .checks
            .iter()
            .any(|c| c.class == *class && c.data_proving && c.result == CheckOutcome::Pass);
        if !proven {
            unknown.push(format!("no data-proving check passed in {class}"));
        }
    }
    if let Some(policy) = &drill.policy {
        if policy.objectives.rto_ms.is_some() && rto_met.is_none() {
            unknown.push("an objective for recovery time is set and was not measured".to_owned());
        }
        if policy.objectives.rpo_ms.is_some() && rpo_met.is_none() {
            unknown
                .push("an objective for the recovery point is set and was not measured in full".to_owned());
        }
    }
    unknown
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use Verdict::*;

    fn check(change: impl FnOnce(&mut RecoveryDrill), expected: Verdict, reason: &str) {
        let mut drill = fixture::statement().predicate;
        change(&mut drill);
        let judgement = judge(&drill);
        assert_eq!(judgement.verdict, expected, "{:?}", judgement.reasons);
        assert!(
            judgement.reasons.join("; ").contains(reason),
            "{:?} lacks {reason:?}",
            judgement.reasons
        );
        assert_eq!(judgement.reasons.is_empty(), expected == Pass);
        settle(&mut drill);
        assert_eq!(judge(&drill), judgement, "settling changes no judgement");
    }

    #[test]
    fn passes_on_proof_alone() {
        check(|_| {}, Pass, "");
        check(
            |d| d.results.checks.clear(),
            CouldNotVerify,
            "no data-proving check passed in STRUCTURE",
        );
        check(
            |d| d.results.checks.retain(|c| c.class != CheckClass::Referential),
            CouldNotVerify,
            "REFERENTIAL",
        );
        check(
            |d| d.results.checks.iter_mut().for_each(|c| c.data_proving = false),
            CouldNotVerify,
            "STRUCTURE",
        );
        check(|d| d.drill.level = Level::L4, CouldNotVerify, "APPLICATION");
        check(|d| d.drill.level = Level::L1, CouldNotVerify, "INTEGRITY");
        check(
            |d| {
                d.drill.level = Level::L1;
                d.results.checks[0].class = CheckClass::Integrity;
                d.results.checks[0].data_proving = true;
            },
            Pass,
            "",
        );
    }

    #[test]
    fn a_mandatory_check_that_did_not_run_leaves_it_open() {
        for outcome in [CheckOutcome::Skipped, CheckOutcome::CouldNotRun] {
            check(
                |d| d.results.checks[2].result = outcome,
                CouldNotVerify,
                "mandatory check",
            );
            check(
                |d| {
                    d.results.checks[2].result = outcome;
                    d.results.checks[2].mandatory = false;
                },
                Pass,
                "",
            );
            // No exception makes up for a check that says nothing.
            check(
                |d| {
                    d.results.checks[2].result = outcome;
                    let id = d.results.checks[2].id.clone();
                    d.exceptions.push(fixture::exception(&id));
                },
                CouldNotVerify,
                "mandatory check",
            );
        }
    }

    #[test]
    fn whatever_came_out_wrong_fails_unless_accepted() {
        type Change = fn(&mut RecoveryDrill);
        let wrongs: [(&str, Change); 8] = [
            ("collation-versions", |d| {
                d.results.checks[2].result = CheckOutcome::Fail
            }),
            ("filestore", |d| {
                d.results.filestore.as_mut().unwrap().missing_in_backup = 1
            }),
            ("filestore", |d| {
                d.results.filestore.as_mut().unwrap().digest_mismatch = 1
            }),
            ("filestore", |d| {
                d.results.filestore.as_mut().unwrap().size_mismatch = 1
            }),
            ("database", |d| {
                d.results.database.as_mut().unwrap().checksum_failures = Some(1)
            }),
            ("database", |d| {
                d.results.database.as_mut().unwrap().amcheck_errors = Some(2)
            }),
            ("rto", |d| d.results.rto.as_mut().unwrap().actual_ms = u64::MAX),
            ("rpo", |d| {
                d.results.rpo.as_mut().unwrap().filestore_lag_ms = Some(u64::MAX)
            }),
        ];
        for (subject, change) in wrongs {
            check(change, Fail, "");
            check(
                |d| {
                    change(d);
                    d.exceptions.push(fixture::exception(subject));
                },
                PassWithExceptions,
                "accepted: ",
            );
            check(
                |d| {
                    change(d);
                    d.exceptions.push(fixture::exception("something-else"));
                },
                Fail,
                "",
            );
        }
        // What was missing at the source already is reported, and is no failure of the backup.
        check(
            |d| d.results.filestore.as_mut().unwrap().missing_at_source = 3,
            Pass,
            "",
        );
    }

    #[test]
    fn failure_outweighs_what_is_unknown() {
        check(
            |d| {
                d.results.checks[2].result = CheckOutcome::Fail;
                d.results.checks[0].result = CheckOutcome::CouldNotRun;
            },
            Fail,
            "could not run",
        );
    }

    #[test]
    fn an_objective_that_was_not_measured_is_not_met() {
        check(|d| d.results.rto = None, CouldNotVerify, "recovery time");
        check(|d| d.results.rpo = None, CouldNotVerify, "recovery point");
        check(
            |d| d.results.rpo.as_mut().unwrap().filestore_lag_ms = None,
            CouldNotVerify,
            "recovery point",
        );
        check(
            |d| {
                d.results.rto = None;
                d.results.rpo = None;
                d.policy = None;
            },
            Pass,
            "",
        );
    }
}
