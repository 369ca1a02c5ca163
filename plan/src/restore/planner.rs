//! Picks base, WAL, timeline and filestore state for a target.

use holdfast_proto::Timestamp;
use holdfast_proto::names::Lineage;
use holdfast_proto::pg::Lsn;
use holdfast_proto::record::CommitMark;

use super::candidates::{Candidate, bases_on, candidate, choose_lineage, choose_path, no_base, unreachable};
use super::coverage::Path;
use super::facts::{BaseFact, Facts, LineageFacts, Place, WalSpan};
use super::files::plan_filestores;
use super::impossible::{Impossible, Reason};
use super::intervals::{Interval, attested_until, intervals_of, restorable};
use super::request::{Rates, Request, Target};
use super::restore_plan::{BaseChoice, FilestorePlan, PLAN_VERSION, Prediction, Replay, RestorePlan};

/// Makes the plan.
///
/// # Errors
/// The exact reason why the target cannot be reached, with the nearest moments
/// that can.
pub fn plan(facts: &Facts, request: &Request, now: Timestamp) -> Result<RestorePlan, Impossible> {
    choose(facts, request, now).map_err(|r| refuse(facts, request, r))
}

fn choose(facts: &Facts, request: &Request, now: Timestamp) -> Result<RestorePlan, Reason> {
    if let Target::Time(t) = request.target
        && t > now
    {
        return Err(Reason::InFuture {
            target: request.target.clone(),
            now,
        });
    }
    let lineage = choose_lineage(facts, request)?;
    let path = choose_path(lineage, request)?;
    let bases = bases_on(lineage, &path, request);
    let mut why_not: Vec<String> = Vec::new();
    let mut verdict = None;
    for base in &bases {
        let Some(candidate) = candidate(lineage, &path, base) else {
            why_not.push(format!(
                "base {} is passed over: its WAL is not complete",
                base.id
            ));
            continue;
        };
        let located = facts
            .located
            .iter()
            .find(|l| l.lineage == lineage.lineage && l.timeline == path.timeline && l.base == base.id);
        let Some(located) = located else {
            verdict = verdict.or(Some(Reason::NotLocated {
                target: request.target.clone(),
            }));
            break;
        };
        if candidate.leads_to(&located.place) {
            let chosen = Chosen {
                facts,
                request,
                lineage,
                path: &path,
                base,
                candidate: &candidate,
            };
            return chosen.plan(&located.place, now, why_not);
        }
        match &located.place {
            Place::Several { places } => {
                let name = match &request.target {
                    Target::Name(n) => n.clone(),
                    other => other.to_string(),
                };
                return Err(Reason::Several {
                    name,
                    places: places.clone(),
                });
            }
            Place::Nowhere { known } => {
                verdict = Some(Reason::Nowhere {
                    known: known.clone(),
                    gaps: path.gaps().len(),
                    target: request.target.clone(),
                    lineage: lineage.lineage,
                    timeline: path.timeline,
                });
            }
            Place::Before { stop, .. } => {
                why_not.push(format!(
                    "base {} is passed over: recovery from it would stop at {}, before it is consistent at {}",
                    base.id, stop.lsn, base.stop_lsn
                ));
            }
            Place::Behind { lsn, .. } if *lsn < base.stop_lsn => {
                verdict = Some(Reason::BeforeBases {
                    target: request.target.clone(),
                    lsn: *lsn,
                });
            }
            Place::Behind { .. } | Place::Within { .. } | Place::End { .. } => {}
        }
    }
    if let Some(base) = request.base {
        let why = match why_not.last() {
            Some(why) => why.clone(),
            None => format!(
                "it does not lie before {} on the way to timeline {}",
                request.target, path.timeline
            ),
        };
        return Err(Reason::BadBase { base, why });
    }
    Err(verdict.unwrap_or(match request.target {
        Target::Latest => no_base(facts),
        _ => Reason::BeforeFirst {
            target: request.target.clone(),
        },
    }))
}

/// Where replay stops, in PostgreSQL's terms.
struct StopAt {
    target_lsn: Lsn,
    inclusive: bool,
    /// Everything before this position is replayed.
    reach: Lsn,
    /// Nothing known lies behind it.
    everything: bool,
    last_commit: Option<CommitMark>,
    first_left_out: Option<CommitMark>,
    why: String,
}

/// A base that leads to the target.
struct Chosen<'a> {
    facts: &'a Facts,
    request: &'a Request,
    lineage: &'a LineageFacts,
    path: &'a Path,
    base: &'a BaseFact,
    candidate: &'a Candidate,
}

