//! A reader that is not ours restores what the agent wrote: `tests/compat/restore.py`
//! knows `docs/FORMAT.md`, `age`, `zstd` and `openssl`, and a real server opens
//! the result.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_agent::config::{AdapterKind, FilestoreConfig};
use holdfast_agent::filestore::{Asked, Filestore, Writing};
use holdfast_agent::findings::Findings;
use holdfast_agent::progress::Meter;
use holdfast_tests::postgres::{Options, TestPostgres};
use holdfast_tests::scene::{Scene, promoted};

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-wal");

/// Runs the reader on a region, with the drill's identity.
async fn read(scene: &Scene, region: usize, more: &[&str]) -> Result<Output> {
    let identity = scene.vault.dir().join("reader.key");
    if !identity.exists() {
        scene.vault.drill().save(&identity)?;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("compat/restore.py");
    let mut command = Command::new("python3");
    command
        .arg(script)
        .arg(scene.vault.place(region))
        .arg("--identity")
        .arg(identity);
    command.args(["--cluster", &scene.vault.cluster.to_string()]);
    command.args(["--root", &scene.vault.trust().await?.root().to_string()]);
    Ok(command.args(more).output()?)
}

fn succeeded(output: &Output) -> Result<String> {
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout.clone())?)
}

/// Opens a directory that the reader wrote, with recovery up to all of its WAL.
fn open(data: &Path, printed: &str, target: &str) -> Result<TestPostgres> {
    let settings: String = printed
        .lines()
        .filter(|line| line.contains(" = "))
        .map(|line| format!("{line}\n"))
        .collect();
    let auto = data.join("postgresql.auto.conf");
    let kept = fs::read_to_string(&auto).unwrap_or_default();
    fs::write(
        &auto,
        format!("{kept}{settings}{target}recovery_target_action = 'promote'\n"),
    )?;
    fs::write(data.join("recovery.signal"), "")?;
    let restored = TestPostgres::open(data, false)?;
    promoted(&restored)?;
    Ok(restored)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_backup_with_its_wal_starts_as_a_server() -> Result<()> {
    let mut scene = Scene::start(PROGRAM, Options::default()).await?;
    let fast = scene.vault.dir().join("fast");
    fs::create_dir(&fast)?;
    scene.sql(&format!("create tablespace fast location '{}'", fast.display()))?;
    scene.sql("create table t (n int, filler text)")?;
    scene.sql("create table quick (n int) tablespace fast")?;
    scene.sql("insert into t select n, repeat('x', 300) from generate_series(1, 20000) n")?;
    scene.base().await?;
    scene.sql("insert into quick select generate_series(1, 100)")?;
    let between = scene.sql("select pg_current_wal_insert_lsn()")?;
    scene.sql("insert into t select n, repeat('y', 300) from generate_series(20001, 30000) n")?;
    scene.safe().await?;
    let oid = scene.sql("select oid from pg_tablespace where spcname = 'fast'")?;
    scene.lose_source().await?;
    fs::remove_dir_all(scene.vault.place(0))?;

    for (name, target, rows) in [
        ("latest", String::new(), "30000|100"),
        (
            "between",
            format!("recovery_target_lsn = '{between}'\n"),
            "20000|100",
        ),
    ] {
        let place = scene.vault.dir().join(name);
        fs::create_dir(&place)?;
        let at = |part: &str| place.join(part).display().to_string();
        let space = format!("{oid}={}", at("fast"));
        let output = read(
            &scene,
            1,
            &["--data", &at("data"), "--wal", &at("wal"), "--tablespace", &space],
        )
        .await?;
        let restored = open(&place.join("data"), &succeeded(&output)?, &target)?;
        let counted = restored.psql("select (select count(*) from t), (select count(*) from quick)")?;
        assert_eq!(counted, rows, "{name}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_in_the_wal_and_a_damaged_pack_are_refused() -> Result<()> {
    let mut scene = Scene::start(PROGRAM, Options::default()).await?;
    scene.base().await?;
    scene.sql("create table t as select n, repeat('x', 500) from generate_series(1, 10000) n")?;
    scene.safe().await?;
    scene.lose_source().await?;
    let prefix = holdfast_repository::layout::wal_of(&scene.vault.cluster, scene.lineage());
    let listing = scene.vault.repository.list(&prefix).await?;
    // All of the segment before the last: one object of it may be held by another.
    let segments: BTreeSet<&Path> = listing
        .keys()
        .filter(|key| !key.as_str().ends_with(".history"))
        .filter_map(|key| Path::new(key.as_str()).parent())
        .collect();
    let lost = segments
        .iter()
        .rev()
        .nth(1)
        .context("a segment before the last")?;
    fs::remove_dir_all(scene.vault.place(0).join(lost))?;
    let at = |part: &str| scene.vault.dir().join(part).display().to_string();
    let output = read(&scene, 0, &["--data", &at("holed"), "--wal", &at("holed-wal")]).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("WAL is missing"),
        "{said}"
    );

    let prefix = holdfast_repository::layout::packs(&scene.vault.cluster);
    let listing = scene.vault.repository.list(&prefix).await?;
    let pack = scene
        .vault
        .place(1)
        .join(listing.keys().next().context("a pack")?.as_str());
    let mut bytes = fs::read(&pack)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes)?;
    let output = read(&scene, 1, &["--data", &at("damaged")]).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("damaged"), "{said}");
    Ok(())
}

fn tree(root: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.strip_prefix(root)?.display().to_string(), fs::read(&path)?);
            }
        }
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filestore_comes_back_entry_by_entry() -> Result<()> {
    let scene = Scene::start(PROGRAM, Options::default()).await?;
    let vault = &scene.vault;
    let root = vault.dir().join("files");
    fs::create_dir_all(root.join("ab"))?;
    let (data, index) = (vault.data_key().await?, vault.index_key().await?);
    let writing = Writing {
        publisher: vault.publisher(2),
        trust: Arc::new(vault.trust().await?),
        key: data.key,
        index_key: Arc::new(index.key),
        needs: vec![data.object, index.object],
    };
    let config = FilestoreConfig {
        name: "attachments".parse()?,
        path: root.clone(),
        adapter: AdapterKind::None,
        database: None,
        collector_delay: None,
        full_sweep: Duration::from_secs(3600),
    };
    let state = vault.dir().join("state");
    let mut filestore = Filestore::new(config, state, 2, Findings::default(), Meter::default());

    for n in 0..300u32 {
        fs::write(
            root.join(format!("ab/{n}")),
            n.to_string().repeat(n as usize * 20),
        )?;
    }
    fs::write(root.join("large"), vec![7u8; 5 << 20])?;
    filestore.capture(&writing, Asked::default()).await?;
    let first = tree(&root)?;
    fs::remove_file(root.join("ab/7"))?;
    fs::write(root.join("ab/new"), "new")?;
    filestore.capture(&writing, Asked::default()).await?;
    let second = tree(&root)?;

    for (name, entry, expected) in [("one", Some("1"), first), ("two", None, second)] {
        let target = vault.dir().join(name);
        let option = format!("attachments={}", target.display());
        let mut arguments = vec!["--filestore", option.as_str()];
        arguments.extend(entry.iter().flat_map(|n| ["--entry", n]));
        succeeded(&read(&scene, 0, &arguments).await?)?;
        let found = tree(&target)?;
        assert!(
            found == expected,
            "{:?} and {:?} files",
            found.len(),
            expected.len()
        );
    }
    Ok(())
}
