//! How `holdfast agent backup` asks a running agent for work.
//!
//! Two processes must not write for one cluster, so when an agent runs on the state
//! directory the command leaves a request in it and waits. A request is
//! `requests/<id>.ask`; the agent answers with `<id>.progress` from time to time and
//! `<id>.answer` at the end. The one who asked removes them; what it left behind
//! when it was killed is removed with the agent's next start.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::Timestamp;
use holdfast_proto::message::Work;
use holdfast_proto::names::{ClusterId, WorkId};
use holdfast_repository::replica::explained;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::Agent;
use super::jobs::{Asker, Job};
use super::made::Made;
use crate::durable::{self, LocalFileError};
use crate::progress::Meter;

/// How often the two sides look.
const LOOK: Duration = Duration::from_millis(250);

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Its identity.
    pub id: WorkId,
    /// For which cluster.
    pub cluster: ClusterId,
    /// What.
    pub work: Work,
}

/// The outcome: what was made, or why nothing was.
pub type Answer = Result<Made, String>;

fn file(directory: &Path, id: WorkId, kind: &str) -> PathBuf {
    directory.join(format!("{id}.{kind}"))
}

fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), LocalFileError> {
    durable::replace(
        path,
        &serde_json::to_vec(value).expect("plain values always encode"),
    )
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, LocalFileError> {
    Ok(durable::read(path)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Asks, and waits for the answer. Cancelling takes the waiting back, not the work.
pub async fn ask(
    directory: &Path,
    cluster: &ClusterId,
    work: Work,
    meter: &Meter,
    cancel: &CancellationToken,
) -> Result<Option<Answer>, LocalFileError> {
    let now = Timestamp::from_chrono(chrono::Utc::now());
    let id = WorkId::from_parts(now, rand::random());
    let request = Request {
        id,
        cluster: cluster.clone(),
        work,
    };
    write(&file(directory, id, "ask"), &request)?;
    let mut seen = (0, 0);
    let answer = loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = cancel.cancelled() => break None,
        }
        if let Some((done, total)) = read::<(u64, u64)>(&file(directory, id, "progress"))? {
            meter.expect(total.saturating_sub(seen.1));
            meter.advance(done.saturating_sub(seen.0));
            seen = (done.max(seen.0), total.max(seen.1));
        }
        if let Some(answer) = read::<Answer>(&file(directory, id, "answer"))? {
            break Some(answer);
        }
    };
    for kind in ["ask", "progress", "answer"] {
        durable::remove(&file(directory, id, kind))?;
    }
    Ok(answer)
}

/// The agent's side: which requests are new.
pub fn pending(directory: &Path) -> Result<Vec<Request>, LocalFileError> {
    let mut requests = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(|e| LocalFileError::new("list", directory, e))? {
        let path = entry
            .map_err(|e| LocalFileError::new("list", directory, e))?
            .path();
        if path.extension().is_some_and(|e| e == "ask")
            && let Some(request) = read::<Request>(&path)?
            && !file(directory, request.id, "answer").exists()
        {
            requests.push(request);
        }
    }
    requests.sort_by_key(|r| r.id);
    Ok(requests)
}

/// Tells how far a request is.
pub fn progress(directory: &Path, id: WorkId, meter: &Meter) -> Result<(), LocalFileError> {
    if !file(directory, id, "ask").exists() {
        return Ok(());
    }
    write(&file(directory, id, "progress"), &meter.read())
}

/// Answers a request. Nobody is told when the one who asked has gone.
pub fn answer(directory: &Path, id: WorkId, answer: &Answer) -> Result<(), LocalFileError> {
    if !file(directory, id, "ask").exists() {
        return Ok(());
    }
    write(&file(directory, id, "answer"), answer)
}

/// Removes what was asked of an agent that is gone.
pub fn clear(directory: &Path) -> Result<(), LocalFileError> {
    for entry in std::fs::read_dir(directory).map_err(|e| LocalFileError::new("list", directory, e))? {
        durable::remove(
            &entry
                .map_err(|e| LocalFileError::new("list", directory, e))?
                .path(),
        )?;
    }
    Ok(())
}

/// Takes requests of `holdfast agent backup` until cancelled.
pub async fn serve(agent: &Arc<Agent>, directory: &Path, stop: &CancellationToken) {
    let mut taken = BTreeSet::new();
    let mut look = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = stop.cancelled() => return,
        }
        let pending = match pending(directory) {
            Ok(pending) => pending,
            Err(error) => {
                tracing::info!(err = %explained(&error), "requests cannot be read");
                continue;
            }
        };
        for request in pending {
            if taken.insert(request.id) {
                let (agent, directory) = (agent.clone(), directory.to_owned());
                tokio::spawn(async move { fulfil(&agent, &directory, request).await });
            }
        }
    }
}

async fn fulfil(agent: &Agent, directory: &Path, request: Request) {
    let meter = Meter::default();
    let Some(cluster) = agent.cluster(&request.cluster) else {
        let why = format!(
            "the running agent does not protect {}: restart it with the new configuration",
            request.cluster
        );
        note(answer(directory, request.id, &Err(why)));
        return;
    };
    let (sender, mut outcome) = oneshot::channel();
    cluster.ask(Job {
        work: request.work,
        reason: "asked for by hand".to_owned(),
        meter: meter.clone(),
        asker: Asker::Waiting(None, sender),
    });
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    let outcome = loop {
        tokio::select! {
            outcome = &mut outcome => break outcome,
            _ = tick.tick() => note(progress(directory, request.id, &meter)),
        }
    };
    let outcome = outcome.unwrap_or_else(|_| Err("the agent was stopped: ask again when it runs".to_owned()));
    note(answer(directory, request.id, &outcome));
}

fn note(written: Result<(), LocalFileError>) {
    if let Err(error) = written {
        tracing::info!(err = %explained(&error), "a request could not be answered");
    }
}
