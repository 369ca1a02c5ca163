//! Over what a grant reaches: everything, a tenant, a cluster.

use std::fmt;
use std::str::FromStr;

use holdfast_proto::names::{ClusterId, TenantName};
use serde::{Serialize, Serializer};

/// A part of the fleet: `*`, `acme/*` or `acme/erp`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Everything, also what belongs to no cluster.
    All,
    /// Every cluster of a tenant.
    Tenant(TenantName),
    /// One cluster.
    Cluster(ClusterId),
}

impl Scope {
    /// Whether a cluster lies in it.
    pub fn covers(&self, cluster: &ClusterId) -> bool {
        match self {
            Scope::All => true,
            Scope::Tenant(tenant) => *tenant == cluster.tenant,
            Scope::Cluster(one) => one == cluster,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::All => f.write_str("*"),
            Scope::Tenant(tenant) => write!(f, "{tenant}/*"),
            Scope::Cluster(cluster) => write!(f, "{cluster}"),
        }
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            |why: String| format!("{text:?} is not a scope: write \"*\", \"acme/*\" or \"acme/erp\" ({why})");
        match text.split_once('/') {
            _ if text == "*" => Ok(Scope::All),
            Some((tenant, "*")) => tenant
                .parse()
                .map(Scope::Tenant)
                .map_err(|e| wrong(format!("{e}"))),
            Some(_) => text
                .parse()
                .map(Scope::Cluster)
                .map_err(|e| wrong(format!("{e}"))),
            None => Err(wrong("there is no slash in it".to_owned())),
        }
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a request may see: the scopes of every grant that holds for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach(Vec<Scope>);

impl Reach {
    /// Everything.
    pub fn whole() -> Self {
        Self(vec![Scope::All])
    }

    /// Nothing at all.
    pub fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is everything, also what belongs to no cluster.
    pub fn is_whole(&self) -> bool {
        self.0.contains(&Scope::All)
    }

    /// Whether a cluster may be seen.
    pub fn sees(&self, cluster: &ClusterId) -> bool {
        self.0.iter().any(|scope| scope.covers(cluster))
    }
}

impl FromIterator<Scope> for Reach {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        let mut scopes: Vec<Scope> = scopes.into_iter().collect();
        scopes.sort();
        scopes.dedup();
        Self(scopes)
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, scope) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{scope}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        text.parse().unwrap()
    }

    #[test]
    fn a_scope_covers_what_lies_in_it() {
        let erp: ClusterId = "acme/erp".parse().unwrap();
        for (text, covers) in [
            ("*", true),
            ("acme/*", true),
            ("acme/erp", true),
            ("acme/erp2", false),
            ("acm/*", false),
            ("other/*", false),
            ("other/erp", false),
        ] {
            assert_eq!(scope(text).covers(&erp), covers, "{text}");
            assert_eq!(scope(text).to_string(), text);
        }
        for bad in ["", "acme", "*/*", "*/erp", "acme/", "acme/e*", "Acme/*", "a/b/c"] {
            assert!(bad.parse::<Scope>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_reach_is_the_union_and_only_all_is_whole() {
        let reach: Reach = ["acme/*", "other/lab", "acme/*"].into_iter().map(scope).collect();
        assert!(!reach.is_whole() && !reach.is_nothing());
        assert!(reach.sees(&"acme/x".parse().unwrap()) && reach.sees(&"other/lab".parse().unwrap()));
        assert!(!reach.sees(&"other/erp".parse().unwrap()));
        assert_eq!(reach.to_string(), "acme/*, other/lab");
        assert!(Reach::default().is_nothing() && Reach::whole().is_whole());
    }
}
