//! The log itself, entry by entry, newest first: what happened, who signed it, and
//! whether it is to be believed.

use std::collections::BTreeMap;

use askama::Template;
use holdfast_proto::names::ActorName;
use holdfast_proto::record::TrustRole;
use holdfast_proto::{Fingerprint, Timestamp};
use serde::Serialize;

use super::words::{plain, second};
use crate::evidence::audit::audit;
use crate::evidence::entry::{Entry, LoggedEntry};
use crate::evidence::statement::DrillKind;
use crate::pages::Sees;

/// Entries on a page.
const ROWS: usize = 200;

/// Which part is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// Entries before this place alone.
    pub before: Option<u64>,
    /// Entries of this kind alone: a word of [`KINDS`].
    pub kind: Option<String>,
}

/// The kinds of entries, as they are asked for.
const KINDS: [&str; 6] = [
    "drill",
    "restore",
    "policy",
    "coverage",
    "population",
    "heartbeat",
];

impl Part {
    /// Reads a query string; what is not known is ignored.
    pub fn of_query(query: &str) -> Self {
        let value = |wanted: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(name, value)| *name == wanted && !value.is_empty())
                .map(|(_, value)| value)
        };
        Self {
            before: value("before").and_then(|n| n.parse().ok()),
            kind: value("kind")
                .filter(|kind| KINDS.contains(kind))
                .map(str::to_owned),
        }
    }

    fn link(kind: Option<&str>, before: Option<u64>) -> String {
        let kind = kind.map(|kind| format!("kind={kind}"));
        let before = before.map(|n| format!("before={n}"));
        let pairs: Vec<String> = kind.into_iter().chain(before).collect();
        match pairs.is_empty() {
            true => "/evidence/log".to_owned(),
            false => format!("/evidence/log?{}", pairs.join("&")),
        }
    }
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its place in the log.
    pub entry: u64,
    /// When, by the clock of whoever signed it.
    pub at: Option<Timestamp>,
    /// Its kind.
    pub kind: &'static str,
    /// What it is about: a cluster, a tenant, or nothing.
    pub about: String,
    /// What it says, in a line.
    pub says: String,
    /// Whose key signed it.
    pub by: String,
    /// In which role.
    pub role: String,
    /// SHA-256 of the entry.
    pub sha256: String,
    /// Why it is not to be believed.
    pub refused: Option<String>,
    /// The page of what it tells of.
    #[serde(skip)]
    link: Option<String>,
    #[serde(skip)]
    class: &'static str,
}

#[derive(Debug, Template)]
#[template(path = "record.html")]
struct RecordPage<'a> {
    kinds: Vec<(String, String, bool)>,
    rows: &'a [Row],
    departures: &'a [String],
    all: usize,
    older: Option<String>,
    whole: bool,
}

/// A part of the log.
#[derive(Debug, Serialize)]
pub struct Record {
    /// Entries in the log.
    pub entries: usize,
    /// The newest of those that were asked for, newest first.
    pub rows: Vec<Row>,
    /// From where on there are more.
    pub before: Option<u64>,
    /// What is wrong with the log as a whole; for those who may see all of it.
    pub departures: Vec<String>,
}

/// Who holds a key, and in which role, where it was ever enrolled.
pub type Holders<'a> = &'a dyn Fn(&Fingerprint) -> Option<(ActorName, TrustRole)>;

/// What a reader is shown of the log. `refused` are the entries that nobody who is
/// believed has signed, and why.
pub fn record(
    entries: &[LoggedEntry],
    refused: &BTreeMap<u64, String>,
    part: &Part,
    holders: Holders<'_>,
    sees: Sees<'_>,
    now: Timestamp,
) -> Record {
    let end = part.before.and_then(|before| usize::try_from(before).ok());
    let until = &entries[..end.unwrap_or(entries.len()).min(entries.len())];
    let mut rows = until
        .iter()
        .enumerate()
        .map(|(index, entry)| (index as u64, entry))
        .rev()
        .filter(|(_, entry)| match entry.cluster() {
            Some(cluster) => (sees.cluster)(&cluster),
            None => sees.whole,
        })
        .map(|(index, entry)| row(index, entry, refused.get(&index), holders))
        .filter(|row| part.kind.as_ref().is_none_or(|kind| kind == row.kind));
    let shown: Vec<Row> = rows.by_ref().take(ROWS).collect();
    let before = rows.next().and_then(|_| shown.last().map(|row| row.entry));
    let departures = if sees.whole {
        let found = audit(entries, Some(now)).into_iter();
        found.map(|finding| finding.to_string()).collect()
    } else {
        Vec::new()
    };
    Record {
        entries: entries.len(),
        rows: shown,
        before,
        departures,
    }
}

/// The page of it.
pub fn served(record: &Record, part: &Part, sees: Sees<'_>) -> Result<String, askama::Error> {
    let all = std::iter::once(("all".to_owned(), Part::link(None, None), part.kind.is_none()));
    let each = KINDS.iter().map(|kind| {
        let on = part.kind.as_deref() == Some(kind);
        ((*kind).to_owned(), Part::link(Some(kind), None), on)
    });
    RecordPage {
        kinds: all.chain(each).collect(),
        rows: &record.rows,
        departures: &record.departures,
        all: record.entries,
        older: record
            .before
            .map(|before| Part::link(part.kind.as_deref(), Some(before))),
        whole: sees.whole,
    }
    .render()
}

