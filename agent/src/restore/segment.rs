//! Puts a WAL segment together from objects, for PostgreSQL to replay.
//!
//! What is handed over has exactly a segment's size, begins with the header of
//! the very segment that was asked for, of this cluster and timeline or an
//! ancestor, and is whole up to where the pin says that the log ends; zeros
//! follow only there. An object that no replica has a good copy of is replaced
//! by others that cover the same bytes, where there are any.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt};
use holdfast_proto::finding::Finding;
use holdfast_proto::names::ObjectKey;
use holdfast_proto::pg::{BadPage, Lsn, SegmentName, SegmentNumber, TimelineId, validate_segment_header};
use holdfast_proto::record::HistoryBody;
use holdfast_repository::layout::{self, Located};
use holdfast_repository::signed;
use holdfast_repository::{FetchError, listing};

use super::access::Access;
use super::pin::Pin;
use super::wal_source::{WalReadError, WalSource};
use crate::ledger::{Piece, WalObject, cover};

/// Objects of one segment read at the same time.
const OBJECTS: usize = 6;

/// A segment that cannot be handed over.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// No replica could be listed.
    #[error(transparent)]
    List(#[from] listing::ListError),
    /// Bytes are missing within what the plan saw.
    #[error(
        "WAL from {from} on is missing, which the plan saw (it goes to {until}){}: bring the replicas back, then start \
         PostgreSQL again; or plan anew", unlisted(.away)
    )]
    Hole {
        /// First byte that is missing.
        from: Lsn,
        /// First byte that need not be there.
        until: Lsn,
        /// Replicas that could not be listed.
        away: Vec<String>,
    },
    /// An object cannot be had, and no other covers its bytes.
    #[error(transparent)]
    Read(WalReadError),
    /// The history file cannot be had.
    #[error(transparent)]
    History(FetchError),
    /// The bytes are not the segment asked for.
    #[error("the WAL stored for {name} is not that segment: {source}")]
    Header {
        /// The segment.
        name: SegmentName,
        /// What is wrong.
        source: BadPage,
    },
    /// A segment too large for this machine.
    #[error("a segment of {0} bytes does not fit into memory")]
    Size(u64),
}

fn unlisted(away: &[String]) -> String {
    if away.is_empty() {
        String::new()
    } else {
        format!(" and {} could not be listed", away.join(", "))
    }
}

/// A segment or a history file, ready to be handed over.
#[derive(Debug)]
pub struct Whole {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What was wrong on the way, and was healed.
    pub findings: Vec<Finding>,
}

/// The history file of `timeline`.
pub async fn history(access: &Access, pin: &Pin, timeline: TimelineId) -> Result<Whole, SegmentError> {
    let key = layout::history(&pin.cluster, pin.lineage, timeline);
    let judge = |bytes: &bytes::Bytes| {
        let signed = signed::verify::<HistoryBody>(bytes, &key, &access.trust).map_err(|e| e.to_string())?;
        let body = signed.body();
        if body.timeline != timeline || body.system != pin.lineage.system {
            return Err("it is another timeline's or another cluster's".to_owned());
        }
        Ok(signed.payload)
    };
    let found = access
        .repository
        .find(&key, judge)
        .await
        .map_err(SegmentError::History)?;
    Ok(Whole {
        bytes: found.value.to_vec(),
        findings: found.findings,
    })
}

/// Segment `segment` as `timeline` names it, with zeros from `until` on.
pub async fn segment(
    access: &Access,
    pin: &Pin,
    timeline: TimelineId,
    segment: SegmentNumber,
    until: Lsn,
) -> Result<Whole, SegmentError> {
    let size = pin.segment_size;
    let start = size.start_of(segment);
    let (listed, away) = objects(access, pin, timeline, segment).await?;
    let source = WalSource {
        repository: &access.repository,
        trust: &access.trust,
        keyring: Some(&access.keyring),
    };
    let mut bad: BTreeSet<ObjectKey> = BTreeSet::new();
    let mut first_error: Option<WalReadError> = None;
    loop {
        let usable: Vec<(TimelineId, Lsn, Vec<WalObject>)> = listed
            .iter()
            .map(|(t, end, all)| {
                (
                    *t,
                    *end,
                    all.iter().filter(|o| !bad.contains(&o.key)).cloned().collect(),
                )
            })
            .collect();
        let borrowed: Vec<_> = usable
            .iter()
            .map(|(t, end, all)| (*t, (*end).min(until), all.as_slice()))
            .collect();
        let pieces = cover(&borrowed, start, until);
        let reached = pieces.last().map_or(start, |p| p.to);
        if reached < until {
            return Err(match first_error {
                Some(error) => SegmentError::Read(error),
                None => SegmentError::Hole {
                    from: reached,
                    until,
                    away,
                },
            });
        }
        match assemble(source, size.get(), start, &pieces).await {
            Ok(mut whole) => {
                let name = SegmentName::new(timeline, segment, size);
                validate_segment_header(&whole.bytes, timeline, segment, pin.lineage.system, size)
                    .map_err(|source| SegmentError::Header { name, source })?;
                whole.findings.extend(bad.iter().map(gave_up));
                return Ok(whole);
            }
            Err(Assembly::Object(key, error)) => {
                bad.insert(key);
                first_error.get_or_insert(error);
            }
            Err(Assembly::Size(bytes)) => return Err(SegmentError::Size(bytes)),
        }
    }
}

