//! How a repository is named in a configuration file.
//!
//! ```toml
//! [repository]
//! trust_root = "3f…"                     # from `holdfast keys generate`
//!
//! [[repository.replicas]]
//! region = "eu-west"
//! url = "s3://backups/holdfast"
//! [repository.replicas.options]
//! aws_region = "eu-west-1"
//! aws_access_key_id_file = "/etc/holdfast/s3-id"
//! aws_secret_access_key_file = "/etc/holdfast/s3-secret"
//!
//! [[repository.replicas]]
//! region = "office"
//! url = "file:///srv/holdfast"
//! ```
//!
//! Options are object_store's own configuration keys. A key with `_file` or
//! `_env` appended takes its value from a file or from an environment variable;
//! what is secret is accepted only so. Unknown keys are refused when the replica
//! is opened, and by [`RepositoryConfig::problems`] without opening anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Component, PathBuf};

use holdfast_proto::Fingerprint;
use holdfast_proto::names::{ProviderName, Region};
use holdfast_proto::residency::Place;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::store;

/// Where a repository's replicas lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositoryConfig {
    /// The replicas, in the order in which they are read unless said otherwise.
    pub replicas: Vec<ReplicaConfig>,
    /// Fingerprint of the trust root. Without it nothing can be called trusted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trust_root: Option<Fingerprint>,
}

/// One replica: a prefix in an object store.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaConfig {
    /// `file:///directory`, `s3://bucket/prefix`, `gs://bucket/prefix` or
    /// `az://container/prefix`.
    pub url: String,
    /// The region's name, unique in the repository.
    pub region: Region,
    /// Options of the back end.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub options: BTreeMap<String, String>,
    /// Work with a store that does not enforce create-if-absent. What is lost:
    /// two writers at once, or a stolen credential, can replace an object, and
    /// only versions of the bucket and signatures show it.
    #[serde(default)]
    pub accept_without_conditional_create: bool,
    /// Who runs the store, when its location does not say it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub provider: Option<ProviderName>,
}

impl fmt::Debug for ReplicaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A secret may stand in an option by mistake until it is refused.
        f.debug_struct("ReplicaConfig")
            .field("url", &self.url)
            .field("region", &self.region)
            .field("options", &self.options.keys().collect::<Vec<_>>())
            .field(
                "accept_without_conditional_create",
                &self.accept_without_conditional_create,
            )
            .field("provider", &self.provider)
            .finish()
    }
}

/// Why a replica's configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The URL has no form that is known.
    #[error(
        "replica {region}: {url:?} is not a location: write file:///directory, s3://bucket/prefix, \
         gs://bucket/prefix or az://container/prefix"
    )]
    Url {
        /// The replica.
        region: Region,
        /// What stands there.
        url: String,
    },
    /// An option that the back end does not have.
    #[error(
        "replica {region}: {option:?} is not an option of {scheme}:// locations{hint}: use object_store's names, \
         for example {example}"
    )]
    UnknownOption {
        /// The replica.
        region: Region,
        /// The option.
        option: String,
        /// The kind of location.
        scheme: &'static str,
        /// More about this very option, or empty.
        hint: &'static str,
        /// A few that exist.
        example: &'static str,
    },
    /// A secret in the configuration file itself.
    #[error(
        "replica {region}: option {option:?} is a secret and may not stand in the configuration: put it in a \
         file and name the file in {option}_file, or an environment variable in {option}_env"
    )]
    InlineSecret {
        /// The replica.
        region: Region,
        /// The option.
        option: String,
    },
    /// A file or variable that an option refers to cannot be read.
    #[error("replica {region}: option {option:?} refers to {reference}, which cannot be read: {why}")]
    Reference {
        /// The replica.
        region: Region,
        /// The option.
        option: String,
        /// The file or variable.
        reference: String,
        /// The reason.
        why: String,
    },
    /// The back end refuses the options as a whole.
    #[error("replica {region}: the options cannot be used together: {why}")]
    Refused {
        /// The replica.
        region: Region,
        /// The back end's words.
        why: String,
    },
    /// Two replicas have one name, so that findings could not tell them apart.
    #[error("region {region} is named twice: give each replica a name of its own")]
    RegionTwice {
        /// The region.
        region: Region,
    },
    /// Two replicas are one place, which protects against nothing.
    #[error(
        "replicas {first} and {second} are the same location {url:?}: a copy in the same place is no copy"
    )]
    LocationTwice {
        /// The first.
        first: Region,
        /// The second.
        second: Region,
        /// The location.
        url: String,
    },
    /// No replica at all.
    #[error("the repository has no replica: add at least one [[repository.replicas]], better two")]
    NoReplica,
}

