//! A scenario's own checks: a query for one value, run by a role that is no
//! superuser, read-only, with a pinned search path and a timeout.

use crate::checks::Check;
use crate::evidence::statement::results::CheckResult;
use crate::scenario::{Expectation, QueryCheck, text_digest};
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
        Ok(Answer::Number(actual)) => running.compared(check.expect.holds(actual), &check.expect, actual),
        // A text may be anything: evidence carries digests.
        Ok(Answer::Text(actual)) => running.compared(
            check.expect == Expectation::Text(actual.clone()),
            &check.expect,
            text_digest(&actual),
        ),
        Err(e) => running.could_not_run(&e),
    }
}

enum Answer {
    Number(i64),
    Text(String),
}

async fn answer(server: &PrivateServer, check: &QueryCheck) -> anyhow::Result<Answer> {
    let nothing = || anyhow::anyhow!("the query gave no value");
    if let Expectation::Text(_) = check.expect {
        let row = one(server, check, "text").await?;
        let text: Option<String> = row.get(0);
        return text.map(Answer::Text).ok_or_else(nothing);
    }
    // The text may be any query for one number: counts are bigint, sums numeric.
    let row = one(server, check, "bigint").await?;
    let number: Option<i64> = row.get(0);
    number.map(Answer::Number).ok_or_else(nothing)
}

async fn one(server: &PrivateServer, check: &QueryCheck, of: &str) -> anyhow::Result<tokio_postgres::Row> {
    let mut client = server.connect(&check.database).await?;
    let transaction = client.build_transaction().read_only(true).start().await?;
    transaction
        .batch_execute(&format!(
            "SET LOCAL ROLE {ROLE}; SET LOCAL search_path = public, pg_catalog; SET LOCAL statement_timeout = {}",
            check.timeout.as_millis()
        ))
        .await?;
    let wrapped = format!("SELECT (SELECT q.n FROM ({}) AS q (n))::{of}", check.query);
    Ok(transaction.query_one(&wrapped, &[]).await?)
}
