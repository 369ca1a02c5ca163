//! Backups by the real agent code over stores that fail, restored afterwards: a
//! region that is cut off in the middle of a base backup before the other is lost,
//! stores that are slow, lie, truncate and forget to answer, and a process that dies
//! at any call.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_agent::base::{self, BaseOutcome};
use holdfast_agent::restore::PlanError;
use holdfast_agent::restore::closure;
use holdfast_plan::restore::{Impossible, Reason, Request, Target};
use holdfast_proto::Timestamp;
use holdfast_proto::names::BackupId;
use holdfast_repository::Deadlines;
use holdfast_repository::replicate::replicate_cluster;
use holdfast_tests::faulty::{Call, Fault, FaultPlan, Seen};
use holdfast_tests::postgres::{Options, PATIENCE};
use holdfast_tests::scene::{Scene, references};

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-wal");

/// So short that a store's silence is met many times in a test.
const IMPATIENT: Deadlines = Deadlines {
    call: Duration::from_secs(3),
    attempt: Duration::from_millis(500),
    slowest: 64 << 20,
};

fn latest() -> Request {
    Request::new(Target::Latest)
}

/// The last of everything, without region 0.
fn without_region0(target: Target) -> Result<Request> {
    let mut request = Request::new(target);
    request.accept_unreachable.insert("region0".parse()?);
    Ok(request)
}

async fn refused(scene: &Scene, request: &Request) -> Result<Impossible> {
    let error = scene.plan(request).await.err().context("it was planned")?;
    match error.downcast()? {
        PlanError::Impossible(why) => Ok(why),
        other => Err(other.into()),
    }
}

async fn rows(scene: &Scene, request: &Request, name: &str) -> Result<String> {
    scene.restore(request, name).await?;
    scene
        .open(name)?
        .psql("select string_agg(n::text, ' ' order by n) from t")
}

/// Waits until a store was asked for what `is_it` is about.
async fn until_seen(plan: &FaultPlan, is_it: impl Fn(&Seen) -> bool) -> Result<()> {
    let seen = async {
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        while !plan.seen().iter().any(&is_it) {
            looks.tick().await;
        }
    };
    Ok(tokio::time::timeout(PATIENCE, seen).await?)
}

/// A server that one copy suffices for, whose region 1 was cut off from it in the
/// middle of the second base backup, and which went on writing.
struct CutOff {
    scene: Scene,
    first: BackupId,
    second: BaseOutcome,
    /// After row 4 had been committed, which region 1 does not know.
    later: Timestamp,
}

impl CutOff {
    async fn new() -> Result<Self> {
        let mut scene = Scene::start(PROGRAM, Options::default().set("wal_keep_size", "1GB")).await?;
        scene.sql("create table t as select 1 as n")?;
        let first = scene.base().await?;
        scene.sql("insert into t values (2)")?;
        scene.safe().await?;
        scene.unprotect().await?;
        let mut publisher = scene.vault.publisher(1);
        publisher.repository = publisher.repository.with_deadlines(IMPATIENT);
        scene.protect_by(publisher.clone()).await?;

        // The first pack reaches region 1, and nothing that comes after it.
        let region1 = scene.vault.faults(1).clone();
        let before = region1.calls();
        let pack = |seen: &Seen| seen.n > before && seen.call == Call::Put && seen.path.contains("/packs/");
        region1.fail_matching(
            Some(Call::Put),
            "/packs/",
            Fault::Slow(Duration::from_millis(300)),
        );
        let mut context = scene.base_context().await?;
        context.publisher = publisher;
        scene.sql("insert into t values (3)")?;
        scene.safe_everywhere().await?;
        let backup = tokio::spawn(async move { base::run(&context).await });
        until_seen(&region1, pack).await?;
        region1.partition(true);
        scene.sql("insert into t values (4)")?;
        let second = tokio::time::timeout(PATIENCE, backup).await???;
        scene.safe().await?;
        let later = scene.time()?;
        // Something that is known to come after it.
        scene.sql("insert into t values (5)")?;
        scene.safe().await?;
        Ok(Self {
            scene,
            first,
            second,
            later,
        })
    }

    fn lost(&self) -> PathBuf {
        self.scene.vault.dir().join("lost")
    }

