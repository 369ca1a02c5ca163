//! `holdfast trust`: who is believed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use holdfast_plan::period::Period;
use holdfast_proto::Fingerprint;
use holdfast_proto::approval::{Guarded, Quorum};
use holdfast_proto::envelope::Link;
use holdfast_proto::names::{ActorName, ClusterId, GroupName};
use holdfast_proto::record::{TrustAct, TrustRole};
use holdfast_repository::signing::{SigningKey, VerifyingKey};
use holdfast_repository::trust::{self, Trust, TrustedKey};
use holdfast_repository::{approval, clock};

use crate::exit::{Exit, Failure, OrExit};
use crate::operator::OperatorArguments;
use crate::screen;

/// Show and change who is believed.
#[derive(Debug, Subcommand)]
pub enum TrustCommand {
    /// Show every key, its role and scope.
    Show(ShowArguments),
    /// Believe a key from now on. Signed by the root.
    Enrol(EnrolArguments),
    /// Make an action need approvals from now on. Signed by the root.
    Require(RequireArguments),
    /// Believe a key no longer, except for objects named. Signed by the root.
    Revoke(RevokeArguments),
}

#[derive(Debug, Args)]
pub struct ShowArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// Roles that can be enrolled.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Role {
    /// Signs backups of the clusters in its scope.
    Agent,
    /// Signs drills' intents and results.
    Runner,
    /// Signs checkpoints and countersigns results.
    Coordinator,
    /// Signs approvals.
    Approver,
    /// Signs reviews of evidence.
    Reviewer,
    /// Signs requests for approval.
    Operator,
}

impl From<Role> for TrustRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Agent => TrustRole::Agent,
            Role::Runner => TrustRole::Runner,
            Role::Coordinator => TrustRole::Coordinator,
            Role::Approver => TrustRole::Approver,
            Role::Reviewer => TrustRole::Reviewer,
            Role::Operator => TrustRole::Operator,
        }
    }
}

#[derive(Debug, Args)]
pub struct EnrolArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The off-line root key.
    #[arg(long, value_name = "FILE")]
    root_key: PathBuf,
    /// Who holds the key.
    #[arg(long)]
    name: ActorName,
    /// What it may sign.
    #[arg(long)]
    role: Role,
    /// The public key, PEM.
    #[arg(long, value_name = "FILE")]
    public: PathBuf,
    /// A cluster that it may sign for, as TENANT/CLUSTER; repeat for more.
    /// Agents need at least one; without any, other roles have the whole repository.
    #[arg(long)]
    cluster: Vec<ClusterId>,
    /// The group of people that an approver belongs to: finance, platform.
    #[arg(long)]
    group: Option<GroupName>,
}

#[derive(Debug, Args)]
pub struct RequireArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The off-line root key.
    #[arg(long, value_name = "FILE")]
    root_key: PathBuf,
    /// production-restore, deletion, retention-cut, hold-release, policy-weakening or break-glass.
    #[arg(long)]
    action: Guarded,
    /// A cluster that it concerns, as TENANT/CLUSTER; repeat for more. All without any.
    #[arg(long)]
    cluster: Vec<ClusterId>,
    /// How many people must approve; 0 ends an earlier rule of the same scope.
    #[arg(long, value_name = "N")]
    approvals: u32,
    /// From how many different groups.
    #[arg(long, value_name = "N", default_value_t = 1)]
    groups: u32,
    /// How long a request holds, counted from when it was made.
    #[arg(long, value_name = "PERIOD", default_value = "24h")]
    valid: Period,
}

#[derive(Debug, Args)]
pub struct RevokeArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The off-line root key.
    #[arg(long, value_name = "FILE")]
    root_key: PathBuf,
    /// The key's fingerprint, from `holdfast trust show`.
    #[arg(long)]
    key: Fingerprint,
    /// The last object of a stream that is still believed, as KEY=SHA256 of
    /// the object; repeat for more. Without any, nothing the key signed is believed.
    #[arg(long, value_name = "KEY=SHA256")]
    believe: Vec<String>,
    /// Why.
    #[arg(long)]
    reason: String,
}

