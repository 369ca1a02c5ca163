//! Finds the line of descent that a cluster's backups belong to.
//!
//! A lineage is the server's system identifier and a generation. The highest
//! generation of that system identifier in the repository (or remembered here) goes
//! on; the first is 1. A cluster that was restored or rolled back writes another
//! future under the same identifier: the WAL line refuses it, and the operator
//! begins a new generation (`generation` in the configuration).
//!
//! Another system identifier is another database. Whatever answers at the address, it is
//! not taken for the cluster because of that: an operator who has replaced the cluster
//! (`pg_upgrade`, a new `initdb`) says so with `system_identifier`.

use holdfast_proto::names::{Lineage, SystemId};
use holdfast_repository::layout;
use holdfast_repository::listing::ListError;
use holdfast_repository::publisher::Publisher;

use crate::config::AskedLineage;
use crate::durable::LocalFileError;
use crate::state::ClusterState;

/// A lineage that was not settled.
#[derive(Debug, thiserror::Error)]
pub enum LineageError {
    /// The lineages cannot be listed.
    #[error(transparent)]
    List(#[from] ListError),
    /// The lineage cannot be remembered.
    #[error(transparent)]
    Local(#[from] LocalFileError),
    /// Another database answers.
    #[error(
        "the server's system identifier is {found}, and the cluster's backups are of {expected}: another database \
         answers at this address, and nothing of it is stored. Correct the address; or, if it has replaced the old one \
         (pg_upgrade, a new initdb), write system_identifier = \"{found}\" below [[cluster]]"
    )]
    WrongSystem {
        /// The server's.
        found: SystemId,
        /// The cluster's.
        expected: SystemId,
    },
    /// Whether the cluster has a lineage is not known.
    #[error(
        "whether there are backups of another database under this name is not known: {0} could not be listed"
    )]
    Unlisted(String),
    /// The configuration asks for a generation that is over.
    #[error("generation {asked} is asked for, and generation {newest} has begun: remove `generation`, or write {newest} or {}", newest + 1)]
    Over {
        /// What the configuration says.
        asked: u32,
        /// The newest.
        newest: u32,
    },
}

/// The lineage of the server `system`.
///
/// # Errors
/// It is another database than the one whose backups are in the repository, or what is
/// there cannot be listed.
pub async fn settle(
    publisher: &Publisher,
    system: SystemId,
    asked: AskedLineage,
    state: &ClusterState,
) -> Result<Lineage, LineageError> {
    let children = publisher
        .repository
        .children(&layout::lineages(&publisher.cluster))
        .await?;
    let listed = (children.names.iter()).filter_map(|name| {
        name.trim_end_matches('/')
            .rsplit('/')
            .next()?
            .parse::<Lineage>()
            .ok()
    });
    let remembered: Option<Lineage> = state.lineage().load()?;
    let known: Vec<Lineage> = listed.chain(remembered).collect();
    let missing: Vec<String> = (children.unlisted.iter())
        .map(|(region, _)| region.to_string())
        .collect();
    let lineage = choose(system, &known, remembered, asked, &missing)?;
    if remembered != Some(lineage) {
        state.lineage().save(&lineage)?;
        tracing::info!(lineage = %lineage, "lineage settled");
    }
    Ok(lineage)
}

/// Decides by what is `known`, from the repository and from here; replicas that are
/// `missing` may know more.
fn choose(
    system: SystemId,
    known: &[Lineage],
    remembered: Option<Lineage>,
    asked: AskedLineage,
    missing: &[String],
) -> Result<Lineage, LineageError> {
    let wrong = |expected: SystemId| LineageError::WrongSystem {
        found: system,
        expected,
    };
    let newest = (known.iter().filter(|l| l.system == system))
        .map(|l| l.generation)
        .max();
    let other = || known.iter().find(|l| l.system != system);
    match asked.system {
        Some(wanted) if wanted != system => return Err(wrong(wanted)),
        Some(_) => {}
        // What was written last from here goes on; after that, what is in the repository.
        None => match (remembered.filter(|l| l.system != system), newest, other()) {
            (Some(last), ..) => return Err(wrong(last.system)),
            (None, None, Some(other)) => return Err(wrong(other.system)),
            (None, None, None) if !missing.is_empty() => {
                return Err(LineageError::Unlisted(missing.join(", ")));
            }
            _ => {}
        },
    }
    let generation = match (newest, asked.generation) {
        (Some(newest), Some(asked)) if asked < newest => return Err(LineageError::Over { asked, newest }),
        (_, Some(asked)) => asked.max(1),
        (newest, None) => newest.unwrap_or(1),
    };
    Ok(Lineage { system, generation })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(system: u64, generation: u32) -> Lineage {
        format!("{system}-{generation}").parse().unwrap()
    }

    fn system(n: u64) -> SystemId {
        lineage(n, 1).system
    }

    fn chosen(n: u64, known: &[Lineage], asked: AskedLineage) -> Result<Lineage, LineageError> {
        choose(system(n), known, None, asked, &[])
    }

    #[test]
    fn a_generation_goes_on_until_a_newer_is_asked_for() {
        let none = AskedLineage::default();
        let asked = |n| AskedLineage {
            generation: Some(n),
            ..none
        };
        let third = [lineage(7, 2), lineage(7, 3)];
        assert_eq!(chosen(7, &[], none).unwrap(), lineage(7, 1));
        assert_eq!(chosen(7, &third, none).unwrap(), lineage(7, 3));
        assert_eq!(chosen(7, &third, asked(4)).unwrap(), lineage(7, 4));
        assert_eq!(chosen(7, &[], asked(2)).unwrap(), lineage(7, 2));
        assert!(matches!(
            chosen(7, &third, asked(2)),
            Err(LineageError::Over { asked: 2, newest: 3 })
        ));
    }

    #[test]
    fn another_database_is_refused_until_somebody_says_that_it_replaced_the_old_one() {
        let expected = |result| match result {
            Err(LineageError::WrongSystem { expected, .. }) => expected,
            other => panic!("{other:?}"),
        };
        let (none, old) = (AskedLineage::default(), lineage(7, 2));
        assert_eq!(expected(chosen(8, &[old], none)), system(7));
        let asked = |n| AskedLineage {
            system: Some(system(n)),
            ..none
        };
        assert_eq!(chosen(8, &[old], asked(8)).unwrap(), lineage(8, 1));
        // Said for good: the old server does not come back unnoticed.
        let both = [old, lineage(8, 1)];
        assert_eq!(expected(chosen(7, &both, asked(8))), system(8));
        // Nor without a word in the configuration, where the new one was written from here.
        let back = |remembered| choose(system(7), &both, Some(remembered), none, &[]);
        assert_eq!(expected(back(lineage(8, 1))), system(8));
        assert_eq!(back(old).unwrap(), old);
    }

    #[test]
    fn what_a_missing_replica_may_know_is_waited_for() {
        let missing = ["north".to_owned()];
        let first = |known: &[Lineage]| choose(system(7), known, None, AskedLineage::default(), &missing);
        assert!(matches!(first(&[]), Err(LineageError::Unlisted(_))));
        assert_eq!(first(&[lineage(7, 1)]).unwrap(), lineage(7, 1));
    }
}
