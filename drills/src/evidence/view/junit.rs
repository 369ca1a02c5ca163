//! JUnit XML: each check a test case, for programs that show test results. The verdict
//! is a case of its own: an objective is missed, and too little checked, where each check
//! passes.

use std::fmt::Write;

use super::Shown;
use crate::evidence::statement::results::{CheckOutcome, Verdict};

/// The class of the verdict's case, which no check has.
const VERDICT: &str = "VERDICT";

/// The statement's checks and its verdict as one test suite.
pub fn junit(shown: &Shown<'_>) -> String {
    let p = &shown.statement.predicate;
    let checks = &p.results.checks;
    let verdict = match p.results.verdict {
        Verdict::Pass | Verdict::PassWithExceptions => CheckOutcome::Pass,
        Verdict::CouldNotVerify => CheckOutcome::CouldNotRun,
        Verdict::Fail | Verdict::Aborted | Verdict::Abandoned => CheckOutcome::Fail,
    };
    let outcomes = || checks.iter().map(|c| c.result).chain([verdict]);
    let count = |outcome| outcomes().filter(|o| *o == outcome).count();
    let total: u64 = checks.iter().filter_map(|c| c.duration_ms).sum();
    let began = p.timings.phases.iter().map(|t| t.start).min();
    let counts = format!(
        "tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\" time=\"{}\"",
        outcomes().count(),
        count(CheckOutcome::Fail),
        count(CheckOutcome::CouldNotRun),
        count(CheckOutcome::Skipped),
        seconds(total)
    );
    let name = format!("{} {}", p.scope.id(), p.drill.scenario);
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"holdfast\" {counts}>\n  <testsuite name=\"{}\" {counts}",
        escape(&name)
    );
    if let Some(began) = began {
        let _ = write!(
            out,
            " timestamp=\"{}\"",
            began.to_chrono().format("%Y-%m-%dT%H:%M:%S")
        );
    }
    out.push_str(">\n    <properties>\n");
    for (name, value) in [
        ("statement.sha256", shown.digest.to_string()),
        ("log.entry", shown.index.to_string()),
        ("drill", p.drill.id.to_string()),
        ("level", p.drill.level.to_string()),
        ("verdict", p.results.verdict.to_string()),
    ] {
        let _ = writeln!(
            out,
            "      <property name=\"{name}\" value=\"{}\"/>",
            escape(&value)
        );
    }
    out.push_str("    </properties>\n");
    for check in checks {
        let _ = write!(
            out,
            "    <testcase classname=\"{}\" name=\"{}\" time=\"{}\"",
            check.class,
            escape(&check.id),
            seconds(check.duration_ms.unwrap_or(0))
        );
        let said = |value: &Option<String>| escape(value.as_deref().unwrap_or("nothing"));
        let (expected, actual) = (said(&check.expected), said(&check.actual));
        match check.result {
            CheckOutcome::Pass => out.push_str("/>\n"),
            CheckOutcome::Fail => {
                let _ = writeln!(
                    out,
                    ">\n      <failure message=\"expected {expected}, found {actual}\"/>\n    </testcase>"
                );
            }
            CheckOutcome::CouldNotRun => {
                out.push_str(">\n      <error message=\"it could not run\"/>\n    </testcase>\n");
            }
            CheckOutcome::Skipped => out.push_str(">\n      <skipped/>\n    </testcase>\n"),
        }
    }
    let _ = write!(
        out,
        "    <testcase classname=\"{VERDICT}\" name=\"verdict\" time=\"{}\"",
        seconds(0)
    );
    let said = format!("{}: {}", p.results.verdict, p.results.reasons.join("; "));
    let said = escape(said.trim_end_matches(": "));
    let element = match verdict {
        CheckOutcome::Fail => Some("failure"),
        CheckOutcome::CouldNotRun => Some("error"),
        CheckOutcome::Pass | CheckOutcome::Skipped => None,
    };
    let _ = match element {
        Some(element) => writeln!(out, ">\n      <{element} message=\"{said}\"/>\n    </testcase>"),
        None => writeln!(out, "/>"),
    };
    out.push_str("  </testsuite>\n</testsuites>\n");
    out
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::super::page::tests::shown;
    use super::*;
    use crate::evidence::fixture;

    /// What a schema does not say: counts and cases agree.
    const CHECK: &str = r#"
