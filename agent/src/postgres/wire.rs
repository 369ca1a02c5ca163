//! One connection of the frontend/backend protocol: bytes, TLS, authentication,
//! whole messages.
//!
//! Messages are parsed by `postgres-protocol`, except CopyBothResponse, which it
//! does not know and which is recognised here by its tag. Reading and writing
//! keep their progress in the connection's own buffers, so a dropped future
//! loses nothing.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::{backend, frontend};
use sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::error::{PgError, ServerError};
use super::target::{PgHost, PgTarget, Secret, TlsMode};
use super::tls;

/// The longest message before the server has proven who it is.
const CAP_UNTRUSTED: usize = 64 << 10;

/// The longest answer to a command: a history file with its thousands of lines
/// fits many times.
const CAP_COMMAND: usize = 16 << 20;

/// The longest message of a WAL stream: the server sends at most 128 KiB.
const CAP_STREAM: usize = 1 << 20;

/// Room that is made for the next reads, once less than [`LEAST_ROOM`] is left.
/// What is handed out shares it: whoever keeps a byte keeps at most so much more.
const READ_SIZE: usize = 256 << 10;

const LEAST_ROOM: usize = 16 << 10;

const COPY_BOTH_RESPONSE: u8 = b'W';

/// A message of the server.
pub(super) enum Message {
    CopyBoth,
    Other(backend::Message),
}

enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// A connection that is past authentication.
pub(super) struct Wire {
    socket: Socket,
    incoming: BytesMut,
    outgoing: BytesMut,
    cap: usize,
    at: String,
    parameters: Vec<(String, String)>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

/// Gives up `work` after `limit`.
pub(super) async fn within<T>(
    at: &str,
    limit: Duration,
    doing: &'static str,
    work: impl Future<Output = Result<T, PgError>>,
) -> Result<T, PgError> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(PgError::Silent {
            at: at.to_owned(),
            doing,
            seconds: limit.as_secs(),
        })
    })
}

impl Wire {
    /// Connects for physical replication.
    pub async fn connect(target: &PgTarget) -> Result<Self, PgError> {
        let at = target.place();
        within(
            &at,
            target.connect_timeout,
            "connecting",
            Self::open(target, at.clone()),
        )
        .await
    }

    async fn open(target: &PgTarget, at: String) -> Result<Self, PgError> {
        let password = target.read_password("replication")?;
        let (socket, binding) = open_socket(target, &at).await?;
        let private = !matches!(socket, Socket::Tcp(_));
        let mut wire = Self {
            socket,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            cap: CAP_UNTRUSTED,
            at,
            parameters: Vec::new(),
        };
        let parameters = [
            ("user", target.user.as_str()),
            ("replication", "true"),
            ("application_name", target.application_name.as_str()),
            ("client_encoding", "UTF8"),
        ];
        frontend::startup_message(parameters, &mut wire.outgoing).map_err(invalid)?;
        wire.flush().await?;
        wire.authenticate(&target.user, password.as_ref(), binding, private)
            .await?;
        wire.cap = CAP_COMMAND;
        wire.until_ready().await?;
        Ok(wire)
    }

    async fn authenticate(
        &mut self,
        user: &str,
        password: Option<&Secret>,
        binding: Option<Vec<u8>>,
        private: bool,
    ) -> Result<(), PgError> {
        let needed = || {
            password.ok_or_else(|| PgError::Denied {
                sqlstate: "28P01".into(),
                message: format!("the server asks for the password of role {user:?}, and none is configured"),
            })
        };
        loop {
            match self.receive().await? {
                Message::Other(backend::Message::AuthenticationOk) => return Ok(()),
                Message::Other(backend::Message::AuthenticationSasl(body)) => {
                    let offered: Vec<String> = body
                        .mechanisms()
                        .map(|m| Ok(m.to_owned()))
                        .collect()
                        .map_err(malformed)?;
                    return self.scram(&offered, needed()?, binding).await;
                }
                Message::Other(backend::Message::AuthenticationCleartextPassword) if private => {
                    frontend::password_message(needed()?.expose().as_bytes(), &mut self.outgoing)
                        .map_err(invalid)?;
                }
                Message::Other(backend::Message::AuthenticationMd5Password(body)) if private => {
                    let hash = md5_hash(user.as_bytes(), needed()?.expose().as_bytes(), body.salt());
                    frontend::password_message(hash.as_bytes(), &mut self.outgoing).map_err(invalid)?;
                }
                Message::Other(
                    backend::Message::AuthenticationCleartextPassword
                    | backend::Message::AuthenticationMd5Password(_),
                ) => {
                    return Err(PgError::Invalid(format!(
                        "PostgreSQL at {} asks for a password in a form that others on the network can use: \
                         set scram-sha-256 in pg_hba.conf or use TLS",
                        self.at
                    )));
                }
                Message::Other(backend::Message::ErrorResponse(body)) => {
                    return Err(ServerError::read(&body).while_doing("the connection"));
                }
                Message::Other(backend::Message::NoticeResponse(_)) => {}
                _ => {
                    return Err(PgError::Invalid(format!(
                        "PostgreSQL at {} asks for a kind of authentication that is not supported: \
                         use scram-sha-256, or peer on the unix socket, in pg_hba.conf",
                        self.at
                    )));
                }
            }
            self.flush().await?;
        }
    }

