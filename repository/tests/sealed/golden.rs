//! The format does not change unnoticed.
//!
//! `golden/records` holds the envelope of one object of every kind, as this
//! program writes it. `golden/repository` is a small repository that an earlier
//! build wrote and every later one must read; `golden/identity` opens it and
//! `golden/root` is the fingerprint of its trust root.
//!
//! A change that is meant comes with a decision record, a new section in
//! `docs/FORMAT.md`, and golden files written anew by
//! `HOLDFAST_GOLDEN=write cargo test -p holdfast-repository --test sealed golden`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_proto::envelope::{Link, Record};
use holdfast_proto::manifest::{BaseDetails, Extent};
use holdfast_proto::names::{
    KeyKind, Lineage, ObjectKey, PointId, RecipientRole, RepositoryId, SystemId, WorkId,
};
use holdfast_proto::pg::{Lsn, SegmentSize, TimelineId};
use holdfast_proto::record::*;
use holdfast_proto::{ContentId, Fingerprint, Sha256Digest};
use holdfast_repository::keyring::Keyring;
use holdfast_repository::layout::{self, BundleKind, WalName};
use holdfast_repository::pack::{open_frame, seal_frame};
use holdfast_repository::publication::Publication;
use holdfast_repository::seal::Identities;
use holdfast_repository::signed::{Content, Draft};
use holdfast_repository::signing::SigningKey;
use holdfast_repository::trust::Trust;
use holdfast_repository::{ReplicaConfig, Repository, RepositoryConfig};

use crate::scene::{NOW, Scene, cluster, filestore, noise, region};

const HISTORY: &[u8] = b"1\t0/3000000\tno recovery target specified\n";
/// Not really WAL, but sealed like it.
const WAL: &[u8] = &[0xd1; 0x138];
/// A signing key for golden files alone; it is trusted nowhere.
const SIGNER: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEIBimDFm7Eds3UQl1vD4QNE175QgGvaEnaPKaKUDSBcyN\n\
    -----END PRIVATE KEY-----\n";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sealed/golden")
}

fn writing() -> bool {
    std::env::var("HOLDFAST_GOLDEN").is_ok_and(|v| v == "write")
}

fn lineage() -> Lineage {
    "7381234567890123456-1".parse().unwrap()
}

fn timeline(n: u32) -> TimelineId {
    TimelineId::new(n).unwrap()
}

fn link(key: ObjectKey) -> Link {
    Link {
        sha256: Sha256Digest::of(key.as_str().as_bytes()),
        key,
    }
}

fn fingerprint(n: u8) -> Fingerprint {
    Fingerprint::new([n; 32])
}

fn totals() -> Totals {
    Totals {
        entries: 3,
        bytes: 4_000_000_000,
        stored: 1_000_000,
        to_read: 2_000_000,
    }
}

fn wal_body(end: u64) -> (WalName, WalBody) {
    let (start, end) = (Lsn::new(0x0300_0000), Lsn::new(end));
    let size = SegmentSize::new(16 << 20).unwrap();
    let mark = CommitMark {
        lsn: Lsn::new(0x0300_0010),
        time: NOW,
    };
    let name = WalName {
        timeline: timeline(2),
        segment: size.segment_of(start),
        start,
        end,
        latest_commit: Some(NOW),
    };
    let body = WalBody {
        system: SystemId::new(7381234567890123456),
        version_num: 150_020,
        timeline: timeline(2),
        segment_size: size,
        start,
        end,
        chunks: vec![WalChunk {
            start,
            end,
            size: 250,
            sha256: Sha256Digest::of(b"chunk"),
            sealed_to: fingerprint(7),
            id: None,
        }],
        follows: Some(Sha256Digest::of(b"before")),
        last_commit: Some(mark),
        first_commit: Some(mark),
        latest_time: Some(NOW),
        commits: 1,
        last_record: Some(mark.lsn),
        restore_points: vec![RestorePointMark {
            name: "holdfast-01KAQ5SWG00000000000000001".to_owned(),
            lsn: Lsn::new(0x0300_0030),
            end: Lsn::new(0x0300_0098),
            time: NOW,
        }],
        after_gap: None,
    };
    (name, body)
}

