//! What a pod is given to drill with: files for one Secret, made from the
//! dispatcher's own, and gone with the namespace.
//!
//! The runner's key and the drill identity travel as they are. The repository's
//! configuration is written anew: what it takes from a file or an environment
//! variable of this machine becomes a file of the pod.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use holdfast_drills::evidence::tlog::NoteKey;
use holdfast_drills::place::Place;
use holdfast_proto::names::{ActorName, Region};
use holdfast_repository::RepositoryConfig;
use holdfast_repository::config::{ConfigError, Location};
use toml::{Table, Value};
use zeroize::Zeroizing;

/// Where the files lie in the pod.
pub const HOME: &str = "/etc/holdfast";
/// Where the copy is made in the pod.
pub const SCRATCH: &str = "/scratch";
/// The runner's configuration, below [`HOME`].
pub const CONFIG: &str = "holdfast.toml";
/// The [`Place`], below [`HOME`].
pub const PLACE: &str = "place.json";
/// A scenario of the dispatcher's own, below [`HOME`].
pub const SCENARIO: &str = "scenario.toml";
const SIGNING_KEY: &str = "runner.key";
const IDENTITY: &str = "drill.agekey";
const POLICY: &str = "policy.toml";

/// The most that a Secret holds, less what Kubernetes adds.
const MAX_BYTES: usize = 900 << 10;

/// What the dispatcher has and the pod needs.
#[derive(Debug)]
pub struct Belongings<'a> {
    /// The runner's name in the trust chain.
    pub runner: &'a ActorName,
    /// Its key.
    pub signing_key: &'a Path,
    /// The drill identity.
    pub identity: &'a Path,
    /// The replicas and the trust root.
    pub repository: &'a RepositoryConfig,
    /// The policy that drills are judged by.
    pub policy: Option<&'a Path>,
    /// Witnesses that a drill waits for.
    pub witnesses: &'a [NoteKey],
    /// A scenario of one's own.
    pub scenario: Option<&'a Path>,
}

/// Something that cannot be given to a pod.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file of ours.
    #[error("{path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The repository's configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A directory is on this machine alone.
    #[error(
        "the replica {0} is a directory of this machine, which no pod reaches: drills on Kubernetes restore from \
         object storage"
    )]
    Directory(Region),
    /// An option leads to a file of this machine.
    #[error(
        "the replica {region}: option {option} names a file of this machine, which no pod has: give the value itself \
         with {option}_file or {option}_env"
    )]
    Path {
        /// The replica.
        region: Region,
        /// The option.
        option: String,
    },
    /// Too much.
    #[error(
        "the files for the pod come to {0} bytes and a Secret holds {MAX_BYTES}: shorten policy or scenario"
    )]
    TooLarge(usize),
}

/// The files of one drill, by name.
#[derive(Default)]
pub struct Parcel(BTreeMap<String, Zeroizing<Vec<u8>>>);

impl fmt::Debug for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Parcel {
    /// Reads what is named, and writes the pod's configuration.
    ///
    /// # Errors
    /// A file cannot be read, or a replica cannot be reached from a pod.
    pub fn pack(own: &Belongings<'_>) -> Result<Self, PackError> {
        let mut parcel = Self::default();
        parcel.copy(SIGNING_KEY, own.signing_key)?;
        parcel.copy(IDENTITY, own.identity)?;
        if let Some(policy) = own.policy {
            parcel.copy(POLICY, policy)?;
        }
        if let Some(scenario) = own.scenario {
            parcel.copy(SCENARIO, scenario)?;
        }
        let config = parcel.config(own)?.to_string();
        parcel.put(CONFIG, config.into_bytes());
        let size = parcel.0.values().map(|f| f.len()).sum();
        if size > MAX_BYTES {
            return Err(PackError::TooLarge(size));
        }
        Ok(parcel)
    }

    /// Adds where the drill will run.
    pub fn place(&mut self, place: &Place) {
        let json = serde_json::to_vec(place).expect("a place holds nothing that JSON cannot say");
        self.put(PLACE, json);
    }

    /// The files, by name.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0
            .iter()
            .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    fn put(&mut self, name: &str, bytes: Vec<u8>) {
        self.0.insert(name.to_owned(), Zeroizing::new(bytes));
    }

    fn copy(&mut self, name: &str, path: &Path) -> Result<(), PackError> {
        let bytes = std::fs::read(path).map_err(|source| PackError::Read {
            path: path.to_owned(),
            source,
        })?;
        self.put(name, bytes);
        Ok(())
    }

