//! A whole world (keys, trust chain, log, drill), its export, and what becomes
//! of it under attack: by this module, by `verify.py`, and by `openssl` itself.

use std::fs;
use std::process::Command;

use bytes::Bytes;
use holdfast_proto::envelope::Link;
use holdfast_proto::names::{DrillId, ObjectKey, RepositoryId};
use holdfast_proto::record::TrustAct;
use holdfast_repository::signing::SigningKey;
use holdfast_repository::trust::{append, enrolment, genesis};

use super::super::dsse::EnvelopeSignature;
use super::super::entry::{Heartbeat, IntendedRecovery, Intent};
use super::super::export::{Announced, ExportInput, files, write};
use super::super::fixture::{self, at};
use super::super::sampling::Draw;
use super::super::statement::DrillKind;
use super::super::statement::context::FileSample;
use super::super::statement::recovery::RecoveryTarget;
use super::super::statement::results::{Byproduct, CheckClass, CheckOutcome};
use super::super::tlog::note::SignatureKind;
use super::super::tlog::tiles::LogFile;
use super::super::tlog::{Checkpoint, SignedCheckpoint, Tree};
use super::*;

/// Entries before the drill's: enough for a full tile and a ragged one.
const BEFORE: u64 = 258;

struct World {
    root: SigningKey,
    runner: SigningKey,
    log: SigningKey,
    coordinator: SigningKey,
    reviewer: SigningKey,
    witness: SigningKey,
    trust: Trust,
    records: Vec<Vec<u8>>,
}

impl World {
    fn new() -> Self {
        let ed = || SigningKey::generate_ed25519().unwrap();
        let (root, repository) = (ed(), RepositoryId::from_parts(at("00:00:00"), 1));
        let (_, first) = genesis(&root, &"root".parse().unwrap(), repository, at("00:00:00")).unwrap();
        let trust = Trust::empty(repository, root.fingerprint());
        let p256 = SigningKey::generate_p256().unwrap();
        let (runner, log, reviewer, witness) = (ed(), ed(), ed(), ed());
        let mut world = Self {
            root,
            runner,
            log,
            coordinator: p256,
            reviewer,
            witness,
            trust,
            records: Vec::new(),
        };
        world.take(first);
        let enrol = |key: &SigningKey, name: &str, role, clusters: &[ClusterId]| {
            enrolment(key.verifying(), &name.parse().unwrap(), role, clusters)
        };
        let clusters = ["acme/erp".parse().unwrap(), "acme/crm".parse().unwrap()];
        let acts = vec![
            enrol(&world.runner, "runner-1", TrustRole::Runner, &clusters),
            enrol(&world.log, "coordinator-log", TrustRole::Coordinator, &[]),
            enrol(&world.coordinator, "coordinator-1", TrustRole::Coordinator, &[]),
        ];
        world.act(acts);
        world.act(vec![enrol(
            &world.reviewer,
            "reviewer-1",
            TrustRole::Reviewer,
            &[],
        )]);
        world
    }

    fn act(&mut self, acts: Vec<TrustAct>) {
        let (_, bytes) = append(&self.trust, acts, &self.root, at("00:00:01")).unwrap();
        self.take(bytes);
    }

    fn take(&mut self, bytes: Vec<u8>) {
        let next = self.trust.verify_next(&Bytes::from(bytes.clone())).unwrap();
        self.trust.extend(&next).unwrap();
        self.records.push(bytes);
    }

    fn revoke_runner(&mut self, believed: &[Sha256Digest]) {
        let believed = believed
            .iter()
            .map(|sha256| Link {
                key: ObjectKey::from_layout("evidence/x".into()),
                sha256: *sha256,
            })
            .collect();
        let key = self.runner.fingerprint();
        self.act(vec![TrustAct::Revoke {
            key,
            believed,
            reason: "the host was lost".into(),
        }]);
    }

    fn head(&self, entries: &[Vec<u8>]) -> SignedCheckpoint {
        let tree = Tree::from_entries(entries);
        let origin = "holdfast.dev/log/test".parse().unwrap();
        SignedCheckpoint::sign(Checkpoint::new(origin, tree.len(), tree.root()), &self.log).unwrap()
    }

