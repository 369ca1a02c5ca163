//! `holdfast evidence` as people run it: a review by somebody who may and by those
//! who may not, a witness that notices a rewritten log, a zip that plain Python
//! verifies, and a month's coverage.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use holdfast_drills::evidence::entry::Entry;
use holdfast_proto::record::TrustRole;
use holdfast_repository::signing::SigningKey;
use holdfast_tests::evidence::{EvidenceScene, day};

/// Runs `holdfast evidence` in the scene's directory.
fn evidence(scene: &EvidenceScene, line: &[&str]) -> Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .arg("evidence")
        .args(line)
        .current_dir(scene.vault.dir())
        .env_remove("HOLDFAST_CONFIG")
        .output()?)
}

/// As [`evidence`]; it must end with `code` and say `words`.
fn ends(scene: &EvidenceScene, line: &[&str], code: i32, words: &str) -> Result<String> {
    let done = evidence(scene, line)?;
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(
        done.status.code() == Some(code) && said.contains(words),
        "{line:?} ended with {:?} and said, without {words:?}:\n{said}",
        done.status.code()
    );
    Ok(said)
}

async fn scene() -> Result<EvidenceScene> {
    let scene = EvidenceScene::new().await?;
    let text = format!(
        "[repository]\ntrust_root = \"{}\"\nreplicas = [\n  {{ url = \"file://{}\", region = \"region0\" }},\n  \
         {{ url = \"file://{}\", region = \"region1\" }},\n]\n",
        scene.vault.root(),
        scene.vault.place(0).display(),
        scene.vault.place(1).display(),
    );
    std::fs::write(scene.vault.dir().join("holdfast.toml"), text)?;
    Ok(scene)
}

async fn enrolled(scene: &EvidenceScene, name: &str, role: TrustRole) -> Result<()> {
    let key = SigningKey::generate_ed25519()?;
    key.save(&scene.vault.dir().join(format!("{name}-{role:?}.key")))?;
    scene.vault.enrol(name, role, &key).await
}

/// A restore's statement in the log, countersigned; its id.
async fn logged(scene: &mut EvidenceScene) -> Result<String> {
    scene.pass(day("10-01")).await?;
    let entry = scene.restore(day("10-01"), &scene.runner, |v| {
        v["predicate"]["actors"]["initiator"] = serde_json::json!("mia");
    })?;
    let Entry::Result(statement) = &entry.entry else {
        anyhow::bail!("no result");
    };
    let id = statement.predicate.drill.id.to_string();
    scene.leave(&entry).await?;
    scene.pass(day("10-02")).await?;
    Ok(id)
}

#[tokio::test]
async fn a_review_is_by_somebody_who_had_no_part() -> Result<()> {
    let mut scene = scene().await?;
    for (name, role) in [
        ("rita", TrustRole::Reviewer),
        ("otto", TrustRole::Reviewer),
        ("mia", TrustRole::Reviewer),
        ("runner-1", TrustRole::Reviewer),
        ("coordinator-1", TrustRole::Reviewer),
        ("rita", TrustRole::Approver),
    ] {
        enrolled(&scene, name, role).await?;
    }
    let id = logged(&mut scene).await?;
    let review = |key: &str, code, words: &str| ends(&scene, &["review", &id, "--key", key], code, words);
    review("mia-Reviewer.key", 1, "mia started it")?;
    review("runner-1-Reviewer.key", 1, "runner-1 ran it")?;
    review("coordinator-1-Reviewer.key", 1, "coordinator-1 countersigned it")?;
    review("rita-Approver.key", 1, "enrolled as Approver")?;
    review("rita-Reviewer.key", 0, "rita reviewed")?;
    review("rita-Reviewer.key", 0, "rita reviewed")?;
    review("otto-Reviewer.key", 1, "rita has reviewed")?;

    // The review travels with the evidence, in one file, and plain Python sees it.
    ends(&scene, &["export", &id, "--zip", "evidence.zip"], 0, "VERIFY.md")?;
    let said = python_verifies(scene.vault.dir(), "evidence", &scene.vault.root().to_string())?;
    ensure!(said.contains("signed by reviewer rita"), "{said}");
    ends(&scene, &["verify", "evidence"], 1, "UNTRUSTED")?;
    ends(
        &scene,
        &["verify", "evidence", "--config", "holdfast.toml"],
        0,
        "rita (Reviewer",
    )?;
    Ok(())
}

