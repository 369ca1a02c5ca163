//! What a store enforces, found out by trying.
//!
//! A repository rests on create-if-absent: the second create of a key must be
//! refused. Whether a store does that cannot be asked, only tried. A writer
//! keeps one object of its own for it, `control/probe/<writer>`: it creates it
//! (finding it there from an earlier start is the same), then tries to create it
//! again with other bytes. Credentials that cannot delete leave it there, so the
//! key is fixed and nothing accumulates.
//!
//! Where versions and locks can be asked for (S3), they are, and what is missing
//! is said.
//!
//! If the process dies in the middle, the next start finds the object and goes on.

use bytes::Bytes;
use futures::future::join_all;
use holdfast_proto::Timestamp;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::{ActorName, Region};

use crate::layout;
use crate::opened::Repository;
use crate::replica::{Class, Replica, StoreError};

/// Whether a second create of the same key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionalCreate {
    /// It is.
    Enforced,
    /// It replaces the first, or the store knows no such condition.
    NotEnforced,
}

/// What one replica's store does.
#[derive(Debug, Clone)]
pub struct Probed {
    /// The replica.
    pub region: Region,
    /// Whether create-if-absent is enforced; absent when the replica could not
    /// be reached.
    pub conditional_create: Option<ConditionalCreate>,
    /// Overwritten and deleted objects keep their versions; absent where it is
    /// not known.
    pub versioning: Option<bool>,
    /// Versions can be locked; absent where it is not known.
    pub object_lock: Option<bool>,
    /// It is a directory, which has neither to turn on.
    pub is_directory: bool,
    /// Why nothing is known.
    pub unreachable: Option<StoreError>,
}

/// A store that a repository should not be kept in.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProbeError {
    /// Create-if-absent is not enforced.
    #[error(
        "replica {region}: {location} lets a second writer replace an object (create-if-absent is not enforced), so \
         two writers or a stolen credential could overwrite backups: use another store, or accept that loss with \
         accept_without_conditional_create = true for this replica"
    )]
    NotEnforced {
        /// The replica.
        region: Region,
        /// Its URL.
        location: String,
    },
    /// It could not be tried.
    #[error("it cannot be found out what a replica's store enforces")]
    Failed(#[from] StoreError),
}

impl Repository {
    /// Tries out what each replica's store does; call it before writing. Sweeps
    /// what killed writers left in directories. An unreachable replica is in
    /// the answer as such; one that does not enforce create-if-absent is an
    /// error unless the configuration accepts it.
    pub async fn probe(&self, writer: &ActorName) -> Result<Vec<Probed>, ProbeError> {
        let probes = self.replicas.iter().map(|replica| async move {
            let accepted = self.lenient.contains(replica.region());
            match enforce(replica, writer, accepted).await {
                // One that refuses us is as good as one that is away: the others go on,
                // and what it lacks is a finding.
                Err(ProbeError::Failed(error)) if matches!(error.class(), Class::Retry | Class::Denied) => {
                    Ok(Probed {
                        region: replica.region().clone(),
                        conditional_create: None,
                        versioning: None,
                        object_lock: None,
                        is_directory: replica.directory().is_some(),
                        unreachable: Some(error),
                    })
                }
                other => other,
            }
        });
        join_all(probes).await.into_iter().collect()
    }
}

/// Tries one replica.
pub(crate) async fn enforce(
    replica: &Replica,
    writer: &ActorName,
    accepted: bool,
) -> Result<Probed, ProbeError> {
    replica.check().await?;
    if let Some(directory) = replica.directory() {
        match directory.sweep(std::time::SystemTime::now()).await {
            Ok(0) => {}
            Ok(removed) => {
                tracing::info!(region = %replica.region(), removed, "swept abandoned staged files")
            }
            Err(e) => tracing::info!(region = %replica.region(), err = %e, "could not sweep staged files"),
        }
    }
    let conditional = conditional_create(replica, writer).await?;
    if conditional == ConditionalCreate::NotEnforced && !accepted {
        return Err(ProbeError::NotEnforced {
            region: replica.region().clone(),
            location: replica.location().to_owned(),
        });
    }
    replica.look_first(conditional == ConditionalCreate::NotEnforced);
    let protection = match replica.protection().await {
        Ok(protection) => protection,
        // Not being told is not a reason to stop.
        Err(e) if e.class() != Class::Retry => Default::default(),
        Err(e) => return Err(e.into()),
    };
    Ok(Probed {
        region: replica.region().clone(),
        conditional_create: Some(conditional),
        versioning: protection.versioning,
        object_lock: protection.object_lock,
        is_directory: replica.directory().is_some(),
        unreachable: None,
    })
}

async fn conditional_create(replica: &Replica, writer: &ActorName) -> Result<ConditionalCreate, StoreError> {
    let key = layout::probe(writer);
    let first = Bytes::from_static(b"holdfast: is create-if-absent enforced here?\n");
    match replica.try_create(&key, first).await {
        Ok(_) => {}
        Err(e) if e.class() == Class::Invalid => return Ok(ConditionalCreate::NotEnforced),
        Err(e) => return Err(e),
    }
    let second = Bytes::from(format!("holdfast: {:032x}\n", rand::random::<u128>()));
    let taken = replica.try_create(&key, second.clone()).await?;
    // "Refused" is believed only if the refused bytes are indeed not there.
    let stands = replica.get(&key).await?;
    Ok(if taken || stands == second {
        ConditionalCreate::NotEnforced
    } else {
        ConditionalCreate::Enforced
    })
}

impl Probed {
    /// What is missing, by name.
    pub fn findings(&self, since: Timestamp) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut add = |name: &str, severity, detail: String| {
            findings.push(Finding {
                name: name.to_owned(),
                subject: self.region.to_string(),
                severity,
                detail,
                since,
            });
        };
        if let Some(error) = &self.unreachable {
            add("replica-unreachable", Severity::Warning, error.explained());
            return findings;
        }
        if self.conditional_create == Some(ConditionalCreate::NotEnforced) {
            add(
                "create-not-enforced",
                Severity::Warning,
                "The store does not enforce create-if-absent, which the configuration accepts: a second writer can \
                 replace objects. Signatures and digests show it; versions, where kept, undo it."
                    .to_owned(),
            );
        }
        match self.versioning {
            Some(true) => {}
            Some(false) if self.is_directory => add(
                "versioning-off",
                Severity::Info,
                "A directory keeps no versions: whoever may write there can destroy this copy.".to_owned(),
            ),
            Some(false) => add(
                "versioning-off",
                Severity::Warning,
                "Overwritten and deleted objects keep no versions here: whoever holds credentials that may write \
                 can destroy this copy. Turn versioning on, with object lock, where the store has it."
                    .to_owned(),
            ),
            None => add(
                "versioning-unknown",
                Severity::Info,
                "These credentials may not ask whether the store keeps versions.".to_owned(),
            ),
        }
        if self.versioning == Some(true) && self.object_lock == Some(false) {
            add(
                "object-lock-off",
                Severity::Warning,
                "Versions can be deleted by an administrator's credentials: make the bucket with object lock and \
                 a default retention."
                    .to_owned(),
            );
        }
        findings
    }
}
