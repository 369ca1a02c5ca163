//! How a drill's moment and its sample of files are drawn, so that anyone with
//! the log draws the same.
//!
//! Before a drill is announced, its runner logs what could be drawn: cluster,
//! slot and window of restorable moments ([`Draw`], in a population entry). A
//! checkpoint that covers that entry, signed by keys which the runner does not
//! have, then fixes the seed:
//!
//! ```text
//! seed = SHA-256(checkpoint, with the witness's line ‖ slot ‖ population's digest)
//! ```
//!
//! The population's digest is that of [`Draw::listing`]. The moment is the first
//! eight bytes of the seed, big endian, modulo the window's length in
//! microseconds, after its beginning. Files are ranked by SHA-256(seed ‖ digest)
//! and the first are taken.
//!
//! Pure. What it cannot show: that a runner did not log a second population and
//! leave the first one unused. Who has the whole log sees that
//! ([`super::audit::unused_draws`]).

use std::fmt;

use holdfast_proto::names::ClusterId;
use holdfast_proto::{Sha256Digest, Timestamp};
use serde::{Deserialize, Serialize};

use super::entry::Population;
use super::statement::Statement;
use super::statement::context::{FileSample, OPERATOR, SEEDED_WINDOW, Window};
use super::tlog::SignedCheckpoint;

/// The most files that a statement names: an entry of the log has its limit. Of
/// more it says how many, and which follows from seed and listing.
pub const MAX_SELECTED: usize = 64;

/// The byproduct that lists the files to draw from.
pub const FILE_POPULATION: &str = "file-population";

/// What a drill may be drawn from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draw {
    /// The slot: one draw is made for it.
    pub slot: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// The restorable moments to draw from; absent when the moment was named.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub window: Option<Window>,
}

impl Draw {
    /// The population in words, two lines: the cluster, and either the window's
    /// two moments or `operator`.
    pub fn listing(&self) -> String {
        match self.window {
            Some(w) => format!("{}\n{} {}\n", self.cluster, w.from, w.until),
            None => format!("{}\n{OPERATOR}\n", self.cluster),
        }
    }

    /// SHA-256 of the listing.
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(self.listing().as_bytes())
    }

    /// Moments to draw from, in microseconds; 1 when it was named.
    pub fn size(&self) -> u64 {
        self.window
            .map_or(1, |w| w.until.unix_micros().abs_diff(w.from.unix_micros()))
    }

    /// The entry that commits to it.
    pub fn population(self, at: Timestamp) -> Population {
        Population {
            tier: None,
            size: self.size(),
            digest: self.digest(),
            at,
            draw: Some(self),
            tenant: None,
            members: Vec::new(),
        }
    }
}

/// The seed that follows from a checkpoint.
pub fn seed(checkpoint: &SignedCheckpoint, slot: &str, population: &Sha256Digest) -> Sha256Digest {
    let note = checkpoint.to_bytes();
    Sha256Digest::of(&[note.as_slice(), slot.as_bytes(), population.as_bytes()].concat())
}

/// The moment in `window` that `seed` draws; `None` for an empty window.
pub fn moment(seed: &Sha256Digest, window: Window) -> Option<Timestamp> {
    let span = u64::try_from(
        window
            .until
            .unix_micros()
            .checked_sub(window.from.unix_micros())?,
    )
    .ok()?;
    let number = seed
        .as_bytes()
        .iter()
        .take(8)
        .fold(0u64, |n, b| n << 8 | u64::from(*b));
    let offset = i64::try_from(number.checked_rem(span)?).ok()?;
    Some(Timestamp::from_unix_micros(
        window.from.unix_micros().checked_add(offset)?,
    ))
}

/// The first `n` of `population` by SHA-256(seed ‖ item).
pub fn files(seed: &Sha256Digest, population: &[Sha256Digest], n: usize) -> Vec<Sha256Digest> {
    let rank =
        |item: &Sha256Digest| Sha256Digest::of(&[seed.as_bytes().as_slice(), item.as_bytes()].concat());
    let mut ranked: Vec<_> = population.iter().map(|item| (rank(item), *item)).collect();
    ranked.sort();
    ranked.into_iter().take(n).map(|(_, item)| item).collect()
}

/// The listing of files to draw from: their digests in order, one to a line.
pub fn file_listing(population: &[Sha256Digest]) -> String {
    let mut sorted = population.to_vec();
    sorted.sort();
    sorted.dedup();
    sorted.iter().map(|d| format!("{d}\n")).collect()
}

/// Reads a listing of files; `None` when it is not in its one form.
pub fn read_file_listing(bytes: &[u8]) -> Option<Vec<Sha256Digest>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let read: Vec<Sha256Digest> = text.lines().map(|l| l.parse().ok()).collect::<Option<_>>()?;
    (file_listing(&read) == text).then_some(read)
}

/// A sample that is not the one that the seed draws.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotDrawn(pub &'static str);

impl fmt::Display for NotDrawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the sample is not the drawn one: {}", self.0)
    }
}

