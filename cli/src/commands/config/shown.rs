//! The values in force, each with where it comes from.
//!
//! The agent's reader keeps that itself. The others are laid out here: a value
//! whose path stands in the file comes from that line, any other from elsewhere.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::Context;
use holdfast_agent::config::{Setting, Source};
use holdfast_coordinator::access::AccessRules;
use holdfast_coordinator::config::CoordinatorConfig;
use holdfast_kubernetes::settings::Settings as KubernetesSettings;
use holdfast_plan::policy::{Policy, Retention, Tier};
use holdfast_repository::config::ReplicaConfig;
use serde::Serialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::operator::OperatorFile;

/// One value in force.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// The path of the key, for example `cluster[0].tier`.
    pub path: String,
    /// The value as text.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A line of a file.
    Line {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
    },
    /// The program.
    Default,
    /// Another setting, by its path.
    From(String),
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}  (", self.path, self.value)?;
        match &self.origin {
            Origin::Line { file, line } => write!(f, "{file}:{line})"),
            Origin::Default => f.write_str("default)"),
            Origin::From(other) => write!(f, "from {other})"),
        }
    }
}

impl Shown {
    /// A setting of an agent.
    pub fn of_setting(setting: &Setting) -> Self {
        Self {
            path: setting.path.clone(),
            value: setting.value.clone(),
            origin: match &setting.source {
                Source::Line(file, line) => Origin::Line {
                    file: file.display().to_string(),
                    line: *line,
                },
                Source::Default => Origin::Default,
            },
        }
    }
}

/// What stands where in a file.
pub struct Lines {
    file: String,
    at: BTreeMap<String, (usize, String)>,
}

impl Lines {
    /// Reads the file at `path`; messages call it `name`.
    pub fn of(path: &Path, name: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{} cannot be read: name an existing file", name.display()))?;
        Ok(Self::parse(&text, &name.display().to_string()))
    }

    fn parse(text: &str, name: &str) -> Self {
        let mut lines = Self {
            file: name.to_owned(),
            at: BTreeMap::new(),
        };
        // What cannot be parsed is said by the file's own reader.
        let (table, _) = DeTable::parse_recoverable(text);
        lines.table(text, "", table.get_ref());
        lines
    }

    fn table(&mut self, text: &str, path: &str, table: &DeTable<'_>) {
        for (key, value) in table.iter() {
            let name = key.get_ref();
            let below = if path.is_empty() {
                name.to_string()
            } else {
                format!("{path}.{name}")
            };
            self.value(text, below, value);
        }
    }

    fn value(&mut self, text: &str, path: String, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(table) => return self.table(text, &path, table),
            DeValue::Array(array) => {
                for (n, item) in array.iter().enumerate() {
                    self.value(text, format!("{path}[{n}]"), item);
                }
                return;
            }
            _ => {}
        }
        let span = value.span();
        let line = text[..span.start].matches('\n').count() + 1;
        let written = match value.get_ref().as_str() {
            Some(words) => words.to_owned(),
            None => text[span].to_owned(),
        };
        self.at.insert(path, (line, written));
    }

    fn origin(&self, path: &str) -> Option<Origin> {
        self.at.get(path).map(|(line, _)| Origin::Line {
            file: self.file.clone(),
            line: *line,
        })
    }

    fn written(&self, path: &str) -> Option<&str> {
        self.at.get(path).map(|(_, written)| written.as_str())
    }
}

/// Lays settings out.
struct Layout<'a> {
    lines: &'a Lines,
    shown: Vec<Shown>,
}

impl<'a> Layout<'a> {
    fn new(lines: &'a Lines) -> Self {
        Self {
            lines,
            shown: Vec::new(),
        }
    }

    fn set(&mut self, path: impl Into<String>, value: impl fmt::Display) {
        self.set_or(path, value, Origin::Default);
    }

    /// A value that comes from `otherwise` when its path does not stand in the file.
    fn set_or(&mut self, path: impl Into<String>, value: impl fmt::Display, otherwise: Origin) {
        let path = path.into();
        self.shown.push(Shown {
            origin: self.lines.origin(&path).unwrap_or(otherwise),
            value: value.to_string(),
            path,
        });
    }

    fn maybe(&mut self, path: &str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.set(path, value);
        }
    }

    /// What is written and has no place among the others: it is in force as it
    /// stands.
    fn written(&mut self) {
        let lines = self.lines;
        for (path, (_, written)) in &lines.at {
            if !self.shown.iter().any(|shown| shown.path == *path) {
                self.set(path.as_str(), written);
            }
        }
    }

    fn replicas(&mut self, replicas: &[ReplicaConfig]) {
        for (n, replica) in replicas.iter().enumerate() {
            let path = format!("repository.replicas[{n}]");
            self.set(format!("{path}.url"), &replica.url);
            self.set(format!("{path}.region"), &replica.region);
            let accepts = replica.accept_without_conditional_create;
            self.set(format!("{path}.accept_without_conditional_create"), accepts);
            self.maybe(&format!("{path}.provider"), replica.provider.as_ref());
            for (name, value) in &replica.options {
                self.set(format!("{path}.options.{name}"), value);
            }
        }
    }
}

