//! SQL sessions.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};

use super::error::{PgError, ServerError};
use super::target::{PgHost, PgTarget, TlsMode};
use super::tls::{RustlsConnect, client_config};
use super::wire::within;

/// How long a statement may take in a session of [`sql_connect`].
pub const DEFAULT_STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Opens a session whose statements end after
/// [`DEFAULT_STATEMENT_TIMEOUT`]. See [`sql_connect_with`].
pub async fn sql_connect(target: &PgTarget) -> Result<Client, PgError> {
    sql_connect_with(target, DEFAULT_STATEMENT_TIMEOUT).await
}

/// Opens a session in the target's database, with `pg_catalog` alone on its
/// search path. A statement that takes longer than `statement_timeout` is ended
/// by the server; zero means never, as a base backup's start needs.
///
/// The session lives as long as the client: the task that drives the connection
/// ends when the client is dropped, and its errors are those of the client's
/// calls.
pub async fn sql_connect_with(target: &PgTarget, statement_timeout: Duration) -> Result<Client, PgError> {
    let mut config = Config::new();
    config
        .port(target.port)
        .user(target.user.as_str())
        .dbname(target.dbname.as_str())
        .application_name(target.application_name.as_str())
        .connect_timeout(target.connect_timeout)
        .options(format!(
            "-c search_path=pg_catalog -c statement_timeout={} -c client_min_messages=warning",
            statement_timeout.as_millis()
        ));
    match &target.host {
        PgHost::Socket(dir) => config.host_path(dir),
        PgHost::Tcp(name) => config.host(name.as_str()),
    };
    if let Some(password) = target.read_password(&target.dbname)? {
        config.password(password.expose());
    }
    let at = target.place();
    let connecting = async {
        match &target.tls {
            TlsMode::Disable => {
                config.ssl_mode(SslMode::Disable);
                let (client, connection) = config.connect(NoTls).await?;
                tokio::spawn(drive(connection));
                Ok(client)
            }
            TlsMode::Require { ca } => {
                config.ssl_mode(SslMode::Require);
                let tls = client_config(ca).map_err(|source| PgError::Tls {
                    at: at.clone(),
                    source,
                })?;
                let (client, connection) = config.connect(RustlsConnect(tls)).await?;
                tokio::spawn(drive(connection));
                Ok(client)
            }
        }
    };
    within(&at, target.connect_timeout, "connecting", connecting)
        .await
        .map_err(|error| refused(error, &at))
}

async fn drive(connection: impl Future<Output = Result<(), tokio_postgres::Error>>) {
    if let Err(error) = connection.await {
        tracing::debug!(err = %error, "the SQL session ended");
    }
}

/// What went wrong with a connection, in the same words as on a replication
/// connection.
fn refused(error: PgError, at: &str) -> PgError {
    let PgError::Sql(sql) = error else { return error };
    if let Some(db) = sql.as_db_error() {
        let server = ServerError {
            sqlstate: db.code().code().to_owned(),
            message: db.message().to_owned(),
        };
        return server.while_doing("the connection");
    }
    let mut cause = sql.source();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            let source = io::Error::new(io.kind(), io.to_string());
            let tls = io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
            let at = at.to_owned();
            return if tls {
                PgError::Tls { at, source }
            } else {
                PgError::Unreachable { at, source }
            };
        }
        cause = error.source();
    }
    if sql.is_closed() {
        return PgError::Unreachable {
            at: at.to_owned(),
            source: io::ErrorKind::UnexpectedEof.into(),
        };
    }
    // A password that is asked for and not configured, a method that is not
    // supported.
    let why = sql
        .source()
        .map_or_else(|| sql.to_string(), |source| format!("{sql}: {source}"));
    PgError::Invalid(format!(
        "PostgreSQL at {at} cannot be used as configured ({why}): check password_file and pg_hba.conf"
    ))
}
