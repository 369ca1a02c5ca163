//! What a statement must satisfy before anybody signs it.
//!
//! [`lint`] is pure and looks at the statement alone. It refuses claims that
//! the statement's own findings do not carry, records that contradict
//! themselves, and text that has no place in evidence: secrets, addresses of
//! people, query results. It does not know whether the numbers are true.

mod unknown;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use super::sampling::MAX_SELECTED;
use super::statement::context::{SEEDED_POINT, SEEDED_WINDOW};
use super::statement::recovery::{EgressProbe, Isolation, Phase, TargetKind};
use super::statement::results::{CheckOutcome, Verdict};
use super::statement::{DrillKind, Level, Statement, SubjectKind};
use super::tlog::tiles::MAX_ENTRY;
use super::verdict::judge;
pub use unknown::lint_to_sign;

/// The longest text that a statement may carry.
const MAX_TEXT: usize = 400;
/// Bytes that an entry of the log needs besides the payload in base64.
const ENVELOPE_ROOM: usize = 512;

/// A reason not to sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LintFinding {
    /// The rule, in kebab case.
    pub rule: &'static str,
    /// What breaks it and what to do.
    pub detail: String,
}

impl fmt::Display for LintFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.detail)
    }
}

/// Checks a statement. All findings are reported, not the first alone.
pub fn lint(statement: &Statement) -> Result<(), Vec<LintFinding>> {
    let mut found = Findings(Vec::new());
    verdict(statement, &mut found);
    identity(statement, &mut found);
    sampling(statement, &mut found);
    checks(statement, &mut found);
    counts(statement, &mut found);
    timings(statement, &mut found);
    target(statement, &mut found);
    unknown::named(statement, &mut found);
    texts(statement, &mut found);
    if found.0.is_empty() { Ok(()) } else { Err(found.0) }
}

struct Findings(Vec<LintFinding>);

impl Findings {
    fn add(&mut self, rule: &'static str, detail: impl Into<String>) {
        self.0.push(LintFinding {
            rule,
            detail: detail.into(),
        });
    }

    fn require(&mut self, holds: bool, rule: &'static str, detail: impl Into<String>) {
        if !holds {
            self.add(rule, detail);
        }
    }
}

fn verdict(statement: &Statement, found: &mut Findings) {
    let (p, results) = (&statement.predicate, &statement.predicate.results);
    let judgement = judge(p);
    if results.verdict.is_pass() && results.verdict != judgement.verdict {
        found.add(
            "verdict-not-earned",
            format!(
                "it claims {} where its findings allow {}: {}",
                results.verdict,
                judgement.verdict,
                judgement.reasons.join("; ")
            ),
        );
    }
    found.require(
        results.verdict == Verdict::Pass || !results.reasons.is_empty(),
        "verdict-without-reason",
        format!("a verdict of {} says why", results.verdict),
    );
    let rto = results.rto.as_ref().and_then(|r| r.met);
    let rpo = results.rpo.as_ref().and_then(|r| r.met);
    found.require(
        (rto, rpo) == (judgement.rto_met, judgement.rpo_met),
        "objective-not-as-measured",
        "whether RTO and RPO are met follows from measurement and objective: leave it out where either is missing",
    );
    for exception in &p.exceptions {
        let named = matches!(
            exception.accepts.as_str(),
            "rto" | "rpo" | "filestore" | "database"
        ) || results.checks.iter().any(|c| c.id == exception.accepts);
        found.require(
            named,
            "exception-for-nothing",
            format!("{:?} is no check of this drill", exception.accepts),
        );
        found.require(
            !exception.owner.trim().is_empty() && !exception.reason.trim().is_empty(),
            "exception-without-owner",
            format!(
                "the exception for {:?} needs an owner and a reason",
                exception.accepts
            ),
        );
    }
}

/// A drill has its place among the cluster's intents; a restore that was needed
/// has none, so that it never stands for a drill.
fn announced(statement: &Statement, found: &mut Findings) {
    let drill = &statement.predicate.drill;
    if drill.kind == DrillKind::RealRestore {
        found.require(
            drill.intent.is_none() && drill.sequence == 0 && drill.previous.is_none(),
            "restore-announced",
            "a restore that was needed has no intent and no place among the drills",
        );
        return;
    }
    found.require(
        drill.intent.is_some(),
        "intent-missing",
        "a drill names the intent that was logged before it began",
    );
    found.require(
        drill.sequence > 0,
        "sequence",
        "drills of a cluster are numbered from 1",
    );
    found.require(
        (drill.sequence == 1) == drill.previous.is_none(),
        "sequence",
        "the first drill names no previous intent, every later one does",
    );
}

