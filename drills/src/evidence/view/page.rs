//! One drill, laid out for an auditor: what came of it, objective against actual,
//! when each phase ran, what was checked, how the sample was drawn, who did what,
//! and how to check all of that without this program.

use askama::Template;
use holdfast_proto::Timestamp;
use holdfast_proto::names::ActorName;
use holdfast_proto::record::TrustRole;

use super::words::{bytes, count, plain, second, span};
use super::{STYLE, Shown};
use crate::evidence::review;
use crate::evidence::statement::DrillKind;
use crate::evidence::statement::context::{SEEDED_POINT, Sampling};
use crate::evidence::statement::recovery::{EgressProbe, Isolation, RecoveryTarget, TargetKind};
use crate::evidence::statement::results::{CheckOutcome, Verdict};

/// A name and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fact {
    name: String,
    value: String,
    /// Digests and positions are set as code.
    code: bool,
}

fn fact(name: &str, value: impl Into<String>) -> Fact {
    Fact {
        name: name.to_owned(),
        value: value.into(),
        code: false,
    }
}

fn code(name: &str, value: impl ToString) -> Fact {
    Fact {
        name: name.to_owned(),
        value: value.to_string(),
        code: true,
    }
}

/// An objective and what was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Objective {
    name: &'static str,
    actual: String,
    limit: String,
    class: &'static str,
    word: &'static str,
    /// Hundredths of the bar; the objective is at 75.
    bar: String,
}

/// A phase as a bar: thousandths of the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bar {
    name: String,
    from: u64,
    width: u64,
    length: String,
    note: String,
    times: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct CheckRow {
    id: String,
    class: String,
    word: String,
    badge: &'static str,
    expected: String,
    actual: String,
    kind: &'static str,
    length: String,
}

/// Who had which part.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    part: &'static str,
    who: String,
    key: String,
}

#[derive(Debug, Template)]
#[template(path = "drill.html")]
struct DrillPage {
    alone: bool,
    style: &'static str,
    title: String,
    cluster: String,
    kind: String,
    level: String,
    scenario: String,
    when: String,
    verdict: String,
    verdict_class: &'static str,
    says: &'static str,
    reasons: Vec<String>,
    objectives: Vec<Objective>,
    definitions: Vec<Fact>,
    bars: Vec<Bar>,
    span: String,
    checks: Vec<CheckRow>,
    counts: Vec<Fact>,
    restored: Vec<Fact>,
    subjects: Vec<Fact>,
    place: Vec<Fact>,
    sampling: Vec<Fact>,
    /// Where in the window the moment lies, in thousandths.
    draw: Option<u64>,
    window: (String, String),
    parts: Vec<Part>,
    duties: Vec<Fact>,
    exceptions: Vec<Fact>,
    controls: Vec<String>,
    log: Vec<Fact>,
    id: String,
    digest: String,
    root: String,
}

/// The page in one file, with its style sheet in it.
pub fn alone(shown: &Shown<'_>) -> Result<String, askama::Error> {
    lay_out(shown, true).render()
}

/// The page as the coordinator serves it.
pub fn served(shown: &Shown<'_>) -> Result<String, askama::Error> {
    lay_out(shown, false).render()
}

/// A verdict's class of colour.
pub(super) fn class_of(verdict: Verdict, kind: DrillKind) -> &'static str {
    match (verdict, kind) {
        (Verdict::Pass, _) => "good",
        (Verdict::PassWithExceptions, _) | (Verdict::CouldNotVerify, DrillKind::RealRestore) => "warn",
        _ => "bad",
    }
}

fn says(verdict: Verdict, kind: DrillKind) -> &'static str {
    match (verdict, kind) {
        (Verdict::CouldNotVerify, DrillKind::RealRestore) => {
            "A restore that was needed. Whether what came back is whole was not checked here."
        }
        (Verdict::Pass, _) => "Recovery works, to this level.",
        (Verdict::PassWithExceptions, _) => "Recovery works but for what is named and accepted below.",
        (Verdict::Fail, _) => "Recovery does not work as promised.",
        (Verdict::CouldNotVerify, _) => "Too little could be checked to say that recovery works.",
        (Verdict::Aborted, _) => "The drill was stopped.",
        (Verdict::Abandoned, _) => "The drill never came to an end, which counts as failed.",
    }
}

