//! What can go wrong between the agent and PostgreSQL, by what to do about it.

use std::io;

use postgres_protocol::message::backend::ErrorResponseBody;

use fallible_iterator::FallibleIterator;

/// What the caller should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PgErrorClass {
    /// Try again, with a pause.
    Retry,
    /// Someone else holds it: try again, and say so when it lasts.
    Busy,
    /// The server refuses this role: an operator must act.
    Denied,
    /// What was named does not exist.
    NotFound,
    /// WAL that was asked for is gone for good: a gap.
    Gap,
    /// The configuration cannot work.
    Invalid,
    /// The other side does not behave as PostgreSQL does.
    Protocol,
    /// The server refused a statement for a reason of its own.
    Server,
}

/// An error of a connection to PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum PgError {
    /// No connection, or it broke.
    #[error("PostgreSQL at {at} cannot be reached: check that it runs and that host and port are right")]
    Unreachable {
        /// Where.
        at: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server was silent for too long.
    #[error(
        "PostgreSQL at {at} did not answer within {seconds} s while {doing}: check its load and the network"
    )]
    Silent {
        /// Where.
        at: String,
        /// What was waited for.
        doing: &'static str,
        /// How long.
        seconds: u64,
    },
    /// The server is starting, stopping, or was told to end the session.
    #[error("PostgreSQL is starting or stopping ({message}): it is tried again")]
    ShuttingDown {
        /// Its words.
        message: String,
    },
    /// The TLS handshake failed.
    #[error("TLS with PostgreSQL at {at} failed: check sslrootcert and that the certificate names the host")]
    Tls {
        /// Where.
        at: String,
        /// What failed.
        source: io::Error,
    },
    /// The password cannot be had.
    #[error("the password's source {named} cannot be read: make it readable for the agent alone")]
    Password {
        /// Which file or variable.
        named: String,
        /// What the system said.
        source: io::Error,
    },
    /// A connection that cannot be made with this configuration.
    #[error("{0}")]
    Invalid(String),
    /// Authentication or a privilege is missing.
    #[error(
        "PostgreSQL refuses the role ({sqlstate}: {message}): run the statements of 'holdfast agent sql' \
         and check the password and pg_hba.conf"
    )]
    Denied {
        /// The code.
        sqlstate: String,
        /// The server's words.
        message: String,
    },
    /// The replication slot does not exist.
    #[error("the replication slot is missing ({message}): what was written since it was dropped may be lost")]
    SlotMissing {
        /// The server's words.
        message: String,
    },
    /// The server no longer has the WAL that was asked for.
    #[error("the server has removed WAL that was not yet stored ({message}): take a new base backup")]
    WalRemoved {
        /// The server's words.
        message: String,
    },
    /// The slot is in use by another connection.
    #[error("the replication slot is in use ({message}): is another agent protecting this cluster?")]
    ObjectInUse {
        /// The server's words.
        message: String,
    },
    /// The server sent what PostgreSQL does not send.
    #[error(
        "the server does not speak PostgreSQL's replication protocol as expected: {0}. Check what listens there"
    )]
    Protocol(String),
    /// Any other refusal.
    #[error("PostgreSQL refused {doing} ({sqlstate}: {message})")]
    Server {
        /// What was asked for.
        doing: &'static str,
        /// The code.
        sqlstate: String,
        /// The server's words, with detail and hint.
        message: String,
    },
    /// An error of the SQL session.
    #[error("the SQL session with PostgreSQL failed")]
    Sql(#[from] tokio_postgres::Error),
}

impl PgError {
    /// What the caller should do.
    pub fn class(&self) -> PgErrorClass {
        match self {
            Self::Unreachable { .. } | Self::Silent { .. } | Self::ShuttingDown { .. } => PgErrorClass::Retry,
            Self::ObjectInUse { .. } => PgErrorClass::Busy,
            Self::Denied { .. } => PgErrorClass::Denied,
            Self::SlotMissing { .. } => PgErrorClass::NotFound,
            Self::WalRemoved { .. } => PgErrorClass::Gap,
            Self::Tls { .. } | Self::Password { .. } | Self::Invalid(_) => PgErrorClass::Invalid,
            Self::Protocol(_) => PgErrorClass::Protocol,
            Self::Server { sqlstate, .. } => class_of(sqlstate),
            Self::Sql(error) => match error.code() {
                Some(code) => class_of(code.code()),
                None => PgErrorClass::Retry,
            },
        }
    }

