//! Logs that were rewritten, reordered, or lack a drill.

use super::super::super::export::{files, write};
use super::super::super::fixture::at;
use super::super::super::tlog::Tree;
use super::super::super::tlog::tiles::LogFile;
use super::super::*;

use super::world::*;

#[test]
fn a_log_that_was_rewritten_is_refused() {
    let world = World::new();
    // Another history before the drill, with the checkpoint that the runner held.
    let held = world.drill(|_| {});
    let mut other = held.clone();
    let mut entries = whole(&mut other);
    entries[3] = world.beat(5000);
    other.tree = Tree::from_entries(&entries);
    other.checkpoint = world.head(&entries);
    other.earlier_checkpoints.clear();
    // Built anew, the tree holds in itself as far as the intent; only the seed,
    // which follows from the checkpoint before, gives it away.
    let size = self::held(&held).checkpoint().size as usize;
    hold(&mut other, world.sealed(&entries[..size], true));
    let drawn_under = other.population.as_mut().unwrap();
    let size = drawn_under.checkpoint.checkpoint().size as usize;
    drawn_under.checkpoint = world.sealed(&entries[..size], true);
    let mut export = files(&other).unwrap();
    refused(world.both(&export), "the seed does not follow");
    let proof = files(&held)
        .unwrap()
        .into_iter()
        .find(|f| f.path == "intent.tlog-proof")
        .unwrap();
    replace(&mut export, "intent.tlog-proof", proof.bytes);
    refused(world.both(&export), "continue");

    // An auditor who kept an earlier head sees it as well.
    let mut export = files(&other).unwrap();
    let kept = &held.earlier_checkpoints[0];
    let path = format!("checkpoints/{}", kept.checkpoint().size);
    export.push(LogFile {
        path,
        bytes: kept.to_bytes(),
    });
    refused(world.both(&export), "continue");
}

/// With the whole log at hand, a drill that was left out of a tree built anew
/// shows in the cluster's sequence.
#[test]
fn a_drill_left_out_of_the_whole_log_is_noticed() {
    let world = World::new();
    let first = (BEFORE - 2) as usize;
    let input = world.drill_after(|entries| {
        entries[first] = world.beat(6000);
        entries[first + 1] = world.beat(6001);
    });
    let said = world.both(&files(&input).unwrap());
    refused(said.clone(), "does not follow the one before it");
    refused(said, "a drill is missing");

    // An intent that was never answered shows once its deadline is past.
    let input = world.drill_after(|entries| entries[first + 1] = world.beat(6000));
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &files(&input).unwrap()).unwrap();
    let report = verify_with(dir.path(), &world.options());
    assert!(report.accepted(), "{report}");
    let late = VerifyOptions {
        now: Some(at("16:00:00")),
        ..world.options()
    };
    let report = verify_with(dir.path(), &late);
    assert!(report.to_string().contains("its deadline is past"), "{report}");
}

/// Entries in another order make another tree: their proofs and the heads that
/// were kept do not fit it.
#[test]
fn a_reordered_log_is_refused() {
    let world = World::new();
    let sound = world.drill(|_| {});
    let mut swapped = sound.clone();
    let mut entries = whole(&mut swapped);
    let (intent, result) = (BEFORE as usize + 1, sound.result_index as usize);
    entries.swap(intent, result);
    swapped.tree = Tree::from_entries(&entries);
    swapped.checkpoint = world.head(&entries);
    swapped.earlier_checkpoints.clear();
    // The statement still names the old places.
    assert!(files(&swapped).is_err(), "the proofs cannot be made");
    let mut export = files(&sound).unwrap();
    for file in super::super::super::tlog::tiles::hash_tiles(&swapped.tree) {
        replace(&mut export, &file.path, file.bytes);
    }
    replace(&mut export, "checkpoint", swapped.checkpoint.to_bytes());
    refused(world.both(&export), "REFUSED");

    // The earlier drill's two entries, which no proof in this export touches.
    let first = (BEFORE - 2) as usize;
    let mut quiet = sound.clone();
    let mut entries = whole(&mut quiet);
    entries.swap(first, first + 1);
    quiet.tree = Tree::from_entries(&entries);
    quiet.checkpoint = world.head(&entries);
    quiet.earlier_checkpoints.clear();
    assert!(
        files(&quiet).is_err(),
        "the checkpoint that the runner held is of another tree"
    );
    // Built anew from there on, by owner and runner together: the whole log tells.
    let input = world.drill_after(|entries| entries.swap(first, first + 1));
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &files(&input).unwrap()).unwrap();
    let report = verify_with(dir.path(), &world.options());
    assert!(
        report
            .to_string()
            .contains("it names no earlier entry as its intent"),
        "{report}"
    );
}