/// An operator's configuration.
pub fn operator(file: &OperatorFile, lines: &Lines) -> Vec<Shown> {
    let mut out = Layout::new(lines);
    out.maybe("identity", file.identity.as_ref().map(|p| p.display()));
    out.maybe("coordinator", file.coordinator.as_ref());
    out.maybe(
        "coordinator_ca",
        file.coordinator_ca.as_ref().map(|p| p.display()),
    );
    out.maybe(
        "coordinator_token_file",
        file.coordinator_token_file.as_ref().map(|p| p.display()),
    );
    if let Some(login) = &file.coordinator_oidc {
        out.set("coordinator_oidc.issuer", &login.issuer);
        out.set("coordinator_oidc.client_id", &login.client_id);
        out.set("coordinator_oidc.audience", &login.audience);
        out.maybe("coordinator_oidc.scope", login.scope.as_ref());
        out.maybe("coordinator_oidc.ca", login.ca.as_ref().map(|p| p.display()));
    }
    out.maybe("region", file.region.as_ref());
    out.maybe("provider", file.provider.as_ref());
    out.maybe("policy", file.policy_file.as_ref().map(|p| p.display()));
    out.maybe("repository.trust_root", file.repository.trust_root);
    out.replicas(&file.repository.replicas);
    if let Some(runner) = &file.runner {
        out.set("runner.name", &runner.name);
        out.set("runner.signing_key", runner.signing_key.display());
        out.set("runner.scratch", runner.scratch.display());
        out.maybe("runner.policy", runner.policy.as_ref().map(|p| p.display()));
        for (n, witness) in runner.witnesses.iter().enumerate() {
            out.set(format!("runner.witnesses[{n}]"), witness);
        }
        out.maybe("runner.memory", runner.limits.memory);
        out.maybe("runner.cpu", runner.limits.cpu);
        if let Some(kubernetes) = &runner.kubernetes {
            on_kubernetes(&mut out, kubernetes);
        }
    }
    out.shown
}

/// A coordinator's configuration, without the policy.
pub fn coordinator(config: &CoordinatorConfig, lines: &Lines) -> Vec<Shown> {
    let mut out = Layout::new(lines);
    out.set("name", &config.name);
    out.set("listen_agents", config.listen_agents);
    out.set("listen_http", config.listen_http);
    if let Some(files) = &config.http_tls {
        out.set("http_tls.cert", files.cert.display());
        out.set("http_tls.key", files.key.display());
    }
    let plain = "accept_plain_http_beyond_loopback";
    let accepts = lines.written(plain).unwrap_or("false").to_owned();
    out.set(plain, accepts);
    out.set("state_dir", config.state_dir.display());
    out.set("policy", config.policy_file.display());
    out.set("signing_key", config.signing_key.display());
    out.maybe("log_key", config.log_key.as_ref().map(|p| p.display()));
    out.set("replicate_after", config.replicate_after);
    out.set("lease", config.lease);
    out.maybe("runbooks", config.runbooks.as_ref());
    out.set("tls.cert", config.tls.cert.display());
    out.set("tls.key", config.tls.key.display());
    out.set("tls.client_ca", config.tls.client_ca.display());
    for (n, ended) in config.tls.ended.iter().enumerate() {
        out.set(format!("tls.ended[{n}].agent"), &ended.agent);
        out.set(format!("tls.ended[{n}].before"), ended.before);
    }
    if let Some(enrolment) = &config.enrolment {
        out.set("enrolment.cert", enrolment.cert.display());
        out.set("enrolment.key", enrolment.key.display());
        out.set("enrolment.lifetime", enrolment.lifetime);
    }
    if let Some(access) = &config.access {
        access_of(&mut out, access);
    }
    out.set("repository.trust_root", config.trust_root);
    out.replicas(&config.repository.replicas);
    out.written();
    out.shown
}