    pub(super) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol(what.into())
    }
}

/// The class of an SQLSTATE (PostgreSQL's appendix of error codes).
fn class_of(sqlstate: &str) -> PgErrorClass {
    match sqlstate {
        // Shutdown, crash of a backend, starting up; too many connections; out
        // of memory; query cancelled by a timeout.
        "57P01" | "57P02" | "57P03" | "57P05" | "53300" | "53200" | "57014" => PgErrorClass::Retry,
        "42501" => PgErrorClass::Denied,
        "55006" => PgErrorClass::Busy,
        "42704" | "3D000" => PgErrorClass::NotFound,
        code if code.starts_with("28") => PgErrorClass::Denied,
        code if code.starts_with("08") => PgErrorClass::Retry,
        _ => PgErrorClass::Server,
    }
}

/// The fields of an ErrorResponse that matter here.
#[derive(Debug, Clone)]
pub(super) struct ServerError {
    pub sqlstate: String,
    pub message: String,
}

impl ServerError {
    pub fn read(body: &ErrorResponseBody) -> Self {
        let (mut sqlstate, mut message) = (String::new(), String::new());
        let (mut detail, mut hint) = (String::new(), String::new());
        let mut fields = body.fields();
        while let Ok(Some(field)) = fields.next() {
            let into = match field.type_() {
                b'C' => &mut sqlstate,
                b'M' => &mut message,
                b'D' => &mut detail,
                b'H' => &mut hint,
                _ => continue,
            };
            *into = String::from_utf8_lossy(field.value_bytes()).into_owned();
        }
        for more in [detail, hint] {
            if !more.is_empty() {
                message.push_str("; ");
                message.push_str(&more);
            }
        }
        Self { sqlstate, message }
    }

    /// The error of a command other than START_REPLICATION.
    pub fn while_doing(self, doing: &'static str) -> PgError {
        let Self { sqlstate, message } = self;
        match class_of(&sqlstate) {
            PgErrorClass::Retry if sqlstate.starts_with("57P") => PgError::ShuttingDown { message },
            PgErrorClass::Denied => PgError::Denied { sqlstate, message },
            PgErrorClass::Busy => PgError::ObjectInUse { message },
            _ => PgError::Server {
                doing,
                sqlstate,
                message,
            },
        }
    }

    /// The error of a WAL stream, where "no such file" and "no such object" mean
    /// a WAL segment and a slot.
    pub fn while_streaming(self) -> PgError {
        match self.sqlstate.as_str() {
            "58P01" => PgError::WalRemoved {
                message: self.message,
            },
            "42704" => PgError::SlotMissing {
                message: self.message,
            },
            // "cannot read from physical replication slot": invalidated by
            // max_slot_wal_keep_size, so its WAL is gone.
            "55000" if !self.message.contains("logical") => PgError::WalRemoved {
                message: self.message,
            },
            _ => self.while_doing("to stream WAL"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_a_class() {
        let error = |code: &str, message: &str| ServerError {
            sqlstate: code.into(),
            message: message.into(),
        };
        for (code, class) in [
            ("57P01", PgErrorClass::Retry),
            ("57P03", PgErrorClass::Retry),
            ("53300", PgErrorClass::Retry),
            ("28P01", PgErrorClass::Denied),
            ("28000", PgErrorClass::Denied),
            ("42501", PgErrorClass::Denied),
            ("55006", PgErrorClass::Busy),
            ("58P01", PgErrorClass::Gap),
            ("42704", PgErrorClass::NotFound),
            ("55000", PgErrorClass::Gap),
            ("XX000", PgErrorClass::Server),
        ] {
            assert_eq!(error(code, "").while_streaming().class(), class, "{code}");
        }
        assert_eq!(error("58P01", "").while_doing("x").class(), PgErrorClass::Server);
        let logical = error(
            "55000",
            "cannot use a logical replication slot for physical replication",
        );
        assert_eq!(logical.while_streaming().class(), PgErrorClass::Server);
    }
}
