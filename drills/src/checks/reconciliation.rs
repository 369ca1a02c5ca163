//! APPLICATION: what the source's databases said at the fence against what the
//! copy says.
//!
//! The agent recorded the values around the fence's restore point
//! ([`holdfast_agent::reference`]); the copy was restored to that very point, and
//! is asked the same queries. Where nothing but the fence ended between the two
//! readings at the source the copy must say exactly the same, otherwise it must lie
//! between them, key by key.
//!
//! Evidence carries counts as they are and everything else as digests: sums and
//! the keys that they stand under are the customer's.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_agent::reference::{self, as_text};
use holdfast_proto::Sha256Digest;
use holdfast_proto::reference::{ReferenceValue, ReferenceValues};
use tokio_postgres::Transaction;

use super::queries::ROLE;
use crate::checks::Check;
use crate::evidence::statement::results::{CheckClass, CheckResult, Comparison, Reconciliation};
use crate::scratch::PrivateServer;

/// How long one query may take on the copy, in milliseconds.
const LIMIT: u64 = 300_000;

/// By key.
type Answers = BTreeMap<String, String>;

/// Asks the copy for every value and compares.
pub async fn run(
    server: &PrivateServer,
    values: &ReferenceValues,
    result: &mut Vec<Reconciliation>,
) -> CheckResult {
    let queries: Vec<&str> = values.values.iter().map(|v| v.query.as_str()).collect();
    let check = Check::mandatory("reconciliation", CheckClass::Application)
        .data_proving()
        .query(&queries.join("\n"));
    let mut found = Vec::new();
    for value in &values.values {
        match compared(server, value, values.exact).await {
            Ok(one) => found.push(one),
            Err(e) => return check.could_not_run(&anyhow::anyhow!("{}: {e:#}", value.name)),
        }
    }
    let agree = found.iter().filter(|r| r.agrees).count();
    let all = found.len();
    let how = if values.exact { "exactly" } else { "within bounds" };
    result.extend(found);
    check.compared(
        agree == all && all > 0,
        format!("{all} of {all} agree {how}"),
        format!("{agree} of {all} agree {how}"),
    )
}

async fn compared(
    server: &PrivateServer,
    value: &ReferenceValue,
    exact: bool,
) -> anyhow::Result<Reconciliation> {
    let mut client = server.connect(&value.database).await?;
    let transaction = client.build_transaction().read_only(true).start().await?;
    transaction
        .batch_execute(&format!(
            "SET LOCAL ROLE {ROLE}; SET LOCAL search_path = pg_catalog; SET LOCAL statement_timeout = {LIMIT}"
        ))
        .await?;
    let rows = transaction.query(&as_text(&value.query), &[]).await?;
    let copy = reference::answers(&value.name, &rows)?;
    if let Some(sequence) = &value.sequence {
        return in_sequence(&transaction, value, sequence, &copy).await;
    }
    if exact {
        return Ok(Reconciliation {
            id: value.name.clone(),
            expected: said(&value.before),
            actual: said(&copy),
            comparison: Comparison::Exact,
            agrees: copy == value.before && copy == value.after,
        });
    }
    let keys: BTreeSet<&String> = value
        .before
        .keys()
        .chain(value.after.keys())
        .chain(copy.keys())
        .collect();
    let mut within = 0;
    for key in &keys {
        if lies_between(&transaction, &value.before, &value.after, &copy, key).await? {
            within += 1;
        }
    }
    let (all, agrees) = (keys.len(), within == keys.len() && !copy.is_empty());
    Ok(Reconciliation {
        id: value.name.clone(),
        expected: format!("between {} and {}", said(&value.before), said(&value.after)),
        actual: format!("{}: {within} of {all} between", said(&copy)),
        comparison: Comparison::Bounds,
        agrees,
    })
}

/// A sequence of the copy is not behind the source's, and ahead of it by no more
/// than PostgreSQL logs in advance: 32 values and what a session caches.
async fn in_sequence(
    transaction: &Transaction<'_>,
    value: &ReferenceValue,
    sequence: &str,
    copy: &Answers,
) -> anyhow::Result<Reconciliation> {
    let of = |answers: &Answers| answers.get("").cloned().unwrap_or_default();
    let query = "SELECT $1::text::numeric BETWEEN SYMMETRIC $2::text::numeric
        AND $3::text::numeric + s.seqincrement * (32 + s.seqcache)
        FROM pg_catalog.pg_sequence AS s WHERE s.seqrelid = $4::text::pg_catalog.regclass";
    let (before, after, found) = (of(&value.before), of(&value.after), of(copy));
    let row = transaction
        .query_one(query, &[&found, &before, &after, &sequence])
        .await?;
    Ok(Reconciliation {
        id: value.name.clone(),
        expected: format!("{before}, up to what is logged ahead of {after}"),
        actual: found,
        comparison: Comparison::Bounds,
        agrees: row.get(0),
    })
}

/// Whether the copy's value lies between the source's two. PostgreSQL compares:
/// its numbers have any length. A key that one side lacks counts as 0.
async fn lies_between(
    transaction: &Transaction<'_>,
    before: &Answers,
    after: &Answers,
    copy: &Answers,
    key: &str,
) -> anyhow::Result<bool> {
    let of = |answers: &Answers| answers.get(key).cloned().unwrap_or_else(|| "0".to_owned());
    let (before, after, copy) = (of(before), of(after), of(copy));
    if before == after {
        return Ok(copy == before);
    }
    let query = "SELECT $1::text::numeric BETWEEN SYMMETRIC $2::text::numeric AND $3::text::numeric";
    Ok(transaction
        .query_one(query, &[&copy, &before, &after])
        .await?
        .get(0))
}

