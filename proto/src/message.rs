//! What an agent and the coordinator say to each other.
//!
//! The agent calls: `POST /v1/heartbeat` with a [`Heartbeat`] over mutual TLS,
//! answered by [`Orders`]. Both are JSON. The coordinator never connects to an
//! agent.
//!
//! An agent without a certificate posts an [`Enrolment`] with a one-time token over
//! TLS; one that has a certificate posts a [`Renewal`] over mutual TLS in good time.
//! Both are answered by [`Issued`]. What a certificate says is the coordinator's to
//! decide: of the request for it only the public key counts.

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::finding::Finding;
use crate::labels::Labels;
use crate::names::{
    ActorName, BackupId, ClusterId, FilestoreName, Lineage, PointId, Region, TierName, WorkId,
};
use crate::pg::{Lsn, TimelineId};
use crate::record::ReplicaFrontier;
use crate::residency::Residency;

/// The path an agent posts its heartbeat to.
pub const HEARTBEAT_PATH: &str = "/v1/heartbeat";

/// The path an agent without a certificate posts its [`Enrolment`] to.
pub const ENROL_PATH: &str = "/v1/enrol";

/// The path an agent posts its [`Renewal`] to.
pub const RENEW_PATH: &str = "/v1/renew";

/// The path at which an agent gets its [`Seen`].
pub const SEEN_PATH: &str = "/v1/seen";

/// An agent asks for its first certificate.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    /// Who the agent takes itself to be. A token for another one is refused, and not used
    /// up by the mistake.
    pub agent: ActorName,
    /// The token, which is good for one key.
    pub token: String,
    /// PKCS #10 (PEM), signed with the key that the certificate is to be for. What it asks
    /// for beside that is not looked at.
    pub request: String,
}

impl std::fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrolment")
            .field("agent", &self.agent)
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

/// An agent asks for another certificate of the same identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renewal {
    /// As [`Enrolment::request`].
    pub request: String,
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The certificate (PEM).
    pub certificate: String,
}

/// As whom the coordinator sees an agent: what its certificate says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The agent.
    pub agent: ActorName,
    /// The clusters that it may speak for at most; empty when the trust chain alone decides.
    pub clusters: Vec<ClusterId>,
}

/// An agent's facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Which agent (must be the name in its certificate).
    pub agent: ActorName,
    /// Its program's version.
    pub version: String,
    /// Its clock.
    pub at: Timestamp,
    /// Each cluster that it protects.
    pub clusters: Vec<ClusterFacts>,
    /// Assignments that ended since the last answered heartbeat.
    pub done: Vec<AssignmentResult>,
}

/// What an agent knows of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFacts {
    /// The cluster.
    pub cluster: ClusterId,
    /// The tier in the agent's configuration.
    pub tier: TierName,
    /// The labels in the agent's configuration: a policy may decide by them.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The lineage it writes, once known.
    pub lineage: Option<Lineage>,
    /// The WAL line, once streaming.
    pub wal: Option<WalFacts>,
    /// The filestores.
    pub filestores: Vec<FilestoreFacts>,
    /// The newest base backup it made or knows of.
    pub last_base: Option<BaseFacts>,
    /// The newest point.
    pub last_point: Option<PointFacts>,
    /// Assignments it is working on, with how far.
    pub working: Vec<Progress>,
    /// What it asked of each replica for the cluster since it began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<RequestFacts>,
    /// What departs from what should be.
    pub findings: Vec<Finding>,
}

/// What was asked of a replica, and how many bytes went there and back: what an object
/// store has a price for. A request that failed and was made again counts twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// Objects stored, or attempts to.
    pub writes: u64,
    /// Objects read, in whole or in part, and looked at.
    pub reads: u64,
    /// Pages of listings, of a thousand names at most.
    pub lists: u64,
    /// Bytes sent in objects.
    pub sent: u64,
    /// Bytes received in objects.
    pub received: u64,
}

