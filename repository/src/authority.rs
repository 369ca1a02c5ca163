//! The authority: the one replica that decides what must have one winner.
//!
//! Leases and the heads of logs are numbered objects that the first to create
//! them wins. Two replicas could each have a winner, so one is named to decide;
//! the others copy. `authority/<n>` are records signed by the trust root, each
//! linked to the one before; the highest counts. Moving the authority, for
//! example away from a region that is lost, is a new record and therefore a
//! decision of a person who holds the root key.
//!
//! What does not hold: a program that cannot reach the replicas with a newer
//! record follows the older one. It can then decide nothing unless it reaches
//! the older authority, which is why the authority is moved when that replica
//! is gone or cut off for good.

use bytes::Bytes;
use holdfast_proto::envelope::Link;
use holdfast_proto::names::{ObjectKey, Region};
use holdfast_proto::record::AuthorityBody;

use crate::layout::{self, Located};
use crate::replica::StoreError;
use crate::signed::{self, Content, Draft};
use crate::signing::SigningKey;
use crate::trust::Trust;
use crate::{Replica, Repository};

/// No authority can be told.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// No record is within reach.
    #[error("no record of the authority is within reach: check the replicas, or run `holdfast repo init`")]
    None,
    /// The chain is broken.
    #[error(
        "the record {key} of the authority is not to be believed ({why}): restore it from another replica"
    )]
    Broken {
        /// Which record.
        key: ObjectKey,
        /// Why.
        why: String,
    },
    /// The authority is a region that this configuration does not have.
    #[error(
        "the authority is {0}, which is not among the configured replicas: add it, or move the authority with \
         `holdfast repo authority --region REGION`"
    )]
    NotConfigured(Region),
}

/// The deciding replica, as the repository says.
#[derive(Debug, Clone)]
pub struct Authority {
    /// Number of the record that names it.
    pub n: u64,
    /// Its region.
    pub region: Region,
    link: Link,
}

impl Authority {
    /// Reads and verifies the records on every replica within reach.
    pub async fn load(repository: &Repository, trust: &Trust) -> Result<Self, AuthorityError> {
        let mut current: Option<Self> = None;
        loop {
            let n = current.as_ref().map_or(0, |a| a.n + 1);
            let key = layout::authority(n);
            let Some(next) = read(repository, trust, &key, current.as_ref()).await? else {
                break;
            };
            current = Some(next);
        }
        current.ok_or(AuthorityError::None)
    }

    /// The replica that decides.
    pub fn replica<'r>(&self, repository: &'r Repository) -> Result<&'r Replica, AuthorityError> {
        repository
            .replicas()
            .iter()
            .find(|r| *r.region() == self.region)
            .ok_or_else(|| AuthorityError::NotConfigured(self.region.clone()))
    }
}

async fn read(
    repository: &Repository,
    trust: &Trust,
    key: &ObjectKey,
    before: Option<&Authority>,
) -> Result<Option<Authority>, AuthorityError> {
    let mut broken = None;
    let mut found: Vec<Authority> = Vec::new();
    for replica in repository.replicas() {
        let Ok(bytes) = replica.get(key).await else {
            continue;
        };
        match signed::verify::<AuthorityBody>(&bytes, key, trust) {
            Ok(record) if record.header.previous.as_ref() == before.map(|b| &b.link) => {
                let link = record.link();
                let AuthorityBody { n, region } = record.header.body;
                found.push(Authority { n, region, link });
            }
            Ok(_) => broken = Some("it does not follow the record before it".to_owned()),
            Err(e) => broken = Some(e.to_string()),
        }
    }
    // The authority was moved twice, each time without the region that has the other record.
    // Whoever sees both follows the same one.
    found.sort_by(|a, b| a.link.sha256.as_bytes().cmp(b.link.sha256.as_bytes()));
    if found.windows(2).any(|pair| pair[0].link != pair[1].link) {
        tracing::error!(%key, region = %found[0].region, "two records of the authority have one number: this region decides");
    }
    if let Some(first) = found.into_iter().next() {
        return Ok(Some(first));
    }
    match broken {
        Some(why) => Err(AuthorityError::Broken {
            key: key.clone(),
            why,
        }),
        None => Ok(None),
    }
}

/// Brings the records to a replica that lacks them: one that was away when the authority
/// was moved would say that an older one decides.
///
/// # Errors
/// The replica does not answer, or has another record under the same number.
pub async fn bring(repository: &Repository, trust: &Trust, to: &Replica) -> Result<(), StoreError> {
    for n in 0.. {
        let key = layout::authority(n);
        if to.head(&key).await?.is_some() {
            continue;
        }
        let believed = |bytes: &Bytes| signed::verify::<AuthorityBody>(bytes, &key, trust).map(drop);
        let mut good = None;
        for replica in repository.replicas().iter().filter(|r| r.region() != to.region()) {
            good = good.or(replica
                .get(&key)
                .await
                .ok()
                .filter(|bytes| believed(bytes).is_ok()));
        }
        let Some(good) = good else { break };
        to.create(&key, good).await?;
        tracing::info!(%key, region = %to.region(), "the record of the authority was copied to this replica");
    }
    Ok(())
}

/// The record that names `region`, to follow `before`.
pub fn record(
    trust: &Trust,
    before: Option<&Authority>,
    region: &Region,
    root: &SigningKey,
) -> (ObjectKey, Bytes) {
    let n = before.map_or(0, |b| b.n + 1);
    let key = layout::authority(n);
    debug_assert!(matches!(
        layout::parse(key.as_str()),
        Some(Located::Authority { .. })
    ));
    let body = AuthorityBody {
        n,
        region: region.clone(),
    };
    let bytes = Draft {
        repository: trust.repository(),
        key: key.clone(),
        payload: Content::default(),
        sealed_to: None,
        lease: None,
        previous: before.map(|b| b.link.clone()),
        body: &body,
    }
    .sign(root)
    .bytes;
    (key, bytes)
}
