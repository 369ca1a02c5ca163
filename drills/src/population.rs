//! What policy asks for, as the log lists it: each tenant's clusters with the
//! drills that their tiers want.

use std::collections::BTreeMap;

use holdfast_plan::policy::Policy;
use holdfast_proto::names::TenantName;

use crate::evidence::entry::{Due, Member};

/// Every tenant's clusters. Policy and statements name scenarios and levels by
/// the same rules, so that every drill asked for is listed.
pub fn of_policy(policy: &Policy) -> BTreeMap<TenantName, Vec<Member>> {
    let mut tenants: BTreeMap<TenantName, Vec<Member>> = BTreeMap::new();
    for cluster in policy.clusters() {
        let drills = cluster.tier.drills.iter().filter_map(|drill| {
            Some(Due {
                scenario: drill.scenario.to_string().parse().ok()?,
                level: drill.level.to_string().parse().ok()?,
                every_ms: drill.every.millis(),
            })
        });
        tenants
            .entry(cluster.cluster.tenant.clone())
            .or_default()
            .push(Member {
                cluster: cluster.cluster.clone(),
                tier: cluster.tier.name.clone(),
                drills: drills.collect(),
            });
    }
    tenants
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cluster_of_a_policy_is_listed_with_its_drills() {
        let text = "[[cluster]]\ncluster = \"acme/erp\"\ntier = \"gold\"\n\n[[cluster]]\ncluster = \"acme/crm\"\ntier = \"bronze\"\n";
        let policy = Policy::parse(text, "policy.toml").unwrap_or_else(|p| panic!("{p:?}"));
        let tenants = of_policy(&policy);
        let acme = &tenants[&"acme".parse().unwrap()];
        assert_eq!(acme.len(), 2);
        for (member, cluster) in acme.iter().zip(policy.clusters()) {
            assert_eq!(member.cluster, cluster.cluster);
            assert_eq!(member.drills.len(), cluster.tier.drills.len());
        }
        assert!(
            acme.iter()
                .any(|m| m.drills.iter().any(|d| d.every_ms == 7 * 86_400_000))
        );
    }
}