impl Chosen<'_> {
    fn plan(&self, place: &Place, now: Timestamp, why_not: Vec<String>) -> Result<RestorePlan, Reason> {
        let (base, request) = (self.base, self.request);
        let mut warnings = Vec::new();
        let mut accepted_gap = None;
        let stop = self.stop(place, &mut accepted_gap)?;
        let filestores = plan_filestores(
            self.facts,
            self.lineage,
            self.path,
            stop.reach,
            stop.everything,
            request,
        )?;
        let bytes = stop.reach.get().saturating_sub(self.candidate.from.get());
        let stored = self.path.stored_between(self.candidate.from, stop.reach);
        let replay = Replay {
            timeline: self.path.timeline,
            target_lsn: stop.target_lsn,
            inclusive: stop.inclusive,
            from: self.candidate.from,
            frontier: self.candidate.until,
            stretches: self.path.stretches.clone(),
            known_timelines: self.lineage.timelines.iter().map(|t| t.timeline).collect(),
            bytes,
            stored,
            last_commit: stop.last_commit,
            first_left_out: stop.first_left_out,
        };

        let mut reasons = self.reasons(why_not);
        reasons.push(stop.why.clone());
        if base.pages_bad > 0 {
            warnings.push(format!(
                "{} pages were damaged at the source already when the base was taken; its details name them",
                base.pages_bad
            ));
        }
        warnings.extend(self.left_on_other_timelines(&stop));
        for region in unreachable(self.facts) {
            warnings.push(format!(
                "replica {region} did not answer: what only it holds is not considered"
            ));
        }
        if let Some(gap) = accepted_gap {
            warnings.push(format!(
                "WAL behind the hole from {} to {} is given up",
                gap.from, gap.to
            ));
        }
        for files in filestores.iter().filter(|f| f.claim.is_none()) {
            warnings.push(format!(
                "filestore {}: completeness is not proven: {}",
                files.filestore, files.because
            ));
        }

        let moment = replay.last_commit.map(|c| c.time).max(Some(base.stopped));
        let accepted = request.accept_unreachable.iter();
        let out: Vec<_> = unreachable(self.facts);
        let files_read = sum(&filestores, |f| f.to_read);
        let files_write = sum(&filestores, |f| f.bytes);
        Ok(RestorePlan {
            version: PLAN_VERSION,
            repository: self.facts.repository,
            cluster: self.facts.cluster.clone(),
            lineage: self.lineage.lineage,
            made: now,
            target: request.target.clone(),
            base: BaseChoice {
                id: base.id,
                link: base.link.clone(),
                timeline: base.timeline,
                start_lsn: base.start_lsn,
                stop_lsn: base.stop_lsn,
                stopped: base.stopped,
                version_num: base.version_num,
                segment_size: base.segment_size,
                tablespaces: base.tablespaces.clone(),
                entries: base.totals.entries,
                bytes: base.totals.bytes,
                to_read: base.totals.to_read,
            },
            config: self.bundle("config", moment),
            secrets: self.bundle("secrets", moment),
            replicas: self.facts.replicas.clone(),
            accepted_unreachable: accepted.filter(|r| out.contains(r)).cloned().collect(),
            accepted_gap,
            download: base
                .totals
                .to_read
                .saturating_add(stored)
                .saturating_add(files_read),
            write: base.totals.bytes.saturating_add(files_write),
            predicted: predict(&request.rates, base, bytes, &filestores),
            learnt: None,
            replay,
            filestores,
            reasons,
            warnings,
        })
    }

    /// WAL of other timelines of the lineage that this history leaves behind on its way to
    /// the target.
    fn left_on_other_timelines(&self, stop: &StopAt) -> Vec<String> {
        let others = self.lineage.timelines.iter().filter_map(|other| {
            let end = other.wal.last()?.end;
            let on_path = self.path.stretches.iter().find(|s| s.timeline == other.timeline);
            let left_at = match on_path {
                Some(stretch) => stretch.end.filter(|left_at| end > *left_at)?,
                // Where it forked from this history, or from one of its own.
                None => other.ancestors.as_ref()?.last()?.end,
            };
            // Up to where they part, all of them have the same.
            if left_at > stop.reach || (left_at == stop.reach && !stop.everything) {
                return None;
            }
            Some(format!(
                "timeline {0} has WAL from {left_at} to {end} that this history does not follow: --timeline {0} restores \
                 along it",
                other.timeline
            ))
        });
        others.collect()
    }

    fn reasons(&self, why_not: Vec<String>) -> Vec<String> {
        let mut reasons = Vec::new();
        let others = self.facts.lineages.iter().filter(|l| !l.bases.is_empty()).count();
        if others > 1 && self.request.lineage.is_none() {
            reasons.push(format!(
                "lineage {} is the newest of {others} that began before the target",
                self.lineage.lineage
            ));
        }
        if self.lineage.timelines.len() > 1 {
            let ancestors = self
                .path
                .stretches
                .iter()
                .map(|s| s.timeline.to_string())
                .collect::<Vec<_>>();
            reasons.push(format!(
                "the history followed is timeline {}",
                ancestors.join(" -> ")
            ));
        }
        reasons.extend(why_not);
        reasons.push(format!(
            "base {} is the last that is complete before the target: least WAL to replay",
            self.base.id
        ));
        reasons
    }

    /// Where replay stops, or why the target is not reached after all.
    fn stop(&self, place: &Place, accepted_gap: &mut Option<super::Gap>) -> Result<StopAt, Reason> {
        match (place, &self.request.target) {
            (Place::Before { stop, last }, _) => Ok(StopAt {
                target_lsn: stop.lsn,
                inclusive: false,
                reach: stop.lsn,
                everything: false,
                last_commit: *last,
                first_left_out: Some(*stop),
                why: format!(
                    "in log order the transaction whose end is at {} is the first with a later time ({})",
                    stop.lsn, stop.time
                ),
            }),
            (
                Place::Behind {
                    lsn,
                    end,
                    time,
                    last,
                    next,
                },
                target,
            ) => {
                let exclusive = self.request.exclusive;
                // A transaction that is named is an end itself.
                let own = matches!(target, Target::Xid(_)).then_some(CommitMark {
                    lsn: *lsn,
                    time: *time,
                });
                Ok(StopAt {
                    target_lsn: *lsn,
                    inclusive: !exclusive,
                    reach: if exclusive { *lsn } else { *end },
                    everything: false,
                    last_commit: own.filter(|_| !exclusive).or(*last),
                    first_left_out: own.filter(|_| exclusive).or(*next),
                    why: format!("{target} is the record from {lsn} to {end}, of {time}"),
                })
            }
            (Place::Within { last, next }, Target::Lsn(lsn)) => Ok(StopAt {
                target_lsn: *lsn,
                inclusive: !self.request.exclusive,
                reach: *lsn,
                everything: false,
                last_commit: *last,
                first_left_out: *next,
                why: format!("the WAL reaches beyond it, to {}", self.candidate.until),
            }),
            (Place::End { last_record, last }, _) => {
                let why = self.end_is_reached(*last, accepted_gap)?;
                Ok(StopAt {
                    target_lsn: *last_record,
                    inclusive: true,
                    reach: self.candidate.until,
                    everything: true,
                    last_commit: *last,
                    first_left_out: None,
                    why,
                })
            }
            (Place::Several { .. } | Place::Within { .. } | Place::Nowhere { .. }, target) => {
                Err(Reason::NotLocated {
                    target: target.clone(),
                })
            }
        }
    }

    /// Whether stopping at the end of the WAL is what was asked for.
    fn end_is_reached(
        &self,
        last: Option<CommitMark>,
        accepted_gap: &mut Option<super::Gap>,
    ) -> Result<String, Reason> {
        let until = self.candidate.until;
        let run: Option<&WalSpan> = self.path.covering(self.candidate.from);
        let attested = run.and_then(|run| attested_until(self.lineage, self.path, run));
        if let (Target::Time(t), Some(at)) = (&self.request.target, attested)
            && at >= *t
        {
            return Ok(format!(
                "an agent attested at {at} that nothing had been committed beyond what is stored"
            ));
        }
        if let Some(gap) = self.path.gap_after(until).filter(|g| g.from == until) {
            let behind = self.path.wal.iter().filter(|s| s.start >= gap.to);
            let lost_bytes = behind.map(|s| s.end.get() - s.start.get()).sum();
            if !self.request.allow_gap {
                return Err(Reason::Gap { gap, lost_bytes });
            }
            *accepted_gap = Some(gap);
            self.accept_unreachable()?;
            return Ok(format!(
                "the last record before the hole at {until} is the last that can be replayed"
            ));
        }
        match &self.request.target {
            Target::Latest => {
                self.accept_unreachable()?;
                Ok(format!("the WAL goes without a hole to {until}"))
            }
            Target::Time(t) if last.is_some_and(|last| last.time == *t) => {
                Ok("the last transaction that is known ended at exactly this moment".to_owned())
            }
            Target::Time(_) => Err(Reason::AfterLast {
                target: self.request.target.clone(),
                lineage: self.one_of_several(),
            }),
            target => Err(Reason::BeyondEnd {
                target: target.clone(),
                end: until,
                lineage: self.one_of_several(),
            }),
        }
    }

    /// The lineage, where it must be named for `--latest` to mean it.
    fn one_of_several(&self) -> Option<Lineage> {
        let others = self
            .facts
            .lineages
            .iter()
            .any(|l| l.lineage != self.lineage.lineage);
        others.then_some(self.lineage.lineage)
    }

    fn accept_unreachable(&self) -> Result<(), Reason> {
        let regions: Vec<_> = unreachable(self.facts)
            .into_iter()
            .filter(|r| !self.request.accept_unreachable.contains(r))
            .collect();
        if regions.is_empty() {
            Ok(())
        } else {
            Err(Reason::Unreachable { regions })
        }
    }

    fn bundle(&self, kind: &str, moment: Option<Timestamp>) -> Option<holdfast_proto::envelope::Link> {
        self.facts
            .bundles
            .iter()
            .filter(|b| b.bundle == kind && moment.is_none_or(|m| b.at <= m))
            .max_by_key(|b| b.at)
            .or_else(|| {
                self.facts
                    .bundles
                    .iter()
                    .filter(|b| b.bundle == kind)
                    .min_by_key(|b| b.at)
            })
            .map(|b| b.link.clone())
    }
}

