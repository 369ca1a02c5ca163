//! The operator's configuration: where the repository is, whom to trust, and
//! which identity opens it.
//!
//! Read from `--config`, else `HOLDFAST_CONFIG`, else `holdfast.toml` here. Relative
//! paths in it count from its directory. Everything that is wrong with it is said
//! at once.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use holdfast_coordinator::access::oidc::program::ProgramLogin;
use holdfast_coordinator::repository_section::read_repository;
use holdfast_drills::evidence::tlog::NoteKey;
use holdfast_drills::scratch::Limits;
use holdfast_kubernetes::settings::Settings as KubernetesSettings;
use holdfast_plan::document::{self, Problem, Section};
use holdfast_plan::shape::Shape;
use holdfast_proto::Fingerprint;
use holdfast_proto::names::{ActorName, ProviderName, Region};
use holdfast_repository::seal::Identities;
use holdfast_repository::trust::Trust;
use holdfast_repository::{Repository, RepositoryConfig};

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
#[derive(Debug, Clone)]
pub struct OperatorFile {
    /// Replicas and trust root.
    pub repository: RepositoryConfig,
    /// An age identity file.
    pub identity: Option<PathBuf>,
    /// The coordinator's address for people, `https://…` or `http://…`.
    pub coordinator: Option<String>,
    /// Certificates that the coordinator's is checked against (PEM), instead of those that
    /// this machine believes.
    pub coordinator_ca: Option<PathBuf>,
    /// The file with the token that the coordinator is asked with.
    pub coordinator_token_file: Option<PathBuf>,
    /// Or where a token for it is got.
    pub coordinator_oidc: Option<ProgramLogin>,
    /// Where this machine is, for rules of residency.
    pub region: Option<Region>,
    /// Who runs it.
    pub provider: Option<ProviderName>,
    /// The policy's file: what residency allows is refused by it.
    pub policy_file: Option<PathBuf>,
    /// The drill runner's signing key and the place where drills work.
    pub runner: Option<RunnerSection>,
}

/// `[runner]`
#[derive(Debug, Clone)]
pub struct RunnerSection {
    /// The name under which the key is enrolled.
    pub name: ActorName,
    /// Its Ed25519 key.
    pub signing_key: PathBuf,
    /// Where scratch namespaces are made.
    pub scratch: PathBuf,
    /// The policy that drills are judged by.
    pub policy: Option<PathBuf>,
    /// Whoever outside must have cosigned a drill's intent before it begins.
    pub witnesses: Vec<NoteKey>,
    /// What a copy may use of this machine.
    pub limits: Limits,
    /// How drills run on a Kubernetes cluster.
    pub kubernetes: Option<KubernetesSettings>,
}

/// A configuration, read, with paths made absolute.
#[derive(Debug, Clone)]
pub struct Operator {
    /// What it says.
    pub file: OperatorFile,
    root: Option<Fingerprint>,
    identity: Option<PathBuf>,
}

impl OperatorFile {
    /// Reads the file, which must have no problem.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let text = std::fs::read_to_string(&path)
            .with_context(|| {
                format!(
                    "the configuration {} cannot be read: name it with --config or HOLDFAST_CONFIG",
                    path.display()
                )
            })
            .or_usage()?;
        Self::parse(&path, &text)
            .map_err(|problems| {
                let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
                anyhow::anyhow!(lines.join("\n"))
            })
            .or_usage()
    }

    /// What the reader asks for in a file: every key that it knows, when the text
    /// has every section.
    pub fn shape(text: &str) -> Shape {
        document::read_with_shape(text, "", |mut root| read_file(&mut root, Path::new(""))).1
    }

    /// Reads a text. `path` is for messages, and relative paths count from its
    /// directory.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Vec<Problem>> {
        let base = path.parent().unwrap_or(Path::new("/"));
        document::read(text, &path.display().to_string(), |mut root| {
            let read = read_file(&mut root, base);
            root.finish();
            read
        })
    }
}

