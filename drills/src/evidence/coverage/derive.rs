//! The counting.

use super::*;

/// A drill as coverage sees it.
struct Begun<'a> {
    drill: DrillId,
    cluster: &'a ClusterId,
    scenario: &'a ScenarioName,
    level: Level,
    at: Timestamp,
    verdict: Verdict,
}

/// Counts a tenant's month in `entries`, each with its place in the log, in order.
/// Entries of other tenants are passed over.
pub fn derive<'a>(
    entries: impl IntoIterator<Item = (u64, &'a LoggedEntry)>,
    log: &Counted,
    tenant: &TenantName,
    month: Month,
) -> Coverage {
    let entries: Vec<(u64, &LoggedEntry)> = entries
        .into_iter()
        .filter(|(index, e)| *index < log.size && concerns(e, tenant))
        .collect();
    let populations: Vec<(u64, &Population)> = entries
        .iter()
        .filter_map(|(index, e)| match &e.entry {
            Entry::Population(p) if p.draw.is_none() => Some((*index, p)),
            _ => None,
        })
        .collect();
    let (from, until) = (month.from(), month.until());
    let in_month = |at: Timestamp| from <= at && at < until;
    let begun = begun(&entries);
    let (clusters, used) = slots(&populations, &begun, from, until);
    Coverage {
        log: log.log.clone(),
        size: log.size,
        root: log.root,
        tenant: tenant.clone(),
        month,
        from,
        until,
        populations: populations
            .iter()
            .filter(|(index, _)| used.contains(index))
            .map(|(index, p)| PopulationReference {
                index: *index,
                digest: p.digest,
                size: p.size,
                at: p.at,
            })
            .collect(),
        tiers: tiers(&clusters),
        clusters,
        drills: drills(&entries, &begun, in_month),
        exceptions: exceptions(&entries, in_month),
    }
}

/// Every intent with what it came to.
fn begun<'a>(entries: &[(u64, &'a LoggedEntry)]) -> Vec<Begun<'a>> {
    let mut answers: BTreeMap<u64, Verdict> = BTreeMap::new();
    for (_, e) in entries {
        match &e.entry {
            Entry::Result(s) => {
                if let Some(intent) = s.predicate.drill.intent_index() {
                    answers.entry(intent).or_insert(s.predicate.results.verdict);
                }
            }
            Entry::Abandoned(a) => {
                answers.entry(a.intent).or_insert(Verdict::Abandoned);
            }
            _ => {}
        }
    }
    entries
        .iter()
        .filter_map(|(index, e)| match &e.entry {
            Entry::Intent(i) => Some(Begun {
                drill: i.drill,
                cluster: &i.cluster,
                scenario: &i.scenario,
                level: i.level,
                at: i.at,
                verdict: answers.get(index).copied().unwrap_or(Verdict::Abandoned),
            }),
            _ => None,
        })
        .collect()
}

