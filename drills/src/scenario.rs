//! Scenarios: what a drill sets out to prove, as TOML.
//!
//! A scenario names its level, what it does to the copy's surroundings (regions
//! that are cut off, objects that are damaged, keys that are withheld, an attack
//! with the writer's credentials), and its own checks; the level brings checks of
//! its own (see [`crate::checks`]). `{name}` in a text is replaced by the
//! parameter of that name, which the person or the schedule that starts the drill
//! gives. `docs/operations/scenarios.md` is the reference.
//!
//! - [`reading`]: from a file's text, with every problem at its line.
//! - [`filling`]: parameters filled in.
//!
//! Nothing here runs anything.

mod filling;
mod reading;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use holdfast_plan::document::Problem;
use holdfast_proto::Sha256Digest;
use holdfast_proto::names::Region;

use crate::evidence::statement::results::CheckClass;
use crate::evidence::statement::{Level, ScenarioName};

/// A scenario that cannot be used as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScenarioError {
    /// Not one of the shipped, and no file of that name.
    #[error(
        "there is no scenario {0:?}: `holdfast drill scenarios` names those there are; a file of your own is named by \
         its path"
    )]
    Unknown(String),
    /// The file is not there.
    #[error("the scenario {path} cannot be read: {why}")]
    Unreadable {
        /// Which.
        path: String,
        /// Why.
        why: String,
    },
    /// The file is not a scenario.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Problems(Vec<Problem>),
    /// A parameter is missing.
    #[error("the scenario {scenario} needs {parameter} ({meaning}): pass --set {parameter}=VALUE")]
    Missing {
        /// The scenario.
        scenario: ScenarioName,
        /// The parameter.
        parameter: String,
        /// What it means.
        meaning: String,
    },
    /// A parameter that the scenario does not have.
    #[error("the scenario {scenario} has no parameter {parameter:?}; it has: {known}")]
    Undeclared {
        /// The scenario.
        scenario: ScenarioName,
        /// The parameter.
        parameter: String,
        /// Those there are.
        known: String,
    },
    /// A value that does not fit.
    #[error("{what} of {whose} is {value:?}: {expected}")]
    Value {
        /// The check, or the scenario's section.
        whose: String,
        /// Which text of it.
        what: &'static str,
        /// What it came to.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// A scenario as its file says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// Its name.
    pub name: ScenarioName,
    /// One line for people.
    pub title: String,
    /// What it proves.
    pub level: Level,
    /// Which moments it can be played for.
    pub moment: MomentKind,
    /// Its parameters, each with its meaning.
    pub parameters: BTreeMap<String, String>,
    /// Hundredths of all packs that are read whole before the restore.
    pub sample_percent: u64,
    /// How the repository is seen.
    pub view: ViewSpec,
    /// Only this role's identity may open anything.
    pub only_escrow: bool,
    /// The writer's credentials are turned against the backup.
    pub attack: bool,
    /// SHA-256 of its text.
    pub digest: Sha256Digest,
    major: Option<String>,
    checks: Vec<CheckSpec>,
}

/// Which moments a scenario can be played for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MomentKind {
    /// Any; drawn from what is restorable when none is given.
    #[default]
    Any,
    /// One that is given as a time: the scenario is about something that happened.
    Time,
    /// A restore point that somebody named.
    Name,
    /// A joint recovery point of database and filestores; drawn when none is given.
    Fence,
}

impl fmt::Display for MomentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MomentKind::Any => "any",
            MomentKind::Time => "time",
            MomentKind::Name => "name",
            MomentKind::Fence => "fence",
        })
    }
}

/// How the repository is seen while the scenario is played.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ViewSpec {
    /// Regions that answer nothing.
    pub cut: Vec<RegionChoice>,
    /// Copies that are damaged.
    pub damage: Option<DamageSpec>,
}

/// Copies that are damaged: so many objects, in each of these regions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamageSpec {
    /// Where.
    pub regions: Vec<RegionChoice>,
    /// Objects with a wrong bit.
    pub flipped: usize,
    /// Objects without their second half.
    pub truncated: usize,
    /// Objects that are not there.
    pub gone: usize,
}

/// A region, as a scenario names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegionChoice {
    /// The first in the configuration.
    First,
    /// All of them.
    All,
    /// This one.
    Named(Region),
}

impl RegionChoice {
    /// The regions meant, of those that are configured.
    pub fn of(&self, configured: &[Region]) -> Vec<Region> {
        match self {
            RegionChoice::First => configured.first().cloned().into_iter().collect(),
            RegionChoice::All => configured.to_vec(),
            RegionChoice::Named(region) => vec![region.clone()],
        }
    }
}

/// A check, its texts not filled in yet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CheckSpec {
    id: String,
    class: CheckClass,
    timeout: Duration,
    mandatory: bool,
    does: DoesSpec,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum DoesSpec {
    Query {
        database: String,
        query: String,
        expect: ExpectSpec,
    },
    Program {
        command: Vec<String>,
        role: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum ExpectSpec {
    AtLeast(String),
    AtMost(String),
    Equals(String),
    Text(String),
}

/// A scenario with its parameters filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Played {
    /// Queries, in the file's order.
    pub queries: Vec<QueryCheck>,
    /// Programs, in the file's order; they run after all queries.
    pub programs: Vec<ProgramCheck>,
    /// The major version of PostgreSQL that the copy must have.
    pub major: Option<u32>,
}

/// What a query's answer is held against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expectation {
    /// The number or more.
    AtLeast(i64),
    /// The number or less.
    AtMost(i64),
    /// The number.
    Equals(i64),
    /// The text.
    Text(String),
}

