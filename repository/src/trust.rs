//! Who is believed: the chain of trust records.
//!
//! `trust/<n>` are numbered records, each naming the SHA-256 of the one before
//! and signed by a root key. Record 0 is signed by the key whose fingerprint a
//! reader was given out of band, and enrols it. A record takes effect whole or
//! not at all.
//!
//! Rules of this version:
//! - only keys enrolled as root sign records; one signature is enough;
//! - a key has one name and one role for ever; enrolling it again widens its
//!   scope; a revoked key never comes back;
//! - an empty scope is the whole repository;
//! - how many approvals an action needs is said here, so that nobody but a root lowers it.
//!
//! Reading fails closed. A hole in the numbers, a record that exists but does
//! not verify, or two records with one number stop everything: dropping the
//! records after it would drop revocations. What cannot be seen from here: a
//! replica that hides its newest records while the others are out of reach.
//!
//! A revoked key's objects are believed only when they are one of the objects
//! that the revocation names, or are reached from one of those through
//! `previous`. Each step is by SHA-256, so that holds whoever wrote them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use holdfast_proto::approval::{Guarded, Quorum};
use holdfast_proto::envelope::Link;
use holdfast_proto::finding::Finding;
use holdfast_proto::names::{ActorName, ClusterId, GroupName, ObjectKey, RepositoryId};
use holdfast_proto::record::{KeyAlgorithm, TrustAct, TrustBody, TrustRole};
use holdfast_proto::{Fingerprint, Sha256Digest, Timestamp};

use crate::layout;
use crate::signed::{Content, Draft, SignedError, open_object};
use crate::signing::{SigningError, SigningKey, VerifyingKey};

mod loading;

pub use loading::LoadError;

/// A chain that cannot be believed, or an act that would break it.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A record does not verify.
    #[error("trust record {n} is not believed: {source}")]
    Record {
        /// Number of the record.
        n: u64,
        /// Why.
        source: SignedError,
    },
    /// Record 0 is not by the root that the reader was given.
    #[error(
        "UNTRUSTED: the chain does not begin with root {root}: compare the fingerprint with the one printed by \
         `holdfast keys generate`, and the repository's address"
    )]
    OtherRoot {
        /// The fingerprint given.
        root: Fingerprint,
    },
    /// The record's number or its link to the one before is wrong.
    #[error(
        "trust record {n} does not follow the one before it: somebody changed the chain, compare the replicas"
    )]
    Chain {
        /// Number of the record.
        n: u64,
    },
    /// An act contradicts the records before it.
    #[error("trust record {n} does what is not allowed: {why}")]
    Act {
        /// Number of the record.
        n: u64,
        /// What.
        why: String,
    },
}

/// Why a signer is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignerRefused {
    /// Not in the chain.
    #[error("key {0} is not in the trust chain: enrol it with `holdfast trust enrol`, if it is yours")]
    Unknown(Fingerprint),
    /// Revoked.
    #[error(
        "key {key} ({name}) was revoked by trust record {record} ({reason}), and this object is not among those still believed"
    )]
    Revoked {
        /// The key.
        key: Fingerprint,
        /// Whose it was.
        name: ActorName,
        /// The revoking record.
        record: u64,
        /// Why.
        reason: String,
    },
    /// In another role.
    #[error("key {key} ({name}) is enrolled as {role:?}, which may not sign this")]
    Role {
        /// The key.
        key: Fingerprint,
        /// Whose it is.
        name: ActorName,
        /// Its role.
        role: TrustRole,
    },
    /// For other clusters.
    #[error("key {key} ({name}) may not sign for {wanted}: enrol it for that, if it should")]
    Scope {
        /// The key.
        key: Fingerprint,
        /// Whose it is.
        name: ActorName,
        /// The cluster, or the whole repository.
        wanted: String,
    },
}

/// A key that is or was believed.
#[derive(Debug, Clone)]
pub struct TrustedKey {
    /// Who holds it.
    pub name: ActorName,
    /// What it may sign.
    pub role: TrustRole,
    /// The scheme.
    pub algorithm: KeyAlgorithm,
    /// The public key.
    pub verifying: VerifyingKey,
    /// The clusters it may sign for; empty means all.
    pub clusters: BTreeSet<ClusterId>,
    /// The group of people that its holder belongs to.
    pub group: Option<GroupName>,
    /// The record that enrolled it first.
    pub enrolled_by: u64,
    /// Its revocation.
    pub revoked: Option<Revocation>,
}

impl TrustedKey {
    /// Whether it may sign for `cluster` (`None`: for the whole repository).
    pub fn covers(&self, cluster: Option<&ClusterId>) -> bool {
        self.clusters.is_empty() || cluster.is_some_and(|c| self.clusters.contains(c))
    }
}

