//! `holdfast repo`: the repository itself.

use std::path::PathBuf;

use anyhow::Context;
use bytes::Bytes;
use clap::{Args, Subcommand};
use holdfast_proto::Timestamp;
use holdfast_proto::names::{ClusterId, ObjectKey, Region};
use holdfast_repository::authority::{self, Authority, AuthorityError};
use holdfast_repository::signing::SigningKey;
use holdfast_repository::trust::Trust;
use holdfast_repository::{Repository, clock, replicate, trust};

use crate::commands::trust::load_root;
use crate::exit::{Exit, Failure, OrExit};
use crate::operator::OperatorArguments;
use crate::screen;

/// Make and keep the repository.
#[derive(Debug, Subcommand)]
pub enum RepoCommand {
    /// Make the repository on all of its replicas and begin its trust chain.
    /// Probes what each store can do, and names what it cannot.
    Init(InitArguments),
    /// Copy what one replica lacks from another, in the order that keeps every
    /// commit point whole.
    Replicate(ReplicateArguments),
    /// Name the replica that decides what must have one winner; signed by the
    /// root. Needed when the region that decided is lost.
    Authority(AuthorityArguments),
}

#[derive(Debug, Args)]
pub struct AuthorityArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The off-line root key.
    #[arg(long, value_name = "FILE")]
    root_key: PathBuf,
    /// The region that decides from now on.
    #[arg(long)]
    region: Region,
}

#[derive(Debug, Args)]
pub struct InitArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The off-line root key that signs the first trust record.
    #[arg(long, value_name = "FILE")]
    root_key: PathBuf,
    /// A replica that is truly new, or lost for good, while others hold the
    /// repository: it is made, and `repo replicate` fills it. Repeat for more.
    #[arg(long, value_name = "REGION")]
    add_replica: Vec<Region>,
}

#[derive(Debug, Args)]
pub struct ReplicateArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The cluster, as TENANT/CLUSTER.
    #[arg(long)]
    cluster: ClusterId,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl RepoCommand {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<Exit> {
        match self {
            RepoCommand::Init(arguments) => init(arguments).await,
            RepoCommand::Replicate(arguments) => replicate_cluster(arguments).await,
            RepoCommand::Authority(arguments) => move_authority(arguments).await,
        }
    }
}

async fn init(arguments: InitArguments) -> anyhow::Result<Exit> {
    let operator = arguments.operator.load()?;
    operator.admit_repository()?;
    let root = SigningKey::load(&arguments.root_key)
        .context("the root key")
        .or_usage()?;
    let now: Timestamp = clock::now();
    let config = operator.repository_config();
    let repository = Repository::init_adding(&config, &arguments.add_replica, root.fingerprint(), now)
        .await
        .or_unavailable()?;
    let signer = "root".parse().expect("a valid name");
    // Of the repository's own age: run again after it died half way, init makes
    // the same record.
    let created = repository.document().created;
    let (key, bytes) = trust::genesis(&root, &signer, repository.id(), created)?;
    create_everywhere(&repository, &key, bytes.into()).await?;
    let trust = Trust::load(&repository, &root.fingerprint()).await.or_no()?;
    if let Err(AuthorityError::None) = Authority::load(&repository, &trust).await {
        let first = repository
            .replicas()
            .first()
            .context("a repository has replicas")?;
        let (key, bytes) = authority::record(&trust, None, first.region(), &root);
        create_everywhere(&repository, &key, bytes).await?;
    }
    let name = holdfast_repository::opened::INIT.parse().expect("a valid name");
    println!("Repository {} is ready on:", repository.id());
    let probed = repository.probe(&name).await.or_unavailable()?;
    for replica in &probed {
        println!("  {}", replica.region);
        for finding in replica.findings(now) {
            screen::print(&format!(
                "    {:?} {}: {}",
                finding.severity, finding.name, finding.detail
            ));
        }
    }
    for region in &arguments.add_replica {
        println!(
            "{region} was added: `holdfast repo replicate --cluster TENANT/CLUSTER` fills it, cluster by cluster."
        );
    }
    println!("Trust root {}", root.fingerprint());
    Ok(Exit::Done)
}

async fn replicate_cluster(arguments: ReplicateArguments) -> anyhow::Result<Exit> {
    let operator = arguments.operator.load()?;
    operator.admit_replication(&arguments.cluster)?;
    let repository = operator.open().await?;
    let trust = operator.trust(&repository).await?;
    let result = replicate::replicate_cluster(&repository, &arguments.cluster, &trust)
        .await
        .or_unavailable()?;
    if arguments.json {
        let copied: std::collections::BTreeMap<_, _> = result
            .copied
            .iter()
            .map(|(region, c)| {
                (
                    region,
                    serde_json::json!({ "objects": c.objects, "bytes": c.bytes }),
                )
            })
            .collect();
        let report = serde_json::json!({ "copied": copied, "findings": result.findings });
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        for (region, c) in &result.copied {
            println!(
                "{region}: {}, {} copied",
                screen::count(c.objects, "object"),
                screen::bytes(c.bytes)
            );
        }
        for finding in &result.findings {
            screen::print(&format!(
                "{:?}  {}  {}: {}",
                finding.severity, finding.name, finding.subject, finding.detail
            ));
        }
    }
    Ok(if result.is_complete() {
        Exit::Done
    } else {
        Exit::No
    })
}

async fn create_everywhere(repository: &Repository, key: &ObjectKey, bytes: Bytes) -> anyhow::Result<()> {
    for replica in repository.replicas() {
        replica
            .create(key, bytes.clone())
            .await
            .with_context(|| {
                format!(
                    "{key} in {}: run the command again when it is reachable",
                    replica.region()
                )
            })
            .or_unavailable()?;
    }
    Ok(())
}

async fn move_authority(arguments: AuthorityArguments) -> anyhow::Result<Exit> {
    let operator = arguments.operator.load()?;
    let repository = operator.open().await?;
    let trust = operator.trust(&repository).await?;
    let root = load_root(&arguments.root_key, &trust)?;
    let current = Authority::load(&repository, &trust).await.or_no()?;
    if !repository
        .replicas()
        .iter()
        .any(|r| *r.region() == arguments.region)
    {
        return Err(Failure::usage(format!(
            "{} is not among the configured replicas",
            arguments.region
        )));
    }
    if current.region == arguments.region {
        println!("{} decides already; nothing has changed", arguments.region);
        return Ok(Exit::Done);
    }
    let (key, bytes) = authority::record(&trust, Some(&current), &arguments.region, &root);
    let mut stored = Vec::new();
    for replica in repository.replicas() {
        match replica.create(&key, bytes.clone()).await {
            Ok(_) => stored.push(replica.region().to_string()),
            Err(e) => eprintln!(
                "warning: {} does not have {key} yet ({e}): agents and `holdfast repo replicate` bring it there. Until \
                 then whoever reaches that region alone follows the record before",
                replica.region()
            ),
        }
    }
    if stored.is_empty() {
        return Err(Failure::unavailable(
            "no replica took the record: nothing has changed",
        ));
    }
    println!(
        "{} decides from now on, was {}; recorded in {}",
        arguments.region,
        current.region,
        stored.join(", ")
    );
    Ok(Exit::Done)
}
