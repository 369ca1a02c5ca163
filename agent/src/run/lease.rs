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
//! | another name | refused, or the next number when it may be replaced, and the server's WAL is the cluster's |
//!
//! That a lease was beaten is remembered: it does not come to life again while the replica
//! that shows the higher one is away.
//!
//! If the process dies after creating the object and before remembering it, the
//! next start finds its own name with a nonce it does not know and takes the next
//! number.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use holdfast_proto::Timestamp;
use holdfast_proto::envelope::Link;
use holdfast_proto::names::{ActorName, ObjectKey, Region};
use holdfast_proto::pg::TimelineId;
use holdfast_proto::record::LeaseBody;
use holdfast_repository::Repository;
use holdfast_repository::authority::{self, Authority, AuthorityError};
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
use crate::wal::Unexamined;

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
    /// A replica shows a lease of a later record of the authority than any that is shown.
    #[error(
        "lease {0} was taken under a later record of the authority than any replica within reach has: bring the \
         others back, or copy the record with `holdfast repo replicate`"
    )]
    LaterAuthority(u64),
    /// A higher lease was seen, and is not shown any more.
    #[error(
        "another agent has taken lease {0}, and no replica within reach shows it any more: bring the others back. If \
         they are gone for good, remove lease.json from this cluster's part of the state directory"
    )]
    Beaten(u64),
    /// The server is not the one to write for, or that cannot be told.
    #[error(transparent)]
    Examined(#[from] Unexamined),
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
    /// The timeline of the server that was last written for with it.
    #[serde(default)]
    timeline: Option<TimelineId>,
    /// A higher number that was seen: whoever has it writes, whether or not a replica
    /// shows it at the moment.
    #[serde(default)]
    beaten: Option<u64>,
}

/// Who asks for the lease, and for what server.
pub struct Claimant<'a> {
    /// In whose name objects are written.
    pub publisher: &'a Publisher,
    /// Whom to believe.
    pub trust: &'a Trust,
    /// The agent.
    pub name: &'a ActorName,
    /// Its memory.
    pub state: &'a ClusterState,
    /// The timeline that its server writes.
    pub timeline: TimelineId,
}

