//! The statements that make the agent's role.

use holdfast_proto::pg::PgMajor;

/// The statements a superuser runs once in any database, as `holdfast agent sql`
/// prints them: a role that may replicate, read statistics and settings, and
/// call the backup functions, and nothing else. Running them again changes
/// nothing.
///
/// The privileges on functions count in the database they are run in; the agent
/// connects to that one.
pub fn role_sql(role: &str, major: PgMajor) -> String {
    let name = identifier(role);
    let mut sql = format!(
        "-- The role that Holdfast connects as, for PostgreSQL {major}. Run this as a superuser in the\n\
         -- database that the agent's configuration names. It gives no access to tables.\n\
         DO $holdfast$\n\
         BEGIN\n  \
           IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) {}) THEN\n    \
             CREATE ROLE {name};\n  \
           END IF;\n\
         END\n\
         $holdfast$;\n\
         ALTER ROLE {name} LOGIN REPLICATION NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS;\n\
         ALTER ROLE {name} SET search_path = pg_catalog;\n\
         GRANT pg_monitor TO {name};\n",
        literal(role)
    );
    for function in functions(major) {
        sql.push_str(&format!(
            "GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {name};\n"
        ));
    }
    // In comments a line break would end the comment.
    let role = role.escape_debug();
    sql.push_str(&format!(
        "-- A password, unless the role logs in by peer over the unix socket: \\password {role}\n\
         -- In pg_hba.conf, before other lines that match, for SQL and for replication:\n\
         --   local  all,replication  {role}  peer map=holdfast\n\
         -- In pg_ident.conf, for the user that the agent runs as:\n\
         --   holdfast  postgres  {role}\n\
         -- Then: SELECT pg_reload_conf();\n"
    ));
    sql
}

fn functions(major: PgMajor) -> Vec<&'static str> {
    let (start, stop) = if major.get() >= 15 {
        ("pg_backup_start(text, boolean)", "pg_backup_stop(boolean)")
    } else {
        (
            "pg_start_backup(text, boolean, boolean)",
            "pg_stop_backup(boolean, boolean)",
        )
    };
    let message = if major.get() >= 17 {
        "pg_logical_emit_message(boolean, text, text, boolean)"
    } else {
        "pg_logical_emit_message(boolean, text, text)"
    };
    vec![
        start,
        stop,
        "pg_create_restore_point(text)",
        "pg_switch_wal()",
        message,
    ]
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') {
        format!("E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_functions_are_the_majors() {
        let sql = role_sql("hold\"fa'st", PgMajor::new(14).unwrap());
        assert!(sql.contains("CREATE ROLE \"hold\"\"fa'st\";"));
        assert!(sql.contains("'hold\"fa''st'"));
        assert!(sql.contains("pg_start_backup(text, boolean, boolean)"));
        let sql = role_sql("holdfast", PgMajor::new(17).unwrap());
        assert!(sql.contains("pg_backup_stop(boolean)"));
        assert!(sql.contains("pg_logical_emit_message(boolean, text, text, boolean)"));
        assert!(!sql.contains("SUPERUSER LOGIN"));
        assert!(sql.contains("--   local  all,replication  holdfast  peer map=holdfast\n"));
        assert!(sql.contains("--   holdfast  postgres  holdfast\n"));
    }
}