fn lay_out(shown: &Shown<'_>, alone: bool) -> DrillPage {
    let p = &shown.statement.predicate;
    let verdict = p.results.verdict;
    let began = p.timings.phases.iter().map(|t| t.start).min();
    let title = match p.drill.kind {
        DrillKind::RealRestore => "Restore",
        _ => "Recovery drill",
    };
    let s = p.sampling.as_ref();
    DrillPage {
        alone,
        style: STYLE,
        title: title.to_owned(),
        cluster: p.scope.id().to_string(),
        kind: plain(&p.drill.kind.to_string()),
        level: p.drill.level.to_string(),
        scenario: p.drill.scenario.to_string(),
        when: began.map_or_else(String::new, second),
        verdict: plain(&verdict.to_string()),
        verdict_class: class_of(verdict, p.drill.kind),
        says: says(verdict, p.drill.kind),
        reasons: p.results.reasons.clone(),
        objectives: objectives(shown),
        definitions: [
            p.results
                .rto
                .as_ref()
                .map(|r| fact("Recovery time", &r.definition)),
            p.results.rpo.as_ref().map(|r| fact("Data loss", &r.definition)),
        ]
        .into_iter()
        .flatten()
        .collect(),
        span: total(shown).map_or_else(String::new, |(from, to)| span(to.millis_since(from))),
        bars: bars(shown),
        checks: checks(shown),
        counts: counts(shown),
        restored: restored(shown),
        subjects: shown
            .statement
            .subject
            .iter()
            .map(|s| {
                let word = serde_json::to_value(s.name).unwrap_or_default();
                let name = word.as_str().unwrap_or_default().replace('-', " ");
                code(&name, s.digest.sha256)
            })
            .collect(),
        place: place(shown),
        sampling: s.map(sampling).unwrap_or_default(),
        draw: s.and_then(drawn_at),
        window: s
            .and_then(|s| s.window)
            .map_or_else(Default::default, |w| (second(w.from), second(w.until))),
        parts: parts(shown),
        duties: duties(shown),
        exceptions: p
            .exceptions
            .iter()
            .map(|e| {
                let words = format!("{}; {} answers for it until {}", e.reason, e.owner, second(e.due));
                fact(&e.accepts, words)
            })
            .chain(
                p.remediation
                    .iter()
                    .map(|r| fact(&r.action, format!("{}, until {}", r.owner, second(r.due)))),
            )
            .collect(),
        controls: p.controls.clone(),
        log: log(shown),
        id: p.drill.id.to_string(),
        digest: shown.digest.to_string(),
        root: shown.root.to_string(),
    }
}

fn objectives(shown: &Shown<'_>) -> Vec<Objective> {
    let p = &shown.statement.predicate;
    let limits = p.policy.as_ref().map(|policy| policy.objectives);
    let make = |name, actual: Option<u64>, limit: Option<u64>| Objective {
        name,
        actual: actual.map_or_else(|| "not measured".to_owned(), span),
        limit: limit.map(span).unwrap_or_default(),
        class: match (actual, limit) {
            (Some(a), Some(l)) if a <= l => "good",
            (Some(_), None) => "quiet",
            _ => "bad",
        },
        word: match (actual, limit) {
            (Some(a), Some(l)) if a <= l => "met",
            (Some(_), Some(_)) => "missed",
            (None, Some(_)) => "not measured",
            _ => "no objective",
        },
        bar: match (actual, limit) {
            (Some(a), Some(l)) => {
                let part = a.saturating_mul(750).checked_div(l.max(1)).unwrap_or(1000);
                let part = part.clamp(10, 1000);
                format!("{}.{}", part / 10, part % 10)
            }
            _ => "0".to_owned(),
        },
    };
    let mut out = Vec::new();
    let (rto, limit) = (p.results.rto.as_ref(), limits.and_then(|l| l.rto_ms));
    if rto.is_some() || limit.is_some() {
        out.push(make("Recovery time", rto.map(|r| r.actual_ms), limit));
    }
    let (rpo, limit) = (p.results.rpo.as_ref(), limits.and_then(|l| l.rpo_ms));
    if rpo.is_some() || limit.is_some() {
        out.push(make(
            "Data loss, database",
            rpo.and_then(|r| r.database_lag_ms),
            limit,
        ));
        if p.results.filestore.is_some() {
            out.push(make(
                "Data loss, files",
                rpo.and_then(|r| r.filestore_lag_ms),
                limit,
            ));
        }
    }
    out
}