impl TrustCommand {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<Exit> {
        match self {
            TrustCommand::Show(arguments) => show(arguments).await,
            TrustCommand::Enrol(arguments) => enrol(arguments).await,
            TrustCommand::Require(arguments) => require(arguments).await,
            TrustCommand::Revoke(arguments) => revoke(arguments).await,
        }
    }
}

/// Loads the root key, which must be one that the chain believes.
pub fn load_root(path: &Path, trust: &Trust) -> anyhow::Result<SigningKey> {
    let root = SigningKey::load(path).context("the root key").or_usage()?;
    let roots: Vec<_> = trust
        .keys()
        .filter(|(_, k)| k.role == TrustRole::Root && k.revoked.is_none())
        .map(|(fingerprint, _)| fingerprint)
        .collect();
    if roots.contains(&&root.fingerprint()) {
        return Ok(root);
    }
    let known: Vec<String> = roots.iter().map(ToString::to_string).collect();
    Err(Failure::usage(format!(
        "{} is not the root key of this repository: it is {}, the repository's is {}",
        path.display(),
        root.fingerprint(),
        known.join(" or ")
    )))
}

async fn append(operator: &OperatorArguments, root_key: &Path, acts: Vec<TrustAct>) -> anyhow::Result<()> {
    let operator = operator.load()?;
    let repository = operator.open().await?;
    let current = operator.trust(&repository).await?;
    let root = load_root(root_key, &current)?;
    let (key, bytes) = trust::append(&current, acts, &root, clock::now()).or_usage()?;
    for replica in repository.replicas() {
        replica
            .create(&key, bytes.clone().into())
            .await
            .with_context(|| {
                format!(
                    "the trust record in {}: run the command again when it is reachable",
                    replica.region()
                )
            })
            .or_unavailable()?;
    }
    let replicas = screen::count(repository.replicas().len() as u64, "replica");
    println!("Signed {key} on {replicas}");
    Ok(())
}

async fn enrol(arguments: EnrolArguments) -> anyhow::Result<Exit> {
    if matches!(arguments.role, Role::Agent) && arguments.cluster.is_empty() {
        return Err(Failure::usage(
            "an agent signs for named clusters only: give --cluster TENANT/CLUSTER",
        ));
    }
    if arguments.group.is_some() && !matches!(arguments.role, Role::Approver) {
        return Err(Failure::usage("only approvers belong to a group"));
    }
    let pem = std::fs::read_to_string(&arguments.public)
        .with_context(|| format!("the public key {}", arguments.public.display()))
        .or_usage()?;
    let public = VerifyingKey::from_pem(&pem).or_usage()?;
    let act = TrustAct::Enrol {
        name: arguments.name,
        role: arguments.role.into(),
        algorithm: public.algorithm(),
        key: public.fingerprint(),
        public: public.to_base64(),
        clusters: arguments.cluster,
        group: arguments.group,
    };
    append(&arguments.operator, &arguments.root_key, vec![act]).await?;
    Ok(Exit::Done)
}

