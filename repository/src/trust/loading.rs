//! Reading the chain from a repository.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use holdfast_proto::envelope::{self, Link};
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::{Fingerprint, Sha256Digest};
use serde::Deserialize;

use super::{NextRecord, Trust, TrustError};
use crate::fetch::FetchError;
use crate::layout::{self, Located};
use crate::listing::ListError;
use crate::{Repository, clock};

/// A chain that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// What is there is not to be believed.
    #[error(transparent)]
    Chain(#[from] TrustError),
    /// No replica can be listed.
    #[error(transparent)]
    List(#[from] ListError),
    /// There is no chain.
    #[error("the repository has no trust chain: run `holdfast repo init` with the root key")]
    Empty,
    /// Later records are there, this one is not.
    #[error(
        "trust record {n} is missing on every replica within reach, but later ones are there: bring the replica back that has it"
    )]
    Hole {
        /// Number of the record.
        n: u64,
    },
    /// It is there, and no copy can be read.
    #[error("trust record {n} cannot be read: {source}")]
    Unreadable {
        /// Number of the record.
        n: u64,
        /// What each replica said.
        source: FetchError,
    },
    /// Two valid records have the same number.
    #[error(
        "trust record {n} exists twice, both signed by a root ({first} and {second}): the root key signed on two \
         machines, or somebody else has it; decide which chain counts and remove the other"
    )]
    Forked {
        /// Number of the record.
        n: u64,
        /// SHA-256 of one.
        first: Sha256Digest,
        /// SHA-256 of the other.
        second: Sha256Digest,
    },
}

impl Trust {
    /// Reads and verifies the whole chain from `root`, whose fingerprint the
    /// caller was given out of band.
    pub async fn load(repository: &Repository, root: &Fingerprint) -> Result<Self, LoadError> {
        let listing = repository.list(&layout::trusts()).await?;
        let mut trust = Trust::empty(repository.id(), *root);
        trust.findings = listing.findings(clock::now());
        let numbers: BTreeMap<u64, _> = listing
            .objects
            .iter()
            .filter_map(|(key, on)| match layout::parse(key.as_str()) {
                Some(Located::Trust { n }) => Some((n, (key, on))),
                _ => None,
            })
            .collect();
        for (expected, (n, (key, on))) in (0u64..).zip(numbers) {
            if n != expected {
                return Err(LoadError::Hole { n: expected });
            }
            let refused: Mutex<Option<TrustError>> = Mutex::new(None);
            let judge = |bytes: &Bytes| {
                trust.verify_next(bytes).map_err(|e| {
                    let why = e.to_string();
                    *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                    why
                })
            };
            let found = repository.find(key, judge).await;
            let refused = refused.into_inner().unwrap_or_else(PoisonError::into_inner);
            let found = match (found, refused) {
                (Ok(found), _) => found,
                (Err(_), Some(refused)) => return Err(refused.into()),
                (Err(source), None) => return Err(LoadError::Unreadable { n, source }),
            };
            for presence in on {
                if let Some(replica) = repository.replica(&presence.region)
                    && let Ok(bytes) = replica.get(key).await
                    && let Ok(NextRecord { link, .. }) = trust.verify_next(&bytes)
                    && link != found.value.link
                {
                    return Err(LoadError::Forked {
                        n,
                        first: found.value.link.sha256,
                        second: link.sha256,
                    });
                }
            }
            trust.extend(&found.value)?;
            trust.findings.extend(found.findings);
        }
        if trust.length() == 0 {
            return Err(LoadError::Empty);
        }
        trust.extend_believed(repository).await;
        Ok(trust)
    }

    /// Walks back from the objects that revocations still believe, and believes
    /// what they link to. Reads each of those objects whole: only the whole
    /// object's digest proves that it is the one linked to.
    pub async fn extend_believed(&mut self, repository: &Repository) {
        let revoked: Vec<(Fingerprint, Vec<Link>)> = self
            .keys()
            .filter_map(|(key, held)| held.revoked.as_ref().map(|r| (*key, r.believed.clone())))
            .collect();
        for (key, mut open) in revoked {
            while let Some(link) = open.pop() {
                let judge = |bytes: &Bytes| match Sha256Digest::of(bytes) {
                    found if found == link.sha256 => previous(bytes).map_err(|e| e.to_string()),
                    found => Err(format!("its SHA-256 is {found}, the link says {}", link.sha256)),
                };
                match repository.find(&link.key, judge).await {
                    Ok(found) => {
                        if let Some(before) = found.value
                            && self.believe_also(&key, before.sha256)
                        {
                            open.push(before);
                        }
                    }
                    Err(error) => self.findings.push(Finding {
                        name: "believed-object-unreadable".to_owned(),
                        subject: link.key.to_string(),
                        severity: Severity::Warning,
                        detail: format!(
                            "Key {} was revoked, and what it signed before this object counts only as far as it can be \
                             followed from here: {error}. Bring back a replica that has the object.",
                            key.short()
                        ),
                        since: clock::now(),
                    }),
                }
            }
        }
    }
}

/// The object before the one in `bytes`, as its header says. The signature need
/// not be looked at: whoever linked to these bytes by digest vouches for them.
fn previous(bytes: &Bytes) -> Result<Option<Link>, envelope::BadEnvelope> {
    #[derive(Deserialize)]
    struct Probe {
        #[serde(default)]
        previous: Option<Link>,
    }
    let parts = envelope::split(bytes)?;
    serde_json::from_slice::<Probe>(parts.header)
        .map(|p| p.previous)
        .map_err(|e| envelope::BadEnvelope::Json {
            part: "header",
            why: e.to_string(),
        })
}
