//! Reads a TOML document setting by setting and keeps every complaint.
//!
//! A [`Section`] is one table. Asking it for a setting either yields the parsed
//! value or records a [`Problem`] with the setting's path and line; reading goes
//! on, so that one run reports everything. [`Section::finish`] complains about
//! what nobody asked for. The reader also remembers each effective value and
//! where it came from, for `holdfast config show`.

use std::any::type_name;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use holdfast_plan::shape::{self, Kind, Shape};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::value::FromValue;

/// One thing that is wrong in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; 0 stands for the file as a whole.
    pub line: usize,
    /// The setting's path, for example `cluster[0].tier`; empty for the file as
    /// a whole.
    pub path: String,
    /// What is wrong and what to do.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: ", self.file.display())?,
            line => write!(f, "{}:{line}: ", self.file.display())?,
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.what)
    }
}

/// Where an effective value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A line of a file.
    Line(PathBuf, usize),
    /// The program's default.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Line(file, line) => write!(f, "{}:{line}", file.display()),
            Source::Default => f.write_str("default"),
        }
    }
}

/// One effective setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its path, for example `cluster[0].tier`.
    pub path: String,
    /// Its value as text.
    pub value: String,
    /// Where it comes from.
    pub source: Source,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}  ({})", self.path, self.value, self.source)
    }
}

/// What reading a file has gathered.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) problems: Vec<Problem>,
    pub(super) settings: Vec<Setting>,
    pub(super) shape: Shape,
}

/// One file that is being read.
pub(super) struct Document<'t> {
    file: PathBuf,
    text: &'t str,
    gathered: RefCell<Gathered>,
}

impl<'t> Document<'t> {
    /// Parses the text and hands its top table to `read`. Syntax errors are
    /// problems like others; what could be parsed beside them is still read.
    pub(super) fn read<T>(
        file: PathBuf,
        text: &'t str,
        read: impl FnOnce(Section<'_, 't>) -> Option<T>,
    ) -> (Option<T>, Gathered) {
        let document = Document {
            file,
            text,
            gathered: RefCell::default(),
        };
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let at = error.span().map_or(0, |span| span.start);
            document.problem(at, String::new(), error.message().to_owned());
        }
        let value = read(Section::new(
            &document,
            table.get_ref(),
            String::new(),
            String::new(),
            0,
        ));
        let mut gathered = document.gathered.into_inner();
        gathered.problems.sort_by_key(|p| p.line);
        (value, gathered)
    }

    fn line(&self, offset: usize) -> usize {
        let end = offset.min(self.text.len());
        self.text.as_bytes()[..end]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1
    }

    fn problem(&self, offset: usize, path: String, what: String) {
        self.gathered.borrow_mut().problems.push(Problem {
            file: self.file.clone(),
            line: self.line(offset),
            path,
            what,
        });
    }
}

/// One table of a document.
pub(super) struct Section<'d, 't> {
    document: &'d Document<'t>,
    table: &'d DeTable<'t>,
    path: String,
    /// The path without the numbers of lists.
    place: String,
    at: usize,
    asked: RefCell<BTreeSet<String>>,
}

impl<'d, 't> Section<'d, 't> {
    fn new(
        document: &'d Document<'t>,
        table: &'d DeTable<'t>,
        path: String,
        place: String,
        at: usize,
    ) -> Self {
        document.gathered.borrow_mut().shape.visit(&place);
        Section {
            document,
            table,
            path,
            place,
            at,
            asked: RefCell::default(),
        }
    }

    fn path_of(&self, key: &str) -> String {
        shape::below(&self.path, key)
    }

    fn get(&self, key: &str, kind: Kind, required: bool) -> Option<&'d Spanned<DeValue<'t>>> {
        let mut gathered = self.document.gathered.borrow_mut();
        gathered.shape.ask(&self.place, key, kind, required);
        drop(gathered);
        self.asked.borrow_mut().insert(key.to_owned());
        self.table.get(key)
    }

    /// Complains about the value of `key`, or about the section when it has none.
    pub(super) fn complain(&self, key: &str, what: impl Into<String>) {
        let at = self.table.get(key).map_or(self.at, |v| v.span().start);
        self.document.problem(at, self.path_of(key), what.into());
    }

    fn parse<T: FromValue>(&self, path: String, value: &Spanned<DeValue<'t>>) -> Option<T> {
        match T::from_value(value.get_ref()) {
            Ok(parsed) => {
                let line = self.document.line(value.span().start);
                self.show(
                    path,
                    parsed.show(),
                    Source::Line(self.document.file.clone(), line),
                );
                Some(parsed)
            }
            Err(what) => {
                self.document.problem(value.span().start, path, what);
                None
            }
        }
    }

    fn show(&self, path: String, value: String, source: Source) {
        self.document
            .gathered
            .borrow_mut()
            .settings
            .push(Setting { path, value, source });
    }