/// Each cluster's slots that end in the month, and the populations that asked.
fn slots(
    populations: &[(u64, &Population)],
    begun: &[Begun<'_>],
    from: Timestamp,
    until: Timestamp,
) -> (Vec<ClusterCounts>, BTreeSet<u64>) {
    let mut rules: BTreeSet<(&ClusterId, &Due)> = BTreeSet::new();
    for (_, p) in populations {
        for member in &p.members {
            rules.extend(member.drills.iter().map(|due| (&member.cluster, due)));
        }
    }
    let mut used = BTreeSet::new();
    let mut found: BTreeMap<(&ClusterId, &TierName, &Due), SlotCounts> = BTreeMap::new();
    for (cluster, due) in rules {
        for (start, end) in slots_ending(due.every_ms, from, until) {
            let Some((index, member)) = in_force(populations, cluster, start) else {
                continue;
            };
            if !member.drills.contains(due) {
                continue;
            }
            used.insert(index);
            let last = begun
                .iter()
                .filter(|b| b.cluster == cluster && start <= b.at && b.at < end)
                .filter(|b| *b.scenario == due.scenario && b.level >= due.level)
                .max_by_key(|b| (b.at, b.drill));
            let counts = found.entry((cluster, &member.tier, due)).or_default();
            counts.expected += 1;
            match last.map(|b| b.verdict) {
                None => counts.missed += 1,
                Some(verdict) => {
                    counts.executed += 1;
                    match verdict {
                        Verdict::Pass => counts.passed += 1,
                        Verdict::PassWithExceptions => counts.passed_with_exceptions += 1,
                        _ => counts.failed += 1,
                    }
                }
            }
        }
    }
    let rows = found
        .into_iter()
        .map(|((cluster, tier, due), slots)| ClusterCounts {
            cluster: cluster.clone(),
            tier: tier.clone(),
            scenario: due.scenario.clone(),
            level: due.level,
            every_ms: due.every_ms,
            slots,
        })
        .collect();
    (rows, used)
}

/// The cluster's line in the newest population that was logged by `at`.
fn in_force<'a>(
    populations: &[(u64, &'a Population)],
    cluster: &ClusterId,
    at: Timestamp,
) -> Option<(u64, &'a Member)> {
    let (index, population) = populations.iter().rfind(|(_, p)| p.at <= at)?;
    let member = population.members.iter().find(|m| m.cluster == *cluster)?;
    Some((*index, member))
}

/// The slots of a length that end after `from` and by `until`.
fn slots_ending(every_ms: u64, from: Timestamp, until: Timestamp) -> Vec<(Timestamp, Timestamp)> {
    let Some(every) = i64::try_from(every_ms)
        .ok()
        .and_then(|ms| ms.checked_mul(1000))
        .filter(|e| *e > 0)
    else {
        return Vec::new();
    };
    let first = from.unix_micros().div_euclid(every);
    (first..)
        .map(|k| (k.saturating_mul(every), k.saturating_add(1).saturating_mul(every)))
        .take_while(|(_, end)| *end <= until.unix_micros())
        .filter(|(_, end)| *end > from.unix_micros())
        .map(|(a, b)| (Timestamp::from_unix_micros(a), Timestamp::from_unix_micros(b)))
        .collect()
}

fn tiers(clusters: &[ClusterCounts]) -> Vec<TierCounts> {
    let mut tiers: BTreeMap<&TierName, (BTreeSet<&ClusterId>, SlotCounts)> = BTreeMap::new();
    for row in clusters {
        let (members, slots) = tiers.entry(&row.tier).or_default();
        members.insert(&row.cluster);
        slots.add(&row.slots);
    }
    tiers
        .into_iter()
        .map(|(tier, (members, slots))| TierCounts {
            tier: tier.clone(),
            clusters: members.len() as u64,
            slots,
        })
        .collect()
}

fn drills(
    entries: &[(u64, &LoggedEntry)],
    begun: &[Begun<'_>],
    in_month: impl Fn(Timestamp) -> bool,
) -> DrillCounts {
    let mut counts = DrillCounts::default();
    for b in begun.iter().filter(|b| in_month(b.at)) {
        counts.begun += 1;
        match b.verdict {
            Verdict::Pass => counts.passed += 1,
            Verdict::PassWithExceptions => counts.passed_with_exceptions += 1,
            _ => counts.failed += 1,
        }
    }
    let used: BTreeSet<(&ClusterId, &str)> = entries
        .iter()
        .filter_map(|(_, e)| match &e.entry {
            Entry::Intent(i) => Some((&i.cluster, i.slot.as_deref()?)),
            _ => None,
        })
        .collect();
    for (_, e) in entries {
        match &e.entry {
            Entry::Intent(i) => {
                let highest = counts.sequences.entry(i.cluster.clone()).or_default();
                *highest = (*highest).max(i.sequence);
            }
            Entry::Population(p) if in_month(p.at) => {
                let unused =
                    |d: &super::super::sampling::Draw| !used.contains(&(&d.cluster, d.slot.as_str()));
                counts.unused_draws += u64::from(p.draw.as_ref().is_some_and(unused));
            }
            Entry::Received(r) if in_month(r.ended) => counts.real_restores += 1,
            _ => {}
        }
    }
    counts
}

fn exceptions(
    entries: &[(u64, &LoggedEntry)],
    in_month: impl Fn(Timestamp) -> bool,
) -> Vec<CoveredException> {
    let intents: BTreeMap<u64, Timestamp> = entries
        .iter()
        .filter_map(|(index, e)| match &e.entry {
            Entry::Intent(i) => Some((*index, i.at)),
            _ => None,
        })
        .collect();
    let mut found = Vec::new();
    for (_, e) in entries {
        let Entry::Result(s) = &e.entry else { continue };
        let drill = &s.predicate.drill;
        let began = drill.intent_index().and_then(|i| intents.get(&i));
        if !began.is_some_and(|at| in_month(*at)) {
            continue;
        }
        found.extend(s.predicate.exceptions.iter().map(|x| CoveredException {
            drill: drill.id,
            accepts: x.accepts.clone(),
            owner: x.owner.clone(),
            due: x.due,
        }));
    }
    found
}

#[cfg(test)]
mod tests;
