//! Findings: every departure from what should be, with a name.

pub mod catalogue;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Recoverability is reduced, or will be.
    Warning,
    /// A person must act.
    Critical,
}

/// One departure. Two findings with the same name and subject are the same
/// finding seen twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// A stable name in kebab case, for example `replica-unreachable`. [`catalogue`]
    /// has all of them.
    pub name: String,
    /// What it is about: a region, a file, an object key, a cluster.
    pub subject: String,
    /// How much it matters.
    pub severity: Severity,
    /// What was seen and what to do next, for a person.
    pub detail: String,
    /// When it was first seen.
    pub since: Timestamp,
}