fn sum(filestores: &[FilestorePlan], of: impl Fn(&FilestorePlan) -> u64) -> u64 {
    filestores.iter().map(of).fold(0, u64::saturating_add)
}

fn predict(rates: &Rates, base: &BaseFact, wal: u64, filestores: &[FilestorePlan]) -> Prediction {
    let ms = |amount: u64, per_second: u64| amount.saturating_mul(1000) / per_second.max(1);
    let base_ms = ms(base.totals.to_read, rates.read).max(ms(base.totals.bytes, rates.write));
    let filestore_ms = ms(sum(filestores, |f| f.to_read), rates.read)
        .max(ms(sum(filestores, |f| f.bytes), rates.write))
        .max(ms(sum(filestores, |f| f.files), rates.files));
    let replay_ms = ms(wal, rates.replay).saturating_add(rates.start_ms);
    Prediction {
        base_ms,
        filestore_ms,
        replay_ms,
        total_ms: base_ms.saturating_add(filestore_ms).saturating_add(replay_ms),
    }
}

/// What can be restored along the history that the request follows; where that is not
/// known, or holds nothing, everything that can be.
fn nearby(facts: &Facts, request: &Request) -> Vec<Interval> {
    let lineage = choose_lineage(facts, request).ok();
    let followed = lineage.and_then(|lineage| Some((lineage, choose_path(lineage, request).ok()?)));
    let along = followed.map(|(lineage, path)| intervals_of(lineage, &path));
    if let Some(along) = along.filter(|along| !along.is_empty()) {
        return along;
    }
    let all = restorable(facts).intervals.into_iter();
    all.filter(|i| request.lineage.is_none_or(|l| l == i.from.lineage))
        .collect()
}

