//! Epoch keys: made and wrapped by writers, unwrapped by readers.
//!
//! A writer makes an identity, seals its text to the recipients, stores that as
//! a signed key object, and forgets the identity. From then on it can seal to
//! the public half and open nothing. A pack whose key object is lost opens for
//! nobody: sealing begins when a replica has the key object, and what is sealed goes
//! to a replica after it. So what counts as stored on a number of replicas can be
//! opened on each of them.
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

use futures::StreamExt;
use holdfast_proto::Fingerprint;
use holdfast_proto::envelope::Link;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::{ClusterId, Epoch, KeyKind, ObjectKey, Region};
use holdfast_proto::record::KeyBody;
use zeroize::Zeroizing;

use crate::layout::{self, Located};
use crate::listing::ListError;
use crate::seal::{self, Identities, Identity, IndexKey, SealError};
use crate::signed::Signed;
use crate::trust::Trust;
use crate::{Repository, clock};

/// The most bytes that a wrapped key opens to.
const MAX_SECRET: usize = 4096;
/// Key objects that are read at once.
const AT_ONCE: usize = 8;

mod wrapping;

pub use wrapping::{ensure_epoch_key, ensure_index_key, recipients_for};

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
    /// The key object reached no replica.
    #[error(
        "the key object is on no replica, and nothing is sealed before it is ({reasons}): bring one back"
    )]
    Nowhere {
        /// Why not, of each replica.
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

/// Whether what a key object says of itself is what its name says.
fn fits(signed: &Signed<KeyBody>, key: &ObjectKey) -> bool {
    let body = signed.body();
    matches!(
        layout::parse(key.as_str()),
        Some(Located::Key { kind, epoch, fingerprint, generation, .. })
            if kind == body.kind && epoch == body.epoch && fingerprint == body.fingerprint && generation == body.generation
    )
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