    fn beat(&self, n: u64) -> Vec<u8> {
        let beat = Heartbeat {
            at: at("01:00:00").plus_millis(n as i64),
        };
        LoggedEntry::sign(&beat, &self.log).unwrap().bytes().to_vec()
    }

    /// A log of heartbeats, an earlier drill of the cluster, and then the drill
    /// of the fixture, changed by `change` before it is signed.
    fn drill(&self, change: impl FnOnce(&mut Statement)) -> ExportInput {
        self.drill_signed(change, &self.runner)
    }

    fn drill_signed(&self, change: impl FnOnce(&mut Statement), runner: &SigningKey) -> ExportInput {
        self.drill_of(change, runner, true, |_| {})
    }

    /// The drill after a history that `tamper` has changed: what the log's owner
    /// and the runner can do together.
    fn drill_after(&self, tamper: impl FnOnce(&mut Vec<Vec<u8>>)) -> ExportInput {
        self.drill_of(|_| {}, &self.runner, true, tamper)
    }

    /// Signs the head of `entries`, with the witness's line if it is `witnessed`.
    fn sealed(&self, entries: &[Vec<u8>], witnessed: bool) -> SignedCheckpoint {
        let mut head = self.head(entries);
        if witnessed {
            head.cosign("auditor.example", at("14:00:00"), &self.witness)
                .unwrap();
        }
        head
    }

    fn drill_of(
        &self,
        change: impl FnOnce(&mut Statement),
        runner: &SigningKey,
        witnessed: bool,
        tamper: impl FnOnce(&mut Vec<Vec<u8>>),
    ) -> ExportInput {
        let mut entries: Vec<Vec<u8>> = (0..BEFORE - 2).map(|n| self.beat(n)).collect();
        let mut add = |entry: &LoggedEntry| {
            entries.push(entry.bytes().to_vec());
            entries.len() as u64 - 1
        };
        let mut earlier = fixture::statement();
        earlier.predicate.drill.id = DrillId::from_parts(at("13:00:00"), 1);
        let (first, _) = self.announce(&mut earlier, None, 1, &mut add);
        add(&LoggedEntry::sign_result(&earlier, &self.runner).unwrap());

        tamper(&mut entries);
        let mut statement = fixture::statement();
        let population = self.draw(&mut statement, &mut entries, witnessed);
        let mut add = |entry: &LoggedEntry| {
            entries.push(entry.bytes().to_vec());
            entries.len() as u64 - 1
        };
        let (intent, place) = self.announce(&mut statement, Some(first.digest()), 2, &mut add);
        let held = self.sealed(&entries, witnessed);
        entries.push(self.beat(1000));
        let named = statement.predicate.drill.intent.as_mut().unwrap();
        (named.index, named.checkpoint_size) = (place, Some(place + 1));
        named.witness = Witness::of(witnessed.then(|| "auditor.example".to_owned()));
        change(&mut statement);
        let result = LoggedEntry::sign_result(&statement, runner).unwrap();
        entries.push(result.bytes().to_vec());
        let result_index = entries.len() as u64 - 1;
        entries.push(self.beat(1001));
        let countersign = |key: &SigningKey| EnvelopeSignature {
            key: key.fingerprint(),
            sig: key.sign(&result.envelope.pae()),
        };
        ExportInput {
            countersignatures: vec![countersign(&self.coordinator), countersign(&self.reviewer)],
            result,
            result_index,
            intent: Some(Announced {
                entry: intent,
                checkpoint: held,
            }),
            population: Some(population),
            byproducts: vec![sampling::file_listing(&packs()).into_bytes()],
            delay_ms: None,
            checkpoint: self.head(&entries),
            earlier_checkpoints: vec![self.head(&entries[..(result_index + 1) as usize])],
            tree: Tree::from_entries(&entries),
            entries: Some(entries),
            trust_records: self.records.clone(),
            trust: self.trust.clone(),
        }
    }

