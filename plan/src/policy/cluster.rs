//! Clusters: by name, or by the labels that agents report.
//!
//! A cluster that an entry names is kept as that entry says, whatever its labels
//! are. Any other is kept as the one pattern says that all its labels match; two
//! patterns that match are nobody's choice, and the cluster then has no policy
//! until a person decides.

use std::collections::BTreeMap;
use std::fmt;

use holdfast_proto::labels::{LabelText, Labels};
use holdfast_proto::message::Work;
use holdfast_proto::names::{ClusterId, ResidencyName, TenantName, TierName};
use holdfast_proto::residency::Residency;

use super::{Policy, Tenant, Tier, Words, residency, retention};
use crate::cron::{Cron, Zone};
use crate::document::{At, Section};

/// What policy asks for one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPolicy {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its tier, with this cluster's own schedules and retention put in.
    pub tier: Tier,
    /// The zone in which its schedules are read.
    pub zone: Zone,
    /// Its own residency zone; without one its tenant's counts.
    pub residency: Option<ResidencyName>,
    /// What depends on it.
    pub purpose: Purpose,
}

/// What depends on a cluster, in the words of whoever wrote the policy. It stands in
/// evidence and decides nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purpose {
    /// Production, staging and the like.
    pub environment: Option<String>,
    /// Business services.
    pub services: Vec<String>,
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

/// What policy asks for every cluster with certain labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// The labels that a cluster must have; never empty.
    pub labels: Labels,
    /// As for one cluster.
    pub tier: Tier,
    /// As for one cluster.
    pub zone: Zone,
    /// As for one cluster.
    pub residency: Option<ResidencyName>,
    /// As for one cluster.
    pub purpose: Purpose,
}

impl Pattern {
    /// What it asks for a cluster that it matches.
    pub fn of(&self, cluster: &ClusterId) -> ClusterPolicy {
        ClusterPolicy {
            cluster: cluster.clone(),
            tier: self.tier.clone(),
            zone: self.zone,
            residency: self.residency.clone(),
            purpose: self.purpose.clone(),
        }
    }
}

/// A cluster that several patterns match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ambiguous {
    /// The cluster.
    pub cluster: ClusterId,
    /// The labels of the patterns.
    pub patterns: Vec<Labels>,
}

impl fmt::Display for Ambiguous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let patterns: Vec<String> = self.patterns.iter().map(|p| format!("({p})")).collect();
        write!(
            f,
            "{} matches the patterns {}: name it in a [[cluster]] of its own, or make the patterns exclude each other",
            self.cluster,
            patterns.join(" and ")
        )
    }
}

impl Policy {
    /// Every pattern, in the order of the file.
    pub fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.patterns.iter()
    }

    /// The same policy with the clusters in it that its patterns match, and those
    /// that it cannot decide about. `seen` are the labels that agents report.
    pub fn with_labels(&self, seen: &BTreeMap<ClusterId, Labels>) -> (Policy, Vec<Ambiguous>) {
        let mut policy = self.clone();
        let mut ambiguous = Vec::new();
        for (cluster, labels) in seen {
            if self.clusters.contains_key(cluster) {
                continue;
            }
            let matching: Vec<&Pattern> = self
                .patterns()
                .filter(|pattern| labels.match_all(&pattern.labels))
                .collect();
            match matching[..] {
                [] => {}
                [pattern] => {
                    policy.clusters.insert(cluster.clone(), pattern.of(cluster));
                }
                _ => ambiguous.push(Ambiguous {
                    cluster: cluster.clone(),
                    patterns: matching.into_iter().map(|p| p.labels.clone()).collect(),
                }),
            }
        }
        (policy, ambiguous)
    }
}

/// What a cluster's entry may name.
pub(super) struct Known<'a> {
    pub(super) tenants: &'a BTreeMap<TenantName, Tenant>,
    pub(super) tiers: &'a BTreeMap<TierName, Tier>,
    pub(super) residencies: &'a BTreeMap<ResidencyName, Residency>,
    pub(super) zone: Zone,
}

/// Named clusters and patterns.
#[derive(Default)]
pub(super) struct Clusters {
    pub(super) named: BTreeMap<ClusterId, ClusterPolicy>,
    pub(super) patterns: Vec<Pattern>,
}

/// Whom an entry is about.
enum Subject {
    Named(ClusterId, At),
    Labelled(Labels),
}