/// Unpacks `name.zip` with Python and runs the script that is in it.
fn python_verifies(dir: &Path, name: &str, root: &str) -> Result<String> {
    let unpack = Command::new("python3")
        .args(["-m", "zipfile", "-e", &format!("{name}.zip"), "."])
        .current_dir(dir)
        .status()?;
    ensure!(unpack.success(), "{name}.zip cannot be unpacked");
    let done = Command::new("python3")
        .args(["verify.py", "--root", root])
        .current_dir(dir.join(name))
        .output()?;
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(done.status.success(), "{said}");
    Ok(said)
}

#[tokio::test]
async fn a_witness_refuses_a_log_that_was_rewritten() -> Result<()> {
    let mut scene = scene().await?;
    let id = logged(&mut scene).await?;
    let who = [
        "witness",
        "--name",
        "auditor.example",
        "--key",
        "w.key",
        "--state",
        "w.json",
    ];
    let first = [&who[..], &["--first"]].concat();
    ends(&scene, &who, 64, "say --first")?;
    ends(&scene, &first, 0, "the first look")?;
    ends(&scene, &first, 64, "has looked at a log before")?;
    ends(&scene, &who, 0, "Nothing is new")?;
    let key = ends(
        &scene,
        &[&who[..], &["--show-key"]].concat(),
        0,
        "auditor.example+",
    )?;
    let key = key.trim().to_owned();

    // From an export alone: hashes in, a cosignature out, which the operator adds.
    scene.pass(day("10-03")).await?;
    ends(&scene, &["export", &id, "--directory", "export"], 0, "VERIFY.md")?;
    let apart = [&who[..], &["--export", "export", "--out", "note"]].concat();
    ends(&scene, &apart, 0, "they begin with the")?;
    let add = ["add-cosignature", "note", "--witness", &key];
    ends(&scene, &add, 0, "auditor.example saw")?;
    let other = ends(
        &scene,
        &[
            "witness",
            "--name",
            "other.example",
            "--key",
            "o.key",
            "--show-key",
        ],
        0,
        "other.example+",
    )?;
    let other = other.lines().find(|l| l.starts_with("other")).context("no key")?;
    ends(
        &scene,
        &["add-cosignature", "note", "--witness", other],
        1,
        "not signed by",
    )?;

    // The newest entry goes, on every replica, and the coordinator signs what is left.
    let entries = scene.log().await?.store().size().await?;
    for region in 0..2 {
        let log = scene.vault.place(region).join("evidence/log");
        std::fs::remove_file(log.join(format!("entries/{:016}", entries - 1)))?;
        std::fs::remove_dir_all(log.join("checkpoints"))?;
    }
    scene.keeper = Default::default();
    scene.pass(day("10-02")).await?;
    ends(&scene, &who, 1, "it was cut back")?;
    Ok(())
}

#[tokio::test]
async fn a_month_is_shown_signed_and_exported() -> Result<()> {
    let mut scene = scene().await?;
    scene.pass(day("10-01")).await?;
    scene.announce(day("11-13")).await?;
    scene.pass(day("11-14")).await?;
    let november = ["coverage", "--month", "2026-11"];
    ends(&scene, &november, 1, "NOT SIGNED")?;
    let zip = [&november[..], &["--zip", "november.zip"]].concat();
    ends(&scene, &zip, 1, "is not signed yet")?;
    scene.pass(day("12-02")).await?;
    ends(&scene, &november, 1, "Signed by the coordinator")?;
    ends(&scene, &["coverage", "--month", "2026-13"], 64, "is not a month")?;
    ends(
        &scene,
        &[&november[..], &["--tenant", "other"]].concat(),
        64,
        "it lists those of: acme",
    )?;
    ends(&scene, &zip, 0, "VERIFY.md")?;
    let said = python_verifies(scene.vault.dir(), "november", &scene.vault.root().to_string())?;
    ensure!(said.contains("4 expected, 1 executed, 0 passed"), "{said}");
    ends(
        &scene,
        &["verify", "november", "--config", "holdfast.toml"],
        0,
        "4 drills expected, 0 passed, 0 with exceptions, 1 failed, 3 missed",
    )?;
    Ok(())
}