    /// Logs what `statement` is drawn from, and draws.
    fn draw(&self, statement: &mut Statement, entries: &mut Vec<Vec<u8>>, witnessed: bool) -> Announced {
        let p = &mut statement.predicate;
        let s = p.sampling.as_mut().unwrap();
        let draw = Draw {
            slot: s.slot.clone().unwrap(),
            cluster: p.scope.id(),
            window: s.window,
        };
        let population = draw.clone().population(at("13:58:00"));
        let entry = LoggedEntry::sign(&population, &self.runner).unwrap();
        entries.push(entry.bytes().to_vec());
        let checkpoint = self.sealed(entries, witnessed);
        let seed = sampling::seed(&checkpoint, &draw.slot, &population.digest);
        s.population_index = Some(entries.len() as u64 - 1);
        s.checkpoint_size = Some(entries.len() as u64);
        s.population_digest = Some(population.digest);
        s.seed = Some(seed);
        s.selected = sampling::moment(&seed, draw.window.unwrap());
        let listing = sampling::file_listing(&packs());
        s.file_sample = Some(FileSample {
            population: packs().len() as u64,
            drawn: 4,
            population_digest: Some(Sha256Digest::of(listing.as_bytes())),
            selected: sampling::files(&seed, &packs(), 4),
        });
        p.byproducts = vec![Byproduct {
            name: sampling::FILE_POPULATION.to_owned(),
            digest: Sha256Digest::of(listing.as_bytes()),
        }];
        p.recovery_point.as_mut().unwrap().target = RecoveryTarget::Time(s.selected.unwrap());
        Announced { entry, checkpoint }
    }

    /// Logs the intent of `statement` as number `n` and makes the two agree.
    fn announce(
        &self,
        statement: &mut Statement,
        previous: Option<Sha256Digest>,
        n: u64,
        add: &mut impl FnMut(&LoggedEntry) -> u64,
    ) -> (LoggedEntry, u64) {
        let p = &mut statement.predicate;
        (p.drill.sequence, p.drill.previous) = (n, previous);
        p.actors.runner.key = self.runner.fingerprint();
        let intent = Intent {
            drill: p.drill.id,
            slot: Some("2026-11-21/erp".into()),
            cluster: ClusterId {
                tenant: p.scope.tenant.clone(),
                cluster: p.scope.cluster.clone(),
            },
            sequence: n,
            previous,
            kind: p.drill.kind,
            level: p.drill.level,
            scenario: p.drill.scenario.clone(),
            recovery: IntendedRecovery {
                target: p.recovery_point.as_ref().unwrap().target.clone(),
                base: None,
                point: None,
            },
            seed: p.sampling.as_ref().unwrap().seed,
            at: at("13:59:59"),
            deadline: at("15:00:00"),
        };
        let entry = LoggedEntry::sign(&intent, &self.runner).unwrap();
        let place = add(&entry);
        let named = p.drill.intent.as_mut().unwrap();
        (named.index, named.digest) = (place, entry.digest());
        (entry, place)
    }

    fn options(&self) -> VerifyOptions {
        VerifyOptions {
            root: Some(self.root.fingerprint()),
            ..Default::default()
        }
    }

    /// What both verifiers make of an export. They must agree.
    fn both(&self, files: &[LogFile]) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("export"), files).unwrap();
        let at = dir.path().join("export");
        let report = verify_with(&at, &self.options());
        let (accepted, said) = python(&at, Some(&self.root.fingerprint().to_string()));
        assert_eq!(
            report.accepted(),
            accepted,
            "they disagree:\n{report}\n--- verify.py:\n{said}"
        );
        if accepted {
            Ok(())
        } else {
            Err(format!("{report}\n{said}"))
        }
    }
}

/// The packs to draw from.
fn packs() -> Vec<Sha256Digest> {
    (0u8..40).map(|n| Sha256Digest::of(&[n])).collect()
}

/// The checkpoint that the runner held before the work.
fn held(input: &ExportInput) -> &SignedCheckpoint {
    &input.intent.as_ref().unwrap().checkpoint
}

