//! `holdfast coordinator`: the daemon that enforces policy.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Subcommand};
use holdfast_agent::ledger::Ledger;
use holdfast_coordinator::access::Token;
use holdfast_coordinator::config::{CoordinatorConfig, EnrolmentConfig};
use holdfast_coordinator::inviting::{self, InviteError};
use holdfast_coordinator::pki::issuing::AgentAuthority;
use holdfast_coordinator::{
    ClusterLedger, Coordinator, Evidence, EvidenceDocument, EvidenceKeeping, EvidenceShowing, Given,
    LedgerReading,
};
use holdfast_drills::keeper::{EvidenceKeeper, EvidenceKeys, InForce};
use holdfast_drills::pages::{Asked, EvidencePages, Sees};
use holdfast_drills::population;
use holdfast_plan::period::Period;
use holdfast_proto::names::{ActorName, ClusterId};
use holdfast_repository::signing::SigningKey;
use holdfast_repository::trust::Trust;
use holdfast_repository::{Repository, clock, hold, secret_file};
use tokio::sync::Mutex;

use crate::commands::points::hold_not_believed;
use crate::commands::until_signalled;
use crate::exit::{Exit, Failure, OrExit};

/// The daemon that enforces policy and serves status.
#[derive(Debug, Subcommand)]
pub enum CoordinatorCommand {
    /// Enforce the policy and serve status until stopped.
    Run(RunArguments),
    /// Make a token for a person or a program, and print what the configuration
    /// keeps of it.
    Token(TokenArguments),
    /// Make the coordinator's authority over agents' certificates, on its own machine:
    /// the files that [enrolment] names.
    Issuer(IssuerArguments),
    /// Make a one-time token with which an agent comes to its certificate.
    Invite(InviteArguments),
}

#[derive(Debug, Args)]
pub struct IssuerArguments {
    /// The coordinator's configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/holdfast/coordinator.toml")]
    config: PathBuf,
}

#[derive(Debug, Args)]
pub struct InviteArguments {
    /// The clusters that the agent may speak for, TENANT/CLUSTER.
    #[arg(value_name = "CLUSTER", required = true)]
    clusters: Vec<ClusterId>,
    /// The agent's name, as in its configuration and in the trust chain.
    #[arg(long, value_name = "NAME")]
    agent: ActorName,
    /// How long the token is good: 1min to 7d.
    #[arg(long, value_name = "PERIOD", default_value = "1h")]
    valid: Period,
    /// Write the token to a file that its owner alone may read, instead of printing
    /// it.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The coordinator's configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/holdfast/coordinator.toml")]
    config: PathBuf,
    /// Print what was made as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct TokenArguments {
    /// What to call it in grants and logs.
    #[arg(value_name = "NAME")]
    name: ActorName,
    /// Write the token to a file that its owner alone may read, instead of printing
    /// it.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print token and hash as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct RunArguments {
    /// The coordinator's configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/holdfast/coordinator.toml")]
    config: PathBuf,
}

impl CoordinatorCommand {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<Exit> {
        let arguments = match self {
            CoordinatorCommand::Run(arguments) => arguments,
            CoordinatorCommand::Token(arguments) => return token(&arguments),
            CoordinatorCommand::Issuer(arguments) => return issuer(&arguments),
            CoordinatorCommand::Invite(arguments) => return invite(&arguments).await,
        };
        let config = CoordinatorConfig::load(&arguments.config).or_usage()?;
        let evidence = Evidence {
            keeping: keeper(&config)?,
            showing: Some(pages()),
        };
        until_signalled(|stop| async {
            let coordinator = Coordinator::start(config).await?;
            let coordinator = coordinator.with_evidence(evidence).with_ledger(reading());
            coordinator.serve(stop).await
        })
        .await
        .or_unavailable()?;
        Ok(Exit::Done)
    }
}

