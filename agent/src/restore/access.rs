//! A repository opened for reading: replicas, trust, and what the identities
//! open.

use std::path::PathBuf;
use std::sync::Arc;

use holdfast_proto::Fingerprint;
use holdfast_proto::finding::Finding;
use holdfast_proto::names::{ClusterId, RepositoryId};
use holdfast_repository::keyring::Keyring;
use holdfast_repository::seal::{Identities, SealError};
use holdfast_repository::store::Lens;
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

/// How a repository that a configuration names is opened. The usual way is
/// [`Opening::default`]; drills look at it through a lens, or hold an identity
/// that must not lie in any file of theirs.
#[derive(Clone, Default)]
pub struct Opening {
    /// Through what it is looked at.
    pub lens: Option<Arc<dyn Lens>>,
    /// Identities that open it in place of those in files.
    pub identities: Option<Identities>,
}

impl Opening {
    /// Opens the repository alone, healing what reading comes across.
    pub async fn repository(&self, config: &RepositoryConfig) -> Result<Repository, OpenError> {
        let repository = match &self.lens {
            Some(lens) => Repository::open_through(config, lens.as_ref()).await?,
            None => Repository::open(config).await?,
        };
        Ok(repository.healing(true))
    }

    /// As [`Access::open`], in this way.
    pub async fn open(
        &self,
        config: &RepositoryConfig,
        root: &Fingerprint,
        cluster: &ClusterId,
        files: &[PathBuf],
    ) -> Result<Access, AccessError> {
        let mut identities = Identities::default();
        match &self.identities {
            Some(given) => identities.extend(given.clone()),
            None => {
                for file in files {
                    identities.extend(Identities::load(file)?);
                }
            }
        }
        Access::of(self.repository(config).await?, root, cluster, &identities).await
    }
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
        Opening::default().open(config, root, cluster, files).await
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
