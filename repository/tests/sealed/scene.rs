//! A repository in directories, with a root, an agent and recipients.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use holdfast_proto::Timestamp;
use holdfast_proto::manifest::{CatalogueLine, EntryType, Part};
use holdfast_proto::names::{ClusterId, Epoch, FilestoreName, KeyKind, ObjectKey, RecipientRole, Region};
use holdfast_proto::record::{JournalBody, JournalKind, SealedTo, Totals, TrustAct, TrustRole};
use holdfast_repository::keyring::{Wrapped, ensure_epoch_key};
use holdfast_repository::manifest::PartWriter;
use holdfast_repository::packer::Packer;
use holdfast_repository::publication::{Committed, Publication, PublishError};
use holdfast_repository::publisher::Publisher;
use holdfast_repository::seal::{EpochKey, Identity, IndexKey};
use holdfast_repository::signing::SigningKey;
use holdfast_repository::trust::{self, Trust, enrolment};
use holdfast_repository::{Deadlines, ReplicaConfig, Repository, RepositoryConfig, layout};
use tempfile::TempDir;

pub const NOW: Timestamp = Timestamp::from_unix_micros(1_795_000_000_000_000);

pub struct Scene {
    pub dir: TempDir,
    pub config: RepositoryConfig,
    pub repository: Repository,
    pub root: SigningKey,
    pub trust: Trust,
    pub publisher: Publisher,
    pub recovery: Identity,
    pub drill: Identity,
    pub recipients: Vec<SealedTo>,
}

pub fn region(text: &str) -> Region {
    text.parse().unwrap()
}

pub fn cluster() -> ClusterId {
    "acme/erp".parse().unwrap()
}

pub fn filestore() -> FilestoreName {
    "odoo".parse().unwrap()
}

/// Deadlines for replicas that a test takes away.
pub fn impatient() -> Deadlines {
    // Long enough for a busy disk's fsync, which these directories wait for.
    let patience = std::time::Duration::from_secs(3);
    Deadlines {
        call: patience,
        attempt: patience,
        ..Deadlines::default()
    }
}

impl Scene {
    /// With replicas `a`, `b` … and `copies` wanted.
    pub async fn new(replicas: &[&str], copies: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = SigningKey::generate_ed25519().unwrap();
        let agent = SigningKey::generate_ed25519().unwrap();
        let config = RepositoryConfig {
            replicas: replicas
                .iter()
                .map(|name| ReplicaConfig {
                    url: format!("file://{}", dir.path().join(name).display()),
                    region: region(name),
                    options: Default::default(),
                    accept_without_conditional_create: false,
                    provider: None,
                })
                .collect(),
            trust_root: Some(root.fingerprint()),
        };
        let repository = Repository::init(&config, root.fingerprint(), NOW)
            .await
            .unwrap()
            .with_deadlines(impatient());
        let (key, first) = trust::genesis(&root, &"root".parse().unwrap(), repository.id(), NOW).unwrap();
        everywhere(&repository, &key, first.into()).await;
        let recovery = Identity::generate();
        let drill = Identity::generate();
        let recipients = vec![
            SealedTo {
                role: RecipientRole::Drill,
                recipient: drill.recipient().to_string(),
            },
            SealedTo {
                role: RecipientRole::Recovery,
                recipient: recovery.recipient().to_string(),
            },
        ];
        let trust = Trust::load(&repository, &root.fingerprint()).await.unwrap();
        let publisher = Publisher {
            repository: repository.clone(),
            cluster: cluster(),
            signer: Arc::new(agent),
            lease: Some(1),
            copies,
        };
        let mut scene = Self {
            dir,
            config,
            repository,
            root,
            trust,
            publisher,
            recovery,
            drill,
            recipients,
        };
        let act = enrolment(
            scene.publisher.signer.verifying(),
            &"agent-1".parse().unwrap(),
            TrustRole::Agent,
            &[cluster()],
        );
        scene.act(vec![act]).await;
        scene
    }

    /// Appends a trust record on every replica, and reads the chain again.
    pub async fn act(&mut self, acts: Vec<TrustAct>) {
        let (key, record) = trust::append(&self.trust, acts, &self.root, NOW).unwrap();
        everywhere(&self.repository, &key, record.into()).await;
        self.trust = self.load_trust().await;
    }

    pub async fn load_trust(&self) -> Trust {
        Trust::load(&self.repository, &self.root.fingerprint())
            .await
            .unwrap()
    }

    /// The same repository, opened anew.
    pub async fn reopened(&self) -> Repository {
        Repository::open(&self.config)
            .await
            .unwrap()
            .with_deadlines(impatient())
    }

    pub fn path(&self, replica: &str, key: &ObjectKey) -> PathBuf {
        self.dir.path().join(replica).join(key.as_str())
    }

