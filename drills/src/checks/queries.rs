//! A scenario's own checks: a query for one number, run by a role that is no
//! superuser, read-only, with a pinned search path and a timeout.

use crate::checks::Check;
use crate::evidence::statement::results::CheckResult;
use crate::scenario::QueryCheck;
use crate::scratch::PrivateServer;

/// The role that queries run as: made on the copy, may read everything, is no
/// superuser.
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
            .batch_execute(&format!("CREATE ROLE {ROLE} NOLOGIN IN ROLE pg_read_all_data"))
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
    match number(server, check).await {
        Ok(actual) => running.compared(check.expect.holds(actual), check.expect, actual),
        Err(e) => running.could_not_run(&e),
    }
}

async fn number(server: &PrivateServer, check: &QueryCheck) -> anyhow::Result<i64> {
    let mut client = server.connect(&check.database).await?;
    let transaction = client.build_transaction().read_only(true).start().await?;
    transaction
        .batch_execute(&format!(
            "SET LOCAL ROLE {ROLE}; SET LOCAL search_path = public, pg_catalog; SET LOCAL statement_timeout = {}",
            check.timeout.as_millis()
        ))
        .await?;
    // The text may be any query for one number: counts are bigint, sums numeric.
    let wrapped = format!("SELECT (SELECT q.n FROM ({}) AS q (n))::bigint", check.query);
    let row = transaction.query_one(&wrapped, &[]).await?;
    let value: Option<i64> = row.get(0);
    value.ok_or_else(|| anyhow::anyhow!("the query gave no number"))
}
