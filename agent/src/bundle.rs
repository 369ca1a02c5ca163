//! Configuration bundles: what a restored application needs beside its data.
//!
//! Two bundles, each one signed object whose payload is `age(zstd(tar))`:
//! - `config/<id>`, sealed to the data key: `catalogue.json` with the facts of the
//!   server's catalogues ([`catalogue`]), and under `files/` the server's own
//!   configuration files and those that the agent's configuration names.
//! - `secrets/<id>`, sealed to the secrets key, which drills cannot open: files
//!   named as secret, and every other file that looks like one ([`files`]).
//!
//! A bundle is written only when its content differs from the newest one's. A file
//! that is named and cannot be read is a finding, and the bundle is written
//! without it.
//!
//! If the process dies here, a bundle exists or does not; what the agent remembers
//! of the newest one is looked up again when it is lost.

pub mod catalogue;
pub mod files;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_proto::envelope::Link;
use holdfast_proto::names::BundleId;
use holdfast_proto::record::BundleBody;
use holdfast_proto::{ContentId, Timestamp};
use holdfast_repository::keyring::Wrapped;
use holdfast_repository::layout::{self, BundleKind, Located};
use holdfast_repository::listing::ListError;
use holdfast_repository::pack::{PackError, seal_frame};
use holdfast_repository::publication::{Publication, PublishError};
use holdfast_repository::publisher::Publisher;
use holdfast_repository::seal::{EpochKey, IndexKey};
use holdfast_repository::signed::ReadError;
use holdfast_repository::trust::Trust;
use serde::{Deserialize, Serialize};

use crate::config::ConfigurationConfig;
use crate::durable::{self, LocalFileError};
use crate::findings::Findings;
use crate::postgres::{PgError, PgTarget};
use files::Files;

/// The most plaintext that a bundle may have.
pub const MAX_BUNDLE: usize = 64 << 20;

