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
//! microseconds, after its beginning; of joint recovery points it is the one at the
//! same number, modulo how many they are, in their listing. Files are ranked by
//! SHA-256(seed ‖ digest) and the first are taken: as many as [`share`] says of the
//! hundredths that the population entry announced, so that nobody takes fewer once
//! the seed is known.
//!
//! Pure. What it cannot show: that a runner did not log a second population and
//! leave the first one unused. Who has the whole log sees that
//! ([`super::audit::unused_draws`]).

pub mod points;

use std::fmt;

use holdfast_proto::names::ClusterId;
use holdfast_proto::{Sha256Digest, Timestamp};
use serde::{Deserialize, Serialize};

use super::entry::Population;
use super::statement::Statement;
use super::statement::context::{FileSample, OPERATOR, SEEDED_POINT, SEEDED_WINDOW, Window};
use super::statement::recovery::RecoveryTarget;
use super::tlog::SignedCheckpoint;
use points::Points;

/// The most files that a statement names: an entry of the log has its limit. Of
/// more it says how many, and which follows from seed and listing.
pub const MAX_SELECTED: usize = 64;

/// The fewest files of a sample, where there are so many to draw from.
pub const MIN_FILES: u64 = 16;

/// How many of `population` files a sample of `percent` hundredths has: rounded up,
/// no fewer than [`MIN_FILES`], and no more than there are.
pub fn share(population: u64, percent: u64) -> u64 {
    let hundredths = u128::from(population) * u128::from(percent);
    let share = u64::try_from(hundredths.div_ceil(100)).unwrap_or(u64::MAX);
    share.max(MIN_FILES).min(population)
}

/// The byproduct that lists the files to draw from.
pub const FILE_POPULATION: &str = "file-population";
/// The byproduct that lists the joint recovery points to draw from.
pub const POINT_POPULATION: &str = "point-population";

/// What a drill may be drawn from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draw {
    /// The slot: one draw is made for it.
    pub slot: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// The restorable moments to draw from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub window: Option<Window>,
    /// The joint recovery points to draw from. Where there is no window either, the
    /// moment was named.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub points: Option<Points>,
    /// Hundredths of all stored files that will be read and hashed again; absent in
    /// draws of earlier versions.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub files_percent: Option<u64>,
}

impl Draw {
    /// The population in words: the cluster in a line; in the next either the
    /// window's two moments, or `points` with their number and their listing's
    /// digest, or `operator`; and, where a share of the files was announced, `files`
    /// and its hundredths in a third.
    pub fn listing(&self) -> String {
        let what = match (self.window, self.points) {
            (Some(w), _) => format!("{} {}", w.from, w.until),
            (None, Some(p)) => format!("points {} {}", p.count, p.digest),
            (None, None) => OPERATOR.to_owned(),
        };
        let files = self.files_percent.map(|n| format!("files {n}\n"));
        format!("{}\n{what}\n{}", self.cluster, files.unwrap_or_default())
    }

    /// SHA-256 of the listing.
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(self.listing().as_bytes())
    }

    /// Moments to draw from, in microseconds, or points; 1 when it was named.
    pub fn size(&self) -> u64 {
        match (self.window, self.points) {
            (Some(w), _) => w.until.unix_micros().abs_diff(w.from.unix_micros()),
            (None, points) => points.map_or(1, |p| p.count),
        }
    }

    /// How the moment is chosen, in the statement's word.
    pub fn method(&self) -> &'static str {
        match (self.window, self.points) {
            (Some(_), _) => SEEDED_WINDOW,
            (None, Some(_)) => SEEDED_POINT,
            (None, None) => OPERATOR,
        }
    }

    /// What `seed` draws: the moment, and what is to be restored. `listing` is
    /// that of the points, where it draws from points.
    fn drawn(
        &self,
        seed: &Sha256Digest,
        listing: Option<&[u8]>,
    ) -> Result<Option<(Timestamp, RecoveryTarget)>, NotDrawn> {
        match (self.window, self.points) {
            (Some(_), Some(_)) => Err(NotDrawn("the population is of moments and of points")),
            (Some(window), None) => Ok(moment(seed, window).map(|at| (at, RecoveryTarget::Time(at)))),
            (None, Some(points)) => {
                let listing = listing.ok_or(NotDrawn("the listing of points is missing"))?;
                let point = points.drawn(seed, listing)?;
                Ok(Some((point.at, RecoveryTarget::Name(point.name))))
            }
            (None, None) => Ok(None),
        }
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
    let offset = i64::try_from(number(seed).checked_rem(span)?).ok()?;
    Some(Timestamp::from_unix_micros(
        window.from.unix_micros().checked_add(offset)?,
    ))
}

/// The first eight bytes of `seed`, big endian.
fn number(seed: &Sha256Digest) -> u64 {
    seed.as_bytes()
        .iter()
        .take(8)
        .fold(0u64, |n, b| n << 8 | u64::from(*b))
}

/// The first `n` of `population` by SHA-256(seed ‖ bytes of the item).
pub fn ranked<'a, T: Ord>(
    seed: &Sha256Digest,
    population: impl Iterator<Item = &'a T>,
    bytes: impl Fn(&T) -> &[u8],
    n: usize,
) -> Vec<&'a T> {
    let rank = |item: &T| Sha256Digest::of(&[seed.as_bytes().as_slice(), bytes(item)].concat());
    let mut ranked: Vec<_> = population.map(|item| (rank(item), item)).collect();
    ranked.sort();
    ranked.into_iter().take(n).map(|(_, item)| item).collect()
}

