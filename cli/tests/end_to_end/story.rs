//! The story, and all that it asserts, wherever the repository lies.

use anyhow::{Context, Result, ensure};
use holdfast_proto::Timestamp;
use holdfast_proto::pg::Lsn;
use serde_json::Value;

use super::books::{DATABASE, Journal, MISTAKEN, Office, compare};
use super::place::{Place, REGIONS};
use super::stage::{CLUSTER, COLLECTOR_DELAY, FILESTORE, Protection, Stage, each, subjects};

/// Tells it.
pub fn tell(place: Place) -> Result<()> {
    let on_s3 = matches!(place, Place::S3(_));
    let mut stage = Stage::set(place)?;
    stage.found()?;
    let mut office = stage.open_office()?;
    let mut protection = stage.protect()?;

    let writer = office.write_on();
    wait_protected(&stage, &mut protection)?;
    office.wait_posted(&writer, 5)?;
    writer.stop()?;
    let before = office.now()?;
    let known_before = office.journal();
    let unreferenced = office.make_mistake()?;
    let writer = office.write_on();
    office.collect(&unreferenced, COLLECTOR_DELAY)?;
    office.wait_posted(&writer, 5)?;
    writer.stop()?;
    let known_at_last = office.journal();
    wait_safe(&stage, &office, &mut protection)?;
    check_status(&stage, &mut protection, on_s3)?;

    let Protection { coordinator, agent } = protection;
    office.server.kill9()?;
    agent.kill()?;
    stage.wait_sound()?;
    std::fs::remove_dir_all(office.server.data_dir())?;
    std::fs::remove_dir_all(&office.filestore)?;
    stage.lose_the_first_region()?;
    let root_key = stage.text("keys/root.key");
    stage.run(
        "operator",
        &[
            "repo",
            "authority",
            "--region",
            REGIONS[1],
            "--root-key",
            &root_key,
        ],
    )?;

    check_points(&stage)?;
    check_plan(&stage, &before)?;
    check_restored(&stage, &["--to-time", &before], "before", &known_before)?;
    check_restored(&stage, &["--latest"], "latest", &known_at_last)?;
    check_drill(&stage, &before)?;
    check_verify(&stage)?;
    coordinator.stop()
}

/// Waits until a base backup and joint points lie in both regions.
pub fn wait_protected(stage: &Stage, protection: &mut Protection) -> Result<()> {
    protection.until("a base backup and two joint points lie in both regions", || {
        let points = stage.points()?;
        let count = |what: &str| -> usize {
            each(&points["intervals"])
                .iter()
                .map(|i| each(&i[what]).len())
                .sum()
        };
        Ok(count("bases") >= 1 && count("points") >= 2 && each(&points["holdings"]).len() == REGIONS.len())
    })?;
    protection.until("the newest base is in both regions", || {
        Ok(each(&stage.status()?["last_base"]["regions"]).len() == REGIONS.len())
    })
}

