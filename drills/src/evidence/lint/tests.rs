use super::super::fixture;
use super::super::statement::recovery::RecoveryTarget;
use super::*;
use holdfast_proto::Sha256Digest;

fn rules(change: impl FnOnce(&mut Statement)) -> Vec<&'static str> {
    let mut statement = fixture::statement();
    change(&mut statement);
    lint(&statement)
        .err()
        .unwrap_or_default()
        .into_iter()
        .map(|f| f.rule)
        .collect()
}

#[test]
fn a_sound_statement_is_signed() {
    assert_eq!(rules(|_| {}), [""; 0]);
}

#[test]
fn a_pass_must_be_earned() {
    assert_eq!(
        rules(|s| s.predicate.results.checks.clear()),
        ["verdict-not-earned"]
    );
    assert_eq!(
        rules(|s| s.predicate.results.filestore.as_mut().unwrap().missing_in_backup = 1),
        ["verdict-not-earned", "filestore-counts"]
    );
    // A worse verdict than the findings allow is the runner's right, with a reason.
    assert_eq!(
        rules(|s| s.predicate.results.verdict = Verdict::Aborted),
        ["verdict-without-reason"]
    );
    assert_eq!(
        rules(|s| {
            s.predicate.results.verdict = Verdict::Aborted;
            s.predicate.results.reasons = vec!["the runner was told to stop".into()];
            s.predicate.results.checks.clear();
        }),
        [""; 0]
    );
    assert_eq!(
        rules(|s| s.predicate.results.rto.as_mut().unwrap().met = Some(false)),
        ["objective-not-as-measured"]
    );
    assert_eq!(
        rules(|s| s.predicate.exceptions.push(fixture::exception("nothing"))),
        ["exception-for-nothing"]
    );
    assert_eq!(
        rules(|s| {
            let mut exception = fixture::exception("rto");
            exception.owner = " ".into();
            s.predicate.exceptions.push(exception);
        }),
        ["exception-without-owner"]
    );
}

#[test]
fn a_record_does_not_contradict_itself() {
    assert_eq!(rules(|s| s.predicate.drill.sequence = 0), ["sequence"]);
    assert_eq!(rules(|s| s.predicate.drill.previous = None), ["sequence"]);
    assert_eq!(
        rules(|s| s.predicate.actors.backup_writer.as_mut().unwrap().key = s.predicate.actors.runner.key),
        ["runner-is-writer", "separation-of-duties"]
    );
    assert_eq!(rules(|s| s.subject.push(s.subject[0].clone())), ["subject-twice"]);
    assert_eq!(rules(|s| drop(s.subject.remove(0))), ["subject-missing"]);
    assert_eq!(
        rules(|s| s.predicate.recovery_point = None),
        ["recovery-point-missing"]
    );
    assert_eq!(rules(|s| s.predicate.target = None), ["target-missing"]);
    assert_eq!(
        rules(|s| s
            .predicate
            .results
            .checks
            .push(s.predicate.results.checks[0].clone())),
        ["check-twice"]
    );
    assert_eq!(
        rules(|s| s.predicate.results.checks[2].id = "a b".into()),
        ["check-id"]
    );
    assert_eq!(
        rules(|s| s.predicate.results.checks[0].duration_ms = None),
        ["check-duration"]
    );
    assert_eq!(
        rules(|s| s
            .predicate
            .timings
            .phases
            .retain(|p| p.phase != Phase::FilestoreRestore)),
        ["phase-missing"]
    );
    assert_eq!(
        rules(|s| {
            let phase = &mut s.predicate.timings.phases[0];
            std::mem::swap(&mut phase.start, &mut phase.end);
        }),
        ["phase-backwards"]
    );
    assert_eq!(
        rules(|s| s.predicate.timings.phases.push(s.predicate.timings.phases[0])),
        ["phase-twice"]
    );
    assert_eq!(
        rules(|s| s.predicate.target.as_mut().unwrap().egress_probe = Some(EgressProbe::Open)),
        ["isolation-broken", "isolation-broken"]
    );
    assert_eq!(
        rules(|s| {
            let target = s.predicate.target.as_mut().unwrap();
            (target.kind, target.namespace) = (TargetKind::Kubernetes, None);
        }),
        ["namespace-missing"]
    );
}

