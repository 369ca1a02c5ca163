//! What was asked of a replica, by cluster.
//!
//! Counted where the requests are made, by the key or prefix that they are about: so it
//! holds for whatever this process does for a cluster. What belongs to no cluster (trust,
//! the evidence log) is counted nowhere. It begins anew with the process.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use holdfast_proto::Timestamp;
use holdfast_proto::message::Requests;
use holdfast_proto::names::ClusterId;

use crate::{clock, layout};

/// Names in a page of a listing.
pub(crate) const PAGE: u64 = 1000;

/// The requests to one replica.
#[derive(Debug)]
pub struct Tally {
    since: Timestamp,
    counted: Mutex<BTreeMap<ClusterId, Requests>>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            since: clock::now(),
            counted: Mutex::default(),
        }
    }
}

impl Tally {
    /// When it began to count.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// Counts what `note` adds for the cluster that `key`, an object's or a prefix, is of.
    pub(crate) fn count(&self, key: &str, note: impl FnOnce(&mut Requests)) {
        let Some(cluster) = layout::cluster_of(key) else {
            return;
        };
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        note(counted.entry(cluster).or_default());
    }

    /// What was asked for a cluster.
    pub fn of(&self, cluster: &ClusterId) -> Requests {
        let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.get(cluster).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_its_clusters() {
        let tally = Tally::default();
        tally.count("tenants/acme/clusters/erp/leases/1", |r| r.writes += 1);
        tally.count("tenants/acme/clusters/erp/", |r| r.lists += 2);
        tally.count("trust/1", |r| r.reads += 1);
        tally.count("tenants/acme/", |r| r.lists += 1);
        let erp = tally.of(&"acme/erp".parse().unwrap());
        assert_eq!((erp.writes, erp.reads, erp.lists), (1, 0, 2));
        assert_eq!(tally.of(&"acme/crm".parse().unwrap()), Requests::default());
    }
}
