//! Killed at the n-th object that reaches a region, for every n up to a complete base
//! backup, and then at the n-th WAL object. Whatever was acknowledged comes back.
//!
//! A region here is a directory, so what stands in it says how far the agent is.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use holdfast_agent::restore::closure;
use holdfast_proto::pg::Lsn;
use holdfast_repository::layout::{self, BundleKind};
use holdfast_tests::postgres::{Options, TestPostgres, finished, program};
use holdfast_tests::scene::{promoted, references};

use crate::house::{House, files_below, said};

/// Somebody who writes rows 1, 2, … one transaction each, until told to stop, and
/// remembers where each had been committed.
struct Writer {
    stop: Sender<()>,
    thread: JoinHandle<Result<Vec<Lsn>>>,
}

impl Writer {
    fn begin(conninfo: String) -> Self {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || write(&conninfo, &stopped));
        Self { stop, thread }
    }

    /// Where row 1, row 2, … had been committed by.
    fn end(self) -> Result<Vec<Lsn>> {
        self.stop.send(())?;
        self.thread.join().expect("the writer does not panic")
    }
}

fn write(conninfo: &str, stopped: &Receiver<()>) -> Result<Vec<Lsn>> {
    let mut committed = Vec::new();
    while stopped.try_recv().is_err() {
        let n = committed.len() + 1;
        // Some WAL beside the row, so that segments end.
        let row = format!("insert into t values ({n})");
        let noise =
            "select length(pg_logical_emit_message(false, 'noise', repeat(md5(random()::text), 2000))::text)";
        let lsn = finished(program("psql").args([
            "-XAtq",
            "-d",
            conninfo,
            "-c",
            noise,
            "-c",
            &row,
            "-c",
            "select pg_current_wal_insert_lsn()",
        ]))?;
        committed.push(lsn.lines().last().context("a position")?.parse()?);
    }
    Ok(committed)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_object_it_loses_nothing_that_was_acknowledged() -> Result<()> {
    let options = Options::default()
        .initdb("--wal-segsize=1")
        .set("wal_keep_size", "1GB");
    let mut house = House::new(options).await?;
    let lineage = house.lineage()?;
    let cluster = house.vault.cluster.clone();
    let (bases, wal) = (
        layout::bases(&cluster, lineage),
        layout::wal_of(&cluster, lineage),
    );

    // At the n-th object of each run, until a base backup is complete.
    let mut n = 0;
    while house.everywhere(&bases) == 0 {
        n += 1;
        let region = n % 2;
        house.attach(format!("attachment {n}").as_bytes())?;
        let before = house.objects(region, "");
        let mut agent = house.agent()?;
        house.until("the n-th object is stored", &mut agent, || {
            Ok(house.objects(region, "") >= before + n || house.everywhere(&bases) > 0)
        })?;
        agent.kill()?;
    }
    ensure!(n > 5, "a base backup was complete after {n} objects");

    // At the n-th object of WAL, while somebody writes.
    let writer = Writer::begin(house.pg.conninfo("postgres"));
    for n in 1..=6 {
        let region = n % 2;
        let mut agent = house.agent()?;
        let before = house.objects(region, &wal);
        house.until("the n-th WAL object is stored", &mut agent, || {
            Ok(house.objects(region, &wal) >= before + n)
        })?;
        agent.kill()?;
    }

    // Two fences after the last file, a bundle of secrets; then the end of everything,
    // in the middle of the work.
    house.attach(b"the last attachment")?;
    let points = layout::points(&cluster, lineage);
    let secrets = layout::bundles(&cluster, BundleKind::Secrets);
    let fenced = house.objects(0, &points) + 2;
    let mut agent = house.agent()?;
    house.until("two fences were taken", &mut agent, || {
        Ok(house.objects(0, &points) >= fenced && house.everywhere(&secrets) > 0)
    })?;
    let acknowledged: Lsn = house
        .pg
        .psql("select restart_lsn from pg_replication_slots")?
        .parse()?;
    agent.kill()?;
    let committed = writer.end()?;
    house.pg.kill9()?;
    let safe = committed.iter().filter(|lsn| **lsn <= acknowledged).count();
    ensure!(safe > 10, "only {safe} of {} rows were safe", committed.len());

    let restored = house.restore("recovery.key", "restored", &[])?;
    ensure!(restored.status.success(), "{}", said(&restored));
    let server = TestPostgres::open(&house.dir().join("restored"), false)?;
    promoted(&server)?;
    let rows = server.psql("select count(*), max(n), count(distinct n) from t")?;
    let count: usize = rows.split('|').next().context("a count")?.parse()?;
    assert_eq!(
        rows,
        format!("{count}|{count}|{count}"),
        "no row is missing in between"
    );
    assert!(
        count >= safe && count <= committed.len(),
        "{count} rows came back; {safe} were acknowledged, {} committed",
        committed.len()
    );

    let references = references(&server)?;
    let names: BTreeSet<_> = references.iter().map(|r| r.name.clone()).collect();
    assert_eq!(names.len(), n + 1);
    let compared = closure::compare(references, &house.dir().join("restored.files"), 2)?;
    assert!(compared.is_complete(), "{compared:?}");

    identities_open_what_is_theirs(&house)
}

/// What each key opens, told by exit code and text.
fn identities_open_what_is_theirs(house: &House) -> Result<()> {
    let secrets = house.dir().join("secrets").display().to_string();
    let opened = house.restore("recovery.key", "with-secrets", &["--secrets", &secrets])?;
    ensure!(opened.status.success(), "{}", said(&opened));
    let found = files_below(Path::new(&secrets));
    assert_eq!(found, 1, "the secrets were unpacked");

    let refused = |identity: &str, more: &[&str], code: i32, text: &str| -> Result<()> {
        let target = format!("refused-{identity}");
        let output = house.restore(identity, &target, more)?;
        let told = said(&output);
        assert_eq!(output.status.code(), Some(code), "{identity}: {told}");
        assert!(told.contains(text), "{identity}: {told}");
        assert!(
            !house.dir().join(target).join("global/pg_control").exists(),
            "{identity}: no server can be started"
        );
        Ok(())
    };
    let theirs = house.dir().join("theirs").display().to_string();
    refused("drill.key", &["--secrets", &theirs], 1, "secrets")?;
    assert_eq!(files_below(Path::new(&theirs)), 0);
    refused(
        "stranger.key",
        &[],
        1,
        "none of the identities given opens a key of acme/erp",
    )?;
    refused("agent.key", &[], 64, "agent.key")?;
    refused("nowhere.key", &[], 64, "nowhere.key")
}
