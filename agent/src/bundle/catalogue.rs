//! Facts of the server's catalogues that a restore is compared with.
//!
//! Rows are taken as the catalogue has them, as JSON, without what changes by
//! itself (transaction ids, sizes) and without anything that may be a secret: so
//! the same statements serve every major, and columns that a newer one adds are in
//! the bundle without a change here. Passwords of roles are not among what the
//! agent may read; they travel with the base backup.
//!
//! A database that the agent may not connect to is named in the facts and a
//! finding; what all databases share is known all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use holdfast_proto::finding::Severity;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Client;

use super::BundleError;
use super::files::ServerFile;
use crate::findings::Findings;
use crate::postgres::{PgTarget, sql_connect};

/// Settings whose names say that their values are secret.
const SECRET_SETTINGS: &str = "name ~* '(password|passwd|secret|token|conninfo|passphrase)'";

/// `catalogue.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Facts {
    /// Version of this form: 1.
    pub format: u32,
    /// `version()` and `server_version_num`.
    pub server: Value,
    /// Settings that are not at their default.
    pub settings: Vec<Value>,
    /// Roles, without passwords.
    pub roles: Vec<Value>,
    /// Who is a member of whom.
    pub memberships: Vec<Value>,
    /// Settings of roles and databases.
    pub role_settings: Vec<Value>,
    /// Tablespaces and their locations.
    pub tablespaces: Vec<Value>,
    /// Databases.
    pub databases: Vec<Value>,
    /// What is in each database that could be asked.
    pub within: BTreeMap<String, Within>,
    /// Databases that could not be asked, and why.
    pub closed: BTreeMap<String, String>,
    #[serde(skip)]
    places: BTreeMap<String, String>,
    #[serde(skip)]
    sources: BTreeSet<String>,
}

/// Facts of one database.
#[derive(Debug, Clone, Serialize)]
pub struct Within {
    /// Extensions with version and schema.
    pub extensions: Vec<Value>,
    /// Collations with the version they were made with and the present one.
    pub collations: Vec<Value>,
}

/// Asks the server.
pub async fn read(target: &PgTarget, findings: &Findings) -> Result<Facts, BundleError> {
    let client = sql_connect(target).await?;
    let major = client
        .query_one("SELECT current_setting('server_version_num')::int / 10000", &[])
        .await?;
    let major: i32 = major.try_get(0)?;
    let server = "SELECT jsonb_build_object('version', version(), 'version_num', current_setting('server_version_num')::int, \
                  'encoding', current_setting('server_encoding'), 'data_checksums', current_setting('data_checksums'))::text";
    let settings = format!(
        "SELECT (to_jsonb(s) || jsonb_build_object('setting', CASE WHEN {SECRET_SETTINGS} THEN '(secret)' ELSE setting END))::text \
         FROM (SELECT name, setting, unit, source, sourcefile FROM pg_settings \
               WHERE source NOT IN ('default', 'session', 'client', 'database', 'user', 'database user')) AS s ORDER BY name"
    );
    let roles = "SELECT (to_jsonb(r) - 'rolpassword')::text FROM pg_roles AS r ORDER BY rolname";
    let memberships = "SELECT jsonb_build_object('role', pg_get_userbyid(roleid), 'member', pg_get_userbyid(member), \
                       'admin', admin_option)::text FROM pg_auth_members ORDER BY roleid, member";
    let role_settings = "SELECT jsonb_build_object('database', d.datname, 'role', pg_get_userbyid(nullif(s.setrole, 0)), 'settings', \
                         (SELECT jsonb_agg(regexp_replace(c, '^([^=]*(password|passwd|secret|token)[^=]*)=.*$', '\\1=(secret)', 'i')) FROM unnest(s.setconfig) AS c))::text \
                         FROM pg_db_role_setting AS s LEFT JOIN pg_database AS d ON d.oid = s.setdatabase ORDER BY s.setdatabase, s.setrole";
    let tablespaces = "SELECT jsonb_build_object('oid', oid, 'name', spcname, 'owner', pg_get_userbyid(spcowner), 'location', \
                       pg_tablespace_location(oid), 'options', spcoptions)::text FROM pg_tablespace ORDER BY spcname";
    let actual = if major >= 15 {
        "pg_database_collation_actual_version(oid)"
    } else {
        "NULL::text"
    };
    let databases = format!(
        "SELECT ((to_jsonb(d) - ARRAY['datfrozenxid', 'datminmxid', 'datlastsysoid']) || jsonb_build_object('owner', \
         pg_get_userbyid(datdba), 'encoding', pg_encoding_to_char(encoding), 'collation_actual_version', {actual}))::text \
         FROM pg_database AS d ORDER BY datname"
    );
    let mut facts = Facts {
        format: 1,
        server: rows(&client, server).await?.pop().unwrap_or_default(),
        settings: rows(&client, &settings).await?,
        roles: rows(&client, roles).await?,
        memberships: rows(&client, memberships).await?,
        role_settings: rows(&client, role_settings).await?,
        tablespaces: rows(&client, tablespaces).await?,
        databases: rows(&client, &databases).await?,
        within: BTreeMap::new(),
        closed: BTreeMap::new(),
        places: BTreeMap::new(),
        sources: BTreeSet::new(),
    };
    let places = "SELECT name, setting FROM pg_settings WHERE setting <> '' AND name IN ('data_directory', 'config_file', \
                  'hba_file', 'ident_file') OR name IN ('ssl_cert_file', 'ssl_key_file', 'ssl_ca_file') AND \
                  current_setting('ssl') = 'on' AND setting <> ''";
    for row in client.query(places, &[]).await? {
        facts.places.insert(row.try_get(0)?, row.try_get(1)?);
    }
    for row in client
        .query(
            "SELECT DISTINCT sourcefile FROM pg_settings WHERE sourcefile IS NOT NULL",
            &[],
        )
        .await?
    {
        facts.sources.insert(row.try_get(0)?);
    }
    let open = "SELECT datname FROM pg_database WHERE datallowconn ORDER BY datname";
    for row in client.query(open, &[]).await? {
        let database: String = row.try_get(0)?;
        match within(&target.clone().in_database(&database), major).await {
            Ok(known) => {
                findings.clear("catalogue-unreadable", &database);
                facts.within.insert(database, known);
            }
            Err(error) => {
                let why = holdfast_repository::replica::explained(&error);
                findings.raise(
                    Severity::Info,
                    "catalogue-unreadable",
                    database.clone(),
                    format!("its extensions and collations are not in the configuration bundle ({why}): grant CONNECT to the agent's role"),
                );
                facts.closed.insert(database, why);
            }
        }
    }
    Ok(facts)
}

