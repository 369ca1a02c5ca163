//! Draws what a drill restores: commits to the population, waits for a checkpoint
//! that fixes the seed, draws.
//!
//! How is pure and in [`crate::evidence::sampling`]. If the process dies between
//! the population and the intent, a draw stays in the log that nothing used;
//! coverage counts it.

use std::time::Duration;

use holdfast_agent::ledger::PointsReport;
use holdfast_plan::drills::BaseKind;
use holdfast_proto::names::{ClusterId, DrillId};
use holdfast_proto::{Sha256Digest, Timestamp};
use holdfast_repository::clock;
use holdfast_repository::signing::SigningKey;

use crate::evidence::sampling::points::{self, Candidate, Points};
use crate::evidence::sampling::{self, Draw, NotDrawn};
use crate::evidence::statement::context::{FileSample, OPERATOR, Sampling, Window};
use crate::log::{DrillLog, LogError};

/// What was drawn, and from what.
#[derive(Debug, Clone)]
pub struct Drawn {
    /// What everything drawn follows from.
    pub seed: Sha256Digest,
    /// The slot that it was drawn for.
    pub slot: String,
    /// The moment; absent when somebody named one.
    pub selected: Option<Timestamp>,
    /// The name of the joint recovery point, where it was drawn from points.
    pub point: Option<String>,
    points: Option<Points>,
    stated: Sampling,
}

impl Drawn {
    /// As the statement says it.
    pub fn stated(&self, files: Option<FileSample>) -> Sampling {
        Sampling {
            file_sample: files,
            ..self.stated.clone()
        }
    }

    /// The points that it was drawn from, whose listing is a byproduct.
    pub fn points(&self) -> Option<Points> {
        self.points
    }
}

/// What the moment is drawn from.
#[derive(Debug, Clone)]
pub enum Lot {
    /// Nothing: somebody named it, and the seed is for the files alone.
    Named,
    /// All moments of it.
    Moments(Window),
    /// Joint recovery points.
    Points(Vec<Candidate>),
}

/// A moment that was not drawn.
#[derive(Debug, thiserror::Error)]
pub enum DrawError {
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// There is nothing to draw from.
    #[error("no moment can be drawn: {0}")]
    Empty(NotDrawn),
}

/// The packs that an L1 check could have drawn, and those it drew.
#[derive(Debug, Clone, Default)]
pub struct PackSample {
    /// All of them.
    pub population: Vec<Sha256Digest>,
    /// Those drawn.
    pub drawn: Vec<Sha256Digest>,
}

impl PackSample {
    /// The listing of all of them, which becomes a byproduct.
    pub fn listing(&self) -> String {
        sampling::file_listing(&self.population)
    }

    /// As the statement says it.
    pub fn stated(&self) -> FileSample {
        FileSample {
            population: self.population.len() as u64,
            drawn: self.drawn.len() as u64,
            population_digest: Some(Sha256Digest::of(self.listing().as_bytes())),
            selected: if self.drawn.len() > sampling::MAX_SELECTED {
                Vec::new()
            } else {
                self.drawn.clone()
            },
        }
    }
}

/// The newest restorable interval, from which a moment can be drawn.
pub fn window(points: &PointsReport) -> Option<Window> {
    points
        .restorable
        .intervals
        .iter()
        .filter_map(|i| {
            Some(Window {
                from: i.from.time?,
                until: i.to.time?,
            })
        })
        .max_by_key(|w| w.until)
        .filter(|w| w.from < w.until)
}

/// The longest part of `window` in which the nearest base backup before is one of
/// `kind`. `bases` are the moments at which each was complete.
pub fn nearest(
    window: Window,
    bases: impl Iterator<Item = (Timestamp, Option<BaseKind>)>,
    kind: BaseKind,
) -> Option<Window> {
    let mut bases: Vec<_> = bases.collect();
    bases.sort_by_key(|(at, _)| *at);
    let ends = bases.iter().skip(1).map(|(at, _)| *at).chain([window.until]);
    bases
        .iter()
        .zip(ends)
        .filter(|((_, of), _)| *of == Some(kind))
        .map(|((from, _), until)| Window {
            from: window.from.max(*from),
            until: window.until.min(until),
        })
        .filter(|w| w.from < w.until)
        .max_by_key(|w| w.until.millis_since(w.from))
}

