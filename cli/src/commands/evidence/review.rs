//! `holdfast evidence review`: somebody who had no part in a drill puts their name
//! to its statement.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use holdfast_drills::evidence::dsse::Envelope;
use holdfast_drills::evidence::review;
use holdfast_drills::log::DrillLog;
use holdfast_proto::names::{ActorName, DrillId};
use holdfast_proto::record::TrustRole;
use holdfast_repository::signing::SigningKey;

use super::{find, open};
use crate::exit::{Exit, Failure, OrExit};
use crate::operator::OperatorArguments;

#[derive(Debug, Args)]
pub struct ReviewArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The drill's id, from `evidence list`.
    drill: DrillId,
    /// The reviewer's key: a person's, enrolled as reviewer, nobody else's.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

pub async fn run(arguments: ReviewArguments) -> anyhow::Result<Exit> {
    let key = SigningKey::load(&arguments.key)
        .context("the reviewer's key")
        .or_usage()?;
    let (log, entries) = open(&arguments.operator).await?;
    let (index, entry, statement) = find(&entries, arguments.drill)?;
    let cluster = statement.predicate.scope.id();
    let trust = log.trust();
    let reviewer = trust
        .check(&key.fingerprint(), &[TrustRole::Reviewer], Some(&cluster))
        .or_no()?;
    // Nobody signs what does not hold: first the runner, then whoever countersigned.
    let runner = trust
        .check(&entry.signer(), &[TrustRole::Runner], Some(&cluster))
        .or_no()?;
    entry.envelope.verify(&runner.verifying).or_no()?;
    let coordinators = countersigned_by(&log, &entry.digest()).await?;
    if coordinators.is_empty() {
        return Err(Failure::no(format!(
            "the coordinator has not countersigned drill {}: review it when it has",
            arguments.drill
        )));
    }
    if let Some(part) = review::conflict(statement, &reviewer.name, &coordinators) {
        return Err(Failure::no(format!(
            "{} {part}, and cannot review it: duties are not separated. Somebody else must",
            reviewer.name
        )));
    }
    let mut envelope = entry.envelope.clone();
    envelope.sign(&key);
    let own = envelope
        .only(key.fingerprint())
        .context("the signature is gone")?;
    let (store, leaf, role) = (log.store(), entry.digest(), TrustRole::Reviewer);
    if store.signature(&leaf, role).await.or_unavailable()?.is_none() {
        store
            .put_signature(&leaf, role, own.to_bytes().into())
            .await
            .or_unavailable()?;
    }
    let stored = store.signature(&leaf, role).await.or_unavailable()?;
    let by = stored
        .as_deref()
        .and_then(|bytes| Envelope::parse(bytes).ok())
        .and_then(|e| e.signatures.first().map(|s| s.key));
    if by != Some(key.fingerprint()) {
        let who = by
            .and_then(|k| trust.key(&k))
            .map_or("somebody else".to_owned(), |k| k.name.to_string());
        return Err(Failure::no(format!(
            "{who} has reviewed drill {} already: the first review counts",
            arguments.drill
        )));
    }
    let p = &statement.predicate;
    println!(
        "{} reviewed drill {} of {cluster}: {}, log entry {index}",
        reviewer.name, arguments.drill, p.results.verdict
    );
    println!("{}", review::parts(statement, &coordinators));
    Ok(Exit::Done)
}

/// Names of the coordinators whose countersignatures hold.
async fn countersigned_by(
    log: &DrillLog,
    leaf: &holdfast_proto::Sha256Digest,
) -> anyhow::Result<Vec<ActorName>> {
    let stored = log
        .store()
        .signature(leaf, TrustRole::Coordinator)
        .await
        .or_unavailable()?;
    let Some(envelope) = stored.and_then(|bytes| Envelope::parse(&bytes).ok()) else {
        return Ok(Vec::new());
    };
    let held = |key| {
        let known = log.trust().check(key, &[TrustRole::Coordinator], None).ok()?;
        envelope
            .verify(&known.verifying)
            .ok()
            .map(|()| known.name.clone())
    };
    Ok(envelope.signatures.iter().filter_map(|s| held(&s.key)).collect())
}