/// The end of belief in a key.
#[derive(Debug, Clone)]
pub struct Revocation {
    /// The record that says so.
    pub record: u64,
    /// When it was signed.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
    /// The last objects that are still believed.
    pub believed: Vec<Link>,
}

/// The verified chain of one repository.
#[derive(Debug, Clone)]
pub struct Trust {
    repository: RepositoryId,
    root: Fingerprint,
    keys: BTreeMap<Fingerprint, TrustedKey>,
    /// The keys of each name, revoked ones too.
    names: BTreeMap<ActorName, BTreeSet<Fingerprint>>,
    /// What needs approval, by action and scope.
    required: BTreeMap<(Guarded, BTreeSet<ClusterId>), Quorum>,
    /// The records, oldest first.
    records: Vec<Link>,
    /// For each revoked key, the digests of its objects that are still believed.
    believed: HashMap<Fingerprint, HashSet<Sha256Digest>>,
    /// What was met while the chain was read.
    findings: Vec<Finding>,
}

impl Trust {
    /// The empty chain, which believes nobody but awaits record 0 by `root`.
    pub fn empty(repository: RepositoryId, root: Fingerprint) -> Self {
        Self {
            repository,
            root,
            keys: BTreeMap::new(),
            names: BTreeMap::new(),
            required: BTreeMap::new(),
            records: Vec::new(),
            believed: HashMap::new(),
            findings: Vec::new(),
        }
    }

    /// The repository.
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// The fingerprint from which everything is believed.
    pub fn root(&self) -> &Fingerprint {
        &self.root
    }

    /// How many records the chain has.
    pub fn length(&self) -> u64 {
        self.records.len() as u64
    }

    /// The newest record.
    pub fn head(&self) -> Option<&Link> {
        self.records.last()
    }

    /// All records, oldest first: what a commit object's replica must hold too.
    pub fn records(&self) -> &[Link] {
        &self.records
    }

    /// What was met while the chain was read: replicas out of reach, bad copies.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// A key by its fingerprint, revoked or not.
    pub fn key(&self, fingerprint: &Fingerprint) -> Option<&TrustedKey> {
        self.keys.get(fingerprint)
    }

    /// All keys, by fingerprint.
    pub fn keys(&self) -> impl Iterator<Item = (&Fingerprint, &TrustedKey)> {
        self.keys.iter()
    }

    /// The keys that are enrolled under a name, revoked or not.
    pub fn keys_of(&self, name: &ActorName) -> impl Iterator<Item = &TrustedKey> {
        let fingerprints = self.names.get(name).into_iter().flatten();
        fingerprints.filter_map(move |fingerprint| self.keys.get(fingerprint))
    }

    /// The rules of what needs approval: action, scope (empty is the whole
    /// repository), how many.
    pub fn rules(&self) -> impl Iterator<Item = (Guarded, &BTreeSet<ClusterId>, &Quorum)> {
        self.required
            .iter()
            .map(|((action, scope), q)| (*action, scope, q))
    }

    /// How many approvals an action on `clusters` (none: the whole repository)
    /// needs; `None` when it needs none. Where several rules apply, each number
    /// is that of the strictest.
    pub fn required(&self, action: Guarded, clusters: &[ClusterId]) -> Option<Quorum> {
        let applies = |scope: &BTreeSet<ClusterId>| {
            scope.is_empty() || clusters.is_empty() || clusters.iter().any(|c| scope.contains(c))
        };
        self.rules()
            .filter(|(of, scope, _)| *of == action && applies(scope))
            .map(|(_, _, quorum)| *quorum)
            .reduce(|a, b| Quorum {
                approvals: a.approvals.max(b.approvals),
                groups: a.groups.max(b.groups),
                valid_ms: a.valid_ms.min(b.valid_ms),
            })
    }

    /// Whether `signer` may sign *now*, in one of `roles`, for `cluster`
    /// (`None`: for the whole repository).
    pub fn check(
        &self,
        signer: &Fingerprint,
        roles: &[TrustRole],
        cluster: Option<&ClusterId>,
    ) -> Result<&TrustedKey, SignerRefused> {
        let key = self.check_enrolled(signer, roles, cluster)?;
        match &key.revoked {
            None => Ok(key),
            Some(r) => Err(refused_by(signer, key, r)),
        }
    }

    /// Whether an existing object of digest `sha256`, signed by `signer`, is
    /// believed: as [`Trust::check`], but a revoked key's object passes when the
    /// revocation still believes it.
    pub fn check_object(
        &self,
        signer: &Fingerprint,
        roles: &[TrustRole],
        cluster: Option<&ClusterId>,
        sha256: &Sha256Digest,
    ) -> Result<&TrustedKey, SignerRefused> {
        let key = self.check_enrolled(signer, roles, cluster)?;
        match &key.revoked {
            Some(r) if !self.believed.get(signer).is_some_and(|set| set.contains(sha256)) => {
                Err(refused_by(signer, key, r))
            }
            _ => Ok(key),
        }
    }

