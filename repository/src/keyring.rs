//! Epoch keys: made and wrapped by writers, unwrapped by readers.
//!
//! A writer makes an identity, seals its text to the recipients, stores that as
//! a signed key object, and forgets the identity. From then on it can seal to
//! the public half and open nothing. Sealing begins only when the key object is
//! on as many replicas as the tier wants copies: a pack whose key object is
//! lost opens for nobody.
//!
//! Two writers that race make two keys, and both are valid: a key object is
//! named by the key's own fingerprint, and every sealed thing names its key. A
//! writer that starts again takes the key that it made before in the same
//! month, if it is still sealed to the same recipients.
//!
//! If a writer dies between making and storing, the identity is gone and
//! nothing was sealed to it. If it dies after storing, a key remains that
//! perhaps nothing uses.
//!
//! The index key opens nothing but must be known again: it lies in the agent's
//! state directory, and sealed in the repository for whoever reads.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use holdfast_proto::envelope::Link;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::{ClusterId, Epoch, KeyKind, ObjectKey, RecipientRole, Region};
use holdfast_proto::record::{KeyBody, SealedTo};
use holdfast_proto::{Fingerprint, Sha256Digest};
use zeroize::Zeroizing;

use crate::layout::{self, Located};
use crate::listing::ListError;
use crate::publisher::Publisher;
use crate::replica::explained;
use crate::seal::{self, EpochKey, Identities, Identity, IndexKey, Recipient, SealError};
use crate::signed::{Signed, SignedError, open_object};
use crate::trust::{SignerRefused, Trust};
use crate::{Repository, clock};

/// The most bytes that a wrapped key opens to.
const MAX_SECRET: usize = 4096;
/// Key objects that are read at once.
const AT_ONCE: usize = 8;

/// A key that could not be made, stored or read.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The recipients do not fit the kind of key.
    #[error("keys of kind {kind} cannot be sealed to these recipients: {why}")]
    Recipients {
        /// The kind.
        kind: KeyKind,
        /// What is wrong and what to do.
        why: &'static str,
    },
    /// Sealing or reading a secret failed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// No replica can be listed.
    #[error(transparent)]
    List(#[from] ListError),
    /// The key object reached too few replicas.
    #[error(
        "the key object is on {landed} replica(s), {copies} are needed before anything is sealed to it ({reasons}): bring a replica back"
    )]
    TooFew {
        /// Where it landed.
        landed: usize,
        /// How many are needed.
        copies: usize,
        /// Why not on the others.
        reasons: String,
    },
}

/// A key that a writer may seal to: its key object is where it must be.
#[derive(Debug, Clone)]
pub struct Wrapped<K> {
    /// The key.
    pub key: K,
    /// Its key object: what seals to the key needs this on its replica.
    pub object: Link,
    /// Replicas that hold the key object.
    pub on: Vec<Region>,
    /// `replica-behind` for each of the others.
    pub findings: Vec<Finding>,
}

/// The roles to which each kind may, and at least must, be sealed.
fn check_recipients(kind: KeyKind, recipients: &[SealedTo]) -> Result<Vec<Recipient>, KeyError> {
    let has = |role| recipients.iter().any(|r| r.role == role);
    if !has(RecipientRole::Recovery) && !has(RecipientRole::Escrow) {
        let why = "a recovery or an escrow recipient is needed, or nobody could restore after the drill's machine is lost";
        return Err(KeyError::Recipients { kind, why });
    }
    if kind == KeyKind::Secrets && has(RecipientRole::Drill) {
        let why = "drills must not open the application's secrets; name recovery and escrow only";
        return Err(KeyError::Recipients { kind, why });
    }
    Ok(recipients
        .iter()
        .map(|r| r.recipient.parse())
        .collect::<Result<_, _>>()?)
}

/// The recipients among `all` that a kind of key is sealed to: drills do not
/// get secrets.
pub fn recipients_for(kind: KeyKind, all: &[SealedTo]) -> Vec<SealedTo> {
    let open_to = |r: &&SealedTo| kind != KeyKind::Secrets || r.role != RecipientRole::Drill;
    all.iter().filter(open_to).cloned().collect()
}