fn row(index: u64, logged: &LoggedEntry, refused: Option<&String>, holders: Holders<'_>) -> Row {
    let signer = logged.signer();
    let (by, role) = match holders(&signer) {
        Some((name, role)) => (name.to_string(), role.as_str().to_owned()),
        None => (signer.to_string(), "not enrolled".to_owned()),
    };
    let about = logged.cluster().map(|cluster| cluster.to_string());
    let mut row = Row {
        entry: index,
        at: None,
        kind: "other",
        about: about.unwrap_or_default(),
        says: "of a kind that this program does not know".to_owned(),
        by,
        role,
        sha256: logged.digest().to_string(),
        refused: refused.cloned(),
        link: None,
        class: "",
    };
    if row.refused.is_some() {
        row.says.clear();
        row.class = "bad";
        return row;
    }
    match &logged.entry {
        Entry::Intent(intent) => {
            row.kind = "drill";
            row.at = Some(intent.at);
            row.says = format!(
                "announced: {} at {}, {}, the cluster's drill {}, due {}",
                intent.scenario,
                intent.level,
                plain(&intent.kind.to_string()),
                intent.sequence,
                second(intent.deadline)
            );
        }
        Entry::Result(statement) => {
            let p = &statement.predicate;
            let verdict = p.results.verdict;
            row.kind = match p.drill.kind {
                DrillKind::RealRestore => "restore",
                _ => "drill",
            };
            row.at = p.timings.phases.iter().map(|phase| phase.end).max();
            row.says = format!(
                "{}: {} at {}",
                plain(&verdict.to_string()),
                p.drill.scenario,
                p.drill.level
            );
            row.class = super::page::class_of(verdict, p.drill.kind);
            row.link = Some(format!("/evidence/{}", p.drill.id));
        }
        Entry::Abandoned(abandoned) => {
            row.kind = "drill";
            row.at = Some(abandoned.at);
            row.says = format!(
                "abandoned, announced in entry {}: {}",
                abandoned.intent, abandoned.reason
            );
            row.class = "bad";
        }
        Entry::Heartbeat(heartbeat) => {
            row.kind = "heartbeat";
            row.at = Some(heartbeat.at);
            row.says = "the log lives".to_owned();
        }
        Entry::Population(population) => {
            row.kind = "population";
            row.at = Some(population.at);
            if let Some(tenant) = &population.tenant {
                row.about = tenant.to_string();
            }
            row.says = match population.draw {
                Some(_) => format!("moments to draw one from: {}", population.size),
                None => format!("clusters to be drilled: {}", population.size),
            };
        }
        Entry::Received(received) => {
            row.kind = "restore";
            row.at = Some(received.at);
            row.says = format!("the statement of a restore came in, entry {}", received.entry);
        }
        Entry::Policy(policy) => {
            row.kind = "policy";
            row.at = Some(policy.at);
            let changes = match policy.changes.as_slice() {
                [] => "what changed is not known".to_owned(),
                changes => changes.join("; "),
            };
            let to: String = policy.to.to_string().chars().take(12).collect();
            row.says = format!("policy {to} came into force: {changes}");
        }
        Entry::Coverage(coverage) => {
            row.kind = "coverage";
            row.about = coverage.predicate.tenant.to_string();
            row.at = Some(coverage.predicate.until);
            row.says = format!("how much of {} was drilled", coverage.predicate.month);
            row.link = Some(format!("/evidence/coverage/{index}"));
        }
        Entry::Other => {}
    }
    row
}

impl Row {
    /// When, for a person.
    fn when(&self) -> String {
        self.at.map_or_else(String::new, second)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_repository::signing::SigningKey;

    use super::*;
    use crate::evidence::audit::tests::log;
    use crate::evidence::fixture::at;

    fn shown(query: &str, sees: Sees<'_>) -> (Record, String) {
        let key = SigningKey::generate_ed25519().unwrap();
        let entries = log(&key);
        let holders = |_: &Fingerprint| Some(("runner".parse().unwrap(), TrustRole::Runner));
        let part = Part::of_query(query);
        let refused = BTreeMap::from([(1, "its key is revoked".to_owned())]);
        let record = record(&entries, &refused, &part, &holders, sees, at("14:10:00"));
        let page = served(&record, &part, sees).unwrap();
        (record, page)
    }

    #[test]
    fn each_entry_is_a_line_with_who_signed_it() {
        let (record, page) = shown("", Sees::ALL);
        assert_eq!(record.rows.len(), record.entries);
        let places: Vec<u64> = record.rows.iter().map(|row| row.entry).collect();
        assert!(places.is_sorted_by(|a, b| a > b), "newest first: {places:?}");
        assert!(record.rows.iter().all(|row| row.by == "runner"), "{record:?}");
        assert_eq!(page.matches("<tr class=\"entry").count(), record.entries);
        assert!(page.contains("its key is revoked"), "{page}");
        let refused = record.rows.iter().find(|row| row.entry == 1).unwrap();
        assert!(refused.says.is_empty(), "nothing of it is repeated: {refused:?}");
    }

    #[test]
    fn a_part_is_what_was_asked_for() {
        let (all, _) = shown("", Sees::ALL);
        let (before, _) = shown("before=2", Sees::ALL);
        assert_eq!(before.rows.len(), 2);
        let (policies, page) = shown("kind=policy", Sees::ALL);
        assert!(policies.rows.iter().all(|row| row.kind == "policy"));
        assert!(page.contains("aria-current"), "{page}");
        let (unknown, _) = shown("kind=none-such", Sees::ALL);
        assert_eq!(unknown.rows.len(), all.rows.len());
    }

    #[test]
    fn a_reader_of_one_cluster_hears_of_no_other() {
        let sees = Sees {
            whole: false,
            cluster: &|cluster| cluster.to_string() == "acme/erp",
        };
        let (own, page) = shown("", sees);
        assert!(own.rows.iter().all(|row| row.about == "acme/erp"), "{own:?}");
        assert!(!own.rows.is_empty() && own.departures.is_empty());
        assert!(!page.contains("acme/crm2"), "{page}");
    }
}
