//! Samples that were not the drawn ones.

use super::super::super::dsse::EnvelopeSignature;
use super::super::super::export::{ShownEntries, files, write};
use super::super::super::fixture::{self, at};
use super::super::super::sampling::{self, Draw};
use super::super::super::statement::recovery::RecoveryTarget;
use super::super::super::tlog::Tree;
use super::super::*;

use super::world::*;

#[test]
fn a_sample_that_was_not_drawn_is_refused() {
    let world = World::new();
    world.both(&files(&world.drill(|_| {})).unwrap()).unwrap();
    let changes: [fn(&mut Statement); 9] = [
        // Another moment, with and without the restore that goes with it.
        |s| sampling_of(s).selected = Some(at("12:12:12")),
        |s| {
            sampling_of(s).selected = Some(at("12:12:12"));
            s.predicate.recovery_point.as_mut().unwrap().target = RecoveryTarget::Time(at("12:12:12"));
        },
        |s| s.predicate.recovery_point.as_mut().unwrap().target = RecoveryTarget::Time(at("12:12:12")),
        // A window that suits, a place that suits.
        |s| sampling_of(s).window.as_mut().unwrap().from = at("09:00:00"),
        |s| sampling_of(s).checkpoint_size = Some(BEFORE),
        |s| sampling_of(s).population_digest = Some(Sha256Digest::of(b"another")),
        // Fewer files, other files.
        |s| {
            let files = sampling_of(s).file_sample.as_mut().unwrap();
            files.selected[0] = files.selected[1];
        },
        |s| {
            let files = sampling_of(s).file_sample.as_mut().unwrap();
            files.selected.remove(0);
            files.drawn -= 1;
        },
        // No sample at all, although one was announced.
        |s| s.predicate.sampling = None,
    ];
    for (n, change) in changes.iter().enumerate() {
        let result = world.both(&files(&world.drill(change)).unwrap());
        assert!(result.is_err(), "change {n} was accepted");
    }
    // More files than a statement names are counted, fewer are named.
    let counted = |percent: u64, drawn: u64| {
        let mut world = World::new();
        world.files_percent = Some(percent);
        let change = |s: &mut Statement| {
            let files = sampling_of(s).file_sample.as_mut().unwrap();
            (files.drawn, files.selected) = (drawn, Vec::new());
        };
        world.both(&files(&world.drill(change)).unwrap())
    };
    counted(87, 70).unwrap();
    refused(counted(100, 81), "other files");
    refused(counted(20, 16), "other files");
    let mut export = files(&world.drill(|_| {})).unwrap();
    let listing = export
        .iter()
        .position(|f| f.path.starts_with("byproducts/"))
        .unwrap();
    export[listing].bytes[0] ^= 1;
    refused(world.both(&export), "byproducts/");
    export.remove(listing);
    refused(world.both(&export), "byproducts/");
}

/// Everything in these samples follows from the seed. Only there is less of them than
/// was said before it was known.
#[test]
fn a_sample_that_is_too_small_is_refused() {
    let sample = |percent: Option<u64>, drawn: usize| {
        let mut world = World::new();
        (world.files_percent, world.files_drawn) = (percent, drawn);
        world.both(&files(&world.drill(|_| {})).unwrap())
    };
    sample(Some(20), 16).unwrap();
    sample(Some(50), 40).unwrap();
    for (percent, drawn) in [
        (Some(50), 16),
        (Some(50), 39),
        (Some(20), 15),
        (Some(0), 15),
        (Some(20), 1),
    ] {
        refused(sample(percent, drawn), "fewer files than were announced");
    }
    refused(sample(Some(20), 17), "more files than were announced");
    // Earlier versions announced no share; they drew no fewer than sixteen.
    sample(None, 16).unwrap();
    sample(None, 20).unwrap();
    refused(sample(None, 15), "fewer files");
}

/// A pass without a sample is none, however well the rest of it fits together.
#[test]
fn a_pass_without_files_that_were_read_is_refused() {
    let world = World::new();
    let without = |s: &mut Statement| sampling_of(s).file_sample = None;
    refused(
        world.both(&files(&world.drill(without)).unwrap()),
        "read and hashed again",
    );
}

