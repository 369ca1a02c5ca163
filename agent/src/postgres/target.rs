//! Where a PostgreSQL is and as whom to connect.
//!
//! Written as libpq does (`host=/run/postgresql user=holdfast`), with fewer keys
//! and stricter meanings: TLS is always verified, a TCP connection to another
//! machine says whether it wants TLS, and a password never stands in the text.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use zeroize::Zeroizing;

use super::PgError;

/// A secret text: wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(redacted)")
    }
}

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PgHost {
    /// The directory of its unix socket.
    Socket(PathBuf),
    /// A host name or address.
    Tcp(String),
}

/// Whether the connection is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsMode {
    /// It is not.
    Disable,
    /// It is, and the server's certificate is issued by one of these authorities
    /// for the host that is connected to.
    Require {
        /// The authorities' certificates (PEM).
        ca: PathBuf,
    },
}

/// Where the password comes from. Files and variables are read at each
/// connection, so a changed password needs no restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Password {
    /// There is none.
    None,
    /// Given by the program.
    Given(Secret),
    /// The first line of a file.
    File(PathBuf),
    /// A file in libpq's `.pgpass` format.
    PassFile(PathBuf),
    /// An environment variable.
    Environment(String),
}

/// Where a PostgreSQL is and as whom to connect; `Display` is the text form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgTarget {
    /// Where it listens.
    pub host: PgHost,
    /// Its port; on a socket the number in the socket's name.
    pub port: u16,
    /// The role.
    pub user: String,
    /// The database of SQL sessions.
    pub dbname: String,
    /// Where the role's password comes from.
    pub password: Password,
    /// Whether the connection is encrypted.
    pub tls: TlsMode,
    /// How the session names itself; also the name in
    /// `synchronous_standby_names`.
    pub application_name: String,
    /// How long a connection may take to come up.
    pub connect_timeout: Duration,
}

/// A text that does not say where to connect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadTarget(String);

/// The name of a replication slot: `a-z`, `0-9` and `_`, at most 63 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SlotName(String);

impl SlotName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SlotName {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        let right = (1..=63).contains(&text.len())
            && text
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        if right {
            return Ok(Self(text.to_owned()));
        }
        Err(BadTarget(format!(
            "{text:?} cannot be a slot's name: use a-z, 0-9 and _, at most 63 characters"
        )))
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const KEYS: &str = "host, port, user, dbname, passfile, password_file, password_env, sslmode, sslrootcert, \
                    application_name, connect_timeout";

impl FromStr for PgTarget {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Err(BadTarget(
                "write the connection as key=value pairs, not as a URL".into(),
            ));
        }
        let mut host = None;
        let mut port = 5432;
        let mut user = None;
        let mut dbname = None;
        let mut password = Password::None;
        let mut sslmode = None;
        let mut ca: Option<PathBuf> = None;
        let mut application_name = "holdfast".to_owned();
        let mut connect_timeout = Duration::from_secs(10);
        for (key, value) in pairs(text)? {
            let number = || {
                value
                    .parse::<u16>()
                    .ok()
                    .filter(|n| *n > 0)
                    .ok_or_else(|| BadTarget(format!("{key}={value} is not a number from 1 to 65535")))
            };
            match key.as_str() {
                "host" => host = Some(value),
                "port" => port = number()?,
                "user" => user = Some(value),
                "dbname" => dbname = Some(value),
                "passfile" => password = Password::PassFile(value.into()),
                "password_file" => password = Password::File(value.into()),
                "password_env" => password = Password::Environment(value),
                "password" => {
                    return Err(BadTarget(
                        "a password never stands in the configuration: write it to a file and name that in \
                         password_file"
                            .into(),
                    ));
                }
                "sslmode" => sslmode = Some(value),
                "sslrootcert" => ca = Some(value.into()),
                "application_name" => application_name = value,
                "connect_timeout" => connect_timeout = Duration::from_secs(number()?.into()),
                _ => return Err(BadTarget(format!("{key:?} is not known here: use {KEYS}"))),
            }
        }
        let host = match host {
            Some(dir) if dir.starts_with('/') => PgHost::Socket(dir.into()),
            Some(name) if name.contains(',') => {
                return Err(BadTarget(format!(
                    "host={name}: name one host, an agent protects one server"
                )));
            }
            Some(name) if !name.is_empty() => PgHost::Tcp(name),
            _ => {
                return Err(BadTarget(
                    "host is missing: name the socket's directory or a host".into(),
                ));
            }
        };
        let user =
            user.ok_or_else(|| BadTarget("user is missing: name the role made for holdfast".into()))?;
        let tls = tls_mode(&host, sslmode.as_deref(), ca)?;
        let dbname = dbname.unwrap_or_else(|| "postgres".to_owned());
        Ok(Self {
            host,
            port,
            user,
            dbname,
            password,
            tls,
            application_name,
            connect_timeout,
        })
    }
}

