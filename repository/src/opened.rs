//! Opening and initialising a repository.
//!
//! A [`Repository`] is its configured replicas and what all of them agree on:
//! `repository.json`. One reachable replica suffices to open it. The others
//! stay in the set: they are asked for their identity when they are first used,
//! so an agent that started during an outage goes on by itself when it is over.
//!
//! Nothing is written by opening. [`Repository::init`] writes `repository.json`
//! and is safe to repeat, also when an earlier run died half way: what one
//! replica holds decides, and the others get the same bytes. Once the trust
//! chain has begun, a replica without `repository.json` is more likely a volume
//! that is not mounted than a new one: only a replica that the caller names is
//! made then ([`Repository::init_adding`]).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use holdfast_proto::names::{ActorName, Region, RepositoryId};
use holdfast_proto::record::RepositoryDocument;
use holdfast_proto::{Fingerprint, Timestamp};
use object_store::ObjectStore;

use crate::config::{ConfigError, RepositoryConfig};
use crate::layout::{self, Located};
use crate::probe::ProbeError;
use crate::replica::{Class, Deadlines, Document, Replica, StoreError};
use crate::store::{BackEnd, Lens};

/// The writer's name in the probe objects that initialising leaves.
pub const INIT: &str = "repo-init";

/// How long the other replicas are waited for once one has answered.
const GRACE: Duration = Duration::from_secs(2);

/// A repository: one logical store on one or more replicas. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(crate) document: Arc<RepositoryDocument>,
    pub(crate) replicas: Arc<[Replica]>,
    /// Regions whose stores need not enforce create-if-absent.
    pub(crate) lenient: Arc<[Region]>,
    pub(crate) prefer: Arc<[Region]>,
    pub(crate) healing: bool,
}

/// Several replicas and what was wrong with each, as text.
#[derive(Debug, Clone)]
pub struct Regions(pub Vec<(Region, StoreError)>);

impl fmt::Display for Regions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (_, error)) in self.0.iter().enumerate() {
            // Each error names its replica.
            write!(f, "{}{}", if i == 0 { "" } else { "; " }, error.explained())?;
        }
        Ok(())
    }
}

/// The replicas, without what is wrong with each.
fn places(regions: &Regions) -> String {
    let place = |(region, error): &(Region, StoreError)| match error {
        StoreError::Gone { location, .. } => format!("{region}: {location}"),
        other => other.explained(),
    };
    regions.0.iter().map(place).collect::<Vec<_>>().join(", ")
}

/// Why a repository cannot be opened or initialised.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No replica answered.
    #[error("no replica of the repository can be reached: {0}")]
    NoneReachable(Regions),
    /// All replicas answered, and none holds a repository.
    #[error(
        "none of the configured replicas ({}) holds the repository: if there is one, mount its volumes or correct the \
         URLs; only for a new repository run `holdfast repo init`",
        places(.0)
    )]
    NoRepository(Regions),
    /// Two replicas belong to two repositories.
    #[error(
        "replicas {first} and {second} hold different repositories ({first_id} and {second_id}): correct the URLs"
    )]
    Different {
        /// One replica.
        first: Region,
        /// Another.
        second: Region,
        /// What the one holds.
        first_id: RepositoryId,
        /// What the other holds.
        second_id: RepositoryId,
    },
    /// A repository with another root key is there already.
    #[error(
        "replica {region} holds a repository whose trust root is {found}, not {expected}: use another prefix, or \
         the root key that it was made with"
    )]
    OtherRoot {
        /// The replica.
        region: Region,
        /// The root it has.
        found: Fingerprint,
        /// The root that was given.
        expected: Fingerprint,
    },
    /// A prefix that holds something else.
    #[error(
        "replica {region}: {location} is not empty (it holds {example}) and holds no repository.json: use an empty prefix"
    )]
    NotEmpty {
        /// The replica.
        region: Region,
        /// Its URL.
        location: String,
        /// One of the things there.
        example: String,
    },
    /// The repository stands, and a replica is without it.
    #[error(
        "replica {region}: {location} holds no repository.json, and {holder} holds this repository already: if the \
         volume is not mounted, mount it; if the replica is truly new or lost, run again with --add-replica {region}"
    )]
    Lacking {
        /// The replica.
        region: Region,
        /// Its URL.
        location: String,
        /// A replica that holds the repository.
        holder: Region,
    },
    /// A replica to add that the configuration does not have.
    #[error("{region} is not among the configured replicas: add it to them, or correct the name")]
    NotConfigured {
        /// The region.
        region: Region,
    },
    /// Initialising needs every replica.
    #[error("every replica must be reached to initialise: {0}")]
    Unreachable(Regions),
    /// A directory could not be made.
    #[error("replica {region}: the directory {location} cannot be made: check its parent and permissions")]
    Directory {
        /// The replica.
        region: Region,
        /// Its URL.
        location: String,
        /// The reason.
        source: std::io::Error,
    },
    /// A store does not do what a repository needs.
    #[error(transparent)]
    Probe(#[from] ProbeError),
}