fn total(shown: &Shown<'_>) -> Option<(Timestamp, Timestamp)> {
    let phases = &shown.statement.predicate.timings.phases;
    Some((
        phases.iter().map(|t| t.start).min()?,
        phases.iter().map(|t| t.end).max()?,
    ))
}

fn bars(shown: &Shown<'_>) -> Vec<Bar> {
    let Some((from, to)) = total(shown) else {
        return Vec::new();
    };
    let whole = to.millis_since(from).max(1);
    let part = |at: Timestamp| at.millis_since(from).saturating_mul(1000) / whole;
    let word = |phase| {
        let value = serde_json::to_value(phase).unwrap_or_default();
        plain(value.as_str().unwrap_or_default())
    };
    let clock = |at: Timestamp| at.to_chrono().format("%H:%M:%S%.3f").to_string();
    shown
        .statement
        .predicate
        .timings
        .phases
        .iter()
        .map(|t| Bar {
            name: word(t.phase),
            from: part(t.start).min(996),
            width: part(t.end).saturating_sub(part(t.start)).max(4),
            length: span(t.end.millis_since(t.start)),
            note: [t.bytes.map(bytes), t.items.map(items)]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(", "),
            times: format!("{} to {}", clock(t.start), clock(t.end)),
        })
        .collect()
}

fn items(n: u64) -> String {
    format!("{} item{}", count(n), if n == 1 { "" } else { "s" })
}

fn checks(shown: &Shown<'_>) -> Vec<CheckRow> {
    shown
        .statement
        .predicate
        .results
        .checks
        .iter()
        .map(|c| {
            let (word, badge) = match c.result {
                CheckOutcome::Pass => ("pass", "good"),
                CheckOutcome::Fail => ("fail", "bad"),
                CheckOutcome::Skipped => ("skipped", "warn"),
                CheckOutcome::CouldNotRun => ("could not run", "bad"),
            };
            CheckRow {
                id: c.id.clone(),
                class: plain(&c.class.to_string()),
                word: word.to_owned(),
                badge,
                expected: c.expected.clone().unwrap_or_default(),
                actual: c.actual.clone().unwrap_or_default(),
                kind: match (c.data_proving, c.mandatory) {
                    (true, true) => "proves data, mandatory",
                    (true, false) => "proves data",
                    (false, true) => "mandatory",
                    (false, false) => "",
                },
                length: c.duration_ms.map(span).unwrap_or_default(),
            }
        })
        .collect()
}

fn counts(shown: &Shown<'_>) -> Vec<Fact> {
    let results = &shown.statement.predicate.results;
    let mut out = Vec::new();
    if let Some(f) = &results.filestore {
        out.extend([
            fact("Files that rows refer to", count(f.referenced)),
            fact("restored and equal", count(f.present)),
            fact("missing in the backup", count(f.missing_in_backup)),
            fact("missing at the source already", count(f.missing_at_source)),
            fact(
                "of another digest or size",
                count(f.digest_mismatch.saturating_add(f.size_mismatch)),
            ),
            fact("left out, nothing refers to them", count(f.extras_left_out)),
        ]);
    }
    if let Some(d) = &results.database {
        let known = [
            ("Tables", d.tables),
            ("pages with a wrong checksum", d.checksum_failures),
            ("errors by amcheck", d.amcheck_errors),
        ];
        out.extend(
            known
                .iter()
                .filter_map(|(name, n)| Some(fact(name, count((*n)?)))),
        );
        for value in &d.reconciliation {
            let word = if value.agrees { "agrees" } else { "DIFFERS" };
            let words = format!(
                "{word}: {} at the source, {} in the copy",
                value.expected, value.actual
            );
            out.push(fact(&value.id, words));
        }
    }
    out
}

