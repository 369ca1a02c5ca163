//! What people and other programs read: derived from a statement, never signed.
//!
//! Each view carries the statement's SHA-256, by which it leads back to what was
//! signed. Pure; a view says nothing that the statement does not say.
//!
//! - [`page`]: the drill for an auditor, as HTML that prints well.
//! - [`list`]: all drills, with filters.
//! - [`coverage`]: a tenant's month.
//! - [`junit`], [`oscal`], [`test_result`]: for programs.

pub mod coverage;
pub mod junit;
pub mod list;
pub mod oscal;
pub mod page;
pub mod record;
pub mod test_result;
mod words;

use holdfast_proto::record::TrustRole;
use holdfast_proto::{Fingerprint, Sha256Digest};

use super::statement::Statement;
use super::tlog::tiles::LogFile;

/// The style sheet of all pages.
pub const STYLE: &str = include_str!("../../assets/evidence.css");

/// What a view shows besides the statement itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown<'a> {
    /// The statement.
    pub statement: &'a Statement,
    /// SHA-256 of its bytes.
    pub digest: Sha256Digest,
    /// Its place in the log.
    pub index: u64,
    /// Whose signatures are on it: role, name, key.
    pub signers: Vec<(TrustRole, String, Fingerprint)>,
    /// The root that everything is traced to.
    pub root: Fingerprint,
    /// How long a restore's statement waited, in milliseconds.
    pub delay_ms: Option<u64>,
}

/// Every view as a file of an export.
///
/// # Errors
/// The page cannot be laid out, which is a defect.
pub fn files(shown: &Shown<'_>) -> Result<Vec<LogFile>, askama::Error> {
    let file = |path: &str, bytes: Vec<u8>| LogFile {
        path: format!("views/{path}"),
        bytes,
    };
    Ok(vec![
        file("report.html", page::alone(shown)?.into_bytes()),
        file("junit.xml", junit::junit(shown).into_bytes()),
        file("oscal-assessment-results.json", oscal::oscal(shown).into_bytes()),
        file("test-result.json", test_result::test_result(shown).into_bytes()),
    ])
}