/// Who may read what, but the tokens: they are shown as they are written.
fn access_of(out: &mut Layout<'_>, access: &AccessRules) {
    out.maybe("access.public_url", access.public_url.as_ref());
    out.set("access.open_metrics", access.open_metrics);
    out.set("access.session_idle", access.lasting.idle);
    out.set("access.session_longest", access.lasting.longest);
    if let Some(oidc) = &access.oidc {
        out.set("access.oidc.issuer", &oidc.issuer);
        out.set("access.oidc.client_id", &oidc.client_id);
        out.maybe("access.oidc.audience", oidc.audience.as_ref());
        out.set("access.oidc.groups_claim", &oidc.groups_claim);
        for (n, scope) in oidc.scopes.iter().enumerate() {
            out.set(format!("access.oidc.scopes[{n}]"), scope);
        }
        out.maybe("access.oidc.ca", oidc.ca.as_ref().map(|p| p.display()));
    }
    for (n, grant) in access.grants.iter().enumerate() {
        out.set(format!("access.grant[{n}].to"), &grant.to);
        out.set(format!("access.grant[{n}].role"), grant.role);
        for (m, scope) in grant.scope.iter().enumerate() {
            out.set(format!("access.grant[{n}].scope[{m}]"), scope);
        }
        out.maybe(&format!("access.grant[{n}].until"), grant.until);
    }
}

/// A policy: tiers with what each began with, clusters with what they take from
/// their tier.
pub fn policy(policy: &Policy, lines: &Lines) -> Vec<Shown> {
    let mut out = Layout::new(lines);
    let zone = lines.written("time_zone").unwrap_or("UTC").to_owned();
    out.set("time_zone", zone);
    for n in 0.. {
        let (name, entity) = (format!("tenant[{n}].name"), format!("tenant[{n}].legal_entity"));
        let Some(written) = lines.written(&name) else {
            break;
        };
        out.set(name.as_str(), written);
        out.maybe(&entity, lines.written(&entity));
    }
    for tier in policy.tiers() {
        tier_of(&mut out, tier, lines);
    }
    for n in 0..policy.clusters().count() + policy.patterns().count() {
        let path = format!("cluster[{n}]");
        let named = lines.written(&format!("{path}.cluster"));
        // A pattern shows what is written of it, below.
        let Some(cluster) = named
            .and_then(|name| name.parse().ok())
            .and_then(|id| policy.cluster(&id))
        else {
            continue;
        };
        let tier = &cluster.tier;
        out.set(format!("{path}.cluster"), &cluster.cluster);
        out.set(format!("{path}.tier"), &tier.name);
        let whole = lines.origin("time_zone").map(|_| "time_zone".to_owned());
        let otherwise = whole.map_or(Origin::Default, Origin::From);
        out.set_or(format!("{path}.time_zone"), cluster.zone, otherwise);
        for (key, cron) in [
            ("base_backup", &tier.base_backup),
            ("filestore_checkpoint", &tier.filestore_checkpoint),
            ("configuration", &tier.configuration),
        ] {
            let otherwise = Origin::From(format!("tiers.{}.{key}", tier.name));
            out.set_or(format!("{path}.schedule.{key}"), cron.as_str(), otherwise);
        }
        retention_of(&mut out, &path, &tier.retention, |key| {
            Origin::From(format!("tiers.{}.retention.{key}", tier.name))
        });
    }
    out.written();
    out.shown
}

fn retention_of(out: &mut Layout<'_>, path: &str, retention: &Retention, otherwise: impl Fn(&str) -> Origin) {
    let mut set = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            out.set_or(format!("{path}.retention.{key}"), value, otherwise(key));
        }
    };
    set("backups", retention.backups.map(|n| n.to_string()));
    set("window", retention.window.map(|window| window.to_string()));
    for (key, n) in retention.generations.named() {
        set(key, (n > 0).then(|| n.to_string()));
    }
}

fn tier_of(out: &mut Layout<'_>, tier: &Tier, lines: &Lines) {
    let path = format!("tiers.{}", tier.name);
    let like = lines.written(&format!("{path}.like")).map(str::to_owned);
    let mut set = |key: &str, value: &dyn fmt::Display| {
        let otherwise = match &like {
            Some(other) => Origin::From(format!("tiers.{other}.{key}")),
            None => Origin::Default,
        };
        out.set_or(format!("{path}.{key}"), value, otherwise);
    };
    set("purpose", &tier.purpose);
    set("rpo", &tier.rpo);
    set("rto", &tier.rto);
    set("tip_interval", &tier.tip_interval);
    set("copies", &tier.copies);
    set("copies_before_ack", &tier.copies_before_ack);
    set("base_backup", &tier.base_backup.as_str());
    set("replay_share", &tier.replay_share);
    set("fence_interval", &tier.fence_interval);
    set("filestore_checkpoint", &tier.filestore_checkpoint.as_str());
    set("configuration", &tier.configuration.as_str());
    set("attest_interval", &tier.attest_interval);
    retention_of(out, &path, &tier.retention, |key| match &like {
        Some(other) => Origin::From(format!("tiers.{other}.retention.{key}")),
        None => Origin::Default,
    });
    let mut set = |key: &str, value: &dyn fmt::Display| {
        let otherwise = match &like {
            Some(other) => Origin::From(format!("tiers.{other}.{key}")),
            None => Origin::Default,
        };
        out.set_or(format!("{path}.{key}"), value, otherwise);
    };
    for (n, drill) in tier.drills.iter().enumerate() {
        set(&format!("drill[{n}].scenario"), &drill.scenario);
        set(&format!("drill[{n}].level"), &drill.level);
        set(&format!("drill[{n}].every"), &drill.every);
    }
}

