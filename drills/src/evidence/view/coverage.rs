//! A tenant's month, laid out for an auditor: what was asked for and what came of it,
//! by tier and cluster, and how to count it again.

use askama::Template;
use holdfast_proto::record::TrustRole;
use holdfast_proto::{Fingerprint, Sha256Digest};

use super::STYLE;
use super::words::{count, second, span};
use crate::evidence::coverage::{Coverage, CoverageStatement, SlotCounts, TierCounts};
use crate::evidence::tlog::tiles::LogFile;

/// What the page shows besides the statement itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownCoverage<'a> {
    /// The statement.
    pub statement: &'a CoverageStatement,
    /// SHA-256 of its bytes.
    pub digest: Sha256Digest,
    /// Its place in the log.
    pub index: u64,
    /// Whose signatures are on it: role, name, key.
    pub signers: Vec<(TrustRole, String, Fingerprint)>,
    /// The root that everything is traced to.
    pub root: Fingerprint,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Fact {
    name: String,
    value: String,
    code: bool,
}

fn fact(name: impl Into<String>, value: impl ToString) -> Fact {
    Fact {
        name: name.into(),
        value: value.to_string(),
        code: false,
    }
}

fn code(name: &str, value: impl ToString) -> Fact {
    Fact {
        code: true,
        ..fact(name, value)
    }
}

/// A number under its name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Figure {
    name: &'static str,
    value: String,
    class: &'static str,
}

/// A part of all slots, in thousandths of the bar.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Share {
    class: &'static str,
    from: u64,
    width: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ClusterRow {
    cluster: String,
    tier: String,
    drill: String,
    every: String,
    slots: SlotCounts,
}

#[derive(Debug, Template)]
#[template(path = "coverage.html")]
struct CoveragePage<'a> {
    alone: bool,
    style: &'static str,
    tenant: String,
    month: String,
    class: &'static str,
    says: &'static str,
    sentence: String,
    shares: Vec<Share>,
    shares_words: String,
    figures: Vec<Figure>,
    tiers: &'a [TierCounts],
    clusters: Vec<ClusterRow>,
    begun: Vec<Fact>,
    signers: Vec<(&'static str, String, String)>,
    exceptions: Vec<Fact>,
    log: Vec<Fact>,
    index: u64,
    digest: String,
    root: String,
}

/// The page in one file, with its style sheet in it, as an export has it.
///
/// # Errors
/// The page cannot be laid out, which is a defect.
pub fn file(shown: &ShownCoverage<'_>) -> Result<LogFile, askama::Error> {
    Ok(LogFile {
        path: "views/coverage.html".to_owned(),
        bytes: lay_out(shown, true).render()?.into_bytes(),
    })
}

/// The page as the coordinator serves it.
///
/// # Errors
/// As [`file`].
pub fn served(shown: &ShownCoverage<'_>) -> Result<String, askama::Error> {
    lay_out(shown, false).render()
}

fn lay_out<'a>(shown: &ShownCoverage<'a>, alone: bool) -> CoveragePage<'a> {
    let c = &shown.statement.predicate;
    let mut all = SlotCounts::default();
    c.tiers.iter().for_each(|t| all.add(&t.slots));
    let (class, says, sentence) = verdict(&all);
    CoveragePage {
        alone,
        style: STYLE,
        tenant: c.tenant.to_string(),
        month: c.month.to_string(),
        class,
        says,
        sentence,
        shares: shares(&all),
        shares_words: format!(
            "{} passed, {} with exceptions, {} failed, {} missed",
            all.passed, all.passed_with_exceptions, all.failed, all.missed
        ),
        figures: figures(&all),
        tiers: &c.tiers,
        clusters: clusters(c),
        begun: begun(c),
        signers: shown
            .signers
            .iter()
            .map(|(role, name, key)| (signed(*role), name.clone(), key.short()))
            .collect(),
        exceptions: c
            .exceptions
            .iter()
            .map(|e| {
                let words = format!("{} in drill {}, until {}", e.owner, e.drill, second(e.due));
                fact(e.accepts.clone(), words)
            })
            .collect(),
        log: log(shown),
        index: shown.index,
        digest: shown.digest.to_string(),
        root: shown.root.to_string(),
    }
}

fn signed(role: TrustRole) -> &'static str {
    match role {
        TrustRole::Coordinator => "counted it and signed",
        TrustRole::Reviewer => "reviewed it",
        _ => "signed it",
    }
}

fn verdict(all: &SlotCounts) -> (&'static str, &'static str, String) {
    let due = |n: u64| match n {
        1 => "The one drill that was due".to_owned(),
        n => format!("Each of the {} drills that were due", count(n)),
    };
    match (all.expected, all.failures(), all.passed_with_exceptions) {
        (0, ..) => (
            "warn",
            "nothing was asked for",
            "No drill was due in this month: nothing is proven by that.".to_owned(),
        ),
        (n, 0, 0) => ("good", "covered", format!("{} passed.", due(n))),
        (n, 0, e) => (
            "warn",
            "covered, with exceptions",
            format!("{} passed, {} with exceptions.", due(n), count(e)),
        ),
        (n, bad, _) => (
            "bad",
            "not covered",
            match n {
                1 => "The one drill that was due failed or was missed.".to_owned(),
                n => format!(
                    "Of the {} drills that were due, {} failed or were missed.",
                    count(n),
                    count(bad)
                ),
            },
        ),
    }
}