fn tls_mode(host: &PgHost, sslmode: Option<&str>, ca: Option<PathBuf>) -> Result<TlsMode, BadTarget> {
    let name = match host {
        PgHost::Socket(_) => None,
        PgHost::Tcp(name) => Some(name.as_str()),
    };
    match (sslmode, ca) {
        (Some("disable"), _) => Ok(TlsMode::Disable),
        (Some("require" | "verify-ca" | "verify-full"), _) | (None, Some(_)) if name.is_none() => {
            Err(BadTarget("a unix socket has no TLS: remove sslmode and sslrootcert".into()))
        }
        (Some("require" | "verify-ca" | "verify-full") | None, Some(ca)) => Ok(TlsMode::Require { ca }),
        (Some("require" | "verify-ca" | "verify-full"), None) => {
            Err(BadTarget("sslrootcert is missing: name the file of the authority's certificate".into()))
        }
        (Some(other), _) => Err(BadTarget(format!(
            "sslmode={other} may silently go without TLS: write verify-full or disable"
        ))),
        (None, None) if matches!(name, None | Some("localhost" | "127.0.0.1" | "::1")) => Ok(TlsMode::Disable),
        (None, None) => Err(BadTarget(
            "sslmode is missing for a server on another machine: write sslmode=verify-full sslrootcert=FILE, \
             or sslmode=disable"
                .into(),
        )),
    }
}

/// libpq's `key = value` pairs, with `'` quotes and `\` escapes.
fn pairs(text: &str) -> Result<Vec<(String, String)>, BadTarget> {
    let mut pairs = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next() != Some('=') {
            return Err(BadTarget(format!(
                "{key:?} is not followed by '=': write key=value pairs"
            )));
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.next() {
                Some('\'') if quoted => break,
                Some('\\') => value.extend(chars.next()),
                Some(c) if !quoted && c.is_whitespace() => break,
                Some(c) => value.push(c),
                None if quoted => return Err(BadTarget(format!("the quote of {key} does not end"))),
                None => break,
            }
        }
        pairs.push((key, value));
    }
}

impl fmt::Display for PgTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |value: &str| {
            if value.is_empty() || value.contains(|c: char| c.is_whitespace() || c == '\'' || c == '\\') {
                format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
            } else {
                value.to_owned()
            }
        };
        let path = |path: &Path| quoted(&path.to_string_lossy());
        match &self.host {
            PgHost::Socket(dir) => write!(f, "host={}", path(dir))?,
            PgHost::Tcp(name) => write!(f, "host={}", quoted(name))?,
        }
        write!(
            f,
            " port={} user={} dbname={}",
            self.port,
            quoted(&self.user),
            quoted(&self.dbname)
        )?;
        match &self.password {
            Password::None | Password::Given(_) => {}
            Password::File(file) => write!(f, " password_file={}", path(file))?,
            Password::PassFile(file) => write!(f, " passfile={}", path(file))?,
            Password::Environment(name) => write!(f, " password_env={}", quoted(name))?,
        }
        match &self.tls {
            TlsMode::Disable => f.write_str(" sslmode=disable")?,
            TlsMode::Require { ca } => write!(f, " sslmode=verify-full sslrootcert={}", path(ca))?,
        }
        let seconds = self.connect_timeout.as_secs();
        write!(
            f,
            " application_name={} connect_timeout={seconds}",
            quoted(&self.application_name)
        )
    }
}

impl PgTarget {
    /// The same server, with this password.
    #[must_use]
    pub fn with_password(mut self, password: Password) -> Self {
        self.password = password;
        self
    }

    /// The same server, in another database.
    #[must_use]
    pub fn in_database(mut self, dbname: impl Into<String>) -> Self {
        self.dbname = dbname.into();
        self
    }

    /// Where it is, for messages.
    pub fn place(&self) -> String {
        match &self.host {
            PgHost::Socket(dir) => self.socket_file(dir).display().to_string(),
            PgHost::Tcp(name) => format!("{name}:{}", self.port),
        }
    }

    pub(super) fn socket_file(&self, dir: &Path) -> PathBuf {
        dir.join(format!(".s.PGSQL.{}", self.port))
    }

    /// Reads the password, if there is one, for `database` (which matters to a
    /// `.pgpass` file alone).
    pub(super) fn read_password(&self, database: &str) -> Result<Option<Secret>, PgError> {
        let file = |path: &Path| {
            std::fs::read_to_string(path)
                .map(Zeroizing::new)
                .map_err(|source| PgError::Password {
                    named: path.display().to_string(),
                    source,
                })
        };
        match &self.password {
            Password::None => Ok(None),
            Password::Given(secret) => Ok(Some(secret.clone())),
            Password::File(path) => Ok(Some(Secret::new(
                file(path)?.lines().next().unwrap_or_default().to_owned(),
            ))),
            Password::PassFile(path) => Ok(self.find_in_passfile(&file(path)?, database)),
            Password::Environment(name) => match std::env::var(name) {
                Ok(value) => Ok(Some(Secret::new(value))),
                Err(error) => Err(PgError::Password {
                    named: name.clone(),
                    source: io::Error::other(error.to_string()),
                }),
            },
        }
    }