/// What the configuration says about issuing certificates.
fn enrolment(config: &CoordinatorConfig) -> anyhow::Result<&EnrolmentConfig> {
    config.enrolment.as_ref().ok_or_else(|| {
        Failure::usage(
            "the coordinator's configuration has no [enrolment]: add it with cert and key, for example \
             cert = \"issuer.crt\" and key = \"issuer.key\"",
        )
    })
}

/// Makes the authority over agents' certificates. Its key stays where it is made.
fn issuer(arguments: &IssuerArguments) -> anyhow::Result<Exit> {
    let config = CoordinatorConfig::load(&arguments.config).or_usage()?;
    let files = enrolment(&config)?;
    if files.cert.exists() {
        let said = format!(
            "{} is there already: agents that have a certificate of this authority would be let in no more. Move it \
             away first, if that is meant",
            files.cert.display()
        );
        return Err(Failure::usage(said));
    }
    let authority = AgentAuthority::generate(&config.name)?;
    secret_file::write_new(&files.key, &authority.key_pem()).or_usage()?;
    std::fs::write(&files.cert, authority.certificate_pem())
        .with_context(|| format!("writing {}", files.cert.display()))
        .or_usage()?;
    println!(
        "{} stays on this machine: whoever has it can pass for any agent.",
        files.key.display()
    );
    println!(
        "{} goes into the file that tls.client_ca names on every other coordinator, which is then started anew, as \
         this one is.",
        files.cert.display()
    );
    Ok(Exit::Done)
}

/// Makes an invitation. Its token is shown here and nowhere else.
async fn invite(arguments: &InviteArguments) -> anyhow::Result<Exit> {
    let config = CoordinatorConfig::load(&arguments.config).or_usage()?;
    enrolment(&config)?;
    let signer = SigningKey::load(&config.signing_key)
        .context("the signing key")
        .or_usage()?;
    let repository = Repository::open(&config.repository).await.or_unavailable()?;
    let trust = Trust::load(&repository, &config.trust_root).await.or_no()?;
    let made = inviting::invite(
        &repository,
        &trust,
        &signer,
        &arguments.agent,
        &arguments.clusters,
        arguments.valid,
        clock::now(),
    );
    let made = match made.await {
        Err(why @ (InviteError::Valid(_) | InviteError::NoCluster)) => return Err(why).or_usage(),
        Err(why @ InviteError::Invitation(_)) => return Err(why).or_unavailable(),
        made => made.or_no()?,
    };
    if let Some(file) = &arguments.file {
        secret_file::write_new(file, &format!("{}\n", made.token.reveal())).or_usage()?;
    }
    let (agent, ends) = (&made.body.agent, made.body.ends);
    if arguments.json {
        let shown = arguments.file.is_none().then(|| made.token.reveal());
        let made = serde_json::json!({
            "agent": agent, "clusters": made.body.clusters, "ends": ends, "token": shown,
            "not_enrolled": made.not_enrolled,
        });
        println!("{made:#}");
        return Ok(Exit::Done);
    }
    match &arguments.file {
        Some(file) => println!("The token is in {}.", file.display()),
        None => println!("The token, which is shown this once: {}", made.token.reveal()),
    }
    let clusters: Vec<String> = made.body.clusters.iter().map(ToString::to_string).collect();
    println!(
        "It is good for one certificate of agent {agent} for {}, until {ends}.",
        clusters.join(", ")
    );
    println!("On the agent's machine: holdfast agent enrol --config FILE --token-file FILE");
    for cluster in &made.not_enrolled {
        println!(
            "The trust chain does not let agent {agent} speak for {cluster} yet: see `holdfast trust enrol`."
        );
    }
    Ok(Exit::Done)
}

