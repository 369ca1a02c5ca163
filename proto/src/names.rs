//! Names: of tenants, clusters, filestores, regions, lineages, and identifiers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use ulid::Ulid;

use crate::Timestamp;

/// A text that cannot be the name it was given as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}: {rule}")]
pub struct BadName {
    what: &'static str,
    rule: &'static str,
    text: String,
}

impl BadName {
    fn new(what: &'static str, rule: &'static str, text: &str) -> Self {
        Self {
            what,
            rule,
            text: text.chars().take(100).collect(),
        }
    }
}

macro_rules! text_serde {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

const NAME_RULE: &str = "1 to 63 characters from a-z, 0-9, '-' and '_', beginning with a letter or digit";

fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                if is_name(text) { Ok(Self(text.to_owned())) } else { Err(BadName::new($what, NAME_RULE, text)) }
            }
        }

        text_serde!($name);
    };
}

name!(
    /// A legal entity or team whose clusters are kept apart from all others.
    TenantName, "tenant name"
);
name!(
    /// A protected PostgreSQL cluster, unique within its tenant.
    ClusterName, "cluster name"
);
name!(
    /// A folder of files protected beside a cluster.
    FilestoreName, "filestore name"
);
name!(
    /// The region of a replica of the repository.
    Region, "region"
);
name!(
    /// The name of an agent, runner, coordinator or person in the trust chain.
    ActorName, "actor name"
);
name!(
    /// A group of people: finance, platform. Approvals can be asked of more than one.
    GroupName, "group name"
);
name!(
    /// A service tier: platinum, gold, or one that policy defines.
    TierName, "tier name"
);
name!(
    /// A calendar of the policy: payroll, month end.
    CalendarName, "calendar name"
);
name!(
    /// A residency zone of the policy: where data may lie.
    ResidencyName, "residency zone"
);
name!(
    /// Who runs a store or a machine: `aws`, `google`, `azure`, `local`, or a name
    /// that the configuration gives.
    ProviderName, "provider"
);
name!(
    /// Where alerts are sent.
    RouteName, "alert route"
);

/// A cluster within its tenant: `tenant/cluster`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId {
    /// The tenant.
    pub tenant: TenantName,
    /// The cluster.
    pub cluster: ClusterName,
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.cluster)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ClusterId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let (tenant, cluster) = text
            .split_once('/')
            .ok_or_else(|| BadName::new("cluster", "write it as TENANT/CLUSTER", text))?;
        Ok(Self {
            tenant: tenant.parse()?,
            cluster: cluster.parse()?,
        })
    }
}

text_serde!(ClusterId);

/// PostgreSQL's system identifier: made by initdb, the same on every copy of a
/// cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId(u64);

impl SystemId {
    /// From the raw number.
    pub const fn new(id: u64) -> Self {
        Self(id)
    }

    /// The raw number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for SystemId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        text.parse()
            .map(Self)
            .map_err(|_| BadName::new("system identifier", "a decimal number is needed", text))
    }
}

text_serde!(SystemId);

/// A line of descent of one cluster's data: the system identifier and a
/// generation. A restored or rolled-back cluster keeps its system identifier
/// but starts a new generation, so that it never writes into the old history.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lineage {
    /// The system identifier.
    pub system: SystemId,
    /// 1 for the first, one more for each restart of history.
    pub generation: u32,
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.system, self.generation)
    }
}

impl fmt::Debug for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Lineage {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = || BadName::new("lineage", "write it as SYSTEM-GENERATION", text);
        let (system, digits) = text.split_once('-').ok_or_else(bad)?;
        let generation: u32 = digits.parse().map_err(|_| bad())?;
        if generation == 0 || generation.to_string() != digits {
            return Err(bad());
        }
        Ok(Self {
            system: system.parse()?,
            generation,
        })
    }
}

text_serde!(Lineage);

macro_rules! ulid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Ulid);

        impl $name {
            /// From a moment and 80 random bits.
            pub fn from_parts(at: Timestamp, random: u128) -> Self {
                Self(Ulid::from_parts(u64::try_from(at.unix_micros() / 1000).unwrap_or(0), random))
            }

            /// The moment in the identifier, to the millisecond.
            pub fn made_at(self) -> Timestamp {
                Timestamp::from_unix_micros(i64::try_from(self.0.timestamp_ms()).unwrap_or(0).saturating_mul(1000))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0.to_string())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                let id = Ulid::from_string(text).map_err(|_| BadName::new($what, "a ULID of 26 characters is needed", text))?;
                // ULID decoding forgives case; object names do not.
                if id.to_string() != text {
                    return Err(BadName::new($what, "a ULID in upper case is needed", text));
                }
                Ok(Self(id))
            }
        }

        text_serde!($name);
    };
}

