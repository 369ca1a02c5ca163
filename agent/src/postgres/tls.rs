//! TLS to PostgreSQL, with rustls, for both kinds of connection.
//!
//! The server's certificate is always verified against the authority and the
//! host that the target names. For SCRAM's channel binding the certificate's
//! digest is made as RFC 5929 says (`tls-server-end-point`).

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use aws_lc_rs::digest::{self, SHA256, SHA384, SHA512};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

/// A client's TLS settings with `ca` as the only authorities.
pub(super) fn client_config(ca: &Path) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(ca).map_err(io::Error::other)?;
    for certificate in certificates {
        roots
            .add(certificate.map_err(io::Error::other)?)
            .map_err(io::Error::other)?;
    }
    if roots.is_empty() {
        return Err(io::Error::other(format!("{} holds no certificate", ca.display())));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The name that the server's certificate must carry.
pub(super) fn server_name(host: &str) -> io::Result<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).map_err(io::Error::other)
}

/// The digest of the server's certificate for channel binding: by the hash of
/// its signature, SHA-256 in place of weaker ones. `None` where the RFC leaves
/// it undefined.
pub(super) fn end_point<S>(stream: &tokio_rustls::client::TlsStream<S>) -> Option<Vec<u8>> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    let algorithm = match signature_oid(certificate)? {
        // ecdsa-with-SHA384, sha384WithRSAEncryption
        [0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 3] | [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 12] => &SHA384,
        // ecdsa-with-SHA512, sha512WithRSAEncryption
        [0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 4] | [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 13] => &SHA512,
        // ecdsa-with-SHA256; RSA with MD5, SHA-1 or SHA-256
        [0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 2] | [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 4 | 5 | 11] => {
            &SHA256
        }
        _ => return None,
    };
    Some(digest::digest(algorithm, certificate).as_ref().to_vec())
}

/// The object identifier of a certificate's signature algorithm: certificate,
/// past the part that is signed, algorithm, identifier.
fn signature_oid(certificate: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    const IDENTIFIER: u8 = 0x06;
    let (body, _) = element(certificate, SEQUENCE)?;
    let (_, rest) = element(body, SEQUENCE)?;
    let (algorithm, _) = element(rest, SEQUENCE)?;
    Some(element(algorithm, IDENTIFIER)?.0)
}

/// The content of the DER element at the front, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let (digits, after) = rest.split_at_checked(usize::from(first & 0x7F))?;
        length = digits.iter().try_fold(0usize, |n, digit| {
            n.checked_mul(256).map(|n| n | usize::from(*digit))
        })?;
        rest = after;
    }
    (found == tag).then(|| rest.split_at_checked(length)).flatten()
}

/// Gives tokio-postgres its TLS.
#[derive(Clone)]
pub(super) struct RustlsConnect(pub Arc<ClientConfig>);

pub(super) struct RustlsHandshake(tokio_rustls::TlsConnector, ServerName<'static>);

pub(super) struct SqlTlsStream<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for RustlsConnect {
    type Stream = SqlTlsStream<S>;
    type TlsConnect = RustlsHandshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<RustlsHandshake> {
        Ok(RustlsHandshake(Arc::clone(&self.0).into(), server_name(host)?))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for RustlsHandshake {
    type Stream = SqlTlsStream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<SqlTlsStream<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move { self.0.connect(self.1, stream).await.map(SqlTlsStream) })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for SqlTlsStream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        end_point(&self.0).map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for SqlTlsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for SqlTlsStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_to_the_signature_algorithm() {
        let certificate = [
            0x30, 0x81, 0x10, // certificate, long form of length
            0x30, 0x02, 0x01, 0xFF, // what is signed
            0x30, 0x0A, 0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 3,
        ];
        assert_eq!(
            signature_oid(&certificate),
            Some(&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 3][..])
        );
        for cut in 0..certificate.len() {
            assert_eq!(signature_oid(&certificate[..cut]), None);
        }
        assert_eq!(element(&[0x30, 0xFF], 0x30), None);
    }
}
