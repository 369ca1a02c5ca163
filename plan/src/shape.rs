//! The shape of a kind of document, as its reader asked for it.
//!
//! A reader of configuration asks for each key by name and type. What it asked
//! for while it read a document that has every kind of section is all that it
//! knows; the JSON Schema for editors is made of that ([`crate::schema`]), so that
//! the two cannot say different things.

use std::collections::BTreeMap;

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One value of a type, by [`std::any::type_name`].
    Value(&'static str),
    /// A list of such values.
    Values(&'static str),
    /// A whole number in a range.
    Number(u64, u64),
    /// `true` or `false`.
    Bool,
    /// A table, whose own keys stand at the place below.
    Table,
    /// A list of tables.
    Tables,
}

/// A key for any name that the writer chooses.
pub const ANY: &str = "*";

/// What was asked for at one place of a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// How many sections were read here.
    pub visits: usize,
    /// The keys, in order of names.
    pub keys: BTreeMap<String, Key>,
}

/// What was asked for under one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Key {
    /// As what: usually one kind.
    pub kinds: Vec<Kind>,
    /// In how many visits it had to be there.
    pub required: usize,
}

/// All that a reader knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    places: BTreeMap<String, Place>,
}

impl Shape {
    /// Notes that a section is read.
    pub fn visit(&mut self, place: &str) {
        self.places.entry(place.to_owned()).or_default().visits += 1;
    }

    /// Notes that a key was asked for.
    pub fn ask(&mut self, place: &str, key: &str, kind: Kind, required: bool) {
        let place = self.places.entry(place.to_owned()).or_default();
        let key = place.keys.entry(key.to_owned()).or_default();
        if !key.kinds.contains(&kind) {
            key.kinds.push(kind);
            key.kinds.sort();
        }
        key.required += usize::from(required);
    }

    /// Takes in what another document showed of the same reader.
    pub fn merge(&mut self, other: Shape) {
        for (at, place) in other.places {
            let mine = self.places.entry(at.clone()).or_default();
            mine.visits += place.visits;
            for (name, key) in place.keys {
                for kind in key.kinds {
                    self.ask(&at, &name, kind, false);
                }
                let mine = self.places.entry(at.clone()).or_default();
                mine.keys.entry(name).or_default().required += key.required;
            }
        }
    }

    /// The place of a path, for example `cluster[].schedule`; the root is empty.
    pub fn place(&self, at: &str) -> Option<&Place> {
        self.places.get(at)
    }

    /// Sections that were asked for and that the document did not have, so that
    /// nothing is known of their keys.
    pub fn unvisited(&self) -> Vec<String> {
        let mut unvisited = Vec::new();
        for (at, place) in &self.places {
            for (name, key) in &place.keys {
                let path = below(at, name);
                let section = match key.kinds[..] {
                    [Kind::Table] => path,
                    [Kind::Tables] => format!("{path}[]"),
                    _ => continue,
                };
                if self.places.get(&section).is_none_or(|place| place.visits == 0) {
                    unvisited.push(section);
                }
            }
        }
        unvisited
    }

    /// Every key by its whole path.
    pub fn paths(&self) -> impl Iterator<Item = String> {
        self.places
            .iter()
            .flat_map(|(at, place)| place.keys.keys().map(move |key| below(at, key)))
    }
}

/// The path of `key` in the section at `place`.
pub fn below(place: &str, key: &str) -> String {
    if place.is_empty() {
        key.to_owned()
    } else {
        format!("{place}.{key}")
    }
}
