//! Where data may lie, be worked on and go.
//!
//! A residency zone is a set of regions and of providers. It travels from the
//! policy to whoever is about to put data somewhere, and the answer is the same
//! everywhere: [`Residency::admits`].

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::{ProviderName, Region, ResidencyName};

/// A residency zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Residency {
    /// Its name in the policy.
    pub name: ResidencyName,
    /// Regions that are allowed.
    pub regions: BTreeSet<Region>,
    /// Providers that are allowed; empty when the policy leaves that open.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub providers: BTreeSet<ProviderName>,
}

/// Somewhere that data is about to be: a replica, a runner's machine, the place
/// that an export goes to. What is not known of it is not allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Its region.
    pub region: Option<Region>,
    /// Who runs it.
    pub provider: Option<ProviderName>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.region {
            Some(region) => write!(f, "region {region}")?,
            None => f.write_str("an unnamed region")?,
        }
        match &self.provider {
            Some(provider) => write!(f, " of provider {provider}"),
            None => Ok(()),
        }
    }
}

/// What was about to happen there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// A repository is bound to a store there.
    Bind,
    /// Objects are copied there.
    Replicate,
    /// A drill restores there.
    Drill,
    /// Something leaves for there.
    Export,
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Use::Bind => "to be stored in",
            Use::Replicate => "to be copied to",
            Use::Drill => "to be restored in",
            Use::Export => "to be exported to",
        })
    }
}

/// A place outside a residency zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("residency zone {zone} does not allow data {purpose} {place}: {rule}")]
pub struct Outside {
    /// The zone.
    pub zone: ResidencyName,
    /// What was about to happen.
    pub purpose: Use,
    /// Where.
    pub place: Place,
    /// What is allowed, for a person.
    pub rule: String,
}

impl Residency {
    /// Whether data of the zone may be somewhere. An unnamed region is outside,
    /// and so is an unnamed provider where the zone names any.
    pub fn admits(&self, purpose: Use, place: &Place) -> Result<(), Outside> {
        let region = place.region.as_ref().is_some_and(|r| self.regions.contains(r));
        let provider = self.providers.is_empty()
            || (place.provider.as_ref()).is_some_and(|provider| self.providers.contains(provider));
        if region && provider {
            return Ok(());
        }
        let rule = if !region {
            format!("allowed regions are {}", list(&self.regions))
        } else {
            format!("allowed providers are {}", list(&self.providers))
        };
        Err(Outside {
            zone: self.name.clone(),
            purpose,
            place: place.clone(),
            rule,
        })
    }
}

fn list<T: fmt::Display>(names: &BTreeSet<T>) -> String {
    let names: Vec<String> = names.iter().map(T::to_string).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(region: &str, provider: &str) -> Place {
        Place {
            region: region.parse().ok(),
            provider: provider.parse().ok(),
        }
    }

    #[test]
    fn what_is_not_known_is_outside() {
        let mut eu = Residency {
            name: "eu".parse().unwrap(),
            regions: ["eu-west", "office"].map(|r| r.parse().unwrap()).into(),
            providers: BTreeSet::new(),
        };
        assert_eq!(eu.admits(Use::Bind, &place("eu-west", "aws")), Ok(()));
        assert_eq!(eu.admits(Use::Bind, &place("eu-west", "")), Ok(()));
        let refused = eu.admits(Use::Replicate, &place("us-east", "aws")).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "residency zone eu does not allow data to be copied to region us-east of provider aws: \
             allowed regions are eu-west, office"
        );
        assert!(eu.admits(Use::Drill, &place("", "")).is_err());
        eu.providers = ["local"].map(|p| p.parse().unwrap()).into();
        assert_eq!(eu.admits(Use::Drill, &place("office", "local")), Ok(()));
        let refused = eu.admits(Use::Export, &place("office", "")).unwrap_err();
        assert!(
            refused.to_string().ends_with("allowed providers are local"),
            "{refused}"
        );
    }
}
