//! Says what stands out to those who are to hear of it.

use std::sync::Arc;

use futures::future::join_all;

use crate::alerts::{self, Sender};
use crate::desk::{Desk, State, now};

/// Sends what is due along every route.
pub async fn run(sender: Sender, desk: Arc<Desk>) -> Result<(), String> {
    if !desk.lead.speaks(&desk.config.name) {
        return Ok(());
    }
    let policy = desk.policy();
    let posts = {
        let mut state = desk.state();
        let State { alerts, standing, .. } = &mut *state;
        alerts::collect(alerts, &policy, standing.all(), now())
    };
    if posts.is_empty() {
        return Ok(());
    }
    let outcomes = join_all(posts.iter().map(|post| sender.send(post, now()))).await;
    let mut more = false;
    for (post, outcome) in posts.iter().zip(outcomes) {
        desk.meters.posted(post.route(), outcome.is_ok());
        more |= alerts::note(&mut desk.state().alerts, post, outcome, now());
    }
    desk.wake.remember.notify_one();
    desk.wake.findings.notify_one();
    if more {
        desk.wake.alerts.notify_one();
    }
    Ok(())
}
