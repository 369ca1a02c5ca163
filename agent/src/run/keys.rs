//! The keys that a cluster's backups are sealed to.
//!
//! The epoch keys of the month and the index key are there, on as many replicas as
//! the tier wants, before anything is sealed. When a month begins new epoch keys
//! are made and everybody who seals takes them up with the next thing sealed.

use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::Timestamp;
use holdfast_proto::envelope::Link;
use holdfast_proto::names::{Epoch, KeyKind};
use holdfast_proto::record::SealedTo;
use holdfast_repository::keyring::{KeyError, Wrapped, ensure_epoch_key, ensure_index_key, recipients_for};
use holdfast_repository::publisher::Publisher;
use holdfast_repository::seal::{EpochKey, IndexKey};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::findings::Findings;
use crate::state::ClusterState;

/// How often the calendar is looked at.
const LOOK: Duration = Duration::from_secs(60);

/// The keys of one cluster.
#[derive(Debug, Clone)]
pub struct Keys {
    publisher: Publisher,
    recipients: Arc<Vec<SealedTo>>,
    data: Arc<watch::Sender<Wrapped<EpochKey>>>,
    secrets: Arc<watch::Sender<Wrapped<EpochKey>>>,
    /// The index key.
    pub index: Wrapped<IndexKey>,
}

impl Keys {
    /// Sees to it that all keys are there.
    pub async fn ensure(
        publisher: &Publisher,
        recipients: &[SealedTo],
        state: &ClusterState,
        findings: &Findings,
    ) -> Result<Self, KeyError> {
        let epoch = Epoch::of(now());
        let to = recipients_for(KeyKind::Index, recipients);
        let index = ensure_index_key(publisher, &state.index_key(), epoch, &to).await?;
        let data = epoch_key(publisher, KeyKind::Data, epoch, recipients).await?;
        let secrets = epoch_key(publisher, KeyKind::Secrets, epoch, recipients).await?;
        for finding in [&index.findings, &data.findings, &secrets.findings]
            .into_iter()
            .flatten()
        {
            findings.note(finding.clone());
        }
        Ok(Self {
            publisher: publisher.clone(),
            recipients: Arc::new(recipients.to_vec()),
            data: Arc::new(watch::channel(data).0),
            secrets: Arc::new(watch::channel(secrets).0),
            index,
        })
    }

    /// The data key now.
    pub fn data(&self) -> Wrapped<EpochKey> {
        self.data.borrow().clone()
    }

    /// The data key as it changes.
    pub fn watch_data(&self) -> watch::Receiver<Wrapped<EpochKey>> {
        self.data.subscribe()
    }

    /// The secrets key now.
    pub fn secrets(&self) -> Wrapped<EpochKey> {
        self.secrets.borrow().clone()
    }

    /// Key objects that something sealed now needs on its replica.
    pub fn needs(&self) -> Vec<Link> {
        vec![self.data.borrow().object.clone(), self.index.object.clone()]
    }

    /// Makes the keys of a month when it begins, until cancelled.
    pub async fn renew(self, cancel: CancellationToken) -> Result<(), KeyError> {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = cancel.cancelled() => return Ok(()),
            }
            let epoch = Epoch::of(now());
            for (kind, key) in [(KeyKind::Data, &self.data), (KeyKind::Secrets, &self.secrets)] {
                if key.borrow().key.epoch != epoch {
                    let fresh = epoch_key(&self.publisher, kind, epoch, &self.recipients).await?;
                    tracing::info!(kind = %kind, epoch = %epoch, "epoch key taken up");
                    key.send_replace(fresh);
                }
            }
        }
    }
}

async fn epoch_key(
    publisher: &Publisher,
    kind: KeyKind,
    epoch: Epoch,
    recipients: &[SealedTo],
) -> Result<Wrapped<EpochKey>, KeyError> {
    ensure_epoch_key(publisher, kind, epoch, &recipients_for(kind, recipients)).await
}

fn now() -> Timestamp {
    Timestamp::from_chrono(chrono::Utc::now())
}
