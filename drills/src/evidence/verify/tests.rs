//! A whole world (keys, trust chain, log, drill), its export, and what becomes
//! of it under attack: by this module, by `verify.py`, and by `openssl` itself.

use std::fs;
use std::process::Command;

use holdfast_proto::names::DrillId;
use holdfast_repository::signing::SigningKey;

use super::super::export::{Announced, SCRIPTS, ShownEntries, files, write};
use super::super::fixture::{self, at};
use super::super::statement::DrillKind;
use super::super::statement::results::{CheckClass, CheckOutcome, Verdict};
use super::super::tlog::SignedCheckpoint;
use super::super::tlog::note::SignatureKind;
use super::super::tlog::tiles::LogFile;
use super::*;

use world::*;

mod covered;
mod drawn;
mod log;
mod tenant;
mod world;

#[test]
fn a_sound_export_is_verified_by_all_three() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let export = files(&world.drill(|_| {})).unwrap();
    write(dir.path(), &export).unwrap();
    let root = world.root.fingerprint();

    let report = verify_export(dir.path(), Some(root));
    assert!(report.accepted(), "{report}");
    assert!(
        report
            .to_string()
            .contains("VERIFIED: the evidence is authentic; its verdict is PASS"),
        "{report}"
    );
    let (accepted, said) = python(dir.path(), Some(&root.to_string()));
    assert!(accepted && said.contains("VERIFIED"), "{said}");

    let guide = fs::read_to_string(dir.path().join("VERIFY.md")).unwrap();
    let commands: Vec<&str> = guide
        .lines()
        .map(str::trim)
        .filter(|l| l.contains("-sigfile") || l.contains("-signature"))
        .collect();
    // Three trust records, intent, population, three signatures on the statement, the checkpoint.
    assert_eq!(commands.len(), 9, "{commands:#?}");
    for line in &commands {
        let done = Command::new("sh")
            .args(["-c", line])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{line}\n{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
    let by_hand = |line: &str| {
        let done = Command::new("bash")
            .args(["-c", line])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(done.status.success(), "{line}");
        String::from_utf8(done.stdout).unwrap()
    };
    by_hand(r#"tail -c "$(wc -c < statement.json)" openssl/statement.signed | cmp - statement.json"#);
    let leaf = by_hand(r"{ printf '\000'; cat result.entry; } | sha256sum");
    assert!(leaf.starts_with(&leaf_hash(&fs::read(dir.path().join("result.entry")).unwrap()).to_string()));
    let pem = format!("openssl/runner-{}.pem", world.runner.fingerprint().short());
    let print = by_hand(&format!("openssl pkey -pubin -in {pem} -outform DER | sha256sum"));
    assert!(print.starts_with(&world.runner.fingerprint().to_string()));
}

#[test]
fn without_the_root_it_is_untrusted_and_with_another_refused() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &files(&world.drill(|_| {})).unwrap()).unwrap();
    let report = verify_export(dir.path(), None);
    assert!(report.sound() && !report.accepted());
    assert!(report.to_string().contains("UNTRUSTED"));
    let (accepted, said) = python(dir.path(), None);
    assert!(!accepted && said.contains("UNTRUSTED"), "{said}");

    let other = SigningKey::generate_ed25519().unwrap().fingerprint();
    let report = verify_export(dir.path(), Some(other));
    assert!(!report.accepted() && !report.sound());
    let (accepted, said) = python(dir.path(), Some(&other.to_string()));
    assert!(!accepted && said.contains("REFUSED"), "{said}");
    assert!(matches!(
        write(dir.path(), &[]),
        Err(super::super::export::ExportError::NotEmpty(_))
    ));
}