/// What an agent asked of one replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestFacts {
    /// The replica.
    pub region: Region,
    /// When the agent began to count, by its clock.
    pub since: Timestamp,
    /// Since then.
    pub requests: Requests,
}

/// The WAL line of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalFacts {
    /// The timeline streamed.
    pub timeline: TimelineId,
    /// The server's flush position, last heard.
    pub server_flush: Lsn,
    /// Received.
    pub received: Lsn,
    /// Acknowledged over the replicas.
    pub acknowledged: Lsn,
    /// Each replica.
    pub replicas: Vec<ReplicaFrontier>,
    /// Age in milliseconds of the oldest commit that is not acknowledged; zero
    /// when all are.
    pub rpo_ms: u64,
    /// Milliseconds since the server was heard last: of then is `server_flush`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub heard_ms: Option<u64>,
    /// Time of the newest commit acknowledged.
    pub last_commit: Option<Timestamp>,
    /// Bytes of WAL the slot holds back on the primary.
    pub slot_retained: Option<u64>,
}

/// One filestore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilestoreFacts {
    /// Its name.
    pub filestore: FilestoreName,
    /// Newest journal entry.
    pub entry: Option<u64>,
    /// Files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the newest complete scan began.
    pub scanned: Option<Timestamp>,
}

/// A base backup, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseFacts {
    /// The backup.
    pub id: BackupId,
    /// When its copy was complete.
    pub stopped: Timestamp,
}

/// A point, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointFacts {
    /// The point.
    pub id: PointId,
    /// Its moment.
    pub at: Timestamp,
}

/// Work that an assignment asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// A base backup.
    BaseBackup,
    /// A filestore checkpoint (deltas and fences run by the tier's interval).
    FilestoreCheckpoint,
    /// A configuration bundle.
    Configuration,
}

/// One piece of work, leased to an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The work's identity: an agent that hears of it twice does it once.
    pub id: WorkId,
    /// For which cluster.
    pub cluster: ClusterId,
    /// What.
    pub work: Work,
    /// Why now, for a person.
    pub reason: String,
    /// The agent must be heard working on it before this moment, or it is
    /// given out again.
    pub lease_until: Timestamp,
}

/// How far an assignment is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The assignment; absent for work that the agent began by itself.
    pub id: Option<WorkId>,
    /// What.
    pub work: Work,
    /// Plaintext bytes done.
    pub done: u64,
    /// Plaintext bytes in all, as far as known.
    pub total: u64,
    /// When it began.
    pub since: Timestamp,
}

/// How an assignment ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignmentResult {
    /// The assignment.
    pub id: WorkId,
    /// When it ended.
    pub at: Timestamp,
    /// What was made, or why nothing was.
    pub outcome: Result<String, String>,
}

/// What the tier asks of the agent, in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directives {
    /// Which cluster.
    pub cluster: ClusterId,
    /// The tier that they come from.
    pub tier: TierName,
    /// Longest time in milliseconds that new WAL waits before it is uploaded.
    pub tip_interval_ms: u64,
    /// Replicas that must hold WAL before it is acknowledged.
    pub copies: u32,
    /// Milliseconds between fences.
    pub fence_interval_ms: u64,
    /// Milliseconds between frontier attestations in the repository.
    pub attest_interval_ms: u64,
    /// Where the cluster's data may lie; absent when the policy leaves it open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residency: Option<Residency>,
    /// Digest of the policy that they come from.
    pub policy: String,
}

/// The coordinator's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// The coordinator's clock.
    pub at: Timestamp,
    /// The term in which it leads: an agent that has obeyed a higher one refuses these.
    #[serde(default)]
    pub term: u64,
    /// Work to do.
    pub assignments: Vec<Assignment>,
    /// The tiers' numbers.
    pub directives: Vec<Directives>,
    /// Results that were heard and need not be repeated.
    pub heard: Vec<WorkId>,
    /// Milliseconds until the next heartbeat is expected.
    pub heartbeat_ms: u64,
}