#[test]
fn a_point_that_was_not_drawn_is_refused() {
    let mut world = World::new();
    world.from_points = true;
    let input = world.drill(|_| {});
    let Entry::Result(statement) = &input.result.entry else {
        panic!("a result")
    };
    let sampling = statement.predicate.sampling.as_ref().unwrap();
    assert_eq!(
        (sampling.method.as_str(), sampling.window),
        ("seeded-point", None)
    );
    assert_eq!(sampling.population_size, Some(3));
    world.both(&files(&input).unwrap()).unwrap();
    let other = |s: &Statement| {
        let drawn = s.predicate.sampling.as_ref().unwrap().selected;
        POINTS
            .lines()
            .map(|l| l.split_once(' ').unwrap())
            .map(|(at, name)| (at.parse().unwrap(), name.to_owned()))
            .find(|(at, _)| Some(*at) != drawn)
            .unwrap()
    };
    type Change = fn(&mut Statement, (Timestamp, String));
    let changes: [Change; 5] = [
        |s, (at, _)| sampling_of(s).selected = Some(at),
        |s, (at, name)| {
            sampling_of(s).selected = Some(at);
            s.predicate.recovery_point.as_mut().unwrap().target = RecoveryTarget::Name(name);
        },
        |s, (_, name)| s.predicate.recovery_point.as_mut().unwrap().target = RecoveryTarget::Name(name),
        |s, _| sampling_of(s).method = "seeded-window".into(),
        |s, _| sampling_of(s).population_size = Some(2),
    ];
    for (n, change) in changes.iter().enumerate() {
        let changed = world.drill(|s| {
            let other = other(s);
            change(s, other);
        });
        let result = world.both(&files(&changed).unwrap());
        assert!(result.is_err(), "change {n} was accepted");
    }
    // A listing that suits, and none at all.
    let mut export = files(&input).unwrap();
    let listing = export
        .iter()
        .position(|f| f.path.starts_with("byproducts/") && f.bytes == POINTS.as_bytes())
        .unwrap();
    let shorter = POINTS.split_inclusive('\n').skip(1).collect::<String>();
    export[listing].bytes = shorter.into_bytes();
    refused(world.both(&export), "sampl");
    export.remove(listing);
    refused(world.both(&export), "byproducts/");
}

/// A runner that signs intents itself cannot choose the seed: whatever it puts
/// there does not follow from the checkpoint.
#[test]
fn a_seed_that_was_chosen_is_refused() {
    let world = World::new();
    let mut input = world.drill(|_| {});
    let (chosen, window) = (Sha256Digest::of(b"suits"), fixture_window());
    let mut entries = whole(&mut input);
    let announced = input.intent.as_mut().unwrap();
    let Entry::Intent(mut intent) = announced.entry.entry.clone() else {
        panic!("an intent")
    };
    let Entry::Result(mut statement) = input.result.entry.clone() else {
        panic!("a result")
    };
    intent.seed = Some(chosen);
    intent.recovery.target = RecoveryTarget::Time(sampling::moment(&chosen, window).unwrap());
    announced.entry = LoggedEntry::sign(&intent, &world.runner).unwrap();
    let place = statement.predicate.drill.intent_index().unwrap() as usize;
    entries[place] = announced.entry.bytes().to_vec();
    announced.checkpoint = world.sealed(&entries[..=place], true);
    let p = &mut statement.predicate;
    p.drill.intent.as_mut().unwrap().digest = announced.entry.digest();
    p.recovery_point.as_mut().unwrap().target = intent.recovery.target;
    let s = p.sampling.as_mut().unwrap();
    (s.seed, s.selected) = (Some(chosen), sampling::moment(&chosen, window));
    s.file_sample.as_mut().unwrap().selected = sampling::files(&chosen, &packs(), 16);
    input.result = LoggedEntry::sign_result(&statement, &world.runner).unwrap();
    entries[input.result_index as usize] = input.result.bytes().to_vec();
    let pae = input.result.envelope.pae();
    input.countersignatures = vec![EnvelopeSignature {
        key: world.coordinator.fingerprint(),
        sig: world.coordinator.sign(&pae),
    }];
    input.tree = Tree::from_entries(&entries);
    input.checkpoint = world.head(&entries);
    input.earlier_checkpoints.clear();
    input.entries = ShownEntries::Whole(entries);
    refused(
        world.both(&files(&input).unwrap()),
        "the seed does not follow from that checkpoint",
    );
}

/// A line of nobody's on the seed's checkpoint would let a runner try seeds.
#[test]
fn a_seed_from_a_padded_checkpoint_is_refused() {
    let world = World::new();
    let input = world.drill(|_| {});
    let population = input.population.as_ref().unwrap();
    let mut padded = population.checkpoint.clone();
    padded
        .cosign("nobody.example", at("14:00:00"), &world.runner)
        .unwrap();
    let Entry::Result(statement) = &input.result.entry else {
        panic!("a result")
    };
    let Entry::Population(p) = &population.entry.entry else {
        panic!("a population")
    };
    let index = statement.predicate.sampling.as_ref().unwrap().population_index;
    let refused = sampling::recompute(statement, p, index.unwrap(), &padded, None);
    assert!(
        refused.unwrap_err().to_string().contains("other signatures"),
        "a padded checkpoint"
    );
}

#[test]
fn a_draw_that_nothing_used_is_noticed() {
    let world = World::new();
    let input = world.drill_after(|entries| {
        let draw = Draw {
            slot: "another try".into(),
            cluster: "acme/erp".parse().unwrap(),
            window: Some(fixture_window()),
            points: None,
            files_percent: Some(5),
        };
        let population = draw.population(at("13:57:00"));
        entries.push(
            LoggedEntry::sign(&population, &world.runner)
                .unwrap()
                .bytes()
                .to_vec(),
        );
    });
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &files(&input).unwrap()).unwrap();
    let report = verify_with(dir.path(), &world.options()).to_string();
    assert!(report.contains("drawn and not used: entries [258]"), "{report}");
}

fn sampling_of(s: &mut Statement) -> &mut super::super::super::statement::context::Sampling {
    s.predicate.sampling.as_mut().unwrap()
}

fn fixture_window() -> super::super::super::statement::context::Window {
    fixture::statement()
        .predicate
        .sampling
        .and_then(|s| s.window)
        .unwrap()
}
