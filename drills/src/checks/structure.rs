//! STRUCTURE and RECOVERY checks on the running copy: indexes against their
//! tables, tables against their own rules, collation versions, and afterwards,
//! on the stopped copy, the checksum of every page.

use std::path::Path;
use std::process::{Output, Stdio};

use crate::checks::Check;
use crate::evidence::statement::results::{CheckClass, CheckOutcome, CheckResult, DatabaseResult};
use crate::scratch::{Isolation, PrivateServer, ServerError, programs};

/// Databases of the copy that can be connected to.
pub async fn databases(server: &PrivateServer) -> Result<Vec<String>, ServerError> {
    let client = server.connect("postgres").await?;
    let rows = client
        .query(
            "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn ORDER BY datname",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|r| r.get(0)).collect())
}

const INDEXES: &str = "SELECT c.oid::pg_catalog.regclass::text, pg_catalog.pg_relation_size(c.oid)
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    JOIN pg_catalog.pg_am a ON a.oid = c.relam
    WHERE a.amname = 'btree' AND c.relkind = 'i' AND i.indisvalid AND i.indisready AND c.relpersistence = 'p'
    ORDER BY c.oid";

const TABLES: &str = "SELECT c.oid::pg_catalog.regclass::text, pg_catalog.pg_relation_size(c.oid)
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_am a ON a.oid = c.relam
    WHERE a.amname = 'heap' AND c.relkind IN ('r', 't', 'm') AND c.relpersistence = 'p' ORDER BY c.oid";

/// amcheck over every B-tree index (with every heap tuple looked up in it) and
/// every table of every database.
pub async fn amcheck(server: &PrivateServer, result: &mut DatabaseResult) -> CheckResult {
    let check = Check::mandatory("amcheck-heapallindexed", CheckClass::Structure)
        .data_proving()
        .query(INDEXES);
    match amcheck_all(server).await {
        Ok(count) => {
            result.tables = Some(count.tables);
            result.amcheck_errors = Some(count.errors);
            let actual = format!(
                "{} errors in {} indexes and {} tables, {} bytes",
                count.errors, count.indexes, count.tables, count.bytes
            );
            check.compared(count.errors == 0 && count.bytes > 0, "0 errors", actual)
        }
        Err(e) => check.could_not_run(&e),
    }
}

#[derive(Debug, Default)]
struct Count {
    indexes: u64,
    tables: u64,
    errors: u64,
    bytes: u64,
}

async fn amcheck_all(server: &PrivateServer) -> anyhow::Result<Count> {
    let mut count = Count::default();
    for database in databases(server).await? {
        let client = server.connect(&database).await?;
        // amcheck is contrib: the copy is ours to extend, the source is not touched.
        client
            .batch_execute("CREATE SCHEMA holdfast_drill; CREATE EXTENSION amcheck SCHEMA holdfast_drill")
            .await?;
        for row in client.query(INDEXES, &[]).await? {
            let (name, size): (String, i64) = (row.get(0), row.get(1));
            count.indexes += 1;
            count.bytes += size as u64;
            let call = "SELECT holdfast_drill.bt_index_check($1::text::pg_catalog.regclass, true)";
            if let Err(e) = client.query(call, &[&name]).await {
                count.errors += 1;
                tracing::error!(database, index = %name, err = %e, "amcheck found an error");
            }
        }
        for row in client.query(TABLES, &[]).await? {
            let (name, size): (String, i64) = (row.get(0), row.get(1));
            count.tables += 1;
            count.bytes += size as u64;
            let call = "SELECT count(*) FROM holdfast_drill.verify_heapam($1::text::pg_catalog.regclass)";
            let found: i64 = client.query_one(call, &[&name]).await?.get(0);
            if found > 0 {
                count.errors += found as u64;
                tracing::error!(database, table = %name, found, "amcheck found errors");
            }
        }
        client.batch_execute("DROP SCHEMA holdfast_drill CASCADE").await?;
    }
    Ok(count)
}

/// Collation versions recorded in the catalogue against those of this machine's
/// libraries: a difference breaks the order of indexes.
pub async fn collations(server: &PrivateServer) -> CheckResult {
    const QUERY: &str = "SELECT count(*) FROM pg_catalog.pg_collation
        WHERE collversion IS NOT NULL AND collversion IS DISTINCT FROM pg_catalog.pg_collation_actual_version(oid)";
    const DATABASE: &str =
        "SELECT count(*) FROM pg_catalog.pg_database WHERE datallowconn AND datcollversion IS NOT NULL
        AND datcollversion IS DISTINCT FROM pg_catalog.pg_database_collation_actual_version(oid)";
    let check = Check::mandatory("collation-versions", CheckClass::Structure).query(QUERY);
    let differing = async {
        let mut differing = 0i64;
        for database in databases(server).await? {
            let client = server.connect(&database).await?;
            differing += client.query_one(QUERY, &[]).await?.get::<_, i64>(0);
        }
        let client = server.connect("postgres").await?;
        let version: i32 = client
            .query_one(
                "SELECT pg_catalog.current_setting('server_version_num')::int",
                &[],
            )
            .await?
            .get(0);
        // Databases carry a collation version from PostgreSQL 15 on.
        if version >= 150_000 {
            differing += client.query_one(DATABASE, &[]).await?.get::<_, i64>(0);
        }
        Ok::<_, ServerError>(differing)
    };
    match differing.await {
        Ok(n) => check.compared(n == 0, "0 that differ", format!("{n} that differ")),
        Err(e) => check.could_not_run(&e),
    }
}

