//! What recoveries of a cluster took, as the log says it: drills and real restores, of
//! which a runner that is believed has signed the statement.

use holdfast_plan::rto::{Learnt, Recovery, Took};
use holdfast_proto::names::ClusterId;

use crate::evidence::entry::{Entry, LoggedEntry};
use crate::evidence::statement::recovery::Phase;
use crate::evidence::statement::{DrillKind, Statement};
use crate::log::{DrillLog, LogError};

/// The newest entries that are looked at.
const LOOKED_AT: u64 = 2_000;

/// What a recovery took, where enough of it was measured. A real restore says no total:
/// it ends before the server starts.
pub fn recovery(statement: &Statement) -> Option<Recovery> {
    let predicate = &statement.predicate;
    let phases = &predicate.timings.phases;
    let took = |wanted: Phase| {
        let phase = phases.iter().find(|phase| phase.phase == wanted)?;
        Some(Took {
            ms: phase.end.millis_since(phase.start),
            bytes: phase.bytes?,
            items: phase.items.unwrap_or(0),
        })
    };
    let total_ms = predicate.results.rto.as_ref().map(|rto| rto.actual_ms);
    // A drill whose copy never took connections is no recovery.
    if total_ms.is_none() && predicate.drill.kind != DrillKind::RealRestore {
        return None;
    }
    Some(Recovery {
        at: phases.iter().map(|phase| phase.end).max()?,
        base: Some(took(Phase::BaseFetch)?),
        files: took(Phase::FilestoreRestore),
        replay: took(Phase::WalReplay),
        total_ms,
    })
}

/// What the newest recoveries of `cluster` taught.
///
/// # Errors
/// The log cannot be read.
pub async fn learnt(log: &DrillLog, cluster: &ClusterId) -> Result<Learnt, LogError> {
    let size = log.store().size().await?;
    let entries = log.store().entries(size.saturating_sub(LOOKED_AT), size).await?;
    let recoveries: Vec<Recovery> = entries
        .iter()
        // Another version's entry teaches nothing, and is no reason to refuse a plan.
        .filter_map(|bytes| LoggedEntry::parse(bytes).ok())
        .filter(|entry| entry.cluster().as_ref() == Some(cluster) && log.believe(entry).is_ok())
        .filter_map(|entry| match &entry.entry {
            Entry::Result(statement) => recovery(statement),
            _ => None,
        })
        .collect();
    Ok(Learnt::from(&recoveries))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::fixture::statement;

    #[test]
    fn a_statement_says_what_each_step_took() {
        let mut statement = statement();
        for phase in &mut statement.predicate.timings.phases {
            phase.bytes = Some(1_000_000);
        }
        let recovery = recovery(&statement).expect("a recovery");
        let phases = &statement.predicate.timings.phases;
        let base = phases.iter().find(|p| p.phase == Phase::BaseFetch).unwrap();
        let took = recovery.base.unwrap();
        assert_eq!(took.ms, base.end.millis_since(base.start));
        assert_eq!(Some(took.bytes), base.bytes);
        let mut unmeasured = statement;
        unmeasured.predicate.results.rto = None;
        assert_eq!(super::recovery(&unmeasured), None);
        // A real restore has written files and seen no server.
        let phases = &mut unmeasured.predicate.timings.phases;
        phases.retain(|p| matches!(p.phase, Phase::BaseFetch | Phase::FilestoreRestore));
        unmeasured.predicate.drill.kind = DrillKind::RealRestore;
        let restored = super::recovery(&unmeasured).expect("a recovery");
        assert_eq!((restored.base, restored.files), (recovery.base, recovery.files));
        assert_eq!((restored.replay, restored.total_ms), (None, None));
    }
}
