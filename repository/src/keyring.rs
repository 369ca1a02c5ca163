//! Epoch keys: made and wrapped by writers, unwrapped by readers.

use std::collections::BTreeMap;

use holdfast_proto::Fingerprint;

use crate::seal::{Identities, Identity, IndexKey};

/// The epoch identities and index keys that a reader unwrapped.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    identities: BTreeMap<Fingerprint, Identity>,
    index_keys: BTreeMap<Fingerprint, IndexKey>,
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
            index_keys: BTreeMap::new(),
        }
    }

    /// The identity of the epoch key with this fingerprint.
    pub fn identity_for(&self, fingerprint: &Fingerprint) -> Option<&Identity> {
        self.identities.get(fingerprint)
    }

    /// The index keys, by fingerprint. More than one is possible when two
    /// writers raced or the agent's state was lost.
    pub fn index_keys(&self) -> impl Iterator<Item = (&Fingerprint, &IndexKey)> {
        self.index_keys.iter()
    }
}
