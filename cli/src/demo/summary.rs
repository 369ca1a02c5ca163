//! The end of the story: a table for people, JSON for programs.

use std::path::{Path, PathBuf};

use anyhow::Context;
use holdfast_plan::policy::Tier;
use holdfast_proto::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::comparison::Comparison;
use super::stage::Stage;
use crate::screen::{moment, span, table};

/// The restore to the moment before the mistake.
#[derive(Debug, Serialize)]
pub struct Restored {
    /// The moment.
    pub moment: Timestamp,
    /// What `restore run` reported: phases, bytes, findings.
    pub outcome: Value,
    /// From starting the server to the end of its recovery.
    pub replay_ms: u64,
    /// The comparison with what the writer knew.
    pub comparison: Comparison,
}

/// What a restore to the latest moment lacks.
#[derive(Debug, Serialize)]
pub struct Lost {
    /// Acknowledged commits that are not restorable.
    pub commits: usize,
    /// From the last restorable commit to the disaster.
    pub span_ms: u64,
    /// The last restorable commit.
    pub last_restorable: Timestamp,
}

/// The drill and its evidence.
#[derive(Debug, Serialize)]
pub struct Proof {
    /// What `drill run` reported.
    pub drill: Value,
    /// `holdfast evidence verify` agreed.
    pub verified: bool,
    /// `verify.py` with openssl agreed.
    pub verified_alone: bool,
    /// Where the export lies.
    pub export: PathBuf,
}

/// Everything.
#[derive(Debug, Serialize)]
pub struct Summary {
    verdict: &'static str,
    rpo: Objective,
    rto: Objective,
    restored: Restored,
    lost: Lost,
    proof: Proof,
    elapsed_ms: u64,
    directory: PathBuf,
    page: String,
}

/// A number against its target, in milliseconds.
#[derive(Debug, Serialize)]
struct Objective {
    target_ms: u64,
    measured_ms: u64,
    met: bool,
}

impl Objective {
    fn new(target_ms: u64, measured_ms: u64) -> Self {
        Self {
            target_ms,
            measured_ms,
            met: measured_ms <= target_ms,
        }
    }
}

impl Summary {
    /// Draws the sum.
    pub fn new(stage: &Stage, tier: &str, restored: Restored, lost: Lost, proof: Proof) -> Self {
        let (_, tier) = Tier::shipped()
            .iter()
            .find(|(name, _)| name.as_str() == tier)
            .expect("the shipped policy has the tier");
        let rpo = Objective::new(tier.rpo.millis(), lost.span_ms);
        let restore_ms = phases(&restored.outcome).iter().map(|(_, ms)| ms).sum::<u64>() + restored.replay_ms;
        let rto = Objective::new(tier.rto.millis(), restore_ms);
        let mut summary = Self {
            verdict: "FAIL",
            rpo,
            rto,
            restored,
            lost,
            proof,
            elapsed_ms: stage.elapsed_ms(),
            directory: stage.root().to_owned(),
            page: stage.page(),
        };
        if summary.holds() {
            summary.verdict = "PASS";
        }
        summary
    }

    /// Whether all of it held.
    pub fn holds(&self) -> bool {
        self.restored.comparison.holds()
            && self.rpo.met
            && self.rto.met
            && self.proof.verified
            && self.proof.verified_alone
            && self.drill_verdict() == "PASS"
    }

    fn drill_verdict(&self) -> &str {
        self.proof.drill["verdict"].as_str().unwrap_or("UNKNOWN")
    }

    /// Writes it as JSON.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        std::fs::write(path, serde_json::to_string_pretty(self)?)
            .with_context(|| format!("writing {}", path.display()))
    }

    /// The table that ends the demo.
    pub fn table(&self) -> String {
        let c = &self.restored.comparison;
        let yes = |met: bool| if met { "yes" } else { "NO" }.to_owned();
        let mut rows = vec![vec!["what".to_owned(), "measured".into(), "held".into()]];
        let mut row = |what: &str, measured: String, held: String| {
            rows.push(vec![what.to_owned(), measured, held]);
        };
        row(
            "RPO: commits lost at the end",
            format!(
                "{} in the last {} (target {})",
                self.lost.commits,
                span(self.lost.span_ms),
                span(self.rpo.target_ms)
            ),
            yes(self.rpo.met),
        );
        row(
            "RTO: everything gone to a running copy",
            format!(
                "{} (target {})",
                span(self.rto.measured_ms),
                span(self.rto.target_ms)
            ),
            yes(self.rto.met),
        );
        for (name, ms) in phases(&self.restored.outcome) {
            row(&format!("  {name}"), span(ms), String::new());
        }
        row("  start and replay", span(self.restored.replay_ms), String::new());
        row("restored to", moment(self.restored.moment), String::new());
        row(
            "invoices as the writer knew them",
            format!(
                "{} of {}, {} too many, {} lines wrong",
                c.invoices_found, c.invoices_expected, c.invoices_unexpected, c.lines_wrong
            ),
            yes(c.invoices_found == c.invoices_expected && c.invoices_unexpected == 0 && c.lines_wrong == 0),
        );
        row("rows compared", c.rows_compared.to_string(), String::new());
        row(
            "attachments compared",
            format!(
                "{} equal of {} referenced, {} different",
                c.attachments_equal, c.attachments_referenced, c.attachments_different
            ),
            yes(c.attachments_equal == c.attachments_referenced),
        );
        row(
            "attachments missing",
            c.attachments_missing.to_string(),
            yes(c.attachments_missing == 0),
        );
        row(
            "drill accidental-deletion, L3",
            self.drill_verdict().to_owned(),
            yes(self.drill_verdict() == "PASS"),
        );
        row(
            "evidence: holdfast evidence verify",
            String::new(),
            yes(self.proof.verified),
        );
        row(
            "evidence: openssl and verify.py",
            String::new(),
            yes(self.proof.verified_alone),
        );
        row(
            "verdict",
            format!("{} after {}", self.verdict, span(self.elapsed_ms)),
            yes(self.holds()),
        );
        let at = |name: &str| self.directory.join(name).display().to_string();
        format!(
            "{}\nrestored copy   {}\nrepository      {} (region-a was destroyed)\nevidence        {}\nlogs            {}\nsummary         {}\n",
            table(&rows),
            at("restored"),
            at("region-b"),
            self.proof.export.display(),
            at("logs"),
            at("summary.json"),
        )
    }
}

/// The phases in a restore's report, in order.
fn phases(outcome: &Value) -> Vec<(String, u64)> {
    outcome["phases"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|p| {
            let moment = |name: &str| p[name].as_str()?.parse::<Timestamp>().ok();
            let elapsed = moment("ended")?.millis_since(moment("started")?);
            Some((p["phase"].as_str()?.to_lowercase().replace('_', " "), elapsed))
        })
        .collect()
}
