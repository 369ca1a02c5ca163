//! A backtest: forecasts of recoveries from those before them, over histories that are
//! made up, with what befalls real ones.

use super::*;

/// Numbers that look like chance, the same each time (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to below 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Between two, evenly by their logarithms.
    fn between(&mut self, low: f64, high: f64) -> f64 {
        (low.ln() + self.share() * (high / low).ln()).exp()
    }

    /// A factor about 1, with the standard deviation of its logarithm.
    fn about_one(&mut self, deviation: f64) -> f64 {
        let sum: f64 = (0..12).map(|_| self.share()).sum();
        ((sum - 6.0) * deviation).exp()
    }
}

/// A cluster: what it has, and how fast its place is.
struct Site {
    base: f64,
    files: f64,
    file_size: f64,
    base_rate: f64,
    file_rate: f64,
    replay_rate: f64,
    rest: f64,
    grows: f64,
}

impl Site {
    fn any(chance: &mut Chance) -> Self {
        Self {
            base: chance.between(1e9, 2e12),
            files: if chance.share() < 0.3 {
                0.0
            } else {
                chance.between(1e3, 2e6)
            },
            file_size: chance.between(2e4, 2e6),
            base_rate: chance.between(1.5e4, 4e5),
            file_rate: chance.between(0.5, 8.0),
            replay_rate: chance.between(8e3, 2e5),
            rest: chance.between(2e3, 6e4),
            grows: 1.0 + 0.04 * chance.share(),
        }
    }

    /// The next recovery: the data has grown, and the day is a good or a bad one.
    fn recover(&mut self, n: usize, chance: &mut Chance) -> Recovery {
        self.base *= self.grows;
        self.files *= self.grows;
        let bad = if chance.share() < 0.05 {
            chance.between(1.5, 3.0)
        } else {
            1.0
        };
        let mut took = |amount: f64, rate: f64, items: f64, moved: f64| Took {
            ms: (amount / rate * bad * chance.about_one(0.12)) as u64,
            bytes: moved as u64,
            items: items as u64,
        };
        let base = took(self.base, self.base_rate, 0.0, self.base);
        let files = (self.files > 0.0).then(|| {
            took(
                self.files,
                self.file_rate,
                self.files,
                self.files * self.file_size,
            )
        });
        let wal = chance.between(1e7, 2e11);
        let replay = Took {
            ms: (wal / self.replay_rate * bad * chance.about_one(0.2)) as u64,
            bytes: wal as u64,
            items: 0,
        };
        let rest = self.rest * chance.about_one(0.2);
        let steps = [Some(base), files, Some(replay)];
        Recovery {
            at: Timestamp::from_unix_micros(1_800_000_000_000_000).plus_millis(n as i64 * 604_800_000),
            base: Some(base),
            files,
            replay: Some(replay),
            total_ms: Some(steps.into_iter().flatten().map(|t| t.ms).sum::<u64>() + rest as u64),
        }
    }
}

/// How forecasts stood to what came.
#[derive(Default)]
struct Score {
    off: Vec<f64>,
    within: usize,
}

impl Score {
    fn note(&mut self, forecast: &Forecast, took: u64) {
        self.off.push((forecast.p50_ms as f64 / took as f64 - 1.0).abs());
        self.within += usize::from(took <= forecast.p90_ms);
    }

    /// The median error, and the share that p90 was enough for.
    fn sums(&self) -> (f64, f64) {
        let error = median(&self.off).unwrap();
        (error, self.within as f64 / self.off.len() as f64)
    }
}

#[test]
fn the_error_of_forecasts_over_histories() {
    let mut chance = Chance(20_261_128);
    let (mut none, mut few, mut many) = (Score::default(), Score::default(), Score::default());
    for _ in 0..300 {
        let mut site = Site::any(&mut chance);
        let mut past = Vec::new();
        for n in 0..24 {
            let came = site.recover(n, &mut chance);
            let forecast = Learnt::from(&past).forecast(&came.amounts());
            let score = match n {
                0 => &mut none,
                1..4 => &mut few,
                _ => &mut many,
            };
            score.note(&forecast, came.total_ms.unwrap());
            past.push(came);
        }
    }
    let mut lines = Vec::new();
    for (name, score) in [("none", &none), ("1 to 3", &few), ("4 and more", &many)] {
        let (error, within) = score.sums();
        lines.push(format!(
            "{name:>10} recoveries before: median error {:>5.1} %, p90 enough in {:.1} %",
            error * 100.0,
            within * 100.0
        ));
    }
    println!("{}", lines.join("\n"));
    let ((unlearnt, _), (some, some_within), (error, within)) = (none.sums(), few.sums(), many.sums());
    assert!(error < 0.12, "{error}");
    assert!((0.85..0.97).contains(&within), "{within}");
    assert!(some < 0.25, "{some}");
    assert!(some_within > 0.8, "{some_within}");
    assert!(
        error * 3.0 < unlearnt,
        "learning has to pay: {error} and {unlearnt}"
    );
}

