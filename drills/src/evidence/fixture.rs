//! A sound statement for this module's tests.

use holdfast_plan::drills::BaseKind;
use holdfast_proto::envelope::Link;
use holdfast_proto::names::{BackupId, DrillId, ObjectKey};
use holdfast_proto::record::CommitMark;
use holdfast_proto::{Fingerprint, Sha256Digest, Timestamp};

use super::statement::context::*;
use super::statement::recovery::*;
use super::statement::results::*;
use super::statement::*;

/// A moment of the drill's day.
pub fn at(time: &str) -> Timestamp {
    format!("2026-11-21T{time}Z").parse().expect("a time of day")
}

/// An exception that accepts `what`.
pub fn exception(what: &str) -> Exception {
    Exception {
        accepts: what.to_owned(),
        reason: "known since the last drill".to_owned(),
        owner: "team-erp".to_owned(),
        due: at("23:00:00"),
    }
}

fn check(id: &str, class: CheckClass, data_proving: bool) -> CheckResult {
    CheckResult {
        id: id.to_owned(),
        class,
        result: CheckOutcome::Pass,
        expected: Some("0".to_owned()),
        actual: Some("0".to_owned()),
        query_digest: Some(Sha256Digest::of(id.as_bytes())),
        data_proving,
        mandatory: true,
        duration_ms: Some(120),
    }
}

fn phase(phase: Phase, start: &str, end: &str) -> PhaseTiming {
    PhaseTiming {
        phase,
        start: at(start),
        end: at(end),
        bytes: None,
        items: None,
    }
}

/// An object's key, as the repository would name it.
pub fn link(key: &str) -> Link {
    Link {
        key: ObjectKey::from_layout(key.to_owned()),
        sha256: Sha256Digest::of(key.as_bytes()),
    }
}

