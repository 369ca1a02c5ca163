//! Where data may be, asked before a command puts any somewhere.
//!
//! The rule stands in the policy that the operator's configuration names. Without
//! a policy nothing is refused: a restore in need must not wait for one.

use holdfast_plan::policy::Policy;
use holdfast_proto::names::{ClusterId, ProviderName, Region, TenantName};
use holdfast_proto::residency::{Place, Use};

use crate::commands::config;
use crate::exit::Failure;
use crate::operator::{Operator, OperatorFile};

/// Where an export goes, when it does not stay on this machine.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Destination {
    /// The region that the export goes to; without it, this machine's.
    #[arg(long, value_name = "REGION")]
    to_region: Option<Region>,
    /// Who runs the place that it goes to.
    #[arg(long, value_name = "PROVIDER", requires = "to_region")]
    to_provider: Option<ProviderName>,
}

impl Destination {
    fn place(&self, here: &OperatorFile) -> Place {
        match &self.to_region {
            Some(region) => Place {
                region: Some(region.clone()),
                provider: self.to_provider.clone(),
            },
            None => here.place(),
        }
    }
}

impl OperatorFile {
    /// Where this machine is.
    pub fn place(&self) -> Place {
        Place {
            region: self.region.clone(),
            provider: self.provider.clone(),
        }
    }

    /// The policy that it names, if any.
    pub fn policy(&self) -> anyhow::Result<Option<Policy>> {
        let runner = self.runner.as_ref().and_then(|runner| runner.policy.as_ref());
        let file = self.policy_file.as_ref().or(runner);
        file.map(|file| config::policy(file)).transpose()
    }
}

impl Operator {
    /// Refuses replicas in which data of any cluster of the policy may not be.
    pub fn admit_repository(&self) -> anyhow::Result<()> {
        let Some(policy) = self.file.policy()? else {
            return Ok(());
        };
        let refused = policy.refusals(Use::Bind, &self.file.repository.places());
        refuse(refused.iter().map(ToString::to_string).collect())
    }

    /// Refuses replicas between which a cluster's data may not be copied.
    pub fn admit_replication(&self, cluster: &ClusterId) -> anyhow::Result<()> {
        self.admit(cluster, Use::Replicate, &self.file.repository.places())
    }

    /// Refuses a drill of a cluster on this machine.
    pub fn admit_drill(&self, cluster: &ClusterId) -> anyhow::Result<()> {
        self.admit(cluster, Use::Drill, &[self.file.place()])
    }

    /// Refuses to let data or evidence of a cluster out to a place.
    pub fn admit_export(&self, cluster: &ClusterId, to: &Destination) -> anyhow::Result<()> {
        self.admit(cluster, Use::Export, &[to.place(&self.file)])
    }

    /// Refuses to let evidence of all clusters of a tenant out to a place.
    pub fn admit_export_of(&self, tenant: &TenantName, to: &Destination) -> anyhow::Result<()> {
        let Some(policy) = self.file.policy()? else {
            return Ok(());
        };
        let place = to.place(&self.file);
        let mut refused: Vec<String> = policy
            .tenant_residency(tenant)
            .and_then(|zone| zone.admits(Use::Export, &place).err())
            .map(|outside| format!("{tenant}: {outside}"))
            .into_iter()
            .collect();
        let clusters = policy.clusters().filter(|c| c.cluster.tenant == *tenant);
        refused.extend(clusters.filter_map(|c| {
            let refused = policy.admit(&c.cluster, Use::Export, &place).err()?;
            Some(refused.to_string())
        }));
        refuse(refused)
    }

    fn admit(&self, cluster: &ClusterId, purpose: Use, places: &[Place]) -> anyhow::Result<()> {
        let Some(policy) = self.file.policy()? else {
            return Ok(());
        };
        let refused = places
            .iter()
            .filter_map(|place| policy.admit(cluster, purpose, place).err());
        refuse(refused.map(|refused| refused.to_string()).collect())
    }
}

fn refuse(refused: Vec<String>) -> anyhow::Result<()> {
    if refused.is_empty() {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{}\nNothing was done. A machine's own region stands in holdfast.toml (region = \"…\"), a replica's in \
         [[repository.replicas]], what is allowed in the policy's [[residency]]",
        refused.join("\n")
    )))
}