/// The key of `kind` for `epoch` that this writer seals to: the one it made
/// earlier in the epoch, or a new one.
pub async fn ensure_epoch_key(
    publisher: &Publisher,
    kind: KeyKind,
    epoch: Epoch,
    recipients: &[SealedTo],
) -> Result<Wrapped<EpochKey>, KeyError> {
    let sealed_to = check_recipients(kind, recipients)?;
    let of_epoch = |of: Epoch, _: &Fingerprint| of == epoch;
    for (body, object) in own_keys(publisher, kind, recipients, of_epoch).await? {
        if let Ok(recipient) = body.recipient.parse::<Recipient>()
            && recipient.fingerprint() == body.fingerprint
        {
            let stored = spread(publisher, object.link, object.bytes).await?;
            return Ok(stored.with(EpochKey::new(recipient, epoch, kind)));
        }
    }
    let identity = Identity::generate();
    let key = EpochKey::new(identity.recipient().clone(), epoch, kind);
    let secret = Zeroizing::new(format!("{}\n", &*identity.secret_text()));
    drop(identity);
    let body = KeyBody {
        kind,
        epoch,
        recipient: key.recipient.to_string(),
        fingerprint: key.fingerprint,
        generation: 1,
        sealed_to: recipients.to_vec(),
    };
    let (link, bytes) = wrap(publisher, &sealed_to, &secret, &body)?;
    Ok(spread(publisher, link, bytes).await?.with(key))
}

/// The cluster's index key: the one in the state file at `path`, or a new one.
/// Its key object is stored before it is used, and again when it is missing.
pub async fn ensure_index_key(
    publisher: &Publisher,
    path: &Path,
    epoch: Epoch,
    recipients: &[SealedTo],
) -> Result<Wrapped<IndexKey>, KeyError> {
    let sealed_to = check_recipients(KeyKind::Index, recipients)?;
    let (key, fresh) = if path.exists() {
        (IndexKey::load(path)?, false)
    } else {
        (IndexKey::generate(), true)
    };
    let fingerprint = key.fingerprint();
    let of_key = |_, of: &Fingerprint| *of == fingerprint;
    let stored = match own_keys(publisher, KeyKind::Index, recipients, of_key)
        .await?
        .into_iter()
        .next()
    {
        Some((_, object)) => spread(publisher, object.link, object.bytes).await?,
        None => {
            let body = KeyBody {
                kind: KeyKind::Index,
                epoch,
                recipient: String::new(),
                fingerprint,
                generation: 1,
                sealed_to: recipients.to_vec(),
            };
            let secret = Zeroizing::new(format!("{}\n", &*key.secret_text()));
            let (link, bytes) = wrap(publisher, &sealed_to, &secret, &body)?;
            spread(publisher, link, bytes).await?
        }
    };
    if fresh {
        key.save(path)?;
    }
    Ok(stored.with(key))
}

fn wrap(
    publisher: &Publisher,
    recipients: &[Recipient],
    secret: &str,
    body: &KeyBody,
) -> Result<(Link, Bytes), KeyError> {
    let key = layout::key_object(
        &publisher.cluster,
        body.kind,
        body.epoch,
        &body.fingerprint,
        body.generation,
    );
    let payload = seal::seal(recipients, secret.as_bytes())?;
    let bytes = publisher.sign(&key, &payload, None, None, body);
    Ok((
        Link {
            sha256: Sha256Digest::of(&bytes),
            key,
        },
        bytes,
    ))
}

struct OwnKey {
    link: Link,
    bytes: Bytes,
}

/// Key objects of this kind that this very writer signed and sealed to
/// `recipients`, among those whose name `wanted` picks. A key that somebody else
/// signed may be sealed to somebody else.
async fn own_keys(
    publisher: &Publisher,
    kind: KeyKind,
    recipients: &[SealedTo],
    wanted: impl Fn(Epoch, &Fingerprint) -> bool,
) -> Result<Vec<(KeyBody, OwnKey)>, KeyError> {
    let repository = &publisher.repository;
    let own = publisher.signer.verifying();
    let listing = repository.list(&layout::keys(&publisher.cluster, kind)).await?;
    let mut found = Vec::new();
    for key in listing.keys() {
        match layout::parse(key.as_str()) {
            Some(Located::Key {
                epoch, fingerprint, ..
            }) if wanted(epoch, &fingerprint) => {}
            _ => continue,
        }
        let judge = |bytes: &Bytes| {
            let believe = |_: &_, signer: &Fingerprint| {
                if *signer == own.fingerprint() {
                    Ok(own.clone())
                } else {
                    Err(SignerRefused::Unknown(*signer))
                }
            };
            open_object::<KeyBody>(bytes, key, repository.id(), Sha256Digest::of(bytes), believe)
                .map_err(|e: SignedError| e.to_string())
        };
        let Ok(copy) = repository.find(key, judge).await else {
            continue;
        };
        if fits(&copy.value, key) && copy.value.body().sealed_to == recipients {
            let link = copy.value.link();
            found.push((
                copy.value.header.body,
                OwnKey {
                    link,
                    bytes: copy.bytes,
                },
            ));
        }
    }
    Ok(found)
}