    fn config(&mut self, own: &Belongings<'_>) -> Result<Table, PackError> {
        let text = |t: &dyn ToString| Value::String(t.to_string());
        let mut runner = Table::new();
        runner.insert("name".into(), text(own.runner));
        runner.insert("signing_key".into(), text(&SIGNING_KEY));
        runner.insert("scratch".into(), text(&SCRATCH));
        if own.policy.is_some() {
            runner.insert("policy".into(), text(&POLICY));
        }
        let witnesses = own.witnesses.iter().map(|w| text(w)).collect();
        runner.insert("witnesses".into(), Value::Array(witnesses));
        let mut repository = Table::new();
        if let Some(root) = &own.repository.trust_root {
            repository.insert("trust_root".into(), text(root));
        }
        let mut replicas = Vec::new();
        for n in 0..own.repository.replicas.len() {
            replicas.push(Value::Table(self.replica(own.repository, n)?));
        }
        repository.insert("replicas".into(), Value::Array(replicas));
        let mut config = Table::new();
        config.insert("identity".into(), text(&IDENTITY));
        config.insert("repository".into(), Value::Table(repository));
        config.insert("runner".into(), Value::Table(runner));
        Ok(config)
    }

    fn replica(&mut self, repository: &RepositoryConfig, n: usize) -> Result<Table, PackError> {
        let replica = &repository.replicas[n];
        if let Location::File(_) = replica.location()? {
            return Err(PackError::Directory(replica.region.clone()));
        }
        let mut options = Table::new();
        for option in replica.followed_options()? {
            if !option.inline {
                let file = format!("replica-{n}-{}", option.name);
                options.insert(
                    format!("{}_file", option.name),
                    Value::String(format!("{HOME}/{file}")),
                );
                self.put(&file, option.value.as_bytes().to_vec());
            } else if option.value.starts_with('/') {
                return Err(PackError::Path {
                    region: replica.region.clone(),
                    option: option.name,
                });
            } else {
                options.insert(option.name, Value::String(option.value.to_string()));
            }
        }
        let mut table = Table::new();
        table.insert("url".into(), Value::String(replica.url.clone()));
        table.insert("region".into(), Value::String(replica.region.to_string()));
        let accepts = replica.accept_without_conditional_create;
        table.insert(
            "accept_without_conditional_create".into(),
            Value::Boolean(accepts),
        );
        table.insert("options".into(), Value::Table(options));
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_repository::config::ReplicaConfig;

    fn repository(replica: ReplicaConfig) -> RepositoryConfig {
        RepositoryConfig {
            replicas: vec![replica],
            trust_root: None,
        }
    }

    fn bucket(options: &[(&str, &str)]) -> RepositoryConfig {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        repository(ReplicaConfig {
            url: "s3://backups/holdfast".into(),
            region: "eu-1".parse().unwrap(),
            options: options.collect(),
            accept_without_conditional_create: false,
            provider: None,
        })
    }

    fn pack(directory: &Path, repository: &RepositoryConfig) -> Result<Parcel, PackError> {
        for name in ["key", "identity"] {
            std::fs::write(directory.join(name), name).unwrap();
        }
        Parcel::pack(&Belongings {
            runner: &"runner-1".parse().unwrap(),
            signing_key: &directory.join("key"),
            identity: &directory.join("identity"),
            repository,
            policy: None,
            witnesses: &[],
            scenario: None,
        })
    }

    #[test]
    fn references_become_files_of_the_pod() {
        let directory = tempfile::tempdir().unwrap();
        let secret = directory.path().join("s3");
        std::fs::write(&secret, "hush\n").unwrap();
        let config = bucket(&[
            ("aws_region", "eu-west-1"),
            ("aws_access_key_id_env", "PATH"),
            ("aws_secret_access_key_file", secret.to_str().unwrap()),
        ]);
        let parcel = pack(directory.path(), &config).unwrap();
        let files: BTreeMap<&str, &[u8]> = parcel.files().collect();
        assert_eq!(files["replica-0-aws_secret_access_key"], b"hush");
        assert_eq!(
            files["replica-0-aws_access_key_id"],
            std::env::var("PATH").unwrap().as_bytes()
        );
        assert_eq!(files[SIGNING_KEY], b"key");
        let written = std::str::from_utf8(files[CONFIG]).unwrap();
        assert!(!written.contains("hush") && !format!("{parcel:?}").contains("hush"));
        // What the pod reads is what is meant, with files that are really its own.
        let read: Table = written.parse().unwrap();
        let options = &read["repository"]["replicas"][0]["options"];
        assert_eq!(
            options["aws_secret_access_key_file"].as_str(),
            Some("/etc/holdfast/replica-0-aws_secret_access_key")
        );
        assert_eq!(options["aws_region"].as_str(), Some("eu-west-1"));
        assert_eq!(read["runner"]["scratch"].as_str(), Some(SCRATCH));
    }

    #[test]
    fn what_no_pod_reaches_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let here = repository(ReplicaConfig::directory(
            "eu-1".parse().unwrap(),
            directory.path(),
        ));
        assert!(matches!(
            pack(directory.path(), &here),
            Err(PackError::Directory(_))
        ));
        let token = bucket(&[("aws_web_identity_token_file", "/var/run/token")]);
        assert!(matches!(
            pack(directory.path(), &token),
            Err(PackError::Path { .. })
        ));
    }
}
