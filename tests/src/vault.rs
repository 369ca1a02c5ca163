//! A repository for tests: real keys, real trust, stores that fail when told.
//!
//! Each region is a directory of its own behind a [`FaultPlan`]. The vault holds
//! all sides: the writer's (publisher, epoch keys, index key) and the reader's
//! (trust, the drill's identity), so that a test can read back what an agent
//! wrote.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use holdfast_proto::envelope::{Link, Record};
use holdfast_proto::names::{ClusterId, Epoch, KeyKind, ObjectKey, RecipientRole, Region};
use holdfast_proto::record::{SealedTo, TrustAct, TrustRole};
use holdfast_repository::authority::{self, Authority};
use holdfast_repository::clock::now;
use holdfast_repository::keyring::{Keyring, Wrapped, ensure_epoch_key, ensure_index_key};
use holdfast_repository::publisher::Publisher;
use holdfast_repository::seal::{EpochKey, Identities, Identity, IndexKey};
use holdfast_repository::signed::Signed;
use holdfast_repository::signing::SigningKey;
use holdfast_repository::trust::{self, Trust};
use holdfast_repository::{Deadlines, Repository};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use tempfile::TempDir;

use crate::faulty::{FaultPlan, FaultyStore};

/// A repository and everybody's keys.
pub struct Vault {
    dir: TempDir,
    places: Vec<(Region, PathBuf, FaultPlan)>,
    root: SigningKey,
    signer: Arc<SigningKey>,
    drill: Identity,
    /// The cluster that is protected.
    pub cluster: ClusterId,
    /// The repository over the faulty stores.
    pub repository: Repository,
}

