//! What the planner of drills is told: what the evidence log proves of a cluster, and
//! what the repository could restore it from.
//!
//! [`facts`] is pure; [`epochs`] lists. A key epoch lives as long as a key of it is in
//! the repository. A drill that restores proves a replica when that was the only one it
//! could read, and the keys that it opened; one that looks at the backup alone (L1) proves
//! of none that it can be restored from.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_agent::ledger::Ledger;
use holdfast_plan::drills::{Aspect, BaseKind, Circumstances, ClusterFacts, Proof, Wanted, When};
use holdfast_plan::policy::Policy;
use holdfast_plan::restore::BaseFact;
use holdfast_proto::finding::Severity;
use holdfast_proto::names::{ClusterId, Epoch, KeyKind};
use holdfast_proto::{Sha256Digest, Timestamp};
use holdfast_repository::Repository;
use holdfast_repository::layout::{self, Located};

use crate::evidence::coverage::Month;
use crate::evidence::entry::{Entry, Intent, LoggedEntry};
use crate::evidence::statement::{DrillKind, Level, RecoveryDrill, Statement};
use crate::runner::Governing;

/// The epochs of which a key seals data of the cluster.
pub async fn epochs(repository: &Repository, cluster: &ClusterId) -> BTreeSet<Epoch> {
    let mut epochs = BTreeSet::new();
    let mut keys = repository.list_stream(&layout::keys(cluster, KeyKind::Data));
    while let Some((key, _)) = keys.next().await {
        if let Some(Located::Key { epoch, .. }) = layout::parse(key.as_str()) {
            epochs.insert(epoch);
        }
    }
    epochs
}

/// The words by which a policy is told from another, as far as they are about a
/// cluster: its tier, what that promises, where its data may lie.
fn policy_digest(
    tier: Option<&str>,
    rpo: Option<u64>,
    rto: Option<u64>,
    residency: Option<&str>,
) -> Sha256Digest {
    Sha256Digest::of(format!("{tier:?} {rpo:?} {rto:?} {residency:?}").as_bytes())
}

/// What is known of `cluster`: from the log's `entries`, which are believed, from the
/// repository's ledger, and from the policy, whose restores `program` carries out.
pub fn facts(
    cluster: &ClusterId,
    entries: &[LoggedEntry],
    ledger: Option<&Ledger>,
    epochs: &BTreeSet<Epoch>,
    policy: &Policy,
    program: &str,
    now: Timestamp,
) -> ClusterFacts {
    let mut facts = ClusterFacts::nothing(cluster.clone());
    let tale = Tale::of(cluster, entries);
    facts.proofs = tale.proofs();
    facts.failed = tale.failed(now);
    facts.under_way = tale.under_way(now);
    let governing = Governing::of(policy, "", cluster);
    facts.circumstances = Circumstances {
        major: None,
        policy: governing.map(|g| {
            let goals = g.policy.objectives;
            let zone = g.residency.as_ref().map(|z| z.as_str());
            policy_digest(Some(g.tier.as_str()), goals.rpo_ms, goals.rto_ms, zone)
        }),
        program: Some(program.to_owned()),
    };
    let Some(ledger) = ledger else {
        return facts;
    };
    let critical = |f: &&holdfast_proto::finding::Finding| f.severity == Severity::Critical;
    facts.findings = u32::try_from(ledger.findings.iter().filter(critical).count()).unwrap_or(u32::MAX);
    let bases: Vec<&BaseFact> = ledger.facts.lineages.iter().flat_map(|l| &l.bases).collect();
    let newest = bases.iter().max_by_key(|b| b.stopped);
    facts.circumstances.major = newest.map(|b| b.version_num / 10_000);
    let Some(since) = bases.iter().map(|b| b.stopped).min() else {
        return facts;
    };
    facts.restorable_since = Some(since);
    let first = |of: &dyn Fn(&BaseFact) -> bool| {
        let of = bases.iter().filter(|b| of(b));
        of.map(|b| b.stopped).min()
    };
    for replica in &ledger.facts.replicas {
        let held = first(&|b| b.present_on.contains(&replica.region));
        let aspect = Aspect::Replica(replica.region.clone());
        facts.aspects.insert(aspect, held.unwrap_or(since));
    }
    for kind in [BaseKind::Full, BaseKind::Incremental] {
        if let Some(at) = first(&|b| b.kind == Some(kind)) {
            facts.aspects.insert(Aspect::Base(kind), at);
        }
    }
    for epoch in epochs {
        let begins = epoch.to_string().parse::<Month>().map_or(since, Month::from);
        facts.aspects.insert(Aspect::Epoch(*epoch), begins.max(since));
    }
    facts
}