    pub fn has(&self, replica: &str, key: &ObjectKey) -> bool {
        self.path(replica, key).exists()
    }

    /// Takes a replica away.
    pub fn cut(&self, replica: &str) {
        std::fs::rename(
            self.dir.path().join(replica),
            self.dir.path().join(format!("{replica}.away")),
        )
        .unwrap();
    }

    /// Brings it back.
    pub fn mend(&self, replica: &str) {
        std::fs::rename(
            self.dir.path().join(format!("{replica}.away")),
            self.dir.path().join(replica),
        )
        .unwrap();
    }

    pub async fn epoch_key(&self) -> Wrapped<EpochKey> {
        ensure_epoch_key(&self.publisher, KeyKind::Data, Epoch::of(NOW), &self.recipients)
            .await
            .unwrap()
    }

    /// The same writer, content with `copies`.
    pub fn publisher_with(&self, copies: usize) -> Capture<'_> {
        Capture {
            scene: self,
            publisher: Publisher {
                copies,
                ..self.publisher.clone()
            },
        }
    }

    /// Captures files as entry `n` of the filestore's journal.
    pub async fn capture(
        &self,
        n: u64,
        files: &[(&str, Vec<u8>)],
        previous: Option<&Committed>,
    ) -> Result<Committed, PublishError> {
        self.publisher_with(self.publisher.copies)
            .capture(n, files, previous)
            .await
    }

    pub async fn store(
        &self,
        publication: &Publication,
        key: &EpochKey,
        files: &[(&str, Vec<u8>)],
    ) -> Result<(Vec<Part>, Totals), PublishError> {
        let mut packer = Packer::new(key.clone(), IndexKey::generate(), 1);
        let mut writer = PartWriter::new(key.clone());
        let mut totals = Totals::default();
        for (path, content) in files {
            packer.push(content).unwrap();
            packer.end(path.as_bytes(), None, line(path, content)).unwrap();
            totals.entries += 1;
            totals.bytes += content.len() as u64;
        }
        packer.flush().unwrap();
        while let Some(pack) = packer.take_pack() {
            publication.put_pack(&pack).await?;
        }
        let mut parts = Vec::new();
        while let Some(entry) = packer.take_entry() {
            if let Some(part) = writer.add(entry).unwrap() {
                parts.push(publication.put_part(part).await?);
            }
        }
        if let Some(part) = writer.finish().unwrap() {
            parts.push(publication.put_part(part).await?);
        }
        totals.stored = publication.stored();
        totals.to_read = totals.stored;
        Ok((parts, totals))
    }
}

/// A writer at work in a scene.
pub struct Capture<'a> {
    scene: &'a Scene,
    publisher: Publisher,
}

impl Capture<'_> {
    /// Entry `n` of the filestore's journal: a checkpoint for the first, a delta
    /// for the others.
    pub async fn capture(
        &self,
        n: u64,
        files: &[(&str, Vec<u8>)],
        previous: Option<&Committed>,
    ) -> Result<Committed, PublishError> {
        let scene = self.scene;
        let key = ensure_epoch_key(&self.publisher, KeyKind::Data, Epoch::of(NOW), &scene.recipients)
            .await
            .unwrap();
        let mut needs = scene.trust.records().to_vec();
        needs.push(key.object.clone());
        needs.extend(previous.map(|p| p.link.clone()));
        let publication = Publication::begin(&self.publisher, &needs).await?;
        let (parts, totals) = scene.store(&publication, &key.key, files).await?;
        let body = JournalBody {
            filestore: filestore(),
            n,
            entry: if n == 1 {
                JournalKind::Checkpoint
            } else {
                JournalKind::Delta
            },
            checkpoint: 1,
            adapter: "none".to_owned(),
            scanned_from: NOW,
            scanned_until: NOW,
            parts,
            removed: 0,
            dirty: 0,
            files: totals.entries,
            bytes: totals.bytes,
            totals,
        };
        let at = layout::journal(&cluster(), &filestore(), n);
        publication
            .commit(&at, &[], None, previous.map(|p| p.link.clone()), &body)
            .await
    }
}

pub fn line(path: &str, content: &[u8]) -> CatalogueLine {
    CatalogueLine {
        path: path.to_owned(),
        path_bytes: None,
        kind: EntryType::File,
        mode: 0o640,
        size: content.len() as u64,
        mtime: Some(NOW),
        b3: Some(holdfast_proto::Blake3Digest::new(
            *blake3::hash(content).as_bytes(),
        )),
        note: None,
    }
}

pub async fn everywhere(repository: &Repository, key: &ObjectKey, bytes: Bytes) {
    for replica in repository.replicas() {
        replica.create(key, bytes.clone()).await.unwrap();
    }
}

/// Bytes that zstd cannot shorten.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

/// Flips a bit of a stored object.
pub fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = at.min(bytes.len() - 1);
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}
