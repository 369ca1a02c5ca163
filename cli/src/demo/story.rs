//! What happens, in order.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use holdfast_drills::scratch::PrivateServer;
use holdfast_proto::Timestamp;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::books::{self, DATABASE, Filestore, MONTH};
use super::comparison::{Comparison, compare};
use super::stage::{CLUSTER, Daemon, FILESTORE, Stage, free_port};
use super::summary::{Lost, Proof, Restored, Summary};
use super::writer::{self, Journal, Mistake, SharedJournal};
use crate::exit::Exit;
use crate::screen::span;

/// The tier's RPO in the shipped policy, in milliseconds.
const PLATINUM: &str = "platinum";
const PATIENCE: Duration = Duration::from_secs(90);

/// Tells the story and says how it ends.
pub async fn tell(stage: &Stage, serve: bool) -> anyhow::Result<Exit> {
    stage.say("Keys, a repository in two regions, and who is believed");
    found(stage).await?;

    stage.say("A PostgreSQL with an ERP's invoices, and a filestore beside it");
    let (primary, people) = open_office(stage).await?;

    stage.say("Protection: a coordinator and an agent, as separate processes");
    let mut coordinator = stage.daemon(
        "coordinator",
        &["coordinator", "run", "--config", &at(stage, "coordinator.toml")],
    )?;
    let mut agent = stage.daemon("agent", &["agent", "run", "--config", &at(stage, "agent.toml")])?;
    wait_protected(stage, &mut agent, &mut coordinator).await?;

    stage.say(format!(
        "A mistake: somebody deletes the invoices of {MONTH} with their attachments"
    ));
    let mistake = people.make_mistake(&primary).await?;
    stage.say(format!(
        "  {} invoices are gone since {}",
        mistake.invoices, mistake.committed
    ));
    people.wait_collected(stage, mistake.invoices, &mut agent).await?;

    stage.say("The disaster: SIGKILL to the primary and the agent; data, filestore and region-a are removed");
    let (journal, disaster) = strike(stage, primary, people, agent).await?;

    stage.say("Region-a decided who wins races; it is gone, so the root key names region-b");
    let root_key = at(stage, "keys/root.key");
    stage
        .run(&[
            "repo",
            "authority",
            "--region",
            "region-b",
            "--root-key",
            &root_key,
        ])
        .await?;

    stage.say("What is restorable, from what is left");
    print!("{}", stage.run(&["points", "--cluster", CLUSTER]).await?);
    let restored = restore_before(stage, &journal, &mistake).await?;
    let lost = restore_latest(stage, &journal, disaster).await?;

    stage.say("A drill: accidental-deletion, level L3, in a scratch namespace");
    let proof = prove(stage, &mistake).await?;

    let summary = Summary::new(stage, PLATINUM, restored, lost, proof);
    summary.write(&stage.path("summary.json"))?;
    println!("\n{}", summary.table());
    if serve {
        stage.say(format!("The coordinator's page is {} until Ctrl-C", stage.page()));
        coordinator.wait().await?;
    } else {
        coordinator.check()?;
        coordinator.stop().await?;
    }
    Ok(if summary.holds() { Exit::Done } else { Exit::No })
}

fn at(stage: &Stage, name: &str) -> String {
    stage.path(name).display().to_string()
}

async fn found(stage: &Stage) -> anyhow::Result<()> {
    let keys = at(stage, "keys");
    let made: Value = stage
        .run_json(&[
            "keys",
            "generate",
            "--directory",
            &keys,
            "--agent",
            "agent-1",
            "--runner",
            "runner-1",
            "--coordinator",
            "coordinator-1",
        ])
        .await?;
    let root = made["trust_root"]
        .as_str()
        .context("keys generate names no trust root")?;
    stage.write_configuration(root, free_port()?)?;
    let root_key = at(stage, "keys/root.key");
    stage.run(&["repo", "init", "--root-key", &root_key]).await?;
    for (name, role, key) in [
        ("agent-1", "agent", "agent-1.pub"),
        ("runner-1", "runner", "runner-1.pub"),
        ("coordinator-1", "coordinator", "coordinator-1.pub"),
        ("coordinator-1-log", "coordinator", "coordinator-1-log.pub"),
    ] {
        let public = at(stage, &format!("keys/{key}"));
        let mut line = vec![
            "trust",
            "enrol",
            "--root-key",
            &root_key,
            "--name",
            name,
            "--role",
            role,
            "--public",
            &public,
        ];
        if role == "agent" {
            line.extend(["--cluster", CLUSTER]);
        }
        stage.run(&line).await?;
    }
    Ok(())
}