#[test]
fn a_changed_byte_anywhere_is_noticed() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    // A witness's line says something only to who holds the witness's key: see
    // the test of witnesses.
    let input = world.drill_of(|_| {}, &world.runner, false, |_| {});
    let export = files(&input).unwrap();
    write(dir.path(), &export).unwrap();
    let root = world.root.fingerprint();
    // Scripts that are others than this version's: see the test of what is not covered.
    for file in export
        .iter()
        .filter(|f| !SCRIPTS.iter().any(|(name, _)| f.path == *name))
    {
        let path = dir.path().join(&file.path);
        let step = (file.bytes.len() / 12).max(1);
        for place in (0..file.bytes.len()).step_by(step).chain([file.bytes.len() - 1]) {
            let mut changed = file.bytes.clone();
            changed[place] ^= 1;
            fs::write(&path, &changed).unwrap();
            let report = verify_export(dir.path(), Some(root));
            assert!(!report.accepted(), "{} byte {place} changed unnoticed", file.path);
        }
        let (accepted, said) = python(dir.path(), Some(&root.to_string()));
        if file.path.starts_with("views/") || file.path == "VERIFY.md" {
            // The script derives no view. It says so, by name.
            assert!(accepted && not_covered(&said).contains(&file.path), "{said}");
        } else {
            assert!(!accepted, "{} changed unnoticed by verify.py:\n{said}", file.path);
        }
        fs::remove_file(&path).unwrap();
        assert!(!verify_export(dir.path(), Some(root)).accepted() || file.path.starts_with("checkpoints/"));
        fs::write(&path, &file.bytes).unwrap();
    }
    assert!(verify_export(dir.path(), Some(root)).accepted());
}

#[test]
fn a_forged_signature_is_refused() {
    let world = World::new();
    let stranger = SigningKey::generate_ed25519().unwrap();

    // The whole statement by a key that nobody enrolled.
    let mut export = files(&world.drill(|_| {})).unwrap();
    let mut input = world.drill(|_| {});
    let payload = input.result.envelope.payload.clone();
    let forged = Envelope::signed(IN_TOTO, payload, &stranger);
    input.result = LoggedEntry::from_envelope(forged.clone()).unwrap();
    replace(&mut export, "result.entry", input.result.bytes().to_vec());
    replace(&mut export, "envelope.json", forged.to_bytes());
    refused(world.both(&export), "REFUSED");

    // A good name with somebody else's signature, on the coordinator's part.
    let mut input = world.drill(|_| {});
    let sig = SigningKey::generate_p256()
        .unwrap()
        .sign(&input.result.envelope.pae());
    input.countersignatures[0].sig = sig;
    refused(world.both(&files(&input).unwrap()), "the signature");

    // No coordinator at all.
    let mut input = world.drill(|_| {});
    input.countersignatures.remove(0);
    refused(world.both(&files(&input).unwrap()), "coordinator");

    // The coordinator in the runner's place.
    let named = |s: &mut Statement| {
        s.predicate.actors.runner.key = world.log.fingerprint();
        s.predicate.actors.runner.identity = "coordinator-log".parse().unwrap();
    };
    refused(
        world.both(&files(&world.drill_signed(named, &world.log)).unwrap()),
        "Coordinator",
    );

    // A checkpoint by the runner.
    let mut input = world.drill(|_| {});
    let head = input.checkpoint.checkpoint().clone();
    input.checkpoint = SignedCheckpoint::sign(head, &world.runner).unwrap();
    refused(world.both(&files(&input).unwrap()), "coordinator");

    // A statement that names another runner than the one that signed.
    let renamed = |s: &mut Statement| s.predicate.actors.runner.identity = "runner-2".parse().unwrap();
    refused(world.both(&files(&world.drill(renamed)).unwrap()), "runner");
}

#[test]
fn a_statement_moved_elsewhere_is_refused() {
    let world = World::new();
    let moves: [fn(&mut Statement); 6] = [
        |s| s.predicate.scope.cluster = "crm".parse().unwrap(),
        |s| s.predicate.drill.sequence = 3,
        |s| s.predicate.drill.previous = Some(Sha256Digest::of(b"another")),
        |s| s.predicate.drill.id = DrillId::from_parts(at("14:00:00"), 77),
        |s| s.predicate.drill.intent.as_mut().unwrap().index -= 2,
        |s| s.predicate.drill.intent.as_mut().unwrap().checkpoint_size = Some(1),
    ];
    for change in moves {
        refused(world.both(&files_of(&world, change)), "REFUSED");
    }
    // Outside of the runner's scope.
    let beyond = |s: &mut Statement| s.predicate.scope.cluster = "hr".parse().unwrap();
    refused(world.both(&files_of(&world, beyond)), "may not sign");
}

