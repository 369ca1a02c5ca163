//! OSCAL assessment results, version 1.1.2, for programs that keep controls.
//!
//! One result with an observation for each check and a finding for each control
//! that the statement serves: satisfied by a pass, not satisfied by anything
//! else. Of a drill that restores nothing the controls about tests of a recovery are left
//! out: it says nothing of them, whatever list it carries. Identifiers follow from the statement's digest, so that the same
//! statement gives the same document.

use holdfast_proto::{Sha256Digest, Timestamp};
use serde_json::{Value, json};

use super::Shown;
use super::words::plain;
use crate::evidence::verdict;

const VERSION: &str = "1.1.2";

/// The document.
pub fn oscal(shown: &Shown<'_>) -> String {
    let p = &shown.statement.predicate;
    let id = |of: &str| uuid(&shown.digest, of);
    let moments = p.timings.phases.iter().flat_map(|t| [t.start, t.end]);
    let end = moments.clone().max().unwrap_or(Timestamp::from_unix_micros(0));
    let start = moments.min().unwrap_or(end);
    let state = if p.results.verdict.is_pass() {
        "satisfied"
    } else {
        "not-satisfied"
    };
    let observations: Vec<Value> = p
        .results
        .checks
        .iter()
        .map(|check| {
            let result = plain(&format!("{}", serde_json::to_value(check.result).unwrap_or_default()));
            json!({
                "uuid": id(&format!("observation {}", check.id)),
                "title": check.id,
                "description": format!(
                    "{}: {}; expected {}, found {}", check.class, result.trim_matches('"'),
                    check.expected.as_deref().unwrap_or("nothing"), check.actual.as_deref().unwrap_or("nothing"),
                ),
                "methods": ["TEST"],
                "types": ["control-objective"],
                "collected": end,
                "relevant-evidence": [{
                    "href": format!("#{}", id("statement")),
                    "description": "the signed statement that holds this check",
                }],
            })
        })
        .collect();
    let related: Vec<Value> = p
        .results
        .checks
        .iter()
        .map(|c| json!({ "observation-uuid": id(&format!("observation {}", c.id)) }))
        .collect();
    let served = p.controls.iter().filter(|c| verdict::serves(p.drill.level, c));
    let controls = controls(served);
    let findings: Vec<Value> = controls
        .iter()
        .map(|(token, words)| {
            let mut finding = json!({
                "uuid": id(&format!("finding {token}")),
                "title": words,
                "description": format!("Recovery drill {}: {}", p.drill.id, p.results.verdict),
                "target": { "type": "objective-id", "target-id": token, "status": { "state": state } },
            });
            if !related.is_empty() {
                finding["related-observations"] = json!(related);
            }
            finding
        })
        .collect();
    let selections = if controls.is_empty() {
        json!([{ "include-all": {} }])
    } else {
        let chosen: Vec<Value> = controls.iter().map(|(t, _)| json!({ "control-id": t })).collect();
        json!([{ "include-controls": chosen }])
    };
    let mut result = json!({
        "uuid": id("result"),
        "title": format!("{} of {} at {}", p.drill.scenario, p.scope.id(), p.drill.level),
        "description": format!("{} {}", p.results.verdict, p.results.reasons.join("; ")).trim(),
        "start": start,
        "end": end,
        "props": [{ "name": "verdict", "ns": "https://holdfast.dev/ns", "value": p.results.verdict }],
        "reviewed-controls": { "control-selections": selections },
    });
    // OSCAL knows no empty lists.
    if !observations.is_empty() {
        result["observations"] = json!(observations);
    }
    if !findings.is_empty() {
        result["findings"] = json!(findings);
    }
    let value = json!({ "assessment-results": {
        "uuid": id("document"),
        "metadata": {
            "title": format!("Recovery drill {}", p.drill.id),
            "last-modified": end,
            "version": shown.digest,
            "oscal-version": VERSION,
        },
        "import-ap": { "href": format!("#{}", id("plan")) },
        "results": [result],
        "back-matter": { "resources": [
            {
                "uuid": id("statement"),
                "title": format!("The signed statement, SHA-256 {}, entry {} of the log", shown.digest, shown.index),
                "rlinks": [{
                    "href": "../statement.json",
                    "hashes": [{ "algorithm": "SHA-256", "value": shown.digest }],
                }],
            },
            {
                "uuid": id("plan"),
                "title": format!("The scenario {} and the policy that asks for it", p.drill.scenario),
                "description": match &p.policy {
                    Some(policy) => format!("Policy {}, SHA-256 {}", policy.id, policy.digest),
                    None => "No policy".to_owned(),
                },
            },
        ] },
    } });
    format!("{value:#}\n")
}