/// A cluster's drills, as its entries tell them.
struct Tale<'a> {
    intents: BTreeMap<u64, &'a Intent>,
    answers: BTreeMap<u64, Option<&'a Statement>>,
}

impl<'a> Tale<'a> {
    fn of(cluster: &ClusterId, entries: &'a [LoggedEntry]) -> Self {
        let (mut intents, mut answers) = (BTreeMap::new(), BTreeMap::new());
        for (index, entry) in (0u64..).zip(entries) {
            match &entry.entry {
                Entry::Intent(i) if i.cluster == *cluster => drop(intents.insert(index, i)),
                // The first answer counts, as everywhere.
                Entry::Result(s) => {
                    if let Some(intent) = s.predicate.drill.intent_index() {
                        answers.entry(intent).or_insert(Some(s.as_ref()));
                    }
                }
                Entry::Abandoned(a) => drop(answers.entry(a.intent).or_insert(None)),
                _ => {}
            }
        }
        Self { intents, answers }
    }

    /// Each drill with what it came to, if it came to anything.
    fn told(&self) -> impl Iterator<Item = (&'a Intent, Option<Option<&'a Statement>>)> + '_ {
        let answer = |index: &u64| self.answers.get(index).copied();
        self.intents.iter().map(move |(index, i)| (*i, answer(index)))
    }

    fn proofs(&self) -> Vec<Proof> {
        self.told()
            .filter_map(|(intent, answer)| Some((intent, answer??)))
            .filter(|(_, s)| s.predicate.results.verdict.is_pass())
            .filter_map(|(intent, s)| proof(intent, &s.predicate))
            .collect()
    }

    /// When the newest drill began that did not pass, and that none of its level or above
    /// has made up for.
    fn failed(&self, now: Timestamp) -> Option<Timestamp> {
        let mut unanswered: Vec<(Level, Timestamp)> = Vec::new();
        for (intent, answer) in self.told() {
            match answer {
                // What proves less takes nothing back of a failure.
                Some(Some(s)) if s.predicate.results.verdict.is_pass() => {
                    unanswered.retain(|(level, _)| *level > s.predicate.drill.level);
                }
                Some(_) => unanswered.push((intent.level, intent.at)),
                None if intent.deadline < now => unanswered.push((intent.level, intent.at)),
                None => {}
            }
        }
        unanswered.into_iter().map(|(_, at)| at).max()
    }

    fn under_way(&self, now: Timestamp) -> Option<Timestamp> {
        let open = self
            .told()
            .filter(|(i, answer)| answer.is_none() && now <= i.deadline);
        open.map(|(intent, _)| intent.at).max()
    }
}

fn proof(intent: &Intent, p: &RecoveryDrill) -> Option<Proof> {
    debug_assert!(p.drill.kind != DrillKind::RealRestore, "a restore has no intent");
    let goals = p.policy.as_ref().map(|policy| policy.objectives);
    let tier = p.scope.tier.as_ref().map(|t| t.as_str());
    Some(Proof {
        at: intent.at,
        scenario: p.drill.scenario.to_string().parse().ok()?,
        level: p.drill.level.to_string().parse().ok()?,
        aspects: aspects(p),
        circumstances: Circumstances {
            major: p.recovery_point.as_ref().map(|r| r.version_num / 10_000),
            policy: goals.map(|g| policy_digest(tier, g.rpo_ms, g.rto_ms, p.scope.residency_zone.as_deref())),
            program: Some(p.actors.runner.version.clone()),
        },
    })
}

