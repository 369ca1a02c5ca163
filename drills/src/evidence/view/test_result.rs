//! The in-toto test-result predicate, version 0.1, for supply-chain tools.

use serde_json::json;

use super::Shown;
use crate::evidence::statement::results::{CheckOutcome, Verdict};

/// The statement's checks as an in-toto statement of a test result. It is a view
/// and not signed: the digest in `configuration` leads to what is.
pub fn test_result(shown: &Shown<'_>) -> String {
    let p = &shown.statement.predicate;
    let of = |outcomes: &[CheckOutcome]| -> Vec<&str> {
        let checks = p.results.checks.iter();
        checks
            .filter(|c| outcomes.contains(&c.result))
            .map(|c| c.id.as_str())
            .collect()
    };
    let mut passed = of(&[CheckOutcome::Pass]);
    let mut warned = of(&[CheckOutcome::Skipped]);
    let mut failed = of(&[CheckOutcome::Fail, CheckOutcome::CouldNotRun]);
    // A verdict may fail where no check does: an objective is missed, or too little was
    // checked. So it is a test of its own, as in JUnit's view.
    let (result, tests) = match p.results.verdict {
        Verdict::Pass => ("PASSED", &mut passed),
        Verdict::PassWithExceptions => ("WARNED", &mut warned),
        _ => ("FAILED", &mut failed),
    };
    tests.push("verdict");
    let value = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": shown.statement.subject,
        "predicateType": "https://in-toto.io/attestation/test-result/v0.1",
        "predicate": {
            "result": result,
            "configuration": [{
                "name": "recovery-drill statement",
                "digest": { "sha256": shown.digest },
                "annotations": {
                    "drill": p.drill.id, "log": shown.index, "verdict": p.results.verdict,
                },
            }],
            "passedTests": passed,
            "warnedTests": warned,
            "failedTests": failed,
        },
    });
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::super::page::tests::shown;
    use super::*;
    use crate::evidence::fixture;

    #[test]
    fn says_what_the_statement_says() {
        let mut statement = fixture::statement();
        statement.predicate.results.checks[2].result = CheckOutcome::Fail;
        statement.predicate.results.verdict = Verdict::Fail;
        let value: serde_json::Value = serde_json::from_str(&test_result(&shown(&statement))).unwrap();
        let p = &value["predicate"];
        assert_eq!(p["result"], "FAILED");
        assert_eq!(p["failedTests"], json!(["collation-versions", "verdict"]));
        assert_eq!(p["passedTests"].as_array().unwrap().len(), 2);
        assert_eq!(
            p["configuration"][0]["digest"]["sha256"],
            json!(shown(&statement).digest)
        );
        // No check fails, and the objective was missed all the same.
        statement.predicate.results.checks[2].result = CheckOutcome::Pass;
        for (verdict, list) in [
            (Verdict::Pass, "passedTests"),
            (Verdict::PassWithExceptions, "warnedTests"),
            (Verdict::Fail, "failedTests"),
            (Verdict::CouldNotVerify, "failedTests"),
        ] {
            statement.predicate.results.verdict = verdict;
            let value: serde_json::Value = serde_json::from_str(&test_result(&shown(&statement))).unwrap();
            let tests = value["predicate"][list].as_array().unwrap();
            assert!(tests.contains(&json!("verdict")), "{value}");
        }
    }
}
