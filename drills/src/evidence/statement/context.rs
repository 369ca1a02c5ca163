//! Whose drill it was: scope, actors, policy and sampling.

use holdfast_proto::names::{ActorName, ClusterId, ClusterName, TenantName, TierName};
use holdfast_proto::{Fingerprint, Sha256Digest, Timestamp};
use serde::{Deserialize, Serialize};

/// Whose data was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// The tenant.
    pub tenant: TenantName,
    /// The cluster.
    pub cluster: ClusterName,
    /// The company that answers for the data.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub legal_entity: Option<String>,
    /// Production, staging and the like.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub environment: Option<String>,
    /// The service tier.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tier: Option<TierName>,
    /// Where the data may lie.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub residency_zone: Option<String>,
    /// Business services that depend on it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub business_services: Vec<String>,
}

impl Scope {
    /// The cluster with its tenant.
    pub fn id(&self) -> ClusterId {
        ClusterId {
            tenant: self.tenant.clone(),
            cluster: self.cluster.clone(),
        }
    }
}

/// Who took part. People appear by the opaque identifier that their identity
/// provider gives them, never by name or address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actors {
    /// Who or what asked for the drill.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub initiator: Option<String>,
    /// Who approved it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub approvals: Vec<Approval>,
    /// Who ran it.
    pub runner: Runner,
    /// Who wrote the backup that was restored.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub backup_writer: Option<KeyHolder>,
    /// Whether these were different.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub separation_of_duties: Option<SeparationOfDuties>,
    /// Who is to review it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reviewer: Option<KeyHolder>,
}

/// One approval of the drill's plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Who, as the identity provider's opaque subject.
    pub subject: String,
    /// The identity provider, or `trust` for a key of the trust chain.
    pub issuer: String,
    /// In which role.
    pub role: String,
    /// What was decided.
    pub decision: Decision,
    /// When.
    pub at: Timestamp,
    /// SHA-256 of the plan decided on.
    pub plan_digest: Sha256Digest,
}

/// What an approver decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Decision {
    /// Go ahead.
    Approved,
    /// Do not.
    Rejected,
}

/// The program that ran the drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runner {
    /// Its name in the trust chain.
    pub identity: ActorName,
    /// The key that signs this statement.
    pub key: Fingerprint,
    /// The version of the program.
    pub version: String,
    /// Digest of the container image, `sha256:…`, where it ran from one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub image_digest: Option<String>,
}

/// Someone known to the trust chain by name and key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyHolder {
    /// The name.
    pub identity: ActorName,
    /// The key.
    pub key: Fingerprint,
}

/// Which of the parts were played by different parties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeparationOfDuties {
    /// The runner's key is not the key that signed the backup.
    pub runner_is_not_writer: bool,
    /// No approver is the initiator; absent where nobody had to approve.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub approver_is_not_initiator: Option<bool>,
}

/// The policy that asked for the drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its name.
    pub id: String,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<String>,
    /// SHA-256 of its text.
    pub digest: Sha256Digest,
    /// What it promises.
    pub objectives: Objectives,
}

/// What is promised about recovery.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objectives {
    /// The most that may be lost.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rpo_ms: Option<u64>,
    /// The longest that recovery may take.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rto_ms: Option<u64>,
}

/// How the cluster, the moment and the files were chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampling {
    /// How the moment was chosen: [`SEEDED_WINDOW`] or [`SEEDED_POINT`] when drawn
    /// by the seed, [`OPERATOR`] when whoever started the drill named it.
    pub method: String,
    /// Moments, in microseconds, or points that could have been drawn.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub population_size: Option<u64>,
    /// SHA-256 of their listing, as [`crate::evidence::sampling`] writes it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub population_digest: Option<Sha256Digest>,
    /// Place in the log of the entry that committed to the population.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub population_index: Option<u64>,
    /// Entries under the checkpoint that the seed follows from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub checkpoint_size: Option<u64>,
    /// The slot that the seed follows from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub slot: Option<String>,
    /// The moments that could have been chosen.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub window: Option<Window>,
    /// What the draw followed from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub seed: Option<Sha256Digest>,
    /// The moment chosen.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub selected: Option<Timestamp>,
    /// The stored files (packs) that were drawn to be read and hashed again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file_sample: Option<FileSample>,
}

/// The moment was drawn from the window by the seed.
pub const SEEDED_WINDOW: &str = "seeded-window";
/// The moment is that of a joint recovery point, which the seed drew from all of
/// them.
pub const SEEDED_POINT: &str = "seeded-point";
/// Whoever started the drill named the moment.
pub const OPERATOR: &str = "operator";

/// A span of time: from its first moment up to, and without, its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The first moment in it.
    pub from: Timestamp,
    /// The first moment after it.
    pub until: Timestamp,
}

/// Files drawn from all files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSample {
    /// Files to draw from.
    pub population: u64,
    /// Files drawn.
    pub drawn: u64,
    /// SHA-256 of the listing of all of them, which is a byproduct: their
    /// digests in order, one to a line.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub population_digest: Option<Sha256Digest>,
    /// Those drawn, in the order in which the seed ranks them; absent when they
    /// are more than 64.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub selected: Vec<Sha256Digest>,
}
