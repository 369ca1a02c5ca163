//! JSON Schema of a kind of document, for editors, from the shape that its reader
//! shows ([`crate::shape`]).
//!
//! A schema knows keys, kinds and the form of values. What a reader checks beyond
//! that (that a tier exists, that numbers do not contradict each other) is said
//! by `holdfast config check` alone.

use serde_json::{Map, Value, json};

use crate::shape::{ANY, Key, Kind, Place, Shape, below};

/// The schema of a document. `words` says what a key means, by its path.
pub fn schema(title: &str, shape: &Shape, words: &dyn Fn(&str) -> Option<String>) -> Value {
    let mut root = table(shape, "", words);
    if let Some(root) = root.as_object_mut() {
        root.insert(
            "$schema".to_owned(),
            json!("https://json-schema.org/draft/2020-12/schema"),
        );
        root.insert("title".to_owned(), json!(title));
    }
    root
}

fn table(shape: &Shape, at: &str, words: &dyn Fn(&str) -> Option<String>) -> Value {
    let nothing = Place::default();
    let place = shape.place(at).unwrap_or(&nothing);
    let mut properties = Map::new();
    let mut any = json!(false);
    let mut required = Vec::new();
    for (name, key) in &place.keys {
        let path = below(at, name);
        let mut described = of_key(shape, &path, key, words);
        if name == ANY {
            any = described;
            continue;
        }
        if let (Some(words), Some(described)) = (words(&path), described.as_object_mut()) {
            described.insert("description".to_owned(), json!(words));
        }
        if place.visits > 0 && key.required == place.visits {
            required.push(name.as_str());
        }
        properties.insert(name.clone(), described);
    }
    let mut table = json!({ "type": "object", "properties": properties, "additionalProperties": any });
    if !required.is_empty() {
        table["required"] = json!(required);
    }
    table
}

fn of_key(shape: &Shape, path: &str, key: &Key, words: &dyn Fn(&str) -> Option<String>) -> Value {
    let kinds: Vec<Value> = key
        .kinds
        .iter()
        .map(|kind| match kind {
            Kind::Value(of) => value(of),
            Kind::Values(of) => json!({ "type": "array", "items": value(of) }),
            Kind::Number(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::Table => table(shape, path, words),
            Kind::Tables => json!({ "type": "array", "items": table(shape, &format!("{path}[]"), words) }),
        })
        .collect();
    match <[Value; 1]>::try_from(kinds) {
        Ok([one]) => one,
        Err(several) => json!({ "anyOf": several }),
    }
}

/// A name of ours: `proto::names`.
const NAME: &str = "^[a-z0-9][a-z0-9_-]{0,62}$";

/// A value by its type's name. A type that is not known here is any text, which
/// is what it is read from.
fn value(of: &str) -> Value {
    let words = |words: &[&str]| json!({ "enum": words });
    let form = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    // `module::Type`, without what stands in angle brackets.
    let plain = of.split('<').next().unwrap_or(of);
    match plain.rsplit("::").next().unwrap_or(plain) {
        "bool" => json!({ "type": "boolean" }),
        "u8" | "u16" | "u32" | "u64" | "usize" => json!({ "type": "integer", "minimum": 0 }),
        "NonZero" => json!({ "type": "integer", "minimum": 1 }),
        "Period" | "Duration" => form("^[0-9]+(ms|s|min|h|d)$"),
        "Cron" => form("^\\s*\\S+(\\s+\\S+){4}\\s*$"),
        "Zone" => form("^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$"),
        "TenantName" | "ClusterName" | "FilestoreName" | "Region" | "ActorName" | "TierName"
        | "CalendarName" | "ResidencyName" | "ProviderName" | "GroupName" | "RouteName" => form(NAME),
        "ScenarioName" => form("^[a-z0-9-]{1,63}$"),
        "ClusterId" => form("^[a-z0-9][a-z0-9_-]{0,62}/[a-z0-9][a-z0-9_-]{0,62}$"),
        "Fingerprint" => form("^[0-9a-f]{64}$"),
        "LabelText" => form("^[A-Za-z0-9_./-]{1,317}$"),
        "EnvName" => form("^[A-Z_][A-Z0-9_]*$"),
        "LocalTime" => form("^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?$"),
        "LocalDate" => form("^[0-9]{4}-[0-9]{2}-[0-9]{2}$"),
        "Level" => words(&["L1", "L2", "L3", "L4", "L5"]),
        "SeverityWord" => words(&["info", "warning", "critical"]),
        "RouteKind" => words(&["generic", "alertmanager", "slack"]),
        "Freezable" => words(&["base_backup", "drill", "reclaim", "key_rotation"]),
        "Edge" => words(&["start", "end"]),
        "Guarded" => {
            let acts = crate::policy::Guarded::ALL.map(crate::policy::Guarded::as_str);
            words(&acts)
        }
        "AdapterKind" => words(&["odoo", "none"]),
        // A scenario's own words.
        "Number" => json!({ "type": ["integer", "string"] }),
        "BTreeMap" => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        "ValveLimits" => json!({ "type": "object" }),
        _ => json!({ "type": "string" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document;
    use crate::period::Period;

    #[test]
    fn a_schema_says_what_the_reader_asks_for() {
        let text = "every = \"5s\"\n[[item]]\nkind = \"a\"\n[[item]]\nsize = 3\n[by.x]\n[free]\nb = \"c\"\n";
        let (read, shape) = document::read_with_shape(text, "t", |mut root| {
            root.required::<Period>("every", "1h");
            root.optional_bool("quiet");
            for mut item in root.list("item") {
                if item.has("kind") {
                    item.required::<String>("kind", "a");
                }
                item.optional_number("size", 1..=9);
                item.finish();
            }
            for (_, below) in root.named::<String>("by") {
                below.finish();
            }
            root.pairs::<String, Period>("free");
            root.finish();
            Some(())
        });
        assert!(read.is_err(), "a pair's value is checked like any other");
        let schema = schema("T", &shape, &|path| {
            (path == "every").then(|| "How often.".to_owned())
        });
        let period = json!({ "type": "string", "pattern": "^[0-9]+(ms|s|min|h|d)$" });
        assert_eq!(schema["properties"]["every"]["description"], "How often.");
        assert_eq!(schema["properties"]["every"]["pattern"], period["pattern"]);
        assert_eq!(schema["required"], json!(["every"]));
        let item = &schema["properties"]["item"]["items"];
        assert_eq!(item["properties"]["size"]["maximum"], 9);
        assert_eq!(item.get("required"), None, "one of the two items had no kind");
        assert_eq!(item["additionalProperties"], false);
        let by = &schema["properties"]["by"]["additionalProperties"];
        assert_eq!(by["type"], "object");
        assert_eq!(schema["properties"]["free"]["additionalProperties"], period);
    }
}
