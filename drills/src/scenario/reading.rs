//! From a file's text to a scenario, with every problem at its line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use holdfast_plan::document::{self, Section};
use holdfast_plan::period::Period;
use holdfast_plan::shape::Shape;
use holdfast_proto::Sha256Digest;
use holdfast_proto::names::Region;
use serde::Deserialize;

use super::filling::names_in;
use super::{
    CheckSpec, DamageSpec, DoesSpec, ExpectSpec, MomentKind, RegionChoice, Scenario, ScenarioError, ViewSpec,
};
use crate::checks::queries::ROLE;
use crate::evidence::statement::Level;
use crate::evidence::statement::results::CheckClass;

/// The most objects of one kind of damage.
const MOST_DAMAGED: u64 = 1000;
/// How long a check may take when it does not say.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

impl Scenario {
    /// Reads a scenario; `file` is for messages.
    pub fn parse(file: &str, text: &str) -> Result<Self, ScenarioError> {
        document::read(text, file, |mut root| {
            let scenario = read(&mut root, text);
            if let Some(scenario) = &scenario {
                agree(&root, scenario);
            }
            // Also when something is missing: a key misspelt is why.
            root.finish();
            scenario
        })
        .map_err(ScenarioError::Problems)
    }
}

impl Scenario {
    /// What the reader asks for in a file: every key that a scenario knows, when
    /// the text has every section.
    pub fn shape(text: &str) -> Shape {
        document::read_with_shape(text, "", |mut root| read(&mut root, text)).1
    }
}

fn read(root: &mut Section<'_>, text: &str) -> Option<Scenario> {
    let name = root.required("name", "books-agree");
    let title = root.required::<String>("title", "The books of the copy agree");
    let level: Option<Level> = root.required("level", "L3");
    let moment = root.optional::<MomentKind>("moment").unwrap_or_default();
    let sample_percent = root.optional_number("sample_percent", 1..=100).unwrap_or(5);
    let parameters: BTreeMap<String, String> = root.deserialize("parameters").unwrap_or_default();
    for name in parameters.keys().filter(|name| !is_name(name)) {
        root.problem(format!(
            "the parameter {name:?} cannot be written as {{name}}: use a-z, 0-9 and '_', beginning with a letter"
        ));
    }
    let known: BTreeSet<&str> = parameters.keys().map(String::as_str).collect();
    let view = root.section("view").map(read_view).unwrap_or_default();
    let only_escrow = root.section("keys").is_some_and(|mut keys| {
        keys.required::<OnlyEscrow>("only", "escrow");
        keys.finish();
        true
    });
    let attack = root.section("attack").is_some_and(|mut attack| {
        attack.required::<AsWriter>("with", "writer");
        attack.finish();
        true
    });
    let major = root.section("server").and_then(|mut server| {
        let major = number(&mut server, "major", &known);
        server.finish();
        major
    });
    let mut ids = BTreeSet::new();
    let sections = root.list("check");
    let checks: Vec<Option<CheckSpec>> = sections
        .into_iter()
        .map(|section| read_check(section, &known, &mut ids))
        .collect();
    Some(Scenario {
        name: name?,
        title: title?,
        level: level?,
        moment,
        parameters: parameters.clone(),
        sample_percent,
        view,
        only_escrow,
        attack,
        digest: Sha256Digest::of(text.as_bytes()),
        major,
        checks: checks.into_iter().collect::<Option<_>>()?,
    })
}

/// What its level and its parts demand of each other.
fn agree(root: &Section<'_>, scenario: &Scenario) {
    let level = scenario.level;
    if level == Level::L1 && !scenario.checks.is_empty() {
        root.problem("nothing is restored at L1, so no [[check]] can run: remove them, or take L2");
    }
    if level == Level::L1 && (scenario.view.damage.is_some() || scenario.attack || scenario.major.is_some()) {
        root.problem("nothing is restored at L1: [view.damage], [attack] and [server] need L2 or more");
    }
    let probes = scenario
        .checks
        .iter()
        .any(|c| c.class == CheckClass::Application && c.mandatory);
    if level >= Level::L4 && !probes {
        root.problem(format!(
            "{level} proves that the application works: add a [[check]] with program = [\"…\"]"
        ));
    }
    if level == Level::L5 && (scenario.view.cut.is_empty() || !scenario.only_escrow) {
        root.problem(
            "L5 restores from the second region with escrow keys alone: add [view] cut = [\"first\"] and [keys] only = \
             \"escrow\"",
        );
    }
}

