//! What can go wrong with one call on one replica.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::names::{ObjectKey, Region, RepositoryId};

/// What a caller does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// May succeed later: the replica is out of reach or overloaded.
    Retry,
    /// The object is not there.
    NotFound,
    /// Other bytes stand at the key.
    Conflict,
    /// The credentials do not suffice.
    Denied,
    /// What was read is not what was stored.
    Corrupt,
    /// Asked for something that cannot be.
    Invalid,
}

/// What was being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Creating an object.
    Create,
    /// Replacing a damaged copy.
    Replace,
    /// Reading an object, a range, or its size.
    Read,
    /// Listing a prefix.
    List,
    /// Listing an object's versions.
    Versions,
    /// Asking what keeps an object from being deleted.
    Lock,
    /// Finding out what the store protects.
    Probe,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Operation::Create => "create",
            Operation::Replace => "replace",
            Operation::Read => "read",
            Operation::List => "list",
            Operation::Versions => "list the versions of",
            Operation::Lock => "ask for the lock of",
            Operation::Probe => "probe",
        })
    }
}

/// Why one attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The store said so.
    #[error(transparent)]
    Store(#[from] object_store::Error),
    /// The disk said so.
    #[error(transparent)]
    Disk(#[from] io::Error),
    /// The store said nothing.
    #[error("no answer within {0:?}")]
    NoAnswer(Duration),
    /// The body ended early or did not end.
    #[error("{found} bytes came where {expected} were announced")]
    Length {
        /// Bytes announced or asked for.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// A store that lists in order did not.
    #[error("the listing came out of order: {0}")]
    OutOfOrder(String),
}

impl Cause {
    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            Cause::Store(e) => class_of(e),
            Cause::Disk(e) => class_of_io(e).unwrap_or(Class::Retry),
            Cause::NoAnswer(_) => Class::Retry,
            Cause::Length { .. } => Class::Corrupt,
            Cause::OutOfOrder(_) => Class::Invalid,
        }
    }
}

fn class_of(error: &object_store::Error) -> Class {
    use object_store::Error as E;
    match error {
        E::NotFound { .. } => Class::NotFound,
        E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. } => Class::Conflict,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => Class::Denied,
        E::InvalidPath { .. }
        | E::NotSupported { .. }
        | E::NotImplemented { .. }
        | E::UnknownConfigurationKey { .. } => Class::Invalid,
        // A disk's own reason is hidden in the chain; what it is decides
        // whether trying again makes sense.
        other => io_source(other).and_then(class_of_io).unwrap_or(Class::Retry),
    }
}

fn io_source<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    let mut at = Some(error);
    while let Some(e) = at {
        if let Some(io) = e.downcast_ref::<io::Error>() {
            return Some(io);
        }
        at = e.source();
    }
    None
}

fn class_of_io(error: &io::Error) -> Option<Class> {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Some(Class::Denied),
        io::ErrorKind::InvalidFilename | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
            Some(Class::Invalid)
        }
        _ => None,
    }
}

/// A call on a replica that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("replica {region} has no object {key}")]
    NotFound {
        /// The replica.
        region: Region,
        /// The object.
        key: ObjectKey,
    },
    /// The key is taken.
    #[error(
        "replica {region} holds other bytes at {key}: another writer was first, or the same name was used twice"
    )]
    Conflict {
        /// The replica.
        region: Region,
        /// The object.
        key: ObjectKey,
    },
    /// The store refuses the credentials.
    #[error(
        "replica {region} does not allow to {operation} {subject}: check what the credentials for {location} may do"
    )]
    Denied {
        /// The replica.
        region: Region,
        /// What was being done.
        operation: Operation,
        /// The object or prefix.
        subject: String,
        /// The replica's URL.
        location: String,
        /// The store's words.
        source: Arc<Cause>,
    },
    /// The store answers with something else than it announces.
    #[error("replica {region} does not return {subject} whole: its copy is truncated or unreadable")]
    Corrupt {
        /// The replica.
        region: Region,
        /// The object.
        subject: String,
        /// What came.
        source: Arc<Cause>,
    },
    /// The back end cannot do this.
    #[error("replica {region} cannot {operation} {subject}")]
    Invalid {
        /// The replica.
        region: Region,
        /// What was being done.
        operation: Operation,
        /// The object or prefix.
        subject: String,
        /// The store's words.
        source: Arc<Cause>,
    },
    /// Every attempt failed.
    #[error(
        "replica {region} could not {operation} {subject} in {attempts} attempt(s){}: check that {location} \
         can be reached and is healthy",
        if *.uncertain { " (it may have happened)" } else { "" }
    )]
    Unavailable {
        /// The replica.
        region: Region,
        /// What was being done.
        operation: Operation,
        /// The object or prefix.
        subject: String,
        /// The replica's URL.
        location: String,
        /// How often it was tried.
        attempts: u32,
        /// For writes: it may have happened all the same.
        uncertain: bool,
        /// Why the last attempt failed.
        source: Arc<Cause>,
    },
    /// The place is there, the repository is not in it.
    #[error(
        "replica {region}: {location} holds no repository.json: the volume is not mounted, the bucket is gone, \
         or the replica is new (`holdfast repo init --add-replica {region}`)"
    )]
    Gone {
        /// The replica.
        region: Region,
        /// The replica's URL.
        location: String,
    },
    /// Another repository lies there.
    #[error(
        "replica {region}: {location} holds repository {found}, not {expected}: correct the replica's URL"
    )]
    Another {
        /// The replica.
        region: Region,
        /// The replica's URL.
        location: String,
        /// The repository that was opened.
        expected: RepositoryId,
        /// The one that lies there.
        found: RepositoryId,
    },
    /// `repository.json` is not what it should be.
    #[error("replica {region}: repository.json of {location} cannot be understood: {why}")]
    BadDocument {
        /// The replica.
        region: Region,
        /// The replica's URL.
        location: String,
        /// What is wrong with it.
        why: String,
    },
    /// Larger than any object of a repository.
    #[error("object {key} has {size} bytes, more than the {limit} that an object may have")]
    TooLarge {
        /// The object.
        key: ObjectKey,
        /// Its bytes.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// A prefix to list must end in `/` or be empty.
    #[error("{prefix:?} is not a prefix that can be listed: this is a defect of holdfast, please report it")]
    BadPrefix {
        /// The prefix.
        prefix: String,
    },
}

impl StoreError {
    /// What a caller does about it.
    pub fn class(&self) -> Class {
        match self {
            StoreError::NotFound { .. } => Class::NotFound,
            StoreError::Conflict { .. } => Class::Conflict,
            StoreError::Denied { .. } => Class::Denied,
            StoreError::Corrupt { .. } => Class::Corrupt,
            StoreError::Unavailable { .. } | StoreError::Gone { .. } => Class::Retry,
            StoreError::Invalid { .. }
            | StoreError::Another { .. }
            | StoreError::BadDocument { .. }
            | StoreError::TooLarge { .. }
            | StoreError::BadPrefix { .. } => Class::Invalid,
        }
    }

    /// For a write: whether it may have happened although it failed.
    pub fn may_have_happened(&self) -> bool {
        matches!(self, StoreError::Unavailable { uncertain: true, .. })
    }

    /// The error with its causes, in one line.
    pub fn explained(&self) -> String {
        explained(self)
    }
}

/// An error with its causes, in one line.
pub fn explained(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(e) = at {
        let more = e.to_string();
        // Some libraries repeat their source in their own words.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        at = e.source();
    }
    text
}
