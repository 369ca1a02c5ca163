//! Gives out the work that is due.
//!
//! Decides by [`holdfast_plan::schedule`] and writes leases into the book; the
//! agents take them with their next heartbeat. If the process dies between
//! deciding and delivering, the next start decides again.

use std::sync::Arc;

use holdfast_plan::schedule::{Act, plan};
use holdfast_proto::names::WorkId;

use crate::desk::{Desk, now};
use crate::facts;

/// Plans and enters the decisions into the book.
pub async fn run(desk: Arc<Desk>) -> Result<(), String> {
    let at = now();
    let mut state = desk.state();
    let decisions = plan(&facts::schedule(&state), &desk.policy(), &desk.patience, at);
    let mut given = false;
    for decision in decisions {
        match decision.act {
            Act::Give { agent, due, lapsed } => {
                let id = WorkId::from_parts(at, rand::random());
                tracing::info!(
                    cluster = %decision.cluster, work = ?decision.work, %agent, %id, reason = %due,
                    lapsed = lapsed.map(|id| id.to_string()), "work given out"
                );
                state.book.give(
                    (&decision.cluster, decision.work),
                    &agent,
                    id,
                    &due,
                    &desk.patience,
                    at,
                );
                desk.meters.assigned();
                given = true;
            }
            Act::Withdraw { lapsed } => {
                tracing::info!(cluster = %decision.cluster, work = ?decision.work, %lapsed, "a lease ran out, nothing is due");
                state.book.withdraw(&decision.cluster, decision.work, lapsed);
                given = true;
            }
            Act::Hold { .. } | Act::Rest { .. } => {}
        }
    }
    if given {
        desk.wake.remember.notify_one();
    }
    Ok(())
}
