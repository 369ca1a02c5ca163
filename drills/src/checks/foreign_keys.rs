//! REFERENTIAL: rows against the rows that they refer to. Every foreign key that the
//! source holds to be valid is looked up anew, row by row: an index or a table that
//! lost something shows here, and so does a copy that is empty.
//!
//! What the database itself cannot refer by, a scenario's own query looks at.

use std::time::Duration;

use tokio_postgres::Client;

use crate::checks::{Check, structure};
use crate::evidence::statement::results::{CheckClass, CheckResult};
use crate::scratch::PrivateServer;

/// The longest that one foreign key may take.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Each foreign key as a query for two numbers: rows that refer to something, and those
/// of them whose something is not there. Columns are compared by the operators that the
/// constraint itself compares them by; a row with a NULL among them refers to nothing. A table's heirs are no
/// part of it here, as they are none to the constraint; a partitioned one's are.
const KEYS: &str = "SELECT con.conname::text, pg_catalog.format(
        'SELECT count(*), count(*) FILTER (WHERE p.ctid IS NULL) FROM %s%s f LEFT JOIN %s%s p ON %s WHERE %s',
        CASE fc.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END, con.conrelid::pg_catalog.regclass,
        CASE pc.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END, con.confrelid::pg_catalog.regclass,
        pg_catalog.string_agg(pg_catalog.format('p.%I OPERATOR(%I.%s) f.%I', pa.attname, n.nspname, o.oprname, fa.attname),
            ' AND ' ORDER BY k.place),
        pg_catalog.string_agg(pg_catalog.format('f.%I IS NOT NULL', fa.attname), ' AND ' ORDER BY k.place))
    FROM pg_catalog.pg_constraint con
    JOIN pg_catalog.pg_class fc ON fc.oid = con.conrelid
    JOIN pg_catalog.pg_class pc ON pc.oid = con.confrelid
    CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(con.conkey), pg_catalog.unnest(con.confkey),
        pg_catalog.unnest(con.conpfeqop)) WITH ORDINALITY AS k (f, p, o, place)
    JOIN pg_catalog.pg_attribute fa ON fa.attrelid = con.conrelid AND fa.attnum = k.f
    JOIN pg_catalog.pg_attribute pa ON pa.attrelid = con.confrelid AND pa.attnum = k.p
    JOIN pg_catalog.pg_operator o ON o.oid = k.o
    JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
    WHERE con.contype = 'f' AND con.convalidated AND con.conparentid = 0
    GROUP BY con.oid, con.conname, con.conrelid, con.confrelid, fc.relkind, pc.relkind ORDER BY con.oid";

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Foreign keys.
    pub keys: u64,
    /// Rows that refer to something.
    pub rows: u64,
    /// Rows whose something is not there.
    pub orphans: u64,
}

/// Looks up every foreign key of every database. A database without any proves nothing
/// here, and fails nothing.
pub async fn check(server: &PrivateServer) -> CheckResult {
    let check = Check::mandatory("foreign-keys", CheckClass::Referential)
        .optional()
        .query(KEYS);
    match count_all(server).await {
        Ok(counted) => {
            let actual = format!(
                "{} orphans among {} rows by {} foreign keys",
                counted.orphans, counted.rows, counted.keys
            );
            // Without a row that refers to something an empty copy would pass.
            let check = match counted.rows {
                0 => check,
                _ => check.data_proving(),
            };
            check.compared(counted.orphans == 0, "0 orphans", actual)
        }
        Err(e) => check.could_not_run(&e),
    }
}

async fn count_all(server: &PrivateServer) -> anyhow::Result<Counted> {
    let mut all = Counted::default();
    for database in structure::databases(server).await? {
        let client = server.connect(&database).await?;
        let counted = count(&client).await?;
        all.keys += counted.keys;
        all.rows += counted.rows;
        all.orphans += counted.orphans;
    }
    Ok(all)
}

/// Looks up every foreign key of the database that `client` is connected to.
///
/// # Errors
/// A query fails, or takes longer than half an hour.
pub async fn count(client: &Client) -> Result<Counted, tokio_postgres::Error> {
    let setting = format!(
        "BEGIN READ ONLY; SET LOCAL search_path = pg_catalog; SET LOCAL row_security = off; \
         SET LOCAL statement_timeout = {}",
        PATIENCE.as_millis()
    );
    client.batch_execute(&setting).await?;
    let mut counted = Counted::default();
    for key in client.query(KEYS, &[]).await? {
        let (name, query): (String, String) = (key.get(0), key.get(1));
        let row = client.query_one(&query, &[]).await?;
        let (rows, orphans): (i64, i64) = (row.get(0), row.get(1));
        if orphans > 0 {
            tracing::error!(constraint = %name, orphans, "rows refer to rows that are not there");
        }
        counted.keys += 1;
        counted.rows += u64::try_from(rows).unwrap_or(0);
        counted.orphans += u64::try_from(orphans).unwrap_or(0);
    }
    client.batch_execute("COMMIT").await?;
    Ok(counted)
}