impl RepositoryConfig {
    /// Where its replicas are, for rules of residency.
    pub fn places(&self) -> Vec<Place> {
        self.replicas.iter().map(ReplicaConfig::place).collect()
    }

    /// All that is wrong with it, without contacting a store. References to
    /// files and variables are followed.
    pub fn problems(&self) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        if self.replicas.is_empty() {
            problems.push(ConfigError::NoReplica);
        }
        let mut regions = BTreeSet::new();
        let mut locations: BTreeMap<&str, &Region> = BTreeMap::new();
        for replica in &self.replicas {
            if !regions.insert(&replica.region) {
                problems.push(ConfigError::RegionTwice {
                    region: replica.region.clone(),
                });
            }
            let url = replica.url.trim_end_matches('/');
            // The same bucket name at another endpoint is another place.
            if replica.options.is_empty() {
                if let Some(first) = locations.get(url) {
                    problems.push(ConfigError::LocationTwice {
                        first: (*first).clone(),
                        second: replica.region.clone(),
                        url: replica.url.clone(),
                    });
                }
                locations.insert(url, &replica.region);
            }
            match replica.location() {
                Ok(location) => problems.extend(store::options::problems(replica, &location)),
                Err(problem) => problems.push(problem),
            }
        }
        problems
    }
}

/// A replica's URL taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory of this machine.
    File(PathBuf),
    /// A bucket of an S3 service, and a prefix (possibly empty) in it.
    S3 {
        /// The bucket.
        bucket: String,
        /// The prefix.
        prefix: String,
    },
    /// A bucket of Google Cloud Storage.
    Gcs {
        /// The bucket.
        bucket: String,
        /// The prefix.
        prefix: String,
    },
    /// A container of Azure Blob Storage.
    Azure {
        /// The container.
        container: String,
        /// The prefix.
        prefix: String,
    },
}

impl Location {
    /// The URL's scheme.
    pub const fn scheme(&self) -> &'static str {
        match self {
            Location::File(_) => "file",
            Location::S3 { .. } => "s3",
            Location::Gcs { .. } => "gs",
            Location::Azure { .. } => "az",
        }
    }
}

/// An option of a replica, its reference followed.
#[derive(Clone)]
pub struct FollowedOption {
    /// Its name, without `_file` and `_env`.
    pub name: String,
    /// Its value, which may be secret unless it stood in the configuration.
    pub value: Zeroizing<String>,
    /// Whether it stood in the configuration itself.
    pub inline: bool,
}

impl ReplicaConfig {
    /// Its options, for somebody who takes them to another machine.
    ///
    /// # Errors
    /// The location or an option is none, or a reference cannot be followed.
    pub fn followed_options(&self) -> Result<Vec<FollowedOption>, ConfigError> {
        store::options::followed(self, &self.location()?)
    }

    /// A replica in a directory, with nothing else to say about it.
    pub fn directory(region: Region, directory: &std::path::Path) -> Self {
        Self {
            url: format!("file://{}", directory.display()),
            region,
            options: BTreeMap::new(),
            accept_without_conditional_create: false,
            provider: None,
        }
    }

    /// Where it is, for rules of residency. Without a `provider` of its own a
    /// location tells: `local` for a directory, `aws`, `google` and `azure` for
    /// their services; who runs a service at another endpoint is not known.
    pub fn place(&self) -> Place {
        let elsewhere = self.options.keys().any(|key| {
            let key = key.to_ascii_lowercase();
            key.contains("endpoint") || key.contains("base_url") || key.contains("emulator")
        });
        let told = match self.location() {
            Ok(Location::File(_)) => Some("local"),
            _ if elsewhere => None,
            Ok(Location::S3 { .. }) => Some("aws"),
            Ok(Location::Gcs { .. }) => Some("google"),
            Ok(Location::Azure { .. }) => Some("azure"),
            Err(_) => None,
        };
        Place {
            region: Some(self.region.clone()),
            provider: self
                .provider
                .clone()
                .or_else(|| told.and_then(|name| name.parse().ok())),
        }
    }

