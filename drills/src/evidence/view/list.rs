//! All drills of the log, newest first, with filters; and what each month's
//! coverage came to.

use std::collections::{BTreeMap, BTreeSet};

use askama::Template;
use holdfast_proto::Timestamp;
use holdfast_proto::names::ClusterId;

use super::page::class_of;
use super::words::{plain, second, span};
use crate::evidence::coverage::SlotCounts;
use crate::evidence::entry::{Entry, LoggedEntry};
use crate::evidence::statement::DrillKind;
use crate::evidence::statement::results::Verdict;
use crate::pages::Sees;

/// Which drills are shown. All that is absent is not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this cluster.
    pub cluster: Option<String>,
    /// `passed`, `not-passed` or `open`.
    pub outcome: Option<String>,
    /// `scheduled`, `on-demand`, `on-change` or `real-restore`.
    pub kind: Option<String>,
}

impl Filter {
    /// Reads a query string; what is not known is ignored.
    pub fn of_query(query: &str) -> Self {
        let mut filter = Self::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let value = Some(value.replace("%2F", "/").replace("%2f", "/")).filter(|v| !v.is_empty());
            match name {
                "cluster" => filter.cluster = value,
                "outcome" => filter.outcome = value,
                "kind" => filter.kind = value,
                _ => {}
            }
        }
        filter
    }

    fn with(&self, name: &str, value: Option<&str>) -> String {
        let mut pairs: BTreeMap<&str, &str> = BTreeMap::new();
        let own = [
            ("cluster", &self.cluster),
            ("outcome", &self.outcome),
            ("kind", &self.kind),
        ];
        for (key, held) in own {
            if let Some(held) = held {
                pairs.insert(key, held);
            }
        }
        match value {
            Some(value) => pairs.insert(name, value),
            None => pairs.remove(name),
        };
        let pairs: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
        format!("/evidence?{}", pairs.join("&"))
    }

    fn admits(&self, row: &Row) -> bool {
        let is = |wanted: &Option<String>, has: &str| wanted.as_ref().is_none_or(|w| w == has);
        is(&self.cluster, &row.cluster)
            && is(&self.outcome, row.outcome)
            && is(&self.kind, &row.kind.replace(' ', "-"))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    id: String,
    cluster: String,
    scenario: String,
    level: String,
    kind: String,
    began: String,
    verdict: String,
    class: &'static str,
    outcome: &'static str,
    rto: String,
    note: String,
    /// Whether there is a statement to look at.
    page: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Chip {
    words: String,
    link: String,
    on: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct CoverRow {
    month: String,
    tenant: String,
    tier: String,
    slots: SlotCounts,
    entry: u64,
}

#[derive(Debug, Template)]
#[template(path = "drills.html")]
struct ListPage {
    clusters: Vec<Chip>,
    outcomes: Vec<Chip>,
    kinds: Vec<Chip>,
    rows: Vec<Row>,
    all: usize,
    coverage: Vec<CoverRow>,
    entries: usize,
}

/// The list as the coordinator serves it.
pub fn served(
    entries: &[LoggedEntry],
    filter: &Filter,
    sees: Sees<'_>,
    now: Timestamp,
) -> Result<String, askama::Error> {
    let mut rows = rows(entries, now);
    rows.retain(|row| row.cluster.parse().is_ok_and(|cluster| (sees.cluster)(&cluster)));
    let clusters: BTreeSet<&str> = rows.iter().map(|r| r.cluster.as_str()).collect();
    let kinds: BTreeSet<String> = rows.iter().map(|r| r.kind.replace(' ', "-")).collect();
    let chips = |name: &str, held: &Option<String>, values: Vec<&str>, words: fn(&str) -> String| {
        let all = Chip {
            words: "all".to_owned(),
            link: filter.with(name, None),
            on: held.is_none(),
        };
        let each = values.into_iter().map(|value| Chip {
            words: words(value),
            link: filter.with(name, Some(value)),
            on: held.as_deref() == Some(value),
        });
        std::iter::once(all).chain(each).collect::<Vec<_>>()
    };
    let page = ListPage {
        clusters: chips(
            "cluster",
            &filter.cluster,
            clusters.iter().copied().collect(),
            |c| c.to_owned(),
        ),
        outcomes: chips(
            "outcome",
            &filter.outcome,
            vec!["passed", "not-passed", "open"],
            |o| o.replace('-', " "),
        ),
        kinds: chips(
            "kind",
            &filter.kind,
            kinds.iter().map(String::as_str).collect(),
            |k| k.replace('-', " "),
        ),
        all: rows.len(),
        rows: rows.into_iter().filter(|r| filter.admits(r)).collect(),
        coverage: if sees.whole { coverage(entries) } else { Vec::new() },
        entries: entries.len(),
    };
    page.render()
}

/// Drills and restores, newest first.
fn rows(entries: &[LoggedEntry], now: Timestamp) -> Vec<Row> {
    let mut rows: BTreeMap<u64, Row> = BTreeMap::new();
    for (index, entry) in (0u64..).zip(entries) {
        match &entry.entry {
            Entry::Intent(i) => {
                let late = i.deadline < now;
                rows.insert(
                    index,
                    Row {
                        id: i.drill.to_string(),
                        cluster: i.cluster.to_string(),
                        scenario: i.scenario.to_string(),
                        level: i.level.to_string(),
                        kind: plain(&i.kind.to_string()),
                        began: second(i.at),
                        verdict: if late { "no result" } else { "under way" }.to_owned(),
                        class: if late { "bad" } else { "" },
                        outcome: if late { "not-passed" } else { "open" },
                        rto: String::new(),
                        note: format!("due {}", second(i.deadline)),
                        page: false,
                    },
                );
            }
            Entry::Result(s) => {
                let p = &s.predicate;
                let verdict = p.results.verdict;
                let began = p.timings.phases.iter().map(|t| t.start).min();
                let row = rows
                    .entry(p.drill.intent_index().unwrap_or(index))
                    .or_insert_with(|| Row {
                        id: p.drill.id.to_string(),
                        cluster: p.scope.id().to_string(),
                        scenario: p.drill.scenario.to_string(),
                        level: p.drill.level.to_string(),
                        kind: plain(&p.drill.kind.to_string()),
                        began: began.map_or_else(String::new, second),
                        verdict: String::new(),
                        class: "",
                        outcome: "open",
                        rto: String::new(),
                        note: String::new(),
                        page: false,
                    });
                // The first answer counts, as everywhere.
                if row.page {
                    continue;
                }
                row.page = true;
                row.verdict = plain(&verdict.to_string());
                row.class = class_of(verdict, p.drill.kind);
                row.outcome = match (verdict.is_pass(), p.drill.kind) {
                    (true, _) => "passed",
                    // It was not to prove anything.
                    (false, DrillKind::RealRestore) => "restored",
                    (false, _) => "not-passed",
                };
                row.rto = p
                    .results
                    .rto
                    .as_ref()
                    .map(|r| span(r.actual_ms))
                    .unwrap_or_default();
                row.note = p.results.reasons.first().cloned().unwrap_or_default();
            }
            Entry::Abandoned(a) => {
                if let Some(row) = rows.get_mut(&a.intent).filter(|r| !r.page) {
                    row.verdict = plain(&Verdict::Abandoned.to_string());
                    (row.class, row.outcome) = ("bad", "not-passed");
                    row.note.clone_from(&a.reason);
                }
            }
            Entry::Received(r) => {
                if let Some(row) = rows.get_mut(&r.entry) {
                    row.note = format!("logged {} after it ended", span(r.delay_ms));
                }
            }
            Entry::Heartbeat(_)
            | Entry::Population(_)
            | Entry::Policy(_)
            | Entry::Coverage(_)
            | Entry::Other => {}
        }
    }
    rows.into_values().rev().collect()
}

fn coverage(entries: &[LoggedEntry]) -> Vec<CoverRow> {
    let mut rows: Vec<CoverRow> = (0u64..)
        .zip(entries)
        .filter_map(|(index, e)| match &e.entry {
            Entry::Coverage(c) => Some((index, &c.predicate)),
            _ => None,
        })
        .flat_map(|(entry, c)| {
            c.tiers.iter().map(move |t| CoverRow {
                month: c.month.to_string(),
                tenant: c.tenant.to_string(),
                tier: t.tier.to_string(),
                slots: t.slots,
                entry,
            })
        })
        .collect();
    rows.sort_by(|a, b| (&b.month, &a.tenant, &a.tier).cmp(&(&a.month, &b.tenant, &b.tier)));
    rows
}

/// The place of a drill's result in the log.
pub fn result_of(entries: &[LoggedEntry], drill: &str) -> Option<(u64, ClusterId)> {
    (0u64..).zip(entries).find_map(|(index, e)| match &e.entry {
        Entry::Result(s) if s.predicate.drill.id.to_string() == drill => {
            Some((index, s.predicate.scope.id()))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use holdfast_repository::signing::SigningKey;

    use super::*;
    use crate::evidence::audit::tests::log;
    use crate::evidence::fixture::at;

    #[test]
    fn drills_are_listed_and_filtered() {
        let key = SigningKey::generate_ed25519().unwrap();
        let entries = log(&key);
        let page =
            |query: &str| served(&entries, &Filter::of_query(query), Sees::ALL, at("14:10:00")).unwrap();
        let rows = |text: &str| text.matches("<tr class=\"drill\">").count();
        assert_eq!(rows(&page("")), 4);
        assert_eq!(rows(&page("cluster=acme/erp")), 2);
        assert_eq!(rows(&page("cluster=acme%2Ferp&outcome=passed")), 2);
        assert_eq!(rows(&page("outcome=not-passed")), 1, "the abandoned one");
        assert_eq!(rows(&page("outcome=open")), 0);
        assert_eq!(rows(&page("kind=real-restore")), 0);
        assert!(page("cluster=none/such").contains("No drill"));
        assert!(
            page("outcome=passed").contains("/evidence?cluster=acme/erp&#38;outcome=passed")
                || page("outcome=passed").contains("/evidence?cluster=acme/erp&amp;outcome=passed")
        );
    }

    #[test]
    fn a_reader_of_one_cluster_hears_of_no_other() {
        let key = SigningKey::generate_ed25519().unwrap();
        let entries = log(&key);
        let page = |own: &'static str| {
            let sees = Sees {
                whole: false,
                cluster: &move |cluster| cluster.to_string() == own,
            };
            served(&entries, &Filter::default(), sees, at("14:10:00")).unwrap()
        };
        let rows = |text: &str| text.matches("<tr class=\"drill\">").count();
        let own = page("acme/erp");
        assert!(rows(&own) == 2 && !own.contains("acme/crm2"), "{own}");
        let all = served(&entries, &Filter::default(), Sees::ALL, at("14:10:00")).unwrap();
        let others = rows(&all) - 2;
        assert!(others > 0, "{all}");
        let strangers = page("acme/none");
        assert!(
            rows(&strangers) == 0 && !strangers.contains("acme/erp"),
            "{strangers}"
        );
    }

    #[test]
    fn an_intent_is_open_until_its_deadline() {
        let key = SigningKey::generate_ed25519().unwrap();
        let entries = &log(&key)[..1];
        let outcome = |now| rows(entries, at(now))[0].outcome;
        assert_eq!(outcome("14:30:00"), "open");
        assert_eq!(outcome("15:30:00"), "not-passed");
    }
}
