//! Finds where a target lies in the log, as recovery from one base would.
//!
//! PostgreSQL's rule for a moment T: reading records in log order from the
//! base's start, recovery stops in front of the first transaction's end whose
//! time is later than T (`recoveryStopsBefore`). Commit times are not monotone, so
//! that is neither the last transaction before T nor found by bisection. Names
//! carry the time of the *last* transaction of an object only; each header
//! carries the *latest*. So: the first object whose name lies beyond T bounds the
//! search from above; the headers up to there tell the first object that holds a
//! later time; and only that object's segment is opened and read record by
//! record.
//!
//! Everything believed here was signed by an agent; the WAL that is opened
//! verifies by its own checksums as well.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt};

use holdfast_plan::restore::{Candidate, Facts, Located, Place, Request, Target, candidates};
use holdfast_proto::Timestamp;
use holdfast_proto::finding::Finding;
use holdfast_proto::names::ObjectKey;
use holdfast_proto::pg::{BadWal, Lsn, SegmentSize, WalEvent, WalReader};
use holdfast_proto::record::{CommitMark, RestorePointMark, WalBody};

use super::wal_source::{WalReadError, WalSource};
use crate::ledger::{Ledger, Piece, is_ours};

/// Headers read at the same time.
const HEADERS: usize = 32;
/// Objects opened at the same time.
const OBJECTS: usize = 4;

/// The target could not be looked for.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// WAL could not be read.
    #[error(transparent)]
    Read(#[from] WalReadError),
    /// WAL that is signed cannot be parsed.
    #[error("the WAL in which the target lies cannot be parsed: {0}")]
    Wal(#[from] BadWal),
    /// A header promises a record that is not in the WAL.
    #[error("{key} says that it holds {what}, and does not: restore to an LSN instead, and report this")]
    NotThere {
        /// The object.
        key: ObjectKey,
        /// What was promised.
        what: String,
    },
}

/// Looks for the request's target from each candidate base, the most promising
/// first, and notes the answers in the facts. What was wrong with copies of the
/// WAL that was looked at comes with them.
///
/// # Errors
/// The log cannot be read where it must be. That nothing can be planned is not
/// an error here: the planner says it better.
pub async fn locate(
    ledger: &Ledger,
    source: WalSource<'_>,
    request: &Request,
) -> Result<(Facts, Vec<Finding>), LocateError> {
    let mut facts = ledger.facts.clone();
    let Ok(candidates) = candidates(&facts, request) else {
        return Ok((facts, Vec::new()));
    };
    let headers = Headers {
        source,
        known: Mutex::new(HashMap::new()),
        findings: Mutex::new(Vec::new()),
    };
    let searches: Vec<Search> = (candidates.iter())
        .filter_map(|candidate| Search::from(ledger, &headers, candidate, &facts))
        .collect();
    let twice = match &request.target {
        Target::Name(name) => named_twice(&searches, name, &facts).await?,
        _ => None,
    };
    for search in searches {
        let candidate = search.candidate;
        let place = match &twice {
            Some(places) => Place::Several {
                places: places.clone(),
            },
            None => search.place(request, &facts).await?,
        };
        let found = candidate.leads_to(&place);
        let several = matches!(place, Place::Several { .. });
        facts.located.push(Located {
            lineage: candidate.lineage,
            timeline: candidate.path.timeline,
            base: candidate.base,
            place,
        });
        if found || several {
            break;
        }
    }
    let findings = headers
        .findings
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    Ok((facts, findings))
}

/// The places of a name that was given more than once on the way that is followed: a
/// search from the newest base alone would find the last one, and restore to it without
/// a word. Names of the agents' own points say where they are.
async fn named_twice(
    searches: &[Search<'_>],
    name: &str,
    facts: &Facts,
) -> Result<Option<Vec<RestorePointMark>>, LocateError> {
    let mut places: Vec<RestorePointMark> = Vec::new();
    for search in searches {
        if search.own_point(name, facts).is_some() {
            return Ok(None);
        }
        let here = search.names(&search.pieces(), None).await?;
        places.extend(here.into_iter().filter(|mark| mark.name == name));
    }
    // Bases overlap.
    places.sort_by_key(|mark| mark.lsn);
    places.dedup_by_key(|mark| mark.lsn);
    Ok((places.len() > 1).then_some(places))
}

/// Headers that were read already: candidates overlap.
struct Headers<'a> {
    source: WalSource<'a>,
    known: Mutex<HashMap<ObjectKey, WalBody>>,
    findings: Mutex<Vec<Finding>>,
}

impl Headers<'_> {
    fn met(&self, findings: Vec<Finding>) {
        self.findings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(findings);
    }

    async fn of(&self, piece: &Piece<'_>) -> Result<WalBody, WalReadError> {
        let key = &piece.object.key;
        let known = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned();
        if let Some(body) = known {
            return Ok(body);
        }
        let (body, findings) = self.source.header(piece.object).await?;
        self.met(findings);
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key.clone(), body.clone());
        Ok(body)
    }
}

