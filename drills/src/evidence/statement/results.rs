//! What came of a drill: verdict, objectives, checks and counts.

use std::fmt;

use holdfast_proto::{Sha256Digest, Timestamp};
use serde::{Deserialize, Serialize};

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Results {
    /// The verdict.
    pub verdict: Verdict,
    /// Why, one sentence each; empty only for a plain PASS.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub reasons: Vec<String>,
    /// How long recovery took.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rto: Option<Rto>,
    /// How much would have been lost.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rpo: Option<Rpo>,
    /// The checks.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub checks: Vec<CheckResult>,
    /// The files against the database's references.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub filestore: Option<FilestoreResult>,
    /// The database.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub database: Option<DatabaseResult>,
}

/// What a drill shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// Recovery works, to the level of the drill.
    Pass,
    /// It works but for what is named and accepted, with an owner and a date.
    PassWithExceptions,
    /// It does not.
    Fail,
    /// That cannot be said: too little was checked.
    CouldNotVerify,
    /// The drill was stopped.
    Aborted,
    /// The drill never came to an end.
    Abandoned,
}

impl Verdict {
    /// Whether it says that recovery works.
    pub fn is_pass(self) -> bool {
        matches!(self, Verdict::Pass | Verdict::PassWithExceptions)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Pass => "PASS",
            Verdict::PassWithExceptions => "PASS_WITH_EXCEPTIONS",
            Verdict::Fail => "FAIL",
            Verdict::CouldNotVerify => "COULD_NOT_VERIFY",
            Verdict::Aborted => "ABORTED",
            Verdict::Abandoned => "ABANDONED",
        })
    }
}

/// How long recovery took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rto {
    /// Measured.
    pub actual_ms: u64,
    /// From which event to which it was measured.
    pub definition: String,
    /// Whether the objective was met; absent without an objective.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub met: Option<bool>,
    /// What the plan had predicted for base, files and replay.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub predicted_ms: Option<u64>,
    /// What the plan had predicted for nine cases in ten.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub predicted_p90_ms: Option<u64>,
}

/// How much would have been lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rpo {
    /// How far the database's restorable end lagged behind.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub database_lag_ms: Option<u64>,
    /// How far the filestore's did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub filestore_lag_ms: Option<u64>,
    /// From which event to which it was measured.
    pub definition: String,
    /// Whether the objective was met; absent without an objective.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub met: Option<bool>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// Its name, unique in the statement.
    pub id: String,
    /// What kind of soundness it is about.
    pub class: CheckClass,
    /// What it came to.
    pub result: CheckOutcome,
    /// What was expected: a count or a digest, never rows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expected: Option<String>,
    /// What was found: a count or a digest, never rows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub actual: Option<String>,
    /// SHA-256 of the query or the program.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub query_digest: Option<Sha256Digest>,
    /// It reads restored data, so that it could not pass on an empty copy.
    pub data_proving: bool,
    /// Without it there is no verdict.
    pub mandatory: bool,
    /// How long it took; absent when it did not run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub duration_ms: Option<u64>,
}

/// What a check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CheckClass {
    /// Signatures, digests and page checksums hold.
    Integrity,
    /// Recovery reached the very moment that it was told to.
    Recovery,
    /// Tables, indexes and catalogues are sound.
    Structure,
    /// What refers to something finds it: rows to rows, rows to files.
    Referential,
    /// The application starts and its books agree.
    Application,
    /// The drill was cut off from the source and the world.
    Isolation,
}

impl fmt::Display for CheckClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            CheckClass::Integrity => "INTEGRITY",
            CheckClass::Recovery => "RECOVERY",
            CheckClass::Structure => "STRUCTURE",
            CheckClass::Referential => "REFERENTIAL",
            CheckClass::Application => "APPLICATION",
            CheckClass::Isolation => "ISOLATION",
        })
    }
}

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CheckOutcome {
    /// As expected.
    Pass,
    /// Not as expected.
    Fail,
    /// Left out on purpose.
    Skipped,
    /// It was to run and could not.
    CouldNotRun,
}

/// The files against the database's references.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilestoreResult {
    /// Files that the database refers to.
    pub referenced: u64,
    /// Of those, restored and equal.
    pub present: u64,
    /// Of those, not in the backup.
    pub missing_in_backup: u64,
    /// Of those, missing at the source already.
    pub missing_at_source: u64,
    /// Restored with another digest than the reference gives.
    pub digest_mismatch: u64,
    /// Restored with another size.
    pub size_mismatch: u64,
    /// In the backup, unreferenced, left out.
    pub extras_left_out: u64,
}

/// The database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseResult {
    /// Tables in it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tables: Option<u64>,
    /// Pages whose checksum failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub checksum_failures: Option<u64>,
    /// Errors that amcheck reported.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub amcheck_errors: Option<u64>,
    /// Values recorded at the source against values in the copy.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub reconciliation: Vec<Reconciliation>,
}

/// One value recorded at the source against the same in the copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciliation {
    /// Its name.
    pub id: String,
    /// At the source: one value, or a range.
    pub expected: String,
    /// In the copy.
    pub actual: String,
    /// How exact the source's value is.
    pub comparison: Comparison,
    /// Whether they agree.
    pub agrees: bool,
}

/// How exact a source's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Comparison {
    /// Taken at the very position recovered to.
    Exact,
    /// Taken before and after: the copy must lie between.
    Bounds,
}

/// Something found wanting that is accepted until a date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    /// What is accepted: a check's id, or one of `rto`, `rpo`, `filestore`,
    /// `database`.
    pub accepts: String,
    /// Why.
    pub reason: String,
    /// Who answers for it: a role or an opaque identifier.
    pub owner: String,
    /// Until when it must be gone.
    pub due: Timestamp,
}

/// Something to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remediation {
    /// What.
    pub action: String,
    /// By whom: a role or an opaque identifier.
    pub owner: String,
    /// Until when.
    pub due: Timestamp,
}

/// A file that the drill left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Byproduct {
    /// What it is.
    pub name: String,
    /// SHA-256 of its bytes.
    pub digest: Sha256Digest,
}
