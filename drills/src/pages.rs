//! The evidence as the coordinator's page serves it.
//!
//! Reads each entry of the log once, and shows only what a key that is believed
//! has signed. Everything is derived anew for each reader; nothing is kept but
//! the entries. If the trust chain grows, they are looked at again.

use std::collections::BTreeMap;

use holdfast_proto::names::ClusterId;
use holdfast_proto::{Fingerprint, Timestamp};
use holdfast_repository::Repository;
use holdfast_repository::trust::Trust;

use crate::evidence::dsse::Envelope;
use crate::evidence::entry::{Entry, LoggedEntry};
use crate::evidence::export::{self, ExportInput};
use crate::evidence::view::{self, Shown, list, record};
use crate::log::DrillLog;
use crate::publish;

/// A document to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its media type.
    pub content_type: &'static str,
    /// The name to save it under, when it is to be saved.
    pub file: Option<&'static str>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";

/// What a reader may see. A drill of another cluster is as one that never was.
#[derive(Clone, Copy)]
pub struct Sees<'a> {
    /// Whether it is everything, also what counts over tenants.
    pub whole: bool,
    /// Whether a cluster's drills are seen.
    pub cluster: &'a (dyn Fn(&ClusterId) -> bool + Send + Sync),
}

impl Sees<'_> {
    /// Everything.
    pub const ALL: Sees<'static> = Sees {
        whole: true,
        cluster: &|_| true,
    };
}

/// A question of a reader.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The path below `/evidence`.
    pub path: &'a str,
    /// The query string.
    pub query: &'a str,
    /// What the reader may see.
    pub sees: Sees<'a>,
}

/// The log, as far as it was read.
#[derive(Debug, Default)]
pub struct EvidencePages {
    entries: Vec<LoggedEntry>,
    /// Those that are not to be believed, and why.
    refused: BTreeMap<u64, String>,
    trust_records: u64,
}

impl EvidencePages {
    /// The document that is asked for, or `None` when there is none for this reader.
    ///
    /// # Errors
    /// The log cannot be read, in words.
    pub async fn answer(
        &mut self,
        repository: &Repository,
        trust: &Trust,
        Asked { path, query, sees }: Asked<'_>,
        now: Timestamp,
    ) -> Result<Option<Document>, String> {
        if path == "evidence.css" {
            let bytes = view::STYLE.as_bytes().to_vec();
            return Ok(document("text/css; charset=utf-8", None, bytes));
        }
        let log = DrillLog::open(repository, trust)
            .await
            .map_err(|e| e.to_string())?;
        self.catch_up(&log).await?;
        if path.is_empty() {
            let page = list::served(&self.entries, &list::Filter::of_query(query), sees, now);
            return Ok(document(
                HTML,
                None,
                page.map_err(|e| e.to_string())?.into_bytes(),
            ));
        }
        if path == "log" || path == "log.json" {
            let part = record::Part::of_query(query);
            let holders = |key: &Fingerprint| trust.key(key).map(|key| (key.name.clone(), key.role));
            let record = record::record(&self.entries, &self.refused, &part, &holders, sees, now);
            if path == "log.json" {
                let bytes = serde_json::to_vec(&record).map_err(|e| e.to_string())?;
                return Ok(document(JSON, None, bytes));
            }
            let page = record::served(&record, &part, sees).map_err(|e| e.to_string())?;
            return Ok(document(HTML, None, page.into_bytes()));
        }
        if let Some(wanted) = path.strip_prefix("coverage/").filter(|_| sees.whole) {
            return self.coverage(&log, wanted).await;
        }
        let (drill, what) = path.split_once('/').unwrap_or((path, ""));
        let found = list::result_of(&self.entries, drill);
        let Some((index, _)) = found.filter(|(_, cluster)| (sees.cluster)(cluster)) else {
            return Ok(None);
        };
        if what.ends_with(".zip") && !sees.whole {
            // Every entry of its tenant is in it, and the scope may be one cluster.
            return Ok(None);
        }
        let input = publish::gather(&log, &self.entries, index, publish::Audience::Tenant)
            .await
            .map_err(|e| e.to_string())?;
        of_drill(&input, what)
    }

