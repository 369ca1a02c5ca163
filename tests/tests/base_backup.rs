//! Base backups of real servers, restored and opened by real servers.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_agent::base::session::SessionError;
use holdfast_agent::base::{self, BaseError, BaseOutcome};
use holdfast_agent::ledger::Ledger;
use holdfast_plan::restore::{Request, Target};
use holdfast_proto::finding::Severity;
use holdfast_proto::manifest::BaseDetails;
use holdfast_proto::record::{BaseBody, ChangeDetection};
use holdfast_repository::manifest::read_part;
use holdfast_repository::pack::{PackReader, open_frame};
use holdfast_repository::{Repository, layout};
use holdfast_tests::faulty::{Call, Fault, FaultPlan};
use holdfast_tests::postgres::{Options, PATIENCE, StopMode, TestPostgres};
use holdfast_tests::scene::{Scene, promoted};

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-wal");

async fn bases(scene: &Scene) -> Result<usize> {
    let listing = scene
        .vault
        .repository
        .list(&layout::bases(&scene.vault.cluster, scene.lineage()))
        .await?;
    Ok(listing.objects.len())
}

/// Reads everything that a restore of this base would read from `repository`.
async fn check_complete(scene: &Scene, repository: &Repository, body: &BaseBody) -> Result<Vec<String>> {
    let keyring = scene.vault.keyring().await?;
    let cluster = &scene.vault.cluster;
    let mut paths = Vec::new();
    for part in &body.parts {
        let index = repository
            .fetch(
                &layout::index(cluster, &part.index.sha256),
                &part.index.sha256,
                part.index.size,
            )
            .await?;
        let catalogue = &part.catalogue;
        let key = layout::pack(cluster, &catalogue.sha256);
        let catalogue = repository.fetch(&key, &catalogue.sha256, catalogue.size).await?;
        let open = read_part(&index.bytes, &catalogue.bytes, part, &keyring)?;
        for known in &open.packs {
            let key = layout::pack(cluster, &known.pack.sha256);
            let pack = repository
                .fetch(&key, &known.pack.sha256, known.pack.size)
                .await?;
            let mut reader = PackReader::open(&pack.bytes, &keyring, known)?;
            for block in 0..reader.len() {
                reader.block(block)?;
            }
        }
        paths.extend(open.entries.into_iter().map(|(_, line)| line.path));
    }
    ensure!(
        paths.last().is_some_and(|last| last == "global/pg_control"),
        "pg_control is last"
    );
    Ok(paths)
}

