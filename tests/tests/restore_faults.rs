//! Restores from damaged, incomplete and half-lost repositories.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use holdfast_agent::ledger::Ledger;
use holdfast_agent::restore::fetch::read_findings;
use holdfast_agent::restore::{PlanError, execute};
use holdfast_plan::restore::{Reason, Request, Target};
use holdfast_proto::Timestamp;
use holdfast_proto::names::{KeyKind, ObjectKey};
use holdfast_proto::record::{BaseBody, JournalBody, KeyBody, WalBody};
use holdfast_repository::layout::{self, Located};
use holdfast_repository::signed::Draft;
use holdfast_repository::signing::SigningKey;
use holdfast_tests::postgres::{Options, PATIENCE, TestPostgres};
use holdfast_tests::scene::Scene;

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-wal");

fn latest() -> Request {
    Request::new(Target::Latest)
}

/// The objects of a region below a prefix, as files.
fn objects(scene: &Scene, region: usize, prefix: &str) -> Vec<PathBuf> {
    fn walk(path: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, into)
            } else {
                into.push(path)
            }
        }
    }
    let mut found = Vec::new();
    walk(&scene.vault.place(region).join(prefix), &mut found);
    found.sort();
    found
}

fn flip(path: &Path, at: impl Fn(usize) -> usize) -> Result<()> {
    let mut bytes = fs::read(path)?;
    let at = at(bytes.len());
    bytes[at] ^= 0x10;
    Ok(fs::write(path, bytes)?)
}

async fn filled() -> Result<Scene> {
    let scene = Scene::start(PROGRAM, Options::default()).await?;
    scene.sql("create table t as select n, repeat('x', 100) x from generate_series(1, 5000) n")?;
    scene.base().await?;
    for n in 1..=4 {
        scene.sql(&format!(
            "insert into t select n, repeat('y', 300) from generate_series(1, 4000) n -- {n}"
        ))?;
        scene.sql("select pg_switch_wal()")?;
        scene.safe().await?;
    }
    Ok(scene)
}

