//! Looks at and copies WAL that is in the repository already.
//!
//! An agent opens nothing that it stored, but headers are in clear: enough to
//! know how far each replica reaches, to continue the chain of objects, and to
//! copy objects from one replica to another. What is copied is checked to be the
//! whole object that belongs at its key; whether its signer is trusted is for
//! readers to decide.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::StreamExt;
use holdfast_proto::Sha256Digest;
use holdfast_proto::envelope::{self, Header, Link, Record};
use holdfast_proto::names::{ClusterId, KeyKind, Lineage, ObjectKey, RepositoryId};
use holdfast_proto::pg::{Lsn, SegmentSize, TimelineId};
use holdfast_proto::record::{HistoryBody, KeyBody, WalBody, WalChunk};
use holdfast_repository::layout::{self, Located, WalName};
use holdfast_repository::signing::SigningKey;
use holdfast_repository::{Replica, StoreError};

use super::ledger::Holdings;
use super::merge::Listed;
use super::seal::Chain;

/// Objects that are copied at the same time, of a few megabytes each.
const COPIES_AT_ONCE: usize = 4;

/// Where one line's WAL lies.
#[derive(Debug, Clone)]
pub struct Archive {
    /// The repository.
    pub repository: RepositoryId,
    /// The cluster.
    pub cluster: ClusterId,
    /// The line of descent.
    pub lineage: Lineage,
}

/// Why WAL in the repository cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The replica failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object is not what its key says.
    #[error(
        "the object {key} is not what belongs there ({why}): `holdfast verify --deep` says which replicas have a good copy"
    )]
    Damaged {
        /// The object.
        key: ObjectKey,
        /// What is wrong with it.
        why: String,
    },
    /// What a listing showed is not there.
    #[error("no replica that answers holds WAL of timeline {timeline} at {at}: bring the others back")]
    Missing {
        /// The timeline.
        timeline: TimelineId,
        /// The first byte that is missing.
        at: Lsn,
    },
    /// Nothing has what is to be copied.
    #[error("no other replica has what is missing here: bring the others back")]
    NoSource,
    /// The replica lacks the key object.
    #[error("the replica does not get the key object that opens the WAL: {0}")]
    Unprepared(String),
}

impl Archive {
    /// What `replica` holds of this lineage.
    pub async fn holdings(&self, replica: &Replica) -> Result<Holdings, StoreError> {
        let mut listing = replica.list_stream(&layout::wal_of(&self.cluster, self.lineage));
        let mut holdings = Holdings::default();
        while let Some(listed) = listing.next().await {
            match layout::parse(listed?.key.as_str()) {
                Some(Located::Wal { name, .. }) => {
                    holdings
                        .wal
                        .entry(name.timeline)
                        .or_default()
                        .add(name.start, name.end);
                    holdings.latest_commit = holdings.latest_commit.max(name.latest_commit);
                }
                Some(Located::History { timeline, .. }) => {
                    holdings.histories.insert(timeline);
                }
                _ => {}
            }
        }
        Ok(holdings)
    }

    /// The objects on `replica` that hold WAL of one segment, by start.
    pub(super) async fn segment(
        &self,
        replica: &Replica,
        timeline: TimelineId,
        size: SegmentSize,
        at: Lsn,
    ) -> Result<Vec<Listed>, StoreError> {
        let prefix = layout::wal_segment(&self.cluster, self.lineage, timeline, size.segment_of(at));
        let listed = replica.list(&prefix).await?;
        let mut objects: Vec<Listed> = listed
            .iter()
            .filter_map(|listed| match layout::parse(listed.key.as_str())? {
                Located::Wal { name, .. } => Some(Listed {
                    name,
                    size: listed.size,
                }),
                _ => None,
            })
            .collect();
        objects.sort_unstable_by_key(|listed| (listed.name.start, listed.name.end));
        Ok(objects)
    }

    /// Copies the WAL from `start` to `end`, at most to the end of its segment,
    /// from `source` to `target`, and returns how far it came.
    pub async fn copy(
        &self,
        source: &Replica,
        target: &Replica,
        timeline: TimelineId,
        size: SegmentSize,
        start: Lsn,
        end: Lsn,
    ) -> Result<Vec<(Lsn, Lsn)>, ArchiveError> {
        let names = self.segment(source, timeline, size, start).await?;
        let wanted: Vec<WalName> = names
            .into_iter()
            .map(|listed| listed.name)
            .filter(|n| n.end > start && n.start < end)
            .collect();
        if wanted.first().is_none_or(|first| first.start > start) {
            return Err(ArchiveError::Missing { timeline, at: start });
        }
        self.copy_keys(source, target).await?;
        let mut copying = futures::stream::iter(wanted)
            .map(|name| async move {
                let key = layout::wal(&self.cluster, self.lineage, &name);
                self.copy_object::<WalBody>(source, target, &key).await?;
                Ok::<_, ArchiveError>((name.start, name.end))
            })
            .buffered(COPIES_AT_ONCE);
        let mut copied = Vec::new();
        while let Some(outcome) = copying.next().await {
            match outcome {
                Ok(interval) => copied.push(interval),
                // What was copied before is there all the same.
                Err(error) if copied.is_empty() => return Err(error),
                Err(error) => {
                    tracing::debug!(err = %error, "copying stopped");
                    break;
                }
            }
        }
        Ok(copied)
    }

