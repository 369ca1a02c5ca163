//! Options of back ends: their names, and where secrets come from.

use std::collections::BTreeMap;
use std::str::FromStr;

use object_store::ClientConfigKey;
use object_store::aws::AmazonS3ConfigKey;
use object_store::azure::AzureConfigKey;
use object_store::gcp::GoogleConfigKey;

use zeroize::Zeroizing;

use crate::config::{ConfigError, FollowedOption, Location, ReplicaConfig};

/// The options of one back end, resolved: values in place of references.
#[derive(Clone)]
pub struct Resolved(Vec<(String, String)>);

impl Resolved {
    /// Names and values. The names are known to be the back end's.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
}

/// What an option of a back end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Secret,
    /// The URL says it already.
    InUrl,
    /// Would undo what every store here must do.
    Fixed,
    Unknown,
}

fn kind(location: &Location, option: &str) -> Kind {
    fn known<K: FromStr>(option: &str, sort: impl Fn(K) -> Kind) -> Kind {
        option.parse().map_or(Kind::Unknown, sort)
    }
    match location {
        Location::File(_) => Kind::Unknown,
        Location::S3 { .. } => known(option, |key| match key {
            AmazonS3ConfigKey::SecretAccessKey | AmazonS3ConfigKey::Token => Kind::Secret,
            // The type that tells these apart is private to object_store.
            AmazonS3ConfigKey::Encryption(_) if option.contains("customer_key") => Kind::Secret,
            AmazonS3ConfigKey::Bucket => Kind::InUrl,
            AmazonS3ConfigKey::ConditionalPut | AmazonS3ConfigKey::S3Express => Kind::Fixed,
            AmazonS3ConfigKey::Client(key) => of_client(key),
            _ => Kind::Plain,
        }),
        Location::Gcs { .. } => known(option, |key| match key {
            GoogleConfigKey::ServiceAccountKey | GoogleConfigKey::BearerToken => Kind::Secret,
            GoogleConfigKey::Bucket => Kind::InUrl,
            GoogleConfigKey::Client(key) => of_client(key),
            _ => Kind::Plain,
        }),
        Location::Azure { .. } => known(option, |key| match key {
            AzureConfigKey::AccessKey
            | AzureConfigKey::ClientSecret
            | AzureConfigKey::SasKey
            | AzureConfigKey::Token
            | AzureConfigKey::EncryptionKey
            | AzureConfigKey::FabricSessionToken => Kind::Secret,
            AzureConfigKey::ContainerName => Kind::InUrl,
            AzureConfigKey::Client(key) => of_client(key),
            _ => Kind::Plain,
        }),
    }
}

fn of_client(key: ClientConfigKey) -> Kind {
    match key {
        ClientConfigKey::Timeout | ClientConfigKey::ReadTimeout => Kind::Fixed,
        _ => Kind::Plain,
    }
}

/// Where an option's value comes from.
enum Source<'a> {
    Inline(&'a str),
    File(&'a str),
    Environment(&'a str),
}

fn source<'a>(
    config: &ReplicaConfig,
    location: &Location,
    option: &'a str,
    value: &'a str,
) -> Result<(&'a str, Source<'a>), ConfigError> {
    let unknown = |hint| ConfigError::UnknownOption {
        region: config.region.clone(),
        option: option.to_owned(),
        scheme: location.scheme(),
        hint,
        example: match location {
            Location::File(_) => "none: a directory has no options",
            Location::S3 { .. } => {
                "aws_endpoint, aws_region, aws_access_key_id_file, aws_secret_access_key_file"
            }
            Location::Gcs { .. } => "google_service_account, google_application_credentials",
            Location::Azure { .. } => "azure_storage_account_name, azure_storage_account_key_file",
        },
    };
    // An option whose own name ends in `_file` comes first.
    match kind(location, option) {
        Kind::Plain => return Ok((option, Source::Inline(value))),
        Kind::Secret => {
            return Err(ConfigError::InlineSecret {
                region: config.region.clone(),
                option: option.to_owned(),
            });
        }
        Kind::InUrl => return Err(unknown(" (the URL names it)")),
        Kind::Fixed => return Err(unknown(" that may be changed (holdfast sets it)")),
        Kind::Unknown => {}
    }
    let (name, source) = if let Some(name) = option.strip_suffix("_file") {
        (name, Source::File(value))
    } else if let Some(name) = option.strip_suffix("_env") {
        (name, Source::Environment(value))
    } else {
        return Err(unknown(""));
    };
    match kind(location, name) {
        Kind::Plain | Kind::Secret => Ok((name, source)),
        Kind::InUrl => Err(unknown(" (the URL names it)")),
        Kind::Fixed => Err(unknown(" that may be changed (holdfast sets it)")),
        Kind::Unknown => Err(unknown("")),
    }
}

fn value(config: &ReplicaConfig, option: &str, source: Source<'_>) -> Result<String, ConfigError> {
    let failed = |reference: String, why: String| ConfigError::Reference {
        region: config.region.clone(),
        option: option.to_owned(),
        reference,
        why,
    };
    match source {
        Source::Inline(value) => Ok(value.to_owned()),
        Source::File(path) => std::fs::read_to_string(path)
            .map(|text| text.trim_end_matches(['\n', '\r']).to_owned())
            .map_err(|e| failed(format!("the file {path}"), e.to_string())),
        Source::Environment(name) => {
            std::env::var(name).map_err(|e| failed(format!("the environment variable {name}"), e.to_string()))
        }
    }
}

fn each<'a>(
    config: &'a ReplicaConfig,
    location: &'a Location,
) -> impl Iterator<Item = Result<(String, String), ConfigError>> + 'a {
    let options: &BTreeMap<String, String> = &config.options;
    options.iter().map(move |(option, text)| {
        let (name, from) = source(config, location, option, text)?;
        Ok((name.to_owned(), value(config, option, from)?))
    })
}

