//! Puts a WAL segment together from objects, for PostgreSQL to replay.
//!
//! What is handed over has exactly a segment's size, begins with the header of
//! the very segment that was asked for, of this cluster and timeline or an
//! ancestor, and is whole up to where the pin says that the log ends; zeros
//! follow only there. An object that no replica has a good copy of is replaced
//! by others that cover the same bytes, where there are any.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use holdfast_proto::finding::Finding;
use holdfast_proto::names::ObjectKey;
use holdfast_proto::pg::{BadPage, Lsn, SegmentName, SegmentNumber, TimelineId, validate_segment_header};
use holdfast_proto::record::HistoryBody;
use holdfast_repository::keyring::Keyring;
use holdfast_repository::layout::{self, Located};
use holdfast_repository::pack::{FrameOpener, PackError};
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
    /// There is no memory to work with.
    #[error("nothing can be opened: {0}")]
    Memory(PackError),
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

/// Segment `segment` as `timeline` names it, with zeros from `until` on, in room
/// from `bench`.
pub async fn segment(
    access: &Access,
    pin: &Pin,
    timeline: TimelineId,
    segment: SegmentNumber,
    until: Lsn,
    bench: &Workbench,
) -> Result<Whole, SegmentError> {
    let size = pin.segment_size;
    let start = size.start_of(segment);
    let (listed, away) = objects(access, pin, timeline, segment).await?;
    let source = WalSource {
        repository: &access.repository,
        trust: &access.trust,
        keyring: Some(&access.keyring),
    };
    let keyring = Arc::new(access.keyring.clone());
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
        match assemble(source, &keyring, bench, size.get(), start, &pieces).await {
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
            Err(Assembly::Memory(source)) => return Err(SegmentError::Memory(source)),
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
    Memory(PackError),
}

async fn assemble(
    source: WalSource<'_>,
    keyring: &Arc<Keyring>,
    bench: &Workbench,
    size: u64,
    start: Lsn,
    pieces: &[Piece<'_>],
) -> Result<Whole, Assembly> {
    let length = usize::try_from(size).map_err(|_| Assembly::Size(size))?;
    let mut place = bench.take(length).map_err(Assembly::Memory)?;
    let mut findings = Vec::new();
    let mut fetched = futures::stream::iter(pieces)
        .map(|piece| async move { (piece, source.fetch(piece.object).await) })
        .buffered(OBJECTS);
    let mut reached = 0;
    while let Some((piece, sealed)) = fetched.next().await {
        let failed = |error| Assembly::Object(piece.object.key.clone(), error);
        let mut sealed = sealed.map_err(failed)?;
        findings.append(&mut sealed.findings);
        let at = |lsn: Lsn| usize::try_from(lsn.get().saturating_sub(start.get())).unwrap_or(usize::MAX);
        let (range, target) = ((piece.from, piece.to), at(piece.from)..at(piece.to));
        reached = target.end;
        let keyring = keyring.clone();
        let opening = tokio::task::spawn_blocking(move || {
            let Place { bytes, opener } = &mut place;
            let opened = match bytes.get_mut(target) {
                Some(target) => sealed.open_into(&keyring, opener, range, target),
                None => Err(sealed.outside()),
            };
            (place, opened)
        });
        let (back, opened) = match opening.await {
            Ok(outcome) => outcome,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        place = back;
        opened.map_err(failed)?;
    }
    // What another segment left in the buffer.
    if let Some(rest) = place.bytes.get_mut(reached..) {
        rest.fill(0);
    }
    Ok(Whole {
        bytes: bench.hand_out(place),
        findings,
    })
}

/// Room for segments, used again from one to the next: fresh pages cost as much as
/// what is put into them.
#[derive(Default)]
pub(super) struct Workbench {
    free: Mutex<Free>,
}

#[derive(Default)]
struct Free {
    buffers: Vec<Vec<u8>>,
    openers: Vec<FrameOpener>,
}

/// One segment's room, and what opens its chunks.
struct Place {
    bytes: Vec<u8>,
    opener: FrameOpener,
}

impl Workbench {
    fn free(&self) -> MutexGuard<'_, Free> {
        // Two lists, whole between any two calls.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of `length` bytes of whatever was in it before.
    fn take(&self, length: usize) -> Result<Place, PackError> {
        let (buffer, opener) = {
            let mut free = self.free();
            (free.buffers.pop(), free.openers.pop())
        };
        Ok(Place {
            bytes: buffer
                .filter(|b| b.len() == length)
                .unwrap_or_else(|| vec![0; length]),
            opener: match opener {
                Some(opener) => opener,
                None => FrameOpener::new()?,
            },
        })
    }

    fn hand_out(&self, place: Place) -> Vec<u8> {
        self.free().openers.push(place.opener);
        place.bytes
    }

    /// Takes a segment's buffer back.
    pub(super) fn give_back(&self, buffer: Vec<u8>) {
        self.free().buffers.push(buffer);
    }
}
