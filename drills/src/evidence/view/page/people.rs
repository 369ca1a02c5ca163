//! Who did what, and whether these were different.

use holdfast_proto::names::ActorName;
use holdfast_proto::record::TrustRole;

use super::super::Shown;
use super::super::words::plain;
use super::{Fact, fact};
use crate::evidence::review;

/// Who had which part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) part: &'static str,
    pub(super) who: String,
    pub(super) key: String,
}

pub(super) fn parts(shown: &Shown<'_>) -> Vec<Part> {
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

pub(super) fn duties(shown: &Shown<'_>) -> Vec<Fact> {
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
        let apart = review::apart(shown.statement, &reviewer, &coordinators);
        out.push(fact(
            "Who reviewed it had no other part in it",
            apart.map_or("not known", word),
        ));
    }
    out
}
