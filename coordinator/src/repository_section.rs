//! `[repository]` as every program but the agent reads it: where the replicas lie,
//! and from where everything is believed.

use std::collections::BTreeMap;

use holdfast_plan::document::Section;
use holdfast_proto::Fingerprint;
use holdfast_proto::names::{ProviderName, Region};
use holdfast_repository::RepositoryConfig;
use holdfast_repository::config::ReplicaConfig;

/// Reads `[repository]`; `None` when something in it is wrong, which is then said.
pub fn read_repository(root: &mut Section<'_>) -> Option<RepositoryConfig> {
    let Some(mut section) = root.section("repository") else {
        root.problem("needs a [repository] section with trust_root and replicas");
        return None;
    };
    let trust_root = section.optional::<Fingerprint>("trust_root");
    let replicas: Vec<Option<ReplicaConfig>> =
        section.list("replicas").into_iter().map(read_replica).collect();
    let config = replicas
        .into_iter()
        .collect::<Option<Vec<_>>>()
        .map(|replicas| RepositoryConfig { replicas, trust_root });
    for problem in config.iter().flat_map(RepositoryConfig::problems) {
        section.problem(problem.to_string());
    }
    section.finish();
    config
}

fn read_replica(mut section: Section<'_>) -> Option<ReplicaConfig> {
    let url = section.required::<String>("url", "file:///srv/backup-a");
    let region = section.required::<Region>("region", "eu-1");
    let options = section.pairs::<String, String>("options").unwrap_or_default();
    let accepts = section.optional_bool("accept_without_conditional_create");
    let provider = section.optional::<ProviderName>("provider");
    section.finish();
    Some(ReplicaConfig {
        url: url?,
        region: region?,
        options: options.into_iter().collect::<BTreeMap<_, _>>(),
        accept_without_conditional_create: accepts.unwrap_or(false),
        provider,
    })
}