async fn within(target: &PgTarget, major: i32) -> Result<Within, BundleError> {
    let client = sql_connect(target).await?;
    let extensions = "SELECT jsonb_build_object('name', extname, 'version', extversion, 'schema', nspname)::text \
                      FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace ORDER BY extname";
    // The hundreds that initdb imports are compared by those that are used: where
    // a version is recorded and differs, or the database has made its own.
    let locale = if major >= 15 {
        "colliculocale"
    } else {
        "NULL::text"
    };
    let locale = if major >= 17 { "colllocale" } else { locale };
    let collations = format!(
        "SELECT jsonb_build_object('name', nspname || '.' || collname, 'provider', collprovider, 'collate', collcollate, \
         'locale', {locale}, 'version', collversion, 'actual_version', pg_collation_actual_version(c.oid))::text \
         FROM pg_collation AS c JOIN pg_namespace AS n ON n.oid = c.collnamespace \
         WHERE c.oid >= 16384 OR collversion IS DISTINCT FROM pg_collation_actual_version(c.oid) ORDER BY nspname, collname"
    );
    Ok(Within {
        extensions: rows(&client, extensions).await?,
        collations: rows(&client, &collations).await?,
    })
}

async fn rows(client: &Client, sql: &str) -> Result<Vec<Value>, BundleError> {
    let mut values = Vec::new();
    for row in client.query(sql, &[]).await? {
        values.push(serde_json::from_str(row.try_get(0)?)?);
    }
    Ok(values)
}

impl Facts {
    /// The bytes of `catalogue.json`.
    pub fn json(&self) -> Result<Vec<u8>, BundleError> {
        Ok(serde_json::to_vec_pretty(self)?)
    }

    /// How many facts of each kind there are.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let within = |count: fn(&Within) -> usize| self.within.values().map(count).sum();
        [
            ("settings", self.settings.len()),
            ("roles", self.roles.len()),
            ("tablespaces", self.tablespaces.len()),
            ("databases", self.databases.len()),
            ("extensions", within(|w| w.extensions.len())),
            ("collations", within(|w| w.collations.len())),
        ]
        .into_iter()
        .map(|(kind, count)| (kind.to_owned(), count as u64))
        .collect()
    }

    /// The server's configuration files, as the agent finds them: below
    /// `data_directory` instead of the server's own when that is given.
    pub fn server_files(&self, data_directory: Option<&Path>) -> Vec<ServerFile> {
        let own = self.places.get("data_directory").map(PathBuf::from);
        let seen = |path: &str| {
            let path = match &own {
                Some(own) if Path::new(path).is_relative() => own.join(path),
                _ => PathBuf::from(path),
            };
            match (&own, data_directory) {
                (Some(own), Some(here)) => path
                    .strip_prefix(own)
                    .map(|below| here.join(below))
                    .unwrap_or(path),
                _ => path,
            }
        };
        let mut files = BTreeSet::new();
        for (name, path) in &self.places {
            if name != "data_directory" {
                files.insert(ServerFile {
                    path: seen(path),
                    secret: name == "ssl_key_file",
                    optional: false,
                });
            }
        }
        files.extend(self.sources.iter().map(|path| ServerFile {
            path: seen(path),
            secret: false,
            optional: false,
        }));
        if own.is_some() {
            files.insert(ServerFile {
                path: seen("postgresql.auto.conf"),
                secret: false,
                optional: true,
            });
        }
        files.into_iter().collect()
    }
}