/// Reads every `[[cluster]]`.
pub(super) fn read_clusters(root: &mut Section<'_>, known: &Known<'_>) -> Clusters {
    let mut clusters = Clusters::default();
    for mut section in root.list("cluster") {
        read_entry(&mut section, known, &mut clusters);
        section.finish();
    }
    clusters
}

fn read_entry(section: &mut Section<'_>, known: &Known<'_>, clusters: &mut Clusters) {
    let subject = read_subject(section, known);
    let tier = read_tier(section, known);
    let zone = section.optional::<Zone>("time_zone").unwrap_or(known.zone);
    let residency = residency::read_name(section, known.residencies);
    let purpose = read_purpose(section);
    let (Some(subject), Some(tier)) = (subject, tier) else {
        return;
    };
    match subject {
        Subject::Named(cluster, at) => {
            let policy = ClusterPolicy {
                cluster: cluster.clone(),
                tier,
                zone,
                residency,
                purpose,
            };
            if clusters.named.insert(cluster.clone(), policy).is_some() {
                section.problem_at(&at, format!("{cluster} is named twice: keep one of the two"));
            }
        }
        Subject::Labelled(labels) => {
            if clusters.patterns.iter().any(|p| p.labels == labels) {
                section.problem(format!(
                    "another entry matches ({labels}) already: keep one of the two"
                ));
            }
            clusters.patterns.push(Pattern {
                labels,
                tier,
                zone,
                residency,
                purpose,
            });
        }
    }
}

fn read_purpose(section: &mut Section<'_>) -> Purpose {
    let services = section.texts::<Words>("business_services").unwrap_or_default();
    Purpose {
        environment: section.optional::<Words>("environment").map(|words| words.0),
        services: services.into_iter().map(|words| words.0).collect(),
    }
}

fn read_subject(section: &mut Section<'_>, known: &Known<'_>) -> Option<Subject> {
    let labels = section.pairs::<LabelText, LabelText>("match");
    let named = section.has("cluster");
    let cluster = section.optional_at::<ClusterId>("cluster");
    match (labels, named) {
        (Some(_), true) => {
            section.problem("has both `cluster` and `match`: keep the name or the pattern");
            None
        }
        (None, false) => {
            section.problem(
                "needs `cluster = \"TENANT/NAME\"`, or `match` with the labels of those it is about",
            );
            None
        }
        (Some(labels), false) => {
            let labels: Labels = labels.into_iter().collect();
            if labels.is_empty() {
                section.problem("`match` is empty and would match every cluster: name at least one label");
            }
            Some(Subject::Labelled(labels))
        }
        (None, true) => {
            let (cluster, at) = cluster?;
            if !known.tenants.is_empty() && !known.tenants.contains_key(&cluster.tenant) {
                section.problem_at(
                    &at,
                    format!(
                        "tenant {} has no [[tenant]] entry: add one or correct the name",
                        cluster.tenant
                    ),
                );
            }
            Some(Subject::Named(cluster, at))
        }
    }
}

/// The tier that an entry names, with what the entry itself says of it.
fn read_tier(section: &mut Section<'_>, known: &Known<'_>) -> Option<Tier> {
    let named = section.optional_at::<TierName>("tier");
    if named.is_none() {
        section.problem("needs `tier = \"platinum\"`, gold, silver, bronze or a tier of your own");
    }
    let tier = named.and_then(|(name, at)| {
        let tier = known.tiers.get(&name);
        if tier.is_none() {
            let known = known
                .tiers
                .keys()
                .map(TierName::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            section.problem_at(&at, format!("there is no tier {name}: known are {known}"));
        }
        tier.cloned()
    });
    let schedule = section.section("schedule").map(|mut schedule| {
        let read = (
            schedule.optional::<Cron>("base_backup"),
            schedule.optional::<Cron>("filestore_checkpoint"),
            schedule.optional::<Cron>("configuration"),
        );
        schedule.finish();
        read
    });
    // Read even when the tier is unknown, so that all that is wrong is said.
    let model = tier
        .as_ref()
        .map(|tier| tier.retention.clone())
        .unwrap_or_default();
    let retention = retention::read(section, model);
    let mut tier = tier?;
    tier.retention = retention;
    if let Some((base, checkpoint, configuration)) = schedule {
        tier.base_backup = base.unwrap_or(tier.base_backup);
        tier.filestore_checkpoint = checkpoint.unwrap_or(tier.filestore_checkpoint);
        tier.configuration = configuration.unwrap_or(tier.configuration);
    }
    Some(tier)
}