/// The server's version: the base's own, and the one that the scenario wants.
pub async fn version(server: &PrivateServer, base: u32, wanted: Option<u32>) -> CheckResult {
    let check = Check::mandatory("server-version", CheckClass::Structure);
    let asked = async {
        let client = server.connect("postgres").await?;
        let query = "SELECT pg_catalog.current_setting('server_version_num')::int / 10000";
        Ok::<i32, ServerError>(client.query_one(query, &[]).await?.get(0))
    };
    let wanted = wanted.unwrap_or(base / 10_000);
    match asked.await {
        Ok(major) => check.compared(
            u32::try_from(major) == Ok(wanted) && base / 10_000 == wanted,
            wanted,
            format!("{major}, restored from a base of {}", base / 10_000),
        ),
        Err(e) => check.could_not_run(&e),
    }
}

/// Every extension that a database uses is installed here in that version: without
/// its library the copy answers some queries and fails others.
pub async fn extensions(server: &PrivateServer) -> CheckResult {
    const QUERY: &str = "SELECT e.extname, v.version IS NOT NULL FROM pg_catalog.pg_extension e
        LEFT JOIN pg_catalog.pg_available_extension_versions v ON v.name = e.extname AND v.version = e.extversion";
    let check = Check::mandatory("extensions", CheckClass::Structure).query(QUERY);
    let counted = async {
        let (mut all, mut missing) = (0, 0);
        for database in databases(server).await? {
            let client = server.connect(&database).await?;
            for row in client.query(QUERY, &[]).await? {
                all += 1;
                if !row.get::<_, bool>(1) {
                    missing += 1;
                    let extension: &str = row.get(0);
                    tracing::error!(
                        database,
                        extension,
                        "an extension is not installed here in its version"
                    );
                }
            }
        }
        Ok::<(u64, u64), ServerError>((all, missing))
    };
    match counted.await {
        Ok((all, missing)) => check.compared(
            missing == 0,
            format!("{all} of {all} installed"),
            format!("{} of {all} installed", all - missing),
        ),
        Err(e) => check.could_not_run(&e),
    }
}

/// The checksum of every page, on the cleanly stopped copy.
pub fn page_checksums(data: &Path, major: u32, result: &mut DatabaseResult) -> CheckResult {
    let check = Check::mandatory("page-checksums", CheckClass::Structure).data_proving();
    let output = match tool(data, major, "pg_checksums", &["--check"]) {
        Ok(output) => output,
        Err(e) => return check.could_not_run(&e),
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |label: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(label))
            .and_then(|n| n.trim().parse::<u64>().ok())
    };
    match (number("Bad checksums:"), number("Blocks scanned:")) {
        (Some(bad), Some(blocks)) => {
            result.checksum_failures = Some(bad);
            check.compared(
                bad == 0 && blocks > 0,
                "0 bad",
                format!("{bad} bad of {blocks} pages"),
            )
        }
        _ => check.could_not_run(&String::from_utf8_lossy(&output.stderr)),
    }
}

/// The control file of the cleanly stopped copy.
pub fn control_file(data: &Path, major: u32) -> CheckResult {
    let check = Check::mandatory("control-file", CheckClass::Structure);
    match tool(data, major, "pg_controldata", &[]) {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let state = text
                .lines()
                .find_map(|l| l.strip_prefix("Database cluster state:"))
                .map_or("", str::trim)
                .to_owned();
            let warned = text.contains("WARNING");
            check.compared(state == "shut down" && !warned, "shut down", state)
        }
        Ok(output) => check.could_not_run(&String::from_utf8_lossy(&output.stderr)),
        Err(e) => check.could_not_run(&e),
    }
}

fn tool(data: &Path, major: u32, name: &'static str, arguments: &[&str]) -> Result<Output, ServerError> {
    Isolation::plain()
        .tool(programs(major)?.join(name))
        .arg("-D")
        .arg(data)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| ServerError::Program {
            program: name,
            source,
        })
}

/// Whether a list of checks has a failure.
pub fn any_failed(checks: &[CheckResult]) -> bool {
    checks.iter().any(|c| c.result == CheckOutcome::Fail)
}
