//! Publishing: many packs, then one commit point, replica by replica.
//!
//! | step | what is on a replica afterwards |
//! |---|---|
//! | begin | what the publication builds on: trust records, key objects, earlier commit points |
//! | put | packs, indexes, catalogues, in any order, several at once |
//! | commit | the commit point, only if every step before succeeded *there* |
//!
//! A replica on which a step fails is *behind* for the rest of this publication
//! and is not tried again: one dead region costs one deadline. The publication
//! goes on while as many replicas as the tier wants copies keep up, and ends
//! with a [`PublishError::TooFew`] when they do not. What a replica that is
//! behind lacks, replication brings later.
//!
//! If the process dies before the commit, no reader sees anything of it; the
//! packs are reclaimed later. If it dies during the commit, some replicas hold
//! a valid commit point and all that it needs: readers may use it, and
//! replication completes the others. An error of `commit` therefore says where
//! the commit point may stand.
//!
//! Memory: the bytes of all puts under way are bounded; further puts wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::future::join_all;
use holdfast_proto::envelope::{Link, Record};
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::manifest::{PackRef, Part, StoredObject};
use holdfast_proto::names::{ObjectKey, Region};
use holdfast_proto::{Fingerprint, Sha256Digest};
use tokio::sync::Semaphore;

use crate::manifest::SealedPart;
use crate::pack::SealedPack;
use crate::publisher::Publisher;
use crate::replica::{Class, Replica, StoreError, explained};
use crate::signed::SignedObject;
use crate::{clock, layout};

/// Bytes that may be under way at once, unless said otherwise.
pub const IN_FLIGHT: usize = 64 << 20;

/// A publication that cannot be completed.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Too few replicas keep up.
    #[error(
        "{complete} of {copies} needed replicas keep up ({}): bring a replica back, then try again",
        reasons(.behind)
    )]
    TooFew {
        /// How many still do.
        complete: usize,
        /// How many are needed.
        copies: usize,
        /// The others, and why.
        behind: Vec<(Region, String)>,
    },
    /// The commit point reached too few replicas, but some.
    #[error(
        "{key} is committed on {} only, {copies} replicas are needed ({}): what it holds can be restored from there; \
         replication completes it when the others are back",
        regions(.landed),
        reasons(.behind)
    )]
    PartlyCommitted {
        /// The commit point.
        key: ObjectKey,
        /// Where it stands.
        landed: Vec<Region>,
        /// How many were needed.
        copies: usize,
        /// The others, and why.
        behind: Vec<(Region, String)>,
    },
    /// Something else stands at the commit point's key.
    #[error(
        "another writer has already committed {key} on {region}: two agents write for this cluster, stop one of them"
    )]
    Conflict {
        /// The commit point.
        key: ObjectKey,
        /// Where.
        region: Region,
    },
}

fn reasons(behind: &[(Region, String)]) -> String {
    if behind.is_empty() {
        return "no others are configured".to_owned();
    }
    behind
        .iter()
        .map(|(region, why)| format!("{region}: {why}"))
        .collect::<Vec<_>>()
        .join("; ")
}

fn regions(landed: &[Region]) -> String {
    landed.iter().map(Region::as_str).collect::<Vec<_>>().join(", ")
}

/// A commit point that counts.
#[derive(Debug, Clone)]
pub struct Committed {
    /// How other objects refer to it.
    pub link: Link,
    /// The replicas that hold it with all that it needs.
    pub complete_on: Vec<Region>,
    /// `replica-behind` for each of the others.
    pub findings: Vec<Finding>,
}

/// One publication. Cheap to clone; clones share everything.
#[derive(Debug, Clone)]
pub struct Publication {
    publisher: Publisher,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    behind: Mutex<BTreeMap<Region, String>>,
    room: Semaphore,
    capacity: usize,
    stored: Mutex<u64>,
}

impl Publication {
    /// Begins a publication that needs `needs` on each replica: trust records,
    /// the key objects of what it seals, and the commit points whose packs it
    /// may reference.
    pub async fn begin(publisher: &Publisher, needs: &[Link]) -> Result<Self, PublishError> {
        Self::with_capacity(publisher, needs, IN_FLIGHT).await
    }

    /// As [`Publication::begin`], with at most `capacity` bytes under way.
    pub async fn with_capacity(
        publisher: &Publisher,
        needs: &[Link],
        capacity: usize,
    ) -> Result<Self, PublishError> {
        let capacity = capacity.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let publication = Self {
            publisher: publisher.clone(),
            shared: Arc::new(Shared {
                behind: Mutex::new(BTreeMap::new()),
                room: Semaphore::new(capacity),
                capacity,
                stored: Mutex::new(0),
            }),
        };
        let replicas = publisher.repository.replicas();
        let prepared = join_all(replicas.iter().map(|r| publisher.prepare(r, needs))).await;
        for (replica, outcome) in replicas.iter().zip(prepared) {
            if let Err(why) = outcome {
                publication.fall_behind(replica, why);
            }
        }
        publication.enough()?;
        Ok(publication)
    }