    fn check_enrolled(
        &self,
        signer: &Fingerprint,
        roles: &[TrustRole],
        cluster: Option<&ClusterId>,
    ) -> Result<&TrustedKey, SignerRefused> {
        let key = self.keys.get(signer).ok_or(SignerRefused::Unknown(*signer))?;
        if !roles.contains(&key.role) {
            return Err(SignerRefused::Role {
                key: *signer,
                name: key.name.clone(),
                role: key.role,
            });
        }
        if !key.covers(cluster) {
            let wanted =
                cluster.map_or_else(|| "the whole repository".to_owned(), |c| format!("cluster {c}"));
            return Err(SignerRefused::Scope {
                key: *signer,
                name: key.name.clone(),
                wanted,
            });
        }
        Ok(key)
    }

    /// Verifies `bytes` as the record that follows, without taking it in.
    pub fn verify_next(&self, bytes: &Bytes) -> Result<NextRecord, TrustError> {
        let n = self.length();
        let key = layout::trust(n);
        let signed = open_object::<TrustBody>(bytes, &key, self.repository, |header, signer, _| {
            if n == 0 {
                self.genesis_key(&header.body, signer)
            } else {
                self.check(signer, &[TrustRole::Root], None)
                    .map(|k| k.verifying.clone())
            }
        })
        .map_err(|source| match source {
            SignedError::Signer { .. } if n == 0 => TrustError::OtherRoot { root: self.root },
            source => TrustError::Record { n, source },
        })?;
        if signed.header.body.n != n || signed.header.previous.as_ref() != self.head() {
            return Err(TrustError::Chain { n });
        }
        let next = NextRecord {
            link: signed.link(),
            body: signed.header.body,
        };
        self.clone().apply(&next)?;
        Ok(next)
    }

    /// The root's public key out of the record that enrols it.
    fn genesis_key(&self, body: &TrustBody, signer: &Fingerprint) -> Result<VerifyingKey, SignerRefused> {
        let unknown = || SignerRefused::Unknown(*signer);
        if *signer != self.root {
            return Err(unknown());
        }
        body.acts
            .iter()
            .find_map(|act| match act {
                TrustAct::Enrol {
                    role: TrustRole::Root,
                    key,
                    public,
                    ..
                } if *key == self.root => VerifyingKey::from_base64(public).ok(),
                _ => None,
            })
            .filter(|k| k.fingerprint() == self.root)
            .ok_or_else(unknown)
    }

    /// Takes in a record that [`Trust::verify_next`] passed.
    pub fn extend(&mut self, next: &NextRecord) -> Result<(), TrustError> {
        let mut changed = self.clone();
        changed.apply(next)?;
        *self = changed;
        Ok(())
    }

    fn apply(&mut self, next: &NextRecord) -> Result<(), TrustError> {
        let n = next.body.n;
        let refuse = |why: String| TrustError::Act { n, why };
        if n != self.length() {
            return Err(TrustError::Chain { n });
        }
        for act in &next.body.acts {
            match act {
                TrustAct::Enrol {
                    name,
                    role,
                    algorithm,
                    key,
                    public,
                    clusters,
                    group,
                } => {
                    let verifying = VerifyingKey::from_base64(public).map_err(|e: SigningError| {
                        refuse(format!("it enrols {name} with a key that cannot be read: {e}"))
                    })?;
                    if verifying.fingerprint() != *key || verifying.algorithm() != *algorithm {
                        return Err(refuse(format!(
                            "the public key of {name} is not the one it names"
                        )));
                    }
                    self.enrol(n, name, *role, verifying, clusters, group.as_ref())
                        .map_err(refuse)?;
                }
                TrustAct::Revoke {
                    key,
                    believed,
                    reason,
                } => {
                    let held = self
                        .keys
                        .get_mut(key)
                        .ok_or_else(|| refuse(format!("it revokes {key}, which was never enrolled")))?;
                    if held.revoked.is_some() {
                        return Err(refuse(format!("it revokes {key} a second time")));
                    }
                    held.revoked = Some(Revocation {
                        record: n,
                        at: next.body.at,
                        reason: reason.clone(),
                        believed: believed.clone(),
                    });
                    self.believed
                        .insert(*key, believed.iter().map(|l| l.sha256).collect());
                }
                TrustAct::Require {
                    action,
                    clusters,
                    quorum,
                } => {
                    let scope: BTreeSet<ClusterId> = clusters.iter().cloned().collect();
                    if quorum.approvals == 0 {
                        self.required.remove(&(*action, scope));
                    } else if quorum.groups > quorum.approvals {
                        return Err(refuse(format!(
                            "{action} cannot need {} groups of {} people",
                            quorum.groups, quorum.approvals
                        )));
                    } else {
                        self.required.insert((*action, scope), *quorum);
                    }
                }
            }
        }
        self.records.push(next.link.clone());
        Ok(())
    }