impl Repository {
    /// Opens the repository that `config` names. One reachable replica
    /// suffices; [`Repository::unreachable`] says which are missing.
    pub async fn open(config: &RepositoryConfig) -> Result<Self, OpenError> {
        let (replicas, lenient) = configured(config)?;
        Self::open_replicas(replicas, lenient).await
    }

    /// As [`Repository::open`], with every replica looked at through `lens`.
    pub async fn open_through(config: &RepositoryConfig, lens: &dyn Lens) -> Result<Self, OpenError> {
        let (_, lenient) = configured(config)?;
        let mut replicas = Vec::with_capacity(config.replicas.len());
        for replica in &config.replicas {
            let back = BackEnd::open(replica)?;
            replicas.push(Replica::new(
                replica.region.clone(),
                lens.through(&replica.region, back),
            ));
        }
        Self::open_replicas(replicas, lenient).await
    }

    /// Opens a repository over stores that were made elsewhere.
    pub async fn open_with(stores: Vec<(Region, Arc<dyn ObjectStore>)>) -> Result<Self, OpenError> {
        Self::open_replicas(made(stores), Vec::new()).await
    }

    /// Opens a repository over replicas that were made elsewhere.
    pub async fn open_replicas(replicas: Vec<Replica>, lenient: Vec<Region>) -> Result<Self, OpenError> {
        if replicas.is_empty() {
            return Err(ConfigError::NoReplica.into());
        }
        let (answers, failed) = ask(&replicas).await;
        let Some((first, document)) = answers.first() else {
            let all_answered = failed.iter().all(|(_, e)| matches!(e, StoreError::Gone { .. }));
            return Err(if all_answered {
                OpenError::NoRepository(Regions(failed))
            } else {
                OpenError::NoneReachable(Regions(failed))
            });
        };
        for (second, other) in &answers {
            if other.content.id != document.content.id {
                return Err(OpenError::Different {
                    first: first.region().clone(),
                    second: second.region().clone(),
                    first_id: document.content.id,
                    second_id: other.content.id,
                });
            }
        }
        for (region, error) in &failed {
            tracing::info!(region = %region, err = %error.explained(), "a replica is out of reach");
        }
        let repository = Self::assemble(document.content.clone(), replicas.clone(), lenient);
        for (replica, document) in &answers {
            replica.saw(document);
        }
        Ok(repository)
    }

    fn assemble(document: RepositoryDocument, replicas: Vec<Replica>, lenient: Vec<Region>) -> Self {
        for replica in &replicas {
            replica.expect(document.id);
            // Until a probe shows better.
            if lenient.contains(replica.region()) {
                replica.look_first(true);
            }
        }
        Self {
            document: Arc::new(document),
            replicas: replicas.into(),
            lenient: lenient.into(),
            prefer: Arc::new([]),
            healing: false,
        }
    }

    /// Makes the repository that `config` names, or completes one that was half
    /// made. Every replica must be reachable and, where the repository is new,
    /// empty; each must enforce create-if-absent unless the configuration
    /// accepts what is lost without it.
    pub async fn init(
        config: &RepositoryConfig,
        root: Fingerprint,
        now: Timestamp,
    ) -> Result<Self, OpenError> {
        Self::init_adding(config, &[], root, now).await
    }

    /// As [`Repository::init`], and makes the replicas in `added` although others
    /// hold the repository. What they lack of it is for [`crate::replicate`].
    pub async fn init_adding(
        config: &RepositoryConfig,
        added: &[Region],
        root: Fingerprint,
        now: Timestamp,
    ) -> Result<Self, OpenError> {
        let (replicas, lenient) = configured(config)?;
        let strange = added.iter().find(|a| replicas.iter().all(|r| r.region() != *a));
        if let Some(region) = strange {
            return Err(OpenError::NotConfigured {
                region: region.clone(),
            });
        }
        refuse_lacking(&replicas, added).await?;
        for replica in &replicas {
            if let Some(directory) = replica.directory() {
                directory.make().await.map_err(|source| OpenError::Directory {
                    region: replica.region().clone(),
                    location: replica.location().to_owned(),
                    source,
                })?;
            }
        }
        Self::init_replicas(replicas, lenient, root, now).await
    }