/// Whether a text can be a parameter's name.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn read_view(mut section: Section<'_>) -> ViewSpec {
    let changes = section.has("cut") || section.has("damage");
    let cut = section.texts::<RegionChoice>("cut").unwrap_or_default();
    let damage = section.section("damage").map(|mut damage| {
        let kinds = ["flipped", "truncated", "gone"];
        let given = kinds.iter().any(|kind| damage.has(kind));
        let regions = damage.texts::<RegionChoice>("regions");
        let mut count = |key| damage.optional_number(key, 0..=MOST_DAMAGED).unwrap_or(0) as usize;
        let (flipped, truncated, gone) = (count("flipped"), count("truncated"), count("gone"));
        if !given {
            damage.problem("damages nothing: say how many objects are `flipped`, `truncated` or `gone`");
        }
        damage.finish();
        DamageSpec {
            regions: regions.unwrap_or_else(|| vec![RegionChoice::First]),
            flipped,
            truncated,
            gone,
        }
    });
    if !changes {
        section.problem("changes nothing: name regions to `cut`, or say what [view.damage] does");
    }
    section.finish();
    ViewSpec { cut, damage }
}

fn read_check(
    mut section: Section<'_>,
    known: &BTreeSet<&str>,
    ids: &mut BTreeSet<String>,
) -> Option<CheckSpec> {
    let id = section.required::<CheckId>("id", "books-agree");
    if let Some(CheckId(id)) = &id
        && !ids.insert(id.clone())
    {
        section.problem(format!(
            "another check is called {id} already: give each a name of its own"
        ));
    }
    let program = section.has("program");
    let class = match section.has("class") {
        true => section.deserialize::<CheckClass>("class"),
        false if program => Some(CheckClass::Application),
        false => Some(CheckClass::Referential),
    };
    let timeout = section
        .optional::<Period>("timeout")
        .map_or(TIMEOUT, Period::to_std);
    let mandatory = section.optional::<Weight>("weight") != Some(Weight::Optional);
    let does = if program {
        let command = section.texts::<String>("program").filter(|words| {
            if words.is_empty() {
                section.problem("`program` is empty: name the program and its arguments");
            }
            !words.is_empty()
        });
        let role = section
            .optional::<String>("role")
            .unwrap_or_else(|| ROLE.to_owned());
        for text in command.iter().flatten().chain([&role]) {
            declared(&section, "program", text, known);
        }
        command.map(|command| DoesSpec::Program { command, role })
    } else {
        read_query(&mut section, known)
    };
    section.finish();
    Some(CheckSpec {
        id: id?.0,
        class: class?,
        timeout,
        mandatory,
        does: does?,
    })
}

fn read_query(section: &mut Section<'_>, known: &BTreeSet<&str>) -> Option<DoesSpec> {
    let database = section.required::<String>("database", "erp");
    let query = section.required::<String>("query", "SELECT count(*) FROM account_move");
    for (key, text) in [("database", &database), ("query", &query)] {
        if let Some(text) = text {
            declared(section, key, text, known);
        }
    }
    let given = ["at_least", "at_most", "equals", "text"].map(|key| section.has(key));
    let mut expectations = Vec::new();
    for (key, of) in [
        ("at_least", ExpectSpec::AtLeast as fn(String) -> ExpectSpec),
        ("at_most", ExpectSpec::AtMost),
        ("equals", ExpectSpec::Equals),
    ] {
        expectations.extend(number(section, key, known).map(of));
    }
    if let Some(text) = section.optional::<String>("text") {
        declared(section, "text", &text, known);
        expectations.push(ExpectSpec::Text(text));
    }
    if given.iter().filter(|given| **given).count() != 1 {
        section.problem("needs exactly one of `at_least`, `at_most`, `equals` (numbers) and `text`");
    }
    Some(DoesSpec::Query {
        database: database?,
        query: query?,
        expect: expectations.pop()?,
    })
}

