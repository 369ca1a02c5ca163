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

mod tier;

use std::collections::BTreeMap;
use std::str::FromStr;

use holdfast_proto::Sha256Digest;
use holdfast_proto::message::{Directives, Work};
use holdfast_proto::names::{ClusterId, TenantName, TierName};

use crate::cron::{Cron, Zone};
use crate::document::{self, At, Section};

pub use crate::document::Problem;
pub use tier::{BadLevel, BadScenario, Drill, Level, ScenarioName, Tier};

/// A policy that is complete and consistent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    digest: Sha256Digest,
    tenants: BTreeMap<TenantName, Tenant>,
    tiers: BTreeMap<TierName, Tier>,
    clusters: BTreeMap<ClusterId, ClusterPolicy>,
}

/// A legal entity or a team.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its short name.
    pub name: TenantName,
    /// Its name in the world, when the policy says one.
    pub legal_entity: Option<String>,
}

/// What policy asks for one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPolicy {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its tier, with this cluster's own schedules put in.
    pub tier: Tier,
    /// The zone in which its schedules are read.
    pub zone: Zone,
}

impl ClusterPolicy {
    /// When a kind of work is due by the calendar.
    pub fn schedule(&self, work: Work) -> &Cron {
        match work {
            Work::BaseBackup => &self.tier.base_backup,
            Work::FilestoreCheckpoint => &self.tier.filestore_checkpoint,
            Work::Configuration => &self.tier.configuration,
        }
    }
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
        document::read(text, file, |root| {
            read_policy(root, Sha256Digest::of(text.as_bytes()))
        })
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

    /// The numbers that a cluster's agent works by.
    pub fn directives(&self, cluster: &ClusterId) -> Option<Directives> {
        let tier = &self.cluster(cluster)?.tier;
        Some(Directives {
            cluster: cluster.clone(),
            tier: tier.name.clone(),
            tip_interval_ms: tier.tip_interval.millis(),
            copies: tier.copies_before_ack,
            fence_interval_ms: tier.fence_interval.millis(),
            attest_interval_ms: tier.attest_interval.millis(),
            policy: self.digest.to_string(),
        })
    }
}

fn read_policy(mut root: Section<'_>, digest: Sha256Digest) -> Option<Policy> {
    let tenants = read_tenants(&mut root);
    let zone = root.optional::<Zone>("time_zone").unwrap_or(Zone::UTC);
    let tiers = tier::read_tiers(&mut root, Tier::shipped());
    let mut clusters = BTreeMap::new();
    for mut section in root.list("cluster") {
        let read = read_cluster(&mut section, &tenants, &tiers, zone);
        if let Some((cluster, at)) = read {
            match clusters.entry(cluster.cluster.clone()) {
                std::collections::btree_map::Entry::Vacant(free) => {
                    free.insert(cluster);
                }
                std::collections::btree_map::Entry::Occupied(_) => {
                    section.problem_at(
                        &at,
                        format!("{} is named twice: keep one of the two", cluster.cluster),
                    );
                }
            }
        }
        section.finish();
    }
    root.finish();
    Some(Policy {
        digest,
        tenants,
        tiers,
        clusters,
    })
}

fn read_tenants(root: &mut Section<'_>) -> BTreeMap<TenantName, Tenant> {
    let mut tenants = BTreeMap::new();
    for mut section in root.list("tenant") {
        let name = section.required::<TenantName>("name", "acme");
        let legal_entity = section.optional::<Words>("legal_entity").map(|words| words.0);
        if let Some(name) = name
            && tenants
                .insert(
                    name.clone(),
                    Tenant {
                        name: name.clone(),
                        legal_entity,
                    },
                )
                .is_some()
        {
            section.problem(format!("tenant {name} is named twice: keep one of the two"));
        }
        section.finish();
    }
    tenants
}

