//! The operator's configuration: where the repository is, whom to trust, and
//! which identity opens it.
//!
//! Read from `--config`, else `HOLDFAST_CONFIG`, else `holdfast.toml` here.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use holdfast_proto::Fingerprint;
use holdfast_repository::config::ReplicaConfig;
use holdfast_repository::seal::Identities;
use holdfast_repository::trust::Trust;
use holdfast_repository::{Repository, RepositoryConfig};
use serde::Deserialize;

use crate::exit::{Failure, OrExit};

/// Options that every command on a repository takes.
#[derive(Debug, Clone, Args)]
pub struct OperatorArguments {
    /// The operator's configuration file.
    #[arg(
        long,
        env = "HOLDFAST_CONFIG",
        default_value = "holdfast.toml",
        value_name = "FILE"
    )]
    pub config: PathBuf,
    /// An age identity file that opens the repository (drill, recovery or
    /// escrow); overrides the configuration.
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// The fingerprint of the trust root, as printed by `holdfast keys
    /// generate`; overrides the configuration.
    #[arg(long, value_name = "FINGERPRINT")]
    pub root: Option<Fingerprint>,
}

/// The file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorFile {
    /// Replicas and trust root.
    pub repository: RepositorySection,
    /// An age identity file.
    pub identity: Option<PathBuf>,
    /// The coordinator's address for people, `http://…`.
    pub coordinator: Option<String>,
    /// The drill runner's signing key and the place where drills work.
    pub runner: Option<RunnerSection>,
}

/// `[repository]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositorySection {
    /// The replicas, best first.
    pub replicas: Vec<ReplicaConfig>,
    /// The root key's fingerprint.
    pub trust_root: Option<Fingerprint>,
}

/// `[runner]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunnerSection {
    /// The name under which the key is enrolled.
    pub name: String,
    /// Its Ed25519 key.
    pub signing_key: PathBuf,
    /// Where scratch namespaces are made.
    pub scratch: PathBuf,
    /// The policy that drills are judged by.
    pub policy: Option<PathBuf>,
}

/// A configuration, read, with paths made absolute.
#[derive(Debug, Clone)]
pub struct Operator {
    /// What it says.
    pub file: OperatorFile,
    root: Option<Fingerprint>,
    identity: Option<PathBuf>,
}

impl OperatorArguments {
    /// Reads the file.
    pub fn load(&self) -> anyhow::Result<Operator> {
        let path = std::path::absolute(&self.config).unwrap_or_else(|_| self.config.clone());
        let text = std::fs::read_to_string(&path)
            .with_context(|| {
                format!(
                    "the configuration {} cannot be read: name it with --config or HOLDFAST_CONFIG",
                    path.display()
                )
            })
            .or_usage()?;
        let mut file: OperatorFile = toml::from_str(&text)
            .with_context(|| path.display().to_string())
            .or_usage()?;
        let base = path.parent().unwrap_or(Path::new("/")).to_owned();
        file.identity = file.identity.map(|p| base.join(p));
        if let Some(runner) = &mut file.runner {
            runner.signing_key = base.join(&runner.signing_key);
            runner.scratch = base.join(&runner.scratch);
            runner.policy = runner.policy.take().map(|p| base.join(p));
        }
        let identity = self
            .identity
            .as_ref()
            .map(|p| std::path::absolute(p).unwrap_or_else(|_| p.clone()))
            .or_else(|| file.identity.clone());
        Ok(Operator {
            root: self.root.or(file.repository.trust_root),
            identity,
            file,
        })
    }
}

impl Operator {
    /// The repository's configuration.
    pub fn repository_config(&self) -> RepositoryConfig {
        RepositoryConfig {
            replicas: self.file.repository.replicas.clone(),
            trust_root: self.root,
        }
    }

    /// Opens the repository, allowed to heal damaged copies.
    pub async fn open(&self) -> anyhow::Result<Repository> {
        let repository = Repository::open(&self.repository_config())
            .await
            .or_unavailable()?;
        for region in repository.unreachable() {
            eprintln!("warning: the replica in {region} is out of reach");
        }
        Ok(repository.healing(true))
    }

    /// The root's fingerprint, which must come from outside the repository.
    pub fn root(&self) -> anyhow::Result<Fingerprint> {
        self.root.ok_or_else(|| {
            Failure::usage(
                "UNTRUSTED: no trust root is given. Put the fingerprint that `holdfast keys generate` printed \
                 into the configuration (repository.trust_root) or pass --root",
            )
        })
    }

    /// The trust chain, verified from the root.
    pub async fn trust(&self, repository: &Repository) -> anyhow::Result<Trust> {
        Trust::load(repository, &self.root()?).await.or_no()
    }

    /// The identity file.
    pub fn identity_path(&self) -> anyhow::Result<PathBuf> {
        self.identity.clone().ok_or_else(|| {
            Failure::usage("no identity is given: pass --identity FILE (drill, recovery or escrow key)")
        })
    }

    /// The identities that open the repository.
    pub fn identities(&self) -> anyhow::Result<Identities> {
        Identities::load(&self.identity_path()?).or_usage()
    }
}