struct Search<'a> {
    ledger: &'a Ledger,
    headers: &'a Headers<'a>,
    candidate: &'a Candidate,
    size: SegmentSize,
}

impl<'a> Search<'a> {
    fn from(
        ledger: &'a Ledger,
        headers: &'a Headers<'a>,
        candidate: &'a Candidate,
        facts: &Facts,
    ) -> Option<Self> {
        let lineage = facts.lineage(candidate.lineage)?;
        let base = lineage.bases.iter().find(|b| b.id == candidate.base)?;
        Some(Self {
            ledger,
            headers,
            candidate,
            size: base.segment_size,
        })
    }

    /// The WAL that recovery from this base could read.
    fn pieces(&self) -> Vec<Piece<'a>> {
        self.ledger.cover(
            self.candidate.lineage,
            &self.candidate.path,
            self.candidate.from,
            self.candidate.until,
        )
    }

    async fn place(&self, request: &Request, facts: &Facts) -> Result<Place, LocateError> {
        let pieces = self.pieces();
        match &request.target {
            // As `recovery_target_inclusive`: what ended at the very moment is left out, too.
            Target::Time(t) if request.exclusive => {
                let before = Timestamp::from_unix_micros(t.unix_micros().saturating_sub(1));
                self.time(&pieces, before).await
            }
            Target::Time(t) => self.time(&pieces, *t).await,
            Target::Name(name) => self.name(&pieces, name, facts).await,
            Target::Xid(xid) => self.xid(&pieces, *xid).await,
            Target::Lsn(lsn) => {
                let end = self.end(&pieces).await?;
                match end {
                    Place::End { last_record, .. } if *lsn <= last_record => {
                        self.within(&pieces, *lsn, request.exclusive).await
                    }
                    end => Ok(end),
                }
            }
            Target::Latest => self.end(&pieces).await,
        }
    }

    /// Where recovery to moment `t` stops.
    async fn time(&self, pieces: &[Piece<'_>], t: Timestamp) -> Result<Place, LocateError> {
        let relevant: Vec<usize> = (0..pieces.len())
            .filter(|n| pieces[*n].to > self.candidate.start_lsn)
            .collect();
        let bound = relevant
            .iter()
            .position(|n| pieces[*n].object.name.latest_commit.is_some_and(|at| at > t))
            .map_or(relevant.len(), |n| n + 1);
        let mut headers = futures::stream::iter(relevant[..bound].iter().copied())
            .map(|n| async move { self.headers.of(&pieces[n]).await.map(|body| (n, body)) })
            .buffered(HEADERS);
        while let Some((n, body)) = headers.try_next().await? {
            if body.latest_time.is_none_or(|latest| latest <= t) {
                continue;
            }
            if let Some((stop, last)) = self.first_after(pieces, n, &body, t).await? {
                return Ok(Place::Before { stop, last });
            }
        }
        drop(headers);
        if bound < relevant.len() {
            // The name that bounded the search lied about its object, or the
            // record lies beyond the end of the object's stretch: go on.
            return self.time_beyond(pieces, &relevant[bound..], t).await;
        }
        self.end(pieces).await
    }

    async fn time_beyond(
        &self,
        pieces: &[Piece<'_>],
        rest: &[usize],
        t: Timestamp,
    ) -> Result<Place, LocateError> {
        let mut headers = futures::stream::iter(rest.iter().copied())
            .map(|n| async move { self.headers.of(&pieces[n]).await.map(|body| (n, body)) })
            .buffered(HEADERS);
        while let Some((n, body)) = headers.try_next().await? {
            if body.latest_time.is_some_and(|latest| latest > t)
                && let Some((stop, last)) = self.first_after(pieces, n, &body, t).await?
            {
                return Ok(Place::Before { stop, last });
            }
        }
        drop(headers);
        self.end(pieces).await
    }

    /// The first transaction's end in piece `n` with a time later than `t`, and
    /// the one before it. Nothing when it lies outside of the piece's range.
    async fn first_after(
        &self,
        pieces: &[Piece<'_>],
        n: usize,
        body: &WalBody,
        t: Timestamp,
    ) -> Result<Option<(CommitMark, Option<CommitMark>)>, LocateError> {
        let piece = &pieces[n];
        let within = |mark: &CommitMark| mark.lsn >= self.candidate.start_lsn && mark.lsn < piece.to;
        if let Some(first) = body.first_commit.filter(|first| first.time > t && within(first)) {
            let last = self.last_commit_in(&pieces[..n]).await?;
            return Ok(Some((first, last)));
        }
        let marks = self.commits(pieces, n, body).await?;
        let mut last = None;
        for mark in marks.iter().filter(|m| within(m)) {
            if mark.time > t {
                let last = match last {
                    Some(mark) => Some(mark),
                    None => self.last_commit_in(&pieces[..n]).await?,
                };
                return Ok(Some((*mark, last)));
            }
            last = Some(*mark);
        }
        let partly = piece.to < piece.object.name.end || piece.object.name.start < self.candidate.start_lsn;
        if partly {
            return Ok(None);
        }
        Err(LocateError::NotThere {
            key: piece.object.key.clone(),
            what: format!("a transaction that ended after {t}"),
        })
    }

    /// The transactions' ends that the bytes of piece `n` complete, in order.
    async fn commits(
        &self,
        pieces: &[Piece<'_>],
        n: usize,
        body: &WalBody,
    ) -> Result<Vec<CommitMark>, LocateError> {
        let piece = &pieces[n];
        let mut marks: Vec<CommitMark> = Vec::new();
        // A record that began in the segment before is not read from its
        // beginning below; the header has it.
        let segment_start = self.size.start_of(self.size.segment_of(piece.from));
        marks.extend(body.first_commit.filter(|first| first.lsn < segment_start));
        for event in self.events(pieces, n).await? {
            if let WalEvent::Commit { time, start, end, .. } | WalEvent::Abort { time, start, end, .. } =
                event
                && end > piece.object.name.start
            {
                marks.push(CommitMark { lsn: start, time });
            }
        }
        Ok(marks)
    }

    /// What ends in the segment of piece `n`, from its beginning to the end of
    /// the piece.
    async fn events(&self, pieces: &[Piece<'_>], n: usize) -> Result<Vec<WalEvent>, LocateError> {
        let segment_start = self.size.start_of(self.size.segment_of(pieces[n].from));
        let first = (0..=n)
            .rev()
            .take_while(|i| pieces[*i].to > segment_start)
            .last()
            .unwrap_or(n);
        let mut events = Vec::new();
        let mut reader = self.reader(pieces[first].from);
        self.feed(&pieces[first..=n], &mut reader, &mut events).await?;
        Ok(events)
    }

    fn reader(&self, start: Lsn) -> WalReader {
        WalReader::seeking(self.size, self.candidate.path.timeline, start)
            .of_system(self.candidate.lineage.system)
    }

    async fn feed(
        &self,
        pieces: &[Piece<'_>],
        reader: &mut WalReader,
        events: &mut Vec<WalEvent>,
    ) -> Result<(), LocateError> {
        let mut opened = futures::stream::iter(pieces)
            .map(|piece| async move {
                self.headers
                    .source
                    .open(piece.object)
                    .await
                    .map(|wal| (piece, wal))
            })
            .buffered(OBJECTS);
        while let Some((piece, mut wal)) = opened.try_next().await? {
            self.headers.met(std::mem::take(&mut wal.findings));
            let cut = |at: Lsn| usize::try_from(at.bytes_since(wal.start).unwrap_or(0)).unwrap_or(usize::MAX);
            let bytes = wal.bytes.get(cut(piece.from)..cut(piece.to)).unwrap_or_default();
            reader.feed(piece.from, bytes, events)?;
        }
        Ok(())
    }

    /// The end of the WAL without a hole.
    async fn end(&self, pieces: &[Piece<'_>]) -> Result<Place, LocateError> {
        let last = self.last_commit_in(pieces).await?;
        for (n, piece) in pieces.iter().enumerate().rev() {
            let body = self.headers.of(piece).await?;
            if piece.to == piece.object.name.end {
                if let Some(last_record) = body.last_record {
                    return Ok(Place::End { last_record, last });
                }
            } else {
                // The timeline goes on behind the piece; its header is of no use.
                let segment_start = self.size.start_of(self.size.segment_of(piece.from));
                let first = (0..=n)
                    .rev()
                    .take_while(|i| pieces[*i].to > segment_start)
                    .last()
                    .unwrap_or(n);
                let mut reader = self.reader(pieces[first].from);
                self.feed(&pieces[first..=n], &mut reader, &mut Vec::new())
                    .await?;
                if let Some(last_record) = reader.last_record_start() {
                    return Ok(Place::End { last_record, last });
                }
            }
        }
        // Not one complete record: the base's own start is all there is.
        Ok(Place::End {
            last_record: self.candidate.start_lsn,
            last,
        })
    }

    /// The last transaction's end in these pieces.
    async fn last_commit_in(&self, pieces: &[Piece<'_>]) -> Result<Option<CommitMark>, LocateError> {
        for (n, piece) in pieces.iter().enumerate().rev() {
            if piece.object.name.latest_commit.is_none() {
                continue;
            }
            let body = self.headers.of(piece).await?;
            match body.last_commit {
                Some(mark) if mark.lsn < piece.to => return Ok(Some(mark)),
                Some(_) => {
                    let marks = self.commits(pieces, n, &body).await?;
                    if let Some(mark) = marks.iter().rev().find(|m| m.lsn < piece.to) {
                        return Ok(Some(*mark));
                    }
                }
                None => {}
            }
        }
        Ok(None)
    }

    /// The last transaction's end in front of `lsn`.
    async fn last_commit_before(
        &self,
        pieces: &[Piece<'_>],
        lsn: Lsn,
    ) -> Result<Option<CommitMark>, LocateError> {
        let Some(n) = pieces.iter().position(|p| lsn < p.to) else {
            return self.last_commit_in(pieces).await;
        };
        if pieces[n].object.name.latest_commit.is_some() {
            let body = self.headers.of(&pieces[n]).await?;
            let marks = match (body.first_commit, body.last_commit) {
                (_, Some(last)) if last.lsn < lsn => vec![last],
                (Some(first), _) if first.lsn >= lsn => Vec::new(),
                _ => self.commits(pieces, n, &body).await?,
            };
            if let Some(mark) = marks.iter().rev().find(|m| m.lsn < lsn) {
                return Ok(Some(*mark));
            }
        }
        self.last_commit_in(&pieces[..n]).await
    }

    /// The first transaction's end at `lsn` or behind it.
    async fn first_commit_from(
        &self,
        pieces: &[Piece<'_>],
        lsn: Lsn,
    ) -> Result<Option<CommitMark>, LocateError> {
        for (n, piece) in pieces.iter().enumerate().skip_while(|(_, p)| p.to <= lsn) {
            if piece.object.name.latest_commit.is_none() {
                continue;
            }
            let body = self.headers.of(piece).await?;
            let within = |mark: &CommitMark| mark.lsn >= lsn && mark.lsn < piece.to;
            if let Some(first) = body.first_commit.filter(within) {
                return Ok(Some(first));
            }
            if body.last_commit.is_some_and(|last| last.lsn >= lsn) {
                // Without an identity it is not known which one it is.
                let marks = match self.commits(pieces, n, &body).await {
                    Err(LocateError::Read(WalReadError::NoIdentity(_))) => return Ok(None),
                    marks => marks?,
                };
                if let Some(mark) = marks.iter().find(|m| within(m)) {
                    return Ok(Some(*mark));
                }
            }
        }
        Ok(None)
    }

    /// What is kept and left out on both sides of a position. Recovery stops
    /// behind the first record that begins there or later, or in front of it.
    async fn within(&self, pieces: &[Piece<'_>], lsn: Lsn, exclusive: bool) -> Result<Place, LocateError> {
        let last = self.last_commit_before(pieces, lsn).await?;
        let next = self.first_commit_from(pieces, lsn).await?;
        match next {
            Some(mark) if !exclusive && self.is_first_from(pieces, lsn, mark.lsn).await? => {
                Ok(Place::Within {
                    last: Some(mark),
                    next: self
                        .first_commit_from(pieces, Lsn::new(mark.lsn.get() + 1))
                        .await?,
                })
            }
            next => Ok(Place::Within { last, next }),
        }
    }

    /// Whether no record begins at `lsn` or behind it and in front of `record`.
    async fn is_first_from(&self, pieces: &[Piece<'_>], lsn: Lsn, record: Lsn) -> Result<bool, LocateError> {
        let segment_start = self.size.start_of(self.size.segment_of(lsn));
        let needed: Vec<Piece> = pieces
            .iter()
            .filter(|p| p.to > segment_start && p.from < record)
            .map(|p| Piece {
                to: p.to.min(record),
                ..p.clone()
            })
            .collect();
        let Some(first) = needed.first() else {
            return Ok(true);
        };
        let mut reader = self.reader(first.from);
        for piece in &needed {
            let mut none = Vec::new();
            match self
                .feed(std::slice::from_ref(piece), &mut reader, &mut none)
                .await
            {
                // Without an identity it is not known: then it counts as left out.
                Err(LocateError::Read(WalReadError::NoIdentity(_))) => return Ok(lsn == record),
                fed => fed?,
            }
            if reader.last_record_start() >= Some(lsn) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The end of the agents' own point with this name.
    fn own_point(&self, name: &str, facts: &Facts) -> Option<Lsn> {
        let lineage = facts.lineage(self.candidate.lineage)?;
        lineage.points.iter().find(|p| p.name == name).map(|p| p.lsn)
    }

    /// The restore points in these pieces, in log order; where the end of the record is
    /// known, those of its piece alone.
    async fn names(
        &self,
        pieces: &[Piece<'_>],
        known: Option<Lsn>,
    ) -> Result<Vec<RestorePointMark>, LocateError> {
        let wanted: Vec<_> = pieces
            .iter()
            .filter(|p| p.to > self.candidate.start_lsn)
            .filter(|p| known.is_none_or(|end| p.from < end && end <= p.to))
            .collect();
        let mut headers = futures::stream::iter(wanted)
            .map(|piece| async move { self.headers.of(piece).await.map(|body| (piece, body)) })
            .buffered(HEADERS);
        let mut marks = Vec::new();
        while let Some((piece, body)) = headers.try_next().await? {
            let here = body.restore_points.into_iter();
            marks.extend(here.filter(|m| m.end <= piece.to && m.lsn >= self.candidate.start_lsn));
        }
        drop(headers);
        Ok(marks)
    }

    /// The restore point called `name`.
    async fn name(&self, pieces: &[Piece<'_>], name: &str, facts: &Facts) -> Result<Place, LocateError> {
        let marks = self.names(pieces, self.own_point(name, facts)).await?;
        let (places, others): (Vec<_>, Vec<_>) = marks.into_iter().partition(|mark| mark.name == name);
        match places.as_slice() {
            [] => Ok(Place::Nowhere {
                known: others.into_iter().filter(|mark| !is_ours(&mark.name)).collect(),
            }),
            [one] => {
                let last = self.last_commit_before(pieces, one.lsn).await?;
                Ok(Place::Behind {
                    lsn: one.lsn,
                    end: one.end,
                    time: one.time,
                    last,
                    next: self.first_commit_from(pieces, one.end).await?,
                })
            }
            _ => Ok(Place::Several { places }),
        }
    }

    /// The end of transaction `xid`. Opens all WAL from the base on: transaction
    /// numbers are in no header.
    async fn xid(&self, pieces: &[Piece<'_>], xid: u32) -> Result<Place, LocateError> {
        let Some(first) = pieces.first() else {
            return Ok(Place::Nowhere { known: Vec::new() });
        };
        let mut reader = self.reader(first.from);
        let mut last = None;
        for piece in pieces {
            let mut events = Vec::new();
            self.feed(std::slice::from_ref(piece), &mut reader, &mut events)
                .await?;
            for event in events.iter().filter(|e| e.start() >= self.candidate.start_lsn) {
                let (WalEvent::Commit {
                    xid: of,
                    time,
                    start,
                    end,
                }
                | WalEvent::Abort {
                    xid: of,
                    time,
                    start,
                    end,
                }) = event
                else {
                    continue;
                };
                if of.is_some_and(|of| of.get() == xid) {
                    return Ok(Place::Behind {
                        lsn: *start,
                        end: *end,
                        time: *time,
                        last,
                        next: self.first_commit_from(pieces, *end).await?,
                    });
                }
                last = Some(CommitMark {
                    lsn: *start,
                    time: *time,
                });
            }
        }
        Ok(Place::Nowhere { known: Vec::new() })
    }
}
