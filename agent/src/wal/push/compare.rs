//! Compares a segment's file with what is stored of it.
//!
//! What this process stored itself it remembers; everything else is asked of the
//! repository, whose headers carry the digests. Nothing is opened, and a header that
//! nobody trusted has signed counts for nothing.

use futures::{StreamExt, TryStreamExt};
use holdfast_proto::names::Region;
use holdfast_proto::pg::{Lsn, SegmentSize, TimelineId};
use holdfast_proto::record::{WalBody, WalChunk};
use holdfast_repository::Deadlines;
use holdfast_repository::layout::{self, Located, WalName};
use holdfast_repository::replica::{Class, explained};
use holdfast_repository::seal::IndexKey;
use holdfast_repository::trust::Trust;
use tokio::task::spawn_blocking;

use super::PushError;
use super::segment::SegmentFile;
use crate::wal::runs::Runs;
use crate::wal::seal::chunk_id;
use crate::wal::shared::Shared;

/// Headers that are read at the same time.
const HEADERS: usize = 16;

/// WAL of one timeline from `start` to `end`, within one segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub timeline: TimelineId,
    pub size: SegmentSize,
    pub start: Lsn,
    pub end: Lsn,
}

/// What each replica holds of a span, found to be the same bytes.
#[derive(Debug, Default)]
pub(super) struct Held(Vec<Runs>);

impl Held {
    /// Whether the replica at `place` holds `start` to `end`.
    pub fn has(&self, place: usize, start: Lsn, end: Lsn) -> bool {
        self.0
            .get(place)
            .is_some_and(|runs| runs.reach(start) >= Some(end))
    }

    /// How many replicas hold it.
    pub fn copies(&self, start: Lsn, end: Lsn) -> usize {
        (0..self.0.len())
            .filter(|place| self.has(*place, start, end))
            .count()
    }
}

/// What is stored of `span`, when it is what `file` holds.
///
/// # Errors
/// Other bytes are stored, or it cannot be seen now.
pub(super) async fn held(
    shared: &Shared,
    trust: &Trust,
    key: &IndexKey,
    span: Span,
    file: &SegmentFile,
) -> Result<Held, PushError> {
    let replicas = shared.replicas.len();
    if let Some(chunks) = shared.known(span.timeline, span.start, span.end) {
        let chunks = chunks.into_iter().filter(|c| c.2.key == key.fingerprint());
        let wanted: Vec<_> = chunks.map(|(start, end, id)| (start, end, id.content)).collect();
        let same = compare(file, key, &wanted).await?;
        let holders = shared.ledger(|ledger| ledger.holders_of(span.timeline, span.start, span.end));
        let whole = same.reach(span.start) >= Some(span.end);
        let runs = holders
            .iter()
            .map(|holds| if *holds { same.clone() } else { Runs::default() });
        let held = Held(runs.collect());
        // A replica that was not listed yet may hold it all the same.
        let wanted = shared.ledger(|ledger| ledger.copies());
        if whole && held.copies(span.start, span.end) >= wanted {
            return Ok(held);
        }
    }
    if is_new(shared, span) {
        return Ok(Held(vec![Runs::default(); replicas]));
    }
    let stored = stored(shared, trust, span).await?;
    let mut runs = vec![Runs::default(); replicas];
    let comparable = |chunk: &WalChunk| {
        let id = chunk.id.filter(|id| id.key == key.fingerprint())?;
        let inside = span.start <= chunk.start && chunk.end <= span.end;
        inside.then_some((chunk.start, chunk.end, id.content))
    };
    for (name, regions, body) in stored {
        let wanted: Vec<_> = body.chunks.iter().filter_map(comparable).collect();
        let same = compare(file, key, &wanted).await?;
        if same.reach(name.start) < Some(name.end) {
            continue;
        }
        for (place, replica) in shared.replicas.iter().enumerate() {
            if regions.contains(replica.region()) {
                runs[place].add(name.start, name.end);
            }
        }
    }
    Ok(Held(runs))
}

/// Whether no replica holds anything of a span, which is known of all of them.
fn is_new(shared: &Shared, span: Span) -> bool {
    shared.ledger(|ledger| {
        let union = ledger.union(span.timeline);
        let mut held = union.as_slice().iter();
        ledger.unlisted().is_empty() && !held.any(|(start, end)| *start < span.end && span.start < *end)
    })
}

type Stored = Vec<(WalName, Vec<Region>, WalBody)>;

/// The objects that hold WAL of a span, with the replicas that list them.
async fn stored(shared: &Shared, trust: &Trust, span: Span) -> Result<Stored, PushError> {
    let (archive, repository) = (&shared.archive, shared.publisher.repository.clone());
    let repository = repository.with_deadlines(Deadlines::short());
    let segment = span.size.segment_of(span.start);
    let prefix = layout::wal_segment(&archive.cluster, archive.lineage, span.timeline, segment);
    // A replica that is away must not hold up the others; what it holds is found when
    // something is created there.
    let listing = repository
        .list(&prefix)
        .await
        .map_err(|e| PushError::Later(explained(&e)))?;
    let objects = listing.objects.into_iter().filter_map(|(key, on)| {
        let Some(Located::Wal { name, .. }) = layout::parse(key.as_str()) else {
            return None;
        };
        let touches = name.start < span.end && span.start < name.end;
        touches.then(|| (key, name, on.into_iter().map(|p| p.region).collect::<Vec<_>>()))
    });
    let repository = &repository;
    let read = futures::stream::iter(objects)
        .map(|(key, name, regions)| async move {
            match repository.read_header::<WalBody>(&key, trust).await {
                Ok((signed, _)) => Ok(Some((name, regions, signed.header.body))),
                Err(error) if error.class() == Class::Corrupt => {
                    tracing::debug!(%key, err = %error, "a WAL object that is not believed counts for nothing");
                    Ok(None)
                }
                Err(error) => Err(PushError::Later(explained(&error))),
            }
        })
        .buffered(HEADERS)
        .try_filter_map(|read| async move { Ok(read) });
    read.try_collect().await
}

/// The spans of `wanted`, when the file has the same bytes there.
async fn compare(
    file: &SegmentFile,
    key: &IndexKey,
    wanted: &[(Lsn, Lsn, holdfast_proto::ContentId)],
) -> Result<Runs, PushError> {
    let (file, key, wanted) = (file.clone(), key.clone(), wanted.to_vec());
    let compared = spawn_blocking(move || {
        let mut same = Runs::default();
        for (start, end, content) in wanted {
            let bytes = file.read(start, end)?;
            if chunk_id(&key, &bytes).content != content {
                return Ok(Err(start));
            }
            same.add(start, end);
        }
        Ok::<_, std::io::Error>(Ok(same))
    })
    .await;
    match compared {
        Ok(Ok(Ok(same))) => Ok(same),
        Ok(Ok(Err(at))) => Err(PushError::Conflict(format!(
            "other WAL is stored under its name, from {at} at the earliest: the server was rolled back, is a copy that \
             still archives, or its disk has changed the file. Find out which, and stop what is not the cluster; if its \
             present state is the one to keep, begin a new lineage with `generation`"
        ))),
        Ok(Err(error)) => Err(PushError::Later(format!("the file cannot be read: {error}"))),
        Err(_) => Err(PushError::Later("comparing it failed".to_owned())),
    }
}
