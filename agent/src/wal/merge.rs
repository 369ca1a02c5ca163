//! Merges the objects of finished segments, so that a restore makes few requests.
//!
//! A tip that is uploaded every second leaves a quiet server's segment in
//! hundreds of small objects. When all of a segment is acknowledged, neighbours
//! are put together: their ciphertexts one after another, their facts in one
//! header, signed anew. Nothing is opened for it, and nothing is removed: the
//! merged object appears beside the others, and readers prefer the longer one.
//! There is no moment in which the segment is not there.
//!
//! Only objects that this agent signed itself and that are whole are merged: a
//! forgery or damage must not get a good signature this way. What cannot be
//! merged stays as it is, and is as good a copy as before. If the process dies
//! here, a merged object may be on some replicas only, or on none.

use std::collections::VecDeque;
use std::sync::Arc;

use holdfast_proto::envelope::Header;
use holdfast_proto::finding::Severity;
use holdfast_proto::names::ObjectKey;
use holdfast_proto::pg::{Lsn, SegmentNumber, TimelineId};
use holdfast_proto::record::WalBody;
use holdfast_repository::layout::{self, WalName};
use holdfast_repository::{Deadlines, Replica};

use super::archive::ArchiveError;
use super::shared::Shared;

/// Fewer objects are left as they are: the requests saved would not pay for the
/// ones made here.
const AT_LEAST: usize = 6;

/// The most bytes of a merged object, which is held in memory while it is made.
const MERGED: u64 = 6 << 20;

/// The most chunks of a merged object: each has some 250 bytes in its header.
const CHUNKS: usize = 2000;

/// An object of a segment, as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub name: WalName,
    /// Bytes, with the envelope.
    pub size: u64,
}

/// The groups of neighbours that are worth merging, of `objects` in the order of
/// their start. Objects that another one covers are passed over; a group ends
/// where the next object does not begin exactly at its end.
pub(super) fn plan(objects: &[Listed]) -> Vec<Vec<&Listed>> {
    let mut groups = Vec::new();
    let mut group: Vec<&Listed> = Vec::new();
    let mut rest = objects.iter().peekable();
    while let Some(first) = rest.next() {
        // Of those with the same start the longest.
        let mut longest = first;
        while let Some(same) = rest.next_if(|next| next.name.start == first.name.start) {
            longest = same;
        }
        let end = group.last().map(|last| last.name.end);
        if end.is_some_and(|end| longest.name.end <= end) {
            continue;
        }
        let bytes: u64 = group.iter().map(|listed| listed.size).sum();
        if end != Some(longest.name.start) || bytes + longest.size > MERGED || group.len() >= CHUNKS {
            groups.push(std::mem::take(&mut group));
        }
        group.push(longest);
    }
    groups.push(group);
    groups.retain(|group| group.len() >= AT_LEAST);
    groups
}

/// A merged object before it is signed.
#[derive(Debug)]
struct Merged {
    header: Header<WalBody>,
    payload: Vec<u8>,
}

impl Merged {
    /// Adds what follows; `false` when it does not join up, or is sealed to
    /// another key.
    fn add(&mut self, next: Header<WalBody>, payload: &[u8]) -> bool {
        let (body, more) = (&mut self.header.body, next.body);
        let joins = body.end == more.start
            && body.timeline == more.timeline
            && body.system == more.system
            && body.segment_size == more.segment_size
            && body.version_num == more.version_num
            && self.header.payload.sealed_to == next.payload.sealed_to;
        if !joins {
            return false;
        }
        body.end = more.end;
        body.chunks.extend(more.chunks);
        body.first_commit = body.first_commit.or(more.first_commit);
        body.last_commit = more.last_commit.or(body.last_commit);
        body.latest_time = body.latest_time.max(more.latest_time);
        body.commits += more.commits;
        body.last_record = more.last_record.or(body.last_record);
        body.restore_points.extend(more.restore_points);
        self.payload.extend_from_slice(payload);
        true
    }
}