    /// SCRAM-SHA-256, bound to the TLS channel where both sides can. Ends only
    /// after the server has proven that it knows the password too.
    async fn scram(
        &mut self,
        offered: &[String],
        password: &Secret,
        binding: Option<Vec<u8>>,
    ) -> Result<(), PgError> {
        let offers = |name: &str| offered.iter().any(|o| o == name);
        let (mechanism, binding) = match binding {
            Some(digest) if offers(SCRAM_SHA_256_PLUS) => {
                (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(digest))
            }
            // Says that we could have: a server that could too then notices that
            // someone in between took its offer away.
            Some(_) if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            None if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unsupported()),
            _ => return Err(PgError::protocol(format!("unknown SASL mechanisms {offered:?}"))),
        };
        let mut scram = ScramSha256::new(password.expose().as_bytes(), binding);
        frontend::sasl_initial_response(mechanism, scram.message(), &mut self.outgoing).map_err(invalid)?;
        self.flush().await?;
        let mut proven = false;
        loop {
            match self.receive().await? {
                Message::Other(backend::Message::AuthenticationSaslContinue(body)) if !proven => {
                    scram.update(body.data()).map_err(malformed)?;
                    frontend::sasl_response(scram.message(), &mut self.outgoing).map_err(invalid)?;
                    self.flush().await?;
                }
                Message::Other(backend::Message::AuthenticationSaslFinal(body)) if !proven => {
                    scram.finish(body.data()).map_err(malformed)?;
                    proven = true;
                }
                Message::Other(backend::Message::AuthenticationOk) if proven => return Ok(()),
                Message::Other(backend::Message::ErrorResponse(body)) => {
                    return Err(ServerError::read(&body).while_doing("the connection"));
                }
                Message::Other(backend::Message::NoticeResponse(_)) => {}
                _ => return Err(PgError::protocol("the SCRAM exchange was cut short")),
            }
        }
    }

    /// Reads past what follows authentication.
    async fn until_ready(&mut self) -> Result<(), PgError> {
        loop {
            match self.receive().await? {
                Message::Other(backend::Message::ReadyForQuery(_)) => return Ok(()),
                Message::Other(backend::Message::ErrorResponse(body)) => {
                    return Err(ServerError::read(&body).while_doing("the session"));
                }
                Message::Other(backend::Message::BackendKeyData(_) | backend::Message::NoticeResponse(_)) => {
                }
                _ => {
                    return Err(PgError::protocol(
                        "an unexpected message before the session was ready",
                    ));
                }
            }
        }
    }

    /// Where the server is, for messages.
    pub fn at(&self) -> &str {
        &self.at
    }

    /// A parameter that the server reported, for example `server_version`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// From here on WAL flows (or no longer does): sets how long messages may be.
    pub fn set_streaming(&mut self, streaming: bool) {
        self.cap = if streaming { CAP_STREAM } else { CAP_COMMAND };
    }

    /// Where messages to be sent are appended; [`Wire::flush`] sends them.
    pub fn outgoing(&mut self) -> &mut BytesMut {
        &mut self.outgoing
    }

    /// Sends what is pending. What was sent is gone from the buffer even when
    /// the future is dropped halfway.
    pub async fn flush(&mut self) -> Result<(), PgError> {
        while !self.outgoing.is_empty() {
            let sent = self.socket.write_buf(&mut self.outgoing).await;
            if sent.map_err(|source| self.broken(source))? == 0 {
                return Err(self.broken(io::ErrorKind::WriteZero.into()));
            }
        }
        self.socket.flush().await.map_err(|source| self.broken(source))
    }

    /// The next message. Parameter changes are noted on the way.
    pub async fn receive(&mut self) -> Result<Message, PgError> {
        loop {
            while !self.is_whole()? {
                if self.incoming.capacity() - self.incoming.len() < LEAST_ROOM {
                    self.incoming.reserve(READ_SIZE);
                }
                let read = self.socket.read_buf(&mut self.incoming).await;
                if read.map_err(|source| self.broken(source))? == 0 {
                    return Err(self.broken(io::ErrorKind::UnexpectedEof.into()));
                }
            }
            if self.incoming.first() == Some(&COPY_BOTH_RESPONSE) {
                let header = backend::Header::parse(&self.incoming).map_err(malformed)?;
                self.incoming.advance(header.map_or(0, |h| h.len() as usize + 1));
                return Ok(Message::CopyBoth);
            }
            let message = backend::Message::parse(&mut self.incoming)
                .map_err(malformed)?
                .ok_or_else(|| PgError::protocol("a message is shorter than it says"))?;
            if let backend::Message::ParameterStatus(body) = &message {
                let (name, value) = (body.name().map_err(malformed)?, body.value().map_err(malformed)?);
                self.parameters.retain(|(n, _)| n != name);
                self.parameters.push((name.to_owned(), value.to_owned()));
                continue;
            }
            return Ok(Message::Other(message));
        }
    }

    fn is_whole(&self) -> Result<bool, PgError> {
        let Some(header) = backend::Header::parse(&self.incoming).map_err(malformed)? else {
            return Ok(false);
        };
        let length = usize::try_from(header.len()).map_or(usize::MAX, |length| length.saturating_add(1));
        if length > self.cap {
            return Err(PgError::protocol(format!(
                "a message of {length} bytes where at most {} are expected",
                self.cap
            )));
        }
        Ok(self.incoming.len() >= length)
    }

    fn broken(&self, source: io::Error) -> PgError {
        PgError::Unreachable {
            at: self.at.clone(),
            source,
        }
    }
}

