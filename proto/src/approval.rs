//! What more than one person must want: requests, approvals, and how many it takes.
//!
//! A request carries the exact plan as its payload, in clear; an approval is one
//! person's signature over the digest of that request. How many of them an action
//! needs stands in the trust chain, under the root key: whoever runs the
//! coordinator cannot lower it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::envelope::{Link, Record};
use crate::names::{ClusterId, RequestId};
use crate::{Sha256Digest, Timestamp};

/// An action that can be made to need approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guarded {
    /// A restore that takes connections from other machines, in place of what was lost.
    ProductionRestore,
    /// Deletion of backups.
    Deletion,
    /// Less is kept than before.
    RetentionCut,
    /// What was held for a reason of law is held no longer.
    HoldRelease,
    /// A policy that asks for less than the one in force.
    PolicyWeakening,
    /// Use of the escrow identity.
    BreakGlass,
}

impl Guarded {
    /// Every action, in the order of their names in documents.
    pub const ALL: [Guarded; 6] = [
        Guarded::ProductionRestore,
        Guarded::Deletion,
        Guarded::RetentionCut,
        Guarded::HoldRelease,
        Guarded::PolicyWeakening,
        Guarded::BreakGlass,
    ];

    /// Its name in records and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Guarded::ProductionRestore => "production-restore",
            Guarded::Deletion => "deletion",
            Guarded::RetentionCut => "retention-cut",
            Guarded::HoldRelease => "hold-release",
            Guarded::PolicyWeakening => "policy-weakening",
            Guarded::BreakGlass => "break-glass",
        }
    }
}

impl fmt::Display for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Guarded {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Guarded::ALL
            .into_iter()
            .find(|action| action.as_str() == text)
            .ok_or_else(|| {
                let known = Guarded::ALL.map(Guarded::as_str).join(", ");
                format!("{text:?} is not an action that can need approval: one of {known}")
            })
    }
}

/// `control/requests/<id>`: somebody wants to do what needs approval. The payload is
/// the plan: JSON that the executor carries out as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestBody {
    /// The request.
    pub id: RequestId,
    /// What is to be done.
    pub action: Guarded,
    /// The clusters that it concerns; empty means the whole repository.
    pub clusters: Vec<ClusterId>,
    /// The plan in a line, for lists. What counts is the plan.
    pub summary: String,
    /// Why, in the initiator's words.
    pub reason: String,
    /// When it was asked for, by the initiator's clock.
    pub at: Timestamp,
}

impl Record for RequestBody {
    const KIND: &'static str = "request";
}

/// What an approver says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// Yes, to exactly this plan.
    Grant,
    /// No. One is enough.
    Reject,
}

/// `control/approvals/<request>/<fingerprint>`: what one person says to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalBody {
    /// The request, by the digest of all of it.
    pub request: Link,
    /// SHA-256 of the plan.
    pub plan: Sha256Digest,
    /// Yes or no.
    pub decision: Decision,
    /// Why, in the approver's words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// When, by the approver's clock.
    pub at: Timestamp,
}

impl Record for ApprovalBody {
    const KIND: &'static str = "approval";
}

/// How many approvals an action needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quorum {
    /// People who grant it; 0 ends an earlier rule of the same scope.
    pub approvals: u32,
    /// Groups that they must come from.
    pub groups: u32,
    /// How long a request can be granted and carried out, counted from when it was made.
    pub valid_ms: u64,
}
