//! The end of the story: what was measured, what counts as held, a table for
//! people, JSON for programs.
//!
//! [`Summary::judge`] is pure: the verdict follows from the facts alone, and
//! the table and `summary.json` are two views of the same rows. The fields of
//! the file are explained in docs/DEMO.md.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use holdfast_proto::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::comparison::Comparison;
use super::loss::Loss;
use crate::screen::{moment, span, table};

/// Files that the filestore has at least.
const FILES: usize = 20_000;

/// What the tier promises.
#[derive(Debug, Clone, Serialize)]
pub struct Targets {
    /// The tier's name.
    pub tier: String,
    /// The most that may be lost.
    pub rpo_ms: u64,
    /// The longest that a restore may take.
    pub rto_ms: u64,
}

/// What people did, and what happened to it.
#[derive(Debug, Clone, Serialize)]
pub struct Work {
    /// Invoices posted and acknowledged while the demo ran.
    pub posted: usize,
    /// The pause that the writer makes between two of them.
    pub post_every_ms: u64,
    /// The longest time between two acknowledged commits, up to the disaster.
    pub longest_pause_ms: u64,
    /// When the mistake was committed.
    pub mistake: Timestamp,
    /// Invoices that it deleted, each with an attachment.
    pub deleted: usize,
    /// Files that the collector had deleted when the disaster came.
    pub collected: usize,
    /// When primary and agent were dead.
    pub disaster: Timestamp,
}

/// Steps of a recovery, in order.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct Steps(Vec<Step>);

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What was done.
    pub step: String,
    /// How long it took.
    pub ms: u64,
}

impl Steps {
    /// Adds a step.
    pub fn add(&mut self, step: &str, took: Duration) {
        self.0.push(Step {
            step: step.to_owned(),
            ms: took.as_millis() as u64,
        });
    }

    /// Adds the phases that `restore run` reports, and before them what it did
    /// besides: open, read the ledger, plan.
    pub fn add_restore(&mut self, outcome: &Value, took: Duration) -> anyhow::Result<()> {
        let mut phases = Vec::new();
        for phase in outcome["phases"].as_array().into_iter().flatten() {
            let read = || {
                let time = |name: &str| phase[name].as_str()?.parse::<Timestamp>().ok();
                let took = time("ended")?.millis_since(time("started")?);
                Some((phase["phase"].as_str()?, took))
            };
            let (name, ms) = read().with_context(|| format!("a phase of the restore: {phase}"))?;
            phases.push(Step {
                step: name.to_lowercase().replace(['_', '-'], " "),
                ms,
            });
        }
        let inside: u64 = phases.iter().map(|p| p.ms).sum();
        let before = (took.as_millis() as u64).saturating_sub(inside);
        self.add("open and plan", Duration::from_millis(before));
        self.0.append(&mut phases);
        Ok(())
    }
}

/// The restore to the moment before the mistake.
#[derive(Debug, Clone, Serialize)]
pub struct Restored {
    /// The moment.
    pub moment: Timestamp,
    /// From "everything is gone" to a copy that has left recovery.
    pub measured_ms: u64,
    /// What that time went to.
    pub steps: Steps,
    /// What `restore run` reported.
    pub outcome: Value,
    /// The comparison with what the writer knew.
    pub comparison: Comparison,
}

/// The drill and its evidence.
#[derive(Debug, Clone, Serialize)]
pub struct Proof {
    /// What `drill run` reported.
    pub drill: Value,
    /// `holdfast evidence verify` agreed.
    pub verified: bool,
    /// `verify.py` with openssl agreed.
    pub verified_alone: bool,
}

/// Everything that the verdict follows from.
#[derive(Debug, Clone, Serialize)]
pub struct Facts {
    /// The tier's promises.
    pub targets: Targets,
    /// PostgreSQL's major version.
    pub postgres: u32,
    /// The work and its end.
    pub work: Work,
    /// What a restore to the latest moment lacks.
    pub loss: Loss,
    /// The restore to the moment before the mistake.
    pub restored: Restored,
    /// The copy of the latest moment, compared as of its last commit.
    pub latest: Comparison,
    /// The drill.
    pub proof: Proof,
}