/// A drill of level L3 that passed, the second of its cluster.
pub fn statement() -> Statement {
    let base = link("tenants/acme/clusters/erp/lineages/7-1/base/x");
    let drill = Drill {
        id: DrillId::from_parts(at("14:00:00"), 1),
        sequence: 2,
        previous: Some(Sha256Digest::of(b"the intent before")),
        kind: DrillKind::Scheduled,
        level: Level::L3,
        scenario: "accidental-deletion".parse().expect("a name"),
        scenario_digest: Some(Sha256Digest::of(b"the scenario's file")),
        why: Vec::new(),
        intent: Some(IntentReference {
            log: "holdfast.dev/log/test".parse().expect("an origin"),
            index: 3,
            digest: Sha256Digest::of(b"the intent"),
            checkpoint_size: Some(4),
            witness: Witness::None,
        }),
    };
    let results = Results {
        verdict: Verdict::Pass,
        reasons: Vec::new(),
        rto: Some(Rto {
            actual_ms: 80_000,
            definition: "from the start of provisioning to the last check".to_owned(),
            met: Some(true),
            predicted_ms: None,
            predicted_p90_ms: None,
        }),
        rpo: Some(Rpo {
            database_lag_ms: Some(900),
            filestore_lag_ms: Some(4_000),
            definition: "age of the oldest commit, and of the oldest file, that could not be restored"
                .to_owned(),
            met: Some(true),
        }),
        checks: vec![
            check("amcheck", CheckClass::Structure, true),
            check("attachments-present", CheckClass::Referential, true),
            check("collation-versions", CheckClass::Structure, false),
        ],
        filestore: Some(FilestoreResult {
            referenced: 20_000,
            present: 20_000,
            ..Default::default()
        }),
        database: Some(DatabaseResult {
            tables: Some(61),
            checksum_failures: Some(0),
            amcheck_errors: Some(0),
            reconciliation: Vec::new(),
        }),
    };
    Statement::new(
        vec![Subject::object(SubjectKind::BaseBackup, base.key, base.sha256)],
        RecoveryDrill {
            drill,
            scope: Scope {
                tenant: "acme".parse().expect("a name"),
                cluster: "erp".parse().expect("a name"),
                legal_entity: None,
                environment: Some("production".to_owned()),
                tier: Some("platinum".parse().expect("a name")),
                residency_zone: None,
                business_services: vec!["invoicing".to_owned()],
            },
            actors: Actors {
                initiator: Some("schedule".to_owned()),
                approvals: Vec::new(),
                runner: Runner {
                    identity: "runner-1".parse().expect("a name"),
                    key: Fingerprint::of_spki(b"runner"),
                    version: "0.1.0".to_owned(),
                    image_digest: None,
                },
                backup_writer: Some(KeyHolder {
                    identity: "agent-1".parse().expect("a name"),
                    key: Fingerprint::of_spki(b"agent"),
                }),
                separation_of_duties: Some(SeparationOfDuties {
                    runner_is_not_writer: true,
                    approver_is_not_initiator: None,
                }),
                reviewer: None,
            },
            policy: Some(Policy {
                id: "platinum".to_owned(),
                version: None,
                digest: Sha256Digest::of(b"policy"),
                objectives: Objectives {
                    rpo_ms: Some(5_000),
                    rto_ms: Some(900_000),
                },
            }),
            sampling: Some(Sampling {
                method: SEEDED_WINDOW.to_owned(),
                population_size: Some(46_800_000_000),
                population_digest: Some(Sha256Digest::of(b"population")),
                population_index: Some(1),
                checkpoint_size: Some(2),
                slot: Some("2026-11-21/erp".to_owned()),
                window: Some(Window {
                    from: at("00:00:00"),
                    until: at("13:00:00"),
                }),
                seed: Some(Sha256Digest::of(b"seed")),
                selected: Some(at("11:11:11")),
                file_sample: Some(FileSample {
                    population: 1_400,
                    drawn: 70,
                    population_digest: Some(Sha256Digest::of(b"the listing of files")),
                    selected: Vec::new(),
                }),
            }),
            recovery_point: Some(RecoveryPoint {
                kind: RecoveryPointKind::Pitr,
                point: None,
                system_identifier: "7381234567890123456".parse().expect("a number"),
                version_num: 150_020,
                timeline: serde_json::from_str("1").expect("a timeline"),
                target: RecoveryTarget::Time(at("11:11:11")),
                base: Base {
                    id: BackupId::from_parts(at("02:00:00"), 2),
                    start: "0/2000028".parse().expect("an LSN"),
                    stop: "0/2000100".parse().expect("an LSN"),
                    bytes: Some(31_000_000),
                    kind: Some(BaseKind::Full),
                },
                wal_bytes_replayed: Some(50_331_648),
                reached: Some("0/5000A0".parse().expect("an LSN")),
                last_replayed_commit: Some(CommitMark {
                    lsn: "0/500000".parse().expect("an LSN"),
                    time: at("11:11:10.9"),
                }),
                filestore_watermark: Some(at("11:11:07")),
                replicas: Vec::new(),
                encryption: None,
            }),
            target: Some(Target {
                kind: TargetKind::Local,
                isolation: Isolation::LinuxNamespaces,
                namespace: Some("4026532001".to_owned()),
                node: None,
                region: None,
                egress_probe: Some(EgressProbe::Blocked),
                segregated_from_source: Some(true),
                neutralised: Some(true),
                destroyed_at: Some(at("14:02:00")),
            }),
            timings: Timings {
                clock_offset_ms: Some(-3),
                clock_error_ms: Some(12),
                phases: vec![
                    phase(Phase::Provision, "14:00:01", "14:00:02"),
                    phase(Phase::BaseFetch, "14:00:02", "14:00:30"),
                    phase(Phase::WalReplay, "14:00:30", "14:01:00"),
                    phase(Phase::FilestoreRestore, "14:00:30", "14:01:10"),
                    phase(Phase::Checks, "14:01:10", "14:01:20"),
                    phase(Phase::Teardown, "14:01:20", "14:02:00"),
                ],
            },
            results,
            exceptions: Vec::new(),
            remediation: Vec::new(),
            controls: vec![
                "ISO-27001:2022 A.8.13".to_owned(),
                "NIST-800-53 CP-9(1)".to_owned(),
            ],
            retention: None,
            byproducts: Vec::new(),
            unknown: Vec::new(),
        },
    )
}