/// Segments that are finished and wait to be looked at, with how many objects
/// this process made of each.
#[derive(Debug, Default)]
pub(super) struct Finished {
    segments: VecDeque<(TimelineId, SegmentNumber, Lsn, usize)>,
}

impl Finished {
    /// An object of a segment that ends at `segment_end` was made.
    pub fn note(&mut self, timeline: TimelineId, segment: SegmentNumber, segment_end: Lsn) {
        match self.segments.back_mut() {
            Some((t, s, _, count)) if (*t, *s) == (timeline, segment) => *count += 1,
            _ => self.segments.push_back((timeline, segment, segment_end, 1)),
        }
    }

    /// The oldest segment of many objects of which all is before `acknowledged`;
    /// those of few are forgotten.
    pub fn next(&mut self, timeline: TimelineId, acknowledged: Lsn) -> Option<(TimelineId, Lsn)> {
        while let Some((of, _, end, count)) = self.segments.front().copied() {
            // What an older timeline has in its last segment ends within it.
            if of == timeline && end > acknowledged {
                return None;
            }
            self.segments.pop_front();
            if count >= AT_LEAST {
                return Some((of, Lsn::new(end.get() - 1)));
            }
        }
        None
    }
}

/// Merges for ever what is finished.
pub(super) async fn serve(shared: Arc<Shared>) {
    let mut revision = shared.revisions();
    loop {
        revision.borrow_and_update();
        let Some((timeline, at)) = shared.finished() else {
            if revision.changed().await.is_err() {
                return;
            }
            continue;
        };
        if let Err(error) = merge(&shared, timeline, at).await {
            // Not merging costs requests. Damage that was met on the way is news.
            if let ArchiveError::Damaged { key, .. } = &error {
                let (subject, detail) = (key.to_string(), error.to_string());
                shared
                    .findings
                    .raise(Severity::Warning, "wal-object-damaged", subject, detail);
            }
            tracing::debug!(%timeline, lsn = %at, err = %error, "a segment's objects stay as they are");
        }
    }
}

/// Merges the objects of the segment that holds the byte at `at`.
async fn merge(shared: &Shared, timeline: TimelineId, at: Lsn) -> Result<(), ArchiveError> {
    let Some(size) = shared.segment_size() else {
        return Ok(());
    };
    // Replicas that have all of it, with the key that opens it. The others get the
    // merged object together with the rest.
    let complete = |place: &usize| {
        shared.ledger(|ledger| {
            let reached = |frontier: Lsn| timeline < ledger.timeline() || frontier > at;
            ledger.frontier(*place).is_some_and(reached)
        })
    };
    let replicas: Vec<Replica> = (0..shared.replicas.len())
        .filter(complete)
        .map(|place| shared.replicas[place].with_deadlines(Deadlines::short()))
        .collect();
    let mut last = None;
    for source in &replicas {
        let listed = match shared.archive.segment(source, timeline, size, at).await {
            Ok(listed) => listed,
            Err(error) => {
                last = Some(error);
                continue;
            }
        };
        for group in plan(&listed) {
            if let Some((key, object)) = assemble(shared, source, &group).await? {
                for target in &replicas {
                    // One that does not take it is as complete as before.
                    if let Err(error) = target.create(&key, object.clone()).await {
                        tracing::debug!(region = %target.region(), err = %error, "a merged object is not stored");
                    }
                }
            }
        }
        return Ok(());
    }
    last.map_or(Ok(()), |error| Err(error.into()))
}

