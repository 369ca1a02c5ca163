//! Asking a coordinator that knows who may: a token is made, configured, and shown.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

struct Place(tempfile::TempDir);

impl Place {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(line).current_dir(self.path());
        for variable in ["HOLDFAST_CONFIG", "HOLDFAST_TOKEN_FILE", "HOLDFAST_LOG"] {
            command.env_remove(variable);
        }
        command
    }

    /// What a command says; it must end with `code`.
    fn run(&self, line: &[&str], code: i32) -> Result<String> {
        let done = self.command(line).output()?;
        let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        ensure!(
            done.status.code() == Some(code),
            "{line:?} ended with {:?}:\n{said}",
            done.status.code()
        );
        Ok(said)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        std::fs::write(self.path().join(name), text).with_context(|| name.to_owned())
    }
}

/// A coordinator that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts it, and waits until it says that it has.
fn start(place: &Place) -> Result<Running> {
    let mut child = place
        .command(&[
            "--log",
            "info",
            "coordinator",
            "run",
            "--config",
            "coordinator.toml",
        ])
        .stderr(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(child.stderr.take().context("no log")?).lines();
    let running = Running(child);
    let mut lines = lines.map_while(Result::ok);
    let mut said = String::new();
    for line in lines.by_ref() {
        said += &line;
        if line.contains("coordinator started") {
            // Nobody may wait for a full pipe.
            std::thread::spawn(move || lines.for_each(drop));
            return Ok(running);
        }
    }
    anyhow::bail!("the coordinator did not start: {said}")
}

fn free() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[test]
fn a_token_lets_in_and_what_is_wrong_with_one_is_said() -> Result<()> {
    let place = Place(tempfile::tempdir()?);
    let (agents, http) = (free()?, free()?);
    let keys = place.run(&["keys", "generate", "--coordinator", "head", "--json"], 0)?;
    let keys: Value = serde_json::from_str(&keys)?;
    let root = keys["trust_root"].as_str().context("no trust root")?;
    std::fs::create_dir(place.path().join("store"))?;
    let repository = format!(
        "[repository]\ntrust_root = \"{root}\"\nreplicas = [{{ region = \"here\", url = \"file://{}/store\" }}]\n",
        place.path().display()
    );
    let operator = format!("coordinator = \"http://127.0.0.1:{http}\"\n{repository}");
    place.write("holdfast.toml", &operator)?;
    place.write(
        "policy.toml",
        "[[cluster]]\ncluster = \"acme/erp\"\ntier = \"silver\"\n",
    )?;
    place.run(&["repo", "init", "--root-key", "keys/root.key"], 0)?;

    // One into a file that nobody else reads, one on the screen.
    let said = place.run(&["coordinator", "token", "olga", "--file", "olga.token"], 0)?;
    let mode = std::fs::metadata(place.path().join("olga.token"))?
        .permissions()
        .mode();
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    let token = std::fs::read_to_string(place.path().join("olga.token"))?;
    ensure!(
        token.starts_with("hft_") && !said.contains(token.trim()),
        "{said}"
    );
    ensure!(
        said.contains("[[access.token]]\nname = \"olga\"\nhash = \"sha256:"),
        "{said}"
    );
    let shown: Value = serde_json::from_str(&place.run(&["coordinator", "token", "anna", "--json"], 0)?)?;
    let annas = shown["token"].as_str().context("no token")?;
    place.run(&["coordinator", "token", "olga", "--file", "olga.token"], 64)?;

    let access: String = said
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|l| format!("{l}\n"))
        .collect();
    let coordinator = format!(
        "name = \"head\"\nlisten_agents = \"127.0.0.1:{agents}\"\nlisten_http = \"127.0.0.1:{http}\"\n\
         state_dir = \"state\"\npolicy = \"policy.toml\"\nsigning_key = \"keys/head.key\"\n\
         [tls]\ncert = \"keys/head.crt\"\nkey = \"keys/head.tls.key\"\nclient_ca = \"keys/ca.crt\"\n\
         {repository}[access]\n{access}"
    );
    place.write("coordinator.toml", &coordinator)?;
    place.run(&["config", "check", "coordinator.toml"], 0)?;
    let shown = place.run(&["config", "show", "coordinator.toml"], 0)?;
    ensure!(shown.contains("access.grant[0].to = token:olga"), "{shown}");
    let _running = start(&place)?;

    let said = place.run(&["status"], 69)?;
    ensure!(
        said.contains("401") && said.contains("coordinator_token_file"),
        "{said}"
    );
    let said = place.run(&["status", "--token-file", "olga.token"], 0)?;
    ensure!(said.contains("acme/erp"), "{said}");
    let olga = format!("coordinator_token_file = \"olga.token\"\n{operator}");
    place.write("holdfast.toml", &olga)?;
    let status: Value = serde_json::from_str(&place.run(&["status", "--json"], 0)?)?;
    ensure!(status["clusters"][0]["cluster"] == "acme/erp", "{status:#}");
    // A viewer: the policy is not theirs to read.
    let said = place.run(&["config", "check", "policy.toml", "--running"], 69)?;
    ensure!(said.contains("no grant gives policy"), "{said}");

    // One that is not configured, and one that everybody may read.
    place.write("anna.token", annas)?;
    let said = place.run(&["status", "--token-file", "anna.token"], 64)?;
    ensure!(said.contains("every user may read it"), "{said}");
    let file = place.path().join("anna.token");
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600))?;
    let said = place.run(&["status", "--token-file", "anna.token"], 69)?;
    ensure!(
        said.contains("not one that it knows") && !said.contains(annas),
        "{said}"
    );
    Ok(())
}
