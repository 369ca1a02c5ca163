//! `holdfast coordinator`: the daemon that enforces policy.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Subcommand};
use holdfast_agent::ledger::Ledger;
use holdfast_coordinator::access::Token;
use holdfast_coordinator::config::CoordinatorConfig;
use holdfast_coordinator::{
    ClusterLedger, Coordinator, Evidence, EvidenceDocument, EvidenceKeeping, EvidenceShowing, Given,
    LedgerReading,
};
use holdfast_drills::keeper::{EvidenceKeeper, EvidenceKeys, InForce};
use holdfast_drills::pages::{Asked, EvidencePages, Sees};
use holdfast_drills::population;
use holdfast_proto::names::{ActorName, ClusterId};
use holdfast_repository::signing::SigningKey;
use holdfast_repository::{hold, secret_file};
use tokio::sync::Mutex;

use crate::commands::points::hold_not_believed;
use crate::commands::until_signalled;
use crate::exit::{Exit, OrExit};

/// The daemon that enforces policy and serves status.
#[derive(Debug, Subcommand)]
pub enum CoordinatorCommand {
    /// Enforce the policy and serve status until stopped.
    Run(RunArguments),
    /// Make a token for a person or a program, and print what the configuration
    /// keeps of it.
    Token(TokenArguments),
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
