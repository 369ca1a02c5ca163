//! Captures of real folders, read back from the repository with a reader's keys.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_agent::config::{AdapterKind, FilestoreConfig};
use holdfast_agent::filestore::{Asked, CaptureError, Captured, Filestore, Writing};
use holdfast_agent::findings::Findings;
use holdfast_agent::progress::Meter;
use holdfast_proto::manifest::{EntryType, Extent};
use holdfast_proto::record::{JournalBody, JournalKind};
use holdfast_repository::layout;
use holdfast_tests::faulty::Fault;
use holdfast_tests::vault::Vault;

/// A vault, a folder, and an agent's filestore over it.
struct Stage {
    vault: Vault,
    writing: Writing,
    root: PathBuf,
    state: PathBuf,
    adapter: AdapterKind,
    findings: Findings,
}

impl Stage {
    async fn new(adapter: AdapterKind, copies: usize) -> Result<Self> {
        let vault = Vault::new(2).await?;
        let root = vault.dir().join("files");
        fs::create_dir(&root)?;
        let (data, index) = (vault.data_key().await?, vault.index_key().await?);
        let writing = Writing {
            publisher: vault.publisher(copies),
            trust: Arc::new(vault.trust().await?),
            key: data.key,
            index_key: Arc::new(index.key),
            needs: vec![data.object, index.object],
        };
        let state = vault.dir().join("state");
        Ok(Self {
            vault,
            writing,
            root,
            state,
            adapter,
            findings: Findings::default(),
        })
    }

    fn filestore(&self) -> Filestore {
        let config = FilestoreConfig {
            name: "attachments".parse().expect("a name"),
            path: self.root.clone(),
            adapter: self.adapter,
            database: None,
            collector_delay: None,
            full_sweep: Duration::from_secs(3600),
        };
        Filestore::new(
            config,
            self.state.clone(),
            2,
            self.findings.clone(),
            Meter::default(),
        )
    }

    async fn capture(&self, filestore: &mut Filestore) -> Result<Captured, CaptureError> {
        filestore.capture(&self.writing, Asked::default()).await
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().context("below the root")?)?;
        Ok(fs::write(path, content)?)
    }

    /// Writes a file under the name that its content has in Odoo's filestore.
    fn attach(&self, content: &[u8]) -> Result<String> {
        let name = odoo_name(content);
        self.write(&name, content)?;
        Ok(name)
    }

    async fn body(&self, n: u64) -> Result<JournalBody> {
        let key = layout::journal(&self.vault.cluster, &"attachments".parse()?, n);
        Ok(self.vault.signed::<JournalBody>(&key).await?.header.body)
    }

    /// What the journal says up to entry `n`.
    async fn read(&self, n: u64) -> Result<Image> {
        let keyring = Arc::new(self.vault.keyring().await?);
        let (repository, cluster) = (&self.vault.repository, &self.vault.cluster);
        let mut image = Image::default();
        for n in self.body(n).await?.checkpoint..=n {
            for part in self.body(n).await?.parts {
                let (open, _) = repository.fetch_part(cluster, &part, &keyring).await?;
                let mut packs = Vec::new();
                for pack in &open.packs {
                    packs.push(repository.fetch_pack(cluster, pack, &keyring).await?.0);
                }
                for (line, entry) in open.entries {
                    let path = match &entry.path_bytes {
                        Some(bytes) => STANDARD.decode(bytes)?,
                        None => entry.path.clone().into_bytes(),
                    };
                    match entry.kind {
                        EntryType::File => {
                            let mut content = Vec::new();
                            for Extent(pack, block, offset, length, _) in line.x {
                                let block = packs[pack as usize].block(block)?;
                                content
                                    .extend_from_slice(&block[offset as usize..(offset + length) as usize]);
                            }
                            assert_eq!(content.len() as u64, entry.size, "{}", entry.path);
                            image.dirty.remove(&path);
                            image.files.insert(path, content);
                        }
                        EntryType::Symlink => drop(image.links.insert(path, entry.note.unwrap_or_default())),
                        EntryType::Directory => drop(image.directories.insert(path, entry.mode)),
                        EntryType::Dirty => drop(image.dirty.insert(path, entry.note.unwrap_or_default())),
                        EntryType::Removed => {
                            image.files.remove(&path);
                            image.links.remove(&path);
                            image.directories.remove(&path);
                            image.dirty.remove(&path);
                        }
                    }
                }
            }
        }
        Ok(image)
    }

    /// The regular files that are in the folder now.
    fn present(&self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let mut files = BTreeMap::new();
        collect(&self.root, &self.root, &mut files)?;
        Ok(files)
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Image {
    files: BTreeMap<Vec<u8>, Vec<u8>>,
    links: BTreeMap<Vec<u8>, String>,
    directories: BTreeMap<Vec<u8>, u32>,
    dirty: BTreeMap<Vec<u8>, String>,
}

fn collect(root: &Path, directory: &Path, files: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let kind = fs::symlink_metadata(&path)?.file_type();
        if kind.is_dir() && path.file_name() != Some("checklist".as_ref()) {
            collect(root, &path, files)?;
        } else if kind.is_file() {
            files.insert(
                path.strip_prefix(root)?.as_os_str().as_bytes().to_vec(),
                fs::read(&path)?,
            );
        }
    }
    Ok(())
}

