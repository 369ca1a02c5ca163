//! Scenarios: what a drill sets out to prove, as TOML.
//!
//! A scenario names its level and its own checks; the level brings checks of its
//! own (see [`crate::checks`]). A check is a query for one number and a bound.
//! `{name}` in a check's texts is replaced by the parameter of that name, which
//! the person or the schedule that starts the drill gives. Unknown keys,
//! parameters that nobody declared and parameters that are missing are refused.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::evidence::statement::results::CheckClass;
use crate::evidence::statement::{Level, ScenarioName};

/// A scenario that cannot be used as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScenarioError {
    /// Not one of the shipped, and no file of that name.
    #[error("there is no scenario {0:?}: `holdfast drill list` names those there are")]
    Unknown(String),
    /// The file is not a scenario.
    #[error("the scenario {name} cannot be read: {why}")]
    Unreadable {
        /// Which.
        name: String,
        /// The parser's words, or what is wrong.
        why: String,
    },
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
    #[error("{what} of the check {check} is {value:?}: {expected}")]
    Value {
        /// The check.
        check: String,
        /// Which text of it.
        what: &'static str,
        /// What it came to.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// A scenario as its file says it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name.
    pub name: ScenarioName,
    /// One line for people.
    pub title: String,
    /// What it proves.
    pub level: Level,
    /// Its parameters, each with its meaning.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    #[serde(default, rename = "check")]
    checks: Vec<RawCheck>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCheck {
    id: String,
    class: CheckClass,
    database: String,
    query: String,
    #[serde(default)]
    at_least: Option<String>,
    #[serde(default)]
    equals: Option<String>,
    timeout: String,
    #[serde(default = "yes")]
    mandatory: bool,
}

const fn yes() -> bool {
    true
}

/// What a query's number is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expectation {
    /// The number or more.
    AtLeast(i64),
    /// The number.
    Equals(i64),
}

impl Expectation {
    /// Whether `actual` is as expected.
    pub const fn holds(self, actual: i64) -> bool {
        match self {
            Expectation::AtLeast(bound) => actual >= bound,
            Expectation::Equals(value) => actual == value,
        }
    }
}

impl std::fmt::Display for Expectation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Expectation::AtLeast(bound) => write!(f, "at least {bound}"),
            Expectation::Equals(value) => write!(f, "{value}"),
        }
    }
}

/// A check with its parameters filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryCheck {
    /// Its name.
    pub id: String,
    /// What it is about.
    pub class: CheckClass,
    /// Where it runs.
    pub database: String,
    /// A query for one number.
    pub query: String,
    /// What the number must be.
    pub expect: Expectation,
    /// How long it may take.
    pub timeout: Duration,
    /// Without it there is no verdict.
    pub mandatory: bool,
}

/// The scenarios that are shipped: name and text.
const SHIPPED: &[(&str, &str)] = &[(
    "accidental-deletion",
    include_str!("../scenarios/accidental-deletion.toml"),
)];

impl Scenario {
    /// The shipped scenarios.
    pub fn shipped() -> Vec<Self> {
        SHIPPED
            .iter()
            .map(|(name, text)| Self::parse(name, text).expect("a test parses every shipped scenario"))
            .collect()
    }

    /// The shipped scenario `name`.
    pub fn named(name: &str) -> Result<Self, ScenarioError> {
        SHIPPED
            .iter()
            .find(|(n, _)| *n == name)
            .ok_or_else(|| ScenarioError::Unknown(name.to_owned()))
            .and_then(|(n, text)| Self::parse(n, text))
    }

    /// Reads a scenario; `name` is for messages.
    pub fn parse(name: &str, text: &str) -> Result<Self, ScenarioError> {
        let unreadable = |why: String| ScenarioError::Unreadable {
            name: name.to_owned(),
            why,
        };
        let scenario: Self = toml::from_str(text).map_err(|e| unreadable(e.to_string()))?;
        let mut ids = std::collections::BTreeSet::new();
        for check in &scenario.checks {
            if !ids.insert(&check.id) {
                return Err(unreadable(format!("two checks are called {}", check.id)));
            }
            if check.at_least.is_some() == check.equals.is_some() {
                return Err(unreadable(format!(
                    "the check {} needs either at_least or equals",
                    check.id
                )));
            }
        }
        Ok(scenario)
    }

