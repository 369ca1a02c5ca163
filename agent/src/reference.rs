//! Reference values: the source's databases are asked, around a fence, what a
//! restored copy must say too.
//!
//! Asking decides nothing and hinders nothing: what cannot be asked is the finding
//! `reference-unread`, and the point is signed without values. Queries run as the
//! agent's own role, read-only, each database in one transaction of one snapshot,
//! with a time limit. The answers leave the machine sealed
//! ([`holdfast_proto::reference`]).

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_proto::envelope::Link;
use holdfast_proto::record::PointBody;
use holdfast_proto::reference::{
    MAX_REFERENCE, REFERENCE_FORMAT, ReferenceValue, ReferenceValues, Snapshot, is_exact,
};
use holdfast_repository::FetchError;
use holdfast_repository::pack::{PackError, open_frame, seal_frame};
use holdfast_repository::seal::EpochKey;
use tokio_postgres::{Client, IsolationLevel};

use crate::postgres::{PgError, PgTarget, sql_connect_with};
use crate::restore::{Access, read_linked};

/// How long one query may take.
const LIMIT: Duration = Duration::from_secs(30);
/// The most keys that one query may answer with.
const MOST_KEYS: usize = 10_000;

/// A value that is recorded at fences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Its name.
    pub name: String,
    /// The database.
    pub database: String,
    /// What is read.
    pub reads: Reads,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reads {
    /// The number of a table's rows.
    Table(String),
    /// The last value of a sequence.
    Sequence(String),
    /// What a query says: one column, the value; or two, a key and the value.
    Query(String),
}

impl Reference {
    /// The query that is asked.
    pub fn query(&self) -> String {
        match &self.reads {
            Reads::Table(table) => format!("SELECT count(*) FROM {table}"),
            Reads::Sequence(sequence) => format!("SELECT last_value FROM {sequence}"),
            Reads::Query(query) => query.clone(),
        }
    }

    /// The statement that lets `role` ask it, to be run in its database.
    pub fn grant(&self, role: &str) -> String {
        let role = role.replace('"', "\"\"");
        match &self.reads {
            Reads::Table(table) => format!("GRANT SELECT ON TABLE {table} TO \"{role}\";"),
            Reads::Sequence(sequence) => format!("GRANT SELECT ON SEQUENCE {sequence} TO \"{role}\";"),
            Reads::Query(_) => format!(
                "-- {} is a query: GRANT SELECT to \"{role}\" on each table that it reads.",
                self.name
            ),
        }
    }
}