    fn enrol(
        &mut self,
        n: u64,
        name: &ActorName,
        role: TrustRole,
        verifying: VerifyingKey,
        clusters: &[ClusterId],
        group: Option<&GroupName>,
    ) -> Result<(), String> {
        let fingerprint = verifying.fingerprint();
        let Some(held) = self.keys.get_mut(&fingerprint) else {
            let key = TrustedKey {
                name: name.clone(),
                role,
                algorithm: verifying.algorithm(),
                verifying,
                clusters: clusters.iter().cloned().collect(),
                group: group.cloned(),
                enrolled_by: n,
                revoked: None,
            };
            self.names.entry(name.clone()).or_default().insert(fingerprint);
            self.keys.insert(fingerprint, key);
            return Ok(());
        };
        if held.revoked.is_some() {
            return Err(format!(
                "key {fingerprint} was revoked and cannot come back: make a new key for {name}"
            ));
        }
        if held.name != *name || held.role != role {
            return Err(format!(
                "key {fingerprint} is {}'s as {:?} already: make another key",
                held.name, held.role
            ));
        }
        if held.group.as_ref() != group {
            return Err(format!(
                "key {fingerprint} belongs to another group already: make another key"
            ));
        }
        if clusters.is_empty() {
            held.clusters.clear();
        } else if !held.clusters.is_empty() {
            held.clusters.extend(clusters.iter().cloned());
        }
        Ok(())
    }

    /// What [`Trust::check_object`] believes of `key` although it is revoked.
    pub(crate) fn believe_also(&mut self, key: &Fingerprint, sha256: Sha256Digest) -> bool {
        self.believed.entry(*key).or_default().insert(sha256)
    }
}

fn refused_by(signer: &Fingerprint, key: &TrustedKey, r: &Revocation) -> SignerRefused {
    SignerRefused::Revoked {
        key: *signer,
        name: key.name.clone(),
        record: r.record,
        reason: r.reason.clone(),
    }
}

/// A record that was verified as the next of a chain.
#[derive(Debug, Clone)]
pub struct NextRecord {
    /// Where it lies and its digest.
    pub link: Link,
    /// What it does.
    pub body: TrustBody,
}

/// Record 0 of a new repository: `root` enrols itself under `name`.
pub fn genesis(
    root: &SigningKey,
    name: &ActorName,
    repository: RepositoryId,
    now: Timestamp,
) -> Result<(ObjectKey, Vec<u8>), TrustError> {
    let enrol = enrolment(root.verifying(), name, TrustRole::Root, &[]);
    append(
        &Trust::empty(repository, root.fingerprint()),
        vec![enrol],
        root,
        now,
    )
}

/// The act that enrols `key`.
pub fn enrolment(key: &VerifyingKey, name: &ActorName, role: TrustRole, clusters: &[ClusterId]) -> TrustAct {
    TrustAct::Enrol {
        name: name.clone(),
        role,
        algorithm: key.algorithm(),
        key: key.fingerprint(),
        public: key.to_base64(),
        clusters: clusters.to_vec(),
        group: None,
    }
}

/// The record that follows `trust` and does `acts`, signed. It is checked as a
/// reader would check it; a record that would leave no root is refused.
pub fn append(
    trust: &Trust,
    acts: Vec<TrustAct>,
    signer: &SigningKey,
    now: Timestamp,
) -> Result<(ObjectKey, Vec<u8>), TrustError> {
    let n = trust.length();
    let key = layout::trust(n);
    let body = TrustBody { n, at: now, acts };
    let bytes = Draft {
        repository: trust.repository,
        key: key.clone(),
        payload: Content::default(),
        sealed_to: None,
        lease: None,
        previous: trust.head().cloned(),
        body: &body,
    }
    .sign(signer)
    .bytes;
    let next = trust.verify_next(&bytes)?;
    let mut after = trust.clone();
    after.extend(&next)?;
    if !after
        .keys
        .values()
        .any(|k| k.role == TrustRole::Root && k.revoked.is_none())
    {
        return Err(TrustError::Act {
            n,
            why: "it would leave no root key: enrol another root first".to_owned(),
        });
    }
    Ok((key, bytes.into()))
}

#[cfg(test)]
mod tests;
