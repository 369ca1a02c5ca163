//! Parameters filled into a scenario.

use std::collections::BTreeMap;

use super::{
    CheckSpec, DoesSpec, ExpectSpec, Expectation, Played, ProgramCheck, QueryCheck, Scenario, ScenarioError,
};

/// The names in braces in `text`: `{minimum}`. Braces around anything else are
/// SQL's or a shell's.
pub fn names_in(text: &str) -> impl Iterator<Item = &str> {
    text.split('{').skip(1).filter_map(|rest| {
        let (name, _) = rest.split_once('}')?;
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        (name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(plain)).then_some(name)
    })
}

/// `text` with every parameter replaced. A value is taken as it is: braces in it
/// are not looked at again.
fn filled(text: &str, given: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        let inside = &rest[at + 1..];
        match inside
            .split_once('}')
            .and_then(|(name, after)| Some((given.get(name)?, after)))
        {
            Some((value, after)) => {
                out.push_str(value);
                rest = after;
            }
            None => {
                out.push('{');
                rest = inside;
            }
        }
    }
    out + rest
}

impl Scenario {
    /// The scenario with `given` filled in.
    pub fn play(&self, given: &BTreeMap<String, String>) -> Result<Played, ScenarioError> {
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
        let mut played = Played {
            queries: Vec::new(),
            programs: Vec::new(),
            major: None,
        };
        if let Some(major) = &self.major {
            let text = filled(major, given);
            played.major = Some(text.parse().map_err(|_| ScenarioError::Value {
                whose: "[server]".to_owned(),
                what: "major",
                value: text,
                expected: "a major version of PostgreSQL is needed, for example 15",
            })?);
        }
        for check in &self.checks {
            check.fill(given, &mut played)?;
        }
        Ok(played)
    }
}

impl CheckSpec {
    fn fill(&self, given: &BTreeMap<String, String>, played: &mut Played) -> Result<(), ScenarioError> {
        let (id, class, timeout, mandatory) = (self.id.clone(), self.class, self.timeout, self.mandatory);
        match &self.does {
            DoesSpec::Query {
                database,
                query,
                expect,
            } => played.queries.push(QueryCheck {
                id,
                class,
                database: filled(database, given),
                query: filled(query, given),
                expect: self.expectation(expect, given)?,
                timeout,
                mandatory,
            }),
            DoesSpec::Program { command, role } => played.programs.push(ProgramCheck {
                id,
                class,
                command: command.iter().map(|word| filled(word, given)).collect(),
                role: filled(role, given),
                timeout,
                mandatory,
            }),
        }
        Ok(())
    }

    fn expectation(
        &self,
        expect: &ExpectSpec,
        given: &BTreeMap<String, String>,
    ) -> Result<Expectation, ScenarioError> {
        let number = |what, text: &str| {
            let text = filled(text, given);
            text.parse::<i64>().map_err(|_| ScenarioError::Value {
                whose: format!("the check {}", self.id),
                what,
                value: text,
                expected: "a whole number is needed",
            })
        };
        Ok(match expect {
            ExpectSpec::AtLeast(text) => Expectation::AtLeast(number("at_least", text)?),
            ExpectSpec::AtMost(text) => Expectation::AtMost(number("at_most", text)?),
            ExpectSpec::Equals(text) => Expectation::Equals(number("equals", text)?),
            ExpectSpec::Text(text) => Expectation::Text(filled(text, given)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Number;

    fn given(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn every_shipped_scenario_is_what_its_name_says() {
        let shipped = Scenario::shipped();
        assert_eq!(shipped.len(), 6);
        for scenario in shipped {
            assert_eq!(Scenario::named(scenario.name.as_str()).unwrap(), scenario);
        }
    }

    #[test]
    fn the_examples_are_sound() {
        let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/scenarios");
        let mut levels = Vec::new();
        for entry in std::fs::read_dir(examples).unwrap() {
            let path = entry.unwrap().path();
            let scenario = Scenario::named(path.to_str().unwrap()).unwrap();
            assert_eq!(
                scenario.name.as_str(),
                path.file_stem().unwrap().to_str().unwrap()
            );
            levels.push(scenario.level.to_string());
        }
        levels.sort();
        assert_eq!(levels, ["L1", "L4", "L5"]);
    }

    #[test]
    fn parameters_are_filled_in_and_checked() {
        let scenario = Scenario::named("accidental-deletion").unwrap();
        let full = given(&[
            ("database", "erp"),
            ("query", "SELECT '{minimum}'"),
            ("minimum", "7"),
        ]);
        let played = scenario.play(&full).unwrap();
        assert_eq!(played.queries[0].database, "erp");
        assert_eq!(
            played.queries[0].query, "SELECT '{minimum}'",
            "a value is taken as it is"
        );
        assert_eq!(played.queries[0].expect, Expectation::AtLeast(7));
        assert!(matches!(
            scenario.play(&given(&[])),
            Err(ScenarioError::Missing { .. })
        ));
        let mut more = full.clone();
        more.insert("other".into(), "x".into());
        assert!(matches!(
            scenario.play(&more),
            Err(ScenarioError::Undeclared { .. })
        ));
        let mut wrong = full;
        wrong.insert("minimum".into(), "many".into());
        assert!(matches!(scenario.play(&wrong), Err(ScenarioError::Value { .. })));
    }

    #[test]
    fn other_braces_are_left_alone() {
        let text = "SELECT '{1,2}'::int[], '{a b}', {n}, {n";
        assert_eq!(names_in(text).collect::<Vec<_>>(), ["n"]);
        assert_eq!(
            filled(text, &given(&[("n", "5")])),
            "SELECT '{1,2}'::int[], '{a b}', 5, {n"
        );
    }

    #[test]
    fn expectations_hold() {
        use Expectation::{AtLeast, AtMost, Equals};
        for (expect, holding, other) in [
            (AtMost(3), ["3", "2.99", "-1"], ["4", "3.01"]),
            (
                AtLeast(3),
                ["3.00", "3.01", "99999999999999999999999999999999999999999"],
                ["2.99", "-4"],
            ),
            (
                AtMost(-1),
                ["-1", "-1.5", "-99999999999999999999999999999999999999999"],
                ["-0.5", "0"],
            ),
            (AtLeast(0), ["0", "0.1", "5"], ["-0.1", "-Infinity"]),
            (Equals(0), ["0", "0.00", "-0"], ["0.49", "-0.49"]),
            (
                Equals(3),
                ["3", "3.0", "3.000"],
                ["3.0000000000000000000000001", "NaN"],
            ),
        ] {
            for text in holding {
                assert!(expect.holds(&Number::of(text)), "{expect}: {text}");
            }
            for text in other {
                assert!(!expect.holds(&Number::of(text)), "{expect}: {text}");
            }
        }
        assert!(!AtLeast(0).holds(&Number::of("Infinity")) && !AtLeast(0).holds(&Number::of("")));
        assert!(!Expectation::Text("3".into()).holds(&Number::of("3")));
        assert_eq!(Number::of("12.50").said(), "12.5");
        assert_eq!(Number::of("1200").said(), "1200");
        assert!(Number::of(&"9".repeat(401)).said().starts_with("SHA-256 "));
        assert!(
            Expectation::Text("private".into())
                .to_string()
                .starts_with("SHA-256 ")
        );
    }
}
