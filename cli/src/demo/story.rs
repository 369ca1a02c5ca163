//! What happens, in order.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use holdfast_drills::scratch::PrivateServer;
use holdfast_plan::policy::Tier;
use holdfast_proto::Timestamp;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::books::{self, DATABASE, Filestore, MONTH};
use super::comparison::{Comparison, compare};
use super::loss::Loss;
use super::stage::{CLUSTER, Daemon, FILESTORE, Stage, free_port};
use super::summary::{Facts, Measured, Proof, Restored, Steps, Summary, Targets, Work};
use super::writer::{self, Journal, Mistake, POST_EVERY, SharedJournal};
use crate::screen::{self, span};

/// The tier of the cluster.
const TIER: &str = "platinum";
/// The longest that anything may take that should take seconds.
const PATIENCE: Duration = Duration::from_secs(180);

/// Tells the story. Gives back how it ends, and the coordinator, which still runs.
pub async fn tell(stage: &Stage) -> anyhow::Result<(Summary, Daemon)> {
    stage.say(format!(
        "Everything lies in {}; commands are shown as they are typed there",
        stage.root().display()
    ));
    stage.say("Keys, a repository in two regions, and who is believed");
    found(stage).await?;

    stage.say(format!(
        "A PostgreSQL {} with an ERP's invoices, and a filestore beside it",
        stage.postgres().get()
    ));
    let (primary, people) = open_office(stage).await?;

    stage.say("Protection: a coordinator and an agent, as separate processes");
    let mut coordinator = stage.daemon(
        "coordinator",
        &["coordinator", "run", "--config", &at(stage, "coordinator.toml")],
    )?;
    let mut agent = stage.daemon("agent", &["agent", "run", "--config", &at(stage, "agent.toml")])?;
    wait_protected(stage, &people, &mut agent, &mut coordinator).await?;

    stage.say(format!(
        "A mistake: somebody deletes the invoices of {MONTH} with their attachments"
    ));
    let mistake = people.make_mistake(&primary).await?;
    stage.say(format!(
        "  {} invoices are gone since {}",
        mistake.invoices,
        screen::moment(mistake.committed)
    ));
    let collected = people.wait_collected(stage, mistake.invoices, &mut agent).await?;

    stage.say("The disaster: SIGKILL to the primary and the agent; data, filestore and region-a are removed");
    let (journal, disaster) = strike(stage, primary, people, agent).await?;

    let mut recovery = Recovery::begin(stage);
    stage.say("Region-a decided who wins races; it is gone, so the root key names region-b");
    recovery
        .command(
            "name the deciding region",
            &[
                "repo",
                "authority",
                "--region",
                "region-b",
                "--root-key",
                "keys/root.key",
            ],
        )
        .await?;
    stage.say("What is restorable, from what is left");
    recovery
        .command("look at the points", &["points", "--cluster", CLUSTER])
        .await?;
    let restored = restore_before(&mut recovery, &journal, &mistake).await?;
    let (loss, latest) = restore_latest(stage, &journal).await?;

    stage.say("A drill: accidental-deletion, level L3, in a scratch namespace");
    let proof = prove(stage, &mistake).await?;
    coordinator.check()?;

    let tier = Tier::shipped()
        .values()
        .find(|tier| tier.name.as_str() == TIER)
        .with_context(|| format!("no tier {TIER} is shipped"))?
        .clone();
    let facts = Facts {
        targets: Targets {
            tier: TIER.into(),
            rpo_ms: tier.rpo.millis(),
            rto_ms: tier.rto.millis(),
        },
        postgres: stage.postgres().get(),
        work: Work {
            posted: journal.posted(),
            post_every_ms: POST_EVERY.as_millis() as u64,
            longest_pause_ms: journal.longest_pause().as_millis() as u64,
            mistake: mistake.committed,
            deleted: mistake.invoices,
            collected,
            disaster,
        },
        loss,
        restored,
        latest,
        proof,
    };
    let measured = Measured {
        elapsed_ms: stage.elapsed_ms(),
        directory: stage.root().to_owned(),
    };
    let summary = Summary::judge(facts, measured);
    summary.write(&stage.path("summary.json"))?;
    Ok((summary, coordinator))
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
    let major = stage.postgres().get().to_string();
    let grants = stage
        .run(&["agent", "sql", "--role", "holdfast", "--major", &major])
        .await?;
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

    let journal: SharedJournal = Arc::new(Mutex::new(Journal::opened(attachments, Instant::now())));
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

    /// Goes on working until the collector has deleted the month's files. Gives
    /// back how many.
    async fn wait_collected(&self, stage: &Stage, files: usize, agent: &mut Daemon) -> anyhow::Result<usize> {
        stage.say("Work goes on; the collector deletes the files that nothing references any more");
        let collected = || self.collected.load(Ordering::Relaxed);
        wait_until("the collector has deleted the month's files", async || {
            agent.check()?;
            self.check()?;
            Ok(collected() >= files)
        })
        .await?;
        stage.say(format!("  {} files are gone from the filestore", collected()));
        // A little more work, so that there is a tail to lose.
        let before = self.posted();
        wait_until("more invoices are posted", async || {
            self.check()?;
            Ok(self.posted() >= before + 100)
        })
        .await?;
        Ok(collected())
    }

    fn posted(&self) -> usize {
        self.journal
            .lock()
            .expect("no holder of the journal panics")
            .posted()
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(
            !self.writer.is_finished(),
            "the writer ended before the disaster: see primary/run/postgres.log"
        );
        ensure!(
            !self.collector.is_finished(),
            "the collector ended before the disaster: see primary/run/postgres.log"
        );
        Ok(())
    }
}

