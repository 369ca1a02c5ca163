//! JUnit XML: each check a test case, for programs that show test results.

use std::fmt::Write;

use super::Shown;
use crate::evidence::statement::results::CheckOutcome;

/// The statement's checks as one test suite.
pub fn junit(shown: &Shown<'_>) -> String {
    let p = &shown.statement.predicate;
    let checks = &p.results.checks;
    let count = |outcome| checks.iter().filter(|c| c.result == outcome).count();
    let total: u64 = checks.iter().filter_map(|c| c.duration_ms).sum();
    let began = p.timings.phases.iter().map(|t| t.start).min();
    let counts = format!(
        "tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\" time=\"{}\"",
        checks.len(),
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

    /// The structure of Jenkins' junit-10.xsd, checked by Python's own parser.
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

    #[test]
    fn every_check_is_a_case() {
        let mut statement = fixture::statement();
        let checks = &mut statement.predicate.results.checks;
        checks[0].result = CheckOutcome::Fail;
        checks[0].actual = Some("<3> & \"more\"".into());
        checks[1].result = CheckOutcome::CouldNotRun;
        checks[2].result = CheckOutcome::Skipped;
        let xml = junit(&shown(&statement));
        let mut python = Command::new("python3")
            .args(["-c", CHECK])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        python.stdin.take().unwrap().write_all(xml.as_bytes()).unwrap();
        let done = python.wait_with_output().unwrap();
        assert!(
            done.status.success(),
            "{xml}\n{}",
            String::from_utf8_lossy(&done.stderr)
        );
        let digest = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        assert_eq!(digest, shown(&statement).digest.to_string());
    }
}