/// A refusal, with the nearest moments that can be had.
pub(super) fn refuse(facts: &Facts, request: &Request, reason: Reason) -> Impossible {
    let intervals = nearby(facts, request);
    let ends = intervals.iter().map(|i| i.to);
    let starts = intervals.iter().map(|i| i.from);
    let (nearest_before, nearest_after) = match (&request.target, &reason) {
        (Target::Time(t), _) => (
            ends.filter(|m| m.time.is_some_and(|at| at <= *t))
                .max_by_key(|m| (m.time, m.lsn)),
            starts
                .filter(|m| m.time.is_some_and(|at| at >= *t))
                .min_by_key(|m| (m.time, m.lsn)),
        ),
        (Target::Lsn(lsn), _) | (_, Reason::BeforeBases { lsn, .. }) => (
            ends.filter(|m| m.lsn <= *lsn).max_by_key(|m| m.lsn),
            starts.filter(|m| m.lsn >= *lsn).min_by_key(|m| m.lsn),
        ),
        (Target::Latest, _) => (ends.max_by_key(|m| (m.time, m.lsn)), None),
        (Target::Name(_) | Target::Xid(_), _) => (None, None),
    };
    Impossible {
        reason: Box::new(reason),
        nearest_before,
        nearest_after,
    }
}
