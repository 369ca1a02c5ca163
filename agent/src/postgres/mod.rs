//! How the agent talks to PostgreSQL: SQL, and physical replication.
//!
//! Two kinds of connection to one [`PgTarget`], over a unix socket or over TCP
//! with verified TLS, authenticated by SCRAM (bound to the TLS channel where the
//! server offers that):
//! - [`sql_connect`]: an ordinary session of tokio-postgres, with nothing but
//!   `pg_catalog` on its search path, so that no tenant's object can stand in
//!   for a system function.
//! - [`ReplicationConnection`]: the replication protocol, which tokio-postgres
//!   does not speak, on its sister crate's message codec. [`WalStream`] is such
//!   a connection while WAL flows.
//!
//! What is done with the WAL, when to connect again and what a gap means is
//! decided in `crate::wal`; this module says what happened, by
//! [`PgError::class`]. It keeps nothing between calls: if the process dies here,
//! the server closes the session, and a slot keeps what was not confirmed.
//!
//! What holds:
//! - The WAL a stream hands out is gapless from the position asked for; a server
//!   that sends anything else is refused.
//! - No message larger than its kind can be is read into memory.
//! - A password is read when it is needed, never printed, and never sent in
//!   clear over TCP without TLS.
//! - [`WalStream::next`] and [`WalStream::status`] may be dropped at any await
//!   without losing or doubling a byte.

mod error;
mod identity;
mod replication;
mod role;
mod sql;
mod standby;
mod stream;
mod target;
mod tls;
mod wire;

pub use error::{PgError, PgErrorClass};
pub use identity::identity_by_sql;
pub use replication::{HistoryFile, ReplicationConnection, SlotCreation, SlotState, SystemIdentity};
pub use role::role_sql;
pub use sql::{DEFAULT_STATEMENT_TIMEOUT, sql_connect, sql_connect_with};
pub use standby::followed_by_standby;
pub use stream::{StreamEvent, WalStream};
pub use target::{BadTarget, Password, PgHost, PgTarget, Secret, SlotName, TlsMode};