/// What the demo says of itself.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// From its start to its verdict.
    pub elapsed_ms: u64,
    /// Where everything lies.
    pub directory: PathBuf,
}

/// A row: something measured, and whether it is as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What.
    pub what: String,
    /// What was found, for people.
    pub measured: String,
    /// What was to be, where that is a number.
    pub target: String,
    /// Whether it held; absent where nothing is asked.
    pub held: Option<bool>,
}

/// Everything.
#[derive(Debug, Serialize)]
pub struct Summary {
    verdict: &'static str,
    rows: Vec<Row>,
    #[serde(flatten)]
    facts: Facts,
    #[serde(flatten)]
    measured: Measured,
}

impl Summary {
    /// Draws the conclusions.
    pub fn judge(facts: Facts, measured: Measured) -> Self {
        let rows = rows(&facts);
        let held = rows.iter().all(|row| row.held != Some(false));
        Self {
            verdict: if held { "PASS" } else { "FAIL" },
            rows,
            facts,
            measured,
        }
    }

    /// Whether all of it held.
    pub fn holds(&self) -> bool {
        self.rows.iter().all(|row| row.held != Some(false))
    }

    /// Writes it as JSON, the same rows as the table's.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        std::fs::write(path, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("writing {}", path.display()))
    }

    /// The table that ends the demo, where everything lies, and what to look at.
    pub fn table(&self) -> String {
        let mut lines = vec![["what", "measured", "target", "held"].map(str::to_owned).to_vec()];
        for row in &self.rows {
            lines.push(vec![
                row.what.clone(),
                row.measured.clone(),
                row.target.clone(),
                word(row.held).to_owned(),
            ]);
        }
        lines.push(vec![
            "verdict".to_owned(),
            format!("{} after {}", self.verdict, span(self.measured.elapsed_ms)),
            String::new(),
            word(Some(self.holds())).to_owned(),
        ]);
        let mut out = table(&lines);
        let directory = self.measured.directory.display();
        out.push_str(&format!("\nWhere everything lies: {directory}\n"));
        for (name, what) in PLACES {
            out.push_str(&format!("  {name:<15} {what}\n"));
        }
        out.push_str("\nWhat to look at next, in that directory:\n");
        for (line, what) in NEXT {
            out.push_str(&format!("  {line:<36} {what}\n"));
        }
        out
    }
}

const PLACES: [(&str, &str); 8] = [
    (
        "restored/",
        "the copy of the moment before the mistake, with its filestore",
    ),
    ("latest/", "the copy of the latest moment"),
    ("region-b/", "the repository; region-a/ was destroyed"),
    ("evidence/", "the drill's statement, its proofs and verify.py"),
    ("logs/", "of the coordinator and the agent"),
    ("primary/run/", "PostgreSQL's log up to the disaster"),
    ("keys/, *.toml", "keys and configuration, as an operator has them"),
    (
        "summary.json",
        "this table and the facts beneath it (docs/DEMO.md)",
    ),
];

const NEXT: [(&str, &str); 4] = [
    ("holdfast points --cluster acme/erp", "every restorable moment"),
    ("holdfast verify --cluster acme/erp", "the repository's integrity"),
    ("holdfast evidence list", "the log of drills"),
    ("less evidence/statement.json", "what the drill states"),
];

fn word(held: Option<bool>) -> &'static str {
    match held {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "",
    }
}

