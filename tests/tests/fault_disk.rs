//! File systems that fill up: while a filestore is restored, and while a restored
//! server fetches WAL. Neither ends in less than the whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result};
use holdfast_plan::restore::{Request, Target};
use holdfast_tests::postgres::{Options, bin_dir};
use holdfast_tests::scene::Scene;

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-wal");

fn shell(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|w| format!("'{}'", w.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a script where it may mount file systems that nobody else sees.
fn in_namespace(script: &str) -> Result<Output> {
    Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .output()
        .context("unshare is needed")
}

fn said(output: &Output) -> String {
    format!(
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The contents below a directory, by path.
fn tree(root: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    fn walk(root: &Path, at: &Path, into: &mut Vec<(PathBuf, Vec<u8>)>) -> Result<()> {
        for entry in fs::read_dir(at)? {
            let path = entry?.path();
            if path.is_dir() {
                walk(root, &path, into)?;
            } else {
                into.push((path.strip_prefix(root)?.to_owned(), fs::read(&path)?));
            }
        }
        Ok(())
    }
    let mut all = Vec::new();
    walk(root, root, &mut all)?;
    all.sort();
    Ok(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filestore_that_finds_no_room_is_told_and_goes_on() -> Result<()> {
    let mut scene = Scene::start(PROGRAM, Options::default()).await?;
    scene.sql("create table ir_attachment (store_fname text, checksum text, file_size bigint)")?;
    let mut filestore = scene.filestore()?;
    scene.base().await?;
    for n in 0..6u32 {
        // Incompressible: a megabyte of digests.
        let mut content = Vec::new();
        for m in 0..32_768u32 {
            content.extend_from_slice(blake3::hash(&[n.to_le_bytes(), m.to_le_bytes()].concat()).as_bytes());
        }
        scene.attach(&content)?;
    }
    scene.fence(&mut filestore, None).await?;
    scene.safe().await?;
    scene.lose_source().await?;
    let source = tree(&scene.files())?;

    let plan = scene.plan(&Request::new(Target::Latest)).await?;
    let place = scene.vault.dir().join("small");
    fs::create_dir(&place)?;
    let target = |name: &str| {
        let mut target = scene.target(name);
        target
            .filestores
            .values_mut()
            .for_each(|dir| *dir = place.join("files"));
        target
    };
    let (_, checked) = scene
        .job_to(plan.clone(), target("checked"), "checked", true)
        .await?;
    let (_, unchecked) = scene.job_to(plan, target("full"), "full", false).await?;
    let kept = scene.vault.dir().join("kept");
    let data = scene.target("full").data;
    let script = format!(
        "mount -t tmpfs -o size=4m tmpfs {place} || exit 90
         {checked} && exit 91
         {unchecked} && exit 92
         test -e {data}/global/pg_control && exit 93
         mount -o remount,size=100m {place} || exit 94
         {unchecked} || exit 95
         cp -r {place}/files {kept} || exit 96",
        place = place.display(),
        checked = shell(&checked),
        unchecked = shell(&unchecked),
        data = data.display(),
        kept = kept.display(),
    );
    let output = in_namespace(&script)?;
    let told = said(&output);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("bytes free, the restore writes about"), "{told}");
    assert!(
        told.contains("filestore files: the file system of")
            && told.contains("is full: make room and run the same restore again"),
        "{told}"
    );
    assert!(told.contains("\"resumed\":true"), "{told}");
    assert!(tree(&kept)? == source, "the files are the source's");
    let rows = scene.open("full")?.psql("select count(*) from ir_attachment")?;
    assert_eq!(rows, source.len().to_string());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_stops_when_wal_finds_no_room_and_goes_on_when_there_is() -> Result<()> {
    let mut scene = Scene::start(PROGRAM, Options::default()).await?;
    scene.sql("create table t as select generate_series(1, 100) n")?;
    scene.base().await?;
    // Ten segments that change no page: it is WAL alone that needs room.
    scene.sql(
        "select pg_logical_emit_message(false, 'room', repeat('x', 1000000)) from generate_series(1, 10)",
    )?;
    scene.sql("insert into t values (101)")?;
    scene.safe().await?;
    scene.lose_source().await?;

    let place = scene.vault.dir().join("small");
    fs::create_dir(&place)?;
    let mut target = scene.target("small");
    target.data = place.join("data");
    let plan = scene.plan(&Request::new(Target::Latest)).await?;
    let (_, restore) = scene.job_to(plan, target, "small", true).await?;
    let script = format!(
        r#"
        as_postgres="unshare --user --map-user=1000 --map-group=1000"
        server() {{
            $as_postgres {bin}/postgres -D {place}/data -c listen_addresses= \
                -c unix_socket_directories={sockets} -c logging_collector=off >> {place}/log 2>&1
        }}
        ask() {{ $as_postgres {bin}/psql -XAtq -h {sockets} -U postgres -d postgres "$@"; }}
        mount -t tmpfs -o size=400m tmpfs {place} || exit 90
        {restore} || exit 91
        free=$(df -k --output=avail {place} | tail -1)
        head -c $(( (free - 4500) * 1024 )) /dev/zero > {place}/filler || exit 92
        server && exit 93
        cp {place}/log {stopped}
        ls -A {place}/data/pg_wal > {left}
        $as_postgres {bin}/pg_controldata {place}/data | grep 'cluster state' >> {left}
        rm {place}/filler
        server &
        until ask -c 'select 1' > {stopped}.asked 2>&1; do
            kill -0 $! || {{ cat {place}/log; exit 94; }}
        done
        ask -c 'select count(*), max(n) from t' -c 'select pg_is_in_recovery()'
        kill -QUIT $(head -n 1 {place}/data/postmaster.pid)
        wait
        exit 0
        "#,
        bin = bin_dir().display(),
        place = place.display(),
        restore = shell(&restore),
        sockets = scene.pg.socket_dir().display(),
        stopped = scene.vault.dir().join("stopped").display(),
        left = scene.vault.dir().join("left").display(),
    );
    let output = in_namespace(&script)?;
    let log = fs::read_to_string(scene.vault.dir().join("stopped")).unwrap_or_default();
    assert!(output.status.success(), "{}\n{log}", said(&output));
    assert!(
        log.contains("check the disk's space") && log.contains("could not restore file"),
        "{log}"
    );
    assert!(
        !log.contains("archive recovery complete") && !log.contains("selected new timeline"),
        "{log}"
    );
    let left = fs::read_to_string(scene.vault.dir().join("left"))?;
    assert!(
        !left.contains(".part"),
        "the full disk is not filled further: {left}"
    );
    assert!(left.contains("in archive recovery"), "{left}");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.ends_with("101|101\nf\n"), "{told}");
    Ok(())
}