fn recovery(n: i64, base: (u64, u64), replay: (u64, u64)) -> Recovery {
    let took = |(bytes, ms)| Took { ms, bytes, items: 0 };
    Recovery {
        at: Timestamp::from_unix_micros(1_800_000_000_000_000).plus_millis(n),
        base: Some(took(base)),
        files: None,
        replay: Some(took(replay)),
        total_ms: Some(base.1 + replay.1 + 500),
    }
}

#[test]
fn a_fixed_time_is_told_from_a_rate() {
    // Two seconds, and a second for each gigabyte.
    let past: Vec<Recovery> = (1u64..6)
        .map(|n| recovery(n as i64, (n * 1_000_000_000, 2_000 + n * 1_000), (0, 40)))
        .collect();
    let amounts = Amounts {
        base: 20_000_000_000,
        ..Amounts::default()
    };
    let forecast = Learnt::from(&past).forecast(&amounts);
    assert_eq!(forecast.base_ms, 22_000);
    assert_eq!(forecast.recoveries, 5);
    assert!(forecast.p50_ms <= forecast.p90_ms);
}

#[test]
fn one_bad_day_moves_little() {
    let mut past: Vec<Recovery> = (1u64..8)
        .map(|n| recovery(n as i64, (n * 1_000_000_000, n * 1_000), (1_000_000, 10)))
        .collect();
    let amounts = past[6].amounts();
    let before = Learnt::from(&past).forecast(&amounts);
    past[3].base = Some(Took {
        ms: 400_000,
        bytes: 4_000_000_000,
        items: 0,
    });
    past[3].total_ms = Some(401_000);
    let after = Learnt::from(&past).forecast(&amounts);
    let moved = after.base_ms.abs_diff(before.base_ms);
    assert!(moved * 10 < before.base_ms, "{before:?} {after:?}");
}

#[test]
fn without_a_recovery_the_rates_are_cautious_and_said_to_be_nobodys() {
    let amounts = Amounts {
        base: 60 << 30,
        file_bytes: 0,
        files: 0,
        wal: 24 << 20,
    };
    let forecast = Learnt::from(&[]).forecast(&amounts);
    assert_eq!(forecast.recoveries, 0);
    assert_eq!((forecast.base_ms, forecast.replay_ms), (1_024_000, 1_000));
    assert!(forecast.p90_ms > forecast.p50_ms);
}

#[test]
fn odd_numbers_are_no_panic() {
    let none = Took {
        ms: 0,
        bytes: 0,
        items: 0,
    };
    let all = Took {
        ms: u64::MAX,
        bytes: u64::MAX,
        items: u64::MAX,
    };
    for took in [none, all] {
        let recovery = Recovery {
            at: Timestamp::from_unix_micros(0),
            base: Some(took),
            files: Some(took),
            replay: Some(took),
            total_ms: Some(took.ms),
        };
        for count in [1, 2, 30] {
            let learnt = Learnt::from(&vec![recovery; count]);
            let forecast = learnt.forecast(&recovery.amounts());
            assert!(forecast.p50_ms <= forecast.p90_ms);
            learnt.forecast(&Amounts::default());
        }
    }
}

#[test]
fn a_real_restore_teaches_its_steps_and_no_more() {
    let drill = recovery(1, (1_000_000, 10_000), (1_000_000, 1_000));
    let restore = Recovery {
        replay: None,
        total_ms: None,
        ..recovery(2, (1_000_000, 4_000), (0, 0))
    };
    let amounts = drill.amounts();
    let of = |known: &[Recovery]| Learnt::from(known).forecast(&amounts);
    let (alone, both) = (of(&[drill]), of(&[drill, restore]));
    assert_eq!((alone.base_ms, both.base_ms), (10_000, 7_000));
    // What it did not see, replay and start, is as the drill says.
    assert_eq!((alone.replay_ms, both.replay_ms), (1_000, 1_000));
    let rest = |f: &Forecast| f.p50_ms - f.base_ms - f.replay_ms;
    assert_eq!((rest(&alone), rest(&both)), (500, 500));
    assert_eq!((alone.recoveries, both.recoveries), (1, 2));
    assert_eq!(of(&[restore]).base_ms, 4_000);
}