fn rows(facts: &Facts) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |what: &str, measured: String, target: String, held: Option<bool>| {
        rows.push(Row {
            what: what.to_owned(),
            measured,
            target,
            held,
        });
    };
    let (targets, work, loss) = (&facts.targets, &facts.work, &facts.loss);
    row(
        "RPO: lost at the end",
        format!("{} commits, the last {}", loss.commits, span(loss.span_ms)),
        span(targets.rpo_ms),
        Some(loss.span_ms <= targets.rpo_ms),
    );
    row(
        "  database and attachments",
        format!(
            "{} commits, the last {}",
            loss.commits + loss.without_attachment,
            span(loss.joint_span_ms)
        ),
        span(targets.rpo_ms),
        Some(loss.joint_span_ms <= targets.rpo_ms),
    );
    row(
        "  holes, undone deletions",
        format!("{}, {}", loss.holes, loss.undead),
        "0, 0".into(),
        Some(loss.holes == 0 && loss.undead == 0),
    );
    // A writer that stands still loses nothing, and proves nothing.
    row(
        "  invoices posted meanwhile",
        format!("{}, longest pause {}", work.posted, span(work.longest_pause_ms)),
        span(targets.rpo_ms),
        Some(work.posted > 0 && work.longest_pause_ms < targets.rpo_ms),
    );
    let restored = &facts.restored;
    row(
        "RTO: all gone to running copy",
        span(restored.measured_ms),
        span(targets.rto_ms),
        Some(restored.measured_ms <= targets.rto_ms),
    );
    for step in &restored.steps.0 {
        row(&format!("  {}", step.step), span(step.ms), String::new(), None);
    }
    row("restored to", moment(restored.moment), String::new(), None);
    row(
        "  before a mistake, collected",
        format!("{} deleted, {} files gone", work.deleted, work.collected),
        String::new(),
        Some(work.deleted > 0 && work.collected >= work.deleted && restored.moment < work.mistake),
    );
    compared(&mut row, &restored.comparison);
    let latest = &facts.latest;
    // What is missing there is the tail, and is in the RPO's rows.
    row(
        "latest copy compared",
        format!(
            "{} equal, {} different",
            latest.attachments_equal, latest.attachments_different
        ),
        String::new(),
        Some(
            latest.attachments_different == 0
                && latest.attachments_missing == loss.without_attachment
                && latest.attachments_equal + latest.attachments_missing == latest.attachments_referenced
                && latest.invoices_missing == 0
                && latest.invoices_found > 0
                && latest.lines_wrong == 0,
        ),
    );
    let drill = &facts.proof.drill;
    let text = |value: &Value| value.as_str().unwrap_or("UNKNOWN").to_owned();
    let (verdict, level) = (text(&drill["verdict"]), text(&drill["level"]));
    row(
        "drill accidental-deletion",
        format!("{verdict} at {level}, {}", text(&drill["target"]["isolation"])),
        "PASS at L3".into(),
        Some(verdict == "PASS" && level == "L3"),
    );
    let agreed = |yes: bool| if yes { "verified" } else { "NOT verified" }.to_owned();
    row(
        "  holdfast evidence verify",
        agreed(facts.proof.verified),
        String::new(),
        Some(facts.proof.verified),
    );
    row(
        "  openssl and verify.py",
        agreed(facts.proof.verified_alone),
        String::new(),
        Some(facts.proof.verified_alone),
    );
    rows
}