fn hold(input: &mut ExportInput, checkpoint: SignedCheckpoint) {
    input.intent.as_mut().unwrap().checkpoint = checkpoint;
}

/// Runs the export's own script; whether it accepted, and what it said.
fn python(dir: &Path, root: Option<&str>) -> (bool, String) {
    let mut command = Command::new("python3");
    command.arg("-B").arg(dir.join("verify.py"));
    if let Some(root) = root {
        command.args(["--root", root]);
    }
    let done = command.arg(dir).output().expect("python3 is there");
    let said = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// Puts `bytes` in the place of a file of the export.
fn replace(files: &mut [LogFile], path: &str, bytes: Vec<u8>) {
    files
        .iter_mut()
        .find(|f| f.path == path)
        .unwrap_or_else(|| panic!("no {path}"))
        .bytes = bytes;
}

fn refused(result: Result<(), String>, because: &str) {
    let said = result.expect_err("it was accepted");
    assert!(said.contains(because), "not refused because {because:?}:\n{said}");
}

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
    for file in export
        .iter()
        .filter(|f| !f.path.to_ascii_lowercase().starts_with("verify"))
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
        // The script reads no file of openssl's, and of the tiles only what it needs.
        let read = ["openssl/", "tile/entries/", "tile/1/", "views/"]
            .iter()
            .all(|p| !file.path.starts_with(p));
        if read {
            let (accepted, said) = python(dir.path(), Some(&root.to_string()));
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
fn a_log_that_was_rewritten_is_refused() {
    let world = World::new();
    // Another history before the drill, with the checkpoint that the runner held.
    let held = world.drill(|_| {});
    let mut other = held.clone();
    let mut entries = other.entries.take().unwrap();
    entries[3] = world.beat(5000);
    other.tree = Tree::from_entries(&entries);
    other.checkpoint = world.head(&entries);
    other.earlier_checkpoints.clear();
    // Built anew, the tree holds in itself as far as the intent; only the seed,
    // which follows from the checkpoint before, gives it away.
    let size = self::held(&held).checkpoint().size as usize;
    hold(&mut other, world.sealed(&entries[..size], true));
    let drawn_under = other.population.as_mut().unwrap();
    let size = drawn_under.checkpoint.checkpoint().size as usize;
    drawn_under.checkpoint = world.sealed(&entries[..size], true);
    let mut export = files(&other).unwrap();
    refused(world.both(&export), "the seed does not follow");
    let proof = files(&held)
        .unwrap()
        .into_iter()
        .find(|f| f.path == "intent.tlog-proof")
        .unwrap();
    replace(&mut export, "intent.tlog-proof", proof.bytes);
    refused(world.both(&export), "continue");

    // An auditor who kept an earlier head sees it as well.
    let mut export = files(&other).unwrap();
    let kept = &held.earlier_checkpoints[0];
    let path = format!("checkpoints/{}", kept.checkpoint().size);
    export.push(LogFile {
        path,
        bytes: kept.to_bytes(),
    });
    refused(world.both(&export), "continue");
}

/// With the whole log at hand, a drill that was left out of a tree built anew
/// shows in the cluster's sequence.
#[test]
fn a_drill_left_out_of_the_whole_log_is_noticed() {
    let world = World::new();
    let first = (BEFORE - 2) as usize;
    let input = world.drill_after(|entries| {
        entries[first] = world.beat(6000);
        entries[first + 1] = world.beat(6001);
    });
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &files(&input).unwrap()).unwrap();
    let report = verify_with(dir.path(), &world.options());
    assert!(!report.accepted());
    assert!(
        report.to_string().contains("does not follow the one before it"),
        "{report}"
    );

    // An intent that was never answered shows once its deadline is past.
    let input = world.drill_after(|entries| entries[first + 1] = world.beat(6000));
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &files(&input).unwrap()).unwrap();
    let report = verify_with(dir.path(), &world.options());
    assert!(report.accepted(), "{report}");
    let late = VerifyOptions {
        now: Some(at("16:00:00")),
        ..world.options()
    };
    let report = verify_with(dir.path(), &late);
    assert!(report.to_string().contains("its deadline is past"), "{report}");
}

