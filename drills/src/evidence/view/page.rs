//! One drill, laid out for an auditor: what came of it, objective against actual,
//! when each phase ran, what was checked, how the sample was drawn, who did what,
//! and how to check all of that without this program.

mod checks;
mod objectives;
mod people;
mod phases;
mod restored;

use askama::Template;

use super::words::{plain, second, span};
use super::{STYLE, Shown};
use crate::evidence::statement::DrillKind;
use crate::evidence::statement::results::Verdict;
use checks::{CheckRow, checks, counts};
use objectives::{Objective, objectives};
use people::{Part, duties, parts};
use phases::{Bar, bars, total};
use restored::{drawn_at, place, restored, sampling};

/// A name and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fact {
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

#[derive(Debug, Template)]
#[template(path = "drill.html")]
struct DrillPage {
    alone: bool,
    style: &'static str,
    title: String,
    cluster: String,
    scope: Vec<Fact>,
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
    unknown: Vec<Fact>,
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
        scope: scope(shown),
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
        unknown: p
            .unknown
            .iter()
            .map(|u| fact(&field_in_words(&u.field), &u.reason))
            .collect(),
        controls: p.controls.clone(),
        log: log(shown),
        id: p.drill.id.to_string(),
        digest: shown.digest.to_string(),
        root: shown.root.to_string(),
    }
}

/// Whose data it is, beside the cluster's name.
fn scope(shown: &Shown<'_>) -> Vec<Fact> {
    let s = &shown.statement.predicate.scope;
    let mut out = Vec::new();
    out.extend(s.legal_entity.as_ref().map(|e| fact("Legal entity", e)));
    out.extend(s.environment.as_ref().map(|e| fact("Environment", e)));
    out.extend(s.tier.as_ref().map(|t| fact("Tier", t.as_str())));
    out.extend(s.residency_zone.as_ref().map(|z| fact("Residency zone", z)));
    if !s.business_services.is_empty() {
        out.push(fact("Business services", s.business_services.join(", ")));
    }
    out
}

/// `recovery_point.replicas.locked_until` as `recovery point: replicas, locked until`.
fn field_in_words(field: &str) -> String {
    let words = plain(field);
    match words.split_once('.') {
        Some((group, rest)) => format!("{group}: {}", rest.replace('.', ", ")),
        None => words,
    }
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
    let timings = &shown.statement.predicate.timings;
    if let Some(offset) = timings.clock_offset_ms {
        let error = timings.clock_error_ms.map(|ms| format!(", give or take {ms} ms"));
        let words = format!("{offset:+} ms against the store's{}", error.unwrap_or_default());
        out.push(fact("The runner's clock", words));
    }
    if let Some(kept) = &shown.statement.predicate.retention {
        out.push(fact("Kept until", second(kept.until)));
    }
    for why in &d.why {
        out.push(fact("Wanted because", why));
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
    use holdfast_proto::record::TrustRole;
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
    fn a_reviewer_is_apart_from_those_who_are_named() {
        let mut statement = fixture::statement();
        let mut said = |initiator: Option<&str>| {
            statement.predicate.actors.initiator = initiator.map(str::to_owned);
            let mut shown = shown(&statement);
            let key = Fingerprint::of_spki(b"mia");
            shown.signers.push((TrustRole::Reviewer, "mia".into(), key));
            let page = alone(&shown).unwrap();
            let (_, rest) = page
                .split_once("Who reviewed it had no other part in it")
                .unwrap();
            rest.chars().take(60).collect::<String>()
        };
        for (initiator, word) in [
            (Some("schedule"), "yes"),
            (Some("mia"), "NO"),
            (None, "not known"),
        ] {
            let said = said(initiator);
            assert!(said.contains(word), "{said}");
        }
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
