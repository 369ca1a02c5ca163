//! holdfast
pub mod seal;
pub mod secret_file;
pub mod scrub;
pub mod signing;
pub mod layout;
pub mod signed;
pub mod trust;
pub mod keyring;
pub mod pack;
pub mod authority;
pub mod clock;
pub mod config;
pub mod evidence;
pub mod fetch;
pub mod listing;
pub mod opened;
pub mod probe;
pub mod replica;
pub mod store;

pub use config::{ReplicaConfig, RepositoryConfig};
pub use fetch::{FetchError, Fetched, Found};
pub use listing::{Presence, UnionListing};
pub use opened::{OpenError, Repository};
pub use replica::{Class, Created, Deadlines, Listed, Replica, StoreError};
pub mod manifest;
pub mod packer;