impl Expectation {
    /// Whether the number `actual` is as expected; a text is none.
    pub fn holds(&self, actual: &Number) -> bool {
        match self {
            Expectation::AtLeast(bound) => actual.compared(*bound).is_some_and(Ordering::is_ge),
            Expectation::AtMost(bound) => actual.compared(*bound).is_some_and(Ordering::is_le),
            Expectation::Equals(value) => actual.compared(*value).is_some_and(Ordering::is_eq),
            Expectation::Text(_) => false,
        }
    }
}

/// The longest number that evidence carries in full.
const MOST_DIGITS: usize = 100;

/// A number of any length and with any fraction, as PostgreSQL writes `numeric`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Number(String);

impl Number {
    /// From the text of a `numeric`, without the zeros at the end of its fraction.
    pub fn of(text: &str) -> Self {
        Self(match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => text.to_owned(),
        })
    }

    /// How it stands to a whole number, exactly; `None` for what is no finite number.
    fn compared(&self, bound: i64) -> Option<Ordering> {
        let (whole, fraction) = self.0.split_once('.').unwrap_or((&self.0, ""));
        let negative = whole.starts_with('-');
        let digits = whole.trim_start_matches('-');
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if digits.is_empty() || !plain(digits) || !plain(fraction) {
            return None;
        }
        let beyond = match negative {
            true => Ordering::Less,
            false => Ordering::Greater,
        };
        // More digits than fit lie beyond every bound.
        let Ok(whole) = whole.parse::<i128>() else {
            return Some(beyond);
        };
        let fraction = match fraction.bytes().any(|b| b != b'0') {
            true => beyond,
            false => Ordering::Equal,
        };
        Some(whole.cmp(&i128::from(bound)).then(fraction))
    }

    /// As evidence carries it: what is too long, by its digest.
    pub fn said(&self) -> String {
        match self.0.len() <= MOST_DIGITS {
            true => self.0.clone(),
            false => text_digest(&self.0),
        }
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expectation::AtLeast(bound) => write!(f, "at least {bound}"),
            Expectation::AtMost(bound) => write!(f, "at most {bound}"),
            Expectation::Equals(value) => write!(f, "{value}"),
            // A text may be anything: evidence carries its digest.
            Expectation::Text(text) => write!(f, "{}", text_digest(text)),
        }
    }
}

/// A text as evidence carries it.
pub fn text_digest(text: &str) -> String {
    format!("SHA-256 {}", Sha256Digest::of(text.as_bytes()))
}

/// A query of the scenario, filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryCheck {
    /// Its name.
    pub id: String,
    /// What it is about.
    pub class: CheckClass,
    /// Where it runs.
    pub database: String,
    /// A query for one value.
    pub query: String,
    /// What the value must be.
    pub expect: Expectation,
    /// How long it may take.
    pub timeout: Duration,
    /// Without it there is no verdict.
    pub mandatory: bool,
}

/// A program of the scenario, filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramCheck {
    /// Its name.
    pub id: String,
    /// What it is about.
    pub class: CheckClass,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The role in the database that its environment names.
    pub role: String,
    /// How long it may take.
    pub timeout: Duration,
    /// Without it there is no verdict.
    pub mandatory: bool,
}

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        /// The scenarios that are shipped: name and text.
        const SHIPPED: &[(&str, &str)] = &[
            $(($name, include_str!(concat!("../scenarios/", $name, ".toml")))),*
        ];
    };
}

shipped!(
    "accidental-deletion",
    "failed-upgrade",
    "key-loss",
    "ransomware",
    "region-loss",
    "storage-corruption",
);

impl Scenario {
    /// Whether it may run in a pod: it takes nothing into its hands that a cluster would
    /// have to keep in a Secret, neither the escrow identity nor a writer's credentials.
    pub fn fits_a_pod(&self) -> bool {
        !self.only_escrow && !self.attack
    }

    /// The shipped scenarios.
    pub fn shipped() -> Vec<Self> {
        SHIPPED
            .iter()
            .map(|(name, text)| Self::parse(name, text).expect("a test parses every shipped scenario"))
            .collect()
    }

    /// The scenario called `name`: a shipped one, or one of the caller's own when
    /// `name` is the path of a file (with a `/`, or ending in `.toml`).
    pub fn named(name: &str) -> Result<Self, ScenarioError> {
        if name.contains('/') || name.ends_with(".toml") {
            let text = std::fs::read_to_string(name).map_err(|e| ScenarioError::Unreadable {
                path: name.to_owned(),
                why: e.to_string(),
            })?;
            return Self::parse(name, &text);
        }
        SHIPPED
            .iter()
            .find(|(n, _)| *n == name)
            .ok_or_else(|| ScenarioError::Unknown(name.to_owned()))
            .and_then(|(n, text)| Self::parse(n, text))
    }

    /// Whether the repository is seen otherwise than it is.
    pub fn has_view(&self) -> bool {
        self.view != ViewSpec::default()
    }
}
