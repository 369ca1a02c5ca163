//! What a statement does not say, and why.
//!
//! A reader of evidence cannot tell a value that does not exist from one that nobody
//! looked at. So whoever signs names each field that a statement could have and has
//! not, with a reason. Statements of earlier versions name none: a reader asks for no
//! more than that what is named is absent indeed.

use serde::{Deserialize, Serialize};

use super::RecoveryDrill;

/// A field that a statement leaves out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unknown {
    /// Its path in the predicate, as `scope.environment`.
    pub field: String,
    /// Why it is not there.
    pub reason: String,
}

impl Unknown {
    /// `field` is absent because of `reason`.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

/// A field by its path, and whether a statement has it.
type Field = (&'static str, fn(&RecoveryDrill) -> bool);

/// Every field that may be absent, and that a reader may ask for.
const FIELDS: [Field; 24] = [
    ("scope.legal_entity", |p| p.scope.legal_entity.is_some()),
    ("scope.environment", |p| p.scope.environment.is_some()),
    ("scope.tier", |p| p.scope.tier.is_some()),
    ("scope.residency_zone", |p| p.scope.residency_zone.is_some()),
    ("scope.business_services", |p| {
        !p.scope.business_services.is_empty()
    }),
    ("actors.initiator", |p| p.actors.initiator.is_some()),
    ("actors.approvals", |p| !p.actors.approvals.is_empty()),
    ("actors.runner.image_digest", |p| {
        p.actors.runner.image_digest.is_some()
    }),
    ("actors.backup_writer", |p| p.actors.backup_writer.is_some()),
    ("actors.reviewer", |p| p.actors.reviewer.is_some()),
    ("policy", |p| p.policy.is_some()),
    ("sampling", |p| p.sampling.is_some()),
    ("recovery_point", |p| p.recovery_point.is_some()),
    ("recovery_point.filestore_watermark", |p| {
        let point = p.recovery_point.as_ref();
        point.is_none_or(|r| r.filestore_watermark.is_some())
    }),
    ("recovery_point.replicas.locked_until", |p| {
        let point = p.recovery_point.as_ref();
        point.is_none_or(|r| r.replicas.iter().all(|replica| replica.locked_until.is_some()))
    }),
    ("recovery_point.encryption", |p| {
        let point = p.recovery_point.as_ref();
        point.is_none_or(|r| r.encryption.is_some())
    }),
    ("target", |p| p.target.is_some()),
    ("target.region", |p| {
        p.target.as_ref().is_none_or(|t| t.region.is_some())
    }),
    ("timings.clock_offset_ms", |p| p.timings.clock_offset_ms.is_some()),
    ("results.rto", |p| p.results.rto.is_some()),
    ("results.rpo", |p| p.results.rpo.is_some()),
    ("results.filestore", |p| p.results.filestore.is_some()),
    ("results.database", |p| p.results.database.is_some()),
    ("retention", |p| p.retention.is_some()),
];

/// The fields of `p` that are absent, by their paths.
pub fn absent(p: &RecoveryDrill) -> impl Iterator<Item = &'static str> {
    FIELDS.iter().filter(|(_, has)| !has(p)).map(|(field, _)| *field)
}

/// Names what `p` leaves out, each with the reason that `why` gives; what that does
/// not know was not looked at.
pub fn state(p: &mut RecoveryDrill, why: impl Fn(&str) -> Option<String>) {
    let named: Vec<Unknown> = absent(p)
        .map(|field| {
            let reason = why(field).unwrap_or_else(|| "it was not looked at".to_owned());
            Unknown::new(field, reason)
        })
        .collect();
    p.unknown = named;
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture;
    use super::*;

    #[test]
    fn what_is_absent_is_named_with_a_reason() {
        let mut drill = fixture::statement().predicate;
        (drill.scope.environment, drill.results.rto) = (None, None);
        let why = |field: &str| (field == "scope.environment").then(|| "the policy is silent".to_owned());
        state(&mut drill, why);
        let reason = |field: &str| {
            let found = drill.unknown.iter().find(|u| u.field == field);
            found.map(|u| u.reason.as_str())
        };
        assert_eq!(reason("scope.environment"), Some("the policy is silent"));
        assert_eq!(reason("results.rto"), Some("it was not looked at"));
        assert_eq!(reason("scope.business_services"), None, "it is there");
        assert!(absent(&drill).eq(drill.unknown.iter().map(|u| u.field.as_str())));
    }
}
