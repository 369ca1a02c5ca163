//! Residency: in which regions, and with whom, data of a cluster may be.
//!
//! A tenant has a residency zone, and a cluster may have one of its own. Where
//! neither has one, policy leaves the place open. The check itself is
//! [`holdfast_proto::residency::Residency::admits`]; it is made before a
//! repository is bound, before something is copied, before a drill is placed and
//! before something is exported.

use std::collections::BTreeMap;

use holdfast_proto::names::{ClusterId, ProviderName, Region, ResidencyName, TenantName};
use holdfast_proto::residency::{Outside, Place, Residency, Use};

use super::Policy;
use crate::document::Section;

/// A cluster's data in a place where it may not be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cluster}: {outside}")]
pub struct ResidencyRefused {
    /// Whose data.
    pub cluster: ClusterId,
    /// Where, and why not.
    pub outside: Box<Outside>,
}

impl Policy {
    /// Every residency zone, in order of names.
    pub fn residencies(&self) -> impl Iterator<Item = &Residency> {
        self.residencies.values()
    }

    /// The residency zone of a cluster: its own, else its tenant's. A cluster
    /// that the policy does not name has its tenant's as well.
    pub fn residency(&self, cluster: &ClusterId) -> Option<&Residency> {
        match self.cluster(cluster).and_then(|c| c.residency.as_ref()) {
            Some(own) => self.residencies.get(own),
            None => self.tenant_residency(&cluster.tenant),
        }
    }

    /// The residency zone of a tenant.
    pub fn tenant_residency(&self, tenant: &TenantName) -> Option<&Residency> {
        let name = self.tenants.get(tenant)?.residency.as_ref()?;
        self.residencies.get(name)
    }

    /// Whether data of a cluster may be somewhere.
    pub fn admit(&self, cluster: &ClusterId, purpose: Use, place: &Place) -> Result<(), ResidencyRefused> {
        let Some(residency) = self.residency(cluster) else {
            return Ok(());
        };
        residency
            .admits(purpose, place)
            .map_err(|outside| ResidencyRefused {
                cluster: cluster.clone(),
                outside: Box::new(outside),
            })
    }

    /// Everything that forbids the clusters of the policy to be in `places`.
    pub fn refusals(&self, purpose: Use, places: &[Place]) -> Vec<ResidencyRefused> {
        self.clusters()
            .flat_map(|cluster| places.iter().map(|place| (&cluster.cluster, place)))
            .filter_map(|(cluster, place)| self.admit(cluster, purpose, place).err())
            .collect()
    }
}

/// Reads every `[[residency]]`.
pub(super) fn read_residencies(root: &mut Section<'_>) -> BTreeMap<ResidencyName, Residency> {
    let mut residencies = BTreeMap::new();
    for mut section in root.list("residency") {
        let name = section.required::<ResidencyName>("name", "eu");
        let regions = section.texts::<Region>("regions");
        let providers = section.texts::<ProviderName>("providers");
        if regions.as_ref().is_none_or(Vec::is_empty) {
            section.problem("allows no region: write regions = [\"eu-west\"]");
        }
        if providers.as_ref().is_some_and(Vec::is_empty) {
            section.problem("providers is empty: name those that are allowed, or leave it out to allow any");
        }
        if let Some(name) = name {
            let residency = Residency {
                name: name.clone(),
                regions: regions.unwrap_or_default().into_iter().collect(),
                providers: providers.unwrap_or_default().into_iter().collect(),
            };
            if residencies.insert(name.clone(), residency).is_some() {
                section.problem(format!(
                    "residency zone {name} is named twice: keep one of the two"
                ));
            }
        }
        section.finish();
    }
    residencies
}

/// Reads `residency = "NAME"`, which must be one of those that there are.
pub(super) fn read_name(
    section: &mut Section<'_>,
    known: &BTreeMap<ResidencyName, Residency>,
) -> Option<ResidencyName> {
    let (name, at) = section.optional_at::<ResidencyName>("residency")?;
    if known.contains_key(&name) {
        return Some(name);
    }
    let known: Vec<&str> = known.keys().map(ResidencyName::as_str).collect();
    section.problem_at(
        &at,
        if known.is_empty() {
            format!("there is no residency zone {name}: add a [[residency]]")
        } else {
            format!(
                "there is no residency zone {name}: known are {}",
                known.join(", ")
            )
        },
    );
    None
}