/// Whether what a key object says of itself is what its name says.
fn fits(signed: &Signed<KeyBody>, key: &ObjectKey) -> bool {
    let body = signed.body();
    matches!(
        layout::parse(key.as_str()),
        Some(Located::Key { kind, epoch, fingerprint, generation, .. })
            if kind == body.kind && epoch == body.epoch && fingerprint == body.fingerprint && generation == body.generation
    )
}

struct Spread {
    object: Link,
    on: Vec<Region>,
    findings: Vec<Finding>,
}

impl Spread {
    fn with<K>(self, key: K) -> Wrapped<K> {
        Wrapped {
            key,
            object: self.object,
            on: self.on,
            findings: self.findings,
        }
    }
}

/// Creates the key object on every replica; enough of them must take it.
async fn spread(publisher: &Publisher, object: Link, bytes: Bytes) -> Result<Spread, KeyError> {
    let replicas = publisher.repository.replicas();
    let outcomes = join_all(replicas.iter().map(|r| r.create(&object.key, bytes.clone()))).await;
    let (mut on, mut behind) = (Vec::new(), Vec::new());
    for (replica, outcome) in replicas.iter().zip(outcomes) {
        match outcome {
            Ok(_) => on.push(replica.region().clone()),
            Err(error) => behind.push((replica.region().clone(), explained(&error))),
        }
    }
    let copies = publisher.copies.max(1);
    if on.len() < copies {
        let reasons = behind
            .iter()
            .map(|(r, why)| format!("{r}: {why}"))
            .collect::<Vec<_>>()
            .join("; ");
        return Err(KeyError::TooFew {
            landed: on.len(),
            copies,
            reasons,
        });
    }
    let findings = behind
        .into_iter()
        .map(|(region, why)| Finding {
            name: "replica-behind".to_owned(),
            subject: region.to_string(),
            severity: Severity::Warning,
            detail: format!(
                "Replica {region} does not hold key object {} ({why}): nothing sealed to it goes there yet.",
                object.key
            ),
            since: clock::now(),
        })
        .collect();
    Ok(Spread { object, on, findings })
}

/// The epoch identities and index keys that a reader unwrapped.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    identities: BTreeMap<Fingerprint, Identity>,
    index_keys: BTreeMap<Fingerprint, IndexKey>,
    closed: BTreeMap<Fingerprint, Closed>,
    opened: BTreeMap<Fingerprint, KeyBody>,
    findings: Vec<Finding>,
}

/// A key that is there but was not unwrapped.
#[derive(Debug, Clone)]
pub struct Closed {
    /// What it would open.
    pub kind: KeyKind,
    /// The month for which it seals.
    pub epoch: Epoch,
    /// Why it was not unwrapped: in most cases, it is sealed to others.
    pub why: String,
}

impl Keyring {
    /// A keyring of identities that are at hand already.
    pub fn of(identities: Identities) -> Self {
        let identities = identities
            .iter()
            .map(|i| (i.recipient().fingerprint(), i.clone()))
            .collect();
        Self {
            identities,
            ..Self::default()
        }
    }

    /// Unwraps every key of the cluster that `identities` open. Keys sealed to
    /// others, and keys that are not believed, are named by [`Keyring::closed`].
    pub async fn load(
        repository: &Repository,
        trust: &Trust,
        cluster: &ClusterId,
        identities: &Identities,
    ) -> Result<Self, ListError> {
        let mut keyring = Self::default();
        for kind in [KeyKind::Data, KeyKind::Secrets, KeyKind::Index] {
            let listing = repository.list(&layout::keys(cluster, kind)).await?;
            keyring.findings.extend(listing.findings(clock::now()));
            let mut reads = futures::stream::iter(listing.objects.into_keys())
                .map(|key| async move {
                    let read = repository.read_signed::<KeyBody>(&key, trust).await;
                    (key, read)
                })
                .buffered(AT_ONCE);
            while let Some((key, read)) = reads.next().await {
                match read {
                    Ok((signed, findings)) => {
                        keyring.findings.extend(findings);
                        keyring.take(&key, &signed, identities);
                    }
                    Err(error) => keyring.refuse(&key, &error.to_string()),
                }
            }
        }
        Ok(keyring)
    }

