//! An export for one tenant: the log verifies, nobody else is named in it, and what
//! the exporter leaves out is noticed.

use super::super::super::coverage::{Counted, CoverageStatement, derive, of_tenant};
use super::super::super::export::{ExportInput, ShownEntries, files};
use super::super::super::fixture;
use super::super::super::tlog::Tree;
use super::super::super::tlog::tiles::LogFile;
use super::super::*;

use super::world::*;

/// The entries in which another tenant's drill is announced.
const OTHERS: [usize; 2] = [7, 200];

/// The drill's export for its tenant, after a history in which another's drills are;
/// at the end there is a third drill of the cluster, and the month was counted.
fn export(world: &World) -> ExportInput {
    let mut input = world.drill_after(|entries| {
        for place in OTHERS {
            let mut other = fixture::statement();
            other.predicate.scope.tenant = "umbrella".parse().unwrap();
            let mut add = |entry: &LoggedEntry| {
                entries[place] = entry.bytes().to_vec();
                place as u64
            };
            world.announce(&mut other, None, 1, &mut add);
        }
    });
    let mut entries = whole(&mut input);
    let mut third = fixture::statement();
    third.predicate.drill.id = holdfast_proto::names::DrillId::from_parts(fixture::at("14:30:00"), 3);
    let previous = input.intent.as_ref().unwrap().entry.digest();
    let mut add = |entry: &LoggedEntry| {
        entries.push(entry.bytes().to_vec());
        entries.len() as u64 - 1
    };
    world.announce(&mut third, Some(previous), 3, &mut add);
    add(&LoggedEntry::sign_result(&third, &world.runner).unwrap());
    let tree = Tree::from_entries(&entries);
    let counted = Counted {
        log: "holdfast.dev/log/test".parse().unwrap(),
        size: tree.len(),
        root: tree.root(),
    };
    let read: Vec<LoggedEntry> = entries.iter().map(|b| LoggedEntry::parse(b).unwrap()).collect();
    let month = "2026-11".parse().unwrap();
    let coverage = derive((0..).zip(&read), &counted, &"acme".parse().unwrap(), month);
    assert_eq!(coverage.drills.sequences[&"acme/erp".parse().unwrap()], 3);
    let coverage = LoggedEntry::sign_coverage(&CoverageStatement::new(coverage), &world.log).unwrap();
    entries.push(coverage.bytes().to_vec());
    input.tree = Tree::from_entries(&entries);
    input.checkpoint = world.head(&entries);
    let own = (0u64..).zip(&entries).filter(|(_, bytes)| {
        let entry = LoggedEntry::parse(bytes).unwrap();
        of_tenant(&entry, &"acme".parse().unwrap())
    });
    input.entries = ShownEntries::Tenant(own.map(|(n, bytes)| (n, bytes.clone())).collect());
    input
}

fn own(input: &mut ExportInput) -> &mut Vec<(u64, Vec<u8>)> {
    match &mut input.entries {
        ShownEntries::Tenant(entries) => entries,
        other => panic!("not a tenant's: {other:?}"),
    }
}

fn names_somebody_else(file: &LogFile) -> bool {
    let says = |bytes: &[u8]| bytes.windows(8).any(|w| w == b"umbrella");
    let payload = super::super::super::dsse::Envelope::parse(&file.bytes).map(|e| e.payload);
    says(&file.bytes) || payload.is_ok_and(|p| says(&p))
}

#[test]
fn nobody_else_is_named_and_the_log_verifies() {
    let world = World::new();
    let tenants = files(&export(&world)).unwrap();
    assert!(tenants.iter().any(|f| f.path.starts_with("entries/")));
    let named: Vec<&str> = tenants
        .iter()
        .filter(|f| names_somebody_else(f))
        .map(|f| f.path.as_str())
        .collect();
    assert_eq!(named, [""; 0]);
    world.both(&tenants).unwrap();
    // What is looked for would be found.
    assert!(names_somebody_else(&LogFile {
        path: String::new(),
        bytes: others(&world)
    }));
}

/// Another tenant's entry, as the log of `export` holds it.
fn others(world: &World) -> Vec<u8> {
    let mut other = fixture::statement();
    other.predicate.scope.tenant = "umbrella".parse().unwrap();
    let (entry, _) = world.announce(&mut other, None, 1, &mut |_| OTHERS[0] as u64);
    entry.bytes().to_vec()
}

#[test]
fn an_entry_that_was_left_out_is_noticed() {
    let world = World::new();
    let sound = export(&world);
    let count = own(&mut sound.clone()).len();
    // The earlier drill, this one with its draw, the one after it, and the coverage.
    assert_eq!(count, 8);
    for left_out in 0..count - 1 {
        let mut input = sound.clone();
        let (place, _) = own(&mut input).remove(left_out);
        let said = world.both(&files(&input).unwrap());
        assert!(
            said.is_err(),
            "entry {place} was left out of {count} and nobody noticed"
        );
    }
    // The last drill follows from nothing later, but from the coverage.
    let mut input = sound.clone();
    own(&mut input).drain(count - 3..count - 1);
    refused(world.both(&files(&input).unwrap()), "a drill is missing");
    // The whole of an earlier drill.
    let mut input = sound;
    own(&mut input).drain(..2);
    refused(world.both(&files(&input).unwrap()), "follow");
}

#[test]
fn entries_that_are_not_what_the_log_holds_are_refused() {
    let world = World::new();
    let sound = files(&export(&world)).unwrap();
    let of_entries: Vec<String> = sound
        .iter()
        .filter(|f| f.path.starts_with("entries/"))
        .map(|f| f.path.clone())
        .collect();
    for path in &of_entries {
        let mut changed = sound.clone();
        let file = changed.iter_mut().find(|f| f.path == *path).unwrap();
        let middle = file.bytes.len() / 2;
        file.bytes[middle] ^= 1;
        refused(world.both(&changed), "is not what the log holds there");
    }
    let mut moved = sound.clone();
    let last = moved
        .iter_mut()
        .rfind(|f| f.path.starts_with("entries/"))
        .unwrap();
    last.path = "entries/0000000000000003".into();
    refused(world.both(&moved), "is not what the log holds there");

    // Another tenant's, which the log does hold there.
    let mut input = export(&world);
    own(&mut input).push((OTHERS[0] as u64, others(&world)));
    let report = world.both(&files(&input).unwrap());
    assert!(report.is_err(), "another tenant's entry was taken");
}