/// The people and what they know.
struct People {
    filestore: Filestore,
    journal: SharedJournal,
    stop: CancellationToken,
    collected: Arc<AtomicUsize>,
    writer: JoinHandle<anyhow::Result<()>>,
    collector: JoinHandle<anyhow::Result<()>>,
}

async fn open_office(stage: &Stage) -> anyhow::Result<(PrivateServer, People)> {
    let options = stage.primary();
    fs::create_dir_all(stage.path("primary"))?;
    PrivateServer::initdb(&options)?;
    let primary = stage.start_server(options).await?;
    let admin = primary.connect("postgres").await?;
    admin
        .batch_execute(&format!("CREATE DATABASE {DATABASE}"))
        .await?;
    let grants = stage.run(&["agent", "sql", "--role", "holdfast"]).await?;
    admin.batch_execute(&grants).await?;
    let erp = primary.connect(DATABASE).await?;
    erp.batch_execute(&format!("GRANT CONNECT ON DATABASE {DATABASE} TO holdfast"))
        .await?;
    let filestore = Filestore::create(stage.path("primary/filestore"))?;
    let attachments = books::open_books(&erp, &filestore).await?;
    stage.say(format!(
        "  {} invoices, each with an attachment in the filestore",
        attachments.len()
    ));

    let journal: SharedJournal = Arc::new(Mutex::new(Journal::opened(attachments)));
    let stop = CancellationToken::new();
    let collected = Arc::new(AtomicUsize::new(0));
    let writer = tokio::spawn(writer::post_invoices(
        erp,
        filestore.clone(),
        journal.clone(),
        stop.clone(),
    ));
    let collector = tokio::spawn(writer::collect_garbage(
        primary.connect(DATABASE).await?,
        filestore.clone(),
        stop.clone(),
        collected.clone(),
    ));
    Ok((
        primary,
        People {
            filestore,
            journal,
            stop,
            collected,
            writer,
            collector,
        },
    ))
}

impl People {
    async fn make_mistake(&self, primary: &PrivateServer) -> anyhow::Result<Mistake> {
        let mut client = primary.connect(DATABASE).await?;
        writer::make_mistake(&mut client, &self.filestore, &self.journal).await
    }

    /// Goes on working until the collector has deleted the month's files.
    async fn wait_collected(&self, stage: &Stage, files: usize, agent: &mut Daemon) -> anyhow::Result<()> {
        stage.say("Work goes on; the collector deletes the files that nothing references any more");
        wait_until(
            PATIENCE,
            "the collector has deleted the month's files",
            async || {
                agent.check()?;
                self.check()?;
                Ok(self.collected.load(Ordering::Relaxed) >= files)
            },
        )
        .await?;
        stage.say(format!(
            "  {} files are gone from the filestore",
            self.collected.load(Ordering::Relaxed)
        ));
        // A little more work, so that there is a tail to lose.
        let before = self.posted();
        wait_until(PATIENCE, "more invoices are posted", async || {
            Ok(self.posted() >= before + 100)
        })
        .await
    }

    fn posted(&self) -> usize {
        self.journal
            .lock()
            .expect("no holder of the journal panics")
            .posted()
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.writer.is_finished(), "the writer ended before the disaster");
        ensure!(
            !self.collector.is_finished(),
            "the collector ended before the disaster"
        );
        Ok(())
    }
}