/// The WAL objects of a region, in the order of the log.
fn wal(scene: &Scene, region: usize) -> Vec<PathBuf> {
    let mut all = objects(
        scene,
        region,
        &layout::wal_of(&scene.vault.cluster, scene.lineage()),
    );
    all.sort_by_key(|p| p.file_name().map(ToOwned::to_owned));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_are_healed_from_the_other_region_and_reported() -> Result<()> {
    let mut scene = filled().await?;
    scene.lose_source().await?;
    let cluster = &scene.vault.cluster;
    let base = objects(&scene, 0, &layout::bases(cluster, scene.lineage()));
    let packs = objects(&scene, 0, &layout::packs(cluster));
    let indexes = objects(&scene, 0, &layout::indexes(cluster));
    let logs = wal(&scene, 0);
    let middle = &logs[logs.len() * 2 / 3];
    let damaged: Vec<&PathBuf> = [&base[0], &indexes[0], middle]
        .into_iter()
        .chain(&packs)
        .collect();
    let intact: Vec<Vec<u8>> = damaged.iter().map(fs::read).collect::<Result<_, _>>()?;
    // In the signature of the manifest, in the header of the WAL object, in the
    // middle of everything else.
    flip(&base[0], |len| len - 40)?;
    flip(middle, |len| len - 400)?;
    for path in packs.iter().chain(&indexes) {
        flip(path, |len| len / 2)?;
    }

    let outcome = scene.restore(&latest(), "healed").await?;
    let restored = scene.open("healed")?;
    assert_eq!(restored.psql("select count(*) from t")?, "21000");
    let notes = outcome.pin.parent().context("notes")?.to_owned();
    let mut seen = outcome.findings;
    seen.extend(read_findings(&notes));
    let healed = |path: &Path| {
        let key = path
            .strip_prefix(scene.vault.place(0))
            .unwrap_or(path)
            .display()
            .to_string();
        let subject = format!("region0:{key}");
        seen.iter()
            .any(|f| f.name == "object-damaged" && f.subject == subject)
            && seen.iter().any(|f| f.name == "healed" && f.subject == subject)
    };
    for (path, before) in damaged.iter().zip(intact) {
        // The base's commit object is read by the ledger and healed there.
        assert_eq!(fs::read(path)?, before, "{} is whole again", path.display());
        assert!(
            healed(path) || *path == &base[0],
            "{} is reported: {seen:?}",
            path.display()
        );
    }

    // The same bit in both regions: refused by name, and nothing that can be started.
    let largest = packs
        .iter()
        .max_by_key(|p| fs::metadata(p).map_or(0, |m| m.len()));
    let largest = largest.context("a pack")?;
    let inner = largest.strip_prefix(scene.vault.place(0))?;
    for region in 0..2 {
        flip(&scene.vault.place(region).join(inner), |len| len / 2)?;
    }
    let error = scene.restore(&latest(), "refused").await.unwrap_err();
    let told = format!("{error:#}");
    assert!(
        told.contains(&inner.display().to_string()) && told.contains("region0") && told.contains("region1"),
        "{told}"
    );
    assert!(!scene.target("refused").data.join("global/pg_control").exists());
    // One good copy comes back, and the other is made whole from it.
    flip(&scene.vault.place(1).join(inner), |len| len / 2)?;
    scene.restore(&latest(), "again").await?;
    assert_eq!(scene.open("again")?.psql("select count(*) from t")?, "21000");
    assert_eq!(fs::read(largest)?, fs::read(scene.vault.place(1).join(inner))?);
    Ok(())
}

/// While nobody commits an agent attests that nothing more was. Where a hole follows,
/// moments up to there can be restored, and not only those up to the last commit.
#[tokio::test(flavor = "multi_thread")]
async fn the_quiet_time_in_front_of_a_hole_can_be_restored() -> Result<()> {
    let mut scene = filled().await?;
    scene.safe_everywhere().await?;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let quiet = scene.time()?;
    let facts = async |scene: &Scene| -> Result<Ledger> {
        let access = scene.access().await?;
        Ok(Ledger::load(&access.repository, &access.trust, &scene.vault.cluster).await?)
    };
    let attested = tokio::time::timeout(PATIENCE, async {
        loop {
            let points = facts(&scene).await?.points();
            let last = points.restorable.intervals.last().context("an interval")?.to;
            if last.time >= Some(quiet) {
                return Ok::<_, anyhow::Error>(last);
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    });
    let attested = attested.await??;
    for _ in 0..3 {
        scene.sql("insert into t select 1")?;
        scene.sql("select pg_switch_wal()")?;
        scene.safe_everywhere().await?;
    }
    let late = scene.time()?;
    scene.lose_source().await?;
    // What was stored next is lost, in both regions.
    for region in 0..2 {
        for object in wal(&scene, region) {
            let key = object
                .strip_prefix(scene.vault.place(region))?
                .display()
                .to_string();
            if let Some(Located::Wal { name, .. }) = layout::parse(&key)
                && name.start == attested.lsn
            {
                fs::remove_file(object)?;
            }
        }
    }
    let ledger = facts(&scene).await?;
    let points = ledger.points();
    assert_eq!(points.restorable.gaps.len(), 1, "{points}");
    assert_eq!(points.restorable.gaps[0].gap.from, attested.lsn);
    let in_front = points.restorable.intervals.first().context("an interval")?;
    assert!(in_front.attested && in_front.to.time >= Some(quiet), "{points}");
    let at = Request::new(Target::Time(quiet));
    scene.restore(&at, "quiet").await?;
    assert_eq!(scene.open("quiet")?.psql("select count(*) from t")?, "21000");
    let error = scene.plan(&Request::new(Target::Time(late))).await.unwrap_err();
    assert!(format!("{error:#}").contains("WAL is missing"), "{error:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_is_named_and_never_passed_over() -> Result<()> {
    let mut scene = filled().await?;
    let before = scene.time()?;
    scene.lose_source().await?;
    let logs = wal(&scene, 0);
    let lost = logs[logs.len() * 3 / 4].clone();
    let inner = lost.strip_prefix(scene.vault.place(0))?.to_owned();
    let kept = fs::read(&lost)?;

    // Lost in one region only: nothing happens but a note.
    fs::remove_file(&lost)?;
    scene.restore(&latest(), "one").await?;
    assert_eq!(scene.open("one")?.psql("select count(*) from t")?, "21000");

    // Lost behind the planner's back: recovery stops with an error, and does not
    // promote what it has.
    fs::write(&lost, &kept)?;
    scene.restore(&latest(), "late").await?;
    for region in 0..2 {
        fs::remove_file(scene.vault.place(region).join(&inner))?;
    }
    let log = stops(&scene, "late")?;
    assert!(log.contains("which the plan saw"), "{log}");
    assert!(
        log.contains("could not restore file") || log.contains("restore_command"),
        "{log}"
    );

    // Known to the planner: named, refused, and passed by only when told to.
    let error = scene.plan(&latest()).await.unwrap_err();
    let Some(PlanError::Impossible(why)) = error.downcast_ref() else {
        panic!("{error:#}")
    };
    let Reason::Gap { gap, lost_bytes } = &*why.reason else {
        panic!("{why}")
    };
    assert!(
        inner.display().to_string().contains(&gap.from.fixed()) && *lost_bytes > 0,
        "{why}"
    );
    let access = scene.access().await?;
    let ledger = Ledger::load(&access.repository, &access.trust, &scene.vault.cluster).await?;
    let points = ledger.points();
    assert_eq!(points.restorable.gaps.len(), 1);
    assert!(points.to_string().contains("GAP"), "{points}");
    assert_eq!(points.restorable.intervals.len(), 1);

    let into_the_hole = scene.plan(&Request::new(Target::Time(before))).await.unwrap_err();
    assert!(
        into_the_hole.to_string().contains("WAL is missing"),
        "{into_the_hole:#}"
    );
    let mut told = latest();
    told.allow_gap = true;
    scene.restore(&told, "told").await?;
    let rows: u32 = scene.open("told")?.psql("select count(*) from t")?.parse()?;
    assert!((5000..21000).contains(&rows), "{rows}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_region_is_given_up_by_name() -> Result<()> {
    let mut scene = filled().await?;
    scene.lose_source().await?;
    fs::rename(scene.vault.place(0), scene.vault.dir().join("gone"))?;
    let error = scene.plan(&latest()).await.unwrap_err();
    assert!(
        error.to_string().contains("--accept-unreachable region0"),
        "{error:#}"
    );
    let mut accepted = latest();
    accepted.accept_unreachable.insert("region0".parse()?);
    let plan = scene.plan(&accepted).await?;
    assert_eq!(plan.accepted_unreachable, ["region0".parse()?]);
    scene.restore(&accepted, "lost").await?;
    assert_eq!(scene.open("lost")?.psql("select count(*) from t")?, "21000");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_trusted_signed_is_not_believed() -> Result<()> {
    let mut scene = filled().await?;
    scene.lose_source().await?;
    let cluster = scene.vault.cluster.clone();
    let base = objects(&scene, 0, &layout::bases(&cluster, scene.lineage())).remove(0);
    let inner = base.strip_prefix(scene.vault.place(0))?.to_owned();
    let key = ObjectKey::from_layout(inner.display().to_string());
    let signed = scene.vault.signed::<BaseBody>(&key).await?;
    let forged = Draft {
        repository: scene.vault.repository.id(),
        key: key.clone(),
        payload: signed.payload[..].into(),
        sealed_to: signed.header.payload.sealed_to,
        lease: None,
        previous: None,
        body: &signed.header.body,
    }
    .sign(&SigningKey::generate_ed25519()?)
    .bytes;

    // In one region: the other one's is used, and the forgery is replaced.
    fs::write(&base, &forged)?;
    let access = scene.access().await?;
    let ledger = Ledger::load(&access.repository, &access.trust, &cluster).await?;
    let seen = |name: &str, ledger: &Ledger| {
        ledger
            .findings
            .iter()
            .any(|f| f.name == name && f.subject.contains(key.as_str()))
    };
    assert!(
        seen("object-damaged", &ledger) && seen("healed", &ledger),
        "{:?}",
        ledger.findings
    );
    assert_ne!(fs::read(&base)?, forged);
    // One WAL object under another's name, and one pack: the same.
    let (logs, packs) = (wal(&scene, 0), objects(&scene, 0, &layout::packs(&cluster)));
    fs::copy(&logs[0], &logs[1])?;
    fs::copy(&packs[0], &packs[1])?;
    scene.restore(&latest(), "swapped").await?;
    assert_eq!(scene.open("swapped")?.psql("select count(*) from t")?, "21000");

    // In both regions: there is no base any more.
    for region in 0..2 {
        fs::write(scene.vault.place(region).join(&inner), &forged)?;
    }
    let ledger = Ledger::load(&access.repository, &access.trust, &cluster).await?;
    assert!(seen("object-not-believed", &ledger), "{:?}", ledger.findings);
    let error = scene.plan(&latest()).await.unwrap_err();
    let Some(PlanError::Impossible(why)) = error.downcast_ref() else {
        panic!("{error:#}")
    };
    assert!(matches!(*why.reason, Reason::NoBase { .. }), "{why}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_agents_later_objects_are_not_believed() -> Result<()> {
    let mut scene = filled().await?;
    scene.lose_source().await?;
    assert!(scene.plan(&latest()).await.is_ok());
    scene.vault.revoke_agent(Vec::new()).await?;
    let error = match scene.plan(&latest()).await {
        Ok(plan) => panic!("planned from a revoked agent's objects:\n{plan}"),
        Err(error) => error,
    };
    let told = format!("{error:#}");
    assert!(
        told.contains("no base backup") || told.contains("none of the identities"),
        "{told}"
    );
    Ok(())
}

/// What the key had signed before it was stolen is believed by name, and restores; what
/// the thief adds is neither believed nor passed over.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_revoked_agent_had_written_before_is_restored() -> Result<()> {
    let mut scene = filled().await?;
    scene.lose_source().await?;
    let cluster = scene.vault.cluster.clone();
    let key_of = |path: &Path| -> Result<ObjectKey> {
        let inner = path.strip_prefix(scene.vault.place(0))?;
        Ok(ObjectKey::from_layout(inner.display().to_string()))
    };
    // The last object with a transaction's end in the first three quarters of the log.
    let logs = wal(&scene, 0);
    let mut ends = None;
    for path in logs[..logs.len() * 3 / 4].iter().rev() {
        let signed = scene.vault.signed::<WalBody>(&key_of(path)?).await?;
        if let Some(commit) = signed.body().last_commit {
            ends = Some((signed.link(), commit.time));
            break;
        }
    }
    let (stolen_at, end) = ends.context("no transaction ended")?;
    let base = objects(&scene, 0, &layout::bases(&cluster, scene.lineage())).remove(0);
    let base = scene.vault.signed::<BaseBody>(&key_of(&base)?).await?;
    let mut believed = vec![stolen_at, base.link()];
    for kind in [KeyKind::Data, KeyKind::Index] {
        for object in objects(&scene, 0, &layout::keys(&cluster, kind)) {
            believed.push(scene.vault.signed::<KeyBody>(&key_of(&object)?).await?.link());
        }
    }
    scene.vault.revoke_agent(believed).await?;

    // To just before the last transaction that is believed, and no further.
    let before = Timestamp::from_unix_micros(end.unix_micros() - 1);
    let request = Request::new(Target::Time(before));
    scene.restore(&request, "believed").await?;
    // PostgreSQL 15 reads ahead, and asks for the segment behind the target: what is
    // not believed there ends recovery early, unless it is told not to look.
    let told = stops(&scene, "believed")?;
    assert!(told.contains("was revoked"), "{told}");
    let data = scene.target("believed").data;
    let auto_conf = data.join("postgresql.auto.conf");
    fs::write(
        &auto_conf,
        format!("{}recovery_prefetch = off\n", fs::read_to_string(&auto_conf)?),
    )?;
    fs::remove_file(data.with_extension("log"))?;
    let rows: u32 = scene.open("believed")?.psql("select count(*) from t")?.parse()?;
    assert!((5000..21000).contains(&rows), "{rows}");
    let told = match scene.restore(&latest(), "latest").await {
        Err(error) => format!("{error:#}"),
        Ok(_) => stops(&scene, "latest")?,
    };
    assert!(told.contains("was revoked"), "{told}");
    Ok(())
}

/// What a server that cannot finish its recovery logs.
fn stops(scene: &Scene, name: &str) -> Result<String> {
    let log = match TestPostgres::open(&scene.target(name).data, false) {
        Ok(server) => {
            holdfast_tests::postgres::wait_until("recovery gives up", || Ok(server.log().contains("FATAL")))?;
            server.log()
        }
        Err(error) => format!("{error:#}"),
    };
    anyhow::ensure!(!log.contains("archive recovery complete"), "{log}");
    Ok(log)
}

#[tokio::test(flavor = "multi_thread")]
async fn tablespaces_go_where_they_are_told() -> Result<()> {
    let mut scene = Scene::start(PROGRAM, Options::default()).await?;
    let place = scene.vault.dir().join("fast");
    fs::create_dir(&place)?;
    scene.sql(&format!("create tablespace fast location '{}'", place.display()))?;
    scene.sql("create table t tablespace fast as select generate_series(1, 3000) n")?;
    scene.base().await?;
    scene.sql("insert into t values (0)")?;
    scene.safe().await?;
    scene.lose_source().await?;
    let source = objects_of(&place);

    let plan = scene.plan(&latest()).await?;
    let mut target = scene.target("spaces");
    target.tablespaces_under = None;
    let (access, options) = (scene.access().await?, scene.options().await?);
    let error = holdfast_agent::restore::execute(&plan, &access, &target, &options)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("--tablespace OID=DIRECTORY"),
        "{error}"
    );

    scene.restore(&latest(), "spaces").await?;
    let restored = scene.open("spaces")?;
    assert_eq!(restored.psql("select count(*) from t")?, "3001");
    restored.psql("insert into t select generate_series(1, 5000)")?;
    let location =
        restored.psql("select pg_tablespace_location(oid) from pg_tablespace where spcname = 'fast'")?;
    assert!(
        Path::new(&location).starts_with(scene.vault.dir().join("spaces")),
        "{location}"
    );
    assert_eq!(objects_of(&place), source, "the source's tablespace is untouched");
    Ok(())
}

/// Files below `path`, with their sizes.
fn objects_of(path: &Path) -> Vec<(PathBuf, u64)> {
    let mut all = Vec::new();
    let mut open = vec![path.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => open.push(entry.path()),
                Ok(meta) => all.push((entry.path(), meta.len())),
                Err(_) => {}
            }
        }
    }
    all.sort();
    all
}

/// One pack of a filestore that is lost everywhere costs the files in it, by name,
/// and not all the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_pack_costs_its_own_files_alone() -> Result<()> {
    let mut scene = Scene::start(PROGRAM, Options::default()).await?;
    scene.sql("create table ir_attachment (store_fname text, checksum text, file_size bigint)")?;
    let mut filestore = scene.filestore()?;
    scene.base().await?;
    let kept = scene.attach(b"a drawing")?;
    let first = scene.fence(&mut filestore, None).await?;
    let before = objects(&scene, 0, "tenants");
    let lost = scene.attach(b"an invoice")?;
    scene.fence(&mut filestore, Some(&first)).await?;
    scene.safe().await?;
    scene.lose_source().await?;

    let journals = scene
        .vault
        .repository
        .list(&layout::filestores(&scene.vault.cluster))
        .await?;
    let newest = journals.objects.keys().next_back().context("no journal")?.clone();
    let entry = scene.vault.signed::<JournalBody>(&newest).await?;
    let catalogues: Vec<String> = (entry.body().parts.iter())
        .map(|part| part.catalogue.sha256.to_string())
        .collect();
    let place = scene.vault.place(0).to_owned();
    let packs: Vec<PathBuf> = objects(&scene, 0, "tenants")
        .into_iter()
        .filter(|path| !before.contains(path) && path.display().to_string().contains("/packs/"))
        .filter(|path| !catalogues.iter().any(|sha256| path.ends_with(sha256)))
        .map(|path| path.strip_prefix(&place).map(Path::to_owned))
        .collect::<Result<_, _>>()?;
    let [pack] = packs.as_slice() else {
        anyhow::bail!("one pack holds the invoice, not {packs:?}");
    };
    for region in [0, 1] {
        fs::remove_file(scene.vault.place(region).join(pack))?;
    }

    let plan = scene.plan(&latest()).await?;
    let (access, mut options) = (scene.access().await?, scene.options().await?);
    let stopped = execute(&plan, &access, &scene.target("stopped"), &options).await;
    let said = stopped.err().context("it must not pass over it")?.to_string();
    assert!(
        said.contains(&lost) && said.contains("--accept-lost-files"),
        "{said}"
    );

    options.accept_lost_files = true;
    let target = scene.target("rest");
    let outcome = execute(&plan, &access, &target, &options).await?;
    let files = &outcome.filestores[0];
    assert_eq!((files.files, files.lost_count), (1, 1), "{outcome:?}");
    assert!(files.lost[0].ends_with(&lost), "{:?}", files.lost);
    assert!(outcome.findings.iter().any(|f| f.name == "files-lost"));
    let directory = &files.directory;
    assert_eq!(fs::read(directory.join(&kept))?, b"a drawing");
    assert!(!directory.join(&lost).exists());
    let restored = scene.open("rest")?;
    assert_eq!(restored.psql("select count(*) from ir_attachment")?, "2");
    Ok(())
}
