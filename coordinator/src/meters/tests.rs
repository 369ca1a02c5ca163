//! What others watch the coordinator with: Prometheus' rules and Grafana's dashboard ask
//! for metrics that a coordinator has, in a language that Prometheus understands.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::*;

fn config() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../config")
}

fn promtool(arguments: &[&str]) -> String {
    let output = Command::new("promtool")
        .current_dir(config().join("prometheus"))
        .args(arguments)
        .output()
        .expect("promtool is installed");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    said
}

/// The names of metrics in a query.
fn metrics(query: &str) -> BTreeSet<String> {
    query
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("holdfast_"))
        .map(str::to_owned)
        .collect()
}

fn dashboard_queries() -> Vec<String> {
    let text = std::fs::read_to_string(config().join("grafana/holdfast.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut numbers = BTreeSet::new();
    let mut queries = Vec::new();
    for panel in panels {
        assert!(numbers.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{panel}");
        queries.extend(targets.iter().map(|t| t["expr"].as_str().unwrap().to_owned()));
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        queries.extend(variable["query"].as_str().filter(|q| q.contains('(')).map(|q| {
            let inner = q.trim_start_matches("label_values(").trim_end_matches(')');
            inner.rsplit_once(',').unwrap().0.to_owned()
        }));
    }
    assert!(queries.len() > 15, "{queries:?}");
    queries
}

fn rule_queries() -> Vec<String> {
    let text = std::fs::read_to_string(config().join("prometheus/holdfast.rules.yml")).unwrap();
    let queries = text.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    queries.map(str::to_owned).collect()
}

#[test]
fn rules_are_well_formed_and_fire_when_they_should() {
    assert!(promtool(&["check", "rules", "holdfast.rules.yml"]).contains("SUCCESS"));
    promtool(&["test", "rules", "holdfast.test.yml"]);
}

#[test]
fn every_query_of_the_dashboard_is_promql() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("queries.yml");
    let mut text = "groups:\n  - name: queries\n    rules:\n".to_owned();
    for (n, query) in dashboard_queries().iter().enumerate() {
        let query = query.replace("$tenant", ".*").replace("$cluster", ".*");
        text += &format!(
            "      - {{record: \"q:{n}\", expr: {}}}\n",
            serde_json::to_string(&query).unwrap()
        );
    }
    std::fs::write(&file, text).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()]);
}

/// A fleet of which everything is known.
fn fleet() -> Fleet {
    let at = "2026-11-27T12:00:00Z";
    let ulid = "01KAQ5SWG00000000000000001";
    let finding = json!({
        "name": "wal-gap", "subject": "acme/erp", "severity": "critical", "detail": "", "since": at,
    });
    let mut of_cluster = finding.clone();
    of_cluster["cluster"] = json!("acme/erp");
    let drill = json!({
        "id": ulid, "at": at, "scenario": "accidental-deletion", "level": "L4", "verdict": "PASS", "rto_ms": 1000,
    });
    let cluster = json!({
        "cluster": "acme/erp", "tier": "gold",
        "rpo": {
            "standing": "met", "target_ms": 1, "now_ms": 1, "safe_until": at, "frontier": "0/1", "unknown": null,
            "agent_says_ms": 1,
        },
        "rto_target_ms": 1,
        "agent": { "name": "erp-1", "version": "1", "heard": at, "silent": false },
        "lineage": "7381234567890123456-1", "timeline": 1,
        "last_base": { "id": ulid, "stopped": at, "committed": at, "regions": ["east"] },
        "next_base": at,
        "last_point": { "id": ulid, "at": at, "regions": ["east"] },
        "last_proven": drill, "last_drill": drill, "work": [], "critical": 1, "warnings": 0, "findings": [finding],
    });
    let fleet = json!({
        "at": at, "coordinator": "coordinator-1", "version": "1", "policy": "", "trust_records": 1,
        "clusters": [cluster],
        "replicas": [{ "region": "east", "location": "/east", "answered": at, "failing": null }],
        "findings": [of_cluster],
    });
    serde_json::from_value(fleet).unwrap()
}

/// Nothing that is asked for is missing from a scrape, and the table of metrics names all.
#[test]
fn every_metric_that_is_asked_for_is_there_and_every_one_is_documented() {
    let meters = Meters::default();
    meters.heartbeat(Answer::Accepted);
    meters.ran("rpo", RunOutcome::Failure, std::time::Duration::from_millis(250));
    meters.posted(&"ops".parse().unwrap(), true);
    meters.assigned();
    meters.replicated(1);
    let text = meters.render(&fleet());
    let described: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| {
            let (name, kind) = line.split_once(' ').unwrap();
            if kind == "counter" {
                format!("{name}_total")
            } else {
                name.to_owned()
            }
        })
        .collect();
    assert_eq!(described.len(), 19, "{described:?}");
    for query in rule_queries().iter().chain(&dashboard_queries()) {
        for metric in metrics(query) {
            assert!(
                described.contains(&metric),
                "{query} asks for {metric}; there are {described:?}"
            );
        }
    }
    let table = std::fs::read_to_string(config().join("README.md")).unwrap();
    for metric in &described {
        assert!(
            table.contains(&format!("`{metric}`")),
            "{metric} is not in the table of config/README.md"
        );
    }
}
