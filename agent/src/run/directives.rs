//! The tier's numbers for one cluster, as they change.
//!
//! They come from the coordinator; until it is heard, from what it last said; and
//! when it was never heard, from the shipped tier of the configuration. A tier of
//! that name may exist in the coordinator's policy alone: then the numbers are
//! careful ones until it is heard.

use std::time::Duration;

use holdfast_plan::policy::Tier;
use holdfast_proto::message::Directives;
use holdfast_proto::names::{ClusterId, TierName};
use holdfast_proto::residency::Residency;
use tokio::sync::watch;

use crate::durable::LocalFileError;
use crate::state::ClusterState;
use crate::wal::LineDirectives;

/// The numbers of one cluster. Clones share them.
#[derive(Debug, Clone)]
pub struct Numbers {
    all: watch::Sender<Directives>,
    line: watch::Sender<LineDirectives>,
    state: ClusterState,
}

impl Numbers {
    /// What counts at the start. `replicas` is how many the repository has.
    pub fn load(
        cluster: &ClusterId,
        tier: &TierName,
        replicas: usize,
        state: &ClusterState,
    ) -> Result<Self, LocalFileError> {
        let kept: Option<Directives> = state.directives().load()?;
        let directives = match kept.filter(|d| d.cluster == *cluster && d.tier == *tier) {
            Some(kept) => kept,
            None => match Tier::shipped().get(tier) {
                Some(tier) => of_tier(cluster, tier),
                None => careful(cluster, tier, replicas),
            },
        };
        let line = LineDirectives::from(&directives);
        Ok(Self {
            all: watch::channel(directives).0,
            line: watch::channel(line).0,
            state: state.clone(),
        })
    }

    /// Takes up what the coordinator says.
    pub fn hear(&self, directives: Directives) -> Result<(), LocalFileError> {
        if *self.all.borrow() == directives {
            return Ok(());
        }
        tracing::info!(cluster = %directives.cluster, tier = %directives.tier, "directives taken up");
        self.state.directives().save(&directives)?;
        self.line.send_replace(LineDirectives::from(&directives));
        self.all.send_replace(directives);
        Ok(())
    }

    /// All of them, as they change.
    pub fn watch(&self) -> watch::Receiver<Directives> {
        self.all.subscribe()
    }

    /// Where the policy lets the cluster's data lie; `None` when it leaves that open.
    pub fn residency(&self) -> Option<Residency> {
        self.all.borrow().residency.clone()
    }

    /// For the WAL line.
    pub fn line(&self) -> watch::Receiver<LineDirectives> {
        self.line.subscribe()
    }

    /// Replicas before something counts.
    pub fn copies(&self) -> usize {
        usize::try_from(self.all.borrow().copies).unwrap_or(usize::MAX)
    }

    /// Time between fences.
    pub fn fence_interval(&self) -> Duration {
        Duration::from_millis(self.all.borrow().fence_interval_ms.max(1000))
    }

    /// The tier in force.
    pub fn tier(&self) -> TierName {
        self.all.borrow().tier.clone()
    }
}

fn of_tier(cluster: &ClusterId, tier: &Tier) -> Directives {
    Directives {
        cluster: cluster.clone(),
        tier: tier.name.clone(),
        tip_interval_ms: tier.tip_interval.millis(),
        copies: tier.copies_before_ack,
        fence_interval_ms: tier.fence_interval.millis(),
        attest_interval_ms: tier.attest_interval.millis(),
        residency: None,
        policy: "shipped".to_owned(),
    }
}

/// For a tier whose numbers are not known here: nothing shipped asks for more.
fn careful(cluster: &ClusterId, tier: &TierName, replicas: usize) -> Directives {
    Directives {
        cluster: cluster.clone(),
        tier: tier.clone(),
        tip_interval_ms: 5_000,
        copies: u32::try_from(replicas.min(2)).unwrap_or(1),
        fence_interval_ms: 60_000,
        attest_interval_ms: 10_000,
        residency: None,
        policy: "unknown".to_owned(),
    }
}