fn base_body(parts: Vec<holdfast_proto::manifest::Part>) -> BaseBody {
    BaseBody {
        id: holdfast_proto::names::BackupId::from_parts(NOW, 3),
        cluster: cluster(),
        lineage: lineage(),
        version_num: 150_020,
        segment_size: SegmentSize::new(16 << 20).unwrap(),
        timeline: timeline(2),
        start_lsn: Lsn::new(0x0300_0028),
        stop_lsn: Lsn::new(0x0300_0138),
        started: NOW,
        stopped: NOW.plus_millis(1500),
        detection: ChangeDetection::CompareIds,
        page_checksums: true,
        pages_verified: 100,
        pages_bad: 0,
        tablespaces: vec![16_400],
        totals: totals(),
        parts,
        complete_on: vec![region("a"), region("b")],
    }
}

fn details() -> BaseDetails {
    BaseDetails {
        tablespaces: BTreeMap::from([(16_400, "/srv/fast".to_owned())]),
        bad_pages: vec![],
        version: "PostgreSQL 15.20".to_owned(),
        settings: BTreeMap::from([("max_connections".to_owned(), "100".to_owned())]),
        configuration_files: BTreeMap::new(),
    }
}

fn part() -> holdfast_proto::manifest::Part {
    use holdfast_proto::manifest::{Part, StoredObject};
    Part {
        index: StoredObject {
            sha256: Sha256Digest::of(b"index"),
            size: 5,
        },
        catalogue: StoredObject {
            sha256: Sha256Digest::of(b"catalogue"),
            size: 9,
        },
        sealed_to: fingerprint(7),
        entries: 3,
        bytes: 4_000_000_000,
    }
}

fn journal_body(entry: JournalKind) -> JournalBody {
    JournalBody {
        filestore: filestore(),
        n: 2,
        entry,
        checkpoint: if entry == JournalKind::Checkpoint { 2 } else { 1 },
        adapter: "odoo".to_owned(),
        scanned_from: NOW,
        scanned_until: NOW,
        parts: vec![part()],
        removed: 1,
        dirty: 0,
        files: 10,
        bytes: 12_345,
        totals: totals(),
    }
}

fn point_body(entry: Link, config: Option<Link>) -> PointBody {
    let id = PointId::from_parts(NOW, 4);
    PointBody {
        id,
        name: format!("holdfast-{id}"),
        timeline: timeline(2),
        lsn: Lsn::new(0x0300_0098),
        at: NOW,
        filestores: vec![PointFilestore {
            filestore: filestore(),
            n: 1,
            entry,
            claim: JointClaim::SincePrevious,
            because: "no collection ran since the point before".to_owned(),
        }],
        config,
        complete_on: vec![region("a")],
    }
}

fn bundle_body() -> BundleBody {
    BundleBody {
        id: holdfast_proto::names::BundleId::from_parts(NOW, 5),
        bundle: "config".to_owned(),
        at: NOW,
        files: 2,
        facts: BTreeMap::from([("roles".to_owned(), 4)]),
        content: ContentId::new([9; 16]),
    }
}

fn frontier_body() -> FrontierBody {
    FrontierBody {
        timeline: timeline(2),
        server_flush: Lsn::new(0x0300_1000),
        acknowledged: Lsn::new(0x0300_0138),
        copies: 2,
        replicas: vec![
            ReplicaFrontier {
                region: region("a"),
                durable: Some(Lsn::new(0x0300_0138)),
            },
            ReplicaFrontier {
                region: region("b"),
                durable: None,
            },
        ],
        rpo_ms: 850,
        heard_ms: None,
        complete_until: None,
        filestores: vec![],
        at: NOW,
    }
}

fn lease_body() -> LeaseBody {
    LeaseBody {
        n: 1,
        holder: "agent-1".parse().unwrap(),
        nonce: "5f0c".to_owned(),
        taken: NOW,
    }
}

/// The two lines of an object's envelope.
fn envelope<B: Record + Clone>(key: ObjectKey, previous: Option<Link>, body: &B) -> String {
    let draft = Draft {
        repository: RepositoryId::from_parts(NOW, 1),
        key,
        payload: b"payload".to_vec().into(),
        sealed_to: Some(fingerprint(7)),
        lease: Some(3),
        previous,
        body,
    };
    let object = draft.sign(&SigningKey::from_pem(SIGNER).unwrap()).bytes;
    let (start, end) = (b"payload".len(), object.len() - 16);
    assert_eq!(&object[..start], b"payload");
    assert_eq!(object[end..end + 8], ((end - start) as u64).to_be_bytes());
    assert_eq!(&object[end + 8..], b"HFSIGNED");
    String::from_utf8(object[start..end].to_vec()).unwrap()
}