async fn wait_until(
    limit: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    let wait = async {
        loop {
            tick.tick().await;
            if condition().await? {
                return Ok(());
            }
        }
    };
    match tokio::time::timeout(limit, wait).await {
        Ok(result) => result,
        Err(_) => bail!("{} s went by and it did not come true: {what}", limit.as_secs()),
    }
}

/// Waits until a base backup and fences are complete in both regions.
async fn wait_protected(stage: &Stage, agent: &mut Daemon, coordinator: &mut Daemon) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(Duration::from_secs(2));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        tick.tick().await;
        agent.check()?;
        coordinator.check()?;
        let points: Value = stage.run_json(&["points", "--cluster", CLUSTER]).await?;
        let count = |what: &str| {
            let intervals = points["intervals"].as_array().into_iter().flatten();
            intervals
                .filter_map(|i| i[what].as_array().map(Vec::len))
                .sum::<usize>()
        };
        let (bases, fences) = (count("bases"), count("points"));
        let regions = points["holdings"].as_array().map_or(0, Vec::len);
        stage.say(format!(
            "  {bases} base backup(s), {fences} joint recovery point(s), WAL in {regions} region(s)"
        ));
        if bases >= 1 && fences >= 2 && regions == 2 {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            bail!(
                "the cluster is not protected after {} s; see logs/agent.log",
                PATIENCE.as_secs()
            );
        }
    }
}

/// Everything is lost. Returns what the writer knew, and when.
async fn strike(
    stage: &Stage,
    mut primary: PrivateServer,
    people: People,
    agent: Daemon,
) -> anyhow::Result<(Journal, Timestamp)> {
    people.check()?;
    let disaster = Timestamp::from_chrono(chrono::Utc::now());
    primary.kill();
    agent.kill().await?;
    people.stop.cancel();
    // Both end with an error: their database is gone. That is the story.
    let _ = people.writer.await?;
    let _ = people.collector.await?;
    for gone in ["primary/data", "primary/filestore", "region-a"] {
        fs::remove_dir_all(stage.path(gone)).with_context(|| format!("removing {gone}"))?;
    }
    let journal = people
        .journal
        .lock()
        .expect("no holder of the journal panics")
        .clone();
    stage.say(format!(
        "  {} invoices had been posted since the start",
        journal.posted()
    ));
    Ok((journal, disaster))
}

async fn restore(stage: &Stage, target: &[&str], name: &str) -> anyhow::Result<(Value, PrivateServer, u64)> {
    let data = at(stage, &format!("{name}/data"));
    let files = format!("{FILESTORE}={}", at(stage, &format!("{name}/filestore")));
    let mut line = vec!["restore", "run", "--cluster", CLUSTER];
    line.extend(target);
    line.extend([
        "--target",
        &data,
        "--filestore",
        &files,
        "--accept-unreachable",
        "region-a",
    ]);
    let outcome: Value = stage.run_json(&line).await?;
    let start = stage.elapsed_ms();
    let server = stage.start_server(stage.copy(name)).await?;
    Ok((outcome, server, stage.elapsed_ms() - start))
}

async fn check_copy(
    stage: &Stage,
    server: &PrivateServer,
    name: &str,
    journal: &Journal,
    moment: Timestamp,
) -> anyhow::Result<Comparison> {
    let client = server.connect(DATABASE).await?;
    compare(
        &client,
        &stage.path(&format!("{name}/filestore")),
        journal,
        moment,
    )
    .await
}