async fn details(scene: &Scene, outcome: &BaseOutcome) -> Result<BaseDetails> {
    let signed = scene.vault.signed::<BaseBody>(&outcome.link.key).await?;
    let sealed_to = signed
        .header
        .payload
        .sealed_to
        .context("the details are sealed")?;
    let text = open_frame(
        &scene.vault.keyring().await?,
        &sealed_to,
        &signed.payload,
        16 << 20,
    )?;
    Ok(serde_json::from_slice(&text)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_cluster_is_restored_whole() -> Result<()> {
    let mut scene = Scene::start(PROGRAM, Options::default()).await?;
    let (outside, inside) = (scene.vault.dir().join("space"), scene.pg.data_dir().join("inner"));
    for place in [&outside, &inside] {
        fs::create_dir(place)?;
    }
    scene.sql(&format!(
        "create tablespace outside location '{}'",
        outside.display()
    ))?;
    scene.sql(&format!(
        "create tablespace inside location '{}'",
        inside.display()
    ))?;
    scene
        .sql("create table fixed as select n, repeat(md5(n::text), 20) t from generate_series(1, 60000) n")?;
    scene.sql("create table there tablespace outside as select n from generate_series(1, 1000) n")?;
    scene.sql("create table here tablespace inside as select n from generate_series(1, 1000) n")?;
    scene.sql("create unlogged table fleeting as select n from generate_series(1, 1000) n")?;
    scene.sql("create table moving (n int, filler text); create index on moving (n)")?;
    let sum = scene.sql("select count(*), md5(string_agg(n || t, '' order by n)) from fixed")?;

    // Tables come, grow, shrink and go while the copy runs.
    let context = scene.base_context().await?;
    let conninfo = scene.pg.conninfo("postgres");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writer = std::thread::spawn(move || -> Result<u32> {
        let mut rounds = 0;
        while stopped.try_recv().is_err() || rounds == 0 {
            let sql = format!(
                "insert into moving select n, repeat('x', 300) from generate_series(1, 500) n; \
                 create table gone{rounds} as select 1; drop table gone{rounds}; \
                 delete from moving where n > 250; vacuum moving"
            );
            for statement in sql.split("; ") {
                holdfast_tests::postgres::finished(
                    holdfast_tests::postgres::program("psql")
                        .args(["-XAtq", "-d", &conninfo, "-c", statement]),
                )?;
            }
            rounds += 1;
        }
        Ok(rounds)
    });
    let outcome = base::run(&context).await?;
    stop.send(())?;
    let rounds = writer.join().expect("the writer does not panic")?;

    let body = &outcome.body;
    assert!(body.page_checksums && body.pages_verified > 1000 && body.pages_bad == 0);
    assert_eq!(body.complete_on.len(), 2);
    assert_eq!(body.tablespaces.len(), 2);
    assert!(body.totals.stored < body.totals.bytes && body.totals.to_read <= body.totals.stored);
    let (done, total) = context.meter.read();
    assert!(done >= total && total > 40 << 20, "{done} of {total}");
    assert_eq!(outcome.findings, []);
    let paths = check_complete(&scene, &scene.vault.repository, body).await?;
    assert!(
        !paths
            .iter()
            .any(|p| p.starts_with("pg_wal/0") || p.contains("postmaster") || p == "inner/PG_15_202209061")
    );
    assert!(
        details(&scene, &outcome)
            .await?
            .settings
            .contains_key("max_connections")
    );

    scene.safe().await?;
    scene.lose_source().await?;
    for place in [&outside, &inside] {
        let _ = fs::remove_dir_all(place);
    }
    scene.restore(&Request::new(Target::Latest), "restored").await?;
    let restored = scene.open("restored")?;
    promoted(&restored)?;
    assert_eq!(
        restored.psql("select count(*), md5(string_agg(n || t, '' order by n)) from fixed")?,
        sum
    );
    assert_eq!(
        restored.psql("select sum(n) from there union all select sum(n) from here")?,
        "500500\n500500"
    );
    assert_eq!(
        restored.psql("select count(*) from fleeting")?,
        "0",
        "unlogged tables come back empty"
    );
    assert_eq!(
        restored.psql("select count(*) from moving")?,
        format!("{}", rounds * 250)
    );
    restored.psql("set enable_seqscan = off; select count(*) from moving where n = 7")?;
    Ok(())
}

/// The file of a table, after a checkpoint has put it on disk.
fn file_of(pg: &TestPostgres, table: &str) -> Result<String> {
    pg.psql("checkpoint")?;
    pg.psql(&format!("select pg_relation_filepath('{table}')"))
}

fn damage(file: &Path, block: u64) -> Result<()> {
    let file = fs::OpenOptions::new().read(true).write(true).open(file)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, block * 8192 + 5000)?;
    Ok(file.write_all_at(&[byte[0] ^ 0x55], block * 8192 + 5000)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_pages_are_named() -> Result<()> {
    let mut scene = Scene::start(PROGRAM, Options::default()).await?;
    scene.sql("create table t as select n, repeat('x', 500) t from generate_series(1, 2000) n")?;
    let path = file_of(&scene.pg, "t")?;
    scene.unprotect().await?;
    scene.pg.stop(StopMode::Fast)?;
    let file = scene.pg.data_dir().join(&path);
    damage(&file, 3)?;
    damage(&file, 77)?;
    scene.pg.start_again()?;
    scene.protect().await?;

    let outcome = base::run(&scene.base_context().await?).await?;
    assert_eq!(outcome.body.pages_bad, 2);
    let finding = outcome
        .findings
        .iter()
        .find(|f| f.name == "page-damaged")
        .context("no finding")?;
    assert_eq!(
        (finding.subject.as_str(), finding.severity),
        (path.as_str(), Severity::Critical)
    );
    assert!(finding.detail.contains("3, 77"), "{}", finding.detail);
    let named = details(&scene, &outcome).await?.bad_pages;
    assert_eq!(named.iter().map(|p| p.block).collect::<Vec<_>>(), [3, 77]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_fails_the_backup() -> Result<()> {
    let scene = Scene::start(PROGRAM, Options::default()).await?;
    let database = scene.sql("select 'base/' || oid from pg_database where datname = 'postgres'")?;
    let hidden = scene.pg.data_dir().join(&database).join("99999");
    symlink("/nowhere", &hidden)?;
    let error = base::run(&scene.base_context().await?)
        .await
        .expect_err("a link hides data");
    assert!(error.to_string().contains("99999"), "{error}");
    fs::remove_file(&hidden)?;

    // A directory in the place of a file opens, and then cannot be read.
    let mut other = scene.base_context().await?;
    other.data_dir = scene.vault.dir().to_owned();
    let error = base::run(&other).await.expect_err("not the server's directory");
    assert!(
        matches!(error, BaseError::Session(SessionError::WrongDirectory { .. })),
        "{error}"
    );
    assert_eq!(bases(&scene).await?, 0);

    // The copy of a data directory looks right, but is not the server's.
    let copy = scene.vault.dir().join("copy");
    scene.pg.pg_basebackup(&copy, &["-X", "none", "-c", "fast"])?;
    fs::copy(
        scene.pg.data_dir().join("postmaster.pid"),
        copy.join("postmaster.pid"),
    )?;
    other.data_dir = copy;
    let error = base::run(&other).await.expect_err("a copy of the directory");
    assert!(error.to_string().contains("pg_control"), "{error}");
    assert_eq!(bases(&scene).await?, 0);
    base::run(&scene.base_context().await?).await?;
    assert_eq!(bases(&scene).await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_server_fails_the_backup_and_no_more() -> Result<()> {
    let mut scene = Scene::start(PROGRAM, Options::default()).await?;
    scene.sql("create table t as select 1 as n")?;
    let context = scene.base_context().await?;
    // The stores take so long that the restart falls into the copy.
    for region in 0..2 {
        scene.vault.faults(region).fail_matching(
            Some(Call::Put),
            "/packs/",
            Fault::Slow(Duration::from_millis(700)),
        );
    }
    let meter = context.meter.clone();
    let running = tokio::spawn(async move { base::run(&context).await });
    let begun = async {
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        while meter.read().1 == 0 {
            looks.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, begun).await?;
    scene.pg.restart(StopMode::Immediate)?;
    let error = running.await?.expect_err("the server forgot the backup");
    assert!(
        matches!(error, BaseError::SessionBroke | BaseError::Session(_)),
        "{error}"
    );
    assert!(error.to_string().contains("start the backup again"), "{error}");
    assert_eq!(error.finding("acme/erp").name, "base-backup-failed");
    for region in 0..2 {
        scene.vault.faults(region).mend();
    }
    assert_eq!(bases(&scene).await?, 0);
    scene.sql("insert into t values (2)")?;
    base::run(&scene.base_context().await?).await?;
    assert_eq!(bases(&scene).await?, 1);

    // The backup after it is as good as any.
    scene.sql("insert into t values (3)")?;
    scene.safe().await?;
    scene.lose_source().await?;
    scene.restore(&Request::new(Target::Latest), "restored").await?;
    let rows = scene
        .open("restored")?
        .psql("select string_agg(n::text, ' ' order by n) from t")?;
    assert_eq!(rows, "1 2 3");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_away_is_behind_and_said_so() -> Result<()> {
    let scene = Scene::start(PROGRAM, Options::default()).await?;
    scene.sql("create table t as select generate_series(1, 1000) n")?;
    let mut context = scene.base_context().await?;
    context.publisher.copies = 1;
    scene
        .vault
        .faults(1)
        .fail_matching(Some(Call::Put), "/packs/", Fault::Error);
    let outcome = base::run(&context).await?;
    assert_eq!(outcome.body.complete_on.len(), 1);
    assert!(
        outcome
            .findings
            .iter()
            .any(|f| f.name == "replica-behind" && f.subject == "region1")
    );
    scene.vault.faults(1).mend();
    check_complete(&scene, &scene.vault.only(0).await?, &outcome.body).await?;
    let listing = scene
        .vault
        .only(1)
        .await?
        .list(&layout::bases(&scene.vault.cluster, scene.lineage()))
        .await?;
    assert!(listing.objects.is_empty(), "no commit point without its packs");

    // The region is whole again with the next base, which stores all anew.
    let mut context = scene.base_context().await?;
    context.previous = Some(outcome.link);
    let next = base::run(&context).await?;
    assert_eq!(next.body.detection, ChangeDetection::Full);
    assert_eq!(next.body.complete_on.len(), 2);
    check_complete(&scene, &scene.vault.only(1).await?, &next.body).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_already_is_referenced() -> Result<()> {
    let mut scene = Scene::start(PROGRAM, Options::default()).await?;
    scene
        .sql("create table still as select n, repeat(md5(n::text), 20) t from generate_series(1, 60000) n")?;
    scene
        .sql("create table moving as select n from generate_series(1, 1000) n; vacuum freeze; checkpoint")?;
    let first = base::run(&scene.base_context().await?).await?;
    assert_eq!(first.body.detection, ChangeDetection::Full);
    scene.sql(
        "insert into moving select n from generate_series(1, 1000) n; update still set t = 'new' where n = 7",
    )?;
    let mut context = scene.base_context().await?;
    context.previous = Some(first.link.clone());
    let second = base::run(&context).await?;
    let (before, after) = (&first.body.totals, &second.body.totals);
    assert_eq!(second.body.detection, ChangeDetection::CompareIds);
    assert!(
        after.stored * 2 < before.stored,
        "{} after {}",
        after.stored,
        before.stored
    );
    assert!(after.to_read > after.stored);
    let signed = scene.vault.signed::<BaseBody>(&second.link.key).await?;
    assert_eq!(signed.header.previous.as_ref(), Some(&first.link));
    for region in 0..2 {
        check_complete(&scene, &scene.vault.only(region).await?, &second.body).await?;
    }

    // The newest base is the one that is restored.
    let sum = scene.sql("select count(*), md5(string_agg(n || t, '' order by n)) from still")?;
    scene.safe().await?;
    scene.lose_source().await?;
    let outcome = scene.restore(&Request::new(Target::Latest), "restored").await?;
    assert_eq!(outcome.findings, []);
    let restored = scene.open("restored")?;
    promoted(&restored)?;
    assert_eq!(
        restored.psql("select count(*), md5(string_agg(n || t, '' order by n)) from still")?,
        sum
    );
    assert_eq!(restored.psql("select count(*) from moving")?, "2000");
    Ok(())
}

/// The process dies at the n-th call of a store, for every n: what is listed
/// afterwards is complete where it is listed, and restores.
#[tokio::test(flavor = "multi_thread")]
async fn a_death_at_any_call_commits_all_or_nothing() -> Result<()> {
    let mut scene = Scene::start(PROGRAM, Options::default()).await?;
    scene.sql("create table t (n int)")?;
    let mut written = 0;
    let cluster = scene.vault.cluster.clone();
    for region in 0..2 {
        for n in 1.. {
            let fault = if (n + region as u64).is_multiple_of(2) {
                Fault::HaltBefore
            } else {
                Fault::HaltAfter
            };
            let plans: [FaultPlan; 2] = Default::default();
            let repository = scene.vault.opened_with(&plans).await?;
            let doomed = plans[region].clone();
            let opening = doomed.calls();
            let doomed = doomed.nth(opening + n, fault);
            let mut context = scene.base_context().await?;
            context.publisher.repository = repository;
            let lived = tokio::select! {
                outcome = base::run(&context) => outcome.map(|_| true)?,
                () = doomed.halted() => false,
            };
            for region in 0..2 {
                let repository = scene.vault.only(region).await?;
                let listing = repository.list(&layout::bases(&cluster, scene.lineage())).await?;
                if let Some(newest) = listing.objects.keys().next_back() {
                    let body = scene.vault.signed::<BaseBody>(newest).await?.header.body;
                    check_complete(&scene, &repository, &body).await?;
                }
            }
            written += 1;
            scene.sql(&format!("insert into t values ({written})"))?;
            if lived {
                ensure!(n > 5, "only {n} calls were made");
                break;
            }
        }
    }
    scene.safe().await?;
    scene.lose_source().await?;
    // Every one that is listed restores, wherever a death left it.
    let access = scene.access().await?;
    let ledger = Ledger::load(&access.repository, &access.trust, &cluster).await?;
    let bases: Vec<_> = ledger.facts.lineages.iter().flat_map(|l| &l.bases).collect();
    ensure!(
        bases.len() > 1 && bases.len() < 10,
        "{} bases were committed",
        bases.len()
    );
    for base in bases {
        let (name, mut request) = (base.id.to_string(), Request::new(Target::Latest));
        request.base = Some(base.id);
        scene.restore(&request, &name).await?;
        let rows = scene.open(&name)?.psql("select count(*), max(n) from t")?;
        assert_eq!(rows, format!("{written}|{written}"), "{name}");
    }
    Ok(())
}

/// What belongs to the running server, to another backup or to nobody stays behind;
/// what no rule knows comes along.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_rebuilds_is_left_out() -> Result<()> {
    const LEFT_OUT: [&str; 20] = [
        "backup_label",
        "tablespace_map",
        "backup_manifest",
        "postgresql.auto.conf.tmp",
        "current_logfiles.tmp",
        "global/pg_internal.init.77",
        "base/pgsql_tmp/pgsql_tmp9.0",
        "base/1/t3_99999",
        "base/1/t3_99999_fsm.1",
        "base/1/pg_internal.init",
        "pg_dynshmem/mmap.1",
        "pg_notify/0007",
        "pg_replslot/other/state",
        "pg_serial/0007",
        "pg_snapshots/1",
        "pg_stat_tmp/global.stat",
        "pg_subtrans/0077",
        "pg_wal/000000010000000000000077",
        "pg_wal/archive_status/000000010000000000000077.ready",
        "holdfast_restore/state.json",
    ];
    const KEPT: [&str; 4] = ["notes.txt", "backup_label.old", "base/1/t3_x", "log/t3_99999"];
    let mut scene = Scene::start(PROGRAM, Options::default()).await?;
    scene.sql("create unlogged table fleeting as select generate_series(1, 100) n; checkpoint")?;
    let fleeting = scene.sql("select pg_relation_filepath('fleeting')")?;
    let source = scene.pg.data_dir().to_owned();
    for path in LEFT_OUT.iter().chain(&KEPT) {
        fs::create_dir_all(source.join(path).parent().context("a directory")?)?;
        fs::write(source.join(path), path)?;
    }
    let _socket = std::os::unix::net::UnixListener::bind(source.join("socket"))?;
    scene.base().await?;
    for path in ["backup_label", "tablespace_map"] {
        fs::remove_file(source.join(path))?;
    }
    scene.sql("create table t as select 1")?;
    scene.safe().await?;
    scene.lose_source().await?;

    scene.restore(&Request::new(Target::Latest), "restored").await?;
    let data = scene.target("restored").data;
    for path in LEFT_OUT {
        // The server's own label is there, with its own text.
        let there = fs::read(data.join(path)).ok();
        assert!(there.as_deref() != Some(path.as_bytes()), "{path} came along");
    }
    for path in KEPT {
        assert_eq!(fs::read(data.join(path))?, path.as_bytes(), "{path}");
    }
    for gone in ["postmaster.pid", "postmaster.opts", "socket", &fleeting] {
        assert!(!data.join(gone).exists(), "{gone} came along");
    }
    assert!(data.join(format!("{fleeting}_init")).exists());
    for emptied in [
        "pg_notify",
        "pg_replslot",
        "pg_stat_tmp",
        "pg_subtrans",
        "pg_wal/archive_status",
    ] {
        assert_eq!(fs::read_dir(data.join(emptied))?.count(), 0, "{emptied} is empty");
    }
    let restored = scene.open("restored")?;
    assert_eq!(restored.psql("select count(*) from fleeting")?, "0");
    assert_eq!(restored.psql("select count(*) from t")?, "1");
    Ok(())
}