async fn assemble(
    shared: &Shared,
    source: &Replica,
    group: &[&Listed],
) -> Result<Option<(ObjectKey, bytes::Bytes)>, ArchiveError> {
    let (archive, publisher) = (&shared.archive, &shared.publisher);
    let mut merged: Option<Merged> = None;
    for listed in group {
        let key = layout::wal(&archive.cluster, archive.lineage, &listed.name);
        let bytes = source.get(&key).await?;
        let header: Header<WalBody> = archive.inspect(&key, &bytes)?;
        if !archive.is_signed_by(&publisher.signer, &bytes) {
            // Another node's, or from before the agent got a new key.
            return Ok(None);
        }
        let payload = &bytes[..usize::try_from(header.payload.size).unwrap_or(0)];
        match &mut merged {
            None => {
                let mut all = Vec::with_capacity(usize::try_from(MERGED).unwrap_or(0));
                all.extend_from_slice(payload);
                merged = Some(Merged { header, payload: all });
            }
            Some(merged) => {
                if !merged.add(header, payload) {
                    return Ok(None);
                }
            }
        }
    }
    let Some(Merged { header, payload }) = merged else {
        return Ok(None);
    };
    let body = header.body;
    let name = WalName {
        timeline: body.timeline,
        segment: body.segment_size.segment_of(body.start),
        start: body.start,
        end: body.end,
        latest_commit: body.last_commit.map(|mark| mark.time),
    };
    let key = layout::wal(&archive.cluster, archive.lineage, &name);
    let object = publisher.sign(&key, payload, header.payload.sealed_to, header.previous, &body);
    Ok(Some((key, object.bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_proto::pg::SegmentSize;
    use proptest::prelude::*;

    fn listed(start: u64, end: u64, size: u64) -> Listed {
        let name = WalName {
            timeline: TimelineId::FIRST,
            segment: SegmentNumber::new(0),
            start: Lsn::new(start),
            end: Lsn::new(end),
            latest_commit: None,
        };
        Listed { name, size }
    }

    #[test]
    fn few_objects_and_large_ones_stay() {
        let few: Vec<Listed> = (0..5).map(|n| listed(n, n + 1, 10)).collect();
        assert!(plan(&few).is_empty());
        let large: Vec<Listed> = (0..9).map(|n| listed(n, n + 1, 4 << 20)).collect();
        assert!(plan(&large).is_empty());
        assert!(plan(&[]).is_empty());
    }

    #[test]
    fn what_is_merged_already_is_not_merged_again() {
        let mut objects: Vec<Listed> = (0..20).map(|n| listed(n, n + 1, 10)).collect();
        objects.push(listed(0, 20, 200));
        objects.sort_by_key(|l| (l.name.start, l.name.end));
        assert!(plan(&objects).is_empty());
    }

    #[test]
    fn a_segment_is_finished_when_all_of_it_is_safe() {
        let size = SegmentSize::new(1 << 20).unwrap();
        let (first, second) = (SegmentNumber::new(0), SegmentNumber::new(1));
        let mut finished = Finished::default();
        for _ in 0..AT_LEAST {
            finished.note(TimelineId::FIRST, first, size.end_of(first));
        }
        finished.note(TimelineId::FIRST, second, size.end_of(second));
        assert_eq!(finished.next(TimelineId::FIRST, Lsn::new(0xF_FFFF)), None);
        let ready = finished.next(TimelineId::FIRST, Lsn::new(0x10_0000));
        assert_eq!(ready, Some((TimelineId::FIRST, Lsn::new(0xF_FFFF))));
        assert_eq!(finished.next(TimelineId::FIRST, Lsn::new(0x20_0000)), None);
        assert!(finished.segments.is_empty(), "one object is not worth it");
    }

    proptest! {
        #[test]
        fn groups_join_up_and_stay_within_bounds(
            objects in proptest::collection::vec((0u64..60, 1u64..9, 1u64..3 << 20), 0..60),
        ) {
            let mut objects: Vec<Listed> = objects.iter().map(|(s, l, b)| listed(*s, s + l, *b)).collect();
            objects.sort_by_key(|l| (l.name.start, l.name.end));
            for group in plan(&objects) {
                prop_assert!(group.len() >= AT_LEAST);
                prop_assert!(group.windows(2).all(|two| two[0].name.end == two[1].name.start));
                prop_assert!(group.iter().map(|l| l.size).sum::<u64>() <= MERGED);
            }
        }
    }
}
