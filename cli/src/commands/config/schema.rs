//! `holdfast config schema`: what may stand in a file, for editors.
//!
//! A schema is made of what the program's own reader asks for while it reads the
//! examples under `config/`, together with what they leave out (below). The
//! published ones under `config/schema/` are the same text:
//!
//! ```sh
//! holdfast config schema policy > config/schema/policy.json
//! ```

use clap::ValueEnum;
use holdfast_agent::config::AgentConfig;
use holdfast_coordinator::config::CoordinatorConfig;
use holdfast_drills::scenario::Scenario;
use holdfast_plan::policy::Policy;
use holdfast_plan::schema::schema;
use holdfast_plan::shape::Shape;

use super::words;
use crate::operator::OperatorFile;

/// A kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchemaKind {
    /// The policy.
    Policy,
    /// An agent's configuration.
    Agent,
    /// A coordinator's configuration.
    Coordinator,
    /// The operator's configuration, holdfast.toml.
    Holdfast,
    /// A drill's scenario.
    Scenario,
}

/// What the agent's example shows in comments only.
const AGENT: &str = r#"
[recipients]
[repository]
[[repository.replicas]]
[[cluster]]
labels = {}
residency = {}
wal_valve = {}
"#;

/// What the coordinator's example shows in comments only.
const COORDINATOR: &str = r#"
[http_tls]
[[tls.ended]]
[enrolment]
[access]
[access.oidc]
[[access.token]]
[[access.grant]]
"#;

/// What the operator's example shows in comments only.
const HOLDFAST: &str = "[coordinator_oidc]";

/// What no shipped scenario does together.
const SCENARIO: &str = r#"
[parameters]
[view.damage]
[keys]
[attack]
[server]
[[check]]
class = "STRUCTURE"
program = []
[[check]]
"#;

impl SchemaKind {
    fn title(self) -> &'static str {
        match self {
            SchemaKind::Policy => "Holdfast policy",
            SchemaKind::Agent => "Holdfast agent",
            SchemaKind::Coordinator => "Holdfast coordinator",
            SchemaKind::Holdfast => "Holdfast operator",
            SchemaKind::Scenario => "Holdfast drill scenario",
        }
    }

    /// What the reader of this kind of file knows.
    fn shape(self) -> Shape {
        let (read, texts): (fn(&str) -> Shape, &[&str]) = match self {
            SchemaKind::Policy => (
                Policy::shape,
                &[
                    include_str!("../../../../config/policy.toml"),
                    include_str!("../../../../config/tiers.toml"),
                ],
            ),
            SchemaKind::Agent => (
                AgentConfig::shape,
                &[include_str!("../../../../config/agent.toml"), AGENT],
            ),
            SchemaKind::Coordinator => (
                CoordinatorConfig::shape,
                &[include_str!("../../../../config/coordinator.toml"), COORDINATOR],
            ),
            SchemaKind::Holdfast => (
                OperatorFile::shape,
                &[include_str!("../../../../config/holdfast.toml"), HOLDFAST],
            ),
            SchemaKind::Scenario => (
                Scenario::shape,
                &[
                    include_str!("../../../../config/scenarios/books.toml"),
                    include_str!("../../../../config/scenarios/dark-site.toml"),
                    SCENARIO,
                ],
            ),
        };
        let mut shape = Shape::default();
        for text in texts {
            shape.merge(read(text));
        }
        shape
    }

    /// The schema as text.
    pub fn schema(self) -> String {
        let words = |path: &str| words::of(self, path).map(str::to_owned);
        let schema = schema(self.title(), &self.shape(), &words);
        format!("{schema:#}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const KINDS: [(SchemaKind, &str, &[&str]); 5] = [
        (SchemaKind::Policy, "policy", &["policy.toml", "tiers.toml"]),
        (SchemaKind::Agent, "agent", &["agent.toml"]),
        (SchemaKind::Coordinator, "coordinator", &["coordinator.toml"]),
        (SchemaKind::Holdfast, "holdfast", &["holdfast.toml"]),
        (
            SchemaKind::Scenario,
            "scenario",
            &[
                "scenarios/books.toml",
                "scenarios/dark-site.toml",
                "scenarios/whole.toml",
            ],
        ),
    ];

    fn config(name: &str) -> String {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name);
        std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
    }

    fn validator(kind: SchemaKind) -> jsonschema::Validator {
        jsonschema::validator_for(&serde_json::from_str(&kind.schema()).unwrap()).unwrap()
    }

    fn wrong(validator: &jsonschema::Validator, text: &str) -> Vec<String> {
        let value: serde_json::Value = toml::from_str(text).unwrap();
        let errors = validator.iter_errors(&value);
        errors.map(|e| format!("{}: {e}", e.instance_path())).collect()
    }

    #[test]
    fn what_is_published_is_what_the_readers_know() {
        for (kind, name, _) in KINDS {
            assert_eq!(
                config(&format!("schema/{name}.json")),
                kind.schema(),
                "write it anew: holdfast config schema {name} > config/schema/{name}.json"
            );
        }
    }

    #[test]
    fn every_section_is_known() {
        for (kind, name, _) in KINDS {
            let shape = kind.shape();
            assert_eq!(shape.unvisited(), Vec::<String>::new(), "{name}");
            let unsaid: Vec<String> = shape
                .paths()
                .filter(|path| !path.ends_with('*') && words::of(kind, path).is_none())
                .collect();
            assert_eq!(unsaid, Vec::<String>::new(), "{name}: words for these");
            let known: Vec<String> = shape.paths().collect();
            let left = words::all(kind).filter(|path| !known.contains(&(*path).to_owned()));
            assert_eq!(
                left.collect::<Vec<_>>(),
                Vec::<&str>::new(),
                "{name}: words for nothing"
            );
        }
    }

    #[test]
    fn every_example_is_valid_and_a_mistake_is_not() {
        for (kind, _, files) in KINDS {
            let validator = validator(kind);
            for file in files {
                assert_eq!(wrong(&validator, &config(file)), Vec::<String>::new(), "{file}");
            }
        }
        let policy = validator(SchemaKind::Policy);
        for (text, place) in [
            (
                "[[cluster]]\ncluster = \"acme/erp\"\ntier = \"gold\"\nretentoin = 1\n",
                "/cluster/0",
            ),
            ("[tiers.gold]\nrpo = \"1 minute\"\n", "/tiers/gold/rpo"),
            (
                "[[calendar]]\nname = \"a\"\nfreeze = [\"wal\"]\n",
                "/calendar/0/freeze/0",
            ),
            ("[limits]\nper_host = 0\n", "/limits/per_host"),
        ] {
            let wrong = wrong(&policy, text);
            assert!(wrong.iter().any(|w| w.starts_with(place)), "{text}: {wrong:?}");
        }
    }
}