async fn restore_before(stage: &Stage, journal: &Journal, mistake: &Mistake) -> anyhow::Result<Restored> {
    let moment = mistake.before.to_string();
    stage.say("A plan for the moment before the mistake");
    let plan = [
        "restore",
        "plan",
        "--cluster",
        CLUSTER,
        "--to-time",
        &moment,
        "--accept-unreachable",
        "region-a",
    ];
    print!("{}", stage.run(&plan).await?);
    stage.say("The restore");
    let (outcome, server, replay_ms) = restore(stage, &["--to-time", &moment], "restored").await?;
    let comparison = check_copy(stage, &server, "restored", journal, mistake.before).await?;
    server.stop(Duration::from_secs(30)).await?;
    stage.say(format!(
        "  {} rows and {} attachments compared, {} missing",
        comparison.rows_compared, comparison.attachments_referenced, comparison.attachments_missing
    ));
    Ok(Restored {
        moment: mistake.before,
        outcome,
        replay_ms,
        comparison,
    })
}

/// Restores to the end of what is left, and counts what is not there.
async fn restore_latest(stage: &Stage, journal: &Journal, disaster: Timestamp) -> anyhow::Result<Lost> {
    stage.say("And to the latest moment: what was lost at the end?");
    let (_, server, _) = restore(stage, &["--latest"], "latest").await?;
    let client = server.connect(DATABASE).await?;
    let row = client
        .query_one("SELECT coalesce(max(id), 0) FROM public.account_move", &[])
        .await?;
    let last: i32 = row.get(0);
    drop(client);
    server.stop(Duration::from_secs(30)).await?;
    let standing: Vec<_> = journal.at(disaster.plus_millis(60_000)).collect();
    let commits = standing.iter().filter(|(id, _)| *id > last).count();
    let newest = standing
        .iter()
        .find(|(id, _)| *id == last)
        .and_then(|(_, p)| p.committed)
        .unwrap_or(disaster);
    let lost = Lost {
        commits,
        span_ms: disaster.millis_since(newest),
        last_restorable: newest,
    };
    stage.say(format!(
        "  {} acknowledged commits of the last {} are not restorable",
        lost.commits,
        span(lost.span_ms)
    ));
    Ok(lost)
}

async fn prove(stage: &Stage, mistake: &Mistake) -> anyhow::Result<Proof> {
    let moment = mistake.before.to_string();
    let database = format!("database={DATABASE}");
    let minimum = format!("minimum={}", mistake.invoices);
    let query = format!("query=SELECT count(*) FROM account_move WHERE to_char(date, 'YYYY-MM') = '{MONTH}'");
    let drill_identity = at(stage, "keys/drill.agekey");
    let line = [
        "drill",
        "run",
        "--cluster",
        CLUSTER,
        "--scenario",
        "accidental-deletion",
        "--to-time",
        &moment,
        "--set",
        &database,
        "--set",
        &query,
        "--set",
        &minimum,
        "--identity",
        &drill_identity,
        "--accept-unreachable",
        "region-a",
    ];
    let drill: Value = stage.run_json(&line).await?;
    let id = drill["id"].as_str().context("the drill has no id")?.to_owned();
    let export = at(stage, "evidence");
    stage
        .run(&["evidence", "export", &id, "--directory", &export])
        .await?;
    stage.say("Its evidence, verified by holdfast, and with openssl and plain Python");
    let (own, report) = stage.attempt(&["evidence", "verify", &export]).await?;
    print!("{report}");
    let alone = verify_alone(stage, Path::new(&export)).await?;
    Ok(Proof {
        drill,
        verified: own.success(),
        verified_alone: alone,
        export: export.into(),
    })
}

/// Runs the exported verifier on nothing but the export and the root's fingerprint.
async fn verify_alone(stage: &Stage, export: &Path) -> anyhow::Result<bool> {
    let operator = fs::read_to_string(stage.path("holdfast.toml"))?;
    let root: toml::Value = toml::from_str(&operator)?;
    let root = root["repository"]["trust_root"]
        .as_str()
        .context("no trust root")?
        .to_owned();
    println!("           $ python3 evidence/verify.py --root {root} evidence");
    let output = tokio::process::Command::new("python3")
        .arg(export.join("verify.py"))
        .args(["--root", &root])
        .arg(export)
        .output()
        .await
        .context("running python3")?;
    print!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.status.success())
}
