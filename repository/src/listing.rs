//! What is there, over all replicas.
//!
//! Each replica is listed by itself; the answer says for every object on which
//! replicas it stands, and which replicas could not be listed. An object that is
//! missing in the listing of a replica that was listed is missing there. Of a
//! replica that was not listed nothing is known.
//!
//! [`Repository::list`] holds the answer in memory: for leases, keys, bases,
//! points, one timeline's WAL. [`Repository::list_stream`] merges the replicas'
//! ordered listings and holds one object of each: for packs, and for everything.

use std::collections::BTreeMap;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::BoxStream;
use holdfast_proto::Timestamp;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::{ObjectKey, Region};

use crate::opened::{Regions, Repository};
use crate::replica::{Listed, StoreError};

/// An object's copy on one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// The replica.
    pub region: Region,
    /// Bytes.
    pub size: u64,
    /// When it was stored, by the store's clock.
    pub modified: Timestamp,
}

/// Objects by key, and where each stands.
#[derive(Debug, Clone, Default)]
pub struct UnionListing {
    /// The objects, in the order of their keys.
    pub objects: BTreeMap<ObjectKey, Vec<Presence>>,
    /// Replicas of which nothing is known.
    pub unlisted: Vec<(Region, StoreError)>,
}

/// No replica could be listed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no replica can be listed below {prefix:?}: {regions}")]
pub struct ListError {
    /// What was to be listed.
    pub prefix: String,
    /// Each replica's reason.
    pub regions: Regions,
}

impl UnionListing {
    /// Whether every replica was listed.
    pub fn is_complete(&self) -> bool {
        self.unlisted.is_empty()
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.objects.keys()
    }

    /// A finding for each replica that could not be listed.
    pub fn findings(&self, since: Timestamp) -> Vec<Finding> {
        self.unlisted
            .iter()
            .map(|(region, error)| unreachable(region, error, since))
            .collect()
    }
}

/// The finding about a replica that does not answer.
pub(crate) fn unreachable(region: &Region, error: &StoreError, since: Timestamp) -> Finding {
    Finding {
        name: "replica-unreachable".to_owned(),
        subject: region.to_string(),
        severity: Severity::Warning,
        detail: error.explained(),
        since,
    }
}

impl Repository {
    /// All objects below `prefix` on all replicas. An error only when no replica
    /// can be listed: look at [`UnionListing::unlisted`].
    pub async fn list(&self, prefix: &str) -> Result<UnionListing, ListError> {
        self.list_after(prefix, None).await
    }

    /// As [`Repository::list`], only what sorts behind `after`.
    pub async fn list_after(
        &self,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> Result<UnionListing, ListError> {
        let answers = join_all(self.replicas.iter().map(|r| r.list_after(prefix, after))).await;
        let mut union = UnionListing::default();
        for (replica, answer) in self.replicas.iter().zip(answers) {
            match answer {
                Ok(listed) => {
                    for object in listed {
                        let presence = presence(replica.region(), &object);
                        union.objects.entry(object.key).or_default().push(presence);
                    }
                }
                Err(error) => union.unlisted.push((replica.region().clone(), error)),
            }
        }
        if union.unlisted.len() == self.replicas.len() {
            return Err(ListError {
                prefix: prefix.to_owned(),
                regions: Regions(union.unlisted),
            });
        }
        Ok(union)
    }

    /// The names directly below `prefix` on any replica, and the replicas of
    /// which nothing is known.
    pub async fn children(&self, prefix: &str) -> Result<Children, ListError> {
        let answers = join_all(self.replicas.iter().map(|r| r.children(prefix))).await;
        let mut names = std::collections::BTreeSet::new();
        let mut unlisted = Vec::new();
        for (replica, answer) in self.replicas.iter().zip(answers) {
            match answer {
                Ok(found) => names.extend(found),
                Err(error) => unlisted.push((replica.region().clone(), error)),
            }
        }
        if unlisted.len() == self.replicas.len() {
            return Err(ListError {
                prefix: prefix.to_owned(),
                regions: Regions(unlisted),
            });
        }
        Ok(Children {
            names: names.into_iter().collect(),
            unlisted,
        })
    }

    /// All objects below `prefix`, one after another in the order of their keys.
    pub fn list_stream(&self, prefix: &str) -> UnionStream {
        UnionStream {
            sources: self
                .replicas
                .iter()
                .map(|replica| Source {
                    region: replica.region().clone(),
                    stream: replica.list_stream(prefix),
                    head: None,
                    over: false,
                })
                .collect(),
            unlisted: Vec::new(),
        }
    }
}

/// The names below a prefix.
#[derive(Debug, Clone)]
pub struct Children {
    /// Sorted names.
    pub names: Vec<String>,
    /// Replicas of which nothing is known.
    pub unlisted: Vec<(Region, StoreError)>,
}

fn presence(region: &Region, object: &Listed) -> Presence {
    Presence {
        region: region.clone(),
        size: object.size,
        modified: object.modified,
    }
}

struct Source {
    region: Region,
    stream: BoxStream<'static, Result<Listed, StoreError>>,
    head: Option<Listed>,
    over: bool,
}

/// A listing of all replicas that is read as it comes.
pub struct UnionStream {
    sources: Vec<Source>,
    unlisted: Vec<(Region, StoreError)>,
}

impl UnionStream {
    /// The next object and where it stands. `None` at the end: then ask
    /// [`UnionStream::unlisted`] before believing that it was all.
    pub async fn next(&mut self) -> Option<(ObjectKey, Vec<Presence>)> {
        let refills = self.sources.iter_mut().map(|source| async {
            if source.head.is_some() || source.over {
                return None;
            }
            match source.stream.next().await {
                Some(Ok(listed)) => {
                    source.head = Some(listed);
                    None
                }
                Some(Err(error)) => {
                    source.over = true;
                    Some((source.region.clone(), error))
                }
                None => {
                    source.over = true;
                    None
                }
            }
        });
        let failed = join_all(refills).await;
        self.unlisted.extend(failed.into_iter().flatten());
        let key = self
            .sources
            .iter()
            .filter_map(|s| s.head.as_ref())
            .map(|listed| &listed.key)
            .min()?
            .clone();
        let standing = self
            .sources
            .iter_mut()
            .filter_map(|s| {
                let listed = s.head.take_if(|listed| listed.key == key)?;
                Some(presence(&s.region, &listed))
            })
            .collect();
        Some((key, standing))
    }

    /// Replicas that failed so far. What they hold beyond the point of failure
    /// is not known.
    pub fn unlisted(&self) -> &[(Region, StoreError)] {
        &self.unlisted
    }
}
