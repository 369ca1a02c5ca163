//! The writer's side: making keys, wrapping them, storing their key objects.

use std::path::Path;

use bytes::Bytes;
use futures::future::join_all;
use holdfast_proto::Fingerprint;
use holdfast_proto::envelope::Link;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::{Epoch, KeyKind, RecipientRole, Region};
use holdfast_proto::record::{KeyBody, SealedTo};
use zeroize::Zeroizing;

use super::{KeyError, Wrapped, fits};
use crate::clock;
use crate::layout::{self, Located};
use crate::publisher::Publisher;
use crate::replica::explained;
use crate::seal::{self, EpochKey, Identity, IndexKey, Recipient};
use crate::signed::{SignedError, SignedObject, open_object};
use crate::trust::SignerRefused;

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
    let key = if path.exists() {
        IndexKey::load(path)?
    } else {
        // Kept first, so that whoever tries again does not make another one.
        let key = IndexKey::generate();
        key.save(path)?;
        key
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
    let SignedObject { bytes, sha256 } = publisher.sign(&key, payload, None, None, body);
    Ok((Link { key, sha256 }, bytes))
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
            let believe = |_: &_, signer: &Fingerprint, _: &_| {
                if *signer == own.fingerprint() {
                    Ok(own.clone())
                } else {
                    Err(SignerRefused::Unknown(*signer))
                }
            };
            open_object::<KeyBody>(bytes, key, repository.id(), believe)
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

/// Creates the key object on every replica within reach; one of them must take it.
/// Whoever seals to it has each replica hold it before anything that needs it.
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
    if on.is_empty() {
        let reasons = behind
            .iter()
            .map(|(r, why)| format!("{r}: {why}"))
            .collect::<Vec<_>>()
            .join("; ");
        return Err(KeyError::Nowhere { reasons });
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