/// Entries in another order make another tree: their proofs and the heads that
/// were kept do not fit it.
#[test]
fn a_reordered_log_is_refused() {
    let world = World::new();
    let sound = world.drill(|_| {});
    let mut swapped = sound.clone();
    let mut entries = swapped.entries.take().unwrap();
    let (intent, result) = (BEFORE as usize + 1, sound.result_index as usize);
    entries.swap(intent, result);
    swapped.tree = Tree::from_entries(&entries);
    swapped.checkpoint = world.head(&entries);
    swapped.earlier_checkpoints.clear();
    // The statement still names the old places.
    assert!(files(&swapped).is_err(), "the proofs cannot be made");
    let mut export = files(&sound).unwrap();
    for file in super::super::tlog::tiles::hash_tiles(&swapped.tree) {
        replace(&mut export, &file.path, file.bytes);
    }
    replace(&mut export, "checkpoint", swapped.checkpoint.to_bytes());
    refused(world.both(&export), "REFUSED");

    // The earlier drill's two entries, which no proof in this export touches.
    let first = (BEFORE - 2) as usize;
    let mut quiet = sound.clone();
    let mut entries = quiet.entries.take().unwrap();
    entries.swap(first, first + 1);
    quiet.tree = Tree::from_entries(&entries);
    quiet.checkpoint = world.head(&entries);
    quiet.earlier_checkpoints.clear();
    assert!(
        files(&quiet).is_err(),
        "the checkpoint that the runner held is of another tree"
    );
    // Built anew from there on, by owner and runner together: the whole log tells.
    let input = world.drill_after(|entries| entries.swap(first, first + 1));
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &files(&input).unwrap()).unwrap();
    let report = verify_with(dir.path(), &world.options());
    assert!(
        report
            .to_string()
            .contains("it names no earlier entry as its intent"),
        "{report}"
    );
}

#[test]
fn a_sample_that_was_not_drawn_is_refused() {
    let world = World::new();
    world.both(&files(&world.drill(|_| {})).unwrap()).unwrap();
    let changes: [fn(&mut Statement); 9] = [
        // Another moment, with and without the restore that goes with it.
        |s| sampling_of(s).selected = Some(at("12:12:12")),
        |s| {
            sampling_of(s).selected = Some(at("12:12:12"));
            s.predicate.recovery_point.as_mut().unwrap().target = RecoveryTarget::Time(at("12:12:12"));
        },
        |s| s.predicate.recovery_point.as_mut().unwrap().target = RecoveryTarget::Time(at("12:12:12")),
        // A window that suits, a place that suits.
        |s| sampling_of(s).window.as_mut().unwrap().from = at("09:00:00"),
        |s| sampling_of(s).checkpoint_size = Some(BEFORE),
        |s| sampling_of(s).population_digest = Some(Sha256Digest::of(b"another")),
        // Fewer files, other files.
        |s| {
            let files = sampling_of(s).file_sample.as_mut().unwrap();
            files.selected[0] = files.selected[1];
        },
        |s| {
            let files = sampling_of(s).file_sample.as_mut().unwrap();
            files.selected.remove(0);
            files.drawn -= 1;
        },
        // No sample at all, although one was announced.
        |s| s.predicate.sampling = None,
    ];
    for (n, change) in changes.iter().enumerate() {
        let result = world.both(&files(&world.drill(change)).unwrap());
        assert!(result.is_err(), "change {n} was accepted");
    }
    // The file listing, changed and gone.
    let mut export = files(&world.drill(|_| {})).unwrap();
    let listing = export
        .iter()
        .position(|f| f.path.starts_with("byproducts/"))
        .unwrap();
    export[listing].bytes[0] ^= 1;
    refused(world.both(&export), "byproducts/");
    export.remove(listing);
    refused(world.both(&export), "byproducts/");
}

