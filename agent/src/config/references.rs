//! `[[cluster.reference]]`: values that are recorded at fences.

use std::collections::BTreeSet;

use super::reader::Section;
use crate::reference::{Reads, Reference};

/// Reads all of them; every name stands once.
pub(super) fn read_all(cluster: &Section<'_, '_>) -> Option<Vec<Reference>> {
    let mut seen = BTreeSet::new();
    let sections = cluster.sections("reference");
    let read: Vec<Option<Reference>> = sections.into_iter().map(read_one).collect();
    for reference in read.iter().flatten() {
        if !seen.insert(&reference.name) {
            cluster.complain(
                "reference",
                format!(
                    "{} stands there twice: give each a name of its own",
                    reference.name
                ),
            );
        }
    }
    read.into_iter().collect()
}

fn read_one(section: Section<'_, '_>) -> Option<Reference> {
    let name = section.required::<String>("name", "name the value, for example \"invoices\"");
    let database = section.required("database", "name the database that is asked");
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let named = name
        .as_ref()
        .is_some_and(|name| !name.is_empty() && name.len() <= 63 && name.bytes().all(plain));
    if name.is_some() && !named {
        section.complain("name", "is no value's name: use a-z, 0-9 and '-'");
    }
    let relation = |key: &str| -> Option<String> {
        let text = section.optional::<String>(key)?;
        let parts: Vec<&str> = text.split('.').collect();
        let sound = parts.len() == 2 && parts.iter().all(|part| is_identifier(part));
        if !sound {
            section.complain(
                key,
                format!("{text:?} is no name with its schema: write it as public.{key}"),
            );
        }
        sound.then_some(text)
    };
    let table = relation("table").map(Reads::Table);
    let sequence = relation("sequence").map(Reads::Sequence);
    let query = section.optional::<String>("query").map(Reads::Query);
    let reads: Vec<Reads> = [table, sequence, query].into_iter().flatten().collect();
    if reads.len() != 1 {
        section.complain(
            "query",
            "write one of `table` (its rows are counted), `sequence` (its last value) and `query`",
        );
    }
    section.finish(&[]);
    let [reads] = <[Reads; 1]>::try_from(reads).ok()?;
    Some(Reference {
        name: name.filter(|_| named)?,
        database: database?,
        reads,
    })
}

/// A name that needs no quotes.
fn is_identifier(text: &str) -> bool {
    let first = |c: char| c.is_ascii_lowercase() || c == '_';
    text.starts_with(first)
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}