fn restored(shown: &Shown<'_>) -> Vec<Fact> {
    let Some(r) = &shown.statement.predicate.recovery_point else {
        return Vec::new();
    };
    let target = match &r.target {
        RecoveryTarget::Time(at) => format!("the moment {at}"),
        RecoveryTarget::Lsn(lsn) => format!("the position {lsn}"),
        RecoveryTarget::Name(name) => format!("the restore point {name}"),
        RecoveryTarget::Latest => "the end of what is archived".to_owned(),
    };
    let mut out = vec![
        fact("Told to reach", target),
        fact(
            "PostgreSQL",
            format!("{}.{}", r.version_num / 10_000, r.version_num % 10_000),
        ),
        code("System identifier", r.system_identifier),
        code("Timeline", r.timeline),
        code("Base backup", r.base.id),
        code("Base from and to", format!("{} to {}", r.base.start, r.base.stop)),
    ];
    out.extend(r.base.bytes.map(|n| fact("Base size", bytes(n))));
    out.extend(r.wal_bytes_replayed.map(|n| fact("WAL replayed", bytes(n))));
    out.extend(r.reached.map(|lsn| code("Recovery ended at", lsn)));
    out.extend(
        r.last_replayed_commit
            .as_ref()
            .map(|c| fact("Last transaction", format!("{} at {}", c.lsn, c.time))),
    );
    out.extend(
        r.filestore_watermark
            .map(|at| fact("Files as of", at.to_string())),
    );
    if !r.replicas.is_empty() {
        let names: Vec<String> = r
            .replicas
            .iter()
            .map(|replica| match replica.locked_until {
                Some(until) => format!("{} (locked until {})", replica.region, second(until)),
                None => replica.region.to_string(),
            })
            .collect();
        out.push(fact("Read from", names.join(", ")));
    }
    if let Some(e) = &r.encryption {
        let epochs: Vec<String> = e.epochs.iter().map(ToString::to_string).collect();
        let words = format!(
            "{} recipients; keys of {} opened",
            e.recipients.len(),
            epochs.join(", ")
        );
        out.push(fact("Sealed to", words));
    }
    out
}

fn place(shown: &Shown<'_>) -> Vec<Fact> {
    let Some(t) = &shown.statement.predicate.target else {
        return Vec::new();
    };
    let isolation = match t.isolation {
        Isolation::NetworkPolicy => "a Kubernetes namespace that network policy closes",
        Isolation::LinuxNamespaces => "Linux namespaces without a network",
        Isolation::SocketFilter => "a filter of system calls under which no network socket can be made",
        Isolation::PrivateDirectory => "a private directory; the network was not closed",
    };
    let yes = |b: bool| if b { "yes" } else { "NO" };
    let mut out = vec![fact("Kept apart by", isolation)];
    if t.kind == TargetKind::Kubernetes {
        let uid = t.namespace.as_deref().unwrap_or("not said");
        out.push(fact("Kubernetes namespace", uid));
        out.extend(t.node.as_deref().map(|node| fact("Node", node)));
    }
    out.extend(t.egress_probe.map(|probe| {
        fact(
            "An attempt to get out",
            if probe == EgressProbe::Blocked {
                "failed, as it must"
            } else {
                "SUCCEEDED"
            },
        )
    }));
    out.extend(
        t.segregated_from_source
            .map(|b| fact("Cut off from the source", yes(b))),
    );
    out.extend(t.neutralised.map(|b| fact("Jobs and mail stopped first", yes(b))));
    out.extend(t.destroyed_at.map(|at| fact("Destroyed", second(at))));
    out
}

