//! What must be kept, whatever retention says, and the end of that.

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::envelope::{Link, Record};
use crate::names::{ClusterId, HoldId, RequestId};

/// `control/holds/<id>`: the moments of a cluster between `from` and `to` stay
/// restorable until the hold is released. It has no end of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldBody {
    /// The hold.
    pub id: HoldId,
    /// The cluster.
    pub cluster: ClusterId,
    /// The first moment that is held.
    pub from: Timestamp,
    /// The last moment that is held.
    pub to: Timestamp,
    /// Why, in the words of whoever placed it.
    pub reason: String,
    /// When it was placed, by that person's clock.
    pub at: Timestamp,
}

impl Record for HoldBody {
    const KIND: &'static str = "hold";
}

/// `control/releases/<hold>/<fingerprint>`: a hold ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseBody {
    /// The hold, by the digest of all of it.
    pub hold: Link,
    /// Why, in the words of whoever released it.
    pub reason: String,
    /// The request that was granted, where the trust chain asks for approval.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request: Option<RequestId>,
    /// When it was released, by that person's clock.
    pub at: Timestamp,
}

impl Record for ReleaseBody {
    const KIND: &'static str = "release";
}

/// The plan of a request to release a hold: what approvers sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleasePlan {
    /// The hold, by the digest of all of it.
    pub release: Link,
    /// What it says, for people to read.
    pub hold: HoldBody,
}

impl ReleasePlan {
    /// The bytes whose digest is approved.
    pub fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("plain values always encode")
    }
}
