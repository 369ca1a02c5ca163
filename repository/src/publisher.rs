//! What a writer writes with: repository, cluster, signing key, lease, copies.
//!
//! Everything an agent puts into a repository is signed here, and goes to a
//! replica only when what it needs is there. What a *publication* of many packs
//! and one commit point does is in [`crate::publication`]; single signed objects
//! (WAL, attestations, leases) are signed here and created by their owners.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_proto::envelope::{Link, Record};
use holdfast_proto::names::{ClusterId, ObjectKey};
use holdfast_proto::{Fingerprint, Sha256Digest};

use crate::Repository;
use crate::layout::{self, Located};
use crate::replica::{Replica, explained};
use crate::signed::{Content, Draft, SignedObject};
use crate::signing::SigningKey;

/// The writing side of one cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Publisher {
    /// Where to.
    pub repository: Repository,
    /// Which cluster.
    pub cluster: ClusterId,
    /// In whose name.
    pub signer: Arc<SigningKey>,
    /// Number of the writer's lease, which is in all that it signs.
    pub lease: Option<u64>,
    /// On how many replicas something must be before it counts.
    pub copies: usize,
}

impl Publisher {
    /// Signs an object.
    pub fn sign<B: Record + Clone>(
        &self,
        key: &ObjectKey,
        payload: impl Into<Content>,
        sealed_to: Option<Fingerprint>,
        previous: Option<Link>,
        body: &B,
    ) -> SignedObject {
        let draft = Draft {
            repository: self.repository.id(),
            key: key.clone(),
            payload: payload.into(),
            sealed_to,
            lease: self.lease,
            previous,
            body,
        };
        draft.sign(&self.signer)
    }

    /// Sees to it that `replica` holds `needs`, before something that needs them
    /// goes there. Epoch keys and trust records that are missing are copied
    /// from other replicas. A commit point that is missing is not: what it
    /// needs would have to come first, which is replication's work, and until
    /// then the replica is behind.
    pub async fn prepare(&self, replica: &Replica, needs: &[Link]) -> Result<(), String> {
        for need in needs {
            let there = replica.head(&need.key).await.map_err(|e| explained(&e))?;
            if there.is_some() {
                continue;
            }
            match layout::parse(need.key.as_str()) {
                Some(Located::Key { .. } | Located::Trust { .. } | Located::Authority { .. }) => {}
                _ => {
                    return Err(format!(
                        "it lacks {}, on which this builds; replication brings it",
                        need.key
                    ));
                }
            }
            let same = |bytes: &Bytes| match Sha256Digest::of(bytes) {
                found if found == need.sha256 => Ok(()),
                found => Err(format!("its SHA-256 is {found}")),
            };
            let good = self
                .repository
                .find(&need.key, same)
                .await
                .map_err(|e| e.to_string())?;
            replica
                .create(&need.key, good.bytes)
                .await
                .map_err(|e| explained(&e))?;
        }
        Ok(())
    }
}