/// Draws for `drill`. `files_percent` is announced with it: of all stored files so
/// many hundredths will be read.
///
/// # Errors
/// The log cannot be used, or the lot is empty.
pub async fn draw(
    log: &DrillLog,
    drill: DrillId,
    cluster: &ClusterId,
    lot: &Lot,
    files_percent: u64,
    runner: &SigningKey,
    patience: Duration,
) -> Result<Drawn, DrawError> {
    let listing = match lot {
        Lot::Points(candidates) => Some(points::listing(candidates)),
        _ => None,
    };
    let empty = || DrawError::Empty(NotDrawn("there is nothing to draw from"));
    let listed = match &listing {
        Some(listing) => Some(Points::of(listing.as_bytes()).ok_or_else(empty)?),
        None => None,
    };
    let window = match lot {
        Lot::Moments(window) => Some(*window),
        _ => None,
    };
    // The drill's id is chosen before the seed can be known, and used once.
    let draw = Draw {
        slot: format!("{cluster}/{drill}"),
        cluster: cluster.clone(),
        window,
        points: listed,
        files_percent: Some(files_percent),
    };
    if let Some(listing) = &listing {
        let stored = log.store().put_byproduct(listing.clone().into()).await;
        stored.map_err(LogError::from)?;
    }
    let population = draw.clone().population(clock::now());
    let (place, sealed) = log.log_population(&population, runner, patience).await?;
    let seed = sampling::seed(&sealed.checkpoint, &draw.slot, &population.digest);
    let point = match (listed, &listing) {
        (Some(points), Some(listing)) => {
            let drawn = points.drawn(&seed, listing.as_bytes());
            Some(drawn.map_err(DrawError::Empty)?)
        }
        _ => None,
    };
    let moment = window.and_then(|w| sampling::moment(&seed, w));
    let selected = moment.or(point.as_ref().map(|p| p.at));
    Ok(Drawn {
        seed,
        slot: draw.slot.clone(),
        selected,
        point: point.map(|p| p.name),
        points: listed,
        stated: Sampling {
            method: selected.map_or(OPERATOR, |_| draw.method()).to_owned(),
            population_size: Some(population.size),
            population_digest: Some(population.digest),
            population_index: Some(place.index),
            checkpoint_size: Some(sealed.checkpoint.checkpoint().size),
            slot: Some(draw.slot),
            window,
            seed: Some(seed),
            selected,
            file_sample: None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::fixture::at;

    #[test]
    fn a_kind_of_base_has_the_moments_after_it() {
        let window = Window {
            from: at("01:00:00"),
            until: at("10:00:00"),
        };
        let (full, incremental) = (Some(BaseKind::Full), Some(BaseKind::Incremental));
        let bases = [
            (at("00:30:00"), full),
            (at("02:00:00"), incremental),
            (at("04:00:00"), incremental),
            (at("09:30:00"), full),
        ];
        let part = |kind| nearest(window, bases.into_iter(), kind).map(|w| (w.from, w.until));
        assert_eq!(part(BaseKind::Full), Some((at("01:00:00"), at("02:00:00"))));
        assert_eq!(
            part(BaseKind::Incremental),
            Some((at("04:00:00"), at("09:30:00")))
        );
        let none = [(at("00:30:00"), full), (at("11:00:00"), incremental)];
        assert_eq!(nearest(window, none.into_iter(), BaseKind::Incremental), None);
        assert_eq!(
            nearest(window, [(at("00:30:00"), None)].into_iter(), BaseKind::Full),
            None
        );
    }
}