/// Answers as evidence carries them: one count as it is, anything else by digest.
fn said(answers: &Answers) -> String {
    if let Some(count) = answers.get("").filter(|_| answers.len() == 1)
        && count.len() <= 20
        && !count.is_empty()
        && count.bytes().all(|b| b.is_ascii_digit())
    {
        return count.clone();
    }
    let lines: String = answers
        .iter()
        .map(|(key, value)| format!("{key}\t{value}\n"))
        .collect();
    format!(
        "{} rows, SHA-256 {}",
        answers.len(),
        Sha256Digest::of(lines.as_bytes())
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::queries::make_role;
    use crate::evidence::statement::results::CheckOutcome;
    use crate::scratch::{Isolation, ServerOptions, newest_programs};
    use std::time::Duration;

    fn answers(pairs: &[(&str, &str)]) -> Answers {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn value(query: &str, before: Answers, after: Answers) -> ReferenceValue {
        ReferenceValue {
            name: "value".into(),
            database: "postgres".into(),
            query: query.into(),
            sequence: query.strip_prefix("SELECT last_value FROM ").map(str::to_owned),
            before,
            after,
        }
    }

    /// On a real server: what agrees, and what does not.
    #[tokio::test]
    async fn tells_what_agrees_from_what_does_not() {
        let root = tempfile::tempdir().unwrap();
        let (major, _) = newest_programs().unwrap();
        let options = ServerOptions {
            data: root.path().join("data"),
            run: root.path().join("run"),
            major: major.get(),
            superuser: "postgres".into(),
            settings: vec![("fsync".into(), "off".into())],
        };
        PrivateServer::initdb(&options).unwrap();
        let mut server = PrivateServer::start(options, Isolation::plain()).unwrap();
        server.wait_ready(true, Duration::from_secs(30)).await.unwrap();
        make_role(&server).await.unwrap();
        let client = server.connect("postgres").await.unwrap();
        let table = "CREATE TABLE public.line (company text, balance numeric);
            INSERT INTO public.line VALUES ('a', 10.50), ('a', 2), ('b', -1);
            CREATE SEQUENCE public.ids INCREMENT 2; SELECT setval('public.ids', 100)";
        client.batch_execute(table).await.unwrap();
        let sums = "SELECT company, sum(balance) FROM public.line GROUP BY company";
        let right = answers(&[("a", "12.50"), ("b", "-1")]);
        let count = "SELECT count(*) FROM public.line";
        let ids = "SELECT last_value FROM public.ids";
        let cases = [
            (sums, true, right.clone(), right.clone(), true),
            (sums, true, answers(&[("a", "12.50")]), right.clone(), false),
            (
                sums,
                true,
                answers(&[("a", "12.51"), ("b", "-1")]),
                right.clone(),
                false,
            ),
            (
                sums,
                false,
                answers(&[("a", "12"), ("b", "-2")]),
                answers(&[("a", "13"), ("b", "0")]),
                true,
            ),
            (
                sums,
                false,
                answers(&[("a", "13"), ("b", "-1")]),
                answers(&[("a", "14"), ("b", "-1")]),
                false,
            ),
            (
                sums,
                false,
                answers(&[("a", "12.50")]),
                answers(&[("a", "12.50"), ("b", "5")]),
                false,
            ),
            (count, true, answers(&[("", "3")]), answers(&[("", "3")]), true),
            (count, true, answers(&[("", "4")]), answers(&[("", "4")]), false),
            (count, false, answers(&[("", "2")]), answers(&[("", "3")]), true),
            (count, false, answers(&[("", "4")]), answers(&[("", "9")]), false),
            (ids, true, answers(&[("", "100")]), answers(&[("", "100")]), true),
            (ids, true, answers(&[("", "34")]), answers(&[("", "34")]), true),
            (ids, true, answers(&[("", "32")]), answers(&[("", "32")]), false),
            (ids, true, answers(&[("", "102")]), answers(&[("", "102")]), false),
        ];
        for (query, exact, before, after, agrees) in cases {
            let what = format!("{query} {exact} {before:?} {after:?}");
            let values = ReferenceValues {
                format: 1,
                exact,
                values: vec![value(query, before, after)],
            };
            let mut found = Vec::new();
            let result = run(&server, &values, &mut found).await;
            assert_eq!(result.result == CheckOutcome::Pass, agrees, "{what}: {result:?}");
            assert_eq!(found[0].agrees, agrees, "{what}");
        }
        // What cannot be asked is no pass.
        let values = ReferenceValues {
            format: 1,
            exact: true,
            values: vec![value("SELECT count(*) FROM public.nowhere", right.clone(), right)],
        };
        let result = run(&server, &values, &mut Vec::new()).await;
        assert_eq!(result.result, CheckOutcome::CouldNotRun);
    }

    #[test]
    fn counts_are_said_and_sums_are_not() {
        assert_eq!(said(&answers(&[("", "402")])), "402");
        for private in [
            answers(&[("Acme Construction", "1234.50")]),
            answers(&[("", "1234.50")]),
            answers(&[("", "Jane")]),
            answers(&[("1", "2"), ("3", "4")]),
        ] {
            let text = said(&private);
            assert!(text.contains("rows, SHA-256 "), "{text}");
            assert!(!text.contains("1234") && !text.contains("Acme") && !text.contains("Jane"));
        }
        assert_ne!(said(&answers(&[("a", "1")])), said(&answers(&[("a", "2")])));
    }
}
