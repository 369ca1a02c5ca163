//! Several candidates, a store, and everything late.

use proptest::prelude::*;

use super::*;

const LASTS: Duration = Duration::from_millis(3_000);

fn ms(ms: u64) -> Moment {
    Duration::from_millis(ms)
}

fn other(n: u64) -> Found {
    Found {
        n,
        term: Some(n),
        waited_for: LASTS,
        ours: false,
    }
}

#[test]
fn a_reign_is_renewed_in_its_term_and_ends_by_itself() {
    let mut one = Candidate::new(LASTS, 0);
    assert_eq!(one.next(ms(0)), Next::Claim { n: 1, term: 1 });
    assert_eq!(one.leads(ms(0)), None, "asking is not winning");
    one.won(1, 1, ms(10));
    assert_eq!(one.leads(ms(3_009)), Some((1, ms(3_010))));
    assert_eq!(one.leads(ms(3_010)), None);
    assert_eq!(one.next(ms(1_509)), Next::Look);
    assert_eq!(one.next(ms(1_510)), Next::Claim { n: 2, term: 1 });
    one.won(2, 1, ms(1_510));
    assert_eq!(one.leads(ms(4_509)), Some((1, ms(4_510))));
    // Late, and nobody was there meanwhile: the reign goes on where it ended.
    assert_eq!(one.next(ms(60_000)), Next::Claim { n: 3, term: 1 });
}

#[test]
fn who_waits_takes_over_after_the_whole_time_and_who_is_overtaken_stops() {
    let mut two = Candidate::new(LASTS, 0);
    two.found(other(7), ms(100));
    assert_eq!(two.next(ms(3_099)), Next::Look);
    assert_eq!(two.next(ms(3_100)), Next::Claim { n: 8, term: 8 });
    // The holder was faster.
    two.found(other(8), ms(3_110));
    assert_eq!(two.next(ms(6_109)), Next::Look);

    let mut one = Candidate::new(LASTS, 0);
    one.won(7, 7, ms(0));
    one.found(other(8), ms(20));
    assert_eq!(one.leads(ms(21)), None);
    assert_eq!(one.next(ms(21)), Next::Look);
}

#[test]
fn what_was_given_back_is_taken_at_once_and_ones_own_after_a_kill() {
    let mut two = Candidate::new(LASTS, 0);
    let free = Found {
        waited_for: Duration::ZERO,
        ..other(4)
    };
    two.found(free, ms(5));
    assert_eq!(two.next(ms(5)), Next::Claim { n: 5, term: 5 });

    let mut again = Candidate::new(LASTS, 0);
    let own = Found {
        term: Some(2),
        ours: true,
        ..other(9)
    };
    again.found(own, ms(5));
    assert_eq!(again.leads(ms(5)), None, "until the next one is won");
    assert_eq!(again.next(ms(5)), Next::Claim { n: 10, term: 2 });
    again.resign();
    assert_eq!(again.next(ms(6)), Next::Look);
}

#[test]
fn another_authority_begins_above() {
    let mut one = Candidate::new(LASTS, 0);
    one.won(900, 7, ms(0));
    one.rebase(0);
    assert!(one.leads(ms(1)).is_some());
    one.rebase(1_000);
    assert_eq!(one.leads(ms(1)), None);
    assert_eq!(
        one.next(ms(1)),
        Next::Claim {
            n: 1_001,
            term: 1_001
        }
    );
}

/// What happens to a candidate in one step of the simulation.
#[derive(Debug, Clone, Copy)]
enum Happens {
    /// It looks, and learns of it so much later.
    Looks(u64),
    /// It does what it is to do, and learns what came of it so much later.
    Acts(u64),
    /// It does nothing for so long, and what it would be told waits.
    Sleeps(u64),
    /// It is killed and starts anew; whether it knows its own leases again.
    Killed(bool),
}

struct Simulated {
    candidate: Candidate,
    id: usize,
    /// What it will be told, and when.
    told: Vec<(u64, Told)>,
    asleep: u64,
    /// Its clock goes so many thousandths as fast as true time.
    pace: u64,
    /// Leases of its own before this one are forgotten.
    knows_from: u64,
}

#[derive(Debug, Clone, Copy)]
enum Told {
    Found(u64),
    Won(u64, u64, Moment),
}

impl Simulated {
    fn clock(&self, now: u64) -> Moment {
        Duration::from_micros(now * self.pace)
    }
}

fn happenings() -> impl Strategy<Value = Vec<(usize, Happens)>> {
    let what = prop_oneof![
        4 => (0..400u64).prop_map(Happens::Looks),
        6 => (0..400u64).prop_map(Happens::Acts),
        1 => (100..9_000u64).prop_map(Happens::Sleeps),
        1 => any::<bool>().prop_map(Happens::Killed),
    ];
    prop::collection::vec((0..3usize, what), 1..400)
}

proptest! {
    #[test]
    fn never_two_lead(happens in happenings(), paces in prop::array::uniform3(960..1_040u64), step in 1..300u64) {
        // Who won each number, under which term; the number is the place.
        let mut store: Vec<(usize, u64)> = Vec::new();
        let mut all: Vec<Simulated> = (0..3)
            .map(|id| Simulated {
                candidate: Candidate::new(LASTS, 0),
                id,
                told: Vec::new(),
                asleep: 0,
                pace: paces[id],
                knows_from: 0,
            })
            .collect();
        let mut now = 0;
        for (id, what) in happens {
            now += step;
            for one in &mut all {
                let clock = one.clock(now);
                if one.asleep > now {
                    continue;
                }
                let due: Vec<Told> = one.told.iter().filter(|(at, _)| *at <= now).map(|(_, told)| *told).collect();
                one.told.retain(|(at, _)| *at > now);
                for told in due {
                    match told {
                        Told::Won(n, term, asked) => one.candidate.won(n, term, asked),
                        Told::Found(n) => {
                            let (winner, term) = store[usize::try_from(n).unwrap() - 1];
                            let found = Found {
                                n,
                                term: Some(term),
                                // The margin of a lease.
                                waited_for: LASTS + LASTS / 10,
                                ours: winner == one.id && n >= one.knows_from,
                            };
                            one.candidate.found(found, clock);
                        }
                    }
                }
            }
            let one = &mut all[id];
            if one.asleep <= now {
                let clock = one.clock(now);
                let highest = store.len() as u64;
                match what {
                    Happens::Looks(late) if highest > one.candidate.highest() => {
                        one.told.push((now + late, Told::Found(highest)));
                    }
                    Happens::Looks(_) => {}
                    Happens::Acts(late) => if let Next::Claim { n, term } = one.candidate.next(clock) {
                        if n == highest + 1 {
                            store.push((id, term));
                            one.told.push((now + late, Told::Won(n, term, clock)));
                        } else if highest > one.candidate.highest() {
                            one.told.push((now + late, Told::Found(highest)));
                        }
                    },
                    Happens::Sleeps(long) => one.asleep = now + long,
                    Happens::Killed(remembers) => {
                        one.candidate = Candidate::new(LASTS, 0);
                        one.told.clear();
                        if !remembers {
                            one.knows_from = highest + 1;
                        }
                    }
                }
            }
            // Asleep ones count too: they act on what they believed when they wake.
            let leading: Vec<usize> = all
                .iter()
                .filter(|one| one.candidate.leads(one.clock(now)).is_some())
                .map(|one| one.id)
                .collect();
            prop_assert!(leading.len() <= 1, "{leading:?} lead at {now}: {store:?}");
        }
    }
}
