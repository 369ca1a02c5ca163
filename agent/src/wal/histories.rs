//! Stores the history of a timeline and of its ancestors before any of its WAL.
//!
//! A history is small, the same for ever, and without it recovery goes astray: it is on
//! some replica before the stream begins. One that was away gets it before any WAL
//! (`courier`), and until then nothing that it holds counts as acknowledged (`ledger`): so
//! a region that is lost does not keep WAL from the others.
//! The same timeline with another history is another future of the cluster. A
//! history leads restores along its timeline, so that of a server that is not to
//! be followed must never be stored: reading and storing are two steps, and the
//! decision lies between them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use holdfast_proto::pg::{Lsn, TimelineHistory, TimelineId};
use holdfast_proto::record::HistoryBody;
use holdfast_repository::layout;
use holdfast_repository::replica::explained;
use holdfast_repository::{Deadlines, StoreError};

use super::archive::ArchiveError;
use super::shared::Shared;
use super::start::Refusal;
use super::trouble::Trouble;
use crate::postgres::{PgError, ReplicationConnection};

/// What a server says of its timeline's past.
pub(super) struct ServerHistory {
    /// Parsed.
    pub history: TimelineHistory,
    /// The files of the timeline and of its ancestors.
    files: Vec<(TimelineId, Bytes)>,
}

/// The histories of one line.
pub(super) struct Histories {
    shared: Arc<Shared>,
    /// Stored, or compared with what is stored, by this process.
    stored: BTreeMap<TimelineId, Bytes>,
}

impl Histories {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            stored: BTreeMap::new(),
        }
    }

    /// What the server says of `timeline` and its ancestors. Nothing is stored.
    pub async fn of_server(
        connection: &mut ReplicationConnection,
        timeline: TimelineId,
    ) -> Result<ServerHistory, Trouble> {
        let mut newest = TimelineHistory::root(timeline);
        let mut files = Vec::new();
        let mut wanted = vec![timeline];
        while let Some(next) = wanted.pop() {
            // It has none, and the server would log an error.
            if next == TimelineId::FIRST {
                continue;
            }
            let Some(file) = connection.timeline_history(next).await? else {
                continue;
            };
            let parsed = TimelineHistory::parse(next, &String::from_utf8_lossy(&file.content))
                .map_err(|e| PgError::Invalid(e.to_string()))?;
            if next == timeline {
                wanted.extend(parsed.ancestors().iter().map(|switch| switch.timeline));
                newest = parsed;
            }
            files.push((next, file.content));
        }
        Ok(ServerHistory {
            history: newest,
            files,
        })
    }

    /// What the files in a server's `pg_wal` say of `timeline` and its ancestors.
    /// Nothing is stored.
    pub fn of_directory(pg_wal: &Path, timeline: TimelineId) -> Result<ServerHistory, Trouble> {
        let mut said = ServerHistory {
            history: TimelineHistory::root(timeline),
            files: Vec::new(),
        };
        if timeline == TimelineId::FIRST {
            return Ok(said);
        }
        let unreadable = |path: &Path, why: String| Trouble::NoHistory {
            timeline,
            path: path.to_owned(),
            why,
        };
        let path = pg_wal.join(timeline.history_file());
        let content = std::fs::read(&path).map_err(|e| unreadable(&path, e.to_string()))?;
        said.history = TimelineHistory::parse(timeline, &String::from_utf8_lossy(&content))
            .map_err(|e| unreadable(&path, e.to_string()))?;
        said.files.push((timeline, content.into()));
        // Ancestors from before a restore need not be there.
        for ancestor in said.history.ancestors() {
            if let Ok(content) = std::fs::read(pg_wal.join(ancestor.timeline.history_file())) {
                said.files.push((ancestor.timeline, content.into()));
            }
        }
        Ok(said)
    }

    /// One history of a server that is followed, to be stored.
    pub fn one(history: TimelineHistory, content: Bytes) -> ServerHistory {
        let files = vec![(history.timeline(), content)];
        ServerHistory { history, files }
    }

    /// Stores what a server that is followed says of its timelines; what is
    /// archived under the same numbers must be the same.
    pub async fn store(&mut self, said: ServerHistory) -> Result<(), Trouble> {
        for (timeline, content) in said.files {
            if self.stored.get(&timeline) != Some(&content) {
                self.store_history(timeline, &content).await?;
                self.stored.insert(timeline, content);
            }
        }
        Ok(())
    }

    async fn store_history(&self, timeline: TimelineId, content: &[u8]) -> Result<(), Trouble> {
        let key = layout::history(
            &self.shared.publisher.cluster,
            self.shared.archive.lineage,
            timeline,
        );
        let body = HistoryBody {
            system: self.shared.archive.lineage.system,
            timeline,
        };
        let object = self.shared.publisher.sign(&key, content, None, None, &body).bytes;
        let storing = self.shared.replicas.iter().enumerate().map(|(place, replica)| {
            let (object, key) = (object.clone(), key.clone());
            async move {
                let replica = replica.with_deadlines(Deadlines::short());
                match replica.create(&key, object).await {
                    Ok(_) => {}
                    Err(StoreError::Conflict { .. }) => {
                        let there = self.shared.archive.history(&replica, timeline).await?;
                        if there.is_none_or(|there| there != content) {
                            return Err(ArchiveError::Damaged {
                                key,
                                why: "the server has another history for this timeline".to_owned(),
                            });
                        }
                    }
                    Err(error) => return Err(error.into()),
                }
                self.shared.stored_history(place, timeline);
                Ok(())
            }
        });
        let outcomes = join_all(storing).await;
        let stored = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let failures: Vec<ArchiveError> = outcomes.into_iter().filter_map(Result::err).collect();
        if failures
            .iter()
            .any(|failure| matches!(failure, ArchiveError::Damaged { .. }))
        {
            let archive = self.shared.ledger(|ledger| ledger.union(timeline).last());
            return Err(Trouble::Refused(Refusal::Diverged {
                server_timeline: timeline,
                archive_timeline: timeline,
                archive: archive.map_or(Lsn::new(0), |(_, end)| end),
            }));
        }
        if stored == 0 {
            let why: Vec<String> = failures.iter().map(|f| explained(f)).collect();
            return Err(Trouble::HistoryNotStored {
                timeline,
                why: why.join("; "),
            });
        }
        Ok(())
    }
}