async fn require(arguments: RequireArguments) -> anyhow::Result<Exit> {
    let operator = arguments.operator.load()?;
    let repository = operator.open().await?;
    let trust = operator.trust(&repository).await?;
    // A rule that nobody can fulfil would lock everybody out on the worst day.
    let may = |key: &TrustedKey| {
        key.role == TrustRole::Approver
            && key.revoked.is_none()
            && (key.clusters.is_empty() || arguments.cluster.iter().all(|c| key.clusters.contains(c)))
            && (!arguments.cluster.is_empty() || key.clusters.is_empty())
    };
    let approvers: Vec<&TrustedKey> = trust.keys().map(|(_, key)| key).filter(|key| may(key)).collect();
    let people: BTreeSet<&ActorName> = approvers.iter().map(|key| &key.name).collect();
    let groups: BTreeSet<&GroupName> = approvers.iter().filter_map(|key| key.group.as_ref()).collect();
    let (approvals, wanted) = (arguments.approvals as usize, arguments.groups as usize);
    if approvals > 0 && (people.len() < approvals || groups.len() < wanted) {
        return Err(Failure::usage(format!(
            "{approvals} approvals of {wanted} groups are asked for, and {} of {} are enrolled for this scope: enrol \
             approvers first (holdfast trust enrol --role approver --group GROUP)",
            screen::count(people.len() as u64, "approver"),
            screen::count(groups.len() as u64, "group"),
        )));
    }
    let act = TrustAct::Require {
        action: arguments.action,
        clusters: arguments.cluster,
        quorum: Quorum {
            approvals: arguments.approvals,
            groups: arguments.groups.min(arguments.approvals),
            valid_ms: arguments.valid.millis(),
        },
    };
    append(&arguments.operator, &arguments.root_key, vec![act]).await?;
    Ok(Exit::Done)
}

async fn revoke(arguments: RevokeArguments) -> anyhow::Result<Exit> {
    let believed = arguments
        .believe
        .iter()
        .map(|text| {
            let (key, sha256) = text
                .rsplit_once('=')
                .ok_or_else(|| Failure::usage(format!("{text:?}: write --believe KEY=SHA256")))?;
            let located = holdfast_repository::layout::parse(key)
                .ok_or_else(|| Failure::usage(format!("{key:?} is not an object's key")))?;
            Ok(Link {
                key: located.key(),
                sha256: sha256.parse().or_usage()?,
            })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let act = TrustAct::Revoke {
        key: arguments.key,
        believed,
        reason: arguments.reason,
    };
    append(&arguments.operator, &arguments.root_key, vec![act]).await?;
    Ok(Exit::Done)
}

async fn show(arguments: ShowArguments) -> anyhow::Result<Exit> {
    let operator = arguments.operator.load()?;
    let repository = operator.open().await?;
    let trust = operator.trust(&repository).await?;
    let keys: Vec<_> = trust.keys().collect();
    if arguments.json {
        let rows: Vec<_> = keys
            .iter()
            .map(|(fingerprint, k)| {
                serde_json::json!({
                    "name": k.name, "role": k.role, "key": fingerprint, "algorithm": k.algorithm,
                    "clusters": k.clusters, "revoked": k.revoked.is_some(),
                })
            })
            .collect();
        let rules: Vec<_> = trust
            .rules()
            .map(|(action, clusters, quorum)| {
                serde_json::json!({"action": action, "clusters": clusters, "quorum": quorum})
            })
            .collect();
        let shown = serde_json::json!({"keys": rows, "approvals": rules});
        println!("{}", serde_json::to_string_pretty(&shown)?);
        return Ok(Exit::Done);
    }
    let scope = |clusters: &BTreeSet<ClusterId>| match clusters.len() {
        0 => "all".to_owned(),
        _ => clusters
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" "),
    };
    let mut rows = vec![
        ["name", "role", "clusters", "key", "state"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for (fingerprint, k) in keys {
        rows.push(vec![
            k.name.to_string(),
            match &k.group {
                Some(group) => format!("{} ({group})", k.role.as_str()),
                None => k.role.as_str().to_owned(),
            },
            scope(&k.clusters),
            fingerprint.to_string(),
            if k.revoked.is_some() {
                "revoked".into()
            } else {
                "believed".into()
            },
        ]);
    }
    if screen::print_table(&rows) {
        println!("Keys are cut to fit: --json shows them whole.");
    }
    for (action, clusters, quorum) in trust.rules() {
        println!(
            "{action} of {} needs {}, within {}",
            scope(clusters),
            approval::people(quorum),
            screen::span(quorum.valid_ms)
        );
    }
    Ok(Exit::Done)
}