    /// The scenario's own checks with `given` filled in.
    pub fn checks(&self, given: &BTreeMap<String, String>) -> Result<Vec<QueryCheck>, ScenarioError> {
        if let Some(parameter) = given.keys().find(|k| !self.parameters.contains_key(*k)) {
            return Err(ScenarioError::Undeclared {
                scenario: self.name.clone(),
                parameter: parameter.clone(),
                known: self.parameters.keys().cloned().collect::<Vec<_>>().join(", "),
            });
        }
        if let Some((parameter, meaning)) = self.parameters.iter().find(|(k, _)| !given.contains_key(*k)) {
            return Err(ScenarioError::Missing {
                scenario: self.name.clone(),
                parameter: parameter.clone(),
                meaning: meaning.clone(),
            });
        }
        self.checks.iter().map(|check| check.fill(given)).collect()
    }
}

impl RawCheck {
    fn fill(&self, given: &BTreeMap<String, String>) -> Result<QueryCheck, ScenarioError> {
        let fill = |text: &str| {
            given
                .iter()
                .fold(text.to_owned(), |t, (k, v)| t.replace(&format!("{{{k}}}"), v))
        };
        let wrong = |what, value: String, expected| ScenarioError::Value {
            check: self.id.clone(),
            what,
            value,
            expected,
        };
        let number = |what, text: &str| {
            let text = fill(text);
            text.parse::<i64>()
                .map_err(|_| wrong(what, text, "a whole number is needed"))
        };
        let expect = match (&self.at_least, &self.equals) {
            (Some(bound), _) => Expectation::AtLeast(number("at_least", bound)?),
            (None, Some(value)) => Expectation::Equals(number("equals", value)?),
            (None, None) => unreachable!("parse refuses a check without an expectation"),
        };
        let timeout = self
            .timeout
            .strip_suffix('s')
            .and_then(|t| t.parse().ok())
            .map(Duration::from_secs)
            .ok_or_else(|| wrong("timeout", self.timeout.clone(), "write seconds, for example 60s"))?;
        Ok(QueryCheck {
            id: self.id.clone(),
            class: self.class,
            database: fill(&self.database),
            query: fill(&self.query),
            expect,
            timeout,
            mandatory: self.mandatory,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn every_shipped_scenario_is_what_its_name_says() {
        for scenario in Scenario::shipped() {
            assert_eq!(Scenario::named(scenario.name.as_str()).unwrap(), scenario);
        }
    }

    #[test]
    fn parameters_are_filled_in_and_checked() {
        let scenario = Scenario::named("accidental-deletion").unwrap();
        let full = given(&[("database", "erp"), ("query", "SELECT 1"), ("minimum", "7")]);
        let checks = scenario.checks(&full).unwrap();
        assert_eq!(checks[0].database, "erp");
        assert_eq!(checks[0].expect, Expectation::AtLeast(7));
        assert!(matches!(
            scenario.checks(&given(&[])),
            Err(ScenarioError::Missing { .. })
        ));
        let mut more = full.clone();
        more.insert("other".into(), "x".into());
        assert!(matches!(
            scenario.checks(&more),
            Err(ScenarioError::Undeclared { .. })
        ));
        let mut wrong = full;
        wrong.insert("minimum".into(), "many".into());
        assert!(matches!(
            scenario.checks(&wrong),
            Err(ScenarioError::Value { .. })
        ));
    }

    #[test]
    fn unknown_keys_are_refused() {
        let text = "name = \"x\"\ntitle = \"t\"\nlevel = \"L2\"\nmood = \"good\"\n";
        assert!(matches!(
            Scenario::parse("x", text),
            Err(ScenarioError::Unreadable { .. })
        ));
    }
}
