//! Every example under `config/` is one that works.

use std::path::Path;

use holdfast_coordinator::config::CoordinatorConfig;
use holdfast_plan::policy::Policy;

fn config(name: &str) -> (String, String) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name);
    (
        std::fs::read_to_string(&file).unwrap(),
        file.display().to_string(),
    )
}

#[test]
fn the_policy() {
    let (text, file) = config("policy.toml");
    let policy = Policy::parse(&text, &file).unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert_eq!(policy.clusters().count(), 3);
    let (text, file) = config("tiers.toml");
    let tiers = Policy::parse(&text, &file).unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert!(
        tiers.tiers().eq(Policy::parse("", "empty").unwrap().tiers()),
        "shipped tiers are those of the file"
    );
}

#[test]
fn the_coordinator() {
    let (text, file) = config("coordinator.toml");
    // The example takes its secrets from the environment, which a test has not.
    let text = text
        .lines()
        .filter(|line| !line.contains("_env"))
        .collect::<Vec<_>>()
        .join("\n");
    let read = CoordinatorConfig::parse(&text, &file, Path::new("/etc/holdfast"));
    let read = read.unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert_eq!(read.repository.replicas.len(), 2);
}
