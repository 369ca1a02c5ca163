//! What policy promises for the cluster, and how far behind its source the
//! repository was.
//!
//! Both lags are measured against the newest moment at which an agent signed
//! where the source stood: that holds when the source is long gone, and in an
//! idle one as in a busy one. What no agent signed is unknown.

use holdfast_agent::ledger::Ledger;
use holdfast_plan::period::Period;
use holdfast_plan::policy::{Policy, Purpose};
use holdfast_plan::restore::{Attestation, RestorePlan, restorable};
use holdfast_plan::rpo::{self, ReplicaWal, Witness};
use holdfast_proto::Timestamp;
use holdfast_proto::names::{ClusterId, FilestoreName, ResidencyName, TierName};
use holdfast_proto::pg::Lsn;

use crate::evidence::statement::Level;
use crate::evidence::statement::context::{Objectives, Policy as StatedPolicy, Scope};
use crate::evidence::statement::results::Rpo;

/// From what to what the recovery point is measured.
const RPO_DEFINITION: &str = "at the newest moment at which an agent signed how far the source was: time since the \
                              latest moment by which every commit, and every file that was complete, is restorable";

/// Attestations count however old they are: the lag is measured at the newest.
const ALL_AGES: Period = match Period::from_millis(36_525 * 86_400_000) {
    Some(period) => period,
    None => panic!("a hundred years are a period"),
};

/// The policy that a drill is judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Governing {
    /// As the statement says it.
    pub policy: StatedPolicy,
    /// The cluster's tier.
    pub tier: TierName,
    /// The company that answers for the data, when the policy names it.
    pub legal_entity: Option<String>,
    /// Where its data may lie, when the policy says that.
    pub residency: Option<ResidencyName>,
    /// What depends on it, as far as the policy says.
    pub purpose: Purpose,
}

impl Governing {
    /// What `policy`, whose file is called `name`, says of a cluster; `None` when
    /// it does not name the cluster.
    pub fn of(policy: &Policy, name: &str, cluster: &ClusterId) -> Option<Self> {
        let kept = policy.cluster(cluster)?;
        let tier = &kept.tier;
        let tenant = policy.tenants().find(|t| t.name == cluster.tenant);
        Some(Self {
            policy: StatedPolicy {
                id: name.to_owned(),
                version: None,
                digest: policy.digest(),
                objectives: Objectives {
                    rpo_ms: Some(tier.rpo.millis()),
                    rto_ms: Some(tier.rto.millis()),
                },
            },
            tier: tier.name.clone(),
            legal_entity: tenant.and_then(|t| t.legal_entity.clone()),
            residency: policy.residency(cluster).map(|zone| zone.name.clone()),
            purpose: kept.purpose.clone(),
        })
    }
}

/// Whose data it is, as a statement says it.
pub(crate) fn scope(cluster: &ClusterId, governing: Option<&Governing>) -> Scope {
    let purpose = governing.map(|g| g.purpose.clone()).unwrap_or_default();
    Scope {
        tenant: cluster.tenant.clone(),
        cluster: cluster.cluster.clone(),
        legal_entity: governing.and_then(|g| g.legal_entity.clone()),
        environment: purpose.environment,
        tier: governing.map(|g| g.tier.clone()),
        residency_zone: governing.and_then(|g| Some(g.residency.as_ref()?.to_string())),
        business_services: purpose.services,
    }
}

impl Governing {
    /// The policy as far as a drill of `level` is judged by it. At L1 nothing is
    /// restored, and nothing can be said of the objective for recovery time.
    pub fn judging(&self, level: Level) -> StatedPolicy {
        let mut policy = self.policy.clone();
        if level == Level::L1 {
            policy.objectives.rto_ms = None;
        }
        policy
    }
}

/// How far database and files lagged behind their source; `None` when no agent
/// signed anything.
pub fn lags(ledger: &Ledger, plan: &RestorePlan) -> Option<Rpo> {
    let lineage = ledger.facts.lineages.iter().find(|l| l.lineage == plan.lineage)?;
    let newest = lineage.attested.iter().max_by_key(|a| a.at)?;
    let end = restorable(&ledger.facts)
        .intervals
        .iter()
        .filter(|i| i.to.lineage == plan.lineage)
        .map(|i| i.to.lsn)
        .max();
    let files = plan.filestores.iter().map(|f| {
        let journal = ledger
            .facts
            .filestores
            .iter()
            .find(|s| s.filestore == f.filestore);
        let whole = journal.into_iter().flat_map(|s| &s.entries);
        let whole = whole.filter(|e| e.dirty == 0).map(|e| e.scanned_from);
        file_lag(&lineage.attested, &f.filestore, whole, newest.at)
    });
    Some(Rpo {
        database_lag_ms: end.and_then(|end| database_lag(&lineage.attested, end, newest.at)),
        // Several filestores lag as much as the last of them; one that is unknown
        // makes all of it unknown.
        filestore_lag_ms: files
            .collect::<Option<Vec<u64>>>()
            .and_then(|all| all.into_iter().max()),
        definition: RPO_DEFINITION.to_owned(),
        met: None,
    })
}

