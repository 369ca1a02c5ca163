//! Looks after the agent's certificate as long as the agent runs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_plan::certificate::urgency;
use holdfast_proto::Timestamp;
use holdfast_proto::finding::Severity;
use holdfast_repository::replica::explained;
use tokio_util::sync::CancellationToken;

use super::{CertificateError, Credential, Kept, LOOK, of_files, written};
use crate::config::{CertificateSource, CoordinatorConfig};
use crate::heartbeat::Caller;
use crate::run::Agent;

/// Between two attempts that fail: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Everything in the findings is about this.
const SUBJECT: &str = "coordinator";

/// Gets certificates and has the caller use them, until cancelled.
pub async fn run(agent: Arc<Agent>, caller: Caller, config: CoordinatorConfig, cancel: CancellationToken) {
    let kept = Kept::of(&agent.state);
    let mut tending = Tending {
        agent: &agent,
        caller,
        kept,
        config: &config,
        worn: None,
    };
    let mut pause = PAUSE.0;
    loop {
        // Before anything is read: what is written after that is seen.
        let before = written(&tending.files());
        let at = now();
        let outcome = tokio::select! {
            outcome = tending.step(at) => outcome,
            () = cancel.cancelled() => return,
        };
        tending.tell(&outcome, now());
        let wait = match outcome {
            Ok(()) => {
                pause = PAUSE.0;
                tending.until_due(now())
            }
            Err(_) => {
                let wait = pause;
                pause = (pause * 2).min(PAUSE.1);
                wait
            }
        };
        let changed = async {
            while written(&tending.files()) == before {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // An attempt that failed wrote its key: the pause is kept all the same.
            () = changed => tokio::time::sleep(PAUSE.0).await,
            () = cancel.cancelled() => return,
        }
    }
}

struct Tending<'a> {
    agent: &'a Arc<Agent>,
    caller: Caller,
    kept: Kept,
    config: &'a CoordinatorConfig,
    worn: Option<Credential>,
}

impl Tending<'_> {
    /// Files of which another content is another certificate.
    fn files(&self) -> Vec<&Path> {
        match &self.config.certificate {
            CertificateSource::Files { cert, key } => vec![cert, key],
            CertificateSource::Kept { token_file } => std::iter::once(self.kept.current.as_path())
                .chain(token_file.as_deref())
                .collect(),
        }
    }

    /// Brings what is in use as far as it can be brought now.
    async fn step(&mut self, now: Timestamp) -> Result<(), CertificateError> {
        let (cert, key) = match &self.config.certificate {
            CertificateSource::Files { cert, key } => (cert, key),
            CertificateSource::Kept { token_file } => return self.keep(token_file.as_deref(), now).await,
        };
        let credential = of_files(cert, key)?;
        self.wear(credential)
    }

    async fn keep(&mut self, token_file: Option<&Path>, now: Timestamp) -> Result<(), CertificateError> {
        let name = &self.agent.config.name;
        match self.kept.current()?.filter(|current| now < current.ends) {
            None => {
                if let Some(credential) = self.kept.last_hope(&self.caller, name, now).await? {
                    return self.wear(credential);
                }
                let token_file = token_file.ok_or(CertificateError::NoToken)?;
                let credential = self.kept.enrol(&self.caller, name, token_file).await?;
                tracing::info!(until = %credential.ends, "the agent got its certificate");
                self.wear(credential)
            }
            Some(current) => {
                let due = now >= current.due();
                self.wear(current)?;
                if !due {
                    return Ok(());
                }
                let credential = self.kept.renew(&self.caller, name, now).await?;
                tracing::info!(until = %credential.ends, "the agent's certificate was renewed");
                self.wear(credential)
            }
        }
    }

    /// Has the next connection use a credential.
    fn wear(&mut self, credential: Credential) -> Result<(), CertificateError> {
        if self.worn.as_ref() != Some(&credential) {
            self.caller.wear(&credential)?;
            self.worn = Some(credential);
        }
        Ok(())
    }

    /// How long nothing is to be done by itself.
    fn until_due(&self, now: Timestamp) -> Duration {
        let due = self.worn.as_ref().map_or(0, |worn| worn.due().millis_since(now));
        // Findings follow the clock, and the clock may be set.
        Duration::from_millis(due).clamp(PAUSE.0, Duration::from_secs(60))
    }

    /// Says what holds of the certificate.
    fn tell(&self, outcome: &Result<(), CertificateError>, now: Timestamp) {
        let agent = self.agent;
        let why = outcome.as_ref().err().map(|error| explained(error));
        if let Some(why) = &why {
            tracing::info!(why, "the agent's certificate");
        }
        let left = self.worn.as_ref().map(|worn| worn.ends.millis_since(now));
        match (&why, left) {
            (Some(why), None) => agent.raise_everywhere(
                Severity::Warning,
                "not-enrolled",
                SUBJECT,
                &format!("{why}; protection goes on by the tier's own schedule"),
            ),
            _ => agent.clear_everywhere("not-enrolled", SUBJECT),
        }
        let urgent = |worn: &Credential| Some((urgency(worn.begins, worn.ends, now)?, worn.ends));
        match self.worn.as_ref().and_then(urgent) {
            None => agent.clear_everywhere("certificate-expiring", SUBJECT),
            Some((severity, ends)) => {
                let how = match &why {
                    Some(why) => why.as_str(),
                    None => "it is one of the files of [coordinator], which the agent does not renew",
                };
                let detail = format!("the agent's certificate ends at {ends}: {how}");
                agent.raise_everywhere(severity, "certificate-expiring", SUBJECT, &detail);
            }
        }
    }
}

fn now() -> Timestamp {
    holdfast_repository::clock::now()
}