#[test]
fn a_pass_names_the_files_that_were_read() {
    let sampling = |s: &mut Statement| s.predicate.sampling.take().unwrap();
    let without = |s: &mut Statement| {
        let mut sampled = sampling(s);
        sampled.file_sample = None;
        s.predicate.sampling = Some(sampled);
    };
    assert_eq!(rules(without), ["files-not-sampled"]);
    assert_eq!(rules(|s| drop(sampling(s))), ["files-not-sampled"]);
    let failed = |s: &mut Statement| {
        without(s);
        s.predicate.results.verdict = Verdict::Fail;
        s.predicate.results.reasons = vec!["the packs could not be listed".into()];
    };
    assert_eq!(rules(failed), [""; 0], "it claims nothing of them");
}

#[test]
fn secrets_and_people_stay_out() {
    for (text, rule) in [
        ("AGE-SECRET-KEY-1QQQ", "secret"),
        ("-----BEGIN PRIVATE KEY-----", "secret"),
        ("host=db password=hunter2", "secret"),
        ("postgres://odoo:hunter2@db.example/erp", "secret"),
        ("Jane <jane@example.com>", "personal-data"),
        ("a\nb", "text-not-plain"),
        (&"x".repeat(401), "text-too-long"),
    ] {
        let found = rules(|s| s.predicate.results.checks[0].actual = Some(text.to_owned()));
        assert!(found.contains(&rule), "{text:?}: {found:?}");
    }
    for harmless in [
        "s3://bucket/prefix",
        "git@v1",
        "postgresql://db.example/erp",
        "2 of 3",
    ] {
        let found = rules(|s| s.predicate.results.checks[0].actual = Some(harmless.to_owned()));
        assert_eq!(found, [""; 0], "{harmless}");
    }
}

#[test]
fn a_statement_fits_into_the_log() {
    let found = rules(|s| {
        let model = s.predicate.results.checks[0].clone();
        for n in 0..400 {
            let mut check = model.clone();
            check.id = format!("check-{n}");
            check.query_digest = Some(Sha256Digest::of(b""));
            s.predicate.results.checks.push(check);
        }
    });
    assert_eq!(found, ["too-long"]);
    assert_eq!(
        rules(|s| s.predicate.recovery_point.as_mut().unwrap().target = RecoveryTarget::Latest),
        [""; 0]
    );
}

#[test]
fn what_is_left_out_has_a_reason() {
    use super::super::statement::unknown::{self, Unknown};
    let mut statement = fixture::statement();
    let silent = |s: &Statement| lint_to_sign(s).err().unwrap_or_default();
    assert!(silent(&statement).iter().all(|f| f.rule == "left-out-in-silence"));
    assert!(
        silent(&statement)
            .iter()
            .any(|f| f.detail.contains("scope.legal_entity"))
    );
    unknown::state(&mut statement.predicate, |_| Some("nobody said it".into()));
    assert_eq!(lint_to_sign(&statement), Ok(()));
    let entity = |s: &mut Statement| s.predicate.scope.legal_entity = Some("Acme".into());
    entity(&mut statement);
    assert_eq!(
        silent(&statement).iter().map(|f| f.rule).collect::<Vec<_>>(),
        ["known-and-unknown"]
    );
    let with = |unknown: Unknown| rules(|s| s.predicate.unknown.push(unknown));
    assert_eq!(
        with(Unknown::new("scope.environment", "it is")),
        ["known-and-unknown"]
    );
    assert_eq!(
        with(Unknown::new("scope.colour", "no such field")),
        ["known-and-unknown"]
    );
    assert_eq!(
        with(Unknown::new("scope.legal_entity", " ")),
        ["unknown-without-reason"]
    );
}
