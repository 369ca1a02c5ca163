//! The accept loop: connections in, requests out, bounded on every side.
//!
//! A client that connects and says nothing holds one of a bounded number of
//! places for a bounded time and nothing else: handshakes run beside each other,
//! each with a deadline. On the stop no new connection is taken, requests under
//! way get a few seconds.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::guard::Client;
use crate::pki::{self, AgentIdentity};

/// Connections at once: an agent keeps the one that it has.
const CONNECTIONS: usize = 16_384;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may say nothing between requests, and within a request's head.
/// Longer than the longest pause between heartbeats.
const HEADERS: Duration = Duration::from_secs(30);
/// The largest request head of an agent.
const HEAD: usize = 16 << 10;
/// Of people and programs, whose tokens and cookies are longer.
const PEOPLES_HEAD: usize = 64 << 10;
const DRAIN: Duration = Duration::from_secs(5);
/// Connections at once of clients without a certificate, where agents are let in.
const STRANGERS: usize = 64;
/// How long such a client may take for all that it wants.
const STRANGER: Duration = Duration::from_secs(30);

/// Raises the limit of open files as far as this process may: every connection is one.
pub fn allow_connections() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(err) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%err, "the limit of open files could not be raised");
    }
    let wanted = CONNECTIONS as u64 + 256;
    if let Some(most) = limit.maximum.filter(|most| *most < wanted) {
        tracing::info!(most, wanted, "fewer connections than could be served may be open");
    }
}

/// The agent at the other end of a connection, from its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer(pub AgentIdentity);

/// Who is let in, and how.
#[derive(Clone)]
pub enum Door {
    /// Whoever connects, in plain HTTP.
    Open,
    /// Whoever connects, over TLS.
    Tls(TlsAcceptor),
    /// Agents, by their certificates.
    Agents {
        /// Checks them.
        tls: TlsAcceptor,
        /// What those without a certificate may ask, where `tls` lets them in.
        strangers: Option<Router>,
    },
}

/// Where a connection comes from.
#[derive(Clone)]
struct From {
    client: Client,
    peer: Option<Peer>,
}

/// Serves `router` on `listener` to those whom the door lets in until told to stop. Where
/// they are agents every request carries its [`Peer`]; each carries its [`Client`].
pub async fn serve(
    listener: Arc<TcpListener>,
    door: Door,
    router: Router,
    stop: CancellationToken,
) -> Result<(), String> {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let strangers_places = Arc::new(Semaphore::new(STRANGERS));
    let graceful = GracefulShutdown::new();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_headers(64)
        .max_buf_size(if matches!(door, Door::Agents { .. }) {
            HEAD
        } else {
            PEOPLES_HEAD
        });
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(64)
        .max_header_list_size(16 << 10)
        .keep_alive_interval(Some(Duration::from_secs(20)));
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place.map_err(|e| e.to_string())?,
        };
        let (tcp, address) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(err) => {
                    // Out of descriptors, most likely: others must end first.
                    tracing::warn!(%err, "a connection could not be accepted");
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(Duration::from_millis(100)) => {}
                    }
                    continue;
                }
            },
        };
        let (door, router, builder, watcher) =
            (door.clone(), router.clone(), builder.clone(), graceful.watcher());
        let strangers_places = Arc::clone(&strangers_places);
        tokio::spawn(async move {
            let _place = place;
            let from = From {
                client: Client(address),
                peer: None,
            };
            let ended = match door {
                Door::Open => connection(tcp, router, from, &builder, watcher).await,
                Door::Tls(tls) => match shaken(&tls, tcp).await {
                    Err(refused) => Err(refused),
                    Ok(stream) => connection(stream, router, from, &builder, watcher).await,
                },
                Door::Agents { tls, strangers } => match shaken(&tls, tcp).await {
                    Err(refused) => Err(refused),
                    Ok(stream) => {
                        let certificates = stream.get_ref().1.peer_certificates();
                        let certificate = certificates.and_then(|all| all.first());
                        match (certificate.map(pki::agent_of), strangers) {
                            (Some(Some(agent)), _) => {
                                let from = From {
                                    peer: Some(Peer(agent)),
                                    ..from
                                };
                                connection(stream, router, from, &builder, watcher).await
                            }
                            (Some(None), _) => Err("the certificate names no agent".to_owned()),
                            (None, None) => Err("there is no certificate".to_owned()),
                            (None, Some(strangers)) => match strangers_places.try_acquire() {
                                Err(_) => Err("too many come without a certificate".to_owned()),
                                Ok(_place) => {
                                    let served = connection(stream, strangers, from, &builder, watcher);
                                    let served = tokio::time::timeout(STRANGER, served).await;
                                    served.unwrap_or_else(|_| Err("it took too long".to_owned()))
                                }
                            },
                        }
                    }
                },
            };
            if let Err(err) = ended {
                tracing::debug!(%address, err, "a connection ended");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::debug!("connections were cut off at the end");
    }
    Ok(())
}

async fn shaken(tls: &TlsAcceptor, tcp: TcpStream) -> Result<TlsStream<TcpStream>, String> {
    match tokio::time::timeout(HANDSHAKE, tls.accept(tcp)).await {
        Err(_) => Err("the handshake took too long".to_owned()),
        Ok(Err(refused)) => Err(refused.to_string()),
        Ok(Ok(stream)) => Ok(stream),
    }
}

async fn connection<S>(
    stream: S,
    router: Router,
    from: From,
    builder: &auto::Builder<TokioExecutor>,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = router.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(from.client);
        if let Some(peer) = &from.peer {
            request.extensions_mut().insert(peer.clone());
        }
        request.map(Body::new)
    });
    let service = TowerToHyperService::new(service.map_err(|never: Infallible| match never {}));
    let serving = builder
        .serve_connection(TokioIo::new(stream), service)
        .into_owned();
    watcher.watch(serving).await.map_err(|e| e.to_string())
}
