//! `holdfast keys`: make the keys of a deployment, off line.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use holdfast_coordinator::pki;
use holdfast_proto::Fingerprint;
use holdfast_proto::names::ActorName;
use holdfast_repository::seal::Identity;
use holdfast_repository::signing::SigningKey;
use serde::Serialize;

use crate::exit::{Exit, OrExit};

/// Make keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a deployment's keys: the off-line root, the identities that open
    /// backups, and a key and a certificate for each actor named. Run again
    /// with more names to add actors; what exists is never replaced.
    Generate(GenerateArguments),
}

#[derive(Debug, Args)]
pub struct GenerateArguments {
    /// The directory to write to; made private if it does not exist.
    #[arg(long, value_name = "DIR", default_value = "keys")]
    directory: PathBuf,
    /// An agent to make a signing key and a client certificate for; repeat for more.
    #[arg(long, value_name = "NAME")]
    agent: Vec<ActorName>,
    /// A drill runner to make a signing key for; repeat for more.
    #[arg(long, value_name = "NAME")]
    runner: Vec<ActorName>,
    /// A coordinator to make signing keys and a server certificate for.
    #[arg(long, value_name = "NAME")]
    coordinator: Vec<ActorName>,
    /// A person who reviews evidence; repeat for more.
    #[arg(long, value_name = "NAME")]
    reviewer: Vec<ActorName>,
    /// A person who approves what needs approval; repeat for more.
    #[arg(long, value_name = "NAME")]
    approver: Vec<ActorName>,
    /// A person who asks for what needs approval; repeat for more.
    #[arg(long, value_name = "NAME")]
    operator: Vec<ActorName>,
    /// Host names and addresses in the coordinators' certificates.
    #[arg(long, value_name = "HOST", default_values = ["localhost", "127.0.0.1"])]
    host: Vec<String>,
    /// Print what was made as JSON.
    #[arg(long)]
    json: bool,
}

/// What was made.
#[derive(Debug, Serialize)]
struct Made {
    directory: PathBuf,
    /// Fingerprint of the root key.
    trust_root: Fingerprint,
    /// Public recipients, by role.
    recipients: Vec<(&'static str, String)>,
    /// Files written by this run.
    written: Vec<PathBuf>,
    /// Actors named in this run.
    #[serde(skip)]
    agents: Vec<ActorName>,
    #[serde(skip)]
    runners: Vec<ActorName>,
    #[serde(skip)]
    coordinators: Vec<ActorName>,
    #[serde(skip)]
    people: Vec<(ActorName, &'static str)>,
}

impl KeysCommand {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<Exit> {
        match self {
            KeysCommand::Generate(arguments) => generate(&arguments).or_usage(),
        }
    }
}

struct Ring {
    directory: PathBuf,
    written: Vec<PathBuf>,
}

impl Ring {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A private key that is gone while its public half stands was moved away as
    /// advised: another one in its place would be of no use, and nobody would notice.
    fn refuse_replacing(&self, private: &Path, public: &str) -> anyhow::Result<()> {
        if self.path(public).exists() {
            bail!(
                "{} is not here but {public} is: it was moved away; run this where the whole directory is, or name \
                 another with --directory",
                private.display()
            );
        }
        Ok(())
    }

    fn public(&mut self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        self.written.push(path);
        Ok(())
    }

    /// A signing key and its public half, made unless it exists.
    fn signing(
        &mut self,
        name: &str,
        make: fn() -> Result<SigningKey, holdfast_repository::signing::SigningError>,
    ) -> anyhow::Result<SigningKey> {
        let path = self.path(&format!("{name}.key"));
        if path.exists() {
            return Ok(SigningKey::load(&path)?);
        }
        self.refuse_replacing(&path, &format!("{name}.pub"))?;
        let key = make()?;
        key.save(&path)?;
        self.written.push(path);
        self.public(&format!("{name}.pub"), &key.verifying().to_pem())?;
        Ok(key)
    }

    fn identity(&mut self, name: &'static str) -> anyhow::Result<(&'static str, String)> {
        let path = self.path(&format!("{name}.agekey"));
        let identity = if path.exists() {
            let identities = holdfast_repository::seal::Identities::load(&path)?;
            identities
                .iter()
                .next()
                .context("the identity file is empty")?
                .recipient()
                .to_string()
        } else {
            self.refuse_replacing(&path, "recipients.toml")?;
            let identity = Identity::generate();
            identity.save(&path)?;
            self.written.push(path);
            identity.recipient().to_string()
        };
        Ok((name, identity))
    }

    fn certificate(&mut self, name: &str, issued: pki::Issued) -> anyhow::Result<()> {
        let key = self.path(&format!("{name}.tls.key"));
        holdfast_repository::secret_file::write_new(&key, &issued.key_pem)?;
        self.written.push(key);
        self.public(&format!("{name}.crt"), &issued.certificate_pem)
    }

    fn authority(&mut self) -> anyhow::Result<pki::Authority> {
        let (certificate, key) = (self.path("ca.crt"), self.path("ca.key"));
        if key.exists() {
            let key_pem = holdfast_repository::secret_file::read(&key)?;
            return Ok(pki::Authority::from_pem(
                &fs::read_to_string(certificate)?,
                &key_pem,
            )?);
        }
        self.refuse_replacing(&key, "ca.crt")?;
        let authority = pki::Authority::generate()?;
        holdfast_repository::secret_file::write_new(&key, &authority.key_pem())?;
        self.written.push(key);
        self.public("ca.crt", authority.certificate_pem())?;
        Ok(authority)
    }
}

fn generate(arguments: &GenerateArguments) -> anyhow::Result<Exit> {
    let distinct: BTreeSet<_> = arguments
        .agent
        .iter()
        .chain(&arguments.runner)
        .chain(&arguments.coordinator)
        .chain(&arguments.reviewer)
        .chain(&arguments.approver)
        .chain(&arguments.operator)
        .collect();
    let named = [
        &arguments.agent,
        &arguments.runner,
        &arguments.coordinator,
        &arguments.reviewer,
        &arguments.approver,
        &arguments.operator,
    ];
    if distinct.len() != named.iter().map(|names| names.len()).sum::<usize>() {
        return Err(crate::exit::Failure::usage("every actor needs a name of its own"));
    }
    make_private(&arguments.directory).or_usage()?;
    let mut ring = Ring {
        directory: arguments.directory.clone(),
        written: Vec::new(),
    };
    let root = ring.signing("root", SigningKey::generate_ed25519)?;
    let recipients = ["drill", "recovery", "escrow"]
        .into_iter()
        .map(|name| ring.identity(name))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut text =
        String::from("# Public halves: an agent's configuration names this file as recipients.file.\n");
    for (role, recipient) in &recipients {
        text.push_str(&format!("{role} = [\"{recipient}\"]\n"));
    }
    fs::write(ring.path("recipients.toml"), text)?;
    let authority = ring.authority()?;
    for name in &arguments.agent {
        ring.signing(name.as_str(), SigningKey::generate_ed25519)?;
        if !ring.path(&format!("{name}.crt")).exists() {
            ring.certificate(name.as_str(), authority.issue_agent(name)?)?;
        }
    }
    let people: Vec<(ActorName, &'static str)> = [
        (&arguments.reviewer, "who reviews evidence"),
        (&arguments.approver, "who approves what needs approval"),
        (&arguments.operator, "who asks for what needs approval"),
    ]
    .into_iter()
    .flat_map(|(names, does)| names.iter().map(move |name| (name.clone(), does)))
    .collect();
    for name in arguments.runner.iter().chain(people.iter().map(|(name, _)| name)) {
        ring.signing(name.as_str(), SigningKey::generate_ed25519)?;
    }
    for name in &arguments.coordinator {
        ring.signing(name.as_str(), SigningKey::generate_p256)?;
        ring.signing(&format!("{name}-log"), SigningKey::generate_ed25519)?;
        if !ring.path(&format!("{name}.crt")).exists() {
            ring.certificate(name.as_str(), authority.issue_server(name, &arguments.host)?)?;
        }
    }
    let made = Made {
        directory: arguments.directory.clone(),
        trust_root: root.fingerprint(),
        recipients,
        written: ring.written,
        agents: arguments.agent.clone(),
        runners: arguments.runner.clone(),
        coordinators: arguments.coordinator.clone(),
        people,
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&made)?);
    } else {
        describe(&made);
    }
    Ok(Exit::Done)
}

