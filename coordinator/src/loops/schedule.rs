//! Gives out the work that is due.
//!
//! Decides by [`holdfast_plan::schedule`] and writes leases into the book; the
//! agents take them with their next heartbeat. If the process dies between
//! deciding and delivering, the next start decides again.

use std::sync::Arc;

use holdfast_plan::schedule::{Act, ClusterFacts, Decision, plan};
use holdfast_proto::Timestamp;
use holdfast_proto::names::WorkId;

use crate::desk::{Desk, State, now};
use crate::facts;

/// Plans and enters the decisions into the book.
pub async fn run(desk: Arc<Desk>) -> Result<(), String> {
    let at = now();
    let mut state = desk.state();
    let facts = facts::schedule(&state, &desk.places, at);
    if decide(&mut state, &desk, &facts, at, &mut rand::random).1 {
        desk.wake.remember.notify_one();
    }
    Ok(())
}

/// Plans from `facts` at a moment and enters the decisions into the book; the
/// decisions, and whether they changed it. `random` makes identities unique.
pub fn decide(
    state: &mut State,
    desk: &Desk,
    facts: &[ClusterFacts],
    at: Timestamp,
    random: &mut dyn FnMut() -> u128,
) -> (Vec<Decision>, bool) {
    let decisions = plan(facts, &desk.policy(), &desk.patience, at);
    let mut given = false;
    for decision in &decisions {
        match &decision.act {
            Act::Give { agent, due, lapsed } => {
                let id = WorkId::from_parts(at, random());
                tracing::info!(
                    cluster = %decision.cluster, work = ?decision.work, %agent, %id, reason = %due,
                    lapsed = lapsed.map(|id| id.to_string()), "work given out"
                );
                state.book.give(
                    (&decision.cluster, decision.work),
                    agent,
                    id,
                    due,
                    &desk.patience,
                    at,
                );
                desk.meters.assigned();
                given = true;
            }
            Act::Withdraw { lapsed } => {
                tracing::info!(cluster = %decision.cluster, work = ?decision.work, %lapsed, "a lease ran out, nothing is due");
                state.book.withdraw(&decision.cluster, decision.work, *lapsed);
                given = true;
            }
            Act::Hold { .. } | Act::Rest { .. } => {}
        }
    }
    (decisions, given)
}