/// What an agent does not start without.
pub fn named_by_agent(path: &str) -> bool {
    let filestore = path.strip_prefix("cluster[").is_some_and(|rest| {
        rest.split_once("].filestore[")
            .is_some_and(|(_, rest)| rest.ends_with("].path"))
    });
    filestore
        || matches!(
            path,
            "signing_key" | "coordinator.ca" | "coordinator.cert" | "coordinator.key"
        )
}

/// What a coordinator does not start without.
pub fn named_by_coordinator(path: &str) -> bool {
    matches!(
        path,
        "signing_key"
            | "log_key"
            | "tls.cert"
            | "tls.key"
            | "tls.client_ca"
            | "http_tls.cert"
            | "http_tls.key"
            | "enrolment.cert"
            | "enrolment.key"
    )
}

/// What an operator's commands need.
pub fn named_by_operator(path: &str) -> bool {
    matches!(
        path,
        "identity" | "coordinator_ca" | "policy" | "runner.signing_key" | "runner.policy"
    )
}

fn on_kubernetes(out: &mut Layout<'_>, settings: &KubernetesSettings) {
    let s = settings;
    out.maybe(
        "runner.kubernetes.kubeconfig",
        s.kubeconfig.as_ref().map(|p| p.display()),
    );
    out.set("runner.kubernetes.namespace_prefix", &s.prefix);
    out.set("runner.kubernetes.image", &s.image);
    out.set("runner.kubernetes.pull", s.pull);
    out.set("runner.kubernetes.program", &s.program);
    out.set("runner.kubernetes.user", s.user);
    out.set("runner.kubernetes.memory", s.memory);
    out.set("runner.kubernetes.cpu", s.cpu);
    out.set("runner.kubernetes.scratch", s.scratch);
    for (n, reach) in s.reach.iter().enumerate() {
        out.set(
            format!("runner.kubernetes.reach[{n}]"),
            format!("{}:{}", reach.cidr, reach.port),
        );
    }
    out.set("runner.kubernetes.dns", s.dns);
    for (n, closed) in s.closed.iter().enumerate() {
        out.set(format!("runner.kubernetes.closed[{n}]"), closed);
    }
    out.set("runner.kubernetes.start", format!("{}s", s.start.as_secs()));
    out.set("runner.kubernetes.grace", format!("{}s", s.grace.as_secs()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_from_its_line_or_from_elsewhere() {
        let text = "time_zone = \"Europe/Vienna\"\n[tiers.gold]\nrpo = \"45s\"\n[tiers.lab]\nlike = \"bronze\"\ncopies = 2\n\
                    [[cluster]]\ncluster = \"acme/erp\"\ntier = \"gold\"\n[cluster.schedule]\nbase_backup = \"30 3 * * 1-5\"\n";
        let lines = Lines::parse(text, "p.toml");
        let shown = policy(&Policy::parse(text, "p.toml").unwrap(), &lines);
        let said: Vec<String> = shown.iter().map(ToString::to_string).collect();
        for expect in [
            "time_zone = Europe/Vienna  (p.toml:1)",
            "tiers.gold.rpo = 45s  (p.toml:3)",
            "tiers.gold.rto = 1h  (default)",
            "tiers.lab.copies = 2  (p.toml:6)",
            "tiers.lab.rpo = 24h  (from tiers.bronze.rpo)",
            "cluster[0].tier = gold  (p.toml:9)",
            "cluster[0].time_zone = Europe/Vienna  (from time_zone)",
            "cluster[0].schedule.base_backup = 30 3 * * 1-5  (p.toml:11)",
            "cluster[0].schedule.configuration = 15 0 * * *  (from tiers.gold.configuration)",
        ] {
            assert!(
                said.contains(&expect.to_owned()),
                "{expect}\n  is not in {said:#?}"
            );
        }
    }

    #[test]
    fn what_a_daemon_needs_is_known() {
        assert!(named_by_agent("cluster[1].filestore[0].path"));
        assert!(!named_by_agent("cluster[1].filestore[0].name"));
        assert!(named_by_agent("signing_key") && !named_by_agent("state_dir"));
    }
}