    /// What was sealed needs its key object first: copies those that `target`
    /// lacks.
    async fn copy_keys(&self, source: &Replica, target: &Replica) -> Result<(), ArchiveError> {
        let prefix = layout::keys(&self.cluster, KeyKind::Data);
        let there = target.list(&prefix).await?;
        for listed in source.list(&prefix).await? {
            if !there.iter().any(|have| have.key == listed.key) {
                self.copy_object::<KeyBody>(source, target, &listed.key).await?;
            }
        }
        Ok(())
    }

    /// Copies a history from `source` to `target`.
    pub async fn copy_history(
        &self,
        source: &Replica,
        target: &Replica,
        timeline: TimelineId,
    ) -> Result<(), ArchiveError> {
        let key = layout::history(&self.cluster, self.lineage, timeline);
        self.copy_object::<HistoryBody>(source, target, &key).await
    }

    async fn copy_object<B: Record>(
        &self,
        source: &Replica,
        target: &Replica,
        key: &ObjectKey,
    ) -> Result<(), ArchiveError> {
        let bytes = source.get(key).await?;
        self.inspect::<B>(key, &bytes)?;
        target.create(key, bytes).await?;
        Ok(())
    }

    /// Checks that `bytes` are the whole object that belongs at `key`, and
    /// returns its header.
    pub fn inspect<B: Record>(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Header<B>, ArchiveError> {
        let damaged = |why: String| ArchiveError::Damaged {
            key: key.clone(),
            why,
        };
        let parts = envelope::split(bytes).map_err(|e| damaged(e.to_string()))?;
        let header: Header<B> = parts.header().map_err(|e| damaged(e.to_string()))?;
        if header.repository != self.repository || header.key != *key {
            return Err(damaged(format!(
                "it says that it is {} of repository {}",
                header.key, header.repository
            )));
        }
        let payload = &header.payload;
        if payload.size != parts.payload.len() as u64 || payload.sha256 != Sha256Digest::of(parts.payload) {
            return Err(damaged("its payload is not the one it lists".to_owned()));
        }
        Ok(header)
    }

    /// Whether `bytes` carry a valid signature of `signer`'s key.
    pub fn is_signed_by(&self, signer: &SigningKey, bytes: &[u8]) -> bool {
        let Ok(parts) = envelope::split(bytes) else {
            return false;
        };
        let input = envelope::signing_input(parts.header);
        parts.signatures().is_ok_and(|signatures| {
            signatures.iter().any(|s| {
                s.key == signer.fingerprint()
                    && STANDARD
                        .decode(&s.sig)
                        .is_ok_and(|sig| signer.verifying().verify(&input, &sig).is_ok())
            })
        })
    }

    /// The content of a history on `replica`; `None` when it has none.
    pub async fn history(
        &self,
        replica: &Replica,
        timeline: TimelineId,
    ) -> Result<Option<Bytes>, ArchiveError> {
        let key = layout::history(&self.cluster, self.lineage, timeline);
        let bytes = match replica.get(&key).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let header: Header<HistoryBody> = self.inspect(&key, &bytes)?;
        Ok(Some(
            bytes.slice(..usize::try_from(header.payload.size).unwrap_or(0)),
        ))
    }

    /// Where the chain stands at `end`: the object that ends there, on whichever
    /// of `replicas` has it. Empty when none has.
    pub async fn chain_at(
        &self,
        replicas: &[Replica],
        timeline: TimelineId,
        size: SegmentSize,
        end: Lsn,
    ) -> Chain {
        let Some(last_byte) = end.get().checked_sub(1) else {
            return Chain::default();
        };
        for replica in replicas {
            match self.chain_on(replica, timeline, size, Lsn::new(last_byte)).await {
                Ok(Some((chain, _))) => return chain,
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(region = %replica.region(), err = %error, "the end of the chain is not readable here");
                }
            }
        }
        Chain::default()
    }

    /// The last chunk of what is stored up to `end`, on whichever of `replicas` has
    /// it. `None` when none has.
    pub async fn last_chunk(
        &self,
        replicas: &[Replica],
        timeline: TimelineId,
        size: SegmentSize,
        end: Lsn,
    ) -> Option<WalChunk> {
        let last_byte = Lsn::new(end.get().checked_sub(1)?);
        for replica in replicas {
            match self.chain_on(replica, timeline, size, last_byte).await {
                Ok(Some((_, chunk @ Some(_)))) => return chunk,
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(region = %replica.region(), err = %error, "the last chunk is not readable here");
                }
            }
        }
        None
    }

    async fn chain_on(
        &self,
        replica: &Replica,
        timeline: TimelineId,
        size: SegmentSize,
        last_byte: Lsn,
    ) -> Result<Option<(Chain, Option<WalChunk>)>, ArchiveError> {
        let names = self.segment(replica, timeline, size, last_byte).await?;
        let ends = |name: &&WalName| name.end.get() == last_byte.get() + 1;
        // The shortest: a merged object ends there as well, and is not what the
        // chain goes on from.
        let Some(name) = names
            .iter()
            .map(|listed| &listed.name)
            .filter(ends)
            .max_by_key(|n| n.start)
        else {
            return Ok(None);
        };
        let key = layout::wal(&self.cluster, self.lineage, name);
        let bytes = replica.get(&key).await?;
        let header: Header<WalBody> = self.inspect(&key, &bytes)?;
        let last = header.body.chunks.last();
        let chain = Chain {
            previous: Some(Link {
                key,
                sha256: Sha256Digest::of(&bytes),
            }),
            follows: last.map(|chunk| chunk.sha256),
            after_gap: None,
        };
        Ok(Some((chain, last.cloned())))
    }
}