/// What was drawn can be drawn again by whoever has the log.
fn sampling(statement: &Statement, found: &mut Findings) {
    let sampling = statement.predicate.sampling.as_ref();
    found.require(
        !statement.predicate.results.verdict.is_pass() || sampling.is_some_and(|s| s.file_sample.is_some()),
        "files-not-sampled",
        "a pass names the stored files that were drawn, read and hashed again",
    );
    let Some(s) = sampling else {
        return;
    };
    let from_window = s.method == SEEDED_WINDOW;
    let drawn = from_window || s.method == SEEDED_POINT;
    found.require(
        s.seed.is_none()
            || (s.population_index.is_some()
                && s.population_digest.is_some()
                && s.checkpoint_size.is_some()
                && s.slot.is_some()),
        "seed-without-origin",
        "a seed names its slot, its population's entry and the checkpoint that it follows from",
    );
    found.require(
        drawn == s.selected.is_some() && from_window == s.window.is_some() && (!drawn || s.seed.is_some()),
        "moment-not-drawn",
        "a moment that was drawn has a seed, and a window unless it is a point's; one that somebody named has neither \
         window nor draw",
    );
    if let Some(files) = &s.file_sample {
        found.require(
            s.seed.is_some()
                && (files.drawn == files.selected.len() as u64
                    || (files.selected.is_empty() && files.drawn > MAX_SELECTED as u64))
                && files.population_digest.is_some(),
            "files-not-drawn",
            "a sample of files names the seed, the listing's digest and, up to 64, every file drawn",
        );
    }
}

fn identity(statement: &Statement, found: &mut Findings) {
    let p = &statement.predicate;
    announced(statement, found);
    if let Some(writer) = &p.actors.backup_writer {
        let different = writer.key != p.actors.runner.key;
        found.require(
            different,
            "runner-is-writer",
            "the key that wrote the backup must not vouch for it: enrol another key for the runner",
        );
        if let Some(duties) = &p.actors.separation_of_duties {
            found.require(
                duties.runner_is_not_writer == different,
                "separation-of-duties",
                "runner_is_not_writer is not what the two keys say",
            );
        }
    }
    if let Some(duties) = p.actors.separation_of_duties
        && let Some(claimed) = duties.approver_is_not_initiator
    {
        let actual = p
            .actors
            .initiator
            .as_ref()
            .map(|who| p.actors.approvals.iter().all(|a| &a.subject != who));
        found.require(
            actual == Some(claimed),
            "separation-of-duties",
            "approver_is_not_initiator is not what initiator and approvals say",
        );
    }
    let mut seen = BTreeSet::new();
    for subject in &statement.subject {
        let key = (subject.name, subject.uri.as_ref().map(|k| k.as_str()));
        found.require(
            seen.insert(key),
            "subject-twice",
            format!("{:?} is named twice", subject.name),
        );
    }
    if p.results.verdict.is_pass() {
        let base = statement
            .subject
            .iter()
            .any(|s| s.name == SubjectKind::BaseBackup);
        found.require(
            base,
            "subject-missing",
            "a pass names the base backup that was restored, by digest",
        );
        let point =
            p.drill.level < Level::L2 || p.recovery_point.as_ref().is_some_and(|r| r.reached.is_some());
        found.require(
            point,
            "recovery-point-missing",
            "a pass from L2 says where recovery ended",
        );
    }
}

fn checks(statement: &Statement, found: &mut Findings) {
    let mut ids = BTreeSet::new();
    for check in &statement.predicate.results.checks {
        let id = &check.id;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let named = !id.is_empty() && id.len() <= 100 && id.bytes().all(plain);
        found.require(
            named,
            "check-id",
            format!("{id:?}: use letters, digits, '-', '_' and '.'"),
        );
        found.require(
            ids.insert(id.as_str()),
            "check-twice",
            format!("{id} appears twice"),
        );
        let ran = matches!(check.result, CheckOutcome::Pass | CheckOutcome::Fail);
        found.require(
            ran == check.duration_ms.is_some(),
            "check-duration",
            format!("{id}: a check that ran has a duration, one that did not has none"),
        );
    }
}

fn counts(statement: &Statement, found: &mut Findings) {
    if let Some(f) = &statement.predicate.results.filestore {
        let parts = [
            f.present,
            f.missing_in_backup,
            f.missing_at_source,
            f.digest_mismatch,
            f.size_mismatch,
        ];
        let sum = parts.iter().try_fold(0u64, |sum, n| sum.checked_add(*n));
        found.require(
            sum == Some(f.referenced),
            "filestore-counts",
            format!(
                "{} files are referenced and {sum:?} accounted for: count each exactly once",
                f.referenced
            ),
        );
    }
}

