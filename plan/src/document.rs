//! TOML read into typed values, with every problem named at its line.
//!
//! serde stops at the first thing it dislikes; a person who edits a policy wants
//! to hear of all of them at once. So a document is walked by hand: each
//! [`Section`] hands out typed values, remembers which keys were asked for, and
//! reports the others as unknown when it is finished. Reading never stops: a
//! value that is wrong is a [`Problem`] and `None`, and the caller decides at
//! the end whether what it has is a configuration.

use std::any::type_name;
use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::shape::{self, Kind, Shape};

/// One thing wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file, as it was named by the caller.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The path of the key, for example `cluster[2].tier`; empty for the whole.
    pub path: String,
    /// What is wrong and what would be right.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.what)
    }
}

impl std::error::Error for Problem {}

/// Where problems are collected; shared by all sections of a document.
#[derive(Clone)]
struct Ledger {
    text: Rc<str>,
    file: Rc<str>,
    problems: Rc<RefCell<Vec<Problem>>>,
    shape: Rc<RefCell<Shape>>,
}

impl Ledger {
    fn add(&self, at: Range<usize>, path: &str, what: impl Into<String>) {
        let mut start = at.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let before = &self.text[..start];
        self.problems.borrow_mut().push(Problem {
            file: self.file.to_string(),
            line: before.matches('\n').count() + 1,
            column: before.chars().rev().take_while(|c| *c != '\n').count() + 1,
            path: path.to_owned(),
            what: what.into(),
        });
    }
}