    /// The URL taken apart.
    pub fn location(&self) -> Result<Location, ConfigError> {
        let bad = || ConfigError::Url {
            region: self.region.clone(),
            url: self.url.clone(),
        };
        let (scheme, rest) = self.url.split_once("://").ok_or_else(bad)?;
        if scheme == "file" {
            let path = PathBuf::from(rest);
            let plain = path
                .components()
                .all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
            return if path.is_absolute() && plain && path.parent().is_some() {
                Ok(Location::File(path))
            } else {
                Err(bad())
            };
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/').to_owned();
        let plain = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/'))
        };
        if bucket.is_empty()
            || !plain(bucket)
            || !plain(&prefix)
            || (!prefix.is_empty() && prefix.split('/').any(|name| matches!(name, "" | "." | "..")))
        {
            return Err(bad());
        }
        let bucket = bucket.to_owned();
        match scheme {
            "s3" => Ok(Location::S3 { bucket, prefix }),
            "gs" => Ok(Location::Gcs { bucket, prefix }),
            "az" => Ok(Location::Azure {
                container: bucket,
                prefix,
            }),
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(region: &str, url: &str, options: &[(&str, &str)]) -> ReplicaConfig {
        ReplicaConfig {
            url: url.to_owned(),
            region: region.parse().unwrap(),
            options: options
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            accept_without_conditional_create: false,
            provider: None,
        }
    }

    #[test]
    fn a_location_tells_who_runs_it_or_nothing_does() {
        let provider = |url: &str, options: &[(&str, &str)]| {
            let place = replica("eu", url, options).place();
            assert_eq!(place.region, "eu".parse().ok());
            place.provider.map(|p| p.to_string())
        };
        assert_eq!(provider("file:///srv/a", &[]).as_deref(), Some("local"));
        assert_eq!(provider("s3://b", &[("aws_region", "x")]).as_deref(), Some("aws"));
        assert_eq!(provider("gs://b", &[]).as_deref(), Some("google"));
        assert_eq!(provider("az://b", &[]).as_deref(), Some("azure"));
        assert_eq!(provider("s3://b", &[("aws_endpoint", "https://minio")]), None);
        assert_eq!(provider("s3://b", &[("AWS_ENDPOINT_URL_env", "E")]), None);
        assert_eq!(provider("nowhere", &[]), None);
        let mut named = replica("eu", "s3://b", &[("aws_endpoint", "https://minio")]);
        named.provider = "hetzner".parse().ok();
        assert_eq!(named.place().provider, "hetzner".parse().ok());
    }

    #[test]
    fn locations_are_taken_apart() {
        for (url, expected) in [
            ("file:///srv/holdfast", Location::File("/srv/holdfast".into())),
            (
                "s3://bucket/a/b/",
                Location::S3 {
                    bucket: "bucket".into(),
                    prefix: "a/b".into(),
                },
            ),
            (
                "gs://bucket",
                Location::Gcs {
                    bucket: "bucket".into(),
                    prefix: String::new(),
                },
            ),
            (
                "az://box/p",
                Location::Azure {
                    container: "box".into(),
                    prefix: "p".into(),
                },
            ),
        ] {
            assert_eq!(replica("r", url, &[]).location().unwrap(), expected, "{url}");
        }
        for bad in [
            "/srv/x",
            "file://srv/x",
            "file:///",
            "file:///srv/../etc",
            "ftp://x/y",
            "s3://",
            "s3://b//x",
            "s3://b/a b",
            "",
        ] {
            assert!(replica("r", bad, &[]).location().is_err(), "{bad}");
        }
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let config = RepositoryConfig {
            replicas: vec![
                replica("a", "file:///srv/x", &[]),
                replica("a", "file:///srv/x/", &[]),
                replica("b", "s3://bucket/p", &[("aws_secret_access_key", "hunter2")]),
                replica("c", "s3://bucket/p", &[("aws_secret_acess_key_file", "/x")]),
                replica("d", "nowhere", &[]),
            ],
            trust_root: None,
        };
        let problems = config.problems();
        assert!(
            matches!(problems[0], ConfigError::RegionTwice { .. }),
            "{problems:?}"
        );
        assert!(
            matches!(problems[1], ConfigError::LocationTwice { .. }),
            "{problems:?}"
        );
        assert!(
            matches!(problems[2], ConfigError::InlineSecret { .. }),
            "{problems:?}"
        );
        assert!(
            matches!(problems[3], ConfigError::UnknownOption { .. }),
            "{problems:?}"
        );
        assert!(matches!(problems[4], ConfigError::Url { .. }), "{problems:?}");
        assert_eq!(problems.len(), 5);
        let text = format!("{config:?} {problems:?}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn unknown_fields_are_refused() {
        let text = r#"{"url":"file:///x","region":"a","bucket":"y"}"#;
        assert!(serde_json::from_str::<ReplicaConfig>(text).is_err());
    }
}
