//! A whole agent's configuration, for a vault and a server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::Result;
use holdfast_agent::config::AgentConfig;
use holdfast_proto::message::Directives;

use crate::postgres::TestPostgres;
use crate::vault::Vault;

/// The configuration of the agent `name`, which keeps its state in a directory of
/// that name. `cluster` is what else stands in its `[[cluster]]`.
pub fn config(vault: &Vault, name: &str, pg: &TestPostgres, cluster: &str) -> Result<AgentConfig> {
    let dir = vault.dir().display();
    let recipient = vault.drill().recipient();
    let key = vault.dir().join("agent.key");
    if !key.exists() {
        vault.signer().save(&key)?;
    }
    let text = format!(
        r#"
        name = "{name}"
        state_dir = "{dir}/{name}"
        signing_key = "{dir}/agent.key"
        threads = 2
        recipients = {{ drill = ["{recipient}"], recovery = ["{recipient}"] }}
        [repository]
        trust_root = "{root}"
        replicas = [
          {{ url = "file://{a}", region = "region0" }},
          {{ url = "file://{b}", region = "region1" }},
        ]
        [[cluster]]
        cluster = "acme/erp"
        tier = "platinum"
        postgres = "host={socket} port={port} user=holdfast dbname=postgres"
        {cluster}
        "#,
        root = vault.root(),
        a = vault.place(0).display(),
        b = vault.place(1).display(),
        socket = pg.socket_dir().display(),
        port = pg.port(),
    );
    Ok(AgentConfig::parse("agent.toml".as_ref(), &text)?)
}

/// Leaves in the agent's memory the numbers that a coordinator would have sent:
/// quick ones.
pub fn hurry(vault: &Vault, name: &str, tip: Duration, fences: Duration) -> Result<()> {
    let millis = |d: Duration| u64::try_from(d.as_millis());
    let directives = Directives {
        cluster: vault.cluster.clone(),
        tier: "platinum".parse()?,
        tip_interval_ms: millis(tip)?,
        copies: 2,
        fence_interval_ms: millis(fences)?,
        attest_interval_ms: 1000,
        residency: None,
        policy: "test".to_owned(),
    };
    let state = vault.dir().join(name);
    let memory = state.join("clusters/acme/erp");
    fs::create_dir_all(&memory)?;
    fs::write(memory.join("directives.json"), serde_json::to_vec(&directives)?)?;
    Ok(fs::set_permissions(state, fs::Permissions::from_mode(0o700))?)
}