/// A bundle that was not captured.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The server cannot be asked.
    #[error(transparent)]
    Server(#[from] PgError),
    /// The server refused a question.
    #[error("the server's catalogues cannot be read: grant pg_monitor to the role (holdfast agent sql)")]
    Catalogue(#[from] tokio_postgres::Error),
    /// A fact is not what it should be.
    #[error("the server's catalogues answered something that is not JSON: this is a bug, report it")]
    Json(#[from] serde_json::Error),
    /// The files are too large together.
    #[error(
        "the {0} bundle would have more than {MAX_BUNDLE} bytes: name fewer files in [cluster.configuration]"
    )]
    TooLarge(&'static str),
    /// The bundle could not be put together or sealed.
    #[error(transparent)]
    Seal(#[from] PackError),
    /// The newest bundle could not be looked up.
    #[error(transparent)]
    List(#[from] ListError),
    /// The newest bundle cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The repository did not take it.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The agent's memory cannot be kept.
    #[error(transparent)]
    Local(#[from] LocalFileError),
    /// A thread panicked.
    #[error("a thread of the capture ended unexpectedly: this is a bug, report it with the log")]
    Thread(#[from] tokio::task::JoinError),
}

/// With what bundles are captured.
pub struct Bundling<'b> {
    /// Where to, in whose name.
    pub publisher: &'b Publisher,
    /// Whom the agent believes, to read its own bundles back.
    pub trust: &'b Trust,
    /// To whom settings are sealed.
    pub data_key: &'b Wrapped<EpochKey>,
    /// To whom secrets are sealed.
    pub secrets_key: &'b Wrapped<EpochKey>,
    /// Trust records that must be on a replica first.
    pub needs: &'b [Link],
    /// The key of identities.
    pub index_key: Arc<IndexKey>,
    /// The server.
    pub target: &'b PgTarget,
    /// The data directory as the agent sees it, when that is another path.
    pub data_directory: Option<&'b Path>,
    /// What else to capture.
    pub configuration: &'b ConfigurationConfig,
    /// Where to say what is missing.
    pub findings: &'b Findings,
    /// A file for the agent's memory of the newest bundles.
    pub memory: PathBuf,
}

/// The newest bundle of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Newest {
    /// It.
    pub id: BundleId,
    /// The signed object.
    pub link: Link,
    /// Identity of its content.
    pub content: ContentId,
}

/// The newest bundles after a capture.
#[derive(Debug, Clone)]
pub struct Bundled {
    /// Settings and facts.
    pub config: Newest,
    /// Secrets, when there are any.
    pub secrets: Option<Newest>,
    /// Those that this capture wrote.
    pub written: Vec<BundleId>,
}

/// What the agent remembers, by kind.
type Memory = BTreeMap<String, Newest>;

impl Bundling<'_> {
    /// Captures both bundles and writes those that changed.
    pub async fn capture(&self) -> Result<Bundled, BundleError> {
        let facts = catalogue::read(self.target, self.findings).await?;
        let named = facts.server_files(self.data_directory);
        let (configuration, findings) = (self.configuration.clone(), self.findings.clone());
        let Files { open, secret } =
            tokio::task::spawn_blocking(move || files::collect(&named, &configuration, &findings)).await?;
        let mut written = Vec::new();
        let mut memory: Memory = durable::read(&self.memory)?
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let files = open.len() as u64;
        let tar = tar_of(Some(&facts.json()?), open).ok_or(BundleError::TooLarge("config"))?;
        let config = self
            .write(
                BundleKind::Config,
                self.data_key,
                tar,
                files,
                facts.counts(),
                &mut memory,
                &mut written,
            )
            .await?;
        let files = secret.len() as u64;
        let secrets = if secret.is_empty() && !memory.contains_key(BundleKind::Secrets.as_str()) {
            None
        } else {
            let tar = tar_of(None, secret).ok_or(BundleError::TooLarge("secrets"))?;
            let kind = BundleKind::Secrets;
            Some(
                self.write(
                    kind,
                    self.secrets_key,
                    tar,
                    files,
                    BTreeMap::new(),
                    &mut memory,
                    &mut written,
                )
                .await?,
            )
        };
        Ok(Bundled {
            config,
            secrets,
            written,
        })
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one call for each kind, nothing to group"
    )]
    async fn write(
        &self,
        kind: BundleKind,
        key: &Wrapped<EpochKey>,
        tar: Vec<u8>,
        files: u64,
        facts: BTreeMap<String, u64>,
        memory: &mut Memory,
        written: &mut Vec<BundleId>,
    ) -> Result<Newest, BundleError> {
        let content = self.index_key.content_id(&tar);
        let before = match memory.get(kind.as_str()) {
            Some(newest) => Some(newest.clone()),
            None => self.newest(kind).await?,
        };
        if let Some(before) = &before
            && before.content == content
        {
            memory.insert(kind.as_str().to_owned(), before.clone());
            return Ok(before.clone());
        }
        let sealing = key.key.clone();
        let payload = tokio::task::spawn_blocking(move || seal_frame(&sealing, &tar, 3)).await??;
        let at = Timestamp::from_chrono(chrono::Utc::now());
        let id = BundleId::from_parts(at, rand::random());
        let body = BundleBody {
            id,
            bundle: kind.as_str().to_owned(),
            at,
            files,
            facts,
            content,
        };
        let mut needs = self.needs.to_vec();
        needs.push(key.object.clone());
        let publication = Publication::begin(self.publisher, &needs).await?;
        let object = layout::bundle(&self.publisher.cluster, kind, id);
        let previous = before.map(|b| b.link);
        let committed = publication
            .commit(&object, &payload, Some(key.key.fingerprint), previous, &body)
            .await?;
        self.findings
            .committed(committed.findings, &committed.complete_on);
        let newest = Newest {
            id,
            link: committed.link,
            content,
        };
        memory.insert(kind.as_str().to_owned(), newest.clone());
        let bytes = serde_json::to_vec_pretty(memory)?;
        durable::replace(&self.memory, &bytes)?;
        tracing::info!(bundle = %id, kind = kind.as_str(), files, "configuration bundle written");
        written.push(id);
        Ok(newest)
    }

    /// The newest bundle in the repository.
    async fn newest(&self, kind: BundleKind) -> Result<Option<Newest>, BundleError> {
        let repository = &self.publisher.repository;
        let listing = repository
            .list(&layout::bundles(&self.publisher.cluster, kind))
            .await?;
        let newest = (listing.keys())
            .filter_map(|key| match layout::parse(key.as_str()) {
                Some(Located::Bundle { id, .. }) => Some((id, key)),
                _ => None,
            })
            .max();
        let Some((id, key)) = newest else { return Ok(None) };
        let (signed, _) = repository.read_signed::<BundleBody>(key, self.trust).await?;
        Ok(Some(Newest {
            id,
            link: signed.link(),
            content: signed.body().content,
        }))
    }
}

/// A tar of the facts and the files, the same for the same content. `None` when it
/// is too large.
fn tar_of(catalogue: Option<&[u8]>, files: Vec<files::Captured>) -> Option<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &Path, mode: u32, mtime: u64, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(mode);
        header.set_mtime(mtime);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content)
            .expect("memory takes every byte, and the path is relative");
        tar.get_ref().len() <= MAX_BUNDLE
    };
    if let Some(catalogue) = catalogue
        && !add(Path::new("catalogue.json"), 0o600, 0, catalogue)
    {
        return None;
    }
    for file in files {
        let relative = file.path.strip_prefix("/").unwrap_or(&file.path);
        if !add(
            &Path::new("files").join(relative),
            file.mode,
            file.mtime,
            &file.content,
        ) {
            return None;
        }
    }
    tar.into_inner().ok()
}
