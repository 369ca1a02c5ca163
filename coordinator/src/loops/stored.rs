//! Counts what lies in the stores, cluster by cluster, so that it can be said what is
//! paid for.
//!
//! A count reads the whole listing of a cluster, as it comes, once a day, and again after
//! ten minutes where a region could not be listed. Nothing depends on it but what people are shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_proto::Timestamp;
use holdfast_proto::names::{ClusterId, Region};
use holdfast_repository::layout::{self, Located};

use crate::desk::{Desk, State, now};

/// Between two counts of a cluster.
const EVERY_MS: i64 = 86_400_000;

/// After one that could not list every region.
const AGAIN_MS: i64 = 600_000;

/// Objects and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Amount {
    /// Adds an object.
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            objects: self.objects + other.objects,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// What lies in one region of a cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lying {
    /// WAL.
    pub wal: Amount,
    /// Packs: what base backups, filestores and settings are made of.
    pub packs: Amount,
    /// Everything that says what the rest is.
    pub records: Amount,
}

impl Lying {
    /// All of it.
    pub fn all(self) -> Amount {
        self.wal.plus(self.packs).plus(self.records)
    }
}

/// A count of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// When it was counted.
    pub at: Timestamp,
    /// What lies in each region that could be listed.
    pub regions: BTreeMap<Region, Lying>,
    /// Regions that could not be listed to the end, and why.
    pub unlisted: BTreeMap<Region, String>,
}

/// Counts the cluster whose turn it is.
pub async fn run(desk: Arc<Desk>) -> Result<(), String> {
    let at = now();
    let Some(cluster) = next(&desk, at) else {
        return Ok(());
    };
    let stored = count(&desk, &cluster, at).await;
    let more = {
        let mut state = desk.state();
        state.stored.insert(cluster, stored);
        let State { stored, surveys, .. } = &mut *state;
        // Of a cluster that is not looked at any more nothing is said.
        stored.retain(|cluster, _| surveys.contains_key(cluster));
        surveys.keys().any(|cluster| !stored.contains_key(cluster))
    };
    if more {
        desk.wake.stored.notify_one();
    }
    Ok(())
}

impl Stored {
    /// When the cluster is to be counted again.
    fn again(&self) -> Timestamp {
        let after = if self.unlisted.is_empty() {
            EVERY_MS
        } else {
            AGAIN_MS
        };
        self.at.plus_millis(after)
    }
}

/// The cluster whose count is due for longest; one that was never counted goes first.
fn next(desk: &Desk, at: Timestamp) -> Option<ClusterId> {
    let state = desk.state();
    let again = |cluster: &&ClusterId| state.stored.get(*cluster).map(Stored::again);
    let cluster = state.surveys.keys().min_by_key(again)?;
    again(&cluster)
        .is_none_or(|again| again <= at)
        .then(|| cluster.clone())
}

async fn count(desk: &Desk, cluster: &ClusterId, at: Timestamp) -> Stored {
    let mut stored = Stored {
        at,
        regions: BTreeMap::new(),
        unlisted: BTreeMap::new(),
    };
    let mut listing = desk.repository.list_stream(&layout::cluster(cluster));
    while let Some((key, standing)) = listing.next().await {
        let located = layout::parse(key.as_str());
        for on in standing {
            let lying = stored.regions.entry(on.region).or_default();
            let amount = match &located {
                Some(Located::Wal { .. }) => &mut lying.wal,
                Some(Located::Pack { .. }) => &mut lying.packs,
                _ => &mut lying.records,
            };
            amount.add(on.size);
        }
    }
    for (region, error) in listing.unlisted() {
        // Part of it was seen, and a part is no sum.
        stored.regions.remove(region);
        stored.unlisted.insert(region.clone(), error.explained());
    }
    stored
}
