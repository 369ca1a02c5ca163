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

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

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
        }
    }
}