/// A runner that signs intents itself cannot choose the seed: whatever it puts
/// there does not follow from the checkpoint.
#[test]
fn a_seed_that_was_chosen_is_refused() {
    let world = World::new();
    let mut input = world.drill(|_| {});
    let (chosen, window) = (Sha256Digest::of(b"suits"), fixture_window());
    let mut entries = input.entries.take().unwrap();
    let announced = input.intent.as_mut().unwrap();
    let Entry::Intent(mut intent) = announced.entry.entry.clone() else {
        panic!("an intent")
    };
    let Entry::Result(mut statement) = input.result.entry.clone() else {
        panic!("a result")
    };
    intent.seed = Some(chosen);
    intent.recovery.target = RecoveryTarget::Time(sampling::moment(&chosen, window).unwrap());
    announced.entry = LoggedEntry::sign(&intent, &world.runner).unwrap();
    let place = statement.predicate.drill.intent_index().unwrap() as usize;
    entries[place] = announced.entry.bytes().to_vec();
    announced.checkpoint = world.sealed(&entries[..=place], true);
    let p = &mut statement.predicate;
    p.drill.intent.as_mut().unwrap().digest = announced.entry.digest();
    p.recovery_point.as_mut().unwrap().target = intent.recovery.target;
    let s = p.sampling.as_mut().unwrap();
    (s.seed, s.selected) = (Some(chosen), sampling::moment(&chosen, window));
    s.file_sample.as_mut().unwrap().selected = sampling::files(&chosen, &packs(), 4);
    input.result = LoggedEntry::sign_result(&statement, &world.runner).unwrap();
    entries[input.result_index as usize] = input.result.bytes().to_vec();
    let pae = input.result.envelope.pae();
    input.countersignatures = vec![EnvelopeSignature {
        key: world.coordinator.fingerprint(),
        sig: world.coordinator.sign(&pae),
    }];
    input.tree = Tree::from_entries(&entries);
    input.checkpoint = world.head(&entries);
    input.earlier_checkpoints.clear();
    input.entries = Some(entries);
    refused(
        world.both(&files(&input).unwrap()),
        "the seed does not follow from that checkpoint",
    );
}

/// A line of nobody's on the seed's checkpoint would let a runner try seeds.
#[test]
fn a_seed_from_a_padded_checkpoint_is_refused() {
    let world = World::new();
    let input = world.drill(|_| {});
    let population = input.population.as_ref().unwrap();
    let mut padded = population.checkpoint.clone();
    padded
        .cosign("nobody.example", at("14:00:00"), &world.runner)
        .unwrap();
    let Entry::Result(statement) = &input.result.entry else {
        panic!("a result")
    };
    let Entry::Population(p) = &population.entry.entry else {
        panic!("a population")
    };
    let index = statement.predicate.sampling.as_ref().unwrap().population_index;
    let refused = sampling::recompute(statement, p, index.unwrap(), &padded);
    assert!(
        refused.unwrap_err().to_string().contains("other signatures"),
        "a padded checkpoint"
    );
}

#[test]
fn a_draw_that_nothing_used_is_noticed() {
    let world = World::new();
    let input = world.drill_after(|entries| {
        let draw = Draw {
            slot: "another try".into(),
            cluster: "acme/erp".parse().unwrap(),
            window: Some(fixture_window()),
        };
        let population = draw.population(at("13:57:00"));
        entries.push(
            LoggedEntry::sign(&population, &world.runner)
                .unwrap()
                .bytes()
                .to_vec(),
        );
    });
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &files(&input).unwrap()).unwrap();
    let report = verify_with(dir.path(), &world.options()).to_string();
    assert!(
        report.contains("1 samples were drawn and not used: entries [258]"),
        "{report}"
    );
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
                change(s);
            },
            &world.runner,
            false,
            |_| {},
        );
        (input.intent, input.population) = (None, None);
        input.byproducts.clear();
        // The fixture's own intent is in the log and open: not this restore's.
        input.entries = None;
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

fn sampling_of(s: &mut Statement) -> &mut super::super::statement::context::Sampling {
    s.predicate.sampling.as_mut().unwrap()
}

fn fixture_window() -> super::super::statement::context::Window {
    fixture::statement()
        .predicate
        .sampling
        .and_then(|s| s.window)
        .unwrap()
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