/// The export of a changed statement, with the intent's proof of the unchanged
/// one: `files` itself would look the intent up where the statement says.
fn files_of(world: &World, change: impl FnOnce(&mut Statement)) -> Vec<LogFile> {
    let mut input = world.drill(change);
    let held = held(&input).clone();
    let place = held.checkpoint().size - 1;
    let intent = TlogProof::make(&input.tree, place, held).unwrap();
    let said = match &input.result.entry {
        Entry::Result(s) => s.predicate.drill.intent_index().unwrap(),
        _ => panic!("a result"),
    };
    if said != place {
        let other = input.earlier_checkpoints[0].clone();
        hold(&mut input, other);
    }
    let mut export = files(&input).unwrap();
    replace(&mut export, "intent.tlog-proof", intent.to_bytes());
    export
}

/// The two verifiers weigh findings alike, and refuse a pass that is not earned.
#[test]
fn a_pass_must_be_earned() {
    let world = World::new();
    let unearned: [fn(&mut Statement); 9] = [
        |s| {
            s.predicate
                .results
                .checks
                .iter_mut()
                .for_each(|c| c.data_proving = false)
        },
        |s| {
            s.predicate
                .results
                .checks
                .retain(|c| c.class != CheckClass::Structure)
        },
        |s| {
            s.predicate
                .results
                .checks
                .retain(|c| c.class != CheckClass::Referential)
        },
        |s| s.predicate.results.checks[2].result = CheckOutcome::Fail,
        |s| {
            s.predicate.results.checks[2].result = CheckOutcome::Skipped;
            s.predicate.results.checks[2].duration_ms = None;
        },
        |s| {
            let f = s.predicate.results.filestore.as_mut().unwrap();
            (f.present, f.missing_in_backup) = (19_999, 1);
        },
        |s| s.predicate.results.database.as_mut().unwrap().amcheck_errors = Some(1),
        |s| s.predicate.results.rto.as_mut().unwrap().actual_ms = 900_001,
        |s| s.predicate.results.rpo.as_mut().unwrap().filestore_lag_ms = None,
    ];
    for change in unearned {
        refused(
            world.both(&files(&world.drill(change)).unwrap()),
            "where its findings allow",
        );
    }
    // The same findings with an honest verdict are good evidence.
    for change in unearned {
        let honest = |s: &mut Statement| {
            change(s);
            super::super::verdict::settle(&mut s.predicate);
        };
        world.both(&files(&world.drill(honest)).unwrap()).unwrap();
    }
    let excepted = |s: &mut Statement| {
        s.predicate.results.checks[2].result = CheckOutcome::Fail;
        s.predicate
            .exceptions
            .push(fixture::exception("collation-versions"));
        super::super::verdict::settle(&mut s.predicate);
    };
    world.both(&files(&world.drill(excepted)).unwrap()).unwrap();
}

#[test]
fn a_reviewer_who_had_a_part_is_refused() {
    let world = World::new();
    for part in [
        |s: &mut Statement| s.predicate.actors.initiator = Some("reviewer-1".into()),
        |s: &mut Statement| {
            s.predicate.actors.backup_writer.as_mut().unwrap().identity = "reviewer-1".parse().unwrap();
        },
    ] {
        refused(
            world.both(&files(&world.drill(part)).unwrap()),
            "duties are not separated",
        );
    }
}

/// A restore that was needed was announced by nobody, and stands for no drill.
#[test]
fn a_real_restore_is_evidence_of_its_own_kind() {
    let world = World::new();
    let restore = |change: fn(&mut Statement)| {
        let mut input = world.drill_of(
            |s| {
                let p = &mut s.predicate;
                (p.drill.kind, p.drill.intent) = (DrillKind::RealRestore, None);
                (p.drill.sequence, p.drill.previous) = (0, None);
                (p.sampling, p.byproducts) = (None, Vec::new());
                p.results.verdict = Verdict::CouldNotVerify;
                p.results.reasons = vec!["nothing was checked".into()];
                change(s);
            },
            &world.runner,
            false,
            |_| {},
        );
        (input.intent, input.population) = (None, None);
        input.byproducts.clear();
        // The fixture's own intent is in the log and open: not this restore's.
        input.entries = ShownEntries::Hashes;
        files(&input).unwrap()
    };
    world.both(&restore(|_| {})).unwrap();
    refused(
        world.both(&restore(|s| s.predicate.drill.sequence = 2)),
        "restore",
    );
    refused(
        world.both(&restore(|s| s.predicate.drill.kind = DrillKind::OnDemand)),
        "REFUSED",
    );
}