fn odoo_name(content: &[u8]) -> String {
    let sha1 = sha1(content);
    format!("{}/{sha1}", &sha1[..2])
}

fn sha1(content: &[u8]) -> String {
    let mut digest = sha1::Sha1::new();
    digest.update(content);
    digest.hexdigest()
}

fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut reader = blake3_stream(seed);
    reader(&mut bytes);
    bytes
}

/// Incompressible bytes that are the same for the same seed.
fn blake3_stream(seed: u8) -> impl FnMut(&mut [u8]) {
    let mut state = 0x9E37_79B9_7F4A_7C15u64.wrapping_mul(u64::from(seed) + 1);
    move |bytes| {
        for chunk in bytes.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_comes_back_byte_for_byte() -> Result<()> {
    let stage = Stage::new(AdapterKind::None, 2).await?;
    for i in 0..300 {
        stage.write(
            &format!("many/{}/{i}", i % 7),
            format!("file number {i}\n").repeat(i),
        )?;
    }
    stage.write("large", noise(1, 5_000_001))?;
    stage.write("exactly a block", noise(2, 1 << 20))?;
    stage.write("empty", "")?;
    fs::create_dir(stage.root.join("no files in it"))?;
    std::os::unix::fs::symlink("large", stage.root.join("link"))?;
    fs::write(stage.root.join(std::ffi::OsStr::from_bytes(b"caf\xe9")), "latin")?;

    let mut filestore = stage.filestore();
    let captured = stage.capture(&mut filestore).await?;
    assert!(captured.written);
    assert_eq!(captured.complete_on.as_ref().map(Vec::len), Some(2));
    let body = stage.body(1).await?;
    assert_eq!(
        (body.entry, body.checkpoint, body.dirty, body.removed),
        (JournalKind::Checkpoint, 1, 0, 0)
    );
    assert_eq!(body.files, 305);

    let image = stage.read(1).await?;
    assert!(image.files == stage.present()?, "contents differ");
    assert_eq!(
        image.links,
        BTreeMap::from([(b"link".to_vec(), "large".to_owned())])
    );
    assert!(
        image.directories.contains_key(&b"no files in it"[..])
            && image.directories.contains_key(&b"many/6"[..])
    );
    assert!(image.dirty.is_empty(), "{:?}", image.dirty);
    assert!(stage.findings.snapshot().is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deltas_hold_what_changed_and_nothing_when_nothing_did() -> Result<()> {
    let stage = Stage::new(AdapterKind::Odoo, 2).await?;
    let gone = stage.attach(b"to be collected")?;
    for i in 0..50 {
        stage.attach(format!("attachment {i}").as_bytes())?;
    }
    stage.write("checklist/ab/abcdef", "")?;
    let mut filestore = stage.filestore();
    let first = stage.capture(&mut filestore).await?;
    let idle = stage.capture(&mut filestore).await?;
    assert!(!idle.written && idle.journal == first.journal && idle.stored == 0);

    fs::remove_file(stage.root.join(&gone))?;
    let added = stage.attach(b"new since")?;
    let second = stage.capture(&mut filestore).await?;
    assert!(second.written);
    let body = stage.body(2).await?;
    assert_eq!(
        (body.entry, body.checkpoint, body.removed, body.files),
        (JournalKind::Delta, 1, 1, 51)
    );
    assert_eq!(body.totals.bytes, b"new since".len() as u64);

    let image = stage.read(2).await?;
    assert!(image.files == stage.present()?);
    assert!(image.files.contains_key(added.as_bytes()) && !image.files.contains_key(gone.as_bytes()));
    assert!(image.files.keys().all(|path| !path.starts_with(b"checklist")));
    assert!(
        stage.read(1).await?.files.contains_key(gone.as_bytes()),
        "an entry stays what it was"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_becomes_a_file_and_back() -> Result<()> {
    let stage = Stage::new(AdapterKind::None, 2).await?;
    stage.write("a/b/c", "deep")?;
    stage.write("f", "file")?;
    let mut filestore = stage.filestore();
    stage.capture(&mut filestore).await?;
    fs::remove_dir_all(stage.root.join("a"))?;
    stage.write("a", "now a file")?;
    fs::remove_file(stage.root.join("f"))?;
    stage.write("f/g", "now below")?;
    stage.capture(&mut filestore).await?;
    let image = stage.read(2).await?;
    assert!(image.files == stage.present()?, "{:?}", image.files.keys());
    assert_eq!(image.directories.keys().collect::<Vec<_>>(), [&b"f".to_vec()]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_stored_once() -> Result<()> {
    let stage = Stage::new(AdapterKind::None, 2).await?;
    stage.write("one", noise(3, 700_000))?;
    let mut filestore = stage.filestore();
    let first = stage.capture(&mut filestore).await?;
    assert!(first.stored > 700_000);
    stage.write("copy", noise(3, 700_000))?;
    fs::rename(stage.root.join("one"), stage.root.join("moved"))?;
    let second = stage.capture(&mut filestore).await?;
    assert_eq!(second.stored, 0);
    assert!(stage.read(2).await?.files == stage.present()?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_still_being_written_is_taken_when_it_is_whole() -> Result<()> {
    let stage = Stage::new(AdapterKind::Odoo, 2).await?;
    let whole = noise(4, 200_000);
    let name = odoo_name(&whole);
    stage.write(&name, &whole[..100_000])?;
    // Odoo writes in place: the rest follows while the capture looks again.
    let path = stage.root.join(&name);
    let rest = whole.clone();
    let writer = std::thread::spawn(move || {
        std::thread::park_timeout(Duration::from_millis(300));
        fs::write(path, rest)
    });
    let captured = stage.capture(&mut stage.filestore()).await?;
    writer.join().expect("the writer does not panic")?;
    assert_eq!(captured.unproven.count(), 0);
    let image = stage.read(1).await?;
    assert!(image.dirty.is_empty() && image.files.get(name.as_bytes()) == Some(&whole));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_file_is_captured_as_it_is_and_named() -> Result<()> {
    let stage = Stage::new(AdapterKind::Odoo, 2).await?;
    let name = odoo_name(b"what was meant");
    stage.write(&name, "what was")?;
    let mut filestore = stage.filestore();
    let young = stage.capture(&mut filestore).await?;
    assert_eq!(young.unproven.count(), 1);
    assert_eq!(
        young.unproven.before(young.scanned_from),
        1,
        "a reader of that moment may want it"
    );
    let image = stage.read(1).await?;
    assert_eq!(
        image.files.get(name.as_bytes()).map(Vec::as_slice),
        Some(&b"what was"[..])
    );
    assert_eq!(image.dirty[name.as_bytes()], "changed while it was read");

    // It is repaired: the next entry says so.
    stage.write(&name, "what was meant")?;
    let repaired = stage.capture(&mut filestore).await?;
    assert_eq!(repaired.unproven.count(), 0);
    let image = stage.read(2).await?;
    assert!(image.dirty.is_empty());
    assert_eq!(image.files[name.as_bytes()], b"what was meant");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_never_rests_is_captured_and_called_unproven() -> Result<()> {
    let stage = Stage::new(AdapterKind::None, 2).await?;
    stage.write("busy.log", "begin\n")?;
    stage.write("quiet", "quiet")?;
    let stop = Arc::new(AtomicBool::new(false));
    let (path, ends) = (stage.root.join("busy.log"), stop.clone());
    let writer = std::thread::spawn(move || -> std::io::Result<()> {
        use std::io::Write;
        let mut file = fs::OpenOptions::new().append(true).open(path)?;
        while !ends.load(Ordering::Relaxed) {
            file.write_all(b"another line\n")?;
            std::thread::park_timeout(Duration::from_millis(2));
        }
        Ok(())
    });
    let captured = stage.capture(&mut stage.filestore()).await?;
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("the writer does not panic")?;
    assert_eq!(captured.unproven.count(), 1);
    let image = stage.read(1).await?;
    assert!(image.files[&b"busy.log"[..]].starts_with(b"begin\n"));
    assert_eq!(image.dirty.keys().collect::<Vec<_>>(), [&b"busy.log".to_vec()]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_memory_the_agent_begins_with_a_checkpoint() -> Result<()> {
    let stage = Stage::new(AdapterKind::Odoo, 2).await?;
    stage.attach(&noise(5, 50_000))?;
    stage.capture(&mut stage.filestore()).await?;
    fs::remove_dir_all(&stage.state)?;
    stage.attach(b"added while it was gone")?;
    let captured = stage.capture(&mut stage.filestore()).await?;
    assert_eq!(captured.journal.n, 2);
    let body = stage.body(2).await?;
    assert_eq!((body.entry, body.checkpoint), (JournalKind::Checkpoint, 2));
    assert!(stage.read(2).await?.files == stage.present()?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dying_after_the_commit_costs_a_checkpoint() -> Result<()> {
    let stage = Stage::new(AdapterKind::Odoo, 2).await?;
    let doomed = stage.attach(&noise(6, 50_000))?;
    stage.capture(&mut stage.filestore()).await?;
    let before = stage.vault.dir().join("memory of entry 1");
    copy_directory(&stage.state, &before)?;
    let added = stage.attach(&noise(7, 60_000))?;
    stage.capture(&mut stage.filestore()).await?;

    // The process died between the journal's entry and its own memory of it.
    let intent = fs::read(stage.state.join("intent"))?;
    fs::remove_dir_all(&stage.state)?;
    copy_directory(&before, &stage.state)?;
    fs::write(stage.state.join("intent"), intent)?;
    fs::remove_file(stage.root.join(doomed))?;

    let captured = stage.capture(&mut stage.filestore()).await?;
    let body = stage.body(3).await?;
    assert_eq!((captured.journal.n, body.entry), (3, JournalKind::Checkpoint));
    assert!(body.totals.bytes < 70_000);
    let image = stage.read(3).await?;
    assert!(image.files == stage.present()? && image.files.contains_key(added.as_bytes()));
    Ok(())
}

fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_of_one_agent_take_turns() -> Result<()> {
    let stage = Stage::new(AdapterKind::Odoo, 2).await?;
    stage.attach(b"first")?;
    let (mut daemon, mut by_hand) = (stage.filestore(), stage.filestore());
    assert_eq!(stage.capture(&mut daemon).await?.journal.n, 1);
    stage.attach(b"second")?;
    assert_eq!(stage.capture(&mut by_hand).await?.journal.n, 2);
    stage.attach(b"third")?;
    let third = stage.capture(&mut daemon).await?;
    assert_eq!(third.journal.n, 3);
    assert_eq!(stage.body(3).await?.entry, JournalKind::Delta);
    assert!(stage.read(3).await?.files == stage.present()?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_down_gets_nothing_and_is_named() -> Result<()> {
    let stage = Stage::new(AdapterKind::Odoo, 1).await?;
    stage.attach(b"before the outage")?;
    let mut filestore = stage.filestore();
    stage.capture(&mut filestore).await?;
    stage.vault.faults(1).partition(true);
    stage.attach(b"during the outage")?;
    let captured = stage.capture(&mut filestore).await?;
    assert_eq!(captured.complete_on.as_deref().map(<[_]>::len), Some(1));
    assert!(stage.findings.holds("replica-behind", "region1"));

    // Started again, the agent still knows its journal; without its memory it
    // cannot know what only the lost replica may hold.
    stage.attach(b"still")?;
    assert_eq!(stage.capture(&mut stage.filestore()).await?.journal.n, 3);
    fs::remove_dir_all(&stage.state)?;
    let refused = stage.capture(&mut stage.filestore()).await;
    assert!(
        matches!(refused, Err(CaptureError::JournalUnknown(_))),
        "{refused:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmounted_filestore_is_not_an_empty_one() -> Result<()> {
    let stage = Stage::new(AdapterKind::Odoo, 2).await?;
    let name = stage.attach(b"precious")?;
    let mut filestore = stage.filestore();
    stage.capture(&mut filestore).await?;
    fs::remove_dir_all(stage.root.join(&name[..2]))?;
    let refused = stage.capture(&mut filestore).await;
    assert!(
        matches!(refused, Err(CaptureError::RootEmpty { files: 1, .. })),
        "{refused:?}"
    );
    fs::remove_dir(&stage.root)?;
    let refused = stage.capture(&mut filestore).await;
    assert!(
        matches!(refused, Err(CaptureError::RootMissing(_))),
        "{refused:?}"
    );
    Ok(())
}

/// The agent dies at the n-th call to a store, for every n, before and after the
/// call has done its work; then it is started again.
#[tokio::test(flavor = "multi_thread")]
async fn dying_at_any_call_is_survived() -> Result<()> {
    for fault in [Fault::HaltBefore, Fault::HaltAfter] {
        for n in 1.. {
            let stage = Stage::new(AdapterKind::Odoo, 2).await?;
            stage.attach(&noise(8, 30_000))?;
            let mut filestore = stage.filestore();
            stage.capture(&mut filestore).await?;
            let doomed = stage.attach(b"comes and goes")?;
            stage.attach(&noise(9, 40_000))?;
            let plan = stage.vault.faults(1).clone();
            let _ = plan.clone().nth(plan.calls() + n, fault);
            let died = tokio::select! {
                captured = stage.capture(&mut filestore) => { captured?; false }
                () = plan.halted() => true,
            };
            drop(filestore);
            plan.mend();

            fs::remove_file(stage.root.join(&doomed))?;
            stage.attach(b"later")?;
            let captured = stage.capture(&mut stage.filestore()).await;
            let captured = captured.with_context(|| format!("after dying at call {n} ({fault:?})"))?;
            assert!(
                stage.read(captured.journal.n).await?.files == stage.present()?,
                "call {n} ({fault:?})"
            );
            if !died {
                assert!(n > 4, "a capture makes more calls than that");
                break;
            }
        }
    }
    Ok(())
}
