//! Becomes the writer of a cluster.
//!
//! Leases are numbered objects that are created once; the highest number is the
//! writer, and it stays the writer until there is a higher one. An agent knows its
//! own lease again by the nonce in its state directory. A lease that another name
//! holds is not taken unless the configuration says whose (`take_over`), or it is a
//! peer's and our server was promoted since: two agents that outbid each other would
//! both write.
//!
//! A lease counts when the [authority](holdfast_repository::authority) has it. That one
//! replica decides who was first; the others are given copies, and one that is away
//! delays nothing. While the authority itself is away no lease is taken, and the one that
//! is held goes on. Each record of the authority has a range of numbers of its own, so
//! that leases under a later one are above all that an authority which was lost may
//! still show when it comes back.
//!
//! | highest lease | what happens |
//! |---|---|
//! | none | number 1 is taken |
//! | ours, same nonce | it goes on |
//! | our name, other nonce | the next number: the state directory was lost, or somebody runs a second agent under our name and is fenced |
//! | another name | refused, or the next number when it may be replaced |
//!
//! If the process dies after creating the object and before remembering it, the
//! next start finds its own name with a nonce it does not know and takes the next
//! number.

use bytes::Bytes;
use futures::future::join_all;
use holdfast_proto::Timestamp;
use holdfast_proto::names::{ActorName, ObjectKey, Region};
use holdfast_proto::record::LeaseBody;
use holdfast_repository::Repository;
use holdfast_repository::authority::{Authority, AuthorityError};
use holdfast_repository::layout::{self, Located};
use holdfast_repository::lead;
use holdfast_repository::listing::ListError;
use holdfast_repository::publisher::Publisher;
use holdfast_repository::replica::{Class, StoreError, explained};
use holdfast_repository::signed::{Content, ReadError};
use holdfast_repository::trust::Trust;
use serde::{Deserialize, Serialize};

use crate::durable::LocalFileError;
use crate::state::ClusterState;

/// A lease that was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another agent is the writer.
    #[error(
        "agent {holder} is the writer of this cluster (lease {n}, taken {taken}): stop it; if it is gone for good, \
         write take_over = \"{holder}\" in this cluster's section"
    )]
    Held {
        /// Who.
        holder: ActorName,
        /// Its lease.
        n: u64,
        /// Since when.
        taken: Timestamp,
    },
    /// Another agent was faster.
    #[error("another agent is taking the lease at this moment: only one of them should run")]
    Raced,
    /// The replica that decides does not take it.
    #[error(
        "region {region} decides who writes, and the lease could not be put there ({}): bring it back; if it is \
         gone for good, `holdfast repo authority --region REGION` lets another one decide",
        explained(.source)
    )]
    AuthorityAway {
        /// Which.
        region: Region,
        /// Why not.
        source: StoreError,
    },
    /// Which replica decides is not known.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The leases cannot be listed.
    #[error(transparent)]
    List(#[from] ListError),
    /// The highest lease cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The lease cannot be remembered.
    #[error(transparent)]
    Local(#[from] LocalFileError),
}

/// What the agent remembers of its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    n: u64,
    nonce: String,
}

/// Takes the lease, or goes on with the one held. Returns its number.
/// `may_replace` says of another holder whether its lease may be taken.
pub async fn take(
    publisher: &Publisher,
    trust: &Trust,
    name: &ActorName,
    may_replace: impl Fn(&ActorName) -> bool,
    state: &ClusterState,
) -> Result<u64, LeaseError> {
    let listing = publisher
        .repository
        .list(&layout::leases(&publisher.cluster))
        .await?;
    let highest = (listing.keys())
        .filter_map(|key| match layout::parse(key.as_str()) {
            Some(Located::Lease { n, .. }) => Some((n, key.clone())),
            _ => None,
        })
        .max();
    let remembered: Option<Remembered> = state.lease().load()?;
    let mut previous = None;
    let mut next = 1;
    if let Some((n, key)) = highest {
        let (lease, _) = publisher.repository.read_signed::<LeaseBody>(&key, trust).await?;
        let body = lease.body();
        if remembered
            .as_ref()
            .is_some_and(|own| own.n == n && own.nonce == body.nonce)
        {
            return Ok(n);
        }
        if body.holder != *name && !may_replace(&body.holder) {
            return Err(LeaseError::Held {
                holder: body.holder.clone(),
                n,
                taken: body.taken,
            });
        }
        previous = Some(lease.link());
        next = n + 1;
    }
    let authority = Authority::load(&publisher.repository, trust).await?;
    // A replica that could not be listed may hold the lease we remember.
    if let Some(own) = &remembered {
        next = next.max(own.n + 1);
    }
    next = next.max(lead::first_of(authority.n) + 1);
    let body = LeaseBody {
        n: next,
        holder: name.clone(),
        nonce: format!("{:032x}", rand::random::<u128>()),
        taken: Timestamp::from_chrono(chrono::Utc::now()),
    };
    let key = layout::lease(&publisher.cluster, next);
    let holding = Publisher {
        lease: Some(next),
        ..publisher.clone()
    };
    let bytes = holding
        .sign(&key, Content::default(), None, previous, &body)
        .bytes;
    let deciding = authority.replica(&publisher.repository)?;
    match deciding.create(&key, bytes.clone()).await {
        Ok(_) => {}
        Err(error) if error.class() == Class::Conflict => return Err(LeaseError::Raced),
        Err(source) => {
            let region = authority.region;
            return Err(LeaseError::AuthorityAway { region, source });
        }
    }
    copy(&publisher.repository, &authority.region, &key, &bytes).await;
    state.lease().save(&Remembered {
        n: next,
        nonce: body.nonce,
    })?;
    tracing::info!(lease = next, "lease taken");
    Ok(next)
}

/// Puts a lease that was won beside the authority. Replication does it later where it fails.
async fn copy(repository: &Repository, decided: &Region, key: &ObjectKey, bytes: &Bytes) {
    let others = (repository.replicas().iter()).filter(|replica| replica.region() != decided);
    let copies = others.map(async |replica| (replica.region(), replica.create(key, bytes.clone()).await));
    for (region, copied) in join_all(copies).await {
        if let Err(error) = copied {
            tracing::warn!(%region, err = %explained(&error), "the lease is not on this replica yet");
        }
    }
}
