//! A whole world: keys, a trust chain, a log, a drill, and both verifiers.

use std::process::Command;

use bytes::Bytes;
use holdfast_proto::envelope::Link;
use holdfast_proto::names::{DrillId, ObjectKey, RepositoryId};
use holdfast_proto::record::TrustAct;
use holdfast_repository::signing::SigningKey;
use holdfast_repository::trust::{append, enrolment, genesis};

use super::super::super::dsse::EnvelopeSignature;
use super::super::super::entry::{Heartbeat, IntendedRecovery, Intent};
use super::super::super::export::{Announced, ExportInput, ShownEntries, write};
use super::super::super::fixture::{self, at};
use super::super::super::sampling::{self, Draw, points};
use super::super::super::statement::Witness;
use super::super::super::statement::context::FileSample;
use super::super::super::statement::recovery::RecoveryTarget;
use super::super::super::statement::results::Byproduct;
use super::super::super::tlog::tiles::LogFile;
use super::super::super::tlog::{Checkpoint, SignedCheckpoint, Tree};
use super::super::*;

/// Entries before the drill's: enough for a full tile and a ragged one.
pub(super) const BEFORE: u64 = 258;

pub(super) struct World {
    pub(super) root: SigningKey,
    pub(super) runner: SigningKey,
    pub(super) log: SigningKey,
    pub(super) coordinator: SigningKey,
    pub(super) reviewer: SigningKey,
    pub(super) witness: SigningKey,
    pub(super) trust: Trust,
    pub(super) records: Vec<Vec<u8>>,
    /// The drill's moment is drawn from joint recovery points.
    pub(super) from_points: bool,
    /// The share of the files that is announced, in hundredths.
    pub(super) files_percent: Option<u64>,
    /// How many files are drawn.
    pub(super) files_drawn: usize,
}

