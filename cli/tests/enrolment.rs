//! An agent comes to its certificate by a one-time token, as an operator does it.

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
    fn run(&self, line: &str, code: i32) -> Result<String> {
        let words: Vec<&str> = line.split(' ').collect();
        let done = self.command(&words).output()?;
        let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        ensure!(
            done.status.code() == Some(code),
            "{line} ended with {:?}:\n{said}",
            done.status.code()
        );
        Ok(said)
    }

    /// The same, of a coordinator that has just been started and may not have read the
    /// trust chain yet.
    fn soon(&self, line: &str, code: i32) -> Result<String> {
        let mut said = self.run(line, code);
        for _ in 0..40 {
            match &said {
                Err(why) if why.to_string().contains("try again soon") => {}
                _ => break,
            }
            std::thread::sleep(std::time::Duration::from_millis(250));
            said = self.run(line, code);
        }
        said
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        std::fs::write(self.path().join(name), text).with_context(|| name.to_owned())
    }

    fn mode(&self, name: &str) -> Result<u32> {
        let meta = std::fs::metadata(self.path().join(name)).with_context(|| name.to_owned())?;
        Ok(meta.permissions().mode() & 0o777)
    }

    /// An agent's configuration with a state directory of its own.
    fn agent(&self, file: &str, name: &str, state: &str, port: u16) -> Result<()> {
        let path = self.path().display();
        let root = std::fs::read_to_string(self.path().join("root"))?;
        self.write(
            file,
            &format!(
                "name = \"{name}\"\nsigning_key = \"{path}/keys/{name}.key\"\nstate_dir = \"{path}/{state}\"\n\
                 recipients.file = \"{path}/keys/recipients.toml\"\n\
                 [repository]\ntrust_root = \"{root}\"\nreplicas = [{{ region = \"here\", url = \"file://{path}/store\" }}]\n\
                 [coordinator]\nurl = \"https://localhost:{port}\"\nca = \"{path}/keys/ca.crt\"\n\
                 [[cluster]]\ncluster = \"acme/erp\"\ntier = \"silver\"\n\
                 postgres = \"host=/nowhere user=holdfast dbname=postgres\"\n"
            ),
        )
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

/// Keys, a repository and a policy; what the coordinator's configuration begins with.
fn furnish(agents: u16, http: u16) -> Result<(Place, String)> {
    let place = Place(tempfile::tempdir()?);
    let keys = place.run("keys generate --coordinator head --agent agent-1 --json", 0)?;
    let keys: Value = serde_json::from_str(&keys)?;
    let root = keys["trust_root"].as_str().context("no trust root")?;
    place.write("root", root)?;
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
    place.run("repo init --root-key keys/root.key", 0)?;
    place.run(
        &format!("{ENROL} head --role coordinator --public keys/head.pub"),
        0,
    )?;

    let head = format!(
        "name = \"head\"\nlisten_agents = \"127.0.0.1:{agents}\"\nlisten_http = \"127.0.0.1:{http}\"\n\
         state_dir = \"state\"\npolicy = \"policy.toml\"\nsigning_key = \"keys/head.key\"\n\
         [tls]\ncert = \"keys/head.crt\"\nkey = \"keys/head.tls.key\"\nclient_ca = \"keys/ca.crt\"\n{repository}"
    );
    Ok((place, head))
}

const ENROL: &str = "trust enrol --root-key keys/root.key --name";

#[test]
fn a_token_brings_one_agent_to_one_certificate() -> Result<()> {
    let (agents, http) = (free()?, free()?);
    let (place, head) = furnish(agents, http)?;
    place.write("coordinator.toml", &head)?;
    let invite = "coordinator invite acme/erp --agent agent-1 --config coordinator.toml";
    let said = place.run(invite, 64)?;
    ensure!(said.contains("[enrolment]"), "{said}");
    let issues = format!("{head}[enrolment]\ncert = \"issuer.crt\"\nkey = \"issuer.key\"\n");
    place.write("coordinator.toml", &issues)?;
    let said = place.run("coordinator run --config coordinator.toml", 64)?;
    ensure!(said.contains("coordinator issuer"), "{said}");
    let said = place.run("coordinator issuer --config coordinator.toml", 0)?;
    ensure!(said.contains("stays on this machine"), "{said}");
    ensure!(place.mode("issuer.key")? == 0o600);
    let said = place.run("coordinator issuer --config coordinator.toml", 64)?;
    ensure!(said.contains("is there already"), "{said}");

    // What cannot be an invitation is none.
    for (line, code, why) in [
        (
            "coordinator invite acme/erp --agent agent-1 --valid 10s --config coordinator.toml",
            64,
            "1min to 7d",
        ),
        (
            "coordinator invite acme/erp --agent agent-1 --valid 8d --config coordinator.toml",
            64,
            "1min to 7d",
        ),
        (
            "coordinator invite --agent agent-1 --config coordinator.toml",
            64,
            "CLUSTER",
        ),
    ] {
        let said = place.run(line, code)?;
        ensure!(said.contains(why), "{line}: {said}");
    }
    let said = place.run(&format!("{invite} --file one.token"), 0)?;
    let token = std::fs::read_to_string(place.path().join("one.token"))?;
    ensure!(
        token.starts_with("hfi_") && !said.contains(token.trim()),
        "{said}"
    );
    ensure!(place.mode("one.token")? == 0o600);
    ensure!(
        said.contains("does not let agent agent-1 speak for acme/erp yet"),
        "{said}"
    );
    // The repository does not have it either.
    let stored = Command::new("grep")
        .args(["-r", token.trim()])
        .arg(place.path().join("store"))
        .output()?;
    ensure!(stored.status.code() == Some(1), "{stored:?}");

    place.agent("agent.toml", "agent-1", "agent", agents)?;
    place.agent("thief.toml", "agent-1", "thief", agents)?;
    place.agent("other.toml", "agent-2", "other", agents)?;
    let running = start(&place)?;
    let mine = "agent enrol --config agent.toml --token-file one.token";
    let theirs = |agent: &str| format!("agent enrol --config {agent}.toml --token-file one.token");
    // For another agent it is no token, and is not used up by that.
    let said = place.soon(&theirs("other"), 1)?;
    ensure!(said.contains("for agent agent-1, not for agent-2"), "{said}");
    let said = place.run(mine, 0)?;
    ensure!(said.contains("agent-1 has its certificate"), "{said}");
    ensure!(place.mode("agent/certificate.pem")? == 0o600);
    let first = std::fs::read(place.path().join("agent/certificate.pem"))?;
    let said = place.run(&theirs("thief"), 1)?;
    ensure!(
        said.contains("was used at") && said.contains("holdfast coordinator invite"),
        "{said}"
    );
    ensure!(!place.path().join("thief/certificate.pem").exists());
    // Whoever enrols twice by mistake has lost nothing.
    let said = place.run(mine, 1)?;
    ensure!(said.contains("has a certificate already"), "{said}");
    ensure!(std::fs::read(place.path().join("agent/certificate.pem"))? == first);
    // A token that was changed on the way, and something that is none.
    let mut altered = token.trim().to_owned();
    let last = if altered.ends_with('A') { 'Q' } else { 'A' };
    altered.pop();
    altered.push(last);
    for bad in [altered.as_str(), "hft_x"] {
        place.write("bad.token", bad)?;
        std::fs::set_permissions(
            place.path().join("bad.token"),
            std::fs::Permissions::from_mode(0o600),
        )?;
        let said = place.run("agent enrol --config thief.toml --token-file bad.token", 1)?;
        ensure!(said.contains("is not known"), "{said}");
    }
    drop(running);

    // With everything gone that the coordinator keeps on disk it is still used.
    std::fs::remove_dir_all(place.path().join("state"))?;
    let running = start(&place)?;
    let said = place.soon(&theirs("thief"), 1)?;
    ensure!(said.contains("was used at"), "{said}");

    // An answer that was lost: the key of which it was is still there.
    let key = String::from_utf8(first.clone())?;
    let end = "-----END PRIVATE KEY-----\n";
    let at = key.find(end).context("no key")? + end.len();
    std::fs::write(place.path().join("agent/certificate.next.pem"), &key[..at])?;
    std::fs::remove_file(place.path().join("agent/certificate.pem"))?;
    place.run(mine, 0)?;
    let again = std::fs::read(place.path().join("agent/certificate.pem"))?;
    ensure!(again == first, "the same key has the same certificate");

    // The authority's certificate is checked, and so is the name.
    let config = std::fs::read_to_string(place.path().join("thief.toml"))?;
    place.write("thief.toml", &config.replace("keys/ca.crt", "issuer.crt"))?;
    let said = place.run(&theirs("thief"), 69)?;
    ensure!(said.contains("cannot be reached"), "{said}");
    drop(running);

    // A revoked agent is not invited.
    let by = "--role agent --public keys/agent-1.pub --cluster acme/erp";
    place.run(&format!("{ENROL} agent-1 {by}"), 0)?;
    let shown: Value = serde_json::from_str(&place.run("trust show --json", 0)?)?;
    let keys = shown["keys"].as_array().context("no keys")?;
    let key = keys
        .iter()
        .find(|key| key["name"] == "agent-1")
        .context("no agent")?;
    let key = key["key"].as_str().with_context(|| format!("{shown:#}"))?;
    place.run(invite, 0)?;
    place.run(
        &format!("trust revoke --root-key keys/root.key --key {key} --reason lost"),
        0,
    )?;
    let said = place.run(invite, 1)?;
    ensure!(said.contains("agent-1 was revoked"), "{said}");
    Ok(())
}

/// Polls until `check` gives something.
fn until<T>(what: &str, mut check: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    for _ in 0..600 {
        if let Some(found) = check()? {
            return Ok(found);
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    anyhow::bail!("waited in vain for {what}")
}

#[test]
fn an_agent_comes_to_a_certificate_and_renews_it_while_it_runs() -> Result<()> {
    let (agents, http) = (free()?, free()?);
    let (place, head) = furnish(agents, http)?;
    let by = "--role agent --public keys/agent-1.pub --cluster acme/erp";
    place.run(&format!("{ENROL} agent-1 {by}"), 0)?;
    let issues = "[enrolment]\ncert = \"issuer.crt\"\nkey = \"issuer.key\"\nlifetime = \"10s\"\n";
    place.write("coordinator.toml", &format!("{head}{issues}"))?;
    place.run("coordinator issuer --config coordinator.toml", 0)?;
    let _head = start(&place)?;

    // The agent runs before there is a token, and says what it lacks.
    place.agent("agent.toml", "agent-1", "agent", agents)?;
    let ca = format!("ca = \"{}/keys/ca.crt\"\n", place.path().display());
    let token = format!(
        "{ca}enrolment_token_file = \"{}/agent.token\"\n",
        place.path().display()
    );
    let config = std::fs::read_to_string(place.path().join("agent.toml"))?;
    place.write("agent.toml", &config.replace(&ca, &token))?;
    place.run("config check agent.toml", 0)?;
    let log = std::fs::File::create(place.path().join("agent.log"))?;
    let agent = place
        .command(&["--log", "info", "agent", "run", "--config", "agent.toml"])
        .stderr(log)
        .spawn()?;
    let _agent = Running(agent);
    let logged = |what: &str| {
        Ok(std::fs::read_to_string(place.path().join("agent.log"))?
            .contains(what)
            .then_some(()))
    };
    until("the finding", || logged("not-enrolled"))?;

    place.run(
        "coordinator invite acme/erp --agent agent-1 --file agent.token --config coordinator.toml",
        0,
    )?;
    let kept = place.path().join("agent/certificate.pem");
    let first = until("a certificate", || Ok(std::fs::read(&kept).ok()))?;
    // So soon that several follow each other here, each with a key of its own; when the third
    // is there the first has ended.
    let second = until("the next", || {
        Ok(std::fs::read(&kept).ok().filter(|now| *now != first))
    })?;
    let third = until("the one after", || {
        Ok(std::fs::read(&kept).ok().filter(|now| *now != second))
    })?;
    let key = |pem: &[u8]| {
        String::from_utf8_lossy(pem)
            .split_once("-----END")
            .map(|(key, _)| key.to_owned())
    };
    ensure!(key(&first) != key(&second) && key(&second) != key(&third));
    ensure!(place.mode("agent/certificate.pem")? == 0o600);
    // It is still heard, by the process that came without a certificate.
    let heard = || -> Result<Option<String>> {
        let status: Value = serde_json::from_str(&place.run("status --json", 0)?)?;
        let agent = &status["clusters"][0]["agent"];
        Ok(agent["heard"]
            .as_str()
            .map(str::to_owned)
            .filter(|_| agent["name"] == "agent-1"))
    };
    let once = until("the agent", heard)?;
    until("the agent again", || Ok(heard()?.filter(|at| *at != once)))?;
    until("the end of the finding", || logged("finding is over"))?;

    // A revoked agent is not renewed, and says in good time that its certificate ends.
    let shown: Value = serde_json::from_str(&place.run("trust show --json", 0)?)?;
    let keys = shown["keys"].as_array().context("no keys")?;
    let found = keys
        .iter()
        .find(|key| key["name"] == "agent-1")
        .context("no agent")?;
    let key = found["key"].as_str().with_context(|| format!("{shown:#}"))?;
    place.run(
        &format!("trust revoke --root-key keys/root.key --key {key} --reason lost"),
        0,
    )?;
    until("the refusal", || logged("its certificate is not renewed"))?;
    until("the finding", || logged("certificate-expiring"))?;
    Ok(())
}