    /// The page of a month's coverage, or its export, by its place in the log.
    async fn coverage(&self, log: &DrillLog, wanted: &str) -> Result<Option<Document>, String> {
        let (number, zip) = match wanted.strip_suffix(".zip") {
            Some(number) => (number, true),
            None => (wanted, false),
        };
        let index = number.parse::<u64>().ok();
        let entry = index.and_then(|n| self.entries.get(usize::try_from(n).ok()?));
        let (Some(index), Some(entry)) = (index, entry) else {
            return Ok(None);
        };
        let Entry::Coverage(statement) = &entry.entry else {
            return Ok(None);
        };
        if !zip {
            let shown = export::shown_coverage(statement, &entry.envelope, index, log.trust());
            let page = view::coverage::served(&shown).map_err(|e| e.to_string())?;
            return Ok(document(HTML, None, page.into_bytes()));
        }
        let input = publish::gather_coverage(log, &self.entries, index)
            .await
            .map_err(|e| e.to_string())?;
        let files = export::coverage_files(&input).map_err(|e| e.to_string())?;
        let bytes = export::zipped("coverage", &files).map_err(|e| e.to_string())?;
        Ok(document("application/zip", Some("coverage.zip"), bytes))
    }

    async fn catch_up(&mut self, log: &DrillLog) -> Result<(), String> {
        let size = log.store().size().await.map_err(|e| e.to_string())?;
        if log.trust().length() != self.trust_records || size < self.entries.len() as u64 {
            self.entries.clear();
            self.refused.clear();
            self.trust_records = log.trust().length();
        }
        let from = self.entries.len() as u64;
        for (n, bytes) in (from..).zip(log.store().entries(from, size).await.map_err(|e| e.to_string())?) {
            let mut entry = LoggedEntry::parse(&bytes).map_err(|e| format!("entry {n}: {e}"))?;
            if let Err(why) = log.believe(&entry) {
                // It keeps its place, and says nothing.
                entry.entry = Entry::Other;
                self.refused.insert(n, why.to_string());
            }
            self.entries.push(entry);
        }
        Ok(())
    }
}

fn document(content_type: &'static str, file: Option<&'static str>, bytes: Vec<u8>) -> Option<Document> {
    Some(Document {
        content_type,
        file,
        bytes,
    })
}

/// A drill's page, its views, and its export.
fn of_drill(input: &ExportInput, what: &str) -> Result<Option<Document>, String> {
    let Entry::Result(statement) = &input.result.entry else {
        return Ok(None);
    };
    let mut envelope: Envelope = input.result.envelope.clone();
    input
        .countersignatures
        .iter()
        .for_each(|s| envelope.add(s.clone()));
    let shown: Shown<'_> = export::shown(
        statement,
        &envelope,
        input.result_index,
        &input.trust,
        input.delay_ms,
    );
    Ok(match what {
        "" => {
            let page = view::page::served(&shown).map_err(|e| e.to_string())?;
            document(HTML, None, page.into_bytes())
        }
        "statement.json" => document(JSON, Some("statement.json"), envelope.payload.clone()),
        "junit.xml" => document(
            "application/xml",
            Some("junit.xml"),
            view::junit::junit(&shown).into_bytes(),
        ),
        "oscal-assessment-results.json" => document(
            JSON,
            Some("oscal-assessment-results.json"),
            view::oscal::oscal(&shown).into_bytes(),
        ),
        "test-result.json" => document(
            JSON,
            Some("test-result.json"),
            view::test_result::test_result(&shown).into_bytes(),
        ),
        "evidence.zip" => {
            let files = export::files(input).map_err(|e| e.to_string())?;
            let bytes = export::zipped("evidence", &files).map_err(|e| e.to_string())?;
            document("application/zip", Some("evidence.zip"), bytes)
        }
        _ => None,
    })
}
