//! Back ends: how a configured location becomes an object store.
//!
//! - [`file`]: a directory. Every create is fsynced, with the directories above
//!   it; leftovers of writers that died are swept.
//! - [`s3`]: S3 services, with the version listing that object_store lacks.
//! - [`cloud`]: Google Cloud Storage and Azure Blob Storage.
//! - [`options`]: options and secrets, one rule for all of them.
//!
//! Opening a back end contacts nothing: a location that is out of reach opens,
//! and every call on it fails by its own deadline.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use holdfast_proto::Timestamp;
use holdfast_proto::names::Region;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use crate::config::{ConfigError, Location, ReplicaConfig};

pub mod cloud;
pub mod file;
pub mod options;
pub mod s3;

/// An opened back end.
#[derive(Debug, Clone)]
pub struct BackEnd {
    /// The store, rooted at the replica's prefix.
    pub store: Arc<dyn ObjectStore>,
    /// The URL, for messages.
    pub location: String,
    /// The directory, when it is one.
    pub directory: Option<file::Directory>,
    /// What keeps versions, when the store does.
    pub history: Option<Arc<dyn VersionHistory>>,
    /// Whether listings come in the order of their keys.
    pub ordered: bool,
}

impl BackEnd {
    /// A store that was made elsewhere: tests, and stores wrapped to fail.
    pub fn from_store(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            location: store.to_string(),
            store,
            directory: None,
            history: None,
            ordered: false,
        }
    }

    /// Opens the back end that `config` names, without contacting it.
    pub fn open(config: &ReplicaConfig) -> Result<Self, ConfigError> {
        let location = config.location()?;
        let options = options::resolve(config, &location)?;
        let refused = |e: object_store::Error| ConfigError::Refused {
            region: config.region.clone(),
            why: e.to_string(),
        };
        Ok(match location {
            Location::File(path) => {
                let directory = file::Directory::new(path);
                Self {
                    store: Arc::new(directory.store().map_err(refused)?),
                    location: config.url.clone(),
                    directory: Some(directory),
                    history: None,
                    ordered: true,
                }
            }
            Location::S3 { bucket, prefix } => {
                let (store, versions) = s3::open(&bucket, &prefix, options).map_err(refused)?;
                Self {
                    store: prefixed(store, &prefix),
                    location: config.url.clone(),
                    directory: None,
                    history: Some(Arc::new(versions)),
                    ordered: true,
                }
            }
            Location::Gcs { bucket, prefix } => Self {
                store: prefixed(cloud::gcs(&bucket, options).map_err(refused)?, &prefix),
                location: config.url.clone(),
                directory: None,
                history: None,
                ordered: true,
            },
            Location::Azure { container, prefix } => Self {
                store: prefixed(cloud::azure(&container, options).map_err(refused)?, &prefix),
                location: config.url.clone(),
                directory: None,
                history: None,
                ordered: true,
            },
        })
    }
}

/// A way of looking at a repository's replicas other than plainly: drills look
/// at one whose copies are damaged or out of reach, without touching it.
pub trait Lens: fmt::Debug + Send + Sync {
    /// What is seen of `back`, the replica in `region`. A back end whose reads are
    /// to go through the lens must not keep its directory: the marker in it is
    /// looked at beside the store.
    fn through(&self, region: &Region, back: BackEnd) -> BackEnd;
}

fn prefixed<S: ObjectStore>(store: S, prefix: &str) -> Arc<dyn ObjectStore> {
    if prefix.is_empty() {
        Arc::new(store)
    } else {
        Arc::new(PrefixStore::new(store, Path::from(prefix)))
    }
}

/// One stored version of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The store's name for it; absent where the store keeps one version only.
    pub id: Option<String>,
    /// When it was stored, by the store's clock.
    pub modified: Timestamp,
    /// Bytes.
    pub size: u64,
    /// Whether a plain read returns this one.
    pub latest: bool,
}

/// What a store does against overwriting and deleting. `None` where the
/// credentials may not ask.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Protection {
    /// Overwritten and deleted objects keep their versions.
    pub versioning: Option<bool>,
    /// Versions can be locked against deletion.
    pub object_lock: Option<bool>,
}

/// What keeps one stored version from being deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// Nothing does.
    None,
    /// Nobody may before this moment, whatever their credentials.
    Until(Timestamp),
    /// As before, but credentials with a permission for it may lift it.
    Liftable(Timestamp),
}

/// A store that keeps versions.
#[async_trait]
pub trait VersionHistory: fmt::Debug + Send + Sync {
    /// All versions of the object at `path` (relative to the replica's prefix),
    /// oldest first, without delete markers.
    async fn versions(&self, path: &Path) -> object_store::Result<Vec<Version>>;

    /// The objects below `prefix` (relative to the replica's prefix, empty or
    /// ending in `/`) that were overwritten or deleted since they were created,
    /// in the order of their keys, relative to the replica's prefix.
    fn rewritten(&self, prefix: &str) -> BoxStream<'_, object_store::Result<String>>;

    /// What keeps a version of the object at `path` from being deleted; the current
    /// one without a name of it.
    async fn lock(&self, path: &Path, version: Option<&str>) -> object_store::Result<Lock>;

    /// What the store does against overwriting and deleting.
    async fn protection(&self) -> object_store::Result<Protection>;

    /// Asks the store to delete one version of the object at `path`. For drills
    /// alone, which prove that credentials are refused this: no operation on a
    /// repository calls it, and a [`crate::Replica`] has no way to it.
    async fn delete_version(&self, path: &Path, version: &str) -> object_store::Result<()>;
}

/// HTTP options of every cloud back end. Whole-request timeouts are off because
/// they would count a large body's transfer; each call has a deadline of its
/// own, which knows how many bytes it moves.
fn client_options() -> ClientOptions {
    ClientOptions::new()
        .with_timeout_disabled()
        .with_read_timeout(Duration::from_secs(180))
        .with_connect_timeout(Duration::from_secs(5))
}

/// Retries below ours: few and short. They smooth over one refused request;
/// what lasts longer is for our own loop, which renews credentials and reads
/// back what may have happened.
fn retry_config() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: 2,
        retry_timeout: Duration::from_secs(10),
    }
}
