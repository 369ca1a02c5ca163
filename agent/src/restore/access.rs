//! A repository opened for reading: replicas, trust, and what the identities
//! open.

use std::path::PathBuf;

use holdfast_proto::Fingerprint;
use holdfast_proto::finding::Finding;
use holdfast_proto::names::{ClusterId, RepositoryId};
use holdfast_repository::keyring::Keyring;
use holdfast_repository::seal::{Identities, SealError};
use holdfast_repository::trust::{LoadError, Trust};
use holdfast_repository::{OpenError, Repository, RepositoryConfig, listing};

/// A repository that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Nobody can be believed.
    #[error(transparent)]
    Trust(#[from] LoadError),
    /// An identity cannot be read.
    #[error(transparent)]
    Identity(#[from] SealError),
    /// The keys cannot be listed.
    #[error(transparent)]
    Keys(#[from] listing::ListError),
    /// It is another repository.
    #[error(
        "the configured repository is {found}, the restore was planned on {expected}: correct the configuration"
    )]
    Other {
        /// What was opened.
        found: RepositoryId,
        /// What was expected.
        expected: RepositoryId,
    },
    /// None of the identities opens anything.
    #[error(
        "none of the identities given opens a key of {cluster} ({closed} keys are sealed to others): use the drill, \
         recovery or escrow identity of this repository"
    )]
    WrongIdentity {
        /// The cluster.
        cluster: ClusterId,
        /// Keys that stayed closed.
        closed: usize,
    },
}

/// A repository opened for reading.
#[derive(Debug, Clone)]
pub struct Access {
    /// The repository, healing what reading comes across.
    pub repository: Repository,
    /// Who is believed.
    pub trust: Trust,
    /// What the identities open.
    pub keyring: Keyring,
}

impl Access {
    /// Opens the repository and unwraps what the identities in `files` open.
    ///
    /// # Errors
    /// No replica answers, the chain of trust does not begin with `root`, or the
    /// identities open no key of the cluster.
    pub async fn open(
        config: &RepositoryConfig,
        root: &Fingerprint,
        cluster: &ClusterId,
        files: &[PathBuf],
    ) -> Result<Self, AccessError> {
        let mut identities = Identities::default();
        for file in files {
            identities.extend(Identities::load(file)?);
        }
        Self::of(
            Repository::open(config).await?.healing(true),
            root,
            cluster,
            &identities,
        )
        .await
    }

    /// As [`Access::open`], over a repository that is open.
    pub async fn of(
        repository: Repository,
        root: &Fingerprint,
        cluster: &ClusterId,
        identities: &Identities,
    ) -> Result<Self, AccessError> {
        let trust = Trust::load(&repository, root).await?;
        let keyring = Keyring::load(&repository, &trust, cluster, identities).await?;
        if keyring.is_empty() && keyring.closed().next().is_some() {
            return Err(AccessError::WrongIdentity {
                cluster: cluster.clone(),
                closed: keyring.closed().count(),
            });
        }
        Ok(Self {
            repository,
            trust,
            keyring,
        })
    }

    /// What was met while opening.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.trust.findings().iter().chain(self.keyring.findings())
    }
}