fn read_file(root: &mut Section<'_>, base: &Path) -> Option<OperatorFile> {
    let at = |path: PathBuf| base.join(path);
    let identity = root.optional("identity").map(at);
    let coordinator = root.optional("coordinator");
    let coordinator_ca = root.optional("coordinator_ca").map(at);
    let coordinator_token_file = root.optional("coordinator_token_file").map(at);
    let coordinator_oidc = root.section("coordinator_oidc").map(|mut section| {
        let read = ProgramLogin::read(&mut section, base);
        section.finish();
        read
    });
    if coordinator_oidc.is_some() && coordinator_token_file.is_some() {
        root.problem("has coordinator_token_file and [coordinator_oidc]: keep one");
    }
    let region = root.optional("region");
    let provider = root.optional("provider");
    let policy_file = root.optional("policy").map(at);
    let runner = root.section("runner").map(|mut section| {
        let name = section.required("name", "runner-1");
        let signing_key = section.required("signing_key", "keys/runner-1.key").map(at);
        let scratch = section.required("scratch", "/var/lib/holdfast/drills").map(at);
        let policy = section.optional("policy").map(at);
        let witnesses = section.texts("witnesses").unwrap_or_default();
        let limits = Limits {
            memory: section.optional("memory"),
            cpu: section.optional("cpu"),
        };
        let kubernetes = section.section("kubernetes").map(|mut section| {
            let settings = KubernetesSettings::read(&mut section, base);
            section.finish();
            settings
        });
        section.finish();
        Some(RunnerSection {
            name: name?,
            signing_key: signing_key?,
            scratch: scratch?,
            policy,
            witnesses,
            limits,
            kubernetes: match kubernetes {
                Some(kubernetes) => Some(kubernetes?),
                None => None,
            },
        })
    });
    let repository = read_repository(root);
    Some(OperatorFile {
        repository: repository?,
        identity,
        coordinator,
        coordinator_ca,
        coordinator_token_file,
        coordinator_oidc: match coordinator_oidc {
            Some(login) => Some(login?),
            None => None,
        },
        region,
        provider,
        policy_file,
        runner: match runner {
            Some(runner) => Some(runner?),
            None => None,
        },
    })
}

impl OperatorArguments {
    /// Reads the file.
    pub fn load(&self) -> anyhow::Result<Operator> {
        let file = OperatorFile::read(&self.config)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
identity = "keys/recovery.agekey"
coordinator = "http://127.0.0.1:7480"
[repository]
trust_root = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
replicas = [{ url = "file:///srv/a", region = "a" }, { url = "s3://b/x", region = "b", options = { aws_region = "eu" } }]
[runner]
name = "runner-1"
signing_key = "/keys/runner-1.key"
scratch = "drills"
"#;

    #[test]
    fn the_shipped_example_is_sound() {
        let example = include_str!("../../config/holdfast.toml");
        // References to the environment are followed: here they lead to what is there.
        let text = example
            .replace("HOLDFAST_S3_ID", "PATH")
            .replace("HOLDFAST_S3_SECRET", "PATH");
        let file = OperatorFile::parse(Path::new("/etc/holdfast/holdfast.toml"), &text).unwrap();
        assert!(file.identity.is_some() && file.coordinator.is_some() && file.runner.is_some());
    }

    #[test]
    fn paths_count_from_the_file() {
        let file = OperatorFile::parse(Path::new("/etc/holdfast/holdfast.toml"), GOOD).unwrap();
        assert_eq!(
            file.identity.as_deref(),
            Some(Path::new("/etc/holdfast/keys/recovery.agekey"))
        );
        let runner = file.runner.unwrap();
        assert_eq!(runner.signing_key, Path::new("/keys/runner-1.key"));
        assert_eq!(runner.scratch, Path::new("/etc/holdfast/drills"));
        assert_eq!(file.repository.replicas[1].options["aws_region"], "eu");
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let text = "identiti = \"x\"\n[repository]\ntrust_root = \"y\"\n[[repository.replicas]]\nurl = 1\nsize = 2\n[runner]\n";
        let problems = OperatorFile::parse(Path::new("h.toml"), text).unwrap_err();
        let said: Vec<String> = problems.iter().map(Problem::to_string).collect();
        for expect in [
            "h.toml:1:1: identiti: is not a known key: did you mean `identity`?",
            "h.toml:3:14: repository.trust_root: ",
            "h.toml:5:7: repository.replicas[0].url: must be a text",
            "repository.replicas[0].region: is missing",
            "h.toml:6:1: repository.replicas[0].size: is not a known key",
            "runner.name: is missing",
            "runner.scratch: is missing",
        ] {
            assert!(
                said.iter().any(|s| s.contains(expect)),
                "{expect}\n  is not in {said:#?}"
            );
        }
    }
}
