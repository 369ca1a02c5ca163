//! What of the desk is remembered over a restart, as rows of the cache.

use std::collections::BTreeMap;

use holdfast_plan::policy::Policy;
use holdfast_plan::schedule::{Line, WORKS};
use holdfast_proto::Timestamp;
use holdfast_proto::message::Work;
use holdfast_proto::names::ClusterId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::alerts::Delivery;
use crate::cache::Rows;
use crate::desk::{Report, State};

const REPORT: &str = "report/";
const LEASE: &str = "lease/";
const ALERTS: &str = "alerts/";
const SEEN: &str = "seen";
const POLICY: &str = "policy";
const TERM: &str = "term";
const NONCE: &str = "nonce";

/// One finding that stood, and since when.
type Seen = (Option<ClusterId>, String, String, Timestamp);

fn word(work: Work) -> &'static str {
    match work {
        Work::BaseBackup => "base-backup",
        Work::FilestoreCheckpoint => "filestore-checkpoint",
        Work::Configuration => "configuration",
    }
}

/// The rows that hold what is worth remembering.
pub fn rows(state: &State, policy: &Policy) -> Rows {
    let mut rows = BTreeMap::new();
    rows.insert(POLICY.to_owned(), encode(&policy.text()));
    if let Some(term) = state.book_term {
        rows.insert(TERM.to_owned(), encode(&term));
    }
    for (cluster, report) in &state.reports {
        rows.insert(format!("{REPORT}{cluster}"), encode(report));
    }
    for ((cluster, work), line) in state.book.lines() {
        rows.insert(format!("{LEASE}{}/{cluster}", word(*work)), encode(line));
    }
    let seen: Vec<Seen> = state
        .standing
        .seen()
        .iter()
        .map(|((cluster, name, subject), since)| (cluster.clone(), name.clone(), subject.clone(), *since))
        .collect();
    rows.insert(SEEN.to_owned(), encode(&seen));
    for (route, delivery) in &state.alerts {
        rows.insert(format!("{ALERTS}{route}"), encode(&delivery.outbox));
    }
    rows
}

/// Adds by what this process knows its leases again.
pub fn keep_nonce(rows: &mut Rows, nonce: &str) {
    rows.insert(NONCE.to_owned(), encode(&nonce));
}

/// By what the process before knew its leases.
pub fn nonce(rows: &Rows) -> Option<String> {
    decode(rows.get(NONCE)?)
}

/// The policy that was in force. `None` when there was none, or when this program
/// cannot read it any more.
pub fn policy(rows: &Rows) -> Option<Policy> {
    let text: String = decode(rows.get(POLICY)?)?;
    match Policy::parse(&text, "the policy that was in force") {
        Ok(policy) => Some(policy),
        Err(problems) => {
            let err = problems.first().map(ToString::to_string);
            tracing::warn!(
                err,
                "the policy that was in force cannot be read; the file's is taken"
            );
            None
        }
    }
}

/// Puts rows back. A row that cannot be read is left out: it is only a memory.
pub fn restore(rows: &Rows, state: &mut State) {
    for (key, value) in rows {
        if let Some(cluster) = key.strip_prefix(REPORT) {
            if let (Ok(cluster), Some(report)) = (cluster.parse::<ClusterId>(), decode::<Report>(value)) {
                state.reports.insert(cluster, report);
            }
        } else if let Some(rest) = key.strip_prefix(LEASE) {
            let Some((work, cluster)) = rest.split_once('/') else {
                continue;
            };
            let work = WORKS.into_iter().find(|w| word(*w) == work);
            if let (Some(work), Ok(cluster), Some(line)) =
                (work, cluster.parse::<ClusterId>(), decode::<Line>(value))
            {
                state.book.restore(cluster, work, line);
            }
        } else if let Some(route) = key.strip_prefix(ALERTS) {
            if let (Ok(route), Some(outbox)) = (route.parse(), decode(value)) {
                state.alerts.insert(route, Delivery::remembered(outbox));
            }
        } else if key == TERM {
            state.book_term = decode(value);
        } else if key == SEEN {
            for (cluster, name, subject, since) in decode::<Vec<Seen>>(value).unwrap_or_default() {
                state.standing.remember((cluster, name, subject), since);
            }
        }
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("facts hold nothing that JSON cannot say")
}

fn decode<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    serde_json::from_slice(value).ok()
}
