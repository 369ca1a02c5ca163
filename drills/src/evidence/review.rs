//! Who may review a drill: nobody who had a part in it.
//!
//! A reviewer is a person with a key of their own, enrolled in that role. The
//! review is their signature over the statement, an object beside the log; it
//! says that they have read it, whatever its verdict. Pure.

use holdfast_proto::names::ActorName;

use super::statement::Statement;

/// The part that `reviewer` had in the drill already, when they had one.
/// `countersigned` are the names under which the coordinator's keys that signed
/// the statement are enrolled.
pub fn conflict<'a>(
    statement: &Statement,
    reviewer: &ActorName,
    countersigned: impl IntoIterator<Item = &'a ActorName>,
) -> Option<&'static str> {
    let actors = &statement.predicate.actors;
    if *reviewer == actors.runner.identity {
        return Some("ran it");
    }
    if actors
        .backup_writer
        .as_ref()
        .is_some_and(|w| w.identity == *reviewer)
    {
        return Some("wrote the backup");
    }
    if actors.initiator.as_deref() == Some(reviewer.as_str()) {
        return Some("started it");
    }
    if actors.approvals.iter().any(|a| a.subject == reviewer.as_str()) {
        return Some("approved it");
    }
    countersigned
        .into_iter()
        .any(|name| name == reviewer)
        .then_some("countersigned it")
}

/// Whether `reviewer` had no part in the drill; `None` where the statement does not say
/// who had one.
pub fn apart<'a>(
    statement: &Statement,
    reviewer: &ActorName,
    countersigned: impl IntoIterator<Item = &'a ActorName>,
) -> Option<bool> {
    let actors = &statement.predicate.actors;
    let known = actors.initiator.is_some() && actors.backup_writer.is_some();
    match conflict(statement, reviewer, countersigned) {
        Some(_) => Some(false),
        None => known.then_some(true),
    }
}

/// Who had a part in a drill that was reviewed by somebody without one, in a sentence.
pub fn parts(statement: &Statement, countersigned: &[ActorName]) -> String {
    let actors = &statement.predicate.actors;
    let countersigned: Vec<&str> = countersigned.iter().map(ActorName::as_str).collect();
    let unknown = match (&actors.initiator, &actors.backup_writer) {
        (Some(_), Some(_)) => "none of them reviewed it",
        (None, _) => "whether the reviewer started it is not known",
        (_, None) => "whether the reviewer wrote the backup is not known",
    };
    format!(
        "Run by {}, started by {}, backup written by {}, countersigned by {}: {unknown}.",
        actors.runner.identity,
        actors.initiator.as_deref().unwrap_or("nobody named"),
        actors
            .backup_writer
            .as_ref()
            .map_or("nobody named", |w| w.identity.as_str()),
        match countersigned.is_empty() {
            true => "nobody".to_owned(),
            false => countersigned.join(", "),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use crate::evidence::statement::context::Actors;

    #[test]
    fn nobody_reviews_what_they_had_a_part_in() {
        let statement = fixture::statement();
        let coordinator: ActorName = "coordinator-1".parse().unwrap();
        for (name, part) in [
            ("mia", None),
            ("runner-1", Some("ran it")),
            ("agent-1", Some("wrote the backup")),
            ("schedule", Some("started it")),
            ("coordinator-1", Some("countersigned it")),
        ] {
            assert_eq!(
                conflict(&statement, &name.parse().unwrap(), [&coordinator]),
                part,
                "{name}"
            );
            assert_eq!(
                apart(&statement, &name.parse().unwrap(), [&coordinator]),
                Some(part.is_none())
            );
        }
        let said = parts(&statement, &[coordinator]);
        assert!(
            said.ends_with("coordinator-1: none of them reviewed it."),
            "{said}"
        );
    }

    #[test]
    fn who_is_not_named_may_be_the_reviewer() {
        type Change = fn(&mut Actors);
        let changes: [(Change, &str); 2] = [
            (
                |a| a.initiator = None,
                "whether the reviewer started it is not known",
            ),
            (
                |a| a.backup_writer = None,
                "whether the reviewer wrote the backup is not known",
            ),
        ];
        for (change, words) in changes {
            let mut statement = fixture::statement();
            change(&mut statement.predicate.actors);
            assert_eq!(apart(&statement, &"mia".parse().unwrap(), []), None);
            assert_eq!(
                apart(&statement, &"runner-1".parse().unwrap(), []),
                Some(false),
                "that is known"
            );
            let said = parts(&statement, &[]);
            assert!(said.contains(words) && said.contains("nobody named"), "{said}");
        }
    }
}
