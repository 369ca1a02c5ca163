//! A scenario's own checks: a query for one value, run by a role that is no
//! superuser, read-only, with a pinned search path and a timeout.

use crate::checks::Check;
use crate::evidence::statement::results::CheckResult;
use crate::scenario::{Expectation, Number, QueryCheck, text_digest};
use crate::scratch::PrivateServer;

/// The role that queries and programs run as: made on the copy, may read
/// everything and log in over the private socket, is no superuser.
pub const ROLE: &str = "holdfast_drill";

/// Makes [`ROLE`] on the copy.
pub async fn make_role(server: &PrivateServer) -> Result<(), crate::scratch::ServerError> {
    let client = server.connect("postgres").await?;
    let exists = client
        .query_opt("SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = $1", &[&ROLE])
        .await?
        .is_some();
    if !exists {
        client
            .batch_execute(&format!("CREATE ROLE {ROLE} LOGIN IN ROLE pg_read_all_data"))
            .await?;
    }
    Ok(())
}

/// Runs one check.
pub async fn run(server: &PrivateServer, check: &QueryCheck) -> CheckResult {
    let mut running = Check::mandatory(&check.id, check.class)
        .data_proving()
        .query(&check.query);
    if !check.mandatory {
        running = running.optional();
    }
    match answer(server, check).await {
        Ok(Answer::Number(actual)) => {
            running.compared(check.expect.holds(&actual), &check.expect, actual.said())
        }
        // A text may be anything: evidence carries digests.
        Ok(Answer::Text(actual)) => running.compared(
            check.expect == Expectation::Text(actual.clone()),
            &check.expect,
            text_digest(&actual),
        ),
        // It ran, and what it found cannot be what was expected.
        Ok(Answer::NotOne(what)) => running.compared(false, &check.expect, what),
        Err(e) => running.could_not_run(&e),
    }
}

enum Answer {
    Number(Number),
    Text(String),
    /// Something else than one row with one value, in words.
    NotOne(String),
}

async fn answer(server: &PrivateServer, check: &QueryCheck) -> anyhow::Result<Answer> {
    let mut client = server.connect(&check.database).await?;
    let transaction = client.build_transaction().read_only(true).start().await?;
    // Floating-point numbers are written with every digit that they have.
    transaction
        .batch_execute(&format!(
            "SET LOCAL ROLE {ROLE}; SET LOCAL search_path = public, pg_catalog; SET LOCAL extra_float_digits = 3; \
             SET LOCAL statement_timeout = {}",
            check.timeout.as_millis()
        ))
        .await?;
    let columns = transaction.prepare(&check.query).await?.columns().len();
    if columns != 1 {
        return Ok(Answer::NotOne(format!("{columns} columns")));
    }
    // By way of its text a number is numeric without being rounded: no other cast does
    // that from every type.
    let of = match check.expect {
        Expectation::Text(_) => "text",
        _ => "text::numeric::text",
    };
    let wrapped = format!("SELECT q.n::{of} FROM ({}) AS q (n) LIMIT 2", check.query);
    let rows = transaction.query(&wrapped, &[]).await?;
    let [row] = rows.as_slice() else {
        let what = if rows.is_empty() {
            "no row"
        } else {
            "more than one row"
        };
        return Ok(Answer::NotOne(what.to_owned()));
    };
    let Some(value) = row.get::<_, Option<String>>(0) else {
        return Ok(Answer::NotOne("a row without a value".to_owned()));
    };
    Ok(match check.expect {
        Expectation::Text(_) => Answer::Text(value),
        _ => Answer::Number(Number::of(&value)),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::evidence::statement::results::{CheckClass, CheckOutcome};
    use crate::scratch::{Isolation, ServerOptions, newest_programs};

    /// On a real server: numbers are compared as they are, and one value is wanted.
    #[tokio::test]
    async fn a_number_is_not_rounded_and_stands_alone() {
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
        use CheckOutcome::{CouldNotRun, Fail, Pass};
        let text = |t: &str| Expectation::Text(t.to_owned());
        for (query, expect, outcome, actual) in [
            ("SELECT 0.49", Expectation::Equals(0), Fail, "0.49"),
            ("SELECT 0.49::float8", Expectation::Equals(0), Fail, "0.49"),
            (
                "SELECT 1.0000000000000002::float8",
                Expectation::Equals(1),
                Fail,
                "1.0000000000000002",
            ),
            ("SELECT 6.9", Expectation::AtLeast(7), Fail, "6.9"),
            ("SELECT 7.1", Expectation::AtMost(7), Fail, "7.1"),
            ("SELECT 7.00", Expectation::Equals(7), Pass, "7"),
            (
                "SELECT count(*) FROM pg_database",
                Expectation::AtLeast(3),
                Pass,
                "3",
            ),
            ("SELECT 'NaN'::float8", Expectation::AtLeast(7), Fail, "NaN"),
            ("SELECT 1, 2", Expectation::Equals(1), Fail, "2 columns"),
            (
                "VALUES (1), (1)",
                Expectation::Equals(1),
                Fail,
                "more than one row",
            ),
            ("SELECT 1 WHERE false", Expectation::Equals(1), Fail, "no row"),
            (
                "SELECT NULL::int",
                Expectation::Equals(0),
                Fail,
                "a row without a value",
            ),
            ("SELECT 'a'", text("a"), Pass, ""),
            ("SELECT 'a', 'b'", text("a"), Fail, "2 columns"),
            ("SELECT 'a'", Expectation::Equals(1), CouldNotRun, ""),
            ("SELECT * FROM nowhere", Expectation::Equals(1), CouldNotRun, ""),
        ] {
            let check = QueryCheck {
                id: "own".to_owned(),
                class: CheckClass::Referential,
                database: "postgres".to_owned(),
                query: query.to_owned(),
                expect,
                timeout: Duration::from_secs(10),
                mandatory: true,
            };
            let found = run(&server, &check).await;
            assert_eq!(found.result, outcome, "{query}: {found:?}");
            if !actual.is_empty() {
                assert_eq!(found.actual.as_deref(), Some(actual), "{query}");
            }
        }
    }
}