/// Makes a token. It is shown here and nowhere else.
fn token(arguments: &TokenArguments) -> anyhow::Result<Exit> {
    let token = Token::generate().map_err(anyhow::Error::msg)?;
    let (name, hash) = (&arguments.name, token.hash().to_string());
    if let Some(file) = &arguments.file {
        secret_file::write_new(file, &format!("{}\n", token.reveal())).or_usage()?;
    }
    if arguments.json {
        let shown = arguments.file.is_none().then(|| token.reveal());
        let made = serde_json::json!({ "name": name, "token": shown, "hash": hash });
        println!("{made:#}");
        return Ok(Exit::Done);
    }
    match &arguments.file {
        Some(file) => println!("# The token is in {}.", file.display()),
        None => println!("# The token, which is shown this once: {}", token.reveal()),
    }
    println!("# The coordinator's configuration keeps its hash, and what it is for:");
    println!("[[access.token]]\nname = \"{name}\"\nhash = \"{hash}\"\n");
    println!("[[access.grant]]\nto = \"token:{name}\"\nrole = \"viewer\"\nscope = [\"*\"]");
    Ok(Exit::Done)
}

/// Reads what the repository holds of a cluster, which takes no identity.
fn reading() -> LedgerReading {
    Arc::new(|repository, trust, cluster| {
        Box::pin(async move {
            let ledger = Ledger::load(&repository, &trust, &cluster)
                .await
                .map_err(|e| e.to_string())?;
            let holds = hold::list(&repository, &trust, Some(&cluster)).await;
            let mut findings = ledger.points().findings;
            let holds = holds.map_err(|e| e.to_string())?;
            findings.extend(holds.ignored.into_iter().map(hold_not_believed));
            Ok(ClusterLedger {
                facts: ledger.facts,
                holds: holds.items,
                findings,
            })
        })
    })
}

/// The pages of the evidence.
fn pages() -> EvidenceShowing {
    let pages = Arc::new(Mutex::new(EvidencePages::default()));
    Arc::new(move |repository, trust, asked| {
        let pages = Arc::clone(&pages);
        Box::pin(async move {
            let mut pages = pages.lock().await;
            let sees = |cluster: &ClusterId| asked.reach.sees(cluster);
            let question = Asked {
                path: &asked.path,
                query: &asked.query,
                sees: Sees {
                    whole: asked.reach.is_whole(),
                    cluster: &sees,
                },
            };
            let found = pages.answer(&repository, &trust, question, asked.at);
            Ok(found.await?.map(|d| EvidenceDocument {
                content_type: d.content_type,
                file: d.file,
                bytes: d.bytes,
            }))
        })
    })
}

/// The policy in force, as the log names it.
fn in_force(given: &Given) -> InForce {
    let digest = given.policy.digest();
    let taken = given.taken.as_ref().filter(|taken| taken.to == digest);
    InForce {
        digest,
        changes: taken.map_or(Vec::new(), |taken| {
            taken.changes.iter().map(ToString::to_string).collect()
        }),
    }
}

/// The keeper of the evidence log, when a log key is configured.
fn keeper(config: &CoordinatorConfig) -> anyhow::Result<Option<EvidenceKeeping>> {
    let Some(log_key) = &config.log_key else {
        return Ok(None);
    };
    let keys = Arc::new(EvidenceKeys {
        coordinator: SigningKey::load(&config.signing_key)
            .context("the signing key")
            .or_usage()?,
        log: SigningKey::load(log_key).context("the log key").or_usage()?,
    });
    let keeper = Arc::new(Mutex::new(EvidenceKeeper::default()));
    Ok(Some(Arc::new(move |given| {
        let (keys, keeper) = (Arc::clone(&keys), Arc::clone(&keeper));
        Box::pin(async move {
            let mut keeper = keeper.lock().await;
            keeper.asks(population::of_policy(&given.policy), in_force(&given));
            let done = keeper
                .pass(&given.repository, &given.trust, &keys, given.at)
                .await
                .map_err(|e| e.to_string())?;
            Ok(done.findings)
        })
    })))
}