async fn wait_until(
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
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(result) => result,
        Err(_) => bail!(
            "{} s went by and it did not come true: {what}. See the logs",
            PATIENCE.as_secs()
        ),
    }
}

/// Waits until a base backup and joint points are complete in both regions.
async fn wait_protected(
    stage: &Stage,
    people: &People,
    agent: &mut Daemon,
    coordinator: &mut Daemon,
) -> anyhow::Result<()> {
    // The agent tells how far it is with its heartbeats: no bar before the first.
    let mut bar = None;
    let began = Instant::now();
    wait_until("a base backup is in the repository", async || {
        agent.check()?;
        coordinator.check()?;
        people.check()?;
        let status = cluster_status(stage).await?;
        for work in status["work"].as_array().into_iter().flatten() {
            let progress = [work["progress"][0].as_u64(), work["progress"][1].as_u64()];
            if let (Some("base-backup"), [Some(done), Some(total)]) = (work["work"].as_str(), progress)
                && total > 0
            {
                let bar = bar.get_or_insert_with(|| screen::byte_bar(total, "base"));
                bar.set_length(total);
                bar.set_position(done);
            }
        }
        Ok(!status["last_base"].is_null())
    })
    .await?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let took = began.elapsed().as_millis() as u64;
    stage.say(format!(
        "  the base backup is in the repository after {}",
        span(took)
    ));
    let mut points = (0, 0);
    wait_until("two joint points are in both regions", async || {
        agent.check()?;
        coordinator.check()?;
        people.check()?;
        let (_, text) = stage.ask(&["points", "--cluster", CLUSTER, "--json"]).await?;
        let report: Value = serde_json::from_str(&text).context("the JSON of holdfast points")?;
        let intervals = report["intervals"].as_array().into_iter().flatten();
        let joint: usize = intervals
            .filter_map(|i| i["points"].as_array().map(Vec::len))
            .sum();
        let regions = report["holdings"].as_array().map_or(0, Vec::len);
        if (joint, regions) != points {
            points = (joint, regions);
            stage.say(format!(
                "  {joint} joint point(s) of database and filestore, WAL in {regions} region(s)"
            ));
        }
        Ok(joint >= 2 && regions == 2)
    })
    .await?;
    let status = cluster_status(stage).await?;
    if let Some(now) = status["rpo"]["now_ms"].as_u64() {
        stage.say(format!(
            "  the coordinator measures on the repository: at most {} would be lost now",
            span(now)
        ));
    }
    stage.say(format!("  meanwhile {} invoices were posted", people.posted()));
    Ok(())
}

/// What the coordinator knows of the cluster; null while it knows nothing.
async fn cluster_status(stage: &Stage) -> anyhow::Result<Value> {
    let (status, text) = stage.ask(&["status", "--json"]).await?;
    if !status.success() {
        return Ok(Value::Null);
    }
    let mut answer: Value = serde_json::from_str(&text).context("the JSON of holdfast status")?;
    Ok(answer["clusters"][0].take())
}

/// Everything is lost. Returns what the writer knew, and when.
async fn strike(
    stage: &Stage,
    mut primary: PrivateServer,
    people: People,
    agent: Daemon,
) -> anyhow::Result<(Journal, Timestamp)> {
    people.check()?;
    primary.kill();
    agent.kill().await?;
    let (disaster, over) = (Timestamp::from_chrono(chrono::Utc::now()), Instant::now());
    people.stop.cancel();
    // Both end with an error: their database is gone. That is the story.
    let _ = people.writer.await?;
    let _ = people.collector.await?;
    for gone in ["primary/data", "primary/filestore", "region-a"] {
        fs::remove_dir_all(stage.path(gone)).with_context(|| format!("removing {gone}"))?;
    }
    let mut journal = people
        .journal
        .lock()
        .expect("no holder of the journal panics")
        .clone();
    journal.paused_until(over);
    stage.say(format!(
        "  {} invoices had been posted since the start, never with a pause over {}",
        journal.posted(),
        span(journal.longest_pause().as_millis() as u64)
    ));
    Ok((journal, disaster))
}

/// The way back, step by step, on the clock.
struct Recovery<'a> {
    stage: &'a Stage,
    began: Instant,
    steps: Steps,
}