/// Draws again what `statement` says was drawn: from the population entry that
/// stands at `index` of the log, and the checkpoint over it.
pub fn recompute(
    statement: &Statement,
    population: &Population,
    index: u64,
    checkpoint: &SignedCheckpoint,
) -> Result<(), NotDrawn> {
    let p = &statement.predicate;
    let need = |holds: bool, why| if holds { Ok(()) } else { Err(NotDrawn(why)) };
    let sampling = p.sampling.as_ref().ok_or(NotDrawn("it names none"))?;
    let intent = p.drill.intent.as_ref().ok_or(NotDrawn("nothing was announced"))?;
    let draw = population
        .draw
        .as_ref()
        .ok_or(NotDrawn("the population is not a drill's"))?;
    let size = checkpoint.checkpoint().size;
    need(
        (population.size, population.digest) == (draw.size(), draw.digest()),
        "size and digest of the population are not those of its listing",
    )?;
    need(
        (&draw.cluster.tenant, &draw.cluster.cluster) == (&p.scope.tenant, &p.scope.cluster),
        "the population is another cluster's",
    )?;
    need(
        sampling.population_index == Some(index)
            && sampling.checkpoint_size == Some(size)
            && sampling.slot.as_ref() == Some(&draw.slot)
            && sampling.population_digest == Some(population.digest)
            && sampling.population_size == Some(population.size)
            && sampling.window == draw.window,
        "population, slot, window or checkpoint are not those that were logged",
    )?;
    need(
        index < size && size <= intent.index,
        "the seed's checkpoint was not between the population and the intent",
    )?;
    // A line by anybody else would be a way to try seeds until one pleases.
    let cosigners: Vec<&str> = checkpoint.cosigners().collect();
    need(
        cosigners == intent.witness.name().into_iter().collect::<Vec<_>>() && checkpoint.own_lines() == 1,
        "the seed's checkpoint has other signatures than the log's and the witness's",
    )?;
    let seed = seed(checkpoint, &draw.slot, &population.digest);
    need(
        sampling.seed == Some(seed),
        "the seed does not follow from that checkpoint",
    )?;
    let selected = draw.window.map(|window| moment(&seed, window));
    let method = if selected.is_some() {
        SEEDED_WINDOW
    } else {
        OPERATOR
    };
    need(
        sampling.method == method && sampling.selected == selected.flatten(),
        "the seed draws another moment",
    )?;
    if let Some(selected) = sampling.selected {
        use super::statement::recovery::RecoveryTarget;
        let restored = p.recovery_point.as_ref().map(|r| &r.target);
        need(
            restored.is_none_or(|target| *target == RecoveryTarget::Time(selected)),
            "another moment was restored than was drawn",
        )?;
    }
    Ok(())
}

/// Draws the files again, out of the listing that the statement names.
pub fn recompute_files(seed: &Sha256Digest, sample: &FileSample, listing: &[u8]) -> Result<(), NotDrawn> {
    if sample.population_digest != Some(Sha256Digest::of(listing)) {
        return Err(NotDrawn("the listing of files is another"));
    }
    let population = read_file_listing(listing).ok_or(NotDrawn("the listing of files is not in its form"))?;
    let wanted = usize::try_from(sample.drawn).unwrap_or(usize::MAX);
    let drawn = files(seed, &population, wanted);
    let counted = (sample.population, sample.drawn) == (population.len() as u64, drawn.len() as u64);
    let too_many = drawn.len() > MAX_SELECTED && sample.selected.is_empty();
    if counted && (drawn == sample.selected || too_many) {
        Ok(())
    } else {
        Err(NotDrawn("the seed draws other files"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::at;
    use super::*;

    fn window(from: &str, until: &str) -> Window {
        Window {
            from: at(from),
            until: at(until),
        }
    }

    #[test]
    fn a_moment_lies_in_its_window() {
        let w = window("10:00:00", "10:00:01");
        for n in 0u8..50 {
            let drawn = moment(&Sha256Digest::of(&[n]), w).unwrap();
            assert!((w.from..w.until).contains(&drawn), "{drawn}");
        }
        let whole = Sha256Digest::new([0; 32]);
        assert_eq!(moment(&whole, w), Some(w.from));
        assert_eq!(moment(&whole, window("10:00:00", "10:00:00")), None);
        assert_eq!(moment(&whole, window("10:00:01", "10:00:00")), None);
    }

    #[test]
    fn a_listing_has_one_form() {
        let items = [
            Sha256Digest::of(b"b"),
            Sha256Digest::of(b"a"),
            Sha256Digest::of(b"b"),
        ];
        let text = file_listing(&items);
        assert_eq!(read_file_listing(text.as_bytes()).unwrap().len(), 2);
        assert_eq!(read_file_listing(format!("{text}\n").as_bytes()), None);
        let backwards: String = text.lines().rev().map(|l| format!("{l}\n")).collect();
        assert_eq!(read_file_listing(backwards.as_bytes()), None);
        assert_eq!(read_file_listing(b""), Some(vec![]));
    }

    #[test]
    fn files_follow_from_the_seed() {
        let all: Vec<Sha256Digest> = (0u8..100).map(|n| Sha256Digest::of(&[n])).collect();
        let seed = Sha256Digest::of(b"seed");
        let listing = file_listing(&all);
        let sample = FileSample {
            population: 100,
            drawn: 3,
            population_digest: Some(Sha256Digest::of(listing.as_bytes())),
            selected: files(&seed, &all, 3),
        };
        recompute_files(&seed, &sample, listing.as_bytes()).unwrap();
        recompute_files(&Sha256Digest::of(b"other"), &sample, listing.as_bytes()).unwrap_err();
        let mut fewer = sample.clone();
        fewer.selected.pop();
        recompute_files(&seed, &fewer, listing.as_bytes()).unwrap_err();
        let mut easier = sample.clone();
        easier.selected.swap(0, 1);
        recompute_files(&seed, &easier, listing.as_bytes()).unwrap_err();
        let unnamed = |drawn| FileSample {
            drawn,
            selected: Vec::new(),
            ..sample.clone()
        };
        recompute_files(&seed, &unnamed(65), listing.as_bytes()).unwrap();
        recompute_files(&seed, &unnamed(101), listing.as_bytes()).unwrap_err();
        recompute_files(&seed, &unnamed(3), listing.as_bytes()).unwrap_err();
        let shorter = file_listing(&all[1..]);
        recompute_files(&seed, &sample, shorter.as_bytes()).unwrap_err();
    }
}
