//! What only a store with versions can stand: credentials in a thief's hands, and
//! a store that stalls while it is written to.

use anyhow::{Context, Result, ensure};
use holdfast_tests::postgres::StopMode;
use serde_json::Value;

use super::books::{Journal, Office, compare};
use super::place::{Buckets, Place, REGIONS};
use super::stage::{CLUSTER, Protection, Stage, each, subjects};
use super::story::{wait_protected, wait_safe};

/// What the thief puts in an object's place.
const FORGED: &[u8] = b"This is not a backup any more.";

#[test]
fn a_thief_of_the_agents_credentials_destroys_nothing() -> Result<()> {
    let Some(place) = Place::s3()? else {
        return Ok(());
    };
    let stage = Stage::set(place)?;
    stage.found()?;
    let office = stage.open_office()?;
    let mut protection = stage.protect()?;
    let writer = office.write_on();
    wait_protected(&stage, &mut protection)?;
    survive_a_stall(&stage, &mut protection)?;
    office.wait_posted(&writer, 5)?;
    writer.stop()?;
    let (before, known) = (office.now()?, office.journal());
    // A commit behind the moment ends the search for it.
    office.make_mistake()?;
    wait_safe(&stage, &office, &mut protection)?;
    let Protection { coordinator, agent } = protection;
    agent.stop()?;
    shut(office)?;
    stage.wait_sound()?;
    coordinator.stop()?;

    let Place::S3(buckets) = &stage.place else {
        unreachable!("the place is on S3");
    };
    let forged = overwrite(buckets)?;
    check_restored(&stage, &before, &known, &forged)?;
    check_seen_by_a_person(&stage, &before, &forged)?;
    check_verify(&stage, &forged)
}

/// The line to the first region is held until the coordinator says that too much
/// would be lost; then it is released, and all is well again by itself.
fn survive_a_stall(stage: &Stage, protection: &mut Protection) -> Result<()> {
    let Place::S3(buckets) = &stage.place else {
        unreachable!("the place is on S3");
    };
    let standing = || Ok::<_, anyhow::Error>(stage.status()?["rpo"]["standing"].clone());
    protection.until("the objective is met", || Ok(standing()? == "met"))?;
    buckets.lines[0].hold();
    protection.until("the stall is noticed", || {
        let standing = standing()?;
        Ok(standing == "missed" || standing == "unknown")
    })?;
    buckets.lines[0].release();
    protection.until("the objective is met again", || Ok(standing()? == "met"))
}

/// The office closes in order.
fn shut(mut office: Office) -> Result<()> {
    office.server.stop(StopMode::Fast)
}

/// What was overwritten.
struct Forged {
    manifest: String,
    pack: String,
    wal: String,
}

impl Forged {
    fn keys(&self) -> [&str; 3] {
        [&self.manifest, &self.pack, &self.wal]
    }
}

/// Overwrites, with the agent's own credentials and in both regions, a base's
/// manifest, the largest pack, and the WAL between the base and the target.
fn overwrite(buckets: &Buckets) -> Result<Forged> {
    let agent = buckets.service.user("agent");
    let prefix = format!("tenants/{}/", CLUSTER.replace('/', "/clusters/"));
    let bucket = &buckets.names[0];
    let keys = agent.keys(bucket, &prefix)?;
    let one = |part: &str| keys.iter().filter(|key| key.contains(part)).collect::<Vec<_>>();
    let size = |key: &String| -> Result<usize> {
        Ok(agent
            .must("GET", &format!("{bucket}/{key}"), "", &[], b"")?
            .body
            .len())
    };
    let mut pack: Option<(usize, &String)> = None;
    for key in one("/packs/") {
        pack = pack.max(Some((size(key)?, key)));
    }
    let wal: Vec<&String> = keys
        .iter()
        .filter(|key| key.contains("/wal/") && !key.ends_with(".history"))
        .collect();
    let forged = Forged {
        manifest: one("/base/").first().context("there is no base")?.to_string(),
        pack: pack.context("there is no pack")?.1.clone(),
        // The last holds the commit behind the target.
        wal: wal
            .get(wal.len().saturating_sub(2))
            .context("there is no WAL")?
            .to_string(),
    };
    for bucket in &buckets.names {
        for key in forged.keys() {
            let path = format!("{bucket}/{key}");
            agent.must("PUT", &path, "", &[], FORGED)?;
            let seen = agent.must("GET", &path, "", &[], b"")?;
            ensure!(seen.body == FORGED, "{key} was not overwritten");
        }
    }
    Ok(forged)
}