fn gave_up(key: &ObjectKey) -> Finding {
    Finding {
        name: "wal-object-lost".to_owned(),
        subject: key.to_string(),
        severity: holdfast_proto::finding::Severity::Warning,
        detail: "No replica holds a good copy; other objects cover the same bytes and were used.".to_owned(),
        since: holdfast_repository::clock::now(),
    }
}

type OnTimelines = Vec<(TimelineId, Lsn, Vec<WalObject>)>;

/// The objects of a segment on each timeline that may own bytes of it, up to
/// `timeline`, and the replicas that could not be listed.
async fn objects(
    access: &Access,
    pin: &Pin,
    timeline: TimelineId,
    segment: SegmentNumber,
) -> Result<(OnTimelines, Vec<String>), SegmentError> {
    let (start, end) = (
        pin.segment_size.start_of(segment),
        pin.segment_size.end_of(segment),
    );
    let mut all = Vec::new();
    let mut away = BTreeSet::new();
    for stretch in pin.stretches.iter().filter(|s| s.timeline <= timeline) {
        let begins_behind = stretch.begin.is_some_and(|b| b >= end);
        if begins_behind || stretch.end.is_some_and(|e| e <= start) {
            continue;
        }
        let prefix = layout::wal_segment(&pin.cluster, pin.lineage, stretch.timeline, segment);
        let listing = access.repository.list(&prefix).await?;
        away.extend(listing.unlisted.iter().map(|(region, _)| region.to_string()));
        let mut found: Vec<WalObject> = listing
            .objects
            .into_iter()
            .filter_map(|(key, on)| match layout::parse(key.as_str()) {
                Some(Located::Wal { name, .. }) => Some(WalObject {
                    name,
                    key,
                    size: on.first().map_or(0, |p| p.size),
                }),
                _ => None,
            })
            .collect();
        found.sort_by_key(|o| (o.name.start, o.name.end));
        all.push((stretch.timeline, stretch.end.unwrap_or(end), found));
    }
    Ok((all, away.into_iter().collect()))
}

enum Assembly {
    Object(ObjectKey, WalReadError),
    Size(u64),
}

async fn assemble(
    source: WalSource<'_>,
    size: u64,
    start: Lsn,
    pieces: &[Piece<'_>],
) -> Result<Whole, Assembly> {
    let length = usize::try_from(size).map_err(|_| Assembly::Size(size))?;
    let mut whole = Whole {
        bytes: vec![0; length],
        findings: Vec::new(),
    };
    let mut opened = futures::stream::iter(pieces)
        .map(|piece| async move {
            match source.open(piece.object).await {
                Ok(wal) => Ok((piece, wal)),
                Err(error) => Err(Assembly::Object(piece.object.key.clone(), error)),
            }
        })
        .buffered(OBJECTS);
    while let Some((piece, wal)) = opened.try_next().await? {
        let at = |from: Lsn, lsn: Lsn| usize::try_from(lsn.get() - from.get()).unwrap_or(usize::MAX);
        let target = whole.bytes.get_mut(at(start, piece.from)..at(start, piece.to));
        let bytes = wal.bytes.get(at(wal.start, piece.from)..at(wal.start, piece.to));
        let (Some(target), Some(bytes)) = (target, bytes) else {
            let key = piece.object.key.clone();
            let why = "it does not hold the bytes that its name says".to_owned();
            return Err(Assembly::Object(
                key.clone(),
                WalReadError::Contradiction { key, why },
            ));
        };
        target.copy_from_slice(bytes);
        whole.findings.extend(wal.findings);
    }
    Ok(whole)
}