fn records() -> String {
    let c = cluster();
    let l = lineage();
    let epoch = holdfast_proto::names::Epoch::of(NOW);
    let sealed_to = [
        RecipientRole::Drill,
        RecipientRole::Recovery,
        RecipientRole::Escrow,
    ]
    .map(|role| SealedTo {
        role,
        recipient: "age1…".to_owned(),
    });
    let enrol = TrustAct::Enrol {
        name: "agent-1".parse().unwrap(),
        role: TrustRole::Agent,
        algorithm: KeyAlgorithm::EcdsaP256,
        key: fingerprint(1),
        public: "MCow…".to_owned(),
        clusters: vec![cluster()],
        group: None,
    };
    let revoke = TrustAct::Revoke {
        key: fingerprint(1),
        believed: vec![link(layout::lease(&c, 1))],
        reason: "the machine was sold".to_owned(),
    };
    let (wal_name, wal) = wal_body(0x0300_0138);
    let base = base_body(vec![part()]);
    let point = point_body(
        link(layout::journal(&c, &filestore(), 1)),
        Some(link(layout::trust(0))),
    );
    let bundle = bundle_body();
    let work = WorkId::from_parts(NOW, 6);
    let key = KeyBody {
        kind: KeyKind::Data,
        epoch,
        recipient: "age1…".to_owned(),
        fingerprint: fingerprint(7),
        generation: 1,
        sealed_to: sealed_to.to_vec(),
    };
    [
        envelope(
            layout::authority(0),
            None,
            &AuthorityBody {
                n: 0,
                region: region("a"),
            },
        ),
        envelope(
            layout::trust(1),
            Some(link(layout::trust(0))),
            &TrustBody {
                n: 1,
                at: NOW,
                acts: vec![enrol, revoke],
            },
        ),
        envelope(
            layout::key_object(&c, KeyKind::Data, epoch, &fingerprint(7), 1),
            None,
            &key,
        ),
        envelope(layout::lease(&c, 1), None, &lease_body()),
        envelope(
            layout::inflight(&c, work),
            None,
            &InflightBody {
                id: work,
                work: "base".to_owned(),
                builds_on: vec![link(layout::journal(&c, &filestore(), 1))],
                deadline: NOW,
            },
        ),
        envelope(
            layout::wal(&c, l, &wal_name),
            Some(link(layout::lease(&c, 1))),
            &wal,
        ),
        envelope(
            layout::history(&c, l, timeline(2)),
            None,
            &HistoryBody {
                system: l.system,
                timeline: timeline(2),
            },
        ),
        envelope(layout::frontier(&c, l, NOW), None, &frontier_body()),
        envelope(layout::base(&c, l, base.id), None, &base),
        envelope(
            layout::journal(&c, &filestore(), 2),
            Some(link(layout::journal(&c, &filestore(), 1))),
            &journal_body(JournalKind::Delta),
        ),
        envelope(layout::point(&c, l, point.id), None, &point),
        envelope(layout::bundle(&c, BundleKind::Config, bundle.id), None, &bundle),
    ]
    .concat()
}