fn shares(all: &SlotCounts) -> Vec<Share> {
    let parts = [
        ("good", all.passed),
        ("warn", all.passed_with_exceptions),
        ("bad", all.failed),
        ("missed", all.missed),
    ];
    let part = |n: u64| n.saturating_mul(1000).checked_div(all.expected).unwrap_or(0);
    let mut before = 0;
    let mut out = Vec::new();
    for (class, n) in parts.into_iter().filter(|(_, n)| *n > 0) {
        let (from, to) = (part(before), part(before + n));
        before += n;
        out.push(Share {
            class,
            from,
            width: to.saturating_sub(from).max(4),
        });
    }
    out
}

fn figures(all: &SlotCounts) -> Vec<Figure> {
    let bad = |n: u64| if n > 0 { "bad" } else { "" };
    [
        ("expected", all.expected, ""),
        ("executed", all.executed, ""),
        ("passed", all.passed, if all.passed > 0 { "good" } else { "" }),
        (
            "with exceptions",
            all.passed_with_exceptions,
            if all.passed_with_exceptions > 0 {
                "warn"
            } else {
                ""
            },
        ),
        ("failed", all.failed, bad(all.failed)),
        ("missed", all.missed, bad(all.missed)),
    ]
    .into_iter()
    .map(|(name, n, class)| Figure {
        name,
        value: count(n),
        class,
    })
    .collect()
}

fn clusters(c: &Coverage) -> Vec<ClusterRow> {
    let row = |r: &crate::evidence::coverage::ClusterCounts| ClusterRow {
        cluster: r.cluster.to_string(),
        tier: r.tier.to_string(),
        drill: format!("{} at {}", r.scenario, r.level),
        every: format!("every {}", span(r.every_ms)),
        slots: r.slots,
    };
    c.clusters.iter().map(row).collect()
}

fn begun(c: &Coverage) -> Vec<Fact> {
    let d = &c.drills;
    vec![
        fact("Begun, asked for or not", count(d.begun)),
        fact("passed", count(d.passed)),
        fact("passed with exceptions", count(d.passed_with_exceptions)),
        fact("failed, or without a result", count(d.failed)),
        fact("Samples drawn and not used", count(d.unused_draws)),
        fact("Restores that were needed", count(d.real_restores)),
    ]
}

fn log(shown: &ShownCoverage<'_>) -> Vec<Fact> {
    let c = &shown.statement.predicate;
    let mut out = vec![
        code("Log", &c.log),
        fact("Entries looked at", count(c.size)),
        code("Root over them", c.root),
        fact("This statement", format!("entry {}", shown.index)),
    ];
    for p in &c.populations {
        let s = if p.size == 1 { "" } else { "s" };
        let words = format!(
            "{} cluster{s}, in entry {} since {}",
            p.size,
            p.index,
            second(p.at)
        );
        out.push(fact("Asked for by", words));
    }
    for (cluster, number) in &c.drills.sequences {
        out.push(fact(format!("Drills of {cluster} so far"), count(*number)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::coverage::{Counted, derive};

    fn statement(change: impl FnOnce(&mut Coverage)) -> CoverageStatement {
        let counted = Counted {
            log: "holdfast.dev/log/test".parse().unwrap(),
            size: 12,
            root: Sha256Digest::of(b"root"),
        };
        let month = "2026-11".parse().unwrap();
        let mut coverage = derive([], &counted, &"acme".parse().unwrap(), month);
        change(&mut coverage);
        CoverageStatement::new(coverage)
    }

    fn page(statement: &CoverageStatement, alone: bool) -> String {
        let key = Fingerprint::of_spki(b"root");
        let shown = ShownCoverage {
            statement,
            digest: Sha256Digest::of(&statement.to_bytes()),
            index: 17,
            signers: vec![(TrustRole::Coordinator, "coordinator-1".into(), key)],
            root: key,
        };
        match alone {
            true => String::from_utf8(file(&shown).unwrap().bytes).unwrap(),
            false => served(&shown).unwrap(),
        }
    }

    fn tier(passed: u64, failed: u64, missed: u64) -> TierCounts {
        TierCounts {
            tier: "gold".parse().unwrap(),
            clusters: 2,
            slots: SlotCounts {
                expected: passed + failed + missed,
                executed: passed + failed,
                passed,
                passed_with_exceptions: 0,
                failed,
                missed,
            },
        }
    }

    #[test]
    fn a_month_is_covered_when_everything_that_was_due_passed() {
        let covered = page(&statement(|c| c.tiers = vec![tier(4, 0, 0)]), false);
        assert!(
            covered.contains("Each of the 4 drills that were due passed."),
            "{covered}"
        );
        let missed = page(&statement(|c| c.tiers = vec![tier(3, 0, 1)]), false);
        assert!(missed.contains("Of the 4 drills that were due, 1 failed or were missed."));
        assert!(missed.contains("<strong>not covered</strong>"));
        let idle = page(&statement(|_| {}), false);
        assert!(idle.contains("nothing was asked for") && idle.contains("No slot of a drill"));
    }

    #[test]
    fn it_stands_alone_and_is_served() {
        let statement = statement(|c| c.tiers = vec![tier(4, 1, 0)]);
        let digest = Sha256Digest::of(&statement.to_bytes()).to_string();
        let alone = page(&statement, true);
        assert!(alone.contains("<style>") && alone.contains(&digest) && !alone.contains("href=\"/"));
        let served = page(&statement, false);
        assert!(served.contains("/evidence/coverage/17.zip") && !served.contains("<style>"));
        assert!(
            !served.contains(" style=\""),
            "the policy of the coordinator's pages forbids it"
        );
    }
}