impl<'a> Recovery<'a> {
    /// Everything is gone; the clock runs.
    fn begin(stage: &'a Stage) -> Self {
        Self {
            stage,
            began: Instant::now(),
            steps: Steps::default(),
        }
    }

    /// A command of the operator that reads or decides.
    async fn command(&mut self, step: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let began = Instant::now();
        let text = self.stage.run(arguments).await?;
        self.steps.add(step, began.elapsed());
        self.stage.quote(&text);
        Ok(())
    }

    /// Restores, and starts the copy.
    async fn restore(&mut self, target: &[&str], name: &str) -> anyhow::Result<(Value, PrivateServer)> {
        let began = Instant::now();
        let (data, filestore) = (format!("{name}/data"), format!("{FILESTORE}={name}/filestore"));
        let mut line = vec!["restore", "run", "--cluster", CLUSTER];
        line.extend(target);
        line.extend(["--target", &data, "--filestore", &filestore]);
        line.extend(["--accept-unreachable", "region-a"]);
        let outcome: Value = self.stage.run_json(&line).await?;
        self.steps.add_restore(&outcome, began.elapsed())?;
        let began = Instant::now();
        let server = self.stage.start_server(self.stage.copy(name)).await?;
        self.steps.add("start and replay", began.elapsed());
        Ok((outcome, server))
    }
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

async fn restore_before(
    recovery: &mut Recovery<'_>,
    journal: &Journal,
    mistake: &Mistake,
) -> anyhow::Result<Restored> {
    let stage = recovery.stage;
    let moment = mistake.before.to_string();
    stage.say("A plan for the moment before the mistake");
    let mut plan = vec!["restore", "plan", "--cluster", CLUSTER, "--to-time", &moment];
    plan.extend(["--accept-unreachable", "region-a"]);
    recovery.command("plan the restore", &plan).await?;
    stage.say("The restore");
    let (outcome, server) = recovery.restore(&["--to-time", &moment], "restored").await?;
    let measured_ms = recovery.began.elapsed().as_millis() as u64;
    stage.say(format!(
        "  the copy runs, {} after everything was gone",
        span(measured_ms)
    ));
    let comparison = check_copy(stage, &server, "restored", journal, mistake.before).await?;
    server.stop(Duration::from_secs(30)).await?;
    stage.say(format!(
        "  {} rows and {} attachments compared, {} missing",
        comparison.rows_compared, comparison.attachments_referenced, comparison.attachments_missing
    ));
    Ok(Restored {
        moment: mistake.before,
        measured_ms,
        steps: std::mem::take(&mut recovery.steps),
        outcome,
        comparison,
    })
}

/// Restores to the end of what is left, and counts what is not there.
async fn restore_latest(stage: &Stage, journal: &Journal) -> anyhow::Result<(Loss, Comparison)> {
    stage.say("And to the latest moment: what was lost at the end?");
    let (_, server) = Recovery::begin(stage).restore(&["--latest"], "latest").await?;
    let client = server.connect(DATABASE).await?;
    let files = stage.path("latest/filestore");
    let copy: BTreeMap<i32, bool> = client
        .query(
            "SELECT m.id, a.store_fname FROM public.account_move m
             LEFT JOIN public.ir_attachment a ON a.res_model = 'account.move' AND a.res_id = m.id",
            &[],
        )
        .await?
        .iter()
        .map(|row| {
            let name: Option<String> = row.get(1);
            (row.get(0), name.is_some_and(|name| files.join(name).is_file()))
        })
        .collect();
    drop(client);
    let loss = Loss::of(journal, &copy);
    let end = loss.last_restorable.unwrap_or(Timestamp::from_unix_micros(0));
    let comparison = check_copy(stage, &server, "latest", journal, end).await?;
    server.stop(Duration::from_secs(30)).await?;
    stage.say(format!(
        "  {} acknowledged commits, of the last {}, are not restorable",
        loss.commits,
        span(loss.span_ms)
    ));
    stage.say(format!(
        "  with attachments, all of it is restorable up to {} before the last commit",
        span(loss.joint_span_ms)
    ));
    Ok((loss, comparison))
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
    let export = "evidence";
    stage
        .run(&["evidence", "export", &id, "--directory", export])
        .await?;
    stage.say("Its evidence, verified by holdfast, and with openssl and plain Python");
    let (own, report) = stage.attempt(&["evidence", "verify", export]).await?;
    stage.quote(&report);
    let alone = verify_alone(stage, Path::new(export)).await?;
    Ok(Proof {
        drill,
        verified: own.success(),
        verified_alone: alone,
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
    let (script, export) = (
        export.join("verify.py").display().to_string(),
        export.display().to_string(),
    );
    let arguments = [script.as_str(), "--root", &root, &export];
    let mut line = vec!["python3"];
    line.extend(arguments);
    stage.show(&line, "");
    let output = stage
        .command("python3")
        .args(arguments)
        .env_remove("HOLDFAST_CONFIG")
        .output()
        .await
        .context("running python3")?;
    stage.quote(&String::from_utf8_lossy(&output.stdout));
    Ok(output.status.success())
}
