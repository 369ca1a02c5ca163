//! Looks at what the repository holds, so that exposures can be measured.
//!
//! Each cluster is looked at in the rhythm of its tier: a fifth of its recovery
//! point objective, between one second and half a minute. Clusters are looked
//! at side by side, a few at a time. A look that was interrupted is made again.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use holdfast_proto::Timestamp;
use holdfast_proto::names::{ClusterId, ClusterName, TenantName};
use holdfast_repository::layout;
use tokio::sync::Mutex;

use crate::desk::{Desk, now};
use crate::facts;
use crate::survey::{Survey, Surveyor};

/// Clusters that are looked at at once.
const AT_ONCE: usize = 8;

/// Between looks for clusters that nobody named.
const STRANGERS_EVERY_MS: u64 = 300_000;

/// The surveyors, and when each is to look again. One run has them at a time.
#[derive(Debug, Clone, Default)]
pub struct Surveyors(Arc<Mutex<Posts>>);

#[derive(Debug, Default)]
struct Posts {
    posts: BTreeMap<ClusterId, Post>,
    strangers: Option<Timestamp>,
}

#[derive(Debug)]
struct Post {
    surveyor: Surveyor,
    next: Timestamp,
}

/// How often a cluster is looked at, in milliseconds.
fn rhythm(cluster: &ClusterId, desk: &Desk) -> i64 {
    let (policy, open) = desk.governing.policy_at(now());
    let rpo = policy
        .in_force_within(cluster, &open)
        .map_or(60_000, |in_force| in_force.rpo.signed_millis());
    (rpo / 5).clamp(1_000, 30_000)
}

/// Looks at every cluster whose time has come.
pub async fn run(surveyors: Surveyors, desk: Arc<Desk>) -> Result<(), String> {
    if desk.trust().is_none() {
        // Said by the trust loop; nothing can be verified yet.
        return Ok(());
    }
    let mut posts = surveyors.0.lock().await;
    let at = now();
    let mut problems = Vec::new();
    if posts
        .strangers
        .is_none_or(|seen| at.millis_since(seen) >= STRANGERS_EVERY_MS)
    {
        posts.strangers = Some(at);
        problems.extend(strangers(&desk).await.err());
    }
    let (wanted, changed) = {
        let state = desk.state();
        (
            facts::clusters(&state, &desk.policy()),
            facts::to_be_listed(&state),
        )
    };
    posts.posts.retain(|cluster, _| wanted.contains(cluster));
    for cluster in wanted {
        posts.posts.entry(cluster.clone()).or_insert_with(|| Post {
            surveyor: Surveyor::new(cluster),
            next: at,
        });
    }
    // A surveyor that is dropped in the middle of a look is made anew.
    let all = std::mem::take(&mut posts.posts);
    let mut due = Vec::new();
    for (cluster, post) in all {
        let far = changed.contains(&cluster);
        if far || post.next <= at {
            due.push((cluster, post, far));
        } else {
            posts.posts.insert(cluster, post);
        }
    }
    let looks = due
        .into_iter()
        .map(|(cluster, post, far)| look(Arc::clone(&desk), cluster, post, far));
    let mut looks = futures::stream::iter(looks).buffer_unordered(AT_ONCE);
    while let Some((cluster, post, seen)) = looks.next().await {
        match seen {
            Ok(survey) => {
                if survey.behind.is_some() {
                    desk.wake.replicate.notify_one();
                }
                desk.state().surveys.insert(cluster.clone(), survey);
            }
            Err(why) => problems.push(format!("{cluster}: {why}")),
        }
        posts.posts.insert(cluster, post);
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems.join("; "))
    }
}

async fn look(
    desk: Arc<Desk>,
    cluster: ClusterId,
    mut post: Post,
    far: bool,
) -> (ClusterId, Post, Result<Survey, String>) {
    let seen = post.surveyor.look(&desk, far).await;
    post.next = now().plus_millis(rhythm(&cluster, &desk));
    (cluster, post, seen)
}

/// Finds clusters in the repository that the policy does not name.
async fn strangers(desk: &Desk) -> Result<(), String> {
    let tenants = desk
        .repository
        .children(&layout::clusters())
        .await
        .map_err(|e| e.to_string())?;
    let policy = desk.policy();
    let mut found = BTreeMap::new();
    for tenant in tenants
        .names
        .iter()
        .filter_map(|name| name.parse::<TenantName>().ok())
    {
        let clusters = desk
            .repository
            .children(&layout::clusters_of(&tenant))
            .await
            .map_err(|e| e.to_string())?;
        for cluster in clusters
            .names
            .iter()
            .filter_map(|name| name.parse::<ClusterName>().ok())
        {
            let id = ClusterId {
                tenant: tenant.clone(),
                cluster,
            };
            if policy.cluster(&id).is_none() {
                found.insert(id, now());
            }
        }
    }
    let mut state = desk.state();
    for (id, since) in &mut found {
        *since = state.strangers.get(id).copied().unwrap_or(*since);
    }
    state.strangers = found;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_repository::layout::Located;

    #[test]
    fn the_prefix_of_a_tenants_clusters_is_that_of_the_layout() {
        let id: ClusterId = "acme/erp".parse().unwrap();
        let lease = layout::lease(&id, 1);
        assert!(lease.as_str().starts_with(&layout::clusters_of(&id.tenant)));
        assert!(
            matches!(layout::parse(lease.as_str()), Some(Located::Lease { cluster, .. }) if cluster == id)
        );
    }
}
