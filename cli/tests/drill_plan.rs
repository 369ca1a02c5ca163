//! `holdfast drill plan` and `holdfast drill next` as a person runs them.

use std::process::{Command, Output};

use anyhow::{Result, ensure};
use holdfast_tests::evidence::{EvidenceScene, day};

fn drill(scene: &EvidenceScene, line: &[&str]) -> Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .arg("drill")
        .args(line)
        .current_dir(scene.vault.dir())
        .env_remove("HOLDFAST_CONFIG")
        .output()?)
}

/// As [`drill`]; it must end with `code` and say `words`.
fn ends(scene: &EvidenceScene, line: &[&str], code: i32, words: &str) -> Result<String> {
    let done = drill(scene, line)?;
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(
        done.status.code() == Some(code) && said.contains(words),
        "{line:?} ended with {:?} and said, without {words:?}:\n{said}",
        done.status.code()
    );
    Ok(said)
}

async fn scene(policy: &str) -> Result<EvidenceScene> {
    let mut scene = EvidenceScene::new().await?;
    scene.pass(day("10-01")).await?;
    let text = format!(
        "{policy}[repository]\ntrust_root = \"{}\"\nreplicas = [{{ url = \"file://{}\", region = \"region0\" }}, \
         {{ url = \"file://{}\", region = \"region1\" }}]\n",
        scene.vault.root(),
        scene.vault.place(0).display(),
        scene.vault.place(1).display(),
    );
    std::fs::write(scene.vault.dir().join("holdfast.toml"), text)?;
    let policy = "[[cluster]]\ncluster = \"acme/erp\"\ntier = \"gold\"\n\n[[cluster]]\ncluster = \"acme/crm\"\ntier = \"bronze\"\n";
    std::fs::write(scene.vault.dir().join("policy.toml"), policy)?;
    Ok(scene)
}

#[tokio::test]
async fn the_plan_says_what_is_wanted_and_what_keeps_it() -> Result<()> {
    let scene = scene("policy = \"policy.toml\"\n").await?;
    // Nothing was backed up yet: everything is wanted, and nothing can be run.
    ends(&scene, &["plan"], 0, "Nothing is due")?;
    let all = ends(&scene, &["plan", "--all"], 0, "held: nothing can be restored")?;
    ensure!(all.contains("acme/erp") && all.contains("acme/crm"), "{all}");
    ensure!(all.contains("because it was never proven"), "{all}");
    let one = ends(&scene, &["plan", "--all", "--cluster", "acme/crm"], 0, "acme/crm")?;
    ensure!(!one.contains("acme/erp"), "{one}");
    let json = ends(&scene, &["plan", "--all", "--json"], 0, "\"because\"")?;
    let rows: serde_json::Value = serde_json::from_str(&json)?;
    let rows = rows.as_array().map_or(0, Vec::len);
    ensure!(rows >= 2, "{json}");
    ends(&scene, &["next"], 0, "Nothing is due")?;
    ends(
        &scene,
        &["plan", "--cluster", "acme/none"],
        64,
        "does not name acme/none",
    )?;
    Ok(())
}

#[tokio::test]
async fn without_a_policy_nothing_can_be_planned() -> Result<()> {
    let scene = scene("").await?;
    ends(&scene, &["plan"], 64, "names no policy")?;
    ends(&scene, &["next"], 64, "names no policy")?;
    Ok(())
}