import sys, xml.etree.ElementTree as E
root = E.fromstring(sys.stdin.buffer.read())
assert root.tag == "testsuites", root.tag
suite, = root
assert suite.tag == "testsuite"
cases = suite.findall("testcase")
assert [e.tag for e in suite] == ["properties"] + ["testcase"] * len(cases)
for e in (root, suite):
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(e.get(name)) == len(suite.findall("testcase/" + tag)), name
    assert int(e.get("tests")) == len(cases)
    float(e.get("time"))
for c in cases:
    assert c.get("name") and c.get("classname") and float(c.get("time")) >= 0 and len(c) <= 1
print({p.get("name"): p.get("value") for p in suite.find("properties")}["statement.sha256"])
"#;

    /// The document by the schema, as `xmllint` sees it.
    fn by_schema(xml: &str) -> Result<(), String> {
        let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/schema/junit.xsd");
        let line = ["--noout", "--nonet", "--schema", schema, "-"];
        let done = run("xmllint", &line, xml);
        match done.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
        }
    }

    fn run(program: &str, line: &[&str], input: &str) -> std::process::Output {
        let child = Command::new(program)
            .args(line)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.unwrap_or_else(|e| panic!("{program}: {e}; scripts/need test installs it"));
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn every_outcome() -> crate::evidence::statement::Statement {
        let mut statement = fixture::statement();
        let checks = &mut statement.predicate.results.checks;
        checks[0].result = CheckOutcome::Fail;
        checks[0].actual = Some("<3> & \"more\"".into());
        checks[1].result = CheckOutcome::CouldNotRun;
        checks[2].result = CheckOutcome::Skipped;
        statement
    }

    #[test]
    fn every_check_is_a_case() {
        let statement = every_outcome();
        let xml = junit(&shown(&statement));
        let done = run("python3", &["-c", CHECK], &xml);
        assert!(
            done.status.success(),
            "{xml}\n{}",
            String::from_utf8_lossy(&done.stderr)
        );
        let digest = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        assert_eq!(digest, shown(&statement).digest.to_string());
    }

    /// Whatever the checks came to: what is no pass is red.
    #[test]
    fn the_verdict_is_a_case() {
        for (verdict, element) in [
            (Verdict::Pass, None),
            (Verdict::PassWithExceptions, None),
            (Verdict::Fail, Some("failure")),
            (Verdict::Aborted, Some("failure")),
            (Verdict::Abandoned, Some("failure")),
            (Verdict::CouldNotVerify, Some("error")),
        ] {
            let mut statement = fixture::statement();
            let results = &mut statement.predicate.results;
            (results.verdict, results.reasons) = (verdict, vec!["recovery took <too> long".into()]);
            let xml = junit(&shown(&statement));
            by_schema(&xml).unwrap_or_else(|why| panic!("{why}\n{xml}"));
            let done = run("python3", &["-c", CHECK], &xml);
            assert!(done.status.success(), "{xml}");
            let said = format!("message=\"{verdict}: recovery took &lt;too&gt; long\"/>");
            for tag in ["failure", "error"] {
                let expected = usize::from(element == Some(tag));
                assert_eq!(xml.matches(&format!("<{tag} {said}")).count(), expected, "{xml}");
            }
            assert!(xml.contains("tests=\"4\""), "{xml}");
        }
    }

    #[test]
    fn it_is_what_the_schema_says() {
        let statement = every_outcome();
        let mut idle = fixture::statement();
        idle.predicate.results.checks.clear();
        idle.predicate.timings.phases.clear();
        for statement in [&fixture::statement(), &statement, &idle] {
            let xml = junit(&shown(statement));
            by_schema(&xml).unwrap_or_else(|why| panic!("{why}\n{xml}"));
        }
        // The schema is one that says no.
        let xml = junit(&shown(&statement));
        for (from, to) in [
            ("<skipped/>", "<omitted/>"),
            ("tests=\"4\"", "tests=\"four\""),
            ("name=\"amcheck\"", "label=\"amcheck\""),
            ("T14:00:01\"", "T14:00:01Z\""),
            ("name=\"drill\"", "name=\"level\""),
            ("name=\"collation-versions\"", "name=\"amcheck\""),
        ] {
            assert!(xml.contains(from), "{from} is not in\n{xml}");
            assert!(by_schema(&xml.replace(from, to)).is_err(), "{to} is allowed");
        }
    }
}