    fn lose_region0(&self) -> Result<()> {
        Ok(fs::rename(self.scene.vault.place(0), self.lost())?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_cut_off_during_a_backup_restores_to_where_it_was() -> Result<()> {
    let mut cut = CutOff::new().await?;
    let (scene, second) = (&mut cut.scene, &cut.second);
    assert_eq!(second.body.complete_on, ["region0".parse()?]);
    let behind = |f: &holdfast_proto::finding::Finding| f.name == "replica-behind" && f.subject == "region1";
    assert!(second.findings.iter().any(behind), "{:?}", second.findings);
    scene.lose_source().await?;

    // With both regions there, nothing is missing.
    let plan = scene.plan(&latest()).await?;
    assert_eq!(plan.base.id, second.id);
    assert_eq!(rows(scene, &latest(), "both").await?, "1 2 3 4 5");

    // Region 0 is lost. That has to be accepted by name, because it may hold more.
    scene.vault.faults(1).partition(false);
    let lost = scene.vault.dir().join("lost");
    fs::rename(scene.vault.place(0), lost)?;
    let why = refused(scene, &latest()).await?;
    assert!(matches!(&*why.reason, Reason::Unreachable { regions } if regions[..] == ["region0".parse()?]));
    assert!(why.to_string().contains("--accept-unreachable region0"), "{why}");

    // What is left is one whole moment: the first base, and the WAL up to the cut.
    let accepted = without_region0(Target::Latest)?;
    let plan = scene.plan(&accepted).await?;
    assert_eq!(plan.base.id, cut.first, "the second base is not whole here");
    assert_eq!(plan.accepted_unreachable, ["region0".parse()?]);
    assert_eq!(rows(scene, &accepted, "left").await?, "1 2 3");

    // What lies behind the cut is refused, by name.
    let why = refused(scene, &without_region0(Target::Time(cut.later))?).await?;
    assert!(matches!(*why.reason, Reason::AfterLast { .. }), "{why}");
    assert!(why.nearest_before.is_some(), "{why}");
    let mut by_base = accepted;
    by_base.base = Some(second.id);
    let why = refused(scene, &by_base).await?;
    assert!(
        matches!(*why.reason, Reason::BadBase { base, .. } if base == second.id),
        "{why}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_came_back_in_time_restores_everything() -> Result<()> {
    let mut cut = CutOff::new().await?;
    cut.scene.vault.faults(1).mend();
    cut.scene.safe_everywhere().await?;
    cut.scene.lose_source().await?;
    let accepted = without_region0(Target::Latest)?;

    // The WAL came by itself; the second base has not come yet, and is not needed.
    cut.lose_region0()?;
    assert_eq!(cut.scene.plan(&accepted).await?.base.id, cut.first);
    assert_eq!(rows(&cut.scene, &accepted, "by-wal").await?, "1 2 3 4 5");

    // Replication brings the base, and both regions are alike.
    fs::rename(cut.lost(), cut.scene.vault.place(0))?;
    let vault = &cut.scene.vault;
    let done = replicate_cluster(&vault.reopen().await?, &vault.cluster, &vault.trust().await?).await?;
    assert!(done.is_complete(), "{:?}", done.findings);
    cut.lose_region0()?;
    assert_eq!(cut.scene.plan(&accepted).await?.base.id, cut.second.id);
    assert_eq!(rows(&cut.scene, &accepted, "by-base").await?, "1 2 3 4 5");
    Ok(())
}

/// Faults of every kind on all calls of both regions, some beyond a deadline.
fn bad_weather(plan: &FaultPlan) {
    let _ = plan
        .clone()
        .per_mille(40, Fault::Error)
        .per_mille(40, Fault::LostAck)
        .per_mille(40, Fault::Truncate)
        .per_mille(20, Fault::FlipBit)
        .per_mille(20, Fault::HaltBefore)
        .per_mille(20, Fault::HaltAfter)
        .per_mille(20, Fault::Slow(Duration::from_secs(2)))
        .per_mille(100, Fault::Slow(Duration::from_millis(20)));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_stores_do_what_was_acknowledged_is_restored() -> Result<()> {
    let mut scene = Scene::start(PROGRAM, Options::default().set("wal_keep_size", "1GB")).await?;
    scene.sql(
        "create table ir_attachment (store_fname text, checksum text, file_size bigint); \
         create table t as select n, md5(n::text) x from generate_series(1, 20000) n",
    )?;
    let mut filestore = scene.filestore()?;
    for n in 0..40 {
        scene.attach(format!("invoice {n}").as_bytes())?;
    }
    scene.unprotect().await?;
    let mut publisher = scene.vault.publisher(2);
    publisher.repository = publisher.repository.with_deadlines(IMPATIENT);
    scene.protect_by(publisher.clone()).await?;
    let mut context = scene.base_context().await?;
    context.publisher = publisher.clone();
    let writing = scene.writing(&publisher).await?;
    for region in 0..2 {
        bad_weather(scene.vault.faults(region));
    }

    // As the agent does: what did not succeed is done again.
    let mut failed = Vec::new();
    let base = loop {
        match base::run(&context).await {
            Ok(base) => break base,
            Err(error) => failed.push(format!("{error:#}")),
        }
        ensure!(failed.len() < 50, "no base backup: {failed:#?}");
    };
    assert_eq!(base.body.complete_on.len(), 2);
    scene.sql("insert into t select n, md5(n::text) from generate_series(20001, 30000) n")?;
    for n in 40..60 {
        scene.attach(format!("invoice {n}").as_bytes())?;
    }
    let mut last = None;
    while last.is_none() {
        match scene.fence_by(&writing, &mut filestore, None).await {
            Ok(point) => last = Some(point),
            Err(error) => failed.push(format!("{error:#}")),
        }
        ensure!(failed.len() < 50, "no point: {failed:#?}");
    }
    // Until writing has met everything that can happen to it, in both regions.
    let faults = [Fault::Error, Fault::LostAck, Fault::HaltBefore, Fault::HaltAfter];
    let met = |region: usize, fault: Fault| {
        let seen = scene.vault.faults(region).seen();
        seen.iter().any(|s| s.fault == Some(fault) && s.call == Call::Put)
    };
    let mut rows = 0;
    while !faults.iter().all(|fault| met(0, *fault) && met(1, *fault)) {
        ensure!(rows < 2000, "the weather was too good");
        scene.sql(&format!("insert into t values (-{rows}, 'one more')"))?;
        scene.safe().await?;
        rows += 1;
    }
    (0..2).for_each(|region| scene.vault.faults(region).mend());
    let sum = scene.sql("select count(*), md5(string_agg(n || x, '' order by n)) from t")?;
    scene.lose_source().await?;
    fs::remove_dir_all(scene.files())?;

    // Each region alone gives all of it.
    for lost in 0..2 {
        let (place, away) = (scene.vault.place(lost).to_owned(), scene.vault.dir().join("away"));
        fs::rename(&place, &away)?;
        let mut request = latest();
        request
            .accept_unreachable
            .insert(format!("region{lost}").parse()?);
        let name = format!("without{lost}");
        let outcome = scene.restore(&request, &name).await?;
        let restored = scene.open(&name)?;
        assert_eq!(
            restored.psql("select count(*), md5(string_agg(n || x, '' order by n)) from t")?,
            sum
        );
        let files = &outcome.filestores[0].directory;
        let compared = closure::compare(references(&restored)?, files, 2)?;
        assert!(compared.is_complete() && compared.present == 60, "{compared:?}");
        fs::rename(&away, &place)?;
    }
    Ok(())
}

/// The process dies at the n-th call of a store during a WAL upload, for every n of
/// its start and of the objects after it; then everything else is lost too.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_death_at_any_call_the_log_is_restored() -> Result<()> {
    let mut scene = Scene::start(PROGRAM, Options::default().set("wal_keep_size", "1GB")).await?;
    scene.sql("create table t (n int)")?;
    scene.base().await?;
    scene.unprotect().await?;
    let mut written = 0;
    for n in 1..=24u64 {
        let region = (n % 2) as usize;
        let fault = if n % 4 < 2 {
            Fault::HaltBefore
        } else {
            Fault::HaltAfter
        };
        let plans: [FaultPlan; 2] = Default::default();
        let mut publisher = scene.vault.publisher(2);
        publisher.repository = scene.vault.opened_with(&plans).await?;
        let doomed = plans[region].clone();
        let _ = doomed.clone().nth(doomed.calls() + n, fault);
        scene.begin_line(publisher).await?;
        let writing = async {
            while !doomed.struck() {
                written += 1;
                scene.sql(&format!("insert into t values ({written})"))?;
                tokio::task::yield_now().await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, writing).await??;
        scene.kill_line().await;
    }
    scene.protect().await?;
    scene.safe().await?;
    scene.lose_source().await?;
    for lost in 0..2 {
        let (place, away) = (scene.vault.place(lost).to_owned(), scene.vault.dir().join("away"));
        fs::rename(&place, &away)?;
        let mut request = latest();
        request
            .accept_unreachable
            .insert(format!("region{lost}").parse()?);
        let name = format!("without{lost}");
        scene.restore(&request, &name).await?;
        let counted = scene.open(&name)?.psql("select count(*), max(n) from t")?;
        assert_eq!(counted, format!("{written}|{written}"));
        fs::rename(&away, &place)?;
    }
    Ok(())
}
