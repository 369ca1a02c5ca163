//! Joint recovery points to draw from.
//!
//! There may be thousands of them, and an entry of the log is small: the population
//! names their listing by its digest, and the listing is a byproduct. It has one
//! form: a line `moment name` for each, in order.

use holdfast_proto::{Sha256Digest, Timestamp};
use serde::{Deserialize, Serialize};

use super::{NotDrawn, number};

/// All the points that could be drawn, by their listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Points {
    /// How many there are.
    pub count: u64,
    /// SHA-256 of their listing.
    pub digest: Sha256Digest,
}

/// One that could be drawn.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// When it was made, by the primary's clock.
    pub at: Timestamp,
    /// The name of its restore point in the WAL.
    pub name: String,
}

impl Points {
    /// Those that `listing` lists; `None` when it lists none, or is not in its one
    /// form.
    pub fn of(listing: &[u8]) -> Option<Self> {
        let count = read(listing)?.len() as u64;
        let digest = Sha256Digest::of(listing);
        (count > 0).then_some(Self { count, digest })
    }

    /// The one that `seed` draws from `listing`.
    ///
    /// # Errors
    /// It is another listing, or not in its form.
    pub fn drawn(&self, seed: &Sha256Digest, listing: &[u8]) -> Result<Candidate, NotDrawn> {
        if Self::of(listing) != Some(*self) {
            return Err(NotDrawn("the listing of points is another, or not in its form"));
        }
        number(seed)
            .checked_rem(self.count)
            .and_then(|at| read(listing)?.into_iter().nth(usize::try_from(at).ok()?))
            .ok_or(NotDrawn("there are no points to draw from"))
    }
}

/// The listing of `candidates`.
pub fn listing(candidates: &[Candidate]) -> String {
    let mut sorted: Vec<&Candidate> = candidates.iter().collect();
    sorted.sort();
    sorted.dedup();
    sorted.iter().map(|c| format!("{} {}\n", c.at, c.name)).collect()
}

fn read(bytes: &[u8]) -> Option<Vec<Candidate>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let candidate = |line: &str| {
        let (at, name) = line.split_once(' ')?;
        let at = at.parse().ok()?;
        Some(Candidate {
            at,
            name: name.to_owned(),
        })
    };
    let read: Vec<Candidate> = text.lines().map(candidate).collect::<Option<_>>()?;
    (listing(&read) == text).then_some(read)
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::at;
    use super::*;

    fn candidates(n: usize) -> Vec<Candidate> {
        (0..n)
            .map(|n| Candidate {
                at: at(&format!("10:00:{n:02}")),
                name: format!("holdfast-{n}"),
            })
            .collect()
    }

    #[test]
    fn every_point_can_be_drawn_and_nothing_else() {
        let listed = listing(&candidates(5));
        let points = Points::of(listed.as_bytes()).unwrap();
        let drawn: std::collections::BTreeSet<String> = (0u8..100)
            .map(|n| {
                points
                    .drawn(&Sha256Digest::of(&[n]), listed.as_bytes())
                    .unwrap()
                    .name
            })
            .collect();
        assert_eq!(drawn.len(), 5);
        let first = Sha256Digest::new([0; 32]);
        assert_eq!(points.drawn(&first, listed.as_bytes()).unwrap(), candidates(1)[0]);
        points
            .drawn(&first, listing(&candidates(4)).as_bytes())
            .unwrap_err();
    }

    #[test]
    fn a_listing_of_points_has_one_form() {
        let listed = listing(&candidates(3));
        let backwards: String = listed.lines().rev().map(|l| format!("{l}\n")).collect();
        for wrong in [
            "",
            "x\n",
            "2026-11-21T10:00:00Z\n",
            &backwards,
            &listed[1..],
            &format!("{listed}\n"),
        ] {
            assert_eq!(Points::of(wrong.as_bytes()), None, "{wrong:?}");
        }
        let twice = [candidates(3), candidates(3)].concat();
        assert_eq!(listing(&twice), listed);
    }
}