/// What a drill restored from.
fn aspects(p: &RecoveryDrill) -> BTreeSet<Aspect> {
    let restored = p.recovery_point.as_ref().filter(|_| p.drill.level.restores());
    let Some(point) = restored else {
        return BTreeSet::new();
    };
    let mut aspects = BTreeSet::new();
    if let [only] = point.replicas.as_slice() {
        aspects.insert(Aspect::Replica(only.region.clone()));
    }
    aspects.extend(point.base.kind.map(Aspect::Base));
    let epochs = point.encryption.iter().flat_map(|e| &e.epochs);
    aspects.extend(epochs.map(|epoch| Aspect::Epoch(*epoch)));
    aspects
}

/// What a list of the drills that are due leaves out, in a line: what waits for its time,
/// and what something keeps.
pub fn left_out(wanted: &[Wanted]) -> Option<String> {
    let held: Vec<&When> = wanted
        .iter()
        .map(|w| &w.when)
        .filter(|when| matches!(when, When::Held(_)))
        .collect();
    let due = wanted.iter().filter(|w| w.is_due()).count();
    let waiting = wanted.len() - due - held.len();
    let mut parts = Vec::new();
    if waiting > 0 {
        parts.push(format!("{waiting} wait for their time"));
    }
    if let [first, others @ ..] = held.as_slice() {
        parts.push(match others.iter().all(|when| when == first) {
            true => format!("{} {first}", held.len()),
            false => format!("{} held", held.len()),
        });
    }
    let begin = match due {
        0 => "Nothing is due",
        _ => "That is all that is due",
    };
    (!parts.is_empty()).then(|| format!("{begin}; {}: see --all.", parts.join("; ")))
}

#[cfg(test)]
mod tests {
    use holdfast_repository::signing::SigningKey;

    use super::*;
    use crate::evidence::audit::tests::{log, log_of};
    use crate::evidence::fixture::at;
    use crate::evidence::statement::recovery::{Encryption, ReplicaLock};
    use crate::evidence::statement::results::Verdict;

    fn policy() -> Policy {
        let text = "[[cluster]]\ncluster = \"acme/erp\"\ntier = \"gold\"\n";
        Policy::parse(text, "p").unwrap_or_else(|p| panic!("{p:?}"))
    }

    fn of(cluster: &str, entries: &[LoggedEntry], now: &str) -> ClusterFacts {
        let cluster = cluster.parse().unwrap();
        facts(
            &cluster,
            entries,
            None,
            &BTreeSet::new(),
            &policy(),
            "0.2.0",
            at(now),
        )
    }

    #[test]
    fn drills_prove_what_they_restored_from() {
        let key = SigningKey::generate_ed25519().unwrap();
        let entries = log_of(&key, |p| {
            let point = p.recovery_point.as_mut().unwrap();
            point.replicas = vec![ReplicaLock::unknown("west".parse().unwrap())];
            point.base.kind = Some(BaseKind::Incremental);
            point.encryption = Some(Encryption {
                recipients: Vec::new(),
                epochs: vec!["2026-11".parse().unwrap()],
            });
        });
        let known = of("acme/erp", &entries, "16:00:00");
        assert_eq!(known.proofs.len(), 2);
        let proven = [
            Aspect::Replica("west".parse().unwrap()),
            Aspect::Epoch("2026-11".parse().unwrap()),
            Aspect::Base(BaseKind::Incremental),
        ];
        assert_eq!(known.proofs[0].aspects, proven.into());
        assert_eq!(known.proofs[0].circumstances.major, Some(15));
        assert_eq!((known.failed, known.under_way), (None, None));
        // With another replica within reach it is not known which one was read.
        let entries = log_of(&key, |p| {
            let names = ["west", "east"].map(|r| ReplicaLock::unknown(r.parse().unwrap()));
            p.recovery_point.as_mut().unwrap().replicas = names.to_vec();
        });
        let proven = &of("acme/erp", &entries, "16:00:00").proofs[0].aspects;
        assert_eq!(*proven, [Aspect::Base(BaseKind::Full)].into());
    }