    /// Its publisher.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    fn fall_behind(&self, replica: &Replica, why: String) {
        tracing::info!(region = %replica.region(), err = %why, "replica falls behind in this publication");
        let mut behind = self.shared.behind.lock().unwrap_or_else(PoisonError::into_inner);
        behind.entry(replica.region().clone()).or_insert(why);
    }

    fn keeping_up(&self) -> Vec<&Replica> {
        let behind = self.shared.behind.lock().unwrap_or_else(PoisonError::into_inner);
        self.publisher
            .repository
            .replicas()
            .iter()
            .filter(|r| !behind.contains_key(r.region()))
            .collect()
    }

    /// Replicas that hold everything so far.
    pub fn complete_on(&self) -> Vec<Region> {
        self.keeping_up()
            .into_iter()
            .map(|r| r.region().clone())
            .collect()
    }

    /// The others, and why.
    pub fn behind(&self) -> Vec<(Region, String)> {
        let behind = self.shared.behind.lock().unwrap_or_else(PoisonError::into_inner);
        behind.iter().map(|(r, why)| (r.clone(), why.clone())).collect()
    }

    /// Bytes stored so far, counted once whatever the number of replicas.
    pub fn stored(&self) -> u64 {
        *self.shared.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enough(&self) -> Result<(), PublishError> {
        let (complete, copies) = (self.keeping_up().len(), self.publisher.copies);
        if complete >= copies.max(1) {
            return Ok(());
        }
        Err(PublishError::TooFew {
            complete,
            copies,
            behind: self.behind(),
        })
    }

    /// Stores an object on every replica that keeps up. Waits while too many
    /// bytes are under way.
    pub async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), PublishError> {
        let size = bytes.len();
        let permits =
            u32::try_from(size.clamp(1, self.shared.capacity)).expect("the capacity fits into 32 bits");
        let _room = self
            .shared
            .room
            .acquire_many(permits)
            .await
            .expect("the semaphore is never closed");
        let keeping_up = self.keeping_up();
        let outcomes = join_all(keeping_up.iter().map(|r| r.create(key, bytes.clone()))).await;
        for (replica, outcome) in keeping_up.iter().zip(outcomes) {
            if let Err(error) = outcome {
                self.fall_behind(replica, explained(&error));
            }
        }
        *self.shared.stored.lock().unwrap_or_else(PoisonError::into_inner) += size as u64;
        self.enough()
    }

    /// Stores a pack.
    pub async fn put_pack(&self, pack: &SealedPack) -> Result<PackRef, PublishError> {
        self.put(
            &layout::pack(&self.publisher.cluster, &pack.sha256),
            pack.bytes.clone(),
        )
        .await?;
        Ok(pack.known().pack)
    }

    /// Stores a clear index.
    pub async fn put_index(&self, index: Bytes) -> Result<StoredObject, PublishError> {
        let stored = StoredObject {
            sha256: Sha256Digest::of(&index),
            size: index.len() as u64,
        };
        self.put(&layout::index(&self.publisher.cluster, &stored.sha256), index)
            .await?;
        Ok(stored)
    }

    /// Stores both halves of a part.
    pub async fn put_part(&self, sealed: SealedPart) -> Result<Part, PublishError> {
        let cluster = &self.publisher.cluster;
        self.put(
            &layout::pack(cluster, &sealed.part.catalogue.sha256),
            sealed.catalogue,
        )
        .await?;
        self.put(&layout::index(cluster, &sealed.part.index.sha256), sealed.index)
            .await?;
        Ok(sealed.part)
    }

    /// Signs the commit point and stores it on every replica that holds all that
    /// was put. All puts must have returned before.
    pub async fn commit<B: Record + Clone>(
        &self,
        key: &ObjectKey,
        payload: &[u8],
        sealed_to: Option<Fingerprint>,
        previous: Option<Link>,
        body: &B,
    ) -> Result<Committed, PublishError> {
        self.enough()?;
        let SignedObject { bytes, sha256 } = self.publisher.sign(key, payload, sealed_to, previous, body);
        let link = Link {
            key: key.clone(),
            sha256,
        };
        let keeping_up = self.keeping_up();
        let outcomes = join_all(keeping_up.iter().map(|r| r.create(key, bytes.clone()))).await;
        let mut landed = Vec::new();
        let mut conflict = None;
        for (replica, outcome) in keeping_up.iter().zip(outcomes) {
            match outcome {
                Ok(_) => landed.push(replica.region().clone()),
                Err(error) => {
                    if error.class() == Class::Conflict {
                        conflict = Some(replica.region().clone());
                    }
                    self.fall_behind(replica, uncertainty(&error));
                }
            }
        }
        if let Some(region) = conflict {
            return Err(PublishError::Conflict {
                key: key.clone(),
                region,
            });
        }
        let (copies, behind) = (self.publisher.copies, self.behind());
        if landed.len() < copies.max(1) {
            return Err(if landed.is_empty() {
                PublishError::TooFew {
                    complete: 0,
                    copies,
                    behind,
                }
            } else {
                PublishError::PartlyCommitted {
                    key: key.clone(),
                    landed,
                    copies,
                    behind,
                }
            });
        }
        Ok(Committed {
            findings: behind_findings(key, &behind),
            link,
            complete_on: landed,
        })
    }
}

fn uncertainty(error: &StoreError) -> String {
    let mut why = explained(error);
    if error.may_have_happened() {
        why.push_str(" (the commit point may stand there)");
    }
    why
}

/// A finding for each replica that does not hold what `key` commits.
fn behind_findings(key: &ObjectKey, behind: &[(Region, String)]) -> Vec<Finding> {
    behind
        .iter()
        .map(|(region, why)| Finding {
            name: "replica-behind".to_owned(),
            subject: region.to_string(),
            severity: Severity::Warning,
            detail: format!(
                "Replica {region} does not hold all of {key} ({why}). Replication completes it; until then it cannot be \
                 restored from {region} alone."
            ),
            since: clock::now(),
        })
        .collect()
}
