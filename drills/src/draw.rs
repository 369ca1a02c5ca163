//! Draws what a drill restores: commits to the population, waits for a checkpoint
//! that fixes the seed, draws.
//!
//! How is pure and in [`crate::evidence::sampling`]. If the process dies between
//! the population and the intent, a draw stays in the log that nothing used;
//! coverage counts it.

use std::time::Duration;

use holdfast_agent::ledger::PointsReport;
use holdfast_proto::names::{ClusterId, DrillId};
use holdfast_proto::{Sha256Digest, Timestamp};
use holdfast_repository::clock;
use holdfast_repository::signing::SigningKey;

use crate::evidence::sampling::{self, Draw};
use crate::evidence::statement::context::{FileSample, OPERATOR, SEEDED_WINDOW, Sampling, Window};
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

/// Draws for `drill`. Without a `window` there is no moment to draw, and the seed
/// is for the files alone.
pub async fn draw(
    log: &DrillLog,
    drill: DrillId,
    cluster: &ClusterId,
    window: Option<Window>,
    runner: &SigningKey,
    patience: Duration,
) -> Result<Drawn, LogError> {
    // The drill's id is chosen before the seed can be known, and used once.
    let draw = Draw {
        slot: format!("{cluster}/{drill}"),
        cluster: cluster.clone(),
        window,
    };
    let population = draw.clone().population(clock::now());
    let (place, sealed) = log.log_population(&population, runner, patience).await?;
    let seed = sampling::seed(&sealed.checkpoint, &draw.slot, &population.digest);
    let selected = window.and_then(|w| sampling::moment(&seed, w));
    Ok(Drawn {
        seed,
        slot: draw.slot.clone(),
        selected,
        stated: Sampling {
            method: selected.map_or(OPERATOR, |_| SEEDED_WINDOW).to_owned(),
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
