use holdfast_repository::signing::SigningKey;

use super::super::super::entry::{Abandoned, IntendedRecovery, Intent};
use super::super::super::fixture;
use super::super::super::statement::recovery::RecoveryTarget;
use super::super::super::statement::{DrillKind, IntentReference, Witness};
use super::*;

const WEEK: u64 = 7 * 86_400_000;

fn day(text: &str) -> Timestamp {
    format!("2026-{text}T12:00:00Z").parse().unwrap()
}

/// A log in the making.
struct Log {
    key: SigningKey,
    entries: Vec<LoggedEntry>,
}

impl Log {
    fn new() -> Self {
        Self {
            key: SigningKey::generate_ed25519().unwrap(),
            entries: Vec::new(),
        }
    }

    fn push(&mut self, entry: LoggedEntry) -> u64 {
        self.entries.push(entry);
        self.entries.len() as u64 - 1
    }

    fn population(&mut self, at: Timestamp, clusters: &[(&str, u64)]) {
        let members = clusters
            .iter()
            .map(|(cluster, every_ms)| Member {
                cluster: cluster.parse().unwrap(),
                tier: "gold".parse().unwrap(),
                drills: vec![Due {
                    scenario: "accidental-deletion".parse().unwrap(),
                    level: Level::L3,
                    every_ms: *every_ms,
                }],
            })
            .collect();
        let population = Population::of_tenant("acme".parse().unwrap(), members, at);
        self.push(LoggedEntry::sign(&population, &self.key).unwrap());
    }

    fn drill(&mut self, cluster: &str, at: Timestamp, level: Level, verdict: Option<Verdict>) {
        let n = self.entries.len() as u64;
        let intent = Intent {
            drill: DrillId::from_parts(at, n.into()),
            slot: None,
            cluster: cluster.parse().unwrap(),
            sequence: n + 1,
            previous: None,
            kind: DrillKind::Scheduled,
            level,
            scenario: "accidental-deletion".parse().unwrap(),
            recovery: IntendedRecovery {
                target: RecoveryTarget::Latest,
                base: None,
                point: None,
            },
            seed: None,
            at,
            deadline: at.plus_millis(3_600_000),
        };
        let entry = LoggedEntry::sign(&intent, &self.key).unwrap();
        let digest = entry.digest();
        let index = self.push(entry);
        match verdict {
            None => {}
            Some(Verdict::Abandoned) => {
                let gone = Abandoned {
                    drill: intent.drill,
                    cluster: intent.cluster,
                    intent: index,
                    intent_digest: digest,
                    at: intent.deadline,
                    reason: "no result".into(),
                };
                self.push(LoggedEntry::sign(&gone, &self.key).unwrap());
            }
            Some(verdict) => {
                let mut statement = fixture::statement();
                let p = &mut statement.predicate;
                (p.scope.tenant, p.scope.cluster) =
                    (intent.cluster.tenant.clone(), intent.cluster.cluster.clone());
                p.drill.id = intent.drill;
                p.results.verdict = verdict;
                p.drill.intent = Some(IntentReference {
                    log: "l".parse().unwrap(),
                    index,
                    digest,
                    checkpoint_size: None,
                    witness: Witness::None,
                });
                if verdict == Verdict::PassWithExceptions {
                    p.exceptions.push(fixture::exception("rto"));
                }
                self.push(LoggedEntry::sign_result(&statement, &self.key).unwrap());
            }
        }
    }

    fn november(&self) -> Coverage {
        let counted = Counted {
            log: "l".parse().unwrap(),
            size: self.entries.len() as u64,
            root: Sha256Digest::of(b""),
        };
        let month = "2026-11".parse().unwrap();
        derive(
            (0..).zip(&self.entries),
            &counted,
            &"acme".parse().unwrap(),
            month,
        )
    }
}

