//! Unpacks configuration and secrets bundles into a directory of their own.
//!
//! Nothing is put where an application would read it: the operator compares and
//! copies. A secrets bundle opens with the recovery or the escrow identity only.
//! Every path stays below the directory; everything is a plain file, readable by
//! its owner alone.

use std::io::{self, Read};
use std::path::{Component, Path};

use holdfast_proto::envelope::Link;
use holdfast_proto::finding::Finding;
use holdfast_proto::record::BundleBody;
use holdfast_repository::FetchError;
use holdfast_repository::pack::{PackError, open_frame};

use super::access::Access;
use super::data_directory::read_linked;
use crate::bundle::MAX_BUNDLE;
use crate::durable::{self, LocalFileError};

/// A bundle that was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It cannot be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It does not open.
    #[error("the {bundle} bundle cannot be opened: {source}")]
    Open {
        /// `config` or `secrets`.
        bundle: String,
        /// Why.
        source: PackError,
    },
    /// It is not the archive that it should be.
    #[error("the {bundle} bundle is damaged ({why}): do not use it, and report it")]
    Damaged {
        /// `config` or `secrets`.
        bundle: String,
        /// In what.
        why: String,
    },
    /// A file could not be written.
    #[error(transparent)]
    Local(#[from] LocalFileError),
}

/// What was unpacked.
#[derive(Debug, Default)]
pub struct Unpacked {
    /// Files written.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was wrong with copies, and was healed.
    pub findings: Vec<Finding>,
}

/// Unpacks the bundle at `link` into `directory`.
pub async fn unpack(access: &Access, link: &Link, directory: &Path) -> Result<Unpacked, UnpackError> {
    let (signed, findings) = read_linked::<BundleBody>(access, link).await?;
    let bundle = signed.body().bundle.clone();
    let damaged = |why: &str| UnpackError::Damaged {
        bundle: bundle.clone(),
        why: why.to_owned(),
    };
    let sealed_to = signed
        .header
        .payload
        .sealed_to
        .ok_or_else(|| damaged("it is not sealed"))?;
    let tar = open_frame(&access.keyring, &sealed_to, &signed.payload, MAX_BUNDLE).map_err(|source| {
        UnpackError::Open {
            bundle: bundle.clone(),
            source,
        }
    })?;
    let mut unpacked = Unpacked {
        findings,
        ..Unpacked::default()
    };
    let mut archive = tar::Archive::new(tar.as_slice());
    let unreadable = |e: io::Error| damaged(&e.to_string());
    for entry in archive.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let path = entry.path().map_err(unreadable)?.into_owned();
        let stays = path.components().all(|c| matches!(c, Component::Normal(_)));
        if !stays || !entry.header().entry_type().is_file() {
            return Err(damaged("it holds something that is not a plain file below it"));
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(unreadable)?;
        let place = directory.join(&path);
        if let Some(parent) = place.parent() {
            durable::create_directory(parent)?;
        }
        durable::replace(&place, &content)?;
        unpacked.files += 1;
        unpacked.bytes += content.len() as u64;
    }
    Ok(unpacked)
}