/// Controls as OSCAL's tokens, with the words they came from: `NIST-800-53
/// CP-9(1)` is `cp-9.1`, others are spelled out.
fn controls<'a>(controls: impl Iterator<Item = &'a String>) -> Vec<(String, &'a str)> {
    controls
        .map(|words| {
            let nist = words.strip_prefix("NIST-800-53 ");
            let token: String = nist
                .unwrap_or(words)
                .to_lowercase()
                .replace('(', ".")
                .replace(')', "")
                .chars()
                .map(|c| {
                    if c.is_ascii_alphanumeric() || ".-_".contains(c) {
                        c
                    } else {
                        '-'
                    }
                })
                .collect();
            (token, words.as_str())
        })
        .collect()
}

/// A UUID that follows from a digest and a word, marked as version 5.
fn uuid(digest: &Sha256Digest, of: &str) -> String {
    let hash = Sha256Digest::of(&[digest.as_bytes().as_slice(), of.as_bytes()].concat());
    let mut bytes = [0u8; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x50;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

#[cfg(test)]
mod tests {
    use super::super::page::tests::shown;
    use super::*;
    use crate::evidence::fixture;
    use crate::evidence::statement::Level;
    use crate::evidence::statement::results::Verdict;
    use crate::runner::report;

    fn is_uuid(value: &Value) -> bool {
        let text = value.as_str().unwrap();
        let parts: Vec<&str> = text.split('-').collect();
        let lengths: Vec<usize> = parts.iter().map(|p| p.len()).collect();
        lengths == [8, 4, 4, 4, 12] && parts[2].starts_with('5') && "89ab".contains(&parts[3][..1])
    }

    #[test]
    fn a_drill_that_restores_nothing_satisfies_no_test_of_a_recovery() {
        let of = |level: Level| {
            let mut statement = fixture::statement();
            statement.predicate.drill.level = level;
            // As statements of earlier versions carry it: all, at every level.
            statement.predicate.controls = report::controls(Level::L5);
            let value: Value = serde_json::from_str(&oscal(&shown(&statement))).unwrap();
            let result = &value["assessment-results"]["results"][0];
            let findings = result["findings"].as_array().unwrap();
            let chosen = &result["reviewed-controls"]["control-selections"][0]["include-controls"];
            assert_eq!(chosen.as_array().unwrap().len(), findings.len());
            assert!(
                findings
                    .iter()
                    .all(|f| f["target"]["status"]["state"] == "satisfied")
            );
            let tokens = findings
                .iter()
                .map(|f| f["target"]["target-id"].as_str().unwrap());
            tokens.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(of(Level::L1), ["cp-9.1"]);
        assert_eq!(of(Level::L2).len(), 9);
        assert_eq!(report::controls(Level::L1), ["NIST-800-53 CP-9(1)"]);
    }

    /// What NIST's JSON schema demands of the objects that are used here.
    #[test]
    fn has_the_structure_of_assessment_results() {
        let mut statement = fixture::statement();
        statement.predicate.results.verdict = Verdict::Fail;
        let value: Value = serde_json::from_str(&oscal(&shown(&statement))).unwrap();
        let document = &value["assessment-results"];
        for key in ["uuid", "metadata", "import-ap", "results"] {
            assert!(document.get(key).is_some(), "{key}");
        }
        for key in ["title", "last-modified", "version", "oscal-version"] {
            assert!(document["metadata"][key].is_string(), "{key}");
        }
        let result = &document["results"][0];
        for key in ["uuid", "title", "description", "start", "reviewed-controls"] {
            assert!(result.get(key).is_some(), "{key}");
        }
        let resources = document["back-matter"]["resources"].as_array().unwrap();
        let known = |href: &Value| {
            let name = href.as_str().unwrap().strip_prefix('#').unwrap();
            resources.iter().any(|r| r["uuid"] == name)
        };
        assert!(known(&document["import-ap"]["href"]));
        let observations = result["observations"].as_array().unwrap();
        assert_eq!(observations.len(), 3);
        for o in observations {
            assert!(is_uuid(&o["uuid"]) && o["methods"] == json!(["TEST"]) && o["collected"].is_string());
            assert!(known(&o["relevant-evidence"][0]["href"]));
        }
        let findings = result["findings"].as_array().unwrap();
        assert_eq!(findings[1]["target"]["target-id"], "cp-9.1");
        for f in findings {
            assert_eq!(f["target"]["status"]["state"], "not-satisfied");
            let related = f["related-observations"].as_array().unwrap();
            assert!(
                related
                    .iter()
                    .all(|r| observations.iter().any(|o| o["uuid"] == r["observation-uuid"]))
            );
        }
        assert_eq!(oscal(&shown(&statement)), oscal(&shown(&statement)));
    }
}