fn slots(c: &Coverage, cluster: &str) -> [u64; 6] {
    let row = c.clusters.iter().find(|r| r.cluster.to_string() == cluster);
    let s = row.unwrap_or_else(|| panic!("no {cluster}")).slots;
    [
        s.expected,
        s.executed,
        s.passed,
        s.passed_with_exceptions,
        s.failed,
        s.missed,
    ]
}

/// Weeks since 1970 begin on Thursdays: of November 2026 those that end are the
/// ones of 29 October and 5, 12 and 19 November.
#[test]
fn every_slot_is_passed_failed_or_missed() {
    let mut log = Log::new();
    log.population(day("10-01"), &[("acme/erp", WEEK), ("acme/crm", WEEK)]);
    log.drill("acme/erp", day("10-30"), Level::L3, Some(Verdict::Pass));
    log.drill("acme/erp", day("11-06"), Level::L4, Some(Verdict::Fail));
    log.drill(
        "acme/erp",
        day("11-07"),
        Level::L3,
        Some(Verdict::PassWithExceptions),
    );
    log.drill("acme/erp", day("11-13"), Level::L3, Some(Verdict::Abandoned));
    // Too little, another tenant's, and one without an end.
    log.drill("acme/erp", day("11-20"), Level::L2, Some(Verdict::Pass));
    log.drill("other/erp", day("11-20"), Level::L3, Some(Verdict::Pass));
    log.drill("acme/crm", day("11-20"), Level::L3, None);
    let c = log.november();
    assert_eq!(slots(&c, "acme/erp"), [4, 3, 1, 1, 1, 1]);
    assert_eq!(slots(&c, "acme/crm"), [4, 1, 0, 0, 1, 3]);
    assert_eq!(c.tiers.len(), 1);
    let gold = &c.tiers[0];
    assert_eq!(
        (gold.clusters, gold.slots.expected, gold.slots.failures()),
        (2, 8, 6)
    );
    // Begun in November: the one of October is not.
    let d = &c.drills;
    assert_eq!(
        (d.begun, d.passed, d.passed_with_exceptions, d.failed),
        (5, 1, 1, 3)
    );
    assert_eq!(c.exceptions.len(), 1);
    assert_eq!(c.populations.len(), 1);
    let read = CoverageStatement::parse(&CoverageStatement::new(c.clone()).to_bytes()).unwrap();
    assert_eq!(read.predicate, c);
}

/// Whoever leaves the policy in the middle of a slot still owed it; whoever comes
/// in the middle does not.
#[test]
fn a_slot_is_owed_by_whoever_was_there_when_it_began() {
    let mut log = Log::new();
    log.population(day("10-01"), &[("acme/erp", WEEK)]);
    log.population(day("11-17"), &[("acme/crm", WEEK)]);
    let c = log.november();
    assert_eq!(
        slots(&c, "acme/erp"),
        [3, 0, 0, 0, 0, 3],
        "29 October, 5 and 12 November"
    );
    assert_eq!(slots(&c, "acme/crm"), [1, 0, 0, 0, 0, 1], "19 November alone");
    assert_eq!(c.populations.len(), 2);
}

#[test]
fn nothing_is_expected_before_it_was_asked_for() {
    let mut log = Log::new();
    log.drill("acme/erp", day("11-06"), Level::L3, Some(Verdict::Pass));
    let c = log.november();
    assert_eq!((c.clusters.len(), c.tiers.len(), c.drills.begun), (0, 0, 1));
    log.population(day("12-01"), &[("acme/erp", WEEK)]);
    assert_eq!(log.november().clusters.len(), 0);
}

#[test]
fn months_are_read_in_one_form() {
    let month: Month = "2026-02".parse().unwrap();
    assert_eq!(month.until(), "2026-03-01T00:00:00Z".parse().unwrap());
    assert_eq!(month.previous().unwrap().to_string(), "2026-01");
    for text in ["2026-2", "2026-13", "26-02", "2026-02-01", ""] {
        assert!(text.parse::<Month>().is_err(), "{text}");
    }
}
