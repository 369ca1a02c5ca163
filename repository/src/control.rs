//! Objects that people sign: requests, approvals, holds.
//!
//! They are few, small and in clear, and one replica is enough: what is there counts.

use bytes::Bytes;
use holdfast_proto::envelope::Record;
use holdfast_proto::finding::{Finding, Severity};
use holdfast_proto::names::{ActorName, ClusterId, ObjectKey, Region};
use holdfast_proto::record::TrustRole;
use holdfast_proto::{Fingerprint, Timestamp};

use crate::Repository;
use crate::approval::ApprovalError;
use crate::replica::{Replica, StoreError};
use crate::signed::{self, Content, Draft, Signed, SignedError};
use crate::trust::Trust;

/// Verifies the object at `key`: signed today by somebody in one of `roles` for all
/// clusters that it is about.
pub(crate) fn open<B: Record>(
    bytes: &Bytes,
    key: &ObjectKey,
    trust: &Trust,
    roles: &[TrustRole],
    scope: impl Fn(&B) -> Vec<ClusterId>,
) -> Result<Signed<B>, SignedError> {
    signed::open_object(bytes, key, trust.repository(), |header, signer, sha256| {
        let scope = scope(&header.body);
        let checked = scopes(&scope)
            .into_iter()
            .map(|cluster| trust.check_object(signer, roles, cluster, sha256))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(checked[0].verifying.clone())
    })
}

/// Each scope that a key must cover for `clusters`; never empty.
fn scopes(clusters: &[ClusterId]) -> Vec<Option<&ClusterId>> {
    match clusters {
        [] => vec![None],
        clusters => clusters.iter().map(Some).collect(),
    }
}

/// The name of the holder of `key`, who must be enrolled in one of `roles` for all
/// of `clusters` and not revoked.
pub(crate) fn holder(
    trust: &Trust,
    key: &Fingerprint,
    roles: &[TrustRole],
    clusters: &[ClusterId],
    what: &'static str,
) -> Result<ActorName, ApprovalError> {
    let held = scopes(clusters)
        .into_iter()
        .map(|cluster| trust.check(key, roles, cluster))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| ApprovalError::Key { what, source })?;
    Ok(held[0].name.clone())
}

/// An object in clear, to be signed.
pub(crate) fn draft<'a, B>(trust: &Trust, key: &ObjectKey, payload: Content, body: &'a B) -> Draft<'a, B> {
    Draft {
        repository: trust.repository(),
        key: key.clone(),
        payload,
        sealed_to: None,
        lease: None,
        previous: None,
        body,
    }
}

/// Creates an object on every replica; one is enough, the others are findings.
pub(crate) async fn spread(
    repository: &Repository,
    key: &ObjectKey,
    bytes: &Bytes,
    now: Timestamp,
) -> Result<Vec<Finding>, ApprovalError> {
    let mut failed = Vec::new();
    for replica in repository.replicas() {
        if let Err(e) = replica.create(key, bytes.clone()).await {
            failed.push((replica.region().clone(), e));
        }
    }
    if failed.len() == repository.replicas().len()
        && let Some((_, e)) = failed.pop()
    {
        return Err(ApprovalError::Store(e));
    }
    let finding = |(region, error): (Region, StoreError)| Finding {
        name: "approval-not-stored".to_owned(),
        subject: region.to_string(),
        severity: Severity::Warning,
        detail: format!(
            "{key} is not on the replica in {region} ({}). It counts where it is.",
            error.explained()
        ),
        since: now,
    };
    Ok(failed.into_iter().map(finding).collect())
}

/// The copies of an object on a replica, the oldest version first: what came
/// later may be an overwriting.
pub(crate) async fn copies(replica: &Replica, key: &ObjectKey) -> Vec<Bytes> {
    let mut out = Vec::new();
    for version in replica.versions(key).await.unwrap_or_default() {
        out.extend(replica.get_version(key, &version).await.ok());
    }
    if out.is_empty() {
        out.extend(replica.get(key).await.ok());
    }
    out
}

/// The name under which a verified object's signer is enrolled.
pub(crate) fn name_of(trust: &Trust, signer: &Fingerprint) -> ActorName {
    let key = trust
        .key(signer)
        .expect("a verified object's signer is in the chain");
    key.name.clone()
}
