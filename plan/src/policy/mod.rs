//! Policy: which cluster is kept how well.
//!
//! A policy is a TOML file under version control. It names clusters, gives each
//! a tier and a time zone, and may change or add tiers. Reading it reports
//! everything that is wrong at once, each with its line; what comes out is
//! complete and consistent, so nothing later has to ask whether a tier exists
//! or a schedule can be read.
//!
//! What is not here: applying a policy. See [`crate::schedule`] and
//! [`crate::rpo`].
//!
//! Where to read next: what holds for a cluster at a moment is
//! [`Policy::in_force`], a tier and what the open windows of calendars change.

mod approvals;
mod calendar;
pub mod change;
mod cluster;
mod coverage;
mod in_force;
mod limits;
mod recurrence;
mod residency;
mod retention;
mod route;
mod tier;

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use holdfast_proto::Sha256Digest;
use holdfast_proto::names::{ClusterId, ResidencyName, RouteName, TenantName, TierName};
use holdfast_proto::residency::Residency;

use crate::cron::Zone;
use crate::document::{self, Section};
use crate::shape::Shape;

pub use crate::document::Problem;
pub use approvals::{ApprovalRule, Approvals, Guarded};
pub use calendar::{Calendar, Covers, Edge, Effects, Frozen, Pin, Window};
pub use cluster::{Ambiguous, ClusterPolicy, Pattern, Purpose};
pub use coverage::Coverage;
pub use in_force::{ActiveWindow, InForce, OpenWindows};
pub use limits::Limits;
pub use recurrence::{BadLocalDate, BadLocalTime, BadRecurrence, LocalDate, LocalTime, Recurrence};
pub use residency::ResidencyRefused;
pub use retention::{Generations, Retention};
pub use route::{EnvName, Route, RouteKind};
pub use tier::{BadLevel, BadScenario, Drill, Level, ScenarioName, Tier};

/// A policy that is complete and consistent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    text: Arc<str>,
    digest: Sha256Digest,
    tenants: BTreeMap<TenantName, Tenant>,
    tiers: BTreeMap<TierName, Tier>,
    clusters: BTreeMap<ClusterId, ClusterPolicy>,
    patterns: Vec<Pattern>,
    calendars: Vec<Calendar>,
    residencies: BTreeMap<ResidencyName, Residency>,
    approvals: Approvals,
    routes: BTreeMap<RouteName, Route>,
    limits: Limits,
    coverage: Coverage,
}

/// A legal entity or a team.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its short name.
    pub name: TenantName,
    /// Its name in the world, when the policy says one.
    pub legal_entity: Option<String>,
    /// Where data of its clusters may lie, unless one has a zone of its own.
    pub residency: Option<ResidencyName>,
}

/// Any text; for values that carry no rule of their own.
struct Words(String);

impl FromStr for Words {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "" => Err("must not be empty"),
            text => Ok(Self(text.to_owned())),
        }
    }
}

impl Policy {
    /// Reads a policy. `file` is what problems call it.
    pub fn parse(text: &str, file: &str) -> Result<Policy, Vec<Problem>> {
        document::read(text, file, |root| read_policy(root, text))
    }

    /// What the reader asks for in a file: every key that a policy knows, when the
    /// text has every section.
    pub fn shape(text: &str) -> Shape {
        document::read_with_shape(text, "", |root| read_policy(root, text)).1
    }

    /// The policy as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// SHA-256 of the policy's text.
    pub fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// The policy of a cluster; `None` when no line of the policy names it.
    pub fn cluster(&self, cluster: &ClusterId) -> Option<&ClusterPolicy> {
        self.clusters.get(cluster)
    }

    /// Every cluster that the policy names, in order of names.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterPolicy> {
        self.clusters.values()
    }

    /// A tier by name, shipped ones included.
    pub fn tier(&self, name: &TierName) -> Option<&Tier> {
        self.tiers.get(name)
    }

    /// Every tier, shipped ones included, in order of names.
    pub fn tiers(&self) -> impl Iterator<Item = &Tier> {
        self.tiers.values()
    }

    /// Every tenant that the policy names.
    pub fn tenants(&self) -> impl Iterator<Item = &Tenant> {
        self.tenants.values()
    }
}

fn read_policy(mut root: Section<'_>, text: &str) -> Option<Policy> {
    let residencies = residency::read_residencies(&mut root);
    let tenants = read_tenants(&mut root, &residencies);
    let zone = root.optional::<Zone>("time_zone").unwrap_or(Zone::UTC);
    let tiers = tier::read_tiers(&mut root, Tier::shipped());
    let known = cluster::Known {
        tenants: &tenants,
        tiers: &tiers,
        residencies: &residencies,
        zone,
    };
    let clusters = cluster::read_clusters(&mut root, &known);
    let approvals = approvals::read_approvals(&mut root);
    let known = calendar::Known {
        tenants: &tenants,
        tiers: &tiers,
        clusters: &clusters,
        approvals: &approvals,
    };
    let calendars = calendar::read_calendars(&mut root, zone, &known);
    let routes = route::read_routes(&mut root, &tenants);
    let limits = limits::read_limits(&mut root);
    let coverage = coverage::read_coverage(&mut root);
    root.finish();
    Some(Policy {
        text: text.into(),
        digest: Sha256Digest::of(text.as_bytes()),
        tenants,
        tiers,
        clusters: clusters.named,
        patterns: clusters.patterns,
        calendars,
        residencies,
        approvals,
        routes,
        limits,
        coverage,
    })
}

fn read_tenants(
    root: &mut Section<'_>,
    residencies: &BTreeMap<ResidencyName, Residency>,
) -> BTreeMap<TenantName, Tenant> {
    let mut tenants = BTreeMap::new();
    for mut section in root.list("tenant") {
        let name = section.required::<TenantName>("name", "acme");
        let legal_entity = section.optional::<Words>("legal_entity").map(|words| words.0);
        let residency = residency::read_name(&mut section, residencies);
        if let Some(name) = name {
            let tenant = Tenant {
                name: name.clone(),
                legal_entity,
                residency,
            };
            if tenants.insert(name.clone(), tenant).is_some() {
                section.problem(format!("tenant {name} is named twice: keep one of the two"));
            }
        }
        section.finish();
    }
    tenants
}

#[cfg(test)]
mod tests;