    /// The first line whose host, port, database and role match
    /// (`src/interfaces/libpq/fe-connect.c`, `passwordFromFile`).
    fn find_in_passfile(&self, text: &str, database: &str) -> Option<Secret> {
        let host = match &self.host {
            PgHost::Socket(_) => "localhost".to_owned(),
            PgHost::Tcp(name) => name.clone(),
        };
        let wanted = [
            host,
            self.port.to_string(),
            database.to_owned(),
            self.user.clone(),
        ];
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .find_map(|line| {
                let fields = passfile_fields(line);
                let (password, rest) = fields.split_last()?;
                let matches = rest.len() == 4
                    && rest
                        .iter()
                        .zip(&wanted)
                        .all(|(have, want)| have == "*" || have == want);
                matches.then(|| Secret::new(password.clone()))
            })
    }
}

fn passfile_fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let last = fields.len() - 1;
        match c {
            ':' if last < 4 => fields.push(String::new()),
            '\\' => fields[last].extend(chars.next()),
            c => fields[last].push(c),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_an_operator_writes() {
        let target: PgTarget = "host=/run/postgresql user=holdfast".parse().unwrap();
        assert_eq!(target.host, PgHost::Socket("/run/postgresql".into()));
        assert_eq!((target.port, target.dbname.as_str()), (5432, "postgres"));
        assert_eq!(target.place(), "/run/postgresql/.s.PGSQL.5432");

        let text = "host=db1 port = 5433 user='o\\'neil' dbname=erp sslmode=verify-full \
                    sslrootcert='/etc/a b.crt' password_file=/etc/pw application_name=x connect_timeout=3";
        let target: PgTarget = text.parse().unwrap();
        assert_eq!(target.user, "o'neil");
        assert_eq!(
            target.tls,
            TlsMode::Require {
                ca: "/etc/a b.crt".into()
            }
        );
        assert_eq!(target.password, Password::File("/etc/pw".into()));
        assert_eq!(target.to_string().parse::<PgTarget>().unwrap(), target);
    }

    #[test]
    fn refuses_what_is_unsafe_or_unclear() {
        for (text, says) in [
            ("user=x", "host is missing"),
            ("host=/s", "user is missing"),
            ("host=a,b user=x", "one host"),
            ("host=db1 user=x", "sslmode is missing"),
            ("host=db1 user=x sslmode=prefer", "silently go without"),
            ("host=db1 user=x sslmode=require", "sslrootcert is missing"),
            ("host=/s user=x sslmode=require", "no TLS"),
            ("host=/s user=x password=secret", "password_file"),
            ("host=/s user=x port=0", "1 to 65535"),
            ("host=/s user=x colour=red", "\"colour\" is not known"),
            ("host=/s user", "not followed by '='"),
            ("host='/s user=x", "does not end"),
            ("postgres://x@y/z", "not as a URL"),
        ] {
            let error = text.parse::<PgTarget>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
            assert!(!error.contains("secret"));
        }
        assert!("Slot".parse::<SlotName>().is_err());
        assert!("".parse::<SlotName>().is_err());
        assert!("hf_1".parse::<SlotName>().is_ok());
    }

    #[test]
    fn a_password_is_found_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pass");
        std::fs::write(
            &file,
            "# comment\nother:*:*:*:no\ndb1:5432:erp:x:no\ndb1:*:*:x:a\\:b:c\n",
        )
        .unwrap();
        let target: PgTarget = format!("host=db1 user=x sslmode=disable passfile={}", file.display())
            .parse()
            .unwrap();
        let read = |database: &str| target.read_password(database).unwrap();
        assert_eq!(read("replication"), Some(Secret::new("a:b:c")));
        assert_eq!(read("erp"), Some(Secret::new("no")));

        std::fs::write(&file, "first\nsecond\n").unwrap();
        let target = target.with_password(Password::File(file));
        assert_eq!(target.read_password("x").unwrap(), Some(Secret::new("first")));
        let given = target.with_password(Password::Given(Secret::new("hidden")));
        assert!(!format!("{given:?} {given}").contains("hidden"));
        let missing = given.with_password(Password::Environment("HOLDFAST_NO_SUCH_VARIABLE".into()));
        assert!(matches!(
            missing.read_password("x"),
            Err(PgError::Password { .. })
        ));
    }
}