pub(super) fn malformed(error: io::Error) -> PgError {
    PgError::protocol(error.to_string())
}

fn invalid(error: io::Error) -> PgError {
    PgError::Invalid(format!(
        "a name or password cannot be sent: {error}. Remove zero bytes from it"
    ))
}

/// Opens the socket, with TLS when the target says so, and returns the digest
/// for channel binding where there is one.
async fn open_socket(target: &PgTarget, at: &str) -> Result<(Socket, Option<Vec<u8>>), PgError> {
    let unreachable = |source| PgError::Unreachable {
        at: at.to_owned(),
        source,
    };
    let host = match &target.host {
        PgHost::Socket(dir) => {
            let stream = UnixStream::connect(target.socket_file(dir))
                .await
                .map_err(unreachable)?;
            return Ok((Socket::Unix(stream), None));
        }
        PgHost::Tcp(host) => host,
    };
    let mut stream = open_tcp(host, target.port).await.map_err(unreachable)?;
    let TlsMode::Require { ca } = &target.tls else {
        return Ok((Socket::Tcp(stream), None));
    };
    let failed = |source| PgError::Tls {
        at: at.to_owned(),
        source,
    };
    let config = tls::client_config(ca).map_err(failed)?;
    let name = tls::server_name(host).map_err(failed)?;

    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(unreachable)?;
    // Exactly one byte: more of it, read before the handshake, would be
    // unencrypted and could come from anyone.
    if stream.read_u8().await.map_err(unreachable)? != b'S' {
        return Err(failed(io::Error::other(
            "the server does not offer TLS: set ssl = on in postgresql.conf",
        )));
    }
    let stream = TlsConnector::from(Arc::clone(&config))
        .connect(name, stream)
        .await
        .map_err(failed)?;
    let digest = tls::end_point(&stream);
    Ok((Socket::Tls(Box::new(stream)), digest))
}

async fn open_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in tokio::net::lookup_host((host, port)).await? {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_keepalive(true)?;
        socket.set_nodelay(true)?;
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
