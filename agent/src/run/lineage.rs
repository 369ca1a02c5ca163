//! Finds the line of descent that a cluster's backups belong to.
//!
//! A lineage is the server's system identifier and a generation. The highest
//! generation of that system identifier in the repository (or remembered here) goes
//! on; the first is 1. A cluster that was restored or rolled back writes another
//! future under the same identifier: the WAL line refuses it, and the operator
//! begins a new generation (`generation` in the configuration).

use holdfast_proto::names::{Lineage, SystemId};
use holdfast_repository::layout;
use holdfast_repository::listing::ListError;
use holdfast_repository::publisher::Publisher;

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
pub async fn settle(
    publisher: &Publisher,
    system: SystemId,
    asked: Option<u32>,
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
    let newest = listed
        .chain(remembered)
        .filter(|l| l.system == system)
        .map(|l| l.generation)
        .max();
    let generation = choose(newest, asked)?;
    let lineage = Lineage { system, generation };
    if remembered != Some(lineage) {
        state.lineage().save(&lineage)?;
        tracing::info!(lineage = %lineage, "lineage settled");
    }
    Ok(lineage)
}

fn choose(newest: Option<u32>, asked: Option<u32>) -> Result<u32, LineageError> {
    match (newest, asked) {
        (Some(newest), Some(asked)) if asked < newest => Err(LineageError::Over { asked, newest }),
        (_, Some(asked)) => Ok(asked.max(1)),
        (newest, None) => Ok(newest.unwrap_or(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_goes_on_until_a_newer_is_asked_for() {
        assert_eq!(choose(None, None).unwrap(), 1);
        assert_eq!(choose(Some(3), None).unwrap(), 3);
        assert_eq!(choose(Some(3), Some(4)).unwrap(), 4);
        assert_eq!(choose(None, Some(2)).unwrap(), 2);
        assert!(matches!(
            choose(Some(3), Some(2)),
            Err(LineageError::Over { asked: 2, newest: 3 })
        ));
    }
}