impl Claimant<'_> {
    /// Takes the lease, or goes on with the one held. Returns its number. `may_replace`
    /// says of another holder whether its lease may be taken; right before it is, `examine`
    /// looks whether the server's WAL is the cluster's: a copy that is not followed must not
    /// disarm whoever writes.
    ///
    /// # Errors
    /// Another one holds it, or who holds it cannot be told.
    pub async fn take(
        &self,
        may_replace: impl Fn(&ActorName) -> bool,
        examine: impl AsyncFnOnce() -> Result<(), Unexamined>,
    ) -> Result<u64, LeaseError> {
        let repository = &self.publisher.repository;
        let authority = Authority::load(repository, self.trust).await?;
        let listing = repository.list(&layout::leases(&self.publisher.cluster)).await?;
        let away = listing
            .unlisted
            .iter()
            .find(|(region, _)| *region == authority.region);
        let away = away.map(|(region, error)| LeaseError::AuthorityAway {
            region: region.clone(),
            source: error.clone(),
        });
        let highest = (listing.keys())
            .filter_map(|key| match layout::parse(key.as_str()) {
                Some(Located::Lease { n, .. }) => Some((n, key.clone())),
                _ => None,
            })
            .max();
        let shown = highest.as_ref().map_or(0, |(n, _)| *n);
        if shown > lead::first_of(authority.n + 1) {
            return Err(LeaseError::LaterAuthority(shown));
        }
        let mut remembered: Option<Remembered> = self.state.lease().load()?;
        if let Some(own) = remembered
            .as_mut()
            .filter(|own| shown > own.n.max(own.beaten.unwrap_or(0)))
        {
            own.beaten = Some(shown);
            self.state.lease().save(own)?;
        }
        let beaten = remembered.as_ref().and_then(|own| own.beaten).unwrap_or(0);
        let mut previous = None;
        if let Some((n, key)) = highest {
            let (lease, _) = repository.read_signed::<LeaseBody>(&key, self.trust).await?;
            let body = lease.body();
            let own = remembered
                .as_ref()
                .filter(|own| own.n == n && own.nonce == body.nonce && own.beaten.is_none());
            if let Some(own) = own {
                // While the authority is away a higher lease may lie there. A server that was
                // promoted since is where that matters; one that is as it was goes on.
                if let Some(away) = away.filter(|_| own.timeline != Some(self.timeline)) {
                    return Err(away);
                }
                self.remember(n, &body.nonce)?;
                return Ok(n);
            }
            if body.holder != *self.name {
                if !may_replace(&body.holder) {
                    return Err(LeaseError::Held {
                        holder: body.holder.clone(),
                        n,
                        taken: body.taken,
                    });
                }
                examine().await?;
            }
            previous = Some(lease.link());
        }
        if beaten > shown {
            // Whose it is cannot be read, and so neither whether it may be replaced.
            return Err(away.unwrap_or(LeaseError::Beaten(beaten)));
        }
        let ours = remembered.map_or(0, |own| own.n);
        let next = shown.max(ours).max(lead::first_of(authority.n)) + 1;
        self.create(&authority, next, previous).await
    }

    /// Wins the lease `n` on the authority, and copies it.
    async fn create(&self, authority: &Authority, n: u64, previous: Option<Link>) -> Result<u64, LeaseError> {
        let repository = &self.publisher.repository;
        let body = LeaseBody {
            n,
            holder: self.name.clone(),
            nonce: format!("{:032x}", rand::random::<u128>()),
            taken: Timestamp::from_chrono(chrono::Utc::now()),
        };
        let key = layout::lease(&self.publisher.cluster, n);
        let holding = Publisher {
            lease: Some(n),
            ..self.publisher.clone()
        };
        let bytes = holding
            .sign(&key, Content::default(), None, previous, &body)
            .bytes;
        match authority.replica(repository)?.create(&key, bytes.clone()).await {
            Ok(_) => {}
            Err(error) if error.class() == Class::Conflict => return Err(LeaseError::Raced),
            Err(source) => {
                let region = authority.region.clone();
                return Err(LeaseError::AuthorityAway { region, source });
            }
        }
        self.remember(n, &body.nonce)?;
        copy(repository, &authority.region, &key, &bytes).await;
        tracing::info!(lease = n, "lease taken");
        Ok(n)
    }

    fn remember(&self, n: u64, nonce: &str) -> Result<(), LocalFileError> {
        self.state.lease().save(&Remembered {
            n,
            nonce: nonce.to_owned(),
            timeline: Some(self.timeline),
            beaten: None,
        })
    }
}

/// Remembers that a higher lease was seen: also when the replica that showed it is away at
/// the next start, ours is over.
pub fn beaten(state: &ClusterState, found: u64) {
    let noted = state.lease().load::<Remembered>().and_then(|own| match own {
        Some(own) => state.lease().save(&Remembered {
            beaten: own.beaten.max(Some(found)),
            ..own
        }),
        None => Ok(()),
    });
    if let Err(error) = noted {
        tracing::error!(err = %error, "that the lease was lost is not remembered");
    }
}

/// How often copies of the lease are looked after.
const COPIES_EVERY: Duration = Duration::from_secs(60);

/// Brings the lease that is held, and the records of the authority, to replicas that were
/// away when they were made: where they are missing, another node of the cluster would not
/// know who writes. Never ends.
pub async fn keep_copies(publisher: Publisher, trust: Arc<Trust>) -> Infallible {
    let repository = &publisher.repository;
    loop {
        for replica in repository.replicas() {
            let brought = async {
                authority::bring(repository, &trust, replica).await?;
                let Some(n) = publisher.lease else { return Ok(()) };
                let key = layout::lease(&publisher.cluster, n);
                if replica.head(&key).await?.is_some() {
                    return Ok(());
                }
                for other in repository.replicas() {
                    if let Ok(bytes) = other.get(&key).await {
                        replica.create(&key, bytes).await?;
                        tracing::info!(region = %replica.region(), lease = n, "the lease was copied to this replica");
                        break;
                    }
                }
                Ok::<(), StoreError>(())
            };
            if let Err(error) = brought.await {
                tracing::debug!(region = %replica.region(), err = %error, "the lease's copy was not looked after");
            }
        }
        tokio::time::sleep(COPIES_EVERY).await;
    }
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