/// A whole number, or a text that becomes one when its parameters are filled in.
fn number(section: &mut Section<'_>, key: &'static str, known: &BTreeSet<&str>) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "must be a whole number, or a text with a parameter as in \"{minimum}\""
    )]
    enum Number {
        Whole(i64),
        Text(String),
    }
    if !section.has(key) {
        // Asked for all the same, so that a key misspelt is told from one unknown.
        return section.deserialize::<Number>(key).and(None);
    }
    match section.deserialize::<Number>(key)? {
        Number::Whole(n) => Some(n.to_string()),
        Number::Text(text) => {
            declared(section, key, &text, known);
            if names_in(&text).next().is_none() && text.parse::<i64>().is_err() {
                section.problem(format!("`{key}` is {text:?}: write a whole number"));
            }
            Some(text)
        }
    }
}

fn declared(section: &Section<'_>, key: &str, text: &str, known: &BTreeSet<&str>) {
    for name in names_in(text).filter(|name| !known.contains(name)) {
        section.problem(format!(
            "`{key}` names {{{name}}}, which is no parameter: add it to [parameters] with its meaning"
        ));
    }
}

struct CheckId(String);

impl FromStr for CheckId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if text.is_empty() || text.len() > 63 || !text.bytes().all(plain) {
            return Err(format!("{text:?} is no check's name: use a-z, 0-9 and '-'"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// One of several words.
fn word<T: Clone>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| value.clone()).ok_or_else(|| {
        let all: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        format!("{text:?} is not known here: write {}", all.join(" or "))
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Weight {
    Mandatory,
    Optional,
}

impl FromStr for Weight {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        word(
            text,
            &[("mandatory", Weight::Mandatory), ("optional", Weight::Optional)],
        )
    }
}

struct OnlyEscrow;

impl FromStr for OnlyEscrow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        word(text, &[("escrow", ())]).map(|()| Self)
    }
}

struct AsWriter;

impl FromStr for AsWriter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        word(text, &[("writer", ())]).map(|()| Self)
    }
}

impl FromStr for MomentKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [
            MomentKind::Any,
            MomentKind::Time,
            MomentKind::Name,
            MomentKind::Fence,
        ];
        let words = all.map(|kind| (kind.to_string(), kind));
        word(text, &words.each_ref().map(|(word, kind)| (word.as_str(), *kind)))
    }
}

impl FromStr for RegionChoice {
    type Err = <Region as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "first" => RegionChoice::First,
            "all" => RegionChoice::All,
            name => RegionChoice::Named(name.parse()?),
        })
    }
}

