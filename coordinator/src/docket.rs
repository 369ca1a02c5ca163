//! What waits for people: requests and where each stands, as the repository shows it.
//!
//! Read when somebody wants to see it, and once for all who ask within a few seconds.
//! A request is granted where its approver's key is, on their own machine: nothing here
//! can say yes.

use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::Timestamp;
use holdfast_proto::finding::Finding;
use holdfast_repository::Repository;
use holdfast_repository::approval::{self, Found, Ignored, Request, Standing};
use holdfast_repository::trust::Trust;
use tokio::sync::Mutex;

use crate::desk::now;

/// How long a reading is shown.
const FRESH_MS: u64 = 5_000;

/// How long a reader waits.
const PATIENCE: Duration = Duration::from_secs(7);

/// Requests that are shown, newest first.
const SHOWN: usize = 200;

/// The requests as they were read.
#[derive(Debug)]
pub struct Docket {
    /// When.
    pub at: Timestamp,
    /// The newest requests and where each stood, newest first.
    pub requests: Vec<(Request, Standing)>,
    /// How many older ones are not among them.
    pub older: usize,
    /// What lies there and is no request.
    pub ignored: Vec<Ignored>,
    /// The replicas that could not be listed: a request that is only there is missing here.
    pub away: Vec<Finding>,
}

/// The last reading, for all who ask.
#[derive(Debug, Clone, Default)]
pub struct Dockets(Arc<Mutex<Option<Arc<Docket>>>>);

impl Dockets {
    /// The requests as they were read lately.
    ///
    /// # Errors
    /// They cannot be read, in words for a person.
    pub async fn read(
        &self,
        repository: &Repository,
        trust: Option<Arc<Trust>>,
    ) -> Result<Arc<Docket>, String> {
        let trust = trust.ok_or("the trust chain has not been read yet")?;
        let (last, repository) = (Arc::clone(&self.0), repository.clone());
        // On its own: whoever waits gives up after a while, and the reading goes on, so
        // that the next one finds it done.
        let reading = tokio::spawn(async move {
            let mut last = last.lock().await;
            if let Some(docket) = last.as_ref().filter(|d| now().millis_since(d.at) < FRESH_MS) {
                return Ok(Arc::clone(docket));
            }
            let docket = read(&repository, &trust).await.map(Arc::new)?;
            *last = Some(Arc::clone(&docket));
            Ok(docket)
        });
        match tokio::time::timeout(PATIENCE, reading).await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => Err(format!("reading them ended unexpectedly: {error}")),
            Err(_) => Err(format!(
                "the repository did not answer within {} s: ask again in a moment",
                PATIENCE.as_secs()
            )),
        }
    }
}

async fn read(repository: &Repository, trust: &Trust) -> Result<Docket, String> {
    let at = now();
    let found = approval::list(repository, trust)
        .await
        .map_err(|e| e.to_string())?;
    let Found {
        mut items,
        ignored,
        away,
    } = found;
    let older = items.len().saturating_sub(SHOWN);
    items.truncate(SHOWN);
    let mut requests = Vec::with_capacity(items.len());
    for request in items {
        let standing = approval::standing(repository, trust, &request, 0, at)
            .await
            .map_err(|e| e.to_string())?;
        requests.push((request, standing));
    }
    Ok(Docket {
        at,
        requests,
        older,
        ignored,
        away,
    })
}
