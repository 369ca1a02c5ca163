//! `holdfast evidence witness`: cosign the log for somebody outside.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use holdfast_drills::evidence::tlog::{NoteKey, SignedNote};
use holdfast_drills::evidence::verify::published_log;
use holdfast_drills::witness::{Cosigned, Witness, WitnessError};
use holdfast_repository::clock;
use holdfast_repository::signing::SigningKey;

use super::log;
use crate::exit::{Exit, Failure, OrExit};
use crate::operator::OperatorArguments;

#[derive(Debug, Args)]
pub struct WitnessArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The name to cosign under, as a domain: auditor.example.
    #[arg(long)]
    name: String,
    /// The witness's own Ed25519 key; made if there is no such file.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// What the witness has seen. Keep it with the key: without it the witness
    /// cannot tell a log that was rewritten.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// This is the first look at this log.
    #[arg(long)]
    first: bool,
    /// Take the log's hashes from an export instead of the repository; the
    /// cosignature goes to --out.
    #[arg(long, value_name = "DIR", requires = "out")]
    export: Option<PathBuf>,
    /// Where the cosignature goes.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Look again every so many seconds, until stopped.
    #[arg(long, value_name = "SECONDS", conflicts_with = "export")]
    every: Option<u64>,
    /// Print the key by which cosignatures are checked, and end.
    #[arg(long)]
    show_key: bool,
}

#[derive(Debug, Args)]
pub struct AddArguments {
    #[command(flatten)]
    operator: OperatorArguments,
    /// The cosignature, from `evidence witness --out`.
    note: PathBuf,
    /// The witness's key, as it publishes it.
    #[arg(long, value_name = "NAME+HASH+KEY")]
    witness: NoteKey,
}

pub async fn run(arguments: WitnessArguments) -> anyhow::Result<Exit> {
    let key = key(&arguments)?;
    if arguments.show_key {
        let kind = holdfast_drills::evidence::tlog::note::SignatureKind::Cosignature;
        println!(
            "{}",
            NoteKey::new(&arguments.name, kind, key.verifying()).or_usage()?
        );
        return Ok(Exit::Done);
    }
    let state = arguments
        .state
        .as_ref()
        .ok_or_else(|| Failure::usage("--state FILE is needed: what this witness has seen is kept there"))?;
    let mut witness = Witness::open(&arguments.name, key, state, arguments.first).or_usage()?;
    if let Some(directory) = &arguments.export {
        let root = arguments.operator.load()?.root()?;
        let (head, tree) = published_log(directory, root)
            .map_err(|why| Failure::no(format!("{}: {why}", directory.display())))?;
        let cosigned = witness.cosign(&head, &tree, clock::now()).or_no()?;
        let out = arguments.out.as_ref().context("--out is missing").or_usage()?;
        std::fs::write(out, cosigned.note.to_string())
            .with_context(|| format!("writing {}", out.display()))
            .or_usage()?;
        say(&arguments.name, &cosigned);
        println!("The cosignature is in {}", out.display());
        return Ok(Exit::Done);
    }
    let Some(seconds) = arguments.every else {
        match refused(look(&mut witness, &arguments.operator).await)? {
            Some(cosigned) => say(&arguments.name, &cosigned),
            None => println!("Nothing is new: the newest checkpoint is cosigned."),
        }
        return Ok(Exit::Done);
    };
    loop {
        match look(&mut witness, &arguments.operator).await {
            Ok(Some(cosigned)) => say(&arguments.name, &cosigned),
            Ok(None) => {}
            // A store that is away comes back; a log that was rewritten does not.
            Err(Look::Away(why)) => {
                eprintln!("warning: the log cannot be read, and is looked at again: {why:#}")
            }
            Err(Look::Witness(WitnessError::Log(e))) => {
                eprintln!("warning: the log cannot be read, and is looked at again: {e}");
            }
            Err(Look::Witness(WitnessError::Empty)) => {}
            Err(e @ Look::Witness(_)) => return refused(Err(e)),
        }
        tokio::time::sleep(Duration::from_secs(seconds.max(1))).await;
    }
}

/// Why a look came to nothing.
enum Look {
    /// The repository cannot be opened.
    Away(anyhow::Error),
    /// The witness.
    Witness(WitnessError),
}

async fn look(witness: &mut Witness, operator: &OperatorArguments) -> Result<Option<Cosigned>, Look> {
    let log = log(operator).await.map_err(Look::Away)?;
    witness.look(&log, clock::now()).await.map_err(Look::Witness)
}

/// A log that was rewritten is an answer; a store out of reach is not.
fn refused<T>(result: Result<T, Look>) -> anyhow::Result<T> {
    match result {
        Ok(value) => Ok(value),
        Err(Look::Away(e)) => Err(e),
        Err(Look::Witness(e @ WitnessError::Log(_))) => Err(e).or_unavailable(),
        Err(Look::Witness(e)) => Err(e).or_no(),
    }
}

fn say(name: &str, cosigned: &Cosigned) {
    match cosigned.before {
        Some(before) => println!(
            "{name} cosigned {} entries: they begin with the {before} seen before",
            cosigned.seen.size
        ),
        None => println!(
            "{name} cosigned {} entries: the first look at this log",
            cosigned.seen.size
        ),
    }
}

fn key(arguments: &WitnessArguments) -> anyhow::Result<SigningKey> {
    let path = &arguments.key;
    if path.exists() {
        return SigningKey::load(path).context("the witness's key").or_usage();
    }
    let key = SigningKey::generate_ed25519().or_usage()?;
    key.save(path).context("the witness's key").or_usage()?;
    eprintln!("Made a key in {}", path.display());
    Ok(key)
}

pub async fn add(arguments: AddArguments) -> anyhow::Result<Exit> {
    let bytes = std::fs::read(&arguments.note)
        .with_context(|| format!("reading {}", arguments.note.display()))
        .or_usage()?;
    let note = SignedNote::parse(&bytes).or_usage()?;
    let log = log(&arguments.operator).await?;
    let size: u64 = note
        .text()
        .lines()
        .nth(1)
        .and_then(|line| line.parse().ok())
        .ok_or_else(|| Failure::usage(format!("{} is no cosignature", arguments.note.display())))?;
    let stored = log.store().checkpoint(size).await.or_unavailable()?;
    let mut checkpoint = stored
        .and_then(|b| holdfast_drills::evidence::tlog::SignedCheckpoint::parse(&b).ok())
        .ok_or_else(|| Failure::no(format!("the log has no checkpoint of {size} entries")))?;
    let seen = checkpoint.add_cosignature(&bytes, &arguments.witness).or_no()?;
    log.store()
        .put_cosignature(size, &arguments.witness.fingerprint(), bytes.into())
        .await
        .or_unavailable()?;
    println!(
        "{} saw {size} entries at {}; it is beside the log",
        arguments.witness.name(),
        crate::screen::second(seen)
    );
    Ok(Exit::Done)
}