ulid_id!(
    /// A repository.
    RepositoryId, "repository id"
);
ulid_id!(
    /// A base backup.
    BackupId, "backup id"
);
ulid_id!(
    /// A recovery point (a fence).
    PointId, "point id"
);
ulid_id!(
    /// A configuration or secrets bundle.
    BundleId, "bundle id"
);
ulid_id!(
    /// Work under way.
    WorkId, "work id"
);
ulid_id!(
    /// A drill.
    DrillId, "drill id"
);
ulid_id!(
    /// A request for approval.
    RequestId, "request id"
);
ulid_id!(
    /// A hold.
    HoldId, "hold id"
);

/// The month for which an epoch key seals: `2026-11`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    year: u16,
    month: u8,
}

impl Epoch {
    /// The epoch that contains `at`.
    pub fn of(at: Timestamp) -> Self {
        use chrono::Datelike;
        let t = at.to_chrono();
        Self {
            year: u16::try_from(t.year()).unwrap_or(0),
            month: u8::try_from(t.month()).unwrap_or(1),
        }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Epoch {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = || BadName::new("epoch", "write it as YYYY-MM", text);
        let (year, month) = text.split_once('-').ok_or_else(bad)?;
        if year.len() != 4 || month.len() != 2 {
            return Err(bad());
        }
        let (year, month) = (
            year.parse().map_err(|_| bad())?,
            month.parse().map_err(|_| bad())?,
        );
        if !(1..=12).contains(&month) {
            return Err(bad());
        }
        Ok(Self { year, month })
    }
}

text_serde!(Epoch);

/// What an epoch key opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    /// Base backups, WAL, filestores, settings. Sealed to drill, recovery and escrow.
    Data,
    /// Secrets of the application. Sealed to recovery and escrow only.
    Secrets,
    /// The index key, which opens nothing. Sealed to drill, recovery and escrow.
    Index,
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyKind::Data => "data",
            KeyKind::Secrets => "secrets",
            KeyKind::Index => "index",
        })
    }
}

impl FromStr for KeyKind {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        match text {
            "data" => Ok(KeyKind::Data),
            "secrets" => Ok(KeyKind::Secrets),
            "index" => Ok(KeyKind::Index),
            _ => Err(BadName::new(
                "kind of key",
                "data, secrets or index is needed",
                text,
            )),
        }
    }
}

/// Who may open a kind of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecipientRole {
    /// The restore drills' runner.
    Drill,
    /// The operator who restores.
    Recovery,
    /// The custodian's copy, off line.
    Escrow,
}

/// The key of an object in a repository, relative to a replica's prefix.
///
/// A plain value here; only `repository::layout` builds or parses one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Wraps a key. To be called by `repository::layout` alone.
    pub fn from_layout(key: String) -> Self {
        Self(key)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_refuse() {
        assert!("acme/erp".parse::<ClusterId>().is_ok());
        for bad in ["acme", "acme/", "/erp", "Acme/erp", "acme/e/r", "../erp", "-a/b"] {
            assert!(bad.parse::<ClusterId>().is_err(), "{bad}");
        }
        let l: Lineage = "7381234567890123456-2".parse().unwrap();
        assert_eq!(l.to_string(), "7381234567890123456-2");
        for bad in ["1", "1-0", "1-02", "x-1", "1-+2"] {
            assert!(bad.parse::<Lineage>().is_err(), "{bad}");
        }
        assert_eq!("2026-11".parse::<Epoch>().unwrap().to_string(), "2026-11");
        assert!("2026-13".parse::<Epoch>().is_err());
        let id = BackupId::from_parts(Timestamp::from_unix_micros(1_790_000_000_123_456), 7);
        assert_eq!(id.to_string().parse::<BackupId>().unwrap(), id);
        assert!(id.to_string().to_lowercase().parse::<BackupId>().is_err());
        assert_eq!(id.made_at().unix_micros(), 1_790_000_000_123_000);
    }
}