impl fmt::Display for RegionChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegionChoice::First => f.write_str("first"),
            RegionChoice::All => f.write_str("all"),
            RegionChoice::Named(region) => region.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        match Scenario::parse("s.toml", text) {
            Ok(_) => Vec::new(),
            Err(ScenarioError::Problems(problems)) => problems.iter().map(ToString::to_string).collect(),
            Err(e) => panic!("{e}"),
        }
    }

    const HEAD: &str = "name = \"x\"\ntitle = \"t\"\nlevel = \"L3\"\n";

    fn check(rest: &str, expect: &[&str]) {
        let found = problems(&format!("{HEAD}{rest}"));
        assert_eq!(found.len(), expect.len(), "{found:#?}");
        for (found, expect) in found.iter().zip(expect) {
            assert!(found.contains(expect), "{found}\n  should contain {expect}");
        }
    }

    #[test]
    fn everything_wrong_is_said_with_its_line() {
        check("", &[]);
        check("mood = \"good\"\n", &["s.toml:4:1: mood: is not a known key"]);
        check("[view]\ncut = [\"First!\"]\n", &["s.toml:5:8: view.cut[0]: "]);
        check("[view]\n", &["view: changes nothing"]);
        check(
            "[view.damage]\nflipped = -1\n",
            &["flipped: must be a whole number"],
        );
        check("[view.damage]\n", &["damages nothing"]);
        check(
            "[keys]\nonly = \"drill\"\n",
            &["\"drill\" is not known here: write \"escrow\""],
        );
        check("[attack]\n", &["attack.with: is missing"]);
        let misspelt = problems("name = \"x\"\ntitel = \"t\"\nlevel = \"L3\"\n");
        assert!(
            misspelt[1].contains("s.toml:2:1: titel: is not a known key"),
            "{misspelt:?}"
        );
        check(
            "moment = \"noon\"\n",
            &["\"noon\" is not known here: write \"any\" or \"time\""],
        );
        check("[parameters]\nA = \"x\"\n", &["cannot be written as {name}"]);
        check(
            "[parameters]\na = 1\n",
            &["s.toml:5:5: parameters: invalid type: integer"],
        );
    }

    #[test]
    fn checks_are_strict() {
        let query = "[[check]]\nid = \"c\"\ndatabase = \"d\"\nquery = \"SELECT 1\"\n";
        check(&format!("{query}at_least = 1\n"), &[]);
        check(
            &format!("{query}text = \"x\"\nweight = \"optional\"\ntimeout = \"5s\"\n"),
            &[],
        );
        check(query, &["needs exactly one of"]);
        check(
            &format!("{query}at_least = 1\nequals = 2\n"),
            &["needs exactly one of"],
        );
        check(&format!("{query}equals = \"many\"\n"), &["write a whole number"]);
        check(
            &format!("{query}equals = \"{{n}}\"\n"),
            &["`equals` names {n}, which is no parameter"],
        );
        check(
            &format!("{query}equals = 1.5\n"),
            &["must be a whole number, or a text"],
        );
        check(
            &format!("{query}equals = 1\ntimeout = \"60\"\n"),
            &["is not a length of time"],
        );
        check(
            &format!("{query}equals = 1\nclass = \"MOOD\"\n"),
            &["check[0].class: unknown variant"],
        );
        check(
            &format!("{query}equals = 1\n{query}equals = 1\n"),
            &["another check is called c"],
        );
        check("[[check]]\nid = \"p\"\nprogram = []\n", &["`program` is empty"]);
        check(
            "[[check]]\nid = \"p\"\nprogram = [\"x\", \"{y}\"]\n",
            &["`program` names {y}"],
        );
        check(
            "[[check]]\nid = \"P x\"\nprogram = [\"x\"]\n",
            &["is no check's name"],
        );
    }

    #[test]
    fn levels_demand_what_they_prove() {
        let at = |level: &str, rest: &str| {
            problems(&format!(
                "name = \"x\"\ntitle = \"t\"\nlevel = \"{level}\"\n{rest}"
            ))
        };
        let program = "[[check]]\nid = \"p\"\nprogram = [\"x\"]\n";
        let dark = "[view]\ncut = [\"first\"]\n[keys]\nonly = \"escrow\"\n";
        assert!(at("L1", "").is_empty());
        assert_eq!(at("L1", program).len(), 1);
        assert_eq!(at("L1", "[view.damage]\nflipped = 1\n").len(), 1);
        assert!(at("L1", "[view]\ncut = [\"eu-1\"]\n").is_empty());
        assert!(at("L4", "")[0].contains("add a [[check]] with program"));
        assert_eq!(at("L4", &format!("{program}weight = \"optional\"\n")).len(), 1);
        assert!(at("L4", program).is_empty());
        assert!(at("L5", program)[0].contains("second region"));
        assert!(at("L5", &format!("{dark}{program}")).is_empty());
        assert!(at("L6", "")[0].contains("write L1, L2, L3, L4 or L5"));
    }
}