    /// Makes a repository over stores that were made elsewhere.
    pub async fn init_with(
        stores: Vec<(Region, Arc<dyn ObjectStore>)>,
        root: Fingerprint,
        now: Timestamp,
    ) -> Result<Self, OpenError> {
        Self::init_replicas(made(stores), Vec::new(), root, now).await
    }

    /// Makes a repository over replicas that were made elsewhere.
    pub async fn init_replicas(
        replicas: Vec<Replica>,
        lenient: Vec<Region>,
        root: Fingerprint,
        now: Timestamp,
    ) -> Result<Self, OpenError> {
        if replicas.is_empty() {
            return Err(ConfigError::NoReplica.into());
        }
        let (document, bytes) = match Self::standing(&replicas, root).await? {
            Some(known) => known,
            None => Self::compose(root, now),
        };
        for replica in &replicas {
            let writer: ActorName = INIT.parse().expect("a constant that is a name");
            let accepted = lenient.contains(replica.region());
            crate::probe::enforce(replica, &writer, accepted).await?;
        }
        let mut failed = Vec::new();
        for replica in &replicas {
            match replica
                .create(&layout::repository_document(), bytes.clone())
                .await
            {
                Ok(_) => {}
                // Another run of init was faster: what it wrote is what counts.
                Err(StoreError::Conflict { .. }) => match replica.document().await {
                    Ok(other) => {
                        return Err(OpenError::Different {
                            first: replica.region().clone(),
                            second: replicas[0].region().clone(),
                            first_id: other.content.id,
                            second_id: document.id,
                        });
                    }
                    Err(error) => failed.push((replica.region().clone(), error)),
                },
                Err(error) => failed.push((replica.region().clone(), error)),
            }
        }
        if failed.is_empty() {
            Ok(Self::assemble(document, replicas, lenient))
        } else {
            Err(OpenError::Unreachable(Regions(failed)))
        }
    }

    /// What the replicas hold already: nothing, or one repository with `root`.
    async fn standing(
        replicas: &[Replica],
        root: Fingerprint,
    ) -> Result<Option<(RepositoryDocument, Bytes)>, OpenError> {
        let mut known: Option<(Region, Document)> = None;
        let mut failed = Vec::new();
        for replica in replicas {
            match replica.document().await {
                Ok(document) => {
                    let content = &document.content;
                    if content.root != root {
                        return Err(OpenError::OtherRoot {
                            region: replica.region().clone(),
                            found: content.root,
                            expected: root,
                        });
                    }
                    match &known {
                        Some((first, other)) if other.content.id != content.id => {
                            return Err(OpenError::Different {
                                first: first.clone(),
                                second: replica.region().clone(),
                                first_id: other.content.id,
                                second_id: content.id,
                            });
                        }
                        Some(_) => {}
                        None => known = Some((replica.region().clone(), document)),
                    }
                }
                Err(StoreError::Gone { .. }) => match foreign(replica).await {
                    Ok(None) => {}
                    Ok(Some(example)) => {
                        return Err(OpenError::NotEmpty {
                            region: replica.region().clone(),
                            location: replica.location().to_owned(),
                            example,
                        });
                    }
                    Err(error) => failed.push((replica.region().clone(), error)),
                },
                Err(error) => failed.push((replica.region().clone(), error)),
            }
        }
        if !failed.is_empty() {
            return Err(OpenError::Unreachable(Regions(failed)));
        }
        Ok(known.map(|(_, document)| (document.content, document.bytes)))
    }

    fn compose(root: Fingerprint, now: Timestamp) -> (RepositoryDocument, Bytes) {
        let document = RepositoryDocument {
            format: crate::replica::FORMAT,
            id: RepositoryId::from_parts(now, rand::random()),
            created: now,
            root,
        };
        let mut bytes = serde_json::to_vec_pretty(&document).expect("names and numbers always serialise");
        bytes.push(b'\n');
        (document, bytes.into())
    }

    /// The repository's identity.
    pub fn id(&self) -> RepositoryId {
        self.document.id
    }

    /// What `repository.json` says.
    pub fn document(&self) -> &RepositoryDocument {
        &self.document
    }

    /// All configured replicas, in configured order, also those out of reach.
    pub fn replicas(&self) -> &[Replica] {
        &self.replicas
    }

    /// The replica of a region.
    pub fn replica(&self, region: &Region) -> Option<&Replica> {
        self.replicas.iter().find(|r| r.region() == region)
    }

    /// Replicas that have not been seen to belong to this repository yet: out of
    /// reach when it was opened, and not used since.
    pub fn unreachable(&self) -> Vec<Region> {
        self.replicas
            .iter()
            .filter(|r| !r.is_identified())
            .map(|r| r.region().clone())
            .collect()
    }