impl World {
    pub(super) fn new() -> Self {
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
            from_points: false,
            files_percent: Some(20),
            files_drawn: 16,
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

    pub(super) fn act(&mut self, acts: Vec<TrustAct>) {
        let (_, bytes) = append(&self.trust, acts, &self.root, at("00:00:01")).unwrap();
        self.take(bytes);
    }

    pub(super) fn take(&mut self, bytes: Vec<u8>) {
        let next = self.trust.verify_next(&Bytes::from(bytes.clone())).unwrap();
        self.trust.extend(&next).unwrap();
        self.records.push(bytes);
    }

    pub(super) fn revoke_runner(&mut self, believed: &[Sha256Digest]) {
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

    pub(super) fn head(&self, entries: &[Vec<u8>]) -> SignedCheckpoint {
        let tree = Tree::from_entries(entries);
        let origin = "holdfast.dev/log/test".parse().unwrap();
        SignedCheckpoint::sign(Checkpoint::new(origin, tree.len(), tree.root()), &self.log).unwrap()
    }

    pub(super) fn beat(&self, n: u64) -> Vec<u8> {
        let beat = Heartbeat {
            at: at("01:00:00").plus_millis(n as i64),
        };
        LoggedEntry::sign(&beat, &self.log).unwrap().bytes().to_vec()
    }

    /// A log of heartbeats, an earlier drill of the cluster, and then the drill
    /// of the fixture, changed by `change` before it is signed.
    pub(super) fn drill(&self, change: impl FnOnce(&mut Statement)) -> ExportInput {
        self.drill_signed(change, &self.runner)
    }

    pub(super) fn drill_signed(
        &self,
        change: impl FnOnce(&mut Statement),
        runner: &SigningKey,
    ) -> ExportInput {
        self.drill_of(change, runner, true, |_| {})
    }

    /// The drill after a history that `tamper` has changed: what the log's owner
    /// and the runner can do together.
    pub(super) fn drill_after(&self, tamper: impl FnOnce(&mut Vec<Vec<u8>>)) -> ExportInput {
        self.drill_of(|_| {}, &self.runner, true, tamper)
    }

    /// Signs the head of `entries`, with the witness's line if it is `witnessed`.
    pub(super) fn sealed(&self, entries: &[Vec<u8>], witnessed: bool) -> SignedCheckpoint {
        let mut head = self.head(entries);
        if witnessed {
            head.cosign("auditor.example", at("14:00:00"), &self.witness)
                .unwrap();
        }
        head
    }

    pub(super) fn drill_of(
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
        if self.from_points {
            statement.predicate.sampling.as_mut().unwrap().window = None;
        }
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
            byproducts: statement
                .predicate
                .byproducts
                .iter()
                .map(|b| listing(&b.name).into_bytes())
                .collect(),
            delay_ms: None,
            checkpoint: self.head(&entries),
            earlier_checkpoints: vec![self.head(&entries[..(result_index + 1) as usize])],
            tree: Tree::from_entries(&entries),
            entries: ShownEntries::Whole(entries),
            trust_records: self.records.clone(),
            trust: self.trust.clone(),
        }
    }

    /// Logs what `statement` is drawn from, and draws.
    pub(super) fn draw(
        &self,
        statement: &mut Statement,
        entries: &mut Vec<Vec<u8>>,
        witnessed: bool,
    ) -> Announced {
        let p = &mut statement.predicate;
        let s = p.sampling.as_mut().unwrap();
        let draw = Draw {
            slot: s.slot.clone().unwrap(),
            cluster: p.scope.id(),
            window: s.window,
            points: points::Points::of(POINTS.as_bytes()).filter(|_| s.window.is_none()),
            files_percent: self.files_percent,
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
        s.population_size = Some(population.size);
        s.method = draw.method().to_owned();
        let drawn = match draw.points {
            Some(points) => {
                let point = points.drawn(&seed, POINTS.as_bytes()).unwrap();
                (point.at, RecoveryTarget::Name(point.name))
            }
            None => {
                let moment = sampling::moment(&seed, draw.window.unwrap()).unwrap();
                (moment, RecoveryTarget::Time(moment))
            }
        };
        s.selected = Some(drawn.0);
        let listing = sampling::file_listing(&packs());
        s.file_sample = Some(FileSample {
            population: packs().len() as u64,
            drawn: self.files_drawn as u64,
            population_digest: Some(Sha256Digest::of(listing.as_bytes())),
            selected: sampling::files(&seed, &packs(), self.files_drawn),
        });
        p.byproducts = vec![Byproduct {
            name: sampling::FILE_POPULATION.to_owned(),
            digest: Sha256Digest::of(listing.as_bytes()),
        }];
        p.byproducts.extend(draw.points.map(|points| Byproduct {
            name: sampling::POINT_POPULATION.to_owned(),
            digest: points.digest,
        }));
        p.recovery_point.as_mut().unwrap().target = drawn.1;
        Announced { entry, checkpoint }
    }

    /// Logs the intent of `statement` as number `n` and makes the two agree.
    pub(super) fn announce(
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
            at: at(if n == 1 { "12:59:59" } else { "13:59:59" }),
            deadline: at(if n == 1 { "13:30:00" } else { "15:00:00" }),
        };
        let entry = LoggedEntry::sign(&intent, &self.runner).unwrap();
        let place = add(&entry);
        let named = p.drill.intent.as_mut().unwrap();
        (named.index, named.digest) = (place, entry.digest());
        (entry, place)
    }

    pub(super) fn options(&self) -> VerifyOptions {
        VerifyOptions {
            root: Some(self.root.fingerprint()),
            ..Default::default()
        }
    }

    /// What both verifiers make of an export. They must agree.
    pub(super) fn both(&self, files: &[LogFile]) -> Result<(), String> {
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

/// The joint recovery points to draw from, where there is no window.
pub(super) const POINTS: &str = "2026-11-21T09:00:00.000000Z holdfast-a
2026-11-21T10:00:00.000000Z holdfast-b
2026-11-21T11:00:00.000000Z holdfast-c
";

fn listing(name: &str) -> String {
    match name {
        sampling::POINT_POPULATION => POINTS.to_owned(),
        _ => sampling::file_listing(&packs()),
    }
}

/// The packs to draw from.
pub(super) fn packs() -> Vec<Sha256Digest> {
    (0u8..80).map(|n| Sha256Digest::of(&[n])).collect()
}

/// The checkpoint that the runner held before the work.
pub(super) fn held(input: &ExportInput) -> &SignedCheckpoint {
    &input.intent.as_ref().unwrap().checkpoint
}

/// Takes the whole log out of an export.
pub(super) fn whole(input: &mut ExportInput) -> Vec<Vec<u8>> {
    match std::mem::take(&mut input.entries) {
        ShownEntries::Whole(entries) => entries,
        other => panic!("not the whole log: {other:?}"),
    }
}

pub(super) fn hold(input: &mut ExportInput, checkpoint: SignedCheckpoint) {
    input.intent.as_mut().unwrap().checkpoint = checkpoint;
}

/// Runs the export's own script; whether it accepted, and what it said.
pub(super) fn python(dir: &Path, root: Option<&str>) -> (bool, String) {
    let mut command = Command::new("python3");
    command.arg("-B").arg(dir.join("verify.py"));
    if let Some(root) = root {
        command.args(["--root", root]);
    }
    let done = command.arg(dir).output().expect("python3 is there");
    let said = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// The line in which a verifier names the files that nothing vouches for.
pub(super) fn not_covered(said: &str) -> String {
    said.lines()
        .find(|l| l.starts_with("NOT COVERED"))
        .unwrap_or_default()
        .to_owned()
}

/// Puts `bytes` in the place of a file of the export.
pub(super) fn replace(files: &mut [LogFile], path: &str, bytes: Vec<u8>) {
    files
        .iter_mut()
        .find(|f| f.path == path)
        .unwrap_or_else(|| panic!("no {path}"))
        .bytes = bytes;
}

pub(super) fn refused(result: Result<(), String>, because: &str) {
    let said = result.expect_err("it was accepted");
    assert!(said.contains(because), "not refused because {because:?}:\n{said}");
}