fn sampling(s: &Sampling) -> Vec<Fact> {
    let how = match s.selected {
        Some(_) if s.method == SEEDED_POINT => {
            "drawn from all joint recovery points by a seed that nobody could choose"
        }
        Some(_) => "drawn from all restorable moments by a seed that nobody could choose",
        None => "named by whoever started the drill",
    };
    let mut out = vec![fact("The moment was", how)];
    out.extend(s.selected.map(|at| fact("Drawn", at.to_string())));
    out.extend(
        s.population_index
            .map(|n| fact("Population logged", format!("entry {n}"))),
    );
    out.extend(
        s.checkpoint_size
            .map(|n| fact("Seed follows from", format!("the checkpoint of {n} entries"))),
    );
    out.extend(s.slot.as_ref().map(|slot| code("Slot", slot)));
    out.extend(s.population_digest.map(|d| code("Population", d)));
    out.extend(s.seed.map(|d| code("Seed", d)));
    out.extend(s.file_sample.as_ref().map(|f| {
        fact(
            "Stored files read and hashed again",
            format!(
                "{} of {}, drawn by the same seed",
                count(f.drawn),
                count(f.population)
            ),
        )
    }));
    out
}

fn drawn_at(s: &Sampling) -> Option<u64> {
    let (window, at) = (s.window?, s.selected?);
    let whole = window.until.millis_since(window.from).max(1);
    Some((at.millis_since(window.from).saturating_mul(1000) / whole).min(1000))
}

fn parts(shown: &Shown<'_>) -> Vec<Part> {
    let a = &shown.statement.predicate.actors;
    let part = |part, who: &str, key: String| Part {
        part,
        who: who.to_owned(),
        key,
    };
    let mut out = Vec::new();
    if let Some(who) = &a.initiator {
        out.push(part("started it", who, String::new()));
    }
    for approval in &a.approvals {
        let word = plain(&format!("{:?}", approval.decision));
        out.push(part(
            "decided on it",
            &format!("{} ({word})", approval.subject),
            String::new(),
        ));
    }
    if let Some(w) = &a.backup_writer {
        out.push(part(
            "wrote the backup",
            w.identity.as_str(),
            w.key.short().to_string(),
        ));
    }
    for (role, name, key) in &shown.signers {
        let word = match role {
            TrustRole::Runner => "ran it and signed",
            TrustRole::Coordinator => "countersigned it",
            TrustRole::Reviewer => "reviewed it",
            _ => "signed it",
        };
        out.push(part(word, name, key.short().to_string()));
    }
    if !shown
        .signers
        .iter()
        .any(|(role, ..)| *role == TrustRole::Reviewer)
    {
        out.push(part("reviewed it", "nobody yet", String::new()));
    }
    if let Some(intent) = &shown.statement.predicate.drill.intent {
        let who = intent.witness.name().unwrap_or("nobody outside: witness none");
        out.push(part("witnessed the log", who, String::new()));
    }
    out
}

fn duties(shown: &Shown<'_>) -> Vec<Fact> {
    let a = &shown.statement.predicate.actors;
    let word = |b: bool| if b { "yes" } else { "NO" };
    let mut out = vec![fact(
        "Program that ran it",
        match &a.runner.image_digest {
            Some(image) => format!("holdfast {} in {image}", a.runner.version),
            None => format!("holdfast {}", a.runner.version),
        },
    )];
    if let Some(d) = &a.separation_of_duties {
        out.push(fact(
            "Who ran it did not write the backup",
            word(d.runner_is_not_writer),
        ));
        out.extend(
            d.approver_is_not_initiator
                .map(|b| fact("Who approved it did not start it", word(b))),
        );
    }
    let names = |wanted: TrustRole| {
        let of_role = shown.signers.iter().filter(move |(role, ..)| *role == wanted);
        of_role.filter_map(|(_, name, _)| name.parse::<ActorName>().ok())
    };
    let coordinators: Vec<ActorName> = names(TrustRole::Coordinator).collect();
    for reviewer in names(TrustRole::Reviewer) {
        let apart = review::conflict(shown.statement, &reviewer, &coordinators).is_none();
        out.push(fact("Who reviewed it had no other part in it", word(apart)));
    }
    out
}

