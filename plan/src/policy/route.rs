//! Alert routes: who hears of which findings.
//!
//! A route names an address by the environment variable that holds it, because
//! the address of a webhook is a secret. Sending is not here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use holdfast_proto::finding::Severity;
use holdfast_proto::names::{RouteName, TenantName};

use super::{Policy, Tenant};
use crate::document::Section;

/// How an alert is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// Our own JSON.
    Generic,
    /// Alertmanager's `/api/v2/alerts`.
    Alertmanager,
    /// Slack's incoming webhook.
    Slack,
}

impl FromStr for RouteKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "generic" => Ok(Self::Generic),
            "alertmanager" => Ok(Self::Alertmanager),
            "slack" => Ok(Self::Slack),
            _ => Err(format!(
                "{text:?} is not a kind of route: write generic, alertmanager or slack"
            )),
        }
    }
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            RouteKind::Generic => "generic",
            RouteKind::Alertmanager => "alertmanager",
            RouteKind::Slack => "slack",
        })
    }
}

/// Where some findings are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its name.
    pub name: RouteName,
    /// How it is written to.
    pub kind: RouteKind,
    /// The environment variable that holds its address.
    pub url_env: EnvName,
    /// The least severity that is sent.
    pub severity: Severity,
    /// Whose findings; empty: everyone's, and those of the fleet.
    pub tenants: BTreeSet<TenantName>,
}

impl Route {
    /// Whether a finding of a tenant (`None`: of the fleet) goes this way.
    pub fn takes(&self, tenant: Option<&TenantName>, severity: Severity) -> bool {
        let ours = self.tenants.is_empty() || tenant.is_some_and(|tenant| self.tenants.contains(tenant));
        ours && severity >= self.severity
    }
}

/// The name of an environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvName(String);

impl EnvName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EnvName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for EnvName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
        let good = !text.is_empty() && text.bytes().all(plain) && !text.as_bytes()[0].is_ascii_digit();
        // An address that stands here by mistake is not repeated.
        good.then(|| Self(text.to_owned())).ok_or_else(|| {
            "must be the name of an environment variable that holds the address, for example \"HOLDFAST_OPS_WEBHOOK\""
                .to_owned()
        })
    }
}

/// A word for how much a finding matters.
struct SeverityWord(Severity);

impl FromStr for SeverityWord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "info" => Ok(Self(Severity::Info)),
            "warning" => Ok(Self(Severity::Warning)),
            "critical" => Ok(Self(Severity::Critical)),
            _ => Err(format!(
                "{text:?} is not a severity: write info, warning or critical"
            )),
        }
    }
}

impl Policy {
    /// Every alert route, in order of names.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.values()
    }
}

/// Reads every `[[route]]`.
pub(super) fn read_routes(
    root: &mut Section<'_>,
    tenants: &BTreeMap<TenantName, Tenant>,
) -> BTreeMap<RouteName, Route> {
    let mut routes = BTreeMap::new();
    for mut section in root.list("route") {
        let name = section.required::<RouteName>("name", "ops");
        let kind = section.required::<RouteKind>("kind", "slack");
        let url_env = section.required::<EnvName>("url_env", "HOLDFAST_OPS_WEBHOOK");
        let severity = section.optional::<SeverityWord>("severity");
        let whose = section.texts::<TenantName>("tenants").unwrap_or_default();
        for tenant in whose.iter().filter(|tenant| !tenants.contains_key(tenant)) {
            section.problem(format!("tenants names {tenant}, which has no [[tenant]] entry"));
        }
        if let (Some(name), Some(kind), Some(url_env)) = (name, kind, url_env) {
            let route = Route {
                name: name.clone(),
                kind,
                url_env,
                severity: severity.map_or(Severity::Warning, |word| word.0),
                tenants: whose.into_iter().collect(),
            };
            if routes.insert(name.clone(), route).is_some() {
                section.problem(format!("route {name} is named twice: keep one of the two"));
            }
        }
        section.finish();
    }
    routes
}