/// The options with references followed; the first that is wrong.
pub fn resolve(config: &ReplicaConfig, location: &Location) -> Result<Resolved, ConfigError> {
    each(config, location).collect::<Result<_, _>>().map(Resolved)
}

/// The options with references followed, each with whether its value stood in the
/// configuration itself.
pub fn followed(config: &ReplicaConfig, location: &Location) -> Result<Vec<FollowedOption>, ConfigError> {
    let options = config.options.iter().map(|(option, text)| {
        let (name, from) = source(config, location, option, text)?;
        Ok(FollowedOption {
            name: name.to_owned(),
            inline: matches!(from, Source::Inline(_)),
            value: Zeroizing::new(value(config, option, from)?),
        })
    });
    options.collect()
}

/// All options that are wrong.
pub fn problems(config: &ReplicaConfig, location: &Location) -> Vec<ConfigError> {
    each(config, location).filter_map(Result::err).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(url: &str, options: &[(&str, &str)]) -> ReplicaConfig {
        ReplicaConfig {
            url: url.to_owned(),
            region: "r".parse().unwrap(),
            options: options
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            accept_without_conditional_create: false,
            provider: None,
        }
    }

    fn resolved(config: &ReplicaConfig) -> Result<Vec<(String, String)>, ConfigError> {
        resolve(config, &config.location().unwrap()).map(|r| r.0)
    }

    #[test]
    fn secrets_come_from_files() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "hunter2\n").unwrap();
        let config = replica(
            "s3://b/p",
            &[
                ("aws_region", "eu-west-1"),
                ("aws_secret_access_key_file", secret.to_str().unwrap()),
                ("aws_web_identity_token_file", "/run/token"),
            ],
        );
        assert_eq!(
            resolved(&config).unwrap(),
            [
                ("aws_region".to_owned(), "eu-west-1".to_owned()),
                ("aws_secret_access_key".to_owned(), "hunter2".to_owned()),
                ("aws_web_identity_token_file".to_owned(), "/run/token".to_owned()),
            ]
        );
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for (url, option) in [
            ("s3://b", "aws_token"),
            ("gs://b", "google_service_account_key"),
            ("az://b", "azure_storage_account_key"),
        ] {
            let error = resolved(&replica(url, &[(option, "x")])).unwrap_err();
            assert!(matches!(error, ConfigError::InlineSecret { .. }), "{error}");
            assert!(error.to_string().contains(&format!("{option}_file")), "{error}");
        }
        for (url, option) in [
            ("s3://b", "aws_bucket"),
            ("s3://b", "aws_conditional_put"),
            ("s3://b", "timeout"),
            ("s3://b", "azure_endpoint"),
            ("file:///srv/x", "aws_region"),
            ("az://b", "container_name_env"),
        ] {
            let error = resolved(&replica(url, &[(option, "x")])).unwrap_err();
            assert!(matches!(error, ConfigError::UnknownOption { .. }), "{error}");
        }
        let error = resolved(&replica(
            "s3://b",
            &[("aws_token_env", "HOLDFAST_NO_SUCH_VARIABLE")],
        ))
        .unwrap_err();
        assert!(matches!(error, ConfigError::Reference { .. }), "{error}");
    }
}