    #[test]
    fn what_is_held_does_not_wait_for_its_time() {
        use holdfast_plan::drills::Held;
        let one = |when| Wanted {
            cluster: "acme/erp".parse().unwrap(),
            scenario: "accidental-deletion".parse().unwrap(),
            level: "L3".parse().unwrap(),
            aim: None,
            on_change: false,
            deadline: at("16:00:00"),
            when,
            reasons: Vec::new(),
        };
        let since = at("14:00:00");
        let held = || one(When::Held(Held::UnderWay { since }));
        let later = || one(When::From(at("15:00:00")));
        let said = |wanted: &[Wanted]| left_out(wanted).unwrap_or_default();
        assert_eq!(
            said(&[held(), held()]),
            format!("Nothing is due; 2 held: one is under way since {since}: see --all.")
        );
        assert_eq!(
            said(&[
                one(When::Now),
                later(),
                held(),
                one(When::Held(Held::NothingToRestore))
            ]),
            "That is all that is due; 1 wait for their time; 2 held: see --all."
        );
        assert_eq!(
            said(&[later()]),
            "Nothing is due; 1 wait for their time: see --all."
        );
        assert_eq!(left_out(&[one(When::Now)]), None);
    }

    #[test]
    fn a_drill_that_restores_nothing_proves_no_restore() {
        let key = SigningKey::generate_ed25519().unwrap();
        let at_level = |level| {
            let entries = log_of(&key, |p| {
                p.drill.level = level;
                let point = p.recovery_point.as_mut().unwrap();
                point.replicas = vec![ReplicaLock::unknown("west".parse().unwrap())];
                point.encryption = Some(Encryption {
                    recipients: Vec::new(),
                    epochs: vec!["2026-11".parse().unwrap()],
                });
            });
            of("acme/erp", &entries, "16:00:00").proofs
        };
        let looked = at_level(Level::L1);
        assert_eq!(looked.len(), 2, "it proves what it set out to");
        assert!(looked.iter().all(|proof| proof.aspects.is_empty()));
        assert_eq!(at_level(Level::L2)[0].aspects.len(), 3);
    }

    #[test]
    fn a_failure_is_made_up_for_by_what_proves_as_much() {
        let key = SigningKey::generate_ed25519().unwrap();
        let failed = |second: Level| {
            let entries = log_of(&key, |p| match p.drill.sequence {
                1 => p.results.verdict = Verdict::Fail,
                _ => p.drill.level = second,
            });
            of("acme/erp", &entries, "16:00:00").failed
        };
        assert_eq!(failed(Level::L1), Some(at("13:59:59")));
        assert_eq!((failed(Level::L3), failed(Level::L5)), (None, None));
    }

    #[test]
    fn what_did_not_pass_is_a_failure_and_no_proof() {
        let key = SigningKey::generate_ed25519().unwrap();
        // The second cluster's last drill was abandoned.
        let whole = log(&key);
        let other = of("acme/crm2", &whole, "16:00:00");
        assert_eq!((other.proofs.len(), other.failed), (1, Some(at("13:59:59"))));
        let open = &whole[..whole.len() - 1];
        assert_eq!(of("acme/crm2", open, "14:30:00").under_way, Some(at("13:59:59")));
        assert_eq!(
            of("acme/crm2", open, "16:00:00").under_way,
            None,
            "its time is over"
        );
        assert_eq!(of("acme/crm2", open, "16:00:00").failed, Some(at("13:59:59")));
        let failed = log_of(&key, |p| p.results.verdict = Verdict::Fail);
        let known = of("acme/erp", &failed, "16:00:00");
        assert_eq!((known.proofs.len(), known.failed), (0, Some(at("13:59:59"))));
    }
}