#[test]
fn a_trust_chain_that_was_cut_or_mixed_is_refused() {
    let world = World::new();
    let sound = files(&world.drill(|_| {})).unwrap();
    let mut hole = sound.clone();
    hole.retain(|f| f.path != "trust/0000000000000001");
    refused(world.both(&hole), "hole");
    let mut swapped = sound.clone();
    let third = world.records[2].clone();
    replace(&mut swapped, "trust/0000000000000001", third);
    refused(world.both(&swapped), "trust record 1");
    let other = World::new();
    let mut foreign = sound.clone();
    replace(&mut foreign, "trust/0000000000000002", other.records[2].clone());
    refused(world.both(&foreign), "trust record 2");
}

#[test]
fn a_revoked_runner_is_believed_as_far_as_the_revocation_says() {
    let mut world = World::new();
    let before = world.drill(|_| {});
    let after = |world: &World| {
        let mut input = before.clone();
        (input.trust, input.trust_records) = (world.trust.clone(), world.records.clone());
        files(&input).unwrap()
    };
    world.both(&after(&world)).unwrap();
    let (length, trust) = (world.records.len(), world.trust.clone());
    let kept = Sha256Digest::of(&before.earlier_checkpoints[0].to_bytes());
    let of = |announced: &Option<Announced>| announced.as_ref().unwrap().entry.digest();
    let too_early = Sha256Digest::of(&held(&before).to_bytes());
    for (believed, accepted) in [
        (vec![], None),
        (vec![too_early], None),
        (vec![before.result.digest()], None),
        (vec![before.result.digest(), of(&before.intent)], None),
        (
            vec![before.result.digest(), of(&before.intent), of(&before.population)],
            Some(false),
        ),
        (vec![kept], Some(true)),
    ] {
        world.records.truncate(length);
        world.trust = trust.clone();
        world.revoke_runner(&believed);
        let mut export = after(&world);
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &export).unwrap();
        // In the whole log there is the earlier drill too, by the same key.
        let whole = verify_with(dir.path(), &world.options());
        assert_eq!(whole.accepted(), accepted == Some(true), "{believed:?}: {whole}");
        export.retain(|f| !f.path.starts_with("tile/entries/"));
        let alone = world.both(&export);
        assert_eq!(alone.is_ok(), accepted.is_some(), "{believed:?}: {alone:?}");
    }
}

#[test]
fn a_witness_is_asked_for_by_key() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &files(&world.drill(|_| {})).unwrap()).unwrap();
    let key = |key: &SigningKey| {
        NoteKey::new("auditor.example", SignatureKind::Cosignature, key.verifying()).unwrap()
    };
    let with = |witness| VerifyOptions {
        witnesses: vec![witness],
        ..world.options()
    };
    let report = verify_with(dir.path(), &with(key(&world.witness)));
    assert!(report.accepted(), "{report}");
    assert!(
        report
            .to_string()
            .contains("auditor.example saw the intent in the log at 2026-11-21T14:00:00")
    );
    assert!(!verify_with(dir.path(), &with(key(&world.runner))).accepted());

    let path = dir.path().join("intent.tlog-proof");
    let mut changed = fs::read(&path).unwrap();
    let place = changed.len() - 20;
    changed[place] ^= 1;
    fs::write(&path, changed).unwrap();
    assert!(!verify_with(dir.path(), &with(key(&world.witness))).accepted());
}

#[test]
fn the_scripts_stay_short_enough_to_read() {
    for (name, text) in SCRIPTS {
        let lines = text.lines().count();
        assert!(lines < 200, "{name} has {lines} lines");
    }
}