/// Reads `text` with `read`, which is given the root section. The result is
/// what `read` made when there was no problem at all, otherwise every problem
/// in order of lines.
pub fn read<T>(
    text: &str,
    file: &str,
    read: impl FnOnce(Section<'_>) -> Option<T>,
) -> Result<T, Vec<Problem>> {
    read_with_shape(text, file, read).0
}

/// As [`read`], with what `read` asked for.
pub fn read_with_shape<T>(
    text: &str,
    file: &str,
    read: impl FnOnce(Section<'_>) -> Option<T>,
) -> (Result<T, Vec<Problem>>, Shape) {
    let ledger = Ledger {
        text: text.into(),
        file: file.into(),
        problems: Rc::default(),
        shape: Rc::default(),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut made = None;
    if errors.is_empty() {
        let root = Section::new(&ledger, String::new(), String::new(), 0..0, table.into_inner());
        made = read(root);
    }
    let shape = ledger.shape.take();
    if let (Some(made), true) = (made, ledger.problems.borrow().is_empty() && errors.is_empty()) {
        return (Ok(made), shape);
    }
    for error in errors {
        ledger.add(
            error.span().unwrap_or(0..0),
            "",
            format!("this is not TOML: {}", error.message()),
        );
    }
    if ledger.problems.borrow().is_empty() {
        ledger.add(0..0, "", "the document is incomplete");
    }
    let mut problems = ledger.problems.take();
    problems.sort_by_key(|p| (p.line, p.column));
    problems.dedup();
    (Err(problems), shape)
}

/// A table of the document that is being read.
pub struct Section<'d> {
    ledger: Ledger,
    path: String,
    /// The path without the numbers and names that the writer chose.
    place: String,
    span: Range<usize>,
    table: DeTable<'d>,
    asked: Vec<&'static str>,
}

impl<'d> Section<'d> {
    fn new(ledger: &Ledger, path: String, place: String, span: Range<usize>, table: DeTable<'d>) -> Self {
        ledger.shape.borrow_mut().visit(&place);
        Section {
            ledger: ledger.clone(),
            path,
            place,
            span,
            table,
            asked: Vec::new(),
        }
    }

    fn path_of(&self, key: &str) -> String {
        shape::below(&self.path, key)
    }

    fn note(&self, key: &str, kind: Kind, required: bool) {
        let mut shape = self.ledger.shape.borrow_mut();
        shape.ask(&self.place, key, kind, required);
    }

    fn take(&mut self, key: &'static str, kind: Kind) -> Option<Spanned<DeValue<'d>>> {
        self.note(key, kind, false);
        self.asked.push(key);
        let found = self.table.keys().find(|k| k.get_ref() == key).cloned()?;
        self.table.remove(&found)
    }

    /// The path of this section, for messages.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether `key` stands in the section and was not read yet.
    pub fn has(&self, key: &str) -> bool {
        self.table.keys().any(|k| k.get_ref() == key)
    }

    /// Reports a problem with the section as a whole.
    pub fn problem(&self, what: impl Into<String>) {
        self.ledger.add(self.span.clone(), &self.path, what);
    }

    /// Whether a key that must be there is; reported when it is not.
    fn demand(&mut self, key: &'static str, kind: Kind, example: &str) -> bool {
        self.note(key, kind, true);
        if self.has(key) {
            return true;
        }
        self.asked.push(key);
        self.missing(key, example);
        false
    }

    fn missing(&self, key: &str, example: &str) {
        self.ledger.add(
            self.span.clone(),
            &self.path_of(key),
            format!("is missing: write for example `{key} = {example}`"),
        );
    }

    /// A text that `T` reads. `None` when absent or wrong (then it is reported).
    pub fn optional<T>(&mut self, key: &'static str) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let value = self.take(key, Kind::Value(type_name::<T>()))?;
        self.text_as(&self.path_of(key), &value)
    }

    /// As [`Section::optional`], with where it stands, so that a later check can
    /// point at it with [`Section::problem_at`].
    pub fn optional_at<T>(&mut self, key: &'static str) -> Option<(T, At)>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let value = self.take(key, Kind::Value(type_name::<T>()))?;
        let at = At {
            span: value.span(),
            path: self.path_of(key),
        };
        self.text_as(&at.path, &value).map(|read| (read, at))
    }

    /// Reports a problem at a value that was read before.
    pub fn problem_at(&self, at: &At, what: impl Into<String>) {
        self.ledger.add(at.span.clone(), &at.path, what);
    }

    fn text_as<T>(&self, path: &str, value: &Spanned<DeValue<'_>>) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let Some(text) = value.get_ref().as_str() else {
            let found = value.get_ref().type_str();
            self.ledger.add(
                value.span(),
                path,
                format!("must be a text in quotes, not {} {found}", article(found)),
            );
            return None;
        };
        text.parse()
            .map_err(|e: T::Err| self.ledger.add(value.span(), path, e.to_string()))
            .ok()
    }

    /// A text that `T` reads, reported when it is absent.
    pub fn required<T>(&mut self, key: &'static str, example: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let kind = Kind::Value(type_name::<T>());
        if !self.demand(key, kind, &format!("{example:?}")) {
            return None;
        }
        self.optional(key)
    }

    /// As [`Section::required`], with where it stands.
    pub fn required_at<T>(&mut self, key: &'static str, example: &str) -> Option<(T, At)>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let kind = Kind::Value(type_name::<T>());
        if !self.demand(key, kind, &format!("{example:?}")) {
            return None;
        }
        self.optional_at(key)
    }

    /// A whole number within `range`.
    pub fn optional_number(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Option<u64> {
        let value = self.take(key, Kind::Number(*range.start(), *range.end()))?;
        let number = value
            .get_ref()
            .as_integer()
            .and_then(|n| u64::from_str_radix(&n.as_str().replace('_', ""), n.radix()).ok())
            .filter(|n| range.contains(n));
        if number.is_none() {
            self.ledger.add(
                value.span(),
                &self.path_of(key),
                format!("must be a whole number from {} to {}", range.start(), range.end()),
            );
        }
        number
    }

    /// As [`Section::optional_number`], reported when it is absent.
    pub fn required_number(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Option<u64> {
        let kind = Kind::Number(*range.start(), *range.end());
        if !self.demand(key, kind, &range.start().to_string()) {
            return None;
        }
        self.optional_number(key, range)
    }

    /// `true` or `false`.
    pub fn optional_bool(&mut self, key: &'static str) -> Option<bool> {
        let value = self.take(key, Kind::Bool)?;
        let read = value.get_ref().as_bool();
        if read.is_none() {
            self.ledger
                .add(value.span(), &self.path_of(key), "must be true or false");
        }
        read
    }

    /// Texts that `T` reads.
    pub fn texts<T>(&mut self, key: &'static str) -> Option<Vec<T>>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let value = self.take(key, Kind::Values(type_name::<T>()))?;
        let path = self.path_of(key);
        let Some(array) = value.get_ref().as_array() else {
            self.ledger.add(
                value.span(),
                &path,
                "must be a list of texts, for example [\"a\", \"b\"]",
            );
            return None;
        };
        array
            .iter()
            .enumerate()
            .map(|(n, item)| self.text_as(&format!("{path}[{n}]"), item))
            .collect()
    }

    /// A table below this one. Whoever gets it must [`Section::finish`] it.
    pub fn section(&mut self, key: &'static str) -> Option<Section<'d>> {
        let value = self.take(key, Kind::Table)?;
        self.below(self.path_of(key), shape::below(&self.place, key), value)
    }

    fn below(&self, path: String, place: String, value: Spanned<DeValue<'d>>) -> Option<Section<'d>> {
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => Some(Section::new(&self.ledger, path, place, span, table)),
            other => {
                self.ledger.add(
                    span,
                    &path,
                    format!(
                        "must be a table, not {} {}",
                        article(other.type_str()),
                        other.type_str()
                    ),
                );
                None
            }
        }
    }

    /// Tables below this one by names that the writer chose: `[tiers.NAME]`.
    pub fn named<T>(&mut self, key: &'static str) -> Vec<(T, Section<'d>)>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let Some(section) = self.section(key) else {
            return Vec::new();
        };
        section.note(shape::ANY, Kind::Table, false);
        let place = shape::below(&section.place, shape::ANY);
        let mut out = Vec::new();
        for (name, value) in section.table {
            let path = format!("{}.{}", section.path, name.get_ref());
            match name.get_ref().parse::<T>() {
                Ok(parsed) => {
                    let below = self.below(path, place.clone(), value);
                    out.extend(below.map(|below| (parsed, below)));
                }
                Err(e) => self.ledger.add(name.span(), &path, e.to_string()),
            }
        }
        out.sort_by_key(|(_, section)| section.span.start);
        out
    }

    /// A table whose keys the writer chose, with texts as values.
    pub fn pairs<K, V>(&mut self, key: &'static str) -> Option<Vec<(K, V)>>
    where
        K: FromStr,
        K::Err: fmt::Display,
        V: FromStr,
        V::Err: fmt::Display,
    {
        let section = self.section(key)?;
        section.note(shape::ANY, Kind::Value(type_name::<V>()), false);
        let mut pairs = Vec::new();
        for (name, value) in section.table.iter() {
            let path = format!("{}.{}", section.path, name.get_ref());
            let parsed = name
                .get_ref()
                .parse::<K>()
                .map_err(|e| self.ledger.add(name.span(), &path, e.to_string()));
            let value = self.text_as::<V>(&path, value);
            pairs.extend(parsed.ok().zip(value));
        }
        Some(pairs)
    }

    /// A list of tables: `[[cluster]]`.
    pub fn list(&mut self, key: &'static str) -> Vec<Section<'d>> {
        let Some(value) = self.take(key, Kind::Tables) else {
            return Vec::new();
        };
        let path = self.path_of(key);
        let place = format!("{}[]", shape::below(&self.place, key));
        let span = value.span();
        let DeValue::Array(array) = value.into_inner() else {
            self.ledger.add(
                span,
                &path,
                format!("must be a list of tables: begin each with [[{key}]]"),
            );
            return Vec::new();
        };
        array
            .into_iter()
            .enumerate()
            .filter_map(|(n, item)| self.below(format!("{path}[{n}]"), place.clone(), item))
            .collect()
    }

    /// A value that serde reads. It reports its first problem only.
    pub fn deserialize<T: DeserializeOwned>(&mut self, key: &'static str) -> Option<T> {
        let value = self.take(key, Kind::Value(type_name::<T>()))?;
        let (span, path) = (value.span(), self.path_of(key));
        T::deserialize(ValueDeserializer::from(value))
            .map_err(|e| self.ledger.add(e.span().unwrap_or(span), &path, e.message()))
            .ok()
    }

    /// Reports the keys that nobody asked for.
    pub fn finish(self) {
        for (key, _) in &self.table {
            let near = self.asked.iter().find(|known| alike(known, key.get_ref()));
            let hint = match near {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("known here are {}", self.asked.join(", ")),
            };
            self.ledger.add(
                key.span(),
                &self.path_of(key.get_ref()),
                format!("is not a known key: {hint}"),
            );
        }
    }
}

/// Where a value stands in its document.
#[derive(Debug, Clone)]
pub struct At {
    span: Range<usize>,
    path: String,
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    }
}

/// Whether two keys differ by at most two edits, for a hint.
fn alike(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().take(60).collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()] <= 2 && a.len() > 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::period::Period;

    fn problems(text: &str) -> Vec<String> {
        let result = read(text, "t.toml", |mut root| {
            let period: Option<Period> = root.required("interval", "5s");
            let copies = root.optional_number("copies", 1..=9);
            for mut item in root.list("item") {
                item.required::<Period>("every", "1h");
                item.finish();
            }
            root.finish();
            period.map(|p| (p, copies))
        });
        match result {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(Problem::to_string).collect(),
        }
    }

    #[test]
    fn all_problems_are_reported_with_their_lines() {
        assert!(problems("interval = \"5s\"\ncopies = 2\n[[item]]\nevery = \"1h\"\n").is_empty());
        let found = problems(
            "intervall = \"5s\"\ncopies = 12\n[[item]]\nevery = 3\n[[item]]\nevery = \"1 hour\"\nx = 1\n",
        );
        let expect = [
            "t.toml:1:1: interval: is missing",
            "t.toml:1:1: intervall: is not a known key: did you mean `interval`?",
            "t.toml:2:10: copies: must be a whole number from 1 to 9",
            "t.toml:4:9: item[0].every: must be a text in quotes, not an integer",
            "t.toml:6:9: item[1].every: \"1 hour\" is not a length of time",
            "t.toml:7:1: item[1].x: is not a known key: known here are every",
        ];
        assert_eq!(found.len(), expect.len(), "{found:#?}");
        for (found, expect) in found.iter().zip(expect) {
            assert!(found.starts_with(expect), "{found}\n  should begin with {expect}");
        }
    }

    #[test]
    fn several_syntax_errors_are_several_problems() {
        let found = problems("interval = \n[[item]\ncopies = = 2\n");
        assert!(found.len() >= 2, "{found:#?}");
        assert!(found.iter().all(|p| p.contains("this is not TOML")), "{found:#?}");
    }
}