/// Restores everything, and the findings name each object.
fn check_restored(stage: &Stage, before: &str, known: &Journal, forged: &Forged) -> Result<()> {
    let printed = stage.restore(&["--to-time", before], "restored", &["--json"])?;
    let outcome: Value = serde_json::from_str(&printed)?;
    let findings = &outcome["findings"];
    let overwritten = subjects(findings, "object-overwritten");
    for key in forged.keys() {
        ensure!(
            overwritten.contains(&format!("{}:{key}", REGIONS[0]).as_str()),
            "{key} is not in {findings:#}"
        );
    }
    let told = each(findings).iter().find(|f| f["name"] == "object-overwritten");
    let told = told.and_then(|f| f["detail"].as_str()).unwrap_or_default();
    ensure!(told.contains("replace the credentials"), "{told}");

    let copy = stage.start_copy("restored")?;
    compare(&copy, &stage.path("restored/filestore"), known)?;
    // What recovery met by itself is noted beside its pin, and in the server's log.
    let notes = std::fs::read_to_string(stage.path("restored/data/holdfast_restore/findings.jsonl"))?;
    ensure!(
        notes.contains("object-overwritten") && notes.contains(&forged.wal),
        "{notes}"
    );
    Ok(())
}

/// Plan and restore say it in words, too.
fn check_seen_by_a_person(stage: &Stage, before: &str, forged: &Forged) -> Result<()> {
    let planned = stage.run(
        "restorer",
        &["restore", "plan", "--cluster", CLUSTER, "--to-time", before],
    )?;
    let restored = stage.restore(&["--to-time", before], "again", &[])?;
    let line = |text: &str, key: &str| {
        text.lines()
            .any(|line| line.contains("Critical object-overwritten") && line.contains(key))
    };
    for key in [&forged.manifest, &forged.wal] {
        ensure!(line(&planned, key), "{key} is not in\n{planned}");
    }
    for key in forged.keys() {
        ensure!(line(&restored, key), "{key} is not in\n{restored}");
    }
    Ok(())
}

/// The repository's integrity is not given, in each region and for each object;
/// and for nothing else.
fn check_verify(stage: &Stage, forged: &Forged) -> Result<()> {
    let mut wanted: Vec<String> = Vec::new();
    for region in REGIONS {
        wanted.extend(forged.keys().map(|key| format!("{region}:{key}")));
    }
    wanted.sort();
    for depth in [&[][..], &["--deep"]] {
        let line = [&["verify", "--cluster", CLUSTER, "--json"][..], depth].concat();
        let verified = stage.attempt("restorer", &line)?;
        ensure!(verified.status.code() == Some(1), "{verified:?}");
        let report: Value = serde_json::from_slice(&verified.stdout)?;
        let mut found = subjects(&report["findings"], "object-overwritten");
        found.sort_unstable();
        ensure!(found == wanted, "{found:#?} instead of {wanted:#?}");
        let original = |finding: &Value| {
            finding["detail"]
                .as_str()
                .is_some_and(|d| d.contains("is the original"))
        };
        let told = each(&report["findings"])
            .iter()
            .filter(|f| f["name"] == "object-overwritten");
        ensure!(told.clone().all(original), "{report:#}");
    }
    Ok(())
}