    /// A setting that must be there; `hint` says what to write.
    pub(super) fn required<T: FromValue>(&self, key: &str, hint: &str) -> Option<T> {
        match self.get(key, Kind::Value(type_name::<T>()), true) {
            Some(value) => self.parse(self.path_of(key), value),
            None => {
                self.document
                    .problem(self.at, self.path_of(key), format!("is missing: {hint}"));
                None
            }
        }
    }

    /// A setting that may be left out.
    pub(super) fn optional<T: FromValue>(&self, key: &str) -> Option<T> {
        self.get(key, Kind::Value(type_name::<T>()), false)
            .and_then(|value| self.parse(self.path_of(key), value))
    }

    /// Shows a default of a setting that the file does not have.
    pub(super) fn show_default<T: FromValue>(&self, key: &str, default: &T) {
        self.show(self.path_of(key), default.show(), Source::Default);
    }

    /// A setting with a default.
    pub(super) fn or<T: FromValue>(&self, key: &str, default: T) -> T {
        match self.get(key, Kind::Value(type_name::<T>()), false) {
            Some(value) => self.parse(self.path_of(key), value).unwrap_or(default),
            None => {
                self.show_default(key, &default);
                default
            }
        }
    }

    /// A list of values; empty when left out.
    pub(super) fn list<T: FromValue>(&self, key: &str) -> Vec<T> {
        let Some(value) = self.get(key, Kind::Values(type_name::<T>()), false) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            self.complain(key, "is not a list: write it as [\"…\", \"…\"]");
            return Vec::new();
        };
        (array.iter().enumerate())
            .filter_map(|(i, value)| self.parse(format!("{}[{i}]", self.path_of(key)), value))
            .collect()
    }

    /// The table `key`, when it is there.
    pub(super) fn section(&self, key: &str) -> Option<Section<'d, 't>> {
        let value = self.get(key, Kind::Table, false)?;
        let Some(table) = value.get_ref().as_table() else {
            self.complain(
                key,
                format!("is not a table: write it as [{}]", self.path_of(key)),
            );
            return None;
        };
        Some(Section::new(
            self.document,
            table,
            self.path_of(key),
            shape::below(&self.place, key),
            value.span().start,
        ))
    }

    /// The tables of the list `key`.
    pub(super) fn sections(&self, key: &str) -> Vec<Section<'d, 't>> {
        let Some(value) = self.get(key, Kind::Tables, false) else {
            return Vec::new();
        };
        let place = format!("{}[]", shape::below(&self.place, key));
        let tables = value.get_ref().as_array().map(|array| {
            (array.iter().enumerate()).map(|(i, v)| {
                v.get_ref().as_table().map(|table| {
                    let path = format!("{}[{i}]", self.path_of(key));
                    Section::new(self.document, table, path, place.clone(), v.span().start)
                })
            })
        });
        match tables.and_then(Iterator::collect) {
            Some(sections) => sections,
            None => {
                self.complain(
                    key,
                    format!("is not a list of tables: write [[{}]]", self.path_of(key)),
                );
                Vec::new()
            }
        }
    }

    /// The keys of a table whose names are free, with their values as text.
    pub(super) fn free_texts<T: FromValue>(&self) -> Vec<(String, T)> {
        let mut gathered = self.document.gathered.borrow_mut();
        let kind = Kind::Value(type_name::<T>());
        gathered.shape.ask(&self.place, shape::ANY, kind, false);
        drop(gathered);
        (self.table.iter())
            .filter_map(|(key, value)| {
                let key = key.get_ref().as_ref();
                self.asked.borrow_mut().insert(key.to_owned());
                Some((key.to_owned(), self.parse::<T>(self.path_of(key), value)?))
            })
            .collect()
    }

    /// Complains about every key that nobody asked for. `explained` holds keys
    /// that are left out on purpose, with the reason.
    pub(super) fn finish(self, explained: &[(&str, &str)]) {
        let asked = self.asked.borrow();
        for (key, _) in self.table.iter() {
            let name = key.get_ref().as_ref();
            if asked.contains(name) {
                continue;
            }
            let what = if let Some((_, why)) = explained.iter().find(|(k, _)| *k == name) {
                (*why).to_owned()
            } else if let Some(near) = asked.iter().find(|k| is_near(k, name)) {
                format!("is not a setting: did you mean {near:?}?")
            } else {
                let known: Vec<&str> = asked.iter().map(String::as_str).collect();
                format!("is not a setting: remove it; known here are {}", known.join(", "))
            };
            self.document.problem(key.span().start, self.path_of(name), what);
        }
    }
}

/// Whether two keys differ by at most two edits.
fn is_near(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = before + usize::from(x != y);
            before = row[j + 1];
            row[j + 1] = change.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()] <= 2 && row[b.len()] < a.len().min(b.len())
}