/// Waits until everything committed so far is in both regions, and a joint point
/// lies behind it.
pub fn wait_safe(stage: &Stage, office: &Office, protection: &mut Protection) -> Result<()> {
    let lsn: Lsn = office
        .server
        .psql("SELECT pg_current_wal_insert_lsn()")?
        .parse()?;
    let now: Timestamp = office.now()?.parse()?;
    protection.until("all that was committed is in both regions", || {
        let points = stage.points()?;
        let reaches = |holding: &Value| {
            let end = each(&holding["runs"]).last().and_then(|run| run[1].as_str());
            end.and_then(|end| end.parse::<Lsn>().ok())
                .is_some_and(|end| end >= lsn)
        };
        let holding = each(&points["holdings"]);
        let later = |point: &Value| {
            let at = point["at"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
            at.is_some_and(|at| at > now)
        };
        Ok(holding.len() == REGIONS.len()
            && holding.iter().all(reaches)
            && each(&points["points"]).iter().any(later))
    })
}

/// What the coordinator says while all is well.
fn check_status(stage: &Stage, protection: &mut Protection, on_s3: bool) -> Result<()> {
    protection.until("the coordinator measures that the objective is met", || {
        Ok(stage.status()?["rpo"]["standing"] == "met")
    })?;
    let status = stage.status()?;
    let findings = &status["findings"];
    // What the configuration accepts is said, and what is not there is not.
    let (accepted, unversioned) = if on_s3 {
        (&REGIONS[..], &[][..])
    } else {
        (&[][..], &REGIONS[..])
    };
    ensure!(
        subjects(findings, "create-not-enforced") == accepted,
        "{findings:#}"
    );
    ensure!(
        subjects(findings, "versioning-off") == unversioned,
        "{findings:#}"
    );
    ensure!(subjects(findings, "object-lock-off").is_empty(), "{findings:#}");
    let worst = each(findings).iter().find(|f| f["severity"] == "critical");
    ensure!(worst.is_none(), "{worst:#?}");
    Ok(())
}

/// What is left is restorable, and what is lost is named.
fn check_points(stage: &Stage) -> Result<()> {
    let points = stage.points()?;
    let away: Vec<&Value> = each(&points["replicas"])
        .iter()
        .filter(|replica| !replica["unreachable"].is_null())
        .map(|replica| &replica["region"])
        .collect();
    ensure!(away == [REGIONS[0]], "{:#}", points["replicas"]);
    ensure!(each(&points["gaps"]).is_empty(), "{:#}", points["gaps"]);
    ensure!(each(&points["intervals"]).len() == 1, "{:#}", points["intervals"]);
    Ok(())
}

fn check_plan(stage: &Stage, before: &str) -> Result<()> {
    // The latest moment may lie in the region that is gone; a moment that the log
    // has passed does not.
    let latest = ["restore", "plan", "--cluster", CLUSTER, "--latest"];
    let refused = stage.attempt("restorer", &latest)?;
    let why = String::from_utf8_lossy(&refused.stderr);
    let says = why.contains(REGIONS[0]) && why.contains("--accept-unreachable");
    ensure!(refused.status.code() == Some(1) && says, "{why}");
    let plan = stage.json(
        "restorer",
        &["restore", "plan", "--cluster", CLUSTER, "--to-time", before],
    )?;
    let filestores: Vec<&Value> = each(&plan["filestores"])
        .iter()
        .map(|f| &f["filestore"])
        .collect();
    ensure!(filestores == [FILESTORE], "{plan:#}");
    Ok(())
}

/// Restores to `moment`, and the copy is what was known then.
fn check_restored(stage: &Stage, moment: &[&str], name: &str, known: &Journal) -> Result<()> {
    let printed = stage.restore(moment, name, &["--accept-unreachable", REGIONS[0], "--json"])?;
    let outcome: Value = serde_json::from_str(&printed)?;
    // What may be said is that a region is away.
    let others: Vec<&Value> = each(&outcome["findings"])
        .iter()
        .filter(|f| f["name"] != "replica-unreachable")
        .collect();
    ensure!(others.is_empty(), "{others:#?}");
    let copy = stage.start_copy(name)?;
    compare(&copy, &stage.path(&format!("{name}/filestore")), known)
        .with_context(|| format!("the copy {name}"))
}

fn check_drill(stage: &Stage, before: &str) -> Result<()> {
    let identity = stage.text("keys/drill.agekey");
    let line = [
        "drill",
        "run",
        "--cluster",
        CLUSTER,
        "--scenario",
        "accidental-deletion",
        "--to-time",
        before,
    ];
    let database = format!("database={DATABASE}");
    let query = format!("query=SELECT count(*) FROM account_move WHERE id <= {MISTAKEN}");
    let minimum = format!("minimum={MISTAKEN}");
    let settings = ["--set", &database, "--set", &query, "--set", &minimum];
    let access = ["--identity", &identity, "--accept-unreachable", REGIONS[0]];
    let drill = stage.json("restorer", &[&line[..], &settings, &access].concat())?;
    ensure!(
        drill["verdict"] == "PASS" && drill["countersigned"] == true,
        "{drill:#}"
    );
    let id = drill["id"].as_str().context("the drill has no id")?;
    let export = stage.text("evidence");
    stage.run("restorer", &["evidence", "export", id, "--directory", &export])?;
    stage.run("restorer", &["evidence", "verify", &export])?;
    // Evidence that was touched does not verify.
    let envelope = stage.path("evidence/envelope.json");
    let mut bytes = std::fs::read(&envelope)?;
    let middle = bytes.len() / 2;
    bytes[middle] = if bytes[middle] == b'A' { b'B' } else { b'A' };
    std::fs::write(&envelope, bytes)?;
    let refused = stage.attempt("restorer", &["evidence", "verify", &export])?;
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    Ok(())
}

/// A region that is away is the one thing that is wrong with what is left.
fn check_verify(stage: &Stage) -> Result<()> {
    let line = ["verify", "--cluster", CLUSTER, "--deep", "--json"];
    let verified = stage.attempt("restorer", &line)?;
    ensure!(verified.status.code() == Some(1), "{verified:?}");
    let report: Value = serde_json::from_slice(&verified.stdout)?;
    let findings = each(&report["findings"]);
    let found: Vec<(&Value, &Value)> = findings.iter().map(|f| (&f["name"], &f["subject"])).collect();
    ensure!(
        found == [(&Value::from("replica-unreachable"), &Value::from(REGIONS[0]))],
        "{found:#?}"
    );
    ensure!(
        report["copies_verified"]
            .as_u64()
            .is_some_and(|n| n == report["objects"]),
        "{report:#}"
    );
    Ok(())
}