/// The first `n` of `population` by SHA-256(seed ‖ digest).
pub fn files(seed: &Sha256Digest, population: &[Sha256Digest], n: usize) -> Vec<Sha256Digest> {
    let drawn = ranked(seed, population.iter(), |digest| digest.as_bytes(), n);
    drawn.into_iter().copied().collect()
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
/// stands at `index` of the log, the checkpoint over it, and the listing of points
/// where it was drawn from points.
pub fn recompute(
    statement: &Statement,
    population: &Population,
    index: u64,
    checkpoint: &SignedCheckpoint,
    points: Option<&[u8]>,
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
    let drawn = draw.drawn(&seed, points)?;
    let method = drawn.as_ref().map_or(OPERATOR, |_| draw.method());
    need(
        sampling.method == method && sampling.selected == drawn.as_ref().map(|(at, _)| *at),
        "the seed draws another moment",
    )?;
    if let Some((_, target)) = drawn {
        let restored = p.recovery_point.as_ref().map(|r| &r.target);
        need(
            restored.is_none_or(|restored| *restored == target),
            "another moment was restored than was drawn",
        )?;
    }
    Ok(())
}

/// Draws the files again, out of the listing that the statement names: as many as
/// the `percent` that were announced before the seed was known, or, where an earlier
/// version announced none, at least [`MIN_FILES`].
pub fn recompute_files(
    seed: &Sha256Digest,
    percent: Option<u64>,
    sample: &FileSample,
    listing: &[u8],
) -> Result<(), NotDrawn> {
    if sample.population_digest != Some(Sha256Digest::of(listing)) {
        return Err(NotDrawn("the listing of files is another"));
    }
    let population = read_file_listing(listing).ok_or(NotDrawn("the listing of files is not in its form"))?;
    let wanted = usize::try_from(sample.drawn).unwrap_or(usize::MAX);
    let drawn = files(seed, &population, wanted);
    let counted = (sample.population, sample.drawn) == (population.len() as u64, drawn.len() as u64);
    let too_many = drawn.len() > MAX_SELECTED && sample.selected.is_empty();
    if !counted || (drawn != sample.selected && !too_many) {
        return Err(NotDrawn("the seed draws other files"));
    }
    let fewest = share(sample.population, percent.unwrap_or(0));
    match percent {
        _ if sample.drawn < fewest => Err(NotDrawn("it has fewer files than were announced, or than 16")),
        Some(_) if sample.drawn > fewest => Err(NotDrawn("it has more files than were announced")),
        _ => Ok(()),
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
        let of = |drawn: u64, selected: Vec<Sha256Digest>| FileSample {
            population: 100,
            drawn,
            population_digest: Some(Sha256Digest::of(listing.as_bytes())),
            selected,
        };
        let named = |drawn: u64| of(drawn, files(&seed, &all, drawn as usize));
        let again =
            |percent, sample: &FileSample| recompute_files(&seed, percent, sample, listing.as_bytes());
        let sample = named(20);
        again(Some(20), &sample).unwrap();
        again(None, &sample).unwrap();
        recompute_files(&Sha256Digest::of(b"other"), Some(20), &sample, listing.as_bytes()).unwrap_err();
        let mut fewer = sample.clone();
        fewer.selected.pop();
        again(Some(20), &fewer).unwrap_err();
        let mut easier = sample.clone();
        easier.selected.swap(0, 1);
        again(Some(20), &easier).unwrap_err();
        let mut more = sample.clone();
        more.drawn = 21;
        again(Some(20), &more).unwrap_err();
        let unnamed = |drawn| of(drawn, Vec::new());
        again(Some(65), &unnamed(65)).unwrap();
        again(None, &unnamed(101)).unwrap_err();
        again(None, &unnamed(20)).unwrap_err();
        let shorter = file_listing(&all[1..]);
        recompute_files(&seed, Some(20), &sample, shorter.as_bytes()).unwrap_err();
    }

    /// Everything about these samples follows from the seed, but their size.
    #[test]
    fn a_sample_is_as_large_as_it_was_announced() {
        let all: Vec<Sha256Digest> = (0u8..100).map(|n| Sha256Digest::of(&[n])).collect();
        let seed = Sha256Digest::of(b"seed");
        let check = |percent: Option<u64>, of: usize, drawn: usize, expected: bool| {
            let listing = file_listing(&all[..of]);
            let sample = FileSample {
                population: of as u64,
                drawn: drawn as u64,
                population_digest: Some(Sha256Digest::of(listing.as_bytes())),
                selected: files(&seed, &all[..of], drawn),
            };
            let got = recompute_files(&seed, percent, &sample, listing.as_bytes());
            assert_eq!(got.is_ok(), expected, "{drawn} of {of} at {percent:?}: {got:?}");
        };
        check(Some(20), 100, 19, false);
        check(Some(20), 100, 21, false);
        check(Some(0), 100, 15, false);
        check(Some(0), 100, 16, true);
        check(Some(5), 7, 6, false);
        check(Some(5), 7, 7, true);
        check(None, 100, 15, false);
        check(None, 100, 16, true);
        check(None, 100, 40, true);
        check(None, 7, 7, true);
    }

    #[test]
    fn a_share_is_rounded_up_and_no_less_than_sixteen() {
        for (files, percent, drawn) in [
            (0, 5, 0),
            (7, 5, 7),
            (100, 5, 16),
            (400, 5, 20),
            (401, 5, 21),
            (1000, 0, 16),
            (1000, 100, 1000),
            (u64::MAX, 100, u64::MAX),
        ] {
            assert_eq!(share(files, percent), drawn, "{percent} % of {files}");
        }
    }
}