/// When the scan behind the files restored began: the earliest, where there are
/// several filestores; `None` when there is none or one is unknown.
pub fn watermark(ledger: &Ledger, plan: &RestorePlan) -> Option<Timestamp> {
    let began = plan.filestores.iter().map(|f| {
        let journals = &ledger.facts.filestores;
        let journal = journals.iter().find(|s| s.filestore == f.filestore)?;
        let entry = journal.entries.iter().find(|e| e.n == f.additions_until)?;
        Some(entry.scanned_from)
    });
    began.collect::<Option<Vec<_>>>()?.into_iter().min()
}

fn database_lag(attested: &[Attestation], end: Lsn, at: Timestamp) -> Option<u64> {
    let facts = rpo::Facts {
        base: Some(true),
        replicas: vec![ReplicaWal {
            region: "restorable".parse().ok()?,
            end: Some(end),
        }],
        copies: 1,
        witnesses: attested
            .iter()
            .map(|a| Witness {
                at: a.heard,
                server_flush: a.server_flush,
                safe: None,
            })
            .collect(),
        commits: Vec::new(),
        fresh_for: ALL_AGES,
    };
    match rpo::measure(&facts, at) {
        rpo::Rpo::Known { ms, .. } => Some(ms),
        rpo::Rpo::Unknown(_) => None,
    }
}

fn file_lag(
    attested: &[Attestation],
    filestore: &FilestoreName,
    whole: impl Iterator<Item = Timestamp>,
    at: Timestamp,
) -> Option<u64> {
    let signed = attested.iter().flat_map(|a| &a.filestores);
    let signed = signed
        .filter(|f| f.filestore == *filestore)
        .map(|f| f.captured_until);
    let until = signed.chain(whole).max()?;
    Some(if until >= at { 0 } else { at.millis_since(until) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_proto::pg::TimelineId;
    use holdfast_proto::record::FilestoreFrontier;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_micros(1_790_000_000_000_000).plus_millis(ms)
    }

    fn attestation(ms: i64, flush: u64, captured: Option<i64>) -> Attestation {
        Attestation {
            timeline: TimelineId::FIRST,
            at: at(ms),
            heard: at(ms),
            complete_until: None,
            server_flush: Lsn::new(flush),
            acknowledged: Lsn::new(flush),
            filestores: captured
                .map(|ms| FilestoreFrontier {
                    filestore: "files".parse().unwrap(),
                    captured_until: at(ms),
                })
                .into_iter()
                .collect(),
        }
    }

    #[test]
    fn the_database_lags_by_what_was_seen_and_is_not_restorable() {
        let attested = [attestation(0, 1000, None), attestation(4000, 2000, None)];
        let lag = |end| database_lag(&attested, Lsn::new(end), at(4000));
        assert_eq!(lag(2000), Some(0), "all that was seen can be restored");
        assert_eq!(lag(1999), Some(4000), "all of it, or as of the sighting before");
        assert_eq!(
            lag(999),
            None,
            "nothing seen can be restored: that is no small lag"
        );
    }

    #[test]
    fn files_lag_by_their_newest_whole_capture() {
        let attested = [
            attestation(0, 1000, Some(-500)),
            attestation(4000, 2000, Some(1000)),
        ];
        let files: FilestoreName = "files".parse().unwrap();
        let lag = |whole: &[i64]| file_lag(&attested, &files, whole.iter().map(|ms| at(*ms)), at(4000));
        assert_eq!(lag(&[]), Some(3000));
        assert_eq!(
            lag(&[2500, 500]),
            Some(1500),
            "an entry says more than the attestation"
        );
        assert_eq!(lag(&[5000]), Some(0));
        let other: FilestoreName = "other".parse().unwrap();
        assert_eq!(file_lag(&attested, &other, std::iter::empty(), at(4000)), None);
    }

    #[test]
    fn a_policy_governs_the_clusters_it_names() {
        let text = "[[tenant]]\nname = \"acme\"\nlegal_entity = \"Acme Construction\"\n\n[[cluster]]\ncluster = \"acme/erp\"\ntier = \"gold\"\n";
        let policy = Policy::parse(text, "policy.toml").unwrap_or_else(|p| panic!("{p:?}"));
        let governing = Governing::of(&policy, "policy.toml", &"acme/erp".parse().unwrap()).unwrap();
        assert_eq!(governing.tier.as_str(), "gold");
        assert_eq!(governing.policy.objectives.rpo_ms, Some(60_000));
        assert_eq!(governing.policy.digest, policy.digest());
        assert_eq!(governing.judging(Level::L2), governing.policy);
        let whole = governing.judging(Level::L1).objectives;
        assert_eq!((whole.rpo_ms, whole.rto_ms), (Some(60_000), None));
        assert_eq!(governing.legal_entity.as_deref(), Some("Acme Construction"));
        assert_eq!(
            Governing::of(&policy, "policy.toml", &"acme/other".parse().unwrap()),
            None
        );
    }
}