    fn take(&mut self, key: &ObjectKey, signed: &Signed<KeyBody>, identities: &Identities) {
        let body = signed.body();
        let fingerprint = body.fingerprint;
        if self.identities.contains_key(&fingerprint) || self.index_keys.contains_key(&fingerprint) {
            return;
        }
        if !fits(signed, key) {
            return self.refuse(key, "what it says of itself is not what its name says");
        }
        match unwrap(body, &signed.payload, identities) {
            Ok(Secret::Identity(identity)) => {
                self.identities.insert(fingerprint, *identity);
            }
            Ok(Secret::Index(index_key)) => {
                self.index_keys.insert(fingerprint, index_key);
            }
            Err(why) => {
                if why.is_damage {
                    return self.refuse(key, &why.text);
                }
                self.closed.insert(
                    fingerprint,
                    Closed {
                        kind: body.kind,
                        epoch: body.epoch,
                        why: why.text,
                    },
                );
                return;
            }
        }
        self.closed.remove(&fingerprint);
        self.opened.insert(fingerprint, body.clone());
    }

    fn refuse(&mut self, key: &ObjectKey, why: &str) {
        if let Some(Located::Key {
            kind,
            epoch,
            fingerprint,
            ..
        }) = layout::parse(key.as_str())
            && !self.identities.contains_key(&fingerprint)
            && !self.index_keys.contains_key(&fingerprint)
        {
            self.closed.insert(
                fingerprint,
                Closed {
                    kind,
                    epoch,
                    why: why.to_owned(),
                },
            );
        }
        self.findings.push(Finding {
            name: "key-object-refused".to_owned(),
            subject: key.to_string(),
            severity: Severity::Critical,
            detail: format!(
                "This key object was not used: {why}. What is sealed to it alone cannot be opened."
            ),
            since: clock::now(),
        });
    }

    /// The identity of the epoch key with this fingerprint.
    pub fn identity_for(&self, fingerprint: &Fingerprint) -> Option<&Identity> {
        self.identities.get(fingerprint)
    }

    /// How many epoch keys it opens.
    pub fn len(&self) -> usize {
        self.identities.len()
    }

    /// Whether it opens nothing.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty()
    }

    /// The index keys, by fingerprint. There are several when two writers raced
    /// or an agent's state was lost.
    pub fn index_keys(&self) -> impl Iterator<Item = (&Fingerprint, &IndexKey)> {
        self.index_keys.iter()
    }

    /// Keys that are there but were not unwrapped.
    pub fn closed(&self) -> impl Iterator<Item = (&Fingerprint, &Closed)> {
        self.closed.iter()
    }

    /// The key objects that were unwrapped.
    pub fn opened(&self) -> impl Iterator<Item = &KeyBody> {
        self.opened.values()
    }

    /// What was met while the keys were read.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

enum Secret {
    Identity(Box<Identity>),
    Index(IndexKey),
}

struct NotOpened {
    text: String,
    is_damage: bool,
}

fn unwrap(body: &KeyBody, payload: &[u8], identities: &Identities) -> Result<Secret, NotOpened> {
    let damage = |text: String| NotOpened {
        text,
        is_damage: true,
    };
    let plain = match seal::open(identities, payload, MAX_SECRET) {
        Ok(plain) => Zeroizing::new(plain),
        Err(SealError::WrongIdentity) => {
            let roles = body
                .sealed_to
                .iter()
                .map(|r| format!("{:?}", r.role).to_lowercase())
                .collect::<Vec<_>>();
            let text = format!(
                "it is sealed to {}, and none of the identities given is one of those",
                roles.join(", ")
            );
            return Err(NotOpened {
                text,
                is_damage: false,
            });
        }
        Err(error) => return Err(damage(error.to_string())),
    };
    let text = std::str::from_utf8(&plain).map_err(|_| damage("it does not hold text".to_owned()))?;
    let (secret, fingerprint) = if body.kind == KeyKind::Index {
        let key: IndexKey = text.parse().map_err(|e: SealError| damage(e.to_string()))?;
        let fingerprint = key.fingerprint();
        (Secret::Index(key), fingerprint)
    } else {
        let identity: Identity = text.parse().map_err(|e: SealError| damage(e.to_string()))?;
        let fingerprint = identity.recipient().fingerprint();
        (Secret::Identity(Box::new(identity)), fingerprint)
    };
    if fingerprint != body.fingerprint {
        return Err(damage("the key in it is not the one it names".to_owned()));
    }
    Ok(secret)
}
