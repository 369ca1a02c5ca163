//! TLS of both listeners: our certificates, and which agents may show theirs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::served::Served;

/// TLS that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be used.
    #[error("{} cannot be used: {why}; `holdfast keys generate` makes such files", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        why: String,
    },
    /// The parts do not fit together.
    #[error("certificate and key do not fit together: {0}")]
    Setup(String),
}

pub(super) fn bad(file: &Path, why: impl ToString) -> TlsError {
    TlsError::File {
        file: file.to_owned(),
        why: why.to_string(),
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file)
        .map_err(|e| bad(file, e))?
        .collect();
    let read = read.map_err(|e| bad(file, e))?;
    if read.is_empty() {
        Err(bad(file, "it holds no certificate"))
    } else {
        Ok(read)
    }
}

/// A server that only talks to clients whose certificate comes from one of the
/// authorities in the file `client_ca`. With `issuer`, the certificate (PEM) of our own authority
/// over agents, also to those whose comes from that one, and to clients without any: who is
/// among them must be told apart.
///
/// # Errors
/// An authority cannot be used.
pub fn for_agents(
    served: Arc<Served>,
    client_ca: &Path,
    issuer: Option<&str>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let setup = |e: &dyn std::fmt::Display| TlsError::Setup(e.to_string());
    let mut roots = RootCertStore::empty();
    for authority in certificates(client_ca)? {
        roots.add(authority).map_err(|e| bad(client_ca, e))?;
    }
    if let Some(issuer) = issuer {
        let issuer = CertificateDer::from_pem_slice(issuer.as_bytes()).map_err(|e| setup(&e))?;
        roots.add(issuer).map_err(|e| setup(&e))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    if issuer.is_some() {
        verifier = verifier.allow_unauthenticated();
    }
    let verifier = verifier.build().map_err(|e| bad(client_ca, e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| setup(&e))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(served);
    // A session that is taken up again carries the certificate that was checked at its
    // begin, which may have ended since.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(speaking(config))
}

/// A server for people and programs, by TLS 1.2 and 1.3.
///
/// # Errors
/// The library has none of the two.
pub fn for_people(served: Arc<Served>) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsError::Setup(e.to_string()))?
        .with_no_client_auth()
        .with_cert_resolver(served);
    Ok(speaking(config))
}

fn speaking(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}