impl Vault {
    /// A repository of `regions` replicas, with one agent enrolled.
    pub async fn new(regions: usize) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut places = Vec::new();
        for n in 0..regions {
            let place = dir.path().join(format!("region{n}"));
            std::fs::create_dir(&place)?;
            places.push((format!("region{n}").parse()?, place, FaultPlan::default()));
        }
        let root = SigningKey::generate_ed25519()?;
        let signer = Arc::new(SigningKey::generate_ed25519()?);
        let cluster: ClusterId = "acme/erp".parse()?;
        let repository = Repository::init_with(stores(&places)?, root.fingerprint(), now()).await?;
        let (key, record) = trust::genesis(&root, &"root".parse()?, repository.id(), now())?;
        put(&repository, &key, record.into()).await?;
        let trusted = Trust::load(&repository, &root.fingerprint()).await?;
        let enrolment = trust::enrolment(
            signer.verifying(),
            &"agent".parse()?,
            TrustRole::Agent,
            std::slice::from_ref(&cluster),
        );
        let (key, record) = trust::append(&trusted, vec![enrolment], &root, now())?;
        put(&repository, &key, record.into()).await?;
        let trusted = Trust::load(&repository, &root.fingerprint()).await?;
        let (key, record) = authority::record(&trusted, None, &places[0].0, &root);
        put(&repository, &key, record).await?;
        Ok(Self {
            dir,
            places,
            root,
            signer,
            drill: Identity::generate(),
            cluster,
            repository,
        })
    }

    /// A directory that lives as long as the vault.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The faults of a region, by its number.
    pub fn faults(&self, region: usize) -> &FaultPlan {
        &self.places[region].2
    }

    /// The directory of a region, by its number.
    pub fn place(&self, region: usize) -> &Path {
        &self.places[region].1
    }

    /// The repository anew, as another process opens it.
    pub async fn reopen(&self) -> Result<Repository> {
        Ok(Repository::open_with(stores(&self.places)?).await?)
    }

    /// The repository as a process of its own opens it, with faults of its own.
    pub async fn opened_with(&self, plans: &[FaultPlan]) -> Result<Repository> {
        let places = self.places.iter().zip(plans);
        let places: Vec<_> = places
            .map(|((region, place, _), plan)| (region.clone(), place.clone(), plan.clone()))
            .collect();
        Ok(Repository::open_with(stores(&places)?).await?)
    }

    /// The repository over one region alone.
    pub async fn only(&self, region: usize) -> Result<Repository> {
        Ok(Repository::open_with(stores(&self.places[region..=region])?).await?)
    }

    /// The agent's signing key.
    pub fn signer(&self) -> &SigningKey {
        &self.signer
    }

    /// The fingerprint of the trust root.
    pub fn root(&self) -> holdfast_proto::Fingerprint {
        self.root.fingerprint()
    }

    /// The agent's writing side.
    pub fn publisher(&self, copies: usize) -> Publisher {
        Publisher {
            repository: self.repository.clone().with_deadlines(Deadlines::short()),
            cluster: self.cluster.clone(),
            signer: self.signer.clone(),
            lease: None,
            copies,
        }
    }

    fn recipients(&self) -> Vec<SealedTo> {
        let recipient = self.drill.recipient().to_string();
        [RecipientRole::Drill, RecipientRole::Recovery]
            .map(|role| SealedTo {
                role,
                recipient: recipient.clone(),
            })
            .to_vec()
    }

    /// The drill's identity, which opens what is sealed to the epoch keys.
    pub fn drill(&self) -> &Identity {
        &self.drill
    }

    /// The epoch key to seal data to.
    pub async fn data_key(&self) -> Result<Wrapped<EpochKey>> {
        let epoch = Epoch::of(now());
        Ok(ensure_epoch_key(&self.publisher(1), KeyKind::Data, epoch, &self.recipients()).await?)
    }

    /// The index key.
    pub async fn index_key(&self) -> Result<Wrapped<IndexKey>> {
        let path = self.dir.path().join("index.key");
        Ok(ensure_index_key(&self.publisher(1), &path, Epoch::of(now()), &self.recipients()).await?)
    }

    /// Revokes the agent's key, except for `believed` and what it is chained to.
    pub async fn revoke_agent(&self, believed: Vec<Link>) -> Result<()> {
        let revoke = TrustAct::Revoke {
            key: self.signer.fingerprint(),
            believed,
            reason: "the machine was stolen".to_owned(),
        };
        let (key, record) = trust::append(&self.trust().await?, vec![revoke], &self.root, now())?;
        put(&self.repository, &key, record.into()).await
    }

    /// Believes `key` as `name` in `role`, for the whole repository.
    pub async fn enrol(&self, name: &str, role: TrustRole, key: &SigningKey) -> Result<()> {
        let act = trust::enrolment(key.verifying(), &name.parse()?, role, &[]);
        let (key, record) = trust::append(&self.trust().await?, vec![act], &self.root, now())?;
        put(&self.repository, &key, record.into()).await
    }

    /// The root's private key, for commands that sign with it.
    pub fn root_key(&self) -> &SigningKey {
        &self.root
    }

    /// Names another region, which is within reach, as the one that decides what must have
    /// one winner. At first it is the first one.
    pub async fn let_decide(&self, region: usize) -> Result<()> {
        let trust = self.trust().await?;
        let current = Authority::load(&self.repository, &trust).await?;
        let region = &self.places[region].0;
        let (key, record) = authority::record(&trust, Some(&current), region, &self.root);
        let replicas = self.repository.replicas().iter();
        for replica in replicas.filter(|replica| replica.region() == region) {
            replica.create(&key, record.clone()).await?;
        }
        Ok(())
    }

    /// Who is trusted.
    pub async fn trust(&self) -> Result<Trust> {
        Ok(Trust::load(&self.repository, &self.root.fingerprint()).await?)
    }

    /// What the drill's identity opens.
    pub async fn keyring(&self) -> Result<Keyring> {
        let identities = Identities::parse(&self.drill.secret_text())?;
        Ok(Keyring::load(&self.repository, &self.trust().await?, &self.cluster, &identities).await?)
    }

    /// A signed object, verified.
    pub async fn signed<B: Record + Send>(&self, key: &ObjectKey) -> Result<Signed<B>> {
        let (signed, _) = self
            .repository
            .read_signed(key, &self.trust().await?)
            .await
            .with_context(|| format!("cannot read {key}"))?;
        Ok(signed)
    }
}

fn stores(places: &[(Region, PathBuf, FaultPlan)]) -> Result<Vec<(Region, Arc<dyn ObjectStore>)>> {
    let mut stores = Vec::new();
    for (region, place, plan) in places {
        let directory = Arc::new(LocalFileSystem::new_with_prefix(place)?);
        let store: Arc<dyn ObjectStore> = Arc::new(FaultyStore::new(directory, plan.clone()));
        stores.push((region.clone(), store));
    }
    Ok(stores)
}

async fn put(repository: &Repository, key: &ObjectKey, bytes: bytes::Bytes) -> Result<()> {
    for replica in repository.replicas() {
        replica.create(key, bytes.clone()).await?;
    }
    Ok(())
}