    /// The same repository, reading from `regions` first.
    pub fn preferring(mut self, regions: &[Region]) -> Self {
        self.prefer = regions.into();
        self
    }

    /// The same repository, repairing damaged and missing copies that reading
    /// comes across. Off unless said: an agent never overwrites.
    pub fn healing(mut self, healing: bool) -> Self {
        self.healing = healing;
        self
    }

    /// The same repository, every replica with other deadlines.
    pub fn with_deadlines(mut self, deadlines: Deadlines) -> Self {
        self.replicas = self
            .replicas
            .iter()
            .map(|r| r.with_deadlines(deadlines))
            .collect();
        self
    }
}

/// Refuses when one replica holds a repository that has begun and another, which
/// is not to be added, holds none. Before anything is made: below an unmounted
/// volume a marker would say for ever that nothing is missing there.
async fn refuse_lacking(replicas: &[Replica], added: &[Region]) -> Result<(), OpenError> {
    let (mut holder, mut lacking) = (None, None);
    for replica in replicas {
        match replica.document().await {
            // A marker alone is what a run of init leaves that died half way.
            Ok(_) if holder.is_none() => {
                if let Ok(Some(_)) = replica.head(&layout::trust(0)).await {
                    holder = Some(replica.region());
                }
            }
            Err(StoreError::Gone { .. }) if !added.contains(replica.region()) => {
                lacking = lacking.or(Some(replica));
            }
            // What else is wrong is said when the markers are compared.
            _ => {}
        }
    }
    match (holder, lacking) {
        (Some(holder), Some(replica)) => Err(OpenError::Lacking {
            region: replica.region().clone(),
            location: replica.location().to_owned(),
            holder: holder.clone(),
        }),
        _ => Ok(()),
    }
}

/// Asks every replica what it is. Once one has answered, the others have
/// [`GRACE`] left: a dead region must not hold up what can be read elsewhere.
async fn ask(replicas: &[Replica]) -> (Vec<(&Replica, Document)>, Vec<(Region, StoreError)>) {
    let mut asked: FuturesUnordered<_> = replicas
        .iter()
        .map(|replica| async move {
            let patient = replica.with_deadlines(replica.deadlines().within(Deadlines::short()));
            (replica, patient.document().await)
        })
        .collect();
    let mut answers: Vec<(&Replica, Document)> = Vec::new();
    let mut failed = Vec::new();
    loop {
        let next = if answers.is_empty() {
            asked.next().await
        } else {
            match tokio::time::timeout(GRACE, asked.next()).await {
                Ok(next) => next,
                Err(_) => break,
            }
        };
        match next {
            Some((replica, Ok(document))) => answers.push((replica, document)),
            Some((replica, Err(error))) => failed.push((replica.region().clone(), error)),
            None => break,
        }
    }
    for replica in replicas {
        let heard = answers.iter().any(|(r, _)| r.region() == replica.region())
            || failed.iter().any(|(region, _)| region == replica.region());
        if !heard {
            failed.push((replica.region().clone(), replica.silent(GRACE)));
        }
    }
    // Reports in configured order, whoever was faster.
    let place = |region: &Region| replicas.iter().position(|r| r.region() == region);
    answers.sort_by_key(|(replica, _)| place(replica.region()));
    failed.sort_by_key(|(region, _)| place(region));
    (answers, failed)
}

/// Something below the replica's prefix that initialising did not put there.
async fn foreign(replica: &Replica) -> Result<Option<String>, StoreError> {
    let mut listed = replica.list_stream("");
    while let Some(object) = listed.next().await {
        let object = match object {
            Ok(object) => object,
            Err(e) if e.class() == Class::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        match layout::parse(object.key.as_str()) {
            Some(Located::Probe { .. }) => {}
            _ => return Ok(Some(object.key.to_string())),
        }
    }
    Ok(None)
}

fn configured(config: &RepositoryConfig) -> Result<(Vec<Replica>, Vec<Region>), ConfigError> {
    if let Some(problem) = config.problems().into_iter().next() {
        return Err(problem);
    }
    let replicas = config
        .replicas
        .iter()
        .map(Replica::open)
        .collect::<Result<_, _>>()?;
    let lenient = config
        .replicas
        .iter()
        .filter(|r| r.accept_without_conditional_create)
        .map(|r| r.region.clone())
        .collect();
    Ok((replicas, lenient))
}

fn made(stores: Vec<(Region, Arc<dyn ObjectStore>)>) -> Vec<Replica> {
    stores
        .into_iter()
        .map(|(region, store)| Replica::new(region, BackEnd::from_store(store)))
        .collect()
}