fn predicted(shown: &Shown<'_>) -> Option<u64> {
    shown.statement.predicate.results.rto.as_ref()?.predicted_ms
}

fn log(shown: &Shown<'_>) -> Vec<Fact> {
    let d = &shown.statement.predicate.drill;
    let mut out = vec![fact("Result", format!("entry {}", shown.index))];
    match &d.intent {
        Some(intent) => {
            out.insert(0, code("Log", &intent.log));
            out.insert(
                1,
                fact("Announced before the work", format!("entry {}", intent.index)),
            );
            let words = format!("number {}, none left out before it", d.sequence);
            out.push(fact("Among the cluster's drills", words));
        }
        None => out.push(fact(
            "Announced",
            "by nobody: it was needed, and stands for no drill",
        )),
    }
    if let Some(ms) = shown.delay_ms {
        let words = format!("{} after the restore ended", span(ms));
        out.push(fact("Logged", words));
    }
    if let Some(ms) = predicted(shown) {
        out.push(fact("The plan had predicted", span(ms)));
    }
    if let Some(policy) = &shown.statement.predicate.policy {
        out.push(fact("Policy", &policy.id));
        out.push(code("Policy's digest", policy.digest));
    }
    out
}

#[cfg(test)]
pub(super) mod tests {
    use holdfast_proto::{Fingerprint, Sha256Digest};

    use super::*;
    use crate::evidence::fixture;
    use crate::evidence::statement::Statement;

    pub fn shown(statement: &Statement) -> Shown<'_> {
        let key = |name: &str| Fingerprint::of_spki(name.as_bytes());
        Shown {
            statement,
            digest: Sha256Digest::of(&statement.to_bytes()),
            index: 17,
            signers: vec![
                (TrustRole::Runner, "runner-1".into(), key("runner")),
                (TrustRole::Coordinator, "coordinator-1".into(), key("coordinator")),
            ],
            root: key("root"),
            delay_ms: None,
        }
    }

    #[test]
    fn says_verdict_objectives_and_digest() {
        let statement = fixture::statement();
        let page = alone(&shown(&statement)).unwrap();
        let digest = Sha256Digest::of(&statement.to_bytes()).to_string();
        for words in [
            "acme/erp",
            "accidental-deletion",
            "1 min 20 s",
            "15 min",
            "20,000",
            "nobody yet",
            &digest,
            "filestore restore",
            "amcheck",
        ] {
            assert!(page.contains(words), "{words} is missing");
        }
        assert!(page.contains("<style>") && !page.contains("<script"));
        let served = served(&shown(&statement)).unwrap();
        assert!(served.contains("evidence.css") && !served.contains("<style>"));
        assert!(
            !served.contains(" style=\""),
            "the policy of the coordinator's pages forbids it"
        );
    }

    #[test]
    fn what_statements_say_is_text_and_no_markup() {
        let mut statement = fixture::statement();
        statement.predicate.actors.initiator = Some("<script>alert(1)</script>".into());
        let page = alone(&shown(&statement)).unwrap();
        assert!(!page.contains("<script>alert"));
    }

    #[test]
    fn what_is_unknown_is_said() {
        let mut statement = fixture::statement();
        let p = &mut statement.predicate;
        (p.results.rto, p.recovery_point, p.target, p.sampling) = (None, None, None, None);
        p.timings.phases.clear();
        let page = alone(&shown(&statement)).unwrap();
        assert!(page.contains("not measured"));
    }
}