fn read_cluster(
    section: &mut Section<'_>,
    tenants: &BTreeMap<TenantName, Tenant>,
    tiers: &BTreeMap<TierName, Tier>,
    zone: Zone,
) -> Option<(ClusterPolicy, At)> {
    let cluster = section.optional_at::<ClusterId>("cluster");
    if cluster.is_none() {
        section.problem("needs `cluster = \"TENANT/NAME\"`");
    }
    let tier = section.optional_at::<TierName>("tier");
    if tier.is_none() {
        section.problem("needs `tier = \"platinum\"`, gold, silver, bronze or a tier of your own");
    }
    let zone = section.optional::<Zone>("time_zone").unwrap_or(zone);
    let schedule = section.section("schedule").map(|mut schedule| {
        let read = (
            schedule.optional::<Cron>("base_backup"),
            schedule.optional::<Cron>("filestore_checkpoint"),
            schedule.optional::<Cron>("configuration"),
        );
        schedule.finish();
        read
    });
    let (cluster, at) = cluster?;
    if !tenants.is_empty() && !tenants.contains_key(&cluster.tenant) {
        section.problem_at(
            &at,
            format!(
                "tenant {} has no [[tenant]] entry: add one or correct the name",
                cluster.tenant
            ),
        );
    }
    let (tier, tier_at) = tier?;
    let Some(tier) = tiers.get(&tier) else {
        let known = tiers.keys().map(TierName::as_str).collect::<Vec<_>>().join(", ");
        section.problem_at(&tier_at, format!("there is no tier {tier}: known are {known}"));
        return None;
    };
    let mut tier = tier.clone();
    if let Some((base, checkpoint, configuration)) = schedule {
        tier.base_backup = base.unwrap_or(tier.base_backup);
        tier.filestore_checkpoint = checkpoint.unwrap_or(tier.filestore_checkpoint);
        tier.configuration = configuration.unwrap_or(tier.configuration);
    }
    Some((ClusterPolicy { cluster, tier, zone }, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        Policy::parse(text, "policy.toml")
            .err()
            .unwrap_or_default()
            .iter()
            .map(Problem::to_string)
            .collect()
    }

    #[test]
    fn the_shipped_tiers_are_those_that_the_product_promises() {
        let tiers = Tier::shipped();
        let names: Vec<_> = tiers.keys().map(TierName::as_str).collect();
        assert_eq!(names, ["bronze", "gold", "platinum", "silver"]);
        let check = |name: &str, rpo: &str, rto: &str, tip: &str, copies: (u32, u32), drills: &[&str]| {
            let tier = &tiers[&name.parse::<TierName>().unwrap()];
            assert_eq!(tier.rpo.to_string(), rpo);
            assert_eq!(tier.rto.to_string(), rto);
            assert_eq!(tier.tip_interval.to_string(), tip);
            assert_eq!((tier.copies, tier.copies_before_ack), copies);
            let found: Vec<_> = tier
                .drills
                .iter()
                .map(|d| format!("{} {} {}", d.scenario, d.level, d.every))
                .collect();
            assert_eq!(found, drills);
        };
        check(
            "platinum",
            "15s",
            "30min",
            "5s",
            (2, 2),
            &["accidental-deletion L3 7d"],
        );
        check(
            "gold",
            "1min",
            "1h",
            "15s",
            (2, 1),
            &["accidental-deletion L3 7d"],
        );
        check(
            "silver",
            "15min",
            "4h",
            "5min",
            (2, 1),
            &["accidental-deletion L3 31d"],
        );
        check(
            "bronze",
            "24h",
            "24h",
            "12h",
            (1, 1),
            &["accidental-deletion L3 92d"],
        );
    }

    #[test]
    fn clusters_get_their_tier_with_their_own_schedules() {
        let text = r#"
            time_zone = "Europe/Berlin"
            [[tenant]]
            name = "acme"
            legal_entity = "Acme Bau GmbH"
            [tiers.gold]
            rpo = "30s"
            [tiers.lab]
            like = "bronze"
            base_backup = "0 12 * * *"
            [[cluster]]
            cluster = "acme/erp"
            tier = "gold"
            [cluster.schedule]
            base_backup = "0 22 * * 1-5"
            [[cluster]]
            cluster = "acme/lab"
            tier = "lab"
            time_zone = "America/Chicago"
        "#;
        let policy = Policy::parse(text, "p").unwrap();
        let erp = policy.cluster(&"acme/erp".parse().unwrap()).unwrap();
        assert_eq!(erp.tier.rpo.to_string(), "30s");
        assert_eq!(erp.schedule(Work::BaseBackup).as_str(), "0 22 * * 1-5");
        assert_eq!(erp.schedule(Work::Configuration).as_str(), "15 0 * * *");
        assert_eq!(erp.zone.to_string(), "Europe/Berlin");
        let lab = policy.cluster(&"acme/lab".parse().unwrap()).unwrap();
        assert_eq!(lab.tier.name.as_str(), "lab");
        assert_eq!(lab.tier.rpo.to_string(), "24h");
        assert_eq!(lab.schedule(Work::BaseBackup).as_str(), "0 12 * * *");
        assert_eq!(lab.zone.to_string(), "America/Chicago");
        let orders = policy.directives(&"acme/erp".parse().unwrap()).unwrap();
        assert_eq!((orders.tip_interval_ms, orders.copies), (15_000, 1));
        assert_eq!(orders.policy, policy.digest().to_string());
        assert!(policy.directives(&"acme/other".parse().unwrap()).is_none());
    }

    #[test]
    fn everything_wrong_is_said_at_once_with_its_line() {
        let found = lines(
            r#"[[tenant]]
name = "acme"
[tiers.gold]
rpo = "5s"
copies_before_ack = 3
[tiers.lab]
rpo = "1h"
[[cluster]]
cluster = "acme/erp"
tier = "golden"
[[cluster]]
cluster = "other/erp"
tier = "gold"
time_zone = "Berlin"
[cluster.schedule]
base = "0 1 * * *"
base_backup = "@daily"
[[cluster]]
cluster = "acme/erp"
tier = "gold"
[[cluster]]
cluster = "acme/erp"
tier = "gold"
retention = "7d"
"#,
        );
        let expect = [
            "policy.toml:3:1: tiers.gold: copies_before_ack is 3",
            "policy.toml:3:1: tiers.gold: tip_interval of 15s is longer than rpo",
            "policy.toml:3:1: tiers.gold: attest_interval of 20s is longer than rpo",
            "policy.toml:6:1: tiers.lab.rto: is missing",
            "policy.toml:10:8: cluster[0].tier: there is no tier golden",
            "policy.toml:12:11: cluster[1].cluster: tenant other has no [[tenant]]",
            "policy.toml:14:13: cluster[1].time_zone: \"Berlin\" is not a time zone",
            "policy.toml:16:1: cluster[1].schedule.base: is not a known key",
            "policy.toml:17:15: cluster[1].schedule.base_backup: \"@daily\" has 1 fields",
            "policy.toml:22:11: cluster[3].cluster: acme/erp is named twice",
            "policy.toml:24:1: cluster[3].retention: is not a known key",
        ];
        for expect in expect {
            assert!(
                found.iter().any(|f| f.starts_with(expect)),
                "{expect}\n  is not in {found:#?}"
            );
        }
    }

    #[test]
    fn an_empty_policy_names_no_cluster() {
        let policy = Policy::parse("", "p").unwrap();
        assert_eq!(policy.clusters().count(), 0);
        assert_eq!(policy.tiers().count(), 4);
    }
}
