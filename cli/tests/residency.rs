//! Data is not put where the policy does not let it be: binding, replicating, a
//! drill, an export. Each command is refused before it does anything, and goes on
//! when the place is allowed.

use std::process::Command;

use anyhow::{Result, ensure};
use holdfast_drills::evidence::entry::Entry;
use holdfast_tests::evidence::{EvidenceScene, day};

/// A scene with a policy whose one zone allows `regions`, on a machine in `here`.
async fn scene(regions: &str, here: &str) -> Result<EvidenceScene> {
    let scene = EvidenceScene::new().await?;
    write(&scene, regions, here)?;
    Ok(scene)
}

fn write(scene: &EvidenceScene, regions: &str, here: &str) -> Result<()> {
    let policy = format!(
        "[[residency]]\nname = \"zone\"\nregions = [{regions}]\n[[tenant]]\nname = \"acme\"\nresidency = \"zone\"\n\
         [[cluster]]\ncluster = \"acme/erp\"\ntier = \"gold\"\n"
    );
    std::fs::write(scene.vault.dir().join("policy.toml"), policy)?;
    let text = format!(
        "{here}policy = \"policy.toml\"\n[repository]\ntrust_root = \"{}\"\nreplicas = [\n  {{ url = \"file://{}\", region \
         = \"region0\" }},\n  {{ url = \"file://{}\", region = \"region1\" }},\n]\n",
        scene.vault.root(),
        scene.vault.place(0).display(),
        scene.vault.place(1).display(),
    );
    std::fs::write(scene.vault.dir().join("holdfast.toml"), text)?;
    Ok(())
}

/// Runs the program in the scene's directory: it must end with `code` and say
/// `words`.
fn ends(scene: &EvidenceScene, line: &[&str], code: i32, words: &str) -> Result<()> {
    let done = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(line)
        .current_dir(scene.vault.dir())
        .env_remove("HOLDFAST_CONFIG")
        .output()?;
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(
        done.status.code() == Some(code) && said.contains(words),
        "{line:?} ended with {:?} and said, without {words:?}:\n{said}",
        done.status.code()
    );
    Ok(())
}

const BOTH: &str = "\"region0\", \"region1\"";
const INIT: [&str; 4] = ["repo", "init", "--root-key", "no-such.key"];
const REPLICATE: [&str; 4] = ["repo", "replicate", "--cluster", "acme/erp"];
const DRILL: [&str; 6] = [
    "drill",
    "run",
    "--cluster",
    "acme/erp",
    "--scenario",
    "accidental-deletion",
];

#[tokio::test]
async fn a_replica_elsewhere_is_neither_bound_nor_filled() -> Result<()> {
    let scene = scene("\"region0\"", "").await?;
    let to = |purpose: &str| {
        format!(
            "acme/erp: residency zone zone does not allow data {purpose} region region1 of provider local: allowed \
             regions are region0"
        )
    };
    ends(&scene, &INIT, 64, &to("to be stored in"))?;
    ends(&scene, &REPLICATE, 64, &to("to be copied to"))?;
    // The tenant's zone holds for a cluster that the policy does not name.
    let other = ["repo", "replicate", "--cluster", "acme/crm"];
    ends(&scene, &other, 64, "acme/crm: residency zone zone does not allow")?;
    write(&scene, BOTH, "")?;
    ends(&scene, &INIT, 64, "the root key")?;
    ends(&scene, &REPLICATE, 0, "")?;
    Ok(())
}

#[tokio::test]
async fn an_agent_does_not_start_on_a_replica_elsewhere() -> Result<()> {
    let scene = scene(BOTH, "").await?;
    let dir = scene.vault.dir().join("agent");
    std::fs::create_dir(&dir)?;
    ends(
        &scene,
        &[
            "keys",
            "generate",
            "--agent",
            "agent-1",
            "--directory",
            "agent/keys",
        ],
        0,
        "",
    )?;
    let text = |regions: &str| {
        format!(
            "name = \"agent-1\"\nsigning_key = \"{dir}/keys/agent-1.key\"\nstate_dir = \"{dir}/state\"\n\
             recipients.file = \"{dir}/keys/recipients.toml\"\n[repository]\ntrust_root = \"{}\"\nreplicas = [{{ url = \
             \"file://{}\", region = \"region0\" }}, {{ url = \"file://{}\", region = \"region1\" }}]\n[[cluster]]\n\
             cluster = \"acme/erp\"\ntier = \"gold\"\npostgres = \"host={dir} user=h dbname=d\"\nresidency = {{ regions \
             = [{regions}] }}\n",
            scene.vault.root(),
            scene.vault.place(0).display(),
            scene.vault.place(1).display(),
            dir = dir.display(),
        )
    };
    let file = dir.join("agent.toml");
    let file = file.to_str().expect("a path of letters");
    std::fs::write(file, text("\"region0\""))?;
    let outside =
        "cluster[0].residency: residency zone configured does not allow data to be stored in region region1";
    ends(&scene, &["agent", "run", "--config", file], 64, outside)?;
    ends(&scene, &["config", "check", file], 64, outside)?;
    std::fs::write(file, text(BOTH))?;
    ends(&scene, &["config", "check", file], 0, "is sound")?;
    Ok(())
}

#[tokio::test]
async fn a_drill_runs_where_its_data_may_be() -> Result<()> {
    let scene = scene(BOTH, "").await?;
    ends(
        &scene,
        &DRILL,
        64,
        "does not allow data to be restored in an unnamed region",
    )?;
    write(&scene, BOTH, "region = \"us-east\"\n")?;
    ends(
        &scene,
        &DRILL,
        64,
        "to be restored in region us-east: allowed regions are region0, region1",
    )?;
    write(&scene, BOTH, "region = \"region1\"\n")?;
    // The next thing that it looks at.
    ends(&scene, &DRILL, 64, "[runner]")?;
    Ok(())
}

#[tokio::test]
async fn evidence_goes_where_it_may() -> Result<()> {
    let mut scene = scene(BOTH, "region = \"region0\"\n").await?;
    scene.pass(day("10-01")).await?;
    let entry = scene.restore(day("10-01"), &scene.runner, |_| {})?;
    let Entry::Result(statement) = &entry.entry else {
        anyhow::bail!("no result");
    };
    let id = statement.predicate.drill.id.to_string();
    scene.leave(&entry).await?;
    scene.pass(day("10-02")).await?;

    let export = ["evidence", "export", &id, "--directory", "out"];
    let abroad = [&export[..], &["--to-region", "us-east"]].concat();
    ends(
        &scene,
        &abroad,
        64,
        "does not allow data to be exported to region us-east",
    )?;
    ensure!(
        !scene.vault.dir().join("out").exists(),
        "a refused export writes nothing"
    );
    write(&scene, BOTH, "")?;
    ends(&scene, &export, 64, "to be exported to an unnamed region")?;
    write(&scene, BOTH, "region = \"region0\"\n")?;
    ends(&scene, &export, 0, "VERIFY.md")?;
    Ok(())
}