/// Values that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// A database cannot be reached.
    #[error(transparent)]
    Connect(#[from] PgError),
    /// A query failed.
    #[error(
        "{name} in {database}: {source}: does the agent's role have the rights? See `holdfast agent sql --config`"
    )]
    Query {
        /// Which.
        name: String,
        /// Where.
        database: String,
        /// Why.
        source: tokio_postgres::Error,
    },
    /// The server's answer is not what its manual says.
    #[error("the server answered {0:?} where a snapshot was expected: this is a bug, report it")]
    Snapshot(String),
    /// The server does not answer.
    #[error(transparent)]
    Server(#[from] tokio_postgres::Error),
    /// A query has other columns.
    #[error("{0} answers with other columns than a value, or a key and a value: correct its query")]
    Columns(String),
    /// A query has too many answers.
    #[error("{0} answers with more than {MOST_KEYS} keys, or more bytes than fit: sum up more")]
    TooMany(String),
    /// The values cannot be sealed.
    #[error(transparent)]
    Seal(#[from] PackError),
}

/// One reading of all values.
#[derive(Debug, Clone)]
pub struct Reading {
    snapshots: Vec<Snapshot>,
    answers: Vec<BTreeMap<String, String>>,
}

/// Asks every query once.
pub async fn read(target: &PgTarget, references: &[Reference]) -> Result<Reading, ReferenceError> {
    let mut by_database: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (n, reference) in references.iter().enumerate() {
        by_database.entry(&reference.database).or_default().push(n);
    }
    let mut reading = Reading {
        snapshots: Vec::new(),
        answers: vec![BTreeMap::new(); references.len()],
    };
    for (database, numbers) in by_database {
        let target = target.clone().in_database(database);
        let mut client = sql_connect_with(&target, LIMIT).await?;
        let transaction = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        let row = transaction
            .query_one("SELECT pg_catalog.pg_current_snapshot()::text", &[])
            .await?;
        let text: String = row.try_get(0)?;
        let snapshot = Snapshot::parse(&text).ok_or(ReferenceError::Snapshot(text))?;
        reading.snapshots.push(snapshot);
        for n in numbers {
            let reference = &references[n];
            let rows = transaction.query(&as_text(&reference.query()), &[]).await;
            let rows = rows.map_err(|source| ReferenceError::Query {
                name: reference.name.clone(),
                database: database.to_owned(),
                source,
            })?;
            reading.answers[n] = answers(&reference.name, &rows)?;
        }
    }
    Ok(reading)
}

/// `query` with each row as an array of texts, whatever the types of its columns.
pub fn as_text(query: &str) -> String {
    format!(
        "SELECT ARRAY(SELECT e.value FROM pg_catalog.json_each_text(pg_catalog.row_to_json(q)) \
         WITH ORDINALITY AS e(key, value, n) ORDER BY e.n) FROM ({query}) AS q"
    )
}

/// Rows of a value, or of a key and a value, by key.
pub fn answers(name: &str, rows: &[tokio_postgres::Row]) -> Result<BTreeMap<String, String>, ReferenceError> {
    let mut found = BTreeMap::new();
    for row in rows {
        let columns: Vec<Option<String>> = row.try_get(0)?;
        let columns: Vec<String> = columns.into_iter().map(Option::unwrap_or_default).collect();
        let (key, value) = match columns.as_slice() {
            [value] => (String::new(), value.clone()),
            [key, value] => (key.clone(), value.clone()),
            _ => return Err(ReferenceError::Columns(name.to_owned())),
        };
        if found.insert(key, value).is_some() {
            return Err(ReferenceError::Columns(name.to_owned()));
        }
    }
    if found.len() > MOST_KEYS {
        return Err(ReferenceError::TooMany(name.to_owned()));
    }
    Ok(found)
}

/// Whether nobody but this session has a transaction that writes.
pub async fn is_alone(client: &Client) -> Result<bool, tokio_postgres::Error> {
    let row = client
        .query_one(
            "SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE backend_xid IS NOT NULL \
             AND pid <> pg_catalog.pg_backend_pid()) AND NOT EXISTS (SELECT FROM pg_catalog.pg_prepared_xacts)",
            &[],
        )
        .await?;
    row.try_get(0)
}

/// Puts two readings together.
pub fn values(references: &[Reference], before: Reading, after: Reading, alone: bool) -> ReferenceValues {
    let exact = is_exact(&before.snapshots, &after.snapshots, alone);
    let answers = before.answers.into_iter().zip(after.answers);
    ReferenceValues {
        format: REFERENCE_FORMAT,
        exact,
        values: references
            .iter()
            .zip(answers)
            .map(|(reference, (before, after))| ReferenceValue {
                name: reference.name.clone(),
                database: reference.database.clone(),
                query: reference.query(),
                sequence: match &reference.reads {
                    Reads::Sequence(sequence) => Some(sequence.clone()),
                    Reads::Table(_) | Reads::Query(_) => None,
                },
                before,
                after,
            })
            .collect(),
    }
}

/// Seals values for a point's payload.
pub fn sealed(key: &EpochKey, values: &ReferenceValues) -> Result<Vec<u8>, ReferenceError> {
    let json = serde_json::to_vec(values).expect("values are plain texts");
    if json.len() > MAX_REFERENCE {
        return Err(ReferenceError::TooMany("what is recorded in all".to_owned()));
    }
    Ok(seal_frame(key, &json, 3)?)
}

/// Values that a point holds and that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The point cannot be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The payload does not open.
    #[error("what the source said at the point cannot be opened: {0}")]
    Open(#[from] PackError),
    /// The payload is not what it should be.
    #[error("what the source said at the point cannot be read ({0}): it may come from a newer holdfast")]
    Form(String),
}

/// What the source's databases said at the point behind `link`; `None` when they
/// were not asked.
pub async fn open(access: &Access, link: &Link) -> Result<Option<ReferenceValues>, OpenError> {
    let (signed, _) = read_linked::<PointBody>(access, link).await?;
    let Some(sealed_to) = signed.header.payload.sealed_to else {
        return Ok(None);
    };
    let json = open_frame(&access.keyring, &sealed_to, &signed.payload, MAX_REFERENCE)?;
    let values: ReferenceValues =
        serde_json::from_slice(&json).map_err(|e| OpenError::Form(e.to_string()))?;
    if values.format != REFERENCE_FORMAT {
        return Err(OpenError::Form(format!("it has format {}", values.format)));
    }
    Ok(Some(values))
}