fn timings(statement: &Statement, found: &mut Findings) {
    let p = &statement.predicate;
    let mut phases = BTreeMap::new();
    for timing in &p.timings.phases {
        found.require(
            timing.start <= timing.end,
            "phase-backwards",
            format!("{:?} ends before it begins", timing.phase),
        );
        found.require(
            phases.insert(timing.phase, timing).is_none(),
            "phase-twice",
            format!("{:?} appears twice", timing.phase),
        );
    }
    if p.results.verdict.is_pass() {
        for (from, phase) in [
            (Level::L1, Phase::Checks),
            (Level::L2, Phase::BaseFetch),
            (Level::L2, Phase::WalReplay),
            (Level::L3, Phase::FilestoreRestore),
            (Level::L4, Phase::AppStart),
        ] {
            found.require(
                p.drill.level < from || phases.contains_key(&phase),
                "phase-missing",
                format!("a pass at {} shows when {phase:?} ran", p.drill.level),
            );
        }
    }
}

fn target(statement: &Statement, found: &mut Findings) {
    let Some(target) = &statement.predicate.target else {
        let placed =
            !statement.predicate.results.verdict.is_pass() || statement.predicate.drill.level < Level::L2;
        found.require(
            placed,
            "target-missing",
            "a pass from L2 says where it was restored to",
        );
        return;
    };
    let probed_open = target.egress_probe == Some(EgressProbe::Open);
    let closed = target.isolation != Isolation::PrivateDirectory;
    found.require(
        !(closed && probed_open),
        "isolation-broken",
        "the network was to be closed and the probe got out: that drill proves no isolation, and may have touched others",
    );
    found.require(
        !(target.segregated_from_source == Some(true) && probed_open),
        "isolation-broken",
        "it claims to be cut off from the source although the probe got out",
    );
    found.require(
        target.kind != TargetKind::Kubernetes || target.namespace.is_some(),
        "namespace-missing",
        "a drill on Kubernetes names its namespace by UID",
    );
}

/// Text that gives away a secret, and what it is.
const SECRETS: [(&str, &str); 6] = [
    ("AGE-SECRET-KEY-", "an age identity"),
    ("PRIVATE KEY-----", "a private key"),
    ("password=", "a password"),
    ("PGPASSWORD", "a password"),
    ("aws_secret_access_key", "a store's credentials"),
    ("Bearer ", "a token"),
];

fn texts(statement: &Statement, found: &mut Findings) {
    let json = serde_json::to_value(statement).expect("a statement holds nothing that JSON cannot say");
    walk("", &json, found);
    let bytes = statement.to_bytes().len();
    let entry = bytes.div_ceil(3) * 4 + ENVELOPE_ROOM;
    found.require(
        entry <= MAX_ENTRY,
        "too-long",
        format!(
            "{bytes} bytes do not fit into an entry of the log: shorten texts, or move detail to a byproduct"
        ),
    );
}

fn walk(path: &str, value: &Value, found: &mut Findings) {
    match value {
        Value::String(text) => text_rules(path, text, found),
        Value::Number(n) => {
            found.require(
                !n.is_f64(),
                "not-an-integer",
                format!("{path} is no whole number"),
            );
        }
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(n, item)| walk(&format!("{path}[{n}]"), item, found));
        }
        Value::Object(members) => {
            members
                .iter()
                .for_each(|(name, member)| walk(&format!("{path}.{name}"), member, found));
        }
        Value::Null | Value::Bool(_) => {}
    }
}

fn text_rules(path: &str, text: &str, found: &mut Findings) {
    let length = text.chars().count();
    found.require(
        length <= MAX_TEXT,
        "text-too-long",
        format!(
            "{path} has {length} characters, {MAX_TEXT} are allowed: a statement holds digests, not results"
        ),
    );
    found.require(
        !text.chars().any(char::is_control),
        "text-not-plain",
        format!("{path} holds line breaks or control characters"),
    );
    for (pattern, what) in SECRETS {
        let has = text.to_ascii_lowercase().contains(&pattern.to_ascii_lowercase());
        found.require(
            !has,
            "secret",
            format!("{path} seems to hold {what}: take it out, and replace that secret"),
        );
    }
    // user:password@host, in a URL.
    let credentials = text
        .split_once("://")
        .and_then(|(_, rest)| rest.split(['/', '?']).next()?.split_once('@'))
        .is_some_and(|(user, _)| user.contains(':'));
    found.require(
        !credentials,
        "secret",
        format!("{path} seems to hold a URL with a password: take it out"),
    );
    found.require(
        !looks_like_address(text),
        "personal-data",
        format!("{path} seems to hold a person's e-mail address: use an opaque identifier"),
    );
}

fn looks_like_address(text: &str) -> bool {
    text.split(|c: char| c.is_whitespace() || "<>,;()".contains(c))
        .any(|word| {
            word.split_once('@').is_some_and(|(user, host)| {
                !user.is_empty() && host.contains('.') && !host.contains("://") && !host.contains('/')
            })
        })
}

#[cfg(test)]
mod tests;