#[test]
fn envelopes_are_written_as_ever() {
    let path = golden().join("records");
    let written = records();
    if writing() {
        std::fs::create_dir_all(golden()).unwrap();
        std::fs::write(&path, &written).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    for (now, then) in written.lines().zip(kept.lines()) {
        assert_eq!(now, then);
    }
    assert_eq!(written, kept);
}

const FILES: [(&str, u64, usize); 3] = [
    ("ab/abcd", 1, 3000),
    ("cd/cdef", 2, 0),
    ("cd/odd name", 3, 70_000),
];
const DATA: [(&str, u64, usize); 3] = [
    ("PG_VERSION", 4, 3),
    ("base/1/1259", 5, 16_384),
    ("global/pg_control", 6, 8192),
];

fn contents(of: &[(&'static str, u64, usize)]) -> Vec<(&'static str, Vec<u8>)> {
    of.iter()
        .map(|(path, seed, size)| (*path, noise(*seed, *size)))
        .collect()
}

/// Writes the small repository anew.
async fn write_repository() {
    let scene = Scene::new(&["a"], 1).await;
    let first = scene.capture(1, &contents(&FILES), None).await.unwrap();
    let key = scene.epoch_key().await;
    let publisher = &scene.publisher;
    let publication = Publication::begin(publisher, std::slice::from_ref(&key.object))
        .await
        .unwrap();
    let put = async |at: ObjectKey, bytes| publication.put(&at, bytes).await.unwrap();
    let (c, l) = (cluster(), lineage());

    let at = layout::lease(&c, 1);
    put(
        at.clone(),
        publisher
            .sign(&at, Content::default(), None, None, &lease_body())
            .bytes,
    )
    .await;
    let at = layout::history(&c, l, timeline(2));
    let body = HistoryBody {
        system: l.system,
        timeline: timeline(2),
    };
    put(at.clone(), publisher.sign(&at, HISTORY, None, None, &body).bytes).await;
    let sealed = seal_frame(&key.key, WAL, 1).unwrap();
    let (name, mut wal) = wal_body(0x0300_0000 + WAL.len() as u64);
    wal.chunks[0].size = sealed.len() as u64;
    wal.chunks[0].sha256 = Sha256Digest::of(&sealed);
    wal.chunks[0].sealed_to = key.key.fingerprint;
    let at = layout::wal(&c, l, &name);
    put(at.clone(), publisher.sign(&at, sealed, None, None, &wal).bytes).await;
    let at = layout::frontier(&c, l, NOW);
    put(
        at.clone(),
        publisher
            .sign(&at, Content::default(), None, None, &frontier_body())
            .bytes,
    )
    .await;
    let bundle = bundle_body();
    let at = layout::bundle(&c, BundleKind::Config, bundle.id);
    let sealed = seal_frame(&key.key, b"a tar", 1).unwrap();
    let config = publication
        .commit(&at, &sealed, Some(key.key.fingerprint), None, &bundle)
        .await
        .unwrap();

    let (parts, _) = scene
        .store(&publication, &key.key, &contents(&DATA))
        .await
        .unwrap();
    let base = base_body(parts);
    let sealed = seal_frame(&key.key, &serde_json::to_vec(&details()).unwrap(), 1).unwrap();
    let at = layout::base(&c, l, base.id);
    publication
        .commit(&at, &sealed, Some(key.key.fingerprint), None, &base)
        .await
        .unwrap();
    let point = point_body(first.link, Some(config.link));
    let at = layout::point(&c, l, point.id);
    publication.commit(&at, b"", None, None, &point).await.unwrap();

    let kept = golden().join("repository");
    if kept.exists() {
        std::fs::remove_dir_all(&kept).unwrap();
    }
    copy(&scene.dir.path().join("a"), &kept);
    std::fs::write(
        golden().join("identity"),
        format!("{}\n", &*scene.recovery.secret_text()),
    )
    .unwrap();
    std::fs::write(golden().join("root"), format!("{}\n", scene.root.fingerprint())).unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            if path.file_name().unwrap() != "control" {
                copy(&path, &target);
            }
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_of_an_earlier_build_reads_as_ever() {
    if writing() {
        write_repository().await;
    }
    let config = RepositoryConfig {
        replicas: vec![ReplicaConfig {
            url: format!("file://{}", golden().join("repository").display()),
            region: region("a"),
            options: BTreeMap::new(),
            accept_without_conditional_create: false,
            provider: None,
        }],
        trust_root: None,
    };
    let repository = Repository::open(&config).await.unwrap();
    let read = |name: &str| std::fs::read_to_string(golden().join(name)).unwrap();
    let root: Fingerprint = read("root").trim().parse().unwrap();
    let trust = Trust::load(&repository, &root).await.unwrap();
    assert_eq!((trust.length(), trust.keys().count()), (2, 2));
    let identities = Identities::parse(&read("identity")).unwrap();
    let keyring = Arc::new(
        Keyring::load(&repository, &trust, &cluster(), &identities)
            .await
            .unwrap(),
    );
    assert_eq!((keyring.len(), keyring.findings().len()), (1, 0));

    let (c, l) = (cluster(), lineage());
    let base = base_body(vec![]);
    let (signed, _) = repository
        .read_signed::<BaseBody>(&layout::base(&c, l, base.id), &trust)
        .await
        .unwrap();
    let mut told = signed.body().clone();
    let parts = std::mem::take(&mut told.parts);
    assert_eq!(told, base);
    let sealed_to = signed.header.payload.sealed_to.unwrap();
    let text = open_frame(&keyring, &sealed_to, &signed.payload, 1 << 20).unwrap();
    assert_eq!(serde_json::from_slice::<BaseDetails>(&text).unwrap(), details());

    let (journal, _) = repository
        .read_signed::<JournalBody>(&layout::journal(&c, &filestore(), 1), &trust)
        .await
        .unwrap();
    for (parts, files) in [(&parts, DATA), (&journal.body().parts, FILES)] {
        let (open, _) = repository.fetch_part(&c, &parts[0], &keyring).await.unwrap();
        assert_eq!(open.entries.len(), files.len());
        for ((index, line), (path, seed, size)) in open.entries.iter().zip(files) {
            assert_eq!((line.path.as_str(), line.size), (path, size as u64));
            let mut content = Vec::new();
            for Extent(pack, block, offset, length, _) in &index.x {
                let (mut reader, _) = repository
                    .fetch_pack(&c, &open.packs[*pack as usize], &keyring)
                    .await
                    .unwrap();
                let raw = reader.block(*block).unwrap();
                content.extend_from_slice(&raw[*offset as usize..(*offset + *length) as usize]);
            }
            assert!(content == noise(seed, size));
        }
    }

    let (name, wal) = wal_body(0x0300_0000 + WAL.len() as u64);
    let (signed, _) = repository
        .read_signed::<WalBody>(&layout::wal(&c, l, &name), &trust)
        .await
        .unwrap();
    assert_eq!(signed.body().restore_points, wal.restore_points);
    let chunk = &signed.body().chunks[0];
    assert_eq!(chunk.sha256, Sha256Digest::of(&signed.payload));
    assert_eq!(
        open_frame(&keyring, &chunk.sealed_to, &signed.payload, WAL.len()).unwrap(),
        WAL
    );
    let (history, _) = repository
        .read_signed::<HistoryBody>(&layout::history(&c, l, timeline(2)), &trust)
        .await
        .unwrap();
    assert_eq!(&history.payload[..], HISTORY);
    let point = point_body(journal.link(), None);
    let (signed, _) = repository
        .read_signed::<PointBody>(&layout::point(&c, l, point.id), &trust)
        .await
        .unwrap();
    assert_eq!(signed.body().filestores, point.filestores);
    let config = signed.body().config.clone().unwrap();
    let (bundle, _) = repository
        .read_signed::<BundleBody>(&config.key, &trust)
        .await
        .unwrap();
    assert_eq!((bundle.body(), bundle.sha256), (&bundle_body(), config.sha256));
    repository
        .read_signed::<FrontierBody>(&layout::frontier(&c, l, NOW), &trust)
        .await
        .unwrap();
    repository
        .read_signed::<LeaseBody>(&layout::lease(&c, 1), &trust)
        .await
        .unwrap();
}

#[test]
fn the_reader_that_is_not_ours_restores_it() {
    let out = tempfile::tempdir().unwrap();
    let at = |name: &str| out.path().join(name);
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/compat/restore.py");
    let root = std::fs::read_to_string(golden().join("root")).unwrap();
    let run = |root: &str, more: &[(&str, String)]| {
        let mut command = std::process::Command::new("python3");
        command
            .arg(&reader)
            .arg(golden().join("repository"))
            .args(["--cluster", "acme/erp", "--root", root]);
        command.arg("--identity").arg(golden().join("identity"));
        for (option, value) in more {
            command.args([option, value.as_str()]);
        }
        command.output().unwrap()
    };
    let done = run(
        root.trim(),
        &[
            ("--data", at("data").display().to_string()),
            ("--wal", at("wal").display().to_string()),
            ("--tablespace", format!("16400={}", at("fast").display())),
            ("--filestore", format!("odoo={}", at("files").display())),
        ],
    );
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for (directory, files) in [("data", DATA), ("files", FILES)] {
        for (path, content) in contents(&files) {
            assert!(
                std::fs::read(at(directory).join(path)).unwrap() == content,
                "{path}"
            );
        }
    }
    let segment = std::fs::read(at("wal").join("000000020000000000000003")).unwrap();
    assert_eq!((&segment[..WAL.len()], segment.len()), (WAL, 16 << 20));
    assert_eq!(
        std::fs::read(at("wal").join("00000002.history")).unwrap(),
        HISTORY
    );

    let refused = run(&Fingerprint::new([0; 32]).to_string(), &[]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("UNTRUSTED"));
}