fn compared(row: &mut impl FnMut(&str, String, String, Option<bool>), c: &Comparison) {
    row(
        "invoices as they were posted",
        format!("{} of {}", c.invoices_found, c.invoices_expected),
        String::new(),
        Some(c.invoices_found == c.invoices_expected && c.invoices_missing == 0 && c.invoices_found > 0),
    );
    row(
        "  too many, lines wrong",
        format!("{}, {}", c.invoices_unexpected, c.lines_wrong),
        "0, 0".into(),
        Some(c.invoices_unexpected == 0 && c.lines_wrong == 0),
    );
    row(
        "rows compared",
        c.rows_compared.to_string(),
        String::new(),
        Some(c.rows_compared > 0),
    );
    row(
        "attachments compared",
        format!(
            "{} equal, {} different",
            c.attachments_equal, c.attachments_different
        ),
        c.attachments_referenced.to_string(),
        Some(
            c.attachments_equal == c.attachments_referenced
                && c.attachments_different == 0
                && c.attachments_referenced >= FILES,
        ),
    );
    row(
        "attachments missing",
        c.attachments_missing.to_string(),
        "0".into(),
        Some(c.attachments_missing == 0),
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn second(n: i64) -> Timestamp {
        Timestamp::from_unix_micros(1_790_000_000_000_000 + n * 1_000_000)
    }

    fn whole(invoices: usize) -> Comparison {
        Comparison {
            invoices_expected: invoices,
            invoices_found: invoices,
            rows_compared: 4 * invoices,
            attachments_referenced: invoices,
            attachments_equal: invoices,
            ..Comparison::default()
        }
    }

    /// Facts of a demo in which all held.
    fn good() -> Facts {
        let mut steps = Steps::default();
        steps.add("plan the restore", Duration::from_millis(300));
        let outcome = json!({ "phases": [
            { "phase": "BASE_FETCH", "started": second(10), "ended": second(11), "bytes": 1 }
        ]});
        steps.add_restore(&outcome, Duration::from_millis(1500)).unwrap();
        Facts {
            targets: Targets {
                tier: "platinum".into(),
                rpo_ms: 15_000,
                rto_ms: 1_800_000,
            },
            postgres: 15,
            work: Work {
                posted: 1500,
                post_every_ms: 40,
                longest_pause_ms: 400,
                mistake: second(60),
                deleted: 1900,
                collected: 1900,
                disaster: second(100),
            },
            loss: Loss {
                commits: 70,
                span_ms: 3000,
                last_restorable: Some(second(97)),
                first_lost: Some(second(97)),
                last_acknowledged: Some(second(100)),
                last_joint: Some(second(95)),
                joint_span_ms: 5000,
                ..Loss::default()
            },
            restored: Restored {
                moment: second(59),
                measured_ms: 9000,
                steps,
                outcome,
                comparison: whole(20_900),
            },
            latest: whole(20_500),
            proof: Proof {
                drill: json!({ "verdict": "PASS", "level": "L3", "target": { "isolation": "linux-namespaces" } }),
                verified: true,
                verified_alone: true,
            },
        }
    }

    fn judge(facts: Facts) -> Summary {
        let measured = Measured {
            elapsed_ms: 100_000,
            directory: "/somewhere/target/demo".into(),
        };
        Summary::judge(facts, measured)
    }

    #[test]
    fn all_held_is_a_pass() {
        let summary = judge(good());
        assert!(summary.holds(), "{}", summary.table());
        assert_eq!(summary.verdict, "PASS");
    }

    /// Each condition by itself turns the verdict, and only its own row says so.
    #[test]
    fn every_condition_alone_fails_the_demo() {
        type Spoil = fn(&mut Facts);
        let spoilt: [(&str, Spoil); 32] = [
            ("RPO: lost at the end", |f| f.loss.span_ms = 15_001),
            ("  database and attachments", |f| f.loss.joint_span_ms = 15_001),
            ("  holes, undone deletions", |f| f.loss.holes = 1),
            ("  holes, undone deletions", |f| f.loss.undead = 1),
            ("  invoices posted meanwhile", |f| f.work.posted = 0),
            ("  invoices posted meanwhile", |f| {
                f.work.longest_pause_ms = 15_000
            }),
            ("RTO: all gone to running copy", |f| {
                f.restored.measured_ms = 1_800_001
            }),
            ("  before a mistake, collected", |f| f.work.deleted = 0),
            ("  before a mistake, collected", |f| f.work.collected = 1899),
            ("  before a mistake, collected", |f| {
                f.restored.moment = f.work.mistake
            }),
            ("invoices as they were posted", |f| {
                f.restored.comparison.invoices_found -= 1
            }),
            ("invoices as they were posted", |f| {
                f.restored.comparison.invoices_missing = 1
            }),
            ("invoices as they were posted", |f| {
                f.restored.comparison.invoices_found = 0;
                f.restored.comparison.invoices_expected = 0;
            }),
            ("  too many, lines wrong", |f| {
                f.restored.comparison.invoices_unexpected = 1
            }),
            ("  too many, lines wrong", |f| {
                f.restored.comparison.lines_wrong = 1
            }),
            ("rows compared", |f| f.restored.comparison.rows_compared = 0),
            ("attachments compared", |f| {
                f.restored.comparison.attachments_equal -= 1
            }),
            ("attachments compared", |f| {
                f.restored.comparison.attachments_different = 1
            }),
            ("attachments compared", |f| {
                f.restored.comparison.attachments_equal = 19_999;
                f.restored.comparison.attachments_referenced = 19_999;
            }),
            ("attachments missing", |f| {
                f.restored.comparison.attachments_missing = 1
            }),
            ("latest copy compared", |f| f.latest.attachments_equal -= 1),
            ("latest copy compared", |f| f.latest.attachments_missing = 1),
            ("latest copy compared", |f| f.latest.attachments_different = 1),
            ("latest copy compared", |f| f.latest.lines_wrong = 1),
            ("latest copy compared", |f| f.latest.invoices_missing = 1),
            ("latest copy compared", |f| f.latest = whole(0)),
            ("drill accidental-deletion", |f| {
                f.proof.drill["verdict"] = json!("FAIL")
            }),
            ("drill accidental-deletion", |f| {
                f.proof.drill["verdict"] = Value::Null
            }),
            ("drill accidental-deletion", |f| {
                f.proof.drill["level"] = json!("L2")
            }),
            ("drill accidental-deletion", |f| f.proof.drill = Value::Null),
            ("  holdfast evidence verify", |f| f.proof.verified = false),
            ("  openssl and verify.py", |f| f.proof.verified_alone = false),
        ];
        for (what, spoil) in spoilt {
            let mut facts = good();
            spoil(&mut facts);
            let summary = judge(facts);
            assert!(!summary.holds(), "{what}");
            assert_eq!(summary.verdict, "FAIL", "{what}");
            let failed = summary.rows.iter().filter(|r| r.held == Some(false));
            assert_eq!(failed.map(|r| r.what.as_str()).collect::<Vec<_>>(), [what]);
            assert!(summary.table().contains("NO\n"), "{what}");
        }
    }

    #[test]
    fn the_steps_of_a_restore_add_up() {
        let steps = good().restored.steps.0;
        let step = |step: &str, ms| Step {
            step: step.into(),
            ms,
        };
        let expected = [
            step("plan the restore", 300),
            step("open and plan", 500),
            step("base fetch", 1000),
        ];
        assert_eq!(steps, expected);
        let nameless = json!({ "phases": [{ "started": second(1), "ended": second(2) }] });
        assert!(Steps::default().add_restore(&nameless, Duration::ZERO).is_err());
    }

    #[test]
    fn the_table_fits_eighty_columns() {
        let table = judge(good()).table();
        for line in table.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    /// docs/DEMO.md names every field of the file, and the table's rows are in it.
    #[test]
    fn the_file_is_documented_whole() {
        let docs = include_str!("../../../docs/DEMO.md");
        fn fields(prefix: &str, value: &Value, out: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    for (name, value) in map {
                        let path = if prefix.is_empty() {
                            name.clone()
                        } else {
                            format!("{prefix}.{name}")
                        };
                        fields(&path, value, out);
                    }
                }
                Value::Array(all) => all.iter().for_each(|v| fields(&format!("{prefix}[]"), v, out)),
                _ => out.push(prefix.to_owned()),
            }
        }
        let mut found = Vec::new();
        let file = serde_json::to_value(judge(good())).unwrap();
        fields("", &file, &mut found);
        for path in found {
            // What the commands report is documented with them.
            if path.starts_with("restored.outcome.") || path.starts_with("proof.drill.") {
                continue;
            }
            assert!(
                docs.contains(&format!("`{path}`")),
                "docs/DEMO.md does not name {path}"
            );
        }
        assert_eq!(file["rows"][0]["measured"], "70 commits, the last 3.0 s");
    }
}