fn make_private(directory: &Path) -> anyhow::Result<()> {
    if directory.exists() {
        if !directory.is_dir() {
            bail!("{} is not a directory", directory.display());
        }
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("making {}", directory.display()))
}

fn describe(made: &Made) {
    println!("Keys are in {}", made.directory.display());
    println!();
    println!("  trust root  {}", made.trust_root);
    for (role, recipient) in &made.recipients {
        println!("  {role:<10}  {recipient}");
    }
    println!();
    println!(
        "Write the trust root down where the repository cannot reach: restores and audits start from it."
    );
    println!("Whoever holds an .agekey reads the backups; whoever loses all of them has no backups.");
    println!();
    println!("Where each private key belongs, and nowhere else:");
    println!();
    let mut actors: Vec<(String, String)> = [
        ("root.key", "a safe, off line: says who is believed"),
        ("ca.key", "with root.key: makes certificates for more agents"),
        (
            "escrow.agekey",
            "another safe: opens backups when recovery.agekey is lost",
        ),
        ("recovery.agekey", "whoever restores: opens backups, secrets too"),
        ("drill.agekey", "the drill runner: opens backups, but no secrets"),
    ]
    .map(|(name, whose)| (name.to_owned(), whose.to_owned()))
    .into();
    for name in &made.agents {
        actors.push((format!("{name}.key, {name}.tls.key"), format!("agent {name}")));
    }
    for name in &made.runners {
        actors.push((format!("{name}.key"), format!("drill runner {name}")));
    }
    for (name, does) in &made.people {
        actors.push((format!("{name}.key"), format!("{name}, {does}")));
    }
    for name in &made.coordinators {
        let keys = format!("{name}.key, {name}-log.key, {name}.tls.key");
        actors.push((keys, format!("coordinator {name}")));
    }
    let width = actors.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, whose) in &actors {
        println!("  {name:<width$}  {whose}");
    }
    println!();
    println!(
        "An agent's machine keeps the agent's own keys, recipients.toml and ca.crt: move all others away,"
    );
    println!("above all every .agekey, or whoever breaks into the database reads the backups too.");
}
